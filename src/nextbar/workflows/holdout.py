"""Use case: open the holdout of a run, which scores it on the bars that were held out, and counts the opening.

A training run is scored with its saved model and threshold. A walk-forward goes on: the same windows, the same options,
and the parameters that its first folds have found.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Unpack
from uuid import uuid4

import msgspec
import numpy as np
import pandas as pd

from nextbar.config import CommonConfig, TrainConfig, WalkForwardConfig
from nextbar.datasets.prices import history_of
from nextbar.datasets.splits import Fold
from nextbar.errors import ArtifactError, NothingToTrainError, UnknownTickerError, in_python
from nextbar.evaluation.saved import SavedFold, score_saved
from nextbar.evaluation.walkforward import ended_tickers
from nextbar.execution.by_value import send_by_value
from nextbar.features.spec import FeatureSpec
from nextbar.market.sources.frames import market_bars
from nextbar.models.base import Model
from nextbar.runs.document import HoldoutRecord, Skip, Task, ThresholdRecord
from nextbar.runs.files import TIMESTAMP, reserve_timestamp, writable_folder
from nextbar.runs.ledger import Ledger, record_trial
from nextbar.runs.run import Contents, Run, check_runs, load_run
from nextbar.scoring.threshold import ThresholdChoice, ThresholdCurve
from nextbar.types import Progress, Silent
from nextbar.words import listed, plural
from nextbar.workflows.documents import Fit, make_document
from nextbar.workflows.own_models import recorded_model
from nextbar.workflows.recorded import Place, Recorded, placed, recall, recorded_universe
from nextbar.workflows.report import Report, examine, write_report
from nextbar.workflows.training import Experiment, Loop, make_plan, with_panel
from nextbar.workflows.universe import Universe, universe_of

NO_CURVE = ThresholdCurve(threshold=np.empty(0), score=np.empty(0), long_days=np.empty(0, dtype=np.int64))


@dataclass(frozen=True, kw_only=True)
class Closed:
    """A run whose holdout can be opened.

    Attributes:
        recorded: The run with its bars before the holdout, which are as they were.
        universe: All bars of its tickers, those of the holdout included.
        day: First day of the holdout.
    """

    recorded: Recorded
    universe: Universe
    day: np.datetime64

    @property
    def run(self) -> Run:
        """The run."""
        return self.recorded.run


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

    Args:
        paths: Any file of each run.
        progress: Told about each fit.
        ledger: File that the openings are counted in.
        trust: Load models of the user's own from their files, which may run code.
        **place: The bars, the user's own functions and model, and where fits run.

    Raises:
        NextbarError: A run has no holdout or was changed, or the bars are not those of the run, or end before it.
    """
    runs = list({run.mark.resolve(): run for run in map(load_run, paths)}.values())
    closed = [_closed_on_disk(run, place) for run in runs]
    for one in closed:
        if isinstance(one.run.config, TrainConfig):
            one.run.check_trust(one.recorded.model, trust=trust)
        writable_folder(one.run.mark.parent)
    book, found = Ledger(ledger), list[Run]()
    for one in closed:
        opened, folder = open_run(one, progress, trust=trust), one.run.mark.parent
        record_trial(book, opened.book, opened.document)
        with reserve_timestamp(folder) as stamp:
            found.append(opened.write(folder, stamp, everything=False))
    return [(run, _page(run, book, progress)) for run in found]


