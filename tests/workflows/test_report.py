"""From files of runs to pages, through the command line."""

from __future__ import annotations

import hashlib
import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nextbar.cli.main import main
from nextbar.config import TrainConfig, WalkForwardConfig
from nextbar.errors import ArtifactError
from nextbar.evaluation.series import Book, Terms
from nextbar.reports.facts import RunFacts
from nextbar.reports.page import render_html
from nextbar.runs.document import Document
from nextbar.runs.ledger import Ledger
from nextbar.runs.load import find_marks, load_run
from nextbar.runs.trial import _settled, trial_of
from nextbar.types import Silent
from nextbar.workflows.report import report
from nextbar.workflows.train import train
from nextbar.workflows.verdict import other_trials
from nextbar.workflows.walkforward import walk_forward

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


def test_trades_are_written_where_asked(folder: Path, tmp_path: Path, inline_module, capsys) -> None:
    """A report and a walk-forward write the same trades: those of the run; a place that cannot be is told at once."""
    mark = next(path for path in (folder / "results").glob("walkforward_*.json") if "_report" not in path.name)
    assert run("report", str(mark), "--ledger", str(tmp_path / "l.db"), "--trades", str(tmp_path / "report.csv")) == 0
    trades = pd.read_csv(tmp_path / "report.csv", parse_dates=["entry", "exit"])
    assert list(trades) == ["run", "ticker", "entry", "exit", "days", "position", "return", "cost"]
    assert set(trades["run"]) == {mark.stem}
    own = load_run(mark)
    seconds = {"entry": "datetime64[s]", "exit": "datetime64[s]"}
    pd.testing.assert_frame_equal(
        trades.drop(columns="run").astype(seconds), own.trades.astype(seconds), check_dtype=False
    )
    assert trades["exit"].notna().sum() == own.document.pooled["round_trips"]
    again = [*places(folder, "again"), "--trades", str(tmp_path / "walk.csv"), "--no-report"]
    assert run("walkforward", "--model", "xgb", "--tune", "none", *WINDOWS, *again) == 0
    walked = pd.read_csv(tmp_path / "walk.csv", parse_dates=["entry", "exit"])
    pd.testing.assert_frame_equal(walked.drop(columns="run"), trades.drop(columns="run"))
    for bad in (tmp_path / "nowhere" / "trades.csv", tmp_path):
        inline_module.ran.clear()
        capsys.readouterr()
        assert run("report", str(mark), "--trades", str(bad)) == 2
        assert run("walkforward", "--model", "xgb", *places(folder, "again"), "--trades", str(bad)) == 2
        told = capsys.readouterr()
        assert told.err.count("expected a file in a folder that exists") == 2
        assert not inline_module.ran


def test_a_page_has_a_table_by_year(folder: Path) -> None:
    """Each calendar year of the test days is a row of the page, its Markdown and its JSON; hit rates are by ticker."""
    (page,) = (folder / "results").glob("*_report.html")
    (facts,) = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))["runs"]
    years = [row["year"] for row in facts["by_year"]]
    assert years == sorted(set(load_run(page).rows["date"].dt.year.astype(str)))
    for text in (page.read_text(encoding="utf-8"), page.with_suffix(".md").read_text(encoding="utf-8")):
        assert all(name in text for name in (*years, "hit rate", "rank IC", "Sortino", "Calmar", "MCC", "log loss"))


def test_files_of_one_run_are_one_run(folder: Path, capsys) -> None:
    """A pattern that takes a report beside its result makes a page of one run; the report alone leads to it."""
    marks = [str(path) for path in sorted((folder / "results").glob("walkforward_*.json"))]
    (twin,) = [mark for mark in marks if mark.endswith("_report.json")]
    assert len(marks) == 2
    for named in (marks, [twin], [*marks, str(folder / "results" / ".." / "results" / Path(marks[0]).name)]):
        assert run("report", *named, "--ledger", str(folder / "twins.db"), "--json") == 0
        told = json.loads(capsys.readouterr().out)
        assert [one["name"] for one in told["runs"]] == [load_run(marks[0]).stem]
        assert load_run(told["files"][0]).stem + "_report.json" == Path(told["files"][0]).name
    assert run("runs", str(folder / "results"), str(folder / "results" / ".." / "results"), "--json") == 0
    assert len(json.loads(capsys.readouterr().out)) == 1


