"""Trading days of an exchange, from exchange_calendars; a name that it does not know is a ConfigError."""

from __future__ import annotations

import datetime as dt
import warnings
from typing import Any, Final

import exchange_calendars
import numpy as np
from exchange_calendars.errors import InvalidCalendarName

from nextbar.errors import ConfigError
from nextbar.types import DateArray

DELAY: Final = dt.timedelta(minutes=30)
"""Time from the close until a vendor has the day's bar."""


def sessions(calendar: str, first: np.datetime64, last: np.datetime64) -> DateArray:
    """Return the trading days from first to last, as far as the calendar reaches."""
    found: DateArray = _calendar(calendar, first, last).sessions.to_numpy().astype("datetime64[D]")
    return found[(found >= first) & (found <= last)]


def last_finished_day(calendar: str, now: dt.datetime) -> dt.date:
    """Return the latest day on which all trading is over at a time, which has a zone."""
    exchange = _calendar(calendar, *[np.datetime64(now.date(), "D")] * 2)
    today = now.astimezone(exchange.tz).date()
    over = exchange.is_session(str(today)) and now >= exchange.session_close(str(today)) + DELAY
    return today if over else today - dt.timedelta(days=1)


def next_session(calendar: str, day: np.datetime64) -> np.datetime64 | None:
    """Return the first trading day from a day on; None where the calendar reaches no further."""
    found = sessions(calendar, day, day + np.timedelta64(10, "D"))
    return found[0] if len(found) else None


def zone_of(calendar: str) -> dt.tzinfo:
    """Return the zone of an exchange."""
    found: dt.tzinfo = _calendar(calendar, *[np.datetime64("2024-01-02", "D")] * 2).tz
    return found


def closing_second(calendar: str, day: np.datetime64) -> int | None:
    """Return when a session closes, in seconds of its day in the exchange's zone; None where there is none."""
    exchange = _calendar(calendar, day, day)
    if not exchange.is_session(str(day)):
        return None
    close = exchange.session_close(str(day)).tz_convert(exchange.tz)
    midnight = close.tz_localize(None) - close.tz_localize(None).normalize()
    return int(midnight.total_seconds()) or 86_400


def _calendar(name: str, first: np.datetime64, last: np.datetime64) -> Any:
    """Load a calendar with a few days more on both sides, as far as it reaches.

    Warnings of deprecated pandas are not for the user: exchange_calendars 4.13 causes them on pandas 3.1.
    """
    spare = np.timedelta64(10, "D")
    start, end = str(first - spare), str(last + spare)
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        try:
            return exchange_calendars.get_calendar(name, start=start, end=end)
        except InvalidCalendarName as error:
            known = "XNYS (New York), XLON (London), XETR (Frankfurt), XTKS (Tokyo), 24/7, …"
            raise ConfigError(f"--calendar {name}: no such exchange; expected a name such as {known}") from error
        except NotImplementedError as error:
            raise ConfigError(
                f"--calendar {name}: the installed exchange_calendars cannot make this calendar; name an exchange with "
                "the same trading days"
            ) from error
        except ValueError:
            whole = exchange_calendars.get_calendar(name)
            earliest, latest = (bound and str(bound.date()) for bound in (whole.bound_min(), whole.bound_max()))
            start, end = max(start, earliest or start), min(end, latest or end)
            return exchange_calendars.get_calendar(name, start=start, end=end)
