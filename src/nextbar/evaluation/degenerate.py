"""When a fit says nothing: one class, nothing moves, the first tree, no threshold. Each case is said in words."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np

from nextbar.datasets.assemble import TickerData
from nextbar.decisions.threshold import MIN_DAYS, ThresholdChoice
from nextbar.types import IntArray, JsonDict, Samples

Kind: TypeAlias = Literal["validation", "trees", "threshold", "test"]


def find_degenerate(
    data: TickerData, facts: JsonDict, choice: ThresholdChoice | None, classes: IntArray
) -> dict[Kind, str]:
    """What is degenerate about a fit on one ticker, in words; nothing where all is well.

    Args:
        data: The ticker.
        facts: Of the fitted model.
        choice: Its threshold; None for a model that predicts prices.
        classes: [test days] predicted classes.
    """
    found: dict[Kind, str] = {}
    if len(np.unique(data.splits.val.y)) < 2:
        found["validation"] = f"validation has one class ({_moves(data.splits.val)})"
    if facts.get("best_iteration") == 0:
        found["trees"] = "the trees stop at the first"
    if choice is not None and choice.objective == "default":
        found["threshold"] = f"the threshold is {choice.threshold} ({choice.reason})"
    if len(classes) >= MIN_DAYS and len(np.unique(classes)) == 1:
        found["test"] = f"all {len(classes)} test days are predicted {'UP' if classes[0] else 'DOWN'}"
    return found


def _moves(part: Samples) -> str:
    """How the days of a split with one class move."""
    days = len(part.y)
    how = "rise" if part.y[0] else "do not move" if not part.next_returns.any() else "do not rise"
    return f"{days} of {days} days {how}"
