"""Send code that lies beside the user's script to workers, which do not search that folder for modules."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Collection
from pathlib import Path

import cloudpickle


def send_by_value(*objects: object) -> None:
    """Let functions and the classes of objects travel with their code where their modules are not installed.

    Modules of ``__main__`` travel so by themselves; strings name a module that the worker imports.
    """
    for one in objects:
        owner = one if isinstance(one, type) or hasattr(one, "__qualname__") else type(one)
        if not isinstance(one, str):
            _register(getattr(owner, "__module__", None) or "")


def send_imported_by_value(before: Collection[str]) -> None:
    """Do the same with the modules imported since those ``before``: a user's module may import others beside it."""
    for name in set(sys.modules) - set(before):
        _register(name)


def sent_by_value() -> set[str]:
    """Names of the modules whose code travels."""
    return set(cloudpickle.list_registry_pickle_by_value())


def _register(name: str) -> None:
    """Let what a module holds travel with its code, unless the module is installed."""
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if module is not None and isinstance(file, str) and not _installed(Path(file)):
        cloudpickle.register_pickle_by_value(module)


def _installed(file: Path) -> bool:
    """Whether a module belongs to Python, to an installed package or to nextbar itself."""
    own = Path(__file__).parents[1]
    places = [own, *(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib"))]
    return any(file.is_relative_to(place) for place in places)
