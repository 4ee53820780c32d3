"""When an exchange trades. The door to exchange_calendars."""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

import exchange_calendars
import numpy as np
from exchange_calendars.errors import InvalidCalendarName

from nextbar.errors import ConfigError
from nextbar.types import DateArray

DEFAULT_CALENDAR: Final = "XNYS"
SETTLING: Final = dt.timedelta(minutes=30)
"""After the close, until a vendor has the day's last bar."""


def sessions(calendar: str, first: np.datetime64, last: np.datetime64) -> DateArray:
    """Trading days from first to last; none before the calendar's own beginning or after its end.

    Raises:
        ConfigError: There is no such calendar.
    """
    found: DateArray = _calendar(calendar, first, last).sessions.to_numpy().astype("datetime64[D]")
    return found[(found >= first) & (found <= last)]


def last_finished_day(calendar: str, now: dt.datetime) -> dt.date:
    """The latest day on which all trading is over.

    Args:
        calendar: Name of the exchange's calendar.
        now: Any time with a zone.

    Raises:
        ConfigError: There is no such calendar.
    """
    exchange = _calendar(calendar, *[np.datetime64(now.date(), "D")] * 2)
    today = now.astimezone(exchange.tz).date()
    over = exchange.is_session(str(today)) and now >= exchange.session_close(str(today)) + SETTLING
    return today if over else today - dt.timedelta(days=1)


def _calendar(name: str, first: np.datetime64, last: np.datetime64) -> Any:
    """It, with a few days to spare on both sides as far as it reaches."""
    spare = np.timedelta64(10, "D")
    start, end = str(first - spare), str(last + spare)
    try:
        return exchange_calendars.get_calendar(name, start=start, end=end)
    except InvalidCalendarName as error:
        known = "XNYS (New York), XLON (London), XETR (Frankfurt), XTKS (Tokyo), 24/7, …"
        raise ConfigError(f"--calendar {name}: no such exchange; expected a name such as {known}") from error
    except ValueError:
        whole = exchange_calendars.get_calendar(name)
        earliest, latest = (bound and str(bound.date()) for bound in (whole.bound_min(), whole.bound_max()))
        return exchange_calendars.get_calendar(name, start=max(start, earliest or start), end=min(end, latest or end))
