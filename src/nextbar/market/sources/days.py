"""Days as people write them: one format for a whole column, times with an offset, epochs and serial numbers."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pandas as pd

from nextbar.errors import BadBarsError
from nextbar.market.quality import FEW, FIRST_DAY, SHARE
from nextbar.types import DateArray, FloatArray, IntArray
from nextbar.words import excerpt

NEAR: Final = np.datetime64("1700-01-01", "s"), np.datetime64("2300-01-01", "s")
"""Times that a zone can be applied to; no day outside is stored."""
FAR: Final = np.timedelta64(36_600, "D")
DAY_SECONDS: Final = 86_400
NO_DAY: Final = np.datetime64("NaT", "D")
_MONTHS: Final = (
    "jan gen ene янв|feb fev fév фев|mar mär mrz мар|apr avr abr апр|may mai mag май|jun juin giu июн|jul juil lug июл|"
    "aug aou aoû ago авг|sep set сен|oct okt ott out окт|nov ноя|dec dez dic déc дек"
)
MONTHS: Final = {word: n for n, words in enumerate(_MONTHS.split("|"), 1) for word in words.split()}
"""First letters of a month → its number."""
ZONES: Final = {"": np.nan, "Z": 0, "UTC": 0, "GMT": 0, "EST": -300, "EDT": -240, "CST": -360, "CDT": -300,
                "PST": -480, "PDT": -420, "JST": 540, "IST": 330, "CET": 60, "CEST": 120, "BST": 60}  # fmt: skip
"""Minutes east of UTC."""
CLOCK: Final = (
    r"^(?P<date>.*?\d\.?)(?:(?:T|[\s,;]+)(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:[.,]\d+)?)?"
    r"\s*(?P<half>[AaPp]\.?[Mm]\.?)?\s*(?P<zone>Z|[A-Z]{3,4}|[+-]\d{2}:?\d{2}|[+-]\d{2})?(?:\s*\(.*\)|\[.*\])?)?$"
)
WEEKDAY: Final = r"^(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*\.?,?\s+"
NUMBERS: Final = r"^(\d{1,4})\s*[-/. ]\s*(\d{1,2})\s*[-/. ]\s*(\d{4}|\d{1,2})\.?$"
NAMED: Final = {
    "%d %b %Y": (r"^(?P<d>\d{1,2})(?:st|nd|rd|th)?[\s\-/.,]*(?:de\s+)?(?P<m>[^\W\d_]{3,})[\s\-/.,]*(?:de\s+)?"
                 r"(?P<y>\d{4}|\d{2})$"),
    "%b %d %Y": r"^(?P<m>[^\W\d_]{3,})[\s\-/.,]*(?P<d>\d{1,2})(?:st|nd|rd|th)?[\s\-/.,]+(?P<y>\d{4}|\d{2})$",
    "%Y %b %d": r"^(?P<y>\d{4})[\s\-/.,]*(?P<m>[^\W\d_]{3,})[\s\-/.,]*(?P<d>\d{1,2})$",
}  # fmt: skip
ISO: Final = "%Y-%m-%d"
ORDERS: Final = {ISO: (0, 1, 2), "%Y-%d-%m": (0, 2, 1), "%m/%d/%Y": (2, 0, 1), "%d/%m/%Y": (2, 1, 0)}
"""Format → positions of year, month and day among three numbers."""
EPOCHS: Final = (1e11, 1e14, 1e17)
"""From these numbers on an epoch counts ms, µs and ns, no seconds."""
CLOSE_DAYS: Final = 40
MOST_CELL: Final = 64
"""A longer text is no day; patterns see none, because their time grows with a power of the length."""
EXCEL: Final = (np.datetime64("1899-12-30", "D"), 15_000, 80_000)
"""Day 0 of a spreadsheet, and numbers that are taken for its days: 1941 to 2119."""


Zone = Callable[[], dt.tzinfo]


class AmbiguousDaysError(BadBarsError):
    """The days of a column can be read in two ways."""


@dataclass(frozen=True, kw_only=True)
class Days:
    """A column of days.

    Attributes:
        times: [rows] in whole seconds, 0:00 where no time of day was written, NaT where no day could be read.
        form: The format, as a person writes it; ``guessed`` where it is worth a line.
    """

    times: Any
    form: str
    guessed: bool = False

    @property
    def days(self) -> DateArray:
        """[rows] the days alone."""
        return np.asarray(self.times.astype("datetime64[D]"))

    @property
    def seconds(self) -> IntArray:
        """[rows] time of day in seconds, 0 without a day."""
        return np.where(np.isnat(self.times), 0, self.times.astype(np.int64) % DAY_SECONDS)


def read_days(values: pd.Series[Any], zone: Zone, date_format: str | None, latest: np.datetime64) -> Days:
    """Read a column of texts, numbers, dates or times that is written in one format.

    A time with an offset, and an epoch, becomes a day in ``zone``, unless the column has a time of 0:00 in most rows:
    such a time is a day. No day is after ``latest``. Where two formats fit, that is an AmbiguousDaysError.
    """
    if isinstance(values.dtype, pd.DatetimeTZDtype):
        local, utc = (values.dt.tz_localize(None).to_numpy(), values.dt.tz_convert(None).to_numpy())
        return _placed(local, utc, zone, f"times in {values.dtype.tz}")
    if isinstance(values.dtype, np.dtype) and values.dtype.kind == "M":
        return Days(times=values.to_numpy().astype("datetime64[s]"), form="dates")
    codes, distinct = pd.factorize(_texts(values), use_na_sentinel=False)
    texts = pd.Series(distinct, dtype="object").astype("str").str.replace(r"\s+", " ", regex=True).str.strip()
    texts = texts.where(texts.str.len() <= MOST_CELL, "")
    numeric = texts.str.fullmatch(r"-?\d+(?:\.\d*)?(?:[eE]\+?\d+)?")
    if date_format is not None:
        found = _by_format(texts, zone, date_format)
    elif numeric.mean() > 0.5:
        found = _from_numbers(texts, zone, latest)
    else:
        found = _from_texts(texts, zone, latest)
    return replace(found, times=found.times[codes])


def read_clock(values: pd.Series[Any]) -> IntArray:
    """Read a column of times of day, such as 16:00:00, 160000 and 1600; -1 where it is none."""
    texts = values.astype("str").str.strip().str.removesuffix(".0")
    digits = texts.str.replace(":", "", regex=False).str.split(".").str[0]
    number = pd.to_numeric(digits.where(digits.str.fullmatch(r"\d{1,6}")), errors="coerce")
    short = texts.str.fullmatch(r"\d{1,2}:?\d{2}") & ~texts.str.fullmatch(r"0{1,6}")
    full = (number * np.where(short, 100, 1)).fillna(-1).to_numpy().astype(np.int64)
    hour, minute, second = full // 10_000, full // 100 % 100, full % 100
    return np.where((full >= 0) & (hour < 24), hour * 3600 + minute * 60 + second, -1)


def _texts(values: pd.Series[Any]) -> pd.Series[str]:
    """Write numbers without a fraction of 0, and dates as ISO; texts stay."""
    if pd.api.types.is_float_dtype(values.dtype):
        numbers = values.to_numpy(np.float64, na_value=np.nan)
        whole = np.isfinite(numbers) & (np.abs(numbers) < 2**62)
        return pd.Series(np.where(whole, numbers, 0).astype(np.int64)).astype("str").where(pd.Series(whole), "")
    return values.astype("str").fillna("")


def _placed(local: Any, utc: Any, zone: Zone, form: str) -> Days:
    """Make days of times with an offset: as they are written where most are 0:00, else those of the exchange's zone."""
    far = (utc < NEAR[0]) | (utc > NEAR[1])
    local, utc = (np.where(far, NO_DAY, times.astype("datetime64[s]")) for times in (local, utc))
    known = ~np.isnat(local)
    midnight = known & (local.astype(np.int64) % DAY_SECONDS == 0)
    midnight &= midnight.sum() * 2 > known.sum()
    if midnight.sum() == known.sum():
        return Days(times=local, form=f"{form}, all 0:00", guessed=True)
    place = zone()
    index = pd.DatetimeIndex(utc).tz_localize("UTC").tz_convert(place)
    local = np.where(midnight, local, index.tz_localize(None).to_numpy().astype("datetime64[s]"))
    return Days(times=local, form=f"{form}, days of {place}", guessed=True)


