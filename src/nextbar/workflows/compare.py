"""Use case: compare runs on the days and tickers that all of them have."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from itertools import compress
from pathlib import Path
from textwrap import wrap

import msgspec
import numpy as np
import pandas as pd

from nextbar.errors import ArtifactError, ConfigError, remark, verb
from nextbar.evaluation.figures import compare as compare_with_baselines
from nextbar.evaluation.series import Book
from nextbar.evaluation.significance import (
    Interval,
    block_length,
    bootstrap,
    direction_accuracy,
    direction_columns,
)
from nextbar.runs.labels import labels
from nextbar.runs.ledger import Ledger
from nextbar.runs.load import check_runs, expecting_parts, load_runs
from nextbar.runs.run import REFUTED, Run
from nextbar.runs.trial import Trial, is_same, trial_of
from nextbar.scoring.metrics import METRICS, NOTHING, figure_text
from nextbar.types import FloatArray, JsonDict
from nextbar.words import listed, plural

KEY = ["ticker", "date"]
ALWAYS_LONG = "always_long"
MOST_NAMED = 4
"""Runs that an error names."""
STAMP = len("20260102_030405")
PRINTED = {"days": 0, "balanced_accuracy": 3, "sharpe": 2, "max_drawdown": None, "annual_return": None}
"""Figures of a printed comparison, and their digits; None: in percent."""
WIDTH = 32
"""Characters of a run's name on a line of a printed comparison."""


class ComparedRuns(pd.DataFrame):
    """The table of `compare`, which prints its main figures in at most 120 characters; all are in its columns.

    ``attrs`` has the files of the runs (the name of one that is not on disk), their common ``tickers``, the ``first``
    and the ``last`` common day, how many configurations and ticker sets were ``tried`` on days between these two, the
    ``ledger`` that counted them (None: the runs alone were counted), and the rows whose certificate is FAIL,
    ``refuted``.
    """

    def __repr__(self) -> str:
        lines = [["run", *(METRICS[key].label or key for key in PRINTED), "difference [95 %]"]]
        for name, row in rows_of(self).items():
            first, *more = wrap(name, WIDTH)
            figures = [figure_text(row.get(key), digits) for key, digits in PRINTED.items()]
            lines.append([first, *figures, _difference(row)])
            lines += [[line, *[""] * (len(PRINTED) + 1)] for line in more]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        shown = [
            "  ".join([f"{name:{widths[0]}}", *map(str.rjust, cells, widths[1:])]).rstrip() for name, *cells in lines
        ]
        tried = plural(self.attrs["tried"], "configuration")
        return "\n".join([*shown, f"{tried} tried on these days; all {len(self.columns)} figures: .columns"])


def rows_of(table: pd.DataFrame) -> dict[str, JsonDict]:
    """Return name → figures of each row; None for a figure that it lacks."""
    cells = table.astype(object).where(table.notna(), None)
    return {str(name): {str(key): value for key, value in row.items()} for name, row in cells.iterrows()}


def _difference(row: JsonDict) -> str:
    """Write the difference to the first run with its interval; a dash where there is none."""
    mean, low, high = (100 * (row.get(f"difference{end}") or 0.0) for end in ("", "_low", "_high"))
    return f"{mean:+.1f} % [{low:+.1f}, {high:+.1f}]" if row.get("difference") is not None else NOTHING


def table_json(table: ComparedRuns) -> JsonDict:
    """Return what stands beside the rows of a table, and the rows."""
    rows = [{"run": name, **row} for name, row in rows_of(table).items()]
    return {str(name): value for name, value in table.attrs.items()} | {"rows": rows}


@verb
def compare(runs: Sequence[Run], *, ledger: str | Path | None = None) -> pd.DataFrame:
    """Compare runs on the days and tickers that all of them have, on the same terms.

    Args:
        runs: Two runs or more.
        ledger: File that counts what was tried on these days; None: the runs alone are counted.

    Returns:
        A row for each run, called by its name, else by its model and the options that differ between the runs, and,
        last, for always long, with the figures of `Run.figures`; printed it shows the main ones. ``difference`` is the
        mean daily return above that of the first run, after costs, times the days of a year, not compounded;
        ``accuracy_difference`` is the balanced accuracy above that of the first run. ``…_low`` and ``…_high`` are the
        bounds of their 95 % intervals, by a bootstrap of the days. ``attrs["tried"]`` is the number of configurations
        that were tried on these days, ``attrs["refuted"]`` lists the rows whose certificate is FAIL.

    Raises:
        ConfigError: There is one run only, the runs have other costs, or no day is common to all.
    """
    return compare_loaded(runs, None if ledger is None else Ledger(ledger, make=False))


def compare_files(paths: Sequence[str | Path], ledger: str | Path | None = None) -> ComparedRuns:
    """Compare runs on disk, each once, with what the ledger counts on their common days.

    Raises:
        ArtifactError: There is no such run, it is damaged, or it is not ours.
        ConfigError: As in `compare`.
    """
    runs = load_runs(paths)
    if len(runs) < 2 <= len(paths):
        raise ArtifactError(f"{listed([*map(str, paths)])} are files of the same run; name another run beside it")
    return compare_loaded(runs, Ledger(ledger, make=False))


