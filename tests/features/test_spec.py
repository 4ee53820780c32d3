"""A user's own columns: found, checked, and refused with a message that says what to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nextbar.config import TrainConfig
from nextbar.errors import FeatureError
from nextbar.features.indicators import BUILT_IN_COLUMNS
from nextbar.features.spec import FeatureSpec

MODULE = """
import pandas as pd

def good(bars):
    return pd.DataFrame({"range": (bars["High"] - bars["Low"]) / bars["Close"], "up": bars["Close"] > bars["Open"]})

def greedy(bars):
    bars["Close"] = 0.0
    return pd.DataFrame({"zero": bars["Close"]})

def clash(bars):
    return bars[["Close"]]

def short(bars):
    return good(bars).iloc[1:]

def moved(bars):
    return good(bars).set_axis(bars.index + pd.Timedelta(days=1))

def series(bars):
    return bars["Close"]

def empty(bars):
    return bars[[]]

def words(bars):
    return pd.DataFrame({"word": ["x"] * len(bars)}, index=bars.index)

def angled(bars):
    return bars[["Close"]].set_axis(["a<b"], axis=1)

def twins(bars):
    return bars[["Open", "Close"]].set_axis(["one", "one"], axis=1)

def broken(bars):
    raise RuntimeError("boom")

constant = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the current folder, under a name that no other test has."""
    name = f"own_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    return name


def test_columns_come_after_the_built_in_ones(own, make_bars):
    """--features adds columns, --features-only leaves the six out; booleans become numbers."""
    bars = make_bars(60)
    both = FeatureSpec(function=f"{own}:good").frame(bars)
    assert tuple(both.columns) == (*BUILT_IN_COLUMNS, "range", "up")
    alone = FeatureSpec(function=f"{own}:good", function_only=True).frame(bars)
    assert tuple(alone.columns) == ("range", "up")
    np.testing.assert_array_equal(alone["up"], (bars["Close"] > bars["Open"]).astype(float))


def test_function_cannot_spoil_the_bars(own, make_bars):
    """A function that writes into its argument changes neither the caller's bars nor the built-in columns."""
    bars = make_bars(60)
    close = bars["Close"].copy()
    features = FeatureSpec(function=f"{own}:greedy").frame(bars)
    np.testing.assert_array_equal(bars["Close"], close)
    np.testing.assert_array_equal(features["Close"], close)


def test_function_sees_market_columns_alone(own, make_bars, tmp_path):
    """Neither the quoted close nor anything else that knows later adjustments is handed to a user's function."""
    body = "assert list(bars) == ['Open', 'High', 'Low', 'Close', 'Volume']\n    return bars[['Volume']]"
    (tmp_path / f"{own}_b.py").write_text(f"def seen(bars):\n    {body}\n")
    assert list(FeatureSpec(function=f"{own}_b:seen", function_only=True).frame(make_bars(60))) == ["Volume"]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("clash", "returned columns that exist already: Close; rename them"),
        ("short", r"one row per bar \(60 rows, same index\), got 59 rows"),
        ("moved", "one row per bar"),
        ("series", "should return a DataFrame with at least one column, it returned Series"),
        ("empty", "at least one column"),
        ("words", "should return numbers"),
        ("angled", "XGBoost takes no column names with .*; rename a<b"),
        ("twins", "columns of the same name: one, one"),
        ("broken", "raised RuntimeError: boom"),
        ("constant", "is int, expected a function"),
        ("missing", "has no attribute 'missing'.*looked for in"),
    ],
)
def test_misbehaviour_is_named(own, make_bars, function, message):
    """Each way to be wrong is a FeatureError that names the function and the fault."""
    with pytest.raises(FeatureError, match=message) as caught:
        FeatureSpec(function=f"{own}:{function}").frame(make_bars(60))
    assert own in str(caught.value)


@pytest.mark.parametrize("name", ["nocolon", ":f", "m:", "no_such_module_at_all:f"])
def test_unknown_function_is_refused(name, make_bars):
    """What is not module:function, or cannot be imported, says what was expected or where it was looked for."""
    with pytest.raises(FeatureError, match=r"expects module:function|looked for in"):
        FeatureSpec(function=name).frame(make_bars(60))


def test_spec_of_a_configuration():
    """The three options that shape the features reach the spec."""
    config = TrainConfig(features="m:f", features_only=True, warmup=77)
    assert FeatureSpec.of(config) == FeatureSpec(warmup=77, function="m:f", function_only=True)
