"""Random Forest of one ticker, or of all: searched and fitted on train, never on validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd

from nextbar.datasets.samples import Pool, Splits
from nextbar.errors import noun
from nextbar.models.base import FitRequest, Saved
from nextbar.models.reproducibility import digest_arrays
from nextbar.models.tree_model import FittedClassifier, SearchedModel, weights_of
from nextbar.models.weights import WEIGHTS, Arrays, check_lengths, pack_arrays, tree_depths, unpack_arrays
from nextbar.types import FloatArray, IntArray, JsonDict
from nextbar.untrusted import refusing

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.tree import DecisionTreeClassifier
    from sklearn.tree._tree import Tree

PARAMETERS: dict[str, tuple[Any, list[Any]]] = {
    "n_estimators": (200, [100, 200, 300, 500]),
    "max_depth": (8, [None, 8, 12, 20, 30]),
    "min_samples_split": (2, [2, 5, 10]),
    "min_samples_leaf": (4, [1, 2, 4]),
    "max_features": ("sqrt", ["sqrt", "log2", None]),
    "class_weight": ("balanced", [None, "balanced", "balanced_subsample"]),
}
"""Parameter → its value without a search, and the values that a search draws from."""
DEFAULT = {name: value for name, (value, _) in PARAMETERS.items()}
SPACE = {name: values for name, (_, values) in PARAMETERS.items()}
INTEL_WEIGHTS = [None, "balanced"]
"""Intel's forest leaves `balanced_subsample`, nearly the same as `balanced`, to a scikit-learn seven times slower."""
MOST_TREES = 100_000
"""Objects of scikit-learn, which take 2 KB each and more where a tree is a leaf."""
MOST_STEPS = 500_000_000
"""Arithmetic steps that the contributions of a forest may take, about a second: 2 ns each, measured."""
FEWEST_EXPLAINED = 10
"""Rows below which a mean of contributions says too little."""
BLOCK = 2**15
"""Numbers that are computed at once: they fit into a processor's cache."""
LEAF = -2
"""Column of a node that does not split."""
WEIGHED = ("impurity", "weighted_n_node_samples")
NODE_FIELDS = {
    **dict.fromkeys(("left_child", "right_child", "feature"), "<i4"),
    **dict.fromkeys(("threshold", *WEIGHED), "<f8"),
    "n_node_samples": "<i8",
    "missing_go_to_left": "|u1",
}
"""What scikit-learn keeps of a node beside its values, and how a weights file holds it."""
ARRAYS = {
    "classes": ("<i8", 1),
    "starts": ("<i8", 1),
    **{name: (kind, 1) for name, kind in NODE_FIELDS.items()},
    "values": ("<f8", 2),
}


