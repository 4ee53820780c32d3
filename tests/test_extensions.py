"""What an extension may touch: a kind of model is its module and one line, a metric is one entry."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

import nextbar as nb
from nextbar.cli.main import main
from nextbar.cli.render import training_json, training_table
from nextbar.config import TrainConfig
from nextbar.models.registry import KINDS, Kind
from nextbar.reports.page import render_html, render_markdown
from nextbar.runs.ledger import Ledger
from nextbar.scoring.metrics import METRICS, Days, Metric, Rows
from nextbar.types import Silent
from nextbar.workflows.report import examine
from nextbar.workflows.train import train

MODULE = '''
"""Predict the share of the last days of train that rose."""

import json
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from nextbar.errors import ConfigError
from nextbar.models.base import Fitted, Model
from nextbar.models.reproducibility import digest_text


@dataclass(frozen=True, kw_only=True)
class FittedShare(Fitted):
    share: float

    def predict(self, table, rows):
        return self.share + np.sin(table.close[rows]) / 100

    def files(self):
        return {".share.json": json.dumps(self.share).encode()}

    @property
    def digests(self):
        return {"weights": digest_text(repr(self.share))}

    @property
    def facts(self):
        return {"share": self.share}


@dataclass(frozen=True, kw_only=True)
class Share(Model):
    kind: ClassVar[str] = "share"
    trusted: ClassVar[bool] = True
    days: int = 250

    def __post_init__(self):
        super().__post_init__()
        if self.days < 1:
            raise ConfigError("days expects at least 1")

    def fit(self, panel, request):
        (data,) = panel
        return FittedShare(share=float(data.train.y[-self.days :].mean()))

    def load(self, files, columns):
        return FittedShare(share=json.loads(files[".share.json"]))
'''
SEARCHING = """
@dataclass(frozen=True, kw_only=True)
class Searching(Share):
    kind: ClassVar[str] = "searching"

    @property
    def searches(self):
        return True

    @property
    def searches_once(self):
        return True

    def fit(self, panel, request):
        (data,) = panel
        best = request.params
        if best is None and request.search:
            best = {"days": np.int64(20 + data.train.y[-1] + 2 * data.train.y[-2])}
        fitted = FittedShare(share=float(data.train.y[-(best or {"days": 3})["days"]:].mean()))
        object.__setattr__(fitted, "params", best)
        return fitted
"""
WINDOWS = nb.Windows(train_years=1, val_months=3, test_months=4)
WALK = ("--train-years", "1", "--val-months", "3", "--test-months", "4", "--step-months", "4", "--warmup", "60")


@pytest.fixture
def bars(market_bars: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Two tickers in the market format."""
    return {name: market_bars[name].rename(columns={"Adj": "Adj Close"}) for name in ("AAA", "BBB")}


@pytest.fixture
def share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inline: Any) -> type[nb.Model]:
    """Kind of model in a module of its own, with its line in the registry; fits run in this process."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "share_kind.py").write_text(MODULE)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "share_kind", raising=False)
    line = Kind(label="moving_share", home="share_kind:Share", title="shares", about="Train a share per ticker.")
    monkeypatch.setitem(KINDS, "share", line)
    monkeypatch.chdir(tmp_path)
    return line.load()


def command(*arguments: object) -> None:
    """Run the command line in this process; it must succeed."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert not ended.value.code


def printed(table: Any) -> str:
    """Text of a table on a wide terminal."""
    console = Console(width=300)
    with console.capture() as caught:
        console.print(table)
    return caught.get()


