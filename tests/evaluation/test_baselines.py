"""The model and its baselines on the same rows, days and costs."""

import json

import numpy as np
import pandas as pd
import pytest

from nextbar.errors import BadBarsError
from nextbar.evaluation.baselines import compare, per_ticker
from nextbar.scoring.backtest import net_returns, performance, sharpe


def frame(ticker, signals, returns, *, first="2024-01-01", fold_length=2, probability=None):
    """Out-of-sample rows of one ticker."""
    n = len(signals)
    return pd.DataFrame(
        {
            "date": pd.date_range(first, periods=n),
            "ticker": ticker,
            "fold": np.arange(n) // fold_length,
            "probability": np.where(signals, 0.6, 0.4) if probability is None else probability,
            "predicted_close": np.nan,
            "threshold": 0.5,
            "class": np.array(signals, dtype=np.int8),
            "signal": np.array(signals, dtype=np.int8),
            "next_return": returns,
            "strategy_return": np.nan,
        }
    )


A = ("A", [1, 1, 0, 1], [0.01, -0.02, 0.03, 0.02])
B = ("B", [0, 1, 1], [-0.01, 0.04, 0.01])


@pytest.fixture
def rows():
    """A on days 1 to 4, B on days 2 to 4, sorted by fold, so that no ticker's rows stand together."""
    both = pd.concat([frame(*A), frame(*B, first="2024-01-02")])
    return both.sort_values(["fold", "ticker", "date"], ignore_index=True)


@pytest.fixture
def aux(rows):
    """One row for each of `rows`."""
    open_return = np.where(rows["date"] == "2024-01-04", np.nan, 0.5)
    return pd.DataFrame(
        {"majority": (rows["ticker"] == "A").astype(int), "yesterday": rows["fold"] == 1, "open_return": open_return}
    )


def test_the_models_portfolio_matches_a_ledger_worked_by_hand(rows):
    """Proves 1/n over the day's tickers, costs of 10 bps and positions carried over fold borders, day by day."""
    daily = [
        0.01 - 0.001,  # day 1: A alone, enters
        (-0.02 + 0) / 2,  # day 2: A stays, B is flat
        (-0.001 + 0.04 - 0.001) / 2,  # day 3: A leaves in a new fold, B enters
        (0.02 - 0.001 + 0.01) / 2,  # day 4: A enters, B stays over its fold border
    ]
    expected = performance(daily, [1, 0.5, 0.5, 1], traded=[1, 0, 1, 0.5])
    model = compare(rows, cost_bps=10)["model"]
    assert {key: model[key] for key in expected} == pytest.approx(expected)
    assert model["turnover"] == pytest.approx(2.5 / 4 * 252)


def test_the_models_class_figures_pool_all_rows(rows):
    """Proves truth = next_return > 0 over both tickers."""
    model = compare(rows, cost_bps=5)["model"]
    assert (model["n"], model["positive_share"]) == (7, pytest.approx(5 / 7))
    assert model["accuracy"] == pytest.approx(5 / 7)
    assert model["brier"] == pytest.approx((5 * 0.16 + 2 * 0.36) / 7)


def test_always_long_holds_every_ticker_from_its_first_day(rows):
    """Proves its returns at 10 bps, one entry a ticker, and the class figures of a constant."""
    figures = compare(rows, cost_bps=10)["baselines"]["always_long"]
    daily = [0.009, (-0.02 - 0.01 - 0.001) / 2, 0.035, 0.015]
    assert figures["total_return"] == pytest.approx(np.prod(1 + np.array(daily)) - 1)
    assert (figures["exposure"], figures["turnover"]) == (1, pytest.approx(1.5 / 4 * 252))
    assert (figures["accuracy"], figures["roc_auc"], figures["brier"]) == (pytest.approx(5 / 7), 0.5, None)


def test_constant_exposure_holds_the_models_mean_position_of_each_ticker(rows):
    """Proves 3/4 of A and 2/3 of B from their first days on, and no class figures."""
    figures = compare(rows, cost_bps=10)["baselines"]["constant_exposure"]
    a, b = (net_returns(np.full(len(s), np.mean(s)), r, 10) for _, s, r in (A, B))
    daily = [a[0], *((a[1:] + b) / 2)]
    assert figures["total_return"] == pytest.approx(np.prod(1 + np.array(daily)) - 1)
    assert "accuracy" not in figures