@dataclass(frozen=True, kw_only=True)
class FittedForest(FittedClassifier):
    """A forest of scikit-learn, fitted or loaded."""

    @property
    def weights(self) -> str:
        """sha256 of the trees."""
        return digest_arrays(part for tree in self.estimator.estimators_ for part in _tree_arrays(tree))

    @property
    def explained(self) -> int:
        """Rows that take about a second, by the size of the forest alone; none where they would be too few."""
        fixed, row = 0, 0
        for tree in self._trees:
            leaves, depth, points = int(tree.n_leaves), int(tree.max_depth), _points(tree, len(self.columns))
            fixed += depth * (3 * leaves + 5_000) + 10_000 * (points + 2)  # the paths, and calls of numpy
            row += leaves * len(self.columns) * (points + 2)
        rows = (MOST_STEPS - fixed) // row
        return min(rows, super().explained) if rows >= FEWEST_EXPLAINED else 0

    @np.errstate(all="ignore")  # a file may hold any weights
    def contributions(self, features: FloatArray) -> FloatArray:
        """[rows, columns] SHAP values: what each column adds to the probability of a rise (Lundberg et al. 2020).

        An unknown column is averaged over the training rows of a node ("tree_path_dependent"). No value may be missing.
        """
        up = np.flatnonzero(self.estimator.classes_ == 1)
        rows = np.ascontiguousarray(features.T, dtype=np.float32).astype(np.float64)  # as scikit-learn compares them
        added = np.zeros(rows.shape)
        for tree in self._trees if len(up) else ():
            paths = _leaf_paths(tree.__getstate__()["nodes"], len(rows))
            values = tree.value[paths.leaves, 0, up[0]]
            points = np.polynomial.legendre.leggauss(_points(tree, len(rows)))
            size = max(1, BLOCK // paths.low.size)
            for first in range(0, len(features), size):
                added[:, first : first + size] += _added(paths, values, rows[:, first : first + size], points)
        found: FloatArray = added.T / len(self._trees)
        return found

    @property
    def _trees(self) -> list[Tree]:
        return [member.tree_ for member in self.estimator.estimators_]

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

    def files(self) -> dict[str, bytes]:
        """Return the bare estimator, pickled, for people; and its trees, which nextbar reads."""
        return {**super().files(), WEIGHTS: pack_forest(self.estimator)}


@noun
@dataclass(frozen=True, kw_only=True)
class RandomForest(SearchedModel):
    """A Random Forest per ticker or of all tickers, by scikit-learn.

    Args:
        no_tune: Use stated parameters instead of a search.
        n_iter: Candidates drawn by the search (default: 20).
        cv_splits: Time-series folds inside the search.
        search: ``random`` draws candidates, ``halving`` halves their number as their trees grow.
        fast: A cheaper search, by halving and with Intel's forest where it is installed; the final fit is the same.
        tune: In a walk-forward, search in ``each`` fold, in the ``first`` alone, or in ``none``.
        pooled: One forest over all tickers, split at one date; ``min_samples_leaf`` becomes the same share of the
            dates, as ``min_weight_fraction_leaf``.
        space: Parameter → values to draw from, instead of the built-in space.

    Raises:
        ConfigError: A value is outside its limits.
    """

    kind: ClassVar[str] = "rf"
    trusted: ClassVar[bool] = True
    deterministic: ClassVar[bool] = True
    reads: ClassVar[Sequence[str]] = (WEIGHTS,)
    refits: ClassVar[bool] = True
    defaults: ClassVar[JsonDict] = DEFAULT
    built_in_space: ClassVar[Mapping[str, Sequence[Any]]] = SPACE

    def fit(self, panel: Sequence[Splits], request: FitRequest) -> FittedForest:
        """Search on train, then one forest on train, in one thread: the bits must not depend on the machine."""
        from sklearn.ensemble import RandomForestClassifier as Plain

        from nextbar.models.search import choose_params

        train, _ = self.parts(panel)
        fixed = {"random_state": request.seed, "n_jobs": 1}
        kind = _fast_forest() if self.fast else Plain
        space = self.built_in_space if kind is Plain else {**self.built_in_space, "class_weight": INTEL_WEIGHTS}
        search = choose_params(kind(**fixed), fixed, train, request, model=self, space=space)
        estimator = Plain(**fixed, **search.params).fit(train.X, train.y, sample_weight=weights_of(train))
        return FittedForest(estimator=estimator, search=search, columns=panel[0].table.columns)

    def sized(self, name: str, value: Any, train: Pool) -> tuple[str, Any]:
        """Let a leaf need the share of all weights that it has in a model of one ticker with as many dates."""
        if name != "min_samples_leaf":
            return name, value
        return "min_weight_fraction_leaf", min(value / train.days, 0.5)

    def restore(self, saved: Saved) -> FittedForest:
        """Load a saved forest; see `Model.restore`."""
        with refusing(saved.name + WEIGHTS):
            trees = int(saved.params.get("n_estimators", 100))  # scikit-learn's own where a space has none
            forest = unpack_forest(saved.content(WEIGHTS), len(saved.columns), trees)
        return FittedForest(estimator=forest, columns=tuple(saved.columns))


class _Paths(NamedTuple):
    """The conditions on the way to each leaf of a tree, by column.

    Attributes:
        leaves: [leaves] nodes that do not split.
        low: [columns, leaves] a row that reaches the leaf has a value above this.
        high: [columns, leaves] and a value that is not above this.
        kept: [columns, leaves] product of the shares of training rows that the splits on the column send to the leaf.
    """

    leaves: IntArray
    low: FloatArray
    high: FloatArray
    kept: FloatArray


def _leaf_paths(nodes: np.ndarray, columns: int) -> _Paths:
    """Collect the conditions of all leaves of a tree, from the leaves up to the root."""
    left, right, weight = (nodes[name] for name in ("left_child", "right_child", "weighted_n_node_samples"))
    inner, leaves = np.flatnonzero(left != -1), np.flatnonzero(left == -1)
    parent = np.zeros(len(nodes), np.int64)
    parent[left[inner]] = parent[right[inner]] = inner
    low = np.full((columns, len(leaves)), -np.inf)
    paths = _Paths(leaves, low, -low, np.ones_like(low))
    at, leaf = leaves, np.arange(len(leaves))
    while len(at := at[below := at > 0]):
        leaf, above = leaf[below], parent[at]
        cell, threshold, goes_left = (nodes["feature"][above], leaf), nodes["threshold"][above], left[above] == at
        paths.high[cell] = np.minimum(paths.high[cell], np.where(goes_left, threshold, np.inf))
        paths.low[cell] = np.maximum(paths.low[cell], np.where(goes_left, -np.inf, threshold))
        paths.kept[cell] *= weight[at] / weight[above]
        at = above
    return paths


def _points(tree: Tree, columns: int) -> int:
    """Count the points of the Gauss-Legendre rule that is exact for a product over all columns of a path but one."""
    return max(1, -(-min(int(tree.max_depth), columns) // 2))


def _added(paths: _Paths, values: FloatArray, rows: FloatArray, rule: tuple[FloatArray, FloatArray]) -> FloatArray:
    """[columns, rows] Shapley values of one tree.

    Where some columns are known, a leaf adds to the expected value its own value times a factor per column. The factor
    of a known column is 1 or 0: whether the row meets the conditions. That of an unknown column is ``kept``. The
    Shapley value of a column is the integral over p from 0 to 1 of what knowing it adds, where each other column is
    known with probability p. ``rule`` holds the points and the weights of the integral from -1 to 1.
    """
    x, kept = rows[:, :, None], paths.kept[:, None]
    met = (x > paths.low[:, None]) & (x <= paths.high[:, None])
    products = np.zeros(met.shape)  # of the factors of the other columns, integrated
    for point, weight in zip(*rule, strict=True):
        p = (point + 1) / 2
        factors = (1 - p) * kept + p * met
        products += factors.prod(axis=0) * (weight / 2 * values) / factors
    found: FloatArray = ((met - kept) * products).sum(axis=2)
    return found


def _fast_forest() -> type[Any]:
    """Return Intel's forest where it is installed, for the search alone, because its pickle names its own class."""
    found = find_spec("sklearnex") is not None
    forest: type[Any] = import_module("sklearnex.ensemble" if found else "sklearn.ensemble").RandomForestClassifier
    return forest


def pack_forest(forest: RandomForestClassifier) -> bytes:
    """Return all trees of a forest, one after the other, as plain arrays."""
    trees = [member.tree_ for member in forest.estimators_]
    nodes = np.concatenate([tree.__getstate__()["nodes"] for tree in trees])
    arrays = {name: nodes[name].astype(kind) for name, kind in NODE_FIELDS.items()}
    starts = np.cumsum([0, *(tree.node_count for tree in trees)], dtype=np.int64)
    values = np.concatenate([tree.value[:, 0, :] for tree in trees])
    return pack_arrays({"classes": forest.classes_.astype(np.int64), "starts": starts, **arrays, "values": values})


def unpack_forest(content: bytes, columns: int, trees: int) -> RandomForestClassifier:
    """Read a forest of so many binary trees over so many columns, from a file that may come from anyone."""
    from sklearn.ensemble import RandomForestClassifier

    arrays = unpack_arrays(content, ARRAYS)
    classes, starts, values = arrays["classes"], arrays["starts"], arrays["values"]
    if classes[:3].tolist() not in ([0], [1], [0, 1]) or values.shape[1] != len(classes):
        raise ValueError(f"expected the classes 0 and 1, found {classes[:4].tolist()}, {values.shape[1]} values a node")
    if len(starts) != trees + 1 or trees > MOST_TREES:
        raise ValueError(f"expected {min(trees, MOST_TREES)} trees, found {len(starts) - 1}")
    check_lengths(arrays, len(values), [*NODE_FIELDS, "values"])
    depths = tree_depths(arrays["left_child"], arrays["right_child"], starts)
    _check_nodes(arrays, columns)
    nodes = np.zeros(len(values), _empty_tree(columns, classes).__getstate__()["nodes"].dtype)
    for name in NODE_FIELDS:
        nodes[name] = arrays[name]
    forest = _as_fitted(RandomForestClassifier(n_estimators=trees, n_jobs=1), columns, classes)
    states = (
        {"max_depth": depth, "node_count": end - first, "nodes": nodes[first:end], "values": values[first:end, None, :]}
        for first, end, depth in zip(starts[:-1].tolist(), starts[1:].tolist(), depths.tolist(), strict=True)
    )
    forest.estimators_ = [_member(state, columns, classes) for state in states]
    return forest


def _check_nodes(arrays: Arrays, columns: int) -> None:
    """Refuse splits on unknown columns and numbers that no tree has."""
    leaf, feature, values = arrays["left_child"] == -1, arrays["feature"], arrays["values"]
    if ((feature < 0) | (feature >= columns))[~leaf].any() or (feature[leaf] != LEAF).any():
        raise ValueError("a tree splits on a column that does not exist")
    # A threshold is infinite where a split takes missing values alone to one side.
    if np.isnan(arrays["threshold"]).any() or not all(np.isfinite(arrays[name]).all() for name in WEIGHED):
        raise ValueError("a tree holds a number that is not finite")
    if not ((values >= 0) & (values <= 1 + 1e-9)).all() or (arrays["missing_go_to_left"] > 1).any():
        raise ValueError("a node of a tree has a probability outside 0 and 1")


def _empty_tree(columns: int, classes: np.ndarray) -> Tree:
    """Make an empty tree of scikit-learn."""
    from sklearn.tree._tree import Tree

    return Tree(columns, np.array([len(classes)], np.intp), 1)


def _member(state: JsonDict, columns: int, classes: np.ndarray) -> DecisionTreeClassifier:
    """Make a member of a forest from the state of its tree, which was checked."""
    from sklearn.tree import DecisionTreeClassifier

    member = _as_fitted(DecisionTreeClassifier(), columns, np.arange(len(classes)))
    member.tree_ = _empty_tree(columns, classes)
    member.tree_.__setstate__(state)
    return member


def _as_fitted(estimator: Any, columns: int, classes: np.ndarray) -> Any:
    """Set what fitting would have set and prediction looks at."""
    vars(estimator).update(classes_=classes, n_classes_=len(classes), n_outputs_=1, n_features_in_=columns)
    return estimator


def _tree_arrays(member: Any) -> list[np.ndarray]:
    """Arrays that define a tree: splits, thresholds and leaf values."""
    tree = member.tree_
    return [tree.feature, tree.threshold, tree.children_left, tree.value]
