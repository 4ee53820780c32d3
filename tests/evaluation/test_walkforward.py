"""One fold, attacked: the future is changed, and what was decided before it must not move by a bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nextbar.config import TrainConfig, WalkForwardConfig
from nextbar.datasets.samples import Bars, clean_bars
from nextbar.errors import NothingToTrainError
from nextbar.evaluation.rows import ROW_COLUMNS, ended_tickers, open_returns
from nextbar.evaluation.walkforward import FoldTask, run_fold, stitch
from nextbar.models import random_forest, xgboost
from nextbar.models.registry import model_of
from nextbar.types import Border

CONFIG = WalkForwardConfig(
    model="rf", n_iter=2, cv_splits=2, warmup=60, epochs=2, batch_size=128, sequence_length=8, patience=1
)
BORDER = Border(train=60, val=300, test=380, end=440)
KINDS = ("rf", "xgb", "lstm")


@pytest.fixture(autouse=True, scope="module")
def small_searches():
    """Few trees per candidate: what is proven does not depend on their number."""
    with pytest.MonkeyPatch.context() as patch:
        for home in (random_forest, xgboost):
            patch.setitem(home.SPACE, "n_estimators", [15, 25])
        yield


@pytest.fixture(scope="module")
def frame(make_bars: Callable[..., pd.DataFrame]) -> pd.DataFrame:
    """500 bars; the fold ends at row 440."""
    return make_bars(500, seed=11).drop(columns="Adj")


def fold(kind: str, *frames: pd.DataFrame, border: Border = BORDER, **changes: Any) -> Any:
    """A fold's result, its tables as DataFrames."""
    bars = {f"T{i}": clean_bars(f"T{i}", x) for i, x in enumerate(frames)}
    task = FoldTask(
        name="T0" if kind != "lstm" else "all",
        config=replace(CONFIG, model=kind),
        model=model_of(kind, CONFIG),
        fold=3,
        borders=dict.fromkeys(bars, border),
        out_of_sample=True,
    )
    result = run_fold(replace(task, **changes), bars, lambda _line: None)
    rows, aux = stitch([result])
    return replace(result, rows=rows, aux=aux)  # type: ignore[arg-type]


def other_future(frame: pd.DataFrame, row: int) -> pd.DataFrame:
    """Every price of every bar from ``row`` on is another one."""
    changed = frame.copy()
    count = len(frame) - row
    factor = 3 * np.exp(np.cumsum(np.random.default_rng(99).normal(0, 0.05, count)))
    changed.iloc[row:, :4] = changed.iloc[row:, :4].to_numpy() * factor[:, None]
    changed.iloc[row:, 4] += 777.0
    return changed


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def honest(kind: str, frame: pd.DataFrame) -> Any:
    """The fold with the bars as they are."""
    return fold(kind, frame)


def test_nothing_after_train_reaches_search_and_weights(kind, frame, honest):
    """With every price after train changed, search, parameters, forest, scalers and epochs keep their bits."""
    attacked = fold(kind, other_future(frame, BORDER.val))
    same = {"rf": ("search", "params", "weights"), "xgb": ("search", "params"), "lstm": ("scalers", "epochs", "params")}
    for stage in same[kind]:
        assert attacked.digests[stage] == honest.digests[stage], stage
    assert attacked.digests["bars"] != honest.digests["bars"]
    assert attacked.params == honest.params
    if kind != "lstm":
        assert attacked.facts["search"] == honest.facts["search"]


def test_nothing_after_validation_reaches_model_and_threshold(kind, frame, honest):
    """With every price after validation changed, weights, early stop and the whole threshold curve keep their bits."""
    attacked = fold(kind, other_future(frame, BORDER.test))
    for stage in ("params", "weights", "threshold"):
        assert attacked.digests[stage] == honest.digests[stage], stage
    before, after = ({k: v for k, v in x.facts.items() if k != "test_share_outside_scaler"} for x in (honest, attacked))
    assert before == after
    assert attacked.digests["predictions"] != honest.digests["predictions"]


