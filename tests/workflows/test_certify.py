"""`nextbar certify`: artifacts get a certificate beside them, and a leak anywhere gives exit code 1."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nextbar.cli.main import main
from nextbar.config import CertifyConfig, TrainConfig, WalkForwardConfig
from nextbar.datasets import samples
from nextbar.errors import ArtifactError, ConfigError
from nextbar.evaluation.stages import Finding
from nextbar.evaluation.trials import WAYS
from nextbar.runs.ledger import Ledger
from nextbar.types import Silent
from nextbar.workflows.certify import Certificate, Certified, certify, certify_runs
from nextbar.workflows.report import report
from nextbar.workflows.train import train
from nextbar.workflows.training import Loop
from nextbar.workflows.walkforward import walk_forward

SMALL: dict[str, Any] = {"model": "xgb", "no_tune": True}
Patch = pytest.MonkeyPatch


pytestmark = pytest.mark.usefixtures("inline")


def plant(folder: Path, monkeypatch: Patch, source: str) -> None:
    """A user's module of feature functions."""
    (folder / "planted_here.py").write_text(source)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "planted_here", raising=False)


def run(market_db: Path, folder: Path, **options: Any) -> list[Certificate]:
    config = CertifyConfig(**{**SMALL, "db": str(market_db), "ticker": "AAA", "save_dir": str(folder), **options})
    return certify(config, Silent()).certificates


def test_certificates_lie_beside_their_artifacts(market_db: Path, tmp_path: Path) -> None:
    """Two tickers, two artifacts, two certificates that pass and say which metadata they speak of."""
    certificates = run(market_db, tmp_path, ticker="AAA,BBB")
    assert [certificate.passed for certificate in certificates] == [True, True]
    for certificate in certificates:
        assert certificate.path is not None
        document = json.loads(certificate.path.read_text())
        metadata = tmp_path / f"{certificate.name}_metadata.json"
        assert document["certifies"] == {metadata.name: hashlib.sha256(metadata.read_bytes()).hexdigest()}
        assert document["verdict"] == "PASS"
        assert document["environment"]["versions"]["numpy"]
        assert document["table"]["threshold"]["end of validation"] == "PASS"
        assert document["table"]["search"]["end of train"] == "–"
        assert {finding["part"] for finding in document["findings"]} == {
            "artifact",
            "features",
            "end of train",
            "end of validation",
            "inside test",
            "rescaled past",
            "warm-up",
            "truncation",
        }
        (truncation,) = document["truncation"]
        assert truncation["tried"] >= 200
        assert truncation["share"] == pytest.approx(1 - 0.01 ** (1 / truncation["drawn"]))
        assert any("written into the code" in limit for limit in document["cannot_see"])


def test_certified_run_is_a_trial_once_somebody_looks(market_db: Path, tmp_path: Path) -> None:
    """`certify` counts nothing; a report of what it trained counts it, once."""
    ledger = str(tmp_path / "ledger.db")
    run(market_db, tmp_path, ledger=ledger)
    assert Ledger(ledger).trials() == []
    (mark,) = tmp_path.glob("*_metadata.json")
    for _ in range(2):
        report([mark], Silent(), ledger=ledger)
        assert [trial.tickers for trial in Ledger(ledger).trials()] == [("AAA",)]