def test_a_kind_of_model_is_its_module_and_one_line(share, bars, tmp_path) -> None:
    """It is trained, saved under its label, loaded without a word, certified, reproduced and compared."""
    run = nb.train(bars, share(days=100), warmup=60)
    files = run.save("models")
    assert {path.name.split("_2")[0] for path in files} == {"moving_share_AAA", "moving_share_BBB"}
    old = nb.load_run(files[0])
    assert old.own_model() == share(days=100)
    assert old.document.fits[0][1].details["share"] == run.model("AAA").fitted.share
    pd.testing.assert_frame_equal(
        old.model().predict(bars["AAA"]), run.model("AAA").predict(bars["AAA"]), check_exact=True
    )
    assert nb.certify(old, bars, seconds=60).passed
    assert nb.reproduce(old, bars).identical
    wf = nb.walk_forward(bars, share(), windows=WINDOWS, warmup=60)
    assert nb.certify(wf, bars, seconds=60).passed
    assert nb.reproduce(wf, bars).identical
    wf.save("results")
    other = nb.walk_forward(bars, nb.XGBoost(no_tune=True), windows=WINDOWS, warmup=60)
    assert list(nb.compare([wf, other]).index[:2]) == [wf.stem or "share", "xgb"]
    for suffix in (".html", ".md", ".json"):
        assert "share" in nb.report([wf, other], tmp_path / f"page{suffix}").read_text()
    assert "share" in wf._repr_html_()


def test_a_model_is_handed_nothing_of_test(share, bars, inline) -> None:
    """Neither rows of test nor a bar from its first day on, in a training run and in each fold of a walk-forward."""
    seen = []

    class Curious(share):
        kind: ClassVar[str] = "curious"

        def fit(self, panel: Any, request: Any) -> Any:
            (data,) = panel
            seen.append((data.table.ticker, data.table.dates[-1], len(data.table.close), len(data.test.rows)))
            return super().fit(panel, request)

    runs = nb.train(bars, Curious(), warmup=60), nb.walk_forward(bars, Curious(), windows=WINDOWS, warmup=60)
    begins = [
        (ticker, np.datetime64(part.test.first))
        for run in runs
        for _, fit in run.document.fits
        for ticker, part in fit.splits.items()
    ]
    assert len(begins) == len(seen) > 4
    for (ticker, last, rows, tested), (name, first) in zip(sorted(seen), sorted(begins), strict=True):
        assert ticker == name
        assert last < first
        assert rows == int(np.searchsorted(bars[ticker].index.to_numpy(), first))
        assert tested == 0


def test_a_model_that_searches_is_run_again_as_it_was(share, bars, tmp_path) -> None:
    """Its parameters are recorded, and whether it searched: a later fold of a walk-forward uses those of the first."""
    path = tmp_path / "code" / "searching_kind.py"
    path.write_text(MODULE + SEARCHING)
    model = importlib.import_module("searching_kind").Searching()
    for run in (nb.train(bars, model, warmup=60), nb.walk_forward(bars, model, windows=WINDOWS, warmup=60)):
        run.save(tmp_path / "saved")
        first, *later = [(fit.has_searched, fit.chosen) for _, fit in run.document.fits if fit.name == "AAA"]
        assert first[0]
        assert first[1]["days"] >= 20
        assert all(one == (False, first[1]) for one in later)
        assert nb.reproduce(run, bars).identical
    assert later
    assert nb.certify(run, {"AAA": bars["AAA"], "BBB": bars["BBB"]}).passed
    for path in (tmp_path / "saved").glob("*_metadata.json"):
        assert nb.reproduce(nb.load_run(path), bars, model=model).identical


