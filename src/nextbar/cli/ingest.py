"""`nextbar ingest`: bars into the database."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from nextbar.cli import console
from nextbar.cli.check import Calendar, summary_line
from nextbar.cli.options import SPELLINGS
from nextbar.cli.tables import plural
from nextbar.config import DB_VARIABLE, DEFAULT_DB
from nextbar.errors import ConfigError, NextbarError
from nextbar.market.calendar import DEFAULT_CALENDAR
from nextbar.market.checks import Finding, Severity, tally
from nextbar.market.ingest import Counts, IngestSummary, ingest
from nextbar.market.revisions import Revision
from nextbar.market.sources.columns import SourceBars
from nextbar.market.sources.files import read_csv, read_parquet
from nextbar.market.sources.sample import read_sample
from nextbar.market.sources.yahoo import Download
from nextbar.pipelines.check import check
from nextbar.pipelines.update import UpdateRequest, by_reason, runs_in_question, update
from nextbar.types import Progress

MAX_ROWS = 20
MAX_NAMED = 3
YAHOO_CLIENT = "nextbar.market.sources.yahoo_client"
"""Imported when Yahoo is asked: it costs a second, and its extra may not be installed."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    context_settings=SPELLINGS,
    help="""Store daily bars in the database; refused bars go into a CSV file beside it, each with its reason.

Nothing stored is ever changed unasked: ingesting twice adds nothing, and a bar that is there with other values is
counted as *differs* and keeps the old ones. `--accept-revisions` replaces them; the old ones go into the table
`price_revisions`.

Examples:

- `nextbar ingest sample` – five stocks, 2000 to 2013, no network
- `nextbar ingest csv AAPL.csv` – the ticker is the file's name if no column says it
- `nextbar ingest csv bars/` – a folder with a file per ticker
- `nextbar ingest parquet all.parquet --db postgresql://me@host/market` – into a server
- `nextbar ingest yahoo AAPL MSFT` – what is missing since the last time
""",
)

Database = Annotated[
    str, typer.Option("--db", envvar=DB_VARIABLE, help="SQLite file (created if missing) or SQLAlchemy URL.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the counts per ticker as JSON.")]
Source = Annotated[Path, typer.Argument(help="A file with all bars, or a folder with a file per ticker.")]
Accept = Annotated[
    bool, typer.Option("--accept-revisions", help="Replace stored values that differ; keep the old ones.")
]
Runs = Annotated[
    list[Path] | None,
    typer.Option("--models", help="Folder of runs, may be repeated: which used bars that differ?  [models, results]"),
]

COLUMNS_HELP = """Columns: date, open, high, low, close, volume; ticker and adj_close if there are any. The usual
spellings are understood (Date, Adj Close, Symbol, Vol, …), days as 2024-01-31, 2024/01/31 or 20240131."""


@app.command("sample", help="Store real bars that come with the extra [demo]: AAPL, FB, GOOG, IBM, MSFT, 2000 to 2013.")
def sample_command(
    *,
    db: Database = DEFAULT_DB,
    accept_revisions: Accept = False,
    models: Runs = None,
    calendar: Calendar = DEFAULT_CALENDAR,
    as_json: AsJson = False,
) -> None:
    """Store the sample."""
    summary = _store(read_sample(), db, "sample", accept=accept_revisions)
    _tell(summary, {}, db, accept=accept_revisions, models=models, calendar=calendar, as_json=as_json)


def _file_command(kind: str, read: Callable[[Path, Progress], SourceBars]) -> None:
    def command(
        path: Source,
        *,
        db: Database = DEFAULT_DB,
        accept_revisions: Accept = False,
        models: Runs = None,
        calendar: Calendar = DEFAULT_CALENDAR,
        as_json: AsJson = False,
    ) -> None:
        with console.progress() as progress:
            source = read(path, progress)
        summary = _store(source, db, f"{kind} {path.name}", accept=accept_revisions)
        _tell(summary, {}, db, accept=accept_revisions, models=models, calendar=calendar, as_json=as_json)

    app.command(kind.lower(), help=f"Store the bars of {kind} files.\n\n{COLUMNS_HELP}")(command)


_file_command("CSV", read_csv)
_file_command("Parquet", read_parquet)


@app.command("yahoo")
def yahoo_command(
    tickers: Annotated[list[str] | None, typer.Argument(help="Yahoo's symbols.", show_default=False)] = None,
    *,
    universe: Annotated[Path | None, typer.Option(help="File with a symbol per line; # begins a comment.")] = None,
    since: Annotated[str, typer.Option(help="First day of tickers that are not stored yet.")] = "1990-01-01",
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Ask for all stored days again, not only the last.")
    ] = False,
    db: Database = DEFAULT_DB,
    accept_revisions: Accept = False,
    models: Runs = None,
    calendar: Calendar = DEFAULT_CALENDAR,
    as_json: AsJson = False,
) -> None:
    """Fetch bars from Yahoo (extra [yahoo]): what is missing, and the last stored days again to see if they still hold.

    The bar of a day that is not over on the exchange of --calendar is left out. A ticker that fails does not stop
    the others.
    """
    download: Download = import_module(YAHOO_CLIENT).download
    request = UpdateRequest(
        tickers=_symbols(tickers or [], universe),
        db=db,
        now=dt.datetime.now(dt.UTC),
        since=_day(since),
        refresh=refresh,
        calendar=calendar,
        accept_revisions=accept_revisions,
    )
    with console.progress() as progress:
        summary, failed = update(request, download, progress)
    _tell(summary, failed, db, accept=accept_revisions, models=models, calendar=calendar, as_json=as_json)


