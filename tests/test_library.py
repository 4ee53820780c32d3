"""The public API: what `import nextbar` gives, and what its functions promise."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import inspect
import json
import pickle
import subprocess
import sys
import warnings
from array import array
from contextlib import suppress
from functools import partial
from html import escape
from pathlib import Path
from shutil import copy2
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

import nextbar as nb
from nextbar.cli.main import main
from nextbar.config import TrainConfig
from nextbar.errors import (
    ArtifactError,
    BadBarsError,
    ConfigError,
    FeatureError,
    NextbarError,
    NothingToTrainError,
    UnknownTickerError,
    checked,
    python_words,
)
from nextbar.evaluation.certificate import Certificate
from nextbar.evaluation.trades import trades_of
from nextbar.runs.document import Skip
from nextbar.runs.files import parquet_bytes
from nextbar.runs.ledger import Ledger
from nextbar.runs.load import load_run, others_left_out
from nextbar.types import Silent
from nextbar.workflows.train import train
from nextbar.workflows.universe import load_universe

SOURCE = Path(nb.__file__)
WINDOWS = nb.Windows(train_years=1, val_months=3, test_months=4)
SHORT = {"warmup": 60}
COMMON = ("--no-tune", "--warmup", "60")
PERIODS = 261
"""Business days a year, which the synthetic bars are made of."""


@pytest.fixture(scope="module")
def frames(market_bars: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Two tickers of the shared market, in the market format."""
    return {name: market_bars[name].rename(columns={"Adj": "Adj Close"}) for name in ("AAA", "BBB")}


@pytest.fixture(scope="module")
def runs(frames: dict[str, pd.DataFrame], inline_module: Any) -> SimpleNamespace:
    """A training run of two tickers, one of one ticker, and a walk-forward."""
    model = nb.XGBoost(no_tune=True)
    return SimpleNamespace(
        both=nb.train(frames, model, **SHORT),
        one=nb.train({"AAA": frames["AAA"]}, model, **SHORT),
        walk=nb.walk_forward(frames, model, windows=WINDOWS, **SHORT),
    )


def momentum(bars: pd.DataFrame) -> pd.DataFrame:
    """Return of a week."""
    return pd.DataFrame({"week": bars["Close"].pct_change(5)})


def command(*arguments: object) -> None:
    """Run the command line in this process; it must succeed."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert not ended.value.code


# --- the list of names ---------------------------------------------------------------------------------------------


def test_the_lists_of_public_names_agree() -> None:
    """``__all__``, ``dir()``, the imports for type checkers and the homes name the same things in the same modules."""
    tree = ast.parse(SOURCE.read_text())
    typed = {}
    for node in tree.body:
        if isinstance(node, ast.If):
            for part in node.body:
                assert isinstance(part, ast.ImportFrom)
                typed |= {alias.name: part.module for alias in part.names}
    homes = nb._HOMES
    modules = {"errors": "nextbar", "features": "nextbar"}
    assert {**homes, **modules} == typed
    assert sorted(nb.__all__) == sorted([*homes, "__version__"]) == sorted(dir(nb))
    assert len(set(nb.__all__)) == len(nb.__all__)
    for name in nb.__all__:
        assert getattr(nb, name) is not None
    with pytest.raises(AttributeError, match=r"no attribute 'no_such_name'$"):
        nb.no_such_name  # noqa: B018
    for module, name, near in (
        (nb, "walkforward", "walk_forward"),
        (nb, "xgboost", "XGBoost"),
        (nb.features, "relativ", "relative"),
    ):
        with pytest.raises(AttributeError, match=f"no attribute '{name}'; nearest: {near}$"):
            getattr(module, name)


def test_importing_it_imports_no_heavy_library() -> None:
    """Names are imported when they are used, so that an import takes no time."""
    heavy = ["numpy", "pandas", "sklearn", "keras", "jax", "xgboost", "sqlalchemy", "plotly", "scipy"]
    code = f"import sys, nextbar; print([name for name in {heavy} if name in sys.modules], len(dir(nextbar)))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.split("]")[0] == "["


# --- the library and the command line ------------------------------------------------------------------------------


def test_training_gives_the_rows_of_the_command(frames, market_db, tmp_path, monkeypatch, inline) -> None:
    """The same bars, model and options give the same rows and the same models, to the byte."""
    monkeypatch.chdir(tmp_path)
    command("train", "xgb", "--db", market_db, "--ticker", "AAA", *COMMON)
    run = nb.train({"AAA": frames["AAA"]}, nb.XGBoost(no_tune=True), **SHORT)
    (rows,) = Path("models").glob("*_predictions.parquet")
    assert rows.read_bytes() == parquet_bytes(run.rows)
    run.save("own")
    models = [next(Path(folder).glob("xgboost_AAA_????????_??????.json")) for folder in ("models", "own")]
    assert models[0].read_bytes() == models[1].read_bytes()


def test_a_walk_forward_gives_the_rows_of_the_command(frames, market_db, tmp_path, monkeypatch, inline) -> None:
    """The same for a searched forest on two tickers, whose first fold searches for the others."""
    monkeypatch.chdir(tmp_path)
    search = ("--n-iter", 2, "--cv-splits", 2, "--warmup", 60, "--cost-bps", 7, "--no-report")
    windows = ("--train-years", 1, "--val-months", 3, "--test-months", 4, "--step-months", 4)
    command("walkforward", "--model", "rf", "--db", market_db, "--ticker", "AAA,BBB", *search, *windows)
    wf = nb.walk_forward(frames, nb.RandomForest(n_iter=2, cv_splits=2), windows=WINDOWS, cost_bps=7, **SHORT)
    (rows,) = Path("results").glob("*.parquet")
    assert rows.read_bytes() == parquet_bytes(wf.rows)
    (written,) = Path("results").glob("walkforward_*.json")
    pd.testing.assert_frame_equal(nb.load_run(written).figures, wf.figures)


def test_nothing_is_written_unless_asked(frames, tmp_path, monkeypatch, inline) -> None:
    """No function writes a file or opens a ledger of its own accord; a ledger that is named counts the tries."""
    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("NEXTBAR_LEDGER", str(tmp_path / "ledger.db"))
    monkeypatch.setenv("NEXTBAR_JOURNAL", str(tmp_path / "journal.db"))
    model = nb.XGBoost(no_tune=True)
    run = nb.train(frames, model, **SHORT)
    wf = nb.walk_forward(frames, model, windows=WINDOWS, **SHORT)
    signals = wf.rows.pivot_table(index="date", columns="ticker", values="signal")
    judged = nb.judge(signals, frames, name="The same signals, judged as if they were somebody's own")
    for one in (run, wf, judged):
        assert nb.verdict(one).tries is None
        assert str(one)
        assert one._repr_html_()
    told = str(nb.compare([wf, judged]))
    assert max(map(len, told.splitlines())) <= 120
    assert " ".join(line.split("  ")[0] for line in told.splitlines()[2:4]) == judged.config.name
    assert told.endswith("2 configurations tried on these days; all 38 figures: .columns")
    certificate, reproduction = nb.certify(run, frames, seconds=60), nb.reproduce(wf, frames)
    assert certificate.passed
    assert reproduction.identical
    for shown in (certificate, reproduction, nb.verdict(wf)):  # at the end of a notebook's cell
        assert repr(shown) == str(shown)
    run.model("AAA").predict(frames["AAA"])
    assert list(tmp_path.iterdir()) == []
    counted = nb.verdict(wf, ledger="tries.db")
    nb.walk_forward(frames, nb.XGBoost(no_tune=True), windows=WINDOWS, seed=1, ledger="tries.db", **SHORT)
    assert counted.tries is not None
    assert nb.verdict(wf, ledger="tries.db").tries.count == counted.tries.count + 1
    assert {path.name for path in tmp_path.iterdir()} == {"tries.db"}


def test_only_a_refit_is_written_beside_a_run_on_disk(frames, market_db, tmp_path, monkeypatch, inline) -> None:
    """Of the public functions that are given no path to write to, no other one changes a file or makes one."""
    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("NEXTBAR_LEDGER", str(tmp_path / "ledger.db"))
    monkeypatch.setenv("NEXTBAR_JOURNAL", str(tmp_path / "journal.db"))
    copy2(market_db, "market.db")
    one = {"AAA": frames["AAA"]}
    made = nb.train(one, nb.XGBoost(no_tune=True), holdout_from="2012-01-02", **SHORT)
    mark = made.save("runs")[-1]
    run, judged = nb.load_run(mark), nb.judge(frames["AAA"]["Close"] * 0 + 1, one)
    calls = {
        "bars": lambda: nb.bars(frames["AAA"]),
        "compare": lambda: nb.compare([run, judged]),
        "load_run": lambda: nb.load_run(mark).model("AAA").predict(frames["AAA"]),
        "open_holdout": lambda: nb.open_holdout(run, one),
        "read_bars": lambda: nb.read_bars("market.db", ["AAA"]),
        "refit": lambda: nb.refit(made, one),
        "reproduce": lambda: nb.reproduce(run, one, upgrade=True),
        "sample_bars": nb.sample_bars,
        "verdict": lambda: nb.verdict(run),
    }
    public = [name for name in nb.__all__ if inspect.isfunction(getattr(nb, name))]
    tried_above, given_a_path = ["certify", "judge", "train", "walk_forward"], ["report"]
    assert sorted([*calls, *tried_above, *given_a_path]) == sorted(public)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {path.parent.name for path in before} == {"runs", tmp_path.name}
    for name, call in calls.items():
        call()
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before, name
    nb.refit(run, one)
    changed = {path for path in tmp_path.rglob("*") if path.is_file() and before.get(path) != path.read_bytes()}
    written = {path.name.removeprefix(run.stem) for path in changed}
    assert written == {"_metadata.json", "_refit.json", "_refit.meta.json"}


# --- bars ----------------------------------------------------------------------------------------------------------

DAYS = pd.bdate_range("2020-01-01", periods=5, unit="s")
FRAME = pd.DataFrame(
    {
        name: np.arange(5.0, 10.0) + above
        for name, above in {"Open": 1, "High": 4, "Low": 0, "Close": 3, "Adj Close": 2}.items()
    },
    index=DAYS,
).assign(Volume=100.0)
PLAIN = FRAME.reset_index(names="Date")


@pytest.mark.parametrize(
    "given",
    [
        FRAME,
        FRAME[::-1],
        FRAME.rename(columns={"Adj Close": "adj_close", "Open": " OPEN"}),
        FRAME.tz_localize("America/New_York") + 0,
        FRAME.set_axis(DAYS + pd.Timedelta(hours=16)),
        FRAME.set_axis(DAYS.strftime("%Y-%m-%d")),
        FRAME.set_axis(DAYS.date),
        PLAIN,
        PLAIN.assign(Date=PLAIN["Date"].dt.strftime("%Y%m%d").astype(int)),
        PLAIN.rename(columns={"Date": "timestamp"}),
        FRAME.assign(Volume=FRAME["Volume"].astype("Int64")),
        FRAME.assign(note=1.0),
        pd.concat({"BARS": FRAME}, axis=1),
    ],
    ids=[
        "frame",
        "newest first",
        "spelling",
        "time zone",
        "time of day",
        "text days",
        "date objects",
        "column",
        "whole numbers",
        "timestamp",
        "nullable",
        "another column",
        "two levels",
    ],
)
def test_bars_take_the_shapes_that_people_have(given: pd.DataFrame) -> None:
    """Whatever the spelling, the days and the order: the market format comes out."""
    (found,) = nb.bars(given).values()
    expected = FRAME.rename_axis("Date")[["Open", "High", "Low", "Close", "Adj Close", "Volume"]]
    pd.testing.assert_frame_equal(found, expected, check_freq=False)
    assert list(nb.bars(given, ticker="XYZ")) == ["XYZ"]


def test_bars_of_several_tickers() -> None:
    """A column, two levels in either order and a mapping give the same tickers; a ticker keeps its own days."""
    late = FRAME.iloc[2:] * 2
    parts = [part.reset_index(names="date").assign(Symbol=name) for name, part in (("A", FRAME), ("B", late))]
    named = pd.concat(parts)
    levels = pd.concat({"A": FRAME, "B": late}, axis=1)
    rows = pd.concat({"A": FRAME, "B": late}, names=["ticker", "date"])
    for given in (named, levels, levels.swaplevel(axis=1), rows, {"A": FRAME, "B": late}):
        found = nb.bars(given)
        assert {name: len(frame) for name, frame in found.items()} == {"A": 5, "B": 3}
        np.testing.assert_array_equal(found["B"]["Close"], late["Close"])


def test_bars_without_volume_and_adjusted_close_are_bars() -> None:
    """What is missing is NaN, and the columns are there."""
    (found,) = nb.bars(FRAME[["Open", "High", "Low", "Close"]]).values()
    assert found[["Adj Close", "Volume"]].isna().all(axis=None)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (3, "got int"),
        ({}, "at least one ticker"),
        ({"A": [1, 2]}, "A: expected a DataFrame of bars, got list"),
        (FRAME.drop(columns=["Open", "Low"]), "no column for open, low"),
        (FRAME.assign(close=1.0), r"several columns, which differ, for close: .* columns=\"close=5\""),
        (FRAME.reset_index(drop=True), "no column for date"),
        (
            FRAME.set_axis(["1/2/2020", "1/3/2020", "1/6/2020", "1/7/2020", "1/8/2020"]),
            "two formats fit all days .* date_format=",
        ),
        (pd.concat([FRAME, FRAME * 2]), "dates repeat with other prices, such as BARS on 2020-01-01"),
        (FRAME.astype(object).assign(Open="cheap"), "not a number"),
        ({"A": pd.concat({"A": FRAME, "B": FRAME}, axis=1)}, "A: expected the bars of one ticker, got those of A, B"),
        (pd.concat({"x": FRAME[["Open"]], "y": FRAME[["Close"]]}, axis=1), r"expected columns \(price, ticker\)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_are_no_bars_is_refused(given: Any, told: str) -> None:
    """The message says what was expected and what came."""
    with pytest.raises(BadBarsError, match=told):
        nb.bars(given)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (FRAME.set_axis([pd.NaT, *DAYS[1:]]), r"1 bar refused: bad date \(1\)"),
        (PLAIN.assign(ticker=["BARS", "BARS", None, "BARS", "BARS"]), r"1 bar refused: no ticker \(1\)"),
        (FRAME.assign(Low=[99.0, *FRAME["Low"][1:]]), r"1 bar refused: high < low \(1\), the first 2020-01-01"),
        (
            FRAME.assign(Low=[99.0, *FRAME["Low"][1:]], Open=[FRAME["Open"].iloc[0], 99, 99, *FRAME["Open"][3:]]),
            r"open outside low..high \(2\), high < low \(1\), the first 2020-01-02",
        ),
        (pd.concat([FRAME, FRAME[-1:] * 2]), r"rows that differ on 1 day: .* BARS 2020-01-07 \(close 24\)"),
    ],
    ids=["no day", "no ticker", "high below low", "two reasons", "two rows of a day"],
)
def test_what_is_left_out_of_bars_is_a_warning(given: pd.DataFrame, told: str) -> None:
    """A frame gets the checks of a file: a refused bar is named, the others are there."""
    with pytest.warns(UserWarning, match=told):
        (found,) = nb.bars(given).values()
    assert len(found) in (2, 4, 5)


def test_tickers_that_differ_only_in_case_get_no_files_in_one_folder(frames, make_database, tmp_path, inline) -> None:
    """Reading them is a warning; saving a model of each is refused, by the command before it trains."""
    bars = {name: frames["AAA"].head(400) for name in ("AAA", "aaa")}
    with pytest.warns(UserWarning, match="AAA and aaa differ only in case; rename one"):
        read = nb.bars(bars)
    run = nb.train(read, nb.XGBoost(no_tune=True), **SHORT)
    with pytest.raises(NextbarError, match=r"differ only in case \(AAA, aaa\) cannot be saved into one folder"):
        run.save(tmp_path / "models")
    database = make_database(
        tmp_path / "m.db", {name: frame.rename(columns={"Adj Close": "Adj"}) for name, frame in bars.items()}
    )
    config = TrainConfig(db=str(database), model="xgb", save_dir=str(tmp_path / "models"))
    with pytest.raises(NextbarError, match="differ only in case"):
        train(config, Silent())
    assert [path.name for path in tmp_path.rglob("*AAA*")] == []


@pytest.mark.parametrize("verb", ["train", "walk_forward", "judge"])
def test_bad_bars_given_to_a_verb_are_a_warning(frames, verb) -> None:
    """A mapping of frames that need no reading is looked at as `bars` looks, and the warning is at the user's line."""
    bad = nb.bars({"AAA": frames["AAA"].head(60)})["AAA"]
    for row, column, value in ((10, "High", 0.01), (20, "Low", -1.0), (30, "Close", 0.0), (40, "Open", np.nan)):
        bad.iloc[row, bad.columns.get_loc(column)] = value
    calls = {
        "judge": lambda: nb.judge(bad["Close"] * 0 + 1, {"AAA": bad}),
        "train": lambda: nb.train({"AAA": bad}, nb.XGBoost(no_tune=True)),
        "walk_forward": lambda: nb.walk_forward({"AAA": bad}, nb.XGBoost(no_tune=True)),
    }
    with pytest.warns(UserWarning, match="^AAA: 4 bad bars: ") as told, suppress(NextbarError):
        calls[verb]()
    (warned,) = told
    for reason in ("high < low (1)", "low <= 0 (1)", "close <= 0 (1)", "open is not a number (1)"):
        assert reason in str(warned.message)
    assert f"the first {bad.index[10].date()}; only those" in str(warned.message)
    assert warned.filename == __file__
    with pytest.warns(UserWarning, match="4 bars refused") as read:
        nb.bars({"AAA": bad})
    assert read[0].filename == __file__


