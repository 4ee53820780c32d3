"""Find out whether a model of the user's own is deterministic, before anything is promised about its bits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import cloudpickle
import numpy as np

from nextbar.datasets.samples import Bars
from nextbar.errors import ModelError
from nextbar.evaluation import probe
from nextbar.evaluation.walkforward import FoldTask
from nextbar.execution.engine import Engine
from nextbar.types import Progress
from nextbar.workflows.recorded import Recorded

PROCESSES = 2
ADVICE = (
    "nothing is certified or reproduced. Give every part that draws numbers a random_state, let it use one thread "
    "(n_jobs=1), and let nothing depend on the clock or on the order of a set"
)


def refuse_unsteady(recorded: Recorded, progress: Progress) -> None:
    """Fit the first task of a run in two processes and refuse a model whose predictions differ in a byte.

    Models that are known to be deterministic are not tried. Where a search found the parameters, they are taken as
    they were found.
    """
    if recorded.model.deterministic or not recorded.tasks:
        return
    (_, fit), task = recorded.run.document.fits[0], recorded.tasks[0]
    params = task.params if fit.chosen is None else fit.chosen
    first, second = _answers(
        replace(task, params=params, search=False),
        recorded.with_panel(task.borders, recorded.bars),
        engine=recorded.engine,
        progress=progress,
    )
    if first != second:
        raise ModelError(f"{task.model.name} is not deterministic: {_difference(first, second)}; {ADVICE}")


def _answers(task: FoldTask, bars: Mapping[str, Bars], *, engine: Engine, progress: Progress) -> list[bytes]:
    """Return what each of two processes predicts."""
    job, found = cloudpickle.dumps((task, bars)), list[bytes]()
    progress.start("fit twice", PROCESSES)
    for answer in engine.fresh(probe.__name__, [job] * PROCESSES, seconds=math.inf):
        content = answer.content or probe.FAILED + str(answer.reason).encode()
        if content.startswith(probe.FAILED):
            reason = content.removeprefix(probe.FAILED).decode(errors="replace")
            raise ModelError(f"{task.model.name} cannot be fitted in a new process ({reason}); correct that first")
        found.append(content)
        progress.advance(1, task.name)
    progress.finish()
    return found


def _difference(first: bytes, second: bytes) -> str:
    """Say how far the predictions of two processes differ."""
    one, other = np.frombuffer(first), np.frombuffer(second)
    if len(one) != len(other):
        return f"two processes fitted it on the same rows and predicted {len(one) // 2} and {len(other) // 2} rows"
    moved = np.flatnonzero((one != other) & ~(np.isnan(one) & np.isnan(other)))
    pair = f"the first is {one[moved[0]]:.17g} in one and {other[moved[0]]:.17g} in the other" if len(moved) else ""
    known = int(np.isfinite(one).sum())
    return f"two processes fitted it on the same rows, and {len(moved)} of {known} predictions differ ({pair})"
