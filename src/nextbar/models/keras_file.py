"""What a `.keras` file may hold, looked at before keras opens it. Keras itself is not needed here."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

MEMBERS = ["config.json", "metadata.json", "model.weights.h5"]
MOST_BYTES = 256 * 2**20
"""Most that the members may come to when unpacked; the network of the specification takes 2 MB."""
WIDEST = 4096
"""Most units, steps or columns: keras takes memory for what the configuration says before it reads a weight."""
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
        _check_config(json.loads(archive.read("config.json")))


def _check_config(value: Any) -> None:
    """At any depth of a keras configuration: no class but ours, no size beyond reason."""
    if isinstance(value, dict):
        if "class_name" in value and (value.get("module"), value["class_name"]) not in CLASSES:
            raise ValueError(f"it names the class {value.get('module')}.{value['class_name']}")
        _check_sizes([value.get("units")])
    if isinstance(value, list):
        _check_sizes(value)
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            _check_config(part)


def _check_sizes(sizes: list[Any]) -> None:
    if any(isinstance(size, int) and size > WIDEST for size in sizes):
        raise ValueError(f"it asks for a layer or a window of more than {WIDEST}")
