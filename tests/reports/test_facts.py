"""The numbers of a report, against the files that they come from."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from nextbar.artifacts.runs import load_run
from nextbar.evaluation.significance import Judgement, Verdict
from nextbar.reports.facts import (
    LISTED,
    OtherTrials,
    _candidates,
    _in_last_terms,
    _plateau,
    _remarks,
    majority_classes,
    run_daily,
    run_facts,
    years_to_tell,
)
from nextbar.scoring.backtest import sharpe

EVIL = "<script>alert(1)</script>"


@pytest.mark.parametrize("kind", ["walkforward", "rf"])
def test_daily_series_give_the_figures_of_the_file(kind: str, runs: dict[str, Path]) -> None:
    """Sharpe ratios of the daily series are those stored, baselines too; yesterday's first day is not in the rows."""
    run = load_run(runs[kind])
    daily = run_daily(run.document, run.rows())
    figures = run.document.get("metrics", run.document)
    stored = run.document.get("pooled") or figures["model"]
    assert sharpe(daily.net) == pytest.approx(stored["sharpe"], abs=1e-12)
    assert daily.counts.sum(axis=0)[[1, 3]].sum() == stored["n"]
    for name, returns in daily.baselines.items():
        close = 0.2 if name == "yesterday_direction" else 1e-12
        assert sharpe(returns) == pytest.approx(figures["baselines"][name]["sharpe"], abs=close)


def test_excess_is_against_a_constant_position(facts) -> None:
    """The judged return is the model's mean minus that of the baseline of equal exposure."""
    run = facts["walkforward"]
    excess = (run.daily.net - run.daily.baselines["constant_exposure"]).mean() * 252
    assert run.judgement.excess_return == pytest.approx(excess)
    assert set(run.judgement.spa) == {"always_long", "majority_class", "yesterday_direction", "constant_exposure"}


def test_other_configurations_on_these_days_count(facts) -> None:
    """Each of the three runs knows the two others; the walk-forward's other ticker has one try alone."""
    assert [run.judgement.configurations for run in facts.values()] == [3, 3, 3]
    assert {trial["model"] for trial in facts["rf"].trials} == {"xgb"}


def test_tickers_have_adjusted_pvalues(facts) -> None:
    """One row per ticker that was scored; adjusting never lowers a p-value."""
    rows = facts["walkforward"].per_ticker
    assert [row["ticker"] for row in rows] == [EVIL, "AAA"]
    assert all(0 < row["p"] <= row["p_adjusted"] <= 1 for row in rows)


def test_folds_and_skips_are_told(facts) -> None:
    """Fold dates, the short ticker's reasons and its coverage without scored days."""
    run = facts["walkforward"]
    assert [fold["number"] for fold in run.folds] == list(range(len(run.folds)))
    tiny = next(one for one in run.coverage if one["ticker"] == "TINY")
    assert tiny["scored"] == 0
    assert tiny["left_out"] == [[fold["test_start"], fold["test_end"]] for fold in run.folds]


def test_importance_of_a_forest_has_both_measures(facts) -> None:
    """Shares of impurity add up to one; permutation is of the run's one fit, or of a walk-forward's last fold."""
    shares = [one["share"] for one in facts["rf"].importance.values()]
    assert sum(shares) == pytest.approx(1.0)
    for run in facts.values():
        assert all(one["permutation"] is not None for one in run.importance.values())


def test_plateau_is_the_neighbourhood_that_scores_alike() -> None:
    """It ends where the score falls by more than a tenth, and at candidates without a score."""
    grid = [0.40, 0.45, 0.50, 0.55, 0.60, 0.65]
    choice = {"threshold": 0.50, "score": 1.0, "curve": {"threshold": grid, "score": [1.0, 0.5, 1.0, 0.95, None, 1.0]}}
    assert _plateau(choice) == [0.50, 0.55]
    assert _plateau({**choice, "score": None}) is None


