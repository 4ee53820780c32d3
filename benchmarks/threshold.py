"""All candidate thresholds at once against one pandas backtest per candidate.

Run ``python benchmarks/threshold.py [tickers]``. Both sides score the same candidates on the same made-up validation
days, in turn, ticker by ticker; the figure is the median of the ratios. The scores must be equal to 1e-12.
"""

import sys
from statistics import median
from time import perf_counter

import numpy as np
import pandas as pd

from nextbar.scoring.threshold import DEFAULT_GRID, tune_threshold

DAYS, COST_BPS = 500, 5.0


def all_at_once(probability: np.ndarray, returns: np.ndarray) -> np.ndarray:
    return tune_threshold(probability, returns, returns > 0, cost_bps=COST_BPS, min_days=20).curve.score


def one_by_one(probability: np.ndarray, returns: np.ndarray) -> np.ndarray:
    chance, next_return = pd.Series(probability), pd.Series(returns)
    scores = np.full(len(DEFAULT_GRID), np.nan)
    for i, threshold in enumerate(DEFAULT_GRID):
        position = (chance >= threshold).astype(float)
        if min(position.sum(), DAYS - position.sum()) >= 20:
            net = position * next_return - COST_BPS / 1e4 * position.diff().fillna(position.iloc[0]).abs()
            scores[i] = net.mean() / net.std() * np.sqrt(252)
    return scores


def timed(side, *arguments: np.ndarray) -> tuple[float, np.ndarray]:
    start = perf_counter()
    scores = side(*arguments)
    return perf_counter() - start, scores


def main(tickers: int) -> None:
    random = np.random.default_rng(42)
    fast, slow = [], []
    for _ in range(tickers):
        # Wide enough that nearly all of the 201 candidates are eligible: the hardest case for the fast side.
        ticker = random.uniform(0.2, 0.8, DAYS), random.normal(0.0004, 0.015, DAYS)
        for side, times in ((all_at_once, fast), (one_by_one, slow)):
            seconds, scores = timed(side, *ticker)
            times.append(seconds)
            if side is all_at_once:
                expected = scores
        np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-12)
    ratio = median(b / a for a, b in zip(fast, slow, strict=True))
    print(f"{tickers} tickers, {len(DEFAULT_GRID)} candidates, {DAYS} days, equal to 1e-12")
    print(f"all at once {1e3 * median(fast):.2f} ms, one by one {1e3 * median(slow):.1f} ms: {ratio:.0f} times")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50)
