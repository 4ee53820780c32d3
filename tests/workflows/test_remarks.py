"""What a run says besides its figures: windows cut short, degenerate fits, holes, days without trade, data errors."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import nextbar as nb
from nextbar.config import TrainConfig, WalkForwardConfig
from nextbar.datasets.samples import Bars
from nextbar.market.checks import Finding
from nextbar.types import JsonDict, Silent
from nextbar.workflows.options import PredictConfig
from nextbar.workflows.predict import predict
from nextbar.workflows.remarks import ERRORS_KEPT, LISTED, Facts, remarks_of, tell_errors
from nextbar.workflows.train import TrainSummary, train
from nextbar.workflows.universe import Universe
from nextbar.workflows.walkforward import WalkForwardResult, walk_forward

pytestmark = pytest.mark.usefixtures("inline_module")
PRICES = ["Open", "High", "Low", "Close"]
SMALL: dict[str, Any] = {"model": "xgb", "no_tune": True, "warmup": 60}
WALK: dict[str, Any] = {"train_years": 1, "val_months": 3, "test_months": 3, "tune": "none"}
Build = Callable[..., Path]


def trained(db: Path, folder: Path, **options: Any) -> TrainSummary:
    return train(TrainConfig(**{**SMALL, "db": str(db), "save_dir": str(folder), **options}), Silent())


def walked(db: Path, folder: Path, **options: Any) -> WalkForwardResult:
    return walk_forward(
        WalkForwardConfig(**{**SMALL, **WALK, "db": str(db), "output_dir": str(folder), **options}), Silent()
    )


def document(files: list[Path]) -> JsonDict:
    return json.loads(files[-1].read_text(), parse_constant=lambda text: pytest.fail(f"{text} in JSON"))


def in_pence(frame: pd.DataFrame, first: int, last: int | None = None) -> pd.DataFrame:
    """Prices and adjusted closes of some rows in another unit."""
    changed = frame.copy()
    columns = [changed.columns.get_loc(name) for name in (*PRICES, "Adj")]
    changed.iloc[first:last, columns] *= 0.01
    return changed


def halted(frame: pd.DataFrame, first: int, last: int) -> pd.DataFrame:
    """Nobody trades on some rows, and the price stays."""
    changed = frame.copy()
    changed.iloc[first:last, [changed.columns.get_loc(name) for name in PRICES]] = changed["Close"].iloc[first]
    changed.iloc[first:last, changed.columns.get_loc("Adj")] = changed["Adj"].iloc[first]
    changed.iloc[first:last, changed.columns.get_loc("Volume")] = 0.0
    return changed


# Of 640 bars with a warm-up of 60, rows 60 … 477 are train, 478 … 523 validation and 524 … 639 test.


def test_degenerate_fit_is_said(make_bars, make_database, tmp_path):
    """One class in validation and a threshold that could not be chosen are in one sentence, with the reasons."""
    db = make_database(tmp_path / "m.db", {"HALT": halted(make_bars(640), 470, 530), "FINE": make_bars(640, seed=1)})
    # 36 days of validation: no candidate can have 20 long and 20 flat ones.
    summary = trained(db, tmp_path / "out", val_split=0.08)
    halt = next(run for run in summary.runs if run.label == "HALT")
    facts = document(halt.files)
    task = facts["folds"][0]["tasks"][0]
    assert task["threshold"]["HALT"]["objective"] == "default"
    reason = task["threshold"]["HALT"]["reason"]
    told = f"HALT: validation has one class (36 of 36 days do not move); the threshold is 0.5 ({reason})"
    assert told in facts["remarks"]
    assert told in summary.remarks
    assert {"validation", "threshold"} <= set(task["degenerate"]["HALT"])
    untraded = "HALT: no trade on 60 of 640 days (volume 0); a close that does not move counts as DOWN"
    assert untraded in facts["remarks"]
    fine = document(next(run for run in summary.runs if run.label == "FINE").files)
    assert not any("HALT" in remark or "one class" in remark for remark in fine["remarks"])


def test_rising_validation_is_one_class_too(make_bars, make_database, tmp_path):
    """All validation days rise: that is said, and days with trade are not called untraded."""
    frame = make_bars(640)
    close = frame["Close"].to_numpy().copy()
    close[470:530] = close[470] * 1.001 ** np.arange(60)
    rising = frame.assign(**dict.fromkeys(PRICES, close), Adj=close)
    (run,) = trained(make_database(tmp_path / "m.db", {"UP": rising}), tmp_path / "out").runs
    assert any("validation has one class (45 of 45 days rise)" in remark for remark in run.document.remarks)
    assert not any("no trade" in remark for remark in run.document.remarks)


def test_degenerate_folds_are_counted(make_bars, make_database, tmp_path):
    """A walk-forward has one sentence per ticker, with the number of its folds."""
    db = make_database(tmp_path / "m.db", {"HALT": halted(make_bars(640), 280, 345)})
    facts = document(walked(db, tmp_path / "out").files)
    # Validation of fold 0 is February to April 2011, rows 280 … 343.
    (told,) = [remark for remark in facts["remarks"] if remark.startswith("HALT: validation")]
    assert told.startswith("HALT: validation has one class in 1 of 5 folds, ")
    assert "validation" in facts["folds"][0]["tasks"][0]["degenerate"]["HALT"]


@pytest.mark.parametrize(
    ("threshold", "objective"), [("sharpe", "sharpe"), ("balanced_accuracy", "balanced_accuracy"), ("0.55", "given")]
)
def test_threshold_by_another_objective(market_db, tmp_path, threshold, objective):
    """--threshold changes what is maximised on validation, or is the threshold, in training and walk-forward alike."""
    (run,) = trained(market_db, tmp_path / "t", ticker="AAA", model="rf", threshold=threshold).runs
    choice = run.document.fits[0][1].threshold["AAA"]
    assert choice.objective in {objective, "default"}
    fits = walked(market_db, tmp_path / "w", ticker="AAA", model="rf", threshold=threshold).document.fits
    chosen = [task.threshold["AAA"] for _, task in fits]
    assert {one.objective for one in chosen} - {"default"} == {objective}
    if objective == "given":
        assert {one.threshold for one in (choice, *chosen)} == {0.55}
        assert len(choice.curve.score) == 201


def test_data_error_in_the_test_days_is_in_the_record(make_bars, make_database, tmp_path):
    """An error that `nextbar check` finds on a scored day stands in the document of a training run and is said."""
    frame = make_bars(640)
    day = str(frame.index[580].date())
    summary = trained(make_database(tmp_path / "m.db", {"AAA": in_pence(frame, 580)}), tmp_path / "out")
    facts = document(summary.runs[0].files)
    (error,) = facts["data_errors"]
    assert (error["ticker"], error["date"], error["rule"]) == ("AAA", day, "unit change")
    assert facts["data_error_counts"] == {"test": 1, "train": 0}
    factor = error["detail"].partition(" in a day")[0]
    assert factor.startswith("× 0.0")
    told = f"AAA has 1 data error inside the test days ({day} {factor}); no verdict is given on such days"
    assert told in facts["remarks"]
    assert told in summary.remarks


@pytest.mark.parametrize(
    ("rows", "test", "train"),
    [((300, None), 0, 1), ((40, None), 0, 0), ((500, None), 0, 1), ((524, None), 1, 0), ((639, None), 1, 0)],
    ids=["train", "warm-up", "validation", "first test day", "last bar"],
)
def test_data_errors_are_counted_where_they_lie(make_bars, make_database, tmp_path, rows, test, train):
    """Train and validation are counted apart; a day's return ends with the bar after it, so the last bar counts."""
    db = make_database(tmp_path / "m.db", {"AAA": in_pence(make_bars(640), *rows)})
    facts = document(trained(db, tmp_path / "out").runs[0].files)
    assert facts["data_error_counts"] == {"test": test, "train": train}
    assert len(facts["data_errors"]) == test
    assert any("inside train and validation" in remark for remark in facts["remarks"]) == bool(train)


