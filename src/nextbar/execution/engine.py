"""Tasks in, outcomes out as they finish, over any `concurrent.futures.Executor`.

A task runs in a child process whose threads are limited before anything is imported, so that it gives the same bits
whichever engine runs it. What all tasks share is sent to a worker once. The executors schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from nextbar.config import CommonConfig
from nextbar.errors import EngineError, hear, missing_extra
from nextbar.execution.fresh import Answer, run_fresh
from nextbar.execution.worker import Pool, thread_env
from nextbar.models.reproducibility import cores
from nextbar.words import plural

__all__ = ["Engine", "Outcome", "engine_of", "engines_by", "thread_env"]

Task = TypeVar("Task")
Result = TypeVar("Result")
TaskFunction = Callable[[Task, Any, Callable[[str], None]], Result]

FRUITLESS = 2
"""Pools in a row that break before any task ends; then tasks run one by one, to find the one that does it."""
MOST_DEADLY = 3
"""Tasks that end their worker before any other has ended: then it is not the task."""
DEADLY = "its worker died each time this task ran, even alone; is there enough memory for it?"
POLL_SECONDS = 0.25
SIDE_BY_SIDE = 2
"""Most new processes at once that try a user's code."""


@dataclass(frozen=True, kw_only=True)
class Outcome(Generic[Task, Result]):
    """How one task ended.

    Attributes:
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
        window: Batches of tasks in flight: enough for as many workers, few enough to pickle before the first ends.
        rounds: Least number of batches for each worker, so that the last ones end at about the same time.
    """

    name: str
    jobs: int | None
    threads: int
    scheduler: str | None = None
    window: int = 1000
    rounds: int = 8

    def run(
        self,
        function: TaskFunction[Task, Result],
        tasks: Sequence[Task],
        shared: Any,
        on_note: Callable[[Task, str], None] | None = None,
        batch_size: int = 1,
    ) -> Iterator[Outcome[Task, Result]]:
        """Run ``function(task, shared, report)`` for every task; outcomes come in the order in which they end.

        A pool that breaks (a worker was killed, a scheduler went away) is replaced, and the tasks whose results had not
        come run again; one that ends its worker even when it runs alone has failed, and its outcome comes last.

        Args:
            function: Importable by a worker.
            tasks: Small picklable records.
            shared: Sent to each worker once.
            on_note: Called with the lines that a running task reports; Dask may lose the last ones. None: nobody looks.
            batch_size: Most tasks in a batch, which is sent at once. Sending costs 2 ms, which matters to a task of
                20 ms; a worker that is lost loses the results of its batch.

        Raises:
            EngineError: Whatever ran ended its worker, or there is no pool to be had.
            MissingExtraError: The engine is not installed.
        """
        attempt = partial(self._attempt, function, shared, on_note)
        pending, deadly = dict(enumerate(tasks)), list[Task]()
        fruitless = 0
        while pending:
            before = len(pending)
            if fruitless < FRUITLESS:
                yield from attempt(pending, batch_size)
                # A long run may lose a worker now and then; what counts is losing them without getting on.
                fruitless = fruitless + 1 if len(pending) == before else 0
                continue
            yield from _one_by_one(attempt, pending, deadly)
            if len(deadly) + len(pending) < len(tasks):
                fruitless = 0
            elif not pending or len(deadly) == MOST_DEADLY:
                raise EngineError(
                    f"workers died repeatedly, even with one task each, {plural(len(tasks), 'task')} left; "
                    "is there enough memory?"
                )
        for task in deadly:
            yield Outcome(task=task, result=None, reason=DEADLY, trace=DEADLY, seconds=0.0, stages={})

    def n_jobs(self, tasks: int) -> int:
        """Return the parallel fits of each of so many tasks: 1 without idle cores, or on unknown machines."""
        if self.name == "serial" or self.scheduler is not None:
            return 1
        return max((self.jobs or cores()) // (self.threads * tasks), 1)

    def fresh(self, module: str, jobs: Sequence[bytes], *, seconds: float) -> Iterator[Answer]:
        """Run jobs in new processes of this machine, see `run_fresh`; one at a time on the engine ``serial``."""
        at_once = 1 if self.name == "serial" else min(self.jobs or SIDE_BY_SIDE, SIDE_BY_SIDE, cores())
        return run_fresh(module, jobs, at_once=at_once, seconds=seconds, threads=self.threads)

    def _attempt(
        self,
        function: TaskFunction[Task, Result],
        shared: Any,
        on_note: Callable[[Task, str], None] | None,
        pending: dict[int, Task],
        batch_size: int = 1,
    ) -> Iterator[Outcome[Task, Result]]:
        """Yield the outcomes of one pool; what ends leaves ``pending``, what the pool lost stays."""
        with self._open(len(pending), function, shared) as pool:
            items, broken = list(pending.items()), False
            size = max(min(batch_size, len(items) // (self.rounds * pool.workers)), 1)
            waiting = (items[at : at + size] for at in range(0, len(items), size))
            ended = SimpleQueue[Future[list[dict[str, Any]]]]()  # `wait` on a thousand futures costs 1 ms a look
            futures: dict[Future[list[dict[str, Any]]], list[tuple[int, Task]]] = {}
            while True:
                with suppress(*pool.lost):  # it may break while it is being filled
                    for batch in islice(waiting, 0 if broken else self.window - len(futures)):
                        futures[future := pool.submit(batch)] = batch
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
                batch = futures.pop(found)
                try:
                    told = found.result()
                except pool.lost:  # when a pool breaks every future ends, and some have a result
                    broken = True
                    continue
                for (number, task), facts in zip(batch, told, strict=True):
                    del pending[number]
                    hear(facts.pop("warned"))
                    yield Outcome(task=task, **facts)

    def _open(self, most: int, function: TaskFunction[Task, Result], shared: Any) -> AbstractContextManager[Pool]:
        """Open a pool of at most ``most`` children."""
        jobs = 1 if self.name == "serial" else min(self.jobs or max(cores() // self.threads, 1), most)
        try:
            home = import_module(
                "nextbar.execution.dask_pool" if self.name == "dask" else "nextbar.execution.loky_pool"
            )
        except ModuleNotFoundError as error:
            raise missing_extra(f"the engine {self.name} needs the Python package {error.name}", self.name) from error
        pool: AbstractContextManager[Pool] = home.open_pool(
            jobs=jobs, threads=self.threads, scheduler=self.scheduler, function=function, shared=shared
        )
        return pool


_maker: ContextVar[Callable[..., Engine]] = ContextVar("_maker", default=Engine)


def engine_of(config: CommonConfig, *, jobs: int | None, threads: int) -> Engine:
    """Return the engine that a configuration asks for, with so many jobs and threads."""
    return _maker.get()(name=config.engine, jobs=jobs, threads=threads, scheduler=config.scheduler)


@contextmanager
def engines_by(make: Callable[..., Engine]) -> Iterator[None]:
    """Make every engine with ``make``, which takes what `Engine` takes, until the block ends."""
    before = _maker.set(make)
    try:
        yield
    finally:
        _maker.reset(before)


def _one_by_one(
    attempt: Callable[[dict[int, Task]], Iterator[Outcome[Task, Result]]], pending: dict[int, Task], deadly: list[Task]
) -> Iterator[Outcome[Task, Result]]:
    """Yield the outcomes of tasks that have a pool each, up to the one that breaks its own: it goes to ``deadly``."""
    for number, task in list(pending.items()):
        alone = {number: pending.pop(number)}
        yield from attempt(alone)
        if alone:
            deadly.append(task)
            return


def _next(ended: SimpleQueue[Future[list[dict[str, Any]]]]) -> Future[list[dict[str, Any]]] | None:
    """Return a future that has ended; None if none does for a while."""
    try:
        return ended.get(timeout=POLL_SECONDS)
    except Empty:
        return None
