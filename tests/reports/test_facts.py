"""The numbers of a report, against the files that they come from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest

from nextbar.evaluation.series import Book, Terms
from nextbar.evaluation.significance import Interval, interval
from nextbar.evaluation.verdict import Judgement, Verdict
from nextbar.features.spec import FeatureSpec
from nextbar.reports.facts import LISTED, RunFacts, _in_last_terms, _plateau, years_to_tell
from nextbar.reports.sentences import break_even_bps
from nextbar.runs.document import RecentPrices, parse_document
from nextbar.runs.fit import Curve, ThresholdRecord
from nextbar.runs.load import load_run
from nextbar.runs.run import Run
from nextbar.runs.trained import Contents

EVIL = "<script>alert(1)</script>"


def sharpe(returns: np.ndarray, periods: float) -> float | None:
    return float(returns.mean() / returns.std(ddof=1) * periods**0.5) if returns.any() else None


@pytest.fixture
def rf(runs: dict[str, Path]) -> Run:
    """The forest."""
    return load_run(runs["rf"])


def facts_of(run: Run, rows: pd.DataFrame | None = None, **changes: Any) -> RunFacts:
    """Facts of a run with another document."""
    document = parse_document(json.dumps(run.document.to_json() | changes).encode(), "rf.json")
    contents = Contents(rows=run.rows if rows is None else rows, model=None, features=FeatureSpec())
    return RunFacts(replace(run, document=document, contents=contents), draws=100)


@pytest.mark.parametrize("kind", ["walkforward", "rf", "xgb"])
def test_the_table_is_that_of_the_series(kind: str, facts) -> None:
    """Sharpe ratios, returns, exposure and turnover of every row are those of the daily series that is tested."""
    run, periods = facts[kind], facts[kind].book.terms.periods
    tracks = {"model": run.book.model, **run.baselines}
    table = {row["row"]: row for row in run.table}
    assert set(tracks) == {"model", "always_long", "majority_class", "yesterday_direction", "constant_exposure"}
    for name, track in tracks.items():
        assert sharpe(track.excess, periods) == pytest.approx(table[name]["sharpe"], abs=1e-12), name
        assert np.prod(1 + track.net) - 1 == pytest.approx(table[name]["total_return"], abs=1e-12), name
        assert np.abs(track.exposure).mean() == pytest.approx(table[name]["exposure"], abs=1e-12), name
        assert periods * track.traded.mean() == pytest.approx(table[name]["turnover"], abs=1e-12), name


@pytest.mark.parametrize("place", ["pooled", "baselines"])
def test_figures_that_the_rows_do_not_give_are_told(rf: Run, place: str) -> None:
    """A recorded figure that was changed is a remark with both values; a document as it was made has none."""
    told = "The file records other figures than its rows give: sharpe of "
    assert not any(remark.startswith(told) for remark in facts_of(rf).remarks)
    recorded = rf.document.to_json()[place]
    own = {"pooled": recorded, "baselines": recorded.get("always_long", {})}[place]
    own["sharpe"] = 9.5
    (remark,) = (one for one in facts_of(rf, **{place: recorded}).remarks if one.startswith(told))
    assert "is 9.5 there and " in remark


def test_excess_is_against_a_constant_position(facts) -> None:
    """The judged return is the model's mean minus that of the baseline of equal exposure."""
    run = facts["walkforward"]
    excess = (run.book.model.net - run.baselines["constant_exposure"].net).mean() * run.book.terms.periods
    assert run.judgement.excess.mean == pytest.approx(excess, abs=1e-12)


def test_the_next_open_is_judged_from_the_file(facts, rf: Run) -> None:
    """The rows cannot give the interval at the next open; where the file does not either, one bar late decides."""
    figures = rf.document.to_json()["next_open"]
    recorded = figures.pop("edge")
    assert facts["rf"].judgement.next_open == Interval(**recorded)
    assert recorded["low"] < recorded["mean"] < recorded["high"]
    older = facts_of(rf, next_open=figures)
    assert older.judgement.next_open is None
    assert [check.name for check in older.judgement.checks][1] == "one_bar_late_bound"
    assert older.judgement.one_bar_late == interval(older.book.late, draws=100)


