"""Planted leaks are found and named; clean pipelines pass."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import RandomizedSearchCV

from nextbar.config import TrainConfig
from nextbar.datasets import prices, processor, samples, sequences
from nextbar.datasets.prices import RawBars, history_of, stored_frame
from nextbar.datasets.processor import StockDataProcessor
from nextbar.datasets.samples import Bars, Samples, Splits, clean_bars
from nextbar.datasets.splits import Split, usable_of
from nextbar.evaluation import trials, walkforward
from nextbar.evaluation.stages import STAGES, Finding, compare_tables, digest_table, first_difference
from nextbar.evaluation.trials import (
    WAYS,
    Trial,
    begin,
    calendar_conflict,
    change_future,
    feature_cuts,
    model_cuts,
    plan_trials,
    run_trial,
)
from nextbar.evaluation.walkforward import FoldTask
from nextbar.features import indicators
from nextbar.models import lstm_model as lstm_module
from nextbar.models import random_forest as forest_module
from nextbar.models import search as search_module
from nextbar.models import xgboost as xgboost_module
from nextbar.models.registry import model_of
from nextbar.models.reproducibility import StageCache
from nextbar.scoring.threshold import tune_threshold
from nextbar.types import Border

SMALL: dict[str, Any] = {"sequence_length": 10, "epochs": 1, "batch_size": 64, "n_iter": 2, "cv_splits": 2}
SPACE = {"max_depth": [2, 3, 4], "n_estimators": [5, 10]}
Patch = pytest.MonkeyPatch


@pytest.fixture(scope="module")
def bars(make_bars: Callable[..., pd.DataFrame]) -> dict[str, Bars]:
    frame = make_bars(520, seed=5).drop(columns="Adj")
    return {"AAA": Bars(frame=frame, dropped=0, adjustment="forward")}


def days_of(bars: Mapping[str, Bars]) -> dict[str, Any]:
    return {name: item.frame.index.to_numpy().astype("datetime64[D]") for name, item in bars.items()}


def case_of(bars: Mapping[str, Bars], model: str, *, ways: Sequence[str] = ("garbage",), **options: Any) -> Trial:
    """One way alone, for speed: a leak that one way shows is shown."""
    config = TrainConfig(**{**SMALL, "model": model, "no_tune": True, "space": SPACE, **options})
    days = days_of(bars)
    borders = Split.of(config).folds(days, {name: usable_of(day, config) for name, day in days.items()})[0].borders
    name = "all" if model == "lstm" else next(iter(bars))
    task = FoldTask(
        name=name, config=config, model=model_of(model, config), fold=0, borders=borders, search=not config.no_tune
    )
    return Trial(task=task, ways=ways)


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: Patch) -> None:
    """Small models: what leaks in them leaks in large ones."""
    monkeypatch.setitem(forest_module.DEFAULT, "n_estimators", 10)


def audit(case: Trial, bars: Mapping[str, Bars]) -> list[Finding]:
    """What `nextbar certify` finds out, in this process, where a leak can be planted."""
    base = begin(case, bars, lambda _line: None)
    found = list(base.findings)
    for trial in plan_trials(case, bars):
        found += run_trial(trial, (bars, {case.key: base}), lambda _line: None)
    return found


def first_failure(found: list[Finding]) -> Finding:
    failed = [finding for finding in found if not finding.passed]
    assert failed, "the planted leak was not seen"
    return min(failed, key=lambda finding: (list(STAGES).index(finding.stage), str(finding.row)))


def test_clean_pipeline_passes_every_way(bars: dict[str, Bars]) -> None:
    """No false alarm in any of the ways, on twelve runs and on the features at eight borders."""
    found = audit(case_of(bars, "xgb", ways=WAYS), bars)
    assert [finding for finding in found if not finding.passed] == []
    assert {finding.way for finding in found} >= set(WAYS)


@pytest.mark.parametrize(
    ("model", "options"),
    [
        pytest.param("xgb", {}, id="xgb"),
        pytest.param("rf", {}, id="rf"),
        pytest.param("lstm", {}, id="lstm"),
        pytest.param("lstm", {"target": "return", "ensemble": 2}, id="lstm of returns", marks=pytest.mark.thorough),
    ],
)
def test_clean_pipeline_passes(model: str, options: dict[str, Any], bars: dict[str, Bars]) -> None:
    """No false alarm: nothing moves when the future changes, and every stage was really compared."""
    found = audit(case_of(bars, model, **options), bars)
    assert [finding for finding in found if not finding.passed] == []
    assert {finding.stage for finding in found if finding.rows} >= {"features", "train samples", "training steps"}
    assert all(finding.digests[0] == finding.digests[1] for finding in found)


def centred(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"fine": frame["Close"].diff(), "leak": frame["Close"].rolling(5, center=True).mean()})


def tomorrow(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"leak": frame["Close"].shift(-1)})


def backward_fill(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"leak": frame["Volume"].bfill()})


def full_sample_mean(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"leak": frame["Close"] / frame["Close"].mean()})


def week_at_its_start(frame: pd.DataFrame) -> pd.DataFrame:
    weeks = frame["Close"].groupby(frame.index.to_period("W")).transform("last")
    return pd.DataFrame({"leak": weeks})


def month_at_its_start(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"leak": frame["Close"].groupby(frame.index.to_period("M")).transform("max")})


def quarter_at_its_start(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"leak": frame["Close"].groupby(frame.index.to_period("Q")).transform("max")})


@pytest.mark.parametrize(
    "function",
    [
        centred,
        tomorrow,
        backward_fill,
        full_sample_mean,
        week_at_its_start,
        month_at_its_start,
        quarter_at_its_start,
    ],
)
def test_leaking_features_are_named(function: Any, bars: dict[str, Bars], monkeypatch: Patch) -> None:
    """A user's leaking column is caught by name, with the first bad date before the change."""
    monkeypatch.setitem(sys.modules, "planted", SimpleNamespace(function=function))
    case = case_of(bars, "xgb", features="planted:function")
    failure = first_failure(begin(case, bars, lambda _line: None).findings)
    assert (failure.part, failure.stage, failure.column) == ("features", "features", "leak")
    assert str(failure.row) < failure.border
    assert failure.digests[0] != failure.digests[1]


