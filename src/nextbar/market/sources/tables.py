"""Parquet and Feather: read in batches, within limits, without what pandas wrote about its own objects."""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Iterator
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pa_parquet

from nextbar.errors import BadBarsError
from nextbar.market.sources.columns import Table
from nextbar.words import excerpt, listed

LEAST_LIMIT: Final = 64 << 20
MOST_TIMES: Final = 100
MOST_BYTES: Final = 512 << 20
"""A file may unpack to 100 times its size, always to 64 MiB and never to more than 512: bars take 2 to 20 times."""
MOST_TEXT: Final = 200
"""Longer entries of a column of repeated texts are cut: no ticker, day or number is as long."""
MOST_COLUMNS: Final = 20_000
BATCH_ROWS: Final = 1 << 16
TEXTS: Final = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
NUMBERS: Final = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean, pa.types.is_null)
PLAIN: Final = (*TEXTS, *NUMBERS, pa.types.is_date, pa.types.is_timestamp)
CELL: Final = 8
"""Bytes of a row and column in memory, however few the file takes for it."""
DICTIONARY, BATCH = 2, 3
"""Messages of Arrow's IPC format that hold values."""
FILE_MARK: Final = 8
"""Bytes before the messages of a Feather file; they are read in their order, not by the places that its end names."""


def read_arrow(data: bytes) -> Table:
    """Read the table in a Parquet or Feather file.

    Columns of lists, records and bytes are left out. pandas' metadata is not used: its index is a column like others.
    """
    batches, size = [], 0
    for batch in _parquet(data) if data.startswith(b"PAR1") else _feather(data):
        size += batch.nbytes
        _refuse_larger(size, len(data))
        batches.append(batch)
    if not batches:
        raise BadBarsError("empty")
    table = pa.Table.from_batches(batches).replace_schema_metadata(None)
    names = ["" if re.fullmatch(r"__index_level_\d+__|None", name) else name for name in table.column_names]
    table = table.rename_columns([str(i) for i in range(table.num_columns)])
    table = _without_long_entries(table)
    repeated = [chunk for column in table.columns if _repeats_texts(column.type) for chunk in column.chunks]
    lengths = [pc.sum(pc.take(pc.binary_length(chunk.dictionary), chunk.indices)).as_py() or 0 for chunk in repeated]
    _refuse_larger(table.nbytes + sum(lengths), len(data))  # each row has a text of its own below
    plain = pa.schema([(field.name, _plain_type(field.type)) for field in table.schema])
    frame = table.cast(plain, safe=False).to_pandas().set_axis(range(table.num_columns), axis=1)
    return Table(frame=frame, names=names)


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return pa.timestamp("s", tz=getattr(kind, "tz", None))  # it has a place for every day
    return pa.float64() if pa.types.is_decimal(kind) else getattr(kind, "value_type", kind)


def _without_long_entries(table: pa.Table) -> pa.Table:
    """Cut long entries of columns of repeated texts."""
    for i, field in enumerate(table.schema):
        if _repeats_texts(field.type):
            chunks = [(chunk.indices, chunk.dictionary.cast(pa.large_string())) for chunk in table.column(i).chunks]
            cut = [(rows, pc.utf8_slice_codeunits(texts, 0, MOST_TEXT)) for rows, texts in chunks]
            table = table.set_column(i, field.name, pa.chunked_array([pa.DictionaryArray.from_arrays(*c) for c in cut]))
    return table


def _repeats_texts(kind: pa.DataType) -> bool:
    return bool(pa.types.is_dictionary(kind)) and any(test(kind.value_type) for test in TEXTS)


