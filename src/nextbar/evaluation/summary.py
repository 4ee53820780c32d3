"""From out-of-sample rows to the figures that stand in the metadata, each beside its baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
import pandas as pd

from nextbar.evaluation.baselines import compare, delisting, money, per_ticker
from nextbar.evaluation.series import Book
from nextbar.evaluation.significance import interval
from nextbar.scoring.backtest import finite
from nextbar.scoring.metrics import price_errors, reliability_table
from nextbar.types import JsonDict

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
    later = {name: money(one.model, one.terms) for name, one in execution_books(book, aux).items()}
    return compare(book, aux["majority"].to_numpy()) | later


def summarise(rows: pd.DataFrame, aux: pd.DataFrame, book: Book, *, ended: Mapping[str, str] | None = None) -> JsonDict:
    """Pooled figures, baselines, execution variants and per-ticker figures; price errors where prices are predicted.

    Args:
        rows: Out-of-sample rows.
        aux: Row by row beside them, as `nextbar.evaluation.walkforward.FoldResult` says.
        book: The rows as series.
        ended: Ticker → day of its last bar, for tickers that end before the others.
    """
    figures = figures_of(book, aux)
    # The verdict needs the interval of the excess at the next open, and the rows hold no opens.
    edge = interval(execution_books(book, aux)["next_open"])
    figures["next_open"]["edge"] = None if edge is None else asdict(edge)
    figures["per_ticker"] = per_ticker(book, aux["majority"].to_numpy())
    figures["delisting"] = delisting(book, ended or {})
    chance, earned = (rows[name].to_numpy(dtype=np.float64) for name in ("probability", "next_return"))
    if np.isfinite(chance).any():
        known = np.isfinite(chance) & np.isfinite(earned)
        figures["reliability"] = reliability_table(earned[known] > 0, chance[known])
    else:
        figures["price"] = finite(_prices(rows, aux))
    return figures


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
        scaled = {"scaled_mse": float(np.mean(aux["scaled_error"].to_numpy() ** 2)) if len(aux) else None}
    recent = {name: _recent(rows.iloc[at], aux.iloc[at]) for name, at in list(parts.items())[:RECENT_TICKERS]}
    return {**scaled, **mean, "per_ticker": by_ticker, "recent": recent}


def _recent(rows: pd.DataFrame, aux: pd.DataFrame) -> JsonDict:
    """The last days of one ticker: predicted and actual next close, and today's, which persistence predicts."""
    order = np.argsort(rows["date"].to_numpy(), kind="stable")[-RECENT_DAYS:]
    dates = [str(day.date()) for day in rows["date"].iloc[order]]
    columns = {"predicted": rows["predicted_close"], "actual": aux["next_close"], "persistence": aux["close"]}
    return {"date": dates, **{name: values.iloc[order].tolist() for name, values in columns.items()}}


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
