"""From files of runs to pages, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from nextbar.artifacts.ledger import Ledger
from nextbar.artifacts.runs import find_runs, load_run
from nextbar.cli.main import main
from nextbar.config import TrainConfig, WalkForwardConfig
from nextbar.errors import ArtifactError
from nextbar.evaluation.daily import DailySeries
from nextbar.pipelines.train import train
from nextbar.pipelines.trials import on_days_of, trial_id
from nextbar.pipelines.walkforward import walk_forward
from nextbar.types import Silent

WINDOWS = ["--train-years", "1", "--val-months", "4", "--test-months", "4", "--step-months", "4"]


def run(*arguments: str) -> int:
    """The command line in this process; its exit code."""
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    return int(stopped.value.code or 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_bars, make_database, inline_module) -> Path:
    """A folder with a database, a ledger, and what a walk-forward command of one booster left."""
    home = tmp_path_factory.mktemp("home")
    make_database(home / "market.db", {"AAA": make_bars(760, seed=1), "BBB": make_bars(760, seed=2)})
    assert run("walkforward", "--model", "xgb", "--tune", "none", *WINDOWS, *places(home)) == 0
    return home


def places(home: Path, results: str = "results") -> list[str]:
    return [
        "--db",
        str(home / "market.db"),
        "--ledger",
        str(home / "ledger.db"),
        "--output-dir",
        str(home / results),
    ]


def test_a_walk_forward_leaves_its_report(folder: Path) -> None:
    """Three twins with the same verdict beside the result."""
    (page,) = (folder / "results").glob("*_report.html")
    document = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    verdict = document["runs"][0]["verdict"]["verdict"]
    assert verdict in page.read_text(encoding="utf-8")
    assert verdict in page.with_suffix(".md").read_text(encoding="utf-8")
    assert load_run(page).stem + "_report" == page.stem


def test_no_report_writes_none(folder: Path, inline_module, capsys) -> None:
    """The option is obeyed, and an identical rerun in another folder is not another trial."""
    arguments = [*WINDOWS, *places(folder, "again"), "--tune", "none", "--no-report", "--json"]
    assert run("walkforward", "--model", "xgb", *arguments) == 0
    assert not list((folder / "again").glob("*_report*"))
    assert json.loads(capsys.readouterr().out)[0]["verdict"] is None
    assert len(Ledger(folder / "ledger.db").trials()) == 1


def test_runs_are_listed(folder: Path, capsys) -> None:
    """As JSON with figures and no certificate; a folder that is not there holds none; as a table too."""
    assert run("runs", str(folder / "results"), str(folder / "nowhere"), "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["model"], found["tickers"]) == ("walkforward", "xgb", ["AAA", "BBB"])
    assert found["certified"] is None
    assert run("runs", str(folder / "results")) == 0
    assert found["name"].split("_")[0] in capsys.readouterr().out


def test_the_ledger_is_listed(folder: Path, capsys) -> None:
    """By ticker too."""
    assert run("ledger", "--ledger", str(folder / "ledger.db"), "--ticker", "AAA", "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["model"], found["tickers"]) == ("xgb", ["AAA", "BBB"])
    assert run("ledger", "--ledger", str(folder / "ledger.db"), "--ticker", "ZZZ", "--json") == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_report_of_what_is_no_run_is_refused(folder: Path, capsys) -> None:
    """Exit code 2 and one line."""
    assert run("report", str(folder / "market.db")) == 2
    assert "expected a file of a run" in capsys.readouterr().err


def test_a_run_without_its_rows_is_refused(folder: Path, tmp_path: Path) -> None:
    """The message names the missing file."""
    (source,) = find_runs([folder / "results"])
    copy = tmp_path / source.sibling(".json").name
    copy.write_bytes(source.sibling(".json").read_bytes())
    with pytest.raises(ArtifactError, match=r"\.parquet"):
        load_run(copy).rows()


def test_another_configuration_is_another_trial(folder: Path, inline_module) -> None:
    """A training run with another seed counts; the same one on one of its tickers does not."""
    ledger = folder / "other.db"
    common = {"db": str(folder / "market.db"), "ledger": str(ledger), "no_tune": True, "save_dir": str(folder / "m")}
    for seed, ticker in ((1, "AAA,BBB"), (1, "AAA"), (2, "AAA")):
        train(TrainConfig(**common, model="xgb", seed=seed, ticker=ticker), Silent())
    found = {trial.config["seed"]: sorted(trial.returns) for trial in Ledger(ledger).trials()}
    assert found == {1: ["AAA", "BBB"], 2: ["AAA"]}


def test_the_ledger_holds_what_was_earned(folder: Path) -> None:
    """Daily returns per ticker are the strategy returns of the rows."""
    (source,) = find_runs([folder / "results"])
    rows = source.rows()
    (trial,) = Ledger(folder / "ledger.db").trials()
    assert trial.id == source.document["trial"]
    expected = rows[rows["ticker"] == "AAA"].sort_values("date")["strategy_return"].to_numpy()
    assert trial.returns["AAA"]["net"].to_numpy() == pytest.approx(expected, abs=1e-7)


def test_an_unusable_ledger_stops_a_run_before_it_trains(folder: Path, tmp_path: Path, inline_module) -> None:
    """Hours are not lost at the end."""
    config = WalkForwardConfig(db=str(folder / "market.db"), model="xgb", output_dir=str(tmp_path), ledger=__file__)
    inline_module.ran.clear()
    with pytest.raises(ArtifactError, match="--ledger"):
        walk_forward(config, Silent())
    assert inline_module.ran == []


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({"seed": 7}, False),
        ({"cost_bps": 1.0}, False),
        ({"start": "2012-01-01"}, False),
        ({"jobs": 3, "engine": "serial", "save_dir": "elsewhere", "db": "other.db", "ledger": "x"}, True),
        ({"ticker": "AAPL"}, True),
        ({"epochs": 7}, True),
    ],
)
def test_what_makes_another_configuration(changed: dict, same: bool) -> None:
    """Choices that change a tree's result do; places, processes, the list of tickers and an LSTM's options do not."""
    assert (trial_id(TrainConfig(model="rf", **changed), "rf") == trial_id(TrainConfig(model="rf"), "rf")) is same


def test_an_lstm_of_other_tickers_is_another_model() -> None:
    """It is trained on all of them together."""
    one, other = (TrainConfig(model="lstm", ticker=ticker) for ticker in ("ALL", "AAPL"))
    assert trial_id(one, "lstm") != trial_id(other, "lstm")


def test_days_that_a_trial_lacks_are_those_of_the_result() -> None:
    """A trial is the mean of its tickers where it has days, and this result elsewhere."""
    import numpy as np

    from nextbar.artifacts.ledger import Trial

    days = np.array(["2020-01-01", "2020-01-02", "2020-01-03"], dtype="datetime64[D]")
    daily = DailySeries(
        dates=days,
        net=np.array([0.1, 0.2, 0.3]),
        baselines={"constant_exposure": np.zeros(3)},
        counts=np.zeros((3, 4)),
    )

    def frame(values: list[float], start: int) -> pd.DataFrame:
        index = pd.DatetimeIndex(days[start : start + len(values)])
        return pd.DataFrame({"net": values, "excess": values}, index=index)

    trial = Trial(
        id="x", kind="train", model="rf", config={}, returns={"A": frame([1.0, 3.0], 0), "B": frame([5.0], 1)}
    )
    net, excess = on_days_of(daily, [trial])
    assert net[:, 0].tolist() == excess[:, 0].tolist() == [1.0, 4.0, 0.3]


def test_a_damaged_result_is_refused(folder: Path, tmp_path: Path, capsys) -> None:
    """A result that lacks a part is told as one line, not as a traceback."""
    (source,) = find_runs([folder / "results"])
    document = {name: value for name, value in source.document.items() if name != "per_ticker"}
    (tmp_path / source.mark.name).write_text(json.dumps(document), encoding="utf-8")
    rows = source.sibling(".parquet")
    (tmp_path / rows.name).write_bytes(rows.read_bytes())
    assert run("report", str(tmp_path / rows.name)) == 2
    assert "'per_ticker'" in capsys.readouterr().err
