"""From files of runs to pages, through the command line."""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nextbar.artifacts.ledger import Ledger, Trial
from nextbar.artifacts.runs import find_marks, load_run
from nextbar.cli.main import main
from nextbar.config import TrainConfig, WalkForwardConfig
from nextbar.errors import ArtifactError
from nextbar.evaluation.daily import DailySeries
from nextbar.pipelines.report import report
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
    """As JSON with figures and no certificate, and as a table; a named folder that is not there is an error."""
    assert run("runs", str(folder / "results"), "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["model"], found["tickers"]) == ("walkforward", "xgb", ["AAA", "BBB"])
    assert found["certified"] is None
    assert run("runs", str(folder / "results")) == 0
    assert found["name"].split("_")[0] in capsys.readouterr().out
    assert run("runs", str(folder / "results"), str(folder / "nowhere")) == 2
    assert re.search(r"nowhere: expected a folder", capsys.readouterr().err)


def test_a_named_ledger_must_be_there_to_be_listed(tmp_path: Path, capsys) -> None:
    """A mistyped path is an error, and no file is made of it."""
    assert run("ledger", "--ledger", str(tmp_path / "none.db")) == 2
    assert "there is no such ledger" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damaged", [b"{", b"{}", b"[]", b'{"schema_version": 1, "created": "2026"}'])
def test_a_damaged_run_does_not_hide_the_others(folder: Path, capsys, damaged: bytes) -> None:
    """It is named with its fault; the exit code is that of a list."""
    mark = folder / "results" / "walkforward_rf_all_20200101_000000.json"
    mark.write_bytes(damaged)
    try:
        assert run("runs", str(folder / "results"), "--json") == 0
    finally:
        mark.unlink()
    told = capsys.readouterr()
    assert [found["model"] for found in json.loads(told.out)] == ["xgb"]
    assert re.match(rf"left out: {re.escape(str(mark))}\b.+\n", told.err)


def test_a_certificate_speaks_of_these_bytes(folder: Path, tmp_path: Path) -> None:
    """A run that was changed since is not certified any more."""
    (source,) = map(load_run, find_marks([folder / "results"]))
    mark = tmp_path / source.mark.name
    mark.write_bytes(source.mark.read_bytes())
    assert load_run(mark).certified() is None
    digest = hashlib.sha256(mark.read_bytes()).hexdigest()
    head = {"schema_version": source.document["schema_version"], "verdict": "PASS", "certifies": {mark.name: digest}}
    load_run(mark).sibling("_certificate.json").write_text(json.dumps(head), encoding="utf-8")
    assert load_run(mark).certified() is True
    mark.write_text(json.dumps({**source.document, "seed": 7}), encoding="utf-8")
    assert load_run(mark).certified() is False


def test_changed_rows_are_not_judged(folder: Path, tmp_path: Path) -> None:
    """A page is not made of rows that are not those that the run wrote."""
    (source,) = map(load_run, find_marks([folder / "results"]))
    for path in (source.mark, source.sibling(".parquet")):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    copy = load_run(tmp_path / source.mark.name)
    copy.rows().assign(signal=1).to_parquet(copy.sibling(".parquet"))
    with pytest.raises(ArtifactError, match="was changed"):
        report([copy.mark], Silent(), ledger=str(tmp_path / "l.db"))
    assert not list(tmp_path.glob("*_report.*"))


def test_comparisons_have_names_of_their_own(folder: Path, inline_module) -> None:
    """Comparing a run with one and then with another leaves both pages."""
    (first,) = map(load_run, find_marks([folder / "results"]))
    common = {"db": str(folder / "market.db"), "ledger": str(folder / "n.db"), "no_tune": True}
    trained = train(TrainConfig(**common, model="xgb", save_dir=str(folder / "named")), Silent())
    others = [one.files[-1] for one in trained.runs]
    pages = {report([first.mark, other], Silent(), ledger=str(folder / "n.db")).files[-1] for other in others}
    assert len(pages) == 2


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
    (source,) = map(load_run, find_marks([folder / "results"]))
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


def test_a_look_at_an_uncounted_run_adds_its_days(folder: Path, tmp_path: Path, inline_module) -> None:
    """The configuration is known from another ticker; a report of a run that did not count stores its days too."""
    ledger = str(tmp_path / "ledger.db")
    common = {"db": str(folder / "market.db"), "ledger": ledger, "no_tune": True, "save_dir": str(tmp_path)}
    train(TrainConfig(**common, model="xgb", ticker="AAA"), Silent())
    looked = train(TrainConfig(**common, model="xgb", ticker="BBB"), Silent(), counts=False)
    report([looked.runs[0].files[-1]], Silent(), ledger=ledger)
    assert [sorted(trial.returns) for trial in Ledger(ledger).trials()] == [["AAA", "BBB"]]


def test_the_ledger_holds_what_was_earned(folder: Path) -> None:
    """Daily returns per ticker are the strategy returns of the rows."""
    (source,) = map(load_run, find_marks([folder / "results"]))
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


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"model": "rf"}, {"model": "rf", "search": "random"}, True),
        ({"model": "rf", "fast": True}, {"model": "rf", "fast": True, "search": "halving"}, True),
        ({"model": "rf", "fast": True}, {"model": "rf", "search": "halving"}, False),
        ({"model": "rf"}, {"model": "rf", "n_iter": 3}, False),
        ({"model": "rf"}, {"model": "rf", "no_tune": True}, False),
        ({"model": "rf", "no_tune": True}, {"model": "rf", "no_tune": True, "n_iter": 3, "fast": True}, True),
        ({"model": "lstm"}, {"model": "lstm", "no_tune": True, "cv_splits": 3}, True),
        ({"model": "lstm", "ticker": "A,B"}, {"model": "lstm", "ticker": "B, A,B"}, True),
        (
            {"model": "lstm", "ticker": "A,B", "max_tickers": 1},
            {"model": "lstm", "ticker": "B,A", "max_tickers": 1},
            False,
        ),
        ({"model": "rf", "split_by": "date"}, {"model": "rf", "split_by": "date", "ticker": "A"}, False),
    ],
)
def test_one_configuration_has_one_name(one: dict, other: dict, same: bool) -> None:
    """However it is asked for; what changes the result makes another, such as tickers that share a date of split."""
    found = [trial_id(TrainConfig(**options), options["model"]) for options in (one, other)]
    assert (found[0] == found[1]) is same


