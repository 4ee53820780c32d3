"""One self-contained page, and its Markdown twin: facts and figures laid out, every user's string escaped."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import re
from collections.abc import Sequence
from importlib import resources
from itertools import cycle
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from nextbar.evaluation.significance import Interval
from nextbar.evaluation.verdict import Check
from nextbar.reports.drawing import COLOURS, LONGEST, Picture, differing, label
from nextbar.reports.facts import LISTED, RunFacts, span_text, years_to_tell
from nextbar.reports.figures import pictures
from nextbar.scoring.metrics import NOTHING, Detail, figure_text, shown_metrics
from nextbar.scoring.threshold import DEFAULT_GRID
from nextbar.types import JsonDict
from nextbar.words import listed, plural, printable, utc_minute

FIXED = "\u00a0"
"""A space where no line breaks, between a number and its unit."""
YEARS = (
    ("days", "days", 0),
    ("bal. accuracy", "balanced_accuracy", 3),
    ("rank IC", "rank_ic", 4),
    ("Sharpe", "sharpe", 2),
    ("Sharpe, always long", "always_long_sharpe", 2),
    ("return", "total_return", None),
    ("max drawdown", "max_drawdown", None),
    ("hit rate", "hit_rate", None),
)
"""Columns of the table by year: heading, figure, digits; None: in percent."""
CONDITIONS = {
    "excess_bound": ("Excess a year over a constant position of equal exposure, lower 97.5 % bound", ">", None),
    "next_open_bound": ("The same, executed at the next open", ">", None),
    "one_bar_late_bound": ("The same, executed one bar late (there is no next open)", ">", None),
    "deflated_sharpe": ("Deflated Sharpe ratio of the excess", "≥", 3),
    "days": ("Days", "≥", 0),
    "changes": ("Changes of position", "≥", 0),
}
"""Condition of EDGE → what it says, how it compares, and its digits; None: in percent."""


COMPARED = (
    "verdict",
    "excess",
    "95 % interval",
    "bal. accuracy",
    "95 % interval",
    "Sharpe",
    "constant, own exposure",
    "max drawdown",
    "annual return",
    "exposure",
    "turnover",
    "days",
    "tries",
)
"""Columns of the table of several runs."""
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec", "year")
GAIN, LOSS = "15, 127, 196", "213, 94, 0"
"""Colours of months, blue and orange; the deeper, the larger."""
PARTS = {"style": "page.css", "script": "page.js", "plotly": "plotly-basic.min.js.gz"}
"""What the page holds → our file of it. Plotly's is its basic bundle: lines, bars and pies, a quarter of the whole."""
MARKDOWN = "|[`*~"
"""Begin or end something in Markdown; quotes and angle brackets are escaped as in HTML."""
LINK = re.compile(r"https?:|ftp:|mailto:|www\.|@", re.IGNORECASE)
"""Readers of Markdown make a link of what begins so; its last character is escaped."""


def render_html(runs: Sequence[RunFacts]) -> str:
    """Make the page: it opens offline and holds Plotly's script once."""
    template = _environment(runs).get_template("page.html.j2")
    drawn = pictures(runs)
    # Markup: our own files, Plotly's script, and JSON without "<".
    parts = {name: Markup(_text(file)) for name, file in PARTS.items()}  # noqa: S704
    allowed = " ".join(_digest(parts[name]) for name in ("plotly", "script"))
    return template.render(
        **_words(runs, drawn),
        **parts,
        figures=Markup(_figures_json(drawn)),  # noqa: S704
        allowed=Markup(allowed),  # noqa: S704
    )


def render_markdown(runs: Sequence[RunFacts]) -> str:
    """Make the page in Markdown, with the descriptions of the pictures."""
    made = _environment(runs)
    made.finalize = _plain
    page = made.get_template("page.md.j2").render(**_words(runs, pictures(runs)))
    # Quotes are harmless in Markdown, and people read it as it is.
    return page.replace("&#39;", "'").replace("&#34;", '"')


def _words(runs: Sequence[RunFacts], drawn: Sequence[Picture]) -> JsonDict:
    return {
        "title": _title(runs),
        "runs": runs,
        "pictures": drawn,
        "compared_columns": COMPARED,
        "month_names": MONTHS,
        "columns": [metric.label for metric in shown_metrics(Detail.PAGE)],
        "conditions": _conditions(runs),
        "ticker_columns": list(_ticker_columns()),
        "year_columns": [heading for heading, _, _ in YEARS],
        "grid": DEFAULT_GRID,
        "listed": LISTED,
        "skipped": [skip for run in runs for skip in run.skipped],
    }


