"""The scripts in `proofs/`: the truth beside each planted leak, and the days and errors of the published table."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

FOLDER = Path(__file__).parents[1] / "proofs"


def script(name: str) -> ModuleType:
    """Import a script, which is no part of a package."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


zoo, kdd17 = script("leak_zoo"), script("kdd17")


def moves(specimen: Any) -> bool:
    """Say whether a feature changes on a day before one of many cuts, when the bars after the cut are left out."""
    bars, table = zoo.walk(), getattr(zoo, specimen.name)
    heads = [table(bars.iloc[:count]) for count in range(200, 1000, 7)]  # shorter ones first: a cache must not answer
    whole = table(bars)
    return any(not head.equals(whole.head(len(head))) for head in heads)


@pytest.mark.parametrize(
    "specimen", [one for one in zoo.ZOO if one.way in (None, zoo.LATER_BARS)], ids=lambda s: s.name
)
def test_truth_beside_a_feature(specimen: Any) -> None:
    """A feature that is said to read later bars changes when they are left out, and an honest one never does."""
    assert moves(specimen) == (specimen.way is not None)


def test_zoo_is_large_enough() -> None:
    """At least twenty leaks stand beside at least ten honest features, under names of their own."""
    ways = [one.way for one in zoo.ZOO]
    assert len({one.name for one in zoo.ZOO}) == len(ways)
    assert sum(way is not None for way in ways) >= 20
    assert ways.count(None) >= 10


def test_days_of_the_published_table() -> None:
    """A test day stands at the day of its decision, and is kept by the move of the day after it."""
    days = pd.to_datetime(["2015-12-31", "2016-01-04", "2016-01-05", "2016-01-06"])
    close = 100.0 * np.cumprod([1.0, 1.003, 0.993, 1.02])
    rows = kdd17.decisions(pd.DataFrame({"ticker": "A", "date": days, "adj_close": close}))
    assert list(rows["date"]) == list(days[:3])
    assert list(rows["predicted"]) == list(days[1:])
    assert list(rows["rose"]) == [True, False, True]
    assert list(rows["kept"]) == [False, True, True]


def test_error_clustered_by_date() -> None:
    """Copies of a value within a date add nothing; independent values have the usual standard error."""
    random = np.random.default_rng(0)
    once = pd.Series(random.normal(size=400))
    dates = pd.Series(np.arange(400))
    usual = once.std(ddof=1) / np.sqrt(400)
    copies = pd.concat([once] * 5, ignore_index=True)
    assert kdd17.standard_error(once, dates) == pytest.approx(usual)
    assert kdd17.standard_error(copies, pd.concat([dates] * 5, ignore_index=True)) == pytest.approx(usual)


def test_file_that_is_not_the_published_one(tmp_path: Path) -> None:
    """Other bars are refused, with both digests."""
    path = tmp_path / "bars.parquet"
    path.write_bytes(b"other")
    with pytest.raises(SystemExit, match=kdd17.SHA256):
        kdd17.read(path)
