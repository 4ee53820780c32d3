"""What is degenerate about a fit is said in words; of a sound fit there is nothing to say."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nextbar.evaluation.diagnostics import find_degenerate
from nextbar.scoring.threshold import tune_threshold

RETURNS = np.random.default_rng(0).normal(0, 0.01, 60)
FLAT = np.zeros(60)


def found(returns: np.ndarray = RETURNS, *, constant: bool = False, classes: Any = None, **facts: Any) -> Any:
    """Of a ticker with such validation returns, probabilities that are all alike or not, and predicted classes."""
    truth = (returns > 0).astype(int)
    data: Any = SimpleNamespace(val=SimpleNamespace(y=truth, next_returns=returns))
    probability = np.full(60, 0.4) if constant else np.linspace(0.3, 0.7, 60)
    choice = tune_threshold(probability, returns, truth, cost_bps=5)
    predicted = np.tile([0, 1], 30) if classes is None else np.asarray(classes)
    return find_degenerate(data, facts, choice, predicted)


def test_sound_fit_has_nothing_to_say():
    """Two classes, trees beyond the first, a chosen threshold and both predictions: silence."""
    assert found(best_iteration=3) == {}
    assert found() == {}


@pytest.mark.parametrize(
    ("returns", "words"),
    [
        (FLAT, "60 of 60 days do not move"),
        (FLAT - 0.01, "60 of 60 days do not rise"),
        (FLAT + 0.01, "60 of 60 days rise"),
    ],
    ids=["halt", "falls", "rises"],
)
def test_one_class_in_validation(returns, words):
    """It is told apart whether the days rise, do not rise, or do not move at all."""
    assert found(returns)["validation"] == f"validation has one class ({words})"


def test_early_stop_at_the_first_tree():
    """Best iteration 0 is said, 1 is not."""
    assert found(best_iteration=0) == {"trees": "boosting stopped after its first tree"}
    assert found(best_iteration=1) == {}


def test_threshold_that_could_not_be_chosen():
    """The reason of the choice is given; a threshold that the user has named is none."""
    told = found(constant=True)["threshold"]
    assert told == "the threshold is 0.5 (no candidate has 20 long and 20 flat days among 60 validation days)"
    data: Any = SimpleNamespace(val=SimpleNamespace(y=RETURNS > 0, next_returns=RETURNS))
    given = tune_threshold(np.full(60, 0.4), RETURNS, RETURNS > 0, cost_bps=5).set_to(0.4)
    assert find_degenerate(data, {}, given, np.tile([0, 1], 30)) == {}
    assert find_degenerate(data, {}, None, np.tile([0, 1], 30)) == {}


@pytest.mark.parametrize(("value", "word"), [(1, "UP"), (0, "DOWN")])
def test_one_class_on_all_test_days(value, word):
    """From twenty test days on a constant prediction is said; fewer may be alike by chance."""
    assert found(classes=[value] * 20) == {"test": f"all 20 test days are predicted {word}"}
    assert found(classes=[value] * 19) == {}
    assert found(classes=[]) == {}
