"""Rows of a run that may come from anyone: what would hurt is refused before it is unpacked, or before it is used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nextbar.runs.files import parquet_bytes
from nextbar.runs.rows import COLUMNS, read_rows


def rows(count: int = 50) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "date": pd.bdate_range("2020-01-01", periods=count, unit="ms"),
            "ticker": "AAA",
            "fold": 0,
            "probability": rng.random(count),
            "predicted_close": np.nan,
            "threshold": 0.5,
            "class": np.ones(count, np.int8),
            "signal": np.ones(count, np.int8),
            "next_return": rng.normal(0, 0.01, count),
            "strategy_return": 0.0,
        }
    )


@pytest.fixture
def stored(tmp_path: Path) -> Callable[[pd.DataFrame | pa.Table], Path]:
    """Function that writes rows into a file."""

    def write(table: pd.DataFrame | pa.Table, **options: Any) -> Path:
        path = tmp_path / "rows.parquet"
        if isinstance(table, pa.Table):
            pq.write_table(table, path, **options)
        else:
            path.write_bytes(parquet_bytes(table))
        return path

    return write


def test_rows_come_back_as_pandas_reads_them(stored) -> None:
    """Values and types are those that were written, nulls included."""
    path = stored(rows())
    pd.testing.assert_frame_equal(read_rows(path, ["AAA"]), pd.read_parquet(path))


def spoiled(column: str, value: Any) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def spoil(frame: pd.DataFrame) -> pd.DataFrame:
        changed = frame.astype({column: "float64"}) if isinstance(value, float) and column != "date" else frame.copy()
        changed.loc[3, column] = value
        return changed

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(spoiled("signal", np.nan), "the column signal lacks 1 value", id="signal nan"),
        pytest.param(spoiled("signal", 2.0), "2 in the column signal is outside -1 to 1", id="signal 2"),
        pytest.param(spoiled("probability", 1e300), "probability is outside 0 to 1", id="probability 1e300"),
        pytest.param(spoiled("next_return", np.inf), "inf in the column next_return", id="return inf"),
        pytest.param(spoiled("threshold", -1.0), "threshold is outside", id="threshold"),
        pytest.param(spoiled("date", pd.NaT), "the column date lacks 1 value", id="no day"),
        pytest.param(spoiled("date", pd.Timestamp("1677-09-22")), "expected days from 1800", id="early day"),
        pytest.param(spoiled("date", pd.Timestamp("2262-04-11")), "expected days from 1800", id="late day"),
        pytest.param(spoiled("ticker", None), "ticker", id="no ticker"),
        pytest.param(spoiled("ticker", "BBB"), "rows of 'BBB', which the document does not name", id="other ticker"),
        pytest.param(spoiled("ticker", "B" * 10**6), "which the document does not name", id="long ticker"),
        pytest.param(lambda frame: frame.assign(fold=-1), "fold is outside", id="fold"),
        pytest.param(lambda frame: frame.assign(**{"class": 7}), "class is outside", id="class"),
        pytest.param(lambda frame: frame.iloc[:0], "it has no row", id="empty"),
        pytest.param(lambda frame: frame.drop(columns="signal"), "expected the columns", id="missing column"),
        pytest.param(lambda frame: frame.assign(more=1), "expected the columns", id="more columns"),
        pytest.param(lambda frame: frame[[*frame][::-1]], "expected the columns", id="other order"),
        pytest.param(lambda frame: frame.astype({"signal": str}), "expected numbers in the column signal", id="text"),
        pytest.param(lambda frame: frame.astype({"date": str}), "expected days in the column date", id="day as text"),
        pytest.param(lambda frame: frame.assign(date=frame["date"].dt.tz_localize("UTC")), "expected days", id="zone"),
        pytest.param(lambda frame: frame.assign(probability=[[0.5]] * len(frame)), "expected numbers", id="lists"),
    ],
)
def test_rows_that_no_run_has_are_refused(stored, spoil, message: str) -> None:
    """NaN where a run has a value, numbers outside their range, other columns and other types, each with its place."""
    with pytest.raises(ValueError, match=message):
        read_rows(stored(spoil(rows())), ["AAA"])


def test_a_column_twice_is_refused(stored) -> None:
    """Two columns of one name are no rows of a run."""
    table = pa.Table.from_pandas(rows())
    with pytest.raises(ValueError, match="expected the columns"):
        read_rows(stored(table.append_column("signal", table.column("signal"))), ["AAA"])


def test_rows_that_unpack_to_much_more_than_their_file_are_refused(stored) -> None:
    """Fifty million equal rows in a few kilobytes are refused by what the file says of itself."""
    one = pa.Table.from_pandas(rows(1), preserve_index=False)
    indices = pa.array(np.zeros(2_000_000, np.int32))
    path = stored(one.take(indices), compression="zstd")
    assert path.stat().st_size < 2**18
    with pytest.raises(ValueError, match=r"its 2,000,000 rows would take .* bytes; expected at most"):
        read_rows(path, ["AAA"])
    with pytest.raises(ValueError, match="would take"):  # by the names that the document lists
        read_rows(stored(rows(300)), ["A" * 10**6])


def test_days_and_tickers_spread_thin_are_refused(stored) -> None:
    """Dense series of rows that each have a day and a ticker of their own would take the square of their number."""
    count = 3000
    frame = rows(count).assign(ticker=[f"T{at}" for at in range(count)])
    with pytest.raises(ValueError, match="spread over 9,000,000 pairs of a day and a ticker"):
        read_rows(stored(frame), frame["ticker"].tolist())


@pytest.mark.parametrize("noted", [b"{", b"[]", b"\xff", b'{"index_columns": ["gone"], "columns": [{}]}'], ids=ascii)
def test_what_pandas_noted_is_not_looked_at(stored, noted: bytes) -> None:
    """Damaged notes of pandas in the file change nothing."""
    table = pa.Table.from_pandas(rows(), preserve_index=False).replace_schema_metadata({b"pandas": noted})
    assert list(read_rows(stored(table), ["AAA"])) == list(COLUMNS)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 10**9), byte=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_file_is_refused_or_harmless(tmp_path: Path, at: int, byte: int, cut: bool) -> None:
    """Whatever byte is changed or lacks, an ordinary error comes out, or rows of the right form."""
    content = bytearray(parquet_bytes(rows()))
    content[at % len(content)] = byte
    path = tmp_path / "damaged.parquet"
    path.write_bytes(content[: at % len(content)] if cut else content)
    try:
        found = read_rows(path, ["AAA"])
    except Exception:
        return
    assert list(found) == list(COLUMNS)
    assert found["signal"].between(-1, 1).all()