@in_python()
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

    Args:
        run: A run that was made with ``holdout_from``.
        bars: Its bars, as they were before the holdout, and those of the holdout.
        features: The user's own feature function, for a run that was read from disk.
        panel_features: The user's own function over all tickers, likewise.
        model: The user's own model, likewise.
        trust: Load a model of the user's own from its files, which may run code.
        engine: Where fits run.
        jobs: Processes; default: one per core.
        ledger: File that counts the opening. None: it is not recorded, and no verdict can say how often these days
            were looked at.
        progress: Told about each fit.

    Returns:
        A run of its own, of kind ``holdout``: `verdict`, `report` and `compare` take it, and `save` writes it.

    Raises:
        ArtifactError: The run has no holdout or was changed, or its bars are not what they were.
        NothingToTrainError: There are no bars from the day on.
    """
    check_runs([run])
    _check_closed(run)
    if run.folder is not None:
        run.check_siblings()
    frames, names = market_bars(bars), list(run.document.coverage)
    if missing := sorted(set(names) - set(frames)):
        raise UnknownTickerError(f"the bars lack {', '.join(missing)}, of which {run.name} was made; add them")
    config = replace(run.config, engine=engine, jobs=jobs, scheduler=None)
    spec, own = run.features(features, panel_features), run.own_model(model)
    send_by_value(*own.code, *spec.functions, *spec.panel)
    universe = universe_of({name: history_of(frames[name]) for name in names}, replace(config, holdout_from=None))
    book = None if ledger is None else Ledger(ledger)
    opened = open_run(_closed(run, universe, config, spec, own), progress or Silent(), trust=trust)
    if book is not None:
        record_trial(book, opened.book, opened.document)
    return opened


def open_run(closed: Closed, progress: Progress, *, trust: bool = False) -> Run:
    """Score a run on its holdout; nothing is written and nothing is counted.

    Raises:
        ArtifactError: The model cannot be loaded.
        NothingToTrainError: No day of the holdout can be scored.
    """
    began, run, config = perf_counter(), closed.run, closed.recorded.config
    walks = isinstance(config, WalkForwardConfig)
    folds, fits, skips = _walk_on(closed, progress) if walks else _score(closed, progress, trust=trust)
    if not any(len(fit.result.rows["date"]) for fit in fits):
        reasons = "; ".join(skip.reason for skip in skips[:3]) or "a day needs the bar after it"
        raise NothingToTrainError(
            f"{run.name}: no day from {closed.day} on can be scored ({reasons}); ingest more bars"
        )
    made = make_document(
        run.config,
        closed.universe,
        fits,
        folds=folds,
        skips=skips,
        threads=run.document.environment.threads,
        seconds={"wall": perf_counter() - began, "tasks": sum(fit.seconds for fit in fits)},
        holdout=_record(run, closed.day),
    )
    document = msgspec.structs.replace(made.document, remarks=[*_other_bits(run, fits), *made.document.remarks])
    contents = Contents(rows=made.rows, model=closed.recorded.model, features=closed.recorded.features)
    return Run(document=document, config=run.config, contents=contents)


def _closed_on_disk(run: Run, place: Place) -> Closed:
    """Read the bars of a run on disk; nothing that a file names is opened or imported."""
    _check_closed(run)
    run.check_siblings()
    spec = run.features(place.get("features"), place.get("panel_features"))
    own = run.own_model(recorded_model(place.get("model"), run))
    config = placed(run.config, place)
    universe = recorded_universe(run, replace(config, holdout_from=None), list(run.document.coverage))
    return _closed(run, universe, config, spec, own)


def _check_closed(run: Run) -> None:
    """Refuse what has no holdout to open."""
    if run.document.holdout is not None:
        raise ArtifactError(f"{run.name} is an opening itself; name the run: {run.document.holdout.run}")
    if run.config.holdout_from is None:
        raise ArtifactError(
            f"{run.name} was made without --holdout-from: nothing is held out from it; make it again with that option"
        )


def _closed(run: Run, universe: Universe, config: CommonConfig, features: FeatureSpec, model: Model) -> Closed:
    """Compare the bars before the holdout with those recorded, and look for some in it."""
    if lost := [name for name in run.document.coverage if name not in universe.bars]:
        raise ArtifactError(f"{run.source}: it was made on bars of {listed(lost)}; {universe.skipped[lost[0]]}")
    day = np.datetime64(str(run.config.holdout_from), "D")
    recorded = recall(run, universe, config, features=features, model=model)  # type: ignore[arg-type]
    before = {name: int((days < day).sum()) for name, days in universe.dates().items()}
    changed = dict(recorded.changed)
    for name, then in run.document.coverage.items():
        if before.get(name) != then.bars:
            changed.setdefault(name, f"bars {then.bars}, now {before.get(name, 0)}")
    if changed:
        (ticker, how), *others = changed.items()
        more = f", and {plural(len(others), 'more ticker')}" if others else ""
        elsewhere = f"; {recorded.elsewhere}" if recorded.elsewhere else ""
        raise ArtifactError(
            f"{run.source}: bars before {day} are not those that it was made on ({ticker}: {how}{more}); give those "
            f"bars, or make it again{elsewhere}"
        )
    scored = [name for name in run.tickers if (universe.dates()[name] >= day).any()]
    if not scored:
        last = max(str(days[-1]) for days in universe.dates().values())
        raise NothingToTrainError(
            f"{run.name}: its holdout begins on {day}, and the last bar is of {last}; ingest newer bars, then open it"
        )
    return Closed(recorded=recorded, universe=universe, day=day)


def _score(closed: Closed, progress: Progress, *, trust: bool) -> tuple[list[Fold], list[Fit], list[Skip]]:
    """Score the saved models of a training run."""
    recorded, run = closed.recorded, closed.run
    run.check_trust(recorded.model, trust=trust)
    pairs = zip(recorded.tasks, run.document.fits, strict=True)
    folds = [_saved_fold(closed, task, fit) for task, (_, fit) in pairs]
    bars = with_panel(recorded.features, closed.universe.bars, recorded.engine)
    progress.start("open holdout", len(folds))
    fits, skips = list[Fit](), list[Skip]()
    for outcome in recorded.engine.run(score_saved, folds, bars):
        if outcome.result is None:
            raise ArtifactError(f"{run.name}: cannot be scored: {outcome.reason}")
        skips += [Skip(ticker=name, fold=None, reason=why) for name, why in outcome.result.skipped.items()]
        fits.append(Fit(task=outcome.task.task, result=outcome.result, seconds=outcome.seconds))
        progress.advance(1, outcome.task.task.name)
    progress.finish()
    return [], sorted(fits, key=lambda fit: fit.task.name), skips


def _saved_fold(closed: Closed, task: Any, fit: Task) -> SavedFold:
    """Let the test of a recorded fit go on to the last bar."""
    document, bars = closed.run.document, closed.universe.bars
    borders = {name: replace(border, end=len(bars[name].frame)) for name, border in task.borders.items()}
    ended = ended_tickers({name: days[-1] for name, days in closed.universe.dates().items()}, task.config.max_gap_days)
    return SavedFold(
        task=replace(
            task,
            borders=borders,
            params=None,
            search=False,
            out_of_sample=True,
            ended=frozenset(borders.keys() & ended.keys()),
            scored_from=closed.day,
        ),
        saved=closed.run.saved_model(fit, closed.recorded.model),
        choices={name: _choice(record) for name, record in fit.threshold.items()},
        columns=tuple(document.features.columns),
        features=fit.digests["features"],
        seen={name: document.data[name].bars for name in borders},
    )


def _choice(record: ThresholdRecord) -> ThresholdChoice:
    """Return a recorded threshold; of its curve nothing is used again."""
    own = {name: getattr(record, name) for name in ("threshold", "objective", "score", "reason")}
    return ThresholdChoice(**own, curve=NO_CURVE)


def _walk_on(closed: Closed, progress: Progress) -> tuple[list[Fold], list[Fit], list[Skip]]:
    """Go on with the folds whose test windows reach into the holdout; of the first only the days from it on count."""
    recorded, document = closed.recorded, closed.run.document
    config, model = replace(recorded.config, holdout_from=None), recorded.model
    experiment = Experiment(config=config, model=model, universe=closed.universe, features=recorded.features)
    plan = make_plan(experiment)
    folds = [fold for fold in plan.folds if fold.days and np.datetime64(fold.days[-1], "D") > closed.day]
    numbers = {fold.number for fold in folds}
    periods = document.terms.periods
    tasks = [replace(task, scored_from=closed.day, periods=periods) for task in plan.tasks if task.fold in numbers]
    known = {fit.name: fit.chosen for _, fit in document.fits if fit.chosen} if model.searches_once else {}
    loop = Loop(experiment, progress)
    fits = sorted(loop.run(tasks, known=known), key=lambda fit: (fit.task.fold, fit.task.name))
    skips = [skip for skip in [*plan.skips, *loop.skips] if skip.fold is None or skip.fold in numbers]
    for fit in fits:
        skips += [Skip(ticker=name, fold=fit.task.fold, reason=why) for name, why in fit.result.skipped.items()]
    return folds, fits, skips


def _record(run: Run, day: np.datetime64) -> HoldoutRecord:
    """Say what was opened."""
    made = dt.datetime.fromisoformat(run.document.created).astimezone(dt.UTC).strftime(TIMESTAMP)
    return HoldoutRecord(
        id=uuid4().hex[:16],
        start=str(day),
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
