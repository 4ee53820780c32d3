"""Bars out of the database: the `DataAccessLayer`, stored histories, frames made from them, and the queries.

Python rows through a DBAPI cursor take two to three times as long as ADBC, which fills Arrow columns in C (measured on
619,040 bars). Databases other than SQLite and PostgreSQL are read as SQLAlchemy's rows.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from functools import partial
from pathlib import Path
from typing import Any, Final, overload

import adbc_driver_manager
import adbc_driver_sqlite.dbapi as adbc_sqlite
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from nextbar.datasets.prices import BASE, NUMBERS, History, market_frame, stored_frame
from nextbar.errors import BadBarsError, ConfigError, UnknownTickerError, checked, noun
from nextbar.features.indicators import PRICES
from nextbar.market import schema
from nextbar.market.database import (
    IMMUTABLE,
    Market,
    at_rest,
    database_errors,
    failure,
    file_uri,
    locate,
    open_reader,
    read,
)
from nextbar.market.quality import parse_days
from nextbar.market.schema import KEY
from nextbar.types import FloatArray, IntArray
from nextbar.words import brief, excerpt, impossible_day, listed, nearest, plural

try:
    import adbc_driver_postgresql.dbapi as adbc_postgresql
except ImportError:  # part of the extra [postgres]; without it a server is read through psycopg's rows
    adbc_postgresql = None

Day = str | dt.date
BATCH_ROWS: Final = "adbc.sqlite.query.batch_rows"
ROW_BYTES: Final = 160
SPARE_BYTES: Final = 1 << 26
"""Most memory that ADBC needs for a row and besides: eight columns of eight bytes, and texts whose space doubles."""
LARGE_SHARE: Final = 0.1
"""From this share of the listed tickers on, SQLite reads a whole table faster than it follows an index."""
NO_BARS: Final = History(days=np.array([], dtype="datetime64[D]"), numbers=np.empty((len(NUMBERS), 0)))


@noun
class DataAccessLayer(AbstractContextManager["DataAccessLayer"]):
    """Reader of a database, which is never altered by reading it.

    Args:
        db: A path of an SQLite file or an SQLAlchemy URL.
        adjust: Give prices adjusted forward where the database has ``adj_close``; False gives them as quoted.

    Raises:
        DatabaseError: The database is missing or unreadable, or a table is missing.
        MissingExtraError: The server's driver is not installed.
    """

    def __init__(self, db: str | Path, *, adjust: bool = True) -> None:
        self._adjust = adjust
        self._market = open_reader(db)
        self._prices = read(self._market, partial(schema.reflect_prices, name=self._market.name))

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Release all resources; closing twice is harmless."""
        self._market.close()

    def get_tickers(self) -> list[str]:
        """Return every symbol of the table ``tickers``, sorted."""
        return read(self._market, lambda connection: sorted(connection.scalars(sa.select(schema.tickers.c.ticker))))

    @overload
    def get_stock_prices(  # type: ignore[overload-overlap]  # a str is a sequence of str, and the first rule wins
        self, ticker: str, start_date: Day | None = None, end_date: Day | None = None, *, quoted: bool = False
    ) -> pd.DataFrame: ...

    @overload
    def get_stock_prices(
        self, ticker: Sequence[str], start_date: Day | None = None, end_date: Day | None = None, *, quoted: bool = False
    ) -> dict[str, pd.DataFrame]: ...

    def get_stock_prices(
        self,
        ticker: str | Sequence[str],
        start_date: Day | None = None,
        end_date: Day | None = None,
        *,
        quoted: bool = False,
    ) -> pd.DataFrame | dict[str, pd.DataFrame]:
        """Return daily bars of one ticker, or of several in one database read.

        The whole history is read and then cut, because the adjustment begins at the first stored bar: a price does not
        depend on ``start_date``. Nothing is cleaned: duplicate days stay, NULL becomes NaN.

        Args:
            ticker: A symbol, or symbols.
            start_date: First day, included.
            end_date: Last day, included.
            quoted: Add a sixth column ``Quoted``, the close as it was quoted that day.

        Returns:
            For a symbol a frame, as `market_frame` makes it; for several a dict of frames in the order asked. A listed
            ticker without bars gives an empty frame.

        Raises:
            UnknownTickerError: The database holds no bars of a ticker and does not list it; all such are named.
            BadBarsError: A stored date is not ``YYYY-MM-DD``, or a stored price is a text.
            ConfigError: ``start_date`` or ``end_date`` is not a day.
            DatabaseError: The database cannot be read.
        """
        days = as_day("start_date", start_date), as_day("end_date", end_date)
        histories = self.get_histories([ticker] if isinstance(ticker, str) else list(ticker))
        frames = {
            name: market_frame(history, *days, adjust=self._adjust, quoted=quoted)
            for name, history in histories.items()
        }
        return frames[ticker] if isinstance(ticker, str) else frames

    def get_histories(self, names: Sequence[str]) -> dict[str, History]:
        """Return whole histories as they are stored, in the order asked; errors as above."""
        listed = self.get_tickers()
        query = stored_bars(self._prices, names, self._market.engine.dialect, listed=len(listed))
        found = split_histories(fetch(self._market, query))
        self.refuse_unknown({*names} - {*found}, listed)
        return {name: found.get(name, NO_BARS) for name in names}

    def refuse_unknown(self, names: Iterable[str], known: Sequence[str]) -> None:
        """Raise an UnknownTickerError for names that are not ``known``."""
        if unknown := sorted({*names} - {*known}):
            near = {name: nearest(name, known, most=3, cutoff=0.5, lead="") or "nothing similar" for name in unknown}
            hints = listed([f"{excerpt(name, 40)} ({similar})" for name, similar in near.items()], noun="tickers")
            raise UnknownTickerError(
                f"{self._market.name} holds {plural(len(known), 'ticker')}, but no bars of {hints}. "
                f"Import them with: nextbar ingest csv PATH --db {self._market.name}"
            )


