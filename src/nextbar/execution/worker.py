"""Run one task in a worker, and describe the environment that decides about its bits."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from importlib.metadata import entry_points
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

from nextbar.errors import NextbarError, Remark
from nextbar.leftovers import owner, sweep
from nextbar.models.reproducibility import library_versions
from nextbar.search_path import drop_working_folder

STAGE = "stage "


class Pool(Protocol):
    """Children that run one function over tasks; each kind has a module with an ``open_pool`` of its own.

    Attributes:
        lost: What a future raises when the children that had its task are gone.
        workers: Children there are, at least.
    """

    lost: tuple[type[Exception], ...]
    workers: int

    def submit(self, tasks: Sequence[tuple[int, Any]]) -> Future[list[dict[str, Any]]]:
        """Have tasks run, one after the other, in one worker; their numbers say which is which in notes."""

    def notes(self) -> list[tuple[int, str]]:
        """Lines that running tasks reported since the last look, each with the number of its task."""


def scratch() -> tempfile.TemporaryDirectory[str]:
    """Make a folder for what a pool shares; remove temporary folders of dead processes first."""
    sweep(Path(tempfile.gettempdir()), "nextbar-*")
    return tempfile.TemporaryDirectory(prefix=f"nextbar-{owner()}-")


def thread_env(threads: int) -> dict[str, str]:
    """Return the variables that limit a worker's threads; they must be set before it imports anything.

    Measured: only NPROC or the CPU affinity limits JAX.
    """
    names = ("NPROC", "JAX_NUM_CPU_DEVICES", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return dict.fromkeys(names, str(threads)) | {"KERAS_BACKEND": os.environ.get("KERAS_BACKEND", "jax")}


def has_accelerator() -> bool:
    """Whether JAX runs on an accelerator here.

    A child process is asked, because JAX must not start in this one; and only where a plugin for a device is installed,
    because that takes a second.
    """
    if os.environ.get("JAX_PLATFORMS") == "cpu" or not (entry_points(group="jax_plugins") or find_spec("libtpu")):
        return False
    code = "import jax; print(jax.default_backend())"
    told = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)  # noqa: S603 - our own code
    return told.returncode == 0 and told.stdout.split()[-1:] not in ([], ["cpu"])


@contextmanager
def child_environment(values: Mapping[str, str]) -> Iterator[None]:
    """Give variables, and a `sys.path` without the working folder, to processes that start while the block is open.

    Workers and resource trackers start by `python -m` and `python -c`, which search the working folder first unless
    PYTHONSAFEPATH is set; workers are then sent our `sys.path`. The block is as long as a worker may be replaced.
    """
    before, dropped = dict(os.environ), drop_working_folder()
    os.environ.update({**values, "PYTHONSAFEPATH": "1"})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        for place, entry in dropped:
            sys.path.insert(place, entry)


def environment() -> dict[str, str]:
    """Return what must be equal in every worker for the same bits: threads, JAX's settings, Python and libraries."""
    settings = {name: os.environ.get(name, "unset") for name in (*thread_env(1), "XLA_FLAGS", "JAX_PLATFORMS")}
    return {**settings, "Python": platform.python_version(), **library_versions()}


def differences(found: Mapping[str, str], expected: Mapping[str, str]) -> str:
    """Name what differs between the environment of a worker and the expected one; empty if nothing does."""
    names = [name for name in {**expected, **found} if found.get(name) != expected.get(name)]
    return ", ".join(f"{name} is {found.get(name, 'absent')}, not {expected.get(name, 'absent')}" for name in names)


@contextmanager
def heard_warnings() -> Iterator[Counter[str]]:
    """Count the warnings of a block, which are not printed; the filters decide about them as they did before.

    Each block begins anew, whatever was warned of in the process before: counts do not depend on the number of workers.
    """
    found: Counter[str] = Counter()

    def hear(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, *_more: object, **_names: object
    ) -> None:
        text = " ".join(str(message).split())
        found[text if category is Remark else f"{category.__name__}: {text} ({Path(filename).name}:{lineno})"] += 1

    with warnings.catch_warnings():  # leaving the block resets what was shown; filters that a task sets must stay
        pass
    shown, warnings.showwarning = warnings.showwarning, hear
    try:
        yield found
    finally:
        warnings.showwarning = shown


def run_task(
    function: Callable[..., Any], task: Any, shared: Any, tell: Callable[[str], None] = lambda _line: None
) -> dict[str, Any]:
    """Run one task and return the fields of its `Outcome`, and what was warned of.

    An error becomes a reason, so that other tasks go on.
    """
    times = [("start", perf_counter())]

    def report(line: str) -> None:
        if line.startswith(STAGE):
            times.append((line.removeprefix(STAGE), perf_counter()))
        else:
            tell(line)

    ended: dict[str, Any] = {"result": None, "reason": None, "trace": None}
    with heard_warnings() as warned:
        try:
            ended["result"] = function(task, shared, report)
        except NextbarError as error:
            ended["reason"] = str(error)
        except (Exception, SystemExit) as error:  # a user's features may call exit(), which would end the worker
            ended |= {"reason": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
    times.append(("end", perf_counter()))
    stages = {name: after - before for (name, before), (_, after) in pairwise(times[1:])}
    return {**ended, "seconds": times[-1][1] - times[0][1], "stages": stages, "warned": warned}
