"""Use case: open the holdout of a run, which scores it on the bars that were held out, and counts the opening.

A training run is scored with its saved model and threshold. A walk-forward goes on: the same windows, the same options,
and the parameters that its first folds have found.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any, Unpack
from uuid import uuid4

import msgspec
import numpy as np
import pandas as pd

from nextbar.config import TrainConfig, WalkForwardConfig
from nextbar.datasets.splits import Fold
from nextbar.errors import ArtifactError, NothingToTrainError, remark, verb
from nextbar.evaluation.rows import ended_tickers
from nextbar.evaluation.saved import SavedFold, score_saved
from nextbar.evaluation.walkforward import FoldTask
from nextbar.models.base import Model
from nextbar.runs.document import HoldoutRecord, Skip
from nextbar.runs.files import TIMESTAMP, reserve_timestamp, writable_folder
from nextbar.runs.fit import Task, ThresholdRecord
from nextbar.runs.ledger import Ledger, counted_although_lost, record_trial
from nextbar.runs.load import check_runs, load_runs
from nextbar.runs.run import Run
from nextbar.runs.verdict import is_refuted, tell_refuted
from nextbar.scoring.threshold import ThresholdChoice, ThresholdCurve
from nextbar.types import Progress, Silent
from nextbar.words import listed, said_once
from nextbar.workflows.documents import Fit, make_run
from nextbar.workflows.own_models import recorded_model
from nextbar.workflows.recorded import Place, Recorded, recall, refuse_changed
from nextbar.workflows.report import Report, examine, write_report
from nextbar.workflows.training import Experiment, Loop, make_plan, with_panel

NO_CURVE = ThresholdCurve(threshold=np.empty(0), score=np.empty(0), long_days=np.empty(0, dtype=np.int64))


def open_saved(
    paths: Sequence[Path],
    progress: Progress,
    *,
    ledger: str | None = None,
    trust: bool = False,
    **place: Unpack[Place],
) -> list[tuple[Run, Report]]:
    """Open the holdout of runs on disk: write each opening beside its run, and a page about it.

    All runs are checked before the first is scored. An opening is in the ledger before any figure of it is written.
    ``trust`` loads models of the user's own from their files, which may run code.
    """
    runs = load_runs(paths)
    closed = [_closed(run, {**place, "model": recorded_model(place.get("model"), run)}) for run in runs]
    for one in closed:
        if isinstance(one.run.config, TrainConfig):
            one.run.check_trust(one.model, trust=trust)
        writable_folder(one.run.mark.parent)
    book, found = Ledger(ledger), list[Run]()
    _tell_undeclared(book, runs)
    for one in closed:
        opened, folder = open_run(one, progress, trust=trust), one.run.mark.parent
        record_trial(book, opened)
        with counted_although_lost(book), reserve_timestamp(folder) as stamp:
            found.append(opened.write(folder, stamp, everything=False))
    return [(run, _page(run, book, progress)) for run in found]


@verb
def open_holdout(
    run: Run,
    bars: pd.DataFrame | Mapping[str, pd.DataFrame],
    *,
    features: Any = None,
    panel_features: Any = None,
    model: Model | None = None,
    trust: bool = False,
    engine: str = "loky",
    jobs: int | None = None,
    ledger: str | Path | None = None,
    progress: Progress | None = None,
) -> Run:
    """Open the holdout of a run: score it on the bars that ``holdout_from`` has held out.

    A training run is scored with its saved model and threshold. A walk-forward goes on with the same windows and
    options; parameters that its first folds have found are used as they are.

    ``bars`` are those of the run, as they were, and those of the holdout. ``ledger`` is a file that counts the opening;
    without one no verdict can say how often these days were looked at. ``trust`` loads a model of your own from its
    files, which may run code. ``features``, ``panel_features``, ``model``, ``engine``, ``jobs`` and ``progress`` are
    those of `certify`.

    Returns:
        A run of its own, of kind ``holdout``: `verdict`, `report` and `compare` take it, and `save` writes it.

    Raises:
        ArtifactError: The run has no holdout or was changed, or its bars are not what they were.
        NothingToTrainError: There are no bars from the day on.
    """
    check_runs([run])
    place = Place(bars=bars, features=features, panel_features=panel_features, model=model, engine=engine, jobs=jobs)
    closed, book = _closed(run, place), None if ledger is None else Ledger(ledger)
    opened = open_run(closed, progress or Silent(), trust=trust)
    if book is not None:
        _tell_undeclared(book, [run])
        record_trial(book, opened)
    return opened


def _tell_undeclared(ledger: Ledger, runs: Sequence[Run]) -> None:
    """Say which runs were made with another ledger, or with none: what it knows of their days does not count."""
    declared = {(one.start, ticker) for one in ledger.holdouts().declared for ticker in one.tickers}
    if other := [run.name for run in runs if {(str(_day(run)), ticker) for ticker in run.tickers} - declared]:
        made = f"{ledger.path} does not hold the holdout of {listed(other)}, made with another ledger or with none"
        remark(f"{made}: openings that are recorded there do not count here")


def open_run(closed: Recorded, progress: Progress, *, trust: bool = False) -> Run:
    """Score a run on its holdout; nothing is written and nothing is counted."""
    began, run, config = perf_counter(), closed.run, closed.config
    walks = isinstance(config, WalkForwardConfig)
    folds, fits, skips = _walk_on(closed, progress) if walks else _score(closed, progress, trust=trust)
    if not any(len(fit.result.rows["date"]) for fit in fits):
        reasons = said_once((skip.ticker, skip.reason) for skip in skips)[:3] or ["a day needs the bar after it"]
        raise NothingToTrainError(
            f"{run.name}: no day from {config.holdout_from} on can be scored ({'; '.join(reasons)}); ingest more bars"
        )
    made, _ = make_run(
        run.config,
        closed.universe,
        fits,
        folds=folds,
        skips=skips,
        threads=run.document.environment.threads,
        seconds={"wall": perf_counter() - began, "tasks": sum(fit.seconds for fit in fits)},
        holdout=_record(run),
    )
    remarks = [*_other_bits(run, fits), *made.document.remarks]
    for text in tell_refuted(run):
        remark(text)
    failed = [msgspec.to_builtins(run.certificate())] if is_refuted(run) else []
    return replace(made, document=msgspec.structs.replace(made.document, remarks=remarks), certificates=failed)


def _day(run: Run) -> np.datetime64:
    """Return the first day of a run's holdout."""
    return np.datetime64(str(run.config.holdout_from), "D")


