"""Estimators of the user's own: regressors, boosted trees of other libraries, saving, and `--model module:factory`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeRegressor

import nextbar as nb
from nextbar.errors import ConfigError
from nextbar.models.estimator import BATCH, FittedEstimator, steady_params

SHORT: dict[str, Any] = {"warmup": 60}
WINDOWS = nb.Windows(train_years=1, val_months=3, test_months=4, step_months=4)


@pytest.fixture
def here(inline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fits run in this process, those of certificates and reproductions too."""
    monkeypatch.setattr("nextbar.workflows.reproduce.Engine", inline)


@pytest.fixture(scope="module")
def frames(market_bars: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Three tickers in the market format."""
    return {name: market_bars[name].rename(columns={"Adj": "Adj Close"}) for name in ("AAA", "BBB", "^GSPC")}


# --- regressors ----------------------------------------------------------------------------------------------------


def regressor(**options: Any) -> nb.Estimator:
    return nb.Estimator(make_pipeline(StandardScaler(), Ridge()), label="ridge", **options)


@pytest.mark.parametrize("pooled", [False, True], ids=["per-ticker", "pooled"])
def test_a_regressor_predicts_the_next_return(frames, here, pooled: bool) -> None:
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


def test_a_regressor_is_searched_certified_and_reproduced(frames, here) -> None:
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
