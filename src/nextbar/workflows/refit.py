"""Use case: fit the models of a run once more on all bars, for predictions; its rows and figures stay as they are."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

import msgspec

from nextbar.errors import ArtifactError, remark
from nextbar.models.base import Model
from nextbar.runs.extend import extend_run
from nextbar.runs.files import REFIT, writable_folder
from nextbar.runs.fit import Refit
from nextbar.runs.run import Run
from nextbar.runs.siblings import renew_certificate
from nextbar.types import Progress
from nextbar.workflows.documents import environment, refit_files_of, refit_record
from nextbar.workflows.recorded import Recorded, refuse_changed
from nextbar.workflows.reproduce import refit_again
from nextbar.workflows.universe import cover

Made: TypeAlias = dict[str, tuple[Refit, dict[str, bytes]]]
"""Name of a fit → its refit, and the files of that: suffix → content."""


def check_refit(run: Run, model: Model) -> None:
    """Refuse a run that has no model to fit again, or whose model cannot be fitted without validation."""
    document = run.document
    if document.holdout is not None:
        raise ArtifactError(
            f"{run.name}: an opening has no model of its own; fit its run again: {document.holdout.run}"
        )
    if document.kind != "train":
        kind = "signals have" if document.kind == "signals" else "a walk-forward keeps predictions and has"
        raise ArtifactError(f"{run.name}: {kind} no model to fit again; train one: nextbar train … --refit")
    if document.rules == 1:
        raise ArtifactError(f"{run.name}: version 0.1.0 made this run, by older rules; train again")
    if not model.refits:
        raise ArtifactError(
            f"{run.name}: your own model {model.name} is fitted again only if its class has refits = True; its fit "
            "then gets a panel without validation, and in FitRequest.rounds what its method rounds has returned"
        )


def refit_recorded(recorded: Recorded, progress: Progress) -> Run:
    """Fit the models of a run again on all these bars, and give the run with them; write them beside a run on disk."""
    if recorded.run.folder is not None:
        writable_folder(recorded.run.folder)  # before the work, which is lost if nothing can be written
    refuse_changed(recorded, recorded.changed)
    made = _fit_again(recorded, progress)
    if recorded.run.contents is not None:
        return _attached(recorded.run, made)
    return _written(recorded.run, made, recorded.model)


def _fit_again(recorded: Recorded, progress: Progress) -> Made:
    """Fit each model on the bars from the first recorded day to the last that there is."""
    document, spec = recorded.run.document, recorded.features
    last = {name: str(item.frame.index[-1].date()) for name, item in recorded.universe.bars.items()}
    spans = {name: msgspec.structs.replace(then, last=last[name]) for name, then in recorded.coverage.items()}
    bars = recorded.bars_within(spans)
    tasks = [(fit, recorded.refit_task(number, fit, bars)) for number, fit in document.fits]
    here = environment(document.environment.threads, recorded.model.libraries)
    made: Made = {}
    for fit, now in refit_again(recorded, tasks, bars, progress):
        if isinstance(now, str):
            raise ArtifactError(f"{recorded.run.name}: {fit.name} cannot be fitted again: {now}")
        names = bars if spec.panel else fit.splits
        record = refit_record(now, spec, {name: cover(bars[name]) for name in names})
        elsewhere = None if here == document.environment else here
        refit = msgspec.structs.replace(record, environment=elsewhere)
        task = msgspec.structs.replace(fit, refit=refit)
        made[fit.name] = refit, refit_files_of(recorded.model, document, task, now.files)
    return made


def _attached(run: Run, made: Made) -> Run:
    """Return a run in memory with its refits, which are saved with it; the run itself stays as it is."""
    assert run.contents is not None
    change = msgspec.structs.replace
    folds = [
        change(fold, tasks=[change(task, refit=made[task.name][0]) for task in fold.tasks])
        for fold in run.document.folds
    ]
    files = {
        name: {suffix: content for suffix, content in own.items() if not suffix.startswith(REFIT)} | made[name][1]
        for name, own in run.contents.files.items()
    }
    contents = replace(run.contents, files=files, parts=[_attached(part, made) for part in run.contents.parts])
    return replace(run, document=change(run.document, folds=folds), contents=contents)


def _written(run: Run, made: Made, model: Model) -> Run:
    """Write the refit of a run on disk beside it; nothing else of its document changes."""
    ((_, fit),) = run.document.fits
    refit, files = made[fit.name]
    certified = renew_certificate(run.mark, run.stem)
    whole = extend_run(run, model.to_save(files), {"refit": msgspec.to_builtins(refit)})
    if certified:
        remark(f"{run.stem}: its certificate says nothing about this refit; certify it again")
    return whole
