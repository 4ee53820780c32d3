"""What the models of trees have in common: parameters that are searched for, and checks of trees from a file.

scikit-learn and XGBoost follow a tree in native code and trust every number in it, so trees from a file are
checked first.
"""

from __future__ import annotations

import json
import pickle
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from nextbar.config import SearchOptions
from nextbar.errors import ConfigError
from nextbar.models.base import Fitted, Model
from nextbar.models.reproducibility import digest_text
from nextbar.types import FeatureTable, FloatArray, IntArray, JsonDict

if TYPE_CHECKING:  # it imports scikit-learn
    import pandas as pd

    from nextbar.models.search import Search


@dataclass(frozen=True, kw_only=True)
class SearchedModel(SearchOptions, Model):
    """A classifier per ticker whose parameters are searched for on train.

    Attributes:
        defaults: Parameters without a search; their names are those that a space may hold.
        built_in_space: Values to draw from unless ``space`` is given.
        draws: Candidates unless ``n_iter`` is given.
    """

    defaults: ClassVar[JsonDict] = {}
    built_in_space: ClassVar[Mapping[str, Sequence[Any]]] = {}
    draws: ClassVar[int] = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.space is not None and (not isinstance(self.space, Mapping) or not self.space):
            raise ConfigError(f"space expects a mapping of parameter → list of values, got {self.space!r}")
        for name, values in (self.space or {}).items():
            if self.defaults and name not in self.defaults:
                raise ConfigError(f"space: {self.name} has no parameter {name!r}; expected {', '.join(self.defaults)}")
            if isinstance(values, str) or not isinstance(values, Sequence) or not len(values):
                raise ConfigError(f"space: {name} expects a list of values, got {values!r}")
        if self.space is not None:  # plain lists of plain values: they stand in the document
            plain = {name: [_plain_value(value) for value in values] for name, values in self.space.items()}
            object.__setattr__(self, "space", plain)
            if self.search_method == "halving" and "n_estimators" not in plain:
                raise ConfigError(
                    "space: search=halving, or fast, needs n_estimators, of which it gives candidates more and more"
                )

    @property
    def searches_once(self) -> bool:
        """Whether a walk-forward searches in the first fold of a ticker alone."""
        return self.searches and self.tune == "first"


def _plain_value(value: Any) -> Any:
    """Convert a number of numpy to Python's."""
    return value.item() if isinstance(value, np.generic) else value


@dataclass(frozen=True, kw_only=True)
class FittedSearched(Fitted):
    """A fitted classifier of one ticker.

    Attributes:
        columns: Feature names in order.
        search: The search that chose its parameters; None for a model from a file.
    """

    columns: tuple[str, ...]
    search: Search | None = field(default=None)

    @abstractmethod
    def up_probability(self, features: FloatArray) -> FloatArray:
        """[rows] probability of class 1, for a row at least."""

    @property
    @abstractmethod
    def weights(self) -> str:
        """sha256 of what prediction depends on."""

    def predict(self, table: FeatureTable, rows: IntArray) -> FloatArray:
        """Return the probability of a rise for each row; see `Fitted.predict`."""
        return self.up_probability(table.features[rows]) if len(rows) else np.empty(0)

    @property
    def params(self) -> Mapping[str, Any] | None:  # type: ignore[override]
        """Parameters of the fit."""
        return None if self.search is None else self.search.params

    @property
    def facts(self) -> JsonDict:
        """The search."""
        return {} if self.search is None else {"search": self.search.to_json()}

    @property
    def digests(self) -> dict[str, str]:
        """sha256 of the search, the parameters and the weights."""
        if self.search is None:
            return {"weights": self.weights}
        return {
            "search": digest_text(json.dumps(self.search.table)),
            "params": digest_text(json.dumps(self.search.params, sort_keys=True)),
            "weights": self.weights,
        }

    @property
    def evidence(self) -> dict[str, pd.DataFrame]:
        """Search and parameters."""
        return {} if self.search is None else dict(self.search.evidence)


@dataclass(frozen=True, kw_only=True)
class FittedClassifier(FittedSearched):
    """A fitted scikit-learn classifier of one ticker."""

    estimator: Any

    def up_probability(self, features: FloatArray) -> FloatArray:
        """[rows] probability of class 1; 0 where train never rose."""
        found = np.asarray(self.estimator.predict_proba(features), dtype=np.float64)
        classes = list(self.estimator.classes_)
        up: FloatArray = found[:, classes.index(1)] if 1 in classes else np.zeros(len(features))
        return up

    def files(self) -> dict[str, bytes]:
        """Return the bare estimator, pickled."""
        return {".pkl": pickle.dumps(self.estimator, protocol=5)}


def check_tree(left: npt.ArrayLike, right: npt.ArrayLike, feature: npt.ArrayLike, columns: int) -> None:
    """Refuse a tree that leads outside itself, backwards, or to a column that there is not (measured: a crash)."""
    lefts, rights, features = (np.asarray(array) for array in (left, right, feature))
    here = np.arange(len(lefts))
    same = lefts.shape == rights.shape == features.shape == here.shape and len(here) > 0
    if not same or not all(array.dtype.kind in "iu" for array in (lefts, rights, features)):
        raise ValueError("a tree's arrays are not whole numbers, one per node")
    inner = lefts != -1
    children = np.stack([lefts, rights])[:, inner]
    onwards = (children > here[inner]) & (children < len(here))
    known = (features[inner] >= 0) & (features[inner] < columns)
    if not (onwards.all() and known.all() and (rights[~inner] == -1).all()):
        raise ValueError("a tree leads outside itself or to an unknown column")


def check_booster(document: Mapping[str, Any], columns: Sequence[str]) -> None:
    """Refuse an XGBoost model that is not one group of sound, numerical, binary trees over these columns.

    That a tree's arrays are of one length XGBoost checks itself.
    """
    learner = document["learner"]
    model, shape = learner["gradient_booster"]["model"], learner["learner_model_param"]
    count, trees = len(columns), model["trees"]
    expected = ("gbtree", "binary:logistic", str(count), "0", "1")
    sizes = (shape[name] for name in ("num_feature", "num_class", "num_target"))
    found = (learner["gradient_booster"]["name"], learner["objective"]["name"], *sizes)
    if found != expected or learner["feature_names"] != list(columns):
        raise ValueError(f"expected {expected} with the columns {', '.join(columns)}, found {found}")
    if model["tree_info"] != [0] * len(trees) or model["iteration_indptr"] != list(range(len(trees) + 1)):
        raise ValueError("its trees are not one group, one per round")
    for tree in trees:
        check_tree(tree["left_children"], tree["right_children"], tree["split_indices"], count)
        if any(tree["split_type"]) or tree["categories"]:
            raise ValueError("a tree splits on categories")
