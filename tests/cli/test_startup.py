"""Heavy libraries are imported only by the process that uses them: they are most of the time to a first answer."""

from __future__ import annotations

import subprocess
import sys

import pytest

PARENT = "import nextbar.cli.commands, nextbar.workflows.train"
CHILD = """
import nextbar.execution.loky_pool, nextbar.evaluation.walkforward
from nextbar.models.registry import model_of
model_of("xgb", {})"""
PAGES = {"plotly", "jinja2"}
NETWORKS = {"keras", "jax", "h5py"}


@pytest.mark.parametrize(
    ("program", "unused"),
    [
        pytest.param("import nextbar", {"numpy", "pandas"}, id="library"),
        pytest.param("import nextbar.cli.main", {"numpy", "pandas"}, id="help"),
        pytest.param(PARENT, PAGES | NETWORKS | {"scipy", "sklearn", "xgboost", "loky"}, id="parent"),
        pytest.param(CHILD, PAGES | NETWORKS | {"sqlalchemy", "typer", "adbc_driver_sqlite"}, id="child"),
    ],
)
def test_unused_libraries_are_not_imported(program: str, unused: set[str]) -> None:
    """A process of its own has imported none of the libraries that it does not use."""
    listing = f"{program}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True)
    assert not unused & set(done.stdout.split())
