"""Files of runs: their names, reading them with care, and writing them whole or not at all.

`<label>_<tickers>_<timestamp><suffix>` is a name that is safe on every file system; a file is written under a temporary
name and moved into place.
"""

from __future__ import annotations

import datetime as dt
import errno
import hashlib
import io
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

import pandas as pd

from nextbar.errors import ArtifactError, ConfigError, OutputError
from nextbar.leftovers import owner, sweep
from nextbar.models.registry import KINDS
from nextbar.untrusted import MOST_JSON_BYTES
from nextbar.words import alike, brief, cell

TIMESTAMP = "%Y%m%d_%H%M%S"
WALK_FORWARD = "walkforward_"
HOLDOUT = "_holdout_"
"""Stands in the names of an opening between the name of the run that was opened and the time."""
_OPENING = re.compile(rf"(.+_\d{{8}}_\d{{6}}){HOLDOUT}\d{{8}}_\d{{6}}")
SIGNALS = "signals"
"""What the names of judged signals begin with."""
CERTIFICATE = "_certificate.json"
REFIT = "_refit"
"""What the suffixes of a refit's files begin with."""
SUFFIX = re.compile(r"[._][A-Za-z0-9]+([._][A-Za-z0-9]+)*")
LONGEST_PART = 255
"""Bytes of a file's or a folder's name."""
LONGEST_SYMBOL = 80
"""Characters of a symbol in a file name; a longer one ends in its digest."""
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
    kinds = "|".join([rf"{WALK_FORWARD}[a-z0-9]+", "estimator_[a-z0-9]+", SIGNALS, *labels])
    return re.compile(rf"(?:{kinds})_[A-Za-z0-9.%-]+_\d{{8}}_\d{{6}}(?:{HOLDOUT}\d{{8}}_\d{{6}})?")


def stem_of(path: Path) -> str:
    """Give what the names of a run's files begin with, from the name of any of them, there or not."""
    refuse_pattern(path)
    match = match_stem(path.name)
    if match is None or not SUFFIX.fullmatch(path.name[match.end() :]):
        why = "its name is not that of a run; a copy must keep its name" if path.exists() else "there is no such file"
        raise ArtifactError(
            f"{path}: expected a file of a run, such as its *_metadata.json or walkforward_rf_all_20260102_030405.json"
            f"; {why}"
        )
    return match.group()


def refuse_pattern(path: Path) -> None:
    """Refuse a pattern that the shell has not replaced by the names of files."""
    if set("*?") & set(str(path)) and not path.exists():
        raise ArtifactError(
            f"{path}: expected the name of a file or folder, got a pattern, which fits no file or is in quotes; leave "
            "the quotes out in a shell, or name the files"
        )


def run_stem(stem: str) -> str:
    """Give the stem of a run; of an opening, that of the run which was opened."""
    found = _OPENING.fullmatch(stem)  # a ticker, or a model of one's own, may be called holdout
    return stem if found is None else found[1]


def is_opening(stem: str) -> bool:
    """Whether a stem is that of an opening."""
    return run_stem(stem) != stem


def mark_of(stem: str) -> str:
    """Give the name of a run's document, which is written last: with it the run is whole."""
    return stem + (".json" if stem.startswith(WALK_FORWARD) or is_opening(stem) else "_metadata.json")


def refuse_alike(tickers: Iterable[str]) -> None:
    """Refuse tickers whose files would have the same names where a file system ignores case."""
    if groups := alike(tickers):
        raise OutputError(
            f"tickers that differ only in case ({'; '.join(map(', '.join, groups))}) cannot be saved into one folder: "
            "on some file systems their files have the same names; train them into different folders, or rename one"
        )


def ticker_part(tickers: Sequence[str], *, everything: bool) -> str:
    """How a file name tells its tickers: `all`, the symbol (percent-encoded outside A-Za-z0-9.-), or `<n>tickers`.

    A symbol that is too long for a file name is cut, with a digest of it behind.
    """
    if everything:
        return "all"
    if len(tickers) > 1:
        return f"{len(tickers)}tickers"
    # quote() never encodes "_" and "~"; "_" separates the parts of a name, so it must not stand inside one.
    symbol = quote(tickers[0], safe="", errors="surrogatepass").replace("_", "%5F").replace("~", "%7E")
    if len(symbol) > LONGEST_SYMBOL:  # a file system takes 255 bytes
        return f"{symbol[:LONGEST_SYMBOL]}-{hashlib.sha256(tickers[0].encode(errors='surrogatepass')).hexdigest()[:16]}"
    return "%2E" * len(symbol) if set(symbol) == {"."} else symbol


def as_path(path: object) -> Path:
    """Give a path as a Path; refuse what is none."""
    if not isinstance(path, str | Path) or not str(path):
        raise ConfigError(f"expected the path of a file or a folder, got {brief(path)}")
    if any(len(os.fsencode(part)) > LONGEST_PART for part in Path(path).parts):
        raise ConfigError(
            f"expected a path whose names are not longer than {LONGEST_PART} bytes, got {brief(str(path))}"
        )
    return Path(path)


