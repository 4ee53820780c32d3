"""The journal of predictions: written when they are made, read when it is known how they came out.

A small SQLite file of our own: several lines go in together or not at all, two commands may write at once, and a power
cut leaves no half line. Nothing in it is ever changed.
"""

from __future__ import annotations

import datetime as dt
import math
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from platformdirs import user_state_path

from nextbar.errors import OutputError, remark
from nextbar.runs.files import check_target, refuse_special
from nextbar.untrusted import refuse_programs, refusing
from nextbar.words import nearest_file, utc_seconds

ENVIRONMENT = "NEXTBAR_JOURNAL"
OPENS = dt.time(13, 30)
"""When the market of the next bar opens, UTC, unless the user says otherwise."""
_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One prediction.

    Attributes:
        made: When it was made, UTC, ISO 8601 to the second.
        date: Day of the bar it was made from; it is about the next bar.
        kind: Kind of model.
        model: Stem of the artifact's files.
        model_sha256: Digest of the artifact.
        close: Quoted close of ``date``.
        probability: Of a rise; None for a model that predicts a price.
        predicted_close: In quoted prices of ``date``; None for a model that predicts a probability.
        threshold: Probability from which the class is 1.
        predicted_class: 1 for a rise, else 0.
        signal: Position to take: 1 long, 0 flat.
        majority: Class that was the more frequent in train.
        raw: Whether the model works on quoted prices as they are.
    """

    made: str
    ticker: str
    date: str
    kind: str
    model: str
    model_sha256: str
    model_made: str
    close: float
    probability: float | None
    predicted_close: float | None
    threshold: float | None
    predicted_class: int
    signal: int
    majority: int
    raw: bool

    @property
    def subject(self) -> tuple[str, str, str]:
        """What it is about, of which the first prediction counts: kind of model, ticker and day."""
        return self.kind, self.ticker, self.date


_COLUMNS = ", ".join(item.name for item in fields(Entry))
_PLACES = ", ".join(f":{item.name}" for item in fields(Entry))


def opening(day: np.datetime64, opens: dt.time = OPENS) -> dt.datetime:
    """Return when the market of a bar opens: a prediction of it that is not made before does not count."""
    return dt.datetime.combine(day.astype(object), opens, tzinfo=dt.UTC)


def journal_path(chosen: Path | None) -> Path:
    """Return the file: as chosen, else as ``NEXTBAR_JOURNAL`` says, else in the user's state folder."""
    if chosen is None and (named := os.environ.get(ENVIRONMENT)):
        return Path(named)
    return chosen or user_state_path("nextbar", appauthor=False) / "journal.db"


def check_copy(path: Path | None, journal: Path, option: str) -> None:
    """Refuse a file for what stands in a journal if it cannot be written, or is the journal, before it is needed."""
    check_target(path, option)
    if path is not None and path.resolve() == journal.resolve():
        raise OutputError(f"{option} {path}: it is the journal, which must not be overwritten; name another file")


def append(path: Path, entries: Sequence[Entry]) -> None:
    """Add predictions, all or none; they are on the disk when this returns. A remark says that a journal begins."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path.parent}: cannot be made ({error.strerror}); choose another --journal") from error
    new = not path.exists()
    with _opened(path) as journal:
        journal.executemany(f"INSERT INTO predictions ({_COLUMNS}) VALUES ({_PLACES})", map(asdict, entries))  # noqa: S608
    if new:
        remark(f"a new journal of predictions begins: {path}")


def noted(path: Path, entries: Iterable[Entry]) -> dict[tuple[str, str, str], tuple[str, str]]:
    """Give of each subject of these predictions when it was noted first, and the model; none that is not noted."""
    days = sorted({entry.date for entry in entries})
    if not path.exists() or not days:
        return {}
    with _opened(path) as journal:
        query = f"SELECT * FROM predictions WHERE date IN ({', '.join('?' * len(days))}) ORDER BY rowid DESC"  # noqa: S608
        rows = journal.execute(query, days).fetchall()
    return {(row["kind"], row["ticker"], row["date"]): (str(row["made"]), str(row["model"])) for row in rows}


def read(path: Path) -> list[Entry]:
    """Return all predictions in the order in which they were written, which no clock can change."""
    if not path.exists():
        raise OutputError(
            f"{path}: there is no journal of predictions{nearest_file(path)}; check the name, or run nextbar predict "
            "MODEL"
        )
    with _opened(path) as journal:
        rows = journal.execute(f"SELECT {_COLUMNS} FROM predictions ORDER BY rowid").fetchall()  # noqa: S608
    with refusing(f"{path}: a prediction"):
        return [_entry(dict(row)) for row in rows]


def _entry(row: dict[str, Any]) -> Entry:
    """Check a line."""
    found = msgspec.convert({**row, "raw": bool(row["raw"])}, Entry)
    for made in (found.made, found.model_made):
        if dt.datetime.fromisoformat(made).tzinfo is None:
            raise ValueError(f"{made} has no time zone")
    dt.date.fromisoformat(found.date)
    numbers = (found.close, found.probability, found.predicted_close, found.threshold)
    if not all(number is None or math.isfinite(number) for number in numbers):
        raise ValueError("a number is not finite")
    if {found.predicted_class, found.signal, found.majority} - {0, 1}:
        raise ValueError("a class or a signal is neither 0 nor 1")
    return found


def on_proven_times(entries: Sequence[Entry], now: dt.datetime) -> list[Entry]:
    """Give each prediction the earliest time at which it can have been made: its own, and after those before it.

    A clock that was set back cannot make a prediction earlier than one that the journal held already. Times after
    ``now`` come from a clock that was wrong, and say nothing about later lines. All times get one format.
    """
    found, latest = [], dt.datetime.min.replace(tzinfo=dt.UTC)
    for entry in entries:
        made, model_made = map(dt.datetime.fromisoformat, (entry.made, entry.model_made))
        found.append(replace(entry, made=utc_seconds(max(made, latest)), model_made=utc_seconds(model_made)))
        if made <= now:
            latest = max(made, latest)
    return found


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a transaction on the journal; make the journal if there is none."""
    refuse_special(path, "choose another --journal")
    try:
        with closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as journal:
            journal.row_factory = sqlite3.Row
            journal.execute("BEGIN IMMEDIATE")  # from the first look at the file to the last line: one at a time
            _settle(path, journal)
            yield journal
            journal.execute("COMMIT")
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise OutputError(
            f"{path}: the journal cannot be used ({error}); repair it or choose another --journal"
        ) from error


def _settle(path: Path, journal: sqlite3.Connection) -> None:
    """Make the table in a new file; refuse another program's file."""
    refuse_programs(journal)
    version = journal.execute("PRAGMA user_version").fetchone()[0]
    if version == _VERSION:
        return
    if version or journal.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise OutputError(f"{path} is not a journal of this nextbar; choose another --journal")
    journal.execute(f"CREATE TABLE predictions ({_COLUMNS})")
    journal.execute(f"PRAGMA user_version = {_VERSION}")
