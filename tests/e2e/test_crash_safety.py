"""Training killed and starved at bad moments: what is listed is whole, and a rerun completes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from nextbar.runs.load import load_run

TESTS = Path(__file__).parents[1]
NEEDS_FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

TRAIN_AND_KILL = """
import os, random, signal, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from conftest import InlineEngine
from nextbar.execution.engine import engines_by
from nextbar.runs.load import load_run
from nextbar.config import TrainConfig
from nextbar.workflows.train import train
from nextbar.types import Silent

InlineEngine.ran = []
folder, moments = Path({folder!r}), random.Random(8)
config = TrainConfig(model="xgb", db={db!r}, save_dir=str(folder), no_tune=True, warmup=60)
with engines_by(InlineEngine):
    count = 0
    for _ in range(6):
        if (child := os.fork()) == 0:
            while True:
                train(config, Silent())
        while len(list(folder.glob("*_metadata.json"))) == count:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 1.2))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        whole = [load_run(path).read_files() for path in folder.glob("*_metadata.json")]
        assert len(whole) > count
        count = len(whole)
    train(config, Silent())
    assert len(list(folder.glob("*_metadata.json"))) == count + 3
print("whole")
"""

WRITE_AND_DIE = """
import os, signal, sys
from pathlib import Path
from nextbar.runs.document import parse_document
from nextbar.runs.siblings import write_run

def die(call, number):
    count = 0
    def dying(*arguments, **options):
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **options)
    return dying

folder, document = Path({folder!r}), parse_document({document!r}, "x.json")
crash = 0
for home, name in ((os, "fsync"), (Path, "replace"), (Path, "unlink")):
    for number in range(1, 5):
        crash += 1
        if (child := os.fork()) == 0:
            setattr(home, name, die(getattr(home, name), number))
            files = {{".json": b"new" * 100_000, ".meta.json": b"x", "_predictions.parquet": b"y"}}
            stem = f"xgboost_A_20240101_{{crash:06d}}"
            write_run(folder, stem, files, document)
            os._exit(0)
        print(os.waitpid(child, 0)[1])
"""


def listed(folder: Path) -> list[str]:
    """Stems of the runs in a folder; every one of them must be whole."""
    runs = [load_run(path) for path in sorted(folder.glob("*_metadata.json"))]
    return [run.stem for run in runs if run.read_files()]


@pytest.fixture(scope="module")
def db(make_bars: Any, make_database: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tickers of 300 bars."""
    return make_database(
        tmp_path_factory.mktemp("crash") / "m.db", {f"T{seed}": make_bars(300, seed=seed) for seed in range(3)}
    )


def members(group: int) -> list[str]:
    """Processes of a group."""
    done = subprocess.run(["pgrep", "-g", str(group)], check=False, capture_output=True, text=True)
    return done.stdout.split()


@pytest.mark.thorough
@NEEDS_FORK
def test_kills_at_random_moments_leave_whole_runs(db: Path, tmp_path: Path) -> None:
    """Training is killed again and again; each time every listed run is whole and none is lost, and a rerun ends."""
    code = TRAIN_AND_KILL.format(tests=str(TESTS), db=str(db), folder=str(tmp_path / "models"))
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.stdout == "whole\n", done.stderr


@NEEDS_FORK
def test_a_kill_at_every_step_of_writing_leaves_whole_runs(tmp_path: Path, plain_document: Any) -> None:
    """Killed before each sync, each move and each clean-up of a run's files, a run is listed only when it is whole."""
    document = json.dumps(plain_document(kind="train", model="xgb", config={"model": "xgb"})).encode()
    code = WRITE_AND_DIE.format(folder=str(tmp_path), document=document)
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == [str(int(signal.SIGKILL))] * 12
    # Only a kill after the commit mark was moved into place, in the last clean-up, leaves a run.
    assert listed(tmp_path) == ["xgboost_A_20240101_000012"]


@pytest.mark.skipif(shutil.which("pgrep") is None, reason="looks for processes with pgrep")
def test_a_killed_command_is_no_run_and_a_rerun_completes(db: Path, tmp_path: Path, child_env: dict[str, str]) -> None:
    """`nextbar train` is killed while a worker fits: the worker ends too, nothing is listed, a rerun completes."""
    folder = tmp_path / "models"
    command = [sys.executable, "-m", "nextbar", "train", "xgb", "--db", str(db), "--save_dir", str(folder)]
    options = ["--warmup", "60", "--ticker", "T0", "--engine", "serial"]
    process = subprocess.Popen([*command, *options, "--n-iter", "500"], env=child_env, start_new_session=True)
    while not list(folder.glob(".*.lock")):
        time.sleep(0.05)
        assert process.poll() is None
    while len(members(process.pid)) < 3:  # with multiprocessing's tracker of resources
        time.sleep(0.05)
    time.sleep(2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 20
    while members(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert members(process.pid) == []
    assert listed(folder) == []
    done = subprocess.run([*command, *options, "--no-tune"], check=False, env=child_env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(listed(folder)) == 1


@pytest.mark.thorough
def test_no_room_for_a_file_is_an_error_and_keeps_old_runs(
    db: Path, trained_trees: Path, tmp_path: Path, child_env: dict[str, str]
) -> None:
    """When no file may grow beyond 100 kB, training a forest ends with 2 and its reason; old runs stay."""
    folder = Path(shutil.copytree(trained_trees, tmp_path / "models"))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    limited = f"""
import resource
from nextbar.cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
main(["train", "rf", "--db", {str(db)!r}, "--save_dir", {str(folder)!r}, "--ticker", "T0", "--no-tune",
      "--warmup", "60", "--engine", "serial"])
"""
    env = {**child_env, "NEXTBAR_LEDGER": str(tmp_path / "ledger.db")}  # that of the tests may be larger already
    done = subprocess.run([sys.executable, "-c", limited], check=False, env=env, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "cannot be written (File too large); nothing of this run was kept" in done.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert len(listed(folder)) == 2
