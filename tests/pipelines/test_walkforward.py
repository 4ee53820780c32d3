"""A walk-forward, judged from its parquet and the bars alone."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from nextbar.config import WalkForwardConfig
from nextbar.errors import NotEnoughHistoryError, NothingToTrainError
from nextbar.pipelines import walkforward as pipeline
from nextbar.pipelines.universe import load_universe
from nextbar.pipelines.walkforward import HANDFUL, WalkForwardResult, walk_forward
from nextbar.types import JsonDict, Silent

pytestmark = pytest.mark.usefixtures("inline_module")
BASE: dict[str, Any] = {
    "train_years": 1,
    "val_months": 3,
    "test_months": 3,
    "step_months": 3,
    "warmup": 60,
    "tune": "none",
    "cv_splits": 2,
    "n_iter": 2,
    "sequence_length": 8,
    "epochs": 1,
    "batch_size": 128,
}
COLUMNS = (
    "date ticker fold probability predicted_close threshold class signal next_return strategy_return".split()  # noqa: SIM905 - as the design writes them
)


def run(db: Path, folder: Path, progress: Any = None, **options: Any) -> WalkForwardResult:
    config = WalkForwardConfig(**{**BASE, "db": str(db), "output_dir": str(folder), **options})
    return walk_forward(config, progress or Silent())


def table(result: WalkForwardResult) -> pd.DataFrame:
    return pd.read_parquet(next(path for path in result.files if path.suffix == ".parquet"))


def document(result: WalkForwardResult) -> JsonDict:
    text = next(path for path in result.files if path.suffix == ".json").read_text()
    return json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} in JSON"))


def comparable(facts: JsonDict) -> JsonDict:
    """What must be the same in a second run: all but times, the command and names that hold the time."""
    skip = {"created", "command", "seconds", "files", "config"}
    return {name: value for name, value in facts.items() if name not in skip}


@pytest.fixture(scope="module")
def bars(market_bars, make_bars) -> dict[str, pd.DataFrame]:
    """Two whole tickers, one that starts late, one that ends early, one too short for any fold."""
    late, ended = market_bars["AAA"].iloc[230:], market_bars["BBB"].iloc[:400]
    return {
        "AAA": market_bars["AAA"],
        "BBB": market_bars["BBB"],
        "LATE": late * 1.5,
        "OVER": ended * 0.5,
        "TINY": market_bars["TINY"],
    }


@pytest.fixture(scope="module")
def db(bars, make_database, tmp_path_factory) -> Path:
    return make_database(tmp_path_factory.mktemp("wf") / "market.db", bars)


@pytest.fixture(scope="module", params=["rf", "xgb"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def walked(kind, db, tmp_path_factory, inline_module) -> WalkForwardResult:
    """The five tickers, no search."""
    return run(db, tmp_path_factory.mktemp(f"walk_{kind}"), model=kind)


def test_files_and_columns_are_those_of_the_design(kind, walked):
    """A .json and a .parquet with the fixed names; the parquet has exactly the ten columns, sorted, dates as dates."""
    names = sorted(path.name for path in walked.files[0].parent.iterdir())
    assert len(names) == 2
    assert all(re.fullmatch(rf"walkforward_{kind}_all_\d{{8}}_\d{{6}}\.(json|parquet)", name) for name in names)
    rows = table(walked)
    assert list(rows.columns) == COLUMNS
    pd.testing.assert_frame_equal(rows, rows.sort_values(["fold", "ticker", "date"], ignore_index=True))
    assert rows["date"].dt.normalize().equals(rows["date"])
    assert rows["predicted_close"].isna().all()
    assert rows.drop(columns="predicted_close").notna().all().all()
    facts = document(walked)
    parquet = next(path for path in walked.files if path.suffix == ".parquet")
    assert facts["files"] == {parquet.name: hashlib.sha256(parquet.read_bytes()).hexdigest()}
    assert {"config", "folds", "per_ticker", "baselines", "skipped", "pooled", "schema_version", "seed"} <= set(facts)


def test_every_day_counts_once_and_none_is_lost(walked, bars):
    """The stitched days of a ticker are all its days from the first test day to its last but one bar, each once."""
    rows = table(walked)
    assert not rows.duplicated(["ticker", "date"]).any()
    for ticker in ("AAA", "BBB"):
        days = bars[ticker].index
        own = rows[rows["ticker"] == ticker]
        expected = days[(days >= "2011-07-01") & (days < days[-1])]
        assert own["date"].tolist() == expected.tolist()
    folds = document(walked)["folds"]
    for row in rows[["date", "fold"]].drop_duplicates().itertuples():
        window = folds[row.fold]
        assert pd.Timestamp(window["test_start"]) <= row.date < pd.Timestamp(window["test_end"])
    assert [fold["rows"] for fold in folds] == rows.groupby("fold").size().tolist()


def test_returns_are_those_of_the_next_bar(walked, bars):
    """next_return is the adjusted close of the ticker's next bar over that of the day, over fold borders too."""
    for ticker, own in table(walked).groupby("ticker"):
        close = bars[str(ticker)]["Adj"]
        expected = (close.shift(-1) / close - 1).loc[own["date"]]
        np.testing.assert_allclose(own["next_return"], expected, rtol=0, atol=1e-12)


