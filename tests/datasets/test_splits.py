"""Splitters: tables of dates and rows, worked out by hand."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, datetime
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextbar.config import CertifyConfig, TrainConfig, WalkForwardConfig
from nextbar.datasets.samples import describe, usable_rows
from nextbar.datasets.splits import (
    Fold,
    Split,
    Windows,
    bars_needed,
    calendar_border,
    date_cuts,
    fraction_border,
    shortage,
)
from nextbar.errors import ConfigError, NotEnoughHistoryError
from nextbar.runs.labels import identity_options
from nextbar.types import Border


def folds_between(first: str, last: str, **options: Any) -> list[Fold]:
    """Folds of a history from a first to a last day; none where it is too short."""
    try:
        return Windows(**options).folds({"A": np.array([first, last], dtype="datetime64[D]")}, {})
    except NotEnoughHistoryError:
        return []


def borders_of(dates: dict[str, Any]) -> Mapping[str, Border]:
    """Borders of a split of all tickers at one date, with 50 bars of warm-up."""
    usable = {name: np.arange(len(day)) >= 50 for name, day in dates.items()}
    return Split(by="date").folds(dates, usable)[0].borders


def windows(first: str, last: str, **options: Any) -> list[tuple[str, str, str, str]]:
    """Folds as texts: first day of train, validation and test, and the first day after test."""
    folds = folds_between(first, last, **options)
    assert [fold.number for fold in folds] == list(range(len(folds)))
    return [tuple(map(str, fold.days)) for fold in folds]


TABLES = {
    "rolling": (
        {"first": "2010-01-01", "last": "2014-09-30"},
        [
            ("2010-01-01", "2013-01-01", "2014-01-01", "2014-04-01"),
            ("2010-04-01", "2013-04-01", "2014-04-01", "2014-07-01"),
            ("2010-07-01", "2013-07-01", "2014-07-01", "2014-10-01"),
        ],
    ),
    "expanding": (
        {"first": "2010-01-01", "last": "2014-06-30", "expanding": True},
        [
            ("2010-01-01", "2013-01-01", "2014-01-01", "2014-04-01"),
            ("2010-01-01", "2013-04-01", "2014-04-01", "2014-07-01"),
        ],
    ),
    "first day inside a month begins with the next": (
        {"first": "2010-01-02", "last": "2014-03-15"},
        [("2010-02-01", "2013-02-01", "2014-02-01", "2014-05-01")],
    ),
    "last window is cut short by the data": (
        {"first": "2010-01-01", "last": "2014-04-01"},
        [
            ("2010-01-01", "2013-01-01", "2014-01-01", "2014-04-01"),
            ("2010-04-01", "2013-04-01", "2014-04-01", "2014-07-01"),
        ],
    ),
    "step longer than test leaves holes": (
        {
            "first": "2011-12-01",
            "last": "2014-01-31",
            "train_years": 1,
            "val_months": 3,
            "test_months": 1,
            "step_months": 6,
        },
        [
            ("2011-12-01", "2012-12-01", "2013-03-01", "2013-04-01"),
            ("2012-06-01", "2013-06-01", "2013-09-01", "2013-10-01"),
        ],
    ),
    "one day too few": ({"first": "2010-01-01", "last": "2013-12-31"}, []),
    "leap year": (
        {
            "first": "2012-02-01",
            "last": "2013-04-01",
            "train_years": 1,
            "val_months": 1,
            "test_months": 1,
            "step_months": 1,
        },
        [
            ("2012-02-01", "2013-02-01", "2013-03-01", "2013-04-01"),
            ("2012-03-01", "2013-03-01", "2013-04-01", "2013-05-01"),
        ],
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_walk_forward_windows(name):
    """The calendar windows are those worked out by hand."""
    options, expected = TABLES[name]
    assert windows(**options) == expected


def test_a_test_window_may_end_after_the_bars_and_not_after_the_last_date():
    """A window of centuries is cut short by the end of the data; one that dates cannot hold is refused."""
    bounds, long = ("2000-01-03", "2010-12-31"), {"train_years": 1, "val_months": 3}
    (fold,) = folds_between(*bounds, **long, test_months=20_000, step_months=20_000)
    assert fold.days[3].year > 3600
    with pytest.raises(ConfigError, match="a window ends after the year 9999"):
        folds_between(*bounds, **long, test_months=100_000, step_months=100_000)


@settings(max_examples=60, deadline=None)
@given(
    first=st.dates(date(1995, 1, 1), date(2005, 12, 31)),
    days=st.integers(400, 4000),
    years=st.integers(1, 3),
    months=st.tuples(st.integers(1, 12), st.integers(1, 6), st.integers(0, 5)),
    expanding=st.booleans(),
)
def test_no_day_is_tested_twice(first, days, years, months, expanding):
    """Test windows never overlap, each begins where its validation ends, and none begins after the last day."""
    val, test, extra = months
    lengths = {"train_years": years, "val_months": val, "test_months": test, "step_months": test + extra}
    last = date.fromordinal(first.toordinal() + days)
    folds = folds_between(str(first), str(last), **lengths, expanding=expanding)
    for fold in folds:
        train_start, val_start, test_start, test_end = fold.days
        assert first <= train_start < val_start < test_start < test_end
        assert test_start <= last
    for (train_start, val_start, _, test_end), other in pairwise(fold.days for fold in folds):
        assert test_end <= other[2]
        assert val_start < other[1]
        assert (train_start == other[0]) if expanding else (train_start < other[0])


@pytest.mark.parametrize(("test", "step"), [(1, 3), (3, 3), (12, 12)])
def test_the_step_that_nobody_names_is_the_same_everywhere(test, step):
    """It is 3 months, or as long as a longer test window, on the command line as in Python; 3 is no identity."""
    config = WalkForwardConfig(test_months=test)
    assert config.step_months == WalkForwardConfig(**Windows(test_months=test).options()).step_months == step
    named = identity_options(WalkForwardConfig, config.to_json(), "xgb")
    assert named.get("step_months", 3) == step
    starts = [fold.days[2] for fold in folds_between("2000-01-01", "2010-12-31", test_months=test)]
    assert {(later.year - day.year) * 12 + later.month - day.month for day, later in pairwise(starts)} == {step}


def test_step_shorter_than_test_is_an_error():
    """A step that would test days twice is refused before anything is read."""
    with pytest.raises(ConfigError, match=r"--step-months 2 is shorter than --test-months 3.*tested twice"):
        WalkForwardConfig(step_months=2)


@pytest.mark.parametrize(
    ("bars", "warmup", "shares", "expected"),
    [
        (1200, 200, (0.8, 0.1), (200, 920, 1000, 1200)),
        (1000, 0, (0.8, 0.1), (0, 720, 800, 1000)),
        (1000, 0, (0.5, 0.5), (0, 250, 500, 1000)),
        (103, 100, (0.8, 0.1), (100, 102, 102, 103)),
        (100, 200, (0.8, 0.1), (100, 100, 100, 100)),
    ],
)
def test_fraction_border(bars, warmup, shares, expected):
    """Test is the end of the rows after warm-up, validation the end of the region before it."""
    border = fraction_border(np.arange(bars) >= warmup, train_split=shares[0], val_split=shares[1])
    assert (border.train, border.val, border.test, border.end) == expected


def test_fraction_border_counts_usable_rows():
    """Rows in a warm-up that begins again after a hole are in no share: each split has its share of the others."""
    usable = np.ones(1000, dtype=bool)
    usable[:200] = usable[500:700] = False
    border = fraction_border(usable, train_split=0.5, val_split=0.2)
    assert [int(usable[a:b].sum()) for a, b in ((border.train, border.val), (border.val, border.test))] == [240, 60]
    assert int(usable[border.test : border.end].sum()) == 300
    assert all(usable[row] for row in (border.train, border.val, border.test))


def days(first: str, count: int) -> np.ndarray:
    return np.datetime64(first, "D") + np.arange(count)


def test_calendar_border_is_half_open():
    """A window's first day belongs to it, its last does not; rows before the first allowed one belong to no window."""
    window = (date(2020, 1, 1), date(2020, 2, 1), date(2020, 3, 1), date(2020, 3, 11))
    dates = days("2019-12-22", 200)
    border = calendar_border(dates, window)
    assert [str(dates[row]) for row in (border.train, border.val, border.test, border.end)] == [
        "2020-01-01",
        "2020-02-01",
        "2020-03-01",
        "2020-03-11",
    ]
    late = calendar_border(dates, window, first=50)
    assert (late.train, late.val, late.test, late.end) == (50, 50, border.test, border.end)
    ended = calendar_border(days("2019-12-22", 30), window)
    assert (ended.train, ended.val, ended.test, ended.end) == (10, 30, 30, 30)
    unborn = calendar_border(days("2020-06-01", 30), window, first=5)
    assert (unborn.train, unborn.val, unborn.test, unborn.end) == (5, 5, 5, 5)


