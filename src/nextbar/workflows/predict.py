"""Use case: predict the next bar with a saved model; compare past predictions with what happened."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from nextbar.datasets.samples import Bars
from nextbar.errors import (
    ArtifactError,
    BadBarsError,
    FeatureError,
    NextbarError,
    NotEnoughHistoryError,
    NothingToTrainError,
    OutdatedError,
    OutputError,
    OwnModelError,
    remark,
)
from nextbar.market.calendar import closing_second, last_finished_day, next_session
from nextbar.models.registry import KINDS
from nextbar.runs.files import (
    SIGNALS,
    WALK_FORWARD,
    csv_bytes,
    mark_of,
    match_stem,
    refuse_pattern,
    run_stem,
    save_bytes,
    stem_of,
    try_place,
)
from nextbar.runs.journal import Entry, append, check_copy, journal_path, noted, opening
from nextbar.runs.load import load_run
from nextbar.runs.names import is_given, is_name, named_place, read_pointer
from nextbar.runs.run import Run
from nextbar.runs.trained import TrainedModel, lacking
from nextbar.runs.verdict import is_refuted, tell_refuted
from nextbar.types import FeatureTable, JsonDict
from nextbar.words import listed, nearest, plural, said_once, utc_minute, utc_seconds, without_password
from nextbar.workflows.options import PredictConfig
from nextbar.workflows.own_models import load_model, recorded_model
from nextbar.workflows.remarks import errors_on, tell_errors
from nextbar.workflows.score import RECENT_BARS
from nextbar.workflows.universe import Universe, load_universe, symbols

MOST_SHIFT = 0.2
"""Share of days by which the exposure of a refit may differ from that of its run before a note says so."""


@dataclass(kw_only=True)
class PredictSummary:
    """Predictions made, why a ticker that was not asked for by name has none, remarks, and the journal's file.

    Attributes:
        trained_to: Of each prediction, the last day that its model was fitted on.
        refuted: Of each prediction, whether the certificate of its run is FAIL; None where that cannot be read.
    """

    entries: list[Entry] = field(default_factory=list)
    trained_to: list[str] = field(default_factory=list)
    refuted: list[bool | None] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    journal: Path

    @property
    def reasons(self) -> list[str]:
        """Why tickers and runs have no prediction, each reason once with the tickers that it concerns."""
        keys = [(place.rpartition(" ")[2], reason) for place, reason in self.skipped.items()]
        return said_once((name if reason.startswith(f"{name}: ") else "", reason) for name, reason in keys)

    def records(self) -> list[JsonDict]:
        """Return each prediction with what is known of its model: trained to which day, how old, refuted or not."""
        found = []
        for entry, trained_to, refuted in zip(self.entries, self.trained_to, self.refuted, strict=True):
            made, bar, trained = (dt.date.fromisoformat(day) for day in (entry.made[:10], entry.date, trained_to))
            ages = {"bar_age_days": (made - bar).days, "model_age_days": (made - trained).days}
            found.append({**asdict(entry), "trained_to": trained_to, **ages, "refuted": refuted})
        return found


def predict(models: Sequence[Path], config: PredictConfig, *, now: dt.datetime) -> PredictSummary:
    """Predict the bar after the last one for each model and ticker; `keep` writes the predictions down.

    Notes are remarks where an error ends it.
    """
    summary = PredictSummary(journal=journal_path(config.journal))
    _check_places(summary.journal, config.out)
    try:
        _predict(models, config, summary, now)
    except NextbarError:
        for text in summary.notes:
            remark(text)
        raise
    return summary


def _predict(models: Sequence[Path], config: PredictConfig, summary: PredictSummary, now: dt.datetime) -> None:
    own = None if config.model is None else load_model(config.model)
    marks = expand(models)
    runs, alone = _runs(marks, summary), len(marks) == 1
    if alone and own is not None and runs[0].document.model in KINDS:
        raise OwnModelError(f"{runs[0].name} is of a built-in kind, {runs[0].document.model}; leave --model out")
    asked, by_age = _asked(runs, config.ticker), sorted(runs, key=lambda run: (run.document.created, run.stem))
    newest = {(run.document.model, name): run for run in by_age for name in run.tickers}
    for run in runs:
        newer = [name for name in run.tickers if config.all_runs or newest[run.document.model, name] is run]
        tickers = [name for name in asked if name in newer]
        if not tickers:
            continue
        summary.notes += tell_refuted(run)
        try:
            saved = run.trained(
                features=config.features,
                panel_features=config.panel_features,
                model=recorded_model(own, run),
                trust=config.trust,
                unless_plain=not alone,
                refit=run.document.refitted and not config.no_refit,
            )
        except (FeatureError, OutdatedError, OwnModelError) as error:
            if alone:
                raise
            summary.skipped[str(run.sibling(""))] = str(error)
            continue
        _predict_model(run, saved, config, summary, asked=tickers, now=now)
    older = sum(any(newest[run.document.model, name] is not run for name in run.tickers) for run in runs)
    if older and not config.all_runs:
        told = plural(older, "older run")
        summary.notes.append(f"{told} of the same model and ticker left out; --all-runs predicts with all of them")
    if not summary.entries:
        raise NothingToTrainError(f"no prediction: {'; '.join(summary.reasons[:3])}")
    summary.notes += _repeated(summary)


def _repeated(summary: PredictSummary) -> list[str]:
    """Say which predictions the journal holds already, from an earlier command: they are noted, and do not count."""
    known, found = noted(summary.journal, summary.entries), []
    for entry in summary.entries:
        if entry.subject in known:
            made, model = known[entry.subject]
            by = "" if model == entry.model else f" by {model}"
            told = f"already noted on {utc_minute(made)}{by}; score counts only the first, unless it is given a model"
            found.append((entry.ticker, told))
    return said_once(found)


def _check_places(journal: Path, out: Path | None) -> None:
    """Refuse a journal or a CSV file that cannot be written, before anything is shown."""
    check_copy(out, journal, "--out")
    if journal.exists():
        append(journal, [])
        return
    try:
        try_place(journal)
    except OSError as error:
        raise OutputError(f"{journal}: cannot be made ({error.strerror}); choose another --journal") from error


def expand(models: Sequence[Path]) -> list[Path]:
    """Return the document of each run that is given: by a file, by the folder that holds it, or by its name.

    A name means runs of the folder that it is given with, or of `models`. Each run is given once. A document may be
    missing.
    """
    marks = [mark for model in models for mark in _marks(model)]
    return list({mark.parent.resolve() / mark.name: mark for mark in marks}.values())


def _marks(model: Path) -> list[Path]:
    refuse_pattern(model)
    if model.is_dir():
        place = named_place(model)
        if model.parent == Path() and is_given(place):
            raise ArtifactError(
                f"{model} is a folder here and a name of runs in {place.parent}; give the name as {place}, or the "
                f"folder as {model.resolve()}"
            )
        return _of_folder(model)
    if not is_name(model):
        return [model.with_name(mark_of(run_stem(stem_of(model))))]  # a pattern may find an opening
    place = named_place(model)
    marks = [place.with_name(mark_of(stem)) for stem in read_pointer(place).runs]
    if gone := [mark for mark in marks if not mark.exists()]:
        raise ArtifactError(
            f"{place.name} means {stem_of(gone[0])}, which is not in {place.parent} any more; bring it back, "
            f"or name another run: nextbar promote RUN --as {place.name}"
        )
    return marks


def _of_folder(folder: Path) -> list[Path]:
    """Return the document of each training run that has files in a folder."""
    found = [match.group() for path in sorted(folder.iterdir()) if (match := match_stem(path.name))]
    stems = dict.fromkeys(run_stem(stem) for stem in found if not stem.startswith((WALK_FORWARD, SIGNALS)))
    marks = [folder / mark_of(stem) for stem in stems]
    if not any(mark.exists() for mark in marks):
        raise ArtifactError(f"{folder}: no trained model in this folder; train one: nextbar train xgb")
    return marks


def _runs(marks: Sequence[Path], summary: PredictSummary) -> list[Run]:
    """Load runs; among others one that was never finished is left out."""
    found = []
    for mark in marks:
        if len(marks) == 1 or mark.exists():
            found.append(load_run(mark))
        else:
            stem = stem_of(mark)
            summary.skipped[str(mark.parent / stem)] = f"{stem}: its metadata is missing, the run was never finished"
    return found


def keep(summary: PredictSummary, config: PredictConfig) -> None:
    """Write predictions that were shown into the journal and, if one was asked for, into the CSV file."""
    append(summary.journal, summary.entries)
    if config.out is not None:
        content = csv_bytes(pd.DataFrame(summary.records()))
        save_bytes(config.out, content, "the predictions are in the journal")


def _predict_model(
    run: Run,
    saved: TrainedModel,
    config: PredictConfig,
    summary: PredictSummary,
    *,
    asked: Sequence[str],
    now: dt.datetime,
) -> None:
    """Add one model's predictions; a ticker that was named must have one, another may be left out for a reason."""
    everything = config.ticker.upper() == "ALL"
    source = replace(saved.config, db=config.db, end=None, holdout_from=None)
    names = [*asked, *(name for name in saved.panel if name not in asked)]
    lenient = everything or len(names) > len(asked)
    universe = load_universe(source, names=names, lenient=lenient, quoted_volume=saved.quoted_volume)
    late: list[tuple[str, str]] = []
    lost = {name: reason for name, reason in universe.skipped.items() if name in asked}
    known, notes = saved.with_panel(universe.bars, asked)
    summary.notes += notes
    for ticker, bars in known.items():
        if ticker not in asked:
            continue
        try:
            date, table = _fresh_day(ticker, bars, config, now), saved.table(ticker, bars)
            summary.entries.append(predict_last(run, saved, table, date, now=now))
            summary.trained_to.append(saved.trained_to(ticker))
            summary.refuted.append(is_refuted(run))
            summary.notes += [*saved.changes(table, bars), *_errors(saved, table, universe)]
            summary.notes += _other_exposure(run, saved, table)
            late += [(ticker, told) for told in _too_late(table, config, now)]
        except (BadBarsError, NotEnoughHistoryError) as error:
            lost[ticker] = str(error)
    summary.notes += said_once(late)
    if not everything and lost:
        raise BadBarsError("; ".join(said_once(lost.items())))
    summary.skipped |= {f"{run.sibling('')} {ticker}": reason for ticker, reason in lost.items()}


