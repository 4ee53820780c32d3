"""A walk-forward, judged from its parquet and the bars alone."""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from nextbar.config import WalkForwardConfig
from nextbar.errors import NotEnoughHistoryError, NothingToTrainError
from nextbar.models.xgboost import XGBoost
from nextbar.types import JsonDict, Silent
from nextbar.workflows import training
from nextbar.workflows.training import Experiment, Plan, make_plan
from nextbar.workflows.universe import load_universe
from nextbar.workflows.walkforward import WalkForwardResult, walk_forward

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
    skip = {"created", "command", "seconds", "files", "paths", "config"}
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


@pytest.fixture(scope="module", params=[pytest.param("rf", marks=pytest.mark.thorough), "xgb"])
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
    ended = rows["next_return"].isna()
    assert rows[~ended].drop(columns="predicted_close").notna().all().all()
    assert rows[ended][["ticker", "signal", "class"]].to_numpy().tolist() == [["OVER", 0, 0]]
    assert rows["strategy_return"].notna().all()
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
        expected = days[(days >= "2011-05-01") & (days < days[-1])]
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


def portfolio(rows: pd.DataFrame, values: pd.Series) -> pd.Series:
    """Sum of a column by day over the number of tickers of the run."""
    return values.groupby(rows["date"]).sum() / rows["ticker"].nunique()


def test_pooled_figures_follow_from_the_parquet_alone(walked):
    """Plain pandas, numpy and scikit-learn get every pooled figure and each strategy return from the parquet."""
    rows, facts = table(walked), document(walked)
    pooled, scored = facts["pooled"], rows[rows["next_return"].notna()]
    truth, guess, chance = scored["next_return"] > 0, scored["class"], scored["probability"]
    by_ticker = [
        (len(part), sk.balanced_accuracy_score(part["next_return"] > 0, part["class"]))
        for _, part in scored.groupby("ticker")
    ]
    expected = {
        "accuracy": sk.accuracy_score(truth, guess),
        "balanced_accuracy": np.average([x for _, x in by_ticker], weights=[days for days, _ in by_ticker]),
        "precision": sk.precision_score(truth, guess),
        "recall": sk.recall_score(truth, guess),
        "f1": sk.f1_score(truth, guess),
        "roc_auc": sk.roc_auc_score(truth, chance),
        "rmse": math.sqrt(((truth.astype(int) - guess) ** 2).mean()),
        "brier": ((chance - truth) ** 2).mean(),
    }
    by_day = rows.sort_values(["ticker", "date"])
    before = by_day.groupby("ticker")["signal"].shift(fill_value=0)
    change = (by_day["signal"] - before).abs()
    net = by_day["signal"] * by_day["next_return"].fillna(0) - 5 / 1e4 * change
    np.testing.assert_allclose(by_day["strategy_return"], net, rtol=0, atol=1e-15)
    daily = portfolio(by_day, net)
    wealth = np.concatenate([[1.0], (1 + daily).cumprod()])
    held = rows.pivot_table(index="date", columns="ticker", values="signal").ffill().fillna(0)
    trades = portfolio(by_day, change)
    expected |= {
        "days": len(daily),
        "sharpe": daily.mean() / daily.std(ddof=1) * math.sqrt(261),
        "max_drawdown": (wealth / np.maximum.accumulate(wealth) - 1).min(),
        "total_return": wealth[-1] - 1,
        "annual_return": wealth[-1] ** (261 / len(daily)) - 1,
        "exposure": held.mean(axis=1).mean(),
        "turnover": trades.mean() * 261,
        "break_even_bps": 5 + 1e4 * daily.sum() / trades.sum(),
        "round_trips": ((before == 1) & (by_day["signal"] == 0)).sum(),
    }
    for name, value in expected.items():
        assert pooled[name] == pytest.approx(value, rel=1e-9), name
    assert facts["periods_per_year"] == 261  # the made-up bars know no holidays
    assert set(facts["per_ticker"]) == set(rows["ticker"])
    assert len(facts["reliability"]) == 10


