"""Indicators are TA-Lib's, each value at day t depends on bars up to t alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import talib
from hypothesis import given, settings
from hypothesis import strategies as st

from nextbar.datasets.processor import StockDataProcessor
from nextbar.features.indicators import BUILT_IN_COLUMNS, indicators, warmup_error

add_technical_indicators = StockDataProcessor().add_technical_indicators

WILDER_CLOSES = [
    44.34, 44.09, 44.15, 43.61, 44.33, 44.83, 45.10, 45.42, 45.84, 46.08, 45.89, 46.03, 45.61, 46.28, 46.28, 46.00,
    46.03, 46.41, 46.22, 45.64,
]  # fmt: skip
"""The worked example of StockCharts' ChartSchool for RSI 14, rounded to cents there."""


def frame_of(close: np.ndarray | list[float]) -> pd.DataFrame:
    values = np.asarray(close, dtype=float)
    columns = dict.fromkeys(("Open", "High", "Low", "Close"), values)
    return pd.DataFrame({**columns, "Volume": 1.0}, index=pd.bdate_range("2020-01-01", periods=len(values)))


def ema(values: np.ndarray, period: int, first: int) -> np.ndarray:
    """Exponential average by the textbook: starts as the mean of ``period`` values ending at row ``first``."""
    out = np.full(len(values), np.nan)
    out[first] = values[first - period + 1 : first + 1].mean()
    for i in range(first + 1, len(values)):
        out[i] = out[i - 1] + 2 / (period + 1) * (values[i] - out[i - 1])
    return out


def test_rsi_is_wilders():
    """RSI 14 of the ChartSchool example is 70.53, 66.32, 66.55, 69.41, 66.36, 57.97 (to rounded closes)."""
    rsi = add_technical_indicators(frame_of(WILDER_CLOSES))["RSI"].to_numpy()
    assert np.isnan(rsi[:14]).all()
    np.testing.assert_allclose(rsi[14:], [70.46, 66.25, 66.48, 69.35, 66.29, 57.92], atol=0.02)


def test_averages_are_those_of_the_textbook(make_bars):
    """SMA is the plain mean of 20 and 50 closes; MACD 12/26 and its 9-day line are exponential averages by hand."""
    close = make_bars(150)["Close"].to_numpy()
    got = add_technical_indicators(frame_of(close))
    for period in (20, 50):
        sma = got[f"SMA_{period}"].to_numpy()
        assert np.isnan(sma[: period - 1]).all()
        np.testing.assert_allclose(sma[period - 1 :], pd.Series(close).rolling(period).mean()[period - 1 :], rtol=1e-12)
    macd = ema(close, 12, 25) - ema(close, 26, 25)
    line = ema(macd, 9, 33)
    # TA-Lib gives both from the first day of the signal line on.
    assert np.isnan(got["MACD"][:33]).all()
    np.testing.assert_allclose(got["MACD"][33:], macd[33:], rtol=1e-9)
    np.testing.assert_allclose(got["Signal_Line"][33:], line[33:], rtol=1e-9)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), count=st.integers(2, 120), seed=st.integers(0, 1_000))
def test_the_future_changes_no_value(data, count, seed):
    """Whatever happens to the bars after day t, every column up to t keeps its bits."""
    close = 50 + np.cumsum(np.random.default_rng(seed).normal(size=count)) % 40
    cut = data.draw(st.integers(1, count - 1))
    other = close.copy()
    other[cut:] = data.draw(st.lists(st.floats(0.01, 1e6), min_size=count - cut, max_size=count - cut))
    now, then = (add_technical_indicators(frame_of(x))[list(BUILT_IN_COLUMNS)].to_numpy()[:cut] for x in (close, other))
    assert now.tobytes() == then.tobytes()


@pytest.mark.parametrize("count", [0, 1, 2, 13, 49])
def test_short_histories_give_nan(count):
    """Where an indicator is not defined it is NaN, however short the history; nothing raises."""
    got = add_technical_indicators(frame_of(np.linspace(1, 2, count)))
    assert list(got.columns[-5:]) == list(BUILT_IN_COLUMNS[1:])
    assert len(got) == count
    assert got["SMA_50"].isna().all()


def test_frame_given_is_not_altered(make_bars):
    """The caller's frame stays as it was, and old indicator columns do not count."""
    bars = make_bars(80)
    before = bars.copy()
    again = add_technical_indicators(add_technical_indicators(bars).assign(RSI=-1.0))
    pd.testing.assert_frame_equal(bars, before)
    pd.testing.assert_frame_equal(again, add_technical_indicators(bars))


def test_stated_warmup_error_is_what_is_measured():
    """Two histories that differ before day 0 alone give indicators whose gap shrinks as `warmup_error` says."""
    rng = np.random.default_rng(0)
    tail = 100 + np.cumsum(rng.normal(size=300))
    late = add_technical_indicators(frame_of(tail))
    whole = add_technical_indicators(frame_of(np.concatenate([100 + np.cumsum(rng.normal(size=400)), tail]))).iloc[400:]
    for name in ("RSI", "MACD", "Signal_Line"):
        for warmup in (60, 120, 200):
            gap = np.abs(late[name].to_numpy() - whole[name].to_numpy())[warmup]
            assert gap < 200 * warmup_error(warmup)[name]
    assert max(warmup_error(200).values()) < 1e-5


def textbook_rsi(close: np.ndarray) -> np.ndarray:
    """Wilder's RSI 14 by its definition, 50 where the average gain and loss are both zero."""
    change = np.diff(close)
    gains, losses = np.maximum(change, 0), np.maximum(-change, 0)
    out = np.full(len(close), np.nan)
    gain, loss = gains[:14].mean(), losses[:14].mean()
    for i in range(14, len(close)):
        if i > 14:
            gain, loss = (13 * gain + gains[i - 1]) / 14, (13 * loss + losses[i - 1]) / 14
        out[i] = 50.0 if gain == loss == 0 else 100 * gain / (gain + loss)
    return out


HALTED = {
    "never moved": [50.0] * 80,
    "moved after a halt": [50.0] * 40 + [51.0, 50.5, 52.0] + [52.0] * 40,
    "fell once, then a halt": [50.0] * 20 + [49.0] * 40,
    "fell once, then a long halt": [50.0] * 20 + [49.0] * 900,
    "walked, then a long halt": [50.0, 51.0, 50.5, 50.7, 50.1] * 8 + [50.1] * 900,
    "only falls": list(np.arange(100.0, 20.0, -1)),
    "only rises": list(np.arange(20.0, 100.0)),
    "cheap": [0.0001] * 30 + [0.0002, 0.0001] * 20,
}


@pytest.mark.parametrize("name", HALTED)
def test_rsi_of_a_price_that_does_not_move_is_fifty(name):
    """RSI is Wilder's by the textbook, and 50 while average gain and loss are both zero."""
    close = np.array(HALTED[name])
    np.testing.assert_allclose(indicators(close)["RSI"], textbook_rsi(close), rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize("name", [name for name in HALTED if name != "never moved"])
def test_rsi_of_a_price_that_has_moved_is_talibs(name):
    """Where TA-Lib finds a gain or a loss its value stands, bit for bit, a true 0 included."""
    close = np.array(HALTED[name])
    rsi, theirs = indicators(close)["RSI"], talib.RSI(close, timeperiod=14)
    moved = rsi != 50.0
    assert moved.sum() > 20
    assert rsi[moved].tobytes() == theirs[moved].tobytes()
    assert (theirs[rsi == 50.0] == 0.0).all()
