"""Opening a market database: a path or an SQLAlchemy URL, for reading (nothing is altered) or for writing."""

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
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from nextbar.config import without_password
from nextbar.errors import DatabaseError, MissingExtraError, NextbarError
from nextbar.types import Progress

Answer = TypeVar("Answer")

LOCK_TIMEOUT_SECONDS = 60
WRITER_PATIENCE_SECONDS = 3600
"""How long an ingest waits for another to end."""
WAIT_SECONDS = 1
"""Between two looks whether it has ended; SQLite's own waiting hears neither Ctrl-C nor says anything."""
READ_TRIES = 6
READ_PAUSE_SECONDS = 0.05
CONNECT_TIMEOUT_SECONDS = 10
FOLD_SECONDS = 5
SQLITE_MAGIC = b"SQLite format 3\0"


@dataclass(frozen=True, kw_only=True)
class Market:
    """An opened database.

    Attributes:
        name: The database as messages call it: the path, or the URL without its password.
        url: Where it is.
        path: The SQLite file to read, None for a server.
        engine: Connects on demand and keeps no connection open.
        scratch: Holds a copy of the file where reading the original would have altered its folder.
    """

    name: str
    url: URL
    path: Path | None
    engine: Engine
    scratch: tempfile.TemporaryDirectory[str] | None = None

    def close(self) -> None:
        """Release what is held; closing twice is harmless."""
        self.engine.dispose()
        if self.scratch is not None:
            self.scratch.cleanup()


def locate(db: str | Path) -> URL:
    """The SQLAlchemy URL of a path or URL; plain ``postgresql://`` means the psycopg driver.

    Raises:
        DatabaseError: The URL cannot be understood.
    """
    if "://" not in str(db):
        return URL.create("sqlite", database=str(db))
    try:
        url = make_url(str(db))
    except (ArgumentError, ValueError) as error:  # the second for a port that is no number
        raise DatabaseError(
            f"{without_password(str(db))} is no database URL; expected a path or dialect+driver://user@host/name"
        ) from error
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


def open_reader(db: str | Path) -> Market:
    """Open for reading: no file of an SQLite database, nor the folder around it, changes by a byte.

    Raises:
        DatabaseError: The file is missing, empty or not SQLite's, or the URL is wrong.
        MissingExtraError: The server's driver is not installed.
    """
    url = locate(db)
    sys.audit(
        "nextbar.read", (url.database or "") if url.get_backend_name() == "sqlite" else without_password(str(url))
    )
    if url.get_backend_name() != "sqlite":
        return _server(url)
    path = Path(url.database or "")
    scratch = None
    with database_errors(str(path)):
        _check_file(path)
        if _orphaned(path):
            # Nobody has it open, but the last changes are only in the -wal: SQLite would make a -shm file to read it.
            scratch = tempfile.TemporaryDirectory(prefix="nextbar-")
            path = _copy_with_wal(path, Path(scratch.name))
    engine = create_engine("sqlite://", creator=partial(_connect_read_only, path), poolclass=NullPool)
    return Market(name=str(url.database), url=url, path=path, engine=engine, scratch=scratch)


def read(market: Market, ask: Callable[[Connection], Answer]) -> Answer:
    """Ask an opened database; ask an SQLite file again when a writer came or went meanwhile.

    Reading alters nothing, and so it may be that a file is gone when it is to be opened, or is overwritten while it is
    read without locks. The last try reads with locks of its own: it cannot be overtaken, and what it leaves behind the
    writer removes.

    Raises:
        DatabaseError: It cannot be read.
    """
    path = market.path
    with database_errors(market.name):
        for _ in range(READ_TRIES - 1 if path else 0):
            try:
                with market.engine.connect() as connection:
                    answer = ask(connection)
                    driver: Any = connection.connection.driver_connection
                if driver.at_rest in (None, path and at_rest(path)):
                    return answer
            except DBAPIError as error:
                if "locked" in str(error.orig):
                    raise
            time.sleep(READ_PAUSE_SECONDS)
        with (_locking(path) if path else market.engine).connect() as connection:
            return ask(connection)


