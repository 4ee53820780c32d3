from __future__ import annotations

import datetime as dt
import zipfile
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from nextbar.errors import BadBarsError, MissingExtraError
from nextbar.market.sources import sample
from nextbar.market.sources.columns import Hints, Table, find_columns
from nextbar.market.sources.files import read_files
from nextbar.types import Silent

read_csv = partial(read_files, kind="csv")
read_parquet = partial(read_files, kind="parquet")


def find(names: list[str]) -> dict[str, int]:
    frame = pd.DataFrame([[str(i) for i in range(len(names))]], dtype="str")
    return find_columns(Table(frame=frame, names=names), Hints(), "x")


EXPECTED = ["ticker", "date", "open", "high", "low", "close", "volume"]


@pytest.mark.parametrize(
    "header",
    [
        "Date,Open,High,Low,Close,Adj Close,Volume",
        "timestamp,open,high,low,close,adjusted_close,volume",
        "Symbol,Date,Open,High,Low,Close,Volume,Adj. Close",
        "date,open,high,low,close,volume,Name",
        "<TICKER>,<PER>,<DTYYYYMMDD>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>,<OPENINT>",
        "<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>,<OPENINT>",
        "datetime;AdjClose;VOL;O P E N;High;Low;Close",
    ],
)
def test_common_headers_are_understood(header: str) -> None:
    """Yahoo, Alpha Vantage, Quandl, Kaggle and Stooq headers give all columns."""
    columns = find(header.split(";" if ";" in header else ","))
    assert set(EXPECTED) - {"ticker"} <= set(columns)
    assert ("adj_close" in columns) == ("adj" in header.lower())
    assert len(set(columns.values())) == len(columns)


def test_the_better_spelling_wins() -> None:
    """A known spelling wins over a weaker one: Symbol over Name, Date over Time."""
    columns = find(["Name", "Symbol", "Time", "Date", "Open", "High", "Low", "Close", "Last", "Volume"])
    assert (columns["ticker"], columns["date"], columns["close"]) == (1, 3, 7)


def test_csv_keeps_odd_tickers_and_turns_bad_numbers_into_nan(tmp_path: Path) -> None:
    """TRUE, NA and 600000 stay tickers, 20240102 a day, and a text among numbers is refused alone later on."""
    path = tmp_path / "all.csv"
    path.write_text(
        "Ticker,Date,Open,High,Low,Close,Volume\n"
        "TRUE,20240102,1,2,1,2,5\nNA,20240102,1,2,1,oops,5\n600000,20240102,1,2,1,2,\n",
        encoding="utf-8-sig",
    )
    source = read_csv(path, Silent())
    assert source.bars["ticker"].tolist() == ["TRUE", "600000"]
    assert source.bars["date"].tolist() == ["2024-01-02"] * 2
    assert source.refused.to_numpy().tolist() == [
        ["NA", "all.csv", "close is not a number", "NA,20240102,1,2,1,oops,5"]
    ]


def test_a_folder_of_csv_files_takes_tickers_from_file_names(tmp_path: Path) -> None:
    """Each file is one ticker, other files are left alone, spellings may differ from file to file."""
    (tmp_path / "BRK.B.csv").write_text("Date,Open,High,Low,Close,Volume\n2024-01-02,1,2,1,2,5\n")
    (tmp_path / "^GSPC.txt").write_text("<DTYYYYMMDD>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>\n20240102,1,2,1,2,5\n")
    (tmp_path / "notes.md").write_text("no bars")
    source = read_csv(tmp_path, Silent())
    assert sorted(source.bars["ticker"]) == ["BRK.B", "^GSPC"]
    assert source.bars["date"].tolist() == ["2024-01-02"] * 2
    assert source.refused.empty


