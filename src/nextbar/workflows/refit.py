"""Use case: fit the models of a run once more on all bars, for predictions; its rows and figures stay as they are."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace

import msgspec

from nextbar.errors import ArtifactError, OutputError
from nextbar.models.base import Model
from nextbar.runs.document import Document, Refit, read_document
from nextbar.runs.files import REFIT, read_limited, writable_folder, write_bytes, write_together
from nextbar.runs.run import Run
from nextbar.types import Progress
from nextbar.untrusted import MOST_JSON_BYTES, strict_json
from nextbar.workflows.documents import environment, refit_files_of, refit_record
from nextbar.workflows.recorded import Recorded, bars_within
from nextbar.workflows.reproduce import refit_again
from nextbar.workflows.universe import Universe, coverage


@dataclass(frozen=True, kw_only=True)
class Made:
    """Refits by the name of their fit, and their files: suffix → content."""

    refits: Mapping[str, Refit]
    files: Mapping[str, Mapping[str, bytes]]


def check_refit(run: Run, model: Model) -> None:
    """Refuse a run that has no model to fit again.

    Raises:
        ArtifactError: It is no training run, is of an older version, or its model cannot be fitted without validation.
    """
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
            f"{run.name}: a model {model.name} of your own is fitted again where its class says refits = True; its fit "
            "then gets a panel without validation, and FitRequest.rounds as its method rounds returns them"
        )


def refit_recorded(recorded: Recorded, universe: Universe, progress: Progress) -> Run:
    """Fit the models of a run again on all these bars, and give the run with them; write them beside a run on disk.

    Raises:
        ArtifactError: The bars of the run have changed since.
        OutputError: A file cannot be written.
    """
    if recorded.run.folder is not None:
        writable_folder(recorded.run.folder)  # before the work, which is lost if nothing can be written
    if recorded.changed:
        ticker, how = next(iter(recorded.changed.items()))
        raise ArtifactError(f"{recorded.run.source}: bars have changed since ({ticker}: {how}); train again")
    made = _fit_again(recorded, universe, progress)
    return _attached(recorded.run, made) if recorded.run.contents is not None else _written(recorded.run, made)


def _fit_again(recorded: Recorded, universe: Universe, progress: Progress) -> Made:
    """Fit each model on the bars from the first recorded day to the last that there is."""
    document, spec = recorded.run.document, recorded.features
    last = {name: str(item.frame.index[-1].date()) for name, item in universe.bars.items()}
    spans = {name: msgspec.structs.replace(then, last=last[name]) for name, then in recorded.coverage.items()}
    bars = bars_within(spans, universe, recorded.config, rules=document.rules)
    tasks = [(fit, recorded.refit_task(number, fit, bars)) for number, fit in document.fits]
    here = environment(document.environment.threads, recorded.model.libraries)
    refits, files = dict[str, Refit](), dict[str, Mapping[str, bytes]]()
    for fit, now in refit_again(recorded, tasks, bars, progress):
        if isinstance(now, str):
            raise ArtifactError(f"{recorded.run.name}: {fit.name} cannot be fitted again: {now}")
        names = bars if spec.panel else fit.splits
        record = refit_record(now, spec, coverage({name: bars[name] for name in names}))
        elsewhere = None if here == document.environment else here
        refits[fit.name] = msgspec.structs.replace(record, environment=elsewhere)
        task = msgspec.structs.replace(fit, refit=refits[fit.name])
        files[fit.name] = refit_files_of(recorded.model, document, task, now.files)
    return Made(refits=refits, files=files)


def _with_refits(document: Document, refits: Mapping[str, Refit]) -> Document:
    """Return the document with the refits in their fits."""
    folds = [
        msgspec.structs.replace(
            fold, tasks=[msgspec.structs.replace(task, refit=refits[task.name]) for task in fold.tasks]
        )
        for fold in document.folds
    ]
    return msgspec.structs.replace(document, folds=folds)


def _attached(run: Run, made: Made) -> Run:
    """Return a run in memory with its refits, which are saved with it; the run itself stays as it is."""
    assert run.contents is not None
    own = {
        name: {suffix: content for suffix, content in files.items() if not suffix.startswith(REFIT)}
        for name, files in run.contents.files.items()
    }
    contents = replace(
        run.contents,
        files={name: {**files, **made.files[name]} for name, files in own.items()},
        parts=[_attached(part, made) for part in run.contents.parts],
    )
    return replace(run, document=_with_refits(run.document, made.refits), contents=contents)


def _written(run: Run, made: Made) -> Run:
    """Write the refit of a run on disk beside it, and its document last; nothing else of the document changes.

    An earlier refit is taken out of the document first: its files are replaced one after the other, and a run whose
    document names files that are half replaced would be refused as damaged.
    """
    ((_, fit),), mark = run.document.fits, run.mark
    new = {run.stem + suffix: content for suffix, content in made.files[fit.name].items()}
    document = _extended(run, made.refits[fit.name], new)
    try:
        if fit.refit is not None:
            write_bytes(mark, _extended(run, None, {}))
        write_together(
            {**{run.sibling(name.removeprefix(run.stem)): text for name, text in new.items()}, mark: document}
        )
    except OSError as error:
        raise OutputError(f"{error.filename or mark}: cannot be written ({error.strerror})") from error
    if run.sibling("_certificate.json").exists():
        warnings.warn(
            f"{run.stem}: its certificate is about the run without this refit; certify it again", stacklevel=5
        )
    whole = msgspec.structs.replace(read_document(mark), config=run.document.config)
    return Run(document=whole, config=run.config, stem=run.stem, folder=run.folder)


def _extended(run: Run, refit: Refit | None, files: Mapping[str, bytes]) -> bytes:
    """Return the text of the run's document with a refit, or none, in place of an earlier one and its files."""
    document = strict_json(read_limited(run.mark, MOST_JSON_BYTES))
    if document["files"] != run.document.files:
        raise ArtifactError(f"{run.mark} was changed while its model was fitted again; start anew")
    kept = {name: digest for name, digest in document["files"].items() if not name.startswith(run.stem + REFIT)}
    document["files"] = kept | {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    document["paths"] = {name: f"./{name}" for name in document["files"]}
    task = document["folds"][0]["tasks"][0]
    task.pop("refit", None)
    if refit is not None:
        task["refit"] = msgspec.to_builtins(refit)
    return json.dumps(document, indent=1, allow_nan=False).encode()
