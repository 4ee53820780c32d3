"""One fold: fit on train, stop and decide on validation, look at test once. A training run is one such fold.

A fold is a pure function of its task and the bars: no database, no clock, no file. A worker on any machine runs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nextbar.config import THRESHOLD_OBJECTIVES, CommonConfig
from nextbar.datasets.assemble import Bars, TickerData
from nextbar.datasets.labels import gaps
from nextbar.datasets.processor import StockDataProcessor
from nextbar.decisions.policy import classify, to_signal
from nextbar.decisions.threshold import ThresholdChoice, tune_threshold
from nextbar.errors import NextbarError, NothingToTrainError
from nextbar.evaluation.degenerate import find_degenerate
from nextbar.evaluation.importance import permutation_importance
from nextbar.evaluation.series import Terms
from nextbar.models.catalog import get_model
from nextbar.models.protocol import FitRequest, Fitted, Report
from nextbar.models.reproducibility import (
    Memo,
    digest_arrays,
    digest_bars,
    digest_text,
    set_global_seeds,
    task_seed,
)
from nextbar.scoring.backtest import TRADING_DAYS, finite
from nextbar.types import Border, Columns, DateArray, FloatArray, IntArray, JsonDict

ROW_COLUMNS = (
    "date",
    "ticker",
    "fold",
    "probability",
    "predicted_close",
    "threshold",
    "class",
    "signal",
    "next_return",
    "strategy_return",
)
"""Columns of out-of-sample rows; `strategy_return` is filled once folds are stitched.

