"""What is suspicious about stored bars. Nothing is corrected: each finding says where, how bad and what to do.

All tickers lie one after the other in flat arrays, and every rule is a handful of operations on those.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Final, Literal

import numpy as np
import pandas as pd

from nextbar.market.frames import NO_BARS, History
from nextbar.market.quality import price_faults
from nextbar.types import BoolArray, DateArray, FloatArray, IntArray

Severity = Literal["error", "warning", "info"]
SEVERITIES: Final[tuple[Severity, ...]] = ("error", "warning", "info")

ADVICE: Final = {
    "duplicate": "delete one of the rows of this day; training takes no ticker that has a day twice",
    "impossible bar": "correct or delete the bar; training leaves it out",
    "spike": "compare with another source; the price is probably in another unit on this day",
    "unapplied split": "look up the company's splits: if there was one, fetch the history with adj_close that has it",
    "unit change": "prices go on in another unit, as pounds after pence: bring all bars to one unit",
    "broken adjustment": "adj_close jumps and close does not: fetch the ticker's whole history again from one source",
    "no adj_close": "training and predictions leave these bars out: fetch them again from a source with adj_close",
    "jump": "large, but such days exist; compare with another source if you did not expect it",
    "same series": "one security under two names counts twice: train on one of them",
    "missing sessions": "fetch the days again, unless nobody traded or --calendar names another exchange",
    "stale": "the source repeated its last bar: fetch the days again or end the history before them",
    "zero volume": "nobody traded: a signal could not have been carried out on these days",
    "not a session": "special sessions exist; if there are many, --calendar names another exchange than the ticker's",
    "ends early": "delisted, renamed or no longer fetched: keep it, for a universe of survivors alone flatters results",
}

SPLITS: Final = np.log([2, 3, 4, 5, 6, 7, 8, 10, 15, 20, 25, 30, 50, 100])
SPLIT_TOLERANCE: Final = np.log(1.05)
"""A split day has a return of its own."""
CERTAIN_SPLIT: Final = np.log(3.5)
"""From this factor on a jump to a split ratio is an error if no adj_close says that it is real; real days of large
stocks have reached factors of 2.6 down and 1.9 up."""
PENNY: Final = 1.0
"""Below this price the smallest step is a large move."""
UNITS: Final = np.log([10, 100, 1000])
UNIT_CHANGES: Final = np.log([100, 1000])
"""Factors at which a price goes on in another unit; at 10 it is rather a split that nobody applied."""
UNIT_TOLERANCE: Final = np.log(1.15)
"""No other move of a day comes near such a factor."""
LARGE: Final = np.log(1.4)
SPIKE: Final = np.log(3)
BACK: Final = np.log(1.5)
MARKET_MOVE: Final = 0.04
"""Median return over the tickers on a day when the whole market moved."""
MARKET_TICKERS: Final = 10
STALE_BARS: Final = 5
GAP_SESSIONS: Final = 5
MAX_GAP_DAYS: Final = 15
SAME_DAYS: Final = 20
SAME_SHARE: Final = 0.9


@dataclass(frozen=True, kw_only=True, order=True)
class Finding:
    """Something to look at.

    Attributes:
        ticker: The symbol.
        date: YYYY-MM-DD, the first day it is about.
        rule: Which rule found it.
        severity: error: the data are wrong; warning: they may be; info: true, and good to know.
        detail: The figures.
    """

    ticker: str
    date: str
    rule: str
    severity: Severity
    detail: str

    @property
    def advice(self) -> str:
        """What to do."""
        return ADVICE[self.rule]


@dataclass(frozen=True, kw_only=True)
class _Panel:
    """Histories one after the other; arrays have a value per bar.

    Attributes:
        names: Tickers, in order.
        owner: Position in ``names``.
        days: The day.
        prices: [4, bars] open, high, low, close as quoted.
        volume: NaN where there is none.
        adj_close: NaN where there is none.
        follows: Whether the bar before belongs to the same ticker.
        move: log(price / price of the bar before), of ``adj_close`` where both bars have it, else of the close; NaN for
            a first bar, after a long hole and where a price is impossible.
        adjusted: Whether the move is that of ``adj_close``.
        quoted_move: The same of the close alone.
    """

    names: Sequence[str]
    owner: IntArray
    days: DateArray
    prices: FloatArray
    volume: FloatArray
    adj_close: FloatArray
    follows: BoolArray
    move: FloatArray
    adjusted: BoolArray
    quoted_move: FloatArray


@dataclass(frozen=True, kw_only=True)
class _Hits:
    """Bars that one rule found."""

    rule: str
    severity: Severity
    rows: IntArray
    details: Sequence[str]


def check_bars(histories: Mapping[str, History], sessions: DateArray) -> list[Finding]:
    """Look at all bars with all rules.

    Args:
        histories: Ticker → all its stored bars.
        sessions: The exchange's trading days, at least over the days of the bars.

    Returns:
        Findings by ticker and date.
    """
    panel = _panel(histories)
    if not len(panel.days):
        return []
    rules = (_wrong(panel), _jumps(panel), _untraded(panel), _same_series(panel), _calendar(panel, sessions))
    return _findings(panel, rules)


def find_errors(histories: Mapping[str, History]) -> list[Finding]:
    """The errors alone that `check_bars` finds, in a fraction of the time: the other rules only warn."""
    panel = _panel(histories)
    if not len(panel.days):
        return []
    return [finding for finding in _findings(panel, (_wrong(panel), _jumps(panel))) if finding.severity == "error"]


def _findings(panel: _Panel, rules: Iterable[Iterable[_Hits]]) -> list[Finding]:
    """By ticker and date."""
    return sorted(
        Finding(
            ticker=panel.names[panel.owner[row]],
            date=str(panel.days[row]),
            rule=hits.rule,
            severity=hits.severity,
            detail=detail,
        )
        for found in rules
        for hits in found
        for row, detail in zip(hits.rows.tolist(), hits.details, strict=True)
    )


def tally(findings: Sequence[Finding]) -> dict[Severity, int]:
    """How many of each severity."""
    counted = Counter(finding.severity for finding in findings)
    return {severity: counted[severity] for severity in SEVERITIES}


def _panel(histories: Mapping[str, History]) -> _Panel:
    parts = {name: history for name, history in histories.items() if len(history.days)}
    days = np.concatenate([history.days for history in (*parts.values(), NO_BARS)])
    numbers = np.concatenate([history.numbers for history in (*parts.values(), NO_BARS)], axis=1)
    owner = np.repeat(np.arange(len(parts)), [len(history.days) for history in parts.values()])
    follows = np.diff(owner, prepend=-1) == 0
    close, adj_close = (np.where(numbers[row] > 0, numbers[row], np.nan) for row in (3, 5))
    near = follows & (np.diff(days, prepend=days[:1]) <= np.timedelta64(MAX_GAP_DAYS, "D"))
    quoted, adjusted = (np.where(near, np.diff(np.log(x), prepend=np.nan), np.nan) for x in (close, adj_close))
    return _Panel(
        names=list(parts),
        owner=owner,
        days=days,
        prices=numbers[:4],
        volume=numbers[4],
        adj_close=numbers[5],
        follows=follows,
        move=np.where(np.isnan(adjusted), quoted, adjusted),
        adjusted=~np.isnan(adjusted),
        quoted_move=quoted,
    )


def _wrong(panel: _Panel) -> Iterator[_Hits]:
    """What cannot be true whatever the market did."""
    twice = np.flatnonzero(panel.follows & (np.diff(panel.days, prepend=panel.days[0]).astype(int) == 0))
    yield _Hits(rule="duplicate", severity="error", rows=twice, details=["a second bar of this day"] * len(twice))
    rules = price_faults(panel.prices, panel.adj_close)
    reasons = np.select(list(rules.values()), list(rules), default="")
    rows = np.flatnonzero(reasons != "")
    yield _Hits(rule="impossible bar", severity="error", rows=rows, details=reasons[rows].tolist())
    broken = np.flatnonzero((np.abs(panel.move) > LARGE) & (np.abs(panel.quoted_move) < LARGE / 4))
    moves = np.exp(np.column_stack([panel.move[broken], panel.quoted_move[broken]]))
    details = [f"adj_close × {a:.4g}, close × {c:.4g}" for a, c in moves]
    yield _Hits(rule="broken adjustment", severity="error", rows=broken, details=details)
    none = np.isnan(panel.adj_close)
    rows, lengths = _runs(panel, none & (np.bincount(panel.owner, ~none) > 0)[panel.owner])
    last = ~np.append(panel.follows[1:], False)[rows + lengths - 1]
    yield from _graded("no adj_close", ("error", "warning"), last, rows, _bars(lengths))


def _jumps(panel: _Panel) -> Iterator[_Hits]:
    """Large moves: spikes that come back, moves to a split ratio, and others."""
    after = np.append(panel.move[1:], np.nan)
    size = np.abs(panel.move)
    back = np.abs(panel.move + after) < BACK
    spike = (size > SPIKE) & back
    unit = _near(size, UNITS, SPLIT_TOLERANCE)
    yield _moves(panel, "spike", "error", spike & unit)
    yield _moves(panel, "spike", "warning", spike & ~unit)
    market = _market(panel)
    with_market = (np.abs(market) > MARKET_MOVE) & (market * panel.move > 0)
    rest = (size > LARGE) & ~spike & ~np.append(False, spike[:-1]) & (np.abs(panel.quoted_move) > LARGE / 4)
    close = panel.prices[3]
    priced = np.fmax(close, np.append(np.nan, close[:-1])) >= PENNY
    alike = np.abs(panel.move - panel.quoted_move) < LARGE / 4
    other_unit = rest & alike & priced & _near(size, UNIT_CHANGES, UNIT_TOLERANCE)
    yield _moves(panel, "unit change", "error", other_unit)
    rest &= ~other_unit
    split = rest & _near(size, SPLITS, SPLIT_TOLERANCE) & ~with_market
    certain = ~panel.adjusted & (size > CERTAIN_SPLIT) & priced
    yield _moves(panel, "unapplied split", "error", split & certain)
    yield _moves(panel, "unapplied split", "warning", split & ~certain)
    yield _moves(panel, "jump", "info", rest & ~split)


def _untraded(panel: _Panel) -> Iterator[_Hits]:
    """Days without trade, and bars that repeat the one before."""
    none = panel.volume == 0
    never = np.array([bool(part.all()) for part in np.split(none, np.flatnonzero(~panel.follows)[1:])])
    rows, lengths = _runs(panel, none)
    yield from _graded("zero volume", ("info", "warning"), never[panel.owner[rows]], rows, _bars(lengths))
    repeated = panel.follows & (np.diff(panel.prices, axis=1, prepend=np.nan) == 0).all(axis=0)
    rows, lengths = _runs(panel, repeated)
    stale = lengths >= STALE_BARS - 1
    details = [f"the same prices on {length + 1} bars" for length in lengths[stale]]
    yield _Hits(rule="stale", severity="warning", rows=rows[stale] - 1, details=details)


def _same_series(panel: _Panel) -> Iterator[_Hits]:
    """Tickers whose bars are another's, day for day."""
    columns = {"day": panel.days.astype(np.int64), **dict(zip("ohlc", panel.prices, strict=True))}
    frame = pd.DataFrame(columns)
    shared = frame[frame.duplicated(keep=False)]
    order = shared.sort_values(list(columns), kind="stable")
    alike = (order.to_numpy()[1:] == order.to_numpy()[:-1]).all(axis=1)
    owners = panel.owner[order.index.to_numpy()]
    pairs = Counter(zip(owners[:-1][alike].tolist(), owners[1:][alike].tolist(), strict=True))
    bars, firsts = np.bincount(panel.owner), np.flatnonzero(~panel.follows)
    found = [
        (firsts[two], f"{days} bars are those of {panel.names[one]}")
        for (one, two), days in pairs.items()
        if one != two and days >= max(SAME_DAYS, SAME_SHARE * min(bars[one], bars[two]))
    ]
    rows = np.array([row for row, _ in found], dtype=np.int64)
    yield _Hits(rule="same series", severity="warning", rows=rows, details=[detail for _, detail in found])


