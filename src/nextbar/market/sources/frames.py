"""Bars from DataFrames: the reader of files takes what pandas and yfinance give."""

from __future__ import annotations

import datetime as dt
import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import numpy as np
import pandas as pd

from nextbar.config import DEFAULT_CALENDAR
from nextbar.datasets.prices import BASE, check_ticker, is_market_format
from nextbar.errors import BadBarsError, ConfigError, NextbarError, checked, outside
from nextbar.features.indicators import PRICES
from nextbar.market.quality import find_faults
from nextbar.market.sources.columns import Hints, Table, meaning_of, parse_columns
from nextbar.market.sources.reader import Origin, read_bars
from nextbar.words import alike, brief, excerpt, listed, plural

COLUMNS: Final = {name.lower().replace(" ", "_"): name for name in (*PRICES, "Adj Close", "Volume")}
QUIET: Final = ("ignored columns", "no volume", "resampled", "days are times", "a column per price")
"""Notes that a frame needs no warning for."""


@checked
def bars(
    data: pd.DataFrame | Mapping[str, pd.DataFrame],
    *,
    ticker: str | None = None,
    columns: Mapping[str, str] | str | None = None,
    ticker_column: str | None = None,
    date_column: str | None = None,
    date_format: str | None = None,
    decimal: str | None = None,
    resample: bool = False,
    calendar: str = DEFAULT_CALENDAR,
) -> dict[str, pd.DataFrame]:
    """Read bars from DataFrames in common formats, as ``nextbar ingest`` reads files.

    Args:
        data: A frame of one ticker; a frame of several with a column that says whose a bar is, or with columns
            (price, ticker) in either order, as yfinance gives it; or ticker → frame. Columns go by the names that
            vendors use: Open High Low Close, perhaps Adj Close and Volume. The days are the index or a column.
        ticker: Name of the ticker of a single frame; default: ``BARS``.
        columns: Which column is what, such as ``{"close": "Price"}``.
        ticker_column: The column that holds the symbol.
        date_column: The column that holds the day.
        date_format: How days are written, such as ``%d.%m.%Y``.
        decimal: Decimal mark of numbers that are texts.
        resample: Make daily bars of intraday ones.
        calendar: Exchange in whose zone a time becomes a day, and whose running day is left out.

    Returns:
        Ticker → float64 frame with the columns Open High Low Close Adj Close Volume (NaN where there are none) and a
        DatetimeIndex ``Date``, oldest first. What is refused, or decided, is a warning.

    Raises:
        BadBarsError: A column is missing, or no bar is good, or it cannot be told which is the day's bar.
        ConfigError: An option cannot be used.
    """
    texts = {"ticker": ticker, "decimal": decimal, "date_format": date_format, "calendar": calendar}
    for option, value in {**texts, "ticker_column": ticker_column, "date_column": date_column}.items():
        if value is not None and not isinstance(value, str):
            raise ConfigError(f"{option} expects a text, got {brief(value)}")
    if columns is not None and not isinstance(columns, Mapping | str):
        raise ConfigError(f"columns expects a mapping such as {{'close': 'Price'}}, got {brief(columns)}")
    named = dict(columns) if isinstance(columns, Mapping) else parse_columns(columns)
    if wrong := [value for value in named.values() if not isinstance(value, str)]:
        raise ConfigError(f"columns expects the names of columns as texts, got {brief(wrong[0])}")
    named |= {ours: name for ours, name in (("ticker", ticker_column), ("date", date_column)) if name is not None}
    parse_columns(",".join(f"{ours}=" for ours in named))
    if decimal not in (None, ".", ","):
        raise ConfigError(f"decimal expects '.' or ',', got {brief(decimal)}")
    hints = Hints(columns=named, date_format=date_format, decimal=decimal, resample=resample, calendar=calendar)
    if isinstance(data, pd.DataFrame):
        return _warn_of_case(_read(data, Origin(name="bars", hints=hints, ticker="BARS"), ticker))
    if not isinstance(data, Mapping) or not data:
        expected = "expected bars as a DataFrame, or as a mapping of ticker → DataFrame with at least one ticker"
        raise BadBarsError(f"{expected}, got {type(data).__name__}; nextbar.read_bars reads them from a database")
    found: dict[str, pd.DataFrame] = {}
    for name, frame in data.items():
        check_ticker(name)
        if not isinstance(frame, pd.DataFrame):
            raise BadBarsError(f"{name}: expected a DataFrame of bars, got {type(frame).__name__}")
        found |= _read(frame, Origin(name=name, hints=hints, ticker=name), name)
    return _warn_of_case(found)


