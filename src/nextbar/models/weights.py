"""Read the weights of a saved network and nothing else: the configuration in the file is not read, keras not needed."""

from __future__ import annotations

import io
import zipfile
from itertools import count, takewhile
from typing import Any

import h5py
import numpy as np

from nextbar.types import Float32Array

MEMBER = "model.weights.h5"
MOST_BYTES = 256 * 2**20
"""Limit of the unpacked weights; the network of the specification takes 2 MB with its optimizer."""


def load_weights(content: bytes, columns: int) -> list[Float32Array]:
    """Return the weights in an untrusted ``.keras`` file, in keras's order, of LSTM layers and a dense one."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        member = archive.getinfo(MEMBER)
        if member.file_size > MOST_BYTES:
            raise ValueError(f"it unpacks to {member.file_size} bytes, more than {MOST_BYTES}")
        stored = archive.read(member)
    with h5py.File(io.BytesIO(stored)) as file:
        _check_places(file)
        layers = list(takewhile(lambda name: name in file["layers"], (f"lstm_{n}" if n else "lstm" for n in count())))
        places = [f"{layer}/cell/vars/{n}" for layer in layers for n in range(3)] + ["dense/vars/0", "dense/vars/1"]
        arrays = [file["layers"][place] for place in places]
        _check_shapes([array.shape for array in arrays], columns)
        if any(array.dtype != np.float32 for array in arrays):
            raise ValueError("its weights are not 32-bit numbers")
        return [array[()] for array in arrays]


def _check_places(file: h5py.File) -> None:
    """Refuse arrays that are larger than the file says, and links, which may lead out of it."""
    links: list[Any] = []
    found: list[Any] = []
    file.visititems_links(lambda _name, link: links.append(link))
    file.visititems(lambda _name, item: found.append(item))
    arrays = [item for item in found if isinstance(item, h5py.Dataset)]
    if not all(isinstance(link, h5py.HardLink) for link in links) or any(
        array.external or array.is_virtual for array in arrays
    ):
        raise ValueError("its weights are outside the file")
    if (size := sum(array.nbytes for array in arrays)) > MOST_BYTES:
        raise ValueError(f"its weights unpack to {size} bytes, more than {MOST_BYTES}")


def _check_shapes(shapes: list[tuple[int, ...]], columns: int) -> None:
    """Refuse weights that do not belong to LSTM layers over so many columns and a dense layer with one output."""
    units = [shape[0] for shape in shapes[1:-2:3]]
    expected: list[tuple[int, ...]] = []
    for inputs, width in zip([columns, *units], units, strict=False):
        expected += [(inputs, 4 * width), (width, 4 * width), (4 * width,)]
    if not units or shapes != [*expected, (units[-1], 1), (1,)]:
        raise ValueError(f"its weights are not those of LSTM layers over {columns} columns: {shapes}")
