"""`nextbar predict` and `nextbar score` as a user types them: what is printed, what is written, which exit code."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from nextbar.cli.main import main
from nextbar.runs.journal import ENVIRONMENT, Entry, append, journal_path, read


@pytest.fixture
def models(trained_trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the trained trees; the journal lies beside it."""
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "journal.db"))
    return Path(shutil.copytree(trained_trees, tmp_path / "models"))


@pytest.fixture
def nextbar(market_db: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Function that runs a command and gives its exit code and what it printed on both streams."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main([*map(str, arguments), "--db", str(market_db)])
        printed = capsys.readouterr()
        return int(end.value.code or 0), printed.out, printed.err

    return run


def test_a_folder_says_which_run_was_never_finished(models: Path, nextbar: Any) -> None:
    """A run without its metadata is named, and the others predict."""
    lost, *_ = sorted(models.glob("xgboost_*_metadata.json"))
    lost.unlink()
    code, out, err = nextbar("predict", models, "--max-age-days", 99999)
    stem = lost.name.removesuffix("_metadata.json")
    assert (code, f"skipped {stem}: its metadata is missing" in err, "random_forest_AAA" in out) == (0, True, True)


def test_all_files_of_a_folder_give_one_line_per_model(models: Path, nextbar: Any) -> None:
    """A pattern that matches siblings too is fine: table, note of the journal, exit code 0; options with `_` work."""
    code, out, err = nextbar("predict", *models.iterdir(), "--max_age_days", 99999)
    assert code == 0
    lines = sorted(" ".join(line.replace("│", " ").split()) for line in out.splitlines() if "AAA" in line)
    stems = sorted(path.name.removesuffix("_metadata.json") for path in models.glob("*_metadata.json"))
    assert [line.split()[:3] for line in lines] == [["AAA", stem, "2012-06-15"] for stem in stems]
    assert all(line.split()[-4] in ("long", "flat") for line in lines)
    assert "2 predictions noted in" in err


def test_json_and_csv_say_the_same(models: Path, nextbar: Any, tmp_path: Path) -> None:
    """One JSON document on standard output, a CSV with the same columns, ages in days among them."""
    (model,) = models.glob("*.pkl")
    code, out, err = nextbar("predict", model, "--max-age-days", 99999, "--json", "--out", tmp_path / "signals.csv")
    assert f"and written to {tmp_path / 'signals.csv'}" in err
    assert code == 0
    (told,) = json.loads(out)["predictions"]
    (row,) = pd.read_csv(tmp_path / "signals.csv").to_dict("records")
    assert list(row) == list(told)
    assert row["probability"] == told["probability"]
    assert row["bar_age_days"] == told["bar_age_days"] > 5000
    assert told["trained_to"] < told["date"]
    assert told["model_age_days"] > told["bar_age_days"]


def test_old_bars_end_with_2(models: Path, nextbar: Any) -> None:
    """Bars of 2012 are refused today, with what to do."""
    code, out, err = nextbar("predict", *models.glob("*.pkl"), "--ticker", "AAA")
    assert (code, out) == (2, "")
    assert "AAA: the last bar is of 2012-06-15" in err
    assert "--max-age-days" in err


def test_score_waits_and_then_tells(models: Path, nextbar: Any, tmp_path: Path) -> None:
    """Without a journal the exit code is 2; that the next bar is not there yet is no error, and said.

    A prediction that is made years after its bar never counts.
    """
    assert nextbar("score")[0] == 2
    append(journal_path(None), [])
    code, _, err = nextbar("score")
    assert (code, err) == (2, f"nextbar: {journal_path(None)} holds no prediction; make one: nextbar predict MODEL\n")
    nextbar("predict", *models.glob("*.pkl"), "--max-age-days", 99999)
    code, _, err = nextbar("score")
    assert (code, "1 late; one made after" in err) == (2, True)
    (made,) = read(journal_path(None))
    append(tmp_path / "in_time.db", [dataclasses.replace(made, made="2012-06-15T22:00:00+00:00")])
    told = "nothing is scored yet, because each prediction that can count waits for its next bar: 1 overdue "
    told += "(no bar came since 2012-06-15: AAA)\n"
    assert nextbar("score", "--journal", tmp_path / "in_time.db") == (0, "", told)
    code, out, err = nextbar("score", "--json", "--journal", tmp_path / "in_time.db")
    assert (code, err) == (0, told)
    counts = {"pending": 0, "overdue": 1, "late": 0, "repeated": 0, "lost": 0}
    assert json.loads(out) == {"models": {}, **counts, "no_bar_since": {"AAA": "2012-06-15"}}


@pytest.mark.parametrize("target", ["device", "journal"])
def test_a_file_that_cannot_be_written_costs_no_prediction(
    models: Path, nextbar: Any, tmp_path: Path, target: str
) -> None:
    """A device, and the journal itself, are refused before anything is shown or noted."""
    named = tmp_path / "journal.db" if target == "journal" else Path("/dev/null")
    for option, command in (
        ("--out", ("predict", *models.glob("*.pkl"), "--max-age-days", 99999)),
        ("--csv", ("journal",)),
    ):
        if option == "--csv":
            nextbar(*("predict", *models.glob("*.pkl"), "--max-age-days", 99999))
        code, out, err = nextbar(*command, option, named)
        assert (code, out, f"{option} {named}: " in err) == (2, "", True)
        assert journal_path(None).exists() == (option == "--csv")
    assert len(read(journal_path(None))) == 1


def test_score_prints_the_table_of_a_walk_forward(nextbar: Any, tmp_path: Path, market_db: Path) -> None:
    """A prediction that came true stands in the same table, with its baselines; --json holds the figures."""
    made = {"made": "2012-06-13T22:00:00+00:00", "ticker": "AAA", "date": "2012-06-13", "kind": "xgb", "model": "x"}
    rest = {"model_sha256": "", "model_made": made["made"], "close": 1.0, "probability": 0.6, "predicted_close": None}
    entry = Entry(**made, **rest, threshold=0.5, predicted_class=1, signal=1, majority=1, raw=False)
    journal = tmp_path / "j.db"
    append(journal, [entry, dataclasses.replace(entry, date="2012-06-14")])
    code, out, err = nextbar("score", "--journal", journal)
    assert code == 0
    for text in (
        "Out-of-sample days, net of costs, 261 a year",
        "one bar late",
        "always long",
        "majority class of train",
    ):
        assert text in out
    assert " 0 " not in err
    code, out, _ = nextbar("score", "--journal", journal, "--json", "--opens", "00:00", "--cost_bps", 0)
    figures = json.loads(out)
    assert figures["models"]["xgb"]["pooled"]["n"] == 2
    assert nextbar("score", "--journal", journal, "--opens", "noon")[0] == 2
    append(tmp_path / "late.db", [dataclasses.replace(entry, made="2012-06-20T22:00:00+00:00")])
    code, _, err = nextbar("score", "--journal", tmp_path / "late.db")
    assert code == 2
    assert ": 1 late; " in err
    assert "--opens 13:30 UTC) never counts" in err
