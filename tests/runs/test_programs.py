"""Databases from anyone: a view may never come to an end, so only plain tables are read."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from nextbar.errors import NextbarError
from nextbar.runs import journal
from nextbar.runs.ledger import VERSION, Ledger

ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n"
SCHEMAS = {
    "a view": "CREATE VIEW {table} AS " + ENDLESS,
    "a computed column": "CREATE TABLE {table} (identity AS (zeroblob(1000000000)), x)",
    "a trigger": "CREATE TABLE {table} (x); CREATE TRIGGER t AFTER INSERT ON {table} BEGIN SELECT 1; END",
    "a virtual table": "CREATE VIRTUAL TABLE {table} USING fts5(x)",
}


def write(path: Path, schema: str, table: str, version: int) -> Path:
    with closing(sqlite3.connect(path)) as database:
        database.executescript(schema.format(table=table))
        database.execute(f"PRAGMA user_version = {version}")
    return path


@pytest.mark.parametrize("schema", list(SCHEMAS))
def test_a_ledger_holds_plain_tables(schema: str, tmp_path: Path) -> None:
    """A ledger that is a program is refused before its trials are asked for."""
    path = write(tmp_path / "ledger.db", SCHEMAS[schema], "trials", VERSION)
    with pytest.raises(NextbarError, match="not a plain table"):
        Ledger(path).trials()


@pytest.mark.parametrize("schema", list(SCHEMAS))
def test_a_journal_holds_plain_tables(schema: str, tmp_path: Path) -> None:
    """A journal that is a program is refused before its predictions are asked for."""
    path = write(tmp_path / "journal.db", SCHEMAS[schema], "predictions", 1)
    with pytest.raises(NextbarError, match="not a plain table"):
        journal.read(path)