def test_bars_take_the_options_of_ingest() -> None:
    """Columns, days and numbers that only the user can name are read as he says."""
    written = PLAIN.rename(columns={"Close": "Fixing"}).assign(Date=DAYS.strftime("%d|%m|%Y"), who="XYZ")
    odd = written.assign(Open=written["Open"].map(lambda value: f"{value:.1f}".replace(".", ",")))
    options = {"columns": {"close": "Fixing"}, "date_format": "%d|%m|%Y", "ticker_column": "who", "decimal": ","}
    found = nb.bars(odd, **options)
    pd.testing.assert_frame_equal(found["XYZ"].reset_index(drop=True), nb.bars(FRAME)["BARS"].reset_index(drop=True))
    with pytest.raises(ConfigError, match="'price' is not a column of a bar"):
        nb.bars(FRAME, columns={"price": "Close"})
    hours = pd.concat([FRAME.set_axis(DAYS + pd.Timedelta(hours=hour)) for hour in (10, 12, 15)])
    with pytest.raises(BadBarsError, match=r"3 rows each, 10:00 to 15:00.* resample="):
        nb.bars(hours)
    (daily,) = nb.bars(hours, resample=True).values()
    assert daily["Volume"].tolist() == [300.0] * 5


def test_a_later_start_changes_no_adjusted_price(market_db, inline) -> None:
    """Bars that are read from a later day on are adjusted as in the whole history, whose first bar sets the scale."""
    whole, late = nb.read_bars(market_db, "AAA"), nb.read_bars(market_db, ["AAA"], start="2010-07-01", end="2012-05-31")
    assert late["AAA"].index[0] == pd.Timestamp("2010-07-01")
    assert late["AAA"].index[-1] == pd.Timestamp("2012-05-31")
    pd.testing.assert_frame_equal(late["AAA"], whole["AAA"].loc["2010-07-01":"2012-05-31"], check_freq=False)
    seen: dict[str, pd.DataFrame] = {}

    def spy(name: str) -> Any:
        return lambda bars: seen.setdefault(name, bars)[["Open", "High", "Low", "Close", "Volume"]]

    for name, bars in (("whole", whole), ("late", late)):
        nb.train(bars, nb.XGBoost(no_tune=True), features=spy(name), **SHORT)
    common = seen["late"].index
    pd.testing.assert_frame_equal(seen["late"], seen["whole"].loc[common], check_exact=True)
    assert {"AAA", "BBB", "TINY", "^GSPC"} <= set(nb.read_bars(market_db))
    with pytest.raises(UnknownTickerError):
        nb.read_bars(market_db, "NONE")
    with pytest.raises(ConfigError, match="start"):
        nb.read_bars(market_db, "AAA", start="July")


# --- runs ----------------------------------------------------------------------------------------------------------


def same_document(one: nb.Run, other: nb.Run) -> None:
    """Documents are equal but for the list of files, which a run in memory has not."""
    parts = [msgspec.structs.replace(run.document, files={}, paths={}).to_json() for run in (one, other)]
    assert json.loads(json.dumps(parts[0])) == json.loads(json.dumps(parts[1]))


def test_a_saved_run_is_the_run(runs, frames, tmp_path) -> None:
    """Document, rows, figures, verdict and predictions are those of the run in memory; any file opens it."""
    for run in (runs.one, runs.walk):
        files = run.save(tmp_path)
        for path in files:
            old = nb.load_run(path)
            same_document(old, run)
        pd.testing.assert_frame_equal(old.rows, run.rows, check_exact=True)
        pd.testing.assert_frame_equal(old.figures, run.figures, check_exact=True)
        assert nb.verdict(old) == nb.verdict(run)
        assert str(old) == str(run)
        assert old.config.to_json() == run.config.to_json()
    saved = nb.load_run(next(tmp_path.glob("xgboost_*_metadata.json")))
    for run in (saved, runs.one):
        assert len(run.model("AAA").predict(frames["AAA"])) == len(frames["AAA"]) - 60
    pd.testing.assert_frame_equal(
        saved.model("AAA").predict(frames["AAA"]), runs.one.model().predict(frames["AAA"]), check_exact=True
    )
    with pytest.raises(ArtifactError, match="copy its files"):
        saved.save(tmp_path / "again")


