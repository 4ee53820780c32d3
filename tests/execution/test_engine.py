"""Tasks run in pinned child processes; what goes wrong in one is a fact, not the end."""

from __future__ import annotations

import importlib
import os
import pickle
import re
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

from nextbar.errors import EngineError, Remark, telling_warnings
from nextbar.execution.engine import Engine, thread_env
from nextbar.execution.worker import run_task

MODULE = """
import os, signal, time, warnings
from pathlib import Path
from nextbar.errors import NotEnoughHistoryError

def work(task, shared, report):
    kind, value = task
    report("stage look")
    if kind == "note":
        for i in range(value):
            report(f"step {i}")
    if kind == "short":
        raise NotEnoughHistoryError(f"{value}: too short")
    if kind == "broken":
        return 1 / value
    if kind == "env":
        return {name: os.environ.get(name) for name in shared} | {"pid": os.getpid()}
    if kind == "kill once":
        marker = Path(shared) / value
        report("again")
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    if kind == "exit":
        raise SystemExit(value)
    if kind.endswith("kill"):
        time.sleep(value)
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "warn":
        warnings.warn("said by each", FutureWarning)
        for step in range(value):
            warnings.warn(f"no end after {step} steps;\\ntry more")
        if value == 3:
            warnings.warn("said once")
    report("stage think")
    return kind, value

def draw(task, shared, report):
    import numpy as np
    time.sleep(task % 3 * 0.01)
    return np.random.default_rng([task, shared]).normal(size=50).tobytes()
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """A module of task functions that workers can import."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "engine_tasks.py").write_text(MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield importlib.import_module("engine_tasks")


@pytest.mark.parametrize(("name", "jobs"), [("serial", 1), ("loky", 2)], ids=["serial", "loky"])
def test_each_warning_of_tasks_is_told_once(tasks, name: str, jobs: int, capfd: pytest.CaptureFixture[str]) -> None:
    """With how often it came, on one line, whatever numbers it holds and however many workers there are."""
    asked = [("warn", 1), ("warn", 2), ("warn", 3)]
    with pytest.warns(Remark) as told, telling_warnings():
        assert len(list(Engine(name=name, jobs=jobs, threads=1).run(tasks.work, asked, None))) == 3
    assert [(re.sub(r"py:\d+", "py", str(one.message)), one.filename) for one in told] == [
        ("FutureWarning: said by each (engine_tasks.py) (3 times)", __file__),
        ("UserWarning: no end after 0 steps; try more (engine_tasks.py) (6 times)", __file__),
        ("UserWarning: said once (engine_tasks.py)", __file__),
    ]
    assert capfd.readouterr().err == ""


def test_errors_are_facts(tasks):
    """A stated reason is a skip, another error a failure with its traceback, and the other tasks have results."""
    asked = [("ok", 1), ("short", "AAPL"), ("broken", 0), ("note", 3)]
    told: list[tuple[object, str]] = []
    engine = Engine(name="loky", jobs=1, threads=1)
    outcomes = {x.task: x for x in engine.run(tasks.work, asked, None, lambda *line: told.append(line))}
    assert set(outcomes) == set(asked)
    ok, short, broken = (outcomes[task] for task in asked[:3])
    assert (ok.result, ok.reason, ok.trace) == (("ok", 1), None, None)
    assert (short.result, short.reason, short.trace) == (None, "AAPL: too short", None)
    assert broken.result is None
    assert broken.reason == "ZeroDivisionError: division by zero"
    assert "return 1 / value" in broken.trace
    assert set(ok.stages) == {"look", "think"}
    assert 0 <= sum(ok.stages.values()) <= ok.seconds
    # Every line of a running task reaches the parent, in order, once.
    assert told == [(("note", 3), f"step {i}") for i in range(3)]


def test_environment_is_pinned_before_imports(tasks, monkeypatch):
    """A worker has its thread pins whatever the parent's environment says, in a process of its own, even if serial."""
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    engine = Engine(name="serial", jobs=4, threads=3)
    names = ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "KERAS_BACKEND")
    (outcome,) = engine.run(tasks.work, [("env", 0)], names)
    seen = outcome.result
    assert seen.pop("pid") != os.getpid()
    assert seen == {**dict.fromkeys(names[:4], "3"), "KERAS_BACKEND": os.environ.get("KERAS_BACKEND", "jax")}
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_users_keras_backend_is_kept(monkeypatch):
    """KERAS_BACKEND set by the user reaches the workers; JAX is only the default."""
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    assert thread_env(1)["KERAS_BACKEND"] == "torch"
    monkeypatch.delenv("KERAS_BACKEND")
    assert thread_env(1)["KERAS_BACKEND"] == "jax"


