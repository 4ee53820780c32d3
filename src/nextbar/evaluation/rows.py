"""Out-of-sample rows: what a fitted model decides on the days of test, and what the bars gave for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nextbar.datasets.samples import Splits, majority_class
from nextbar.features.indicators import gaps
from nextbar.models.base import Fitted
from nextbar.scoring.backtest import finite
from nextbar.scoring.threshold import ThresholdChoice, classify, to_signal
from nextbar.types import Columns, DateArray, FloatArray, IntArray

ROW_COLUMNS = (
    "date",
    "ticker",
    "fold",
    "probability",
    "predicted_close",
    "threshold",
    "class",
    "signal",
    "next_return",
    "strategy_return",
)
"""Columns of out-of-sample rows; `strategy_return` is filled once folds are stitched.

There is one row per decision. Two more kinds of row say how an open position ends: the first bar after a hole, and the
last bar of a ticker that ends. Nothing is predicted there, the signal is 0. Such a row, and the decision before a hole,
have no next return.
"""


def rows_of_test(
    fitted: Fitted, data: Splits, choice: ThresholdChoice | None, *, fold: int, ended: bool, out_of_sample: bool
) -> tuple[Columns, Columns]:
    """Return out-of-sample rows of one ticker and their auxiliary columns."""
    table, forecast = data.table, fitted.predict(data.table, data.decisions)
    decided = data.decisions[np.isfinite(forecast)]
    closing = closing_rows(table.dates, decided, table.max_gap_days, ended=ended)
    at = np.union1d(decided, closing[closing < data.border.end + out_of_sample])
    predicted, nothing = np.full(len(at), np.nan), np.full(len(at), np.nan)
    here = np.searchsorted(at, decided)
    predicted[here] = forecast[np.isfinite(forecast)]
    returns, opened = nothing.copy(), nothing.copy()
    returns[here] = close_returns(table.close, table.dates, table.max_gap_days)[decided]
    opened[here] = open_returns(table.open, table.dates, table.max_gap_days)[decided]
    quote, close = table.quote[at], table.close[at]
    rows = {
        "date": table.dates[at].astype("datetime64[ms]"),
        "ticker": np.full(len(at), table.ticker),
        "fold": np.full(len(at), fold),
        **_decisions(predicted, choice, close=close, quote=quote),
        "next_return": returns,
        "strategy_return": nothing,
    }
    aux = {
        "majority": np.full(len(at), majority_class(data.boundaries["train"]["up_share"]), dtype=np.int8),
        "open_return": opened,
        "close": close * quote,
        "next_close": close * (1.0 + returns) * quote,
        "scaled_error": nothing,
        **fitted.beside(table, at, predicted, returns),
    }
    return rows, aux


def _decisions(
    predicted: FloatArray, choice: ThresholdChoice | None, *, close: FloatArray, quote: FloatArray
) -> Columns:
    """Return the columns of what a model predicts and what follows from it; without a threshold it predicts a price."""
    nothing = np.full(len(predicted), np.nan)
    if choice is None:
        classes = (predicted > close).astype(np.int8)
        found = {"probability": nothing, "predicted_close": predicted * quote, "threshold": nothing}
    else:
        classes = classify(predicted, choice.threshold)
        threshold = np.where(np.isfinite(predicted), choice.threshold, np.nan)
        found = {"probability": predicted, "predicted_close": nothing, "threshold": threshold}
    return {**found, "class": classes, "signal": to_signal(classes)}


def closing_rows(dates: DateArray, decided: IntArray, max_gap_days: int, *, ended: bool) -> IntArray:
    """Find rows on which a position is sold without a decision: first bars after holes, and a ticker's last bar."""
    closing = gaps(dates, max_gap_days)
    closing[-1] |= ended
    rows = np.flatnonzero(closing)
    return rows[np.diff(np.searchsorted(decided, rows), prepend=0) > 0]


def hole_returns(panel: Sequence[Splits], rows: Columns) -> dict[str, dict[str, float]]:
    """Ticker → day of a row that is the first bar after a hole → return over the hole."""
    found: dict[str, dict[str, float]] = {}
    for data in panel:
        table = data.table
        days = rows["date"][rows["ticker"] == table.ticker].astype("datetime64[D]")
        ends = np.flatnonzero(gaps(table.dates, table.max_gap_days) & np.isin(table.dates, days))
        if len(ends):
            found[table.ticker] = by_day(table.dates[ends], table.close[ends] / table.close[ends - 1] - 1.0)
    return found


def pause_returns(dates: DateArray, returns: FloatArray, rows: IntArray) -> dict[str, float]:
    """Day of a bar without a row that is next to one → its next return, of returns [bars].

    It lies between two rows or behind the last one, where it is not the last bar, which nothing follows.
    """
    between = np.setdiff1d(np.arange(rows[0], max(rows[-1], min(rows[-1] + 2, len(dates) - 1))), rows)
    beside = between[np.isin(between - 1, rows) | np.isin(between + 1, rows)]
    return by_day(dates[beside], returns[beside])


def by_day(dates: DateArray, values: FloatArray) -> dict[str, float]:
    """Day → value; None where it is not finite."""
    return dict(finite(dict(zip(map(str, dates), values.tolist(), strict=True))))


def close_returns(close: FloatArray, dates: DateArray, max_gap_days: int) -> FloatArray:
    """[bars] P(t+1)/P(t) - 1; NaN where a hole of more than ``max_gap_days`` or nothing follows."""
    earned = np.append(close[1:] / close[:-1] - 1.0, np.nan)
    earned[:-1][gaps(dates, max_gap_days)[1:]] = np.nan
    return earned


def open_returns(opens: FloatArray, dates: DateArray, max_gap_days: int) -> FloatArray:
    """[bars] O(t+2)/O(t+1) - 1: what a decision at close t earns from the next open to the one after it.

    NaN where one of the three bars is missing, or a hole of more than ``max_gap_days`` lies between two of them.
    """
    broken, earned = gaps(dates, max_gap_days), np.full(len(opens), np.nan)
    earned[:-2] = opens[2:] / opens[1:-1] - 1.0
    earned[:-2][broken[1:-1] | broken[2:]] = np.nan
    return earned


def ended_tickers(dates: Mapping[str, DateArray], max_gap_days: int) -> dict[str, str]:
    """Ticker → last day, for tickers whose last day is more than ``max_gap_days`` before that of all of them."""
    last = {ticker: days[-1] for ticker, days in dates.items()}
    limit = max(last.values()) - np.timedelta64(max_gap_days, "D")
    return {ticker: str(day) for ticker, day in last.items() if day < limit}