def test_other_tries_on_these_days_count(facts) -> None:
    """Each of the three runs knows the two others."""
    assert [run.judgement.tries.count for run in facts.values()] == [3, 3, 3]
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


def test_importance_of_a_forest_has_all_measures(facts) -> None:
    """Shares of impurity add up to one; the others are of the run's one fit, or of a walk-forward's last fold."""
    shares = [one["share"] for one in facts["rf"].importance.values()]
    assert sum(shares) == pytest.approx(1.0)
    for run in facts.values():
        assert all(one["permutation"] is not None for one in run.importance.values())
        assert all(one["contribution"] is not None for one in run.importance.values())


def test_plateau_is_the_neighbourhood_that_scores_alike() -> None:
    """It ends where the score falls by more than a tenth, and at candidates without a score."""
    grid = [0.40, 0.45, 0.50, 0.55, 0.60, 0.65]
    curve = Curve(threshold=grid, score=[1.0, 0.5, 1.0, 0.95, None, 1.0], long_days=[])
    choice = {"threshold": 0.50, "objective": "sharpe", "reason": None, "curve": curve}
    assert _plateau(ThresholdRecord(**choice, score=1.0), curve) == [0.50, 0.55]
    assert _plateau(ThresholdRecord(**choice, score=None), curve) is None


def test_too_good_is_called_suspicious(rf: Run) -> None:
    """Above 0.56 the page names the command that looks for a leak, as a shell takes it."""
    named, rows = replace(rf, folder=Path("my models"), stem="NAME"), rf.rows
    right = rows.assign(**{"class": (rows["next_return"] > 0).astype(int)})
    assert "nextbar certify rf --artifact 'my models/NAME_metadata.json'" in facts_of(named, right).suspicious
    assert facts_of(named, rows).suspicious == ""
    own = replace(named, document=msgspec.structs.replace(named.document, model="logit"))
    expected = "nextbar certify estimator --model module:factory --artifact 'my models/NAME_metadata.json'"
    assert expected in facts_of(own, right).suspicious


def test_data_errors_inside_the_days_are_named_and_no_verdict_stands(rf: Run) -> None:
    """Errors from the first row to the bar after the last one count, ticker by ticker; others do not."""
    rows = rf.rows
    first, last = rows["date"].min(), rows["date"].max()
    inside = [first, rows["date"].iloc[50], last + pd.Timedelta(days=3)]
    outside = [first - pd.Timedelta(days=1), last + pd.Timedelta(days=30)]
    errors = [
        {"ticker": ticker, "date": str(day.date()), "rule": "jump", "detail": "× 0.01003"}
        for ticker, days in (("AAA", inside + outside), ("ZZZ", inside))
        for day in days
    ]
    found = facts_of(rf, data_errors=errors).judgement
    assert found.verdict is Verdict.INCONCLUSIVE
    named = ", ".join(f"{day.date()} × 0.01003" for day in inside)
    assert found.reason.startswith(f"AAA has 3 data errors inside the test days ({named}): no verdict is given")
    many = facts_of(rf, data_errors=errors, data_error_counts={"test": len(errors) + 20, "train": 0}).judgement
    assert "; 20 more data errors there are counted, not listed: no verdict" in many.reason
    outside_only = facts_of(rf, data_errors=errors[3:5], data_error_counts={"test": 2, "train": 0}).judgement
    assert "data error" not in outside_only.reason


