"""A model that was trained, ready for days that it has not seen: from memory or from its files."""

from __future__ import annotations

import datetime as dt
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from nextbar.config import TrainConfig
from nextbar.datasets.prices import History, history_of, market_format, market_frame
from nextbar.datasets.samples import Bars, add_panel, build_table, clean_bars, majority_class, tell_last
from nextbar.errors import ArtifactError, BadBarsError, FeatureError, NotEnoughHistoryError
from nextbar.evaluation.rows import close_returns
from nextbar.features.spec import FeatureSpec
from nextbar.models.base import Fitted, Model
from nextbar.models.reproducibility import digest_arrays, digest_bars
from nextbar.runs.document import Document
from nextbar.runs.fit import Coverage, Task
from nextbar.scoring.threshold import classify, to_signal
from nextbar.types import FeatureTable, FloatArray, IntArray
from nextbar.untrusted import refusing
from nextbar.words import listed, plural, said_once

if TYPE_CHECKING:
    from nextbar.runs.run import Run

SAME_MOVE = 5e-4
"""Difference up to which two returns of a day are the same: prices of vendors are rounded."""
FEW_DAYS = 0.1
"""Share of days with the same return below which bars are not of the same ticker; a day is so by chance, too."""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a run in memory holds beside its document.

    Attributes:
        files: Name of a fit → suffix → content of the files that make its model; none for a walk-forward.
        parts: Of a training run of several models, the run of each.
        model: What was fitted; None for signals of the user's own.
    """

    rows: pd.DataFrame
    model: Model | None
    features: FeatureSpec
    files: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)
    parts: Sequence[Run] = ()


def lacking(table: FeatureTable) -> str:
    """Say which columns have no value on the last bar although it is past the warm-up; empty where none lacks one."""
    names = [name for name, value in zip(table.columns, table.features[-1], strict=True) if np.isnan(value)]
    if not names or not table.usable[-1]:
        return ""
    return (
        f"{listed(names)} has no value on the last bar; a feature that looks ahead has none there: see nextbar certify"
    )


def check_features(name: str, recorded: FeatureSpec, asked: FeatureSpec) -> None:
    """Refuse to run code because a file names it: the user must name it, too. Built-in sets need not be named."""
    pairs = (("--features", recorded.name, asked.name), ("--panel-features", recorded.panel_name, asked.panel_name))
    for option, then, now in pairs:
        if then != now:
            kind = option.strip("-").replace("-", " ").removesuffix("s")
            advice = f"leave {option} out" if then is None else f"if you trust that code, add: {option} {then}"
            told = f"no {kind} function of its own" if then is None else f"the {kind} function {then}"
            raise FeatureError(f"{name} was trained with {told}, but {now or 'none'} was given; {advice}")
    if asked.sets and asked.sets != recorded.sets:
        sets = [" and ".join(spec.sets) or "no built-in set" for spec in (recorded, asked)]
        raise FeatureError(
            f"{name} was trained with {sets[0]}, but {sets[1]} was given; name no set to use those of the run"
        )


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A model of a run, ready for days that it has not seen.

    Attributes:
        name: How messages call its run.
        refit: Whether it is the refit of that fit.
    """

    name: str
    config: TrainConfig
    spec: FeatureSpec
    document: Document
    task: Task
    fitted: Fitted
    refit: bool = False

    def check(self, predicts: str) -> None:
        """Refuse a document that does not say all that a prediction needs, of a model that predicts this."""
        with refusing(self.name):
            _ = self.made, self.fit.digests["features"]
            for ticker in self.tickers:
                _ = self.test_days(ticker), self.majority(ticker), self.data[ticker]
        if any((self.threshold(ticker) is None) == (predicts == "probability") for ticker in self.tickers):
            raise ArtifactError(f"{self.name}: a threshold is missing or out of place; train again")

    @property
    def fit(self) -> Task:
        """What is recorded about the fit of this very model."""
        return (self.task.refitted or self.task) if self.refit else self.task

    @property
    def tickers(self) -> list[str]:
        """Its tickers."""
        return list(self.task.splits)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of its feature columns, in order."""
        return tuple(self.document.features.columns)

    @property
    def data(self) -> Mapping[str, Coverage]:
        """Ticker → bars that it has seen."""
        return self.task.refit.data if self.refit and self.task.refit else self.document.data

    @property
    def panel(self) -> Mapping[str, Coverage]:
        """Ticker → bars that columns over all tickers were made from."""
        panel = self.document.features.panel
        return {} if panel is None else self.data if self.refit else panel.data

    @property
    def made(self) -> dt.datetime:
        """When it was fitted."""
        created = self.task.refit.created if self.refit and self.task.refit else self.document.created
        return dt.datetime.fromisoformat(created).astimezone(dt.UTC)

    def threshold(self, ticker: str) -> float | None:
        """Return the probability from which the class is 1; None for a model that predicts a price."""
        choice = self.task.threshold.get(ticker)
        return None if choice is None else choice.threshold

    def test_days(self, ticker: str) -> tuple[np.datetime64, np.datetime64]:
        """Return the first and the last day of test: of a refit, which is scored on no day, those of its run."""
        test = self.task.splits[ticker].test
        return np.datetime64(test.first, "D"), np.datetime64(test.last, "D")

    def majority(self, ticker: str) -> int:
        """Return the class that was the more frequent in train."""
        return majority_class(self.fit.splits[ticker].train.up_share)

    def trained_to(self, ticker: str) -> str:
        """Return the last day of train: the last bar that the fit has seen of the ticker."""
        return self.fit.splits[ticker].train.last

    @property
    def quoted_volume(self) -> bool:
        """Whether it was trained on the volume as quoted, as version 0.1.0 did."""
        return self.document.rules == 1

    def bars_of(self, ticker: str, history: History) -> Bars:
        """Adjust and clean bars as at training."""
        first = None if self.config.start is None else np.datetime64(self.config.start, "D")
        frame = market_frame(
            history, first, None, adjust=not self.config.raw, quoted=True, quoted_volume=self.quoted_volume
        )
        return clean_bars(ticker, frame)

    def with_panel(self, bars: Mapping[str, Bars], asked: Collection[str]) -> tuple[Mapping[str, Bars], list[str]]:
        """Add the columns over all tickers, and say of which tickers they lack bars, or see revised ones."""
        if not self.spec.panel:
            return bars, []
        last = max((item.frame.index[-1] for name, item in bars.items() if name in asked), default=None)
        absent = [name for name in self.panel if name not in bars]
        late = [name for name, item in bars.items() if last not in item.frame.index]
        changed = [name for name in bars if name in self.panel and self._revised(name, bars[name])]
        parts = (("lack", absent), ("lack the last day of", late), ("are made from revised bars of", changed))
        said = "; ".join(f"{how} {listed(names)}" for how, names in parts if names)
        notes = [f"{self.name}: columns over all tickers {said}"] if said else []
        return add_panel(self.spec, bars), notes

    def table(self, ticker: str, bars: Bars) -> FeatureTable:
        """Compute the recorded features of one ticker; refuse other columns, or other values of a user's function."""
        table = build_table(ticker, bars.with_panel(bars.frame), self.spec, self.config.max_gap_days)
        if table.columns != self.columns:
            change = f"the columns {', '.join(self.columns)}; now they are {', '.join(table.columns)}"
        elif self.spec.functions and not self.spec.panel and self._values_changed(table, bars):
            change = f"other values of {self.spec.name} on the same bars"
        else:
            return table
        raise FeatureError(f"{self.name} was trained on {change}; bring the old features back or train again")

    def predict(self, ticker: str, table: FeatureTable, rows: IntArray | None = None) -> pd.DataFrame:
        """Predict from these rows, or from every bar that has its features, as `TickerModel.predict` does."""
        known = table.usable & np.isfinite(table.features).all(axis=1)
        rows = np.flatnonzero(known) if rows is None else rows[known[rows]]
        value = self.fitted.predict(table, rows)
        rows, value = rows[np.isfinite(value)], value[np.isfinite(value)]
        threshold, close, quote = self.threshold(ticker), table.close[rows], table.quote[rows]
        classes = (value > close).astype(np.int8) if threshold is None else classify(value, threshold)
        nothing: FloatArray = np.full(len(rows), np.nan)
        columns = {
            "close": close * quote,
            "probability": nothing if threshold is None else value,
            "predicted_close": value * quote if threshold is None else nothing,
            "threshold": np.full(len(rows), np.nan if threshold is None else threshold),
            "class": classes,
            "signal": to_signal(classes),
        }
        return pd.DataFrame(columns, index=pd.DatetimeIndex(table.dates[rows].astype("datetime64[s]"), name="Date"))

    def changes(self, table: FeatureTable, bars: Bars) -> list[str]:
        """Say whether bars, or built-in features, are not those of training."""
        then, last = self.data[table.ticker].last, str(bars.frame.index[-1].date())
        if last < then:
            made = f"{self.name} was made with bars up to {then} and may have seen more"
            return [f"{table.ticker}: bars end on {last}; {made}"]
        if self._revised(table.ticker, bars):
            told = f"{table.ticker}: bars up to {then} were revised since {self.name} saw them"
            return [f"{told}, or the history begins on another day than its own"]
        if not self.spec.panel and self._values_changed(table, bars):
            told = f"{table.ticker}: features have other values than when {self.name} was trained, on the same bars"
            return [f"{told}; nextbar reproduce tells which versions have changed: restore them, or train again"]
        return []

    def _values_changed(self, table: FeatureTable, bars: Bars) -> bool:
        """Whether the features have other values than at training on the same bars; known for a model of one ticker."""
        if len(self.tickers) > 1 or self._revised(table.ticker, bars):
            return False
        known = table.features[: self.data[table.ticker].bars]
        return bool(digest_arrays([known]) != self.fit.digests["features"])

    def _revised(self, ticker: str, bars: Bars) -> bool:
        """Whether the bars that the model was trained on are not the same any more."""
        data = {**self.panel, **self.data}[ticker]
        return digest_bars(bars.frame[: data.last]) != data.fingerprint