def open_writer(db: str | Path, progress: Progress) -> Market:
    """Open for writing; a missing SQLite file is created in WAL mode, an existing one keeps its journal mode.

    Args:
        db: A path or URL.
        progress: Told how long another writer is waited for.

    Raises:
        DatabaseError: The file cannot be created or is not SQLite's, or the URL is wrong.
        MissingExtraError: The server's driver is not installed.
    """
    url = locate(db)
    if url.get_backend_name() != "sqlite":
        return _server(url)
    path = Path(url.database or "")
    with database_errors(str(path)):
        if not path.exists() or not path.stat().st_size:
            _create(path)
        _check_file(path)
    # Autocommit plus an explicit BEGIN IMMEDIATE: a writer queues for the lock instead of failing half-way.
    connect = partial(sqlite3.connect, path, timeout=LOCK_TIMEOUT_SECONDS, isolation_level=None)
    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)
    event.listen(engine, "begin", partial(_begin, name=str(path), progress=progress))
    return Market(name=str(path), url=url, path=path, engine=engine)


def fold_log(market: Market) -> None:
    """After writing to an SQLite file, empty its log into it.

    SQLite does that when the last connection closes; a reader that is open at that moment keeps it from it, and may
    not do it itself. Every later read would take the slow way. Behind a reader that takes longer the log stays.
    """
    if market.path is not None:
        with suppress(sqlite3.Error), closing(sqlite3.connect(market.path, timeout=FOLD_SECONDS)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


@contextmanager
def database_errors(name: str) -> Iterator[None]:
    """Turn whatever a driver or the file system raises into a DatabaseError that begins with the database's name."""
    try:
        yield
    except NextbarError:
        raise
    except SQLAlchemyError as error:
        raise DatabaseError(f"{name}: {first_line(getattr(error, 'orig', None) or error)}") from error
    except sqlite3.Error as error:
        raise DatabaseError(f"{name}: {first_line(error)}") from error
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise DatabaseError(f"{name} cannot be used ({reason}); check the path, its rights and the disk") from error


def at_rest(path: Path) -> tuple[int, int] | None:
    """What changes when the SQLite file is written (time in ns, bytes), or None while a log holds what is newer."""
    if _size(path, "-wal") or _size(path, "-journal"):
        return None
    state = path.stat()
    return state.st_mtime_ns, state.st_size


def immutable_uri(path: Path) -> str:
    """A URI that reads the file without locks and without touching its folder; right only while it is at rest."""
    return f"{path.resolve().as_uri()}?immutable=1"


class _Reader(sqlite3.Connection):
    """Remembers the state in which the file is read without locks; None: it is read with them."""

    at_rest: tuple[int, int] | None


def _connect_read_only(path: Path) -> sqlite3.Connection:
    """Leave no -wal or -shm behind, in whichever state the file is."""
    state = at_rest(path)
    # Without readonly_shm even a mode=ro reader writes its marks into the -shm file; a rollback journal has none.
    uri = immutable_uri(path) if state else f"{path.resolve().as_uri()}?mode=ro&readonly_shm=1"
    connection = sqlite3.connect(uri, uri=True, timeout=LOCK_TIMEOUT_SECONDS, factory=_Reader)
    connection.at_rest = state
    return connection


def _locking(path: Path) -> Engine:
    """Reads as SQLite does by itself."""
    uri = f"{path.resolve().as_uri()}?mode=ro"
    connect = partial(sqlite3.connect, uri, uri=True, timeout=LOCK_TIMEOUT_SECONDS)
    return create_engine("sqlite://", creator=connect, poolclass=NullPool)


def _begin(connection: Connection, *, name: str, progress: Progress) -> None:
    """Take the write lock; while another program has it, wait and say so."""
    driver: Any = connection.connection.driver_connection
    driver.execute(f"PRAGMA busy_timeout = {WAIT_SECONDS * 1000}")
    for waited in range(0, WRITER_PATIENCE_SECONDS, WAIT_SECONDS):
        try:
            driver.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith("SQLITE_BUSY"):
                raise
        else:
            progress.finish()
            driver.execute(f"PRAGMA busy_timeout = {LOCK_TIMEOUT_SECONDS * 1000}")
            return
        if not waited:
            progress.start("seconds waited for another program that writes", WRITER_PATIENCE_SECONDS)
        progress.advance(WAIT_SECONDS)
    raise DatabaseError(f"{name}: another program has been writing for {WRITER_PATIENCE_SECONDS} s; try again after it")


def _orphaned(path: Path) -> bool:
    """Whether there is a -wal without -shm, and not only for the moment in which a writer closes."""
    for _ in range(READ_TRIES):
        if not _size(path, "-wal") or _beside(path, "-shm").exists():
            return False
        time.sleep(READ_PAUSE_SECONDS)
    return True


def _server(url: URL) -> Market:
    """A database behind a driver; nothing is connected yet."""
    name = url.render_as_string(hide_password=True)
    options: dict[str, Any] = {}
    if url.get_backend_name() == "postgresql":
        options["connect_args"] = {"connect_timeout": CONNECT_TIMEOUT_SECONDS}
    try:
        engine = create_engine(url, poolclass=NullPool, **options)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{name} needs the Python package {error.name}; for PostgreSQL: pip install 'nextbar[postgres]'"
        ) from error
    except SQLAlchemyError as error:
        raise DatabaseError(f"{name}: {first_line(error)}") from error
    return Market(name=name, url=url, path=None, engine=engine)