def test_a_random_feature_is_called_random(bars: dict[str, Bars], monkeypatch: Patch) -> None:
    """A column that differs on the same bars is no sign of the future, and is not told as one."""
    draw = np.random.default_rng(0).normal
    noise = SimpleNamespace(function=lambda frame: pd.DataFrame({"n": draw(size=len(frame))}, frame.index))
    monkeypatch.setitem(sys.modules, "planted", noise)
    failure = first_failure(begin(case_of(bars, "xgb", features="planted:function"), bars, lambda _line: None).findings)
    assert "n has another value in row" in str(failure)
    assert "it is random" in str(failure)


@pytest.mark.parametrize("model", ["rf", "lstm"])
def test_every_trainer_names_a_leaking_feature(model: str, bars: dict[str, Bars], monkeypatch: Patch) -> None:
    """The forest and the network take a user's columns as XGBoost does, alone here, and are audited alike."""
    monkeypatch.setitem(sys.modules, "planted", SimpleNamespace(function=centred))
    case = case_of(bars, model, features="planted:function", features_only=True)
    failure = first_failure(audit(case, bars))
    assert (failure.part, failure.stage, failure.column) == ("features", "features", "leak")
    assert str(failure.row) < failure.border


def test_backward_fill_shows_only_with_a_hole(bars: dict[str, Bars], monkeypatch: Patch) -> None:
    """Without a hole there is nothing to fill."""
    monkeypatch.setitem(sys.modules, "planted", SimpleNamespace(function=backward_fill))
    found = begin(case_of(bars, "xgb", features="planted:function"), bars, lambda _line: None).findings
    failed = [finding for finding in found if not finding.passed]
    assert failed
    assert all(finding.way.endswith("hole before") for finding in failed)


def test_function_that_refuses_holes_is_not_blamed(bars: dict[str, Bars], monkeypatch: Patch) -> None:
    """Bars never hold NaN, so a function that raises on one is fine; that it was not tried is written down."""
    function = lambda frame: pd.DataFrame({"whole": frame["Volume"].astype("int64")})  # noqa: E731
    monkeypatch.setitem(sys.modules, "planted", SimpleNamespace(function=function))
    found = begin(case_of(bars, "xgb", features="planted:function"), bars, lambda _line: None).findings
    assert all(finding.passed for finding in found)
    assert any(finding.note.startswith("not tried") for finding in found)


