"""Bars on their way into the database: a temporary table, and how its columns compare with those of the stored bars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv
from sqlalchemy import Column, ColumnElement, Connection, Double, MetaData, Table, Text, and_, cast

from nextbar.types import Progress, Silent

CHUNK_ROWS: Final = 20_000


@dataclass(frozen=True, kw_only=True)
class Staged:
    """A loaded temporary table.

    Attributes:
        table: It; ``ticker`` and ``date`` are texts, all else doubles.
        values: Its columns in the types of ``stock_prices``.
        same_day: Joins a row to the stored bar of that ticker and day.
    """

    table: Table
    values: Mapping[str, ColumnElement[Any]]
    same_day: ColumnElement[bool]


def stage(connection: Connection, bars: pd.DataFrame, prices: Table, name: str, progress: Progress | None) -> Staged:
    """Load bars into a temporary table that goes away with the connection.

    Args:
        connection: Open, inside a transaction.
        bars: [rows] ticker, date (text) and numbers; columns that ``stock_prices`` has not are left out.
        prices: ``stock_prices`` as this database has it.
        name: Of the temporary table.
        progress: Told how many bars are loaded; None: nobody is.
    """
    bars = bars[[column for column in bars.columns if column in prices.c]]
    columns = (Column(column, Text if column in ("ticker", "date") else Double) for column in bars.columns)
    table = Table(name, MetaData(), *columns, prefixes=["TEMPORARY"])
    table.create(connection)
    _load(connection, table, bars, progress or Silent())
    server = connection.dialect.name == "postgresql"
    # PostgreSQL compares and stores in the table's own types (DATE, NUMERIC(10,2), REAL); SQLite's values bring theirs.
    values = {c.name: cast(c, prices.c[c.name].type) if server else c for c in table.c}
    same_day = and_(prices.c.ticker == values["ticker"], prices.c.date == values["date"])
    return Staged(table=table, values=values, same_day=same_day)


def _load(connection: Connection, table: Table, bars: pd.DataFrame, progress: Progress) -> None:
    load = _load_sqlite if connection.dialect.name == "sqlite" else _copy_postgresql
    progress.start("storing bars", len(bars))
    for start in range(0, len(bars), CHUNK_ROWS):
        chunk = bars.iloc[start : start + CHUNK_ROWS]
        load(connection, table, chunk)
        progress.advance(len(chunk), note=str(chunk["ticker"].iloc[-1]))
    progress.finish()


def _load_sqlite(connection: Connection, table: Table, chunk: pd.DataFrame) -> None:
    """SQLite stores NaN as NULL by itself."""
    rows = list(zip(*(chunk[name].tolist() for name in chunk.columns), strict=True))
    connection.exec_driver_sql(str(table.insert().compile(dialect=connection.dialect)), rows)


def _copy_postgresql(connection: Connection, table: Table, chunk: pd.DataFrame) -> None:
    """COPY as CSV, written by Arrow: NaN becomes an empty field, which is NULL."""
    sink = pa.BufferOutputStream()
    rows = pa.Table.from_pandas(chunk, preserve_index=False)
    pa_csv.write_csv(rows, sink, pa_csv.WriteOptions(include_header=False))
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor, cursor.copy(f"COPY {table.name} FROM STDIN (FORMAT csv)") as copy:
        copy.write(sink.getvalue().to_pybytes())
