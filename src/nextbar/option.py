"""An option: a field of a frozen record that carries its help text, its limits and what its values are read by.

The command line is generated from such records, so an option, its default, its check and its explanation are declared
once.
"""

from __future__ import annotations

import datetime as dt
import math
import operator
from collections.abc import Callable
from dataclasses import Field, dataclass, field, fields
from typing import Any

from nextbar.errors import ConfigError
from nextbar.words import brief, impossible_day, nearest


def option(
    default: Any,
    text: str,
    *,
    group: str = "Data",
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] = (),
    read: Callable[[str, Any], Any] | None = None,
    kinds: tuple[str, ...] = (),
    affects_result: bool = True,
    variable: str | None = None,
) -> Any:
    """Declare a configuration field: its help text, its limits, the models it matters to, its environment variable.

    ``read(flag, value)`` checks a value that is not None, and gives it in one spelling. Without ``kinds`` the option
    matters to all. ``affects_result=False`` says that the result does not depend on it.
    """
    limits = {"low": low, "high": high, "above": above, "choices": choices, "read": read}
    use = {"kinds": kinds, "affects_result": affects_result, "variable": variable}
    return field(default=default, metadata={"text": text, "group": group, **limits, **use})


def affects_result(item: Field[Any]) -> bool:
    """Whether a result depends on an option."""
    return bool(item.metadata.get("affects_result", True))


def flag(name: str) -> str:
    """Return how a command spells an option."""
    return f"--{name.replace('_', '-')}"


def day(name: str, value: Any) -> str:
    """Check a day."""
    try:
        dt.date.fromisoformat(value)
    except (TypeError, ValueError):
        raise ConfigError(f"{name} expects a day as YYYY-MM-DD, got {brief(value)}{impossible_day(value)}") from None
    return str(value)


def one_day(name: str, value: Any) -> str:
    """Return a day in one spelling: 20190102 is the same as 2019-01-02."""
    return dt.date.fromisoformat(day(name, value)).isoformat()


@dataclass(frozen=True, kw_only=True)
class Options:
    """Record of options, checked when it is made.

    Raises:
        ConfigError: A value is outside its limits, or values contradict each other.
    """

    def __post_init__(self) -> None:
        for item in fields(self):
            value, read = getattr(self, item.name), item.metadata.get("read")
            _check(item, value)
            if read is not None and value is not None:
                object.__setattr__(self, item.name, read(flag(item.name), value))

    def days(self, *names: str) -> dict[str, dt.date]:
        """Return those of these options that name a day."""
        given = {name: getattr(self, name, None) for name in names}
        return {name: dt.date.fromisoformat(value) for name, value in given.items() if value is not None}


_TYPES: dict[str, tuple[Any, str]] = {
    "bool": (bool, "True or False"),
    "int": (int, "a whole number"),
    "float": ((int, float), "a number"),
}
"""Type of an option → what is accepted, and how a message calls it."""
_BOUNDS = (("low", "at least", operator.lt), ("above", "more than", operator.le), ("high", "at most", operator.gt))


def _check(item: Field[Any], value: Any) -> None:
    """Check one field against its limits."""
    meta, name = item.metadata, flag(item.name)
    if value is None:
        if str(item.type).endswith("None"):
            return
        raise ConfigError(f"{name} expects a value, got None; leave it out for {item.default!r}")
    accepted, text = _TYPES.get(str(item.type).removesuffix(" | None"), (object, ""))
    if not isinstance(value, accepted) or (isinstance(value, bool) and accepted not in (bool, object)):
        raise ConfigError(f"{name} expects {text}, got {brief(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{name} expects a finite number, got {value}")
    if meta.get("choices") and not (isinstance(value, str) and value in meta["choices"]):
        raise ConfigError(
            f"{name} expects one of {', '.join(meta['choices'])}, got "
            f"{brief(value)}{nearest(str(value), meta['choices'])}"
        )
    for key, words, breaks in _BOUNDS:
        if (limit := meta.get(key)) is not None and breaks(value, limit):
            raise ConfigError(f"{name} expects {words} {limit:g}, got {value}")
