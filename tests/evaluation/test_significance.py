"""Formulas against their papers and against plain arithmetic, and verdicts with their words."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from arch.bootstrap import StationaryBootstrap, optimal_block_length
from scipy.stats import false_discovery_control, kurtosis, norm, skew

from nextbar.evaluation.series import Book, Terms
from nextbar.evaluation.significance import (
    MIN_DAYS,
    Interval,
    SharpeMoments,
    Tries,
    _block_length,
    _draws,
    _excess_columns,
    adjusted_pvalues,
    block_length,
    bootstrap,
    count_tries,
    direction_accuracy,
    direction_interval,
    excess_means,
    interval,
    positive_mean_pvalues,
)
from nextbar.evaluation.verdict import Check, Judgement, Verdict, _missing, judge

DAYS = np.datetime64("2020-01-01") + np.arange(2000)


def book_of(returns: np.ndarray, signal: np.ndarray, **terms: float) -> Book:
    """Rows of returns and positions [days, tickers]; NaN returns and positions are no rows."""
    days, tickers = returns.shape
    rows = pd.DataFrame(
        {
            "date": np.tile(DAYS[:days].astype("datetime64[s]"), tickers),
            "ticker": np.repeat([f"T{number}" for number in range(tickers)], days),
            "fold": 0,
            "probability": np.nan,
            "signal": signal.T.ravel().astype(float),
            "next_return": returns.T.ravel(),
        }
    ).dropna(subset=["signal"])
    return Book.of(rows.assign(**{"class": (rows["signal"] > 0).astype(int)}), Terms(**{"cost_bps": 5.0, **terms}))


def guessed(days: int = 500, *, right: float = 0.5, tickers: int = 1, seed: int = 0) -> Book:
    """Positions of 0 and 1 that are right on a share of the days."""
    generator = np.random.default_rng(seed)
    returns = 0.01 * generator.standard_normal((days, tickers))
    return book_of(returns, np.where(generator.random((days, tickers)) < right, returns > 0, returns <= 0))


def judged(book: Book, **given: object) -> Judgement:
    """A judgement of the book as if the next open were the close."""
    return judge(book, opens=interval(book, draws=300), draws=300, **given)


def test_deflated_sharpe_ratio_of_the_paper() -> None:
    """Bailey and López de Prado (2014): Sharpe 2.5 a year over 1250 days, 100 trials: DSR 0.9004 above 0.1132."""
    moments = SharpeMoments(ratio=2.5 / math.sqrt(250), days=1250, skewness=-3, kurtosis=10)
    assert moments.probability_above(0.1132) == pytest.approx(0.9004, abs=2e-4)


def test_the_best_of_independent_tries() -> None:
    """The paper's threshold for 100 trials is 0.1132 at a variance of 1/500; here the variance is 1 / (n - 1)."""
    assert Tries(count=100, correlation=0.0).best_sharpe(501) == pytest.approx(0.1132, abs=5e-5)


def test_the_best_of_tries_is_that_of_a_simulation() -> None:
    """The expected maximum of correlated Sharpe ratios without skill, within two percent of simulated ones."""
    generator = np.random.default_rng(0)
    common, own = generator.standard_normal((20000, 1)), generator.standard_normal((20000, 50))
    best = (math.sqrt(0.5) * common + math.sqrt(0.5) * own).max(axis=1).mean() / math.sqrt(999)
    assert Tries(count=50, correlation=0.5).best_sharpe(1000) == pytest.approx(best, rel=0.02)


def test_one_try_is_not_deflated() -> None:
    """With one try nothing was chosen, and equal tries are one try."""
    assert Tries(count=1, correlation=0.0).best_sharpe(100) == 0.0
    assert Tries(count=40, correlation=1.0).best_sharpe(100) == 0.0


def test_one_day_among_many_tries_is_judged() -> None:
    """A record of a single day has no Sharpe ratio to deflate: the verdict says so instead of dividing by 0."""
    assert Tries(count=5, correlation=0.0).best_sharpe(1) == 0.0
    found = judge(book_of(np.array([[0.01]]), np.ones((1, 1))), tries=Tries(count=5, correlation=0.0), draws=20)
    assert found.verdict is not Verdict.EDGE


