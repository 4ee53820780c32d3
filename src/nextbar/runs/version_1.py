"""Documents of version 1, which 0.1.0 wrote: a shape for training runs, another for walk-forwards."""

from __future__ import annotations

from nextbar.datasets.splits import split_window
from nextbar.types import JsonDict

FIGURES = ("baselines", "one_bar_late", "next_open", "per_ticker", "delisting", "reliability", "price")
"""Figures beside those of the model; the first three are those of a fold, too."""
DETAILS = (
    *("network", "history", "best_epoch", "windows", "target_range", "test_share_outside_scaler"),
    *("best_iteration", "validation_logloss"),
)
"""Facts of version 1 that only one kind of model has."""


def upgrade(document: JsonDict) -> JsonDict:
    """Bring a document of version 1, with its two shapes, into the shape of version 2, still to be validated."""
    walked, config, skipped = "folds" in document, document["config"], document["skipped"]
    figures = document if walked else document["metrics"]
    folds = document["folds"] if walked else [_only_fold(document)]
    tasks = [task for fold in folds for task in fold["tasks"]]
    columns: list[str] = next((task["columns"] for task in tasks if "columns" in task), [])
    named = {"columns": columns, "function": config["features"], "warmup": config["warmup"]}
    if isinstance(skipped, dict):
        skipped = [{"ticker": ticker, "fold": None, "reason": reason} for ticker, reason in skipped.items()]
    empty: JsonDict = {"holes": {}, "ended": {}, "remarks": [], "rules": 1, "features": named}
    return {
        **empty,
        **{name: figures[name] for name in FIGURES if name in figures},
        **document,
        "schema_version": 2,
        "kind": "walkforward" if walked else "train",
        "pooled": figures["pooled" if walked else "model"],
        "after_last_training_day": figures.get("after_last_training_day"),
        "skipped": skipped,
        "folds": [{**fold, "tasks": [_upgrade_task(task) for task in fold["tasks"]]} for fold in folds],
    }


def _only_fold(document: JsonDict) -> JsonDict:
    """Make the fold of a training run of version 1."""
    metrics = document["metrics"]
    return {
        "number": 0,
        **split_window(document["splits"].values()),
        "rows": metrics["model"]["n"],
        "metrics": {name: metrics[name] for name in ("model", *FIGURES[:3])},
        "tasks": [{**document, "name": document["task"], "seed": document["task_seed"]}],
    }


def _upgrade_task(task: JsonDict) -> JsonDict:
    return {**task, "details": {name: task[name] for name in DETAILS if name in task}}
