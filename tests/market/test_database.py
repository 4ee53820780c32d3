from __future__ import annotations

import hashlib
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest
from sqlalchemy import Connection, text

from nextbar.errors import DatabaseError, MissingExtraError, NextbarError
from nextbar.market.bars import DataAccessLayer, stored_spans
from nextbar.market.database import at_rest, locate, open_reader, open_writer, read, write_transaction
from nextbar.market.ingest import ingest
from nextbar.market.sources.reader import source_bars
from nextbar.types import Silent

NOBODY = 65534


def fill(db: Path, close: float = 10.0, day: str = "2024-01-02") -> None:
    row = {"ticker": "AAA", "date": [day], "open": close, "high": close, "low": close, "close": close, "volume": 1}
    ingest(source_bars(pd.DataFrame(row), "test"), db, progress=Silent())


def state(folder: Path) -> dict[str, str]:
    """Every file's name and content; the time of the last write is not content."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def bars_read(db: Path) -> int:
    with DataAccessLayer(db) as access:
        assert access.get_tickers() == ["AAA"]
        return len(access.get_stock_prices("AAA"))


@pytest.fixture
def db(tmp_path: Path) -> Path:
    path = tmp_path / "home of data" / "100%.db"
    fill(path)
    return path


WRITER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("INSERT INTO stock_prices SELECT ticker, '2024-01-03', 1, 1, 1, 1, 1, 1 FROM stock_prices")
connection.commit()
print("committed", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def live(db: Path) -> Iterator[subprocess.Popen[str]]:
    """Another program that has the database open, with a second bar committed only to the write-ahead log.

    A process of its own: inside one process SQLite shares a single -shm among its connections.
    """
    command = [sys.executable, "-c", WRITER, str(db)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "committed\n"
        yield program
        program.communicate()


def test_our_files_are_wal_and_clustered_and_at_rest_after_an_ingest(db: Path) -> None:
    """A new database is in WAL mode, its tables have no rowid, and the log is folded back in."""
    assert sorted(state(db.parent)) == [db.name]
    connection = sqlite3.connect(db)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert all("WITHOUT ROWID" in sql for (sql,) in connection.execute("SELECT sql FROM sqlite_master"))
    connection.close()


def test_reading_a_database_at_rest_alters_nothing(db: Path) -> None:
    """No file appears, none changes, although the database is in WAL mode."""
    before = state(db.parent)
    assert bars_read(db) == 1
    assert state(db.parent) == before


@pytest.mark.usefixtures("live")
def test_reading_a_live_database_alters_nothing_and_sees_the_log(db: Path) -> None:
    """With another program's -wal and -shm beside it the newest commit is read; no byte changes, not even in -shm."""
    before = state(db.parent)
    assert sorted(before) == [db.name, f"{db.name}-shm", f"{db.name}-wal"]
    assert at_rest(db) is None
    assert bars_read(db) == 2
    assert state(db.parent) == before


READER = """
import sqlite3, sys
connection = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
connection.execute("SELECT count(*) FROM stock_prices").fetchone()
print("open", flush=True)
sys.stdin.read()
"""


