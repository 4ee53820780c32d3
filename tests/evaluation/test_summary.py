"""From rows to figures: positions carry over folds, every figure is JSON, price errors are in quoted prices."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from nextbar.evaluation.figures import execution_books, finish_rows, summarise
from nextbar.evaluation.series import Book, Terms
from nextbar.types import JsonDict

TERMS = Terms(cost_bps=100.0)


def rows_of(signals: dict[str, list[int]], returns: dict[str, list[float]], *, lstm: bool = False) -> pd.DataFrame:
    """Rows of two folds, three days each, sorted by fold, ticker, date."""
    parts = []
    for ticker, signal in signals.items():
        days = np.datetime64("2020-01-01") + np.arange(len(signal))
        parts.append(
            pd.DataFrame(
                {
                    "date": days.astype("datetime64[ms]"),
                    "ticker": ticker,
                    "fold": np.arange(len(signal)) // 3,
                    "probability": np.nan if lstm else np.linspace(0.2, 0.8, len(signal)),
                    "predicted_close": 101.0 if lstm else np.nan,
                    "threshold": np.nan if lstm else 0.5,
                    "class": np.array(signal, dtype=np.int8),
                    "signal": np.array(signal, dtype=np.int8),
                    "next_return": returns[ticker],
                    "strategy_return": np.nan,
                }
            )
        )
    return pd.concat(parts).sort_values(["fold", "ticker", "date"], ignore_index=True)


def aux_of(rows: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "majority": np.ones(len(rows), dtype=np.int8),
            "open_return": rows["next_return"],
            "close": 100.0,
            "next_close": 100.0 * (1 + rows["next_return"]),
            "scaled_error": np.linspace(-0.1, 0.1, len(rows)),
        }
    )


SIGNALS = {"A": [0, 1, 1, 1, 0, 1], "B": [1, 0, 0, 0, 1, 1]}
RETURNS = {"A": [0.5, 0.1, -0.1, 0.2, 0.3, 0.1], "B": [0.1, 0.2, 0.3, -0.2, -0.1, 0.4]}
NET = {"A": [0.0, 0.09, -0.1, 0.2, -0.01, 0.09], "B": [0.09, -0.01, 0.0, 0.0, -0.11, 0.4]}
"""Worked by hand at 1 % per change: A's fold border (day 4) costs nothing, the position goes on; no exit at the end."""


def figures_of(rows: pd.DataFrame, terms: Terms = TERMS, **options: JsonDict) -> JsonDict:
    holes = options.pop("holes", None)
    return summarise(rows, aux_of(rows), Book.of(rows, terms, holes=holes), **options)


def test_positions_carry_over_fold_borders():
    """Strategy returns are the hand-worked ledger, in the order in which the rows came."""
    rows = rows_of(SIGNALS, RETURNS)
    done = finish_rows(rows, Book.of(rows, TERMS))
    for ticker, expected in NET.items():
        np.testing.assert_allclose(done[done["ticker"] == ticker]["strategy_return"], expected, atol=1e-15)
    pd.testing.assert_frame_equal(done.drop(columns="strategy_return"), rows.drop(columns="strategy_return"))
    shuffled = rows.sample(frac=1, random_state=3)
    again = finish_rows(shuffled, Book.of(shuffled, TERMS))
    assert again["strategy_return"].to_dict() == done["strategy_return"].to_dict()


def with_a_hole() -> tuple[pd.DataFrame, JsonDict]:
    """The rows with a hole of A after its fourth day, and with the end of B on its sixth."""
    rows = rows_of(SIGNALS, RETURNS)
    a, b = (np.flatnonzero(rows["ticker"] == ticker) for ticker in "AB")
    rows.loc[a[3], "next_return"] = np.nan
    for row in (a[4], b[5]):
        rows.loc[row, ["probability", "threshold", "predicted_close", "next_return"]] = np.nan
        rows.loc[row, ["class", "signal"]] = 0
    return rows, {"A": {"2020-01-05": -0.5}}


def test_the_return_over_a_hole_stands_in_the_first_row_after_it():
    """A row without a next return has a strategy return: the hole's, the exit's cost, or nothing."""
    rows, holes = with_a_hole()
    done = finish_rows(rows, Book.of(rows, TERMS, holes=holes))
    assert done["strategy_return"].notna().all()
    a, b = (done[done["ticker"] == ticker]["strategy_return"].tolist() for ticker in "AB")
    assert a == pytest.approx([0, 0.09, -0.1, 0, -0.51, 0.09])
    assert b == pytest.approx([0.09, -0.01, 0, 0, -0.11, -0.01])


def test_strategy_returns_add_up_to_the_portfolio():
    """The sum of a day's strategy returns over the number of tickers is the series that all figures are made of."""
    rows, holes = with_a_hole()
    rows = rows.drop(index=rows.index[[2, 7]])
    book = Book.of(rows, TERMS, holes=holes)
    daily = finish_rows(rows, book).groupby("date")["strategy_return"].sum() / 2
    np.testing.assert_allclose(daily, book.model.net, rtol=0, atol=1e-15)


