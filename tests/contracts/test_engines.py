"""One suite, every engine: the same bits, the same facts about what failed, and no run lost with a worker."""

from __future__ import annotations

import importlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

from nextbar.config import TrainConfig, WalkForwardConfig
from nextbar.errors import ConfigError, EngineError, MissingExtraError
from nextbar.evaluation.walkforward import FoldTask, run_fold, stitch
from nextbar.execution.engine import Engine, Outcome, thread_env
from nextbar.execution.worker import differences, environment
from nextbar.models.registry import model_of
from nextbar.types import Border, Silent
from nextbar.workflows.certify import certify_runs
from nextbar.workflows.recorded import Place
from nextbar.workflows.reproduce import Reproduction, reproduce
from nextbar.workflows.train import train
from nextbar.workflows.universe import load_universe
from nextbar.workflows.walkforward import WalkForwardResult, walk_forward

dask = pytest.importorskip("dask", reason="needs the extra [dask]")
pytest.importorskip("distributed", reason="needs the extra [dask]")
_admit = importlib.import_module("nextbar.execution.dask_pool")._admit

ENGINES = ("serial", "loky", "dask")
WHOLE = Border(train=60, val=400, test=460, end=540)
SMALL: dict[str, Any] = {"warmup": 60, "no_tune": True, "sequence_length": 5, "epochs": 2, "batch_size": 64}
WALK: dict[str, Any] = {"train_years": 1, "val_months": 3, "test_months": 2, "step_months": 2, "tune": "none"}


MODULE = """
import os, signal
from pathlib import Path
from nextbar.evaluation.walkforward import run_fold

def noted(task, bars, report):
    report(f"begin {task.name}")
    report("end")
    born = Path("/proc/self/environ")
    if task.name == "BORN":
        return born.read_text().split(chr(0)) if born.exists() else None
    return run_fold(task, bars, report)

def deadly(task, shared, report):
    if task == shared:
        os.kill(os.getpid(), signal.SIGKILL)
    return task
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """Task functions in a module that workers can import."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "engine_contract_tasks.py").write_text(MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield importlib.import_module("engine_contract_tasks")


def fold_tasks(db: Path) -> list[FoldTask]:
    """A fold of each kind of tree, one with too few bars, one with a ticker without bars, one that tells its worker."""
    config = TrainConfig(db=str(db), **SMALL)
    wanted = [
        ("AAA", "xgb", WHOLE),
        ("BBB", "rf", WHOLE),
        ("TINY", "xgb", Border(train=60, val=62, test=64, end=66)),
        ("LOST", "xgb", WHOLE),
        ("BORN", "xgb", WHOLE),
    ]
    return [
        FoldTask(
            name=name,
            config=config,
            model=model_of(model, config),
            fold=0,
            borders={name: border},
            search=False,
            out_of_sample=model == "rf",  # else the forest's importances take longer than all the rest
        )
        for name, model, border in wanted
    ]


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What came out of one engine: outcomes by name of the task, the lines that tasks reported, our own environment."""

    outcomes: dict[str, Outcome[Any, Any]]
    told: list[tuple[str, str]]
    changed: set[tuple[str, str]]


@pytest.fixture(scope="module")
def ran(market_db: Path, work: ModuleType) -> dict[str, Ran]:
    """Engine → what came out of it, with two workers where there can be, by batches of two tasks.

    The user has a thread pin of another kind.
    """
    universe, found = load_universe(TrainConfig(db=str(market_db))), {}
    with pytest.MonkeyPatch.context() as patch, socket.socket() as taken:
        with suppress(OSError):
            taken.bind(("", 8787))  # Dask's usual port: another run may have it, and no warning says so
            taken.listen()
        patch.setenv("OMP_NUM_THREADS", "7")
        before = set(os.environ.items())
        for name in ENGINES:
            told: list[tuple[str, str]] = []
            on_note = partial(lambda told, task, line: told.append((task.name, line)), told)
            engine = Engine(name=name, jobs=2, threads=1, rounds=1)
            outcomes = engine.run(work.noted, fold_tasks(market_db), universe.bars, on_note, batch_size=2)
            outcomes = {x.task.name: x for x in outcomes}
            found[name] = Ran(outcomes=outcomes, told=told, changed=before ^ set(os.environ.items()))
    return found


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_gives_the_same_bits(ran, name):
    """Features, weights, thresholds, predictions and files of both kinds of trees are byte-equal to one child's."""
    for ticker in ("AAA", "BBB"):
        outcome, reference = ran[name].outcomes[ticker], ran["serial"].outcomes[ticker].result
        assert outcome.result is not None, outcome.trace or outcome.reason
        assert outcome.result.digests == reference.digests
        assert {"weights", "predictions"} <= reference.digests.keys()
        assert stitch([outcome.result])[0].equals(stitch([reference])[0])
        assert outcome.result.files == reference.files


