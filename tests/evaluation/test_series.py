"""Daily series against ledgers worked by hand and against a ledger that is kept day by day in plain Python."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from pandas.tseries.holiday import USFederalHolidayCalendar
from pandas.tseries.offsets import CustomBusinessDay

from nextbar.config import CommonConfig
from nextbar.errors import BadBarsError
from nextbar.evaluation.series import BASELINES, Book, Terms, periods_per_year
from nextbar.scoring.backtest import sharpe

FREE = Terms(cost_bps=0)
TEN = Terms(cost_bps=10)


def rows_of(
    ticker: str, days: Any, signals: Any, returns: Any, *, fold: Any = 0, probability: float = 0.6
) -> pd.DataFrame:
    """Out-of-sample rows of one ticker; the class is whether the signal is above 0."""
    signal = np.asarray(signals)
    return pd.DataFrame(
        {
            "date": pd.DatetimeIndex(days),
            "ticker": ticker,
            "fold": fold,
            "probability": probability,
            "class": (signal > 0).astype(np.int8),
            "signal": signal,
            "next_return": returns,
        }
    )


def ledger(book_rows: pd.DataFrame, holes: Any, terms: Terms, *, constant: bool = False) -> dict[str, np.ndarray]:
    """Net and excess returns of the portfolio, one day and ticker after the other; ``constant``: of the average."""
    days = sorted(book_rows["date"].unique())
    tickers = sorted(book_rows["ticker"].unique())
    net, excess = np.zeros(len(days)), np.zeros(len(days))
    for ticker in tickers:
        own = book_rows[book_rows["ticker"] == ticker].set_index("date").sort_index()
        gaps = {pd.Timestamp(day): value for day, value in holes.get(ticker, {}).items()}
        possible = {
            day: np.isfinite(row["next_return"]) or (place + 1 < len(own) and own.index[place + 1] in gaps)
            for place, (day, row) in enumerate(own.iterrows())
        }
        average = np.mean([own.loc[day, "signal"] for day in own.index if possible[day]])
        position = 0.0
        for number, day in enumerate(days):
            before = position
            earned = 0.0
            if day in own.index:
                wanted = average if constant else own.loc[day, "signal"]
                position = wanted if possible[day] else 0.0
                earned = position * np.nan_to_num(own.loc[day, "next_return"]) + before * gaps.get(day, 0.0)
            earned -= terms.cost_bps / 1e4 * abs(position - before)
            net[number] += earned / len(tickers)
            excess[number] += (earned - position * terms.risk_free / terms.periods) / len(tickers)
    return {"net": net, "excess": excess}


def random_rows(seed: int) -> tuple[pd.DataFrame, dict[str, dict[str, float]]]:
    """Rows of three tickers that lack days, with a hole in A, an early end of B and short positions in C."""
    random = np.random.default_rng(seed)
    days = pd.bdate_range("2020-01-01", periods=60)
    parts = []
    for ticker, shortest in (("A", 0), ("B", 0), ("C", -1)):
        own = days[np.sort(random.choice(60, 45, replace=False))]
        returns = random.normal(0, 0.02, 45)
        parts.append(rows_of(ticker, own, random.integers(shortest, 2, 45).astype(float), returns))
    a, b, _ = parts
    a.loc[[20, 21], "next_return"] = np.nan
    a.loc[21, ["signal", "class"]] = 0
    b.loc[44, "next_return"] = np.nan
    b.loc[44, ["signal", "class"]] = 0
    return pd.concat(parts).sample(frac=1, random_state=seed), {"A": {str(a["date"][21].date()): -0.25}}


@pytest.mark.parametrize("seed", range(8))
def test_series_are_those_of_a_ledger_kept_day_by_day(seed: int) -> None:
    """Model, always long and constant exposure equal the ledger: missing days, a hole, an end, shorts, a rate."""
    rows, holes = random_rows(seed)
    terms = Terms(cost_bps=7, risk_free=0.05, periods=365)
    book = Book.of(rows, terms, holes=holes)
    found = {"model": book.model, "always_long": book.baselines(None)["always_long"], "constant": book.constant}
    expected = {
        "model": ledger(rows, holes, terms),
        "always_long": ledger(rows.assign(signal=1.0), holes, terms),
        "constant": ledger(rows, holes, terms, constant=True),
    }
    for name, track in found.items():
        np.testing.assert_allclose(track.net, expected[name]["net"], rtol=0, atol=1e-15)
        np.testing.assert_allclose(track.excess, expected[name]["excess"], rtol=0, atol=1e-15)
    np.testing.assert_array_equal(book.edge, book.model.excess - book.constant.excess)


@pytest.mark.parametrize("seed", range(4))
def test_a_book_of_one_ticker_is_the_book_of_its_rows(seed: int) -> None:
    """`only` gives the series that the ticker's rows alone give, to the bit."""
    rows, holes = random_rows(seed)
    book = Book.of(rows, TEN, holes=holes)
    for ticker in book.tickers:
        alone = Book.of(rows[rows["ticker"] == ticker], TEN, holes=holes)
        part = book.only(ticker)
        np.testing.assert_array_equal(part.dates, alone.dates)
        np.testing.assert_array_equal(part.model.net, alone.model.net)
        np.testing.assert_array_equal(part.constant.net, alone.constant.net)
        np.testing.assert_array_equal(rows["next_return"].to_numpy()[part.order], part.earned)