@pytest.mark.parametrize("lstm", [False, True], ids=["probability", "price"])
def test_rows_without_a_return_are_borne_by_every_figure(lstm):
    """Reliability, price errors and class figures are those of the rows with a return; all of it is strict JSON."""
    rows, holes = with_a_hole()
    if lstm:
        rows["predicted_close"] = np.where(rows["probability"].notna(), 101.0, np.nan)
        rows[["probability", "threshold"]] = np.nan
    figures = figures_of(rows, holes=holes, ended={"B": "2020-01-06"})
    json.dumps(figures, allow_nan=False)
    assert figures["model"]["n"] == 9
    assert figures["delisting"] == {"tickers": 1, "open": 1, "effect": pytest.approx(-0.15)}
    if lstm:
        assert "reliability" not in figures
        known = rows["next_return"].notna()
        expected = np.mean(np.linspace(-0.1, 0.1, 12)[known] ** 2)
        assert figures["price"]["scaled_mse"] == pytest.approx(expected)
        assert len(figures["price"]["recent"]["A"]["predicted"]) == 4
    else:
        assert sum(row["count"] for row in figures["reliability"]) == 9


def test_rows_without_any_return_have_no_figures():
    """A single first bar after a hole is no sample: every figure is there, none has a value, nothing fails."""
    rows, holes = with_a_hole()
    for lstm in (False, True):
        part = rows[rows["next_return"].isna()].tail(1)
        figures = figures_of(part.assign(predicted_close=101.0, probability=np.nan) if lstm else part, holes=holes)
        json.dumps(figures, allow_nan=False)
        assert (figures["model"]["n"], figures["model"]["accuracy"]) == (0, None)


def test_wild_prices_have_figures_or_none():
    """Prices and returns near the largest float leave numbers and None in the document, never NaN or infinity."""
    for lstm in (False, True):
        rows = rows_of(SIGNALS, {"A": [1e308] * 6, "B": [-1.0, 1e300, np.nan, 1e308, 5.0, 0.0]}, lstm=lstm)
        figures = figures_of(rows)
        json.dumps(figures, allow_nan=False)
        assert figures["model"]["total_return"] is None


def test_books_of_later_execution_are_those_of_the_document():
    """The money of `one_bar_late` and `next_open` in the document is that of the books, which tests may read too."""
    rows, holes = with_a_hole()
    book = Book.of(rows, TERMS, holes=holes)
    aux, figures = aux_of(rows), figures_of(rows, holes=holes)
    books = execution_books(book, aux)
    assert list(books) == ["one_bar_late", "next_open"]
    for name, later in books.items():
        assert figures[name]["sharpe"] == pytest.approx(
            later.model.net.mean() / later.model.net.std(ddof=1) * np.sqrt(252), rel=1e-12
        )
        assert figures[name]["days"] == len(later.dates)


def test_portfolio_is_the_mean_of_the_days_tickers():
    """Sharpe and drawdown are computed once on the stitched equal-weight series, not averaged over folds or tickers."""
    figures = figures_of(rows_of(SIGNALS, RETURNS))
    daily = (np.array(NET["A"]) + np.array(NET["B"])) / 2
    assert figures["model"]["sharpe"] == pytest.approx(daily.mean() / daily.std(ddof=1) * np.sqrt(252))
    wealth = np.cumprod(1 + daily)
    assert figures["model"]["max_drawdown"] == pytest.approx((wealth / np.maximum.accumulate(wealth) - 1).min())
    for ticker, net in NET.items():
        own = np.array(net)
        assert figures["per_ticker"][ticker]["sharpe"] == pytest.approx(own.mean() / own.std(ddof=1) * np.sqrt(252))


def test_a_flat_strategy_has_no_sharpe_and_json_no_nan():
    """A series without variance has no Sharpe ratio, one class no ROC-AUC; all of it is strict JSON."""
    rows = rows_of({"A": [0] * 6}, {"A": [0.1] * 6})
    figures = figures_of(rows)
    assert figures["model"]["sharpe"] is None
    assert figures["model"]["roc_auc"] is None
    assert figures["model"]["max_drawdown"] == 0
    json.dumps(figures, allow_nan=False)


def test_price_errors_by_hand():
    """A predicted close is judged in quoted prices beside tomorrow = today, per ticker and on average."""
    figures = figures_of(rows_of(SIGNALS, RETURNS, lstm=True))
    json.dumps(figures, allow_nan=False)
    assert "reliability" not in figures
    price, rmse = figures["price"], []
    for ticker, returns in RETURNS.items():
        actual = 100 * (1 + np.array(returns))
        rmse.append(np.sqrt(np.mean((101 - actual) ** 2)))
        assert price["per_ticker"][ticker]["price_rmse"] == pytest.approx(rmse[-1])
        naive = np.sqrt(np.mean((100 - actual) ** 2))
        assert price["per_ticker"][ticker]["persistence_rmse"] == pytest.approx(naive)
        assert price["per_ticker"][ticker]["skill"] == pytest.approx(1 - rmse[-1] ** 2 / naive**2)
    assert price["mean_price_rmse"] == pytest.approx(np.mean(rmse))
    assert price["scaled_mse"] == pytest.approx(np.mean(np.linspace(-0.1, 0.1, 12) ** 2))
