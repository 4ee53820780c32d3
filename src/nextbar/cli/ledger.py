"""The commands about the ledger: list and remove trials, open the holdout of a run, list who has opened which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nextbar.cli import render
from nextbar.cli.commands import place_of
from nextbar.cli.console import note, out, progress, say, show
from nextbar.cli.options import JsonOption, LedgerOption, command, group_of
from nextbar.cli.tables import prose, right, table_of
from nextbar.errors import ArtifactError
from nextbar.words import excerpt, listed, nearest_file, plural, utc_minute
from nextbar.workflows.options import PlaceConfig

if TYPE_CHECKING:  # each command imports the workflow that it runs
    from nextbar.runs.openings import Holdouts
    from nextbar.runs.run import Run
    from nextbar.workflows.report import Report

holdout_app = group_of(
    "Score runs on bars that were held out with --holdout-from, and count how often that was done.\n\n"
    "Make runs with `nextbar train` or `nextbar walkforward` and --holdout-from 2019-01-02, choose one by its figures "
    "before that day, then open it. A holdout proves most when it is opened once: each further opening is counted, and "
    "the verdict is adjusted for it.\n\n"
    "\b\nExamples:\n"
    "  nextbar holdout open models/xgboost_AAPL_20260102_030405_metadata.json\n"
    "  nextbar holdout list"
)


@holdout_app.command("open")
@command(PlaceConfig)
def open_(
    config: PlaceConfig,
    as_json: bool,
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN…", help="Any file of each run that was made with --holdout-from.")
    ],
    trust: Annotated[
        bool, typer.Option("--trust", help="Load the files of your own model, which may run code.")
    ] = False,
    ledger: LedgerOption = None,
) -> None:
    r"""Score a run on the bars that it held out; the ledger counts the opening.

    A training run is scored with its saved model and threshold, from the first held-out day to the last bar. A
    walk-forward is continued with the same windows and options. The result is a new run beside the run,
    RUN_holdout_TIME.json and .parquet, with a page. Its verdict says how often these days of these tickers were opened,
    and is adjusted for that number. A run may be opened again; that is counted, too.

    \b
    Examples:
      nextbar holdout open models/xgboost_AAPL_20260102_030405_metadata.json
      nextbar holdout open results/walkforward_rf_AAPL_20260102_030405.json --db moved.db
      nextbar holdout open models/estimator_logit_AAPL_20260102_030405_metadata.json --model my_models:make --trust
    """
    from nextbar.workflows.holdout import open_saved

    with progress() as shown:
        opened = open_saved(runs, shown, ledger=ledger, trust=trust, **place_of(config))
    show(as_json, lambda: [render.run_json(run, [report]) for run, report in opened], lambda: _opened(opened))


def _opened(opened: Sequence[tuple[Run, Report]]) -> None:
    """Print figures, remarks, files, verdicts and what was left out."""
    render.walk_forwards([run for run, _ in opened], verbose=True)
    render.reports([report for _, report in opened])
    note(*(line for run, _ in opened for line in render.skip_lines(run.document.skipped)))


@holdout_app.command("list")
def list_(*, ledger: LedgerOption = None, as_json: JsonOption = False) -> None:
    r"""List the holdouts that runs have declared, and each opening of one; never create the ledger.

    A run that read held-out bars without holding them out is an opening, too: it is listed as "read". Other ledgers may
    know more openings.

    \b
    Examples:
      nextbar holdout list
      nextbar holdout list --ledger other.db --json
    """
    from nextbar.runs.ledger import Ledger

    path = ledger_file(ledger)
    found = Ledger(path, make=False).holdouts()
    show(as_json, found.to_json, lambda: _listing(found, path))


def _listing(found: Holdouts, path: Path) -> None:
    """Print a table of holdouts, and one of openings."""
    if not found.declared and not found.openings:
        say(f"no run of {path} holds bars out; make one with --holdout-from 2019-01-02")
        return
    rows = [[one.start, listed(one.tickers), utc_minute(one.declared), str(found.count(one))] for one in found.declared]
    out.print(table_of(["from", "tickers", "declared", *right("opened")], rows, title="Holdouts"))
    if found.openings:
        looks = [
            [utc_minute(one.opened), one.way, f"{one.start} to {one.last}", _tickers(one.tickers), one.shown_run]
            for one in found.openings
        ]
        out.print(table_of(["opened", "how", "days", "tickers", prose("run")], looks, title="Openings"))
    note(f"{plural(len(found.declared), 'holdout')}, {plural(len(found.openings), 'opening')} in {path}")


ledger_app = group_of(
    "List the trials that each verdict is adjusted for, or remove some.\n\nA configuration on a set of tickers "
    "counts once, however often it is run. If other code or other bars give other returns on the same days, it counts "
    "as a further trial, with a number.",
    no_args_is_help=False,
    invoke_without_command=True,
)


@ledger_app.callback()
def ledger(
    context: typer.Context,
    *,
    ticker: Annotated[str | None, typer.Option(help="Only trials scored on days of this ticker.")] = None,
    ledger: LedgerOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the trials; the file is never made."""
    if context.invoked_subcommand is not None:
        return
    from nextbar.runs.ledger import Ledger
    from nextbar.runs.trial import labelled

    path = ledger_file(ledger)
    trials = Ledger(path, make=False).trials()
    found = labelled([trial for trial in trials if ticker is None or ticker in trial.tickers])
    show(as_json, lambda: found, lambda: _trials(found, path, "" if ticker is None else f" of {excerpt(ticker, 40)}"))


