"""Small files such as people have, each of a kind that was once read wrongly, refused, or believed too easily."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from typer.testing import CliRunner

from nextbar.cli.ingest import app
from nextbar.cli.main import app_of, main
from nextbar.market.ingest import ingest
from nextbar.market.sources.columns import Hints
from nextbar.market.sources.files import read_files
from nextbar.types import Silent

read_csv = partial(read_files, kind="csv")

RUNNER = CliRunner()
NAMES = ("open", "high", "low", "close", "volume")
HEAD = "Date,Open,High,Low,Close,Adj Close,Volume\n"


def bars(count: int = 30, start: str = "2024-01-02", seed: int = 1, level: float = 100.0) -> list[list[Any]]:
    """Rows of day, four prices, adjusted close and volume."""
    rng = np.random.default_rng(seed)
    close = np.round(level * np.exp(np.cumsum(rng.normal(0, 0.01, count))), 2)
    days = pd.bdate_range(start, periods=count).strftime("%Y-%m-%d")
    return [
        [day, c, round(c * 1.01, 2), round(c * 0.99, 2), c, round(c * 0.97, 4), int(rng.integers(10**5, 10**6))]
        for day, c in zip(days, close, strict=True)
    ]


def text(rows: list[list[Any]], head: str = HEAD) -> str:
    return head + "".join(",".join(map(str, row)) + "\n" for row in rows)


ISO = text(bars())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def store(*arguments: str, kind: str = "csv") -> Result:
    return RUNNER.invoke(app, [kind, *arguments, "--db", "t.db"])


def stored(columns: str = "ticker, date, close", db: str = "t.db") -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(db)) as connection:
        return connection.execute(f"SELECT {columns} FROM stock_prices ORDER BY ticker, date").fetchall()


def say(result: Result) -> str:
    return " ".join((result.output + str(result.exception or "")).split())


# --- refused, named, kept -------------------------------------------------------------------------------------------


def test_an_adjusted_close_of_zero_is_a_missing_one(folder: Path) -> None:
    """Good prices are stored whose adj_close is 0 or "-" throughout, and a line says so; the odd zero is refused."""
    for name, value in (("AAA", "0"), ("BBB", "-")):
        (folder / f"{name}.csv").write_text(text([[*row[:5], value, row[6]] for row in bars()]))
    first, second = store("AAA.csv"), store("BBB.csv")
    assert "adj_close is 0 or the like on all bars of AAA: taken as missing" in say(first)
    assert "adj_close of 30 bars is missing, first '-'" in say(second)
    assert len(stored()) == 60
    (folder / "CCC.csv").write_text(text([[*row[:5], 0 if i == 4 else row[5], row[6]] for i, row in enumerate(bars())]))
    assert "adj_close <= 0: 1 row, first CCC.csv: 2024-01-08," in say(store("CCC.csv"))


def test_of_two_rows_of_a_day_the_larger_volume_is_kept_and_named(folder: Path) -> None:
    """The partial bar before the final one goes into the refused ones; rows that are alike go silently."""
    day = ["2024-02-13", 100.0, 103.9, 99.8, 103.7, 100.5]
    (folder / "AAA.csv").write_text(text([*bars(), [*day[:4], 100.5, 97.4, 41000], [*day, 812000], [*day, 812000]]))
    result = store("AAA.csv")
    assert result.exit_code == 0
    assert "rows that differ on 1 day" in say(result)
    assert "AAA 2024-02-13 (close 103.7)" in say(result)
    assert stored("close, volume")[-1] == (103.7, 812000)
    (rejects,) = folder.glob("t_rejects_*.csv")
    assert pd.read_csv(rejects)[["ticker", "file"]].to_numpy().tolist() == [["AAA", "AAA.csv"]]


HOURS = "Datetime,Open,High,Low,Close,Volume\n" + "".join(
    f"2024-03-{day} {hour:02d}:30:00-04:00,{day},{day + hour},{day - 1},{day + 0.5},10\n"
    for day in (20, 21, 22)
    for hour in range(9, 16)
)


def test_hours_are_no_days(folder: Path) -> None:
    """Bars of hours end in a sample; with --resample they make daily bars: first open, last close, sum of volume."""
    (folder / "AAA.csv").write_text(HOURS)
    assert "3 days have up to 7 rows each, 09:30 to 15:30" in say(store("AAA.csv"))
    result = store("AAA.csv", "--resample")
    assert result.exit_code == 0, say(result)
    assert stored("date, open, high, low, close, volume")[0] == ("2024-03-20", 20.0, 35.0, 19.0, 20.5, 70)
    columns = "Date,Time,Open,High,Low,Close,Volume\n"
    (folder / "BBB.csv").write_text(columns + HOURS.partition("\n")[2].replace(" ", ",").replace("-04:00", ""))
    assert "these are not daily bars" in say(store("BBB.csv"))


@pytest.mark.parametrize("clock", ["11:42:07-05:00", "11:42:07", "15:30", "16:42:07+00:00"])
def test_a_day_still_running_is_left_out(folder: Path, clock: str) -> None:
    """The one row with a time of day before the close is no day's bar; one after the close is."""
    (folder / "AAA.csv").write_text(ISO.replace("2024-02-12,", f"2024-02-12 {clock},"))
    assert "the day was not over: 1 row" in say(store("AAA.csv"))
    assert stored()[-1][1] == "2024-02-09"
    (folder / "AAA.csv").write_text(ISO.replace("2024-02-12,", "2024-02-12 16:00:02-05:00,"))
    store("AAA.csv")
    assert stored()[-1][1] == "2024-02-12"


