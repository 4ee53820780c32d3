"""The five built-in indicators, computed by TA-Lib, and what starts them again: holes in the bars.

Every value at day t depends on bars up to t alone.

RSI is Wilder's with 14 days, MACD 12/26 with a 9-day signal line, all on the close (Appel 1979; Wilder 1978).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from nextbar.types import BoolArray, DateArray, FloatArray

BUILT_IN_COLUMNS = ("Close", "SMA_20", "SMA_50", "RSI", "MACD", "Signal_Line")
PRICE_LEVELS = ("Close", "SMA_20", "SMA_50")
"""Columns that are prices."""
PRICE_DIFFERENCES = ("MACD", "Signal_Line")
"""Columns that are differences of prices."""
PRICES = ("Open", "High", "Low", "Close")
MARKET_COLUMNS = (*PRICES, "Volume")

Recursive = Mapping[str, tuple[float, int]]
RECURSIVE: Recursive = {"RSI": (13 / 14, 14), "MACD": (25 / 27, 25), "Signal_Line": (25 / 27, 33)}
"""Weight that one step back keeps in each recursive indicator (Wilder's 13/14; 1 - 2/(26+1) for the slowest average),
and the bars that seed it: before them there is nothing to forget."""


def indicators(close: FloatArray) -> dict[str, FloatArray]:
    """The five indicators of closes [bars], by name, in order; NaN where one is not yet defined."""
    import talib  # here, because most commands read bars and runs without computing an indicator

    if len(close) < 2 or np.isnan(close).all():
        # TA-Lib refuses such input; an indicator that is nowhere defined is NaN everywhere.
        return dict.fromkeys(BUILT_IN_COLUMNS[1:], np.full(len(close), np.nan))
    close = np.ascontiguousarray(close)
    macd, signal, _ = talib.MACD(close, fastperiod=12, slowperiod=26, signalperiod=9)
    return {
        "SMA_20": talib.SMA(close, timeperiod=20),
        "SMA_50": talib.SMA(close, timeperiod=50),
        "RSI": rsi_of(close),
        "MACD": macd,
        "Signal_Line": signal,
    }


def rsi_of(close: FloatArray) -> FloatArray:
    """TA-Lib's RSI, but 50 where TA-Lib finds neither gain nor loss and gives 0, as if all had been losses."""
    import talib

    rsi: FloatArray = talib.RSI(close, timeperiod=14)
    # With one price a bar the true range is |change|, which Wilder averages like gains and losses: this is their sum.
    movement = talib.ATR(close, close, close, timeperiod=14)
    rsi[(rsi == 0) & (movement == 0)] = 50.0
    return rsi


def warmup_error(warmup: int, recursive: Recursive = RECURSIVE) -> dict[str, float]:
    """Share of a recursive indicator that still comes from where the history starts, after ``warmup`` bars.

    An exponential average with decay d, seeded over s bars, forgets its seed as d^(n - s); 200 bars leave 1e-6 of
    Wilder's RSI.
    """
    return {name: decay ** (warmup - seed) for name, (decay, seed) in recursive.items()}


def found_instead(bars: Any) -> str:
    """Say what was given where market-format bars of one ticker, oldest first, are expected; "" for such bars."""
    if not isinstance(bars, pd.DataFrame):
        return f"a {type(bars).__name__}"
    if not isinstance(bars.index, pd.DatetimeIndex):
        return f"a DataFrame with a {type(bars.index).__name__}"
    if missing := [name for name in PRICES if name not in bars]:
        return f"a frame without {', '.join(missing)}"
    return "" if bars.index.is_monotonic_increasing else "days that are not in order"


def whole_bars(frame: pd.DataFrame) -> BoolArray:
    """[bars] whether all four prices are there and positive."""
    prices = np.stack([frame[name].to_numpy(dtype=np.float64) for name in PRICES])
    whole: BoolArray = (np.isfinite(prices) & (prices > 0)).all(axis=0)
    return whole


def days_of(frame: pd.DataFrame) -> DateArray:
    """[bars] days of a frame."""
    days: DateArray = frame.index.to_numpy().astype("datetime64[D]")
    return days


def gaps(dates: DateArray, max_gap_days: int) -> BoolArray:
    """[bars] True where more than ``max_gap_days`` calendar days lie between a bar and the one before it."""
    return np.diff(dates, prepend=dates[:1]) > np.timedelta64(max_gap_days, "D")


def stretches(dates: DateArray, max_gap_days: int) -> list[slice]:
    """Rows of each run of bars without a hole, oldest first."""
    starts = [0, *np.flatnonzero(gaps(dates, max_gap_days)).tolist()]
    return [slice(start, stop) for start, stop in zip(starts, [*starts[1:], len(dates)], strict=True)]
