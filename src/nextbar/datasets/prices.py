"""Prices as the core takes them: quoted bars adjusted forward for splits and dividends."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pandas as pd

from nextbar.errors import BadBarsError
from nextbar.features.indicators import PRICES
from nextbar.types import BoolArray, DateArray, FloatArray
from nextbar.words import brief, excerpt, listed, occur_twice

MARKET_COLUMNS: Final = pd.Index(["Open", "High", "Low", "Close", "Volume"])
QUOTED_COLUMNS: Final = MARKET_COLUMNS.append(pd.Index(["Quoted"]))
NUMBERS: Final = ("open", "high", "low", "close", "volume", "adj_close")
STORED_COLUMNS: Final = (*PRICES, "Volume", "Adj Close")
"""The same in the market format."""
COLUMNS = {"open": "Open", "high": "High", "low": "Low", "close": "Close", "adjclose": "Adj Close", "volume": "Volume"}
"""Spelling without case, spaces and underscores → column of the market format."""
DATE_COLUMNS = ("date", "datetime", "timestamp")
LONGEST_TICKER = 64
BASE = "adjusted_from"
"""Attribute of a frame: close and adjusted close of the bar that prices are adjusted from."""


@dataclass(frozen=True, kw_only=True)
class History:
    """All stored bars of one ticker, oldest first.

    Attributes:
        days: [bars] calendar days.
        numbers: [6, bars] quoted open, high, low, close; volume; adj_close. NaN where the database has none.
        base: Close and adjusted close of the bar that prices are adjusted from; None: of the first that has both.
    """

    days: DateArray
    numbers: FloatArray
    base: tuple[float, float] | None = None

    def first_adjusted(self) -> tuple[float, float] | None:
        """Close and adjusted close of the bar that prices are adjusted from; None where no bar has both."""
        close, adjusted = self.numbers[3], self.numbers[5]
        known = _adjustable(close, adjusted)
        if self.base is not None or not known.any():
            return self.base
        first = int(known.argmax())
        return float(close[first]), float(adjusted[first])


@dataclass(frozen=True, kw_only=True)
class RawBars:
    """Bars of one ticker as they are stored, and how the core adjusts them.

    Attributes:
        quoted_volume: As in `market_frame`.
    """

    history: History
    first: np.datetime64
    last: np.datetime64
    adjust: bool
    quoted_volume: bool = False

    def adjusted(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Give the bars as the core takes them, had these been stored."""
        return market_frame(
            history_of(frame), self.first, self.last, adjust=self.adjust, quoted=True, quoted_volume=self.quoted_volume
        )


def stored_frame(history: History) -> pd.DataFrame:
    """Give stored bars as a frame with the columns Open High Low Close Volume Adj Close."""
    index = pd.DatetimeIndex(history.days.astype("datetime64[s]"), name="Date")
    frame = pd.DataFrame(dict(zip(STORED_COLUMNS, history.numbers, strict=True)), index=index)
    frame.attrs[BASE] = history.base
    return frame


def without_adjustment(history: History) -> History:
    """The same bars without ``adj_close``."""
    return replace(history, numbers=np.vstack([history.numbers[:-1], np.full((1, len(history.days)), np.nan)]))


def before(history: History, day: np.datetime64) -> History:
    """The bars before a day, as if no other had ever been stored."""
    stop = int(history.days.searchsorted(day))
    return replace(history, days=history.days[:stop], numbers=history.numbers[:, :stop])


def market_frame(
    history: History,
    start: np.datetime64 | None = None,
    end: np.datetime64 | None = None,
    *,
    adjust: bool,
    quoted: bool = False,
    quoted_volume: bool = False,
) -> pd.DataFrame:
    """Return one ticker's bars as the core takes them: Open High Low Close Volume and, if asked for, ``Quoted``.

    The adjustment begins at the first stored bar, whatever range is asked for. Volume takes the inverse factor of the
    prices, so that price times volume stays money, unless ``quoted_volume`` leaves it as version 0.1.0 did.
    ``attrs["adjustment"]`` is "forward", "raw" (asked for) or "none" (no bar has an ``adj_close``).
    """
    prices, volume, adj_close = history.numbers[:4], history.numbers[4], history.numbers[5]
    adjustment = "raw" if not adjust else "none" if np.isnan(adj_close).all() else "forward"
    shown = adjust_forward(prices, adj_close, history.base) if adjustment == "forward" else prices
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


