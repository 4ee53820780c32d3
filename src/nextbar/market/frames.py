"""From the columns of one read to a market-format frame per ticker."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from nextbar.errors import BadBarsError
from nextbar.market.quality import parse_days
from nextbar.market.schema import PRICES
from nextbar.types import DateArray, FloatArray, IntArray

MARKET_COLUMNS: Final = pd.Index(["Open", "High", "Low", "Close", "Volume"])
QUOTED_COLUMNS: Final = MARKET_COLUMNS.append(pd.Index(["Quoted"]))
NUMBERS: Final = (*PRICES, "volume", "adj_close")


@dataclass(frozen=True, kw_only=True)
class History:
    """All stored bars of one ticker, oldest first.

    Attributes:
        days: [bars] calendar days.
        numbers: [6, bars] quoted open, high, low, close; volume; adj_close. NaN where the database has none.
    """

    days: DateArray
    numbers: FloatArray


NO_BARS: Final = History(days=np.array([], dtype="datetime64[D]"), numbers=np.empty((len(NUMBERS), 0)))


def split_histories(table: pa.Table) -> dict[str, History]:
    """Cut the rows of one read into a history per ticker; sorts only when the rows did not come sorted.

    Raises:
        BadBarsError: A date is not ``YYYY-MM-DD`` or a number is a text.
    """
    owner, names = _encode(table["ticker"])
    days = _days(table["date"], owner, names)
    numbers = np.stack([_number(table, column, owner, names) for column in NUMBERS])
    key = (owner << 32) + days.astype(np.int64)
    if (np.diff(key) < 0).any():
        order = np.argsort(key, kind="stable")
        owner, days, numbers = owner[order], days[order], numbers[:, order]
    starts = np.flatnonzero(np.diff(owner, prepend=-1)).tolist()
    pieces = [slice(start, end) for start, end in zip(starts, [*starts, len(owner)][1:], strict=True)]
    return {names[owner[piece.start]]: History(days=days[piece], numbers=numbers[:, piece]) for piece in pieces}


def without_adjustment(history: History) -> History:
    """The same bars without ``adj_close``."""
    return replace(history, numbers=np.vstack([history.numbers[:-1], np.full((1, len(history.days)), np.nan)]))


def market_frame(
    history: History,
    start: np.datetime64 | None,
    end: np.datetime64 | None,
    *,
    adjust: bool,
    quoted: bool,
    quoted_volume: bool = False,
) -> pd.DataFrame:
    """One ticker's bars as the core takes them.

    Args:
        history: All stored bars: the adjustment begins at the first of them, whatever range is asked for.
        start: First day wanted.
        end: Last day wanted.
        adjust: Adjust prices forward.
        quoted: Add the quoted close as a sixth column ``Quoted``.
        quoted_volume: Leave the volume as it is quoted, as version 0.1.0 did; else it takes the inverse factor of
            the prices, so that price times volume stays the money that changed hands.

    Returns:
        Float64 columns Open High Low Close Volume, DatetimeIndex ``Date``; ``attrs["adjustment"]`` is "forward", "raw"
        (asked for) or "none" (no bar has an ``adj_close``).
    """
    prices, volume, adj_close = history.numbers[:4], history.numbers[4], history.numbers[5]
    adjustment = "raw" if not adjust else "none" if np.isnan(adj_close).all() else "forward"
    shown = adjust_forward(prices, adj_close) if adjustment == "forward" else prices
    if adjustment == "forward" and not quoted_volume:
        with np.errstate(divide="ignore", invalid="ignore"):
            volume = volume * (prices[3] / shown[3])
    rows = slice(
        0 if start is None else int(history.days.searchsorted(start)),
        None if end is None else int(history.days.searchsorted(end, side="right")),
    )
    columns = [*shown, volume, prices[3]] if quoted else [*shown, volume]
    frame = pd.DataFrame(
        np.stack([column[rows] for column in columns]).T,
        index=pd.DatetimeIndex(history.days[rows].astype("datetime64[s]"), name="Date"),
        columns=QUOTED_COLUMNS if quoted else MARKET_COLUMNS,
    )
    frame.attrs["adjustment"] = adjustment
    return frame


def adjust_forward(prices: FloatArray, adj_close: FloatArray) -> FloatArray:
    """Carry splits and dividends forward from the first bar that has an adjusted close.

    P(t) = close(t0) · (adj_close(t) / adj_close(t0)); open, high and low take the factor P(t) / close(t). A later split
    rescales every ``adj_close`` alike, which the quotient removes: multiplying all by a power of two changes no bit.

    Args:
        prices: [4, bars] quoted open, high, low, close, oldest first, from the ticker's first stored bar on.
        adj_close: [bars] back-adjusted close; NaN, zero and negative values mean "not known".

    Returns:
        [4, bars]; NaN for bars without ``adj_close``, the quoted prices when no bar has one.
    """
    close = prices[3]
    known = np.isfinite(adj_close) & (adj_close > 0) & np.isfinite(close) & (close > 0)
    if not known.any():
        return prices.copy()
    first = int(known.argmax())
    level = np.where(known, close[first] * (adj_close / adj_close[first]), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Not prices · (level / close): this way the close is the formula to the bit, and no rounding leaves the bar.
        adjusted: FloatArray = level * (prices / close)
    return adjusted


def _encode(column: pa.ChunkedArray) -> tuple[IntArray, list[str]]:
    """[rows] number of each distinct text in order of appearance, and the texts."""
    encoded = pc.dictionary_encode(column.cast(pa.string()).combine_chunks(), null_encoding="encode")
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64), encoded.dictionary.to_pylist()


def _days(column: pa.ChunkedArray, owner: IntArray, names: list[str]) -> DateArray:
    """[rows] calendar days; each distinct text is parsed once."""
    codes, texts = _encode(column)
    parsed = parse_days(pd.Series(texts, dtype="object"))
    if np.isnat(parsed).any():
        row = int(np.flatnonzero(np.isnat(parsed[codes]))[0])
        raise BadBarsError(
            f"{names[owner[row]]}: stored date {texts[codes[row]]!r} is not a day written YYYY-MM-DD; "
            "correct it in the database"
        )
    days: DateArray = parsed[codes]
    return days


def _number(table: pa.Table, name: str, owner: IntArray, names: list[str]) -> FloatArray:
    """[rows] one numeric column, NaN for NULL and for a column that the table does not have."""
    if name not in table.column_names:
        return np.full(table.num_rows, np.nan)
    column = table[name].combine_chunks()
    try:
        numbers: FloatArray = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid as error:
        row = int(pd.to_numeric(column.to_pandas(), errors="coerce").isna().to_numpy().argmax())
        raise BadBarsError(
            f"{names[owner[row]]}: stored {name} {column[row].as_py()!r} is not a number; correct it in the database"
        ) from error
    return numbers