def test_a_stock_beside_a_market_that_never_closes_keeps_half_the_capital() -> None:
    """A stock that goes nowhere and a coin that earns at weekends: Sharpe 0.52, not the 1.04 of a doubled weekend."""
    days = pd.date_range("2022-01-03", periods=728)
    weekday = days.day_of_week < 5
    stock = np.where(np.arange(weekday.sum()) % 2, 0.02, -0.02)
    coin = np.where(weekday, 0.0, 0.00161)
    rows = pd.concat([rows_of("STOCK", days[weekday], 1, stock), rows_of("COIN", days, 1, coin)])
    book = Book.of(rows, Terms(cost_bps=0, periods=365))
    assert sharpe(book.model.excess, 365) == pytest.approx(0.52, abs=0.005)
    lent = rows.assign(net=rows["signal"] * rows["next_return"]).groupby("date")["net"].mean()
    assert sharpe(lent, 365) == pytest.approx(1.04, abs=0.01)
    np.testing.assert_allclose(book.model.net[5:7], 0.00161 / 2, rtol=1e-12)
    assert book.model.traded.sum() == 1.0


def test_idle_cash_is_not_charged_the_risk_free_rate() -> None:
    """At 5.04 % a year a day in position needs 0.02 % to count, a day out of it nothing."""
    rows = rows_of("A", pd.bdate_range("2024-01-01", periods=3), [1, 0, 0], [0.01, 0.02, -0.03])
    book = Book.of(rows, Terms(cost_bps=0, risk_free=0.0504))
    np.testing.assert_allclose(book.model.excess, [0.01 - 0.0002, 0, 0], rtol=0, atol=1e-16)
    np.testing.assert_allclose(book.model.net, [0.01, 0, 0], rtol=0, atol=1e-16)


HOLED = pd.DatetimeIndex(["2024-01-01", "2024-01-02", "2024-03-01", "2024-03-04", "2024-03-05"])
OVER = {"A": {"2024-03-01": -0.4}}


def holed(signals: list[float]) -> pd.DataFrame:
    """A day, the last one before a hole, the first after it, and two more."""
    return rows_of("A", HOLED, signals, [0.01, np.nan, np.nan, 0.02, 0.03])


def test_a_position_held_into_a_hole_is_paid_the_return_over_it() -> None:
    """Model and baselines lose 40 % on the first bar after the hole, and are sold there at 10 bps."""
    book = Book.of(holed([1, 1, 0, 0, 1]), TEN, holes=OVER)
    np.testing.assert_allclose(book.model.net, [0.009, 0, -0.401, 0, 0.029], rtol=0, atol=1e-15)
    long = book.baselines(None)["always_long"]
    np.testing.assert_allclose(long.net, [0.009, 0, -0.401, 0.019, 0.03], rtol=0, atol=1e-15)
    constant = 0.75 * np.array([0.009, 0, -0.401, 0.019, 0.03])  # three of the four days on which one can be long
    np.testing.assert_allclose(book.constant.net, constant, rtol=0, atol=1e-15)
    assert book.model.round_trips == 1


def test_a_flat_model_is_spared_the_hole_and_its_baselines_are_not() -> None:
    """Out of position before the hole the model earns nothing over it; always long loses the 40 %."""
    book = Book.of(holed([1, 0, 0, 0, 0]), FREE, holes=OVER)
    np.testing.assert_array_equal(book.model.net, [0.01, 0, 0, 0, 0])
    assert book.baselines(None)["always_long"].net[2] == -0.4