@pytest.mark.parametrize("cut", [BORDER.test + 1, BORDER.test + 30, BORDER.end - 1, BORDER.end])
def test_nothing_in_test_reaches_the_days_before(kind, frame, honest, cut):
    """With every price from a test day on changed, rows that end before it keep all bytes, the last its decision."""
    attacked = fold(kind, other_future(frame, cut))
    whole = cut - BORDER.test - 1
    for one, other in ((honest.rows, attacked.rows), (honest.aux, attacked.aux)):
        columns = [name for name in one if name not in ("open_return", "next_close", "scaled_error")]
        assert as_bytes(one[columns].iloc[:whole]) == as_bytes(other[columns].iloc[:whole])
    decided = ["date", "ticker", "fold", "probability", "predicted_close", "threshold", "class", "signal"]
    assert as_bytes(honest.rows[decided].iloc[: whole + 1]) == as_bytes(attacked.rows[decided].iloc[: whole + 1])
    assert honest.rows["next_return"].iloc[whole] != attacked.rows["next_return"].iloc[whole]


def as_bytes(frame: pd.DataFrame) -> list[bytes]:
    """Each column's bytes; texts as they are."""
    columns = [frame[name].to_numpy() for name in frame]
    return [str(x.tolist()).encode() if x.dtype == object else x.tobytes() for x in columns]


def test_attack_is_not_blind(kind, frame, honest):
    """The attack is seen where it should be: with the last 100 bars of train changed the weights are others."""
    attacked = fold(kind, other_future(frame, BORDER.val - 100))
    assert attacked.digests["weights"] != honest.digests["weights"]


def test_rows_are_what_they_say(kind, frame, honest):
    """Each row of the test window is there once, with the return to the next bar, its decision and nothing else."""
    rows, close = honest.rows, frame["Close"].to_numpy()
    assert tuple(rows.columns) == ROW_COLUMNS
    at = np.arange(BORDER.test, BORDER.end)
    np.testing.assert_array_equal(rows["date"].to_numpy(), frame.index[at].to_numpy())
    np.testing.assert_array_equal(rows["next_return"], close[at + 1] / close[at] - 1)
    assert set(rows["ticker"]) == {"T0"}
    assert set(rows["fold"]) == {3}
    np.testing.assert_array_equal(rows["signal"], rows["class"])
    if kind == "lstm":
        assert rows["probability"].isna().all()
        assert rows["threshold"].isna().all()
        np.testing.assert_array_equal(rows["class"], rows["predicted_close"].to_numpy() > close[at])
    else:
        assert rows["predicted_close"].isna().all()
        assert rows["probability"].between(0, 1).all()
        assert len(set(rows["threshold"])) == 1
        np.testing.assert_array_equal(rows["class"], rows["probability"] >= rows["threshold"])
    assert rows["strategy_return"].isna().all()
    assert honest.files == {}


def test_what_stands_beside_the_rows(kind, frame, honest):
    """Majority class of train, the return from open to open, and closes, by plain pandas."""
    at, aux = np.arange(BORDER.test, BORDER.end), honest.aux
    close, opened = frame["Close"], frame["Open"].to_numpy()
    np.testing.assert_array_equal(aux["open_return"], opened[at + 2] / opened[at + 1] - 1)
    np.testing.assert_array_equal(aux["close"], close.to_numpy()[at])
    np.testing.assert_allclose(aux["next_close"], close.to_numpy()[at + 1], rtol=1e-14)
    ups = (close.shift(-1) > close).to_numpy()[BORDER.train : BORDER.val - 1].mean()
    assert set(aux["majority"]) == {int(ups > 0.5)}


@pytest.mark.parametrize("name", ["rf", "xgb"])
def test_window_with_the_last_bar_alone(name, frame):
    """A test window that holds nothing but the last bar of the history has no row, and that is no error."""
    result = fold(name, frame.iloc[:381], border=replace(BORDER, end=381))
    assert len(result.rows) == len(result.aux) == 0
    assert tuple(result.rows.columns) == ROW_COLUMNS


def test_ticker_that_ended_before_test_still_trains(frame):
    """In a global model a ticker without a bar in the test window takes part in training and predicts nothing."""
    ended = frame.iloc[:370]
    result = fold("lstm", frame, ended, borders={"T0": BORDER, "T1": Border(train=60, val=300, test=370, end=370)})
    assert set(result.rows["ticker"]) == {"T0"}
    assert result.rows["ticker"].dtype == fold("lstm", frame).rows["ticker"].dtype
    assert set(result.splits) == {"T0", "T1"}
    assert result.skipped == {}


def test_history_after_the_window_ends_changes_nothing(kind, frame, honest):
    """A fold computed when only the bar after its window was known is the fold computed years later."""
    early = fold(kind, frame.iloc[: BORDER.end + 1])
    pd.testing.assert_frame_equal(early.rows, honest.rows, check_exact=True)


