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
from nextbar.errors import NotEnoughHistoryError
from nextbar.types import Border, DateArray, JsonDict

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


def fraction_border(bars: int, *, warmup: int, train_split: float, val_split: float) -> Border:
    """Split one ticker's rows after its warm-up: test is the end, validation the end of what is left."""
    samples = max(bars - warmup, 0)
    train_region = int(samples * train_split)
    test = warmup + train_region
    return Border(train=warmup, val=test - int(train_region * val_split), test=test, end=max(bars, warmup))


def date_cuts(dates: Sequence[DateArray], *, warmup: int, train_split: float, val_split: float) -> tuple[date, date]:
    """First validation and first test day, the same for every ticker, by the share of all sample days before them."""
    days = np.unique(np.concatenate([day[warmup:] for day in dates])) if dates else np.array([], dtype="datetime64[D]")
    border = fraction_border(len(days), warmup=0, train_split=train_split, val_split=val_split)
    if border.test >= len(days):
        raise NotEnoughHistoryError(f"no ticker has more than {warmup} bars; ingest an earlier start or lower --warmup")
    return days[border.val].astype(object), days[border.test].astype(object)


def calendar_border(dates: DateArray, fold: Fold, *, warmup: int) -> Border:
    """Rows of one ticker that fall into a fold's windows, none of them inside the warm-up."""
    days = [fold.train_start, fold.val_start, fold.test_start, fold.test_end]
    rows = np.maximum(np.searchsorted(dates, np.array(days, dtype="datetime64[D]")), warmup)
    train, val, test, end = (int(row) for row in rows)
    return Border(train=train, val=val, test=test, end=max(end, test))


def train_borders(dates: Mapping[str, DateArray], config: TrainConfig) -> dict[str, Border]:
    """Border of every ticker for a training run, by its own share of rows or by one date for all."""
    share = {"train_split": config.train_split, "val_split": config.val_split}
    if config.split_by == "ticker":
        return {name: fraction_border(len(day), warmup=config.warmup, **share) for name, day in dates.items()}
    val_start, test_start = date_cuts(list(dates.values()), warmup=config.warmup, **share)
    window = Fold(number=0, train_start=date.min, val_start=val_start, test_start=test_start, test_end=date.max)
    return {name: calendar_border(day, window, warmup=config.warmup) for name, day in dates.items()}


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


def shortage(border: Border, *, context: int = 0) -> str | None:
    """Why a border has too few rows to train on and be tested, or None.

    Args:
        border: Rows of the splits.
        context: Rows of train that cannot be samples because a window must fit before them.
    """
    needs = (
        ("train", border.val - border.train, MIN_TRAIN + context),
        ("validation", border.test - border.val, MIN_VAL),
        ("test", border.end - border.test, MIN_TEST),
    )
    for name, have, need in needs:
        if have < need:
            return f"{have} rows in {name}, needs {need}"
    return None


def bars_needed(config: TrainConfig, *, context: int = 0) -> int:
    """Fewest bars with which a ticker split by its own share is not too short."""
    bars = config.warmup
    share = {"train_split": config.train_split, "val_split": config.val_split}
    while shortage(fraction_border(bars, warmup=config.warmup, **share), context=context):
        bars += 1
    return bars


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
