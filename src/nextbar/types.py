"""Array aliases and records that several packages use. Rows are days of one ticker, oldest first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float64]
Float32Array: TypeAlias = npt.NDArray[np.float32]
IntArray: TypeAlias = npt.NDArray[np.int64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
DateArray: TypeAlias = npt.NDArray[np.datetime64]  # unit: day
JsonDict: TypeAlias = dict[str, Any]
Columns: TypeAlias = Mapping[str, npt.NDArray[Any]]
"""A table that travels between processes: it costs a tenth of a DataFrame to make, to send and to join."""


@dataclass(frozen=True, kw_only=True)
class FeatureTable:
    """One ticker's bars turned into numbers; every array has one row per bar.

    Attributes:
        dates: Trading days, strictly increasing.
        features: [bars, columns], NaN where an indicator is not yet defined.
        columns: Names of the feature columns, in order.
        close: Price P(t) that labels and returns are made from (forward-adjusted unless raw was asked for).
        open: Open on the same scale as ``close``.
        quote: Quoted close divided by ``close``: multiply a price by it to get what a screen showed that day.
        usable: False in the warm-up, at the start and again after each hole: such rows are never samples.
        max_gap_days: No label, return or window may span more calendar days than this between two bars.
    """

    ticker: str
    dates: DateArray
    features: FloatArray
    columns: tuple[str, ...]
    close: FloatArray
    open: FloatArray
    quote: FloatArray
    usable: BoolArray
    max_gap_days: int

    @property
    def known(self) -> BoolArray:
        """[bars] whether a row is outside a warm-up and lacks no feature."""
        complete: BoolArray = self.usable & np.isfinite(self.features).all(axis=1)
        return complete


@dataclass(frozen=True, kw_only=True)
class Border:
    """Half-open row ranges of one ticker's table: train [train, val), validation [val, test), test [test, end)."""

    train: int
    val: int
    test: int
    end: int

    @property
    def whole(self) -> bool:
        """Whether train is all there is, as in a refit."""
        return self.val == self.end


class Progress(Protocol):
    """Receives how far a use case is; the command line draws it."""

    def start(self, label: str, total: int) -> None:
        """Begin a stage of ``total`` steps."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count ``steps`` more; ``note`` names the last."""

    def finish(self) -> None:
        """End the stage."""


class Silent:
    """A Progress that shows nothing."""

    def _ignore(self, *_values: Any, **_options: Any) -> None:
        """Ignore."""

    start = advance = finish = _ignore
