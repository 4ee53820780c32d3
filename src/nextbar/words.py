"""Words of messages."""

from __future__ import annotations

from collections.abc import Sequence


def plural(count: int, noun: str) -> str:
    """Return a count and its noun: 1 ticker, 3 tickers."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(names: Sequence[str], most: int = 6, noun: str = "") -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - most} more{noun and ' ' + noun}" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def printable(text: object, most: int = 80) -> str:
    """Return a foreign text as it may be printed: control characters escaped, cut where it is long."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text)[: most + 1])
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"
