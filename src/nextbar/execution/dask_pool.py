"""Tasks on Dask: in worker processes of this machine, or on the workers of a scheduler that runs somewhere.

What all tasks share is scattered: a worker holds it once and passes it on to workers that join or are replaced. Should
the last copy die with its worker, Dask cancels the tasks that wait for it, and the engine begins again with the rest.
"""

from __future__ import annotations

import logging
import signal
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any

from distributed import Client, KilledWorker, LocalCluster, Worker, get_worker
from distributed.utils import silence_logging_cmgr

from nextbar.errors import EngineError
from nextbar.execution.worker import child_environment, differences, environment, run_task, scratch, thread_env

CONNECT_SECONDS = 10
JOIN_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class _Order:
    """What a worker gets once: the function, what tasks share, what it must be like, and where its notes go."""

    function: Callable[..., Any]
    shared: Any
    expected: Mapping[str, str]
    topic: str


class _DaskPool:
    """See `nextbar.execution.worker.Pool`."""

    lost = (CancelledError, KilledWorker)

    def __init__(self, client: Client, order: _Order) -> None:
        self._executor = client.get_executor(pure=False)
        self.workers = max(len(client.nthreads()), 1)
        self._order = client.scatter(order, broadcast=True, hash=False)
        self._events: SimpleQueue[tuple[int, str]] = SimpleQueue()
        client.subscribe_topic(order.topic, lambda event: self._events.put(event[1]))

    def submit(self, tasks: Sequence[tuple[int, Any]]) -> Future[list[dict[str, Any]]]:
        future: Future[list[dict[str, Any]]] = self._executor.submit(_work, self._order, tasks)
        return future

    def notes(self) -> list[tuple[int, str]]:
        return [self._events.get() for _ in range(self._events.qsize())]


@contextmanager
def open_pool(
    *, jobs: int, threads: int, scheduler: str | None, function: Callable[..., Any], shared: Any
) -> Iterator[_DaskPool]:
    """Connect to the workers of a scheduler, or start ``jobs`` of our own."""
    expected = {**environment(), **thread_env(threads)}
    order = _Order(function=function, shared=shared, expected=expected, topic=f"nextbar-{uuid.uuid4().hex}")
    with _client(scheduler) if scheduler else _own_workers(jobs, threads) as client:
        try:
            _admit(client, expected)
            pool = _DaskPool(client, order)
        except OSError as error:  # a TimeoutError and a closed connection are both of this kind
            raise EngineError(f"the Dask scheduler went away ({error})") from error
        yield pool


@contextmanager
def _client(scheduler: str) -> Iterator[Client]:
    """A connection to a scheduler that has workers; what Dask would log about a lost one, our errors say."""
    try:
        client = Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise EngineError(
            f"no Dask scheduler answers at {scheduler} ({error}); start one with: dask scheduler"
        ) from error
    with silence_logging_cmgr(logging.CRITICAL), client:
        try:
            client.wait_for_workers(1, timeout=JOIN_SECONDS)
        except OSError as error:
            raise EngineError(
                f"no worker at {scheduler} ({error}); start some with: dask worker {scheduler} --nthreads 1"
            ) from error
        yield client


@contextmanager
def _own_workers(jobs: int, threads: int) -> Iterator[Client]:
    """Worker processes of this machine, one task each at a time; a nanny replaces one that dies.

    The nanny hands our own environment to a worker. Dask's setting for it, ``distributed.nanny.pre-spawn-environ``,
    gives way to a variable that the user has set, and stays behind in our environment.
    """
    with (
        child_environment(thread_env(threads)),
        scratch() as folder,
        LocalCluster(
            n_workers=jobs,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",  # without an address it wants port 8787, which another run may have
            scheduler_kwargs={"dashboard": False},
            silence_logs=logging.CRITICAL,
            local_directory=folder,
            memory_limit=0,
            preload=__name__,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def dask_setup(_worker: Worker) -> None:
    """In a worker of our own (the name is how Dask finds it in a preloaded module): Ctrl-C is for the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _admit(client: Client, expected: Mapping[str, str]) -> None:
    """Refuse workers that would give other bits, or on which nextbar is not installed."""
    for address, facts in client.run(_look, on_error="return").items():
        if isinstance(facts, OSError):  # it left a moment ago
            continue
        if isinstance(facts, Exception):  # bare, with the error's text: Dask cannot take every kind across
            raise EngineError(f"worker {address} cannot run nextbar ({facts}); install this version there")
        _compare(address, facts, expected)


def _look(dask_worker: Worker) -> dict[str, str]:
    """In a worker: return its environment and the number of tasks that would share its process."""
    return environment() | {"--nthreads": str(dask_worker.state.nthreads)}


def _compare(address: str, found: Mapping[str, str], expected: Mapping[str, str]) -> None:
    if told := differences(found, {**expected, "--nthreads": "1"}):
        raise EngineError(f"worker {address} would give other bits: {told}; see docs/how-to/scale-out.md")


def _work(order: _Order, tasks: Sequence[tuple[int, Any]]) -> list[dict[str, Any]]:
    """In a worker, which may have joined a moment ago: tasks, one after the other."""
    worker = get_worker()
    _compare(worker.address, _look(worker), order.expected)

    def tell(number: int, line: str) -> None:
        worker.log_event(order.topic, (number, line))

    return [run_task(order.function, task, order.shared, partial(tell, number)) for number, task in tasks]