def test_an_ingest_leaves_no_log_behind_a_reader(tmp_path: Path) -> None:
    """A reader that is open when an ingest ends keeps SQLite from emptying its log: it is emptied, reads stay fast."""
    db = tmp_path / "m.db"
    fill(db)
    command = [sys.executable, "-c", READER, str(db)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "open\n"
        fill(db, day="2024-01-09")
        assert db.with_name("m.db-shm").exists()
        assert at_rest(db) is not None
        assert bars_read(db) == 2
        reader.communicate()
    assert at_rest(db) is not None
    assert bars_read(db) == 2


@pytest.mark.usefixtures("live")
def test_reading_an_orphaned_log_alters_nothing_and_sees_it(db: Path, tmp_path: Path) -> None:
    """A copy of the database and its -wal without -shm gives the newest commit and gets no -shm."""
    folder = tmp_path / "copied"
    folder.mkdir()
    for suffix in ("", "-wal"):
        shutil.copyfile(f"{db}{suffix}", folder / f"{db.name}{suffix}")
    before = state(folder)
    assert bars_read(folder / db.name) == 2
    assert state(folder) == before


def test_an_empty_log_left_behind_is_no_obstacle(db: Path) -> None:
    """A -wal of no bytes, as some readers leave, is read as a database at rest."""
    db.with_name(f"{db.name}-wal").touch()
    before = state(db.parent)
    assert bars_read(db) == 1
    assert state(db.parent) == before


@pytest.mark.skipif(os.name != "posix", reason="folders are write-protected by POSIX modes here")
def test_reading_in_a_folder_that_cannot_be_written() -> None:
    """A WAL database in a read-only folder is read; root, who may write anyway, runs this test as nobody."""
    folder = Path(tempfile.mkdtemp(prefix="nextbar-test-"))
    fill(folder / "market.db")
    (folder / "market.db").chmod(0o444)
    folder.chmod(0o555)
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(NOBODY)
        assert bars_read(folder / "market.db") == 1
        with pytest.raises(NextbarError, match=r"market\.db"):
            fill(folder / "market.db", day="2024-01-05")
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_a_folder_that_may_not_be_looked_into_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may not even see whether there is a file gets the reason in one line."""

    def forbidden(*_: object, **__: object) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "exists", forbidden)
    for ask in (DataAccessLayer, stored_spans):
        with pytest.raises(DatabaseError, match=r"market\.db cannot be used \(Permission denied\)"):
            ask(tmp_path / "market.db")


def test_a_foreign_journal_mode_stays(tmp_path: Path) -> None:
    """Reading from and ingesting into a rollback-journal database leaves it one."""
    path = tmp_path / "foreign.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE tickers (ticker TEXT)")
    connection.execute("CREATE TABLE stock_prices (ticker, date, open, high, low, close, volume)")
    connection.commit()
    schema = connection.execute("SELECT sql FROM sqlite_master").fetchall()
    fill(path)
    assert bars_read(path) == 1
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert connection.execute("SELECT sql FROM sqlite_master").fetchall() == schema
    connection.close()


def test_what_is_written_during_a_read_is_seen_by_the_next(db: Path) -> None:
    """One open layer follows the database: at rest, then written, then at rest again."""
    with DataAccessLayer(db) as access:
        assert len(access.get_stock_prices("AAA")) == 1
        fill(db, day="2024-01-09")
        assert len(access.get_stock_prices("AAA")) == 2


def test_a_read_that_a_writer_overtook_is_repeated(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the file changes while it is read without locks, the answer is thrown away and read again with locks."""
    states = iter([(1, 1), (2, 2), (3, 3)])
    monkeypatch.setattr("nextbar.market.bars.at_rest", lambda _: next(states))
    with DataAccessLayer(db) as access:
        assert len(access.get_stock_prices("AAA")) == 1
    assert next(states) == (3, 3)


def test_rows_that_a_writer_overtook_are_read_again(db: Path) -> None:
    """What was read without locks counts only if no program wrote meanwhile."""
    counts: list[int] = []

    def ask(connection: Connection) -> int:
        if not counts:
            fill(db, day="2024-01-09")
        counts.append(int(connection.scalar(text("SELECT count(*) FROM stock_prices")) or 0))
        return counts[-1]

    market = open_reader(db)
    assert read(market, ask) == 2
    assert len(counts) == 2
    market.close()


BUSY_WRITER = """
import sqlite3, sys, time
for value in range(1_000_000):
    connection = sqlite3.connect(sys.argv[1])
    connection.execute("UPDATE stock_prices SET open = ?1, high = ?1, low = ?1, close = ?1, volume = ?1", [value])
    connection.commit()
    connection.close()
    if not value:
        print("writing", flush=True)
    time.sleep(0.005)
"""


def test_reads_beside_a_writer_that_comes_and_goes(tmp_path: Path) -> None:
    """Log files appear and vanish under the reader: every read succeeds and sees one commit, never parts of two."""
    db = tmp_path / "m.db"
    days = pd.date_range("2000-01-01", periods=2000).strftime("%Y-%m-%d")
    prices = dict.fromkeys(("open", "high", "low", "close"), 1.0)
    rows = pd.DataFrame({"ticker": "AAA", "date": days, **prices, "volume": 1})
    ingest(source_bars(rows, "test"), db, progress=Silent())
    command = [sys.executable, "-c", BUSY_WRITER, str(db)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
        seen = set()
        try:
            for _ in range(60):
                with DataAccessLayer(db) as access:
                    assert access.get_tickers() == ["AAA"]
                    frame = access.get_stock_prices("AAA")
                assert len(frame) == 2000
                values = set(frame.to_numpy().ravel().tolist())
                assert len(values) == 1
                seen |= values
        finally:
            writer.kill()
    assert len(seen) > 10, "the writer wrote too seldom to prove anything"


class Waiting(Silent):
    """Records its stages; ends the other writer when it is waited for."""

    def __init__(self, other: sqlite3.Connection) -> None:
        self.other, self.stages = other, list[str]()

    def start(self, label: str, total: int) -> None:
        self.stages.append(label)

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.other.rollback()


@pytest.fixture
def other(db: Path) -> Iterator[sqlite3.Connection]:
    """Another program in the middle of writing."""
    connection = sqlite3.connect(db)
    connection.execute("DELETE FROM stock_prices")
    yield connection
    connection.close()


def test_an_ingest_waits_for_another_and_says_so(db: Path, other: sqlite3.Connection) -> None:
    """The second writer reports that it waits, continues when the first is done, and stores its bars."""
    progress = Waiting(other)
    row = {"ticker": "AAA", "date": ["2024-01-09"], **dict.fromkeys(("open", "high", "low", "close", "volume"), 1)}
    ingest(source_bars(pd.DataFrame(row), "test"), db, progress=progress)
    assert progress.stages == ["seconds waited for another program that writes", "storing bars"]
    assert bars_read(db) == 2


def test_a_new_database_waits_for_another_program_that_makes_it(tmp_path: Path) -> None:
    """The file is there, still empty and locked: SQLite refuses to change its mode at once, and it is tried again."""
    path = tmp_path / "market.db"
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        release = threading.Timer(0.3, other.execute, ["COMMIT"])
        release.start()
        fill(path)
        release.join()
    assert bars_read(path) == 1


@pytest.mark.usefixtures("other")
def test_an_ingest_does_not_wait_for_ever(db: Path) -> None:
    """When the other writer does not end, the message says what is waited for."""
    told = pytest.raises(DatabaseError, match=r"100%\.db: another program has been writing for 1 s")
    with closing(open_writer(db)) as market, told, write_transaction(market, Silent(), patience=1):
        pytest.fail("both write")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"there is no database .*market\.db; create it with: nextbar ingest sample --db"),
        (b"", r"empty file; fill it with: nextbar ingest sample --db"),
        (b"Date,Open\n", r"not an SQLite database; to import a file of bars: nextbar ingest csv"),
        (b"SQLite format 3\0" + b"x" * 5000, r"market\.db: .*(not a database|malformed)"),
    ],
    ids=["missing", "empty", "foreign", "damaged"],
)
def test_unusable_files_are_explained(tmp_path: Path, content: bytes | None, message: str) -> None:
    """A missing, empty, foreign or damaged file gives an error that says which and what to do; nothing is created."""
    path = tmp_path / "market.db"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DatabaseError, match=message):
        DataAccessLayer(path)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == ([] if content is None else [content])


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("data/markt.db", "; nearest: market.db;"),
        ("data/market", "; nearest: market.db;"),
        ("dta/market.db", "; nearest: data/market.db;"),
        ("market.db", "; nearest: data/market.db;"),
        ("other/prices.db", ";"),
    ],
)
def test_a_missing_database_names_the_nearest_that_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, told: str
) -> None:
    """Of the folder, else the usual one; a folder of that name is none, and `ingest` makes what was asked for."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "markte.db").mkdir(parents=True)
    fill(Path("data/market.db"))
    message = f"there is no database {asked}{told} create it with: nextbar ingest sample"
    with pytest.raises(DatabaseError, match=re.escape(message)):
        DataAccessLayer(asked)


def test_a_database_without_tables_is_called_empty(tmp_path: Path) -> None:
    """A valid SQLite file without tables says how to fill it."""
    connection = sqlite3.connect(tmp_path / "market.db")
    connection.execute("VACUUM")
    connection.close()
    with pytest.raises(DatabaseError, match="empty database; fill it with: nextbar ingest sample"):
        DataAccessLayer(tmp_path / "market.db")


def test_a_folder_is_no_database(tmp_path: Path) -> None:
    """A folder is named as such."""
    with pytest.raises(DatabaseError, match="is a folder"):
        open_reader(tmp_path)


def test_an_unreachable_server_is_named_without_its_password() -> None:
    """The message holds the address and never the password."""
    pytest.importorskip("psycopg")
    with pytest.raises(DatabaseError, match=r"postgresql\+psycopg://me:\*\*\*@127\.0\.0\.1:1/x: ") as caught:
        DataAccessLayer("postgresql://me:geheim@127.0.0.1:1/x")
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize("url", ["nonsense://", "://", "nosuchdialect://host/x"])
def test_nonsense_urls_are_refused(url: str) -> None:
    """What SQLAlchemy cannot open is a DatabaseError."""
    with pytest.raises(DatabaseError):
        open_reader(url)


def test_a_missing_driver_names_the_extra() -> None:
    """A server whose driver is not installed names the package that is missing."""
    with pytest.raises(MissingExtraError, match="oracledb"):
        open_reader("oracle+oracledb://me@host/x")


def test_a_path_and_a_url_are_the_same_place() -> None:
    """A path means SQLite; plain postgresql means psycopg, not whatever SQLAlchemy prefers."""
    assert locate("data/market.db") == locate("sqlite:///data/market.db")
    assert locate("postgresql://host/x").drivername == "postgresql+psycopg"


def test_a_place_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """A database below a file cannot be created; the message names it."""
    (tmp_path / "file").touch()
    with pytest.raises(DatabaseError, match=r"file.market\.db"):
        fill(tmp_path / "file" / "market.db")
