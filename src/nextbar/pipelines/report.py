"""Use case: say what runs are worth, on one page and in two twins of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nextbar.artifacts.ledger import Ledger, Trial
from nextbar.artifacts.names import writable_folder
from nextbar.artifacts.runs import Run, expecting_parts, load_run
from nextbar.artifacts.store import write_bytes
from nextbar.errors import ConfigError, OutputError
from nextbar.evaluation.series import Book, run_book
from nextbar.evaluation.significance import WORTH, Series, Tries, count_tries
from nextbar.models.reproducibility import digest_text
from nextbar.pipelines.trials import describe_trials, other_trials, record_trial
from nextbar.reports.facts import RunFacts, run_facts
from nextbar.reports.page import render_html, render_markdown
from nextbar.types import JsonDict, Progress


@dataclass(frozen=True, kw_only=True)
class Report:
    """Facts of the runs on a page, and the files written."""

    runs: list[RunFacts]
    files: list[Path]


def report(
    paths: Sequence[str | Path], progress: Progress, *, ledger: str | None = None, worth: float = WORTH
) -> Report:
    """Write one page about one run, or about several compared, beside the first.

    Args:
        paths: Files of runs; several files of one run, its report among them, name it once.
        progress: Where to say how far it is.
        ledger: The trial ledger.
        worth: Excess a year below which an edge is not worth trading.

    Raises:
        NextbarError: A file is not a run's, the ledger cannot be used or the page cannot be written.
    """
    if not 0 <= worth < 1:
        raise ConfigError(f"--worth {worth:g}: expected a fraction a year from 0 to 1, such as 0.02 for 2 %")
    runs = list({run.mark.resolve(): run for run in map(load_run, paths)}.values())
    facts = examine(runs, Ledger(ledger), progress, worth=worth)
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


def examine(runs: Sequence[Run], ledger: Ledger, progress: Progress, *, worth: float = WORTH) -> list[RunFacts]:
    """Collect the facts of each run, deflated for what the ledger knows; looking at a run makes a trial of it."""
    progress.start("report", len(runs))
    counted = []
    for run in runs:  # all first: what one page says does not depend on the order of its runs
        with expecting_parts(run):
            counted.append(record_trial(ledger, run_book(run.document, run.rows()), run.document))
    facts = []
    for run, own in zip(runs, counted, strict=True):
        facts.append(_facts(run, ledger, own, worth))
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


def _facts(run: Run, ledger: Ledger, own: Trial, worth: float) -> RunFacts:
    rows = run.rows()
    with expecting_parts(run):
        book = run_book(run.document, rows)
        trials = other_trials(ledger, book, own)
        tries, records = _tries(book, trials, run.document), describe_trials(trials)
        return run_facts(run.mark, run.document, rows, tries=tries, trials=records, worth=worth)


def _tries(book: Book, trials: Sequence[Trial], document: JsonDict) -> Tries:
    """Count the tries behind a run: a verdict on one ticker counts the tickers that were scored with it."""
    together = int(document.get("run", {}).get("tickers", 1))
    alone = len(document["tickers"]) == 1  # the LSTM scores all of its tickers as one run
    return count_tries((book.dates, book.edge), map(_excess, trials), tickers=together if alone else 1)


def _excess(trial: Trial) -> Series:
    """Daily excess of a trial."""
    excess = trial.returns["excess"]
    return excess.index.to_numpy().astype("datetime64[D]"), excess.to_numpy()
