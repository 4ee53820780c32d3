"""Tasks in, outcomes out as they finish, over any `concurrent.futures.Executor`.

A task runs in a child process whose threads are pinned before anything is imported, so that it gives the same bits
whichever engine runs it. What all tasks share travels to a worker once. Nothing here schedules: the executors do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from nextbar.errors import EngineError, MissingExtraError
from nextbar.execution.worker import Pool, pins
from nextbar.models.reproducibility import cores

__all__ = ["Engine", "Outcome", "pins"]

Task = TypeVar("Task")
Result = TypeVar("Result")
TaskFunction = Callable[[Task, Any, Callable[[str], None]], Result]

FRUITLESS = 2
"""Pools in a row that break before any task ends; then tasks run one by one, to find the one that does it."""
MOST_DEADLY = 3
"""Tasks that end their worker before any other has ended: then it is not the task."""
DEADLY = "its worker died whenever this task ran, alone too; is there enough memory for it?"
POLL_SECONDS = 0.25
WINDOW = 1000
"""Handfuls of tasks that a pool has at once: enough for as many workers, few enough to pickle before the first ends."""
ROUNDS = 8
"""Handfuls for each worker, at least: so the last ones end at about the same time."""
_HOMES = {
    "serial": "nextbar.execution.loky_pool",
    "loky": "nextbar.execution.loky_pool",
    "dask": "nextbar.execution.dask_pool",
}


@dataclass(frozen=True, kw_only=True)
class Outcome(Generic[Task, Result]):
    """How one task ended.

    Attributes:
        task: The task.
        result: What it returned; None if it did not.
        reason: Why it has no result.
        trace: Traceback of an error that nobody meant to happen; None for a stated reason.
        seconds: Time inside the worker.
        stages: Seconds between the stages that the task reported (`stage fit` begins the stage "fit").
    """

    task: Task
    result: Result | None
    reason: str | None
    trace: str | None
    seconds: float
    stages: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Where tasks run.

    Attributes:
        name: ``serial`` (one child), ``loky`` (several) or ``dask`` (several, here or on other machines).
        jobs: Most children at once; None: as many as there are cores for their threads.
        threads: Threads of one task.
        scheduler: Address of a Dask scheduler, whose workers are used as they are; None: children of our own.
    """

    name: str
    jobs: int | None
    threads: int
    scheduler: str | None = None

    def run(
        self,
        function: TaskFunction[Task, Result],
        tasks: Sequence[Task],
        shared: Any,
        on_note: Callable[[Task, str], None] | None = None,
        together: int = 1,
    ) -> Iterator[Outcome[Task, Result]]:
        """Run ``function(task, shared, report)`` for every task; outcomes come in the order in which they end.

        A pool that breaks (a worker was killed, a scheduler went away) is replaced, and the tasks whose results had not
        come run again; one that ends its worker even when it runs alone has failed, and its outcome comes last.

        Args:
            function: Importable by a worker.
            tasks: Small picklable records.
            shared: Sent to each worker once.
            on_note: Called with the lines that a running task reports; Dask may lose the last ones. None: nobody looks.
            together: Tasks that travel as one handful, where there are many. Sending costs 2 ms, which a task of
                20 ms feels; a worker that is lost takes its handful's results with it.

        Raises:
            EngineError: Whatever ran ended its worker, or there is no pool to be had.
            MissingExtraError: The engine is not installed.
        """
        pending, deadly = dict(enumerate(tasks)), list[Task]()
        fruitless = 0
        while pending:
            before = len(pending)
            if fruitless < FRUITLESS:
                yield from self._attempt(function, shared, pending, on_note, together)
                # A long run may lose a worker now and then; what counts is losing them without getting on.
                fruitless = fruitless + 1 if len(pending) == before else 0
                continue
            yield from self._one_by_one(function, shared, pending, on_note, deadly)
            if len(deadly) + len(pending) < len(tasks):
                fruitless = 0
            elif not pending or len(deadly) == MOST_DEADLY:
                raise EngineError(
                    f"workers died again and again, with one task each too, {len(tasks)} tasks left; "
                    "is there enough memory?"
                )
        for task in deadly:
            yield Outcome(task=task, result=None, reason=DEADLY, trace=DEADLY, seconds=0.0, stages={})

    def lanes(self, tasks: int) -> int:
        """Cores for each of so few tasks: 1 where no core is idle, or where we do not know the machine."""
        if self.name == "serial" or self.scheduler is not None:
            return 1
        return max((self.jobs or cores()) // (self.threads * tasks), 1)

    def _attempt(
        self,
        function: TaskFunction[Task, Result],
        shared: Any,
        pending: dict[int, Task],
        on_note: Callable[[Task, str], None] | None,
        together: int = 1,
    ) -> Iterator[Outcome[Task, Result]]:
        """Outcomes of one pool; what ends leaves ``pending``, what the pool lost stays."""
        with self._open(len(pending), function, shared) as pool:
            items, broken = list(pending.items()), False
            size = max(min(together, len(items) // (ROUNDS * pool.workers)), 1)
            waiting = (items[at : at + size] for at in range(0, len(items), size))
            ended = SimpleQueue[Future[list[dict[str, Any]]]]()  # `wait` on a thousand futures costs 1 ms a look
            futures: dict[Future[list[dict[str, Any]]], list[tuple[int, Task]]] = {}
            while True:
                with suppress(*pool.lost):  # it may break while it is being filled
                    for handful in islice(waiting, 0 if broken else WINDOW - len(futures)):
                        futures[future := pool.submit(handful)] = handful
                        future.add_done_callback(ended.put)
                if not futures:
                    return
                found = _next(ended)
                if on_note is not None:
                    for number, line in pool.notes():
                        if number in pending:
                            on_note(pending[number], line)
                if found is None:
                    continue
                handful = futures.pop(found)
                try:
                    told = found.result()
                except pool.lost:  # when a pool breaks every future ends, and some have a result
                    broken = True
                    continue
                for (number, task), facts in zip(handful, told, strict=True):
                    del pending[number]
                    yield Outcome(task=task, **facts)

    def _one_by_one(
        self,
        function: TaskFunction[Task, Result],
        shared: Any,
        pending: dict[int, Task],
        on_note: Callable[[Task, str], None] | None,
        deadly: list[Task],
    ) -> Iterator[Outcome[Task, Result]]:
        """Outcomes of tasks that have a pool each, up to the one that breaks its own: it goes to ``deadly``."""
        for number, task in list(pending.items()):
            alone = {number: pending.pop(number)}
            yield from self._attempt(function, shared, alone, on_note)
            if alone:
                deadly.append(task)
                return

    def _open(self, most: int, function: TaskFunction[Task, Result], shared: Any) -> AbstractContextManager[Pool]:
        """Children, of which there need not be more than ``most``."""
        jobs = 1 if self.name == "serial" else min(self.jobs or max(cores() // self.threads, 1), most)
        try:
            home = import_module(_HOMES[self.name])
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                f"the engine {self.name} needs the Python package {error.name}; pip install 'nextbar[{self.name}]'"
            ) from error
        pool: AbstractContextManager[Pool] = home.open_pool(
            jobs=jobs, threads=self.threads, scheduler=self.scheduler, function=function, shared=shared
        )
        return pool


def _next(ended: SimpleQueue[Future[list[dict[str, Any]]]]) -> Future[list[dict[str, Any]]] | None:
    """A future that has ended; None if none does for a while."""
    try:
        return ended.get(timeout=POLL_SECONDS)
    except Empty:
        return None