def test_the_terminal_says_what_the_page_says(folder: Path, capsys) -> None:
    """The verdict with its interval, the smallest effect that could be shown, directions, tries and survivorship."""
    (mark,) = find_marks([folder / "results"])
    assert run("report", str(mark), "--ledger", str(folder / "told.db")) == 0
    told = " ".join(capsys.readouterr().out.split())
    for said in ("(95 % interval", "The smallest excess that these days would show", "Directions are"):
        assert said in told
    for said in ("only try recorded", "Survivorship of the tickers was not checked"):
        assert said in told


def test_what_is_worth_trading_is_the_users_choice(folder: Path, capsys) -> None:
    """The same record is NO EDGE for who wants a fortune; a share that is none is refused."""
    (mark,) = find_marks([folder / "results"])
    found = []
    for worth in ("0", "0.99"):
        assert run("report", str(mark), "--ledger", str(folder / "worth.db"), "--worth", worth, "--json") == 0
        (judged,) = json.loads(capsys.readouterr().out)["runs"]
        assert judged["worth"] == float(worth)
        found.append((judged["verdict"], judged["excess"]["high"]))
    assert [verdict for verdict, _ in found] == ["NO EDGE" if found[0][1] < 0 else "INCONCLUSIVE", "NO EDGE"]
    for worth in ("nan", "-0.1", "2"):
        assert run("report", str(mark), "--worth", worth) == 2
        assert (
            f"--worth expects a fraction a year from 0 to 1, such as 0.02 for 2 %, got {float(worth)}"
            in capsys.readouterr().err
        )


def test_tickers_scored_together_are_tries(folder: Path, tmp_path: Path, inline_module) -> None:
    """A verdict on one ticker of a run of forty is a verdict on one of forty tries."""
    common = {"db": str(folder / "market.db"), "ledger": str(tmp_path / "l.db"), "no_tune": True}
    trained = train(TrainConfig(**common, model="xgb", ticker="AAA", save_dir=str(tmp_path)), Silent())
    mark = trained.runs[0].files[-1]
    document = json.loads(mark.read_text(encoding="utf-8"))
    for tickers in (1, 40):
        mark.write_text(json.dumps({**document, "run": {"id": "x", "tickers": tickers}}), encoding="utf-8")
        (found,) = report([mark], Silent(), ledger=common["ledger"]).runs
        assert found.judgement.tries.count == tickers


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
    assert (found["certified"], found["label"]) == (None, "xgb")
    assert run("runs", str(folder / "results")) == 0
    assert found["name"].split("_")[0] in capsys.readouterr().out
    assert run("runs", str(folder / "results"), str(folder / "nowhere")) == 2
    assert re.search(r"nowhere: expected a folder", capsys.readouterr().err)


def test_listing_makes_no_ledger(tmp_path: Path, capsys, monkeypatch) -> None:
    """A mistyped path is an error; the user's own ledger is empty before the first run; no file is made of either."""
    assert run("ledger", "--ledger", str(tmp_path / "none.db")) == 2
    assert "there is no such trial ledger" in capsys.readouterr().err
    monkeypatch.setenv("NEXTBAR_LEDGER", str(tmp_path / "state" / "ledger.db"))
    assert run("ledger", "--json") == 0
    told = capsys.readouterr()
    assert json.loads(told.out) == []
    assert told.err.startswith(f"there is no trial ledger {tmp_path / 'state' / 'ledger.db'}; it counts as empty")
    assert run("ledger") == 0
    assert capsys.readouterr().out.startswith("no trial in ")
    assert run("ledger", "--ticker", "AAA") == 0
    assert capsys.readouterr().out.startswith("no trial of AAA in ")
    assert run("holdout", "list") == 0
    assert capsys.readouterr().out.startswith("no run of ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "damaged",
    [b"{", b"{}", b"[]", b'{"schema_version": 1, "created": "2026"}'],
    ids=["cut", "empty", "list", "incomplete"],
)
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
    assert load_run(mark).certificate() is None
    digest = hashlib.sha256(mark.read_bytes()).hexdigest()
    head = {"schema_version": 2, "verdict": "PASS", "certifies": {mark.name: digest}}
    load_run(mark).sibling("_certificate.json").write_text(json.dumps(head), encoding="utf-8")
    assert load_run(mark).certificate().verdict == "PASS"
    mark.write_text(json.dumps(json.loads(mark.read_text()) | {"seed": 7}), encoding="utf-8")
    assert load_run(mark).certificate().verdict == ""


