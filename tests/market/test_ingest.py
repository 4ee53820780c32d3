from __future__ import annotations

import datetime as dt
import sqlite3
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest
from sqlalchemy import Engine, event

from nextbar.errors import DatabaseError, OutputError
from nextbar.market import ingest as ingest_module
from nextbar.market.bars import DataAccessLayer
from nextbar.market.ingest import Counts, ingest
from nextbar.market.sources.reader import SourceBars, source_bars
from nextbar.types import Silent


def bars(closes: list[float], ticker: str = "A") -> SourceBars:
    days = pd.date_range("2024-01-01", periods=len(closes)).strftime("%Y-%m-%d")
    prices = dict.fromkeys(("open", "high", "low", "close"), closes)
    return source_bars(pd.DataFrame({"ticker": ticker, "date": days, **prices, "volume": 1}), "test")


def test_rejects_that_cannot_be_written_store_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk while writing the refused bars rolls the database back and leaves no part of the file's content."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    ingest(bars([1.0]), tmp_path / "m.db", progress=Silent())
    source, good = bars([1.0, 2.0, -1.0]), bars([1.0, 2.0])
    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    with pytest.raises(OutputError, match="No space left on device"):
        ingest(source, tmp_path / "m.db", progress=Silent())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.db"]
    assert ingest(good, tmp_path / "m.db", progress=Silent()).total == Counts(new=1, unchanged=1)


def test_a_full_disk_while_storing_keeps_the_old_state(tmp_path: Path) -> None:
    """SQLite's own "disk is full" is a DatabaseError, and the bars stored before are still there."""
    db = tmp_path / "m.db"
    ingest(bars([1.0]), db, progress=Silent())

    def fill_disk(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA max_page_count = 6")

    event.listen(Engine, "connect", fill_disk)
    with pytest.raises(DatabaseError, match=r"m\.db: database or disk is full"):
        ingest(bars([1.0] * 5000), db, progress=Silent())
    event.remove(Engine, "connect", fill_disk)
    assert ingest(bars([1.0, 2.0]), db, progress=Silent()).total == Counts(new=1, unchanged=1)


def test_two_files_of_refused_bars_in_one_second_have_two_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second ingest waits for the next second instead of writing over the first file."""
    seconds = iter([1, 1, 1, 2])

    class Clock(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:  # type: ignore[override]
            return dt.datetime(2024, 1, 2, 3, 4, next(seconds), tzinfo=tz)

    monkeypatch.setattr(ingest_module, "datetime", Clock)
    first = ingest(bars([1.0, -1.0]), tmp_path / "m.db", progress=Silent()).rejects
    second = ingest(bars([1.0, -1.0]), tmp_path / "m.db", progress=Silent()).rejects
    assert first is not None
    assert second is not None
    assert [first.name, second.name] == ["m_rejects_20240102_030401.csv", "m_rejects_20240102_030402.csv"]
    assert first.read_text() == second.read_text()


def test_only_sqlite_and_postgresql_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any other database is refused before a statement is sent."""
    monkeypatch.setattr("sqlalchemy.dialects.sqlite.base.SQLiteDialect.name", "mysql")
    with pytest.raises(DatabaseError, match="stored only in SQLite and PostgreSQL"):
        ingest(bars([1.0]), tmp_path / "m.db", progress=Silent())


class OtherWriter(Silent):
    """Stores a bar while the ingest waits for the lock, then releases it."""

    def __init__(self, other: sqlite3.Connection) -> None:
        self.other = other

    def advance(self, steps: int = 1, note: str = "") -> None:
        if self.other.in_transaction:
            self.other.commit()


FOREIGN = """CREATE TABLE tickers (id INTEGER PRIMARY KEY, ticker);
CREATE TABLE stock_prices (id INTEGER PRIMARY KEY, ticker, date DATE, open, high, low, close, volume)"""


@pytest.mark.parametrize("tables", ["", FOREIGN], ids=["own", "foreign"])
def test_bars_stored_while_an_ingest_waits_are_seen(tmp_path: Path, tables: str) -> None:
    """Stored bars are compared as they are under the lock: a bar committed during the wait is unchanged, not new."""
    db = tmp_path / "m.db"
    if tables:
        with closing(sqlite3.connect(db)) as connection:
            connection.executescript(tables)
    ingest(bars([1.0]), db, progress=Silent())
    with closing(sqlite3.connect(db)) as other:
        columns = "ticker, date, open, high, low, close, volume"
        other.execute(f"INSERT INTO stock_prices ({columns}) VALUES ('A', '2024-01-02', 2, 2, 2, 2, 1)")
        summary = ingest(bars([1.0, 2.0, 3.0]), db, progress=OtherWriter(other))
    assert summary.total == Counts(new=1, unchanged=2)


def test_more_tickers_than_parameters_of_a_statement(tmp_path: Path) -> None:
    """SQLite takes 32,766 parameters; a universe of more tickers is stored, compared and read all the same."""
    names = [f"T{number:05d}" for number in range(33_000)]
    prices = dict.fromkeys(("open", "high", "low", "close", "volume"), 1.0)
    source = source_bars(pd.DataFrame({"ticker": names, "date": "2024-01-02", **prices}), "test")
    db = tmp_path / "m.db"
    assert ingest(source, db, progress=Silent()).total == Counts(new=33_000)
    assert ingest(source, db, progress=Silent()).total == Counts(unchanged=33_000)
    with DataAccessLayer(db) as access:
        assert len(access.get_histories(names)) == 33_000


def test_a_ticker_with_stored_bars_is_listed(tmp_path: Path) -> None:
    """An ingest adds a ticker that the table of tickers lacks, although its bars are stored."""
    db = tmp_path / "m.db"
    ingest(bars([1.0]), db, progress=Silent())
    with closing(sqlite3.connect(db)) as connection:
        connection.execute("DELETE FROM tickers")
        connection.commit()
    assert ingest(bars([1.0]), db, progress=Silent()).total == Counts(unchanged=1)
    with DataAccessLayer(db) as access:
        assert access.get_tickers() == ["A"]


def test_stored_values_of_other_kinds_do_not_stop_an_ingest(tmp_path: Path) -> None:
    """A text in a price column of another day, and a day in another spelling, are neither read nor altered."""
    db = tmp_path / "m.db"
    ingest(bars([1.0, 2.0, 3.0]), db, progress=Silent())
    with closing(sqlite3.connect(db)) as connection:
        connection.execute("UPDATE stock_prices SET close = 'n/a' WHERE date = '2024-01-02'")
        connection.execute("UPDATE stock_prices SET date = '5 Jan' WHERE date = '2024-01-03'")
        connection.commit()
        assert ingest(bars([1.0, 2.0, 3.0, 4.0]), db, progress=Silent()).total == Counts(new=2, unchanged=1, differs=1)
        stored = connection.execute("SELECT date, close FROM stock_prices ORDER BY date").fetchall()
    assert stored == [
        ("2024-01-01", 1.0),
        ("2024-01-02", "n/a"),
        ("2024-01-03", 3.0),
        ("2024-01-04", 4.0),
        ("5 Jan", 3.0),
    ]


def test_counts_add_up() -> None:
    """The total is the sum of every kind."""
    assert Counts(new=1, differs=2) + Counts(unchanged=3, rejected=4) == Counts(
        new=1, unchanged=3, differs=2, rejected=4
    )
