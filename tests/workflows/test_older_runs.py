"""Runs that version 0.1.0 wrote are listed, reported, predicted from and made again, whatever has changed since."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nextbar.cli.main import main
from nextbar.config import TrainConfig, WalkForwardConfig
from nextbar.errors import ArtifactError, OutdatedError
from nextbar.market.ingest import ingest
from nextbar.market.sources.sample import read_sample
from nextbar.runs.ledger import Ledger
from nextbar.runs.load import find_marks, list_runs, load_run
from nextbar.types import Silent
from nextbar.workflows.certify import certify_runs
from nextbar.workflows.options import PredictConfig
from nextbar.workflows.predict import predict
from nextbar.workflows.report import report
from nextbar.workflows.reproduce import Reproduction, reproduce
from nextbar.workflows.train import train
from nextbar.workflows.universe import load_universe
from nextbar.workflows.walkforward import walk_forward

Patch = pytest.MonkeyPatch
REAL = os.environ.get("NEXTBAR_REAL_DATA")
RUNS = Path(REAL or "").parent / "runs_0.1.0"
REAL_RUNS = ("xgboost_AAPL", "random_forest_MSFT", "lstm_all", "walkforward_xgb_all")
WINDOWS = {"train_years": 1, "val_months": 4, "test_months": 4, "step_months": 4}
OPTIONS_0_1_0 = """ticker db start end raw max_gap_days purge features features_only warmup seed no_tune n_iter
    cv_splits search fast epochs batch_size patience sequence_length max_tickers scaler_fit cost_bps risk_free engine
    scheduler jobs ledger mlflow model save_dir train_split val_split split_by output_dir train_years val_months
    test_months step_months expanding tune resume no_report"""
FIGURES = ("baselines", "one_bar_late", "next_open", "per_ticker", "delisting", "reliability", "price")
FEATURES = "def money(bars):\n    return (bars[['Volume']] * bars[['Close']].to_numpy()).set_axis(['money'], axis=1)\n"


@pytest.fixture(params=["train", "walkforward"])
def old_run(request: Any, market_db: Path, tmp_path: Path, inline: Any, monkeypatch: Patch) -> Path:
    """A run on quoted volume, with a feature that reads it, whose document says no more than 0.1.0 did."""
    (tmp_path / "own_money.py").write_text(FEATURES)
    monkeypatch.syspath_prepend(str(tmp_path))
    options = {"db": str(market_db), "ticker": "AAA", "model": "xgb", "no_tune": True, "features": "own_money:money"}
    with monkeypatch.context() as patch:
        for home in ("train", "walkforward"):
            patch.setattr(f"nextbar.workflows.{home}.load_universe", partial(load_universe, quoted_volume=True))
        if request.param == "train":
            path = train(TrainConfig(**options, save_dir=str(tmp_path)), Silent(), counts=False).runs[0].files[-1]
        else:
            config = WalkForwardConfig(**options, **WINDOWS, output_dir=str(tmp_path))
            path = walk_forward(config, Silent(), counts=False).files[-1]
    edit(path, make_old)
    yield path
    sys.modules.pop("own_money", None)


def make_old(document: dict[str, Any]) -> None:
    """Give a document the shape that 0.1.0 wrote, and leave out what it did not write and no digest depends on."""
    folds, features = document.pop("folds"), document.pop("features")
    for task in (task for fold in folds for task in fold["tasks"]):
        task |= {**task.pop("details"), "columns": features["columns"]}
    figures = {name: document.pop(name) for name in FIGURES if name in document}
    pooled, skipped, kind = document.pop("pooled"), document.pop("skipped"), document.pop("kind")
    if kind == "walkforward":
        document |= {**figures, "pooled": pooled, "skipped": skipped, "folds": folds}
    else:
        (task,) = folds[0]["tasks"]
        document |= {name: value for name, value in task.items() if name not in {"name", "seed", "columns"}}
        document |= {"task": task["name"], "task_seed": task["seed"], "features": features, "skipped": {}}
        document["metrics"] = {"model": pooled, **figures}
    for name in ("rules", "run", "paths", "remarks", "data_errors", "data_error_counts"):
        document.pop(name, None)
    document |= {"schema_version": 1, "trial": "0" * 16}
    document["config"] = {name: value for name, value in document["config"].items() if name in OPTIONS_0_1_0.split()}


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


@pytest.fixture
def again(market_db: Path) -> Callable[[Path], Reproduction]:
    """Function that reproduces a run."""
    return lambda path: reproduce(path, Silent(), db=str(market_db), features="own_money:money")


def tasks(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [task for fold in document.get("folds", [{"tasks": [document]}]) for task in fold["tasks"]]


def digests_of(stage: str, path: Path) -> None:
    """Give a stage of the last fold another digest."""
    edit(path, lambda document: tasks(document)[-1]["digests"].update({stage: "0" * 64}))


def test_an_older_run_is_made_again(old_run: Path, market_db: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On its own bars, with the volume as it was quoted; the rule that has changed is named and does not fail it."""
    with pytest.raises(SystemExit) as stopped:
        main(["reproduce", str(old_run), "--db", str(market_db), "--features", "own_money:money"])
    assert not stopped.value.code
    said = capsys.readouterr().out
    assert said.startswith("bit-identical (")
    assert "stage bars: rule changed since 0.1.0 (volume is adjusted)\n" in said


