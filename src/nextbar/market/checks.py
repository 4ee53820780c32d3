"""Rules that find suspicious stored bars. Nothing is corrected: each finding says where, how bad and what to do.

A rule is one function under `@rule`. It sees the bars of all tickers at once, in flat arrays.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from nextbar.datasets.prices import History
from nextbar.market.bars import NO_BARS
from nextbar.market.panel import LARGE, MAX_GAP_DAYS, RATIOS, SEVEN, SPACINGS, SPIKE, SPLIT_TOLERANCE, Panel
from nextbar.market.quality import FIRST_DAY, ONE_DAY, price_faults
from nextbar.types import BoolArray, DateArray, IntArray
from nextbar.words import alike, plural

Severity = Literal["error", "warning", "info"]
SEVERITIES: Final[tuple[Severity, ...]] = ("error", "warning", "info")

CERTAIN_SPLIT: Final = np.log(3.5)
"""From this factor on a jump to a split ratio is an error if no adj_close says that it is real; real days of large
stocks have reached factors of 2.6 down and 1.9 up."""
CERTAIN: Final = np.log(10)
"""Beyond this factor no day without a like move of adj_close is real, however odd the factor."""
IMPOSSIBLE: Final = np.log(100)
"""Beyond this factor none is, whatever adj_close does."""
LEVELS: Final = np.log([1e6, 1e9])
"""adj_close over close, or close over adj_close: rarely, and never right."""
UNITS: Final = np.log([10, 100, 1000])
SUBTRACTED: Final = ": close less a constant, so dividends were subtracted, not divided out"
STALE_BARS: Final = 5
GAP_SESSIONS: Final = 5
CLOSED_SHARE: Final = 0.1
CLOSED_BARS: Final = 4
SWAPPED_BARS: Final = 20
SAME_DAYS: Final = 20
SAME_SHARE: Final = 0.9


@dataclass(frozen=True, kw_only=True, order=True)
class Finding:
    """Bars that a rule found suspicious, by the first day concerned, and the figures.

    ``severity``: error, the data are wrong; warning, they may be; info, a fact that needs no action.
    """

    ticker: str
    date: str
    rule: str
    severity: Severity
    detail: str

    @property
    def advice(self) -> str:
        """What to do."""
        return RULES[self.rule].advice


class Hits(NamedTuple):
    """Result of a rule: rows of the panel, the figures of each, and its severity where it is not the rule's own."""

    rows: IntArray
    details: Sequence[str]
    severities: npt.NDArray[np.str_] | None = None


Find = Callable[[Panel], Hits]


class Rule(NamedTuple):
    """A registered rule, see `rule`."""

    severity: Severity
    advice: str
    find: Find


RULES: dict[str, Rule] = {}


def rule(severity: Severity, advice: str, *, name: str | None = None) -> Callable[[Find], Find]:
    """Register a function as a rule of the data check, named as the function, with spaces, or by ``name``.

    ``severity`` is that of the worst bars that it may find.
    """

    def register(find: Find) -> Find:
        RULES[name or find.__name__.strip("_").replace("_", " ")] = Rule(severity, advice, find)
        return find

    return register


def check_bars(histories: Mapping[str, History], sessions: DateArray) -> list[Finding]:
    """Apply all rules to ticker → stored bars; ``sessions`` are the trading days over all of them."""
    return _apply(RULES, histories, sessions)


def find_errors(histories: Mapping[str, History]) -> list[Finding]:
    """Return the errors that `check_bars` finds, in a fraction of its time: rules that only warn are not applied."""
    rules = {name: rule for name, rule in RULES.items() if rule.severity == "error"}
    return [finding for finding in _apply(rules, histories, NO_BARS.days) if finding.severity == "error"]


def tally(findings: Sequence[Finding]) -> dict[Severity, int]:
    """Count the findings of each severity."""
    return {severity: sum(finding.severity == severity for finding in findings) for severity in SEVERITIES}


def _apply(rules: Mapping[str, Rule], histories: Mapping[str, History], sessions: DateArray) -> list[Finding]:
    panel = Panel(histories, sessions)
    findings = []
    for name, rule in rules.items() if len(panel.days) else ():
        rows, details, severities = rule.find(panel)
        each = [rule.severity] * len(rows) if severities is None else severities.tolist()
        for row, detail, severity in zip(rows.tolist(), details, each, strict=True):
            ticker, date = panel.names[panel.owner[row]], str(panel.days[row])
            findings.append(Finding(ticker=ticker, date=date, rule=name, severity=severity, detail=detail))
    return sorted(findings)