def test_test_days_are_predicted_by_the_model_as_in_the_rows(runs, frames) -> None:
    """What the model in the run says about a test day is what its rows say."""
    said = runs.both.model("BBB").predict(frames["BBB"])
    rows = runs.both.rows.query("ticker == 'BBB'").set_index("date")
    np.testing.assert_array_equal(said.loc[rows.index, "probability"], rows["probability"])
    np.testing.assert_array_equal(said.loc[rows.index, "signal"], rows["signal"])


def test_bars_of_another_ticker_are_asked_about(runs, frames, tmp_path) -> None:
    """Hardly a test day has the return of the run; revised bars of the same ticker are still called revised."""
    revised = frames["AAA"].assign(Volume=frames["AAA"]["Volume"] + 1)
    saved = nb.load_run(runs.one.save(tmp_path)[-1])
    for model in (runs.both.model("AAA"), saved.model()):
        for other in (frames["BBB"], frames["BBB"][:-9]):
            with pytest.warns(UserWarning, match=r"^AAA: \d+ of \d+ test days have the return that .* of AAA\?$"):
                model.predict(other)
        with pytest.warns(UserWarning, match="AAA: bars up to 2012-06-15 were revised"):
            model.predict(revised)


def test_the_ticker_must_be_given_where_there_are_several(runs) -> None:
    """The message shows how."""
    with pytest.raises(ArtifactError, match=r"knows AAA, BBB; give the ticker: run.model\('AAA'\)$"):
        runs.both.model()


def test_a_run_of_several_tickers_is_saved_as_a_document_each(runs, frames, tmp_path) -> None:
    """Each document has the id and the number of tickers of the run; loading one gives that ticker."""
    files = runs.both.save(tmp_path)
    marks = [path for path in files if path.name.endswith("_metadata.json")]
    loaded = [nb.load_run(path) for path in marks]
    assert [run.tickers for run in loaded] == [["AAA"], ["BBB"]]
    groups = {(run.document.run.id, run.document.run.tickers) for run in loaded}
    assert groups == {(runs.both.document.run.id, 2)}
    together = pd.concat([run.rows for run in loaded], ignore_index=True)
    pd.testing.assert_frame_equal(together, runs.both.rows, check_exact=True)
    for run in loaded:
        (ticker,) = run.tickers
        pd.testing.assert_frame_equal(
            run.model().predict(frames[ticker]), runs.both.model(ticker).predict(frames[ticker]), check_exact=True
        )


def test_a_run_says_who_has_no_model(market_bars, inline) -> None:
    """A ticker with too few bars is listed with the reason, also where a single model is left."""
    frames = {name: market_bars[name].rename(columns={"Adj": "Adj Close"}) for name in ("AAA", "TINY")}
    run = nb.train(frames, nb.XGBoost(no_tune=True), **SHORT)
    assert run.tickers == ["AAA"]
    assert [(skip.ticker, "90 bars" in skip.reason) for skip in run.document.skipped] == [("TINY", True)]
    with pytest.raises(ArtifactError, match="knows AAA, not TINY"):
        run.model("TINY")
    with pytest.raises(NothingToTrainError, match="TINY"):
        nb.train({"TINY": frames["TINY"]}, nb.XGBoost(no_tune=True), **SHORT)


def test_a_walk_forward_keeps_no_model(runs) -> None:
    """The message says what to do."""
    with pytest.raises(ArtifactError, match="train one to predict with"):
        runs.walk.model("AAA")


def test_reproducing_needs_the_tickers_and_finds_a_changed_bar(runs, frames, inline) -> None:
    """Bars of a missing ticker are asked for; a changed bar is named, and not certified; later ones are left out."""
    with pytest.raises(UnknownTickerError, match="the bars lack BBB"):
        nb.reproduce(runs.both, {"AAA": frames["AAA"]})
    changed = frames["AAA"].copy()
    changed.loc[changed.index[300], ["High", "Close"]] *= 1.01
    answer = nb.reproduce(runs.one, {"AAA": changed})
    assert not answer.identical
    assert str(changed.index[300].date()) in " ".join(answer.differences)
    assert nb.reproduce(runs.one, frames).identical
    with pytest.raises(ArtifactError, match="bars have changed since"):
        nb.certify(runs.one, {"AAA": changed})


HOSTILE = "<img src=x onerror=alert(1)>"


def test_a_run_shows_itself(runs, frames, inline) -> None:
    """In a notebook: the verdict, the baselines and a picture. As text: figures and baselines. A name is no HTML."""
    run = nb.train({HOSTILE: frames["AAA"]}, nb.XGBoost(no_tune=True), **SHORT)
    for one in (run, runs.walk, runs.both):
        page, text = one._repr_html_(), str(one)
        assert nb.verdict(one).verdict.value in page
        assert "<svg" in page
        for name in ("always long", "constant, own exposure", "yesterday&#x27;s direction"):
            assert name in page.replace("yesterday's", "yesterday&#x27;s")
        assert "<script" not in page
        assert "always long" in text
        assert "constant, own exposure" in text
    assert HOSTILE not in run._repr_html_()
    assert "&lt;img" in run._repr_html_()


def test_a_run_shows_its_name_and_its_remarks(runs) -> None:
    """As text and in a notebook: the user's name, the first remarks, who was left out, and where the others are."""
    document = msgspec.structs.replace(
        runs.one.document,
        remarks=["AAA: <b>; see --target return", "two", "three"],
        skipped=[Skip(ticker=name, fold=None, reason=f"{name}: no bars") for name in ("X", "Y")],
    )
    run = dataclasses.replace(runs.one, document=document, config=dataclasses.replace(runs.one.config, name="momentum"))
    assert str(run).splitlines()[0].startswith('train "momentum" of xgb, AAA, ')
    assert str(run).splitlines()[1] == f"{PERIODS} periods a year, costs of 5 basis points, a risk-free rate of 0 %"
    assert "momentum" in repr(run)
    last = ["note: AAA: <b>; see target return", "note: two", "note: three", "left out: X, Y: no bars"]
    assert str(run).splitlines()[-4:] == last
    page = run._repr_html_()
    assert "momentum, xgb, AAA" in page
    for line in last:
        assert escape(line) in page
    more = msgspec.structs.replace(document, remarks=["1", "2", "3", "4", "5"])
    assert str(dataclasses.replace(run, document=more)).endswith(
        "note: 4\nand 2 more: run.document.remarks, run.document.skipped"
    )


@pytest.mark.parametrize("suffix", [".html", ".md", ".json"])
def test_a_report_is_written_where_asked(runs, tmp_path, suffix) -> None:
    """The suffix says what; of one run or of several; missing folders are made."""
    path = nb.report(runs.walk, tmp_path / "deep" / f"page{suffix}")
    assert nb.verdict(runs.walk).verdict.value in path.read_text()
    assert nb.report([runs.walk, runs.one], tmp_path / f"two{suffix}").stat().st_size > 1000
    with pytest.raises(ConfigError, match=r"\.pdf"):
        nb.report(runs.walk, tmp_path / "page.pdf")


# --- models and features of the user's own -------------------------------------------------------------------------


def test_an_estimator_may_be_a_pipeline_and_gets_the_seed(frames, inline) -> None:
    """Every ``random_state`` inside is the seed of the fit, the user's object stays as it was."""
    tree = DecisionTreeClassifier(max_depth=3, max_features=2)
    model = nb.Estimator(make_pipeline(StandardScaler(), tree), label="tree")
    run = nb.train(frames, model, **SHORT)
    assert run.document.model == model.name == "tree"
    for _, task in run.document.fits:
        fitted = run.model(task.name).fitted.estimator
        assert fitted["decisiontreeclassifier"].random_state == task.seed % 2**32
    assert tree.random_state is None
    assert nb.reproduce(run, frames).identical
    other = nb.train(frames, model, seed=1, **SHORT)
    assert not np.array_equal(other.rows["probability"], run.rows["probability"])


def test_an_estimator_searches_its_space_on_train(frames, inline) -> None:
    """Candidates are recorded; without a space its own parameters are used."""
    space = {"logisticregression__C": [0.01, 1.0]}
    pipeline = make_pipeline(StandardScaler(), LogisticRegression())
    wf = nb.walk_forward(
        {"AAA": frames["AAA"]}, nb.Estimator(pipeline, space=space, n_iter=2, cv_splits=2), windows=WINDOWS, **SHORT
    )
    searches = [task.search for _, task in wf.document.fits]
    assert len(searches[0].candidates) == 2
    assert all(not search.candidates and search.params == searches[0].params for search in searches[1:])
    assert nb.certify(wf, frames, seconds=60).passed


def test_a_classifier_that_knows_no_rise_gives_no_chance(frames, inline) -> None:
    """A classifier that was fitted on falls alone has no column for a rise."""
    run = nb.train({"AAA": frames["AAA"]}, nb.Estimator(Falls()), **SHORT)
    assert (run.rows["probability"] == 0).all()


