"""Names of columns: what a source calls a column becomes nextbar's own name, by one table or by the user's word."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import pandas as pd

from nextbar.datasets.prices import check_ticker
from nextbar.errors import BadBarsError, ConfigError
from nextbar.market.schema import BAR_COLUMNS, PRICES
from nextbar.words import excerpt, listed, nearest, plural

KNOWN: Final[Mapping[str, str]] = {
    "ticker": "ticker symbol sym tic tckrsymb tscode tickersymbol stockcode stocksymbol symbolcode secid permno"
    " codneg codigo kurzel 股票代码 证券代码 代码 종목코드",
    "weak": "name stock code index security instrument asset pair coin scrip sccode papel ativo",
    "date": "date datetime timestamp dtyyyymmdd day tradingday tradedate tradingdate traddt time opentime"
    " windowstart begin begins t unix epoch unixtime data datum fecha tarih дата"
    " 日期 交易日期 时间 날짜 일자 日付 日付け",
    "open": "open pxopen openprc openprice opnpric opening openingprice priceopen o 开盘 开盘价 시가 abertura apertura"
    " eroffnung eroffnungskurs eroffn erster ouverture ouv 始値 오픈 откр открытие",
    "high": "high pxhigh askhi highprice hghpric pricehigh h max 最高 最高价 고가 maxima maximo hoch hochst tageshoch"
    " hochstkurs haut plushaut massimo alta yuksek 高 高値 макс максимум",
    "low": "low pxlow bidlo lowprice lwpric pricelow l min 最低 最低价 저가 minima minimo tief tiefst tagestief"
    " tiefstkurs bas plusbas baixa dusuk 低 安値 мин минимум",
    "close": "close pxlast prc closeprice clspric closing closingprice closelast priceclose c fechamento"
    " 收盘 收盘价 종가 cierre schluss schlusskurs schlusskurse cloture chiusura 終値 закрытие"
    " last lastprice price ultimo zuletzt dernier simdi цена",
    "adj_close": "adjclose adjustedclose closeadj closeadjusted adjcloseprice adjusted adjustedprice adjprice adjprc"
    " adjustedclosingprice adjustedcloseprice fechamentoajustado 수정종가",
    "volume": "volume pxvolume vol v noofshares ttltradgvol tottrdqty totaltradedquantity tradedquantity"
    " volumetraded volumeshares qty quantity sharestraded 成交量 거래량 volumen volumes tickvol tickvolume stuck"
    " hacim объем 出来高 交易量",
    "series": "series sctysrs",
}
"""Meaning → spellings, the best first. A weak name is the ticker's where its values look like symbols."""
NUMBER_COLUMNS: Final = (*PRICES, "adj_close", "volume")
SYMBOL: Final = r"[^\s,;\"']{1,10}"
"""What a symbol looks like where the column's name does not say that it holds symbols."""
SIDES: Final = {"bid", "ask", "mid", "adj", "raw", "prev", "avg", "unadj"}
"""Words before a price that are no tickers."""
MOST_SYMBOL: Final = 40
MOST_NAME: Final = 200
MOST_STEM: Final = 255
"""Longer names of columns and files are cut or refused before a pattern sees them: its time may grow with the square.
"""
DECORATION: Final = re.compile(
    r"(?i)[-_ .]+(?:1?d|daily|day|historical|history|hist|data|prices?|quotes?|stock|ohlcv?|adjusted|full|max|"
    r"\d{4}-\d{2}(?:-\d{2})?|\(\d+\))$"
)
"""What sites put after the symbol in a file's name."""
CHART: Final = re.compile(r"^[A-Z0-9]+_([^\s,]+), ?(?:1?[DWM]|\d+)\b.*$")
"""TradingView's names: NASDAQ_AAPL, 1D."""
UNNAMED: Final = ("", "unnamed", "indexlevel")


