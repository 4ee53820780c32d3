"""The model beside what needs no model, on the same rows, days and costs.

Classification figures are those of the rows with a next return; truth is ``next_return > 0``. Money figures are those
of the portfolio's daily series, which `nextbar.evaluation.series` makes from the signals, never from
``strategy_return``, so that the same rows can be scored at another cost.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nextbar.evaluation.series import Book, Majority, Terms, Track
from nextbar.scoring.backtest import against, performance, sharpe
from nextbar.scoring.metrics import classification, roc_auc
from nextbar.types import FloatArray, IntArray, JsonDict

DELISTED = -0.3
"""Return that a delisting for cause is assumed to cost (Shumway, Journal of Finance 52, 1997)."""


def compare(book: Book, majority: Majority | IntArray | None = None) -> JsonDict:
    """Compute the figures of the model and of each baseline.

    Args:
        book: Out-of-sample rows of one or more tickers.
        majority: Majority classes of train, as `Book.majority` takes them; None leaves that baseline out.

    Returns:
        ``model``: the keys of :func:`~nextbar.scoring.metrics.classification`, of :func:`money` and of
        :func:`~nextbar.scoring.backtest.against` (beside always long) together. ``baselines``: the first two for
        ``always_long``, ``majority_class`` and ``yesterday_direction`` (``roc_auc`` ranks by the class, hence 0.5 for a
        constant one; ``brier`` is None), and :func:`money` alone for ``constant_exposure``: in each ticker a constant
        position, the model's mean position there.
    """
    tracks, classes = book.baselines(majority), book.classes(majority)
    figures = {name: money(track, book.terms) for name, track in tracks.items()}
    figures |= {name: _baseline(book, predicted) | figures[name] for name, predicted in classes.items()}
    return {"model": _model(book, tracks["always_long"]), "baselines": figures}


def per_ticker(book: Book, majority: Majority | IntArray | None = None) -> dict[str, JsonDict]:
    """Compute the model's figures for each ticker on its own, with their baselines.

    Returns:
        By ticker, sorted: the keys of ``model`` in :func:`compare`, ``always_long_sharpe``,
        ``yesterday_direction_accuracy`` and, with majority classes, ``majority_class_accuracy``. (Always long is right
        on ``positive_share``.)
    """
    return {ticker: _one_ticker(book.only(ticker), majority) for ticker in book.tickers}


def money(track: Track, terms: Terms) -> JsonDict:
    """Compute the figures of one strategy: those of `performance`, and ``round_trips``."""
    figures = performance(
        track.net,
        track.exposure,
        excess=track.excess,
        traded=track.traded,
        cost_bps=terms.cost_bps,
        periods=terms.periods,
    )
    return figures | {"round_trips": track.round_trips}


def delisting(book: Book, ended: Mapping[str, str]) -> JsonDict:
    """What a return of `DELISTED`, instead of the sale at the last close, would have cost the model.

    Args:
        book: The rows, in which a ticker that ended has a last row without a return.
        ended: Ticker → day of its last bar.

    Returns:
        ``tickers`` that ended inside the rows, ``open``: how many of them a position was open in, and ``effect``: the
        sum of the portfolio returns lost.
    """
    last = np.flatnonzero(np.roll(book.first, -1))
    closed = [
        row
        for row, ticker in zip(last, book.tickers, strict=True)
        if ended.get(ticker) == str(book.dates[book.day[row]]) and not book.holdable[row]
    ]
    before = np.array([0.0 if book.first[row] else book.signal[row - 1] for row in closed])
    effect = DELISTED * float(before.sum()) / max(len(book.tickers), 1)
    return {"tickers": len(closed), "open": int(np.count_nonzero(before)), "effect": effect + 0.0}  # not -0.0


def _model(book: Book, always_long: Track) -> JsonDict:
    unknown = np.isnan(book.probability[book.scored]).any()
    return (
        _classes(book, book.predicted, None if unknown else book.probability)
        | money(book.model, book.terms)
        | against(book.model.excess, always_long.excess, book.terms.periods)
    )


def _baseline(book: Book, classes: IntArray) -> JsonDict:
    truth = book.earned[book.scored] > 0
    return _classes(book, classes, None) | {"roc_auc": roc_auc(truth, classes[book.scored]) if truth.size else None}


def _classes(book: Book, classes: IntArray, probability: FloatArray | None) -> JsonDict:
    """Classification figures of the rows with a next return, from classes and probabilities [rows]."""
    scored = book.scored
    chance = None if probability is None else probability[scored]
    return classification(book.earned[scored] > 0, classes[scored], chance, ticker=book.who[scored])


def _one_ticker(book: Book, majority: Majority | IntArray | None) -> JsonDict:
    classes = book.classes(majority)
    always_long = book.track(book.carried(classes.pop("always_long").astype(np.float64)))
    truth = book.earned[book.scored] > 0
    figures = _model(book, always_long) | {"always_long_sharpe": sharpe(always_long.excess, book.terms.periods)}
    for name, predicted in classes.items():
        figures[f"{name}_accuracy"] = float(np.mean(predicted[book.scored] == truth)) if truth.size else None
    return figures
