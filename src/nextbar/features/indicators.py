"""The five built-in indicators, computed by TA-Lib. Every value at day t depends on bars up to t alone.

RSI is Wilder's with 14 days, MACD 12/26 with a 9-day signal line, all on the close (Appel 1979; Wilder 1978).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import talib

from nextbar.types import FloatArray

BUILT_IN_COLUMNS = ("Close", "SMA_20", "SMA_50", "RSI", "MACD", "Signal_Line")
MARKET_COLUMNS = ("Open", "High", "Low", "Close", "Volume")

RECURSIVE = {"RSI": (13 / 14, 14), "MACD": (25 / 27, 25), "Signal_Line": (25 / 27, 33)}
"""Weight that one step back keeps in each recursive indicator (Wilder's 13/14; 1 - 2/(26+1) for the slowest average),
and the bars that seed it: before them there is nothing to forget."""


def add_technical_indicators(frame: pd.DataFrame) -> pd.DataFrame:
    """Copy of one ticker's market-format frame with SMA_20, SMA_50, RSI, MACD and Signal_Line added.

    Args:
        frame: [bars, >= 5] with a ``Close`` column, oldest first.

    Returns:
        The frame with five more columns; NaN where an indicator is not yet defined.
    """
    return frame.assign(**indicators(frame["Close"].to_numpy(dtype=np.float64)))


def indicators(close: FloatArray) -> dict[str, FloatArray]:
    """The five indicators of closes [bars], by name, in order; NaN where one is not yet defined."""
    if len(close) < 2 or np.isnan(close).all():
        # TA-Lib refuses such input; an indicator that is nowhere defined is NaN everywhere.
        return dict.fromkeys(BUILT_IN_COLUMNS[1:], np.full(len(close), np.nan))
    close = np.ascontiguousarray(close)
    macd, signal, _ = talib.MACD(close, fastperiod=12, slowperiod=26, signalperiod=9)
    return {
        "SMA_20": talib.SMA(close, timeperiod=20),
        "SMA_50": talib.SMA(close, timeperiod=50),
        "RSI": talib.RSI(close, timeperiod=14),
        "MACD": macd,
        "Signal_Line": signal,
    }


def warmup_error(warmup: int) -> dict[str, float]:
    """Share of a recursive indicator that still comes from where the history starts, after ``warmup`` bars.

    An exponential average with decay d, seeded over s bars, forgets its seed as d^(n - s); 200 bars leave 1e-6 of
    Wilder's RSI.
    """
    return {name: decay ** (warmup - seed) for name, (decay, seed) in RECURSIVE.items()}
