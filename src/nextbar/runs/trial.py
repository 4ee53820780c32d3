"""A trial: a configuration on a set of tickers, with what the portfolio earned day by day.

Other returns on the same days come from something else that changed (the user's code, the bars, a library), and are
another trial, and so are other returns of the tickers themselves: another series of the same symbol.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from nextbar.config import TrainConfig, WalkForwardConfig
from nextbar.evaluation.series import Book
from nextbar.models.reproducibility import digest_text
from nextbar.runs.document import Document
from nextbar.runs.labels import Described, identity_options, labels
from nextbar.types import BoolArray, JsonDict

TOLERANCE = 1e-6
"""Returns that differ by no more are the same: they are stored as float32."""
LARGEST = 1e6
"""Largest daily return, without sign, of a series that is recorded."""
SERIES = ("net", "excess")
MARKET = "market"
"""Daily mean return of the tickers: tells two series of the same symbol apart, whatever was earned on them."""
MARKET_TOLERANCE, MARKET_SHARE = 1e-4, 0.9
"""Series are the same where so large a share of their common days differs by no more: single bars are corrected."""
_WITH_MARKET = np.int32(-(2**31))
"""Stands before the days of a trial that holds the third series."""
_MOST_BYTES = 64 * 2**20
"""Largest unpacked trial: more than a million days."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One configuration on one set of tickers, and what the portfolio earned.

    Attributes:
        kind: ``train`` or ``walkforward``.
        tickers: Sorted; the portfolio holds 1/n of each.
        returns: Daily series after costs: columns ``net`` and ``excess`` (over a constant position of equal exposure),
            and ``market`` where it is known; index the scored days.
        identity: Digest of what makes the configuration another one: made of the options, see `identify`.
        variant: 1, or more for the same configuration and tickers with other returns on the same days.
        recorded: When days were added to it last, UTC.
    """

    kind: str
    model: str
    config: JsonDict
    tickers: tuple[str, ...]
    returns: pd.DataFrame
    identity: str
    variant: int = 1
    recorded: str = ""

    @property
    def id(self) -> str:
        """Return the digest of identity, tickers and variant."""
        return digest_text(json.dumps([self.identity, self.tickers, self.variant]))[:16]

    @property
    def described(self) -> Described:
        """Return what it is labelled by beside other trials."""
        return self.model, record_of(self.kind), self.config

    @property
    def options(self) -> JsonDict:
        """Return the options that make the identity."""
        return identity_options(record_of(self.kind), self.config, self.model)

    def to_json(self) -> JsonDict:
        """Return what it was, on which tickers and days."""
        plain = ("id", "identity", "variant", "kind", "model", "recorded", "options", "config")
        first, last = span_of(self.returns)
        days = {"tickers": list(self.tickers), "first": first, "last": last, "days": len(self.returns)}
        return {**{name: getattr(self, name) for name in plain}, **days}


def labelled(trials: Sequence[Trial]) -> list[JsonDict]:
    """Return each trial with its label among these: its name, else its model and the options that differ."""
    named = labels([trial.described for trial in trials])
    return [{"label": label, **trial.to_json()} for label, trial in zip(named, trials, strict=True)]


def identify(kind: str, model: str, config: Mapping[str, Any]) -> str:
    """Return the digest of a configuration: kind of run, model, and the options that are not at their default.

    New bars, another folder or another number of processes do not make another one; another seed does.
    """
    options = identity_options(record_of(kind), config, model)
    return digest_text(json.dumps([kind, model, options], sort_keys=True))[:16]


def trial_of(book: Book, document: Document) -> Trial:
    """Return the trial that a run is; an opened run is one of its own configuration, on other days."""
    kind, config, model = document.recipe, document.config, document.model
    settled = _settled(book, config["max_gap_days"])
    market = np.where(np.isfinite(book.returns), book.returns, 0).sum(axis=1) / len(book.tickers)
    columns = {"net": book.model.net[settled], "excess": book.edge[settled], MARKET: market[settled]}
    days = pd.DatetimeIndex(book.dates[settled].astype("datetime64[s]"), name="date")
    return Trial(
        kind=kind,
        model=model,
        config=config,
        tickers=book.tickers,
        returns=pd.DataFrame(columns, index=days),
        identity=identify(kind, model, config),
    )


def common_days(one: pd.DataFrame, other: pd.DataFrame) -> pd.Index:
    """Return the days that two series have both."""
    return one.index.intersection(other.index)


def is_same(one: Trial, other: Trial) -> bool:
    """Return whether two trials count once."""
    return (one.identity, one.tickers) == (other.identity, other.tickers) and _same_returns(one.returns, other.returns)


def _same_returns(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Return whether two trials earn the same on their common days, on the same series of their tickers.

    Trials without a common day are the same only where the series of one is not known: version 0.1.0 kept none.
    """
    days = common_days(one, other)
    if not np.allclose(one.loc[days, "net"], other.loc[days, "net"], rtol=TOLERANCE, atol=TOLERANCE):
        return False
    if MARKET not in one or MARKET not in other:
        return True
    moved = (one.loc[days, MARKET] - other.loc[days, MARKET]).abs().dropna()
    if moved.empty:
        return len(days) > 0
    return bool((moved <= MARKET_TOLERANCE).mean() >= MARKET_SHARE)


def record_of(kind: str) -> type[TrainConfig] | type[WalkForwardConfig]:
    """Return the record that declares the options of a kind of run."""
    return WalkForwardConfig if kind == "walkforward" else TrainConfig


def span_of(frame: pd.DataFrame) -> tuple[str, str]:
    """Return the first and the last day of a series."""
    return str(frame.index[0].date()), str(frame.index[-1].date())


def encode(frame: pd.DataFrame) -> bytes:
    """Return the days since 1970 as int32, then the columns as float32; a mark before them where there are three."""
    days = frame.index.to_numpy().astype("datetime64[D]").astype(np.int32)
    names, mark = ([*SERIES, MARKET], _WITH_MARKET.tobytes()) if MARKET in frame else ([*SERIES], b"")
    return zlib.compress(mark + days.tobytes() + frame[names].to_numpy(np.float32).T.tobytes())


def decode(content: bytes) -> pd.DataFrame:
    """Read what `encode` wrote."""
    unpacker = zlib.decompressobj()
    numbers = np.frombuffer(unpacker.decompress(content, _MOST_BYTES), dtype=np.int32)
    if not unpacker.eof or not numbers.size:
        raise ValueError("a trial is cut off, or has no day")
    names = [*SERIES, MARKET] if numbers[0] == _WITH_MARKET else [*SERIES]
    days, *columns = numbers[len(names) - len(SERIES) :].reshape(len(names) + 1, -1)
    index = pd.DatetimeIndex(days.astype("datetime64[D]").astype("datetime64[s]"), name="date")
    series = {name: column.view(np.float32) for name, column in zip(names, columns, strict=True)}
    return pd.DataFrame(series, index=index).astype(np.float64)


def _settled(book: Book, max_gap_days: int) -> BoolArray:
    """Return [days] whether later bars cannot change what the day earns.

    Where the bars of a ticker end it is sold, although it may go on when newer bars are there: unless a hole follows,
    its last day, and the days of the others after it, are left for the next run. All days count where that leaves none.
    """
    ended = book.day[np.roll(book.first, -1) & ~book.scored]
    open_until = book.dates[-1] - np.timedelta64(max_gap_days, "D")
    recent = ended[book.dates[ended] >= open_until]
    settled: BoolArray = np.arange(len(book.dates)) < recent.min(initial=len(book.dates))
    return settled if settled.any() else ~settled