def test_pooled_figures_follow_from_the_parquet_alone(walked):
    """Plain pandas, numpy and scikit-learn get every pooled figure and each strategy return from the parquet."""
    rows, pooled = table(walked), document(walked)["pooled"]
    truth, guess, chance = rows["next_return"] > 0, rows["class"], rows["probability"]
    expected = {
        "accuracy": sk.accuracy_score(truth, guess),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, guess),
        "precision": sk.precision_score(truth, guess),
        "recall": sk.recall_score(truth, guess),
        "f1": sk.f1_score(truth, guess),
        "roc_auc": sk.roc_auc_score(truth, chance),
        "rmse": math.sqrt(((truth.astype(int) - guess) ** 2).mean()),
        "brier": ((chance - truth) ** 2).mean(),
    }
    by_day = rows.sort_values(["ticker", "date"])
    before = by_day.groupby("ticker")["signal"].shift(fill_value=0)
    net = by_day["signal"] * by_day["next_return"] - 5 / 1e4 * (by_day["signal"] - before).abs()
    np.testing.assert_allclose(by_day["strategy_return"], net, rtol=0, atol=1e-15)
    daily = by_day.assign(net=net).groupby("date")["net"].mean()
    wealth = np.concatenate([[1.0], (1 + daily).cumprod()])
    expected |= {
        "days": len(daily),
        "sharpe": daily.mean() / daily.std(ddof=1) * math.sqrt(252),
        "max_drawdown": (wealth / np.maximum.accumulate(wealth) - 1).min(),
        "total_return": wealth[-1] - 1,
        "exposure": by_day.groupby("date")["signal"].mean().mean(),
    }
    for name, value in expected.items():
        assert pooled[name] == pytest.approx(value, rel=1e-9), name
    assert set(document(walked)["per_ticker"]) == set(rows["ticker"])
    assert len(document(walked)["reliability"]) == 10


def test_always_long_is_the_market(walked):
    """The always-long baseline earns every return, pays one entry per ticker, and stands on the same days."""
    rows = table(walked).sort_values(["ticker", "date"])
    first = ~rows.duplicated("ticker")
    daily = (rows["next_return"] - 5e-4 * first).groupby(rows["date"]).mean()
    long = document(walked)["baselines"]["always_long"]
    assert long["sharpe"] == pytest.approx(daily.mean() / daily.std() * math.sqrt(252))
    assert long["days"] == document(walked)["pooled"]["days"]
    assert long["accuracy"] == pytest.approx((rows["next_return"] > 0).mean())


@pytest.mark.parametrize("day", ["2011-09-01", "2011-12-14"])
def test_future_prices_change_no_earlier_row(kind, walked, bars, make_database, tmp_path, day):
    """Changing every price from a day on changes no row whose next bar is before it, byte for byte."""
    attacked = {name: frame.copy() for name, frame in bars.items()}
    for frame in attacked.values():
        later = frame.index >= day
        frame.loc[later, ["Open", "High", "Low", "Close", "Adj"]] *= np.linspace(5, 2, later.sum())[:, None]
    again = run(make_database(tmp_path / "m.db", attacked), tmp_path / "out", model=kind)
    one, other = (earlier_rows(table(x), bars, day) for x in (walked, again))
    assert len(one) > 50
    for name in COLUMNS:
        left, right = one[name].to_numpy(), other[name].to_numpy()
        assert left.tolist() == right.tolist() if left.dtype == object else left.tobytes() == right.tobytes()
    assert not table(walked)["probability"].equals(table(again)["probability"])


