"""What a model loses when it cannot use a column: permutation importance on validation (Breiman 2001)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from nextbar.datasets.assemble import TickerData
from nextbar.models.protocol import Fitted
from nextbar.scoring.metrics import roc_auc
from nextbar.types import FloatArray

REPEATS = 5


def permutation_importance(fitted: Fitted, data: TickerData, *, seed: int) -> dict[str, float] | None:
    """Mean loss of ROC-AUC on validation when a column's rows are shuffled; may be below 0.

    Args:
        fitted: A model of probabilities.
        data: One ticker; its test samples are not looked at.
        seed: Of the shuffles.

    Returns:
        Column → loss; None where validation holds one class.
    """
    val = data.splits.val
    whole = _auc(fitted, data, val.X)
    if whole is None:
        return None
    generator = np.random.default_rng(seed)
    losses = np.empty((len(data.table.columns), REPEATS))
    for column, repeat in np.ndindex(losses.shape):
        shuffled = val.X.copy()
        shuffled[:, column] = generator.permutation(shuffled[:, column])
        losses[column, repeat] = whole - (_auc(fitted, data, shuffled) or 0.0)
    return dict(zip(data.table.columns, losses.mean(axis=1).tolist(), strict=True))


def _auc(fitted: Fitted, data: TickerData, features: FloatArray) -> float | None:
    splits = replace(data.splits, val=replace(data.splits.val, X=features))
    probability = fitted.validate(replace(data, splits=splits))
    return None if probability is None else roc_auc(data.splits.val.y, probability)
