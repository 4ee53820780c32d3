"""No file of the working folder is executed, whatever its name, unless the user names it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import packages_distributions
from multiprocessing import process
from pathlib import Path
from typing import Any

import pytest

from nextbar.execution.engine import Engine
from nextbar.search_path import drop_working_folder

SMALL = ("--ticker", "BBB", "--no-tune", "--warmup", "60", "--save_dir", "out")
ABSENT = (
    "numexpr",
    "numba",
    "cupy",
    "torch",
    "tensorflow",
    "lz4",
    "uvloop",
    "brotli",
    "sitecustomize",
    "usercustomize",
)
"""Modules that libraries import where they are installed."""
NAMES = sorted({*sys.stdlib_module_names, *packages_distributions(), *ABSENT} - {"__main__"})
NOTE = "with open({marks!r}, 'a') as file:\n    file.write(__name__ + '\\n')\n"
TASKS = "import sys\n\ndef seen(*_):\n    return sys.path, sys.flags.safe_path\n"
FEATURES = """
import json

def columns(bars):
    import range_helper
    assert json.dumps([]) == "[]"
    return range_helper.columns(bars)
"""
HELPER = "def columns(bars):\n    return ((bars['High'] - bars['Low']) / bars['Close']).to_frame('Range')\n"


def plant(folder: Path, names: Sequence[str] = NAMES) -> Path:
    """Write a file for each name that a module may have; returns the file in which they note that they are executed."""
    marks = folder.parent / f"{folder.name}_executed.txt"
    for name in names:
        (folder / f"{name}.py").write_text(NOTE.format(marks=str(marks)))
    return marks


@pytest.fixture
def planted(tmp_path: Path) -> tuple[Path, Path]:
    """A working folder full of such files, and where they note that they ran."""
    folder = tmp_path / "work"
    folder.mkdir()
    return folder, plant(folder)


def nextbar(folder: Path, env: dict[str, str], *arguments: Any, how: tuple[str, ...] = ("-P", "-m")) -> str:
    """Standard output of a command that ran in a folder and ended well."""
    command = [sys.executable, *how, "nextbar", *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def executed(marks: Path) -> list[str]:
    return sorted(set(marks.read_text().split())) if marks.exists() else []


def test_the_files_would_be_executed(tmp_path, child_env):
    """The trap works: Python itself takes json and threading from the working folder."""
    marks = plant(tmp_path, ["json", "threading"])
    subprocess.run([sys.executable, "-c", "import json, threading"], cwd=tmp_path, env=child_env, check=False)
    assert executed(marks) == ["json", "threading"]


@pytest.mark.parametrize(
    "engine",
    [pytest.param(name, marks=pytest.mark.thorough) if name != "loky" else name for name in ("serial", "loky", "dask")],
)
def test_training_executes_no_file_of_the_working_folder(engine, planted, market_db, child_env):
    """Neither the command nor its workers nor their trackers of resources import one, on any engine."""
    if engine == "dask":
        pytest.importorskip("distributed", reason="needs the extra [dask]")
    folder, marks = planted
    nextbar(folder, child_env, "train", "xgb", "--db", market_db, *SMALL, "--engine", engine, "--jobs", 2)
    assert executed(marks) == []


def test_reproduce_and_certify_execute_no_file_of_the_working_folder(planted, market_db, child_env, trained_trees):
    """A run that was downloaded with such files beside it is made again and certified without them."""
    folder, marks = planted
    (run,) = trained_trees.glob("xgboost_*_metadata.json")
    told = nextbar(folder, child_env, "reproduce", run, "--db", market_db)
    assert told.startswith("bit-identical")
    nextbar(folder, child_env, "certify", "xgb", "--artifact", run, "--db", market_db)
    assert executed(marks) == []


def test_a_feature_function_of_the_working_folder_is_used(planted, market_db, child_env):
    """It is found there, and so is what it imports when it is called; no file there hides an installed module."""
    folder, marks = planted
    (folder / "my_features.py").write_text(FEATURES)
    (folder / "range_helper.py").write_text(HELPER)
    options = ("--features", "my_features:columns", "--features-only", "--engine", "loky")
    nextbar(folder, child_env, "train", "xgb", "--db", market_db, *SMALL, *options)
    (run,) = (folder / "out").glob("*_metadata.json")
    assert '"Range"' in run.read_text()
    assert set(executed(marks)) <= set(ABSENT)


def test_without_the_flag_nothing_runs_that_python_does_not_import_to_start(tmp_path, market_db, child_env):
    """`python -m nextbar` cannot keep Python from looking there first, but does so before it imports anything."""
    marks = plant(tmp_path, ["json", "threading", "pickle", "numpy", "sklearn", "random", "typer", "pathlib"])
    nextbar(tmp_path, child_env, "check", "--db", market_db, "--ticker", "BBB", how=("-m",))
    assert executed(marks) == []


@pytest.mark.parametrize(
    ("name", "entry"),
    [("loky", ""), ("loky", "."), ("loky", "the folder"), ("dask", "")],
    ids=["loky-empty", "loky-dot", "loky-path", "dask-empty"],
)
def test_workers_are_not_sent_the_working_folder(name, entry, tmp_path, monkeypatch):
    """However our own search path spells it, a worker's lacks it; afterwards our path and environment are as before."""
    if name == "dask":
        pytest.importorskip("distributed", reason="needs the extra [dask]")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "path_tasks.py").write_text(TASKS)
    start = str(process.ORIGINAL_DIR)  # what an empty entry is sent as
    monkeypatch.chdir(tmp_path)
    others = [str(tmp_path / "tasks"), *(folder for folder in sys.path if folder not in ("", start))]
    monkeypatch.setattr("sys.path", [entry.replace("the folder", str(tmp_path)), *others])
    monkeypatch.delitem(sys.modules, "path_tasks", raising=False)
    before, environment = list(sys.path), dict(os.environ)
    import path_tasks

    (outcome,) = Engine(name=name, jobs=1, threads=1).run(path_tasks.seen, [0], None)
    path, safe = outcome.result
    assert safe
    assert not {"", ".", start, str(tmp_path)} & set(path)
    assert str(tmp_path / "tasks") in path
    assert (sys.path, dict(os.environ)) == (before, environment)


def test_the_folder_that_nextbar_is_installed_in_stays(monkeypatch):
    """Whoever stands in the folder of the packages still finds them."""
    home = str(Path(sys.modules["nextbar"].__file__).parents[1])
    monkeypatch.chdir(home)
    monkeypatch.setattr("sys.path", [home, *sys.path])
    assert drop_working_folder() == []
    assert sys.path[0] == home
