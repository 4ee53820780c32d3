"""`nextbar ledger`: every configuration that was ever scored."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from nextbar.artifacts.ledger import Ledger, ledger_path
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
    """List the trials that deflate a verdict: a configuration on a set of tickers counts once, however often it is run.

    Scored again with other returns on the same days (other code, other bars) it is another trial, with a number.
    """
    path = ledger_path(ledger)
    if ledger is not None and not path.exists():
        raise ArtifactError(f"{ledger}: there is no such ledger; the first run with --ledger makes it")
    trials = describe_trials(Ledger(path).trials()) if path.exists() else []
    found = [one for one in trials if ticker is None or ticker in one["tickers"]]
    if as_json:
        print_json(found)
        return
    table = Table("identity", "kind", "model", "tickers", "from", "to", "days", "options")
    for one in found:
        table.add_row(*(Text(cell) for cell in _cells(one)))
    out.print(table)
    err.print(f"{plural(len(found), 'trial')} in {path}", markup=False, highlight=False)


def _cells(trial: dict[str, Any]) -> list[str]:
    names, variant = trial["tickers"], trial["variant"]
    return [
        trial["identity"][:8] + (f" / {variant}" if variant > 1 else ""),
        trial["kind"],
        trial["model"],
        ", ".join(names) if len(names) <= 3 else plural(len(names), "ticker"),
        trial["first"],
        trial["last"],
        str(trial["days"]),
        ", ".join(f"{name} {value}" for name, value in trial["options"].items()) or "defaults",
    ]
