"""The two kinds of trees: what they search on, what they are fitted on, and what their files hold."""

from __future__ import annotations

import io
import json
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import xgboost as xgb
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import balanced_accuracy_score

from nextbar.config import TrainConfig
from nextbar.datasets.processor import StockDataProcessor
from nextbar.datasets.samples import Splits
from nextbar.datasets.splits import fraction_border
from nextbar.errors import NotEnoughHistoryError
from nextbar.evaluation.diagnostics import mean_contributions
from nextbar.models import random_forest, xgboost
from nextbar.models.base import FitRequest
from nextbar.models.registry import model_of

CONFIG = TrainConfig(n_iter=2, cv_splits=2, warmup=60)
SMALL = {"n_estimators": 12, "max_depth": 3}


@pytest.fixture(scope="module")
def data(make_bars) -> Splits:
    """One ticker, 400 bars, ready for a model."""
    frame = make_bars(400).drop(columns="Adj")
    border = fraction_border(np.arange(len(frame)) >= 60, train_split=0.8, val_split=0.2)
    return StockDataProcessor(CONFIG).prepare_for_classification_splits(frame, ticker="T", border=border)


def request(**changes: Any) -> FitRequest:
    base = FitRequest(seed=7, params=SMALL, search=True, report=lambda _line: None)
    return replace(base, **changes)


@pytest.mark.parametrize("kind", ["rf", "xgb"])
def test_search_by_hand(kind, data, monkeypatch):
    """Each candidate's scores are balanced accuracies on later folds, one day after the rows it was fitted on."""
    monkeypatch.setitem((random_forest if kind == "rf" else xgboost).SPACE, "n_estimators", [20])
    fitted = model_of(kind, CONFIG).fit([data], request(params=None))
    table, train = fitted.facts["search"]["candidates"], data.train
    assert len(table) == 2
    size = len(train.y) // 3
    starts = [len(train.y) - 2 * size, len(train.y) - size]
    estimator: Any = RandomForestClassifier if kind == "rf" else xgb.XGBClassifier
    fixed = {"random_state": 7, "n_jobs": 1} | ({} if kind == "rf" else {"tree_method": "hist"})
    for row in table:
        for start, score in zip(starts, row["scores"], strict=True):
            model = estimator(**fixed, **row["params"]).fit(train.X[: start - 1], train.y[: start - 1])
            guess = model.predict(train.X[start : start + size])
            assert score == pytest.approx(balanced_accuracy_score(train.y[start : start + size], guess), abs=1e-12)
        assert row["mean"] == pytest.approx(np.mean(row["scores"]))
    best = min(table, key=lambda row: row["rank"])
    assert fitted.params == best["params"]
    assert best["mean"] == max(row["mean"] for row in table)


def test_spaces_are_those_of_the_specification():
    """The default search spaces and numbers of draws are the specification's, value for value."""
    assert random_forest.SPACE == {
        "n_estimators": [100, 200, 300, 500],
        "max_depth": [None, 8, 12, 20, 30],
        "min_samples_split": [2, 5, 10],
        "min_samples_leaf": [1, 2, 4],
        "max_features": ["sqrt", "log2", None],
        "class_weight": [None, "balanced", "balanced_subsample"],
    }
    assert xgboost.SPACE == {
        "learning_rate": [0.01, 0.03, 0.05, 0.1, 0.2],
        "n_estimators": [100, 200, 300, 500],
        "max_depth": [3, 5, 7, 10],
        "min_child_weight": [1, 3, 5, 7],
        "gamma": [0, 0.1, 0.3, 0.5],
        "subsample": [0.6, 0.8, 1.0],
        "colsample_bytree": [0.6, 0.8, 1.0],
        "reg_alpha": [0, 0.01, 0.1, 1],
        "reg_lambda": [1, 2, 5, 10],
        "scale_pos_weight": [1, 1.5, 2],
    }
    draws = random_forest.RandomForest.draws, xgboost.XGBoost.draws
    assert (*draws, xgboost.EARLY_STOPPING_ROUNDS) == (20, 25, 10)
    assert TrainConfig().cv_splits == 5


@pytest.mark.parametrize("kind", ["rf", "xgb"])
def test_parameters_come_from_where_they_should(kind, data, monkeypatch):
    """Given parameters are used as they are, without a search the stated defaults; neither leaves a search table."""
    home: Any = random_forest if kind == "rf" else xgboost
    monkeypatch.setitem(home.DEFAULT, "n_estimators", 5)
    given = model_of(kind, CONFIG).fit([data], request(params=SMALL))
    plain = model_of(kind, CONFIG).fit([data], request(params=None, search=False))
    assert (given.params, plain.params) == (SMALL, home.DEFAULT)
    assert given.facts["search"]["candidates"] == plain.facts["search"]["candidates"] == []


