"""Which columns a model sees, how many bars they need to settle, and how a user's own columns come in."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import pandas as pd

from nextbar.config import CommonConfig
from nextbar.errors import FeatureError
from nextbar.features.indicators import MARKET_COLUMNS, indicators

FeatureFunction = Callable[[pd.DataFrame], pd.DataFrame]


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
        """Feature columns of one ticker, a row per bar.

        Raises:
            FeatureError: The user's function cannot be found, raised, or returned something else than asked.
        """
        close = bars["Close"].to_numpy(dtype="float64")
        # Columns put into a frame one after the other would take longer than the indicators (measured: sixfold).
        built_in = pd.DataFrame({"Close": close, **indicators(close)}, index=bars.index)
        if self.function is None:
            return built_in
        own = _call(self.function, bars[[name for name in MARKET_COLUMNS if name in bars]].copy())
        if self.function_only:
            return own
        if clash := sorted(set(own.columns) & set(built_in.columns)):
            raise FeatureError(f"{self.function} returned columns that exist already: {', '.join(clash)}; rename them")
        return pd.concat([built_in, own], axis=1)


def _call(name: str, bars: pd.DataFrame) -> pd.DataFrame:
    """The user's columns, checked for shape and type."""
    function = load_function(name)
    index = bars.index
    try:
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
    """Import ``module:function``; modules of the current folder are found as they are by `python -m`.

    Raises:
        FeatureError: No such module or function.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise FeatureError(f"--features expects module:function, got {name!r}")
    here = _look_here()
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise FeatureError(f"--features {name}: {error}; it is looked for in {here} and on PYTHONPATH") from error
    if not callable(function):
        raise FeatureError(f"--features {name} is {type(function).__name__}, expected a function of one DataFrame")
    return cast("FeatureFunction", function)


def source_of(name: str) -> Path | None:
    """File of the module that ``module:function`` stands in; None if there is none."""
    _look_here()
    try:
        spec = find_spec(name.partition(":")[0])
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None


def _look_here() -> str:
    """Have modules of the current folder found, as `python -m` does."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    return here