@rule("error", "delete one of the rows of this day; training takes no ticker that has a day twice")
def _duplicate(panel: Panel) -> Hits:
    rows = np.flatnonzero(panel.follows & (np.diff(panel.days, prepend=panel.days[0]).astype(int) == 0))
    return Hits(rows, ["a second bar of this day"] * len(rows))


@rule("error", "correct or delete the bar; training leaves it out")
def _impossible_bar(panel: Panel) -> Hits:
    faults = price_faults(panel.prices, panel.adj_close)
    reasons = np.select(list(faults.values()), list(faults), default="")
    rows = np.flatnonzero(reasons != "")
    return Hits(rows, reasons[rows].tolist())


@rule("error", "adj_close does not belong to close: fetch the ticker's whole history again from one source")
def _broken_adjustment(panel: Panel) -> Hits:
    """Find moves of ``adj_close`` that ``close`` does not make, over holes too, and levels that no history explains."""
    with np.errstate(divide="ignore", invalid="ignore"):
        known = np.log(np.where(panel.adj_close > 0, panel.adj_close, np.nan)), np.log(panel.prices[3])
        adjusted, quoted = (np.where(panel.follows, np.diff(logs, prepend=np.nan), np.nan) for logs in known)
        level = np.abs(known[0] - known[1])
    apart = np.abs(adjusted - quoted) > LARGE / 4
    rows = np.flatnonzero(apart & (np.abs(adjusted) > LARGE))
    certain = ~np.isnan(panel.quoted_move[rows]) & (np.abs(quoted[rows]) < LARGE / 4)
    less = panel.prices[3] - panel.adj_close
    constant = np.abs(np.diff(less, prepend=np.nan)) < 1e-3 * np.abs(less)
    details = [
        f"adj_close × {np.exp(adjusted[i]):.4g}, close × {np.exp(quoted[i]):.4g}{SUBTRACTED if constant[i] else ''}"
        for i in rows
    ]
    firsts, lengths = panel.runs(level > LEVELS[0])
    factors = zip(np.exp((known[0] - known[1])[firsts]), lengths, strict=True)
    extreme = [f"adj_close is {factor:.2g} × close on {plural(n, 'bar')}" for factor, n in factors]
    sure = np.concatenate([certain, level[firsts] > LEVELS[1]])
    return Hits(np.concatenate([rows, firsts]), [*details, *extreme], np.where(sure, "error", "warning"))


@rule(
    "error",
    "training and predictions leave these bars out: fetch them again from a source with adj_close",
    name="no adj_close",
)
def _no_adj_close(panel: Panel) -> Hits:
    """Find bars without it in a history that has it; at the end of the history they are errors."""
    none = np.isnan(panel.adj_close)
    rows, lengths = panel.runs(none & (np.bincount(panel.owner, ~none) > 0)[panel.owner])
    ends = panel.last[rows + lengths - 1]
    return Hits(rows, [plural(n, "bar") for n in lengths], np.where(ends, "error", "warning"))


@rule("error", "compare with another source; the price is probably in another unit on this day")
def _spike(panel: Panel) -> Hits:
    return _large_moves(panel, "spike", panel.near(UNITS, SPLIT_TOLERANCE))


@rule("error", "prices go on in another unit, as pounds after pence: bring all bars to one unit")
def _unit_change(panel: Panel) -> Hits:
    return _large_moves(panel, "unit change")


@rule("error", "look up the company's splits: if there was one, fetch the history with adj_close that has it")
def _unapplied_split(panel: Panel) -> Hits:
    """Find moves to a ratio of splits; one to the product of two is certain only where no day's return is so large."""
    size = np.abs(panel.move)
    sure = (size > CERTAIN) | ((size > CERTAIN_SPLIT) & panel.near(np.log(RATIOS), SPLIT_TOLERANCE))
    return _large_moves(panel, "unapplied split", ~panel.adjusted & panel.priced & sure)


