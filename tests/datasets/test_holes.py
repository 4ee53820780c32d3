"""Indicators, a user's columns and the warm-up begin again after a hole; without one every bit stays what it was."""

from __future__ import annotations

import platform
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nextbar.config import TrainConfig
from nextbar.datasets.processor import StockDataProcessor
from nextbar.datasets.samples import Samples, Splits, build_table, make_samples, usable_rows
from nextbar.datasets.sequences import fit_scaler, make_sequences, window_ends
from nextbar.errors import FeatureError, NotEnoughHistoryError
from nextbar.features.indicators import BUILT_IN_COLUMNS, stretches
from nextbar.features.spec import FeatureSpec
from nextbar.models.reproducibility import digest_arrays
from nextbar.types import Border

GAP = 15
WARMUP = 60


def cents(count: int, seed: int) -> pd.DataFrame:
    """Bars from whole numbers alone, so that they are the same bits on every machine."""
    rng = np.random.default_rng(seed)
    close = np.maximum(10_000 + np.cumsum(rng.integers(-90, 93, count)), 500)
    opened = close + rng.integers(-40, 41, count)
    high, low = np.maximum(opened, close) + rng.integers(0, 50, count), np.minimum(opened, close)
    low = low - rng.integers(0, 50, count)
    columns = {"Open": opened / 100, "High": high / 100, "Low": low / 100, "Close": close / 100}
    volume = rng.integers(1000, 9000, count).astype(float)
    days = pd.bdate_range("2010-01-04", periods=count, name="Date", unit="s")
    return pd.DataFrame({**columns, "Volume": volume}, index=days)


def holed(*lengths: int, seed: int = 3) -> pd.DataFrame:
    """Runs of bars with half a year between one and the next, each at another price level."""
    frame = cents(sum(lengths), seed)
    run = np.repeat(np.arange(len(lengths)), lengths)
    prices = ["Open", "High", "Low", "Close"]
    frame[prices] = frame[prices].to_numpy() * (1.0 + 9.0 * run)[:, None]
    return frame.set_index((frame.index + pd.to_timedelta(182 * run, unit="D")).rename("Date"))


CALLS: list[pd.DataFrame] = []


def moves(bars: pd.DataFrame) -> pd.DataFrame:
    """A user's columns; it refuses few bars, and remembers what it was called with."""
    CALLS.append(bars)
    if len(bars) < 30:
        raise ValueError("too few bars")
    return pd.DataFrame({"move": bars["Close"].pct_change().fillna(0.0), "slow": bars["Close"].rolling(40).mean()})


def moving(bars: pd.DataFrame) -> pd.DataFrame:
    """Columns that depend on how many bars there are."""
    return pd.DataFrame({f"of_{len(bars)}": bars["Close"]})


def gappy(bars: pd.DataFrame) -> pd.DataFrame:
    """A column that is missing on every fortieth row: of 200 bars on the rows 19, 59, 99, 139 and 179."""
    return pd.DataFrame({"gappy": bars["Close"].where(np.arange(len(bars)) % 40 != 19)})


