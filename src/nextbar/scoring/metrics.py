"""Figures about predictions: of a class, of a probability, of a price. A figure that does not exist is None.

Formulas are written out: scikit-learn's checks take 10 ms for a figure of sixty rows, and there is one set per fold.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from nextbar.scoring.backtest import finite
from nextbar.types import BoolArray, FloatArray, IntArray, JsonDict

_CLASS_FIGURES = ("accuracy", "balanced_accuracy", "precision", "recall", "f1", "roc_auc", "rmse", "brier")
_PRICE_FIGURES = (
    "price_rmse",
    "price_rmse_percent",
    "price_mae",
    "persistence_rmse",
    "persistence_rmse_percent",
    "skill",
)


def classification(
    truth: npt.ArrayLike,
    predicted: npt.ArrayLike,
    probability: npt.ArrayLike | None = None,
    *,
    ticker: IntArray | None = None,
) -> JsonDict:
    """Figures of predicted up/down classes, those of scikit-learn with a division by zero counted as 0.

    Args:
        truth: [n] whether the next close was higher, bool or 0/1.
        predicted: [n] the predicted class, 0/1.
        probability: [n] predicted probability of class 1, or None if the model has none.
        ticker: [n] number of the row's ticker, from 0; None: all rows are of one.

    Returns:
        ``n``, ``positive_share`` (of the truth), ``accuracy``, ``balanced_accuracy`` (see :func:`balanced_accuracy`),
        ``precision``, ``recall``, ``f1``, ``roc_auc``, ``rmse`` (of the predicted class:
        √(1 - accuracy)) and ``brier`` (mean squared error of the probability). ``roc_auc`` and ``brier`` are None
        without a probability, ``roc_auc`` also where the truth holds one class, all but ``n`` where there are no rows.
    """
    actual, guess = np.asarray(truth, dtype=np.int64), np.asarray(predicted, dtype=np.int64)
    if not actual.size:
        return {"n": 0, "positive_share": None} | dict.fromkeys(_CLASS_FIGURES)
    hits, long, up = int(actual @ guess), int(guess.sum()), int(actual.sum())
    right = int((actual == guess).sum())
    counts = outcomes(actual == 1, guess == 1, np.zeros(actual.size, dtype=np.int64) if ticker is None else ticker)
    accuracy = right / actual.size
    return {
        "n": int(actual.size),
        "positive_share": up / actual.size,
        "accuracy": accuracy,
        "balanced_accuracy": float(balanced_accuracy(counts)),
        "precision": _share(hits, long),
        "recall": _share(hits, up),
        "f1": _share(2 * hits, long + up),
        "roc_auc": None if probability is None else roc_auc(actual, probability),
        "rmse": float(np.sqrt(1 - accuracy)),
        "brier": None if probability is None else float(np.mean((actual - np.asarray(probability)) ** 2)),
    }


def outcomes(truth: BoolArray, predicted: BoolArray, group: IntArray, groups: int = 1) -> FloatArray:
    """Count, for each group of rows: rises predicted, rises, falls predicted, falls.

    Args:
        truth: [n] whether the next close was higher.
        predicted: [n] whether it was predicted to be.
        group: [n] number of the row's group (its ticker, or its day), from 0.
        groups: How many there are at least.

    Returns:
        [groups, 4].
    """
    kinds = (predicted & truth, truth, ~predicted & ~truth, ~truth)
    return np.stack([np.bincount(group, weights=kind, minlength=groups) for kind in kinds], axis=1)


def balanced_accuracy(counts: FloatArray) -> FloatArray:
    """Mean over tickers of the mean recall of rises and falls, weighted by their days.

    Pooling the recalls of all tickers would reward a constant class per ticker wherever tickers rise on different
    shares of their days. A ticker with rises alone or falls alone says nothing and has no weight; where every ticker is
    such a one, the result is the accuracy. Without days it is NaN.

    Args:
        counts: [..., tickers, 4] rises predicted, rises, falls predicted, falls; whole numbers, or weights of a draw.

    Returns:
        [...].
    """
    rises, falls = counts[..., 1], counts[..., 3]
    both, days = (rises > 0) & (falls > 0), rises + falls
    with np.errstate(invalid="ignore", divide="ignore"):
        recalls = (counts[..., 0] / rises + counts[..., 2] / falls) / 2
        accuracy = (counts[..., 0] + counts[..., 2]) / days
        weight = np.where(both.any(axis=-1, keepdims=True), days * both, days)
        share = weight / weight.sum(axis=-1, keepdims=True)
    mean: FloatArray = np.where(share == 0, 0.0, np.where(both, recalls, accuracy) * share).sum(axis=-1)
    return mean


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def roc_auc(truth: npt.ArrayLike, score: npt.ArrayLike) -> float | None:
    """Area under the ROC curve of any score [n]; 0.5 for a constant one, None where the truth [n] holds one class.

    From the ranks of the scores, ties sharing theirs (Mann and Whitney 1947).
    """
    actual = np.asarray(truth, dtype=bool)
    up, down = int(actual.sum()), int((~actual).sum())
    if not up or not down:
        return None
    return float((rankdata(score)[actual].sum() - up * (up + 1) / 2) / (up * down))


def reliability_table(truth: npt.ArrayLike, probability: npt.ArrayLike, bins: int = 10) -> list[JsonDict]:
    """How often the close rose among days with about the same predicted probability.

    Args:
        truth: [n] whether the next close was higher, bool or 0/1.
        probability: [n] predicted probability of class 1, in [0, 1].
        bins: Number of bins of equal width; each holds its lower edge, the last its upper edge too.

    Returns:
        One record per bin, lowest first: ``lower``, ``upper``, ``count``, ``mean_probability`` and ``positive_share``;
        the last two are None in an empty bin.
    """
    actual, chance = np.asarray(truth, dtype=np.float64), np.asarray(probability, dtype=np.float64)
    # Not linspace, whose fourth edge of ten lies above 0.3: a probability of 0.3 belongs to the bin that starts there.
    edges = np.arange(bins + 1) / bins
    which = np.clip(np.searchsorted(edges, chance, side="right") - 1, 0, bins - 1)
    counts = np.bincount(which, minlength=bins)
    chances, positives = (np.bincount(which, weights=column, minlength=bins) for column in (chance, actual))
    return [
        {
            "lower": float(edges[i]),
            "upper": float(edges[i + 1]),
            "count": int(count),
            "mean_probability": float(chances[i] / count) if count else None,
            "positive_share": float(positives[i] / count) if count else None,
        }
        for i, count in enumerate(counts)
    ]


def price_errors(predicted: npt.ArrayLike, actual: npt.ArrayLike, current: npt.ArrayLike) -> JsonDict:
    """Errors of a predicted next close beside those of persistence, "tomorrow = today".

    Args:
        predicted: [n] predicted close of t+1.
        actual: [n] close of t+1, positive, in the same price units.
        current: [n] close of t, which is what persistence predicts.

    Returns:
        ``price_rmse``, ``price_mae`` and ``persistence_rmse`` in price units, ``price_rmse_percent`` and
        ``persistence_rmse_percent`` (RMSE of the error in percent of the actual close), and ``skill``, the mean square
        skill score 1 - MSE / MSE of persistence (Murphy 1988): 0 is no better, 1 is perfect. Without rows all are None,
        ``skill`` also where persistence makes no error.
    """
    forecast, close, today = (np.asarray(prices, dtype=np.float64) for prices in (predicted, actual, current))
    if not close.size:
        return dict.fromkeys(_PRICE_FIGURES)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        mse, mse_persistence = (float(np.mean((close - prices) ** 2)) for prices in (forecast, today))
        figures = {
            "price_rmse": float(np.sqrt(mse)),
            "price_rmse_percent": _rmse_percent(forecast, close),
            "price_mae": float(np.mean(np.abs(close - forecast))),
            "persistence_rmse": float(np.sqrt(mse_persistence)),
            "persistence_rmse_percent": _rmse_percent(today, close),
            "skill": 1 - mse / mse_persistence if mse_persistence else None,
        }
    return dict(finite(figures))


def _rmse_percent(forecast: FloatArray, close: FloatArray) -> float:
    return float(100 * np.sqrt(np.mean((forecast / close - 1) ** 2)))
