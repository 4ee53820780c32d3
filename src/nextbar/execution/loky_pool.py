"""Run tasks in child processes by loky. What the tasks share is written to a file, which each child reads once."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing.resource_tracker import ensure_running
from pathlib import Path
from threading import Thread
from typing import Any

import loky

from nextbar.execution.worker import child_environment, run_task, scratch, thread_env

ORPHAN_SECONDS = 1.0
"""How often a child looks whether its parent still lives."""


class _LokyPool:
    """See `nextbar.execution.worker.Pool`. Notes are a file a child: a queue would die with who writes into it."""

    lost = (BrokenProcessPool,)

    def __init__(self, executor: Any, folder: Path, workers: int) -> None:
        self._executor, self._folder, self.workers = executor, folder, workers
        self._read: dict[Path, int] = {}

    def submit(self, tasks: Sequence[tuple[int, Any]]) -> Future[list[dict[str, Any]]]:
        with _children_ignore_ctrl_c():
            future: Future[list[dict[str, Any]]] = self._executor.submit(_work, tasks)
        return future

    def notes(self) -> list[tuple[int, str]]:
        return [note for path in self._folder.glob("*.notes") for note in self._fresh(path)]

    def _fresh(self, path: Path) -> Iterator[tuple[int, str]]:
        with path.open(encoding="utf-8") as file:
            file.seek(self._read.get(path, 0))
            while (line := file.readline()).endswith("\n"):
                self._read[path] = file.tell()
                number, _, text = line.strip().partition(" ")
                yield int(number), text


@contextmanager
def open_pool(
    *, jobs: int, threads: int, scheduler: str | None, function: Callable[..., Any], shared: Any
) -> Iterator[_LokyPool]:
    """Start child processes with limited threads; they end, and their folder is removed, when the block is left."""
    assert scheduler is None
    with scratch() as folder, child_environment({}):  # `thread_env` is for the children alone
        payload = Path(folder) / "shared.pickle"
        payload.write_bytes(pickle.dumps((function, shared), protocol=5))
        executor = loky.ProcessPoolExecutor(
            max_workers=jobs,
            env=thread_env(threads),
            initializer=_receive,
            initargs=(str(payload), os.getpid()),
            timeout=60,
        )
        try:
            yield _LokyPool(executor, Path(folder), jobs)
        finally:  # whatever had a result has sent it: waiting for the interpreters to take themselves apart costs 0.3 s
            executor.shutdown(wait=True, kill_workers=True)


@contextmanager
def _children_ignore_ctrl_c() -> Iterator[None]:
    """A child that is started in the block never sees the interrupt that a terminal sends to all: we end it.

    Children inherit the mask. An interrupt of our own waits until the block is left.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    ensure_running()  # multiprocessing's tracker of resources: started inside the block it would lift the mask
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_received: dict[str, Any] = {}


def _receive(payload: str, parent: int) -> None:
    """In a new child: take what all tasks share, and do not outlive our parent."""
    Thread(target=_end_with, args=(parent,), daemon=True).start()
    path = Path(payload)
    function, shared = pickle.loads(path.read_bytes())  # noqa: S301 - written by our own parent a moment ago
    _received.update(function=function, shared=shared, folder=path.parent)


def _end_with(parent: int) -> None:
    """A parent that was killed cannot end its children: they would go on with a fit that nobody waits for."""
    while os.getppid() == parent:
        time.sleep(ORPHAN_SECONDS)
    os._exit(1)


def _work(tasks: Sequence[tuple[int, Any]]) -> list[dict[str, Any]]:
    """In a child: tasks, one after the other."""

    def tell(number: int, line: str) -> None:
        with (_received["folder"] / f"{os.getpid()}.notes").open("a", encoding="utf-8") as file:
            file.write(f"{number} {line}\n")

    function, shared = _received["function"], _received["shared"]
    return [run_task(function, task, shared, partial(tell, number)) for number, task in tasks]
