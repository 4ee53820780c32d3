"""Connections to a market database, for reading (nothing is altered) or for writing."""

from __future__ import annotations

import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from nextbar.config import DEFAULT_DB
from nextbar.errors import ConfigError, DatabaseError, NextbarError, ServerError, missing_extra, unreachable
from nextbar.runs.files import try_place
from nextbar.types import Progress
from nextbar.words import brief, nearest_file, without_password

Answer = TypeVar("Answer")

LOCK_TIMEOUT_SECONDS = 60
WRITER_PATIENCE_SECONDS = 3600
"""How long an ingest waits for another program that writes."""
WAIT_SECONDS = 1
"""Length of one wait for the write lock; SQLite's own wait reports nothing and cannot be interrupted."""
READ_TRIES = 6
READ_PAUSE_SECONDS = 0.05
CONNECT_TIMEOUT_SECONDS = 10
CHECKPOINT_SECONDS = 5
INGEST_LOCK: Final = 0x6E657874626172
"""Key of PostgreSQL's advisory lock: "nextbar"."""
SQLITE_MAGIC = b"SQLite format 3\0"
IMMUTABLE = "immutable=1"
"""Read a file without locks and leave its folder alone; valid only while the file is at rest."""
UNMARKED = "mode=ro&readonly_shm=1"
"""Read a file in use; without readonly_shm even a reader writes its marks into the -shm file."""


@dataclass(frozen=True)
class Market:
    """An opened database.

    Attributes:
        name: The database as messages call it: the path, or the URL without its password.
        path: The SQLite file to read, None for a server.
        engine: Connects on demand, keeps no connection open, and reads a file with SQLite's own locks.
        scratch: Folder with a copy of the file, where reading the original would have altered its folder.
    """

    name: str
    url: sa.URL
    path: Path | None
    engine: sa.Engine
    scratch: tempfile.TemporaryDirectory[str] | None = None

    def close(self) -> None:
        """Release all resources; closing twice is harmless."""
        self.engine.dispose()
        if self.scratch is not None:
            self.scratch.cleanup()


def locate(db: str | Path) -> sa.URL:
    """Return the SQLAlchemy URL of a path or URL; plain ``postgresql://`` means the psycopg driver."""
    if not isinstance(db, str | Path | sa.URL):
        raise ConfigError(f"a database is a path or an SQLAlchemy URL, got {brief(db)}")
    if "://" not in str(db):
        return sa.URL.create("sqlite", database=str(db))
    try:
        url = sa.make_url(str(db))
    except (ArgumentError, ValueError) as error:  # ValueError: the port is not a number
        told = f"{without_password(str(db))} is not a database URL; expected a path or dialect+driver://user@host/name"
        raise DatabaseError(told) from error
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


def open_reader(db: str | Path) -> Market:
    """Open for reading: no file of an SQLite database, nor the folder around it, changes by a byte."""
    url = locate(db)
    file = url.get_backend_name() == "sqlite"
    sys.audit("nextbar.read", (url.database or "") if file else without_password(str(url)))
    if not file:
        return _server(url)
    path, scratch = Path(url.database or ""), None
    with database_errors(str(path)):
        _check_file(path)
        if _has_orphaned_log(path):
            # No program has it open, but the last changes are only in the -wal: SQLite would make a -shm to read it.
            scratch = tempfile.TemporaryDirectory(prefix="nextbar-")
            copy = Path(scratch.name) / path.name
            for log in ("", "-wal"):
                shutil.copyfile(f"{path}{log}", f"{copy}{log}")
            path = copy
    return Market(str(url.database), url, path, _file_engine(path, "mode=ro"), scratch)


def read(market: Market, ask: Callable[[sa.Connection], Answer]) -> Answer:
    """Query an opened database; repeat the query when an SQLite file was written meanwhile.

    Reading alters nothing, so a file may disappear before it is opened, or be overwritten while it is read without
    locks. The last try uses SQLite's own locks: no writer can interfere, and the writer removes what it leaves behind.
    """
    path = market.path
    with database_errors(market.name):
        for _ in range(READ_TRIES - 1):
            if path is None:
                break
            state = at_rest(path)
            try:
                with _file_engine(path, IMMUTABLE if state else UNMARKED).connect() as connection:
                    answer = ask(connection)
                if state in (None, at_rest(path)):
                    return answer
            except DBAPIError as error:
                if "locked" in str(error.orig):
                    raise
            time.sleep(READ_PAUSE_SECONDS)
        with market.engine.connect() as connection:
            return ask(connection)


