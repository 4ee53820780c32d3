"""Estimators of the user's own: regressors, boosted trees of other libraries, saving, and `--model module:factory`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeRegressor

import nextbar as nb
from nextbar.datasets.samples import Splits
from nextbar.errors import ArtifactError, ConfigError, MissingExtraError, ModelError
from nextbar.execution.engine import Engine, engines_by
from nextbar.models.base import FitRequest
from nextbar.models.boosting import LightGBMTrees, library_of, trees_of
from nextbar.models.estimator import BATCH, FittedEstimator, steady_params
from nextbar.models.registry import KINDS
from nextbar.models.reproducibility import digest_arrays

SHORT: dict[str, Any] = {"warmup": 60}
WINDOWS = nb.Windows(train_years=1, val_months=3, test_months=8, step_months=8)


@pytest.fixture(scope="module")
def frames(market_bars: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Three tickers in the market format."""
    return {name: market_bars[name].rename(columns={"Adj": "Adj Close"}) for name in ("AAA", "BBB", "^GSPC")}


# --- regressors ----------------------------------------------------------------------------------------------------


def regressor(**options: Any) -> nb.Estimator:
    return nb.Estimator(make_pipeline(StandardScaler(), Ridge()), label="ridge", **options)


def test_a_warning_of_an_estimator_is_told_once(frames) -> None:
    """At the line of the user, with the number of fits that gave it."""
    bars, model = {"AAA": frames["AAA"]}, nb.Estimator(LogisticRegression(max_iter=1))
    with pytest.warns(nb.errors.Remark, match=r"^ConvergenceWarning: lbfgs .* \([2-9] times\)$") as told:
        nb.walk_forward(bars, model, windows=WINDOWS, engine="serial", **SHORT)
    assert [one.filename for one in told] == [__file__]


@pytest.mark.parametrize("pooled", [False, True], ids=["per-ticker", "pooled"])
def test_a_regressor_predicts_the_next_return(frames, inline, pooled: bool) -> None:
    """The close follows from the return in percent, the class from its sign; there is no probability or threshold."""
    run = nb.train(frames, regressor(pooled=pooled), **SHORT)
    rows = run.rows[run.rows["ticker"] == "AAA"].set_index("date")
    assert rows[["probability", "threshold"]].isna().all(axis=None)
    closes = frames["AAA"]["Close"].loc[rows.index]
    expected = (rows["predicted_close"] > closes).astype(int)
    known = rows["predicted_close"].notna()
    assert (rows["class"] == expected)[known].all()
    assert set(rows["class"]) == {0, 1}
    said = run.model("AAA").predict(frames["AAA"]).loc[rows.index[known]]
    assert (said["predicted_close"] == rows["predicted_close"][known]).all()
    assert run.model("AAA").fitted.regressor
    moved = (rows["predicted_close"] / closes - 1)[known]
    assert 0 < moved.abs().mean() < 0.01  # percents would be a hundred times as large


def test_a_regressor_is_fitted_on_percents(frames, inline) -> None:
    """What it is fitted on is the next return times 100: a tree of one leaf predicts its mean over train."""
    run = nb.train({"AAA": frames["AAA"]}, nb.Estimator(DecisionTreeRegressor(max_depth=1)), **SHORT)
    ((_, task),) = run.document.fits
    fitted = run.model("AAA").fitted.estimator
    returns = frames["AAA"]["Adj Close"].pct_change().shift(-1)
    part = task.splits["AAA"].train
    mean = returns.loc[str(part.first) : str(part.last)].iloc[:-1].mean()
    assert fitted.tree_.value[0, 0, 0] == pytest.approx(100 * mean, rel=1e-6)


def test_a_regressor_is_searched_certified_and_reproduced(frames, inline) -> None:
    """Candidates are compared by squared error on train; the walk-forward is certified and comes out the same."""
    model = regressor(space={"ridge__alpha": [1.0, 100.0]}, n_iter=2, cv_splits=2)
    wf = nb.walk_forward({"AAA": frames["AAA"]}, model, windows=WINDOWS, **SHORT)
    search = wf.document.fits[0][1].search
    assert search.scoring == "neg_mean_squared_error"
    assert all(candidate.mean < 0 for candidate in search.candidates)
    assert nb.certify(wf, frames, seconds=60).passed
    assert nb.reproduce(wf, frames).identical
    assert wf.document.figures.price is not None