def test_a_walk_forward_without_search_has_one_name() -> None:
    """`--tune none` is `--no-tune`."""
    none, no = WalkForwardConfig(model="rf", tune="none"), WalkForwardConfig(model="rf", no_tune=True, n_iter=3)
    assert trial_id(none, "rf") == trial_id(no, "rf") != trial_id(WalkForwardConfig(model="rf"), "rf")


def test_an_earlier_ticker_moves_every_window(make_bars, make_database, tmp_path: Path, inline_module) -> None:
    """Folds begin with the earliest ticker, so a ticker walked beside an earlier one is another trial."""
    bars = {"OLD": make_bars(760, seed=1), "NEW": make_bars(640, seed=2, start="2012-06-01")}
    common = {"db": str(make_database(tmp_path / "market.db", bars)), "ledger": str(tmp_path / "ledger.db")}
    windows = {"train_years": 1, "val_months": 4, "test_months": 4, "step_months": 4}
    found = {
        ticker: walk_forward(
            WalkForwardConfig(
                **common, **windows, model="xgb", no_tune=True, ticker=ticker, output_dir=str(tmp_path / ticker)
            ),
            Silent(),
        ).document["trial"]
        for ticker in ("OLD,NEW", "OLD", "NEW")
    }
    assert found["OLD,NEW"] == found["OLD"] != found["NEW"]


def test_days_that_a_trial_lacks_are_those_of_the_result() -> None:
    """A trial is the mean of its tickers where it has days, and this result elsewhere."""
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
    net, sharpes = on_days_of(daily, [trial])
    assert net[:, 0].tolist() == [1.0, 4.0, 0.3]
    assert sharpes == pytest.approx([2.5 / np.std([1.0, 4.0], ddof=1) * math.sqrt(2 / 3)])


@pytest.mark.parametrize("share", [1.0, 0.5, 0.1])
def test_sharpe_ratios_of_short_trials_scatter_as_on_all_days(share: float) -> None:
    """Tries without skill scatter by 1 / √days whatever part of the days they cover, so they deflate as much."""
    days, generator = np.datetime64("2020-01-01") + np.arange(500), np.random.default_rng(0)
    nothing = np.zeros(500)
    daily = DailySeries(dates=days, net=nothing, baselines={"constant_exposure": nothing}, counts=np.zeros((500, 4)))
    index = pd.DatetimeIndex(days[: int(share * 500)])
    trials = [
        Trial(
            id=str(number),
            kind="train",
            model="rf",
            config={},
            returns={"A": pd.DataFrame(values, index, ["net", "excess"])},
        )
        for number, values in enumerate(generator.standard_normal((200, len(index), 2)))
    ]
    _, sharpes = on_days_of(daily, trials)
    assert sharpes.std() == pytest.approx(1 / math.sqrt(500), rel=0.15)


def test_a_damaged_result_is_refused(folder: Path, tmp_path: Path, capsys) -> None:
    """A result that lacks a part is told as one line, not as a traceback."""
    (source,) = map(load_run, find_marks([folder / "results"]))
    document = {name: value for name, value in source.document.items() if name != "per_ticker"}
    (tmp_path / source.mark.name).write_text(json.dumps(document), encoding="utf-8")
    rows = source.sibling(".parquet")
    (tmp_path / rows.name).write_bytes(rows.read_bytes())
    assert run("report", str(tmp_path / rows.name)) == 2
    assert "'per_ticker'" in capsys.readouterr().err