@dataclass(frozen=True, kw_only=True, repr=False)
class TickerModel:
    """A trained model of one ticker.

    Attributes:
        run: Its run, whose rows say how the ticker moved.
    """

    trained: TrainedModel
    ticker: str
    run: Run

    def __repr__(self) -> str:
        return f"<model of {self.ticker}, {self.trained.name}>"

    @property
    def fitted(self) -> Fitted:
        """The model itself, with the library's own object inside."""
        return self.trained.fitted

    def predict(self, bars: pd.DataFrame | Mapping[str, pd.DataFrame]) -> pd.DataFrame:
        """Predict from every bar that has its features; the last row is about the next bar.

        Args:
            bars: Market-format bars of the ticker as they are quoted, from well before the first day of interest. A
                model with columns over all tickers takes a mapping of ticker → bars, and warns of those it lacks.

        Returns:
            A row per bar, index ``Date``: close (quoted), probability, predicted_close (quoted), threshold, class (1
            for a rise) and signal (1 long, 0 flat); NaN where the model has none. Bars in the warm-up are left out.

        Raises:
            BadBarsError: The bars cannot be used.
            NotEnoughHistoryError: They are too few for a prediction.
            FeatureError: The features are not those of training.
        """
        given = bars if isinstance(bars, Mapping) else {self.ticker: bars}
        if self.ticker not in given:
            raise BadBarsError(f"the bars lack {self.ticker}, which is predicted; got {listed(list(given)) or 'none'}")
        if self.trained.spec.panel and not isinstance(bars, Mapping):
            raise FeatureError(
                f"{self.trained.name} was trained with columns over all tickers; give a mapping of ticker → bars of "
                f"{listed(list(self.trained.panel))}"
            )
        wanted = [name for name in given if name == self.ticker or name in self.trained.panel]
        histories = {name: history_of(market_format(name, given[name])) for name in wanted}
        ready = {name: self.trained.bars_of(name, history) for name, history in histories.items()}
        whole, notes = self.trained.with_panel(ready, [self.ticker])
        left = ((name, tell_last(histories[name], own)) for name, own in ready.items())
        notes = [*said_once(pair for pair in left if pair[1]), *notes]
        table = self.trained.table(self.ticker, whole[self.ticker])
        found = self.trained.predict(self.ticker, table)
        if found.empty:
            need = self.trained.config.warmup + 1
            raise NotEnoughHistoryError(
                f"{self.ticker}: nothing can be predicted, a prediction needs {need} bars without a hole, there are "
                f"{len(ready[self.ticker].frame)}; give bars from an earlier start"
            )
        if found.index[-1] != (last := pd.Timestamp(table.dates[-1])):
            why = lacking(table) or "it lies in the warm-up after a hole"
            notes = [*notes, f"the last row is of {found.index[-1].date()}, not of the last bar, {last.date()}: {why}"]
        changes = self.trained.changes(table, whole[self.ticker])
        for note in [*notes, *(changes and (self._other_ticker(table) or changes))]:
            warnings.warn(note, stacklevel=2)
        return found

    def _other_ticker(self, table: FeatureTable) -> list[str]:
        """Ask whose bars these are, where hardly a test day has the return that the run recorded."""
        try:
            rows = self.run.rows
        except ArtifactError:  # its rows are not there, and a prediction needs none
            return []
        known = rows[rows["ticker"] == self.ticker].set_index("date")["next_return"].dropna()
        moves = pd.Series(close_returns(table.close, table.dates, table.max_gap_days), table.dates).dropna()
        days = known.index.intersection(moves.index)
        same = np.count_nonzero(np.abs(known[days].to_numpy() - moves[days].to_numpy()) < SAME_MOVE)
        if same >= len(days) * FEW_DAYS:
            return []
        told = f"{self.ticker}: {same} of {plural(len(days), 'test day')} have the return that {self.trained.name} saw"
        return [f"{told}: are these bars of {self.ticker}?"]