def test_serial_is_one_child(tasks):
    """The serial engine runs all tasks in one process, whatever --jobs says."""
    engine = Engine(name="serial", jobs=4, threads=1)
    pids = {x.result["pid"] for x in engine.run(tasks.work, [("env", i) for i in range(4)], ())}
    assert len(pids) == 1


def test_no_worker_outlives_the_run(tasks, capfd):
    """When the last outcome has come the children are gone, without a word."""
    pids = {
        x.result["pid"]
        for x in Engine(name="loky", jobs=2, threads=1).run(tasks.work, [("env", i) for i in (1, 2)], ())
    }
    assert not [pid for pid in pids if psutil.pid_exists(pid)]
    assert capfd.readouterr().err == ""


class LossyPool:
    """A pool whose tasks are their own results and end at once; it may lose those named "lost"."""

    lost = (BrokenProcessPool,)

    def __init__(self, *, lose, workers=1):
        self.lose, self.ran, self.workers = lose, [], workers

    def submit(self, tasks):
        batch = [task for _, task in tasks]
        self.ran.append(batch)
        future = Future()
        if self.lose and "lost" in batch:
            future.set_exception(BrokenProcessPool())
        else:
            future.set_result([run_task(lambda task, *_: task, task, None) for task in batch])
        return future

    def notes(self):
        return []


@dataclass(frozen=True, kw_only=True)
class Pooled(Engine):
    """An engine with pools of a test, one after the other."""

    name: str = "loky"
    jobs: int = 2
    threads: int = 1
    pools: Iterator[Any]

    def _open(self, *_):
        return nullcontext(next(self.pools))


def test_tasks_are_handed_out_by_and_by():
    """A pool never has more tasks than the window, and all of them have their outcome."""
    pool = ThreadPool(max_workers=2)
    outcomes = list(Pooled(pools=iter([pool]), window=3).run(len, range(20), None))
    assert sorted(x.result for x in outcomes) == list(range(20))
    assert max(pool.open) == 3


def rest(task, *_):
    """Takes a moment and gives the task back."""
    time.sleep(0.01)
    return task


class ThreadPool(ThreadPoolExecutor):
    """A pool whose tasks are their own results; remembers how many were open at each submission."""

    lost, workers = (), 2

    def __init__(self, **options):
        super().__init__(**options)
        self.open, self.futures = [], []

    def submit(self, tasks):
        self.futures.append(super().submit(lambda: [run_task(rest, task, None) for _, task in tasks]))
        self.open.append(sum(not future.done() for future in self.futures))
        return self.futures[-1]

    def notes(self):
        return []


def test_killed_worker_does_not_end_the_run(tasks, tmp_path):
    """A worker that is killed once (out of memory) costs nothing: every task has exactly one outcome, its right one."""
    asked = [("ok", 1), ("kill once", "a"), ("ok", 2), ("kill once", "b"), ("ok", 3)]
    told: list[str] = []
    engine = Engine(name="loky", jobs=2, threads=1, window=3)  # it breaks while tasks still wait to be handed out
    outcomes = list(engine.run(tasks.work, asked, str(tmp_path), lambda _task, line: told.append(line)))
    assert sorted(x.task for x in outcomes) == sorted(asked)
    assert all(x.result == x.task for x in outcomes)
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


@pytest.mark.parametrize("name", [pytest.param("serial", marks=pytest.mark.thorough), "loky"])
def test_a_task_that_always_kills_its_worker_is_a_failure(tasks, name):
    """It is found and named, and its outcome is the last; the tasks before, beside and behind it have their results."""
    asked = [("ok", 1), ("kill", 0), *(("ok", value) for value in range(2, 6))]
    outcomes = list(Engine(name=name, jobs=2, threads=1).run(tasks.work, asked, None))
    assert sorted(x.task for x in outcomes) == sorted(asked)
    assert outcomes[-1].task == ("kill", 0)
    assert outcomes[-1].result is None
    assert outcomes[-1].reason == outcomes[-1].trace
    assert "its worker died each time this task ran" in outcomes[-1].reason
    assert all(x.result == x.task for x in outcomes[:-1])