def test_a_day_that_has_not_happened_is_refused(folder: Path) -> None:
    """Today before the close, days to come and days before 1800 are refused by name; the others are stored."""
    now = dt.datetime(2024, 2, 12, 18, tzinfo=dt.UTC)
    rows = [[day, 1, 1, 1, 1, 1, 1] for day in ("2024-02-20", "9999-12-31", "1677-09-21", "0001-01-01")]
    (folder / "AAA.csv").write_text(text([*bars(), *rows]))
    source = read_csv(folder / "AAA.csv", Silent(), Hints(), now)
    assert source.bars["date"].max() == "2024-02-09"
    reasons = source.refused["reason"].value_counts().to_dict()
    assert reasons == {"a day in the future": 2, "a day before 1800": 2, "a day that is not over": 1}
    later = read_csv(folder / "AAA.csv", Silent(), Hints(), now + dt.timedelta(hours=4))
    assert later.bars["date"].max() == "2024-02-12"


@pytest.mark.parametrize("column", ["Stock", "Index", "Code", "ts_code", "instrument", "security", "permno", "Kind of"])
def test_two_stocks_are_never_one_series(folder: Path, column: str) -> None:
    """A column of symbols makes dates that repeat two tickers, whatever its name."""
    both = sorted([*([*row, "IXA"] for row in bars()), *([*row, "IXB"] for row in bars(27, seed=2, level=40))])
    values = {"IXA": "10001", "IXB": "10002"} if column == "permno" else {}
    (folder / "prices.csv").write_text(
        text([[*row[:-1], values.get(row[-1], row[-1])] for row in both], HEAD.replace("\n", f",{column}\n"))
    )
    assert store("prices.csv").exit_code == 0
    assert [stored("ticker").count((values.get(name, name),)) for name in ("IXA", "IXB")] == [30, 27]


def test_where_nothing_tells_two_stocks_apart_the_user_is_asked(folder: Path) -> None:
    """Companies' names are no symbols, and without any column it cannot be told: the message names the option."""
    names = {0: "Alpha Works, Inc.", 1: "Beta Corp"}
    rows = [[*row[:-1], row[-1], f'"{names[i]}"'] for i in (0, 1) for row in bars(seed=i + 1, level=40 + 60 * i)]
    (folder / "prices.csv").write_text(text(rows, HEAD.replace("\n", ",Company\n")))
    told = say(store("prices.csv"))
    assert "which column is the ticker (Company may tell)? --ticker-column" in told
    (folder / "prices.csv").write_text(text([row[:-1] for row in rows]))
    assert "no column tells them apart" in say(store("prices.csv"))
    assert not (folder / "t.db").exists()


def test_series_of_a_stock_are_kept_apart(folder: Path) -> None:
    """EQ is the stock; BE and a bond of the same symbol are tickers of their own."""
    rows = [[*row, series] for series, seed in (("EQ", 1), ("BE", 2), ("N1", 3)) for row in bars(seed=seed)]
    (folder / "ITC.csv").write_text(text(rows, HEAD.replace("\n", ",Series\n")))
    result = store("ITC.csv")
    assert "series BE, N1 are separate tickers" in say(result)
    assert {ticker for ticker, _, _ in stored()} == {"ITC", "ITC-BE", "ITC-N1"}


