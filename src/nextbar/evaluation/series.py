"""Turn out-of-sample rows into daily series: the one place where positions become returns.

Figures, tests, verdict, ledger and pictures all read the series that are made here, so a number shown and a number
tested are the same number. A portfolio holds 1/n of each ticker of the run. A ticker without a bar on a day keeps its
position and earns 0; its weight does not go to the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from nextbar.config import CommonConfig
from nextbar.errors import BadBarsError
from nextbar.scoring.backtest import TRADING_DAYS, position_changes
from nextbar.scoring.metrics import Days
from nextbar.types import BoolArray, DateArray, FloatArray, IntArray

Majority = Mapping[tuple[int, str], int]
"""(fold, ticker) → majority class of that ticker's train part in that fold, 0 or 1."""
Holes = Mapping[str, Mapping[str, float | None]]
"""Ticker → first day after a hole, YYYY-MM-DD → return over the hole."""

BASELINES = ("always_long", "majority_class", "yesterday_direction", "constant_exposure")
KNOWN_PERIODS = (252.0, 365.0, 52.0)
"""Periods per year of stocks, of markets that never close, and of weekly bars."""
SNAP = 0.03
"""Largest relative distance from one of them that counts as that one."""
FEW_STEPS = 20
"""With fewer steps from day to day, the number per year is not estimated."""


