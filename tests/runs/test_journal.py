"""The journal: nothing is lost, nothing is changed, nothing foreign is touched."""

from __future__ import annotations

import dataclasses
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nextbar.errors import OutputError
from nextbar.runs.journal import ENVIRONMENT, Entry, append, journal_path, read

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
    """Every bit of every field, in the order in which predictions were made; the folder is made if need be."""
    path = tmp_path / "new" / "journal.db"
    later = dataclasses.replace(ENTRY, made="2024-01-03T22:00:00+00:00", probability=None, predicted_close=1e-300)
    append(path, [later, ENTRY])
    append(path, [later])
    assert read(path) == [ENTRY, later, later]


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
    with pytest.raises(OutputError, match="no prediction was made yet"):
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