@pytest.mark.parametrize("kind", ["date", "timestamp", "text", "number", "index"])
def test_parquet_days_of_every_type(tmp_path: Path, kind: str) -> None:
    """Date, timestamp, text, number and pandas' index columns all give the same day."""
    day = {"date": dt.date(2024, 1, 2), "text": "2024-01-02", "number": 20240102}.get(kind, pd.Timestamp("2024-01-02"))
    frame = pd.DataFrame({"Date": [day], "Open": 1, "High": 2.0, "Low": 1, "Close": 2.0, "Volume": 5})
    (frame.set_index("Date") if kind == "index" else frame).to_parquet(tmp_path / "AAA.parquet")
    bars = read_parquet(tmp_path / "AAA.parquet", Silent()).bars
    assert bars.iloc[0].tolist() == ["AAA", "2024-01-02", 1.0, 2.0, 1.0, 2.0, 5.0]
    assert list(bars) == EXPECTED


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "x.csv",
            "Date,Open,Price\n2024-01-02,1,2\n",
            r"no column for high, low; found Date, Open, P",
        ),
        ("x.csv", "", r"x\.csv: empty"),
        ("x.csv", "Date,Open,High,Low,Close,Volume\n2024-01-02,1\n", r"x\.csv: no row below the header"),
        ("x.parquet", "no parquet", r"x\.parquet: no column for date"),
        ("x.parquet", "PAR1 damaged", r"x\.parquet: cannot be read: .*Parquet"),
        ("x.md", "", r"holds no file that ends in \.csv, \.txt"),
    ],
)
def test_unusable_sources_are_explained(tmp_path: Path, name: str, content: str, message: str) -> None:
    """The file is named with the columns found and expected, or the reader's complaint."""
    (tmp_path / name).write_text(content)
    read = read_parquet if name.endswith("parquet") else read_csv
    with pytest.raises(BadBarsError, match=message):
        read(tmp_path if name.endswith("md") else tmp_path / name, Silent())


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    """The path is named, and the nearest in its folder, if one is near."""
    with pytest.raises(BadBarsError, match=r"there is no file or folder .*gone\.csv \([^)]*\)$"):
        read_csv(tmp_path / "gone.csv", Silent())
    (tmp_path / "AAPL.csv").touch()
    with pytest.raises(BadBarsError, match=r"there is no file or folder .*aapl\.cvs .*; nearest: AAPL\.csv"):
        read_csv(tmp_path / "aapl.cvs", Silent())


def test_the_sample_is_real_and_clean() -> None:
    """Five stocks with adjusted closes come out of the installed package."""
    pytest.importorskip("bokeh_sampledata")
    bars = sample.read_sample().bars
    assert sorted(bars["ticker"].unique()) == list(sample.TICKERS)
    assert len(bars) > 12_000
    assert bars.notna().all(axis=None)


def test_without_its_package_the_sample_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to install."""
    monkeypatch.setattr(sample, "stocks", None)
    with pytest.raises(MissingExtraError, match=r"pip install '\.\[demo\]'"):
        sample.read_sample()


def test_a_place_that_may_not_be_looked_into_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may not look into a folder gets the reason in one line."""

    def forbidden(*_: object) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", forbidden)
    with pytest.raises(BadBarsError, match=r"there is no file or folder .*Permission denied"):
        read_csv(tmp_path, Silent())


HEAD = "Date,Open,High,Low,Close,Volume\n"


def folder(tmp_path: Path, **days: str) -> Path:
    for name, day in days.items():
        (tmp_path / f"{name}.csv").write_text(f"{HEAD}{day},1,2,1,2,5\n")
    return tmp_path


def test_a_file_with_ambiguous_days_is_left_out_alone(tmp_path: Path) -> None:
    """The others are read, and the file has its own reason."""
    mixed = "02-13-2025,1,2,1,2,5\n02-14-2025,1,2,1,2,5\n13-02-2025"
    source = read_csv(folder(tmp_path, AAA="13/01/2025", BBB=mixed, CCC="01-02-2025"), Silent())
    assert source.bars["ticker"].tolist() == ["AAA"]
    assert "some days fit one format alone and some another" in source.left_out["BBB.csv"]
    assert "two formats fit all days" in source.left_out["CCC.csv"]


@pytest.mark.parametrize(
    ("codes", "tickers"),
    [
        pytest.param([1234567.0, 1234568.0], ["1234567", "1234568"], id="whole"),
        pytest.param([600000.0, 10000000.0], ["600000", "10000000"], id="round"),
        pytest.param([1.2345671, 1.2345672], ["1.2345671", "1.2345672"], id="fraction"),
    ],
)
def test_tickers_that_are_numbers_keep_their_digits(tmp_path: Path, codes: list[float], tickers: list[str]) -> None:
    """Two numbers are two tickers, whatever their size."""
    frame = pd.DataFrame({"code": codes, "Date": "2024-01-02", "Open": 1.0, "High": 2.0, "Low": 1.0, "Close": 2.0})
    frame.to_parquet(tmp_path / "all.parquet")
    source = read_parquet(tmp_path / "all.parquet", Silent(), Hints(columns={"ticker": "code"}))
    assert sorted(source.bars["ticker"]) == sorted(tickers)


