"""Find the variables of a user's function that hold data, which may be bars of the future."""

from __future__ import annotations

import inspect
import io
from array import array
from collections import deque
from types import CodeType, FunctionType
from typing import Any

import cloudpickle
import numpy as np
import pandas as pd
import pyarrow as pa

ENTRIES = 50
"""Most entries of a collection that is taken for settings, not for data."""
CHARACTERS = 500
"""Most characters or bytes of a text that is taken for no data; a docstring may be longer."""
DATA = (pd.DataFrame, pd.Series, pd.Index, np.ndarray, pa.Table, pa.Array, pa.ChunkedArray, array)


def held_data(function: object) -> list[str]:
    """Name the variables of a function that hold data, or functions that hold data: they may hold future bars.

    Data is a pandas object, an array, a collection of more than `ENTRIES` entries, or a text of more than `CHARACTERS`
    characters; what stands literally in the code of a function is not looked into. A function that is
    named as ``module:function`` makes its data anew in its process, where what it reads is noticed.
    """
    if isinstance(function, str):
        return []
    found: dict[str, object] = {}
    if hasattr(function, "__self__"):
        found["self"] = function.__self__
    own = getattr(function, "__func__", function)
    if inspect.isfunction(own):
        used = inspect.getclosurevars(own)
        found |= {**used.globals, **used.nonlocals, **(own.__kwdefaults__ or {})}
        found |= {f"default {at}": value for at, value in enumerate(own.__defaults__ or ())}
        found |= vars(own)
    return [name for name, value in found.items() if _holds_data(value)]


def _holds_data(value: object) -> bool:
    """Whether pickling a value, by value where it is code of the user's, meets data."""
    finder = _DataFinder(io.BytesIO())
    try:
        finder.dump(value)
    except Exception:
        return True
    return finder.found


class _DataFinder(cloudpickle.Pickler):  # type: ignore[misc]
    """Note whether data is pickled."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.found = False
        self._docs: set[int] = set()

    def persistent_id(self, value: Any) -> str | None:
        """Look at each object on its way; code is passed over."""
        if isinstance(value, CodeType):
            return "code"
        if isinstance(value, FunctionType | type):
            self._docs.add(id(value.__doc__))
        several = isinstance(value, list | tuple | set | frozenset | dict | deque) and len(value) > ENTRIES
        long = isinstance(value, str | bytes | bytearray) and len(value) > CHARACTERS and id(value) not in self._docs
        if several or long or isinstance(value, DATA):
            self.found = True
        return None
