"""StockDataProcessor under the names that users' scripts know."""

from __future__ import annotations

import numpy as np
import pytest

from nextbar.config import TrainConfig, WalkForwardConfig
from nextbar.datasets.processor import StockDataProcessor
from nextbar.datasets.samples import clean_bars
from nextbar.errors import BadBarsError, ConfigError, NotEnoughHistoryError
from nextbar.evaluation.walkforward import FoldTask, fit_fold
from nextbar.features.indicators import BUILT_IN_COLUMNS
from nextbar.models.registry import model_of
from nextbar.models.reproducibility import digest_arrays
from nextbar.types import Border


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
    with pytest.raises(BadBarsError, match="X: 3 dates occur twice, the first 2010-01-05"):
        clean_bars("X", twice)
    with pytest.raises(BadBarsError, match="none of 400 bars has four positive prices"):
        clean_bars("X", bars.assign(Close=np.nan))


@pytest.mark.parametrize("kind", ["rf", "xgb", "lstm"])
@pytest.mark.parametrize("out_of_sample", [False, True], ids=["training run", "walk-forward"])
def test_what_trains_is_what_the_two_calls_return(bars, kind, out_of_sample):
    """Digest for digest, the samples and features of a fold are those of the two calls that the specification names."""
    make = WalkForwardConfig if out_of_sample else TrainConfig
    config = make(model=kind, warmup=60, no_tune=True, epochs=1, sequence_length=8, batch_size=128)
    border = Border(train=60, val=250, test=300, end=380)
    task = FoldTask(
        name="X",
        config=config,
        model=model_of(kind, config),
        fold=0,
        borders={"X": border},
        search=False,
        out_of_sample=out_of_sample,
    )
    fold = fit_fold(task, {"X": clean_bars("X", bars)}, lambda _line: None)
    processor = StockDataProcessor(config)
    splits = processor.prepare_for_classification_splits(
        processor.add_technical_indicators(bars), ticker="X", border=border, out_of_sample=out_of_sample
    )
    parts = [splits.train, splits.val, splits.test]
    assert fold.digests["features"] == digest_arrays([splits.table.features])
    assert fold.digests["splits"] == digest_arrays([array for part in parts for array in (part.rows, part.y)])
    for name in ("train", "val", "test"):
        trained, public = getattr(fold.panel[0], name), getattr(splits, name)
        assert len(public.y) > 40
        for array in ("X", "y", "dates", "prices", "next_returns", "rows"):
            assert digest_arrays([getattr(trained, array)]) == digest_arrays([getattr(public, array)])


def test_indicator_columns_are_taken_as_they_are(bars):
    """What `add_technical_indicators` returned, or a reader put in its place, is what X holds; else it is computed."""
    processor = StockDataProcessor(TrainConfig(warmup=60))
    with_columns = processor.add_technical_indicators(bars)
    plain, same, other = (
        processor.prepare_for_classification_splits(frame)
        for frame in (bars, with_columns, with_columns.assign(RSI=7.0))
    )
    assert digest_arrays([same.train.X, same.test.X]) == digest_arrays([plain.train.X, plain.test.X])
    assert (other.train.X[:, BUILT_IN_COLUMNS.index("RSI")] == 7.0).all()
    some = processor.prepare_for_classification_splits(with_columns.assign(RSI=7.0).drop(columns="MACD"))
    assert digest_arrays([some.train.X]) == digest_arrays([plain.train.X])


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ("AAPL", "'AAPL'"),
        (200, "200"),
        ({"warmup": 60}, "'warmup': 60"),
        (TrainConfig, "TrainConfig"),
        (False, "False"),
    ],
    ids=["text", "number", "dict", "class", "bool"],
)
def test_wrong_argument_is_refused_at_once(wrong, text):
    """Anything but a configuration is named, with what was expected."""
    with pytest.raises(
        ConfigError, match=r"expects a configuration such as TrainConfig\(warmup=200\), got .*"
    ) as caught:
        StockDataProcessor(wrong)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda frame: "AAPL", "got a str"),
        (lambda frame: frame["Close"], "got a Series"),
        (lambda frame: frame.reset_index(drop=True), "got a DataFrame with a RangeIndex"),
        (lambda frame: frame.drop(columns=["Open", "Low"]), "got a frame without Open, Low"),
        (lambda frame: frame.iloc[::-1], "got days that are not in order"),
    ],
    ids=["text", "series", "no dates", "no open", "backwards"],
)
def test_bars_of_another_form_are_refused(bars, spoil, text):
    """Each method that takes bars says what it expected and what came."""
    processor = StockDataProcessor()
    for method in (
        processor.add_technical_indicators,
        processor.prepare_for_classification_splits,
        processor.prepare_for_sequences,
    ):
        with pytest.raises(ConfigError, match="expected the bars of one ticker, oldest first") as caught:
            method(spoil(bars))
        assert text in str(caught.value)


def test_wrong_shares_are_refused(bars):
    """A share outside its limits, or beside a border, is an error."""
    processor = StockDataProcessor()
    with pytest.raises(ConfigError, match=r"^train_split expects at most 0\.99, got 1\.5"):
        processor.prepare_for_classification_splits(bars, train_split=1.5)
    with pytest.raises(ConfigError, match=r"^val_split expects more than 0, got 0"):
        processor.prepare_for_sequences(bars, val_split=0)
    with pytest.raises(ConfigError, match="expects a border or shares, got both"):
        processor.prepare_for_classification_splits(
            bars, train_split=0.5, border=Border(train=200, val=300, test=350, end=400)
        )
