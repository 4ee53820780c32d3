"""Declare a model's feature columns and their warm-up, and compute the user's own columns."""

from __future__ import annotations

import ast
import hashlib
import importlib
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import pandas as pd

from nextbar.config import FEATURE_SETS, DataOptions, feature_names
from nextbar.errors import FeatureError, NextbarError, remark
from nextbar.features.indicators import BUILT_IN_COLUMNS, MARKET_COLUMNS, indicators, warmup_error
from nextbar.features.scale_free import RELATIVE_COLUMNS, RELATIVE_RECURSIVE, relative_values
from nextbar.types import FloatArray
from nextbar.words import brief, excerpt, nearest, plural

BUILT_IN = pd.Index(BUILT_IN_COLUMNS)
OWN_FUNCTION = "your feature function"
"""How an error in the user's code begins."""
FeatureFunction = Callable[[pd.DataFrame], pd.DataFrame]
Source: TypeAlias = str | FeatureFunction
"""A function of a DataFrame, or its name as ``module:function``."""
LEVELS, RELATIVE = FEATURE_SETS
PANEL = "panel: "
"""Prefix of columns over all tickers in a frame of bars."""
INSTALLED = {"site-packages", "dist-packages"}
STDLIB = sysconfig.get_path("stdlib")


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """The recipe of a feature matrix.

    Attributes:
        functions: The user's columns: functions of a DataFrame, or their names as ``module:function``.
        sets: Built-in columns: those of `FEATURE_SETS` that are named here.
        panel: The user's columns over all tickers: functions of a long DataFrame, or their names; see `panel_columns`.
    """

    warmup: int = 200
    functions: tuple[Source, ...] = ()
    sets: tuple[str, ...] = (LEVELS,)
    panel: tuple[Source, ...] = ()

    @classmethod
    def of(cls, config: DataOptions) -> FeatureSpec:
        """Read the spec that a configuration asks for."""
        names = feature_names(config.features)
        sets = tuple(name for name in FEATURE_SETS if name in names) or (() if config.features_only else (LEVELS,))
        own = tuple(name for name in names if name not in FEATURE_SETS)
        panel = tuple(feature_names(config.panel_features))
        return cls(warmup=config.warmup, functions=own, sets=sets, panel=panel)

    @classmethod
    def parse(cls, features: Any, panel: Any = None, *, warmup: int) -> FeatureSpec:
        """Read what a caller asks for."""
        parts, panels = _parts(features), () if panel is None else tuple(_parts(panel))
        known = ", ".join(map(repr, FEATURE_SETS))
        _refuse_others(parts, f"features expects {known}, a function of one DataFrame", FEATURE_SETS)
        _refuse_others(panels, "panel_features expects a function of one long DataFrame", ())
        if panel is not None and not panels:
            raise FeatureError("panel_features expects at least one function, got none; leave it out")
        if not parts and not panels:
            raise FeatureError(f"features expects at least one column, got none; expected {known}, or a function")
        sets = tuple(name for name in FEATURE_SETS if name in parts)
        own = tuple(part for part in parts if part not in sets)
        return cls(warmup=warmup, functions=own, sets=sets, panel=panels)

    @property
    def name(self) -> str | None:
        """Names of the user's functions in documents and messages."""
        return ",".join(map(name_of, self.functions)) or None

    @property
    def panel_name(self) -> str | None:
        """Names of the user's functions over all tickers."""
        return ",".join(map(name_of, self.panel)) or None

    @property
    def option(self) -> str | None:
        """The value of ``--features`` that asks for it."""
        sets = () if self.sets == (LEVELS,) else self.sets
        return ",".join([*sets, *map(name_of, self.functions)]) or None

    @property
    def warmup_error(self) -> dict[str, float]:
        """Stated error of its recursive columns after the warm-up; see `nextbar.features.indicators.warmup_error`."""
        found = warmup_error(self.warmup) if LEVELS in self.sets or not self.sets else {}
        return found | (warmup_error(self.warmup, RELATIVE_RECURSIVE) if RELATIVE in self.sets else {})

    def check_names(self) -> None:
        """Import the functions that are given by name, so that a wrong name is refused before the work."""
        for option, sources in (("--features", self.functions), ("--panel-features", self.panel)):
            for source in sources:
                if isinstance(source, str):
                    load_function(source, option)

    def frame(self, bars: pd.DataFrame) -> pd.DataFrame:
        """Compute feature columns of one ticker's bars without a hole, a row per bar."""
        found = [_SETS[name](bars) for name in self.sets]
        for source in self.functions:
            _add(found, _call(source, bars[[name for name in MARKET_COLUMNS if name in bars]].copy()), name_of(source))
        if self.panel:
            _add(found, _of_panel(bars, str(self.panel_name)), str(self.panel_name))
        return found[0] if len(found) == 1 else pd.concat(found, axis=1)


