"""From out-of-sample rows to one value per day: what the model, and each baseline, earned net of costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from nextbar.scoring.backtest import first_rows, portfolio, strategy_rows
from nextbar.types import BoolArray, DateArray, FloatArray

Majority = Mapping[tuple[int, str], int]
"""(fold, ticker) → majority class of that ticker's train part in that fold, 0 or 1."""

CONSTANT = "constant_exposure"


@dataclass(frozen=True, kw_only=True)
class DailySeries:
    """The equal-weight portfolio of the rows' tickers; every array has one row per day, oldest first.

    Attributes:
        dates: [days] on which the decision is taken.
        net: [days] returns of the model after costs.
        baselines: Name → [days] returns after costs: ``always_long``, ``yesterday_direction``, ``constant_exposure``
            and, where it is known, ``majority_class``.
        counts: [days, 4] rises predicted, rises, falls predicted, falls: summed over the day's tickers.
    """

    dates: DateArray
    net: FloatArray
    baselines: Mapping[str, FloatArray]
    counts: FloatArray

    @property
    def excess(self) -> FloatArray:
        """[days] return minus that of a constant position of the same average exposure in each ticker."""
        return self.net - self.baselines[CONSTANT]


def daily_series(rows: pd.DataFrame, *, cost_bps: float, majority: Majority | None = None) -> DailySeries:
    """Daily returns of the model and of its baselines.

    Yesterday's direction is read off the rows: a ticker's first day is flat, and a day after a hole looks at the last
    row before it.

    Args:
        rows: Out-of-sample rows of one or more tickers, in any order; see `nextbar.evaluation.baselines`.
        cost_bps: Cost of a change of position by 1, in basis points.
        majority: Majority classes; None leaves that baseline out.
    """
    rows = rows.sort_values(["ticker", "date"], kind="stable")
    ticker = pd.factorize(rows["ticker"])[0]
    signal, earned = (rows[name].to_numpy(dtype=np.float64) for name in ("signal", "next_return"))
    positions = {"model": signal, **_baseline_positions(rows, ticker, signal, earned > 0, majority)}
    net = np.column_stack([strategy_rows(ticker, held, earned, cost_bps) for held in positions.values()])
    counts = _outcomes(rows["class"].to_numpy() == 1, earned > 0)
    dates = rows["date"].to_numpy().astype("datetime64[D]")
    days, means = portfolio(dates, np.column_stack([net, counts]))
    held_by = np.unique(dates, return_counts=True)[1][:, None]
    series = dict(zip(positions, means.T, strict=False))
    return DailySeries(
        dates=days, net=series.pop("model"), baselines=series, counts=np.rint(means[:, len(positions) :] * held_by)
    )


def by_ticker(rows: pd.DataFrame, *, cost_bps: float) -> dict[str, DailySeries]:
    """The same for each ticker on its own, without the majority class."""
    parts = rows.groupby("ticker", sort=True)
    return {str(name): daily_series(part, cost_bps=cost_bps) for name, part in parts}


def _baseline_positions(
    rows: pd.DataFrame, ticker: np.ndarray, signal: FloatArray, rose: BoolArray, majority: Majority | None
) -> dict[str, FloatArray]:
    exposure = np.bincount(ticker, weights=np.abs(signal)) / np.bincount(ticker)
    yesterday = np.where(first_rows(ticker), 0.0, np.roll(rose.astype(np.float64), 1))
    found = {"always_long": np.ones_like(signal), "yesterday_direction": yesterday, CONSTANT: exposure[ticker]}
    if majority is not None:
        keys = zip(rows["fold"].tolist(), rows["ticker"].tolist(), strict=True)
        found["majority_class"] = np.array([float(majority[key]) for key in keys])
    return found


def _outcomes(predicted: BoolArray, rose: BoolArray) -> FloatArray:
    """[n, 4] rises predicted, rises, falls predicted, falls."""
    return np.column_stack([predicted & rose, rose, ~predicted & ~rose, ~rose]).astype(np.float64)
