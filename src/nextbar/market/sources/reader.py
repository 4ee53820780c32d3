"""The way from a source's table to bars, step by step: columns, tickers, days, numbers, refused rows, one row a day."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Any, Final

import numpy as np
import pandas as pd

from nextbar.errors import BadBarsError
from nextbar.market.calendar import closing_second, last_finished_day, zone_of
from nextbar.market.quality import NEVER, ONE_DAY, find_faults, one_row_a_day
from nextbar.market.schema import BAR_COLUMNS
from nextbar.market.sources.columns import (
    NUMBER_COLUMNS,
    UNNAMED,
    Hints,
    Table,
    find_columns,
    is_symbols,
    plain,
    require,
    split_owners,
    ticker_of,
    to_long,
)
from nextbar.market.sources.days import AmbiguousDaysError, Days, read_clock, read_days
from nextbar.market.sources.numbers import all_digits, read_numbers
from nextbar.market.sources.text import split_line
from nextbar.types import IntArray
from nextbar.words import excerpt, listed, plural

REFUSED: Final = ("ticker", "file", "reason", "line")


@dataclass(frozen=True, kw_only=True)
class SourceBars:
    """Good bars of a source, and what there is to say about it.

    Attributes:
        bars: [rows] ticker, date (text YYYY-MM-DD), float64 open high low close [adj_close] volume; each day once.
        notes: A line for each guess and loss.
        understood: What was found, for a look before anything is stored.
        left_out: File or ticker → why none of its bars are used.
    """

    bars: pd.DataFrame
    refused: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(REFUSED), dtype="str"))
    notes: tuple[str, ...] = ()
    understood: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a table comes from.

    Attributes:
        name: As messages call it.
        ticker: The ticker where there is no column for it.
        stem: The file's name, of which the ticker is made where nothing else says it.
        now: The time: a day that is not over is refused; None: only a day after tomorrow is.
    """

    name: str
    hints: Hints = field(default_factory=Hints)
    ticker: str | None = None
    stem: str = ""
    now: dt.datetime | None = None


def source_bars(raw: pd.DataFrame, origin: str) -> SourceBars:
    """Read the bars of a frame with the days and the tickers in columns."""
    frame = raw.reset_index(drop=True).set_axis(range(raw.shape[1]), axis=1)
    names = ["" if name is None else str(name) for name in raw.columns]
    return read_bars(Table(frame=frame, names=names), Origin(name=origin))


def read_bars(table: Table, origin: Origin) -> SourceBars:
    """Read the bars of a table, or refuse what is none."""
    table, owner = to_long(split_owners(table))
    found = _with_date(table, find_columns(table, origin.hints, origin.name))
    require(table, found, origin.name)
    if table.frame.empty:
        raise BadBarsError(f"{origin.name}: no row below the header")
    days = _read_days(table, found, origin)
    tickers, notes = _read_tickers(table, found, replace(origin, ticker=owner or origin.ticker), days)
    columns: dict[str, pd.Series[Any]] = {name: table.frame[found[name]] for name in NUMBER_COLUMNS if name in found}
    numbers, lost = read_numbers(columns, origin.hints.decimal, table.separator)
    bars, void = _without_void_adjustment(pd.DataFrame({"ticker": tickers, "date": _day_texts(days.days), **numbers}))
    if "volume" not in bars:
        bars["volume"] = np.nan
    bars = bars[[name for name in BAR_COLUMNS if name in bars]]
    until, today = _clock(bars, origin)
    faults = find_faults(bars, days.days, until=until, today=today)
    faults[_running_rows(bars, days.seconds, faults, origin.hints)] = "a time of day among days: the day was not over"
    good = np.flatnonzero(faults == "")
    others = [i for i in range(len(table.names)) if i not in found.values() and _is_text(table.frame[i])]
    texts = {table.names[i]: table.frame[i].iloc[good] for i in others}
    kept = one_row_a_day(bars.iloc[good], days.seconds[good], texts, origin.name, resample=origin.hints.resample)
    faults[good[list(kept.dropped)]] = list(kept.dropped.values())
    notes = [*table.notes, *notes, *([f"days are {days.form}"] if days.guessed else []), *lost, *void]
    notes += [*_ignored(table, found), *kept.notes]
    if today is not None and (count := int((kept.bars["date"] > str(today)).sum())):
        notes.append(f"{plural(count, 'bar')} of tomorrow, {today + ONE_DAY}: is the clock right?")
    return SourceBars(
        bars=kept.bars.reset_index(drop=True),
        refused=_refused(table, bars["ticker"], faults, origin.name),
        notes=tuple(dict.fromkeys(notes)),
        understood=_understood(table, bars, days, found),
    )


