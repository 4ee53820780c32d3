"""What a reader of a run's figures must know besides: plain sentences for the screen, the document and the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from nextbar.config import CommonConfig
from nextbar.datasets.assemble import days_of
from nextbar.datasets.labels import gaps
from nextbar.datasets.splits import Fold, usable_of
from nextbar.evaluation.walkforward import FoldResult, FoldTask
from nextbar.market.checks import Finding
from nextbar.pipelines.universe import Universe
from nextbar.types import BoolArray, DateArray, JsonDict

LISTED = 6
"""Most tickers that have a sentence each; more share one."""
ERRORS_KEPT = 100
CUT_DAYS = 7
"""Calendar days that a window may end after the last bar without being cut short: weekends and holidays."""
SHORT, FEW = 0.9, 5
"""A window is short with less than this share of the days that it spans, and at least so many fewer."""
KINDS = {
    "validation": "validation has one class",
    "trees": "the trees stop at the first",
    "threshold": "the threshold is 0.5 because none could be chosen",
    "test": "all test days are predicted alike",
}
"""Kinds of `nextbar.evaluation.degenerate`, in words for several fits together."""


@dataclass(kw_only=True)
class Facts:
    """What the remarks about a run are made of.

    Attributes:
        fits: (ticker, what is degenerate) of each fit.
        test_errors: Errors in the bars of the days that are scored.
        train_errors: Errors in the bars of train and validation.
    """

    fits: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)
    test_errors: list[Finding] = field(default_factory=list)
    train_errors: list[Finding] = field(default_factory=list)

    @classmethod
    def of(cls, results: Sequence[FoldResult], rows: pd.DataFrame, universe: Universe) -> Facts:
        """Of the fits of one run and its out-of-sample rows."""
        facts = cls(
            fits=[(ticker, one.facts["degenerate"].get(ticker, {})) for one in results for ticker in one.splits]
        )
        for ticker in sorted({ticker for ticker, _ in facts.fits} & set(universe.errors)):
            errors, days = universe.errors[ticker], days_of(universe.bars[ticker].frame)
            decided = np.isin(days, rows.loc[rows["ticker"] == ticker, "date"].to_numpy().astype(days.dtype))
            # The return of a day ends with the bar after it.
            facts.test_errors += errors_on(errors, days, decided | np.append(False, decided[:-1]))
            facts.train_errors += errors_on(errors, days, _fitted(days, [one.splits.get(ticker) for one in results]))
        return facts

    def add(self, other: Facts) -> None:
        """Those of another run, too."""
        self.fits += other.fits
        self.test_errors += other.test_errors
        self.train_errors += other.train_errors

    def to_json(self, remarks: Sequence[str]) -> JsonDict:
        """For the document of a run, with its remarks."""
        keys = ("ticker", "date", "rule", "detail")
        return {
            "remarks": list(remarks),
            "data_errors": [{key: getattr(one, key) for key in keys} for one in self.test_errors[:ERRORS_KEPT]],
            "data_error_counts": {"test": len(self.test_errors), "train": len(self.train_errors)},
        }


def remarks_of(facts: Facts, universe: Universe, config: CommonConfig) -> list[str]:
    """Sentences about data errors, holes, degenerate fits and days without trade."""
    frames = {ticker: universe.bars[ticker].frame for ticker, _ in facts.fits}
    return [
        *tell_errors(facts.test_errors, "inside the test days", "no verdict stands on such days"),
        *tell_errors(facts.train_errors, "inside train and validation", "nextbar check says what to do"),
        *_holes({ticker: days_of(frame) for ticker, frame in frames.items()}, config),
        *_degenerate(facts.fits),
        *_untraded({ticker: frame["Volume"] for ticker, frame in frames.items()}),
    ]


def errors_on(errors: Sequence[Finding], days: DateArray, chosen: BoolArray) -> list[Finding]:
    """Errors of one ticker on chosen ones of its days [bars]; a bar that was left out counts as the one after it."""
    dates = np.array([error.date for error in errors], dtype="datetime64[D]")
    inside = np.append(chosen, False)[np.searchsorted(days, dates)] & (dates >= days[0])
    return [error for error, found in zip(errors, inside, strict=True) if found]


def tell_errors(errors: Sequence[Finding], where: str, consequence: str) -> list[str]:
    """A sentence per ticker, or one about many."""
    found: dict[str, list[Finding]] = {}
    for error in errors:
        found.setdefault(error.ticker, []).append(error)
    if len(found) > LISTED:
        return [f"{_names(found)} have {_plural(len(errors), 'data error')} {where}; {consequence}"]
    return [
        f"{ticker} has {_plural(len(own), 'data error')} {where} ({_example(own)}); {consequence}"
        for ticker, own in found.items()
    ]


@dataclass(frozen=True, kw_only=True)
class _Window:
    """One window of a fit: its days, those that are no warm-up, about how many it spans, whether all bars end in it."""

    ticker: str
    fold: int
    name: str
    days: int
    usable: int
    about: int
    ended: bool

    def __str__(self) -> str:
        return f"the {self.name} window of fold {self.fold} holds {self.days} of about {self.about} days"


def cut_windows(
    config: CommonConfig, folds: Sequence[Fold], tasks: Sequence[FoldTask], dates: Mapping[str, DateArray]
) -> list[str]:
    """Sentences about windows of a walk-forward that hold fewer days than they span.

    Args:
        config: Says the warm-up and what a hole is.
        folds: All folds.
        tasks: The fits that were made.
        dates: Ticker → days of its bars.
    """
    last = max(days[-1] for days in dates.values())
    found = [*_windows(config, folds, tasks, dates, last)]
    lines = _warmup([window for window in found if window.name == "train"], config.warmup)
    if ended := [window for window in found if window.ended]:
        held = f"{ended[0].days} of about {ended[0].about} days"
        lines.insert(0, f"the last test window holds {held}: the history ends on {last}")
    missing = ((one, one.about - one.days) for one in found if not one.ended)
    short = [one for one, days in missing if days >= FEW and days > (1 - SHORT) * one.about]
    by_ticker: dict[str, list[_Window]] = {}
    for one in short:
        by_ticker.setdefault(one.ticker, []).append(one)
    told = {ticker: _worst(own) for ticker, own in by_ticker.items()}
    return [*lines, *_each_or_all(told, _worst(short) if short else "")]


def _windows(
    config: CommonConfig,
    folds: Sequence[Fold],
    tasks: Sequence[FoldTask],
    dates: Mapping[str, DateArray],
    last: np.datetime64,
) -> Iterator[_Window]:
    by_number = {fold.number: fold for fold in folds}
    usable = {ticker: usable_of(days, config) for ticker, days in dates.items()}
    density = {ticker: _density(days, config.max_gap_days) for ticker, days in dates.items()}
    for task in tasks:
        fold = by_number[task.fold]
        for ticker, border in task.borders.items():
            for name, start, stop, first, end in (
                ("train", border.train, border.val, fold.train_start, fold.val_start),
                ("validation", border.val, border.test, fold.val_start, fold.test_start),
                ("test", border.test, border.end, fold.test_start, fold.test_end),
            ):
                yield _Window(
                    ticker=ticker,
                    fold=task.fold,
                    name=name,
                    days=stop - start,
                    usable=int(usable[ticker][start:stop].sum()),
                    about=round((end - first).days * density[ticker]),
                    ended=(end - last.astype(object)).days > CUT_DAYS and dates[ticker][-1] == last,
                )


def _density(days: DateArray, max_gap_days: int) -> float:
    """Bars per calendar day, holes left out."""
    steps = np.diff(days).astype(np.int64)[~gaps(days, max_gap_days)[1:]]
    return len(steps) / max(int(steps.sum()), 1)


def _warmup(windows: Sequence[_Window], warmup: int) -> list[str]:
    """What the warm-up takes from the tickers' first train windows, where it takes the most."""
    first = {window.ticker: window for window in reversed(windows)}.values()
    cut = [window for window in first if window.usable < window.days]
    if not cut:
        return []
    least = min(cut, key=lambda window: window.usable)
    whose = f" of {least.ticker}, the fewest of {len(cut)} tickers" if len(cut) > 1 else ""
    return [f"the warm-up of {warmup} bars leaves {least.usable} of {least.days} train days in the first window{whose}"]


