"""`nextbar walkforward --model lstm|rf|xgb|all`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import typer

from nextbar.cli.console import err, out, print_json, progress
from nextbar.cli.options import SPELLINGS, command_of
from nextbar.cli.tables import walk_forward_table
from nextbar.config import MODEL_LABELS, WalkForwardConfig
from nextbar.pipelines.walkforward import WalkForwardResult, walk_forward

app = typer.Typer(context_settings=SPELLINGS)
REASONS_SHOWN = 8


def run_models(models: Sequence[str], config: WalkForwardConfig) -> list[WalkForwardResult]:
    """One result per model, one after the other."""
    with progress() as shown:
        return [walk_forward(replace(config, model=model), shown) for model in models]


def show(results: Sequence[WalkForwardResult], as_json: bool) -> None:
    """The table and the files on standard output, what was skipped on standard error."""
    if as_json:
        print_json([to_json(result) for result in results])
        return
    out.print(walk_forward_table(results))
    for path in (path for result in results for path in result.files):
        out.print(str(path), markup=False, highlight=False)
    for result in results:
        _tell_losses(result)


def _tell_losses(result: WalkForwardResult) -> None:
    skipped = result.document["skipped"]
    for skip in skipped[:REASONS_SHOWN]:
        where = "" if skip["fold"] is None else f"fold {skip['fold']}: "
        err.print(f"skipped {where}{skip['reason']}", markup=False, highlight=False)
    if len(skipped) > REASONS_SHOWN:
        err.print(f"… and {len(skipped) - REASONS_SHOWN} more, all in the result file", highlight=False)
    for name, trace in result.failed.items():
        err.print(f"failed {name}: please report this\n{trace}", markup=False, highlight=False)
    done = sum(fold["rows"] > 0 for fold in result.document["folds"])
    resumed = f", {result.resumed} tasks resumed" if result.resumed else ""
    wall = result.document["seconds"]["wall"]
    err.print(f"{result.model}: {done} folds{resumed}, {len(skipped)} left out, {wall:.0f} s", highlight=False)


def to_json(result: WalkForwardResult) -> dict[str, object]:
    """One result as JSON values, without the folds, which are in its file."""
    figures = {name: value for name, value in result.document.items() if name != "folds"}
    return {"files": [str(path) for path in result.files], **figures}


def _run(config: WalkForwardConfig, as_json: bool) -> None:
    r"""Retrain a model fold after fold, and say what it would have earned on days it had not seen.

    Each fold trains on some years, stops and decides on the months after them, and is tested on the months after those.
    Test days of all folds are stitched into one series; every day counts once.

    \b
    Examples:
      nextbar walkforward --model xgb --ticker AAPL
      nextbar walkforward --model all --ticker AAPL,MSFT --tune none
      nextbar walkforward --model lstm --ticker ALL --epochs 10 --output-dir results
    """
    models = list(MODEL_LABELS) if config.model == "all" else [config.model]
    show(run_models(models, config), as_json)


app.command()(command_of(WalkForwardConfig, _run))
