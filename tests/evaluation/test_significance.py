"""Formulas against their papers and against plain arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from nextbar.evaluation.significance import (
    Evidence,
    SharpeMoments,
    Verdict,
    adjusted_pvalues,
    balanced_accuracy,
    bootstrap_means,
    expected_best_sharpe,
    judge,
    positive_mean_pvalues,
    spa_pvalue,
)

NOTHING = np.empty((300, 0))


def evidence(excess: np.ndarray, hits: float = 0.5) -> Evidence:
    """Days of one ticker that rises every second day, and is called right on a share ``hits`` of them."""
    days = len(excess)
    rises = np.arange(days) % 2 == 0
    right = np.random.default_rng(9).permutation(days) < hits * days
    return Evidence(
        net=excess,
        excess=excess,
        counts=np.column_stack([rises & right, rises, ~rises & right, ~rises]).astype(float),
        baselines={"always_long": np.zeros(days)},
        others=np.empty((days, 0)),
        other_sharpes=np.empty(0),
    )


def test_deflated_sharpe_ratio_of_the_paper() -> None:
    """Bailey and López de Prado (2014): Sharpe 2.5 a year over 1250 days, 100 trials: threshold 0.1132, DSR 0.9004."""
    trials = np.array([-1.0, 1.0] * 50)
    trials *= math.sqrt(0.5 / 250) / trials.std(ddof=1)
    threshold = expected_best_sharpe(trials)
    moments = SharpeMoments(ratio=2.5 / math.sqrt(250), days=1250, skewness=-3, kurtosis=10)
    assert threshold == pytest.approx(0.1132, abs=5e-5)
    assert moments.probability_above(threshold) == pytest.approx(0.9004, abs=5e-5)


def test_one_trial_is_not_deflated() -> None:
    """With one configuration nothing was chosen."""
    assert expected_best_sharpe([0.3]) == 0.0


def test_track_record_is_where_the_probability_reaches_the_confidence() -> None:
    """The minimum length and the probabilistic Sharpe ratio are two readings of one formula."""
    needed = SharpeMoments(ratio=0.05, days=100, skewness=-0.5, kurtosis=6).days_needed()
    assert needed is not None
    moments = SharpeMoments(ratio=0.05, days=1, skewness=-0.5, kurtosis=6)
    at = norm.cdf(0.05 * math.sqrt((needed - 1) / moments._spread))
    assert at == pytest.approx(0.95)


def test_no_length_proves_a_ratio_that_is_not_above_the_benchmark() -> None:
    """The answer is never."""
    assert SharpeMoments(ratio=0.0, days=100, skewness=0, kurtosis=3).days_needed() is None


def test_moments_need_variance() -> None:
    """A constant series has no Sharpe ratio."""
    assert SharpeMoments.of(np.full(100, 0.001)) is None


def test_bootstrap_draws_the_same_rows_for_all_columns() -> None:
    """Two equal columns have equal means in every draw, and the seed decides them."""
    values = np.random.default_rng(0).standard_normal((200, 1)).repeat(2, axis=1)
    first, again, other = (bootstrap_means(values, block=5, draws=50, seed=seed) for seed in (1, 1, 2))
    assert (first[:, 0] == first[:, 1]).all()
    assert (first == again).all()
    assert (first != other).any()


def test_bootstrap_error_of_independent_days() -> None:
    """With blocks of one day the means scatter by σ/√n."""
    values = np.random.default_rng(0).standard_normal((400, 1))
    drawn = bootstrap_means(values, block=1, draws=2000, seed=0)
    assert drawn.std() == pytest.approx(values.std() / 20, rel=0.05)


def test_spa_rejects_a_baseline_that_is_beaten() -> None:
    """Two basis points a day over noise of one are seen; the same noise without them is not."""
    noise = np.random.default_rng(0).standard_normal((300, 2)) * 1e-4
    benchmark = np.random.default_rng(1).standard_normal(300) * 1e-2
    better, same = noise + benchmark[:, None] + 2e-4, noise - noise.mean(axis=0) + benchmark[:, None]
    assert spa_pvalue(better, benchmark, block=2, draws=500, seed=0) < 0.01
    assert spa_pvalue(same, benchmark, block=2, draws=500, seed=0) > 0.2


def test_spa_cannot_beat_itself() -> None:
    """A model that is the baseline has p = 1."""
    benchmark = np.random.default_rng(1).standard_normal(300)
    assert spa_pvalue(benchmark[:, None], benchmark, block=2, draws=100, seed=0) == 1.0


def test_pvalues_per_column_ignore_missing_days() -> None:
    """A ticker that starts late is judged on its own days; a flat one has p = 1."""
    noise = np.random.default_rng(0).standard_normal((400, 3))
    noise[:, 0] += 0.5
    noise[:200, 0] = np.nan
    noise[:, 2] = 0.0
    good, luck, flat = positive_mean_pvalues(noise, draws=500)
    assert good < 0.01
    assert 0.05 < luck < 0.95
    assert flat == 1.0


def test_noise_of_late_starters_is_no_skill() -> None:
    """About a twentieth of pure noise has p < 0.05, however late its days begin; a handful of days tests nothing."""
    noise = np.random.default_rng(0).standard_t(4, (600, 400)) * 0.01
    firsts = {540: noise[:, :100], 450: noise[:, 100:200], 300: noise[:, 200:300], 596: noise[:, 300:]}
    for first, columns in firsts.items():
        columns[:first] = np.nan
    pvalues = positive_mean_pvalues(noise, draws=300).reshape(4, 100)
    assert (pvalues[3] == 1).all()
    assert ((pvalues[:3] < 0.05).mean(axis=1) <= 0.08).all()
    assert (pvalues[:3] < 0.05).mean() <= 0.06


def test_benjamini_and_hochberg() -> None:
    """p × n / rank, made monotone from above."""
    assert adjusted_pvalues([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.16 / 3, 0.16 / 3, 0.5])


def test_balanced_accuracy_of_counts() -> None:
    """Three of four rises and one of two falls called right."""
    assert balanced_accuracy(np.array([3, 4, 1, 2])) == pytest.approx(0.625)


def test_a_strong_result_is_an_edge() -> None:
    """All bounds are passed; the reason says after how many tries."""
    good = evidence(np.random.default_rng(0).standard_normal(500) * 0.01 + 0.004, hits=0.8)
    judged = judge(good, draws=200)
    assert judged.verdict is Verdict.EDGE
    assert all(check.passed for check in judged.checks)
    assert "1 configuration tried" in judged.reason


def test_a_weak_result_is_inconclusive() -> None:
    """Above zero and above a coin, but not proven: the reason lists what is missing."""
    noise = np.random.default_rng(0).standard_normal(500) * 0.01
    judged = judge(evidence(noise - noise.mean() + 1e-4, hits=0.53), draws=200)
    assert judged.verdict is Verdict.INCONCLUSIVE
    assert "positive but unproven: the return could be 0; the accuracy could be a coin's" in judged.reason
    assert judged.track_record_days > 500


@pytest.mark.parametrize(("mean", "hits"), [(-1e-4, 0.6), (1e-4, 0.4)])
def test_a_result_below_its_measure_is_no_evidence(mean: float, hits: float) -> None:
    """Losing against a constant position, or to a coin, is no evidence of skill."""
    noise = np.random.default_rng(0).standard_normal(500) * 0.01
    assert judge(evidence(noise - noise.mean() + mean, hits=hits), draws=200).verdict is Verdict.NONE


def test_tries_take_an_edge_away() -> None:
    """The same series after 200 tries as different as these is no longer proven."""
    noise = np.random.default_rng(0).standard_normal(500) * 0.01
    good = evidence(noise - noise.mean() + 1.2e-3, hits=0.7)
    many = Evidence(
        net=good.net,
        excess=good.excess,
        counts=good.counts,
        baselines=good.baselines,
        others=np.random.default_rng(1).standard_normal((500, 200)) * 0.01,
        other_sharpes=np.random.default_rng(1).standard_normal(200) * 0.1,
    )
    assert judge(good, draws=200).verdict is Verdict.EDGE
    judged = judge(many, draws=200)
    assert judged.verdict is Verdict.INCONCLUSIVE
    assert judged.configurations == 201


@pytest.mark.parametrize(
    ("excess", "reason"),
    [(np.zeros(500), "never changed its position"), (np.random.default_rng(0).standard_normal(20), "too few")],
)
def test_what_cannot_be_tested_is_said(excess: np.ndarray, reason: str) -> None:
    """A constant position and a handful of days get no verdict above none."""
    judged = judge(evidence(excess))
    assert judged.verdict is Verdict.NONE
    assert reason in judged.reason
