"""Holdouts in the ledger: the days from which bars were held out, and every run that has read such bars since.

A holdout is looked at once, or its number of looks is stated. So each opening is kept, with the run, the days and the
time, and so is each run that has read held-out bars without saying so, before they were held out or since.
"""

from __future__ import annotations

import datetime as dt
import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TypeAlias, TypeVar

import msgspec

from nextbar.models.reproducibility import digest_text
from nextbar.runs.document import Document
from nextbar.types import JsonDict
from nextbar.words import listed, plural, utc_minute

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS holdouts (
    start TEXT NOT NULL, tickers TEXT NOT NULL, declared TEXT NOT NULL, PRIMARY KEY (start, tickers))""",
    """CREATE TABLE IF NOT EXISTS openings (
    id TEXT PRIMARY KEY, run TEXT NOT NULL, way TEXT NOT NULL, tickers TEXT NOT NULL, start TEXT NOT NULL,
    last TEXT NOT NULL, opened TEXT NOT NULL)""",
)
Record = TypeVar("Record")
OPENED, READ = "opened", "read"
"""Ways of an opening: by `nextbar holdout open`, or by a run that read the bars without holding them out."""
_EARLIER = """SELECT identity, variant, kind, model, recorded, tickers, last FROM trials
    WHERE last >= ? ORDER BY rowid"""
_EARLIER_TYPES: TypeAlias = tuple[str, int, str, str, str, str, str]
_ENTER = """INSERT INTO openings VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET start = min(start, excluded.start)"""  # a holdout may begin earlier by now


@dataclass(frozen=True, kw_only=True)
class Holdout:
    """Bars that are held out: from which day on, of which tickers, and when that was recorded, UTC."""

    start: str
    tickers: tuple[str, ...]
    declared: str


@dataclass(frozen=True, kw_only=True)
class Opening:
    """One look at held-out bars.

    Attributes:
        id: Which look it is: one that is shown or recorded again stays one.
        run: Name of the run that was scored, or that read the bars.
        way: `OPENED` or `READ`.
        tickers: Those that were held out, sorted.
        start: First held-out day.
        last: Last day that was read.
        opened: When it was recorded, UTC.
    """

    id: str
    run: str
    way: str
    tickers: tuple[str, ...]
    start: str
    last: str
    opened: str = ""

    def overlaps(self, other: Opening) -> bool:
        """Whether both have looked at the same days of a ticker."""
        together = bool(set(self.tickers) & set(other.tickers))
        return together and self.start <= other.last and other.start <= self.last

    @property
    def shown_run(self) -> str:
        """How tables call the run."""
        what, _, made = self.run.rpartition(" of ")
        return self.run if self.way == OPENED else f"{what} of {utc_minute(made)}"


@dataclass(frozen=True, kw_only=True)
class Holdouts:
    """What a ledger knows about holdouts, each part in the order in which it was recorded."""

    declared: Sequence[Holdout] = ()
    openings: Sequence[Opening] = ()

    def to_json(self) -> JsonDict:
        """Return both lists; each holdout has its number of openings."""
        declared = [{**asdict(one), "opened": self.count(one)} for one in self.declared]
        return {"holdouts": declared, "openings": [asdict(one) for one in self.openings]}

    def count(self, holdout: Holdout) -> int:
        """Return how often bars of a holdout were looked at."""
        tickers = set(holdout.tickers)
        return sum(one.last >= holdout.start and not tickers.isdisjoint(one.tickers) for one in self.openings)


def opening_of(document: Document, *, name: str) -> Opening | None:
    """Return the opening that an opened run is, with a name of the run that was opened; None for any other run."""
    if (holdout := document.holdout) is None:
        return None
    return Opening(
        id=holdout.id,
        run=name,
        way=OPENED,
        tickers=tuple(sorted(document.tickers)),
        start=holdout.start,
        last=max(document.data[ticker].last for ticker in document.tickers),
    )


def count_openings(openings: Iterable[Opening], own: Opening) -> int:
    """Return how often the days of an opening were looked at, itself included."""
    return len({own.id, *(one.id for one in openings if one.overlaps(own))})


def tell_read(openings: Sequence[Opening]) -> list[str]:
    """Say in one sentence that runs have read bars that were held out; nothing where none has."""
    if not openings:
        return []
    start, tickers = min(one.start for one in openings), sorted({name for one in openings for name in one.tickers})
    held = f"bars of {listed(tickers)} were held out from {start} on, and {plural(len(openings), 'run')} read them"
    counted = "recorded as an opening" if len(openings) == 1 else "recorded as an opening each"
    return [f"{held}: {counted}; see: nextbar holdout list"]


def read_holdouts(connection: sqlite3.Connection) -> Holdouts:
    """Return all holdouts and openings."""
    declared = connection.execute("SELECT start, tickers, declared FROM holdouts ORDER BY declared, rowid")
    openings = connection.execute(
        "SELECT id, run, way, tickers, start, last, opened FROM openings ORDER BY opened, rowid"
    )
    return Holdouts(declared=_records(declared, Holdout), openings=_records(openings, Opening))


def enter_run(
    connection: sqlite3.Connection, document: Document, *, scored: str, series: str, trial: str = ""
) -> list[Opening]:
    """Record what a run does to holdouts: it declares one, opens one, or reads bars of one.

    Args:
        connection: In a transaction.
        document: Document of the run.
        scored: Last day that it was scored on.
        series: Digest of what it earned: tells runs of the same second apart.
        trial: Id of the trial that it is: a run that is shown again is no second look.

    Returns:
        The opening that the run is by reading bars that were held out, unless it was asked to; and of a holdout that
        it is the first to declare, the trials that had been scored on these days before.
    """
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    if (opening := opening_of(document, name=document.holdout.run if document.holdout else "")) is not None:
        _insert(connection, replace(opening, opened=now))
        return []
    found, before = list[Opening](), read_holdouts(connection)
    if (start := document.config.get("holdout_from")) is not None:
        row = (start, json.dumps(sorted(document.tickers)), now)
        if connection.execute("INSERT OR IGNORE INTO holdouts VALUES (?, ?, ?)", row).rowcount:
            holdout = Holdout(start=start, tickers=tuple(document.tickers), declared=now)
            found += _scored_before(connection, holdout, before.declared)
    opening = _read_by(document, read_holdouts(connection).declared, scored, series)
    if opening is not None and not any(one.id == trial and one.last >= scored for one in before.openings):
        found.append(replace(opening, opened=now))
    for one in found:
        _insert(connection, one)
    return found


def _scored_before(connection: sqlite3.Connection, holdout: Holdout, others: Sequence[Holdout]) -> list[Opening]:
    """Return the trials that were scored on days of a holdout before it was declared, each as an opening.

    A trial that was recorded while an earlier holdout held these days out is an opening of that one already.
    """
    found, rows = [], connection.execute(_EARLIER, [holdout.start]).fetchall()
    for identity, variant, kind, model, recorded, text, last in msgspec.convert(rows, list[_EARLIER_TYPES]):
        tickers = msgspec.convert(json.loads(text), tuple[str, ...])
        known = any(
            one.declared <= recorded and one.start <= last and not set(one.tickers).isdisjoint(tickers)
            for one in others
        )
        if known or set(holdout.tickers).isdisjoint(tickers):
            continue
        found.append(
            Opening(
                id=digest_text(json.dumps([identity, tickers, variant]))[:16],
                run=f"{kind} {model} of {recorded}",
                way=READ,
                tickers=tickers,
                start=holdout.start,
                last=last,
                opened=holdout.declared,
            )
        )
    return found


def _read_by(document: Document, declared: Sequence[Holdout], scored: str, series: str) -> Opening | None:
    """Return the opening that a run is which has read held-out bars; None where it has read none.

    Bars that its columns over all tickers were made from are read, too. Judged signals have looked at
    the days that they were scored on alone.
    """
    last = {ticker: coverage.last for ticker, coverage in document.coverage.items()}
    if document.kind == "signals":
        last = {ticker: min(day, scored) for ticker, day in last.items()}
    read = {
        ticker: holdout.start
        for holdout in sorted(declared, key=lambda one: one.start, reverse=True)
        for ticker in holdout.tickers
        if ticker in last and last[ticker] >= holdout.start
    }
    if not read:
        return None
    about = [document.kind, document.model, document.created, document.config, sorted(document.tickers), series]
    return Opening(
        id=digest_text(json.dumps(about, sort_keys=True))[:16],
        run=f"{document.kind} {document.model} of {document.created}",
        way=READ,
        tickers=tuple(sorted(read)),
        start=min(read.values()),
        last=max(last[ticker] for ticker in read),
    )


def _insert(connection: sqlite3.Connection, one: Opening) -> None:
    row = (one.id, one.run, one.way, json.dumps(one.tickers), one.start, one.last, one.opened)
    connection.execute(_ENTER, row)


def _records(rows: sqlite3.Cursor, record: type[Record]) -> list[Record]:
    """Read rows as records of texts, the tickers among them as JSON; a file that is damaged may hold anything."""
    names = [column for column, *_ in rows.description]
    plain = [dict(zip(names, row, strict=True)) for row in rows]
    return [msgspec.convert({**one, "tickers": json.loads(one["tickers"])}, record) for one in plain]
