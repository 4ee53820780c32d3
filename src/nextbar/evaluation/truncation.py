"""Compare the features on the bars up to a day with the features on all bars, for many days, byte for byte.

A leak that speaks on few days is found by trying many of them. The whole history comes last, because a cache that has
seen the whole history would answer for its parts.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from time import monotonic

import numpy as np
import pandas as pd

from nextbar.datasets import assemble
from nextbar.errors import FeatureError
from nextbar.evaluation.evidence import Finding, as_frame, digest_table, first_difference
from nextbar.features.spec import FeatureSpec
from nextbar.types import FeatureTable

DRAWN = 200
"""Days that are drawn at random."""
MOVES = 50
"""Days before the largest moves, without sign; and half as many before the largest gains and the largest losses."""
MONTHS = 50
"""Last days of months, drawn at random where there are more."""
LAST = 10
"""Days at the end of the history, but its last bar."""
LEAST = 100
"""Days that must be tried, or all that there are: with fewer the certificate is incomplete."""
CONFIDENCE = 0.99
RESERVE = 5
"""Calls whose time is kept back for what comes after the last cut."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The last row that a call is given, and whether it was drawn at random."""

    row: int
    drawn: bool


@dataclass(frozen=True, kw_only=True)
class Truncation:
    """What leaving bars out showed about one ticker's features.

    Attributes:
        ticker: Its name.
        days: Days that could be tried: those of all samples.
        planned: Days that were to be tried.
        tried: Days that were tried.
        drawn: Of these, how many were drawn at random.
        moved: Days tried whose rows differ from those of the whole history.
        moved_drawn: Of these, how many were drawn at random.
        first: The earliest of them: first day left out, column and row of a value, and how it moved.
        refused: Calls that raised an error, for which a history may be too short; they do not count as tried.
        refusal: The first such error.
        reason: Why days that were planned were not tried; None if all were.
        seconds: How long it took.
        features: Digest of the features on the whole history, computed after the shorter ones.
    """

    ticker: str
    days: int = 0
    planned: int = 0
    tried: int = 0
    drawn: int = 0
    moved: int = 0
    moved_drawn: int = 0
    first: tuple[str, str, str, str] | None = None
    refused: int = 0
    refusal: str | None = None
    reason: str | None = None
    seconds: float = 0.0
    features: str | None = None

    @property
    def complete(self) -> bool:
        """Whether enough days were tried."""
        return self.tried >= min(LEAST, max(self.days, 1))

    @property
    def share(self) -> float | None:
        """Share of days on which a leak must speak to be found with `CONFIDENCE` among the days drawn at random."""
        return 1 - (1 - CONFIDENCE) ** (1 / self.drawn) if self.drawn else None

    @property
    def extent(self) -> str:
        """How much was tried, and what that can find."""
        told = f"{self.tried} of {self.days} days tried"
        if self.share is None:
            return told
        return (
            f"{told}, {self.drawn} of them at random: a leak on {self.share:.1%} of days is found with {CONFIDENCE:.0%}"
        )

    def finding(self, features: str | None = None) -> Finding:
        """For the certificate.

        Args:
            features: Digest of the features in the run, which has not computed shorter ones before.
        """
        cut, column, row, how = self.first or ("", None, None, "")
        if self.first:
            days = f"{self.moved} of {self.tried} days tried show it"
            note = f"{column} in row {row} is {how} when the bars from {cut} on are left out ({days})"
        elif None not in (features, self.features) and features != self.features:
            column = "digest"
            note = (
                "the whole history gives other values after shorter ones than in the run: the function remembers calls"
            )
        else:
            needed = None if self.complete else f"{min(LEAST, self.days or LEAST)} days are needed"
            refused = f"{self.refused} calls refused, the first: {self.refusal}" if self.refused else None
            note = "; ".join(filter(None, (self.extent, needed, self.reason, refused)))
        return Finding(
            part="truncation",
            stage="features",
            ticker=self.ticker,
            rows=self.tried,
            border=cut,
            way="bars left out",
            column=column,
            row=row,
            incomplete=not self.complete,
            note=note,
        )