def scaler_on_everything(patch: Patch) -> None:
    fit = sequences.fit_scaler
    patch.setattr(sequences, "fit_scaler", lambda table, _start, _stop: fit(table, 0, len(table.dates)))


def label_across_the_border(patch: Patch) -> None:
    make = samples.make_samples
    patch.setattr(
        samples,
        "make_samples",
        lambda table, start, stop, *, purge: make(table, start, min(stop + 1, len(table.dates)), purge=purge),
    )


def unsealed(patch: Patch) -> None:
    """Hand test to the model with the rest, as if nobody had taken it away."""
    patch.setattr(Splits, "before_test", property(lambda self: self))


def early_stopping_on_test(patch: Patch) -> None:
    unsealed(patch)
    fit = xgboost_module.XGBoost.fit

    def leaking(self: Any, panel: Any, request: Any) -> Any:
        return fit(self, [replace(x, val=x.test) for x in panel], request)

    patch.setattr(xgboost_module.XGBoost, "fit", leaking)


def of_test(data: Splits, sets: sequences.SequenceSets) -> sequences.Sequences:
    """Windows of test with their targets, which no fit gets."""
    scaler = sets.scalers[data.table.ticker]
    blank = sequences.Sequences(
        features=scaler.scale_features(data.table.features),
        target=np.full(len(data.table.dates), np.nan, np.float32),
        ends=sequences.window_ends(data.table, data.test.rows, length=sets.val.length),
        length=sets.val.length,
    )
    blank.target[data.test.rows] = scaler.scale_price(data.test.prices * (1.0 + data.test.next_returns))
    return blank


def network_stopped_on_test(patch: Patch) -> None:
    unsealed(patch)
    make = lstm_module.make_sequences

    def leaking(panel: Any, **options: Any) -> Any:
        sets = make(panel, **options)
        return replace(sets, val=of_test(panel[0], sets))

    patch.setattr(lstm_module, "make_sequences", leaking)


def threshold_on_test(patch: Patch) -> None:
    def leaking(task: FoldTask, fitted: Any, data: Splits) -> Any:
        test, costs = data.test, task.terms.cost_bps
        return tune_threshold(fitted.predict(data.table, test.rows), test.next_returns, test.y, cost_bps=costs)

    patch.setattr(walkforward, "_choose_threshold", leaking)


def threshold_curve_that_knows_test(patch: Patch) -> None:
    """The choice stays as it is; an argmax can survive by luck, the curve behind it cannot."""
    choose = walkforward._choose_threshold

    def leaking(task: FoldTask, fitted: Any, data: Splits) -> Any:
        choice = choose(task, fitted, data)
        return replace(choice, curve=replace(choice.curve, long_days=choice.curve.long_days + data.test.y.sum()))

    patch.setattr(walkforward, "_choose_threshold", leaking)


def indicator_by_the_mean_of_all(patch: Patch) -> None:
    compute = indicators.indicators

    def leaking(close: Any) -> dict[str, Any]:
        found = compute(close)
        return {**found, "SMA_20": found["SMA_20"] / close.mean()}

    patch.setattr("nextbar.features.spec.indicators", leaking)


def join(one: Samples, two: Samples, order: Any = None) -> Samples:
    parts = {name: np.concatenate([getattr(one, name), getattr(two, name)]) for name in vars(one)}
    return Samples(**{name: array if order is None else array[order] for name, array in parts.items()})


def search_on_train_and_test(patch: Patch) -> None:
    make, choose = samples.make_splits, search_module.choose_params
    seen: list[Samples] = []

    def remember(*args: Any, **options: Any) -> Splits:
        splits = make(*args, **options)
        seen.append(splits.test)
        return splits

    patch.setattr(processor, "make_splits", remember)
    patch.setattr(
        search_module,
        "choose_params",
        lambda one, fixed, train, *rest, **space: choose(one, fixed, join(train, seen[-1]), *rest, **space),
    )


def future_in_the_window(patch: Patch) -> None:
    inputs = sequences.TickerScaler.inputs

    def leaking(*args: Any) -> Any:
        rows, view = inputs(*args)
        return np.roll(rows, -3, axis=0), view

    patch.setattr(sequences.TickerScaler, "inputs", leaking)


