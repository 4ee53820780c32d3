"""Add files to a run on disk: its document lists them, and nothing else of the run changes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from nextbar.errors import ArtifactError, OutputError
from nextbar.runs.document import read_document
from nextbar.runs.files import REFIT, read_limited, write_together
from nextbar.types import JsonDict
from nextbar.untrusted import MOST_JSON_BYTES, refusing, strict_json

if TYPE_CHECKING:
    from nextbar.runs.run import Run

ADDED = ((REFIT, "refit"), ("_weights.npz", "scalers"))
"""What a run may get after it was made: what the suffixes of the files begin with, and the fact of its fit."""


def extend_run(run: Run, files: Mapping[str, bytes], facts: JsonDict) -> Run:
    """Write files beside a run, then its document, which lists them; return the run with them.

    An earlier refit is taken out of the document first: its files are replaced one after the other, and a run whose
    document names files that are half replaced would be refused as damaged.

    Args:
        run: A run on disk with one fit.
        files: Suffix → content of the new files.
        facts: What is added to the record of the fit.

    Raises:
        ArtifactError: The document was changed since it was read.
        OutputError: A file cannot be written; none of them was kept.
    """
    document, kept = _read(run), "the run is as it was"
    if "refit" in facts and "refit" in _fits(document)[0]:
        _remove(document, run.stem, *ADDED[0])
        _write({run.mark: _text(document)}, kept)
        kept = "the run has no refit now; refit it again"
    new = {run.stem + suffix: content for suffix, content in files.items()}
    document["files"] |= {name: hashlib.sha256(content).hexdigest() for name, content in new.items()}
    if "paths" in document:
        document["paths"] |= {name: f"./{name}" for name in new}
    _fits(document)[0].update(facts)
    contents = {run.mark.with_name(name): content for name, content in new.items()}
    _write({**contents, run.mark: _text(document)}, kept)
    return replace(run, document=msgspec.structs.replace(read_document(run.mark), config=run.document.config))


def made_digests(mark: Path, stem: str) -> Iterator[str]:
    """Give the sha256 of a run's document as it is, then without a refit, then without what an upgrade has added.

    A certificate is about the run as it was made, so it names the document by the second of them. One that names the
    first or the third is about the same rows and figures.
    """
    content = read_limited(mark, MOST_JSON_BYTES)
    yield hashlib.sha256(content).hexdigest()
    with refusing(str(mark)):
        document = strict_json(content)
        for suffix, fact in ADDED:
            _remove(document, stem, suffix, fact)
            yield hashlib.sha256(_text(document)).hexdigest()


def _read(run: Run) -> JsonDict:
    with refusing(str(run.mark)):
        document: JsonDict = strict_json(read_limited(run.mark, MOST_JSON_BYTES))
        if document["files"] == run.document.files:
            return document
    raise ArtifactError(f"{run.mark} was changed while the run was made again; run the command again")


def _write(contents: Mapping[Path, bytes], kept: str) -> None:
    try:
        write_together(contents)
    except OSError as error:
        raise OutputError(f"{error.filename}: cannot be written ({error.strerror}); {kept}") from error


def _text(document: JsonDict) -> bytes:
    return json.dumps(document, indent=1, allow_nan=False).encode()


def _fits(document: JsonDict) -> list[JsonDict]:
    """Return the records of its fits; a training run of version 1 is one itself."""
    return [fit for fold in document.get("folds", ()) for fit in fold["tasks"]] or [document]


def _remove(document: JsonDict, stem: str, suffix: str, fact: str) -> None:
    """Take files whose suffix begins so, and a fact of each fit, out of a document."""
    for names in ("files", "paths"):
        if names in document:
            document[names] = {
                name: value for name, value in document[names].items() if not name.startswith(stem + suffix)
            }
    for fit in _fits(document):
        fit.pop(fact, None)