def test_what_is_neither_classifier_nor_regressor_is_refused() -> None:
    """A classifier without probabilities has none to give, and is no regressor."""
    with pytest.raises(
        ConfigError, match=r"or a regressor, such as Ridge\(\); got LinearSVC\(\), which has no predict"
    ):
        nb.Estimator(LinearSVC())


def test_seeds_and_threads_of_all_parts_are_set() -> None:
    """Nested seeds get the seed; numbers of threads become 1, but for None where that is one thread."""

    class Threads(LogisticRegression):
        """Takes None for all cores."""

        def __init__(self, nthread: int | None = None, random_state: int | None = None) -> None:
            super().__init__(random_state=random_state)
            self.nthread = nthread

    pipeline = make_pipeline(StandardScaler(), Threads())
    assert steady_params(pipeline, 7) == {"threads__random_state": 7, "threads__nthread": 1}
    forest = steady_params(make_pipeline(DecisionTreeRegressor()), 7)
    assert forest == {"decisiontreeregressor__random_state": 7}


def test_a_prediction_does_not_depend_on_the_rows_beside_it() -> None:
    """Rows are predicted in batches of one height, so that a longer table changes no bit."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(BATCH + 40, 30))
    model = Ridge().fit(rows, rows @ rng.normal(size=30))
    heights: list[int] = []

    class Seen:
        def predict(self, features: np.ndarray) -> Any:
            heights.append(len(features))
            return model.predict(features)

    fitted = FittedEstimator(estimator=Seen(), columns=(), regressor=True)
    whole = fitted.said(rows)
    assert len(whole) == len(rows)
    np.testing.assert_array_equal(fitted.said(rows[: BATCH + 3]), whole[: BATCH + 3])
    assert set(heights) == {BATCH}
    assert fitted.said(rows[:0]).shape == (0,)


# --- LightGBM and CatBoost -----------------------------------------------------------------------------------------


def lightgbm(*, regressor: bool = False, **params: Any) -> Any:
    """A small booster; the test is skipped where the library is not installed."""
    library = pytest.importorskip("lightgbm")
    kind = library.LGBMRegressor if regressor else library.LGBMClassifier
    return kind(**{"n_estimators": 200, "num_leaves": 4, **params})


def catboost(*, regressor: bool = False, **params: Any) -> Any:
    """The same of CatBoost."""
    library = pytest.importorskip("catboost")
    kind = library.CatBoostRegressor if regressor else library.CatBoostClassifier
    return kind(**{"iterations": 200, "depth": 2, **params})


BOOSTERS = pytest.mark.parametrize("make", [lightgbm, catboost], ids=["lightgbm", "catboost"])


def trees(estimator: Any) -> int:
    """Trees that it predicts by: fitted, or read from its file."""
    if library_of(estimator) == "catboost":
        return estimator.tree_count_
    return estimator.booster.num_trees() if isinstance(estimator, LightGBMTrees) else estimator.best_iteration_


@BOOSTERS
@pytest.mark.parametrize(
    ("regressor", "pooled"), [(False, False), (True, True)], ids=["classifier", "pooled-regressor"]
)
def test_a_booster_stops_on_validation(frames, inline, make: Any, regressor: bool, pooled: bool) -> None:
    """It keeps fewer trees than it may grow, alone and behind a scaler; it is certified and reproduced."""
    chosen = frames if pooled else {"AAA": frames["AAA"]}
    plain = make(regressor=regressor)
    run = nb.train(chosen, nb.Estimator(plain, label="trees", pooled=pooled), **SHORT)
    fitted = run.model("AAA").fitted.estimator
    ((_, task),) = run.document.fits
    assert 1 <= trees(fitted) < 200
    assert task.details["best_iteration"] == trees(fitted) - 1
    scaled = nb.train(
        chosen, nb.Estimator(make_pipeline(StandardScaler(), plain), label="trees", pooled=pooled), **SHORT
    )
    assert 1 <= trees(scaled.model("AAA").fitted.estimator[-1]) < 200
    assert nb.reproduce(run, chosen).identical
    certificate = nb.certify(run, chosen)
    assert certificate.passed
    assert certificate.table()["model"]["end of validation"] == "PASS"
    assert library_of(plain) in run.document.environment.versions


@BOOSTERS
def test_test_days_never_stop_a_booster(frames, inline, make: Any) -> None:
    """What stops the trees is validation: other bars there give other trees, other bars in test give the same."""
    given: list[Splits] = []

    class Spy(nb.Estimator):
        def fit(self, panel: Any, request: FitRequest) -> Any:
            given.extend(panel)
            return super().fit(panel, request)

    nb.train({"AAA": frames["AAA"]}, Spy(make(), label="spy"), **SHORT)
    (data,) = given
    model = nb.Estimator(make(), label="trees")

    def grown(val: Any) -> str:
        changed = replace(data, val=val)
        return str(trees_of(model.fit([changed], FitRequest(seed=1, search=False)).estimator))

    assert not len(data.test.y)
    assert grown(data.val) == grown(data.val)
    assert grown(data.val) != grown(replace(data.val, y=1 - data.val.y))


@BOOSTERS
def test_pooled_rows_are_weighted_where_validation_stops_them(frames, inline, make: Any) -> None:
    """The rows of train and of validation have the weights that let each date count alike."""
    given: list[tuple[np.ndarray, np.ndarray]] = []

    class Seen(type(make())):  # type: ignore[misc]
        def fit(self, X: Any, y: Any, sample_weight: Any = None, **more: Any) -> Any:
            watched = more.get("eval_sample_weight") or [more["eval_set"].get_weight()]
            given.append((sample_weight, np.asarray(watched[0])))
            return super().fit(X, y, sample_weight=sample_weight, **more)

    late = {**frames, "^GSPC": frames["^GSPC"].iloc[:-40]}
    nb.train(late, nb.Estimator(Seen(**make().get_params()), label="seen", pooled=True), **SHORT)
    ((train, val),) = given
    assert {len(np.unique(np.round(part, 6))) for part in (train, val)} >= {2}
    assert (train.mean(), val.mean()) == (pytest.approx(1, abs=0.01), pytest.approx(1, abs=0.01))


@BOOSTERS
def test_the_users_own_stopping_counts(frames, inline, make: Any) -> None:
    """``early_stopping=0`` grows every tree, and a parameter of the library takes the place of ours."""
    one = {"AAA": frames["AAA"]}
    whole = nb.train(one, nb.Estimator(make(), early_stopping=0, label="trees"), **SHORT)
    fitted = whole.model("AAA").fitted.estimator
    assert trees(fitted) == 200
    assert whole.config.parameters["early_stopping"] == 0
    assert nb.Estimator(make(), label="trees").options()["parameters"]["early_stopping"] == 10
    assert "early_stopping" not in nb.Estimator(Ridge()).options()["parameters"]
    longer = nb.Estimator(make(early_stopping_rounds=150), label="trees")
    other = nb.train(one, longer, **SHORT).model("AAA").fitted.estimator
    assert trees(other) >= 1
    with pytest.raises(ConfigError, match="early_stopping expects a number of trees, or 0 for never, got -1"):
        nb.Estimator(make(), early_stopping=-1)


@BOOSTERS
def test_a_booster_whose_run_records_no_stopping_is_made_again_without(frames, inline, tmp_path, make: Any) -> None:
    """Runs that were made before boosters were stopped early do not say so; they are not stopped now."""
    one, model = {"AAA": frames["AAA"]}, nb.Estimator(make(), label="trees")
    run = nb.train(one, replace(model, early_stopping=0), **SHORT)
    mark = run.save(tmp_path)[-1]
    document = json.loads(mark.read_text(encoding="utf-8"))
    assert document["config"]["parameters"].pop("early_stopping") == 0
    mark.write_text(json.dumps(document), encoding="utf-8")
    assert nb.reproduce(nb.load_run(mark), one, model=model).identical


@BOOSTERS
def test_a_refit_here_has_the_environment_of_its_run(frames, inline, make: Any) -> None:
    """The versions of a booster's library are of both, so that the refit names no other environment."""
    one = {"AAA": frames["AAA"]}
    run = nb.refit(nb.train(one, nb.Estimator(make(), label="trees"), **SHORT), one)
    ((_, task),) = run.document.fits
    assert task.refit.environment is None