class Falls(DummyClassifier):
    """Knows falls alone."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Falls:
        """Fit on falls."""
        return super().fit(X, np.zeros_like(y), sample_weight)


def test_a_saved_estimator_is_loaded_only_where_it_is_trusted(frames, inline, tmp_path, monkeypatch) -> None:
    """The model must be passed, and the pickle declared safe; nothing is unpickled before."""
    model = nb.Estimator(GaussianNB())
    run = nb.train({"AAA": frames["AAA"]}, model, **SHORT)
    old = nb.load_run(run.save(tmp_path)[0])
    with monkeypatch.context() as patch:
        patch.setattr("pickle.loads", lambda *_: pytest.fail("unpickled"))
        for wrong, told in (
            ({}, "run of your own model gaussiannb; pass it"),
            ({"trust": True}, "pass it"),
            ({"model": nb.Estimator(LogisticRegression()), "trust": True}, "pass it"),
            ({"model": model}, "trust=True"),
        ):
            with pytest.raises(ArtifactError, match=told):
                old.model("AAA", **wrong)
    said = old.model("AAA", model=model, trust=True).predict(frames["AAA"])
    pd.testing.assert_frame_equal(said, run.model("AAA").predict(frames["AAA"]), check_exact=True)


def test_functions_of_the_users_own(frames, inline, tmp_path, monkeypatch) -> None:
    """A closure, a lambda, a name and a list give the columns that they return."""
    (tmp_path / "own_months.py").write_text(
        "def month(bars):\n    return bars[['Close']].pct_change(21).rename(columns={'Close': 'month'})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def days(count: int) -> Any:
        return lambda bars: pd.DataFrame({f"days_{count}": bars["Close"].pct_change(count)})

    one = {"AAA": frames["AAA"]}
    for features, columns in (
        (days(3), ["days_3"]),
        (lambda bars: bars[["Close"]] / 2, ["Close"]),
        ("own_months:month", ["month"]),
        (["levels", momentum, "own_months:month", days(4)], ["Close", "SMA_20", "SMA_50", "RSI", "MACD"]),
    ):
        run = nb.train(one, nb.XGBoost(no_tune=True), features=features, **SHORT)
        found = run.document.features.columns
        assert found[: len(columns)] == columns
        assert run.document.features.function is not None
        assert nb.reproduce(run, one).identical
    assert found[6:] == ["week", "month", "days_4"]
    assert len(run.model().predict(frames["AAA"])) == len(frames["AAA"]) - 60


def test_a_saved_run_wants_its_function_again(frames, inline, tmp_path) -> None:
    """Nothing is imported because a file names it; another function is refused, by name or by what it computes."""
    one = {"AAA": frames["AAA"]}
    run = nb.train(one, nb.XGBoost(no_tune=True), features=momentum, **SHORT)
    old = nb.load_run(run.save(tmp_path)[0])
    with pytest.raises(FeatureError, match="momentum"):
        old.model()
    with pytest.raises(FeatureError, match="momentum"):
        nb.reproduce(old, one)
    assert nb.reproduce(old, one, features=momentum).identical

    def changed(bars: pd.DataFrame) -> pd.DataFrame:
        return momentum(bars) * 2

    changed.__module__, changed.__qualname__ = momentum.__module__, momentum.__qualname__
    with pytest.raises(FeatureError, match="other values"):
        old.model(features=changed).predict(frames["AAA"])


def test_the_relative_set_is_trained_certified_and_loaded(frames, inline, tmp_path) -> None:
    """It needs no function again; with one, the function is asked for, and other sets are refused."""
    plain = nb.train(frames, nb.XGBoost(no_tune=True), features="relative")
    assert plain.config.features == "relative"
    assert plain.document.features.columns == list(nb.features.relative(frames["AAA"]))
    assert set(plain.document.features.warmup_error) == {"rsi_14", "macd_atr", "macd_histogram_atr"}
    assert nb.certify(plain, frames, seconds=20).passed
    saved = nb.load_run(plain.save(tmp_path)[-1])
    assert saved.document.features.function is None
    assert nb.reproduce(saved, frames).identical
    with pytest.raises(FeatureError, match="was trained with relative, but levels was given"):
        saved.features("levels")

    def volume(bars: pd.DataFrame) -> pd.DataFrame:
        return bars[["Volume"]]

    both = nb.train(frames, nb.XGBoost(no_tune=True), features=["relative", volume])
    assert both.document.features.columns == [*plain.document.features.columns, "Volume"]
    again = nb.load_run(both.save(tmp_path)[-1])
    assert nb.reproduce(again, frames, features=["relative", volume]).identical
    assert nb.reproduce(again, frames, features=volume).identical
    with pytest.raises(FeatureError, match="add: --features"):
        again.features("relative")
    with pytest.raises(FeatureError, match="was trained with relative, but levels was given"):
        again.features(["levels", volume])


@pytest.mark.parametrize("lacking", [["Adj Close"], ["Volume"], ["Adj Close", "Volume"]], ids=" and ".join)
def test_bars_that_lack_a_column_are_certified(frames, inline, lacking) -> None:
    """No change of the future gives values to a column that the source does not have."""
    bare = {"AAA": frames["AAA"].drop(columns=lacking)}
    run = nb.train(bare, nb.XGBoost(no_tune=True), engine="serial")
    found = nb.certify(run, bare, engine="serial", seconds=30)
    assert found.passed, str(found)


def test_a_closure_goes_to_a_child_process_and_is_certified(frames) -> None:
    """Functions that no module holds travel to workers, and to the process that tries them day by day."""
    scale = 2.0
    one = {"AAA": frames["AAA"]}
    run = nb.train(
        one,
        nb.XGBoost(no_tune=True),
        features=lambda bars: bars[["Close"]].pct_change(3) * scale,
        engine="serial",
        **SHORT,
    )
    assert nb.certify(run, one, engine="serial", seconds=60).passed
    ahead = nb.train(one, nb.XGBoost(no_tune=True), features=lambda bars: bars[["Close"]].shift(-1), **SHORT)
    assert nb.certify(ahead, one, engine="serial", seconds=60).verdict == "FAIL"


def test_a_run_remembers_its_certificate(frames, inline, tmp_path) -> None:
    """After a FAIL no verdict is given, in memory and on disk; the last bar is not predicted silently."""
    one = {"AAA": frames["AAA"]}
    run = nb.train(one, nb.XGBoost(no_tune=True), features=leaking, **SHORT)
    assert (run.refuted(), run.certificate()) == (False, None)
    loaded = nb.load_run(run.save(tmp_path / "before")[-1])
    with pytest.warns(nb.errors.Remark, match=r"kept in run\.certificates only; to write it: nextbar certify xgb "):
        assert nb.certify(loaded, one, features=leaking, seconds=60).verdict == "FAIL"
    assert (loaded.refuted(), nb.load_run(loaded.mark).refuted()) == (True, False)
    run.certificates.extend(loaded.certificates)
    assert run.refuted()
    assert nb.verdict(run).statements == (nb.verdict(run).headline,)
    assert nb.verdict(run).headline.startswith("Its certificate is FAIL")
    assert "EDGE" not in run._repr_html_()
    files = run.save(tmp_path / "after")
    assert sorted(files) == sorted((tmp_path / "after").iterdir())
    assert [path.name.endswith(("_certificate.json", "_metadata.json")) for path in files[-3:]] == [False, True, True]
    saved = nb.load_run(files[-1])
    assert (saved.certificate().verdict, saved.certificates) == ("FAIL", [])
    assert saved.refuted()
    with pytest.warns(nb.errors.Remark, match="its certificate is FAIL"):
        model = run.model()
    with pytest.warns(UserWarning, match="ahead has no value on the last bar; a feature that looks ahead has none"):
        model.predict(one["AAA"])


def leaking(bars: pd.DataFrame) -> pd.DataFrame:
    """Tomorrow's return."""
    return pd.DataFrame({"ahead": bars["Close"].pct_change().shift(-1)})


PLACES = ["default", "attribute", "nested", "tuple", "array", "text", "bytes", "scaler"]


@pytest.mark.parametrize(
    "place", ["closure", *[pytest.param(place, marks=pytest.mark.thorough) for place in ("global", *PLACES)]]
)
def test_a_function_that_holds_data_does_not_pass(frames, place, monkeypatch) -> None:
    """The same bars in a variable are the future as much as bars in a file; a variable may be allowed by its name."""
    one, held = {"AAA": frames["AAA"]}, frames["AAA"]["Close"]
    monkeypatch.setitem(globals(), "KNOWN", held)

    def inner(bars: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"x": bars["Close"] * held.mean()})

    class Owner:
        def __init__(self) -> None:
            self.prices = held.to_numpy()

        def columns(self, bars: pd.DataFrame) -> pd.DataFrame:
            return pd.DataFrame({"x": bars["Close"] * self.prices.mean()})

    def by_default(bars: pd.DataFrame, prices: pd.Series = held) -> pd.DataFrame:
        return pd.DataFrame({"x": bars["Close"] * prices.mean()})

    stored = held.to_numpy()[:80].tobytes()
    prices, packed, text = tuple(held), array("d", held), held.to_csv()
    scaler = StandardScaler().fit(held.to_frame())
    function, name = {
        "tuple": (lambda bars: bars[["Close"]] * prices[-1], "prices"),
        "array": (lambda bars: bars[["Close"]] * packed[-1], "packed"),
        "bytes": (lambda bars: bars[["Close"]] * len(stored), "stored"),
        "text": (lambda bars: bars[["Close"]] * len(text), "text"),
        "scaler": (lambda bars: bars[["Close"]] * scaler.mean_[0], "scaler"),
        "global": (lambda bars: bars[["Close"]] * KNOWN.mean(), "KNOWN"),  # noqa: F821
        "closure": (inner, "held"),
        "default": (by_default, "default 0"),
        "attribute": (Owner().columns, "self"),
        "nested": (lambda bars: inner(bars) * 2, "inner"),
    }[place]
    run = nb.train(one, nb.XGBoost(no_tune=True), features=function, engine="serial", **SHORT)
    found = nb.certify(run, one, engine="serial", seconds=30)
    assert not found.passed
    assert f"data in the variable {name};" in " ".join(finding.note for finding in found.findings)
    if place == "closure":
        assert nb.certify(run, one, engine="serial", seconds=30, allow_reads=["held"]).passed


def test_a_function_without_a_name_is_refused(frames) -> None:
    """Its description would be an address, another one in each process."""
    with pytest.raises(FeatureError, match="a function with a name"):
        nb.train(frames, nb.XGBoost(no_tune=True), features=partial(momentum), **SHORT)


@pytest.mark.parametrize("column", ["probability", "next_return", "strategy_return", "class"])
def test_rows_that_no_fit_gives_are_found(runs, frames, inline, tmp_path, column) -> None:
    """Other rows, with their sha256 in the document, are not what training again gives."""
    run = nb.load_run(runs.one.save(tmp_path)[-1])
    rows = run.rows.copy()
    rows[column] = 1 - rows[column] if column == "class" else rows[column] + 0.001
    run.rows_path.write_bytes(parquet_bytes(rows))
    document = json.loads(run.mark.read_text())
    document["files"][run.rows_path.name] = hashlib.sha256(run.rows_path.read_bytes()).hexdigest()
    run.mark.write_text(json.dumps(document))
    answer = nb.reproduce(nb.load_run(run.mark), frames)
    assert (answer.identical, answer.stage) == (False, "rows")
    assert "first at stage rows" in str(answer)


def forged(run: nb.Run, path: list[Any], value: Any) -> nb.Run:
    """The run with another value at this place of its document."""
    document = json.loads(run.mark.read_text())
    place = document
    for name in path[:-1]:
        place = place[name]
    assert place[path[-1]] != value
    place[path[-1]] = value
    run.mark.write_text(json.dumps(document))
    return nb.load_run(run.mark)


def test_a_run_without_newer_figures_is_reproduced(runs, frames, inline, tmp_path) -> None:
    """A document of a version that did not compute a figure is not another run; a figure that it has is compared."""
    run = nb.load_run(runs.one.save(tmp_path)[-1])
    document = json.loads(run.mark.read_text())
    places = [document["pooled"], *document["baselines"].values(), *document["per_ticker"].values()]
    for figures in places:
        for name in ("mcc", "log_loss", "ic", "sortino", "calmar"):
            figures.pop(name, None)
    run.mark.write_text(json.dumps(document))
    assert nb.reproduce(nb.load_run(run.mark), frames).stage == "figures"
    document["environment"]["versions"]["nextbar"] = "0.1.0"
    run.mark.write_text(json.dumps(document))
    assert nb.reproduce(nb.load_run(run.mark), frames).identical
    document["pooled"]["brier"] += 0.01
    run.mark.write_text(json.dumps(document))
    assert nb.reproduce(nb.load_run(run.mark), frames).stage == "figures"


