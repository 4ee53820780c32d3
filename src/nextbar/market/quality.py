"""Which rows of a source are good bars: rules on whole columns, and one row for each ticker and day."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from nextbar.datasets.prices import LONGEST_TICKER, fits_ticker
from nextbar.errors import BadBarsError
from nextbar.market.schema import KEY, PRICES
from nextbar.types import BoolArray, DateArray, FloatArray, IntArray
from nextbar.words import excerpt, listed, plural

FIRST_DAY: Final = np.datetime64("1800-01-01", "D")
ONE_DAY: Final = np.timedelta64(1, "D")
NEVER: Final = np.datetime64("9999-12-31", "D")
ROUNDING: Final = 1e-3
"""How far open or close may be outside [low, high], relative to the price, because sources round high and low to other
decimals than open and close. In 1.2 million real bars no excess is between 0 and 0.3 %; wrong bars start there."""
FEW: Final = 2
SHARE: Final = 0.05
"""Days with rows that differ are single faults up to so many, or up to that share of a ticker's days."""
DAILY: Final = {"open": "first", "high": "max", "low": "min", "close": "last", "adj_close": "last"}


def parse_days(texts: pd.Series[Any]) -> DateArray:
    """Parse texts ``YYYY-MM-DD``; NaT for every other spelling and for days that do not exist."""
    codes, distinct = pd.factorize(texts, use_na_sentinel=False)
    strict = pd.Series(distinct, dtype="object").astype("str")
    strict = strict.where(strict.str.fullmatch(r"\d{4}-\d{2}-\d{2}"))
    days: DateArray = pd.to_datetime(strict, format="%Y-%m-%d", errors="coerce").to_numpy().astype("datetime64[D]")
    return days[codes]


def find_faults(
    bars: pd.DataFrame, days: DateArray, *, until: np.datetime64 = NEVER, today: np.datetime64 | None = None
) -> npt.NDArray[np.str_]:
    """Find the first rule that each row breaks, "" for a good bar.

    Args:
        bars: [rows] ticker, open, high, low, close and perhaps adj_close, which single rows may lack, and volume.
        days: [rows] NaT where none could be read.
        until: The last day that is over.
        today: The day of the clock; None: it is asked. The day after it is let through, because clocks differ.
    """
    prices = bars[list(PRICES)].to_numpy(dtype=np.float64).T
    adjusted = bars["adj_close"].to_numpy(dtype=np.float64) if "adj_close" in bars else np.full(len(bars), np.nan)
    today = np.datetime64(dt.datetime.now(dt.UTC).date(), "D") if today is None else today
    codes, names = pd.factorize(bars["ticker"])
    fits = np.array([fits_ticker(str(name)) for name in names] + [True])
    rules = {
        "no ticker": (bars["ticker"].isna() | (bars["ticker"] == "")).to_numpy(dtype=bool),
        f"not a ticker: longer than {LONGEST_TICKER}, or with a comma or a control character": ~fits[codes],
        "bad date": np.isnat(days),
        "a day before 1800": days < FIRST_DAY,
        "a day in the future": days > today + ONE_DAY,
        "a day that is not over": (days > until) & (days <= today),
        **price_faults(prices, adjusted),
    }
    if "volume" in bars:
        volume = bars["volume"].to_numpy(dtype=np.float64)
        rules |= {"volume is not a number": np.isinf(volume), "volume < 0": volume < 0}
    return np.select(list(rules.values()), list(rules), default="").astype("<U80")


def price_faults(prices: FloatArray, adj_close: FloatArray) -> dict[str, BoolArray]:
    """Return rule → [rows] whether a bar breaks it; prices [4, rows] are open, high, low, close."""
    open_, high, low, close = prices
    named = dict(zip(PRICES, prices, strict=True))
    with np.errstate(invalid="ignore"):
        return {
            **{f"{name} is not a number": ~np.isfinite(price) for name, price in named.items()},
            "adj_close is not a number": np.isinf(adj_close),
            **{f"{name} <= 0": price <= 0 for name, price in (named | {"adj_close": adj_close}).items()},
            "high < low": high < low,
            "open outside low..high": _outside(open_, low, high),
            "close outside low..high": _outside(close, low, high),
        }


