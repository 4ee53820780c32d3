"""Figures of predictions and of daily returns. A figure that does not exist is None.

`METRICS` lists those that every run has: a new entry appears in documents, tables and pages. Formulas are written out,
because scikit-learn's checks take 10 ms for a figure of sixty rows, and there is one set per fold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from nextbar.scoring.backtest import annual_return, calmar, finite, max_drawdown, sharpe, sortino
from nextbar.types import BoolArray, FloatArray, IntArray, JsonDict

BASELINES = {
    "always_long": "always long",
    "majority_class": "majority class of train",
    "yesterday_direction": "yesterday's direction",
    "constant_exposure": "constant, own exposure",
}
"""Baseline → what tables and pages call it."""
NOTHING = "–"
"""Text for a missing figure."""


QUARTER_DAYS = 63
"""Fewer days make no rate a year."""
RATES = ("annual_return", "annual_volatility", "alpha", "calmar", "turnover")
"""Figures that are rates a year, or ratios of one."""
CROSS_SECTION = 5
"""Fewest tickers with a prediction and a next return on a day that make a correlation over tickers."""


class Detail(IntEnum):
    """Which tables have the column of a metric: all of them, those of walk-forwards and pages, or pages alone."""

    MAIN = 1
    FULL = 2
    PAGE = 3


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Predicted classes beside the truth.

    Attributes:
        truth: [n] whether the next close was higher.
        predicted: [n] whether it was predicted to be.
        probability: [n] predicted probability that it is; NaN if the model has none.
        ticker: [n] number of the row's ticker, from 0.
        earned: [n] next return; None where only directions are known.
        day: [n] number of the row's day; None likewise.
    """

    truth: BoolArray
    predicted: BoolArray
    probability: FloatArray
    ticker: IntArray
    earned: FloatArray | None = None
    day: IntArray | None = None

    def __len__(self) -> int:
        return len(self.truth)

    @cached_property
    def daily_ic(self) -> FloatArray:
        """[days] correlation over tickers of probability and next return, on days with `CROSS_SECTION` or more."""
        return self._correlations(lambda values, _day: values)[1]

    @property
    def daily_rank_ic(self) -> FloatArray:
        """[days] the same of their ranks, ties sharing theirs (Spearman)."""
        return self.rank_ic_by_day[1]

    @cached_property
    def rank_ic_by_day(self) -> tuple[IntArray, FloatArray]:
        """The numbers of the days that have a correlation of ranks, and its values, both [days]."""
        return self._correlations(_ranks)

    def _correlations(self, change: Callable[[FloatArray, IntArray], FloatArray]) -> tuple[IntArray, FloatArray]:
        if self.earned is None or self.day is None:
            return np.empty(0, dtype=np.int64), np.empty(0)
        known = np.isfinite(self.probability) & np.isfinite(self.earned)
        day = self.day[known]
        return _correlations(change(self.probability[known], day), change(self.earned[known], day), day)


@dataclass(frozen=True, kw_only=True)
class Days:
    """A daily series, every day once.

    Attributes:
        net: [n] returns after costs.
        excess: [n] ``net`` minus the risk-free return of the capital in position.
        exposure: [n] position that earned them; for a portfolio the mean position of its tickers.
        traded: [n] absolute change of position; for a portfolio the mean over its tickers, because one ticker's entry
            does not cancel another's exit.
        cost_bps: Cost of a change of position by 1 that ``net`` has paid, in basis points.
        round_trips: Trades closed, all tickers together: how often a position returned to 0 or changed its sign. A
            change of size alone closes nothing.
    """

    net: FloatArray
    excess: FloatArray
    exposure: FloatArray
    traded: FloatArray
    cost_bps: float
    periods: float
    round_trips: int = 0

    def __len__(self) -> int:
        return len(self.net)


@dataclass(frozen=True)
class Metric:
    """A figure that every run has.

    Attributes:
        of: What it is computed from.
        formula: Its value, given at least one row or day; None, NaN or infinity where it has none.
        better: Which of two values is the better one.
        label: Heading of its column; empty: documents alone have it.
        digits: Digits after the point; None: in percent.
        detail: Which tables have its column.
    """

    name: str
    of: type[Rows | Days]
    formula: Callable[[Any], float | None]
    better: Literal["higher", "lower", "neither"] = "higher"
    label: str = ""
    digits: int | None = 3
    detail: Detail = Detail.MAIN

    def text(self, figures: Mapping[str, Any]) -> str:
        """Write its value in a record of figures."""
        return figure_text(figures.get(self.name), self.digits)


