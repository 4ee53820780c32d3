"""Array aliases and the records that travel between rooms. Rows are days of one ticker, oldest first."""

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
        ticker: The symbol.
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


@dataclass(frozen=True, kw_only=True)
class Border:
    """Half-open row ranges of one ticker's table: train [train, val), validation [val, test), test [test, end)."""

    train: int
    val: int
    test: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Labelled rows of one split of one ticker.

    Attributes:
        X: [samples, columns] features known at the close of the day.
        y: [samples] 1 if the next close is higher, else 0.
        dates: [samples] the days on which the decision is taken.
        prices: [samples] close P(t) of those days.
        next_returns: [samples] P(t+1) / P(t) - 1.
        rows: [samples] positions in the ticker's table.
    """

    X: FloatArray
    y: IntArray
    dates: DateArray
    prices: FloatArray
    next_returns: FloatArray
    rows: IntArray


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Train, validation and test of one ticker, each labelled on its own.

    Attributes:
        table: The features that the samples are rows of.
        train: Samples that the weights are fitted on.
        val: Samples for early stopping and the threshold.
        test: Samples that are scored once.
        boundaries: Rows and days of each split, and under ``lost`` how many rows are no samples and why.
    """

    table: FeatureTable
    train: Samples
    val: Samples
    test: Samples
    boundaries: Mapping[str, Any]

    @property
    def feature_columns(self) -> tuple[str, ...]:
        """Names of the columns of ``X``, in order."""
        return self.table.columns


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """Windows over the rows of one or more tickers, never copied out of the rows.

    Window ``i`` is ``features[ends[i] - length + 1 : ends[i] + 1]``; its target is ``target[ends[i]]``.

    Attributes:
        features: [rows, columns] scaled features, all tickers one after the other.
        target: [rows] scaled close of the next bar, NaN where there is none.
        ends: [windows] last row of each window.
        length: Rows per window.
    """

    features: Float32Array
    target: Float32Array
    ends: IntArray
    length: int


class Progress(Protocol):
    """Where a use case says how far it is; the command line draws it, tests ignore it."""

    def start(self, label: str, total: int) -> None:
        """Begin a stage of ``total`` steps."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """``steps`` more are done; ``note`` names the last."""

    def finish(self) -> None:
        """The stage is over."""


class Silent:
    """A Progress that shows nothing."""

    def start(self, label: str, total: int) -> None:
        """Ignore."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Ignore."""

    def finish(self) -> None:
        """Ignore."""
