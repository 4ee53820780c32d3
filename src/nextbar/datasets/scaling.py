"""Min-max scalers of one ticker, fitted on the rows that they are handed and on no others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.preprocessing import MinMaxScaler

from nextbar.types import FeatureTable, Float32Array, FloatArray


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
        scaled: Float32Array = self.target.transform(price.reshape(-1, 1)).ravel().astype(np.float32)
        return scaled

    def price(self, scaled: Float32Array) -> FloatArray:
        """Back from the target's scale to prices."""
        prices: FloatArray = self.target.inverse_transform(scaled.reshape(-1, 1).astype(np.float64)).ravel()
        return prices

    def share_outside(self, features: FloatArray) -> float:
        """Share of rows with a feature outside the range that the scaler was fitted on."""
        if len(features) == 0:
            return 0.0
        outside = (features < self.features.data_min_) | (features > self.features.data_max_)
        return float(outside.any(axis=1).mean())


def fit_scaler(table: FeatureTable, start: int, stop: int) -> TickerScaler:
    """Scalers fitted on rows [start, stop) of a ticker; rows with a missing feature do not count."""
    features = table.features[start:stop]
    whole = features[np.isfinite(features).all(axis=1)]
    return TickerScaler(
        features=MinMaxScaler().fit(whole), target=MinMaxScaler().fit(table.close[start:stop].reshape(-1, 1))
    )
