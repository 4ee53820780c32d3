"""Ledgers worked by hand, another library's figures, and properties that hold for every series."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nextbar.scoring.backtest import (
    against,
    finite,
    max_drawdown,
    net_returns,
    position_changes,
    sharpe,
    sharpe_columns,
)
from nextbar.scoring.metrics import Days, metrics_of

RETURNS = st.floats(-0.5, 0.5)
DAYS = st.integers(0, 60)


def performance(net, position, *, excess=None, cost_bps=0.0, periods=252):
    """Metrics of one ticker's daily series."""
    earned, held = np.asarray(net, dtype=np.float64), np.asarray(position, dtype=np.float64)
    own = earned if excess is None else np.asarray(excess)
    trades = position_changes(held)
    return metrics_of(Days(net=earned, exposure=held, excess=own, traded=trades, cost_bps=cost_bps, periods=periods))


@st.composite
def ledgers(draw):
    days = draw(DAYS)
    returns = draw(arrays(np.float64, days, elements=RETURNS))
    return draw(arrays(np.int8, days, elements=st.integers(0, 1))), returns


def test_net_returns_match_a_ledger_worked_by_hand():
    """Proves what each day earns and pays at 10 bps: entries, an exit, the first entry charged, no exit at the end."""
    ledger = [
        # position, next return, net
        (1, 0.02, 0.02 - 0.001),  # enters: the first entry is charged
        (1, -0.01, -0.01),  # stays: no cost
        (0, 0.05, -0.001),  # leaves: pays, earns nothing
        (0, -0.03, 0.0),  # stays out
        (1, 0.01, 0.01 - 0.001),  # enters again; the series ends in position, with no exit charged
    ]
    position, returns, expected = np.array(ledger).T
    np.testing.assert_allclose(net_returns(position, returns, 10), expected, rtol=0, atol=1e-15)


def test_columns_are_the_same_as_one_strategy_after_the_other():
    """Proves the [n, k] form of positions, net returns and Sharpe ratios against the [n] form."""
    random = np.random.default_rng(0)
    positions, returns = random.integers(0, 2, (90, 7)), random.normal(0, 0.01, 90)
    nets = net_returns(positions, returns, 5)
    for column, net in zip(positions.T, nets.T, strict=True):
        np.testing.assert_array_equal(net, net_returns(column, returns, 5))
    np.testing.assert_allclose(sharpe_columns(nets), [sharpe(net) for net in nets.T], rtol=1e-12)


@pytest.mark.parametrize(
    "returns",
    [[], [0.01], [0.0] * 9, [0.1] * 9, [0.001] * 999, list(1.001 ** np.arange(1, 50) / 1.001 ** np.arange(49) - 1)],
)
def test_a_series_without_variance_has_no_sharpe(returns):
    """Proves None, not 0 or infinity, for too few days and for a constant, even one that rounding has scattered."""
    assert sharpe(returns) is None


def test_drawdown_counts_from_the_first_day_of_wealth_one():
    """Proves by hand: 0.9 after day one is a drawdown of 10 %; 1.0 → 1.1 → 0.88 is one of 20 %."""
    assert max_drawdown([-0.1, 0.5]) == pytest.approx(-0.1)
    assert max_drawdown([0.1, -0.2, 0.1]) == pytest.approx(-0.2)
    assert max_drawdown([0.1, 0.2]) == 0
    assert max_drawdown([]) is None


def test_performance_matches_four_days_worked_by_hand():
    """Each figure of a four-day ledger, on 252 bars a year."""
    net = [0.10, -0.05, 0.0, 0.02]
    figures = performance(net, [1, 1, 0, 1], cost_bps=10)
    total = 1.1 * 0.95 * 1.02 - 1
    deviation = np.sqrt(((0.0825**2) + (0.0675**2) + (0.0175**2) + (0.0025**2)) / 3)
    assert figures == {
        "days": 4,
        "sharpe": pytest.approx(0.0175 / deviation * np.sqrt(252)),
        "sortino": pytest.approx(0.0175 / np.sqrt(0.05**2 / 4) * np.sqrt(252)),
        "calmar": pytest.approx(((1 + total) ** 63 - 1) / 0.05),
        "max_drawdown": pytest.approx(-0.05),
        "total_return": pytest.approx(total),
        "annual_return": pytest.approx((1 + total) ** 63 - 1),
        "annual_volatility": pytest.approx(deviation * np.sqrt(252)),
        "turnover": pytest.approx(3 / 4 * 252),  # in, out, in
        "exposure": pytest.approx(3 / 4),
        "hit_rate": pytest.approx(2 / 3),
        "break_even_bps": pytest.approx(10 + 1e4 * 0.07 / 3),  # three changes of position earned 7 % net
    }


