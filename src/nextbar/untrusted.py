"""Read untrusted pickles without running any code that they name.

A pickle is a program that may call whatever it can name. Here it can name what the caller lists and nothing else, it
has only the operations that plain data needs, and Python's own unpickler runs it: the one in C sizes its memory by
numbers in the file.
"""

from __future__ import annotations

import io
import math
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np

from nextbar.errors import ArtifactError

Names = Mapping[tuple[str, str], Any]
"""(module, name) as a pickle spells it → what is used for it."""

# Not among them: GLOBAL, INST, OBJ, EXT*, PERSID and the buffers of protocol 5, the other ways to reach outside.
_OPERATIONS = """PROTO FRAME STOP MARK POP MEMOIZE BINGET LONG_BINGET STACK_GLOBAL NEWOBJ REDUCE BUILD
    NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT SHORT_BINUNICODE BINUNICODE SHORT_BINBYTES BINBYTES
    BYTEARRAY8 EMPTY_LIST EMPTY_DICT EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 APPEND APPENDS SETITEM SETITEMS"""


def number_type(name: object, *_flags: object) -> np.dtype[Any]:
    """Replace ``numpy.dtype``: numbers and records, never Python objects; always a copy, which BUILD may alter."""
    if not isinstance(name, str) or not re.fullmatch(r"[biufV]\d*", name):
        raise pickle.UnpicklingError(f"it holds an array of {name!r}")
    return np.dtype(name, copy=True)


def array_of(content: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], order: str) -> np.ndarray:
    """Replace ``numpy._core.numeric._frombuffer``."""
    return np.frombuffer(content, dtype).reshape(shape, order="F" if order == "F" else "C")


def number_of(dtype: np.dtype[Any], content: bytes) -> Any:
    """Replace ``numpy._core.multiarray.scalar``."""
    return np.frombuffer(content, dtype)[0]


class FollowingArray:
    """Replace joblib's ``NumpyArrayWrapper``: an array whose bytes follow in the file, after a padding."""

    shape: tuple[int, ...]
    order: str
    dtype: np.dtype[Any]

    def read(self, file: io.BytesIO) -> np.ndarray:
        """Return the array after the wrapper."""
        file.read(file.read(1)[0])
        return array_of(file.read(math.prod(self.shape) * self.dtype.itemsize), self.dtype, self.shape, self.order)


class Unused:
    """Replace a class that a file names without need; ``numpy.ndarray`` would allocate what the file says."""


class _Operations(dict[int, Any]):
    """Code → its implementation; any other code is refused."""

    def __missing__(self, code: int) -> Any:
        raise pickle.UnpicklingError(f"it holds the operation {chr(code)!r}, which plain data does not need")


class _Reader(pickle._Unpickler):
    """Python's unpickler with fewer operations and the caller's names."""

    stack: list[Any]
    append: Callable[[Any], None]
    read: Callable[[int], bytes]
    dispatch: ClassVar[dict[int, Any]] = _Operations(
        (code, pickle._Unpickler.dispatch[code])
        for code in (ord(getattr(pickle, name)) for name in _OPERATIONS.split())
    )

    def __init__(self, content: bytes, names: Names) -> None:
        self._file, self._names = io.BytesIO(content), names
        super().__init__(self._file)

    def find_class(self, module: str, name: str) -> Any:
        """Return the replacement of a name from the caller's table; nothing is imported."""
        if (module, name) not in self._names:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return self._names[module, name]

    def load_build(self) -> None:
        """BUILD, on instances only (a class would keep what is set on it); a joblib wrapper gives way to its array."""
        if callable(self.stack[-2]):
            raise pickle.UnpicklingError(f"it alters {self.stack[-2]}")
        super().load_build()  # type: ignore[misc]
        if isinstance(self.stack[-1], FollowingArray):
            self.stack[-1] = self.stack[-1].read(self._file)

    def load_bytearray8(self) -> None:
        """BYTEARRAY8; Python's own takes the memory that the file asks for before it reads."""
        size = int.from_bytes(self.read(8), "little")
        self.append(bytearray(self.read(size)))

    dispatch.update({ord(pickle.BUILD): load_build, ord(pickle.BYTEARRAY8): load_bytearray8})


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Turn every error while ``what`` is read into one ArtifactError."""
    try:
        yield
    except Exception as error:
        fault = (
            str(error)
            if isinstance(error, ValueError | pickle.UnpicklingError)
            else f"{type(error).__name__}: {error}".removesuffix(": ")
        )
        raise ArtifactError(f"{what} is refused, it is damaged or not ours: {fault}; train again") from error


def load_pickle(content: bytes, names: Names) -> Any:
    """The object in a pickle or an uncompressed joblib file; call it inside `refusing`, for it raises anything."""
    return _Reader(content, names).load()
