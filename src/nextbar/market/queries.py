"""What is asked of the database, and the fast way to get the answer into columns.

Python rows through a DBAPI cursor take two to three times as long as ADBC, which fills Arrow columns in C (measured on
619,040 bars). Databases other than SQLite and PostgreSQL are read as SQLAlchemy's rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import adbc_driver_manager
import adbc_driver_sqlite.dbapi as adbc_sqlite
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

ONE_BATCH: Final = {"adbc.sqlite.query.batch_rows": str(1 << 30)}
"""ADBC takes a column's type from its first batch and fails when a later one differs (NUMERIC: 10, 10, 10.5)."""

LARGE_SHARE: Final = 0.1
"""From this share of the listed tickers on, SQLite reads faster from end to end than by hopping through an index."""


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
    if sqlite and len(names) >= LARGE_SHARE * listed:
        wanted = func.likely(wanted)
    # No cast in SQLite: it would turn a text that stands in a price column into 0.0.
    number = type_coerce if sqlite else cast
    return select(
        type_coerce(prices.c.ticker, Text).label("ticker"),
        day_text(prices.c.date, dialect).label("date"),
        *(number(c, Double).label(c.name) for c in prices.c if c.name not in ("ticker", "date")),
    ).where(wanted)


def fetch(market: Market, statement: Select[Any]) -> pa.Table:
    """Run one SELECT and return its columns.

    Raises:
        DatabaseError: The server cannot be reached, or the file is damaged.
    """
    with database_errors(market.name):
        try:
            table = _through_arrow(market, _plain_sql(statement, market.engine.dialect))
        except adbc_driver_manager.Error as error:
            if market.path is None:
                raise DatabaseError(f"{market.name}: {first_line(error)}") from error
            table = None  # a writer overtook us, or the file is damaged: SQLite's own words are the better ones
        return read(market, partial(_through_rows, statement=statement)) if table is None else table


def _through_arrow(market: Market, sql: str) -> pa.Table | None:
    """The fast way; None where there is none.

    ADBC brings its own copy of SQLite, and two copies in one process break each other's locks. So it reads a file only
    while nobody has it open, and what it read counts only if nobody wrote meanwhile.
    """
    if market.path is not None:
        state = at_rest(market.path)
        if state is None:
            return None
        table = _arrow(adbc_sqlite.connect(immutable_uri(market.path)), sql, ONE_BATCH)
        return table if at_rest(market.path) == state else None
    if adbc_postgresql is not None and market.engine.dialect.name == "postgresql":
        url = market.url.set(drivername="postgresql").render_as_string(hide_password=False)
        place, mark, options = url.partition("?")
        # SQLAlchemy writes a space as "+", which libpq takes for a plus.
        return _arrow(adbc_postgresql.connect(place + mark + options.replace("+", "%20")), sql, {})
    return None


def _arrow(connection: Any, sql: str, options: Mapping[str, str]) -> pa.Table:
    with connection, connection.cursor() as cursor:
        cursor.adbc_statement.set_options(**options)
        cursor.execute(sql)
        return cursor.fetch_arrow_table()


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
