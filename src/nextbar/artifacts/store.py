"""Artifacts on disk: every file is written under a temporary name and moved into place, the commit mark last."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from nextbar.errors import OutputError
from nextbar.leftovers import owner
from nextbar.types import JsonDict


def write_run(folder: Path, stem: str, files: Mapping[str, bytes], metadata: JsonDict, *, commit: str) -> list[Path]:
    """Write `<stem><suffix>` for every file, then `<stem><commit>`: the metadata, sha256 and path of each sibling.

    Without the commit file there is no run: an interruption leaves at most siblings that nothing lists.

    Raises:
        OutputError: A file cannot be written; nothing of the run stays behind.
    """
    siblings = {stem + suffix: hashlib.sha256(content).hexdigest() for suffix, content in files.items()}
    paths = {name: f"./{name}" for name in siblings}
    document = json.dumps({**metadata, "files": siblings, "paths": paths}, indent=1, allow_nan=False)
    everything = {**files, commit: document.encode()}
    written: list[Path] = []
    try:
        for suffix, content in everything.items():
            written.append(folder / (stem + suffix))
            write_bytes(written[-1], content)
    except BaseException as error:
        for path in written:
            path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OutputError(
                f"{written[-1]}: cannot be written ({error.strerror}); nothing of this run was kept"
            ) from error
        raise
    return written


def write_bytes(path: Path, content: bytes) -> None:
    """Write beside the target and move into place, so that a reader sees the whole file or none."""
    temporary = path.with_name(f".{path.name}.{owner()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def parquet_bytes(rows: pd.DataFrame) -> bytes:
    """Out-of-sample rows as parquet: dates as days, null where a model has no value."""
    buffer = io.BytesIO()
    rows.to_parquet(buffer, index=False, compression="zstd")
    return buffer.getvalue()