There is one row per decision. Two more kinds of row say how an open position ends: the first bar after a hole, and the
last bar of a ticker that ends. Nothing is predicted there, the signal is 0. Such a row, and the decision before a hole,
have no next return.
"""


@dataclass(frozen=True, kw_only=True)
class FoldTask:
    """What a worker needs besides the bars.

    Attributes:
        name: Ticker, or ``all``: names the task for people.
        config: The run's configuration, with its model.
        model: Kind of model.
        fold: Number of the fold; 0 for a training run.
        borders: Ticker → rows of its splits.
        params: Parameters to use as they are; None: as the configuration says.
        search: Whether to search when ``params`` is None.
        out_of_sample: Test rows are days of a walk-forward and keep their last return when the next bar exists.
        closing: Of the last fold of a walk-forward, which stands for the others where looking at all takes too long.
        checkpoint: File that a network keeps its best weights in while it trains.
        lanes: Fits of its search that may run side by side.
        periods: Bars per year.
        ended: Tickers that end before the others.
    """

    name: str
    config: CommonConfig
    model: str
    fold: int
    borders: Mapping[str, Border]
    params: Mapping[str, Any] | None = None
    search: bool = True
    out_of_sample: bool = False
    closing: bool = False
    checkpoint: Path | None = None
    lanes: int = 1
    periods: float = float(TRADING_DAYS)
    ended: frozenset[str] = frozenset()

    @property
    def terms(self) -> Terms:
        """Terms on which its rows are scored."""
        return Terms(cost_bps=self.config.cost_bps, risk_free=self.config.risk_free, periods=self.periods)


@dataclass(frozen=True, kw_only=True)
class FoldResult:
    """What came out of a fold.

    Attributes:
        rows: Out-of-sample rows with `ROW_COLUMNS`, sorted by ticker and date; `stitch` makes DataFrames of them.
        aux: Row by row beside them: ``majority`` class of train, ``open_return`` O(t+2)/O(t+1) - 1, ``close`` and
            ``next_close`` in quoted prices of day t, ``scaled_error`` of a predicted close on the network's own scale.
        facts: Parameters, search, threshold, history: for the metadata.
        digests: sha256 of bars, features, splits, search, params, weights, threshold, predictions.
        splits: Ticker → sizes and dates of its splits.
        skipped: Ticker → reason.
        holes: Ticker → first day after a hole → return over the hole.
        files: Suffix → bytes of the artifact; none in a walk-forward, which keeps predictions, not models.
        params: Parameters that later folds may use as they are.
        seed: Seed of the fit.
    """

    rows: Columns
    aux: Columns
    facts: JsonDict
    digests: dict[str, str]
    splits: dict[str, JsonDict]
    skipped: dict[str, str]
    params: Mapping[str, Any] | None
    seed: int
    holes: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FittedFold:
    """A fold with the parts that it is made of, for whoever looks closer than `FoldResult` tells.

    Attributes:
        panel: Labelled splits of each ticker.
        fitted: The model.
        choices: Ticker → threshold; none for a model that predicts prices.
        rows: As in `FoldResult`.
        aux: As in `FoldResult`.
        holes: As in `FoldResult`.
        digests: As in `FoldResult`.
        skipped: As in `FoldResult`.
        seed: As in `FoldResult`.
    """

    panel: Sequence[TickerData]
    fitted: Fitted
    choices: Mapping[str, ThresholdChoice]
    rows: Columns
    aux: Columns
    holes: Mapping[str, Mapping[str, float]]
    digests: dict[str, str]
    skipped: dict[str, str]
    seed: int


def run_fold(task: FoldTask, bars: Mapping[str, Bars], report: Report) -> FoldResult:
    """Fit, decide and predict one fold.

    Raises:
        NothingToTrainError: No ticker of the task has samples; each reason is in the message.
    """
    fold = fit_fold(task, bars, report)
    shown = task.closing or not task.out_of_sample
    thresholds = {ticker: choice.to_json(curve=shown) for ticker, choice in fold.choices.items()}
    facts = {**fold.fitted.facts, "columns": list(fold.panel[0].table.columns), "threshold": thresholds}
    facts["degenerate"] = _degenerate(fold, facts)
    if fold.choices and shown:
        facts["permutation_importance"] = permutation_importance(fold.fitted, fold.panel[0], seed=fold.seed)
    return FoldResult(
        rows=fold.rows,
        aux=fold.aux,
        facts=facts,
        digests=fold.digests,
        splits={data.table.ticker: dict(data.splits.boundaries) for data in fold.panel},
        skipped=fold.skipped,
        params=fold.fitted.params,
        seed=fold.seed,
        holes=fold.holes,
        files={} if task.out_of_sample else fold.fitted.files(),
    )


def _degenerate(fold: FittedFold, facts: JsonDict) -> JsonDict:
    """Ticker → what is degenerate about the fit; only tickers of which there is something to say."""
    owners, classes = fold.rows["ticker"], fold.rows["class"]
    predicted = np.isfinite(fold.rows["probability"]) | np.isfinite(fold.rows["predicted_close"])
    found = {}
    for data in fold.panel:
        ticker = data.table.ticker
        found[ticker] = find_degenerate(data, facts, fold.choices.get(ticker), classes[predicted & (owners == ticker)])
    return {ticker: words for ticker, words in found.items() if words}


def fit_fold(task: FoldTask, bars: Mapping[str, Bars], report: Report, memo: Memo | None = None) -> FittedFold:
    """The same, as parts; ``memo`` knows what stages made of their input before."""
    seed = task_seed(task.config.seed, task.name, task.fold)
    set_global_seeds(seed)
    report("stage features")
    panel, skipped = _prepare(task, bars)
    report("stage fit")
    model = get_model(task.model)
    request = FitRequest(
        config=task.config,
        seed=seed,
        params=task.params,
        search=task.search,
        report=report,
        checkpoint=task.checkpoint,
        memo=memo or Memo(),
        lanes=task.lanes,
    )
    fitted = model.fit(panel, request)
    report("stage predict")
    choices = [_choose_threshold(fitted, data, task.config.threshold, task.terms) for data in panel]
    tables = [_rows(task, fitted, data, choice) for data, choice in zip(panel, choices, strict=True)]
    rows, aux = (_joined(parts) for parts in zip(*tables, strict=True))
    chosen = {data.table.ticker: choice for data, choice in zip(panel, choices, strict=True) if choice}
    return FittedFold(
        panel=panel,
        fitted=fitted,
        choices=chosen,
        rows=rows,
        aux=aux,
        holes=_hole_returns(panel, rows),
        digests=_data_digests(panel, bars) | dict(fitted.digests) | _outcome_digests(chosen, rows),
        skipped=skipped,
        seed=seed,
    )


def stitch(results: Iterable[FoldResult]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of several folds, and what stands beside them, in one table each, sorted by fold, ticker and date."""
    tables = zip(*((result.rows, result.aux) for result in results), strict=True)
    rows, aux = (pd.DataFrame(_joined(parts)) for parts in tables)
    ticker = pd.factorize(rows["ticker"], sort=True)[0]
    order = np.lexsort((rows["date"].to_numpy(), ticker, rows["fold"].to_numpy()))
    return rows.iloc[order].reset_index(drop=True), aux.iloc[order].reset_index(drop=True)


