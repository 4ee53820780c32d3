"""Storing bars: judge them, put the refused ones into a file, add the new ones; nothing stored changes unasked."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from sqlalchemy import Connection, Table, and_, case, exists, func, or_, select
from sqlalchemy.dialects import postgresql

from nextbar.errors import BadBarsError, DatabaseError, OutputError
from nextbar.market import schema
from nextbar.market.quality import find_faults
from nextbar.market.revisions import (
    NOTHING_DIFFERS,
    Revision,
    Verdict,
    apply_revisions,
    common_bars,
    judge,
    on_stored_scale,
)
from nextbar.market.session import Market, database_errors, fold_log, open_writer
from nextbar.market.sources.columns import SourceBars
from nextbar.market.staging import Staged, stage
from nextbar.types import Progress

INGEST_LOCK: Final = 0x6E657874626172  # "nextbar", the key of the advisory lock


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What became of bars.

    Attributes:
        new: Stored.
        unchanged: Already there alike, but for the scale of ``adj_close``.
        differs: Already there with other values, which were kept.
        revised: Already there with other values, which were replaced because that was asked for.
        rejected: Refused.
    """

    new: int = 0
    unchanged: int = 0
    differs: int = 0
    revised: int = 0
    rejected: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(**{name: value + getattr(other, name) for name, value in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class IngestSummary:
    """The outcome of one ingest.

    Attributes:
        database: Path, or URL without its password.
        tickers: Counts per ticker, sorted.
        rejects: The file of refused bars, None when there are none.
        revisions: Stored days about which the source says something else, whether that was accepted or not.
        rescaled: Ticker → what the source's ``adj_close`` was multiplied by to be on the stored scale, where not 1.
    """

    database: str
    tickers: Mapping[str, Counts]
    rejects: Path | None
    revisions: tuple[Revision, ...] = ()
    rescaled: Mapping[str, float] = field(default_factory=dict)

    @property
    def total(self) -> Counts:
        """The sum over all tickers."""
        return sum(self.tickers.values(), Counts())


def ingest(
    source: SourceBars, db: str | Path, *, progress: Progress, accept_revisions: bool = False, origin: str = ""
) -> IngestSummary:
    """Store the good bars of a source in one transaction: after an interruption the database is as it was before.

    A bar that is stored with other values keeps them and counts as "differs", unless revisions are accepted. Ingests of
    the same ticker at the same time wait for each other. A table that lacks ``adj_close`` gets the columns it has.

    Args:
        source: The bars.
        db: A path of an SQLite file, created if missing, or an SQLAlchemy URL of a PostgreSQL server.
        progress: Told how many bars are stored.
        accept_revisions: Replace stored values that differ; the old ones go into the table ``price_revisions``.
        origin: Name of the source for that table.

    Returns:
        What became of every bar.

    Raises:
        BadBarsError: Not one bar is good, or an accepted close comes without its ``adj_close``; nothing is written.
        DatabaseError: The database cannot be written; it is as it was before.
        OutputError: The file of rejects cannot be written; the database is as it was before.
    """
    faults = find_faults(source.bars)
    good = source.bars[faults == ""]
    if good.empty:
        raise BadBarsError(f"none of {len(faults)} bars can be stored: {_reasons(faults)}")
    market = open_writer(db, progress)
    rejects = None
    try:
        with database_errors(market.name), market.engine.begin() as connection:
            prices = _prepare(connection, market.name)
            staged = stage(connection, good, prices, "nextbar_staged", progress)
            counts = _count(connection, staged, prices)
            verdict = NOTHING_DIFFERS
            if any(count.differs for count in counts.values()):
                verdict = judge(common_bars(connection, staged, prices))
                counts = _judged(counts, verdict, accept=accept_revisions)
                scaled = on_stored_scale(good, verdict, accept=accept_revisions)
                staged = stage(connection, scaled, prices, "nextbar_scaled", None)
            if accept_revisions:
                apply_revisions(connection, verdict, prices, origin)
            _insert(connection, staged, prices)
            rejects = _write_rejects(source.raw, faults, market)
    except BaseException:
        if rejects is not None:
            rejects.unlink(missing_ok=True)
        raise
    finally:
        market.close()
    fold_log(market)
    return IngestSummary(
        database=market.name,
        tickers=_with_rejected(counts, source.bars["ticker"][faults != ""]),
        rejects=rejects,
        revisions=verdict.revisions,
        rescaled=verdict.rescaled(),
    )


def _prepare(connection: Connection, name: str) -> Table:
    """Check and lock the database, make what is missing."""
    dialect = connection.dialect.name
    if dialect not in ("sqlite", "postgresql"):
        raise DatabaseError(f"{name}: bars can be read from {dialect}, but stored only in SQLite and PostgreSQL")
    if dialect == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(INGEST_LOCK)))
    schema.create_missing(connection)
    return schema.reflect_prices(connection, name)


def _count(connection: Connection, staged: Staged, prices: Table) -> dict[str, Counts]:
    """Count per ticker, before anything is inserted; NULL equals NULL, and every other bit counts."""
    changed = or_(*(value.is_distinct_from(prices.c[name]) for name, value in staged.values.items()))
    differs = func.sum(case((and_(prices.c.ticker.is_not(None), changed), 1), else_=0))
    ticker = staged.table.c.ticker
    rows = connection.execute(
        select(ticker, func.count(), func.count(prices.c.ticker), differs)
        .select_from(staged.table.outerjoin(prices, staged.same_day))
        .group_by(ticker)
    )
    return {
        name: Counts(new=total - known, unchanged=known - other, differs=other) for name, total, known, other in rows
    }


def _judged(counts: Mapping[str, Counts], verdict: Verdict, *, accept: bool) -> dict[str, Counts]:
    """The counts, where only changed facts differ, and those that are accepted are revised."""
    changed = Counter(revision.ticker for revision in verdict.revisions)
    return {
        ticker: replace(
            count,
            unchanged=count.unchanged + count.differs - changed[ticker],
            differs=0 if accept else changed[ticker],
            revised=changed[ticker] if accept else 0,
        )
        for ticker, count in counts.items()
    }


def _insert(connection: Connection, staged: Staged, prices: Table) -> None:
    """Add tickers and bars that are not there; a foreign table need not have a unique key for that."""
    source = staged.table.c
    unlisted = ~exists().where(schema.tickers.c.ticker == source.ticker)
    missing = ~exists().where(staged.same_day)
    symbols = select(source.ticker).distinct().where(unlisted)
    bars = select(*staged.values.values()).where(missing).order_by(source.ticker, source.date)
    for table, columns, rows in ((schema.tickers, ["ticker"], symbols), (prices, list(staged.values), bars)):
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