def _shown(value: Any) -> Any:
    """Spell out what a browser would obey or hide; our own markup stays."""
    return printable(value, keep=FIXED) if isinstance(value, str) and not isinstance(value, Markup) else value


def _plain(value: Any) -> Any:
    """Escape what Markdown would make of a value: tables, code, emphasis, links and pictures."""
    if not isinstance(value, str):
        return value
    escaped = str(
        value if isinstance(value, Markup) else html.escape(printable(value, keep=FIXED)).replace("&#x27;", "'")
    )
    for mark in MARKDOWN:
        escaped = escaped.replace(mark, f"&#{ord(mark)};")
    return Markup(LINK.sub(lambda found: found[0][:-1] + f"&#{ord(found[0][-1])};", escaped))  # noqa: S704


def _environment(runs: Sequence[RunFacts]) -> Environment:
    # What is true of several runs is said once. Runs in memory may have one name, so they are told apart as objects.
    first = {text: run for run in reversed(runs) for text in run.remarks}
    colour_of = {id(run): colour for run, colour in zip(runs, cycle(COLOURS))}
    loader = PackageLoader("nextbar.reports")
    made = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_shown
    )
    made.filters |= {
        "cells": lambda row: [metric.text(row) for metric in shown_metrics(Detail.PAGE)],
        "breakable": lambda name: Markup(html.escape(printable(name)).replace("_", "_<wbr>")),  # noqa: S704
        "counted": plural,
        "fixed": figure_text,
        "listed": listed,
        "ticker_cells": _ticker_cells,
        "year_cells": lambda row: [figure_text(row.get(key), digits) for _, key, digits in YEARS],
        "colour": lambda run: colour_of[id(run)],
        "label": lambda run: Markup(label(run, runs)),  # noqa: S704
        "remarks": lambda run: [text for text in run.remarks if first[text] is run],
        "compared_cells": _compared_cells,
        "differing": _differing,
        "minute": utc_minute,
        "months": _months,
        "tiles": _tiles,
        "settings": lambda params: ", ".join(f"{name} {value}" for name, value in params.items()),
        "unescaped": html.unescape,
        "whole": lambda number: f"{number:,}",
        "years_to_tell": lambda run: years_to_tell(run.judgement, run.book.terms.periods),
    }
    return made


def _differing(run: RunFacts) -> str:
    """Return what tells a run from the others of a page, beside its label."""
    whole = run.label if run.label != run.model and len(run.label) > LONGEST else ""  # the label is cut
    return ", ".join(filter(None, [whole, differing(run)]))


def _text(name: str) -> str:
    content = (resources.files("nextbar.reports") / "templates" / name).read_bytes()
    return (gzip.decompress(content) if name.endswith(".gz") else content).decode()