def test_correlations_are_those_of_common_days() -> None:
    """A copy counts 1, a mirror 0, days that are not shared and a flat series 0; the mean is over all others."""
    values = np.random.default_rng(0).standard_normal(100)
    own = (DAYS[:100], values)
    others = [(DAYS[:60], 3 * values[:60]), (DAYS[:100], -values), (DAYS[200:300], values), (DAYS[:100], np.zeros(100))]
    assert count_tries(own, others) == Tries(count=5, correlation=pytest.approx(0.25))


def test_tickers_scored_together_are_tries() -> None:
    """The best of forty tickers is the best of forty tries, whose excess is not known and counts as independent."""
    values = np.random.default_rng(0).standard_normal(100)
    own = (DAYS[:100], values)
    assert count_tries(own, [], tickers=40) == Tries(count=40, correlation=0.0)
    assert count_tries(own, [own], tickers=40) == Tries(count=40, correlation=pytest.approx(1 / 39))
    assert count_tries(own, [own] * 50, tickers=40).count == 51


def test_track_record_is_where_the_probability_reaches_the_confidence() -> None:
    """The minimum length and the probabilistic Sharpe ratio agree at 97.5 %, the confidence of the bound."""
    needed = SharpeMoments(ratio=0.05, days=100, skewness=-0.5, kurtosis=6).days_needed()
    assert needed is not None
    moments = SharpeMoments(ratio=0.05, days=1, skewness=-0.5, kurtosis=6)
    at = norm.cdf(0.05 * math.sqrt((needed - 1) / moments._spread))
    assert at == pytest.approx(0.975)


def test_no_length_proves_a_ratio_that_is_not_above_the_benchmark() -> None:
    """The answer is never."""
    assert SharpeMoments(ratio=0.0, days=100, skewness=0, kurtosis=3).days_needed() is None


def test_moments_need_variance() -> None:
    """A constant series has no Sharpe ratio, nor has a single day."""
    assert SharpeMoments.of(np.full(100, 0.001)) is None
    assert SharpeMoments.of(np.array([0.001])) is None


def test_bootstrap_draws_the_same_days_for_all_columns() -> None:
    """Two equal columns have equal means in every draw, and the seed decides them."""
    values = np.random.default_rng(0).standard_normal((200, 1)).repeat(2, axis=1)
    first, again, other = (bootstrap(values, lambda means: means, block=5, draws=50, seed=seed) for seed in (1, 1, 2))
    assert first[:, 0] == pytest.approx(first[:, 1], abs=1e-15)
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize(("block", "error"), [(1, 1.0), (20, math.sqrt(3))])
def test_bootstrap_error_of_the_mean(block: int, error: float) -> None:
    """Independent days scatter by σ/√n; an autocorrelation of one half makes it √3 times as much, which blocks see."""
    noise = np.random.default_rng(0).standard_normal(5000)
    values = noise if block == 1 else np.convolve(noise, 0.5 ** np.arange(30), "valid")
    drawn = bootstrap(values[:, None], lambda means: means, block=block, draws=1000)
    assert drawn.std() == pytest.approx(error * values.std() / math.sqrt(len(values)), rel=0.1)


def test_a_draw_of_every_day_once_is_the_excess_of_the_book() -> None:
    """With equal weights the statistic that is drawn equals the mean of the daily excess, in whatever book."""
    generator = np.random.default_rng(0)
    returns, signal = 0.01 * generator.standard_normal((300, 3)), (generator.random((300, 3)) < 0.4).astype(float)
    signal[:, 2] *= -1
    signal[:100, 1] = np.nan
    book = book_of(returns, signal, risk_free=0.04, cost_bps=20.0)
    found = interval(book, draws=10)
    assert found is not None
    assert found.mean == pytest.approx(252 * book.edge.mean(), abs=1e-15)
    even = excess_means(_excess_columns(book).mean(axis=0)[None])
    assert even[0] == pytest.approx(book.edge.mean(), abs=1e-15)


