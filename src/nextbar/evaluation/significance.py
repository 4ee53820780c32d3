"""Say whether a result could be luck: the excess with its interval, deflated by the number of tries, and the verdict.

Sources: PSR and minimum track record length: Bailey & López de Prado, "The Sharpe Ratio Efficient Frontier", Journal of
Risk 15(2), 2012. DSR: Bailey & López de Prado, "The Deflated Sharpe Ratio", J. of Portfolio Management 40(5), 2014.
Stationary bootstrap: Politis & Romano, JASA 89, 1994; its block length: Politis & White, Econometric Reviews 23, 2004,
corrected 2009. Benjamini & Hochberg, JRSS B 57, 1995.

Every series comes from `nextbar.evaluation.series.Book`. Dates are drawn, never rows, because the tickers of a day move
together. This is the only module that imports arch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from arch.bootstrap import StationaryBootstrap, optimal_block_length
from scipy.stats import false_discovery_control, kurtosis, norm, skew

from nextbar.evaluation.series import Book
from nextbar.scoring.metrics import balanced_accuracy
from nextbar.types import DateArray, FloatArray, JsonDict

CONFIDENCE = 0.975
"""Of each bound of an interval, and of the minimum track record length."""
POWER = 0.8
"""With which an effect of the smallest detectable size would have been shown."""
DEFLATED_NEEDED = 0.95
DAYS_NEEDED, CHANGES_NEEDED = 250, 30
WORTH = 0.02
"""Excess a year below which an edge is not worth trading, unless the user says otherwise."""
MIN_DAYS = 60
"""With fewer days nothing is tested."""
SUSPICIOUS = 0.56
"""Balanced accuracy on daily bars above which a leak is likelier than skill."""
DAILY = 200
"""Bars a year from which on they count as daily."""
REAL = 1e6
"""A day's return from here on is an error in the bars, and powers of it overflow."""
DRAWS = 2000
CHUNK = 250
"""Draws in memory at once."""
COIN = 0.5
DELAYS = {"next_open": "executed at the next open", "one_bar_late": "executed one bar late"}
COUNTS = {"days": "days", "changes": "changes of position"}
SURVIVORSHIP = (
    "Survivorship of the tickers was not checked: companies that failed or were taken over may be missing, which "
    "flatters always long and whatever is long most of the time."
)
_ROUNDING = 1e-12


