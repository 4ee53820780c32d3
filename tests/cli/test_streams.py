"""Streams that cannot be written: no traceback, an exit code that tells, no prediction noted that nobody saw."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SHELL = 'exec "$0" -m nextbar "$@" '


@pytest.fixture
def call(child_env, tmp_path):
    """Function that runs a command with redirected streams; gives exit code, output and what went to the terminal."""

    def run(how: str, *arguments: object, **variables: str) -> tuple[int, str, str]:
        env = {**child_env, "NEXTBAR_JOURNAL": str(tmp_path / "journal.db"), **variables}
        command = ["bash", "-c", SHELL + how, sys.executable, *map(str, arguments)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture
def prediction(trained_trees: Path, market_db: Path) -> list[object]:
    """Arguments of a prediction."""
    return ["predict", next(trained_trees.glob("xgboost*.json")), "--db", market_db, "--max-age-days", 99999]


RARE = pytest.mark.thorough


@pytest.mark.parametrize("more", [[], pytest.param(["--json"], marks=RARE)], ids=["table", "json"])
@pytest.mark.parametrize(
    "how",
    [
        ">/dev/full",
        ">&-",
        pytest.param("<&- >&- 2>&-", marks=RARE),
        pytest.param(">&- 2>&-", marks=RARE),
        pytest.param(">/dev/full 2>&1", marks=RARE),
    ],
)
def test_a_prediction_that_could_not_be_shown_is_not_noted(call, prediction, tmp_path, how, more):
    """A full disk and a closed stream are told, with exit code 1; the journal stays as it was."""
    code, _, err = call(how, *prediction, *more)
    assert code == 1
    assert not (tmp_path / "journal.db").exists()
    if "2>" not in how:
        assert "nextbar: standard output cannot be written" in err
        assert err.count("nextbar:") == 1


def test_a_reader_that_has_gone_is_no_error(call, prediction, tmp_path):
    """`nextbar predict … | head` ends quietly when the reader has closed the pipe, and nothing is noted."""
    code, _, err = call("> >(exec <&-); sleep 0", *prediction)
    assert (code, err) == (0, "")
    assert not (tmp_path / "journal.db").exists()


@pytest.mark.parametrize("how", ["2>/dev/full", pytest.param("2>&-", marks=RARE)])
def test_remarks_that_cannot_be_written_stop_nothing(call, prediction, tmp_path, how):
    """The prediction is shown and noted, whatever becomes of standard error."""
    code, out, _ = call(how, *prediction)
    assert code == 0
    assert "AAA" in out
    assert (tmp_path / "journal.db").exists()


@pytest.mark.parametrize(
    "variables",
    [{"PYTHONIOENCODING": "ascii"}, pytest.param({"LC_ALL": "C", "PYTHONUTF8": "0"}, marks=RARE)],
    ids=["variable", "locale"],
)
def test_a_narrow_encoding_gets_replacement_characters(call, prediction, variables):
    """An encoding that lacks the lines of a table shows the prediction all the same."""
    code, out, err = call("", *prediction, **variables)
    assert code == 0
    assert "AAA" in out
    assert "1 prediction noted" in err


@pytest.mark.parametrize("how", [">/dev/full", pytest.param(">&-", marks=RARE)])
@pytest.mark.parametrize(
    "command",
    [["runs", "MODELS"], ["--version"], ["--help"], ["check", "--db", "DB", "--json"]],
    ids=lambda way: way[0],
)
def test_every_command_tells_that_it_showed_nothing(call, trained_trees, market_db, command, how):
    """Exit code 1 and one line."""
    places = {"MODELS": trained_trees, "DB": market_db}
    code, _, err = call(how, *(places.get(word, word) for word in command))
    assert code == 1
    assert "cannot be written" in err


def test_messages_are_json_lines_where_a_collector_wants_them(call, prediction):
    """Every line on standard error is an object with time, level and message; results stay as they are."""
    code, out, err = call("", "--log-json", *prediction)
    told = [json.loads(line) for line in err.splitlines()]
    assert code == 0
    assert "AAA" in out
    assert {one["level"] for one in told} == {"note"}
    assert any("noted in" in one["message"] for one in told)


@pytest.mark.parametrize(
    ("option", "variables"), [(["--log-json"], {}), ([], {"NEXTBAR_LOG_JSON": "1"})], ids=["option", "variable"]
)
def test_an_error_is_a_json_line_where_a_collector_wants_it(call, option, variables):
    """It holds the exit code, too."""
    code, out, err = call("", *option, "check", "--db", "no.db", **variables)
    (one,) = map(json.loads, err.splitlines())
    assert (code, out, one["level"], one["code"]) == (2, "", "error", 2)
    assert one["message"].startswith("there is no database no.db")


def test_places_that_cannot_be_written_are_told_before_anything_is_shown(
    command_line, prediction, tmp_path, monkeypatch
):
    """A file that is no journal, and a folder that is not there, end the command with nothing on standard output."""
    (tmp_path / "junk.db").write_text("junk")
    monkeypatch.setenv("NEXTBAR_JOURNAL", str(tmp_path / "junk.db"))
    code, out, err = command_line(*prediction)
    assert (code, out) == (2, "")
    assert "the journal cannot be used" in err
    monkeypatch.setenv("NEXTBAR_JOURNAL", str(tmp_path / "journal.db"))
    code, out, err = command_line(*prediction, "--out", tmp_path / "none" / "s.csv")
    assert (code, out) == (2, "")
    assert "expected a file in a folder that exists; name another" in err
    assert not (tmp_path / "journal.db").exists()
