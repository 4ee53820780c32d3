"""The weights files that nextbar loads: plain arrays in numpy's `.npz`, written to the same bytes and read with care.

`numpy.load` opens them. Their reader here takes what `pack_arrays` writes and nothing else: members under the names and
in the order that the caller expects, not compressed, of the types that it expects; each size is compared with the bytes
that are there before it is used.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from nextbar.types import IntArray

WEIGHTS = "_weights.npz"
Arrays: TypeAlias = dict[str, np.ndarray]
_LOCAL = struct.Struct("<4s5H3L2H")
_MAGIC = b"\x93NUMPY\x01\x00"
_HEADER = re.compile(
    rb"\{'descr': '([<|][a-z]\d)', 'fortran_order': False, 'shape': \((\d{1,12}),(?: (\d{1,12}))?\), \} *\n"
)


def pack_arrays(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return the arrays as an ``.npz``, not compressed; the same arrays give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            member.create_system, member.external_attr = 3, 0o600 << 16  # the same on every system
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
            archive.writestr(member, content.getvalue())
    return buffer.getvalue()


def unpack_arrays(content: bytes, kinds: Mapping[str, tuple[str, int]]) -> Arrays:
    """Read an untrusted ``.npz``; the arrays are views of ``content``, so that nothing is allocated.

    Args:
        content: The file.
        kinds: Name → type and number of dimensions, in order, of all arrays that are expected.

    Raises:
        ValueError: It is another file.
    """
    view, at, arrays = memoryview(content), 0, {}
    for name, (kind, dimensions) in kinds.items():
        data = _member(view, at, f"{name}.npy".encode())
        arrays[name] = _array(data, name, kind, dimensions)
        at += _LOCAL.size + len(f"{name}.npy") + len(data)
    if len(view) - at > 22 + sum(50 + len(name) for name in kinds):
        raise ValueError(f"it holds more than the arrays {', '.join(kinds)}")
    return arrays


def _member(view: memoryview, at: int, name: bytes) -> memoryview:
    """Return the content of the member that begins at a place, not compressed and whole."""
    if len(view) < at + _LOCAL.size + len(name):
        raise ValueError(f"it ends before {name.decode()}")
    mark, _, flags, method, _, _, crc, packed, size, letters, extra = _LOCAL.unpack_from(view, at)
    begin = at + _LOCAL.size + len(name)
    if mark != b"PK\3\4" or (letters, extra) != (len(name), 0) or view[begin - len(name) : begin] != name:
        raise ValueError(f"expected the member {name.decode()} at byte {at}")
    if flags or method or packed != size or size > len(view) - begin:
        raise ValueError(f"{name.decode()} is compressed, encrypted or longer than the file")
    data = view[begin : begin + size]
    if zlib.crc32(data) != crc:
        raise ValueError(f"{name.decode()} has another checksum")
    return data


def _array(data: memoryview, name: str, kind: str, dimensions: int) -> np.ndarray:
    """Return an array of the expected type, whose shape and bytes agree."""
    size = int.from_bytes(data[8:10], "little")
    header = _HEADER.fullmatch(data[10 : 10 + size]) if data[:8] == _MAGIC else None
    if header is None:
        raise ValueError(f"{name} has no header of a plain array")
    shape = tuple(int(number) for number in header.groups()[1:] if number)
    found, dtype = header[1].decode(), np.dtype(kind)
    if found != dtype.str or len(shape) != dimensions:
        raise ValueError(f"{name}: expected {dimensions} dimensions of {dtype.str}, found {shape} of {found}")
    if math.prod(shape) * dtype.itemsize != len(data) - 10 - size:
        raise ValueError(f"{name} says that it is {shape}, and holds {len(data) - 10 - size} bytes")
    return np.frombuffer(data, dtype, offset=10 + size).reshape(shape)


def check_lengths(arrays: Arrays, length: int, names: Sequence[str]) -> None:
    """Refuse arrays of another length than the others."""
    if other := [name for name in names if len(arrays[name]) != length]:
        raise ValueError(f"expected {length} entries, found another number in {', '.join(other)}")


def tree_depths(left: Any, right: Any, starts: IntArray) -> IntArray:
    """Return the depth of each tree; refuse what is not one whole tree after the other.

    A child comes after its parent, inside its tree, and every node but a root is the child of one: native code that
    follows such trees stays inside them and comes to an end.

    Args:
        left: [nodes] left child, counted from the root of its tree; -1 in a leaf.
        right: [nodes] right child.
        starts: [trees + 1] first node of each tree, and the end of the last.
    """
    nodes, sizes = len(left), np.diff(starts)
    if len(starts) < 2 or starts[0] != 0 or starts[-1] != nodes or (sizes < 1).any() or len(right) != nodes:
        raise ValueError("its trees do not lie one after the other")
    inner = np.flatnonzero(left != -1)
    tree = np.repeat(np.arange(len(sizes)), sizes)[inner]
    children = np.stack([left[inner], right[inner]]) + starts[tree]
    if not ((children > inner) & (children < starts[tree + 1])).all() or np.count_nonzero(right != -1) != len(inner):
        raise ValueError("a tree leads outside itself or backwards")
    if (np.delete(np.bincount(children.ravel(), minlength=nodes), starts[:-1]) != 1).any():
        raise ValueError("a node of a tree has no parent, or several")
    parent, depth = np.arange(nodes), np.zeros(nodes, np.int64)
    parent[children] = inner
    depth[children] = 1
    while depth[parent].any():  # twice as far up each time
        depth, parent = depth + depth[parent], parent[parent]
    return np.maximum.reduceat(depth, starts[:-1])
