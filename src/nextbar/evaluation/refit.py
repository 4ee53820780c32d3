"""A refit: the model of a fold fitted once more, on all bars up to the last, for predictions and never for figures.

Nothing is searched, stopped or decided: parameters, threshold and the number of trees or epochs are those of the fold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from nextbar.datasets.samples import Bars, add_panel
from nextbar.evaluation.stages import Finding, compare, examine, first_stage
from nextbar.evaluation.trials import WAYS, change_future
from nextbar.evaluation.walkforward import FoldResult, FoldTask, Refitted, fit_fold, run_fold
from nextbar.models.base import Report
from nextbar.models.reproducibility import StageCache
from nextbar.types import Border, JsonDict

PART = "refit"
"""Part of a certificate that is about a refit."""
FUTURE = 60
"""Bars that are invented after the last day of a refit."""
REPEATED = ("search", "importance")
"""Facts on a fit that its refit does not say again."""


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
    return replace(task, borders=borders, params=params, search=False, rounds=rounds)


def run_refit(task: FoldTask, bars: Mapping[str, Bars], report: Report) -> Refitted:
    """Fit the task of a refit."""
    whole = fit_fold(task, bars, report)
    details = {name: fact for name, fact in whole.fitted.facts.items() if name not in REPEATED}
    facts = {
        "seed": whole.seed,
        "splits": {data.table.ticker: dict(data.boundaries) for data in whole.panel},
        "digests": whole.digests,
        **whole.fitted.saved_facts,
        "details": details,
    }
    return Refitted(facts=facts, files=whole.fitted.files())


@dataclass(frozen=True, kw_only=True)
class RefitTrial:
    """A refit that is certified.

    Attributes:
        run: Its run among those that are certified together.
        digests: Those that are recorded.
        last: Last day of its window, the latest of its tickers.
    """

    run: int
    task: FoldTask
    digests: Mapping[str, str]
    last: np.datetime64

    def finding(self, **facts: Any) -> Finding:
        """Return a finding about the refit as a whole."""
        return Finding(part=PART, stage="run", ticker=self.task.name, **facts)


def try_refit(trial: RefitTrial, shared: Mapping[int, Mapping[str, Bars]], report: Report) -> list[Finding]:
    """Fit a refit as it is, and with invented bars after its last day, and compare all that was fitted."""
    bars, task, cache = shared[trial.run], trial.task, StageCache()
    base = fit_fold(task, add_panel(task.spec, bars), report, cache)
    stage = first_stage(trial.digests, base.digests, {})
    note = "" if stage is None else f"fitting again gives other bits from stage {stage} on; see nextbar reproduce"
    found = [trial.finding(rows=len(base.digests), column=stage, note=note)]
    evidence, known = examine(base, task.name), cache.new_entries()
    cut = trial.last + np.timedelta64(1, "D")
    for way in WAYS:
        changed = {name: with_future(name, item, cut, way) for name, item in bars.items()}
        again = fit_fold(task, add_panel(task.spec, changed), report, StageCache(known))
        found += compare(evidence, examine(again, task.name), part=PART, cut=cut, way=way)
    return found


def with_future(ticker: str, bars: Bars, cut: np.datetime64, way: str) -> Bars:
    """Return bars that go on from day ``cut`` with invented ones: their last bars once more, changed in one way."""
    days = pd.DatetimeIndex(cut.astype("datetime64[s]") + np.arange(FUTURE) * np.timedelta64(1, "D"), name="Date")

    def change(frame: pd.DataFrame) -> pd.DataFrame:
        past = frame[frame.index.to_numpy() < cut]
        following = past.iloc[np.arange(-FUTURE, 0) % len(past)].set_axis(days, axis=0)
        whole = pd.concat([past, following])
        whole.attrs = dict(frame.attrs)
        return change_future(whole, cut, way)

    raw = bars.raw and replace(bars.raw, last=days[-1].to_datetime64().astype("datetime64[D]"))
    return replace(bars, raw=raw).changed(ticker, change)
