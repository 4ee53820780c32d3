"""Names and formats of sources: common spellings of columns and days become nextbar's own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pandas as pd

from nextbar.errors import BadBarsError
from nextbar.market.schema import BAR_COLUMNS, REQUIRED

SPELLINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "ticker": ("ticker", "symbol", "sym", "tic", "name"),
    "date": ("date", "datetime", "timestamp", "dtyyyymmdd", "day", "tradingday", "time"),
    "open": ("open", "openprice"),
    "high": ("high", "highprice"),
    "low": ("low", "lowprice"),
    "close": ("close", "closeprice"),
    "adj_close": ("adjclose", "adjustedclose", "closeadj", "closeadjusted", "adjcloseprice"),
    "volume": ("volume", "vol"),
}
"""Letters only, in lower case: "Adj Close", "adj_close" and "<ADJCLOSE>" are one. The first spelling found wins."""

DAY: Final = r"^\s*(\d{4})([-/.]?)(\d{2})\2(\d{2})(?:[T ].*)?$"


@dataclass(frozen=True, kw_only=True)
class SourceBars:
    """Bars of a source.

    Attributes:
        raw: [rows] the source's own columns, for the file of refused bars.
        bars: [rows] ticker, date (text YYYY-MM-DD where it could be read), float64 open high low close [adj_close]
            volume; same order, index 0 … rows - 1.
    """

    raw: pd.DataFrame
    bars: pd.DataFrame


def find_columns(found: Sequence[str], origin: str, *, ticker_known: bool = False) -> dict[str, str]:
    """Map nextbar's columns to the source's.

    Args:
        found: The source's column names.
        origin: The source as error messages call it.
        ticker_known: The ticker is known without a column for it.

    Raises:
        BadBarsError: A required column is not there.
    """
    letters = {re.sub("[^a-z]", "", name.lower()): name for name in reversed(found)}
    matches = {ours: [letters[s] for s in spellings if s in letters] for ours, spellings in SPELLINGS.items()}
    columns = {ours: names[0] for ours, names in matches.items() if names}
    missing = [name for name in REQUIRED if name not in columns and not (ticker_known and name == "ticker")]
    if missing:
        raise BadBarsError(
            f"{origin}: no column for {', '.join(missing)}; found {', '.join(found) or 'none'}; "
            f"expected {', '.join(REQUIRED)} and, if there is one, adj_close"
        )
    return columns


def source_bars(raw: pd.DataFrame, origin: str, *, ticker: str | None = None) -> SourceBars:
    """Name, order and convert the columns of a source.

    Args:
        raw: The source's table.
        origin: The source as error messages call it.
        ticker: The ticker where there is no column for it.

    Raises:
        BadBarsError: A required column is not there.
    """
    raw = raw.reset_index(drop=True)
    columns = find_columns([str(name) for name in raw.columns], origin, ticker_known=ticker is not None)
    bars = pd.DataFrame(index=raw.index)
    for name in BAR_COLUMNS:
        if name == "ticker" and name not in columns:
            bars[name] = ticker
        elif name in ("ticker", "date"):
            bars[name] = raw[columns[name]].astype("str").str.strip()
        elif name in columns:
            bars[name] = pd.to_numeric(raw[columns[name]], errors="coerce").astype("float64")
    bars["date"] = plain_days(bars["date"])
    return SourceBars(raw=raw, bars=bars)


def plain_days(texts: pd.Series[str]) -> pd.Series[str]:
    """Write 20240131, 2024/01/31 and 2024-01-31 16:00 as YYYY-MM-DD; any other text stays and is refused later."""
    codes, distinct = pd.factorize(texts)
    plain = pd.Series(distinct, dtype="str").str.replace(DAY, r"\1-\3-\4", regex=True)
    return plain.take(codes).set_axis(texts.index)
