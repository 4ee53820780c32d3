"""Bars from Yahoo: which requests to send, when to send them again, and what an answer means; no network in here."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Final, NamedTuple

import numpy as np
import pandas as pd

from nextbar.errors import BadBarsError
from nextbar.market.sources.reader import SourceBars, source_bars
from nextbar.types import Progress

BATCH: Final = 50
DELAYS: Final = (0, 15, 60, 180)
"""Seconds to wait before each request of a batch: a further one follows when Yahoo limits the rate."""
STEP: Final = 5
"""Seconds after which a wait is reported again."""
LIMITED: Final = ("ratelimit", "rate limit", "too many requests", "429")
QUOTED: Final = ["Open", "High", "Low", "Close"]
FRESH: Final = pd.Timedelta(days=30)
"""How long Yahoo may take to apply a split to the bars before it."""


class Answer(NamedTuple):
    """Result of one download: yfinance's frame, and ticker → why it has no bars, where that is known.

    It has quoted and adjusted closes and split events, in columns (price, ticker) in either order or plain ones.
    """

    frame: pd.DataFrame
    reasons: Mapping[str, str]


Download = Callable[[Sequence[str], dt.date, dt.date], Answer]
"""(tickers, first day, day after the last) → answer. A ticker that fails raises nothing."""


def fetch_yahoo(
    starts: Mapping[str, dt.date],
    last: dt.date,
    download: Download,
    *,
    progress: Progress,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[SourceBars | None, dict[str, str]]:
    """Request bars in batches; while Yahoo limits the rate, wait and try again, then leave the rest out.

    ``starts`` has the first day of each ticker. After ``last``, the last finished day, rows are not complete and are
    left out. Returned are the bars, None if there are none, and ticker → why it has none.
    """
    parts: list[pd.DataFrame] = []
    failed: dict[str, str] = {}
    limited = False

    def wait(seconds: int) -> None:
        for left in range(seconds, 0, -STEP):
            progress.advance(0, note=f"Yahoo limits the rate, asking again in {left} s")
            sleep(STEP)

    progress.start("asking Yahoo", len(starts))
    for start, names in _batches(starts):
        answers = [] if limited else list(_answers(names, start, last, download, wait))
        for name in names:
            try:
                parts.append(_bars(name, answers, last))
            except BadBarsError as error:
                failed[name] = str(error)
        limited = limited or any(_is_limited(failed.get(name, "")) for name in names)
        progress.advance(len(names), note=names[-1])
    progress.finish()
    return source_bars(pd.concat(parts), "Yahoo") if parts else None, failed


def _batches(starts: Mapping[str, dt.date]) -> Iterator[tuple[dt.date, list[str]]]:
    """Group tickers that need the same days, BATCH at a time."""
    ordered = sorted(starts, key=lambda name: (starts[name], name))
    for start, group in groupby(ordered, key=lambda name: starts[name]):
        names = list(group)
        yield from ((start, names[i : i + BATCH]) for i in range(0, len(names), BATCH))


def _answers(
    names: Sequence[str], start: dt.date, last: dt.date, download: Download, wait: Callable[[int], None]
) -> Iterator[Answer]:
    """Yield the answers to one batch; the second and later ones are for the tickers that the limit cut off."""
    # The days after the last one hold splits whose factor is already in the bars before them.
    end = last + dt.timedelta(days=7)
    for delay in DELAYS:
        wait(delay)
        answer = download(names, start, end)
        yield answer
        names = [name for name in names if _is_limited(answer.reasons.get(name, ""))]
        if not names:
            return


def _is_limited(reason: str) -> bool:
    return any(word in reason.lower() for word in LIMITED)


def _bars(name: str, answers: Sequence[Answer], last: dt.date) -> pd.DataFrame:
    """Return the ticker's complete bars, as they were quoted on their day, or say why there are none."""
    if not answers:
        raise BadBarsError("not asked for: too many requests for Yahoo; run again later")
    frame = next((part for answer in answers if len(part := _of_ticker(answer.frame, name))), pd.DataFrame())
    if frame.empty:
        unknown = "Yahoo has no bars of it in this time: a wrong symbol, delisted or suspended"
        raise BadBarsError(answers[-1].reasons.get(name, unknown))
    if "Adj Close" not in frame:
        raise BadBarsError("no column Adj Close: Close is adjusted already (auto_adjust), the quoted one is not known")
    frame = frame.set_index(_days(pd.DatetimeIndex(frame.index)))
    ratio = frame.get("Stock Splits", pd.Series(1.0, index=frame.index)).astype("float64")  # new shares for one old
    ratio = ratio.where(ratio > 0, 1.0)
    _refuse_late_split(frame, ratio)
    # Yahoo's prices and volumes contain later splits, and nextbar stores what was quoted.
    later = ratio[::-1].cumprod()[::-1].shift(-1, fill_value=1.0)
    frame = frame.assign(Volume=(frame["Volume"] / later).round(), **{name: frame[name] * later for name in QUOTED})
    frame = frame.dropna(how="all", subset=QUOTED)
    frame = frame[frame.index <= pd.Timestamp(last)]
    if frame.empty:
        raise BadBarsError(f"Yahoo has no complete bar of it up to {last}")
    return frame[[*QUOTED, "Adj Close", "Volume"]].rename_axis("Date").reset_index().assign(ticker=name)


def _of_ticker(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """Select the columns of a ticker, in either order of levels; empty where it has no price."""
    if frame.columns.nlevels > 1:
        level = 1 if "Close" in frame.columns.get_level_values(0) else 0
        known = name in frame.columns.get_level_values(level)
        frame = pd.DataFrame(frame.xs(name, axis=1, level=level)) if known else pd.DataFrame()
    quoted = [column for column in QUOTED if column in frame]
    return frame if quoted and frame[quoted].notna().to_numpy().any() else pd.DataFrame()


def _days(index: pd.DatetimeIndex) -> pd.DatetimeIndex:
    """Return the exchange's calendar days, from its own zone or from its midnights (UTC-10 to UTC+13) in UTC."""
    shift = pd.Timedelta(hours=13 if str(index.tz) == "UTC" else 0)
    return (index.tz_localize(None) + shift).floor("D")


def _refuse_late_split(frame: pd.DataFrame, ratio: pd.Series[float]) -> None:
    """Refuse a fresh split that is announced, but not yet in the bars before it: it would be undone twice."""
    moves = frame["Close"].bfill() / frame["Close"].ffill().shift()
    factor, move = np.log(ratio.to_numpy()), np.log(moves.to_numpy())
    fresh = (np.abs(factor) > np.log(1.3)) & (frame.index > frame.index[-1] - FRESH)
    unapplied = fresh & (np.abs(move + factor) < np.abs(move))
    if unapplied.any():
        day = frame.index[unapplied][0]
        listed = f"Yahoo lists a split ({ratio[day]:g} for 1) on {day:%Y-%m-%d}"
        raise BadBarsError(f"{listed} that is not yet in the bars before it; run again in a day or two")
