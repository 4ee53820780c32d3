"""Use case: say which predictions of the journal count, and compare them with what happened."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from nextbar.config import CommonConfig
from nextbar.datasets.samples import Bars
from nextbar.errors import NothingToTrainError
from nextbar.evaluation.figures import summarise
from nextbar.evaluation.rows import close_returns, open_returns, pause_returns
from nextbar.evaluation.series import Book, Terms
from nextbar.runs.document import Comparison
from nextbar.runs.files import REFIT, csv_bytes, save_bytes
from nextbar.runs.journal import OPENS, Entry, journal_path, on_proven_times, opening, read
from nextbar.runs.names import named_place, read_pointer
from nextbar.scoring.metrics import without_rates
from nextbar.types import DateArray, JsonDict
from nextbar.words import brief, by_reason, listed, plural, utc_minute
from nextbar.workflows.universe import load_universe

COUNTED = "counted"
UNCOUNTED = ("pending", "overdue", "late", "repeated", "lost")
"""What becomes of predictions that do not count; `ScoreSummary` explains them."""
RECENT_BARS = 250
"""Bars of a ticker whose longest step says when its next bar should be there."""
SPARE_DAYS = 1
"""Days more until a bar is overdue: time zones, and vendors that are late."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What the predictions of one kind of model were worth, and how many of them each model made."""

    tickers: list[str]
    models: dict[str, int]
    periods: float
    figures: Comparison


@dataclass(kw_only=True)
class ScoreSummary:
    """What the predictions were worth, and those that do not count.

    Attributes:
        scored: By kind of model.
        pending: The next bar is not there yet.
        overdue: The next bar is not there although it should be.
        late: Made when the next bar's market was open already, by the clock or by the order in the journal.
        repeated: An earlier prediction of the same kind, ticker and day counts.
        lost: The bar it was made from is gone or not in this database, or a hole follows it.
        no_bar_since: Ticker → its last bar, where predictions are overdue.
    """

    scored: dict[str, Scored] = field(default_factory=dict)
    pending: int = 0
    overdue: int = 0
    late: int = 0
    repeated: int = 0
    lost: int = 0
    no_bar_since: dict[str, str] = field(default_factory=dict)

    @property
    def losses(self) -> str:
        """Say how many predictions do not count, and why; empty where all do."""
        since = by_reason((ticker, day) for ticker, day in self.no_bar_since.items())
        told = "; ".join(f"no bar came since {day}: {listed(tickers)}" for day, tickers in since.items())
        counts = ((name, getattr(self, name), f" ({told})" if name == "overdue" else "") for name in UNCOUNTED)
        return ", ".join(f"{count} {name}{more}" for name, count, more in counts if count)

    def to_json(self) -> JsonDict:
        """Return the figures by kind of model, and how many predictions do not count."""
        models = {}
        for kind, one in self.scored.items():
            figures = msgspec.to_builtins(one.figures)
            head: JsonDict = {"tickers": one.tickers, "models": one.models}
            head |= {"periods_per_year": one.periods, "pooled": figures.pop("model")}
            models[kind] = head | figures
        return {"models": models, **{name: value for name, value in vars(self).items() if name != "scored"}}