def adjust_forward(prices: FloatArray, adj_close: FloatArray, base: tuple[float, float] | None = None) -> FloatArray:
    """Carry splits and dividends forward from the first bar that has an adjusted close.

    P(t) = close(t0) · (adj_close(t) / adj_close(t0)); open, high and low take the factor P(t) / close(t). A later split
    rescales every ``adj_close`` alike, which the quotient removes: multiplying all by a power of two changes no bit.

    [4, bars] NaN for bars without a positive ``adj_close``; the quoted prices where no bar has one.
    """
    close = prices[3]
    known = _adjustable(close, adj_close)
    if not known.any():
        return prices.copy()
    first = int(known.argmax())
    start, adjusted_start = base or (close[first], adj_close[first])
    level = np.where(known, start * (adj_close / adjusted_start), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Not prices · (level / close): this way the close is the formula to the bit, and no rounding leaves the bar.
        adjusted: FloatArray = level * (prices / close)
    return adjusted


def _adjustable(close: FloatArray, adj_close: FloatArray) -> BoolArray:
    """Tell which bars have a positive close and a positive adjusted close."""
    found: BoolArray = np.isfinite(adj_close) & (adj_close > 0) & np.isfinite(close) & (close > 0)
    return found


def history_of(frame: pd.DataFrame) -> History:
    """Give one ticker's market-format frame as the core reads bars.

    A frame that `read_bars` cut brings the bar that prices are adjusted from: its adjusted closes are put on the scale
    that makes its first bar the one that the whole history would give.
    """
    numbers = np.full((len(NUMBERS), len(frame)), np.nan)
    for row, name in enumerate(STORED_COLUMNS):
        if name in frame:
            numbers[row] = frame[name].to_numpy(np.float64)
    return History(days=frame.index.to_numpy().astype("datetime64[D]"), numbers=numbers, base=frame.attrs.get(BASE))


def is_market_format(frame: object) -> bool:
    """Tell whether a frame is as `nextbar.bars` and `nextbar.read_bars` give it."""
    if not isinstance(frame, pd.DataFrame) or not isinstance(frame.index, pd.DatetimeIndex):
        return False
    days = frame.index
    return (
        list(frame.columns) == [*PRICES, "Adj Close", "Volume"]
        and bool((frame.dtypes == np.float64).all())
        and days.tz is None
        and days.is_monotonic_increasing
        and days.is_unique
        and bool((days == days.normalize()).all())
    )


def fits_ticker(name: str) -> bool:
    """Tell whether a name can be asked for as a ticker: printable, without a comma, at most 64 characters."""
    return len(name) <= LONGEST_TICKER and name.isprintable() and "," not in name


def check_ticker(name: object) -> None:
    """Refuse what is no ticker."""
    if not isinstance(name, str):
        raise BadBarsError(f"a ticker is a text, such as 'AAPL', got {brief(name)}")
    if not name.strip() or not fits_ticker(name):
        raise BadBarsError(
            f"a ticker is a name of 1 to {LONGEST_TICKER} printable characters without a comma, got {name[:40]!a}; "
            "rename it"
        )


def market_format(ticker: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Return one ticker's frame in the market format, its columns found without regard to case and spaces."""
    check_ticker(ticker)
    if not isinstance(frame, pd.DataFrame):
        raise BadBarsError(f"{ticker}: expected a DataFrame of bars, got {type(frame).__name__}")
    frame = _one_level(frame)
    index = _days(ticker, frame)
    named = [(COLUMNS[_plain(name)], name) for name in frame.columns if _plain(name) in COLUMNS]
    found = dict(named)
    if len(found) < len(named):
        raise BadBarsError(f"{ticker}: several columns for one of {', '.join(found)}; keep one of each")
    if missing := [name for name in PRICES if name not in found]:
        raise BadBarsError(
            f"{ticker}: the bars have no column {', '.join(missing)}; expected Open, High, Low, Close, perhaps Adj "
            f"Close and Volume, got {listed([excerpt(name, 40) for name in frame.columns], 12)}"
        )
    try:
        columns = {name: frame[source].to_numpy(dtype=np.float64, na_value=np.nan) for name, source in found.items()}
    except (TypeError, ValueError) as error:
        raise BadBarsError(f"{ticker}: a price or a volume is not a number ({error})") from error
    made = pd.DataFrame(columns, index=index).reindex(columns=[*PRICES, "Adj Close", "Volume"]).sort_index()
    made.attrs = {BASE: frame.attrs[BASE]} if BASE in frame.attrs else {}
    if made.index.has_duplicates:
        repeated = made.index[made.index.duplicated()]
        raise BadBarsError(
            f"{ticker}: {occur_twice(len(repeated), 'day')}, the first {repeated[0].date()}; keep one bar per day"
        )
    return made


def _one_level(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame with columns (price, ticker), in either order and of one ticker, with the prices alone."""
    columns = frame.columns
    for level in range(columns.nlevels if columns.nlevels == 2 else 0):
        names = columns.get_level_values(level)
        if len({*columns.get_level_values(1 - level)}) == 1 and {_plain(name) for name in names} & {*COLUMNS}:
            return frame.set_axis(names, axis=1)
    return frame


def _days(ticker: str, frame: pd.DataFrame) -> pd.DatetimeIndex:
    """Return the days of the bars, from the index or from a column."""
    dated = [name for name in frame.columns if _plain(name) in DATE_COLUMNS]
    written = frame.index if isinstance(frame.index, pd.DatetimeIndex) or not dated else pd.Index(frame[dated[0]])
    if pd.api.types.is_numeric_dtype(written.dtype):
        if not dated:
            raise BadBarsError(f"{ticker}: the bars have no days; expected a DatetimeIndex or a column Date")
        written = written.astype(str)  # 20240131
    try:
        days = pd.DatetimeIndex(pd.to_datetime(written, format="ISO8601"))
    except (TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise BadBarsError(f"{ticker}: a day cannot be read ({reason}); expected YYYY-MM-DD") from error
    if days.hasnans:
        raise BadBarsError(f"{ticker}: {int(np.count_nonzero(days.isna()))} bars have no day; leave them out")
    return pd.DatetimeIndex(days.tz_localize(None).normalize().as_unit("s"), name="Date")


def _plain(name: object) -> str:
    return re.sub(r"[\s_.]", "", str(name)).lower()
