"""The commands that compare experiments, and what they print; each is no wider than 80 columns."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nextbar.cli.commands import exit_unless, mlflow_logger
from nextbar.cli.console import note, out, progress, say, show
from nextbar.cli.options import JsonOption, LedgerOption
from nextbar.cli.render import EXAMPLES
from nextbar.cli.tables import Sheet, narrow_table
from nextbar.config import DB_VARIABLE
from nextbar.errors import ConfigError, NothingToTrainError
from nextbar.runs.files import removing_empty
from nextbar.scoring.metrics import METRICS, Days, Detail, Metric, Rows, figure_text, shown_metrics
from nextbar.types import JsonDict
from nextbar.words import listed, plural, said_once

if TYPE_CHECKING:  # each command imports the workflow that it runs
    from nextbar.workflows.compare import ComparedRuns
    from nextbar.workflows.experiments import Experiments

COMPARED = [*shown_metrics(Detail.FULL), METRICS["rank_ic"], METRICS["rank_ic_t"]]
"""Metrics that a comparison shows where a run has them."""


def compare(
    files: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Any file of each run; two runs or more.")],
    *,
    ledger: LedgerOption = None,
    as_json: JsonOption = False,
) -> None:
    r"""Show runs side by side on the days and tickers that all of them have, net of the same costs.

    A run is called by its name, else by its model and the options that differ. The figures are followed by the
    differences to the first run, each with a 95 % interval from a bootstrap of the days, and by the number of
    configurations tried on these days, because the best of many looks good by luck. The verdict of each run is in its
    report.

    \b
    Examples:
      nextbar compare results/walkforward_*.json
      nextbar compare results/walkforward_rf_*.json results/walkforward_xgb_*.json
      nextbar compare results/walkforward_*.json --json
    """
    from nextbar.workflows.compare import compare_files, table_json

    found = compare_files(files, ledger)
    show(as_json, lambda: table_json(found), lambda: compared(found))


def run(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Run file (TOML).")],
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be run; run and write nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    r"""Walk forward every configuration of a run file that is not finished, then compare all of them in one table.

    The keys of a run file are the options of nextbar walkforward. [defaults] applies to every [[run]], and values in
    lists are combined: two models and two sets of features make four runs. A run is finished if its output folder holds
    a walk-forward of the same options, tickers and database. Paths are relative to the current folder.

    Exit code 1 if a run could not be made, 2 if none could be made. If the file has an error, nothing is run, and the
    exit code is 2. --dry-run also finds runs whose windows are longer than the stored bars, or whose days have none; it
    then ends with 1.

    \b
    A run file:
      [defaults]
      ticker = "AAPL,MSFT"
      no_tune = true
      [[run]]
      model = ["rf", "xgb"]
      features = ["levels", "relative"]

    \b
    Examples:
      nextbar run experiments.toml --dry-run
      nextbar run experiments.toml
      nextbar run experiments.toml --json
    """
    from nextbar.runs.openings import tell_read
    from nextbar.workflows.experiments import (
        check_experiments,
        newer_bars,
        read_experiments,
        run_experiments,
        try_days,
        write_pages,
    )

    found = read_experiments(file, os.environ.get(DB_VARIABLE))
    note(*found.notes)
    check_experiments(found, file)
    if dry_run:
        try_days(found)
        table = None
    else:
        log = mlflow_logger([item.config for item in found.open])
        with progress() as shown, ExitStack() as folders:
            for folder in dict.fromkeys(item.config.output_dir for item in found.open):
                folders.enter_context(removing_empty(folder))
            run_experiments(found, shown, note)
            note(*tell_read([one for item in found.items if item.result for one in item.result.openings]))
            _refuse_nothing(found)
            log(write_pages(found, shown))
        table = _compared(found)
    show(as_json, lambda: _json(found, table), lambda: _told(found, table))
    note(*newer_bars(found))
    exit_unless(all(item.error is None for item in found.items))


def _refuse_nothing(found: Experiments) -> None:
    """End with an error where there is no run at all."""
    if not any(item.run for item in found.items):
        count = plural(len(found.items), "run")
        raise NothingToTrainError(f"none of {count} could be made: {'; '.join(_errors(found)[:EXAMPLES])}")


def _errors(found: Experiments) -> list[str]:
    """Return why runs could not be made, each reason once; a name that holds a comma stands in quotes."""
    failed = ((f'"{item.name}"' if "," in item.name else item.name, item.error) for item in found.items)
    return said_once(((name, error) for name, error in failed if error is not None), "runs")


def _json(found: Experiments, table: ComparedRuns | None) -> JsonDict:
    """Return what became of each run, and the comparison, as JSON values."""
    from nextbar.workflows.compare import table_json

    items = [one.to_json() for one in found.items]
    return {"runs": items, "comparison": None if table is None else table_json(table)}


def _told(found: Experiments, table: ComparedRuns | None) -> None:
    """Print what became of each run, and the comparison."""
    for item in found.items:
        say(f"{item.state}: {item.name}", *([] if item.run is None else [f"  {item.run.mark}"]))
    if table is not None:
        compared(table)
    note(*(f"failed: {line}" for line in _errors(found)))


def _compared(found: Experiments) -> ComparedRuns | None:
    """Compare the runs that there are; a note says why they cannot be."""
    from nextbar.runs.ledger import Ledger
    from nextbar.workflows.compare import compare_loaded

    runs = [item.run for item in found.items if item.run is not None]
    if len(runs) == 1:
        return None  # one run alone has nothing beside it, and its page says what it is worth
    ledger = next(item.config.ledger for item in found.items if item.run is not None)
    try:
        return compare_loaded(runs, Ledger(ledger, make=False))
    except ConfigError as error:
        note(f"no comparison: {error}")
        return None


def compared(found: ComparedRuns) -> None:
    """Print the figures of each run, the differences to the first, and how much was tried."""
    from nextbar.workflows.compare import rows_of

    rows, about = rows_of(found), found.attrs
    first = next(iter(rows))
    days = plural(int(rows[first]["days"]), "day")
    for of, title in (
        (Rows, f"{days} from {about['first']} to {about['last']}, {listed(about['tickers'], 3)}"),
        (Days, "Net of costs"),
    ):
        out.print(_figures(rows, [metric for metric in COMPARED if metric.of is of], title))
    differences = [
        [name, _interval(row, "difference", None), _interval(row, "accuracy_difference", 3)]
        for name, row in rows.items()
        if name not in (first, "always_long")
    ]
    headings = ["run", "return a year\n[95 % interval]", "balanced accuracy\n[95 % interval]"]
    out.print(narrow_table(headings, differences, title=f"Difference to {first}, on the same days"))
    counted = f" (here, or in {about['ledger']})" if about["ledger"] else ""
    say(f"{plural(about['tried'], 'configuration')} tried on these days{counted}; the best of many looks good by luck")


def _figures(rows: Mapping[str, Mapping[str, Any]], metrics: Sequence[Metric], title: str) -> Sheet:
    """Make a table of those metrics that any row has."""
    shown = [one for one in metrics if any(row.get(one.name) is not None for row in rows.values())]
    texts = [[name, *(figure_text(row.get(one.name), one.digits) for one in shown)] for name, row in rows.items()]
    return narrow_table(["run", *(one.label for one in shown)], texts, title=title)


def _interval(row: Mapping[str, Any], key: str, digits: int | None) -> str:
    """Write a difference with its sign and its interval."""
    values = [row.get(name) for name in (key, f"{key}_low", f"{key}_high")]
    mean, low, high = ("+" * (value is not None and value > 0) + figure_text(value, digits) for value in values)
    return f"{mean} [{low}, {high}]"
