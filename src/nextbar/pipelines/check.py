"""Look at the stored bars with all rules."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from nextbar.config import without_password
from nextbar.errors import UnknownTickerError
from nextbar.market.access import DataAccessLayer
from nextbar.market.calendar import DEFAULT_CALENDAR, sessions
from nextbar.market.checks import Finding, check_bars


def check(
    db: str | Path, *, tickers: Collection[str] | None = None, calendar: str = DEFAULT_CALENDAR
) -> tuple[Finding, ...]:
    """What is suspicious. All bars are read whichever tickers are asked for: some rules compare tickers.

    Args:
        db: The database.
        tickers: Findings about these; None: about all.
        calendar: Exchange whose sessions are expected.

    Raises:
        DatabaseError: The database cannot be read.
        UnknownTickerError: A ticker was asked for that the database does not hold.
        BadBarsError: A stored date or number is none.
        ConfigError: There is no such calendar.
    """
    with DataAccessLayer(db) as market:
        names = market.get_tickers()
        if tickers is not None and (unknown := sorted(set(tickers) - set(names))):
            raise UnknownTickerError(
                f"{without_password(str(db))} lists {len(names)} tickers, but not {', '.join(unknown)}"
            )
        histories = market.get_histories(names)
    days = [history.days for history in histories.values() if len(history.days)]
    if not days:
        return ()
    expected = sessions(calendar, min(part[0] for part in days), max(part[-1] for part in days))
    return tuple(item for item in check_bars(histories, expected) if tickers is None or item.ticker in tickers)
