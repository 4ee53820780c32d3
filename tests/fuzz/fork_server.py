"""Run many `nextbar` commands, each in a child with limits, without the imports of each.

Reads one job a line (`{"arguments": […], "folder": …}`), forks, watches the child and its children, writes one JSON
answer a line. The server only imports: nothing that a fork would break (JAX, a thread pool) is started in it.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path

SECONDS, BYTES = 20.0, 2**30
"""Limits of one command: time, resident memory of it and its children together."""
PRELOADED = [
    "nextbar.cli.commands",
    "nextbar.cli.ingest",
    "nextbar.cli.render",
    "nextbar.workflows.predict",
    "nextbar.workflows.report",
    "nextbar.workflows.library",
    "nextbar.models.lstm_model",
    "nextbar.reports.page",
    "scipy.stats",
    "sklearn.ensemble",
    "xgboost",
    "pyarrow.parquet",
    "pyarrow.csv",
    "sqlalchemy",
]
"""What most commands import."""
PAGE = os.sysconf("SC_PAGE_SIZE")


def resident(group: int) -> int:
    """Resident bytes of all processes of a process group."""
    total = 0
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                fields = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
                total += int(fields[21]) * PAGE if int(fields[2]) == group else 0
            except OSError:
                continue
    return total


def child(job: dict, output: int) -> None:
    """Run the command; never return."""
    os.setpgid(0, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(job["folder"])
    code = 70
    try:
        importlib.import_module("nextbar.cli.main").main(job["arguments"])
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 0 if leaving.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def watch(pid: int) -> dict:
    """Wait for a child; kill its process group beyond a limit."""
    begun, most, fate, pause = time.monotonic(), 0, "", 0.002
    while True:
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            break
        most = max(most, resident(pid))
        if not fate and (most > BYTES or time.monotonic() - begun > SECONDS):
            fate = "memory" if most > BYTES else "time"
            os.killpg(pid, signal.SIGKILL)
        time.sleep(pause)
        pause = min(pause * 1.3, 0.05)
    most = max(most, usage.ru_maxrss * 1024)
    code = os.waitstatus_to_exitcode(status)
    return {
        "code": code,
        "fate": fate or ("memory" if most > BYTES else ""),
        "seconds": time.monotonic() - begun,
        "bytes": most,
    }


def main() -> None:
    """Serve until the input ends."""
    for name in PRELOADED:
        importlib.import_module(name)
    answers = os.fdopen(os.dup(1), "w")
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        output = os.memfd_create("output")
        pid = os.fork()
        if not pid:
            child(job, output)
        answer = watch(pid)
        text = os.pread(output, 20_000, max(0, os.fstat(output).st_size - 20_000)).decode(errors="replace")
        os.close(output)
        print(json.dumps({**answer, "output": text}), file=answers, flush=True)


if __name__ == "__main__":
    main()
