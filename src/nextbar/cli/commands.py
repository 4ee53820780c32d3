"""The commands about runs: each takes its options, runs a workflow and renders the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from nextbar.cli import render
from nextbar.cli.console import note, progress, say, show
from nextbar.cli.options import JsonOption, LedgerOption, command, group_of
from nextbar.config import WORTH, CertifyConfig, CommonConfig, TrainConfig, WalkForwardConfig
from nextbar.errors import ArtifactError, ConfigError, EngineError, NextbarError
from nextbar.models.registry import KINDS, check_kinds
from nextbar.runs.files import check_target, refuse_pattern, removing_empty
from nextbar.runs.labels import matters, tell_unused
from nextbar.words import brief, nearest, plural
from nextbar.workflows.options import PlaceConfig

if TYPE_CHECKING:  # each command imports the workflow that it runs
    from nextbar.models.base import Model
    from nextbar.runs.run import Run
    from nextbar.workflows.recorded import Place
    from nextbar.workflows.report import Report
    from nextbar.workflows.walkforward import WalkForwardResult

EXIT_NO = 1
Named = TypeVar("Named", TrainConfig, CertifyConfig, WalkForwardConfig)
OWN = "estimator"
"""Subcommand for a model of the user's own."""
train_app = group_of(
    "Train models on the bars of a database. Each model is saved with a metadata file that holds its figures."
)
certify_app = group_of(
    "Prove that a model saw no future: change the bars after each border, run again, and compare every bit."
)
TRAIN_HELP = """{1}

\b
Examples:
  nextbar train {0} --ticker AAPL
  nextbar train {0} --ticker AAPL,MSFT --start 2005-01-01 --json
  nextbar train {0} --ticker ALL --db data/market.db --save_dir models"""
CERTIFY_HELP = """Train {1} as `nextbar train {0}` does, then prove that no future was seen.

A certificate is written beside each model: what was changed, and the digests of both runs. Exit code 1 if anything
moved, if a feature function reads other data than its bars, or if too little was tried.

\b
Examples:
  nextbar certify {0} --ticker AAPL
  nextbar certify {0} --ticker AAPL --walkforward
  nextbar certify {0} --artifact models/NAME_metadata.json"""


FACTORY_HELP = (
    "Your own model as module:factory: a function without arguments that returns a scikit-learn estimator, a "
    "nextbar.Estimator or another model."
)
Factory = Annotated[str | None, typer.Option("--model", help=FACTORY_HELP)]
Verbose = Annotated[bool, typer.Option("--verbose", help="List every file that is written.", rich_help_panel="Output")]
TRAIN_OWN_HELP = """Train your own model, which a function of yours returns.

The function is looked for in the working folder, after PYTHONPATH and the installed packages. Options of the search
change the model that it returns.

\b
Examples:
  nextbar train estimator --model my_models:make --ticker AAPL
  nextbar train estimator --model my_models:make --ticker ALL --pooled"""
CERTIFY_OWN_HELP = """Train your own model as `nextbar train estimator` does, then prove that no future was seen.

Two processes fit it first: a model that is not deterministic is refused. Exit code 1 if anything moved.

\b
Examples:
  nextbar certify estimator --model my_models:make --ticker AAPL
  nextbar certify estimator --model my_models:make --artifact models/NAME_metadata.json"""


def own_options(record: type[CommonConfig]) -> set[str]:
    """Return the options of trees that a model of the user's own has, too."""
    return {item.name for item in fields(record) if matters(item, "xgb")} - {"search", "fast"}


def exit_unless(good: bool) -> None:
    """End with exit code 1 where the answer is no."""
    if not good:
        raise typer.Exit(EXIT_NO)


