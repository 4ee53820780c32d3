"""One row for each ticker and day: bars of the day's hours are no daily bars, and of two rows one is chosen aloud."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pandas as pd

from nextbar.errors import BadBarsError
from nextbar.market.schema import KEY
from nextbar.types import IntArray
from nextbar.words import excerpt, listed, plural

FEW: Final = 2
SHARE: Final = 0.05
"""Days with rows that differ are single faults up to so many, or up to that share of a ticker's days."""
DAILY: Final = {
    "open": "first", "high": "max", "low": "min", "close": "last", "adj_close": "last", "volume": "sum",
}  # fmt: skip


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

    Args:
        bars: [rows] good bars, in the order of the source.
        seconds: [rows] time of day.
        texts: Columns of words, of which one may say why days repeat.
        origin: The source as messages call it.
        resample: Make daily bars of those of hours or minutes.
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
    made = groups.agg(rules).reset_index()
    made["volume"] = groups["volume"].sum(min_count=1).to_numpy()
    return made[list(bars.columns)]


def _intraday(times: Any) -> str:
    clock = [f"{second // 3600:02d}:{second // 60 % 60:02d}" for second in (times.min().min(), times.max().max())]
    (ticker, day), rows = next(iter(times.size().items()))
    have = "has" if times.ngroups == 1 else "have"
    return (
        f"{plural(times.ngroups, 'day')} {have} up to {times.size().max()} rows each, {clock[0]} to {clock[1]} "
        f"(such as {rows} for {excerpt(ticker, 20)} on {day}): these are not daily bars; --resample makes daily bars "
        "of them"
    )


def _repeated(bars: pd.DataFrame, tickers: list[str], texts: Mapping[str, pd.Series[Any]]) -> str:
    """Explain days that repeat, by the column of words that tells the rows apart, if there is one."""
    own = bars["ticker"].isin(tickers).to_numpy()
    keys = bars[list(KEY)].reset_index(drop=True)
    apart = [
        name
        for name, column in texts.items()
        if (column != column.iloc[0]).any() and not keys.assign(text=column.to_numpy())[own].duplicated().any()
    ]
    rows = keys[own & bars.duplicated(list(KEY), keep=False).to_numpy()].iloc[0]
    which = f"{', '.join(excerpt(n, 30) for n in apart)} may tell" if apart else "no column tells them apart"
    return (
        f"dates repeat with other prices, such as {excerpt(rows['ticker'], 20)} on {rows['date']}: several "
        f"securities in one? which column is the ticker ({which})? --ticker-column NAME"
    )
