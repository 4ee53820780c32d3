"""StockDataProcessor under the names that users' scripts know."""

from __future__ import annotations

import numpy as np
import pytest

from nextbar.config import TrainConfig
from nextbar.datasets.assemble import clean_bars
from nextbar.datasets.processor import StockDataProcessor
from nextbar.errors import BadBarsError, NotEnoughHistoryError
from nextbar.features.indicators import BUILT_IN_COLUMNS


@pytest.fixture
def bars(make_bars):
    """400 bars in the market format."""
    return make_bars(400).drop(columns="Adj")


def test_classification_splits_by_the_specification(bars):
    """0.8 of the samples come before test, 0.1 of those are validation, labels by plain pandas, last rows dropped."""
    splits = StockDataProcessor().prepare_for_classification_splits(bars, ticker="X")
    # 400 bars less 200 of warm-up: 160 before test, 16 of them validation.
    whole = bars["Close"].to_numpy()
    for part, start, stop in ((splits.train, 200, 344), (splits.val, 344, 360), (splits.test, 360, 400)):
        assert part.rows.tolist() == list(range(start, stop - 1))
        np.testing.assert_array_equal(part.prices, whole[start : stop - 1])
        np.testing.assert_array_equal(part.y, whole[start + 1 : stop] > whole[start : stop - 1])
        np.testing.assert_array_equal(part.next_returns, whole[start + 1 : stop] / whole[start : stop - 1] - 1)
        np.testing.assert_array_equal(part.dates, bars.index[start : stop - 1].to_numpy().astype("datetime64[D]"))
    assert splits.feature_columns == BUILT_IN_COLUMNS
    assert splits.boundaries["test"]["last"] == str(bars.index[-1].date())


def test_features_are_the_indicator_columns(bars):
    """X holds the columns of `add_technical_indicators` of that day, no NaN, none of the warm-up."""
    processor = StockDataProcessor(TrainConfig(warmup=60))
    splits = processor.prepare_for_classification_splits(bars, train_split=0.6, val_split=0.3)
    known = processor.add_technical_indicators(bars)[list(BUILT_IN_COLUMNS)].to_numpy()
    for part in (splits.train, splits.val, splits.test):
        assert part.rows.min() >= 60
        np.testing.assert_array_equal(part.X, known[part.rows])
        assert np.isfinite(part.X).all()


def test_short_history_is_an_error(bars):
    """A history within the warm-up has no sample, and says so."""
    with pytest.raises(NotEnoughHistoryError, match="X: no usable row in train"):
        StockDataProcessor().prepare_for_classification_splits(bars.iloc[:150], ticker="X")


def test_bars_without_four_prices_are_left_out(bars):
    """NaN, zero, negative and infinite prices drop the bar and are counted; the caller's frame stays as it is."""
    for row, (column, value) in enumerate([("Open", np.nan), ("High", 0.0), ("Low", -3.0), ("Close", np.inf)]):
        bars.iloc[row, bars.columns.get_loc(column)] = value
    cleaned = clean_bars("X", bars)
    assert cleaned.dropped == 4
    assert len(cleaned.frame) == 396
    assert len(bars) == 400


def test_unusable_bars_are_refused(bars):
    """Duplicate dates, and a history without a whole bar, are named."""
    twice = bars.iloc[[0, 1, 1, 2, 2, 2]]
    with pytest.raises(BadBarsError, match="X: 3 dates stand twice, the first 2010-01-05"):
        clean_bars("X", twice)
    with pytest.raises(BadBarsError, match="none of 400 bars has four positive prices"):
        clean_bars("X", bars.assign(Close=np.nan))