def open_writer(db: str | Path) -> Market:
    """Open for writing; a missing SQLite file is created in WAL mode, an existing one keeps its journal mode."""
    url = locate(db)
    if url.get_backend_name() != "sqlite":
        market = _server(url)
    else:
        path = Path(url.database or "")
        with database_errors(str(path)):
            if not path.exists() or not path.stat().st_size:
                _create(path)
            _check_file(path)
        # Autocommit plus an explicit BEGIN IMMEDIATE: a writer waits for the lock before it has read anything.
        market = Market(str(path), url, path, _file_engine(path, "mode=rw", isolation_level=None))
    if (system := market.engine.dialect.name) not in ("sqlite", "postgresql"):
        raise DatabaseError(f"{market.name}: bars can be read from {system}, but stored only in SQLite and PostgreSQL")
    return market


def check_writer(db: str | Path) -> None:
    """Refuse what cannot be written, or a server that cannot be reached, before bars are read; nothing is made."""
    url = locate(db)
    if url.get_backend_name() == "sqlite":
        with database_errors(str(url.database)):
            try_place(Path(url.database or ""))
    else:
        with closing(open_writer(db)) as market, database_errors(market.name), market.engine.connect():
            pass


@contextmanager
def write_transaction(
    market: Market, progress: Progress, *, patience: int = WRITER_PATIENCE_SECONDS
) -> Iterator[sa.Connection]:
    """Open the one transaction that writes.

    Another ingest waits until it ends, for ``patience`` seconds at most, and ``progress`` is told how long.
    """
    with database_errors(market.name), market.engine.begin() as connection:
        if market.path is None:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(INGEST_LOCK)))
        else:
            _begin_immediate(connection.connection.driver_connection, market.name, progress, patience)
        yield connection