def _epochs(numbers: FloatArray, zone: Zone) -> Days:
    """Read seconds, ms, µs or ns since 1970, each by its size."""
    known = np.isfinite(numbers)
    unit = np.searchsorted(EPOCHS, np.abs(numbers), side="right").clip(0, 3)
    seconds = np.floor(np.where(known, numbers, 0) / 1000.0**unit).astype("datetime64[s]")
    utc = np.where(known, seconds, NO_DAY)
    used = [name for i, name in enumerate(("s", "ms", "µs", "ns")) if (unit[known] == i).any()]
    return _placed(utc, utc, zone, f"{' and '.join(used)} since 1970 in UTC")


def _from_numbers(texts: pd.Series[str], zone: Zone, latest: np.datetime64) -> Days:
    """Read 20240131, 20240131160000, 240131, spreadsheet days and epochs."""
    digits = texts.str.replace(r"\.0*$", "", regex=True)
    for length, form in ((8, "%Y%m%d"), (14, "%Y%m%d%H%M%S"), (12, "%Y%m%d%H%M")):
        whole = digits.where(digits.str.fullmatch(rf"\d{{{length}}}"))
        times = pd.to_datetime(whole, format=form, errors="coerce").to_numpy().astype("datetime64[s]")
        sane = (times >= FIRST_DAY) & (times <= latest + FAR)
        if sane.mean() > 0.5:
            return Days(times=times, form=form)
    six = digits.str.extract(r"^(\d{2})(\d{2})(\d{2})$")
    if six[0].notna().mean() > 0.5:
        short = _in_order(six, digits, latest)
        if (~np.isnat(short.times)).mean() > 0.5:
            return short
    numbers = pd.to_numeric(texts, errors="coerce").to_numpy(np.float64)
    start, least, most = EXCEL
    serial = (numbers >= least) & (numbers <= most) & ~texts.str.match(r"0\d").to_numpy(bool)
    if serial.mean() > 0.5:
        numbers = np.where(serial, numbers, np.nan)
        seconds = np.rint(np.nan_to_num(numbers % 1) * DAY_SECONDS) % DAY_SECONDS
        days = np.where(serial, start + np.nan_to_num(numbers).astype("timedelta64[D]"), NO_DAY)
        times = days.astype("datetime64[s]") + seconds.astype("timedelta64[s]")
        return Days(times=times, form="serial numbers of a spreadsheet, from 1899-12-30", guessed=True)
    if (np.abs(numbers) > 1e8).mean() > 0.5:
        return _epochs(np.where(numbers == 0, np.nan, numbers), zone)
    return Days(times=np.full(len(texts), NO_DAY, "datetime64[s]"), form="")


