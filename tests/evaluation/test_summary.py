"""From rows to figures: positions carry over folds, every figure is JSON, price errors are in quoted prices."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from nextbar.config import WalkForwardConfig
from nextbar.evaluation.summary import finish_rows, summarise

CONFIG = WalkForwardConfig(cost_bps=100.0)


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
            "yesterday": np.zeros(len(rows), dtype=np.int8),
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


def test_positions_carry_over_fold_borders():
    """Strategy returns are the hand-worked ledger, in the order in which the rows came."""
    rows = rows_of(SIGNALS, RETURNS)
    done = finish_rows(rows, CONFIG.cost_bps)
    for ticker, expected in NET.items():
        np.testing.assert_allclose(done[done["ticker"] == ticker]["strategy_return"], expected, atol=1e-15)
    pd.testing.assert_frame_equal(done.drop(columns="strategy_return"), rows.drop(columns="strategy_return"))
    shuffled = rows.sample(frac=1, random_state=3)
    again = finish_rows(shuffled, CONFIG.cost_bps)
    assert again["strategy_return"].to_dict() == done["strategy_return"].to_dict()


def test_portfolio_is_the_mean_of_the_days_tickers():
    """Sharpe and drawdown are computed once on the stitched equal-weight series, not averaged over folds or tickers."""
    rows = finish_rows(rows_of(SIGNALS, RETURNS), CONFIG.cost_bps)
    figures = summarise(rows, aux_of(rows), CONFIG)
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
    done = finish_rows(rows, 5.0)
    figures = summarise(done, aux_of(rows), CONFIG)
    assert figures["model"]["sharpe"] is None
    assert figures["model"]["roc_auc"] is None
    assert figures["model"]["max_drawdown"] == 0
    json.dumps(figures, allow_nan=False)


def test_price_errors_by_hand():
    """A predicted close is judged in quoted prices beside tomorrow = today, per ticker and on average."""
    rows = finish_rows(rows_of(SIGNALS, RETURNS, lstm=True), CONFIG.cost_bps)
    figures = summarise(rows, aux_of(rows), CONFIG)
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
