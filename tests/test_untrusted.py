"""Pickles that want more than to be read."""

from __future__ import annotations

import functools
import io
import pickle
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.preprocessing import MinMaxScaler

from nextbar.datasets.sequences import NAMES as SCALER_NAMES
from nextbar.datasets.sequences import load_scalers
from nextbar.errors import ArtifactError
from nextbar.models.random_forest import _names as forest_names
from nextbar.models.random_forest import load_forest
from nextbar.untrusted import load_pickle, refusing

BOTH = [(load_forest, 6), (load_scalers, 6)]
FOREST_NAMES = forest_names()


class Call:
    """Pickles as a call of anything."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> Any:
        return self.reduced


def text(value: str) -> bytes:
    return pickle.SHORT_BINUNICODE + bytes([len(value)]) + value.encode()


def named(module: str, name: str) -> bytes:
    return text(module) + text(name) + pickle.STACK_GLOBAL


def touch(path: Path) -> dict[str, bytes]:
    """Programs that would make a file, each by another way into the interpreter."""
    command = f"touch {path}"
    old = f"(S'{command}'\nios\nsystem\n.".encode()
    return {
        "call": pickle.dumps(Call(__import__("os").system, command), protocol=5),
        "call in a forest's place": pickle.dumps(
            {"estimators_": [Call(exec, f"open({str(path)!r}, 'w')")]}, protocol=4
        ),
        "old call": pickle.dumps(Call(__import__("os").system, command), protocol=0),
        "instance": old,
        "dotted name": b"\x80\x04" + named("sklearn.tree._classes", "DecisionTreeClassifier.fit.__globals__") + b".",
        "joblib": joblib_bytes(Call(__import__("os").system, command)),
        "joblib in an array": joblib_bytes(np.array([Call(__import__("os").system, command)], dtype=object)),
        "joblib, old wrapper": b"\x80\x04" + named("joblib.numpy_pickle_compat", "NDArrayWrapper") + b".",
        "numpy's loader": pickle.dumps(Call(np.load, str(path), None, True), protocol=5),
        "persistent": b"\x80\x04" + text("os") + pickle.BINPERSID + b".",
        "partial": pickle.dumps(Call(functools.partial(__import__("os").system, command)), protocol=5),
        "pickle in a pickle": pickle.dumps(Call(pickle.loads, old), protocol=5),
        "compressed joblib": b"x" + joblib_bytes(1),
        "extension": b"\x80\x04" + pickle.EXT1 + b"\x01.",
    }


def joblib_bytes(value: Any) -> bytes:
    buffer = io.BytesIO()
    joblib.dump(value, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(("load", "columns"), BOTH)
@pytest.mark.parametrize("way", list(touch(Path())))
def test_no_way_out_of_a_pickle(load: Any, columns: int, way: str, tmp_path: Path) -> None:
    """Whatever a forest's or the scalers' file calls, it is refused and nothing happens."""
    target = tmp_path / "made"
    with pytest.raises(ArtifactError, match=r"is refused.*: it (names|holds) "):
        load(touch(target)[way], columns)
    assert not target.exists()


@pytest.mark.parametrize("names", [FOREST_NAMES, SCALER_NAMES])
def test_a_class_cannot_be_altered(names: Any) -> None:
    """BUILD on a name would set attributes on our process's classes; it is refused, and they stay as they are."""
    for module, name in names:
        state = pickle.NONE + b"}" + text("altered") + pickle.NEWTRUE + b"s\x86"
        program = b"\x80\x04" + named(module, name) + state + b"b."
        with pytest.raises(pickle.UnpicklingError, match="it alters"):
            load_pickle(program, names)
        assert not hasattr(names[module, name], "altered")


