"""One seed in, the same bits out: seeds passed down to tasks, and digests to compare what they made."""

from __future__ import annotations

import hashlib
import os
import random
import sys
import zlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pandas as pd


def set_global_seeds(seed: int) -> None:
    """Seed Python's, numpy's and, where keras is loaded, keras's global generators. A task's first line.

    Our own code passes generators and seeds explicitly; this covers libraries that reach for a global one.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the global generator is the point
    if (keras := sys.modules.get("keras")) is not None:
        keras.utils.set_random_seed(seed % 2**32)


def task_seed(seed: int, ticker: str, fold: int) -> int:
    """Seed of one task: the same whether the ticker is trained alone or among others, in whichever order."""
    key = (zlib.crc32(ticker.encode()), fold)
    return int(np.random.SeedSequence(seed, spawn_key=key).generate_state(1)[0] >> 1)


def digest_arrays(arrays: Iterable[npt.NDArray[np.generic]]) -> str:
    """sha256 over shape, type and bytes of arrays. Dates count as days, whatever unit they come in."""
    sha = hashlib.sha256()
    for array in arrays:
        plain = array.astype("datetime64[D]").astype(np.int64) if array.dtype.kind == "M" else array
        sha.update(f"{plain.dtype.str}{plain.shape}".encode())
        sha.update(np.ascontiguousarray(plain).tobytes())
    return sha.hexdigest()


def digest_bars(frame: pd.DataFrame) -> str:
    """Fingerprint of one ticker's bars: dates as days and every numeric column, in order."""
    return digest_arrays([frame.index.to_numpy(), *(frame[name].to_numpy(np.float64) for name in frame.columns)])


def digest_text(text: str) -> str:
    """sha256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
