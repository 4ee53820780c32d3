"""The scale of the target ``return``: windows and outputs in volatilities, from bars up to the day alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextbar.datasets.samples import Splits, build_table, clean_bars, make_splits
from nextbar.datasets.sequences import (
    LEAST_VOLATILITY,
    VOLATILITY_DAYS,
    ReturnScale,
    Sequences,
    fit_return_scale,
    make_sequences,
    restore_return_scale,
    volatility,
)
from nextbar.features.spec import FeatureSpec
from nextbar.types import Border, FeatureTable

LENGTH, WARMUP = 6, 60
BORDER = Border(train=WARMUP, val=160, test=200, end=240)


def table_of(frame: pd.DataFrame) -> FeatureTable:
    return build_table("T", clean_bars("T", frame.drop(columns="Adj")).frame, FeatureSpec(warmup=WARMUP), 15)


@pytest.fixture(scope="module")
def frame(make_bars: Callable[..., pd.DataFrame]) -> pd.DataFrame:
    return make_bars(260, seed=3)


@pytest.fixture(scope="module")
def data(frame: pd.DataFrame) -> Splits:
    return make_splits(table_of(frame), BORDER, purge=1)


def sets_of(*panel: Splits) -> Any:
    return make_sequences(panel, length=LENGTH, scaler_fit="train", target="return")


def windows_of(part: Sequences) -> np.ndarray:
    """[windows, length, columns] as the network sees them."""
    assert part.view is not None
    held = np.stack([part.features[end - part.length + 1 : end + 1] for end in part.ends])
    return (held - part.view.shift[part.ends][:, None]) * part.view.factor[part.ends][:, None]


def scaled_prices(frame: pd.DataFrame, factor: float) -> pd.DataFrame:
    return frame.assign(**{name: frame[name] * factor for name in ("Open", "High", "Low", "Close")})


def test_volatility_is_that_of_the_last_twenty_returns(frame: pd.DataFrame) -> None:
    """It is pandas' rolling standard deviation of daily returns; the first twenty bars have none."""
    found = volatility(table_of(frame))
    expected = frame["Close"].pct_change().rolling(VOLATILITY_DAYS).std().to_numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert np.isnan(found[:VOLATILITY_DAYS]).all()
    assert np.isfinite(found[VOLATILITY_DAYS:]).all()


def test_volatility_has_a_floor(frame: pd.DataFrame) -> None:
    """A price that does not move has the floor, not zero."""
    flat = frame.assign(Open=5.0, High=5.0, Low=5.0, Close=5.0)
    assert (volatility(table_of(flat))[VOLATILITY_DAYS:] == LEAST_VOLATILITY).all()


def test_volatility_never_spans_a_hole(frame: pd.DataFrame) -> None:
    """After a hole it begins again: its first twenty bars have none, and the jump over the hole is in none."""
    late = frame.iloc[130:].set_axis(frame.index[130:] + pd.Timedelta(days=60)) * 3.0
    found = volatility(table_of(pd.concat([frame.iloc[:130], late])))
    assert np.isnan(found[130 : 130 + VOLATILITY_DAYS]).all()
    np.testing.assert_allclose(found[150:], volatility(table_of(frame))[150:], rtol=1e-9)


@given(cut=st.integers(VOLATILITY_DAYS + 1, 259), seed=st.integers(0, 99))
def test_volatility_has_the_same_bits_with_other_bars_around(frame: pd.DataFrame, cut: int, seed: int) -> None:
    """Neither later bars nor those before the twenty returns change a bit of it."""
    table = table_of(frame)
    close, here = table.close.copy(), slice(cut - VOLATILITY_DAYS, cut + 1)
    close = np.exp(np.random.default_rng(seed).normal(3, 1, len(close)))
    close[here] = table.close[here]
    assert volatility(replace(table, close=close))[cut] == volatility(table)[cut]


