"""The shapes in which people have bars: each is written from the same bars and gives the same bars again."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather as pa_feather
import pyarrow.parquet as pa_parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextbar.market.sources.columns import Hints
from nextbar.market.sources.files import read_files
from nextbar.market.sources.reader import SourceBars
from nextbar.types import Silent

read_csv = partial(read_files, kind="csv")

DAYS = pd.bdate_range("2024-01-02", periods=30)
PRICES = ["Open", "High", "Low", "Close"]


def made(seed: int = 1, level: float = 100.0, days: pd.DatetimeIndex = DAYS) -> pd.DataFrame:
    """Bars with two decimals and whole volumes."""
    rng = np.random.default_rng(seed)
    close = np.round(level * np.exp(np.cumsum(rng.normal(0, 0.02, len(days)))), 2)
    opened = np.round(close * np.exp(rng.normal(0, 0.01, len(days))), 2)
    high, low = (np.round(f(opened, close) * x, 2) for f, x in ((np.maximum, 1.01), (np.minimum, 0.99)))
    volume = rng.integers(1_000_000, 90_000_000, len(days)).astype(float)
    columns = {"Open": opened, "High": high, "Low": low, "Close": close, "Volume": volume}
    return pd.DataFrame(columns, index=days.rename("Date"))


ONE = made()
TWO = {"AAA": ONE, "BBB": made(2, 1234.0, DAYS[4:])}
LONG = pd.concat([bars.reset_index().assign(Symbol=name) for name, bars in TWO.items()]).sort_values(["Date", "Symbol"])


def read(tmp_path: Path, name: str, content: str | bytes, **hints: object) -> SourceBars:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_csv(path, Silent(), Hints(**hints))  # type: ignore[arg-type]


def check(source: SourceBars, expected: dict[str, pd.DataFrame], *, volume: bool = True) -> None:
    assert source.refused.empty, source.refused.to_string()
    assert not source.left_out
    assert sorted(source.bars["ticker"].unique()) == sorted(expected)
    for ticker, bars in expected.items():
        own = source.bars[source.bars["ticker"] == ticker].sort_values("date")
        assert own["date"].tolist() == bars.index.strftime("%Y-%m-%d").tolist()
        for name in [*PRICES, *(["Volume"] if volume else [])]:
            np.testing.assert_allclose(own[name.lower()], bars[name], rtol=1e-12, err_msg=f"{ticker} {name}")


def rows(
    bars: pd.DataFrame, form: str = "%Y-%m-%d", pattern: str = "{d},{o:.2f},{h:.2f},{l:.2f},{c:.2f},{v:.0f}"
) -> str:
    """Write a line per bar."""
    values = zip(bars.index, *(bars[name] for name in (*PRICES, "Volume")), strict=True)
    lines = [pattern.format(d=day.strftime(form), t=day, o=o, h=h, l=low, c=c, v=v) for day, o, h, low, c, v in values]
    return "\n".join(lines) + "\n"


def grouped(mark: str, decimal: str) -> Callable[[float], str]:
    return lambda value: f"{value:,.2f}".replace(",", "_").replace(".", decimal).replace("_", mark)


def big(value: float) -> str:
    return f"{value / 1e6:.6f}M"


QUOTED = '{d},"{o:.2f}","{h:.2f}","{l:.2f}","{c:.2f}",{v:.0f}'
HEAD = "Date,Open,High,Low,Close,Volume\n"
ISO = HEAD + rows(ONE)
NASDAQ = "Date,Close/Last,Volume,Open,High,Low\n" + rows(
    ONE[::-1], "%m/%d/%Y", "{d},${c:.2f},{v:.0f},${o:.2f},${h:.2f},${l:.2f}"
)
INVESTING = '"Date","Price","Open","High","Low","Vol.","Change %"\n' + "".join(
    f'"{d:%m/%d/%Y}","{c:,.2f}","{o:,.2f}","{h:,.2f}","{low:,.2f}","{big(v)}","-0.15%"\n'
    for d, o, h, low, c, v in ONE[::-1].reset_index().itertuples(index=False)
)
INVESTING_DE = '"Datum";"Zuletzt";"Eröffn.";"Hoch";"Tief";"Vol.";"+/- %"\n' + "".join(
    f'"{d:%d.%m.%Y}";"{g(c)}";"{g(o)}";"{g(h)}";"{g(low)}";"{big(v).replace(".", ",")}";"-0,15%"\n'
    for g in [grouped(".", ",")]
    for d, o, h, low, c, v in TWO["BBB"].reset_index().itertuples(index=False)
)
STOOQ = "<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>,<OPENINT>\n" + rows(
    ONE, "%Y%m%d", "AAA,D,{d},000000,{o},{h},{l},{c},{v:.0f},0"
)
METATRADER_4 = rows(ONE, "%Y.%m.%d", "{d},00:00,{o},{h},{l},{c},{v:.0f}")
METATRADER_5 = "<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>\t<SPREAD>\n" + rows(
    ONE, "%Y.%m.%d", "{d}\t00:00:00\t{o}\t{h}\t{l}\t{c}\t{v:.0f}\t0\t1"
)
ALPHA_VANTAGE = ",1. open,2. high,3. low,4. close,5. volume\n" + rows(ONE)
ALPHA_CRYPTO = ",1a. open (USD),2a. high (USD),3a. low (USD),4a. close (USD),5. volume,6. market cap (USD)\n" + rows(
    ONE, pattern="{d},{o},{h},{l},{c},{v:.0f},1"
)
QUANTMOD = '"","AAA.Open","AAA.High","AAA.Low","AAA.Close","AAA.Volume","AAA.Adjusted"\n' + rows(
    ONE, pattern='"{d}",{o},{h},{l},{c},{v:.0f},{c}'
)
BHAVCOPY = (
    "SYMBOL,SERIES,OPEN,HIGH,LOW,CLOSE,LAST,PREVCLOSE,TOTTRDQTY,TOTTRDVAL,TIMESTAMP,TOTALTRADES,ISIN,\n"
    + "".join(
        rows(bars, "%d-%b-%Y", f"{name},EQ,{{o}},{{h}},{{l}},{{c}},{{c}},{{o}},{{v:.0f}},1.5,{{d}},7,INE,").upper()
        for name, bars in TWO.items()
    )
)
UDIFF = (
    "TradDt,BizDt,Sgmt,Src,FinInstrmTp,FinInstrmId,ISIN,TckrSymb,SctySrs,XpryDt,OpnPric,HghPric,LwPric,ClsPric,LastPric,"
    "PrvsClsgPric,TtlTradgVol,TtlTrfVal\n"
) + "".join(
    rows(bars, pattern=f"{{d}},{{d}},CM,NSE,STK,7,INE,{name},EQ,,{{o}},{{h}},{{l}},{{c}},{{c}},{{o}},{{v:.0f}},9")
    for name, bars in TWO.items()
)
CRYPTODATA = (
    "https://www.CryptoDataDownload.com\nunix,date,symbol,open,high,low,close,Volume BTC,Volume USD\n"
    + "".join(
        f"{int(d.timestamp())}000,{d:%Y-%m-%d 00:00:00},BTC/USD,{o},{h},{low},{c},{v},{v * c}\n"
        for d, o, h, low, c, v in ONE[::-1].reset_index().itertuples(index=False)
    )
)


def kline(unit: int) -> str:
    return "".join(
        f"{int(d.timestamp()) * unit},{o},{h},{low},{c},{v},{int(d.timestamp() + 86399) * unit},1.0,10,1.0,1.0,0\n"
        for d, o, h, low, c, v in ONE.reset_index().itertuples(index=False)
    )


def epochs(unit: float, form: str = "{:.0f}") -> str:
    return "time,open,high,low,close,Volume\n" + "".join(
        f"{form.format((d.timestamp() + 52_200) * unit)},{o},{h},{low},{c},{v}\n"
        for d, o, h, low, c, v in ONE.reset_index().itertuples(index=False)
    )


def yfinance(order: list[str], two: bool = True) -> str:
    parts = TWO if two else {"AAA": ONE}
    wide = pd.concat(parts, axis=1, names=["Ticker", "Price"])
    wide = wide.swaplevel(axis=1) if order == ["Price", "Ticker"] else wide
    return wide.sort_index(axis=1).to_csv()


ONE_FILE: dict[str, str | bytes] = {
    "iso": ISO,
    "crlf": ISO.replace("\n", "\r\n"),
    "old mac": ISO.replace("\n", "\r"),
    "bom": b"\xef\xbb\xbf" + ISO.encode(),
    "utf-16": ISO.encode("utf-16"),
    "utf-16 be": b"\xfe\xff" + ISO.encode("utf-16-be"),
    "empty lines": ISO.replace("\n", "\n\n"),
    "trailing commas": HEAD + rows(ONE).replace("\n", ",\n"),
    "blank columns": HEAD.replace("\n", ",,\n") + rows(ONE).replace("\n", ",,\n"),
    "spaces": ISO.replace(",", ", "),
    "quotes": "\n".join(",".join(f'"{cell}"' for cell in line.split(",")) for line in ISO.splitlines()),
    "newest first": HEAD + rows(ONE[::-1]),
    "header again": ISO + HEAD,
    "title": "AAA Inc. daily prices\nsource: an exchange\n\n" + ISO,
    "title and commas": "AAA Inc.,,,,,\n" + ISO,
    "excel's sep": "sep=;\n" + ISO.replace(",", ";"),
    "index": "," + HEAD + "".join(f"{i},{line}\n" for i, line in enumerate(rows(ONE).splitlines())),
    "index without a name": HEAD + "".join(f"{i},{line}\n" for i, line in enumerate(rows(ONE).splitlines())),
    "semicolons": ISO.replace(",", ";"),
    "tabs": ISO.replace(",", "\t"),
    "pipes": ISO.replace(",", "|"),
    "semicolons and decimal commas": ISO.replace(",", ";").replace(".", ","),
    "tabs and decimal commas": ISO.replace(",", "\t").replace(".", ","),
    "quoted decimal commas": HEAD + rows(ONE, pattern=QUOTED).replace(".", ","),
    "day first": HEAD + rows(ONE, "%d/%m/%Y"),
    "day first, dots": HEAD + rows(ONE, "%d.%m.%Y"),
    "month first": HEAD + rows(ONE, "%m/%d/%Y"),
    "month first, short": HEAD + rows(ONE, "%-m/%-d/%Y"),
    "month first, two digits": HEAD + rows(ONE, "%m/%d/%y"),
    "day first, two digits": HEAD + rows(ONE, "%d.%m.%y"),
    "year of two digits": HEAD + rows(ONE, "%y-%m-%d"),
    "slashes": HEAD + rows(ONE, "%Y/%m/%d"),
    "no zeros": HEAD + rows(ONE, "%Y-%-m-%-d"),
    "compact": HEAD + rows(ONE, "%Y%m%d"),
    "compact float": HEAD + rows(ONE, "%Y%m%d.0"),
    "named month": HEAD + rows(ONE, "%d-%b-%Y"),
    "named month, capitals": HEAD + rows(ONE, "%d-%b-%Y").upper(),
    "named month, two digits": HEAD + rows(ONE, "%d-%b-%y"),
    "named month first": HEAD + rows(ONE, '"%b %d, %Y"'),
    "whole month": HEAD + rows(ONE, '"%B %-d, %Y"'),
    "weekday": HEAD + rows(ONE, '"%a, %b %d, %Y"'),
    "midnights": HEAD + rows(ONE, "%Y-%m-%d 00:00:00"),
    "midnights in New York": HEAD + rows(ONE, "%Y-%m-%d 00:00:00-05:00"),
    "midnights in UTC": HEAD + rows(ONE, "%Y-%m-%dT00:00:00Z"),
    "closing times": HEAD + rows(ONE, "%Y-%m-%d 16:00"),
    "closing times in UTC": HEAD + rows(ONE, "%Y-%m-%dT21:00:00.000Z"),
    "am and pm": HEAD + rows(ONE, "%m/%d/%Y 4:00 PM"),
    "seconds": epochs(1),
    "milliseconds": epochs(1e3),
    "microseconds": epochs(1e6),
    "nanoseconds": epochs(1e9),
    "float seconds": epochs(1, "{:.1f}"),
    "klines ms": kline(1000),
    "klines us": kline(1_000_000),
    "klines of both": "".join(kline(10**3).splitlines(True)[:15] + kline(10**6).splitlines(True)[15:]),
    "serial numbers": HEAD
    + "".join(
        f"{(d - pd.Timestamp('1899-12-30')).days},{line.partition(',')[2]}\n"
        for d, line in zip(ONE.index, rows(ONE).splitlines(), strict=True)
    ),
    "nasdaq": NASDAQ,
    "nasdaq, spaces": NASDAQ.replace(",", ", "),
    "investing.com": INVESTING,
    "stooq": STOOQ,
    "metatrader 4": METATRADER_4,
    "metatrader 5": METATRADER_5,
    "alpha vantage": ALPHA_VANTAGE,
    "alpha vantage, crypto": ALPHA_CRYPTO,
    "quantmod": QUANTMOD,
    "yfinance": yfinance(["Price", "Ticker"], two=False),
    "no header": rows(ONE),
    "one letter": "t,o,h,l,c,v\n" + rows(ONE),
    "euros": HEAD + rows(ONE, pattern="{d},€{o:.2f},€{h:.2f},€{l:.2f},€{c:.2f},{v:.0f}"),
    "rupees": HEAD + rows(ONE, pattern='{d},₹{o:.2f},₹{h:.2f},₹{l:.2f},₹{c:.2f},"{v:,.1f}"'),
    "exponents": HEAD + rows(ONE, pattern="{d},{o},{h},{l},{c},{v:.8e}"),
    "chinese": "日期,开盘,最高,最低,收盘,成交量\n" + rows(ONE),
    "chinese in gbk": ("日期,开盘,最高,最低,收盘,成交量\n" + rows(ONE)).encode("gb18030"),
    "chinese days": HEAD + rows(ONE, "%Y年%m月%d日"),
    "korean": "날짜,시가,고가,저가,종가,거래량\n" + rows(ONE),
    "korean in cp949": ("날짜,시가,고가,저가,종가,거래량\n" + rows(ONE)).encode("cp949"),
    "portuguese": "Data;Abertura;Máxima;Mínima;Fechamento;Volume\n" + rows(ONE, "%d/%m/%Y").replace(",", ";"),
    "german": "Datum;Eröffnung;Hoch;Tief;Schluss;Volumen\n"
    + "".join(
        f"{d:%d.%m.%Y};{';'.join(f'{x:.2f}'.replace('.', ',') for x in prices)};{v:.0f}\n"
        for d, *prices, v in ONE.reset_index().itertuples(index=False)
    ),
    "spanish": "Fecha,Apertura,Máximo,Mínimo,Cierre,Volumen\n" + rows(ONE, "%d/%m/%Y"),
    "latin-1": (HEAD.replace("\n", ",Name\n") + rows(ONE).replace("\n", ",Société Générale\n")).encode("latin-1"),
    "yahoo's stars": HEAD.replace("Close", "Close*") + rows(ONE, '"%b %-d, %Y"', '{d},{o},{h},{l},{c},"{v:,.0f}"'),
    "cryptodatadownload": CRYPTODATA,
    "zip": b"",
    "gz": gzip.compress(ISO.encode()),
    "bz2": bz2.compress(ISO.encode()),
    "xz": lzma.compress(ISO.encode()),
    "zst": b"",
}
ENDINGS = {"gz": ".csv.gz", "bz2": ".csv.bz2", "xz": ".csv.xz", "zst": ".csv.zst", "zip": ".zip"}


def zipped(**members: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "."), content)
    return buffer.getvalue()


@pytest.mark.parametrize("shape", ONE_FILE)
def test_one_ticker_in_every_shape(tmp_path: Path, shape: str) -> None:
    """Whatever the separator, the names, the days and the numbers: the same bars come out."""
    content = zipped(AAA__csv=ISO) if shape == "zip" else ONE_FILE[shape]
    if shape == "zst":
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(ISO.encode())
        content = sink.getvalue().to_pybytes()
    found = read(tmp_path, f"AAA{ENDINGS.get(shape, '.csv')}", content)
    expected = "BTC/USD" if shape == "cryptodatadownload" else "AAA"
    check(found, {expected: ONE})


WIDE = pd.concat(TWO, axis=1)
MANY: dict[str, str] = {
    "long": LONG.to_csv(index=False),
    "long with an index": LONG.to_csv(),
    "bhavcopy": BHAVCOPY,
    "udiff": UDIFF,
    "yfinance, price first": yfinance(["Price", "Ticker"]),
    "yfinance, ticker first": yfinance(["Ticker", "Price"]),
    "flattened": WIDE.set_axis([f"{p}_{t}" for t, p in WIDE], axis=1).to_csv(),
    "flattened, ticker first": WIDE.set_axis([f"{t} {p}" for t, p in WIDE], axis=1).to_csv(),
    "tuples": WIDE.set_axis([str((p, t)) for t, p in WIDE], axis=1).to_csv(),
    "company and symbol": LONG.assign(Name="Some Company, Inc.").to_csv(index=False),
    "ts_code": LONG.rename(columns={"Symbol": "ts_code", "Date": "trade_date", "Volume": "vol"}).to_csv(index=False),
    "index": LONG.rename(columns={"Symbol": "Index"}).to_csv(index=False),
    "unknown name": LONG.rename(columns={"Symbol": "Kuerzel2"}).to_csv(index=False),
}


@pytest.mark.parametrize("shape", MANY)
def test_several_tickers_in_every_shape(tmp_path: Path, shape: str) -> None:
    """A column says the ticker, or each ticker has columns of its own."""
    check(read(tmp_path, "prices.csv", MANY[shape]), TWO)


def test_investing_in_german(tmp_path: Path) -> None:
    """Thousands have points, decimals a comma, days come first."""
    check(read(tmp_path, "BBB.csv", INVESTING_DE), {"BBB": TWO["BBB"]})


PLAIN = ONE.reset_index()


def with_days(change: Callable[[pd.Series], object]) -> Callable[[Path], None]:
    return lambda path: PLAIN.assign(Date=change(PLAIN["Date"])).to_parquet(path)


def decimals() -> pa.Table:
    prices = {name: pa.array(ONE[name]).cast(pa.decimal128(12, 2)) for name in PRICES}
    return pa.table(prices | {"Date": ONE.index, "Volume": ONE["Volume"]})


LEVELS = pd.concat({"AAA": ONE}, axis=1, names=["Ticker", "Price"])
BARE = pa.Table.from_pandas(PLAIN, preserve_index=False).replace_schema_metadata(None)
ARROW: dict[str, Callable[[Path], None]] = {
    "index": ONE.to_parquet,
    "column": PLAIN.to_parquet,
    "no name": ONE.rename_axis(None).to_parquet,
    "two levels": LEVELS.swaplevel(axis=1).to_parquet,
    "two levels, ticker first": LEVELS.to_parquet,
    "polars": lambda path: pa_parquet.write_table(BARE, path),
    "dates": with_days(lambda days: days.dt.date),
    "texts": with_days(lambda days: days.dt.strftime("%Y-%m-%d")),
    "milliseconds": with_days(lambda days: days.astype("datetime64[ms]").astype("int64")),
    "integers": with_days(lambda days: days.dt.strftime("%Y%m%d").astype(int)),
    "zone": ONE.tz_localize("America/New_York").to_parquet,
    "utc": ONE.tz_localize("UTC").to_parquet,
    "categories": PLAIN.assign(ticker=pd.Categorical(["AAA"] * 30)).to_parquet,
    "nanoseconds": ONE.set_axis(ONE.index.as_unit("ns")).to_parquet,
    "feather": PLAIN.to_feather,
    "feather, packed": lambda path: pa_feather.write_feather(PLAIN, path, compression="zstd"),
    "decimals": lambda path: pa_parquet.write_table(decimals(), path),
    "lists": PLAIN.assign(tags=[["a", "b"]] * 30).to_parquet,
}


@pytest.mark.parametrize("shape", ARROW)
def test_arrow_in_every_shape(tmp_path: Path, shape: str) -> None:
    """Parquet and Feather from pandas, polars and Arrow, with days of every type."""
    path = tmp_path / "AAA.parquet"
    ARROW[shape](path)
    check(read_csv(path, Silent()), {"AAA": ONE})


MARKS = st.sampled_from(
    [(",", ".", ""), (";", ",", "."), (";", ",", ""), (";", ".", ""), ("\t", ",", " "), ("|", ".", ",")]
)
DAY_FORMS = st.sampled_from(["%Y-%m-%d", "%d.%m.%Y", "%m/%d/%Y", "%d-%b-%Y", "%Y%m%d", "%y-%m-%d", "%Y-%m-%d 00:00:00"])


@settings(max_examples=60)
@given(
    marks=MARKS,
    form=DAY_FORMS,
    order=st.permutations(["Date", *PRICES, "Volume", "Remark"]),
    level=st.floats(0.5, 20_000),
    newest_first=st.booleans(),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]),
    title=st.sampled_from(["", "Prices of a company\n\n"]),
)
def test_however_bars_are_written_the_same_bars_are_read(
    tmp_path_factory: pytest.TempPathFactory,
    marks: tuple[str, str, str],
    form: str,
    order: list[str],
    level: float,
    newest_first: bool,
    encoding: str,
    title: str,
) -> None:
    """Any separator, decimal mark, format of days, order of columns and rows and encoding, together."""
    separator, decimal, thousands = marks
    bars = made(3, level)

    def number(value: float) -> str:
        return f"{value:,.2f}".replace(",", "_").replace(".", decimal).replace("_", thousands)

    written = pd.DataFrame({name: bars[name].map(number) for name in PRICES})
    written["Volume"] = bars["Volume"].map(lambda value: number(value)[:-3])
    written["Date"], written["Remark"] = bars.index.strftime(form), "später"
    rows_ = written[order][:: -1 if newest_first else 1].to_csv(index=False, sep=separator)
    found = read(tmp_path_factory.mktemp("shape"), "AAA.csv", (title + rows_).encode(encoding))
    check(found, {"AAA": bars})


DOCUMENTED = {
    "plain table": ["iso", "stooq", "alpha vantage", "one letter"],
    "other languages": ["chinese", "korean", "portuguese", "spanish", "german"],
    "separator": ["semicolons", "tabs", "pipes"],
    "numbers": ["semicolons and decimal commas", "euros", "rupees", "exponents"],
    "days": ["day first, dots", "month first, short", "named month, two digits", "named month first", "serial numbers"],
    "times": ["seconds", "nanoseconds", "midnights in UTC", "closing times in UTC"],
    "yfinance": ["yfinance", "yfinance, price first", "yfinance, ticker first", "two levels"],
    "columns per ticker": ["quantmod", "flattened", "tuples"],
    "several tickers": ["long", "ts_code", "udiff", "unknown name"],
    "nasdaq.com": ["nasdaq"],
    "investing.com": ["investing.com"],
    "NSE": ["bhavcopy", "udiff"],
    "MetaTrader": ["metatrader 4", "metatrader 5"],
    "Binance": ["klines ms", "klines us", "klines of both"],
    "CryptoDataDownload": ["cryptodatadownload"],
    "around the table": ["title", "index", "index without a name", "trailing commas", "header again"],
    "encoding": ["utf-16", "latin-1", "chinese in gbk", "korean in cp949"],
    "packed": ["zip", "gz", "bz2", "xz", "zst"],
    "Arrow": ["index", "column", "polars", "feather"],
}


def test_the_documented_shapes_are_those_that_are_tested() -> None:
    """Each row of the table in the how-to page stands for shapes of this module, and no other shape is promised."""
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "daily-bars.md").read_text()
    table = page.partition("| shape |")[2].partition("\n\n")[0].splitlines()[2:]
    assert [row.split("|")[1].strip() for row in table] == list(DOCUMENTED)
    assert {shape for shapes in DOCUMENTED.values() for shape in shapes} <= {*ONE_FILE, *MANY, *ARROW}
