"""Random Forest of one ticker: searched and fitted on train, never on validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from nextbar.datasets.samples import Splits
from nextbar.models.base import FitRequest
from nextbar.models.reproducibility import digest_arrays
from nextbar.models.tree_model import FittedClassifier, SearchedModel, check_tree
from nextbar.types import JsonDict
from nextbar.untrusted import Names, array_of, load_pickle, number_of, number_type, refusing

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.tree import DecisionTreeClassifier
    from sklearn.tree._tree import Tree

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
class FittedForest(FittedClassifier):
    """A forest of scikit-learn, fitted or loaded."""

    @property
    def weights(self) -> str:
        """sha256 of the trees."""
        return digest_arrays(part for tree in self.estimator.estimators_ for part in _tree_arrays(tree))

    @property
    def facts(self) -> JsonDict:
        """Search, parameters and impurity importance."""
        importance = map(float, self.estimator.feature_importances_)
        return {**super().facts, "importance": dict(zip(self.columns, importance, strict=True))}

    @property
    def evidence(self) -> dict[str, pd.DataFrame]:
        """Search, parameters and each tree."""
        trees = [digest_arrays(_tree_arrays(tree)) for tree in self.estimator.estimators_]
        return {**super().evidence, "training steps": pd.DataFrame({"tree": trees})}


@dataclass(frozen=True, kw_only=True)
class RandomForest(SearchedModel):
    """A Random Forest per ticker, by scikit-learn.

    Args:
        no_tune: Use stated parameters instead of a search.
        n_iter: Candidates drawn by the search (default: 20).
        cv_splits: Time-series folds inside the search.
        search: ``random`` draws candidates, ``halving`` halves their number as their trees grow.
        fast: A cheaper search, by halving and with Intel's forest where it is installed; the final fit is the same.
        tune: In a walk-forward, search in ``each`` fold, in the ``first`` alone, or in ``none``.
        space: Parameter → values to draw from, instead of the built-in space.

    Raises:
        ConfigError: A value is outside its limits.
    """

    kind: ClassVar[str] = "rf"
    trusted: ClassVar[bool] = True
    defaults: ClassVar[JsonDict] = DEFAULT
    built_in_space: ClassVar[Mapping[str, Sequence[Any]]] = SPACE

    def fit(self, panel: Sequence[Splits], request: FitRequest) -> FittedForest:
        """Search on train, then one forest on train, in one thread: the bits must not depend on the machine."""
        from sklearn.ensemble import RandomForestClassifier as Plain

        from nextbar.models.search import choose_params

        (data,) = panel
        train = data.train
        fixed = {"random_state": request.seed, "n_jobs": 1}
        kind = _fast_forest() if self.fast else Plain
        space = self.built_in_space if kind is Plain else {**self.built_in_space, "class_weight": INTEL_WEIGHTS}
        search = choose_params(kind(**fixed), fixed, train, request, model=self, space=space)
        estimator = Plain(**fixed, **search.params).fit(train.X, train.y)
        return FittedForest(estimator=estimator, search=search, columns=data.table.columns)

    def load(self, files: Mapping[str, bytes], columns: Sequence[str]) -> FittedForest:
        """Load a saved forest; see `Model.load`."""
        return FittedForest(estimator=load_forest(files[".pkl"], len(columns)), columns=tuple(columns))


def _fast_forest() -> type[Any]:
    """Return Intel's forest where it is installed, for the search alone, because its pickle names its own class."""
    found = find_spec("sklearnex") is not None
    forest: type[Any] = import_module("sklearnex.ensemble" if found else "sklearn.ensemble").RandomForestClassifier
    return forest


def _tree(columns: int, classes: np.ndarray, outputs: int) -> Tree:
    """Replace scikit-learn's ``Tree``, which allocates what a file asks for."""
    from sklearn.tree._tree import Tree

    if classes.tolist() != [2] or outputs != 1:
        raise ValueError(f"a tree has {classes} classes and {outputs} outputs, expected 2 and 1")
    return Tree(columns, classes, outputs)


def _names() -> Names:
    """All that a saved forest may name, and what is used for it."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.tree import DecisionTreeClassifier

    return {
        ("sklearn.ensemble._forest", "RandomForestClassifier"): RandomForestClassifier,
        ("sklearn.tree._classes", "DecisionTreeClassifier"): DecisionTreeClassifier,
        ("sklearn.tree._tree", "Tree"): _tree,
        ("numpy", "dtype"): number_type,
        ("numpy._core.multiarray", "scalar"): number_of,
        ("numpy._core.numeric", "_frombuffer"): array_of,
    }


def load_forest(content: bytes, columns: int) -> RandomForestClassifier:
    """Load a forest of binary trees over so many columns from a pickle that may come from anyone."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.tree import DecisionTreeClassifier

    with refusing("the forest's .pkl"):
        stored = load_pickle(content, _names())
        kinds = {type(stored), *(type(member) for member in stored.estimators_)}
        if kinds != {RandomForestClassifier, DecisionTreeClassifier} or list(stored.classes_) != [0, 1]:
            raise ValueError("it is not a forest of binary decision trees")
        forest = _as_fitted(RandomForestClassifier(n_jobs=1), columns)
        forest.estimators_ = [_member(member.tree_, columns) for member in stored.estimators_]
        forest.predict_proba(np.zeros((1, columns)))
        return forest


def _member(tree: Tree, columns: int) -> DecisionTreeClassifier:
    """A fresh member of a forest, of which the tree alone comes from the file."""
    from sklearn.tree import DecisionTreeClassifier
    from sklearn.tree._tree import Tree

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


def _tree_arrays(member: Any) -> list[np.ndarray]:
    """Arrays that define a tree: splits, thresholds and leaf values."""
    tree = member.tree_
    return [tree.feature, tree.threshold, tree.children_left, tree.value]
