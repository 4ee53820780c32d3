"""Any scikit-learn classifier of the user's, trained, tested and certified like the built-in kinds.

Its pickle is written for people. nextbar loads it only where the user says that the file can be trusted, because
loading a pickle runs code.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import cloudpickle
import numpy as np

from nextbar.datasets.samples import Splits
from nextbar.errors import ArtifactError, ConfigError
from nextbar.models.base import FitRequest
from nextbar.models.reproducibility import digest_arrays
from nextbar.models.tree_model import FittedClassifier, SearchedModel, weights_of
from nextbar.types import JsonDict


@dataclass(frozen=True, kw_only=True)
class FittedEstimator(FittedClassifier):
    """A fitted classifier of the user's.

    Attributes:
        weights: sha256 of its probabilities on train and validation: whatever it holds, it is told by what it says.
    """

    weights: str = ""

    def files(self) -> dict[str, bytes]:
        """Return the estimator, pickled; with its code where no module has it."""
        try:
            return super().files()
        except (pickle.PicklingError, AttributeError):
            return {".pkl": cloudpickle.dumps(self.estimator)}


@dataclass(frozen=True)
class Estimator(SearchedModel):
    """A scikit-learn classifier of the user's, one per ticker or one of all tickers.

    It is cloned and fitted on train; parameters named ``random_state`` get the seed of the fit. Parameters are searched
    for only where a ``space`` is given.

    Args:
        estimator: Any classifier with ``fit`` and ``predict_proba``, a pipeline among them.
        label: How tables and file names call it, lower-case letters and digits; default: its class's name.
        no_tune: Use its own parameters instead of a search.
        n_iter: Candidates drawn by the search (default: 20).
        cv_splits: Time-series folds inside the search.
        tune: In a walk-forward, search in ``each`` fold, in the ``first`` alone, or in ``none``.
        pooled: One model over all tickers, split at one date; its ``fit`` must take ``sample_weight``.
        space: Parameter → values to draw from, named as scikit-learn's ``set_params`` takes them.

    Raises:
        ConfigError: It is no such classifier, or a value is outside its limits.
    """

    estimator: Any = field(default=None, kw_only=False)
    label: str = field(default="", kw_only=True)

    kind: ClassVar[str] = "estimator"
    trusted: ClassVar[bool] = False
    refits: ClassVar[bool] = True

    def __post_init__(self) -> None:
        missing = [name for name in ("fit", "predict_proba", "get_params") if not hasattr(self.estimator, name)]
        if missing or isinstance(self.estimator, type):
            raise ConfigError(
                "Estimator expects a scikit-learn classifier with fit and predict_proba, such as LogisticRegression(), "
                f"got {self.estimator!r}" + (f", which has no {', '.join(missing)}" if missing else "")
            )
        if self.label and not re.fullmatch(r"[a-z][a-z0-9]*", self.label):
            raise ConfigError(f"label expects lower-case letters and digits, got {self.label!r}")
        if self.search == "halving" or self.fast:
            raise ConfigError("Estimator searches at random only; leave search and fast out")
        if unknown := sorted(set(self.space or ()) - set(self.estimator.get_params())):
            raise ConfigError(f"space: {self.name} has no parameter {', '.join(unknown)}; see its get_params()")
        super().__post_init__()
        if self.pooled:
            _ = self.weight_name

    @property
    def weight_name(self) -> str:
        """How its ``fit`` takes the weights of rows: of a pipeline, those of its last step.

        Raises:
            ConfigError: It takes none.
        """
        from sklearn.utils.validation import has_fit_parameter

        steps = getattr(self.estimator, "steps", None)
        prefix, last = (f"{steps[-1][0]}__", steps[-1][1]) if steps else ("", self.estimator)
        if not has_fit_parameter(last, "sample_weight"):
            raise ConfigError(
                f"pooled=True weighs rows so that each date counts alike, and fit of {type(last).__name__} takes no "
                "sample_weight; take a classifier that does, or leave pooled out"
            )
        return f"{prefix}sample_weight"

    @property
    def name(self) -> str:
        """How tables and file names call it."""
        return self.label or re.sub(r"[^a-z0-9]", "", type(self.estimator).__name__.lower())

    @property
    def searches(self) -> bool:
        """Whether fitting searches for parameters."""
        return bool(self.space) and super().searches

    def options(self) -> JsonDict:
        """Its parameters as options of a configuration; the estimator is described, not stored."""
        own = {name: value for name, value in super().options().items() if name != "parameters"}
        kind = type(self.estimator)
        about = {"class": f"{kind.__module__}.{kind.__qualname__}", "params": _plain(self.estimator.get_params())}
        return {**own, "parameters": about}

    def fit(self, panel: Sequence[Splits], request: FitRequest) -> FittedEstimator:
        """Search on train where there is a space, then one fit on train; validation serves the threshold alone."""
        from sklearn.base import clone

        from nextbar.models.search import choose_params

        train, val = self.parts(panel)
        weights = weights_of(train)
        weighed = {} if weights is None else {self.weight_name: weights}
        seeds = {name: request.seed % 2**32 for name in self.estimator.get_params() if name.endswith("random_state")}
        plain = clone(self.estimator).set_params(**seeds)
        search = choose_params(plain, seeds, train, request, model=self, weight=next(iter(weighed), ""))
        estimator = clone(plain).set_params(**search.params).fit(train.X, train.y, **weighed)
        known = (np.asarray(estimator.predict_proba(part.X)) for part in (train, val) if len(part.X))
        columns = panel[0].table.columns
        return FittedEstimator(estimator=estimator, search=search, columns=columns, weights=digest_arrays(known))

    def load(self, files: Mapping[str, bytes], columns: Sequence[str]) -> FittedEstimator:
        """Load a fitted estimator from a pickle, which runs code: call it only for a file that the user trusts."""
        try:
            estimator = pickle.loads(files[".pkl"])  # noqa: S301 - the caller has asked the user
        except Exception as error:
            raise ArtifactError(f"the estimator's .pkl cannot be loaded ({type(error).__name__}: {error})") from error
        return FittedEstimator(estimator=estimator, columns=tuple(columns))


def _plain(params: Mapping[str, Any]) -> JsonDict:
    """Parameters as JSON values: what is none is described in words."""
    plain = str | int | bool | None
    return {
        name: value if isinstance(value, plain) or (isinstance(value, float) and math.isfinite(value)) else repr(value)
        for name, value in sorted(params.items())
    }
