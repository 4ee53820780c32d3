"""Use case: predict the next bar with a saved model; compare past predictions with what happened."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd

from nextbar.config import CommonConfig, without_password
from nextbar.datasets.samples import Bars
from nextbar.errors import (
    ArtifactError,
    BadBarsError,
    FeatureError,
    NotEnoughHistoryError,
    NothingToTrainError,
    OutdatedError,
    OutputError,
)
from nextbar.evaluation.figures import summarise
from nextbar.evaluation.series import Book, Terms
from nextbar.evaluation.walkforward import close_returns, open_returns
from nextbar.models.registry import KINDS
from nextbar.runs.document import Comparison
from nextbar.runs.files import mark_of, stem_of, write_bytes
from nextbar.runs.journal import Entry, append, journal_path, read
from nextbar.runs.run import Run, load_run
from nextbar.runs.trained import TrainedModel
from nextbar.types import DateArray, FeatureTable, JsonDict
from nextbar.workflows.options import PredictConfig
from nextbar.workflows.remarks import errors_on, tell_errors
from nextbar.workflows.universe import Universe, load_universe, symbols


@dataclass(kw_only=True)
class PredictSummary:
    """Predictions made, why a ticker that was not asked for by name has none, remarks, and the journal's file."""

    entries: list[Entry] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    journal: Path

    def records(self) -> list[JsonDict]:
        """Return each prediction with the days from the last bar, and from the training of the model, to it."""
        return [asdict(entry) | _ages(entry) for entry in self.entries]


def predict(models: Sequence[Path], config: PredictConfig, *, now: dt.datetime) -> PredictSummary:
    """Predict the bar after the last one for each model and ticker, and write it into the journal."""
    summary = PredictSummary(journal=journal_path(config.journal))
    named = {(path.parent.resolve(), stem_of(path)): path for path in models}
    for (folder, stem), path in named.items():
        if len(named) > 1 and not (folder / mark_of(stem)).exists():
            summary.skipped[str(folder / stem)] = f"{stem}: its metadata is missing, the run was never finished"
            continue
        try:
            run = load_run(path)
            if len(named) > 1 and run.document.model not in KINDS:
                summary.skipped[str(folder / stem)] = f"{stem}: a model of your own; use it in Python: Run.model"
                continue
            saved = run.trained(features=config.features, unless_plain=len(named) > 1)
        except (FeatureError, OutdatedError) as error:
            if len(named) == 1:
                raise
            summary.skipped[str(folder / stem)] = str(error)
            continue
        _predict_model(run, saved, config, now, summary)
    if not summary.entries:
        raise NothingToTrainError(f"no prediction: {'; '.join(list(summary.skipped.values())[:3])}")
    append(summary.journal, summary.entries)
    if config.out is not None:
        _write_csv(config.out, summary)
    return summary


def _predict_model(
    run: Run, saved: TrainedModel, config: PredictConfig, now: dt.datetime, summary: PredictSummary
) -> None:
    """Add one model's predictions; a ticker that was named must have one, another may be left out for a reason."""
    everything = config.ticker.upper() == "ALL"
    asked = list(saved.seen) if everything else _asked(saved, config.ticker)
    source = replace(saved.config, db=config.db, end=None)
    universe = load_universe(source, names=asked, lenient=everything, quoted_volume=saved.quoted_volume)
    lost = dict(universe.skipped)
    for ticker, bars in universe.bars.items():
        try:
            date, table = _fresh_day(ticker, bars, config, now), saved.table(ticker, bars)
            summary.entries.append(predict_last(run, saved, table, date, now=now))
            summary.notes += [*saved.changes(table, bars), *_errors(saved, table, universe)]
        except (BadBarsError, NotEnoughHistoryError) as error:
            lost[ticker] = str(error)
    if not everything and lost:
        raise BadBarsError("; ".join(lost.values()))
    summary.skipped |= {f"{run.sibling('')} {ticker}": reason for ticker, reason in lost.items()}


def _asked(saved: TrainedModel, text: str) -> list[str]:
    asked = [text] if text in saved.seen else symbols(text)  # a symbol may hold a comma
    if unknown := sorted(set(asked) - set(saved.seen)):
        known = ", ".join(list(saved.seen)[:5]) + (" …" if len(saved.seen) > 5 else "")
        raise ArtifactError(f"{saved.name} knows {known}, not {', '.join(unknown)}; train a model of it")
    return asked


