"""Use case: compare runs on the days and tickers that all of them have."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
import pandas as pd

from nextbar.errors import ConfigError
from nextbar.evaluation.figures import compare as compare_with_baselines
from nextbar.evaluation.series import Book
from nextbar.evaluation.significance import Interval, block_length, bootstrap
from nextbar.runs.run import Run, check_runs, expecting_parts

KEY = ["ticker", "date"]


def compare(runs: Sequence[Run]) -> pd.DataFrame:
    """Compare runs on the days and tickers that all of them have, on the same terms.

    Args:
        runs: Two runs or more.

    Returns:
        A row for each run and, last, for always long, with the figures of `Run.figures`. ``difference`` is the mean
        daily return above that of the first run, after costs, times the days of a year, not compounded;
        ``difference_low`` and ``difference_high`` are the bounds of its 95 % interval, by a bootstrap of the days.

    Raises:
        ConfigError: There is one run only, the runs have other costs, or no day is common to all.
    """
    runs = [runs] if isinstance(runs, Run) else list(runs)
    check_runs(runs)
    if len(runs) < 2:
        raise ConfigError(f"compare expects two runs or more, got {len(runs)}")
    with ExitStack() as refusing:
        for run in runs:
            refusing.enter_context(expecting_parts(run))
        return _compare(runs)


def _compare(runs: Sequence[Run]) -> pd.DataFrame:
    terms = {run.document.terms for run in runs}
    if len(terms) > 1:
        raise ConfigError(f"the runs have other terms: {'; '.join(map(str, terms))}; make them with the same costs")
    books = _common_books(runs)
    figures = [compare_with_baselines(book) for book in books]
    first = books[0].model.net
    table = [one["model"] | _difference(book, first) for one, book in zip(figures, books, strict=True)]
    names = _names(runs)
    found = pd.DataFrame([*table, figures[0]["baselines"]["always_long"]], index=[*names, "always_long"])
    return found.rename_axis("run")


def _common_books(runs: Sequence[Run]) -> list[Book]:
    """Make the series of each run on the common rows."""
    keys = [pd.MultiIndex.from_frame(run.rows[KEY]) for run in runs]
    common = keys[0]
    for other in keys[1:]:
        common = common.intersection(other)
    if common.empty:
        raise ConfigError("the runs have no day and ticker in common; compare runs on the same bars and test days")
    parts = [run.rows[key.isin(common)] for run, key in zip(runs, keys, strict=True)]
    return [run.document.book(part) for run, part in zip(runs, parts, strict=True)]


def _difference(book: Book, first: np.ndarray) -> dict[str, float]:
    """Mean yearly difference to the first run's return, with its interval."""
    daily, periods = book.model.net - first, book.terms.periods
    drawn = bootstrap(daily[:, None], lambda means: means[:, 0], block=block_length(daily))
    found = Interval.of(float(daily.mean()), drawn, periods)
    return {"difference": found.mean, "difference_low": found.low, "difference_high": found.high}


def _names(runs: Sequence[Run]) -> list[str]:
    """Name each run by its files, or by its model and number."""
    names = [run.stem or run.document.model for run in runs]
    return [f"{name} {number}" if names.count(name) > 1 else name for number, name in enumerate(names, start=1)]
