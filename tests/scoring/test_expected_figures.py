"""Figures that people expect agree with scikit-learn, SciPy and empyrical."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import log_loss, matthews_corrcoef

from nextbar.scoring.backtest import against
from nextbar.scoring.metrics import CROSS_SECTION, Days, Rows, metrics_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import empyrical


def random_rows(seed: int, days: int, tickers: int, *, levels: int = 1000) -> Rows:
    """Predictions of some tickers, a few rows missing; few ``levels`` make ties."""
    rng = np.random.default_rng(seed)
    kept = rng.random(days * tickers) > 0.2
    day, who = (part.ravel()[kept] for part in np.meshgrid(np.arange(days), np.arange(tickers), indexing="ij"))
    order = rng.permutation(len(day))
    day, who = day[order], who[order]
    earned = np.round(rng.normal(0, 0.02, len(day)), 3 if levels < 10 else 9)
    probability = rng.integers(1, levels, len(day)) / levels
    return Rows(
        truth=earned > 0, predicted=probability > 0.5, probability=probability, ticker=who, earned=earned, day=day
    )


@pytest.mark.filterwarnings("ignore:A single label was found")
@given(seed=st.integers(0, 500), days=st.integers(1, 12), tickers=st.integers(1, 15), levels=st.sampled_from([4, 1000]))
def test_directions_agree_with_scikit_learn(seed, days, tickers, levels):
    """Matthews correlation and log loss, a class that never occurs included."""
    rows = random_rows(seed, days, tickers, levels=levels)
    if not len(rows):
        return
    found = metrics_of(rows)
    assert found["mcc"] == pytest.approx(matthews_corrcoef(rows.truth, rows.predicted), abs=1e-9)
    assert found["log_loss"] == pytest.approx(log_loss(rows.truth, rows.probability, labels=[False, True]), rel=1e-9)


@pytest.mark.filterwarnings("ignore:An input array is constant")
@given(seed=st.integers(0, 500), days=st.integers(1, 12), tickers=st.integers(1, 15), levels=st.sampled_from([4, 1000]))
def test_daily_correlations_agree_with_scipy(seed, days, tickers, levels):
    """Pearson and Spearman over tickers day by day, ties included, on days with enough tickers; the mean and its t."""
    rows = random_rows(seed, days, tickers, levels=levels)
    found = metrics_of(rows)
    for name, correlate in (("ic", stats.pearsonr), ("rank_ic", stats.spearmanr)):
        daily = []
        for day in np.unique(rows.day):
            here = rows.day == day
            if here.sum() >= CROSS_SECTION and np.ptp(rows.probability[here]) and np.ptp(rows.earned[here]):
                daily.append(correlate(rows.probability[here], rows.earned[here]).statistic)
        assert found[name] == (pytest.approx(np.mean(daily), abs=1e-9) if daily else None)
        if len(daily) > 1:
            assert found[f"{name}_t"] == pytest.approx(stats.ttest_1samp(daily, 0).statistic, rel=1e-6)
        else:
            assert found[f"{name}_t"] is None


def test_without_a_cross_section_there_is_no_correlation():
    """Too few tickers, one prediction for all, or a model without probabilities: None, not 0."""
    rows = random_rows(1, 30, CROSS_SECTION - 1)
    constant = random_rows(1, 30, 10)
    same = Rows(**{**vars_of(constant), "probability": np.full(len(constant), 0.1 + 0.2)})
    unknown = Rows(**{**vars_of(constant), "probability": np.full(len(constant), np.nan)})
    plain = Rows(**{**vars_of(constant), "day": None, "earned": None})
    for given_rows in (rows, same, unknown, plain):
        found = metrics_of(given_rows)
        assert [found[name] for name in ("ic", "ic_t", "rank_ic", "rank_ic_t")] == [None] * 4
    assert metrics_of(unknown)["log_loss"] is None


def vars_of(rows: Rows) -> dict[str, object]:
    """Fields of a record."""
    return {name: getattr(rows, name) for name in ("truth", "predicted", "probability", "ticker", "earned", "day")}


def series(net: np.ndarray, periods: float = 252.0) -> Days:
    """Daily returns without a risk-free rate."""
    return Days(net=net, excess=net, exposure=np.ones_like(net), traded=np.zeros_like(net), cost_bps=0, periods=periods)


@given(seed=st.integers(0, 500), count=st.integers(2, 400), periods=st.sampled_from([52.0, 252.0, 365.0]))
def test_money_agrees_with_empyrical(seed, count, periods):
    """Every figure of money that both have, at several numbers of days a year; None where empyrical has no number."""
    net = np.random.default_rng(seed).normal(0.0005, 0.01, count)
    found = metrics_of(series(net, periods))
    yearly = {
        "sharpe": empyrical.sharpe_ratio,
        "sortino": empyrical.sortino_ratio,
        "calmar": empyrical.calmar_ratio,
        "annual_return": empyrical.annual_return,
        "annual_volatility": empyrical.annual_volatility,
    }
    expected = {name: formula(net, annualization=periods) for name, formula in yearly.items()}
    expected |= {"max_drawdown": empyrical.max_drawdown(net), "total_return": empyrical.cum_returns_final(net)}
    for name, value in expected.items():
        assert found[name] == (pytest.approx(value, rel=1e-9, abs=1e-12) if np.isfinite(value) else None), name


@given(seed=st.integers(0, 500), count=st.integers(3, 400), periods=st.sampled_from([52.0, 252.0, 365.0]))
def test_alpha_and_beta_agree_with_empyrical(seed, count, periods):
    """Beta is the same; alpha is the same a day, times the days of a year, where empyrical compounds it."""
    net, market = np.random.default_rng(seed).normal(0.0005, 0.01, (2, count))
    found = against(net, market, periods)
    assert found["beta"] == pytest.approx(empyrical.beta(net, market), rel=1e-9, abs=1e-12)
    compounded = (1 + found["alpha"] / periods) ** periods - 1
    assert compounded == pytest.approx(empyrical.alpha(net, market, annualization=periods), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("net", [[], [0.01, 0.02], [0.0, 0.0, 0.0]], ids=["no day", "no loss", "nothing"])
def test_without_a_loss_there_is_no_ratio(net):
    """Nothing is divided by 0."""
    found = metrics_of(series(np.array(net, dtype=float)))
    assert (found["sortino"], found["calmar"]) == (None, None)