def test_unusable_tickers_are_facts(frame):
    """A ticker without samples is skipped with its reason; when none is left the error says why."""
    flat = frame.assign(Open=5.0, High=5.0, Low=5.0, Close=5.0)
    with pytest.raises(NothingToTrainError, match="T0: all 239 days of train move the same way"):
        fold("rf", flat)
    result = fold("lstm", frame, flat)
    assert result.skipped == {"T1": "T1: all 239 days of train move the same way; nothing to learn"}
    assert set(result.splits) == {"T0"}


def test_facts_are_json(honest):
    """Facts, digests and splits go through strict JSON and come back as they were."""
    for value in (honest.facts, honest.digests, honest.splits):
        assert json.loads(json.dumps(value, allow_nan=False)) == json.loads(json.dumps(value))
    assert honest.seed >= 0


def test_training_run_is_the_same_fold(frame):
    """A training run is one fold whose last row is dropped and which keeps its files; --purge 3 drops three."""
    whole = replace(BORDER, end=500)
    task = {"config": TrainConfig(model="rf", n_iter=1, cv_splits=2, warmup=60), "out_of_sample": False}
    result = fold("rf", frame, border=whole, **task)
    assert len(result.rows) == 500 - 380 - 1
    assert set(result.files) == {".pkl", "_weights.npz"}
    task["config"] = replace(CONFIG, purge=3)
    assert len(fold("rf", frame, border=whole, **task).rows) == 500 - 380 - 3


def test_adjusted_prices_are_shown_as_quoted(frame):
    """Returns are made of adjusted closes; closes in price units are quoted ones."""
    bars = frame.assign(Quoted=frame["Close"].to_numpy() * np.linspace(2, 3, len(frame)))
    result = fold("rf", bars)
    at = np.arange(BORDER.test, BORDER.end)
    np.testing.assert_allclose(result.aux["close"], bars["Quoted"].to_numpy()[at], rtol=1e-14)
    np.testing.assert_array_equal(result.rows["next_return"], fold("rf", frame).rows["next_return"])


def test_bars_are_never_altered(kind, frame):
    """A fold leaves the bars that it was handed as they were: other tasks share them."""
    before = frame.copy()
    bars = {"T0": Bars(frame=frame, dropped=0, adjustment="raw")}
    task = FoldTask(
        name="T0",
        config=replace(CONFIG, model=kind, epochs=1),
        model=model_of(kind, replace(CONFIG, epochs=1)),
        fold=0,
        borders={"T0": BORDER},
        search=False,
        out_of_sample=True,
    )
    run_fold(task, bars, lambda _line: None)
    pd.testing.assert_frame_equal(frame, before)


def with_hole(frame: pd.DataFrame, row: int) -> pd.DataFrame:
    """The bars with 60 more days between a row and the one before it."""
    moved = frame.index.to_numpy().copy()
    moved[row:] += np.timedelta64(60, "D")
    return frame.set_axis(pd.DatetimeIndex(moved, name="Date"))


NOTHING = ["probability", "predicted_close", "threshold", "next_return"]


@pytest.mark.parametrize("first", [BORDER.test + 20, BORDER.end], ids=["inside the window", "after the window"])
def test_a_hole_is_entered_with_a_decision_and_left_without_one(kind, frame, honest, first):
    """The last bar before a hole has its prediction and no return; the first after it has neither, and is flat."""
    broken = with_hole(frame, first)
    result = fold(kind, broken)
    days = broken.index.to_numpy()
    whole = first - BORDER.test
    assert result.rows.dtypes.equals(honest.rows.dtypes)
    decided = [name for name in honest.rows if name not in ("next_return", "date")]
    pd.testing.assert_frame_equal(result.rows[decided].iloc[:whole], honest.rows[decided].iloc[:whole])
    before, after = result.rows.iloc[whole - 1], result.rows.iloc[whole]
    assert np.isfinite(result.rows["next_return"].iloc[: whole - 1]).all()
    assert (before["date"], after["date"]) == (days[first - 1], days[first])
    assert np.isnan(before["next_return"])
    assert after[NOTHING].isna().all()
    assert (after["fold"], after["class"], after["signal"]) == (3, 0, 0)
    assert result.aux[["open_return", "next_close"]].iloc[whole - 1 : whole + 1].isna().all(axis=None)
    close = frame["Close"].to_numpy()
    assert result.holes == {"T0": {str(days[first].astype("datetime64[D]")): close[first] / close[first - 1] - 1}}
    assert honest.holes == {}