def _joined(parts: Sequence[Columns]) -> Columns:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _prepare(task: FoldTask, bars: Mapping[str, Bars]) -> tuple[list[TickerData], dict[str, str]]:
    """Labelled splits of each ticker that has them, and why the others have not."""
    processor = StockDataProcessor(task.config)
    panel, skipped = [], {}
    for ticker, border in task.borders.items():
        try:
            panel.append(processor.prepare_ticker(ticker, bars[ticker].frame, border, out_of_sample=task.out_of_sample))
        except NextbarError as error:
            skipped[ticker] = str(error)
    if not panel:
        raise NothingToTrainError("; ".join(skipped.values()))
    return panel, skipped


def _choose_threshold(fitted: Fitted, data: TickerData, objective: str, terms: Terms) -> ThresholdChoice | None:
    """Tune the threshold on validation, or take the one asked for; None for a model that predicts prices."""
    probability = fitted.validate(data)
    if probability is None:
        return None
    val = data.splits.val
    returns = None if objective == "balanced_accuracy" else val.next_returns
    tuned = tune_threshold(
        probability,
        returns,
        val.y,
        cost_bps=terms.cost_bps,
        risk_free=terms.risk_free,
        periods=terms.periods,
    )
    return tuned if objective in THRESHOLD_OBJECTIVES else tuned.set_to(float(objective))


def _rows(task: FoldTask, fitted: Fitted, data: TickerData, choice: ThresholdChoice | None) -> tuple[Columns, Columns]:
    """Out-of-sample rows of one ticker and what stands beside them."""
    table, forecast = data.table, fitted.predict(data)
    decided = data.decisions[np.isfinite(forecast)]
    at = np.union1d(decided, _closing_rows(task, data, decided))
    predicted, nothing = np.full(len(at), np.nan), np.full(len(at), np.nan)
    here = np.searchsorted(at, decided)
    predicted[here] = forecast[np.isfinite(forecast)]
    returns, opened = nothing.copy(), nothing.copy()
    returns[here] = close_returns(table.close, table.dates, table.max_gap_days)[decided]
    opened[here] = open_returns(table.open, table.dates, table.max_gap_days)[decided]
    quote, close = table.quote[at], table.close[at]
    if choice is None:
        classes = (predicted > close).astype(np.int8)
        probability, price, threshold = nothing, predicted * quote, nothing
    else:
        classes = classify(predicted, choice.threshold)
        probability, price = predicted, nothing
        threshold = np.where(np.isfinite(predicted), choice.threshold, np.nan)
    rows = {
        "date": table.dates[at].astype("datetime64[ms]"),
        "ticker": np.full(len(at), table.ticker),
        "fold": np.full(len(at), task.fold),
        "probability": probability,
        "predicted_close": price,
        "threshold": threshold,
        "class": classes,
        "signal": to_signal(classes),
        "next_return": returns,
        "strategy_return": nothing,
    }
    aux = {
        "majority": np.full(len(at), 2 * int(data.splits.train.y.sum()) > len(data.splits.train.y), dtype=np.int8),
        "open_return": opened,
        "close": close * quote,
        "next_close": close * (1.0 + returns) * quote,
        "scaled_error": _scaled_error(fitted, table.ticker, predicted, close * (1.0 + returns)),
    }
    return rows, aux


