"""Turn bars into labelled samples: clean, compute features, split, label; each step gets only the rows it may use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from nextbar.datasets.prices import NUMBERS, History, RawBars, stored_frame
from nextbar.errors import BadBarsError, FeatureError, NotEnoughHistoryError
from nextbar.features.indicators import days_of, gaps, stretches, whole_bars
from nextbar.features.spec import BUILT_IN, FeatureSpec, built_in_values, panel_columns
from nextbar.types import BoolArray, Border, DateArray, FeatureTable, FloatArray, IntArray, JsonDict
from nextbar.words import occur_twice, plural

INDICATORS = BUILT_IN[1:]
MOST_WEIGHT = 4.0
"""Most that a row of a date with few tickers weighs; one of a date with the mean number of tickers weighs 1."""


@dataclass(frozen=True, kw_only=True)
class Bars:
    """Bars of one ticker that can be used, and how many could not.

    Attributes:
        frame: Market-format frame, with ``Quoted`` (the close as quoted) where prices are adjusted.
        dropped: Bars with a missing or non-positive price, left out.
        adjustment: ``forward``, ``raw`` (asked for) or ``none`` (the table has no adjusted close).
        raw: What they were made from, where a certificate changes it.
        panel: Feature columns over all tickers, a row per bar; None where there are none.
    """

    frame: pd.DataFrame
    dropped: int
    adjustment: str
    raw: RawBars | None = None
    panel: pd.DataFrame | None = None

    def with_panel(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return a frame of these bars with the columns over all tickers beside its own."""
        return frame if self.panel is None else pd.concat([frame, self.panel], axis=1)

    def changed(self, ticker: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Bars:
        """Return the bars that changed stored bars would give; without ``raw``, change the frame itself."""
        if self.raw is None:
            return replace(self, frame=change(self.frame))
        return clean_bars(ticker, self.raw.adjusted(change(stored_frame(self.raw.history))))


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Labelled rows of one split of one ticker.

    Attributes:
        X: [samples, columns] features known at the close of the day.
        y: [samples] 1 if the next close is higher, else 0 (also where it does not move).
        dates: [samples] the days on which the decision is taken.
        prices: [samples] close P(t) of those days.
        next_returns: [samples] P(t+1) / P(t) - 1.
        rows: [samples] positions in the ticker's table.
    """

    X: FloatArray
    y: IntArray
    dates: DateArray
    prices: FloatArray
    next_returns: FloatArray
    rows: IntArray

    def taken(self, which: Any) -> Samples:
        """Return some of the samples."""
        return Samples(**{item.name: getattr(self, item.name)[which] for item in fields(self)})


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Labelled rows of one split of several tickers, by date and then by ticker.

    Attributes:
        X: [samples, columns] features known at the close of the day.
        y: [samples] labels as in `Samples`.
        dates: [samples] days of the decisions.
        ends: [samples] days of the next close, which the labels depend on.
        weights: [samples] weights that let each date count alike; mean about 1, at most `MOST_WEIGHT`.
        next_returns: [samples] P(t+1) / P(t) - 1.
    """

    X: FloatArray
    y: IntArray
    dates: DateArray
    ends: DateArray
    weights: FloatArray
    next_returns: FloatArray

    @classmethod
    def of(cls, parts: Sequence[tuple[FeatureTable, Samples]]) -> Pool:
        """Put the samples of several tickers together; the order of the tickers does not matter."""
        parts = sorted(parts, key=lambda part: part[0].ticker)
        order = np.argsort(np.concatenate([own.dates for _, own in parts]), kind="stable")
        columns: dict[str, Any] = {
            name: np.concatenate([getattr(own, name) for _, own in parts])[order]
            for name in ("X", "y", "dates", "next_returns")
        }
        ends = np.concatenate([table.dates[own.rows + 1] for table, own in parts])[order]
        return cls(**columns, ends=ends, weights=date_weights(columns["dates"]))

    @property
    def days(self) -> int:
        """Distinct dates."""
        return len(np.unique(self.dates))

    @property
    def rows_a_day(self) -> float:
        """Mean number of rows of a date."""
        return len(self.dates) / max(self.days, 1)


def date_weights(dates: DateArray) -> FloatArray:
    """[rows] weights that let each date count alike, but no row more than four times as much as on a mean date."""
    _, which, counts = np.unique(dates, return_inverse=True, return_counts=True)
    mean = len(dates) / max(len(counts), 1)
    weights: FloatArray = np.minimum(mean / counts, MOST_WEIGHT)[which]
    return weights


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Train, validation and test of one ticker, each labelled inside its own rows.

    Attributes:
        table: The features that the samples are rows of.
        border: Where the splits begin.
        train: Samples that the weights are fitted on.
        val: Samples for early stopping and the threshold.
        test: Samples that are scored once.
        boundaries: Rows and days of each split, and under ``lost`` how many rows are no samples and why.
    """

    table: FeatureTable
    border: Border
    train: Samples
    val: Samples
    test: Samples
    boundaries: Mapping[str, Any]

    @property
    def feature_columns(self) -> tuple[str, ...]:
        """Names of the columns of ``X``, in order."""
        return self.table.columns

    @property
    def before_test(self) -> Splits:
        """The same without test and the bars from there on: a model cannot use what it is not given."""
        stop, nothing = self.border.test, slice(0, 0)
        names = ("dates", "features", "close", "open", "quote", "usable")
        table = replace(self.table, **{name: getattr(self.table, name)[:stop] for name in names})
        return replace(self, table=table, border=replace(self.border, end=stop), test=self.test.taken(nothing))

    def tested_from(self, day: np.datetime64) -> Splits:
        """The same with a test that begins on a day, or later; train and validation stay."""
        rows, end = self.test.dates >= day, self.border.end
        start = min(max(int(self.table.dates.searchsorted(day)), self.border.test), end)
        border = replace(self.border, test=start)
        boundaries = {**self.boundaries, "test": describe(self.table.dates, border)["test"]}
        return replace(self, border=border, test=self.test.taken(rows), boundaries=boundaries)

    @cached_property
    def decisions(self) -> IntArray:
        """[decisions] test rows that are predicted: samples, and last bars before holes, whose labels are unknown.

        The first bar after a hole is not among them, because indicators start again there.
        """
        table, border = self.table, self.border
        broken = gaps(table.dates, table.max_gap_days)
        last = np.flatnonzero(np.append(broken[1:], False) & table.known)
        last = last[(last >= border.test) & (last < border.end)]
        rows: IntArray = np.union1d(self.test.rows, last)
        return rows[~broken[rows]]


def clean_bars(ticker: str, frame: pd.DataFrame) -> Bars:
    """Leave out bars that have a missing or non-positive price."""
    repeated = frame.index.to_numpy()[frame.index.duplicated()].astype("datetime64[D]")
    if len(repeated):
        raise BadBarsError(
            f"{ticker}: {occur_twice(len(repeated), 'date')}, the first {repeated[0]}; keep one bar per day and ticker"
        )
    good = whole_bars(frame)
    if not good.any():
        raise BadBarsError(f"{ticker}: none of {plural(len(frame), 'bar')} has four positive prices; ingest it again")
    adjustment = str(frame.attrs.get("adjustment", "raw"))
    return Bars(frame=frame if good.all() else frame[good], dropped=int((~good).sum()), adjustment=adjustment)


def tell_last(history: History, bars: Bars, end: np.datetime64 | None = None) -> str:
    """Say which of the last stored bars up to ``end`` are not among ``bars``, and what they lack; else nothing."""
    (last,) = days_of(bars.frame[-1:])
    lost = slice(*np.searchsorted(history.days, [last, history.days[-1] if end is None else end], side="right"))
    days, numbers = history.days[lost], dict(zip(NUMBERS, history.numbers[:, lost], strict=True))
    if not len(days):
        return ""
    needed = NUMBERS[:4] + (NUMBERS[5:] if bars.adjustment == "forward" else ())
    which = f"bar ({days[0]}) has" if len(days) == 1 else f"{len(days)} bars ({days[0]} to {days[-1]}) have"
    missing = " and ".join(name for name in needed if not (np.isfinite(numbers[name]) & (numbers[name] > 0)).all())
    return f"the last {which} no positive {missing or 'price'}: left out; the last signal is that of {last}"


def make_panel(spec: FeatureSpec, bars: Mapping[str, Bars], _report: object = None) -> dict[str, pd.DataFrame]:
    """Compute the feature columns over all tickers: ticker → a row per bar."""
    return panel_columns(spec.panel, {name: item.frame for name, item in bars.items()})


def add_panel(spec: FeatureSpec, bars: Mapping[str, Bars]) -> Mapping[str, Bars]:
    """Return bars with the feature columns over all of them, where there are any."""
    if not spec.panel:
        return bars
    panel = make_panel(spec, bars)
    return {name: replace(item, panel=panel[name]) for name, item in bars.items()}


def usable_rows(dates: DateArray, *, warmup: int, max_gap_days: int) -> BoolArray:
    """[bars] False in the first ``warmup`` bars of each run without a hole: there an indicator is not yet settled."""
    rows = np.arange(len(dates))
    starts = np.maximum.accumulate(np.where(gaps(dates, max_gap_days), rows, 0))
    usable: BoolArray = rows - starts >= warmup
    return usable


def majority_class(up_share: float) -> int:
    """Return the more frequent class of a split, 0 or 1, from the share of its days that rise; 0 for a tie."""
    return int(up_share > 0.5)


def add_indicators(frame: pd.DataFrame, max_gap_days: int) -> pd.DataFrame:
    """Copy one ticker's bars with the indicator columns, which start again after each hole.

    A bar that `clean_bars` would leave out has none and does not count.
    """
    good = np.flatnonzero(whole_bars(frame))
    values = np.full((len(frame), len(INDICATORS)), np.nan)
    for part in stretches(days_of(frame)[good], max_gap_days):
        values[good[part]] = built_in_values(frame.iloc[good[part]])[:, 1:]
    added = pd.DataFrame(values, index=frame.index, columns=INDICATORS)
    return pd.concat([frame.drop(columns=INDICATORS, errors="ignore"), added], axis=1)


def build_table(ticker: str, frame: pd.DataFrame, spec: FeatureSpec, max_gap_days: int) -> FeatureTable:
    """Compute the features of one ticker beside the prices that labels and returns are made from."""
    dates = days_of(frame)
    usable = usable_rows(dates, warmup=spec.warmup, max_gap_days=max_gap_days)
    features = _features(frame, spec, stretches(dates, max_gap_days), usable)
    close = frame["Close"].to_numpy(dtype=np.float64)
    quoted = frame["Quoted"].to_numpy(dtype=np.float64) if "Quoted" in frame else close
    return FeatureTable(
        ticker=ticker,
        dates=dates,
        features=np.ascontiguousarray(features.to_numpy(dtype=np.float64)),
        columns=tuple(map(str, features.columns)),
        close=close,
        open=frame["Open"].to_numpy(dtype=np.float64),
        quote=quoted / close,
        usable=usable,
        max_gap_days=max_gap_days,
    )


def _features(frame: pd.DataFrame, spec: FeatureSpec, parts: Sequence[slice], usable: BoolArray) -> pd.DataFrame:
    """Compute the feature columns of each run of bars without a hole by itself.

    A run that ends inside its warm-up is NaN, because a user's function may fail on it. So is the warm-up after a hole,
    because whether the run will be long enough is not known then. Where no run is long enough the longest gives the
    names of the columns and no value: what a run holds must not depend on the length of another one.
    """
    if len(parts) == 1:
        return spec.frame(frame)
    whole = [part for part in parts if usable[part].any()]
    if not whole:
        longest = max(parts, key=lambda part: part.stop - part.start)
        return pd.DataFrame(np.nan, index=frame.index, columns=spec.frame(frame.iloc[longest]).columns)
    first, *others = frames = [spec.frame(frame.iloc[part]) for part in whole]
    for other in others:
        if list(other.columns) != list(first.columns):
            raise FeatureError(
                f"{spec.name} returned the columns {', '.join(other.columns)} for the bars from "
                f"{other.index[0].date()} on, and {', '.join(first.columns)} before; return the same for all bars"
            )
    found = pd.concat(frames).reindex(frame.index)
    found.iloc[parts[0].stop + np.flatnonzero(~usable[parts[0].stop :])] = np.nan
    return found


def make_samples(table: FeatureTable, start: int, stop: int, *, purge: int) -> Samples:
    """Label rows [start, stop) that have all features and are outside a warm-up; no other close is read.

    The last row has no next close in its split; ``purge`` rows are dropped there. A row whose next bar is more than
    ``max_gap_days`` calendar days away is dropped too.
    """
    close, dates = table.close[start:stop], table.dates[start:stop]
    count = max(len(close) - max(purge, 1), 0)
    labelled = ~gaps(dates, table.max_gap_days)[1 : count + 1]
    here = np.flatnonzero(labelled & table.known[start : start + count])
    now, following, rows = close[here], close[here + 1], start + here
    return Samples(
        X=table.features[rows],
        y=(following > now).astype(np.int64),
        dates=table.dates[rows],
        prices=now,
        next_returns=following / now - 1.0,
        rows=rows,
    )


def make_splits(table: FeatureTable, border: Border, *, purge: int, out_of_sample: bool = False) -> Splits:
    """Label train, validation and test of one ticker, each inside its own rows.

    Where train is all there is, no split follows that rows would have to be purged from.
    """
    train = make_samples(table, border.train, border.val, purge=1 if border.whole else purge)
    val = make_samples(table, border.val, border.test, purge=purge)
    test_stop, test_purge = (min(border.end + 1, len(table.dates)), 1) if out_of_sample else (border.end, purge)
    test = make_samples(table, border.test, test_stop, purge=test_purge)
    _check_samples(table, "train", train, border.train, border.val)
    if not border.whole:
        _check_samples(table, "validation", val, border.val, border.test)
        if not out_of_sample:  # whether a ticker still trades in the test window is not known at training
            _check_samples(table, "test", test, border.test, border.end)
    if len(np.unique(train.y)) < 2:
        raise NotEnoughHistoryError(
            f"{table.ticker}: all {plural(len(train.y), 'day')} of train move the same way; nothing to learn"
        )
    boundaries = describe(table.dates, border)
    boundaries["train"]["up_share"] = float(train.y.mean())
    usable, known = (part[border.train if out_of_sample else 0 : border.end] for part in (table.usable, table.known))
    boundaries["lost"] = {"warmup": int((~usable).sum()), "missing": int((usable & ~known).sum())}
    return Splits(table=table, border=border, train=train, val=val, test=test, boundaries=boundaries)


def describe(dates: DateArray, border: Border) -> JsonDict:
    """Return size, first and last day of each split, for the metadata."""
    ranges = {"train": (border.train, border.val), "val": (border.val, border.test), "test": (border.test, border.end)}
    return {
        name: {
            "rows": stop - start,
            "first": str(dates[start]) if stop > start else None,
            "last": str(dates[stop - 1]) if stop > start else None,
        }
        for name, (start, stop) in ranges.items()
    }


def _check_samples(table: FeatureTable, split: str, samples: Samples, start: int, stop: int) -> None:
    """Refuse a split without a sample; the message names the columns that cause it."""
    if len(samples.y):
        return
    known = np.isfinite(table.features[start:stop][table.usable[start:stop]])
    never = [name for place, name in enumerate(table.columns) if len(known) and not known[:, place].any()]
    why = "; a longer history is needed"
    if never:
        why = f": {', '.join(never)} is never known there; return a number for it or leave the column out"
    elif len(known) and not known.all(axis=1).any():
        counts = dict(zip(table.columns, known.sum(axis=0).tolist(), strict=True))
        fewest = sorted(counts, key=lambda name: counts[name])[:2]
        rarest = " and ".join(f"{name} on {counts[name]}" for name in fewest)
        why = f": no row has all columns, of {len(known)} rows {rarest}; "
        why += "return numbers for them on the same days or leave a column out"
    raise NotEnoughHistoryError(f"{table.ticker}: no usable row in {split}{why}")
