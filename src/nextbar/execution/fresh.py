"""Run each job in its own Python process that has imported nothing yet, a few side by side, for a limited time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nextbar.execution.worker import scratch, thread_env

POLL_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class Answer:
    """How a job ended: with the bytes that the process left, or with the reason why it left none."""

    job: int
    content: bytes | None = None
    reason: str | None = None


def run_fresh(module: str, jobs: Sequence[bytes], *, at_once: int, seconds: float, threads: int) -> Iterator[Answer]:
    """Run ``main()`` of a module for each job; answers come in the order in which the processes end.

    The process finds its job in the file ``job`` of the folder that its command line names, and leaves the answer there
    as ``answer``. It has no working folder on its path, and is killed after ``seconds``. Whatever ends the iteration
    ends the processes.
    """
    waiting, running = list(enumerate(jobs))[::-1], dict[int, tuple[subprocess.Popen[bytes], float]]()
    with scratch() as folder:
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    job, content = waiting.pop()
                    running[job] = _start(module, content, Path(folder) / str(job), threads), time.monotonic() + seconds
                time.sleep(POLL_SECONDS)
                for job, (process, until) in list(running.items()):
                    if process.poll() is not None or time.monotonic() >= until:
                        answer = _answer(job, process, Path(folder) / str(job))
                        del running[job]
                        yield answer
        finally:
            for process, _ in running.values():
                _end(process)


def _start(module: str, content: bytes, folder: Path, threads: int) -> subprocess.Popen[bytes]:
    folder.mkdir()
    (folder / "job").write_bytes(content)
    with (folder / "errors").open("wb") as errors:
        return subprocess.Popen(  # noqa: S603 - this Python, and a module of ours
            [sys.executable, "-P", "-c", f"from {module} import main; main()", str(folder)],
            env={**os.environ, **thread_env(threads), "PYTHONSAFEPATH": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,  # Ctrl-C comes to us alone, and what the process starts ends with it
        )


def _answer(job: int, process: subprocess.Popen[bytes], folder: Path) -> Answer:
    """Return the answer of a process that has ended or must end."""
    code = process.poll()
    _end(process)
    path = folder / "answer"
    if path.exists():
        return Answer(job=job, content=path.read_bytes())
    if code is None:
        return Answer(job=job, reason="the process did not end in time and was killed")
    error = (folder / "errors").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return Answer(job=job, reason=": ".join([f"the process ended with {how}", *error]))


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process, if it still runs, and those that it has started."""
    if process.poll() is None:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:  # Windows
            process.kill()
        process.wait()
