from __future__ import annotations

import datetime as dt
from pathlib import Path

import pandas as pd
import pytest

from nextbar.errors import DatabaseError, OutputError
from nextbar.market import ingest as ingest_module
from nextbar.market.ingest import Counts, ingest
from nextbar.market.sources.columns import SourceBars, source_bars
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
    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    with pytest.raises(OutputError, match="No space left on device"):
        ingest(bars([1.0, 2.0, -1.0]), tmp_path / "m.db", progress=Silent())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.db"]
    assert ingest(bars([1.0, 2.0]), tmp_path / "m.db", progress=Silent()).total == Counts(new=1, unchanged=1)


def test_a_full_disk_while_storing_keeps_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's own "disk is full" is a DatabaseError, and the bars stored before are still there."""
    db = tmp_path / "m.db"
    ingest(bars([1.0]), db, progress=Silent())
    insert = ingest_module._insert

    def on_a_full_disk(connection, *rest):  # type: ignore[no-untyped-def]
        connection.exec_driver_sql("PRAGMA max_page_count = 6")
        insert(connection, *rest)

    monkeypatch.setattr(ingest_module, "_insert", on_a_full_disk)
    with pytest.raises(DatabaseError, match=r"m\.db: database or disk is full"):
        ingest(bars([1.0] * 5000), db, progress=Silent())
    monkeypatch.undo()
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


def test_counts_add_up() -> None:
    """The total is the sum of every kind."""
    assert Counts(new=1, differs=2) + Counts(unchanged=3, rejected=4) == Counts(
        new=1, unchanged=3, differs=2, rejected=4
    )