def market_bars(data: pd.DataFrame | Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Take bars as `bars` and `read_bars` give them, with a warning of bad ones, and read others first."""
    if not isinstance(data, Mapping) or not data:
        return bars(data)
    for name in data:
        check_ticker(name)
    ready = {name: frame for name, frame in data.items() if is_market_format(frame)}
    for name, frame in ready.items():
        _warn_of_faults(name, frame)
    return {name: ready[name] if name in ready else bars({name: frame})[name] for name, frame in data.items()}


def frames_of(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the market-format frame of each ticker of `SourceBars.bars`."""
    days = pd.DatetimeIndex(pd.to_datetime(rows["date"], format="%Y-%m-%d"), name="Date").as_unit("s")
    numbers = rows.drop(columns=["ticker", "date"]).rename(columns=COLUMNS).reindex(columns=list(COLUMNS.values()))
    numbers = numbers.astype("float64").set_axis(days)
    return {str(name): part.sort_index() for name, part in numbers.groupby(rows["ticker"].to_numpy(), sort=True)}


def _read(frame: pd.DataFrame, origin: Origin, ticker: str | None) -> dict[str, pd.DataFrame]:
    table, date = _table(frame)
    owners = sorted({*table.owners} - {""})
    if ticker is not None and len(owners) > 1:
        raise BadBarsError(f"{ticker}: expected the bars of one ticker, got those of {listed(owners)}")
    columns = origin.hints.columns if date is None else {"date": date, **origin.hints.columns}
    hints = replace(origin.hints, ticker=ticker, columns=columns)
    try:
        source = read_bars(table, replace(origin, hints=hints, now=dt.datetime.now(dt.UTC)))
    except NextbarError as error:
        raise type(error)(_as_arguments(str(error))) from error
    told = [note for note in source.notes if not note.startswith(QUIET)]
    if len(source.refused) and len(source.bars):
        told.append(f"{plural(len(source.refused), 'bar')} refused: {_counted(source.refused)}")
    if told:
        warnings.warn(_as_arguments(f"{excerpt(origin.name)}: {'; '.join(told)}"), stacklevel=outside())
    if source.bars.empty:
        none = f"none of {plural(len(source.refused), 'bar')} can be used"
        raise BadBarsError(f"{origin.name}: {none}: {_counted(source.refused)}")
    found = frames_of(source.bars)
    for made in found.values():
        made.attrs = {BASE: frame.attrs[BASE]} if BASE in frame.attrs else {}
    return found


def _warn_of_case(found: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Return bars, with a warning of tickers that differ only in case."""
    for group in alike(found):
        advice = "rename one: where file names have no case, their files would be the same"
        warnings.warn(f"{' and '.join(map(excerpt, group))} differ only in case; {advice}", stacklevel=outside())
    return found


def _as_arguments(text: str) -> str:
    """Name the options of a message as arguments."""
    told = re.sub(r"--columns (\S+?)(?=:?(?:\s|$))", r'columns="\1"', text)
    return re.sub(r"--([a-z]+(?:-[a-z]+)*)", lambda match: f"{match[1].replace('-', '_')}=", told)


def _table(frame: pd.DataFrame) -> tuple[Table, str | None]:
    """Return a frame and its index as a table, and the position of the day where the index is one."""
    names = ["" if name is None else str(name) for name in frame.columns]
    owners = [""] * len(names)
    if isinstance(columns := frame.columns, pd.MultiIndex):
        kinds = [{meaning_of(name) for name in columns.get_level_values(i)} for i in range(columns.nlevels)]
        prices = [i for i, kind in enumerate(kinds) if kind >= {name.lower() for name in PRICES}]
        if columns.nlevels != 2 or len(prices) != 1:
            raise BadBarsError(f"expected columns (price, ticker), got {', '.join(map(str, columns[:5]))}")
        names, owners = ([*map(str, columns.get_level_values(i))] for i in (prices[0], 1 - prices[0]))
    index = frame.index
    levels = [] if isinstance(index, pd.RangeIndex) else [index.get_level_values(i) for i in range(index.nlevels)]
    values = [pd.Series(level).reset_index(drop=True) for level in levels]
    values += [frame.iloc[:, i].reset_index(drop=True) for i in range(frame.shape[1])]
    joined = pd.concat(values, axis=1) if values else pd.DataFrame()
    table = Table(
        frame=joined.set_axis(range(joined.shape[1]), axis=1),
        names=["" if level.name is None else str(level.name) for level in levels] + names,
        owners=[""] * len(levels) + owners,
    )
    dated = [str(i + 1) for i, level in enumerate(levels) if isinstance(level, pd.DatetimeIndex)]
    return table, dated[0] if len(dated) == 1 and dated[0] not in table.names else None


def _warn_of_faults(name: str, frame: pd.DataFrame) -> None:
    """Warn of bars that `bars` would refuse; they stay, because stored bars are trained on as they are."""
    days = frame.index.to_numpy().astype("datetime64[D]")
    plain = frame.rename(columns=lambda column: column.lower().replace(" ", "_")).assign(ticker=name)
    faults = find_faults(plain, days)
    if (bad := np.flatnonzero(faults != "")).size:
        told = _counted(pd.DataFrame({"reason": faults[bad], "line": days[bad].astype("str")}))
        advice = "only those without four positive prices are left out here; nextbar.bars refuses all of them"
        warnings.warn(f"{excerpt(name)}: {plural(bad.size, 'bad bar')}: {told}; {advice}", stacklevel=outside())


def _counted(refused: pd.DataFrame) -> str:
    """Count each reason, the commonest first, and show the first line of that one."""
    counts = refused["reason"].value_counts()
    first = excerpt(refused["line"][refused["reason"] == counts.index[0]].iloc[0], 60)
    return f"{listed([f'{reason} ({count})' for reason, count in counts.items()])}, the first {first}"
