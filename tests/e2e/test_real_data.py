"""The same promises on real bars: `NEXTBAR_REAL_DATA` names a folder with us40_raw_adj_1999_2021.parquet."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nextbar.cli.main import main
from nextbar.config import TrainConfig, WalkForwardConfig
from nextbar.runs.run import Run
from nextbar.types import Silent
from nextbar.workflows.train import train
from nextbar.workflows.walkforward import walk_forward

FOLDER = os.environ.get("NEXTBAR_REAL_DATA")
pytestmark = [pytest.mark.realdata, pytest.mark.skipif(FOLDER is None, reason="NEXTBAR_REAL_DATA is not set")]
SPLIT = pd.Timestamp("2014-06-09")
"""AAPL's 7:1 split: the first day at the new price."""


@pytest.fixture(scope="module")
def source() -> pd.DataFrame:
    return pd.read_parquet(Path(str(FOLDER)) / "us40_raw_adj_1999_2021.parquet")


@pytest.fixture(scope="module")
def real_db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """us40, ingested by the command."""
    path = tmp_path_factory.mktemp("real") / "us40.db"
    with pytest.raises(SystemExit) as stopped:
        main(["ingest", "parquet", str(Path(str(FOLDER)) / "us40_raw_adj_1999_2021.parquet"), "--db", str(path)])
    assert not stopped.value.code
    return path


def trained(db: Path, folder: Path, kind: str, **options: Any) -> Run:
    config = {"model": kind, "ticker": "AAPL", "n_iter": 1, "cv_splits": 2, "db": str(db), "save_dir": str(folder)}
    (run,) = train(TrainConfig(**{**config, **options}), Silent()).runs
    return run


def predictions(run: Run) -> pd.DataFrame:
    return pd.read_parquet(next(path for path in run.files if path.name.endswith("_predictions.parquet")))


@pytest.mark.parametrize("kind", ["rf", "xgb"])
def test_no_label_of_aapl_is_decided_by_its_split(kind, real_db, tmp_path, inline):
    """With the split among the test days, the day before it has the return of the adjusted close, not -86 %."""
    rows = predictions(trained(real_db, tmp_path, kind, end="2015-06-30")).set_index("date")
    with sqlite3.connect(real_db) as connection:
        bars = pd.read_sql("SELECT * FROM stock_prices WHERE ticker = 'AAPL'", connection, parse_dates=["date"])
    connection.close()
    bars = bars.set_index("date").sort_index()
    assert bars["close"].pct_change().loc[SPLIT] < -0.8
    assert rows.index[0] < SPLIT < rows.index[-1]
    expected = bars["adj_close"].pct_change().shift(-1).loc[rows.index]
    np.testing.assert_allclose(rows["next_return"], expected, atol=1e-9)
    assert rows["next_return"].abs().max() < 0.15
    np.testing.assert_array_equal(rows["next_return"] > 0, expected > 0)


@pytest.mark.parametrize("kind", ["rf", "xgb"])
def test_halving_adj_close_changes_no_bit(kind, real_db, tmp_path, inline):
    """Halving AAPL's whole adj_close history changes no digest and no probability of AAPL by one bit."""
    whole = trained(real_db, tmp_path / "a", kind)
    halved_db = tmp_path / "halved.db"
    halved_db.write_bytes(real_db.read_bytes())
    with sqlite3.connect(halved_db) as connection:
        changed = connection.execute("UPDATE stock_prices SET adj_close = adj_close / 2 WHERE ticker = 'AAPL'").rowcount
    connection.close()
    assert changed > 5000
    halved = trained(halved_db, tmp_path / "b", kind)
    assert halved.document.fits[0][1].digests == whole.document.fits[0][1].digests
    pd.testing.assert_frame_equal(predictions(halved), predictions(whole), check_exact=True)


def test_a_short_walk_forward(real_db, tmp_path, inline):
    """Three tickers over eight years give every out-of-sample day once, with baselines, and no failure."""
    config = WalkForwardConfig(
        model="xgb",
        ticker="AAPL,MSFT,KO",
        db=str(real_db),
        output_dir=str(tmp_path),
        tune="none",
        start="2008-01-01",
        end="2016-01-01",
        test_months=12,
        step_months=12,
    )
    result = walk_forward(config, Silent())
    rows = pd.read_parquet(next(path for path in result.files if path.suffix == ".parquet"))
    assert result.failed == {}
    assert not rows.duplicated(["ticker", "date"]).any()
    assert len(set(rows.groupby("ticker").size())) == 1
    assert rows["next_return"].abs().max() < 0.3
    facts = json.loads(next(path for path in result.files if path.suffix == ".json").read_text())
    assert facts["baselines"]["always_long"]["days"] == facts["pooled"]["days"] == rows["date"].nunique()