def _closed(run: Run, place: Place) -> Recorded:
    """Make a run ready for its opening: its bars before the holdout must be as they were, and some lie in it."""
    if run.document.holdout is not None:
        raise ArtifactError(f"{run.name} is an opening itself; name the run: {run.document.holdout.run}")
    if run.config.holdout_from is None:
        raise ArtifactError(
            f"{run.name} was made without --holdout-from: nothing is held out from it; make it again with that option"
        )
    day, coverage = _day(run), run.document.coverage
    closed = recall(run, place, names=list(coverage), lift=("holdout_from",))
    dates = closed.universe.dates()
    before = {name: int((days < day).sum()) for name, days in dates.items()}
    added = {
        name: f"bars {then.bars}, now {before[name]}" for name, then in coverage.items() if before[name] != then.bars
    }
    told = f"bars before {day} are not those that it was made on"
    refuse_changed(closed, {**added, **closed.changed}, told, "give those bars, or make it again")
    if not any((dates[name] >= day).any() for name in run.tickers):
        last = max(str(days[-1]) for days in dates.values())
        raise NothingToTrainError(
            f"{run.name}: its holdout begins on {day}, and the last bar is of {last}; ingest newer bars, then open it"
        )
    return closed


def _score(closed: Recorded, progress: Progress, *, trust: bool) -> tuple[list[Fold], list[Fit], list[Skip]]:
    """Score the saved models of a training run."""
    run = closed.run
    run.check_trust(closed.model, trust=trust)
    pairs = zip(closed.tasks, run.document.fits, strict=True)
    folds = [_saved_fold(closed, task, fit) for task, (_, fit) in pairs]
    bars = with_panel(closed.features, closed.universe.bars, closed.engine)
    progress.start("open holdout", len(folds))
    fits = list[Fit]()
    for outcome in closed.engine.run(score_saved, folds, bars):
        if outcome.result is None:
            raise ArtifactError(f"{run.name}: cannot be scored: {outcome.reason}")
        fits.append(Fit(task=outcome.task.task, result=outcome.result, seconds=outcome.seconds))
        progress.advance(1, outcome.task.task.name)
    progress.finish()
    return [], sorted(fits, key=lambda fit: fit.task.name), [skip for fit in fits for skip in fit.skips(None)]