def test_a_classifier_is_told_by_its_probabilities(frames, inline) -> None:
    """The digest is that of `predict_proba` on train and on validation, which recorded runs hold."""
    given: list[Splits] = []

    class Spy(nb.Estimator):
        def fit(self, panel: Any, request: FitRequest) -> Any:
            given.extend(panel)
            return super().fit(panel, request)

    run = nb.train({"AAA": frames["AAA"]}, Spy(GaussianNB(), label="spy"), **SHORT)
    (data,), ((_, task),) = given, run.document.fits
    fitted = run.model("AAA").fitted.estimator
    said = digest_arrays(fitted.predict_proba(part.X) for part in (data.train, data.val))
    assert task.digests["weights"] == said


@BOOSTERS
def test_a_booster_gets_one_thread_and_the_seed(frames, inline, make: Any) -> None:
    """Whatever the user has left out; what the user has set otherwise stays."""
    steady = steady_params(make(), 7)
    expected = {
        lightgbm: {"n_jobs": 1, "random_state": 7, "deterministic": True, "force_col_wise": True, "verbosity": -1},
        catboost: {"thread_count": 1, "random_seed": 7, "allow_writing_files": False, "logging_level": "Silent"},
    }
    assert steady == expected[make]
    inside = steady_params(make_pipeline(StandardScaler(), make()), 7)
    assert {name.partition("__")[2]: value for name, value in inside.items()} == steady
    given = {"force_row_wise": True, "verbose": 0} if make is lightgbm else {"random_state": 3, "verbose": 0}
    assert (
        set(steady_params(make(**given), 7)) & {"force_col_wise", "logging_level", "verbosity", "random_seed"} == set()
    )