def periods_per_year(dates: Iterable[DateArray], max_gap_days: int) -> float:
    """Count the distinct days of all tickers together per 365.25 days, snapped to `KNOWN_PERIODS`, else rounded.

    A hole of more than ``max_gap_days`` in which no ticker trades is not part of the span. Where fewer than `FEW_STEPS`
    steps from day to day are left, the answer is 252. It is rounded because one more day at either end, which another
    ticker may bring, must not change every rate in the last digits.
    """
    parts = list(dates)
    first = min(days[0] for days in parts)
    traded = np.zeros(int((max(days[-1] for days in parts) - first).astype(np.int64)) + 1, dtype=np.bool_)
    for days in parts:
        traded[(days - first).astype(np.int64)] = True
    steps = np.diff(np.flatnonzero(traded))
    steps = steps[steps <= max_gap_days]
    if len(steps) < FEW_STEPS:
        return float(TRADING_DAYS)
    found = 365.25 * len(steps) / float(steps.sum())
    nearest = min(KNOWN_PERIODS, key=lambda known: abs(found / known - 1))
    return nearest if abs(found / nearest - 1) <= SNAP else float(round(found))


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Terms on which a model and its baselines are compared.

    Attributes:
        cost_bps: Cost of a change of position by 1, in basis points.
        risk_free: Simple annual rate that a position must earn before it counts; idle cash is not charged.
    """

    cost_bps: float
    risk_free: float = 0.0
    periods: float = float(TRADING_DAYS)

    @classmethod
    def of(cls, config: CommonConfig, dates: Iterable[DateArray]) -> Terms:
        """Take the terms of a configuration; periods per year follow from the days unless the user stated them."""
        periods = config.periods_per_year or periods_per_year(dates, config.max_gap_days)
        return cls(cost_bps=config.cost_bps, risk_free=config.risk_free, periods=periods)

    def words(self) -> dict[str, str]:
        """Return each of them in words."""
        return {
            "periods": f"{self.periods:g} periods a year",
            "cost_bps": f"costs of {self.cost_bps:g} basis points",
            "risk_free": f"a risk-free rate of {100 * self.risk_free:g} %",
        }


@dataclass(frozen=True, kw_only=True)
class Book:
    """Rows of a run as arrays [rows], sorted by ticker, then date, so that positions carry over fold borders.

    Attributes:
        dates: [days] all days of the rows, each once, oldest first.
        day: Index into ``dates``.
        who: Index into ``tickers``.
        signal: Position held from the close of the day.
        predicted: Class, 0 or 1.
        earned: Return from that close to the next; NaN where there is none.
        gap: Return over a hole that ends on the day; NaN where none does.
        paused: Day of the bar after that of the row before, where it has no row; NaT elsewhere.
        after: Return from the close of that bar to the next; NaN elsewhere.
        before: Return from the bar before to the row's own, where the bar before has no row; NaN elsewhere.
        resumed: Whether bars without a row lie before the row, on which no position is held; ``left`` whether they lie
            behind it.
        probability: Probability of UP; NaN where the model has none.
        order: Where each row stood in the frame.
    """

    terms: Terms
    dates: DateArray
    tickers: tuple[str, ...]
    day: IntArray
    who: IntArray
    fold: IntArray
    signal: FloatArray
    predicted: IntArray
    earned: FloatArray
    gap: FloatArray
    paused: DateArray
    after: FloatArray
    before: FloatArray
    resumed: BoolArray
    left: BoolArray
    probability: FloatArray
    order: IntArray

    @classmethod
    def of(cls, rows: pd.DataFrame, terms: Terms, *, holes: Holes | None = None, pauses: Holes | None = None) -> Book:
        """Read out-of-sample rows, in any order.

        ``pauses`` are, by ticker, bars between its rows that have none: day of a bar next to a row → its next return.
        """
        who, tickers = pd.factorize(rows["ticker"], sort=True)
        days = rows["date"].to_numpy().astype("datetime64[D]")
        order = np.lexsort((days, who))
        dates, day = np.unique(days[order], return_inverse=True)
        who = who[order].astype(np.int64)
        twice = np.append(False, (who[1:] == who[:-1]) & (day[1:] == day[:-1]))
        if twice.any():
            first = int(twice.argmax())
            raise BadBarsError(
                f"{tickers[who[first]]} {dates[day[first]]}: a second row of the same day ({twice.sum()} such rows); "
                "expected one row per day and ticker, folds must not overlap"
            )
        names = tuple(map(str, tickers))
        return cls(
            terms=terms,
            dates=dates,
            tickers=names,
            day=day.astype(np.int64),
            who=who,
            fold=rows["fold"].to_numpy(dtype=np.int64)[order],
            signal=_column(rows, "signal")[order],
            predicted=rows["class"].to_numpy(dtype=np.int64)[order],
            earned=_column(rows, "next_return")[order],
            gap=_gaps(names, who, days[order], holes or {}),
            **_pauses(names, who, days[order], pauses or {}),
            probability=_column(rows, "probability")[order],
            order=order,
        )

    @property
    def scored(self) -> BoolArray:
        """[rows] whether the row has a next return, so that its class can be right or wrong."""
        known: BoolArray = np.isfinite(self.earned)
        return known

    @property
    def first(self) -> BoolArray:
        """[rows] whether the row is the first of its ticker."""
        return np.append(True, self.who[1:] != self.who[:-1])[: len(self.who)]

    @cached_property
    def holdable(self) -> BoolArray:
        """[rows] whether a position is possible from the close of the row on.

        It is possible where the row has a next return, and on the last bar before a hole. It is not on the first bar
        after a hole, where the position is sold, nor on the last bar of a ticker that ends.
        """
        before_hole = np.append(np.isfinite(self.gap[1:]), False)[: len(self.who)] & ~np.roll(self.first, -1)
        possible: BoolArray = self.scored | before_hole
        return possible

    @property
    def exposure(self) -> FloatArray:
        """[n] mean position of the model in each ticker, with its sign, over the rows on which one is possible."""
        count, n = np.bincount(self.who, weights=self.holdable, minlength=len(self.tickers)), len(self.tickers)
        total = np.bincount(self.who, weights=self.signal * self.holdable, minlength=n)
        mean: FloatArray = total / np.maximum(count, 1)
        return mean

    @cached_property
    def held(self) -> BoolArray:
        """[days, n] whether a position in the ticker is possible, kept on days on which the ticker has no row."""
        possible: BoolArray = self.carried(np.ones(len(self.who))) != 0
        return possible

    @cached_property
    def returns(self) -> FloatArray:
        """[days, n] return from the close of the day to the next; 0 where there is none."""
        return self.scattered(self.earned)

    @cached_property
    def _latest(self) -> IntArray:
        """[days, n] 1 + number of the ticker's last row up to the day; 0 before its first."""
        latest = np.zeros((len(self.dates), len(self.tickers)), dtype=np.int64)
        latest[self.day, self.who] = np.arange(len(self.who)) + 1
        return np.maximum.accumulate(latest, axis=0)

    def carried(self, position: FloatArray) -> FloatArray:
        """[days, n] positions of the rows where one is possible.

        They are kept on days on which a ticker has no row, unless bars without a row follow.
        """
        filled: FloatArray = np.append(0.0, np.where(self.holdable, position, 0.0))[self._latest]
        if self.left.any():
            pauses = np.append(False, self.left)[self._latest]
            pauses[self.day, self.who] = False
            filled[pauses] = 0.0
        return filled

    def scattered(self, values: FloatArray) -> FloatArray:
        """[days, n] values of the rows, 0 where a ticker has no row or the value is not finite."""
        found = np.zeros((len(self.dates), len(self.tickers)))
        found[self.day, self.who] = np.where(np.isfinite(values), values, 0.0)
        return found

    def by_ticker(self, position: FloatArray) -> dict[str, FloatArray]:
        """Series [days, n] of positions [days, n]: the fields of a `Days`, ticker by ticker.

        A position earns the return of its day; the position of the day before earns the return over a hole that ends on
        the day; each change of position costs. One is sold and bought again around bars without a row; a row after
        them bears the cost of both.
        """
        before = np.zeros_like(position)
        before[1:] = position[:-1]
        traded = position_changes(position)
        again = self.day[self.resumed], self.who[self.resumed]
        traded[again] = np.abs(position[again]) + np.abs(before[again])
        rate = self.terms.risk_free / self.terms.periods
        ends = np.isfinite(self.gap)
        after_hole = self.day[ends], self.who[ends]
        with np.errstate(over="ignore", invalid="ignore"):
            net = position * self.returns
            net[after_hole] += before[after_hole] * self.gap[ends]
            net -= self.terms.cost_bps / 1e4 * traded
            return {"net": net, "excess": net - rate * position, "exposure": position, "traded": traded}

    def track(self, position: FloatArray) -> Days:
        """Series of the portfolio for positions [days, n]."""
        side = np.sign(position)
        sold = side[1:] != side[:-1]
        again = self.resumed & (self.day > 0)
        sold[self.day[again] - 1, self.who[again]] = True
        closed = int(np.count_nonzero((side[:-1] != 0) & sold))
        with np.errstate(over="ignore", invalid="ignore"):
            series = {name: values.sum(axis=1) / len(self.tickers) for name, values in self.by_ticker(position).items()}
        return Days(**series, cost_bps=self.terms.cost_bps, periods=self.terms.periods, round_trips=closed)

    @cached_property
    def model(self) -> Days:
        """Series of the model."""
        return self.track(self.carried(self.signal))

    @cached_property
    def constant(self) -> Days:
        """Series of a constant position of the model's own average exposure in each ticker."""
        return self.track(self.held * self.exposure)

    @property
    def edge(self) -> FloatArray:
        """[days] what the model earns above a constant position of its own average exposure."""
        return self.model.excess - self.constant.excess

    @property
    def late(self) -> Book:
        """Return the same signals executed one bar late: each row of a ticker has the signal of the row before it.

        Where bars between the two have no row, it is a row of the first of them.
        """
        follows = np.isnat(self.paused)
        dates, day = np.unique(np.where(follows, self.dates[self.day], self.paused), return_inverse=True)
        return replace(
            self,
            dates=dates,
            day=day,
            signal=np.where(self.first, 0.0, np.roll(self.signal, 1)),
            earned=np.where(follows, self.earned, self.after),
            gap=np.where(follows, self.gap, np.nan),
            resumed=np.roll(self.resumed, 1) & ~self.first,
            left=np.where(np.roll(self.first, -1), self.left, self.resumed),
        )

    def at_opens(self, open_return: FloatArray) -> Book:
        """Return the same signals executed at the next open, without rows whose open return is missing.

        The return over a hole stays that of the closes.
        """
        earned = open_return[self.order]
        return replace(self, earned=earned)._days(np.isfinite(earned) | ~self.scored)

    def yesterday(self) -> IntArray:
        """[rows] direction of the ticker's last bar: 1 if it rose, 0 if it did not or that is not known."""
        known = np.where(np.isnat(self.paused[1:]), self.earned[:-1], self.before[1:])
        moved = np.where(np.isfinite(self.gap[1:]), self.gap[1:], known) > 0
        rose = np.append(False, moved)[: len(self.who)] & ~self.first
        return rose.astype(np.int64)

    def majority(self, majority: Majority | IntArray) -> IntArray:
        """[rows] majority class of train in the row's fold, from a mapping or one class per row of the frame."""
        if not isinstance(majority, Mapping):
            return majority[self.order].astype(np.int64)
        new = self.first | np.append(True, self.fold[1:] != self.fold[:-1])[: len(self.who)]
        keys = zip(self.fold[new].tolist(), self.who[new].tolist(), strict=True)
        found = np.array([majority[fold, self.tickers[number]] for fold, number in keys], dtype=np.int64)
        classes: IntArray = found[np.cumsum(new) - 1]
        return classes

    def classes(self, majority: Majority | IntArray | None) -> dict[str, IntArray]:
        """Baseline → [rows] its classes; without majority classes that baseline is left out."""
        found = {"always_long": np.ones_like(self.predicted)}
        if majority is not None:
            found["majority_class"] = self.majority(majority)
        return found | {"yesterday_direction": self.yesterday()}

    def baselines(self, majority: Majority | IntArray | None) -> dict[str, Days]:
        """Baseline → its series, on the days and costs of the model."""
        found = {
            name: self.track(self.carried(classes.astype(np.float64)))
            for name, classes in self.classes(majority).items()
        }
        return found | {"constant_exposure": self.constant}

    def only(self, ticker: str) -> Book:
        """The book of one ticker, on its own days."""
        number = self.tickers.index(ticker)
        here = slice(*np.searchsorted(self.who, [number, number + 1]).tolist())
        days = self.day[here]
        rows = np.arange(len(days))
        return self._part(here, tickers=(ticker,), who=np.zeros_like(rows), day=rows, dates=self.dates[days])

    def within(self, fold: int) -> Book:
        """The book of one fold: positions start flat, and the portfolio is that of the whole run."""
        return self._days(self.fold == fold)

    def _days(self, here: BoolArray) -> Book:
        """The book of some of its rows, on their days."""
        dates, day = np.unique(self.dates[self.day[here]], return_inverse=True)
        return self._part(here, dates=dates, day=day, who=self.who[here])

    def _part(self, here: BoolArray | slice, **changed: Any) -> Book:
        """The book of some of its rows, with what else changes."""
        names = {"fold", "signal", "predicted", "earned", "gap", "paused", "after", "before", "left"}
        names |= {"probability", "order"}
        kept = {name: getattr(self, name)[here] for name in names}
        passed = np.cumsum(self.resumed)[here]  # a row that is left out may be the one that resumed
        resumed = np.append(self.resumed[here][:1], np.diff(passed) > 0)[: len(passed)]
        return replace(self, **kept, resumed=resumed, **changed)


