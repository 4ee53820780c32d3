"""`nextbar walkforward --model lstm|rf|xgb|all`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import typer

from nextbar.cli.console import err, out, print_json, progress, say
from nextbar.cli.options import SPELLINGS, command_of
from nextbar.cli.report import mlflow_logger, tell
from nextbar.cli.tables import plural, price_lines, remark_lines, walk_forward_table
from nextbar.config import MODEL_LABELS, WalkForwardConfig
from nextbar.errors import EngineError
from nextbar.pipelines.report import Report, report_each
from nextbar.pipelines.walkforward import WalkForwardResult, walk_forward

app = typer.Typer(context_settings=SPELLINGS, add_completion=False)
REASONS_SHOWN = 8


def run_models(models: Sequence[str], config: WalkForwardConfig) -> list[WalkForwardResult]:
    """One result per model, one after the other."""
    with progress() as shown:
        return [walk_forward(replace(config, model=model), shown) for model in models]


def write_reports(results: Sequence[WalkForwardResult], config: WalkForwardConfig) -> list[Report]:
    """A page per result, and one that compares them; none with `--no-report`, but MLflow gets its pages."""
    if config.no_report and not config.mlflow:
        return []
    with progress() as shown:
        return report_each([result.files[-1] for result in results], shown, ledger=config.ledger)


def show(results: Sequence[WalkForwardResult], reports: Sequence[Report], as_json: bool) -> None:
    """The table, the verdicts and the files on standard output, what was skipped on standard error."""
    if as_json:
        print_json([to_json(result, reports) for result in results])
        return
    out.print(walk_forward_table(results))
    say_besides(results)
    for path in (path for result in results for path in result.files):
        out.print(str(path), markup=False, highlight=False)
    tell(reports)
    for result in results:
        _tell_losses(result)


def say_besides(results: Sequence[WalkForwardResult]) -> None:
    """Errors of predicted prices, and remarks."""
    say(price_lines([(result.model, result.document) for result in results]))
    say(remark_lines([(result.model, result.document["remarks"]) for result in results]))


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
    resumed = f", {plural(result.resumed, 'fit')} resumed" if result.resumed else ""
    wall = result.document["seconds"]["wall"]
    lost = f"a ticker left out {plural(len(skipped), 'time')}"
    err.print(f"{result.model}: {plural(done, 'fold')}{resumed}, {lost}, {wall:.0f} s", highlight=False)


def to_json(result: WalkForwardResult, reports: Sequence[Report]) -> dict[str, object]:
    """One result as JSON values with its verdict, without the folds, which are in its file."""
    figures = {name: value for name, value in result.document.items() if name != "folds"}
    name = result.files[-1].stem
    verdict = next((run.judgement.to_json() for one in reports for run in one.runs if run.name == name), None)
    pages = [str(path) for one in reports if name in {run.name for run in one.runs} for path in one.files]
    return {"files": [str(path) for path in result.files], "verdict": verdict, "reports": pages, **figures}


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
    log = mlflow_logger(config.mlflow)
    try:
        results = run_models(models, config)
    except (KeyboardInterrupt, EngineError):
        err.print("the same command with --resume goes on after the folds that have ended", highlight=False)
        raise
    reports = write_reports(results, config)
    show(results, reports, as_json)
    log(reports)


app.command()(command_of(WalkForwardConfig, _run))