@pytest.mark.parametrize("name", ENGINES)
def test_a_failing_task_is_a_fact_on_every_engine(ran, name):
    """Too few bars is a stated reason, a missing ticker a failure with its traceback; the other folds have results."""
    outcomes = ran[name].outcomes
    assert outcomes["TINY"].result is None
    assert outcomes["TINY"].trace is None
    assert outcomes["TINY"].reason.startswith("TINY: ")
    assert outcomes["LOST"].reason == "KeyError: 'LOST'"
    assert "Traceback" in outcomes["LOST"].trace
    assert {task for task, outcome in outcomes.items() if outcome.result is None} == {"TINY", "LOST"}
    assert all(outcome.seconds > 0 for outcome in outcomes.values())


@pytest.mark.parametrize("name", ENGINES)
def test_notes_arrive_on_every_engine(ran, name):
    """What a task reports while it runs reaches the parent in order; Dask may lose the last lines of a short task."""
    for ticker in ("AAA", "BBB"):
        lines = [line for task, line in ran[name].told if task == ticker]
        assert lines == [f"begin {ticker}", "end"][: len(lines) if name == "dask" else 2]
    assert ran[name].told


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="asks Linux")
@pytest.mark.parametrize("name", ENGINES)
def test_workers_are_born_pinned(ran, name):
    """The pins are what the kernel gave a worker, before any import; our own environment is as before."""
    assert {f"{pin}={value}" for pin, value in thread_env(1).items()} <= set(ran[name].outcomes["BORN"].result)
    assert ran[name].changed == set()


@pytest.mark.thorough
def test_a_run_is_certified_and_made_again_on_dask(market_db, tmp_path):
    """A model that one child trained is bit-identical, and holds its certificate, on Dask's workers."""
    config = TrainConfig(db=str(market_db), ticker="AAA", model="xgb", save_dir=str(tmp_path), engine="serial", **SMALL)
    path = train(config, Silent()).runs[0].files[-1]
    place = Place(db=str(market_db), engine="dask", jobs=2)
    assert reproduce(path, Silent(), **place) == Reproduction(identical=True, folds=1)
    (certificate,) = certify_runs([path], Silent(), **place)
    assert certificate.passed, certificate.failures
    assert len(certificate.findings) > 10


@pytest.mark.slow
def test_the_network_has_the_same_bits_on_every_engine(market_db):
    """A small LSTM's scalers, epochs, weights and predictions are byte-equal on all engines (compiling takes long)."""
    universe = load_universe(TrainConfig(db=str(market_db)))
    config = TrainConfig(db=str(market_db), **SMALL)
    task = FoldTask(
        name="all", config=config, model=model_of("lstm", config), fold=0, borders={"AAA": WHOLE, "BBB": WHOLE}
    )
    digests = []
    for name in ENGINES:
        (outcome,) = Engine(name=name, jobs=1, threads=2).run(run_fold, [task], universe.bars)
        assert outcome.result is not None, outcome.trace or outcome.reason
        digests.append(outcome.result.digests)
    assert digests[0] == digests[1] == digests[2]


class Saboteur(Silent):
    """Progress that, when the first task has ended, does something once."""

    def __init__(self, deed: Any) -> None:
        self.deed, self.seen, self.tasks = deed, 0, 0

    def start(self, label: str, total: int) -> None:
        self.tasks = total

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.seen += steps
        if self.seen == 1:
            self.deed()