def future_in_the_volatility(patch: Patch) -> None:
    measure = sequences.volatility
    patch.setattr(sequences, "volatility", lambda table: np.nan_to_num(np.roll(measure(table), -3), nan=0.01))


def shuffled_validation(patch: Patch) -> None:
    make = samples.make_splits

    def leaking(*args: Any, **options: Any) -> Splits:
        splits = make(*args, **options)
        count = len(splits.train.y)
        order = np.random.default_rng(0).permutation(count + len(splits.val.y))
        parts = (join(splits.train, splits.val, part) for part in (order[:count], order[count:]))
        return replace(splits, **dict(zip(("train", "val"), parts, strict=True)))

    patch.setattr(processor, "make_splits", leaking)


@pytest.mark.parametrize(
    ("plant", "model", "stage", "part"),
    [
        (scaler_on_everything, "lstm", "scalers", "end of train"),
        (label_across_the_border, "xgb", "train samples", "end of train"),
        (indicator_by_the_mean_of_all, "xgb", "features", "features"),
        (early_stopping_on_test, "xgb", "history", "end of validation"),
        (network_stopped_on_test, "lstm", "validation windows", "end of validation"),
        (threshold_on_test, "xgb", "threshold", "end of validation"),
        (threshold_curve_that_knows_test, "rf", "threshold", "end of validation"),
        (search_on_train_and_test, "xgb", "search", "end of train"),
        pytest.param(search_on_train_and_test, "rf", "search", "end of train", marks=pytest.mark.thorough),
        (future_in_the_window, "lstm", "train windows", "end of train"),
        (shuffled_validation, "xgb", "train samples", "end of train"),
    ],
)
def test_planted_leak_is_caught_at_its_stage(
    plant: Callable[[Patch], None], model: str, stage: str, part: str, bars: dict[str, Bars]
) -> None:
    """The first stage that moved is the one that leaks."""
    with Patch.context() as patch:
        plant(patch)
        caught, parts = audited(model, bars, no_tune=stage != "search")
    assert caught == stage
    assert part in parts


def test_a_volatility_that_knows_the_future_is_caught(bars: dict[str, Bars]) -> None:
    """Windows and targets are divided by the volatility; one that reads later bars moves the windows of train."""
    with Patch.context() as patch:
        future_in_the_volatility(patch)
        found = first_failure(audit(case_of(bars, "lstm", target="return"), bars))
    assert (found.stage, found.part) == ("train windows", "end of train")


def audited(model: str, bars: dict[str, Bars], *, no_tune: bool = True) -> tuple[str, set[str]]:
    """The first stage that moved, and the parts of the certificate that it moved in."""
    found = audit(case_of(bars, model, no_tune=no_tune), bars)
    stage = first_failure(found).stage
    return stage, {finding.part for finding in found if not finding.passed and finding.stage == stage}


def test_network_is_known_by_what_it_was_trained_with(bars: dict[str, Bars], monkeypatch: Patch) -> None:
    """Other windows than those of validation, handed over where the network is trained, are not hidden by reuse."""
    unsealed(monkeypatch)
    train = lstm_module._train

    def leaking(one: Any, val: Any, *rest: Any) -> Any:
        return train(one, made[-1], *rest)

    def remember(panel: Any, **options: Any) -> Any:
        sets = make(panel, **options)
        made.append(of_test(panel[0], sets))
        return sets

    made: list[sequences.Sequences] = []
    make = lstm_module.make_sequences
    monkeypatch.setattr(lstm_module, "make_sequences", remember)
    monkeypatch.setattr(lstm_module, "_train", leaking)
    caught, parts = audited("lstm", bars)
    assert caught == "history"
    assert "end of validation" in parts


@pytest.fixture(scope="module")
def stored(make_bars: Callable[..., pd.DataFrame]) -> dict[str, Bars]:
    """Bars of a ticker with splits and dividends, with what they were made from."""
    frame = make_bars(520, seed=5).rename(columns={"Adj": "Adj Close"})
    frame["Adj Close"] = frame["Close"] * np.where(np.arange(520) < 300, 0.25, 0.9)
    days = frame.index.to_numpy().astype("datetime64[D]")
    raw = RawBars(history=history_of(frame), first=days[0], last=days[-1], adjust=True)
    return {"AAA": replace(clean_bars("AAA", raw.adjusted(stored_frame(raw.history))), raw=raw)}


