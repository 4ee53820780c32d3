"""The set ``relative``: what its table says, without a unit, from the past alone, and defined where nothing moves."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import talib
from hypothesis import given, settings
from hypothesis import strategies as st

import nextbar as nb
from nextbar.config import TrainConfig
from nextbar.datasets.processor import StockDataProcessor
from nextbar.errors import ConfigError, FeatureError
from nextbar.features.scale_free import RELATIVE_COLUMNS
from nextbar.features.spec import FeatureSpec

relative = nb.features.relative
TABLE = re.findall(
    r"^\| `(\w+)` \| `(.*)` \| (\d+) \|$",
    (Path(__file__).parents[2] / "docs" / "model_training.md").read_text(encoding="utf-8"),
    re.MULTILINE,
)
"""Column, formula and first row, as the documentation states them."""
MARKET = ["Open", "High", "Low", "Close", "Volume"]


def of_talib(name, pick=None):
    """TA-Lib's function for Series."""

    def computed(*arguments):
        arrays = [x.to_numpy() if isinstance(x, pd.Series) else x for x in arguments]
        found = getattr(talib, name)(*arrays)
        return pd.Series(found if pick is None else found[pick], arguments[0].index)

    return computed


def by_table(bars):
    """Evaluate the formulas of the documentation."""
    letters = dict(zip("OHLCV", (bars[name] for name in MARKET), strict=True))
    names = {name: of_talib(name) for name in ("SMA", "RSI", "ATR", "MAX", "MIN")}
    names |= {"MACD": of_talib("MACD", 0), "HISTOGRAM": of_talib("MACD", 2), "DAYS": bars.index}
    names |= {"R": bars["Close"].pct_change(), **letters}
    return {column: np.asarray(eval(formula, names), dtype=float) for column, formula, _ in TABLE}


def test_the_table_of_the_documentation_is_what_is_computed(make_bars):
    """Columns, their order, each formula to rounding, and the first row of each."""
    bars = make_bars(400, seed=5)[MARKET]
    got = relative(bars)
    assert tuple(got.columns) == RELATIVE_COLUMNS == tuple(column for column, _, _ in TABLE)
    assert got.index.equals(bars.index)
    for (column, _, first), expected in zip(TABLE, by_table(bars).values(), strict=True):
        values = got[column].to_numpy()
        assert np.isnan(values[: int(first)]).all(), column
        assert np.isfinite(values[int(first) :]).all(), column
        np.testing.assert_allclose(values[int(first) :], expected[int(first) :], rtol=1e-8, atol=1e-10, err_msg=column)


@st.composite
def markets(draw):
    """Bars of a few hundred days, with flat stretches, days without range and days without volume."""
    count, seed = draw(st.integers(2, 260)), draw(st.integers(0, 10_000))
    rng = np.random.default_rng(seed)
    moving = rng.random(count) > draw(st.sampled_from([0.0, 0.2, 0.9]))
    close = np.exp(np.cumsum(rng.normal(0, 0.03, count) * moving))
    spread = rng.random(count) * 0.02 * (rng.random(count) > 0.2)
    volume = np.round(rng.lognormal(10, 1, count)) * (rng.random(count) > draw(st.sampled_from([0.0, 0.1, 1.0])))
    opened = close * (1 + spread * (rng.random(count) - 0.5))
    columns = [opened, close * (1 + spread), close * (1 - spread), close, volume]
    index = pd.bdate_range("2015-01-01", periods=count, name="Date", unit="s")
    return pd.DataFrame(dict(zip(MARKET, columns, strict=True)), index=index)


@settings(max_examples=40, deadline=None)
@given(bars=markets(), price=st.integers(-20, 20), volume=st.integers(-20, 20))
def test_a_power_of_two_changes_no_bit(bars, price, volume):
    """Prices and volumes in another unit give the same bytes where multiplying rounds nothing."""
    scaled = bars * ([2.0**price] * 4 + [2.0**volume])
    assert relative(scaled).to_numpy().tobytes() == relative(bars).to_numpy().tobytes()