def kill_a_worker() -> None:
    """SIGKILL one of the processes that run tasks."""
    children = psutil.Process().children(recursive=True)
    workers = [child for child in children if "resource_tracker" not in " ".join(child.cmdline())]
    assert len(workers) >= 2
    workers[0].kill()


def walk(db: Path, folder: Path, progress: Any = None, **options: Any) -> WalkForwardResult:
    config = WalkForwardConfig(**{**SMALL, **WALK, "db": str(db), "output_dir": str(folder), "model": "xgb", **options})
    return walk_forward(config, progress or Silent())


def proof(result: WalkForwardResult) -> tuple[bytes, list[Mapping[str, str]]]:
    """Bytes of the out-of-sample rows, and the digests of every stage of every fold."""
    rows = next(path for path in result.files if path.suffix == ".parquet")
    return rows.read_bytes(), [task.digests for _, task in result.document.fits]


@pytest.fixture(scope="module")
def undisturbed(market_db, tmp_path_factory) -> tuple[bytes, list[Mapping[str, str]]]:
    """What the walk-forward of these tests comes to when nothing happens."""
    return proof(walk(market_db, tmp_path_factory.mktemp("calm"), engine="serial"))


@pytest.mark.parametrize("name", ["loky", "dask"])
def test_a_killed_worker_does_not_change_a_walk_forward(name, market_db, undisturbed, tmp_path):
    """SIGKILL of one of two workers after the first fold: the run finishes and every byte is as without it."""
    saboteur = Saboteur(kill_a_worker)
    result = walk(market_db, tmp_path, saboteur, engine=name, jobs=2)
    assert saboteur.seen == saboteur.tasks > 10
    assert result.failed == {}
    assert proof(result) == undisturbed


@contextmanager
def process(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Dask command, killed afterwards."""
    command = [sys.executable, "-m", *arguments, "--no-dashboard"]
    with subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as child:
        try:
            yield child
        finally:
            child.kill()


class Cluster:
    """A scheduler and a worker that other processes started."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self._stack = folder, stack
        note = folder / "scheduler.json"
        command = ("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0")
        self.scheduler = stack.enter_context(process(*command, "--scheduler-file", str(note)))
        deadline = time.monotonic() + 60
        while not note.exists() or not note.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        self.address = json.loads(note.read_text())["address"]

    def add_worker(self, **environment: str) -> None:
        """One worker with one thread."""
        options = ("--nthreads", "1", "--no-nanny", "--memory-limit", "0", "--local-directory", str(self.folder))
        self._stack.enter_context(process("distributed.cli.dask_worker", self.address, *options, **environment))


@pytest.fixture
def cluster(tmp_path) -> Iterator[Cluster]:
    with ExitStack() as stack:
        yield Cluster(tmp_path, stack)


@pytest.mark.thorough
def test_a_lost_scheduler_ends_the_run_and_resume_completes_it(cluster, market_db, undisturbed, tmp_path, monkeypatch):
    """The scheduler dies after the first fold: one error within seconds, finished folds kept, the rest by --resume."""
    monkeypatch.setattr("nextbar.execution.dask_pool.CONNECT_SECONDS", 3)
    cluster.add_worker(**thread_env(1))
    died = []

    def deed() -> None:
        cluster.scheduler.kill()
        died.append(time.monotonic())

    with pytest.raises(EngineError, match=r"no Dask scheduler answers at tcp://127.*start one with: dask scheduler"):
        walk(market_db, tmp_path / "out", Saboteur(deed), engine="dask", scheduler=cluster.address)
    assert time.monotonic() - died[0] < 20
    (partial,) = (tmp_path / "out").glob(".*.partial")
    assert partial.read_bytes().endswith(b"\n")
    again = walk(market_db, tmp_path / "out", engine="serial", resume=True)
    assert again.resumed >= 1
    assert proof(again) == undisturbed


@pytest.mark.thorough
def test_a_scheduler_lost_during_setup_is_a_clear_error(cluster, market_db, tmp_path, monkeypatch):
    """It answers, has a worker, and dies before the first task is sent: an error with advice."""
    cluster.add_worker(**thread_env(1))

    def die_and_admit(client: Any, expected: Any) -> None:
        cluster.scheduler.kill()
        cluster.scheduler.wait()
        _admit(client, expected)

    monkeypatch.setattr("nextbar.execution.dask_pool._admit", die_and_admit)
    with pytest.raises(EngineError, match=r"the Dask scheduler went away "):
        walk(market_db, tmp_path / "out", engine="dask", scheduler=cluster.address)


@pytest.mark.thorough
def test_a_task_that_always_kills_its_worker_fails_alone_on_dask(work):
    """Dask gives such a task up after some workers; the others have their results and it is a recorded failure."""
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):  # by default 3, which take a while
        outcomes = {x.task: x for x in Engine(name="dask", jobs=2, threads=1).run(work.deadly, range(8), 3)}
    assert outcomes.keys() == set(range(8))
    assert "its worker died each time this task ran" in outcomes.pop(3).reason
    assert all(outcome.result == task for task, outcome in outcomes.items())


