"""The spellings of the field: whatever a source calls its columns, and however it writes a day, comes out alike."""

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
    """Bars as a source has them, and the same rows as nextbar takes them.

    Attributes:
        raw: [rows] the source's own columns, for the file of rejects.
        bars: [rows] ticker, date (text YYYY-MM-DD where it could be read), float64 open high low close [adj_close]
            volume; same order and index 0 … rows - 1.
    """

    raw: pd.DataFrame
    bars: pd.DataFrame


def find_columns(found: Sequence[str], origin: str, *, ticker_known: bool = False) -> dict[str, str]:
    """Which of the source's columns is which of ours.

    Args:
        found: The source's column names.
        origin: The source as error messages call it.
        ticker_known: The ticker is known without a column for it.

    Raises:
        BadBarsError: A required column is not there.
    """
    letters = {re.sub("[^a-z]", "", name.lower()): name for name in reversed(found)}
    columns = {
        ours: next(letters[spelling] for spelling in spellings if spelling in letters)
        for ours, spellings in SPELLINGS.items()
        if any(spelling in letters for spelling in spellings)
    }
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
        ticker: Whose bars these are if there is no column that says so.

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
    """YYYY-MM-DD of 20240131, 2024/01/31 and 2024-01-31 16:00; any other text stays as it is and is judged later."""
    codes, distinct = pd.factorize(texts)
    plain = pd.Series(distinct, dtype="str").str.replace(DAY, r"\1-\3-\4", regex=True)
    return plain.take(codes).set_axis(texts.index)
