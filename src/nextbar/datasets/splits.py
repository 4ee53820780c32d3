"""Where train, validation and test begin and end, as rows; and the calendar windows of a walk-forward.

A splitter looks at dates and counts, never at a price. It says which rows belong to which split; the label then drops
the last row of each (`make_samples`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import date, timedelta
from itertools import count
from typing import TypeAlias

import numpy as np
import pandas as pd

from nextbar.config import SPLIT_ENDS, CommonConfig, TrainConfig, WalkForwardConfig, step_between
from nextbar.datasets.samples import usable_rows
from nextbar.errors import ConfigError, NotEnoughHistoryError, in_python, noun
from nextbar.types import BoolArray, Border, DateArray, JsonDict
from nextbar.words import plural

MIN_TRAIN, MIN_VAL, MIN_TEST = 60, 5, 5
"""Fewest rows a split may have: below, a search over five time-series folds has nothing to learn from."""


Days: TypeAlias = tuple[date, date, date, date]
"""First day of train, of validation and of test, and the day after test."""


@dataclass(frozen=True, kw_only=True)
class Fold:
    """One fold: row ranges by ticker and, of a walk-forward, its calendar windows.

    Attributes:
        borders: Ticker → rows of its splits.
        days: Calendar windows; empty where each ticker has borders of its own.
    """

    number: int
    borders: Mapping[str, Border]
    days: Days | tuple[()] = ()


@noun
@dataclass(frozen=True, kw_only=True)
class Split:
    """One fold: train, then validation, then test, by shares of the samples.

    Args:
        train: Share of the samples before test.
        val: Share of that region kept for validation, at its end.
        by: ``ticker`` splits each ticker at its own share, ``date`` all tickers at one date; a pooled model always is.
        train_end: Last day of train, of all tickers, instead of shares: a ``date`` or YYYY-MM-DD.
        val_end: Last day of validation; needed beside ``train_end``.
        test_end: Last day of test; default: that of the bars.

    Raises:
        ConfigError: A share is outside its limits, or days are not in their order.
    """

    train: float = 0.8
    val: float = 0.1
    by: str = "ticker"
    train_end: str | date | None = None
    val_end: str | date | None = None
    test_end: str | date | None = None

    @in_python(train_split="train", val_split="val", split_by="by")
    def __post_init__(self) -> None:
        for name in SPLIT_ENDS:
            if isinstance(day := getattr(self, name), date):
                object.__setattr__(self, name, day.isoformat())
        checked = TrainConfig(**self.options())
        for name in SPLIT_ENDS:
            object.__setattr__(self, name, getattr(checked, name))

    @classmethod
    def of(cls, config: TrainConfig) -> Split:
        """Read the split of a configuration."""
        ends = {name: getattr(config, name) for name in SPLIT_ENDS}
        return cls(train=config.train_split, val=config.val_split, by=config.split_by, **ends)

    def options(self) -> JsonDict:
        """The split as options of a configuration."""
        shares = {"train_split": self.train, "val_split": self.val, "split_by": self.by}
        return shares | {name: getattr(self, name) for name in SPLIT_ENDS}

    def folds(self, dates: Mapping[str, DateArray], usable: Mapping[str, BoolArray]) -> list[Fold]:
        """Make the one fold."""
        share = {"train_split": self.train, "val_split": self.val}
        if self.by == "ticker" and self.train_end is None:
            return [Fold(number=0, borders={name: fraction_border(rows, **share) for name, rows in usable.items()})]
        if self.train_end is None:
            cuts = date_cuts([day[usable[name]] for name, day in dates.items()], **share)
            window = (date.min, *cuts, date.max)
        else:
            train, val, test = (_day_after(getattr(self, name)) for name in SPLIT_ENDS)
            window = (date.min, train, val, test)
        firsts = {name: int(np.flatnonzero(np.append(rows, True))[0]) for name, rows in usable.items()}
        borders = {name: calendar_border(day, window, first=firsts[name]) for name, day in dates.items()}
        return [Fold(number=0, borders=borders)]


@noun
@dataclass(frozen=True, kw_only=True)
class Windows:
    """Folds by calendar windows: a model is trained again for each test window.

    Args:
        train_years: Years of train in each fold.
        val_months: Months of validation after them.
        test_months: Months of test after those.
        step_months: Months from one fold to the next; default: 3, or as long as a longer test window.
        expanding: Train on everything before validation, not on the last years.

    Raises:
        ConfigError: A length is below 1, or the step is shorter than the test window.
    """

    train_years: int = 3
    val_months: int = 12
    test_months: int = 3
    step_months: int | None = None
    expanding: bool = False

    @in_python()
    def __post_init__(self) -> None:
        WalkForwardConfig(**self.options())

    @classmethod
    def of(cls, config: WalkForwardConfig) -> Windows:
        """Read the windows of a configuration."""
        return cls(**{item.name: getattr(config, item.name) for item in fields(cls)})

    def options(self) -> JsonDict:
        """The windows as options of a configuration."""
        return asdict(self)

    def folds(self, dates: Mapping[str, DateArray], _usable: Mapping[str, BoolArray]) -> list[Fold]:
        """Make windows from the first to the last day that any ticker has a bar.

        The first begins with a month. The last test window may be cut short by the end of the data; no day is in two
        test windows.
        """
        first = min(days[0] for days in dates.values()).astype(object)
        last = max(days[-1] for days in dates.values()).astype(object)
        return [
            Fold(number=number, borders={name: calendar_border(own, days) for name, own in dates.items()}, days=days)
            for number, days in enumerate(self.windows(first, last))
        ]

    def windows(self, first: date, last: date) -> list[Days]:
        """Return the windows of bars from a first to a last day.

        Raises:
            NotEnoughHistoryError: There is none.
        """
        try:
            found = list(self._windows(first, last))
        except (OverflowError, ValueError) as error:
            raise ConfigError(
                "a window ends after the year 9999, the last one of dates; lower --train-years, --val-months, "
                "--test-months or --step-months"
            ) from error
        if not found:
            raise NotEnoughHistoryError(
                f"the bars go from {first} to {last}; a fold needs "
                f"{plural(self.train_years, 'year')} of train, {plural(self.val_months, 'month')} of validation and a "
                "test day; ingest an earlier start or lower --train-years or --val-months"
            )
        return found

    def _windows(self, first: date, last: date) -> Iterator[Days]:
        """Yield windows while a test window begins by the last day."""
        anchor = pd.Timestamp(first) + pd.offsets.MonthBegin(0)
        step = step_between(self.step_months, self.test_months)
        for number in count():
            moved = anchor + pd.DateOffset(months=step * number)
            val_start = moved + pd.DateOffset(years=self.train_years)
            test_start = val_start + pd.DateOffset(months=self.val_months)
            if test_start.date() > last:
                return
            test_end = test_start + pd.DateOffset(months=self.test_months)
            train_start = anchor if self.expanding else moved
            yield train_start.date(), val_start.date(), test_start.date(), test_end.date()


def _day_after(day: str | None) -> date:
    last = date.max if day is None else date.fromisoformat(day)
    return last if last == date.max else last + timedelta(days=1)


def splitter_of(config: CommonConfig) -> Split | Windows:
    """Read how a configuration makes its folds."""
    if isinstance(config, WalkForwardConfig):
        return Windows.of(config)
    assert isinstance(config, TrainConfig)
    return Split.of(config)


def fraction_border(usable: BoolArray, *, train_split: float, val_split: float) -> Border:
    """Split one ticker's rows by its usable ones: test is their end, validation the end of what is left."""
    rows = np.flatnonzero(usable)
    train_region = int(len(rows) * train_split)
    ends = [0, train_region - int(train_region * val_split), train_region]
    train, val, test = (int(rows[place]) if place < len(rows) else len(usable) for place in ends)
    return Border(train=train, val=val, test=test, end=len(usable))


