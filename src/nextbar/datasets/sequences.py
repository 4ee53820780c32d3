"""Windows of the LSTM by index, and each ticker's scale, which is fitted on the rows given to it and on no others.

The target decides about the scale. ``close`` is the specification's: a min-max range of train. With ``return`` a window
is measured from its own last close, in units of its own volatility, so that prices beyond those of train are no news.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple, TypeAlias

import msgspec
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from nextbar.datasets.samples import Samples, Splits
from nextbar.errors import NotEnoughHistoryError
from nextbar.features.indicators import PRICE_DIFFERENCES, PRICE_LEVELS, gaps, stretches
from nextbar.types import BoolArray, FeatureTable, Float32Array, FloatArray, IntArray

VOLATILITY_DAYS = 20
LEAST_VOLATILITY = 1e-3
"""Floor of a daily volatility: a price that hardly moves would turn any move into a huge multiple of it."""


class View(NamedTuple):
    """How a window is seen from its last row: minus ``shift``, times ``factor``, each [rows, columns], of that row."""

    shift: Float32Array
    factor: Float32Array


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """Windows over the rows of one or more tickers, never copied out of the rows.

    Window ``i`` is ``features[ends[i] - length + 1 : ends[i] + 1]``, seen from its last row where there is a view; its
    target is ``target[ends[i]]``.

    Attributes:
        features: [rows, columns] scaled features, all tickers one after the other.
        target: [rows] scaled close of the next bar, or scaled return to it; NaN where there is none.
        ends: [windows] last row of each window.
        view: How a window is seen from its last row; None: as it is.
    """

    features: Float32Array
    target: Float32Array
    ends: IntArray
    length: int
    view: View | None = None


class ScalerRange(msgspec.Struct, frozen=True, kw_only=True):
    """Smallest and largest value of each feature column, and of the close, that a ticker's scalers were fitted on."""

    features: tuple[list[float], list[float]]
    target: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class TickerScaler:
    """Scalers of one ticker's features and of its close, which is the target."""

    features: Any
    target: Any

    def inputs(self, table: FeatureTable) -> tuple[Float32Array, View | None]:
        """Give the rows that windows are gathered from, and how a window is seen from its last row."""
        return self.scale_features(table.features), None

    def targets(self, table: FeatureTable, part: Samples) -> Float32Array:
        """[samples] what the network is to predict."""
        return self.scale_price(part.prices * (1.0 + part.next_returns))

    def prices(self, table: FeatureTable, rows: IntArray, output: FloatArray) -> FloatArray:
        """[rows] predicted next close from the network's output."""
        return self.price(output)

    def errors(
        self, table: FeatureTable, rows: IntArray, predicted: FloatArray, returns: FloatArray
    ) -> dict[str, FloatArray]:
        """Give the error of predicted closes [rows] on the target's scale."""
        return {"scaled_error": (predicted - table.close[rows] * (1.0 + returns)) / float(self.target.data_range_[0])}

    @property
    def fitted(self) -> dict[str, FloatArray]:
        """Fitted values by name, each [columns + 1]: those of the columns, then that of the target."""
        return {
            end: np.append(getattr(self.features, f"data_{end}_"), getattr(self.target, f"data_{end}_"))
            for end in ("min", "max")
        }

    @property
    def arrays(self) -> list[FloatArray]:
        """All fitted values, in the order in which a digest takes them."""
        return [array for part in (self.features, self.target) for array in (part.data_min_, part.data_max_)]

    @property
    def plain(self) -> dict[str, Any]:
        """The scalers, for people who use the network with the plain libraries."""
        return {"features": self.features, "target": self.target}

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

    def price(self, scaled: Float32Array | FloatArray) -> FloatArray:
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
class ReturnScale:
    """Scale of one ticker where the target is the next return divided by the volatility.

    Of the built-in columns, price levels become their distance from the window's last close, and differences of prices
    keep their zero; both are divided by that close and its volatility. Any other column is standardised on train.

    Attributes:
        mean: [columns] mean of a column that is standardised; 0 for the others.
        deviation: [columns] its standard deviation; 1 for the others, and where a column does not move.
    """

    mean: FloatArray
    deviation: FloatArray

    def inputs(self, table: FeatureTable) -> tuple[Float32Array, View | None]:
        """See `TickerScaler.inputs`; a window holds values of about 1, whatever the price."""
        level, difference = (np.isin(table.columns, names) for names in (PRICE_LEVELS, PRICE_DIFFERENCES))
        unit = np.nan_to_num(table.close * volatility(table), nan=1.0)[:, None]
        shift, factor = np.where(level, table.close[:, None], 0.0), np.where(level | difference, 1.0 / unit, 1.0)
        rows = (np.nan_to_num(table.features) - self.mean) / self.deviation
        return rows.astype(np.float32), View(shift.astype(np.float32), factor.astype(np.float32))

    def targets(self, table: FeatureTable, part: Samples) -> Float32Array:
        """[samples] next return divided by the volatility of the day."""
        scaled: Float32Array = (part.next_returns / volatility(table)[part.rows]).astype(np.float32)
        return scaled

    def prices(self, table: FeatureTable, rows: IntArray, output: FloatArray) -> FloatArray:
        """[rows] predicted next close: close × (1 + output × volatility), above the close if the output is above 0."""
        close = table.close[rows]
        price = close * (1.0 + output * volatility(table)[rows])
        # An output of 1e-20 is lost in the sum, and the class is that of the output.
        return np.where(output > 0, np.maximum(price, np.nextafter(close, np.inf)), price)

    def errors(
        self, table: FeatureTable, rows: IntArray, predicted: FloatArray, returns: FloatArray
    ) -> dict[str, FloatArray]:
        """Give the error of predicted closes [rows] and the true returns, in volatilities."""
        unit = volatility(table)[rows]
        return {"scaled_error": (predicted / table.close[rows] - 1.0 - returns) / unit, "scaled_return": returns / unit}

    @property
    def fitted(self) -> dict[str, FloatArray]:
        """See `TickerScaler.fitted`; nothing is fitted on the target."""
        return {"mean": np.append(self.mean, 0.0), "deviation": np.append(self.deviation, 1.0)}

    @property
    def arrays(self) -> list[FloatArray]:
        """See `TickerScaler.arrays`."""
        return [self.mean, self.deviation]

    @property
    def plain(self) -> dict[str, Any]:
        """Mean and standard deviation of each column, 0 and 1 where it is not standardised."""
        return {"mean": self.mean, "deviation": self.deviation}


