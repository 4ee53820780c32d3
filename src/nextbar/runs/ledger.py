"""The trial ledger: every configuration and ticker set that was ever scored, with what it earned day by day.

The best of many tries looks good by luck, so all tries are counted, in one SQLite file per user. A trial is a
configuration on a set of tickers; it holds the daily series of that portfolio. Scoring it again adds days to the trial,
not a trial.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import pandas as pd
from platformdirs import user_state_path

from nextbar.errors import ArtifactError, ConfigError, NextbarError, OutputError, remark
from nextbar.models.reproducibility import digest_text
from nextbar.runs.document import Document
from nextbar.runs.files import as_path, refuse_special, try_place
from nextbar.runs.openings import SCHEMA, Holdouts, Opening, enter_run, read_holdouts
from nextbar.runs.run import Run
from nextbar.runs.trial import LARGEST, SERIES, Trial, common_days, decode, encode, identify, is_same, span_of, trial_of
from nextbar.types import JsonDict
from nextbar.untrusted import refuse_programs
from nextbar.words import brief, listed, nearest, nearest_file, plural, without_password

VARIABLE = "NEXTBAR_LEDGER"
WAIT_SECONDS = 60.0
"""Longest wait for another process that writes."""
VERSION = 3
"""Version of the tables; 0.1.0 wrote 0, with a series per ticker."""
SHORTEST_ID = 4
"""Fewer characters name no trial."""
_SCHEMA = """CREATE TABLE IF NOT EXISTS trials (
    identity TEXT NOT NULL, tickers TEXT NOT NULL, variant INTEGER NOT NULL, kind TEXT NOT NULL, model TEXT NOT NULL,
    config TEXT NOT NULL, recorded TEXT NOT NULL, first TEXT NOT NULL, last TEXT NOT NULL, content BLOB NOT NULL,
    PRIMARY KEY (identity, tickers, variant))"""
_MADE = "CREATE TABLE IF NOT EXISTS made (run TEXT PRIMARY KEY)"
"""Runs that were made here and count once somebody looks at them."""
_Tickers = Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
_COLUMNS = "identity, tickers, variant, kind, model, config, recorded, content"


def ledger_path(path: str | Path | None = None) -> Path:
    """Return the ledger's file: as named, else as ``NEXTBAR_LEDGER`` says, else in the user's state folder."""
    if isinstance(path, str) and not path:
        raise ConfigError("ledger expects a path, got an empty text; leave it out or name a file")
    if path is None:
        path = os.environ.get(VARIABLE) or user_state_path("nextbar", appauthor=False) / "ledger.db"
    return as_path(path)


class Ledger:
    """The file; it is made when it is written for the first time, and a file of version 0.1.0 is converted.

    Reading makes no file: the ledger is an empty one until it is written. A remark says that there was none.

    Args:
        path: See `ledger_path`.
        make: Whether it is to be written; else a remark says at once where there is no file.

    Raises:
        OutputError: It cannot be made or opened.
        ArtifactError: It is another kind of file, or a newer nextbar wrote it.
    """

    def __init__(self, path: str | Path | None = None, *, make: bool = True) -> None:
        self.path = ledger_path(path)
        if self.path.exists():
            refuse_special(self.path, "name another with --ledger")
            with self._transaction():
                return  # what is no ledger is refused before any work
        if not make:
            remark(f"there is no trial ledger {self.path}; it counts as empty{nearest_file(self.path)}")
            return
        with self._making():
            try_place(self.path)

    def record(self, trial: Trial) -> Trial:
        """Add a trial, or those days of it that are not there yet; give it as it is counted.

        Looking at an old run again adds nothing. Days that are new come with the latest series, because the exposure
        that ``excess`` compares with is that of all its days.
        """
        return self.record_run(trial)[0]

    def record_run(self, trial: Trial, document: Document | None = None) -> tuple[Trial, list[Opening]]:
        """Add the trial that a run is, and what it does to holdouts, in one transaction; see `enter_run`."""
        values = trial.returns[list(SERIES)].to_numpy(np.float64)
        if not len(values) or not (np.abs(values) <= LARGEST).all():
            raise ArtifactError(
                f"the returns of {trial.model} on {', '.join(trial.tickers[:3])} cannot be recorded: expected "
                f"at least one day and finite returns of at most {LARGEST:g}; look at the bars with: nextbar check"
            )
        now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        with self._transaction(make=True) as connection:
            entered = _enter(connection, replace(trial, recorded=now))
            return entered, [] if document is None else _enter_holdouts(connection, trial, document, entered.id)

    def enter_holdouts(self, trial: Trial, document: Document) -> list[Opening]:
        """Enter what a run does to holdouts, although it is no trial yet; return as `record_run` does."""
        with self._transaction(make=True) as connection:
            return _enter_holdouts(connection, trial, document)

    def holdouts(self) -> Holdouts:
        """Return the holdouts that runs have declared, and who has looked at them."""
        with self._transaction() as connection:
            return read_holdouts(connection)

    def find(self, trial: Trial) -> Trial | None:
        """Return the trial that these returns are counted as; None where they were never recorded."""
        with self._transaction() as connection:
            return _counted_as(_known(connection, trial), trial)

    def expect(self, run: str) -> None:
        """Remember that a run was made here, by its name and digest, so that it counts once somebody looks at it."""
        with self._transaction(make=True) as connection:
            connection.execute(_MADE)
            connection.execute("INSERT OR IGNORE INTO made VALUES (?)", (run,))

    def expects(self, run: str) -> bool:
        """Return whether a run was made here."""
        with self._transaction() as connection:
            connection.execute(_MADE)
            return connection.execute("SELECT 1 FROM made WHERE run = ?", (run,)).fetchone() is not None

    def remove(self, names: Sequence[str]) -> list[Trial]:
        """Remove trials, all or none, each named by its id or how that begins."""
        with self._transaction() as connection:
            trials = _select(connection, "ORDER BY identity, tickers, variant")
            chosen = {trial.id: trial for trial in (_named(name, trials, self.path) for name in names)}
            for trial in chosen.values():
                key = (trial.identity, json.dumps(trial.tickers), trial.variant)
                connection.execute("DELETE FROM trials WHERE identity = ? AND tickers = ? AND variant = ?", key)
        return [*chosen.values()]

    def trials(self) -> list[Trial]:
        """Return all trials, the latest first."""
        with self._transaction() as connection:
            return _select(connection, "ORDER BY recorded DESC, identity, tickers, variant")

    def overlapping(self, first: dt.date, last: dt.date) -> list[Trial]:
        """Return trials of any tickers that were scored between two days, both included, with their returns there."""
        with self._transaction() as connection:
            query = "WHERE first <= ? AND last >= ? ORDER BY identity, tickers, variant"
            found = _select(connection, query, str(last), str(first))
        cut = [replace(trial, returns=trial.returns[str(first) : str(last)]) for trial in found]
        return [trial for trial in cut if len(trial.returns)]

    @contextmanager
    def _transaction(self, *, make: bool = False) -> Iterator[sqlite3.Connection]:
        """Open a transaction that holds the write lock, so that what is read in it stays true.

        Where there is no file, it is made if ``make`` says so; else the transaction is on an empty ledger.
        """
        new = not self.path.exists()
        near = nearest_file(self.path) if new else ""
        if new and make:
            with self._making():
                self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            target = ":memory:" if new and not make else self.path
            connection = sqlite3.connect(target, timeout=WAIT_SECONDS, isolation_level=None)
            try:
                connection.execute("BEGIN IMMEDIATE")
                _prepare(connection, self.path)
                yield connection
                connection.execute("COMMIT")
            finally:
                connection.close()
            if new and make:
                remark(f"a new trial ledger begins: {self.path}{near}")
        except NextbarError:
            raise
        except sqlite3.OperationalError as error:
            raise OutputError(f"{self.path}: the trial ledger cannot be used ({error}); see --ledger") from error
        except (sqlite3.DatabaseError, zlib.error, ValueError, TypeError, RecursionError) as error:
            raise ArtifactError(
                f"{self.path}: is not a trial ledger, or is damaged ({error}); name another with --ledger"
            ) from error

    @contextmanager
    def _making(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            why = f"the trial ledger cannot be made ({error.strerror})"
            raise OutputError(f"{self.path}: {why}; see --ledger") from error


def record_trial(ledger: Ledger, run: Run) -> list[Opening]:
    """Enter a finished run into the ledger; return the looks at held-out bars that are new by it."""
    return ledger.record_run(trial_of(run.book, run.document), run.document)[1]


@contextmanager
def counted_although_lost(ledger: Ledger | None) -> Iterator[None]:
    """Let an error about the files of a run in the block say that the ledger, told before, counts the try."""
    try:
        yield
    except OSError as error:
        if ledger is None:
            raise
        told = error if isinstance(error, OutputError) else f"the run cannot be written ({error.strerror or error})"
        raise OutputError(
            f"{told}; its try is counted in {ledger.path}; the same command again does not count twice"
        ) from error


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables; bring those of 0.1.0 up to date, in the same transaction."""
    refuse_programs(connection)
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == VERSION:
        return
    if version:
        raise ArtifactError(
            f"{path}: {'a newer' if version > VERSION else 'an unreleased'} nextbar wrote this ledger (version "
            f"{version}, this nextbar reads {VERSION}); {'upgrade nextbar or ' * (version > VERSION)}name another with "
            "--ledger"
        )
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if tables and not {"trials", "returns"} <= tables:
        raise ArtifactError(f"{path}: is a database, but not a trial ledger; name another with --ledger")
    old = _read_0_1_0(connection) if tables else []
    for name in tables & {"trials", "returns"}:
        connection.execute(f"DROP TABLE {name}")
    _make_tables(connection)
    for trial in old:
        _enter(connection, trial)
    connection.execute(f"PRAGMA user_version = {VERSION}")