def _ignored(table: Table, found: Mapping[str, int]) -> list[str]:
    """Name the columns that nobody reads, and the lack of volume."""
    used = {*found.values(), *_clocks(table, found)}
    names = [name for place, name in enumerate(table.names) if place not in used and plain(name) not in UNNAMED]
    ignored = [f"ignored columns: {listed([excerpt(name, 30) for name in names], 8)}"] if names else []
    return ignored if "volume" in found else [*ignored, "no volume"]


def _refused(table: Table, tickers: pd.Series[str], faults: Any, name: str) -> pd.DataFrame:
    """List refused rows, and lines that were no rows."""
    rows = np.flatnonzero(faults != "")
    lines = zip(tickers.iloc[rows].astype("str"), faults[rows], csv_lines(table.frame.iloc[rows]), strict=True)
    alone = tickers.iloc[0] if (tickers == tickers.iloc[0]).all() else ""
    listing = [*lines, *((alone, reason, line) for reason, line in table.refused)]
    every = [(ticker, name, reason, line) for ticker, reason, line in listing]
    return pd.DataFrame(every, columns=list(REFUSED), dtype="str")


def _understood(table: Table, bars: pd.DataFrame, days: Days, found: Mapping[str, int]) -> tuple[str, ...]:
    """Say which column is what, how days are written, and which tickers and days there are."""
    pairs = [f"{ours} = {excerpt(table.names[place], 30) or f'column {place + 1}'}" for ours, place in found.items()]
    names = [excerpt(name, 20) for name in bars["ticker"].unique()]
    known = bars["date"][bars["date"] != ""]
    span = f"{known.min()} to {known.max()}" if len(known) else "none"
    return (
        f"columns: {', '.join(pairs)}",
        f"days: {span}, written as {days.form}",
        f"tickers: {len(names)} ({listed(names, 6)}), {plural(len(bars), 'row')}",
    )


def csv_lines(frame: pd.DataFrame) -> list[str]:
    """Write rows as lines of a CSV file."""
    flat = frame.astype("str").apply(lambda column: column.str.replace(r"[\r\n]", " ", regex=True))
    lines: str = flat.to_csv(header=False, index=False, lineterminator="\n")
    return lines.split("\n")[:-1]


def _is_text(column: pd.Series[Any]) -> bool:
    """Tell whether a column holds words."""
    if not (pd.api.types.is_string_dtype(column.dtype) or column.dtype == object):
        return False
    return bool(pd.to_numeric(column.head(200).replace("", np.nan), errors="coerce").isna().any())


def _clock(bars: pd.DataFrame, origin: Origin) -> tuple[np.datetime64, np.datetime64 | None]:
    """Return the last day that is over, and today; the calendar is asked only where a day is near."""
    if origin.now is None:
        return NEVER, None
    over = today = origin.now.date()
    if (bars["date"] > str(today - dt.timedelta(days=2))).any():
        calendar = origin.hints.calendar
        over, today = last_finished_day(calendar, origin.now), origin.now.astimezone(zone_of(calendar)).date()
    return np.datetime64(over, "D"), np.datetime64(today, "D")


def _running_rows(bars: pd.DataFrame, seconds: IntArray, faults: Any, hints: Hints) -> IntArray:
    """Find rows of the last day at a time, before the close, that no other day has: the day was still running."""
    good = np.flatnonzero(faults == "")
    if len(good) < 3 or not seconds[good].any():
        return np.array([], dtype=np.int64)
    dates = bars["date"].iloc[good]
    latest = (dates == dates.max()).to_numpy()
    usual = np.unique(seconds[good[~latest]])
    odd: IntArray = good[latest & ~np.isin(seconds[good], usual)]
    if hints.resample and bars.iloc[odd].duplicated(["ticker", "date"]).any():
        return odd[:0]  # hours of which a daily bar is asked
    if len(usual) != 1 and len(usual) * 2 > (~latest).sum():
        return odd[:0]  # the times of the other days have no order
    close = closing_second(hints.calendar, np.datetime64(dates.max(), "D")) if len(odd) else None
    return odd if close is None else np.asarray(odd[seconds[odd] < close])


