"""Ledgers worked by hand, another library's figures, and properties that hold for every series."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nextbar.scoring.backtest import (
    max_drawdown,
    net_returns,
    one_bar_late,
    performance,
    portfolio,
    position_changes,
    sharpe,
    sharpe_columns,
    strategy_rows,
    ticker_changes,
)

RETURNS = st.floats(-0.5, 0.5)
DAYS = st.integers(0, 60)


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


def test_a_position_that_was_held_before_pays_no_entry():
    """Proves `previous`: the first day is charged for the change from it, one number or one per column."""
    assert net_returns([1], [0.02], 10, previous=1.0) == pytest.approx([0.02])
    assert net_returns([0], [0.02], 10, previous=1.0) == pytest.approx([-0.001])
    both = net_returns([[1, 1]], [0.02], 10, previous=[0.0, 1.0])
    np.testing.assert_allclose(both, [[0.019, 0.02]], rtol=0, atol=1e-15)


def test_columns_are_the_same_as_one_strategy_after_the_other():
    """Proves the [n, k] form of positions, net returns and Sharpe ratios against the [n] form."""
    random = np.random.default_rng(0)
    positions, returns = random.integers(0, 2, (90, 7)), random.normal(0, 0.01, 90)
    nets = net_returns(positions, returns, 5)
    for column, net in zip(positions.T, nets.T, strict=True):
        np.testing.assert_array_equal(net, net_returns(column, returns, 5))
    np.testing.assert_allclose(sharpe_columns(nets), [sharpe(net) for net in nets.T], rtol=1e-12)


def test_stitched_rows_carry_positions_over_folds_but_not_over_tickers():
    """Proves a ledger at 10 bps: A's fold border is free, B's first entry is charged though A was long."""
    ledger = [
        # ticker, position, next return, net
        ("A", 1, 0.01, 0.009),  # fold 1, enters
        ("A", 1, 0.02, 0.020),  # fold 2, carried over: free
        ("B", 1, 0.03, 0.029),  # enters: A's position is not B's
        ("B", 0, 0.04, -0.001),
    ]
    ticker, position, returns, expected = (np.array(column) for column in zip(*ledger, strict=True))
    np.testing.assert_allclose(strategy_rows(ticker, position, returns, 10), expected, rtol=0, atol=1e-15)
    np.testing.assert_array_equal(ticker_changes(ticker, position), [1, 0, 1, 1])


def test_rows_that_are_sorted_by_fold_are_refused():
    """Proves that a ticker whose rows stand apart is an error, not a second entry charge."""
    with pytest.raises(ValueError, match="sorted by ticker"):
        strategy_rows(np.array(["A", "B", "A"]), np.ones(3), np.zeros(3), 5)


def test_one_bar_late_moves_each_tickers_signals_down_by_one_day():
    """Proves the shift, a flat first row, and that nothing slips from one ticker into the next."""
    late = one_bar_late(np.array([7, 7, 7, 8, 8]), np.array([1, 0, 1, 0, 1]))
    np.testing.assert_array_equal(late, [0, 1, 0, 0, 0])


def test_a_portfolio_is_the_mean_over_the_tickers_of_each_day():
    """Proves 1/n over that day's tickers, days sorted and once, for one column and for several."""
    dates = np.array(["2024-01-03", "2024-01-02", "2024-01-03", "2024-01-04"], dtype="datetime64[D]")
    days, mean = portfolio(dates, [0.01, 0.02, 0.03, -0.01])
    np.testing.assert_array_equal(days, np.array(["2024-01-02", "2024-01-03", "2024-01-04"], dtype="datetime64[D]"))
    np.testing.assert_allclose(mean, [0.02, 0.02, -0.01], rtol=0, atol=1e-15)
    columns = portfolio(dates, np.column_stack([[0.01, 0.02, 0.03, -0.01], [1, 1, 0, 1]]))[1]
    np.testing.assert_allclose(columns, [[0.02, 1], [0.02, 0.5], [-0.01, 1]], rtol=0, atol=1e-15)


