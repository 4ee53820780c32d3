"""One model of trees over all tickers: what it is fitted on, its threshold, and that all of the rest works with it."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xgboost as xgb
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import TimeSeriesSplit
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import nextbar as nb
from nextbar.cli.main import main
from nextbar.config import CertifyConfig, TrainConfig, WalkForwardConfig
from nextbar.datasets.processor import StockDataProcessor
from nextbar.datasets.samples import Pool, Samples, Splits, date_weights
from nextbar.datasets.splits import Split, usable_of
from nextbar.errors import ConfigError
from nextbar.features.indicators import days_of
from nextbar.models.base import FitRequest
from nextbar.models.random_forest import RandomForest
from nextbar.models.search import pool_folds
from nextbar.models.tree_model import SearchedModel
from nextbar.models.xgboost import XGBoost
from nextbar.runs.labels import identity_options
from nextbar.scoring.threshold import DEFAULT_GRID, Validation, tune_pooled_threshold, tune_threshold
from nextbar.types import Silent
from nextbar.workflows.certify import certify
from nextbar.workflows.reproduce import reproduce
from nextbar.workflows.walkforward import WalkForwardResult, walk_forward

TREES = {"xgb": XGBoost, "rf": RandomForest}
WINDOWS: dict[str, Any] = {"train_years": 1, "val_months": 3, "test_months": 4, "step_months": 4}
ON: dict[str, Any] = {"ticker": "AAA,BBB,^GSPC", "warmup": 60, "pooled": True}


@pytest.fixture(scope="module")
def panel(market_bars: dict[str, pd.DataFrame]) -> list[Splits]:
    """Three tickers, split at one date, one of which begins later."""
    config = TrainConfig(warmup=60, pooled=True)
    frames = {name: market_bars[name].drop(columns="Adj") for name in ("AAA", "BBB", "^GSPC")}
    days = {name: days_of(frame) for name, frame in frames.items()}
    (fold,) = Split.of(config).folds(days, {name: usable_of(own, config) for name, own in days.items()})
    processor = StockDataProcessor(config)
    return [
        processor.prepare_for_classification_splits(frame, ticker=name, border=fold.borders[name]).before_test
        for name, frame in frames.items()
    ]


def walk(db: Path, folder: Path, *, progress: Any = None, **options: Any) -> WalkForwardResult:
    config: dict[str, Any] = {**WINDOWS, **ON, "model": "xgb", "tune": "none", "db": str(db), **options}
    return walk_forward(WalkForwardConfig(**config, output_dir=str(folder)), progress or Silent())


@pytest.fixture(scope="module")
def frames(market_bars: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Three tickers in the market format."""
    return {name: market_bars[name].rename(columns={"Adj": "Adj Close"}) for name in ("AAA", "BBB", "^GSPC")}


# --- rows, weights and folds ---------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40))
def test_each_date_counts_alike(counts: list[int]) -> None:
    """The rows of a date weigh together what those of another do, but no row more than four of a mean date."""
    dates = np.repeat(np.datetime64("2020-01-01") + np.arange(len(counts)), counts)
    weights = date_weights(dates)
    mean = sum(counts) / len(counts)
    sums = pd.Series(weights).groupby(dates).sum().to_numpy()
    for count, total in zip(counts, sums, strict=True):
        assert total == pytest.approx(mean if mean / count <= 4 else 4 * count)
    assert weights.max() <= 4


def test_rows_stand_by_date_and_ticker(panel: list[Splits]) -> None:
    """Every sample of every ticker is there once, by date; the order in which tickers are given changes nothing."""
    pool, other = (Pool.of([(data.table, data.train) for data in part]) for part in (panel, panel[::-1]))
    assert len(pool.y) == sum(len(data.train.y) for data in panel)
    assert (np.diff(pool.dates).astype(int) >= 0).all()
    assert (pool.ends > pool.dates).all()
    np.testing.assert_array_equal(pool.X, other.X)
    np.testing.assert_array_equal(pool.ends, other.ends)
    last = max(data.table.dates[data.border.val - 1] for data in panel)
    assert pool.ends.max() <= last


