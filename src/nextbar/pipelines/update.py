"""Bars from Yahoo into the database, only what is missing; and which models stand on bars now in question."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nextbar.artifacts.runs import find_marks, load_run
from nextbar.errors import ArtifactError, BadBarsError, ConfigError
from nextbar.market.access import stored_spans
from nextbar.market.calendar import DEFAULT_CALENDAR, last_finished_day
from nextbar.market.ingest import IngestSummary, ingest
from nextbar.market.revisions import Revision
from nextbar.market.sources.yahoo import Download, fetch_yahoo
from nextbar.types import Progress

OVERLAP = dt.timedelta(days=10)
"""Stored days that are asked for again, to see whether Yahoo still says the same."""
NAMED = 10
"""Most tickers that are named with one reason."""


@dataclass(frozen=True, kw_only=True)
class UpdateRequest:
    """What to fetch.

    Attributes:
        tickers: Yahoo's symbols.
        db: The database.
        now: The time, with a zone.
        since: First day of tickers that are not stored yet.
        refresh: Ask for all stored days again.
        calendar: Exchange that says whether a day is over.
        accept_revisions: See `ingest`.
    """

    tickers: Sequence[str]
    db: str
    now: dt.datetime
    since: dt.date
    refresh: bool = False
    calendar: str = DEFAULT_CALENDAR
    accept_revisions: bool = False


def update(request: UpdateRequest, download: Download, progress: Progress) -> tuple[IngestSummary, Mapping[str, str]]:
    """Fetch and store.

    Returns:
        What became of the bars, and ticker → why none came.

    Raises:
        BadBarsError: No bar came, or none is good.
        DatabaseError: The database cannot be read or written.
        ConfigError: There is no such calendar, or the first day is not over yet.
    """
    last = last_finished_day(request.calendar, request.now)
    if request.since > last:
        raise ConfigError(f"--since {request.since} is after the last day that is over, {last}; name an earlier day")
    spans = stored_spans(request.db)
    starts = {name: _start(request, spans.get(name)) for name in request.tickers}
    fetched = fetch_yahoo(starts, last, download, progress=progress)
    if fetched.source is None:
        reasons = "; ".join(by_reason(fetched.failed))
        raise BadBarsError(f"Yahoo gave no bars of {len(fetched.failed)} tickers: {reasons}")
    summary = ingest(
        fetched.source,
        request.db,
        progress=progress,
        accept_revisions=request.accept_revisions,
        origin="yahoo",
    )
    return summary, fetched.failed


def by_reason(failed: Mapping[str, str]) -> list[str]:
    """One line per reason why tickers have no bars, with some of the tickers."""
    names: dict[str, list[str]] = {}
    for name, reason in failed.items():
        names.setdefault(reason, []).append(name)
    more = {reason: f" and {len(of) - NAMED} more" if len(of) > NAMED else "" for reason, of in names.items()}
    return [f"{', '.join(of[:NAMED])}{more[reason]}: {reason}" for reason, of in names.items()]


def runs_in_question(folders: Iterable[str | Path], revisions: Iterable[Revision]) -> tuple[list[str], list[str]]:
    """Runs whose prices hold a day that has changed since, and what is wrong with the runs that cannot be read."""
    days: dict[str, list[str]] = {}
    for revision in revisions:
        days.setdefault(revision.ticker, []).append(revision.date)
    runs, damaged = [], []
    for mark in find_marks(folders) if days else ():
        try:
            run = load_run(mark)
            if any(_used(facts, days.get(name, ())) for name, facts in run.document["data"].items()):
                runs.append(run.stem)
        except ArtifactError as error:
            damaged.append(str(error))
        except (AttributeError, KeyError, TypeError) as error:
            damaged.append(f"{mark} does not say which bars it used ({error})")
    return runs, damaged


def _used(facts: Mapping[str, str], days: Iterable[str]) -> bool:
    """Prices adjusted forward hang on the ticker's first stored bar, however late the run began."""
    first = "" if facts["adjustment"] == "forward" else facts["first"]
    return any(first <= day <= facts["last"] for day in days)


def _start(request: UpdateRequest, span: tuple[dt.date, dt.date] | None) -> dt.date:
    if span is None:
        return request.since
    first, last = span
    return first if request.refresh else max(first, last - OVERLAP)