def choose_cuts(frame: pd.DataFrame, warmup: int) -> list[Cut]:
    """The days to try, in the order in which they are tried.

    Days drawn at random and chosen days take turns, each in random order: what the time allows for is a fair sample.
    """
    days = np.arange(warmup, len(frame) - 1)
    close, months = frame["Close"].to_numpy(np.float64), frame.index.to_numpy().astype("datetime64[M]")
    move = close[days + 1] / close[days] - 1
    rise, size = np.argsort(move), np.argsort(-np.abs(move))
    random = np.random.default_rng(zlib.crc32(frame.to_numpy(np.float64).tobytes()))
    ends = random.permutation(days[months[days] != months[days + 1]])[:MONTHS]
    groups = [days[size[:MOVES]], days[rise[: MOVES // 2]], days[rise[-MOVES // 2 :]], days[-LAST:], ends]
    drawn = random.permutation(days)[:DRAWN]
    other = random.permutation(np.setdiff1d(np.concatenate(groups), drawn))
    turns = zip_longest(
        (Cut(row=int(row), drawn=True) for row in drawn), (Cut(row=int(row), drawn=False) for row in other)
    )
    return [cut for turn in turns for cut in turn if cut is not None]


def truncate(
    ticker: str, frame: pd.DataFrame, spec: FeatureSpec, max_gap_days: int, *, cuts: Sequence[Cut], seconds: float
) -> tuple[Truncation, FeatureTable]:
    """Features on the bars up to each cut, then on all bars, and what moved between them; also the latter.

    Args:
        ticker: Name of the ticker.
        frame: Its bars.
        spec: Its features.
        max_gap_days: As in the configuration.
        cuts: What to try, in this order.
        seconds: No new cut is tried later than this.

    Raises:
        FeatureError: The function refuses the whole history.
    """
    began, longest = monotonic(), 0.0
    tried, refusals, reason = list[tuple[Cut, pd.DataFrame]](), list[str](), None
    for cut in cuts:
        start = monotonic()
        if start - began + RESERVE * longest > seconds:
            reason = f"stopped after {seconds:g} s; raise --certify-seconds"
            break
        try:
            table = assemble.build_table(ticker, frame.iloc[: cut.row + 1], spec, max_gap_days)
            tried.append((cut, as_frame(table)))
        except FeatureError as error:
            refusals.append(str(error))
        longest = max(longest, monotonic() - start)
    table = assemble.build_table(ticker, frame, spec, max_gap_days)
    whole = as_frame(table)
    moved = [(cut, part) for cut, part in tried if not same_rows(part, whole)]
    result = Truncation(
        ticker=ticker,
        days=max(len(frame) - 1 - spec.warmup, 0),
        planned=len(cuts),
        tried=len(tried),
        drawn=sum(cut.drawn for cut, _ in tried),
        moved=len(moved),
        moved_drawn=sum(cut.drawn for cut, _ in moved),
        first=_first_moved(moved, whole) if moved else None,
        refused=len(refusals),
        refusal=next(iter(refusals), None),
        reason=reason,
        seconds=round(monotonic() - began, 3),
        features=digest_table(whole),
    )
    return result, table


def same_rows(part: pd.DataFrame, whole: pd.DataFrame) -> bool:
    """Whether the whole begins with the part, to the bit; one NaN is like another."""
    mine, theirs = (np.where(np.isnan(values), np.nan, values) for values in (part.to_numpy(), whole.to_numpy()))
    return part.columns.equals(whole.columns) and mine.tobytes() == theirs[: len(mine)].tobytes()


def _first_moved(moved: Sequence[tuple[Cut, pd.DataFrame]], whole: pd.DataFrame) -> tuple[str, str, str, str]:
    """Of the earliest cut whose rows moved: the day after it, column and row of the first value, and how it moved."""
    cut, part = min(moved, key=lambda item: item[0].row)
    column, row = first_difference(part, whole.head(len(part))) or ("rows", "")
    values = [str(table[column].get(row, "absent")) if column in table else "absent" for table in (part, whole)]
    return str(whole.index[cut.row + 1].date()), column, row, " instead of ".join(values)
