"""Use case: say what runs are worth, on one page and in two twins of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from nextbar.config import WORTH
from nextbar.errors import ConfigError, OutputError
from nextbar.models.reproducibility import digest_text
from nextbar.reports.facts import RunFacts
from nextbar.reports.page import render_html, render_markdown
from nextbar.runs.files import writable_folder, write_together
from nextbar.runs.ledger import Ledger, record_trial
from nextbar.runs.run import Run, check_runs, expecting_parts, load_run
from nextbar.types import JsonDict, Progress, Silent
from nextbar.workflows.verdict import check_worth, other_trials, tries_of


@dataclass(frozen=True, kw_only=True)
class Report:
    """Facts of the runs on a page, and the files written."""

    runs: list[RunFacts]
    files: list[Path]

    def to_json(self) -> JsonDict:
        """Return the files and the verdicts."""
        verdicts = [{"name": run.name, **run.judgement.to_json()} for run in self.runs]
        return {"files": [str(path) for path in self.files], "runs": verdicts}


def report(
    paths: Sequence[str | Path], progress: Progress, *, ledger: str | None = None, worth: float = WORTH
) -> Report:
    """Write one page about one run, or about several compared, beside the first."""
    check_worth(worth)
    runs = list({run.mark.resolve(): run for run in map(load_run, paths)}.values())
    facts = examine(runs, Ledger(ledger), progress, worth=worth)
    return write_report(runs[0].mark.parent, facts)


def report_each(paths: Sequence[str | Path], progress: Progress, *, ledger: str | None = None) -> list[Report]:
    """Write a page about each run and, if there are several, one that compares them."""
    runs = [load_run(path) for path in paths]
    facts = examine(runs, Ledger(ledger), progress)
    pages = [write_report(run.mark.parent, [found]) for run, found in zip(runs, facts, strict=True)]
    return pages if len(runs) == 1 else [*pages, write_report(runs[0].mark.parent, facts)]


def examine(runs: Sequence[Run], ledger: Ledger, progress: Progress, *, worth: float = WORTH) -> list[RunFacts]:
    """Collect the facts of each run, deflated for what the ledger knows; looking at a run makes a trial of it."""
    progress.start("report", len(runs))
    counted, facts = [], []
    for run in runs:  # all first: what one page says does not depend on the order of its runs
        with expecting_parts(run):
            counted.append(record_trial(ledger, run.book, run.document))
    for run, own in zip(runs, counted, strict=True):
        with expecting_parts(run):
            trials = other_trials(ledger, run.book, own)
            facts.append(RunFacts(run, tries=tries_of(run, trials), trials=trials, worth=worth))
        progress.advance(1, run.stem)
    progress.finish()
    return facts


def render(runs: Sequence[Run], suffix: str, *, ledger: str | Path | None, worth: float) -> str:
    """Make the text of a page."""
    check_runs(runs)
    if not runs:
        raise ConfigError("a report expects a run at least, got none")
    if suffix not in FORMATS:
        raise ConfigError(f"a report ends in {', '.join(FORMATS)}, got {suffix or 'no suffix'}; rename it")
    check_worth(worth)
    if ledger is None:
        return _page(list(_facts(runs, worth)), suffix)
    return _page(examine(runs, Ledger(ledger), Silent(), worth=worth), suffix)


def _facts(runs: Sequence[Run], worth: float) -> Iterator[RunFacts]:
    """Give the facts of each run, as if it were the only try."""
    for run in runs:
        with expecting_parts(run):
            yield RunFacts(run, worth=worth)


def _render_json(facts: Sequence[RunFacts]) -> str:
    return json.dumps({"runs": [run.to_json() for run in facts]}, indent=1, allow_nan=False)


FORMATS = {".json": _render_json, ".md": render_markdown, ".html": render_html}
"""Suffix → what makes the text of a page."""


def write_report(folder: Path, facts: list[RunFacts]) -> Report:
    """Write `<stem>_report.html|json|md`; of several runs `<first stem>_and_<n>_more_<digest of all stems>_report…`."""
    digest = digest_text(" ".join(run.name for run in facts))[:8]
    more = f"_and_{len(facts) - 1}_more_{digest}" if len(facts) > 1 else ""
    stem = f"{facts[0].name}{more}_report"
    place = writable_folder(folder)
    pages = {place / (stem + suffix): _page(facts, suffix).encode(errors="backslashreplace") for suffix in FORMATS}
    try:
        write_together(pages)
    except OSError as error:
        raise OutputError(f"{error.filename}: cannot be written ({error.strerror}); no page was kept") from error
    return Report(runs=facts, files=[*pages])


def _page(facts: Sequence[RunFacts], suffix: str) -> str:
    """Make the text of a page."""
    with ExitStack() as refusing:
        for one in facts:
            refusing.enter_context(expecting_parts(one.run))
        return FORMATS[suffix](facts)