def test_a_hole_whose_return_is_not_recorded_is_not_held_over() -> None:
    """Without the return the position is sold before the hole: nothing is earned or lost over it."""
    book = Book.of(holed([1, 1, 0, 0, 1]), TEN)
    np.testing.assert_allclose(book.model.net, [0.009, -0.001, 0, 0, 0.029], rtol=0, atol=1e-15)


def test_a_return_over_a_hole_of_exactly_nothing_still_ends_it() -> None:
    """A hole with an unchanged price is held over like any other: the exit is paid after it."""
    book = Book.of(holed([1, 1, 0, 0, 0]), TEN, holes={"A": {"2024-03-01": 0.0}})
    np.testing.assert_allclose(book.model.net, [0.009, 0, -0.001, 0, 0], rtol=0, atol=1e-15)


def test_a_ticker_that_ends_is_sold_at_its_last_close() -> None:
    """Its exit is charged on its last day and its capital lies idle; a model that is always long has no edge."""
    days = pd.bdate_range("2024-01-01", periods=4)
    rows = pd.concat(
        [rows_of("A", days[:3], [1, 1, 0], [0.01, 0.02, np.nan]), rows_of("B", days, 0, [0.1, 0.1, 0.1, 0.1])]
    )
    book = Book.of(rows, TEN)
    np.testing.assert_allclose(book.model.net, np.array([0.009, 0.02, -0.001, 0]) / 2, rtol=0, atol=1e-15)
    np.testing.assert_array_equal(book.exposure, [1, 0])
    np.testing.assert_array_equal(book.edge, np.zeros(4))
    assert book.held.tolist() == [[True, True], [True, True], [False, True], [False, True]]


def test_yesterdays_direction_is_read_off_the_rows() -> None:
    """A first row is flat, a day looks at the day before, the first bar after a hole at the return over it."""
    rows = rows_of("A", HOLED, 1, [0.01, np.nan, np.nan, 0.02, -0.03])
    rise = {"A": {"2024-03-01": 0.4}}
    assert Book.of(rows, FREE, holes=rise).yesterday().tolist() == [0, 1, 1, 0, 1]
    assert Book.of(rows, FREE, holes=OVER).yesterday().tolist() == [0, 1, 0, 0, 1]
    both = pd.concat([rows, rows_of("B", HOLED[:2], 1, [0.01, 0.01])])
    assert Book.of(both, FREE, holes=rise).yesterday().tolist() == [0, 1, 1, 0, 1, 0, 1]


def test_one_bar_late_holds_the_position_of_the_day_before() -> None:
    """Signals move down by a row within each ticker, whose first row is flat; a hole is still left at its end."""
    rows = pd.concat([holed([0, 1, 0, 1, 0]), rows_of("B", HOLED[:2], [1, 1], [0.1, 0.1])])
    late = Book.of(rows, FREE, holes=OVER).late
    np.testing.assert_array_equal(late.signal, [0, 0, 1, 0, 1, 0, 1])
    np.testing.assert_allclose(late.model.net, np.array([0, 0.1, 0, 0, 0.03]) / 2, rtol=0, atol=1e-15)


def test_fills_at_the_next_open_leave_out_what_is_not_known_yet() -> None:
    """The last day, whose open return is still to come, is dropped; the number of tickers stays, the hole is paid."""
    rows = pd.concat([holed([1, 1, 0, 0, 1]), rows_of("B", HOLED[:1], 1, [0.1])])
    opens = np.array([np.nan, np.nan, np.nan, 0.5, np.nan, np.nan])
    book = Book.of(rows, FREE, holes=OVER).at_opens(opens)
    assert book.tickers == ("A", "B")
    np.testing.assert_array_equal(book.dates, HOLED[1:4].to_numpy().astype("datetime64[D]"))
    np.testing.assert_allclose(book.model.net, [0, -0.2, 0], rtol=0, atol=1e-15)
    np.testing.assert_allclose(book.baselines(None)["always_long"].net, [0, -0.2, 0.25], rtol=0, atol=1e-15)


def test_a_fold_is_a_part_of_the_portfolio_of_the_run() -> None:
    """Positions start flat in it, and a ticker that is not in it keeps its share of the capital."""
    days = pd.bdate_range("2024-01-01", periods=4)
    rows = pd.concat(
        [rows_of("A", days, 1, 0.02, fold=[0, 0, 1, 1]), rows_of("B", days[:2], 1, 0.02)], ignore_index=True
    )
    book = Book.of(rows, TEN)
    np.testing.assert_allclose(book.within(1).model.net, [0.0095, 0.01], rtol=0, atol=1e-15)
    np.testing.assert_allclose(book.model.net, [0.019, 0.02, 0.01, 0.01], rtol=0, atol=1e-15)
    assert len(book.within(2).dates) == 0