def test_what_the_document_says_is_shown(rf: Run) -> None:
    """Remarks, alpha and beta, tickers that ended, positions held into holes and periods per year of the document."""
    document, rows = rf.document.to_json(), rf.rows
    row = int(np.flatnonzero(rows["signal"])[0]) + 1
    after = rows["date"].iloc[row]
    changes = {
        "remarks": ["the validation close never moved"],
        "periods_per_year": 365.0,
        "data_errors": [],
        "holes": {"AAA": {str(after.date()): -0.5}, "GONE": {"2011-01-03": 0.1}},
        "pooled": document["pooled"] | {"alpha": 0.031, "alpha_t": 1.234, "beta": 0.456},
        "delisting": {"tickers": 2, "open": 1, "effect": -0.15},
    }
    found = facts_of(rf, **changes)
    said = "\n".join(found.remarks)
    assert "the validation close never moved" in said
    assert "Against always long: alpha +3.1 % a year (t = 1.23, Newey-West), beta 0.46." in said
    assert "ended inside the days: 2, 1 of them with an open position" in said
    assert "change the portfolio by -15.0 %" in said
    assert "held into holes in the bars: 1; together they earned -50.0 %" in said
    assert found.about["periods_per_year"] == found.book.terms.periods == 365.0
    assert "earlier version" not in said


def test_a_file_of_an_earlier_version_says_so(rf: Run) -> None:
    """Without the newer keys the page is made all the same, and says what is not known."""
    said = "\n".join(facts_of(rf, periods_per_year=None, data_errors=None, holes={}, remarks=[]).remarks)
    assert "An earlier version made this file" in said
    assert "does not say whether its bars have data errors" in said


def test_at_the_break_even_cost_the_excess_is_zero() -> None:
    """The book at that cost earns what a constant position earns; a model that never trades more has none."""
    returns = 0.01 * np.random.default_rng(0).standard_normal(300) + 0.001
    rows = pd.DataFrame(
        {
            "date": pd.bdate_range("2020-01-01", periods=300),
            "ticker": "A",
            "fold": 0,
            "probability": np.nan,
            "class": 1,
            "signal": (np.arange(300) // 5 % 2).astype(float),
            "next_return": returns,
        }
    )
    cost = break_even_bps(Book.of(rows, Terms(cost_bps=5.0)))
    assert Book.of(rows, Terms(cost_bps=cost)).edge.sum() == pytest.approx(0.0, abs=1e-12)
    assert break_even_bps(Book.of(rows.assign(signal=1.0), Terms(cost_bps=5.0))) is None


def test_a_handful_of_days_is_reported(rf: Run) -> None:
    """Two days are tested for nothing: every p-value is 1, and no length of record is claimed."""
    found = facts_of(rf, rf.rows.head(2))
    assert [row["p"] for row in found.per_ticker] == [1.0]
    assert years_to_tell(found.judgement, 252) == "cannot be said"


def test_what_was_tried_inside_is_listed(facts, rf: Run) -> None:
    """Candidates with parameters and score, the chosen one marked; no more than a page can hold."""
    assert facts["rf"].candidates == []
    rows = [{"params": {"max_depth": depth}, "scores": [], "mean": 0.5, "rank": depth} for depth in range(1, 1000)]
    (fold,) = rf.document.to_json()["folds"]
    fold["tasks"][0]["search"] |= {"candidates": rows, "params": {"max_depth": 1}}
    first, second, *others = facts_of(rf, folds=[fold]).candidates
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
    judged = Judgement(days=504, changes=50, psr=0.5, track_record_days=needed)
    assert said in years_to_tell(judged, 252)


def test_a_split_does_not_break_the_price_curve() -> None:
    """Days before it stand in the prices after it, whatever was predicted; a real fall stays."""
    days = RecentPrices(
        date=["1", "2", "3", "4"],
        persistence=[400.0, 404.0, 101.0, 70.0],
        actual=[404.0, 404.0, 70.0, 71.0],
        predicted=[396.0, 412.0, 102.0, 69.0],
    )
    found = _in_last_terms(days)
    assert found["persistence"] == [100.0, 101.0, 101.0, 70.0]
    assert found["actual"] == [101.0, 101.0, 70.0, 71.0]
    assert found["predicted"] == [99.0, 103.0, 102.0, 69.0]
    assert found["splits"] == 1


def test_facts_are_json(facts) -> None:
    """No NaN, no numpy type."""
    for run in facts.values():
        json.dumps(run.to_json(), allow_nan=False)
        assert np.isfinite(run.book.model.net).all()