@dataclass(frozen=True, kw_only=True)
class Hints:
    """What the user says about a source; what is not said is found from the content.

    Attributes:
        columns: nextbar's name → the source's, or its position from 1; "" where there is none.
        ticker: Of a source without a column for it.
        calendar: The exchange in whose zone a time becomes a day.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    date_format: str | None = None
    ticker: str | None = None
    decimal: str | None = None
    separator: str | None = None
    resample: bool = False
    calendar: str = "XNYS"

    def __post_init__(self) -> None:
        if self.ticker is not None:
            check_ticker(self.ticker)


@dataclass(frozen=True, kw_only=True)
class Table:
    """A source's own table.

    Attributes:
        frame: [rows] columns 0 … n - 1, which ``names`` names.
        owners: Tickers of the columns where each ticker has columns of its own, "" for a column of none.
        notes: What was decided while it was read.
        refused: Lines that are no rows of it: (reason, line).
        separator: Between columns; "" where it was no text. ``text`` is what it was read from.
    """

    frame: pd.DataFrame
    names: Sequence[str]
    owners: Sequence[str] = ()
    notes: tuple[str, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    separator: str = ""
    text: bytes = b""


def plain(name: object) -> str:
    """Return letters alone, without case, accents, brackets and numbering: "1. Open" and "<OPEN>" are one."""
    text = unicodedata.normalize("NFKD", str(name)[:MOST_NAME]).casefold()[:MOST_NAME]
    text = re.sub(r"\(.*?\)|^\s*\d+[a-z]?[.)]\s|\.\d+\s*$", "", text)
    return "".join(letter for letter in text if letter.isalpha())


_RANKS: Final[Mapping[str, tuple[str, int]]] = {
    plain(spelling): (meaning, rank)
    for meaning, spellings in reversed([*KNOWN.items()])
    for rank, spelling in enumerate(spellings.split())
}


def meaning_of(name: object) -> str | None:
    """Return what a name means, None where it is not known."""
    return _RANKS.get(plain(name), (None, 0))[0]


def parse_columns(text: str | None) -> dict[str, str]:
    """Read ``close=Price,open=…``."""
    pairs = [part.partition("=") for part in re.split(r",(?=\s*\w+=)", text)] if text else []
    if wrong := [ours for ours, sign, _ in pairs if not sign or ours.strip() not in BAR_COLUMNS]:
        expected = f"such as close=Price,volume=Vol, with any of {', '.join(BAR_COLUMNS)}"
        near = nearest(wrong[0].strip(), BAR_COLUMNS)
        raise ConfigError(f"columns: {excerpt(wrong[0])!r} is not a column of a bar; expected {expected}{near}")
    found = {ours.strip(): theirs.strip() for ours, _, theirs in pairs}
    if len(found) < len(pairs):
        raise ConfigError(f"columns: a column is named more than once in {excerpt(text)!r}; keep one source for each")
    return found


def find_columns(table: Table, hints: Hints, origin: str) -> dict[str, int]:
    """Map nextbar's columns, and ``series`` and ``weak`` names of a ticker, to positions of the source's.

    Several columns of one meaning and spelling that differ are refused.
    """
    chosen = {ours: _named(table, ours, theirs) for ours, theirs in hints.columns.items()}
    found = {ours: place for ours, place in chosen.items() if place is not None}
    taken = {*chosen, *(["weak"] if "ticker" in chosen else [])}
    known: dict[str, dict[int, list[int]]] = {}
    for place, name in enumerate(table.names):
        meaning, rank = _RANKS.get(plain(name), ("", 0))
        if meaning and meaning not in taken and place not in chosen.values():
            known.setdefault(meaning, {}).setdefault(rank, []).append(place)
    best = {meaning: ranked[min(ranked)] for meaning, ranked in known.items()}
    found |= {meaning: places[0] for meaning, places in best.items()}
    twice = {meaning: places for meaning, places in best.items() if meaning != "weak" and _differ(table.frame[places])}
    if twice:
        named = [f"{excerpt(table.names[p])} (column {p + 1})" for places in twice.values() for p in places]
        choice = ",".join(f"{meaning}={places[0] + 1}" for meaning, places in twice.items())
        told = f"{origin}: several columns, which differ, for {', '.join(twice)}: {', '.join(named)}"
        raise BadBarsError(f"{told}; choose by position, such as --columns {choice}")
    return found if "volume" in chosen else found | _volume(table, found)


def _differ(columns: pd.DataFrame) -> bool:
    return any(not columns[name].astype("str").equals(columns.iloc[:, 0].astype("str")) for name in columns.columns[1:])


def _volume(table: Table, found: Mapping[str, int]) -> dict[str, int]:
    """Take the first name that begins with volume where none is known, and MetaTrader's ticks where all are 0."""
    names = [plain(name) for name in table.names]
    place = found.get("volume", next((i for i, name in enumerate(names) if name.startswith("volume")), None))
    if place is None:
        return {}
    ticks = [tick for tick, name in enumerate(names) if name in ("tickvol", "tickvolume")]
    if ticks and (pd.to_numeric(table.frame[place], errors="coerce") == 0).all():
        place = ticks[0]
    return {"volume": place}


def require(table: Table, found: Mapping[str, int], origin: str) -> None:
    """Refuse a table without a day or a price; the message says how to name them."""
    if not (missing := [name for name in ("date", *PRICES) if name not in found]):
        return
    names = [excerpt(name) for name in table.names]
    wide = "; one column per ticker is not enough: nextbar needs open, high, low and close of each"
    raise BadBarsError(
        f"{origin}: no column for {', '.join(missing)}; found {listed(names, 12) or 'none'}; expected date, "
        f"{', '.join(PRICES)}, and volume, adj_close and ticker if there are any; say which they are with --columns "
        f"{','.join(f'{name}=…' for name in missing)}{wide if len(missing) == 4 and len(names) > 2 else ''}"
    )


