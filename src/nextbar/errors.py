"""Every error that nextbar raises on purpose.

Each says what was expected, what arrived and what to do. The command line prints the message alone and exits with 2,
or with 3 where the network failed.
"""

import inspect
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from nextbar.words import nearest

P = ParamSpec("P")
R = TypeVar("R")

_OPTION = re.compile(r"(?:[:(] ?(?:nextbar|dask) [a-z]+|in a command:)[^;,()]*|(?<![\w-])--([a-z]+(?:[-_][a-z]+)*)")
"""An option, or a command with its own, which stays as it is."""


class NextbarError(Exception):
    """Root of all errors raised on purpose."""


class Remark(UserWarning):
    """What a user should know beside a result: a warning in Python, a note on the command line."""


def outside() -> int:
    """Return the stack level, for a warning of the function that asks, of the first caller that is not nextbar's."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in ("nextbar", "contextlib"):
        level, frame = level + 1, frame.f_back
    return level


def remark(text: str) -> None:
    """Warn with a `Remark` at the line of the user's call, however deep in the package this is called.

    It raises nothing, even where warnings are errors: a result that is ready, or a worse error, would be lost.
    """
    try:
        warnings.warn(text, Remark, stacklevel=outside())
    except Remark:
        print(f"nextbar: {text}", file=sys.stderr)  # noqa: T201 - what `warnings` does with a warning


_warned: ContextVar[Counter[str]] = ContextVar("warned")
_NUMBER = re.compile(r"0x[0-9a-f]+|\d[\d.e+-]*")
MOST_WARNINGS = 10


@contextmanager
def telling_warnings() -> Iterator[None]:
    """Give one remark about each warning of the tasks that run in the block, at its end, with how often it came.

    Warnings that differ in numbers alone are the same; one of them is shown.
    """
    found: Counter[str] = Counter()
    token = _warned.set(found)
    try:
        yield
    finally:
        _warned.reset(token)
        same: dict[str, list[str]] = {}
        for text in sorted(found):
            same.setdefault(_NUMBER.sub("", text), []).append(text)
        for texts in list(same.values())[:MOST_WARNINGS]:
            count = sum(found[text] for text in texts)
            remark(f"{texts[0]} ({count} times)" if count > 1 else texts[0])
        if len(same) > MOST_WARNINGS:
            remark(f"{len(same) - MOST_WARNINGS} more warnings with other texts")


def hear(warned: Counter[str]) -> None:
    """Keep the warnings of a task for `telling_warnings`; outside such a block give a remark about each."""
    if (found := _warned.get(None)) is not None:
        found.update(warned)
    else:
        for text in warned:
            remark(text)


_UNREACHABLE = re.compile(
    r"connection refused|(failed to|could not) resolve|could not translate host|timeout expired|timed out"
    r"|connection timeout|server closed the connection|connection (reset|is lost|is closed|is bad)|unreachable"
    r"|no route to host|terminating connection|the database system is|too many (clients|connections|requests)"
    r"|rate ?limit|curl: \((6|7|28|35|52|56)\)",
    re.IGNORECASE,
)


def unreachable(message: str) -> bool:
    """Return whether a library's message says that the network, or a server that may come back, has failed."""
    return _UNREACHABLE.search(message) is not None


@contextmanager
def in_python(**names: str) -> Iterator[None]:
    """Let errors name options as Python spells them: n_iter, not --n-iter.

    Args:
        **names: Option → its name in Python, where that is another.
    """
    try:
        yield
    except NextbarError as error:
        if len(error.args) == 1 and isinstance(error.args[0], str):
            error.args = (python_words(error.args[0], names),)
        raise


def python_words(message: str, names: Mapping[str, str]) -> str:
    """Return a message of the command line in the words of the library; commands for a shell stay as they are."""
    bars = message.replace("use --no-tune", "leave the search out (no_tune=True)")
    bars = bars.replace("ingest an earlier start", "give bars from an earlier start").replace(
        "ingest more", "give more"
    )
    bars = re.sub(
        r"add: --([a-z-]+) ('[^']*'|\S+)", lambda found: f'add: --{found[1]}="{found[2].strip(chr(39))}"', bars
    )
    return option_words(bars, names)


