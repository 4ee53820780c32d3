from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nextbar.cli.ingest import app
from nextbar.errors import BadBarsError, DatabaseError
from nextbar.market.bars import DataAccessLayer

HEADER = "ticker,date,open,high,low,close,volume\n"
RUNNER = CliRunner()


def write(path: Path, tickers: int = 1, close: float = 1.0) -> Path:
    rows = [f"T{i:02d},2024-01-02,{close},{close},{close},{close},1\n" for i in range(tickers)]
    path.write_text(HEADER + "".join(rows))
    return path


def test_csv_prints_counts_and_paths(tmp_path: Path) -> None:
    """Bars are stored, the totals and the files written are printed."""
    source = write(tmp_path / "x.csv", tickers=30)
    source.write_text(source.read_text() + "T00,2024-01-03,1,1,1,-1,1\n")
    result = RUNNER.invoke(app, ["csv", str(source), "--db", str(tmp_path / "m.db")])
    assert result.exit_code == 0, result.output
    assert "… and 10 more tickers" in result.output
    assert "30 tickers" in result.output
    assert "_rejects_" in result.output
    with DataAccessLayer(tmp_path / "m.db") as access:
        assert len(access.get_tickers()) == 30


def test_json_holds_every_ticker(tmp_path: Path) -> None:
    """One JSON document on standard output, and nothing else."""
    source = write(tmp_path / "x.csv", tickers=30)
    result = RUNNER.invoke(app, ["csv", str(source), "--db", str(tmp_path / "m.db"), "--json"])
    report = json.loads(result.stdout)
    assert report["total"] == {"new": 30, "unchanged": 0, "differs": 0, "revised": 0, "rejected": 0}
    assert len(report["tickers"]) == 30
    assert report["rejects"] is None


def test_nothing_valid_raises_for_exit_code_2(tmp_path: Path) -> None:
    """The error reaches the one place that turns it into exit code 2, and no database is made."""
    source = write(tmp_path / "x.csv", close=-1.0)
    result = RUNNER.invoke(app, ["csv", str(source), "--db", str(tmp_path / "m.db")])
    assert isinstance(result.exception, BadBarsError)
    assert not (tmp_path / "m.db").exists()


def test_sample_creates_the_folder(tmp_path: Path) -> None:
    """The first command of a new user works in an empty folder."""
    pytest.importorskip("bokeh_sampledata")
    result = RUNNER.invoke(app, ["sample", "--db", str(tmp_path / "data" / "market.db")])
    assert result.exit_code == 0, result.output
    assert "5 tickers" in result.output


def test_help_teaches() -> None:
    """The help holds examples and says that nothing stored is changed."""
    result = RUNNER.invoke(app, ["--help"])
    assert "nextbar ingest csv AAPL.csv" in result.output
    assert "No stored bar is changed unless you ask for it" in " ".join(result.output.split())


def test_bars_that_nothing_will_use_are_told(tmp_path: Path) -> None:
    """Bars without adj_close for a history that has it: the summary says where, how many and what to do."""
    db = str(tmp_path / "m.db")
    for days, adjusted in ((range(2, 6), "1"), (range(8, 10), "")):
        rows = [f"A,2024-01-{day:02d},1,1,1,1,1,{adjusted}\n" for day in days]
        source = tmp_path / "x.csv"
        source.write_text(HEADER.replace("\n", ",adj_close\n") + "".join(rows))
        result = RUNNER.invoke(app, ["csv", str(source), "--db", db])
        assert result.exit_code == 0, result.output
    line = "note: no adj_close, though the history has it: A from 2024-01-08 (2 bars); training and predictions leave"
    assert line in result.output
    assert "check: 1 error," in result.output


def test_a_damaged_run_does_not_hide_the_check(tmp_path: Path) -> None:
    """What is wrong with a run is a note; counts and check are printed all the same."""
    (tmp_path / "walkforward_rf_all_20260102_030405.json").write_text("{")
    for close in (1.0, 2.0):
        source = str(write(tmp_path / "x.csv", close=close))
        result = RUNNER.invoke(app, ["csv", source, "--db", str(tmp_path / "m.db"), "--models", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "is not usable JSON" in result.output
    assert "check: 0 errors" in result.output


def test_storing_and_checking_bars_needs_no_learning() -> None:
    """`nextbar ingest` and `nextbar check` import neither scikit-learn nor what computes, draws or asks Yahoo."""
    code = """
import sys, nextbar.cli.ingest, nextbar.cli.commands, nextbar.workflows.update
print(sorted({"sklearn", "scipy", "talib", "xgboost", "keras", "jax", "plotly", "arch", "yfinance"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_database_that_cannot_be_written_is_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No hour of reading, or of downloading, is lost to a permission; nothing is made."""
    source = write(tmp_path / "x.csv")
    monkeypatch.setattr("nextbar.cli.ingest.read_files", lambda *_: pytest.fail("read"))
    access = os.access
    monkeypatch.setattr("nextbar.runs.files.os.access", lambda path, mode: access(path, mode) and mode != os.W_OK)
    result = RUNNER.invoke(app, ["csv", str(source), "--db", str(tmp_path / "new" / "m.db")])
    assert isinstance(result.exception, DatabaseError)
    assert "m.db cannot be used (Permission denied); check path" in str(result.exception)
    result = RUNNER.invoke(app, ["csv", str(source), "--db", str(source / "m.db")])
    assert "m.db cannot be used (Not a directory)" in str(result.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv"]