def test_a_file_for_people_that_was_exchanged_is_found(market_bars, inline, tmp_path) -> None:
    """The pickle of a forest is not read, but it must be the one that training writes."""
    one = {"AAA": market_bars["AAA"].rename(columns={"Adj": "Adj Close"})}
    saved = nb.train(one, nb.RandomForest(no_tune=True)).save(tmp_path)
    run = nb.load_run(saved[-1])
    assert nb.reproduce(run, one).identical
    (pickled,) = (path for path in saved if path.suffix == ".pkl")
    pickled.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    document = json.loads(run.mark.read_text())
    document["files"][pickled.name] = hashlib.sha256(pickled.read_bytes()).hexdigest()
    run.mark.write_text(json.dumps(document))
    found = nb.reproduce(nb.load_run(run.mark), one)
    assert (found.identical, found.stage) == (False, pickled.name)


def test_a_shorter_history_is_a_warning(runs, frames) -> None:
    """Prices are adjusted from the first bar on, so that a model sees other features on a part of its bars."""
    with pytest.warns(UserWarning, match="the history begins on another day than its own"):
        runs.one.model("AAA").predict(frames["AAA"].iloc[-400:])


def test_a_model_takes_the_bars_of_other_libraries(runs, frames) -> None:
    """Columns (price, ticker), as yfinance gives them, and lower-case names predict what market-format bars do."""
    model, plain = runs.one.model("AAA"), frames["AAA"]
    several = plain.set_axis(pd.MultiIndex.from_product([plain.columns, ["AAA"]]), axis=1)
    expected = model.predict(plain)
    for other in (several, plain.rename(columns=str.lower).reset_index()):
        pd.testing.assert_frame_equal(model.predict(other), expected)


@pytest.mark.parametrize(
    ("path", "value", "stage"),
    [
        (["pooled", "sharpe"], 3.0, "figures"),
        (["baselines", "always_long", "sharpe"], -3.0, "figures"),
        (["one_bar_late", "annual_return"], 0.5, "figures"),
        (["next_open", "edge", "low"], 0.5, "figures"),
        (["per_ticker", "AAA", "roc_auc"], 0.9, "figures"),
        (["folds", 0, "metrics", "model", "sharpe"], 3.0, "figures"),
        (["folds", 0, "tasks", 0, "threshold", "AAA", "threshold"], 0.01, "fits"),
        (["folds", 0, "tasks", 0, "splits", "AAA", "train", "up_share"], 0.9, "fits"),
        (["folds", 0, "tasks", 0, "seed"], 1, "fits"),
        (["folds", 0, "tasks", 0, "search", "params", "max_depth"], 2, None),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, list) else "",
)
def test_facts_that_no_fit_gives_are_found(runs, frames, inline, tmp_path, path, value, stage) -> None:
    """A better figure, another threshold or other parameters in the document are not what comes out."""
    run = nb.load_run(runs.walk.save(tmp_path)[-1])
    assert nb.reproduce(run, frames).identical
    answer = nb.reproduce(forged(run, path, value), frames)
    assert not answer.identical
    assert stage in (None, answer.stage)
    if stage is not None:
        name, _, recorded = str(answer.recorded).rpartition(": ")
        assert str(path[-2 if path[-1] == "threshold" else -1]) in name
        assert recorded == str(value)
        assert str(answer.now).startswith(f"{name}: ")


def test_a_model_that_no_fit_gives_is_found(runs, frames, inline, tmp_path) -> None:
    """The model of another ticker under the name of the first, with its sha256 in the document."""
    files = runs.both.save(tmp_path)
    run, other = (next(nb.load_run(path) for path in files if name in path.name) for name in ("AAA", "BBB"))
    assert nb.reproduce(run, frames).identical
    booster = run.sibling(".json")
    booster.write_bytes(other.sibling(".json").read_bytes())
    changed = forged(run, ["files", booster.name], hashlib.sha256(booster.read_bytes()).hexdigest())
    assert nb.reproduce(changed, frames).stage == "model"
    booster.unlink()
    assert nb.reproduce(changed, frames).identical


@pytest.mark.parametrize("ticker", [None, 3, "", " ", "A\0B", "A\nB", "A" * 65], ids=ascii)
def test_a_name_that_cannot_be_a_ticker_is_refused(frames, ticker) -> None:
    """It names files and stands in tables. The words are the same whoever takes bars, and in whichever format."""
    frame = nb.bars(frames)["AAA"]
    calls = [
        lambda: nb.bars({ticker: frame}),
        lambda: nb.train({ticker: frame}, nb.XGBoost()),
        lambda: nb.judge(frame["Close"] * 0, {ticker: frame}),
    ]
    if isinstance(ticker, str):
        calls.append(lambda: nb.bars(frame, ticker=ticker))
    for call in calls:
        with pytest.raises(BadBarsError, match="a ticker is a"):
            call()


def test_what_is_no_run_is_refused(runs, frames, tmp_path) -> None:
    """By each function that takes runs."""
    for call in (
        lambda: nb.verdict(frames),
        lambda: nb.report([], tmp_path / "page.html"),
        lambda: nb.report(frames["AAA"], tmp_path / "page.html"),
        lambda: nb.compare(runs.one),
        lambda: nb.compare([runs.one, "two"]),
        lambda: nb.certify(frames, frames),
        lambda: nb.reproduce("run", frames),
        lambda: nb.report(None, tmp_path / "page.html"),
        lambda: nb.report(runs.one, None),
        lambda: runs.one.save(3),
        lambda: nb.load_run(None),
        lambda: nb.verdict(runs.one, worth="much"),
        lambda: nb.certify(runs.one, frames, seconds="x"),
        lambda: nb.certify(runs.one, frames, allow_reads=5),
    ):
        with pytest.raises(ConfigError, match="expect"):
            call()
    assert list(tmp_path.iterdir()) == []


# --- figures by hand -----------------------------------------------------------------------------------------------

COST = 10.0


