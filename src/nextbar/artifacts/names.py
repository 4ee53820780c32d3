"""Names of artifacts: `<label>_<tickers>_<timestamp>`, safe on every file system."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from nextbar.errors import OutputError
from nextbar.leftovers import owner, sweep

TIMESTAMP = "%Y%m%d_%H%M%S"


def ticker_part(tickers: Sequence[str], *, everything: bool) -> str:
    """How a file name tells its tickers: `all`, the symbol (percent-encoded outside A-Za-z0-9.-), or `<n>tickers`."""
    if everything:
        return "all"
    if len(tickers) > 1:
        return f"{len(tickers)}tickers"
    # quote() never encodes "_" and "~"; "_" separates the parts of a name, so it must not stand inside one.
    symbol = quote(tickers[0], safe="").replace("_", "%5F").replace("~", "%7E")
    return "%2E" * len(symbol) if set(symbol) == {"."} else symbol


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
            f"{path}: cannot write there ({error.strerror}); name another folder or mend its rights"
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