def test_double_names_end_in_a_choice(folder: Path) -> None:
    """Columns of one name that differ are named with their positions, and a position chooses; alike ones are folded."""
    head, row = (
        "Date,Close,Close,High,High,Low,Low,Open,Open,Volume,Volume\n",
        "2020-01-01,10,20,11,21,9,19,10,20,100,200\n",
    )
    (folder / "X.csv").write_text(head + row)
    (folder / "Y.csv").write_text("Date,Close,Close.1,High,Low,Open\n2020-01-01,10,20,20,9,10\n")
    (folder / "Z.csv").write_text("Date,date,Open,High,Low,Close\n2020-01-01,2020-01-02,10,11,9,10\n")
    assert (
        "X.csv: several columns, which differ, for close, high, low, open, volume: Close (column 2), Close (column 3)"
        in say(store("X.csv"))
    )
    assert "Close (column 2), Close.1 (column 3)" in say(store("Y.csv"))
    assert "--columns date=1" in say(store("Z.csv"))
    assert store("X.csv", "--columns", "close=3,high=5,low=7,open=9,volume=11").exit_code == 0
    assert stored("close, volume") == [(20.0, 200)]
    (folder / "W.csv").write_text(head + "2020-01-01,10,10,11,11,9,9,10,10,100,100\n")
    assert store("W.csv").exit_code == 0


def test_a_wide_table_of_closes_is_explained(folder: Path) -> None:
    """Closes alone make no bars: the message says what is wanted."""
    (folder / "close.csv").write_text("Date,AAA,BBB\n2024-01-02,100.18,40.18\n")
    result = store("close.csv")
    assert "one column per ticker is not enough: nextbar needs open, high, low and close of each" in say(result)


@pytest.mark.parametrize(
    ("days", "told"),
    [
        (["01/02/2024", "02/02/2024", "03/02/2024"], r"two formats fit all days \(%d/%m/%Y and %m/%d/%Y\)"),
        (["15/01/2024", "01/16/2024", "17/01/2024"], "some days fit one format alone and some another"),
        (["Q1", "Q2", "Q3"], "bad date 'Q1' in column 'Date'"),
    ],
    ids=["ambiguous", "two formats", "none"],
)
def test_days_that_cannot_be_told_are_asked_for(folder: Path, days: list[str], told: str) -> None:
    """A sample, the formats that would fit and the option are named; the option decides."""
    rows = [[day, *row[1:]] for day, row in zip(days, bars(3), strict=True)]
    (folder / "AAA.csv").write_text(text(rows))
    result = store("AAA.csv")
    assert re.search(told, say(result))
    assert "--date-format" in say(result)
    if "two formats fit" in told:
        assert store("AAA.csv", "--date-format", "%d/%m/%Y").exit_code == 0
        assert [date for _, date, _ in stored()] == ["2024-02-01", "2024-02-02", "2024-02-03"]


EARLY = [f"2013-{month:02d}-{day:02d}" for month in (1, 2, 3) for day in range(1, 13)]


@pytest.mark.parametrize("impossible", ["2013-02-30", "2013-13-05", "2013-00-10"])
@pytest.mark.parametrize(("mark", "time"), [("-", ""), ("/", ""), ("-", " 16:00:00")], ids=["iso", "slashes", "times"])
def test_an_impossible_day_does_not_change_how_the_others_are_read(
    folder: Path, impossible: str, mark: str, time: str
) -> None:
    """Days with the year first stay ISO 8601, even with no day above 12; the impossible one is refused by its line."""
    days = [day.replace("-", mark) + time for day in [*EARLY[:9], impossible, *EARLY[9:]]]
    days.insert(10, "")
    rows = [[day, *row[1:]] for day, row in zip(days, bars(len(days)), strict=True)]
    (folder / "AAA.csv").write_text(text(rows))
    result = store("AAA.csv")
    assert f"bad date: 2 rows, first AAA.csv: {days[9]}," in say(result)
    assert [day for _, day, _ in stored()] == EARLY