def _worst(short: Sequence[_Window]) -> str:
    worst = min(short, key=lambda window: window.days / window.about)
    return f"{worst}" if len(short) == 1 else f"{len(short)} windows are cut short; the worst: {worst}"


def _holes(dates: Mapping[str, DateArray], config: CommonConfig) -> list[str]:
    """Tickers whose indicators start again, and how many bars that takes."""
    counts = {}
    for ticker, days in dates.items():
        if holes := int(gaps(days, config.max_gap_days).sum()):
            counts[ticker] = (holes, int((~usable_of(days, config)).sum()), len(days))

    def tell(holes: int, lost: int, bars: int) -> str:
        again = f"indicators start again after {_plural(holes, 'hole')} of more than {config.max_gap_days} days"
        return f"{again}; {lost:,} of {bars:,} bars are warm-up"

    total = [sum(column) for column in zip(*counts.values(), strict=True)] or [0, 0, 0]
    return _each_or_all({ticker: tell(*count) for ticker, count in counts.items()}, tell(*total))


def _degenerate(fits: Sequence[tuple[str, Mapping[str, str]]]) -> list[str]:
    """Fits that say nothing, ticker by ticker; counted where there are many."""
    by_ticker: dict[str, list[Mapping[str, str]]] = {}
    for ticker, found in fits:
        by_ticker.setdefault(ticker, []).append(found)
    told = {ticker: _fits_of_one(found) for ticker, found in by_ticker.items() if any(found)}
    if len(told) <= LISTED:
        return _each_or_all(told, "")
    counted = {kind: Counter(ticker for ticker, found in fits if kind in found) for kind in KINDS}
    return [
        f"{text} in {counted[kind].total():,} of {len(fits):,} fits ({_names(counted[kind])})"
        for kind, text in KINDS.items()
        if counted[kind]
    ]


