"""A user's own columns: found, checked, and refused with a message that says what to do."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from nextbar.config import TrainConfig
from nextbar.errors import FeatureError
from nextbar.features.indicators import BUILT_IN_COLUMNS
from nextbar.features.spec import FeatureSpec, source_digest

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

def mixed(bars):
    return pd.DataFrame({"a": 1.0, "b": ["1.5", "high"] * (len(bars) // 2)}, index=bars.index)

def kinds(bars):
    return pd.DataFrame({"a": pd.Categorical(["u"] * len(bars))}, index=bars.index)

def days(bars):
    return pd.DataFrame({"a": bars.index}, index=bars.index)

def text_numbers(bars):
    frame = bars[["Close"]].astype(str).set_axis(["text"], axis=1)
    return frame.assign(kind=pd.Categorical([2] * len(bars)), plain=bars["Close"].astype(object))

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
    both = FeatureSpec(functions=(f"{own}:good",)).frame(bars)
    assert tuple(both.columns) == (*BUILT_IN_COLUMNS, "range", "up")
    alone = FeatureSpec(functions=(f"{own}:good",), sets=()).frame(bars)
    assert tuple(alone.columns) == ("range", "up")
    np.testing.assert_array_equal(alone["up"], (bars["Close"] > bars["Open"]).astype(float))


def test_function_cannot_spoil_the_bars(own, make_bars):
    """A function that writes into its argument changes neither the caller's bars nor the built-in columns."""
    bars = make_bars(60)
    close = bars["Close"].copy()
    features = FeatureSpec(functions=(f"{own}:greedy",)).frame(bars)
    np.testing.assert_array_equal(bars["Close"], close)
    np.testing.assert_array_equal(features["Close"], close)


def test_function_sees_market_columns_alone(own, make_bars, tmp_path):
    """Neither the quoted close nor anything else that knows later adjustments is handed to a user's function."""
    body = "assert list(bars) == ['Open', 'High', 'Low', 'Close', 'Volume']\n    return bars[['Volume']]"
    (tmp_path / f"{own}_b.py").write_text(f"def seen(bars):\n    {body}\n")
    assert list(FeatureSpec(functions=(f"{own}_b:seen",), sets=()).frame(make_bars(60))) == ["Volume"]


def test_text_that_is_read_as_numbers_is_told(own, make_bars):
    """A column of text or categories that are numbers is used, and a warning names it; other columns give none."""
    bars = make_bars(60)
    with pytest.warns(UserWarning, match="which is read as a number; convert the column") as told:
        found = FeatureSpec(functions=(f"{own}:text_numbers",), sets=()).frame(bars)
    assert [str(one.message).partition(", which")[0].partition("the column ")[2] for one in told] == [
        f"text holds text, such as '{bars['Close'].iloc[0]}'",
        "kind holds categories, such as 2",
    ]
    np.testing.assert_array_equal(found["text"], bars["Close"])
    np.testing.assert_array_equal(found["plain"], bars["Close"])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("clash", "returned columns that exist already: Close; rename them"),
        ("short", r"one row per bar \(60 rows, same index\), got 59 rows"),
        ("moved", "one row per bar"),
        ("series", "should return a DataFrame with at least one column, it returned Series"),
        ("empty", "at least one column"),
        ("words", "should return numbers, and the column word holds text, such as 'x'; give each value a number"),
        ("mixed", "column b holds text, such as 'high'; give"),
        ("kinds", "column a holds categories, such as 'u'; give"),
        ("days", r"column a holds datetime64\[\w+\], such as Timestamp"),
        ("angled", "XGBoost takes no column names with .*; rename a<b"),
        ("twins", "columns of the same name: one, one"),
        ("broken", "raised RuntimeError: boom"),
        ("constant", "is int, expected a function"),
        ("missing", "has no attribute 'missing'; if this is not your module"),
    ],
)
def test_misbehaviour_is_named(own, make_bars, function, message):
    """Each way to be wrong is a FeatureError that names the function and the fault."""
    with pytest.raises(FeatureError, match=message) as caught:
        FeatureSpec(functions=(f"{own}:{function}",)).frame(make_bars(60))
    assert own in str(caught.value)


