"""Use case: tomorrow's signal from a saved model and the bars up to the last one."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from nextbar.artifacts.journal import Entry, append
from nextbar.artifacts.load import COMMIT, stem_of
from nextbar.config import without_password
from nextbar.datasets.assemble import Bars
from nextbar.decisions.policy import classify, to_signal
from nextbar.errors import ArtifactError, BadBarsError, FeatureError, NotEnoughHistoryError, NothingToTrainError
from nextbar.pipelines.remarks import errors_on, tell_errors
from nextbar.pipelines.saved import SavedModel, changes, feature_table, load_model, majority
from nextbar.pipelines.universe import Universe, load_universe, symbols
from nextbar.types import FeatureTable


@dataclass(frozen=True, kw_only=True)
class PredictRequest:
    """What is asked for.

    Attributes:
        models: Any file of each run; a run named twice counts once.
        db: Database that holds the bars.
        journal: File that the predictions are added to.
        now: The time, UTC.
        ticker: Symbols separated by commas; None: all that each model was trained on.
        max_age_days: Most calendar days that the last bar may be old.
        features: The user's own feature function, named again: a file alone must not make us run code.
    """

    models: Sequence[Path]
    db: str
    journal: Path
    now: dt.datetime
    ticker: str | None = None
    max_age_days: int = 7
    features: str | None = None


@dataclass(kw_only=True)
class PredictSummary:
    """Predictions made and journaled; why a ticker that was not asked for by name has none; what to know besides."""

    entries: list[Entry] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def predict(request: PredictRequest) -> PredictSummary:
    """Predict the bar after the last one for each model and ticker, and write it into the journal.

    Raises:
        NextbarError: A model or the database is not usable, a ticker asked for by name has no prediction, or none has.
    """
    summary = PredictSummary()
    models = {(path.parent.resolve(), stem_of(path)): path for path in request.models}
    for (folder, stem), path in models.items():
        if len(models) > 1 and not (folder / (stem + COMMIT)).exists():
            summary.skipped[str(folder / stem)] = f"{stem}: its metadata is missing, the run was never finished"
            continue
        try:
            saved = load_model(path, features=request.features, unless_plain=len(models) > 1)
        except FeatureError as error:
            if len(models) == 1:
                raise
            summary.skipped[str(folder / stem)] = str(error)
            continue
        _predict_model(saved, request, summary)
    if not summary.entries:
        raise NothingToTrainError(f"no prediction: {'; '.join(list(summary.skipped.values())[:3])}")
    append(request.journal, summary.entries)
    return summary


def _predict_model(saved: SavedModel, request: PredictRequest, summary: PredictSummary) -> None:
    """Add one model's predictions; a ticker that was named must have one, another may be left out for a reason."""
    universe = _load_bars(saved, request)
    lost = dict(universe.skipped)
    for ticker, bars in universe.bars.items():
        try:
            date, table = _fresh_day(ticker, bars, request), feature_table(saved, ticker, bars)
            summary.entries.append(predict_last(saved, table, date, request))
            summary.notes += [*changes(saved, table, bars), *_errors(saved, table, universe)]
        except (BadBarsError, NotEnoughHistoryError) as error:
            lost[ticker] = str(error)
    if request.ticker is not None and lost:
        raise BadBarsError("; ".join(lost.values()))
    name = saved.artifact.folder / saved.artifact.stem
    summary.skipped |= {f"{name} {ticker}": reason for ticker, reason in lost.items()}


def _load_bars(saved: SavedModel, request: PredictRequest) -> Universe:
    """Bars of the tickers asked for, from the recorded first day to the last bar there is."""
    if request.ticker is None:
        asked = list(saved.tickers)
    else:  # a symbol may hold a comma
        asked = [request.ticker] if request.ticker in saved.tickers else symbols(request.ticker)
    if unknown := sorted(set(asked) - set(saved.tickers)):
        known = ", ".join(list(saved.tickers)[:5]) + (" …" if len(saved.tickers) > 5 else "")
        raise ArtifactError(f"{saved.artifact.stem} knows {known}, not {', '.join(unknown)}; train a model of it")
    config = replace(saved.config, db=request.db, end=None)
    return load_universe(config, names=asked, lenient=request.ticker is None, quoted_volume=saved.quoted_volume)


def predict_last(saved: SavedModel, table: FeatureTable, date: dt.date, request: PredictRequest) -> Entry:
    """The prediction from a ticker's last bar, which is of ``date``.

    Raises:
        NotEnoughHistoryError: It is inside the warm-up, lacks a feature or ends no whole window.
    """
    ticker, last = table.ticker, len(table.dates) - 1
    value = float(saved.predictor.predict(table, np.array([last]))[0])
    if not table.usable[last] or not np.isfinite([value, *table.features[last]]).all():
        raise NotEnoughHistoryError(
            f"{ticker}: nothing can be predicted from the last of {last + 1} bars: it lies in the warm-up of "
            f"{saved.config.warmup} bars, which begins again after a hole, or lacks a feature; ingest the bars missing"
        )
    threshold, close = saved.tickers[ticker].threshold, float(table.close[last])
    predicted = int(value > close if threshold is None else classify(value, threshold))
    quote = float(table.quote[last])
    return Entry(
        made=request.now.isoformat(timespec="seconds"),
        ticker=ticker,
        date=str(date),
        kind=saved.config.model,
        model=saved.artifact.stem,
        model_sha256=saved.artifact.sha256,
        model_made=saved.made.isoformat(timespec="seconds"),
        close=close * quote,
        probability=None if threshold is None else value,
        predicted_close=value * quote if threshold is None else None,
        threshold=threshold,
        predicted_class=predicted,
        signal=int(to_signal(predicted)),
        majority=majority(saved, table),
        raw=saved.config.raw,
    )


def _errors(saved: SavedModel, table: FeatureTable, universe: Universe) -> list[str]:
    """Data errors in the days that the model was scored on, and in those since."""
    errors, (first, last) = universe.errors.get(table.ticker, []), saved.tickers[table.ticker].test
    scored = (table.dates >= first) & (table.dates <= last)
    return [
        *tell_errors(errors_on(errors, table.dates, scored), "inside the test days", "no verdict stands on such days"),
        *tell_errors(
            errors_on(errors, table.dates, table.dates > last), "after the test days", "correct it and predict again"
        ),
    ]


def _fresh_day(ticker: str, bars: Bars, request: PredictRequest) -> dt.date:
    """Day of the last bar, if it is not too old."""
    date: dt.date = bars.frame.index[-1].date()
    if (age := (request.now.date() - date).days) > request.max_age_days:
        raise BadBarsError(
            f"{ticker}: the last bar is of {date}, {age} days ago, more than --max-age-days {request.max_age_days}; "
            f"fetch newer bars (nextbar ingest … --db {without_password(request.db)}) or allow that age"
        )
    return date
