"""Finished runs on disk, of training and of walk-forward: found by their commit mark, read with their rows."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from nextbar.artifacts.load import COMMIT, read_metadata
from nextbar.errors import ArtifactError
from nextbar.types import JsonDict

_STEM = re.compile(r"(?:walkforward_[a-z]+|lstm|random_forest|xgboost)_.+_\d{8}_\d{6}")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run.

    Attributes:
        folder: Where its files are.
        stem: What their names begin with.
        document: Its walk-forward result or training metadata.
    """

    folder: Path
    stem: str
    document: JsonDict

    @property
    def kind(self) -> str:
        """``walkforward`` or ``train``."""
        return "walkforward" if "folds" in self.document else "train"

    def rows(self) -> pd.DataFrame:
        """Its out-of-sample rows.

        Raises:
            ArtifactError: They are missing or cannot be read.
        """
        path = self.sibling(".parquet" if self.kind == "walkforward" else "_predictions.parquet")
        try:
            return pd.read_parquet(path)
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{path}: the rows of {self.stem} cannot be read ({error})") from error

    def sibling(self, suffix: str) -> Path:
        """A file of the run, there or not."""
        return self.folder / (self.stem + suffix)

    @property
    def mark(self) -> Path:
        """Its commit mark."""
        return self.folder / _mark(self.stem)

    def certified(self) -> bool | None:
        """Whether its certificate is a pass and speaks of the run as it lies here; None if it has none."""
        path = self.sibling("_certificate.json")
        if not path.exists():
            return None
        certificate, digest = read_metadata(path), hashlib.sha256(self.mark.read_bytes()).hexdigest()
        return certificate.get("verdict") == "PASS" and certificate.get("certifies") == {self.mark.name: digest}


def load_run(path: str | Path) -> Run:
    """The run that a file belongs to: its result, its metadata or any sibling.

    Raises:
        ArtifactError: There is no such run, or it is not ours.
    """
    target = Path(path)
    match = _STEM.match(target.name)
    if match is None:
        raise ArtifactError(
            f"{target}: expected a file of a run, such as walkforward_rf_all_20260102_030405.json; "
            "copies keep their names"
        )
    return Run(folder=target.parent, stem=match.group(), document=read_metadata(target.with_name(_mark(match.group()))))


def find_runs(folders: Iterable[str | Path]) -> list[Run]:
    """Runs in these folders, the latest first; a folder that is not there holds none.

    Raises:
        ArtifactError: A run is damaged.
    """
    runs = (load_run(mark) for mark in find_marks(folders))
    return sorted(runs, key=lambda run: str(run.document["created"]), reverse=True)


def _mark(stem: str) -> str:
    return stem + (".json" if stem.startswith("walkforward_") else COMMIT)


def find_marks(folders: Iterable[str | Path]) -> Iterator[Path]:
    """Commit marks in these folders."""
    for path in (path for folder in folders for path in sorted(Path(folder).glob("*.json"))):
        match = _STEM.match(path.name)
        if match and path.name == _mark(match.group()):
            yield path
