"""The decision threshold: its score, who is eligible, ties; from a class to a position."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score

from nextbar.scoring.threshold import CLASS_TO_SIGNAL, DEFAULT_GRID, classify, to_signal, tune_threshold


@pytest.fixture
def validation():
    """Probabilities [300] that know a little of the returns [300]."""
    random = np.random.default_rng(7)
    returns = random.normal(0.0004, 0.01, 300)
    return np.clip(0.5 + 3 * returns + random.normal(0, 0.08, 300), 0, 1), returns


def looped(probability, returns, cost_bps):
    """The definition, one candidate and one pandas backtest after the other."""
    for threshold in DEFAULT_GRID:
        position = pd.Series(probability >= threshold).astype(float)
        if min(position.sum(), len(position) - position.sum()) < 20:
            yield np.nan
            continue
        net = position * returns - cost_bps / 1e4 * position.diff().fillna(position.iloc[0]).abs()
        yield net.mean() / net.std() * np.sqrt(252)


def test_all_candidates_at_once_equal_one_backtest_each(validation):
    """Proves every score of the curve against a plain pandas backtest to 1e-12, and that the best is chosen."""
    choice = tune_threshold(*validation, validation[1] > 0, cost_bps=5)
    expected = np.array(list(looped(*validation, 5)))
    np.testing.assert_allclose(choice.curve.score, expected, rtol=0, atol=1e-12)
    assert choice.objective == "sharpe"
    assert choice.score == np.nanmax(choice.curve.score)
    assert choice.curve.score[choice.curve.threshold == choice.threshold] == choice.score


@pytest.mark.parametrize("periods", [252, 52])
def test_idle_days_are_not_charged_the_risk_free_rate(validation, periods):
    """In the backtest of each score a day in position must earn its share of 20 % a year, a flat one none."""
    probability, returns = validation
    found = tune_threshold(probability, returns, returns > 0, cost_bps=5, risk_free=0.2, periods=periods)
    for place in (80, 100, 120):
        position = pd.Series(probability >= DEFAULT_GRID[place]).astype(float)
        excess = position * (returns - 0.2 / periods) - 5e-4 * position.diff().fillna(position.iloc[0]).abs()
        assert found.curve.score[place] == pytest.approx(excess.mean() / excess.std() * np.sqrt(periods), abs=1e-12)


def test_costs_change_the_choice():
    """Proves that the objective is net: trading in and out each day wins at no cost and loses at 100 bps."""
    # Days in pairs, up then down. A high probability picks the ups alone; a middling one holds through the first half.
    returns = np.tile([0.010, -0.004], 60)
    probability = np.where(np.arange(120) < 60, 0.55, 0.45) + np.tile([0.15, 0.0], 60)
    grid = np.array([0.46, 0.56])
    assert tune_threshold(probability, returns, returns > 0, cost_bps=0, grid=grid).threshold == 0.56
    assert tune_threshold(probability, returns, returns > 0, cost_bps=100, grid=grid).threshold == 0.46


def test_without_returns_balanced_accuracy_is_scored(validation):
    """Proves each score against scikit-learn."""
    probability, returns = validation
    choice = tune_threshold(probability, None, returns > 0, cost_bps=5)
    assert choice.objective == "balanced_accuracy"
    for threshold, score in zip(choice.curve.threshold, choice.curve.score, strict=True):
        if np.isfinite(score):
            assert score == pytest.approx(balanced_accuracy_score(returns > 0, probability >= threshold), abs=1e-12)
    assert choice.score == np.nanmax(choice.curve.score)


@pytest.mark.parametrize(("long", "flat", "objective"), [(20, 20, "sharpe"), (19, 21, "default"), (21, 19, "default")])
def test_a_candidate_needs_twenty_long_and_twenty_flat_days(long, flat, objective):
    """Proves both borders of rule 8, and that the default is 0.5 with a reason that carries the numbers."""
    returns = np.random.default_rng(0).normal(0, 0.01, long + flat)
    probability = np.repeat([0.7, 0.4], [long, flat])
    choice = tune_threshold(probability, returns, returns > 0, cost_bps=5)
    assert (choice.objective, choice.threshold) == (objective, 0.5)
    if objective == "default":
        assert choice.score is None
        assert choice.reason == "no candidate has 20 long and 20 flat days among 40 validation days"


def test_ties_go_to_the_candidate_nearest_one_half():
    """Proves it on a plateau: every threshold in (0.55, 0.65] is the same strategy, and the nearest is chosen."""
    returns = np.tile([0.01, -0.01, 0.02], 30)
    probability = np.where(returns > 0, 0.65, 0.55)
    choice = tune_threshold(probability, returns, returns > 0, cost_bps=5)
    plateau = (choice.curve.threshold > 0.55) & (choice.curve.threshold <= 0.65)
    assert len(set(choice.curve.score[plateau])) == 1
    assert choice.threshold == DEFAULT_GRID[DEFAULT_GRID > 0.55].min()


@pytest.mark.parametrize("step", [0.0025, 0.05, 0.1])
def test_equally_near_candidates_go_to_the_lower(step):
    """Proves it where floats see two different distances, as 0.5 - 0.4 and 0.6 - 0.5."""
    returns = np.tile([0.01, -0.01, 0.02], 30)
    probability = np.where(returns > 0, 0.9, 0.1)
    for grid in ([0.5 - step, 0.5 + step], [0.5 + step, 0.5 - step]):
        choice = tune_threshold(probability, returns, returns > 0, cost_bps=5, grid=np.array(grid))
        assert choice.threshold == 0.5 - step


@pytest.mark.parametrize("returns", [np.zeros(60), None])
def test_eligible_candidates_without_a_score_give_the_default(returns):
    """Proves it for returns without variance, and for a truth with one class."""
    choice = tune_threshold(np.repeat([0.4, 0.6], 30), returns, np.ones(60), cost_bps=0)
    assert (choice.objective, choice.threshold, choice.score) == ("default", 0.5, None)
    assert "validation days are all alike" in choice.reason


def test_the_default_grid_is_as_stated():
    """Proves 0.25 to 0.75 in 201 steps, 0.5 exactly among them, and that no caller can change it."""
    assert (DEFAULT_GRID[0], DEFAULT_GRID[-1], len(DEFAULT_GRID), DEFAULT_GRID[100]) == (0.25, 0.75, 201, 0.5)
    assert not DEFAULT_GRID.flags.writeable


def test_the_record_is_json_without_nan(validation):
    """Proves that candidates that are not eligible come out as null."""
    choice = tune_threshold(*validation, validation[1] > 0, cost_bps=5)
    record = json.loads(json.dumps(choice.to_json(), allow_nan=False))
    assert list(record) == ["threshold", "objective", "score", "reason", "curve"]
    assert record["curve"]["score"][0] is None
    assert list(record["curve"]) == ["threshold", "score", "long_days"]


@pytest.mark.parametrize("threshold", [0.5, 0.61, 0.123])
def test_a_threshold_that_the_user_names_keeps_the_curve(validation, threshold):
    """Proves that it is taken as it is, on the grid or not, with no score of its own, beside the tuned curve."""
    tuned = tune_threshold(*validation, validation[1] > 0, cost_bps=5)
    given = tuned.set_to(threshold)
    assert (given.threshold, given.objective, given.score, given.reason) == (threshold, "given", None, None)
    assert given.curve is tuned.curve


def test_a_probability_at_the_threshold_is_class_one():
    """Proves >=, and that a row of thresholds gives one column each."""
    np.testing.assert_array_equal(classify([0.49, 0.5, 0.51], 0.5), [0, 1, 1])
    np.testing.assert_array_equal(classify(np.array([[0.4], [0.6]]), [0.4, 0.5]), [[1, 0], [1, 1]])


def test_up_is_long_and_down_is_flat():
    """Proves the policy, its dtype int8, and that no caller can change it."""
    signal = to_signal([0, 1, 1])
    np.testing.assert_array_equal(signal, [0, 1, 1])
    assert signal.dtype == np.int8
    with pytest.raises(TypeError):
        CLASS_TO_SIGNAL[0] = -1
