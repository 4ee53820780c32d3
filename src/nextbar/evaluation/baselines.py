"""The model beside what needs no model, on the same rows, days and costs.

Rows are out-of-sample rows, one per decision day and ticker, with the columns ``date ticker fold probability
predicted_close threshold class signal next_return strategy_return``; their order does not matter. Classification
figures pool all rows, truth is ``next_return > 0``. Money figures are those of the equal-weight portfolio of the
tickers: for one ticker, of that ticker. They are computed from the signals, never from ``strategy_return``, so that the
same rows can be scored at another cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pandas as pd

from nextbar.decisions.policy import to_signal
from nextbar.errors import BadBarsError
from nextbar.scoring.backtest import (
    first_rows,
    net_returns,
    one_bar_late,
    performance,
    portfolio,
    sharpe,
    strategy_rows,
    ticker_changes,
)
from nextbar.scoring.metrics import classification, roc_auc
from nextbar.types import BoolArray, DateArray, FloatArray, IntArray, JsonDict

AUX_COLUMNS = ("majority", "yesterday", "open_return")


@dataclass(frozen=True, kw_only=True)
class _Book:
    """The rows as arrays [n], sorted by ticker, then date, so that positions carry over fold borders.

    ``ticker`` numbers the ``names``; ``order`` is where each row stood in the frame; ``probability`` is None if the
    model has none. ``cost_bps`` and ``risk_free`` are the terms on which all are compared.
    """

    cost_bps: float
    risk_free: float
    names: list[str]
    ticker: IntArray
    dates: DateArray
    order: IntArray
    predicted: IntArray
    signal: FloatArray
    next_return: FloatArray
    truth: BoolArray
    probability: FloatArray | None


def compare(
    rows: pd.DataFrame, aux: pd.DataFrame | None = None, *, cost_bps: float, risk_free: float = 0.0
) -> JsonDict:
    """Figures of the model and of each baseline.

    Args:
        rows: Out-of-sample rows of one or more tickers.
        aux: One row for each of ``rows``, in their order: ``majority`` (0/1, majority class of that ticker's train part
            in that fold), ``yesterday`` (0/1, close(t) > close(t-1)), ``open_return`` (O(t+2)/O(t+1) - 1; a row
            without one is dropped from ``next_open``, the position carries over it).
        cost_bps: Cost of a change of position by 1, in basis points.
        risk_free: Simple annual rate that the Sharpe ratio subtracts.

    Returns:
        ``model``: the keys of :func:`~nextbar.scoring.metrics.classification` and of
        :func:`~nextbar.scoring.backtest.performance` together. ``baselines``: the same for ``always_long`` and, with
        ``aux``, ``majority_class`` and ``yesterday_direction`` (``roc_auc`` ranks by the class, hence 0.5 for a
        constant one; ``brier`` is None), and money figures alone for ``constant_exposure``: in each ticker a constant
        position, the model's mean size there. ``one_bar_late``: the model's money figures if each signal is executed
        at the next close. ``next_open``: at the next open; None without ``aux``.

    Raises:
        BadBarsError: A ticker has a day twice, or a row has no return.
        ValueError: ``aux`` has not as many rows as ``rows``.
    """
    book = _book(rows, cost_bps, risk_free)
    extra = None if aux is None else _sorted_aux(aux, book)
    baselines = {"always_long": np.ones_like(book.predicted)}
    if extra is not None:
        baselines["majority_class"] = extra["majority"].astype(np.int64)
        baselines["yesterday_direction"] = extra["yesterday"].astype(np.int64)
    figures = {name: _class_baseline(book, predicted) for name, predicted in baselines.items()}
    figures["constant_exposure"] = _money(book, _mean_exposure(book), book.next_return)
    return {
        "model": classification(book.truth, book.predicted, book.probability)
        | _money(book, book.signal, book.next_return),
        "baselines": figures,
        "one_bar_late": _money(book, one_bar_late(book.ticker, book.signal), book.next_return),
        "next_open": None if extra is None else _money(book, book.signal, extra["open_return"]),
    }


def per_ticker(
    rows: pd.DataFrame, aux: pd.DataFrame | None = None, *, cost_bps: float, risk_free: float = 0.0
) -> dict[str, JsonDict]:
    """The model's figures for each ticker on its own, with their baselines.

    Args:
        rows: As for :func:`compare`.
        aux: As for :func:`compare`.
        cost_bps: As for :func:`compare`.
        risk_free: As for :func:`compare`.

    Returns:
        By ticker, sorted: the keys of ``model`` in :func:`compare`, ``always_long_sharpe`` and, with ``aux``,
        ``majority_class_accuracy`` and ``yesterday_direction_accuracy``. (Always long is right on ``positive_share``.)

    Raises:
        BadBarsError: A ticker has a day twice, or a row has no return.
        ValueError: ``aux`` has not as many rows as ``rows``.
    """
    book = _book(rows, cost_bps, risk_free)
    extra = None if aux is None else _sorted_aux(aux, book)
    borders = np.append(np.flatnonzero(first_rows(book.ticker)), len(book.ticker))
    parts = [slice(start, end) for start, end in pairwise(borders)]
    return {name: _one_ticker(book, part, extra) for name, part in zip(book.names, parts, strict=True)}


def _book(rows: pd.DataFrame, cost_bps: float, risk_free: float) -> _Book:
    codes, names = pd.factorize(rows["ticker"], sort=True)
    dates = rows["date"].to_numpy().astype("datetime64[D]")
    order = np.lexsort((dates, codes))
    next_return, probability = _column(rows, "next_return")[order], _column(rows, "probability")[order]
    book = _Book(
        cost_bps=cost_bps,
        risk_free=risk_free,
        names=[str(name) for name in names],
        ticker=codes[order],
        dates=dates[order],
        order=order,
        predicted=rows["class"].to_numpy(dtype=np.int64)[order],
        signal=_column(rows, "signal")[order],
        next_return=next_return,
        truth=next_return > 0,
        probability=None if np.isnan(probability).any() else probability,
    )
    _check(book)
    return book


def _check(book: _Book) -> None:
    twice = np.append(False, (book.ticker[1:] == book.ticker[:-1]) & (book.dates[1:] == book.dates[:-1]))
    lacking = ~np.isfinite(book.next_return)
    for bad, fault, cure in (
        (twice, "a second row of the same day", "folds must not overlap"),
        (lacking, "no next_return", "leave out a day whose next bar is missing"),
    ):
        if bad.any():
            i = int(bad.argmax())
            where = f"{book.names[book.ticker[i]]} {book.dates[i]}: {fault} ({bad.sum()} such rows)"
            raise BadBarsError(f"{where}, expected one row with a return per day; {cure}")


def _column(frame: pd.DataFrame, name: str) -> FloatArray:
    return frame[name].to_numpy(dtype=np.float64, na_value=np.nan)


def _sorted_aux(aux: pd.DataFrame, book: _Book) -> dict[str, FloatArray]:
    if len(aux) != len(book.order):
        raise ValueError(f"aux has {len(aux)} rows, expected one for each of the {len(book.order)} out-of-sample rows")
    return {name: _column(aux, name)[book.order] for name in AUX_COLUMNS}


def _class_baseline(book: _Book, predicted: IntArray) -> JsonDict:
    ranked = {"roc_auc": roc_auc(book.truth, predicted) if predicted.size else None}
    money = _money(book, to_signal(predicted), book.next_return)
    return classification(book.truth, predicted) | ranked | money


def _mean_exposure(book: _Book) -> FloatArray:
    """The model's mean |position| of its ticker, on every row [n]."""
    exposure: FloatArray = np.bincount(book.ticker, weights=np.abs(book.signal)) / np.bincount(book.ticker)
    return exposure[book.ticker]