def _asked(runs: Sequence[Run], text: str) -> list[str]:
    """Return the tickers that are asked for; each must have a model."""
    known = list(dict.fromkeys(name for run in runs for name in run.tickers))
    if text.upper() == "ALL":
        return known
    asked = [text] if text in known else symbols(text)  # a symbol may hold a comma
    if known and (unknown := [name for name in asked if name not in known]):
        whose = f"{runs[0].name} knows" if len(runs) == 1 else f"the models of these {len(runs)} runs know"
        raise ArtifactError(
            f"{whose} {listed(known)}, not {', '.join(unknown)}{nearest(unknown[0], known)}; train a model of it"
        )
    return asked


def predict_last(run: Run, saved: TrainedModel, table: FeatureTable, date: dt.date, *, now: dt.datetime) -> Entry:
    """Predict from a ticker's last bar, which is of ``date``."""
    ticker, last = table.ticker, len(table.dates) - 1
    found = saved.predict(ticker, table, np.array([last])).replace({np.nan: None}).to_dict("records")
    if not found and (why := lacking(table)):
        raise NotEnoughHistoryError(f"{ticker}: nothing can be predicted from the bar of {date}: {why}")
    if not found:
        raise NotEnoughHistoryError(
            f"{ticker}: nothing can be predicted from the last of {plural(last + 1, 'bar')}: it lies in the warm-up of "
            f"{saved.config.warmup} bars, which begins again after a hole; a prediction needs "
            f"{saved.config.warmup + 1} bars without a hole: ingest the bars missing"
        )
    (row,) = found
    return Entry(
        made=utc_seconds(now),
        ticker=ticker,
        date=str(date),
        kind=run.document.model,
        model=saved.name,
        model_sha256=run.refit_sha256 if saved.refit else run.sha256,
        model_made=utc_seconds(saved.made),
        predicted_class=int(row["class"]),
        majority=saved.majority(ticker),
        raw=saved.config.raw,
        **{name: row[name] for name in ("close", "probability", "predicted_close", "threshold", "signal")},
    )


