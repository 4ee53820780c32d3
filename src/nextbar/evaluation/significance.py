"""Bootstrap intervals of the excess and of the directions, p-values of tickers, and deflated Sharpe ratios.

Sources: PSR and minimum track record length: Bailey & López de Prado, "The Sharpe Ratio Efficient Frontier", Journal of
Risk 15(2), 2012. DSR: Bailey & López de Prado, "The Deflated Sharpe Ratio", J. of Portfolio Management 40(5), 2014.
Stationary bootstrap: Politis & Romano, JASA 89, 1994. Its block length: Politis & White, Econometric Reviews
23, 2004, corrected by Patton, Politis & White, Econometric Reviews 28, 2009. Benjamini & Hochberg, JRSS B 57, 1995.

Dates are drawn, never rows, because the tickers of a day move together. Draws and block lengths are those of the
library arch, as the tests prove; importing it would take most of a second.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from nextbar.evaluation.series import Book
from nextbar.scoring.metrics import balanced_accuracy
from nextbar.types import DateArray, FloatArray

CONFIDENCE = 0.975
"""Of each bound of an interval."""
MIN_DAYS = 60
"""With fewer days nothing is tested."""
REAL = 1e6
"""A day's return from here on is an error in the bars, and powers of it overflow."""
DRAWS = 2000
CHUNK = 250
"""Draws in memory at once."""
ROUNDING = 1e-12
Series = tuple[DateArray, FloatArray]
"""Days, oldest first, and a value for each."""


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


def block_length(*series: FloatArray) -> int:
    """Return the mean block of the stationary bootstrap, in days: the longest that any series [n] needs, at least 1."""
    found = [_block_length(one) for one in series if one.std() > ROUNDING]
    return max([1, *(math.ceil(length) for length in found if math.isfinite(length))])


def _block_length(series: FloatArray) -> float:
    """Estimate the best mean block of a series [n] (2004, section 3, with the constant of 2009)."""
    n, centred = len(series), series - series.mean()
    few = max(5, int(np.log10(n)))
    most = math.ceil(np.sqrt(n)) + few
    parts = [(centred[lag:] @ centred[: n - lag], centred[lag + 1 :], centred[: -lag - 1]) for lag in range(most + 1)]
    covariance = np.array([product for product, _, _ in parts]) / n
    with np.errstate(divide="ignore", invalid="ignore"):
        small = [abs(one) / np.sqrt((late @ late) * (early @ early)) for one, late, early in parts[:most]]
        # The first lag after which so few correlations in a row do not differ from 0; twice as many lags count.
        quiet = sliding_window_view(np.array(small) < 2 * np.sqrt(np.log10(n) / n), few).all(axis=1)
        lags = min(2 * max(int(quiet.argmax()), 1), most) if quiet.any() else most
        lag = np.arange(1, lags + 1)
        weighted = np.minimum(1.0, 2 * (1 - lag / lags)) * covariance[1 : lags + 1]
        spread, slope = covariance[0] + 2 * weighted.sum(), 2 * (lag @ weighted)
        length = ((slope / spread) ** 2 * n) ** (1 / 3)
    return float(min(length, np.ceil(min(3 * np.sqrt(n), n / 3))))


def bootstrap(
    columns: FloatArray, statistic: Callable[[FloatArray], FloatArray], *, block: int, draws: int = DRAWS, seed: int = 0
) -> FloatArray:
    """Draw days in blocks, the same days for all columns, and compute a statistic of the columns' means in each draw.

    A draw is a row of weights over the days, so that the means of all columns are one matrix product.
    """
    counts = _draws(len(columns), block, draws, seed)
    weights = (counts[first : first + CHUNK] / len(columns) for first in range(0, draws, CHUNK))
    return np.concatenate([statistic(part @ columns) for part in weights])


@lru_cache(maxsize=4)
def _draws(days: int, block: int, draws: int, seed: int) -> npt.NDArray[np.uint16]:
    """[draws, days] how often each day is drawn; cached, because drawing takes longer than the product."""
    generator, place = np.random.default_rng(seed), np.arange(days)
    counts = np.empty((draws, days), dtype=np.uint16)
    for row in counts:
        drawn, chance = generator.integers(days, size=days), generator.random(days)
        # A block begins with a drawn day and goes on with the days after it, the first after the last.
        begin = np.maximum.accumulate(np.where(chance > 1 / block, 0, place))
        row[:] = np.bincount((drawn[begin] + place - begin) % days, minlength=days)
    return counts


def interval(book: Book, *, draws: int = DRAWS) -> Interval | None:
    """Compute the interval of the yearly excess over a constant position of equal exposure.

    The exposure is computed again in each draw, because a model that is long by chance on the days that rose also has
    more exposure by chance.
    """
    if len(book.dates) < MIN_DAYS or not (np.abs(book.edge) < REAL).all():
        return None
    drawn = bootstrap(_excess_columns(book), excess_means, block=block_length(book.edge), draws=draws)
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


def direction_interval(book: Book, *, draws: int = DRAWS) -> Interval | None:
    """Compute the interval of balanced accuracy."""
    columns = direction_columns(book)
    if len(columns) < MIN_DAYS or not columns.size:
        return None
    right, up, also_right, down = (part.sum(axis=1) for part in np.split(columns, 4, axis=1))
    share = (right + also_right) / np.maximum(up + down, 1)
    drawn = bootstrap(columns, direction_accuracy, block=block_length(share), draws=draws)
    return Interval.of(float(direction_accuracy(columns.mean(axis=0)[None])[0]), drawn)


