"""Bad input: each case has its message, exit code 2, and leaves nothing behind."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

pytestmark = pytest.mark.usefixtures("inline_module")
Run = Callable[..., tuple[int, str, str]]
SMALL = ("--no-tune", "--warmup", "60")


@pytest.fixture
def run(command_line: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command line in an empty folder; gives exit code, standard output and standard error on one line."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")

    def call(*arguments: Any) -> tuple[int, str, str]:
        code, out, err = command_line(*arguments)
        return code, out, " ".join(err.split())

    return call


@pytest.fixture
def one(make_bars, make_database, tmp_path) -> Callable[..., Path]:
    """A database with one ticker ONE whose bars a function has spoiled."""

    def build(spoil: Callable[[pd.DataFrame], pd.DataFrame], count: int = 300) -> Path:
        return make_database(tmp_path / "one.db", {"ONE": spoil(make_bars(count))})

    return build


COMMANDS = [("train", "rf"), ("train", "xgb"), ("train", "lstm"), ("walkforward", "--model", "rf")]


@pytest.mark.parametrize("command", COMMANDS)
def test_missing_database(run, command):
    """A database that is not there is named with the command that makes one; it is not created."""
    code, out, err = run(*command, "--db", "no/such.db")
    assert (code, out) == (2, "")
    assert err == "nextbar: there is no database no/such.db; create it with: nextbar ingest sample --db no/such.db"
    assert not Path("no").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_unknown_ticker(run, market_db, command):
    """A ticker that the database does not hold is named with the nearest that it does."""
    code, out, err = run(*command, "--db", market_db, "--ticker", "AAAA,BBB")
    assert (code, out) == (2, "")
    assert "no bars of AAAA (nearest: AAA" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("command", COMMANDS)
def test_empty_database(run, make_database, tmp_path, command):
    """Two empty tables, and a file of no bytes, are answered with the command that fills them."""
    db = make_database(tmp_path / "none.db", {})
    code, out, err = run(*command, "--db", db)
    assert (code, out) == (2, "")
    assert err == f"nextbar: {db} holds no ticker; fill it with: nextbar ingest sample --db {db}"
    Path("zero.db").touch()
    assert run(*command, "--db", "zero.db")[2].startswith("nextbar: zero.db is an empty file; fill it with")


def test_missing_table(run, tmp_path):
    """A database with other tables says which it has and which it needs; a file that is no database says so."""
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE songs (name TEXT)")
    connection.close()
    code, _, err = run("train", "rf", "--db", tmp_path / "other.db")
    assert code == 2
    assert "has no table tickers, only songs; expected tickers and stock_prices" in err
    Path("text.db").write_text("date,open\n")
    assert "text.db is not an SQLite database" in run("train", "rf", "--db", "text.db")[2]


@pytest.mark.parametrize("command", COMMANDS)
def test_three_bars(run, one, command):
    """Three bars are too few: the message says how many there are and how many are needed."""
    code, out, err = run(*command, "--db", one(lambda bars: bars, count=3))
    assert (code, out) == (2, "")
    pattern = r"(ONE: 3 bars, training needs \d+|the bars go from 2010-01-04 to 2010-01-06; a fold needs)"
    assert re.search(pattern, err)


def spoil_all(column: str, value: float) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda bars: bars.assign(**{column: value})


@pytest.mark.parametrize("command", [("train", "rf"), ("walkforward", "--model", "xgb")])
@pytest.mark.parametrize(("column", "value"), [("Close", np.nan), ("Open", -3.0), ("Low", 0.0)])
def test_no_usable_bar(run, one, command, column, value):
    """A ticker all of whose bars are NaN, negative or zero is refused with the count."""
    code, _, err = run(*command, "--db", one(spoil_all(column, value)), *SMALL)
    assert code == 2
    assert "no ticker can be used: ONE: none of 300 bars has four positive prices" in err


def test_some_bad_bars_are_left_out(run, one):
    """A few NaN and negative bars are left out and counted in the metadata; the others train."""

    def spoil(bars: pd.DataFrame) -> pd.DataFrame:
        bars.iloc[10, 3], bars.iloc[70, 0], bars.iloc[200, 2] = np.nan, -1.0, 0.0
        return bars

    code, out, err = run("train", "xgb", "--db", one(spoil), *SMALL, "--json")
    assert code == 0, err
    assert '"dropped": 3' in next(Path("models").glob("*_metadata.json")).read_text()
    assert '"ONE"' in out


@pytest.mark.parametrize("command", [("train", "rf"), ("walkforward", "--model", "rf")])
def test_duplicate_dates(run, one, command):
    """A foreign table without a unique key whose dates repeat is refused with the first such day."""
    db = one(lambda bars: pd.concat([bars, bars.iloc[[5, 9]]]))
    code, _, err = run(*command, "--db", db, *SMALL)
    assert code == 2
    assert "ONE: 2 dates occur twice, the first 2010-01-11; keep one bar per day and ticker" in err


@pytest.mark.parametrize(("command", "option"), [(("train", "rf"), "--save_dir"), (("walkforward",), "--output-dir")])
def test_unwritable_folder(run, market_db, command, option):
    """A folder that cannot be made is found out before anything is read or trained."""
    Path("file").touch()
    code, out, err = run(*command, "--db", market_db, option, "file/models")
    assert (code, out) == (2, "")
    assert (
        err
        == "nextbar: file/models: cannot write there (Not a directory); name another folder or change its permissions"
    )


BAD_VALUES = [
    (("train", "rf", "--train_split", "1.5"), "--train-split expects at most 0.99, got 1.5"),
    (("train", "rf", "--train_split", "0"), "--train-split expects more than 0, got 0"),
    (("train", "rf", "--val-split", "0.95"), "--val-split expects at most 0.9"),
    (("train", "rf", "--threshold", "best"), "--threshold expects sharpe, balanced_accuracy or a number between 0 and"),
    (("train", "xgb", "--threshold", "1"), "a number between 0 and 1, got '1'"),
    (("train", "xgb", "--threshold", "0.0"), "a number between 0 and 1, got '0.0'"),
    (("train", "xgb", "--threshold=-0.2"), "a number between 0 and 1, got '-0.2'"),
    (("walkforward", "--threshold", "nan"), "a number between 0 and 1, got 'nan'"),
    (("train", "rf", "--train-split", "nan"), "--train-split expects a finite number, got nan"),
    (("train", "rf", "--cost-bps", "inf"), "--cost-bps expects a finite number"),
    (("train", "rf", "--cost_bps", "-1"), "--cost-bps expects at least 0"),
    (("train", "rf", "--seed", "-1"), "--seed expects at least 0, got -1"),
    (("train", "rf", "--warmup", "10"), "--warmup expects at least 50"),
    (("train", "rf", "--n-iter", "0"), "--n-iter expects at least 1"),
    (("train", "rf", "--cv-splits", "1"), "--cv-splits expects at least 2"),
    (("train", "rf", "--jobs", "0"), "--jobs expects at least 1"),
    (("train", "rf", "--engine", "spark"), "--engine expects one of"),
    (("train", "rf", "--split-by", "year"), "--split-by expects one of ticker, date, got 'year'"),
    (("train", "rf", "--start", "1.2.2020"), "--start expects a day as YYYY-MM-DD, got '1.2.2020'"),
    (("train", "rf", "--start", "2020-01-02", "--end", "2020-01-01"), "--start 2020-01-02 is not before --end"),
    (("train", "rf", "--features-only"), "--features-only needs --features module:function"),
    (("train", "rf", "--ticker", " , "), "--ticker expects a symbol"),
    (("train", "lstm", "--batch_size", "0"), "--batch-size expects at least 1"),
    (("train", "lstm", "--sequence_length", "1"), "--sequence-length expects at least 2"),
    (("train", "lstm", "--scaler-fit", "all"), "--scaler-fit expects one of train, partition"),
    (("walkforward", "--step-months", "2"), "--step-months 2 is shorter than --test-months 3"),
    (
        ("walkforward", "--model", "arima"),
        "--model expects one of lstm, rf, xgb, all, or a function of yours as module:factory; got 'arima'",
    ),
    (("walkforward", "--tune", "often"), "--tune expects one of each, first, none"),
    (("train", "rf", "--seed", "x"), "nextbar: --seed expects a whole number, got 'x'"),
    (("train", "lstm", "--epochs", "1.5"), "nextbar: --epochs expects a whole number, got '1.5'"),
    (("walkforward", "--cost_bps=abc"), "nextbar: --cost-bps expects a number, got 'abc'"),
    (("check", "--calendar", "XNYS", "--jobs", "1e3"), "No such option: --jobs"),
    (("train", "rf", "--no-such"), "No such option: --no-such "),
    (("train", "xgb", "--tickr", "AAPL"), "No such option: --tickr; nearest: --ticker "),
    (("train", "xgb", "--trian_split=0.8"), "No such option: --trian-split; nearest: --train-split "),
    (("train", "xgb", "--output-dir", "x"), "No such option: --output-dir; this command writes into --save-dir "),
    (("walkforward", "--save_dir", "x"), "No such option: --save-dir; this command writes into --output-dir "),
    (("train", "xgb", "--test-months", "3"), "No such option: --test-months; it is an option of walkforward "),
    (("walkforward", "--train-split", "0.5"), "No such option: --train-split; it is an option of train "),
    (("train", "rf", "--epochs", "5"), "No such option: --epochs; it is an option of lstm "),
    (("certify", "lstm", "--tune", "each"), "No such option: --tune; it is an option of rf and xgb "),
    (("train", "rf", "--features", "relativ"), "got 'relativ'; nearest: relative"),
    (("walkforward", "--model", "xbg"), "as module:factory; got 'xbg'; nearest: xgb"),
    (("train", "estimator", "--model", "xbg"), "got 'xbg'; nearest: xgb"),
    (("walkforward", "--engine", "lokey"), "--engine expects one of loky, serial, dask, got 'lokey'; nearest: loky"),
    (("ingest", "csv", "bars.csv", "--columns", "clos=Price"), "adj_close, volume; nearest: close"),
    (("train", "rf", "--start", "2024-01-44"), "got '2024-01-44', a day that the calendar does not have"),
    (("train", "rf", "--ticker", "AAA", "--ticker=BBB"), "--ticker is given more than once and takes one value"),
    (("ingest", "csv", "bars.csv", "--db", "a.db", "--db", "b.db"), "--db is given more than once"),
    (("train", "rf", "--cost_bps", "5", "--cost-bps=7"), "--cost-bps is given more than once"),
    (("trian",), "No such command 'trian'; nearest: train"),
    (("--verson",), "No such option: --verson; nearest: --version"),
    (("train", "xbg"), "No such command 'xbg'; nearest: xgb"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_VALUES, ids=[" ".join(case[0]) for case in BAD_VALUES])
def test_bad_option_values(run, market_db, arguments, message):
    """A value outside its limits is exit code 2, with the option, what it expects and what it got."""
    database = ("--db", market_db) if len(arguments) > 1 else ()
    code, out, err = run(*arguments, *database)
    assert (code, out) == (2, "")
    assert message in re.sub(r"[│╭╰─╮╯ ]+", " ", err)
    assert not list(Path.cwd().rglob("*.*"))


def test_a_wrong_value_of_a_variable_is_said(run, monkeypatch):
    """The variable is named, because no option stands on the command line."""
    monkeypatch.setenv("NEXTBAR_LOG_JSON", "maybe")
    assert run("runs") == (2, "", "nextbar: NEXTBAR_LOG_JSON expects 1 or 0, got 'maybe'")


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", "models/*.pkl"),
        ("predict", "mod*/production"),
        ("report", "runs/*"),
        ("report", "mod*/xgboost_AAA_20260102_030405_metadata.json"),
        ("compare", "run?.json", "run?.json"),
        ("certify", "xgb", "--artifact", "models/a?.json"),
        ("runs", "mod*"),
    ],
    ids=lambda arguments: "-".join(arguments[:2]),
)
def test_a_pattern_that_the_shell_has_left_is_refused(run, arguments):
    """Where paths of runs are expected, a pattern in quotes is called one, in the same line everywhere."""
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert f"nextbar: {arguments[-1]}: expected the name of a file or folder, got a pattern, which fits no file" in err


@pytest.mark.parametrize("place", ["127.0.0.1:1", "no-such-host.invalid"])
def test_a_server_that_cannot_be_reached_is_exit_code_3(run, place):
    """A database server that does not answer is a failure of the network, which another try may not meet."""
    pytest.importorskip("psycopg")
    code, out, err = run("check", "--db", f"postgresql+psycopg://me:secret@{place}/market")
    assert (code, out) == (3, "")
    assert place.partition(":")[0] in err
    assert "secret" not in err


def test_search_that_cannot_be_is_said(run, market_db):
    """More search folds than training days is a stated reason, not a crash."""
    code, _, err = run("train", "rf", "--db", market_db, "--ticker", "AAA", "--warmup", "60", "--cv-splits", "500")
    assert code == 2
    assert "days of train are too few for 500 search folds" in err


def test_errors_in_features_are_said(run, market_db):
    """A feature function that is not there is exit code 2 with where it was looked for."""
    code, _, err = run("train", "rf", "--db", market_db, "--ticker", "AAA", "--features", "no_such_mod:f", *SMALL)
    assert code == 2
    assert "no_such_mod:f" in err
    assert "looked for in" in err
