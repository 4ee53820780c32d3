"""The decision threshold: from a probability to a class, from a class to a position.

The threshold is chosen on validation data alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from nextbar.scoring.backtest import TRADING_DAYS, finite, net_returns, sharpe_columns
from nextbar.types import DateArray, FloatArray, IntArray, JsonDict

CLASS_TO_SIGNAL: Mapping[int, int] = MappingProxyType({0: 0, 1: 1})
"""Position taken for each predicted class: 1 (up) is long, 0 is flat. Nothing is sold short."""
Objective: TypeAlias = Literal["sharpe", "balanced_accuracy", "default", "given"]

DEFAULT_THRESHOLD = 0.5
MIN_DAYS = 20
# In 400ths, so that 0.5 is exactly among the candidates.
DEFAULT_GRID: FloatArray = np.arange(100, 301) / 400
"""0.25 to 0.75 in steps of 0.0025, 201 candidates."""
DEFAULT_GRID.setflags(write=False)

# Scores this close are equal: rounding must not choose a threshold.
_TIE = 1e-12
# Days times candidates in one block, 128 KiB of float64: larger arrays come fresh from the system, at twice the time.
_BLOCK = 16_384


def classify(probability: npt.ArrayLike, threshold: npt.ArrayLike) -> npt.NDArray[np.int8]:
    """Return class 1 where the probability reaches the threshold (``>=``), else 0."""
    return np.greater_equal(probability, threshold).astype(np.int8)


def to_signal(predicted: npt.ArrayLike) -> npt.NDArray[np.int8]:
    """Return the position of each predicted class 0/1, any shape, by :data:`CLASS_TO_SIGNAL`."""
    table = np.array([CLASS_TO_SIGNAL[0], CLASS_TO_SIGNAL[1]], dtype=np.int8)
    return table[np.asarray(predicted, dtype=np.intp)]


@dataclass(frozen=True, kw_only=True)
class ThresholdCurve:
    """Every candidate with its score.

    Attributes:
        score: [k] NaN where a candidate is not eligible or has no score.
        long_days: [k] validation days on which the candidate is long, of several tickers in one of them at least.
    """

    threshold: FloatArray
    score: FloatArray
    long_days: IntArray


@dataclass(frozen=True, kw_only=True)
class ThresholdChoice:
    """The threshold and how it came about.

    Attributes:
        threshold: Class 1 is predicted from this probability on.
        objective: What was maximised; "default" if there was nothing to choose from, "given" if the user named it.
        score: Its value at the threshold; None for "default" and "given".
        reason: Why the default was taken; None otherwise.
    """

    threshold: float
    objective: Objective
    score: float | None = None
    reason: str | None = None
    curve: ThresholdCurve

    def set_to(self, threshold: float) -> ThresholdChoice:
        """The same curve with a threshold that the user has named."""
        return ThresholdChoice(threshold=threshold, objective="given", curve=self.curve)

    def to_json(self, *, curve: bool = True) -> JsonDict:
        """The record as JSON values, NaN as None, with or without the curve."""
        record = {name: getattr(self, name) for name in ("threshold", "objective", "score", "reason")}
        if not curve:
            return record
        return record | {"curve": {name: finite(values.tolist()) for name, values in vars(self.curve).items()}}


def tune_threshold(
    probability: npt.ArrayLike,
    next_returns: npt.ArrayLike | None,
    truth: npt.ArrayLike,
    *,
    cost_bps: float,
    risk_free: float = 0.0,
    periods: float = TRADING_DAYS,
    grid: FloatArray = DEFAULT_GRID,
    min_days: int = MIN_DAYS,
) -> ThresholdChoice:
    """Choose the threshold with the best net Sharpe ratio, or balanced accuracy without returns, on validation days.

    A candidate is eligible with at least ``min_days`` long and ``min_days`` flat days. Ties go to the candidate nearest
    0.5, then to the lower one. Without an eligible candidate that has a score the threshold is 0.5.
    """
    classes = classify(np.asarray(probability)[:, None], grid)
    long_days = classes.sum(axis=0, dtype=np.int64)
    eligible = (long_days >= min_days) & (len(classes) - long_days >= min_days)
    # Long days are nested, so candidates with as many of them are the same strategy: scored once, tied exactly.
    _, distinct, copies = np.unique(long_days[eligible], return_index=True, return_inverse=True)
    candidates = classes[:, np.flatnonzero(eligible)[distinct]]
    if next_returns is None:
        scores = _balanced_accuracy(candidates, np.asarray(truth, dtype=np.float64))
    else:
        scores = _net_sharpe(candidates, next_returns, cost_bps, risk_free / periods, periods)
    score = np.full(len(grid), np.nan)
    score[eligible] = scores[copies]
    curve = ThresholdCurve(threshold=grid, score=score, long_days=long_days)
    return _choose(curve, eligible, balanced=next_returns is None, days=len(classes), min_days=min_days)


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Validation days of one ticker.

    Attributes:
        dates: [days] its days.
        probability: [days] predicted probability of a rise.
        next_returns: [days] return to the next close.
        truth: [days] class.
    """

    dates: DateArray
    probability: FloatArray
    next_returns: FloatArray
    truth: IntArray


