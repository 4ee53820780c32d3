"""A metric is one entry of `METRICS`."""

from __future__ import annotations

import json

import numpy as np
import pytest
from rich.console import Console

from nextbar.cli.render import training_table, walk_forward_table
from nextbar.config import TrainConfig, WalkForwardConfig
from nextbar.reports.page import render_html, render_markdown
from nextbar.runs.ledger import Ledger
from nextbar.runs.load import load_run
from nextbar.scoring.metrics import METRICS, Days, Metric, Rows, metrics_of
from nextbar.types import Silent
from nextbar.workflows.report import examine
from nextbar.workflows.train import train
from nextbar.workflows.walkforward import walk_forward

WORST, RIGHT = "worst day", "right days"


@pytest.fixture
def more_metrics(monkeypatch):
    """Two more entries: one of daily returns, one of predictions."""
    worst = Metric("worst_day", Days, lambda days: days.net.min(), label=WORST, digits=None)
    right = Metric("right_days", Rows, lambda rows: (rows.truth == rows.predicted).sum(), label=RIGHT, digits=0)
    for metric in (worst, right):
        monkeypatch.setitem(METRICS, metric.name, metric)


def printed(table) -> str:
    """Text of a table on a wide terminal."""
    console = Console(width=300)
    with console.capture() as caught:
        console.print(table)
    return caught.get()


def test_a_metric_is_one_entry(more_metrics, make_bars, make_database, inline, tmp_path):
    """A new entry is among the figures of each strategy, in documents, both tables and both forms of the page."""
    common = {
        "db": str(make_database(tmp_path / "market.db", {"AAA": make_bars(760, seed=1)})),
        "no_tune": True,
        "ledger": str(tmp_path / "ledger.db"),
        "model": "xgb",
    }
    trained = train(TrainConfig(**common, ticker="AAA", save_dir=str(tmp_path)), Silent()).runs[0]
    years = {"train_years": 1, "val_months": 4, "test_months": 4, "step_months": 4}
    walked = walk_forward(WalkForwardConfig(**common, **years, output_dir=str(tmp_path)), Silent())
    written = json.loads(trained.mark.read_text())
    net = load_run(trained.mark).rows["strategy_return"].to_numpy(dtype=np.float64)
    pooled = written["pooled"]
    assert pooled["worst_day"] == pytest.approx(np.nanmin(net))
    assert 0 < pooled["right_days"] <= pooled["n"]
    assert {"worst_day", "right_days"} <= written["baselines"]["always_long"].keys() & walked.document.pooled.keys()
    assert {"worst_day", "right_days"} <= set(trained.figures)
    facts = examine([load_run(trained.mark)], Ledger(common["ledger"]), Silent())
    texts = (
        printed(training_table([trained])),
        printed(walk_forward_table([("xgb", walked.document.periods_per_year, walked.document.figures)])),
        render_html(facts),
        render_markdown(facts),
    )
    for text in texts:
        assert WORST in text
        assert RIGHT in text
    worst = f"{100 * pooled['worst_day']:.1f} %"
    assert all(worst in text for text in (texts[0], *texts[2:]))


def test_a_value_that_is_not_finite_is_none(monkeypatch):
    """Formulas see at least one row or day, and need not look for a division by zero."""
    monkeypatch.setitem(METRICS, "odd", Metric("odd", Days, lambda days: np.log(days.net[0])))
    for net in (np.zeros(1), np.zeros(0)):
        days = Days(net=net, exposure=net, excess=net, traded=net, cost_bps=0.0, periods=252)
        assert metrics_of(days)["odd"] is None