def refuse_special(path: Path, advice: str) -> None:
    """Refuse a pipe, a device and the like before they are opened, because opening one may wait for ever.

    A folder is left to whoever opens it.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ArtifactError(f"{path}: expected a file, got {_special(mode)}; {advice}")


def _special(mode: int) -> str:
    """Say what something is that is no plain file."""
    kinds = {stat.S_ISFIFO: "a named pipe", stat.S_ISSOCK: "a socket", stat.S_ISDIR: "a folder"}
    return next((name for fits, name in kinds.items() if fits(mode)), "a device")


def writable_folder(folder: str | Path) -> Path:
    """Return the folder, made if need be, tried out and rid of what killed runs left there."""
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


def try_place(path: Path) -> None:
    """Raise the error with which writing a file would end, as far as it is known before; nothing is made.

    Raises:
        OSError: The file, or the folder that it would lie in or be made in, cannot be written.
    """
    place = next(part for part in path.absolute().parents if part.exists())
    if not place.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(place))
    for one in (place, path):
        if one.exists() and not os.access(one, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(one))


def check_target(path: Path | None, option: str, suffixes: Sequence[str] = ()) -> None:
    """Refuse a file that cannot be written to, or whose suffix is another, before the work."""
    if path is None:
        return
    if path.is_dir() or not path.parent.is_dir():
        raise OutputError(f"{option} {path}: expected a file in a folder that exists; name another")
    try:
        try_place(path)
        _target(path)
    except OSError as error:
        raise OutputError(f"{option} {path}: cannot be written ({error.strerror}); name another") from error
    if suffixes and path.suffix not in suffixes:
        raise OutputError(f"{option} {path}: expected a file that ends in {', '.join(suffixes)}; rename it")


@contextmanager
def alone_with(folder: Path) -> Iterator[None]:
    """Let one process at a time into a block about a folder; the next waits until it has left or has ended."""
    if fcntl is None:
        yield
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


@contextmanager
def removing_empty(folder: str | Path) -> Iterator[None]:
    """Remove a folder, and those above it, that a block has made and left empty by failing."""
    path = Path(folder)
    made = [part for part in (path, *path.parents) if not part.exists()]
    try:
        yield
    except BaseException:
        with suppress(OSError):
            for part in made:
                part.rmdir()
        raise


@contextmanager
def reserve_timestamp(folder: Path) -> Iterator[str]:
    """A second that no other run in the folder has, held until the block ends; a second run waits for the next.

    However the block ends, hidden files of that second, such as the lock, are gone then.
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
    """Read a plain file of at most so many bytes; a link is refused."""
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
        raise ArtifactError(f"{path}: expected a file, got {_special(facts.st_mode)}; do not trust it")
    if facts.st_size > most:
        raise ArtifactError(f"{path}: expected a file of at most {most} bytes, got {facts.st_size}; do not trust it")


def write_bytes(path: Path, content: bytes) -> None:
    """Write beside the target and move into place, so that a reader sees the whole file or none."""
    write_together({path: content})


def save_bytes(path: Path, content: bytes, advice: str = "name another file") -> None:
    """Write as `write_bytes` does what the user asked for; an error says what to do."""
    try:
        write_bytes(path, content)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); {advice}") from error


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write files beside their targets, then move all into place, the last one last; if one fails, leave none.

    Raises:
        OSError: One cannot be written; its ``filename`` says which.
    """
    contents = {_target(path): content for path, content in contents.items()}
    waiting = {path: path.parent / f".{path.name}.{owner()}.tmp" for path in contents}
    moved: list[Path] = []
    try:
        for path, temporary in waiting.items():
            with _naming(path), temporary.open("wb") as file:
                file.write(contents[path])
                file.flush()
                os.fsync(file.fileno())
        for path, temporary in waiting.items():
            with _naming(path):
                temporary.replace(path)
            moved.append(path)
    except BaseException:
        remove_files(moved)
        raise
    finally:
        remove_files(waiting.values())


def _target(path: Path) -> Path:
    """Return the plain file that a name leads to; a device, such as /dev/stdout, must not be replaced by a file."""
    found = path.resolve() if path.is_symlink() else path
    if found.exists() and not found.is_file():
        kind = _special(found.stat().st_mode)
        raise OSError(errno.EEXIST, f"there is {kind}, expected a file", str(path))
    return found


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let an error name the file that was to be written, not the temporary one, or none where a disk is full."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def remove_files(paths: Iterable[Path]) -> None:
    """Remove files, there or not."""
    for path in paths:
        with suppress(OSError):  # such as a name that is too long
            path.unlink(missing_ok=True)


def parquet_bytes(rows: pd.DataFrame) -> bytes:
    """Out-of-sample rows as parquet: dates as days, null where a model has no value."""
    buffer = io.BytesIO()
    rows.to_parquet(buffer, index=False, compression="zstd")
    return buffer.getvalue()


def csv_bytes(table: pd.DataFrame) -> bytes:
    """Write a table as CSV; a text that a spreadsheet would compute gets an apostrophe in front."""
    return table.map(cell).to_csv(index=False).encode(errors="backslashreplace")
