"""Random search over a stated space, on train alone, in time order with a gap of one day before each test fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.model_selection import RandomizedSearchCV, TimeSeriesSplit

from nextbar.models.protocol import FitRequest
from nextbar.types import JsonDict, Samples

SCORING = "balanced_accuracy"


@dataclass(frozen=True, kw_only=True)
class Search:
    """Outcome of a search, or of doing without one.

    Attributes:
        params: What the final fit uses.
        table: One row per candidate: parameters, score of each fold, mean, rank; empty without a search.
    """

    params: JsonDict
    table: list[JsonDict]

    def to_json(self) -> JsonDict:
        """For the metadata."""
        return {"scoring": SCORING, "params": self.params, "candidates": self.table}


def choose_params(
    estimator: Any,
    train: Samples,
    request: FitRequest,
    *,
    space: Mapping[str, Sequence[Any]],
    default: JsonDict,
    draws: int,
) -> Search:
    """Given parameters as they are, else searched, else the stated defaults.

    The search runs in one thread: tasks are what runs in parallel.
    """
    if request.params is not None or not request.search:
        return Search(params=dict(default if request.params is None else request.params), table=[])
    search = RandomizedSearchCV(
        estimator,
        dict(space),
        n_iter=request.config.n_iter or draws,
        scoring=SCORING,
        cv=TimeSeriesSplit(n_splits=request.config.cv_splits, gap=1),
        random_state=request.seed % 2**32,
        n_jobs=1,
        refit=False,
        error_score="raise",
    ).fit(train.X, train.y)
    return Search(params=dict(search.best_params_), table=_table(search.cv_results_, request.config.cv_splits))


def _table(results: Mapping[str, Any], splits: int) -> list[JsonDict]:
    """`cv_results_` as plain rows, without the times, which differ from run to run."""
    folds = np.column_stack([results[f"split{i}_test_score"] for i in range(splits)])
    return [
        {
            "params": dict(params),
            "scores": [float(score) for score in scores],
            "mean": float(mean),
            "rank": int(rank),
        }
        for params, scores, mean, rank in zip(
            results["params"], folds, results["mean_test_score"], results["rank_test_score"], strict=True
        )
    ]