def earlier_rows(rows: pd.DataFrame, bars: dict[str, pd.DataFrame], day: str) -> pd.DataFrame:
    """Rows whose return ends before a day."""
    following = [
        bars[row.ticker].index[bars[row.ticker].index.get_loc(row.date) + 1] for row in rows.itertuples(index=False)
    ]
    return rows[np.array(following, dtype="datetime64[ns]") < np.datetime64(day)].reset_index(drop=True)


def test_who_takes_part_when(walked, bars):
    """A late starter joins once it has train and validation, an early end has no rows after it; reasons are told."""
    rows, facts = table(walked), document(walked)
    folds = rows.groupby("ticker")["fold"].agg(["min", "max"])
    assert folds.loc["AAA"].tolist() == [0, 3]
    assert folds.loc["LATE", "min"] > 0
    assert folds.loc["LATE", "max"] == 3
    assert folds.loc["OVER", "max"] == 0
    assert rows[rows["ticker"] == "OVER"]["date"].max() == bars["OVER"].index[-2]
    skips = {(skip["ticker"], skip["fold"]): skip["reason"] for skip in facts["skipped"]}
    assert skips[("OVER", 1)] == "OVER: no bar in the test window"
    assert re.fullmatch(r"LATE: \d+ rows in train, needs 60", skips[("LATE", 0)])
    assert ("TINY", 0) in skips
    told = [(skip["fold"], skip["ticker"]) for skip in facts["skipped"] if skip["fold"] is not None]
    assert len(told) == len(set(told)) == 4 * 5 - len(rows[["ticker", "fold"]].drop_duplicates())
    assert walked.failed == {}


@pytest.mark.parametrize("model", ["rf", "lstm"])
def test_taking_part_is_decided_without_the_test_window(db, bars, make_database, tmp_path, model):
    """With all bars from a fold's test window on taken away, train and validation rows of that fold are the same."""
    config = WalkForwardConfig(**{**BASE, "db": str(db), "model": model})
    whole = load_universe(config)
    folds = pipeline._folds(config, whole)
    cut = pd.Timestamp(folds[2].test_start)
    short = {name: frame[frame.index < cut] for name, frame in bars.items()}
    part = load_universe(replace(config, db=str(make_database(tmp_path / "m.db", short))))
    config_all = replace(config, model="lstm")
    for settings in (config, config_all):
        tasks = [pipeline.plan(settings, universe, folds[:3])[0] for universe in (whole, part)]
        seen = [
            {
                (task.fold, name): (border.train, border.val, border.test)
                for task in plan
                for name, border in task.borders.items()
                if task.fold < 2 or settings.model == "lstm"
            }
            for plan in tasks
        ]
        assert seen[0] == seen[1]
        assert seen[0]


class Interrupted(Silent):
    """A progress that is interrupted after some steps."""

    def __init__(self, after: int) -> None:
        self.left = after

    def advance(self, steps: int = 1, note: str = "") -> None:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1


@pytest.mark.parametrize("tune", ["none", "first"])
def test_resume_trains_nothing_twice(kind, walked, db, tmp_path, inline_module, tune):
    """Interrupted and resumed, a run trains each task once and has the parquet and figures of an uninterrupted one."""
    options = {"model": kind, "ticker": "AAA,BBB", "tune": tune}
    whole = run(db, tmp_path / "whole", **options)
    inline_module.ran.clear()
    with pytest.raises(KeyboardInterrupt):
        run(db, tmp_path / "cut", Interrupted(5), **options)
    assert not [path for path in (tmp_path / "cut").rglob("*") if path.name.endswith(".tmp")]
    first = [(task.fold, task.name) for task in inline_module.ran]
    inline_module.ran.clear()
    resumed = run(db, tmp_path / "cut", resume=True, **options)
    second = [(task.fold, task.name) for task in inline_module.ran]
    assert resumed.resumed == 5
    # The sixth had been computed and not yet written when the interruption came.
    assert set(first[:5]).isdisjoint(second)
    assert sorted({*first, *second}) == [(fold, name) for fold in range(4) for name in ("AAA", "BBB")]
    assert table(resumed).equals(table(whole))
    parquets = [next(x for x in result.files if x.suffix == ".parquet").read_bytes() for result in (whole, resumed)]
    assert parquets[0] == parquets[1]
    assert comparable(document(resumed)) == comparable(document(whole))
    assert len(list((tmp_path / "cut").iterdir())) == 2


