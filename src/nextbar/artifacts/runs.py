"""Finished runs on disk, of training and of walk-forward: found by their commit mark, read with their rows."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from nextbar.artifacts.load import COMMIT, check_siblings, read_config, read_metadata
from nextbar.errors import ArtifactError, NextbarError
from nextbar.types import JsonDict

_STEM = re.compile(r"(?:walkforward_[a-z]+|lstm|random_forest|xgboost)_.+_\d{8}_\d{6}")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run.

    Attributes:
        folder: Where its files are.
        stem: What their names begin with.
        document: Its walk-forward result or training metadata; options that it lacks are there with their defaults.
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
            ArtifactError: They are missing or cannot be read, or a file of the run was changed.
        """
        check_siblings(self.mark, self.stem, self.document)
        try:
            return pd.read_parquet(self.rows_path)
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{self.rows_path}: the rows of {self.stem} cannot be read ({error})") from error

    @property
    def rows_path(self) -> Path:
        """File of its out-of-sample rows, there or not."""
        return self.sibling(".parquet" if self.kind == "walkforward" else "_predictions.parquet")

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
    if match is None and not target.exists():
        raise ArtifactError(
            f"{target}: there is no such file; expected one of a run, such as walkforward_rf_all_20260102_030405.json"
        )
    if match is None:
        raise ArtifactError(
            f"{target}: expected a file of a run, such as walkforward_rf_all_20260102_030405.json; "
            "copies keep their names"
        )
    mark = target.with_name(_mark(match.group()))
    document = read_metadata(mark)
    document["config"] = read_config(document, str(mark)).to_json()
    return Run(folder=target.parent, stem=match.group(), document=document)


@contextmanager
def expecting_parts(run: Run) -> Iterator[None]:
    """A document that lacks something is a damaged file, not a fault of ours."""
    try:
        yield
    except NextbarError:
        raise
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise ArtifactError(f"{run.mark}: a part is missing or of another kind ({error}); run it again") from error


def list_runs(folders: Iterable[str | Path]) -> tuple[list[JsonDict], list[str]]:
    """One record per run in these folders, the latest first; and what is wrong with the runs that cannot be told."""
    found, damaged = [], []
    for mark in {path.resolve(): path for path in find_marks(folders)}.values():
        try:
            found.append(_summary(load_run(mark)))
        except ArtifactError as error:
            damaged.append(str(error))
    return sorted(found, key=lambda run: str(run["created"]), reverse=True), damaged


def _summary(run: Run) -> JsonDict:
    document = run.document
    keys = ("days", "balanced_accuracy", "roc_auc", "sharpe", "max_drawdown", "annual_return")
    with expecting_parts(run):
        figures = document["pooled"] if run.kind == "walkforward" else document["metrics"]["model"]
        return {
            "name": run.stem,
            "folder": str(run.folder),
            "created": document["created"],
            "kind": run.kind,
            "model": document["model"],
            "tickers": document["tickers"],
            **{key: figures[key] for key in keys},
            "certified": run.certified(),
        }


def _mark(stem: str) -> str:
    return stem + (".json" if stem.startswith("walkforward_") else COMMIT)


def find_marks(folders: Iterable[str | Path]) -> Iterator[Path]:
    """Commit marks in these folders."""
    for path in (path for folder in folders for path in sorted(Path(folder).glob("*.json"))):
        match = _STEM.match(path.name)
        if match and path.name == _mark(match.group()):
            yield path
