"""Ingest: store new bars, write refused ones into a file, and replace stored ones only on request."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from nextbar.errors import BadBarsError, OutputError
from nextbar.market import schema
from nextbar.market.bars import fetch, fetch_at_rest, fetch_rows, stored_bars
from nextbar.market.database import Market, at_rest, database_errors, empty_log, open_writer, write_transaction
from nextbar.market.revisions import Comparison, Revision, compare, replace_bars
from nextbar.market.schema import KEY
from nextbar.market.sources.reader import SourceBars
from nextbar.types import Progress
from nextbar.words import cell, excerpt, plural

INSERT_ROWS: Final = 20_000
MOST_REFUSED: Final = 0.05
"""Share of refused rows above which an ingest is not complete."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Numbers of bars by outcome.

    Unchanged bars may have another scale of ``adj_close``. Bars of other values differ where the stored ones were kept,
    and are revised where these were replaced on request.
    """

    new: int = 0
    unchanged: int = 0
    differs: int = 0
    revised: int = 0
    rejected: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(**{name: value + getattr(other, name) for name, value in vars(self).items()})


@dataclass(frozen=True)
class IngestSummary:
    """Result of one ingest.

    Attributes:
        database: Path, or URL without its password.
        tickers: Counts per ticker, sorted.
        rejects: The file of refused bars, None when there are none.
        revisions: Stored days for which the source has other values, accepted or not.
        rescaled: Ticker → factor that brought the source's ``adj_close`` to the stored scale; ``restated``: its prices.
        reasons: Reason → number of refused rows and the first of them.
        notes: What was guessed or lost while the source was read; ``left_out``: why a file or a ticker was not used.
    """

    database: str
    tickers: Mapping[str, Counts]
    rejects: Path | None
    revisions: tuple[Revision, ...] = ()
    rescaled: Mapping[str, float] = field(default_factory=dict)
    restated: Mapping[str, float] = field(default_factory=dict)
    reasons: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether no file and no ticker was left out and at most one row in twenty refused."""
        counts = vars(self.total)
        return not self.left_out and counts["rejected"] <= MOST_REFUSED * sum(counts.values())

    @property
    def total(self) -> Counts:
        """Sum over all tickers."""
        return sum(self.tickers.values(), Counts())


def ingest(
    source: SourceBars, db: str | Path, *, progress: Progress, accept_revisions: bool = False, origin: str = ""
) -> IngestSummary:
    """Store the good bars of a source in one transaction: after an error the database is as it was before.

    A bar that is stored with other values keeps them and counts as "differs", unless revisions are accepted: then the
    old values go into the table ``price_revisions``, with ``origin``, the name of the source. Ingests at the same time
    wait for each other. A missing SQLite file is created; a table that lacks ``adj_close`` gets the columns it has.
    """
    good = source.bars.sort_values(list(KEY))
    if good.empty:
        reasons = [f"{reason} ({count}, such as {first})" for reason, (count, first) in reasons_of(source).items()]
        none = f"none of {plural(len(source.refused), 'bar')} can be stored"
        raise BadBarsError(f"{none}: {'; '.join(reasons) or 'there are none'}")
    with closing(open_writer(db)) as market, ExitStack() as undo:
        since = None if accept_revisions else str(good["date"].min())
        names = good["ticker"].unique().tolist()
        with database_errors(market.name):  # before the lock is taken, because ADBC cannot read beside a writer
            every = stored_bars(schema.stock_prices, names, market.engine.dialect, since=since)
            ahead = fetch_at_rest(market, every.with_only_columns(sa.text("*")))
        with write_transaction(market, progress) as connection:
            created = schema.create_missing(connection)
            prices = schema.reflect_prices(connection, market.name)
            bars = good[[name for name in good.columns if name in prices.c]]
            statement = stored_bars(prices, names, connection.dialect, since=since)
            stored = _read_stored(market, connection, statement, ahead, created=created)
            rounding = schema.rounding(prices, connection.dialect)
            found = compare(bars, stored, rounding, continue_stored=not accept_revisions)
            if accept_revisions:
                replace_bars(connection, prices, found.revised, origin)
            listed = set(connection.scalars(sa.select(schema.tickers.c.ticker)))
            if unlisted := [{"ticker": name} for name in names if name not in listed]:
                insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
                connection.execute(insert(schema.tickers).on_conflict_do_nothing(), unlisted)
            _insert_bars(connection, prices, found.new, progress)
            rejects = _write_rejects(source.refused, market, undo)
        undo.pop_all()
    empty_log(market)
    counts = _counts(found, source.refused["ticker"], accepted=accept_revisions)
    told = reasons_of(source), source.notes, {**source.left_out, **found.unclear}
    return IngestSummary(market.name, counts, rejects, found.revisions, found.rescaled, found.restated, *told)


