"""From bars to labelled samples: clean, compute features, split, label; each step sees only what it may."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from nextbar.config import CommonConfig
from nextbar.datasets.labels import gaps, label_split, stretches, usable_rows
from nextbar.datasets.scaling import TickerScaler, fit_scaler
from nextbar.datasets.splits import describe
from nextbar.datasets.windows import rows_in_windows, window_ends
from nextbar.errors import BadBarsError, FeatureError, NotEnoughHistoryError
from nextbar.features.spec import BUILT_IN, FeatureSpec, built_in_values
from nextbar.types import BoolArray, Border, DateArray, FeatureTable, IntArray, JsonDict, Samples, Sequences, Splits

INDICATORS = BUILT_IN[1:]
PRICES = ["Open", "High", "Low", "Close"]


@dataclass(frozen=True, kw_only=True)
class Bars:
    """Bars of one ticker that can be used, and how many could not.

    Attributes:
        frame: Market-format frame, with ``Quoted`` (the close as quoted) where prices are adjusted.
        dropped: Bars with a missing or non-positive price, left out.
        adjustment: ``forward``, ``raw`` (asked for) or ``none`` (the table has no adjusted close).
    """

    frame: pd.DataFrame
    dropped: int
    adjustment: str


@dataclass(frozen=True, kw_only=True)
class TickerData:
    """One ticker, ready for a model: its table, its border and its labelled splits."""

    table: FeatureTable
    border: Border
    splits: Splits

    @cached_property
    def decisions(self) -> IntArray:
        """[decisions] test rows that are predicted: samples, and last bars before holes, whose labels are unknown.

        The first bar after a hole is none of them: indicators start again there.
        """
        table, border = self.table, self.border
        broken = gaps(table.dates, table.max_gap_days)
        last = np.flatnonzero(broken[1:])
        last = last[(last >= border.test) & (last < border.end) & table.usable[last]]
        last = last[np.isfinite(table.features[last]).all(axis=1)]
        rows: IntArray = np.union1d(self.splits.test.rows, last)
        return rows[~broken[rows]]


def clean_bars(ticker: str, frame: pd.DataFrame) -> Bars:
    """Leave out bars that have a missing or non-positive price.

    Raises:
        BadBarsError: Dates repeat, or no bar is left.
    """
    repeated = frame.index.to_numpy()[frame.index.duplicated()].astype("datetime64[D]")
    if len(repeated):
        raise BadBarsError(
            f"{ticker}: {len(repeated)} dates stand twice, the first {repeated[0]}; keep one bar per day and ticker"
        )
    good = whole_bars(frame)
    if not good.any():
        raise BadBarsError(f"{ticker}: none of {len(frame)} bars has four positive prices; ingest it again")
    adjustment = str(frame.attrs.get("adjustment", "raw"))
    return Bars(frame=frame if good.all() else frame[good], dropped=int((~good).sum()), adjustment=adjustment)


def whole_bars(frame: pd.DataFrame) -> BoolArray:
    """[bars] whether all four prices are there and positive."""
    prices = np.stack([frame[name].to_numpy(dtype=np.float64) for name in PRICES])
    whole: BoolArray = (np.isfinite(prices) & (prices > 0)).all(axis=0)
    return whole


def add_indicators(frame: pd.DataFrame, max_gap_days: int) -> pd.DataFrame:
    """Copy of one ticker's bars with the indicator columns, which start again after each hole.

    A bar that `clean_bars` would leave out has none and does not count.
    """
    good = np.flatnonzero(whole_bars(frame))
    values = np.full((len(frame), len(INDICATORS)), np.nan)
    for part in stretches(days_of(frame)[good], max_gap_days):
        values[good[part]] = built_in_values(frame.iloc[good[part]])[:, 1:]
    old = [name for name in INDICATORS if name in frame]
    added = pd.DataFrame(values, index=frame.index, columns=INDICATORS)
    return pd.concat([frame.drop(columns=old) if old else frame, added], axis=1)


def build_table(ticker: str, frame: pd.DataFrame, spec: FeatureSpec, max_gap_days: int) -> FeatureTable:
    """Features of one ticker beside the prices that labels and returns are made from.

    Raises:
        FeatureError: The user's function fails, or gives other columns after a hole.
    """
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


def days_of(frame: pd.DataFrame) -> DateArray:
    """[bars] days of a frame."""
    days: DateArray = frame.index.to_numpy().astype("datetime64[D]")
    return days


def _features(frame: pd.DataFrame, spec: FeatureSpec, parts: Sequence[slice], usable: BoolArray) -> pd.DataFrame:
    """Feature columns, each run of bars without a hole by itself.

    A run that ends inside its warm-up is NaN: a user's function need not bear it. So is the warm-up after a hole,
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
                f"{spec.function} returned the columns {', '.join(other.columns)} for the bars from "
                f"{other.index[0].date()} on, and {', '.join(first.columns)} before; return the same for all bars"
            )
    values = np.full((len(frame), first.shape[1]), np.nan)
    for part, found in zip(whole, frames, strict=True):
        values[part] = found.to_numpy(dtype=np.float64)
    values[parts[0].stop :][~usable[parts[0].stop :]] = np.nan
    return pd.DataFrame(values, index=frame.index, columns=first.columns)


