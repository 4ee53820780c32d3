"""Storing bars: judge them, put the refused ones into a file, add the new ones; what is stored is never changed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Double,
    MetaData,
    Table,
    Text,
    and_,
    case,
    cast,
    exists,
    func,
    or_,
    select,
)
from sqlalchemy.dialects import postgresql

from nextbar.errors import BadBarsError, DatabaseError, OutputError
from nextbar.market import schema
from nextbar.market.quality import find_faults
from nextbar.market.session import Market, database_errors, open_writer
from nextbar.market.sources.columns import SourceBars
from nextbar.types import Progress

CHUNK_ROWS: Final = 20_000
INGEST_LOCK: Final = 0x6E657874626172  # "nextbar", the key of the advisory lock


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What became of bars: stored, already there alike, already there with other values (kept), refused."""

    new: int = 0
    unchanged: int = 0
    differs: int = 0
    rejected: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            new=self.new + other.new,
            unchanged=self.unchanged + other.unchanged,
            differs=self.differs + other.differs,
            rejected=self.rejected + other.rejected,
        )


@dataclass(frozen=True, kw_only=True)
class IngestSummary:
    """The outcome of one ingest.

    Attributes:
        database: Path, or URL without its password.
        tickers: Counts per ticker, sorted.
        rejects: The file of refused bars, None when there are none.
    """

    database: str
    tickers: Mapping[str, Counts]
    rejects: Path | None

    @property
    def total(self) -> Counts:
        """The sum over all tickers."""
        return sum(self.tickers.values(), Counts())


def ingest(source: SourceBars, db: str | Path, *, progress: Progress) -> IngestSummary:
    """Store the good bars of a source in one transaction: after an interruption the database is as it was before.

    A bar that is stored with other values keeps them and counts as "differs". Ingests of the same ticker at the same
    time wait for each other. A table that lacks ``adj_close`` gets the columns it has.

    Args:
        source: The bars.
        db: A path of an SQLite file, created if missing, or an SQLAlchemy URL of a PostgreSQL server.
        progress: Told how many bars are stored.

    Returns:
        What became of every bar.

    Raises:
        BadBarsError: Not one bar is good; nothing is written.
        DatabaseError: The database cannot be written; it is as it was before.
        OutputError: The file of rejects cannot be written; the database is as it was before.
    """
    faults = find_faults(source.bars)
    good = source.bars[faults == ""]
    if good.empty:
        raise BadBarsError(f"none of {len(faults)} bars can be stored: {_reasons(faults)}")
    market = open_writer(db)
    rejects = None
    try:
        with database_errors(market.name), market.engine.begin() as connection:
            stored = _store(connection, good, market.name, progress)
            rejects = _write_rejects(source.raw, faults, market)
    except BaseException:
        if rejects is not None:
            rejects.unlink(missing_ok=True)
        raise
    finally:
        market.close()
    return IngestSummary(
        database=market.name, tickers=_with_rejected(stored, source.bars["ticker"][faults != ""]), rejects=rejects
    )


def _store(connection: Connection, good: pd.DataFrame, name: str, progress: Progress) -> dict[str, Counts]:
    """Stage, compare, insert; everything inside the caller's transaction."""
    dialect = connection.dialect.name
    if dialect not in ("sqlite", "postgresql"):
        raise DatabaseError(f"{name}: bars can be read from {dialect}, but stored only in SQLite and PostgreSQL")
    if dialect == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(INGEST_LOCK)))
    schema.create_missing(connection)
    prices = schema.reflect_prices(connection, name)
    staged = _stage(connection, good[[column for column in good.columns if column in prices.c]], progress)
    # PostgreSQL compares and stores in the table's own types (DATE, NUMERIC(10,2), REAL); SQLite's values bring theirs.
    values = {c.name: cast(c, prices.c[c.name].type) if dialect == "postgresql" else c for c in staged.c}
    same_day = and_(prices.c.ticker == values["ticker"], prices.c.date == values["date"])
    counts = _compare(connection, staged, prices, values, same_day)
    _insert(connection, staged, prices, values, same_day)
    return counts


def _stage(connection: Connection, bars: pd.DataFrame, progress: Progress) -> Table:
    """Load the bars into a temporary table that goes away with the connection."""
    columns = (Column(name, Text if name in ("ticker", "date") else Double) for name in bars.columns)
    staged = Table("nextbar_staged", MetaData(), *columns, prefixes=["TEMPORARY"])
    staged.create(connection)
    load = _load_sqlite if connection.dialect.name == "sqlite" else _copy_postgresql
    progress.start("storing bars", len(bars))
    for start in range(0, len(bars), CHUNK_ROWS):
        chunk = bars.iloc[start : start + CHUNK_ROWS]
        load(connection, staged, chunk)
        progress.advance(len(chunk), note=str(chunk["ticker"].iloc[-1]))
    progress.finish()
    return staged