@given(starts=st.lists(st.integers(0, 20), min_size=1, max_size=4), splits=st.integers(2, 5), hole=st.integers(0, 9))
def test_no_label_of_a_search_fold_reaches_its_test_days(starts: list[int], splits: int, hole: int) -> None:
    """In each fold all labels of train have ended before the first test day; no date is on both sides, none is lost."""
    day = np.datetime64("2020-01-01") + np.concatenate([np.arange(50), np.arange(50 + hole, 80 + hole)])
    dates = np.concatenate([day[first:-1] for first in starts])
    ends = np.concatenate([day[first + 1 :] for first in starts])
    order = np.argsort(dates, kind="stable")
    nothing = np.zeros(len(dates))
    pool = Pool(
        X=nothing[:, None],
        y=nothing.astype(int),
        dates=dates[order],
        ends=ends[order],
        weights=nothing,
        next_returns=nothing,
    )
    tested = []
    for train, test in pool_folds(pool, splits):
        assert pool.ends[train].max() < pool.dates[test].min()
        tested += np.unique(pool.dates[test]).tolist()
        left_out = np.setdiff1d(np.flatnonzero(pool.dates < pool.dates[test].min()), train)
        assert (pool.ends[left_out] >= pool.dates[test].min()).all()
    assert tested == sorted(set(tested))


def test_folds_of_one_ticker_are_those_of_a_model_of_one_ticker(panel: list[Splits]) -> None:
    """On the rows of one ticker the folds are `TimeSeriesSplit` with a gap of one day."""
    pool = Pool.of([(panel[0].table, panel[0].train)])
    for ours, theirs in zip(pool_folds(pool, 5), TimeSeriesSplit(5, gap=1).split(pool.X), strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])
        np.testing.assert_array_equal(ours[1], theirs[1])


# --- fits ----------------------------------------------------------------------------------------------------------


def test_xgboost_is_fitted_on_the_weighted_rows_of_all(panel: list[Splits]) -> None:
    """The plain library on the same rows and weights gives the same trees, stopped by the weighted validation."""
    late = {item.name: getattr(panel[2].val, item.name)[20:] for item in fields(Samples)}
    panel = [*panel[:2], replace(panel[2], val=Samples(**late))]  # dates of validation with two tickers, and with three
    fitted = XGBoost(pooled=True, no_tune=True).fit(panel, FitRequest(seed=7, search=False))
    train, val = (Pool.of([(data.table, getattr(data, name)) for data in panel]) for name in ("train", "val"))
    assert fitted.params is not None
    assert fitted.params["min_child_weight"] == pytest.approx(5 * len(train.y) / len(np.unique(train.dates)))
    plain = xgb.XGBClassifier(
        random_state=7, n_jobs=1, tree_method="hist", **fitted.params, early_stopping_rounds=10, eval_metric="logloss"
    ).fit(
        train.X,
        train.y,
        sample_weight=train.weights,
        eval_set=[(val.X, val.y)],
        sample_weight_eval_set=[val.weights],
        verbose=False,
    )
    assert fitted.history == [float(loss) for loss in plain.evals_result()["validation_0"]["logloss"]]
    rows = panel[1].val.rows
    np.testing.assert_array_equal(
        fitted.predict(panel[1].table, rows), plain.predict_proba(panel[1].table.features[rows])[:, 1].astype(float)
    )


def test_a_forest_is_fitted_on_the_weighted_rows_of_all(panel: list[Splits]) -> None:
    """The plain library gives the same forest; a leaf needs the same share of the dates as in a model of one ticker."""
    fitted = RandomForest(pooled=True, no_tune=True).fit(panel, FitRequest(seed=7, search=False))
    train = Pool.of([(data.table, data.train) for data in panel])
    assert fitted.params is not None
    assert "min_samples_leaf" not in fitted.params
    assert fitted.params["min_weight_fraction_leaf"] == pytest.approx(4 / len(np.unique(train.dates)))
    plain = RandomForestClassifier(random_state=7, n_jobs=1, **fitted.params)
    plain.fit(train.X, train.y, sample_weight=train.weights)
    features = panel[0].table.features[panel[0].val.rows]
    np.testing.assert_array_equal(fitted.up_probability(features), plain.predict_proba(features)[:, 1])


@pytest.mark.parametrize("method", ["random", "halving"])
@pytest.mark.parametrize("kind", TREES)
def test_a_search_draws_leaves_that_fit_the_rows(kind: str, method: str, panel: list[Splits], inline: Any) -> None:
    """The built-in space is sized to the rows, that of the user is taken as it is; the scores are by weighted fits."""
    model = TREES[kind](pooled=True, search=method, n_iter=3, cv_splits=2)
    fitted = model.fit(panel, FitRequest(seed=7))
    found = fitted.facts["search"]
    train = Pool.of([(data.table, data.train) for data in panel])
    if kind == "xgb":
        assert found["space"]["min_child_weight"] == [size * train.rows_a_day for size in (1, 3, 5, 7)]
    else:
        assert found["space"]["min_weight_fraction_leaf"] == [size / train.days for size in (1, 2, 4)]
    json.dumps(found, allow_nan=False)
    again = model.fit(panel[::-1], FitRequest(seed=7))
    assert again.digests == fitted.digests
    name = "min_child_weight" if kind == "xgb" else "min_samples_leaf"
    own = replace(model, search="random", space={name: [3], "n_estimators": [10]}, n_iter=1)
    assert own.fit(panel, FitRequest(seed=7)).facts["search"]["params"] == {name: 3, "n_estimators": 10}


