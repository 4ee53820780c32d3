"""A refit: the model of a fold fitted once more, on all bars up to the last, for predictions and never for figures.

Nothing is searched, stopped or decided: parameters, threshold and the number of trees or epochs are those of the fold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nextbar.datasets.samples import Bars, Splits
from nextbar.evaluation.walkforward import FoldResult, FoldTask, Refitted, input_digests, ready_fold, run_fold
from nextbar.models.base import Fitted, Report
from nextbar.models.reproducibility import StageCache
from nextbar.types import Border, JsonDict

REPEATED = ("search", "importance")
"""Facts on a fit that its refit does not say again."""


@dataclass(frozen=True, kw_only=True)
class WholeFit:
    """A fit on all bars with the parts that it is made of; see `FittedFold`."""

    panel: Sequence[Splits]
    fitted: Fitted
    digests: dict[str, str]
    seed: int


def run_fold_and_refit(task: FoldTask, bars: Mapping[str, Bars], report: Report) -> FoldResult:
    """Fit, decide and predict one fold; after that, fit the same model on all bars."""
    result = run_fold(task, bars, report)
    report("stage refit")
    firsts = {ticker: task.borders[ticker].train for ticker in result.splits}
    again = refit_task(task, firsts, bars, params=result.params, facts=result.facts)
    return replace(result, refit=run_refit(again, bars, report))


def refit_task(
    task: FoldTask,
    firsts: Mapping[str, int],
    bars: Mapping[str, Bars],
    *,
    params: Mapping[str, Any] | None,
    facts: JsonDict,
) -> FoldTask:
    """Make the task of a refit: one window up to the last bar.

    Args:
        task: The task of the fold.
        firsts: Ticker → first row of train, for the tickers of its fit.
        bars: The bars; their last one ends the window.
        params: Parameters of its fit.
        facts: Facts on its fit; they say how long it took.
    """
    ends = {name: len(bars[name].frame) for name in firsts}
    borders = {name: Border(train=firsts[name], val=end, test=end, end=end) for name, end in ends.items()}
    rounds = task.model.rounds(facts)
    return replace(task, borders=borders, params=params, search=False, rounds=rounds, checkpoint=None)


def fit_whole(task: FoldTask, bars: Mapping[str, Bars], report: Report, cache: StageCache | None = None) -> WholeFit:
    """Fit the task of a refit; ``cache`` as in `fit_fold`."""
    ready = ready_fold(task, bars, report, cache)
    fitted = task.model.fit([data.before_test for data in ready.panel], ready.request)
    digests = {**input_digests(ready.panel, bars), **fitted.digests}
    return WholeFit(panel=ready.panel, fitted=fitted, digests=digests, seed=ready.request.seed)


def run_refit(task: FoldTask, bars: Mapping[str, Bars], report: Report) -> Refitted:
    """Fit the task of a refit."""
    whole = fit_whole(task, bars, report)
    details = {name: fact for name, fact in whole.fitted.facts.items() if name not in REPEATED}
    facts = {
        "seed": whole.seed,
        "splits": {data.table.ticker: dict(data.boundaries) for data in whole.panel},
        "digests": whole.digests,
        **whole.fitted.saved_facts,
        "details": details,
    }
    return Refitted(facts=facts, files=whole.fitted.files())
