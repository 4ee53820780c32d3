"""Words of messages."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a cell begins with that a spreadsheet computes; the last four are the full-width forms of the first."""


def printable(text: str, *, keep: str = "") -> str:
    r"""Return a text with every character that does not show itself spelled out, such as \x1b; all but ``keep``."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in keep else _spelled(ord(one)) for one in text)


def _spelled(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def cell(value: object) -> object:
    """Return a CSV cell; a text that begins as a formula does gets an apostrophe before it, a number does not."""
    if not isinstance(value, str):
        return value
    shown = printable(value)  # pandas leaves a carriage return unquoted, which would begin another row
    return f"'{shown}" if value.startswith(FORMULA) else shown


def plural(count: int, noun: str) -> str:
    """Return a count and its noun: 1 ticker, 3 tickers."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def utc_seconds(time: dt.datetime) -> str:
    """Return a time with its zone as files and JSON hold it: ISO 8601, UTC, seconds."""
    return time.astimezone(dt.UTC).isoformat(timespec="seconds")


def utc_minute(text: str) -> str:
    """Return a recorded time as tables and messages show it; a text that is no time stays as it is."""
    try:
        time = dt.datetime.fromisoformat(text)
        return f"{time.replace(tzinfo=time.tzinfo or dt.UTC).astimezone(dt.UTC):%Y-%m-%d %H:%M} UTC"
    except (ValueError, OverflowError):
        return text


def impossible_day(text: object) -> str:
    """Return what to add to a message about a text that is written as a day and is none; empty for another text."""
    return ", a day that the calendar does not have" if re.fullmatch(r"\d{4}-\d\d-\d\d", str(text)) else ""


def occur_twice(count: int, noun: str) -> str:
    """Return how many occur twice: 1 day occurs twice, 3 days occur twice."""
    return f"{plural(count, noun)} {'occurs' if count == 1 else 'occur'} twice"


def alike(names: Iterable[str]) -> list[list[str]]:
    """Return the names that differ only in case, group by group, sorted."""
    groups: dict[str, list[str]] = {}
    for name in sorted({*names}):
        groups.setdefault(name.casefold(), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def listed(names: Sequence[str], most: int = 6, noun: str = "") -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - most} more{noun and ' ' + noun}" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def nearest(name: str, known: Iterable[str], *, most: int = 1, cutoff: float = 0.6, lead: str = "; ") -> str:
    """Return what to add to a message about an unknown name: those known that are near, case aside; else nothing."""
    by_upper = {one.upper(): one for one in known}
    found = [excerpt(by_upper[one]) for one in get_close_matches(name.upper(), by_upper, n=most, cutoff=cutoff)]
    return f"{lead}nearest: {', '.join(found)}" if found else ""


def nearest_file(path: Path, known: Iterable[str] = ()) -> str:
    """Return what to add to a message about a database that is not there: one beside it, or known, of a near name."""
    beside = [file.name for file in path.parent.glob("*") if file.suffix in (path.suffix, ".db") and file.is_file()]
    stem = path.stem.upper()  # a common suffix makes short names look alike
    found = [name for name in (*beside, *known) if get_close_matches(stem, [Path(name).stem.upper()], cutoff=0.6)]
    return nearest(path.name, found, cutoff=0.7)


def by_reason(reasons: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return reason → names that it concerns, sorted, from pairs (name, reason); a reason may begin with the name."""
    found: dict[str, dict[str, None]] = {}
    for name, reason in reasons:
        found.setdefault(reason.removeprefix(f"{name}: "), {})[name] = None
    return {reason: sorted(names, key=_by_number) for reason, names in found.items()}


def _by_number(name: str) -> list[str | int]:
    """Return the key by which fold 2 comes before fold 10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def said_once(reasons: Iterable[tuple[str, str]], noun: str = "tickers") -> list[str]:
    """Return each reason once, after the names that it concerns; ``noun`` says what they are."""
    return [": ".join(filter(None, [listed(names, noun=noun), text])) for text, names in by_reason(reasons).items()]


def excerpt(text: object, most: int = 80) -> str:
    """Return a foreign text as it may be printed, cut where it is long."""
    shown = printable(str(text)[: most + 1])
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def brief(value: object, most: int = 60) -> str:
    """Return a user's value as a message shows it: an array, a table or a long collection by its type and size."""
    kind = type(value).__name__
    if isinstance(shape := getattr(value, "shape", None), tuple) and shape:
        return f"{kind} of shape {shape}"
    if isinstance(value, dict | list | tuple | set):
        parts = value.values() if isinstance(value, dict) else value
        if not all(part is None or isinstance(part, str | int | float) for part in parts) or len(repr(value)) > most:
            return f"{kind} of {plural(len(value), 'item')}"
    return excerpt(repr(value), most)


PLAIN_PARAMETERS = ("sslmode", "host", "port", "user", "dbname", "application_name", "connect_timeout", "charset")
"""Parameters of a database URL that hold no secret; every other one is hidden."""


def without_password(text: str) -> str:
    """Take the secrets out of a database URL, or out of a command-line argument that holds one."""
    start, mark, rest = text.partition("://")
    place, question, query = re.sub(r"^([^:/]*):.*@", r"\1@", rest, flags=re.DOTALL).partition("?")
    kept = [part for part in query.split("&") if part.partition("=")[0] in PLAIN_PARAMETERS]
    return start + mark + place + (question if mark else "") + "&".join(kept)
