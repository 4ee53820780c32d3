"""Queries for stored bars, and the fastest way to their columns.

Python rows through a DBAPI cursor take two to three times as long as ADBC, which fills Arrow columns in C (measured on
619,040 bars). Databases other than SQLite and PostgreSQL are read as SQLAlchemy's rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import adbc_driver_manager
import adbc_driver_sqlite.dbapi as adbc_sqlite
import numpy as np
import pyarrow as pa
import sqlalchemy as sa

from nextbar.market.database import IMMUTABLE, Market, at_rest, database_errors, failure, file_uri, read
from nextbar.market.schema import KEY

try:
    import adbc_driver_postgresql.dbapi as adbc_postgresql
except ImportError:  # part of the extra [postgres]; without it a server is read through psycopg's rows
    adbc_postgresql = None

BATCH_ROWS: Final = "adbc.sqlite.query.batch_rows"
ROW_BYTES: Final = 160
SPARE_BYTES: Final = 1 << 26
"""Most memory that ADBC needs for a row and besides: eight columns of eight bytes, and texts whose space doubles."""
LARGE_SHARE: Final = 0.1
"""From this share of the listed tickers on, SQLite reads a whole table faster than it follows an index."""


def stored_bars(
    prices: sa.Table, names: Sequence[str], dialect: sa.Dialect, *, listed: int | None = None, since: str | None = None
) -> sa.Select[Any]:
    """Select ticker and date (texts) and the numbers that the table has, of some tickers, in no order.

    Args:
        prices: ``stock_prices`` as this database has it.
        names: The tickers.
        dialect: Of the database.
        listed: How many tickers the database lists; None: not known, the index is used.
        since: First day, YYYY-MM-DD; None: all days.
    """
    sqlite = dialect.name == "sqlite"
    # Written into the statement, because SQLite takes 32,766 parameters.
    values: sa.BindParameter[Any] = sa.bindparam("names", list(names), expanding=True, literal_execute=True)
    wanted: sa.ColumnElement[bool] = prices.c.ticker.in_(values)
    if sqlite and listed is not None and len(names) >= LARGE_SHARE * listed:
        wanted = sa.func.likely(wanted)
    # No cast in SQLite: it would turn a text in a price column into 0.0, and a day in a DATE column into its year.
    convert = sa.type_coerce if sqlite else sa.cast
    texts = sa.type_coerce(prices.c.ticker, sa.Text).label("ticker"), day_text(prices.c.date, dialect).label("date")
    rows = sa.select(*texts, *(convert(c, sa.Double).label(c.name) for c in prices.c if c.name not in KEY))
    if since is not None:
        first, date = sa.literal(since, sa.Text), prices.c.date
        rows = rows.where(sa.type_coerce(date, sa.Text) >= first if sqlite else date >= sa.cast(first, date.type))
    return rows.where(wanted)


def fetch(market: Market, statement: sa.Select[Any]) -> pa.Table:
    """Run one SELECT and return its columns."""
    dialect, table = market.engine.dialect, None
    with database_errors(market.name):
        if market.path is not None:
            table, _ = fetch_at_rest(market.path, statement, dialect)
        elif adbc_postgresql is not None and dialect.name == "postgresql":
            table = _through_postgresql(market, _plain_sql(statement, dialect))
        return read(market, partial(fetch_rows, statement=statement)) if table is None else table


def fetch_rows(connection: sa.Connection, statement: sa.Select[Any]) -> pa.Table:
    """Run one SELECT on an open connection and return its columns."""
    result = connection.execute(statement)
    names, rows = list(result.keys()), result.all()
    columns = dict(zip(names, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(names, ())
    return pa.table({name: _column(name, values) for name, values in columns.items()})


def fetch_at_rest(
    path: Path, statement: sa.Select[Any], dialect: sa.Dialect, *, spare: int = SPARE_BYTES
) -> tuple[pa.Table | None, object]:
    """Run one SELECT on an SQLite file while no program has it open.

    ADBC has its own copy of SQLite, and two copies in one process break each other's locks. Therefore it reads without
    locks, and its answer is valid only if nobody wrote meanwhile. It takes a column's type from the first batch
    (NUMERIC: 10, 10, 10.5), so all rows are one batch. It allocates a batch before it reads, and ends the process with
    SIGSEGV where it gets no memory. Therefore the rows are counted and the memory is allocated once here first.

    Returns:
        The columns, or None where they must be read with locks; and the state of the file that they belong to.
    """
    state = at_rest(path)
    if state is None:
        return None, None
    try:
        with adbc_sqlite.connect(file_uri(path, IMMUTABLE)) as connection:
            count = statement.with_only_columns(sa.func.count(), maintain_column_froms=True)
            rows = _arrow(connection, _plain_sql(count, dialect)).column(0)[0].as_py()
            np.empty(spare + rows * ROW_BYTES, np.uint8)
            table = _arrow(connection, _plain_sql(statement, dialect), {BATCH_ROWS: str(max(rows, 1))})
    except adbc_driver_manager.Error:
        return None, None  # somebody wrote, or the file is damaged: SQLite's own message is the better one
    return (table, state) if at_rest(path) == state else (None, None)


def _through_postgresql(market: Market, sql: str) -> pa.Table:
    url = market.url.set(drivername="postgresql").render_as_string(hide_password=False)
    place, mark, options = url.partition("?")
    try:
        # SQLAlchemy writes a space as "+", which libpq takes for a plus.
        with adbc_postgresql.connect(place + mark + options.replace("+", "%20")) as connection:
            return _arrow(connection, sql)
    except adbc_driver_manager.Error as error:
        raise failure(market.name, error) from error


def _arrow(connection: Any, sql: str, options: Mapping[str, str] | None = None) -> pa.Table:
    with connection.cursor() as cursor:
        cursor.adbc_statement.set_options(**options or {})
        cursor.execute(sql)
        return cursor.fetch_arrow_table()


def _column(name: str, values: Sequence[Any]) -> pa.Array:
    """Make texts of ticker and date (drivers return dates as objects), and of numbers where one of them is a text."""
    if name in KEY:
        return pa.array([None if value is None else str(value) for value in values], pa.string())
    if any(isinstance(value, str) for value in values):
        return pa.array([str(value) for value in values])
    return pa.array(values, pa.float64())


def day_text(date: sa.Column[Any], dialect: sa.Dialect) -> sa.ColumnElement[str]:
    """Select a day as YYYY-MM-DD, whatever the server's date style."""
    if dialect.name == "postgresql" and isinstance(date.type, (sa.Date, sa.DateTime)):
        return sa.func.to_char(date, "YYYY-MM-DD")
    return sa.type_coerce(date, sa.Text)


def _plain_sql(statement: sa.Select[Any], dialect: sa.Dialect) -> str:
    """Render SQL with its values, quoted by SQLAlchemy, because ADBC has no list parameters."""
    sql = str(statement.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
    # A dialect whose parameters look like %(x)s doubles every other percent sign.
    return sql % () if "format" in dialect.paramstyle else sql
