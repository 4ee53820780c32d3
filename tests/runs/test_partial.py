"""Finished folds on disk: what is loaded is what was saved, and half a fold counts as none."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from nextbar.config import WalkForwardConfig
from nextbar.errors import OutputError
from nextbar.evaluation.rows import ROW_COLUMNS
from nextbar.evaluation.walkforward import FoldResult, FoldTask, stitch
from nextbar.models.random_forest import RandomForest
from nextbar.runs.files import parquet_bytes
from nextbar.runs.partial import PartialRun
from nextbar.types import Border

TASK = FoldTask(
    name="^GSPC",
    config=WalkForwardConfig(),
    model=RandomForest(),
    fold=2,
    borders={"^GSPC": Border(train=0, val=1, test=2, end=3)},
)


@pytest.fixture
def result() -> FoldResult:
    """Two rows with every awkward value: null, tiny, not representable in decimals."""
    rows = {
        "date": np.array(["2020-01-02", "2020-01-03"], dtype="datetime64[ms]"),
        "ticker": np.array(["^GSPC", "Ω"]),
        "fold": np.array([2, 2]),
        "probability": np.array([0.1 + 0.2, 1e-310]),
        "predicted_close": np.full(2, np.nan),
        "threshold": np.array([0.5, -0.0]),
        "class": np.array([1, 0], dtype=np.int8),
        "signal": np.array([1, 0], dtype=np.int8),
        "next_return": np.array([0.1, -0.3]),
        "strategy_return": np.full(2, np.nan),
    }
    aux = {"majority": np.array([1, 1], dtype=np.int8), "close": np.array([1.5, np.nan])}
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


def opened(folder, *, resume=True, **key):
    """A log, to be used in a `with`."""

    @contextmanager
    def log():
        partial = PartialRun(folder, "walkforward_rf", key)
        with partial.opened(resume=resume):
            yield partial

    return log()


def test_round_trip_keeps_every_bit(tmp_path, result):
    """Rows, types, facts and seconds come back exactly as they were saved; their parquet has the same bytes."""
    with opened(tmp_path, resume=False) as partial:
        assert partial.load(TASK) is None
        partial.save(TASK, result, 1.25)
    with opened(tmp_path) as partial:
        loaded, seconds = partial.load(TASK)
    assert seconds == 1.25
    for ours, theirs in ((loaded.rows, result.rows), (loaded.aux, result.aux)):
        assert as_bytes(ours) == as_bytes(theirs)
    assert tuple(loaded.rows) == ROW_COLUMNS
    assert parquet_bytes(stitch([loaded])[0]) == parquet_bytes(stitch([result])[0])
    assert replace(loaded, rows={}, aux={}) == replace(result, rows={}, aux={})


def as_bytes(columns):
    """Each column's type and bytes, by name."""
    return {name: (values.dtype, values.tobytes()) for name, values in columns.items()}


def test_another_fold_is_none(tmp_path, result):
    """A fold that is not in the log is trained; another fold or ticker is not mistaken for it."""
    with opened(tmp_path) as partial:
        partial.save(TASK, result, 0.0)
        partial.save(replace(TASK, fold=4), replace(result, seed=9), 2.0)
    with opened(tmp_path) as partial:
        assert partial.load(replace(TASK, fold=3)) is None
        assert partial.load(replace(TASK, name="GSPC")) is None
        assert [partial.load(replace(TASK, fold=fold))[0].seed for fold in (2, 4)] == [7, 9]


@pytest.mark.parametrize(
    "tail",
    [b"0004_", b'0004_0123456789abcdef {"rows": {', b"\x00" * 70, b"\xff\xfe half"],
    ids=["half a name", "half a document", "zeros", "no UTF-8"],
)
def test_half_a_fold_is_none(tmp_path, result, tail):
    """Killed while it wrote a line, a run goes on from the whole ones; what it adds next is not glued to the half."""
    with opened(tmp_path) as partial:
        partial.save(TASK, result, 0.0)
    with partial.path.open("ab") as file:
        file.write(tail)
    with opened(tmp_path) as partial:
        assert partial.load(TASK) is not None
        partial.save(replace(TASK, fold=4), result, 0.0)
    with opened(tmp_path) as partial:
        assert partial.load(replace(TASK, fold=4)) is not None


def test_line_that_the_disk_lost_is_trained_again(tmp_path, result):
    """A whole line without its content, as a power failure may leave it, is no fold and no error."""
    with opened(tmp_path) as partial:
        partial.save(TASK, result, 0.0)
    name = partial.path.read_bytes().partition(b" ")[0]
    partial.path.write_bytes(name + b" " + b"\x00" * 50 + b"\n")
    with opened(tmp_path) as partial:
        assert partial.load(TASK) is None


def test_only_the_same_run_is_resumed(tmp_path, result):
    """Another key is another log; without --resume what an earlier run left is thrown away."""
    with opened(tmp_path, cost=5) as first:
        first.save(TASK, result, 0.0)
    with opened(tmp_path, cost=6) as other:
        assert other.load(TASK) is None
    with opened(tmp_path, cost=5) as again:
        assert again.load(TASK) is not None
    with opened(tmp_path, cost=5, resume=False) as anew:
        assert anew.load(TASK) is None
    anew.remove()
    other.remove()
    assert not list(tmp_path.iterdir())


def test_full_disk_says_how_to_go_on(tmp_path, result, monkeypatch):
    """A fold of which only a part could be written ends the run with a message that names --resume."""
    with opened(tmp_path) as partial:
        monkeypatch.setattr(partial, "_log", SimpleNamespace(write=lambda _line: 10))
        with pytest.raises(OutputError, match=r"No space left.*--resume goes on from here"):
            partial.save(TASK, result, 0.0)


def test_a_run_that_ended_before_its_first_fold_leaves_nothing(tmp_path):
    """An engine that could not begin is no reason for a hidden file."""
    with pytest.raises(RuntimeError), opened(tmp_path):
        raise RuntimeError
    assert not list(tmp_path.iterdir())