def figure_text(value: float | None, digits: int | None) -> str:
    """Write a figure with fixed digits, or in percent with one; a dash where there is none."""
    if value is None:
        return NOTHING
    return f"{100 * value:,.1f} %" if digits is None else f"{value:,.{digits}f}"


def _volatility(days: Days) -> float | None:
    """Return the standard deviation (ddof 1) a year."""
    return float(days.net.std(ddof=1) * np.sqrt(days.periods)) if len(days) > 1 else None


_LISTED = (
    Metric("n", Rows, len, "neither"),
    Metric("positive_share", Rows, lambda rows: rows.truth.mean(), "neither"),
    Metric("accuracy", Rows, lambda rows: (rows.truth == rows.predicted).mean()),
    Metric(
        "balanced_accuracy",
        Rows,
        lambda rows: float(balanced_accuracy(outcomes(rows.truth, rows.predicted, rows.ticker))),
        label="bal. accuracy",
    ),
    Metric("precision", Rows, lambda rows: _share(rows.truth & rows.predicted, rows.predicted)),
    Metric("recall", Rows, lambda rows: _share(rows.truth & rows.predicted, rows.truth)),
    Metric("f1", Rows, lambda rows: 2 * _share(rows.truth & rows.predicted, [rows.truth, rows.predicted])),
    Metric("roc_auc", Rows, lambda rows: roc_auc(rows.truth, rows.probability), label="ROC-AUC"),
    Metric("rmse", Rows, lambda rows: np.sqrt(1 - (rows.truth == rows.predicted).mean()), "lower"),
    Metric("brier", Rows, lambda rows: ((rows.truth - rows.probability) ** 2).mean(), "lower"),
    Metric("log_loss", Rows, lambda rows: log_loss(rows.truth, rows.probability), "lower", "log loss", 4, Detail.PAGE),
    Metric("mcc", Rows, lambda rows: mcc(rows.truth, rows.predicted), label="MCC", detail=Detail.PAGE),
    Metric("ic", Rows, lambda rows: _mean(rows.daily_ic), label="daily IC", digits=4, detail=Detail.PAGE),
    Metric("ic_t", Rows, lambda rows: _mean_t(rows.daily_ic), label="IC t", digits=1, detail=Detail.PAGE),
    Metric("rank_ic", Rows, lambda rows: _mean(rows.daily_rank_ic), label="rank IC", digits=4, detail=Detail.PAGE),
    Metric(
        "rank_ic_t", Rows, lambda rows: _mean_t(rows.daily_rank_ic), label="rank IC t", digits=1, detail=Detail.PAGE
    ),
    Metric("days", Days, len, "neither"),
    Metric("sharpe", Days, lambda days: sharpe(days.excess, days.periods), label="Sharpe", digits=2),
    Metric("sortino", Days, lambda days: sortino(days.excess, days.periods), "higher", "Sortino", 2, Detail.PAGE),
    Metric("calmar", Days, lambda days: calmar(days.net, days.periods), "higher", "Calmar", 2, Detail.PAGE),
    Metric("max_drawdown", Days, lambda days: max_drawdown(days.net), label="max drawdown", digits=None),
    Metric("total_return", Days, lambda days: np.prod(np.maximum(1.0 + days.net, 0.0)) - 1.0),
    Metric(
        "annual_return",
        Days,
        lambda days: annual_return(days.net, days.periods),
        label="annual return",
        digits=None,
        detail=Detail.FULL,
    ),
    Metric("annual_volatility", Days, _volatility, "lower", "volatility", None, Detail.PAGE),
    Metric("exposure", Days, lambda days: np.abs(days.exposure).mean(), "neither", "exposure", None, Detail.FULL),
    Metric("turnover", Days, lambda days: days.traded.mean() * days.periods, "neither", "turnover", 1, Detail.FULL),
    # Of the days with a position, those that earned more than 0 net.
    Metric("hit_rate", Days, lambda days: (days.net[days.exposure != 0] > 0).sum() / (days.exposure != 0).sum()),
    # Cost of a change of position by 1 at which the mean net return is 0.
    Metric("break_even_bps", Days, lambda days: days.cost_bps + 1e4 * (days.net.sum() / days.traded.sum())),
)
METRICS = {metric.name: metric for metric in _LISTED}
"""Name → metric, in the order of the columns."""