def _check_file(path: Path) -> None:
    """Refuse what SQLite would create, or would complain about in its own words."""
    if not path.exists():
        raise DatabaseError(f"there is no database {path}; create it with: nextbar ingest sample --db {path}")
    if not path.is_file():
        raise DatabaseError(f"{path} is a folder; expected a database file, such as {path / 'market.db'}")
    with path.open("rb") as file:
        head = file.read(len(SQLITE_MAGIC))
    if not head:
        raise DatabaseError(f"{path} is an empty file; fill it with: nextbar ingest sample --db {path}")
    if head != SQLITE_MAGIC:
        raise DatabaseError(f"{path} is not an SQLite database; to import a file of bars: nextbar ingest csv {path}")


def _create(path: Path) -> None:
    """Make an empty database in WAL mode; readers then never wait for an ingest.

    SQLite does not wait for a lock while it changes the mode, whatever the timeout: another program that makes or fills
    the same file at that moment is waited for here.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, timeout=LOCK_TIMEOUT_SECONDS)) as connection:
        end = time.monotonic() + LOCK_TIMEOUT_SECONDS
        while not _enter_wal(connection):
            if time.monotonic() > end:
                raise sqlite3.OperationalError("another program keeps it locked")
            time.sleep(READ_PAUSE_SECONDS)


def _enter_wal(connection: sqlite3.Connection) -> bool:
    """Change the journal mode, or say that another program has a lock."""
    try:
        connection.execute("PRAGMA journal_mode = WAL")
    except sqlite3.OperationalError as error:
        if not error.sqlite_errorname.startswith("SQLITE_BUSY"):
            raise
        return False
    return True


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _size(path: Path, suffix: str) -> int | None:
    """Bytes of a file beside the database, None when there is none."""
    try:
        return _beside(path, suffix).stat().st_size
    except FileNotFoundError:
        return None


def _copy_with_wal(path: Path, folder: Path) -> Path:
    copy = folder / path.name
    shutil.copyfile(path, copy)
    shutil.copyfile(_beside(path, "-wal"), _beside(copy, "-wal"))
    return copy


def first_line(error: BaseException) -> str:
    """What a message of several lines begins with; the name of the error where there is none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
