"""How a result developed: against empyrical and by hand."""

from __future__ import annotations

import warnings
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from nextbar.evaluation.course import by_month, daily_correlations, rolling_sharpe, spread, worst_drawdowns
from nextbar.evaluation.figures import by_year
from nextbar.evaluation.series import Book, Terms
from nextbar.scoring.backtest import max_drawdown, wealth_path

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import empyrical

DAYS = pd.bdate_range("2010-01-04", periods=700)
DATES = DAYS.to_numpy().astype("datetime64[D]")


@pytest.fixture
def net() -> np.ndarray:
    return 0.01 * np.random.default_rng(4).standard_normal(len(DAYS))


def test_months_are_those_of_empyrical(net):
    """Compounded calendar months, every one of them."""
    expected = empyrical.aggregate_returns(pd.Series(net, DAYS), "monthly")
    found = {(int(one["year"]), one["month"]): one["return"] for one in by_month(DATES, net)}
    assert found == pytest.approx(expected.to_dict(), abs=1e-9)
    assert sum(one["days"] for one in by_month(DATES, net)) == len(net)


def test_years_and_wealth_are_those_of_empyrical(net):
    """Each calendar year with all its figures, costs included, and the wealth of every day from 1 on."""
    position = np.random.default_rng(5).integers(0, 2, len(net)).astype(float)
    rows = pd.DataFrame({"date": DAYS, "ticker": "A", "fold": 0, "probability": 0.5, "class": 1, "signal": position})
    book = Book.of(rows.assign(next_return=net), Terms(cost_bps=5.0))
    earned = pd.Series(book.model.net, DAYS)
    np.testing.assert_allclose(earned, position * net - 5e-4 * np.abs(np.diff(position, prepend=0.0)), atol=1e-15)
    years = by_year(book)
    found = {int(one["year"]): one["total_return"] for one in years}
    assert found == pytest.approx(empyrical.aggregate_returns(earned, "yearly").to_dict(), abs=1e-9)
    for one in years:
        part = earned[earned.index.year == int(one["year"])]
        assert one["sharpe"] == pytest.approx(empyrical.sharpe_ratio(part), abs=1e-9)
        assert one["max_drawdown"] == pytest.approx(empyrical.max_drawdown(part), abs=1e-9)
    wealth = empyrical.cum_returns(earned, starting_value=1)
    np.testing.assert_allclose(wealth_path(book.model.net)[0], wealth, rtol=0, atol=1e-9)


def test_the_moving_sharpe_ratio_is_that_of_empyrical(net):
    """From the first full window on; before it there is none, nor where the window is longer than the days."""
    found = rolling_sharpe(net, 252.0, 126)
    expected = empyrical.roll_sharpe_ratio(pd.Series(net, DAYS), 126, annualization=252)
    assert np.isnan(found[:125]).all()
    assert found[125:] == pytest.approx(expected.to_numpy(), abs=1e-9)
    assert np.isnan(rolling_sharpe(net, 252.0, len(net) + 1)).all()


def test_the_deepest_drawdown_is_the_maximum(net):
    """The list begins with it, goes on with smaller ones, and no two share a day."""
    found = worst_drawdowns(DATES, net)
    assert found[0]["depth"] == pytest.approx(empyrical.max_drawdown(pd.Series(net, DAYS)), abs=1e-9)
    assert found[0]["depth"] == max_drawdown(net)
    assert [one["depth"] for one in found] == sorted(one["depth"] for one in found)
    spans = sorted((one["peak"], one["recovered"] or "9999") for one in found)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))


def test_a_drawdown_has_its_days():
    """Peak, bottom and recovery by hand; the last one is not over."""
    net = np.array([0.1, -0.1, -0.1, 0.5, -0.01])
    first, second = worst_drawdowns(DATES[:5], net)
    day = DATES.astype(str)
    assert (first["peak"], first["bottom"], first["recovered"], first["days"]) == (day[0], day[2], day[3], 2)
    assert first["depth"] == pytest.approx(-0.19)
    assert (second["peak"], second["recovered"], second["days"]) == (day[3], None, 1)
    assert worst_drawdowns(DATES[:2], np.array([0.1, 0.0])) == []


def test_every_day_that_moved_is_in_the_spread(net):
    """Extreme days are counted in the outermost bins, flat days apart, and the best and worst are named."""
    net[:100], net[200], net[300] = 0.0, 0.5, -0.4
    found = spread(DATES, net)
    assert sum(found["counts"]) == found["days"] == len(net) - 100
    assert found["still"] == 100
    assert found["best"] == [str(DATES[200]), 0.5]
    assert found["worst"] == [str(DATES[300]), -0.4]
    assert spread(DATES, np.zeros(len(DATES))) is None
    assert by_month(DATES[:0], net[:0]) == []


def test_daily_correlations_have_their_days():
    """The rank correlation over five tickers stands on its day; a day with four of them has none."""
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(
        [
            {"date": day, "ticker": name, "fold": 0, "probability": rng.random(), "class": 1, "signal": 1.0}
            for day in DAYS[:3]
            for name in "ABCDE"
        ]
    )
    rows["next_return"] = rng.normal(0, 0.01, len(rows))
    days, values = daily_correlations(Book.of(rows.drop(index=7), Terms(cost_bps=5.0)))
    assert days.tolist() == DATES[[0, 2]].tolist()
    first = rows[:5]
    assert values[0] == pytest.approx(first["probability"].corr(first["next_return"], method="spearman"))
