"""A training run from the database to its files, checked by somebody who has only the files and the bars."""

from __future__ import annotations

import hashlib
import io
import json
import math
import pickle
import re
import sqlite3
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import talib
import xgboost as xgb
from sklearn.metrics import accuracy_score, balanced_accuracy_score, brier_score_loss, roc_auc_score

import nextbar
from nextbar.config import TrainConfig
from nextbar.errors import FeatureError, NothingToTrainError, OutputError, UnknownTickerError
from nextbar.runs.fit import Task
from nextbar.runs.ledger import Ledger
from nextbar.runs.run import Run
from nextbar.types import JsonDict, Silent
from nextbar.workflows import training
from nextbar.workflows.train import TrainSummary, train

pytestmark = pytest.mark.usefixtures("inline_module")
BASE: dict[str, Any] = {"warmup": 60, "n_iter": 2, "cv_splits": 2, "sequence_length": 8, "epochs": 1}
STAMP = r"\d{8}_\d{6}"


def run(db: Path, folder: Path, **options: Any) -> TrainSummary:
    return train(TrainConfig(**{**BASE, "db": str(db), "save_dir": str(folder), **options}), Silent())


@pytest.fixture(scope="module", params=["rf", "xgb"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def trained(kind, market_db, tmp_path_factory, inline_module) -> TrainSummary:
    """`train rf|xgb` over all tickers."""
    return run(market_db, tmp_path_factory.mktemp(kind), model=kind)


def of(summary: TrainSummary, ticker: str) -> Run:
    return next(run for run in summary.runs if run.label == ticker)


def recorded(trained_run: Run) -> pd.DataFrame:
    """The test rows as the run wrote them."""
    (path,) = (path for path in trained_run.files if path.name.endswith("_predictions.parquet"))
    return pd.read_parquet(path)


def saved(trained_run: Run) -> JsonDict:
    return json.loads(trained_run.files[-1].read_text(), parse_constant=lambda text: pytest.fail(f"{text} in JSON"))


def task_of(trained_run: Run) -> Task:
    """Its only fit."""
    ((_, task),) = trained_run.document.fits
    return task


def test_files_are_named_by_the_design(kind, trained):
    """Each ticker has its files under the fixed names, with strange symbols encoded; nothing else is there."""
    label, ends = {"rf": ("random_forest", [".pkl", "_weights.npz"]), "xgb": ("xgboost", [".json", ".meta.json"])}[kind]
    suffixes = [*ends, "_metadata.json", "_predictions.parquet"]
    (stamp,) = set(re.findall(STAMP, " ".join(path.name for path in trained.runs[0].files)))
    expected = {f"{label}_{part}_{stamp}{suffix}" for part in ("AAA", "BBB", "%5EGSPC") for suffix in suffixes}
    assert {path.name for path in trained.runs[0].files[0].parent.iterdir()} == expected
    assert all(run.files[-1].name.endswith("_metadata.json") for run in trained.runs)


def test_who_was_left_out_and_why(trained):
    """Too little history, and none, are skips with numbers and advice; the other tickers are sorted."""
    assert [run.label for run in trained.runs] == ["AAA", "BBB", "^GSPC"]
    assert set(trained.skipped) == {"TINY", "EMPTY"}
    assert trained.skipped["EMPTY"] == "EMPTY: no bars"
    why, advice = r"training needs \d+ \(\d+ rows in train, needs 60\)", "ingest an earlier start or lower --warmup"
    assert re.fullmatch(f"TINY: 90 bars, {why}; {advice}", trained.skipped["TINY"])
    assert trained.failed == {}
    assert trained.adjustments == {"forward": 4}


def test_named_need_is_enough(kind, trained, market_db, make_bars, make_database, tmp_path):
    """The number of bars that the message asks for is the number that trains."""
    need = int(re.findall(r"needs (\d+) \(", trained.skipped["TINY"])[0])
    bars = {"LESS": make_bars(need - 1), "JUST": make_bars(need)}
    summary = run(make_database(tmp_path / "m.db", bars), tmp_path / "out", model=kind)
    assert [item.label for item in summary.runs] == ["JUST"]
    assert set(summary.skipped) == {"LESS"}


def test_metadata_is_complete(kind, trained, market_db, market_bars):
    """The metadata says what the design asks for, and every sibling's sha256 is right."""
    done = of(trained, "AAA")
    facts = saved(done)
    assert facts == json.loads(done.document.to_json_bytes()) | {name: facts[name] for name in ("files", "paths")}
    assert (facts["schema_version"], facts["kind"]) == (2, "train")
    (fold,) = facts["folds"]
    (task,) = fold["tasks"]
    assert facts["command"][0] == "nextbar"
    assert (
        facts["config"]
        == TrainConfig(**{**BASE, "db": str(market_db), "save_dir": str(done.files[0].parent), "model": kind}).to_json()
    )
    assert facts["seed"] == 42
    bars = market_bars["AAA"]
    data = facts["data"]["AAA"]
    assert (data["bars"], data["dropped"], data["adjustment"]) == (640, 0, "forward")
    assert (data["first"], data["last"]) == (str(bars.index[0].date()), str(bars.index[-1].date()))
    assert re.fullmatch("[0-9a-f]{64}", data["fingerprint"])
    # 580 samples: 464 before test, 46 of those validation.
    sizes = {name: task["splits"]["AAA"][name]["rows"] for name in ("train", "val", "test")}
    assert sizes == {"train": 418, "val": 46, "test": 116}
    assert task["splits"]["AAA"]["lost"] == {"warmup": 60, "missing": 0}
    assert task["splits"]["AAA"]["test"]["first"] == str(bars.index[524].date())
    assert len(task["search"]["candidates"]) == 2
    assert task["search"]["params"] in [row["params"] for row in task["search"]["candidates"]]
    curve = task["threshold"]["AAA"]["curve"]
    assert len(curve["threshold"]) == len(curve["score"]) == len(curve["long_days"]) == 201
    assert facts["features"]["columns"] == ["Close", "SMA_20", "SMA_50", "RSI", "MACD", "Signal_Line"]
    assert set(task["importance"]) == set(facts["features"]["columns"])
    assert {"python", "cpu", "cores", "threads", "versions"} <= set(facts["environment"])
    versions = facts["environment"]["versions"]
    assert {"numpy", "scikit-learn"} <= set(versions)
    assert versions["nextbar"] == nextbar.__version__
    assert facts["environment"]["threads"] == 1
    assert facts["seconds"]["task"] >= 0
    figures = {"accuracy", "balanced_accuracy", "precision", "recall", "f1", "roc_auc", "sharpe", "max_drawdown"}
    assert figures <= set(facts["pooled"])
    assert set(facts["baselines"]) == {"always_long", "majority_class", "yesterday_direction", "constant_exposure"}
    assert figures <= set(facts["baselines"]["always_long"])
    window = [fold[name] for name in ("train_start", "val_start", "test_start", "test_end")]
    assert window == [str(bars.index[row].date()) for row in (60, 478, 524, 639)]
    assert (fold["number"], fold["rows"]) == (0, len(recorded(done)))
    later = {name: value for name, value in facts["next_open"].items() if name != "edge"}
    same = {name: facts[name] for name in ("baselines", "one_bar_late")}
    assert fold["metrics"] == {"model": facts["pooled"], "next_open": later, **same}
    assert facts["files"] == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in done.files[:-1]}
    folder = done.files[-1].parent
    assert {(folder / path).resolve() for path in facts["paths"].values()} == {x.resolve() for x in done.files[:-1]}
    assert not any(Path(path).is_absolute() for path in facts["paths"].values())


def independent_features(bars: pd.DataFrame) -> pd.DataFrame:
    """Prices adjusted forward and the six columns, without nextbar."""
    close = (bars["Adj"] * (bars["Close"].iloc[0] / bars["Adj"].iloc[0])).to_numpy()
    macd, signal, _ = talib.MACD(close, 12, 26, 9)
    columns = [close, talib.SMA(close, 20), talib.SMA(close, 50), talib.RSI(close, 14), macd, signal]
    names = ["Close", "SMA_20", "SMA_50", "RSI", "MACD", "Signal_Line"]
    return pd.DataFrame(dict(zip(names, columns, strict=True)), index=bars.index)


@pytest.mark.parametrize("ticker", ["AAA", "^GSPC"])
def test_files_predict_what_was_recorded(kind, trained, market_bars, ticker):
    """Plain pickle or plain xgboost with TA-Lib gives the probabilities, classes and returns that were recorded."""
    done = of(trained, ticker)
    rows, features = recorded(done), independent_features(market_bars[ticker])
    X = features.loc[rows["date"]]
    if kind == "rf":
        model = pickle.loads(done.files[0].read_bytes())
        probability, threshold = model.predict_proba(X.to_numpy())[:, 1], task_of(done).threshold[ticker].threshold
    else:
        meta = json.loads(done.sibling(".meta.json").read_text())
        booster = xgb.Booster(model_file=str(done.files[0]))
        assert meta["feature_columns"] == booster.feature_names == list(X)
        assert booster.num_boosted_rounds() == meta["best_iteration"] + 1
        assert meta["class_to_signal"] == {"0": "flat", "1": "long"}
        assert (meta["ticker"], meta["prices"], meta["warmup"]) == (ticker, "forward", 60)
        probability, threshold = booster.predict(xgb.DMatrix(X)), meta["threshold"]
    np.testing.assert_allclose(rows["probability"], probability, rtol=1e-6)
    np.testing.assert_array_equal(rows["threshold"], threshold)
    np.testing.assert_array_equal(rows["class"], rows["probability"] >= threshold)
    later = (
        features["Close"].shift(-1).loc[rows["date"]].to_numpy() / features["Close"].loc[rows["date"]].to_numpy() - 1
    )
    np.testing.assert_allclose(rows["next_return"], later, rtol=1e-9, atol=1e-12)


def test_figures_follow_from_the_recorded_rows(trained):
    """Accuracy, balanced accuracy, ROC-AUC, Brier, Sharpe and drawdown are those of the recorded rows, recomputed."""
    done = of(trained, "BBB")
    rows, got = recorded(done), done.document.pooled
    truth = rows["next_return"] > 0
    assert got["accuracy"] == pytest.approx(accuracy_score(truth, rows["class"]))
    assert got["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, rows["class"]))
    assert got["roc_auc"] == pytest.approx(roc_auc_score(truth, rows["probability"]))
    assert got["brier"] == pytest.approx(brier_score_loss(truth, rows["probability"]))
    change = rows["signal"].astype(float).diff().abs().fillna(rows["signal"].iloc[0])
    net = rows["signal"] * rows["next_return"] - 5e-4 * change
    np.testing.assert_allclose(rows["strategy_return"], net, rtol=0, atol=1e-15)
    if got["sharpe"] is None:
        assert net.std() == 0
    else:
        assert done.document.periods_per_year == 261  # the made-up bars know no holidays
        assert got["sharpe"] == pytest.approx(net.mean() / net.std() * math.sqrt(261))
    wealth = (1 + net).cumprod()
    assert got["max_drawdown"] == pytest.approx(min((wealth / wealth.cummax().clip(lower=1)).min() - 1, 0))


def test_no_label_is_decided_by_a_split(market_db, tmp_path, kind):
    """On adjusted prices the day before a 2:1 split has an ordinary return; with --raw it has about -50 %."""
    options = {"model": kind, "ticker": "AAA", "train_split": 0.7, "no_tune": True}
    adjusted, raw = (run(market_db, tmp_path / name, raw=name == "raw", **options).runs[0] for name in ("adj", "raw"))
    assert recorded(adjusted)["next_return"].abs().max() < 0.2
    worst = recorded(raw)["next_return"].min()
    assert -0.6 < worst < -0.4
    assert saved(raw)["data"]["AAA"]["adjustment"] == "raw"


@pytest.mark.parametrize("factor", [0.5, 0.25])
def test_later_split_changes_no_bit(kind, trained, market_db, tmp_path, factor):
    """Halving the whole adj_close history, as a vendor does after a later split, changes no probability by one bit."""
    db = tmp_path / "halved.db"
    db.write_bytes(market_db.read_bytes())
    with sqlite3.connect(db) as connection:
        connection.execute("UPDATE stock_prices SET adj_close = adj_close * ? WHERE ticker = 'AAA'", (factor,))
    connection.close()
    again = run(db, tmp_path / "out", model=kind, ticker="AAA").runs[0]
    assert task_of(again).digests == task_of(of(trained, "AAA")).digests
    pd.testing.assert_frame_equal(recorded(again), recorded(of(trained, "AAA")), check_exact=True)


def test_other_tickers_and_their_order_do_not_matter(kind, trained, market_db, tmp_path):
    """A ticker alone, or named after another, has the digests and rows that it has among all."""
    alone = run(market_db, tmp_path / "one", model=kind, ticker="BBB").runs
    pair = run(market_db, tmp_path / "two", model=kind, ticker="^GSPC,BBB").runs
    assert [item.label for item in pair] == ["BBB", "^GSPC"]
    for item in (*alone, pair[0]):
        assert task_of(item).digests == task_of(of(trained, "BBB")).digests
        pd.testing.assert_frame_equal(recorded(item), recorded(of(trained, "BBB")), check_exact=True)


def test_days_after_every_tickers_last_training_day(trained, market_bars):
    """Beside the figures stand those of the test days that no ticker of the run trained or validated on."""
    last = max(
        frame.index[60 + int((len(frame) - 60) * 0.8) - 1] for name, frame in market_bars.items() if name != "TINY"
    )
    for name in ("AAA", "^GSPC"):
        done = of(trained, name)
        rows, later = recorded(done), done.document.after_last_training_day
        kept = rows[rows["date"] > last]
        assert later.first == str(kept["date"].min().date())
        assert later.model["n"] == len(kept)
        assert later.model["accuracy"] == pytest.approx(accuracy_score(kept["next_return"] > 0, kept["class"]))


def test_split_by_date_cuts_all_at_one_day(market_db, tmp_path, kind):
    """--split-by date gives every ticker the same first validation and first test day."""
    runs = run(market_db, tmp_path, model=kind, ticker="AAA,^GSPC", split_by="date", no_tune=True).runs
    firsts = {(fold.val_start, fold.test_start) for item in runs for fold in item.document.folds}
    assert len(firsts) == 1
    assert runs[0].document.after_last_training_day.model == runs[0].document.pooled


def test_table_without_adjusted_close_works(market_bars, make_database, tmp_path, kind):
    """Without adj_close quoted prices are used, and the output says so; with NULL in a bar that bar is dropped."""
    db = make_database(tmp_path / "m.db", {"BBB": market_bars["BBB"]})
    with sqlite3.connect(db) as connection:
        connection.execute("UPDATE stock_prices SET adj_close = NULL WHERE date = '2011-03-01'")
    connection.close()
    assert run(db, tmp_path / "a", model=kind, no_tune=True).runs[0].document.data["BBB"].dropped == 1
    with sqlite3.connect(db) as connection:
        connection.execute("ALTER TABLE stock_prices DROP COLUMN adj_close")
    connection.close()
    summary = run(db, tmp_path / "b", model=kind, no_tune=True)
    assert summary.adjustments == {"none": 1}
    assert saved(summary.runs[0])["data"]["BBB"]["adjustment"] == "none"


def test_date_range_keeps_the_price_level(market_db, market_bars, tmp_path):
    """--start and --end cut the bars, both included; adjusted prices still begin at the first stored bar."""
    days = [str(day.date()) for day in market_bars["AAA"].index]
    done = run(market_db, tmp_path, model="rf", ticker="AAA", start=days[100], end=days[600], no_tune=True).runs[0]
    data = done.document.data["AAA"]
    assert (data.bars, data.first, data.last) == (501, days[100], days[600])
    assert recorded(done)["date"].max() == pd.Timestamp(days[599])


def test_nothing_to_train_lists_reasons(market_db, tmp_path):
    """If no ticker is left the error names the reasons, and no file is left behind."""
    with pytest.raises(NothingToTrainError, match=r"nothing to train: EMPTY: no bars; TINY: 90 bars, training needs"):
        run(market_db, tmp_path / "out", model="rf", ticker="TINY,EMPTY")
    assert not list((tmp_path / "out").iterdir())
    with pytest.raises(UnknownTickerError, match=r"BBBB.*nearest: BBB"):
        run(market_db, tmp_path / "out", model="rf", ticker="BBBB")


def test_a_reason_that_tickers_share_is_said_once(market_db, tmp_path):
    """If all models fail for one reason, the error says it once, with the tickers that it concerns."""
    with pytest.raises(NothingToTrainError) as caught:
        run(market_db, tmp_path, model="rf", ticker="BBB,AAA", features=f"{__name__}:raising")
    told = f"your feature function {__name__}:raising raised RuntimeError: my bug"
    assert str(caught.value) == f"{told} (AAA, BBB)"


def raising(_bars):
    """Fail on every ticker."""
    raise RuntimeError("my bug")


def test_unmeant_error_in_one_ticker_costs_that_ticker(market_db, tmp_path, monkeypatch):
    """An error that nobody meant is kept with its traceback, the other tickers have their artifacts."""
    honest = training.run_fold

    def spoiled(task: Any, bars: Any, report: Any) -> Any:
        if task.name == "AAA":
            raise RuntimeError("a bug")
        return honest(task, bars, report)

    monkeypatch.setattr(training, "run_fold", spoiled)
    summary = run(market_db, tmp_path, model="rf", ticker="AAA,BBB", no_tune=True)
    assert [item.label for item in summary.runs] == ["BBB"]
    assert "RuntimeError: a bug" in summary.failed["AAA"]
    assert summary.skipped == {}


def test_full_disk_keeps_whole_runs_only(market_db, tmp_path, tmp_path_factory, monkeypatch):
    """When the second ticker's model cannot be written the first stays whole and nothing of the second is left.

    The error says that its try counts.
    """
    replace = Path.replace

    def refuse(self: Path, to: Path) -> Path:
        if "BBB" in Path(to).name and str(to).endswith("_metadata.json"):
            raise OSError(28, "No space left on device")
        return replace(self, to)

    monkeypatch.setattr(Path, "replace", refuse)
    ledger = tmp_path_factory.mktemp("ledger") / "ledger.db"
    told = r"No space left on device\); nothing of this run was kept; its try is counted in .*ledger\.db; the same"
    with pytest.raises(OutputError, match=told):
        run(market_db, tmp_path, model="rf", ticker="AAA,BBB", no_tune=True, ledger=str(ledger))
    assert {trial.tickers for trial in Ledger(ledger).trials()} == {("AAA",), ("BBB",)}
    names = [path.name for path in tmp_path.iterdir()]
    assert len(names) == 4
    assert all(name.startswith("random_forest_AAA_") for name in names)


def test_features_of_ones_own(market_db, tmp_path, monkeypatch):
    """--features-only trains on the user's columns and says so; a look at the metadata tells which."""
    (tmp_path / "mine_train.py").write_text(
        "def columns(bars):\n    return (bars[['Volume']] / 1000).assign(move=bars['Close'].pct_change())\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    options = {"features": "mine_train:columns", "features_only": True, "ticker": "AAA", "no_tune": True}
    done = run(market_db, tmp_path / "out", model="xgb", **options).runs[0]
    assert done.document.features.columns == ["Volume", "move"]
    assert json.loads(done.sibling(".meta.json").read_text())["feature_columns"] == ["Volume", "move"]
    with pytest.raises(FeatureError, match=r"--features mine_train:nothing: .* has no attribute 'nothing'"):
        run(market_db, tmp_path / "no", model="rf", ticker="AAA", features="mine_train:nothing")


@pytest.fixture(scope="module")
def network(market_db, tmp_path_factory, inline_module) -> Run:
    """`train lstm` over two tickers, one epoch."""
    folder = tmp_path_factory.mktemp("lstm")
    summary = run(market_db, folder, model="lstm", ticker="AAA,BBB,TINY", batch_size=128)
    assert set(summary.skipped) == {"TINY"}
    (done,) = summary.runs
    return done


def test_lstm_files(network):
    """One network for all: `<n>tickers` in the name, model, scalers and metadata."""
    names = sorted(path.name for path in network.files[0].parent.iterdir())
    stem = re.sub(r"\.keras$", "", next(name for name in names if name.endswith(".keras")))
    assert re.fullmatch(f"lstm_2tickers_{STAMP}", stem)
    endings = (".keras", "_metadata.json", "_predictions.parquet", "_scalers.joblib", "_weights.npz")
    assert names == sorted(stem + ending for ending in endings)


def test_lstm_predicts_what_was_recorded(network, market_bars):
    """Plain keras with the saved scalers and TA-Lib gives the predicted closes that were recorded, in quoted prices."""
    keras = pytest.importorskip("keras")
    path = next(path for path in network.files if path.suffix == ".keras")
    model = keras.models.load_model(path)
    scalers = joblib.load(io.BytesIO(next(x for x in network.files if x.suffix == ".joblib").read_bytes()))
    rows = recorded(network)
    for ticker in ("AAA", "BBB"):
        bars, own = market_bars[ticker], rows[rows["ticker"] == ticker]
        features = independent_features(bars)
        scaled = scalers[ticker]["features"].transform(features.fillna(0.0).to_numpy())
        at = bars.index.get_indexer(own["date"])
        windows = np.stack([scaled[row - 7 : row + 1] for row in at])
        price = scalers[ticker]["target"].inverse_transform(model.predict(windows, verbose=0))[:, 0]
        quoted = price * (bars["Close"] / features["Close"]).to_numpy()[at]
        np.testing.assert_allclose(own["predicted_close"], quoted, rtol=1e-4)
        np.testing.assert_array_equal(own["class"], price > features["Close"].to_numpy()[at])
        assert scalers[ticker]["target"].data_min_[0] == pytest.approx(features["Close"].iloc[60:478].min(), rel=1e-14)


def test_lstm_price_errors_stand_beside_persistence(network, market_bars):
    """RMSE in quoted prices per ticker and on average, that of tomorrow = today, and the skill, by plain numpy."""
    rows, price = recorded(network), network.document.price
    rmse = []
    for ticker in ("AAA", "BBB"):
        bars, own = market_bars[ticker], rows[rows["ticker"] == ticker]
        quoted = bars["Close"].loc[own["date"]].to_numpy()
        actual = quoted * (1 + own["next_return"].to_numpy())
        error, naive = (np.mean((x - actual) ** 2) for x in (own["predicted_close"].to_numpy(), quoted))
        got = price.per_ticker[ticker]
        assert got["price_rmse"] == pytest.approx(math.sqrt(error))
        assert got["persistence_rmse"] == pytest.approx(math.sqrt(naive))
        assert got["skill"] == pytest.approx(1 - error / naive)
        rmse.append(math.sqrt(error))
    assert price.mean_price_rmse == pytest.approx(np.mean(rmse))
    assert price.scaled_mse > 0