@checked
def read_bars(
    db: str | Path,
    tickers: str | Sequence[str] | None = None,
    *,
    start: str | None = None,
    end: str | None = None,
) -> dict[str, pd.DataFrame]:
    """Read bars from a database, as they are stored.

    Args:
        db: An SQLite file or an SQLAlchemy URL.
        tickers: A symbol, or symbols; None: all.
        start: First day, YYYY-MM-DD, included.
        end: Last day, included.

    Returns:
        As `bars`. Prices are adjusted from the first stored bar on, whatever ``start`` is, when a model is trained.

    Raises:
        DatabaseError: The database is missing or unreadable.
        UnknownTickerError: It does not hold a ticker.
        ConfigError: ``start`` or ``end`` is not a day.
    """
    first, last = as_day("start", start), as_day("end", end)
    with DataAccessLayer(db) as market:
        names = market.get_tickers() if tickers is None else [tickers] if isinstance(tickers, str) else list(tickers)
        histories = market.get_histories(names)
    frames = {}
    for name, history in histories.items():
        frames[name] = stored_frame(history).loc[first:last, [*PRICES, "Adj Close", "Volume"]]
        frames[name].attrs[BASE] = history.first_adjusted()
    return frames


def stored_spans(db: str | Path) -> dict[str, tuple[dt.date, dt.date]]:
    """Return ticker → days of its first and last stored bar; nothing where there is no database or table yet."""
    url = locate(db)
    with database_errors(str(url.database)):
        if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
            return {}
    with closing(open_reader(db)) as market:
        return read(market, partial(_spans, name=market.name))


def _spans(connection: sa.Connection, name: str) -> dict[str, tuple[dt.date, dt.date]]:
    if not sa.inspect(connection).has_table("stock_prices"):
        return {}
    prices = schema.reflect_prices(connection, name)
    day = day_text(prices.c.date, connection.dialect)
    rows = connection.execute(sa.select(prices.c.ticker, sa.func.min(day), sa.func.max(day)).group_by(prices.c.ticker))
    try:
        return {ticker: (dt.date.fromisoformat(first), dt.date.fromisoformat(last)) for ticker, first, last in rows}
    except (TypeError, ValueError) as error:
        raise BadBarsError(f"{name}: a stored date is not a day written YYYY-MM-DD ({error}); correct it") from error


def as_day(option: str, value: Day | None) -> np.datetime64 | None:
    """Convert the value of an option to a day; None stays None."""
    if value is None:
        return None
    try:
        # ISO 8601 alone: pandas would take "July" for a day of this year, and 1/2 for one of two days.
        return np.datetime64(pd.Timestamp(pd.to_datetime(value, format="ISO8601")).date(), "D")
    except ValueError as error:
        raise ConfigError(f"{option} expects a day as YYYY-MM-DD, got {brief(value)}{impossible_day(value)}") from error


def split_histories(table: pa.Table) -> dict[str, History]:
    """Cut the rows of one read into a history per ticker; sort only when the rows did not come sorted."""
    owner, names = _encode(table["ticker"])
    codes, texts = _encode(table["date"])
    days = parse_days(pd.Series(texts, dtype="object"))[codes]
    if np.isnat(days).any():
        row = int(np.isnat(days).argmax())
        raise _bad_value(names[owner[row]], "date", texts[codes[row]], "a day written YYYY-MM-DD")
    numbers = np.stack([_number(table, column, owner, names) for column in NUMBERS])
    key = (owner << 32) + days.astype(np.int64)
    if (np.diff(key) < 0).any():
        order = np.argsort(key, kind="stable")
        owner, days, numbers = owner[order], days[order], numbers[:, order]
    starts = np.flatnonzero(np.diff(owner, prepend=-1)).tolist()
    pieces = [slice(start, end) for start, end in zip(starts, [*starts, len(owner)][1:], strict=True)]
    return {names[owner[piece.start]]: History(days=days[piece], numbers=numbers[:, piece]) for piece in pieces}