@settings(max_examples=40, deadline=None)
@given(bars=markets(), price=st.floats(1e-4, 1e4), volume=st.floats(1e-4, 1e4))
def test_another_unit_changes_nothing_but_rounding(bars, price, volume):
    """Nothing depends on the level of prices or volumes."""
    scaled = bars * ([price] * 4 + [volume])
    np.testing.assert_allclose(relative(scaled), relative(bars), rtol=1e-5, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(bars=markets(), other=markets(), data=st.data())
def test_the_future_changes_no_value(bars, other, data):
    """Whatever follows day t, or nothing, every column up to t keeps its bits."""
    cut = data.draw(st.integers(1, len(bars)))
    now = relative(bars).to_numpy()[:cut]
    assert relative(bars.iloc[:cut]).to_numpy().tobytes() == now.tobytes()
    follows = bars.copy()
    rest = np.resize(other.to_numpy(), (len(bars) - cut, len(MARKET)))
    follows.iloc[cut:] = rest
    assert relative(follows).to_numpy()[:cut].tobytes() == now.tobytes()


@settings(max_examples=40, deadline=None)
@given(bars=markets())
def test_every_value_is_a_number_after_its_warm_up(bars):
    """Flat prices, days without range and without volume give numbers."""
    got = relative(bars)
    for column, _, first in TABLE:
        assert np.isfinite(got[column].to_numpy()[int(first) :]).all(), column


@pytest.mark.parametrize("history", [0, 150, 900], ids=lambda days: f"{days} days that move before")
def test_where_nothing_moves_a_column_is_0_and_the_rsi_50(make_bars, history):
    """After any history, 1,200 flat days leave 0 in each column but RSI and calendar, and the RSI where it was."""
    moving = make_bars(max(history, 1), seed=3)[MARKET]
    price = moving["Close"].iloc[-1]
    index = pd.bdate_range(moving.index[0], periods=history + 1200, name="Date", unit="s")
    flat = pd.DataFrame([[price] * 4 + [500.0]] * 1200, index=index[history:], columns=MARKET)
    bars = pd.concat([moving.set_axis(index[:history]), flat]) if history else flat
    last = relative(bars).iloc[-1].drop(["day_of_week", "month"])
    assert 0 < last["rsi_14"] < 100 if history else last["rsi_14"] == 50
    assert np.abs(last.drop("rsi_14")).max() < 1e-6


@pytest.mark.parametrize("volume", ["absent", "NaN", "zero"])
def test_without_volume_its_column_is_0(make_bars, volume):
    """The column stays known, so that no sample is lost, whether volumes are absent, unknown or all 0."""
    bars = make_bars(300)[MARKET]
    without = bars[MARKET[:4]] if volume == "absent" else bars.assign(Volume=np.nan if volume == "NaN" else 0.0)
    got = relative(without)
    assert (got["volume_z_20"].iloc[19:] == 0).all()
    pd.testing.assert_frame_equal(got.drop(columns="volume_z_20"), relative(bars).drop(columns="volume_z_20"))


def test_a_missing_volume_is_0_for_the_windows_that_hold_it(make_bars):
    """One day without a volume concerns 20 days."""
    bars = make_bars(100)[MARKET]
    bars.iloc[50, 4] = np.nan
    zero = np.flatnonzero(relative(bars)["volume_z_20"] == 0)
    np.testing.assert_array_equal(zero, np.arange(50, 70))


def test_columns_start_again_after_a_hole(make_bars):
    """Rows after a hole are those of the bars after it alone; a bar without a price has no row and does not count."""
    bars = make_bars(500)[MARKET]
    bars.index = bars.index.where(np.arange(500) < 250, bars.index + pd.Timedelta(days=30))
    bars.iloc[300, 1] = np.nan
    got = relative(bars)
    assert got.iloc[300].isna().all()
    kept = bars.drop(bars.index[300])
    pd.testing.assert_frame_equal(got.drop(bars.index[300]).iloc[250:], relative(kept.iloc[250:]))
    pd.testing.assert_frame_equal(got.iloc[:250], relative(bars.iloc[:250]))
    assert relative(bars, max_gap_days=60).iloc[251]["return_120"] == pytest.approx(
        bars["Close"].iloc[251] / bars["Close"].iloc[131] - 1
    )


def test_rows_of_a_run_are_those_of_the_function(make_bars):
    """Samples hold what `relative` returns for the same bars, holes included, and so do `levels` beside it."""
    bars = make_bars(900)[MARKET]
    bars.index = bars.index.where(np.arange(900) < 400, bars.index + pd.Timedelta(days=30))
    for option, sets in (("relative", ("relative",)), ("relative,levels", ("levels", "relative"))):
        processor = StockDataProcessor(TrainConfig(features=option))
        splits = processor.prepare_for_classification_splits(bars, ticker="AAA")
        assert processor.features == FeatureSpec(sets=sets)
        assert splits.feature_columns[-len(RELATIVE_COLUMNS) :] == RELATIVE_COLUMNS
        for part in (splits.train, splits.val, splits.test):
            expected = relative(bars).to_numpy()[part.rows]
            assert part.X[:, -len(RELATIVE_COLUMNS) :].tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda bars: bars["Close"], "got a Series"),
        (lambda bars: bars.reset_index(drop=True), "got a DataFrame with a RangeIndex"),
        (lambda bars: bars.drop(columns="High"), "got a frame without High"),
        (lambda bars: bars[::-1], "days that are not in order"),
        (lambda bars: pd.concat([bars, bars]).sort_index(), "some occur twice"),
        (lambda bars: bars.astype({"Volume": str}), "no numbers in Volume"),
        (lambda bars: pd.concat([bars, bars["Close"]], axis=1), "no numbers in Close"),
    ],
    ids=["series", "no days", "no high", "backwards", "twice", "text", "two closes"],
)
def test_what_is_no_market_frame_is_refused(make_bars, spoil, message):
    """The message says what was expected and what came."""
    with pytest.raises(FeatureError, match=message):
        relative(spoil(make_bars(60)[MARKET]))


