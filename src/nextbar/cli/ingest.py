"""The commands about bars: store them in the database, and check those that are stored."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from nextbar.cli import console
from nextbar.cli.main import EXIT_BAD_INPUT
from nextbar.cli.options import DatabaseOption, JsonOption, command, group_of
from nextbar.cli.tables import Sheet, prose, right, table_of
from nextbar.config import DEFAULT_CALENDAR, DEFAULT_DB
from nextbar.errors import ConfigError, NextbarError
from nextbar.market.checks import SEVERITIES, Finding, Severity, tally
from nextbar.market.database import check_writer
from nextbar.market.ingest import MOST_REFUSED, Counts, IngestSummary, ingest, reasons_of
from nextbar.market.sources.files import read_files
from nextbar.market.sources.reader import SourceBars
from nextbar.market.sources.sample import read_sample
from nextbar.market.sources.yahoo import Download
from nextbar.types import Progress
from nextbar.words import excerpt, listed, plural, said_once
from nextbar.workflows.options import FilesConfig, StoreConfig, UpdateConfig
from nextbar.workflows.universe import symbols
from nextbar.workflows.update import check_stored, runs_in_question, update

MAX_ROWS = 20
MAX_NAMED = 3
YAHOO_CLIENT = "nextbar.market.sources.yahoo_client"
"""Imported when Yahoo is used: the import takes a second, and its extra may not be installed."""
HELP = """Store daily bars in the database; refused bars go into a CSV file beside it, each with its reason.

No stored bar is changed unless you ask for it. Ingesting a file twice adds nothing. A bar that is stored with other
values is counted as *differs* and keeps the stored values, which changes no exit code; a note says so where more than
5 % of the stored bars differ. `--accept-revisions` replaces them; the old values go into the table `price_revisions`.

Examples:

- `nextbar ingest sample` – five stocks, 2000 to 2013, no network
- `nextbar ingest csv AAPL.csv` – the file's name is the ticker if there is no ticker column
- `nextbar ingest csv bars/` – a folder with a file per ticker, and the folders in it
- `nextbar ingest csv bars.csv --dry-run` – shows how the file is understood; nothing is stored
- `nextbar ingest csv prices.csv --columns close=Price,volume=Vol --date-format %d.%m.%Y --ticker AAPL`
- `nextbar ingest parquet all.parquet --db postgresql://me@host/market` – into a server
- `nextbar ingest yahoo AAPL MSFT` – fetches the bars that are missing
"""
SAMPLE_HELP = "Store real bars that come with the extra [demo]: AAPL, FB, GOOG, IBM, MSFT, 2000 to 2013."
FILES_HELP = """Store the bars of {} files; the format of each file is found from its content.

Columns: date, open, high, low, close; volume, adj_close and ticker if there are any, under the usual names of
vendors in several languages. Separator, decimal mark, header lines and the format of days are found from the content.
Each guess is printed in a line, and an option replaces it. `--dry-run` shows how the file is understood and stores
nothing.

