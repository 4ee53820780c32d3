"""One planner and one loop: what a training run and a walk-forward have in common.

A training run is a walk-forward with one fold. The planner turns folds into tasks, the loop runs them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from nextbar.config import CommonConfig, TrainConfig, WalkForwardConfig
from nextbar.datasets.samples import Bars, make_panel
from nextbar.datasets.splits import Fold, bars_needed, shortage, splitter_of
from nextbar.errors import ArtifactError, FeatureError, NotEnoughHistoryError
from nextbar.evaluation.group import FoldGroup, run_group
from nextbar.evaluation.refit import run_fold_and_refit
from nextbar.evaluation.series import Terms
from nextbar.evaluation.walkforward import ALL, FoldResult, FoldTask, run_fold
from nextbar.execution.engine import Engine, Outcome, engine_of
from nextbar.execution.worker import has_accelerator
from nextbar.features.spec import FeatureSpec
from nextbar.models.base import Model
from nextbar.models.registry import model_of
from nextbar.models.reproducibility import cores
from nextbar.runs.document import Document, Skip
from nextbar.runs.partial import PartialRun
from nextbar.types import BoolArray, Border, DateArray, Progress
from nextbar.words import plural
from nextbar.workflows.documents import Fit
from nextbar.workflows.universe import Universe, refuse_nothing_held


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What is trained, on which bars.

    Attributes:
        config: Options of a training run or of a walk-forward.
        accelerated: Whether an accelerator trains folds together where the model can; None: if there is one.
    """

    config: TrainConfig | WalkForwardConfig
    model: Model
    universe: Universe
    features: FeatureSpec
    accelerated: bool | None = None

    def __post_init__(self) -> None:
        self.features.check_names()

    @classmethod
    def of(cls, config: TrainConfig | WalkForwardConfig, universe: Universe, model: Model | None = None) -> Experiment:
        """Make the experiment that a configuration describes, of a model of the user's own where it is given."""
        chosen = model or model_of(config.model, config)
        return cls(config=config, model=chosen, universe=universe, features=FeatureSpec.of(config))

    @property
    def walks(self) -> bool:
        """Whether it is a walk-forward."""
        return isinstance(self.config, WalkForwardConfig)

    @property
    def refits(self) -> bool:
        """Whether each model is fitted on all bars, too."""
        return isinstance(self.config, TrainConfig) and self.config.refit

    @property
    def threads(self) -> int:
        """Threads of one task. A walk-forward runs its folds in parallel, and the bits must not depend on the cores."""
        return cores() if self.model.threads and not self.walks else 1

    @cached_property
    def grouped(self) -> bool:
        """Whether its folds are trained in one program."""
        if not (self.walks and self.model.together) or self.config.scheduler is not None:
            return False
        return has_accelerator() if self.accelerated is None else self.accelerated

    @property
    def engine(self) -> Engine:
        """Where its tasks run; a program that trains all folds has the device for itself."""
        return engine_of(self.config, jobs=1 if self.grouped else self.config.jobs, threads=self.threads)

    @cached_property
    def dates(self) -> dict[str, DateArray]:
        """Ticker → its days."""
        return self.universe.dates()

    @cached_property
    def terms(self) -> Terms:
        """Terms on which its rows are scored."""
        return Terms.of(self.config, self.dates.values())


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What there is to do.

    Attributes:
        tasks: Fits, in order of fold and ticker.
        skips: Who is left out of which fold.
    """

    folds: list[Fold]
    tasks: list[FoldTask]
    skips: list[Skip]


def make_plan(experiment: Experiment) -> Plan:
    """Decide who takes part in which fold.

    In a walk-forward that is decided from the bars before the test window; a ticker without a bar in it is trained in a
    global model all the same, and has nothing to predict in one of its own.
    """
    universe, config = experiment.universe, experiment.config
    if not universe.held_out:
        refuse_nothing_held(config, max(days[-1] for days in experiment.dates.values()).astype(object))
    skips = [Skip(ticker=name, fold=None, reason=reason) for name, reason in universe.skipped.items()]
    folds = _folds(experiment)
    tasks: list[FoldTask] = []
    for fold in folds:
        borders: dict[str, Border] = {}
        for ticker, border in fold.borders.items():
            if (problem := _problem(experiment, ticker, border)) is None:
                borders[ticker] = border
            else:
                number = fold.number if experiment.walks else None
                skips.append(Skip(ticker=ticker, fold=number, reason=f"{ticker}: {problem}{_held_out(config)}"))
        tasks += _tasks(experiment, fold, borders, closing=fold is folds[-1])
    return Plan(folds=folds, tasks=tasks, skips=skips)


def _folds(experiment: Experiment) -> list[Fold]:
    """Make the folds; an error about too few bars says which are held out."""
    try:
        return splitter_of(experiment.config).folds(experiment.dates, experiment.universe.usable)
    except NotEnoughHistoryError as error:
        raise NotEnoughHistoryError(f"{error}{_held_out(experiment.config)}") from error


def _held_out(config: CommonConfig) -> str:
    return "" if config.holdout_from is None else f"; bars from --holdout-from {config.holdout_from} on are held out"


def _problem(experiment: Experiment, ticker: str, border: Border) -> str | None:
    """Why a ticker cannot take part in a fold; None if it can."""
    usable, model = experiment.universe.usable[ticker], experiment.model
    most, days = experiment.config.max_gap_days, experiment.dates[ticker]
    if len(days) > 1 and (gap := int(np.median(np.diff(days).astype(np.int64)))) > most:
        return f"its bars are about {gap} days apart, and no label spans more than --max-gap-days {most}; raise that"
    if not experiment.walks:
        problem = shortage(border, usable, context=model.context)
        return None if problem is None else _advice(experiment, usable, problem)
    problem = shortage(border, usable, context=model.context, tested=0)
    if problem is None and model.per_ticker and not usable[border.test : border.end].any():
        return "no bar in the test window" + (" after the warm-up" if border.test < border.end else "")
    return problem


def _advice(experiment: Experiment, usable: BoolArray, problem: str) -> str:
    """Say how many bars a training run needs."""
    config, context = experiment.config, experiment.model.context
    assert isinstance(config, TrainConfig)
    again = int((~usable[config.warmup :]).sum())
    holes = f", {again} of them in the warm-up after a hole" if again else ""
    lower = "--sequence-length or --warmup" if context else "--warmup"
    if config.train_end is not None:
        advice = f"{problem} between the days that end the splits; ingest more bars, lower {lower} or choose other days"
    elif config.split_by == "date":
        other = f" or lower {lower}" if config.pooled else f", lower {lower} or split by ticker"
        advice = f"{problem} when all tickers are split at one date; ingest more bars{other}"
    else:
        need = bars_needed(config, context=context)
        advice = f"training needs {need} ({problem}); ingest an earlier start or lower {lower}"
    return f"{plural(len(usable), 'bar')}{holes}, {advice}"


def _tasks(experiment: Experiment, fold: Fold, borders: Mapping[str, Border], *, closing: bool) -> list[FoldTask]:
    """One task for each model of a fold."""
    if not borders:
        return []
    config, model, ended = experiment.config, experiment.model, experiment.universe.ended.keys()
    parts = {name: {name: border} for name, border in borders.items()} if model.per_ticker else {ALL: dict(borders)}
    return [
        FoldTask(
            name=name,
            config=config,
            model=model,
            fold=fold.number,
            borders=part,
            search=model.searches,
            out_of_sample=experiment.walks,
            closing=experiment.walks and closing,
            periods=experiment.terms.periods,
            ended=frozenset(part.keys() & ended),
            features=experiment.features,
        )
        for name, part in parts.items()
    ]


def with_panel(spec: FeatureSpec, bars: Mapping[str, Bars], engine: Engine) -> Mapping[str, Bars]:
    """Return bars with the feature columns over all of them, made in a worker, whose threads are part of the bits."""
    if not spec.panel:
        return bars
    (outcome,) = engine.run(make_panel, [spec], bars)
    if outcome.result is None:
        raise FeatureError(str(outcome.reason))
    return {name: replace(item, panel=outcome.result[name]) for name, item in bars.items()}


class Loop:
    """Runs the tasks of a plan; hands parameters from a ticker's first fold to its others.

    ``progress`` is told about each fit, or about each epoch where there is a single fit. ``partial`` keeps each fit
    that has ended on disk, and gives back those of an earlier run.

    Attributes:
        skips: Fits without a result, and why.
        failed: Name of a fit → traceback of an error that should not happen.
        resumed: Fits of an earlier run.
    """

    def __init__(self, experiment: Experiment, progress: Progress, partial: PartialRun | None = None) -> None:
        self._experiment, self._partial, self._progress = experiment, partial, progress
        self._engine = experiment.engine
        self._bars: Mapping[str, Bars] | None = None
        self.skips: list[Skip] = []
        self.failed: dict[str, str] = {}
        self.resumed = 0

    def run(
        self,
        tasks: Sequence[FoldTask],
        *,
        known: Mapping[str, Mapping[str, object]] | None = None,
    ) -> Iterator[Fit]:
        """Give each fit when it has ended; the earliest fold of each ticker goes first where it alone searches.

        ``known`` are parameters, by the name of a task, that a fold before these has found.
        """
        model, kept = self._experiment.model, self._partial
        self._by_epoch = len(tasks) == 1 and model.steps > 1 and not self._experiment.walks
        steps = model.steps * (2 if self._experiment.refits else 1)
        total = steps if self._by_epoch else sum(kept is None or not kept.knows(x) for x in tasks)
        label = "walk-forward" if self._experiment.walks else "train"
        self._progress.start(f"{label} {model.name}", total)
        params: dict[str, Mapping[str, object] | None] = dict(known or {})
        waiting = list(tasks)
        while waiting:
            wave, waiting = self._next_wave(waiting, params)
            for finished in self._run_wave(wave):
                params[finished.task.name] = finished.result.params
                yield finished
        self._progress.finish()

    def _next_wave(
        self, waiting: list[FoldTask], known: Mapping[str, Mapping[str, object] | None]
    ) -> tuple[list[FoldTask], list[FoldTask]]:
        """Tasks that can run now, and those that wait for their ticker's parameters."""
        if not self._experiment.model.searches_once:
            return waiting, []
        wave, later = list[FoldTask](), list[FoldTask]()
        searching: set[str] = set()
        for task in waiting:
            if task.name in known:
                wave.append(replace(task, params=known[task.name], search=False))
            elif task.name in searching:
                later.append(task)
            else:
                searching.add(task.name)
                wave.append(task)
        return wave, later

    def _run_wave(self, wave: Sequence[FoldTask]) -> Iterator[Fit]:
        fresh = []
        for task in wave:
            if self._partial is None or (kept := self._partial.load(task)) is None:
                fresh.append(task)
            else:
                self.resumed += 1
                yield Fit(task=task, result=kept[0], seconds=kept[1])
        if not fresh:
            return
        for outcome in self._outcomes(fresh):
            task = outcome.task
            self._progress.advance(0 if self._by_epoch else 1, self._name(task))
            if outcome.result is not None:
                if self._partial is not None:
                    self._partial.save(task, outcome.result, outcome.seconds)
                yield Fit(task=task, result=outcome.result, seconds=outcome.seconds, stages=outcome.stages)
                continue
            fold = task.fold if self._experiment.walks else None
            if outcome.trace is not None:
                self.failed[self._name(task)] = outcome.trace
            if outcome.trace is None or self._experiment.walks:
                self.skips.append(Skip(ticker=task.name, fold=fold, reason=str(outcome.reason)))

    def _outcomes(self, tasks: Sequence[FoldTask]) -> Iterator[Outcome[FoldTask, FoldResult]]:
        """Run tasks, each by itself or all in one program."""
        model = self._experiment.model
        if self._bars is None:
            self._bars = with_panel(self._experiment.features, self._experiment.universe.bars, self._engine)
        if self._experiment.grouped:
            return run_groups(self._engine, [FoldGroup(tasks=tasks)], self._bars, self._progress)
        n_jobs = self._engine.n_jobs(len(tasks))
        fresh = [replace(task, n_jobs=n_jobs) for task in tasks]
        batch = 1 if any(task.search for task in fresh) or not model.per_ticker else model.batch
        notes = None if self._experiment.walks else self._note
        function = run_fold_and_refit if self._experiment.refits else run_fold
        return self._engine.run(function, fresh, self._bars, notes, batch_size=batch)

    def _name(self, task: FoldTask) -> str:
        return f"{task.name} fold {task.fold}" if self._experiment.walks else task.name

    def _note(self, task: FoldTask, note: str) -> None:
        self._progress.advance(1 if self._by_epoch else 0, note if self._by_epoch else f"{task.name} {note}")


