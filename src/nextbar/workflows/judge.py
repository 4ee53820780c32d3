"""Use case: score signals of the user's own like those of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from io import BytesIO
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa

from nextbar.config import TrainConfig
from nextbar.errors import BadBarsError, ConfigError, remark
from nextbar.evaluation.figures import finish_rows, summarise
from nextbar.evaluation.rows import by_day, close_returns, closing_rows, ended_tickers, open_returns, pause_returns
from nextbar.evaluation.series import Book, Terms
from nextbar.features.indicators import days_of, gaps
from nextbar.features.spec import FeatureSpec
from nextbar.market.sources.tables import read_arrow
from nextbar.market.sources.text import sniff
from nextbar.runs.document import Document
from nextbar.runs.files import refuse_special, removing_empty, writable_folder
from nextbar.runs.ledger import Ledger, counted_although_lost, record_trial
from nextbar.runs.openings import tell_read
from nextbar.runs.run import Run
from nextbar.runs.trained import Contents
from nextbar.types import JsonDict, Silent
from nextbar.words import brief, excerpt, impossible_day, listed, nearest, occur_twice, plural
from nextbar.workflows.documents import head
from nextbar.workflows.remarks import Facts, tell_errors
from nextbar.workflows.report import Report, examine
from nextbar.workflows.universe import Universe, load_universe

Signals = pd.Series | pd.DataFrame
LIMITS = {"signal": (-1, 1), "probability": (0, 1)}
"""Column of a file of signals → lowest and highest value."""
THRESHOLD = 0.5
"""Probability from which a position is long unless the user says otherwise."""
OFFSET = r"(:\d{2}(?:\.\d+)?)(?:Z|[+-]\d{2}:?\d{2})$"
"""The end of a time with an offset from UTC."""
INDEX_ADVICE = "pandas.to_datetime(days, format=…) reads days that are written otherwise"
DECIMAL_COMMA = r"^\s*([+-]?\d*),(\d+)\s*$"
UNCHECKED = (
    "whether the signals have seen the future cannot be checked; only a model that nextbar trains can be certified"
)


def long_signals(table: pd.DataFrame, path: str) -> tuple[pd.DataFrame, str, list[str]]:
    """Read the columns ``date``, ``ticker`` and either ``signal`` or ``probability`` of a table called ``path``.

    Returns:
        A frame of days with a column per ticker, what its values are, and what to say of rows and days.
    """
    kind = _kind(table, path)
    stamps = _parsed(table["date"])
    values = pd.to_numeric(table[kind], errors="coerce")
    low, high = LIMITS[kind]
    # Infinity and what is outside are refused alike; an empty cell is no value.
    outside = (table[kind].notna() & values.isna()) | (values < low) | (values > high)
    _refuse(path, table, "date", pd.Series(stamps.isna()), "a day as YYYY-MM-DD")
    _refuse(path, table, "ticker", table["ticker"].isna() | (table["ticker"].astype(str) == ""), "a ticker")
    _refuse(path, table, kind, outside, f"a number from {low} to {high}, or nothing")
    days, told = _days(stamps)
    if empty := int(values.isna().sum()):
        told.append(f"{plural(empty, 'row')} of {path} without a value; such days are not judged")
    long = pd.DataFrame({"date": days, "ticker": table["ticker"].astype(str), "value": values.to_numpy()})
    twice = long.duplicated(["date", "ticker"])
    if twice.any():
        first = long[twice].iloc[0]
        raise BadBarsError(
            f"{path}: {occur_twice(int(twice.sum()), 'day')}, the first is {first['date']:%Y-%m-%d} of "
            f"{first['ticker']}; expected one row per day and ticker"
        )
    by_ticker = {name: part.set_index("date")["value"] for name, part in long.groupby("ticker")}
    return pd.DataFrame(by_ticker), kind, told


def _parsed(written: pd.Series[Any]) -> pd.DatetimeIndex:
    """Read days in ISO 8601, with NaT for what is none."""
    if not pd.api.types.is_datetime64_any_dtype(written):  # the day as written counts; pandas refuses differing offsets
        written = written.astype("string").str.replace(OFFSET, r"\1", regex=True)
    return pd.DatetimeIndex(pd.to_datetime(written, format="ISO8601", errors="coerce"))


def _days(stamps: pd.DatetimeIndex) -> tuple[pd.DatetimeIndex, list[str]]:
    """Return the days as they are written, and a remark where a time of day is dropped."""
    written = stamps.tz_localize(None)
    days = written.normalize()
    timed = np.flatnonzero(written != days)
    if not len(timed):
        return days, []
    first = timed[0]
    told = f"{plural(len(timed), 'signal')} with a time of day, which is dropped: {stamps[first].isoformat()}"
    return days, [f"{told} counts for {days[first]:%Y-%m-%d}; give the days of the exchange if they differ"]


def _table(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """Read the columns of a file of signals, and say what was guessed; empty cells are missing values."""
    refuse_special(path, "name a file of signals")
    separator, guessed = "", list[str]()
    try:
        if path.suffix.lower() in {".parquet", ".pq"}:
            found = read_arrow(path.read_bytes())
            table = found.frame.set_axis([*found.names], axis=1)
        else:
            data, separator, guessed = sniff(path.read_bytes())
            # A ticker may be NA or NULL: only an empty cell is none. pandas would rename a column that occurs twice.
            exact: Any = {"header": None, "dtype": str, "keep_default_na": False, "na_values": [""]}
            cells = pd.read_csv(BytesIO(data), sep=separator, skipinitialspace=True, **exact)
            table = cells.iloc[1:].set_axis([str(name) for name in cells.iloc[0].fillna("")], axis=1)
    except OSError as error:
        raise BadBarsError(f"{path}: cannot be read ({error.strerror}); name a CSV or Parquet file") from error
    except (ValueError, pa.ArrowException) as error:
        raise BadBarsError(f"{path}: is not a readable CSV or Parquet file ({excerpt(error)})") from error
    table = table.rename(columns=lambda name: str(name).strip().lower())
    for name in LIMITS.keys() & {*table} if separator else ():  # a value of at most 1 has no mark between thousands
        point = table[name].astype(object).replace(DECIMAL_COMMA, r"\1.\2", regex=True)
        if not point.equals(table[name].astype(object)):
            table[name] = point
            guessed.append("decimal comma")
    return table, [f"{path}: {', '.join(guessed)}"] if guessed else []


def _kind(table: pd.DataFrame, path: str) -> str:
    """Return which of the two columns of values a table has."""
    kinds = [name for name in LIMITS if name in table]
    if len(kinds) > 1:
        raise BadBarsError(
            f"{path}: expected either signal or probability, got both, and nothing says which of them counts; leave "
            "one of the two columns out"
        )
    shown = listed([excerpt(name, 30) for name in table]) or "no column"
    missing = [name for name in ("date", "ticker") if name not in table] + ([] if kinds else ["signal or probability"])
    twice = [excerpt(name, 30) for name in table.columns[table.columns.duplicated()]]
    if fault := f"no column {' and no column '.join(missing)}" if missing else twice and f"the column {twice[0]} twice":
        raise BadBarsError(
            f"{path}: has {fault}; expected date, ticker and either signal or probability, each once; got {shown}"
        )
    if table.empty:
        raise BadBarsError(f"{path}: is empty; expected one row per day and ticker")
    return kinds[0]


def _refuse(path: str, table: pd.DataFrame, name: str, bad: pd.Series[bool], expected: str) -> None:
    """Refuse the rows with a bad value; the first is named."""
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        more = f", and {plural(int(bad.sum()) - 1, 'more row')}" if bad.sum() > 1 else ""
        value = excerpt(table[name].iloc[row], 40) or "(nothing)"
        why = impossible_day(value) if name == "date" else ""
        raise BadBarsError(f"{path}: row {row + 1} has the {name} {value}{why}{more}; expected {expected}")


def check_threshold(threshold: object) -> None:
    """Refuse what is no probability from which a position is long."""
    if not isinstance(threshold, Real) or not 0 < float(threshold) < 1:
        raise ConfigError(f"--threshold expects a number between 0 and 1, got {brief(threshold)}")


def long_from(kind: str, threshold: float) -> float | None:
    """Return the probability from which a position is long; None for signals, which are positions already."""
    if kind == "probability":
        return threshold
    if threshold != THRESHOLD:
        remark(f"the threshold {threshold} changes nothing: the signals are positions, not probabilities")
    return None


def judge_signals(
    signals: Signals,
    universe: Universe,
    config: TrainConfig,
    *,
    threshold: float | None = None,
    remarks: Sequence[str] = (),
) -> Run:
    """Score signals on bars, or probabilities: long from a threshold on, else flat.

    ``remarks`` are sentences for the document.
    """
    frame, dropped = _frame(signals, universe)
    dates, told = universe.dates(), [UNCHECKED, *remarks, *dropped]
    if threshold is not None:
        config = replace(config, threshold=str(threshold))
    ended = {name: day for name, day in ended_tickers(dates, config.max_gap_days).items() if name in frame}
    judged = {
        str(name): _judged(str(name), own, universe, config, threshold, ended=name in ended)
        for name, own in frame.items()
    }
    for name, one in judged.items():
        if one.lost:
            told.append(f"{name}: {one.lost} of its signals are on days without a bar; they are left out")
    spans = {name: one.rows["date"].to_numpy().astype("datetime64[D]")[[0, -1]] for name, one in judged.items()}
    among = sum(int(((dates[name] >= first) & (dates[name] <= last)).sum()) for name, (first, last) in spans.items())
    if skipped := among - sum(len(one.rows) for one in judged.values()):
        told.append(
            f"{skipped:,} of {among:,} bars from the first signal to the last have no signal: no position is held "
            "there, and selling and buying again costs (use 0 to be flat on a day that counts); yearly rates are per "
            "year of judged days, not per calendar year"
        )
    table = pd.concat([one.rows for one in judged.values()], ignore_index=True)
    holes = {name: one.holes for name, one in judged.items() if one.holes}
    pauses = {name: one.pauses for name, one in judged.items() if one.pauses}
    aux = table[["open_return", "close", "next_close", "scaled_error"]]
    rows = table.drop(columns=list(aux))
    book = Book.of(rows, Terms.of(config, [dates[name] for name in judged]), holes=holes, pauses=pauses)
    figures = summarise(rows, aux, book, ended=ended)
    figures.pop("price", None)
    facts = Facts.of([], rows, universe)
    told += tell_errors(facts.test_errors, "inside the test days", "no verdict is given on such days")
    about = {"holes": holes, "pauses": pauses, "ended": ended, **facts.to_json(told)}
    contents = Contents(rows=finish_rows(rows, book), model=None, features=FeatureSpec())
    return Run(document=_document(config, universe, book, figures | about), config=config, contents=contents)


def _document(config: TrainConfig, universe: Universe, book: Book, figures: JsonDict) -> Document:
    """Make the document of judged signals: it has no fits."""
    document = {
        **head(config, threads=1),
        "kind": "signals",
        "model": "signals",
        "tickers": list(book.tickers),
        "data": {ticker: universe.coverage[ticker] for ticker in book.tickers},
        "features": {"columns": [], "function": None, "warmup": config.warmup, "warmup_error": {}},
        "periods_per_year": book.terms.periods,
        "pooled": figures.pop("model"),
        **figures,
        "skipped": [],
        "seconds": {},
        "folds": [],
    }
    return msgspec.convert(document, Document)


def _frame(signals: Signals, universe: Universe) -> tuple[pd.DataFrame, list[str]]:
    """A column per ticker, checked, and a remark where times of day are dropped."""
    if isinstance(signals, pd.Series):
        if len(universe.bars) != 1:
            raise BadBarsError(f"signals of {len(universe.bars)} tickers are a DataFrame with a column per ticker")
        signals = signals.to_frame(next(iter(universe.bars)))
    if not isinstance(signals, pd.DataFrame):
        raise BadBarsError(
            f"expected signals as a Series, or a DataFrame with a column per ticker, got {brief(signals)}"
        )
    if signals.notna().sum().sum() == 0:
        raise BadBarsError("there is no signal; expected a value for at least one day")
    signals = signals.rename(columns=str)
    if unknown := sorted(set(signals.columns) - set(universe.bars)):
        near = nearest(unknown[0], universe.bars)
        raise BadBarsError(
            f"there are signals of {', '.join(unknown)}, but no bars{near}; add them or leave the columns out"
        )
    if twice := listed([*signals.columns[signals.columns.duplicated()].unique()]):
        raise BadBarsError(f"there are several columns of {twice}; expected one column per ticker")
    days, told = _days(_stamps(signals.index))
    for name, own in signals.items():
        numbers = pd.to_numeric(own, errors="coerce").to_numpy(np.float64, na_value=np.nan)
        bad = own.notna().to_numpy() & ~(np.abs(numbers) <= 1)
        if bad.any():
            row, more = int(bad.argmax()), f", and {plural(int(bad.sum()) - 1, 'more day')}" if bad.sum() > 1 else ""
            value = excerpt(own.iloc[row], 40)
            raise BadBarsError(
                f"{name}: the signal of {days[row]:%Y-%m-%d} is {value}{more}; expected a position from -1 (short) to "
                "1 (long), or nothing"
            )
    if days.has_duplicates:
        repeated = days[days.duplicated()]
        name, values = signals.columns[0], signals.iloc[days == repeated[0], 0]
        raise BadBarsError(
            f"{name}: {occur_twice(len(repeated), 'day')}, the first is {repeated[0]:%Y-%m-%d} with the signals "
            f"{listed([*map(str, values)])}; expected one signal per day and ticker"
        )
    return signals.set_axis(days).astype(np.float64).sort_index(), told


def _stamps(index: pd.Index) -> pd.DatetimeIndex:
    """Read the index of signals as days, which may be texts, as long as each is one."""
    if isinstance(index, pd.DatetimeIndex):
        stamps = index
    elif index.nlevels > 1 or pd.api.types.is_numeric_dtype(index.dtype):
        raise BadBarsError(
            f"expected signals with their days as the index, got {excerpt(index[0], 40)}, …; {INDEX_ADVICE}"
        )
    else:
        stamps = _parsed(pd.Series(index))
    if stamps.hasnans:
        row = int(stamps.isna().argmax())
        raise BadBarsError(
            f"row {row + 1} of the signals has the day {excerpt(index[row], 40)}{impossible_day(index[row])}; expected "
            f"YYYY-MM-DD; {INDEX_ADVICE}"
        )
    return stamps


class _Judged(NamedTuple):
    """Rows of one ticker with what stands beside them, returns over holes and in pauses, and signals left out."""

    rows: pd.DataFrame
    holes: Mapping[str, float]
    pauses: Mapping[str, float]
    lost: int


def _judged(
    ticker: str,
    signals: pd.Series[float],
    universe: Universe,
    config: TrainConfig,
    threshold: float | None,
    *,
    ended: bool,
) -> _Judged:
    """Make the rows of one ticker."""
    bars, gap = universe.bars[ticker].frame, config.max_gap_days
    close, opens, quoted = (bars[name].to_numpy(np.float64) for name in ("Close", "Open", "Quoted"))
    dates, given = days_of(bars), signals.reindex(bars.index).to_numpy(np.float64)
    known = np.append(np.isfinite(given[:-1]), False)  # nothing follows the last bar
    decided = np.flatnonzero(known)
    if not len(decided):
        raise BadBarsError(f"{ticker}: none of {int(signals.count())} signals is on a day with a bar and a next bar")
    closing = closing_rows(dates, decided, gap, ended=ended)
    closing = closing[known[closing - 1]]  # where signals pause, nothing is judged
    at, moves = np.union1d(decided, closing), close_returns(close, dates, gap)
    position = given if threshold is None else (given >= threshold).astype(np.float64)
    signal, returns = np.where(known, position, 0.0), np.where(known, moves, np.nan)
    columns = {
        "date": dates.astype("datetime64[ms]"),
        "ticker": ticker,
        "fold": 0,
        "probability": np.nan if threshold is None else np.where(known, given, np.nan),
        "predicted_close": np.nan,
        "threshold": np.nan if threshold is None else threshold,
        "class": (signal > 0).astype(np.int8),
        "signal": signal,
        "next_return": returns,
        "strategy_return": np.nan,
        "open_return": np.where(known, open_returns(opens, dates, gap), np.nan),
        "close": quoted,
        "next_close": quoted * (1.0 + returns),
        "scaled_error": np.nan,
    }
    ends = closing[gaps(dates, gap)[closing]]
    return _Judged(
        pd.DataFrame(columns).iloc[at],
        holes=by_day(dates[ends], close[ends] / close[ends - 1] - 1.0),
        pauses=pause_returns(dates, moves, at),
        lost=int(signals.count() - np.isfinite(given).sum()),
    )


def judge_counted(
    path: Path, config: TrainConfig, threshold: float, folder: Path | None
) -> tuple[Run, Report, list[str]]:
    """Score the signals of a file, enter them into the ledger, and give the verdict after all that was tried.

    ``threshold`` is the probability from which a position is long; ``folder`` is where the run is saved, if anywhere.

    Returns:
        The run, its verdict with the files written, and notes: what was guessed of the file, held-out bars that it has
        read.
    """
    ledger = Ledger(config.ledger)  # before the work, which a wrong path must not cost
    with nullcontext() if folder is None else removing_empty(folder):
        if folder is not None:
            writable_folder(folder)
        table, guessed = _table(path)
        signals, kind, remarks = long_signals(table, str(path))
        names = [str(name) for name in signals]
        config = replace(config, model="signals", ticker=",".join(names))
        universe = load_universe(config, names=names)
        run = judge_signals(signals, universe, config, threshold=long_from(kind, threshold), remarks=remarks)
        notes = guessed + tell_read(record_trial(ledger, run))  # before anybody can see its figures
        with counted_although_lost(ledger):
            files = [] if folder is None else run.save(folder)
    return run, Report(runs=examine([run], ledger, Silent()), files=files), notes
