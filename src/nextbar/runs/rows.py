"""Read the out-of-sample rows of a run, which may come from anyone: sizes before values, and values before use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

from nextbar.words import listed, plural

MOST_TIMES, ALLOWED_BYTES = 40, 16 * 2**20
"""Rows may unpack to so many times the size of their file, and so many bytes besides; ours take about four times."""
MOST_CELLS, ALLOWED_CELLS = 64, 10**6
"""Days times tickers may be so many times the number of rows, and so many besides: series are dense."""
FIRST_DAY, LAST_DAY = np.datetime64("1800-01-01"), np.datetime64("2200-01-01")
MOST_FOLDS = 10**6
_NUMBER = 8
COLUMNS = {
    "date": (types.is_timestamp, "days"),
    "ticker": (lambda kind: types.is_string(kind) or types.is_large_string(kind), "text"),
    "fold": (types.is_integer, "whole numbers"),
    "probability": (lambda kind: types.is_floating(kind) or types.is_null(kind), "numbers"),
    "predicted_close": (lambda kind: types.is_floating(kind) or types.is_null(kind), "numbers"),
    "threshold": (lambda kind: types.is_floating(kind) or types.is_null(kind), "numbers"),
    "class": (types.is_integer, "whole numbers"),
    "signal": (lambda kind: types.is_integer(kind) or types.is_floating(kind), "numbers"),
    "next_return": (lambda kind: types.is_floating(kind) or types.is_null(kind), "numbers"),
    "strategy_return": (lambda kind: types.is_floating(kind) or types.is_null(kind), "numbers"),
}
"""Column → whether a type fits, and what it holds; exactly these, in this order."""
LIMITS: Mapping[str, tuple[float, float]] = {
    "fold": (0, MOST_FOLDS),
    "probability": (0, 1),
    "threshold": (0, 1),
    "class": (0, 1),
    "signal": (-1, 1),
}
"""Column → lowest and highest value; other numbers must be finite."""
WHOLE = ("date", "ticker", "fold", "class", "signal")
"""Columns in which no value may be missing."""


def read_rows(path: Path, tickers: Sequence[str]) -> pd.DataFrame:
    """Read rows of these tickers from their file; what pandas has noted in it is not looked at."""
    with pq.ParquetFile(path, read_dictionary=["ticker"], memory_map=False) as file:
        _check_columns(file.schema_arrow)
        _check_size(file.metadata, path.stat().st_size, max(map(len, tickers), default=0))
        table = file.read(use_threads=False)
    known = set(tickers)
    found = table.column("ticker").unify_dictionaries()
    names = {name for chunk in found.chunks for name in chunk.dictionary.to_pylist()}
    if unknown := sorted(repr(name)[:40] for name in names - known):
        raise ValueError(f"it has rows of {listed(unknown)}, which the document does not name")
    text = found.cast(pa.large_string())
    rows: pd.DataFrame = table.set_column(1, "ticker", text).replace_schema_metadata(None).to_pandas()
    _check_values(rows)
    return rows


def _check_columns(schema: pa.Schema) -> None:
    """Refuse other columns, or columns of other types."""
    if schema.names != list(COLUMNS):
        raise ValueError(f"expected the columns {', '.join(COLUMNS)}, got {listed([*map(repr, schema.names)], 12)}")
    for field in schema:
        fits, holds = COLUMNS[field.name]
        kind = field.type.value_type if types.is_dictionary(field.type) and field.name == "ticker" else field.type
        if not fits(kind) or getattr(kind, "tz", None):
            raise ValueError(f"expected {holds} in the column {field.name}, got {str(kind)[:40]}")


def _check_size(facts: pq.FileMetaData, size: int, longest: int) -> None:
    """Refuse rows that would take much more memory than their file has bytes, before anything is unpacked."""
    groups = [facts.row_group(number) for number in range(facts.num_row_groups)]
    counts = [facts.num_rows, *(group.num_rows for group in groups)]
    width = _NUMBER * (len(COLUMNS) - 1) + longest
    unpacked = max(sum(counts[1:]) * width, facts.num_rows * width, sum(group.total_byte_size for group in groups))
    most = MOST_TIMES * size + ALLOWED_BYTES
    if min(counts) < 0 or unpacked > most:
        raise ValueError(
            f"its {facts.num_rows:,} rows would take {unpacked:,} bytes; expected at most {most:,}, {MOST_TIMES} times "
            f"the size of the file and {ALLOWED_BYTES:,} more"
        )


def _check_values(rows: pd.DataFrame) -> None:
    """Refuse values that no run has."""
    if rows.empty:
        raise ValueError("it has no row")
    missing = [name for name in WHOLE if rows[name].isna().any()]
    if missing:
        raise ValueError(f"the column {missing[0]} lacks {plural(int(rows[missing[0]].isna().sum()), 'value')}")
    days = rows["date"].to_numpy().astype("datetime64[D]")
    if days.min() < FIRST_DAY or days.max() >= LAST_DAY:
        raise ValueError(f"it has the days {days.min()} to {days.max()}; expected days from {FIRST_DAY} to {LAST_DAY}")
    for name in [*COLUMNS][2:]:
        values = rows[name].to_numpy(dtype=np.float64, na_value=np.nan)
        low, high = LIMITS.get(name, (-np.finfo(np.float64).max, np.finfo(np.float64).max))
        bad = (values < low) | (values > high)
        if bad.any():
            raise ValueError(f"{values[bad][0]:g} in the column {name} is outside {low:g} to {high:g}")
    cells = len(np.unique(days)) * rows["ticker"].nunique()
    if cells > MOST_CELLS * len(rows) + ALLOWED_CELLS:
        raise ValueError(
            f"{len(rows):,} rows are spread over {cells:,} pairs of a day and a ticker, as in no file of nextbar"
        )
