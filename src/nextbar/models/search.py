"""Search over a stated space, on train alone, in time order with a gap of one day before each test fold.

Random search fits every candidate in full. Halving (Jamieson and Talwalkar 2016) fits all with few trees and goes on
with the best third, three times as many trees each; rows are never subsampled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from joblib import parallel_config
from scipy.stats import rankdata
from sklearn.experimental import enable_halving_search_cv  # noqa: F401 - makes the next line possible
from sklearn.model_selection import HalvingRandomSearchCV, RandomizedSearchCV, TimeSeriesSplit

from nextbar.errors import NotEnoughHistoryError
from nextbar.models.protocol import FitRequest
from nextbar.models.reproducibility import digest_arrays, digest_text
from nextbar.types import JsonDict, Samples

SCORING = "balanced_accuracy"
LAST_TREES = 100
"""Most trees of a candidate in halving: the last round has about so many, and so has the model that it chooses."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """Outcome of a search, or of doing without one.

    Attributes:
        params: What the final fit uses.
        table: One row per candidate: parameters, score of each fold, mean, rank; empty without a search. A candidate
            that halving keeps has a row per round; later rounds rank first.
        how: Method of the search, its estimator, what all its candidates share and the space, where there was one.
    """

    params: JsonDict
    table: list[JsonDict]
    how: JsonDict = field(default_factory=dict)

    def to_json(self) -> JsonDict:
        """For the metadata."""
        return {"scoring": SCORING, **self.how, "params": self.params, "candidates": self.table}

    @property
    def evidence(self) -> dict[str, pd.DataFrame]:
        """Every candidate with its scores, and the parameters chosen."""
        candidates = [
            {**row["params"], **{f"fold {i}": score for i, score in enumerate(row["scores"])}, "mean": row["mean"]}
            for row in self.table
        ]
        return {"search": pd.DataFrame(candidates), "params": pd.DataFrame([self.params])}


def choose_params(
    kind: type[Any],
    fixed: JsonDict,
    train: Samples,
    request: FitRequest,
    *,
    space: Mapping[str, Sequence[Any]],
    default: JsonDict,
    draws: int,
) -> Search:
    """Given parameters as they are, else searched, else the stated defaults.

    A fit has one thread. Tasks are what runs in parallel, and only where they leave cores idle, fits of one search.

    Args:
        kind: Class of the candidates.
        fixed: Parameters that all candidates share.
        train: Samples to search on.
        request: Says whether and how to search.
        space: Values to draw from.
        default: Parameters without a search.
        draws: Candidates, unless the configuration says how many.
    """
    if request.params is not None or not request.search:
        return Search(params=dict(default if request.params is None else request.params), table=[])
    config = request.config
    options = (config.search_method, config.n_iter, config.cv_splits)
    terms = repr((kind, fixed, space, draws, request.seed, options))
    key = digest_text(terms + digest_arrays([train.X, train.y]))
    return request.memo.recall(key, lambda: _search(kind, fixed, train, request, space=space, draws=draws))


def _search(
    kind: type[Any],
    fixed: JsonDict,
    train: Samples,
    request: FitRequest,
    *,
    space: Mapping[str, Sequence[Any]],
    draws: int,
) -> Search:
    """The search itself."""
    config = request.config
    _check_first_fold(train, config.cv_splits)
    # Intel's forest brings threads of its own and takes all of them below joblib's: it gets one lane.
    lanes = 1 if kind.__module__.startswith("sklearnex") else request.lanes
    make, resource = (_halving, "n_estimators") if config.search_method == "halving" else (RandomizedSearchCV, None)
    search = make(
        kind(**fixed),
        dict(space),
        n_iter=config.n_iter or draws,
        scoring=SCORING,
        cv=TimeSeriesSplit(n_splits=config.cv_splits, gap=1),
        random_state=request.seed % 2**32,
        n_jobs=lanes,
        refit=False,
        error_score="raise",
    )
    with parallel_config(backend="threading") if lanes > 1 else nullcontext():
        search.fit(train.X, train.y)
    how = {
        "method": config.search_method,
        "estimator": f"{kind.__module__}.{kind.__name__}",
        "fixed": fixed,
        "space": {name: list(values) for name, values in space.items() if name != resource},
    }
    return Search(params=dict(search.best_params_), table=_table(search.cv_results_, config.cv_splits), how=how)


def _halving(estimator: Any, space: dict[str, Sequence[Any]], *, n_iter: int, **terms: Any) -> HalvingRandomSearchCV:
    """Successive halving with trees as the resource."""
    others = {name: values for name, values in space.items() if name != "n_estimators"}
    return HalvingRandomSearchCV(
        estimator,
        others,
        n_candidates=n_iter,
        resource="n_estimators",
        min_resources="exhaust",
        max_resources=min(LAST_TREES, max(space["n_estimators"])),
        return_train_score=False,
        **terms,
    )


def _check_first_fold(train: Samples, splits: int) -> None:
    """Refuse a search whose first fold, the shortest, has nothing to learn from; the others hold it."""
    count = len(train.y)
    first = count - splits * (count // (splits + 1)) - 1
    if count <= splits or len(np.unique(train.y[: max(first, 0)])) < 2:
        raise NotEnoughHistoryError(
            f"{count} days of train are too few for {splits} search folds (the first must have days that rise and days "
            "that do not); lower --cv-splits, use --no-tune or ingest an earlier start"
        )


def _table(results: Mapping[str, Any], splits: int) -> list[JsonDict]:
    """`cv_results_` as plain rows, without the times, which differ from run to run."""
    folds = np.column_stack([results[f"split{i}_test_score"] for i in range(splits)])
    means = results["mean_test_score"]
    ranks = rankdata(-means - 2 * results.get("iter", 0), method="min")  # a score is at most 1: rounds come first
    return [
        {
            "params": dict(params),
            "scores": [float(score) for score in scores],
            "mean": float(mean),
            "rank": int(rank),
        }
        for params, scores, mean, rank in zip(results["params"], folds, means, ranks, strict=True)
    ]
