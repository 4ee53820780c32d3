"""Compute the figures in the metadata: the model beside its baselines, on the same rows, days and costs.

Classification figures are those of the rows with a next return; truth is ``next_return > 0``. Money figures are those
of the portfolio's daily series, which `nextbar.evaluation.series` makes from the signals, never from
``strategy_return``, so that the same rows can be scored at another cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd

from nextbar.evaluation.series import Book, Majority
from nextbar.evaluation.significance import interval
from nextbar.scoring.backtest import against, finite, sharpe
from nextbar.scoring.metrics import Days, Rows, metrics_of, price_errors, reliability_table
from nextbar.types import BoolArray, FloatArray, IntArray, JsonDict

DELISTED = -0.3
"""Return that a delisting for cause is assumed to cost (Shumway, Journal of Finance 52, 1997)."""
RECENT_TICKERS, RECENT_DAYS = 6, 250
"""How much of the predicted closes the figures repeat: a picture's worth, the rest is in the rows."""


def finish_rows(rows: pd.DataFrame, book: Book) -> pd.DataFrame:
    """Fill `strategy_return` of the rows that a book was made of, from its series by ticker."""
    net = np.empty(len(rows))
    net[book.order] = book.by_ticker(book.carried(book.signal))["net"][book.day, book.who]
    return rows.assign(strategy_return=net)


def execution_books(book: Book, aux: pd.DataFrame) -> dict[str, Book]:
    """Make the books of the same signals executed later: ``one_bar_late`` and ``next_open``."""
    opens = aux["open_return"].to_numpy(dtype=np.float64)
    return {"one_bar_late": book.late, "next_open": book.at_opens(opens)}


def figures_of(book: Book, aux: pd.DataFrame) -> JsonDict:
    """Figures of the model and its baselines (see `compare`), and the model's money when executed later."""
    later = {name: money(one.model) for name, one in execution_books(book, aux).items()}
    return compare(book, _majority(aux)) | later


def summarise(rows: pd.DataFrame, aux: pd.DataFrame, book: Book, *, ended: Mapping[str, str] | None = None) -> JsonDict:
    """Pooled figures, baselines, execution variants and per-ticker figures; price errors where prices are predicted."""
    figures = figures_of(book, aux)
    # The verdict needs the interval of the excess at the next open, and the rows hold no opens.
    edge = interval(execution_books(book, aux)["next_open"])
    figures["next_open"]["edge"] = None if edge is None else asdict(edge)
    figures["per_ticker"] = per_ticker(book, _majority(aux))
    figures["delisting"] = delisting(book, ended or {})
    chance, earned = (rows[name].to_numpy(dtype=np.float64) for name in ("probability", "next_return"))
    if np.isfinite(chance).any():
        known = np.isfinite(chance) & np.isfinite(earned)
        figures["reliability"] = reliability_table(earned[known] > 0, chance[known])
    else:
        figures["price"] = finite(_prices(rows, aux))
    return figures


def _majority(aux: pd.DataFrame) -> IntArray | None:
    """[rows] majority class of train; None where nothing was trained."""
    return aux["majority"].to_numpy() if "majority" in aux else None


def _prices(rows: pd.DataFrame, aux: pd.DataFrame) -> JsonDict:
    """Errors in quoted prices per ticker and on average, and the mean squared error on the network's own scale."""
    known = np.isfinite(rows["predicted_close"].to_numpy()) & np.isfinite(rows["next_return"].to_numpy())
    rows, aux = rows[known], aux[known]
    parts = {str(ticker): index for ticker, index in rows.groupby("ticker", sort=True).indices.items()}
    predicted, actual, current = (
        frame[name].to_numpy() for frame, name in ((rows, "predicted_close"), (aux, "next_close"), (aux, "close"))
    )
    by_ticker = {name: price_errors(predicted[at], actual[at], current[at]) for name, at in parts.items()}
    keys = price_errors([], [], [])
    with np.errstate(over="ignore"):
        mean = {f"mean_{key}": _mean([figures[key] for figures in by_ticker.values()]) for key in keys}
        scaled = _scaled(aux)
        networks = _networks(aux, parts, actual, current)
    recent = {name: _recent(rows.iloc[at], aux.iloc[at]) for name, at in list(parts.items())[:RECENT_TICKERS]}
    return {**scaled, **mean, **networks, "per_ticker": by_ticker, "recent": recent}


def _scaled(aux: pd.DataFrame) -> JsonDict:
    """Errors on the target's own scale, under a name of their own for each target: they must not be compared.

    Returns in volatilities also have a share of variance explained, 1 - squared errors / squared errors of a constant
    prediction: 0, and the mean of train.
    """
    squared = np.asarray(aux["scaled_error"].to_numpy(np.float64) ** 2)
    mse = float(np.mean(squared)) if len(aux) else None
    if "scaled_return" not in aux:
        return {"scaled_mse": mse}
    true, mean = (aux[name].to_numpy(np.float64) for name in ("scaled_return", "mean_return"))
    zero, train = _explained(squared, true**2), _explained(squared, (true - mean) ** 2)
    return {"return_mse": mse, "r2_zero": zero, "r2_mean": train}


def _explained(squared: FloatArray, constant: FloatArray) -> float | None:
    return float(1 - squared.sum() / constant.sum()) if constant.any() else None


