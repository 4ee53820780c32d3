"""Bars from CSV and Parquet files: one long file, or a folder with a file per ticker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet

from nextbar.errors import BadBarsError
from nextbar.market.sources.columns import SourceBars, find_columns, source_bars
from nextbar.types import Progress


def read_csv(path: Path, progress: Progress) -> SourceBars:
    """Read a CSV file, or every ``.csv`` and ``.txt`` file in a folder.

    Raises:
        BadBarsError: A file is missing, cannot be read or lacks a column.
    """
    return _read(path, (".csv", ".txt"), _csv_table, progress)


def read_parquet(path: Path, progress: Progress) -> SourceBars:
    """Read a Parquet file, or every ``.parquet`` file in a folder.

    Raises:
        BadBarsError: A file is missing, cannot be read or lacks a column.
    """
    return _read(path, (".parquet",), pa_parquet.read_table, progress)


def _read(path: Path, endings: tuple[str, ...], load: Callable[[Path], pa.Table], progress: Progress) -> SourceBars:
    parts = []
    with _readable(path, endings):
        files = _files(path, endings)
    progress.start("reading files", len(files))
    for file in files:
        with _readable(file, endings):
            table = load(file)
        parts.append(source_bars(_frame(table), str(file), ticker=file.stem))
        progress.advance(note=file.name)
    progress.finish()
    return SourceBars(
        raw=pd.concat([part.raw for part in parts], ignore_index=True),
        bars=pd.concat([part.bars for part in parts], ignore_index=True),
    )


@contextmanager
def _readable(path: Path, endings: tuple[str, ...]) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise BadBarsError(f"{path} cannot be read as {endings[0][1:]}: {error}") from error


def _files(path: Path, endings: tuple[str, ...]) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise BadBarsError(f"there is no file or folder {path}")
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in endings)
    if not files:
        raise BadBarsError(f"{path} holds no file that ends in {' or '.join(endings)}")
    return files


def _csv_table(file: Path) -> pa.Table:
    """Read ticker and date as texts: TRUE is a ticker, NA is not missing and 20240131 is not a number."""
    with pa_csv.open_csv(file) as reader:
        names = reader.schema.names
    columns = find_columns(names, str(file), ticker_known=True)
    texts = {columns[name]: pa.string() for name in ("ticker", "date") if name in columns}
    return pa_csv.read_csv(file, convert_options=pa_csv.ConvertOptions(column_types=texts))


def _frame(table: pa.Table) -> pd.DataFrame:
    """Convert to pandas; days become texts in Arrow, because pandas would make a Python object of each."""
    for i, field in enumerate(table.schema):
        if pa.types.is_temporal(field.type):
            table = table.set_column(i, field.name, table.column(i).cast(pa.string()))
    frame: pd.DataFrame = table.to_pandas()
    # The index that pandas stored in a Parquet file may be the date itself.
    return frame.reset_index() if frame.index.names != [None] else frame