def _money(book: _Book, position: npt.ArrayLike, next_return: FloatArray) -> JsonDict:
    """Figures of the equal-weight portfolio of positions [n] earning these returns [n]; rows without are dropped."""
    known = np.isfinite(next_return)
    ticker, held = book.ticker[known], np.asarray(position, dtype=np.float64)[known]
    net = strategy_rows(ticker, held, next_return[known], book.cost_bps)
    _, daily = portfolio(book.dates[known], np.column_stack([net, held, ticker_changes(ticker, held)]))
    return performance(daily[:, 0], daily[:, 1], traded=daily[:, 2], risk_free=book.risk_free)


def _one_ticker(book: _Book, part: slice, extra: dict[str, FloatArray] | None) -> JsonDict:
    signal, next_return, truth = book.signal[part], book.next_return[part], book.truth[part]
    always_long = net_returns(np.ones_like(signal), next_return, book.cost_bps)
    probability = None if book.probability is None else book.probability[part]
    figures = classification(truth, book.predicted[part], probability)
    figures |= performance(net_returns(signal, next_return, book.cost_bps), signal, risk_free=book.risk_free)
    figures["always_long_sharpe"] = sharpe(always_long, book.risk_free)
    if extra is not None:
        figures["majority_class_accuracy"] = float(np.mean(extra["majority"][part] == truth))
        figures["yesterday_direction_accuracy"] = float(np.mean(extra["yesterday"][part] == truth))
    return figures
