"""The LSTM's windows, scalers and targets: what each split may see."""

from __future__ import annotations

import numpy as np
import pytest

from nextbar.config import TrainConfig
from nextbar.datasets.processor import StockDataProcessor
from nextbar.datasets.samples import Splits, make_splits
from nextbar.datasets.sequences import Sequences, TickerScaler, fit_scaler, make_sequences, window_ends
from nextbar.errors import NotEnoughHistoryError

LENGTH = 6


@pytest.fixture
def make_data(make_table, make_border):
    """One ticker with a random walk of 100 bars, splits at 10, 40, 60, 100."""

    def data(seed: int = 0, *, name: str = "T", close: np.ndarray | None = None, out_of_sample: bool = False):
        walk = 50 * np.exp(np.cumsum(np.random.default_rng(seed).normal(0, 0.02, 100))) if close is None else close
        table = make_table(walk, warmup=10)
        object.__setattr__(table, "ticker", name)
        border = make_border(10, 40, 60, 90 if out_of_sample else 100)
        return make_splits(table, border, purge=1, out_of_sample=out_of_sample)

    return data


def of_test(data: Splits, scaler: TickerScaler) -> Sequences:
    """The windows that a fitted network predicts from."""
    ends = window_ends(data.table, data.decisions, length=LENGTH)
    features = scaler.scale_features(data.table.features)
    return Sequences(features=features, target=np.full(len(features), np.nan, np.float32), ends=ends, length=LENGTH)


def row_numbers(part: Sequences, scaler) -> np.ndarray:
    """[windows, length] row numbers that the windows hold, read back from the second feature."""
    held = np.stack([part.features[end - part.length + 1 : end + 1, 1] for end in part.ends]).astype(np.float64)
    return np.rint(held * scaler.data_range_[1] + scaler.data_min_[1]).astype(int)


def test_windows_hold_the_rows_they_may(make_data):
    """Train windows lie inside train; validation and test windows reach back for context, never into the warm-up."""
    data = make_data()
    sets = make_sequences([data], length=LENGTH, scaler_fit="train")
    scaler = sets.scalers["T"]
    parts = (sets.train, sets.val, of_test(data, scaler))
    train, val, test = (row_numbers(part, scaler.features) for part in parts)
    assert (train.min(), train.max()) == (10, 38)
    assert (val.min(), val.max()) == (40 - LENGTH + 1, 58)
    # The first test window: five rows of the train region's tail as context, and the first test day.
    assert test[0].tolist() == list(range(60 - LENGTH + 1, 61))
    assert test[:, -1].tolist() == list(range(60, 99))
    for held in (train, val, test):
        assert (np.diff(held, axis=1) == 1).all()


def test_target_is_the_next_close(make_data):
    """A window's target is the scaled close of the bar after its last row; the last row of a split has none."""
    data = make_data()
    sets = make_sequences([data], length=LENGTH, scaler_fit="train")
    for part in (sets.train, sets.val):
        rows = row_numbers(part, sets.scalers["T"].features)[:, -1]
        expected = sets.scalers["T"].scale_price(data.table.close[rows + 1])
        np.testing.assert_allclose(part.target[part.ends], expected, atol=1e-6)
    assert np.isnan(sets.train.target[[39, 59]]).all()


def test_training_rows_hold_no_test(make_data):
    """What the network is handed for training has no trace of a test row: no feature, no target."""
    sets = make_sequences([make_data()], length=LENGTH, scaler_fit="train")
    assert (sets.train.features[60:] == 0).all()
    assert np.isnan(sets.train.target[59:]).all()


@pytest.mark.parametrize(("scaler_fit", "stop"), [("train", 40), ("partition", 60)])
def test_scaler_sees_its_rows_alone(make_data, scaler_fit, stop):
    """Scalers span train without its validation tail, or train with it if asked; later bars do not move them."""
    data = make_data()
    sets = make_sequences([data], length=LENGTH, scaler_fit=scaler_fit)
    scaler = sets.scalers["T"]
    close = data.table.close
    assert scaler.target.data_min_[0] == close[10:stop].min()
    assert scaler.target.data_max_[0] == close[10:stop].max()
    assert scaler.features.data_max_[1] == stop - 1
    later = close.copy()
    later[stop:] *= 3
    again = make_sequences([make_data(close=later)], length=LENGTH, scaler_fit=scaler_fit)
    assert again.scalers["T"].target.data_max_[0] == scaler.target.data_max_[0]


