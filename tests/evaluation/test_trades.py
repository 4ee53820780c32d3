"""Trades are what an account that follows the signals does."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextbar.evaluation.figures import by_year
from nextbar.evaluation.series import Book, Terms
from nextbar.evaluation.trades import TRADE_COLUMNS, trades_of
from nextbar.runs.files import csv_bytes
from nextbar.scoring.metrics import metrics_of


def book_of(signals: dict[str, list[float]], *, seed: int = 0, cost_bps: float = 7.0, holes=None) -> Book:
    """Book of signals on business days that end with a new year."""
    rng = np.random.default_rng(seed)
    parts = []
    for ticker, signal in signals.items():
        days = pd.bdate_range(end="2021-01-05", periods=len(signal), unit="s")
        columns = {"date": days, "ticker": ticker, "fold": 0, "probability": rng.random(len(signal))}
        columns |= {"class": (np.array(signal) > 0).astype(int), "signal": signal}
        parts.append(pd.DataFrame(columns | {"next_return": rng.normal(0, 0.02, len(signal))}))
    return Book.of(pd.concat(parts), Terms(cost_bps=cost_bps), holes=holes)


positions = st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.0, 0.5, 1.0]), min_size=1, max_size=30)


@given(first=positions, second=positions, seed=st.integers(0, 100))
def test_trades_are_those_of_an_account(first, second, seed):
    """Walked day by day: entry, exit, bars held, return and cost of each; together they cost what the book pays."""
    book = book_of({"A": first, "B": second}, seed=seed)
    expected = []
    for ticker in book.tickers:
        own = book.only(ticker)
        trade, before = None, 0.0
        for day, signal, earned in zip(own.dates, own.signal, own.earned, strict=True):
            if trade and np.sign(signal) != np.sign(before):
                trade["exit"] = pd.Timestamp(day)
                trade["cost"] += abs(before) * 7e-4
                trade, before = None, 0.0
            if signal and trade is None:
                trade = {
                    "ticker": ticker,
                    "entry": pd.Timestamp(day),
                    "exit": pd.NaT,
                    "days": 0,
                    "return": 0.0,
                    "cost": 0.0,
                }
                trade["position"] = signal
                expected.append(trade)
            if trade:
                trade["cost"] += abs(signal - before) * 7e-4
                trade["return"] = (1 + trade["return"]) * (1 + signal * earned) - 1
                trade["days"] += 1
            before = signal
    found = trades_of(book)
    pd.testing.assert_frame_equal(found, pd.DataFrame(expected, columns=list(TRADE_COLUMNS)), check_dtype=False)
    paid = 7e-4 * book.by_ticker(book.carried(book.signal))["traded"].sum()
    assert found["cost"].sum() == pytest.approx(paid)
    assert found["exit"].notna().sum() == book.model.round_trips


def test_a_position_held_into_a_hole_earns_the_hole():
    """The trade ends on the first bar after the hole, with the return over it."""
    book = book_of({"A": [1.0, 1.0, 1.0, 0.0, 1.0]})
    day = str(book.dates[2])
    earned = book.earned.copy()
    rows = pd.DataFrame(
        {"date": book.dates.astype("datetime64[s]"), "ticker": "A", "fold": 0, "probability": 0.5, "class": 1}
        | {"signal": [1.0, 1.0, 0.0, 0.0, 1.0], "next_return": [earned[0], np.nan, np.nan, earned[3], earned[4]]}
    )
    found = trades_of(Book.of(rows, book.terms, holes={"A": {day: -0.25}}))
    assert str(found["exit"][0].date()) == day
    assert found["return"][0] == pytest.approx((1 + earned[0]) * 0.75 - 1)
    assert found["exit"].isna().tolist() == [False, True]


def test_years_together_are_the_whole():
    """Days and returns of the years are those of the book; positions carry over, so no entry is paid twice."""
    book = book_of({"A": [1.0] * 40, "B": [0.0, 1.0] * 20})
    years = by_year(book)
    whole = metrics_of(book.model)
    assert [row["year"] for row in years] == ["2020", "2021"]
    assert sum(row["days"] for row in years) == whole["days"]
    assert sum(row["n"] for row in years) == int(book.scored.sum())
    assert np.prod([1 + row["total_return"] for row in years]) - 1 == pytest.approx(whole["total_return"])


def test_a_text_that_is_a_formula_is_quoted():
    """Spreadsheets run no ticker; numbers stay numbers."""
    texts = ["=1+1", "+1", "-1", "@a", "\tb", "AAPL", "^GSPC", "A=B"]
    table = pd.DataFrame({"ticker": texts, "return": -0.5, "exit": pd.NaT})
    lines = csv_bytes(table).decode().splitlines()[1:]
    cells = [line.split(",")[0].strip('"') for line in lines]
    assert cells == ["'=1+1", "'+1", "'-1", "'@a", r"'\x09b", "AAPL", "^GSPC", "A=B"]
    assert all(line.split(",")[1] == "-0.5" for line in lines)