CHECKED = (
    "Certificate: PASS; reads of the feature functions checked "
    "(allowed: rates.csv; reads without an event not looked for)."
)


@pytest.mark.parametrize(
    ("own", "changes", "told"),
    [
        (False, {}, "Certificate: PASS."),
        (True, {}, "Certificate: PASS; reads of the feature functions not checked."),
        (
            True,
            {"reads": [{"ticker": "AAA", "without_descriptors": True}]},
            "Certificate: PASS; reads of the feature functions checked.",
        ),
        (
            True,
            {"reads": [{"ticker": "AAA"}], "allow_reads": ["rates.csv"]},
            CHECKED,
        ),
        (False, {"certifies": {}}, "The certificate beside it is about other files."),
    ],
    ids=["built-in features", "not checked", "checked", "allowed", "other files"],
)
def test_a_page_says_what_is_certified(folder: Path, tmp_path: Path, own, changes, told) -> None:
    """The verdict, and for functions of the user's own whether their reads were checked."""
    (source,) = map(load_run, find_marks([folder / "results"]))
    for path in source.files:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    mark = tmp_path / source.mark.name
    document = json.loads(mark.read_text(encoding="utf-8"))
    document["features"]["function"] = "mine:columns" if own else None
    mark.write_text(json.dumps(document), encoding="utf-8")
    digest = hashlib.sha256(mark.read_bytes()).hexdigest()
    head = {"schema_version": 2, "verdict": "PASS", "certifies": {mark.name: digest}} | changes
    load_run(mark).sibling("_certificate.json").write_text(json.dumps(head), encoding="utf-8")
    facts = RunFacts(load_run(mark), draws=20)
    assert facts.certificate == told
    assert told in render_html([facts])
    assert told in render_html([facts, facts])


def test_changed_rows_are_not_judged(folder: Path, tmp_path: Path) -> None:
    """A page is not made of rows that are not those that the run wrote."""
    (source,) = map(load_run, find_marks([folder / "results"]))
    for path in (source.mark, source.sibling(".parquet")):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    copy = load_run(tmp_path / source.mark.name)
    copy.rows.assign(signal=1).to_parquet(copy.sibling(".parquet"))
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
    """One row per trial, with what tells it from others; by ticker too."""
    assert run("ledger", "--ledger", str(folder / "ledger.db"), "--ticker", "AAA", "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["model"], found["tickers"], found["variant"]) == ("xgb", ["AAA", "BBB"], 1)
    options = {"train_years": 1, "val_months": 4, "test_months": 4, "step_months": 4, "no_tune": True}
    assert found["options"] == options
    assert run("ledger", "--ledger", str(folder / "ledger.db")) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if found["identity"][:6] in line]
    assert "AAA" in row
    assert run("ledger", "--ledger", str(folder / "ledger.db"), "--ticker", "ZZZ", "--json") == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_page_gets_the_name_that_is_asked_for(folder: Path, tmp_path: Path, capsys) -> None:
    """The file alone, printed, in each form; nothing is written beside the run."""
    (source,) = find_marks([folder / "results"])
    before = sorted(source.parent.iterdir())
    for suffix in (".html", ".md", ".json"):
        capsys.readouterr()
        out = tmp_path / f"page{suffix}"
        assert run("report", str(source), "--ledger", str(folder / "ledger.db"), "--out", str(out)) == 0
        assert str(out) in capsys.readouterr().out.splitlines()
        assert "INCONCLUSIVE" in out.read_text(encoding="utf-8") or "EDGE" in out.read_text(encoding="utf-8")
    assert sorted(source.parent.iterdir()) == before
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    ("out", "said"),
    [("page.pdf", "ends in .json, .md, .html"), ("none/page.html", "folder that exists"), (".", "folder that exists")],
    ids=["suffix", "folder", "no file"],
)
def test_a_page_that_cannot_be_written_is_refused(folder: Path, tmp_path: Path, capsys, out: str, said: str) -> None:
    """Exit code 2 before the work, and nothing is written; so is one file for a page and the trades."""
    (source,) = find_marks([folder / "results"])
    assert run("report", str(source), "--out", str(tmp_path / out)) == 2
    assert said in capsys.readouterr().err
    both = str(tmp_path / "both.html")
    assert run("report", str(source), "--out", both, "--trades", both) == 2
    assert "name two files" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


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
        _ = load_run(copy).rows