def predict_last(run: Run, saved: TrainedModel, table: FeatureTable, date: dt.date, *, now: dt.datetime) -> Entry:
    """Predict from a ticker's last bar, which is of ``date``."""
    ticker, last = table.ticker, len(table.dates) - 1
    found = saved.predict(ticker, table, np.array([last])).replace({np.nan: None}).to_dict("records")
    if not found:
        raise NotEnoughHistoryError(
            f"{ticker}: nothing can be predicted from the last of {last + 1} bars: it lies in the warm-up of "
            f"{saved.config.warmup} bars, which begins again after a hole, or lacks a feature; ingest the bars missing"
        )
    (row,) = found
    return Entry(
        made=now.isoformat(timespec="seconds"),
        ticker=ticker,
        date=str(date),
        kind=run.document.model,
        model=run.stem,
        model_sha256=run.sha256,
        model_made=saved.made.isoformat(timespec="seconds"),
        predicted_class=int(row["class"]),
        majority=saved.seen[ticker].majority,
        raw=saved.config.raw,
        **{name: row[name] for name in ("close", "probability", "predicted_close", "threshold", "signal")},
    )


def _errors(saved: TrainedModel, table: FeatureTable, universe: Universe) -> list[str]:
    """Return sentences about data errors in the days that the model was scored on, and in those since."""
    errors, (first, last) = universe.errors.get(table.ticker, []), saved.seen[table.ticker].test
    scored, later = (table.dates >= first) & (table.dates <= last), table.dates > last
    found, newer = (errors_on(errors, table.dates, days) for days in (scored, later))
    return [
        *tell_errors(found, "inside the test days", "no verdict stands on such days"),
        *tell_errors(newer, "after the test days", "correct it and predict again"),
    ]


def _fresh_day(ticker: str, bars: Bars, config: PredictConfig, now: dt.datetime) -> dt.date:
    """Return the day of the last bar; refuse one that is too old."""
    date: dt.date = bars.frame.index[-1].date()
    if (age := (now.date() - date).days) > config.max_age_days:
        raise BadBarsError(
            f"{ticker}: the last bar is of {date}, {age} days ago, more than --max-age-days {config.max_age_days}; "
            f"fetch newer bars (nextbar ingest … --db {without_password(config.db)}) or allow that age"
        )
    return date


def _ages(entry: Entry) -> dict[str, int]:
    made = dt.datetime.fromisoformat(entry.made)
    return {
        "bar_age_days": (made.date() - dt.date.fromisoformat(entry.date)).days,
        "model_age_days": (made - dt.datetime.fromisoformat(entry.model_made)).days,
    }