def shown_metrics(detail: Detail) -> list[Metric]:
    """Return the metrics that have a column in tables of this detail."""
    return [metric for metric in METRICS.values() if metric.label and metric.detail <= detail]


def without_rates(figures: Mapping[str, Any]) -> JsonDict:
    """Leave out the rates a year of fewer days than a quarter, in figures and in the records inside them."""
    days = figures.get("days")
    short = isinstance(days, int) and days < QUARTER_DAYS
    return {
        name: None if short and name in RATES else without_rates(value) if isinstance(value, dict) else value
        for name, value in figures.items()
    }


def metrics_of(data: Rows | Days) -> JsonDict:
    """Compute the metrics of predictions, or of daily returns."""
    found: JsonDict = {}
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        for metric in METRICS.values():
            if metric.of is type(data):
                value = metric.formula(data) if len(data) or metric.formula is len else None
                found[metric.name] = value if isinstance(value, int | None) else finite(float(value))
    return found


def outcomes(truth: BoolArray, predicted: BoolArray, group: IntArray, groups: int = 1) -> FloatArray:
    """Count, for each group of rows: rises predicted, rises, falls predicted, falls."""
    kinds = (predicted & truth, truth, ~predicted & ~truth, ~truth)
    return np.stack([np.bincount(group, weights=kind, minlength=groups) for kind in kinds], axis=1)


def balanced_accuracy(counts: FloatArray) -> FloatArray:
    """Mean over tickers of the mean recall of rises and falls, weighted by their days.

    Pooling the recalls of all tickers would reward a constant class per ticker wherever tickers rise on different
    shares of their days. A ticker with rises alone or falls alone says nothing and has no weight; where every ticker is
    such a one, the result is the accuracy. Without days it is NaN.
    """
    rises, falls = counts[..., 1], counts[..., 3]
    both, days = (rises > 0) & (falls > 0), rises + falls
    with np.errstate(invalid="ignore", divide="ignore"):
        recalls = (counts[..., 0] / rises + counts[..., 2] / falls) / 2
        accuracy = (counts[..., 0] + counts[..., 2]) / days
        weight = np.where(both.any(axis=-1, keepdims=True), days * both, days)
        share = weight / weight.sum(axis=-1, keepdims=True)
    mean: FloatArray = np.where(share == 0, 0.0, np.where(both, recalls, accuracy) * share).sum(axis=-1)
    return mean


def _share(part: npt.ArrayLike, whole: npt.ArrayLike) -> float:
    """Share of the true values of the one in those of the other; 0 where there are none."""
    return np.count_nonzero(part) / (np.count_nonzero(whole) or 1)


def roc_auc(truth: npt.ArrayLike, score: npt.ArrayLike) -> float | None:
    """Area under the ROC curve of any score [n]; 0.5 for a constant one.

    None where a score is NaN or the truth [n] holds one class. From the ranks of the scores, ties sharing theirs (Mann
    and Whitney 1947).
    """
    actual = np.asarray(truth, dtype=bool)
    up, down = int(actual.sum()), int((~actual).sum())
    if not up or not down or np.isnan(score).any():
        return None
    _, place, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return float((ranks[actual].sum() - up * (up + 1) / 2) / (up * down))


def log_loss(truth: BoolArray, probability: FloatArray) -> float:
    """Mean negative logarithm of the probability of what happened; NaN where one is NaN.

    A probability of 0 or 1 counts as the nearest one that has a logarithm.
    """
    least = np.finfo(np.float64).eps
    chance = np.clip(probability, least, 1 - least)
    return float(-np.log(np.where(truth, chance, 1 - chance)).mean())


def mcc(truth: BoolArray, predicted: BoolArray) -> float:
    """Matthews correlation of predicted and true directions; 0 where one of them does not vary."""
    kinds = (predicted & truth, ~predicted & ~truth, predicted & ~truth, ~predicted & truth)
    both_up, both_down, false_up, false_down = (float(np.count_nonzero(kind)) for kind in kinds)
    rises, falls = both_up + false_down, both_down + false_up
    scale = rises * falls * (both_up + false_up) * (both_down + false_down)
    return (both_up * both_down - false_up * false_down) / scale**0.5 if scale else 0.0


