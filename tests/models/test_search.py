"""The search: what a user would write gives the same scores, and its cheaper ways are deterministic and recorded."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import xgboost as xgb
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import RandomizedSearchCV, TimeSeriesSplit

from nextbar.config import TrainConfig
from nextbar.datasets.processor import StockDataProcessor
from nextbar.datasets.samples import Splits
from nextbar.datasets.splits import fraction_border
from nextbar.errors import ConfigError
from nextbar.execution.engine import Engine
from nextbar.models import random_forest, xgboost
from nextbar.models.base import FitRequest, Fitted
from nextbar.models.registry import model_of

CONFIG = TrainConfig(n_iter=4, cv_splits=2, warmup=60)


class IntelForest(RandomForestClassifier):
    """Stands for scikit-learn-intelex."""


@pytest.fixture(scope="module")
def data(make_bars) -> Splits:
    """One ticker, 400 bars, ready for a model."""
    frame = make_bars(400).drop(columns="Adj")
    border = fraction_border(np.arange(len(frame)) >= 60, train_split=0.8, val_split=0.2)
    return StockDataProcessor(CONFIG).prepare_for_classification_splits(frame, ticker="T", border=border)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Few trees, so that the tests are quick."""
    monkeypatch.setitem(random_forest.SPACE, "n_estimators", [10, 30])
    monkeypatch.setitem(xgboost.SPACE, "n_estimators", [10, 30])


def fit(kind: str, data: Splits, *, n_jobs: int = 1, seed: int = 7, **options: Any) -> Fitted:
    config = replace(CONFIG, **options)
    request = FitRequest(seed=seed, params=None, search=True, report=lambda _line: None, n_jobs=n_jobs)
    return model_of(kind, config).fit([data], request)


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize("kind", ["rf", "xgb"])
def test_scores_are_those_of_a_plain_random_search(kind, n_jobs, data):
    """Candidates, scores of each fold and the choice are RandomizedSearchCV's to the last bit, on one core or two."""
    plain: Any = (
        RandomForestClassifier(random_state=7, n_jobs=1)
        if kind == "rf"
        else xgb.XGBClassifier(random_state=7, n_jobs=1, tree_method="hist")
    )
    space = (random_forest if kind == "rf" else xgboost).SPACE
    train = data.train
    theirs = RandomizedSearchCV(
        plain, space, n_iter=4, scoring="balanced_accuracy", cv=TimeSeriesSplit(2, gap=1), random_state=7, n_jobs=-1
    ).fit(train.X, train.y)
    ours = fit(kind, data, n_jobs=n_jobs)
    table = ours.facts["search"]["candidates"]
    assert [row["params"] for row in table] == theirs.cv_results_["params"]
    for i in range(2):
        assert [row["scores"][i] for row in table] == theirs.cv_results_[f"split{i}_test_score"].tolist()
    assert [row["mean"] for row in table] == theirs.cv_results_["mean_test_score"].tolist()
    assert ours.params == theirs.best_params_


@pytest.mark.parametrize("kind", ["rf", "xgb"])
def test_halving_keeps_the_best_third(kind, data):
    """Each round has three times the trees and the best third of the last; the winner of the last round is used."""
    fitted = fit(kind, data, search="halving", n_iter=9)
    table = fitted.facts["search"]["candidates"]
    rounds = [[row for row in table if row["params"]["n_estimators"] == trees] for trees in (3, 9, 27)]
    assert [len(part) for part in rounds] == [9, 3, 1]
    assert len(table) == 13
    for before, after in pairwise(rounds):
        kept = sorted(row["mean"] for row in before)[-len(after) :]
        matching = [
            row["mean"]
            for row in before
            if any({**row["params"], "n_estimators": 0} == {**x["params"], "n_estimators": 0} for x in after)
        ]
        assert sorted(matching) == kept
    (winner,) = rounds[-1]
    assert fitted.params == winner["params"]
    assert (winner["rank"], fitted.facts["search"]["method"]) == (1, "halving")


@pytest.mark.parametrize("kind", ["rf", "xgb"])
def test_same_seed_same_choice(kind, data):
    """With --fast, two fits of one seed agree in every digest, whatever the n_jobs; another seed draws others."""
    one, two, other = (
        fit(kind, data, fast=True, n_jobs=n_jobs, seed=seed) for n_jobs, seed in ((1, 7), (2, 7), (1, 8))
    )
    assert one.digests == two.digests
    assert one.facts["search"] == two.facts["search"]
    assert one.digests["search"] != other.digests["search"]


def test_fast_xgboost_is_recorded(data):
    """The search has fewer bins and says so; the final fit, with the parameters it chose, is as without --fast."""
    fitted = fit("xgb", data, fast=True)
    assert fitted.facts["search"]["method"] == "halving"
    assert fitted.facts["search"]["fixed"] == {"random_state": 7, "n_jobs": 1, "tree_method": "hist", "max_bin": 64}
    request = FitRequest(seed=7, params=fitted.params, search=False, report=lambda _line: None)
    assert model_of("xgb", CONFIG).fit([data], request).digests["weights"] == fitted.digests["weights"]
    assert json.loads(json.dumps(fitted.facts["search"])) == fitted.facts["search"]


def test_fast_forest_is_saved_as_scikit_learn(data, monkeypatch):
    """Intel's forest searches and is named in the metadata; the artifact holds plain scikit-learn alone."""
    monkeypatch.setattr(random_forest, "_fast_forest", lambda: IntelForest)
    fitted = fit("rf", data, fast=True)
    search = fitted.facts["search"]
    assert search["estimator"].endswith("test_search.IntelForest")
    # What Intel's forest would hand back to scikit-learn is not drawn, and the metadata says what was.
    space = {name: values for name, values in random_forest.SPACE.items() if name != "n_estimators"}
    assert search["space"] == {**space, "class_weight": [None, "balanced"]}
    assert {row["params"]["class_weight"] for row in search["candidates"]} <= {None, "balanced"}
    content = fitted.files()[".pkl"]
    assert b"IntelForest" not in content
    saved = pickle.loads(content)
    assert type(saved) is RandomForestClassifier
    np.testing.assert_array_equal(saved.predict_proba(data.test.X)[:, 1], fitted.predict(data.table, data.decisions))


@pytest.mark.parametrize(
    ("options", "method"),
    [
        ({}, "random"),
        ({"fast": True}, "halving"),
        ({"search": "halving"}, "halving"),
        ({"search": "random", "fast": True}, "random"),
    ],
)
def test_method(options, method):
    """A method that is named wins over --fast; without either the search is random."""
    assert TrainConfig(**options).search_method == method


def test_unknown_method_is_refused():
    """Another method is an error that names the known ones."""
    with pytest.raises(ConfigError, match=r"--search expects one of random, halving, got 'grid'"):
        TrainConfig(search="grid")


@pytest.mark.parametrize(
    ("name", "jobs", "threads", "tasks", "n_jobs"),
    [("loky", 8, 1, 1, 8), ("loky", 8, 1, 3, 2), ("loky", 2, 1, 40, 1), ("loky", 8, 8, 1, 1), ("serial", 8, 1, 1, 1)],
)
def test_idle_cores_go_to_the_search(name, jobs, threads, tasks, n_jobs):
    """With fewer tasks than processes, each search gets its share of the idle ones; serial stays on one core."""
    assert Engine(name=name, jobs=jobs, threads=threads).n_jobs(tasks) == n_jobs