@pytest.fixture(scope="module")
def market(frames: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """AAA lacks the bars of a month; BBB ends a hundred days before it."""
    hole = frames["AAA"].drop(frames["AAA"].index[200:225])
    return {"AAA": hole, "BBB": frames["BBB"].iloc[:-100]}


@pytest.fixture(scope="module")
def signals(market: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Random positions on all days of both tickers but the first thirty."""
    days = market["AAA"].index.union(market["BBB"].index)
    rng = np.random.default_rng(5)
    drawn = rng.choice([-1.0, 0.0, 0.5, 1.0], size=(len(days), 2))
    return pd.DataFrame(drawn, index=days, columns=["AAA", "BBB"]).iloc[30:]


def test_what_is_dropped_of_signals_is_told(market) -> None:
    """Bars without a signal between the first and the last, and times of day; nothing where there are none."""
    daily = pd.Series(1.0, market["BBB"].index[:300])
    one = {"BBB": market["BBB"]}
    gaps, times = (
        nb.judge(signals, one).document.remarks
        for signals in (daily.iloc[::5], daily.set_axis(daily.index + pd.Timedelta("16h")))
    )
    assert any("236 of 296 bars from the first signal to the last have no signal" in remark for remark in gaps)
    assert any("300 signals with a time of day, which is dropped: 2010-" in remark for remark in times)
    assert len(nb.judge(daily, one).document.remarks) == 1
    offsets = [f"{day:%Y-%m-%d}T16:00:00-0{4 + number % 2}:00" for number, day in enumerate(daily.index)]
    rows = pd.DataFrame({"date": offsets, "ticker": "BBB", "signal": 1.0})
    for texts in (daily.index.strftime("%Y-%m-%d"), daily.index.date, daily.index.strftime("%Y%m%d")):
        assert nb.judge(daily.set_axis(texts), one).document.pooled == nb.judge(daily, one).document.pooled
    assert nb.judge(rows, one).document.pooled == nb.judge(daily, one).document.pooled


def ledger_of(frame: pd.DataFrame, positions: dict[pd.Timestamp, float], *, ends: bool) -> dict[pd.Timestamp, Any]:
    """Day by day what positions of one ticker earn after costs, kept like an account.

    Args:
        frame: Its bars.
        positions: Day → position from its close.
        ends: Whether it is sold at its last bar.

    Returns:
        Day → (net return, position).
    """
    adjusted = frame["Adj Close"].to_numpy()
    held, account = 0.0, {}
    for number, day in enumerate(frame.index):
        last = number + 1 == len(frame)
        known = day in positions and not last
        if not known and not (ends and last) and not account:
            continue
        before_hole = number and (day - frame.index[number - 1]).days > 15
        earned = held * (adjusted[number] / adjusted[number - 1] - 1) if before_hole else 0.0
        wanted = positions[day] if known else 0.0 if before_hole or last else held
        if last and not ends:
            break
        if not last and (frame.index[number + 1] - day).days <= 15:
            earned += wanted * (adjusted[number + 1] / adjusted[number] - 1)
        account[day] = (earned - COST / 1e4 * abs(wanted - held), wanted)
        held = wanted
    return account


def portfolio(market: dict[str, pd.DataFrame], signals: pd.DataFrame) -> pd.DataFrame:
    """Daily net return and exposure of equal parts of two tickers, of which BBB ends early."""
    parts = []
    for name, frame in market.items():
        account = ledger_of(frame, signals[name].dropna().to_dict(), ends=name == "BBB")
        parts.append(pd.DataFrame.from_dict(account, orient="index", columns=["net", "position"]))
    days = parts[0].index.union(parts[1].index)
    net = sum(part["net"].reindex(days).fillna(0.0) for part in parts) / 2
    position = sum(part["position"].reindex(days).ffill().fillna(0.0) for part in parts) / 2
    return pd.DataFrame({"net": net, "position": position})


def check_figures(figures: pd.Series, expected: pd.DataFrame) -> None:
    """Compare figures with those of a daily series, computed by their definitions."""
    net = expected["net"]
    assert figures["days"] == len(net)
    assert figures["sharpe"] == pytest.approx(net.mean() / net.std(ddof=1) * PERIODS**0.5)
    assert figures["annual_return"] == pytest.approx(np.exp(np.log1p(net).mean() * PERIODS) - 1)
    assert figures["exposure"] == pytest.approx(expected["position"].abs().mean())
    wealth = (1 + net).cumprod()
    assert figures["max_drawdown"] == pytest.approx((wealth / wealth.cummax().clip(lower=1) - 1).min())


def test_judged_signals_earn_what_an_account_earns(market, signals) -> None:
    """A hole is paid on the first bar after it, a ticker that ends is sold; costs and weights are those of a model."""
    run = nb.judge(signals, market, cost_bps=COST)
    expected = portfolio(market, signals)
    np.testing.assert_allclose(run.book.model.net, expected["net"], atol=1e-12)
    check_figures(run.figures.loc["model"], expected)
    assert run.document.ended == {"BBB": str(market["BBB"].index[-1].date())}
    assert list(run.document.holes) == ["AAA"]
    long = portfolio(market, signals * 0 + 1)
    check_figures(run.figures.loc["always_long"], long)
    own = run.rows.query("ticker == 'AAA'")["strategy_return"].to_numpy()
    account = ledger_of(market["AAA"], signals["AAA"].to_dict(), ends=False)
    np.testing.assert_allclose(own, [net for net, _ in account.values()], atol=1e-12)


def test_a_ticker_that_ended_has_ended_whoever_is_judged(market, signals) -> None:
    """Bars of a ticker without signals say that the other one has ended."""
    run = nb.judge(signals[["BBB"]], market, cost_bps=COST)
    assert list(run.document.ended) == ["BBB"]
    assert run.rows["signal"].iloc[-1] == 0
    assert run.rows["date"].iloc[-1] == market["BBB"].index[-1]


def test_nothing_is_judged_where_signals_pause(market, signals) -> None:
    """Neither a hole nor the end of a ticker is paid where the bar before it has no signal."""
    frame = market["AAA"]
    (before,) = np.flatnonzero(np.diff(frame.index.to_numpy()) > np.timedelta64(15, "D"))
    paused = signals.drop(columns="BBB").assign(AAA=1.0).drop(frame.index[before])
    run = nb.judge(paused, {"AAA": frame})
    assert run.document.holes == {}
    assert np.isnan(run.book.gap).all()
    early = nb.judge(signals[["BBB"]].iloc[:100], market)
    assert early.rows["date"].iloc[-1] == signals.index[99]


def test_the_day_before_is_that_of_the_bars_where_signals_pause(frames, signals, tmp_path) -> None:
    """Yesterday's direction and one bar late follow the bars, whether they have signals or not, saved or in memory."""
    bars = {name: frames[name] for name in signals}
    drawn = np.random.default_rng(1).random(signals.shape) < 0.6
    paused = signals.where(drawn).reindex(bars["AAA"].index)
    run = nb.judge(paused, bars, cost_bps=COST)
    late, rose = {}, []
    for name in signals:
        judged = paused[name].iloc[:-1].dropna().index
        held = paused[name].shift()[judged[0] : judged[-1]].dropna()
        late[name] = pd.concat([pd.Series(0.0, judged[:1]), held])
        rose.append((bars[name]["Adj Close"].diff()[judged] > 0) & (judged != judged[0]))
    days = late["AAA"].index.union(late["BBB"].index)
    expected = pd.Series(0.0, days)
    for name, held in late.items():
        close = bars[name]["Adj Close"]
        traded = held.reindex(close[held.index[0] : held.index[-1]].index).fillna(0.0).diff().abs().fillna(0.0)
        booked = days[days.searchsorted(traded.index)]
        earned = held * (close.shift(-1) / close - 1)[held.index]
        expected += earned.reindex(days).fillna(0.0) / 2
        expected -= COST / 1e4 * traded.groupby(booked).sum().reindex(days).fillna(0.0) / 2
    for one in (run, nb.load_run(run.save(tmp_path)[-1])):
        np.testing.assert_allclose(one.book.late.model.net, expected, atol=1e-12)
        np.testing.assert_array_equal(one.book.yesterday(), np.concatenate(rose))
    net = run.document.one_bar_late["sharpe"]
    assert net == pytest.approx(expected.mean() / expected.std() * PERIODS**0.5)
    assert "pauses" not in nb.judge(signals, bars).document.to_json()


@pytest.mark.parametrize("together", [False, True], ids=["alone", "beside another"])
def test_a_day_without_a_signal_costs_what_a_flat_one_costs(frames, signals, together: bool) -> None:
    """NaN instead of 0 sells and buys again: the same return in total, the same costs and round trips."""
    names = ["AAA", "BBB"] if together else ["AAA"]
    bars, drawn = {name: frames[name] for name in names}, np.random.default_rng(2).random(len(signals)) < 0.4
    flat = signals[names].mask(signals[names] == 0, 1.0)
    flat["AAA"] = flat["AAA"].where(drawn, 0.0)
    flat.iloc[[0, -2], 0] = 1.0  # the first and the last day have one
    flat.loc[flat.index[150] :, names[1:]] = 0.0  # signals of the other end before
    book = nb.judge(flat.where(flat != 0), bars, cost_bps=COST).book
    some, trades = book.model, trades_of(book)
    whole = nb.judge(flat, bars, cost_bps=COST).book.model
    assert some.net.sum() == pytest.approx(whole.net.sum())
    assert some.traded.sum() == pytest.approx(whole.traded.sum())
    assert some.exposure.sum() == pytest.approx(whole.exposure.sum())
    assert some.round_trips == whole.round_trips
    assert trades["cost"].sum() / len(names) == pytest.approx(COST / 1e4 * some.traded.sum())
    assert trades["exit"].notna().sum() == some.round_trips


@pytest.mark.parametrize(
    ("model", "options", "told"),
    [
        (nb.XGBoost(no_tune=True, n_iter=3), {}, "n_iter changes nothing: no_tune leaves the search out"),
        (nb.Estimator(LogisticRegression(), n_iter=3), {}, "n_iter changes nothing: the model has no space to search"),
        (nb.LSTM(), {"threshold": 0.6}, "threshold changes nothing for lstm: it is an option of rf and xgb"),
        (nb.XGBoost(), {"engine": "serial", "jobs": 2}, "jobs changes nothing: engine serial is one process"),
    ],
)
def test_arguments_that_change_nothing_are_told(frames, model, options, told) -> None:
    """A warning says which one, and why; arguments at their defaults say nothing."""
    bars = {"AAA": frames["AAA"].head(3)}
    with pytest.warns(UserWarning, match=told), pytest.raises(NextbarError):
        nb.train(bars, model, **options)


def test_a_threshold_of_signals_and_a_model_of_a_built_in_kind_are_told(market, signals, runs, frames) -> None:
    """Signals are positions without a threshold, and a run of a built-in kind makes its model itself."""
    with pytest.warns(UserWarning, match="threshold 0.6 changes nothing"):
        nb.judge(signals, market, threshold=0.6)
    with pytest.raises(NextbarError, match="is of a built-in kind, xgb; leave model out"):
        nb.reproduce(runs.one, frames, model=nb.LSTM())


def test_signals_on_days_without_a_bar_are_told(market, signals) -> None:
    """They cannot be scored, and the run says so."""
    weekend = pd.DataFrame(1.0, index=[signals.index[0] + pd.offsets.Week(weekday=5)], columns=signals.columns)
    run = nb.judge(pd.concat([signals, weekend]), market)
    assert any("BBB" in remark and "days without a bar" in remark for remark in run.document.remarks)


def test_no_verdict_stands_on_signals_on_wrong_bars(frames, signals) -> None:
    """A price that is an error of the data counts as for a model."""
    broken = {name: frame.copy() for name, frame in frames.items()}
    broken["AAA"].loc[broken["AAA"].index[300], ["Open", "High", "Low", "Close", "Adj Close"]] *= 100
    run = nb.judge(signals, broken)
    assert run.document.data_errors
    assert "AAA" in " ".join(nb.verdict(run).statements)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda x: x * 0 + 3, r"AAA: the signal of 2010-02-15 is 3.0, and \d+ more days; expected a position from -1"),
        (lambda x: x["AAA"], "DataFrame with a column per ticker"),
        (lambda _: [1, 2], "with a column per ticker, got"),
        (lambda x: x.reset_index(drop=True), "days as the index, got 0, …; pandas.to_datetime"),
        (
            lambda x: x.set_axis(x.index.strftime("%d.%m.%Y")),
            "row 1 of the signals has the day 15.02.2010;",
        ),
        (lambda x: x.rename(columns={"AAA": "ZZZ"}), "signals of ZZZ"),
        (lambda x: x.astype(object).replace({1.0: "long"}), "AAA: the signal of .* is long, and"),
        (
            lambda x: pd.concat([x * 0, x[:1] * 0 + 1]),
            "AAA: 1 day occurs twice, the first is 2010-02-15 .* 0.0, 1.0;",
        ),
        (lambda x: x.set_axis(["AAA", "AAA"], axis=1), "several columns of AAA"),
        (lambda x: x.replace({0.5: np.inf}), "AAA: the signal of .* is inf, and .* from -1"),
        (lambda x: x * np.nan, "there is no signal"),
        (lambda x: x.iloc[:0], "there is no signal"),
    ],
    ids=[
        "large",
        "series",
        "list",
        "no days",
        "German days",
        "unknown",
        "words",
        "twice",
        "columns",
        "infinite",
        "nothing",
        "empty",
    ],
)
def test_what_are_no_signals_is_refused(market, signals, change, told) -> None:
    """Each with a message of its own."""
    with pytest.raises(BadBarsError, match=told):
        nb.judge(change(signals), market)


def test_signals_have_no_model(market, signals, tmp_path) -> None:
    """They cannot be certified, reproduced or asked for a model; they are saved, and a page can be written."""
    run = nb.judge(signals, market)
    saved = nb.load_run(run.save(tmp_path)[-1])
    pd.testing.assert_frame_equal(saved.rows, run.rows, check_dtype=False)
    for one in (run, saved):
        for call in (
            lambda one=one: one.model("AAA"),
            lambda one=one: nb.certify(one, market),
            lambda one=one: nb.reproduce(one, market),
        ):
            with pytest.raises(ArtifactError, match="signals"):
                call()
    assert nb.report(run, tmp_path / "page.md").exists()
    with pytest.raises(ConfigError, match="warmup"):
        nb.judge(signals, market, warmup=60)


def test_runs_are_compared_on_the_days_that_all_have(market, signals) -> None:
    """Figures, and the difference to the first run, are those of the common days and tickers, computed by hand."""
    bars = {"AAA": market["AAA"], "BBB": market["BBB"]}
    first = nb.judge(signals.iloc[:-150], bars, cost_bps=COST)
    second = nb.judge(-signals.iloc[40:], bars, cost_bps=COST)
    table = nb.compare([first, second])
    common = signals.iloc[40:-150]
    accounts = [portfolio_of_common(market, common), portfolio_of_common(market, -common)]
    assert list(table.index) == ["signals 1", "signals 2", "always_long"]
    for name, account in zip(("signals 1", "signals 2"), accounts, strict=True):
        check_figures(table.loc[name], account)
    daily = accounts[1]["net"] - accounts[0]["net"]
    found = table.loc["signals 2"]
    assert found["difference"] == pytest.approx(daily.mean() * PERIODS)
    assert found["difference_low"] < found["difference"] < found["difference_high"]
    error = daily.std(ddof=1) / len(daily) ** 0.5 * PERIODS
    assert found["difference_high"] - found["difference_low"] == pytest.approx(2 * 1.96 * error, rel=0.25)
    assert (table.loc["signals 1", ["difference", "difference_low", "difference_high"]] == 0).all()