def _closing_rows(task: FoldTask, data: TickerData, decided: IntArray) -> IntArray:
    """Rows on which an open position is sold without a decision: first bars after holes, and a ticker's last bar.

    Each follows a decision of this fold. In a walk-forward it may be the bar after the window.
    """
    table, stop = data.table, min(data.border.end + task.out_of_sample, len(data.table.dates))
    closing = gaps(table.dates, table.max_gap_days)
    if table.ticker in task.ended:
        closing[-1] = True
    rows = np.flatnonzero(closing[:stop])
    return rows[np.diff(np.searchsorted(decided, rows), prepend=0) > 0]


def _hole_returns(panel: Sequence[TickerData], rows: Columns) -> dict[str, dict[str, float]]:
    """Ticker → day of a row that is the first bar after a hole → return over the hole."""
    found: dict[str, dict[str, float]] = {}
    for data in panel:
        table = data.table
        days = rows["date"][rows["ticker"] == table.ticker].astype("datetime64[D]")
        ends = np.flatnonzero(gaps(table.dates, table.max_gap_days) & np.isin(table.dates, days))
        if len(ends):
            earned = (table.close[ends] / table.close[ends - 1] - 1.0).tolist()
            found[table.ticker] = finite(dict(zip(map(str, table.dates[ends]), earned, strict=True)))
    return found


def _scaled_error(fitted: Fitted, ticker: str, predicted: FloatArray, actual: FloatArray) -> FloatArray:
    """Error in units of the target's fitted range; NaN for a model that predicts no price."""
    ranges = fitted.facts.get("target_range")
    return np.full(len(actual), np.nan) if ranges is None else (predicted - actual) / ranges[ticker]


def close_returns(close: FloatArray, dates: DateArray, max_gap_days: int) -> FloatArray:
    """[bars] P(t+1)/P(t) - 1; NaN where a hole of more than ``max_gap_days`` or nothing follows."""
    earned = np.append(close[1:] / close[:-1] - 1.0, np.nan)
    earned[:-1][gaps(dates, max_gap_days)[1:]] = np.nan
    return earned


def open_returns(opens: FloatArray, dates: DateArray, max_gap_days: int) -> FloatArray:
    """[bars] O(t+2)/O(t+1) - 1: what a decision at close t earns from the next open to the one after it.

    NaN where one of the three bars is missing, or a hole of more than ``max_gap_days`` lies between two of them.
    """
    broken, earned = gaps(dates, max_gap_days), np.full(len(opens), np.nan)
    earned[:-2] = opens[2:] / opens[1:-1] - 1.0
    earned[:-2][broken[1:-1] | broken[2:]] = np.nan
    return earned


def ended_tickers(last: Mapping[str, np.datetime64], max_gap_days: int) -> dict[str, str]:
    """Ticker → last day, for tickers whose last day is more than ``max_gap_days`` before that of the run.

    Args:
        last: Ticker of the run → day of its last bar.
        max_gap_days: As for holes.
    """
    limit = max(last.values()) - np.timedelta64(max_gap_days, "D")
    return {ticker: str(day) for ticker, day in last.items() if day < limit}


def _outcome_digests(choices: Mapping[str, ThresholdChoice], rows: Columns) -> dict[str, str]:
    """Digests of the thresholds with their curves, and of the predictions."""
    predictions = [rows[name].astype(np.float64) for name in ("probability", "predicted_close", "signal")]
    thresholds = {ticker: choice.to_json() for ticker, choice in choices.items()}
    return {"threshold": digest_text(repr(thresholds)), "predictions": digest_arrays(predictions)}


def _data_digests(panel: Sequence[TickerData], bars: Mapping[str, Bars]) -> dict[str, str]:
    """Fingerprints of bars, features and labelled splits."""
    parts = [part for data in panel for part in (data.splits.train, data.splits.val, data.splits.test)]
    return {
        "bars": digest_text("".join(digest_bars(bars[data.table.ticker].frame) for data in panel)),
        "features": digest_arrays([data.table.features for data in panel]),
        "splits": digest_arrays([array for part in parts for array in (part.rows, part.y)]),
    }