@pytest.mark.parametrize(
    ("impossible", "told"),
    [
        (["2022-13-01"], "bad date: 1 row, first AAA.csv: 2022-13-01,"),
        (["2022-13-01", "2022-14-01"], "bad date: 2 rows, first AAA.csv: 2022-13-01,"),
        (
            [f"2022-{month}-01" for month in range(13, 19)],
            "AAA.csv: two formats fit most days (%Y-%d-%m and %Y-%m-%d), such as '2022-13-01'; say which",
        ),
    ],
    ids=["one", "two", "many"],
)
def test_the_first_days_of_months_are_never_turned(folder: Path, impossible: list[str], told: str) -> None:
    """The first days of months would be days of January; an impossible one does not make them so."""
    days = [*(f"{year}-{month:02d}-01" for year in (2020, 2021, 2022) for month in range(1, 13)), *impossible]
    (folder / "AAA.csv").write_text(text([[day, *row[1:]] for day, row in zip(days, bars(len(days)), strict=True)]))
    assert told in say(store("AAA.csv"))
    if len(impossible) < 3:
        assert [day for _, day, _ in stored()] == days[:36]


@pytest.mark.parametrize(
    ("days", "told"),
    [
        (["01/13/2024", "01/16/2024", "01/17/2024"], "; without the option days are read as %m/%d/%Y"),
        (["01/02/2024", "02/02/2024", "03/02/2024"], "; two formats fit all days (%d/%m/%Y and %m/%d/%Y), such as"),
        (["01/13/2024", "01/14/2024", "2024-01-15"], "; some days fit one format alone and some another"),
        (["45292", "45293", "45294"], "; without the option days are read as serial numbers of a spreadsheet"),
        (["Q1", "Q2", "Q3"], ""),
    ],
    ids=["another", "ambiguous", "mixed", "numbers", "none"],
)
def test_a_format_that_does_not_fit_is_explained(folder: Path, days: list[str], told: str) -> None:
    """The format, the value with its file and line, and how the days would be read are named."""
    rows = [[day, *row[1:]] for day, row in zip(days, bars(3), strict=True)]
    (folder / "AAA.csv").write_text(text(rows, f'Prices of {days[0]}\n"odd\n{HEAD}'))
    result = store("AAA.csv", "--date-format", "%d.%m.%Y")
    value = f"AAA.csv: bad date {days[0]!r} in column 'Date', line 4, is not written as --date-format %d.%m.%Y"
    assert f"{value}{told}" in say(result)
    pd.DataFrame(rows, columns=HEAD.strip().split(",")).to_parquet("AAA.parquet")
    assert value.replace("csv", "parquet").replace("line 4", "row 1") in say(
        store("AAA.parquet", "--date-format", "%d.%m.%Y", kind="parquet")
    )


def test_days_before_months_are_still_found_by_their_number(folder: Path) -> None:
    """A column of year, day and month is read as one, an impossible day in it or not, and a mixture is refused."""
    days = [f"{day:%Y-%d-%m}" for day in pd.bdate_range("2013-01-01", periods=60)]
    for name, written in (("AAA", days), ("BBB", [*days, "2013-31-02"]), ("CCC", [*days[:30], "2013-03-28", *EARLY])):
        rows = [[day, *row[1:]] for day, row in zip(written, bars(len(written)), strict=True)]
        (folder / f"{name}.csv").write_text(text(rows))
    assert "days are %Y-%d-%m" in say(store("AAA.csv"))
    assert "bad date: 1 row, first BBB.csv: 2013-31-02" in say(store("BBB.csv"))
    assert "some days fit one format alone and some another" in say(store("CCC.csv"))
    assert {day for _, day, _ in stored()} == {f"{day:%Y-%m-%d}" for day in pd.bdate_range("2013-01-01", periods=60)}


def test_numbers_that_are_lost_are_counted(folder: Path) -> None:
    """A volume with separators or letters is a number; what is none is counted, a negative one refused."""
    for name, write in (("AAA", lambda v: f'"{v:,}"'), ("BBB", lambda v: f"{v / 1000:.2f}K")):
        (folder / f"{name}.csv").write_text(text([[*row[:6], write(row[6])] for row in bars()]))
        store(f"{name}.csv")
    first, second = (stored("ticker, volume")[i][1] for i in (0, 30))
    assert first == bars()[0][6]
    assert second == pytest.approx(first, abs=5)
    (folder / "CCC.csv").write_text(text([[*row[:6], "many"] for row in bars()]))
    assert "volume of 30 bars could not be read, first 'many'" in say(store("CCC.csv"))
    (folder / "DDD.csv").write_text(text([[*row[:6], -1 if i == 3 else 7] for i, row in enumerate(bars())]))
    assert "volume < 0: 1 row" in say(store("DDD.csv"))