def _other_exposure(run: Run, saved: TrainedModel, table: FeatureTable) -> list[str]:
    """Say where a refit is long far more or less often than the run was, on the run's test days."""
    then = run.document.per_ticker.get(table.ticker, {}).get("exposure")
    if not saved.refit or then is None:
        return []
    first, last = saved.test_days(table.ticker)
    days = np.flatnonzero((table.dates >= first) & (table.dates <= last))
    now = float(saved.predict(table.ticker, table, days)["signal"].mean())
    if not abs(now - then) > MOST_SHIFT:  # no day, no share
        return []
    told = f"{table.ticker}: {saved.name} is long on {100 * now:.0f} % of the run's test days, the run was on"
    return [f"{told} {100 * then:.0f} %: the run's figures say little about this refit; compare with --no-refit"]


def _errors(saved: TrainedModel, table: FeatureTable, universe: Universe) -> list[str]:
    """Return sentences about data errors in the days that the model was scored on, and in those since."""
    errors, (first, last) = universe.errors.get(table.ticker, []), saved.test_days(table.ticker)
    scored, later = (table.dates >= first) & (table.dates <= last), table.dates > last
    found, newer = (errors_on(errors, table.dates, days) for days in (scored, later))
    return [
        *tell_errors(found, "inside the test days", "no verdict is given on such days"),
        *tell_errors(newer, "after the test days", "correct it and predict again"),
    ]


