"""Score a saved model on later bars, as the fold that made it would: nothing is fitted and no threshold is chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from nextbar.datasets.samples import Bars
from nextbar.errors import FeatureError
from nextbar.evaluation.walkforward import FittedFold, FoldResult, FoldTask, fold_result, predicted_fold, ready_fold
from nextbar.models.base import Report, Saved
from nextbar.models.reproducibility import digest_arrays
from nextbar.scoring.threshold import ThresholdChoice


@dataclass(frozen=True, kw_only=True)
class SavedFold:
    """A saved model and what it is scored on.

    Attributes:
        task: Its fold, with a test that goes on to the last bar, and the day from which rows are made.
        choices: Ticker → the threshold that was chosen when it was fitted; none for a model that predicts prices.
        columns: Its feature columns, in order.
        features: sha256 of the features of the bars that it was trained and tested on.
        seen: Ticker → how many bars those are.
    """

    task: FoldTask
    saved: Saved
    choices: Mapping[str, ThresholdChoice]
    columns: tuple[str, ...]
    features: str
    seen: Mapping[str, int]


def score_saved(fold: SavedFold, bars: Mapping[str, Bars], report: Report) -> FoldResult:
    """Load a model and predict the days from which it is scored."""
    task = fold.task
    ready = ready_fold(task, bars, report)
    fitted = task.model.restore(fold.saved)
    choices = [fold.choices.get(data.table.ticker) for data in ready.panel]
    found = predicted_fold(task, bars, ready, fitted, choices)
    _check_features(fold, found)
    return replace(fold_result(task, found), params=fold.saved.params or None)


def _check_features(fold: SavedFold, found: FittedFold) -> None:
    """Refuse features that have changed, where no ticker was left out."""
    tables = [data.table for data in found.panel]
    name = fold.saved.name
    if any(table.columns != fold.columns for table in tables):
        raise FeatureError(
            f"{name} was trained on the columns {', '.join(fold.columns)}; now they are {', '.join(tables[0].columns)}"
        )
    now = digest_arrays([table.features[: fold.seen[table.ticker]] for table in tables])
    if len(tables) == len(fold.seen) and now != fold.features:
        raise FeatureError(
            f"{name}: features have other values than when it was trained, on the same bars; bring the old ones back "
            "(nextbar reproduce tells which versions have changed) or train again"
        )
