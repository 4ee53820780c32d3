"""Use case: train again from the metadata alone, and say whether every bit comes out as it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Unpack

from nextbar.artifacts.metadata import environment
from nextbar.evaluation.walkforward import run_fold
from nextbar.pipelines.recorded import Place, Recorded, load_recorded
from nextbar.types import JsonDict, Progress

STAGES = (
    "bars",
    "features",
    "splits",
    "scalers",
    "search",
    "params",
    "epochs",
    "weights",
    "threshold",
    "predictions",
)
"""Stages with a digest, in the order in which they run."""


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """What training again showed.

    Attributes:
        identical: Whether every digest is as recorded.
        folds: Folds that were trained again and compared.
        where: First fold that differs.
        stage: First stage of it that differs.
        recorded: Digest that was recorded.
        now: Digest that came out.
        differences: What has changed since, by the record: bars, versions, processor, threads.
    """

    identical: bool
    folds: int = 0
    where: str | None = None
    stage: str | None = None
    recorded: str | None = None
    now: str | None = None
    differences: list[str] = field(default_factory=list)

    def to_json(self) -> JsonDict:
        """For `--json`."""
        return asdict(self)


def reproduce(path: Path, progress: Progress, **place: Unpack[Place]) -> Reproduction:
    """Train a recorded run again and compare it stage by stage; nothing is written.

    Args:
        path: `*_metadata.json`, or the `.json` of a walk-forward.
        progress: Told about each fold.
        **place: Where it is run again.

    Raises:
        NextbarError: The file is not the metadata of a run, or the database cannot be read.
    """
    run = load_recorded(path, **place)
    now = environment(run.threads)
    differences = environment_changes(run.document["environment"], now)
    if run.changed:
        first = run.changed[0]
        return Reproduction(
            identical=False,
            where=first.ticker,
            stage="bars",
            recorded=first.recorded,
            now=first.now,
            differences=[*map(str, run.changed), *differences],
        )
    found = _train_again(run, progress)
    for number, fold in enumerate(run.folds):
        if (stage := first_stage(fold.digests, found[number])) is not None:
            return Reproduction(
                identical=False,
                folds=len(run.folds),
                where=f"{fold.task.name} fold {fold.task.fold}",
                stage=stage,
                recorded=fold.digests.get(stage),
                now=found[number].get(stage),
                differences=differences,
            )
    return Reproduction(identical=True, folds=len(run.folds), differences=differences)


def _train_again(run: Recorded, progress: Progress) -> dict[int, Mapping[str, str]]:
    """Number of the fold → its digests now; an error stands in place of the digest of its first stage."""
    numbers = {(fold.task.fold, fold.task.name): number for number, fold in enumerate(run.folds)}
    found: dict[int, Mapping[str, str]] = {}
    progress.start("reproduce", len(run.folds))
    lanes = run.engine.lanes(len(run.folds))
    tasks = [replace(fold.task, lanes=lanes) for fold in run.folds]
    for outcome in run.engine.run(run_fold, tasks, run.bars, lambda task, note: progress.advance(0, note)):
        digests = {"bars": str(outcome.reason)} if outcome.result is None else outcome.result.digests
        found[numbers[outcome.task.fold, outcome.task.name]] = digests
        progress.advance(1, outcome.task.name)
    progress.finish()
    return found


def first_stage(recorded: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """The first stage whose digests differ, or None."""
    others = sorted((set(recorded) | set(now)) - set(STAGES))
    return next((stage for stage in (*STAGES, *others) if recorded.get(stage) != now.get(stage)), None)


def environment_changes(recorded: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """What differs between the recorded environment and this one, as `name recorded → now`."""
    then, here = _flat(recorded), _flat(now)
    names = [name for name in (*then, *(set(here) - set(then))) if then.get(name) != here.get(name)]
    return [f"{name} {then.get(name, 'absent')} → {here.get(name, 'absent')}" for name in names]


def _flat(facts: Mapping[str, object]) -> dict[str, object]:
    versions = facts.get("versions")
    plain = {name: value for name, value in facts.items() if name != "versions"}
    return {**plain, **(versions if isinstance(versions, Mapping) else {})}
