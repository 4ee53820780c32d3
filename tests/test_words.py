"""Words of messages: foreign strings are shown as they are, and obeyed by nobody."""

from __future__ import annotations

import csv
import io
import unicodedata

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextbar.words import FORMULA, brief, by_reason, cell, printable, utc_minute

OBEYED = [
    "\x1b[31m",
    "\x9b2J",
    "a\rb",
    "a\nb",
    "\u202eevil",
    "\u2066x\u2069",
    "\u2028",
    "\ufeff",
    "\udc80",
    "\U000e0041",
]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (pd.DataFrame({"a": [1, 2, 3]}), "DataFrame of shape (3, 1)"),
        (np.zeros(9), "ndarray of shape (9,)"),
        ({"A": pd.DataFrame()}, "dict of 1 item"),
        ([1, "a"], "[1, 'a']"),
        (list(range(999)), "list of 999 items"),
        ("x" * 99, "'" + "x" * 58 + "…"),
        (True, "True"),
    ],
    ids=["frame", "array", "frames", "short list", "long list", "long text", "plain"],
)
def test_a_value_in_a_message_is_short(value, told):
    """A table is its type and shape, a long collection its size, and anything else its first characters."""
    assert brief(value) == told


@pytest.mark.parametrize("text", OBEYED, ids=ascii)
def test_what_a_terminal_would_obey_is_spelled_out(text: str) -> None:
    """Escapes, line ends, bidirectional overrides and hidden characters are shown as backslash and number."""
    shown = printable(text)
    assert "\\" in shown
    assert not {unicodedata.category(one) for one in shown} & {"Cc", "Cf", "Cs", "Zl", "Zp"}


@given(st.text())
def test_spelling_out_leaves_all_other_text_alone(text: str) -> None:
    """What is left shows itself; a text of such characters is as it was, and nothing is spelled out twice."""
    shown = printable(text)
    assert shown.isprintable()
    assert printable(shown) == shown
    if text.isprintable():
        assert shown == text


@given(st.one_of(st.text(), st.floats(allow_nan=False, allow_infinity=False), st.integers()))
def test_no_cell_of_a_csv_file_is_a_formula(value: object) -> None:
    """A text cell that begins with = + - @, tab or a line end gets an apostrophe; numbers stay numbers."""
    text = pd.DataFrame({"x": [value]}, dtype=object).map(cell).to_csv(index=False)
    stored = next(iter(list(csv.reader(io.StringIO(text, newline="")))[1:]), [""])[0]
    if isinstance(value, str):
        assert stored.lstrip("'") == printable(value).lstrip("'")
    else:
        assert float(stored) == float(str(value))
    if stored.startswith(FORMULA):
        float(stored)


@pytest.mark.parametrize(
    "value", ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\uff1d1", "-1.5", "+2"], ids=ascii
)
def test_formulas_are_texts(value: str) -> None:
    """What a spreadsheet would compute begins with an apostrophe."""
    assert cell(value) == f"'{printable(value)}"


@pytest.mark.parametrize("value", [-1.5, None, "AAPL", "^GSPC", "EURUSD=X", "BRK-B"])
def test_other_cells_stay(value: object) -> None:
    """Numbers, negative ones too, and usual symbols are as they were."""
    assert cell(value) == value


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("2026-01-02T03:04:59+00:00", "2026-01-02 03:04 UTC"),
        ("2026-01-02T03:04:59-02:00", "2026-01-02 05:04 UTC"),
        ("2026-01-02T03:04:59", "2026-01-02 03:04 UTC"),
        ("0001-01-01T00:00:00+05:00", "0001-01-01T00:00:00+05:00"),
        ("x", "x"),
    ],
)
def test_times_are_shown_in_one_format(text: str, shown: str) -> None:
    """A recorded time is shown to the minute in UTC; a text that is none, or is out of range, is as it was."""
    assert utc_minute(text) == shown


def test_names_of_one_reason_are_counted_upwards() -> None:
    """Fold 2 comes before fold 10."""
    assert by_reason([("fold 10", "no bars"), ("fold 2", "fold 2: no bars")]) == {"no bars": ["fold 2", "fold 10"]}
