"""The journal: nothing is lost, nothing is changed, nothing foreign is touched."""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
import sqlite3
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextbar.errors import ArtifactError, OutputError, Remark
from nextbar.runs.journal import ENVIRONMENT, Entry, append, journal_path, on_proven_times, read

ENTRY = Entry(
    made="2024-01-02T22:00:00+00:00",
    ticker="'; DROP TABLE predictions; --",
    date="2024-01-02",
    kind="xgb",
    model="xgboost_A_20240101_000000",
    model_sha256="0" * 64,
    model_made="2024-01-01T00:00:00+00:00",
    close=0.1 + 0.2,
    probability=1 / 3,
    predicted_close=None,
    threshold=0.5,
    predicted_class=0,
    signal=0,
    majority=1,
    raw=True,
)


def test_entries_come_back_as_they_went_in(tmp_path: Path) -> None:
    """Every bit of every field, in the order in which they were written; the folder is made if need be."""
    path = tmp_path / "new" / "journal.db"
    later = dataclasses.replace(ENTRY, made="2024-01-03T22:00:00+00:00", probability=None, predicted_close=1e-300)
    with pytest.warns(Remark, match=rf"^a new journal of predictions begins: {re.escape(str(path))}$"):
        append(path, [later, ENTRY])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        append(path, [later])
    assert read(path) == [later, ENTRY, later]


def times(*made: str, now: str = "2024-02-01T00:00:00+00:00") -> list[str]:
    entries = [dataclasses.replace(ENTRY, made=f"2024-01-{day}T22:00:00+00:00") for day in made]
    return [entry.made[8:10] for entry in on_proven_times(entries, dt.datetime.fromisoformat(now))]


def test_a_clock_that_was_set_back_makes_nothing_earlier() -> None:
    """A line is at least as late as those before it; one from the future says nothing about later ones."""
    assert times("03", "05", "04", "06") == ["03", "05", "05", "06"]
    assert times("30", "05", now="2024-01-10T00:00:00+00:00") == ["30", "05"]


@given(st.lists(st.integers(1, 28)), st.integers(1, 28))
def test_times_in_a_journal_never_go_back(days: list[int], today: int) -> None:
    """Whatever the clock says, each prediction counts no earlier than it says, and no earlier than those before it."""
    found = times(*(f"{day:02}" for day in days), now=f"2024-01-{today:02}T23:00:00+00:00")
    assert all(int(time) >= day for time, day in zip(found, days, strict=True))
    past = [int(time) for time, day in zip(found, days, strict=True) if day <= today]
    assert past == sorted(past)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("made", "yesterday"),
        ("made", "2024-01-02T22:00:00"),
        ("model_made", ""),
        ("date", "0000-00-00"),
        ("close", "much"),
        ("probability", b"\x00"),
        ("predicted_class", 7),
        ("ticker", None),
        ("threshold", float("inf")),
    ],
    ids=str,
)
def test_a_line_that_is_no_prediction_is_refused(tmp_path: Path, column: str, value: object) -> None:
    """Wrong types, impossible days and numbers name the journal."""
    path = tmp_path / "journal.db"
    append(path, [ENTRY])
    with sqlite3.connect(path) as journal:
        journal.execute(f"UPDATE predictions SET {column} = ?", (value,))
    journal.close()
    with pytest.raises(ArtifactError, match=r"journal\.db: a prediction is refused"):
        read(path)


def test_several_go_in_together_or_not_at_all(tmp_path: Path) -> None:
    """An entry that cannot be stored takes those before it in the same call with it, and no earlier ones."""
    path = tmp_path / "journal.db"
    append(path, [ENTRY])
    bad = dataclasses.replace(ENTRY, close=object())  # type: ignore[arg-type]
    with pytest.raises(OutputError, match="the journal cannot be used"):
        append(path, [ENTRY, ENTRY, bad])
    assert read(path) == [ENTRY]


def test_a_full_disk_is_an_error_and_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's own "disk is full" becomes an OutputError; the journal is as it was."""
    path = tmp_path / "journal.db"
    append(path, [ENTRY])
    connect = sqlite3.connect

    def on_a_full_disk(*arguments: object, **options: object) -> sqlite3.Connection:
        connection = connect(*arguments, **options)  # type: ignore[call-overload]
        connection.execute("PRAGMA max_page_count = 2")
        return connection

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", on_a_full_disk)
        with pytest.raises(OutputError, match="full"):
            append(path, [ENTRY] * 500)
    assert read(path) == [ENTRY]


@pytest.mark.parametrize("content", ["text", "database", "later version"])
def test_another_file_is_refused_and_stays_as_it_is(tmp_path: Path, content: str) -> None:
    """A text, another program's database and a later journal are not written into."""
    path = tmp_path / "other"
    if content == "text":
        path.write_text("some text that is no database\n" * 50)
    else:
        with sqlite3.connect(path) as other:
            other.execute("CREATE TABLE mine (x)" if content == "database" else "PRAGMA user_version = 9")
        other.close()
    before = path.read_bytes()
    for use in (read, lambda path: append(path, [ENTRY])):
        with pytest.raises(OutputError, match=r"choose another --journal"):
            use(path)
    assert path.read_bytes() == before


def test_reading_makes_no_journal(tmp_path: Path) -> None:
    """Where there is none, reading says how to get one and leaves the folder empty."""
    with pytest.raises(OutputError, match="there is no journal of predictions"):
        read(tmp_path / "journal.db")
    assert not list(tmp_path.iterdir())


def test_the_option_goes_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--journal, then NEXTBAR_JOURNAL, then the user's state folder."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    assert journal_path(None).parts[-2:] == ("nextbar", "journal.db")
    monkeypatch.setenv(ENVIRONMENT, "elsewhere.db")
    assert journal_path(None) == Path("elsewhere.db")
    assert journal_path(Path("here.db")) == Path("here.db")


def test_many_may_begin_a_journal_at_once(tmp_path: Path) -> None:
    """Whoever comes second finds the table that the first one made, whole, and takes it for a journal."""
    for attempt in range(10):
        path = tmp_path / f"{attempt}.db"
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _, path=path: append(path, [ENTRY]), range(8)))
        assert len(read(path)) == 8


WRITER = """
import sys
sys.path.insert(0, {here!r})
from pathlib import Path
from test_journal import ENTRY, append
append(Path({path!r}), [ENTRY] * 3)
print("first", flush=True)
while True:
    append(Path({path!r}), [ENTRY] * 3)
"""


def test_a_kill_leaves_whole_calls(tmp_path: Path) -> None:
    """Two processes write at once and are killed at some moment: every call is in the journal whole or not at all."""
    path = tmp_path / "journal.db"
    code = WRITER.format(here=str(Path(__file__).parent), path=str(path))
    writers = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(2)]
    try:
        firsts = [writer.stdout.readline() for writer in writers if writer.stdout is not None]
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()
    assert firsts == [b"first\n"] * 2
    entries = read(path)
    assert len(entries) >= 6
    assert len(entries) % 3 == 0
    append(path, [ENTRY])
    assert len(read(path)) == len(entries) + 1
