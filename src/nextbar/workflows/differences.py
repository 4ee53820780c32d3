"""What of a run that is made again differs first from its record, where no digest tells."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pandas as pd

from nextbar.errors import OutdatedError
from nextbar.evaluation.figures import figures_of, finish_rows
from nextbar.evaluation.series import Book
from nextbar.evaluation.walkforward import FoldResult, stitch
from nextbar.runs.document import Comparison, Document
from nextbar.runs.files import MOST_FILE_BYTES, digest_file
from nextbar.runs.fit import SearchRecord, Splits, Task
from nextbar.runs.load import expecting_parts
from nextbar.version import __version__
from nextbar.words import excerpt, plural
from nextbar.workflows.documents import environment, summarise_rows
from nextbar.workflows.recorded import Recorded

UNREPEATABLE = (".keras",)
"""Files that hold names or times of their making; their content is compared as weights."""
ABSENT = "not there"


class Differing(NamedTuple):
    """A stage that differs, and what of it first: as recorded, and as it comes out now."""

    stage: str
    recorded: str | None = None
    now: str | None = None


def differing_part(recorded: Recorded, results: Sequence[FoldResult]) -> Differing | None:
    """Compare what the digests do not cover with what the fits give now: rows, figures, facts on the fits, model.

    Files that were not brought along are not missed.
    """
    run, document = recorded.run, recorded.run.document
    rows, aux = stitch(results)
    book = document.book(rows)
    with expecting_parts(run):
        if run.contents is not None or run.rows_path.exists():
            made, then = finish_rows(rows, book), run.rows
            if len(made) != len(then):
                return Differing("rows", plural(len(then), "row"), plural(len(made), "row"))
            if (column := next((str(name) for name in made if not _same(made[name], then[name])), None)) is not None:
                return Differing("rows", *_first_change(then, made, column))
        for (_, fit), now in zip(document.fits, results, strict=True):
            if differing := _differing_fact(fit, now):
                return differing
        if differing := _differing_figure(document, rows, aux, book):
            return differing
        stage = differing_file(recorded, document.fits[0][1], results[0].files)
        return None if stage is None else Differing(stage)


def _first_change(then: pd.DataFrame, now: pd.DataFrame, column: str) -> Iterator[str]:
    """Give the first row in which a column differs, as recorded and as it comes out now."""
    at = next(at for at in range(len(now)) if not _same(now[column].iloc[[at]], then[column].iloc[[at]]))
    for rows in (then, now):
        row = rows.iloc[at]
        yield f"{row['ticker']} {pd.Timestamp(row['date']).date()}: {column} {row[column]}"


def _differing_fact(fit: Task, now: FoldResult) -> Differing | None:
    """Name seed, splits, thresholds or search where they come out otherwise; curves are left out."""
    pairs: dict[str, tuple[Any, Any]] = {
        "seed": (fit.seed, now.seed),
        "splits": (fit.splits, msgspec.convert(now.splits, dict[str, Splits])),
        "threshold": (
            {name: choice.threshold for name, choice in fit.threshold.items()},
            {name: choice["threshold"] for name, choice in now.facts["threshold"].items()},
        ),
    }
    if fit.search is not None:
        pairs["search"] = (fit.search, msgspec.convert(now.facts["search"], SearchRecord))
    for name, (then, found) in pairs.items():
        if change := _first_difference(msgspec.to_builtins(then), msgspec.to_builtins(found), name):
            return Differing("fits", *change)
    return None


def _differing_figure(document: Document, rows: pd.DataFrame, aux: pd.DataFrame, book: Book) -> Differing | None:
    """Name a figure of all days, of a fold, or of the days after the last training day that comes out otherwise."""
    summary = partial(summarise_rows, terms=book.terms, holes=document.holes, ended=document.ended)
    pairs: list[tuple[str, Any, Any]] = [("", document.figures, summary(rows, aux))]
    pairs += [
        (f"fold {fold.number}", fold.metrics, figures_of(book.within(fold.number), aux))
        for fold in document.folds
        if fold.metrics
    ]
    if (late := document.after_last_training_day) is not None:
        later = rows["date"].to_numpy() >= np.datetime64(str(late.first))
        pairs.append(("after the last training day", late, summary(rows[later], aux[later], first=True)))
    older = document.environment.versions.get("nextbar") != __version__
    for place, then, now in pairs:
        built = msgspec.to_builtins(msgspec.convert(now, Comparison))
        if (change := _first_difference(msgspec.to_builtins(then), built, place, older=older)) is not None:
            return Differing("figures", *change)
    return None


def _first_difference(then: Any, now: Any, place: str = "", *, older: bool = False) -> tuple[str, str] | None:
    """Name the first value that does not come out as recorded; another version may lack some of the figures."""
    if isinstance(then, dict) and isinstance(now, dict):
        more = sorted(now.keys() - then.keys())
        names = [*then, *(name for name in more if not older or isinstance(now[name], dict))]
        inner = ((then.get(name, ABSENT), now.get(name, ABSENT), f"{place} {name}".strip()) for name in names)
        return next((change for one in inner if (change := _first_difference(*one, older=older))), None)
    if isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        numbered = ((*pair, f"{place} {number}") for number, pair in enumerate(zip(then, now, strict=True), start=1))
        return next((change for one in numbered if (change := _first_difference(*one, older=older))), None)
    return None if then == now else (f"{place}: {excerpt(then)}", f"{place}: {excerpt(now)}")


def differing_file(recorded: Recorded, fit: Task, files: Mapping[str, bytes], *, refit: bool = False) -> str | None:
    """Name what of a fit, or of its refit, was saved otherwise: the model, or a file.

    A model that may run code is not read. Other versions of the libraries write other files.
    """
    run, document = recorded.run, recorded.run.document
    if run.contents is not None or document.kind != "train" or not recorded.model.trusted:
        return None
    if all(run.mark.with_name(name).exists() for name in document.files):
        then = fit.refit.digests if refit and fit.refit else fit.digests
        with suppress(OutdatedError):
            saved = recorded.model.restore(run.saved_model(fit, recorded.model, refit=refit)).digests
            if any(saved.get(stage) != then.get(stage) for stage in ("scalers", "weights")):
                return "model"
    if document.environment.versions != environment(document.environment.threads).versions:
        return None
    for suffix, content in files.items():
        path = run.sibling(suffix)
        if suffix.endswith(UNREPEATABLE) or not path.exists():
            continue
        if digest_file(path, MOST_FILE_BYTES) != hashlib.sha256(content).hexdigest():
            return path.name
    return None


def _same(now: pd.Series, then: pd.Series) -> bool:
    """Whether two columns hold the same values, whatever their types are."""
    if now.dtype.kind != "f":
        return bool((now.to_numpy() == then.to_numpy()).all())
    return np.array_equal(now.to_numpy(np.float64), then.to_numpy(np.float64, na_value=np.nan), equal_nan=True)
