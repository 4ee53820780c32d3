"""Prices as the core takes them: quoted bars adjusted forward for splits and dividends."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pandas as pd

from nextbar.errors import BadBarsError
from nextbar.features.indicators import PRICES
from nextbar.types import DateArray, FloatArray

MARKET_COLUMNS: Final = pd.Index(["Open", "High", "Low", "Close", "Volume"])
QUOTED_COLUMNS: Final = MARKET_COLUMNS.append(pd.Index(["Quoted"]))
NUMBERS: Final = ("open", "high", "low", "close", "volume", "adj_close")
COLUMNS = {"open": "Open", "high": "High", "low": "Low", "close": "Close", "adjclose": "Adj Close", "volume": "Volume"}
"""Spelling without case, spaces and underscores → column of the market format."""
TICKER_COLUMNS = ("ticker", "symbol")
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
        known = np.isfinite(adjusted) & (adjusted > 0) & np.isfinite(close) & (close > 0)
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

    def frame(self) -> pd.DataFrame:
        """Give the stored bars as a frame with the columns Open High Low Close Volume Adj Close."""
        index = pd.DatetimeIndex(self.history.days.astype("datetime64[s]"), name="Date")
        columns = zip((*PRICES, "Volume", "Adj Close"), self.history.numbers, strict=True)
        frame = pd.DataFrame(dict(columns), index=index)
        frame.attrs[BASE] = self.history.base
        return frame

    def adjusted(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Give the bars as the core takes them, had these been stored."""
        return market_frame(
            history_of(frame), self.first, self.last, adjust=self.adjust, quoted=True, quoted_volume=self.quoted_volume
        )


def without_adjustment(history: History) -> History:
    """The same bars without ``adj_close``."""
    return replace(history, numbers=np.vstack([history.numbers[:-1], np.full((1, len(history.days)), np.nan)]))