def _too_late(table: FeatureTable, config: PredictConfig, now: dt.datetime) -> list[str]:
    """Say that a prediction cannot count, where the market of the next bar has opened by the exchange's calendar.

    The next bar comes no sooner than after the shortest step between bars, which may be weekly.
    """
    step = np.diff(table.dates[-RECENT_BARS:]).astype(np.int64).min(initial=table.max_gap_days)
    day = next_session(config.calendar, table.dates[-1] + np.timedelta64(int(step), "D"))
    if day is None or (now < opening(day) and last_finished_day(config.calendar, now) < day.astype(object)):
        return []
    since = f"the market of the next bar, {day} on {config.calendar}, has opened already"
    return [f"{since}, so this prediction is late and counts in no score; ingest newer bars and predict again"]


def _fresh_day(ticker: str, bars: Bars, config: PredictConfig, now: dt.datetime) -> dt.date:
    """Return the day of the last bar; refuse one that is too old, or not over."""
    date: dt.date = bars.frame.index[-1].date()
    if date >= now.date() - dt.timedelta(days=1) and date > last_finished_day(config.calendar, now):
        shut = closing_second(config.calendar, np.datetime64(date, "D")) is None
        why = f"when {config.calendar} is closed" if shut else f"that is not over on {config.calendar}"
        final = "" if shut else "ingest its final bar when the day is over, "
        raise BadBarsError(
            f"{ticker}: the last bar is of {date}, a day {why}; {final}delete it, or name the ticker's exchange: "
            "--calendar"
        )
    if (age := (now.date() - date).days) > config.max_age_days:
        raise BadBarsError(
            f"{ticker}: the last bar is of {date}, {age} days ago, more than --max-age-days {config.max_age_days}; "
            f"fetch newer bars (nextbar ingest … --db {without_password(config.db)}) or allow that age"
        )
    return date