def test_volume_is_optional(folder: Path) -> None:
    """An index without volume is stored, with a line about it."""
    (folder / "^IDX.csv").write_text(text([row[:6] for row in bars()], HEAD.replace(",Volume", "")))
    assert "note: no volume" in store("^IDX.csv").output
    assert set(stored("ticker, volume")) == {("^IDX", None)}


# --- one bad file or line does not stop the rest --------------------------------------------------------------------


def test_one_bad_file_does_not_stop_a_folder(folder: Path) -> None:
    """Folders are walked, dot files skipped, empty and foreign files left out with their reasons: exit code 1."""
    data = folder / "data"
    for name, content in {
        "AAA.csv": ISO,
        "more/deep/BBB.txt": ISO,
        "._AAA.csv": "\0\5\26Mac OS X",
        "CCC.csv": "",
        "symbols.csv": "Symbol,Security Name\nAAA,Alpha\n",
        "page.csv": "<!DOCTYPE html><html></html>",
        "notes.md": "nothing",
    }.items():
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_text(content)
    os.mkfifo(data / "pipe.csv")
    result = store("data")
    assert result.exit_code == 1
    for line in ("CCC.csv: empty", "symbols.csv: no column for date", "page.csv: a web page", "pipe.csv: a pipe"):
        assert f"left out: {line}" in say(result)
    assert "1 other file skipped: notes.md" in say(result)
    assert {ticker for ticker, _, _ in stored()} == {"AAA", "BBB"}
    assert isinstance(store("data/CCC.csv").exception, Exception)


def test_two_files_of_one_ticker_that_differ_are_left_out(folder: Path) -> None:
    """Which of two histories under one name is right is not guessed."""
    for place, level in (("a", 100.0), ("b", 50.0)):
        (folder / "d" / place).mkdir(parents=True)
        (folder / "d" / place / "AAA.csv").write_text(text(bars(level=level)))
    (folder / "d" / "BBB.csv").write_text(ISO)
    result = store("d")
    assert result.exit_code == 1
    assert "left out: AAA: 30 days have other prices in another file (a/AAA.csv, b/AAA.csv)" in say(result)
    assert {ticker for ticker, _, _ in stored()} == {"BBB"}


def test_ragged_lines_go_into_the_rejects(folder: Path) -> None:
    """A dividend row and a footer are refused alone; more than 5 % of such lines is exit code 1."""
    lines = ISO.splitlines()
    lines[6:6] = ["2024-01-09,0.24 Dividend"]
    (folder / "AAA.csv").write_text("\n".join([*lines, ""]))
    result = store("AAA.csv")
    assert result.exit_code == 0
    assert "2 cells, not 7: 1 row, first AAA.csv: 2024-01-09,0.24 Dividend" in say(result)
    assert len(stored()) == 30
    (folder / "BBB.csv").write_text("\n".join([*lines, "Downloaded from somewhere", "2024-03-01,,,,,,"]))
    assert store("BBB.csv").exit_code == 1
    rejected = pd.concat(map(pd.read_csv, sorted(folder.glob("t_rejects_*.csv"))))
    assert list(rejected) == ["ticker", "file", "reason", "line"]
    assert set(rejected["ticker"]) == {"AAA", "BBB"}


def test_a_formula_in_a_refused_line_is_text(folder: Path) -> None:
    """A spreadsheet must not run what a file holds."""
    (folder / "AAA.csv").write_text(ISO + "=cmd|' /C calc'!A0,1,1,1,1,1,1\n")
    store("AAA.csv")
    (rejects,) = folder.glob("t_rejects_*.csv")
    assert pd.read_csv(rejects)["line"][0].startswith("'=cmd")


# --- tickers --------------------------------------------------------------------------------------------------------


def test_the_ticker_can_be_named(folder: Path) -> None:
    """--ticker names the bars of a file; a name that cannot be a ticker is asked for; decorations of sites go."""
    for name in ("AAPL_daily", "NASDAQ_MSFT, 1D", "Some Company, Inc", "HistoricalQuotes"):
        (folder / f"{name}.csv").write_text(ISO)
    assert "ticker AAPL, from the file's name" in say(store("AAPL_daily.csv"))
    assert "ticker MSFT, from the file's name" in say(store("NASDAQ_MSFT, 1D.csv"))
    assert "is not a ticker: --ticker" in say(store("Some Company, Inc.csv"))
    store("HistoricalQuotes.csv", "--ticker", "IBM")
    assert {ticker for ticker, _, _ in stored()} == {"AAPL", "MSFT", "IBM"}


