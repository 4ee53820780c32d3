"""The commands that compare experiments, and what they print; each is no wider than 80 columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table
from rich.text import Text

from nextbar.cli.console import out, print_json, say
from nextbar.cli.options import JsonOption, LedgerOption
from nextbar.scoring.metrics import METRICS, Days, Detail, Metric, Rows, figure_text, shown_metrics
from nextbar.words import listed, plural

if TYPE_CHECKING:
    from nextbar.workflows.compare import Compared

COMPARED = [*shown_metrics(Detail.FULL), METRICS["rank_ic"], METRICS["rank_ic_t"]]
"""Metrics that a comparison shows where a run has them."""


def compare(
    files: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Any file of each run; two runs or more.")],
    *,
    ledger: LedgerOption = None,
    as_json: JsonOption = False,
) -> None:
    r"""Show runs side by side on the days and tickers that all of them have, net of the same costs.

    A run is named by its model and by the options that differ. Below the figures stand the differences to the first
    run, each with a 95 % interval from a bootstrap of the days, and how many configurations were tried on these days:
    the best of many looks good by luck. What a run is worth says its verdict: nextbar report.

    \b
    Examples:
      nextbar compare results/walkforward_*.json
      nextbar compare results/walkforward_rf_all_20260102_030405.json results/walkforward_xgb_all_20260102_030406.json
      nextbar compare results/walkforward_*.json --json
    """
    from nextbar.workflows.compare import compare_files

    found = compare_files(files, ledger)
    if as_json:
        print_json(found.to_json())
    else:
        compared(found)


def compared(found: Compared) -> None:
    """Print the figures of each run, the differences to the first, and how much was tried."""
    rows: dict[str, Mapping[str, Any]] = {str(name): row for name, row in found.table.to_dict("index").items()}
    first = next(iter(rows))
    days = plural(int(rows[first]["days"]), "day")
    for of, title in (
        (Rows, f"{days} from {found.first} to {found.last}, {listed(found.tickers, 3)}"),
        (Days, "Net of costs"),
    ):
        out.print(_figures(rows, [metric for metric in COMPARED if metric.of is of], title))
    differences = [
        [name, _interval(row, "difference", None), _interval(row, "accuracy_difference", 3)]
        for name, row in rows.items()
        if name not in (first, "always_long")
    ]
    headings = ["run", "return a year\n[95 % interval]", "balanced accuracy\n[95 % interval]"]
    out.print(narrow_table(headings, differences, title=f"Difference to {first}, on the same days"))
    counted = f" (here, or in {found.ledger})" if found.ledger else ""
    say(f"{plural(found.tried, 'configuration')} tried on these days{counted}; the best of many looks good by luck")


def _figures(rows: Mapping[str, Mapping[str, Any]], metrics: Sequence[Metric], title: str) -> Table:
    """Make a table of those metrics that any row has."""
    shown = [one for one in metrics if any(_known(row.get(one.name)) is not None for row in rows.values())]
    texts = [
        [name, *(figure_text(_known(row.get(one.name)), one.digits) for one in shown)] for name, row in rows.items()
    ]
    return narrow_table(["run", *(one.label for one in shown)], texts, title=title)


def _known(value: Any) -> Any:
    """Return a figure; None in place of NaN, which is what a table holds where a row lacks one."""
    return None if value is None or value != value else value  # noqa: PLR0124 - only NaN differs from itself


def _interval(row: Mapping[str, Any], key: str, digits: int | None) -> str:
    """Write a difference with its sign and its interval."""
    values = [_known(row.get(name)) for name in (key, f"{key}_low", f"{key}_high")]
    mean, low, high = ("+" * (value is not None and value > 0) + figure_text(value, digits) for value in values)
    return f"{mean} [{low}, {high}]"


def narrow_table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, title: str) -> Table:
    """Make a table whose first column folds, so that no number of the others is cut."""
    first, *others = headings
    columns = [
        Column(heading.replace(" ", "\n") if "\n" not in heading else heading, justify="right", no_wrap=True)
        for heading in others
    ]
    table = Table(
        Column(first, overflow="fold"), *columns, title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
    )
    for row in rows:
        table.add_row(*map(Text, row))
    return table