Scale: TypeAlias = TickerScaler | ReturnScale


def volatility(table: FeatureTable) -> FloatArray:
    """[bars] standard deviation of the last 20 daily returns, at least `LEAST_VOLATILITY`.

    NaN in the first 20 bars of each run of bars without a hole, which are warm-up. Each window is summed by itself: the
    value must not depend on the bars before it.
    """
    found = np.full(len(table.close), np.nan)
    for part in stretches(table.dates, table.max_gap_days):
        close = table.close[part]
        if len(close) > VOLATILITY_DAYS:
            returns = close[1:] / close[:-1] - 1.0
            spread = sliding_window_view(returns, VOLATILITY_DAYS).std(axis=1, ddof=1)
            found[part][VOLATILITY_DAYS:] = np.maximum(spread, LEAST_VOLATILITY)
    return found


@dataclass(frozen=True, kw_only=True)
class SequenceSets:
    """Windows of train and validation of all tickers together, and each ticker's scale."""

    train: Sequences
    val: Sequences
    scalers: Mapping[str, Scale]


def make_sequences(panel: Sequence[Splits], *, length: int, scaler_fit: str, target: str = "close") -> SequenceSets:
    """Join the scaled rows of all tickers, and list the windows of train and validation by their last row.

    Scalers see train, without its validation tail unless ``scaler_fit`` is ``partition``. A training window lies inside
    train; a validation window takes the rows before it as context.
    """
    scalers: dict[str, Scale] = {}
    features, views, targets = [], list[View](), []
    ends: dict[str, list[IntArray]] = {"train": [], "val": []}
    offset = 0
    for data in panel:
        table, first = data.table, data.border.train
        fit = fit_scaler if target == "close" else fit_return_scale
        scaler = fit(table, first, data.border.val if scaler_fit == "train" else data.border.test)
        scalers[table.ticker] = scaler
        rows, view = scaler.inputs(table)
        for name, part in (("train", data.train), ("val", data.val)):
            ends[name].append(offset + window_ends(table, part.rows, length=length, first=first))
        features.append(rows)
        views += [] if view is None else [view]
        targets.append(scale_targets(data, scaler))
        offset += len(rows)
    whole, scaled = np.concatenate(features), np.concatenate(targets)
    seen = View(*map(np.concatenate, zip(*views, strict=True))) if views else None
    last = np.concatenate(ends["train"] + ends["val"])
    # A network cannot use what it does not get: rows and targets outside the windows, those of test among them.
    whole[~rows_in_windows(last, length=length, count=len(whole))] = 0.0
    others = np.isin(np.arange(len(scaled)), last, invert=True)
    scaled[others] = np.nan
    for array in seen or ():
        array[others] = 0.0
    train, val = (
        Sequences(features=whole, target=scaled, ends=np.concatenate(parts), length=length, view=seen)
        for parts in ends.values()
    )
    if not len(train.ends) or not (len(val.ends) or all(data.border.whole for data in panel)):
        raise NotEnoughHistoryError(f"no whole window of {length} days in train or validation; lower --sequence-length")
    return SequenceSets(train=train, val=val, scalers=scalers)


