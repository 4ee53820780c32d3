"""Real runs, trained in this process on synthetic bars, one of whose tickers is called <script>."""

from __future__ import annotations

from pathlib import Path

import pytest

from nextbar.config import TrainConfig, WalkForwardConfig
from nextbar.reports.facts import RunFacts
from nextbar.runs.ledger import Ledger
from nextbar.runs.load import load_run
from nextbar.types import Silent
from nextbar.workflows.report import examine
from nextbar.workflows.train import train
from nextbar.workflows.walkforward import walk_forward

EVIL = "<script>alert(1)</script>"
WINDOWS = {"train_years": 1, "val_months": 4, "test_months": 4, "step_months": 4}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, make_bars, make_database, inline_module) -> dict[str, Path]:
    """Commit marks of a walk-forward of two tickers and a short one, of a forest and of a booster; one ledger."""
    folder = tmp_path_factory.mktemp("runs")
    bars = {"AAA": make_bars(760, seed=1), EVIL: make_bars(760, seed=2), "TINY": make_bars(90, seed=3)}
    common = {
        "db": str(make_database(folder / "market.db", bars)),
        "no_tune": True,
        "ledger": str(folder / "ledger.db"),
    }
    walked = walk_forward(WalkForwardConfig(**common, **WINDOWS, model="xgb", output_dir=str(folder)), Silent())
    found = {"walkforward": walked.files[-1]}
    for model in ("rf", "xgb"):
        trained = train(TrainConfig(**common, model=model, ticker="AAA", save_dir=str(folder)), Silent())
        found[model] = trained.runs[0].files[-1]
    return found


@pytest.fixture(scope="module")
def ledger(runs: dict[str, Path]) -> Ledger:
    return Ledger(runs["rf"].with_name("ledger.db"))


@pytest.fixture(scope="module")
def facts(runs: dict[str, Path], ledger: Ledger) -> dict[str, RunFacts]:
    found = examine([load_run(path) for path in runs.values()], ledger, Silent())
    return dict(zip(runs, found, strict=True))
