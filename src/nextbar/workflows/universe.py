"""The bars that a configuration asks for, read once and cleaned; what cannot be used is a recorded fact."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from nextbar.config import CommonConfig
from nextbar.datasets.prices import History, before, market_frame, without_adjustment
from nextbar.datasets.samples import Bars, clean_bars, tell_last, usable_rows
from nextbar.errors import BadBarsError, ConfigError, NothingToTrainError, remark
from nextbar.evaluation.rows import ended_tickers
from nextbar.features.spec import OWN_FUNCTION
from nextbar.market.bars import DataAccessLayer, stored_spans
from nextbar.market.checks import Finding, find_errors
from nextbar.models.reproducibility import digest_bars, digest_days
from nextbar.runs.fit import Coverage
from nextbar.types import BoolArray, DateArray
from nextbar.words import by_reason, listed, said_once, without_password

ONE_DAY = dt.timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Universe:
    """Bars by ticker.

    Attributes:
        bars: Ticker → usable bars, in the order asked for.
        skipped: Ticker → why it has none.
        everything: Whether all tickers of the database were asked for.
        histories: Ticker → its stored bars, without ``adj_close`` where raw prices were asked for.
        held_out: Whether there are bars that the configuration holds out; nothing else is known of them.
        warmup: Bars before the first sample of each stretch between two holes.
        max_gap_days: Most calendar days without a bar that are no hole.
    """

    bars: Mapping[str, Bars]
    skipped: dict[str, str]
    everything: bool
    histories: Mapping[str, History]
    held_out: bool = False
    warmup: int = CommonConfig.warmup
    max_gap_days: int = CommonConfig.max_gap_days

    @cached_property
    def errors(self) -> dict[str, list[Finding]]:
        """Ticker → what `nextbar check` calls an error in its bars, by date; only tickers that have one."""
        errors = find_errors({name: self.histories[name] for name in self.bars})
        return {name: [one for one in errors if one.ticker == name] for name in sorted({one.ticker for one in errors})}

    @cached_property
    def coverage(self) -> dict[str, Coverage]:
        """Ticker → what a document says about its bars."""
        return {name: cover(item) for name, item in self.bars.items()}

    def dates(self) -> dict[str, DateArray]:
        """Ticker → its days."""
        return {name: item.frame.index.to_numpy().astype("datetime64[D]") for name, item in self.bars.items()}

    @cached_property
    def usable(self) -> dict[str, BoolArray]:
        """Ticker → [bars] False in a warm-up."""
        rules = {"warmup": self.warmup, "max_gap_days": self.max_gap_days}
        return {name: usable_rows(days, **rules) for name, days in self.dates().items()}

    @cached_property
    def ended(self) -> dict[str, str]:
        """Ticker → last day, for those that end before the others."""
        return ended_tickers(self.dates(), self.max_gap_days)

    def adjustments(self) -> dict[str, int]:
        """How many tickers are adjusted in which way."""
        kinds = [item.adjustment for item in self.bars.values()]
        return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def cover(bars: Bars) -> Coverage:
    """Describe the bars of a ticker, as a document records them."""
    return Coverage(
        bars=len(bars.frame),
        first=str(bars.frame.index[0].date()),
        last=str(bars.frame.index[-1].date()),
        dropped=bars.dropped,
        adjustment=bars.adjustment,
        fingerprint=digest_bars(bars.frame),
        days=digest_days(bars.frame),
    )


def load_universe(
    config: CommonConfig,
    *,
    most: int | None = None,
    names: Sequence[str] | None = None,
    lenient: bool = False,
    quoted_volume: bool = False,
) -> Universe:
    """Read the bars of the tickers that a configuration asks for, in one read.

    Args:
        config: Says the database, the tickers and the dates.
        most: Use the first so many tickers.
        names: These tickers, whatever the configuration asks for: a symbol may be `ALL` or hold a comma.
        lenient: One that the database does not hold is left out with its reason, too.
        quoted_volume: Leave the volume as it was quoted, as version 0.1.0 did.
    """
    with DataAccessLayer(config.db) as market:
        everything = names is None and config.ticker.strip().upper() == "ALL"
        if names is None:
            names = market.get_tickers() if everything else symbols(config.ticker)
        wanted = _held(market, config.db, names) if lenient else names[:most]
        histories = market.get_histories(wanted)
    missing = {
        name: f"{name}: {without_password(config.db)} does not hold it (import its bars, or name another --db)"
        for name in names[:most]
    }
    return universe_of(histories, config, missing=missing, everything=everything, quoted_volume=quoted_volume)


def universe_of(
    histories: Mapping[str, History],
    config: CommonConfig,
    *,
    missing: Mapping[str, str] | None = None,
    everything: bool = False,
    quoted_volume: bool = False,
) -> Universe:
    """Adjust and clean bars; those of a holdout are cut off before anything else reads them.

    ``missing`` says of each ticker, in their order, what to tell where it has no history; without it all have one.
    """
    days = {name: np.datetime64(day, "D") for name, day in config.days("start", "end", "holdout_from").items()}
    held = days.pop("holdout_from", None)
    later = held is not None and any((item.days >= held).any() for item in histories.values())
    if held is not None:
        histories = {name: before(history, held) for name, history in histories.items()}
    if config.raw:
        histories = {name: without_adjustment(history) for name, history in histories.items()}
    bars: dict[str, Bars] = {}
    skipped: dict[str, str] = {}
    ends: dict[str, str] = {}
    for ticker in missing if missing is not None else histories:
        if ticker not in histories:
            skipped[ticker] = (missing or {})[ticker]
            continue
        history = histories[ticker]
        frame = market_frame(history, **days, adjust=not config.raw, quoted=True, quoted_volume=quoted_volume)
        if frame.empty:
            skipped[ticker] = f"{ticker}: no bars{_range(config)}"
            continue
        try:
            bars[ticker] = clean_bars(ticker, frame)
            ends[ticker] = tell_last(history, bars[ticker], days.get("end"))
        except BadBarsError as error:
            skipped[ticker] = str(error)
    for told in said_once((ticker, end) for ticker, end in ends.items() if end):
        remark(told)
    if not bars:
        told = nothing_left(skipped.items(), "no ticker can be used") if skipped else empty_database(config.db)
        raise NothingToTrainError(told)
    return Universe(
        bars=bars,
        skipped=skipped,
        everything=everything,
        histories=histories,
        held_out=later,
        warmup=config.warmup,
        max_gap_days=config.max_gap_days,
    )


def _held(market: DataAccessLayer, db: str, names: Sequence[str]) -> list[str]:
    """Those that the database lists or has bars of."""
    known = {*market.get_tickers(), *stored_spans(db)}
    return [name for name in names if name in known]


def check_tickers(db: str, names: Iterable[str]) -> None:
    """Refuse tickers that a database neither lists nor has bars of, as `load_universe` does."""
    with DataAccessLayer(db) as market:
        listed = market.get_tickers()
        if unlisted := {*names} - {*listed}:
            market.refuse_unknown(unlisted - stored_spans(db).keys(), listed)


def used_span(config: CommonConfig, spans: Mapping[str, tuple[dt.date, dt.date]]) -> tuple[dt.date, dt.date]:
    """Return the first and the last day that a configuration uses of bars between the days of ``spans``.

    Raises:
        NothingToTrainError: There is no such day.
        ConfigError: It holds out a day after the last bar.
    """
    days = config.days("start", "end", "holdout_from")
    held = days.get("holdout_from", dt.date.max)
    if spans and "holdout_from" in days:
        refuse_nothing_held(config, max(last for _, last in spans.values()))
    latest = min(days.get("end", dt.date.max), held - ONE_DAY)
    cut = {name: (max(first, days.get("start", first)), min(last, latest)) for name, (first, last) in spans.items()}
    used = [span for span in cut.values() if span[0] <= span[1]]
    if not used:
        skipped = [(name, f"{name}: no bars{_range(config)}") for name in cut]
        raise NothingToTrainError(nothing_left(skipped, "no ticker can be used"))
    return min(first for first, _ in used), max(last for _, last in used)


def refuse_nothing_held(config: CommonConfig, last: dt.date) -> None:
    """Refuse a holdout that begins after the last bar."""
    if config.holdout_from is not None and last < dt.date.fromisoformat(config.holdout_from):
        raise ConfigError(
            f"--holdout-from {config.holdout_from} holds nothing out: the last bar is of {last}; give an earlier day"
        )


NO_PREDICTION = "no test day has a prediction; check whether the model predicts only NaN"


def empty_database(db: str) -> str:
    """Message of an error about a database without a ticker."""
    name = without_password(db)
    return f"{name} holds no ticker; fill it with: nextbar ingest sample --db {name}"


def nothing_left(skipped: Iterable[tuple[str, str]], what: str = "nothing to train") -> str:
    """Message of an error that names the first few reasons, each once with its tickers; pairs (ticker, reason)."""
    pairs = list(skipped)
    reasons = said_once(pairs)
    more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
    if theirs := all(OWN_FUNCTION in reason for reason in reasons):  # not the bars: the user's code says what is wrong
        named = by_reason(pairs).items()
        reasons = [text + (f" ({listed(names, noun='tickers')})" if len(names) > 1 else "") for text, names in named]
    return f"{'' if theirs else f'{what}: '}{'; '.join(reasons[:3])}{more}"


def symbols(text: str) -> list[str]:
    """Return the tickers of an option, in its order, each once."""
    names = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not names:
        raise ConfigError("--ticker expects a symbol, several separated by commas, or ALL; got nothing")
    return names


def _range(config: CommonConfig) -> str:
    held = "" if config.holdout_from is None else f" before --holdout-from {config.holdout_from}"
    if config.start is None and config.end is None:
        return held
    return f" from {config.start or 'the first day'} to {config.end or 'the last day'}{held}"