@pytest.mark.parametrize(
    "program",
    [
        pickle.BYTEARRAY8 + struct.pack("<Q", 1 << 33) + b".",
        pickle.BINBYTES8 + struct.pack("<Q", 1 << 33) + b".",
        pickle.NONE + pickle.LONG_BINPUT + struct.pack("<I", 1 << 31) + b".",
        pickle.FRAME + struct.pack("<Q", 1 << 33) + b".",
    ],
    ids=["bytearray", "bytes", "memo", "frame"],
)
def test_numbers_in_a_pickle_take_no_memory(program: bytes) -> None:
    """A length of gigabytes in a file of a few bytes costs nothing."""
    tracemalloc.start()
    try:
        with refusing("it"):
            assert load_pickle(b"\x80\x05" + program, FOREST_NAMES) == bytearray()
    except ArtifactError:
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 2**20


def deep(levels: int) -> list[Any]:
    """A list that is ten to the power of ``levels`` numbers for whoever flattens it, and a few bytes in a pickle."""
    value: list[Any] = [0.0] * 10
    for _ in range(levels - 1):
        value = [value] * 10
    return value


def ranged(value: Any) -> MinMaxScaler:
    scaler = MinMaxScaler()
    scaler.data_min_ = scaler.data_max_ = value
    return scaler


@pytest.mark.parametrize("value", [Call(np.ndarray, (10**7,)), deep(7)], ids=["an array as large as it says", "nested"])
def test_small_scalers_take_no_memory(value: Any) -> None:
    """A file of a few hundred bytes whose ranges are tens of megabytes is refused before they are made."""
    content = pickle.dumps({"A": {"features": ranged(value), "target": ranged(value)}}, protocol=4)
    assert len(content) < 600
    tracemalloc.start()
    with pytest.raises(ArtifactError, match="is refused"):
        load_scalers(content, 6)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 2**20


@pytest.mark.parametrize("dtype", ["O", "M8[s]", "U5", ["f8", "O"], 7])
def test_only_numbers_stand_in_arrays(dtype: Any) -> None:
    """Arrays of Python objects, texts and records of them are refused."""
    program = pickle.dumps(Call(np.dtype, dtype), protocol=4)
    with pytest.raises(pickle.UnpicklingError, match="it holds an array"):
        load_pickle(program, FOREST_NAMES)


def test_scalers_come_back_with_the_same_bits() -> None:
    """What was saved scales new numbers exactly as before, a constant column too."""
    rows = np.random.default_rng(0).normal(size=(50, 6)) * 1e3
    rows[:, 3] = 7.0
    features, target = MinMaxScaler().fit(rows), MinMaxScaler().fit(rows[:, :1])
    loaded = load_scalers(joblib_bytes({"A_B": {"features": features, "target": target}}), 6)["A_B"]
    new = np.random.default_rng(1).normal(size=(9, 6)) * 2e3
    assert loaded.features.transform(new).tobytes() == features.transform(new).tobytes()
    assert loaded.target.inverse_transform(new[:, :1]).tobytes() == target.inverse_transform(new[:, :1]).tobytes()


@pytest.mark.parametrize(
    "stored",
    [
        [1],
        {"A": 1},
        {"A": {"features": MinMaxScaler(), "target": MinMaxScaler()}},
        {"A": dict.fromkeys(("features", "target"), MinMaxScaler().fit(np.eye(5)))},
    ],
)
def test_other_things_than_fitted_scalers_are_refused(stored: Any) -> None:
    """A file of the right classes in the wrong places, unfitted or for other columns, is refused when it is read."""
    with pytest.raises(ArtifactError, match="is refused"):
        load_scalers(joblib_bytes(stored), 6)


def test_truncated_files_are_refused() -> None:
    """No prefix of a scalers' file is taken for a whole one."""
    scaler = MinMaxScaler().fit(np.random.default_rng(0).normal(size=(5, 6)))
    whole = joblib_bytes({"A": {"features": scaler, "target": MinMaxScaler().fit(np.eye(1))}})
    for size in range(0, len(whole) - 1, 7):
        with pytest.raises(ArtifactError):
            load_scalers(whole[:size], 6)
