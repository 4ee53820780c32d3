"""`nextbar ingest`: bars into the database."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from nextbar.cli import console
from nextbar.market.ingest import Counts, IngestSummary, ingest
from nextbar.market.sources.files import read_csv, read_parquet
from nextbar.market.sources.sample import read_sample

MAX_ROWS = 20

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="""Store daily bars in the database; refused bars go into a CSV file beside it, each with its reason.

Nothing that is stored is ever changed: ingesting twice adds nothing, and a bar that is there with other values is
counted as *differs* and keeps the old ones.

Examples:

- `nextbar ingest sample` – five stocks, 2000 to 2013, no network
- `nextbar ingest csv AAPL.csv` – the ticker is the file's name if no column says it
- `nextbar ingest csv bars/` – a folder with a file per ticker
- `nextbar ingest parquet all.parquet --db postgresql://me@host/market` – into a server
""",
)

Database = Annotated[str, typer.Option("--db", help="SQLite file (created if missing) or SQLAlchemy URL.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the counts per ticker as JSON.")]
Source = Annotated[Path, typer.Argument(help="A file with all bars, or a folder with a file per ticker.")]

COLUMNS_HELP = """Columns: date, open, high, low, close, volume; ticker and adj_close if there are any. The usual
spellings are understood (Date, Adj Close, Symbol, Vol, …), days as 2024-01-31, 2024/01/31 or 20240131."""


@app.command("sample", help="Store real bars that come with the extra [demo]: AAPL, FB, GOOG, IBM, MSFT, 2000 to 2013.")
def sample_command(*, db: Database = "data/market.db", as_json: AsJson = False) -> None:
    """Store the sample."""
    with console.progress() as progress:
        summary = ingest(read_sample(), db, progress=progress)
    _show(summary, as_json=as_json)


@app.command("csv", help=f"Store the bars of CSV files.\n\n{COLUMNS_HELP}")
def csv_command(path: Source, *, db: Database = "data/market.db", as_json: AsJson = False) -> None:
    """Store CSV files."""
    with console.progress() as progress:
        summary = ingest(read_csv(path, progress), db, progress=progress)
    _show(summary, as_json=as_json)


@app.command("parquet", help=f"Store the bars of Parquet files.\n\n{COLUMNS_HELP}")
def parquet_command(path: Source, *, db: Database = "data/market.db", as_json: AsJson = False) -> None:
    """Store Parquet files."""
    with console.progress() as progress:
        summary = ingest(read_parquet(path, progress), db, progress=progress)
    _show(summary, as_json=as_json)


def _show(summary: IngestSummary, *, as_json: bool) -> None:
    """Counts to standard output, as a table or as JSON."""
    if as_json:
        console.print_json(
            {
                "database": summary.database,
                "rejects": str(summary.rejects) if summary.rejects else None,
                "total": asdict(summary.total),
                "tickers": {name: asdict(counts) for name, counts in summary.tickers.items()},
            }
        )
        return
    console.out.print(_table(summary))
    hidden = len(summary.tickers) - MAX_ROWS
    if hidden > 0:
        console.out.print(f"… and {hidden} more tickers (all of them: --json)")
    console.out.print(f"database: {summary.database}", markup=False)
    if summary.rejects:
        console.out.print(f"refused bars, each with its reason: {summary.rejects}", markup=False)
    if summary.total.differs:
        console.out.print(f"{summary.total.differs} bars are stored with other values; the stored ones were kept")


def _table(summary: IngestSummary) -> Table:
    """The tickers with the most to tell first: refused and differing bars, then by name."""
    table = Table("ticker", *Counts.__dataclass_fields__, show_footer=True)
    for column in table.columns[1:]:
        column.justify = "right"
    rows = sorted(summary.tickers.items(), key=lambda item: -item[1].rejected - item[1].differs)
    for name, counts in rows[:MAX_ROWS]:
        table.add_row(Text(name), *_cells(counts))
    for column, cell in zip(table.columns, [f"{len(rows)} tickers", *_cells(summary.total)], strict=True):
        column.footer = cell
    return table


def _cells(counts: Counts) -> list[str]:
    return [f"{number:,}" for number in asdict(counts).values()]