@pytest.mark.parametrize("name", ["nocolon", ":f", "m:", "no_such_module_at_all:f"])
def test_unknown_function_is_refused(name, make_bars):
    """What is not module:function, or cannot be imported, says what was expected or where it was looked for."""
    with pytest.raises(FeatureError, match=r"expects module:function|looked for in"):
        FeatureSpec(functions=(name,)).frame(make_bars(60))


def test_the_working_folder_is_searched_last_and_only_for_the_function(own, make_bars, tmp_path, monkeypatch):
    """A file there hides no installed module, a module that the call imports is found, and the path is as before."""
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    (tmp_path / "colorsys.py").write_text("raise SystemExit('executed')\n")
    (tmp_path / f"{own}_helper.py").write_text("def columns(bars):\n    return bars[['Volume']]\n")
    body = f"import colorsys, {own}_helper\n    return {own}_helper.columns(bars)"
    (tmp_path / f"{own}_c.py").write_text(f"def lazy(bars):\n    {body}\n")
    before = list(sys.path)
    assert list(FeatureSpec(functions=(f"{own}_c:lazy",), sets=()).frame(make_bars(60))) == ["Volume"]
    assert sys.path == before
    assert str(tmp_path) not in before
    assert sys.path == before


def test_a_module_that_imports_lazily_may_fail(own, make_bars, tmp_path):
    """What its look-up of an attribute raises is told as an error of its import."""
    (tmp_path / f"{own}_lazy.py").write_text("def __getattr__(name):\n    raise ImportError('install the extra')\n")
    with pytest.raises(FeatureError, match="importing it raised ImportError: install the extra"):
        FeatureSpec(functions=(f"{own}_lazy:x",)).frame(make_bars(60))


def test_a_name_that_is_taken_is_told(own, make_bars, tmp_path):
    """A module of the working folder that an installed one hides: the error names the file that was found instead."""
    (tmp_path / "colorsys.py").write_text("def mine(bars):\n    return bars[['Volume']]\n")
    with pytest.raises(FeatureError, match=r"\(.*colorsys\.py\) has no attribute 'mine'; if .* give yours a name"):
        FeatureSpec(functions=("colorsys:mine",)).frame(make_bars(60))


def test_spec_of_a_configuration():
    """The three options that shape the features reach the spec."""
    config = TrainConfig(features="m:f", features_only=True, warmup=77)
    assert FeatureSpec.of(config) == FeatureSpec(warmup=77, functions=("m:f",), sets=())


SOURCES = {
    "own_top.py": "import json, own_beside\nfrom own_package.inner import VALUE\nimport own_spread.part\n",
    "own_beside.py": "X = 1\n",
    "own_package/__init__.py": "",
    "own_package/inner.py": "from .deep import VALUE\nfrom . import other\nfrom ..nowhere import nothing\n",
    "own_package/deep.py": "VALUE = 1\n",
    "own_package/other.py": "def late():\n    import own_late\n",
    "own_spread/part.py": "import own_top\n",
    "own_late.py": "X = 1\n",
    "own_stranger.py": "X = 1\n",
}


@pytest.mark.parametrize("changed", SOURCES)
def test_the_digest_of_a_feature_covers_its_imports(changed, tmp_path, monkeypatch):
    """Its module, packages, imports of imports and circles; a file beside them that is not imported does not matter."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    for name, text in SOURCES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    before = source_digest("own_top:f")
    assert source_digest("own_top:f") == before
    (tmp_path / changed).write_text(SOURCES[changed] + "Y = 2\n")
    assert (source_digest("own_top:f") == before) is (changed == "own_stranger.py")


@pytest.mark.parametrize("text", [None, "def f(:\n", "\0"], ids=["missing", "broken", "no text"])
def test_the_digest_of_what_is_no_module_is_one_all_the_same(text, tmp_path, monkeypatch):
    """The run itself says what is wrong with it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    if text is not None:
        (tmp_path / "own_broken.py").write_text(text)
    assert len(source_digest("own_broken:f")) == 64