def tune_pooled_threshold(
    tickers: Sequence[Validation],
    *,
    balanced: bool,
    cost_bps: float,
    risk_free: float = 0.0,
    periods: float = TRADING_DAYS,
    grid: FloatArray = DEFAULT_GRID,
    min_days: int = MIN_DAYS,
) -> ThresholdChoice:
    """Choose one threshold for several tickers, as `tune_threshold` does for one.

    What is maximised is the net Sharpe ratio of the portfolio that holds 1/n of each ticker; or, if ``balanced``, the
    mean of the tickers' balanced accuracies, weighted by days. A candidate is eligible with at least ``min_days`` dates
    on which it is long in a ticker and so many on which it is flat in one.
    """
    dates = np.unique(np.concatenate([one.dates for one in tickers]))
    shape = (len(dates), len(grid))
    long, flat, net = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_), np.zeros(shape)
    for one in tickers:
        classes = classify(one.probability[:, None], grid)
        at = np.searchsorted(dates, one.dates)
        long[at] |= classes == 1
        flat[at] |= classes == 0
        if not balanced:
            net[at] += net_returns(to_signal(classes), one.next_returns - risk_free / periods, cost_bps) / len(tickers)
    long_days = long.sum(axis=0, dtype=np.int64)
    eligible = (long_days >= min_days) & (flat.sum(axis=0) >= min_days)
    scores = _mean_balanced_accuracy(tickers, grid) if balanced else sharpe_columns(net, periods)
    curve = ThresholdCurve(threshold=grid, score=np.where(eligible, scores, np.nan), long_days=long_days)
    return _choose(curve, eligible, balanced=balanced, days=len(dates), min_days=min_days)


def _mean_balanced_accuracy(tickers: Sequence[Validation], grid: FloatArray) -> FloatArray:
    """[k] mean over tickers of balanced accuracies, weighted by days; tickers with one class have no weight."""
    total, days = np.zeros(len(grid)), 0
    for one in tickers:
        own = _balanced_accuracy(classify(one.probability[:, None], grid), one.truth.astype(np.float64))
        if np.isfinite(own).all():
            total, days = total + own * len(one.truth), days + len(one.truth)
    return total / days if days else np.full(len(grid), np.nan)


def _choose(
    curve: ThresholdCurve, eligible: npt.NDArray[np.bool_], *, balanced: bool, days: int, min_days: int
) -> ThresholdChoice:
    """Take the best candidate; the default where none of the eligible ones has a score."""
    if not np.isfinite(curve.score).any():
        reason = (
            f"none of the {eligible.sum()} eligible candidates has a score: the validation days are all alike"
            if eligible.any()
            else f"no candidate has {min_days} long and {min_days} flat days among {days} validation days"
        )
        return ThresholdChoice(threshold=DEFAULT_THRESHOLD, objective="default", reason=reason, curve=curve)
    tied = np.flatnonzero(curve.score >= np.nanmax(curve.score) - _TIE)
    # Rounded, because 0.4975 and 0.5025 are equally far from 0.5 and floats say otherwise.
    distance = np.round(np.abs(curve.threshold[tied] - DEFAULT_THRESHOLD), 12)
    best = tied[np.lexsort((curve.threshold[tied], distance))[0]]
    objective: Objective = "balanced_accuracy" if balanced else "sharpe"
    threshold, score = float(curve.threshold[best]), float(curve.score[best])
    return ThresholdChoice(threshold=threshold, objective=objective, score=score, curve=curve)


def _net_sharpe(
    classes: npt.NDArray[np.int8], next_returns: npt.ArrayLike, cost_bps: float, rate: float, periods: float
) -> FloatArray:
    """Net Sharpe ratio of each column of classes [n, k]; the columns go in blocks of a size that is reused.

    The risk-free ``rate`` of a bar is taken off the return of each bar instead of off each position: that is the same.
    """
    days, columns = classes.shape
    blocks = np.array_split(classes, 1 + days * columns // _BLOCK, axis=1)
    excess = np.asarray(next_returns, dtype=np.float64) - rate
    nets = (net_returns(to_signal(block), excess, cost_bps) for block in blocks)
    return np.concatenate([sharpe_columns(net, periods) for net in nets])


def _balanced_accuracy(classes: npt.NDArray[np.int8], truth: FloatArray) -> FloatArray:
    """Mean recall of the two classes for each column of classes [n, k]; NaN if the truth [n] holds only one."""
    ups, downs = truth.sum(), len(truth) - truth.sum()
    if not ups or not downs:
        return np.full(classes.shape[1], np.nan)
    hits, false_alarms = truth @ classes, (1 - truth) @ classes
    balanced: FloatArray = (hits / ups + (1 - false_alarms / downs)) / 2
    return balanced