def test_errors_outside_the_days_asked_for_are_not_counted(make_bars, make_database, tmp_path):
    """With --start and --end an error before the first or after the last bar that is used is no error of the run."""
    frame = make_bars(640)
    spoiled = in_pence(in_pence(frame, 20), 620)
    db = make_database(tmp_path / "m.db", {"AAA": spoiled})
    days = {"start": str(frame.index[40].date()), "end": str(frame.index[600].date())}
    facts = document(walked(db, tmp_path / "out", **days).files)
    assert facts["data_error_counts"] == {"test": 0, "train": 0}
    assert document(walked(db, tmp_path / "all").files)["data_error_counts"] == {"test": 1, "train": 1}


def test_walk_forward_says_data_errors_too(make_bars, make_database, tmp_path):
    """Days of the stitched series count once, for the ticker that has the error alone."""
    bars = {"AAA": in_pence(make_bars(640), 580), "BBB": make_bars(640, seed=2)}
    facts = document(walked(make_database(tmp_path / "m.db", bars), tmp_path / "out").files)
    assert [error["ticker"] for error in facts["data_errors"]] == ["AAA"]
    assert facts["data_error_counts"]["test"] == 1
    assert sum("AAA has 1 data error inside the test days" in remark for remark in facts["remarks"]) == 1


