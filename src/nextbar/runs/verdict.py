"""The verdict on a run."""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from nextbar.config import WORTH
from nextbar.errors import ArtifactError
from nextbar.evaluation.series import Book
from nextbar.evaluation.significance import DRAWS, Tries
from nextbar.evaluation.verdict import Judgement, judge
from nextbar.runs.document import Document
from nextbar.runs.run import REFUTED, Run
from nextbar.words import listed, plural

FAILED = "Its certificate is FAIL: it may have used the future, so no figure of it counts."


def is_refuted(run: Run) -> bool | None:
    """Whether the certificate of a run is FAIL; None where it cannot be read."""
    with suppress(ArtifactError):
        return run.refuted()
    return None


def tell_refuted(run: Run) -> list[str]:
    """Say that the certificate of a run is FAIL, or cannot be read; nothing where it is neither."""
    try:
        return [f"{run.name}: {REFUTED}"] if run.refuted() else []
    except ArtifactError as error:
        return [f"{run.name}: its certificate cannot be read; certify it again or delete it ({error})"]


def judge_run(run: Run, *, tries: Tries | None = None, worth: float = WORTH, draws: int = DRAWS) -> Judgement:
    """Say what a run is worth after these tries; None: they are not recorded.

    A failed certificate beside the run makes the verdict INCONCLUSIVE.
    """
    return judge(
        run.book,
        opens=run.document.edge,
        tries=tries,
        worth=worth,
        data_errors=_data_errors(run.document, run.book),
        refuted=FAILED if run.refuted() else "",
        holdout=None if run.document.holdout is None else run.document.holdout.start,
        draws=draws,
    )


def _data_errors(document: Document, book: Book) -> list[str]:
    """Name the data errors between each ticker's first row and the bar that its last return ends on."""
    longest = np.timedelta64(document.config["max_gap_days"], "D")
    errors = document.data_errors or []
    inside: dict[str, list[str]] = {}
    for error in errors:
        rows = book.who == (book.tickers.index(error.ticker) if error.ticker in book.tickers else -1)
        days = book.dates[book.day[rows]]
        if days.size and days[0] <= np.datetime64(error.date, "D") <= days[-1] + longest:
            inside.setdefault(error.ticker, []).append(f"{error.date} {error.detail}")
    told = [
        f"{ticker} has {plural(len(found), 'data error')} inside the test days ({listed(found)})"
        for ticker, found in inside.items()
    ]
    # A document lists the first hundred alone, and counts all.
    more = (document.data_error_counts or {}).get("test", len(errors)) - len(errors)
    return [*told, f"{more:,} more data errors there are counted, not listed"] if more > 0 else told