def test_majority_and_yesterday_are_taken_from_aux_row_by_row(rows, aux):
    """Proves that both follow their own row through the sorting, as class and as position."""
    baselines = compare(rows, aux, cost_bps=0)["baselines"]
    majority, yesterday = baselines["majority_class"], baselines["yesterday_direction"]
    # A is called up, B down: right on 3 of A's 4 days and on 1 of B's 3.
    assert majority["accuracy"] == pytest.approx(4 / 7)
    assert majority["total_return"] == pytest.approx(1.01 * 0.99 * 1.015 * 1.01 - 1)
    # Fold 1, A's days 3 and 4 and B's day 4, is called up, all else down.
    assert yesterday["accuracy"] == pytest.approx((3 + 2) / 7)
    assert yesterday["total_return"] == pytest.approx(1.015 * 1.015 - 1)
    assert yesterday["roc_auc"] == pytest.approx((3 / 5 + 1) / 2)


def test_late_fills_and_next_open_fills_have_their_own_figures(rows, aux):
    """Proves the shift by a bar, and that a row without an open return is dropped, not counted as 0."""
    figures = compare(rows, aux, cost_bps=0)
    assert figures["one_bar_late"]["total_return"] == pytest.approx(1 * 0.99 * 1.015 * 1.005 - 1)
    assert figures["next_open"]["days"] == 3
    assert figures["next_open"]["total_return"] == pytest.approx(1.5 * 1.25 * 1.25 - 1)


def test_rows_alone_are_enough_for_all_but_the_baselines_of_aux(rows):
    """Proves what is absent without aux, and that the file's strategy_return is not needed."""
    figures = compare(rows.drop(columns="strategy_return"), cost_bps=5)
    assert list(figures["baselines"]) == ["always_long", "constant_exposure"]
    assert figures["next_open"] is None


def test_the_order_of_the_rows_does_not_matter(rows, aux):
    """Proves equal figures, to the bit, for shuffled rows with their aux."""
    order = np.random.default_rng(0).permutation(len(rows))
    shuffled = compare(rows.iloc[order], aux.iloc[order], cost_bps=5)
    assert shuffled == compare(rows, aux, cost_bps=5)


def test_one_ticker_is_its_own_portfolio(rows):
    """Proves that the figures of a portfolio of one are those of the ticker, Sharpe of always long beside."""
    alone = compare(rows[rows["ticker"] == "A"], cost_bps=5, risk_free=0.02)
    each = per_ticker(rows, cost_bps=5, risk_free=0.02)
    assert list(each) == ["A", "B"]
    assert {key: each["A"][key] for key in alone["model"]} == pytest.approx(alone["model"])
    assert each["A"]["always_long_sharpe"] == pytest.approx(alone["baselines"]["always_long"]["sharpe"])
    assert each["A"]["sharpe"] == pytest.approx(sharpe(net_returns(A[1], A[2], 5), 0.02))


def test_per_ticker_sets_the_accuracy_of_the_baselines_beside(rows, aux):
    """Proves both accuracies by hand."""
    each = per_ticker(rows, aux, cost_bps=5)
    assert [each[t]["majority_class_accuracy"] for t in "AB"] == pytest.approx([3 / 4, 1 / 3])
    assert [each[t]["yesterday_direction_accuracy"] for t in "AB"] == pytest.approx([3 / 4, 2 / 3])


@pytest.mark.parametrize("nothing", [np.nan, None])
def test_a_model_without_probabilities_has_no_roc_auc(rows, nothing):
    """Proves it for both forms in which a parquet column of nulls arrives."""
    rows["probability"] = pd.Series([nothing] * len(rows), dtype=object if nothing is None else float)
    model = compare(rows, cost_bps=5)["model"]
    assert (model["roc_auc"], model["brier"]) == (None, None)


def test_figures_are_json_without_nan(rows, aux):
    """Proves it for whole frames and for none at all."""
    for part in (slice(None), slice(0)):
        for figures in (compare(rows[part], aux[part], cost_bps=5), per_ticker(rows[part], aux[part], cost_bps=5)):
            assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_a_day_that_stands_twice_is_refused(rows):
    """Proves that overlapping folds are not stitched: every day counts once."""
    with pytest.raises(BadBarsError, match=r"A 2024-01-01: a second row of the same day \(1 such rows\)"):
        compare(pd.concat([rows, rows[:1]]), cost_bps=5)


def test_a_row_without_a_return_is_refused(rows):
    """Proves that the last bar of a history, which has no next one, is not scored as a fall."""
    rows.loc[0, "next_return"] = np.nan
    with pytest.raises(BadBarsError, match="A 2024-01-01: no next_return"):
        compare(rows, cost_bps=5)


def test_aux_of_another_length_is_refused(rows, aux):
    """Proves that both numbers are said."""
    with pytest.raises(ValueError, match="aux has 6 rows, expected one for each of the 7"):
        compare(rows, aux[:-1], cost_bps=5)
