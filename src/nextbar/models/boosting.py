"""LightGBM and CatBoost inside an `Estimator`: stopped on validation, told by their trees, saved in their own format.

They are imported here alone, and only where the user's estimator is of theirs.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nextbar.types import FloatArray, IntArray, JsonDict

LIBRARIES = ("lightgbm", "catboost")
STEADY: Mapping[str, JsonDict] = {
    "lightgbm": {"n_jobs": 1, "deterministic": True, "force_col_wise": True, "verbosity": -1},
    "catboost": {"thread_count": 1, "allow_writing_files": False, "logging_level": "Silent"},
}
"""What lets a library give the same bits again, in silence. LightGBM would choose how it counts by measuring time."""
OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "n_jobs": ("num_threads", "num_thread", "nthread", "nthreads"),
    "verbosity": ("verbose",),
    "force_col_wise": ("force_row_wise",),
    "logging_level": ("verbose", "silent", "verbose_eval"),
}
"""Parameters that stand for another one where the user has set them."""
STOPPING = (
    "early_stopping_round",
    "early_stopping_rounds",
    "early_stopping",
    "n_iter_no_change",
    "od_type",
    "od_wait",
    "od_pval",
)
"""Parameters by which the user has said when to stop."""
COUNTS = ("n_estimators", "iterations", "num_trees", "num_boost_round")
"""Parameters that say how many trees there are; CatBoost knows all of them and refuses two."""
CATBOOST_SEEDS = ("random_seed", "random_state")


class Part(NamedTuple):
    """Rows that are fitted on, or that stop a fit: features [rows, columns], target [rows], weights [rows] or None."""

    X: FloatArray
    y: FloatArray | IntArray
    weights: FloatArray | None


def library_of(estimator: Any) -> str:
    """Name the library that a booster's class comes from; empty for anything else."""
    modules = (kind.__module__.partition(".")[0] for kind in type(estimator).__mro__)
    return next((name for name in modules if name in LIBRARIES), "")


def last_step(estimator: Any) -> Any:
    """Return the last step of a pipeline, or the estimator itself."""
    steps = getattr(estimator, "steps", None)
    return steps[-1][1] if steps else estimator


def booster_params(estimator: Any, seed: int) -> JsonDict:
    """Return the parameters that a booster needs besides those that it has, to give the same bits again."""
    if not (library := library_of(estimator)):
        return {}
    given = estimator.get_params()
    found = {
        name: value
        for name, value in STEADY[library].items()
        if not any(given.get(other) is not None for other in OTHER_NAMES.get(name, ()))
    }
    if library == "catboost" and not any(name in given for name in CATBOOST_SEEDS):
        found["random_seed"] = seed
    return found


def tree_count(booster: Any, count: int) -> JsonDict:
    """Return the parameters with which a booster grows so many trees and is not stopped."""
    given = {name: value for name, value in booster.get_params().items() if value is not None}
    name = next((name for name in COUNTS if name in given), COUNTS[0])
    return {**{other: None for other in STOPPING if other in given}, name: count}


def fit_stopped(estimator: Any, train: Part, val: Part, rounds: int) -> Any:
    """Fit a booster, alone or as the last step of a pipeline, and stop it where validation gets no better.

    Args:
        estimator: It is fitted in place. The steps before the last are fitted on train alone.
        train: Rows that trees are grown on.
        val: Rows that stop them.
        rounds: Trees without a better loss on validation, unless the user's own parameters say when to stop.

    Returns:
        The estimator.
    """
    steps, last = getattr(estimator, "steps", None), last_step(estimator)
    if steps and len(steps) > 1:
        head = estimator[:-1]
        train = train._replace(X=head.fit_transform(train.X, train.y))
        val = val._replace(X=head.transform(val.X))
        estimator.steps = [*head.steps, steps[-1]]
    own = any(last.get_params().get(name) is not None for name in STOPPING)
    {"lightgbm": _fit_lightgbm, "catboost": _fit_catboost}[library_of(last)](last, train, val, 0 if own else rounds)
    return estimator


def _fit_lightgbm(model: Any, train: Part, val: Part, rounds: int) -> None:
    from lightgbm import LGBMModel, early_stopping
    from sklearn.utils.validation import has_fit_parameter

    stop = [early_stopping(rounds, verbose=False)] if rounds else None
    weights = None if val.weights is None else [val.weights]
    newer = has_fit_parameter(LGBMModel, "eval_X")  # from 4.7 on
    watched = {"eval_X": val.X, "eval_y": val.y} if newer else {"eval_set": [(val.X, val.y)]}
    weighed = {"sample_weight": train.weights, "eval_sample_weight": weights}
    model.fit(train.X, train.y, callbacks=stop, **watched, **weighed)


def _fit_catboost(model: Any, train: Part, val: Part, rounds: int) -> None:
    from catboost import Pool

    watched = Pool(val.X, val.y, weight=val.weights)
    stop = {"early_stopping_rounds": rounds} if rounds else {}
    model.fit(train.X, train.y, sample_weight=train.weights, eval_set=watched, **stop)


def best_iteration(estimator: Any) -> int | None:
    """Return the number of the last tree that is kept, from 0; None where validation has not chosen it."""
    library, best = library_of(estimator), getattr(estimator, "best_iteration_", None)
    if not library or best is None:
        return None
    first = int(library == "lightgbm")  # it counts from 1, and says 0 where nothing was watched
    return int(best) - first if best >= first else None


def trees_of(estimator: Any) -> str | None:
    """Return all that a booster predicts by, as text that is the same for the same trees; None for anything else.

    CatBoost's also holds when it was made, and a number of its own; they are left out.
    """
    library = library_of(estimator)
    if library == "lightgbm":
        return str(estimator.booster_.model_to_string())
    if library == "catboost":
        trees = json.loads(_catboost_file(estimator, "json"))
        return json.dumps({name: part for name, part in trees.items() if name != "model_info"}, sort_keys=True)
    return None


def native_files(estimator: Any) -> dict[str, bytes]:
    """Return the file that the library itself writes, suffix → content; none where its class is not the library's own.

    CatBoost's JSON would lose the last bit of a prediction, so that its binary format is taken.
    """
    if type(estimator).__module__.partition(".")[0] == "lightgbm":
        return {".txt": estimator.booster_.model_to_string().encode()}
    if type(estimator).__module__.partition(".")[0] == "catboost":
        return {".cbm": _catboost_file(estimator, "cbm")}
    return {}


def _catboost_file(model: Any, kind: str) -> bytes:
    """Return what CatBoost writes; it knows no way but a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        model.save_model(str(path), format=kind)
        return path.read_bytes()


class LightGBMTrees:
    """Trees that were read from LightGBM's text: predicts as the estimator did that they are of."""

    classes_ = (0, 1)

    def __init__(self, text: str) -> None:
        from lightgbm import Booster

        self.booster = Booster(model_str=text)

    def predict(self, features: FloatArray) -> FloatArray:
        """[rows] prediction: of a regressor, or probability of class 1."""
        return np.asarray(self.booster.predict(features, num_threads=1), dtype=np.float64)

    def predict_proba(self, features: FloatArray) -> FloatArray:
        """[rows, 2] probability of the classes 0 and 1."""
        up = self.predict(features)
        return np.column_stack([1.0 - up, up])


def read_catboost(content: bytes, *, regressor: bool) -> Any:
    """Read CatBoost's binary format."""
    from catboost import CatBoostClassifier, CatBoostRegressor

    model = (CatBoostRegressor if regressor else CatBoostClassifier)(thread_count=1)
    model.load_model(blob=content)
    return model