@dataclass(frozen=True, kw_only=True)
class Line:
    """A prediction of the journal, whether it counts, and why.

    Attributes:
        entry: As it is written, but on the time that the order of the journal proves.
        state: `COUNTED` or one of `UNCOUNTED`.
        why: The same in a sentence.
        row: Its out-of-sample row with what its figures need; None where it does not count.
    """

    entry: Entry
    state: str
    why: str
    row: JsonDict | None = None

    def to_json(self) -> JsonDict:
        """Return the prediction with its state, and what the next bar earned where it counts."""
        earned = None if self.row is None else float(self.row["next_return"])
        return {**asdict(self.entry), "state": self.state, "why": self.why, "next_return": earned}


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The predictions of a journal in the order in which they were written, and the bars of their tickers."""

    path: Path
    opens: dt.time
    lines: list[Line]
    histories: Mapping[bool, Mapping[str, _History]]


def decide(
    config: CommonConfig,
    journal: Path | None = None,
    *,
    opens: dt.time = OPENS,
    model: str = "",
    name: str | None = None,
    now: dt.datetime | None = None,
) -> Listing:
    """Say of every prediction in the journal whether it counts.

    Args:
        config: Says the database.
        journal: Its file.
        opens: When the next bar's market opens, UTC.
        model: Only predictions of artifacts whose name holds this.
        name: Only predictions of the runs that this name meant when they were made.
        now: The time; None: now.
    """
    path, now = journal_path(journal), now or dt.datetime.now(dt.UTC)
    entries = on_proven_times(read(path), now)
    entries = [entry for entry in entries if model in entry.model]
    if model and not entries:
        raise NothingToTrainError(f"no prediction in {path} is of a model {brief(model)}; see: nextbar runs")
    if name is not None:
        entries = _named(entries, name, path)
    first = {entry.subject: number for number, entry in reversed([*enumerate(entries)])}
    histories: dict[bool, dict[str, _History]] = {}
    for raw in (False, True):
        names = list(dict.fromkeys(entries[number].ticker for number in first.values() if entries[number].raw == raw))
        histories[raw] = _histories(names, replace(config, raw=raw), opens, now)
    lines = []
    for number, entry in enumerate(entries):
        earlier, row = first[entry.subject], None
        history = histories[entry.raw].get(entry.ticker)
        if earlier != number:
            made = utc_minute(entries[earlier].made)
            state, why = "repeated", f"one made {made} is the first of this kind of model for the ticker and day"
        elif history is None:
            state, why = "lost", "the database has no bars of this ticker"
        else:
            state, why = history.settle(entry)
            row = history.row(entry) if state == COUNTED else None
        lines.append(Line(entry=entry, state=state, why=why, row=row))
    return Listing(path=path, opens=opens, lines=lines, histories=histories)


def _named(entries: Sequence[Entry], name: str, path: Path) -> list[Entry]:
    """Keep the predictions that were made by the runs that a name meant then, or by their refits."""
    pointer = read_pointer(named_place(Path(name)))
    found = [
        entry
        for entry in entries
        if pointer.meant(entry.model.removesuffix(REFIT), dt.datetime.fromisoformat(entry.made))
    ]
    if not found:
        raise NothingToTrainError(
            f"no prediction in {path} was made by a run while it had the name {name}; make one: nextbar predict {name}"
        )
    return found


def _histories(names: Sequence[str], config: CommonConfig, opens: dt.time, now: dt.datetime) -> dict[str, _History]:
    """Read the bars of the tickers that the database holds."""
    bars: Mapping[str, Bars] = {}
    with suppress(NothingToTrainError):
        bars = load_universe(config, names=names, lenient=True).bars if names else {}
    return {ticker: _History(one, config.max_gap_days, opens, now) for ticker, one in bars.items()}


class _History:
    """Compares predictions for one ticker with what happened day by day."""

    def __init__(self, bars: Bars, max_gap_days: int, opens: dt.time, now: dt.datetime) -> None:
        frame, self._opens, self._most, self._now = bars.frame, opens, max_gap_days, now
        self.dates: DateArray = frame.index.to_numpy().astype("datetime64[D]")
        self._returns = close_returns(frame["Close"].to_numpy(np.float64), self.dates, max_gap_days)
        self._quoted = (frame["Quoted"] if "Quoted" in frame else frame["Close"]).to_numpy(np.float64)
        self._open_returns = open_returns(frame["Open"].to_numpy(np.float64), self.dates, max_gap_days)

    def settle(self, entry: Entry) -> tuple[str, str]:
        """Say what becomes of a prediction, and why."""
        at = self._place(entry)
        if at == len(self.dates) or str(self.dates[at]) != entry.date:
            return "lost", f"the database has no bar of {entry.date}"
        if at + 1 == len(self.dates):
            return self._wait(entry)
        if np.isnan(self._returns[at]):
            return "lost", f"no bar follows {entry.date} within {self._most} days"
        start = opening(self.dates[at + 1], self._opens)
        opened = f"the market opened at {utc_minute(start.isoformat())}"
        if dt.datetime.fromisoformat(entry.made) >= start:
            return "late", opened
        return COUNTED, f"first, and before {opened}"

    def _wait(self, entry: Entry) -> tuple[str, str]:
        """Say whether a prediction from the last bar still waits for the next one."""
        last, steps = self.dates[-1], np.diff(self.dates[-RECENT_BARS:]).astype(np.int64)
        if dt.datetime.fromisoformat(entry.made) >= opening(last + np.timedelta64(self._most, "D"), self._opens):
            return "late", f"made when no next bar could count any more, {self._most} days after {entry.date}"
        step = int(max(steps[steps <= self._most], default=self._most))
        if np.datetime64(self._now.date(), "D") > last + np.timedelta64(step + SPARE_DAYS, "D"):
            follows = f"the next one follows within {plural(step, 'day')}: ingest newer bars"
            return "overdue", f"no bar came since {entry.date}, though {follows}"
        return "pending", f"the bar after {entry.date} is not there yet"

    def pauses(self, days: DateArray) -> dict[str, float]:
        """Return what happened between scored days, as `Book.of` takes it."""
        return pause_returns(self.dates, self._returns, np.searchsorted(self.dates, days))

    def _place(self, entry: Entry) -> int:
        return int(np.searchsorted(self.dates, np.datetime64(entry.date, "D")))

    def row(self, entry: Entry) -> JsonDict:
        """Return the out-of-sample row of a prediction that counts, with what its figures need."""
        at = self._place(entry)
        earned = self._returns[at]
        names = ("kind", "model", "ticker", "probability", "predicted_close", "threshold", "signal", "majority", "raw")
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


def score(listing: Listing, config: CommonConfig) -> ScoreSummary:
    """Compare the predictions of a journal that count with the bars that followed, at the costs of a configuration."""
    if not listing.lines:
        raise NothingToTrainError(f"{listing.path} holds no prediction; make one: nextbar predict MODEL")
    counts: dict[str, Any] = Counter(one.state for one in listing.lines if one.state != COUNTED)
    overdue = {one.entry.ticker: one.entry.date for one in listing.lines if one.state == "overdue"}
    summary = ScoreSummary(no_bar_since=overdue, **counts)
    settled = [one.row for one in listing.lines if one.row is not None]
    if settled:
        terms = Terms.of(config, [one.dates for own in listing.histories.values() for one in own.values()])
        table = pd.DataFrame(settled).sort_values(["kind", "ticker", "date"], ignore_index=True)
        summary.scored = {str(kind): _scored(rows, terms, listing.histories) for kind, rows in table.groupby("kind")}
    elif not summary.pending + summary.overdue:
        late = f"one made after the next bar's market opened (--opens {listing.opens:%H:%M} UTC) never counts"
        raise NothingToTrainError(
            f"none of {plural(len(listing.lines), 'prediction')} in {listing.path} can be scored: "
            f"{summary.losses}; {late if summary.late else 'ingest newer bars'}"
        )
    return summary


def _scored(table: pd.DataFrame, terms: Terms, histories: Mapping[bool, Mapping[str, _History]]) -> Scored:
    numbers = ["probability", "predicted_close", "threshold"]
    rows = table.reset_index(drop=True).astype(dict.fromkeys(numbers, "float64"))
    pauses: dict[str, dict[str, float]] = {}
    for (ticker, raw), own in rows.groupby(["ticker", "raw"]):
        returns = histories[bool(raw)][str(ticker)].pauses(own["date"].to_numpy("datetime64[D]"))
        pauses.setdefault(str(ticker), {}).update(returns)
    figures = without_rates(summarise(rows, rows, Book.of(rows, terms, pauses=pauses)))
    if "price" in figures:
        del figures["price"]["scaled_mse"]  # the network's own scale is not in the journal
    tickers = sorted(rows["ticker"].unique())
    models = {str(model): int(count) for model, count in rows["model"].value_counts(sort=False).items()}
    return Scored(tickers=tickers, models=models, periods=terms.periods, figures=msgspec.convert(figures, Comparison))


def write_listing(listing: Listing, path: Path) -> None:
    """Write the predictions of a journal to a CSV file, with whether each counts and why."""
    save_bytes(path, csv_bytes(pd.DataFrame([line.to_json() for line in listing.lines])))
