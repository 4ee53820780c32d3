"""`nextbar check`: are the stored bars fit for training?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from nextbar.cli.console import out, print_json
from nextbar.cli.options import SPELLINGS, DatabaseOption
from nextbar.config import DEFAULT_DB
from nextbar.market.calendar import DEFAULT_CALENDAR
from nextbar.market.checks import ADVICE, SEVERITIES, Finding, Severity, tally
from nextbar.pipelines.check import check

MAX_OF_A_KIND = 3
NO = 1

app = typer.Typer(context_settings=SPELLINGS, add_completion=False)

Calendar = Annotated[str, typer.Option("--calendar", help="Exchange whose sessions are expected (exchange_calendars).")]


@app.command()
def check_command(
    *,
    ticker: Annotated[str, typer.Option(help="Symbols, separated by commas, or ALL.")] = "ALL",
    db: DatabaseOption = DEFAULT_DB,
    calendar: Calendar = DEFAULT_CALENDAR,
    as_json: Annotated[bool, typer.Option("--json", help="Print every finding as JSON.")] = False,
) -> None:
    r"""Look for bars that cannot be true, or may not be; nothing is changed.

    Exit code 1 if there are errors. Warnings need eyes; infos are true and good to know.

    \b
    Examples:
      nextbar check
      nextbar check --ticker AAPL,MSFT
      nextbar check --calendar XTKS --json
    """
    names = None if ticker.upper() == "ALL" else [part.strip() for part in ticker.split(",") if part.strip()]
    findings = check(db, tickers=names, calendar=calendar)
    counts = tally(findings)
    if as_json:
        print_json({"counts": counts, "findings": [asdict(item) | {"advice": item.advice} for item in findings]})
    else:
        _show(findings, counts, db)
    if counts["error"]:
        raise typer.Exit(NO)


def summary_line(counts: Mapping[Severity, int], db: str) -> str:
    """One line about all findings."""
    told = ", ".join(f"{count} {severity}{'' if count == 1 else 's'}" for severity, count in counts.items())
    return f"check: {told}" + (f" (see: nextbar check --db {db})" if any(counts.values()) else "")


def _show(findings: Sequence[Finding], counts: Mapping[Severity, int], db: str) -> None:
    """How many of which rule, then examples."""
    if findings:
        out.print(_rules(findings))
        out.print(_examples(findings))
        out.print(f"Up to {MAX_OF_A_KIND} tickers of each kind; every finding: --json", highlight=False)
    out.print(summary_line(counts, db).partition(" (see")[0], markup=False, highlight=False)


def _rules(findings: Sequence[Finding]) -> Table:
    table = Table("rule", "severity", "advice", title="What was found")
    for column in ("findings", "tickers"):
        table.add_column(column, justify="right")
    counted = Counter((item.severity, item.rule) for item in findings)
    for severity, rule in sorted(counted, key=lambda key: (SEVERITIES.index(key[0]), key[1])):
        tickers = {item.ticker for item in findings if (item.severity, item.rule) == (severity, rule)}
        table.add_row(rule, severity, ADVICE[rule], str(counted[severity, rule]), str(len(tickers)))
    return table


def _examples(findings: Sequence[Finding]) -> Table:
    """A few tickers of each kind, those with the most findings first, so that no kind hides the others."""
    table = Table("ticker", "date", "rule", "severity", "detail")
    tickers: dict[tuple[int, str], dict[str, list[Finding]]] = {}
    for item in findings:
        kind = SEVERITIES.index(item.severity), item.rule
        tickers.setdefault(kind, {}).setdefault(item.ticker, []).append(item)
    for _, of_kind in sorted(tickers.items()):
        for name, items in sorted(of_kind.items(), key=lambda entry: -len(entry[1]))[:MAX_OF_A_KIND]:
            first, more = items[0], f"; {len(items) - 1} more to {items[-1].date}" if items[1:] else ""
            table.add_row(Text(name), first.date, first.rule, first.severity, Text(first.detail + more))
    return table