def _read_stored(
    market: Market,
    connection: sa.Connection,
    statement: sa.Select[Any],
    ahead: tuple[pa.Table | None, object],
    *,
    created: bool,
) -> pd.DataFrame:
    """Return the stored bars as `compare` takes them; what was read ahead counts only if nobody wrote since."""
    table, state = ahead
    if market.path is None and not created:
        table = fetch(market, statement)
    elif table is None or market.path is None or at_rest(market.path) != state:
        table = fetch_rows(connection, statement)
    columns = [column.name for column in statement.selected_columns if column.name not in KEY]
    texts = {name: table[name].cast(pa.string()).to_pandas() for name in KEY}
    numbers = {f"{name}_old": pd.to_numeric(table[name].to_pandas(), errors="coerce") for name in columns}
    return pd.DataFrame({**texts, **numbers}).astype(dict.fromkeys(numbers, "float64"))


def _insert_bars(connection: sa.Connection, prices: sa.Table, bars: pd.DataFrame, progress: Progress) -> None:
    bars = bars.reindex(columns=[c.name for c in prices.c])
    statement = str(prices.insert().compile(dialect=connection.dialect))
    progress.start("storing bars", len(bars))
    for start in range(0, len(bars), INSERT_ROWS):
        chunk = bars.iloc[start : start + INSERT_ROWS]
        if connection.dialect.name == "postgresql":
            _insert_postgresql(connection, prices, chunk)
        else:  # SQLite stores NaN as NULL
            rows = zip(*(chunk[name].tolist() for name in chunk.columns), strict=True)
            connection.exec_driver_sql(statement, list(rows))
        progress.advance(len(chunk), note=str(chunk["ticker"].iloc[-1]))
    progress.finish()


def _insert_postgresql(connection: sa.Connection, prices: sa.Table, chunk: pd.DataFrame) -> None:
    """Send one array per column; keep a day that another program has stored meanwhile, because it takes no lock."""
    types = {name: sa.Text() if name in KEY else sa.Double() for name in chunk.columns}
    arrays = sa.func.unnest(*(sa.bindparam(name, type_=sa.ARRAY(kind)) for name, kind in types.items()))
    rows = arrays.table_valued(*(sa.column(*item) for item in types.items())).render_derived(name="bars")
    numbers = {name: sa.func.nullif(rows.c[name], sa.literal_column("'NaN'")) for name in types if name not in KEY}
    typed = sa.select(*(sa.cast(numbers.get(name, rows.c[name]), prices.c[name].type) for name in types))
    statement = postgresql.insert(prices).from_select(list(types), typed).on_conflict_do_nothing()
    # psycopg sends lists as text, which takes twice as long as %b, the binary form.
    sql = str(statement.compile(dialect=connection.dialect)).replace(")s::", ")b::")
    connection.exec_driver_sql(sql, {name: chunk[name].tolist() for name in types})


def _write_rejects(refused: pd.DataFrame, market: Market, undo: ExitStack) -> Path | None:
    """Write ticker, file, reason and line, beside the database (or in the working folder for a server)."""
    if refused.empty:
        return None
    folder, stem = (market.path.parent, market.path.stem) if market.path else (Path(), market.url.database)
    while True:
        path = folder / f"{stem}_rejects_{datetime.now(UTC):%Y%m%d_%H%M%S}.csv"
        try:
            with path.open("x", encoding="utf-8", newline="") as file:
                undo.callback(path.unlink)
                refused.map(cell).to_csv(file, index=False)
        except FileExistsError:
            time.sleep(0.1)  # another ingest of this second; the next one is free
        except OSError as error:
            raise OutputError(f"the refused bars cannot be written to {path}: {error.strerror}") from error
        else:
            return path


def _counts(found: Comparison, refused: pd.Series[str], *, accepted: bool) -> dict[str, Counts]:
    """Count per ticker, sorted by ticker."""
    changed = found.revised["ticker"].value_counts()
    counted = {
        "new": found.new["ticker"].value_counts(),
        "unchanged": found.common["ticker"].value_counts().sub(changed, fill_value=0),
        "revised" if accepted else "differs": changed,
        "rejected": refused.value_counts(),
    }
    table = pd.DataFrame(counted).fillna(0).astype("int64").sort_index()
    rows: Any = table.to_dict("index")
    return {name: Counts(**row) for name, row in rows.items()}


def reasons_of(source: SourceBars) -> dict[str, tuple[int, str]]:
    """Return reason → number of refused rows and the first of them, the commonest first."""
    refused = source.refused
    counts = refused["reason"].value_counts()
    firsts = refused.drop_duplicates("reason").set_index("reason").loc[counts.index, ["file", "line"]]
    rows = zip(counts.items(), firsts["file"], firsts["line"], strict=True)
    return {str(reason): (int(n), f"{excerpt(file)}: {excerpt(line, 70)}") for (reason, n), file, line in rows}