def test_an_old_file_without_class_shares_leaves_the_majority_out(runs: dict[str, Path]) -> None:
    """No baseline is guessed."""
    document = json.loads(runs["rf"].read_text(encoding="utf-8"))
    del document["splits"]["AAA"]["train"]["up_share"]
    assert majority_classes(document) is None


def test_too_good_is_called_suspicious(facts, runs: dict[str, Path]) -> None:
    """Above 0.56 the remark names the command that looks for a leak, as a shell takes it, however few the days."""
    document = json.loads(runs["rf"].read_text(encoding="utf-8"))
    for rises, expected in ((57, True), (55, False)):
        daily = replace(facts["rf"].daily, counts=np.array([[rises, 100, rises, 100]]))
        remarks = _remarks(Path("my models/NAME_metadata.json"), document, daily)
        command = "nextbar certify rf --artifact 'my models/NAME_metadata.json'"
        assert any(command in text for text in remarks) is expected
        assert any("failed or were taken over" in text for text in remarks)


def test_a_handful_of_days_is_reported(runs: dict[str, Path]) -> None:
    """Two scored days are tested for nothing: every p-value is 1, and no length of record is claimed."""
    run = load_run(runs["rf"])
    none = OtherTrials(net=np.empty((2, 0)), sharpes=np.empty(0), records=[])
    found = run_facts(run.mark, run.document, run.rows().head(2), none)
    assert [row["p"] for row in found.per_ticker] == [1.0]
    assert years_to_tell(found.judgement) == "cannot be said"


def test_what_was_tried_inside_is_listed(facts, runs: dict[str, Path]) -> None:
    """Candidates with parameters and score, the chosen one marked; no more than a page can hold."""
    assert facts["rf"].candidates == []
    document = json.loads(runs["rf"].read_text(encoding="utf-8"))
    rows = [{"params": {"max_depth": depth}, "scores": [], "mean": 0.5, "rank": depth} for depth in range(1, 1000)]
    document["search"] = {"candidates": rows, "params": {"max_depth": 1}}
    first, second, *others = islice(_candidates([{**document, "fold": 0}]), LISTED)
    assert first == {"fold": 0, "ticker": "AAA", "params": {"max_depth": 1}, "score": 0.5, "chosen": True}
    assert not second["chosen"]
    assert len(others) == LISTED - 2


@pytest.mark.parametrize(
    ("needed", "said"),
    [
        (None, "never"),
        (252.0 * 16, "14 more years"),
        (252.0 * 5, "3.0 more years"),
        (252.0 * 1e9, "more than 1,000 years"),
        (100.0, "long enough"),
    ],
)
def test_how_long_the_record_must_be(needed: float | None, said: str) -> None:
    """In years beyond the days there are."""
    judged = Judgement(
        verdict=Verdict.NONE, reason="", days=504, configurations=1, spa={}, psr=0.5, track_record_days=needed
    )
    assert said in years_to_tell(judged)


def test_a_split_does_not_break_the_price_curve() -> None:
    """Days before it stand in the prices after it, whatever was predicted; a real fall stays."""
    days = {
        "date": ["1", "2", "3", "4"],
        "persistence": [400.0, 404.0, 101.0, 70.0],
        "actual": [404.0, 404.0, 70.0, 71.0],
        "predicted": [396.0, 412.0, 102.0, 69.0],
    }
    found = _in_last_terms(days)
    assert found["persistence"] == [100.0, 101.0, 101.0, 70.0]
    assert found["actual"] == [101.0, 101.0, 70.0, 71.0]
    assert found["predicted"] == [99.0, 103.0, 102.0, 69.0]
    assert found["splits"] == 1


def test_facts_are_json(facts) -> None:
    """No NaN, no numpy type."""
    for run in facts.values():
        json.dumps(run.to_json(), allow_nan=False)
        assert np.isfinite(run.daily.net).all()
