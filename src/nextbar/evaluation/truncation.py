"""Compare the features on the bars up to a day with the features on all bars, for many days, byte for byte.

Many days are tried because a leak may show on few. The whole history comes last, because a cache that has seen it would
answer for its parts.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from time import monotonic
from typing import NamedTuple

import numpy as np
import pandas as pd

from nextbar.datasets import samples
from nextbar.errors import FeatureError
from nextbar.evaluation.stages import Finding, as_frame, digest_table, first_difference
from nextbar.features.spec import PANEL, FeatureSpec, panel_columns
from nextbar.features.spec import Source as Function
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
ALL_TICKERS = "all tickers"
"""Stands for a ticker where features over all of them are tried."""
RESERVE = 5
"""Calls whose time is kept back for what comes after the last cut."""


class Cut(NamedTuple):
    """The last row that a call is given, and whether it was drawn at random."""

    row: int
    drawn: bool


@dataclass(frozen=True, kw_only=True)
class Source:
    """Bars of one ticker, and how features are made from them."""

    ticker: str
    frame: pd.DataFrame
    spec: FeatureSpec
    max_gap_days: int

    def table(self, frame: pd.DataFrame | None = None) -> FeatureTable:
        """Return the features on other bars; without any, on all bars."""
        return samples.build_table(self.ticker, self.frame if frame is None else frame, self.spec, self.max_gap_days)

    @property
    def functions(self) -> Sequence[Function]:
        """The user's functions."""
        return self.spec.functions

    def evidence(self, last: int | None = None) -> pd.DataFrame:
        """Return the features by day and column on the bars up to a row of the frame; without one, on all."""
        return as_frame(self.table(None if last is None else self.frame.iloc[: last + 1]))


@dataclass(frozen=True, kw_only=True)
class PanelSource(Source):
    """Bars of all tickers, and how features over all of them are made.

    Attributes:
        frame: Their days together, with a close that moves by the mean of their returns.
        frames: Ticker → bars.
    """

    frames: Mapping[str, pd.DataFrame]

    @classmethod
    def of(cls, spec: FeatureSpec, frames: Mapping[str, pd.DataFrame]) -> PanelSource:
        """Make the source of a run's tickers."""
        returns = pd.concat({name: frame["Close"].pct_change() for name, frame in frames.items()}, axis=1).sort_index()
        close = (1 + returns.mean(axis=1).fillna(0)).cumprod()
        return cls(ticker=ALL_TICKERS, frame=pd.DataFrame({"Close": close}), spec=spec, max_gap_days=1, frames=frames)

    @property
    def functions(self) -> Sequence[Function]:
        """The user's functions."""
        return self.spec.panel

    def evidence(self, last: int | None = None) -> pd.DataFrame:
        """Return the columns of every ticker beside each other, by day; see `Source.evidence`."""
        days = self.frame.index if last is None else self.frame.index[: last + 1]
        known = {name: part for name, frame in self.frames.items() if len(part := frame.loc[: days[-1]])}
        return self.beside(panel_columns(self.spec.panel, known), days)

    def beside(self, columns: Mapping[str, pd.DataFrame], days: pd.Index) -> pd.DataFrame:
        """Put the columns of every ticker beside each other; NaN where a ticker has no bar."""
        names = list(next(iter(columns.values())).columns)
        whole = np.full((len(days), len(self.frames), len(names)), np.nan)
        for place, ticker in enumerate(self.frames):
            if ticker in columns:
                whole[days.get_indexer(columns[ticker].index), place] = columns[ticker].to_numpy()
        labels = [f"{name.removeprefix(PANEL)} of {ticker}" for ticker in self.frames for name in names]
        return pd.DataFrame(whole.reshape(len(days), -1), index=days, columns=labels)