def test_rates_are_per_year_of_the_periods_given():
    """With 365 bars a year volatility and turnover grow by their formulas, the geometric return compounds over 365."""
    net = [0.10, -0.05, 0.0, 0.02]
    stock, coin = (performance(net, [1, 1, 0, 1], periods=periods) for periods in (252, 365))
    for name in ("sharpe", "annual_volatility"):
        assert coin[name] == pytest.approx(stock[name] * np.sqrt(365 / 252))
    assert coin["turnover"] == pytest.approx(3 / 4 * 365)
    assert coin["annual_return"] == pytest.approx((1.1 * 0.95 * 1.02) ** (365 / 4) - 1)
    assert coin["total_return"] == stock["total_return"]


def test_at_the_break_even_cost_nothing_is_earned():
    """A model that pays the cost that is named has a mean net return of 0; one that never trades has none."""
    random = np.random.default_rng(3)
    position, returns = random.integers(0, 2, 300), random.normal(0.001, 0.01, 300)
    found = performance(net_returns(position, returns, 5), position, cost_bps=5)["break_even_bps"]
    assert net_returns(position, returns, found).sum() == pytest.approx(0, abs=1e-12)
    assert performance([0.0, 0.0], [0, 0], cost_bps=5)["break_even_bps"] is None


def test_sharpe_is_of_the_excess_where_one_is_given():
    """Sharpe and Sortino ratios are those of the excess returns; every other figure is of the net returns."""
    net, excess = [0.10, -0.05, 0.0, 0.02], [0.09, -0.06, 0.0, 0.01]
    figures, plain = performance(net, [1, 1, 0, 1], excess=excess), performance(net, [1, 1, 0, 1])
    assert figures["sharpe"] == pytest.approx(np.mean(excess) / np.std(excess, ddof=1) * np.sqrt(252))
    assert figures["sortino"] == pytest.approx(np.mean(excess) / np.sqrt(0.06**2 / 4) * np.sqrt(252))
    ratios = {"sharpe": None, "sortino": None}
    assert figures | ratios == plain | ratios


def test_figures_that_do_not_exist_are_none():
    """Proves None for no days, never in position, ruin and an annual return too large for a float."""
    empty = performance([], [])
    assert empty.pop("days") == 0
    assert set(empty.values()) == {None}
    assert performance([0.0, 0.0], [0, 0])["hit_rate"] is None
    assert performance([-1.0, 0.1], [1, 1])["annual_return"] == -1
    assert performance([-1.5, 0.1], [1, 1])["annual_return"] is None
    assert performance([50.0], [1])["annual_return"] is None
    assert performance([-1.5, 0.1, -1.5], [1, 1, 1])["total_return"] == -1


def test_wealth_beyond_any_float_has_a_drawdown():
    """A thousand days of +1,000,000 % overflow wealth; the fall of a half after them is still a fall of a half."""
    figures = performance([1e4] * 1000 + [-0.5], [1] * 1001)
    assert figures["max_drawdown"] == pytest.approx(-0.5)
    assert figures["total_return"] is None
    assert max_drawdown([0.5, -1.0, 3.0]) == -1


