"""The two kinds of trees: what they search on, what they are fitted on, and what their files hold."""

from __future__ import annotations

import io
import json
import pickle
from dataclasses import replace
from itertools import combinations
from math import comb
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


def explained(fitted: Any, data: Splits) -> np.ndarray:
    """The rows that are explained: evenly spaced over validation and test."""
    rows = np.concatenate([data.val.X, data.test.X])
    return rows[np.unique(np.linspace(0, len(rows) - 1, fitted.explained).astype(int))]


def test_contributions_of_boosted_trees_add_up_to_the_log_odds(data):
    """SHAP values of a row and the base sum to its log odds; the mean over days after train names every column."""
    fitted = model_of("xgb", CONFIG).fit([data], request())
    parts, chance = fitted.contributions(data.test.X), fitted.up_probability(data.test.X)
    base = np.log(chance / (1 - chance)) - parts.sum(axis=1)
    np.testing.assert_allclose(base, base[0], atol=1e-4)
    expected = np.abs(fitted.contributions(explained(fitted, data))).mean(axis=0)
    means = dict(zip(data.table.columns, expected, strict=True))
    assert mean_contributions(fitted, [data]) == pytest.approx(means, rel=1e-5)


def test_a_last_window_without_a_day_has_contributions(data):
    """They are those of validation then."""
    fitted = model_of("xgb", CONFIG).fit([data], request())
    nothing = replace(data, test=replace(data.test, **{name: part[:0] for name, part in vars(data.test).items()}))
    assert len(nothing.test.X) == 0
    expected = np.abs(fitted.contributions(explained(fitted, nothing))).mean(axis=0)
    assert list(mean_contributions(fitted, [nothing]).values()) == pytest.approx(list(expected), rel=1e-5)


def forest_of(X: np.ndarray, y: np.ndarray, **params: Any) -> random_forest.FittedForest:
    """A small fitted forest over some columns."""
    estimator = RandomForestClassifier(**{"n_estimators": 7, "random_state": 3, **params}).fit(X, y)
    return random_forest.FittedForest(estimator=estimator, columns=tuple(map(str, range(X.shape[1]))))


@pytest.mark.parametrize(
    "params",
    [{}, {"max_features": None, "class_weight": "balanced"}, {"max_depth": 1}, {"class_weight": "balanced_subsample"}],
    ids=["deep", "balanced", "stumps", "subsample"],
)
def test_contributions_of_a_forest_add_up_to_the_probability(data, params):
    """With the mean over training rows, on every row, also where a value is a threshold; loaded, they keep their bits.

    The mean over test days names every column.
    """
    fitted = forest_of(data.train.X, data.train.y, **params)
    trees = [member.tree_ for member in fitted.estimator.estimators_]
    base = np.mean([tree.value[0, 0, 1] for tree in trees])
    thresholds = np.concatenate([tree.threshold[tree.feature >= 0] for tree in trees])
    on_thresholds = np.random.default_rng(0).choice(thresholds, (200, data.test.X.shape[1]))
    for rows in (data.train.X, data.test.X, on_thresholds):
        parts = fitted.contributions(rows)
        np.testing.assert_allclose(base + parts.sum(axis=1), fitted.up_probability(rows), rtol=0, atol=1e-12)
    loaded = random_forest.unpack_forest(random_forest.pack_forest(fitted.estimator), len(fitted.columns), len(trees))
    again = replace(fitted, estimator=loaded)
    assert again.contributions(data.test.X).tobytes() == fitted.contributions(data.test.X).tobytes()
    means = mean_contributions(again, [data])
    expected = np.abs(fitted.contributions(explained(fitted, data))).mean(axis=0)
    assert means == pytest.approx(dict(zip(data.table.columns, expected, strict=True)), rel=1e-12)


def known_mean(tree: Any, row: np.ndarray, known: set[int], node: int = 0) -> float:
    """What a tree expects where some columns are known: other splits give the mean of both sides by their weights."""
    children, column = (tree.children_left[node], tree.children_right[node]), tree.feature[node]
    if children[0] < 0:
        return float(tree.value[node, 0, 1])
    if column in known:
        return known_mean(tree, row, known, children[int(np.float32(row[column]) > tree.threshold[node])])
    shares = [tree.weighted_n_node_samples[child] / tree.weighted_n_node_samples[node] for child in children]
    return sum(share * known_mean(tree, row, known, child) for share, child in zip(shares, children, strict=True))


@pytest.mark.parametrize("columns", [3, 4])
def test_contributions_of_a_forest_are_shapley_values(columns):
    """They are the mean gain of a column over all orders in which columns become known, from every subset."""
    rng = np.random.default_rng(columns)
    X = rng.normal(size=(150, columns))
    y = (X[:, 0] * X[:, 1] + rng.normal(size=150) > 0.3).astype(np.int64)
    fitted, rows = forest_of(X, y, class_weight="balanced", max_depth=7), rng.normal(size=(12, columns))
    for row, parts in zip(rows, fitted.contributions(rows), strict=True):
        mean = {
            known: np.mean([known_mean(member.tree_, row, set(known)) for member in fitted.estimator.estimators_])
            for size in range(columns + 1)
            for known in combinations(range(columns), size)
        }
        for column in range(columns):
            expected = sum(
                (mean[tuple(sorted((*known, column)))] - before) / (columns * comb(columns - 1, len(known)))
                for known, before in mean.items()
                if column not in known
            )
            assert parts[column] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("only", [0, 1])
def test_columns_of_a_forest_of_one_class_add_nothing(only, data):
    """Where train never rose, or always, every contribution is 0."""
    fitted = forest_of(data.train.X, np.full(len(data.train.y), only))
    assert set(mean_contributions(fitted, [data]).values()) == {0.0}


def test_fewer_rows_of_a_large_forest_are_explained(data):
    """The rows depend on the size of the forest alone; where they would be too few there are no contributions."""
    fitted = forest_of(data.train.X, data.train.y)
    trees, rows = fitted.estimator.estimators_, []
    for times in range(1, 1_000, 20):
        fitted.estimator.estimators_ = trees * times
        rows.append(fitted.explained)
    assert rows == sorted(rows, reverse=True)
    assert (rows[0], rows[-1]) == (250, 0)
    some = {number for number in rows if 0 < number < 250}
    assert len(some) > 10
    assert min(some) >= random_forest.FEWEST_EXPLAINED
    assert mean_contributions(fitted, [data]) is None


def test_a_file_without_weights_of_nodes_has_no_contributions(data):
    """Shares that are no number are recorded nowhere, and nothing warns."""
    fitted = forest_of(data.train.X, data.train.y)
    arrays = random_forest.unpack_arrays(random_forest.pack_forest(fitted.estimator), random_forest.ARRAYS)
    arrays["weighted_n_node_samples"] = np.zeros_like(arrays["weighted_n_node_samples"])
    loaded = random_forest.unpack_forest(random_forest.pack_arrays(arrays), len(fitted.columns), 7)
    assert mean_contributions(replace(fitted, estimator=loaded), [data]) is None


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