def test_a_hole_is_left_in_one_fold_alone(kind, frame):
    """The fold whose window starts with the first bar after a hole does not hold that day, nor the hole's return."""
    broken = with_hole(frame, BORDER.end)
    following = fold(kind, broken, border=Border(train=120, val=360, test=440, end=490))
    assert broken.index[BORDER.end] not in set(following.rows["date"])
    assert following.holes == {}


def test_a_ticker_that_ends_is_flat_on_its_last_bar(kind, frame, honest):
    """Its last bar has a row without a prediction, in the fold that has a row before it; other rows keep their bits."""
    last = BORDER.test + 30
    short = frame.iloc[: last + 1]
    went_on, ended = (fold(kind, short, border=replace(BORDER, end=last + 1), ended=x) for x in (frozenset(), {"T0"}))
    pd.testing.assert_frame_equal(ended.rows.iloc[:-1], went_on.rows, check_exact=True)
    row = ended.rows.iloc[-1]
    assert row["date"] == short.index[-1]
    assert row[NOTHING].isna().all()
    assert (row["class"], row["signal"]) == (0, 0)
    at_border = fold(kind, short, border=replace(BORDER, end=last), ended={"T0"})
    pd.testing.assert_frame_equal(at_border.rows, ended.rows, check_exact=True)
    other = fold(kind, frame.iloc[: BORDER.end + 1], ended={"T1"})
    pd.testing.assert_frame_equal(other.rows, honest.rows, check_exact=True)
    alone = fold(kind, short, border=Border(train=60, val=300, test=last, end=last + 1), ended={"T0"})
    assert len(alone.rows) == 0


def test_a_training_run_leaves_a_hole_and_ends_inside_its_test_split(frame):
    """The last bar of a history, after a hole, ends both: one row, flat, with the return over the hole recorded."""
    broken = with_hole(frame, 499)
    task = {"config": TrainConfig(model="rf", n_iter=1, cv_splits=2, warmup=60), "out_of_sample": False}
    result = fold("rf", broken, border=replace(BORDER, end=500), ended={"T0"}, **task)
    assert result.rows["date"].tolist() == broken.index[380:500].tolist()
    assert result.rows["next_return"].isna().tolist() == [False] * 118 + [True, True]
    assert result.rows["probability"].isna().tolist() == [False] * 119 + [True]
    assert list(result.holes["T0"]) == [str(broken.index[499].date())]


def test_two_holes_without_a_decision_between_them_are_left_once(frame):
    """A bar between two holes is no decision, so that no position is open into the second."""
    broken = with_hole(with_hole(frame, 400), 401)
    result = fold("rf", broken)
    assert list(result.holes["T0"]) == [str(broken.index[400].date())]
    assert broken.index[401] not in set(result.rows["date"])


def test_returns_at_the_open_span_no_hole():
    """Six bars with a hole after the third: O(t+2)/O(t+1) - 1 is unknown where any of its three bars lies beyond."""
    dates = np.array(["2024-01-01", "2024-01-02", "2024-01-03", "2024-02-01", "2024-02-02", "2024-02-05"], "M8[D]")
    found = open_returns(np.array([1.0, 2.0, 3.0, 30.0, 45.0, 90.0]), dates, 15)
    np.testing.assert_array_equal(found, [0.5, np.nan, np.nan, 1.0, np.nan, np.nan])
    np.testing.assert_array_equal(open_returns(np.array([1.0, 2.0, 3.0, 30.0]), dates[:4], 40)[:2], [0.5, 9.0])
    assert np.isnan(open_returns(np.array([1.0]), dates[:1], 15)).all()


def test_tickers_end_when_the_run_goes_on_without_them():
    """A ticker has ended when its last bar is more days before the run's last day than a hole may have."""
    last = {"A": "2024-03-31", "B": "2024-03-16", "C": "2024-03-15"}
    dates = {name: np.array(["2024-03-01", day], dtype="datetime64[D]") for name, day in last.items()}
    assert ended_tickers(dates, 15) == {"C": "2024-03-15"}


def test_the_majority_class_beside_the_rows_is_that_of_the_document(kind, frame):
    """The share of rises that the splits record is above one half where the column says 1."""
    for seed in (1, 2):
        drift = np.exp(np.cumsum(np.full(len(frame), 0.004 if seed == 1 else -0.004)))
        result = fold(kind, frame.assign(**{name: frame[name] * drift for name in ("Open", "High", "Low", "Close")}))
        assert set(result.aux["majority"]) == {int(result.splits["T0"]["train"]["up_share"] > 0.5)}
        assert set(result.aux["majority"]) == {2 - seed}
