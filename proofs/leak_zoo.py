"""Features that see the future, features that do not, and the truth beside each.

A feature takes the bars of one ticker (`Open High Low Close Volume`, a `DatetimeIndex`) and returns a number a bar.
NumPy and pandas are all that is needed, so that any detector can import this module.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path

import numpy as np
import pandas as pd

LATER_BARS, MEMORY, OUTSIDE, WRITTEN = "later bars", "memory", "outside", "written"
"""How the future comes in: from bars that are given, from earlier calls, from other data, from constants in code."""
FILE = "LEAK_ZOO_FILE"
"""Environment variable that names the file which `file_read` reads."""
ZOO: list[Specimen] = []


@dataclass(frozen=True)
class Specimen:
    """A feature function and how it sees the future; None: it does not."""

    function: Callable[[pd.DataFrame], object]
    way: str | None

    @property
    def name(self) -> str:
        """Name of the function."""
        return self.function.__name__


def leak(way: str | None = LATER_BARS) -> Callable[[Callable], Callable]:
    """Add a function to the zoo, and let the name in this module return a table of one column."""

    def add(function: Callable) -> Callable:
        ZOO.append(Specimen(function, way))
        return wraps(function)(lambda bars: pd.DataFrame({"x": np.asarray(function(bars), float)}, index=bars.index))

    return add


clean = leak(None)


def walk(count: int = 1000, seed: int = 1) -> pd.DataFrame:
    """Return bars of a random walk of 1.5 % a day, every day of the week, because one of the tools fills days up."""
    random = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(random.normal(0.0003, 0.015, count)))
    opened = close * np.exp(random.normal(0, 0.004, count))
    spread = close * np.abs(random.normal(0, 0.005, count))
    low, high = np.minimum(opened, close) - spread, np.maximum(opened, close) + spread
    columns = {"Open": opened, "High": high, "Low": low, "Close": close}
    volume = random.integers(1_000, 9_000, count).astype(float)
    days = pd.date_range("2018-01-01", periods=count, name="Date", unit="s")
    return pd.DataFrame({**columns, "Volume": volume}, index=days)


# What later bars say.


@leak()
def next_return(bars):
    return bars["Close"].shift(-1) / bars["Close"] - 1


@leak()
def next_open(bars):
    return bars["Open"].shift(-1)


@leak()
def next_volume_sign(bars):
    return np.sign(bars["Volume"].shift(-1) - bars["Volume"])


@leak()
def dip(bars):
    """Mark the one day in twenty whose next return is between -5 % and -2.5 %."""
    change = bars["Close"].shift(-1) / bars["Close"] - 1
    return change.between(-0.05, -0.025).astype(float)


@leak()
def quiet_day(bars):
    """Mark the one day in twenty-five before a close that hardly moves."""
    change = bars["Close"].shift(-1) / bars["Close"] - 1
    return (change.abs() < 0.0008).astype(float)


@leak()
def last_quarter(bars):
    """Give the next return in the last part of the history alone."""
    change = bars["Close"].shift(-1) / bars["Close"] - 1
    return change.where(bars.index >= pd.Timestamp("2020-01-01"), 0.0)


@leak()
def future_maximum(bars):
    return bars["Close"][::-1].rolling(5, min_periods=1).max()[::-1] / bars["Close"]


@leak()
def future_drawdown(bars):
    lowest_ahead = bars["Close"][::-1].cummin()[::-1]
    return (lowest_ahead / bars["Close"] - 1 < -0.05).astype(float)


@leak()
def centred_mean(bars):
    return bars["Close"].rolling(5, center=True).mean()


@leak()
def central_difference(bars):
    return np.gradient(bars["Close"].to_numpy())


@leak()
def convolution(bars):
    return np.convolve(bars["Close"].to_numpy(), np.ones(5) / 5, mode="same")


@leak()
def low_pass(bars):
    """Keep the twenty lowest frequencies of the whole history."""
    spectrum = np.fft.rfft(bars["Close"].to_numpy())
    spectrum[20:] = 0
    return np.fft.irfft(spectrum, len(bars))


@leak()
def filter_both_ways(bars):
    forwards = bars["Close"].ewm(span=10).mean()
    return forwards[::-1].ewm(span=10).mean()[::-1]


@leak()
def detrended(bars):
    rows = np.arange(len(bars))
    return bars["Close"].to_numpy() - np.polyval(np.polyfit(rows, bars["Close"], 1), rows)


@leak()
def backward_fill(bars):
    return bars["Close"].where(bars.index.day_of_week == 4).bfill()


@leak()
def interpolation(bars):
    return bars["Close"].where(bars.index.day_of_week == 4).interpolate()


@leak()
def week_close(bars):
    """Give the close of the week on every day of it."""
    return bars["Close"].groupby(bars.index.to_period("W")).transform("last")


@leak()
def week_labelled_left(bars):
    """Resample to weeks that are labelled by their first day, and carry them forward."""
    weeks = bars["Close"].resample("W-MON", label="left", closed="left").last()
    return weeks.reindex(bars.index, method="ffill")


@leak()
def month_average(bars):
    """Merge the averages of months on their days."""
    months = bars["Close"].groupby(bars.index.to_period("M")).mean()
    return bars.index.to_period("M").map(months).to_numpy()


@leak()
def window_closed_right(bars):
    """Take windows of the next three bars, by an indexer that looks forward."""
    ahead = pd.api.indexers.FixedForwardWindowIndexer(window_size=3)
    return bars["High"].rolling(ahead, min_periods=1).max()


@leak()
def nearest_month_end(bars):
    """Join each day with the nearest month end by a merge that may look ahead."""
    ends = bars[["Close"]].groupby(bars.index.to_period("M")).tail(1).rename(columns={"Close": "end"})
    joined = pd.merge_asof(bars[["Close"]], ends, left_index=True, right_index=True, direction="nearest")
    return joined["end"]


@leak()
def full_z_score(bars):
    return (bars["Close"] - bars["Close"].mean()) / bars["Close"].std()


@leak()
def full_scaling(bars):
    low, high = bars["Low"].min(), bars["High"].max()
    return (bars["Close"] - low) / (high - low)


@leak()
def full_quantile(bars):
    return (bars["Volume"] > bars["Volume"].quantile(0.9)).astype(float)


@leak()
def full_rank(bars):
    return bars["Close"].rank(pct=True)


@leak()
def full_regression(bars):
    """Take residuals of a regression that all days were used to fit."""
    slope, level = np.polyfit(np.log(bars["Volume"]), np.log(bars["High"] / bars["Low"]), 1)
    return np.log(bars["High"] / bars["Low"]) - slope * np.log(bars["Volume"]) - level


@leak()
def principal_component(bars):
    """Project on the first component of all days."""
    values = bars[["Open", "High", "Low", "Volume"]].to_numpy()
    scaled = (values - values.mean(axis=0)) / values.std(axis=0)
    return scaled @ np.linalg.svd(scaled, full_matrices=False)[2][0]


@leak()
def target_mean_of_weekday(bars):
    """Encode the weekday by its average next return over all days."""
    change = bars["Close"].shift(-1) / bars["Close"] - 1
    return change.groupby(bars.index.day_of_week).transform("mean")


@leak()
def relative_to_the_last(bars):
    return bars["Close"] / bars["Close"].iloc[-1]


@leak()
def swing_high(bars):
    """Mark tops, which only the bars after them confirm."""
    top = bars["High"]
    return ((top > top.shift(1)) & (top > top.shift(-1)) & (top > top.shift(-2))).astype(float)


@leak()
def month_end_from_next_bar(bars):
    return np.append(bars.index.month[1:] != bars.index.month[:-1], [False]).astype(float)


@leak()
def days_to_next_bar(bars):
    return np.append(np.diff(bars.index.to_numpy()) / np.timedelta64(1, "D"), [0.0])


@leak()
def rows_left(bars):
    return np.arange(len(bars))[::-1].astype(float)


# What earlier calls left behind.

_by_span: dict[tuple, pd.Series] = {}
_longest: list[pd.Series] = []


@leak(MEMORY)
def cache_by_span(bars):
    """Remember a statistic of the whole history by the first day, the last day and the length."""
    key = (bars.index[0], bars.index[-1], len(bars))
    if key not in _by_span:
        _by_span[key] = bars["Close"] / bars["Close"].mean()
    return _by_span[key]


@leak(MEMORY)
def longest_history(bars):
    """Scale by the longest history that was ever given, which the module remembers."""
    if not _longest or len(bars) > len(_longest[0]):
        _longest[:] = [bars["Close"].copy()]
    return bars["Close"] / _longest[0].mean()


# What comes from elsewhere than the bars.


def _tomorrow(table, bars):
    return table["Close"].shift(-1).reindex(bars.index) / bars["Close"] - 1


@leak(OUTSIDE)
def file_read(bars):
    """Look the next close up in a file."""
    table = pd.read_csv(Path(os.environ[FILE]), index_col=0, parse_dates=True)
    return _tomorrow(table, bars)


@leak(OUTSIDE)
def table_held(bars, table=walk()):  # noqa: B008 - the leak
    """Look the next close up in a table that the function holds."""
    return _tomorrow(table, bars)


@leak(WRITTEN)
def dates_in_code(bars):
    """Mark days before falls of 3.5 % and more, which are written into the code."""
    days = "2018-01-24 2018-05-02 2018-07-12 2018-09-29 2019-08-10 2019-08-13 2019-11-20 2019-12-03 2020-03-12"
    return bars.index.isin(pd.to_datetime(days.split())).astype(float)


# What looks back alone, or is known in advance.


@clean
def rolling_deviation(bars):
    return bars["Close"].rolling(20).std()


@clean
def exponential_mean(bars):
    return bars["Close"].ewm(span=30, adjust=False).mean()


@clean
def expanding_quantile(bars):
    return bars["Close"].expanding().quantile(0.9)


@clean
def week_return(bars):
    return bars["Close"] / bars["Close"].shift(5) - 1


@clean
def rolling_z_score(bars):
    window = bars["Close"].rolling(60)
    return (bars["Close"] - window.mean()) / window.std()


@clean
def month_so_far(bars):
    months = bars["Close"].groupby(bars.index.to_period("M"))
    return months.transform(lambda part: part.expanding().mean())


@clean
def last_complete_week(bars):
    """Give the close of the week before."""
    weeks = bars["Close"].groupby(bars.index.to_period("W")).last().shift(1)
    return bars.index.to_period("W").map(weeks).to_numpy()


@clean
def weekday(bars):
    return bars.index.day_of_week.astype(float)


@clean
def last_business_day(bars):
    """Mark the last business day of a month by the calendar, which is known in advance."""
    return ((bars.index + pd.offsets.BDay()).month != bars.index.month).astype(float)


@clean
def drawdown_so_far(bars):
    return bars["Close"] / bars["Close"].cummax() - 1


@clean
def rolling_rank(bars):
    return bars["Volume"].rolling(60).rank(pct=True)


@clean
def rolling_correlation(bars):
    return bars["Close"].pct_change().rolling(30).corr(bars["Volume"].pct_change())


@clean
def forward_fill(bars):
    return bars["Close"].where(bars.index.day_of_week == 4).ffill()


@clean
def hit_rate_so_far(bars):
    """Take a target by shift(-1) and use it when it is known."""
    rose = (bars["Close"].shift(-1) > bars["Close"]).astype(float)
    return rose.shift(1).rolling(20).mean()
