"""Prices adjusted forward, so that a day's level depends on nothing that happened after it."""

from __future__ import annotations

import numpy as np

from nextbar.types import FloatArray


def adjust_forward(prices: FloatArray, adj_close: FloatArray) -> FloatArray:
    """Carry splits and dividends forward from the first bar that has an adjusted close.

    P(t) = close(t0) · (adj_close(t) / adj_close(t0)); open, high and low take the factor P(t) / close(t). A later split
    rescales every ``adj_close`` alike, which the quotient removes: multiplying all by a power of two changes no bit.

    Args:
        prices: [4, bars] quoted open, high, low, close, oldest first, from the ticker's first stored bar on.
        adj_close: [bars] back-adjusted close; NaN, zero and negative values mean "not known".

    Returns:
        [4, bars]; NaN for bars without ``adj_close``, the quoted prices when no bar has one.
    """
    close = prices[3]
    known = np.isfinite(adj_close) & (adj_close > 0) & np.isfinite(close) & (close > 0)
    if not known.any():
        return prices.copy()
    first = int(known.argmax())
    level = np.where(known, close[first] * (adj_close / adj_close[first]), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Not prices · (level / close): this way the close is the formula to the bit, and no rounding leaves the bar.
        adjusted: FloatArray = level * (prices / close)
    return adjusted
