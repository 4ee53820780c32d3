"""Reading an SQLite file through ADBC: types from all rows, memory for no more rows than there are."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from nextbar.cli.main import main
from nextbar.market.bars import DataAccessLayer

ROWS = 3000
LIMITED = """
import resource
from nextbar.cli.main import main
resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}))
main({arguments!r})
"""


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """Twenty tickers in a table without types; adjusted closes and fractions come after thousands of rows only."""
    path = tmp_path / "foreign.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE tickers (ticker)")
        connection.execute("CREATE TABLE stock_prices (ticker, date, open, high, low, close, adj_close, volume)")
        connection.execute("CREATE INDEX keys ON stock_prices (ticker)")
        connection.executemany("INSERT INTO tickers VALUES (?)", [(f"T{number:02d}",) for number in range(20)])
        days = np.datetime64("2010-01-01") + np.arange(ROWS)
        first = [("T00", str(day), 1, 1, 1, 1, None, None) for day in days]
        first[-1] = ("T00", str(days[-1]), 1.5, 1.5, 1.5, 1.5, 1.25, 7)
        others = [(f"T{number:02d}", "2020-01-01", 2, 2, 2, 2.5, 2.5, 9) for number in range(1, 20)]
        connection.executemany("INSERT INTO stock_prices VALUES (?, ?, ?, ?, ?, ?, ?, ?)", first + others)
    connection.close()
    return path


@pytest.mark.parametrize("tickers", [["T00"], [f"T{number:02d}" for number in range(20)]], ids=["one", "all"])
def test_types_come_from_all_rows(foreign, monkeypatch, tickers):
    """Whole numbers and NULL in thousands of first rows keep nothing of what comes later from the fast way."""
    monkeypatch.setattr("nextbar.market.bars.fetch_rows", lambda *_, **__: pytest.fail("read row by row"))
    with DataAccessLayer(foreign, adjust=False) as access:
        frames = access.get_stock_prices(tickers)
    assert [len(frames[name]) for name in tickers] == [ROWS, *[1] * (len(tickers) - 1)]
    assert frames["T00"]["Close"].iloc[[0, -1]].tolist() == [1.0, 1.5]
    np.testing.assert_array_equal(frames["T00"]["Volume"].iloc[[0, -1]], [np.nan, 7.0])
    assert [frames[name]["Close"].tolist() for name in tickers[1:]] == [[2.5]] * (len(tickers) - 1)


@pytest.mark.parametrize(
    "command",
    [("check",), ("train", "xgb", "--no-tune", "--warmup", "60", "--engine", "serial", "--save_dir", "out")],
    ids=["check", "train"],
)
def test_commands_run_under_a_limit_of_address_space(command, market_db, tmp_path, child_env):
    """A limit as a batch system sets it (ulimit -v, 4 GiB) ends no command that reads bars."""
    pytest.importorskip("resource", reason="Windows has no such limit")
    code = LIMITED.format(limit=1 << 32, arguments=[*command, "--db", str(market_db), "--ticker", "BBB"])
    call = [sys.executable, "-P", "-c", code]
    done = subprocess.run(call, cwd=tmp_path, env=child_env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "nextbar: not enough memory (an allocation failed); "),
        (ImportError("libx.so: failed to map segment from shared object"), "not enough memory (libx.so: failed to map"),
    ],
    ids=["allocation", "library"],
)
def test_lack_of_memory_is_told_in_one_line(error, said, market_db, monkeypatch, capsys):
    """An allocation or a library that finds no room ends any command with a message and exit code 2, no traceback."""
    monkeypatch.setattr("nextbar.market.bars.fetch", Mock(side_effect=error))
    with pytest.raises(SystemExit) as stopped:
        main(["check", "--db", str(market_db)])
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert said in told
    assert "take fewer tickers at once or raise the limit (ulimit -v)" in told


def test_an_import_that_fails_otherwise_is_not_hidden(market_db, monkeypatch):
    """A missing module is no lack of memory."""
    monkeypatch.setattr("nextbar.market.bars.fetch", Mock(side_effect=ImportError("No module named 'x'")))
    with pytest.raises(ImportError, match="No module named"):
        main(["check", "--db", str(market_db)])


def test_too_little_memory_is_an_error(market_db, monkeypatch, capsys):
    """Memory is asked for before ADBC, which would crash without it; without it there is a message and exit code 2."""
    monkeypatch.setattr("nextbar.market.bars.SPARE_BYTES", 1 << 62)
    monkeypatch.setattr("nextbar.market.bars.BATCH_ROWS", "never reached")
    with pytest.raises(SystemExit) as stopped:
        main(["check", "--db", str(market_db)])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert "nextbar: not enough memory (Unable to allocate" in said
    assert "take fewer tickers at once or raise the limit (ulimit -v)" in said
