"""What lies in a folder, perhaps put there by a stranger: opened whole, or refused with a reason."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from nextbar.errors import ArtifactError, OutputError
from nextbar.runs.document import Document, parse_document
from nextbar.runs.files import MOST_BYTES, MOST_FILE_BYTES, digest_file, read_limited
from nextbar.runs.load import load_run
from nextbar.runs.siblings import write_run
from nextbar.types import JsonDict
from nextbar.workflows.promote import promote


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
        found = load_run(path)
        assert found.stem == run.stem
        contents = found.read_files()
        assert set(contents) == {".json", ".meta.json", "_predictions.parquet"}
        assert contents[".json"] == run.read_bytes()
        assert [path.name for path in found.files] == [*found.document.files, metadata_of(run).name]


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


def device(run: Path) -> None:
    run.unlink()
    run.symlink_to("/dev/zero")


def giant(run: Path) -> None:
    """A file with a hole of a terabyte in the place of one that is hashed and not read."""
    with run.with_suffix(".meta.json").open("r+b") as file:
        file.truncate(2**40)


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
        (folder, "expected a file"),
        (device, "is a link"),
        (giant, "expected a file of at most 2147483648 bytes, got 1099511627776"),
        (lambda run: metadata_of(run).write_text("{"), "is not usable JSON"),
        (lambda run: metadata_of(run).write_text("[" * 100_000), "is not usable JSON"),
        (lambda run: change_metadata(run, extra=json.loads("[" * 99 + "]" * 99)), "nested more than 64 levels deep"),
        (lambda run: change_metadata(run, seed=10**60), "the whole number 1000"),
        (lambda run: metadata_of(run).write_text('{"schema_version": 2, "seed": 1e400}'), "a number beyond"),
        (lambda run: metadata_of(run).write_text('{"schema_version": 2, "schema_version": 2}'), "twice"),
        (lambda run: metadata_of(run).write_text("[1]"), "does not say what run it is of"),
        (lambda run: change_metadata(run, schema_version=3), "schema version is 3"),
        (lambda run: change_metadata(run, files={}), "lists no files"),
        (lambda run: change_metadata(run, files=["x"]), "Expected `object`, got `array` - at `..files`"),
    ],
)
def test_a_damaged_run_is_refused(run: Path, harm: Callable[[Path], None], message: str) -> None:
    """A file that is not whole, not there, not plain or not ours is an ArtifactError that says which and why."""
    harm(run)
    with pytest.raises(ArtifactError, match=message):
        load_run(run).read_files([".json"])


@pytest.mark.parametrize("place", ["document", "configuration", "name"])
def test_a_run_has_one_kind_of_model(run: Path, place: str) -> None:
    """Document, configuration and file name must agree: each decides how the files are read."""
    document = json.loads(metadata_of(run).read_text())
    if place == "name":
        other = run.with_name(metadata_of(run).name.replace("xgboost", "random_forest"))
        metadata_of(run).rename(other)
        run = other
    elif place == "document":
        change_metadata(run, model="rf")
    else:
        change_metadata(run, config=document["config"] | {"model": "rf"})
    with pytest.raises(ArtifactError, match=r"its model is (xgb|rf), its configuration or name says another"):
        load_run(run)


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
    with pytest.raises(ArtifactError, match="which is not a file of this run"):
        load_run(run).read_files()


@pytest.mark.parametrize(
    "name",
    ["model.json", "walkforward_xgb_AAA.json", "xgboost_AAA_2026.json", "xgboost_A_20260102_030405x"],
)
def test_another_name_is_refused(tmp_path: Path, name: str) -> None:
    """A name that is no run's says what is expected, before any file is looked for."""
    with pytest.raises(ArtifactError, match="expected a file of a run"):
        load_run(tmp_path / name)


def test_a_folder_and_a_name_of_runs_say_which_files_to_give(run: Path, tmp_path: Path) -> None:
    """The runs are listed with their folder; a file of another kind is no run by its name."""
    folder = run.parent
    marks = sorted(folder.glob("*_metadata.json"))
    with pytest.raises(ArtifactError) as stopped:
        load_run(folder)
    assert str(stopped.value) == f"{folder} is a folder; give a file of one run: {', '.join(map(str, marks))}"
    promote(marks[:1], "production")
    for name in ("production", "production.name.json"):
        with pytest.raises(ArtifactError, match=f"is a name of runs; give a file of one run: {marks[0]}$"):
            load_run(folder / name)
    (tmp_path / "empty").mkdir()
    (tmp_path / "data.json").touch()
    faults = {"empty": "is a folder without a run", "data.json": "its name is not that of a run"}
    for name, told in {**faults, "nothing": "there is no such file"}.items():
        with pytest.raises(ArtifactError, match=told):
            load_run(tmp_path / name)