def test_resume_takes_no_folds_of_another_run(db, tmp_path, monkeypatch):
    """Other options, other bars or other code of the user's features make another run: nothing of the old is used."""
    home = tmp_path / "mine_walk.py"
    home.write_text("def columns(bars):\n    return bars[['Volume']] / 100\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    options = {"model": "xgb", "ticker": "AAA", "features": "mine_walk:columns", "no_tune": True}

    def interrupted(**changes: Any) -> None:
        with pytest.raises(KeyboardInterrupt):
            run(db, tmp_path / "out", Interrupted(2), **{**options, **changes})

    interrupted()
    assert run(db, tmp_path / "out", resume=True, **{**options, "seed": 1}).resumed == 0
    interrupted()
    assert run(db, tmp_path / "out", resume=True, **{**options, "jobs": 2, "engine": "serial"}).resumed == 2
    interrupted()
    home.write_text("def columns(bars):\n    return bars[['Volume']] / 200\n")
    assert run(db, tmp_path / "out", resume=True, **options).resumed == 0


@pytest.mark.parametrize("tune", ["first", "each", "none"])
def test_tune_says_which_folds_search(db, tmp_path, inline_module, tune):
    """`first` searches in a ticker's first fold and hands its choice on; `each` and `none` do what they say."""
    inline_module.ran.clear()
    result = run(db, tmp_path, model="xgb", ticker="AAA,LATE", tune=tune)
    chosen = {
        (task["name"], fold["number"]): task["search"] for fold in document(result)["folds"] for task in fold["tasks"]
    }
    for ticker in ("AAA", "LATE"):
        own = {fold: search for (name, fold), search in chosen.items() if name == ticker}
        searched = sorted(fold for fold, search in own.items() if search["candidates"])
        expected = {"first": [min(own)], "each": sorted(own), "none": []}[tune]
        assert searched == expected
        if tune == "first":
            assert len({json.dumps(search["params"], sort_keys=True) for search in own.values()}) == 1
        asked = [task for task in inline_module.ran if task.name == ticker]
        assert [task.search for task in asked] == [task.fold in expected for task in asked]


def test_expanding_keeps_the_first_day(db, tmp_path):
    """--expanding trains from the first day in every fold, rolling moves on."""
    starts = {}
    for expanding in (False, True):
        folder = tmp_path / str(expanding)
        result = run(db, folder, model="xgb", ticker="AAA", no_tune=True, expanding=expanding)
        folds = document(result)["folds"]
        starts[expanding] = [task["splits"]["AAA"]["train"]["first"] for fold in folds for task in fold["tasks"]]
    assert len(set(starts[True])) == 1
    assert starts[False] == sorted(set(starts[False]))
    assert starts[False][0] == starts[True][0]


def test_other_tickers_and_their_order_do_not_matter(kind, walked, db, tmp_path):
    """A ticker's rows are the same alone, named after another, and among all."""
    mine = table(walked)[table(walked)["ticker"] == "BBB"].reset_index(drop=True)
    for name, ticker in (("alone", "BBB"), ("pair", "BBB,AAA")):
        rows = table(run(db, tmp_path / name, model=kind, ticker=ticker))
        pd.testing.assert_frame_equal(rows[rows["ticker"] == "BBB"].reset_index(drop=True), mine, check_exact=True)


def test_skips_do_not_depend_on_who_ends_first(db, tmp_path, monkeypatch, inline_module):
    """Losses are listed by fold and ticker, not in the order in which workers happened to end."""
    monkeypatch.setattr(pipeline, "run_fold", fail_some)
    honest = inline_module.run
    forwards = run(db, tmp_path / "a", model="xgb", ticker="AAA,BBB")
    monkeypatch.setattr(
        inline_module, "run", lambda self, f, tasks, *rest, **_: honest(self, f, list(tasks)[::-1], *rest)
    )
    backwards = run(db, tmp_path / "b", model="xgb", ticker="AAA,BBB")
    assert comparable(document(forwards)) == comparable(document(backwards))
    assert table(forwards).equals(table(backwards))
    assert list(forwards.failed) == list(backwards.failed) == ["BBB fold 3"]
    reasons = [skip["reason"] for skip in document(forwards)["skipped"]]
    assert reasons == ["AAA: no luck", "BBB: no luck", "ZeroDivisionError: by hand"]


def fail_some(task: Any, bars: Any, report: Any) -> Any:
    from nextbar.evaluation.walkforward import run_fold

    if task.fold == 2:
        raise NothingToTrainError(f"{task.name}: no luck")
    if (task.fold, task.name) == (3, "BBB"):
        raise ZeroDivisionError("by hand")
    return run_fold(task, bars, report)


@pytest.mark.parametrize(
    ("model", "tune", "handfuls"),
    [("xgb", "none", [HANDFUL]), ("xgb", "first", [1, HANDFUL]), ("rf", "none", [1]), ("lstm", "none", [1])],
)
def test_only_small_fits_travel_together(db, tmp_path, inline_module, model, tune, handfuls):
    """XGBoost fits do where none searches; a forest, a network and a search go alone: little is lost with one."""
    inline_module.handfuls = []
    run(db, tmp_path, model=model, ticker="AAA", tune=tune, n_iter=2, epochs=1)
    assert inline_module.handfuls == handfuls


def test_too_short_for_a_fold_is_an_error(db, tmp_path):
    """Without one fold the error says how long a history is and what a fold needs."""
    with pytest.raises(
        NotEnoughHistoryError, match=r"longest history has 90 bars up to 2010-05-07; a fold needs 60 bars"
    ):
        run(db, tmp_path, model="rf", ticker="TINY")
    with pytest.raises(NotEnoughHistoryError, match=r"longest history has 640 bars.*3 years of train"):
        run(db, tmp_path, model="rf", ticker="AAA", train_years=3)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def network(db, tmp_path_factory, inline_module) -> WalkForwardResult:
    """The LSTM over all tickers, two folds, one epoch each."""
    return run(db, tmp_path_factory.mktemp("walk_lstm"), model="lstm", end="2011-12-20")


def test_lstm_is_one_network_per_fold(network):
    """--ticker ALL trains one LSTM per fold over all tickers, those that have ended included; the rows are its own."""
    facts, rows = document(network), table(network)
    assert re.match(r"walkforward_lstm_all_", network.files[0].name)
    assert list(rows.columns) == COLUMNS
    assert rows["probability"].isna().all()
    assert rows["threshold"].isna().all()
    assert rows.drop(columns=["probability", "threshold"]).notna().all().all()
    assert [[task["name"] for task in fold["tasks"]] for fold in facts["folds"]] == [["all"]] * 2
    assert {"AAA", "BBB", "OVER"} <= set(facts["folds"][1]["tasks"][0]["splits"])
    assert set(rows[rows["fold"] == 1]["ticker"]) >= {"AAA", "BBB"}
    assert "OVER" not in set(rows[rows["fold"] == 1]["ticker"])
    assert facts["pooled"]["roc_auc"] is None
    assert facts["pooled"]["brier"] is None
    truth = rows["next_return"] > 0
    assert facts["pooled"]["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(truth, rows["class"]))
    assert set(facts["price"]["per_ticker"]) == set(rows["ticker"])
    assert network.failed == {}


def test_lstm_sees_no_future(network, bars, make_database, tmp_path):
    """Changing every price from a day on changes no row of the LSTM's walk-forward whose next bar is before it."""
    day = "2011-09-15"
    attacked = {name: frame.copy() for name, frame in bars.items()}
    for frame in attacked.values():
        later = frame.index >= day
        frame.loc[later, ["Open", "High", "Low", "Close", "Adj"]] *= np.linspace(5, 2, later.sum())[:, None]
    again = run(make_database(tmp_path / "m.db", attacked), tmp_path / "out", model="lstm", end="2011-12-20")
    one, other = (earlier_rows(table(x), bars, day) for x in (network, again))
    assert len(one) > 50
    pd.testing.assert_frame_equal(one, other, check_exact=True)
    assert not table(network)["predicted_close"].equals(table(again)["predicted_close"])