class Verdict(StrEnum):
    """What a result is worth; data errors leave it INCONCLUSIVE, because a fourth word would say nothing more."""

    EDGE = "EDGE"
    NO_EDGE = "NO EDGE"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate, its 95 % bootstrap interval and its standard error; money is per year."""

    mean: float
    low: float
    high: float
    error: float

    @classmethod
    def of(cls, mean: float, drawn: FloatArray, scale: float = 1.0) -> Interval:
        """Take the percentile interval of drawn values [draws]; a draw without a value (NaN) is left out."""
        low, high = np.nanquantile(drawn, [1 - CONFIDENCE, CONFIDENCE]) * scale
        return cls(mean=mean * scale, low=float(low), high=float(high), error=float(np.nanstd(drawn, ddof=1)) * scale)


@dataclass(frozen=True, kw_only=True)
class Tries:
    """How often luck had a chance on these days.

    Attributes:
        count: Configurations and ticker sets that were tried, the judged one included.
        correlation: Mean over the others of max(0, correlation of their excess with the judged one's).
    """

    count: int
    correlation: float

    def best_sharpe(self, days: int) -> float:
        """Daily Sharpe ratio that the best of so many tries without skill is expected to show on n days (2014, eq. 1).

        SR* = √((1 - ρ) / (n - 1)) · [(1 - γ) Φ⁻¹(1 - 1/N) + γ Φ⁻¹(1 - 1/(N e))], γ Euler's constant; 0 for N = 1.
        Ratios without skill have the variance 1 / (n - 1), of which correlated tries share the part ρ. The paper takes
        the variance of the ratios that were found, which a single leaky try would blow up.
        """
        if self.count < 2 or days < 2:
            return 0.0
        quantiles = norm.ppf([1 - 1 / self.count, 1 - 1 / (self.count * math.e)])
        spread = math.sqrt((1 - self.correlation) / (days - 1))
        return spread * float(np.dot([1 - np.euler_gamma, np.euler_gamma], quantiles))


Series = tuple[DateArray, FloatArray]
"""Days, oldest first, and a value for each."""


def count_tries(excess: Series, others: Iterable[Series], *, tickers: int = 1) -> Tries:
    """Count the tries behind a result.

    Args:
        excess: Of the judged result.
        others: Of every other configuration and ticker set that was scored on overlapping days.
        tickers: Tickers scored in the run: a look at the best of them is the best of so many tries.

    A try whose excess is not known, or has no common days with the judged one's, counts as independent.
    """
    alike = [max(0.0, _correlation(excess, other)) for other in others]
    count = max(1 + len(alike), tickers)
    return Tries(count=count, correlation=sum(alike) / max(count - 1, 1))


def _correlation(one: Series, other: Series) -> float:
    """Correlation on the common days; 0 where there is none."""
    _, here, there = np.intersect1d(one[0], other[0], return_indices=True)
    pair = np.stack([one[1][here], other[1][there]])
    if pair.shape[1] < 3 or (pair.std(axis=1) <= _ROUNDING).any():
        return 0.0
    return float(np.asarray(np.corrcoef(pair))[0, 1])


@dataclass(frozen=True, kw_only=True)
class SharpeMoments:
    """A daily Sharpe ratio with what its error depends on: days, skewness γ3 and kurtosis γ4 (3 for a normal)."""

    ratio: float
    days: int
    skewness: float
    kurtosis: float

    @classmethod
    def of(cls, returns: FloatArray) -> SharpeMoments | None:
        """Take the moments of daily returns [n]; None without variance."""
        if len(returns) < 2 or (deviation := float(returns.std(ddof=1))) <= _ROUNDING:
            return None
        ratio, fourth = float(returns.mean()) / deviation, float(kurtosis(returns, fisher=False))
        return cls(ratio=ratio, days=len(returns), skewness=float(skew(returns)), kurtosis=fourth)

    def probability_above(self, benchmark: float) -> float:
        """PSR, Φ((SR - SR*) √(n-1) / √(1 - γ3 SR + (γ4-1)/4 SR²)): that the true ratio is above SR* (2012, eq. 9)."""
        return float(norm.cdf((self.ratio - benchmark) / self.error))

    def days_needed(self, benchmark: float = 0.0, confidence: float = CONFIDENCE) -> float | None:
        """Days after which such a ratio is told from SR* (2012, eq. 11); None, "never", if it is not above.

        1 + (1 - γ3 SR + (γ4-1)/4 SR²) (Φ⁻¹(confidence) / (SR - SR*))².
        """
        if self.ratio <= benchmark:
            return None
        return 1.0 + self._spread * (float(norm.ppf(confidence)) / (self.ratio - benchmark)) ** 2

    @property
    def error(self) -> float:
        """Standard error of the ratio."""
        return math.sqrt(self._spread / (self.days - 1))

    @property
    def _spread(self) -> float:
        """Never below a trace: extreme moments of a short series could push it there."""
        return max(1.0 - self.skewness * self.ratio + (self.kurtosis - 1.0) / 4.0 * self.ratio**2, _ROUNDING)


def block_length(*series: FloatArray) -> int:
    """Mean block of the stationary bootstrap, in days: the longest that any of the series [n] asks for, at least 1."""
    found = [float(optimal_block_length(one)["stationary"].iloc[0]) for one in series if one.std() > _ROUNDING]
    return max([1, *(math.ceil(length) for length in found if math.isfinite(length))])


def bootstrap(
    columns: FloatArray,
    statistic: Callable[[FloatArray], FloatArray],
    *,
    block: int,
    draws: int = DRAWS,
    seed: int = 0,
) -> FloatArray:
    """Draw days in blocks, the same days for all columns, and compute a statistic of the columns' means in each draw.

    A draw is a row of weights over the days, so that the means of all columns are one matrix product.

    Args:
        columns: [days, k].
        statistic: Values [draws, …] from means [draws, k].
        block: Mean days per block.
        draws: How many.
        seed: Of the draws.

    Returns:
        [draws, …].
    """
    counts = _draws(len(columns), block, draws, seed)
    weights = (counts[first : first + CHUNK] / len(columns) for first in range(0, draws, CHUNK))
    return np.concatenate([statistic(part @ columns) for part in weights])


@lru_cache(maxsize=4)
def _draws(days: int, block: int, draws: int, seed: int) -> npt.NDArray[np.uint16]:
    """[draws, days] how often each day is drawn; cached, because drawing takes longer than the product."""
    sampler = StationaryBootstrap(block, np.arange(days), seed=seed)
    counts = np.empty((draws, days), dtype=np.uint16)
    for row in counts:
        row[:] = np.bincount(sampler.update_indices(), minlength=days)
    return counts


def interval(book: Book, *, draws: int = DRAWS, seed: int = 0) -> Interval | None:
    """Interval of the yearly excess over a constant position of equal exposure; None where it cannot be tested.

    The exposure is computed again in each draw, because a model that is long by chance on the days that rose has the
    same luck in the exposure that it is compared with.
    """
    if len(book.dates) < MIN_DAYS or not (np.abs(book.edge) < REAL).all():
        return None
    drawn = bootstrap(_excess_columns(book), excess_means, block=block_length(book.edge), draws=draws, seed=seed)
    return Interval.of(float(book.edge.mean()), drawn, book.terms.periods)


def _excess_columns(book: Book) -> FloatArray:
    """[days, 1 + 4 n] return of the model; signal, rows, return and cost of a position of 1 in each ticker."""
    unit = book.by_ticker(book.held.astype(np.float64))
    cost = book.terms.cost_bps / 1e4 * unit["traded"]
    # Rows that the exposure of the book is the mean of: those from whose close a position is possible.
    rows = book.scattered(np.ones_like(book.signal)) * book.held
    return np.hstack(
        [book.model.excess[:, None], book.scattered(book.signal) * rows, rows, unit["excess"] + cost, cost]
    )


def excess_means(means: FloatArray) -> FloatArray:
    """Excess [draws] over a constant position of each draw's own exposure, from means of `_excess_columns`."""
    signal, rows, gross, cost = np.split(means[:, 1:], 4, axis=1)
    exposure = np.divide(signal, rows, out=np.zeros_like(signal), where=rows > 0)
    drawn: FloatArray = means[:, 0] - (exposure * gross - np.abs(exposure) * cost).mean(axis=1)
    return drawn


def direction_columns(book: Book) -> FloatArray:
    """[days, 4 n] rises predicted, rises, falls predicted, falls of each ticker that moved both ways.

    A day on which the close did not move is neither.
    """
    moved, rose = book.scored & (book.earned != 0), book.earned > 0
    right = (book.predicted == 1) == rose
    counts = [book.scattered(moved & kind) for kind in (rose & right, rose, ~rose & right, ~rose)]
    both = counts[1].any(axis=0) & counts[3].any(axis=0)
    return np.hstack([count[:, both] for count in counts])


def direction_accuracy(means: FloatArray) -> FloatArray:
    """Balanced accuracy [draws] from means of `direction_columns`; NaN where no ticker moved both ways."""
    counts = means.reshape(len(means), 4, -1).swapaxes(1, 2)
    return balanced_accuracy(counts) if counts.size else np.full(len(means), np.nan)


def direction_interval(book: Book, *, draws: int = DRAWS, seed: int = 0) -> Interval | None:
    """Interval of balanced accuracy; None for fewer days than `MIN_DAYS` or where no ticker moved both ways."""
    columns = direction_columns(book)
    if len(columns) < MIN_DAYS or not columns.size:
        return None
    right, up, also_right, down = (part.sum(axis=1) for part in np.split(columns, 4, axis=1))
    share = (right + also_right) / np.maximum(up + down, 1)
    drawn = bootstrap(columns, direction_accuracy, block=block_length(share), draws=draws, seed=seed)
    return Interval.of(float(direction_accuracy(columns.mean(axis=0)[None])[0]), drawn)


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
            drawn = bootstrap(own, lambda drawn_means: drawn_means, block=block, draws=draws, seed=seed)
            exceeded = np.sum(drawn - means >= means, axis=0)
            pvalues[columns] = np.where(own.std(axis=0) > _ROUNDING, (1 + exceeded) / (1 + draws), 1.0)
    return pvalues


def adjusted_pvalues(pvalues: npt.ArrayLike) -> FloatArray:
    """p-values [k] by Benjamini and Hochberg: among those below q, a share q is expected to be false."""
    adjusted: FloatArray = false_discovery_control(pvalues, method="bh")
    return adjusted


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
        verdict: EDGE, NO EDGE or INCONCLUSIVE.
        statements: What to say with the verdict; the first is its reason.
        days: Days of the record.
        changes: Changes of position after each ticker's first row.
        worth: Excess a year below which an edge is not worth trading.
        tries: Tries on these days; None: not recorded.
        balanced_accuracy: Over the days that moved; None where no ticker moved both ways.
        directions: Its interval; None where it cannot be tested.
        suspicious: Whether it is too high for skill.
        excess: Excess a year over a constant position of equal exposure; None where nothing can be tested.
        next_open: The same, executed at the next open; None where there are no opens.
        one_bar_late: The same, executed one bar late.
        detectable: Smallest excess a year that this record would have shown with 80 % power.
        psr: Probability that the excess has a Sharpe ratio above 0.
        dsr: The same above the best that so many tries without skill would show.
        track_record_days: Days that the Sharpe ratio of the excess needs to be told from 0; None: never.
        checks: The conditions of EDGE.
    """

    verdict: Verdict = Verdict.INCONCLUSIVE
    statements: tuple[str, ...] = ()
    days: int
    changes: int
    worth: float = WORTH
    tries: Tries | None = None
    balanced_accuracy: float | None = None
    directions: Interval | None = None
    suspicious: bool = False
    excess: Interval | None = None
    next_open: Interval | None = None
    one_bar_late: Interval | None = None
    detectable: float | None = None
    psr: float | None = None
    dsr: float | None = None
    track_record_days: float | None = None
    checks: tuple[Check, ...] = ()

    @property
    def reason(self) -> str:
        """Why this is the verdict."""
        return self.statements[0]

    def to_json(self) -> JsonDict:
        """Convert to JSON values."""
        return {**asdict(self), "reason": self.reason}


def judge(
    book: Book,
    *,
    opens: Interval | None = None,
    tries: Tries | None = None,
    worth: float = WORTH,
    data_errors: Sequence[str] = (),
    draws: int = DRAWS,
    seed: int = 0,
) -> Judgement:
    """Judge a result by its money: the excess over a constant position of the model's own average exposure.

    EDGE: the lower bound of the excess is above 0, also when executed at the next open (one bar late where there are no
    opens), the deflated Sharpe ratio of the excess is at least 0.95, and there are 250 days and 30 changes of position.
    NO EDGE: the upper bound is below what is worth trading, or the position never changed. INCONCLUSIVE: the rest, and
    every result on bars with a data error, because an error can make an edge and can hide one. An excess that is shown
    to be above 0 but below what is worth trading is an EDGE, and its reason says so.

    Args:
        book: Series of the result.
        opens: Interval of the excess at the next open; None where there are no opens.
        tries: Tries on these days; None: not recorded.
        worth: Excess a year below which an edge is not worth trading.
        data_errors: A sentence for each ticker with data errors inside the days.
        draws: Bootstrap draws.
        seed: Of the draws.
    """
    changes = int(np.sum((book.signal != np.roll(book.signal, 1)) & ~book.first))
    found = Judgement(
        days=len(book.dates),
        changes=changes,
        worth=worth,
        tries=tries,
        **_directions(book, draws=draws, seed=seed),
        **_money(book, opens, tries, draws=draws, seed=seed),
    )
    found = replace(found, checks=_checks(found))
    verdict = _verdict(found)
    reason = _reason(verdict, found)
    if data_errors:
        verdict, reason = Verdict.INCONCLUSIVE, f"{'; '.join(data_errors)}: no verdict stands on such bars. {reason}"
    said = (*_on_power(found), _on_directions(found), *_on_delay(found), _on_tries(found, book.terms.periods))
    return replace(found, verdict=verdict, statements=(reason, *said, SURVIVORSHIP))


def _directions(book: Book, *, draws: int, seed: int) -> JsonDict:
    accuracy = float(direction_accuracy(direction_columns(book).sum(axis=0)[None])[0])
    return {
        "balanced_accuracy": accuracy if math.isfinite(accuracy) else None,
        "directions": direction_interval(book, draws=draws, seed=seed),
        "suspicious": accuracy > SUSPICIOUS and book.terms.periods >= DAILY,
    }


def _money(book: Book, opens: Interval | None, tries: Tries | None, *, draws: int, seed: int) -> JsonDict:
    """Intervals of the excess and what deflates it; nothing where nothing can be tested.

    The smallest detectable excess is max(Φ⁻¹(0.975) · e, (SR* + Φ⁻¹(0.95) · s) · σ) + Φ⁻¹(0.8) · e, with the bootstrap
    error e of the excess, the error s of its daily Sharpe ratio, and σ, the standard deviation of a day times the
    periods per year. The maximum is what the lower bound and the deflated ratio both need; the last term is what luck
    takes away in one record of five. For one try it is at least (1.96 + 0.84) · e.
    """
    excess, late = (interval(one, draws=draws, seed=seed) for one in (book, book.late))
    if excess is None or late is None:
        return {}
    found = {"excess": excess, "next_open": opens, "one_bar_late": late}
    if (moments := SharpeMoments.of(book.edge)) is None:
        return found
    best = 0.0 if tries is None else tries.best_sharpe(moments.days)
    year = float(book.edge.std(ddof=1)) * book.terms.periods
    bound, deflated, power = (float(norm.ppf(share)) for share in (CONFIDENCE, DEFLATED_NEEDED, POWER))
    return found | {
        "detectable": max(bound * excess.error, (best + deflated * moments.error) * year) + power * excess.error,
        "psr": moments.probability_above(0.0),
        "dsr": moments.probability_above(best),
        "track_record_days": moments.days_needed(),
    }


def _checks(found: Judgement) -> tuple[Check, ...]:
    """Conditions of EDGE; none where nothing can be tested."""
    if found.excess is None:
        return ()
    name, delayed = _delayed(found)
    assert delayed is not None, "one bar late is there where the excess is"
    values = {
        "excess_bound": (found.excess.low, 0.0, found.excess.low > _ROUNDING),
        f"{name}_bound": (delayed.low, 0.0, delayed.low > _ROUNDING),
        "deflated_sharpe": (found.dsr or 0.0, DEFLATED_NEEDED, (found.dsr or 0.0) >= DEFLATED_NEEDED),
        "days": (found.days, DAYS_NEEDED, found.days >= DAYS_NEEDED),
        "changes": (found.changes, CHANGES_NEEDED, found.changes >= CHANGES_NEEDED),
    }
    return tuple(
        Check(name=name, value=value, needed=needed, passed=passed) for name, (value, needed, passed) in values.items()
    )


def _delayed(found: Judgement) -> tuple[str, Interval | None]:
    """Name of the late execution that EDGE must stand, and its interval."""
    return ("one_bar_late", found.one_bar_late) if found.next_open is None else ("next_open", found.next_open)


def _verdict(found: Judgement) -> Verdict:
    if found.changes == 0:
        return Verdict.NO_EDGE
    if found.checks and all(check.passed for check in found.checks):
        return Verdict.EDGE
    below = found.excess is not None and found.excess.high < found.worth
    return Verdict.NO_EDGE if below else Verdict.INCONCLUSIVE


def _reason(verdict: Verdict, found: Judgement) -> str:
    if found.changes == 0:
        return "The position never changed, so there is no decision to judge."
    if found.days < MIN_DAYS:
        return f"Nothing can be tested on {found.days} days; {MIN_DAYS} are needed."
    if found.excess is None:
        return "A return is too large to be real, so nothing is tested: see nextbar check."
    earned = f"The mean excess over a constant position of the same average exposure is {_yearly(found.excess)}"
    worth = f"the {100 * found.worth:g} % a year that is worth trading"
    if verdict is Verdict.NO_EDGE:
        return f"{earned}: the upper bound is below {worth}."
    if verdict is Verdict.EDGE:
        name, delayed = _delayed(found)
        assert delayed is not None, "its bound was checked"
        small = f" All of it is below {worth}." if found.excess.high < found.worth else ""
        return f"{earned}; {DELAYS[name]} it is {_yearly(delayed)}; deflated Sharpe ratio {found.dsr:.2f}.{small}"
    missing = "; ".join(_missing(check) for check in found.checks if not check.passed)
    return f"{earned}: neither an edge nor its absence is shown ({missing})."


def _missing(check: Check) -> str:
    if check.name == "deflated_sharpe":
        return f"the deflated Sharpe ratio is {check.value:.2f}, needed is {check.needed:g}"
    if check.name == "excess_bound":
        return "the lower bound is not above 0"
    if check.name in COUNTS:
        return f"{check.value:,.0f} {COUNTS[check.name]}, needed are {check.needed:g}"
    return f"{DELAYS[check.name.removesuffix('_bound')]} the lower bound is {_percent(check.value)}"


def _on_power(found: Judgement) -> list[str]:
    if found.detectable is None:
        return []
    return [f"The smallest effect that this record could have shown is {100 * found.detectable:.1f} % a year."]


def _on_directions(found: Judgement) -> str:
    if (directions := found.directions) is None:
        return "Directions cannot be judged on these days."
    # As the excess is: the best of so many tries lies so many standard errors above chance without skill.
    tries = found.tries or Tries(count=1, correlation=0.0)
    luck = tries.best_sharpe(found.days) * math.sqrt(found.days - 1) + float(norm.ppf(DEFLATED_NEEDED))
    said = "not shown to be better than chance"
    if directions.high < COIN - _ROUNDING:
        said = "worse than chance"
    elif directions.low > COIN + _ROUNDING:
        proven = tries.count == 1 or directions.mean - COIN >= luck * directions.error
        said = "better than chance" if proven else f"{said} after {tries.count:,} tries"
    within = f"95 % interval {directions.low:.3f} to {directions.high:.3f}"
    return f"Directions are {said}: balanced accuracy {directions.mean:.3f} on the days that moved ({within})."


def _on_delay(found: Judgement) -> list[str]:
    if found.excess is None or found.one_bar_late is None:
        return []
    if found.excess.mean <= max(_ROUNDING, 2 * found.one_bar_late.mean):
        return []
    late = _percent(found.one_bar_late.mean)
    return [f"One bar of delay takes more than half of the excess: executed one bar late it is {late} a year."]


def _on_tries(found: Judgement, periods: float) -> str:
    if found.tries is None:
        return "Tries are not recorded: the verdict holds only if this was the only try."
    if found.tries.count == 1:
        return "This is the only try recorded on these days."
    best = found.tries.best_sharpe(found.days) * math.sqrt(periods)
    return (
        f"{found.tries.count:,} tries on these days, mean correlation {found.tries.correlation:.2f}: the best of so "
        f"many without skill is expected to show a Sharpe ratio of {best:.2f}."
    )


def _yearly(found: Interval) -> str:
    low, high = f"{100 * found.low:+.1f}", _percent(found.high)
    return f"{_percent(found.mean)} a year (95 % interval {low} to {high})"


def _percent(value: float) -> str:
    return f"{100 * value:+.1f} %"
