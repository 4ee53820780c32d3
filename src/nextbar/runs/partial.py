"""Finished folds of a walk-forward that has not ended yet, each written at once, so that a run can be resumed."""

from __future__ import annotations

import base64
import errno
import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import numpy as np

from nextbar.errors import OutputError
from nextbar.evaluation.walkforward import FoldResult, FoldTask
from nextbar.models.reproducibility import digest_text
from nextbar.types import Columns, JsonDict

SYNC_SECONDS = 1.0
"""A killed run keeps every fold; a machine that loses its power loses the folds of the last seconds."""


class PartialRun:
    """A log with a line per finished task: its name, JSON, and the bytes of the columns, because JSON takes longer.

    A file per task takes four times as long.

    Args:
        folder: Output folder of the run.
        name: Names the run for people.
        key: Everything that the results depend on; another key is another run.
    """

    def __init__(self, folder: Path, name: str, key: Mapping[str, object]) -> None:
        digest = digest_text(json.dumps(key, sort_keys=True, default=str))
        self.path = folder / f".{name}_{digest[:16]}.partial"
        self._kept: dict[str, tuple[int, int]] = {}
        self._log: io.FileIO | None = None
        self._synced = monotonic()

    @contextmanager
    def opened(self, *, resume: bool) -> Iterator[None]:
        """Open the log; delete the tasks of an earlier run unless they are resumed; delete a log that ends empty."""
        if not resume:
            self.remove()
        try:
            log = self.path.open("a+b", buffering=0)
            log.truncate(self._index())
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written ({error.strerror})") from error
        with log:
            self._log = log
            try:
                yield
            finally:
                if not os.fstat(log.fileno()).st_size:
                    self.remove()

    def _index(self) -> int:
        """Record the position of each task's line; return the end of the last whole line."""
        end = 0
        with self.path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    self._kept[line.partition(b" ")[0].decode(errors="replace")] = end, len(line)
                    end += len(line)
        return end

    def save(self, task: FoldTask, result: FoldResult, seconds: float) -> None:
        """Write one finished task."""
        facts = {name: value for name, value in vars(result).items() if name != "files"}
        facts |= {"params": None if result.params is None else dict(result.params), "seconds": seconds}
        facts |= {"rows": _kinds(result.rows), "aux": _kinds(result.aux)}
        content = b"".join(values.tobytes() for part in (result.rows, result.aux) for values in part.values())
        head = json.dumps(facts, allow_nan=False).encode()
        line = b"%s %s %s\n" % (_name(task).encode(), head, base64.b64encode(content))
        try:
            self._append(line)
        except OSError as error:
            raise OutputError(
                f"{self.path}: cannot be written ({error.strerror}); --resume goes on from here"
            ) from error

    def _append(self, line: bytes) -> None:
        assert self._log is not None
        if self._log.write(line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if monotonic() - self._synced > SYNC_SECONDS:
            os.fsync(self._log)
            self._synced = monotonic()

    def knows(self, task: FoldTask) -> bool:
        """Return whether an earlier run ended the task."""
        return _name(task) in self._kept

    def load(self, task: FoldTask) -> tuple[FoldResult, float] | None:
        """Return a task's result and seconds if an earlier run ended it, else None."""
        if (place := self._kept.get(_name(task))) is None:
            return None
        with self.path.open("rb") as file:
            file.seek(place[0])
            line = file.read(place[1])
        try:
            head, _, content = line.partition(b" ")[2].rpartition(b" ")
            facts, data = json.loads(head), io.BytesIO(base64.b64decode(content))
        except ValueError:  # a machine that lost its power may leave a line of zeros
            return None
        rows, aux, seconds = _read(facts.pop("rows"), data), _read(facts.pop("aux"), data), facts.pop("seconds")
        return FoldResult(rows=rows, aux=aux, **facts), seconds

    def remove(self) -> None:
        """Delete the log."""
        self.path.unlink(missing_ok=True)


def _name(task: FoldTask) -> str:
    return f"{task.fold:04d}_{digest_text(task.name)[:16]}"


def _kinds(columns: Columns) -> dict[str, tuple[str, int]]:
    """Return column → its type and how many bytes it has: as bytes NaN and every bit of a float are kept."""
    return {name: (values.dtype.str, values.nbytes) for name, values in columns.items()}


def _read(kinds: JsonDict, data: io.BytesIO) -> Columns:
    """Read the next columns."""
    return {name: np.frombuffer(data.read(size), dtype=kind) for name, (kind, size) in kinds.items()}
