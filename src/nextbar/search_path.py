"""Keep the working folder out of the folders that modules are imported from.

`python -m` and `python -c` search the working folder before all others, so a file `json.py` beside a downloaded run is
executed by any program that imports json. This module imports only what the interpreter has loaded when it starts.
"""

import os
import site
import sys


def drop_working_folder() -> list[tuple[int, str]]:
    """Remove the working folder from `sys.path` unless Python or nextbar is installed there; return what it was."""
    try:
        here = os.path.realpath(os.getcwd())
    except OSError:  # somebody removed the folder
        return []
    if here in {os.path.realpath(folder) for folder in _installed()}:
        return []
    found = [(place, entry) for place, entry in enumerate(sys.path) if os.path.realpath(entry) == here]
    sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry) != here]
    return found


def _installed() -> list[str]:
    """Folders of nextbar, the standard library and the installed packages."""
    packages = [*site.getsitepackages(), site.getusersitepackages()]
    return [os.path.dirname(os.path.dirname(__file__)), os.path.dirname(os.__file__), *packages]