def _saved_fold(closed: Recorded, task: FoldTask, fit: Task) -> SavedFold:
    """Let the test of a recorded fit go on to the last bar."""
    document, bars = closed.run.document, closed.universe.bars
    borders = {name: replace(border, end=len(bars[name].frame)) for name, border in task.borders.items()}
    ended = ended_tickers(closed.universe.dates(), task.config.max_gap_days)
    return SavedFold(
        task=replace(
            task,
            borders=borders,
            params=None,
            search=False,
            out_of_sample=True,
            ended=frozenset(borders.keys() & ended.keys()),
            scored_from=_day(closed.run),
        ),
        saved=closed.run.saved_model(fit, closed.model),
        choices={name: _choice(record) for name, record in fit.threshold.items()},
        columns=tuple(document.features.columns),
        features=fit.digests["features"],
        seen={name: document.data[name].bars for name in borders},
    )


def _choice(record: ThresholdRecord) -> ThresholdChoice:
    """Return a recorded threshold; of its curve nothing is used again."""
    own = {name: getattr(record, name) for name in ("threshold", "objective", "score", "reason")}
    return ThresholdChoice(**own, curve=NO_CURVE)


def _walk_on(closed: Recorded, progress: Progress) -> tuple[list[Fold], list[Fit], list[Skip]]:
    """Go on with the folds whose test windows reach into the holdout; of the first only the days from it on count."""
    document, day, model = closed.run.document, _day(closed.run), closed.model
    config = replace(closed.config, holdout_from=None)
    experiment = Experiment(config=config, model=model, universe=closed.universe, features=closed.features)
    plan = make_plan(experiment)
    folds = [fold for fold in plan.folds if fold.days and np.datetime64(fold.days[-1], "D") > day]
    numbers = {fold.number for fold in folds}
    periods = document.terms.periods
    tasks = [replace(task, scored_from=day, periods=periods) for task in plan.tasks if task.fold in numbers]
    known = {fit.name: fit.chosen for _, fit in document.fits if fit.chosen} if model.searches_once else {}
    loop = Loop(experiment, progress)
    fits = sorted(loop.run(tasks, known=known), key=lambda fit: (fit.task.fold, fit.task.name))
    skips = [skip for skip in [*plan.skips, *loop.skips] if skip.fold is None or skip.fold in numbers]
    return folds, fits, skips + [skip for fit in fits for skip in fit.skips(fit.task.fold)]


def _record(run: Run) -> HoldoutRecord:
    """Say what was opened."""
    made = dt.datetime.fromisoformat(run.document.created).astimezone(dt.UTC).strftime(TIMESTAMP)
    return HoldoutRecord(
        id=uuid4().hex[:16],
        start=str(_day(run)),
        run=run.stem or run.stem_at(made),
        kind="walkforward" if isinstance(run.config, WalkForwardConfig) else "train",
        sha256=run.sha256 if run.folder is not None else None,
    )


def _other_bits(run: Run, fits: Sequence[Fit]) -> list[str]:
    """Say which fold that the run had begun came out with other weights than it had then."""
    then = {(number, fit.name): fit.digests.get("weights") for number, fit in run.document.fits}
    found = [
        f"{fit.task.name} fold {fit.task.fold}"
        for fit in fits
        if then.get((fit.task.fold, fit.task.name), now := fit.result.digests.get("weights")) != now
    ]
    return (
        [f"{listed(found)}: other weights than the run had; nextbar reproduce tells what has changed"] if found else []
    )


def _page(run: Run, ledger: Ledger, progress: Progress) -> Report:
    return write_report(run.mark.parent, examine([run], ledger, progress))