def test_bar_that_training_leaves_out_is_a_data_error(make_bars, make_database, tmp_path):
    """A price of zero inside the test days is no bar, and still an error of those days."""
    frame = make_bars(640)
    frame.iloc[600, frame.columns.get_loc("Low")] = 0.0
    facts = document(trained(make_database(tmp_path / "m.db", {"AAA": frame}), tmp_path / "out").runs[0].files)
    assert [(error["date"], error["rule"]) for error in facts["data_errors"]] == [
        (str(frame.index[600].date()), "impossible bar")
    ]


def test_raw_prices_are_checked_as_they_are_used(make_bars, make_database, tmp_path):
    """A 7:1 split that the adjusted close knows is an error where --raw trains on the quoted prices."""
    frame = make_bars(640)
    frame.iloc[580:, [frame.columns.get_loc(name) for name in PRICES]] /= 7.0
    db = make_database(tmp_path / "m.db", {"AAA": frame})
    adjusted, raw = (document(trained(db, tmp_path / str(raw), raw=raw).runs[0].files) for raw in (False, True))
    assert adjusted["data_errors"] == []
    assert [error["rule"] for error in raw["data_errors"]] == ["unapplied split"]


def test_prediction_says_data_errors(make_bars, make_database, tmp_path):
    """`predict` names errors in the days that the model was scored on, and in those since."""
    frame = make_bars(700)
    db = make_database(tmp_path / "m.db", {"AAA": in_pence(frame.iloc[:640], 580)})
    model = trained(db, tmp_path / "out").runs[0].files[-1]
    later = make_database(tmp_path / "later.db", {"AAA": in_pence(in_pence(frame, 580), 660)})

    def notes(path: Path) -> list[str]:
        now = dt.datetime(2012, 9, 10, tzinfo=dt.UTC)
        config = PredictConfig(db=str(path), journal=tmp_path / "j.db", max_age_days=999)
        return [note for note in predict([model], config, now=now).notes if "data error" in note]

    inside = f"AAA has 1 data error inside the test days ({frame.index[580].date()} × 0.0"
    assert [note.startswith(inside) for note in notes(db)] == [True]
    first, second = notes(later)
    assert first.startswith(inside)
    assert second.startswith(f"AAA has 1 data error after the test days ({frame.index[660].date()} × 0.0")


def test_windows_begin_where_the_bars_begin(make_bars, make_database, tmp_path):
    """The first window begins on the first of a month after the first bar, and the warm-up is taken from its train."""
    frame = make_bars(640)
    facts = document(walked(make_database(tmp_path / "m.db", {"AAA": frame}), tmp_path / "out").files)
    assert facts["folds"][0]["train_start"] == "2010-02-01"
    days = frame.index[(frame.index >= "2010-02-01") & (frame.index < "2011-02-01")]
    left = len(days) - (60 - int((frame.index < "2010-02-01").sum()))
    assert f"the warm-up of 60 bars leaves {left} of {len(days)} train days in the first window" in facts["remarks"]
    splits = facts["folds"][0]["tasks"][0]["splits"]["AAA"]
    assert splits["train"]["rows"] == len(days)
    assert splits["lost"] == {"warmup": len(days) - left, "missing": 0}
    assert facts["folds"][3]["tasks"][0]["splits"]["AAA"]["lost"] == {"warmup": 0, "missing": 0}