Exit code 1: a file or a ticker was left out, or more than 5 % of the rows were refused; 2: nothing was stored."""
EXIT_INCOMPLETE = EXIT_NO = 1
EXAMPLES = 3
"""Most tickers of each kind of finding that are printed."""
app = group_of(HELP, rich_markup_mode="markdown")


def _store_files(
    config: FilesConfig,
    as_json: bool,
    path: Annotated[Path, typer.Argument(help="A file with all bars, or a folder with a file per ticker.")],
    *,
    kind: str,
) -> None:
    now = dt.datetime.now(dt.UTC)

    def read(progress: Progress) -> SourceBars:
        return read_files(path, progress, config.hints, now, kind=kind.lower())

    if config.dry_run:
        with console.progress() as shown:
            source = read(shown)
        _tell_reading(source, as_json=as_json)
    else:
        _store(config, as_json, read=read, origin=f"{kind} {path.name}")


def _store(config: StoreConfig, as_json: bool, *, read: Callable[[Progress], SourceBars], origin: str) -> None:
    check_writer(config.db)
    with console.progress() as shown:
        source, accept = read(shown), config.accept_revisions
        summary = ingest(source, config.db, progress=shown, accept_revisions=accept, origin=origin)
    _tell(summary, {}, config, as_json=as_json)
    if not summary.complete:
        raise typer.Exit(EXIT_INCOMPLETE)


def _tell_reading(source: SourceBars, *, as_json: bool) -> None:
    """Print what would be stored."""
    reasons, refused = reasons_of(source), len(source.refused)
    if as_json:
        found = {"tickers": {str(k): int(n) for k, n in source.bars["ticker"].value_counts().sort_index().items()}}
        told = {"understood": source.understood, "notes": source.notes, "reasons": reasons, "left_out": source.left_out}
        console.print_json({**found, **told, "refused": refused, "stored": 0})
    else:
        console.say(*source.understood, *_read_lines(source.notes, reasons, source.left_out))
        console.say(
            f"{plural(len(source.bars), 'bar')} can be stored, {plural(refused, 'row')} refused; nothing was stored"
        )
    if source.left_out or refused > MOST_REFUSED * (len(source.bars) + refused):
        raise typer.Exit(EXIT_INCOMPLETE if len(source.bars) else EXIT_BAD_INPUT)


def _read_lines(notes: Sequence[str], reasons: Mapping[str, tuple[int, str]], left_out: Mapping[str, str]) -> list[str]:
    """Return a line for each guess, each reason of refused rows, and each file or ticker that was left out."""
    told = [f"  {reason}: {plural(count, 'row')}, first {first}" for reason, (count, first) in reasons.items()]
    out = [f"left out: {name}: {reason.removeprefix(f'{name}: ')}" for name, reason in left_out.items()]
    refused = ["refused:", *_first(told)] if told else []
    return [*(f"note: {note}" for note in notes[:MAX_ROWS]), *refused, *_first(out)]


def _first(lines: Sequence[str]) -> list[str]:
    """Return the first lines, and how many more there are."""
    more = [f"  and {len(lines) - MAX_ROWS:,} more (all of them: --json)"] if len(lines) > MAX_ROWS else []
    return [*lines[:MAX_ROWS], *more]


_store_sample = partial(_store, read=lambda _: read_sample(), origin="sample")
app.command("sample", help=SAMPLE_HELP)(command(StoreConfig)(_store_sample))
for _kind in ("CSV", "Parquet"):
    app.command(_kind.lower(), help=FILES_HELP.format(_kind))(command(FilesConfig)(partial(_store_files, kind=_kind)))


@app.command("yahoo")
@command(UpdateConfig)
def _update(
    config: UpdateConfig,
    as_json: bool,
    tickers: Annotated[list[str] | None, typer.Argument(help="Yahoo's symbols.", show_default=False)] = None,
) -> None:
    """Fetch missing bars from Yahoo (extra [yahoo]), and the last stored days again to find changed values.

    The bar of a day that is not over on the exchange of --calendar is left out. If a ticker fails, the others are still
    fetched.
    """
    download: Download = import_module(YAHOO_CLIENT).download
    wanted = _symbols(tickers or [], config.universe)
    with console.progress() as shown:
        summary, failed = update(wanted, config, download, shown, now=dt.datetime.now(dt.UTC))
    _tell(summary, failed, config, as_json=as_json)
    if failed or not summary.complete:
        raise typer.Exit(EXIT_INCOMPLETE)


def _symbols(tickers: Sequence[str], universe: Path | None) -> list[str]:
    """Return symbols in upper case, each once, in order."""
    try:
        lines = universe.read_text(encoding="utf-8").splitlines() if universe else []
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--universe {universe}: cannot be read ({getattr(error, 'strerror', error)})") from error
    names = [*tickers, *(line.partition("#")[0] for line in lines)]
    found = list(dict.fromkeys(name.strip().upper() for name in names if name.strip()))
    if not found:
        raise ConfigError("ingest yahoo expects symbols or --universe FILE; got none")
    return found


def _tell(summary: IngestSummary, failed: Mapping[str, str], config: StoreConfig, *, as_json: bool) -> None:
    """Check the stored bars and print the summary; the bars are stored, so nothing here is an error."""
    runs, notes = runs_in_question(config.models or [Path("models"), Path("results")], summary.revisions)
    found: Mapping[Severity, int] = {}
    stored = {name for name, counts in summary.tickers.items() if counts != Counts(rejected=counts.rejected)}
    try:
        findings = check_stored(config.db, tickers=stored, calendar=config.calendar)
        found, notes = tally(findings), [*notes, *_data_notes(findings)]
    except NextbarError as error:
        notes.append(str(error))
    notes += _many_differ(summary.total)
    if "ALL" in stored:
        notes.append("a ticker is named ALL, which means every ticker elsewhere; choose it alone with: --ticker ALL,")
    if as_json:
        after = {"failed": dict(failed), "runs": runs, "check": found, "notes": notes}
        told = asdict(summary) | {"rejects": summary.rejects and str(summary.rejects), "total": asdict(summary.total)}
        console.print_json(told | {"accepted": config.accept_revisions} | after)
        return
    console.out.print(_table(summary))
    console.say(*_lines(summary), *(f"failed: {line}" for line in said_once(failed.items())))
    if runs:
        console.say(f"runs that used bars in question: {listed(runs, MAX_NAMED)}")
    console.say(*(f"note: {note}" for note in notes))
    if found:
        more = f" (see: nextbar check --db {summary.database})" if any(found.values()) else ""
        console.say(_check_line(found) + more)


def _many_differ(total: Counts) -> list[str]:
    """Return a line where the source differs from many of the stored bars."""
    common = total.differs + total.unchanged
    if total.differs <= MOST_REFUSED * common:
        return []
    told = f"{total.differs:,} of the {plural(common, 'bar')} that were stored already differ from the source"
    kept = "were kept" if total.new else "were kept, and nothing was stored"
    return [f"{told} ({100 * total.differs / common:.0f} %), and {kept}; to replace them: --accept-revisions"]


def _data_notes(findings: Sequence[Finding]) -> list[str]:
    """Return lines about bars that will not be used, and days that are not those of a market."""
    lacking = [item for item in findings if item.rule == "no adj_close"]
    named = [f"{item.ticker} from {item.date} ({item.detail})" for item in lacking]
    found = f"no adj_close, though the history has it: {listed(named, MAX_NAMED)}"
    notes = [f"{found}; {lacking[0].advice}"] if lacking else []
    if cases := [item for item in findings if item.rule == "letter case"]:
        notes.append(f"{listed([*dict.fromkeys(item.detail for item in cases)], MAX_NAMED)}; {cases[0].advice}")
    told: dict[str, list[str]] = {}
    for item in findings:
        shifted = item.rule == "not a session" and item.severity == "warning"
        if shifted or item.rule in ("spacing of bars", "swapped days"):
            told.setdefault(item.rule, []).append(f"{item.ticker}: {item.detail}")
    return [*notes, *(f"{rule}: {listed(lines, MAX_NAMED)}" for rule, lines in told.items())]


def _lines(summary: IngestSummary) -> list[str]:
    """Return the lines below the table."""
    hidden = len(summary.tickers) - MAX_ROWS
    lines = [f"… and {plural(hidden, 'more ticker')} (all of them: --json)"] if hidden > 0 else []
    lines.append(f"database: {summary.database}")
    lines += _read_lines(summary.notes, summary.reasons, summary.left_out)
    if summary.rejects:
        lines.append(f"refused bars, each with its reason: {summary.rejects}")
    if summary.restated:
        lines.append(
            "the source restated its prices by one factor on all common days (a dividend or a split); new bars were "
            f"brought to the stored scale: {_factors(summary.restated)}"
        )
    if summary.rescaled:
        lines.append(f"new bars were brought to the scale of the stored adj_close: {_factors(summary.rescaled)}")
    days: dict[str, list[str]] = {}
    for revision in summary.revisions:
        days.setdefault(revision.ticker, []).append(f"{revision.date} ({', '.join(revision.columns)})")
    revisions = _first([f"  {name}: {listed(dates, MAX_NAMED)}" for name, dates in days.items()])
    if differs := summary.total.differs:
        lines.append(f"stored with other values: {plural(differs, 'bar')}; the stored values were kept:")
        lines += [*revisions, "  if the new values are right: --accept-revisions"]
    if revised := summary.total.revised:
        lines.append(f"revised: {plural(revised, 'bar')}; the old values are in the table price_revisions:")
        lines += revisions
    return lines


def _factors(factors: Mapping[str, float]) -> str:
    return listed([f"{name} × {factor:.6g}" for name, factor in factors.items()], MAX_NAMED)


def _table(summary: IngestSummary) -> Table:
    """List tickers with refused and differing bars first, then by name."""
    table = Table("ticker", *right(*Counts.__dataclass_fields__), show_footer=True)
    rows = sorted(summary.tickers.items(), key=lambda item: -item[1].rejected - item[1].differs - item[1].revised)
    for name, counts in rows[:MAX_ROWS]:
        table.add_row(Text(excerpt(name) or "(none)"), *_cells(counts))
    for column, cell in zip(table.columns, [plural(len(rows), "ticker"), *_cells(summary.total)], strict=True):
        column.footer = cell
    return table


def _cells(counts: Counts) -> list[str]:
    return [f"{number:,}" for number in asdict(counts).values()]


def check(
    *,
    ticker: Annotated[
        str, typer.Option(help='Symbols, separated by commas, or ALL ("ALL," for a ticker named ALL).')
    ] = "ALL",
    db: DatabaseOption = DEFAULT_DB,
    calendar: Annotated[
        str, typer.Option(help="Exchange whose sessions are expected (exchange_calendars).")
    ] = DEFAULT_CALENDAR,
    as_json: JsonOption = False,
) -> None:
    r"""Find impossible and suspicious bars; nothing is changed.

    Exit code 1 if there are errors. Review the warnings; an info describes the data and needs no action.

    \b
    Examples:
      nextbar check
      nextbar check --ticker AAPL,MSFT
      nextbar check --calendar XTKS --json
    """
    names = None if ticker.strip().upper() == "ALL" else symbols(ticker)
    findings = check_stored(db, tickers=names, calendar=calendar)
    counts = tally(findings)
    told = {"counts": counts, "findings": [asdict(item) | {"advice": item.advice} for item in findings]}
    console.show(as_json, lambda: told, lambda: _findings(findings, counts))
    if counts["error"]:
        raise typer.Exit(EXIT_NO)


def _check_line(counts: Mapping[Severity, int]) -> str:
    """Return one line about all findings."""
    return "check: " + ", ".join(plural(count, severity) for severity, count in counts.items())


def _findings(found: Sequence[Finding], counts: Mapping[Severity, int]) -> None:
    """Print the number of findings per rule, then examples."""
    if found:
        console.out.print(_rules(found))
        console.out.print(table_of(["ticker", "date", "rule", "severity", prose("detail")], _examples(found)))
        console.say(f"Up to {EXAMPLES} tickers of each kind; every finding: --json")
    console.say(_check_line(counts))


def _order(finding: Finding) -> tuple[int, str]:
    return SEVERITIES.index(finding.severity), finding.rule


def _rules(found: Sequence[Finding]) -> Sheet:
    of_rule: dict[tuple[str, str, str], list[str]] = {}
    for item in sorted(found, key=_order):
        of_rule.setdefault((item.rule, item.severity, item.advice), []).append(item.ticker)
    rows = [[*rule, str(len(tickers)), str(len(set(tickers)))] for rule, tickers in of_rule.items()]
    return table_of(["rule", "severity", prose("advice"), *right("findings", "tickers")], rows, title="What was found")


def _examples(found: Sequence[Finding]) -> Iterable[list[str]]:
    """Give a few tickers of each kind, those with the most findings first, so that no kind hides the others."""
    of_kind: dict[tuple[int, str], dict[str, list[Finding]]] = {}
    for item in found:
        of_kind.setdefault(_order(item), {}).setdefault(item.ticker, []).append(item)
    for _, tickers in sorted(of_kind.items()):
        for name, items in sorted(tickers.items(), key=lambda entry: -len(entry[1]))[:EXAMPLES]:
            first, more = items[0], f"; {len(items) - 1} more to {items[-1].date}" if items[1:] else ""
            yield [name, first.date, first.rule, first.severity, first.detail + more]
