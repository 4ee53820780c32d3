"""Classification and price figures against figures worked by hand."""

import numpy as np
import pytest
from sklearn import metrics

from nextbar.scoring.metrics import Rows, balanced_accuracy, metrics_of, price_errors, reliability_table, roc_auc

NO_CROSS_SECTION = dict.fromkeys(["ic", "ic_t", "rank_ic", "rank_ic_t"])
"""Figures over tickers, of which rows of one ticker have none."""


def classification(truth, predicted, probability=None, *, ticker=None):
    """Metrics of rows of one ticker, unless tickers are given."""
    actual, guess = np.asarray(truth, dtype=bool), np.asarray(predicted, dtype=bool)
    chance = np.full(len(actual), np.nan) if probability is None else np.asarray(probability)
    who = np.zeros(len(actual), dtype=np.int64) if ticker is None else ticker
    return metrics_of(Rows(truth=actual, predicted=guess, probability=chance, ticker=who))


def test_classification_matches_a_confusion_matrix_worked_by_hand():
    """Proves each class figure: 3 true ups found of 4, 1 false alarm among 2 downs."""
    figures = classification([1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 1, 0], [0.9, 0.8, 0.7, 0.4, 0.6, 0.2])
    assert figures == {
        "n": 6,
        "positive_share": pytest.approx(4 / 6),
        "accuracy": pytest.approx(4 / 6),
        "balanced_accuracy": pytest.approx((3 / 4 + 1 / 2) / 2),
        "precision": pytest.approx(3 / 4),
        "recall": pytest.approx(3 / 4),
        "f1": pytest.approx(3 / 4),
        "roc_auc": pytest.approx(7 / 8),
        "rmse": pytest.approx(np.sqrt(2 / 6)),
        "brier": pytest.approx((0.01 + 0.04 + 0.09 + 0.36 + 0.36 + 0.04) / 6),
        "log_loss": pytest.approx(-np.log(0.9 * 0.8 * 0.7 * 0.4 * 0.4 * 0.8) / 6),
        "mcc": pytest.approx((3 * 1 - 1 * 1) / np.sqrt(4 * 2 * 4 * 2)),
        **NO_CROSS_SECTION,
    }


def test_without_a_probability_there_is_no_roc_auc_and_no_brier():
    """Proves that an LSTM's rows get None, not a figure made up from the class."""
    figures = classification([1, 0], [1, 0])
    assert (figures["roc_auc"], figures["brier"]) == (None, None)


@pytest.mark.parametrize("truth", [[1, 1, 1], [0, 0, 0]])
@pytest.mark.parametrize("predicted", [[1, 1, 1], [0, 0, 0], [1, 0, 1]])
def test_one_class_in_the_truth_neither_warns_nor_has_a_roc_auc(truth, predicted):
    """Proves that divisions by zero count 0 silently and that ROC-AUC is then None."""
    figures = classification(truth, predicted, [0.5, 0.6, 0.7])
    assert figures["roc_auc"] is None
    assert figures["balanced_accuracy"] == figures["accuracy"]
    assert all(np.isfinite(value) for value in figures.values() if value is not None)


def test_a_constant_class_per_ticker_is_a_coin():
    """Two tickers that rise on 70 % and 30 % of their days, each called its majority class: 0.5; pooling says 0.7."""
    truth = np.array([1] * 70 + [0] * 30 + [1] * 30 + [0] * 70)
    ticker = np.repeat([0, 1], 100)
    figures = classification(truth, 1 - ticker, ticker=ticker)
    assert figures["balanced_accuracy"] == 0.5
    assert figures["accuracy"] == pytest.approx(0.7)
    assert classification(truth, 1 - ticker)["balanced_accuracy"] == pytest.approx(0.7)


def test_balanced_accuracy_is_the_mean_of_tickers_weighted_by_days():
    """Worked by hand: (3/4 + 1/2)/2 over 6 days, (0 + 1)/2 over 2; a ticker that only rises has no weight."""
    counts = np.array([[3, 4, 1, 2], [0, 1, 1, 1], [5, 9, 0, 0]])
    assert balanced_accuracy(counts) == pytest.approx((6 * 0.625 + 2 * 0.5) / 8)
    draws = np.stack([counts, counts * 0.5, counts * [[1], [0], [1]]])
    np.testing.assert_allclose(balanced_accuracy(draws), [0.59375, 0.59375, 0.625], rtol=1e-15)


