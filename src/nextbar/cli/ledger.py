"""`nextbar ledger`: every configuration that was ever scored."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from nextbar.artifacts.ledger import Ledger
from nextbar.cli.console import err, out, print_json
from nextbar.cli.options import SPELLINGS, JsonOption, LedgerOption
from nextbar.cli.tables import plural
from nextbar.errors import ArtifactError
from nextbar.pipelines.trials import describe_trials

app = typer.Typer(context_settings=SPELLINGS, add_completion=False)


@app.command("ledger")
def ledger_command(
    *,
    ticker: Annotated[str | None, typer.Option(help="Only trials scored on days of this ticker.")] = None,
    ledger: LedgerOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the trials that deflate a verdict: each configuration counts once, however often it is run."""
    if ledger is not None and not Path(ledger).exists():
        raise ArtifactError(f"{ledger}: there is no such ledger; the first run with --ledger makes it")
    book = Ledger(ledger)
    found = [one for one in describe_trials(book.trials()) if ticker is None or ticker in one["tickers"]]
    if as_json:
        print_json(found)
        return
    table = Table("trial", "kind", "model", "tickers", "from", "to", "recorded")
    for one in found:
        names = one["tickers"]
        shown = ", ".join(names) if len(names) <= 3 else plural(len(names), "ticker")
        cells = (one["id"][:8], one["kind"], one["model"], shown, one["first"], one["last"], one["recorded"][:16])
        table.add_row(*(Text(cell) for cell in cells))
    out.print(table)
    err.print(f"{plural(len(found), 'configuration')} in {book.path}", markup=False, highlight=False)
