"""The two streams, progress and JSON: every command prints through these functions.

Strings may come from anyone's files: characters that a terminal would obey are spelled out here and nowhere else.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from textwrap import fill
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.segment import Segment
from rich.text import Text

from nextbar.cli.log import log
from nextbar.errors import ScreenError, telling_warnings
from nextbar.types import Progress
from nextbar.words import printable


class Screen(Console):
    """A console that obeys no character of a text."""

    def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
        """Spell out the characters that a terminal would obey; our own colours are no text."""
        for segment in super().render(renderable, options):
            shown = segment.text if segment.control else printable(segment.text, keep="\n")
            yield segment if shown == segment.text else segment._replace(text=shown)

    def on_broken_pipe(self) -> None:
        """Pass it on to `nextbar.cli.main`, which decides about the exit code."""
        raise  # noqa: PLE0704 - called while it is handled


class Results(Screen):
    """Standard output; that it cannot be written is an error, because a result would be lost."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print."""
        with _telling():
            super().print(*objects, **options)


class Remarks(Screen):
    """Standard error; that it cannot be written is no error, because nobody could be told."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print."""
        with suppress(OSError):
            super().print(*objects, **options)


@contextmanager
def _telling() -> Iterator[None]:
    """Say that standard output cannot be written; a closed pipe is the reader's choice."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ScreenError(
            f"standard output cannot be written ({error.strerror}); the result was not shown, run it again"
        ) from error


ENDLESS = 10_000
"""Columns of what is no screen, such as a pipe, where COLUMNS does not say otherwise: nothing wraps there."""


def width_of(columns: str | None, *, terminal: bool) -> int | None:
    """Return the columns of standard output; None: as the terminal, or COLUMNS, says."""
    return None if terminal or (columns or "").isdigit() else ENDLESS


_is_terminal = sys.stdout.isatty()
out = Results(soft_wrap=not _is_terminal, width=width_of(os.environ.get("COLUMNS"), terminal=_is_terminal))
err = Remarks(stderr=True, soft_wrap=True)

WIDE = 100
"""Columns of a screen that has room for a long bar and the rate."""
FEWEST_STEPS = 4
"""Steps before the time left is told: the first ones load libraries, and those of a small pool end together."""


class TerminalProgress:
    """Draw a bar with count, rate and time left, for people."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._task: TaskID | None = None
        self._label = ""

    def start(self, label: str, total: int) -> None:
        """Open a bar of ``total`` steps."""
        self._label, self._task = label, self._bars.add_task(label, total=total)

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Move the bar; ``note`` stands beside the label."""
        if self._task is not None:
            described = f"{self._label} · {printable(note)}" if note else self._label
            self._bars.update(self._task, advance=steps, description=described)

    def finish(self) -> None:
        """Leave the bar as it is."""
        self._task = None


class _RateColumn(ProgressColumn):
    """A column with the steps per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.2f}/s" if speed else "")


class _LeftColumn(TimeRemainingColumn):
    """A column with the time left, once it is worth something."""

    def render(self, task: Task) -> Text:
        known = task.completed >= FEWEST_STEPS and not task.finished
        return super().render(task).append(" left") if known else Text("")


class PlainProgress:
    """Print a line every few seconds, for logs and pipes."""

    def __init__(self, interval: float = 5.0) -> None:
        self._label, self._total, self._done, self._began, self._said = "", 0, 0, 0.0, 0.0
        self._interval = interval

    def start(self, label: str, total: int) -> None:
        """Begin a stage; nothing is printed before the first interval is over."""
        self._label, self._total, self._done = label, total, 0
        self._began = self._said = time.monotonic()

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Print how far the stage is, at most once per interval."""
        self._done += steps
        now = time.monotonic()
        if now - self._said < self._interval:
            return
        self._said = now
        pace = ""
        if self._done >= FEWEST_STEPS or self._done == self._total:
            rate = self._done / (now - self._began)
            pace = f" ({rate:.2f}/s, {(self._total - self._done) / rate:.0f} s left)"
        tail = f" · {printable(note)}" if note else ""
        told = f"{self._label}: {self._done}/{self._total}{pace}{tail}"
        log.write("progress", told, stage=self._label, done=self._done, total=self._total)

    def finish(self) -> None:
        """Print nothing."""


@contextmanager
def progress() -> Iterator[Progress]:
    """Show progress on standard error: a bar on a terminal, plain lines elsewhere; then what tasks warned of."""
    with telling_warnings(), _drawn() as shown:
        yield shown


@contextmanager
def _drawn() -> Iterator[Progress]:
    if log.as_json or not err.is_terminal:
        yield PlainProgress()
        return
    wide = err.width >= WIDE
    columns: list[ProgressColumn] = [
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=40 if wide else 12),
        MofNCompleteColumn(),
        *([_RateColumn()] if wide else []),
        TimeElapsedColumn(),
        _LeftColumn(),
    ]
    with Bars(*columns, console=err) as bars:
        yield TerminalProgress(bars)


def say(*lines: object) -> None:
    """Print plain lines on standard output."""
    for line in lines:
        text = printable(str(line))
        if not out.soft_wrap and cell_len(text) > out.width:  # the lines that it breaks into are indented
            margin = " " * (len(text) - len(text.lstrip()) + 2)
            text = fill(text, out.width, subsequent_indent=margin, break_long_words=False, break_on_hyphens=False)
        out.print(text, markup=False, highlight=False)


def whole(*lines: object) -> None:
    """Print lines that can be copied, such as paths: where one is too long the terminal breaks it, not we."""
    for line in lines:
        out.print(printable(str(line)), markup=False, highlight=False, soft_wrap=True)


def note(*lines: object) -> None:
    """Print plain lines on standard error."""
    for line in lines:
        if log.as_json:
            log.write("note", printable(str(line)))
        else:
            err.print(printable(str(line)), markup=False, highlight=False)


def show(as_json: bool, to_json: Callable[[], Any], draw: Callable[[], object]) -> None:
    """Show a result: as JSON where that is asked for, else as it is drawn for people."""
    if as_json:
        print_json(to_json())
    else:
        draw()


def print_json(value: Any) -> None:
    """Print one JSON document on standard output; it never holds NaN."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    with _telling():
        sys.stdout.write(text)
        sys.stdout.flush()