# --- an MLP, and all together --------------------------------------------------------------------------------------


ALL = {
    "logit": lambda: make_pipeline(StandardScaler(), LogisticRegression()),
    "lightgbm": lightgbm,
    "mlp": lambda: make_pipeline(StandardScaler(), MLPClassifier((4,), max_iter=400, tol=0.01)),
    "catboost": catboost,
}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.thorough) if kind == "catboost" else kind for kind in ALL]
)
def test_an_estimator_is_walked_forward_reported_certified_and_reproduced(frames, inline, tmp_path, kind: str) -> None:
    """The whole way, from bars to page and certificate, and again from disk."""
    one = {"AAA": frames["AAA"]}
    model = nb.Estimator(ALL[kind](), label=kind)
    wf = nb.walk_forward(one, model, windows=WINDOWS, **SHORT)
    assert wf.rows["probability"].between(0, 1).sum() > 200
    old = nb.load_run(wf.save(tmp_path)[0])
    assert old.stem.startswith(f"walkforward_{kind}_AAA_")
    page = nb.report(old, tmp_path / "page.md").read_text(encoding="utf-8")
    assert kind in page
    assert nb.certify(old, one, model=model, seconds=60).passed
    assert nb.reproduce(old, one, model=model).identical
    table = nb.compare([wf, nb.walk_forward(one, nb.XGBoost(no_tune=True), windows=WINDOWS, **SHORT)])
    assert any(kind in str(name) for name in table.index)


# --- determinism ---------------------------------------------------------------------------------------------------


@pytest.fixture
def processes(inline: Any) -> Iterator[None]:
    """The processes of the probe are real."""

    class Probed(inline):
        fresh = Engine.fresh
        name, jobs, threads = "loky", None, 1

    with engines_by(Probed):
        yield


class Restless(GaussianNB):
    """Forgets its seed: adds noise that no seed decides, unless it is told to be calm."""

    def __init__(self, *, calm: bool = False) -> None:
        super().__init__()
        self.calm = calm

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Restless:
        """Fit, and shake the means."""
        super().fit(X, y, sample_weight)
        if not self.calm:
            self.theta_ = self.theta_ + np.random.default_rng().normal(scale=1e-6, size=self.theta_.shape)
        return self


