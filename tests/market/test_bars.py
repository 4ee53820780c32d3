from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from nextbar.config import TrainConfig
from nextbar.datasets.prices import History, market_frame
from nextbar.errors import BadBarsError, ConfigError
from nextbar.market.bars import DataAccessLayer, split_histories
from nextbar.workflows.universe import load_universe


def table(rows: list[tuple[str, str, float]]) -> pa.Table:
    ticker, date, close = zip(*rows, strict=True)
    return pa.table({"ticker": ticker, "date": date, **dict.fromkeys(("open", "high", "low", "close"), close)})


def write(path: Path, *rows: tuple[object, ...]) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE tickers (ticker)")
    connection.execute("CREATE TABLE stock_prices (ticker, date, open, high, low, close, volume)")
    connection.executemany("INSERT INTO stock_prices VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    connection.commit()
    connection.close()


def test_rows_in_any_order_become_sorted_histories() -> None:
    """A shuffled read gives the same histories as pandas' groupby and sort."""
    rng = np.random.default_rng(3)
    rows = [(name, f"20{year:02d}-05-06", float(rng.random())) for name in "DACB" for year in range(1, 20)]
    shuffled = [rows[i] for i in rng.permutation(len(rows))]
    histories = split_histories(table(shuffled))
    for name, group in pd.DataFrame(shuffled, columns=["ticker", "date", "close"]).groupby("ticker"):
        expected = group.sort_values("date")
        assert histories[str(name)].days.astype(str).tolist() == expected["date"].tolist()
        assert histories[str(name)].numbers[3].tolist() == expected["close"].tolist()


def test_days_before_1970_sort_before_those_after() -> None:
    """Negative day numbers do not disturb the order of tickers."""
    histories = split_histories(table([("B", "1970-01-02", 2.0), ("A", "1962-01-02", 3.0), ("B", "1969-12-31", 1.0)]))
    assert histories["B"].numbers[3].tolist() == [1.0, 2.0]
    assert histories["A"].numbers[3].tolist() == [3.0]


@pytest.mark.parametrize("date", ["2024-01-02 00:00:00", "2024-02-30", "20240102", None, 20240102])
def test_a_stored_date_of_another_form_names_ticker_and_value(tmp_path: Path, date: object) -> None:
    """A date that is not YYYY-MM-DD is an error that names the ticker and the value."""
    write(tmp_path / "x.db", ("OK", "2024-01-02", 1, 1, 1, 1, 1), ("BAD", date, 1, 1, 1, 1, 1))
    with DataAccessLayer(tmp_path / "x.db") as access, pytest.raises(BadBarsError, match=f"BAD: stored date .*{date}"):
        access.get_stock_prices(["OK", "BAD"])


def test_a_text_in_a_price_column_names_ticker_and_value(tmp_path: Path) -> None:
    """A text is not read as 0 or NaN."""
    write(tmp_path / "x.db", ("OK", "2024-01-02", 1, 1, 1, 1.5, 1), ("BAD", "2024-01-02", 1, 1, 1, "n/a", 1))
    with DataAccessLayer(tmp_path / "x.db") as access, pytest.raises(BadBarsError, match="BAD: stored close 'n/a'"):
        access.get_stock_prices(["OK", "BAD"])


def test_a_start_that_is_no_day_is_refused(tmp_path: Path) -> None:
    """The option and the value are named."""
    write(tmp_path / "x.db", ("A", "2024-01-02", 1, 1, 1, 1, 1))
    with (
        DataAccessLayer(tmp_path / "x.db") as access,
        pytest.raises(ConfigError, match="start_date expects a day as YYYY-MM-DD, got 'soon'"),
    ):
        access.get_stock_prices("A", "soon")


def test_reading_with_and_without_locks_gives_the_same_frame(tmp_path: Path) -> None:
    """Arrow's columns and the cursor's rows agree, NULLs and whole numbers included."""
    path = tmp_path / "x.db"
    write(path, ("A", "2024-01-03", 1, 2.5, None, 2, 7), ("A", "2024-01-02", 1.5, 2, 1, None, None))
    connection = sqlite3.connect(path)
    with DataAccessLayer(path) as access:
        at_rest = access.get_stock_prices("A")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("INSERT INTO tickers VALUES ('A')")
        connection.commit()
        assert path.with_name("x.db-wal").stat().st_size
        live = access.get_stock_prices("A")
    connection.close()
    pd.testing.assert_frame_equal(at_rest, live)
    assert at_rest["Low"].isna().tolist() == [False, True]


def split_history(*, adjusted: bool = True) -> History:
    """Six bars with a 7:1 split before the fourth and a dividend before the last."""
    close = np.array([700.0, 707.0, 693.0, 100.0, 101.0, 98.0])
    adj_close = np.array([90.0, 90.9, 89.1, 90.0, 90.9, 90.0]) if adjusted else np.full(6, np.nan)
    volume = np.array([10.0, 20.0, 30.0, 70.0, 0.0, np.nan])
    days = np.datetime64("2014-06-04", "D") + np.arange(6)
    return History(days=days, numbers=np.stack([close, close * 1.01, close * 0.99, close, volume, adj_close]))


def test_price_times_volume_stays_money() -> None:
    """Where prices are adjusted forward the volume takes the inverse factor: a 7:1 split multiplies neither."""
    history = split_history()
    frame = market_frame(history, None, None, adjust=True, quoted=False)
    close, volume = history.numbers[3], history.numbers[4]
    np.testing.assert_allclose(frame["Close"] * frame["Volume"], close * volume, rtol=1e-14)
    np.testing.assert_allclose(frame["Volume"].iloc[[0, 3]], [10.0, 10.0], rtol=1e-14)
    assert frame["Volume"].iloc[4] == 0.0
    assert np.isnan(frame["Volume"].iloc[5])


def test_volume_is_as_quoted_where_prices_are() -> None:
    """Raw prices, a history without adjusted closes, and ``quoted_volume`` leave every bit of the volume."""
    volume = split_history().numbers[4]
    raw = market_frame(split_history(), None, None, adjust=False, quoted=True)
    plain = market_frame(split_history(adjusted=False), None, None, adjust=True, quoted=True)
    kept = market_frame(split_history(), None, None, adjust=True, quoted=True, quoted_volume=True)
    for frame in (raw, plain, kept):
        assert frame["Volume"].to_numpy().tobytes() == volume.tobytes()
    others = market_frame(split_history(), None, None, adjust=True, quoted=True).drop(columns="Volume")
    pd.testing.assert_frame_equal(kept.drop(columns="Volume"), others, check_exact=True)


def test_later_split_changes_no_bit_of_the_volume() -> None:
    """Halving every adjusted close, as a vendor does after a later split, leaves the whole frame."""
    history = split_history()
    halved = History(days=history.days, numbers=history.numbers * np.array([[1.0]] * 5 + [[0.5]]))
    one, other = (market_frame(x, None, None, adjust=True, quoted=True) for x in (history, halved))
    assert one.to_numpy().tobytes() == other.to_numpy().tobytes()


def test_volume_on_every_road_to_the_bars(market_db: Path, market_bars: dict[str, pd.DataFrame]) -> None:
    """`get_stock_prices` and training give the adjusted volume, and the quoted one where it is asked for."""
    bars = market_bars["AAA"]
    money = (bars["Close"] * bars["Volume"]).to_numpy()
    config = TrainConfig(db=str(market_db), ticker="AAA")
    with DataAccessLayer(market_db) as access:
        frame = access.get_stock_prices("AAA")
    np.testing.assert_allclose(frame["Close"] * frame["Volume"], money, rtol=1e-12)
    for quoted, expected in ((False, frame), (True, bars)):
        trained = load_universe(config, quoted_volume=quoted).bars["AAA"].frame
        assert trained["Volume"].tolist() == expected["Volume"].tolist()
    assert np.ptp(bars["Adj"] / bars["Close"]) > 0
