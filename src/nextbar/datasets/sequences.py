"""Windows of the LSTM by index, and min-max scalers that are fitted on the rows given to them and on no others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import msgspec
import numpy as np

from nextbar.datasets.samples import Splits
from nextbar.errors import NotEnoughHistoryError
from nextbar.features.indicators import gaps
from nextbar.types import BoolArray, FeatureTable, Float32Array, FloatArray, IntArray


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """Windows over the rows of one or more tickers, never copied out of the rows.

    Window ``i`` is ``features[ends[i] - length + 1 : ends[i] + 1]``; its target is ``target[ends[i]]``.

    Attributes:
        features: [rows, columns] scaled features, all tickers one after the other.
        target: [rows] scaled close of the next bar, NaN where there is none.
        ends: [windows] last row of each window.
    """

    features: Float32Array
    target: Float32Array
    ends: IntArray
    length: int


class ScalerRange(msgspec.Struct, frozen=True, kw_only=True):
    """Smallest and largest value of each feature column, and of the close, that a ticker's scalers were fitted on."""

    features: tuple[list[float], list[float]]
    target: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class TickerScaler:
    """Scalers of one ticker's features and of its close, which is the LSTM's target."""

    features: Any
    target: Any

    def scale_features(self, features: FloatArray) -> Float32Array:
        """[rows, columns] → float32, 0 to 1 inside the fitted range; a missing feature counts as 0."""
        scaled: Float32Array = self.features.transform(np.nan_to_num(features)).astype(np.float32)
        return scaled

    def scale_price(self, price: FloatArray) -> Float32Array:
        """[rows] → float32, 0 to 1 inside the fitted range."""
        if not len(price):
            return np.empty(0, np.float32)  # scikit-learn refuses to scale nothing
        scaled: Float32Array = self.target.transform(price.reshape(-1, 1)).ravel().astype(np.float32)
        return scaled

    def price(self, scaled: Float32Array) -> FloatArray:
        """Return prices from values on the target's scale; NaN for a value that is not finite."""
        if not len(scaled):
            return np.empty(0)
        known = np.where(np.isfinite(scaled), scaled, np.nan).reshape(-1, 1).astype(np.float64)
        prices: FloatArray = self.target.inverse_transform(known).ravel()
        return prices

    @property
    def ends(self) -> ScalerRange:
        """The ranges that the scalers were fitted on."""
        features, target = ([part.data_min_.tolist(), part.data_max_.tolist()] for part in (self.features, self.target))
        return ScalerRange(features=(features[0], features[1]), target=(target[0][0], target[1][0]))

    def share_outside(self, features: FloatArray) -> float:
        """Share of rows with a feature outside the range that the scaler was fitted on."""
        if len(features) == 0:
            return 0.0
        outside = (features < self.features.data_min_) | (features > self.features.data_max_)
        return float(outside.any(axis=1).mean())


@dataclass(frozen=True, kw_only=True)
class SequenceSets:
    """Windows of train and validation of all tickers together, and each ticker's scalers."""

    train: Sequences
    val: Sequences
    scalers: Mapping[str, TickerScaler]


def make_sequences(panel: Sequence[Splits], *, length: int, scaler_fit: str) -> SequenceSets:
    """Join the scaled rows of all tickers, and list the windows of train and validation by their last row.

    Scalers see train, without its validation tail unless ``scaler_fit`` is ``partition``. A training window lies inside
    train; a validation window takes the rows before it as context.
    """
    scalers: dict[str, TickerScaler] = {}
    features, targets = [], []
    ends: dict[str, list[IntArray]] = {"train": [], "val": []}
    offset = 0
    for data in panel:
        table, first = data.table, data.border.train
        scaler = fit_scaler(table, first, data.border.val if scaler_fit == "train" else data.border.test)
        scalers[table.ticker] = scaler
        rows, target = scale_rows(data, scaler)
        for name, part in (("train", data.train), ("val", data.val)):
            ends[name].append(offset + window_ends(table, part.rows, length=length, first=first))
        features.append(rows)
        targets.append(target)
        offset += len(rows)
    whole, target = np.concatenate(features), np.concatenate(targets)
    last = np.concatenate(ends["train"] + ends["val"])
    # A network cannot use what it does not get: rows and targets outside the windows, those of test among them.
    whole[~rows_in_windows(last, length=length, count=len(whole))] = 0.0
    target[np.isin(np.arange(len(target)), last, invert=True)] = np.nan
    train, val = (
        Sequences(features=whole, target=target, ends=np.concatenate(parts), length=length) for parts in ends.values()
    )
    if not len(train.ends) or not len(val.ends):
        raise NotEnoughHistoryError(f"no whole window of {length} days in train or validation; lower --sequence-length")
    return SequenceSets(train=train, val=val, scalers=scalers)


def scale_rows(data: Splits, scaler: TickerScaler) -> tuple[Float32Array, Float32Array]:
    """Return the scaled features of every row and the scaled next close of each sample of train and validation."""
    target = np.full(len(data.table.dates), np.nan, dtype=np.float32)
    for part in (data.train, data.val):
        target[part.rows] = scaler.scale_price(part.prices * (1.0 + part.next_returns))
    return scaler.scale_features(data.table.features), target


def window_ends(table: FeatureTable, rows: IntArray, *, length: int, first: int = 0) -> IntArray:
    """Return the rows that end a whole window: no row before ``first`` or in a warm-up, no hole, no missing feature."""
    starts = rows - length + 1
    enough, starts = starts >= first, np.maximum(starts, 0)
    # A gap before the first row of a window is outside it, a missing value in the first row is inside.
    holes, lacks = np.cumsum(gaps(table.dates, table.max_gap_days)), np.append(0, np.cumsum(~table.known))
    ends: IntArray = rows[enough & (holes[rows] == holes[starts]) & (lacks[rows + 1] == lacks[starts])]
    return ends


def rows_in_windows(ends: IntArray, *, length: int, count: int) -> BoolArray:
    """[count] True for rows that some window of ``length`` rows with its last row in ``ends`` holds."""
    begins, after = (np.bincount(places, minlength=count + 1) for places in (ends - length + 1, ends + 1))
    held: BoolArray = np.cumsum(begins - after)[:count] > 0
    return held


def fit_scaler(table: FeatureTable, start: int, stop: int) -> TickerScaler:
    """Fit scalers on rows [start, stop) outside a warm-up; for features, on those of them that lack none."""
    known, usable = (part[start:stop] for part in (table.known, table.usable))
    features, close = table.features[start:stop][known], table.close[start:stop][usable]
    return TickerScaler(features=_scaler().fit(features), target=_scaler().fit(close.reshape(-1, 1)))


def _scaler() -> Any:
    """Make a scaler; scikit-learn is imported where it scales, because it takes half a second."""
    return import_module("sklearn.preprocessing").MinMaxScaler()


def restore_scaler(ends: ScalerRange, columns: int) -> TickerScaler:
    """Make the scalers of a recorded range: fitting on its two ends gives the same bits.

    Raises:
        ValueError: It is no range of so many columns.
    """
    low, high = ([*part, target] for part, target in zip(ends.features, ends.target, strict=True))
    rows = np.array([low, high], dtype=np.float64) if len(low) == len(high) == columns + 1 else np.empty((0, 0))
    if not rows.size or not np.isfinite(rows).all() or (rows[0] > rows[1]).any():
        raise ValueError(f"a scaler's range is not {columns + 1} finite pairs")
    return TickerScaler(features=_scaler().fit(rows[:, :-1]), target=_scaler().fit(rows[:, -1:]))