def test_only_what_is_asked_for_is_kept(run: Path) -> None:
    """The other siblings are hashed piece by piece: their size takes no memory."""
    path = run.with_suffix(".meta.json")
    with path.open("r+b") as file:
        file.truncate(100 * 2**20)
    files = json.loads(metadata_of(run).read_text())["files"]
    change_metadata(run, files=files | {path.name: hashlib.sha256(path.read_bytes()).hexdigest()})
    found = load_run(run)
    tracemalloc.start()
    assert set(found.read_files([".json"])) == {".json"}
    found.check_siblings()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 2**20


@pytest.mark.parametrize("name", ["model.json", "model.npz", "model.pkl"])
def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path, name: str) -> None:
    """Size is looked at before content: of JSON, which takes several times its size, less is let in."""
    path = tmp_path / name
    with path.open("wb") as file:
        file.truncate(MOST_BYTES.get(path.suffix, MOST_FILE_BYTES) + 1)
    for read in (read_limited, digest_file):
        with pytest.raises(ArtifactError, match="expected a file of at most"):
            read(path, MOST_BYTES.get(path.suffix, MOST_FILE_BYTES))
    assert MOST_BYTES[".json"] < MOST_BYTES[".npz"] < MOST_FILE_BYTES


def test_a_run_is_shown_in_a_line(run: Path) -> None:
    """A document of thousands of days does not fill the screen."""
    shown = repr(load_run(run))
    assert run.stem in shown
    assert len(shown) < 2000


def test_the_digest_of_a_run_follows_its_bytes(run: Path) -> None:
    """Two runs have one sha256 exactly if their files have."""
    before = load_run(run).sha256
    assert load_run(metadata_of(run)).sha256 == before
    files = json.loads(metadata_of(run).read_text())["files"]
    change_metadata(run, files={name: digest for name, digest in files.items() if not name.endswith(".meta.json")})
    assert load_run(run).sha256 != before


@pytest.fixture
def empty(plain_document: Callable[..., JsonDict]) -> Document:
    """A document of no folds."""
    return parse_document(json.dumps(plain_document()).encode(), "x.json")


FILES = {".pkl": b"trees", ".meta.json": b"{}"}


def test_metadata_goes_last_and_knows_its_siblings(tmp_path, monkeypatch, plain_document):
    """Files come in order, the commit mark last, with name and sha256 of each sibling and no temporary file left."""
    order: list[str] = []
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, to: order.append(Path(to).name) or replace(self, to))
    given = parse_document(json.dumps(plain_document(seed=1)).encode(), "x")
    told = write_run(tmp_path, "rf_A_1", FILES, given)
    names = ["rf_A_1.pkl", "rf_A_1.meta.json", "rf_A_1_metadata.json"]
    assert order == names
    written = [tmp_path / name for name in names]
    document = json.loads(written[-1].read_text())
    assert document == told.to_json()
    assert document["seed"] == 1
    assert document["files"] == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in written[:-1]}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert document["paths"] == {"rf_A_1.pkl": "./rf_A_1.pkl", "rf_A_1.meta.json": "./rf_A_1.meta.json"}
    assert [(written[-1].parent / path).resolve() for path in document["paths"].values()] == [
        path.resolve() for path in written[:-1]
    ]


@pytest.mark.parametrize("failing", [1, 2, 3])
@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_full_disk_leaves_nothing(tmp_path, monkeypatch, failing, step, empty):
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
        write_run(tmp_path, "rf_A_1", FILES, empty)
    assert not list(tmp_path.iterdir())


def test_ctrl_c_leaves_nothing(tmp_path, monkeypatch, empty):
    """An interruption between two files takes the first away again and goes on as an interruption."""

    replace = Path.replace

    def interrupt(self, to):
        if str(to).endswith(".meta.json"):
            raise KeyboardInterrupt
        return replace(self, to)

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_run(tmp_path, "rf_A_1", FILES, empty)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_json_never_holds_nan(tmp_path, bad, empty):
    """A NaN in the metadata is refused before a single file is written."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_run(tmp_path, "rf_A_1", FILES, msgspec.structs.replace(empty, pooled={"sharpe": bad}))
    assert not list(tmp_path.iterdir())


def test_a_name_file_without_a_name_is_refused(tmp_path: Path) -> None:
    """The ending alone is no name of runs, and no run's file."""
    (tmp_path / ".name.json").write_text("{}")
    with pytest.raises(ArtifactError, match="expected a file of a run"):
        load_run(tmp_path / ".name.json")
