"""How often the verdict is right on simulated histories: no training, fixed seeds, every rate printed."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from nextbar.config import WORTH
from nextbar.evaluation.series import Book, Terms
from nextbar.evaluation.significance import SharpeMoments, Tries, count_tries, interval
from nextbar.evaluation.verdict import Judgement, Verdict, judge

EIGHT_YEARS = 2016
COST_BPS = 5.0
NIGHT = 1 / 3
"""Share of the variance that falls between close and open: of forty American shares from 1999 to 2021 it was 0.34."""
STAYS = 0.8
"""Probability that a guess is that of the day before."""

Market = tuple[np.ndarray, np.ndarray]
"""[days, tickers] returns from close to next close, and from the next open to the open after it."""


def market(generator: np.random.Generator, tickers: int, drift: float, night: float = 0.0) -> Market:
    """GARCH(1,1) volatility, a correlation of one half between tickers, a portfolio of the Sharpe ratio ``drift``."""
    days = EIGHT_YEARS + 1
    both = generator.standard_normal((2, days, 1)) + generator.standard_normal((2, days, tickers))
    shocks = np.sqrt(np.array([night, 1 - night]) / 2)[:, None, None] * both
    together = shocks.sum(axis=0).mean(axis=1) ** 2 / ((1 + 1 / tickers) / 2)
    variance = np.ones(days)
    for day in range(1, days):
        variance[day] = 0.05 + variance[day - 1] * (0.85 + 0.10 * together[day - 1])
    overnight, inside = 0.01 * np.sqrt(variance)[:, None] * shocks
    closes = overnight + inside
    inside += drift / np.sqrt(252) * closes.mean(axis=1).std() - closes.mean()
    return (overnight + inside)[:-1], inside[:-1] + overnight[1:]


def guesses(generator: np.random.Generator, shape: tuple[int, ...], exposure: float) -> np.ndarray:
    """Sticky positions [days, tickers] without skill, long on a share of the days."""
    changes = generator.random(shape) >= STAYS
    changes[0] = True
    last = np.maximum.accumulate(np.where(changes, np.arange(shape[0])[:, None], 0), axis=0)
    return np.take_along_axis(generator.random(shape) < exposure, last, axis=0)


def book_of(returns: np.ndarray, long: np.ndarray, cost_bps: float = COST_BPS) -> Book:
    days, tickers = returns.shape
    rows = pd.DataFrame(
        {
            "date": np.tile(pd.bdate_range("2000-01-03", periods=days).to_numpy(), tickers),
            "ticker": np.repeat([f"T{number}" for number in range(tickers)], days),
            "fold": 0,
            "probability": np.nan,
            "class": long.T.ravel().astype(int),
            "signal": long.T.ravel().astype(float),
            "next_return": returns.T.ravel(),
        }
    )
    return Book.of(rows, Terms(cost_bps=cost_bps))


def with_signal(book: Book, long: np.ndarray) -> Book:
    return replace(book, signal=long.T.ravel().astype(float), predicted=long.T.ravel().astype(int))


def histories(
    count: int, *, tickers: int = 5, drift: float = 0.7, night: float = 0.0
) -> Iterator[tuple[np.random.Generator, Market]]:
    for number in range(count):
        generator = np.random.default_rng([2026, number])
        yield generator, market(generator, tickers, drift, night)


def verdicts(
    count: int, *, foresight: float, exposure: float, cost_bps: float = COST_BPS, draws: int = 500, **where: float
) -> list[Judgement]:
    """Judge a model that knows the direction of a share of its days and guesses the others."""
    found = []
    for generator, (closes, opens) in histories(count, **where):
        known = generator.random(closes.shape) < foresight
        long = np.where(known, closes > 0, guesses(generator, closes.shape, exposure))
        late = interval(book_of(opens, long, cost_bps), draws=draws)
        found.append(judge(book_of(closes, long, cost_bps), opens=late, draws=draws))
    return found


def planted(count: int, effect: Callable[[Book], float], tries: Tries, draws: int = 500) -> list[Judgement]:
    """Judge guesses whose expected excess is a given effect a year, the same at the close and at the next open."""
    found = []
    for generator, (closes, _) in histories(count):
        long = guesses(generator, closes.shape, 0.5)
        plain = book_of(closes, long)
        deviation = long - long.mean(axis=0)
        traded = (plain.model.traded - plain.constant.traded).mean()
        lift = (effect(plain) / 252 + COST_BPS / 1e4 * traded) / (deviation * long).mean()
        lifted = book_of(closes + lift * deviation, long)
        found.append(judge(lifted, opens=interval(lifted, draws=draws), tries=tries, draws=draws))
    return found


def best_of(generator: np.random.Generator, closes: np.ndarray, tries: int, alike: float, cost_bps: float) -> Judgement:
    """Judge the luckiest of several configurations without skill, the others in the ledger."""
    base = book_of(closes, np.zeros(closes.shape), cost_bps)
    common = guesses(generator, closes.shape, 0.5)
    books = []
    for _ in range(tries):
        shared = generator.random(closes.shape) < np.sqrt(alike)
        books.append(with_signal(base, np.where(shared, common, guesses(generator, closes.shape, 0.5))))
    ratios = [book.edge.mean() / book.edge.std() for book in books]
    best = books.pop(int(np.argmax(ratios)))
    known = count_tries((best.dates, best.edge), [(other.dates, other.edge) for other in books])
    return judge(best, opens=interval(best, draws=500), tries=known, draws=500)


def better_than_chance(found: list[Judgement]) -> int:
    return sum("Directions are better than chance" in " ".join(one.statements) for one in found)


def report(name: str, found: list[Judgement]) -> Counter[Verdict]:
    """Print how often each verdict fell."""
    counts = Counter(one.verdict for one in found)
    edges = counts[Verdict.EDGE]
    bound = binomtest(edges, len(found)).proportion_ci(0.95)
    better = better_than_chance(found)
    sys.stdout.write(
        f"RATE {name}: {edges} of {len(found)} EDGE, 95 % interval {bound.low:.3f} to {bound.high:.3f}; "
        f"{counts[Verdict.NO_EDGE]} NO EDGE; {better} better than chance\n"
    )
    return counts


def test_noise_in_a_rising_market_is_rarely_called_an_edge() -> None:
    """Models without skill get EDGE no more often than one time in forty, even if trading is free."""
    found = verdicts(60, foresight=0.0, exposure=0.3, cost_bps=0.0)
    assert report("no skill, 5 tickers, drift 0.7, exposure 0.3, 0 bps", found)[Verdict.EDGE] <= 5


def test_a_model_of_low_exposure_that_knows_a_tenth_is_an_edge() -> None:
    """Knowing 10 % of the days at exposure 0.3 is EDGE: what it is compared with is a position of that exposure."""
    found = verdicts(20, foresight=0.10, exposure=0.3, night=NIGHT)
    assert report("foresight 10 %, 5 tickers, exposure 0.3, night 0.33", found)[Verdict.EDGE] >= 19


def test_a_model_that_knows_one_day_in_twenty_is_an_edge() -> None:
    """Knowing 5 % of the days, on five tickers and eight years, is EDGE in three of four histories."""
    found = verdicts(20, foresight=0.05, exposure=0.3)
    assert report("foresight 5 %, 5 tickers, exposure 0.3, night 0.00", found)[Verdict.EDGE] >= 15


def test_the_best_of_ten_tries_is_rarely_called_an_edge() -> None:
    """The luckiest of ten configurations without skill gets EDGE at most one time in twenty."""
    found = [best_of(generator, closes, 10, 0.5, 0.0) for generator, (closes, _) in histories(20)]
    assert report("best of 10, correlation 0.5, 0 bps", found)[Verdict.EDGE] <= 1


def test_a_leaky_trial_deflates_by_the_count_alone() -> None:
    """An excess of Sharpe 14 beside an honest model lowers its deflated ratio as much as any second try."""
    generator, (closes, _) = next(histories(1))
    long = np.where(generator.random(closes.shape) < 0.1, closes > 0, guesses(generator, closes.shape, 0.3))
    honest, leaky = book_of(closes, long), book_of(closes, closes > 0)
    assert 252**0.5 * leaky.edge.mean() / leaky.edge.std() > 14
    own = (honest.dates, honest.edge)
    beside = count_tries(own, [(leaky.dates, leaky.edge)])
    scaled = count_tries(own, [(leaky.dates, leaky.edge * 1000 + 5)])
    assert beside.count == scaled.count == 2
    assert beside.correlation == pytest.approx(scaled.correlation)
    moments = SharpeMoments.of(honest.edge)
    assert moments is not None
    worst = moments.probability_above(Tries(count=2, correlation=0.0).best_sharpe(moments.days))
    assert worst <= moments.probability_above(beside.best_sharpe(moments.days)) <= moments.probability_above(0.0)
    assert judge(honest, opens=interval(honest), tries=beside).verdict is Verdict.EDGE


def test_a_trial_of_high_exposure_lends_a_weak_model_nothing() -> None:
    """Beside a skill-less trial of exposure 0.9 a weak model at 0.3 has the same intervals and a lower ratio."""
    for generator, (closes, _) in histories(10):
        long = np.where(generator.random(closes.shape) < 0.02, closes > 0, guesses(generator, closes.shape, 0.3))
        weak, other = book_of(closes, long), book_of(closes, guesses(generator, closes.shape, 0.9))
        known = count_tries((weak.dates, weak.edge), [(other.dates, other.edge)])
        alone, beside = (judge(weak, tries=tries, draws=200) for tries in (Tries(count=1, correlation=0.0), known))
        assert (beside.excess, beside.one_bar_late) == (alone.excess, alone.one_bar_late)
        assert beside.dsr is not None
        assert alone.dsr is not None
        assert beside.dsr < alone.dsr


@pytest.mark.slow
@pytest.mark.parametrize("cost_bps", [COST_BPS, 0.0])
@pytest.mark.parametrize("exposure", [0.3, 0.6])
@pytest.mark.parametrize("drift", [0.0, 0.7])
@pytest.mark.parametrize("tickers", [1, 5])
def test_four_hundred_histories_without_skill(tickers: int, drift: float, exposure: float, cost_bps: float) -> None:
    """17 or fewer EDGE of 400, what 2.5 % allow; directions are called better than chance as rarely.

    Nothing happens at night, so that the next open is no further hurdle: the hardest case for the size.
    """
    found = verdicts(400, foresight=0.0, exposure=exposure, cost_bps=cost_bps, tickers=tickers, drift=drift)
    name = f"no skill, {tickers} tickers, drift {drift}, exposure {exposure}, {cost_bps:g} bps"
    assert report(name, found)[Verdict.EDGE] <= 17
    assert better_than_chance(found) <= 17


@pytest.mark.slow
@pytest.mark.parametrize("exposure", [0.3, 0.6])
@pytest.mark.parametrize(
    ("foresight", "night", "least"),
    [(0.03, 0.0, 0), (0.03, NIGHT, 0), (0.05, 0.0, 75), (0.05, NIGHT, 0), (0.10, 0.0, 100), (0.10, NIGHT, 95)],
)
def test_one_hundred_histories_with_foresight(foresight: float, night: float, least: int, exposure: float) -> None:
    """Knowing 5 % of the days is EDGE in at least 75 of 100 histories; what the night takes is reported."""
    found = verdicts(100, foresight=foresight, exposure=exposure, night=night, draws=2000)
    name = f"foresight {100 * foresight:g} %, 5 tickers, exposure {exposure}, night {night:.2f}"
    assert report(name, found)[Verdict.EDGE] >= least


@pytest.mark.slow
@pytest.mark.parametrize("cost_bps", [COST_BPS, 0.0])
@pytest.mark.parametrize(
    ("tries", "alike"), [(1, 0.0), (10, 0.0), (10, 0.5), (10, 0.9), (50, 0.0), (50, 0.5), (50, 0.9)]
)
def test_the_best_of_many_tries(tries: int, alike: float, cost_bps: float) -> None:
    """The luckiest of many configurations without skill, correlated or not, gets EDGE at most one time in twenty."""
    found = [best_of(generator, closes, tries, alike, cost_bps) for generator, (closes, _) in histories(400)]
    assert report(f"best of {tries}, correlation {alike}, {cost_bps:g} bps", found)[Verdict.EDGE] <= 20
    assert better_than_chance(found) <= 20


@pytest.mark.slow
@pytest.mark.parametrize("tries", [1, 50])
def test_the_smallest_detectable_effect_is_found_in_four_of_five_records(tries: int) -> None:
    """An excess of just that size is EDGE in 80 % of 200 histories, however many the tries."""
    known = Tries(count=tries, correlation=0.0)
    found = planted(200, lambda book: detectable(book, known), known)
    assert 148 <= report(f"the smallest detectable effect, {tries} tries", found)[Verdict.EDGE] <= 172


def detectable(book: Book, tries: Tries) -> float:
    found = judge(book, tries=tries, draws=500).detectable
    assert found is not None
    return found


@pytest.mark.slow
def test_an_excess_worth_trading_is_rarely_called_none() -> None:
    """A true excess of 2 % a year is NO EDGE in at most 17 of 400 histories."""
    found = planted(400, lambda _: WORTH, Tries(count=1, correlation=0.0))
    assert report("an excess of 2 % a year", found)[Verdict.NO_EDGE] <= 17
