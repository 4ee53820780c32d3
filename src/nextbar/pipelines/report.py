"""Use case: say what runs are worth, on one page and in two twins of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nextbar.artifacts.ledger import Ledger
from nextbar.artifacts.names import writable_folder
from nextbar.artifacts.runs import Run, expecting_parts, load_run
from nextbar.artifacts.store import write_bytes
from nextbar.errors import OutputError
from nextbar.models.reproducibility import digest_text
from nextbar.pipelines.trials import describe_trials, on_days_of, other_trials, record_trial
from nextbar.reports.facts import OtherTrials, RunFacts, run_daily, run_facts
from nextbar.reports.page import render_html, render_markdown
from nextbar.types import Progress


@dataclass(frozen=True, kw_only=True)
class Report:
    """Facts of the runs on a page, and the files written."""

    runs: list[RunFacts]
    files: list[Path]


def report(paths: Sequence[str | Path], progress: Progress, *, ledger: str | None = None) -> Report:
    """Write one page about one run, or about several compared, beside the first.

    Raises:
        NextbarError: A file is not a run's, the ledger cannot be used or the page cannot be written.
    """
    runs = [load_run(path) for path in dict.fromkeys(paths)]
    facts = examine(runs, Ledger(ledger), progress)
    return write_report(runs[0].folder, facts)


def report_each(paths: Sequence[str | Path], progress: Progress, *, ledger: str | None = None) -> list[Report]:
    """A page about each run and, if there are several, one that compares them.

    Raises:
        NextbarError: As for :func:`report`.
    """
    runs = [load_run(path) for path in paths]
    facts = examine(runs, Ledger(ledger), progress)
    pages = [write_report(run.folder, [found]) for run, found in zip(runs, facts, strict=True)]
    return pages if len(runs) == 1 else [*pages, write_report(runs[0].folder, facts)]


def examine(runs: Sequence[Run], ledger: Ledger, progress: Progress) -> list[RunFacts]:
    """Facts of each run, deflated for what the ledger knows; whoever looks at a run has made a trial of it."""
    progress.start("report", len(runs))
    for run in runs:  # all first: what one page says does not depend on the order of its runs
        with expecting_parts(run):
            record_trial(ledger, run.rows(), run.document)
    facts = []
    for run in runs:
        facts.append(_facts(run, ledger))
        progress.advance(1, run.stem)
    progress.finish()
    return facts


def write_report(folder: Path, facts: list[RunFacts]) -> Report:
    """`<stem>_report.html|json|md`; of several runs `<first stem>_and_<n>_more_<digest of all stems>_report…`."""
    digest = digest_text(" ".join(run.name for run in facts))[:8]
    more = f"_and_{len(facts) - 1}_more_{digest}" if len(facts) > 1 else ""
    stem = f"{facts[0].name}{more}_report"
    contents = {
        ".json": json.dumps({"runs": [run.to_json() for run in facts]}, indent=1, allow_nan=False),
        ".md": render_markdown(facts),
        ".html": render_html(facts),
    }
    files = []
    for suffix, text in contents.items():
        files.append(writable_folder(folder) / (stem + suffix))
        try:
            write_bytes(files[-1], text.encode())
        except OSError as error:
            raise OutputError(f"{files[-1]}: cannot be written ({error.strerror})") from error
    return Report(runs=facts, files=files)


def _facts(run: Run, ledger: Ledger) -> RunFacts:
    rows = run.rows()
    with expecting_parts(run):
        trials = other_trials(ledger, rows, run.document["trial"])
        net, sharpes = on_days_of(run_daily(run.document, rows), trials)
        others = OtherTrials(net=net, sharpes=sharpes, records=describe_trials(trials))
        return run_facts(run.mark, run.document, rows, others)