def make_samples(table: FeatureTable, start: int, stop: int, *, purge: int) -> Samples:
    """Labelled samples of rows [start, stop), less those in a warm-up or lacking a feature; no other close is read."""
    labels = label_split(table.close[start:stop], table.dates[start:stop], purge=purge, max_gap_days=table.max_gap_days)
    rows = start + labels.rows
    known = table.usable[rows] & np.isfinite(table.features[rows]).all(axis=1)
    rows = rows[known]
    return Samples(
        X=table.features[rows],
        y=labels.y[known],
        dates=table.dates[rows],
        prices=table.close[rows],
        next_returns=labels.next_returns[known],
        rows=rows,
    )


def make_splits(table: FeatureTable, border: Border, *, purge: int, out_of_sample: bool = False) -> Splits:
    """Train, validation and test of one ticker, each labelled inside its own rows.

    Args:
        table: One ticker's features.
        border: Where the splits begin.
        purge: Rows dropped at the end of each split.
        out_of_sample: The test rows are days of a walk-forward: only the last bar of the history has no next return.

    Raises:
        NotEnoughHistoryError: A split has no sample, or train has one class only.
    """
    test_stop, test_purge = (min(border.end + 1, len(table.dates)), 1) if out_of_sample else (border.end, purge)
    train = make_samples(table, border.train, border.val, purge=purge)
    val = make_samples(table, border.val, border.test, purge=purge)
    test = make_samples(table, border.test, test_stop, purge=test_purge)
    # Whether a ticker still trades in a walk-forward's test window is not known when its fold is trained.
    for name, part, start, stop in (
        ("train", train, border.train, border.val),
        ("validation", val, border.val, border.test),
        ("test", test, border.test, border.end),
    ):
        if len(part.y) == 0 and not (out_of_sample and part is test):
            raise NotEnoughHistoryError(_no_row(table, name, start, stop))
    if len(np.unique(train.y)) < 2:
        raise NotEnoughHistoryError(
            f"{table.ticker}: all {len(train.y)} days of train move the same way; nothing to learn"
        )
    boundaries = describe(table.dates, border)
    boundaries["train"]["up_share"] = float(train.y.mean())
    boundaries["lost"] = _lost(table, border.train if out_of_sample else 0, border.end)
    return Splits(
        table=table,
        train=train,
        val=val,
        test=test,
        boundaries=boundaries,
    )


def prepare_splits(
    ticker: str, bars: pd.DataFrame, border: Border, config: CommonConfig, *, out_of_sample: bool
) -> Splits:
    """Features, splits and labels of one ticker's clean bars, as a configuration asks for them."""
    table = build_table(ticker, bars, FeatureSpec.of(config), config.max_gap_days)
    return make_splits(table, border, purge=config.purge, out_of_sample=out_of_sample)


