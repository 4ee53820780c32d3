"""A holdout: bars that a run never sees, that score it when it is opened, and a ledger that counts each look."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import nextbar as nb
from nextbar.cli.main import main
from nextbar.config import CertifyConfig, TrainConfig, WalkForwardConfig
from nextbar.errors import ArtifactError, ConfigError, NotEnoughHistoryError, NothingToTrainError
from nextbar.evaluation.verdict import judge
from nextbar.runs.labels import identity_options
from nextbar.runs.ledger import Ledger
from nextbar.runs.load import load_run
from nextbar.runs.openings import READ
from nextbar.runs.trial import identify
from nextbar.types import Silent
from nextbar.workflows.certify import certify_runs
from nextbar.workflows.experiments import read_experiments
from nextbar.workflows.reproduce import reproduce

DAY = "2011-11-01"
WINDOWS = nb.Windows(train_years=1, val_months=3, test_months=4)
SHORT: dict[str, Any] = {"warmup": 60, "holdout_from": DAY}
PLAIN = nb.XGBoost(no_tune=True)
MODELS: dict[str, nb.Model] = {
    "rf": nb.RandomForest(no_tune=True),
    "xgb": nb.XGBoost(n_iter=2, cv_splits=2),
    "pooled": nb.XGBoost(no_tune=True, pooled=True),
    "lstm": nb.LSTM(epochs=1, sequence_length=5),
    "own": nb.Estimator(make_pipeline(StandardScaler(), LogisticRegression())),
}
MARKS = {"lstm": pytest.mark.slow, "rf": pytest.mark.thorough}


pytestmark = pytest.mark.usefixtures("inline")


@pytest.fixture(scope="module")
def frames(market_bars: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Two tickers in the market format."""
    return {name: market_bars[name].rename(columns={"Adj": "Adj Close"}) for name in ("AAA", "BBB")}


def until(frames: Mapping[str, pd.DataFrame], day: str = DAY) -> dict[str, pd.DataFrame]:
    return {name: frame[frame.index < day] for name, frame in frames.items()}


