"""Use case: retrain a model fold after fold and say what it would have earned on days it had not seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter

from nextbar.config import WalkForwardConfig
from nextbar.datasets.splits import Windows
from nextbar.errors import NothingToTrainError
from nextbar.execution.by_value import sent_by_value
from nextbar.features.spec import FeatureSpec, source_digest
from nextbar.market.bars import stored_spans
from nextbar.models.base import Model
from nextbar.models.registry import KINDS, model_of
from nextbar.models.reproducibility import library_versions
from nextbar.runs.document import Document, Skip
from nextbar.runs.files import reserve_timestamp, writable_folder
from nextbar.runs.fit import Coverage
from nextbar.runs.ledger import Ledger, counted_although_lost, record_trial
from nextbar.runs.openings import Opening
from nextbar.runs.partial import PartialRun
from nextbar.runs.run import Run
from nextbar.types import JsonDict, Progress
from nextbar.workflows.documents import make_run
from nextbar.workflows.training import Experiment, Loop, make_plan
from nextbar.workflows.universe import NO_PREDICTION, load_universe, nothing_left, symbols, used_span


@dataclass(frozen=True, kw_only=True)
class WalkForwardResult:
    """One model's walk-forward.

    Attributes:
        resumed: Fits that an interrupted run had made.
        failed: Name of a fit → traceback of an error that should not happen.
        openings: The run, where it has read bars that were held out.
    """

    run: Run
    resumed: int = 0
    failed: Mapping[str, str] = field(default_factory=dict)
    openings: Sequence[Opening] = ()

    @property
    def document(self) -> Document:
        """Document of the run."""
        return self.run.document

    @property
    def files(self) -> list[Path]:
        """Files of the run, that of the document last."""
        return self.run.files


def walk_forward(
    config: WalkForwardConfig, progress: Progress, *, counts: bool = True, model: Model | None = None
) -> WalkForwardResult:
    """Walk forward on the bars of a database and write the result.

    The ledger is not told where ``counts`` is false. ``model`` is given where the configuration names one of the user's
    own.
    """
    model = model or model_of(config.model, config)
    folder = writable_folder(config.output_dir)
    universe = load_universe(config, most=None if model.per_ticker else config.max_tickers)
    partial = PartialRun(folder, f"walkforward_{config.model}", _key(config, model, universe.coverage))
    experiment = Experiment.of(config, universe, model)
    ledger = Ledger(config.ledger) if counts else None  # before the work, which a wrong path must not cost
    result = walk(experiment, progress, partial)
    # A trial counts before anybody can see its figures.
    openings = [] if ledger is None else record_trial(ledger, result.run)
    with counted_although_lost(ledger), reserve_timestamp(folder) as stamp:
        saved = result.run.write(folder, stamp, everything=universe.everything)
    partial.remove()
    return replace(result, run=saved, openings=openings)


def count_windows(config: WalkForwardConfig) -> int:
    """Count the windows of a walk-forward; only the first and last stored bars are read."""
    stored = stored_spans(config.db)
    names = stored if config.ticker.strip().upper() == "ALL" else symbols(config.ticker)
    spans = {name: stored[name] for name in names if name in stored}
    return len(Windows.of(config).windows(*used_span(config, spans)))


def walk(experiment: Experiment, progress: Progress, partial: PartialRun | None = None) -> WalkForwardResult:
    """Train every fold and stitch the out-of-sample days; nothing is written but finished folds, to the partial run."""
    began, config = perf_counter(), experiment.config
    plan = make_plan(experiment)
    if not plan.tasks:
        raise NothingToTrainError(_nothing(plan.skips))
    loop = Loop(experiment, progress, partial)
    resume = isinstance(config, WalkForwardConfig) and config.resume
    with nullcontext() if partial is None else partial.opened(resume=resume):
        fits = sorted(loop.run(plan.tasks), key=lambda fit: (fit.task.fold, fit.task.name))
    skips = [*plan.skips, *sorted(loop.skips, key=lambda skip: (skip.fold or 0, skip.ticker))]  # in any order
    skips += [skip for fit in fits for skip in fit.skips(fit.task.fold)]
    if not any(len(fit.result.rows["date"]) for fit in fits):
        skips += [Skip(ticker=fit.task.name, fold=None, reason=NO_PREDICTION) for fit in fits[:1]]
        raise NothingToTrainError(_nothing(skips))
    run, _ = make_run(
        config,
        experiment.universe,
        fits,
        folds=plan.folds,
        skips=skips,
        threads=experiment.threads,
        seconds={"wall": perf_counter() - began, "tasks": sum(fit.seconds for fit in fits)},
    )
    return WalkForwardResult(run=run, resumed=loop.resumed, failed=dict(sorted(loop.failed.items())))


def _nothing(skips: list[Skip]) -> str:
    return nothing_left([(skip.ticker, skip.reason) for skip in skips])


def _key(config: WalkForwardConfig, model: Model, data: Mapping[str, Coverage]) -> JsonDict:
    """Everything that the folds depend on."""
    spec = FeatureSpec.of(config)
    return {
        **({} if model.name in KINDS else {"model": _own_sources(model)}),
        "options": config.decisive(),
        "source": [source_digest(name) for name in (*spec.functions, *spec.panel)],
        "versions": library_versions(model.libraries),
        "bars": {ticker: facts.fingerprint for ticker, facts in data.items()},
    }


def _own_sources(model: Model) -> list[str]:
    """Digest the code of a model of the user's own: of its parts, of its factory and of what that has imported."""
    parts = {getattr(part, "__module__", None) or type(part).__module__ for part in model.code}
    return sorted({source_digest(f"{name}:") for name in parts | sent_by_value()})
