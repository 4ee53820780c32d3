"""Add files to a run on disk: its document lists them, and nothing else of the run changes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace

import msgspec

from nextbar.errors import ArtifactError, OutputError
from nextbar.runs.document import read_document
from nextbar.runs.files import read_limited, write_together
from nextbar.runs.run import Run
from nextbar.types import JsonDict
from nextbar.untrusted import MOST_JSON_BYTES, refusing, strict_json


def extend_run(
    run: Run,
    files: Mapping[str, bytes],
    change: Callable[[JsonDict], object],
    *,
    without: str | None = None,
    kept: str = "the run is as it was",
) -> Run:
    """Write files (suffix → content) beside a run, then its document, which lists them; return the run with them.

    Args:
        run: A run on disk with one fit.
        files: The new files.
        change: Changes the record of the fit.
        without: Files whose suffix begins so are no longer listed.
        kept: What an error says of the run.

    Raises:
        ArtifactError: The document was changed since it was read.
        OutputError: A file cannot be written; none of them was kept.
    """
    new = {run.stem + suffix: content for suffix, content in files.items()}
    contents = {run.mark.with_name(name): content for name, content in new.items()}
    contents[run.mark] = _extended(run, new, change, without)
    try:
        write_together(contents)
    except OSError as error:
        told = f"{error.filename or run.mark}: cannot be written ({error.strerror}); {kept}"
        raise OutputError(told) from error
    return replace(run, document=msgspec.structs.replace(read_document(run.mark), config=run.document.config))


def _extended(run: Run, files: Mapping[str, bytes], change: Callable[[JsonDict], object], without: str | None) -> bytes:
    """Return the text of the run's document with other siblings and another fit."""
    with refusing(str(run.mark)):
        document = strict_json(read_limited(run.mark, MOST_JSON_BYTES))
        listed = document["files"]
        fit = document if document["schema_version"] == 1 else document["folds"][0]["tasks"][0]
    if listed != run.document.files:
        raise ArtifactError(f"{run.mark} was changed while the run was made again; run the command again")
    kept = [name for name in listed if without is None or not name.startswith(run.stem + without)]
    document["files"] = {name: listed[name] for name in kept}
    document["files"] |= {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    if "paths" in document:
        document["paths"] = {name: f"./{name}" for name in document["files"]}
    change(fit)
    return json.dumps(document, indent=1, allow_nan=False).encode()
