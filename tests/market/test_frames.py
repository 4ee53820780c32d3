from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from nextbar.errors import BadBarsError, ConfigError
from nextbar.market.access import DataAccessLayer
from nextbar.market.frames import split_histories


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
    with DataAccessLayer(tmp_path / "x.db") as access, pytest.raises(ConfigError, match="start_date: 'soon'"):
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
