"""The model and its baselines on the same rows, days and costs."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nextbar.evaluation.figures import compare, delisting, per_ticker
from nextbar.evaluation.series import Book, Terms
from nextbar.scoring.backtest import against, net_returns, sharpe
from nextbar.scoring.metrics import Days, metrics_of


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
def majority(rows):
    """One class for each of `rows`: A is called up, B down."""
    return (rows["ticker"] == "A").to_numpy().astype(int)


def book_of(rows, cost_bps, **terms):
    return Book.of(rows, Terms(cost_bps=cost_bps, **terms))


def test_the_models_portfolio_matches_a_ledger_worked_by_hand(rows):
    """1/n over the run's tickers, costs of 10 bps and positions carried over fold borders, day by day."""
    daily = [
        (0.01 - 0.001) / 2,  # day 1: A enters, B's half is idle
        (-0.02 + 0) / 2,  # day 2: A stays, B is flat
        (-0.001 + 0.04 - 0.001) / 2,  # day 3: A leaves in a new fold, B enters
        (0.02 - 0.001 + 0.01) / 2,  # day 4: A enters, B stays over its fold border
    ]
    net, held, traded = np.array(daily), np.array([0.5, 0.5, 0.5, 1]), np.array([0.5, 0, 1, 0.5])
    expected = metrics_of(Days(net=net, exposure=held, excess=net, traded=traded, cost_bps=10, periods=252))
    model = compare(book_of(rows, 10))["model"]
    assert {key: model[key] for key in expected} == pytest.approx(expected)
    assert model["turnover"] == pytest.approx(2 / 4 * 252)
    assert model["round_trips"] == 1
    assert model["break_even_bps"] == pytest.approx(10 + 1e4 * sum(daily) / 2)


def test_the_models_class_figures_pool_all_rows(rows):
    """Truth is next_return > 0 over both tickers; balanced accuracy is their mean, weighted by days."""
    model = compare(book_of(rows, 5))["model"]
    assert (model["n"], model["positive_share"]) == (7, pytest.approx(5 / 7))
    assert model["accuracy"] == pytest.approx(5 / 7)
    assert model["balanced_accuracy"] == pytest.approx((4 * (2 / 3 + 0) / 2 + 3 * 1) / 7)
    assert model["brier"] == pytest.approx((5 * 0.16 + 2 * 0.36) / 7)


def test_always_long_holds_every_ticker_from_its_first_day(rows):
    """Its returns at 10 bps, one entry a ticker, and the class figures of a constant."""
    figures = compare(book_of(rows, 10))["baselines"]["always_long"]
    daily = [0.009 / 2, (-0.02 - 0.01 - 0.001) / 2, 0.035, 0.015]
    assert figures["total_return"] == pytest.approx(np.prod(1 + np.array(daily)) - 1)
    assert (figures["exposure"], figures["turnover"]) == (3.5 / 4, pytest.approx(1 / 4 * 252))
    assert (figures["accuracy"], figures["roc_auc"], figures["brier"]) == (pytest.approx(5 / 7), 0.5, None)
    assert (figures["balanced_accuracy"], figures["round_trips"]) == (0.5, 0)


def test_constant_exposure_holds_the_models_mean_position_of_each_ticker(rows):
    """3/4 of A and 2/3 of B from their first days on, and no class figures."""
    figures = compare(book_of(rows, 10))["baselines"]["constant_exposure"]
    a, b = (net_returns(np.full(len(s), np.mean(s)), r, 10) for _, s, r in (A, B))
    daily = [a[0] / 2, *((a[1:] + b) / 2)]
    assert figures["total_return"] == pytest.approx(np.prod(1 + np.array(daily)) - 1)
    assert "accuracy" not in figures


def test_majority_and_yesterday_follow_their_rows(rows, majority):
    """The majority class comes row by row, yesterday's direction from the row before; both as class and position."""
    baselines = compare(book_of(rows, 0), majority)["baselines"]
    called, yesterday = baselines["majority_class"], baselines["yesterday_direction"]
    # A is called up, B down: right on 3 of A's 4 days and on 1 of B's 3, a coin in each.
    assert called["accuracy"] == pytest.approx(4 / 7)
    assert called["balanced_accuracy"] == 0.5
    assert called["total_return"] == pytest.approx(1.005 * 0.99 * 1.015 * 1.01 - 1)
    # A: flat, up, down, up; B: flat, down, up.
    assert yesterday["accuracy"] == pytest.approx((1 + 2) / 7)
    assert yesterday["total_return"] == pytest.approx(0.99 * (1 + 0.02 / 2 + 0.01 / 2) - 1)


def test_without_majority_classes_that_baseline_is_left_out(rows):
    """The other three need the rows alone, and not the file's strategy_return."""
    figures = compare(book_of(rows.drop(columns="strategy_return"), 5))
    assert list(figures["baselines"]) == ["always_long", "yesterday_direction", "constant_exposure"]