def test_exposure_is_computed_again_in_each_draw() -> None:
    """A drawn mean is the excess of the book that has the drawn days, with that book's own exposure."""
    book = guessed(100, right=0.55, tickers=2, seed=3)
    book = replace(book, terms=Terms(cost_bps=0.0))
    counts = _draws(100, 1, 3, 5)
    drawn = excess_means(counts / 100 @ _excess_columns(book))
    for number, count in enumerate(counts):
        days = np.repeat(np.arange(100), count)
        returns, signal = (book.scattered(values)[days] for values in (book.earned, book.signal))
        again = book_of(returns, signal, cost_bps=0.0)
        assert drawn[number] == pytest.approx(again.edge.mean(), abs=1e-15)
        assert not np.allclose(again.exposure, book.exposure)


def test_an_interval_needs_days_and_real_returns() -> None:
    """Fewer than sixty days, or returns that overflow, have none."""
    assert interval(guessed(MIN_DAYS - 1)) is None
    assert interval(guessed(MIN_DAYS), draws=10) is not None
    book = guessed(100)
    large = replace(book, signal=np.ones(100), earned=np.where(book.day == 50, 1e200, book.earned))
    assert interval(replace(large, signal=np.where(book.day == 40, 0.0, 1.0))) is None
    only_late = replace(large, signal=(book.day == 49).astype(float))
    assert judge(only_late, draws=10).excess is None


def test_balanced_accuracy_is_within_tickers() -> None:
    """Three of four rises and one of two falls, and a ticker of half the days that is right on all, by days."""
    first, second = np.array([3, 4, 1, 2]), np.array([1, 1, 2, 2])
    means = np.stack([first, second], axis=1).ravel()[None] / 9
    assert direction_accuracy(means)[0] == pytest.approx((0.625 * 6 + 1.0 * 3) / 9)


