"""Finished folds on disk: what is loaded is what was saved, and half a fold counts as none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nextbar.artifacts.partial import PartialRun
from nextbar.artifacts.store import parquet_bytes
from nextbar.config import WalkForwardConfig
from nextbar.errors import OutputError
from nextbar.evaluation.walkforward import ROW_COLUMNS, FoldResult, FoldTask
from nextbar.types import Border

TASK = FoldTask(
    name="^GSPC",
    config=WalkForwardConfig(),
    model="rf",
    fold=2,
    borders={"^GSPC": Border(train=0, val=1, test=2, end=3)},
)


@pytest.fixture
def result() -> FoldResult:
    """Two rows with every awkward value: null, tiny, not representable in decimals."""
    rows = pd.DataFrame(
        {
            "date": np.array(["2020-01-02", "2020-01-03"], dtype="datetime64[ms]"),
            "ticker": "^GSPC",
            "fold": np.int64(2),
            "probability": [0.1 + 0.2, 1e-310],
            "predicted_close": np.nan,
            "threshold": 0.5,
            "class": np.array([1, 0], dtype=np.int8),
            "signal": np.array([1, 0], dtype=np.int8),
            "next_return": [0.1, -0.3],
            "strategy_return": np.nan,
        }
    )
    aux = pd.DataFrame({"majority": np.int8(1), "yesterday": np.array([0, 1], dtype=np.int8), "close": [1.5, np.nan]})
    return FoldResult(
        rows=rows,
        aux=aux,
        facts={"importance": {"Close": 0.1 + 0.2}},
        digests={"bars": "x"},
        splits={"^GSPC": {"train": {"rows": 1}}},
        skipped={"B": "B: too short"},
        params={"max_depth": None, "learning_rate": 0.05},
        seed=7,
    )


def test_round_trip_keeps_every_bit(tmp_path, result):
    """Rows, types, facts and seconds come back exactly as they were saved; their parquet has the same bytes."""
    partial = PartialRun(tmp_path, "walkforward_rf", {"a": 1})
    partial.begin(resume=False)
    assert partial.load(TASK) is None
    partial.save(TASK, result, 1.25)
    loaded, seconds = PartialRun(tmp_path, "walkforward_rf", {"a": 1}).load(TASK)
    assert seconds == 1.25
    pd.testing.assert_frame_equal(loaded.rows, result.rows, check_exact=True)
    pd.testing.assert_frame_equal(loaded.aux, result.aux, check_exact=True)
    assert tuple(loaded.rows.columns) == ROW_COLUMNS
    assert parquet_bytes(loaded.rows) == parquet_bytes(result.rows)
    assert replace(loaded, rows=0, aux=0) == replace(result, rows=0, aux=0)


def test_half_a_fold_is_none(tmp_path, result):
    """Without its JSON, which goes last, a fold is trained again; another fold or ticker is not mistaken for it."""
    partial = PartialRun(tmp_path, "walkforward_rf", {})
    partial.begin(resume=False)
    partial.save(TASK, result, 0.0)
    assert partial.load(replace(TASK, fold=3)) is None
    assert partial.load(replace(TASK, name="GSPC")) is None
    (mark,) = partial.path.glob("*.json")
    mark.unlink()
    assert partial.load(TASK) is None


def test_only_the_same_run_is_resumed(tmp_path, result):
    """Another key is another folder; without --resume what an earlier run left is thrown away."""
    first = PartialRun(tmp_path, "walkforward_rf", {"cost": 5})
    first.begin(resume=False)
    first.save(TASK, result, 0.0)
    other = PartialRun(tmp_path, "walkforward_rf", {"cost": 6})
    other.begin(resume=True)
    assert other.load(TASK) is None
    again = PartialRun(tmp_path, "walkforward_rf", {"cost": 5})
    again.begin(resume=True)
    assert again.load(TASK) is not None
    again.begin(resume=False)
    assert again.load(TASK) is None
    again.remove()
    other.remove()
    assert not list(tmp_path.iterdir())


def test_full_disk_says_how_to_go_on(tmp_path, result, monkeypatch):
    """A fold that cannot be written ends the run with a message that names --resume; no half fold is left."""
    partial = PartialRun(tmp_path, "walkforward_rf", {})
    partial.begin(resume=False)

    def refuse(self, to):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OutputError, match=r"No space left on device.*--resume goes on from here"):
        partial.save(TASK, result, 0.0)
    assert not list(partial.path.iterdir())