def test_weekends_at_a_border():
    """A border on a day without a bar falls on the next bar."""
    window = (date(2020, 2, 1), date(2020, 3, 1), date(2020, 8, 1), date(2020, 11, 1))
    dates = np.arange("2020-01-01", "2020-12-31", dtype="datetime64[D]")
    dates = dates[np.is_busday(dates)]
    border = calendar_border(dates, window)
    named = [str(dates[row]) for row in (border.train, border.val, border.test, border.end)]
    assert named == ["2020-02-03", "2020-03-02", "2020-08-03", "2020-11-02"]


def test_date_cuts_are_the_same_for_all():
    """--split-by date counts distinct sample days of all tickers and cuts each ticker at the same two days."""
    dates = {"A": days("2020-01-01", 110), "B": days("2020-02-20", 60), "C": days("2020-04-10", 20)}
    # Sample days after 10 bars of warm-up: A 2020-01-11 … 2020-04-19, B … 2020-04-19, C … 2020-04-29: 110 days.
    val, test = date_cuts([day[10:] for day in dates.values()], train_split=0.8, val_split=0.25)
    assert (str(val), str(test)) == ("2020-03-17", "2020-04-08")
    dates = {"A": days("2020-01-01", 300), "B": days("2020-03-20", 221), "C": days("2020-10-01", 20)}
    borders = borders_of(dates)
    for side in ("val", "test"):
        assert len({str(dates[name][getattr(borders[name], side)]) for name in "AB"}) == 1
    assert (borders["A"].test, borders["A"].end) == (250, 300)
    assert borders["C"] == Border(train=20, val=20, test=20, end=20)


