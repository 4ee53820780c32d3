"""Ways to damage a file: bits, lengths, order, numbers, and values of JSON; all from one random generator."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from typing import Any

NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
EXTREMES = [
    b"0",
    b"-1",
    b"1e308",
    b"-1e308",
    b"1e400",
    b"NaN",
    b"1e-320",
    b"2147483648",
    b"9" * 30,
    b"0.5",
    b"-0",
    b"1",
]
VALUES: list[Any] = [
    None, True, 0, -1, 1, 2**31, 2**63, 10**30, 1e308, -1e308, 5e-324, 0.5, "", "x", "x" * 5000, "\u001b[31m", "NaN",
    "9999-12-31", "0000-00-00", "../../etc/passwd", "=1+1", [], {}, [[]], [None], [1e308] * 3, {"a": {"b": []}},
]  # fmt: skip
STRANGE_CELLS = [
    b"", b"-", b"NaN", b"inf", b"1e999", b"9999-12-31", b"0001-01-01", b"2262-04-12", b"\xff\xfe", b"\x00", b'"',
    b"A" * 300, b"=cmd|' /C calc'!A0", b"\x1b[2J", b"1,2", b"1;2", b"31/12/2020", b"-5", b"0", b"99999999999999999999",
]  # fmt: skip


def flip_bits(content: bytes, rng: random.Random) -> bytes:
    """Flip one to eight bits."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def truncate(content: bytes, rng: random.Random) -> bytes:
    """Cut the end off."""
    return content[: rng.randrange(len(content))]


def swap(content: bytes, rng: random.Random) -> bytes:
    """Exchange two stretches of equal length."""
    size = rng.randint(1, max(1, min(64, len(content) // 3)))
    first, second = sorted(rng.sample(range(max(2, len(content) - size)), 2))
    changed = bytearray(content)
    changed[first : first + size], changed[second : second + size] = (
        content[second : second + size],
        content[first : first + size],
    )
    return bytes(changed)


def insert(content: bytes, rng: random.Random) -> bytes:
    """Insert bytes, or repeat a stretch of the file."""
    place = rng.randrange(len(content))
    stretch = content[place : place + rng.randint(1, 200)] * rng.randint(1, 20)
    return content[:place] + rng.choice([rng.randbytes(rng.randint(1, 40)), stretch]) + content[place:]


def overwrite(content: bytes, rng: random.Random) -> bytes:
    """Write an extreme 32- or 64-bit number somewhere, as a length or an offset would stand."""
    value = rng.choice([0, 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1, rng.getrandbits(64)])
    width = rng.choice([4, 8])
    place = rng.randrange(len(content))
    return content[:place] + (value % 2 ** (8 * width)).to_bytes(width, "little") + content[place + width :]


def extreme_number(content: bytes, rng: random.Random) -> bytes:
    """Replace one written number by an extreme one."""
    found = list(NUMBER.finditer(content))
    if not found:
        return flip_bits(content, rng)
    match = rng.choice(found)
    return content[: match.start()] + rng.choice(EXTREMES) + content[match.end() :]


def strange_cell(content: bytes, rng: random.Random) -> bytes:
    """Replace one cell of a CSV, or a whole column's name."""
    lines = content.split(b"\n")
    row = rng.choice([0, rng.randrange(len(lines))])
    cells = lines[row].split(b",")
    cells[rng.randrange(len(cells))] = rng.choice(STRANGE_CELLS)
    lines[row] = b",".join(cells)
    return b"\n".join(lines)


def json_value(content: bytes, rng: random.Random) -> bytes:
    """Replace, remove or double one value of a JSON document, at any depth."""
    document = json.loads(content)
    places: list[tuple[Any, Any]] = []
    waiting = [document]
    while waiting:
        node = waiting.pop()
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in items:
            places.append((node, key))
            if isinstance(value, dict | list):
                waiting.append(value)
    node, key = rng.choice(places)
    way = rng.randrange(5)
    if way == 0:
        del node[key]
    elif way == 1 and isinstance(node, dict):
        node[rng.choice(list(node)) if node else "x"] = rng.choice(VALUES)
        node["unknown"] = rng.choice(VALUES)
    elif way == 2:
        deep: Any = rng.choice(VALUES)
        for _ in range(rng.choice([3, 200])):
            deep = [deep]
        node[key] = deep
    else:
        node[key] = rng.choice(VALUES)
    return json.dumps(document).encode()


BYTES: list[Callable[[bytes, random.Random], bytes]] = [flip_bits, truncate, swap, insert, overwrite]
TEXT = [*BYTES, extreme_number]
WAYS: dict[str, list[Callable[[bytes, random.Random], bytes]]] = {
    ".json": [*TEXT, json_value, json_value, json_value, json_value],
    ".csv": [*TEXT, strange_cell, strange_cell, strange_cell],
}
"""Suffix → how such a file is damaged; others by `BYTES`."""


def mutate(content: bytes, suffix: str, rng: random.Random) -> tuple[str, bytes]:
    """Damage a file's content in one way that suits it; return the name of the way and the new content."""
    way = rng.choice(WAYS.get(suffix, BYTES))
    return way.__name__, way(content, rng)