def test_adjustment_is_certified(stored: dict[str, Bars], monkeypatch: Patch) -> None:
    """Stored bars are changed, so that an adjustment from the last bar back, which knows later splits, is a leak."""
    case = case_of(stored, "xgb")
    trials = plan_trials(case, stored)
    assert [trial.part for trial in trials][-1] == "rescaled past"

    def found(bars: Mapping[str, Bars]) -> list[Finding]:
        base = begin(case, bars, lambda _line: None)
        return [x for trial in trials for x in run_trial(trial, (bars, {case.key: base}), lambda _line: None)]

    assert all(finding.passed for finding in found(stored))
    adjust = prices.adjust_forward

    def from_the_last(quoted: Any, adj_close: Any, _base: Any = None) -> Any:
        return adjust(quoted, adj_close, (quoted[3, -1], adj_close[-1]))

    monkeypatch.setattr(prices, "adjust_forward", from_the_last)
    raw = stored["AAA"].raw
    back = {"AAA": replace(clean_bars("AAA", raw.adjusted(stored_frame(raw.history))), raw=raw)}
    assert {finding.part for finding in found(back) if not finding.passed} >= {"end of train", "rescaled past"}


def test_steps_up_to_the_earlier_stop() -> None:
    """Another validation stops training elsewhere; the epochs or trees that both runs have must be equal, no others."""

    def against(steps: list[str]) -> Finding:
        ours, theirs = (pd.DataFrame({"tree": each}) for each in (["a", "b", "c"], steps))
        cut = np.datetime64("2020-01-02")
        common: Any = {"ticker": "AAA", "part": "end of train", "cut": cut, "way": "garbage"}
        return compare_tables(ours, theirs, stage="training steps", **common)

    shorter, longer, other = against(["a", "b"]), against(["a", "b", "c", "d"]), against(["a", "x", "c", "d"])
    assert (shorter.passed, shorter.rows) == (True, 2)
    assert (longer.passed, longer.rows) == (True, 3)
    assert (other.column, other.row) == ("tree", "1")


def test_slow_indicator_fails_the_warm_up(bars: dict[str, Bars], monkeypatch: Patch) -> None:
    """An RSI that forgets more slowly than is stated depends on where the history starts."""

    def slow(close: Any) -> dict[str, Any]:
        return {**indicators.indicators(close), "RSI": pd.Series(close).ewm(span=250, adjust=False).mean().to_numpy()}

    monkeypatch.setattr("nextbar.features.spec.indicators", slow)
    failed = [x for x in begin(case_of(bars, "xgb"), bars, lambda _line: None).findings if not x.passed]
    assert [(finding.part, finding.column) for finding in failed] == [("warm-up", "RSI")]


def test_known_input_is_not_searched_again(bars: dict[str, Bars], monkeypatch: Patch) -> None:
    """A trial that leaves train alone takes the search of the first run; other bits in, and it searches."""
    ran: list[int] = []
    fit = RandomizedSearchCV.fit
    monkeypatch.setattr(RandomizedSearchCV, "fit", lambda *args, **options: ran.append(1) or fit(*args, **options))
    case = case_of(bars, "xgb", no_tune=False)
    base = begin(case, bars, lambda _line: None)
    for trial in plan_trials(case, bars):
        assert all(finding.passed for finding in run_trial(trial, (bars, {case.key: base}), lambda _line: None))
    assert len(ran) == 1
    begin(case_of(bars, "xgb", no_tune=False, seed=1), bars, lambda _line: None)
    assert len(ran) == 2


def test_network_is_not_handed_test_rows(bars: dict[str, Bars]) -> None:
    """What no window of train or validation holds is blank, so that reuse by digest is sound."""
    case = case_of(bars, "lstm")
    (border,) = case.task.borders.values()
    prepare = StockDataProcessor(case.task.config).prepare_for_classification_splits
    data = prepare(bars["AAA"].frame, ticker="AAA", border=border)
    sets = sequences.make_sequences([data], length=10, scaler_fit="train")
    assert not sets.train.features[border.test :].any()
    assert np.isnan(sets.train.target[border.test :]).all()
    assert of_test(data, sets).features[border.test :].any()


