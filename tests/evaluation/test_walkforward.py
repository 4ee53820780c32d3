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
from nextbar.datasets.assemble import Bars, clean_bars
from nextbar.errors import NothingToTrainError
from nextbar.evaluation.walkforward import ROW_COLUMNS, FoldTask, run_fold, stitch
from nextbar.models import random_forest, xgboost
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
        model=kind,
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
    """Majority class of train, yesterday's direction, the return from open to open, and closes, by plain pandas."""
    at, aux = np.arange(BORDER.test, BORDER.end), honest.aux
    close, opened = frame["Close"], frame["Open"].to_numpy()
    np.testing.assert_array_equal(aux["yesterday"], (close.diff() > 0).to_numpy()[at])
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
    assert set(result.files) == {".pkl"}
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
        model=kind,
        fold=0,
        borders={"T0": BORDER},
        search=False,
        out_of_sample=True,
    )
    run_fold(task, bars, lambda _line: None)
    pd.testing.assert_frame_equal(frame, before)
