"""Remove temporary files of dead processes; their names hold the host and the process."""

from __future__ import annotations

import os
import platform
import re
import shutil
import zlib
from contextlib import suppress
from pathlib import Path

_HOST = f"{zlib.crc32(platform.node().encode()):08x}"


def owner() -> str:
    """Return the part of a temporary file's name that identifies this host and this process."""
    return f"{_HOST}-{os.getpid()}"


def sweep(folder: Path, pattern: str) -> None:
    """Remove what processes of this host that have ended left in a folder: by its name, or by what a lock says."""
    for path in folder.glob(pattern):
        with suppress(OSError):  # owned by another user, or already removed by another process
            text = path.read_text(encoding="utf-8") if path.suffix == ".lock" else path.name
            found = re.search(rf"{_HOST}-(\d+)", text)
            if found and not _lives(int(found[1])):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _lives(process: int) -> bool:
    if os.name == "nt":  # there the question would end the process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