def _make_tables(connection: sqlite3.Connection) -> None:
    for statement in (_SCHEMA, *SCHEMA):
        connection.execute(statement)


def _enter(connection: sqlite3.Connection, trial: Trial) -> Trial:
    """Store a trial as a new one, or its new days with the one that it goes on; give it as it is stored."""
    known = _known(connection, trial)
    kept = _counted_as(known, trial)
    if kept is not None:
        if trial.returns.index.isin(kept.returns.index).all():
            return kept
        returns = trial.returns.combine_first(kept.returns)
        trial = replace(trial, variant=kept.variant, returns=returns, recorded=max(trial.recorded, kept.recorded))
    else:
        trial = replace(trial, variant=max((one.variant for one in known), default=0) + 1)
    head = (
        trial.identity,
        json.dumps(trial.tickers),
        trial.variant,
        trial.kind,
        trial.model,
        json.dumps(trial.config),
        trial.recorded,
    )
    row = (*head, *span_of(trial.returns), encode(trial.returns))
    connection.execute(f"INSERT OR REPLACE INTO trials VALUES ({', '.join('?' * len(row))})", row)  # noqa: S608
    return trial


def _enter_holdouts(connection: sqlite3.Connection, trial: Trial, document: Document, known: str = "") -> list[Opening]:
    scored, series = span_of(trial.returns)[1], digest_text(encode(trial.returns).hex())
    return enter_run(connection, document, scored=scored, series=series, trial=known)