def test_a_search_scores_fits_on_weighted_rows(panel: list[Splits]) -> None:
    """A candidate's score is that of a fit on the weighted rows of its fold, by hand."""
    space = {"n_estimators": [20], "max_depth": [3]}
    fitted = XGBoost(pooled=True, n_iter=1, cv_splits=2, space=space).fit(panel, FitRequest(seed=7))
    train = Pool.of([(data.table, data.train) for data in panel])
    (row,) = fitted.facts["search"]["candidates"]
    for (fit, test), score in zip(pool_folds(train, 2), row["scores"], strict=True):
        plain = xgb.XGBClassifier(random_state=7, n_jobs=1, tree_method="hist", **row["params"])
        plain.fit(train.X[fit], train.y[fit], sample_weight=train.weights[fit])
        assert score == pytest.approx(balanced_accuracy_score(train.y[test], plain.predict(train.X[test])), abs=1e-12)


# --- the threshold -------------------------------------------------------------------------------------------------


def validation_of(count: int, *, seed: int, first: int = 0) -> Validation:
    """Days of a ticker whose probabilities know a little of its returns."""
    random = np.random.default_rng(seed)
    returns = random.normal(0.0004, 0.01, count)
    probability = np.clip(0.5 + 3 * returns + random.normal(0, 0.08, count), 0, 1)
    dates = np.datetime64("2020-01-01", "D") + (first + np.arange(count)).astype("timedelta64[D]")
    return Validation(dates=dates, probability=probability, next_returns=returns, truth=(returns > 0).astype(int))


