"""What all pictures share: their register, names, colours and style."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import cycle
from typing import Any

import numpy as np
import plotly.graph_objects as go

from nextbar.reports.facts import RunFacts
from nextbar.types import FloatArray, IntArray
from nextbar.words import excerpt, printable

COLOURS = ("#0f7fc4", "#d55e00", "#009e73", "#b565c9", "#b8860b", "#d6457a", "#5b8c2a", "#7f7f7f")
"""Readable on white and on near-black; after Okabe and Ito, distinct for colour-blind readers."""
GREY = "#8c8c8c"
TEXT = "black"
"""The page's script draws this colour as the text: black on white, white on black."""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LONGEST = 24
"""Characters of a run's name in a legend."""
ASKED = "legendonly"
"""A line that is drawn when its name in the legend is chosen."""

Known = Sequence[tuple[RunFacts, str, str]]
"""Runs that hold what a picture shows, each with its colour and its name, which are the same in every picture."""
Draw = Callable[[Known], tuple[go.Figure, str] | None]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure with its heading and its description in words.

    Attributes:
        main: Whether it stands open on a page of several runs.
    """

    key: str
    title: str
    alternative: str
    figure: go.Figure
    main: bool


DRAWINGS: list[Callable[[Sequence[RunFacts]], Picture | None]] = []


def drawing(
    key: str, title: str, *, of: str, main: bool = False
) -> Callable[[Draw], Callable[[Sequence[RunFacts]], Picture | None]]:
    """Register what draws a part of the facts; it returns the figure and its description, if there are any."""

    def register(draw: Draw) -> Callable[[Sequence[RunFacts]], Picture | None]:
        def picture(runs: Sequence[RunFacts]) -> Picture | None:
            known = [(run, colour, legend(run, runs)) for run, colour in zip(runs, cycle(COLOURS)) if getattr(run, of)]
            if not known or (drawn := draw(known)) is None:
                return None
            return Picture(key=key, title=title, alternative=drawn[1], figure=styled(drawn[0]), main=main)

        DRAWINGS.append(picture)
        return picture

    return register


def label(run: RunFacts, runs: Sequence[RunFacts], *, beside: str = "") -> str:
    """Return the short name of a run in texts: its model; among others its letter and name or model, and ``beside``."""
    if len(runs) == 1:
        return escaped(run.model)
    number = next(at for at, other in enumerate(runs) if other is run)
    letter = LETTERS[number] if number < len(LETTERS) else number + 1
    known = [run.model] if run.label == run.model else []
    told = ", ".join(filter(None, [*([] if known else [excerpt(run.label, LONGEST)]), beside]))
    return escaped(" ".join([str(letter), *known, *([f"({told})"] if told else [])]))


def legend(run: RunFacts, runs: Sequence[RunFacts]) -> str:
    """Return the name of a run in legends: its label, and what tells it from other runs of one name or model."""
    same = sum(other.label == run.label for other in runs) > 1
    return label(run, runs, beside=excerpt(differing(run), LONGEST) if same else "")


def differing(run: RunFacts) -> str:
    """Return what tells a run from others beside its name, its model first, or beside its model."""
    rest = run.called.removeprefix(run.label).lstrip(", ")
    known = run.label == run.model or run.model in rest.split(", ")
    return ", ".join(filter(None, ["" if known else run.model, rest])).replace("_", " ")


def escaped(text: str) -> str:
    """Return a foreign string as Plotly and a page show it."""
    return escape(printable(text))


def headed(figure: go.Figure, texts: Sequence[str]) -> None:
    """Write above each row of a figure what its vertical axis shows: a turned title would lie on tick labels."""
    for row, text in enumerate(texts, start=1):
        number = "" if row == 1 else row
        place: dict[str, Any] = {"xref": f"x{number} domain", "yref": f"y{number} domain", "x": 0, "y": 1}
        look = {"xanchor": "left", "yanchor": "bottom", "showarrow": False, "font": {"size": 13}}
        figure.add_annotation(text=text, **place, **look)


def drawn_days(n: int, most: int) -> IntArray:
    """Return the numbers of at most about so many of n days, evenly spaced, the last one among them."""
    found: IntArray = np.append(np.arange(0, n - 1, every(n, most)), n - 1)[: max(n, 0)].astype(np.int64)
    return found


def every(n: int, most: int) -> int:
    """Return the step at which at most so many of n days are drawn."""
    return max(1, -(-n // most))


def rounded(values: FloatArray, digits: int = 4) -> list[float | None]:
    """Return values with so many significant digits; a page holds thousands of them. None: not finite."""
    return [float(f"{value:.{digits}g}") if np.isfinite(value) else None for value in values.tolist()]


def styled(figure: go.Figure) -> go.Figure:
    """Give a figure what all have in common."""
    figure.update_xaxes(automargin=True, title={"standoff": 10, "font": {"size": 13}})
    figure.update_yaxes(automargin=True)
    return figure.update_layout(
        template="none",
        margin={"l": 12, "r": 12, "t": 28, "b": 36},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        legend={"orientation": "h", "yref": "container", "yanchor": "bottom", "y": 0, "x": 0},
        font={"family": "system-ui, sans-serif", "size": 13},
    )
