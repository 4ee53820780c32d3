"""Use case: train a recorded run again from its document alone, and say whether every bit is as it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Unpack

import msgspec
import numpy as np
import pandas as pd

from nextbar.datasets.samples import Bars
from nextbar.errors import remark
from nextbar.evaluation.refit import run_refit
from nextbar.evaluation.stages import first_stage
from nextbar.evaluation.walkforward import FoldResult, FoldTask, Refitted, run_fold
from nextbar.models.reproducibility import digest_arrays, digest_bars
from nextbar.runs.extend import extend_run
from nextbar.runs.files import REFIT, writable_folder
from nextbar.runs.fit import Environment, Refit, Task
from nextbar.runs.load import expecting_parts, load_runs
from nextbar.runs.verdict import is_refuted, tell_refuted
from nextbar.types import JsonDict, Progress
from nextbar.words import plural
from nextbar.workflows.differences import differing_file, differing_part
from nextbar.workflows.documents import environment
from nextbar.workflows.probe import refuse_unsteady
from nextbar.workflows.recorded import Place, Recorded, recall_file
from nextbar.workflows.training import groups_of, run_groups

PREDICTIONS = ["probability", "predicted_close"]


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """What training again showed.

    Attributes:
        identical: Whether every digest is as recorded.
        folds: Fits that were trained again and compared.
        refits: Refits that were made again and compared.
        where: First fit that differs.
        stage: First stage of it that differs.
        recorded: Digest that was recorded, or the first row, figure or fact that differs.
        now: The same as it comes out.
        differences: What has changed since, by the record: bars, versions, processor, threads.
        changed_rules: Stages that are not compared because their rule has changed since, each with the change.
        upgrade: What an upgrade has done; None where none was asked for.
        refuted: Whether the certificate of the run is FAIL; None where that cannot be read.
    """

    identical: bool
    folds: int = 0
    refits: int = 0
    where: str | None = None
    stage: str | None = None
    recorded: str | None = None
    now: str | None = None
    differences: list[str] = field(default_factory=list)
    changed_rules: dict[str, str] = field(default_factory=dict)
    upgrade: str | None = None
    refuted: bool | None = False

    def __str__(self) -> str:
        changed = [f"stage {stage}: rule changed since 0.1.0 ({how})" for stage, how in self.changed_rules.items()]
        if self.identical:
            counts = [(self.folds, "fit"), (self.refits, "refit")]
            fits = ", ".join(plural(count, name) for count, name in counts if count or name == "fit")
            lines, title = [f"bit-identical ({fits})", *changed], "what has changed since:"
        else:
            head = f"different: {self.where}, first at stage {self.stage}"
            sides = [f"  recorded {self.recorded or 'none'}", f"  now      {self.now or 'none'}"]
            sides = sides if self.recorded or self.now else []
            lines, title = [head, *sides, *changed], "what has changed since, and may explain it:"
        if self.differences:
            lines.append("\n  ".join([title, *self.differences]))
        elif not self.identical and self.stage != "bars":
            lines.append("versions, processor and threads are as recorded")
        if self.upgrade is not None:
            lines.append(self.upgrade)
        return "\n".join(lines)

    __repr__ = __str__  # what a notebook shows

    def to_json(self) -> JsonDict:
        """Return the result for `--json`."""
        return asdict(self)


def reproduce(path: Path, progress: Progress, *, upgrade: bool = False, **place: Unpack[Place]) -> Reproduction:
    """Train a recorded run again and compare it stage by stage; nothing is written without ``upgrade``.

    A run of an older version is made again on its recorded borders. Where the rule of a stage has changed since, its
    digest cannot be compared, and the bytes of the predictions are compared with the recorded rows instead.
    """
    (run,) = load_runs([path])
    return reproduce_recorded(recall_file(run, **place), progress, upgrade=upgrade)


def reproduce_recorded(recorded: Recorded, progress: Progress, *, upgrade: bool = False) -> Reproduction:
    """Train a run again that is ready for it, and compare; a remark says whether its certificate is FAIL."""
    if upgrade and recorded.run.folder is not None:
        writable_folder(recorded.run.folder)
    found, results = _compared(recorded, progress)
    found = replace(found, refuted=is_refuted(recorded.run))
    for text in tell_refuted(recorded.run):
        remark(text)
    if not upgrade:
        return found
    if not found.identical:
        return replace(found, upgrade="not upgraded: only a run that gives the same bits can be upgraded")
    return replace(found, upgrade=_upgrade(recorded, results[0]))


def _upgrade(recorded: Recorded, fit: FoldResult) -> str:
    """Write what a run of an older version lacks, and its model is loaded from; say what was done."""
    run, reads = recorded.run, recorded.model.reads or ()
    missing = {suffix: fit.files[suffix] for suffix in reads if run.stem + suffix not in run.document.files}
    if run.folder is None or run.document.kind != "train" or not missing:
        return "nothing to upgrade: the run has all that this version reads"
    scalers = {name: msgspec.to_builtins(fit.facts[name]) for name in ("scalers",) if name in fit.facts}
    extend_run(run, missing, scalers)
    names = ", ".join(run.stem + suffix for suffix in missing)
    return f"written: {names}; {run.mark.name} lists it now"


def _compared(recorded: Recorded, progress: Progress) -> tuple[Reproduction, Sequence[FoldResult]]:
    """Train a run again and compare; give the fits, too."""
    document = recorded.run.document
    changes = environment_changes(
        document.environment, environment(document.environment.threads, recorded.model.libraries)
    )
    result = partial(Reproduction, differences=changes, changed_rules=dict(recorded.changed_rules))
    if recorded.changed:
        first, how = next(iter(recorded.changed)), [f"{ticker}: {how}" for ticker, how in recorded.changed.items()]
        frame, differences = recorded.bars[first].frame, [*how, *filter(None, [recorded.elsewhere]), *changes]
        facts: JsonDict = {
            "recorded": recorded.coverage[first].fingerprint,
            "now": digest_bars(frame) if len(frame) else None,
        }
        return result(identical=False, where=first, stage="bars", differences=differences, **facts), []
    refuse_unsteady(recorded, progress)
    rows = _recorded_rows(recorded)
    found, results = _train_again(recorded, progress, rows_decide=rows is not None)
    for (number, fit), now in zip(document.fits, found, strict=True):
        then = fit.digests
        if rows is not None:
            then = _with_rows(then, rows[(rows["fold"] == number) & rows["ticker"].isin(list(fit.splits))])
        if (stage := first_stage(then, now, recorded.changed_rules)) is not None:
            where, sides = f"{fit.name} fold {number}", (then.get(stage), now.get(stage))
            facts = {"where": where, "stage": stage, "recorded": sides[0], "now": sides[1]}
            return result(identical=False, folds=len(found), **facts), results
    if not recorded.changed_rules and (differing := differing_part(recorded, results)) is not None:
        return result(identical=False, folds=len(found), where=recorded.run.name, **differing._asdict()), results
    result = partial(result, folds=len(found), refits=sum(fit.refit is not None for _, fit in document.fits))
    return result(**_refits_compared(recorded, changes, progress)), results


def _refits_compared(recorded: Recorded, changes: Sequence[str], progress: Progress) -> JsonDict:
    """Make the refits again and compare them; say as fields of `Reproduction` what differs first."""
    for ticker, how in recorded.refit_changed.items():
        found = [f"{ticker}: {how}", *filter(None, [recorded.elsewhere]), *changes]
        return {"identical": False, "where": f"refit of {ticker}", "stage": "bars", "differences": found}
    for fit, now in refit_again(recorded, recorded.refit_tasks, recorded.refit_bars, progress):
        assert fit.refit is not None
        if (difference := _refit_differs(recorded, fit, fit.refit, now)) is None:
            continue
        then = fit.refit.environment
        where = {"identical": False, "where": f"refit of {fit.name}", **difference}
        if then is None:
            return where
        here = environment(then.threads, recorded.model.libraries)
        return where | {"differences": environment_changes(then, here)}
    return {"identical": True}


def _refit_differs(recorded: Recorded, fit: Task, refit: Refit, now: Refitted | str) -> JsonDict | None:
    """Say which part of a refit comes out otherwise; None where every bit is as recorded."""
    if isinstance(now, str):
        return {"stage": "bars", "now": now}
    then, digests = refit.digests, now.facts["digests"]
    if (stage := first_stage(then, digests, {})) is not None:
        return {"stage": stage, "recorded": then.get(stage), "now": digests.get(stage)}
    made = msgspec.convert({"created": "", "data": {}, **now.facts}, Refit)
    if (made.seed, made.splits, made.scalers) != (refit.seed, refit.splits, refit.scalers):
        return {"stage": "fits"}
    part = differing_file(recorded, fit, {REFIT + suffix: content for suffix, content in now.files.items()}, refit=True)
    return None if part is None else {"stage": part}


def refit_again(
    recorded: Recorded, tasks: Sequence[tuple[Task, FoldTask]], bars: Mapping[str, Bars], progress: Progress
) -> Iterator[tuple[Task, Refitted | str]]:
    """Run the tasks of refits; give each fit with its refit, or with the reason why there is none."""
    if not tasks:
        return
    fits = {task.name: fit for fit, task in tasks}
    plain = recorded.with_panel(bars, bars)
    progress.start("refit", len(tasks))
    for outcome in recorded.engine.run(
        run_refit, [task for _, task in tasks], plain, lambda task, note: progress.advance(0, f"{task.name} {note}")
    ):
        progress.advance(1, outcome.task.name)
        yield fits[outcome.task.name], str(outcome.reason) if outcome.result is None else outcome.result
    progress.finish()


def _train_again(
    recorded: Recorded, progress: Progress, *, rows_decide: bool
) -> tuple[list[Mapping[str, str]], list[FoldResult]]:
    """Return the digests of each fit now, an error in place of each digest; and the fits that there are."""
    n_jobs = recorded.engine.n_jobs(len(recorded.tasks))
    tasks = [replace(task, n_jobs=n_jobs) for task in recorded.tasks]
    numbers = {(task.fold, task.name): number for number, task in enumerate(tasks)}
    found: list[Mapping[str, str]] = [dict.fromkeys(fit.digests, "") for _, fit in recorded.run.document.fits]
    bars = recorded.with_panel(recorded.bars, recorded.bars)
    results: dict[int, FoldResult] = {}
    progress.start("reproduce", len(tasks))
    groups = groups_of(recorded.run.document, recorded.model, tasks)
    together = {numbers[task.fold, task.name] for group in groups for task in group.tasks}
    alone = [task for number, task in enumerate(tasks) if number not in together]
    for outcome in chain(
        recorded.engine.run(run_fold, alone, bars, lambda task, note: progress.advance(0, note)) if alone else (),
        run_groups(recorded.engine, groups, bars, progress) if groups else (),
    ):
        at, result = numbers[outcome.task.fold, outcome.task.name], outcome.result
        if result is None:
            found[at] = dict.fromkeys(found[at], str(outcome.reason))
        else:
            results[at] = result
            found[at] = _with_rows(result.digests, pd.DataFrame(result.rows)) if rows_decide else result.digests
        progress.advance(1, outcome.task.name)
    progress.finish()
    return found, [results[at] for at in sorted(results)]


def _recorded_rows(recorded: Recorded) -> pd.DataFrame | None:
    """Return rows of a run of older rules; None where digests are compared: of the present rules, or without rows."""
    run = recorded.run
    if not recorded.changed_rules or (run.contents is None and not run.rows_path.exists()):
        return None
    with expecting_parts(run):
        return run.rows[["date", "ticker", "fold", *PREDICTIONS]]


def _with_rows(digests: Mapping[str, str], rows: pd.DataFrame) -> dict[str, str]:
    """Return digests with that of the predictions alone, without the signals, in place of the stage's own."""
    rows = rows.sort_values(["ticker", "date"])
    numbers = [rows[name].to_numpy(np.float64, na_value=np.nan) for name in PREDICTIONS]
    return {**digests, "predictions": digest_arrays([rows["date"].to_numpy(), *numbers])}


def environment_changes(recorded: Environment, now: Environment) -> list[str]:
    """Name what differs between the recorded environment and this one, as `name recorded → now`."""
    then, here = _flat(recorded), _flat(now)
    names = [name for name in {**then, **here} if then.get(name) != here.get(name)]
    return [f"{name} {then.get(name, 'absent')} → {here.get(name, 'absent')}" for name in names]


def _flat(facts: Environment) -> dict[str, object]:
    names = [name for name in Environment.__struct_fields__ if name != "versions"]
    return {**{name: getattr(facts, name) for name in names}, **facts.versions}
