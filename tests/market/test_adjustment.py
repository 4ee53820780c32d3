from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nextbar.datasets.prices import adjust_forward

price = st.floats(min_value=0.01, max_value=1e5)


@st.composite
def histories(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    bars = draw(st.integers(1, 40))
    close = np.array(draw(st.lists(price, min_size=bars, max_size=bars)))
    adj_close = np.array(draw(st.lists(price, min_size=bars, max_size=bars)))
    return np.stack([close * 0.99, close * 1.02, close * 0.98, close]), adj_close


@given(histories())
def test_halving_every_adjusted_close_changes_no_bit(history: tuple[np.ndarray, np.ndarray]) -> None:
    """A later two-for-one split, which halves the whole past, leaves every adjusted price identical to the bit."""
    prices, adj_close = history
    assert adjust_forward(prices, adj_close).tobytes() == adjust_forward(prices, adj_close * 0.5).tobytes()


@given(histories())
def test_returns_are_those_of_the_adjusted_close(history: tuple[np.ndarray, np.ndarray]) -> None:
    """Day-to-day ratios of P equal those of adj_close, so dividends and splits are inside the return."""
    prices, adj_close = history
    level = adjust_forward(prices, adj_close)[3]
    np.testing.assert_allclose(level[1:] / level[:-1], adj_close[1:] / adj_close[:-1], rtol=1e-12)


@given(histories())
def test_open_high_low_take_the_factor_of_the_close(history: tuple[np.ndarray, np.ndarray]) -> None:
    """The shape of the bar survives: open, high and low keep their ratio to the close."""
    prices, adj_close = history
    adjusted = adjust_forward(prices, adj_close)
    np.testing.assert_allclose(adjusted / adjusted[3], prices / prices[3], rtol=1e-12)


@given(histories())
def test_rounding_never_pushes_a_price_out_of_its_bar(history: tuple[np.ndarray, np.ndarray]) -> None:
    """low <= open, close <= high holds after the adjustment wherever it held before, equal prices stay equal."""
    prices, adj_close = history
    prices[0], prices[1] = prices[3], prices[3]
    open_, high, low, close = adjust_forward(prices, adj_close)
    assert (low <= close).all()
    assert (high == close).all()
    assert (open_ == close).all()


@given(histories())
def test_the_close_is_the_formula_to_the_bit(history: tuple[np.ndarray, np.ndarray]) -> None:
    """P(t) = close(t0) · (adj_close(t) / adj_close(t0)), and the first price is the first quoted close."""
    prices, adj_close = history
    level = adjust_forward(prices, adj_close)[3]
    assert level.tobytes() == (prices[3, 0] * (adj_close / adj_close[0])).tobytes()
    assert level[0] == prices[3, 0]


def test_split_by_hand() -> None:
    """Two bars before and one after a 2:1 split: levels start at the first quoted close and go on without the jump."""
    close = np.array([100.0, 110.0, 56.0])
    prices = np.stack([close, close + 2, close - 2, close])
    adjusted = adjust_forward(prices, np.array([50.0, 55.0, 56.0]))
    np.testing.assert_allclose(adjusted[3], [100.0, 110.0, 112.0], rtol=1e-15)
    np.testing.assert_allclose(adjusted[1], [102.0, 112.0, 116.0], rtol=1e-15)


def test_adding_later_bars_changes_no_earlier_level() -> None:
    """The prefix of a longer history equals the shorter history to the bit."""
    rng = np.random.default_rng(1)
    prices, adj_close = rng.uniform(10, 20, (4, 50)), rng.uniform(1, 2, 50)
    assert (
        adjust_forward(prices, adj_close)[:, :20].tobytes() == adjust_forward(prices[:, :20], adj_close[:20]).tobytes()
    )


def test_bars_without_adjusted_close_become_nan_and_do_not_anchor() -> None:
    """NaN, zero and negative adjusted closes give NaN prices; the first known one is the anchor."""
    prices = np.tile(np.array([10.0, 11.0, 12.0, 13.0]), (4, 1))
    adjusted = adjust_forward(prices, np.array([np.nan, 5.5, 0.0, 6.5]))
    np.testing.assert_array_equal(adjusted[3], [np.nan, 11.0, np.nan, 13.0])
    assert np.isnan(adjusted[:3, [0, 2]]).all()


def test_without_any_adjusted_close_prices_stay_as_quoted() -> None:
    """All NULL means raw prices, in an array of their own."""
    prices = np.ones((4, 3))
    adjusted = adjust_forward(prices, np.full(3, np.nan))
    assert adjusted is not prices
    np.testing.assert_array_equal(adjusted, prices)
