"""Min-max scalers of one ticker, fitted on the rows that they are handed and on no others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.preprocessing import MinMaxScaler

from nextbar.types import FeatureTable, Float32Array, FloatArray
from nextbar.untrusted import FollowingArray, Names, Unused, load_pickle, number_type, refusing


@dataclass(frozen=True, kw_only=True)
class TickerScaler:
    """Scalers of one ticker's features and of its close, which is the LSTM's target."""

    features: Any
    target: Any

    def scale_features(self, features: FloatArray) -> Float32Array:
        """[rows, columns] → float32, 0 to 1 inside the fitted range."""
        scaled: Float32Array = self.features.transform(features).astype(np.float32)
        return scaled

    def scale_price(self, price: FloatArray) -> Float32Array:
        """[rows] → float32, 0 to 1 inside the fitted range."""
        if not len(price):
            return np.empty(0, np.float32)  # scikit-learn refuses to scale nothing
        scaled: Float32Array = self.target.transform(price.reshape(-1, 1)).ravel().astype(np.float32)
        return scaled

    def price(self, scaled: Float32Array) -> FloatArray:
        """Back from the target's scale to prices."""
        if not len(scaled):
            return np.empty(0)
        prices: FloatArray = self.target.inverse_transform(scaled.reshape(-1, 1).astype(np.float64)).ravel()
        return prices

    def share_outside(self, features: FloatArray) -> float:
        """Share of rows with a feature outside the range that the scaler was fitted on."""
        if len(features) == 0:
            return 0.0
        outside = (features < self.features.data_min_) | (features > self.features.data_max_)
        return float(outside.any(axis=1).mean())


def fit_scaler(table: FeatureTable, start: int, stop: int) -> TickerScaler:
    """Scalers fitted on rows [start, stop) of a ticker, less those in a warm-up or, for features, with one missing."""
    usable = table.usable[start:stop]
    features, close = table.features[start:stop][usable], table.close[start:stop][usable]
    whole = features[np.isfinite(features).all(axis=1)]
    return TickerScaler(features=MinMaxScaler().fit(whole), target=MinMaxScaler().fit(close.reshape(-1, 1)))


NAMES: Names = {
    ("sklearn.preprocessing._data", "MinMaxScaler"): MinMaxScaler,
    ("joblib.numpy_pickle", "NumpyArrayWrapper"): FollowingArray,
    ("numpy", "ndarray"): Unused,
    ("numpy", "dtype"): number_type,
}
"""All that saved scalers may name, and what is used for it."""


def load_scalers(content: bytes, columns: int) -> dict[str, TickerScaler]:
    """Scalers by ticker, from a joblib file that may come from a stranger; only their ranges are believed.

    Raises:
        ArtifactError: It is damaged or holds something else.
    """
    with refusing("the scalers' .joblib"):
        stored = load_pickle(content, NAMES)
        return {
            str(ticker): TickerScaler(features=_refit(pair["features"], columns), target=_refit(pair["target"], 1))
            for ticker, pair in stored.items()
        }


def _refit(stored: MinMaxScaler, columns: int) -> MinMaxScaler:
    """A scaler fitted on nothing but the stored one's smallest and largest values: the same bits."""
    ends = [stored.data_min_, stored.data_max_]
    if any(not isinstance(end, np.ndarray) or end.shape != (columns,) or not np.isfinite(end).all() for end in ends):
        raise ValueError(f"a scaler's range is not {columns} finite numbers")
    return MinMaxScaler().fit(np.array(ends, dtype=np.float64))