def test_last_window_that_is_cut_short_is_said(make_bars, make_database, tmp_path):
    """It holds fewer days than it spans because the history ends; a whole one is not mentioned."""
    frame = make_bars(640)
    db = make_database(tmp_path / "m.db", {"AAA": frame})
    facts = document(walked(db, tmp_path / "cut").files)
    held = int((frame.index >= "2012-05-01").sum())
    assert f"the last test window holds {held} of about 66 days: the history ends on 2012-06-15" in facts["remarks"]
    whole = document(walked(db, tmp_path / "whole", end="2012-04-30").files)
    assert whole["folds"][-1]["test_end"] == "2012-05-01"
    assert not any("last test window" in remark for remark in whole["remarks"])


def test_windows_of_one_ticker_are_told_by_ticker(make_bars, make_database, tmp_path):
    """A ticker that starts late or ends early has windows that hold few days; the others have none to tell of."""
    bars = {"AAA": make_bars(640), "LATE": make_bars(640, seed=1).iloc[150:], "OVER": make_bars(640, seed=2).iloc[:370]}
    facts = document(walked(make_database(tmp_path / "m.db", bars), tmp_path / "out").files)
    late, over = (
        next(remark for remark in facts["remarks"] if remark.startswith(f"{name}: ")) for name in ("LATE", "OVER")
    )
    assert late.startswith("LATE: 2 windows are cut short; the worst: the train window of fold 0 holds 131 of about 26")
    assert over == "OVER: the test window of fold 0 holds 25 of about 66 days"
    assert not any(remark.startswith("AAA: ") and "window" in remark for remark in facts["remarks"])


def test_fold_without_enough_train_after_the_warm_up_is_skipped(make_bars, make_database, tmp_path):
    """Its reason counts the rows after the warm-up; later folds are trained."""
    db = make_database(tmp_path / "m.db", {"AAA": make_bars(640)})
    facts = document(walked(db, tmp_path / "out", warmup=230).files)
    assert facts["skipped"] == [{"ticker": "AAA", "fold": 0, "reason": "AAA: 51 rows in train, needs 60"}]
    assert [fold["rows"] > 0 for fold in facts["folds"]] == [False, True, True, True, True]


def test_holes_are_told(make_bars, make_database, tmp_path):
    """Where indicators start again, and how many bars that takes, is said; a ticker without a hole is not named."""
    frame = make_bars(640)
    shifted = frame.set_index(frame.index + pd.to_timedelta(np.where(np.arange(640) < 300, 0, 60), unit="D"))
    db = make_database(tmp_path / "m.db", {"HOLE": shifted, "AAA": make_bars(640, seed=1)})
    summary = trained(db, tmp_path / "out")
    told = "HOLE: indicators start again after 1 hole of more than 15 days; 120 of 640 bars are warm-up"
    assert told in summary.remarks
    assert not any(remark.startswith("AAA: indicators") for remark in summary.remarks)
    hole = next(run for run in summary.runs if run.label == "HOLE")
    assert hole.document.fits[0][1].splits["HOLE"].lost == {"warmup": 120, "missing": 0}