def test_gap_inside_cross_validation(bars: dict[str, Bars], monkeypatch: Patch) -> None:
    """The certificate cannot see a missing gap between cross-validation folds, all of which lie in train: it is 1."""
    gaps: list[int] = []
    split = search_module.TimeSeriesSplit
    monkeypatch.setattr(
        search_module, "TimeSeriesSplit", lambda **options: gaps.append(options["gap"]) or split(**options)
    )
    begin(case_of(bars, "xgb", no_tune=False), bars, lambda _line: None)
    assert gaps == [1]


@pytest.mark.parametrize("way", WAYS)
def test_change_touches_the_future_alone(way: str, bars: dict[str, Bars]) -> None:
    """Days before the cut keep every bit; after it prices differ, stay positive and a high stays the highest."""
    frame = bars["AAA"].frame
    cut = frame.index.to_numpy()[300]
    changed = change_future(frame, cut, way)
    pd.testing.assert_frame_equal(changed.iloc[:300], frame.iloc[:300], check_exact=True)
    assert (changed.iloc[300:] != frame.iloc[300:]).to_numpy().any()
    assert (changed[["Open", "High", "Low", "Close"]] > 0).to_numpy().all()
    assert (changed["High"] >= changed["Low"]).all()


def test_feature_borders(bars: dict[str, Bars]) -> None:
    """Five sessions in a row, a mid-month, a mid-quarter and one inside the warm-up."""
    days = days_of(bars)["AAA"]
    cuts = feature_cuts(days, Border(train=200, val=400, test=450, end=520), 200)
    assert cuts[0] == days[40]
    assert {pd.Timestamp(cut).day_of_week for cut in cuts[1:6]} == {0, 1, 2, 3, 4}
    assert len(cuts) == 8
    month, quarter = sorted((pd.Timestamp(cut) for cut in cuts[6:]), key=lambda day: day.month in (2, 5, 8, 11))
    assert month.day >= 15
    assert quarter.day >= 15
    assert quarter.month in (2, 5, 8, 11)


def test_global_model_needs_one_calendar(bars: dict[str, Bars], make_bars: Callable[..., pd.DataFrame]) -> None:
    """Each ticker at its own share: a late one trains on an early one's test days; by date it is fine."""
    late = {**bars, "NEW": Bars(frame=make_bars(520, seed=6, start="2011-01-03"), dropped=0, adjustment="forward")}
    by_ticker, by_date = (
        case_of(late, "lstm", split_by=split, warmup=100).task.borders for split in ("ticker", "date")
    )
    told = calendar_conflict(by_ticker, days_of(late))
    assert told is not None
    assert "--split-by date" in told
    assert "AAA" in told
    assert calendar_conflict(by_date, days_of(late)) is None
    assert set(model_cuts(by_date, days_of(late))) == {"end of train", "end of validation", "inside test"}


def test_first_difference_is_to_the_bit() -> None:
    """The last bit of a number, a sign of zero, a missing row are differences; one NaN is like another."""
    table = pd.DataFrame({"a": [1.0, np.nan, 0.0], "b": ["x", "y", None]})
    assert first_difference(table, table.copy()) is None
    nudged = table.assign(a=[np.nextafter(1.0, 2.0), np.nan, 0.0])
    assert first_difference(table, nudged) == ("a", "0")
    assert first_difference(table, table.assign(a=[1.0, np.nan, -0.0])) == ("a", "2")
    assert first_difference(table, table.head(2)) == ("presence", "2")
    assert first_difference(table, table.rename(columns={"a": "c"})) is not None
    assert digest_table(table) == digest_table(table.copy())
    assert digest_table(table) != digest_table(nudged)


def test_cached_outcomes_are_not_computed_again() -> None:
    """A stored outcome is returned without computing; an unknown key is computed."""
    cache = StageCache()
    assert cache.get_or_compute("key", lambda: [1, 2]) == [1, 2]
    again = StageCache(cache.new_entries())
    assert again.get_or_compute("key", lambda: pytest.fail("ran again")) == [1, 2]
    assert again.get_or_compute("other", lambda: 3) == 3


