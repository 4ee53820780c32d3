"""DataAccessLayer: the one way from the market database into the rest of nextbar."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import overload

import numpy as np
import pandas as pd
from sqlalchemy import Connection, func, inspect, select

from nextbar.errors import BadBarsError, ConfigError, UnknownTickerError
from nextbar.market import schema
from nextbar.market.frames import NO_BARS, History, market_frame, split_histories
from nextbar.market.queries import day_text, fetch, whole_histories
from nextbar.market.session import database_errors, locate, open_reader, read

Day = str | dt.date


class DataAccessLayer:
    """Bars out of a database that is never altered by reading it.

    Args:
        db: A path of an SQLite file or an SQLAlchemy URL.
        adjust: Give prices adjusted forward where the database has ``adj_close``; False gives them as quoted.

    Raises:
        DatabaseError: The database is missing, unreadable or has not our two tables.
        MissingExtraError: The server's driver is not installed.
    """

    def __init__(self, db: str | Path, *, adjust: bool = True) -> None:
        self._adjust = adjust
        self._market = open_reader(db)
        self._prices = read(self._market, partial(schema.reflect_prices, name=self._market.name))

    def __enter__(self) -> DataAccessLayer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release what is held; closing twice is harmless."""
        self._market.close()

    def get_tickers(self) -> list[str]:
        """Every symbol of the table ``tickers``, sorted.

        Raises:
            DatabaseError: The database cannot be read.
        """
        return read(self._market, lambda connection: sorted(connection.scalars(select(schema.tickers.c.ticker))))

    @overload
    def get_stock_prices(  # type: ignore[overload-overlap]  # a str is a sequence of str, and the first rule wins
        self,
        ticker: str,
        start_date: Day | None = None,
        end_date: Day | None = None,
        *,
        quoted: bool = False,
        quoted_volume: bool = False,
    ) -> pd.DataFrame: ...

    @overload
    def get_stock_prices(
        self,
        ticker: Sequence[str],
        start_date: Day | None = None,
        end_date: Day | None = None,
        *,
        quoted: bool = False,
        quoted_volume: bool = False,
    ) -> dict[str, pd.DataFrame]: ...

    def get_stock_prices(
        self,
        ticker: str | Sequence[str],
        start_date: Day | None = None,
        end_date: Day | None = None,
        *,
        quoted: bool = False,
        quoted_volume: bool = False,
    ) -> pd.DataFrame | dict[str, pd.DataFrame]:
        """Daily bars of one ticker, or of several in one database read.

        The whole history is read and then cut, because the adjustment begins at the first stored bar: a price does not
        depend on ``start_date``. Nothing is cleaned: duplicate days stay, NULL becomes NaN.

        Args:
            ticker: A symbol, or symbols.
            start_date: First day, included.
            end_date: Last day, included.
            quoted: Add a sixth column ``Quoted``, the close as it was quoted that day.
            quoted_volume: Leave the volume as it was quoted, as version 0.1.0 did; else, where prices are adjusted, it
                takes their inverse factor.

        Returns:
            For a symbol a frame, one row per bar, oldest first: float64 columns Open High Low Close Volume and a
            DatetimeIndex ``Date``; ``attrs["adjustment"]`` is "forward", "raw" (asked for) or "none" (no
            ``adj_close``). For several a dict of such frames in the order asked. A listed ticker without bars gives an
            empty frame.

        Raises:
            UnknownTickerError: The database holds no bars of a ticker and does not list it; all such are named.
            BadBarsError: A stored date is not ``YYYY-MM-DD``, or a stored price is a text.
            ConfigError: ``start_date`` or ``end_date`` is not a day.
            DatabaseError: The database cannot be read.
        """
        days = as_day("start_date", start_date), as_day("end_date", end_date)
        names = [ticker] if isinstance(ticker, str) else list(ticker)
        frames = self.frames(self.get_histories(names), *days, quoted=quoted, quoted_volume=quoted_volume)
        return frames[ticker] if isinstance(ticker, str) else frames

    def frames(
        self,
        histories: Mapping[str, History],
        start: np.datetime64 | None,
        end: np.datetime64 | None,
        *,
        quoted: bool,
        quoted_volume: bool,
    ) -> dict[str, pd.DataFrame]:
        """What `get_stock_prices` returns, from histories that were read before."""
        return {
            name: market_frame(history, start, end, adjust=self._adjust, quoted=quoted, quoted_volume=quoted_volume)
            for name, history in histories.items()
        }

    def get_histories(self, names: Sequence[str]) -> dict[str, History]:
        """Whole histories as they are stored, with ``adj_close``, in the order asked; errors as above."""
        listed = self.get_tickers()
        dialect = self._market.engine.dialect
        query = whole_histories(self._prices, names, listed=len(listed), dialect=dialect)
        found = split_histories(fetch(self._market, query))
        self._refuse_unknown(names, found, listed)
        return {name: found.get(name, NO_BARS) for name in names}

    def _refuse_unknown(self, names: Sequence[str], found: Mapping[str, History], listed: Sequence[str]) -> None:
        unknown = sorted(set(names) - set(found) - set(listed))
        if unknown:
            hints = "; ".join(f"{name} ({_nearest(name, listed)})" for name in unknown)
            raise UnknownTickerError(
                f"{self._market.name} holds {len(listed)} tickers, but no bars of {hints}. "
                f"Import them with: nextbar ingest csv PATH --db {self._market.name}"
            )


def stored_spans(db: str | Path) -> dict[str, tuple[dt.date, dt.date]]:
    """Ticker → days of its first and last stored bar; nothing where there is no database or table yet.

    Raises:
        DatabaseError: The database cannot be read.
        BadBarsError: A stored date is not ``YYYY-MM-DD``.
        MissingExtraError: The server's driver is not installed.
    """
    url = locate(db)
    with database_errors(str(url.database)):
        if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
            return {}
    market = open_reader(db)
    try:
        return read(market, partial(_spans, name=market.name))
    finally:
        market.close()


def _spans(connection: Connection, name: str) -> dict[str, tuple[dt.date, dt.date]]:
    if not inspect(connection).has_table("stock_prices"):
        return {}
    prices = schema.reflect_prices(connection, name)
    day = day_text(prices.c.date, connection.dialect)
    rows = connection.execute(select(prices.c.ticker, func.min(day), func.max(day)).group_by(prices.c.ticker))
    try:
        return {ticker: (dt.date.fromisoformat(first), dt.date.fromisoformat(last)) for ticker, first, last in rows}
    except (TypeError, ValueError) as error:
        raise BadBarsError(f"{name}: a stored date is not a day written YYYY-MM-DD ({error}); correct it") from error


def _nearest(name: str, listed: Sequence[str]) -> str:
    by_upper = {known.upper(): known for known in listed}
    matches = [by_upper[match] for match in get_close_matches(name.upper(), list(by_upper), n=3, cutoff=0.5)]
    return f"nearest: {', '.join(matches)}" if matches else "nothing similar"


def as_day(option: str, value: Day | None) -> np.datetime64 | None:
    """A day, or None.

    Raises:
        ConfigError: ``value`` is not a day.
    """
    if value is None:
        return None
    try:
        return np.datetime64(pd.Timestamp(value).date(), "D")
    except ValueError as error:
        raise ConfigError(f"{option}: {value!r} is not a day; expected YYYY-MM-DD") from error
