"""The certificate of a run: what changing the future showed, as a table, lines and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from nextbar.evaluation.reads import Reads
from nextbar.evaluation.stages import FIXED_FROM, PARTS, Finding
from nextbar.evaluation.trials import HOLE, RESCALED, WAYS
from nextbar.evaluation.truncation import Truncation
from nextbar.types import JsonDict
from nextbar.words import plural

COLUMNS = ("artifact", *PARTS, "refit", "warm-up", "truncation", "reads")
ROWS = ("run", *FIXED_FROM)
"""Parts and stages, in the order in which people read them."""
VERDICTS = ("–", "PASS", "INCOMPLETE", "FAIL")
"""From the best to the worst."""
CANNOT_SEE = (
    "days of crises, prices and other constants that are written into the code of a feature or of its modules",
    "the clock and environment variables, where two calls do not differ by them",
    "data inside an installed package or in a folder of the system",
    "what a file that --allow-reads names knows about the future; with it, reads without an event are not looked for",
    "a leak on fewer days than the share that its truncation states",
    "code that means to deceive, such as one that looks for the bars in the caller's memory",
    "what happens inside train, which companies are in the list, and what the user has seen of the test days",
)
"""What no part of the certificate shows."""
FAILURES_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What changing the future showed about one run.

    Attributes:
        name: Stem of the run's files, or what would have been trained.
        reason: Why no change was tried at all; None otherwise.
        truncations: How many days each ticker's features were tried on.
        reads: What a user's function reads besides its bars.
        allow_reads: What it may read.
        path: File of the certificate; None where nothing was trained.
        refit: Last day of its refit; None where it has none.
    """

    name: str
    reason: str | None = None
    findings: list[Finding] = field(default_factory=list)
    truncations: list[Truncation] = field(default_factory=list)
    reads: list[Reads] = field(default_factory=list)
    allow_reads: Sequence[str] = ()
    path: Path | None = None
    refit: str | None = None

    def __str__(self) -> str:
        return "\n  ".join([f"{self.name}: {self.verdict}", *self.lines()])

    __repr__ = __str__  # what a notebook shows

    def lines(self) -> list[str]:
        """Say how much was tried, what moved first, and where the certificate is."""
        fewest = min(self.truncations, key=lambda each: each.tried, default=None)
        more = len(self.failures) - FAILURES_SHOWN
        found = [
            None if fewest is None else f"{self._tried_on(fewest.ticker)}: {fewest.extent}",
            None if self.reason is None else f"FAIL {self.name}: {self.reason}",
            *map(str, self.failures[:FAILURES_SHOWN]),
            f"… and {plural(more, 'more ticker')}, see the certificate" if more > 0 else None,
            f"allowed to read: {', '.join(self.allow_reads)}" if self.allow_reads else None,
            self.about_refit,
            None if self.path is None else str(self.path),
        ]
        return [line for line in found if line is not None]

    def _tried_on(self, fewest: str) -> str:
        """Name the ticker, or, of several, how many there are and the one with the fewest days tried."""
        count = len(self.truncations)
        return fewest if count == 1 else f"{plural(count, 'ticker')}, the fewest days of {fewest}"

    @property
    def about_refit(self) -> str | None:
        """What is certified about the refit; None where there is none, or where it did not pass."""
        if self.refit is None or not all(one.passed for one in self.findings if one.part == "refit"):
            return None
        return f"refit: trained to {self.refit}, it depends on bars up to that day only; no figure is made with it"

    @property
    def verdict(self) -> str:
        """PASS, FAIL, or INCOMPLETE: nothing moved, but too little was tried."""
        if self.reason is not None:
            return "FAIL"
        return max(("PASS", *(finding.verdict for finding in self.findings)), key=VERDICTS.index)

    @property
    def passed(self) -> bool:
        """Whether nothing moved, and enough was tried."""
        return self.verdict == "PASS"

    @property
    def failures(self) -> list[Finding]:
        """The first failure of each ticker: the first stage, in it the first border, and there the earliest row."""
        first: dict[str, Finding] = {}
        for finding in sorted((finding for finding in self.findings if not finding.passed), key=_rank):
            first.setdefault(finding.ticker, finding)
        return list(first.values())

    def table(self) -> dict[str, dict[str, str]]:
        """Return stage → part → verdict, the worst of its findings; a dash where there was nothing to compare."""
        verdicts: dict[str, dict[str, str]] = {}
        for finding in sorted(self.findings, key=lambda finding: ROWS.index(finding.stage)):
            row = verdicts.setdefault(finding.stage, {})
            verdict = finding.verdict if finding.rows or not finding.passed else "–"
            row[finding.part] = max(verdict, row.get(finding.part, "–"), key=VERDICTS.index)
        return verdicts

    def to_json(self) -> JsonDict:
        """Return verdict, table and findings."""
        return {
            "artifact": self.name,
            "verdict": self.verdict,
            "reason": self.reason,
            "ways": [*WAYS, RESCALED],
            "hole": HOLE,
            "truncation": [{**asdict(each), "share": each.share} for each in self.truncations],
            "reads": [asdict(each) for each in self.reads],
            "allow_reads": list(self.allow_reads),
            "cannot_see": list(CANNOT_SEE),
            "table": self.table(),
            **({} if self.refit is None else {"refit": {"trained_to": self.refit, "certified": self.about_refit}}),
            "findings": [finding.to_json() for finding in self.findings],
        }


def _rank(finding: Finding) -> tuple[bool, int, int, str]:
    """Sort failures before what is incomplete, then by stage, border and row."""
    return finding.verdict != "FAIL", ROWS.index(finding.stage), COLUMNS.index(finding.part), str(finding.row)