@given(arrays(np.float64, st.integers(0, 40), elements=st.floats(-1e308, 1e308)), st.sampled_from([52, 252, 365]))
def test_every_figure_of_wild_returns_is_a_number_or_none(net, periods):
    """Strict JSON takes the figures of any series of floats, whatever overflows on the way."""
    for figures in (performance(net, np.ones(len(net)), periods=periods), against(net, net[::-1], periods)):
        assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_finite_reaches_into_records_and_lists():
    """NaN and infinity become None wherever they stand; everything else stays what it is."""
    found = finite({"a": float("nan"), "b": [1.0, float("inf"), {"c": -float("inf")}], "d": "x", "e": 3, "f": True})
    assert found == {"a": None, "b": [1.0, None, {"c": None}], "d": "x", "e": 3, "f": True}


def newey_west_t(excess, market):
    """t value of the intercept by the sandwich of statsmodels' HAC covariance, each sum written out."""
    n = len(excess)
    design = np.column_stack([np.ones(n), market])
    bread = np.linalg.inv(design.T @ design)
    coefficients = bread @ design.T @ excess
    scores = design * (excess - design @ coefficients)[:, None]
    lags = int(np.floor(4 * (n / 100) ** (2 / 9)))
    meat = np.zeros((2, 2))
    for lag in range(lags + 1):
        weight = 1 - lag / (lags + 1)
        for day in range(lag, n):
            cross = np.outer(scores[day], scores[day - lag])
            meat += weight * (cross if lag == 0 else cross + cross.T)
    covariance = bread @ meat @ bread
    return coefficients, coefficients[0] / np.sqrt(covariance[0, 0])


@pytest.mark.parametrize("days", [3, 40, 100, 700])
def test_alpha_and_its_t_value_are_those_of_newey_and_west(days):
    """Alpha, beta and t equal the matrix form with each lag summed by hand, for correlated residuals."""
    random = np.random.default_rng(days)
    noise = random.normal(0, 0.01, days + 1)
    market = random.normal(0.0004, 0.01, days)
    excess = 0.0003 + 0.4 * market + noise[1:] + 0.5 * noise[:-1]
    (alpha, beta), t_value = newey_west_t(excess, market)
    found = against(excess, market, 365)
    assert found == {
        "alpha": pytest.approx(alpha * 365, rel=1e-9),
        "beta": pytest.approx(beta, rel=1e-9),
        "alpha_t": pytest.approx(t_value, rel=1e-8),
    }


def test_without_residuals_alpha_has_no_t_value():
    """A model that is a multiple of the market has beta and an alpha of 0; a market that stands still has neither."""
    market = np.random.default_rng(0).normal(0, 0.01, 200)
    found = against(0.5 * market, market)
    assert (found["alpha_t"], found["beta"]) == (None, pytest.approx(0.5))
    assert found["alpha"] == pytest.approx(0, abs=1e-15)
    assert set(against(market, np.zeros(200)).values()) == {None}
    assert set(against(market[:1], market[:1]).values()) == {None}


@given(ledgers(), st.floats(0, 50), st.floats(0, 50))
def test_higher_costs_never_earn_more(ledger, one_cost, other_cost):
    """Proves that net returns fall, day by day, as costs rise."""
    low, high = sorted((one_cost, other_cost))
    assert np.all(net_returns(*ledger, high) <= net_returns(*ledger, low))


@given(arrays(np.float64, st.integers(1, 60), elements=st.floats(-0.99, 1.0)))
def test_drawdown_lies_between_ruin_and_none(returns):
    """Proves -1 <= drawdown <= 0 for every series of returns above -1."""
    drawdown = max_drawdown(returns)
    assert drawdown is not None
    assert -1 <= drawdown <= 0


@given(arrays(np.float64, DAYS, elements=RETURNS), st.floats(0, 50))
def test_a_flat_position_earns_exactly_nothing(returns, cost_bps):
    """Proves that staying out neither earns nor costs."""
    assert np.all(net_returns(np.zeros(len(returns)), returns, cost_bps) == 0)


@given(ledgers())
def test_later_days_never_change_earlier_net_returns(ledger):
    """Proves that a day's net return knows nothing of the days after it."""
    position, returns = ledger
    half = len(position) // 2
    changed = np.concatenate([position[:half], 1 - position[half:]]), np.concatenate([returns[:half], -returns[half:]])
    np.testing.assert_array_equal(net_returns(*changed, 5)[:half], net_returns(position, returns, 5)[:half])
