"""Read JSON that may come from anyone, and turn whatever a reader raises into a refusal that names the file."""

from __future__ import annotations

import json
import math
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nextbar.errors import ArtifactError

MOST_JSON_BYTES = 128 * 2**20
MOST_JSON_MEMORY = 768 * 2**20
"""Of the values in a JSON file, as `_memory` estimates them: 30 bytes of memory may take one in the file."""
MOST_LEVELS = 64
"""Lists and objects inside each other; a document has 12."""
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Turn every error while ``what`` is read into one ArtifactError."""
    try:
        yield
    except ArtifactError:
        raise
    except Exception as error:
        told = isinstance(error, ValueError)
        fault = str(error) if told else f"{type(error).__name__}: {error}".removesuffix(": ")
        raise ArtifactError(f"{what} is refused, it is damaged or not ours: {fault}; train again") from error


def refuse_programs(connection: sqlite3.Connection) -> None:
    """Refuse a database with views, triggers or computed columns, which may never come to an end."""
    connection.execute("PRAGMA trusted_schema = OFF")
    stored = connection.execute("SELECT name, type, rootpage FROM sqlite_master").fetchall()
    for name, kind, page in stored:
        columns = connection.execute("SELECT hidden FROM pragma_table_xinfo(?)", (name,)) if kind == "table" else ()
        if kind not in {"table", "index"} or not page or any(hidden for (hidden,) in map(tuple, columns)):
            raise sqlite3.DatabaseError(f"{str(name)[:40]!r} in it is not a plain table")


def strict_json(content: bytes) -> Any:
    """Read JSON whose values take a bounded amount of memory and can be written again; call it inside `refusing`.

    Raises:
        ValueError: It is no JSON, or holds a key twice, a number without a finite value, half a character, too many
            values or too many levels.
        RecursionError: It is nested beyond reason.
    """
    if (needed := _memory(content)) > MOST_JSON_MEMORY:
        raise ValueError(f"its values would take about {needed >> 20} MiB, more than {MOST_JSON_MEMORY >> 20}")
    document = json.loads(content, parse_constant=_refuse, object_pairs_hook=_object)
    _check_values(document, texts=_SURROGATE.search(content) is not None)
    return document


def _memory(content: bytes) -> int:
    """Estimate from above what the values take, by the characters that begin or end one (measured)."""
    brackets, commas, colons = content.count(b"{") + content.count(b"["), content.count(b","), content.count(b":")
    letter = (
        9 if not content.isascii() else 12 if _SURROGATE.search(content) else 4
    )  # a text has its widest letter's size
    return letter * len(content) + 100 * brackets + 64 * commas + 150 * colons


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object; another parser may take the other one of two equal keys."""
    found = dict(pairs)
    if len(found) < len(pairs):
        doubled = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"it holds the key {doubled!r} twice")
    return found


def _check_values(document: Any, *, texts: bool) -> None:
    """Refuse what no other reader takes: such numbers, deep nesting, and, if ``texts``, half a character in a text."""
    level = [document]
    for _ in range(MOST_LEVELS):
        floats, whole = ([value for value in level if type(value) is kind] for kind in (float, int))
        if floats and not -math.inf < min(floats) <= max(floats) < math.inf:
            raise ValueError("it holds a number beyond 1.8e308")
        if whole and not -(2**128) < min(whole) <= max(whole) < 2**128:
            raise ValueError(f"it holds the whole number {str(max(whole, key=abs))[:24]}…, beyond 128 bits")
        groups = [value for value in level if type(value) in (dict, list)]
        if texts:
            for text in (*level, *(key for group in groups if type(group) is dict for key in group)):
                if type(text) is str:
                    text.encode()
        if not groups:
            return
        level = [value for group in groups for value in (group.values() if type(group) is dict else group)]
    raise ValueError(f"its values are nested more than {MOST_LEVELS} levels deep")
