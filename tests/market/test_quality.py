from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from nextbar.market.quality import find_faults, parse_days

GOOD = {"ticker": "A", "date": "2024-01-02", "open": 10.0, "high": 11.0, "low": 9.0, "close": 10.5, "volume": 1.0}


def faults(**changes: Any) -> str:
    bars = pd.DataFrame([GOOD | changes])
    return str(find_faults(bars, parse_days(bars["date"]))[0])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"volume": np.nan}, ""),
        ({"adj_close": np.nan}, ""),
        ({"close": 11.005}, ""),
        ({"open": 10.0, "high": 10.0, "low": 10.0, "close": 10.0, "volume": 0.0}, ""),
        ({"close": 11.02}, "close outside low..high"),
        ({"open": 8.9}, "open outside low..high"),
        ({"high": 8.0}, "high < low"),
        ({"low": 0.0}, "low <= 0"),
        ({"open": -1.0}, "open <= 0"),
        ({"adj_close": -0.5}, "adj_close <= 0"),
        ({"close": np.nan}, "close is not a number"),
        ({"high": np.inf}, "high is not a number"),
        ({"adj_close": np.inf}, "adj_close is not a number"),
        ({"date": "02.01.2024"}, "bad date"),
        ({"date": "2024-02-30"}, "bad date"),
        ({"date": "2024-1-2"}, "bad date"),
        ({"date": "NaT"}, "bad date"),
        ({"ticker": ""}, "no ticker"),
        ({"ticker": None}, "no ticker"),
    ],
)
def test_each_rule(changes: dict[str, Any], reason: str) -> None:
    """One change to a good bar breaks exactly the rule named, and harmless changes break none."""
    assert faults(**changes) == reason


def test_real_extremes_are_kept() -> None:
    """MS +87 %, AIG −61 % and AAPL −52 % in a day are real: no rule looks at the change from day to day."""
    bars = pd.DataFrame([GOOD, GOOD | {"date": "2024-01-03", "open": 5.0, "high": 20.0, "low": 4.0, "close": 19.6}])
    assert find_faults(bars, parse_days(bars["date"])).tolist() == ["", ""]


def test_days_are_parsed_in_place() -> None:
    """Repeated and unreadable texts keep their rows."""
    days = parse_days(pd.Series(["2024-01-03", "x", "2024-01-02", "2024-01-03", None]))
    assert days.astype(str).tolist() == ["2024-01-03", "NaT", "2024-01-02", "2024-01-03", "NaT"]