def _correlations(first: FloatArray, second: FloatArray, day: IntArray) -> tuple[IntArray, FloatArray]:
    """Return the days that have enough rows and on which both columns vary, and their correlation, both [days]."""
    order = np.argsort(day, kind="stable")
    days, starts, counts = np.unique(day[order], return_index=True, return_counts=True)
    if not len(starts):
        return days, np.empty(0)
    columns = [column[order] for column in (first, second)]
    varies = [np.maximum.reduceat(column, starts) > np.minimum.reduceat(column, starts) for column in columns]
    left, right = (column - np.repeat(np.add.reduceat(column, starts) / counts, counts) for column in columns)
    together, *alone = (np.add.reduceat(part, starts) for part in (left * right, left * left, right * right))
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        found = np.clip(together / np.sqrt(alone[0] * alone[1]), -1.0, 1.0)
    kept = (counts >= CROSS_SECTION) & varies[0] & varies[1] & np.isfinite(found)
    return days[kept], found[kept]


def _ranks(values: FloatArray, day: IntArray) -> FloatArray:
    """[n] rank of each value on its day, up to a constant of the day; ties share the mean of theirs."""
    order = np.lexsort((values, day))
    new = np.append(True, (np.diff(day[order]) != 0) | (np.diff(values[order]) != 0))[: len(values)]
    group = np.cumsum(new) - 1
    place = np.bincount(group, weights=np.arange(len(values))) / np.maximum(np.bincount(group), 1)
    ranks = np.empty(len(values))
    ranks[order] = place[group]
    return ranks


def _mean(daily: FloatArray) -> float | None:
    return float(daily.mean()) if len(daily) else None


def _mean_t(daily: FloatArray) -> float | None:
    """Return the mean over its standard error, days taken as independent."""
    return float(daily.mean() / daily.std(ddof=1) * len(daily) ** 0.5) if len(daily) > 1 else None


def reliability_table(truth: npt.ArrayLike, probability: npt.ArrayLike, bins: int = 10) -> list[JsonDict]:
    """How often the close rose among days with about the same predicted probability."""
    actual, chance = np.asarray(truth, dtype=np.float64), np.asarray(probability, dtype=np.float64)
    # Not linspace, whose fourth edge of ten lies above 0.3: a probability of 0.3 belongs to the bin that starts there.
    edges = np.arange(bins + 1) / bins
    which = np.clip(np.searchsorted(edges, chance, side="right") - 1, 0, bins - 1)
    counts = np.bincount(which, minlength=bins)
    chances, positives = (np.bincount(which, weights=column, minlength=bins) for column in (chance, actual))
    return [
        {
            "lower": float(edges[i]),
            "upper": float(edges[i + 1]),
            "count": int(count),
            "mean_probability": float(chances[i] / count) if count else None,
            "positive_share": float(positives[i] / count) if count else None,
        }
        for i, count in enumerate(counts)
    ]


def price_errors(predicted: npt.ArrayLike, actual: npt.ArrayLike, current: npt.ArrayLike) -> JsonDict:
    """Return errors of a predicted next close beside those of persistence, "tomorrow = today".

    ``skill`` is the mean square skill score 1 - MSE / MSE of persistence (Murphy 1988): 0 is no better, 1 is perfect.
    """
    forecast, close, today = (np.asarray(prices, dtype=np.float64) for prices in (predicted, actual, current))
    if not close.size:
        forecast = close = today = np.full(1, np.nan)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        mse, mse_persistence = (float(np.mean((close - prices) ** 2)) for prices in (forecast, today))
        figures = {
            "price_rmse": float(np.sqrt(mse)),
            "price_rmse_percent": _rmse_percent(forecast, close),
            "price_mae": float(np.mean(np.abs(close - forecast))),
            "persistence_rmse": float(np.sqrt(mse_persistence)),
            "persistence_rmse_percent": _rmse_percent(today, close),
            "skill": 1 - mse / mse_persistence if mse_persistence else None,
        }
    return dict(finite(figures))


def _rmse_percent(forecast: FloatArray, close: FloatArray) -> float:
    return float(100 * np.sqrt(np.mean((forecast / close - 1) ** 2)))