def test_a_run_of_today_has_no_changed_rules(market_db: Path, tmp_path: Path, inline: Any, monkeypatch: Patch) -> None:
    """Every stage of it is compared."""
    config = TrainConfig(db=str(market_db), ticker="AAA", model="xgb", no_tune=True, save_dir=str(tmp_path))
    path = train(config, Silent()).runs[0].files[-1]
    assert reproduce(path, Silent(), db=str(market_db)) == Reproduction(identical=True, folds=1)
    digests_of("bars", path)
    assert reproduce(path, Silent(), db=str(market_db)).stage == "bars"


def test_a_run_by_newer_rules_is_refused(old_run: Path, again: Any) -> None:
    """It cannot be made again here; a version that is no number is a damaged file."""
    edit(old_run, lambda document: document.update(rules=3))
    with pytest.raises(ArtifactError, match=r"a newer nextbar made this run, with rules 3; this one knows 2; upgrade"):
        again(old_run)
    edit(old_run, lambda document: document.update(rules=[]))
    with pytest.raises(ArtifactError, match="is refused"):
        again(old_run)


@pytest.mark.parametrize(
    ("stage", "identical"), [("bars", True), ("predictions", True), ("features", False), ("weights", False)]
)
def test_stages_of_old_rules_are_not_compared(old_run: Path, again: Any, stage: str, identical: bool) -> None:
    """The digest of a stage whose rule has changed says nothing, that of the predictions gives way to the rows."""
    digests_of(stage, old_run)
    found = again(old_run)
    assert found.identical is identical
    assert found.stage == (None if identical else stage)