def test_a_company_is_no_ticker(folder: Path) -> None:
    """A column Name is the ticker only where it holds symbols."""
    rows = [[*row, '"Alpha Works, Inc."'] for row in bars()]
    (folder / "AW.csv").write_text(text(rows, HEAD.replace("\n", ",Name\n")))
    (folder / "all.csv").write_text(text([[*row, "XYZ"] for row in bars()], HEAD.replace("\n", ",Name\n")))
    assert "ignored columns: Name" in say(store("AW.csv"))
    assert "the ticker is 'Name' (--ticker-column)" in say(store("all.csv"))
    assert {ticker for ticker, _, _ in stored()} == {"AW", "XYZ"}


@pytest.mark.parametrize(
    "ticker", ["NA", "TRUE", "NULL", "ON", "ALL", "000001", "0700.HK", "BRK.B", "^GSPC", "BTC-USD", "EURUSD=X"]
)
def test_odd_tickers_stay_as_they_are(folder: Path, ticker: str) -> None:
    """No value is read as missing, true or a number."""
    (folder / "x.csv").write_text(text([[ticker, *row] for row in bars()], f"Ticker,{HEAD}"))
    store("x.csv")
    assert {name for name, _, _ in stored()} == {ticker}


def test_tickers_that_cannot_be_asked_for_are_refused(folder: Path) -> None:
    """300 letters, a comma or an escape sequence are no ticker, and reach no terminal."""
    rows = [[ticker, *bars(1)[0]] for ticker in ("A" * 300, '"A,B"', "\x1b[31mRED", "AAA")]
    (folder / "x.csv").write_text(text(rows, f"Ticker,{HEAD}"))
    result = store("x.csv")
    assert result.exit_code == 1
    assert "not a ticker: longer than 64, or with a comma or a control character: 3 rows" in say(result)
    assert "\x1b[31m" not in result.output
    assert {ticker for ticker, _, _ in stored()} == {"AAA"}


def test_a_ticker_named_all_can_be_asked_for(folder: Path) -> None:
    """``ALL,`` is the symbol, ALL is all; the help of the option says so."""
    for name in ("AAA", "ALL"):
        (folder / f"{name}.csv").write_text(ISO)
        store(f"{name}.csv")
    found = RUNNER.invoke(app_of("check"), ["--ticker", "ALL,", "--db", "t.db", "--json"])
    assert {item["ticker"] for item in json.loads(found.stdout)["findings"]} <= {"ALL"}
    assert "ALL," in " ".join(RUNNER.invoke(app_of("check"), ["--help"]).output.split())


# --- restated histories ---------------------------------------------------------------------------------------------


def later(factor: float, volume: float = 1.0) -> str:
    rows = [[row[0], *(round(x * factor, 5) for x in row[1:5]), int(row[6] * volume)] for row in bars()]
    last = rows[-1]
    return text([*rows, ["2024-02-13", *last[1:]]], "Date,Open,High,Low,Close,Volume\n")


@pytest.mark.parametrize(("factor", "volume"), [(0.9985, 1.0), (0.985, 1.0), (0.5, 1.0), (0.5, 2.0), (10.0, 0.1)])
def test_a_restated_history_is_brought_to_the_stored_scale(folder: Path, factor: float, volume: float) -> None:
    """All common days differ by one factor: new bars continue the stored ones, and nothing is said to differ."""
    (folder / "AAA.csv").write_text(text([[*row[:5], row[6]] for row in bars()], "Date,Open,High,Low,Close,Volume\n"))
    store("AAA.csv")
    before = stored("close, volume")
    (folder / "AAA.csv").write_text(later(factor, volume))
    result = store("AAA.csv")
    assert f"AAA × {1 / factor:.6g}" in say(result)
    assert "stored with other values" not in result.output
    after = stored("close, volume")
    assert after[:30] == before
    assert after[30] == pytest.approx(before[29], rel=1e-4 if volume < 1 else 1e-6)


def test_a_history_that_is_restated_in_parts_is_refused(folder: Path) -> None:
    """Several factors: the scale of a new bar is not known, so the ticker is left out with exit code 1."""
    (folder / "AAA.csv").write_text(text([[*row[:5], row[6]] for row in bars()], "Date,Open,High,Low,Close,Volume\n"))
    store("AAA.csv")
    lines, half = later(1.0).splitlines(), later(0.5).splitlines()
    (folder / "AAA.csv").write_text("\n".join([*half[:20], *lines[20:]]))
    result = store("AAA.csv")
    assert result.exit_code == 1
    assert "left out: AAA: stored days differ by a factor, but not all 30 by the same one" in say(result)
    assert len(stored()) == 30
    (folder / "AAA.csv").write_text("\n".join([half[0], *half[-2:]]))
    assert "but not all 1 by the same one" in say(store("AAA.csv"))
    assert len(stored()) == 30