def trained(folder: Path, ledger: Path, target: Path, **options: Any) -> list[Document]:
    """Documents of what a command of `nextbar train xgb` left."""
    common = {"db": str(folder / "market.db"), "ledger": str(ledger), "save_dir": str(target), "no_tune": True}
    return [run.document for run in train(TrainConfig(**common, model="xgb", **options), Silent()).runs]


def test_each_configuration_and_ticker_set_is_a_trial(folder: Path, tmp_path: Path, inline_module) -> None:
    """Another seed and another ticker count; one of the tickers again, with the same returns, does not."""
    for seed, ticker in ((1, "AAA,BBB"), (1, "AAA"), (2, "AAA")):
        trained(folder, tmp_path / "l.db", tmp_path, seed=seed, ticker=ticker)
    found = sorted((trial.config["seed"], trial.tickers) for trial in Ledger(tmp_path / "l.db").trials())
    assert found == [(1, ("AAA",)), (1, ("BBB",)), (2, ("AAA",))]


def test_a_run_says_how_many_tickers_were_trained_with_it(folder: Path, tmp_path: Path, inline_module) -> None:
    """Each document of a command has its id and the number; another command has another id."""
    both = [document.run for document in trained(folder, tmp_path / "l.db", tmp_path, ticker="AAA,BBB")]
    (one,) = [document.run for document in trained(folder, tmp_path / "l.db", tmp_path / "one", ticker="AAA")]
    assert [run.tickers for run in (*both, one)] == [2, 2, 1]
    assert both[0].id == both[1].id != one.id