def test_always_long_is_the_market(walked):
    """The always-long baseline earns every return, pays an entry per ticker and one exit, on the days of the model."""
    rows = table(walked).sort_values(["ticker", "date"])
    change = ~rows.duplicated("ticker") | rows["next_return"].isna()
    daily = portfolio(rows, rows["next_return"].fillna(0) - 5e-4 * change)
    long = document(walked)["baselines"]["always_long"]
    assert long["sharpe"] == pytest.approx(daily.mean() / daily.std() * math.sqrt(261))
    assert long["days"] == document(walked)["pooled"]["days"]
    assert long["accuracy"] == pytest.approx((rows["next_return"].dropna() > 0).mean())


def test_an_early_end_is_in_the_document(walked, bars):
    """The ticker that ended is named with its last day; the effect of a loss at its end is that of an open position."""
    rows, facts = table(walked), document(walked)
    assert facts["ended"] == {"OVER": "2011-07-15", "TINY": "2010-05-07"}
    assert facts["holes"] == {}
    last = rows[rows["ticker"] == "OVER"].sort_values("date")["signal"].iloc[-2]
    assert facts["delisting"] == {"tickers": 1, "open": last, "effect": pytest.approx(-0.3 * last / 4)}


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
    rows = rows[rows["next_return"].notna()]
    following = [
        bars[row.ticker].index[bars[row.ticker].index.get_loc(row.date) + 1] for row in rows.itertuples(index=False)
    ]
    return rows[np.array(following, dtype="datetime64[ns]") < np.datetime64(day)].reset_index(drop=True)


def test_who_takes_part_when(walked, bars):
    """A late starter joins once it has train and validation, an early end has no rows after it; reasons are told."""
    rows, facts = table(walked), document(walked)
    folds = rows.groupby("ticker")["fold"].agg(["min", "max"])
    assert folds.loc["AAA"].tolist() == [0, 4]
    assert folds.loc["LATE", "min"] > 0
    assert folds.loc["LATE", "max"] == 4
    assert folds.loc["OVER", "max"] == 0
    over = rows[rows["ticker"] == "OVER"]
    assert over["date"].max() == bars["OVER"].index[-1]
    assert over[over["next_return"].notna()]["date"].max() == bars["OVER"].index[-2]
    skips = {(skip["ticker"], skip["fold"]): skip["reason"] for skip in facts["skipped"]}
    assert skips[("OVER", 1)] == "OVER: no bar in the test window"
    assert re.fullmatch(r"LATE: \d+ rows in train, needs 60", skips[("LATE", 0)])
    assert ("TINY", 0) in skips
    told = [(skip["fold"], skip["ticker"]) for skip in facts["skipped"] if skip["fold"] is not None]
    assert len(told) == len(set(told)) == 5 * 5 - len(rows[["ticker", "fold"]].drop_duplicates())
    assert walked.failed == {}


@pytest.mark.parametrize("model", ["rf", "lstm"])
def test_taking_part_is_decided_without_the_test_window(bars, make_database, tmp_path, model):
    """With all bars from a fold's test window on taken away, train and validation rows of that fold are the same.

    One more ticker stays whole, because the windows end with the last bar of all.
    """

    def plan(name: str, some: dict[str, pd.DataFrame]) -> Plan:
        db = make_database(tmp_path / f"{name}.db", {**some, "WHOLE": bars["BBB"] * 2})
        config = WalkForwardConfig(**{**BASE, "db": str(db), "model": model})
        return make_plan(Experiment.of(config, load_universe(config)))

    whole = plan("whole", bars)
    cut = pd.Timestamp(whole.folds[2].days[2])
    part = plan("part", {name: frame[frame.index < cut] for name, frame in bars.items()})
    assert whole.folds[2].days == part.folds[2].days
    seen = [
        {
            (task.fold, name): (border.train, border.val, border.test)
            for task in plan.tasks
            for name, border in task.borders.items()
            if name != "WHOLE" and (task.fold < 2 or (task.fold == 2 and model == "lstm"))
        }
        for plan in (whole, part)
    ]
    assert seen[0] == seen[1]
    later = [(2, "AAA"), (2, "LATE")] if model == "lstm" else []
    assert set(seen[0]) >= {(0, "OVER"), (1, "AAA"), (1, "BBB"), *later}


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
    assert sorted({*first, *second}) == [(fold, name) for fold in range(5) for name in ("AAA", "BBB")]
    assert table(resumed).equals(table(whole))
    parquets = [next(x for x in result.files if x.suffix == ".parquet").read_bytes() for result in (whole, resumed)]
    assert parquets[0] == parquets[1]
    assert comparable(document(resumed)) == comparable(document(whole))
    assert len(list((tmp_path / "cut").iterdir())) == 2