def scale_targets(data: Splits, scaler: Scale) -> Float32Array:
    """[rows] target of each sample of train and validation, NaN elsewhere."""
    target = np.full(len(data.table.dates), np.nan, dtype=np.float32)
    for part in (data.train, data.val):
        target[part.rows] = scaler.targets(data.table, part)
    return target


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


def fit_return_scale(table: FeatureTable, start: int, stop: int) -> ReturnScale:
    """Fit the columns that are standardised on rows [start, stop) outside a warm-up that lack no feature."""
    features = table.features[start:stop][table.known[start:stop]]
    own = ~np.isin(table.columns, PRICE_LEVELS + PRICE_DIFFERENCES)
    deviation = features.std(axis=0)
    return ReturnScale(
        mean=np.where(own, features.mean(axis=0), 0.0), deviation=np.where(own & (deviation > 0), deviation, 1.0)
    )


def _scaler() -> Any:
    """Make a scaler; scikit-learn is imported where it scales, because it takes half a second."""
    return import_module("sklearn.preprocessing").MinMaxScaler()


def restore_scaler(ends: ScalerRange, columns: int) -> TickerScaler:
    """Make the scalers of a recorded range, or raise ValueError: fitting on its two ends gives the same bits."""
    low, high = ([*part, target] for part, target in zip(ends.features, ends.target, strict=True))
    rows = np.array([low, high], dtype=np.float64) if len(low) == len(high) == columns + 1 else np.empty((0, 0))
    if not rows.size or not np.isfinite(rows).all() or (rows[0] > rows[1]).any():
        raise ValueError(f"a scaler's range is not {columns + 1} finite pairs")
    return TickerScaler(features=_scaler().fit(rows[:, :-1]), target=_scaler().fit(rows[:, -1:]))


def restore_return_scale(mean: Sequence[float], deviation: Sequence[float], columns: int) -> ReturnScale:
    """Make the scale of a target ``return`` that a document records, or raise ValueError."""
    means, deviations = np.array(mean, np.float64), np.array(deviation, np.float64)
    fine = means.shape == deviations.shape == (columns,) and np.isfinite(means).all() and np.isfinite(deviations).all()
    if not fine or (deviations <= 0).any():
        raise ValueError(f"a scale is not {columns} finite means and positive deviations")
    return ReturnScale(mean=means, deviation=deviations)