def test_future_does_not_reach_windows(make_data):
    """Changing every close of test leaves training and validation windows and targets bit for bit."""
    walk = make_data().table.close.copy()
    other = walk.copy()
    other[60:] *= 5
    one, two = (make_sequences([make_data(close=x)], length=LENGTH, scaler_fit="train") for x in (walk, other))
    for name in ("train", "val"):
        before, after = getattr(one, name), getattr(two, name)
        assert before.features.tobytes() == after.features.tobytes()
        assert before.target.tobytes() == after.target.tobytes()
        assert before.ends.tobytes() == after.ends.tobytes()


def test_validation_is_later_than_train_per_ticker(make_data):
    """Every ticker has validation windows, and each of its validation targets is later than all its training ones."""
    panel = [make_data(seed, name=name) for seed, name in enumerate(("A", "B", "C"))]
    sets = make_sequences(panel, length=LENGTH, scaler_fit="train")
    for i in range(3):
        train, val = (
            part.ends[(part.ends >= i * 100) & (part.ends < i * 100 + 100)] for part in (sets.train, sets.val)
        )
        assert len(train) == 24
        assert len(val) == 19
        assert train.max() + 1 < val.min() + 1


def test_windows_never_cross_tickers(make_data):
    """In the joined rows no window of one ticker holds a row of another."""
    panel = [make_data(seed, name=name) for seed, name in enumerate("AB")]
    sets = make_sequences(panel, length=LENGTH, scaler_fit="train")
    for part in (sets.train, sets.val):
        assert ((part.ends - part.length + 1) // 100 == part.ends // 100).all()
    alone = make_sequences(panel[1:], length=LENGTH, scaler_fit="train")
    np.testing.assert_array_equal(sets.train.features[100:], alone.train.features)
    one, other = (made.scalers["B"].scale_features(panel[1].table.features) for made in (sets, alone))
    np.testing.assert_array_equal(one, other)


def test_no_window_spans_a_hole_or_a_missing_value(make_table):
    """A window with a hole inside or a NaN feature is left out; a hole before its first row does not matter."""
    dates = np.datetime64("2020-01-01") + np.arange(30)
    dates[12:] += np.timedelta64(20, "D")
    table = make_table(np.arange(1.0, 31.0), dates=dates)
    rows = np.arange(30)
    assert window_ends(table, rows, length=4, first=0).tolist() == [*range(3, 12), *range(15, 30)]
    assert window_ends(table, rows, length=4, first=5).tolist() == [*range(8, 12), *range(15, 30)]
    table.features[20, 0] = np.nan
    assert window_ends(table, rows, length=4, first=0).tolist() == [*range(3, 12), *range(15, 20), *range(24, 30)]


def test_share_outside_the_scaler(make_table):
    """The share of rows with a feature beyond the fitted range is counted; NaN rows do not spoil the fit."""
    table = make_table(np.arange(1.0, 31.0))
    table.features[3, 0] = np.nan
    scaler = fit_scaler(table, 0, 20)
    assert scaler.share_outside(table.features[15:25]) == 0.5
    assert scaler.share_outside(table.features[:0]) == 0.0
    prices = np.array([1.0, 7.5, 40.0])
    np.testing.assert_allclose(scaler.price(scaler.scale_price(prices)), prices, rtol=1e-6)


def test_no_window_is_an_error(make_data):
    """Windows longer than train are refused with the option to lower."""
    with pytest.raises(NotEnoughHistoryError, match=r"no whole window of 50 days.*--sequence-length"):
        make_sequences([make_data()], length=50, scaler_fit="train")


def test_processor_is_the_same_road(make_bars):
    """StockDataProcessor gives the sequences that the functions behind it give."""
    processor = StockDataProcessor(TrainConfig(sequence_length=20, warmup=60))
    sets = processor.prepare_for_sequences(make_bars(400).drop(columns="Adj"), ticker="T", train_split=0.75)
    assert sets.train.length == 20
    assert sets.train.features.shape == (400, 6)
    # 340 sample rows, 255 of them before test, 25 of those for validation, the last of each split purged.
    assert len(sets.val.ends) == 25 - 1
    assert len(sets.train.ends) == 255 - 25 - 1 - 19