def portfolio_of_common(market: dict[str, pd.DataFrame], signals: pd.DataFrame) -> pd.DataFrame:
    """Like `portfolio`; the common days end before BBB does, so that it is not sold."""
    cut = {name: frame.loc[: signals.index[-1] + pd.offsets.BDay(1)] for name, frame in market.items()}
    parts = [ledger_of(cut[name], signals[name].to_dict(), ends=False) for name in cut]
    tables = [pd.DataFrame.from_dict(part, orient="index", columns=["net", "position"]) for part in parts]
    days = tables[0].index.union(tables[1].index)
    net = sum(part["net"].reindex(days).fillna(0.0) for part in tables) / 2
    position = sum(part["position"].reindex(days).ffill().fillna(0.0) for part in tables) / 2
    return pd.DataFrame({"net": net, "position": position})


def test_what_cannot_be_compared_is_refused(market, signals, tmp_path) -> None:
    """One run alone, one run twice, other costs, or no common day."""
    one = nb.judge(signals, market, cost_bps=COST)
    with pytest.raises(ConfigError, match="two runs or more"):
        nb.compare([one])
    with pytest.raises(
        ConfigError, match=rf"different terms \(.*: costs of {COST:g} basis points; signals: costs of 5 basis points\)"
    ):
        nb.compare([one, nb.judge(signals, market, cost_bps=5)])
    halves = [nb.judge(signals[:50], market), nb.judge(signals[60:], market, name="Second half")]
    days = signals.index.strftime("%Y-%m-%d")
    told = f"signals: AAA, BBB, {days[0]} to {days[49]}; Second half: AAA, BBB, {days[60]} to "
    with pytest.raises(ConfigError, match=rf"no day and ticker in common \({told}"):
        nb.compare(halves)
    saved = nb.load_run(one.save(tmp_path)[-1])
    for same in (one, saved):
        with pytest.raises(ConfigError, match="given twice"):
            nb.compare([one, nb.judge(-signals, market, cost_bps=COST), same])


# --- bad values ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: nb.Split(train=0), "^train expects more"),
        (lambda: nb.Split(train=1.0), "^train expects at most"),
        (lambda: nb.Split(val=0.95), "^val expects"),
        (lambda: nb.Split(by="week"), "^by expects"),
        (lambda: nb.Split(train="most"), "^train expects a number"),
        (lambda: nb.Split(train=float("nan")), "finite"),
        (lambda: nb.Windows(train_years=0), "^train_years"),
        (lambda: nb.Windows(train_years=2.5), "a whole number"),
        (lambda: nb.Windows(val_months=-1), "^val_months"),
        (lambda: nb.Windows(test_months=3, step_months=2), "^step_months 2 is shorter than test_months"),
        (lambda: nb.Windows(step_months=0), "^step_months"),
        (lambda: nb.Windows(train_years=10**5), "^train_years expects at most 9000"),
        (lambda: nb.Windows(val_months=10**9), "^val_months expects at most"),
        (lambda: nb.Windows(step_months=10**9), "^step_months expects at most"),
        (lambda: nb.Estimator(GaussianNB(), label=3), "^label expects lower-case letters and digits, got 3"),
        (lambda: nb.Windows(expanding="no"), "^expanding expects True or False"),
        (lambda: nb.RandomForest(n_iter=0), "n_iter"),
        (lambda: nb.RandomForest(cv_splits=1), "cv_splits"),
        (lambda: nb.RandomForest(search="grid"), "search"),
        (lambda: nb.RandomForest(space={"depth": [1]}), "no parameter 'depth'"),
        (lambda: nb.XGBoost(tune="often"), "tune"),
        (lambda: nb.XGBoost(n_iter=True), "a whole number"),
        (lambda: nb.XGBoost(space={"max_depth": 3}), "a list of values"),
        (lambda: nb.XGBoost(space={"max_depth": []}), "a list of values"),
        (lambda: nb.LSTM(epochs=0), "epochs"),
        (lambda: nb.LSTM(batch_size=0), "batch_size"),
        (lambda: nb.LSTM(sequence_length=1), "sequence_length"),
        (lambda: nb.LSTM(patience="long"), "a whole number"),
        (lambda: nb.LSTM(scaler_fit="test"), "scaler_fit"),
        (nb.Estimator, "scikit-learn classifier"),
        (lambda: nb.Estimator(LogisticRegression), "scikit-learn classifier"),
        (lambda: nb.Estimator(LinearSVC()), "no predict_proba"),
        (lambda: nb.Estimator(GaussianNB(), label="My Model"), "label"),
        (lambda: nb.Estimator(GaussianNB(), space={"depth": [1]}), "no parameter depth"),
        (lambda: nb.Estimator(GaussianNB(), fast=True), "at random only"),
        (lambda: nb.Estimator(GaussianNB(), search="halving"), "at random only"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_a_bad_value_is_refused_when_the_object_is_made(make: Any, told: str) -> None:
    """Not after an hour of training."""
    with pytest.raises(ConfigError, match=told):
        make()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model": "rf"}, "expected a model"),
        ({"model": nb.XGBoost}, "expected a model"),
        ({"split": nb.Windows()}, "split expects"),
        ({"features": "week"}, "features expects"),
        ({"features": "levls"}, "got 'levls'; nearest: levels$"),
        ({"cost_bp": 5}, "unknown option cost_bp; .*; nearest: cost_bps$"),
        ({"features": []}, "at least"),
        ({"features": 3}, "features expects"),
        ({"cost_bps": -1}, "cost_bps"),
        ({"cost_bps": "5"}, "a number"),
        ({"threshold": 1.5}, "threshold"),
        ({"threshold": "profit"}, "threshold"),
        ({"seed": -1}, "seed"),
        ({"engine": "ray"}, "engine"),
        ({"jobs": 0}, "jobs"),
        ({"epochs": 3}, "unknown option epochs"),
        ({"test_months": 3}, "; test_months belongs to nextbar.Windows$"),
        ({"output_dir": "x"}, "; output_dir belongs to Run.save$"),
        ({"warmup": 10}, "warmup"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_a_bad_argument_is_refused_before_anything_runs(frames, changes, told) -> None:
    """With the name of what is wrong."""
    arguments = {"model": nb.XGBoost(), **changes}
    with pytest.raises(NextbarError, match=told):
        nb.train(frames, arguments.pop("model"), **arguments)
    if "split" not in changes:
        arguments = {"model": nb.XGBoost(), **changes}
        with pytest.raises(NextbarError, match=told):
            nb.walk_forward(frames, arguments.pop("model"), **arguments)


def test_an_argument_of_the_other_verb_is_named(frames) -> None:
    """Training takes a split, and a walk-forward takes windows."""
    with pytest.raises(ConfigError, match=r"; windows belongs to nextbar.walk_forward$"):
        nb.train(frames, nb.XGBoost(), windows=nb.Windows())
    with pytest.raises(ConfigError, match=r"; split belongs to nextbar.train$"):
        nb.walk_forward(frames, nb.XGBoost(), split=nb.Split())


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: nb.XGBoost(n_itr=5), r"^XGBoost expects \(\*, no_tune, .*\), got n_itr: .*; nearest: n_iter$"),
        (lambda: nb.LSTM(5), r"^LSTM expects \(\*, epochs, .*\), got 1 by position: too many positional arguments$"),
        (lambda: nb.Split(trian=0.5), "nearest: train$"),
        (lambda: nb.compare(1, 2), r"^compare expects \(runs, \*, ledger\), got 2 by position: too many"),
        (
            lambda: nb.train({}, warmup=60),
            r"^train expects \(bars, model, .*\), got 1 by position, warmup: .* 'model'$",
        ),
        (lambda: nb.train({}, nb.XGBoost(), cost_bp=5), "unknown option cost_bp"),
        (lambda: nb.read_bars("x.db", begin="2020-01-01"), r"^read_bars expects \(db, .*, got 1 by position, begin: "),
        (nb.DataAccessLayer, r"^DataAccessLayer expects \(db, .*, got nothing: .* 'db'$"),
    ],
    ids=["unknown", "unnamed", "split", "too many", "missing", "option", "function", "class"],
)
def test_arguments_that_do_not_exist_are_refused_as_bad_values_are(call: Any, told: str) -> None:
    """The error is a TypeError, as in Python, and says which arguments there are."""
    with pytest.raises(ConfigError, match=told) as caught:
        call()
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize(
    "call",
    [
        lambda wrong, _: nb.walk_forward({"AAA": wrong}, wrong),
        lambda wrong, _: nb.walk_forward(nb.XGBoost(), {"AAA": wrong}),
        lambda wrong, _: nb.train(wrong, nb.XGBoost(), split=wrong),
        lambda wrong, _: nb.train(wrong, nb.XGBoost(), threshold=wrong),
        lambda wrong, _: nb.train(wrong, nb.XGBoost(), engine=wrong),
        lambda wrong, _: nb.train(wrong, nb.XGBoost(), features=wrong),
        lambda wrong, _: nb.bars(wrong, columns=wrong),
        lambda wrong, _: nb.bars(wrong, ticker=wrong),
        lambda wrong, _: nb.bars(wrong, columns={"close": wrong}),
        lambda wrong, _: nb.read_bars(wrong),
        lambda wrong, _: nb.load_run(wrong),
        lambda _, __: nb.load_run("x" * 5000),
        lambda _, run: nb.report(run, "page." + "x" * 200),
        lambda wrong, run: nb.verdict(run, ledger=wrong),
        lambda wrong, run: nb.verdict(run, worth=wrong),
        lambda wrong, run: run.model(wrong),
        lambda wrong, _: nb.XGBoost(space={"max_depth": wrong}),
        lambda wrong, _: nb.Split(by=wrong),
        lambda wrong, _: nb.Estimator(wrong),
    ],
)
def test_a_value_in_an_error_is_short(frames, runs, call: Any) -> None:
    """A whole table, or a text of thousands of letters, is no part of a message, whatever it was given as."""
    with pytest.raises(NextbarError) as caught:
        call(frames["AAA"], runs.one)
    assert len(str(caught.value)) < 320
    assert "\n" not in str(caught.value)


def test_errors_of_arguments_change_no_signature() -> None:
    """``help()``, pickles, and a TypeError inside a function stay as they are."""
    assert list(inspect.signature(nb.Windows).parameters)[:2] == ["train_years", "val_months"]
    assert list(inspect.signature(nb.compare).parameters) == ["runs", "ledger"]
    assert pickle.loads(pickle.dumps(nb.train)) is nb.train

    def broken(number: Any) -> Any:
        return [*number]

    with pytest.raises(TypeError, match="iterable") as caught:
        checked(broken)(5)
    assert not isinstance(caught.value, NextbarError)


def test_models_and_splits_are_frozen_records() -> None:
    """Two of the same values are equal, and none can be changed."""
    assert nb.XGBoost(n_iter=3) == nb.XGBoost(n_iter=3) != nb.XGBoost(n_iter=4)
    for record, name in ((nb.XGBoost(), "n_iter"), (nb.Split(), "train"), (nb.Windows(), "test_months")):
        with pytest.raises(AttributeError):
            setattr(record, name, 1)