def positive_mean_pvalues(values: FloatArray, *, draws: int = DRAWS) -> FloatArray:
    """Compute one-sided p-values [k] that the mean of a column is not above 0; 1 for fewer days than `MIN_DAYS`.

    Each column's own days are drawn: among all days, a draw could hold few of a short column's, or none. Columns of the
    same days are drawn together, and all in the median block length, because what a short column asks for is noise.
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
            drawn = bootstrap(own, lambda drawn_means: drawn_means, block=block, draws=draws)
            exceeded = np.sum(drawn - means >= means, axis=0)
            pvalues[columns] = np.where(own.std(axis=0) > ROUNDING, (1 + exceeded) / (1 + draws), 1.0)
    return pvalues


def adjusted_pvalues(pvalues: FloatArray) -> FloatArray:
    """Adjust p-values [k] by Benjamini and Hochberg: among those below q, a share q is expected to be false."""
    count, order = len(pvalues), np.argsort(pvalues)
    scaled = pvalues[order] * (count / np.arange(1, count + 1))
    adjusted = np.empty(count)
    adjusted[order] = np.minimum.accumulate(scaled[::-1])[::-1]
    return adjusted


def normal_quantile(share: float) -> float:
    """Return Φ⁻¹, the value below which a standard normal variable lies with this probability."""
    from scipy.special import ndtri  # here, because training records a trial and judges nothing

    return float(ndtri(share))


@dataclass(frozen=True, kw_only=True)
class Tries:
    """Number and correlation of the tries on these days.

    Attributes:
        count: Configurations and ticker sets that were tried, the judged one included.
        correlation: Mean over the others of max(0, correlation of their excess with the judged one's).
        openings: How often these days were opened, where they were held out; each opening is a try.
    """

    count: int
    correlation: float
    openings: int | None = None

    def best_sharpe(self, days: int) -> float:
        """Daily Sharpe ratio that the best of so many tries without skill is expected to show on n days (2014, eq. 1).

        SR* = √((1 - ρ) / (n - 1)) · [(1 - γ) Φ⁻¹(1 - 1/N) + γ Φ⁻¹(1 - 1/(N e))], γ Euler's constant; 0 for N = 1.
        Ratios without skill have the variance 1 / (n - 1), of which correlated tries share the part ρ. The paper takes
        the variance of the ratios that were found, which a single leaky try would inflate.
        """
        if self.count < 2 or days < 2:
            return 0.0
        quantiles = [normal_quantile(1 - 1 / self.count), normal_quantile(1 - 1 / (self.count * math.e))]
        spread = math.sqrt((1 - self.correlation) / (days - 1))
        return spread * float(np.dot([1 - np.euler_gamma, np.euler_gamma], quantiles))


def count_tries(excess: Series, others: Iterable[Series], *, tickers: int = 1, openings: int | None = None) -> Tries:
    """Count the tries behind a result: at least one for each ticker scored with it, and one for each opening.

    A try whose excess is not known, or has no common days with the judged one's, counts as independent.
    """
    alike = [max(0.0, _correlation(excess, other)) for other in others]
    count = max(1 + len(alike), tickers, openings or 1)
    return Tries(count=count, correlation=sum(alike) / max(count - 1, 1), openings=openings)


def _correlation(one: Series, other: Series) -> float:
    """Correlation on the common days; 0 where there is none."""
    _, here, there = np.intersect1d(one[0], other[0], return_indices=True)
    pair = np.stack([one[1][here], other[1][there]])
    if pair.shape[1] < 3 or (pair.std(axis=1) <= ROUNDING).any():
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
        if len(returns) < 2 or (deviation := float(returns.std(ddof=1))) <= ROUNDING:
            return None
        mean = returns.mean()
        squares = (centred := returns - mean) ** 2
        variance = squares.mean()
        skewness, kurtosis = (squares * centred).mean() / variance**1.5, (squares**2).mean() / variance**2
        return cls(ratio=float(mean) / deviation, days=len(returns), skewness=float(skewness), kurtosis=float(kurtosis))

    def probability_above(self, benchmark: float) -> float:
        """PSR, Φ((SR - SR*) √(n-1) / √(1 - γ3 SR + (γ4-1)/4 SR²)): that the true ratio is above SR* (2012, eq. 9)."""
        from scipy.special import ndtr

        return float(ndtr((self.ratio - benchmark) / self.error))

    def days_needed(self, benchmark: float = 0.0, confidence: float = CONFIDENCE) -> float | None:
        """Return the days after which such a ratio differs from SR* (2012, eq. 11); None, "never", if it is not above.

        1 + (1 - γ3 SR + (γ4-1)/4 SR²) (Φ⁻¹(confidence) / (SR - SR*))².
        """
        if self.ratio <= benchmark:
            return None
        return 1.0 + self._spread * (normal_quantile(confidence) / (self.ratio - benchmark)) ** 2

    @property
    def error(self) -> float:
        """Standard error of the ratio."""
        return math.sqrt(self._spread / (self.days - 1))

    @property
    def _spread(self) -> float:
        """Never below a trace: extreme moments of a short series could push it there."""
        return max(1.0 - self.skewness * self.ratio + (self.kurtosis - 1.0) / 4.0 * self.ratio**2, ROUNDING)
