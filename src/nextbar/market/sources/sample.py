"""Real daily bars with adjusted closes from an installed Python package: five stocks, 2000 to 2013."""

from __future__ import annotations

from typing import Final

import pandas as pd

from nextbar.errors import checked, missing_extra
from nextbar.market.sources.frames import frames_of
from nextbar.market.sources.reader import SourceBars, source_bars

try:
    from bokeh_sampledata import stocks
except ImportError:  # the extra [demo]
    stocks = None

TICKERS: Final = ("AAPL", "FB", "GOOG", "IBM", "MSFT")


def read_sample() -> SourceBars:
    """Return the package's bars, unchanged; no network is used."""
    if stocks is None:
        raise missing_extra("the sample bars come with an extra", "demo")
    frames = [pd.DataFrame(getattr(stocks, ticker)).assign(ticker=ticker) for ticker in TICKERS]
    return source_bars(pd.concat(frames), "bokeh_sampledata")


@checked
def sample_bars() -> dict[str, pd.DataFrame]:
    """Give real daily bars of five stocks, AAPL, FB, GOOG, IBM and MSFT, from 2000 to March 2013.

    They are as `nextbar.bars` gives them. No network is used; they come with the extra ``demo``.
    """
    return frames_of(read_sample().bars)