def option_words(message: str, names: Mapping[str, str] | None = None) -> str:
    """Return a message with the names of options in place of --options, as Python and run files spell them."""

    def word(found: re.Match[str]) -> str:
        name = found[1] and found[1].replace("-", "_")
        return (names or {}).get(name, name) or found[0]

    return _OPTION.sub(word, message)


class ConfigError(NextbarError, ValueError):
    """An option or a combination of options makes no sense."""


class ArgumentError(ConfigError, TypeError):
    """A function or a class of the library was called with arguments that it does not take."""


def verb(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function of the library: its errors are in the words of Python, warnings of its tasks are told once."""
    return in_python()(telling_warnings()(checked(function)))


def noun(kind: type[R]) -> type[R]:
    """Make a class of the library: wrong arguments are refused as those of a `verb`."""
    kind.__init__ = checked(kind.__init__)  # type: ignore[method-assign]
    return kind


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Let a call with wrong arguments raise an `ArgumentError`, which says more than Python does."""

    @wraps(function)
    def call(*args: P.args, **given: P.kwargs) -> R:
        try:
            return function(*args, **given)
        except TypeError:
            if told := _misfit(function, args, given):
                raise ArgumentError(told) from None
            raise

    return call


def _misfit(function: Callable[..., Any], args: Sequence[Any], given: Mapping[str, Any]) -> str:
    """Say what is wrong with the arguments of a call; nothing where they fit, and an error has another cause."""
    signature = inspect.signature(function)
    known = {name: one.replace(annotation=one.empty, default=one.empty) for name, one in signature.parameters.items()}
    try:
        signature.bind(*args, **given)
    except TypeError as error:
        placed = len(args) - (known.pop("self", None) is not None)
        came = ", ".join([*([f"{placed} by position"] if placed else []), *given]) or "nothing"
        why = str(error).removeprefix("got ")
        near = [nearest(name, known) for name in given if name not in known and "unexpected" in why]
        name = function.__qualname__.removesuffix(".__init__")
        return f"{name} expects {inspect.Signature([*known.values()])}, got {came}: {why}{''.join(near[:1])}"
    return ""


class DatabaseError(NextbarError, OSError):
    """The database is missing, unreadable or has not the tables `tickers` and `stock_prices`."""


class NetworkError(NextbarError, OSError):
    """Another machine could not be reached, or did not answer: the same command may work later. Exit code 3."""


class ServerError(DatabaseError, NetworkError):
    """The server of a database could not be reached, or the connection was lost."""


class UnknownTickerError(NextbarError, LookupError):
    """A ticker was asked for that the database does not hold."""


class BadBarsError(NextbarError, ValueError):
    """Bars of one ticker cannot be used as they are (duplicate dates, no valid close)."""


class NotEnoughHistoryError(NextbarError, ValueError):
    """A ticker has fewer bars than the work needs."""


class NothingToTrainError(NextbarError, ValueError):
    """Every ticker was skipped; the message lists the reasons."""


class FeatureError(NextbarError, ValueError):
    """A user's feature function cannot be found, raised, or returned something other than asked."""


class ModelError(NextbarError, ValueError):
    """A user's model cannot be found or made, cannot be fitted, or gives other bits in another process."""


class ArtifactError(NextbarError, ValueError):
    """An artifact is missing a part, is damaged or was not written by nextbar."""


class OutdatedError(ArtifactError):
    """A run of an older version lacks a file that this one reads; `nextbar reproduce --upgrade` makes it."""


class OwnModelError(ArtifactError):
    """A run is of the user's own model, which was not given, is another one, or whose files were not trusted."""


class OutputError(NextbarError, OSError):
    """A file or folder cannot be written."""


class ScreenError(NextbarError, OSError):
    """Standard output cannot be written, so that a result was not shown."""


class EngineError(NextbarError, RuntimeError):
    """The workers cannot be started, were refused or went away."""


class MissingExtraError(NextbarError, ImportError):
    """An optional dependency is not installed; the message names the extra."""


def missing_extra(what: str, extra: str) -> MissingExtraError:
    """Make the error that says which extra is missing, and how to install it: nextbar is not on a package index."""
    return MissingExtraError(f"{what}; in the folder of nextbar's source: pip install '.[{extra}]'")