def empty_log(market: Market) -> None:
    """Move the write-ahead log of an SQLite file into the file, or every later read would take the slow way.

    SQLite does so when the last connection closes, unless a reader is open. Behind one that takes longer the log stays.
    """
    if market.path is not None:
        with suppress(sqlite3.Error), closing(sqlite3.connect(market.path, timeout=CHECKPOINT_SECONDS)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


@contextmanager
def database_errors(name: str) -> Iterator[None]:
    """Turn errors of a driver or the file system into a DatabaseError that begins with the database's name."""
    try:
        yield
    except NextbarError:
        raise
    except (SQLAlchemyError, sqlite3.Error) as error:
        raise failure(name, getattr(error, "orig", None) or error) from error
    except OSError as error:
        reason = error.strerror or _first_line(error)
        raise DatabaseError(f"{name} cannot be used ({reason}); check path, permissions and disk") from error


def failure(name: str, error: BaseException) -> DatabaseError:
    """Return the error of a database's driver as one of ours, which begins with the database's name."""
    kind = ServerError if unreachable(str(error)) else DatabaseError
    return kind(f"{name}: {_first_line(error)}")


def _first_line(error: BaseException) -> str:
    """Return the first line of a message, or the name of the error where there is none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def at_rest(path: Path) -> tuple[int, int] | None:
    """Return what changes when an SQLite file is written (time in ns, bytes); None while a log holds newer changes."""
    if _log_size(path, "-wal") or _log_size(path, "-journal"):
        return None
    state = path.stat()
    return state.st_mtime_ns, state.st_size


def file_uri(path: Path, query: str) -> str:
    """Return SQLite's URI of a file."""
    return f"{path.resolve().as_uri()}?{query}"


def _file_engine(path: Path, query: str, **options: Any) -> sa.Engine:
    connect = partial(sqlite3.connect, file_uri(path, query), uri=True, timeout=LOCK_TIMEOUT_SECONDS, **options)
    return sa.create_engine("sqlite://", creator=connect, poolclass=sa.NullPool)


def _server(url: sa.URL) -> Market:
    """Describe a database behind a driver without connecting to it."""
    name = url.render_as_string(hide_password=True)
    timeout = {"connect_timeout": CONNECT_TIMEOUT_SECONDS} if url.get_backend_name() == "postgresql" else {}
    try:
        return Market(name, url, None, sa.create_engine(url, poolclass=sa.NullPool, connect_args=timeout))
    except ModuleNotFoundError as error:
        needs = f"{name} needs the Python package {error.name}"
        raise missing_extra(f"{needs}; that of PostgreSQL comes with an extra", "postgres") from error
    except SQLAlchemyError as error:
        raise DatabaseError(f"{name}: {_first_line(error)}") from error


def _begin_immediate(driver: Any, name: str, progress: Progress, patience: int) -> None:
    """Take SQLite's write lock; report the wait while another program has it."""
    driver.execute(f"PRAGMA busy_timeout = {WAIT_SECONDS * 1000}")
    for waited in range(0, patience, WAIT_SECONDS):
        if _unless_busy(driver, "BEGIN IMMEDIATE"):
            progress.finish()
            driver.execute(f"PRAGMA busy_timeout = {LOCK_TIMEOUT_SECONDS * 1000}")
            return
        if not waited:
            progress.start("seconds waited for another program that writes", patience)
        progress.advance(WAIT_SECONDS)
    raise DatabaseError(f"{name}: another program has been writing for {patience} s; try again after it")


def _unless_busy(connection: sqlite3.Connection, statement: str) -> bool:
    """Execute a statement; return False where another program has a lock."""
    try:
        connection.execute(statement)
    except sqlite3.OperationalError as error:
        if not error.sqlite_errorname.startswith("SQLITE_BUSY"):
            raise
        return False
    return True


def _create(path: Path) -> None:
    """Create an empty database in WAL mode, in which readers never wait for an ingest.

    SQLite does not wait for a lock while it changes the mode, whatever the timeout, so the wait is here.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, timeout=LOCK_TIMEOUT_SECONDS)) as connection:
        end = time.monotonic() + LOCK_TIMEOUT_SECONDS
        while not _unless_busy(connection, "PRAGMA journal_mode = WAL"):
            if time.monotonic() > end:
                raise sqlite3.OperationalError("another program keeps it locked")
            time.sleep(READ_PAUSE_SECONDS)


def _check_file(path: Path) -> None:
    """Refuse a file that is not an SQLite database with a message that says what to do."""
    if not path.exists():
        near = nearest_file(path, [DEFAULT_DB] if Path(DEFAULT_DB).is_file() else [])
        raise DatabaseError(f"there is no database {path}{near}; create it with: nextbar ingest sample --db {path}")
    if path.is_dir():
        raise DatabaseError(f"{path} is a folder; expected a database file, such as {path / 'market.db'}")
    if not path.is_file():
        raise DatabaseError(f"{path} is a pipe or a device; expected a database file, such as data/market.db")
    with path.open("rb") as file:
        head = file.read(len(SQLITE_MAGIC))
    if not head:
        raise DatabaseError(f"{path} is an empty file; fill it with: nextbar ingest sample --db {path}")
    if head != SQLITE_MAGIC:
        kind = "parquet" if head.startswith(b"PAR1") else "csv"
        raise DatabaseError(f"{path} is not an SQLite database; to import a file of bars: nextbar ingest {kind} {path}")


def _has_orphaned_log(path: Path) -> bool:
    """Tell whether there is a -wal without -shm for longer than the moment in which a writer closes."""
    for _ in range(READ_TRIES):
        if not _log_size(path, "-wal") or Path(f"{path}-shm").exists():
            return False
        time.sleep(READ_PAUSE_SECONDS)
    return True


def _log_size(path: Path, suffix: str) -> int:
    """Return the bytes of a log beside the database, 0 where there is none."""
    with suppress(FileNotFoundError):
        return Path(f"{path}{suffix}").stat().st_size
    return 0
