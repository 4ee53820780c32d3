"""What is asked of the database, and the fast way to get the answer into columns.

Python rows through a DBAPI cursor take two to three times as long as ADBC, which fills Arrow columns in C (measured on
619,040 bars). Databases other than SQLite and PostgreSQL are read as SQLAlchemy's rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import adbc_driver_manager
import adbc_driver_sqlite.dbapi as adbc_sqlite
import numpy as np
import pyarrow as pa
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Date,
    DateTime,
    Dialect,
    Double,
    Select,
    Table,
    Text,
    cast,
    func,
    select,
    type_coerce,
)

from nextbar.errors import DatabaseError
from nextbar.market.session import Market, at_rest, database_errors, first_line, immutable_uri, read

try:
    import adbc_driver_postgresql.dbapi as adbc_postgresql
except ImportError:  # part of the extra [postgres]; without it a server is read through psycopg's rows
    adbc_postgresql = None

BATCH_ROWS: Final = "adbc.sqlite.query.batch_rows"
ROW_BYTES: Final = 160
SPARE_BYTES: Final = 1 << 26
"""What ADBC may need for a row and beside them: eight columns of eight bytes, and texts whose space doubles."""
LARGE_SHARE: Final = 0.1
"""From this share of the listed tickers on, SQLite reads faster from end to end than by hopping through an index."""
_SCANS: Final = "nextbar_scans"
"""Execution option of a statement that reads the table from end to end."""


def whole_histories(prices: Table, names: Sequence[str], *, listed: int, dialect: Dialect) -> Select[Any]:
    """Every stored bar of some tickers, in no order.

    Args:
        prices: ``stock_prices`` as this database has it.
        names: The tickers.
        listed: How many tickers the database lists.
        dialect: Of the database.

    Returns:
        Columns ticker and date (texts), then the numbers that the table has, under their own names.
    """
    sqlite = dialect.name == "sqlite"
    wanted: ColumnElement[bool] = prices.c.ticker.in_(names)
    scans = sqlite and len(names) >= LARGE_SHARE * listed
    if scans:
        wanted = func.likely(wanted)
    # No cast in SQLite: it would turn a text that stands in a price column into 0.0.
    number = type_coerce if sqlite else cast
    rows = select(
        type_coerce(prices.c.ticker, Text).label("ticker"),
        day_text(prices.c.date, dialect).label("date"),
        *(number(c, Double).label(c.name) for c in prices.c if c.name not in ("ticker", "date")),
    )
    return rows.where(wanted).execution_options(**{_SCANS: scans})


def fetch(market: Market, statement: Select[Any]) -> pa.Table:
    """Run one SELECT and return its columns.

    Raises:
        DatabaseError: The server cannot be reached, or the file is damaged.
    """
    with database_errors(market.name):
        try:
            table = _through_arrow(market, statement)
        except adbc_driver_manager.Error as error:
            if market.path is None:
                raise DatabaseError(f"{market.name}: {first_line(error)}") from error
            table = None  # a writer overtook us, or the file is damaged: SQLite's own words are the better ones
        return read(market, partial(_through_rows, statement=statement)) if table is None else table


def _through_arrow(market: Market, statement: Select[Any]) -> pa.Table | None:
    """The fast way; None where there is none.

    ADBC brings its own copy of SQLite, and two copies in one process break each other's locks. So it reads a file only
    while nobody has it open, and what it read counts only if nobody wrote meanwhile.
    """
    dialect = market.engine.dialect
    sql = _plain_sql(statement, dialect)
    if market.path is not None:
        state = at_rest(market.path)
        if state is None:
            return None
        table = _through_sqlite(market.path, sql, _plain_sql(_at_most(statement), dialect))
        return table if at_rest(market.path) == state else None
    if adbc_postgresql is not None and dialect.name == "postgresql":
        url = market.url.set(drivername="postgresql").render_as_string(hide_password=False)
        place, mark, options = url.partition("?")
        # SQLAlchemy writes a space as "+", which libpq takes for a plus.
        with adbc_postgresql.connect(place + mark + options.replace("+", "%20")) as connection:
            return _arrow(connection, sql)
    return None


def _through_sqlite(path: Path, sql: str, counting: str) -> pa.Table:
    """Read all rows in one batch, because ADBC takes a column's type from the first one (NUMERIC: 10, 10, 10.5).

    ADBC allocates a batch before it reads, and ends the process with SIGSEGV where it gets no memory. So the batch has
    as many rows as there are at most, and the memory is asked for here first.

    Raises:
        MemoryError: The memory is not to be had.
    """
    with adbc_sqlite.connect(immutable_uri(path)) as connection:
        most = _arrow(connection, counting).column(0)[0].as_py()
        np.empty(SPARE_BYTES + most * ROW_BYTES, np.uint8)
        return _arrow(connection, sql, {BATCH_ROWS: str(max(most, 1))})


def _arrow(connection: Any, sql: str, options: Mapping[str, str] = MappingProxyType({})) -> pa.Table:
    with connection.cursor() as cursor:
        cursor.adbc_statement.set_options(**options)
        cursor.execute(sql)
        return cursor.fetch_arrow_table()


def _at_most(statement: Select[Any]) -> Select[Any]:
    """Count the rows of a statement, or of the table where it reads all of it: that takes a third of the time."""
    if statement.get_execution_options()[_SCANS]:
        return select(func.count()).select_from(*statement.get_final_froms())
    return statement.with_only_columns(func.count(), maintain_column_froms=True)


def _through_rows(connection: Connection, statement: Select[Any]) -> pa.Table:
    result = connection.execute(statement)
    names, rows = list(result.keys()), result.all()
    columns = dict(zip(names, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(names, ())
    return pa.table({name: _column(name, values) for name, values in columns.items()})


def _column(name: str, values: Sequence[Any]) -> pa.Array:
    """Texts for ticker and date (drivers return dates as objects), whatever type fits the rest."""
    if name in ("ticker", "date"):
        return pa.array([None if value is None else str(value) for value in values], pa.string())
    if any(isinstance(value, str) for value in values):
        return pa.array([str(value) for value in values])
    return pa.array(values, pa.float64())


def day_text(date: Column[Any], dialect: Dialect) -> ColumnElement[str]:
    """The text YYYY-MM-DD, whatever the server's date style."""
    if dialect.name == "postgresql" and isinstance(date.type, (Date, DateTime)):
        return func.to_char(date, "YYYY-MM-DD")
    return type_coerce(date, Text)


def _plain_sql(statement: Select[Any], dialect: Dialect) -> str:
    """SQL with its values written in and quoted by SQLAlchemy: ADBC knows no list parameters."""
    sql = str(statement.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
    # A dialect whose parameters look like %(x)s doubles every other percent sign.
    return sql % () if "format" in dialect.paramstyle else sql
