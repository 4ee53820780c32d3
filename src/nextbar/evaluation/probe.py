"""Fit one task in a process of its own and say what it predicts: two such processes must agree."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nextbar.datasets.samples import Bars
from nextbar.errors import NextbarError
from nextbar.evaluation.walkforward import FoldTask, run_fold

FAILED = b"failed: "
"""What an answer begins with where the task cannot be fitted; the reason follows."""


def main() -> None:
    """Do the job in the folder that the command line names: read ``job``, write ``answer``."""
    folder = Path(sys.argv[1])
    task, bars = pickle.loads((folder / "job").read_bytes())  # noqa: S301 - of our parent
    (folder / "part").write_bytes(predictions(task, bars))
    (folder / "part").rename(folder / "answer")
    os._exit(0)  # without the user's threads and exit handlers


def predictions(task: FoldTask, bars: Mapping[str, Bars]) -> bytes:
    """Return the bytes of all that the task predicts: probabilities, then closes, in float64."""
    try:
        rows = run_fold(task, bars, lambda _line: None).rows
    except NextbarError as error:
        return FAILED + str(error).encode()
    said = [rows[name].astype(np.float64) for name in ("probability", "predicted_close")]
    return b"".join(part.tobytes() for part in said)
