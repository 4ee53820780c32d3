"""Real daily bars with adjusted closes that come inside a Python package: five stocks, 2000 to 2013."""

from __future__ import annotations

from typing import Final

import pandas as pd

from nextbar.errors import MissingExtraError
from nextbar.market.sources.columns import SourceBars, source_bars

try:
    from bokeh_sampledata import stocks
except ImportError:  # the extra [demo]
    stocks = None

TICKERS: Final = ("AAPL", "FB", "GOOG", "IBM", "MSFT")


def read_sample() -> SourceBars:
    """The package's bars, untouched; no network is used.

    Raises:
        MissingExtraError: The package is not installed.
    """
    if stocks is None:
        raise MissingExtraError("the sample bars come with an extra: pip install 'nextbar[demo]'")
    frames = [pd.DataFrame(getattr(stocks, ticker)).assign(ticker=ticker) for ticker in TICKERS]
    return source_bars(pd.concat(frames), "bokeh_sampledata")
