"""How often the verdict is right on simulated histories: no training, fixed seeds, all draws counted."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from nextbar.evaluation.daily import daily_series
from nextbar.evaluation.significance import Evidence, Verdict, daily_sharpe, judge

TICKERS = 5
DRIFT_SHARPE = 0.7
COST_BPS = 5.0


def market(generator: np.random.Generator, days: int) -> np.ndarray:
    """[days, tickers] returns with drift, GARCH(1,1) volatility and a correlation of one half between tickers."""
    shocks = np.sqrt(0.5) * generator.standard_normal((days, 1)) + np.sqrt(0.5) * generator.standard_normal(
        (days, TICKERS)
    )
    variance = np.empty(days)
    variance[0] = 1.0
    for day in range(1, days):
        variance[day] = 0.05 + variance[day - 1] * (0.85 + 0.10 * shocks[day - 1].mean() ** 2 / 0.6)
    noise = 0.01 * np.sqrt(variance)[:, None] * shocks
    # The portfolio of the tickers, not each of them, has the Sharpe ratio.
    return noise - noise.mean() + DRIFT_SHARPE / np.sqrt(252) * noise.mean(axis=1).std()


def signals(generator: np.random.Generator, returns: np.ndarray, *, foresight: float, up: float = 0.6) -> np.ndarray:
    """[days, tickers] sticky classes, long on a share of the days; a share of them are the truth."""
    days = len(returns)
    fresh = generator.random((days, TICKERS)) < up
    changes = generator.random((days, TICKERS)) < 0.2
    changes[0] = True
    last = np.maximum.accumulate(np.where(changes, np.arange(days)[:, None], 0), axis=0)
    guesses = np.take_along_axis(fresh, last, axis=0)
    known = generator.random((days, TICKERS)) < foresight
    return np.where(known, returns > 0, guesses)


def evidence(returns: np.ndarray, classes: np.ndarray, cost_bps: float = COST_BPS) -> Evidence:
    days = len(returns)
    rows = pd.DataFrame(
        {
            "date": np.tile(pd.bdate_range("2000-01-03", periods=days).to_numpy(), TICKERS),
            "ticker": np.repeat([f"T{i}" for i in range(TICKERS)], days),
            "fold": 0,
            "class": classes.T.ravel().astype(int),
            "signal": classes.T.ravel().astype(float),
            "next_return": returns.T.ravel(),
        }
    )
    majority = {(0, f"T{i}"): 1 for i in range(TICKERS)}
    daily = daily_series(rows, cost_bps=cost_bps, majority=majority)
    return Evidence(
        net=daily.net,
        excess=daily.excess,
        counts=daily.counts,
        baselines=daily.baselines,
        others=np.empty((days, 0)),
        other_sharpes=np.empty(0),
    )


def verdicts(histories: int, *, days: int, foresight: float, draws: int, cost_bps: float = COST_BPS) -> list[Verdict]:
    found = []
    for number in range(histories):
        generator = np.random.default_rng([2026, number])
        returns = market(generator, days)
        classes = signals(generator, returns, foresight=foresight)
        found.append(judge(evidence(returns, classes, cost_bps), draws=draws).verdict)
    return found


def report(name: str, edges: int, histories: int) -> None:
    bound = binomtest(edges, histories).proportion_ci(0.95)
    sys.stdout.write(f"{name}: {edges} of {histories} EDGE, 95 % interval {bound.low:.3f} to {bound.high:.3f}\n")


def test_noise_in_a_rising_market_is_rarely_called_an_edge() -> None:
    """A model without skill, at a drift of Sharpe 0.7, gets EDGE at most as often as chance allows."""
    edges = verdicts(25, days=750, foresight=0.0, draws=150).count(Verdict.EDGE)
    report("noise", edges, 25)
    assert edges <= 2


def test_a_planted_edge_is_found() -> None:
    """Three years of five tickers with one decision in five known in advance: EDGE in at least 90 %."""
    edges = verdicts(15, days=750, foresight=0.20, draws=150).count(Verdict.EDGE)
    report("planted", edges, 15)
    assert edges >= 14


@pytest.mark.slow
@pytest.mark.parametrize("cost_bps", [COST_BPS, 0.0])
def test_two_hundred_noise_histories(cost_bps: float) -> None:
    """200 histories of five years: at most 10 come out EDGE, even if trading were free."""
    edges = verdicts(200, days=1250, foresight=0.0, draws=500, cost_bps=cost_bps).count(Verdict.EDGE)
    report(f"noise at {cost_bps:g} bps", edges, 200)
    assert edges <= 10


@pytest.mark.slow
def test_the_best_of_many_tries_is_deflated() -> None:
    """The best of 20 configurations without skill, all of them in the ledger, at no costs: at most 5 of 100 EDGE."""
    found = [judge(best_of(np.random.default_rng([7, number]), tries=20), draws=500).verdict for number in range(100)]
    report("best of 20", found.count(Verdict.EDGE), 100)
    assert found.count(Verdict.EDGE) <= 5


def best_of(generator: np.random.Generator, *, tries: int) -> Evidence:
    """Evidence of the luckiest of several configurations on one history."""
    returns = market(generator, 1250)
    tried = [evidence(returns, signals(generator, returns, foresight=0.0), cost_bps=0.0) for _ in range(tries)]
    ratios = np.array([daily_sharpe(one.excess) for one in tried], dtype=float)
    best = int(ratios.argmax())
    others = np.column_stack([one.net for number, one in enumerate(tried) if number != best])
    return replace(tried[best], others=others, other_sharpes=np.delete(ratios, best))


@pytest.mark.slow
def test_one_hundred_planted_edges() -> None:
    """100 histories of five years with 15 % of the decisions known in advance: EDGE in at least 90 %."""
    edges = verdicts(100, days=1250, foresight=0.15, draws=500).count(Verdict.EDGE)
    report("planted", edges, 100)
    assert edges >= 90
