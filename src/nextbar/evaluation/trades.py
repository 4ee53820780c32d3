"""List the trades of a book: from the close at which a position is entered to the one at which it is left."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pandas as pd

from nextbar.evaluation.series import Book
from nextbar.types import DateArray, JsonDict

TRADE_COLUMNS = ("ticker", "entry", "exit", "days", "position", "return", "cost")


def trades_of(book: Book) -> pd.DataFrame:
    """Return a row per trade, sorted by ticker, then entry.

    A trade is a position on one side: it ends where the position returns to flat or changes its side.

    Returns:
        ``ticker``, ``entry`` and ``exit`` (days at whose close; no exit where the trade is open at the end), ``days``
        (bars held), ``position`` at entry, ``return`` of the position before costs, compounded, a return over a hole
        included, and ``cost`` of all its changes of position, as a fraction.
    """
    found = [trade for ticker in book.tickers for trade in _of_ticker(book.only(ticker), ticker, book.dates)]
    return pd.DataFrame(found, columns=list(TRADE_COLUMNS))


def _of_ticker(book: Book, ticker: str, dates: DateArray) -> Iterator[JsonDict]:
    """Yield the trades of a book of one ticker; ``dates`` are the days of the portfolio."""
    position = book.carried(book.signal)[:, 0]
    earned, gap = book.returns[:, 0], np.append(book.scattered(book.gap)[:, 0], 0.0)
    side = np.sign(position)
    changes = [*np.flatnonzero((np.diff(side, prepend=0.0) != 0) | book.resumed).tolist(), len(side)]
    sold = np.where(book.resumed & ~np.isnat(book.paused), book.paused, book.dates)
    # Where its signals end and the portfolio goes on, the ticker is sold on the next day of the portfolio.
    sold = np.append(sold, dates[dates > book.dates[-1]][: int(book.left[-1])])
    for start, stop in pairwise(changes):
        held, closed = position[start:stop], stop < len(sold)
        if not side[start]:
            continue
        growth = float(np.prod(1 + held * earned[start:stop])) * (1 + held[-1] * gap[stop])
        moved = np.abs(np.diff(held, prepend=0.0)).sum() + (abs(held[-1]) if closed else 0.0)
        yield {
            "ticker": ticker,
            "entry": pd.Timestamp(book.dates[start]),
            "exit": pd.Timestamp(sold[stop]) if closed else pd.NaT,
            "days": stop - start,
            "position": float(held[0]),
            "return": growth - 1,
            "cost": float(book.terms.cost_bps / 1e4 * moved),
        }
