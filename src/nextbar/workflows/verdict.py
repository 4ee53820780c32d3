"""Use case: say what a run is worth, after all that was tried on the same days."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from numbers import Real
from pathlib import Path

from nextbar.config import WORTH
from nextbar.errors import ArtifactError, ConfigError, verb
from nextbar.evaluation.series import Book
from nextbar.evaluation.significance import Series, Tries, count_tries
from nextbar.evaluation.verdict import Judgement
from nextbar.runs.files import run_stem
from nextbar.runs.ledger import Ledger
from nextbar.runs.load import check_runs, expecting_parts, find_marks, load_run
from nextbar.runs.openings import Opening, count_openings, opening_of
from nextbar.runs.run import Run
from nextbar.runs.trial import Trial, trial_of
from nextbar.runs.verdict import judge_run
from nextbar.words import brief


def other_trials(ledger: Ledger, book: Book, own: Trial | None) -> list[Trial]:
    """Return the other trials, of any tickers, that were scored between the first and the last day of a run."""
    first, last = (day.astype(object) for day in book.dates[[0, -1]])
    return [trial for trial in ledger.overlapping(first, last) if own is None or trial.id != own.id]


def counted(ledger: Ledger, run: Run, *, count: bool) -> Trial | None:
    """Return the trial of the ledger that a run is; None where it is none and is not to become one."""
    trial = trial_of(run.book, run.document)
    made_here = count or (run.folder is not None and ledger.expects(run.digest))
    return ledger.record_run(trial, run.document)[0] if made_here else ledger.find(trial)


def tries_of(run: Run, trials: Sequence[Trial], ledger: Ledger) -> Tries:
    """Count the tries behind a run: a verdict on one ticker counts the tickers that were scored with it.

    An opening counts how often its days were looked at, too, by the ledger and by the openings that lie beside it. A
    ledger that does not hold it cannot tell how often.
    """
    document, book = run.document, run.book
    alone = len(document.tickers) == 1  # a global model scores all of its tickers as one run
    together = document.run.tickers if document.run and alone else 1
    own = opening_of(document, name=run.name)
    openings = None
    if own is not None:
        found = ledger.holdouts().openings
        known = count_openings([*found, *_openings_beside(run)], own)
        together = max(together, known)
        openings = known if any(one.id == own.id for one in found) else None
    return count_tries((book.dates, book.edge), map(_excess, trials), tickers=together, openings=openings)


def _openings_beside(run: Run) -> Iterator[Opening]:
    """Yield the openings of the same run in the folder of one; what cannot be read there is none."""
    for mark in find_marks([] if run.folder is None else [run.folder]):
        if run_stem(run.stem) == run_stem(mark.stem) != mark.stem:
            with suppress(ArtifactError):
                other = load_run(mark)
                with expecting_parts(other):
                    yield from filter(None, [opening_of(other.document, name=other.name)])


@verb
def verdict(
    run: Run, *, ledger: str | Path | None = None, worth: float = WORTH, count: bool | None = None
) -> Judgement:
    """Say what a run is worth, and why.

    Args:
        run: The run.
        ledger: File that counts what was tried on the same days. None: the verdict holds only if this was the only
            try.
        worth: Excess a year below which an edge is not worth trading, as a fraction.
        count: Record the run in the ledger. None: a run that was made in this session is recorded; one that was read
            from disk, which anybody may have made, counts in this verdict alone unless the ledger has it.

    Returns:
        ``verdict`` (EDGE, NO EDGE or INCONCLUSIVE), ``statements`` in words, and the numbers they rest on.

    Raises:
        ConfigError: ``worth`` is no such fraction.
        OutputError: The ledger cannot be used.
        ArtifactError: The rows of the run cannot be read.
    """
    check_runs([run])
    check_worth(worth)
    with expecting_parts(run):
        if ledger is None:
            return judge_run(run, worth=worth)
        counts = run.contents is not None if count is None else count
        book = Ledger(ledger, make=counts)
        own = counted(book, run, count=counts)
        return judge_run(run, tries=tries_of(run, other_trials(book, run.book, own), book), worth=worth)


def check_worth(worth: float) -> None:
    """Refuse an excess a year that is not a fraction."""
    if not isinstance(worth, Real) or not 0 <= worth < 1:
        raise ConfigError(f"--worth expects a fraction a year from 0 to 1, such as 0.02 for 2 %, got {brief(worth)}")


def _excess(trial: Trial) -> Series:
    excess = trial.returns["excess"]
    return excess.index.to_numpy().astype("datetime64[D]"), excess.to_numpy()
