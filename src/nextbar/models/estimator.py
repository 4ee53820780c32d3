"""Any scikit-learn classifier or regressor of the user's, trained, tested and certified like the built-in kinds.

Its files are written for people: the library's own format of LightGBM and CatBoost, else skops, else a pickle. nextbar
loads them only where the user says that they can be trusted, because loading a pickle runs code and the others are read
by libraries that do not expect an attack.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from typing import Any, ClassVar

import cloudpickle
import numpy as np
import pandas as pd

from nextbar.datasets.samples import Pool, Samples, Splits
from nextbar.errors import ArtifactError, ConfigError, missing_extra, noun
from nextbar.models.base import FitRequest
from nextbar.models.boosting import (
    LIBRARIES,
    LightGBMTrees,
    Part,
    best_iteration,
    booster_params,
    fit_stopped,
    last_step,
    library_of,
    native_files,
    read_catboost,
    tree_count,
    trees_of,
)
from nextbar.models.reproducibility import digest_arrays, digest_text
from nextbar.models.tree_model import EARLY_STOPPING_ROUNDS, FittedClassifier, SearchedModel, weights_of
from nextbar.types import FeatureTable, FloatArray, IntArray, JsonDict
from nextbar.words import brief

SEEDS = ("random_state", "random_seed", "seed")
THREADS = ("n_jobs", "nthread", "nthreads", "num_thread", "num_threads", "thread_count")
PERCENT = 100.0
"""A regressor is fitted on the next return in percent: about 1, where libraries expect a target to be."""
BATCH = 512
"""Rows that are predicted at once: a library may add in another order in a matrix of another height."""


@dataclass(frozen=True, kw_only=True)
class FittedEstimator(FittedClassifier):
    """A fitted classifier or regressor of the user's.

    Attributes:
        weights: sha256 of the trees of a booster that validation may stop, else of the predictions on train and
            validation: whatever an estimator holds, it is told by what it says.
        regressor: Whether it predicts the next return in percent, not the probability of a rise.
    """

    weights: str = ""
    regressor: bool = False

    def predict(self, table: FeatureTable, rows: IntArray) -> FloatArray:
        """Return the probability of a rise, or the next close on the table's scale; see `Fitted.predict`."""
        found = self.said(table.features[rows])
        return table.close[rows] * (1.0 + found / PERCENT) if self.regressor else found

    def said(self, features: FloatArray) -> FloatArray:
        """[rows] probability of a rise, or next return in percent."""
        value = self.percent if self.regressor else self.up_probability
        parts = [value(part)[: len(features) - at] for at, part in _batches(features)]
        return np.concatenate(parts) if parts else np.empty(0)

    def percent(self, features: FloatArray) -> FloatArray:
        """[rows] next return in percent, for a row at least."""
        found = self.estimator.predict(features, **self._threads)
        return np.asarray(found, dtype=np.float64).reshape(len(features))

    def probabilities(self, features: FloatArray) -> FloatArray:
        """[rows, classes] probabilities."""
        found: FloatArray = self.estimator.predict_proba(features, **self._threads)
        return found

    @property
    def _threads(self) -> dict[str, int]:
        """One thread for CatBoost, which takes all cores to predict."""
        return {"thread_count": 1} if library_of(self.estimator) == "catboost" else {}

    @property
    def facts(self) -> JsonDict:
        """The search, and where validation has stopped a booster."""
        best = best_iteration(last_step(self.estimator))
        return super().facts | ({} if best is None else {"best_iteration": best})

    @property
    def evidence(self) -> dict[str, pd.DataFrame]:
        """Search, parameters, and the trees of a booster, else the digest of what it says."""
        model = (trees_of(self.estimator) or self.weights).split("\n")
        return super().evidence | {"model": pd.DataFrame({"model": model})}

    def files(self) -> dict[str, bytes]:
        """Return LightGBM's or CatBoost's own file, else a pickle, with the code where no module has it."""
        if found := native_files(self.estimator):
            return found
        try:
            return super().files()
        except (pickle.PicklingError, AttributeError):
            return {".pkl": cloudpickle.dumps(self.estimator)}


