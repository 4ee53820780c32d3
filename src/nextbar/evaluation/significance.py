"""Could the result be luck? Sharpe ratios deflated by the number of tries, bootstrap over dates, and the verdict.

Sources: PSR and minimum track record length: Bailey & López de Prado, "The Sharpe Ratio Efficient Frontier", Journal of
Risk 15(2), 2012. DSR: Bailey & López de Prado, "The Deflated Sharpe Ratio", J. of Portfolio Management 40(5), 2014.
Stationary bootstrap: Politis & Romano, JASA 89, 1994; its block length: Politis & White, Econometric Reviews 23, 2004,
corrected 2009. SPA: Hansen, Journal of Business & Economic Statistics 23, 2005. Benjamini & Hochberg, JRSS B 57, 1995.

Sharpe ratios here are per day, not annualised. A series has one value per date, in which all tickers of that day are
already taken together: they move together, so dates are what is drawn. This is the only module that imports arch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
from arch.bootstrap import SPA, StationaryBootstrap, optimal_block_length
from scipy.stats import false_discovery_control, kurtosis, norm, skew

from nextbar.scoring.backtest import TRADING_DAYS, sharpe
from nextbar.types import FloatArray, JsonDict

CONFIDENCE = 0.975
"""Of the one-sided lower bounds."""
DEFLATED_NEEDED = 0.95
SPA_LEVEL = 0.05
MIN_DAYS = 60
"""With fewer scored days nothing is tested."""
DRAWS = 2000
_NO_VARIANCE = 1e-12


class Verdict(StrEnum):
    """What a result is worth."""

    EDGE = "EDGE"
    INCONCLUSIVE = "INCONCLUSIVE"
    NONE = "NO EVIDENCE OF SKILL"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is judged; every array has one row per scored day, oldest first, net of costs.

    Attributes:
        net: [days] returns of the model.
        excess: [days] returns minus those of a constant position of the same average exposure.
        counts: [days, 4] rises predicted, rises, falls predicted, falls.
        baselines: Name → [days] returns.
        others: [days, trials] returns of the other outer trials on these days; on a day that one lacks, ``net``.
        other_sharpes: [trials] daily Sharpe ratio of each one's excess on the days it has, brought to the error that it
            would have on all of them.
    """

    net: FloatArray
    excess: FloatArray
    counts: FloatArray
    baselines: Mapping[str, FloatArray]
    others: FloatArray
    other_sharpes: FloatArray