def test_a_window_is_measured_from_its_own_last_close(data: Splits) -> None:
    """Prices become their distance from the last close in volatilities; MACD keeps its zero; RSI is standardised."""
    sets, table = sets_of(data), data.table
    windows, at = windows_of(sets.train), sets.train.ends[7]
    unit = table.close[at] * volatility(table)[at]
    rows = table.features[at - LENGTH + 1 : at + 1]
    place = {name: number for number, name in enumerate(table.columns)}
    for name in ("Close", "SMA_20", "SMA_50"):
        np.testing.assert_allclose(
            windows[7][:, place[name]], (rows[:, place[name]] - table.close[at]) / unit, atol=1e-4
        )
    for name in ("MACD", "Signal_Line"):
        np.testing.assert_allclose(windows[7][:, place[name]], rows[:, place[name]] / unit, atol=1e-4)
    assert (windows[:, -1, place["Close"]] == 0).all()
    rsi = table.features[BORDER.train : BORDER.val, place["RSI"]]
    np.testing.assert_allclose(windows[7][:, place["RSI"]], (rows[:, place["RSI"]] - rsi.mean()) / rsi.std(), atol=1e-4)


@given(power=st.integers(-6, 10))
def test_the_price_level_is_not_seen(frame: pd.DataFrame, data: Splits, power: int) -> None:
    """All prices times a power of two give the same bits: windows and targets."""
    one = sets_of(data).train
    other = sets_of(make_splits(table_of(scaled_prices(frame, 2.0**power)), BORDER, purge=1)).train
    np.testing.assert_array_equal(windows_of(one), windows_of(other))
    np.testing.assert_array_equal(one.target[one.ends], other.target[other.ends])


def test_a_target_decodes_to_the_next_close(data: Splits) -> None:
    """Close × (1 + target × volatility) is the close of the next bar."""
    sets = sets_of(data)
    for part in (sets.train, sets.val):
        found = sets.scalers["T"].prices(data.table, part.ends, part.target[part.ends].astype(np.float64))
        np.testing.assert_allclose(found, data.table.close[part.ends + 1], rtol=1e-7)


@given(outputs=st.lists(st.floats(-5, 5), min_size=1, max_size=30))
def test_the_class_is_that_of_the_output(data: Splits, outputs: list[float]) -> None:
    """The predicted close is above the close if and only if the output is above 0, however small it is."""
    rows = np.arange(100, 100 + len(outputs))
    found = sets_of(data).scalers["T"].prices(data.table, rows, np.array(outputs))
    np.testing.assert_array_equal(found > data.table.close[rows], np.array(outputs) > 0)


def test_later_bars_move_nothing_that_train_decides(frame: pd.DataFrame, data: Splits) -> None:
    """With other bars from validation on, the scale and the windows of train keep every bit."""
    changed = frame.copy()
    changed.iloc[BORDER.val :, :4] *= np.linspace(1.5, 3.0, len(frame) - BORDER.val)[:, None]
    one, other = sets_of(data), sets_of(make_splits(table_of(changed), BORDER, purge=1))
    for name in ("mean", "deviation"):
        np.testing.assert_array_equal(getattr(one.scalers["T"], name), getattr(other.scalers["T"], name))
    np.testing.assert_array_equal(windows_of(one.train), windows_of(other.train))


def test_training_rows_hold_no_test(data: Splits) -> None:
    """What the network is handed has no trace of test: no feature, no target, no close and no volatility."""
    part = sets_of(data).train
    for array in (part.features, part.view.shift, part.view.factor):
        assert (array[BORDER.test :] == 0).all()
    assert np.isnan(part.target[BORDER.test - 1 :]).all()


def test_a_column_that_does_not_move_is_zero(data: Splits) -> None:
    """A constant column has no deviation to be divided by."""
    features = np.column_stack([data.table.features, np.full(len(data.table.dates), 7.0)])
    table = replace(data.table, features=features, columns=(*data.table.columns, "own"))
    scale = fit_return_scale(table, BORDER.train, BORDER.val)
    assert (scale.mean[-1], scale.deviation[-1]) == (7.0, 1.0)
    assert (scale.inputs(table)[0][:, -1] == 0).all()


@pytest.mark.parametrize(
    ("mean", "deviation"),
    [([0.0], [1.0, 1.0]), ([0.0, np.nan], [1.0, 1.0]), ([0.0, 0.0], [1.0, 0.0]), ([0.0, 0.0], [1.0, np.inf]), ([], [])],
    ids=["too few means", "no number", "zero deviation", "infinite deviation", "nothing"],
)
def test_a_recorded_scale_is_checked(mean: list[float], deviation: list[float]) -> None:
    """A document's means and deviations must be finite, one per column."""
    with pytest.raises(ValueError, match="2 finite means and positive deviations"):
        restore_return_scale(mean, deviation, 2)
    assert isinstance(restore_return_scale([0.0, 1.0], [1.0, 2.0], 2), ReturnScale)
