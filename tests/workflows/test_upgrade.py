"""`nextbar reproduce --upgrade`: a run of an older version gets the file that nextbar reads, or stays as it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nextbar as nb
from nextbar.cli.main import main
from nextbar.errors import ArtifactError, OutdatedError, OutputError
from nextbar.runs import extend as module
from nextbar.runs.journal import ENVIRONMENT
from nextbar.runs.load import load_run
from nextbar.types import Silent
from nextbar.workflows.reproduce import reproduce

Old = Callable[[str], Path]


@pytest.fixture
def old(request: Any, tmp_path: Path, inline: Any, monkeypatch: pytest.MonkeyPatch) -> Old:
    """Function that gives the metadata of a copied run without what older versions did not write."""
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "journal.db"))

    def make(kind: str) -> Path:
        source = request.getfixturevalue("trained_lstm" if kind == "lstm" else "trained_trees")
        folder = Path(shutil.copytree(source, tmp_path / kind))
        (mark,) = folder.glob(f"{kind}*_metadata.json")
        document = json.loads(mark.read_text())
        document["folds"][0]["tasks"][0].pop("scalers", None)
        for names in (document["files"], document["paths"]):
            for name in [name for name in names if name.endswith("_weights.npz")]:
                del names[name]
        for path in folder.glob(f"{kind}*_weights.npz"):
            path.rename(tmp_path / path.name)
        mark.write_text(json.dumps(document))
        return mark

    return make


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("kind", [pytest.param("random_forest", marks=pytest.mark.thorough), "lstm"])
def test_an_upgraded_run_is_the_run_of_today(
    kind: str, old: Old, market_db: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], request: Any
) -> None:
    """It predicts after that, its weights are those of a run of today to the byte, and nothing else has changed."""
    mark = old(kind)
    before, options = content(mark.parent), ["--db", str(market_db)]
    for command, code in (("predict", 2), ("reproduce", 0), ("predict", 0), ("reproduce", 0)):
        more = ["--max-age-days", "99999"] if command == "predict" else ["--upgrade"]
        with pytest.raises(SystemExit) as end:
            main([command, str(mark), *options, *more])
        assert int(end.value.code or 0) == code, command
    said = capsys.readouterr()
    assert f"{load_run(mark).stem} has no _weights.npz" in said.err
    assert f"nextbar reproduce {mark} --upgrade\n" in said.err
    assert f"written: {load_run(mark).stem}_weights.npz; {mark.name} lists it now\n" in said.out
    assert said.out.count("nothing to upgrade") == 1
    after, (weights,) = content(mark.parent), tmp_path.glob(f"{kind}*_weights.npz")
    assert after.pop(weights.name) == weights.read_bytes()
    first = next(Path(request.getfixturevalue("trained_lstm" if kind == "lstm" else "trained_trees")).glob(mark.name))
    assert json.loads(after.pop(mark.name)) == json.loads(first.read_text())
    assert after == {name: own for name, own in before.items() if name != mark.name}


def test_a_run_that_differs_is_not_upgraded(old: Old, market_db: Path) -> None:
    """Other bits than recorded write nothing, and it is said."""
    mark = old("random_forest")
    document = json.loads(mark.read_text())
    document["folds"][0]["tasks"][0]["digests"]["weights"] = "0" * 64
    mark.write_text(json.dumps(document))
    before = content(mark.parent)
    found = reproduce(mark, Silent(), upgrade=True, db=str(market_db))
    assert not found.identical
    assert found.upgrade == "not upgraded: only a run that gives the same bits can be upgraded"
    assert content(mark.parent) == before


def test_without_the_option_nothing_is_written(old: Old, market_db: Path) -> None:
    """The run comes out as it was, saved model or not, and says nothing of an upgrade."""
    mark = old("lstm")
    before = content(mark.parent)
    found = reproduce(mark, Silent(), db=str(market_db))
    assert (found.identical, found.upgrade) == (True, None)
    assert content(mark.parent) == before


@pytest.mark.parametrize("failing", ["_weights.npz", "_metadata.json"])
def test_a_full_disk_leaves_the_run_as_it_was(
    failing: str, old: Old, market_db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of the two files cannot be moved into place; the metadata goes last."""
    mark, replace = old("random_forest"), Path.replace
    before = content(mark.parent)

    def refuse(self: Path, to: Path) -> Path:
        if str(to).endswith(failing):
            raise OSError(28, "No space left on device")
        return replace(self, to)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OutputError, match=rf"{failing}: cannot be written \(No space.*; the run is as it was"):
        reproduce(mark, Silent(), upgrade=True, db=str(market_db))
    assert content(mark.parent) == before


def test_a_document_that_changes_meanwhile_is_kept(old: Old, market_db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another process has written since the run was read is not overwritten."""
    mark, read = old("random_forest"), module.read_limited

    def changed(path: Path, most: int) -> bytes:
        return read(path, most).replace(b"_weights", b"_other").replace(b".pkl", b".pkl2")

    monkeypatch.setattr(module, "read_limited", changed)
    before = content(mark.parent)
    with pytest.raises(ArtifactError, match="was changed while the run was made again"):
        reproduce(mark, Silent(), upgrade=True, db=str(market_db))
    assert content(mark.parent) == before


def test_a_document_of_version_1_is_upgraded(old: Old, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays of version 1, and its only fit, which is the document itself, gets what is added."""
    mark = old("lstm")
    document, run = json.loads(mark.read_text()), load_run(mark)
    del document["folds"]
    mark.write_text(json.dumps({**document, "schema_version": 1}, indent=1))
    before, *_ = module.made_digests(run.mark, run.stem)
    monkeypatch.setattr(module, "read_document", lambda _: run.document)
    module.extend_run(run, {"_weights.npz": b"x"}, {"scalers": {"A": {}}})
    assert [*module.made_digests(run.mark, run.stem)][2] == before
    first = json.loads(mark.read_text())
    assert (first["schema_version"], first["scalers"]) == (1, {"A": {}})
    assert set(first["files"]) == {*document["files"], f"{run.stem}_weights.npz"}


@pytest.mark.parametrize("kind", ["random_forest", "lstm"])
def test_in_python(kind: str, old: Old, market_db: Path, make_certificate: Any) -> None:
    """`Run.model` says what is missing; `nb.reproduce(…, upgrade=True)` writes it; the run loaded anew predicts.

    Its certificate stays, too.
    """
    mark, bars = old(kind), nb.read_bars(str(market_db), ["AAA", "BBB"])
    mark.write_text(json.dumps(json.loads(mark.read_text()), indent=1))
    make_certificate(mark, "PASS")
    with pytest.raises(OutdatedError, match=f"has no _weights.npz.*nextbar reproduce {mark} --upgrade"):
        nb.load_run(mark).model("AAA")
    assert nb.reproduce(nb.load_run(mark), bars).upgrade is None
    assert "written: " in str(nb.reproduce(nb.load_run(mark), bars, upgrade=True))
    assert len(nb.load_run(mark).model("AAA").predict(bars["AAA"])) > 300
    assert nb.load_run(mark).certificate().verdict == "PASS"


def test_an_old_run_among_others_is_left_out(old: Old, market_db: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a whole folder those that can predict do, and the other one is named."""
    mark = old("random_forest")
    with pytest.raises(SystemExit) as end:
        main(["predict", *map(str, mark.parent.iterdir()), "--max-age-days", "99999", "--db", str(market_db)])
    assert not end.value.code
    said = capsys.readouterr()
    assert "xgboost_AAA" in said.out
    assert f"{load_run(mark).stem} has no _weights.npz" in said.err