def test_the_recorded_probabilities_decide(old_run: Path, again: Any) -> None:
    """The smallest possible change of one of them is found, though every digest in the document is as before."""
    path = load_run(old_run).rows_path
    rows = pd.read_parquet(path)
    rows.loc[len(rows) - 1, "probability"] = np.nextafter(rows["probability"].iloc[-1], 1)
    rows.to_parquet(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    edit(old_run, lambda document: document["files"].update({path.name: digest}))
    found = again(old_run)
    assert (found.identical, found.stage) == (False, "predictions")
    assert found.where.startswith("AAA fold ")


def test_rows_without_probabilities_are_refused(old_run: Path, again: Any) -> None:
    """With the file and what is missing, before anything is trained."""
    path = load_run(old_run).rows_path
    pd.read_parquet(path).drop(columns="probability").to_parquet(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    edit(old_run, lambda document: document["files"].update({path.name: digest}))
    with pytest.raises(ArtifactError, match="probability"):
        again(old_run)


def test_without_its_rows_the_digest_decides(old_run: Path, again: Any) -> None:
    """The document alone is enough to make the run again."""
    load_run(old_run).rows_path.unlink()
    assert again(old_run).identical
    digests_of("predictions", old_run)
    assert again(old_run).stage == "predictions"


def test_an_older_run_is_certified(old_run: Path, market_db: Path) -> None:
    """It is still the run that lies on disk, and saw no future."""
    (certificate,) = certify_runs([old_run], Silent(), db=str(market_db), features="own_money:money")
    assert certificate.passed, certificate.failures
    assert certificate.table()["predictions"]["rescaled past"] == "PASS"


def test_an_older_run_is_listed_and_reported(old_run: Path, tmp_path: Path) -> None:
    """A look at it makes it a trial where that is asked for, once."""
    (listed,), damaged = list_runs([tmp_path])
    assert damaged == []
    assert listed["balanced_accuracy"] is not None
    for _ in range(2):
        (facts,) = report([old_run], Silent(), ledger=str(tmp_path / "ledger.db"), count=True).runs
        assert facts.about["tickers"] == ["AAA"]
        (trial,) = Ledger(tmp_path / "ledger.db").trials()
        assert trial.tickers == ("AAA",)


@pytest.mark.parametrize("old_run", ["train"], indirect=True)
def test_an_older_booster_predicts(old_run: Path, market_db: Path, tmp_path: Path) -> None:
    """From the volume that it was trained on: neither its bars nor its features are said to have changed."""
    now = dt.datetime(2012, 6, 18, tzinfo=dt.UTC)
    config = PredictConfig(db=str(market_db), journal=tmp_path / "j.db", features="own_money:money")
    summary = predict([old_run], config, now=now)
    assert [entry.ticker for entry in summary.entries] == ["AAA"]
    assert summary.notes == []


@pytest.fixture(scope="module")
def sample_db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample bars, from which the runs of 0.1.0 were made."""
    path = tmp_path_factory.mktemp("sample") / "market.db"
    ingest(read_sample(), str(path), progress=Silent())
    return path


@pytest.mark.realdata
@pytest.mark.skipif(not RUNS.is_dir(), reason="NEXTBAR_REAL_DATA is not set, or has no runs_0.1.0 beside it")
@pytest.mark.parametrize("name", REAL_RUNS)
def test_the_runs_of_0_1_0_are_made_again(name: str, sample_db: Path) -> None:
    """To the bit; a network's sums depend on the processor, so on another one it may differ from its first epoch on."""
    (path,) = (path for path in find_marks([RUNS / "models", RUNS / "results"]) if path.name.startswith(name))
    found = reproduce(path, Silent(), db=str(sample_db))
    assert found.changed_rules
    elsewhere = any(line.startswith("cpu ") for line in found.differences)
    assert found.identical or (name == "lstm_all" and elsewhere and found.stage == "epochs")


@pytest.mark.realdata
@pytest.mark.skipif(not RUNS.is_dir(), reason="NEXTBAR_REAL_DATA is not set, or has no runs_0.1.0 beside it")
def test_the_runs_of_0_1_0_are_listed_and_reported(tmp_path: Path) -> None:
    """All four, on one page, each one trial however often it is looked at."""
    folders = [Path(shutil.copytree(RUNS / part, tmp_path / part)) for part in ("models", "results")]
    for path in tmp_path.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    found, damaged = list_runs(folders)
    assert (len(found), damaged) == (4, [])
    marks = list(find_marks(folders))
    for _ in range(2):
        assert len(report(marks, Silent(), ledger=str(tmp_path / "ledger.db"), count=True).runs) == 4
        assert len(Ledger(tmp_path / "ledger.db").trials()) == 4


@pytest.mark.realdata
@pytest.mark.skipif(not RUNS.is_dir(), reason="NEXTBAR_REAL_DATA is not set, or has no runs_0.1.0 beside it")
@pytest.mark.parametrize("name", ["random_forest_MSFT", "lstm_all"])
def test_a_model_of_0_1_0_predicts_after_an_upgrade(name: str, sample_db: Path, tmp_path: Path) -> None:
    """Before it says what to do; a network that this processor makes otherwise stays as it is."""
    folder = Path(shutil.copytree(RUNS / "models", tmp_path / "models"))
    for path in tmp_path.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    (mark,) = folder.glob(f"{name}_*_metadata.json")
    before, now = json.loads(mark.read_text()), dt.datetime(2013, 3, 2, tzinfo=dt.UTC)
    config = PredictConfig(db=str(sample_db), journal=tmp_path / "journal.db")
    with pytest.raises(OutdatedError, match="--upgrade"):
        predict([mark], config, now=now)
    found, after = reproduce(mark, Silent(), upgrade=True, db=str(sample_db)), json.loads(mark.read_text())
    if not found.identical:
        assert (name, after) == ("lstm_all", before)
        return
    weights = f"{load_run(mark).stem}_weights.npz"
    assert after.pop("files") == before.pop("files") | {
        weights: hashlib.sha256((folder / weights).read_bytes()).hexdigest()
    }
    assert {key: value for key, value in after.items() if key != "scalers"} == before
    assert predict([mark], config, now=now).entries