# --- what check sees ------------------------------------------------------------------------------------------------


def findings(*arguments: str) -> dict[str, tuple[str, str]]:
    answer = RUNNER.invoke(app_of("check"), ["--db", "t.db", "--json", *arguments])
    return {item["rule"]: (item["severity"], item["detail"]) for item in json.loads(answer.stdout)["findings"]}


def moved(factor: float, adjusted: float | None = None, at: int = 15, *, adj: bool = True) -> str:
    """Bars whose prices move by a factor at a row, and their adjusted closes by another."""
    rows = [
        [
            row[0],
            *(x * (factor if i >= at else 1) for x in row[1:5]),
            row[5] * ((adjusted or factor) if i >= at else 1),
            row[6],
        ]
        for i, row in enumerate(bars(40))
    ]
    return text(rows) if adj else text([[*row[:5], row[6]] for row in rows], HEAD.replace(",Adj Close", ""))


def every(step: str) -> str:
    """Bars at other distances than working days."""
    days = pd.date_range("2020-01-03", periods=40, freq=step)
    return text([[str(day.date()), *row[1:]] for day, row in zip(days, bars(40), strict=True)])


SWAPPED = text([[f"2024-{m:02d}-{d:02d}", *bars(1)[0][1:]] for m in (1, 2, 3) for d in range(1, 13)])
SHIFTED = text([[str(pd.Timestamp(row[0]).date() - dt.timedelta(days=1)), *row[1:]] for row in bars()])


@pytest.mark.parametrize(
    ("content", "rule", "severity", "detail"),
    [
        (moved(0.073, adj=False), "unapplied split", "error", "× 0.07"),
        (moved(446_600.0, adj=False), "jump", "error", "in a day"),
        (moved(446_600.0), "jump", "error", "in adj_close too"),
        (moved(3.72, adj=False), "jump", "warning", "in a day"),
        (moved(0.626, 1.526), "broken adjustment", "warning", "close × 0.6"),
        (moved(1.0, 6e23), "broken adjustment", "error", "adj_close × 6"),
        (moved(1.0, 6e23, at=0), "broken adjustment", "error", "e+23 × close on 40 bars"),
        (text([*bars(20), *bars(10, "2024-03-05")]), "", "", ""),
        (SWAPPED, "swapped days", "warning", "12th"),
        (every("W-FRI"), "spacing of bars", "warning", "52 bars a year: weekly"),
        (every("MS"), "spacing of bars", "warning", "12 bars a year: monthly"),
        (every("D"), "spacing of bars", "info", "seven days a week"),
        (SHIFTED, "not a session", "warning", "shifted by a day?"),
    ],
    ids=[
        "split and bonus", "absurd", "absurd in both", "odd factor", "apart", "one level", "all levels", "clean",
        "swapped", "weekly", "monthly", "seven days", "shifted",
    ],
)  # fmt: skip
def test_check_sees_what_is_wrong(folder: Path, content: str, rule: str, severity: str, detail: str) -> None:
    """Each fault has its rule, its severity and the figures of what moved."""
    (folder / "AAA.csv").write_text(content)
    store("AAA.csv")
    found = findings()
    if not rule:
        assert not {"jump", "broken adjustment", "swapped days", "spacing of bars"} & set(found)
        return
    assert found[rule][0] == severity, found
    assert detail in found[rule][1]
    if rule in ("spacing of bars", "swapped days", "not a session"):
        assert f"note: {rule}: AAA: " in say(store("AAA.csv"))
    if severity == "warning" and rule == "spacing of bars":
        assert "missing sessions" not in found


def test_a_subtracted_dividend_is_named(folder: Path) -> None:
    """An adjusted close near zero, made by subtracting, is no unapplied split."""
    rows = [[*row[:5], round(row[4] - 99.0, 4), row[6]] for row in bars(40)]
    (folder / "AAA.csv").write_text(text([row for row in rows if row[5] > 0.05]))
    store("AAA.csv")
    found = findings()
    assert "unapplied split" not in found
    assert "dividends were subtracted" in found["broken adjustment"][1]


