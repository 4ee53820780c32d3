"""Describe how a result developed over its days: months, a moving Sharpe ratio, drawdowns, spread, correlations."""

from __future__ import annotations

import numpy as np

from nextbar.evaluation.figures import rows_of
from nextbar.evaluation.series import Book
from nextbar.scoring.backtest import finite, sharpe_columns, wealth_path
from nextbar.types import DateArray, FloatArray, JsonDict

DEEPEST = 5
BINS = 41
EDGE_SHARE = 0.005
"""Share of the days at either end that the outermost bins of the spread collect."""


def by_month(dates: DateArray, net: FloatArray) -> list[JsonDict]:
    """Compound daily returns [n] to calendar months, each with its days: the first and last may be cut."""
    if not len(dates):
        return []
    months, starts, counts = np.unique(dates.astype("datetime64[M]"), return_index=True, return_counts=True)
    with np.errstate(over="ignore"):
        grown = np.multiply.reduceat(np.maximum(1.0 + net, 0.0), starts) - 1.0
    return [
        {"year": str(month)[:4], "month": int(str(month)[5:]), "days": int(count), "return": finite(float(value))}
        for month, count, value in zip(months, counts, grown, strict=True)
    ]


def rolling_sharpe(excess: FloatArray, periods: float, window: int) -> FloatArray:
    """[n] annualised Sharpe ratio of the last ``window`` days; NaN before there are so many, and without variance."""
    found = np.full(len(excess), np.nan)
    if window <= len(excess):
        views = np.lib.stride_tricks.sliding_window_view(excess, window)
        found[window - 1 :] = sharpe_columns(views.T, periods)
    return found


def worst_drawdowns(dates: DateArray, net: FloatArray, most: int = DEEPEST) -> list[JsonDict]:
    """Return the deepest falls of wealth below its peak, deepest first.

    ``peak`` is the last day at the peak, the first day where wealth fell from the start; ``recovered`` is None where
    the days end below the peak; ``days`` counts those below it.
    """
    fall = wealth_path(net)[1]
    below = np.concatenate([[False], fall < 0, [False]])
    starts, ends = (np.flatnonzero(change) for change in (~below[:-1] & below[1:], below[:-1] & ~below[1:]))
    parts = zip(starts.tolist(), ends.tolist(), strict=True)
    found = [_drawdown(dates, fall, start, end) for start, end in parts]
    return sorted(found, key=lambda one: one["depth"])[:most]


def _drawdown(dates: DateArray, fall: FloatArray, start: int, end: int) -> JsonDict:
    """Describe the days from ``start`` to before ``end``, all of them below the peak."""
    bottom = start + int(fall[start:end].argmin())
    return {
        "depth": float(fall[bottom]),
        "peak": str(dates[max(start - 1, 0)]),
        "bottom": str(dates[bottom]),
        "recovered": str(dates[end]) if end < len(dates) else None,
        "days": end - start,
    }


def spread(dates: DateArray, net: FloatArray) -> JsonDict | None:
    """Count daily returns [n] in bins of one width; days that earned exactly 0, most of them flat, are left out."""
    moved = net != 0
    earned, days = net[moved], dates[moved]
    if not np.isfinite(earned).all() or np.unique(earned).size < 2:
        return None
    low, high = np.quantile(earned, [EDGE_SHARE, 1 - EDGE_SHARE])
    counts, edges = np.histogram(np.clip(earned, low, high), bins=BINS, range=(low, high))
    worst, best = int(earned.argmin()), int(earned.argmax())
    return {
        "edges": edges.tolist(),
        "counts": counts.tolist(),
        "days": int(moved.sum()),
        "still": int((~moved).sum()),
        "worst": [str(days[worst]), float(earned[worst])],
        "best": [str(days[best]), float(earned[best])],
    }


def daily_correlations(book: Book) -> tuple[DateArray, FloatArray]:
    """Return the days that have a rank correlation over tickers of probability and next return, and its values."""
    rows = rows_of(book, book.predicted, book.probability)
    day, values = rows.rank_ic_by_day
    return book.dates[day], values
