"""What became of predictions: worked by hand on five days, and beside the walk-forward's own figures."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from msgspec import to_builtins

from nextbar.cli.render import walk_forward_table
from nextbar.config import CommonConfig
from nextbar.errors import NothingToTrainError
from nextbar.runs.journal import Entry, append
from nextbar.scoring.metrics import QUARTER_DAYS, RATES
from nextbar.workflows.score import ScoreSummary, decide, score

CLOSES = [100.0, 110.0, 99.0, 99.0, 120.0]
DAYS = ["2024-01-02", "2024-01-03", "2024-01-04", "2024-01-05", "2024-01-08"]
SOON = dt.datetime(2024, 1, 9, tzinfo=dt.UTC)


def entry(day: str, up: int, **changes: Any) -> Entry:
    base = Entry(
        made=f"{day}T22:00:00+00:00",
        ticker="A",
        date=day,
        kind="xgb",
        model="xgboost_A_20240101_000000",
        model_sha256="",
        model_made="2024-01-01T00:00:00+00:00",
        close=1.0,
        probability=0.9 if up else 0.2,
        predicted_close=None,
        threshold=0.5,
        predicted_class=up,
        signal=up,
        majority=1,
        raw=False,
    )
    return dataclasses.replace(base, **changes)


def frame(days: list[str], closes: list[float]) -> pd.DataFrame:
    prices = dict.fromkeys(("Open", "High", "Low", "Close", "Adj"), closes)
    return pd.DataFrame({**prices, "Volume": 1.0}, index=pd.to_datetime(days))


@pytest.fixture
def judge(make_database: Any, tmp_path: Path) -> Any:
    """Function that scores entries against the five days of ticker A, and of any others given."""

    def run(entries: list[Entry], *, more: dict[str, pd.DataFrame] | None = None, **changes: Any) -> ScoreSummary:
        db = make_database(tmp_path / "m.db", {"A": frame(DAYS, CLOSES), **(more or {})})
        path = tmp_path / "journal.db"
        path.unlink(missing_ok=True)
        append(path, entries)
        config = CommonConfig(db=str(db), cost_bps=10)
        return score(decide(config, path, **{"now": SOON, **changes}), config)

    return run


def test_figures_worked_by_hand(judge: Any) -> None:
    """Long on day 1 (+10 %), flat on day 2 (-10 %), long on day 3 (0 %), flat on day 4 (+21 %), 10 bp a change."""
    summary = judge([entry(day, up) for day, up in zip(DAYS, (1, 0, 1, 0, 1), strict=True)])
    assert (summary.pending, summary.late, summary.repeated, summary.lost) == (1, 0, 0, 0)
    figures = summary.scored["xgb"].figures
    assert summary.scored["xgb"].tickers == ["A"]
    pooled = figures.model
    assert pooled["days"] == pooled["n"] == 4
    assert pooled["accuracy"] == 0.5
    assert pooled["total_return"] == pytest.approx(1.099 * 0.999 * 0.999 * 0.999 - 1)
    always = figures.baselines["always_long"]["total_return"]
    assert always == pytest.approx(1.099 * 0.9 * 120 / 99 - 1)
    assert figures.baselines["majority_class"]["total_return"] == always
    assert figures.baselines["yesterday_direction"]["accuracy"] == 0.25
    json.dumps(to_builtins(figures), allow_nan=False)


def test_a_day_without_a_prediction_is_a_bar_all_the_same(judge: Any) -> None:
    """Day 2 is not predicted: day 3 follows its fall, and what is decided on day 1 is, a bar later, held from day 2."""
    figures = judge([entry(DAYS[0], 1), entry(DAYS[2], 1)]).scored["xgb"].figures
    assert figures.baselines["yesterday_direction"]["accuracy"] == 0.5
    assert figures.one_bar_late["total_return"] == pytest.approx(0.899 - 1)


def test_only_what_was_foreseen_counts(judge: Any) -> None:
    """A prediction made when the next bar's market was open, to the minute, is late."""
    times = {"2024-01-03T13:29:59+00:00": 0, "2024-01-03T13:30:00+00:00": 1, "2024-02-01T00:00:00+00:00": 1}
    for made, late in times.items():
        lines = [entry(DAYS[1], 0), entry(DAYS[0], 1, made=made)]
        assert judge(sorted(lines, key=lambda line: line.made)).late == late
    tokyo = judge([entry(DAYS[0], 1, made="2024-01-03T00:00:00+00:00"), entry(DAYS[1], 0)], opens=dt.time(0))
    assert tokyo.late == 1


