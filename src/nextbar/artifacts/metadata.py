"""What every artifact says about how it came to be."""

from __future__ import annotations

import datetime as dt
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nextbar.config import CommonConfig, without_password
from nextbar.models.reproducibility import cores, digest_bars, digest_days, library_versions
from nextbar.types import JsonDict

if TYPE_CHECKING:  # it brings scikit-learn, which an ingest does without
    from nextbar.datasets.assemble import Bars

SCHEMA_VERSION = 1
RULES = 2
"""Version of the rules that a run is made by, from bars to rows. 1, which 0.1.0 did not write: volume as quoted."""


def rules_of(document: JsonDict) -> int:
    """Version of the rules that a run was made by."""
    return int(document.get("rules", 1))


def environment(threads: int) -> JsonDict:
    """Versions, processor and thread count: what can change the bits of a result."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": cores(),
        "threads": threads,
        "keras_backend": os.environ.get("KERAS_BACKEND", "jax"),
        "versions": library_versions(),
    }


def coverage(bars: Mapping[str, Bars], tickers: Iterable[str]) -> JsonDict:
    """Bars used per ticker: how many, from when to when, how adjusted, their fingerprint and a checksum per day."""
    return {
        ticker: {
            "bars": len(item.frame),
            "first": str(item.frame.index[0].date()),
            "last": str(item.frame.index[-1].date()),
            "dropped": item.dropped,
            "adjustment": item.adjustment,
            "fingerprint": digest_bars(item.frame),
            "days": digest_days(item.frame),
        }
        for ticker, item in ((name, bars[name]) for name in tickers)
    }


def common(config: CommonConfig, *, threads: int) -> JsonDict:
    """The head of every metadata file."""
    return {
        "schema_version": SCHEMA_VERSION,
        "rules": RULES,
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "command": ["nextbar", *map(without_password, sys.argv[1:])],
        "config": config.to_json(),
        "seed": config.seed,
        "environment": environment(threads),
    }


def _cpu() -> str:
    """The processor's name; its instruction set decides which kernels run."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