@dataclass(frozen=True, kw_only=True)
class Check:
    """One condition of EDGE: what was found, what was needed, and whether it is met."""

    name: str
    value: float
    needed: float
    passed: bool


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The verdict and what it rests on.

    Attributes:
        verdict: EDGE only if every check passed.
        reason: One sentence.
        days: Scored days.
        configurations: Outer trials on these days, this one included.
        excess_return: Yearly mean of the excess (arithmetic, 252 days).
        excess_bound: Its lower 97.5 % bound.
        balanced_accuracy: Pooled over the rows.
        balanced_accuracy_bound: Its lower 97.5 % bound.
        psr: Probability that the excess has a Sharpe ratio above 0.
        dsr: The same above the best that so many trials without skill would show.
        track_record_days: Days that the Sharpe ratio of the excess needs to be told from 0; None: never.
        block_length: Mean days per block of the bootstrap.
        spa: Baseline → p-value; 1 where the model earned no more than the baseline.
        checks: The conditions.
    """

    verdict: Verdict
    reason: str
    days: int
    configurations: int
    excess_return: float | None = None
    excess_bound: float | None = None
    balanced_accuracy: float | None = None
    balanced_accuracy_bound: float | None = None
    psr: float | None = None
    dsr: float | None = None
    track_record_days: float | None = None
    block_length: int | None = None
    spa: Mapping[str, float]
    checks: tuple[Check, ...] = ()

    def to_json(self) -> JsonDict:
        """As JSON values."""
        return asdict(self)


def daily_sharpe(returns: FloatArray) -> float | None:
    """Mean / standard deviation (ddof 1) of daily returns [n], not annualised; None without variance."""
    annual = sharpe(returns)
    return None if annual is None else annual / math.sqrt(TRADING_DAYS)


@dataclass(frozen=True, kw_only=True)
class SharpeMoments:
    """A daily Sharpe ratio with what its error depends on: days, skewness γ3 and kurtosis γ4 (3 for a normal)."""

    ratio: float
    days: int
    skewness: float
    kurtosis: float

    @classmethod
    def of(cls, returns: FloatArray) -> SharpeMoments | None:
        """Moments of daily returns [n]; None without variance."""
        if (ratio := daily_sharpe(returns)) is None:
            return None
        fourth = float(kurtosis(returns, fisher=False))
        return cls(ratio=ratio, days=len(returns), skewness=float(skew(returns)), kurtosis=fourth)

    def probability_above(self, benchmark: float) -> float:
        """PSR, Φ((SR - SR*) √(n-1) / √(1 - γ3 SR + (γ4-1)/4 SR²)): that the true ratio is above SR* (2012, eq. 9)."""
        return float(norm.cdf((self.ratio - benchmark) * math.sqrt((self.days - 1) / self._spread)))

    def days_needed(self, benchmark: float = 0.0, confidence: float = 0.95) -> float | None:
        """Days after which such a ratio is told from SR* (2012, eq. 11); None, "never", if it is not above.

        1 + (1 - γ3 SR + (γ4-1)/4 SR²) (Φ⁻¹(confidence) / (SR - SR*))².
        """
        if self.ratio <= benchmark:
            return None
        return 1.0 + self._spread * (float(norm.ppf(confidence)) / (self.ratio - benchmark)) ** 2

    @property
    def _spread(self) -> float:
        """Never below a trace: extreme moments of a short series could push it there."""
        return max(1.0 - self.skewness * self.ratio + (self.kurtosis - 1.0) / 4.0 * self.ratio**2, _NO_VARIANCE)


def expected_best_sharpe(ratios: npt.ArrayLike) -> float:
    """Daily Sharpe ratio that the best of as many trials without skill is expected to show (2014, eq. 1).

    √V ((1-γ) Φ⁻¹(1 - 1/N) + γ Φ⁻¹(1 - 1/(N e))), V the variance of the trials' ratios [N], γ Euler's constant; 0 for
    one trial.
    """
    trials = np.asarray(ratios, dtype=np.float64)
    if trials.size < 2:
        return 0.0
    quantiles = norm.ppf([1 - 1 / trials.size, 1 - 1 / (trials.size * math.e)])
    return float(trials.std(ddof=1) * np.dot([1 - np.euler_gamma, np.euler_gamma], quantiles))


def block_length(*series: FloatArray) -> int:
    """Mean block of the stationary bootstrap, in days: the longest that any of the series [n] asks for, at least 1."""
    found = [float(optimal_block_length(one)["stationary"].iloc[0]) for one in series if one.std() > _NO_VARIANCE]
    return max([1, *(math.ceil(length) for length in found if math.isfinite(length))])


def bootstrap_means(values: FloatArray, *, block: int, draws: int, seed: int) -> FloatArray:
    """Means [draws, k] of the columns of values [n, k], rows drawn in blocks, the same rows for all columns."""
    drawn: FloatArray = StationaryBootstrap(block, values, seed=seed).apply(lambda rows: rows.mean(axis=0), draws)
    return drawn


def spa_pvalue(models: FloatArray, benchmark: FloatArray, *, block: int, draws: int, seed: int) -> float:
    """Hansen's consistent p-value that no column of returns [n, k] is better than the benchmark [n].

    A column that never differs from the benchmark says nothing and is left out; if all are, the value is 1.
    """
    different = (models - benchmark[:, None]).std(axis=0) > _NO_VARIANCE
    if not different.any():
        return 1.0
    losses = -models[:, different]
    test = SPA(-benchmark, losses, block_size=block, reps=draws, bootstrap="stationary", seed=seed)
    test.compute()
    return float(test.pvalues["consistent"])


def positive_mean_pvalues(values: FloatArray, *, draws: int = DRAWS, seed: int = 0) -> FloatArray:
    """One-sided p-values [k] that the mean of a column is not above 0; 1 for fewer days than `MIN_DAYS`.

    Each column's own days are drawn: among all days, a draw could hold few of a short column's, or none. Columns of the
    same days are drawn together, and all in the median block length, because what a short column asks for is noise.

    Args:
        values: [days, k] daily returns, NaN on a day that a column does not have.
        draws: Bootstrap draws.
        seed: Of the draws.
    """
    known = np.isfinite(values)
    tested = [column[here] for column, here in zip(values.T, known.T, strict=True) if here.sum() >= MIN_DAYS]
    block = int(np.median([block_length(column) for column in tested] or 1))
    patterns, pattern = np.unique(known, axis=1, return_inverse=True)
    pvalues = np.ones(values.shape[1])
    for number, days in enumerate(patterns.T):
        columns = pattern.ravel() == number
        if days.sum() >= MIN_DAYS:
            own = values[np.ix_(days, columns)]
            means = own.mean(axis=0)
            drawn = bootstrap_means(own, block=block, draws=draws, seed=seed)
            exceeded = np.sum(drawn - means >= means, axis=0)
            pvalues[columns] = np.where(own.std(axis=0) > _NO_VARIANCE, (1 + exceeded) / (1 + draws), 1.0)
    return pvalues


def adjusted_pvalues(pvalues: npt.ArrayLike) -> FloatArray:
    """p-values [k] by Benjamini and Hochberg: among those below q, a share q is expected to be false."""
    adjusted: FloatArray = false_discovery_control(pvalues, method="bh")
    return adjusted


def balanced_accuracy(counts: FloatArray) -> FloatArray:
    """Mean recall of the two classes from counts [..., 4], summed or averaged over days; NaN without one of them."""
    with np.errstate(invalid="ignore", divide="ignore"):
        rises, falls = counts[..., 0] / counts[..., 1], counts[..., 2] / counts[..., 3]
    mean: FloatArray = (rises + falls) / 2
    return mean


def judge(evidence: Evidence, *, draws: int = DRAWS, seed: int = 0) -> Judgement:
    """The verdict on a result.

    EDGE: the lower 97.5 % bound of the excess is above 0, that of balanced accuracy above 0.5, the deflated Sharpe
    ratio of the excess is at least 0.95 and SPA, with every outer trial as a model, rejects each baseline at 5 %, which
    the model itself must have out-earned. INCONCLUSIVE: not all of these, but both
    the mean excess is above 0 and balanced accuracy above 0.5. Otherwise NO EVIDENCE OF SKILL.

    Args:
        evidence: Series of the scored days.
        draws: Bootstrap draws of each test.
        seed: Of the first bootstrap; the test of each baseline takes the next one.
    """
    days, tried = len(evidence.net), 1 + len(evidence.other_sharpes)
    if (obstacle := _obstacle(evidence)) is not None:
        return Judgement(verdict=Verdict.NONE, reason=obstacle, days=days, configurations=tried, spa={})
    moments = SharpeMoments.of(evidence.excess)
    assert moments is not None, "no obstacle, so the excess varies"
    block, figures = _bounds(evidence, draws=draws, seed=seed)
    # DSR (2014, eq. 2): PSR against the best that so many trials without skill would show.
    deflated = moments.probability_above(expected_best_sharpe([*evidence.other_sharpes, moments.ratio]))
    spa = _spa_by_baseline(evidence, block=block, draws=draws, seed=seed + 1)
    checks = _checks(figures, deflated, spa)
    verdict = _verdict(figures, checks)
    return Judgement(
        verdict=verdict,
        reason=_reason(verdict, figures, checks, tried),
        days=days,
        configurations=tried,
        **figures,
        psr=moments.probability_above(0.0),
        dsr=deflated,
        track_record_days=moments.days_needed(),
        block_length=block,
        spa=spa,
        checks=checks,
    )


def _bounds(evidence: Evidence, *, draws: int, seed: int) -> tuple[int, dict[str, float]]:
    """Block length, and excess and balanced accuracy with their lower bounds, from the same drawn dates."""
    counts = evidence.counts
    correct = counts[:, [0, 2]].sum(axis=1) / counts[:, [1, 3]].sum(axis=1)
    block = block_length(evidence.excess, correct)
    drawn = bootstrap_means(np.column_stack([evidence.excess, counts]), block=block, draws=draws, seed=seed)
    return block, {
        "excess_return": float(evidence.excess.mean() * TRADING_DAYS),
        "excess_bound": float(np.quantile(drawn[:, 0], 1 - CONFIDENCE) * TRADING_DAYS),
        "balanced_accuracy": float(balanced_accuracy(counts.sum(axis=0))),
        "balanced_accuracy_bound": float(np.nanquantile(balanced_accuracy(drawn[:, 1:]), 1 - CONFIDENCE)),
    }


def _obstacle(evidence: Evidence) -> str | None:
    """Why nothing can be tested."""
    if len(evidence.net) < MIN_DAYS:
        return f"{len(evidence.net)} scored days are too few to test anything; {MIN_DAYS} are needed."
    if daily_sharpe(evidence.excess) is None:
        return "The model never changed its position, so there is no decision to judge."
    if not (evidence.counts.sum(axis=0)[[1, 3]] > 0).all():
        return "The close moved one way on all scored days, so directions cannot be judged."
    return None


def _spa_by_baseline(evidence: Evidence, *, block: int, draws: int, seed: int) -> dict[str, float]:
    """p-value that none of all trials beats a baseline; 1 where this one did not, whatever another trial did."""
    models, mean = np.column_stack([evidence.net, evidence.others]), evidence.net.mean()
    return {
        name: spa_pvalue(models, returns, block=block, draws=draws, seed=seed + number)
        if mean > returns.mean()
        else 1.0
        for number, (name, returns) in enumerate(evidence.baselines.items())
    }


def _checks(figures: Mapping[str, float], deflated: float, spa: Mapping[str, float]) -> tuple[Check, ...]:
    excess, accuracy = figures["excess_bound"], figures["balanced_accuracy_bound"]
    return (
        Check(name="excess_bound", value=excess, needed=0.0, passed=excess > 0),
        Check(name="balanced_accuracy_bound", value=accuracy, needed=0.5, passed=accuracy > 0.5),
        Check(name="deflated_sharpe", value=deflated, needed=DEFLATED_NEEDED, passed=deflated >= DEFLATED_NEEDED),
        *(
            Check(name=f"spa_{name}", value=pvalue, needed=SPA_LEVEL, passed=pvalue < SPA_LEVEL)
            for name, pvalue in spa.items()
        ),
    )


def _verdict(figures: Mapping[str, float], checks: tuple[Check, ...]) -> Verdict:
    if all(check.passed for check in checks):
        return Verdict.EDGE
    positive = figures["excess_return"] > 0 and figures["balanced_accuracy"] > 0.5
    return Verdict.INCONCLUSIVE if positive else Verdict.NONE


def _reason(verdict: Verdict, figures: Mapping[str, float], checks: tuple[Check, ...], tried: int) -> str:
    """The verdict's reason as one sentence: all that holds for an EDGE, else what does not."""
    earned = (
        f"{100 * figures['excess_return']:+.1f} % a year against a constant position of equal exposure "
        f"(lower bound {100 * figures['excess_bound']:+.1f} %) and balanced accuracy "
        f"{figures['balanced_accuracy']:.3f} (lower bound {figures['balanced_accuracy_bound']:.3f})"
    )
    if verdict is Verdict.EDGE:
        return f"{earned} hold net of costs, after {_tries(tried)} tried, and beat every baseline."
    if verdict is Verdict.NONE:
        lacking = {
            "the return is not above that of the constant position": figures["excess_return"] <= 0,
            "its directions are no better than a coin's": figures["balanced_accuracy"] <= 0.5,
        }
        return f"{earned}: {' and '.join(text for text, holds in lacking.items() if holds)}."
    missing = "; ".join(_missing(check, tried) for check in checks if not check.passed)
    return f"{earned} are positive but unproven: {missing}."


def _missing(check: Check, tried: int) -> str:
    if check.name == "excess_bound":
        return "the return could be 0"
    if check.name == "balanced_accuracy_bound":
        return "the accuracy could be a coin's"
    if check.name == "deflated_sharpe":
        return f"deflated Sharpe ratio {check.value:.2f} after {_tries(tried)}, needs {check.needed}"
    return f"not shown to beat {check.name.removeprefix('spa_').replace('_', ' ')} (p = {check.value:.2f})"


def _tries(count: int) -> str:
    return "1 configuration" if count == 1 else f"{count} configurations"
