"""Windows by index: which rows may end a window of the LSTM, without copying one."""

from __future__ import annotations

import numpy as np

from nextbar.datasets.labels import gaps
from nextbar.types import BoolArray, FeatureTable, IntArray


def window_ends(table: FeatureTable, rows: IntArray, *, length: int, first: int = 0) -> IntArray:
    """Those of ``rows`` that end a whole window: no row before ``first`` or in a warm-up, no hole, no missing feature.

    Args:
        table: One ticker's features.
        rows: Candidate last rows.
        length: Rows per window.
        first: First row that a window may contain.
    """
    starts = rows - length + 1
    broken = gaps(table.dates, table.max_gap_days)
    missing = ~(table.usable & np.isfinite(table.features).all(axis=1))
    # A gap before the first row of a window is outside it, a missing value in the first row is inside.
    holes, lacks = np.cumsum(broken), np.concatenate([[0], np.cumsum(missing)])
    enough = starts >= first
    starts = np.maximum(starts, 0)
    whole = (holes[rows] == holes[starts]) & (lacks[rows + 1] == lacks[starts])
    ends: IntArray = rows[enough & whole]
    return ends


def rows_in_windows(ends: IntArray, *, length: int, count: int) -> BoolArray:
    """[count] True for rows that some window of ``length`` rows with its last row in ``ends`` holds."""
    steps = np.zeros(count + 1, dtype=np.int64)
    np.add.at(steps, ends - length + 1, 1)
    np.add.at(steps, ends + 1, -1)
    held: BoolArray = np.cumsum(steps[:-1]) > 0
    return held
