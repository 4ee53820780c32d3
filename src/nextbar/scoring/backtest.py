"""From positions to money: net returns, and the figures of a daily return series.

A position decided at the close of day t earns ``next_return`` = P(t+1)/P(t) - 1. Costs are ``cost_bps`` (1/10000)
times the change of position; the first entry is charged, there is no exit at the end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nextbar.types import FloatArray, JsonDict

TRADING_DAYS = 252
"""Bars per year, unless the bars say otherwise."""
# A return is a ratio near 1 minus 1, so rounding alone scatters a constant series by about 1e-16.
_ROUNDING = 1e-12


def position_changes(position: npt.ArrayLike, previous: npt.ArrayLike = 0.0) -> FloatArray:
    """Size of each day's trade, ``|position(t) - position(t-1)|``.

    Args:
        position: [n] or [n, k] held from the close of each day, oldest first; k columns are k strategies.
        previous: Position before the first day, one number or [k].

    Returns:
        Same shape as ``position``.
    """
    held = np.asarray(position, dtype=np.float64)
    changes = held.copy()
    changes[:1] -= np.asarray(previous, dtype=np.float64)
    changes[1:] -= held[:-1]
    return np.abs(changes, out=changes)


def net_returns(
    position: npt.ArrayLike, next_return: npt.ArrayLike, cost_bps: float, previous: npt.ArrayLike = 0.0
) -> FloatArray:
    """Daily returns of one ticker's position after costs.

    Args:
        position: [n] or [n, k] as in :func:`position_changes`.
        next_return: [n] return from the close of each day to the next.
        cost_bps: Cost of a change of position by 1, in basis points.
        previous: Position before the first day, one number or [k]: what carries over a fold border.

    Returns:
        Same shape as ``position``.
    """
    held = np.asarray(position, dtype=np.float64)
    return _net(held, next_return, position_changes(held, previous), cost_bps)


def sharpe(excess: npt.ArrayLike, periods: float = TRADING_DAYS) -> float | None:
    """Annualised Sharpe ratio of daily excess returns [n]; None where :func:`sharpe_columns` has none."""
    return _figure(float(sharpe_columns(np.asarray(excess, dtype=np.float64)[:, None], periods)[0]))


def sharpe_columns(excess: FloatArray, periods: float = TRADING_DAYS) -> FloatArray:
    """Annualised Sharpe ratio of each column (Sharpe 1994): mean / standard deviation (ddof 1), times √periods.

    Args:
        excess: [n, k] daily returns above the risk-free return of the capital in position.
        periods: Bars per year.

    Returns:
        [k], NaN for a column without variance and everywhere if there are fewer than two rows.
    """
    if len(excess) < 2:
        return np.full(excess.shape[1], np.nan)
    with np.errstate(over="ignore", invalid="ignore"):
        mean = excess.mean(axis=0, keepdims=True)
        deviation = excess.std(axis=0, ddof=1, mean=mean)
        varies = (deviation > _ROUNDING * np.maximum(1.0, np.abs(mean[0]))) & np.isfinite(deviation)
        deviation[~varies] = np.nan
        ratio: FloatArray = mean[0] / deviation * np.sqrt(periods)
    return ratio


def max_drawdown(returns: npt.ArrayLike) -> float | None:
    """Deepest fall of wealth below its own peak, from -1 to 0; wealth starts at 1 and does not fall below 0.

    Computed from logarithms, because wealth itself overflows. None without returns [n].
    """
    fall = wealth_path(returns)[1]
    return _figure(float(np.min(fall))) if fall.size else None


def wealth_path(returns: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Wealth and its fall below its own peak, both [n]; wealth starts at 1 and does not fall below 0."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        logs = np.cumsum(np.log1p(np.maximum(np.asarray(returns, dtype=np.float64), -1.0)))
        fall: FloatArray = np.expm1(logs - np.maximum.accumulate(np.maximum(logs, 0.0)))
        wealth: FloatArray = np.exp(logs)
    return wealth, fall


def performance(
    net: npt.ArrayLike,
    position: npt.ArrayLike,
    *,
    excess: npt.ArrayLike | None = None,
    traded: npt.ArrayLike | None = None,
    cost_bps: float = 0.0,
    periods: float = TRADING_DAYS,
) -> JsonDict:
    """Figures of a stitched daily series.

    Args:
        net: [n] daily returns after costs, every day once.
        position: [n] position that earned them; for a portfolio the mean position of its tickers.
        excess: [n] ``net`` minus the risk-free return of the capital in position; by default ``net``.
        traded: [n] absolute change of position of each day; for a portfolio the mean over its tickers, because
            one ticker's entry does not cancel another's exit. By default the changes of ``position``.
        cost_bps: Cost of a change of position by 1 that ``net`` has paid, in basis points.
        periods: Bars per year.

    Returns:
        ``days``; ``sharpe``; ``max_drawdown`` (≤ 0); ``total_return`` (compounded, not below -1); ``annual_return``
        (geometric; None once a day loses more than all); ``annual_volatility`` (standard deviation, ddof 1, times
        √periods); ``turnover`` (mean ``traded`` times periods: 2 is one round trip a year); ``exposure`` (mean size of
        the position); ``hit_rate`` (share of the days with a position that earned more than 0 net); ``break_even_bps``
        (cost of a change of position by 1 at which the mean net return is 0; None where nothing is traded). A figure
        that does not exist is None.
    """
    earned, held = np.asarray(net, dtype=np.float64), np.asarray(position, dtype=np.float64)
    trades = position_changes(held) if traded is None else np.asarray(traded, dtype=np.float64)
    days, in_position = earned.size, held != 0
    with np.errstate(over="ignore", invalid="ignore"):
        figures = {
            "days": days,
            "sharpe": sharpe(earned if excess is None else excess, periods),
            "max_drawdown": max_drawdown(earned),
            "total_return": float(np.prod(np.maximum(1.0 + earned, 0.0))) - 1.0 if days else None,
            "annual_return": _annual_return(earned, periods),
            "annual_volatility": float(earned.std(ddof=1) * np.sqrt(periods)) if days > 1 else None,
            "turnover": float(trades.mean() * periods) if days else None,
            "exposure": float(np.abs(held).mean()) if days else None,
            "hit_rate": float(np.mean(earned[in_position] > 0)) if in_position.any() else None,
            "break_even_bps": cost_bps + 1e4 * float(earned.sum() / trades.sum()) if trades.any() else None,
        }
    return dict(finite(figures))


def against(excess: FloatArray, market: FloatArray, periods: float = TRADING_DAYS) -> JsonDict:
    """Regress daily excess returns [n] on those of the market [n] by least squares.

    Returns:
        ``alpha`` (yearly intercept), ``beta`` and ``alpha_t``, the intercept over its standard error (Newey & West
        1987: Bartlett weights, ⌊4 (n/100)^(2/9)⌋ lags, no correction for small samples). All are None where the market
        does not vary, ``alpha_t`` also where nothing is left to explain.
    """
    nothing: JsonDict = dict.fromkeys(("alpha", "beta", "alpha_t"))
    n, rounding = len(excess), _ROUNDING**2 * len(excess)
    if n < 2:
        return nothing
    with np.errstate(over="ignore", invalid="ignore"):
        center, mean = float(market.mean()), float(excess.mean())
        moved = market - center
        scatter = float(moved @ moved)
        if not scatter > rounding:
            return nothing
        beta = float(moved @ excess) / scatter
        residual = excess - mean - beta * moved
        # The intercept's error is linear in the residuals: its long-run variance is that of one series.
        shares = residual * (1.0 / n - center / scatter * moved)
        lags = min(int(4 * (n / 100) ** (2 / 9)), n - 1)
        variance = float(shares @ shares) + 2 * sum(
            (1 - lag / (lags + 1)) * float(shares[lag:] @ shares[:-lag]) for lag in range(1, lags + 1)
        )
        alpha = mean - beta * center
        unexplained = float(residual @ residual) > rounding and variance > 0
    t_value = alpha / variance**0.5 if unexplained else None
    return dict(finite({"alpha": alpha * periods, "beta": beta, "alpha_t": t_value}))


def finite(figures: Any) -> Any:
    """Replace NaN and infinity by None, inside records and lists too: JSON has neither."""
    if isinstance(figures, dict):
        return {name: finite(value) for name, value in figures.items()}
    if isinstance(figures, list):
        return [finite(value) for value in figures]
    return _figure(figures) if isinstance(figures, float) else figures


def _net(held: FloatArray, next_return: npt.ArrayLike, traded: FloatArray, cost_bps: float) -> FloatArray:
    # Transposed, so that a return meets its day in one column as in many.
    net: FloatArray = (held.T * np.asarray(next_return, dtype=np.float64)).T
    net -= cost_bps / 1e4 * traded
    return net


def _annual_return(earned: FloatArray, periods: float) -> float | None:
    if not earned.size or np.any(earned < -1.0):
        return None
    # Ruin is log(0), and ends at -1; a single wild day overflows when compounded over a year, and has no figure.
    with np.errstate(divide="ignore", over="ignore"):
        return _figure(float(np.expm1(np.log1p(earned).mean() * periods)))


def _figure(value: float) -> float | None:
    return value if np.isfinite(value) else None
