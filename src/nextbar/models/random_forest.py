"""Random Forest of one ticker: searched and fitted on train, never on validation."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier
from sklearn.tree._tree import Tree

from nextbar.config import CommonConfig
from nextbar.datasets.assemble import TickerData
from nextbar.models.protocol import FitRequest
from nextbar.models.reproducibility import digest_arrays, digest_text
from nextbar.models.search import Search, choose_params
from nextbar.models.trees import check_tree
from nextbar.types import FeatureTable, FloatArray, IntArray, JsonDict
from nextbar.untrusted import Names, array_of, load_pickle, number_of, number_type, refusing

DRAWS = 20
SPACE: dict[str, list[Any]] = {
    "n_estimators": [100, 200, 300, 500],
    "max_depth": [None, 8, 12, 20, 30],
    "min_samples_split": [2, 5, 10],
    "min_samples_leaf": [1, 2, 4],
    "max_features": ["sqrt", "log2", None],
    "class_weight": [None, "balanced", "balanced_subsample"],
}
INTEL_WEIGHTS = [None, "balanced"]
"""Intel's forest leaves `balanced_subsample`, nearly the same as `balanced`, to a scikit-learn seven times slower."""
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
            "weights": digest_arrays(part for tree in self.estimator.estimators_ for part in _tree_arrays(tree)),
        }

    @property
    def evidence(self) -> dict[str, pd.DataFrame]:
        """Search, parameters and each tree."""
        trees = [digest_arrays(_tree_arrays(tree)) for tree in self.estimator.estimators_]
        return {**self.search.evidence, "training steps": pd.DataFrame({"tree": trees})}

    def predict(self, data: TickerData) -> FloatArray:
        """[decisions] probability of UP."""
        return up_probability(self.estimator, data.table.features[data.decisions])

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
        fixed = {"random_state": request.seed, "n_jobs": 1}
        kind = _fast_forest() if request.config.fast else RandomForestClassifier
        space = SPACE
        if kind is not RandomForestClassifier:
            space = {**SPACE, "class_weight": INTEL_WEIGHTS}
        search = choose_params(kind, fixed, train, request, space=space, default=DEFAULT, draws=DRAWS)
        estimator = RandomForestClassifier(**fixed, **search.params).fit(train.X, train.y)
        return FittedForest(estimator=estimator, search=search, columns=data.table.columns)

    def load(self, files: Mapping[str, bytes], columns: Sequence[str], config: CommonConfig) -> SavedForest:
        """The saved forest; see `nextbar.models.protocol.Model`."""
        return SavedForest(load_forest(files[".pkl"], len(columns)))


def _fast_forest() -> type[Any]:
    """Intel's forest where it is installed, to search with; it is never fitted to be saved, its pickle names itself.

    Imported when asked for: it takes three seconds, and most runs do without it.
    """
    found = find_spec("sklearnex") is not None
    forest: type[Any] = import_module("sklearnex.ensemble" if found else "sklearn.ensemble").RandomForestClassifier
    return forest


@dataclass(frozen=True)
class SavedForest:
    """A forest from a file; see `nextbar.models.protocol.Predictor`."""

    estimator: RandomForestClassifier

    def predict(self, table: FeatureTable, rows: IntArray) -> FloatArray:
        """[rows] probability of UP."""
        return up_probability(self.estimator, table.features[rows])


def _tree(columns: int, classes: np.ndarray, outputs: int) -> Tree:
    """Stands for scikit-learn's ``Tree``, which takes the memory that it is told to."""
    if classes.tolist() != [2] or outputs != 1:
        raise ValueError(f"a tree has {classes} classes and {outputs} outputs, expected 2 and 1")
    return Tree(columns, classes, outputs)


NAMES: Names = {
    ("sklearn.ensemble._forest", "RandomForestClassifier"): RandomForestClassifier,
    ("sklearn.tree._classes", "DecisionTreeClassifier"): DecisionTreeClassifier,
    ("sklearn.tree._tree", "Tree"): _tree,
    ("numpy", "dtype"): number_type,
    ("numpy._core.multiarray", "scalar"): number_of,
    ("numpy._core.numeric", "_frombuffer"): array_of,
}
"""All that a saved forest may name, and what is used for it."""


def load_forest(content: bytes, columns: int) -> RandomForestClassifier:
    """A forest of binary trees over so many columns, from a stranger's pickle perhaps; only they are believed.

    Raises:
        ArtifactError: It is damaged or holds something else.
    """
    with refusing("the forest's .pkl"):
        stored = load_pickle(content, NAMES)
        kinds = {type(stored), *(type(member) for member in stored.estimators_)}
        if kinds != {RandomForestClassifier, DecisionTreeClassifier} or list(stored.classes_) != [0, 1]:
            raise ValueError("it is not a forest of binary decision trees")
        forest = _as_fitted(RandomForestClassifier(n_jobs=1), columns)
        forest.estimators_ = [_member(member.tree_, columns) for member in stored.estimators_]
        up_probability(forest, np.zeros((1, columns)))
        return forest


def _member(tree: Tree, columns: int) -> DecisionTreeClassifier:
    """A fresh member of a forest, of which the tree alone comes from the file."""
    if type(tree) is not Tree or tree.n_features != columns:
        raise ValueError(f"a tree is not one of {columns} columns")
    check_tree(tree.children_left, tree.children_right, tree.feature, columns)
    member = _as_fitted(DecisionTreeClassifier(), columns)
    member.tree_ = tree
    return member


def _as_fitted(estimator: Any, columns: int) -> Any:
    """What fitting on two classes would have set, and prediction looks at."""
    vars(estimator).update(classes_=np.array([0, 1]), n_classes_=2, n_outputs_=1, n_features_in_=columns)
    return estimator


def up_probability(estimator: RandomForestClassifier, features: FloatArray) -> FloatArray:
    """[rows] probability of class 1."""
    if not len(features):
        return np.empty(0)  # scikit-learn refuses to predict nothing
    up: FloatArray = estimator.predict_proba(features)[:, list(estimator.classes_).index(1)]
    return up


def _tree_arrays(member: Any) -> list[np.ndarray]:
    """Arrays that define a tree: splits, thresholds and leaf values."""
    tree = member.tree_
    return [tree.feature, tree.threshold, tree.children_left, tree.value]
