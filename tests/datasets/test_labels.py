"""A label is made from the next bar of its own split and from nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextbar.datasets.samples import Samples, make_samples, make_splits
from nextbar.errors import NotEnoughHistoryError
from nextbar.features.indicators import gaps


def test_label_by_hand(make_table):
    """UP is a higher next close, equal or lower is 0; the last row has no label."""
    labels = make_samples(make_table([1.0, 2.0, 2.0, 1.0, 4.0]), 0, 5, purge=1)
    assert labels.rows.tolist() == [0, 1, 2, 3]
    assert labels.y.tolist() == [1, 0, 0, 1]
    np.testing.assert_array_equal(labels.next_returns, [1.0, 0.0, -0.5, 3.0])


@pytest.mark.parametrize(("purge", "rows"), [(1, 4), (2, 3), (4, 1), (5, 0), (9, 0)])
def test_purge_drops_rows_at_the_end(make_table, purge, rows):
    """--purge n drops n rows; the labels of the others stay those of the next bar."""
    labels = make_samples(make_table([1.0, 2.0, 2.0, 1.0, 4.0]), 0, 5, purge=purge)
    assert labels.rows.tolist() == list(range(rows))
    assert labels.y.tolist() == [1, 0, 0, 1][:rows]


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_bars_have_no_label(make_table, count):
    """A split of no bar or one bar has no sample."""
    assert len(make_samples(make_table(np.ones(count)), 0, count, purge=1).y) == 0
    assert len(make_samples(make_table(np.ones(9)), 4, 4 + count, purge=1).y) == 0


def test_no_label_spans_a_hole(make_table):
    """A row whose next bar is more than --max-gap-days away is dropped, one exactly that far is kept."""
    dates = np.array(["2020-01-01", "2020-01-02", "2020-01-17", "2020-02-02", "2020-02-03"], dtype="datetime64[D]")
    assert gaps(dates, 15).tolist() == [False, False, False, True, False]
    labels = make_samples(make_table(np.arange(1.0, 6.0), dates=dates), 0, 5, purge=1)
    assert labels.rows.tolist() == [0, 1, 3]
    narrow = make_table(np.arange(1.0, 6.0), dates=dates, max_gap_days=14)
    assert make_samples(narrow, 0, 5, purge=1).rows.tolist() == [0, 3]


def bits(part: Samples) -> list[bytes]:
    return [getattr(part, name).tobytes() for name in ("X", "y", "dates", "prices", "next_returns", "rows")]


@settings(max_examples=60, deadline=None)
@given(
    cut=st.sampled_from([40, 60, 90]), offset=st.integers(0, 5), factor=st.floats(0.01, 100), seed=st.integers(0, 99)
)
def test_bars_after_a_border_change_nothing_before_it(make_table, make_border, **drawn):
    """Changing any bar from the first of a later split on leaves labels and returns before the border as they are."""
    cut, offset, factor, seed = (drawn[name] for name in ("cut", "offset", "factor", "seed"))
    close = 50 * np.exp(np.cumsum(np.random.default_rng(seed).normal(0, 0.01, 100)))
    other = close.copy()
    other[cut + offset :] *= factor
    border = make_border(10, 40, 60, 90)
    before, after = (make_splits(make_table(x), border, purge=1) for x in (close, other))
    for name, first in (("train", 40), ("val", 60), ("test", 90)):
        if first <= cut:
            assert bits(getattr(before, name)) == bits(getattr(after, name))


@pytest.mark.parametrize("purge", [1, 3])
def test_rows_of_each_split(make_table, make_border, purge):
    """Samples are the rows of the split less the purged ones; no row is in two splits, none in the warm-up."""
    splits = make_splits(make_table(np.tile([1.0, 2.0], 50)), make_border(10, 40, 60, 90), purge=purge)
    assert splits.train.rows.tolist() == list(range(10, 40 - purge))
    assert splits.val.rows.tolist() == list(range(40, 60 - purge))
    assert splits.test.rows.tolist() == list(range(60, 90 - purge))


def test_walk_forward_rows_keep_the_return_over_the_border(make_table, make_border):
    """Out of sample the last test row keeps its return, taken from the next bar; the last bar of all has none."""
    close = np.arange(1.0, 101.0) + np.tile([0, 3], 50)
    inside = make_splits(make_table(close), make_border(10, 40, 60, 90), purge=3, out_of_sample=True)
    assert inside.test.rows.tolist() == list(range(60, 90))
    assert inside.test.next_returns[-1] == close[90] / close[89] - 1
    assert inside.val.rows[-1] == 56
    at_end = make_splits(make_table(close), make_border(10, 40, 60, 100), purge=3, out_of_sample=True)
    assert at_end.test.rows.tolist() == list(range(60, 99))


def test_rows_lacking_a_feature_are_left_out(make_table, make_border):
    """A row with a NaN or infinite feature is no sample, its neighbours are."""
    table = make_table(np.tile([1.0, 2.0], 50))
    table.features[20, 1], table.features[70, 1] = np.nan, np.inf
    splits = make_splits(table, make_border(10, 40, 60, 90), purge=1)
    assert 20 not in splits.train.rows
    assert {19, 21} <= set(splits.train.rows.tolist())
    assert 70 not in splits.test.rows


def test_nothing_to_learn_is_said(make_table, make_border):
    """Train with one class, or a split without rows, is a stated reason and not a crash."""
    with pytest.raises(NotEnoughHistoryError, match="all 29 days of train move the same way"):
        make_splits(make_table(np.arange(1.0, 101.0)), make_border(10, 40, 60, 90), purge=1)
    with pytest.raises(NotEnoughHistoryError, match="no usable row in validation"):
        make_splits(make_table(np.tile([1.0, 2.0], 50)), make_border(10, 40, 41, 90), purge=1)
