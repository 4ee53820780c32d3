"""One fold: fit on train, stop and decide on validation, look at test once. A training run is one such fold.

A fold is a pure function of its task and the bars: no database, no clock, no file. A worker on any machine runs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nextbar.config import THRESHOLD_OBJECTIVES, CommonConfig
from nextbar.datasets.processor import StockDataProcessor
from nextbar.datasets.samples import Bars, Splits
from nextbar.errors import NextbarError, NothingToTrainError
from nextbar.evaluation.diagnostics import find_all_degenerate, mean_contributions, permutation_importance
from nextbar.evaluation.rows import hole_returns, rows_of_test
from nextbar.evaluation.series import Terms
from nextbar.features.spec import FeatureSpec
from nextbar.models.base import FitRequest, Fitted, Model, Report
from nextbar.models.reproducibility import (
    StageCache,
    digest_arrays,
    digest_bars,
    digest_text,
    set_global_seeds,
    task_seed,
)
from nextbar.scoring.backtest import TRADING_DAYS
from nextbar.scoring.threshold import ThresholdChoice, Validation, tune_pooled_threshold, tune_threshold
from nextbar.types import Border, Columns, JsonDict

ALL = "all"
"""Name of the task of a model over all tickers."""


@dataclass(frozen=True, kw_only=True)
class FoldTask:
    """What a worker needs besides the bars.

    Attributes:
        name: Ticker, or `ALL`: names the task for people.
        fold: Number of the fold; 0 for a training run.
        borders: Ticker → rows of its splits.
        params: Parameters to use as they are; None: as the configuration says.
        search: Whether to search when ``params`` is None.
        out_of_sample: Test rows are days of a walk-forward and keep their last return when the next bar exists.
        closing: Whether it is the last fold of a walk-forward, the only one with curves and permutation importance.
        n_jobs: Parallel fits of its search; the result does not depend on it.
        features: Feature columns; None: as the configuration says.
        scored_from: First day whose rows are made, inside test; None: that of test.
        rounds: Of a refit, see `FitRequest`; its borders end with train. None: no refit.
    """

    name: str
    config: CommonConfig
    model: Model
    fold: int
    borders: Mapping[str, Border]
    params: Mapping[str, Any] | None = None
    search: bool = True
    out_of_sample: bool = False
    closing: bool = False
    n_jobs: int = 1
    periods: float = float(TRADING_DAYS)
    ended: frozenset[str] = frozenset()
    features: FeatureSpec | None = None
    scored_from: np.datetime64 | None = None
    rounds: Sequence[int] | None = None

    @property
    def spec(self) -> FeatureSpec:
        """Its feature columns."""
        return self.features or FeatureSpec.of(self.config)

    @property
    def pooled(self) -> bool:
        """Whether its model is one classifier of all tickers, with one threshold."""
        return self.config.pooled and self.model.predicts == "probability" and not self.model.per_ticker

    @property
    def terms(self) -> Terms:
        """Terms on which its rows are scored."""
        return Terms(cost_bps=self.config.cost_bps, risk_free=self.config.risk_free, periods=self.periods)


@dataclass(frozen=True, kw_only=True)
class FoldRows:
    """Rows of a fold with their digests.

    Attributes:
        rows: Out-of-sample rows with their `ROW_COLUMNS`, sorted by ticker and date; `stitch` makes DataFrames of them.
        aux: Row by row beside them: ``majority`` class of train, ``open_return`` O(t+2)/O(t+1) - 1, ``close`` and
            ``next_close`` in quoted prices of day t, ``scaled_error`` of a predicted close on the network's own scale,
            and what else the model has beside its predictions.
        digests: sha256 of bars, features, splits, search, params, weights, threshold, predictions.
        holes: Ticker → first day after a hole → return over the hole.
    """

    rows: Columns
    aux: Columns
    digests: dict[str, str]
    skipped: dict[str, str]
    seed: int
    holes: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FoldResult(FoldRows):
    """A fold as it travels between processes.

    Attributes:
        facts: Parameters, search, threshold, history: for the metadata.
        splits: Ticker → sizes and dates of its splits.
        params: Parameters that later folds may use as they are.
        files: Suffix → bytes of the artifact; none in a walk-forward, which keeps predictions, not models.
        refit: The same model fitted on all bars; None: none was asked for.
    """

    facts: JsonDict
    splits: dict[str, JsonDict]
    params: Mapping[str, Any] | None
    files: Mapping[str, bytes] = field(default_factory=dict)
    refit: Refitted | None = None


@dataclass(frozen=True, kw_only=True)
class Refitted:
    """A model fitted on all bars, as it travels between processes; nothing is decided and nothing predicted with it.

    Attributes:
        facts: Seed, splits, digests, scalers and details, for the document.
        files: Suffix → bytes of the artifact.
    """

    facts: JsonDict
    files: Mapping[str, bytes]


@dataclass(frozen=True, kw_only=True)
class FittedFold(FoldRows):
    """A fold with the parts that it is made of.

    Attributes:
        panel: Labelled splits of each ticker.
        choices: Ticker → threshold; none for a model that predicts prices.
    """

    panel: Sequence[Splits]
    fitted: Fitted
    choices: Mapping[str, ThresholdChoice]


def run_fold(task: FoldTask, bars: Mapping[str, Bars], report: Report) -> FoldResult:
    """Fit, decide and predict one fold."""
    return fold_result(task, fit_fold(task, bars, report))


def fold_result(task: FoldTask, fold: FittedFold) -> FoldResult:
    """What of a fitted fold travels between processes."""
    shown, pooled = task.closing or not task.out_of_sample, task.pooled
    thresholds = {
        ticker: choice.to_json(curve=shown and not (pooled and at))  # one curve is all tickers'
        for at, (ticker, choice) in enumerate(fold.choices.items())
    }
    facts = {
        **fold.fitted.facts,
        **fold.fitted.about_test(fold.panel),
        **({} if task.out_of_sample else fold.fitted.saved_facts),
        "columns": list(fold.panel[0].table.columns),
        "threshold": thresholds,
    }
    if pooled:
        days = [data.train.dates for data in fold.panel]
        facts["pooled"] = {"rows": sum(map(len, days)), "dates": len(np.unique(np.concatenate(days)))}
    name = task.name if pooled else None
    facts["degenerate"] = find_all_degenerate(fold.panel, facts, fold.choices, fold.rows, name=name)
    if fold.choices and shown:
        judged = fold.panel if pooled else fold.panel[:1]
        facts["permutation_importance"] = permutation_importance(fold.fitted, judged, seed=fold.seed)
        if (found := mean_contributions(fold.fitted, judged)) is not None:
            facts["contributions"] = found
    return FoldResult(
        **{item.name: getattr(fold, item.name) for item in fields(FoldRows)},
        facts=facts,
        splits={data.table.ticker: dict(data.boundaries) for data in fold.panel},
        params=fold.fitted.params,
        files={} if task.out_of_sample else fold.fitted.files(),
    )


class Ready(NamedTuple):
    """A fold that can be fitted: its panel, who was left out, and the request."""

    panel: Sequence[Splits]
    skipped: dict[str, str]
    request: FitRequest


def fit_fold(task: FoldTask, bars: Mapping[str, Bars], report: Report, cache: StageCache | None = None) -> FittedFold:
    """Fit a fold and return its parts; of a refit nothing is decided and nothing predicted.

    ``cache`` holds outcomes of stages with the same input.
    """
    staged = task.rounds is None  # the seconds of a refit are not those of its fold
    if staged:
        report("stage features")
    ready = ready_fold(task, bars, report, cache)
    if staged:
        report("stage fit")
    fitted = task.model.fit([data.before_test for data in ready.panel], ready.request)
    if staged:
        report("stage predict")
        return decided_fold(task, bars, ready, fitted)
    return FittedFold(
        panel=ready.panel,
        fitted=fitted,
        choices={},
        rows={},
        aux={},
        digests={**_input_digests(ready.panel, bars), **fitted.digests},
        skipped=ready.skipped,
        seed=ready.request.seed,
    )


def ready_fold(task: FoldTask, bars: Mapping[str, Bars], report: Report, cache: StageCache | None = None) -> Ready:
    """Seed everything, and make features, splits and labels."""
    seed = task_seed(task.config.seed, task.name, task.fold)
    set_global_seeds(seed)
    panel, skipped = _prepare(task, bars)
    request = FitRequest(
        seed=seed,
        params=task.params,
        search=task.search,
        report=report,
        cache=cache or StageCache(),
        n_jobs=task.n_jobs,
        rounds=task.rounds,
    )
    return Ready(panel, skipped, request)


def decided_fold(task: FoldTask, bars: Mapping[str, Bars], ready: Ready, fitted: Fitted) -> FittedFold:
    """Choose thresholds on validation and predict test."""
    return predicted_fold(task, bars, ready, fitted, _choose_thresholds(task, fitted, ready.panel))


def predicted_fold(
    task: FoldTask, bars: Mapping[str, Bars], ready: Ready, fitted: Fitted, choices: Sequence[ThresholdChoice | None]
) -> FittedFold:
    """Predict test with the threshold of each ticker."""
    panel = ready.panel
    if task.scored_from is not None:
        panel = [data.tested_from(task.scored_from) for data in panel]
    tables = [
        rows_of_test(
            fitted,
            data,
            choice,
            fold=task.fold,
            ended=data.table.ticker in task.ended,
            out_of_sample=task.out_of_sample,
        )
        for data, choice in zip(panel, choices, strict=True)
    ]
    rows, aux = (_joined(parts) for parts in zip(*tables, strict=True))
    chosen = {data.table.ticker: choice for data, choice in zip(panel, choices, strict=True) if choice}
    return FittedFold(
        panel=panel,
        fitted=fitted,
        choices=chosen,
        rows=rows,
        aux=aux,
        holes=hole_returns(panel, rows),
        digests=_digests(panel, bars, fitted, chosen, rows),
        skipped=ready.skipped,
        seed=ready.request.seed,
    )


def stitch(results: Iterable[FoldResult]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Join the rows of several folds, and their auxiliary columns, sorted by fold, ticker and date."""
    tables = zip(*((result.rows, result.aux) for result in results), strict=True)
    rows, aux = (pd.DataFrame(_joined(parts)) for parts in tables)
    ticker = pd.factorize(rows["ticker"], sort=True)[0]
    order = np.lexsort((rows["date"].to_numpy(), ticker, rows["fold"].to_numpy()))
    return rows.iloc[order].reset_index(drop=True), aux.iloc[order].reset_index(drop=True)