def test_no_days_to_cut_is_an_error():
    """If no ticker outlives the warm-up, the date split says so."""
    with pytest.raises(NotEnoughHistoryError, match="no ticker has a bar after the warm-up"):
        borders_of({"A": days("2020-01-01", 40)})


@pytest.mark.parametrize("context", [0, 59])
def test_bars_needed_is_the_border(context):
    """One bar fewer than `bars_needed` is too short, that many are enough."""
    config = TrainConfig()
    need = bars_needed(config, context=context)
    share = {"train_split": config.train_split, "val_split": config.val_split}
    enough, less = (np.arange(bars) >= config.warmup for bars in (need, need - 1))
    assert shortage(fraction_border(enough, **share), enough, context=context) is None
    assert shortage(fraction_border(less, **share), less, context=context) is not None


@pytest.mark.parametrize(
    ("border", "message"),
    [
        ((0, 59, 100, 200), "59 rows in train, needs 60"),
        ((0, 60, 64, 200), "4 rows in validation, needs 5"),
        ((0, 60, 65, 69), "4 rows in test, needs 5"),
        ((0, 60, 65, 70), None),
    ],
)
def test_shortage_names_the_split(border, message):
    """The first split that is too small is named with both numbers."""
    rows = Border(train=border[0], val=border[1], test=border[2], end=border[3])
    assert shortage(rows, np.ones(200, dtype=bool)) == message


