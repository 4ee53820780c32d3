"""Use case: train a model on each ticker, or one on all of them, and say what it is worth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from time import perf_counter
from uuid import uuid4

import numpy as np

from nextbar.config import TrainConfig
from nextbar.errors import NothingToTrainError
from nextbar.models.base import Model
from nextbar.models.registry import model_of
from nextbar.runs.document import Skip
from nextbar.runs.files import TIMESTAMP, refuse_alike, reserve_timestamp, writable_folder
from nextbar.runs.ledger import Ledger, counted_although_lost, record_trial
from nextbar.runs.openings import Opening
from nextbar.runs.run import Run
from nextbar.types import Progress
from nextbar.workflows.documents import Fit, make_run
from nextbar.workflows.remarks import Facts, remarks_of
from nextbar.workflows.training import Experiment, Loop, Plan, make_plan
from nextbar.workflows.universe import NO_PREDICTION, load_universe, nothing_left


@dataclass(kw_only=True)
class TrainSummary:
    """What a training command did.

    Attributes:
        runs: One run per model, sorted by name.
        skipped: Ticker → reason.
        failed: Ticker → traceback of an error that should not happen.
        adjustments: How many tickers are adjusted in which way.
        remarks: What to know besides about all of them together.
        openings: Runs among them that have read bars which were held out.
        seconds: Wall time.
    """

    runs: list[Run] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    adjustments: dict[str, int] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    openings: list[Opening] = field(default_factory=list)
    seconds: float = 0.0


def train(config: TrainConfig, progress: Progress, *, counts: bool = True, model: Model | None = None) -> TrainSummary:
    """Train on the bars of a database and write one artifact per model, each as soon as it is trained.

    The ledger is not told where ``counts`` is false. ``model`` is given where the configuration names one of the user's
    own.
    """
    began = perf_counter()
    model = model or model_of(config.model, config)
    folder = writable_folder(config.save_dir)
    universe = load_universe(config, most=None if model.per_ticker else config.max_tickers)
    if model.per_ticker:
        refuse_alike(universe.bars)
    experiment = Experiment.of(config, universe, model)
    ledger = Ledger(config.ledger) if counts else None  # before the work, which a wrong path must not cost
    summary, together = TrainSummary(), Facts()
    with reserve_timestamp(folder) as stamp:
        trainer = Trainer(experiment, progress, stamp)
        for _, run, facts in trainer.runs():
            if ledger is not None:  # before anybody can see its figures
                summary.openings += record_trial(ledger, run)
            with counted_although_lost(ledger):
                written = run.write(folder, stamp, everything=universe.everything and not model.per_ticker)
            summary.runs.append(written)
            together.add(facts)
    summary.runs.sort(key=lambda run: run.label)
    summary.skipped, summary.failed = trainer.skipped, trainer.failed
    summary.adjustments, summary.remarks = universe.adjustments(), remarks_of(together, universe, config)
    summary.seconds = perf_counter() - began
    return summary


def train_in_memory(experiment: Experiment, progress: Progress) -> Run:
    """Train one run of all models; nothing is written."""
    trainer = Trainer(experiment, progress, datetime.now(UTC).strftime(TIMESTAMP))
    found = sorted(trainer.runs(), key=lambda item: item[0].task.name)
    parts = [run for _, run, _ in found]
    if len(parts) == 1 and not trainer.lost:
        return parts[0]
    whole, _ = trainer.make([fit for fit, _, _ in found], everyone=True)
    assert whole.contents is not None
    return replace(whole, contents=replace(whole.contents, parts=parts))


class Trainer:
    """Trains the models of an experiment and makes a run of each; ``stamp`` names the command.

    Attributes:
        skipped: Ticker → reason.
        failed: Ticker → traceback of an error that should not happen.
    """

    def __init__(self, experiment: Experiment, progress: Progress, stamp: str) -> None:
        self._experiment = experiment
        self._plan = make_plan(experiment)
        self.skipped = {skip.ticker: skip.reason for skip in self._plan.skips}
        if not self._plan.tasks:
            raise NothingToTrainError(nothing_left(self.skipped.items()))
        self._loop = Loop(experiment, progress)
        self.failed = self._loop.failed
        tickers = sum(len(task.borders) for task in self._plan.tasks)
        self._group = {"id": f"{stamp}_{uuid4().hex[:8]}", "tickers": tickers}
        self._last_day = _last_training_day(experiment, self._plan)

    def runs(self) -> Iterator[tuple[Fit, Run, Facts]]:
        """Give each model when it is trained, as a run of its own, with the facts of its remarks."""
        trained = 0
        for fit in self._loop.run(self._plan.tasks):
            self.skipped |= fit.result.skipped
            if not len(fit.result.rows["date"]):
                self.skipped[fit.task.name] = f"{fit.task.name}: {NO_PREDICTION}"
                continue
            trained += 1
            yield fit, *self.make([fit])
        self.skipped |= {skip.ticker: skip.reason for skip in self._loop.skips}
        if not trained:
            raise NothingToTrainError(nothing_left(self.lost.items()))

    @property
    def lost(self) -> dict[str, str]:
        """Ticker → why it has no model."""
        return {**self.skipped, **{name: trace.strip().splitlines()[-1] for name, trace in self.failed.items()}}

    def make(self, fits: Sequence[Fit], *, everyone: bool = False) -> tuple[Run, Facts]:
        """Make a run of some of the fits together; that of everyone lists the tickers without a model, too."""
        seconds = {"task": sum(fit.seconds for fit in fits), **(fits[0].stages if len(fits) == 1 else {})}
        left_out = {skip.ticker: skip.reason for skip in self._plan.skips}
        lost = left_out | {name: reason for fit in fits for name, reason in fit.result.skipped.items()}
        if everyone:
            lost = {**self.lost, **lost}
        return make_run(
            self._experiment.config,
            self._experiment.universe,
            fits,
            skips=[Skip(ticker=name, fold=None, reason=reason) for name, reason in lost.items()],
            threads=self._experiment.threads,
            seconds=seconds,
            group=self._group,
            last_training_day=self._last_day,
        )


def _last_training_day(experiment: Experiment, plan: Plan) -> np.datetime64:
    """Last day that any ticker trains or validates on: after it, no model has seen the market of the day."""
    borders = [(ticker, border) for task in plan.tasks for ticker, border in task.borders.items()]
    last: np.datetime64 = max(experiment.dates[ticker][border.test - 1] for ticker, border in borders)
    return last