def _digest(script: str) -> str:
    """Return the source expression by which a Content-Security-Policy allows this script and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _figures_json(drawn: Sequence[Picture]) -> str:
    """Return the figures by key; "<" is escaped, so that no string ends the script element."""
    figures = {picture.key: json.loads(picture.figure.to_json()) for picture in drawn}
    return json.dumps(figures, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _title(runs: Sequence[RunFacts]) -> str:
    if len(runs) == 1:
        return runs[0].title
    return f"{len(runs)} runs compared, {span_text([run.about for run in runs])}"


def _tiles(run: RunFacts) -> list[tuple[str, str, str]]:
    """Return name, value and what stands beside it, of the six figures of the first screen."""
    found, rows = run.judgement, {row["row"]: row for row in run.table}
    model, constant = rows["model"], rows["constant_exposure"]
    accuracy = found.directions.mean if found.directions else found.balanced_accuracy
    tiles = [
        ("excess a year", _signed(found.excess), _within(found.excess, None)),
        ("balanced accuracy", figure_text(accuracy, 3), _within(found.directions, 3)),
        ("Sharpe ratio", figure_text(model["sharpe"], 2), f"constant exposure {figure_text(constant['sharpe'], 2)}"),
        (
            "max drawdown",
            figure_text(model["max_drawdown"], None),
            f"constant exposure {figure_text(constant['max_drawdown'], None)}",
        ),
        ("days", f"{run.about['days']:,}", f"{run.about['first'][:7]} to {run.about['last'][:7]}"),
        ("configurations tried", _tries(run), "on these days" if found.tries else "not recorded"),
    ]
    # A percent sign does not stand alone on a line.
    return [(name, value, beside.replace(" %", f"{FIXED}%")) for name, value, beside in tiles]


def _compared_cells(run: RunFacts) -> list[str]:
    """Return the cells of a run in the table of several."""
    found, rows = run.judgement, {row["row"]: row for row in run.table}
    model = rows["model"]
    accuracy = found.directions.mean if found.directions else found.balanced_accuracy
    shown = (("max_drawdown", None), ("annual_return", None), ("exposure", None), ("turnover", 1))
    return [
        found.verdict.value,
        _signed(found.excess),
        _bounds(found.excess, None),
        figure_text(accuracy, 3),
        _bounds(found.directions, 3),
        figure_text(model["sharpe"], 2),
        figure_text(rows["constant_exposure"]["sharpe"], 2),
        *(figure_text(model.get(key), digits) for key, digits in shown),
        f"{run.about['days']:,}",
        _tries(run),
    ]


def _tries(run: RunFacts) -> str:
    return NOTHING if run.judgement.tries is None else f"{run.judgement.tries.count:,}"


def _signed(found: Interval | None) -> str:
    return NOTHING if found is None else f"{100 * found.mean:+.1f} %"


def _bounds(found: Interval | None, digits: int | None) -> str:
    if found is None:
        return NOTHING
    if digits is None:
        return f"{100 * found.low:+.1f} to {100 * found.high:+.1f} %"
    return f"{found.low:.{digits}f} to {found.high:.{digits}f}"


def _within(found: Interval | None, digits: int | None) -> str:
    return "" if found is None else f"95 %: {_bounds(found, digits)}"


def _months(run: RunFacts) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return for each year the text and the colour of its months and of the year itself."""
    values = {(one["year"], one["month"]): one["return"] for one in run.by_month}
    known = sorted(abs(value) for value in values.values() if value is not None) or [0.0]
    deep = known[int(0.95 * (len(known) - 1))]
    found = []
    for row in run.by_year:
        months = [values.get((row["year"], month)) for month in range(1, 13)]
        cells = [("" if value is None else f"{100 * value:.1f}", _heat(value, deep)) for value in months]
        total = row["total_return"]
        found.append((row["year"], [*cells, (NOTHING if total is None else f"{100 * total:.1f}", "")]))
    return found


def _heat(value: float | None, deep: float) -> str:
    if not value or not deep:
        return ""
    return f"rgba({GAIN if value > 0 else LOSS}, {0.55 * min(abs(value) / deep, 1.0):.2f})"


def _ticker_columns() -> dict[str, tuple[str, int | None]]:
    """Return heading → figure and its digits; None: in percent."""
    found: dict[str, tuple[str, int | None]] = {"days": ("n", 0)}
    for metric in shown_metrics(Detail.MAIN):
        found[metric.label] = metric.name, metric.digits
        if metric.name == "sharpe":
            found["Sharpe, always long"] = "always_long_sharpe", metric.digits
            found["hit rate"] = "hit_rate", None
    return found | {"p": ("p", 3), "p adjusted": ("p_adjusted", 3)}


def _ticker_cells(row: JsonDict) -> list[tuple[Any, str]]:
    """Return the value to sort by ("" where there is none) and the text of each cell."""
    found = [(key, row.get(key), digits) for key, digits in _ticker_columns().values()]
    return [
        ("" if value is None else value, _pvalue(value) if key in {"p", "p_adjusted"} else figure_text(value, digits))
        for key, value, digits in found
    ]


def _pvalue(value: float | None) -> str:
    if value is None:
        return NOTHING
    return "<0.001" if value < 0.0005 else f"{value:.3f}"


def _conditions(runs: Sequence[RunFacts]) -> list[tuple[str, str, list[str]]]:
    """Return each condition of an EDGE with its limit and the value of each run."""
    found = [{check.name: check for check in run.judgement.checks} for run in runs]
    needed = {name: check.needed for checks in found for name, check in checks.items()}
    return [
        (text, f"{sign} {needed[name]:g}", [_checked(checks.get(name), digits) for checks in found])
        for name, (text, sign, digits) in CONDITIONS.items()
        if name in needed
    ]


def _checked(check: Check | None, digits: int | None) -> str:
    return NOTHING if check is None else f"{figure_text(check.value, digits)} {'✓' if check.passed else '✗'}"
