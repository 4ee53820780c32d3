"""Bars from Yahoo into the database, only what is missing; and which models stand on bars now in question."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nextbar.artifacts.runs import find_runs
from nextbar.errors import BadBarsError
from nextbar.market.access import stored_spans
from nextbar.market.calendar import DEFAULT_CALENDAR, last_finished_day
from nextbar.market.ingest import IngestSummary, ingest
from nextbar.market.revisions import Revision
from nextbar.market.sources.yahoo import Download, fetch_yahoo
from nextbar.types import Progress

OVERLAP = dt.timedelta(days=10)
"""Stored days that are asked for again, to see whether Yahoo still says the same."""


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
        ConfigError: There is no such calendar.
    """
    spans = stored_spans(request.db)
    starts = {name: _start(request, spans.get(name)) for name in request.tickers}
    last = last_finished_day(request.calendar, request.now)
    fetched = fetch_yahoo(starts, last, download, progress=progress)
    if fetched.source is None:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(fetched.failed.items())[:3])
        raise BadBarsError(f"Yahoo gave no bars of {len(fetched.failed)} tickers: {reasons}")
    summary = ingest(
        fetched.source,
        request.db,
        progress=progress,
        accept_revisions=request.accept_revisions,
        origin="yahoo",
    )
    return summary, fetched.failed


def runs_in_question(folder: str | Path, revisions: Iterable[Revision]) -> list[str]:
    """Training runs that used a bar whose facts have changed since, latest first.

    Raises:
        ArtifactError: A run in the folder is damaged.
    """
    days: dict[str, list[str]] = {}
    for revision in revisions:
        days.setdefault(revision.ticker, []).append(revision.date)
    return [
        run.stem
        for run in (find_runs([folder]) if days else [])
        if any(_used(span, days.get(name, ())) for name, span in run.document["data"].items())
    ]


def _used(span: Mapping[str, str], days: Iterable[str]) -> bool:
    return any(span["first"] <= day <= span["last"] for day in days)


def _start(request: UpdateRequest, span: tuple[dt.date, dt.date] | None) -> dt.date:
    if span is None:
        return request.since
    first, last = span
    return first if request.refresh else max(first, last - OVERLAP)