def _train(
    config: TrainConfig, as_json: bool, context: typer.Context, factory: Factory, verbose: Verbose = False
) -> None:
    from nextbar.runs.openings import tell_read
    from nextbar.workflows.train import train

    config, own = _named_model(config, factory, context)
    _check_split(config, context)
    note(*tell_unused(_typed(context), [(config, own)]))
    log = mlflow_logger([config])
    with progress() as shown, removing_empty(config.save_dir):
        summary = train(config, shown, model=own)
    reports = [report for run in summary.runs for report in _pages([run.mark], config)] if config.logged else []
    show(as_json, lambda: render.training_json(summary), lambda: render.training([summary], verbose=verbose))
    note(*tell_read(summary.openings))
    log(reports)


def _named_model(config: Named, factory: str | None, context: typer.Context) -> tuple[Named, Model | None]:
    """Make the model of the user's own that is named, and the configuration of its run; None for a built-in kind."""
    if factory is None:
        return config, None
    if ":" not in factory:
        advice = f"; for a built-in kind: nextbar train {factory}" if factory in KINDS else nearest(factory, KINDS)
        raise ConfigError(
            f"--model expects module:factory, a function that returns a model; got {brief(factory)}{advice}"
        )
    from nextbar.workflows.own_models import named_model

    config, own = named_model(replace(config, model=factory), _typed(context), strict=True)
    if own.name == "pipeline" and not getattr(own, "label", own):
        note('a pipeline without a label is called pipeline; to name it: nextbar.Estimator(pipeline, label="…")')
    return config, own


