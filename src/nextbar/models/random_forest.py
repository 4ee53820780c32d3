"""Random Forest of one ticker: searched and fitted on train, never on validation."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestClassifier

from nextbar.datasets.assemble import TickerData
from nextbar.models.protocol import FitRequest
from nextbar.models.reproducibility import digest_arrays, digest_text
from nextbar.models.search import Search, choose_params
from nextbar.types import FloatArray, JsonDict

DRAWS = 20
SPACE: dict[str, list[Any]] = {
    "n_estimators": [100, 200, 300, 500],
    "max_depth": [None, 8, 12, 20, 30],
    "min_samples_split": [2, 5, 10],
    "min_samples_leaf": [1, 2, 4],
    "max_features": ["sqrt", "log2", None],
    "class_weight": [None, "balanced", "balanced_subsample"],
}
DEFAULT: JsonDict = {
    "n_estimators": 200,
    "max_depth": 8,
    "min_samples_split": 2,
    "min_samples_leaf": 4,
    "max_features": "sqrt",
    "class_weight": "balanced",
}


@dataclass(frozen=True, kw_only=True)
class FittedForest:
    """A fitted forest; see `nextbar.models.protocol.Fitted`."""

    estimator: RandomForestClassifier
    search: Search
    columns: tuple[str, ...]

    @property
    def params(self) -> Mapping[str, Any]:
        """Parameters of the forest."""
        return self.search.params

    @property
    def facts(self) -> JsonDict:
        """Search, parameters and impurity importance."""
        importance = map(float, self.estimator.feature_importances_)
        return {"search": self.search.to_json(), "importance": dict(zip(self.columns, importance, strict=True))}

    @property
    def digests(self) -> dict[str, str]:
        """sha256 of the search, the parameters and the trees."""
        return {
            "search": digest_text(json.dumps(self.search.table)),
            "params": digest_text(json.dumps(self.search.params, sort_keys=True)),
            "weights": digest_arrays(_tree_arrays(self.estimator)),
        }

    def predict(self, data: TickerData) -> FloatArray:
        """[test samples] probability of UP."""
        return up_probability(self.estimator, data.splits.test.X)

    def validate(self, data: TickerData) -> FloatArray:
        """[validation samples] probability of UP."""
        return up_probability(self.estimator, data.splits.val.X)

    def files(self) -> dict[str, bytes]:
        """The bare scikit-learn estimator, pickled."""
        return {".pkl": pickle.dumps(self.estimator, protocol=5)}


class RandomForest:
    """The kind `rf`; see `nextbar.models.protocol.Model`."""

    kind, per_ticker, predicts = "rf", True, "probability"

    def fit(self, panel: Sequence[TickerData], request: FitRequest) -> FittedForest:
        """Search on train, then one forest on train, in one thread: the bits must not depend on the machine."""
        (data,) = panel
        train = data.splits.train
        base = RandomForestClassifier(random_state=request.seed, n_jobs=1)
        search = choose_params(base, train, request, space=SPACE, default=DEFAULT, draws=DRAWS)
        estimator = RandomForestClassifier(random_state=request.seed, n_jobs=1, **search.params).fit(train.X, train.y)
        return FittedForest(estimator=estimator, search=search, columns=data.table.columns)


def up_probability(estimator: RandomForestClassifier, features: FloatArray) -> FloatArray:
    """[rows] probability of class 1."""
    up: FloatArray = estimator.predict_proba(features)[:, list(estimator.classes_).index(1)]
    return up


def _tree_arrays(forest: RandomForestClassifier) -> list[np.ndarray]:
    """Arrays that define the trees: splits, thresholds and leaf values."""
    trees = [member.tree_ for member in forest.estimators_]
    return [part for tree in trees for part in (tree.feature, tree.threshold, tree.children_left, tree.value)]
