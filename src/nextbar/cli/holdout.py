"""The commands about holdouts: open that of a run, and list who has opened which."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nextbar.cli import render
from nextbar.cli.commands import FeaturesOption, ModelOption, PanelOption, ledger_file
from nextbar.cli.console import note, out, print_json, progress, say
from nextbar.cli.main import SPELLINGS
from nextbar.cli.options import DatabaseOption, JsonOption, LedgerOption
from nextbar.cli.tables import right, table_of
from nextbar.config import DEFAULT_DB
from nextbar.words import listed, plural, utc_minute

if TYPE_CHECKING:  # each command imports the workflow that it runs
    from nextbar.runs.openings import Holdouts

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    context_settings=SPELLINGS,
    help="Score runs on bars that were held out with --holdout-from, and count how often that was done.\n\n"
    "Make runs with `nextbar train` or `nextbar walkforward` and --holdout-from 2019-01-02, choose one by its figures "
    "before that day, then open it. A holdout proves most when it is opened once: each further opening is counted, and "
    "the verdict is adjusted for it.\n\n"
    "\b\nExamples:\n"
    "  nextbar holdout open models/xgboost_AAPL_20260102_030405_metadata.json\n"
    "  nextbar holdout list",
)


@app.command("open")
def open_(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN…", help="Any file of each run that was made with --holdout-from.")
    ],
    *,
    db: DatabaseOption = DEFAULT_DB,
    features: FeaturesOption = None,
    panel_features: PanelOption = None,
    model: ModelOption = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Load the files of your own model, which may run code.")
    ] = False,
    engine: Annotated[str, typer.Option(help="Where folds are trained: loky, serial, dask.")] = "loky",
    scheduler: Annotated[str | None, typer.Option(help="Address of a running Dask scheduler, tcp://….")] = None,
    jobs: Annotated[int | None, typer.Option(help="Number of processes (default: one per core).")] = None,
    ledger: LedgerOption = None,
    as_json: JsonOption = False,
) -> None:
    r"""Score a run on the bars that it held out; the ledger counts the opening.

    A training run is scored with its saved model and threshold, from the first held-out day to the last bar. A
    walk-forward is continued with the same windows and options. The result is a run of its own beside the run,
    RUN_holdout_TIME.json and .parquet, with a page. Its verdict says how often these days of these tickers were opened,
    and is adjusted for that number. A run may be opened again; that is counted, too.

    \b
    Examples:
      nextbar holdout open models/xgboost_AAPL_20260102_030405_metadata.json
      nextbar holdout open results/walkforward_rf_AAPL_20260102_030405.json --db moved.db
      nextbar holdout open models/estimator_logit_AAPL_20260102_030405_metadata.json --model my_models:make --trust
    """
    from nextbar.workflows.holdout import open_saved
    from nextbar.workflows.recorded import Place

    place: Place = {"db": db, "features": features, "panel_features": panel_features}
    place |= {"engine": engine, "scheduler": scheduler, "jobs": jobs}
    if model is not None:
        from nextbar.workflows.own_models import load_model

        place["model"] = load_model(model)
    with progress() as shown:
        opened = open_saved(runs, shown, ledger=ledger, trust=trust, **place)
    if as_json:
        print_json([render.run_json(run, [report]) for run, report in opened])
        return
    render.walk_forwards([run for run, _ in opened], verbose=True)
    render.reports([report for _, report in opened])
    note(*(line for run, _ in opened for line in render.skip_lines(run.document.skipped)))


@app.command("list")
def list_(*, ledger: LedgerOption = None, as_json: JsonOption = False) -> None:
    r"""List the holdouts that runs have declared, and each opening of one; never create the ledger.

    A run that read held-out bars without holding them out is an opening, too.

    \b
    Examples:
      nextbar holdout list
      nextbar holdout list --ledger other.db --json
    """
    from nextbar.runs.ledger import Ledger

    path = ledger_file(ledger)
    found = Ledger(path, make=False).holdouts()
    if as_json:
        print_json(found.to_json())
    else:
        _listing(found, path)


def _listing(found: Holdouts, path: Path) -> None:
    """Print a table of holdouts, then a line per opening."""
    rows = [[one.start, listed(one.tickers), utc_minute(one.declared), str(found.count(one))] for one in found.declared]
    out.print(table_of(["from", "tickers", "declared", *right("opened")], rows))
    say(*map(str, found.openings))
    counted = f"{plural(len(found.declared), 'holdout')}, {plural(len(found.openings), 'opening')} in {path}"
    note(f"{counted}; what another ledger holds is not known here")
