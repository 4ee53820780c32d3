"""From a probability to a class, from a class to a position."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

CLASS_TO_SIGNAL: Mapping[int, int] = MappingProxyType({0: 0, 1: 1})
"""Position taken for each predicted class: 1 (up) is long, 0 is flat. Nothing is sold short."""


def classify(probability: npt.ArrayLike, threshold: npt.ArrayLike) -> npt.NDArray[np.int8]:
    """Class 1 where the probability reaches the threshold (``>=``), else 0.

    Args:
        probability: Predicted probability of class 1, any shape.
        threshold: One number, or an array that broadcasts against ``probability``.

    Returns:
        The broadcast shape of the two.
    """
    return np.greater_equal(probability, threshold).astype(np.int8)


def to_signal(predicted: npt.ArrayLike) -> npt.NDArray[np.int8]:
    """Position of each predicted class 0/1, any shape, by :data:`CLASS_TO_SIGNAL`."""
    table = np.array([CLASS_TO_SIGNAL[0], CLASS_TO_SIGNAL[1]], dtype=np.int8)
    return table[np.asarray(predicted, dtype=np.intp)]
