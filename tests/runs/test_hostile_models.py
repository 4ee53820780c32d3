"""Files for people, put there by a stranger, with the right digests: nextbar hashes them and never opens them."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest

from nextbar.cli.main import main
from nextbar.models.random_forest import ARRAYS
from nextbar.models.weights import pack_arrays, unpack_arrays
from nextbar.runs.journal import ENVIRONMENT
from nextbar.types import Silent
from nextbar.workflows.reproduce import reproduce


class Call:
    """Pickles as a call of anything."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> Any:
        return self.reduced


def text(value: str) -> bytes:
    return pickle.SHORT_BINUNICODE + bytes([len(value)]) + value.encode()


def joblib_bytes(value: Any) -> bytes:
    buffer = io.BytesIO()
    joblib.dump(value, buffer)
    return buffer.getvalue()


def zipped(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", '{"class_name": "Lambda", "config": {"function": "os.system"}}')
        archive.writestr("model.weights.h5", content)
    return buffer.getvalue()


def nested(levels: int) -> list[Any]:
    """A list that is ten to the power of ``levels`` numbers for whoever flattens it, and a few bytes in a pickle."""
    value: list[Any] = [0.0] * 10
    for _ in range(levels - 1):
        value = [value] * 10
    return value


COMMAND = "touch owned"
HOSTILE = {
    "call": pickle.dumps(Call(os.system, COMMAND), protocol=5),
    "old call": pickle.dumps(Call(os.system, COMMAND), protocol=0),
    "instance": b"(S'touch owned'\nios\nsystem\n.",
    "exec": pickle.dumps({"estimators_": [Call(exec, "open('owned', 'w')")]}, protocol=4),
    "partial": pickle.dumps(Call(functools.partial(os.system, COMMAND)), protocol=5),
    "pickle in a pickle": pickle.dumps(Call(pickle.loads, b"(S'touch owned'\nios\nsystem\n."), protocol=5),
    "persistent": b"\x80\x04" + text("os") + pickle.BINPERSID + b".",
    "extension": b"\x80\x04" + pickle.EXT1 + b"\x01.",
    "joblib": joblib_bytes(Call(os.system, COMMAND)),
    "joblib in an array": joblib_bytes(np.array([Call(os.system, COMMAND)], dtype=object)),
    "numpy's loader": pickle.dumps(Call(np.load, "owned", None, True), protocol=5),
    "large": pickle.dumps(Call(bytearray, 2**40), protocol=5),
    "large frame": b"\x80\x05" + pickle.FRAME + struct.pack("<Q", 1 << 60) + b".",
    "memo": pickle.NONE + pickle.LONG_BINPUT + struct.pack("<I", 2**31) + b".",
    "nested": pickle.dumps(nested(30), protocol=4),
    "never ends": pickle.dumps(Call(max, Call(range, 10**18)), protocol=4),
    "zip bomb": zipped(bytes(50 * 2**20)),
    "nothing": b"",
}


def put(folder: Path, suffix: str, content: bytes) -> Path:
    """Replace a sibling and its digest in the metadata; give the metadata's path."""
    (path,) = folder.glob(f"*{suffix}")
    path.write_bytes(content)
    mark = path.with_name(path.name.removesuffix(suffix) + "_metadata.json")
    document = json.loads(mark.read_text())
    document["files"][path.name] = hashlib.sha256(content).hexdigest()
    mark.write_text(json.dumps(document))
    return mark


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return int(end.value.code or 0)


@pytest.mark.parametrize("name", list(HOSTILE))
def test_a_forest_predicts_whatever_its_pickle_is(
    name: str, trained_trees: Path, market_db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`predict` and `report` of a run with a hostile pickle do their work, and nothing in it runs."""
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "journal.db"))
    monkeypatch.chdir(tmp_path)
    mark = put(Path(shutil.copytree(trained_trees, tmp_path / "models")), ".pkl", HOSTILE[name])
    assert run("predict", mark, "--max-age-days", 99999, "--db", market_db) == 0
    assert run("report", mark) == 0
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("suffix", ["_scalers.joblib", ".keras"])
@pytest.mark.parametrize("name", ["call", "joblib", "never ends", "zip bomb", "nothing"])
def test_a_network_predicts_whatever_its_files_for_people_are(
    name: str, suffix: str, trained_lstm: Path, market_db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scalers come from the metadata, weights from the arrays."""
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "journal.db"))
    monkeypatch.chdir(tmp_path)
    mark = put(Path(shutil.copytree(trained_lstm, tmp_path / "models")), suffix, HOSTILE[name])
    assert run("predict", mark, "--max-age-days", 99999, "--db", market_db) == 0
    assert not (tmp_path / "owned").exists()


def test_the_trap_is_a_real_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain pickle would run it."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(HOSTILE["call"])
    assert (tmp_path / "owned").exists()


def test_a_run_with_a_hostile_pickle_is_reproduced(
    trained_trees: Path, market_db: Path, tmp_path: Path, inline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pickle is compared by its bytes and never opened; the model by the arrays that are read, to the last bit."""
    monkeypatch.chdir(tmp_path)
    folder = Path(shutil.copytree(trained_trees, tmp_path / "models"))
    mark = put(folder, ".pkl", HOSTILE["call"])
    found = reproduce(mark, Silent(), db=str(market_db))
    assert (found.identical, found.stage) == (False, mark.name.replace("_metadata.json", ".pkl"))
    (path,) = folder.glob("*_weights.npz")
    arrays = {name: array.copy() for name, array in unpack_arrays(path.read_bytes(), ARRAYS).items()}
    arrays["threshold"][0] = np.nextafter(arrays["threshold"][0], 1)
    put(folder, "_weights.npz", pack_arrays(arrays))
    found = reproduce(mark, Silent(), db=str(market_db))
    assert (found.identical, found.stage) == (False, "model")
    assert not (tmp_path / "owned").exists()


def test_predicting_reads_no_pickle(trained_trees: Path, trained_lstm: Path, market_db: Path, tmp_path: Path) -> None:
    """No unpickler is called and no keras, h5py or joblib file opened, from the command to the prediction."""
    files = [*trained_trees.glob("*_metadata.json"), *trained_lstm.glob("*_metadata.json")]
    code = f"""
import sys
seen = []
sys.addaudithook(lambda name, args: seen.append(name + str(args)) if name in ("pickle.find_class", "open") else None)
from nextbar.cli.main import main
try:
    main(["predict", *{[str(path) for path in files]!r}, "--max-age-days", "99999", "--db", {str(market_db)!r}])
except SystemExit as end:
    assert not end.code, end.code
assert not [line for line in seen if line.startswith("pickle")], seen
assert "h5py" not in sys.modules and "keras" not in sys.modules
"""
    environment = {**os.environ, ENVIRONMENT: str(tmp_path / "journal.db")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("│") > 20