@pytest.mark.parametrize("balanced", [False, True])
def test_the_threshold_of_one_ticker_is_that_of_a_model_of_one_ticker(*, balanced: bool) -> None:
    """With a single ticker every score and the choice are those of `tune_threshold`."""
    one = validation_of(300, seed=7)
    ours = tune_pooled_threshold([one], balanced=balanced, cost_bps=5, risk_free=0.02)
    returns = None if balanced else one.next_returns
    theirs = tune_threshold(one.probability, returns, one.truth, cost_bps=5, risk_free=0.02)
    np.testing.assert_allclose(ours.curve.score, theirs.curve.score, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(ours.curve.long_days, theirs.curve.long_days)
    assert (ours.threshold, ours.objective) == (theirs.threshold, theirs.objective)


def test_the_threshold_maximises_the_sharpe_ratio_of_the_portfolio() -> None:
    """Proves each score against a plain pandas portfolio of 1/n of each ticker, whose days need not be the same."""
    tickers = [validation_of(200, seed=1), validation_of(150, seed=2, first=50), validation_of(120, seed=3)]
    found = tune_pooled_threshold(tickers, balanced=False, cost_bps=5)
    for place in (60, 90, 100, 110, 140):
        nets = []
        for one in tickers:
            position = pd.Series(one.probability >= DEFAULT_GRID[place], one.dates).astype(float)
            costs = 5e-4 * position.diff().fillna(position.iloc[0]).abs()
            nets.append(position * one.next_returns - costs)
        daily = pd.concat(nets, axis=1).fillna(0.0).sum(axis=1) / 3
        expected = daily.mean() / daily.std() * np.sqrt(252)
        if np.isfinite(found.curve.score[place]):
            assert found.curve.score[place] == pytest.approx(expected, abs=1e-12)
    assert found.score == np.nanmax(found.curve.score)
    assert np.isfinite(found.curve.score[100])


def test_long_and_flat_days_are_counted_in_dates() -> None:
    """Forty tickers on ten dates are ten days: too few to choose from, although there are 400 rows."""
    tickers = [validation_of(10, seed=seed) for seed in range(40)]
    found = tune_pooled_threshold(tickers, balanced=False, cost_bps=5)
    assert (found.threshold, found.objective) == (0.5, "default")
    assert found.reason == "no candidate has 20 long and 20 flat days among 10 validation days"
    assert found.curve.long_days.max() == 10


# --- runs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TREES)
def test_a_pooled_run_is_saved_loaded_and_made_again(
    kind: str, market_db: Path, tmp_path: Path, frames: dict[str, pd.DataFrame], inline: Any
) -> None:
    """One model of all tickers of the database: one artifact named so, one threshold; loaded, it predicts the rows."""
    label = {"xgb": "xgboost", "rf": "random_forest"}[kind]
    command = ["train", kind, "--pooled", "--no-tune", "--warmup", "60", "--db", str(market_db)]
    with pytest.raises(SystemExit) as stop:
        main([*command, "--save_dir", str(tmp_path)])
    assert not stop.value.code
    (mark,) = tmp_path.glob("*_metadata.json")
    assert mark.name.startswith(f"{label}_all_")
    run = nb.load_run(mark)
    ((_, task),) = run.document.fits
    assert (task.name, sorted(task.splits)) == ("all", ["AAA", "BBB", "^GSPC"])
    assert run.document.config["split_by"] == "date"
    assert len({splits.test.first for splits in task.splits.values()}) == 1
    assert len({choice.threshold for choice in task.threshold.values()}) == 1
    assert [choice.curve is not None for choice in task.threshold.values()] == [True, False, False]
    for ticker in task.splits:
        own = run.rows[run.rows["ticker"] == ticker].set_index("date")["probability"].dropna()
        predicted = run.model(ticker).predict(frames[ticker])["probability"]
        np.testing.assert_array_equal(predicted.reindex(own.index).to_numpy(), own.to_numpy())
    assert nb.reproduce(run, frames).identical
    assert nb.report(run, tmp_path / "page.html").exists()
    assert (tmp_path / f"{run.stem}{'_weights.npz' if kind == 'rf' else '.meta.json'}").exists()


def test_what_is_true_of_the_whole_model_is_said_once(market_db: Path, tmp_path: Path, inline: Any) -> None:
    """Where no threshold can be chosen, one remark says so about all tickers together."""
    document = walk(market_db, tmp_path, val_months=1).document
    folds = len(document.folds)
    told = [line for line in document.remarks if "because none could be chosen" in line]
    assert len(told) == 1
    assert told[0].startswith("all: ")
    assert f"of {folds} folds" in told[0]


@pytest.mark.parametrize("kind", TREES)
def test_a_walk_forward_hands_parameters_on(kind: str, market_db: Path, tmp_path: Path, inline: Any) -> None:
    """With ``--tune first`` the first fold alone searches, and every fold is one fit of all tickers."""
    done = walk(market_db, tmp_path, model=kind, tune="first", n_iter=2, cv_splits=2)
    fits = [task for _, task in done.document.fits]
    assert [task.name for task in fits] == ["all"] * len(fits)
    assert len(fits) > 1
    assert [task.has_searched for task in fits] == [True] + [False] * (len(fits) - 1)
    assert all(task.chosen == fits[0].chosen for task in fits)
    assert done.run.rows["ticker"].nunique() == 3
    assert done.run.mark.name.startswith(f"walkforward_{kind}_3tickers_")


class Stop(Silent):
    """Interrupts a run after its second fit."""

    def __init__(self) -> None:
        self.left = 2

    def advance(self, steps: int, note: str) -> None:
        """Count fits."""
        self.left -= steps
        if self.left <= 0:
            raise KeyboardInterrupt


def test_an_interrupted_walk_forward_goes_on(market_db: Path, tmp_path: Path, inline: Any) -> None:
    """Folds that had ended are not trained again, and the rows are those of a run in one piece."""
    whole = walk(market_db, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        walk(market_db, tmp_path / "parts", progress=Stop())
    resumed = walk(market_db, tmp_path / "parts", resume=True)
    assert resumed.resumed > 0
    pd.testing.assert_frame_equal(resumed.run.rows, whole.run.rows)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", TREES)
def test_a_pooled_run_is_certified(kind: str, market_db: Path, tmp_path: Path, inline: Any) -> None:
    """Changing the future of all tickers moves nothing that a training run with a search has decided before."""
    options: dict[str, Any] = {**ON, "model": kind, "n_iter": 2, "cv_splits": 2}
    (certificate,) = certify(CertifyConfig(**options, db=str(market_db), save_dir=str(tmp_path)), Silent()).certificates
    assert certificate.passed, certificate
    table = certificate.table()
    assert {table[stage]["end of train"] for stage in ("train samples", "search", "training steps")} == {"PASS"}
    assert table["threshold"]["end of validation"] == "PASS"


@pytest.mark.thorough
def test_a_pooled_walk_forward_is_certified_and_made_again(market_db: Path, tmp_path: Path, inline: Any) -> None:
    """The same of a walk-forward, which comes out with the same bits again."""
    mark = walk(market_db, tmp_path).run.mark
    config = CertifyConfig(model="xgb", artifact=str(mark), db=str(market_db))
    (certificate,) = certify(config, Silent()).certificates
    assert certificate.passed, certificate
    assert reproduce(mark, Silent(), db=str(market_db)).identical


@pytest.mark.thorough
def test_a_pool_that_holds_later_rows_is_caught(
    market_db: Path, tmp_path: Path, inline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where rows of validation get among those that are fitted on, the certificate fails at the end of train."""

    def leaking(_model: SearchedModel, panel: list[Splits]) -> tuple[Pool, Pool]:
        parts = [(data.table, part) for data in panel for part in (data.train, data.val)]
        return Pool.of(parts), Pool.of([(data.table, data.val) for data in panel])

    monkeypatch.setattr(SearchedModel, "parts", leaking)
    config = CertifyConfig(**ON, model="xgb", no_tune=True, db=str(market_db), save_dir=str(tmp_path))
    (certificate,) = certify(config, Silent()).certificates
    assert not certificate.passed
    assert certificate.table()["training steps"]["end of train"] == "FAIL"


def test_an_estimator_of_all_tickers(frames: dict[str, pd.DataFrame], inline: Any) -> None:
    """A pipeline is fitted once on the rows of all tickers, its last step with their weights; it is reproduced."""
    pipeline = make_pipeline(StandardScaler(), LogisticRegression())
    space = {"logisticregression__C": [0.01, 1.0]}
    model = nb.Estimator(pipeline, label="logit", pooled=True, space=space, n_iter=2, cv_splits=2)
    run = nb.train(frames, model, warmup=60)
    ((_, task),) = run.document.fits
    assert task.name == "all"
    fitted = run.model("AAA").fitted.estimator
    assert sum(len(run.rows[run.rows["ticker"] == ticker]) > 0 for ticker in frames) == 3
    assert fitted["logisticregression"].coef_.shape == (1, 6)
    assert nb.reproduce(run, frames).identical


# --- options -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["train", "certify"])
def test_splits_by_ticker_are_refused(
    verb: str, market_db: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who types that each ticker is split at its own share is told that a pooled model is not; nothing is written."""
    command = [verb, "xgb", "--pooled", "--split-by", "ticker", "--db", str(market_db)]
    with pytest.raises(SystemExit) as stop:
        main([*command, "--save_dir", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert "got --split-by ticker; leave --split-by out" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["walkforward", "--model", "lstm", "--pooled"], "the LSTM is always one model over all tickers"),
        (["train", "lstm", "--pooled"], "--pooled"),
    ],
    ids=["walkforward", "train"],
)
def test_the_lstm_has_no_such_option(
    command: list[str], told: str, market_db: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is one model of all tickers already: exit code 2, and nothing is written."""
    folder = tmp_path / "out"
    option = "--output-dir" if command[0] == "walkforward" else "--save_dir"
    with pytest.raises(SystemExit) as stop:
        main([*command, "--db", str(market_db), option, str(folder)])
    assert stop.value.code == 2
    assert told in " ".join(capsys.readouterr().err.split())
    assert not folder.exists()


def test_an_estimator_without_weights_is_refused() -> None:
    """Rows must be weighted by date, so a classifier that takes no weights is named, also as the last of a pipeline."""
    for estimator in (KNeighborsClassifier(), make_pipeline(StandardScaler(), KNeighborsClassifier())):
        assert nb.Estimator(estimator).per_ticker
        with pytest.raises(ConfigError, match="fit of KNeighborsClassifier takes no sample_weight"):
            nb.Estimator(estimator, pooled=True)


def test_pooled_means_one_date_and_is_another_trial() -> None:
    """All tickers are split at one date, which the configuration says; without the option nothing counts otherwise."""
    pooled, plain = TrainConfig(model="xgb", pooled=True), TrainConfig(model="xgb")
    assert (pooled.split_by, plain.split_by) == ("date", "ticker")
    assert identity_options(TrainConfig, vars(plain), "xgb") == identity_options(TrainConfig, {}, "xgb")
    assert identity_options(TrainConfig, vars(pooled), "xgb") != identity_options(TrainConfig, vars(plain), "xgb")
    assert TrainConfig(model="xgb", pooled=True, train_end="2014-12-31", val_end="2015-12-31").split_by == "ticker"
    with pytest.raises(ConfigError, match="--pooled expects True or False"):
        TrainConfig(model="xgb", pooled="yes")  # type: ignore[arg-type]
