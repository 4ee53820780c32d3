"""Diagnose a fit: what is degenerate about it, and which columns it uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

import numpy as np

from nextbar.datasets.samples import Samples, Splits
from nextbar.models.base import Fitted
from nextbar.scoring.metrics import roc_auc
from nextbar.scoring.threshold import MIN_DAYS, ThresholdChoice
from nextbar.types import Columns, FeatureTable, FloatArray, IntArray, JsonDict

Kind: TypeAlias = Literal["validation", "trees", "threshold", "test"]
OF_THE_FIT: tuple[Kind, ...] = ("trees", "threshold")
"""Kinds that are true of all tickers of a pooled model or of none."""
REPEATS = 5
"""Shuffles of each column."""


def find_all_degenerate(
    panel: Sequence[Splits], facts: JsonDict, choices: Mapping[str, ThresholdChoice], rows: Columns, *, name: str | None
) -> dict[str, dict[str, str]]:
    """Ticker → what is degenerate about the fit; only tickers of which there is something to say.

    What is true of a pooled model as a whole stands once, under ``name``.
    """
    predicted = np.isfinite(rows["probability"]) | np.isfinite(rows["predicted_close"])
    found: dict[str, dict[str, str]] = {}
    whole: dict[str, str] = {}
    for data in panel:
        ticker = data.table.ticker
        classes = rows["class"][predicted & (rows["ticker"] == ticker)]
        found[ticker] = find_degenerate(data, facts, choices.get(ticker), classes)
        if name is not None:
            whole |= {kind: found[ticker].pop(kind) for kind in OF_THE_FIT if kind in found[ticker]}
    if name is not None:
        found[name] = found.get(name, {}) | whole
    return {ticker: words for ticker, words in found.items() if words}


def find_degenerate(data: Splits, facts: JsonDict, choice: ThresholdChoice | None, classes: IntArray) -> dict[str, str]:
    """Say in words what is degenerate about a fit on one ticker; nothing where all is well."""
    found: dict[str, str] = {}
    if len(np.unique(data.val.y)) < 2:
        found["validation"] = f"validation has one class ({_moves(data.val)})"
    if facts.get("best_iteration") == 0:
        found["trees"] = "boosting stopped after its first tree"
    if choice is not None and choice.objective == "default":
        found["threshold"] = f"the threshold is {choice.threshold} ({choice.reason})"
    if len(classes) >= MIN_DAYS and len(np.unique(classes)) == 1:
        found["test"] = f"all {len(classes)} test days are predicted {'UP' if classes[0] else 'DOWN'}"
    return found


def _moves(part: Samples) -> str:
    """Say how the days of a split with one class move."""
    days = len(part.y)
    how = "rise" if part.y[0] else "do not move" if not part.next_returns.any() else "do not rise"
    return f"{days} of {days} days {how}"


def permutation_importance(fitted: Fitted, panel: Sequence[Splits], *, seed: int) -> dict[str, float] | None:
    """Compute the mean loss of ROC-AUC on validation when a column is shuffled (Breiman 2001); None for one class.

    The validation rows of all tickers are taken together: to a pooled model it makes no difference whose a row is.
    """
    table = panel[0].table
    features, truth = (np.concatenate([getattr(data.val, name) for data in panel]) for name in ("X", "y"))
    whole = _auc(fitted, table, features, truth)
    if whole is None:
        return None
    generator = np.random.default_rng(seed)
    losses = np.empty((len(table.columns), REPEATS))
    for column, repeat in np.ndindex(losses.shape):
        shuffled = features.copy()
        shuffled[:, column] = generator.permutation(shuffled[:, column])
        losses[column, repeat] = whole - (_auc(fitted, table, shuffled, truth) or 0.0)
    return dict(zip(table.columns, losses.mean(axis=1).tolist(), strict=True))


def mean_contributions(fitted: Fitted, panel: Sequence[Splits]) -> dict[str, float] | None:
    """Return the mean absolute contribution of each column on days after train, evenly spaced; None if there is none.

    Validation is part of them, because the last test window of a walk-forward may hold a day.
    """
    features = np.concatenate([part.X for data in panel for part in (data.val, data.test)])
    rows = np.unique(np.linspace(0, len(features) - 1, fitted.explained).astype(np.int64))
    found = fitted.contributions(features[rows]) if len(features) and len(rows) else None
    if found is None or not np.isfinite(found).all():
        return None
    return dict(zip(panel[0].table.columns, np.abs(found).mean(axis=0, dtype=np.float64).tolist(), strict=True))


def _auc(fitted: Fitted, table: FeatureTable, features: FloatArray, truth: IntArray) -> float | None:
    """ROC-AUC with other features."""
    return roc_auc(truth, fitted.predict(replace(table, features=features), np.arange(len(features))))