def _own(tickers: tuple[str, ...], who: IntArray, values: Holes) -> Iterator[tuple[slice, pd.Series[float]]]:
    """Yield the rows of each ticker that has values, of rows sorted by ticker, and its values by day."""
    for ticker, own in values.items():
        if ticker in tickers:
            number = tickers.index(ticker)
            days = np.array(list(own), dtype="datetime64[D]")
            here = slice(*np.searchsorted(who, [number, number + 1]).tolist())
            yield here, pd.Series(list(own.values()), days, dtype=np.float64).sort_index()


def _gaps(tickers: tuple[str, ...], who: IntArray, days: DateArray, holes: Holes) -> FloatArray:
    """[rows] return over a hole that ends on the row's day, for rows sorted by ticker, then day; NaN elsewhere."""
    found = np.full(len(who), np.nan)
    for here, returns in _own(tickers, who, holes):
        found[here] = returns.reindex(days[here]).to_numpy()
    return found


def _pauses(tickers: tuple[str, ...], who: IntArray, days: DateArray, pauses: Holes) -> dict[str, Any]:
    """Give ``paused``, ``after``, ``before``, ``resumed`` and ``left``, [rows] sorted by ticker, then day."""
    paused, after = np.full(len(who), np.datetime64("NaT", "D")), np.full(len(who), np.nan)
    before, left = after.copy(), np.zeros(len(who), dtype=np.bool_)
    for here, returns in _own(tickers, who, pauses):
        skipped = returns.index.to_numpy().astype("datetime64[D]")
        place = np.searchsorted(skipped, days[here])
        resumed = np.flatnonzero(np.diff(place)) + 1
        at, first, last = here.start + resumed, place[resumed - 1], place[resumed] - 1
        left[at - 1] = True
        left[here.stop - 1] = place[-1] < len(skipped)
        paused[at], after[at], before[at] = skipped[first], returns.to_numpy()[first], returns.to_numpy()[last]
    return {"paused": paused, "after": after, "before": before, "resumed": ~np.isnat(paused), "left": left}


def _column(frame: pd.DataFrame, name: str) -> FloatArray:
    return frame[name].to_numpy(dtype=np.float64, na_value=np.nan)