def test_history_of_holes_says_why_it_is_too_short(make_bars, make_database, tmp_path):
    """A ticker whose bars lie in warm-ups is left out with the number of them."""
    frame = make_bars(400)
    pieces = frame.set_index(frame.index + pd.to_timedelta(60 * (np.arange(400) // 70), unit="D"))
    summary = trained(make_database(tmp_path / "m.db", {"BITS": pieces, "AAA": make_bars(400)}), tmp_path / "out")
    assert summary.skipped["BITS"].startswith(
        "BITS: 400 bars, 290 of them in the warm-up after a hole, training needs "
    )


def universe_of(names: list[str]) -> Universe:
    """Tickers with a hole and some days without trade."""
    days = pd.bdate_range("2020-01-01", periods=100, name="Date")
    days = days + pd.to_timedelta(np.where(np.arange(100) < 50, 0, 60), unit="D")
    volume = np.where(np.arange(100) < 3, 0.0, 5.0)
    frame = pd.DataFrame(dict.fromkeys((*PRICES, "Volume"), volume + 1.0), index=days).assign(Volume=volume)
    bars = {name: Bars(frame=frame, dropped=0, adjustment="none") for name in names}
    return Universe(bars=bars, skipped={}, everything=True, histories={})


def error(ticker: str, date: str = "2020-03-03") -> Finding:
    return Finding(ticker=ticker, date=date, rule="unit change", severity="error", detail="× 0.01 in a day")


def slow(bars: pd.DataFrame) -> pd.DataFrame:
    """A column that needs more bars than the warm-up has."""
    return pd.DataFrame({"slow": bars["Close"].pct_change(100)})


def test_bars_that_lack_a_feature_are_told(make_bars):
    """A longer warm-up of the user's own columns takes samples; of several folds the one that lacks most is told."""
    bars, model = {"A": make_bars(640).drop(columns="Adj")}, nb.XGBoost(no_tune=True)
    told = "bars lack a feature after the warm-up and are not used as samples; check the column, or raise --warmup"
    run = nb.train(bars, model, features=["levels", slow], warmup=60)
    assert f"A: 40 of 580 {told}" in run.document.remarks
    windows = nb.Windows(train_years=1, val_months=3)
    walk = nb.walk_forward(bars, model, features=["levels", slow], warmup=60, windows=windows).document
    first = walk.fits[0][1].splits["A"]
    assert f"A: 40 of {first.train.rows + first.val.rows + first.test.rows} {told}" in walk.remarks
    assert not any(told in remark for remark in nb.train(bars, model, warmup=60).document.remarks)


@pytest.mark.parametrize("count", [1, LISTED, LISTED + 1, 40])
def test_many_tickers_share_a_sentence(count):
    """Up to six tickers have a sentence each, more have one together with their number; nobody is named twice."""
    names = [f"T{number:02d}" for number in range(count)]
    fits = [(name, {"trees": "boosting stopped after its first tree"}) for name in names]
    remarks = remarks_of(
        Facts(fits=fits, test_errors=[error(name) for name in names]), universe_of(names), TrainConfig(warmup=50)
    )
    assert len(remarks) == 4 * (count if count <= LISTED else 1)
    if count <= LISTED:
        assert f"T00: {fits[0][1]['trees']}" in remarks
    else:
        all_bars, down = f"{100 * count:,} of {100 * count:,} bars", "a close that does not move counts as DOWN"
        listed = f"T00, T01, T02, T03, T04, T05 and {count - LISTED} more tickers"
        assert remarks == [
            f"{listed} have {count} data errors inside the test days; no verdict is given on such days",
            f"{listed}: indicators start again after {count} holes of more than 15 days; {all_bars} are warm-up",
            f"boosting stopped after its first tree in {count} of {count} fits ({listed})",
            f"{listed}: no trade on {3 * count} of {100 * count:,} days (volume 0); {down}",
        ]


def test_several_errors_of_a_ticker_are_one_sentence():
    """The first is shown, the others are counted."""
    assert tell_errors([error("A", "2020-03-03"), error("A", "2020-05-05")], "here", "so") == [
        "A has 2 data errors here (2020-03-03 × 0.01, and 1 more); so"
    ]


def test_record_of_errors_is_bounded():
    """A document keeps a hundred errors and the number of all."""
    facts = Facts(test_errors=[error("A")] * (ERRORS_KEPT + 7), train_errors=[error("A")] * 3)
    record = facts.to_json(["said"])
    assert len(record["data_errors"]) == ERRORS_KEPT
    assert record["data_error_counts"] == {"test": ERRORS_KEPT + 7, "train": 3}
    assert record["remarks"] == ["said"]


@pytest.mark.thorough
def test_relative_features_say_what_they_lack(tmp_path, make_database, make_bars):
    """A ticker without volumes is named; an LSTM that sees no level is told to take levels, and only that one."""
    bars = {"AAA": make_bars(460, seed=1), "BBB": make_bars(460, seed=2)}
    bars["BBB"] = bars["BBB"].assign(Volume=np.nan)
    db = make_database(tmp_path / "market.db", bars)
    volume = "no bar of BBB has a volume: the column volume_z_20 is 0 there"
    level = "columns without a unit do not tell how high a close is, which is the target: add the set levels"
    network = {"model": "lstm", "epochs": 1, "sequence_length": 3}
    for options, said in (
        ({"features": "relative"}, {volume}),
        ({"features": "levels"}, set()),
        ({"features": "relative", **network}, {volume, level}),
        ({"features": "levels,relative", **network}, {volume}),
    ):
        summary = trained(db, tmp_path / str(len(said)) / options["features"], warmup=130, **options)
        assert {volume, level} & set(summary.remarks) == said, summary.remarks
        assert all(run.document.tickers for run in summary.runs)
