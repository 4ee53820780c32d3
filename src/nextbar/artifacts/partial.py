"""Finished folds of a walk-forward that has not ended yet, each written at once, so that a run can be resumed."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from nextbar.artifacts.store import parquet_bytes, write_bytes
from nextbar.errors import OutputError
from nextbar.evaluation.walkforward import ROW_COLUMNS, FoldResult, FoldTask
from nextbar.models.reproducibility import digest_text


class PartialRun:
    """A folder with one parquet and one JSON file per finished task; the JSON goes last and is the commit mark.

    Args:
        folder: Output folder of the run.
        name: Names the run for people.
        key: Everything that the results depend on; another key is another run.
    """

    def __init__(self, folder: Path, name: str, key: Mapping[str, object]) -> None:
        digest = digest_text(json.dumps(key, sort_keys=True, default=str))
        self.path = folder / f".{name}_{digest[:16]}.partial"

    def begin(self, *, resume: bool) -> None:
        """Make the folder; what an earlier run left there is kept to resume, otherwise thrown away."""
        if not resume:
            self.remove()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be made ({error.strerror})") from error

    def save(self, task: FoldTask, result: FoldResult, seconds: float) -> None:
        """Write one finished task."""
        target = self._target(task)
        beside = result.aux.add_prefix("aux_")
        facts = {
            "facts": result.facts,
            "digests": result.digests,
            "splits": result.splits,
            "skipped": result.skipped,
            "params": None if result.params is None else dict(result.params),
            "seed": result.seed,
            "seconds": seconds,
        }
        try:
            write_bytes(target.with_suffix(".parquet"), parquet_bytes(pd.concat([result.rows, beside], axis=1)))
            write_bytes(target.with_suffix(".json"), json.dumps(facts, allow_nan=False).encode())
        except OSError as error:
            raise OutputError(f"{target}: cannot be written ({error.strerror}); --resume goes on from here") from error

    def load(self, task: FoldTask) -> tuple[FoldResult, float] | None:
        """A task's result and seconds if it had ended, else None."""
        target = self._target(task)
        if not target.with_suffix(".json").exists():
            return None
        facts = json.loads(target.with_suffix(".json").read_text(encoding="utf-8"))
        seconds = facts.pop("seconds")
        table = pd.read_parquet(io.BytesIO(target.with_suffix(".parquet").read_bytes()))
        aux = table.filter(like="aux_").rename(columns=lambda name: name.removeprefix("aux_"))
        return FoldResult(rows=table[list(ROW_COLUMNS)], aux=aux, **facts), seconds

    def remove(self) -> None:
        """Throw the folder away."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _target(self, task: FoldTask) -> Path:
        return self.path / f"{task.fold:04d}_{digest_text(task.name)[:16]}"