def _calendar(panel: _Panel, sessions: DateArray) -> Iterator[_Hits]:
    """Holes, bars on holidays, and histories that end before the others."""
    if not len(sessions):
        return
    place = sessions.searchsorted(panel.days)
    regular = sessions[np.minimum(place, len(sessions) - 1)] == panel.days
    rows = np.flatnonzero(regular)
    missing = np.diff(place[rows], prepend=0) - 1
    missing[np.diff(panel.owner[rows], prepend=-1) != 0] = 0
    rows, missing = rows[missing > 0], missing[missing > 0]
    details = [f"{count} before this bar{more}" for count, more in zip(missing, _over_hole(panel, rows), strict=True)]
    yield from _graded("missing sessions", ("warning", "info"), missing > GAP_SESSIONS, rows, details)
    odd = np.flatnonzero(~regular & (panel.days >= sessions[0]) & (panel.days <= sessions[-1]))
    _, first, counts = np.unique(panel.owner[odd], return_index=True, return_counts=True)
    details = [f"{count} such bars, this is the first" for count in counts]
    yield _Hits(rule="not a session", severity="info", rows=odd[first], details=details)
    lasts = np.flatnonzero(~np.append(panel.follows[1:], False))
    left = sessions.searchsorted(panel.days.max()) - sessions.searchsorted(panel.days[lasts])
    early = left > 2 * GAP_SESSIONS
    details = [f"{count} sessions before the last of all bars" for count in left[early]]
    yield _Hits(rule="ends early", severity="info", rows=lasts[early], details=details)