@rule("error", "compare with another source: such days are rare, and a factor above 10 is never the return of one day")
def _jump(panel: Panel) -> Hits:
    size = np.abs(panel.move)
    certain = panel.priced & ((size > IMPOSSIBLE) | (~panel.adjusted & (size > CERTAIN)))
    unsure = (size > CERTAIN) | (~panel.adjusted & (size > CERTAIN_SPLIT))
    rows, details, _ = _large_moves(panel, "jump")
    return Hits(rows, details, np.select([certain, unsure], ["error", "warning"], default="info")[rows])


@rule("error", "no market has bars of such a day: correct or delete the bar")
def _impossible_day(panel: Panel) -> Hits:
    rows, lengths = panel.runs((panel.days < FIRST_DAY) | (panel.days > _latest()))
    return Hits(rows, [plural(length, "bar") for length in lengths])


@rule("warning", "nextbar is made for daily bars: labels span at most --max-gap-days, which must be larger here")
def _spacing_of_bars(panel: Panel) -> Hits:
    """Name bars of weeks, months and longer, and those of seven days a week, which are an info."""
    kinds = np.array(panel.spacing, dtype=object)
    owners = np.flatnonzero(kinds != "")
    days, bars = panel.days[panel.last] - panel.days[panel.firsts], np.bincount(panel.owner)
    a_year = np.rint((bars - 1) * 365.25 / np.maximum(1, days.astype(np.int64))).astype(np.int64)
    details = [f"about {a_year[i]} bars a year: {kinds[i]}" for i in owners]
    return Hits(panel.firsts[owners], details, np.where(kinds[owners] == SEVEN, "info", "warning"))


@rule("warning", "nobody traded: a signal could not have been carried out on these days")
def _zero_volume(panel: Panel) -> Hits:
    """Find runs of days without trade; a ticker that never has volume, as an index, is an info."""
    none = panel.volume == 0
    never = np.bincount(panel.owner, ~none) == 0
    rows, lengths = panel.runs(none)
    return Hits(rows, [plural(n, "bar") for n in lengths], np.where(never[panel.owner[rows]], "info", "warning"))


@rule("warning", "the source repeated its last bar: fetch the days again or end the history before them")
def _stale(panel: Panel) -> Hits:
    rows, lengths = panel.runs(panel.follows & (np.diff(panel.prices, axis=1, prepend=np.nan) == 0).all(axis=0))
    stale = lengths >= STALE_BARS - 1
    return Hits(rows[stale] - 1, [f"the same prices on {length + 1} bars" for length in lengths[stale]])


@rule("warning", "one security under two names counts twice: train on one of them")
def _same_series(panel: Panel) -> Hits:
    frame = pd.DataFrame({"day": panel.days.astype(np.int64), **dict(zip("ohlc", panel.prices, strict=True))})
    order = frame[frame.duplicated(keep=False)].sort_values(list(frame.columns), kind="stable")
    alike = (order.to_numpy()[1:] == order.to_numpy()[:-1]).all(axis=1)
    owners = panel.owner[order.index.to_numpy()]
    pairs = Counter(zip(owners[:-1][alike].tolist(), owners[1:][alike].tolist(), strict=True))
    bars = np.bincount(panel.owner)
    found = [
        (panel.firsts[two], f"{days} bars are those of {panel.names[one]}")
        for (one, two), days in pairs.items()
        if one != two and days >= max(SAME_DAYS, SAME_SHARE * min(bars[one], bars[two]))
    ]
    return Hits(np.array([row for row, _ in found], dtype=np.int64), [detail for _, detail in found])


@rule("warning", "fetch the days again, unless nobody traded or --calendar names another exchange")
def _missing_sessions(panel: Panel) -> Hits:
    """Find holes; short ones are infos."""
    rows = np.flatnonzero(np.isin(panel.days, panel.sessions) & ~panel.spaced(*SPACINGS.values()))
    missing = np.diff(panel.sessions.searchsorted(panel.days[rows]), prepend=0) - 1
    missing[np.diff(panel.owner[rows], prepend=-1) != 0] = 0
    rows, missing = rows[missing > 0], missing[missing > 0]
    holes = zip(missing, _over_hole(panel, rows), strict=True)
    details = [f"{plural(count, 'session')} before this bar{more}" for count, more in holes]
    return Hits(rows, details, np.where(missing > GAP_SESSIONS, "warning", "info"))