def date_cuts(days: Sequence[DateArray], *, train_split: float, val_split: float) -> tuple[date, date]:
    """First validation and first test day, the same for every ticker, by the share of all usable days before them."""
    distinct = np.unique(np.concatenate(days)) if days else np.array([], dtype="datetime64[D]")
    share = {"train_split": train_split, "val_split": val_split}
    border = fraction_border(np.ones(len(distinct), dtype=np.bool_), **share)
    if border.test >= len(distinct):
        raise NotEnoughHistoryError("no ticker has a bar after the warm-up; ingest an earlier start or lower --warmup")
    return distinct[border.val].astype(object), distinct[border.test].astype(object)


def calendar_border(dates: DateArray, window: Days, *, first: int = 0) -> Border:
    """Return the rows of one ticker that fall into calendar windows, none of them before row ``first``."""
    rows = np.maximum(np.searchsorted(dates, np.array(window, dtype="datetime64[D]")), first)
    train, val, test, end = rows.tolist()
    return Border(train=train, val=val, test=test, end=max(end, test))


def usable_of(dates: DateArray, config: CommonConfig) -> BoolArray:
    """[bars] False in the warm-up of a ticker, which begins again after each hole."""
    return usable_rows(dates, warmup=config.warmup, max_gap_days=config.max_gap_days)


def shortage(border: Border, usable: BoolArray, *, context: int = 0, tested: int = MIN_TEST) -> str | None:
    """Why a border has too few usable rows to train on and be tested, or None."""
    needs = (
        ("train", usable[border.train : border.val], MIN_TRAIN + context),
        ("validation", usable[border.val : border.test], MIN_VAL),
        ("test", usable[border.test : border.end], tested),
    )
    for name, rows, need in needs:
        if (have := int(rows.sum())) < need:
            return f"{plural(have, 'row')} in {name}, needs {need}"
    return None


def bars_needed(config: TrainConfig, *, context: int = 0) -> int:
    """Fewest bars with which a ticker split by its own share is not too short."""
    bars = config.warmup
    share = {"train_split": config.train_split, "val_split": config.val_split}
    while True:
        usable = np.arange(bars) >= config.warmup
        if shortage(fraction_border(usable, **share), usable, context=context) is None:
            return bars
        bars += 1


def split_window(splits: Iterable[JsonDict]) -> dict[str, str]:
    """Give the first day of each split and the last day of test over several tickers, each as `describe` gives it."""
    parts = list(splits)
    days = {name: [part[name] for part in parts if part[name]["rows"]] for name in ("train", "val", "test")}
    starts = {f"{name}_start": min(part["first"] for part in own) for name, own in days.items()}
    return {**starts, "test_end": max(part["last"] for part in days["test"])}
