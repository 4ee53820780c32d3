"""Files of runs: their names, reading them with care, and writing them whole or not at all.

`<label>_<tickers>_<timestamp><suffix>` is a name that is safe on every file system; a file is written under a temporary
name and moved into place.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import os
import re
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from nextbar.errors import ArtifactError, ConfigError, OutputError
from nextbar.leftovers import owner, sweep
from nextbar.models.registry import KINDS
from nextbar.untrusted import MOST_JSON_BYTES

TIMESTAMP = "%Y%m%d_%H%M%S"
WALK_FORWARD = "walkforward_"
SUFFIX = re.compile(r"[._][A-Za-z0-9]+([._][A-Za-z0-9]+)*")
MOST_FILE_BYTES = 2 * 2**30
"""Of a file that is only hashed, or is for people."""
MOST_BYTES = {".json": MOST_JSON_BYTES, ".npz": 512 * 2**20}
"""Suffix → limit of what is read into memory; a forest takes 57 bytes a node."""
# Not a link, even one made since it was looked at; waits for no pipe; on Windows, bytes as they are.
_FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))


def match_stem(name: str) -> re.Match[str] | None:
    """Match what the name of a run's file begins with."""
    return _stem_pattern(tuple(kind.label for kind in KINDS.values())).match(name)


@lru_cache
def _stem_pattern(labels: tuple[str, ...]) -> re.Pattern[str]:
    kinds = "|".join([rf"{WALK_FORWARD}[a-z0-9]+", "estimator_[a-z0-9]+", *labels])
    return re.compile(rf"(?:{kinds})_[A-Za-z0-9.%-]+_\d{{8}}_\d{{6}}")


def stem_of(path: Path) -> str:
    """Give what the names of a run's files begin with, from the name of any of them.

    Args:
        path: One of the files, there or not.

    Returns:
        The stem.

    Raises:
        ArtifactError: It is not named like a file of a run.
    """
    match = match_stem(path.name)
    if match is None or not SUFFIX.fullmatch(path.name[match.end() :]):
        raise ArtifactError(
            f"{path}: expected a file of a run, such as its *_metadata.json or walkforward_rf_all_20260102_030405.json"
            f"; {'copies keep their names' if path.exists() else 'there is no such file'}"
        )
    return match.group()


def mark_of(stem: str) -> str:
    """Give the name of a run's document, which is written last: with it the run is whole."""
    return stem + (".json" if stem.startswith(WALK_FORWARD) else "_metadata.json")


def ticker_part(tickers: Sequence[str], *, everything: bool) -> str:
    """How a file name tells its tickers: `all`, the symbol (percent-encoded outside A-Za-z0-9.-), or `<n>tickers`."""
    if everything:
        return "all"
    if len(tickers) > 1:
        return f"{len(tickers)}tickers"
    # quote() never encodes "_" and "~"; "_" separates the parts of a name, so it must not stand inside one.
    symbol = quote(tickers[0], safe="").replace("_", "%5F").replace("~", "%7E")
    return "%2E" * len(symbol) if set(symbol) == {"."} else symbol


def as_path(path: object) -> Path:
    """Give a path as a Path.

    Raises:
        ConfigError: It is none.
    """
    if not isinstance(path, str | Path) or not str(path):
        raise ConfigError(f"expected the path of a file or a folder, got {path!r}")
    return Path(path)


def writable_folder(folder: str | Path) -> Path:
    """The folder, made if need be, tried out and rid of what killed runs left there.

    Raises:
        OutputError: It cannot be made or written to.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".probe-{time.time_ns()}"
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise OutputError(
            f"{path}: cannot write there ({error.strerror}); name another folder or change its permissions"
        ) from error
    sweep(path, ".*")
    return path


@contextmanager
def reserve_timestamp(folder: Path) -> Iterator[str]:
    """A second that no other run in the folder has, held until the block ends; a second run waits for the next.

    However the block ends, hidden files of that second (the lock, a network's checkpoint) are gone then.
    """
    while True:
        stamp = dt.datetime.now(dt.UTC).strftime(TIMESTAMP)
        lock = folder / f".{stamp}.lock"
        if _create(lock):
            # Looked for under the lock: without it, the run before may leave its files a moment later.
            if next(folder.glob(f"*_{stamp}*"), None) is None:
                break
            lock.unlink(missing_ok=True)
        time.sleep(0.05)
    try:
        yield stamp
    finally:
        for hidden in folder.glob(f".*{stamp}*"):
            hidden.unlink(missing_ok=True)


def _create(lock: Path) -> bool:
    try:
        with lock.open("x", encoding="utf-8") as file:
            file.write(owner())
    except FileExistsError:
        return False
    return True


def read_limited(path: Path, most: int) -> bytes:
    """A plain file's content.

    Raises:
        ArtifactError: It is missing, a link, no plain file, or larger than ``most`` bytes.
    """
    with open_plain(path, most) as file:
        return file.read(os.fstat(file.fileno()).st_size)  # a larger number would be allocated first


def digest_file(path: Path, most: int) -> str:
    """Return the sha256 of a plain file, read piece by piece; errors as in `read_limited`."""
    with open_plain(path, most) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def open_plain(path: Path, most: int) -> Iterator[io.BufferedReader]:
    """Open a plain file that may come from anyone; a pipe is not waited for, a device not touched."""
    try:
        _check_plain(os.lstat(path), path, most)
        with os.fdopen(os.open(path, _FLAGS), "rb") as file:
            _check_plain(os.fstat(file.fileno()), path, most)
            yield file
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is missing; a run is whole with all its files, fetch it or train again") from error
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror}); make it readable or train again") from error


def _check_plain(facts: os.stat_result, path: Path, most: int) -> None:
    if stat.S_ISLNK(facts.st_mode):
        raise ArtifactError(f"{path} is a link, which may lead anywhere; give the file itself")
    if not stat.S_ISREG(facts.st_mode):
        raise ArtifactError(f"{path}: expected a file, found {stat.filemode(facts.st_mode)}; do not trust it")
    if facts.st_size > most:
        raise ArtifactError(f"{path}: expected a file of at most {most} bytes, got {facts.st_size}; do not trust it")


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
