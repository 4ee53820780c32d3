"""The verdict on a run, and what its certificate says."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np

from nextbar.config import WORTH
from nextbar.evaluation.series import Book
from nextbar.evaluation.significance import DRAWS, Tries
from nextbar.evaluation.verdict import Judgement, judge
from nextbar.runs.document import Document, parse_json
from nextbar.runs.files import digest_file, read_limited
from nextbar.runs.run import Run
from nextbar.untrusted import MOST_JSON_BYTES, refusing
from nextbar.words import listed, plural

FAILED = "Its certificate is FAIL: it may have used the future, so no figure of it counts."


class ReadsRecord(msgspec.Struct, frozen=True):
    """Whether it was looked for what a function reads without an event."""

    without_descriptors: bool = False


class CertificateRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is read of a certificate: its verdict, its files, and which reads of the user's functions were checked."""

    verdict: Literal["", "PASS", "FAIL", "INCOMPLETE"] = ""
    certifies: dict[str, str] = {}
    reads: list[ReadsRecord] = []
    allow_reads: list[str] = []


def certificate_of(run: Run) -> CertificateRecord | None:
    """Return what the certificate beside a run says, if there is one; without a verdict if it is about other files."""
    if run.folder is None or not (path := run.sibling("_certificate.json")).exists():
        return None
    with refusing(str(path)):
        found = msgspec.convert(parse_json(read_limited(path, MOST_JSON_BYTES), str(path)), CertificateRecord)
    own = found.certifies == {run.mark.name: digest_file(run.mark, MOST_JSON_BYTES)}
    return found if own else CertificateRecord()


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
        refuted=FAILED if is_refuted(run) else "",
        holdout=None if run.document.holdout is None else run.document.holdout.start,
        draws=draws,
    )


def is_refuted(run: Run) -> bool:
    """Return whether a failed certificate of the run lies beside it."""
    certificate = certificate_of(run)
    return certificate is not None and certificate.verdict == "FAIL"


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