def spoiled(frames: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Other bars from the day on: reversed and a hundred times as high."""
    found = {}
    for name, frame in frames.items():
        later = frame.index >= DAY
        values = frame.to_numpy(copy=True)
        values[later] = 100 * values[later][::-1]
        found[name] = pd.DataFrame(values, index=frame.index, columns=frame.columns)
    return found


def plain(run: nb.Run) -> dict[str, Any]:
    """Return all that a run says about itself but when and how fast it was made."""
    document = run.document.to_json()
    for name in ("created", "command", "seconds", "run"):
        document.pop(name, None)
    return document


@pytest.mark.parametrize("walks", [False, True], ids=["train", "walk"])
def test_held_out_bars_change_no_byte(frames: dict[str, pd.DataFrame], walks: bool) -> None:
    """Whatever the bars from the day on are, document, rows and model stay; they are those of bars that end before."""

    def make(bars: Mapping[str, pd.DataFrame], **options: Any) -> nb.Run:
        if walks:
            return nb.walk_forward(bars, PLAIN, windows=WINDOWS, warmup=60, **options)
        return nb.train(bars, PLAIN, warmup=60, **options)

    run = make(frames, holdout_from=DAY)
    other = make(spoiled(frames), holdout_from=DAY)
    cut = make(until(frames))
    assert plain(run) == plain(other)
    pd.testing.assert_frame_equal(run.rows, other.rows, check_exact=True)
    pd.testing.assert_frame_equal(run.rows, cut.rows, check_exact=True)
    assert run.contents is not None
    assert cut.contents is not None
    assert run.contents.files == cut.contents.files
    same = plain(cut)
    same["config"]["holdout_from"] = DAY
    assert plain(run) == same


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=MARKS.get(kind, ())) for kind in MODELS])
def test_a_walk_forward_goes_on(frames: dict[str, pd.DataFrame], kind: str) -> None:
    """The rows of an opening are, to the bit, those that one walk-forward over all bars makes from the day on."""
    windows = replace(WINDOWS, test_months=24, step_months=24) if kind == "lstm" else WINDOWS  # one fit
    walked = nb.walk_forward(frames, MODELS[kind], windows=windows, **SHORT)
    opened = nb.open_holdout(walked, frames)
    whole = nb.walk_forward(frames, MODELS[kind], windows=windows, warmup=60).rows
    after = whole[whole["date"] >= DAY].reset_index(drop=True)
    columns = [name for name in after if name != "strategy_return"]  # the position is flat before the holdout
    pd.testing.assert_frame_equal(opened.rows[columns], after[columns], check_exact=True)
    assert opened.document.kind == "holdout"
    assert opened.document.folds[0].number == walked.document.folds[-1].number
    assert not any("other weights" in remark for remark in opened.document.remarks)


@pytest.mark.parametrize("kind", MODELS)
def test_a_training_run_is_scored_as_it_was_saved(frames: dict[str, pd.DataFrame], kind: str, tmp_path: Path) -> None:
    """Model and threshold are those of the run, in memory and from disk; each day from the day on is a row."""
    run = nb.train(frames, MODELS[kind], **SHORT)
    opened = nb.open_holdout(run, frames)
    for ticker in ("AAA", "BBB"):
        rows = opened.rows[opened.rows["ticker"] == ticker].set_index("date")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            predicted = run.model(ticker).predict(frames[ticker]).loc[DAY:].iloc[:-1]
        assert list(rows.index) == list(predicted.index)
        for name in ("probability", "predicted_close", "threshold"):
            now, then = (table[name].to_numpy(np.float64, na_value=np.nan) for table in (rows, predicted))
            assert np.array_equal(now, then, equal_nan=True)
        assert rows["signal"].tolist() == predicted["signal"].tolist()
    own = {"model": MODELS[kind], "trust": True} if kind == "own" else {}
    saved = nb.load_run(next(path for path in run.save(tmp_path) if path.name.endswith("_metadata.json")))
    again = nb.open_holdout(saved, frames, **own)
    mine = opened.rows[opened.rows["ticker"].isin(again.tickers)].reset_index(drop=True)
    pd.testing.assert_frame_equal(again.rows, mine, check_exact=True)


def test_an_own_model_from_disk_needs_trust(frames: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    """Its pickle may run code."""
    nb.train({"AAA": frames["AAA"]}, MODELS["own"], **SHORT).save(tmp_path)
    saved = nb.load_run(next(tmp_path.glob("*_metadata.json")))
    with pytest.raises(ArtifactError, match="if you trust its files, pass trust=True"):
        nb.open_holdout(saved, frames, model=MODELS["own"])


def rising(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"rise": frame["Close"].diff()}, index=frame.index)


def ranks(panel: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"rank": panel.groupby("date")["Close"].rank()}, index=panel.index)


def test_own_columns_are_made_from_all_bars(frames: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    """Functions of the user's own are asked for again, and other values than at training are refused."""
    run = nb.train(frames, PLAIN, features=["levels", rising], panel_features=ranks, **SHORT)
    assert len(nb.open_holdout(run, frames).rows)
    run.save(tmp_path)
    saved = nb.load_run(next(tmp_path.glob("xgboost_AAA_*_metadata.json")))
    with pytest.raises(nb.errors.FeatureError, match="was trained with the feature function"):
        nb.open_holdout(saved, frames)
    assert len(nb.open_holdout(saved, frames, features=["levels", rising], panel_features=ranks).rows)

    def doubled(frame: pd.DataFrame) -> pd.DataFrame:
        return 2 * rising(frame)

    assert run.contents is not None
    spec = replace(run.contents.features, functions=(doubled,))
    other = replace(run, contents=replace(run.contents, features=spec))
    with pytest.raises(ArtifactError, match="features have other values than when it was trained, on the same bars"):
        nb.open_holdout(other, frames)


def test_identities_stay(tmp_path: Path) -> None:
    """An option that is not given is in no identity; one that is given is, in one spelling."""
    config = TrainConfig(model="xgb").to_json()
    older = {name: value for name, value in config.items() if name != "holdout_from"}
    assert identify("train", "xgb", config) == identify("train", "xgb", older)
    held = TrainConfig(model="xgb", holdout_from="20111101").to_json()
    assert identity_options(TrainConfig, held, "xgb") == {"holdout_from": DAY}


def count(ledger: Path) -> dict[str, int]:
    """Start of a holdout with its tickers → how often it was opened."""
    found = Ledger(ledger).holdouts()
    return {f"{one.start} {','.join(one.tickers)}": found.count(one) for one in found.declared}


def test_each_opening_counts(frames: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    """The first verdict says once, that of another run twice; the same run again counts, too."""
    ledger = tmp_path / "l.db"
    one, two = (nb.train({"AAA": frames["AAA"]}, PLAIN, seed=seed, ledger=ledger, **SHORT) for seed in (1, 2))
    assert count(ledger) == {f"{DAY} AAA": 0}
    first = nb.open_holdout(one, frames, ledger=ledger)
    said = nb.verdict(first, ledger=ledger)
    assert f"The holdout from {DAY} on was opened once (N = 1)" in str(said)
    assert (said.tries.count, said.tries.openings) == (1, 1)
    second = nb.verdict(nb.open_holdout(two, frames, ledger=ledger), ledger=ledger)
    assert f"The holdout from {DAY} on was opened 2 times (N = 2)" in str(second)
    assert second.tries.count == 2
    third = nb.verdict(nb.open_holdout(one, frames, ledger=ledger), ledger=ledger)
    assert (third.tries.count, third.tries.openings) == (3, 3)
    assert count(ledger) == {f"{DAY} AAA": 3}
    assert len(Ledger(ledger).trials()) == 4, "two runs before the day, and each of them from it on"
    again = nb.verdict(first, ledger=ledger)
    assert again.tries.openings == 3, "it was looked at again, which is no opening"
    before = nb.verdict(one, ledger=ledger)
    assert before.tries.openings is None
    assert before.tries.count == 2, "days of the holdout are no tries on the days before it"


def test_openings_of_other_tickers_or_days_do_not_count(frames: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    """N is of the days and tickers at hand."""
    ledger = tmp_path / "l.db"
    runs = {name: nb.train({name: frames[name]}, PLAIN, ledger=ledger, **SHORT) for name in frames}
    nb.open_holdout(runs["AAA"], frames, ledger=ledger)
    assert count(ledger) == {f"{DAY} AAA": 1, f"{DAY} BBB": 0}
    opened = nb.open_holdout(runs["BBB"], frames, ledger=ledger)
    assert nb.verdict(opened, ledger=ledger).tries.openings == 1


def test_n_deflates() -> None:
    """The same excess is worth less the more often the days were opened."""
    rng = np.random.default_rng(1)
    book = nb.judge(
        pd.Series(rng.integers(0, 2, 600).astype(float), index=pd.bdate_range("2012", periods=600)),
        pd.DataFrame(
            {
                name: 100 * np.exp(np.cumsum(np.random.default_rng(2).normal(0, 0.01, 600)))
                for name in ("Open", "Close")
            },
            index=pd.bdate_range("2012", periods=600, name="Date"),
        ).assign(High=lambda t: t.max(axis=1), Low=lambda t: t.min(axis=1)),
    ).book
    from nextbar.evaluation.significance import count_tries

    ratios = []
    for openings in (1, 2, 10):
        tries = count_tries((book.dates, book.edge), [], openings=openings)
        ratios.append(judge(book, tries=tries, holdout=DAY, draws=20).dsr)
    assert ratios[0] > ratios[1] > ratios[2]


def test_without_a_ledger_openings_are_not_recorded(frames: dict[str, pd.DataFrame]) -> None:
    """The verdict says so, in place of a number."""
    opened = nb.open_holdout(nb.train(frames, PLAIN, **SHORT), frames)
    assert any("openings are not recorded" in said for said in nb.verdict(opened).statements)


def test_an_opening_of_a_failed_run_is_refuted(frames: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    """In memory, too, where the run lies on disk or does not; the file of the certificate is beside the run alone."""
    run = nb.train({"AAA": frames["AAA"]}, PLAIN, **SHORT)
    assert not nb.open_holdout(run, frames).refuted()
    run.certificates.append({"schema_version": 2, "verdict": "FAIL"})
    saved = nb.load_run(run.save(tmp_path)[-1])
    for one in (run, saved):
        with pytest.warns(nb.errors.Remark, match="its certificate is FAIL"):
            opened = nb.open_holdout(one, frames)
        assert (opened.refuted(), nb.verdict(opened).refuted) == (True, True)
    assert nb.load_run(opened.save(tmp_path)[-1]).refuted()
    assert [path.name for path in tmp_path.glob("*_certificate.json")] == [f"{saved.stem}_certificate.json"]


def test_another_ledger_cannot_tell_how_often(frames: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    """An opening that a ledger does not hold was not opened once there; the looks that it holds are tries."""
    run = nb.train({"AAA": frames["AAA"]}, PLAIN, ledger=tmp_path / "l.db", **SHORT)
    nb.open_holdout(run, frames, ledger=tmp_path / "l.db").save(tmp_path)
    (file,) = tmp_path.glob("*_holdout_*[0-9].json")
    other = tmp_path / "other.db"
    for looks in (0, 1):
        found = nb.verdict(nb.load_run(file), ledger=other)
        assert found.tries.openings is None
        assert found.tries.count == 1 + looks
        assert any("openings are not recorded" in said for said in found.statements)
        nb.open_holdout(run, frames, ledger=other)
    assert nb.verdict(nb.load_run(file), ledger=tmp_path / "l.db").tries.openings == 1


def test_openings_beside_the_run_count_with_any_ledger(frames: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    """A ledger that does not hold the holdout is told of; what lies in the folder was opened, whoever recorded it."""
    run = nb.train({"AAA": frames["AAA"]}, PLAIN, ledger=tmp_path / "l.db", **SHORT)
    run.save(tmp_path)
    saved = nb.load_run(next(tmp_path.glob("*_metadata.json")))
    for number, ledger in enumerate(("l.db", "other.db"), start=1):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", nb.errors.Remark)
            opened = nb.open_holdout(saved, frames, ledger=tmp_path / ledger)
        said = [str(one.message) for one in told if "does not hold the holdout" in str(one.message)]
        assert len(said) == (number == 2)
        file = opened.save(tmp_path)[-1]
        found = nb.verdict(nb.load_run(file), ledger=tmp_path / ledger)
        assert found.tries.openings == number
        assert "openings that another ledger holds are not known" in str(found)
    first = next(path for path in tmp_path.glob("*_holdout_*.json") if path != file)
    first.write_text(first.read_text().replace('"tickers"', '"tockers"'))
    assert nb.verdict(nb.load_run(file), ledger=tmp_path / "other.db").tries.openings == 1


def test_a_run_that_reads_held_out_bars_is_an_opening(frames: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    """Same ledger, a common ticker: it is told and counted once, however often its verdict is asked for."""
    ledger = tmp_path / "l.db"
    run = nb.train({"AAA": frames["AAA"]}, PLAIN, ledger=ledger, **SHORT)
    with pytest.warns(UserWarning, match=f"bars of AAA were held out from {DAY} on, and 1 run read them"):
        reader = nb.walk_forward(frames, PLAIN, windows=WINDOWS, warmup=60, ledger=ledger)
    for _ in range(2):
        nb.verdict(reader, ledger=ledger)
    (opening,) = Ledger(ledger).holdouts().openings
    assert (opening.way, opening.tickers, opening.start) == (READ, ("AAA",), DAY)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nb.train({"BBB": frames["BBB"]}, PLAIN, warmup=60, ledger=ledger)
        nb.train(until(frames), PLAIN, warmup=60, ledger=ledger)
    opened = nb.open_holdout(run, frames, ledger=ledger)
    assert nb.verdict(opened, ledger=ledger).tries.openings == 2


def test_columns_over_all_tickers_read_their_bars(frames: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    """A run of another ticker whose columns are made from held-out bars is an opening of them."""
    ledger = tmp_path / "l.db"
    nb.train({"AAA": frames["AAA"]}, PLAIN, ledger=ledger, **SHORT)
    run = nb.train(frames, PLAIN, panel_features=ranks, warmup=60)
    run.save(tmp_path)
    nb.verdict(nb.load_run(next(tmp_path.glob("xgboost_BBB_*_metadata.json"))), ledger=ledger, count=True)
    (opening,) = Ledger(ledger).holdouts().openings
    assert (opening.way, opening.tickers, opening.start) == (READ, ("AAA",), DAY)


def test_a_look_before_the_days_are_held_out_counts(frames: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    """Trials that the ledger holds of these days are openings from the declaration on, each once; others are none."""
    ledger = tmp_path / "l.db"
    looked = nb.train({"AAA": frames["AAA"]}, PLAIN, warmup=60, ledger=ledger)
    nb.train({"BBB": frames["BBB"]}, PLAIN, warmup=60, ledger=ledger)
    nb.train({"AAA": until(frames)["AAA"]}, PLAIN, warmup=60, seed=3, ledger=ledger)
    with pytest.warns(UserWarning, match=f"bars of AAA were held out from {DAY} on, and 1 run read them"):
        run = nb.train({"AAA": frames["AAA"]}, PLAIN, ledger=ledger, **SHORT)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nb.train({"AAA": frames["AAA"]}, PLAIN, seed=2, ledger=ledger, **SHORT)
    nb.verdict(looked, ledger=ledger)
    assert count(ledger) == {f"{DAY} AAA": 1}, "shown again it is the same look"
    found = nb.verdict(nb.open_holdout(run, frames, ledger=ledger), ledger=ledger)
    assert f"The holdout from {DAY} on was opened 2 times (N = 2)" in str(found)


def test_an_earlier_holdout_counts_the_same_look_once(frames: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    """A look that one holdout counts is the same look for another, whose days begin sooner or later."""
    ledger = tmp_path / "l.db"
    nb.train({"AAA": frames["AAA"]}, PLAIN, warmup=60, ledger=ledger)
    with pytest.warns(UserWarning, match="were held out from"):
        nb.train({"AAA": frames["AAA"]}, PLAIN, ledger=ledger, **SHORT)
    with pytest.warns(UserWarning, match="were held out from 2011-10-03 on"):
        nb.train({"AAA": frames["AAA"]}, PLAIN, ledger=ledger, warmup=60, holdout_from="2011-10-03")
    (look,) = (one for one in Ledger(ledger).holdouts().openings if one.last > DAY)
    assert look.start in {DAY, "2011-10-03"}
    assert count(ledger)[f"{DAY} AAA"] == 1


def test_a_later_holdout_reads_the_days_of_an_earlier_one(frames: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    """Moving the day back does not close what it leaves open."""
    ledger = tmp_path / "l.db"
    nb.train({"AAA": frames["AAA"]}, PLAIN, ledger=ledger, **SHORT)
    with pytest.warns(UserWarning, match="were held out from"):
        nb.train({"AAA": frames["AAA"]}, PLAIN, warmup=60, holdout_from="2012-03-01", ledger=ledger)
    assert count(ledger) == {f"{DAY} AAA": 1, "2012-03-01 AAA": 0}


def test_signals_open_the_days_that_they_are_judged_on(frames: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    """Judged before the day they are no opening, although the bars go on."""
    ledger = tmp_path / "l.db"
    nb.train({"AAA": frames["AAA"]}, PLAIN, ledger=ledger, **SHORT)
    signals = pd.Series(1.0, index=frames["AAA"].index)
    nb.judge(signals[:"2011-06-30"], {"AAA": frames["AAA"]}, ledger=ledger)
    assert count(ledger) == {f"{DAY} AAA": 0}
    with pytest.warns(UserWarning, match="were held out from"):
        nb.judge(signals, {"AAA": frames["AAA"]}, ledger=ledger)
    assert count(ledger) == {f"{DAY} AAA": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"holdout_from": "tomorrow"}, "--holdout-from expects a day as YYYY-MM-DD, got 'tomorrow'"),
        ({"holdout_from": 2019}, "expects a day as YYYY-MM-DD, got 2019"),
        ({"start": "2012-01-02", "holdout_from": DAY}, "leaves no bar: the run starts on 2012-01-02"),
        ({"end": "2011-06-30", "holdout_from": DAY}, "holds nothing out: --end is 2011-06-30"),
    ],
    ids=["word", "number", "start", "end"],
)
@pytest.mark.parametrize("record", [TrainConfig, WalkForwardConfig], ids=["train", "walk"])
def test_a_day_that_cannot_be_is_refused(record: Any, options: dict[str, Any], message: str) -> None:
    """With what was expected and what came."""
    with pytest.raises(ConfigError, match=message):
        record(**options)


def test_splits_end_before_the_holdout() -> None:
    """A split that ends in it contradicts it."""
    ends = {"train_end": "2011-01-31", "val_end": "2011-06-30"}
    TrainConfig(**ends, test_end="2011-10-31", holdout_from=DAY)
    with pytest.raises(ConfigError, match=f"--test-end {DAY} lies in the holdout from {DAY} on"):
        TrainConfig(**ends, test_end=DAY, holdout_from=DAY)


def test_a_day_outside_the_bars_is_refused(frames: dict[str, pd.DataFrame]) -> None:
    """Before the first bar, after the last, and with too little before it."""
    with pytest.raises(NothingToTrainError, match="no bars before holdout_from 2001-01-01"):
        nb.train(frames, PLAIN, holdout_from="2001-01-01")
    with pytest.raises(ConfigError, match="holdout_from 2031-01-01 holds nothing out: the last bar is of 2012-06-15"):
        nb.train(frames, PLAIN, warmup=60, holdout_from="2031-01-01")
    with pytest.raises(NothingToTrainError, match="bars from holdout_from 2010-05-03 on are held out"):
        nb.train(frames, PLAIN, warmup=60, holdout_from="2010-05-03")
    with pytest.raises(NotEnoughHistoryError, match="bars from holdout_from 2010-05-03 on are held out"):
        nb.walk_forward(frames, PLAIN, windows=WINDOWS, warmup=60, holdout_from="2010-05-03")


def test_what_cannot_be_opened_is_refused(frames: dict[str, pd.DataFrame]) -> None:
    """A run without a holdout, an opening, bars that end before the day, and bars that are others before it."""
    with pytest.raises(ArtifactError, match="was made without holdout_from: nothing is held out"):
        nb.open_holdout(nb.train(frames, PLAIN, warmup=60), frames)
    run = nb.train(frames, PLAIN, **SHORT)
    with pytest.raises(NothingToTrainError, match=f"its holdout begins on {DAY}, and the last bar is of 2011-10-31"):
        nb.open_holdout(run, until(frames))
    with pytest.raises(NothingToTrainError, match="no day from 2011-11-01 on can be scored"):
        nb.open_holdout(run, until(frames, "2011-11-02"))
    with pytest.raises(nb.errors.UnknownTickerError, match="the bars lack BBB"):
        nb.open_holdout(run, {"AAA": frames["AAA"]})
    changed = {name: frame.copy() for name, frame in frames.items()}
    changed["BBB"].loc["2011-03-01", "Close"] *= 1.001
    with pytest.raises(ArtifactError, match=r"bars before 2011-11-01 are not those .*BBB: bars .*2011-03-01"):
        nb.open_holdout(run, changed)
    missing = {name: frame.drop(pd.Timestamp("2011-10-31")) for name, frame in frames.items()}
    with pytest.raises(ArtifactError, match="bars before 2011-11-01 are not those that it was made on"):
        nb.open_holdout(run, missing)
    opened = nb.open_holdout(run, frames)
    with pytest.raises(ArtifactError, match="is an opening itself; name the run"):
        nb.open_holdout(opened, frames)
    with pytest.raises(ArtifactError, match="an opening keeps predictions"):
        opened.model("AAA")
    with pytest.raises(ArtifactError, match="an opening has no fit of its own; name its run"):
        nb.reproduce(opened, frames)


def test_bars_that_came_before_the_day_later_are_refused(frames: dict[str, pd.DataFrame]) -> None:
    """The last bars before the day were missing when the run was made, and are there now."""
    late = {name: frame[(frame.index < "2011-10-27") | (frame.index >= DAY)] for name, frame in frames.items()}
    run = nb.train(late, PLAIN, **SHORT)
    with pytest.raises(ArtifactError, match=r"are not those that it was made on \(AAA: bars 473, now 476"):
        nb.open_holdout(run, frames)


def test_code_inside_a_pipeline_travels_to_workers(
    frames: dict[str, pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that an own model is made of is sent with its code, as when it was trained."""
    run, sent = nb.train({"AAA": frames["AAA"]}, MODELS["own"], **SHORT), list[object]()
    monkeypatch.setattr("nextbar.workflows.recorded.send_by_value", lambda *parts: sent.extend(parts))
    nb.open_holdout(run, frames)
    assert any(isinstance(part, LogisticRegression) for part in sent)


# Files and the command line


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, market_db: Path, inline_module: Any) -> Path:
    """A training run and a walk-forward with a holdout, made by the command line, with their ledger."""
    place = tmp_path_factory.mktemp("holdout")
    common = ["--ticker", "AAA", "--db", str(market_db), "--no-tune", "--warmup", "60"]
    common += ["--holdout-from", DAY, "--ledger", str(place / "l.db")]
    assert called("train", "xgb", *common, "--save-dir", str(place)) == 0
    windows = ["--train-years", "1", "--val-months", "3", "--test-months", "4", "--step-months", "4"]
    assert called("walkforward", "--model", "rf", *common, *windows, "--output-dir", str(place), "--no-report") == 0
    return place


def called(*arguments: str) -> int:
    """Run the command line; return its exit code."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


@pytest.fixture
def place(folder: Path, tmp_path: Path) -> Path:
    """A copy of the folder."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def mark(place: Path, kind: str) -> str:
    """Document of the run of a kind of model."""
    endings = ("xgboost_AAA_*_metadata.json", "walkforward_rf_AAA_*_??????.json")
    (found,) = (path for path in place.glob(endings[kind == "walk"]) if "_holdout_" not in path.name)
    return str(found)


def opens(place: Path, market_db: Path, *files: str) -> int:
    return called("holdout", "open", *files, "--db", str(market_db), "--ledger", str(place / "l.db"))


@pytest.mark.parametrize("kind", ["train", "walk"])
def test_an_opening_is_a_run_beside_its_run(
    place: Path, market_db: Path, capsys: pytest.CaptureFixture[str], kind: str, make_certificate: Any
) -> None:
    """Document, rows and page carry the name of the run; every command that reads runs takes it.

    A failed certificate of the run is one of the opening, too.
    """
    before = {path.name: path.read_bytes() for path in place.iterdir() if path.name != "l.db"}
    file = mark(place, kind)
    assert opens(place, market_db, file) == 0
    assert f"The holdout from {DAY} on was opened once (N = 1)" in capsys.readouterr().out
    stem = load_run(file).stem
    made = sorted(path.name for path in place.iterdir() if path.name not in {*before, "l.db"})
    (document,) = [name for name in made if name.endswith(".json") and "report" not in name]
    opened = document.removesuffix(".json")
    assert opened.startswith(f"{stem}_holdout_")
    assert made == sorted(
        opened + end for end in (".json", ".parquet", *(f"_report.{x}" for x in ("html", "json", "md")))
    )
    assert {name: (place / name).read_bytes() for name in before} == before
    run = nb.load_run(place / f"{opened}.parquet")
    assert not run.refuted()
    certificate = make_certificate(Path(file), "FAIL")
    assert nb.verdict(run).reason.startswith("Its certificate is FAIL")
    certificate.unlink()
    assert (run.stem, run.document.kind, run.document.holdout.run) == (opened, "holdout", stem)
    assert run.document.holdout.sha256 == load_run(file).sha256
    assert run.rows["date"].min() >= pd.Timestamp(DAY)
    ledger = ["--ledger", str(place / "l.db")]
    assert called("report", str(place / document), *ledger) == 0
    assert called("runs", str(place)) == 0
    assert "holdout" in capsys.readouterr().out
    assert called("reproduce", str(place / document), "--db", str(market_db)) == 2
    assert f"name its run, {stem}" in capsys.readouterr().err
    assert called("holdout", "open", str(place / document), "--db", str(market_db), *ledger) == 2


def test_a_second_opening_says_two(place: Path, market_db: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the same run, or of another; the list names each."""
    assert opens(place, market_db, mark(place, "train")) == 0
    assert opens(place, market_db, mark(place, "walk")) == 0
    assert f"The holdout from {DAY} on was opened 2 times (N = 2)" in capsys.readouterr().out
    ledger = ["--ledger", str(place / "l.db")]
    assert called("holdout", "list", "--json", *ledger) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(one["start"], one["tickers"], one["opened"]) for one in found["holdouts"]] == [(DAY, ["AAA"], 2)]
    assert [one["run"] for one in found["openings"]] == [load_run(mark(place, kind)).stem for kind in ("train", "walk")]
    assert called("holdout", "list", *ledger) == 0
    printed = capsys.readouterr()
    assert "1 holdout, 2 openings in" in printed.err
    assert printed.out.partition("Openings")[2].count("opened") == 3  # a heading, and a row per opening


def test_a_reading_run_is_told_in_one_line(place: Path, market_db: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By train and by walkforward, on standard error; a run before the day says nothing."""
    common = ["--ticker", "AAA", "--db", str(market_db), "--no-tune", "--warmup", "60", "--ledger", str(place / "l.db")]
    windows = ["--train-years", "1", "--val-months", "3", "--no-report"]
    for command in (["train", "xgb", "--save-dir"], ["walkforward", "--model", "xgb", *windows, "--output-dir"]):
        assert called(*command, str(place / "more"), *common) == 0
        told = f"bars of AAA were held out from {DAY} on, and 1 run read them: recorded as an opening"
        assert capsys.readouterr().err.count(told) == 1
        assert called(*command, str(place / "more"), *common, "--end", "2011-10-31") == 0
        assert "held out" not in capsys.readouterr().err
    assert called("holdout", "list", "--ledger", str(place / "l.db")) == 0
    printed = " ".join(capsys.readouterr().out.split())
    minute = r"\d{4}-\d\d-\d\d \d\d:\d\d UTC"
    assert len(re.findall(rf"{minute} . read . .* . AAA . \w+ xgb of {minute}", printed.replace("│", "."))) == 1
    assert printed.count("read") == 2


@pytest.mark.parametrize("kind", ["train", "walk", "judge"])
def test_what_cannot_be_counted_is_not_written(
    place: Path, market_db: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    """Figures of held-out days are on disk only after the ledger has counted the look."""

    def refuses(*_: object) -> None:
        raise nb.errors.OutputError("the ledger is locked")

    signals = place / "signals.csv"
    signals.write_text("date,ticker,signal\n2011-12-01,AAA,1\n2011-12-02,AAA,1\n", encoding="utf-8")
    monkeypatch.setattr(Ledger, "record_run", refuses)
    windows = ["--train-years", "1", "--val-months", "3", "--no-report"]
    command = {
        "train": ["train", "xgb", "--ticker", "AAA", "--no-tune", "--warmup", "60", "--save-dir"],
        "walk": ["walkforward", "--model", "xgb", "--ticker", "AAA", "--no-tune", "--warmup", "60", *windows],
        "judge": ["judge", str(signals), "--output-dir"],
    }[kind] + (["--output-dir"] if kind == "walk" else [])
    ledger = ["--ledger", str(place / "l.db"), "--db", str(market_db)]
    assert called(*command, str(place / "more"), *ledger) == 2
    assert "the ledger is locked" in capsys.readouterr().err
    assert not [*place.glob("more/*.parquet")]


@pytest.mark.parametrize("walks", [False, True], ids=["train", "walk"])
def test_a_run_made_to_be_certified_is_an_opening(
    place: Path,
    market_db: Path,
    make_bars: Callable[..., pd.DataFrame],
    make_database: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    walks: bool,
) -> None:
    """It counts at once, is told in one line, and is no second one when it is reported."""
    long = {"AAA": make_bars(1150, seed=1, start="2008-02-01")}  # the default windows are longer than the other bars
    db = make_database(place / "long.db", long) if walks else market_db
    common = ["--ticker", "AAA", "--db", str(db), "--no-tune", "--warmup", "60", "--certify-seconds", "60"]
    ledger = ["--ledger", str(place / "l.db")]
    folder = ["--save-dir", str(place / "more")]
    assert called("certify", "xgb", *common, *(["--walkforward"] if walks else []), *folder, *ledger) == 0
    assert capsys.readouterr().err.count(f"held out from {DAY} on, and 1 run read them: recorded as an opening") == 1
    (opening,) = Ledger(place / "l.db").holdouts().openings
    assert (opening.way, opening.tickers) == (READ, ("AAA",))
    assert called("report", *map(str, (place / "more").glob("*.parquet")), *ledger) == 0
    assert len(Ledger(place / "l.db").holdouts().openings) == 1
    assert opens(place, market_db, mark(place, "train")) == 0
    assert f"The holdout from {DAY} on was opened 2 times (N = 2)" in capsys.readouterr().out


def test_a_changed_run_is_not_opened(place: Path, market_db: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A sibling with another sha256 ends it before anything is scored, counted or written."""
    (model,) = place.glob("xgboost_AAA_*[0-9].json")
    model.write_bytes(model.read_bytes() + b" ")
    names = sorted(path.name for path in place.iterdir())
    assert opens(place, market_db, mark(place, "walk"), mark(place, "train")) == 2
    assert "is damaged or was changed" in capsys.readouterr().err
    assert sorted(path.name for path in place.iterdir()) == names
    assert Ledger(place / "l.db").holdouts().openings == []


def test_a_run_without_a_holdout_is_told(
    tmp_path: Path, trained_trees: Path, market_db: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, and what to do."""
    (file,) = trained_trees.glob("xgboost_*_metadata.json")
    assert opens(tmp_path, market_db, str(file)) == 2
    assert "was made without --holdout-from: nothing is held out from it" in capsys.readouterr().err
    assert not (tmp_path / "l.db").exists()
    assert called("holdout", "list", "--ledger", str(tmp_path / "l.db")) == 2
    assert called("holdout", "open") == 2
    assert called("holdout", "open", str(tmp_path / "nothing.json")) == 2
    assert called("train", "xgb", "--holdout-from", "2019-13-01") == 2
    assert "--holdout-from expects a day as YYYY-MM-DD, got '2019-13-01'" in capsys.readouterr().err


def test_other_bars_before_the_day_are_told(
    place: Path, market_db: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another database, with another value before the day."""
    other = Path(shutil.copy(market_db, tmp_path / "other.db"))
    with sqlite3.connect(other) as connection:
        connection.execute("UPDATE stock_prices SET close = close * 1.01 WHERE ticker = 'AAA' AND date = '2011-02-01'")
    connection.close()
    assert called("holdout", "open", mark(place, "train"), "--db", str(tmp_path / "none.db")) == 2
    assert "none.db" in capsys.readouterr().err
    assert opens(place, other, mark(place, "train")) == 2
    assert "bars before 2011-11-01 are not those that it was made on (AAA:" in capsys.readouterr().err


def test_an_own_model_is_named_and_trusted_by_the_command(
    market_db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing that a file names is imported or loaded: --model says whose it is, --trust that its files are safe."""
    (tmp_path / "held_models.py").write_text("from sklearn.naive_bayes import GaussianNB as make\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    common = ["--ticker", "AAA", "--db", str(market_db), "--warmup", "60", "--holdout-from", DAY, "--save-dir", "."]
    own = ["--model", "held_models:make"]
    assert called("train", "estimator", *own, *common, "--ledger", "l.db") == 0
    (file,) = tmp_path.glob("*_metadata.json")
    assert opens(tmp_path, market_db, str(file)) == 2
    assert "is a run of your own model gaussiannb; pass it" in capsys.readouterr().err
    assert opens(tmp_path, market_db, str(file), *own) == 2
    assert "loading it may run code" in capsys.readouterr().err
    assert Ledger(tmp_path / "l.db").holdouts().openings == []
    assert opens(tmp_path, market_db, str(file), *own, "--trust") == 0
    assert f"The holdout from {DAY} on was opened once (N = 1)" in capsys.readouterr().out


def test_a_ticker_without_usable_bars_is_told(
    market_db: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of several tickers of a run has lost all its bars since."""
    other = Path(shutil.copy(market_db, tmp_path / "other.db"))
    common = ["--ticker", "AAA,BBB", "--db", str(other), "--no-tune", "--pooled", "--warmup", "60"]
    ledger = ["--ledger", str(tmp_path / "l.db")]
    assert called("train", "xgb", *common, "--holdout-from", DAY, "--save-dir", str(tmp_path), *ledger) == 0
    with sqlite3.connect(other) as connection:
        connection.execute("UPDATE stock_prices SET close = -1 WHERE ticker = 'BBB'")
    connection.close()
    (file,) = tmp_path.glob("*_metadata.json")
    assert opens(tmp_path, other, str(file)) == 2
    assert "it was made on bars of BBB; BBB: none of 640 bars has four positive prices" in capsys.readouterr().err


def test_a_document_that_lies_about_its_kind_is_refused(place: Path, market_db: Path) -> None:
    """An opening says of which run it is; a run that is none says nothing."""
    assert opens(place, market_db, mark(place, "train")) == 0
    (file,) = place.glob("*_holdout_*[0-9].json")
    document = json.loads(file.read_text(encoding="utf-8"))
    other = (
        {**document["holdout"], "kind": "walkforward"},
        {**document["holdout"], "run": "xgboost_AAA_20200101_000000"},
    )
    for change in ({"kind": "train"}, {"holdout": None}, *({"holdout": one} for one in other)):
        file.write_text(json.dumps(document | change), encoding="utf-8")
        with pytest.raises(ArtifactError, match=r"refused|says otherwise|opening|unknown|damaged"):
            load_run(file)


def test_the_run_itself_is_certified_reproduced_and_predicts(place: Path, market_db: Path, tmp_path: Path) -> None:
    """Bars of the holdout take no part in proofs; for tomorrow's signal they are bars like others."""
    file = Path(mark(place, "train"))
    other = Path(shutil.copy(market_db, tmp_path / "other.db"))
    with sqlite3.connect(other) as connection:
        connection.execute("UPDATE stock_prices SET close = 1, high = 9000, low = 1 WHERE date >= ?", (DAY,))
    connection.close()
    assert reproduce(file, Silent(), db=str(other)).identical
    (certificate,) = certify_runs([file], Silent(), db=str(other), seconds=1)
    assert not certificate.failures
    (frame,) = nb.read_bars(market_db, "AAA").values()
    assert nb.load_run(file).model().predict(frame).index[-1] == frame.index[-1]
    assert CertifyConfig(holdout_from=DAY).run_config().holdout_from == DAY


def test_predict_takes_a_glob_that_finds_openings(place: Path, market_db: Path) -> None:
    """The files of an opening stand for its run."""
    assert opens(place, market_db, mark(place, "train")) == 0
    files = map(str, place.glob("xgboost_*"))
    journal = ["--journal", str(place / "journal.jsonl")]
    assert called("predict", *files, "--db", str(market_db), "--max-age-days", "100000", *journal) == 0


def test_a_run_file_does_not_take_an_opening_for_its_run(place: Path, market_db: Path, tmp_path: Path) -> None:
    """An opening has the configuration of its run; only the run is finished by it."""
    assert opens(place, market_db, mark(place, "walk")) == 0
    file = tmp_path / "runs.toml"
    file.write_text(
        f"""[[run]]
model = "rf"
ticker = "AAA"
db = '{market_db}'
no_tune = true
warmup = 60
holdout_from = 2011-11-01
train_years = 1
val_months = 3
test_months = 4
step_months = 4
output_dir = '{place}'
""",
        encoding="utf-8",
    )
    (item,) = read_experiments(file).items
    assert str(item.run.mark) == mark(place, "walk")


def test_an_opening_in_memory_is_saved_under_the_time_of_its_run(
    frames: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    """A run that was never saved has a name all the same, and a second opening does not overwrite the first."""
    opened = nb.open_holdout(nb.walk_forward(frames, PLAIN, windows=WINDOWS, **SHORT), frames)
    for _ in range(2):
        opened.save(tmp_path)
    first, second = sorted(tmp_path.glob("walkforward_xgb_2tickers_*_holdout_*.json"))
    assert first.name.partition("_holdout_")[0] == opened.document.holdout.run
    pd.testing.assert_frame_equal(nb.load_run(second).rows, nb.load_run(first).rows)
    long = nb.judge(frames["AAA"]["Close"] * 0 + 1, {"AAA": frames["AAA"]})
    tables = [nb.compare([long, one]) for one in (opened, nb.load_run(first))]
    np.testing.assert_array_equal(*(table["difference"] for table in tables))