def _typed(context: typer.Context) -> list[str]:
    """Names of the options that stand on the command line."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]


def _check_split(config: TrainConfig, context: typer.Context) -> None:
    """Refuse splits that differ by ticker for one model of trees over all tickers."""
    if config.pooled and context.params["split_by"] == "ticker" and "split_by" in _typed(context):
        raise ConfigError(
            "--pooled expects all tickers to be split at one date, got --split-by ticker; leave --split-by out"
        )


def _certify(config: CertifyConfig, as_json: bool, context: typer.Context, factory: Factory) -> None:
    from nextbar.runs.openings import tell_read
    from nextbar.workflows.certify import certify

    config, own = _named_model(config, factory, context)
    _check_split(config, context)
    note(*tell_unused(_typed(context), [(config, own)]))
    with progress() as shown, removing_empty(config.save_dir):
        certified = certify(config, shown, own)
    show(
        as_json,
        lambda: [{**one.to_json(), "path": one.path and str(one.path)} for one in certified.certificates],
        lambda: render.certificates(certified.certificates),
    )
    render.certified(certified)
    note(*tell_read(certified.openings))
    exit_unless(all(certificate.passed for certificate in certified.certificates))


for _kind, _facts in KINDS.items():
    train_app.command(_kind, help=TRAIN_HELP.format(_kind, _facts.about))(
        command(TrainConfig, model=_kind)(partial(_train, factory=None))
    )
    certify_app.command(_kind, help=CERTIFY_HELP.format(_kind, _facts.title))(
        command(CertifyConfig, model=_kind)(partial(_certify, factory=None))
    )
train_app.command(OWN, help=TRAIN_OWN_HELP)(command(TrainConfig, only=own_options(TrainConfig), model=OWN)(_train))
certify_app.command(OWN, help=CERTIFY_OWN_HELP)(
    command(CertifyConfig, only=own_options(CertifyConfig), model=OWN)(_certify)
)


@command(WalkForwardConfig)
def walk_forward(config: WalkForwardConfig, as_json: bool, context: typer.Context, verbose: Verbose = False) -> None:
    r"""Train a model again for each test window, and say what it would have earned on days that it had not seen.

    Each fold trains on some years. The months after them are validation, for early stopping and the threshold, and the
    months after validation are test. The test days of all folds are joined into one series; every day counts once.

    \b
    Examples:
      nextbar walkforward --model xgb --ticker AAPL
      nextbar walkforward --model all --ticker AAPL,MSFT --tune none
      nextbar walkforward --model lstm --ticker ALL --epochs 10 --output-dir results
      nextbar walkforward --model my_models:make --ticker AAPL
    """
    from nextbar.runs.openings import tell_read

    config, own = _named_model(config, config.model if ":" in config.model else None, context)
    models = list(KINDS) if own is None and config.model == "all" else [config.model]
    if own is None:
        check_kinds(models)
        _check_pooled(models, config)
    note(*tell_unused(_typed(context), [(replace(config, model=model), own) for model in models]))
    log = mlflow_logger([config])
    trades = _trades_writer(config.trades)
    _tell_size(models, config)
    try:
        results = walk_models(models, config, own)
    except (KeyboardInterrupt, EngineError):
        note("the same command with --resume goes on after the folds that have ended")
        raise
    reports = write_reports(results, config)
    trades([result.run for result in results])
    show(
        as_json,
        lambda: [render.run_json(result.run, reports) for result in results],
        lambda: render.walked(results, reports, verbose=verbose),
    )
    note(*tell_read([one for result in results for one in result.openings]))
    log(reports)


def _tell_size(models: Sequence[str], config: WalkForwardConfig) -> None:
    """Say before hours of work that several models are trained, and in how many folds."""
    from nextbar.workflows.walkforward import count_windows

    if len(models) > 1:
        with suppress(NextbarError):  # the walk-forward itself says why there is none
            size = f"{len(models)} models × {plural(count_windows(config), 'fold')}"
            note(f"{size}: {', '.join(models)}; for one of them: --model {models[-1]}")


def _check_pooled(models: Sequence[str], config: WalkForwardConfig) -> None:
    """Refuse an option of trees where no model has any."""
    if config.pooled and models == ["lstm"]:
        raise ConfigError(
            "--pooled is an option of rf and xgb; the LSTM is always one model over all tickers; leave --pooled out"
        )


def _trades_writer(path: str | None) -> Callable[[Sequence[Run]], object]:
    """Return what writes trades, its file checked before hours of work."""
    if path is None:
        return lambda _runs: None
    from nextbar.workflows.report import write_trades

    check_target(Path(path), "--trades")
    return partial(write_trades, Path(path))


def walk_models(models: Sequence[str], config: WalkForwardConfig, own: Model | None = None) -> list[WalkForwardResult]:
    """Walk each model forward, one after the other; ``own`` is that of the user, where it is named."""
    from nextbar.workflows.walkforward import walk_forward

    with progress() as shown, removing_empty(config.output_dir):
        return [walk_forward(replace(config, model=model), shown, model=own) for model in models]


def write_reports(results: Sequence[WalkForwardResult], config: WalkForwardConfig) -> list[Report]:
    """Write a page per result, and one that compares them; none with `--no-report`, unless MLflow gets them."""
    if config.no_report and not config.logged:
        return []
    return _pages([result.run.mark for result in results], config)


def _pages(marks: Sequence[Path], config: CommonConfig) -> list[Report]:
    from nextbar.workflows.report import report_each

    with progress() as shown:
        return report_each(marks, shown, ledger=config.ledger)


def mlflow_logger(configs: Sequence[CommonConfig]) -> Callable[[Sequence[Report]], object]:
    """Return what logs reports to MLflow where a configuration asks for it, checked before hours of work."""
    if not any(config.logged for config in configs):
        return lambda _reports: None
    from nextbar.workflows.tracking import logger

    return logger(required=any(config.mlflow_required for config in configs), tell=note)


@command(PlaceConfig)
def reproduce(
    config: PlaceConfig,
    as_json: bool,
    metadata: Annotated[Path, typer.Argument(help="A *_metadata.json, or the .json of a walk-forward.")],
    upgrade: Annotated[
        bool,
        typer.Option(
            "--upgrade",
            help="If every bit is equal, write the _weights.npz that predict needs and 0.1.0 did not write.",
        ),
    ] = False,
) -> None:
    r"""Train again from the metadata alone and compare every stage, bit by bit. Nothing is written without --upgrade.

    Exit code 1 if anything differs: the first stage is named, with what has changed since. The bars come from --db,
    never from a database that the file names.

    \b
    Examples:
      nextbar reproduce models/xgboost_AAPL_20260102_030405_metadata.json
      nextbar reproduce results/walkforward_rf_AAPL_20260102_030405.json --db moved.db
      nextbar reproduce models/random_forest_AAPL_20260102_030405_metadata.json --upgrade
      nextbar reproduce results/walkforward_logit_AAPL_20260102_030405.json --model my_models:make
    """
    from nextbar.workflows.reproduce import reproduce

    with progress() as shown:
        result = reproduce(metadata, shown, upgrade=upgrade, **place_of(config))
    show(as_json, result.to_json, lambda: say(*str(result).splitlines()))
    exit_unless(result.identical)


def place_of(config: PlaceConfig) -> Place:
    """Return where a recorded run is run again, with the model of the user's own that is named."""
    if config.engine == "serial" and config.jobs is not None:
        note("--jobs changes nothing: --engine serial is one process")
    place: Place = {"db": config.db, "features": config.features, "panel_features": config.panel_features}
    place |= {"engine": config.engine, "scheduler": config.scheduler, "jobs": config.jobs}
    if config.model is not None:
        from nextbar.workflows.own_models import load_model

        place["model"] = load_model(config.model)
    return place


