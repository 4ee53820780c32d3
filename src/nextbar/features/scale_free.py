"""The built-in set ``relative``: columns without a unit, from one ticker's bars up to their day alone.

Prices are divided by the first close, and volumes by the first positive volume, before anything else: multiplying them
by a constant then changes no value but for rounding, and by a power of two no bit. A column that would divide by zero,
because nothing moves, is 0 there, or 50 for the RSI.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from nextbar.errors import FeatureError
from nextbar.features.indicators import PRICES, Recursive, days_of, found_instead, rsi_of, stretches, whole_bars
from nextbar.types import FloatArray

RETURN_DAYS = (1, 3, 5, 10, 20, 60, 120)
AVERAGE_DAYS = (20, 50, 100)
RELATIVE_COLUMNS = (
    *(f"return_{days}" for days in RETURN_DAYS),
    *(f"close_sma_{days}" for days in AVERAGE_DAYS),
    "rsi_14",
    "macd_atr",
    "macd_histogram_atr",
    "volatility_20",
    "volatility_20_60",
    "range",
    "close_in_range",
    "close_in_range_20",
    "gap",
    "volume_z_20",
    "drawdown_120",
    "day_of_week",
    "month",
)
RELATIVE_RECURSIVE: Recursive = {
    "rsi_14": (13 / 14, 14),
    "macd_atr": (13 / 14, 33),
    "macd_histogram_atr": (13 / 14, 33),
}
"""As `nextbar.features.indicators.RECURSIVE`; the average true range forgets more slowly than MACD."""
STILL = 1e-9
"""Volatility, true range over the close, and spread of the volumes over their largest, that count as 0: rounding."""


def relative(bars: pd.DataFrame, *, max_gap_days: int = 15) -> pd.DataFrame:
    """Compute the feature set ``relative``, a row per bar of one ticker.

    Args:
        bars: Market-format bars with a DatetimeIndex, oldest first, on whichever scale: ``Open High Low Close`` and
            perhaps ``Volume``. In a run they are adjusted first.
        max_gap_days: The columns start again after a hole of more calendar days than this.

    Returns:
        The columns `RELATIVE_COLUMNS`; NaN where one is not yet defined, and on bars without four positive prices.

    Raises:
        FeatureError: ``bars`` does not hold such bars.
    """
    _check(bars)
    good = np.flatnonzero(whole_bars(bars))
    values = np.full((len(bars), len(RELATIVE_COLUMNS)), np.nan)
    for part in stretches(days_of(bars)[good], max_gap_days):
        values[good[part]] = relative_values(bars.iloc[good[part]])
    return pd.DataFrame(values, index=bars.index, columns=list(RELATIVE_COLUMNS))


def _check(bars: Any) -> None:
    """Refuse what is no market-format frame of one ticker."""
    found = found_instead(bars)
    if not found and not bars.index.is_unique:
        found = "days of which some occur twice"
    wrong = [name for name in (*PRICES, "Volume") if not found and name in bars and not _is_number(bars[name])]
    if found or wrong:
        raise FeatureError(
            f"relative expects the bars of one ticker, oldest first, as a DataFrame with the columns "
            f"{', '.join(PRICES)}, perhaps Volume, and a DatetimeIndex; got "
            f"{found or 'no numbers in ' + ', '.join(wrong)}"
        )


def _is_number(column: Any) -> bool:
    return isinstance(column, pd.Series) and pd.api.types.is_numeric_dtype(column)


def relative_values(bars: pd.DataFrame) -> FloatArray:
    """[bars, columns] the columns of one ticker's bars without a hole and without a missing price."""
    if len(bars) < 2:  # TA-Lib refuses a single bar, whose row does not depend on the next one
        return relative_values(bars.iloc[[0, 0]])[:1] if len(bars) else np.empty((0, len(RELATIVE_COLUMNS)))
    import talib

    prices = [np.ascontiguousarray(bars[name].to_numpy(dtype=np.float64)) for name in PRICES]
    opened, high, low, close = (price / prices[3][0] for price in prices)
    returns = talib.ROCP(close, timeperiod=1)
    columns = [talib.ROCP(close, timeperiod=days) for days in RETURN_DAYS]
    columns += [close / talib.SMA(close, timeperiod=days) - 1 for days in AVERAGE_DAYS]
    columns += [rsi_of(close), *_macd_in_ranges(high, low, close)]
    volatility, long_volatility = (_rolling(returns, days, _deviation) for days in (20, 60))
    columns += [volatility, _ratio(volatility, long_volatility, still=STILL)]
    highest, lowest = talib.MAX(high, timeperiod=20), talib.MIN(low, timeperiod=20)
    columns += [(high - low) / close, _place(close, high, low), _place(close, highest, lowest)]
    columns += [np.append(np.nan, opened[1:] / close[:-1] - 1), _rolling(_volumes(bars), 20, _last_z)]
    columns += [close / talib.MAX(close, timeperiod=120) - 1, *_calendar(bars)]
    return np.column_stack(columns)


