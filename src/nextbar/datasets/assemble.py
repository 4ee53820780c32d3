"""From bars to labelled samples: clean, compute features, split, label; each step sees only what it may."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from nextbar.config import CommonConfig
from nextbar.datasets.labels import label_split
from nextbar.datasets.scaling import TickerScaler, fit_scaler
from nextbar.datasets.splits import describe
from nextbar.datasets.windows import rows_in_windows, window_ends
from nextbar.errors import BadBarsError, NotEnoughHistoryError
from nextbar.features.spec import FeatureSpec
from nextbar.types import Border, FeatureTable, Samples, Sequences, Splits

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
    prices = frame[PRICES].to_numpy(dtype=np.float64)
    good = (np.isfinite(prices) & (prices > 0)).all(axis=1)
    if not good.any():
        raise BadBarsError(f"{ticker}: none of {len(frame)} bars has four positive prices; ingest it again")
    adjustment = str(frame.attrs.get("adjustment", "raw"))
    return Bars(frame=frame[good], dropped=int((~good).sum()), adjustment=adjustment)


def build_table(ticker: str, frame: pd.DataFrame, spec: FeatureSpec, max_gap_days: int) -> FeatureTable:
    """Features of one ticker beside the prices that labels and returns are made from."""
    features = spec.frame(frame)
    close = frame["Close"].to_numpy(dtype=np.float64)
    quoted = frame["Quoted"].to_numpy(dtype=np.float64) if "Quoted" in frame else close
    return FeatureTable(
        ticker=ticker,
        dates=frame.index.to_numpy().astype("datetime64[D]"),
        features=np.ascontiguousarray(features.to_numpy(dtype=np.float64)),
        columns=tuple(map(str, features.columns)),
        close=close,
        open=frame["Open"].to_numpy(dtype=np.float64),
        quote=quoted / close,
        warmup=spec.warmup,
        max_gap_days=max_gap_days,
    )


def make_samples(table: FeatureTable, start: int, stop: int, *, purge: int) -> Samples:
    """Labelled samples of rows [start, stop); no close outside them is read. Rows lacking a feature are left out."""
    labels = label_split(table.close[start:stop], table.dates[start:stop], purge=purge, max_gap_days=table.max_gap_days)
    known = np.isfinite(table.features[start + labels.rows]).all(axis=1)
    rows = start + labels.rows[known]
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
    for name, part in (("train", train), ("validation", val), ("test", test)):
        if len(part.y) == 0 and not (out_of_sample and part is test):
            raise NotEnoughHistoryError(f"{table.ticker}: no usable row in {name}; a longer history is needed")
    if len(np.unique(train.y)) < 2:
        raise NotEnoughHistoryError(
            f"{table.ticker}: all {len(train.y)} days of train move the same way; nothing to learn"
        )
    boundaries = describe(table.dates, border)
    boundaries["train"]["up_share"] = float(train.y.mean())
    return Splits(
        ticker=table.ticker,
        train=train,
        val=val,
        test=test,
        feature_columns=table.columns,
        boundaries=boundaries,
    )


def prepare_ticker(
    ticker: str, frame: pd.DataFrame, border: Border, config: CommonConfig, *, out_of_sample: bool
) -> TickerData:
    """Features, splits and labels of one ticker, as a configuration asks for them."""
    table = build_table(ticker, frame, FeatureSpec.of(config), config.max_gap_days)
    splits = make_splits(table, border, purge=config.purge, out_of_sample=out_of_sample)
    return TickerData(table=table, border=border, splits=splits)


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
            ends=window_ends(table, splits.test.rows, length=length, first=table.warmup),
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