def _by_format(texts: pd.Series[str], zone: Zone, date_format: str) -> Days:
    """Read days in the format that the user names."""
    utc = "%z" in date_format or "%Z" in date_format
    try:
        times = pd.to_datetime(texts, format=date_format, errors="coerce", utc=utc)
    except ValueError as error:
        raise BadBarsError(f"--date-format {excerpt(date_format)}: {excerpt(error)}; expected %d.%m.%Y") from error
    found = read_days(pd.Series(times), zone, None, np.datetime64("9999-01-01", "D"))
    return Days(times=found.times, form=date_format)


def _from_texts(texts: pd.Series[str], zone: Zone, latest: np.datetime64) -> Days:
    """Read written days, with or without a time."""
    cleaned = texts.str.replace(WEEKDAY, "", regex=True, case=False)
    cleaned = cleaned.str.replace(r"\s*[年月년월]\s*", "-", regex=True).str.replace(r"[日일]", "", regex=True)
    cleaned = cleaned.str.replace(r"^(\d{8})[ T]?(\d{2})(\d{2})(\d{2})(?!\d)", r"\1 \2:\3:\4", regex=True)
    parts = cleaned.str.extract(CLOCK)
    found = _written_days(parts["date"].fillna("").str.strip(), latest)
    seconds, offset = _written_times(parts)
    times = found.times + seconds.astype("timedelta64[s]")
    rows = np.flatnonzero(np.isfinite(offset) & ~np.isnat(times))
    if not len(rows):
        return replace(found, times=times)
    utc = times[rows] - (offset[rows] * 60).astype("timedelta64[s]")
    placed = _placed(times[rows], utc, zone, f"{found.form} with an offset")
    times[rows] = placed.times
    return replace(placed, times=times)


def _written_times(parts: pd.DataFrame) -> tuple[IntArray, FloatArray]:
    """Return times of day in seconds, and offsets in minutes, NaN where there is none."""
    hour, minute, second = (pd.to_numeric(parts[name]).fillna(0).to_numpy() for name in ("hour", "minute", "second"))
    half = parts["half"].fillna("").str[:1].str.lower()
    hour = np.where(half == "", hour, hour % 12 + 12 * (half == "p"))
    named = parts["zone"].fillna("")
    signed = named.str.extract(r"^([+-])(\d{2}):?(\d{2})?$")
    minutes = pd.to_numeric(signed[1]).fillna(0) * 60 + pd.to_numeric(signed[2]).fillna(0)
    offset = (minutes * np.where(signed[0] == "-", -1.0, 1.0)).where(signed[0].notna(), named.map(ZONES))
    seconds: IntArray = (hour * 3600 + minute * 60 + second).astype(np.int64) % DAY_SECONDS
    return seconds, offset.to_numpy(np.float64)