def _select(connection: sqlite3.Connection, condition: str, *values: str) -> list[Trial]:
    rows = connection.execute(f"SELECT {_COLUMNS} FROM trials {condition}", values)  # noqa: S608 - our own words
    return [_trial_from(row) for row in rows]


def _trial_from(row: tuple[Any, ...]) -> Trial:
    """Read a line of the table, whose values may be of any type where the file is damaged."""
    identity, tickers, variant, kind, model, config, recorded, content = row
    if not all(isinstance(text, str) for text in (identity, kind, model, recorded)) or not isinstance(variant, int):
        raise ValueError("a trial is of other types")
    return Trial(
        identity=identity,
        tickers=msgspec.convert(json.loads(tickers), _Tickers),
        variant=variant,
        kind=kind,
        model=model,
        config=msgspec.convert(json.loads(config), JsonDict),
        recorded=recorded,
        returns=decode(content),
    )


def _known(connection: sqlite3.Connection, trial: Trial) -> list[Trial]:
    """Return the trials of the same configuration and tickers."""
    tickers = json.dumps(trial.tickers)
    return _select(connection, "WHERE identity = ? AND tickers = ? ORDER BY variant", trial.identity, tickers)


def _counted_as(known: Sequence[Trial], trial: Trial) -> Trial | None:
    """Return which of them a trial goes on, by its returns."""
    same = [one for one in known if is_same(one, trial)]
    return max(same, key=lambda one: len(common_days(one.returns, trial.returns)), default=None)