def test_values_in_a_helper_module_are_trials(folder: Path, tmp_path: Path, inline_module, monkeypatch) -> None:
    """The options and the user's own module are the same each time; what another module holds makes other returns."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_values.py").write_text("SPAN = 3\n")
    (tmp_path / "own_spans.py").write_text(
        "import own_values\n\n\ndef f(bars):\n    return bars[['Close']].pct_change(own_values.SPAN).fillna(0.0)\n"
    )
    import_module("own_spans")
    options = {"features": "own_spans:f", "features_only": True, "ticker": "AAA"}
    for number, span in enumerate((3, 7, 11, 3)):
        monkeypatch.setattr("own_values.SPAN", span)
        trained(folder, tmp_path / "l.db", tmp_path / str(number), **options)
    found = Ledger(tmp_path / "l.db").trials()
    assert sorted(trial.variant for trial in found) == [1, 2, 3]
    assert len({trial.identity for trial in found}) == 1


def test_a_look_at_a_foreign_run_counts_it_only_when_asked(folder: Path, tmp_path: Path, inline_module) -> None:
    """A report of a run that the ledger lacks makes no trial and no file; --count makes one, and looking again none."""
    ledger = str(tmp_path / "ledger.db")
    common = {"db": str(folder / "market.db"), "ledger": ledger, "no_tune": True, "save_dir": str(tmp_path)}
    looked = train(TrainConfig(**common, model="xgb", ticker="BBB"), Silent(), counts=False)
    assert not Path(ledger).exists()
    page = report([looked.runs[0].files[-1]], Silent(), ledger=ledger)
    assert page.uncounted == [looked.runs[0].stem]
    assert not Path(ledger).exists()
    for count in (True, True, False):
        assert report([looked.runs[0].files[-1]], Silent(), ledger=ledger, count=count).uncounted == []
        assert [trial.tickers for trial in Ledger(ledger).trials()] == [("BBB",)]


def test_the_ledger_holds_what_the_portfolio_earned(folder: Path) -> None:
    """Daily returns are those of the book: 1/n of each ticker, and the excess over a constant position."""
    (source,) = map(load_run, find_marks([folder / "results"]))
    book = source.document.book(source.rows)
    (trial,) = Ledger(folder / "ledger.db").trials()
    assert trial.tickers == ("AAA", "BBB")
    assert trial.returns.index.to_numpy().astype("datetime64[D]").tolist() == book.dates.tolist()
    assert trial.returns["net"].to_numpy() == pytest.approx(book.model.net, abs=1e-7)
    assert trial.returns["excess"].to_numpy() == pytest.approx(book.edge, abs=1e-7)


def test_others_are_those_of_any_tickers_on_these_days(folder: Path, tmp_path: Path, inline_module) -> None:
    """For a verdict: the other trials with their excess, by day, not one that was scored at another time."""
    ledger = Ledger(tmp_path / "l.db")
    (document,) = trained(folder, ledger.path, tmp_path, ticker="AAA", seed=3)
    trained(folder, ledger.path, tmp_path / "b", ticker="BBB")
    trained(folder, ledger.path, tmp_path / "early", ticker="AAA", end="2012-03-01")
    (mark,) = tmp_path.glob("xgboost_AAA_*_metadata.json")
    book = document.book(load_run(mark).rows)
    (other,) = other_trials(ledger, book, ledger.record(trial_of(book, document)))
    assert other.tickers == ("BBB",)
    assert len(other.returns["excess"].dropna()) == len(book.dates)
    assert len(ledger.trials()) == 3


def test_new_bars_add_days_to_a_walk_forward(make_bars, make_database, tmp_path: Path, inline_module) -> None:
    """The folds that were there come out as they were, so the longer run is the same trial."""
    bars, ledger = make_bars(900, seed=1), Ledger(tmp_path / "ledger.db")
    windows = {"train_years": 1, "val_months": 4, "test_months": 4, "step_months": 4}
    scored = []
    for count in (760, 777, 900):
        db = make_database(tmp_path / f"{count}.db", {"AAA": bars[:count]})
        config = {"db": str(db), "ledger": str(ledger.path), "output_dir": str(tmp_path / str(count)), **windows}
        walk_forward(WalkForwardConfig(**config, model="xgb", no_tune=True), Silent())
        (trial,) = ledger.trials()
        scored.append(len(trial.returns))
    assert scored[0] < scored[1] < scored[2]


def _settled_days(book: Book, max_gap_days: int) -> int:
    return int(_settled(book, max_gap_days).sum())


def test_a_day_that_later_bars_may_change_is_not_recorded() -> None:
    """Where bars end a position is sold; newer bars make another day of it, which is no other trial."""
    days = np.datetime64("2020-01-01", "D") + np.arange(40)
    rows = pd.DataFrame(
        {
            "date": np.concatenate([days, days[:37], days[:10]]).astype("datetime64[s]"),
            "ticker": ["A"] * 40 + ["B"] * 37 + ["GONE"] * 10,
            "fold": 0,
            "probability": 0.6,
            "class": 1,
            "signal": 1,
            "next_return": np.concatenate(
                [np.full(39, 0.1), [np.nan], np.full(36, 0.1), [np.nan], np.full(9, 0.1), [np.nan]]
            ),
        }
    )
    book = Book.of(rows, Terms(cost_bps=5.0))
    assert _settled_days(book, 15) == 36
    assert _settled_days(book.only("A"), 15) == 39
    assert _settled_days(Book.of(rows[rows["ticker"] != "A"], Terms(cost_bps=5.0)), 15) == 36
    assert _settled_days(book.only("GONE"), 15) == 9


def test_an_unusable_ledger_stops_a_run_before_it_trains(folder: Path, tmp_path: Path, inline_module) -> None:
    """Hours are not lost at the end."""
    config = WalkForwardConfig(db=str(folder / "market.db"), model="xgb", output_dir=str(tmp_path), ledger=__file__)
    inline_module.ran.clear()
    with pytest.raises(ArtifactError, match="--ledger"):
        walk_forward(config, Silent())
    assert inline_module.ran == []


def test_a_damaged_result_is_refused(folder: Path, tmp_path: Path, capsys) -> None:
    """A result that lacks a part is told as one line, not as a traceback."""
    (source,) = map(load_run, find_marks([folder / "results"]))
    document = json.loads(source.mark.read_text())
    del document["per_ticker"]
    (tmp_path / source.mark.name).write_text(json.dumps(document), encoding="utf-8")
    rows = source.sibling(".parquet")
    (tmp_path / rows.name).write_bytes(rows.read_bytes())
    assert run("report", str(tmp_path / rows.name)) == 2
    assert "missing required field `per_ticker`" in capsys.readouterr().err