def _parquet(data: bytes) -> Iterator[pa.RecordBatch]:
    """Read row groups in batches, after what they say about themselves has been looked at."""
    file = pa_parquet.ParquetFile(
        pa.BufferReader(data), thrift_string_size_limit=1 << 24, thrift_container_size_limit=1 << 20
    )
    schema, metadata = file.schema_arrow, file.metadata
    names = _usable(schema)
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    claimed = sum(max(group.total_byte_size, group.num_rows * len(names) * CELL) for group in groups)
    _refuse_larger(claimed, len(data))
    texts = [field.name for field in schema if field.name in names and any(test(field.type) for test in TEXTS)]
    file = pa_parquet.ParquetFile(pa.BufferReader(data), read_dictionary=texts)
    yield from file.iter_batches(batch_size=BATCH_ROWS, columns=names, use_pandas_metadata=False)


def _feather(data: bytes) -> Iterator[pa.RecordBatch]:
    if data.startswith(b"FEA1"):
        raise BadBarsError("the first version of Feather: write it again as Parquet")
    pa.ipc.open_file(pa.BufferReader(data))  # a file that was cut off has no end
    stream = pa.py_buffer(data).slice(FILE_MARK)
    schema = pa.ipc.open_stream(pa.BufferReader(stream)).schema
    names = _usable(schema)
    claimed = sum(_claimed_size(message, len(names)) for message in pa.ipc.MessageReader.open_stream(stream))
    _refuse_larger(claimed, len(data))
    options = pa.ipc.IpcReadOptions(included_fields=[schema.get_field_index(name) for name in names])
    yield from pa.ipc.open_stream(pa.BufferReader(stream), options=options)


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
    return _is_plain(kind.value_type) if pa.types.is_dictionary(kind) else any(test(kind) for test in PLAIN)


def limit_of(size: int) -> int:
    """Return to how many bytes a file of that size may unpack."""
    return min(max(LEAST_LIMIT, MOST_TIMES * size), MOST_BYTES)


def _refuse_larger(size: int, packed: int) -> None:
    if size > limit_of(packed):
        held = f"it holds {size >> 20:,} MiB in a file of {packed >> 10:,} KiB"
        raise BadBarsError(f"{held}; at most {limit_of(packed) >> 20:,} MiB are read of such a file")


def _claimed_size(message: pa.ipc.Message, columns: int) -> int:
    """Return how many bytes a packed batch of rows, or of a dictionary, takes unpacked; 0 for other messages."""
    data, body = memoryview(message.metadata), memoryview(message.body or b"")
    root = _at(data, 0)
    kind = _field(data, root, 1)
    if kind is None or data[kind] not in (DICTIONARY, BATCH) or (header := _field(data, root, 2)) is None:
        return 0
    batch = _at(data, header)
    if data[kind] == DICTIONARY:
        if (inner := _field(data, batch, 1)) is None:
            return 0
        batch, columns = _at(data, inner), 1
    length = _field(data, batch, 0)
    least = 0 if length is None else struct.unpack_from("<q", data, length)[0] * columns * CELL
    if (place := _field(data, batch, 2)) is None:
        return max(least, 0)
    packed = _field(data, batch, 3) is not None
    vector, total = _at(data, place), 0
    (count,) = struct.unpack_from("<I", data, vector)
    for start, size in struct.iter_unpack("<qq", data[vector + 4 : vector + 4 + 16 * count]):
        # The first 8 bytes of a buffer say what it unpacks to, -1 where it is not packed.
        claimed = struct.unpack_from("<q", body, start)[0] if packed and size >= CELL else -1
        total += claimed if claimed >= 0 else size
    return max(least, total)


def _at(data: memoryview, place: int) -> int:
    """Follow an offset."""
    return place + int(struct.unpack_from("<I", data, place)[0])


def _field(data: memoryview, table: int, number: int) -> int | None:
    """Return the place of a field of a FlatBuffers table, None where it is not there."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    (size,), at = struct.unpack_from("<H", data, vtable), 4 + 2 * number
    offset = struct.unpack_from("<H", data, vtable + at)[0] if at + 2 <= size else 0
    return table + offset if offset else None
