"""Search over a stated space, on train alone, in time order with a gap of one day before each test fold.

Random search fits every candidate in full. Halving (Jamieson and Talwalkar 2016) fits all with few trees and goes on
with the best third, three times as many trees each; rows are never subsampled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from importlib import import_module
from typing import Any

import numpy as np
from joblib import parallel_config
from sklearn.model_selection import RandomizedSearchCV, TimeSeriesSplit

from nextbar.datasets.samples import Pool, Samples
from nextbar.errors import NotEnoughHistoryError
from nextbar.models.base import FitRequest
from nextbar.models.reproducibility import digest_arrays, digest_text
from nextbar.models.tree_model import Search, SearchedModel, weights_of
from nextbar.types import IntArray, JsonDict

LAST_TREES = 100
"""Most trees of a candidate in halving: the last round has about so many, and so has the model that it chooses."""


def choose_params(
    candidate: Any,
    fixed: JsonDict,
    train: Samples | Pool,
    request: FitRequest,
    *,
    model: SearchedModel,
    space: Mapping[str, Sequence[Any]] | None = None,
    weight: str = "sample_weight",
) -> Search:
    """Take the given parameters as they are, else search, else take the stated defaults.

    A fit has one thread. Tasks are what runs in parallel, and only where they leave cores idle, fits of one search.
    ``weight`` is the name under which the estimator takes the weights of pooled rows.
    """
    if request.params is not None or not request.search:
        params = dict(model.starting_params(train) if request.params is None else request.params)
        return Search(params=params, table=[], scoring=model.scoring)
    space, draws = model.space_for(train, space or model.built_in_space), model.draws
    kind, method = type(candidate), model.search_method
    own = sorted(candidate.get_params().items(), key=lambda item: item[0])
    terms = repr((kind, own, space, draws, request.seed, method, model.n_iter, model.cv_splits))
    pooled = [train.dates, train.ends, train.weights] if isinstance(train, Pool) else []
    key = digest_text(terms + digest_arrays([train.X, model.target(train), *pooled]))
    folds = _folds(train, model.cv_splits)
    # Intel's forest brings threads of its own and takes all of them below joblib's: it gets one job.
    n_jobs = 1 if kind.__module__.startswith("sklearnex") else request.n_jobs
    shared = {"n_iter": model.n_iter or draws, "random_state": request.seed % 2**32, "n_jobs": n_jobs}
    make, resource = (_halving, "n_estimators") if method == "halving" else (RandomizedSearchCV, None)
    search = make(candidate, dict(space), scoring=model.scoring, cv=folds, refit=False, error_score="raise", **shared)
    how = {
        "method": method,
        "estimator": f"{kind.__module__}.{kind.__name__}",
        "fixed": fixed,
        "space": {name: list(values) for name, values in space.items() if name != resource},
    }
    weights = weights_of(train)
    weighed = {} if weights is None else {weight: weights}
    return request.cache.get_or_compute(key, lambda: _run(search, train, how, model, weighed))


def _folds(train: Samples | Pool, splits: int) -> list[tuple[IntArray, IntArray]]:
    """Return the rows of train and test of each fold in time order; no label of train reaches into test days.

    There are none where the days are too few.
    """
    try:
        if isinstance(train, Pool):
            return pool_folds(train, splits)
        return list(TimeSeriesSplit(n_splits=splits, gap=1).split(train.X))
    except ValueError:
        return []


def pool_folds(train: Pool, splits: int) -> list[tuple[IntArray, IntArray]]:
    """Return the rows of train and test of each fold by date; a row whose label ends on a test day is in none."""
    days, found = np.unique(train.dates), []
    for _, tested in TimeSeriesSplit(n_splits=splits).split(days):
        first, last = days[tested[0]], days[tested[-1]]
        inside = (train.dates >= first) & (train.dates <= last)
        found.append((np.flatnonzero(train.ends < first), np.flatnonzero(inside)))
    return found


def _run(
    search: Any, train: Samples | Pool, how: JsonDict, model: SearchedModel, weighed: Mapping[str, np.ndarray]
) -> Search:
    """Search, unless the first fold, the shortest, has nothing to learn from; the others hold it."""
    if not search.cv or len(np.unique(train.y[search.cv[0][0]])) < 2:
        count = train.days if isinstance(train, Pool) else len(train.y)
        raise NotEnoughHistoryError(
            f"{count} days of train are too few for {model.cv_splits} search folds (the first must have days that rise "
            "and days that do not); lower --cv-splits, use --no-tune or ingest an earlier start"
        )
    with parallel_config(backend="threading") if search.n_jobs > 1 else nullcontext():
        search.fit(train.X, model.target(train), **weighed)
    table = _table(search.cv_results_, model.cv_splits)
    return Search(params=dict(search.best_params_), table=table, how=how, scoring=model.scoring)


def _halving(estimator: Any, space: dict[str, Sequence[Any]], *, n_iter: int, **terms: Any) -> Any:
    """Make a successive halving with trees as the resource; scikit-learn has it where its experiment is imported."""
    import_module("sklearn.experimental.enable_halving_search_cv")
    others = {name: values for name, values in space.items() if name != "n_estimators"}
    return import_module("sklearn.model_selection").HalvingRandomSearchCV(
        estimator,
        others,
        n_candidates=n_iter,
        resource="n_estimators",
        min_resources="exhaust",
        max_resources=min(LAST_TREES, max(space["n_estimators"])),
        return_train_score=False,
        **terms,
    )


def _table(results: Mapping[str, Any], splits: int) -> list[JsonDict]:
    """`cv_results_` as plain rows, without the times, which differ from run to run."""
    folds = np.column_stack([results[f"split{i}_test_score"] for i in range(splits)])
    means = results["mean_test_score"]
    order = -means - 2 * results.get("iter", 0)  # a score is at most 1: later rounds come first
    ranks = 1 + np.searchsorted(np.sort(order), order)
    return [
        {"params": dict(params), "scores": scores, "mean": mean, "rank": rank}
        for params, scores, mean, rank in zip(
            results["params"], folds.tolist(), means.tolist(), ranks.tolist(), strict=True
        )
    ]
