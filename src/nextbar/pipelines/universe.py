"""The bars that a configuration asks for, read once and cleaned; what cannot be used is a recorded fact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nextbar.config import CommonConfig
from nextbar.datasets.assemble import Bars, clean_bars
from nextbar.errors import BadBarsError, ConfigError, NothingToTrainError
from nextbar.market.access import DataAccessLayer
from nextbar.types import DateArray


@dataclass(frozen=True, kw_only=True)
class Universe:
    """Bars by ticker.

    Attributes:
        bars: Ticker → usable bars, in the order asked for.
        skipped: Ticker → why it has none.
        everything: Whether all tickers of the database were asked for.
    """

    bars: Mapping[str, Bars]
    skipped: dict[str, str]
    everything: bool

    def dates(self) -> dict[str, DateArray]:
        """Ticker → its days."""
        return {name: item.frame.index.to_numpy().astype("datetime64[D]") for name, item in self.bars.items()}

    def adjustments(self) -> dict[str, int]:
        """How many tickers are adjusted in which way."""
        kinds = [item.adjustment for item in self.bars.values()]
        return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def load_universe(config: CommonConfig, *, most: int | None = None) -> Universe:
    """Read the bars of the tickers asked for, in one read.

    Args:
        config: Says the database, the tickers and the dates.
        most: Use the first so many tickers.

    Raises:
        DatabaseError: The database cannot be read.
        UnknownTickerError: A ticker was named that the database does not hold.
        NothingToTrainError: There is no ticker, or none has bars.
    """
    with DataAccessLayer(config.db, adjust=not config.raw) as market:
        everything = config.ticker.strip().upper() == "ALL"
        names = market.get_tickers() if everything else symbols(config.ticker)
        frames = market.get_stock_prices(names[:most], config.start, config.end, quoted=True)
    bars: dict[str, Bars] = {}
    skipped: dict[str, str] = {}
    for ticker in names[:most]:
        if frames[ticker].empty:
            skipped[ticker] = f"{ticker}: no bars{_range(config)}"
            continue
        try:
            bars[ticker] = clean_bars(ticker, frames[ticker])
        except BadBarsError as error:
            skipped[ticker] = str(error)
    if not bars:
        raise NothingToTrainError(nothing_left(skipped, config.db))
    return Universe(bars=bars, skipped=skipped, everything=everything)


def nothing_left(skipped: Mapping[str, str], db: str) -> str:
    """Message of an error that names the first few reasons."""
    reasons = list(skipped.values())
    if not reasons:
        return f"{db} holds no ticker; fill it with: nextbar ingest sample --db {db}"
    more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
    return f"nothing to train: {'; '.join(reasons[:3])}{more}"


def symbols(text: str) -> list[str]:
    """Tickers of an option, in its order, each once.

    Raises:
        ConfigError: There is none.
    """
    names = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not names:
        raise ConfigError("--ticker expects a symbol, several separated by commas, or ALL; got nothing")
    return names


def _range(config: CommonConfig) -> str:
    if config.start is None and config.end is None:
        return ""
    return f" from {config.start or 'the first day'} to {config.end or 'the last day'}"