def _outside(price: FloatArray, low: FloatArray, high: FloatArray) -> Any:
    slack = ROUNDING * np.abs(price)
    return (price > high + slack) | (price < low - slack)


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """Bars with a row a day; rows (by position) that were left out for another of the day, and notes."""

    bars: pd.DataFrame
    dropped: Mapping[int, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def one_row_a_day(
    bars: pd.DataFrame, seconds: IntArray, texts: Mapping[str, pd.Series[Any]], origin: str, *, resample: bool
) -> Resolved:
    """Keep one row for each ticker and day; refuse hours and minutes, and rows that differ on many days.

    ``seconds`` is the time of day of each row, and one of ``texts``, the columns of words, may say why days repeat.
    """
    again = bars.duplicated(list(KEY), keep=False).to_numpy()
    if not again.any():
        return Resolved(bars=bars)
    timed = bars[list(KEY)].assign(seconds=seconds)[again]
    times = timed.groupby(list(KEY))["seconds"]
    intraday = timed[times.transform("max") > times.transform("min")]
    if len(intraday) and resample:
        made = _daily(bars, seconds)
        return Resolved(bars=made, notes=(f"resampled: {len(bars):,} rows make {len(made):,} daily bars",))
    if len(intraday):
        raise BadBarsError(f"{origin}: {_intraday(intraday.groupby(list(KEY))['seconds'])}")
    found = choose(bars)
    if many := [str(name) for name in differing(bars, found).index]:
        raise BadBarsError(f"{origin}: {_repeated(bars, many, texts)}")
    return found


def choose(bars: pd.DataFrame) -> Resolved:
    """Drop rows that are alike; of others for one ticker and day keep that with the larger volume, else the later."""
    first = bars.duplicated(list(bars.columns))
    distinct = bars[~first]
    differs = distinct.duplicated(list(KEY), keep=False)
    if not differs.any():
        return Resolved(bars=distinct)
    rivals = distinct[differs].assign(row=np.flatnonzero(~first.to_numpy())[differs.to_numpy()])
    ordered = rivals.fillna({"volume": -1.0}).sort_values([*KEY, "volume", "row"], kind="stable")
    winners = ordered.drop_duplicates(list(KEY), keep="last")
    lost = ordered[~ordered["row"].isin(winners["row"])]
    reason = "another row of this day has a larger volume or comes later"
    dropped = dict.fromkeys(lost["row"].tolist(), reason)
    keep = ~first.to_numpy()
    keep[list(dropped)] = False
    days = [f"{excerpt(t, 20)} {d} (close {c:g})" for t, d, c in winners[[*KEY, "close"]].itertuples(index=False)]
    kept = "the larger volume, else the later, was kept"
    note = f"rows that differ on {plural(len(days), 'day')}: {kept}: {listed(days, 3)}"
    return Resolved(bars=bars[keep], dropped=dropped, notes=(note,))


def differing(bars: pd.DataFrame, found: Resolved, *, common: bool = False) -> pd.Series[Any]:
    """Return ticker → number of days with rows that differ, where `choose` found more than single faults.

    Rows of several files are measured by their ``common`` days, not by all.
    """
    if not found.dropped:
        return pd.Series(dtype="int64")
    lost = bars.iloc[list(found.dropped)].drop_duplicates(list(KEY))["ticker"].value_counts()
    every = bars[bars.duplicated(list(KEY))].drop_duplicates(list(KEY)) if common else found.bars
    days = every["ticker"].value_counts().reindex(lost.index)
    return lost[(lost > FEW) & (lost > SHARE * days)]


def _daily(bars: pd.DataFrame, seconds: IntArray) -> pd.DataFrame:
    """Make daily bars of those of hours or minutes."""
    ordered = bars.assign(seconds=seconds).drop_duplicates().sort_values([*KEY, "seconds"], kind="stable")
    rules = {name: how for name, how in DAILY.items() if name in bars}
    groups = ordered.groupby(list(KEY), sort=False)
    return groups.agg(rules).assign(volume=groups["volume"].sum(min_count=1)).reset_index()[list(bars.columns)]


def _intraday(times: Any) -> str:
    first, last = (f"{second // 3600:02d}:{second // 60 % 60:02d}" for second in (times.min().min(), times.max().max()))
    (ticker, day), rows = next(iter(times.size().items()))
    have = f"{'has' if times.ngroups == 1 else 'have'} up to {times.size().max()} rows each, {first} to {last}"
    return (
        f"{plural(times.ngroups, 'day')} {have} (such as {rows} for {excerpt(ticker, 20)} on {day}): these are not "
        "daily bars; --resample makes daily bars of them"
    )


def _repeated(bars: pd.DataFrame, tickers: list[str], texts: Mapping[str, pd.Series[Any]]) -> str:
    """Explain days that repeat, by the column of words that tells the rows apart, if there is one."""
    own = bars["ticker"].isin(tickers).to_numpy()
    keys = bars[list(KEY)].reset_index(drop=True)
    several = {name: column.to_numpy() for name, column in texts.items() if (column != column.iloc[0]).any()}
    apart = [name for name, column in several.items() if not keys.assign(text=column)[own].duplicated().any()]
    rows = keys[own & bars.duplicated(list(KEY), keep=False).to_numpy()].iloc[0]
    which = f"{', '.join(excerpt(n, 30) for n in apart)} may tell" if apart else "no column tells them apart"
    return (
        f"dates repeat with other prices, such as {excerpt(rows['ticker'], 20)} on {rows['date']}: several "
        f"securities in one? which column is the ticker ({which})? --ticker-column NAME"
    )