def test_resume_takes_no_folds_of_another_run(db, tmp_path, monkeypatch):
    """Other options, bars, or code of the user's features, imports included: nothing of the old run is used."""
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
    home.write_text("from mine_parts import SCALE\ndef columns(bars):\n    return bars[['Volume']] / SCALE\n")
    (tmp_path / "mine_parts.py").write_text("SCALE = 200\n")
    assert run(db, tmp_path / "out", resume=True, **options).resumed == 0
    interrupted()
    (tmp_path / "mine_parts.py").write_text("SCALE = 300\n")
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
    monkeypatch.setattr(training, "run_fold", fail_some)
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
    ("model", "tune", "batches"),
    [
        ("xgb", "none", [XGBoost.batch]),
        ("xgb", "first", [1, XGBoost.batch]),
        ("rf", "none", [1]),
        ("lstm", "none", [1]),
    ],
)
def test_only_small_fits_travel_together(db, tmp_path, inline_module, model, tune, batches):
    """XGBoost fits do where none searches; a forest, a network and a search go alone: little is lost with one."""
    inline_module.batches = []
    run(db, tmp_path, model=model, ticker="AAA", tune=tune, n_iter=2, epochs=1)
    assert inline_module.batches == batches


def test_too_short_for_a_fold_is_an_error(db, tmp_path):
    """Without one fold the error says how long a history is and what a fold needs."""
    with pytest.raises(
        NotEnoughHistoryError, match=r"the bars go from 2010-01-04 to 2010-05-07; a fold needs 1 year of train"
    ):
        run(db, tmp_path, model="rf", ticker="TINY")
    with pytest.raises(NotEnoughHistoryError, match=r"the bars go from .*3 years of train"):
        run(db, tmp_path, model="rf", ticker="AAA", train_years=3)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def network(db, tmp_path_factory, inline_module) -> WalkForwardResult:
    """The LSTM over all tickers, three folds, one epoch each."""
    return run(db, tmp_path_factory.mktemp("walk_lstm"), model="lstm", end="2011-12-20")


def test_lstm_is_one_network_per_fold(network):
    """--ticker ALL trains one LSTM per fold over all tickers, those that have ended included; the rows are its own."""
    facts, rows = document(network), table(network)
    assert re.match(r"walkforward_lstm_all_", network.files[0].name)
    assert list(rows.columns) == COLUMNS
    assert rows["probability"].isna().all()
    assert rows["threshold"].isna().all()
    scored = rows[rows["next_return"].notna()]
    assert scored.drop(columns=["probability", "threshold"]).notna().all().all()
    assert [[task["name"] for task in fold["tasks"]] for fold in facts["folds"]] == [["all"]] * 3
    assert {"AAA", "BBB", "OVER"} <= set(facts["folds"][1]["tasks"][0]["splits"])
    assert set(rows[rows["fold"] == 1]["ticker"]) >= {"AAA", "BBB"}
    assert "OVER" not in set(rows[rows["fold"] == 1]["ticker"])
    assert facts["pooled"]["roc_auc"] is None
    assert facts["pooled"]["brier"] is None
    assert facts["pooled"]["accuracy"] == pytest.approx(((scored["next_return"] > 0) == scored["class"]).mean())
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