def _with_date(table: Table, found: dict[str, int]) -> dict[str, int]:
    """Find the day where no name is known: the only name with "date" in it, or a nameless column of days."""
    if "date" in found or table.frame.empty:
        return found
    named = [i for i, name in enumerate(table.names) if re.search("date|time|dia$|tag$", plain(name))]
    nameless = [i for i, name in enumerate(table.names) if plain(name) in (*UNNAMED, "index")]
    for place in named if len(named) == 1 else nameless:
        try:
            days = read_days(table.frame[place].head(50), lambda: dt.UTC, None, np.datetime64("2200-01-01", "D"))
        except AmbiguousDaysError:
            days = None
        if days is None or (~np.isnat(days.days)).mean() > 0.5:
            return {name: at for name, at in found.items() if at != place} | {"date": place}
    return found


def _read_days(table: Table, found: Mapping[str, int], origin: Origin) -> Days:
    """Read the days, and the times that stand in a column of their own."""
    latest = np.datetime64(dt.datetime.now(dt.UTC).date(), "D") + np.timedelta64(1, "D")
    column, hints = table.frame[found["date"]], origin.hints

    def read(date_format: str | None) -> Days:
        return read_days(column, lambda: zone_of(hints.calendar), date_format, latest)

    try:
        days = read(hints.date_format)
    except AmbiguousDaysError as error:
        raise BadBarsError(f"{origin.name}: {error}; say which: --date-format") from error
    bad = np.isnat(days.days)
    if bad.mean() > 0.5:
        written = bad & (column.astype("str").str.strip() != "").to_numpy(bool)
        row = int((written if written.any() else bad).argmax())
        met = f"bad date {excerpt(column.iloc[row], 40)!r} in column {excerpt(table.names[found['date']])!r}"
        why = "; days must be such as 2024-01-31, in one format; or say it: --date-format %d.%m.%Y, --date-column NAME"
        if hints.date_format:
            why = f", is not written as --date-format {hints.date_format}{_fitting(read)}"
        raise BadBarsError(f"{origin.name}: {met}, {_place_of(table, row, str(column.iloc[row]).strip())}{why}")
    if clocks := _clocks(table, found):
        clock = read_clock(table.frame[clocks[0]])
        seconds = np.where(clock >= 0, clock, days.seconds)
        days = replace(days, times=days.days.astype("datetime64[s]") + seconds.astype("timedelta64[s]"))
    return days


def _place_of(table: Table, row: int, cell: str) -> str:
    """Return the first line of the text that has the cell, or the number of the row."""
    for number, line in enumerate(BytesIO(table.text), 1):
        if cell and cell.encode() in line and cell in split_line(line.decode(), table.separator):
            return f"line {number}"
    return f"row {row + 1}"


def _fitting(read: Callable[[str | None], Days]) -> str:
    """Say how days can be read without the format that the user names."""
    try:
        days = read(None)
    except AmbiguousDaysError as error:
        return f"; {error}"
    return "" if np.isnat(days.days).mean() > 0.5 else f"; without the option days are read as {days.form}"


def _clocks(table: Table, found: Mapping[str, int]) -> list[int]:
    return [i for i, name in enumerate(table.names) if plain(name) in ("time", "hora") and i != found["date"]]


def _day_texts(days: Any) -> pd.Series[str]:
    """Write days as YYYY-MM-DD, "" for none."""
    codes, distinct = pd.factorize(days, use_na_sentinel=False)
    texts = np.datetime_as_string(np.asarray(distinct).astype("datetime64[D]"))
    return pd.Series(texts, dtype="str").replace("NaT", "").take(codes).reset_index(drop=True)


