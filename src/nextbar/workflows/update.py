"""Use case: fetch missing bars from Yahoo, check stored bars, and find the runs that used bars which have changed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from nextbar.config import DEFAULT_CALENDAR
from nextbar.errors import ArtifactError, BadBarsError, ConfigError, NetworkError, UnknownTickerError, unreachable
from nextbar.market.bars import NO_BARS, DataAccessLayer, stored_spans
from nextbar.market.calendar import last_finished_day, sessions
from nextbar.market.checks import Finding, check_bars
from nextbar.market.database import check_writer
from nextbar.market.ingest import IngestSummary, ingest
from nextbar.market.quality import FIRST_DAY
from nextbar.market.revisions import Revision
from nextbar.market.sources.yahoo import Download, fetch_yahoo
from nextbar.runs.fit import Coverage
from nextbar.runs.load import find_marks, load_run
from nextbar.types import Progress
from nextbar.words import listed, plural, without_password
from nextbar.workflows.options import UpdateConfig

LAST_DAY = np.datetime64("2200-01-01", "D")
OVERLAP = dt.timedelta(days=10)
"""Stored days that are requested again, to see whether Yahoo's values are still the same."""
NAMED = 10
"""Most tickers that are listed with one reason."""


def update(
    tickers: Sequence[str], config: UpdateConfig, download: Download, progress: Progress, *, now: dt.datetime
) -> tuple[IngestSummary, Mapping[str, str]]:
    """Fetch and store missing bars."""
    since, last = dt.date.fromisoformat(config.since), last_finished_day(config.calendar, now)
    if since > last:
        raise ConfigError(f"--since {since} is after the last day that is over, {last}; name an earlier day")
    check_writer(config.db)
    starts = dict.fromkeys(tickers, since)
    for name, (first, latest) in stored_spans(config.db).items():
        if name in starts:
            starts[name] = first if config.refresh else max(first, latest - OVERLAP)
    fetched = fetch_yahoo(starts, last, download, progress=progress)
    if fetched.source is None:
        reasons = "; ".join(by_reason(fetched.failed))
        kind = NetworkError if all(map(unreachable, fetched.failed.values())) else BadBarsError
        raise kind(f"Yahoo gave no bars of {plural(len(fetched.failed), 'ticker')}: {reasons}")
    summary = ingest(
        fetched.source, config.db, progress=progress, accept_revisions=config.accept_revisions, origin="yahoo"
    )
    return summary, fetched.failed


def by_reason(failed: Mapping[str, str]) -> list[str]:
    """Return a line per reason why tickers have no bars, with some of the tickers."""
    names: dict[str, list[str]] = {}
    for name, reason in failed.items():
        names.setdefault(reason, []).append(name)
    return [f"{listed(of, NAMED)}: {reason}" for reason, of in names.items()]


def check_stored(
    db: str | Path, *, tickers: Collection[str] | None = None, calendar: str = DEFAULT_CALENDAR
) -> tuple[Finding, ...]:
    """Find suspicious bars. All bars are read, because some rules compare tickers."""
    with DataAccessLayer(db) as market:
        names = market.get_tickers()
        if tickers is not None and (unknown := sorted(set(tickers) - set(names))):
            raise UnknownTickerError(
                f"{without_password(str(db))} lists {plural(len(names), 'ticker')}, but not {', '.join(unknown)}"
            )
        histories = market.get_histories(names)
    days = [history.days for history in histories.values() if len(history.days)]
    if not days:
        return ()
    # A day that no calendar holds is a finding of its own.
    known = max(FIRST_DAY, min(part[0] for part in days)), min(LAST_DAY, max(part[-1] for part in days))
    expected = sessions(calendar, *known) if known[0] <= known[1] else NO_BARS.days
    return tuple(item for item in check_bars(histories, expected) if tickers is None or item.ticker in tickers)


def runs_in_question(folders: Iterable[str | Path], revisions: Iterable[Revision]) -> tuple[list[str], list[str]]:
    """Return the runs that used a revised day, and the errors of runs that cannot be read."""
    days: dict[str, list[str]] = {}
    for revision in revisions:
        days.setdefault(revision.ticker, []).append(revision.date)
    runs, damaged = [], []
    for mark in find_marks(folders) if days else ():
        try:
            run = load_run(mark)
            if any(_used(data, days.get(name, ())) for name, data in run.document.data.items()):
                runs.append(run.stem)
        except ArtifactError as error:
            damaged.append(str(error))
    return runs, damaged


def _used(data: Coverage, days: Iterable[str]) -> bool:
    """Return whether a run used one of the days; prices adjusted forward depend on the ticker's first stored bar."""
    first = "" if data.adjustment == "forward" else data.first
    return any(first <= day <= data.last for day in days)
