"""Use case: say what runs are worth, on one page and in two twins of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from nextbar.config import WORTH
from nextbar.errors import ConfigError, OutputError
from nextbar.evaluation.trades import TRADE_COLUMNS
from nextbar.models.reproducibility import digest_text
from nextbar.reports.facts import RunFacts
from nextbar.reports.page import render_html, render_markdown
from nextbar.runs.files import check_target, csv_bytes, writable_folder, write_bytes, write_together
from nextbar.runs.ledger import Ledger
from nextbar.runs.load import check_runs, expecting_parts, load_run, load_runs
from nextbar.runs.run import Run
from nextbar.runs.trial import Trial, is_same, trial_of
from nextbar.types import JsonDict, Progress, Silent
from nextbar.words import excerpt
from nextbar.workflows.compare import names_of
from nextbar.workflows.verdict import check_worth, counted, other_trials, tries_of


@dataclass(frozen=True, kw_only=True)
class Report:
    """Facts of the runs on a page, the files written, and the runs that the ledger does not count."""

    runs: list[RunFacts]
    files: list[Path]
    uncounted: list[str] = field(default_factory=list)

    def to_json(self) -> JsonDict:
        """Return the files and the verdicts."""
        verdicts = [{"name": run.name, **run.judgement.to_json()} for run in self.runs]
        return {"files": [str(path) for path in self.files], "runs": verdicts, "uncounted": self.uncounted}


def report(
    paths: Sequence[str | Path],
    progress: Progress,
    *,
    ledger: str | None = None,
    worth: float = WORTH,
    count: bool = False,
    trades: Path | None = None,
    out: Path | None = None,
) -> Report:
    """Write one page about one run, or about several compared, with its twins beside the first.

    Args:
        paths: Any file of each run.
        progress: Told about each run.
        ledger: File that counts what was tried.
        worth: Excess a year below which an edge is not worth trading.
        count: Record runs that the ledger does not have, as if they had been made here.
        trades: CSV file for every trade of the runs.
        out: The page's file, in place of the three beside the first run; its suffix says what it is.
    """
    check_worth(worth)
    check_target(trades, "--trades")
    check_target(out, "--out", suffixes=tuple(FORMATS))
    if out is not None and trades is not None and out.resolve() == trades.resolve():
        raise OutputError(f"--out and --trades are both {out}; name two files")
    runs = load_runs(paths)
    facts = examine(runs, Ledger(ledger, make=count), progress, worth=worth, count=count)
    written = write_report(runs[0].mark.parent, facts, out=out)
    return replace(written, files=[*written.files, *write_trades(trades, runs)])


def write_trades(path: Path | None, runs: Sequence[Run]) -> list[Path]:
    """Write every trade of some runs to a CSV file, where one is named.

    Raises:
        OutputError: The file cannot be written.
    """
    if path is None:
        return []
    tables = []
    for run in runs:
        with expecting_parts(run):
            tables.append(run.trades.assign(run=run.name))
    table = pd.concat(tables, ignore_index=True)[["run", *TRADE_COLUMNS]]
    try:
        write_bytes(path, csv_bytes(table))
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); name another file") from error
    return [path]


def report_each(paths: Sequence[str | Path], progress: Progress, *, ledger: str | None = None) -> list[Report]:
    """Write a page about each run and, if there are several, one that compares them."""
    runs = [load_run(path) for path in paths]
    facts = examine(runs, Ledger(ledger, make=False), progress)
    pages = [write_report(run.mark.parent, [found]) for run, found in zip(runs, facts, strict=True)]
    return pages if len(runs) == 1 else [*pages, write_report(runs[0].mark.parent, facts)]


def examine(
    runs: Sequence[Run], ledger: Ledger, progress: Progress, *, worth: float = WORTH, count: bool = False
) -> list[RunFacts]:
    """Collect the facts of each run, deflated for what the ledger knows and for the other runs beside it."""
    progress.start("report", len(runs))
    known, facts = list[Trial | None](), []
    for run in runs:  # all first: what one page says does not depend on the order of its runs
        with expecting_parts(run):
            known.append(counted(ledger, run, count=count))
    called = names_of(runs)
    guests = [trial_of(run.book, run.document) for run, own in zip(runs, known, strict=True) if own is None]
    for run, own, name in zip(runs, known, called, strict=True):
        with expecting_parts(run):
            trials = [*other_trials(ledger, run.book, own), *_beside(run, guests)]
            tries, known_here = tries_of(run, trials, ledger), own is not None
            facts.append(RunFacts(run, tries=tries, trials=trials, worth=worth, counted=known_here, called=name))
        progress.advance(1, run.stem)
    progress.finish()
    return facts


def _beside(run: Run, guests: Sequence[Trial]) -> list[Trial]:
    """Return the other runs of a page that no ledger counts, each once, on the days of a run."""
    own, found = trial_of(run.book, run.document), list[Trial]()
    first, last = own.returns.index[[0, -1]]
    for guest in guests:
        if not any(is_same(guest, other) for other in (own, *found)):
            found.append(guest)
    cut = [replace(guest, returns=guest.returns[first:last]) for guest in found]
    return [guest for guest in cut if len(guest.returns)]


def render(
    runs: Sequence[Run], suffix: str, *, ledger: str | Path | None, worth: float, count: bool | None = None
) -> str:
    """Make the text of a page."""
    check_runs(runs)
    if not runs:
        raise ConfigError("a report expects at least one run, got none")
    if suffix not in FORMATS:
        raise ConfigError(f"a report ends in {', '.join(FORMATS)}, got {excerpt(suffix, 20) or 'no suffix'}; rename it")
    check_worth(worth)
    if ledger is None:
        return _page(list(_facts(runs, worth)), suffix)
    counts = all(run.contents is not None for run in runs) if count is None else count
    return _page(examine(runs, Ledger(ledger, make=counts), Silent(), worth=worth, count=counts), suffix)


def _facts(runs: Sequence[Run], worth: float) -> Iterator[RunFacts]:
    """Give the facts of each run, as if it were the only try."""
    for run, name in zip(runs, names_of(runs), strict=True):
        with expecting_parts(run):
            yield RunFacts(run, worth=worth, called=name)


def _render_json(facts: Sequence[RunFacts]) -> str:
    return json.dumps({"runs": [run.to_json() for run in facts]}, indent=1, allow_nan=False)


FORMATS = {".json": _render_json, ".md": render_markdown, ".html": render_html}
"""Suffix → what makes the text of a page."""


def write_report(folder: Path, facts: list[RunFacts], *, out: Path | None = None) -> Report:
    """Write `<stem>_report.html|json|md`; of several runs `<first stem>_and_<n>_more_<digest of all stems>_report…`.

    Where ``out`` names a file, that one alone is written.
    """
    targets = _twins(folder, facts) if out is None else [out]
    pages = {target: _page(facts, target.suffix).encode(errors="backslashreplace") for target in targets}
    try:
        write_together(pages)
    except OSError as error:
        raise OutputError(f"{error.filename}: cannot be written ({error.strerror}); no page was kept") from error
    return Report(runs=facts, files=[*pages], uncounted=[one.name for one in facts if not one.counted])


def _twins(folder: Path, facts: Sequence[RunFacts]) -> list[Path]:
    """Name the page and its twins after the runs."""
    digest = digest_text(" ".join(run.name for run in facts))[:8]
    more = f"_and_{len(facts) - 1}_more_{digest}" if len(facts) > 1 else ""
    stem = f"{facts[0].name}{more}_report"
    place = writable_folder(folder)
    return [place / (stem + suffix) for suffix in FORMATS]


def _page(facts: Sequence[RunFacts], suffix: str) -> str:
    """Make the text of a page."""
    with ExitStack() as refusing:
        for one in facts:
            refusing.enter_context(expecting_parts(one.run))
        return FORMATS[suffix](facts)