class Failing(GaussianNB):
    """Can be fitted in the process of the tests alone."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Failing:
        """Fail where no test runs."""
        if "PYTEST_CURRENT_TEST" in os.environ and "pytest" in sys.modules:
            return super().fit(X, y, sample_weight)
        raise ValueError("no test here")


@pytest.mark.parametrize("verb", [nb.certify, nb.reproduce], ids=["certify", "reproduce"])
def test_a_model_that_is_not_deterministic_is_refused(frames, processes, verb: Any) -> None:
    """Two processes are compared to the bit before anything is promised; the message says what to set."""
    one = {"AAA": frames["AAA"]}
    run = nb.train(one, nb.Estimator(Restless(), label="restless"), **SHORT)
    with pytest.raises(
        ModelError, match=r"restless is not deterministic: .* predictions differ .*random_state.*n_jobs=1"
    ):
        verb(run, one)


def test_a_deterministic_model_passes_the_probe(frames, processes) -> None:
    """The same class without the noise is reproduced; built-in kinds are not tried at all."""
    one = {"AAA": frames["AAA"]}
    run = nb.train(one, nb.Estimator(Restless(calm=True), label="calm"), **SHORT)
    assert nb.reproduce(run, one).identical
    assert all(kind.load().deterministic for kind in KINDS.values())


def test_a_model_that_fails_in_a_new_process_is_refused(frames, processes) -> None:
    """The reason is told; nothing is compared."""
    one = {"AAA": frames["AAA"]}
    run = nb.train(one, nb.Estimator(Failing(), label="failing"), **SHORT)
    with pytest.raises(ModelError, match=r"failing cannot be fitted in a new process \(.*no test here"):
        nb.reproduce(run, one)


# --- saving and loading --------------------------------------------------------------------------------------------


SAVED = {
    "lightgbm": (lightgbm, ".txt"),
    "lightgbm-regressor": (lambda: lightgbm(regressor=True), ".txt"),
    "catboost": (catboost, ".cbm"),
    "catboost-regressor": (lambda: catboost(regressor=True), ".cbm"),
    "pipeline": (lambda: make_pipeline(StandardScaler(), LogisticRegression()), ".skops"),
    "boosted-pipeline": (lambda: make_pipeline(StandardScaler(), lightgbm()), ".skops"),
    "own-class": (lambda: Restless(calm=True), ".skops"),
    "function": (lambda: make_pipeline(FunctionTransformer(lambda rows: rows / 2), GaussianNB()), ".pkl"),
}


@pytest.mark.parametrize("kind", list(SAVED))
def test_a_saved_estimator_predicts_as_before(frames, inline, tmp_path, kind: str) -> None:
    """Its file is the library's own, else of skops, else a pickle; loaded, it gives the same bits."""
    make, suffix = SAVED[kind]
    if suffix == ".skops":
        pytest.importorskip("skops")
    model = nb.Estimator(make(), label="mine")
    run = nb.train({"AAA": frames["AAA"]}, model, **SHORT)
    old = nb.load_run(run.save(tmp_path)[0])
    assert {path.name.removeprefix(old.stem) for path in old.files} == {
        suffix,
        "_predictions.parquet",
        "_metadata.json",
    }
    assert old.stem.startswith("estimator_mine_AAA_")
    with pytest.raises(ArtifactError, match="trust=True"):
        old.model("AAA", model=model)
    said = old.model("AAA", model=model, trust=True).predict(frames["AAA"])
    pd.testing.assert_frame_equal(said, run.model("AAA").predict(frames["AAA"]), check_exact=True)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, "expected a file .txt, .cbm, .skops, .pkl of the estimator, but there is none"),
        ({".skops": b"nonsense"}, r"the estimator's .skops cannot be loaded"),
        ({".pkl": b"nonsense"}, r"the estimator's .pkl cannot be loaded"),
        ({".txt": b"nonsense"}, r"the estimator's .txt cannot be loaded"),
    ],
    ids=["none", "skops", "pickle", "lightgbm"],
)
def test_a_damaged_estimator_is_refused(files: dict[str, bytes], told: str) -> None:
    """One message says which file; no error of a library comes through."""
    for suffix, library in ((".skops", "skops"), (".txt", "lightgbm")):
        if suffix in files:
            pytest.importorskip(library)
    with pytest.raises(ArtifactError, match=told):
        nb.Estimator(LogisticRegression()).load(files, ["Close"])


def test_without_skops_an_estimator_is_pickled_and_a_skops_file_needs_it(monkeypatch) -> None:
    """The extra is not needed to save; who loads its file without it is told what to install."""
    monkeypatch.setitem(sys.modules, "skops", None)
    monkeypatch.setitem(sys.modules, "skops.io", None)
    files = FittedEstimator(estimator=LogisticRegression(), columns=("Close",)).files()
    assert nb.Estimator(LogisticRegression()).to_save(files) == files
    assert set(files) == {".pkl"}
    with pytest.raises(MissingExtraError, match=r"pip install '\.\[models\]'"):
        nb.Estimator(LogisticRegression()).load({".skops": b""}, ["Close"])