def _write_csv(path: Path, summary: PredictSummary) -> None:
    try:
        write_bytes(path, pd.DataFrame(summary.records()).to_csv(index=False).encode())
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror}); the predictions are in the journal"
        ) from error


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What the predictions of one kind of model were worth."""

    tickers: list[str]
    periods: float
    figures: Comparison


@dataclass(kw_only=True)
class ScoreSummary:
    """What the predictions were worth, and those that do not count.

    Attributes:
        scored: By kind of model.
        pending: The next bar is not there yet.
        late: Made when the next bar's market was open already.
        repeated: An earlier prediction of the same kind, ticker and day counts.
        lost: The bar it was made from is gone or not in this database, or a hole follows it.
    """

    scored: dict[str, Scored] = field(default_factory=dict)
    pending: int = 0
    late: int = 0
    repeated: int = 0
    lost: int = 0

    def left_out(self) -> dict[str, int]:
        """Return how many predictions do not count, by reason."""
        return {name: number for name, number in vars(self).items() if name != "scored"}

    def to_json(self) -> JsonDict:
        """Return the figures by kind of model, and how many predictions do not count."""
        models = {}
        for kind, one in self.scored.items():
            figures = msgspec.to_builtins(one.figures)
            head = {"tickers": one.tickers, "periods_per_year": one.periods, "pooled": figures.pop("model")}
            models[kind] = head | figures
        return {"models": models, **self.left_out()}


def score(
    config: CommonConfig, journal: Path | None = None, *, opens: dt.time = dt.time(13, 30), model: str = ""
) -> ScoreSummary:
    """Compare every first prediction with the bar that followed."""
    path = journal_path(journal)
    entries = [entry for entry in read(path) if model in entry.model]
    if model and not entries:
        raise NothingToTrainError(f"no prediction in {path} is of a model {model!r}; see: nextbar runs")
    first = {(entry.kind, entry.ticker, entry.date): entry for entry in reversed(entries)}
    summary = ScoreSummary(repeated=len(entries) - len(first))
    parts = [_settle(first.values(), replace(config, raw=raw), opens, summary) for raw in (False, True)]
    settled = [row for rows, _ in parts for row in rows]
    if settled:
        terms = Terms.of(config, [days for _, dates in parts for days in dates])
        table = pd.DataFrame(settled).sort_values(["kind", "ticker", "date"], ignore_index=True)
        summary.scored = {str(kind): _scored(rows, terms) for kind, rows in table.groupby("kind")}
    elif not summary.pending:
        late = f"one made after the next bar's market opened (--opens {opens:%H:%M} UTC) never counts"
        raise NothingToTrainError(
            f"none of {len(entries)} predictions in {path} can be scored: {summary.late} were made late, "
            f"{summary.repeated} repeat others, {summary.lost} lost their bar; "
            f"{late if summary.late else 'ingest newer bars'}"
        )
    return summary


def _settle(
    entries: Iterable[Entry], config: CommonConfig, opens: dt.time, summary: ScoreSummary
) -> tuple[list[JsonDict], list[DateArray]]:
    """Give rows of the predictions made on such prices, and the days of their tickers; count the other predictions."""
    of_ticker: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.raw == config.raw:
            of_ticker.setdefault(entry.ticker, []).append(entry)
    bars: Mapping[str, Bars] = {}
    with suppress(NothingToTrainError):
        bars = load_universe(config, names=sorted(of_ticker), lenient=True).bars if of_ticker else {}
    summary.lost += sum(len(own) for ticker, own in of_ticker.items() if ticker not in bars)
    histories = {ticker: _History(one, config.max_gap_days, opens) for ticker, one in bars.items()}
    found = [history.settle(entry, summary) for ticker, history in histories.items() for entry in of_ticker[ticker]]
    return [row for row in found if row is not None], [history.dates for history in histories.values()]


class _History:
    """Compares predictions for one ticker with what happened day by day."""

    def __init__(self, bars: Bars, max_gap_days: int, opens: dt.time) -> None:
        frame, self._opens = bars.frame, opens
        self.dates: DateArray = frame.index.to_numpy().astype("datetime64[D]")
        self._returns = close_returns(frame["Close"].to_numpy(np.float64), self.dates, max_gap_days)
        self._quoted = (frame["Quoted"] if "Quoted" in frame else frame["Close"]).to_numpy(np.float64)
        self._open_returns = open_returns(frame["Open"].to_numpy(np.float64), self.dates, max_gap_days)

    def settle(self, entry: Entry, summary: ScoreSummary) -> JsonDict | None:
        """Return the out-of-sample row of a prediction and what its figures need; count one that has none."""
        at = int(np.searchsorted(self.dates, np.datetime64(entry.date, "D")))
        if at == len(self.dates) or str(self.dates[at]) != entry.date:
            summary.lost += 1
        elif at + 1 == len(self.dates):
            summary.pending += 1
        elif np.isnan(self._returns[at]):
            summary.lost += 1
        elif dt.datetime.fromisoformat(entry.made) >= self._opening(at + 1):
            summary.late += 1
        else:
            return self._row(entry, at)
        return None

    def _opening(self, at: int) -> dt.datetime:
        return dt.datetime.combine(self.dates[at].astype(object), self._opens, tzinfo=dt.UTC)

    def _row(self, entry: Entry, at: int) -> JsonDict:
        earned = self._returns[at]
        names = ("kind", "ticker", "probability", "predicted_close", "threshold", "signal", "majority")
        return {
            **{name: getattr(entry, name) for name in names},
            "date": self.dates[at].astype("datetime64[ms]"),
            "fold": 0,
            "class": entry.predicted_class,
            "next_return": earned,
            "open_return": self._open_returns[at],
            "close": self._quoted[at],
            "next_close": self._quoted[at] * (1.0 + earned),
            "scaled_error": np.nan,
        }


def _scored(table: pd.DataFrame, terms: Terms) -> Scored:
    numbers = ["probability", "predicted_close", "threshold"]
    rows = table.reset_index(drop=True).astype(dict.fromkeys(numbers, "float64"))
    figures = summarise(rows, rows, Book.of(rows, terms))
    if "price" in figures:
        del figures["price"]["scaled_mse"]  # the network's own scale is not in the journal
    tickers = sorted(rows["ticker"].unique())
    return Scored(tickers=tickers, periods=terms.periods, figures=msgspec.convert(figures, Comparison))