def test_errors_name_options_as_python_spells_them(frames, inline) -> None:
    """No error of a verb or a model names an option of the command line."""
    few = frames["AAA"].head(60)
    calls = [
        (lambda: nb.Split(train_end="2012-01-02"), "add val_end"),
        (lambda: nb.Split(train_end="2012-13-02", val_end="2013-01-02"), "got '2012-13-02', a day that the calendar"),
        (lambda: nb.XGBoost(n_iter=0), "n_iter expects at least 1"),
        (lambda: nb.XGBoost(n_iter="3"), "n_iter expects a whole number, got '3'"),
        (lambda: nb.judge(frames["AAA"]["Close"] * 0, frames["AAA"], threshold="high"), "threshold expects a number"),
        (
            lambda: nb.bars(frames["AAA"], columns={"close": "Closed"}),
            'columns="close=Closed": found .*; nearest: Close',
        ),
        (lambda: nb.train(frames, nb.XGBoost(), cost_bps=-1), "cost_bps expects at least 0"),
        (lambda: nb.train(few, nb.XGBoost()), "give bars from an earlier start or lower warmup"),
        (lambda: nb.walk_forward(few, nb.XGBoost()), "lower train_years or val_months"),
    ]
    for call, told in calls:
        with pytest.raises(nb.errors.NextbarError, match=told) as caught:
            call()
        assert "--" not in str(caught.value)


def test_a_file_of_one_ticker_says_that_its_run_has_more(runs, tmp_path) -> None:
    """What is loaded stays the ticker's own run; the warning is given at the line of the user, once, and not alone."""
    marks = [path for path in runs.both.save(tmp_path) if path.name.endswith("_metadata.json")]
    with pytest.warns(UserWarning, match=r"^xgboost_AAA_.*: 1 of the 2 tickers of one training run") as told:
        found = nb.load_run(marks[0])
    assert (found.tickers, len(told), told[0].filename) == (["AAA"], 1, __file__)
    assert others_left_out(map(load_run, marks)) == []
    assert others_left_out([runs.one, runs.walk]) == []


def test_a_ledger_that_is_not_there_is_told(runs, frames, inline, tmp_path) -> None:
    """Who records says that a ledger begins, who reads that there is none; each at the line of the user, once."""
    signals = pd.Series(1.0, index=frames["AAA"].index[400:])
    writing = [
        lambda path: nb.train({"AAA": frames["AAA"]}, nb.XGBoost(no_tune=True), **SHORT, ledger=path),
        lambda path: nb.verdict(runs.one, ledger=path),
        lambda path: nb.report(runs.one, tmp_path / "page.md", ledger=path),
        lambda path: nb.judge(signals, {"AAA": frames["AAA"]}, ledger=path),
    ]
    reading = [
        lambda path: nb.verdict(runs.one, ledger=path, count=False),
        lambda path: nb.report(runs.one, tmp_path / "page.md", ledger=path, count=False),
        lambda path: nb.compare([runs.one, runs.walk], ledger=path),
    ]
    for number, call in enumerate([*writing, *reading]):
        path, begins = tmp_path / f"{number}.db", number < len(writing)
        with pytest.warns(nb.errors.Remark) as told:
            call(path)
        text = f"a new trial ledger begins: {path}" if begins else f"there is no trial ledger {path}; it counts"
        assert [str(one.message).startswith(text) for one in told] == [True]
        assert (told[0].filename, path.exists()) == (__file__, begins)


def test_a_command_in_an_error_keeps_its_options(runs) -> None:
    """What is to be typed into a shell is not rewritten, and what is to be written in Python is."""
    with pytest.raises(ArtifactError, match=r"nextbar\.refit\(run, bars\), or train: nextbar train … --refit$"):
        runs.one.model(refit=True)
    own = {"train_split": "train"}
    assert python_words("--train-split and --cv_splits; add: --features a:b", own) == (
        'train and cv_splits; add: features="a:b"'
    )
    assert python_words("see it (nextbar check --db x), lower --warmup", {}) == (
        "see it (nextbar check --db x), lower warmup"
    )


def test_an_error_in_the_users_function_says_whose_it_is(frames, inline) -> None:
    """It does not begin as if the bars were at fault."""

    def broken(bars: pd.DataFrame) -> pd.DataFrame:
        return bars / bars["No"]

    with pytest.raises(nb.errors.NextbarError, match=r"^your feature function .*broken raised KeyError: 'No'"):
        nb.train(frames["AAA"], nb.XGBoost(no_tune=True), features=broken, engine="serial", **SHORT)


def test_too_few_bars_for_a_prediction_are_refused(runs, frames) -> None:
    """In place of an empty table it is said how many bars are needed, and how many there are."""
    model = runs.one.model("AAA")
    with pytest.raises(nb.errors.NextbarError, match="a prediction needs 61 bars without a hole, there are 60"):
        model.predict(frames["AAA"].head(60))
    with pytest.warns(
        UserWarning, match=r"AAA: bars end on 2010-03-29; .* was made with bars up to 2012-06-15 and may"
    ):
        assert len(model.predict(frames["AAA"].head(61))) == 1
    revised = frames["AAA"].assign(Volume=frames["AAA"]["Volume"] + 1)
    with pytest.warns(UserWarning, match="bars up to 2012-06-15 were revised since"):
        model.predict(revised)


@pytest.mark.filterwarnings("ignore:.*bad bar", "ignore:.*may have seen more")
@pytest.mark.parametrize(("column", "lacks"), [("Adj Close", "adj_close"), ("Close", "close"), ("Open", "open")])
def test_a_last_bar_that_is_left_out_is_told(runs, frames, make_database, tmp_path, column: str, lacks: str) -> None:
    """The last row is then no signal of the last bar: in memory, from a database, and where a model predicts."""
    frame = nb.bars(frames)["AAA"]
    frame.loc[frame.index[-1], column] = np.nan
    told = rf"AAA: the last bar \(2012-06-15\) has no positive {lacks}: left out; the last signal is that of 2012-06-14"
    with pytest.warns(nb.errors.Remark, match=told):
        nb.judge(frame["Volume"][-300:] * 0 + 1, {"AAA": frame})
    if column == "Adj Close":
        db = make_database(tmp_path / "m.db", {"AAA": frame.rename(columns={"Adj Close": "Adj"})})
        with pytest.warns(nb.errors.Remark, match=told):
            load_universe(TrainConfig(db=str(db)))
        with warnings.catch_warnings(action="error"):
            load_universe(TrainConfig(db=str(db), end="2012-06-14"))
    with pytest.warns(UserWarning, match=told):
        assert runs.one.model().predict(frame).index[-1] == pd.Timestamp("2012-06-14")
    frame.loc[frame.index[-2], column] = np.nan
    several = rf"the last 2 bars \(2012-06-14 to 2012-06-15\) have no positive {lacks}"
    with pytest.warns(nb.errors.Remark, match=several):
        nb.judge(frame["Volume"][-300:] * 0 + 1, {"AAA": frame})


def test_a_ledger_counts_a_run_that_was_made_here(runs, tmp_path) -> None:
    """A run of this session is recorded by a verdict; one that was read from disk is not, unless it is asked for."""
    ledger = tmp_path / "ledger.db"
    foreign = nb.load_run(runs.one.save(tmp_path / "models")[-1])
    alone = nb.verdict(foreign, ledger=ledger)
    nb.report(foreign, tmp_path / "page.md", ledger=ledger)
    assert not ledger.exists()
    assert nb.verdict(foreign, ledger=ledger, count=True).to_json() == alone.to_json()
    assert len(Ledger(ledger).trials()) == 1
    nb.verdict(runs.one, ledger=ledger)
    assert len(Ledger(ledger).trials()) == 1


def test_a_certificate_shows_what_it_allowed(runs) -> None:
    """What the user has allowed stands in the text, too."""
    shown = str(Certificate(name="x", allow_reads=["held", "cache.csv"]))
    assert "allowed to read: held, cache.csv" in shown
    assert "allowed" not in str(Certificate(name="x"))


@pytest.mark.parametrize("option", ["features", "panel_features"])
def test_a_wrong_name_of_a_function_is_refused_before_the_work(frames, option: str) -> None:
    """No fold begins: the name is looked up first, and said once."""

    class Idle(Silent):
        def start(self, *_: object, **__: object) -> None:
            raise AssertionError("work has begun")

    with pytest.raises(FeatureError, match=r"module 'math' .*has no attribute 'absent'") as told:
        nb.walk_forward(frames, nb.XGBoost(no_tune=True), progress=Idle(), **{option: "math:absent"})
    assert str(told.value).count("absent") == 2


@pytest.mark.parametrize(("outcome", "counts"), [("FAIL", False), ("PASS", True)])
def test_no_verdict_stands_beside_a_failed_certificate(frames, tmp_path, outcome: str, counts: bool) -> None:
    """A result that later bars have changed is no edge, whatever it earned; the reason comes first."""
    run = nb.train({"AAA": frames["AAA"]}, nb.XGBoost(no_tune=True), warmup=60)
    mark = next(path for path in run.save(tmp_path) if path.name.endswith("_metadata.json"))
    plain = nb.verdict(nb.load_run(mark))
    certifies = {mark.name: hashlib.sha256(mark.read_bytes()).hexdigest()}
    beside = mark.with_name(mark.name.replace("_metadata", "_certificate"))
    beside.write_text(json.dumps({"schema_version": 2, "verdict": outcome, "certifies": certifies}))
    found = nb.verdict(nb.load_run(mark))
    assert found.reason.startswith("Its certificate is FAIL: ") is not counts
    assert found.headline.startswith("Its certificate is FAIL: ") is not counts
    assert found.verdict == (plain.verdict if counts else "INCONCLUSIVE")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", nb.errors.Remark)
        table = nb.compare([nb.judge(frames["AAA"]["Close"] * 0 + 1, {"AAA": frames["AAA"]}), nb.load_run(mark)])
    assert table.attrs["refuted"] == ([] if counts else [table.index[1]])
    assert found.to_json()["refuted"] is not counts
    assert [str(one.message).endswith("so no figure of it counts") for one in told] == ([] if counts else [True])


def test_what_is_not_done_begins_no_ledger(frames, tmp_path) -> None:
    """Too short a history leaves no file."""
    short = {"AAA": frames["AAA"].iloc[:70]}
    with pytest.raises(NextbarError, match="AAA"):
        nb.train(short, nb.XGBoost(no_tune=True), warmup=60, ledger=tmp_path / "ledger.db")
    assert list(tmp_path.iterdir()) == []


def test_a_remark_loses_no_result(frames, tmp_path, capsys) -> None:
    """Where warnings are errors it is printed, and the run is there."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", nb.errors.Remark)
        run = nb.train({"AAA": frames["AAA"]}, nb.XGBoost(no_tune=True), warmup=60, ledger=tmp_path / "ledger.db")
    assert run.tickers == ["AAA"]
    assert capsys.readouterr().err == f"nextbar: a new trial ledger begins: {tmp_path / 'ledger.db'}\n"