def _read_tickers(table: Table, found: dict[str, int], origin: Origin, days: Days) -> tuple[pd.Series[str], list[str]]:
    """Give each row its ticker: from the user, a column, or the file's name."""
    given = origin.hints.ticker
    place, notes = found.get("ticker"), list[str]()
    if place is None and (place := _weak_ticker(table, found)) is not None:
        notes.append(f"the ticker is {_name(table, place)} (--ticker-column)")
    found.pop("weak", None)
    if place is None and not given and not origin.ticker and (place := _explaining(table, found, days)) is not None:
        notes.append(f"dates repeat: the ticker is {_name(table, place)} (--ticker-column)")
    if place is not None:
        found["ticker"] = place
        texts = _symbol_texts(table.frame[place])
        names = texts.unique()
        if given and len(names) > 1:
            told = f"{given} is named as its ticker; it has {len(names)}, such as {excerpt(names[0])}"
            raise BadBarsError(f"{origin.name}: {told}")
        if not given:
            return _with_series(table, found, texts, notes), notes
        if names[0] != given:
            notes.append(f"ticker {excerpt(names[0])} of the file replaced")
    name = given or origin.ticker
    if name is None:
        name = ticker_of(origin.stem, origin.name)
        made = "the ticker is the file's name" if name == origin.stem else f"ticker {name}, from the file's name"
        notes.append(f"{made} (--ticker)")
    whole = pd.Series([name] * len(table.frame), dtype="str")
    return _with_series(table, found, whole, notes), notes


def _name(table: Table, place: int) -> str:
    return repr(excerpt(table.names[place])) if table.names[place] else f"column {place + 1}"


def _symbol_texts(column: pd.Series[Any]) -> pd.Series[str]:
    """Return tickers as texts, whole numbers without a fraction, none as ""."""
    if pd.api.types.is_float_dtype(column.dtype):
        return column.map(all_digits).astype("str")
    codes, distinct = pd.factorize(column)
    return pd.Series([*map(str, distinct), ""], dtype="str").str.strip().iloc[codes].reset_index(drop=True)


def _weak_ticker(table: Table, found: Mapping[str, int]) -> int | None:
    """Take a column that may be the ticker by its name where its values look like symbols and do not count rows."""
    place = found.get("weak")
    if place is None:
        return None
    texts = _symbol_texts(table.frame[place])
    counts_rows = texts.is_unique and pd.to_numeric(texts, errors="coerce").notna().all()
    return place if is_symbols(texts.unique()) and not counts_rows else None


def _explaining(table: Table, found: Mapping[str, int], days: Days) -> int | None:
    """Find the one column of symbols in a table whose days repeat, once for each symbol."""
    codes = pd.Series(days.days)
    if codes.duplicated().mean() < 0.3:
        return None
    hits = []
    for place in {*range(len(table.names))} - {*found.values(), *_clocks(table, found)}:
        if not _is_text(table.frame[place]):
            continue
        texts = _symbol_texts(table.frame[place])
        alone = pd.DataFrame({"day": codes, "text": texts}).duplicated().mean() <= 0.05
        if 1 < texts.nunique() <= len(texts) / 2 and alone:
            hits.append((place, is_symbols(texts.unique())))
    return hits[0][0] if len(hits) == 1 and hits[0][1] else None


def _with_series(table: Table, found: Mapping[str, int], tickers: pd.Series[str], notes: list[str]) -> pd.Series[str]:
    """Keep series of a security apart, as NSE's EQ and BE: EQ, or the only one, has the symbol alone."""
    if "series" not in found:
        return tickers
    series = _symbol_texts(table.frame[found["series"]])
    main = series == "EQ"
    if not main.any():
        main = series.groupby(tickers).transform("nunique") <= 1
    other = ~main & (series != "")
    if not other.any():
        return tickers
    own = tickers + "-" + series
    names = listed(sorted(series[other].unique()), 4)
    notes.append(f"series {names} are separate tickers, such as {own[other].iloc[0]}")
    return tickers.where(~other, own)


def _without_void_adjustment(bars: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Take an adj_close that is 0, negative or infinite on all bars of a ticker for none."""
    adjusted = bars.get("adj_close", pd.Series(np.nan, index=bars.index))
    void = (adjusted <= 0) | np.isinf(adjusted)
    nowhere = void & ~(~void & adjusted.notna()).groupby(bars["ticker"]).transform("any") if void.any() else void
    if not nowhere.any():
        return bars, []
    first = f"{adjusted[nowhere].iloc[0]:g}"
    names = listed([excerpt(name, 20) for name in bars["ticker"][nowhere].unique()], 3)
    note = f"adj_close is {first} or the like on all bars of {names}: taken as missing"
    return bars.assign(adj_close=adjusted.mask(nowhere)), [note]
