"""Run each job in a Python process of its own that has imported nothing yet, a few side by side, for a limited time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nextbar.execution.worker import pins, scratch

POLL_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class Answer:
    """How a job ended: with the bytes that the process left, or with the reason why it left none."""

    job: int
    content: bytes | None
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class _Child:
    job: int
    folder: Path
    process: subprocess.Popen[bytes]
    until: float

    def answer(self) -> Answer | None:
        """The answer of a process that has ended or must end; None while it runs."""
        code = self.process.poll()
        if code is None and time.monotonic() < self.until:
            return None
        self.end()
        path = self.folder / "answer"
        if path.exists():
            return Answer(job=self.job, content=path.read_bytes(), reason=None)
        if code is None:
            return Answer(job=self.job, content=None, reason="the process did not end in time and was killed")
        told = (self.folder / "errors").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return Answer(job=self.job, content=None, reason=": ".join([f"the process ended with {how}", *told]))

    def end(self) -> None:
        """Kill the process, if it still runs, and those that it has started."""
        if self.process.poll() is None:
            if hasattr(os, "killpg"):
                os.killpg(self.process.pid, signal.SIGKILL)
            else:  # Windows
                self.process.kill()
            self.process.wait()


def run_fresh(module: str, jobs: Sequence[bytes], *, at_once: int, seconds: float, threads: int) -> Iterator[Answer]:
    """Run ``main()`` of a module for each job; answers come in the order in which the processes end.

    The process finds its job in the file ``job`` of the folder that its command line names, and leaves the answer there
    as ``answer``. It has no working folder on its path. Whatever ends the iteration ends the processes.

    Args:
        module: Where the function is.
        jobs: What each process is given.
        at_once: Most processes side by side.
        seconds: Most time for a process; it is killed then.
        threads: Threads that libraries use in it.
    """
    waiting, running = list(enumerate(jobs))[::-1], list[_Child]()
    with scratch() as folder:
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    job, content = waiting.pop()
                    place, until = Path(folder) / str(job), time.monotonic() + seconds
                    process = _start(module, content, place, threads)
                    running.append(_Child(job=job, folder=place, process=process, until=until))
                time.sleep(POLL_SECONDS)
                for child in list(running):
                    if (answer := child.answer()) is not None:
                        running.remove(child)
                        yield answer
        finally:
            for child in running:
                child.end()


def _start(module: str, content: bytes, folder: Path, threads: int) -> subprocess.Popen[bytes]:
    folder.mkdir()
    (folder / "job").write_bytes(content)
    with (folder / "errors").open("wb") as errors:
        return subprocess.Popen(  # noqa: S603 - this Python, and a module of ours
            [sys.executable, "-P", "-c", f"from {module} import main; main()", str(folder)],
            env={**os.environ, **pins(threads), "PYTHONSAFEPATH": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,  # Ctrl-C comes to us alone, and what the process starts ends with it
        )