@pytest.mark.parametrize("joins", ["before", "later"])
def test_a_worker_that_would_give_other_bits_is_refused(cluster, market_db, tmp_path, monkeypatch, joins):
    """A foreign worker with another pin and another library is refused by name, also if it joins in the middle."""
    (tmp_path / "numpy-0.9.dist-info").mkdir()
    (tmp_path / "numpy-0.9.dist-info" / "METADATA").write_text("Name: numpy\nVersion: 0.9\n")
    cluster.add_worker(**{**thread_env(1), "NPROC": "8"}, PYTHONPATH=os.pathsep.join([str(tmp_path), *sys.path]))
    # Who is there from the start is refused before anything is sent; who joins later is only seen by its first task.
    skipped = {"before": "_DaskPool", "later": "_admit"}[joins]
    monkeypatch.setattr(f"nextbar.execution.dask_pool.{skipped}", lambda *_: None)
    with pytest.raises(
        EngineError, match=r"worker tcp://\S+ would give other bits: NPROC is 8, not 1, numpy is 0.9, not"
    ):
        walk(market_db, tmp_path / "out", engine="dask", scheduler=cluster.address)


def test_a_worker_without_nextbar_is_refused(cluster, market_db, tmp_path):
    """A foreign worker on which this package cannot be imported is named, with what to do."""
    (tmp_path / "nextbar.py").write_text("raise ImportError('there is no nextbar here')")
    cluster.add_worker(**thread_env(1), PYTHONPATH=str(tmp_path))
    with pytest.raises(
        EngineError, match=r"worker tcp://\S+ cannot run nextbar .*no nextbar here.*install this version"
    ):
        walk(market_db, tmp_path / "out", engine="dask", scheduler=cluster.address)


def test_differences_are_named():
    """What is missing on either side or has another value is named; equal environment give an empty text."""
    here = environment()
    assert {"Python", "numpy", "NPROC", "KERAS_BACKEND"} <= here.keys()
    assert differences(here, here) == ""
    told = differences({"Python": "3.12.1", "more": "1"}, {"Python": "3.11.7", "jax": "0.9"})
    assert told == "Python is 3.12.1, not 3.11.7, jax is absent, not 0.9, more is 1, not absent"


def test_a_missing_engine_names_its_extra(monkeypatch):
    """Without distributed the message says what to install."""
    monkeypatch.setitem(sys.modules, "distributed", None)
    monkeypatch.delitem(sys.modules, "nextbar.execution.dask_pool", raising=False)
    with pytest.raises(MissingExtraError, match=r"the engine dask needs .*pip install '\.\[dask\]'"):
        list(Engine(name="dask", jobs=1, threads=1).run(run_fold, [0], None))


@pytest.mark.parametrize("options", [{"engine": "loky"}, {"engine": "dask", "jobs": 2}])
def test_a_scheduler_needs_dask_and_no_jobs(options):
    """--scheduler is refused where it would be ignored, or would make --jobs be ignored."""
    with pytest.raises(ConfigError, match="--scheduler needs --engine dask and no --jobs"):
        TrainConfig(scheduler="tcp://127.0.0.1:8786", **options)
