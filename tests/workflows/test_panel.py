"""Columns over all tickers: what a function is given, what it may return, and that no ticker's future is in them."""

from __future__ import annotations

import sqlite3

import numpy as np
import pandas as pd
import pytest

import nextbar as nb
from nextbar.config import TrainConfig, WalkForwardConfig
from nextbar.errors import ArtifactError, BadBarsError, ConfigError, FeatureError
from nextbar.features.spec import FeatureSpec, panel_columns
from nextbar.types import Silent
from nextbar.workflows.options import PredictConfig
from nextbar.workflows.predict import predict
from nextbar.workflows.reproduce import reproduce
from nextbar.workflows.train import train
from nextbar.workflows.walkforward import walk_forward

MODULE = """
import pandas as pd

def ranks(long):
    month = long.groupby("ticker")["Close"].pct_change(20)
    return pd.DataFrame({"rank_20": month.groupby(long["date"]).rank(pct=True)})
"""
MODEL = nb.XGBoost(no_tune=True)


def ranks(long: pd.DataFrame) -> pd.DataFrame:
    """Rank of the last 20 days' return among the tickers of the day."""
    month = long.groupby("ticker")["Close"].pct_change(20)
    return long.assign(rank_20=month.groupby(long["date"]).rank(pct=True))


def mean_of_others_ahead(long: pd.DataFrame) -> pd.DataFrame:
    """Mean return of the other tickers tomorrow: a leak that no ticker's own bars show."""
    ahead = (long.groupby("ticker")["Close"].shift(-1) / long["Close"] - 1).fillna(0.0)
    return pd.DataFrame({"others": ahead.groupby(long["date"]).transform("sum") - ahead})


def on_crash_days(long: pd.DataFrame) -> pd.DataFrame:
    """0, but 1 where another ticker falls by 2 % tomorrow: a leak on few days."""
    ahead = (long.groupby("ticker")["Close"].shift(-1) / long["Close"] - 1).fillna(0.0)
    falls = (ahead < -0.02).groupby(long["date"]).transform("sum") - (ahead < -0.02)
    return pd.DataFrame({"crash": (falls > 0).astype(float)})