def _lost(table: FeatureTable, start: int, stop: int) -> JsonDict:
    """How many of the rows [start, stop) are no samples because of a warm-up, or because a feature is missing."""
    usable, known = table.usable[start:stop], np.isfinite(table.features[start:stop]).all(axis=1)
    return {"warmup": int((~usable).sum()), "missing": int((usable & ~known).sum())}


def _no_row(table: FeatureTable, split: str, start: int, stop: int) -> str:
    """Message for a split without a sample; it names the columns that are to blame."""
    known = np.isfinite(table.features[start:stop][table.usable[start:stop]])
    never = [name for place, name in enumerate(table.columns) if len(known) and not known[:, place].any()]
    if never:
        return (
            f"{table.ticker}: no usable row in {split}: {', '.join(never)} is never known there; "
            "return a number for it or leave the column out"
        )
    return f"{table.ticker}: no usable row in {split}; a longer history is needed"


@dataclass(frozen=True, kw_only=True)
class SequenceSets:
    """Windows of all tickers, aggregated, and each ticker's scalers."""

    train: Sequences
    val: Sequences
    test: Mapping[str, Sequences]
    scalers: Mapping[str, TickerScaler]


def make_sequences(panel: Sequence[TickerData], *, length: int, scaler_fit: str) -> SequenceSets:
    """Scaled rows of all tickers one after the other, and the windows of each split by their last row.

    Scalers see train, without its validation tail unless ``scaler_fit`` is ``partition``. A training window lies inside
    train; validation and test windows take the rows before them as context.

    Raises:
        NotEnoughHistoryError: No ticker has a whole window.
    """
    scalers: dict[str, TickerScaler] = {}
    features, targets, tests = [], [], {}
    ends: dict[str, list[np.ndarray]] = {"train": [], "val": []}
    offset = 0
    for data in panel:
        table, border, splits = data.table, data.border, data.splits
        scaler = fit_scaler(table, border.train, border.val if scaler_fit == "train" else border.test)
        scalers[table.ticker] = scaler
        rows, target = scale_rows(table, splits, scaler)
        for name, part in (("train", splits.train), ("val", splits.val)):
            ends[name].append(offset + window_ends(table, part.rows, length=length, first=border.train))
        tests[table.ticker] = Sequences(
            features=rows,
            target=target,
            ends=window_ends(table, data.decisions, length=length),
            length=length,
        )
        features.append(rows)
        targets.append(target)
        offset += len(rows)
    whole, target = np.concatenate(features), np.concatenate(targets)
    last = np.concatenate(ends["train"] + ends["val"])
    # Rows and targets of test are not handed over at all: a network cannot use what it has not got.
    whole[~rows_in_windows(last, length=length, count=len(whole))] = 0.0
    target[np.isin(np.arange(len(target)), last, invert=True)] = np.nan
    sets = {
        name: Sequences(features=whole, target=target, ends=np.concatenate(parts), length=length)
        for name, parts in ends.items()
    }
    if min(len(part.ends) for part in sets.values()) == 0:
        raise NotEnoughHistoryError(f"no whole window of {length} days in train or validation; lower --sequence-length")
    return SequenceSets(train=sets["train"], val=sets["val"], test=tests, scalers=scalers)


def scale_rows(table: FeatureTable, splits: Splits, scaler: TickerScaler) -> tuple[np.ndarray, np.ndarray]:
    """Scaled features of every row and, where a sample has one, its scaled next close."""
    target = np.full(len(table.dates), np.nan, dtype=np.float32)
    for part in (splits.train, splits.val, splits.test):
        target[part.rows] = scaler.scale_price(part.prices * (1.0 + part.next_returns))
    return scaler.scale_features(np.nan_to_num(table.features)), target