@ledger_app.command("remove")
def remove(
    context: typer.Context,
    ids: Annotated[
        list[str], typer.Argument(metavar="ID…", help="Id of each trial, or its first 4 characters or more.")
    ],
    *,
    ledger: LedgerOption = None,
    as_json: JsonOption = False,
) -> None:
    r"""Remove trials permanently, all that are named or none; verdicts no longer count them.

    \b
    Examples:
      nextbar ledger remove 3f1c9a2b
      nextbar ledger --ledger other.db remove 3f1c9a2b 77aa01cd
    """
    from nextbar.runs.ledger import Ledger
    from nextbar.runs.trial import labelled

    given = context.parent.params if context.parent else {}
    path = ledger_file(ledger or given.get("ledger"))
    removed = Ledger(path, make=False).remove(ids)
    found = labelled(removed)
    show(as_json or given.get("as_json", False), lambda: found, lambda: _removed(found, path))


def ledger_file(chosen: str | None) -> Path:
    """Return the ledger's file; one that was named must be there."""
    from nextbar.runs.ledger import ledger_path

    path = ledger_path(chosen)
    if chosen is not None and not path.exists():
        raise ArtifactError(f"{chosen}: there is no such trial ledger{nearest_file(path)}; check the name")
    return path


def _trials(found: Sequence[Mapping[str, Any]], path: Path, of: str = "") -> None:
    """Print a table of trials and the ledger that holds them."""
    if not found:
        say(f"no trial{of} in {path}; train, walkforward and judge record what they try")
        return
    rows = [
        [
            one["label"],
            one["id"][:8],
            one["identity"][:8] + (f" / {one['variant']}" if one["variant"] > 1 else ""),
            one["kind"],
            _tickers(one["tickers"]),
            one["first"],
            one["last"],
            str(one["days"]),
        ]
        for one in found
    ]
    out.print(table_of([prose("trial"), "id", "identity", "kind", "tickers", "from", "to", "days"], rows))
    note(f"{plural(len(found), 'trial')} in {path}")


def _removed(found: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Say which trials were removed."""
    for one in found:
        about = f"{one['kind']} {one['label']} of {listed(one['tickers'])}, {one['first']} to {one['last']}"
        say(f"removed {one['id']}: {about}, {plural(one['days'], 'day')}")
    note(f"{plural(len(found), 'trial')} removed from {path}")


def _tickers(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= render.EXAMPLES else plural(len(names), "ticker")
