"""Use case: what became of the predictions in the journal, in the figures of a walk-forward. Nothing here can leak."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from nextbar.artifacts.journal import Entry, read
from nextbar.config import CommonConfig
from nextbar.datasets.assemble import Bars
from nextbar.errors import NothingToTrainError
from nextbar.evaluation.series import Book, Terms
from nextbar.evaluation.summary import summarise
from nextbar.evaluation.walkforward import close_returns, open_returns
from nextbar.pipelines.universe import load_universe
from nextbar.types import DateArray, JsonDict


@dataclass(frozen=True, kw_only=True)
class ScoreRequest:
    """What is asked for.

    Attributes:
        journal: File that the predictions are in.
        config: Database, costs, risk-free rate and the longest gap between two bars.
        opens: Time of day, UTC, at which the market of the next bar opens; what was predicted later does not count.
        model: Count only artifacts whose name holds this.
    """

    journal: Path
    config: CommonConfig
    opens: dt.time = dt.time(13, 30)
    model: str = ""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One kind of model.

    Attributes:
        model: The kind.
        tickers: Those that were predicted.
        document: Figures under the names of a walk-forward's JSON.
    """

    model: str
    tickers: list[str]
    document: JsonDict


@dataclass(kw_only=True)
class ScoreSummary:
    """What the predictions were worth, and those that do not count.

    Attributes:
        scored: By kind of model.
        repeated: An earlier prediction of the same kind, ticker and day counts.
        pending: The next bar is not there yet.
        late: Made when the next bar's market was open already.
        lost: The bar it was made from is gone or not in this database, or a hole follows it.
    """

    scored: dict[str, Scored] = field(default_factory=dict)
    repeated: int = 0
    pending: int = 0
    late: int = 0
    lost: int = 0


def score(request: ScoreRequest) -> ScoreSummary:
    """Compare every first prediction with the bar that followed.

    Raises:
        OutputError: There is no journal, or the file is something else.
        NothingToTrainError: No prediction can be scored, and none waits for its day.
        NextbarError: The database is not usable.
    """
    entries = [entry for entry in read(request.journal) if request.model in entry.model]
    first = {(entry.kind, entry.ticker, entry.date): entry for entry in reversed(entries)}
    summary = ScoreSummary(repeated=len(entries) - len(first))
    parts = [_settle(first.values(), request, summary, raw=raw) for raw in (False, True)]
    settled = [row for rows, _ in parts for row in rows]
    if not settled and not summary.pending:
        advice = (
            "ingest newer bars"
            if not summary.late
            else f"one made after the next bar's market opened (--opens {request.opens:%H:%M} UTC) never counts"
        )
        raise NothingToTrainError(
            f"none of {len(entries)} predictions in {request.journal} can be scored: {summary.late} were made late, "
            f"{summary.repeated} repeat others, {summary.lost} lost their bar; {advice}"
        )
    if not settled:
        return summary
    terms = Terms.of(request.config, [days for _, dates in parts for days in dates])
    table = pd.DataFrame(settled).sort_values(["kind", "ticker", "date"], ignore_index=True)
    for kind, rows in table.groupby("kind"):
        figures = _figures(rows.reset_index(drop=True), terms)
        summary.scored[str(kind)] = Scored(model=str(kind), tickers=sorted(rows["ticker"].unique()), document=figures)
    return summary


def _settle(
    entries: Iterable[Entry], request: ScoreRequest, summary: ScoreSummary, *, raw: bool
) -> tuple[list[JsonDict], list[DateArray]]:
    """Rows of the predictions made on such prices, and the days of their tickers; each other one is counted."""
    mine = [entry for entry in entries if entry.raw == raw]
    if not mine:
        return [], []
    tickers = sorted({entry.ticker for entry in mine})
    try:
        universe = load_universe(replace(request.config, raw=raw), names=tickers, lenient=True)
    except NothingToTrainError:
        summary.lost += len(mine)
        return [], []
    settlers = {ticker: _Settler(bars, request) for ticker, bars in universe.bars.items()}
    summary.lost += sum(entry.ticker not in settlers for entry in mine)
    found = [settlers[entry.ticker].settle(entry, summary) for entry in mine if entry.ticker in settlers]
    return [row for row in found if row is not None], list(universe.dates().values())


class _Settler:
    """What happened to one ticker, day by day."""

    def __init__(self, bars: Bars, request: ScoreRequest) -> None:
        self._opens = request.opens
        self._dates = bars.frame.index.to_numpy().astype("datetime64[D]")
        close, gap = bars.frame["Close"].to_numpy(np.float64), request.config.max_gap_days
        self._returns = close_returns(close, self._dates, gap)
        self._quoted = (bars.frame["Quoted"] if "Quoted" in bars.frame else bars.frame["Close"]).to_numpy(np.float64)
        self._open_returns = open_returns(bars.frame["Open"].to_numpy(np.float64), self._dates, gap)

    def settle(self, entry: Entry, summary: ScoreSummary) -> JsonDict | None:
        """The out-of-sample row of a prediction and what stands beside it; None, and counted, if there is none."""
        at = int(np.searchsorted(self._dates, np.datetime64(entry.date, "D")))
        if at == len(self._dates) or str(self._dates[at]) != entry.date:
            summary.lost += 1
        elif at + 1 == len(self._dates):
            summary.pending += 1
        elif np.isnan(self._returns[at]):
            summary.lost += 1
        elif dt.datetime.fromisoformat(entry.made) >= self._opening(at + 1):
            summary.late += 1
        else:
            return self._row(entry, at)
        return None

    def _opening(self, at: int) -> dt.datetime:
        return dt.datetime.combine(self._dates[at].astype(object), self._opens, tzinfo=dt.UTC)

    def _row(self, entry: Entry, at: int) -> JsonDict:
        earned = self._returns[at]
        return {
            "kind": entry.kind,
            "date": self._dates[at].astype("datetime64[ms]"),
            "ticker": entry.ticker,
            "fold": 0,
            "probability": entry.probability,
            "predicted_close": entry.predicted_close,
            "threshold": entry.threshold,
            "class": entry.predicted_class,
            "signal": entry.signal,
            "next_return": earned,
            "majority": entry.majority,
            "open_return": self._open_returns[at],
            "close": self._quoted[at],
            "next_close": self._quoted[at] * (1.0 + earned),
            "scaled_error": np.nan,
        }


def _figures(table: pd.DataFrame, terms: Terms) -> JsonDict:
    """Figures of one kind under the names of a walk-forward's JSON."""
    numbers = ["probability", "predicted_close", "threshold"]
    rows = table.astype(dict.fromkeys(numbers, "float64"))
    figures = summarise(rows, rows, Book.of(rows, terms))
    if "price" in figures:
        del figures["price"]["scaled_mse"]  # the network's own scale is not in the journal
    return {"periods_per_year": terms.periods, "pooled": figures.pop("model"), **figures}
