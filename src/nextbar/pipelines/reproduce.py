"""Use case: train again from the metadata alone, and say whether every bit comes out as it was."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Unpack

import numpy as np
import pandas as pd

from nextbar.artifacts.metadata import environment
from nextbar.artifacts.runs import Run, expecting_parts
from nextbar.evaluation.walkforward import run_fold
from nextbar.models.reproducibility import digest_arrays
from nextbar.pipelines.recorded import Place, Recorded, RecordedFold, load_recorded
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
PREDICTIONS = ("probability", "predicted_close")


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
        changed_rules: Stages that are not compared because their rule has changed since, each with the change.
    """

    identical: bool
    folds: int = 0
    where: str | None = None
    stage: str | None = None
    recorded: str | None = None
    now: str | None = None
    differences: list[str] = field(default_factory=list)
    changed_rules: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> JsonDict:
        """For `--json`."""
        return asdict(self)


def reproduce(path: Path, progress: Progress, **place: Unpack[Place]) -> Reproduction:
    """Train a recorded run again and compare it stage by stage; nothing is written.

    A run of an older version is made again on its recorded borders. Where the rule of a stage has changed since, its
    digest cannot be compared; what decides are the bytes of the predictions, which are compared with the recorded rows.

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
    changed_rules = dict(run.changed_rules)
    if run.changed:
        first = run.changed[0]
        return Reproduction(
            identical=False,
            where=first.ticker,
            stage="bars",
            recorded=first.recorded,
            now=first.now,
            differences=[*map(str, run.changed), *filter(None, [run.elsewhere]), *differences],
            changed_rules=changed_rules,
        )
    rows = _recorded_rows(run)
    found = _train_again(run, progress, rows_decide=rows is not None)
    for number, fold in enumerate(run.folds):
        recorded = fold.digests if rows is None else _with_rows(fold.digests, _rows_of(rows, fold))
        if (stage := first_stage(recorded, found[number], skip=run.changed_rules)) is not None:
            return Reproduction(
                identical=False,
                folds=len(run.folds),
                where=f"{fold.task.name} fold {fold.task.fold}",
                stage=stage,
                recorded=recorded.get(stage),
                now=found[number].get(stage),
                differences=differences,
                changed_rules=changed_rules,
            )
    return Reproduction(identical=True, folds=len(run.folds), differences=differences, changed_rules=changed_rules)


def _train_again(run: Recorded, progress: Progress, *, rows_decide: bool) -> dict[int, Mapping[str, str]]:
    """Number of the fold → its digests now; an error stands in place of each digest."""
    numbers = {(fold.task.fold, fold.task.name): number for number, fold in enumerate(run.folds)}
    found: dict[int, Mapping[str, str]] = {}
    progress.start("reproduce", len(run.folds))
    lanes = run.engine.lanes(len(run.folds))
    tasks = [replace(fold.task, lanes=lanes) for fold in run.folds]
    for outcome in run.engine.run(run_fold, tasks, run.bars, lambda task, note: progress.advance(0, note)):
        number = numbers[outcome.task.fold, outcome.task.name]
        if outcome.result is None:
            found[number] = dict.fromkeys(run.folds[number].digests, str(outcome.reason))
        elif rows_decide:
            found[number] = _with_rows(outcome.result.digests, pd.DataFrame(outcome.result.rows))
        else:
            found[number] = outcome.result.digests
        progress.advance(1, outcome.task.name)
    progress.finish()
    return found


def _recorded_rows(run: Recorded) -> pd.DataFrame | None:
    """Rows of a run of older rules; None where digests are compared: of the present rules, or without its rows."""
    recorded = Run(folder=run.path.parent, stem=run.stem, document=run.document)
    if not run.changed_rules or not recorded.rows_path.exists():
        return None
    with expecting_parts(recorded):
        rows = recorded.rows()
        return rows[["date", "ticker", "fold", *PREDICTIONS]]


def _rows_of(rows: pd.DataFrame, fold: RecordedFold) -> pd.DataFrame:
    return rows[(rows["fold"] == fold.task.fold) & rows["ticker"].isin(list(fold.task.borders))]


def _with_rows(digests: Mapping[str, str], rows: pd.DataFrame) -> dict[str, str]:
    """Digests with that of the predictions alone, without the signals, in place of the stage's own."""
    rows = rows.sort_values(["ticker", "date"])
    numbers = [rows[name].to_numpy(np.float64, na_value=np.nan) for name in PREDICTIONS]
    return {**digests, "predictions": digest_arrays([rows["date"].to_numpy(), *numbers])}


def first_stage(recorded: Mapping[str, str], now: Mapping[str, str], skip: Container[str] = ()) -> str | None:
    """The first stage whose digests differ, or None; those of ``skip`` are not compared."""
    others = sorted((set(recorded) | set(now)) - set(STAGES))
    stages = (stage for stage in (*STAGES, *others) if stage not in skip)
    return next((stage for stage in stages if recorded.get(stage) != now.get(stage)), None)


def environment_changes(recorded: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """What differs between the recorded environment and this one, as `name recorded → now`."""
    then, here = _flat(recorded), _flat(now)
    names = [name for name in (*then, *(set(here) - set(then))) if then.get(name) != here.get(name)]
    return [f"{name} {then.get(name, 'absent')} → {here.get(name, 'absent')}" for name in names]


def _flat(facts: Mapping[str, object]) -> dict[str, object]:
    versions = facts.get("versions")
    plain = {name: value for name, value in facts.items() if name != "versions"}
    return {**plain, **(versions if isinstance(versions, Mapping) else {})}