def report(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE…", help="A walk-forward's result or a model's metadata.")
    ],
    *,
    ledger: LedgerOption = None,
    worth: Annotated[float, typer.Option(help="Excess a year that is worth trading, as a fraction.")] = WORTH,
    count: Annotated[bool, typer.Option("--count", help="Also record runs that the ledger does not know.")] = False,
    trades: Annotated[Path | None, typer.Option(help="Write every trade to this CSV file.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write only this file: the page (.html), or the same as .md or .json.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    r"""Write one page that says what runs are worth; it opens offline, and is also written as JSON and Markdown.

    Several files are compared on one page. The verdict is about the excess over a constant position of the model's own
    average exposure. It is adjusted for every configuration and ticker set in the trial ledger on the same days. A run
    that the ledger does not know counts on this page only, unless --count records it.

    \b
    Examples:
      nextbar report results/walkforward_xgb_all_20260102_030405.json
      nextbar report models/random_forest_AAPL_*_metadata.json models/xgboost_AAPL_*_metadata.json
      nextbar report results/walkforward_*.json --out experiments.html
    """
    from nextbar.runs.ledger import ledger_path
    from nextbar.workflows.report import report

    with progress() as shown:
        written = report(files, shown, ledger=ledger, worth=worth, count=count, trades=trades, out=out)
    show(as_json, written.to_json, lambda: render.reports([written]))
    for name in written.uncounted:
        note(f"{name} is not in the trial ledger {ledger_path(ledger)}, so it counts on this page alone; add: --count")


def runs(
    folders: Annotated[list[Path] | None, typer.Argument(help="Folders to look in (default: models, results).")] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """List finished runs, the latest first, with their main figures and whether they are certified.

    A run is called by its name (--name), else by its model and the options that differ between the runs listed.
    """
    from nextbar.runs.load import list_runs

    for folder in folders or ():
        refuse_pattern(folder)
    if missing := [str(folder) for folder in folders or () if not folder.is_dir()]:
        raise ArtifactError(f"{', '.join(missing)}: expected a folder that runs were written to")
    places = folders or [Path("models"), Path("results")]
    found, damaged = list_runs(places)
    note(*(f"left out: {reason}" for reason in damaged))
    if damaged and not found:
        raise ArtifactError(f"none of {plural(len(damaged), 'run')} can be read; fetch them again or train again")
    show(as_json, lambda: found, lambda: render.runs(found, places))