def _networks(aux: pd.DataFrame, parts: Mapping[str, Any], actual: FloatArray, current: FloatArray) -> JsonDict:
    """Mean skill of each network of an ensemble by itself; nothing for a network alone."""
    names = [name for name in aux if str(name).startswith("network_")]
    found = [
        _mean([price_errors(aux[name].to_numpy()[at], actual[at], current[at])["skill"] for at in parts.values()])
        for name in names
    ]
    return {"network_skills": found} if found else {}


def _recent(rows: pd.DataFrame, aux: pd.DataFrame) -> JsonDict:
    """The last days of one ticker: predicted and actual next close, and today's, which persistence predicts."""
    order = np.argsort(rows["date"].to_numpy(), kind="stable")[-RECENT_DAYS:]
    dates = [str(day.date()) for day in rows["date"].iloc[order]]
    columns = {"predicted": rows["predicted_close"], "actual": aux["next_close"], "persistence": aux["close"]}
    return {"date": dates, **{name: values.iloc[order].tolist() for name, values in columns.items()}}


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def compare(book: Book, majority: Majority | IntArray | None = None) -> JsonDict:
    """Compute the figures of the model and of each baseline; without majority classes that baseline is left out.

    ``roc_auc`` of a baseline ranks by its class, hence 0.5 for a constant one; ``brier`` and ``log_loss`` are None.
    `constant_exposure` has money figures alone.
    """
    tracks, classes = book.baselines(majority), book.classes(majority)
    figures = {name: money(track) for name, track in tracks.items()}
    for name, predicted in classes.items():
        figures[name] = (
            _classes(book, predicted, predicted.astype(np.float64)) | {"brier": None, "log_loss": None} | figures[name]
        )
    return {"model": _model(book, tracks["always_long"]), "baselines": figures}


def per_ticker(book: Book, majority: Majority | IntArray | None = None) -> dict[str, JsonDict]:
    """Compute the model's figures for each ticker on its own, with their baselines."""
    return {ticker: _one_ticker(book.only(ticker), majority) for ticker in book.tickers}


def by_year(book: Book) -> list[JsonDict]:
    """Compute figures of the model for each calendar year; positions carry over from one to the next."""
    years = book.dates.astype("datetime64[Y]")
    long = book.baselines(None)["always_long"]
    found = []
    for year in np.unique(years):
        here = years == year
        own = _classes(book, book.predicted, book.probability, here[book.day])
        later = {"always_long_sharpe": sharpe(long.excess[here], book.terms.periods)}
        found.append({"year": str(year), **own, **metrics_of(_part(book.model, here)), **later})
    return found


def _part(days: Days, here: BoolArray) -> Days:
    series = {name: getattr(days, name)[here] for name in ("net", "excess", "exposure", "traded")}
    return replace(days, **series, round_trips=0)


def money(days: Days) -> JsonDict:
    """Compute the figures of one strategy: the metrics of its days, and ``round_trips``."""
    return metrics_of(days) | {"round_trips": days.round_trips}


def delisting(book: Book, ended: Mapping[str, str]) -> JsonDict:
    """What a return of `DELISTED`, instead of the sale at the last close, would have cost the model."""
    last = np.flatnonzero(np.roll(book.first, -1))
    closed = [
        row
        for row, ticker in zip(last, book.tickers, strict=True)
        if ended.get(ticker) == str(book.dates[book.day[row]]) and not book.holdable[row]
    ]
    before = np.array([0.0 if book.first[row] else book.signal[row - 1] for row in closed])
    effect = DELISTED * float(before.sum()) / max(len(book.tickers), 1)
    return {"tickers": len(closed), "open": int(np.count_nonzero(before)), "effect": effect + 0.0}  # not -0.0


def _model(book: Book, always_long: Days) -> JsonDict:
    return (
        _classes(book, book.predicted, book.probability)
        | money(book.model)
        | against(book.model.excess, always_long.excess, book.terms.periods)
    )


def _classes(book: Book, classes: IntArray, probability: FloatArray, here: BoolArray | bool = True) -> JsonDict:
    """Compute the metrics of the rows with a next return, or of some, from classes and probabilities [rows]."""
    return metrics_of(rows_of(book, classes, probability, here))


def rows_of(book: Book, classes: IntArray, probability: FloatArray, here: BoolArray | bool = True) -> Rows:
    """Collect the rows with a next return, or some of them, with classes and probabilities [rows]."""
    scored = book.scored & here
    truth, predicted = book.earned[scored] > 0, classes[scored] == 1
    chance, who, day = probability[scored], book.who[scored], book.day[scored]
    return Rows(truth=truth, predicted=predicted, probability=chance, ticker=who, earned=book.earned[scored], day=day)


def _one_ticker(book: Book, majority: Majority | IntArray | None) -> JsonDict:
    classes = book.classes(majority)
    always_long = book.track(book.carried(classes.pop("always_long").astype(np.float64)))
    truth = book.earned[book.scored] > 0
    figures = _model(book, always_long) | {"always_long_sharpe": sharpe(always_long.excess, book.terms.periods)}
    for name, predicted in classes.items():
        figures[f"{name}_accuracy"] = float(np.mean(predicted[book.scored] == truth)) if truth.size else None
    return figures
