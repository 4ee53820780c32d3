"""What the models of trees have in common: parameters that are searched for."""

from __future__ import annotations

import json
import pickle
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from nextbar.config import SearchOptions
from nextbar.datasets.samples import Pool, Samples, Splits
from nextbar.errors import ConfigError
from nextbar.models.base import Fitted, Model
from nextbar.models.reproducibility import digest_text
from nextbar.types import FeatureTable, FloatArray, IntArray, JsonDict
from nextbar.words import brief

EARLY_STOPPING_ROUNDS = 10
"""Trees without a better loss on validation after which boosting stops."""


@dataclass(frozen=True, kw_only=True)
class SearchedModel(SearchOptions, Model):
    """A classifier per ticker, or one of all tickers, whose parameters are searched for on train.

    Attributes:
        defaults: Parameters without a search; their names are those that a space may hold.
        built_in_space: Values to draw from unless ``space`` is given.
        draws: Candidates unless ``n_iter`` is given.
        scoring: What a search maximises, as scikit-learn names it.
    """

    defaults: ClassVar[JsonDict] = {}
    built_in_space: ClassVar[Mapping[str, Sequence[Any]]] = {}
    draws: ClassVar[int] = 20
    scoring: ClassVar[str] = "balanced_accuracy"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.space is not None and (not isinstance(self.space, Mapping) or not self.space):
            raise ConfigError(f"space expects a mapping of parameter → list of values, got {brief(self.space)}")
        for name, values in (self.space or {}).items():
            if self.defaults and name not in self.defaults:
                raise ConfigError(
                    f"space: {self.name} has no parameter {brief(name)}; expected {', '.join(self.defaults)}"
                )
            if isinstance(values, str) or not isinstance(values, Sequence) or not len(values):
                raise ConfigError(f"space: {name} expects a list of values, got {brief(values)}")
        if self.space is not None:  # plain lists of plain values: they stand in the document
            plain = {name: [_plain_value(value) for value in values] for name, values in self.space.items()}
            object.__setattr__(self, "space", plain)
            if self.search_method == "halving" and "n_estimators" not in plain:
                raise ConfigError(
                    "space: search=halving, or fast, needs n_estimators, which it increases from round to round"
                )

    @property
    def per_ticker(self) -> bool:  # type: ignore[override]
        """Whether one model is trained per ticker, or one for all."""
        return not self.pooled

    def parts(self, panel: Sequence[Splits]) -> tuple[Samples | Pool, Samples | Pool]:
        """Return what is fitted on and what stops it: train and validation of the ticker, or of all together."""
        if not self.pooled:
            (data,) = panel
            return data.train, data.val
        return Pool.of([(data.table, data.train) for data in panel]), Pool.of(
            [(data.table, data.val) for data in panel]
        )

    def target(self, part: Samples | Pool) -> FloatArray | IntArray:
        """[samples] what is fitted: the class."""
        return part.y

    def sized(self, name: str, value: Any, _train: Pool) -> tuple[str, Any]:
        """Give the name and the value of a parameter for pooled rows, from those of a model of one ticker."""
        return name, value

    def starting_params(self, train: Samples | Pool) -> JsonDict:
        """Return the parameters without a search."""
        if not isinstance(train, Pool):
            return dict(self.defaults)
        return dict(self.sized(name, value, train) for name, value in self.defaults.items())

    def space_for(self, train: Samples | Pool, built_in: Mapping[str, Sequence[Any]]) -> Mapping[str, Sequence[Any]]:
        """Return the values to draw from: the user's as they are, or the built-in ones, sized to the rows."""
        if self.space or not isinstance(train, Pool):
            return self.space or built_in
        sized = {name: [self.sized(name, value, train) for value in values] for name, values in built_in.items()}
        return {pairs[0][0]: [value for _, value in pairs] for pairs in sized.values()}

    @property
    def searches_once(self) -> bool:
        """Whether a walk-forward searches in the first fold of a ticker alone."""
        return self.searches and self.tune == "first"


def weights_of(part: Samples | Pool) -> FloatArray | None:
    """[samples] weights of pooled rows; None for the rows of one ticker, which count alike."""
    return part.weights if isinstance(part, Pool) else None


def _plain_value(value: Any) -> Any:
    """Convert a number of numpy to Python's."""
    return value.item() if isinstance(value, np.generic) else value


@dataclass(frozen=True, kw_only=True)
class Search:
    """Outcome of a search, or of doing without one.

    Attributes:
        table: One row per candidate: parameters, score of each fold, mean, rank; empty without a search. A candidate
            that halving keeps has a row per round; later rounds rank first.
        how: Method of the search, its estimator, what all its candidates share and the space, where there was one.
    """

    params: JsonDict
    table: list[JsonDict]
    how: JsonDict = field(default_factory=dict)
    scoring: str = SearchedModel.scoring

    def to_json(self) -> JsonDict:
        """For the metadata."""
        return {"scoring": self.scoring, **self.how, "params": self.params, "candidates": self.table}

    @property
    def evidence(self) -> dict[str, pd.DataFrame]:
        """Every candidate with its scores, and the parameters chosen."""
        candidates = [
            {**row["params"], **{f"fold {i}": score for i, score in enumerate(row["scores"])}, "mean": row["mean"]}
            for row in self.table
        ]
        return {"search": pd.DataFrame(candidates), "params": pd.DataFrame([self.params])}


@dataclass(frozen=True, kw_only=True)
class FittedSearched(Fitted):
    """A fitted classifier of one ticker, or of several.

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
    """A fitted scikit-learn classifier."""

    estimator: Any

    def up_probability(self, features: FloatArray) -> FloatArray:
        """[rows] probability of class 1; 0 where train never rose."""
        found = np.asarray(self.probabilities(features), dtype=np.float64)
        classes = list(self.estimator.classes_)
        up: FloatArray = found[:, classes.index(1)] if 1 in classes else np.zeros(len(features))
        return up

    def probabilities(self, features: FloatArray) -> FloatArray:
        """[rows, classes] probabilities."""
        found: FloatArray = self.estimator.predict_proba(features)
        return found

    def files(self) -> dict[str, bytes]:
        """Return the bare estimator, pickled."""
        return {".pkl": pickle.dumps(self.estimator, protocol=5)}
