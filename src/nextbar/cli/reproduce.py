"""`nextbar reproduce <metadata.json>`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nextbar.cli.console import out, print_json, progress
from nextbar.cli.options import SPELLINGS, DatabaseOption
from nextbar.config import DEFAULT_DB
from nextbar.pipelines.reproduce import Reproduction, reproduce

app = typer.Typer(context_settings=SPELLINGS, add_completion=False)
EXIT_NO = 1


def show(result: Reproduction) -> None:
    """`bit-identical`, or the first stage that differs and what may explain it."""

    def say(line: str) -> None:
        out.print(line, markup=False, highlight=False)

    if result.identical:
        say(f"bit-identical ({result.folds} {'fit' if result.folds == 1 else 'fits'})")
    else:
        say(f"different: {result.where}, first at stage {result.stage}")
        say(f"  recorded {result.recorded or 'none'}")
        say(f"  now      {result.now or 'none'}")
    told = "what has changed since:" if result.identical else "what has changed since, and may explain it:"
    for stage, change in result.changed_rules.items():
        say(f"stage {stage}: rule changed since 0.1.0 ({change})")
    if result.differences:
        say("\n  ".join([told, *result.differences]))
    elif not result.identical and result.stage != "bars":
        say("versions, processor and threads are as recorded")


@app.command()
def _reproduce(
    metadata: Annotated[Path, typer.Argument(help="A *_metadata.json, or the .json of a walk-forward.")],
    *,
    db: DatabaseOption = DEFAULT_DB,
    features: Annotated[
        str | None, typer.Option(help="The run's own feature function, if it has one: module:function.")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="Where it is run again, whatever it was made with: loky, serial, dask.")
    ] = "loky",
    scheduler: Annotated[str | None, typer.Option(help="Address of a running Dask scheduler, tcp://….")] = None,
    jobs: Annotated[int | None, typer.Option(help="Processes (default: one per core).")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    r"""Train again from the metadata alone and compare every stage, bit by bit. Nothing is written.

    Exit code 1 if anything differs: the first stage is named, with what has changed since. The bars come from --db,
    never from a database that the file names.

    \b
    Examples:
      nextbar reproduce models/xgboost_AAPL_20260102_030405_metadata.json
      nextbar reproduce results/walkforward_rf_AAPL_20260102_030405.json --db moved.db
    """
    with progress() as shown:
        result = reproduce(metadata, shown, db=db, features=features, engine=engine, scheduler=scheduler, jobs=jobs)
    if json:
        print_json(result.to_json())
    else:
        show(result)
    if not result.identical:
        raise typer.Exit(EXIT_NO)
