"""Which columns a model sees, how many bars they need to settle, and how a user's own columns come in."""

from __future__ import annotations

import ast
import hashlib
import importlib
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd

from nextbar.config import CommonConfig
from nextbar.errors import FeatureError
from nextbar.features.indicators import BUILT_IN_COLUMNS, MARKET_COLUMNS, indicators
from nextbar.types import FloatArray

BUILT_IN = pd.Index(BUILT_IN_COLUMNS)
FeatureFunction = Callable[[pd.DataFrame], pd.DataFrame]
INSTALLED = {"site-packages", "dist-packages"}
STDLIB = sysconfig.get_path("stdlib")


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """The recipe of a feature matrix, small enough to travel to a worker and to be stored.

    Attributes:
        warmup: Bars before the first sample.
        function: ``module:function`` of the user's columns, or None.
        function_only: Leave the built-in columns out.
    """

    warmup: int = 200
    function: str | None = None
    function_only: bool = False

    @classmethod
    def of(cls, config: CommonConfig) -> FeatureSpec:
        """The spec that a configuration asks for."""
        return cls(warmup=config.warmup, function=config.features, function_only=config.features_only)

    def frame(self, bars: pd.DataFrame) -> pd.DataFrame:
        """Feature columns of one ticker's bars without a hole, a row per bar.

        Args:
            bars: Market-format bars; indicators are computed unless all their columns are there.

        Raises:
            FeatureError: The user's function cannot be found, raised, or returned something else than asked.
        """
        known = [bars[name].to_numpy(dtype="float64") for name in BUILT_IN_COLUMNS if name in bars]
        values = np.column_stack(known) if len(known) == len(BUILT_IN_COLUMNS) else built_in_values(bars)
        built_in = pd.DataFrame(values, index=bars.index, columns=BUILT_IN)
        if self.function is None:
            return built_in
        own = _call(self.function, bars[[name for name in MARKET_COLUMNS if name in bars]].copy())
        if self.function_only:
            return own
        if clash := sorted(set(own.columns) & set(built_in.columns)):
            raise FeatureError(f"{self.function} returned columns that exist already: {', '.join(clash)}; rename them")
        return pd.concat([built_in, own], axis=1)


def built_in_values(bars: pd.DataFrame) -> FloatArray:
    """[bars, columns] close and indicators of one ticker's bars without a hole."""
    close = bars["Close"].to_numpy(dtype="float64")
    # Columns put into a frame one after the other would take longer than the indicators (measured: sixfold).
    return np.column_stack([close, *indicators(close).values()])


def _call(name: str, bars: pd.DataFrame) -> pd.DataFrame:
    """The user's columns, checked for shape and type."""
    function = load_function(name)
    index = bars.index
    try:
        with _working_folder():  # for what it imports when it is called
            own = function(bars)
    except Exception as error:
        raise FeatureError(f"{name} raised {type(error).__name__}: {error}") from error
    if not isinstance(own, pd.DataFrame) or own.shape[1] == 0:
        raise FeatureError(
            f"{name} should return a DataFrame with at least one column, it returned {type(own).__name__}"
        )
    if not own.index.equals(index):
        raise FeatureError(f"{name} should return one row per bar ({len(index)} rows, same index), got {len(own)} rows")
    own = own.rename(columns=str)
    if bad := [column for column in own.columns if set("[]<") & set(column)]:
        raise FeatureError(f"{name}: XGBoost takes no column names with [, ] or <; rename {', '.join(bad)}")
    if own.columns.has_duplicates:
        raise FeatureError(f"{name} returned columns of the same name: {', '.join(own.columns)}; rename one")
    try:
        return own.astype("float64")
    except (TypeError, ValueError) as error:
        raise FeatureError(f"{name} should return numbers: {error}") from error


def load_function(name: str) -> FeatureFunction:
    """Import ``module:function``; the working folder is searched after the installed modules.

    Raises:
        FeatureError: No such module or function.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise FeatureError(f"--features expects module:function, got {name!r}")
    try:
        with _working_folder():
            function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        file = getattr(sys.modules.get(module), "__file__", None)
        raise FeatureError(
            f"--features {name}: {error}{f' ({file})' if file else ''}; it is looked for in {Path.cwd()}, "
            "after PYTHONPATH and the installed packages: give the module a name that none of them has"
        ) from error
    if not callable(function):
        raise FeatureError(f"--features {name} is {type(function).__name__}, expected a function of one DataFrame")
    return cast("FeatureFunction", function)


def source_digest(name: str) -> str:
    """Digest of the module of ``module:function`` and of all that it imports from outside the Python installation.

    The modules are found by reading their code; nothing is run.
    """
    entries = [*sys.path, str(Path.cwd())]
    roots = [Path(entry) for entry in entries if not (INSTALLED & {*Path(entry).parts} or entry.startswith(STDLIB))]
    sources: dict[str, bytes] = {}
    _add_sources(name.partition(":")[0], roots, sources)
    return hashlib.sha256(repr(sorted(sources.items())).encode()).hexdigest()


def _add_sources(module: str, roots: Sequence[Path], sources: dict[str, bytes]) -> None:
    """Add the files of a module, of its packages and of its imports, as far as they are in the roots."""
    parts = module.split(".")
    place = Path(*parts)
    for path in (root / file for root in roots for file in (place.with_suffix(".py"), place / "__init__.py")):
        if str(path) in sources or not path.is_file():
            continue
        sources[str(path)] = path.read_bytes()
        package = parts if path.name == "__init__.py" else parts[:-1]
        with suppress(SyntaxError, ValueError):  # the run says what is wrong with it
            for imported in _imports(ast.parse(sources[str(path)]), package):
                _add_sources(imported, roots, sources)
    if len(parts) > 1:
        _add_sources(".".join(parts[:-1]), roots, sources)


def _imports(tree: ast.Module, package: list[str]) -> Iterator[str]:
    """Absolute names of all that code in a package imports; some are functions, which have no file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = [*above, *(node.module.split(".") if node.module else [])]
            yield from (".".join([*base, alias.name]) for alias in node.names)


@contextmanager
def _working_folder() -> Iterator[None]:
    """Let the user's modules be imported from the working folder while the block is open.

    The folder comes last, so that no file in it is taken for a module of Python or of an installed package.
    """
    here = str(Path.cwd())
    if here in sys.path:
        yield
        return
    sys.path.append(here)
    try:
        yield
    finally:
        if here in sys.path:  # the user's module may have changed the list
            sys.path.remove(here)
