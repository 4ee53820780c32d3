"""File names: what they say, what they may never be, and that no two runs share one."""

from __future__ import annotations

import datetime as dt
import os
import re
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextbar.errors import OutputError
from nextbar.runs import files
from nextbar.runs.files import (
    is_opening,
    mark_of,
    removing_empty,
    reserve_timestamp,
    run_stem,
    stem_of,
    ticker_part,
    writable_folder,
    write_bytes,
    write_together,
)


@pytest.mark.parametrize(
    ("symbol", "part"),
    [
        ("AAPL", "AAPL"),
        ("^GSPC", "%5EGSPC"),
        ("BRK.B", "BRK.B"),
        ("BF-B", "BF-B"),
        ("005930.KS", "005930.KS"),
        ("../../x", "..%2F..%2Fx"),
        ("..", "%2E%2E"),
        ("a_b", "a%5Fb"),
        ("a~b", "a%7Eb"),
        ("ÄÖ", "%C3%84%C3%96"),
        ("C:\\x", "C%3A%5Cx"),
        ("EUR USD=X", "EUR%20USD%3DX"),
    ],
)
def test_symbols(symbol, part):
    """A symbol is percent-encoded outside A-Za-z0-9.- and can name no other folder."""
    assert ticker_part([symbol], everything=False) == part


def test_several_tickers():
    """A list is counted, ALL is all, whatever it holds."""
    assert ticker_part(["A", "B", "C"], everything=False) == "3tickers"
    assert ticker_part(["A", "B"], everything=True) == ticker_part(["A"], everything=True) == "all"


@given(st.text(min_size=1, max_size=30))
def test_any_symbol_is_one_safe_name(symbol):
    """Whatever stands in a database, the part is one plain file name, and no two symbols share one."""
    part = ticker_part([symbol], everything=False)
    assert re.fullmatch(r"[A-Za-z0-9.%-]+", part)
    assert part.strip(".")
    assert Path("x", part).parent == Path("x")
    assert ticker_part([symbol + "x"], everything=False) != part


def test_second_run_in_the_same_second_waits(tmp_path):
    """Two runs at once have different timestamps, and a run does not take the second of files that are there."""
    stamps, ready = [], threading.Event()

    def other() -> None:
        ready.wait(5)
        with reserve_timestamp(tmp_path) as stamp:
            stamps.append(stamp)

    thread = threading.Thread(target=other)
    thread.start()
    while time.time() % 1 > 0.3:
        time.sleep(0.01)
    with reserve_timestamp(tmp_path) as stamp:
        ready.set()
        (tmp_path / f"random_forest_A_{stamp}.pkl").touch()
        stamps.append(stamp)
    thread.join(5)
    assert len(set(stamps)) == 2
    assert all(re.fullmatch(r"\d{8}_\d{6}", stamp) for stamp in stamps)
    now = dt.datetime.now(dt.UTC)
    assert abs((dt.datetime.strptime(stamps[1] + "+0000", "%Y%m%d_%H%M%S%z") - now).total_seconds()) < 5
    assert [path.name for path in tmp_path.iterdir()] == [f"random_forest_A_{stamps[0]}.pkl"]


def test_second_that_ends_just_now_is_not_taken(tmp_path, monkeypatch):
    """A run that leaves its files and lets go of its second at the moment another asks keeps that second to itself."""
    create = files._create

    def late(lock: Path) -> bool:
        left = tmp_path / f"random_forest_A_{lock.name.split('.')[1]}.pkl"
        if not list(tmp_path.iterdir()):
            left.touch()
        return create(lock)

    monkeypatch.setattr(files, "_create", late)
    with reserve_timestamp(tmp_path) as stamp:
        held = sorted(path.name for path in tmp_path.iterdir())
    (left,) = tmp_path.iterdir()
    assert stamp not in left.name
    assert held == [f".{stamp}.lock", left.name]