def test_days_of_six_digits_are_no_serial_numbers(tmp_path: Path) -> None:
    """A year of two digits before month and day is read as such, and a note says so."""
    days = pd.bdate_range("2002-01-02", periods=20)
    (tmp_path / "AAA.csv").write_text(HEAD + "".join(f"{day:%y%m%d},1,2,1,2,5\n" for day in days))
    source = read_csv(tmp_path / "AAA.csv", Silent())
    assert source.bars["date"].tolist() == days.strftime("%Y-%m-%d").tolist()
    assert "days are %y%m%d" in source.notes


@pytest.mark.parametrize("day", ["020102", "020304", "009999"])
def test_six_digits_that_fit_several_orders_are_refused(tmp_path: Path, day: str) -> None:
    """Nothing is taken for a day of 1955."""
    with pytest.raises(BadBarsError, match="date"):
        read_csv(folder(tmp_path, AAA=day) / "AAA.csv", Silent())


MIXED = (
    "Date,Open,High,Low,Close,Volume\n2024-01-02,1,1,1,1,9\n2024-01-03,1,1,1,1,9\n2024-01-04,1,1,1,1,9\n"
    "2024-01-05,1,1,1,1,9\n2024-01-08 10:00,1,1,1,1,5\n2024-01-08 11:00,2,3,2,2,50\n2024-01-08 15:00,3,3,3,3,5\n"
)
LAST = "2024-01-09 10:00,1,1,1,1,50\n2024-01-09 15:00,3,3,3,3,5\n"


@pytest.mark.parametrize("last", [LAST, "2024-01-09,1,1,1,1,9\n", ""], ids=["hours", "day", "none"])
def test_a_few_days_of_hours_are_resampled_or_refused(tmp_path: Path, last: str) -> None:
    """One such day among daily bars becomes a bar of all its hours where that is asked; no hour is chosen."""
    (tmp_path / "AAA.csv").write_text(MIXED + last)
    bars = read_csv(tmp_path / "AAA.csv", Silent(), Hints(resample=True)).bars
    assert len(bars) == 5 + bool(last)
    day = bars[bars["date"] == "2024-01-08"].iloc[0]
    assert day[["open", "high", "low", "close", "volume"]].tolist() == [1, 3, 1, 3, 60]


def test_hours_of_one_day_are_no_daily_bars(tmp_path: Path) -> None:
    """Without being asked, nothing chooses an hour."""
    (tmp_path / "AAA.csv").write_text(MIXED + "2024-01-09,1,1,1,1,9\n")
    with pytest.raises(BadBarsError, match=r"1 day has up to 3 rows each, 10:00 to 15:00 .*--resample"):
        read_csv(tmp_path / "AAA.csv", Silent())


LONG = 60_000


@pytest.mark.parametrize(
    ("header", "day", "price"),
    [
        pytest.param("(" * LONG, "2024-01-03", "1", id="header of brackets"),
        pytest.param("a" + "-" * LONG, "2024-01-03", "1", id="header of dashes"),
        pytest.param("(" + " " * LONG + "x", "2024-01-03", "1", id="header of spaces"),
        pytest.param("x", "2024-01-03 1:11" + " " * LONG + "x", "1", id="day of spaces"),
        pytest.param("x", "1" + "1," * 5 + "abc" * LONG, "1", id="day of letters"),
        pytest.param("x", "2024-01-03", "." * LONG, id="price of points"),
    ],
)
def test_long_texts_are_cut_before_a_pattern_sees_them(tmp_path: Path, header: str, day: str, price: str) -> None:
    """The good row is read; a row with a long day or price is refused."""
    line = f'"{day}",1,2,1,"{price}",5,0\n'
    (tmp_path / "AAA.csv").write_text(f"Date,Open,High,Low,Close,Volume,{header}\n2024-01-02,1,2,1,1,5,0\n{line}")
    source = read_csv(tmp_path / "AAA.csv", Silent())
    assert len(source.bars) + len(source.refused) == 2
    assert source.bars["date"].iloc[0] == "2024-01-02"
    assert len(source.refused) == (len(day) > LONG or len(price) >= LONG)


def test_a_long_name_of_a_member_is_no_ticker(tmp_path: Path) -> None:
    """A name of 60,000 characters in an archive is refused as a ticker."""
    with zipfile.ZipFile(tmp_path / "n.zip", "w") as archive:
        archive.writestr("-" * LONG + "x.csv", f"{HEAD}2024-01-02,1,2,1,2,5\n")
    with pytest.raises(BadBarsError, match="no column holds the ticker"):
        read_csv(tmp_path / "n.zip", Silent())