def test_balanced_accuracy_of_tickers_with_one_class_each_is_their_accuracy():
    """Where no ticker has both classes the figure is the share of right days; without days it is NaN."""
    assert balanced_accuracy(np.array([[5, 9, 0, 0], [0, 0, 1, 1]])) == pytest.approx(6 / 10)
    assert np.isnan(balanced_accuracy(np.zeros((2, 4))))


def test_balanced_accuracy_of_one_ticker_is_that_of_scikit_learn():
    """For one ticker it is the mean of the two recalls, to the bit of their sum halved."""
    random = np.random.default_rng(0)
    truth, predicted = random.integers(0, 2, (2, 331))
    found = classification(truth, predicted)["balanced_accuracy"]
    assert found == pytest.approx(metrics.balanced_accuracy_score(truth, predicted), rel=1e-15)


def test_no_rows_have_no_figures():
    """Proves that an empty part gives None, not an exception or NaN."""
    figures = classification([], [])
    assert figures.pop("n") == 0
    assert set(figures.values()) == {None}
    assert set(price_errors([], [], []).values()) == {None}


def test_a_constant_score_has_a_roc_auc_of_one_half():
    """Proves the definition used for constant baselines."""
    assert roc_auc([1, 0, 1], [1, 1, 1]) == 0.5


def test_reliability_bins_hold_their_lower_edge_and_every_row_once():
    """Proves the bin borders, the last bin's upper edge included, and that an empty bin has None."""
    table = reliability_table([0, 1, 1, 0], [0.0, 0.5, 1.0, 0.3], bins=10)
    assert [row["count"] for row in table] == [1, 0, 0, 1, 0, 1, 0, 0, 0, 1]
    assert table[5] == {"lower": 0.5, "upper": 0.6, "count": 1, "mean_probability": 0.5, "positive_share": 1.0}
    assert (table[1]["mean_probability"], table[1]["positive_share"]) == (None, None)


def test_price_errors_match_two_days_worked_by_hand():
    """Proves RMSE, percent of the actual close, MAE and the skill against persistence."""
    figures = price_errors(predicted=[103.0, 198.0], actual=[100.0, 200.0], current=[98.0, 208.0])
    assert figures == {
        "price_rmse": pytest.approx(np.sqrt((9 + 4) / 2)),
        "price_rmse_percent": pytest.approx(np.sqrt((3**2 + 1**2) / 2)),
        "price_mae": pytest.approx(2.5),
        "persistence_rmse": pytest.approx(np.sqrt((4 + 64) / 2)),
        "persistence_rmse_percent": pytest.approx(np.sqrt((2**2 + 4**2) / 2)),
        "skill": pytest.approx(1 - 13 / 68),
    }


def test_predicting_todays_price_has_no_skill_and_perfect_persistence_has_no_scale():
    """Proves that persistence itself scores 0, and that the skill is None where persistence makes no error."""
    assert price_errors([98.0, 208.0], [100.0, 200.0], [98.0, 208.0])["skill"] == 0
    assert price_errors([1.0], [2.0], [2.0])["skill"] is None


@pytest.mark.parametrize("ties", [False, True])
def test_every_class_figure_is_that_of_scikit_learn(ties):
    """Proves the written-out formulas against the library, with and without equal probabilities."""
    random = np.random.default_rng(0)
    for _ in range(20):
        truth, chance = random.integers(0, 2, 60), random.random(60)
        chance = np.round(chance, 1) if ties else chance
        guess = (chance > random.random()).astype(int)
        precision, recall, f1, _ = metrics.precision_recall_fscore_support(
            truth, guess, average="binary", zero_division=0
        )
        assert classification(truth, guess, chance) == pytest.approx(
            {
                "n": 60,
                "positive_share": truth.mean(),
                "accuracy": metrics.accuracy_score(truth, guess),
                "balanced_accuracy": metrics.balanced_accuracy_score(truth, guess),
                "precision": precision,
                "recall": recall,
                "f1": f1,
                "roc_auc": metrics.roc_auc_score(truth, chance),
                "rmse": metrics.root_mean_squared_error(truth, guess),
                "brier": metrics.brier_score_loss(truth, chance),
                "log_loss": metrics.log_loss(truth, chance),
                "mcc": metrics.matthews_corrcoef(truth, guess),
                **NO_CROSS_SECTION,
            },
            abs=1e-13,
        )