def never(bars: pd.DataFrame) -> pd.DataFrame:
    """A column that needs more bars than there are."""
    return pd.DataFrame({"fine": bars["Close"], "beta_500": bars["Close"].rolling(500).mean()})


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of `moves` as the command line takes it; the other functions are beside it."""
    CALLS.clear()
    functions = {function.__name__: function for function in (moves, moving, gappy, never)}
    monkeypatch.setitem(sys.modules, "holes_own", SimpleNamespace(**functions))
    return "holes_own:moves"


DIGESTS = {
    1: {
        "features": "f5b0c7e3d5376af11feb13b9e91c3f5db32eb0855e76a46e61cc37d7de1547f7",
        "train": "34bab20a72ccd695e792f9b15f361c1382bea01227215602957e87850f90fd13",
        "val": "619c58f90df8cb83b163eaa21d67ea9de16877ef084eebcf7550282f5941ce99",
        "test": "782ca9c04c130ecaefeccb5a2a78db83e3531710e0dc30654f79f22449b31acb",
        "windows": "fb838d6e5e525f2ea15fd48fe5b8d057a678f62b44b7cd0b7b8bf31ed042c2a5",
        "scaler": "3843ee14fd5540f117563d13fc30419f75b8ca1437364d79c0a9ce06e8f4f29f",
    },
    2: {
        "features": "0a489d2c4c95734bda97f87feb533d6b9bfac1eac6d6f43fba125a993dd62647",
        "train": "acea72234617c8f22a00849cd28e80c43d4935794577f74cf236ae8c124aba6d",
        "val": "f086698de233597780769f6a22a66108d1bcf4e9c5fe5bf632efc208ff494d03",
        "test": "e97f57a2074d6a1c2b55ae0b965b7fd3568d866257cb8e762a5ccf29896d86ee",
        "windows": "613692b704c5a145d9cd01b0542f28c77bf8edc6049e69f6e9443309f01ce1ff",
        "scaler": "f212cf75d63be0489674c29edb255766527244bae3fe809886dca55c94140b27",
    },
}
"""Made with version 0.1.0."""


def arrays(part: Samples) -> list[Any]:
    return [part.X, part.y, part.dates, part.prices, part.next_returns, part.rows]


@pytest.mark.skipif(platform.machine().lower() not in {"x86_64", "amd64"}, reason="the digests are those of x86-64")
@pytest.mark.parametrize("seed", DIGESTS)
def test_without_a_hole_every_bit_is_that_of_version_0_1_0(seed: int) -> None:
    """Features, samples, windows and scalers have the digests that version 0.1.0 gave them."""
    config = TrainConfig(warmup=WARMUP)
    border = Border(train=60, val=300, test=380, end=500)
    data = StockDataProcessor(config).prepare_for_classification_splits(cents(500, seed), ticker="T", border=border)
    sets = make_sequences([data], length=8, scaler_fit="train")
    scaler = sets.scalers["T"]
    test = [scaler.scale_features(data.table.features), window_ends(data.table, data.decisions, length=8)]
    found = {name: digest_arrays(arrays(getattr(data, name))) for name in ("train", "val", "test")}
    windows = [sets.train.features, sets.train.target, sets.train.ends, sets.val.ends, *test]
    ranges = [scaler.features.data_min_, scaler.features.data_max_, scaler.target.data_min_, scaler.target.data_max_]
    found |= {"features": digest_arrays([data.table.features])}
    found |= {"windows": digest_arrays(windows), "scaler": digest_arrays(ranges)}
    assert found == DIGESTS[seed]


def test_runs_and_usable_rows_by_hand() -> None:
    """A hole begins a new run; the first rows of each run are not usable."""
    days = np.array(["2020-01-01", "2020-01-02", "2020-01-17", "2020-02-02", "2020-02-03", "2020-02-04"], dtype="M8[D]")
    assert stretches(days, GAP) == [slice(0, 3), slice(3, 6)]
    assert stretches(days, 14) == [slice(0, 2), slice(2, 3), slice(3, 6)]
    assert stretches(days[:0], GAP) == [slice(0, 0)]
    assert usable_rows(days, warmup=2, max_gap_days=GAP).tolist() == [False, False, True, False, False, True]
    assert usable_rows(days, warmup=0, max_gap_days=GAP).all()
    assert len(usable_rows(days[:0], warmup=2, max_gap_days=GAP)) == 0


def test_columns_after_a_hole_know_no_bar_before_it(own: str) -> None:
    """Each run of bars has the columns that it has alone; in the warm-up after a hole there are none."""
    frame, spec = holed(200, 150), FeatureSpec(warmup=WARMUP, functions=(own,))
    table = build_table("T", frame, spec, GAP)
    first, second = (build_table("T", part, spec, GAP) for part in (frame.iloc[:200], frame.iloc[200:]))
    assert table.columns == (*BUILT_IN_COLUMNS, "move", "slow")
    assert table.features[:200].tobytes() == first.features.tobytes()
    assert table.features[200 + WARMUP :].tobytes() == second.features[WARMUP:].tobytes()
    assert np.isnan(table.features[200 : 200 + WARMUP]).all()
    assert np.flatnonzero(~table.usable).tolist() == [*range(WARMUP), *range(200, 200 + WARMUP)]


def test_function_is_called_with_one_run_at_a_time(own: str) -> None:
    """It never sees bars of two runs, and is not asked about a run that ends inside its warm-up."""
    table = build_table("T", holed(200, 20, 150), FeatureSpec(warmup=WARMUP, functions=(own,)), GAP)
    assert [len(bars) for bars in CALLS] == [200, 150]
    assert all(np.diff(bars.index.to_numpy()).max() < np.timedelta64(GAP, "D") for bars in CALLS)
    assert np.isnan(table.features[200:220]).all()


def test_longest_run_is_asked_where_all_are_short(own: str) -> None:
    """The columns are then known all the same; no row is usable."""
    table = build_table("T", holed(20, 50, 25), FeatureSpec(warmup=WARMUP, functions=(own,)), GAP)
    assert [len(bars) for bars in CALLS] == [50]
    assert table.columns == (*BUILT_IN_COLUMNS, "move", "slow")
    assert not table.usable.any()


def test_other_columns_after_a_hole_are_refused(own: str) -> None:
    """Columns that change from run to run are an error that names both."""
    spec = FeatureSpec(warmup=WARMUP, functions=(own.replace("moves", "moving"),))
    with pytest.raises(FeatureError, match=r"holes_own:moving returned the columns .*of_150 .*and .*of_200 before"):
        build_table("T", holed(200, 150), spec, GAP)


@pytest.mark.parametrize("stop", [150, 199, 200, 201, 230, 259, 260, 261, 300])
def test_later_bars_change_no_row(own: str, stop: int) -> None:
    """The columns of a history that ends earlier are those of the whole one, missing values included."""
    frame, spec = holed(200, 150), FeatureSpec(warmup=WARMUP, functions=(own,))
    whole, part = (build_table("T", bars, spec, GAP) for bars in (frame, frame.iloc[:stop]))
    assert part.features.tobytes() == whole.features[:stop].tobytes()
    assert part.usable.tolist() == whole.usable[:stop].tolist()


def prepared(frame: pd.DataFrame, **options: Any) -> Splits:
    border = Border(train=WARMUP, val=320, test=340, end=len(frame))
    processor = StockDataProcessor(TrainConfig(warmup=WARMUP, **options))
    return processor.prepare_for_classification_splits(frame, ticker="T", border=border)


def test_no_sample_window_or_range_of_the_warm_up_after_a_hole() -> None:
    """Rows there are in no split, in no window, and move no scaler."""
    frame = holed(200, 200)
    data = prepared(frame)
    again = set(range(200, 260))
    assert not again & set(data.train.rows.tolist())
    assert {199, 260} & set(data.train.rows.tolist()) == {260}
    assert make_samples(data.table, 200, 262, purge=1).rows.tolist() == [260]
    ends = window_ends(data.table, np.arange(400), length=8)
    assert ends.tolist() == [*range(67, 200), *range(267, 400)]
    scaler = fit_scaler(data.table, 0, 300)
    usable = [*range(60, 200), *range(260, 300)]
    assert scaler.target.data_min_[0] == data.table.close[usable].min()
    assert scaler.target.data_max_[0] == data.table.close[usable].max()
    sets = make_sequences([data], length=8, scaler_fit="train")
    assert window_ends(data.table, data.decisions, length=8).tolist() == list(range(340, 399))
    assert min(end for end in sets.train.ends if end >= 200) == 267


def test_lost_rows_are_counted(own: str) -> None:
    """Rows lost to the warm-up, at the start and after a hole, and rows that lack a feature, stand in the record."""
    assert prepared(holed(200, 200)).boundaries["lost"] == {"warmup": 120, "missing": 0}
    data = prepared(holed(200, 200), features=own.replace("moves", "gappy"))
    assert data.boundaries["lost"] == {"warmup": 120, "missing": 6}
    assert 99 not in data.train.rows


def test_column_that_is_never_known_is_named(own: str) -> None:
    """Train without a usable row because of a user's column says which."""
    with pytest.raises(NotEnoughHistoryError, match=r"T: no usable row in train: beta_500 is never known there"):
        prepared(cents(400, 1), features=own.replace("moves", "never"))