def panel_columns(sources: Sequence[Source], frames: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Compute columns over all tickers from their bars: ticker → a row per bar, columns with the prefix `PANEL`.

    A function gets one long frame, a row per bar, sorted by ticker, then date: ``ticker date Open High Low Close
    Volume``. It returns a frame with the same index; its columns that the given frame has, too, are left out.
    """
    names = sorted(frames)
    market = {name: frames[name][list(MARKET_COLUMNS)] for name in names}
    long = pd.concat(market, names=["ticker", "date"]).reset_index()
    found: list[pd.DataFrame] = []
    for source in sources:
        _add(found, _call(source, long.copy(), option="--panel-features", given=list(map(str, long))), name_of(source))
    whole = pd.concat(found, axis=1).add_prefix(PANEL)
    ends = np.cumsum([len(frames[name]) for name in names])[:-1]
    parts = np.split(whole.to_numpy(dtype=np.float64), ends)
    return {
        name: pd.DataFrame(part, index=frames[name].index, columns=whole.columns)
        for name, part in zip(names, parts, strict=True)
    }


def _of_panel(bars: pd.DataFrame, name: str) -> pd.DataFrame:
    """Take the columns over all tickers out of bars that have them."""
    own = bars[[column for column in bars if str(column).startswith(PANEL)]]
    if own.empty and len(bars):
        raise FeatureError(f"{name} needs the bars of all tickers together; these are of one ticker")
    return own.rename(columns=lambda column: str(column).removeprefix(PANEL))


def _add(found: list[pd.DataFrame], own: pd.DataFrame, name: str) -> None:
    """Add columns to those before, which must have other names."""
    if clash := sorted({column for part in found for column in part.columns} & set(own.columns)):
        raise FeatureError(f"{name} returned columns that exist already: {', '.join(clash)}; rename them")
    found.append(own)


def _parts(given: Any) -> list[Any]:
    """Split a list of names and functions, and names that are separated by commas."""
    several = list(given) if isinstance(given, list | tuple) else [given]
    return [part for one in several for part in (feature_names(one) if isinstance(one, str) else [one])]


def _refuse_others(parts: Sequence[Any], expected: str, sets: Sequence[str]) -> None:
    """Refuse what is neither a function, nor the name of one, nor the name of a set."""
    for part in parts:
        if not callable(part) and not (isinstance(part, str) and (part in sets or ":" in part)):
            near = nearest(str(part), sets)
            raise FeatureError(f"{expected}, its name as module:function, or a list of these; got {brief(part)}{near}")
        if callable(part) and not hasattr(part, "__qualname__"):
            raise FeatureError(
                f"features expects a function with a name, which the document of the run records; got {brief(part)}: "
                "write a function that calls it"
            )


def name_of(source: Source) -> str:
    """Name a function as ``module:function``."""
    return source if isinstance(source, str) else f"{source.__module__}:{getattr(source, '__qualname__', source)}"


def _built_in(bars: pd.DataFrame) -> pd.DataFrame:
    known = [bars[name].to_numpy(dtype="float64") for name in BUILT_IN_COLUMNS if name in bars]
    values = np.column_stack(known) if len(known) == len(BUILT_IN_COLUMNS) else built_in_values(bars)
    return pd.DataFrame(values, index=bars.index, columns=BUILT_IN)


def _relative(bars: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(relative_values(bars), index=bars.index, columns=list(RELATIVE_COLUMNS))


_SETS = {LEVELS: _built_in, RELATIVE: _relative}


def built_in_values(bars: pd.DataFrame) -> FloatArray:
    """[bars, columns] close and indicators of one ticker's bars without a hole."""
    close = bars["Close"].to_numpy(dtype="float64")
    # Columns put into a frame one after the other would take longer than the indicators (measured: sixfold).
    return np.column_stack([close, *indicators(close).values()])


def _call(source: Source, bars: pd.DataFrame, *, option: str = "--features", given: Sequence[str] = ()) -> pd.DataFrame:
    """The user's columns, checked for shape and type, without those that were ``given``."""
    function = load_function(source, option) if isinstance(source, str) else source
    name, index = name_of(source), bars.index
    try:
        with working_folder():  # for what it imports when it is called
            own = function(bars)
    except Exception as error:
        raise FeatureError(f"{OWN_FUNCTION} {name} raised {type(error).__name__}: {error}") from error
    if isinstance(own, pd.DataFrame) and given:
        own = own.drop(columns=[column for column in given if column in own])
    if not isinstance(own, pd.DataFrame) or own.shape[1] == 0:
        raise FeatureError(
            f"{name} should return a DataFrame with at least one {'new ' if given else ''}column, it returned "
            f"{type(own).__name__}"
        )
    if not own.index.equals(index):
        sides = f"({plural(len(index), 'row')}, same index), got {plural(len(own), 'row')}"
        raise FeatureError(f"{name} should return one row per bar {sides}")
    own = own.rename(columns=str)
    if bad := [column for column in own.columns if set("[]<") & set(column)]:
        raise FeatureError(f"{name}: XGBoost takes no column names with [, ] or <; rename {', '.join(bad)}")
    if own.columns.has_duplicates:
        raise FeatureError(f"{name} returned columns of the same name: {', '.join(own.columns)}; rename one")
    others = {column: values for column, values in own.items() if not pd.api.types.is_numeric_dtype(values)}
    return own.assign(**{str(column): _numbers(values, name) for column, values in others.items()}).astype("float64")


def _numbers(values: pd.Series[Any], name: str) -> pd.Series[float]:
    """Convert a column that the function ``name`` returned to numbers, and say that it held text or categories."""
    texts = values[[isinstance(value, str) for value in values]]
    kind = "categories" if isinstance(values.dtype, pd.CategoricalDtype) else "text" if len(texts) else values.dtype
    unread = texts[pd.to_numeric(texts, errors="coerce").isna()]
    shown = [excerpt(repr(one), 40) for one in [*unread[:1], *values[:1]]] or ["nothing"]
    held = f"{name} should return numbers, and the column {excerpt(values.name, 40)} holds {kind}, such as {shown[0]}"
    try:
        numbers = values.astype("float64")
    except (TypeError, ValueError) as error:
        advice = "give each value a number, or a column of its own (pandas.get_dummies)"
        raise FeatureError(f"{held}; {advice}") from error
    if kind in ("text", "categories"):
        remark(f'{held}, which is read as a number; convert the column: .astype("float64")')
    return numbers


def load_function(
    name: str,
    option: str = "--features",
    *,
    expected: str = "a function of one DataFrame",
    error: type[NextbarError] = FeatureError,
) -> Callable[..., Any]:
    """Import ``module:function``; the working folder is searched after the installed modules.

    Messages name the option that it is the value of and what was expected; they are raised as ``error``.
    """
    module, _, attribute = name.partition(":")
    if not attribute or not all(part.isidentifier() for part in module.split(".")):
        raise error(f"{option} expects module:function, {expected}; got {brief(name)}")
    try:
        with working_folder():
            found = importlib.import_module(module)
            function = getattr(found, attribute, found)
    except ModuleNotFoundError as missing:
        raise error(
            f"{option} {name}: {missing}; it is looked for in the folders of PYTHONPATH, in the installed packages and "
            f"in {Path.cwd()}, in this order"
        ) from missing
    except (Exception, SystemExit) as raised:
        raise error(f"{option} {name}: importing it raised {type(raised).__name__}: {raised}") from raised
    if function is found:
        told = "if this is not your module, give yours a name that no other has"
        raise error(
            f"{option} {name}: module {module!r} ({getattr(found, '__file__', None) or 'built in'}) has no attribute "
            f"{brief(attribute)}{nearest(attribute, dir(found)) or f'; {told}'}"
        )
    if not callable(function):
        raise error(f"{option} {name} is {type(function).__name__}, expected {expected}")
    return cast("Callable[..., Any]", function)


def source_digest(source: Source) -> str:
    """Digest of a function's module and of all that it imports from outside the Python installation.

    The modules are found by reading their code; nothing is run.
    """
    entries = [*sys.path, str(Path.cwd())]
    roots = [Path(entry) for entry in entries if not (INSTALLED & {*Path(entry).parts} or entry.startswith(STDLIB))]
    sources = _sources(name_of(source).partition(":")[0], roots)
    return hashlib.sha256(repr(sorted(sources.items())).encode()).hexdigest()


def _sources(module: str, roots: Sequence[Path]) -> dict[str, bytes]:
    """Path → content of the files of a module, of its packages and of its imports, as far as they are in the roots."""
    found, seen, waiting = dict[str, bytes](), set[str](), [module]
    while waiting:
        if (name := waiting.pop()) in seen:
            continue
        seen.add(name)
        *above, _ = parts = name.split(".")
        if above:
            waiting.append(".".join(above))
        place = Path(*parts)
        for path in (root / file for root in roots for file in (place.with_suffix(".py"), place / "__init__.py")):
            if path.is_file():
                content = found[str(path)] = path.read_bytes()
                waiting += _imports(content, tuple(parts if path.name == "__init__.py" else above))
    return found


@lru_cache(4096)  # several functions and models share most of their modules
def _imports(content: bytes, package: tuple[str, ...]) -> list[str]:
    """Absolute names of all that code in a package imports; some are functions, which have no file."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):  # the run says what is wrong with it
        return []
    found = list[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = [*above, *(node.module.split(".") if node.module else [])]
            found += (".".join([*base, alias.name]) for alias in node.names)
    return found


@contextmanager
def working_folder() -> Iterator[None]:
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
