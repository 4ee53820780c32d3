"""Folds that are trained in one program: each is prepared, decided and told as it is alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nextbar.datasets.samples import Bars
from nextbar.errors import NextbarError
from nextbar.evaluation.walkforward import FoldResult, FoldTask, Ready, decided_fold, fold_result, ready_fold
from nextbar.models.base import Report


@dataclass(frozen=True, kw_only=True)
class FoldGroup:
    """Folds of one model that are trained in one program.

    Attributes:
        width: How many networks are trained at once; None: as many as fit the memory.
    """

    tasks: Sequence[FoldTask]
    width: int | None = None


def run_group(group: FoldGroup, bars: Mapping[str, Bars], report: Report) -> list[FoldResult | str]:
    """Fit folds together; give the result of each, or why it has none."""
    found: dict[int, FoldResult | str] = {}
    ready: dict[int, Ready] = {}
    report("stage features")
    for place, task in enumerate(group.tasks):
        try:
            ready[place] = ready_fold(task, bars, report)
        except NextbarError as error:
            found[place] = str(error)
    if not ready:
        return list(found.values())
    report("stage fit")
    panels = [[data.before_test for data in one.panel] for one in ready.values()]
    several = group.tasks[0].model.fit_together(panels, [one.request for one in ready.values()], width=group.width)
    report("stage predict")
    for (place, one), fitted in zip(ready.items(), several, strict=True):
        task = group.tasks[place]
        result = fold_result(task, decided_fold(task, bars, one, fitted))
        if "group" in result.facts:
            result.facts["group"] = {**result.facts["group"], "folds": [group.tasks[at].fold for at in ready]}
        found[place] = result
    return [found[place] for place in range(len(group.tasks))]
