"""Parquet and Feather: read in batches, within limits, without what pandas wrote about its own objects."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pa_parquet

from nextbar.errors import BadBarsError
from nextbar.market.sources.columns import Table
from nextbar.words import excerpt, listed

LEAST_LIMIT: Final = 64 << 20
MOST_TIMES: Final = 100
"""A file may unpack to that many times its size, and always to 64 MiB: real bars take 2 to 20 times."""
MOST_COLUMNS: Final = 20_000
BATCH_ROWS: Final = 1 << 16
CELL: Final = 8


def read_arrow(data: bytes) -> Table:
    """Read the table in a Parquet or Feather file.

    Columns of lists, records and bytes are left out. pandas' metadata is not used: its index is a column like others.

    Raises:
        BadBarsError: It is larger than its size explains, or damaged.
    """
    limit = limit_of(len(data))
    batches, size = [], 0
    for batch in _parquet(data, limit) if data.startswith(b"PAR1") else _feather(data, limit):
        size += batch.nbytes
        if size > limit:
            raise BadBarsError(_too_large(size, len(data)))
        batches.append(batch)
    if not batches:
        raise BadBarsError("empty")
    table = pa.Table.from_batches(batches).replace_schema_metadata(None)
    names = ["" if re.fullmatch(r"__index_level_\d+__|None", name) else name for name in table.column_names]
    table = table.rename_columns([str(i) for i in range(table.num_columns)])
    for i, field in enumerate(table.schema):
        if pa.types.is_date(field.type) or pa.types.is_timestamp(field.type):
            table = table.set_column(i, field.name, table.column(i).cast(_second(field.type), safe=False))
        elif pa.types.is_decimal(field.type) or pa.types.is_dictionary(field.type):
            plain = pa.float64() if pa.types.is_decimal(field.type) else field.type.value_type
            table = table.set_column(i, field.name, table.column(i).cast(plain))
    frame = table.to_pandas().set_axis(range(table.num_columns), axis=1)
    return Table(frame=frame, names=names, owners=None)


def _second(kind: Any) -> pa.DataType:
    """Return the type of whole seconds, in which every day that can be written has a place."""
    return pa.timestamp("s", tz=getattr(kind, "tz", None))


def _parquet(data: bytes, limit: int) -> Iterator[pa.RecordBatch]:
    """Read row groups in batches, after what they say about themselves has been looked at."""
    file = pa_parquet.ParquetFile(
        pa.BufferReader(data), thrift_string_size_limit=1 << 24, thrift_container_size_limit=1 << 20
    )
    schema, metadata = file.schema_arrow, file.metadata
    names = _usable(schema)
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    claimed = sum(max(group.total_byte_size, group.num_rows * len(names) * CELL) for group in groups)
    if claimed > limit:
        raise BadBarsError(_too_large(claimed, len(data)))
    texts = [field.name for field in schema if field.name in names and pa.types.is_string(field.type)]
    file = pa_parquet.ParquetFile(pa.BufferReader(data), read_dictionary=texts)
    yield from file.iter_batches(batch_size=BATCH_ROWS, columns=names, use_pandas_metadata=False)


def _feather(data: bytes, limit: int) -> Iterator[pa.RecordBatch]:
    if data.startswith(b"FEA1"):
        raise BadBarsError("the first version of Feather: write it again as Parquet")
    names = _usable(pa.ipc.open_file(pa.BufferReader(data)).schema)
    schema = pa.ipc.open_file(pa.BufferReader(data)).schema
    options = pa.ipc.IpcReadOptions(included_fields=[schema.get_field_index(name) for name in names])
    reader = pa.ipc.open_file(pa.BufferReader(data), options=options)
    for i in range(reader.num_record_batches):
        batch = reader.get_batch(i)
        if batch.num_rows * len(names) * CELL > limit:
            raise BadBarsError(_too_large(batch.num_rows * len(names) * CELL, len(data)))
        yield batch


def _usable(schema: pa.Schema) -> list[str]:
    """Return the names of columns of numbers, texts and times."""
    if len(schema) > MOST_COLUMNS:
        raise BadBarsError(f"{len(schema):,} columns; expected at most {MOST_COLUMNS:,}")
    if twice := [name for name, count in Counter(schema.names).items() if count > 1]:
        raise BadBarsError(f"several columns named {listed([excerpt(name) for name in twice])}; keep one of each")
    kept = [field.name for field in schema if _is_plain(field.type)]
    if not kept:
        raise BadBarsError("no column of numbers, texts or times")
    return kept


def _is_plain(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_plain(kind.value_type)
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean, pa.types.is_string)
    times = (
        pa.types.is_large_string,
        pa.types.is_string_view,
        pa.types.is_date,
        pa.types.is_timestamp,
        pa.types.is_null,
    )
    return any(test(kind) for test in (*tests, *times))


def limit_of(size: int) -> int:
    """Return to how many bytes a file of that size may unpack."""
    return max(LEAST_LIMIT, MOST_TIMES * size)


def _too_large(size: int, packed: int) -> str:
    most = limit_of(packed) >> 20
    return (
        f"it holds {size >> 20:,} MiB in a file of {packed >> 10:,} KiB; at most {most:,} MiB are read of such a file"
    )