def _joined(parts: Sequence[Columns]) -> Columns:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _prepare(task: FoldTask, bars: Mapping[str, Bars]) -> tuple[list[Splits], dict[str, str]]:
    """Labelled splits of each ticker that has them, and why the others have not."""
    processor = StockDataProcessor(task.config, features=task.spec)
    panel, skipped = [], {}
    for ticker, border in task.borders.items():
        try:
            frame = bars[ticker].with_panel(processor.add_technical_indicators(bars[ticker].frame))
            panel.append(
                processor.prepare_for_classification_splits(
                    frame, ticker=ticker, border=border, out_of_sample=task.out_of_sample
                )
            )
        except NextbarError as error:
            skipped[ticker] = str(error)
    if not panel:
        raise NothingToTrainError("; ".join(skipped.values()))
    return panel, skipped


def _choose_thresholds(task: FoldTask, fitted: Fitted, panel: Sequence[Splits]) -> list[ThresholdChoice | None]:
    """Choose the threshold of each ticker, or one for all tickers of a pooled model."""
    if not task.pooled:
        return [_choose_threshold(task, fitted, data) for data in panel]
    objective, terms = task.config.threshold, task.terms
    validation = [
        Validation(
            dates=data.val.dates,
            probability=fitted.predict(data.table, data.val.rows),
            next_returns=data.val.next_returns,
            truth=data.val.y,
        )
        for data in panel
    ]
    balanced = objective == "balanced_accuracy"
    tuned = tune_pooled_threshold(validation, balanced=balanced, **asdict(terms))
    return [tuned if objective in THRESHOLD_OBJECTIVES else tuned.set_to(float(objective))] * len(panel)


