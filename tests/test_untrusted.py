"""JSON that may come from anyone: read whole, or refused before it takes memory or overflows a stack."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextbar.errors import ArtifactError, OutdatedError
from nextbar.untrusted import MOST_JSON_BYTES, MOST_LEVELS, refusing, strict_json

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**100), 2**100)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(PLAIN)
def test_plain_values_come_back(value: Any) -> None:
    """What a document may hold is read to the same values, floats to the bit."""
    try:
        content = json.dumps(value).encode()
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return
    assert repr(strict_json(content)) == repr(value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1e400}', r"beyond 1\.8e308"),
        (b'{"a": -1e999999}', r"beyond 1\.8e308"),
        (b'{"a": [NaN]}', "NaN is not a number"),
        (b'{"a": -Infinity}', "-Infinity is not a number"),
        (b'{"a": ' + b"9" * 60 + b"}", "the whole number 9{24}…, beyond 128 bits"),
        (b'{"a": ' + b"9" * 5000 + b"}", "4300"),
        (b'{"a": 1, "b": 2, "a": 3}', "the key 'a' twice"),
        (b'{"a": {"b": {}, "b": {}}}', "the key 'b' twice"),
        (b'"\\ud800"', "surrogates not allowed"),
        (b"[" * (MOST_LEVELS + 1) + b"]" * (MOST_LEVELS + 1), f"more than {MOST_LEVELS} levels"),
        (b'{"a":' * 500 + b"1" + b"}" * 500, f"more than {MOST_LEVELS} levels"),
        (b"[" * 10**6, "RecursionError"),
        (b"", "Expecting value"),
        (b"\xff\xfe", ""),
        (b"[1] 2", "Extra data"),
    ],
    ids=[
        *("1e400", "minus", "nan", "infinity", "60 digits", "5000 digits", "doubled", "doubled inside", "surrogate"),
        *("deep lists", "deep objects", "beyond the stack", "empty", "no text", "two documents"),
    ],
)
def test_other_values_are_refused(content: bytes, message: str) -> None:
    """With the file and the fault, and no other error."""
    with pytest.raises(ArtifactError, match=rf"^the file is refused.*{message}"), refusing("the file"):
        strict_json(content)


@pytest.mark.parametrize("piece", [b"{},", b"[],", b'{"a":[]},', b'["ab"],'], ids=["objects", "lists", "both", "texts"])
def test_small_values_take_no_memory(piece: bytes) -> None:
    """A file below the limit of bytes whose values would take gigabytes is refused before they are made."""
    content = b"[" + piece * (40 * 2**20 // len(piece)) + b"0]"
    assert len(content) < MOST_JSON_BYTES
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"its values would take about \d+ MiB"):
        strict_json(content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (KeyError("trees"), "KeyError: 'trees'"),
        (RecursionError("x"), "RecursionError: x"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_every_error_names_the_file(error: Exception, told: str) -> None:
    """Whatever a reader raises is a refusal."""
    with (
        pytest.raises(ArtifactError, match=f"^models/x.json is refused.*{told}; train again"),
        refusing("models/x.json"),
    ):
        raise error


def test_a_refusal_stays_what_it_is() -> None:
    """A message that says what to do is not wrapped in another."""
    with pytest.raises(OutdatedError, match=r"^upgrade it$"), refusing("models/x.json"):
        raise OutdatedError("upgrade it")