def _store(source: SourceBars, db: str, origin: str, *, accept: bool) -> IngestSummary:
    with console.progress() as progress:
        return ingest(source, db, progress=progress, accept_revisions=accept, origin=origin)


def _symbols(tickers: Sequence[str], universe: Path | None) -> list[str]:
    """In upper case, each once, in order."""
    try:
        lines = universe.read_text(encoding="utf-8").splitlines() if universe else []
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--universe {universe}: cannot be read ({getattr(error, 'strerror', error)})") from error
    names = [*tickers, *(line.partition("#")[0] for line in lines)]
    found = list(dict.fromkeys(name.strip().upper() for name in names if name.strip()))
    if not found:
        raise ConfigError("ingest yahoo expects symbols or --universe FILE; got none")
    return found


def _day(text: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"--since: {text!r} is not a day; expected YYYY-MM-DD") from error


def _tell(
    summary: IngestSummary,
    failed: Mapping[str, str],
    db: str,
    *,
    accept: bool,
    models: Sequence[Path] | None,
    calendar: str,
    as_json: bool,
) -> None:
    """Look at what is stored now, then say everything; the bars are stored, so nothing here is an error."""
    runs, notes = runs_in_question(models or [Path("models"), Path("results")], summary.revisions)
    found: Mapping[Severity, int] = {}
    stored = {name for name, counts in summary.tickers.items() if counts != Counts(rejected=counts.rejected)}
    try:
        findings = check(db, tickers=stored, calendar=calendar)
        found, notes = tally(findings), notes + _left_out(findings)
    except NextbarError as error:
        notes.append(str(error))
    after = {"accepted": accept, "failed": dict(failed), "runs": runs, "check": found, "notes": notes}
    if as_json:
        console.print_json(_document(summary) | after)
        return
    console.out.print(_table(summary))
    lines = [*_lines(summary), *(f"failed: {line}" for line in by_reason(failed))]
    lines += [f"runs that used bars in question: {_few(runs)}"] if runs else []
    lines += [f"note: {note}" for note in notes]
    lines += [summary_line(found, summary.database)] if found else []
    for line in lines:
        console.out.print(line, markup=False, highlight=False)


def _left_out(findings: Sequence[Finding]) -> list[str]:
    """One line about bars that nothing will use."""
    lacking = [item for item in findings if item.rule == "no adj_close"]
    named = [f"{item.ticker} from {item.date} ({item.detail})" for item in lacking]
    return [f"no adj_close, though the history has it: {_few(named)}; {lacking[0].advice}"] if lacking else []


def _document(summary: IngestSummary) -> dict[str, object]:
    return {
        "database": summary.database,
        "rejects": str(summary.rejects) if summary.rejects else None,
        "total": asdict(summary.total),
        "tickers": {name: asdict(counts) for name, counts in summary.tickers.items()},
        "rescaled": dict(summary.rescaled),
        "revisions": [asdict(revision) for revision in summary.revisions],
    }


def _lines(summary: IngestSummary) -> list[str]:
    """A line per fact."""
    hidden = len(summary.tickers) - MAX_ROWS
    lines = [f"… and {plural(hidden, 'more ticker')} (all of them: --json)"] if hidden > 0 else []
    lines.append(f"database: {summary.database}")
    if summary.rejects:
        lines.append(f"refused bars, each with its reason: {summary.rejects}")
    if summary.rescaled:
        named = [f"{name} × {factor:.6g}" for name, factor in summary.rescaled.items()]
        lines.append(f"new bars were brought to the scale of the stored adj_close: {_few(named)}")
    if differs := summary.total.differs:
        lines.append(f"{differs} bars are stored with other values; the stored ones were kept:")
        lines += [*_revised(summary.revisions), "  if the new values are right: --accept-revisions"]
    if revised := summary.total.revised:
        lines.append(f"{revised} bars were revised; the old values are in the table price_revisions:")
        lines += _revised(summary.revisions)
    return lines


def _revised(revisions: Sequence[Revision]) -> list[str]:
    """A line per ticker, a few of each."""
    days: dict[str, list[str]] = {}
    for revision in revisions:
        days.setdefault(revision.ticker, []).append(f"{revision.date} ({', '.join(revision.columns)})")
    lines = [f"  {name}: {_few(dates)}" for name, dates in days.items()]
    more = len(lines) - MAX_ROWS
    return lines if more <= 0 else [*lines[:MAX_ROWS], f"  and {plural(more, 'more ticker')}"]


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def _table(summary: IngestSummary) -> Table:
    """The tickers with the most to tell first: refused and differing bars, then by name."""
    table = Table("ticker", *Counts.__dataclass_fields__, show_footer=True)
    for column in table.columns[1:]:
        column.justify = "right"
    rows = sorted(summary.tickers.items(), key=lambda item: -item[1].rejected - item[1].differs - item[1].revised)
    for name, counts in rows[:MAX_ROWS]:
        table.add_row(Text(name), *_cells(counts))
    for column, cell in zip(table.columns, [plural(len(rows), "ticker"), *_cells(summary.total)], strict=True):
        column.footer = cell
    return table


def _cells(counts: Counts) -> list[str]:
    return [f"{number:,}" for number in asdict(counts).values()]
