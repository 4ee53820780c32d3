"""Tasks in, outcomes out as they finish, over any `concurrent.futures.Executor`.

A task runs in a child process whose threads are pinned before anything is imported, so that it gives the same bits
whichever engine runs it. What all tasks share travels to a worker once. Nothing here schedules: the executors do.
"""

from __future__ import annotations

import os
import pickle
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Generic, TypeVar

import loky

from nextbar.errors import EngineError, NextbarError
from nextbar.models.reproducibility import cores

Task = TypeVar("Task")
Result = TypeVar("Result")
TaskFunction = Callable[[Task, Any, Callable[[str], None]], Result]

ATTEMPTS = 3
POLL_SECONDS = 0.25


@dataclass(frozen=True, kw_only=True)
class Outcome(Generic[Task, Result]):
    """How one task ended.

    Attributes:
        task: The task.
        result: What it returned; None if it did not.
        reason: Why it has no result.
        trace: Traceback of an error that nobody meant to happen; None for a stated reason.
        seconds: Time inside the worker.
    """

    task: Task
    result: Result | None
    reason: str | None
    trace: str | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Where tasks run.

    Attributes:
        name: ``serial`` (one child) or ``loky`` (several).
        jobs: Most children at once; None: as many as there are cores for their threads.
        threads: Threads of one task.
    """

    name: str
    jobs: int | None
    threads: int

    def run(
        self,
        function: TaskFunction[Task, Result],
        tasks: Sequence[Task],
        shared: Any,
        on_note: Callable[[Task, str], None] = lambda _task, _note: None,
    ) -> Iterator[Outcome[Task, Result]]:
        """Run ``function(task, shared, report)`` for every task; outcomes come in the order in which they end.

        A pool that breaks (a worker was killed) is replaced, and the tasks that had not ended run again.

        Args:
            function: Importable by a worker.
            tasks: Small picklable records.
            shared: Sent to each worker once.
            on_note: Called with the lines that a running task reports.

        Raises:
            EngineError: The pool broke again and again.
        """
        pending = dict(enumerate(tasks))
        with tempfile.TemporaryDirectory(prefix="nextbar-") as folder:
            payload = Path(folder) / "shared.pickle"
            payload.write_bytes(pickle.dumps((function, shared), protocol=5))
            for _ in range(ATTEMPTS):
                yield from self._attempt(pending, payload, on_note)
                if not pending:
                    return
        raise EngineError(f"workers died {ATTEMPTS} times with {len(pending)} tasks left; is there enough memory?")

    def _attempt(
        self, pending: dict[int, Task], payload: Path, on_note: Callable[[Task, str], None]
    ) -> Iterator[Outcome[Task, Result]]:
        """Outcomes until all tasks have ended or the pool breaks; what ends leaves ``pending``."""
        jobs = 1 if self.name == "serial" else min(self.jobs or max(cores() // self.threads, 1), len(pending))
        pool: Executor = loky.ProcessPoolExecutor(
            max_workers=jobs, env=pins(self.threads), initializer=_receive, initargs=(str(payload),), timeout=60
        )
        done = False
        try:
            futures = {pool.submit(_work, number, task): number for number, task in pending.items()}
            notes = dict.fromkeys(pending, 0)
            while futures:
                ended, _ = wait(futures, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                for number in notes:
                    notes[number] = _read_notes(payload.parent, number, notes[number], on_note, pending)
                for future in ended:
                    number = futures.pop(future)
                    yield _outcome(pending[number], future)
                    del pending[number]
            done = True
        except BrokenProcessPool:
            return
        finally:
            pool.shutdown(wait=True, kill_workers=not done)  # type: ignore[call-arg]


def pins(threads: int) -> dict[str, str]:
    """Environment that a worker must have before it imports anything (measured: only NPROC or the affinity pin JAX)."""
    count = str(threads)
    names = ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return dict.fromkeys(names, count) | {"KERAS_BACKEND": os.environ.get("KERAS_BACKEND", "jax")}


_shared: dict[str, Any] = {}


def _receive(payload: str) -> None:
    """In a new worker: take what all tasks share."""
    path = Path(payload)
    function, shared = pickle.loads(path.read_bytes())  # noqa: S301 - written by our own parent a moment ago
    _shared.update(function=function, value=shared, folder=path.parent)


def _work(number: int, task: Any) -> tuple[Any, str | None, str | None, float]:
    """In a worker: one task; errors come back as facts, so that one ticker does not take the others down."""
    notes = _shared["folder"] / f"{number}.notes"

    def report(line: str) -> None:
        with notes.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    began = perf_counter()
    try:
        return _shared["function"](task, _shared["value"], report), None, None, perf_counter() - began
    except NextbarError as error:
        return None, str(error), None, perf_counter() - began
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        return None, reason, traceback.format_exc(), perf_counter() - began


def _outcome(task: Task, future: Future[Any]) -> Outcome[Task, Any]:
    result, reason, trace, seconds = future.result()
    return Outcome(task=task, result=result, reason=reason, trace=trace, seconds=seconds)


def _read_notes(
    folder: Path, number: int, seen: int, on_note: Callable[[Task, str], None], pending: dict[int, Task]
) -> int:
    """Hand over the lines that a task wrote since the last look; returns how far its notes are read."""
    with suppress(FileNotFoundError), (folder / f"{number}.notes").open(encoding="utf-8") as file:
        file.seek(seen)
        while (line := file.readline()).endswith("\n"):
            if number in pending:
                on_note(pending[number], line.strip())
            seen = file.tell()
    return seen