def _over_hole(panel: _Panel, rows: IntArray) -> list[str]:
    """What to add about each bar after a hole: the factor from the price before it, where that is hardly one stock."""
    series = (panel.adj_close, panel.prices[3])
    with np.errstate(divide="ignore", invalid="ignore"):
        adjusted, quoted = (np.log(prices[rows] / prices[rows - 1]) for prices in series)
    moves = np.where(np.isfinite(adjusted), adjusted, quoted)
    wide = panel.days[rows] - panel.days[rows - 1] > np.timedelta64(MAX_GAP_DAYS, "D")
    other = wide & (np.abs(moves) > SPIKE)
    return [
        f", price × {np.exp(move):.4g} since: another company?" if so else ""
        for move, so in zip(moves, other, strict=True)
    ]


def _moves(panel: _Panel, rule: str, severity: Severity, mask: BoolArray) -> _Hits:
    rows = np.flatnonzero(mask)
    moves = zip(np.exp(panel.move[rows]), panel.adjusted[rows], strict=True)
    details = [f"× {move:.4g} in a day{', in adj_close too' if adjusted else ''}" for move, adjusted in moves]
    return _Hits(rule=rule, severity=severity, rows=rows, details=details)


def _graded(
    rule: str, severities: tuple[Severity, Severity], first: BoolArray, rows: IntArray, details: Sequence[str]
) -> Iterator[_Hits]:
    """Findings of the first severity where ``first`` says so, of the second elsewhere."""
    for severity, wanted in zip(severities, (first, ~first), strict=True):
        yield _Hits(rule=rule, severity=severity, rows=rows[wanted], details=list(compress(details, wanted)))


def _bars(lengths: IntArray) -> list[str]:
    return [f"{length} bar{'s' if length > 1 else ''}" for length in lengths]


def _near(size: FloatArray, targets: FloatArray, tolerance: float) -> BoolArray:
    """Whether a size is near one of the targets."""
    return np.asarray((np.abs(size[:, None] - targets) < tolerance).any(axis=1))


def _market(panel: _Panel) -> FloatArray:
    """Median move of that day; NaN with few tickers."""
    by_day = pd.Series(panel.move).groupby(panel.days.astype(np.int64))
    median: FloatArray = by_day.transform("median").where(by_day.transform("count") >= MARKET_TICKERS).to_numpy()
    return median


def _runs(panel: _Panel, mask: BoolArray) -> tuple[IntArray, IntArray]:
    """First row and length of each run of marked bars; a run ends with its ticker."""
    starts = mask & ~(np.append(False, mask[:-1]) & panel.follows)
    rows = np.flatnonzero(starts)
    return rows, np.bincount(np.cumsum(starts)[mask] - 1, minlength=len(rows))