def _written_days(written: pd.Series[str], latest: np.datetime64) -> Days:
    """Read days in the format that fits most of them."""
    compact = written.str.fullmatch(r"\d{8}")
    written = written.where(~compact, written.str.replace(r"^(\d{4})(\d{2})(\d{2})$", r"\1-\2-\3", regex=True))
    numbers = written.str.extract(NUMBERS)
    if numbers[0].notna().sum() * 2 >= len(written):
        return _in_order(numbers, written, latest)
    found: Mapping[str, pd.DataFrame] = {form: written.str.extract(pattern) for form, pattern in NAMED.items()}
    form = max(found, key=lambda name: int(found[name]["d"].notna().sum()))
    named = found[form]["m"].fillna("").str.lower()
    month = named.str[:4].map(MONTHS).fillna(named.str[:3].map(MONTHS))
    year, day = (pd.to_numeric(found[form][name]) for name in ("y", "d"))
    days = _dates(_full_year(year, found[form]["y"], latest), month, day)
    return Days(times=days.astype("datetime64[s]"), form=form)


def _in_order(numbers: pd.DataFrame, written: pd.Series[str], latest: np.datetime64) -> Days:
    """Read three numbers in the one order that gives days in all rows: a day above 12 decides."""
    values = [pd.to_numeric(numbers[i]) for i in range(3)]
    tried: dict[str, tuple[DateArray, int]] = {}
    for form, order in ORDERS.items():
        year, month, day = (values[i] for i in order)
        days = _dates(_full_year(year, numbers[order[0]], latest), month, day)
        if form == "%Y-%d-%m":
            faults = int((np.isnat(tried[ISO][0]) & ~np.isnat(days)).sum())
            if faults <= max(FEW, SHARE * len(days)):
                continue  # ISO 8601 with single faults, which are refused
        full = bool((numbers[order[0]].str.len() == 4).any())
        tried[form] = days, int((~np.isnat(days)).sum()) if full or _runs_on(days) else 0
    form = max(tried, key=lambda name: tried[name][1])
    best, count = tried[form]
    if not count:
        return Days(times=best.astype("datetime64[s]"), form="")
    for other, (days, fits) in tried.items():
        alone = np.isnat(best) & ~np.isnat(days)
        differs = (days != best) & ~np.isnat(days)
        if alone.any():
            why, odd = "some days fit one format alone and some another", alone
        elif differs.any() and fits == count:
            why, odd = "two formats fit all days", differs
        elif form == "%Y-%d-%m" and other == ISO and 2 * fits > count:
            why, odd = "two formats fit most days", np.isnat(days) & ~np.isnat(best)
        else:
            continue
        forms = " and ".join(sorted(_shown(name, numbers, written, tried[name][0]) for name in (form, other)))
        raise AmbiguousDaysError(f"{why} ({forms}), such as {excerpt(written[int(odd.argmax())])!r}")
    guessed = form != ISO or bool((numbers[0].str.len() < 4).any())
    return Days(times=best.astype("datetime64[s]"), form=_shown(form, numbers, written, best), guessed=guessed)


def _runs_on(days: DateArray) -> bool:
    """Tell whether days follow each other closely: three numbers of two digits may be one day of many years."""
    known = days[~np.isnat(days)].astype(np.int64)
    return len(known) < 2 or float(np.median(np.abs(np.diff(known)))) <= CLOSE_DAYS


def _shown(form: str, numbers: pd.DataFrame, written: pd.Series[str], days: DateArray) -> str:
    """Return a format with the marks, and the number of digits of the year, of the days that it fits."""
    fits = ~np.isnat(days)
    digits = numbers[ORDERS[form][0]][fits].str.len().max()
    parts: list[str] = re.findall("%.", form if digits == 4 else form.replace("%Y", "%y"))
    marks = re.findall(r"[-/. ]", str(written[int(fits.argmax())]))
    return "".join(part + mark for part, mark in zip(parts, [*marks[:2], "", "", ""], strict=False))


def _full_year(year: pd.Series[Any], text: pd.Series[Any], latest: np.datetime64) -> pd.Series[Any]:
    """Complete a year of two digits: the latest one that is not in the future; one or three digits are none."""
    digits, this = text.str.len(), int(str(latest)[:4])
    short = this - (this - year) % 100
    return year.where(digits == 4, short.where(digits == 2))


def _dates(year: pd.Series[Any], month: pd.Series[Any], day: pd.Series[Any]) -> DateArray:
    """Return dates, NaT where the numbers are none; pandas 2 would carry a 13th month or a 32nd day over."""
    months, days = month.where(month.between(1, 12)), day.where(day.between(1, 31))
    parts = pd.DataFrame({"year": year.where(year > 0), "month": months, "day": days})
    return np.asarray(pd.to_datetime(parts, errors="coerce").to_numpy().astype("datetime64[D]"))
