"""The label, made inside one split: it is handed the split's bars alone and can therefore see no others."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from nextbar.types import BoolArray, DateArray, FloatArray, IntArray


class Labels(NamedTuple):
    """Labels of one split.

    Attributes:
        rows: [samples] positions inside the split.
        y: [samples] 1 if the next close is higher, else 0 (a close that does not move counts as 0).
        next_returns: [samples] P(t+1) / P(t) - 1.
    """

    rows: IntArray
    y: IntArray
    next_returns: FloatArray


def label_split(close: FloatArray, dates: DateArray, *, purge: int, max_gap_days: int) -> Labels:
    """``y(t) = 1 if close(t+1) > close(t) else 0`` for the bars of one split.

    The last row has no next close in its split; ``purge`` rows are dropped there. A row whose next bar is more than
    ``max_gap_days`` calendar days away is dropped too.
    """
    count = max(len(close) - max(purge, 1), 0)
    now, following = close[:count], close[1 : count + 1]
    rows = np.flatnonzero(~gaps(dates, max_gap_days)[1 : count + 1])
    y = (following > now).astype(np.int64)
    return Labels(rows=rows, y=y[rows], next_returns=(following / now - 1.0)[rows])


def stretches(dates: DateArray, max_gap_days: int) -> list[slice]:
    """Rows of each run of bars without a hole, oldest first."""
    starts = [0, *np.flatnonzero(gaps(dates, max_gap_days)).tolist()]
    return [slice(start, stop) for start, stop in zip(starts, [*starts[1:], len(dates)], strict=True)]


def usable_rows(dates: DateArray, *, warmup: int, max_gap_days: int) -> BoolArray:
    """[bars] False in the first ``warmup`` bars of each run without a hole: there an indicator is not yet settled."""
    rows = np.arange(len(dates))
    starts = np.maximum.accumulate(np.where(gaps(dates, max_gap_days), rows, 0))
    usable: BoolArray = rows - starts >= warmup
    return usable


def gaps(dates: DateArray, max_gap_days: int) -> BoolArray:
    """[bars] True where more than ``max_gap_days`` calendar days lie between a bar and the one before it."""
    wide = np.zeros(len(dates), dtype=np.bool_)
    wide[1:] = np.diff(dates) > np.timedelta64(max_gap_days, "D")
    return wide