def _fits_of_one(found: Sequence[Mapping[str, str]]) -> str:
    if len(found) == 1:
        words = [found[0][kind] for kind in KINDS if kind in found[0]]
        return "; ".join([words[0], ", ".join(words[1:])]) if words[1:] else words[0]
    counted = Counter(kind for one in found for kind in one)
    return ", ".join(f"{KINDS[kind]} in {counted[kind]} of {len(found)} folds" for kind in KINDS if counted[kind])


def _untraded(volumes: Mapping[str, pd.Series[float]]) -> list[str]:
    """Tickers with days without trade; none that never has a volume, as an index."""
    counts = {ticker: (int((volume == 0).sum()), len(volume)) for ticker, volume in volumes.items()}
    counts = {ticker: count for ticker, count in counts.items() if 0 < count[0] < count[1]}

    def tell(none: int, days: int) -> str:
        return f"no trade on {none:,} of {days:,} days (volume 0); a close that does not move counts as DOWN"

    total = [sum(column) for column in zip(*counts.values(), strict=True)] or [0, 0]
    return _each_or_all({ticker: tell(*count) for ticker, count in counts.items()}, tell(*total))


def _fitted(days: DateArray, splits: Iterable[JsonDict | None]) -> BoolArray:
    """[bars] whether they are in train or validation of any fit."""
    inside: BoolArray = np.zeros(len(days), dtype=np.bool_)
    for part in (split[name] for split in splits if split is not None for name in ("train", "val")):
        if part["rows"]:
            first, last = (np.datetime64(part[end], "D") for end in ("first", "last"))
            inside |= (days >= first) & (days <= last)
    return inside


def _each_or_all(told: Mapping[str, str], together: str) -> list[str]:
    """A sentence per ticker, or the one about all of them where there are many."""
    if len(told) > LISTED:
        return [f"{_names(told)}: {together}"]
    return [f"{ticker}: {text}" for ticker, text in told.items()]


def _example(errors: Sequence[Finding]) -> str:
    more = f", and {len(errors) - 1} more" if len(errors) > 1 else ""
    return f"{errors[0].date} {errors[0].detail.partition(' in a day')[0]}{more}"


def _names(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:LISTED]) + (f" and {len(listed) - LISTED} more tickers" if len(listed) > LISTED else "")


def _plural(count: int, noun: str) -> str:
    """A count and its noun: 1 hole, 3 holes."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