@pytest.mark.parametrize("risk_free", [0.0, 0.04])
def test_sharpe_and_drawdown_are_those_of_empyrical(risk_free):
    """Proves both against an independent library to 1e-9; its risk-free rate is a day's, ours a year's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import empyrical
    for seed in range(20):
        returns = np.random.default_rng(seed).normal(0.0005, 0.02, 700)
        expected = empyrical.sharpe_ratio(returns, risk_free=risk_free / 252)
        assert sharpe(returns, risk_free) == pytest.approx(expected, rel=0, abs=1e-9)
        assert max_drawdown(returns) == pytest.approx(empyrical.max_drawdown(returns), rel=0, abs=1e-9)


@pytest.mark.parametrize(
    "returns",
    [[], [0.01], [0.0] * 9, [0.1] * 9, [0.001] * 999, list(1.001 ** np.arange(1, 50) / 1.001 ** np.arange(49) - 1)],
)
def test_a_series_without_variance_has_no_sharpe(returns):
    """Proves None, not 0 or infinity, for too few days and for a constant, even one that rounding has scattered."""
    assert sharpe(returns) is None
    assert sharpe(returns, 0.05) is None


def test_drawdown_counts_from_the_first_day_of_wealth_one():
    """Proves by hand: 0.9 after day one is a drawdown of 10 %; 1.0 → 1.1 → 0.88 is one of 20 %."""
    assert max_drawdown([-0.1, 0.5]) == pytest.approx(-0.1)
    assert max_drawdown([0.1, -0.2, 0.1]) == pytest.approx(-0.2)
    assert max_drawdown([0.1, 0.2]) == 0
    assert max_drawdown([]) is None


def test_performance_matches_four_days_worked_by_hand():
    """Proves each figure of a four-day ledger."""
    net = [0.10, -0.05, 0.0, 0.02]
    figures = performance(net, [1, 1, 0, 1])
    total = 1.1 * 0.95 * 1.02 - 1
    deviation = np.sqrt(((0.0825**2) + (0.0675**2) + (0.0175**2) + (0.0025**2)) / 3)
    assert figures == {
        "days": 4,
        "sharpe": pytest.approx(0.0175 / deviation * np.sqrt(252)),
        "max_drawdown": pytest.approx(-0.05),
        "total_return": pytest.approx(total),
        "annual_return": pytest.approx((1 + total) ** 63 - 1),
        "annual_volatility": pytest.approx(deviation * np.sqrt(252)),
        "turnover": pytest.approx(3 / 4 * 252),  # in, out, in
        "exposure": pytest.approx(3 / 4),
        "hit_rate": pytest.approx(2 / 3),
    }


def test_figures_that_do_not_exist_are_none():
    """Proves None for no days, never in position, ruin and an annual return too large for a float."""
    empty = performance([], [])
    assert empty.pop("days") == 0
    assert set(empty.values()) == {None}
    assert performance([0.0, 0.0], [0, 0])["hit_rate"] is None
    assert performance([-1.0, 0.1], [1, 1])["annual_return"] == -1
    assert performance([-1.5, 0.1], [1, 1])["annual_return"] is None
    assert performance([50.0], [1])["annual_return"] is None


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


@given(ledgers(), st.data(), st.floats(0, 50))
def test_two_parts_with_the_position_carried_over_equal_one_go(ledger, data, cost_bps):
    """Proves stitching: a fold border leaves no trace in the returns or the trades."""
    position, returns = ledger
    cut = data.draw(st.integers(0, len(position)))
    carried = position[cut - 1] if cut else 0
    parts = [
        net_returns(position[:cut], returns[:cut], cost_bps),
        net_returns(position[cut:], returns[cut:], cost_bps, previous=carried),
    ]
    np.testing.assert_array_equal(np.concatenate(parts), net_returns(position, returns, cost_bps))
    trades = [position_changes(position[:cut]), position_changes(position[cut:], carried)]
    np.testing.assert_array_equal(np.concatenate(trades), position_changes(position))


@given(ledgers())
def test_later_days_never_change_earlier_net_returns(ledger):
    """Proves that a day's net return knows nothing of the days after it."""
    position, returns = ledger
    half = len(position) // 2
    changed = np.concatenate([position[:half], 1 - position[half:]]), np.concatenate([returns[:half], -returns[half:]])
    np.testing.assert_array_equal(net_returns(*changed, 5)[:half], net_returns(position, returns, 5)[:half])