def test_a_clock_that_was_set_back_makes_no_prediction_early(judge: Any) -> None:
    """The order in the journal decides: a later line is not the first, and not in time after one that was late."""
    known = entry(DAYS[3], 1, made="2024-01-06T20:00:00+00:00")
    backdated = entry(DAYS[1], 0, made="2024-01-03T20:00:00+00:00")
    assert judge([backdated, known]).late == 0
    assert judge([known, backdated]).late == 1
    assert judge([dataclasses.replace(known, ticker="B"), backdated, entry(DAYS[3], 1)]).late == 1
    wrong = entry(DAYS[2], 1, made="2099-01-01T00:00:00+00:00")
    assert judge([wrong, backdated]).late == 1
    first, again = entry(DAYS[0], 1), entry(DAYS[0], 0, made="2024-01-02T14:00:00+00:00")
    assert judge([first, again]).scored["xgb"].figures.model["accuracy"] == 1.0


def test_the_first_prediction_of_a_day_counts(judge: Any) -> None:
    """Predicting again until it fits is of no use: the first line is scored."""
    again = entry(DAYS[0], 0, made="2024-01-03T01:00:00+00:00", model="xgboost_A_20240102_000000")
    summary = judge([entry(DAYS[0], 1), again])
    assert summary.repeated == 1
    assert summary.scored["xgb"].figures.model["accuracy"] == 1.0
    chosen = judge([entry(DAYS[0], 1), again], model="20240102")
    assert chosen.repeated == 0
    assert chosen.scored["xgb"].figures.model["accuracy"] == 0.0


def test_bars_that_are_gone_and_holes_are_counted(judge: Any) -> None:
    """A day without a bar, and a day before a hole of more than 15 days, have no outcome."""
    more = {"B": frame(["2024-01-02", "2024-01-03", "2024-01-19"], [1.0, 2.0, 3.0])}
    entries = [entry(DAYS[0], 1), entry("2024-01-06", 1), entry("2024-01-03", 1, ticker="B"), entry(DAYS[4], 1)]
    summary = judge(entries, more=more)
    assert (summary.lost, summary.pending) == (2, 1)
    assert summary.scored["xgb"].figures.model["n"] == 1


@pytest.mark.parametrize(
    ("now", "state"),
    [("2024-01-12", "pending"), ("2024-01-13", "overdue"), ("2025-01-01", "overdue")],
)
def test_a_feed_that_has_stopped_is_told(judge: Any, now: str, state: str) -> None:
    """The bars follow each other within three days: a day later the next one is overdue, and since when is said."""
    when = dt.datetime.fromisoformat(f"{now}T12:00:00+00:00")
    summary = judge([entry(DAYS[0], 1), entry(DAYS[4], 1)], now=when)
    told = summary.to_json()
    assert {name: told[name] for name in ("pending", "overdue")} == {"pending": 0, "overdue": 0} | {state: 1}
    assert told["no_bar_since"] == ({"A": DAYS[4]} if state == "overdue" else {})
    said = {"pending": "1 pending", "overdue": f"1 overdue (no bar came since {DAYS[4]}: A)"}
    assert summary.losses == said[state]


def test_steps_of_the_ticker_itself_say_when_a_bar_is_overdue(judge: Any) -> None:
    """A hole is no step between bars; a ticker with one bar waits as long as a next bar could count."""
    more = {"B": frame(["2023-11-01", *DAYS], [1.0] * 6), "C": frame(DAYS[4:], [1.0])}
    waits = [entry(DAYS[4], 1, ticker=name) for name in "BC"]
    days = {name: dt.datetime(2024, 1, day, tzinfo=dt.UTC) for name, day in (("B", 13), ("C", 25))}
    assert judge(waits, more=more, now=days["B"]).no_bar_since == {"B": DAYS[4]}
    assert judge(waits, more=more, now=days["C"]).no_bar_since == {"B": DAYS[4], "C": DAYS[4]}


def test_what_was_made_too_late_for_any_next_bar_does_not_wait(judge: Any) -> None:
    """After 15 days no next bar counts, so that a prediction which is made then is late, whatever bars come."""
    times = {"2024-01-23T13:29:59+00:00": "pending", "2024-01-23T13:30:00+00:00": "late"}
    for made, state in times.items():
        summary = judge([entry(DAYS[0], 1), entry(DAYS[4], 1, made=made)])
        assert summary.losses == f"1 {state}"


def test_what_another_database_holds_is_lost_here(judge: Any) -> None:
    """One journal, two databases: predictions of tickers that are not in this one are counted, the others scored."""
    entries = [entry(DAYS[0], 1), entry(DAYS[0], 1, ticker="TOKYO"), entry(DAYS[0], 1, ticker="ALL", raw=True)]
    summary = judge(entries)
    assert summary.lost == 2
    assert summary.scored["xgb"].figures.model["n"] == 1


def test_nothing_to_score_says_what_to_do(judge: Any) -> None:
    """Predictions that wait are counted; a journal of which none waits and none can be scored is an error."""
    summary = judge([entry(DAYS[4], 1)])
    assert (summary.scored, summary.pending) == ({}, 1)
    late = dt.datetime(2024, 3, 1, tzinfo=dt.UTC)
    assert judge([entry(DAYS[4], 1)], now=late).overdue == 1
    with pytest.raises(NothingToTrainError, match=r"none of 1 prediction in .*scored: 1 lost; ingest"):
        judge([entry(DAYS[0], 1, ticker="TOKYO")])