@pytest.mark.parametrize("count", [1, pytest.param(5, marks=pytest.mark.thorough)])
def test_when_nothing_can_run_the_run_ends(tasks, count):
    """If every worker dies, whichever task it has, that is an error that counts what is left."""
    with pytest.raises(EngineError, match=rf"workers died repeatedly.* {count} tasks? left; is there enough memo"):
        list(Engine(name="serial", jobs=None, threads=1).run(tasks.work, [("kill", i) for i in range(count)], None))


def test_what_had_ended_when_a_pool_broke_is_kept(tasks):
    """Of several tasks that end at one look, a lost one does not take the others with it: nothing runs twice."""
    pools = [LossyPool(lose=True), LossyPool(lose=False)]
    outcomes = list(Pooled(pools=iter(pools)).run(tasks.work, ["lost", "kept"], None))
    assert [(x.task, x.result) for x in outcomes] == [("kept", "kept"), ("lost", "lost")]
    assert [pool.ran for pool in pools] == [[["lost"], ["kept"]], [["lost"]]]


@pytest.mark.parametrize(
    ("count", "workers", "sizes"),
    [(20, 1, [2] * 10), (7, 1, [1] * 7), (50, 1, [4] * 12 + [2]), (50, 3, [2] * 25), (50, 10, [1] * 50)],
)
def test_many_small_tasks_travel_in_batches(count, workers, sizes):
    """Never more at once than asked for, nor so many that a worker would have fewer than eight batches."""
    pool = LossyPool(lose=False, workers=workers)
    outcomes = list(Pooled(pools=iter([pool]), jobs=1).run(len, range(count), None, batch_size=4))
    assert sorted(x.result for x in outcomes) == list(range(count))
    assert [len(batch) for batch in pool.ran] == sizes


def test_a_batch_that_is_lost_runs_again(tasks, tmp_path):
    """A worker that is killed takes its batch's results with it; all have their right outcome all the same."""
    asked = [("ok", 1), ("kill once", "a"), ("short", "AAPL"), *(("note", i) for i in range(1, 30))]
    told = []
    engine = Engine(name="serial", jobs=1, threads=1)
    outcomes = {
        x.task: x for x in engine.run(tasks.work, asked, str(tmp_path), lambda *line: told.append(line), batch_size=4)
    }
    assert set(outcomes) == set(asked)
    assert outcomes["short", "AAPL"].reason == "AAPL: too short"
    assert all(outcomes[task].result == task for task in asked if task[0] != "short")
    assert told.count((("kill once", "a"), "again")) == 2
    assert {line for task, line in told if task == ("note", 3)} == {f"step {i}" for i in range(3)}


def test_a_task_that_exits_is_a_failure(tasks):
    """exit() in a user's function is that task's error; its worker goes on."""
    outcomes = {
        x.task: x for x in Engine(name="serial", jobs=1, threads=1).run(tasks.work, [("exit", 3), ("ok", 1)], 0)
    }
    assert outcomes["exit", 3].reason == "SystemExit: 3"
    assert "Traceback" in outcomes["exit", 3].trace
    assert outcomes["ok", 1].result == ("ok", 1)


def test_results_do_not_depend_on_jobs(tasks):
    """The same tasks give the same bytes with one worker and with two."""
    runs = [
        {x.task: x.result for x in Engine(name=name, jobs=jobs, threads=1).run(tasks.draw, range(8), 5)}
        for name, jobs in (("serial", None), ("loky", 2))
    ]
    assert pickle.dumps(sorted(runs[0].items())) == pickle.dumps(sorted(runs[1].items()))


def test_leaving_early_kills_the_workers(tasks, tmp_path, monkeypatch):
    """Whoever stops listening gets the scratch folder removed and does not wait for the other tasks."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    outcomes = Engine(name="loky", jobs=1, threads=1).run(tasks.work, [("ok", i) for i in range(3)], None)
    assert next(outcomes).result == ("ok", 0)
    assert [path for path in Path(tmp_path).iterdir() if path.name.startswith("nextbar-")]
    outcomes.close()
    assert not [path for path in Path(tmp_path).iterdir() if path.name.startswith("nextbar-")]