def compare_loaded(runs: Sequence[Run], ledger: Ledger | None) -> ComparedRuns:
    """Compare runs; errors as in `compare`."""
    runs = [runs] if isinstance(runs, Run) else list(runs)
    check_runs(runs)
    if len(runs) < 2:
        raise ConfigError(f"compare expects two runs or more, got {len(runs)}")
    made = [msgspec.structs.replace(run.document, files={}, paths={}, folds=[]) for run in runs]
    if twice := [run.name for number, run in enumerate(runs) if made[number] in made[:number]]:
        raise ConfigError(f"{twice[0]} is given twice, and has no difference to itself; name another run")
    refuted = [run.refuted() for run in runs]
    for run in compress(runs, refuted):
        remark(f"{run.name}: {REFUTED}, so no figure of it counts")
    with ExitStack() as refusing:
        for run in runs:
            refusing.enter_context(expecting_parts(run))
        found = _compare(runs, ledger)
    found.attrs["refuted"] = [*compress(found.index, refuted)]
    return found


def _compare(runs: Sequence[Run], ledger: Ledger | None) -> ComparedRuns:
    terms = {run.document.terms for run in runs}
    if len(terms) > 1:
        told = {run.document.terms: name for run, name in zip(reversed(runs), reversed(_mentions(runs)), strict=True)}
        differ = [key for key in vars(next(iter(terms))) if len({vars(one)[key] for one in terms}) > 1]
        named = [f"{name}: {', '.join(one.words()[key] for key in differ)}" for one, name in reversed(told.items())]
        raise ConfigError(f"the runs have different terms ({'; '.join(named)}); make them with the same ones")
    books = _common_books(runs)
    figures = [compare_with_baselines(book) for book in books]
    table = [one["model"] | _differences(book, books[0]) for one, book in zip(figures, books, strict=True)]
    found = ComparedRuns([*table, figures[0]["baselines"][ALWAYS_LONG]], index=[*names_of(runs), ALWAYS_LONG])
    first, last = books[0].dates[[0, -1]]
    found.index.name = "run"
    found.attrs |= {
        "files": [run.source for run in runs],
        "tickers": list(books[0].tickers),
        "first": str(first),
        "last": str(last),
        "tried": _count_tried(runs, ledger, first, last),
        "ledger": None if ledger is None else str(ledger.path),
    }
    return found


def _common_books(runs: Sequence[Run]) -> list[Book]:
    """Make the series of each run on the common rows."""
    keys = [pd.MultiIndex.from_frame(run.rows[KEY]) for run in runs]
    common = keys[0]
    for other in keys[1:]:
        common = common.intersection(other)
    if common.empty:
        facts = [f"{listed(run.tickers, 3)}, {run.book.dates[0]} to {run.book.dates[-1]}" for run in runs]
        told = [f"{name}: {fact}" for name, fact in zip(_mentions(runs), facts, strict=True)]
        raise ConfigError(
            f"the runs have no day and ticker in common ({'; '.join(told[:MOST_NAMED])}"
            f"{'; …' if len(told) > MOST_NAMED else ''}); compare runs on the same bars and test days"
        )
    parts = [run.rows[key.isin(common)] for run, key in zip(runs, keys, strict=True)]
    return [run.document.book(part) for run, part in zip(runs, parts, strict=True)]


def _mentions(runs: Sequence[Run]) -> list[str]:
    """Return how an error calls each run: by its files, else by its name among the others."""
    return [run.stem or name for run, name in zip(runs, names_of(runs), strict=True)]


def _differences(book: Book, first: Book) -> dict[str, float]:
    """Differences to the first run, with their intervals: the same days are drawn for both runs."""
    daily = book.model.net - first.model.net
    drawn = bootstrap(daily[:, None], lambda means: means[:, 0], block=block_length(daily))
    found = _bounds("difference", Interval.of(float(daily.mean()), drawn, book.terms.periods))
    own, other = direction_columns(book), direction_columns(first)
    if own.size and own.shape == other.shape:
        columns, width = np.hstack([own, other]), own.shape[1]

        def gained(means: FloatArray) -> FloatArray:
            more: FloatArray = direction_accuracy(means[:, :width]) - direction_accuracy(means[:, width:])
            return more

        drawn = bootstrap(columns, gained, block=block_length(own.sum(axis=1) - other.sum(axis=1)))
        mean = float(gained(columns.mean(axis=0)[None])[0])
        found |= _bounds("accuracy_difference", Interval.of(mean, drawn))
    return found


def _bounds(name: str, found: Interval) -> dict[str, float]:
    return {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}


def _count_tried(runs: Sequence[Run], ledger: Ledger | None, first: np.datetime64, last: np.datetime64) -> int:
    """Count the trials of the ledger between two days, and those of the runs that it does not hold."""
    known = 0 if ledger is None else len(ledger.overlapping(first.astype(object), last.astype(object)))
    guests: list[Trial] = []
    for trial in (trial_of(run.book, run.document) for run in runs):
        counted = ledger is not None and ledger.find(trial) is not None
        if not counted and not any(is_same(trial, other) for other in guests):
            guests.append(trial)
    return known + len(guests)


def names_of(runs: Sequence[Run]) -> list[str]:
    """Name each run as the user did, else by what differs; equal names get the time of their files, or a number."""
    kinds = {run.document.kind for run in runs} - {"signals"}
    sets = {tuple(run.tickers) for run in runs}
    names = []
    for run, label in zip(runs, labels([run.described for run in runs]), strict=True):
        parts = [label]
        if run.config.name is None:
            parts += [run.document.kind] if len(kinds) > 1 and run.document.kind in kinds else []
            parts += [run.label] if len(sets) > 1 else []
        names.append(", ".join(parts))
    marks = [run.stem[-STAMP:] or str(number) for number, run in enumerate(runs, start=1)]
    if len(set(marks)) < len(marks):
        marks = [str(number) for number in range(1, len(runs) + 1)]
    taken = [*names, ALWAYS_LONG]  # the row of the baseline has that name
    return [f"{name} {mark}" if taken.count(name) > 1 else name for name, mark in zip(names, marks, strict=True)]
