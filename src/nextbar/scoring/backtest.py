"""From positions to money: net returns, and formulas of a daily return series.

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


def position_changes(position: npt.ArrayLike) -> FloatArray:
    """Return the size of each day's trade, ``|position(t) - position(t-1)|``; k columns [n, k] are k strategies."""
    held = np.asarray(position, dtype=np.float64)
    changes = held.copy()
    changes[1:] -= held[:-1]
    return np.abs(changes, out=changes)


def net_returns(position: npt.ArrayLike, next_return: npt.ArrayLike, cost_bps: float) -> FloatArray:
    """Return daily returns after costs of one ticker's position, [n] or [n, k] for k strategies."""
    held = np.asarray(position, dtype=np.float64)
    # Transposed, so that a return meets its day in one column as in many.
    net: FloatArray = (held.T * np.asarray(next_return, dtype=np.float64)).T
    net -= cost_bps / 1e4 * position_changes(held)
    return net


def sharpe(excess: npt.ArrayLike, periods: float = TRADING_DAYS) -> float | None:
    """Annualised Sharpe ratio of daily excess returns [n]; None where :func:`sharpe_columns` has none."""
    return _figure(float(sharpe_columns(np.asarray(excess, dtype=np.float64)[:, None], periods)[0]))


def sharpe_columns(excess: FloatArray, periods: float = TRADING_DAYS) -> FloatArray:
    """Annualised Sharpe ratio of each column (Sharpe 1994): mean / standard deviation (ddof 1), times √periods."""
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


def annual_return(net: FloatArray, periods: float) -> float | None:
    """Geometric return a year of daily returns [n]; None once a day loses more than all, and without days."""
    if not net.size or np.any(net < -1.0):
        return None
    # Ruin is log(0), and ends at -1; a single extreme day overflows when compounded over a year, and has no figure.
    with np.errstate(divide="ignore", over="ignore"):
        return _figure(float(np.expm1(np.log1p(net).mean() * periods)))


def sortino(excess: FloatArray, periods: float) -> float | None:
    """Annualised mean excess over the root mean square of its losses; None without a loss."""
    losses = np.minimum(excess, 0.0)
    below = float(np.sqrt(np.mean(losses**2))) if losses.size else 0.0
    return _figure(float(excess.mean()) / below * periods**0.5) if below > _ROUNDING else None


def calmar(net: FloatArray, periods: float) -> float | None:
    """Geometric return a year over the deepest fall of wealth; None where it never falls."""
    yearly, deepest = annual_return(net, periods), max_drawdown(net)
    return yearly / -deepest if yearly is not None and deepest else None


def against(excess: FloatArray, market: FloatArray, periods: float = TRADING_DAYS) -> JsonDict:
    """Regress daily excess returns [n] on those of the market [n]: yearly ``alpha``, ``beta`` and ``alpha_t``.

    ``alpha_t`` is the intercept over its standard error by Newey & West (1987): Bartlett weights, ⌊4 (n/100)^(2/9)⌋
    lags, no correction for small samples. All are None where the market does not vary.
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


def _figure(value: float) -> float | None:
    return value if np.isfinite(value) else None