def test_leak_exits_with_one(
    market_db: Path, tmp_path: Path, monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message names the column and the first bad date; the certificate is written all the same."""
    plant(tmp_path, monkeypatch, "def leak(bars):\n    return bars[['Close']].shift(-1).set_axis(['peek'], axis=1)\n")
    command = ["certify", "xgb", "--db", str(market_db), "--ticker", "AAA", "--no-tune", "--save_dir", str(tmp_path)]
    with pytest.raises(SystemExit) as stop:
        main([*command, "--features", "planted_here:leak", "--features-only"])
    assert stop.value.code == 1
    (path,) = tmp_path.glob("*_certificate.json")
    failed = [finding for finding in json.loads(path.read_text())["findings"] if finding["verdict"] == "FAIL"]
    assert {finding["column"] for finding in failed if finding["stage"] == "features"} == {"peek"}
    said = capsys.readouterr().out
    assert "FAIL AAA, features: peek moved in row 20" in said
    assert str(path) in said


RARE = """
def rare(bars):
    tomorrow = bars["Close"].shift(-1) / bars["Close"] - 1
    return tomorrow.between(-0.02, -0.012).astype(float).to_frame("rare")
"""


def test_leak_on_few_days_exits_with_one(
    market_db: Path, tmp_path: Path, monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A column that knows tomorrow on one day of ten fails; the certificate counts the days that show it."""
    plant(tmp_path, monkeypatch, RARE)
    command = ["certify", "xgb", "--db", str(market_db), "--ticker", "AAA", "--no-tune", "--save_dir", str(tmp_path)]
    with pytest.raises(SystemExit) as stop:
        main([*command, "--features", "planted_here:rare"])
    assert stop.value.code == 1
    (path,) = tmp_path.glob("*_certificate.json")
    document = json.loads(path.read_text())
    (found,) = [finding for finding in document["findings"] if finding["part"] == "truncation"]
    assert (document["verdict"], found["verdict"], found["column"]) == ("FAIL", "FAIL", "rare")
    assert 3 <= document["truncation"][0]["moved_drawn"] <= 60
    assert "AAA: " in capsys.readouterr().out


def test_function_that_remembers_fails(market_db: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    """A cache by the first day hides a leak from every change of the future; a new process gives other features."""
    source = """
store = {}
def remembering(bars):
    if bars.index[0] not in store:
        store[bars.index[0]] = bars[["Close"]].shift(-1).add_prefix("next_")
    return store[bars.index[0]].reindex(bars.index)
"""
    plant(tmp_path, monkeypatch, source)
    (certificate,) = run(market_db, tmp_path, features="planted_here:remembering")
    failed = {finding.part for finding in certificate.findings if not finding.passed}
    assert failed == {"truncation"}
    assert "remembers" in certificate.failures[0].note


@pytest.mark.thorough
def test_reads_fail_unless_they_are_allowed(market_db: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    """What a function reads is named and fails; who typed `--allow-reads` may have it, a run on disk alone may not."""
    (tmp_path / "rates.csv").write_text("rate\n0.5\n")
    source = f"import pandas as pd\nRATES = pd.read_csv({str(tmp_path / 'rates.csv')!r})\n"
    plant(tmp_path, monkeypatch, source + "def rated(bars):\n    return bars[['Volume']] * RATES.rate[0]\n")
    options = {"features": "planted_here:rated"}
    (refused,) = run(market_db, tmp_path, **options)
    assert [finding.part for finding in refused.findings if not finding.passed] == ["reads"]
    assert str(tmp_path / "rates.csv") in refused.failures[0].note
    (allowed,) = run(market_db, tmp_path, **options, allow_reads=[f"nothing,{tmp_path}"])
    assert allowed.passed
    document = json.loads(Path(str(allowed.path)).read_text())
    assert document["reads"][0]["names"] == [str(tmp_path / "rates.csv")]
    assert document["allow_reads"] == ["nothing", str(tmp_path)]
    (again,) = run(market_db, tmp_path, **options, artifact=str(tmp_path / f"{allowed.name}_metadata.json"))
    assert again.verdict == "FAIL"


def test_function_that_is_too_slow_is_incomplete(
    market_db: Path, tmp_path: Path, monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With fewer than 100 days tried the answer is not yes: the exit code is 1, and the line says what to do."""
    plant(tmp_path, monkeypatch, "import time\ndef slow(bars):\n    time.sleep(0.03)\n    return bars[['Volume']]\n")
    command = ["certify", "xgb", "--db", str(market_db), "--ticker", "AAA", "--no-tune", "--save_dir", str(tmp_path)]
    with pytest.raises(SystemExit) as stop:
        main([*command, "--features", "planted_here:slow", "--features-only", "--certify-seconds", "1"])
    assert stop.value.code == 1
    (path,) = tmp_path.glob("*_certificate.json")
    document = json.loads(path.read_text())
    assert document["verdict"] == document["table"]["features"]["truncation"] == "INCOMPLETE"
    assert 0 < document["truncation"][0]["tried"] < 100
    told = " ".join(capsys.readouterr().out.split())
    assert "INCOMPLETE AAA, features (truncation)" in told
    assert "raise --certify-seconds" in told


def test_function_that_ends_its_process_is_incomplete(market_db: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    """A crash on a shorter history is a reason in one certificate and does not take the others down."""
    source = "import os\ndef crash(bars):\n    if 300 < len(bars) < 600:\n        os._exit(3)\n"
    plant(tmp_path, monkeypatch, source + "    return bars[['Volume']]\n")
    certificates = run(market_db, tmp_path, ticker="AAA,BBB", features="planted_here:crash", features_only=True)
    assert [certificate.verdict for certificate in certificates] == ["INCOMPLETE", "INCOMPLETE"]
    assert "exit code 3" in certificates[0].failures[0].note


@pytest.mark.thorough
def test_each_ticker_of_a_run_is_tried(market_db: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    """One run of several tickers has a truncation and the reads of each, in their order."""
    plant(tmp_path, monkeypatch, "def volume(bars):\n    return bars[['Volume']]\n")
    options = {"ticker": "AAA,BBB", "features": "planted_here:volume", "features_only": True}
    windows = {"train_years": 1, "val_months": 3, "test_months": 9}
    config = WalkForwardConfig(**SMALL, **windows, **options, db=str(market_db), output_dir=str(tmp_path))
    path = walk_forward(config, Silent()).files[-1]
    (certificate,) = certify_runs([path], Silent(), features="planted_here:volume", db=str(market_db))
    assert certificate.passed
    assert [truncation.ticker for truncation in certificate.truncations] == ["AAA", "BBB"]
    assert [read.ticker for read in certificate.reads] == ["AAA", "BBB"]


def test_paths_that_may_be_read(monkeypatch: Patch) -> None:
    """The option may be repeated, and may hold several paths."""
    seen: list[CertifyConfig] = []
    monkeypatch.setattr(
        "nextbar.workflows.certify.certify", lambda config, *_: seen.append(config) or Certified(certificates=[])
    )
    with pytest.raises(SystemExit) as stop:
        main(["certify", "rf", "--allow-reads", "a.csv, data", "--allow_reads", "b.csv", "--certify_seconds", "7"])
    assert stop.value.code == 0
    assert (seen[0].reads_allowed, seen[0].certify_seconds) == (["a.csv", "data", "b.csv"], 7)
    assert CertifyConfig().reads_allowed == []
    with pytest.raises(ConfigError, match="--certify-seconds expects at least 1"):
        CertifyConfig(certify_seconds=0)


def test_failure_comes_before_what_is_incomplete() -> None:
    """A stage that moved is reported first, whatever was not tried enough."""
    found = [
        Finding(part="truncation", stage="features", ticker="AAA", incomplete=True),
        Finding(part="inside test", stage="predictions", ticker="AAA", column="x", row="7"),
    ]
    certificate = Certificate(name="run", findings=found)
    assert certificate.verdict == "FAIL"
    assert certificate.failures == [found[1]]
    assert Certificate(name="run", findings=found[:1]).verdict == "INCOMPLETE"


def test_back_adjusted_prices_fail_the_rescaled_past(market_db: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    """Prices that a later split rescales know the future, and no change of later bars shows it but this one."""
    back = lambda prices, adj, _base: prices * (adj / prices[3])  # noqa: E731
    monkeypatch.setattr("nextbar.datasets.prices.adjust_forward", back)
    (certificate,) = run(market_db, tmp_path)
    assert {finding.part for finding in certificate.findings if not finding.passed} == {"rescaled past"}
    assert certificate.failures[0].stage == "features"


def test_first_failure_comes_first() -> None:
    """Failures are reported in the order of the stages, then of the borders; each ticker has one."""
    common = {"border": "2020-01-02", "way": "garbage", "column": "x", "row": "7"}
    found = [
        Finding(part="rescaled past", stage="predictions", ticker="AAA", **common),
        Finding(part="rescaled past", stage="scalers", ticker="all", **common),
        Finding(part="end of train", stage="scalers", ticker="all", **common),
    ]
    told = [(each.ticker, each.stage, each.part) for each in Certificate(name="run", findings=found).failures]
    assert told == [("all", "scalers", "end of train"), ("AAA", "predictions", "rescaled past")]


def test_quoted_prices_have_no_past_to_rescale(market_db: Path, tmp_path: Path) -> None:
    """With `--raw` nothing is adjusted, and the certificate does not claim to have tried."""
    (certificate,) = run(market_db, tmp_path, raw=True)
    assert certificate.passed
    assert "rescaled past" not in certificate.table()["features"]


def test_existing_artifact(market_db: Path, tmp_path: Path) -> None:
    """`--artifact` certifies the run on disk, wherever the database is now, and trains nothing new."""
    trained = train(TrainConfig(**SMALL, db=str(market_db), ticker="BBB", save_dir=str(tmp_path)), Silent())
    moved = Path(shutil.copy(market_db, tmp_path / "moved.db"))
    path = trained.runs[0].files[-1]
    (certificate,) = run(moved, tmp_path / "unused", artifact=str(path))
    assert certificate.passed
    assert certificate.path == path.with_name(path.name.replace("_metadata", "_certificate"))
    assert not (tmp_path / "unused").exists()
    with pytest.raises(ConfigError, match="nextbar certify xgb"):
        run(moved, tmp_path, artifact=str(path), model="rf")


def test_artifact_of_other_bits_is_not_certified(market_db: Path, tmp_path: Path) -> None:
    """A certificate speaks of the artifact: if training again gives another model, it fails."""
    path = (
        train(TrainConfig(**SMALL, db=str(market_db), ticker="BBB", save_dir=str(tmp_path)), Silent()).runs[0].files[-1]
    )
    document = json.loads(path.read_text())
    document["folds"][0]["tasks"][0]["digests"]["weights"] = "0" * 64
    path.write_text(json.dumps(document))
    (certificate,) = certify_runs([path], Silent(), db=str(market_db))
    assert [(finding.part, finding.column) for finding in certificate.failures] == [("artifact", "weights")]


def test_changed_bars_cannot_be_certified(market_db: Path, tmp_path: Path) -> None:
    """The day is named."""
    path = (
        train(TrainConfig(**SMALL, db=str(market_db), ticker="BBB", save_dir=str(tmp_path)), Silent()).runs[0].files[-1]
    )
    changed = Path(shutil.copy(market_db, tmp_path / "changed.db"))
    with sqlite3.connect(changed) as connection:
        connection.execute("UPDATE stock_prices SET volume = volume + 1 WHERE ticker = 'BBB' AND date = '2011-03-02'")
    connection.close()
    with pytest.raises(ArtifactError, match="BBB: bars changed: 2011-03-02"):
        certify_runs([path], Silent(), db=str(changed))


def test_walk_forward_is_certified(market_db: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    """Every fold, three of them in every way, a few at once; parameters of the first are used as they were."""
    config = WalkForwardConfig(
        model="xgb",
        db=str(market_db),
        ticker="AAA",
        output_dir=str(tmp_path),
        start="2010-10-11",
        warmup=60,
        train_years=1,
        val_months=2,
        test_months=1,
        step_months=1,
        n_iter=1,
        cv_splits=2,
    )
    result = walk_forward(config, Silent())
    (certificate,) = certify_runs([result.files[-1]], Silent(), at_once=4, db=str(market_db))
    assert certificate.passed
    assert certificate.path == tmp_path / f"{result.files[-1].stem}_certificate.json"
    tried = {(finding.border, finding.way) for finding in certificate.findings if finding.part == "end of train"}
    folds = len(result.document.folds)
    assert folds == 6
    assert len({border for border, _ in tried}) == folds
    assert len(tried) == 3 * len(WAYS) + folds - 3
    assert len([x for x in certificate.findings if (x.part, x.stage) == ("artifact", "run")]) == folds


@pytest.mark.thorough
def test_parameters_from_a_later_fold_fail(market_db: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    """What the last fold found best is not known to the first, though each fold by itself looks clean."""
    run_tasks = Loop.run
    monkeypatch.setattr(Loop, "run", lambda self, tasks: run_tasks(self, tasks[::-1]))
    options = {"model": "xgb", "db": str(market_db), "ticker": "AAA", "output_dir": str(tmp_path), "n_iter": 3}
    windows = {"cv_splits": 2, "train_years": 1, "val_months": 2, "test_months": 1, "step_months": 1}
    path = walk_forward(WalkForwardConfig(**options, **windows), Silent()).files[-1]
    (certificate,) = certify_runs([path], Silent(), db=str(market_db))
    assert [(x.part, x.stage, x.row) for x in certificate.failures] == [("artifact", "search", "AAA fold 0")]


@pytest.mark.thorough
def test_leak_in_one_fold_alone_is_caught(market_db: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    """A fold between those that are tried as a whole is tried too, and its failure is as plain."""
    make = samples.make_samples
    windows = {"train_years": 1, "val_months": 2, "test_months": 1, "step_months": 1}
    config = WalkForwardConfig(**SMALL, db=str(market_db), ticker="AAA", output_dir=str(tmp_path), **windows)
    second = np.datetime64(walk_forward(config, Silent()).document.folds[1].tasks[0].splits["AAA"].val.first)

    def leaking(table: Any, start: int, stop: int, *, purge: int) -> Any:
        leaks = stop < len(table.dates) and table.dates[stop] == second
        return make(table, start, stop + leaks, purge=purge)

    monkeypatch.setattr(samples, "make_samples", leaking)
    (certificate,) = certify_runs([walk_forward(config, Silent()).files[-1]], Silent(), db=str(market_db))
    first = certificate.failures[0]
    assert (first.stage, first.part, first.border) == ("train samples", "end of train", str(second))
    assert certificate.table()["run"]["end of train"] == "PASS"


def test_walk_forward_from_the_command_line(make_database: Any, make_bars: Any, tmp_path: Path) -> None:
    """`--walkforward` walks with the default windows and certifies the result."""
    db = make_database(tmp_path / "long.db", {"LONG": make_bars(1340, seed=9)})
    (certificate,) = run(db, tmp_path, walkforward=True, ticker="LONG")
    assert certificate.passed
    assert certificate.name.startswith("walkforward_xgb_LONG_")


def test_global_model_split_by_ticker_cannot_pass(
    market_db: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is trained for an answer that is known: the reason names `--split-by date`."""
    command = ["certify", "lstm", "--db", str(market_db), "--ticker", "AAA,^GSPC", "--save_dir", str(tmp_path / "none")]
    with pytest.raises(SystemExit) as stop:
        main([*command, "--sequence-length", "10"])
    assert stop.value.code == 1
    assert "--split-by date" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()


def test_skipped_tickers_are_told(market_db: Path, tmp_path: Path) -> None:
    """A ticker that cannot be trained is not silently left uncertified."""
    config = CertifyConfig(**SMALL, db=str(market_db), ticker="AAA,TINY", save_dir=str(tmp_path))
    certified = certify(config, Silent())
    assert [certificate.passed for certificate in certified.certificates] == [True]
    assert list(certified.skipped) == ["TINY"]


def test_broken_trial_does_not_pass(market_db: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    """A function that raises on some futures leaves the answer open, which is not a yes."""
    plant(
        tmp_path, monkeypatch, "def brittle(bars):\n    assert bars.Close.max() < 5000\n    return bars[['Volume']]\n"
    )
    (certificate,) = run(market_db, tmp_path, features="planted_here:brittle", features_only=True)
    assert not certificate.passed
    assert "AssertionError" in certificate.failures[0].note


def test_a_path_to_allow_that_is_not_there_is_refused_before_any_work(tmp_path, capsys) -> None:
    """A misspelled path would allow nothing: exit code 2 names it."""
    with pytest.raises(SystemExit) as stopped:
        main(["certify", "xgb", "--db", str(tmp_path / "none.db"), "--allow-reads", str(tmp_path / "typo.csv")])
    assert stopped.value.code == 2
    assert "typo.csv: there is no such file or folder" in capsys.readouterr().err
