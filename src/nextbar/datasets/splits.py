"""Where train, validation and test begin and end, as rows; and the calendar windows of a walk-forward.

A splitter looks at dates and counts, never at a price. It says which rows belong to which split; the label then drops
the last row of each (`labels.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import pandas as pd

from nextbar.config import CommonConfig, TrainConfig, WalkForwardConfig
from nextbar.datasets.labels import usable_rows
from nextbar.errors import NotEnoughHistoryError
from nextbar.types import BoolArray, Border, DateArray, JsonDict

MIN_TRAIN, MIN_VAL, MIN_TEST = 60, 5, 5
"""Fewest rows a split may have: below, a search over five time-series folds has nothing to learn from."""


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Calendar window of one fold; each day belongs to the half-open range that starts before it."""

    number: int
    train_start: date
    val_start: date
    test_start: date
    test_end: date


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


def calendar_border(dates: DateArray, fold: Fold, *, first: int = 0) -> Border:
    """Rows of one ticker that fall into a fold's windows, none of them before row ``first``."""
    days = [fold.train_start, fold.val_start, fold.test_start, fold.test_end]
    rows = np.maximum(np.searchsorted(dates, np.array(days, dtype="datetime64[D]")), first)
    train, val, test, end = (int(row) for row in rows)
    return Border(train=train, val=val, test=test, end=max(end, test))


def train_borders(dates: Mapping[str, DateArray], config: TrainConfig) -> dict[str, Border]:
    """Border of every ticker for a training run, by its own share of usable rows or by one date for all."""
    share = {"train_split": config.train_split, "val_split": config.val_split}
    usable = {name: usable_of(day, config) for name, day in dates.items()}
    if config.split_by == "ticker":
        return {name: fraction_border(rows, **share) for name, rows in usable.items()}
    val_start, test_start = date_cuts([day[usable[name]] for name, day in dates.items()], **share)
    window = Fold(number=0, train_start=date.min, val_start=val_start, test_start=test_start, test_end=date.max)
    firsts = {name: np.flatnonzero(np.append(rows, True))[0] for name, rows in usable.items()}
    return {name: calendar_border(day, window, first=int(firsts[name])) for name, day in dates.items()}


def usable_of(dates: DateArray, config: CommonConfig) -> BoolArray:
    """[bars] False in the warm-up of a ticker, which begins again after each hole."""
    return usable_rows(dates, warmup=config.warmup, max_gap_days=config.max_gap_days)


def walk_forward_folds(first: date, last: date, config: WalkForwardConfig) -> list[Fold]:
    """Calendar windows from the first of the month at or after ``first`` until the test window passes ``last``.

    The last test window may be cut short by the end of the data; no day is in two test windows.
    """
    anchor = pd.Timestamp(first) + pd.offsets.MonthBegin(0)
    folds: list[Fold] = []
    while True:
        moved = anchor + pd.DateOffset(months=config.step_months * len(folds))
        val_start = moved + pd.DateOffset(years=config.train_years)
        test_start = val_start + pd.DateOffset(months=config.val_months)
        if test_start.date() > last:
            return folds
        test_end = test_start + pd.DateOffset(months=config.test_months)
        folds.append(
            Fold(
                number=len(folds),
                train_start=(anchor if config.expanding else moved).date(),
                val_start=val_start.date(),
                test_start=test_start.date(),
                test_end=test_end.date(),
            )
        )


def shortage(border: Border, usable: BoolArray, *, context: int = 0, tested: int = MIN_TEST) -> str | None:
    """Why a border has too few usable rows to train on and be tested, or None.

    Args:
        border: Rows of the splits.
        usable: [bars] rows outside the warm-up.
        context: Rows of train that cannot be samples because a window must fit before them.
        tested: Fewest rows of test.
    """
    needs = (
        ("train", usable[border.train : border.val], MIN_TRAIN + context),
        ("validation", usable[border.val : border.test], MIN_VAL),
        ("test", usable[border.test : border.end], tested),
    )
    for name, rows, need in needs:
        if (have := int(rows.sum())) < need:
            return f"{have} rows in {name}, needs {need}"
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


def context_rows(config: CommonConfig, model: str) -> int:
    """Rows that must precede a model's first sample: a window less one for the LSTM, none for the trees."""
    return config.sequence_length - 1 if model == "lstm" else 0


def describe(dates: DateArray, border: Border) -> JsonDict:
    """Sizes and first and last day of each split, for the metadata."""
    ranges = {"train": (border.train, border.val), "val": (border.val, border.test), "test": (border.test, border.end)}
    return {
        name: {
            "rows": stop - start,
            "first": str(dates[start]) if stop > start else None,
            "last": str(dates[stop - 1]) if stop > start else None,
        }
        for name, (start, stop) in ranges.items()
    }