def _named(table: Table, ours: str, theirs: str) -> int | None:
    """Find the column that the user names: as it is written, without case and marks, or by its position from 1."""
    if not theirs:
        return None
    exact = [place for place, name in enumerate(table.names) if name.strip() == theirs]
    alike = exact or [p for p, name in enumerate(table.names) if plain(name) == plain(theirs) and plain(theirs)]
    if not alike and theirs.isdigit() and 0 < int(theirs) <= len(table.names):
        return int(theirs) - 1
    if len(alike) == 1:
        return alike[0]
    why = f"found {listed([excerpt(name) for name in table.names], 12)}{nearest(theirs, table.names)}"
    if alike:
        why = f"{len(alike)} columns have that name; give its position from 1"
    raise ConfigError(f"--columns {ours}={excerpt(theirs)}: {why}")


_FIELDS: Final = [plain(word) for name in NUMBER_COLUMNS for word in KNOWN[name].split() if len(plain(word)) > 2]
_SPLIT: Final = (
    re.compile(r"^\(\s*'?(?P<a>.*?)'?\s*,\s*'?(?P<b>.*?)'?\s*\)$"),
    re.compile(r"^(?P<a>.+?)[._ |/:-]+(?P<b>adj[._ ]*close|[^._ |/:-]+)$", re.IGNORECASE),
    re.compile(r"^(?P<a>adj[._ ]*close|[^._ |/:-]+)[._ |/:-]+(?P<b>.+)$", re.IGNORECASE),
)


def split_owners(table: Table) -> Table:
    """Take tickers out of names such as ``AAPL.Close``, ``Close_AAPL`` and ``('Close', 'AAPL')``."""
    if any(table.owners) or {meaning_of(name) for name in table.names} >= {*PRICES}:
        return table
    for pattern in _SPLIT:
        for field_first in (True, False):
            pairs = [_owned(name, pattern, field_first=field_first) for name in table.names]
            names, owners = [name for name, _ in pairs], [owner for _, owner in pairs]
            if have_prices(names, owners) and not SIDES & {*map(plain, owners)}:
                return replace(table, names=names, owners=owners)
    return table


def have_prices(names: Sequence[str], owners: Sequence[str]) -> bool:
    """Tell whether columns have tickers, and each ticker a column for each price."""
    held = {(owner, meaning_of(name)) for name, owner in zip(names, owners, strict=True) if owner}
    return bool(held) and held >= {(owner, price) for owner, _ in held for price in PRICES}


def _owned(name: str, pattern: re.Pattern[str], *, field_first: bool) -> tuple[str, str]:
    """Return the field and the ticker of a name that has both, else the name alone."""
    text = name.strip()
    if len(text) > MOST_NAME or (match := pattern.match(text)) is None:
        return name, ""
    price, owner = match.group("a", "b") if field_first else match.group("b", "a")
    if plain(price) in _FIELDS:
        return price, owner
    return (name if price and owner else price or owner or name), ""


def to_long(table: Table) -> tuple[Table, str | None]:
    """Put the columns of each ticker below each other; return the ticker, too, where there is only one."""
    owners = [owner for owner in dict.fromkeys(table.owners) if owner]
    if len(owners) < 2:
        return replace(table, owners=()), owners[0] if owners else None
    shared = [place for place, owner in enumerate(table.owners) if not owner]
    names = list(dict.fromkeys(table.names[place] for place, owner in enumerate(table.owners) if owner))
    parts = []
    for owner in owners:
        own = [place for place, whose in enumerate(table.owners) if whose == owner]
        part = table.frame[[*shared, *own]].set_axis([*shared, *(f"={table.names[place]}" for place in own)], axis=1)
        texts = table.frame[own].astype("str").apply(lambda column: column.str.strip())
        empty = texts.isna() | (texts == "")
        parts.append(part[~empty.all(axis=1)].assign(ticker=owner))  # days without a value are no bars of it
    frame = pd.concat(parts, ignore_index=True).reindex(columns=[*shared, *(f"={name}" for name in names), "ticker"])
    labels = [*(table.names[place] for place in shared), *names, "ticker"]
    notes = (*table.notes, f"a column per price and ticker: {plural(len(owners), 'ticker')}")
    return replace(table, frame=frame.set_axis(range(len(labels)), axis=1), names=labels, owners=(), notes=notes), None


def is_symbols(values: Iterable[str]) -> bool:
    """Tell whether texts look like symbols: short, no spaces, no words such as Apple."""
    return all(re.fullmatch(SYMBOL, value) and not re.fullmatch("[A-Z][a-z]{2,}", value) for value in values)


def ticker_of(stem: str, origin: str) -> str:
    """Make a ticker of a file's name, or refuse it."""
    short = stem if len(stem) <= MOST_STEM else ""
    name = chart[1] if (chart := CHART.match(short)) else short
    while (shorter := DECORATION.sub("", name)) != name and shorter:
        name = shorter
    if not name or len(name) > MOST_SYMBOL or re.search(r"[\s,;\"'|]", name) or not name.isprintable():
        raise BadBarsError(
            f"{origin}: no column holds the ticker, and {excerpt(stem)!r} is not a ticker: --ticker AAPL"
        )
    return name