def test_a_registered_kind_has_commands(share, market_db, tmp_path, child_env) -> None:
    """A fresh process that registers the kind trains and certifies it in worker processes."""
    register = "KINDS['share'] = Kind(label='moving_share', home='share_kind:Share', title='shares', about='Train it.')"
    code = f"from nextbar.models.registry import KINDS, Kind; {register}; from nextbar.cli.main import main; main()"
    options = ["--db", str(market_db), "--ticker", "AAA", "--warmup", "60", "--certify-seconds", "60"]
    ended = subprocess.run(
        [sys.executable, "-c", code, "certify", "share", *options],
        capture_output=True,
        text=True,
        env={**child_env, "PYTHONPATH": os.pathsep.join([str(tmp_path / "code"), *sys.path])},
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "PASS" in ended.stdout
    assert list(Path("models").glob("moving_share_AAA_*_certificate.json"))


def test_the_commands_know_a_new_kind(share, market_db, capsys) -> None:
    """Its runs stand in tables, in JSON and in the list of runs; they are reproduced and predicted from."""
    config = TrainConfig(model="share", db=str(market_db), ticker="AAA", warmup=60, ledger="ledger.db")
    summary = train(config, Silent())
    assert "share" in printed(training_table(summary.runs))
    assert json.loads(json.dumps(training_json(summary)))["runs"][0]["model"] == "share"
    mark = summary.runs[0].mark
    command("walkforward", "--model", "share", "--db", market_db, "--ticker", "AAA,BBB", *WALK, "--ledger", "ledger.db")
    assert "share" in capsys.readouterr().out
    command("walkforward", "--model", "share", "--db", market_db, "--ticker", "AAA", *WALK, "--no-report", "--json")
    assert '"share"' in capsys.readouterr().out
    assert list(Path("results").glob("walkforward_share_2tickers_*_report.html"))
    command("runs", "--json")
    assert {run["model"] for run in json.loads(capsys.readouterr().out)} == {"share"}
    command("reproduce", mark, "--db", market_db)
    command("predict", mark, "--db", market_db, "--max-age-days", 99999, "--journal", "journal.db")
    assert "AAA" in capsys.readouterr().out


def test_a_metric_is_one_entry(bars, inline, tmp_path, monkeypatch) -> None:
    """It is among the figures of a run and of each baseline, in tables, JSON, page and comparison."""
    worst = Metric("worst_day", Days, lambda days: days.net.min(), label="worst day", digits=None)
    right = Metric("right_days", Rows, lambda rows: (rows.truth == rows.predicted).sum(), label="right days", digits=0)
    for metric in (worst, right):
        monkeypatch.setitem(METRICS, metric.name, metric)
    model = nb.XGBoost(no_tune=True)
    one, two = (nb.train(bars, model, warmup=60, seed=seed) for seed in (1, 2))
    assert one.figures.loc["model", "worst_day"] == one.book.model.net.min()
    assert {"worst_day", "right_days"} <= set(one.figures.columns)
    assert one.figures.loc["always_long", ["worst_day", "right_days"]].notna().all()
    table = nb.compare([one, two])
    np.testing.assert_array_equal(table.iloc[:2]["worst_day"], [run.book.model.net.min() for run in (one, two)])
    assert table.loc["always_long", "worst_day"] == one.figures.loc["always_long", "worst_day"]
    facts = examine([one], Ledger(tmp_path / "ledger.db"), Silent())
    texts = [printed(training_table([one])), render_html(facts), render_markdown(facts)]
    for text in texts:
        assert "worst day" in text
        assert "right days" in text
        assert f"{100 * one.figures.loc['model', 'worst_day']:.1f} %" in text
    assert "worst_day" in json.loads(nb.report(one, tmp_path / "page.json").read_text())["runs"][0]["table"][0]


def test_a_file_cannot_bring_a_kind(share, bars, tmp_path, monkeypatch) -> None:
    """Without its line in the registry a saved run of that kind is unknown, and its files are left alone."""
    run = nb.train({"AAA": bars["AAA"]}, share(), warmup=60)
    path = run.save(tmp_path / "models")[0]
    monkeypatch.delitem(KINDS, "share")
    with pytest.raises(nb.errors.ArtifactError):
        nb.load_run(path)
    renamed = tmp_path / "estimator_share_AAA_20260101_000000_metadata.json"
    shutil.copy(path.with_name(f"{run_stem(path)}_metadata.json"), renamed)
    with pytest.raises(nb.errors.ArtifactError, match="your own model share"):
        nb.load_run(renamed).model("AAA")


def run_stem(path: Path) -> str:
    """Stem of a file of a run."""
    return path.name.partition(".")[0]
