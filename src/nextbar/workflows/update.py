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
from nextbar.words import nearest, plural, said_once, without_password
from nextbar.workflows.options import UpdateConfig

LAST_DAY = np.datetime64("2200-01-01", "D")
AROUND = np.timedelta64(30, "D")
"""No exchange is closed for longer."""
OVERLAP = dt.timedelta(days=10)
"""Stored days that are requested again, to see whether Yahoo's values are still the same."""


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
    source, failed = fetch_yahoo(starts, last, download, progress=progress)
    if source is None:
        kind = NetworkError if all(map(unreachable, failed.values())) else BadBarsError
        raise kind(f"Yahoo gave no bars of {plural(len(failed), 'ticker')}: {'; '.join(said_once(failed.items()))}")
    accept = config.accept_revisions
    return ingest(source, config.db, progress=progress, accept_revisions=accept, origin="yahoo"), failed


def check_stored(
    db: str | Path, *, tickers: Collection[str] | None = None, calendar: str = DEFAULT_CALENDAR
) -> tuple[Finding, ...]:
    """Find suspicious bars. All bars are read, because some rules compare tickers."""
    with DataAccessLayer(db) as market:
        names = market.get_tickers()
        if tickers is not None and (unknown := sorted(set(tickers) - set(names))):
            near = {name: nearest(name, names, lead="") for name in unknown}
            told = ", ".join(f"{name} ({similar})" if similar else name for name, similar in near.items())
            raise UnknownTickerError(
                f"{without_password(str(db))} lists {plural(len(names), 'ticker')}, but not {told}"
            )
        histories = market.get_histories(names)
    days = [history.days for history in histories.values() if len(history.days)]
    if not days:
        name = without_password(str(db))
        raise BadBarsError(f"{name} holds no bar to check; fill it with: nextbar ingest sample --db {name}")
    # A day that no calendar holds is a finding of its own. Only sessions on both sides show that a day is none.
    first = max(FIRST_DAY, min(part[0] for part in days) - AROUND)
    last = min(LAST_DAY, max(part[-1] for part in days) + AROUND)
    expected = sessions(calendar, first, last) if first <= last else NO_BARS.days
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
