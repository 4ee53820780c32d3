"""What a `.keras` file may hold, looked at before keras opens it. Keras itself is not needed here."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from typing import Any

import h5py

MEMBERS = ["config.json", "metadata.json", "model.weights.h5"]
MOST_BYTES = 256 * 2**20
"""Most that the members may come to when unpacked; the network of the specification takes 2 MB."""
WIDEST = 4096
"""Most steps or columns: keras takes memory for what the configuration says before it reads a weight."""
MOST_UNITS = 2048
"""Of all layers together; their weights come to 200 MB at most."""
CLASSES = {
    ("keras", "Sequential"),
    ("keras", "DTypePolicy"),
    ("keras.layers", "InputLayer"),
    ("keras.layers", "LSTM"),
    ("keras.layers", "Dense"),
    ("keras.initializers", "GlorotUniform"),
    ("keras.initializers", "Orthogonal"),
    ("keras.initializers", "Zeros"),
    ("keras.optimizers", "Adam"),
}
"""Module and name of every class that our network's configuration names."""


def check_keras_file(content: bytes) -> None:
    """Refuse an archive that unpacks to too much, has other members, or a configuration that is not our network's.

    Raises:
        Exception: It does.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        if sorted(member.filename for member in members) != MEMBERS:
            raise ValueError(f"expected the members {', '.join(MEMBERS)}, found {', '.join(archive.namelist()[:5])}")
        if (size := sum(member.file_size for member in members)) > MOST_BYTES:
            raise ValueError(f"it unpacks to {size} bytes, more than {MOST_BYTES}")
        parts = list(_parts(json.loads(archive.read("config.json"))))
        _check_classes([part for part in parts if isinstance(part, dict)])
        sizes = [size for part in parts if isinstance(part, list) for size in part]
        if any(isinstance(size, int) and size > WIDEST for size in sizes):
            raise ValueError(f"it asks for a window of more than {WIDEST}")
        _check_weights(archive.read("model.weights.h5"))


def _parts(value: Any) -> Iterator[Any]:
    """A value of a keras configuration and all that stands in it."""
    yield value
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _parts(part)


def _check_classes(records: list[dict[str, Any]]) -> None:
    for record in records:
        if "class_name" in record and (record.get("module"), record["class_name"]) not in CLASSES:
            raise ValueError(f"it names the class {record.get('module')}.{record['class_name']}")
    if (units := sum(abs(record.get("units", 0)) for record in records)) > MOST_UNITS:
        raise ValueError(f"its layers have {units} units, more than {MOST_UNITS}")


def _check_weights(content: bytes) -> None:
    """Refuse arrays that are larger than the file says, and links, which may lead out of it."""
    with h5py.File(io.BytesIO(content)) as file:
        links: list[Any] = []
        found: list[Any] = []
        file.visititems_links(lambda _name, link: links.append(link))
        file.visititems(lambda _name, item: found.append(item))
        arrays = [item for item in found if isinstance(item, h5py.Dataset)]
        if not all(isinstance(link, h5py.HardLink) for link in links) or any(
            array.external or array.is_virtual for array in arrays
        ):
            raise ValueError("its weights lie elsewhere")
        if (size := sum(array.nbytes for array in arrays)) > MOST_BYTES:
            raise ValueError(f"its weights unpack to {size} bytes, more than {MOST_BYTES}")
