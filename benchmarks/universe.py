"""From SQLite to feature matrices: one read and TA-Lib, against a query per ticker and pandas rolling and ewm."""

import sqlite3
from argparse import Namespace
from collections.abc import Callable

import numpy as np
import pandas as pd

import sides

FEATURES = ["Close", "SMA_20", "SMA_50", "RSI", "MACD", "Signal_Line"]


def nextbar(options: Namespace) -> sides.Measured:
    """The product's way."""
    from nextbar.features.spec import FeatureSpec
    from nextbar.market.bars import DataAccessLayer

    def work() -> None:
        with DataAccessLayer(options.case) as market:
            frames = market.get_stock_prices(market.get_tickers())
        spec = FeatureSpec()
        matrices.extend(spec.frame(frame).to_numpy() for frame in frames.values())

    matrices: list[np.ndarray] = []
    return _second(work, matrices)


def pandas_each(options: Namespace) -> sides.Measured:
    """What a user writes."""

    def work() -> None:
        with sqlite3.connect(options.case) as connection:
            names = pd.read_sql_query("SELECT ticker FROM tickers ORDER BY ticker", connection)["ticker"]
            for name in names:
                query = "SELECT date, open, high, low, close, volume FROM stock_prices WHERE ticker = ? ORDER BY date"
                frame = pd.read_sql_query(query, connection, params=(name,), index_col="date", parse_dates=["date"])
                matrices.append(_indicators(frame["close"]))

    matrices: list[np.ndarray] = []
    return _second(work, matrices)


def _second(work: Callable[[], None], matrices: list[np.ndarray]) -> sides.Measured:
    """The second time, when all libraries are imported and the file is in memory."""
    work()
    matrices.clear()
    return sides.timed(work) | {"check": _check(matrices)}


def _indicators(close: pd.Series) -> np.ndarray:
    change = close.diff()
    gain, loss = (part.clip(lower=0).ewm(alpha=1 / 14, adjust=False).mean() for part in (change, -change))
    fast, slow = (close.ewm(span=span, adjust=False).mean() for span in (12, 26))
    columns = {
        "Close": close,
        "SMA_20": close.rolling(20).mean(),
        "SMA_50": close.rolling(50).mean(),
        "RSI": 100 - 100 / (1 + gain / loss),
        "MACD": fast - slow,
        "Signal_Line": (fast - slow).ewm(span=9, adjust=False).mean(),
    }
    return pd.DataFrame(columns)[FEATURES].to_numpy()


def _check(matrices: list[np.ndarray]) -> float:
    """Mean of all settled values: the two sides seed their averages differently, which 300 bars forget."""
    return float(np.nanmean(np.concatenate([matrix[300:] for matrix in matrices])))


def race(options: Namespace) -> None:
    tickers = options.tickers or (100 if options.quick else 505)
    clustered = sides.database(options.folder, tickers)
    for kind, path in (("clustered on ticker and date", clustered), ("rowid table", sides.foreign(clustered))):
        taken = sides.turns(list(SIDES), options, case=path)
        means = {round(one["check"], 3) for rounds in taken.values() for one in rounds}
        if len(means) > 1:
            raise SystemExit(f"the sides disagree: {means}")
        print(f"read and indicators, {tickers} tickers, {kind}")
        sides.tell(taken)


SIDES = {"nextbar": nextbar, "pandas per ticker": pandas_each}

if __name__ == "__main__":
    sides.main(__doc__, SIDES, race)
