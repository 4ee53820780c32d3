"""One seed in, the same bits out: seeds passed down to tasks, and digests to compare what they made."""

from __future__ import annotations

import hashlib
import os
import pickle
import random
import sys
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from nextbar.version import __version__

Outcome = TypeVar("Outcome")

NO_BAR = "--"
_MARKS = [b64encode((number << 20).to_bytes(4))[:2].decode() for number in range(4096)]
LIBRARIES = (
    "numpy",
    "pandas",
    "scipy",
    "scikit-learn",
    "scikit-learn-intelex",
    "xgboost",
    "xgboost-cpu",
    "keras",
    "jax",
    "jaxlib",
    "ta-lib",
)


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


def digest_days(frame: pd.DataFrame) -> dict[str, str]:
    """Year → two characters for each of its days, a twelve-bit checksum of the bar: `differing_days` compares them."""
    days = frame.index.to_numpy().astype("datetime64[D]")
    years = days.astype("datetime64[Y]")
    names, which = np.unique(years, return_inverse=True)
    sums = [[NO_BAR] * 366 for _ in names]
    places = (days - years.astype(days.dtype)).astype(np.int64)
    bars = frame.to_numpy(np.float64).tobytes()
    width = len(bars) // max(len(frame), 1)
    for row, (year, place) in enumerate(zip(which.tolist(), places.tolist(), strict=True)):
        sums[year][place] = _MARKS[zlib.crc32(bars[row * width : (row + 1) * width]) >> 20]
    return {str(year): "".join(marks) for year, marks in zip(names, sums, strict=True)}


def differing_days(then: Mapping[str, str], now: Mapping[str, str]) -> dict[str, list[str]]:
    """Days on which two results of `digest_days` differ: their bar has ``changed``, is ``gone`` or ``new``."""
    found: dict[str, list[str]] = {"changed": [], "gone": [], "new": []}
    for year in sorted({*then, *now}):
        sides = zip(*(_marks(side.get(year, NO_BAR * 366)) for side in (then, now)), strict=True)
        for place, (old, new) in enumerate(sides):
            if old != new:
                how = "new" if old == NO_BAR else "gone" if new == NO_BAR else "changed"
                found[how].append(str(np.datetime64(year, "D") + np.timedelta64(place, "D")))
    return found


def _marks(text: str) -> list[str]:
    return [text[at : at + 2] for at in range(0, len(text), 2)]


def digest_text(text: str) -> str:
    """sha256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def library_versions(more: Iterable[str] = ()) -> dict[str, str]:
    """Versions of nextbar, of the installed libraries that decide about bits, and of ``more``."""
    found = {"nextbar": __version__}
    for name in (*LIBRARIES, *more):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class StageCache:
    """Cache of the outcomes of pure stages, by the digest of their input.

    Args:
        stored: Outcomes of an earlier run, from `new_entries`.
    """

    def __init__(self, stored: Mapping[str, bytes] | None = None) -> None:
        self._stored = dict(stored or {})
        self._new: dict[str, object] = {}

    def get_or_compute(self, key: str, compute: Callable[[], Outcome]) -> Outcome:
        """Return the stored outcome for the key; compute and keep it if there is none."""
        if key in self._stored:
            return cast("Outcome", pickle.loads(self._stored[key]))  # noqa: S301 - pickled by our own worker
        outcome = compute()
        self._new[key] = outcome
        return outcome

    def new_entries(self) -> dict[str, bytes]:
        """Return the computed outcomes as bytes, so that their classes are imported only where they are used."""
        return {key: pickle.dumps(outcome, protocol=5) for key, outcome in self._new.items()}