@dataclass(frozen=True, kw_only=True)
class Truncation:
    """What leaving bars out showed about one ticker's features.

    Attributes:
        days: Days that could be tried: those of all samples.
        planned: Days that were to be tried.
        drawn: Of the days tried, how many were drawn at random.
        moved: Days tried whose rows differ from those of the whole history.
        moved_drawn: Of these, how many were drawn at random.
        first: The earliest of them: first day left out, column and row of a value, and how it moved.
        refused: Calls that raised an error, for which a history may be too short; they do not count as tried.
        refusal: The first such error.
        reason: Why days that were planned were not tried; None if all were.
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
    def share(self) -> float | None:
        """Share of days that a leak must show on to be found with `CONFIDENCE` on the days drawn at random."""
        return 1 - (1 - CONFIDENCE) ** (1 / self.drawn) if self.drawn else None

    @property
    def extent(self) -> str:
        """How much was tried, and what that can find."""
        random = ""
        if self.share is not None:
            found = f"a leak that touches {100 * self.share:.1f} % of the days or more"
            cases = f"is found in {100 * CONFIDENCE:.0f} of 100 cases, a rarer one may be missed"
            random = f", {self.drawn} of them at random: {found} {cases}"
        return f"{self.tried:,} of {self.days:,} days tried without the bars after them{random}"

    def finding(self, features: str | None = None) -> Finding:
        """Return the finding; ``features`` is their digest in the run, which has not computed shorter ones before."""
        cut, column, row, how = self.first or ("", None, None, "")
        incomplete = self.tried < min(LEAST, max(self.days, 1))
        if self.first:
            days = f"{self.moved} of {self.tried} days tried show it"
            note = f"{column} in row {row} is {how} when the bars from {cut} on are left out ({days})"
        elif None not in (features, self.features) and features != self.features:
            column = "digest"
            note = (
                "the whole history gives other values after shorter ones than in the run: the function remembers calls"
            )
        else:
            needed = f"{min(LEAST, self.days or LEAST)} days are needed" if incomplete else None
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
            incomplete=incomplete,
            note=note,
        )


def choose_cuts(frame: pd.DataFrame, warmup: int) -> list[Cut]:
    """Return the days to try, in the order in which they are tried.

    Days drawn at random and chosen days alternate, each in random order, so that any part of them is a fair sample.
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
    turns = zip_longest((Cut(int(row), True) for row in drawn), (Cut(int(row), False) for row in other))
    return [cut for turn in turns for cut in turn if cut is not None]


def truncate(source: Source, *, seconds: float, cuts: Sequence[Cut] | None = None) -> Truncation:
    """Compute the features on the bars up to each cut, then on all bars, and say what moved between them.

    After ``seconds`` no new cut is tried. A function that refuses the whole history raises a FeatureError.
    """
    began, longest = monotonic(), 0.0
    cuts = choose_cuts(source.frame, source.spec.warmup) if cuts is None else cuts
    tried, refusals, reason = list[tuple[Cut, pd.DataFrame]](), list[str](), None
    for cut in cuts:
        start = monotonic()
        if start - began + RESERVE * longest > seconds:
            reason = f"stopped after {seconds:g} s; raise --certify-seconds"
            break
        try:
            tried.append((cut, source.evidence(cut.row)))
        except FeatureError as error:
            refusals.append(str(error))
        longest = max(longest, monotonic() - start)
    whole = source.evidence()
    moved = [(cut, part) for cut, part in tried if first_difference(part, whole.head(len(part)))]
    return Truncation(
        ticker=source.ticker,
        days=max(len(source.frame) - 1 - source.spec.warmup, 0),
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


def _first_moved(moved: Sequence[tuple[Cut, pd.DataFrame]], whole: pd.DataFrame) -> tuple[str, str, str, str]:
    """Return, of the earliest cut, the day after it, column and row of the first value, and how it moved."""
    cut, part = min(moved, key=lambda item: item[0].row)
    column, row = first_difference(part, whole.head(len(part))) or ("rows", "")
    values = [str(table[column].get(row, "absent")) if column in table else "absent" for table in (part, whole)]
    return str(whole.index[cut.row + 1].date()), column, row, " instead of ".join(values)
