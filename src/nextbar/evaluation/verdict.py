"""Judge what a result is worth by its excess, its deflated Sharpe ratio and its directions, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum

import numpy as np

from nextbar.config import WORTH
from nextbar.evaluation.series import Book
from nextbar.evaluation.significance import (
    CONFIDENCE,
    DRAWS,
    MIN_DAYS,
    ROUNDING,
    Interval,
    SharpeMoments,
    Tries,
    direction_accuracy,
    direction_columns,
    direction_interval,
    interval,
    normal_quantile,
)
from nextbar.types import JsonDict
from nextbar.words import plural

POWER = 0.8
"""With which an effect of the smallest detectable size would have been shown."""
DEFLATED_NEEDED = 0.95
DAYS_NEEDED, CHANGES_NEEDED = 250, 30
SUSPICIOUS_WHY = "such a high balanced accuracy on daily bars is more likely a leak than skill"
SUSPICIOUS_SAID = f"{SUSPICIOUS_WHY}; look for it with certify"
SUSPICIOUS = 0.56
"""Balanced accuracy on daily bars above which a leak is likelier than skill."""
DAILY = 200
"""Bars a year from which on they count as daily."""
COIN = 0.5
DELAYS = {"next_open": "executed at the next open", "one_bar_late": "executed one bar late"}
COUNTED = "as this ledger and the files beside the run tell; openings that another ledger holds are not known"
DEFLATED = "probability that the excess beats the luck of the best try (deflated Sharpe ratio)"
COUNTS = {"days": "days", "changes": "changes of position"}
SURVIVORSHIP = (
    "Survivorship of the tickers was not checked: companies that failed or were taken over may be missing, which "
    "flatters always long and whatever is long most of the time."
)


class Verdict(StrEnum):
    """What a result is worth; data errors leave it INCONCLUSIVE, because a fourth word would say nothing more."""

    EDGE = "EDGE"
    NO_EDGE = "NO EDGE"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One condition of EDGE: what was found, what was needed, and whether it is met."""

    name: str
    value: float
    needed: float
    passed: bool


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The verdict and what it rests on.

    Attributes:
        headline: The verdict in one sentence of at most 20 words.
        statements: What to say with the verdict; the first is its reason.
        changes: Changes of position after each ticker's first row.
        worth: Excess a year below which an edge is not worth trading.
        balanced_accuracy: Over the days that moved; None where no ticker moved both ways.
        directions: Its interval; None where it cannot be tested.
        suspicious: Whether it is too high for skill.
        excess: Excess a year over a constant position of equal exposure; None where nothing can be tested.
        next_open: The same, executed at the next open; None where there are no opens.
        one_bar_late: The same, executed one bar late.
        detectable: Smallest excess a year that this record would have shown with 80 % power.
        psr: Probability that the excess has a Sharpe ratio above 0.
        dsr: The same above the best that so many tries without skill would show.
        track_record_days: Days that the Sharpe ratio of the excess needs to differ from 0; None: never.
        holdout: First held-out day, where the days were held out and opened.
        refuted: Whether a certificate is FAIL, so that no figure counts.
    """

    verdict: Verdict = Verdict.INCONCLUSIVE
    headline: str = ""
    statements: tuple[str, ...] = ()
    days: int
    changes: int
    worth: float = WORTH
    tries: Tries | None = None
    balanced_accuracy: float | None = None
    directions: Interval | None = None
    suspicious: bool = False
    excess: Interval | None = None
    next_open: Interval | None = None
    one_bar_late: Interval | None = None
    detectable: float | None = None
    psr: float | None = None
    dsr: float | None = None
    track_record_days: float | None = None
    holdout: str | None = None
    refuted: bool = False
    checks: tuple[Check, ...] = ()

    def __str__(self) -> str:
        warning = f"SUSPICIOUS: {SUSPICIOUS_SAID}"
        return "\n  ".join([*([warning] if self.suspicious else []), self.verdict.value, *self.statements])

    __repr__ = __str__  # what a notebook shows

    @property
    def reason(self) -> str:
        """Why this is the verdict."""
        return self.statements[0]

    def to_json(self) -> JsonDict:
        """Convert to JSON values."""
        return {**asdict(self), "reason": self.reason}


def judge(
    book: Book,
    *,
    opens: Interval | None = None,
    tries: Tries | None = None,
    worth: float = WORTH,
    data_errors: Sequence[str] = (),
    refuted: str = "",
    holdout: str | None = None,
    draws: int = DRAWS,
) -> Judgement:
    """Judge a result by its money: the excess over a constant position of the model's own average exposure.

    EDGE: the lower bound of the excess is above 0, also when executed at the next open (one bar late where there are no
    opens), the deflated Sharpe ratio of the excess is at least 0.95, and there are 250 days and 30 changes of position.
    NO EDGE: the upper bound is below what is worth trading, or the position never changed. INCONCLUSIVE: the rest, and
    every result on bars with a data error, because an error can make an edge and can hide one, and every result that
    is ``refuted``, of which only this text is said. An excess that is shown to be above 0 but below what is worth
    trading is an EDGE, and its reason says so.
    """
    changes = int(np.sum((book.signal != np.roll(book.signal, 1)) & ~book.first))
    found = Judgement(
        days=len(book.dates),
        changes=changes,
        worth=worth,
        tries=tries,
        holdout=holdout,
        **_directions(book, draws),
        **_money(book, opens, tries, draws),
    )
    found = replace(found, checks=_checks(found))
    verdict = _verdict(found)
    reason, headline = _reason(verdict, found), _headline(verdict, found)
    if data_errors:
        verdict, reason = Verdict.INCONCLUSIVE, f"{'; '.join(data_errors)}: no verdict is given on such bars. {reason}"
        headline = "The bars have errors inside the test days, so no verdict is given."
    if refuted:  # no figure counts, so nothing else is said about them
        found = replace(found, suspicious=False, refuted=True, checks=())
        return replace(found, verdict=Verdict.INCONCLUSIVE, headline=refuted, statements=(refuted,))
    said = (
        _on_holdout(found),
        _on_power(found),
        _on_directions(found),
        _on_delay(found),
        _on_tries(found, book.terms.periods),
    )
    statements = (reason, *filter(None, said), SURVIVORSHIP)
    return replace(found, verdict=verdict, headline=headline, statements=statements)


def is_suspicious(book: Book) -> bool:
    """Whether the balanced accuracy over the days that moved is too high for skill on daily bars."""
    return _accuracy(book) > SUSPICIOUS and book.terms.periods >= DAILY


def _accuracy(book: Book) -> float:
    return float(direction_accuracy(direction_columns(book).sum(axis=0)[None])[0])


def _directions(book: Book, draws: int) -> JsonDict:
    accuracy = _accuracy(book)
    return {
        "balanced_accuracy": accuracy if math.isfinite(accuracy) else None,
        "directions": direction_interval(book, draws=draws),
        "suspicious": is_suspicious(book),
    }


def _money(book: Book, opens: Interval | None, tries: Tries | None, draws: int) -> JsonDict:
    """Intervals of the excess and what deflates it; nothing where nothing can be tested.

    The smallest detectable excess is max(Φ⁻¹(0.975) · e, (SR* + Φ⁻¹(0.95) · s) · σ) + Φ⁻¹(0.8) · e, with the bootstrap
    error e of the excess, the error s of its daily Sharpe ratio, and σ, the standard deviation of a day times the
    periods per year. The maximum is what the lower bound and the deflated ratio both need; the last term
    gives the power. For one try it is at least (1.96 + 0.84) · e.
    """
    excess, late = (interval(one, draws=draws) for one in (book, book.late))
    if excess is None or late is None:
        return {}
    found = {"excess": excess, "next_open": opens, "one_bar_late": late}
    if (moments := SharpeMoments.of(book.edge)) is None:
        return found
    best = 0.0 if tries is None else tries.best_sharpe(moments.days)
    year = float(book.edge.std(ddof=1)) * book.terms.periods
    bound, deflated, power = map(normal_quantile, (CONFIDENCE, DEFLATED_NEEDED, POWER))
    return found | {
        "detectable": max(bound * excess.error, (best + deflated * moments.error) * year) + power * excess.error,
        "psr": moments.probability_above(0.0),
        "dsr": moments.probability_above(best),
        "track_record_days": moments.days_needed(),
    }


def _checks(found: Judgement) -> tuple[Check, ...]:
    """Conditions of EDGE; none where nothing can be tested."""
    if found.excess is None:
        return ()
    name, delayed = _delayed(found)
    bounds = {"excess_bound": found.excess.low, f"{name}_bound": delayed.low}
    least = {
        "deflated_sharpe": (found.dsr or 0.0, DEFLATED_NEEDED),
        "days": (found.days, DAYS_NEEDED),
        "changes": (found.changes, CHANGES_NEEDED),
    }
    return (
        *(Check(name=name, value=low, needed=0.0, passed=low > ROUNDING) for name, low in bounds.items()),
        *(Check(name=name, value=has, needed=must, passed=has >= must) for name, (has, must) in least.items()),
    )


def _delayed(found: Judgement) -> tuple[str, Interval]:
    """Return the name of the late execution that EDGE requires, and its interval."""
    name, delayed = ("next_open", found.next_open) if found.next_open else ("one_bar_late", found.one_bar_late)
    assert delayed is not None
    return name, delayed


def _verdict(found: Judgement) -> Verdict:
    if found.changes == 0:
        return Verdict.NO_EDGE
    if found.checks and all(check.passed for check in found.checks):
        return Verdict.EDGE
    below = found.excess is not None and found.excess.high < found.worth
    return Verdict.NO_EDGE if below else Verdict.INCONCLUSIVE


def _untestable(found: Judgement) -> str:
    """Say why nothing can be tested; empty where something can."""
    if found.changes == 0:
        return "The position never changed, so there is no decision to judge."
    if found.days < MIN_DAYS:
        return f"Nothing can be tested on {plural(found.days, 'day')}; at least {MIN_DAYS} are needed."
    if found.excess is None:
        return "A return is too large to be real, so nothing is tested: see nextbar check."
    return ""


def _headline(verdict: Verdict, found: Judgement) -> str:
    if why := _untestable(found):
        return why
    assert found.excess is not None
    excess = f"{_percent(found.excess.mean)} a year"
    if verdict is Verdict.EDGE:
        return f"After costs it earned {excess} more than a constant position of equal exposure, and luck is unlikely."
    if verdict is Verdict.NO_EDGE:
        worth = f"the worthwhile {100 * found.worth:g} %"
        return f"Its excess over a constant position, {excess}, is shown to be below {worth}."
    return f"Its excess over a constant position, {excess}, may be luck: these days cannot tell."


def _reason(verdict: Verdict, found: Judgement) -> str:
    if why := _untestable(found):
        return why
    assert found.excess is not None
    earned = f"After costs, the excess over a constant position of the same average exposure is {_yearly(found.excess)}"
    worth = f"the {100 * found.worth:g} % a year that is worth trading"
    if verdict is Verdict.NO_EDGE:
        return f"{earned}: even the upper bound is below {worth}."
    if verdict is Verdict.EDGE:
        name, delayed = _delayed(found)
        small = f" All of it is below {worth}." if found.excess.high < found.worth else ""
        deflated = f"the {DEFLATED} is {found.dsr:.2f}, at least {DEFLATED_NEEDED:g} is needed"
        return f"{earned}; {DELAYS[name]} it is {_yearly(delayed)}; {deflated}.{small}"
    missing = "; ".join(_missing(check) for check in found.checks if not check.passed)
    return f"{earned}: neither an edge nor its absence is shown. What an edge lacks: {missing}."


def _missing(check: Check) -> str:
    if check.name == "deflated_sharpe":
        digits = 2 if round(check.value, 2) != check.needed else 4
        return f"the {DEFLATED} must be at least {check.needed:g} and is {check.value:.{digits}f}"
    if check.name in COUNTS:
        return f"there must be at least {check.needed:g} {COUNTS[check.name]} and there are {check.value:,.0f}"
    delay = DELAYS.get(check.name.removesuffix("_bound"))
    bound = _percent(check.value) if round(check.value, 3) else f"{100 * check.value:+.3f} %"
    return f"{f'{delay}, ' if delay else ''}the lower bound must be above 0 and is {bound}"


def _on_holdout(found: Judgement) -> str:
    """Say how often the days were opened; nothing about days that were not held out."""
    if found.holdout is None:
        return ""
    if found.tries is None or found.tries.openings is None:
        return f"The holdout from {found.holdout} on: openings are not recorded, so how often it was opened is unknown."
    times = "once" if found.tries.openings == 1 else f"{found.tries.openings:,} times"
    return f"The holdout from {found.holdout} on was opened {times} (N = {found.tries.openings:,}), {COUNTED}."


def _on_power(found: Judgement) -> str:
    effect = "" if found.detectable is None else f"{100 * found.detectable:.1f} % a year"
    return effect and f"The smallest excess that these days would show, with a probability of 80 %, is {effect}."


def _on_delay(found: Judgement) -> str:
    excess, late = found.excess, found.one_bar_late
    if excess is None or late is None or excess.mean <= max(ROUNDING, 2 * late.mean):
        return ""
    left = f"executed one bar late it is {_percent(late.mean)} a year"
    return f"One bar of delay takes more than half of the excess: {left}."


def _on_directions(found: Judgement) -> str:
    if (directions := found.directions) is None:
        return "Directions cannot be judged: the days that moved are too few, or all moved one way."
    # The expected maximum of so many tries without skill, in standard errors above chance.
    tries = found.tries or Tries(count=1, correlation=0.0)
    luck = tries.best_sharpe(found.days) * math.sqrt(found.days - 1) + normal_quantile(DEFLATED_NEEDED)
    said = "not shown to be better than chance"
    if directions.high < COIN - ROUNDING:
        said = "worse than chance"
    elif directions.low > COIN + ROUNDING:
        proven = tries.count == 1 or directions.mean - COIN >= luck * directions.error
        said = "better than chance" if proven else f"{said} after {tries.count:,} tries"
    within = f"95 % interval {directions.low:.3f} to {directions.high:.3f}, chance is {COIN}"
    return f"Directions are {said}: balanced accuracy {directions.mean:.3f} on the days that moved ({within})."


def _on_tries(found: Judgement, periods: float) -> str:
    if found.tries is None:
        return "Tries of other configurations are not recorded: the verdict holds only if this was the only try."
    if found.tries.count == 1:
        return "This is the only try recorded on these days."
    best = found.tries.best_sharpe(found.days) * math.sqrt(periods)
    return (
        f"{found.tries.count:,} tries are recorded on these days (mean correlation {found.tries.correlation:.2f}): if "
        f"none had any skill, luck would let the best show a Sharpe ratio of {best:.2f}."
    )


def _yearly(found: Interval) -> str:
    low, high = f"{100 * found.low:+.1f}", _percent(found.high)
    return f"{_percent(found.mean)} a year (95 % interval {low} to {high})"


def _percent(value: float) -> str:
    return f"{100 * value:+.1f} %"
