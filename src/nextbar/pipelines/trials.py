"""Use case: count a run as a trial, and find the trials that were scored on the same days."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from nextbar.artifacts.ledger import Ledger, Trial, identify
from nextbar.evaluation.series import Book
from nextbar.types import BoolArray, JsonDict


def record_trial(ledger: Ledger, book: Book, document: JsonDict) -> Trial:
    """Enter a finished run into the ledger; give the trial that it is counted as."""
    kind = "walkforward" if "folds" in document else "train"
    config, model = document["config"], document["model"]
    settled = _settled(book, config["max_gap_days"])
    columns = {"net": book.model.net[settled], "excess": book.edge[settled]}
    days = pd.DatetimeIndex(book.dates[settled].astype("datetime64[s]"), name="date")
    trial = Trial(
        kind=kind,
        model=model,
        config=config,
        tickers=book.tickers,
        returns=pd.DataFrame(columns, index=days),
        identity=identify(kind, model, config),
    )
    return ledger.record(trial)


def other_trials(ledger: Ledger, book: Book, own: Trial) -> list[Trial]:
    """Trials other than this one that were scored on days from the first to the last of a run, of any tickers.

    Their ``returns["excess"]`` are daily series by day, cut to these days.
    """
    first, last = (day.astype(object) for day in book.dates[[0, -1]])
    return [trial for trial in ledger.overlapping(first, last) if trial.id != own.id]


def describe_trials(trials: Sequence[Trial]) -> list[JsonDict]:
    """One record per trial: what it was, on which tickers and days."""
    return [
        {
            "id": trial.id,
            "identity": trial.identity,
            "variant": trial.variant,
            "kind": trial.kind,
            "model": trial.model,
            "tickers": list(trial.tickers),
            "first": str(trial.returns.index[0].date()),
            "last": str(trial.returns.index[-1].date()),
            "days": len(trial.returns),
            "recorded": trial.recorded,
            "options": trial.options,
            "config": trial.config,
        }
        for trial in trials
    ]


def _settled(book: Book, max_gap_days: int) -> BoolArray:
    """[days] whether later bars cannot change what the day earns.

    Where the bars of a ticker end it is sold, although it may go on when newer bars are there: unless a hole follows,
    its last day, and the days of the others after it, are left for the next run. All days count where that leaves none.
    """
    ended = book.day[np.roll(book.first, -1) & ~book.scored]
    open_until = book.dates[-1] - np.timedelta64(max_gap_days, "D")
    recent = ended[book.dates[ended] >= open_until]
    settled: BoolArray = np.arange(len(book.dates)) < recent.min(initial=len(book.dates))
    return settled if settled.any() else ~settled
