"""Requests to Yahoo through yfinance, part of the extra [yahoo]; imported only when they are sent."""

from __future__ import annotations

import datetime as dt
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from logging.handlers import BufferingHandler

import pandas as pd

from nextbar.errors import missing_extra
from nextbar.market.sources.yahoo import Answer

try:
    import yfinance
except ImportError as error:
    raise missing_extra("bars from Yahoo come with an extra", "yahoo") from error


def download(tickers: Sequence[str], start: dt.date, end: dt.date) -> Answer:
    """Download daily bars with quoted and adjusted closes and split events; ``end`` is excluded."""
    with warnings.catch_warnings(), _captured(logging.getLogger("yfinance")) as lines:
        warnings.simplefilter("ignore")  # our users cannot correct how yfinance calls pandas
        frame = yfinance.download(
            list(tickers),
            start=start.isoformat(),
            end=end.isoformat(),
            auto_adjust=False,
            actions=True,
            ignore_tz=True,
            progress=False,
        )
    # yfinance logs the reasons and does not return them: "['AAPL', 'MSFT']: reason".
    told = [line.getMessage().partition("]: ") for line in lines]
    reasons = {name: reason for names, _, reason in told if reason for name in tickers if repr(name) in names}
    return Answer(frame=pd.DataFrame() if frame is None else frame, reasons=reasons)


@contextmanager
def _captured(logger: logging.Logger) -> Iterator[list[logging.LogRecord]]:
    """Collect the lines of a logger instead of showing them."""
    handler = BufferingHandler(sys.maxsize)
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield handler.buffer
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