def _named(name: str, trials: Sequence[Trial], path: Path) -> Trial:
    """Return the trial whose id is, or begins with, a name."""
    found = [trial for trial in trials if trial.id == name] or [
        trial for trial in trials if len(name) >= SHORTEST_ID and trial.id.startswith(name)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise ArtifactError(f"{path}: {name} begins the ids of {listed([one.id for one in found])}; give one in full")
    same = [one.id for one in trials if name and one.identity.startswith(name)]
    told = f"that identity has the trials: {listed(same)}" if same else ""
    told = told or nearest(name, [one.id for one in trials], most=3, cutoff=0.3, lead="")
    told = told or f"it holds {plural(len(trials), 'trial')}"
    told += f"; give at least {SHORTEST_ID} characters" if len(name) < SHORTEST_ID else ""
    raise ArtifactError(f"{path}: no trial has the id {brief(name)} ({told}); nothing was removed; see: nextbar ledger")


def _read_0_1_0(connection: sqlite3.Connection) -> list[Trial]:
    """Return the trials of a ledger of 0.1.0, which kept a series per ticker, the earliest first.

    A tree that was trained has a trial per ticker. A network, or a walk-forward, is a portfolio of the tickers that its
    configuration asks for. Of a walk-forward of trees that was run on other tickers before, only the last configuration
    is known: each other ticker is a trial by itself.
    """
    frames: dict[str, dict[str, pd.DataFrame]] = {}
    for key, ticker, content in connection.execute("SELECT trial, ticker, content FROM returns ORDER BY ticker"):
        frames.setdefault(key, {})[ticker] = decode(content)
    heads = connection.execute("SELECT id, kind, model, config, recorded FROM trials ORDER BY recorded, id")
    return [
        Trial(
            kind=kind,
            model=model,
            config=config,
            tickers=tickers,
            returns=_portfolio([frames[key][ticker] for ticker in tickers]),
            identity=identify(kind, model, config),
            recorded=recorded,
        )
        for key, kind, model, text, recorded in heads.fetchall()
        for config in [_without_secrets(json.loads(text))]
        for tickers in _ticker_sets(kind, model, config, frames.get(key, {}))
    ]


def _without_secrets(config: JsonDict) -> JsonDict:
    return {**config, "db": without_password(str(config["db"]))} if "db" in config else config


def _ticker_sets(kind: str, model: str, config: JsonDict, scored: Iterable[str]) -> list[tuple[str, ...]]:
    """Return which of the scored tickers, sorted, were one portfolio."""
    names, asked = tuple(scored), str(config.get("ticker", "ALL"))
    if model == "lstm" or (kind == "walkforward" and asked.strip().upper() == "ALL"):
        together = names
    elif kind == "walkforward":
        wanted = {part.strip() for part in asked.split(",")}
        together = tuple(name for name in names if name in wanted)
    else:
        together = ()
    apart: list[tuple[str, ...]] = [(name,) for name in names if name not in together]
    return [together, *apart] if together else apart


def _portfolio(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return the returns of 1/n of each ticker; a ticker without a bar earns 0."""
    total = pd.concat(frames).groupby(level=0).sum() / len(frames)
    return total.replace([np.inf, -np.inf], np.nan).fillna(0.0).clip(-LARGEST, LARGEST)
