"""The two streams, progress and JSON: what every command says goes through here."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from nextbar.types import Progress

out = Console(soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 160)
err = Console(stderr=True, soft_wrap=True)

PLAIN_INTERVAL_SECONDS = 5.0


class TerminalProgress:
    """A bar with count, rate and time left, for people."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._task: TaskID | None = None
        self._label = ""

    def start(self, label: str, total: int) -> None:
        """Open a bar of ``total`` steps."""
        self.finish()
        self._label = label
        self._task = self._bars.add_task(label, total=total, rate="")

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Move the bar; ``note`` stands beside the label."""
        if self._task is None:
            return
        description = f"{self._label} · {note}" if note else self._label
        self._bars.update(self._task, advance=steps, description=description)
        task = self._bars.tasks[self._bars.task_ids.index(self._task)]
        speed = task.finished_speed or task.speed
        self._bars.update(self._task, rate=f"{speed:.2f}/s" if speed else "")

    def finish(self) -> None:
        """Leave the bar as it is."""
        self._task = None


class PlainProgress:
    """A line every few seconds, for logs and pipes."""

    def __init__(self) -> None:
        self._label, self._total, self._done, self._began, self._said = "", 0, 0, 0.0, 0.0

    def start(self, label: str, total: int) -> None:
        """Remember the stage; nothing is said before the first interval is over."""
        self._label, self._total, self._done = label, total, 0
        self._began = self._said = time.monotonic()

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Say how far the stage is, at most once per interval."""
        self._done += steps
        now = time.monotonic()
        if now - self._said < PLAIN_INTERVAL_SECONDS:
            return
        self._said = now
        pace = ""
        if self._done:
            rate = self._done / (now - self._began)
            pace = f" ({rate:.2f}/s, {(self._total - self._done) / rate:.0f} s left)"
        tail = f" · {note}" if note else ""
        line = f"{self._label}: {self._done}/{self._total}{pace}{tail}"
        sys.stderr.write(line + "\n")
        sys.stderr.flush()

    def finish(self) -> None:
        """Forget the stage."""


@contextmanager
def progress() -> Iterator[Progress]:
    """A bar on a terminal, plain lines elsewhere; both on standard error."""
    if not err.is_terminal:
        yield PlainProgress()
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=err) as bars:
        yield TerminalProgress(bars)


def say(lines: Iterable[str]) -> None:
    """Plain lines on standard output."""
    for line in lines:
        out.print(line, markup=False, highlight=False)


def print_json(value: Any) -> None:
    """One JSON document on standard output; never NaN."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")
