"""Sizes that messages of Arrow's IPC format claim, read from their metadata before anything is unpacked."""

from __future__ import annotations

import struct
from typing import Final

import pyarrow as pa

DICTIONARY, BATCH = 2, 3
CELL: Final = 8
"""Bytes of a row and column in memory, however few the file takes for it."""


def claimed_size(message: pa.ipc.Message, columns: int) -> int:
    """Return how many bytes a batch of rows, or of a dictionary, takes when it is unpacked; 0 for other messages.

    Args:
        message: As `pyarrow.ipc.MessageReader` gives it, its metadata verified, its body still packed.
        columns: The number of columns that are read.
    """
    data, body = memoryview(message.metadata), memoryview(message.body or b"")
    root = _at(data, 0)
    kind = _field(data, root, 1)
    if kind is None or data[kind] not in (DICTIONARY, BATCH) or (header := _field(data, root, 2)) is None:
        return 0
    batch = _at(data, header)
    if data[kind] == DICTIONARY:
        inner = _field(data, batch, 1)
        if inner is None:
            return 0
        batch, columns = _at(data, inner), 1
    length = _field(data, batch, 0)
    rows = 0 if length is None else struct.unpack_from("<q", data, length)[0]
    return max(rows * columns * CELL, _unpacked_size(data, batch, body))


def _unpacked_size(data: memoryview, batch: int, body: memoryview) -> int:
    """Sum what buffers say that they unpack to: their first 8 bytes, -1 where one is not packed."""
    place = _field(data, batch, 2)
    if place is None:
        return 0
    packed = _field(data, batch, 3) is not None
    vector = _at(data, place)
    (count,) = struct.unpack_from("<I", data, vector)
    total = 0
    for start, length in struct.iter_unpack("<qq", data[vector + 4 : vector + 4 + 16 * count]):
        claimed = struct.unpack_from("<q", body, start)[0] if packed and length >= CELL else -1
        total += claimed if claimed >= 0 else length
    return total


def _at(data: memoryview, place: int) -> int:
    """Follow an offset."""
    return place + int(struct.unpack_from("<I", data, place)[0])


def _field(data: memoryview, table: int, number: int) -> int | None:
    """Return the place of a field of a FlatBuffers table, None where it is not there."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    size = struct.unpack_from("<H", data, vtable)[0]
    at = 4 + 2 * number
    offset = struct.unpack_from("<H", data, vtable + at)[0] if at + 2 <= size else 0
    return table + offset if offset else None
