"""Give a run of an older version the file that its model is loaded from, once a fit has given the same bits again."""

from __future__ import annotations

import hashlib
import json

import msgspec

from nextbar.errors import ArtifactError, OutputError
from nextbar.evaluation.walkforward import FoldResult
from nextbar.models.base import Model
from nextbar.runs.files import read_limited, write_bytes
from nextbar.runs.run import Run
from nextbar.types import JsonDict
from nextbar.untrusted import MOST_JSON_BYTES, refusing, strict_json


def upgrade(run: Run, model: Model, fit: FoldResult) -> str:
    """Write what the run's model is loaded from and its document does not list, and the document after it.

    Nothing else in the document changes.

    Args:
        run: The run, as it lies on disk.
        model: Its kind.
        fit: The same fit, made again, bit for bit.

    Returns:
        What was done, in a sentence.

    Raises:
        ArtifactError: The document was changed since it was read.
        OutputError: A file cannot be written; the run is as it was.
    """
    reads = model.reads or ()
    missing = {run.stem + suffix: fit.files[suffix] for suffix in reads if run.stem + suffix not in run.document.files}
    if run.folder is None or run.document.kind != "train" or not missing:
        return "nothing to upgrade: the run has all that this version reads"
    document, certified = _extended(run, missing, fit.facts), run.sibling("_certificate.json").exists()
    target = run.mark
    try:
        for name, content in missing.items():
            target = run.folder / name
            write_bytes(target, content)
        target = run.mark
        write_bytes(target, document)
    except OSError as error:
        for name in missing:
            (run.folder / name).unlink(missing_ok=True)
        raise OutputError(f"{target}: cannot be written ({error.strerror}); the run is as it was") from error
    again = "; its certificate is about the document as it was: certify it again" if certified else ""
    return f"written: {', '.join(missing)}; {run.mark.name} lists it now{again}"


def _extended(run: Run, files: dict[str, bytes], facts: JsonDict) -> bytes:
    """Return the run's document with more siblings, and with the scalers' ranges where the model has scalers."""
    with refusing(str(run.mark)):
        document = strict_json(read_limited(run.mark, MOST_JSON_BYTES))
        listed = document["files"]
        fit = document if document["schema_version"] == 1 else document["folds"][0]["tasks"][0]
    if listed != run.document.files:
        raise ArtifactError(f"{run.mark} was changed while the run was made again; start anew")
    listed.update({name: hashlib.sha256(content).hexdigest() for name, content in files.items()})
    if "paths" in document:
        document["paths"].update({name: f"./{name}" for name in files})
    if "scalers" in facts:
        fit["scalers"] = msgspec.to_builtins(facts["scalers"])
    return json.dumps(document, indent=1, allow_nan=False).encode()