@pytest.mark.parametrize("count", [0, 1, 2, 15, 119])
def test_short_histories_give_nan(make_bars, count):
    """A column that is not yet defined is NaN, however short the history."""
    got = relative(make_bars(200)[MARKET].iloc[:count])
    assert got.shape == (count, len(RELATIVE_COLUMNS))
    assert got["return_120"].isna().all()


@pytest.mark.parametrize(
    ("given", "recorded"),
    [
        ("levels", None),
        ("relative", "relative"),
        (" relative , m:f", "relative,m:f"),
        ("m:f,relative", "relative,m:f"),
        ("levels,m:f", "m:f"),
        ("relative,levels", "levels,relative"),
        ("relative,relative", "relative"),
        ("m:f, m:g", "m:f, m:g"),
    ],
)
def test_a_configuration_has_one_spelling(given, recorded):
    """The same columns are the same trial, and what older configurations record stays as it was."""
    config = TrainConfig(features=given)
    assert config.features == recorded
    spec = FeatureSpec.of(config)
    assert spec == FeatureSpec.of(TrainConfig(features=spec.option, features_only=not spec.sets))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": "relativ"}, r"--features expects levels, relative, module:function, .*; got 'relativ'"),
        ({"features": ""}, "got ''"),
        ({"features": " , "}, "got ' , '"),
        ({"features": 3}, "got 3"),
        (
            {"features": "relative", "features_only": True},
            "leaves every built-in set out, and --features names relative",
        ),
        ({"features": "levels", "features_only": True}, "needs --features module:function"),
    ],
    ids=["unknown", "empty", "commas", "number", "relative only", "levels only"],
)
def test_what_is_no_set_is_refused(options, message):
    """A spelling mistake, nothing, and a set that --features-only leaves out again."""
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**options)


@pytest.mark.parametrize("features", ["relativ", ["relative", 3], [], "", ["relative", "f"]], ids=repr)
def test_a_caller_is_told_the_sets(features):
    """The library names what it expects."""
    with pytest.raises(FeatureError, match=r"'levels', 'relative', (a|or a) function"):
        FeatureSpec.parse(features, warmup=200)
