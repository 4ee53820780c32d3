"""Use case: score signals of the user's own like those of a model."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
import pandas as pd

from nextbar.config import TrainConfig
from nextbar.errors import BadBarsError
from nextbar.evaluation.figures import finish_rows, summarise
from nextbar.evaluation.series import Book, Terms
from nextbar.evaluation.walkforward import close_returns, closing_rows, ended_tickers, open_returns
from nextbar.features.indicators import days_of, gaps
from nextbar.features.spec import FeatureSpec
from nextbar.runs.document import Document
from nextbar.runs.run import Contents, Run
from nextbar.scoring.backtest import finite
from nextbar.types import JsonDict
from nextbar.workflows.documents import head
from nextbar.workflows.remarks import Facts, tell_errors
from nextbar.workflows.universe import Universe

Signals = pd.Series | pd.DataFrame


def judge_signals(signals: Signals, universe: Universe, config: TrainConfig) -> Run:
    """Score signals on bars.

    Args:
        signals: Position held from the close of a day, from -1 to 1: a Series by day for a single ticker, else a frame
            with a column per ticker. Days without a value are not judged.
        universe: The bars.
        config: Costs and the like.

    Raises:
        BadBarsError: There are no signals on days with bars, or one is outside -1 to 1.
    """
    frame, dates = _frame(signals, universe), universe.dates()
    last = {name: days[-1] for name, days in dates.items()}
    ended = {name: day for name, day in ended_tickers(last, config.max_gap_days).items() if name in frame}
    parts, holes, remarks = [], dict[str, dict[str, float]](), list[str]()
    for ticker in map(str, frame):
        rows, own, lost = _rows(ticker, frame[ticker], universe, config, ended=ticker in ended)
        parts.append(rows)
        if own:
            holes[ticker] = own
        if lost:
            remarks.append(f"{ticker}: {lost} of its signals are on days without a bar; they are left out")
    table = pd.concat(parts, ignore_index=True)
    terms = Terms.of(config, [dates[name] for name in map(str, frame)])
    aux = table[["open_return", "close", "next_close", "scaled_error"]]
    rows = table.drop(columns=list(aux))
    book = Book.of(rows, terms, holes=holes)
    figures = summarise(rows.assign(probability=np.nan), aux, book, ended=ended)
    figures.pop("price", None)
    facts = Facts.of([], rows, universe)
    remarks += tell_errors(facts.test_errors, "inside the test days", "no verdict stands on such days")
    document = _document(config, universe, book, figures | facts.to_json(remarks), holes=holes, ended=ended)
    contents = Contents(rows=finish_rows(rows, book), model=None, features=FeatureSpec())
    return Run(document=document, config=config, contents=contents)


def _frame(signals: Signals, universe: Universe) -> pd.DataFrame:
    """A column per ticker, checked."""
    if isinstance(signals, pd.Series):
        if len(universe.bars) != 1:
            raise BadBarsError(f"signals of {len(universe.bars)} tickers are a DataFrame with a column per ticker")
        signals = signals.to_frame(next(iter(universe.bars)))
    if not isinstance(signals, pd.DataFrame) or not isinstance(signals.index, pd.DatetimeIndex) or signals.empty:
        raise BadBarsError("expected signals with a DatetimeIndex: a Series, or a DataFrame with a column per ticker")
    signals = signals.rename(columns=str)
    if unknown := sorted(set(signals.columns) - set(universe.bars)):
        raise BadBarsError(f"there are signals of {', '.join(unknown)}, but no bars; add them or leave the columns out")
    try:
        frame = signals.set_axis(pd.DatetimeIndex(signals.index).tz_localize(None).normalize()).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise BadBarsError(f"a signal is not a number ({error})") from error
    twice = frame.index.has_duplicates or frame.columns.has_duplicates
    if twice or frame.index.hasnans or (frame.abs() > 1).any(axis=None):
        raise BadBarsError("expected one signal per day and ticker, each a position from -1 (short) to 1 (long)")
    return frame.sort_index()


def _rows(
    ticker: str, signals: pd.Series[float], universe: Universe, config: TrainConfig, *, ended: bool
) -> tuple[pd.DataFrame, dict[str, float], int]:
    """Out-of-sample rows of one ticker with what stands beside them, its returns over holes, signals left out."""
    bars, gap = universe.bars[ticker].frame, config.max_gap_days
    dates, close = days_of(bars), bars["Close"].to_numpy(np.float64)
    position = signals.reindex(bars.index).to_numpy(np.float64)
    decided = np.flatnonzero(np.isfinite(position[:-1]))
    if not len(decided):
        raise BadBarsError(f"{ticker}: none of {int(signals.count())} signals is on a day with a bar and a next bar")
    closing = closing_rows(dates, decided, gap, ended=ended)
    closing = closing[np.isin(closing - 1, decided)]  # where signals pause, nothing is judged
    at = np.union1d(decided, closing)
    known = np.isin(at, decided)
    returns = np.where(known, close_returns(close, dates, gap)[at], np.nan)
    opened = np.where(known, open_returns(bars["Open"].to_numpy(np.float64), dates, gap)[at], np.nan)
    signal = np.where(known, position[at], 0.0)
    quoted = bars["Quoted"].to_numpy(np.float64)[at]
    rows = pd.DataFrame(
        {
            "date": dates[at].astype("datetime64[ms]"),
            "ticker": ticker,
            "fold": 0,
            "probability": np.nan,
            "predicted_close": np.nan,
            "threshold": np.nan,
            "class": (signal > 0).astype(np.int8),
            "signal": signal,
            "next_return": returns,
            "strategy_return": np.nan,
            "open_return": opened,
            "close": quoted,
            "next_close": quoted * (1.0 + returns),
            "scaled_error": np.nan,
        }
    )
    ends = closing[gaps(dates, gap)[closing]]
    over = finite(dict(zip(map(str, dates[ends]), (close[ends] / close[ends - 1] - 1.0).tolist(), strict=True)))
    return rows, over, int(signals.count() - np.isfinite(position).sum())


def _document(
    config: TrainConfig,
    universe: Universe,
    book: Book,
    figures: JsonDict,
    *,
    holes: Mapping[str, Mapping[str, float]],
    ended: Mapping[str, str],
) -> Document:
    """The document of judged signals: it has no fits."""
    document = {
        **head(config, threads=1),
        "kind": "signals",
        "model": "signals",
        "tickers": list(book.tickers),
        "data": {ticker: universe.coverage[ticker] for ticker in book.tickers},
        "features": {"columns": [], "function": None, "warmup": config.warmup, "warmup_error": {}},
        "periods_per_year": book.terms.periods,
        "holes": holes,
        "ended": ended,
        "pooled": figures.pop("model"),
        **figures,
        "skipped": [],
        "seconds": {},
        "folds": [],
    }
    return msgspec.convert(document, Document)