@pytest.mark.parametrize("kind_of_model", ["xgb", "lstm"])
def test_a_position_held_into_a_hole_is_paid_over_it(bars, make_database, tmp_path, kind_of_model):
    """A hole over a fold border costs the model and always long its return, on the first bar after it, once."""
    broken = bars["BBB"].copy()
    hole = broken.index.searchsorted(pd.Timestamp("2011-10-29"))
    later = broken.index.to_numpy().copy()
    later[hole:] += np.timedelta64(28, "D")
    broken = broken.set_axis(pd.DatetimeIndex(later, name="Date"))
    broken.iloc[hole:, :6] *= [0.5, 0.5, 0.5, 0.5, 1, 0.5]
    db = make_database(tmp_path / "m.db", {"AAA": bars["AAA"], "BBB": broken})
    result = run(db, tmp_path / "out", model=kind_of_model)
    rows, facts = table(result), document(result)
    assert not rows.duplicated(["ticker", "date"]).any()
    days = broken.index[[hole - 1, hole]]
    before, after = (rows[(rows["ticker"] == "BBB") & (rows["date"] == day)].iloc[0] for day in days)
    lost = broken["Adj"].iloc[hole] / broken["Adj"].iloc[hole - 1] - 1
    assert facts["holes"] == {"BBB": {str(days[1].date()): pytest.approx(lost)}}
    assert before["fold"] == after["fold"]
    assert str(days[0].date()) < facts["folds"][before["fold"] + 1]["test_start"] < str(days[1].date())
    assert after["strategy_return"] == pytest.approx(before["signal"] * (lost - 5e-4))
    daily = rows.groupby("date")["strategy_return"].sum() / 2
    assert facts["pooled"]["sharpe"] == pytest.approx(daily.mean() / daily.std() * math.sqrt(261))
    own = rows[rows["ticker"] == "BBB"].sort_values("date")
    place = own["date"].tolist().index(days[1])
    earned = own["next_return"].fillna(0).to_numpy(copy=True)
    earned[place] += lost
    earned[[0, place, place + 1]] -= 5e-4  # in, out after the hole, in again
    long = facts["per_ticker"]["BBB"]["always_long_sharpe"]
    assert long == pytest.approx(earned.mean() / earned.std(ddof=1) * math.sqrt(261))


def test_the_stated_periods_per_year_override_those_of_the_days(db, tmp_path):
    """Twice the bars a year changes rates by their formulas and no row; the number used is in the document."""
    year, half = (
        run(db, tmp_path / f"{count:g}", model="xgb", ticker="AAA", periods_per_year=count) for count in (260.0, 130.0)
    )
    assert document(year)["periods_per_year"] == 260
    assert document(year)["pooled"]["sharpe"] == pytest.approx(document(half)["pooled"]["sharpe"] * math.sqrt(2))
    assert document(year)["pooled"]["turnover"] == pytest.approx(document(half)["pooled"]["turnover"] * 2)
    pd.testing.assert_frame_equal(table(year), table(half), check_exact=True)


def test_returns_that_overflow_wealth_are_written(bars, make_database, tmp_path):
    """Bars that jump a thousandfold and back every other day leave a whole result, with null where no number is."""
    wild = {name: bars[name].copy() for name in ("AAA", "BBB")}
    for start, frame in enumerate(wild.values()):
        jumps = np.where(np.arange(len(frame)) % 2 == start, 1000.0, 1.0)
        for column in ("Open", "High", "Low", "Close", "Adj"):
            frame[column] *= jumps
    result = run(make_database(tmp_path / "m.db", wild), tmp_path / "out", model="xgb")
    long = document(result)["baselines"]["always_long"]
    assert long["total_return"] is None
    assert -1 <= long["max_drawdown"] <= 0
    assert len(result.files) == 2