def test_shortage_counts_usable_rows():
    """Rows in a warm-up are not counted, and the message has the number without them."""
    usable = np.arange(200) >= 20
    rows = Border(train=0, val=70, test=100, end=200)
    assert shortage(rows, usable) == "50 rows in train, needs 60"
    assert shortage(rows, np.ones(200, dtype=bool)) is None


def test_boundaries_are_described_by_dates():
    """The metadata's boundaries hold size, first and last day of each split, null for an empty one."""
    told = describe(days("2020-01-01", 30), Border(train=5, val=10, test=10, end=30))
    assert told["train"] == {"rows": 5, "first": "2020-01-06", "last": "2020-01-10"}
    assert told["val"] == {"rows": 0, "first": None, "last": None}
    assert told["test"] == {"rows": 20, "first": "2020-01-11", "last": "2020-01-30"}


DAYS = {"train_end": "2014-12-31", "val_end": "2015-06-30"}


def test_splits_end_at_given_days(make_bars):
    """Every ticker's splits end at the same days, weekends included; the label of the last one is inside its split."""
    frames = {"A": make_bars(900, start="2013-01-01"), "B": make_bars(500, seed=2, start="2014-02-03")}
    dates = {name: frame.index.to_numpy().astype("datetime64[D]") for name, frame in frames.items()}
    usable = {name: usable_rows(days, warmup=60, max_gap_days=15) for name, days in dates.items()}
    bars_end = {name: str(days[-1]) for name, days in dates.items()}
    for test_end, last in ((None, bars_end), ("2015-12-27", dict.fromkeys(dates, "2015-12-25"))):
        split = Split(**DAYS, test_end=test_end)
        (fold,) = split.folds(dates, usable)
        for name, border in fold.borders.items():
            ends = [str(dates[name][row - 1]) for row in (border.val, border.test, border.end)]
            assert ends == ["2014-12-31", "2015-06-30", last[name]]
            assert border.train == 60
        assert Split.of(TrainConfig(**split.options())) == split


def test_a_day_has_one_spelling():
    """A date, and both spellings of ISO 8601, are the same split and the same trial."""
    plain = Split(**DAYS)
    assert Split(train_end=date(2014, 12, 31), val_end="20150630") == plain
    assert TrainConfig(train_end="20141231", val_end="2015-06-30") == TrainConfig(**DAYS)
    assert Split(train_end="9999-12-30", val_end="9999-12-31").folds({}, {})[0].borders == {}
    assert identity_options(TrainConfig, TrainConfig().to_json(), "xgb") == {}
    assert identity_options(TrainConfig, TrainConfig(**DAYS).to_json(), "xgb") == DAYS


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"train_end": "2014-12-31"}, "go together; add val_end"),
        ({"val_end": "2014-12-31"}, "go together; add train_end"),
        ({"test_end": "2014-12-31"}, "go together; add train_end"),
        ({**DAYS, "val_end": "2014-12-31"}, "train_end 2014-12-31 is not before val_end 2014-12-31"),
        ({**DAYS, "test_end": "2015-01-01"}, "val_end 2015-06-30 is not before test_end 2015-01-01"),
        ({**DAYS, "train_end": "31.12.2014"}, "train_end expects a day as YYYY-MM-DD, got '31.12.2014'"),
        ({**DAYS, "train_end": "2014-02-30"}, "got '2014-02-30'"),
        ({**DAYS, "train_end": 2014}, "got 2014"),
        ({**DAYS, "train_end": datetime(2014, 12, 31, 16)}, "expects a day as YYYY-MM-DD"),  # noqa: DTZ001
        ({**DAYS, "train": 0.7}, "shares are given, too: train; drop one"),
        ({**DAYS, "by": "date", "val": 0.2}, "shares are given, too: val, by; drop one"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[-24:],
)
def test_days_that_make_no_split_are_refused(options, told):
    """Which option is missing, which days are out of order, and that shares and days exclude each other."""
    with pytest.raises(ConfigError, match=re.escape(told)):
        Split(**options)


def test_certifying_a_walk_forward_takes_no_days():
    """Its windows would ignore them."""
    with pytest.raises(ConfigError, match="--walkforward uses windows"):
        CertifyConfig(**DAYS, walkforward=True)