def test_second_is_given_back_when_a_run_fails(tmp_path):
    """A run that ends in an error or Ctrl-C leaves no lock and no checkpoint behind."""

    def interrupted() -> None:
        with reserve_timestamp(tmp_path) as stamp:
            (tmp_path / f".lstm_{stamp}.checkpoint.keras").touch()
            (tmp_path / f"..lstm_{stamp}.checkpoint.part.keras").touch()
            assert list(tmp_path.iterdir())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_folder_is_made_and_tried(tmp_path):
    """A new folder is made with its parents and left empty; one that cannot be written is named with what to do."""
    folder = writable_folder(tmp_path / "a" / "b")
    assert folder.is_dir()
    assert not list(folder.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file/x: cannot write there \(Not a directory\); name another folder"):
        writable_folder(tmp_path / "file" / "x")


def test_read_only_folder(tmp_path, monkeypatch):
    """A folder that exists and refuses files is found out before anything is trained."""

    def refuse(self: Path, **_options: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(OutputError, match=r"cannot write there \(Permission denied\)"):
        writable_folder(tmp_path)


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


def test_files_are_written_together_or_not_at_all(tmp_path: Path) -> None:
    """Where the last of three cannot be put in place none is there, old ones neither cut nor mixed with new ones."""
    (tmp_path / "c").mkdir()
    contents = {tmp_path / name: name.encode() for name in "abc"}
    with pytest.raises(OSError, match="there is a folder, expected a file"):
        write_together(contents)
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    (tmp_path / "c").rmdir()
    write_together(contents)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"a", "b": b"b", "c": b"c"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_no_device_is_replaced(tmp_path: Path) -> None:
    """A pipe, and what a link such as /dev/stdout leads to, stays what it is."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "link"):
        with pytest.raises(OSError, match="there is a named pipe, expected a file"):
            write_bytes(tmp_path / name, b"x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "pipe"]


def test_a_long_symbol_has_a_name_of_its_own_that_fits() -> None:
    """Three hundred letters, or a hundred that are percent-encoded, are cut; two that begin alike differ."""
    first, second = (ticker_part([name], everything=False) for name in ("A" * 300, "A" * 301))
    assert first != second
    for part in (first, second, ticker_part(["\u00fc" * 100], everything=False)):
        assert len(f".estimator_ridge_{part}_20260102_030405_predictions.parquet.0123abcd-1234567.tmp") < 255
        assert stem_of(Path(f"random_forest_{part}_20260102_030405_metadata.json"))


def fail_in(folder: Path, *names: str) -> None:
    with removing_empty(folder):
        writable_folder(folder)
        for name in names:
            (folder / name).touch()
        raise KeyError


def test_a_folder_that_a_failure_left_empty_is_removed(tmp_path: Path) -> None:
    """With those above it that were made; one that was there, or holds a file, stays."""
    with pytest.raises(KeyError):
        fail_in(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyError):
        fail_in(tmp_path / "a", "kept")
    assert (tmp_path / "a" / "kept").exists()


@pytest.mark.parametrize(
    ("stem", "run"),
    [
        ("xgboost_AAPL_20260102_030405_holdout_20260203_040506", "xgboost_AAPL_20260102_030405"),
        ("xgboost_AAPL_20260102_030405", None),
        ("estimator_holdout_AAPL_20260102_030405", None),
        ("estimator_holdout_AAPL_20260102_030405_holdout_20260203_040506", "estimator_holdout_AAPL_20260102_030405"),
        ("xgboost_holdout_20260102_030405", None),
    ],
)
def test_an_opening_is_known_by_both_times(stem: str, run: str | None) -> None:
    """A model or a ticker that is called holdout is no opening."""
    assert run_stem(stem) == (run or stem)
    assert is_opening(stem) == (run is not None)
    assert mark_of(stem) == stem + ("_metadata.json" if run is None else ".json")
