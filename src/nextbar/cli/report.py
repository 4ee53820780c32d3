"""`nextbar report FILE…`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from nextbar.cli.console import out, print_json, progress
from nextbar.cli.options import SPELLINGS, JsonOption, LedgerOption
from nextbar.evaluation.significance import WORTH
from nextbar.pipelines.report import Report, report
from nextbar.reports.facts import listed

app = typer.Typer(context_settings=SPELLINGS, add_completion=False)


def tell(reports: Sequence[Report]) -> None:
    """Print each run's verdict with what must be said with it, then the files."""
    for run in {run.name: run for one in reports for run in one.runs}.values():
        if run.suspicious:
            out.print(f"SUSPICIOUS: {run.suspicious}", markup=False, highlight=False, style="bold red")
        verdict = f"{run.judgement.verdict.value}: {run.model}, {listed(run.about['tickers'])}"
        out.print(verdict, markup=False, highlight=False, style="bold")
        for statement in run.judgement.statements:
            out.print(f"  {statement}", markup=False, highlight=False)
    for path in (path for one in reports for path in one.files):
        out.print(str(path), markup=False, highlight=False)


def mlflow_logger(wanted: bool) -> Callable[[Sequence[Report]], None]:
    """What logs reports to MLflow, found out before hours of work; something that does nothing if it is not wanted.

    Raises:
        MissingExtraError: mlflow is not installed.
        OutputError: It has nowhere to log to.
    """
    if not wanted:
        return lambda _reports: None
    tracking = import_module("nextbar.pipelines.tracking")
    tracking.choose_experiment(os.environ)
    log: Callable[[Sequence[Report]], None] = tracking.log_reports
    return log


def verdicts(reports: Sequence[Report]) -> list[dict[str, object]]:
    """Files and verdicts as JSON values."""
    return [
        {
            "files": [str(path) for path in one.files],
            "runs": [{"name": run.name, **run.judgement.to_json()} for run in one.runs],
        }
        for one in reports
    ]


@app.command("report")
def report_command(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE…", help="A walk-forward's result or a model's metadata.")
    ],
    *,
    ledger: LedgerOption = None,
    worth: Annotated[float, typer.Option(help="Excess a year that is worth trading, as a fraction.")] = WORTH,
    as_json: JsonOption = False,
) -> None:
    r"""Write one page that says what runs are worth: opens offline, with a JSON and a Markdown twin beside it.

    Several files are compared on one page. The verdict is about the excess over a constant position of the model's own
    average exposure. It is deflated for every configuration and ticker set in the trial ledger on the same days.

    \b
    Examples:
      nextbar report results/walkforward_xgb_all_20260102_030405.json
      nextbar report models/random_forest_AAPL_*_metadata.json models/xgboost_AAPL_*_metadata.json
    """
    with progress() as shown:
        written = report(files, shown, ledger=ledger, worth=worth)
    if as_json:
        print_json(verdicts([written])[0])
    else:
        tell([written])
