"""The commands as users run them: in processes of their own, run twice, interrupted and killed."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nextbar.config import WalkForwardConfig
from nextbar.types import Silent
from nextbar.workflows.walkforward import WalkForwardResult, walk_forward

SCRIPTS = Path(__file__).parents[2] / "scripts"
WALK: dict[str, Any] = {
    "model": "xgb",
    "ticker": "AAA,BBB",
    "train_years": 1,
    "val_months": 3,
    "test_months": 2,
    "step_months": 2,
    "warmup": 60,
    "tune": "none",
}


def command(*arguments: Any) -> list[str]:
    return [sys.executable, "-m", "nextbar", *map(str, arguments)]


def finish(arguments: list[str], env: dict[str, str]) -> Any:
    done = subprocess.run(arguments, capture_output=True, text=True, env=env, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def train_db(make_bars, make_database, tmp_path_factory) -> Path:
    """Two short tickers: enough to search, quick to train."""
    bars = {"AAA": make_bars(330, seed=1), "BBB": make_bars(320, seed=2)}
    return make_database(tmp_path_factory.mktemp("e2e") / "m.db", bars)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["rf", "xgb"])
def test_same_command_twice_gives_the_same_bits(kind, train_db, tmp_path, child_env):
    """The same command in two processes gives the same weights and predictions, serial or parallel, in either order."""
    runs = []
    for folder, ticker, engine in (("a", "AAA,BBB", ("serial",)), ("b", "BBB,AAA", ("loky", "--jobs", 2))):
        options = ("--n-iter", 1, "--cv-splits", 2, "--warmup", 60, "--seed", 80, "--save_dir", tmp_path / folder)
        told = finish(
            command("train", kind, "--db", train_db, "--ticker", ticker, *options, "--engine", *engine, "--json"),
            child_env,
        )
        runs.append({run["ticker"]: run["files"] for run in told["runs"]})
    assert list(runs[0]) == list(runs[1]) == ["AAA", "BBB"]
    for ticker in ("AAA", "BBB"):
        one, two = (sorted(run[ticker]) for run in runs)
        facts = [
            json.loads(next(Path(x) for x in files if x.endswith("_metadata.json")).read_text()) for files in (one, two)
        ]
        assert facts[0]["folds"] == facts[1]["folds"]
        assert facts[0]["pooled"] == facts[1]["pooled"]
        for left, right in zip(one, two, strict=True):
            if not left.endswith("_metadata.json"):
                assert Path(left).read_bytes() == Path(right).read_bytes(), left


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("train_random_forest.py", []),
        ("train_xgboost.py", []),
        ("train_lstm.py", ["--epochs", "50", "--batch_size", "32", "--sequence_length", "60"]),
        ("run_walkforward.py", ["--model", "all"]),
    ],
)
def test_scripts_are_the_commands(script, arguments, train_db, monkeypatch, capsys):
    """The specification's scripts take its options and end in the command line's own message and exit code."""
    monkeypatch.setattr(sys, "argv", [script, "--ticker", "AAAA", "--db", str(train_db), *arguments])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(SCRIPTS / script), run_name="__main__")
    assert stopped.value.code == 2
    assert "no bars of AAAA (nearest: AAA)" in capsys.readouterr().err


def config_of(db: Path, folder: Path, **options: Any) -> WalkForwardConfig:
    return WalkForwardConfig(**{**WALK, "db": str(db), "output_dir": str(folder), **options})


def parquet(result: WalkForwardResult) -> bytes:
    return next(path for path in result.files if path.suffix == ".parquet").read_bytes()


def figures(result: WalkForwardResult) -> Any:
    facts = json.loads(next(path for path in result.files if path.suffix == ".json").read_text())
    return {
        name: value
        for name, value in facts.items()
        if name not in ("created", "command", "seconds", "files", "paths", "config")
    }


@pytest.fixture(scope="module")
def serial(market_db, tmp_path_factory) -> WalkForwardResult:
    """A walk-forward in one child process."""
    return walk_forward(config_of(market_db, tmp_path_factory.mktemp("serial"), engine="serial"), Silent())


def test_parallel_is_serial(serial, market_db, tmp_path):
    """Two processes give the parquet of one, byte for byte, and the same figures."""
    parallel = walk_forward(config_of(market_db, tmp_path, engine="loky", jobs=2), Silent())
    assert parquet(parallel) == parquet(serial)
    assert figures(parallel) == figures(serial)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the command ended before it could be interrupted"
        assert time.monotonic() < until, "nothing happened"
        time.sleep(0.02)


def start(arguments: list[str], env: dict[str, str]) -> subprocess.Popen[str]:
    """A command in a process group of its own, that hears Ctrl-C also where a background job runs these tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            arguments, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
    finally:
        signal.signal(signal.SIGINT, before)