def test_kinds_and_prices_are_scored_apart(judge: Any) -> None:
    """A price model gets errors in quoted prices; raw and adjusted predictions use their own prices."""
    split = frame(DAYS, [100.0, 110.0, 49.5, 49.5, 60.0]).assign(Adj=[50.0, 55.0, 49.5, 49.5, 60.0])
    lstm = {"ticker": "S", "kind": "lstm", "probability": None, "threshold": None}
    entries = [
        entry(DAYS[0], 1),
        entry(DAYS[1], 1, **lstm, predicted_close=108.0),
        entry(DAYS[1], 1, ticker="S", raw=True, kind="rf"),
        entry(DAYS[2], 1, **lstm, predicted_close=50.0),
    ]
    summary = judge(entries, more={"S": split})
    assert list(summary.scored) == ["lstm", "rf", "xgb"]
    price = summary.scored["lstm"].figures.price.per_ticker["S"]
    # Adjusted, 110 became 99: the split is no loss. In the quotes of the day before: 108 was predicted, 99 came.
    assert price["price_mae"] == pytest.approx((9.0 + 0.5) / 2)
    assert summary.scored["lstm"].figures.model["total_return"] == pytest.approx((0.9 - 0.001) * 1.0 - 1)
    assert summary.scored["rf"].figures.model["total_return"] == pytest.approx(0.45 - 0.001 - 1)
    json.dumps([to_builtins(one.figures) for one in summary.scored.values()], allow_nan=False)


def test_the_journal_of_a_run_scores_as_the_run_did(trained_trees: Path, market_db: Path, tmp_path: Path) -> None:
    """Entries that say what a model said on its test days give the figures that training wrote into the metadata."""
    (path,) = trained_trees.glob("xgboost_*_metadata.json")
    metadata = json.loads(path.read_text())
    rows = pd.read_parquet(next(trained_trees.glob("xgboost_*_predictions.parquet")))
    entries = [
        entry(
            str(row.date.date()),
            int(row.signal),
            ticker="AAA",
            probability=row.probability,
            threshold=row.threshold,
            majority=_majority(metadata),
        )
        for row in rows.itertuples()
    ]
    append(tmp_path / "j.db", entries)
    config = CommonConfig(db=str(market_db))
    figures = score(decide(config, tmp_path / "j.db"), config).scored["xgb"].figures
    assert figures.model == pytest.approx(metadata["pooled"], nan_ok=True)
    for name in ("always_long", "majority_class", "yesterday_direction"):
        assert figures.baselines[name] == pytest.approx(metadata["baselines"][name]), name


def _majority(metadata: dict[str, Any]) -> int:
    """Class that the majority baseline of the metadata predicts."""
    return int(metadata["baselines"]["majority_class"]["recall"] == 1.0)


def test_the_numbers_of_a_row_are_finite(judge: Any) -> None:
    """One single prediction has no Sharpe ratio, and no NaN gets into the JSON."""
    summary = judge([entry(DAYS[3], 1)])
    figures = summary.scored["xgb"].figures
    assert figures.model["sharpe"] is None
    assert np.isfinite(figures.model["total_return"])
    json.dumps(to_builtins(figures), allow_nan=False)
    told = summary.to_json()["models"]["xgb"]
    rows = [
        told["pooled"],
        told["one_bar_late"],
        told["next_open"],
        *told["baselines"].values(),
        told["per_ticker"]["A"],
    ]
    assert {row.get(rate) for row in rows for rate in RATES} == {None}


@pytest.mark.parametrize("days", [QUARTER_DAYS - 1, QUARTER_DAYS])
def test_a_rate_a_year_needs_a_quarter(judge: Any, days: int) -> None:
    """Screen and JSON leave it out on the same days."""
    dates = [str(day.date()) for day in pd.bdate_range("2023-01-02", periods=days + 1)]
    bars = {"B": frame(dates, [100.0 + day % 7 for day in range(days + 1)])}
    summary = judge([entry(day, 1, ticker="B") for day in dates[:-1]], more=bars)
    told, one = summary.to_json()["models"]["xgb"], summary.scored["xgb"]
    assert (told["pooled"]["annual_return"] is None) == (told["pooled"]["turnover"] is None) == (days < QUARTER_DAYS)
    assert told["pooled"]["sharpe"] is not None
    sheet = walk_forward_table([("xgb", one.periods, one.figures)])
    shown = dict(zip([str(column.header) for column in sheet.columns], sheet.rows[0][0], strict=True))
    assert (shown["annual return"] == shown["turnover"] == "–") == (days < QUARTER_DAYS)
