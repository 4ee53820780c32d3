"""A run is there whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from nextbar.artifacts.store import write_bytes, write_run
from nextbar.errors import OutputError

FILES = {".pkl": b"trees", ".meta.json": b"{}"}


def test_metadata_goes_last_and_knows_its_siblings(tmp_path, monkeypatch):
    """Files come in order, the commit mark last, with name and sha256 of each sibling and no temporary file left."""
    order: list[str] = []
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, to: order.append(Path(to).name) or replace(self, to))
    written = write_run(tmp_path, "rf_A_1", FILES, {"seed": 1}, commit="_metadata.json")
    names = ["rf_A_1.pkl", "rf_A_1.meta.json", "rf_A_1_metadata.json"]
    assert order == [path.name for path in written] == names
    document = json.loads(written[-1].read_text())
    assert document["seed"] == 1
    assert document["files"] == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in written[:-1]}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert document["paths"] == {"rf_A_1.pkl": "./rf_A_1.pkl", "rf_A_1.meta.json": "./rf_A_1.meta.json"}
    assert [(written[-1].parent / path).resolve() for path in document["paths"].values()] == [
        path.resolve() for path in written[:-1]
    ]


@pytest.mark.parametrize("failing", [1, 2, 3])
@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_full_disk_leaves_nothing(tmp_path, monkeypatch, failing, step):
    """If any file cannot be written or moved into place, nothing of the run stays, and the error names the file."""
    calls = 0

    def refuse(original):
        def call(*arguments):
            nonlocal calls
            calls += 1
            if calls == failing:
                raise OSError(28, "No space left on device")
            return original(*arguments)

        return call

    home = Path if step == "replace" else os
    monkeypatch.setattr(home, step, refuse(getattr(home, step)))
    with pytest.raises(OutputError, match=r"rf_A_1.*: cannot be written \(No space left on device\); nothing of this"):
        write_run(tmp_path, "rf_A_1", FILES, {}, commit="_metadata.json")
    assert not list(tmp_path.iterdir())


def test_ctrl_c_leaves_nothing(tmp_path, monkeypatch):
    """An interruption between two files takes the first away again and goes on as an interruption."""

    replace = Path.replace

    def interrupt(self, to):
        if str(to).endswith(".meta.json"):
            raise KeyboardInterrupt
        return replace(self, to)

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_run(tmp_path, "rf_A_1", FILES, {}, commit="_metadata.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_json_never_holds_nan(tmp_path, bad):
    """A NaN in the metadata is refused before a single file is written."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_run(tmp_path, "rf_A_1", FILES, {"sharpe": bad}, commit="_metadata.json")
    assert not list(tmp_path.iterdir())


def test_reader_never_sees_half_a_file(tmp_path, monkeypatch):
    """Until the new content is complete the old one stands under the name."""
    path = tmp_path / "x.json"
    write_bytes(path, b"old")
    seen = []
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, to: seen.append(path.read_bytes()) or replace(self, to))
    write_bytes(path, b"new")
    assert seen == [b"old"]
    assert path.read_bytes() == b"new"