def _macd_in_ranges(high: FloatArray, low: FloatArray, close: FloatArray) -> list[FloatArray]:
    """MACD and its histogram, in average true ranges."""
    import talib

    macd, _, histogram = talib.MACD(close, fastperiod=12, slowperiod=26, signalperiod=9)
    true_range = talib.ATR(high, low, close, timeperiod=14)
    return [_ratio(part, true_range, still=STILL * close) for part in (macd, histogram)]


def _ratio(part: FloatArray, whole: FloatArray, *, still: float | FloatArray = 0.0) -> FloatArray:
    """Return part / whole, 0 where the whole is not above ``still``; NaN where one is NaN."""
    known = np.where(whole <= still, 0.0, part)
    ratio: FloatArray = known / np.where(whole <= still, 1.0, whole) + 0.0 * part
    return ratio


def _place(close: FloatArray, high: FloatArray, low: FloatArray) -> FloatArray:
    """Return where the close lies between two prices: -1 at the low, 1 at the high, 0 where they are equal."""
    return _ratio(2 * close - high - low, high - low)


def _rolling(values: FloatArray, days: int, function: Callable[[FloatArray], FloatArray]) -> FloatArray:
    """Apply a function of [days, bars] to the windows that end at each bar; NaN before the first whole one.

    TA-Lib's deviation is not used: from running sums of squares it is not 0 where nothing moves after a large move.
    """
    found = np.full(len(values), np.nan)
    if len(values) >= days:
        found[days - 1 :] = function(np.ascontiguousarray(np.lib.stride_tricks.sliding_window_view(values, days).T))
    return found


def _deviation(windows: FloatArray) -> FloatArray:
    """[bars] standard deviation (ddof 1) of each window."""
    deviation: FloatArray = windows.std(axis=0, ddof=1)
    return deviation


def _volumes(bars: pd.DataFrame) -> FloatArray:
    """[bars] volumes over the first positive one; NaN where there is none."""
    if "Volume" not in bars:
        return np.full(len(bars), np.nan)
    volume = bars["Volume"].to_numpy(dtype=np.float64, na_value=np.nan)
    volume = np.where(np.isfinite(volume) & (volume >= 0), volume, np.nan)
    positive = volume[volume > 0]
    return volume / positive[0] if len(positive) else volume


def _last_z(windows: FloatArray) -> FloatArray:
    """[bars] last volume less the mean, in standard deviations; 0 where a volume is missing or none differs."""
    largest, smallest = windows.max(axis=0), windows.min(axis=0)
    moves = largest - smallest > STILL * largest  # False where one is NaN
    deviation = np.where(moves, windows.std(axis=0, ddof=1), 1.0)
    z: FloatArray = np.where(moves, (windows[-1] - windows.mean(axis=0)) / deviation, 0.0)
    return z


def _calendar(bars: pd.DataFrame) -> list[FloatArray]:
    """Day of the week, 0 for Monday, and month, 1 for January."""
    days = days_of(bars)
    weekday = (days.astype(np.int64) + 3) % 7  # day 0, 1970-01-01, is a Thursday
    month = days.astype("datetime64[M]").astype(np.int64) % 12 + 1
    return [weekday.astype(np.float64), month.astype(np.float64)]
