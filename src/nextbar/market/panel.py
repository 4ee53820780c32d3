"""Stored bars as the rules of the check see them: all tickers in flat arrays, with moves from bar to bar."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Final

import numpy as np
import pandas as pd

from nextbar.datasets.prices import History
from nextbar.market.bars import NO_BARS
from nextbar.types import BoolArray, DateArray, FloatArray, IntArray

RATIOS: Final = np.array([1.5, 2, 3, 4, 5, 6, 7, 8, 10, 15, 20, 25, 30, 50, 100])
PRODUCTS: Final = (RATIOS[:, None] * RATIOS).ravel()
SPLITS: Final = np.log(np.unique([*RATIOS[1:], *PRODUCTS[PRODUCTS > 3.5]]))
"""Ratios of splits, and large ones of two on one day: a 10:1 split with a bonus of 3:2 is 15."""
SPLIT_TOLERANCE: Final = np.log(1.05)
"""A split day has a return of its own."""
PENNY: Final = 1.0
"""Below this price the smallest step is a large move."""
UNIT_CHANGES: Final = np.log([100, 1000])
"""Factors at which a price goes on in another unit; at 10 it is rather a split that nobody applied."""
UNIT_TOLERANCE: Final = np.log(1.15)
"""No other move of a day comes near such a factor."""
LARGE: Final = np.log(1.4)
SPIKE: Final = np.log(3)
BACK: Final = np.log(1.5)
MARKET_MOVE: Final = 0.04
"""Median return over the tickers on a day when the whole market moved."""
MARKET_TICKERS: Final = 10
MAX_GAP_DAYS: Final = 15
SPACINGS: Final = {5: "weekly", 21: "monthly", 80: "quarterly", 330: "yearly"}
"""Least median number of days between bars → what they are; fewer are daily bars."""
SPACED_BARS: Final = 12
WEEKEND_SHARE: Final = 0.2
"""Share of bars on Saturdays and Sundays from which a ticker trades on seven days."""
SEVEN: Final = "seven days a week (--calendar 24/7)"


class Panel:
    """Bars as rules see them: one ticker after the other, in arrays with a value per bar.

    Attributes:
        sessions: Trading days of the exchange; empty where the rules that find errors run alone.
        owner: Position in ``names``, the tickers.
        prices: [4, bars] open, high, low, close as quoted; ``volume`` and ``adj_close`` are NaN where there is none.
        follows: Whether the bar before belongs to the same ticker.
        firsts: [tickers] first bar of each; ``last`` says of each bar whether it is its ticker's last.
        quoted_move: log(close / close of the bar before); NaN for a first bar, after a long hole and for a price <= 0.
        move: The same of ``adj_close`` where both bars have it.
        adjusted: Whether ``move`` is that of ``adj_close``.
    """

    def __init__(self, histories: Mapping[str, History], sessions: DateArray) -> None:
        parts = {name: history for name, history in histories.items() if len(history.days)}
        every = [*parts.values(), NO_BARS]
        numbers = np.concatenate([history.numbers for history in every], axis=1)
        self.sessions, self.names = sessions, list(parts)
        self.owner = np.repeat(np.arange(len(every)), [len(history.days) for history in every])
        self.days: DateArray = np.concatenate([history.days for history in every])
        self.prices, self.volume, self.adj_close = numbers[:4], numbers[4], numbers[5]
        self.follows = np.diff(self.owner, prepend=-1) == 0
        self.firsts = np.flatnonzero(~self.follows)
        self.last = ~np.append(self.follows[1:], False)
        near = self.follows & (np.diff(self.days, prepend=self.days[:1]) <= np.timedelta64(MAX_GAP_DAYS, "D"))
        known = np.log(np.where(numbers > 0, numbers, np.nan))
        self.quoted_move, adjusted = (np.where(near, np.diff(known[row], prepend=np.nan), np.nan) for row in (3, 5))
        self.adjusted = ~np.isnan(adjusted)
        self.move: FloatArray = np.where(self.adjusted, adjusted, self.quoted_move)

    @cached_property
    def priced(self) -> BoolArray:
        """Whether this bar or the one before has a price whose smallest step is a small move."""
        return np.asarray(np.fmax(self.prices[3], np.append(np.nan, self.prices[3][:-1])) >= PENNY)

    @cached_property
    def large_moves(self) -> Mapping[str, BoolArray]:
        """Rule → the large moves that it finds; no move belongs to two rules."""
        size = np.abs(self.move)
        # Where adj_close does not move as close does, the adjustment is what is wrong.
        alike = ~self.adjusted | (np.abs(self.move - self.quoted_move) < LARGE / 4)
        spike = alike & (size > SPIKE) & (np.abs(self.move + np.append(self.move[1:], np.nan)) < BACK)
        rest = alike & (size > LARGE) & ~spike & ~np.append(False, spike[:-1])
        unit = rest & self.priced & self.near(UNIT_CHANGES, UNIT_TOLERANCE)
        by_day = pd.Series(self.move).groupby(self.days.astype(np.int64))
        median = by_day.transform("median").where(by_day.transform("count") >= MARKET_TICKERS).to_numpy()
        with_market = (np.abs(median) > MARKET_MOVE) & (median * self.move > 0)
        split = rest & ~unit & self.near(SPLITS, SPLIT_TOLERANCE) & ~with_market
        return {"spike": spike, "unit change": unit, "unapplied split": split, "jump": rest & ~unit & ~split}

    @cached_property
    def spacing(self) -> list[str]:
        """[tickers] weekly, monthly, … or "seven days a week" of bars that come otherwise than on working days."""
        return [_spacing_of(self.days[self.owner == i]) for i in range(len(self.names))]

    def spaced(self, *kinds: str) -> BoolArray:
        """Tell which bars belong to tickers of such a spacing."""
        return np.isin(np.array(self.spacing, dtype="<U40")[self.owner], kinds)

    def near(self, targets: FloatArray, tolerance: float) -> BoolArray:
        """Tell whether the size of a move is near one of the targets, which are sorted."""
        size = np.abs(self.move)
        above = targets.searchsorted(np.nan_to_num(size)).clip(0, len(targets) - 1)
        apart = np.fmin(np.abs(targets[above] - size), np.abs(targets[(above - 1).clip(0)] - size))
        return np.asarray(apart < tolerance)

    def runs(self, mask: BoolArray) -> tuple[IntArray, IntArray]:
        """Return first row and length of each run of marked bars; a run ends with its ticker."""
        starts = mask & ~(np.append(False, mask[:-1]) & self.follows)
        rows = np.flatnonzero(starts)
        return rows, np.bincount(np.cumsum(starts)[mask] - 1, minlength=len(rows))


def _spacing_of(days: DateArray) -> str:
    """Name the spacing of a ticker's bars; "" for working days and for too few bars."""
    if len(days) < SPACED_BARS:
        return ""
    gap = float(np.median(np.diff(days).astype(np.int64)))
    if longer := [kind for least, kind in SPACINGS.items() if gap >= least]:
        return longer[-1]
    weekday = days.astype(np.int64) % 7  # 1970-01-03 was a Saturday
    return SEVEN if min((weekday == 2).mean(), (weekday == 3).mean()) > WEEKEND_SHARE / 2 else ""
