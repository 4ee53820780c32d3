"""Artifacts from disk, perhaps from a stranger: found, measured and checked against their digests, never run."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from nextbar.artifacts.metadata import SCHEMA_VERSION
from nextbar.config import CommonConfig, TrainConfig, WalkForwardConfig
from nextbar.errors import ArtifactError
from nextbar.models.reproducibility import digest_text
from nextbar.types import JsonDict
from nextbar.untrusted import refusing

MOST_METADATA_BYTES = 512 * 2**20
MOST_FILE_BYTES = 2 * 2**30
MOST_JSON_BYTES = 256 * 2**20
"""Of a model in JSON, which takes several times its size when it is read."""
COMMIT = "_metadata.json"
# Not a link, even one made since it was looked at; waits for no pipe; on Windows, bytes as they are.
_FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
_STEM = re.compile(r"(lstm|random_forest|xgboost)_[A-Za-z0-9.%-]+_\d{8}_\d{6}")
_SUFFIX = re.compile(r"[._][A-Za-z0-9]+([._][A-Za-z0-9]+)*")


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """One training run, as `nextbar.artifacts.store.write_run` left it.

    Attributes:
        folder: Where it lies.
        stem: What the names of its files begin with.
        metadata: Content of its metadata file.
        files: Suffix → content of each sibling, its digest checked.
    """

    folder: Path
    stem: str
    metadata: JsonDict
    files: Mapping[str, bytes]

    @property
    def sha256(self) -> str:
        """Of the list of siblings with their digests: says which bytes this run is made of."""
        return digest_text(json.dumps(self.metadata["files"], sort_keys=True))


def open_artifact(path: str | Path) -> Artifact:
    """Open a run by any of its files and check every one of them.

    Raises:
        ArtifactError: A file is missing, damaged, a link or too large, or the metadata is not ours.
    """
    folder, stem = Path(path).parent, stem_of(Path(path))
    metadata = read_metadata(folder / (stem + COMMIT))
    files = {
        name.removeprefix(stem): read_sibling(folder / name, digest)
        for name, digest in siblings_of(folder / (stem + COMMIT), stem, metadata).items()
    }
    return Artifact(folder=folder, stem=stem, metadata=metadata, files=files)


def read_sibling(path: Path, digest: str) -> bytes:
    """A file of a run, its sha256 checked.

    Raises:
        ArtifactError: It is missing, damaged, a link or too large.
    """
    content = read_limited(path, MOST_JSON_BYTES if path.name.endswith(".json") else MOST_FILE_BYTES)
    if (found := hashlib.sha256(content).hexdigest()) != digest:
        raise ArtifactError(
            f"{path} is damaged or was changed: its sha256 is {found[:12]}…, the metadata says {digest[:12]}…; "
            "fetch it again or train again"
        )
    return content


def check_siblings(mark: Path, stem: str, metadata: JsonDict) -> None:
    """Check those files of a run that lie beside its metadata; what was not brought along is not missed.

    Raises:
        ArtifactError: One is damaged, a link or too large.
    """
    for name, digest in siblings_of(mark, stem, metadata).items():
        if os.path.lexists(mark.parent / name):
            read_sibling(mark.parent / name, digest)


def stem_of(path: Path) -> str:
    """What the names of a run's files begin with, from the name of any of them.

    Raises:
        ArtifactError: It is not named like a file of a training run.
    """
    match = _STEM.match(path.name)
    if match is None or not _SUFFIX.fullmatch(path.name[match.end() :]):
        raise ArtifactError(
            f"{path}: expected a file of a training run, such as xgboost_AAPL_20260102_030405.json; "
            "copies keep their names"
        )
    return match.group()


def read_metadata(path: Path) -> JsonDict:
    """A run's metadata.

    Raises:
        ArtifactError: It is missing, too large, no JSON object or of another schema version.
    """
    try:
        metadata = json.loads(read_limited(path, MOST_METADATA_BYTES))
    except (ValueError, RecursionError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(f"{path} is no JSON ({error}); fetch it again or train again") from error
    version = metadata.get("schema_version") if isinstance(metadata, dict) else None
    if not isinstance(metadata, dict) or version is None:
        raise ArtifactError(f"{path} does not say what run it is of; expected its *_metadata.json, unchanged")
    if version != SCHEMA_VERSION:
        raise ArtifactError(
            f"{path}: schema version is {version}, this nextbar reads {SCHEMA_VERSION}; train again or use its nextbar"
        )
    return metadata


def read_config(document: JsonDict, name: str) -> CommonConfig:
    """Read the configuration that a document records; an option that it lacks has its default.

    Args:
        document: A run's metadata or walk-forward result.
        name: Of the file, for messages.

    Raises:
        ArtifactError: An option is unknown, or a value is of another kind than its default or outside its limits.
    """
    with refusing(name):
        kind, recorded = WalkForwardConfig if "folds" in document else TrainConfig, dict(document["config"])
    defaults = kind().to_json()
    if unknown := sorted(recorded.keys() - defaults.keys()):
        raise ArtifactError(
            f"{name}: this nextbar does not know the recorded options {', '.join(unknown[:5])}; a newer nextbar wrote "
            "them: upgrade nextbar to use this run"
        )
    with refusing(name):
        for option, value in recorded.items():
            kinds = {float: (int, float), type(None): (object,)}.get(type(defaults[option]), (type(defaults[option]),))
            if not isinstance(value, kinds):
                raise TypeError(f"{option} is {value!r}")
        return kind(**recorded)


def siblings_of(mark: Path, stem: str, metadata: JsonDict) -> dict[str, str]:
    """Name → sha256 of the run's other files: plain names in the same folder that begin with the stem."""
    siblings = metadata.get("files")
    if not isinstance(siblings, dict) or not siblings:
        raise ArtifactError(f"{mark} lists no files; train again")
    for name, digest in siblings.items():
        if not name.startswith(stem) or not _SUFFIX.fullmatch(name[len(stem) :]) or not isinstance(digest, str):
            raise ArtifactError(f"{mark} lists {name!r}, which is no file of this run; do not trust it")
    return siblings


def read_limited(path: Path, most: int) -> bytes:
    """A plain file's content.

    Raises:
        ArtifactError: It is missing, a link, no plain file, or larger than ``most`` bytes.
    """
    try:
        if path.is_symlink():
            raise ArtifactError(f"{path} is a link, which may lead anywhere; give the file itself")
        with os.fdopen(os.open(path, _FLAGS), "rb") as file:
            return _read(file, path, most)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is missing; a run is whole with all its files, fetch it or train again") from error
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror}); mend its rights or train again") from error


def _read(file: BinaryIO, path: Path, most: int) -> bytes:
    facts = os.fstat(file.fileno())
    if not stat.S_ISREG(facts.st_mode) or facts.st_size > most:
        raise ArtifactError(f"{path}: expected a file of at most {most} bytes, got {facts.st_size}; do not trust it")
    return file.read(most)