@noun
@dataclass(frozen=True)
class Estimator(SearchedModel):
    """A scikit-learn classifier or regressor of the user's, one per ticker or one of all tickers.

    It is cloned and fitted on train. Parameters that are seeds get the seed of the fit, numbers of threads become 1.
    Parameters are searched for only where a ``space`` is given. A classifier gives the probability of a rise. A
    regressor is fitted on the next return in percent; the predicted close is close × (1 + prediction / 100), and the
    class is 1 where that is above the close. LightGBM and CatBoost, alone or as the last step of a pipeline, are
    stopped early on validation.

    Args:
        estimator: Any classifier with ``fit`` and ``predict_proba``, or any regressor; a pipeline among them.
        label: How tables and file names call it, lower-case letters and digits; default: its class's name.
        no_tune: Use its own parameters instead of a search.
        n_iter: Candidates drawn by the search (default: 20).
        cv_splits: Time-series folds inside the search.
        tune: In a walk-forward, search in ``each`` fold, in the ``first`` alone, or in ``none``.
        pooled: One model over all tickers, split at one date; its ``fit`` must take ``sample_weight``.
        space: Parameter → values to draw from, named as scikit-learn's ``set_params`` takes them.
        early_stopping: Trees without a better loss on validation after which LightGBM and CatBoost stop, where their
            own parameters do not say; 0: never.

    Raises:
        ConfigError: It is neither, or a value is outside its limits.
    """

    estimator: Any = field(default=None, kw_only=False)
    label: str = field(default="", kw_only=True)
    early_stopping: int = field(default=EARLY_STOPPING_ROUNDS, kw_only=True)

    kind: ClassVar[str] = "estimator"
    trusted: ClassVar[bool] = False
    refits: ClassVar[bool] = True

    def __post_init__(self) -> None:
        missing = [name for name in ("fit", "predict_proba", "get_params") if not hasattr(self.estimator, name)]
        if missing == ["predict_proba"] and self.regressor:
            missing = []
        if missing or isinstance(self.estimator, type):
            raise ConfigError(
                "Estimator expects a scikit-learn classifier with fit and predict_proba, such as LogisticRegression(), "
                f"or a regressor, such as Ridge(); got {brief(self.estimator)}"
                + (f", which has no {', '.join(missing)}" if missing else "")
            )
        if not isinstance(self.label, str) or not re.fullmatch(r"([a-z][a-z0-9]*)?", self.label):
            raise ConfigError(f"label expects lower-case letters and digits, got {brief(self.label)}")
        if type(self.early_stopping) is not int or self.early_stopping < 0:
            raise ConfigError(
                f"early_stopping expects a number of trees, or 0 for never, got {brief(self.early_stopping)}"
            )
        if self.search == "halving" or self.fast:
            raise ConfigError("Estimator searches at random only; leave search and fast out")
        if unknown := sorted(set(self.space or ()) - set(self.estimator.get_params())):
            raise ConfigError(f"space: {self.name} has no parameter {', '.join(unknown)}; see its get_params()")
        super().__post_init__()
        if self.pooled:
            _ = self.weight_name

    @property
    def regressor(self) -> bool:
        """Whether it predicts the next return: a regressor without ``predict_proba``."""
        if hasattr(self.estimator, "predict_proba") or not hasattr(self.estimator, "predict"):
            return False
        from sklearn.base import is_regressor

        try:
            return bool(is_regressor(self.estimator))
        except AttributeError:  # its class says nothing about itself
            return False

    @property
    def predicts(self) -> str:  # type: ignore[override]
        """``probability`` of a rise, or the next ``close``."""
        return "close" if self.regressor else "probability"

    @property
    def scoring(self) -> str:  # type: ignore[override]
        """What a search maximises."""
        return "neg_mean_squared_error" if self.regressor else super().scoring

    def target(self, part: Samples | Pool) -> FloatArray | IntArray:
        """[samples] class, or next return in percent."""
        return part.next_returns * PERCENT if self.regressor else part.y

    @property
    def weight_name(self) -> str:
        """How its ``fit``, or that of its last step, takes the weights of rows; an error where it takes none."""
        from sklearn.utils.validation import has_fit_parameter

        steps, last = getattr(self.estimator, "steps", None), last_step(self.estimator)
        prefix = f"{steps[-1][0]}__" if steps else ""
        if not has_fit_parameter(last, "sample_weight"):
            raise ConfigError(
                f"pooled=True weighs rows so that each date counts alike, and fit of {type(last).__name__} takes no "
                "sample_weight; take an estimator that does, or leave pooled out"
            )
        return f"{prefix}sample_weight"

    @property
    def name(self) -> str:
        """How tables and file names call it."""
        return self.label or re.sub(r"[^a-z0-9]", "", type(self.estimator).__name__.lower())

    @property
    def code(self) -> Sequence[object]:
        """Itself, and the estimators and functions that it is made of."""
        return [self, self.estimator, *self.estimator.get_params().values()]

    @property
    def libraries(self) -> tuple[str, ...]:
        """Libraries of boosters in it."""
        return tuple(name for name in LIBRARIES if name in map(library_of, _parts(self.estimator).values()))

    @property
    def searches(self) -> bool:
        """Whether fitting searches for parameters."""
        return bool(self.space) and super().searches

    def options(self) -> JsonDict:
        """Its parameters as options of a configuration; the estimator is described, not stored."""
        own = {name: value for name, value in super().options().items() if name != "parameters"}
        kind = type(self.estimator)
        about: JsonDict = {
            "class": f"{kind.__module__}.{kind.__qualname__}",
            "params": _plain(self.estimator.get_params()),
        }
        if self._stops or self.early_stopping != EARLY_STOPPING_ROUNDS:
            about |= {"early_stopping": self.early_stopping}
        return {**own, "parameters": about}

    def as_recorded(self, options: JsonDict) -> tuple[Estimator, JsonDict]:
        """Read a booster's run that records no ``early_stopping`` as one that had none; see `Model.as_recorded`."""
        about = options.get("parameters")
        if not self._stops or not isinstance(about, dict) or "early_stopping" in about:
            return self, options
        return replace(self, early_stopping=0), {**options, "parameters": {**about, "early_stopping": 0}}

    @property
    def _stops(self) -> bool:
        """Whether it is a booster, which validation can stop."""
        return bool(library_of(last_step(self.estimator)))

    def fit(self, panel: Sequence[Splits], request: FitRequest) -> FittedEstimator:
        """Search on train where there is a space, then one fit on train; validation stops a booster alone."""
        from sklearn.base import clone

        from nextbar.models.search import choose_params

        train, val = self.parts(panel)
        weight = self.weight_name if self.pooled else ""
        steady = steady_params(self.estimator, request.seed % 2**32)
        plain = clone(self.estimator).set_params(**steady)
        search = choose_params(plain, steady, train, request, model=self, weight=weight)
        grown, watched = (Part(part.X, self.target(part), weights_of(part)) for part in (train, val))
        estimator = self._fit(clone(plain).set_params(**search.params), grown, watched, request.rounds)
        columns = panel[0].table.columns
        fitted = FittedEstimator(estimator=estimator, search=search, columns=columns, regressor=self.regressor)
        trees = trees_of(estimator) if self.early_stopping else None
        # A classifier's probabilities are taken whole, as earlier versions did, so that recorded digests hold.
        says = fitted.said if self.regressor else fitted.probabilities
        known = (np.asarray(says(part.X)) for part in (train, val) if len(part.X))  # a refit has no validation
        return replace(fitted, weights=digest_arrays(known) if trees is None else digest_text(trees))

    def rounds(self, facts: JsonDict) -> list[int]:
        """Return the number of trees that validation has left."""
        return [facts["best_iteration"] + 1] if "best_iteration" in facts else []

    def _fit(self, estimator: Any, train: Part, val: Part, rounds: Sequence[int] | None) -> Any:
        """Fit an estimator on train; a booster is stopped on validation, or grows ``rounds`` trees in a refit."""
        if rounds:
            last_step(estimator).set_params(**tree_count(last_step(estimator), rounds[0]))
        elif rounds is None and self.early_stopping and self._stops:
            return fit_stopped(estimator, train, val, self.early_stopping)
        weighed = {} if train.weights is None else {self.weight_name: train.weights}
        return estimator.fit(train.X, train.y, **weighed)

    def to_save(self, files: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """Return the same with what skops writes in place of a pickle, where skops is installed and can save it.

        Workers do without it, because importing skops takes seconds.
        """
        return {
            name: content for suffix, pickled in files.items() for name, content in _without_pickle(suffix, pickled)
        }

    def load(self, files: Mapping[str, bytes], columns: Sequence[str]) -> FittedEstimator:
        """Load a fitted estimator, which may run code: call it only for a file that the user trusts."""
        readers: dict[str, Callable[[bytes], Any]] = {
            ".txt": lambda content: LightGBMTrees(content.decode()),
            ".cbm": partial(read_catboost, regressor=self.regressor),
            ".skops": _read_skops,
            ".pkl": pickle.loads,
        }
        if (suffix := next((name for name in readers if name in files), None)) is None:
            raise ArtifactError(
                f"{self.name}: expected a file {', '.join(readers)} of the estimator, but there is none"
            )
        try:
            estimator = readers[suffix](files[suffix])
        except ModuleNotFoundError as error:
            raise missing_extra(f"{error.name} reads {suffix} and is not installed", "models") from error
        except Exception as error:
            raise ArtifactError(
                f"the estimator's {suffix} cannot be loaded ({type(error).__name__}: {error})"
            ) from error
        return FittedEstimator(estimator=estimator, columns=tuple(columns), regressor=self.regressor)


def _without_pickle(suffix: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    """Give a file as it is saved: a pickle of our own worker by skops, if skops can write and read it."""
    if suffix.endswith(".pkl"):
        try:
            written: bytes = import_module("skops.io").dumps(pickle.loads(content))  # noqa: S301 - of our own worker
            _read_skops(written)
        except Exception:  # whatever a class of the user's own raises: it stays pickled
            yield suffix, content
        else:
            yield suffix.removesuffix(".pkl") + ".skops", written
    else:
        yield suffix, content


def _read_skops(content: bytes) -> Any:
    """Read an estimator by skops, with all types that the file names: the user trusts it."""
    skops = import_module("skops.io")
    return skops.loads(content, trusted=skops.get_untrusted_types(data=content))


def steady_params(estimator: Any, seed: int) -> JsonDict:
    """Return parameters that let an estimator give the same bits again: nested seeds, and one thread each.

    scikit-learn takes None for one thread; others take it for all cores.
    """
    params = estimator.get_params()
    found: JsonDict = {}
    for name, value in params.items():
        owner, _, leaf = name.rpartition("__")
        kind = type(params[owner] if owner else estimator)
        if name.endswith("random_state") or leaf in SEEDS:
            found[name] = seed
        elif leaf in THREADS and not (value is None and leaf == "n_jobs" and _of_sklearn(kind)):
            found[name] = 1
    for prefix, part in _parts(estimator).items():
        found |= {f"{prefix}{name}": value for name, value in booster_params(part, seed).items()}
    return found


def _of_sklearn(kind: type) -> bool:
    """Whether a class is one of scikit-learn's own or made from one, more than the base of all estimators."""
    modules = (one.__module__ for one in kind.__mro__)
    return any(
        name.startswith("sklearn.") and not name.startswith(("sklearn.base", "sklearn.utils")) for name in modules
    )


def _parts(estimator: Any) -> dict[str, Any]:
    """Prefix of the parameters → estimator: itself, and those that it is made of."""
    nested = {f"{name}__": value for name, value in estimator.get_params().items() if hasattr(value, "get_params")}
    return {"": estimator, **{prefix: part for prefix, part in nested.items() if not isinstance(part, type)}}


def _batches(features: FloatArray) -> Iterator[tuple[int, FloatArray]]:
    """Give the rows in batches of one height, each with its first row; the last is filled up with its own last row."""
    for at in range(0, len(features), BATCH):
        part = features[at : at + BATCH]
        yield at, np.concatenate([part, np.repeat(part[-1:], BATCH - len(part), axis=0)])


def _plain(params: Mapping[str, Any]) -> JsonDict:
    """Parameters as JSON values: what is none is described in words, without an address in memory."""
    plain = str | int | bool | None
    return {
        name: value
        if isinstance(value, plain) or (isinstance(value, float) and math.isfinite(value))
        else re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))
        for name, value in sorted(params.items())
    }