def test_the_order_of_the_rows_does_not_matter(rows, majority):
    """Shuffled rows with their majority classes give equal figures, to the bit."""
    order = np.random.default_rng(0).permutation(len(rows))
    shuffled = compare(book_of(rows.iloc[order], 5), majority[order])
    assert shuffled == compare(book_of(rows, 5), majority)


def test_one_ticker_is_its_own_portfolio(rows):
    """The figures of a portfolio of one are those of the ticker, Sharpe of always long beside."""
    alone = compare(book_of(rows[rows["ticker"] == "A"], 5, risk_free=0.02))
    each = per_ticker(book_of(rows, 5, risk_free=0.02))
    assert list(each) == ["A", "B"]
    assert {key: each["A"][key] for key in alone["model"]} == alone["model"]
    assert each["A"]["always_long_sharpe"] == alone["baselines"]["always_long"]["sharpe"]
    excess = net_returns(A[1], A[2], 5) - np.array(A[1]) * 0.02 / 252
    assert each["A"]["sharpe"] == pytest.approx(sharpe(excess))


def test_per_ticker_sets_the_accuracy_of_the_baselines_beside(rows, majority):
    """Both accuracies by hand."""
    each = per_ticker(book_of(rows, 5), majority)
    assert [each[t]["majority_class_accuracy"] for t in "AB"] == pytest.approx([3 / 4, 1 / 3])
    assert [each[t]["yesterday_direction_accuracy"] for t in "AB"] == pytest.approx([1 / 4, 2 / 3])


def test_alpha_and_beta_are_those_of_the_model_beside_always_long(rows):
    """The figures of the model hold the regression of its excess returns on those of always long, per year."""
    book = book_of(rows, 5, risk_free=0.02, periods=365)
    expected = against(book.model.excess, book.baselines(None)["always_long"].excess, 365)
    model = compare(book)["model"]
    assert {key: model[key] for key in expected} == expected
    assert all(value is not None for value in expected.values())


@pytest.mark.parametrize("nothing", [pytest.param(np.nan, id="NaN"), pytest.param(None, id="None")])
def test_a_model_without_probabilities_has_no_roc_auc(rows, nothing):
    """Both forms in which a parquet column of nulls arrives."""
    rows["probability"] = pd.Series([nothing] * len(rows), dtype=object if nothing is None else float)
    model = compare(book_of(rows, 5))["model"]
    assert (model["roc_auc"], model["brier"]) == (None, None)


def test_rows_without_a_return_are_not_scored_as_falls(rows):
    """The last bar before a hole, with its probability, and the first one after it leave the class figures alone."""
    plain = compare(book_of(rows, 0))["model"]
    hole = frame("A", [1, 0], [np.nan, np.nan], first="2024-01-05", probability=[0.9, np.nan])
    model = compare(book_of(pd.concat([rows, hole]), 0))["model"]
    for name in ("n", "accuracy", "balanced_accuracy", "precision", "recall", "roc_auc", "brier"):
        assert model[name] == plain[name], name


def test_a_delisting_at_a_loss_is_shown_where_a_position_was_open(rows):
    """Of two tickers that ended one was held: minus 30 % of a third of the capital; the third went on."""
    end_a = frame("A", [0], [np.nan], first="2024-01-05", probability=np.nan)
    ended_flat = frame("C", [1, 0, 0], [0.1, 0.1, np.nan])
    book = book_of(pd.concat([rows, end_a, ended_flat]), 5)
    ended = {"A": "2024-01-05", "C": "2024-01-03"}
    assert delisting(book, ended) == {"tickers": 2, "open": 1, "effect": pytest.approx(-0.1)}
    assert delisting(book, {}) == {"tickers": 0, "open": 0, "effect": 0}
    assert delisting(book, {"A": "2023-01-01", "Z": "2024-01-05"})["tickers"] == 0


def test_figures_are_json_without_nan(rows, majority):
    """Whole frames, and none at all."""
    for part in (slice(None), slice(0)):
        book = book_of(rows[part], 5)
        for figures in (compare(book, majority), per_ticker(book, majority)):
            assert json.loads(json.dumps(figures, allow_nan=False)) == figures


WILD = st.one_of(st.just(np.nan), st.floats(-1, 1e308), st.floats(-1, 1))


@given(arrays(np.float64, 12, elements=WILD), arrays(np.int8, 12, elements=st.integers(0, 1)), st.floats(0, 1e6))
def test_every_figure_of_wild_returns_is_a_number_or_none(returns, signals, cost_bps):
    """Whatever returns stand in the rows, and however they overflow, strict JSON takes the figures."""
    parts = [frame("A", signals[:7], returns[:7]), frame("B", signals[7:], returns[7:], first="2024-01-03")]
    book = Book.of(pd.concat(parts), Terms(cost_bps=cost_bps), holes={"A": {"2024-01-04": 1e300}})
    for figures in (compare(book), per_ticker(book)):
        assert json.loads(json.dumps(figures, allow_nan=False)) == figures
