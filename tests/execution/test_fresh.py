"""Jobs in processes of their own: each ends with an answer or a reason, and none outlives who asked."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import pytest

from nextbar.execution.fresh import run_fresh

SOURCE = """
import os, subprocess, sys, time
from pathlib import Path

def main():
    folder = Path(sys.argv[1])
    job = (folder / "job").read_text()
    if job == "crash":
        os._exit(7)
    if job == "raise":
        raise ValueError("not this one")
    if job.startswith("hang"):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        Path(job.split()[1]).write_text(f"{os.getpid()} {child.pid}")
        time.sleep(600)
    if job == "path":
        job = repr("" in sys.path or os.getcwd() in sys.path)
    (folder / "answer").write_text(job + os.environ.get("OMP_NUM_THREADS", ""))
"""


@pytest.fixture(autouse=True)
def answering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that answers, found on the path; the working folder is another."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "answering.py").write_text(SOURCE)
    paths = [str(tmp_path / "modules"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.chdir(tmp_path)


def test_each_job_has_an_answer_or_a_reason() -> None:
    """A crash or an error in one process leaves the others alone, and its reason ends with the error's line."""
    jobs = [b"one", b"crash", b"raise", b"two"]
    answers = {answer.job: answer for answer in run_fresh("answering", jobs, at_once=2, seconds=60, threads=3)}
    assert [answers[job].content for job in (0, 3)] == [b"one3", b"two3"]
    assert answers[1].reason == "the process ended with exit code 7"
    assert answers[2].reason == "the process ended with exit code 1: ValueError: not this one"


def test_working_folder_is_not_on_the_path() -> None:
    """A file of the working folder cannot stand in for a module that the process imports."""
    (answer,) = run_fresh("answering", [b"path"], at_once=1, seconds=60, threads=1)
    assert answer.content == b"False1"


@pytest.mark.thorough
def test_process_that_hangs_is_killed_with_those_it_started(tmp_path: Path) -> None:
    """Time that runs out is a reason; nothing is left of the process or of its children."""
    (answer,) = run_fresh("answering", [f"hang {tmp_path}/pids".encode()], at_once=1, seconds=5, threads=1)
    assert answer.reason == "the process did not end in time and was killed"
    assert gone((tmp_path / "pids").read_text().split())


def test_who_stops_asking_ends_the_processes(tmp_path: Path) -> None:
    """An interrupt in the middle (Ctrl-C raises it there) leaves no process behind."""
    jobs = [b"one", f"hang {tmp_path}/pids".encode()]
    answers = run_fresh("answering", jobs, at_once=2, seconds=600, threads=1)
    next(answers)
    while not (tmp_path / "pids").exists() or not (tmp_path / "pids").read_text():
        time.sleep(0.05)
    with pytest.raises(KeyboardInterrupt):
        answers.throw(KeyboardInterrupt)
    assert gone((tmp_path / "pids").read_text().split())


def gone(pids: list[str]) -> bool:
    """Whether processes end within ten seconds."""
    assert len(pids) == 2
    alive = [psutil.Process(int(pid)) for pid in pids if psutil.pid_exists(int(pid))]
    _, left = psutil.wait_procs(alive, timeout=10)
    return not [process for process in left if process.status() != psutil.STATUS_ZOMBIE]
