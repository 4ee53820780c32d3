"""`nextbar score`."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

import typer

from nextbar.artifacts.journal import journal_path
from nextbar.cli.console import err, out, print_json
from nextbar.cli.options import SPELLINGS, DatabaseOption
from nextbar.cli.predict import AsJson, Journal
from nextbar.cli.tables import walk_forward_table
from nextbar.config import DEFAULT_DB, CommonConfig
from nextbar.errors import ConfigError
from nextbar.pipelines.score import ScoreRequest, ScoreSummary, score

HELP = """What became of the predictions in the journal, in the table of a walk-forward.

The first prediction of a kind of model for a ticker and day counts, if it was made before the next bar's market opened.
It is the one test that cannot leak.

\b
Examples:
  nextbar score
  nextbar score --model xgboost_AAPL --json
  nextbar score --opens 00:00 --db data/tokyo.db
"""
app = typer.Typer(context_settings=SPELLINGS, add_completion=False)


@app.command(help=HELP)
def score_command(
    *,
    db: DatabaseOption = DEFAULT_DB,
    model: Annotated[str, typer.Option(help="Count only artifacts whose name holds this.")] = "",
    cost_bps: Annotated[float, typer.Option(help="Cost per change of position, in basis points.")] = 5.0,
    risk_free: Annotated[float, typer.Option(help="Risk-free rate per year, as a fraction.")] = 0.0,
    periods_per_year: Annotated[
        float | None, typer.Option(help="Bars per year (default: from the days of the bars).")
    ] = None,
    opens: Annotated[
        str, typer.Option(help="When the next bar's market opens, UTC; later predictions do not count.")
    ] = "13:30",
    journal: Journal = None,
    as_json: AsJson = False,
) -> None:
    """Score and tell."""
    config = CommonConfig(db=db, cost_bps=cost_bps, risk_free=risk_free, periods_per_year=periods_per_year)
    summary = score(ScoreRequest(journal=journal_path(journal), config=config, opens=_time(opens), model=model))
    if as_json:
        print_json(_to_json(summary))
        return
    if summary.scored:
        out.print(walk_forward_table(list(summary.scored.values())))
    else:
        err.print("nothing to score before the next bar; ingest newer bars", highlight=False)
    err.print(", ".join(f"{count} {name}" for name, count in _left_out(summary).items()), highlight=False)


def _time(text: str) -> dt.time:
    try:
        return dt.time.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"--opens expects a time such as 13:30, got {text!r}") from error


def _left_out(summary: ScoreSummary) -> dict[str, int]:
    names = ("pending", "late", "repeated", "lost")
    return {name: getattr(summary, name) for name in names}


def _to_json(summary: ScoreSummary) -> dict[str, object]:
    models = {kind: {"tickers": one.tickers, **one.document} for kind, one in summary.scored.items()}
    return {"models": models, **_left_out(summary)}