def groups_of(document: Document, model: Model, tasks: Sequence[FoldTask]) -> list[FoldGroup]:
    """Return the groups of folds that a document says were trained in one program; the group is part of the bits."""
    found: dict[tuple[int, tuple[int, ...]], dict[int, FoldTask]] = {}
    for task, (number, fit) in zip(tasks, document.fits, strict=True):
        if fit.group is not None:
            found.setdefault((fit.group.networks, tuple(fit.group.folds)), {})[number] = task
    for (width, folds), own in found.items():
        if sorted(own) != sorted(folds) or width > len(folds) * getattr(model, "ensemble", 1) or not model.together:
            raise ArtifactError(
                f"the run says that {width} networks of the folds {', '.join(map(str, folds))} were trained together, "
                f"but it has only {', '.join(map(str, own))}; do not trust it"
            )
    return [FoldGroup(tasks=[own[fold] for fold in folds], width=width) for (width, folds), own in found.items()]


def run_groups(
    engine: Engine, groups: Sequence[FoldGroup], bars: Mapping[str, Bars], progress: Progress
) -> Iterator[Outcome[FoldTask, FoldResult]]:
    """Train groups of folds, each in one program; give the outcome of each fold."""
    for outcome in engine.run(run_group, groups, bars, lambda _group, note: progress.advance(0, note)):
        tasks = outcome.task.tasks
        told = outcome.result or [outcome.reason or ""] * len(tasks)
        for task, one in zip(tasks, told, strict=True):
            result, reason = (None, one) if isinstance(one, str) else (one, None)
            seconds = outcome.seconds / len(tasks)
            yield Outcome(task=task, result=result, reason=reason, trace=outcome.trace, seconds=seconds, stages={})