def _encode(column: pa.ChunkedArray) -> tuple[IntArray, list[str]]:
    """Return [rows] the number of each distinct text in order of appearance, and the texts."""
    encoded = pc.dictionary_encode(column.cast(pa.string()).combine_chunks(), null_encoding="encode")
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64), encoded.dictionary.to_pylist()


def _number(table: pa.Table, name: str, owner: IntArray, names: list[str]) -> FloatArray:
    """Return [rows] one numeric column, NaN for NULL and for a column that the table does not have."""
    if name not in table.column_names:
        return np.full(table.num_rows, np.nan)
    column = table[name].combine_chunks()
    try:
        return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))
    except pa.ArrowInvalid as error:
        row = int(pd.to_numeric(column.to_pandas(), errors="coerce").isna().to_numpy().argmax())
        raise _bad_value(names[owner[row]], name, column[row].as_py(), "a number") from error


def _bad_value(ticker: str, name: str, value: Any, expected: str) -> BadBarsError:
    return BadBarsError(f"{ticker}: stored {name} {brief(value)} is not {expected}; correct it in the database")


def stored_bars(
    prices: sa.Table, names: Sequence[str], dialect: sa.Dialect, *, listed: int | None = None, since: str | None = None
) -> sa.Select[Any]:
    """Select ticker and date (texts) and the numbers that the table has, of some tickers, in no order.

    ``listed`` says how many tickers the database lists; where that is not known the index is used.
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
    with database_errors(market.name):
        if adbc_postgresql is not None and market.engine.dialect.name == "postgresql":
            return _through_postgresql(market, _plain_sql(statement, market))
        table, _ = fetch_at_rest(market, statement)
        return read(market, partial(fetch_rows, statement=statement)) if table is None else table


def fetch_rows(connection: sa.Connection, statement: sa.Select[Any]) -> pa.Table:
    """Run one SELECT on an open connection and return its columns."""
    result = connection.execute(statement)
    names, rows = list(result.keys()), result.all()
    columns = zip(*rows, strict=True) if rows else ((),) * len(names)
    return pa.table({name: _column(name, values) for name, values in zip(names, columns, strict=True)})


def fetch_at_rest(market: Market, statement: sa.Select[Any]) -> tuple[pa.Table | None, object]:
    """Run one SELECT on an SQLite file while no program has it open.

    ADBC has its own copy of SQLite, and two copies in one process break each other's locks. Therefore it reads without
    locks, and its answer is valid only if nobody wrote meanwhile. It takes a column's type from the first batch
    (NUMERIC: 10, 10, 10.5), so all rows are one batch. It allocates a batch before it reads, and ends the process with
    SIGSEGV where it gets no memory. Therefore the rows are counted and the memory is allocated once here first.
    Returned are the columns, None where they must be read with locks, and the state of the file that they belong to.
    """
    path = market.path
    if path is None or (state := at_rest(path)) is None:
        return None, None
    try:
        with adbc_sqlite.connect(file_uri(path, IMMUTABLE)) as connection:
            count = statement.with_only_columns(sa.func.count(), maintain_column_froms=True)
            rows = _arrow(connection, _plain_sql(count, market)).column(0)[0].as_py()
            np.empty(SPARE_BYTES + rows * ROW_BYTES, np.uint8)
            table = _arrow(connection, _plain_sql(statement, market), {BATCH_ROWS: str(max(rows, 1))})
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
    if name in KEY or any(isinstance(value, str) for value in values):
        return pa.array([None if value is None and name in KEY else str(value) for value in values], pa.string())
    return pa.array(values, pa.float64())


def day_text(date: sa.Column[Any], dialect: sa.Dialect) -> sa.ColumnElement[str]:
    """Select a day as YYYY-MM-DD, whatever the server's date style."""
    if dialect.name == "postgresql" and isinstance(date.type, (sa.Date, sa.DateTime)):
        return sa.func.to_char(date, "YYYY-MM-DD")
    return sa.type_coerce(date, sa.Text)


def _plain_sql(statement: sa.Select[Any], market: Market) -> str:
    """Render SQL with its values, quoted by SQLAlchemy, because ADBC has no list parameters."""
    dialect = market.engine.dialect
    sql = str(statement.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
    # A dialect whose parameters look like %(x)s doubles every other percent sign.
    return sql % () if "format" in dialect.paramstyle else sql
