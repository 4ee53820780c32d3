"""What lies in a folder, perhaps put there by a stranger: opened whole, or refused with a reason."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from nextbar.artifacts import load
from nextbar.artifacts.load import open_artifact
from nextbar.errors import ArtifactError


@pytest.fixture
def run(trained_trees: Path, tmp_path: Path) -> Path:
    """The `.json` of a copied XGBoost run."""
    folder = tmp_path / "models"
    shutil.copytree(trained_trees, folder)
    return next(
        path for path in folder.glob("xgboost_*.json") if path.name.count(".") == 1 and "metadata" not in path.name
    )


def metadata_of(run: Path) -> Path:
    return run.with_name(run.stem + "_metadata.json")


def change_metadata(run: Path, **changes: object) -> None:
    path = metadata_of(run)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_any_file_of_a_run_opens_it(run: Path) -> None:
    """Model, metadata and siblings lead to the same run, with every sibling's content."""
    files = sorted(run.parent.glob(f"{run.stem}*"))
    assert len(files) == 4
    for path in files:
        artifact = open_artifact(path)
        assert artifact.stem == run.stem
        assert set(artifact.files) == {".json", ".meta.json", "_predictions.parquet"}
        assert artifact.files[".json"] == run.read_bytes()


def truncate(run: Path) -> None:
    run.write_bytes(run.read_bytes()[:-1])


def flip(run: Path) -> None:
    content = bytearray(run.read_bytes())
    content[len(content) // 2] ^= 1
    run.write_bytes(content)


def remove_sibling(run: Path) -> None:
    run.with_suffix(".meta.json").unlink()


def remove_metadata(run: Path) -> None:
    metadata_of(run).unlink()


def link_sibling(run: Path) -> None:
    elsewhere = run.parent / "elsewhere"
    run.rename(elsewhere)
    run.symlink_to(elsewhere)


def link_metadata(run: Path) -> None:
    elsewhere = run.parent / "elsewhere"
    metadata_of(run).rename(elsewhere)
    metadata_of(run).symlink_to(elsewhere)


def pipe(run: Path) -> None:
    run.unlink()
    os.mkfifo(run)


def folder(run: Path) -> None:
    run.unlink()
    run.mkdir()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (truncate, "damaged or was changed"),
        (flip, "damaged or was changed"),
        (remove_sibling, "is missing"),
        (remove_metadata, "is missing"),
        (link_sibling, "is a link"),
        (link_metadata, "is a link"),
        (pipe, "expected a file"),
        (folder, "cannot be read"),
        (lambda run: metadata_of(run).write_text("{"), "is no JSON"),
        (lambda run: metadata_of(run).write_text("[" * 100_000), "is no JSON"),
        (lambda run: metadata_of(run).write_text("[1]"), "does not say what run it is of"),
        (lambda run: change_metadata(run, schema_version=2), "schema version is 2"),
        (lambda run: change_metadata(run, files={}), "lists no files"),
        (lambda run: change_metadata(run, files=["x"]), "lists no files"),
    ],
)
def test_a_damaged_run_is_refused(run: Path, harm: Callable[[Path], None], message: str) -> None:
    """A file that is not whole, not there, not plain or not ours is an ArtifactError that says which and why."""
    harm(run)
    with pytest.raises(ArtifactError, match=message):
        open_artifact(run)


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "/etc/passwd",
        "STEM/../../secret",
        "STEM_..",
        "STEM\\..\\secret",
        "STEM",
        "secret.json",
        "OTHER.json",
        "STEM.a b",
        "",
    ],
)
def test_a_sibling_outside_the_run_is_refused(run: Path, name: str) -> None:
    """Metadata cannot make us read a file that is not the run's own, whatever its digest is."""
    (run.parent.parent / "secret").write_bytes(b"")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    change_metadata(run, files={name.replace("STEM", run.stem).replace("OTHER", run.stem[::-1]): empty})
    with pytest.raises(ArtifactError, match="which is no file of this run"):
        open_artifact(run)


@pytest.mark.parametrize(
    "name",
    ["model.json", "walkforward_xgb_AAA_20260102_030405.json", "xgboost_AAA_2026.json", "xgboost_A_20260102_030405x"],
)
def test_another_name_is_refused(tmp_path: Path, name: str) -> None:
    """A name that is no training run's says what is expected, before any file is looked for."""
    with pytest.raises(ArtifactError, match="expected a file of a training run"):
        open_artifact(tmp_path / name)


def test_a_file_beyond_the_limit_is_not_read(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Size is looked at before content."""
    monkeypatch.setattr(load, "MOST_FILE_BYTES", run.stat().st_size - 1)
    with pytest.raises(ArtifactError, match="expected a file of at most"):
        open_artifact(run)


def test_a_model_in_json_has_a_limit_of_its_own(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON takes several times its size when it is read, so less of it is let in."""
    assert load.MOST_JSON_BYTES <= 256 * 2**20
    monkeypatch.setattr(load, "MOST_JSON_BYTES", run.stat().st_size - 1)
    with pytest.raises(ArtifactError, match="expected a file of at most"):
        open_artifact(run)


def test_the_digest_of_a_run_follows_its_bytes(run: Path) -> None:
    """Two runs have one sha256 exactly if their files have."""
    before = open_artifact(run).sha256
    assert open_artifact(metadata_of(run)).sha256 == before
    files = json.loads(metadata_of(run).read_text())["files"]
    change_metadata(run, files={name: digest for name, digest in files.items() if not name.endswith(".meta.json")})
    assert open_artifact(run).sha256 != before
