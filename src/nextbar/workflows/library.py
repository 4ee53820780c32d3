"""Verbs of the library on bars, models and runs.

Nothing is written and no ledger is opened unless a path is given; only the refit of a loaded run is written beside it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from nextbar.config import CertifyConfig, CommonConfig, TrainConfig, WalkForwardConfig
from nextbar.datasets.prices import history_of
from nextbar.datasets.splits import Split, Windows
from nextbar.errors import ArgumentError, ConfigError, OutputError, option_words, remark, verb
from nextbar.evaluation.certificate import Certificate
from nextbar.execution.by_value import send_by_value
from nextbar.features.spec import FeatureSpec
from nextbar.market.sources.frames import market_bars
from nextbar.models.base import Model
from nextbar.models.registry import check_model
from nextbar.reports.notebook import run_html, run_text
from nextbar.reports.sentences import certify_command
from nextbar.runs.files import as_path, write_bytes
from nextbar.runs.labels import tell_unused
from nextbar.runs.ledger import Ledger, record_trial
from nextbar.runs.load import check_runs, load_runs
from nextbar.runs.openings import tell_read
from nextbar.runs.run import Run
from nextbar.types import Progress, Silent
from nextbar.words import brief
from nextbar.workflows.certify import certify_recorded, content_of
from nextbar.workflows.judge import Signals, check_threshold, judge_signals, long_from, long_signals
from nextbar.workflows.options import check_options
from nextbar.workflows.recorded import Place, recall, recall_all
from nextbar.workflows.refit import check_refit, refit_recorded
from nextbar.workflows.report import render
from nextbar.workflows.reproduce import Reproduction, reproduce_recorded
from nextbar.workflows.train import train_in_memory
from nextbar.workflows.training import Experiment
from nextbar.workflows.universe import Universe, universe_of
from nextbar.workflows.walkforward import walk

Bars = pd.DataFrame | Mapping[str, pd.DataFrame]
Config = TypeVar("Config", TrainConfig, WalkForwardConfig)
IN_MEMORY = "(in memory)"
"""Stands in a document where a database would stand."""
OPTIONS = ("raw", "warmup", "purge", "max_gap_days", "periods_per_year", "scheduler")
"""Further options of the command line that `train` and `walk_forward` take."""
JUDGED = ("raw", "max_gap_days", "periods_per_year")
"""Those of them that `judge` takes."""


@verb
def train(
    bars: Bars,
    model: Model,
    *,
    split: Split | None = None,
    features: Any = "levels",
    panel_features: Any = None,
    cost_bps: float = 5.0,
    risk_free: float = 0.0,
    threshold: str | float = "sharpe",
    seed: int = 42,
    engine: str = "loky",
    jobs: int | None = None,
    holdout_from: str | dt.date | None = None,
    name: str | None = None,
    ledger: str | Path | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Run:
    """Train a model on each ticker, or one on all of them where its kind is global, and test it once.

    Args:
        bars: Ticker → market-format DataFrame, or a DataFrame; see `nextbar.bars`.
        model: `RandomForest`, `XGBoost`, `LSTM`, `Estimator`, or a model of your own.
        split: Where train, validation and test begin; default: `Split()`, the last 20 % are test.
        features: ``levels`` or ``relative`` for built-in columns, a function of a DataFrame, its name as
            ``module:function``, or a list of these. A function returns one row per bar, each from the bars up to that
            row alone.
        panel_features: Columns over all tickers, such as ranks: a function of one long DataFrame (``ticker date Open
            High Low Close Volume``, a row per bar), its name as ``module:function``, or a list of these. It returns a
            frame with the same index and new columns, each from the bars up to its day alone.
        cost_bps: Cost of a change of position by 1, in basis points.
        risk_free: Risk-free rate per year, as a fraction.
        threshold: What the decision threshold maximises on validation, ``sharpe`` or ``balanced_accuracy``; or the
            threshold itself, a number between 0 and 1.
        seed: Seed of everything random: the same seed gives the same bits.
        engine: Where fits run: ``loky`` (child processes), ``serial`` (a single one) or ``dask``.
        jobs: Processes; default: one per core.
        holdout_from: Bars from this day on do not exist for the run; `open_holdout` scores it on them.
        name: A name for the run, of at most 60 characters, which tables and pages show; it changes no result.
        ledger: File that the tries, and the holdout, are recorded in; None: they are not.
        progress: Called with the progress; None: no progress is shown.
        **options: Other options of ``nextbar train``: raw, warmup, purge, max_gap_days, periods_per_year, scheduler.

    Returns:
        One run with a model for each ticker that has enough bars; ``run.document.skipped`` says which have not.

    Raises:
        NextbarError: The bars, the model or an option cannot be used, or no ticker has enough bars.
    """
    experiment, book = _experiment(TrainConfig, Split, locals()), _opened(ledger)
    return _recorded(train_in_memory(experiment, progress or Silent()), book)


@verb
def walk_forward(
    bars: Bars,
    model: Model,
    *,
    windows: Windows | None = None,
    features: Any = "levels",
    panel_features: Any = None,
    cost_bps: float = 5.0,
    risk_free: float = 0.0,
    threshold: str | float = "sharpe",
    seed: int = 42,
    engine: str = "loky",
    jobs: int | None = None,
    holdout_from: str | dt.date | None = None,
    name: str | None = None,
    ledger: str | Path | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Run:
    """Train a model again and again, window after window, and say what it would have earned on days it had not seen.

    Arguments are those of `train` (``features``, ``panel_features``, ``cost_bps``, ``risk_free``, ``threshold``,
    ``seed``, ``engine``, ``jobs``, ``holdout_from``, ``name``, ``ledger``, ``progress`` and further options), but for
    ``windows``, the lengths of train, validation and test (default: `Windows()`, 3 years, 12 months and 3 months).
    ``tune`` of the model says in which folds parameters are searched for. `open_holdout` goes on with the same windows.

    Returns:
        One run: ``figures`` beside baselines, ``rows`` of all test days, ``document`` with a record of each fold.

    Raises:
        NextbarError: The bars, the model or an option cannot be used, or no fold can be trained.
    """
    experiment, book = _experiment(WalkForwardConfig, Windows, locals()), _opened(ledger)
    return _recorded(walk(experiment, progress or Silent()).run, book)


@verb
def report(
    runs: Run | Sequence[Run],
    path: str | Path,
    *,
    ledger: str | Path | None = None,
    worth: float = 0.02,
    count: bool | None = None,
) -> Path:
    """Write one page about a run, or about several compared, and return its path.

    The suffix of ``path`` says what is written: ``.html`` (opens offline), ``.md`` or ``.json``. ``ledger`` and
    ``worth`` are those of `verdict`. Without ``count`` runs are recorded if all of them were made in this session.

    Raises:
        ConfigError: The suffix is another.
        OutputError: The file cannot be written.
    """
    target = as_path(path)
    several = runs if isinstance(runs, Sequence) and not isinstance(runs, str) else [runs]
    text = render(several, target.suffix, ledger=ledger, worth=worth, count=count)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(target, text.encode())
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({error.strerror}); name another file") from error
    return target


@verb
def certify(
    run: Run,
    bars: Bars,
    *,
    features: Any = None,
    panel_features: Any = None,
    model: Model | None = None,
    seconds: int = CertifyConfig.certify_seconds,
    allow_reads: Sequence[str] = (),
    engine: str = "loky",
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Certificate:
    """Prove that a run saw no future: change the bars after each border, run again, compare every byte.

    The run keeps the certificate in ``run.certificates``, the newest last: a FAIL makes each later verdict on it
    INCONCLUSIVE. `Run.save` writes the newest beside the run, ``<stem>_certificate.json``, so certify before you save.
    Nothing is written beside a run that is on disk already: of a run that `load_run` gave, this object alone keeps the
    certificate, and a remark says so after a FAIL. The command ``nextbar certify KIND --artifact FILE`` writes it.

    Args:
        run: The run.
        bars: The bars it was made on.
        features: The user's own feature function, for a run that was read from disk.
        panel_features: The user's own function over all tickers, likewise.
        model: The user's own model, likewise.
        seconds: Most time for trying the features on the bars up to a day, a ticker.
        allow_reads: Files and folders that a feature function may read, and its variables that may hold data.
        engine: Where fits run.
        jobs: Processes; default: one per core.
        progress: Told about each trial.

    Returns:
        The certificate: ``passed``, ``verdict``, ``failures`` and ``table()``.

    Raises:
        ArtifactError: The bars are not those of the run.
        FeatureError: The run has a feature function that was not given.
    """
    allowed = [allow_reads] if isinstance(allow_reads, str) else allow_reads
    if not isinstance(allowed, Sequence) or not all(isinstance(name, str) for name in allowed):
        raise ConfigError(f"allow_reads expects a list of names, got {brief(allow_reads)}")
    if not isinstance(seconds, int | float) or seconds < 1:
        raise ConfigError(f"seconds expects a number of at least 1, got {brief(seconds)}")
    check_runs([run])
    place = Place(bars=bars, features=features, panel_features=panel_features, model=model, engine=engine, jobs=jobs)
    recorded = recall_all(run, place)
    (certificate,) = certify_recorded([recorded], progress or Silent(), seconds=seconds, allow_reads=allowed)
    run.certificates.append(content_of(recorded, certificate))
    if run.folder is not None and run.refuted():
        remark(f"{run.name}: this FAIL is kept in run.certificates only; to write it: {certify_command(run)}")
    return certificate


@verb
def reproduce(
    run: Run,
    bars: Bars,
    *,
    features: Any = None,
    panel_features: Any = None,
    model: Model | None = None,
    engine: str = "loky",
    jobs: int | None = None,
    progress: Progress | None = None,
    upgrade: bool = False,
) -> Reproduction:
    """Train a run again on its bars and compare every stage, bit by bit; later bars are left out.

    With ``upgrade``, and where every bit is equal, the file is written that `Run.model` reads and an older version did
    not write; load the run again then. ``features``, ``panel_features``, ``model``, ``engine``, ``jobs`` and
    ``progress`` are those of `certify`.

    Returns:
        ``identical``; else the first ``stage`` that differs, and the ``differences`` that may explain it.

    Raises:
        UnknownTickerError: A ticker of the run has no bars.
        FeatureError: The run has a feature function that was not given.
    """
    check_runs([run])
    place = Place(bars=bars, features=features, panel_features=panel_features, model=model, engine=engine, jobs=jobs)
    return reproduce_recorded(recall_all(run, place), progress or Silent(), upgrade=upgrade)


@verb
def refit(
    run: Run,
    bars: Bars,
    *,
    features: Any = None,
    panel_features: Any = None,
    model: Model | None = None,
    engine: str = "loky",
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Run:
    """Fit each model of a training run once more, on all bars up to the last one, for predictions.

    Parameters, threshold and the number of trees or epochs stay those of the run: nothing is searched, stopped or
    chosen again, and no figure is made with the refit. Rows, figures and models of the run stay as they are. The
    refit of a run that was loaded from a file is written beside it, where `nextbar predict` finds it, and replaces an
    earlier one; a run in memory is returned with its refits, and nothing is written.

    ``bars`` are those of the run, and later ones, if there are any. ``features``, ``panel_features``, ``model``,
    ``engine``, ``jobs`` and ``progress`` are those of `certify`.

    Returns:
        The run with its refits, ``run.model("AAPL", refit=True)``; one in memory is saved with them.

    Raises:
        ArtifactError: It is no training run, the bars of its days have changed, or a model of your own has no refit.
        FeatureError: The run has a feature function that was not given.
        UnknownTickerError: A ticker of the run has no bars.
        OutputError: A file cannot be written.
    """
    check_runs([run])
    check_refit(run, run.own_model(model))
    place = Place(bars=bars, features=features, panel_features=panel_features, model=model, engine=engine, jobs=jobs)
    return refit_recorded(recall(run, place, lift=("end",)), progress or Silent())


@verb
def judge(
    signals: Signals,
    bars: Bars,
    *,
    cost_bps: float = 5.0,
    risk_free: float = 0.0,
    threshold: float = 0.5,
    name: str | None = None,
    ledger: str | Path | None = None,
    **options: Any,
) -> Run:
    """Score signals of your own like those of a model: net of costs, beside the same baselines.

    Signals are positions held from the close of a day to the next, from -1 to 1: a Series by day for a single ticker,
    else a DataFrame with a column per ticker. Or a DataFrame with a row per day and ticker and the columns ``date``,
    ``ticker`` and either ``signal`` or ``probability``; a position is long from the probability ``threshold`` on. Days
    without a value are not judged. nextbar cannot check whether they have seen the future.

    ``bars``, ``cost_bps``, ``risk_free``, ``name`` and ``ledger`` are those of `train`; ``options`` are raw,
    max_gap_days and periods_per_year.

    Returns:
        A run without models: `verdict`, `report` and `compare` take it.

    Raises:
        BadBarsError: The signals and the bars do not belong together.
    """
    check_options(options, JUDGED, locals())
    check_threshold(threshold)
    terms = {"cost_bps": cost_bps, "risk_free": risk_free, "db": IN_MEMORY, "ticker": IN_MEMORY, "model": "signals"}
    config = TrainConfig(**{**terms, **options}, name=name)
    kind, remarks = "signal", list[str]()
    if isinstance(signals, pd.DataFrame) and {"date", "ticker"} <= set(signals.columns):
        signals, kind, remarks = long_signals(signals.reset_index(drop=True), "the signals")
    least, universe = long_from(kind, threshold), _universe(bars, config)
    run = judge_signals(signals, universe, config, threshold=least, remarks=remarks)
    return _recorded(run, _opened(ledger))


def _opened(ledger: str | Path | None) -> Ledger | None:
    """Open the ledger, if there is one; before a training, which a wrong path must not cost."""
    return None if ledger is None else Ledger(ledger)


def _recorded(run: Run, ledger: Ledger | None) -> Run:
    """Enter a run into the ledger, and warn where it has read bars that were held out."""
    if ledger is not None and run.contents is not None:
        for text in tell_read([one for part in run.contents.parts or [run] for one in record_trial(ledger, part)]):
            remark(text)
    return run


@verb
def load_run(path: str | Path) -> Run:
    """Read a run from any of its files. Of a training run of several tickers, each has files of its own.

    The runs of a folder: ``[nb.load_run(path) for path in Path("models").glob("*_metadata.json")]``; a walk-forward has
    ``walkforward_*.json``.

    Raises:
        ArtifactError: It is a folder or a name of runs. There is no such run, it is damaged, or it is not ours.
    """
    (run,) = load_runs([as_path(path)])
    return run


def _experiment(kind: type[Config], splitter: type[Split | Windows], given: Mapping[str, Any]) -> Experiment:
    """Make the experiment that a command of the same options would run, from the arguments of `train` or its like."""
    if isinstance(given["bars"], Model):
        raise ArgumentError(f"expected the bars first, then the model; got {given['bars'].name} first")
    name, model, options, day = splitter.__name__.lower(), given["model"], given["options"], given["holdout_from"]
    splits = splitter() if given[name] is None else given[name]
    if not isinstance(splits, splitter):
        raise ConfigError(f"{name} expects nextbar.{splitter.__name__}(…), got {brief(splits)}")
    check_model(model)
    check_options(options, OPTIONS, given, "; the model takes its own")
    spec = FeatureSpec.parse(given["features"], given["panel_features"], warmup=options.get("warmup", kind.warmup))
    known = {item.name for item in fields(kind)}
    terms = {name: given[name] for name in ("cost_bps", "risk_free", "threshold", "seed", "engine", "jobs", "name")}
    terms |= {"features": spec.option, "features_only": not spec.sets, "panel_features": spec.panel_name}
    terms |= {"holdout_from": day.isoformat()[:10] if isinstance(day, dt.date) else day}
    terms |= {name: value for name, value in model.options().items() if name in known}
    terms |= {"db": IN_MEMORY, "ticker": IN_MEMORY, "model": model.name}
    config = kind(**{**terms, **options, **splits.options()})
    chosen = [item.name for item in fields(kind) if getattr(config, item.name) != item.default]
    for told in tell_unused(chosen, [(config, model)]):
        remark(option_words(told))
    send_by_value(*model.code, *spec.functions, *spec.panel)
    return Experiment(config=config, model=model, universe=_universe(given["bars"], config), features=spec)


def _universe(bars: Bars, config: CommonConfig) -> Universe:
    return universe_of({name: history_of(frame) for name, frame in market_bars(bars).items()}, config)


# A run is data; how it shows itself is the library's business.
Run._repr_html_ = run_html  # type: ignore[attr-defined]
Run.__str__ = run_text  # type: ignore[method-assign,assignment]