def test_majority_classes_come_by_fold_and_ticker_or_row_by_row() -> None:
    """A mapping from a document and a column beside the rows name the same classes, whatever the order of the rows."""
    rows, _ = random_rows(1)
    rows = rows.assign(fold=(rows["date"] > "2020-02-10").astype(int))
    classes = {(0, "A"): 1, (1, "A"): 0, (0, "B"): 0, (1, "B"): 1, (0, "C"): 1, (1, "C"): 1}
    column = np.array([classes[key] for key in zip(rows["fold"], rows["ticker"], strict=True)])
    book = Book.of(rows, FREE)
    np.testing.assert_array_equal(book.majority(classes), book.majority(column))
    assert tuple(book.baselines(classes)) == BASELINES
    np.testing.assert_array_equal(book.majority(column), column[book.order])


def test_a_round_trip_is_a_return_to_flat_or_a_change_of_side() -> None:
    """Half out and in again closes nothing; long to short closes one, leaving closes one, the last stays open."""
    days = pd.bdate_range("2024-01-01", periods=8)
    rows = rows_of("A", days, [1, 0.5, 1, -1, 0, 0.3, 0, 1], 0.0)
    assert Book.of(rows, FREE).model.round_trips == 3
    pair = pd.concat([rows, rows_of("B", days, [1, 0, 1, 0, 1, 0, 1, 0], 0.0)])
    assert Book.of(pair, FREE).model.round_trips == 3 + 4


def test_a_day_that_stands_twice_is_refused() -> None:
    """Overlapping folds are not stitched: the message names the first of the repeated days."""
    rows = rows_of("A", pd.bdate_range("2024-01-01", periods=3), 1, 0.01)
    with pytest.raises(BadBarsError, match=r"A 2024-01-02: a second row of the same day \(1 such rows\)"):
        Book.of(pd.concat([rows, rows[1:2]]), FREE)


def days_of(index: pd.DatetimeIndex) -> np.ndarray:
    return index.to_numpy().astype("datetime64[D]")


STOCK = days_of(pd.date_range("2010-01-04", "2014-12-31", freq=CustomBusinessDay(calendar=USFederalHolidayCalendar())))
COIN = days_of(pd.date_range("2012-01-01", "2014-12-31"))
WEEK = days_of(pd.date_range("2010-01-01", "2014-12-31", freq="W-FRI"))
EVERY_WEEKDAY = days_of(pd.bdate_range("2010-01-04", periods=1000))
MONTH = days_of(pd.date_range("2000-01-01", "2014-12-31", freq="MS"))


@pytest.mark.parametrize(
    ("dates", "gap", "expected"),
    [
        pytest.param([STOCK], 15, 252, id="stocks"),
        pytest.param([COIN], 15, 365, id="every day"),
        pytest.param([WEEK], 15, 52, id="weeks"),
        pytest.param([MONTH], 40, 12, id="months are rounded"),
        pytest.param([STOCK[-800:], COIN], 15, 365, id="a stock beside a coin"),
        pytest.param([STOCK[:300], STOCK[-300:]], 15, 252, id="a hole of all tickers"),
        pytest.param([STOCK[::2], STOCK[1::2]], 15, 252, id="two tickers on alternate days"),
        pytest.param([EVERY_WEEKDAY], 15, 261, id="no holidays"),
        pytest.param([COIN[:20]], 15, 252, id="too few to tell"),
        pytest.param([MONTH], 15, 252, id="nothing but holes"),
    ],
)
def test_periods_per_year_follow_from_the_days(dates: list[np.ndarray], gap: int, expected: float) -> None:
    """Distinct days of all tickers per 365.25 days, snapped to 252, 365 or 52; common holes are not counted."""
    assert periods_per_year(dates, gap) == expected


def test_terms_take_the_stated_periods_or_those_of_the_days() -> None:
    """`--periods-per-year` overrides the days."""
    assert Terms.of(CommonConfig(), [COIN]) == Terms(cost_bps=5, periods=365)
    assert Terms.of(CommonConfig(periods_per_year=250.0, risk_free=0.02), [COIN]).periods == 250