def test_public_indicators_begin_again_too() -> None:
    """`add_technical_indicators` gives a run of bars what it gives it alone; a bar without prices is passed over."""
    frame = holed(200, 150)
    add = StockDataProcessor().add_technical_indicators
    whole, second = add(frame), add(frame.iloc[200:])
    pd.testing.assert_frame_equal(whole.iloc[200:], second, check_exact=True)
    assert whole["SMA_50"].iloc[200:249].isna().all()
    spoiled = frame.copy()
    spoiled.iloc[120, spoiled.columns.get_loc("Close")] = np.nan
    names = list(BUILT_IN_COLUMNS[1:])
    kept = np.arange(350) != 120
    pd.testing.assert_frame_equal(add(spoiled)[names][kept], add(frame[kept])[names], check_exact=True)
    assert add(spoiled)[names].iloc[120].isna().all()


def test_warm_up_at_the_start_is_left_out_whatever_the_rows_asked_for(make_table: Any) -> None:
    """A split that begins inside the warm-up has no sample and no window of it, though its features are known."""
    table = make_table(np.tile([1.0, 2.0], 50), warmup=10)
    assert np.isfinite(table.features).all()
    assert make_samples(table, 0, 40, purge=1).rows.tolist() == list(range(10, 39))
    assert window_ends(table, np.arange(40), length=4).tolist() == list(range(13, 40))
    assert fit_scaler(table, 0, 40).features.data_min_[1] == 10


@pytest.mark.parametrize("first", [WARMUP // 2, WARMUP - 1, WARMUP, WARMUP + 1])
def test_features_up_to_a_day_do_not_depend_on_later_bars_around_an_early_hole(first: int) -> None:
    """A hole inside the first warm-up: the bars up to any day give the rows that all bars give, to the bit."""
    frame, spec = holed(first, 3 * WARMUP), FeatureSpec(warmup=WARMUP)
    whole = build_table("T", frame, spec, GAP).features
    for stop in range(WARMUP + 1, len(frame), 7):
        part = build_table("T", frame.iloc[:stop], spec, GAP).features
        assert part.tobytes() == whole[:stop].tobytes(), stop