@rule("warning", "special sessions exist; if there are many, --calendar names another exchange, or the days are wrong")
def _not_a_session(panel: Panel) -> Hits:
    """Find bars on days when the exchange was closed; a warning where they are many: the days may be shifted."""
    place = panel.sessions.searchsorted(panel.days)
    odd = ~np.isin(panel.days, panel.sessions) & (place > 0) & (place < len(panel.sessions))
    odd &= ~panel.spaced(SEVEN, *SPACINGS.values())
    owners, firsts, counts = np.unique(panel.owner[odd], return_index=True, return_counts=True)
    every = np.bincount(panel.owner)[owners]
    many = (counts > CLOSED_SHARE * every) & (counts >= CLOSED_BARS)
    shifted = [f", of {n} bars: shifted by a day?" if more else "" for n, more in zip(every, many, strict=True)]
    told = "on days when the exchange was closed, this is the first"
    details = [f"{plural(count, 'bar')} {told}{more}" for count, more in zip(counts, shifted, strict=True)]
    return Hits(np.flatnonzero(odd)[firsts], details, np.where(many, "warning", "info"))


@rule("warning", "rename one or train on one of them: where file names have no case, their files would be the same")
def _letter_case(panel: Panel) -> Hits:
    groups = {name: group for group in alike(panel.names) for name in group}
    owners = [owner for owner, name in enumerate(panel.names) if name in groups]
    details = [f"{' and '.join(groups[panel.names[owner]])} differ only in case" for owner in owners]
    return Hits(panel.firsts[owners], details)


@rule("warning", "read the file again with --date-format")
def _swapped_days(panel: Panel) -> Hits:
    """Find tickers of which no bar lies after the twelfth of a month."""
    number = (panel.days - panel.days.astype("datetime64[M]")).astype(np.int64) + 1
    late, bars = np.bincount(panel.owner, number > 12) > 0, np.bincount(panel.owner)
    spaced = np.isin(panel.spacing, list(SPACINGS.values()))
    owners = np.flatnonzero(~late & (bars >= SWAPPED_BARS) & ~spaced)
    details = [f"no day after the 12th in {bars[i]} bars: day and month swapped?" for i in owners]
    return Hits(panel.firsts[owners], details)


@rule("info", "delisted, renamed or no longer fetched: keep it, for a universe of survivors alone flatters results")
def _ends_early(panel: Panel) -> Hits:
    rows = np.flatnonzero(panel.last)
    known = panel.sessions.searchsorted(panel.days[panel.days <= _latest()])  # an impossible day ends nothing
    left = known.max(initial=0) - panel.sessions.searchsorted(panel.days[rows])
    early = left > 2 * GAP_SESSIONS
    return Hits(rows[early], [f"{plural(count, 'session')} before the last of all bars" for count in left[early]])


def _latest() -> np.datetime64:
    """Return the last day that a bar may have: tomorrow, because clocks differ."""
    return np.datetime64(dt.datetime.now(dt.UTC).date(), "D") + ONE_DAY


def _large_moves(panel: Panel, name: str, certain: BoolArray | None = None) -> Hits:
    """Describe large moves; where some are not certain they are warnings."""
    rows = np.flatnonzero(panel.large_moves[name])
    moves = zip(np.exp(panel.move[rows]), panel.adjusted[rows], strict=True)
    details = [f"× {move:.4g} in a day{', in adj_close too' if adjusted else ''}" for move, adjusted in moves]
    return Hits(rows, details, None if certain is None else np.where(certain[rows], "error", "warning"))


def _over_hole(panel: Panel, rows: IntArray) -> list[str]:
    """Return, for each bar after a hole, the factor from the price before it, where that is hardly one stock."""
    with np.errstate(divide="ignore", invalid="ignore"):
        adjusted, quoted = (np.log(prices[rows] / prices[rows - 1]) for prices in (panel.adj_close, panel.prices[3]))
    moves = np.where(np.isfinite(adjusted), adjusted, quoted)
    wide = panel.days[rows] - panel.days[rows - 1] > np.timedelta64(MAX_GAP_DAYS, "D")
    factors = zip(np.exp(moves), wide & (np.abs(moves) > SPIKE), strict=True)
    return [f", price × {factor:.4g} since: another company?" if other else "" for factor, other in factors]