@pytest.mark.parametrize("day", ["9999-12-31", "2262-04-11", "1677-09-21", "0001-01-01"])
def test_an_impossible_day_in_a_database_is_a_finding(folder: Path, day: str) -> None:
    """It was stored by an older version: it is read, named, and stops nothing."""
    (folder / "AAA.csv").write_text(ISO)
    store("AAA.csv")
    with closing(sqlite3.connect("t.db")) as connection:
        connection.execute("UPDATE stock_prices SET date = ? WHERE date = '2024-01-10'", (day,))
        connection.commit()
    assert findings()["impossible day"] == ("error", "1 bar")
    assert "unchanged" in store("AAA.csv").output


# --- looking first, and the edges -----------------------------------------------------------------------------------


def test_a_dry_run_says_what_it_understood_and_stores_nothing(folder: Path) -> None:
    """Columns, days, tickers, guesses and refused rows are shown, on the screen and as JSON."""
    (folder / "AAA.csv").write_text(ISO.replace(",", ";").replace(".", ",") + "x;1;1;1;1;1;1\n")
    result = store("AAA.csv", "--dry-run")
    for part in (
        "close = Close", "days: 2024-01-02 to 2024-02-12, written as %Y-%m-%d", "tickers: 1 (AAA)", "decimal comma",
        "columns between semicolons", "bad date: 1 row, first AAA.csv: x,1", "nothing was stored",
    ):  # fmt: skip
        assert part in say(result), part
    assert not (folder / "t.db").exists()
    answer = json.loads(store("AAA.csv", "--dry-run", "--json").stdout)
    assert answer["tickers"] == {"AAA": 30}
    assert answer["stored"] == 0


def test_every_guess_has_an_option(folder: Path) -> None:
    """Names, days, numbers and separators that only the user knows are read as he says."""
    rows = [[row[0].replace("-", "~"), *row[1:]] for row in bars()]
    lines = [line.replace(",", "|", 6) for line in text(rows, "wann,auf,oben,unten,zu,x,menge\n").splitlines()]
    (folder / "AAA.csv").write_text("\n".join(line.replace(".", ",") for line in lines))
    options = ("--columns", "open=auf,high=oben,low=unten,close=zu,volume=menge", "--date-column", "wann")
    result = store(
        "AAA.csv", *options, "--date-format", "%Y~%m~%d", "--decimal", ",", "--separator", "pipe", "--ticker", "Q"
    )
    assert result.exit_code == 0, say(result)
    assert [row[4] for row in bars()] == [close for _, _, close in stored()]
    assert "--columns: no" not in say(result)
    assert "is not a column of a bar" in say(store("AAA.csv", "--columns", "price=zu"))
    assert "a column is named more than once" in say(store("AAA.csv", "--columns", "close=a,close=b"))
    assert "found wann, auf" in say(store("AAA.csv", "--columns", "close=Price"))
    assert "x, menge; nearest: unten" in say(store("AAA.csv", "--columns", "low=untn"))


def test_escape_sequences_of_a_file_do_not_reach_the_terminal(folder: Path) -> None:
    """Names of files and columns, and cells, are printed escaped."""
    (folder / "A\x1b[31mA.csv").write_text("Da\x1b[32mte,Open,High\n1,2,3\n")
    (folder / "B.csv").write_text(ISO + "\x1b[33mno day,1,1,1,1,1,1\n")
    for name in ("A\x1b[31mA.csv", "B.csv"):
        assert "\x1b" not in say(store(name))


def test_a_pipe_is_not_waited_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A FIFO is named for what it is, with exit code 2."""
    os.mkfifo(folder / "pipe.csv")
    with pytest.raises(SystemExit) as stopped:
        main(["ingest", "csv", "pipe.csv", "--db", "t.db"])
    assert stopped.value.code == 2
    assert "pipe.csv: a pipe, not a file" in capsys.readouterr().err


def test_reading_twice_stores_nothing_twice(folder: Path) -> None:
    """The same source in another shape is unchanged."""
    (folder / "AAA.csv").write_text(ISO)
    first = ingest(read_csv(folder / "AAA.csv", Silent()), "t.db", progress=Silent())
    (folder / "AAA.csv").write_text(ISO.replace(",", ";").replace(".", ","))
    second = ingest(read_csv(folder / "AAA.csv", Silent()), "t.db", progress=Silent())
    assert (first.total.new, second.total.new, second.total.unchanged) == (30, 0, 30)
