"""`nextbar predict MODEL …`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from rich.table import Table
from rich.text import Text

from nextbar.artifacts.journal import Entry, journal_path
from nextbar.artifacts.store import write_bytes
from nextbar.cli.console import err, out, print_json
from nextbar.cli.options import SPELLINGS, DatabaseOption
from nextbar.cli.tables import number, plural
from nextbar.config import DEFAULT_DB
from nextbar.errors import OutputError
from nextbar.pipelines.predict import PredictRequest, PredictSummary, predict

HELP = """Predict the bar after the last one, and note the prediction in the journal.

Nothing in a model's files is run: a stranger's model is safe to load. It may still be wrong.

\b
Examples:
  nextbar predict models/xgboost_AAPL_20260102_030405.json
  nextbar predict models/xgboost_* --out signals.csv
  nextbar predict models/lstm_all_20260102_030405.keras --ticker AAPL,MSFT
"""
app = typer.Typer(context_settings=SPELLINGS, add_completion=False)

Journal = Annotated[
    Path | None,
    typer.Option(
        "--journal", help="Journal of predictions (default: as NEXTBAR_JOURNAL says, else in your state folder)."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.command(help=HELP)
def predict_command(
    models: Annotated[list[Path], typer.Argument(help="Any file of each model; its siblings must lie beside it.")],
    *,
    ticker: Annotated[
        str, typer.Option(help="Symbols, separated by commas, or ALL that the model was trained on.")
    ] = "ALL",
    db: DatabaseOption = DEFAULT_DB,
    max_age_days: Annotated[int, typer.Option(help="Most calendar days that the last bar may be old.", min=0)] = 7,
    features: Annotated[
        str | None, typer.Option(help="Your feature function, if the model was trained with one: module:function.")
    ] = None,
    csv: Annotated[Path | None, typer.Option("--out", help="Write the signals to this CSV file, too.")] = None,
    journal: Journal = None,
    as_json: AsJson = False,
) -> None:
    """Predict, note, tell."""
    request = PredictRequest(
        models=models,
        db=db,
        journal=journal_path(journal),
        now=dt.datetime.now(dt.UTC),
        ticker=None if ticker.upper() == "ALL" else ticker,
        max_age_days=max_age_days,
        features=features,
    )
    summary = predict(request)
    if csv is not None:
        _write_csv(csv, summary.entries)
    if as_json:
        told = [asdict(entry) | ages(entry) for entry in summary.entries]
        print_json({"predictions": told, "skipped": summary.skipped, "notes": summary.notes})
        return
    out.print(_table(summary.entries))
    _tell(summary, request.journal)


def ages(entry: Entry) -> dict[str, int]:
    """Days from the last bar, and from the training of the model, to the prediction."""
    made = dt.datetime.fromisoformat(entry.made)
    return {
        "bar_age_days": (made.date() - dt.date.fromisoformat(entry.date)).days,
        "model_age_days": (made - dt.datetime.fromisoformat(entry.model_made)).days,
    }


def _table(entries: Sequence[Entry]) -> Table:
    table = Table(title="The bar after the last one")
    for column in ("ticker", "model", "last bar", "age"):
        table.add_column(column)
    for column in ("close", "probability", "threshold", "predicted close", "signal", "model's age"):
        table.add_column(column, justify="right")
    for entry in entries:
        age = ages(entry)
        table.add_row(
            Text(entry.ticker),
            Text(entry.model, overflow="fold"),
            entry.date,
            f"{age['bar_age_days']} d",
            number(entry.close, 2),
            number(entry.probability, 4),
            number(entry.threshold),
            number(entry.predicted_close, 2),
            "long" if entry.signal else "flat",
            f"{age['model_age_days']} d",
        )
    return table


def _tell(summary: PredictSummary, journal: Path) -> None:
    """What was left out, what to know besides, and where the journal is."""
    for reason in summary.skipped.values():
        err.print(f"skipped {reason}", markup=False, highlight=False)
    for note in summary.notes:
        err.print(f"note: {note}", markup=False, highlight=False)
    err.print(f"{plural(len(summary.entries), 'prediction')} noted in {journal}", markup=False, highlight=False)


def _write_csv(path: Path, entries: Sequence[Entry]) -> None:
    content = pd.DataFrame([asdict(entry) | ages(entry) for entry in entries]).to_csv(index=False)
    try:
        write_bytes(path, content.encode())
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror}); the predictions are in the journal"
        ) from error