def test_forest_never_sees_validation(data):
    """Other validation rows, other test rows: the same forest, bit for bit."""
    broken = replace(data, val=data.test, test=data.val)
    one, two = (model_of("rf", CONFIG).fit([x], request()) for x in (data, broken))
    assert one.digests == two.digests


def test_xgboost_stops_on_validation(data):
    """Trees end at the lowest validation log loss, ten rounds before the stop; test has no say."""
    fitted = model_of("xgb", CONFIG).fit(
        [data], request(params={"n_estimators": 300, "max_depth": 3, "learning_rate": 0.3})
    )
    history, best = fitted.facts["validation_logloss"], fitted.facts["best_iteration"]
    assert best == int(np.argmin(history))
    assert len(history) == best + 1 + 10 < 300
    booster = xgb.Booster(model_file=bytearray(fitted.files()[".json"]))
    assert booster.num_boosted_rounds() == best + 1
    other = replace(data, test=data.train)
    assert model_of("xgb", CONFIG).fit([other], request(params=fitted.params)).digests == fitted.digests


@pytest.mark.parametrize("kind", ["rf", "xgb"])
def test_importance_names_every_column(kind, data):
    """Importance is a share per feature column, in order, all together 1."""
    importance = model_of(kind, CONFIG).fit([data], request()).facts["importance"]
    assert tuple(importance) == data.table.columns
    assert sum(importance.values()) == pytest.approx(1)
    assert min(importance.values()) >= 0


def test_contributions_add_up_to_the_prediction(data):
    """SHAP values of a row and the base sum to its log odds; the mean over test days names every column."""
    fitted = model_of("xgb", CONFIG).fit([data], request())
    parts, chance = fitted.contributions(data.test.X), fitted.up_probability(data.test.X)
    base = np.log(chance / (1 - chance)) - parts.sum(axis=1)
    np.testing.assert_allclose(base, base[0], atol=1e-4)
    means = mean_contributions(fitted, [data])
    assert means == pytest.approx(dict(zip(data.table.columns, np.abs(parts).mean(axis=0), strict=True)), rel=1e-5)
    assert mean_contributions(model_of("rf", CONFIG).fit([data], request()), [data]) is None


@pytest.mark.parametrize("kind", ["rf", "xgb"])
def test_rows_do_not_depend_on_each_other(kind, data):
    """A row's probability has the same bits alone and among others, and no row at all is no error."""
    fitted = model_of(kind, CONFIG).fit([data], request())
    whole = fitted.predict(data.table, data.decisions)

    for rows in (slice(3, 4), slice(0, 0), slice(5, None)):
        np.testing.assert_array_equal(fitted.predict(data.table, data.decisions[rows]), whole[rows])


def test_files_open_without_nextbar(data):
    """The .pkl is a bare scikit-learn forest, the .json opens with plain xgboost; both give the same probabilities."""
    test = data.test.X
    forest = model_of("rf", CONFIG).fit([data], request())
    bare = pickle.load(io.BytesIO(forest.files()[".pkl"]))
    assert type(bare) is RandomForestClassifier
    np.testing.assert_array_equal(bare.predict_proba(test)[:, 1], forest.predict(data.table, data.decisions))
    boosted = model_of("xgb", CONFIG).fit([data], request())
    plain = xgb.Booster(model_file=bytearray(boosted.files()[".json"]))
    assert plain.feature_names == list(data.table.columns)
    matrix = xgb.DMatrix(test, feature_names=list(data.table.columns))
    np.testing.assert_array_equal(plain.predict(matrix), boosted.predict(data.table, data.decisions).astype(np.float32))
    assert json.loads(boosted.files()[".json"])["learner"]["objective"]["name"] == "binary:logistic"


@pytest.mark.parametrize("kind", ["rf", "xgb"])
@pytest.mark.parametrize(("splits", "rising"), [(150, 0), (200, 0), (5, 60)])
def test_search_without_enough_days_is_a_stated_reason(kind, splits, rising, data):
    """More search folds than days allow, or a first fold in which every day rises, is a reason and not a crash."""
    train = data.train
    y = train.y[:150].copy()
    y[:rising] = 1
    part = replace(train, X=train.X[:150], y=y)
    short = replace(data, train=part)
    config = replace(CONFIG, cv_splits=splits)
    with pytest.raises(NotEnoughHistoryError, match=r"150 days of train are too few.*lower --cv-splits"):
        model_of(kind, config).fit([short], request(params=None))


@pytest.mark.parametrize("kind", ["rf", "xgb"])
def test_seed_decides_the_bits(kind, data):
    """The same seed gives the same weights and predictions, another seed others."""
    params = SMALL if kind == "rf" else {**SMALL, "subsample": 0.6}
    one, two, other = (model_of(kind, CONFIG).fit([data], request(params=params, seed=seed)) for seed in (1, 1, 2))
    assert one.digests == two.digests
    assert one.predict(data.table, data.decisions).tobytes() == two.predict(data.table, data.decisions).tobytes()
    assert one.digests["weights"] != other.digests["weights"]