def _choose_threshold(task: FoldTask, fitted: Fitted, data: Splits) -> ThresholdChoice | None:
    """Tune the threshold on validation, or take the given one; None for a model that predicts prices."""
    if task.model.predicts != "probability":
        return None
    val, objective, terms = data.val, task.config.threshold, task.terms
    tuned = tune_threshold(
        fitted.predict(data.table, val.rows),
        None if objective == "balanced_accuracy" else val.next_returns,
        val.y,
        **asdict(terms),
    )
    return tuned if objective in THRESHOLD_OBJECTIVES else tuned.set_to(float(objective))


def _digests(
    panel: Sequence[Splits],
    bars: Mapping[str, Bars],
    fitted: Fitted,
    choices: Mapping[str, ThresholdChoice],
    rows: Columns,
) -> dict[str, str]:
    """Return digests of bars, features, labelled splits, thresholds with their curves, and predictions."""
    predictions = [rows[name].astype(np.float64) for name in ("probability", "predicted_close", "signal")]
    return {
        **_input_digests(panel, bars),
        **fitted.digests,
        "threshold": digest_text(repr({ticker: choice.to_json() for ticker, choice in choices.items()})),
        "predictions": digest_arrays(predictions),
    }


def _input_digests(panel: Sequence[Splits], bars: Mapping[str, Bars]) -> dict[str, str]:
    """Return digests of what a fit is given."""
    parts = [part for data in panel for part in (data.train, data.val, data.test)]
    return {
        "bars": digest_text("".join(digest_bars(bars[data.table.ticker].frame) for data in panel)),
        "features": digest_arrays([data.table.features for data in panel]),
        "splits": digest_arrays([array for part in parts for array in (part.rows, part.y)]),
    }