def walk_arguments(db: Path, folder: Path) -> list[str]:
    options = [f"--{name.replace('_', '-')}={value}" for name, value in WALK.items()]
    return command("walkforward", "--db", db, "--output-dir", folder, *options, "--jobs", 1)


def finished_folds(folder: Path) -> list[str]:
    """Lines of what a walk-forward keeps until it has ended."""
    return [line for path in folder.glob(".*.partial") for line in path.read_text().splitlines(keepends=True)]


def test_killed_and_resumed(serial, market_db, tmp_path, child_env):
    """Killed with all its workers in the middle, a run resumes without training a finished fold, to the same bytes."""
    process = start(walk_arguments(market_db, tmp_path), child_env)
    wait_for(lambda: len(finished_folds(tmp_path)) >= 3, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert not list(tmp_path.glob("walkforward_*"))
    finished = len(finished_folds(tmp_path))
    assert 3 <= finished < 12
    resumed = walk_forward(config_of(market_db, tmp_path, resume=True, engine="serial"), Silent())
    assert resumed.resumed == finished
    assert parquet(resumed) == parquet(serial)
    assert figures(resumed) == figures(serial)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".parquet"]


@pytest.mark.parametrize(
    ("whom", "number"),
    [
        pytest.param("group", signal.SIGINT, id="group-SIGINT"),
        pytest.param("parent", signal.SIGTERM, id="parent-SIGTERM"),
        pytest.param("group", signal.SIGTERM, id="group-SIGTERM", marks=pytest.mark.thorough),
        pytest.param("parent", signal.SIGINT, id="parent-SIGINT", marks=pytest.mark.thorough),
    ],
)
def test_ctrl_c_in_a_walk_forward(market_db, tmp_path, child_env, whom, number):
    """Ctrl-C, once or again and again, or what Slurm sends: 130 and our lines; folds are whole, no worker is left."""
    process = start(walk_arguments(market_db, tmp_path), child_env)
    wait_for(lambda: len(finished_folds(tmp_path)) >= 1, process)
    (os.killpg if whom == "group" else os.kill)(process.pid, number)
    while whom == "group" and process.poll() is None:
        os.killpg(process.pid, number)
        time.sleep(0.03)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert err.strip().splitlines()[-1] == "nextbar: interrupted; what was finished is kept, nothing is half-written"
    assert "the same command with --resume goes on" in err
    assert not [
        line for line in err.splitlines() if "Traceback" in line or "Exception ignored" in line or "leak" in line
    ]
    assert not list(tmp_path.glob("walkforward_*"))
    left = list(tmp_path.rglob("*.*"))
    assert not [path for path in left if path.name.endswith((".tmp", ".lock")) or "probe" in path.name]
    folds = finished_folds(tmp_path)
    assert folds
    assert all(fold.endswith("\n") for fold in folds)
    assert all(json.loads(fold.partition(" ")[2].rpartition(" ")[0])["rows"]["date"][1] > 0 for fold in folds)
    assert_group_is_gone(process.pid)


def test_ctrl_c_while_training(train_db, tmp_path, child_env):
    """Ctrl-C while a forest is searched ends with 130; no run lacks its metadata, no lock or temporary file is left."""
    arguments = command(
        "train", "rf", "--db", train_db, "--warmup", 60, "--cv-splits", 20, "--save_dir", tmp_path / "out"
    )
    process = start(arguments, child_env)
    wait_for(lambda: bool(list((tmp_path / "out").glob(".*.lock"))), process)
    time.sleep(1.5)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert "interrupted" in err
    assert "Traceback" not in err
    left = [path.name for path in (tmp_path / "out").glob("*")]  # an empty folder is gone, too
    models, facts = ({n.rsplit(end, 1)[0] for n in left if n.endswith(end)} for end in (".pkl", "_metadata.json"))
    assert models == facts
    assert not [name for name in left if name.startswith(".")]
    assert_group_is_gone(process.pid)


def assert_group_is_gone(group: int) -> None:
    """No worker outlives its command."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("processes of the command are still there")