def test_unknown_slack_is_stated() -> None:
    """The warm-up's stated share grows as the warm-up shrinks, and is about 1e-6 for 200 bars."""
    assert 5e-7 < indicators.warmup_error(200)["RSI"] < 2e-6
    assert indicators.warmup_error(100)["MACD"] > indicators.warmup_error(200)["MACD"]
    assert trials.SLACK == 10.0


def test_built_in_features_are_truncated_once_a_ticker(bars: dict[str, Bars], monkeypatch: Patch) -> None:
    """Built-in features are also tried with bars left out, in the worker; a leak in them is found."""
    case = case_of(bars, "xgb")
    (clean,) = begin(case, bars, lambda _line: None).truncations
    assert (clean.ticker, clean.moved, clean.finding().verdict) == ("AAA", 0, "PASS")
    indicator_by_the_mean_of_all(monkeypatch)
    (leaking,) = begin(case, bars, lambda _line: None).truncations
    assert (leaking.moved, leaking.finding().column) == (leaking.tried, "SMA_20")


def test_drawn_days_look_like_the_tickers_own(bars: dict[str, Bars]) -> None:
    """Days are drawn from the whole history: each bar's ratios are those of one day, chained to the last that stays."""
    frame = bars["AAA"].frame
    prices, cut = ["Open", "High", "Low", "Close"], 300
    changed = change_future(frame, frame.index.to_numpy()[cut], "drawn days")
    own = (frame[prices].div(frame["Close"].shift(), axis=0)).assign(Volume=frame["Volume"]).round(9)
    drawn = (changed[prices].div(changed["Close"].shift(), axis=0)).assign(Volume=changed["Volume"]).round(9)[cut:]
    known = set(own[1:].itertuples(index=False, name=None))
    assert np.mean([row in known for row in drawn.itertuples(index=False, name=None)]) > 0.99
    assert 100 < len(set(drawn.index[drawn["Volume"].duplicated()]) ^ set(drawn.index)) < len(drawn)
    assert changed["High"].equals(changed[prices].max(axis=1))
    assert changed["Low"].equals(changed[prices].min(axis=1))
    pd.testing.assert_frame_equal(changed, change_future(frame, frame.index.to_numpy()[cut], "drawn days"))


def test_drawn_days_of_bad_bars_stay_positive_and_finite(bars: dict[str, Bars]) -> None:
    """Missing rows, a wild history, a quoted close, and no day before the cut: prices are numbers above zero."""
    frame = bars["AAA"].frame.assign(Quoted=lambda each: each["Close"] * 4)
    frame.iloc[::2, :4] *= 1e6
    frame.iloc[100:102] = np.nan
    for cut in (0, 1, 102, len(frame) - 1):
        changed = change_future(frame, frame.index.to_numpy()[cut], "drawn days").iloc[cut:]
        assert np.isfinite(changed.to_numpy()).all()
        assert (changed > 0).to_numpy().all()
    assert change_future(frame, frame.index.to_numpy()[-1] + np.timedelta64(1, "D"), "drawn days").equals(frame)


def test_drawn_days_follow_the_last_adjusted_close(bars: dict[str, Bars]) -> None:
    """Bars before the border without an adjusted close are no reason for none after it."""
    frame = bars["AAA"].frame.assign(**{"Adj Close": lambda each: each["Close"] / 4})
    frame.iloc[295:300, frame.columns.get_loc("Adj Close")] = np.nan
    changed = change_future(frame, frame.index.to_numpy()[300], "drawn days").iloc[300:]
    assert np.allclose(changed["Adj Close"] * 4, changed["Close"])


def test_scalers_that_see_validation_fail(bars: dict[str, Bars]) -> None:
    """`--scaler_fit partition` is a choice that the certificate does not hide."""
    case = case_of(bars, "lstm", scaler_fit="partition")
    base = begin(case, bars, lambda _line: None)
    found = run_trial(plan_trials(case, bars)[0], (bars, {case.key: base}), lambda _line: None)
    assert first_failure(found).stage == "scalers"


def test_bars_that_end_before_test_are_no_conflict() -> None:
    """A fold of which no ticker has a bar in the test window is left to what can be tried."""
    dates = {"A": np.arange("2020-01-01", "2020-01-11", dtype="datetime64[D]")}
    assert calendar_conflict({"A": Border(train=0, val=5, test=10, end=10)}, dates) is None