def _load_sqlite(connection: Connection, staged: Table, chunk: pd.DataFrame) -> None:
    """SQLite stores NaN as NULL by itself."""
    rows = list(zip(*(chunk[name].tolist() for name in chunk.columns), strict=True))
    connection.exec_driver_sql(str(staged.insert().compile(dialect=connection.dialect)), rows)


def _copy_postgresql(connection: Connection, staged: Table, chunk: pd.DataFrame) -> None:
    """COPY as CSV, written by Arrow: NaN becomes an empty field, which is NULL."""
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pandas(chunk, preserve_index=False)
    pa_csv.write_csv(table, sink, pa_csv.WriteOptions(include_header=False))
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor, cursor.copy(f"COPY {staged.name} FROM STDIN (FORMAT csv)") as copy:
        copy.write(sink.getvalue().to_pybytes())


def _compare(
    connection: Connection,
    staged: Table,
    prices: Table,
    values: Mapping[str, ColumnElement[Any]],
    same_day: ColumnElement[bool],
) -> dict[str, Counts]:
    """Count per ticker, before anything is inserted; NULL equals NULL."""
    changed = or_(*(values[name].is_distinct_from(prices.c[name]) for name in values))
    differs = func.sum(case((and_(prices.c.ticker.is_not(None), changed), 1), else_=0))
    rows = connection.execute(
        select(staged.c.ticker, func.count(), func.count(prices.c.ticker), differs)
        .select_from(staged.outerjoin(prices, same_day))
        .group_by(staged.c.ticker)
    )
    return {
        ticker: Counts(new=total - known, unchanged=known - other, differs=other)
        for ticker, total, known, other in rows
    }


def _insert(
    connection: Connection,
    staged: Table,
    prices: Table,
    values: Mapping[str, ColumnElement[Any]],
    same_day: ColumnElement[bool],
) -> None:
    """Add tickers and bars that are not there; a foreign table need not have a unique key for that."""
    unlisted = ~exists().where(schema.tickers.c.ticker == staged.c.ticker)
    missing = ~exists().where(same_day)
    symbols = select(staged.c.ticker).distinct().where(unlisted)
    bars = select(*values.values()).where(missing).order_by(staged.c.ticker, staged.c.date)
    for table, columns, rows in ((schema.tickers, ["ticker"], symbols), (prices, list(values), bars)):
        if connection.dialect.name == "postgresql":
            # Other programs do not take our lock; what they commit in between is theirs.
            connection.execute(postgresql.insert(table).from_select(columns, rows).on_conflict_do_nothing())
        else:
            connection.execute(table.insert().from_select(columns, rows))


def _write_rejects(raw: pd.DataFrame, faults: npt.NDArray[np.str_], market: Market) -> Path | None:
    """The source's own columns and the reason, beside the database (or in the working folder for a server)."""
    refused = faults != ""
    if not refused.any():
        return None
    folder, stem = (market.path.parent, market.path.stem) if market.path else (Path(), market.url.database)
    while True:
        path = folder / f"{stem}_rejects_{datetime.now(UTC):%Y%m%d_%H%M%S}.csv"
        try:
            with path.open("x", encoding="utf-8", newline="") as file:
                try:
                    raw[refused].assign(reason=faults[refused]).to_csv(file, index=False)
                except BaseException:
                    path.unlink()
                    raise
        except FileExistsError:
            time.sleep(0.1)  # another ingest of this second; the next one is free
        except OSError as error:
            raise OutputError(f"the refused bars cannot be written to {path}: {error.strerror}") from error
        else:
            return path


def _with_rejected(stored: Mapping[str, Counts], refused: pd.Series[str]) -> dict[str, Counts]:
    """Add the refused bars to the counts, sorted by ticker."""
    rejected = {str(ticker): Counts(rejected=int(rows)) for ticker, rows in refused.value_counts().items()}
    names = sorted({*stored, *rejected})
    return {name: stored.get(name, Counts()) + rejected.get(name, Counts()) for name in names}


def _reasons(faults: npt.NDArray[np.str_]) -> str:
    reasons, counts = np.unique(faults, return_counts=True)
    return ", ".join(f"{reason} ({count})" for reason, count in zip(reasons, counts, strict=True)) or "there are none"