def test_the_majority_class_of_each_ticker_has_no_skill() -> None:
    """Always up where a ticker rises on 60 % and always down where it falls on 60 %: 0.5 within, 0.6 pooled."""
    generator = np.random.default_rng(0)
    rises = np.array([generator.permutation(500) < 500 * share for share in (0.6, 0.4)]).T
    book = book_of(np.where(rises, 0.01, -0.01), np.tile([1.0, 0.0], (500, 1)))
    found = direction_interval(book, draws=200)
    assert (found.mean, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    assert "not shown to be better than chance" in judged(book).statements[1]


def test_days_that_did_not_move_and_tickers_with_one_class_are_left_out() -> None:
    """A flat day is neither a rise nor a fall, and a ticker that only rose cannot be called right or wrong."""
    book = guessed(200, right=0.6, tickers=1)
    returns, signal = book.earned[:, None], book.signal[:, None]
    longer = book_of(np.vstack([returns, np.zeros((50, 1))]), np.vstack([signal, np.ones((50, 1))]))
    wider = book_of(np.hstack([returns, np.full((200, 1), 0.01)]), np.hstack([signal, np.ones((200, 1))]))
    plain = direction_interval(book, draws=100)
    assert direction_interval(wider, draws=100) == plain
    assert direction_interval(longer, draws=100).mean == pytest.approx(plain.mean)
    assert direction_interval(book_of(np.full((200, 1), 0.01), signal)) is None


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
    assert adjusted_pvalues(np.array([0.01, 0.04, 0.03, 0.5])) == pytest.approx([0.04, 0.16 / 3, 0.16 / 3, 0.5])


def test_a_strong_result_is_an_edge() -> None:
    """Every condition is met, and the reason gives the excess with its interval, at the close and at the next open."""
    found = judged(guessed(right=0.65), tries=Tries(count=3, correlation=0.2))
    assert found.verdict is Verdict.EDGE
    assert [check.name for check in found.checks if check.passed] == [
        "excess_bound",
        "next_open_bound",
        "deflated_sharpe",
        "days",
        "changes",
    ]
    assert f"{100 * found.excess.low:+.1f} to {100 * found.excess.high:+.1f} %" in found.reason
    assert "executed at the next open it is" in found.reason
    assert "3 tries are recorded on these days" in " ".join(found.statements)
    small = judged(guessed(right=0.65), worth=found.excess.high + 0.1)
    assert small.verdict is Verdict.EDGE
    assert f"All of it is below the {100 * small.worth:g} % a year that is worth trading" in small.reason


def test_an_edge_must_stand_the_next_open() -> None:
    """The same excess is inconclusive where the next open takes it; one bar late decides where there are no opens."""
    book = guessed(right=0.65)
    none = Interval(mean=0.01, low=-0.02, high=0.04, error=0.015)
    gone, no_opens = judge(book, opens=none, draws=300), judge(book, draws=300)
    assert gone.verdict is no_opens.verdict is Verdict.INCONCLUSIVE
    assert "executed at the next open, the lower bound must be above 0 and is -2.0 %" in gone.reason
    assert "executed one bar late, the lower bound must be above 0 and is" in no_opens.reason


def test_a_delay_that_takes_most_of_the_excess_is_said() -> None:
    """Positions known for one day lose all by a day of delay; positions that last lose little."""
    short = guessed(right=0.65)
    trend = np.repeat(np.random.default_rng(0).choice([-0.004, 0.006], 50), 10)
    lasting = book_of((trend + 0.01 * np.random.default_rng(1).standard_normal(500))[:, None], trend[:, None] > 0)
    said = [" ".join(judged(book).statements) for book in (short, lasting)]
    assert ["takes more than half of the excess" in text for text in said] == [True, False]


def test_no_edge_is_an_upper_bound_below_what_is_worth_trading() -> None:
    """The bound decides, whatever the mean: the same record is NO EDGE for who wants more."""
    book = guessed(2000, right=0.5)
    high = judged(book).excess.high
    above, below = judged(book, worth=high + 0.001), judged(book, worth=high - 0.001)
    assert (above.verdict, below.verdict) == (Verdict.NO_EDGE, Verdict.INCONCLUSIVE)
    assert f"below the {100 * (high + 0.001):g} % a year that is worth trading" in above.reason


def test_every_verdict_is_said_in_twenty_words() -> None:
    """Of whatever kind, with large figures too; data errors come first."""
    edge, book = judged(guessed(right=0.65)), guessed(2000, right=0.5)
    none = judged(book, worth=12.345)
    still = judged(book_of(np.full((300, 1), 0.01), np.ones((300, 1))))
    short = judged(guessed(10))
    errors = judged(guessed(right=0.65), data_errors=["A has 1 data error inside the test days (2020-01-02 jump)"])
    open_ = judged(book, worth=-10.0)
    found = [edge, none, still, short, errors, open_]
    assert [one.verdict.value for one in found] == ["EDGE", "NO EDGE", "NO EDGE", *["INCONCLUSIVE"] * 3]
    assert f"{100 * edge.excess.mean:+.1f} % a year" in edge.headline
    assert "errors" in errors.headline
    for one in found:
        assert 0 < len(one.headline.split()) <= 20
        assert one.headline.endswith(".")


def test_a_position_that_never_changed_is_no_edge() -> None:
    """However many days there are; two tickers that differ are no change."""
    returns = 0.01 * np.random.default_rng(0).standard_normal((300, 2))
    for days in (300, 10):
        found = judged(book_of(returns[:days], np.tile([1.0, 0.0], (days, 1))))
        assert found.verdict is Verdict.NO_EDGE
        assert "never changed" in found.reason


def test_inconclusive_says_what_is_missing_and_what_could_have_been_shown() -> None:
    """One try: (1.96 + 0.84) times the error; the words are those of the figures."""
    found = judged(guessed(right=0.52), tries=Tries(count=1, correlation=0.0))
    assert found.verdict is Verdict.INCONCLUSIVE
    missing = found.reason.partition("What an edge lacks: ")[2]
    assert missing.startswith(f"the lower bound must be above 0 and is {100 * found.excess.low:+.1f} %; executed ")
    assert f"(deflated Sharpe ratio) must be at least 0.95 and is {found.dsr:.2f}" in missing
    assert found.detectable == pytest.approx((1.959964 + 0.841621) * found.excess.error, rel=1e-6)
    assert found.statements[1] == (
        f"The smallest excess that these days would show, with a probability of 80 %, is "
        f"{100 * found.detectable:.1f} % a year."
    )
    assert "only try recorded" in " ".join(found.statements)


def test_tries_raise_what_can_be_shown() -> None:
    """The deflated ratio must hold with 80 % power too: SR* + 1.645 errors of the ratio + 0.84 of the excess."""
    book = guessed(right=0.52)
    found = judged(book, tries=Tries(count=200, correlation=0.0))
    moments = SharpeMoments.of(book.edge)
    year = 252 * book.edge.std(ddof=1)
    needed = (Tries(count=200, correlation=0.0).best_sharpe(500) + 1.644854 * moments.error) * year
    assert found.detectable == pytest.approx(needed + 0.841621 * found.excess.error, rel=1e-6)
    assert found.detectable > 1.2 * judged(book).detectable


def test_tries_take_an_edge_away() -> None:
    """The same series after many independent tries is no longer proven; after as many equal ones it is."""
    book = guessed(right=0.575)
    assert judged(book).verdict is Verdict.EDGE
    many = judged(book, tries=Tries(count=1000, correlation=0.0))
    assert many.verdict is Verdict.INCONCLUSIVE
    assert "(deflated Sharpe ratio) must be at least 0.95 and is" in many.reason
    assert judged(book, tries=Tries(count=1000, correlation=1.0)).verdict is Verdict.EDGE


def test_tries_deflate_the_statement_about_directions() -> None:
    """An interval above 0.5 that the best of so many coins would show is not proven, and the words say why."""
    book = guessed(right=0.575)
    alone, few, many = (judged(book, tries=Tries(count=count, correlation=0.0)).statements[2] for count in (1, 3, 1000))
    assert "are better than chance: " in alone
    assert "are better than chance: " in few
    assert "are not shown to be better than chance after 1,000 tries: " in many
    assert alone.split(": ")[1] == many.split(": ")[1]


@pytest.mark.parametrize(
    ("book", "missing"),
    [
        (guessed(240, right=0.8), "there must be at least 250 days and there are 240"),
        (book_of(np.full((300, 1), 0.01), np.ones((300, 1))), "never changed"),
    ],
    ids=["days", "changes"],
)
def test_short_records_are_no_edge_proven(book: Book, missing: str) -> None:
    """However good: 250 days and 30 changes of position are needed."""
    found = judged(book)
    assert found.verdict is not Verdict.EDGE
    assert missing in found.reason


def test_few_changes_of_position_prove_nothing() -> None:
    """Twenty lucky switches in ten years are INCONCLUSIVE, and the reason counts them."""
    trend = np.repeat(np.tile([0.004, -0.004], 10), 100)
    noise = 0.002 * np.random.default_rng(0).standard_normal(2000)
    found = judged(book_of((trend + noise)[:, None], trend[:, None] > 0))
    assert found.changes == 19
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "there must be at least 30 changes of position and there are 19" in found.reason


def test_no_verdict_stands_on_a_data_error() -> None:
    """An edge and a constant position alike are INCONCLUSIVE, with the error first."""
    error = "AAA has 1 data error inside the test days (2026-07-09 × 0.01003)"
    for book in (guessed(right=0.65), book_of(np.zeros((300, 1)), np.ones((300, 1)))):
        found = judged(book, data_errors=[error])
        assert found.verdict is Verdict.INCONCLUSIVE
        assert found.reason.startswith(f"{error}: no verdict is given on such bars.")


@pytest.mark.parametrize(("periods", "suspicious"), [(252.0, True), (52.0, False)])
def test_too_good_is_suspicious_on_daily_bars(periods: float, suspicious: bool) -> None:
    """Balanced accuracy above 0.56; weekly bars may be that predictable."""
    book = guessed(right=0.6)
    assert judged(replace(book, terms=Terms(cost_bps=5.0, periods=periods))).suspicious is suspicious
    assert not judged(guessed(right=0.54)).suspicious


@pytest.mark.parametrize("days", [0, 1, 20])
def test_what_cannot_be_tested_is_said(days: int) -> None:
    """A handful of days gets no figures and no verdict on them; no days get none either."""
    found = judged(guessed(days, right=0.7, seed=1))
    assert found.excess is None
    assert found.checks == ()
    if found.changes:
        assert found.verdict is Verdict.INCONCLUSIVE
        assert f"Nothing can be tested on {days} days" in found.reason


@pytest.mark.parametrize("right", [0.0, 0.4, 0.5, 0.6, 1.0])
def test_words_and_figures_agree(right: float) -> None:
    """Directions are better than chance where the interval lies above 0.5, worse below; JSON holds no NaN."""
    found = judged(guessed(right=right))
    low, high = found.directions.low, found.directions.high
    said = "better than chance" if low > 0.5 else "worse than chance" if high < 0.5 else "not shown"
    assert said in found.statements[2]
    assert f"{low:.3f} to {high:.3f}, chance is 0.5)." in found.statements[2]
    assert "Survivorship of the tickers was not checked" in found.statements[-1]
    assert "only if this was the only try" in " ".join(found.statements)
    json.dumps(found.to_json(), allow_nan=False)


def test_block_lengths_are_those_of_arch() -> None:
    """Series without memory, with much of it, with many zeros and in steps have the block lengths of arch."""
    generator = np.random.default_rng(3)
    for days in (60, 250, 1000):
        noise = 0.01 * generator.standard_normal(days)
        kinds = noise, np.cumsum(noise), np.where(noise > 0.01, noise, 0.0), np.repeat(noise[: days // 5 + 1], 5)[:days]
        for series in kinds:
            expected = optimal_block_length(series)["stationary"].iloc[0]
            assert _block_length(series) == pytest.approx(expected, rel=1e-9)
            assert block_length(series) == max(1, math.ceil(expected))


@pytest.mark.parametrize(("days", "block"), [(60, 1), (250, 7), (1000, 300)])
def test_draws_are_those_of_arch(days: int, block: int) -> None:
    """The same seed draws the same days as arch's stationary bootstrap."""
    sampler = StationaryBootstrap(block, np.arange(days), seed=5)
    expected = [np.bincount(sampler.update_indices(), minlength=days) for _ in range(20)]
    np.testing.assert_array_equal(_draws(days, block, 20, 5), expected)


def test_formulas_are_those_of_scipy() -> None:
    """Skewness, kurtosis and adjusted p-values are those of scipy.stats, but for the order of a sum."""
    generator = np.random.default_rng(4)
    for days in (2, 61, 1000):
        returns = 0.01 * generator.standard_t(4, days)
        moments = SharpeMoments.of(returns)
        assert moments is not None
        expected = (skew(returns), kurtosis(returns, fisher=False))
        assert (moments.skewness, moments.kurtosis) == pytest.approx(expected, rel=1e-12, abs=1e-12)
        pvalues = generator.random(days)
        np.testing.assert_allclose(adjusted_pvalues(pvalues), false_discovery_control(pvalues), rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "value", "needed", "told"),
    [
        ("deflated_sharpe", 0.9478, 0.95, "must be at least 0.95 and is 0.9478"),
        ("deflated_sharpe", 0.2, 0.95, "must be at least 0.95 and is 0.20"),
        ("excess_bound", -0.0003, 0.0, "must be above 0 and is -0.030 %"),
    ],
    ids=["nearly", "far", "bound"],
)
def test_a_missed_condition_does_not_contradict_itself(name: str, value: float, needed: float, told: str) -> None:
    """A value that would round to what is needed is shown with more digits."""
    assert _missing(Check(name=name, value=value, needed=needed, passed=False)).endswith(told)
