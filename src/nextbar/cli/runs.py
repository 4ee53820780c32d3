"""`nextbar runs`: what lies in the folders of models and results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table
from rich.text import Text

from nextbar.artifacts.runs import list_runs
from nextbar.cli.console import err, out, print_json
from nextbar.cli.options import SPELLINGS, JsonOption
from nextbar.cli.tables import number, percent
from nextbar.errors import ArtifactError

app = typer.Typer(context_settings=SPELLINGS, add_completion=False)
CERTIFIED = {True: "yes", False: "FAILED", None: "–"}


@app.command("runs")
def runs_command(
    folders: Annotated[list[Path] | None, typer.Argument(help="Folders to look in (default: models, results).")] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """List finished runs, the latest first, with their main figures and whether they are certified."""
    if missing := [str(folder) for folder in folders or () if not folder.is_dir()]:
        raise ArtifactError(f"{', '.join(missing)}: expected a folder that runs were written to")
    found, damaged = list_runs(folders or [Path("models"), Path("results")])
    for reason in damaged:
        err.print(f"left out: {reason}", markup=False, highlight=False)
    if as_json:
        print_json(found)
        return
    table = Table("date", Column("run", overflow="fold"), "kind", "tickers")
    for heading in ("days", "bal. accuracy", "ROC-AUC", "Sharpe", "max drawdown"):
        table.add_column(heading, justify="right")
    table.add_column("certified")
    for run in found:
        table.add_row(*(Text(cell) for cell in _cells(run)))
    out.print(table)
    err.print(f"{len(found)} runs", highlight=False)


def _cells(run: dict[str, Any]) -> list[str]:
    tickers = run["tickers"]
    return [
        run["created"][:16].replace("T", " "),
        str(Path(run["folder"]) / run["name"]),
        run["kind"],
        ", ".join(tickers) if len(tickers) <= 3 else str(len(tickers)),
        str(run["days"]),
        number(run["balanced_accuracy"]),
        number(run["roc_auc"]),
        number(run["sharpe"], 2),
        percent(run["max_drawdown"]),
        CERTIFIED[run["certified"]],
    ]
