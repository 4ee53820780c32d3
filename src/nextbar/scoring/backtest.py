"""From positions to money: net returns, and the figures of a daily return series.

A position decided at the close of day t earns ``next_return`` = P(t+1)/P(t) - 1. Costs are ``cost_bps`` (1/10000)
times the change of position; the first entry is charged, there is no exit at the end. Whoever wants fills at the next
open hands in O(t+2)/O(t+1) - 1 as ``next_return``: the formulas are the same.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nextbar.types import BoolArray, DateArray, FloatArray, JsonDict

TRADING_DAYS = 252
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


def ticker_changes(ticker: npt.NDArray[np.generic], position: npt.ArrayLike) -> FloatArray:
    """Size of each row's trade for several tickers in one table, each starting flat.

    Args:
        ticker: [n] any identifier, rows sorted by ticker, then date.
        position: [n] held from the close of that row's day.

    Returns:
        [n] absolute changes of position.

    Raises:
        ValueError: A ticker's rows do not stand together.
    """
    held = np.asarray(position, dtype=np.float64)
    return np.where(first_rows(ticker), np.abs(held), position_changes(held))


def strategy_rows(
    ticker: npt.NDArray[np.generic], signal: npt.ArrayLike, next_return: npt.ArrayLike, cost_bps: float
) -> FloatArray:
    """Stitched net returns of several tickers: a position carries over fold borders, never from ticker to ticker.

    Args:
        ticker: [n] any identifier, rows sorted by ticker, then date, whatever the fold.
        signal: [n] position held from the close of that row's day.
        next_return: [n] return from that close to the next.
        cost_bps: Cost of a change of position by 1, in basis points.

    Returns:
        [n] net returns, in the order of the rows.

    Raises:
        ValueError: A ticker's rows do not stand together.
    """
    return _net(np.asarray(signal, dtype=np.float64), next_return, ticker_changes(ticker, signal), cost_bps)


def one_bar_late(ticker: npt.NDArray[np.generic], signal: npt.ArrayLike) -> FloatArray:
    """The same signals [n] executed one bar late: moved down by one row within each ticker, whose first row is flat.

    Raises:
        ValueError: A ticker's rows do not stand together.
    """
    return np.where(first_rows(ticker), 0.0, np.roll(np.asarray(signal, dtype=np.float64), 1))


def first_rows(ticker: npt.NDArray[np.generic]) -> BoolArray:
    """Which of the rows [n], sorted by ticker, are the first of their ticker.

    Raises:
        ValueError: A ticker's rows do not stand together; each further part would be charged an entry it never made.
    """
    first = np.ones(len(ticker), dtype=np.bool_)
    first[1:] = ticker[1:] != ticker[:-1]
    if np.unique(ticker[first]).size != first.sum():
        raise ValueError("rows must be sorted by ticker, then date; a ticker's rows stand apart")
    return first


def portfolio(dates: DateArray, values: npt.ArrayLike) -> tuple[DateArray, FloatArray]:
    """Equal weight, 1/n over the tickers of each day.

    Args:
        dates: [n] day of each row, in any order.
        values: [n] or [n, k] returns (or positions, or trades) of each row.

    Returns:
        The days [d], sorted, each once, and the means [d] or [d, k].
    """
    order = np.argsort(dates, kind="stable")
    days, starts, counts = np.unique(dates[order], return_index=True, return_counts=True)
    rows = np.asarray(values, dtype=np.float64)[order]
    if not days.size:
        return days, rows
    return days, (np.add.reduceat(rows, starts, axis=0).T / counts).T


def sharpe(returns: npt.ArrayLike, risk_free: float = 0.0) -> float | None:
    """Annualised Sharpe ratio of simple daily returns [n]; None where :func:`sharpe_columns` has none."""
    return _figure(float(sharpe_columns(np.asarray(returns, dtype=np.float64)[:, None], risk_free)[0]))


def sharpe_columns(returns: FloatArray, risk_free: float = 0.0) -> FloatArray:
    """Annualised Sharpe ratio of each column (Sharpe 1994): excess mean / standard deviation (ddof 1), times √252.

    Args:
        returns: [n, k] simple daily returns.
        risk_free: Simple annual rate; a day's share of it is 1/252.

    Returns:
        [k], NaN for a column without variance and everywhere if there are fewer than two rows.
    """
    if len(returns) < 2:
        return np.full(returns.shape[1], np.nan)
    mean = returns.mean(axis=0, keepdims=True)
    deviation = returns.std(axis=0, ddof=1, mean=mean)
    deviation[deviation <= _ROUNDING * np.maximum(1.0, np.abs(mean[0]))] = np.nan
    ratio: FloatArray = (mean[0] - risk_free / TRADING_DAYS) / deviation * np.sqrt(TRADING_DAYS)
    return ratio


def max_drawdown(returns: npt.ArrayLike) -> float | None:
    """Deepest fall of wealth below its own peak, ≤ 0; wealth starts at 1. None without returns [n]."""
    wealth = np.cumprod(1.0 + np.asarray(returns, dtype=np.float64))
    peak = np.maximum.accumulate(np.maximum(wealth, 1.0))
    return float(np.min(wealth / peak - 1.0)) if wealth.size else None


def performance(
    net: npt.ArrayLike, position: npt.ArrayLike, *, traded: npt.ArrayLike | None = None, risk_free: float = 0.0
) -> JsonDict:
    """Figures of a stitched daily series.

    Args:
        net: [n] daily returns after costs, every day once.
        position: [n] position that earned them; for a portfolio the mean position of the day's tickers.
        traded: [n] absolute change of position of each day; for a portfolio the mean over the day's tickers, because
            one ticker's entry does not cancel another's exit. By default the changes of ``position``.
        risk_free: Simple annual rate that the Sharpe ratio subtracts.

    Returns:
        ``days``; ``sharpe``; ``max_drawdown`` (≤ 0); ``total_return`` (compounded); ``annual_return`` (geometric, 252
        days; None once wealth is below 0); ``annual_volatility`` (standard deviation, ddof 1, times √252); ``turnover``
        (mean ``traded`` times 252: 2 is one round trip a year); ``exposure`` (mean size of the position); ``hit_rate``
        (share of the days with a position that earned more than 0 net). A figure that does not exist is None.
    """
    earned, held = np.asarray(net, dtype=np.float64), np.asarray(position, dtype=np.float64)
    trades = position_changes(held) if traded is None else np.asarray(traded, dtype=np.float64)
    days, in_position = earned.size, held != 0
    return {
        "days": days,
        "sharpe": sharpe(earned, risk_free),
        "max_drawdown": max_drawdown(earned),
        "total_return": _figure(float(np.prod(1.0 + earned)) - 1.0) if days else None,
        "annual_return": _annual_return(earned),
        "annual_volatility": float(earned.std(ddof=1) * np.sqrt(TRADING_DAYS)) if days > 1 else None,
        "turnover": float(trades.mean() * TRADING_DAYS) if days else None,
        "exposure": float(np.abs(held).mean()) if days else None,
        "hit_rate": float(np.mean(earned[in_position] > 0)) if in_position.any() else None,
    }


def _net(held: FloatArray, next_return: npt.ArrayLike, traded: FloatArray, cost_bps: float) -> FloatArray:
    # Transposed, so that a return meets its day in one column as in many.
    net: FloatArray = (held.T * np.asarray(next_return, dtype=np.float64)).T
    net -= cost_bps / 1e4 * traded
    return net


def _annual_return(earned: FloatArray) -> float | None:
    if not earned.size or np.any(earned < -1.0):
        return None
    # Ruin is log(0), and ends at -1; a single wild day overflows when compounded over a year, and has no figure.
    with np.errstate(divide="ignore", over="ignore"):
        return _figure(float(np.expm1(np.log1p(earned).mean() * TRADING_DAYS)))


def _figure(value: float) -> float | None:
    return value if np.isfinite(value) else None