@pytest.fixture(scope="module")
def frames(market_bars: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Three tickers of the shared market, of other lengths, in the market format."""
    return {name: market_bars[name].rename(columns={"Adj": "Adj Close"}) for name in ("AAA", "BBB", "^GSPC")}


@pytest.fixture
def named(tmp_path, monkeypatch) -> str:
    """`ranks`, as a function of a module in the working folder."""
    name = f"panel_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return f"{name}:ranks"


def test_the_function_gets_one_long_frame_of_market_columns(frames):
    """Sorted by ticker, then date; a row per bar; rows go back to the ticker and day that they came from."""
    seen: list[pd.DataFrame] = []

    def place(long: pd.DataFrame) -> pd.DataFrame:
        seen.append(long.copy())
        long["Close"] = 0.0
        return long.assign(place=np.arange(len(long)))

    found = panel_columns([place], {name: frames[name] for name in ("BBB", "^GSPC", "AAA")})
    (long,) = seen
    assert list(long) == ["ticker", "date", "Open", "High", "Low", "Close", "Volume"]
    assert long.sort_values(["ticker", "date"]).index.equals(long.index)
    for name, frame in frames.items():
        own = long[long["ticker"] == name]
        np.testing.assert_array_equal(own["Close"], frame["Close"])
        np.testing.assert_array_equal(own["date"], frame.index)
        np.testing.assert_array_equal(found[name].iloc[:, 0], own.index)
        assert found[name].index.equals(frame.index)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda long: long, "at least one new column"),
        (lambda long: long["Close"], "at least one new column, it returned Series"),
        (lambda long: pd.DataFrame({"a": long["Close"]}).iloc[1:], "one row per bar"),
        (lambda long: pd.DataFrame({"a": long["Close"].to_numpy()}, index=long["date"]), "one row per bar"),
        (lambda long: pd.DataFrame({"a": long["ticker"]}), "should return numbers"),
        (lambda long: long["nothing"], "raised KeyError"),
        (lambda long: pd.DataFrame({"a<b": long["Close"]}), "rename a<b"),
    ],
    ids=["nothing new", "series", "short", "other index", "words", "broken", "angled"],
)
def test_misbehaviour_is_named(frames, function, message):
    """Each way to be wrong is a FeatureError that says what was expected."""
    with pytest.raises(FeatureError, match=message):
        panel_columns([function], frames)


def test_a_run_ends_with_the_fault_of_the_function(frames, inline):
    """What is wrong with the function is an error of the run, and so is a column that another set has."""
    with pytest.raises(FeatureError, match="at least one new column"):
        nb.train(frames, MODEL, panel_features=lambda long: long)
    with pytest.raises(nb.errors.NextbarError, match="columns that exist already: RSI"):
        nb.train(frames, MODEL, panel_features=lambda long: long.assign(RSI=1.0))


@pytest.mark.parametrize("given", ["nocolon", "", " , ", "relative"], ids=repr)
def test_what_is_no_function_is_refused(frames, given):
    """By the configuration and by the library, before anything runs."""
    with pytest.raises(ConfigError, match="--panel-features expects module:function"):
        TrainConfig(panel_features=given)
    with pytest.raises(FeatureError, match=r"panel_features expects (a function|at least one function, got none)"):
        nb.train(frames, MODEL, panel_features=given)
    with pytest.raises(FeatureError, match=r"panel_features expects (a function|at least one function, got none)"):
        nb.train(frames, MODEL, panel_features=[3])


@pytest.mark.thorough
def test_ranks_are_trained_certified_saved_and_predicted_with(frames, inline, tmp_path):
    """The columns are the last ones; the function and all bars are needed again, and what is missing is said."""
    run = nb.train(frames, MODEL, features="relative", panel_features=ranks)
    assert run.document.features.columns[-1] == "rank_20"
    one = nb.train({"AAA": frames["AAA"]}, MODEL, features="relative", panel_features=ranks)
    assert not one.rows["probability"].equals(run.rows.query("ticker == 'AAA'")["probability"])
    assert nb.certify(run, frames, seconds=30).passed
    files = run.save(tmp_path)
    old = nb.load_run(next(path for path in files if "AAA" in path.name and path.name.endswith("_metadata.json")))
    assert old.document.features.panel.data.keys() == frames.keys()
    assert old.tickers == ["AAA"]
    assert nb.reproduce(old, frames, panel_features=ranks).identical
    with pytest.raises(FeatureError, match="add: panel_features"):
        nb.reproduce(old, frames)
    with pytest.raises(nb.errors.NextbarError, match=r"lack.*\^GSPC"):
        nb.reproduce(old, {name: frames[name] for name in ("AAA", "BBB")}, panel_features=ranks)
    revised = {**frames, "BBB": frames["BBB"].assign(Volume=1.0)}
    again = nb.reproduce(old, revised, panel_features=ranks)
    assert (again.identical, again.where, again.stage) == (False, "BBB", "bars")

    model = old.model("AAA", panel_features=ranks)
    test = run.rows.query("ticker == 'AAA'").set_index("date")["probability"]
    np.testing.assert_array_equal(model.predict(frames)["probability"].reindex(test.index), test)
    with pytest.raises(FeatureError, match="give a mapping of ticker"):
        model.predict(frames["AAA"])
    with pytest.raises(BadBarsError, match="the bars lack AAA"):
        model.predict({"BBB": frames["BBB"]})
    with pytest.warns(UserWarning, match=r"lack \^GSPC; lack the last day of BBB; are made from revised bars of BBB"):
        model.predict({"AAA": frames["AAA"], "BBB": frames["BBB"].iloc[:-1]})


@pytest.mark.parametrize("leak", [mean_of_others_ahead, pytest.param(on_crash_days, marks=pytest.mark.thorough)])
def test_a_leak_from_other_tickers_is_found(frames, inline, leak):
    """The future of the others is changed, too: a column that no bar of the ticker itself moves does not pass."""
    run = nb.train(frames, MODEL, panel_features=leak)
    certificate = nb.certify(run, frames, seconds=30)
    assert not certificate.passed
    failed = [one for one in certificate.findings if not one.passed]
    assert [one.ticker for one in failed if one.part == "truncation"] == ["all tickers"]
    assert {one.part for one in failed} >= {"end of train", "end of validation", "inside test"}


@pytest.mark.thorough
def test_a_function_that_holds_bars_does_not_pass(frames, inline):
    """A variable with data may hold the future, here as with functions of one ticker."""
    future = frames["BBB"]["Close"]

    def held(long: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"held": long["date"].map(future).fillna(0.0)})

    certificate = nb.certify(nb.train(frames, MODEL, panel_features=held), frames, seconds=20)
    assert any("future" in one.note for one in certificate.failures)


def test_a_walk_forward_by_the_name_of_the_function(market_db, tmp_path, named, inline):
    """Commands take a name; the rows are those of the library with the function itself; only new columns alone work."""
    common = {"model": "xgb", "ticker": "AAA,BBB", "db": str(market_db), "no_tune": True, "panel_features": named}
    years = {"train_years": 1, "val_months": 4, "test_months": 4, "step_months": 4}
    walked = walk_forward(
        WalkForwardConfig(**common, **years, features_only=True, output_dir=str(tmp_path / "walked")), Silent()
    )
    assert walked.document.features.columns == ["rank_20"]
    bars = nb.read_bars(market_db, ["AAA", "BBB"])
    own = nb.walk_forward(bars, MODEL, windows=nb.Windows(**years), features=[], panel_features=ranks)
    pd.testing.assert_frame_equal(own.rows, walked.run.rows)


def test_a_prediction_says_which_tickers_are_missing(market_db, tmp_path, named, inline):
    """The panel is made of the tickers at hand; the note names the others; reproducing needs all of them."""
    config = TrainConfig(
        model="xgb", ticker="AAA,BBB", db=str(market_db), no_tune=True, panel_features=named, save_dir=str(tmp_path)
    )
    run = next(one for one in train(config, Silent()).runs if one.label == "AAA")
    copy = tmp_path / "copy.db"
    copy.write_bytes(market_db.read_bytes())
    with sqlite3.connect(copy) as connection:
        connection.execute("DELETE FROM stock_prices WHERE ticker = 'BBB'")
    connection.close()
    made = pd.Timestamp("2012-06-18 13:00", tz="UTC").to_pydatetime()
    options = {"max_age_days": 9999, "panel_features": named, "journal": tmp_path / "journal.jsonl"}
    whole = predict([run.mark], PredictConfig(db=str(market_db), **options), now=made)
    assert whole.notes == []
    part = predict([run.mark], PredictConfig(db=str(copy), **options), now=made)
    assert [one.ticker for one in part.entries] == ["AAA"]
    assert any("columns over all tickers lack BBB" in note for note in part.notes)
    with pytest.raises(ArtifactError, match="made on bars of BBB"):
        reproduce(run.mark, Silent(), db=str(copy), panel_features=named)


def test_the_spec_reads_a_configuration():
    """The option reaches the spec, and the spec names it."""
    spec = FeatureSpec.of(TrainConfig(panel_features="m:f, m:g", features="relative"))
    assert spec == FeatureSpec(sets=("relative",), panel=("m:f", "m:g"))
    assert spec.panel_name == "m:f,m:g"