def market_frame(
    history: History,
    start: np.datetime64 | None,
    end: np.datetime64 | None,
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
    known = np.isfinite(adj_close) & (adj_close > 0) & np.isfinite(close) & (close > 0)
    if not known.any():
        return prices.copy()
    first = int(known.argmax())
    start, adjusted_start = base or (close[first], adj_close[first])
    level = np.where(known, start * (adj_close / adjusted_start), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Not prices · (level / close): this way the close is the formula to the bit, and no rounding leaves the bar.
        adjusted: FloatArray = level * (prices / close)
    return adjusted


def bars(data: pd.DataFrame | Mapping[str, pd.DataFrame], *, ticker: str | None = None) -> dict[str, pd.DataFrame]:
    """Read bars from DataFrames in common formats.

    Args:
        data: A frame of one ticker; a frame of several with a column ``ticker``, or with columns (price, ticker) in
            either order, as yfinance gives it; or ticker → frame. Columns are found without regard to case, spaces and
            underscores: Open High Low Close, perhaps Adj Close and Volume. The days are the index or a column ``date``.
        ticker: Name of the ticker of a single frame; default: ``BARS``.

    Returns:
        Ticker → float64 frame with the columns Open High Low Close Adj Close Volume (NaN where there are none) and a
        DatetimeIndex ``Date``, oldest first.

    Raises:
        BadBarsError: A column is missing or holds no numbers, a day repeats or is none.
    """
    if isinstance(data, pd.DataFrame):
        return {name: market_format(name, part) for name, part in _split_tickers(data, ticker).items()}
    if not isinstance(data, Mapping) or not data:
        raise BadBarsError(
            f"expected bars as a DataFrame, or as a mapping of ticker → DataFrame with a ticker at least, got "
            f"{type(data).__name__}; nextbar.read_bars reads them from a database"
        )
    if unnamed := [name for name in data if not isinstance(name, str)]:
        raise BadBarsError(f"a ticker is a text, such as 'AAPL', got {unnamed[0]!r}")
    return {name: market_format(name, frame) for name, frame in data.items()}


def history_of(frame: pd.DataFrame) -> History:
    """Give one ticker's market-format frame as the core reads bars.

    A frame that `read_bars` cut brings the bar that prices are adjusted from: its adjusted closes are put on the scale
    that makes its first bar the one that the whole history would give.
    """
    numbers = np.full((len(NUMBERS), len(frame)), np.nan)
    for row, name in enumerate((*PRICES, "Volume", "Adj Close")):
        if name in frame:
            numbers[row] = frame[name].to_numpy(np.float64)
    return History(days=frame.index.to_numpy().astype("datetime64[D]"), numbers=numbers, base=frame.attrs.get(BASE))


def _split_tickers(data: pd.DataFrame, ticker: str | None) -> dict[str, pd.DataFrame]:
    """Split a frame by its tickers; ``ticker`` names the only one of a frame that does not."""
    if isinstance(data.columns, pd.MultiIndex):
        level = _ticker_level(data.columns)
        names = data.columns.get_level_values(level).unique()
        return {ticker or str(name): _of_ticker(data, name, level) for name in names}
    if isinstance(data.index, pd.MultiIndex):
        data = data.reset_index()
    owners = [name for name in data.columns if _plain(name) in TICKER_COLUMNS]
    if not owners:
        return {ticker or "BARS": data}
    if unnamed := int(data[owners[0]].isna().sum()):
        raise BadBarsError(f"{unnamed} bars have no ticker; leave them out")
    parts = data.groupby(owners[0], sort=True)
    return {str(name): part.drop(columns=owners) for name, part in parts}


def _ticker_level(columns: pd.MultiIndex) -> int:
    """Find the level of two-level columns that holds tickers: the one that does not hold the prices."""
    plain = [set(map(_plain, columns.get_level_values(level))) for level in (0, 1)]
    prices = [level for level, names in enumerate(plain) if names >= set(map(_plain, PRICES))]
    if columns.nlevels != 2 or len(prices) != 1:
        raise BadBarsError(f"expected columns (price, ticker), got {', '.join(map(str, columns[:5]))}")
    return 1 - prices[0]


def _of_ticker(data: pd.DataFrame, name: object, level: int) -> pd.DataFrame:
    """Take one ticker out of a frame with two-level columns; days on which it has no price are no bars of it."""
    own = data.loc[:, data.columns.get_level_values(level) == name].dropna(how="all")
    return own.set_axis(own.columns.get_level_values(1 - level), axis=1)


def market_format(ticker: str, frame: pd.DataFrame) -> pd.DataFrame:
    """One ticker's frame in the market format."""
    if not ticker.strip() or not ticker.isprintable() or len(ticker) > LONGEST_TICKER:
        raise BadBarsError(
            f"a ticker is a name of 1 to {LONGEST_TICKER} printable characters, got {ticker[:40]!a}; rename it"
        )
    if not isinstance(frame, pd.DataFrame):
        raise BadBarsError(f"{ticker}: expected a DataFrame of bars, got {type(frame).__name__}")
    if isinstance(frame.columns, pd.MultiIndex):
        parts = _split_tickers(frame, None)
        if len(parts) != 1:
            raise BadBarsError(f"{ticker}: expected the bars of one ticker, got those of {', '.join(parts)}")
        (frame,) = parts.values()
    index = _days(ticker, frame)
    found = {COLUMNS[_plain(name)]: name for name in frame.columns if _plain(name) in COLUMNS}
    known = [COLUMNS[_plain(name)] for name in frame.columns if _plain(name) in COLUMNS]
    if twice := sorted({name for name in known if known.count(name) > 1}):
        raise BadBarsError(f"{ticker}: the bars have several columns {', '.join(twice)}; keep one of each")
    if missing := [name for name in PRICES if name not in found]:
        raise BadBarsError(
            f"{ticker}: the bars have no column {', '.join(missing)}; expected Open, High, Low, Close, perhaps Adj "
            f"Close and Volume, got {', '.join(map(str, frame.columns))}"
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
            f"{ticker}: {len(repeated)} days stand twice, the first {repeated[0].date()}; keep one bar per day"
        )
    return made


def _days(ticker: str, frame: pd.DataFrame) -> pd.DatetimeIndex:
    """Days of the bars, from the index or from a column."""
    dated = [name for name in frame.columns if _plain(name) in DATE_COLUMNS]
    values = frame.index if isinstance(frame.index, pd.DatetimeIndex) or not dated else frame[dated[0]]
    if not dated and not isinstance(frame.index, pd.DatetimeIndex) and pd.api.types.is_numeric_dtype(frame.index):
        raise BadBarsError(f"{ticker}: the bars have no days; expected a DatetimeIndex or a column Date")
    written = pd.Index(values)
    if pd.api.types.is_numeric_dtype(written.dtype):  # 20240131
        written = written.astype(str)
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
