"""Runs side by side, and run files."""

from __future__ import annotations

import json
import re
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from nextbar.cli.tables import narrow_table
from nextbar.workflows.experiments import OPTIONS, read_experiments

pytestmark = pytest.mark.usefixtures("inline_module")
DEFAULTS = """[defaults]
ticker = "AAA,BBB"
no_tune = true
warmup = 60
train_years = 1
val-months = 3
test_months = 4
step_months = 4
no_report = true
"""
FOUR = DEFAULTS + '[[run]]\nmodel = ["rf", "xgb"]\nfeatures = ["levels", "relative"]\n'
MINE = """import nextbar as nb
from sklearn.linear_model import Ridge


class Net(nb.LSTM):
    kind = "mine"


def net():
    return Net()


def ridge():
    return nb.Estimator(Ridge(), label="mine")
"""
"""Two models of one label, of which one has the options of a network."""
NAMES = [f"{model}, features {features}" for model in ("rf", "xgb") for features in ("levels", "relative")]


@pytest.fixture
def run(command_line: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, market_db: Path) -> Any:
    """Runs the command line in an empty folder on `market_db`; gives exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEXTBAR_DB", str(market_db))
    monkeypatch.setenv("NEXTBAR_LEDGER", str(tmp_path / "ledger.db"))

    return command_line


def write(text: str) -> Path:
    path = Path("experiments.toml")
    path.write_text(text, encoding="utf-8")
    return path


def results() -> set[str]:
    return {path.name for path in Path("results").iterdir()}


def test_a_run_file_is_multiplied_run_once_and_compared(run, inline_module):
    """Lists multiply, --dry-run writes nothing, a second call trains nothing, and the table has all of them."""
    file = write(FOUR)
    code, out, _ = run("run", file, "--dry-run")
    assert (code, out.splitlines()) == (0, [f"to run: {name}" for name in NAMES])
    assert [path.name for path in Path().iterdir()] == ["experiments.toml"]
    code, out, err = run("run", file)
    assert code == 0, err
    for name in NAMES:
        assert f"finished: {name}" in out
        assert len(re.findall(rf"^ {name} ", out, re.MULTILINE)) >= 2
    assert "4 configurations tried" in out
    before, inline_module.ran = results(), []
    assert len(before) == 8
    code, out, _ = run("run", file, "--json")
    told = json.loads(out)
    assert (code, inline_module.ran, results()) == (0, [], before)
    assert [item["state"] for item in told["runs"]] == ["finished before"] * 4
    assert [row["run"] for row in told["comparison"]["rows"]] == [*NAMES, "always_long"]


def test_what_changes_a_result_is_another_run(run, inline_module):
    """Another seed or ticker is run, another spelling of the tickers, order of keys or number of processes is not."""
    write(DEFAULTS + '[[run]]\nmodel = "xgb"\n')
    assert run("run", "experiments.toml")[0] == 0
    first = len(results())
    inline_module.ran = []
    write(DEFAULTS.replace("AAA,BBB", "BBB , AAA") + '[[run]]\njobs = 1\nmodel = "xgb"\nfeatures = "levels"\n')
    assert run("run", "experiments.toml")[0] == 0
    assert (inline_module.ran, len(results())) == ([], first)
    write(DEFAULTS + '[[run]]\nmodel = "xgb"\nseed = 7\n[[run]]\nmodel = "xgb"\nticker = "AAA"\n')
    assert run("run", "experiments.toml")[0] == 0
    assert len(results()) == first + 4


def test_a_run_that_lacks_a_file_is_run_again(run):
    """Without its rows a walk-forward is not finished."""
    write(DEFAULTS + '[[run]]\nmodel = "xgb"\n')
    assert run("run", "experiments.toml")[0] == 0
    (rows,) = Path("results").glob("*.parquet")
    rows.unlink()
    assert run("run", "experiments.toml", "--dry-run")[1].startswith("to run: xgb")


def test_one_bad_run_leaves_the_others(run):
    """A ticker without bars is left out with exit code 1; where nothing could be run it is 2 and nothing is left."""
    write(DEFAULTS + '[[run]]\nmodel = "xgb"\nticker = "EMPTY"\n[[run]]\nmodel = "xgb"\n')
    code, out, err = run("run", "experiments.toml")
    assert code == 1
    assert [line for line in err.splitlines() if " of " in line][:2] == ["1 of 2: xgb, EMPTY", "2 of 2: xgb, AAA,BBB"]
    assert "finished: xgb, AAA,BBB" in out
    assert 'failed: "xgb, EMPTY": ' in err
    write(DEFAULTS + '[[run]]\nmodel = "xgb"\nticker = "EMPTY"\noutput_dir = "other"\n')
    code, out, err = run("run", "experiments.toml")
    assert (code, out) == (2, "")
    assert "none of 1 run could be made" in err
    write(DEFAULTS + '[[run]]\nmodel = ["rf", "xgb"]\nticker = "EMPTY"\noutput_dir = "other"\n')
    code, out, err = run("run", "experiments.toml")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("nextbar: none of 2 runs could be made: rf, xgb: ")
    assert err.count("EMPTY: no bars") == 1
    assert not Path("other").exists()


@pytest.mark.parametrize(
    ("typo", "told"),
    [
        ('features = "nowhere:columns"', "features nowhere:columns: No module named 'nowhere'"),
        ('panel_features = "json:no_columns"', "panel_features json:no_columns: module 'json'"),
        ('ticker = "AAA,BBBB"', "no bars of BBBB (nearest: BBB"),
        ('db = "nothing.db"', "nothing.db"),
    ],
    ids=["features", "panel", "ticker", "database"],
)
@pytest.mark.parametrize("option", ["--dry-run", "--json"])
def test_a_typo_in_the_last_run_costs_nothing(run, inline_module, typo, told, option):
    """What does not exist is refused before the first run begins, and by --dry-run, too."""
    write(DEFAULTS + '[[run]]\nmodel = "rf"\n[[run]]\nmodel = "xgb"\n' + typo)
    inline_module.ran = []
    code, out, err = run("run", "experiments.toml", option)
    assert (code, out, inline_module.ran) == (2, "", [])
    assert told in " ".join(err.split())
    assert {path.name for path in Path().iterdir()} == {"experiments.toml"}


def test_doubled_configurations_are_run_once(run):
    """The same configuration twice, or an option that does not matter to the model, is one run, and that is said."""
    write(DEFAULTS + '[[run]]\nmodel = "xgb"\nepochs = [1, 2]\n[[run]]\nmodel = "xgb"\n')
    code, out, err = run("run", "experiments.toml", "--dry-run")
    assert (code, out) == (0, "to run: xgb\n")
    assert "2 configurations occur twice" in err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("train_years = 30", "the bars go from 2010-01-04 to .*; a fold needs 30 years of train"),
        ('start = "2031-01-01"', "no ticker can be used: AAA, BBB: no bars from 2031-01-01 to the last day"),
        ('end = "2009-12-31"', "no ticker can be used: AAA, BBB: no bars from the first day to 2009-12-31"),
        ('start = "2010-02-01"\nend = "2010-05-01"', "the bars go from 2010-02-01 to 2010-05-01; a fold needs"),
        ('holdout_from = "2010-02-01"', "the bars go from 2010-01-04 to 2010-01-31; a fold needs"),
        ('holdout_from = "2031-01-01"', "holdout_from 2031-01-01 holds nothing out: the last bar is of"),
        ('ticker = "EMPTY"', "there are no bars of EMPTY"),
    ],
)
def test_a_dry_run_finds_bars_that_are_too_short(run, options, told):
    """A run that would fail for its days or windows is said to, with exit code 1; the others are still to be run."""
    text = DEFAULTS.replace("train_years = 1\n", "").replace('ticker = "AAA,BBB"\n', "")
    fine = 'train_years = 1\nticker = "AAA,BBB"\nmodel = "rf"\n'
    odd = "\n".join(line for line in fine.splitlines() if line.split()[0] not in options).replace('"rf"', '"xgb"')
    write(f"{text}[[run]]\n{fine}[[run]]\n{odd}\n{options}\n")
    code, out, err = run("run", "experiments.toml", "--dry-run")
    assert code == 1
    assert [line.partition(":")[0] for line in out.splitlines()] == ["to run", "failed"]
    assert re.search(f"^failed: .*{told}", err, re.MULTILINE)


def test_options_that_no_model_of_a_table_has_are_told(run):
    """One line says which option changes nothing; a default that one of the runs uses is none."""
    models = "from sklearn.linear_model import Ridge\n\n\ndef make():\n    return Ridge()\n"
    Path("ridge.py").write_text(models)
    write(
        "[defaults]\ntrain_years = 1\nval_months = 3\nepochs = 1\nn_iter = 2\nbatch_size = 8\n"
        '[[run]]\nmodel = ["rf", "xgb"]\npatience = 2\n[[run]]\nmodel = "lstm"\nn_iter = 3\n'
        '[[run]]\nmodel = "all"\ncv_splits = 3\nensemble = 2\n[[run]]\nmodel = "ridge:make"\nensemble = 2\n'
    )
    code, _, err = run("run", "experiments.toml", "--dry-run")
    assert code == 0
    assert [line for line in err.splitlines() if "changes nothing" in line] == [
        "[[run]] 1: patience changes nothing for rf, xgb: it is an option of lstm",
        "[[run]] 2: n_iter changes nothing for lstm: it is an option of rf and xgb",
        "[[run]] 4: ensemble changes nothing for ridge: it is an option of lstm",
    ]
    Path("mine.py").write_text(MINE)
    write('[[run]]\nmodel = ["mine:net", "mine:ridge"]\nensemble = 2\nfast = false\n')
    told = run("run", "experiments.toml", "--dry-run")[2]
    assert [line for line in told.splitlines() if "changes nothing" in line] == []
    write(
        '[defaults]\ntrain_years = 1\nval_months = 3\nepochs = 1\nno_tune = true\n[[run]]\nmodel = "rf"\nn_iter = 3\n'
    )
    told = run("run", "experiments.toml", "--dry-run")[2]
    assert told == (
        "[defaults]: epochs changes nothing for rf: it is an option of lstm\n"
        "[[run]] 1: n_iter changes nothing: no_tune leaves the search out\n"
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param('[[run]]\nfeature = "levels"', "nearest: features", id="option"),
        pytest.param('[[runs]]\nmodel = "xgb"', "nearest: run", id="table"),
        pytest.param('[default]\nseed = 1\n[[run]]\nmodel = "xgb"', "nearest: defaults", id="defaults"),
        pytest.param("[[run]]\ntrain_split = 0.8", "it is an option of nextbar train", id="train"),
        pytest.param("[[run]]\nspace = 3", "unknown option space", id="python-only"),
        pytest.param('[run]\nmodel = "xgb"', "double brackets", id="single"),
        pytest.param("[defaults]\nseed = 1", "at least one table [[run]]", id="no-run"),
        pytest.param("", "at least one table [[run]]", id="empty"),
        pytest.param("[[run]]\nseed = []", "the list of seed is empty", id="empty-list"),
        pytest.param("[[run]]\nseed = [[1]]", "one value, or a list of values", id="nested"),
        pytest.param("[[run]]\nseed = {a = 1}", "one value, or a list of values", id="inline-table"),
        pytest.param("[[run]]\nseed = true", "1: seed expects a whole number", id="kind"),
        pytest.param("[[run]]\nticker = 5", "a text in quotes", id="text"),
        pytest.param("[[run]]\noutput_dir = false", "a text in quotes", id="folder"),
        pytest.param("[[run]]\ncost_bps = nan", "finite", id="nan"),
        pytest.param('[[run]]\nmodel = "svm"', "svm", id="model"),
        pytest.param("[[run]]\nstep_months = 1", "1: step_months 1 is shorter", id="contradiction"),
        pytest.param("[[run]]\nval_months = 3\nval-months = 4", "an option twice", id="twice"),
        pytest.param("[[run]]\nseed = [1, 2", "expected a run file (TOML)", id="syntax"),
        pytest.param("[[run]]\nseed = 1\nseed = 2", "expected a run file (TOML)", id="key-twice"),
        pytest.param("seed = 1", "below one of these headings", id="top"),
        pytest.param(f"[[run]]\nseed = {[*range(40)]}\nval_months = {[*range(1, 40)]}", "1,560 runs", id="too-many"),
        pytest.param("[[run]]\nstart = 2020-13-01", "expected a run file (TOML)", id="day"),
        pytest.param("[[run]]\nstart = 2020-01-01T10:00:00", "a text in quotes", id="time"),
    ],
)
def test_faults_of_a_run_file_are_refused(run, text, told):
    """Each fault ends with exit code 2 and a message about the file, and nothing is run or written."""
    write(text)
    code, out, err = run("run", "experiments.toml")
    assert (code, out) == (2, "")
    assert told in " ".join(err.split())
    assert "experiments.toml" in err
    assert {path.name for path in Path().iterdir()} == {"experiments.toml"}


@pytest.mark.parametrize("kind", ["missing", "folder", "bytes"])
def test_what_is_no_run_file_is_refused(run, tmp_path, kind):
    """A missing file, a folder and bytes that are no text end with exit code 2."""
    path = tmp_path / "file.toml"
    if kind == "folder":
        path.mkdir()
    elif kind == "bytes":
        path.write_bytes(b"\xff\xfe\x00")
    code, _, err = run("run", path)
    assert code == 2
    assert "expected a run file (TOML)" in err


def test_every_option_of_walkforward_is_a_key(run, tmp_path):
    """No option of `nextbar walkforward` is missing in run files, with its own value or its default."""
    offered = set(re.findall(r"--([a-z][a-z-]+)", run("walkforward", "--help")[1])) - {"help", "json", "verbose"}
    assert offered == {name.replace("_", "-") for name in OPTIONS}


def test_values_mean_what_they_mean_on_the_command_line(run, market_db):
    """Days need no quotes, 5 is 5.0 for costs, a number is a threshold, and NEXTBAR_DB names the database."""
    file = write('[[run]]\nmodel = "xgb"\nstart = 2010-01-04\ncost_bps = 5\nthreshold = 0.50\n')
    (item,) = read_experiments(file, str(market_db)).items
    config = item.config
    assert (config.start, config.cost_bps, config.threshold, config.db) == ("2010-01-04", 5.0, "0.5", str(market_db))
    assert isinstance(config.cost_bps, float)


def test_runs_that_cannot_be_compared_are_listed_with_the_reason(run):
    """Other costs make no table; the runs are there and the exit code is 0."""
    write(DEFAULTS + '[[run]]\nmodel = "xgb"\ncost_bps = [5, 10]\n')
    code, out, err = run("run", "experiments.toml")
    assert code == 0
    assert out.count("finished: xgb, cost_bps") == 2
    assert "no comparison: the runs have different terms" in err


def test_trades_and_pages_are_written_at_the_end(run):
    """Trades of all runs share a file, and each run has its page."""
    write(DEFAULTS.replace("no_report = true", 'trades = "t.csv"') + '[[run]]\nmodel = ["rf", "xgb"]\n')
    assert run("run", "experiments.toml")[0] == 0
    assert {line.split("_")[1] for line in Path("t.csv").read_text().splitlines()[1:]} <= {"rf", "xgb"}
    assert sum(name.endswith("_report.html") for name in results()) == 2


def test_compare_shows_runs_with_their_differences(run):
    """Names are what differs; each file counts once; one run alone, or none, is refused."""
    write(FOUR)
    assert run("run", "experiments.toml")[0] == 0
    marks = sorted(Path("results").glob("*.json"))
    code, out, _ = run("compare", *marks, marks[0].with_suffix(".parquet"))
    assert code == 0
    assert all(name in out for name in NAMES)
    assert f"Difference to {NAMES[0]}" in out
    told = json.loads(run("compare", *marks, "--json")[1])
    assert told["tried"] == 4
    first, second = told["rows"][:2]
    assert first["difference"] == first["accuracy_difference"] == 0
    assert second["difference_low"] <= second["difference"] <= second["difference_high"]
    gained = second["balanced_accuracy"] - first["balanced_accuracy"]
    assert second["accuracy_difference"] == pytest.approx(gained, abs=0.02)
    for files, text in (
        (marks[:1], "two runs or more"),
        ([marks[0], marks[0].with_suffix(".parquet")], "files of the same run"),
        (["nothing.json"], "expected a file of a run"),
    ):
        code, out, err = run("compare", *files)
        assert (code, out) == (2, "")
        assert text in err


def test_the_ledger_counts_other_tries_on_these_days(run):
    """Trials that are not compared count, too; a run that no ledger holds counts once."""
    write(FOUR)
    assert run("run", "experiments.toml")[0] == 0
    marks = sorted(Path("results").glob("*.json"))[:2]
    assert json.loads(run("compare", *marks, "--json")[1])["tried"] == 4
    assert json.loads(run("compare", *marks, "--json", "--ledger", "other.db")[1])["tried"] == 2
    assert not Path("other.db").exists()


@given(
    st.lists(st.text("abcdefgh ,_", min_size=1, max_size=90), min_size=1, max_size=4),
    st.lists(st.floats(0.6, 1), min_size=7, max_size=7),
)
def test_no_number_is_cut_at_80_columns(names, values):
    """Whatever a run is called, every figure of its row is whole."""
    texts = [f"{2e5 * value:.1f}%" for value in values]
    screen = Console(width=80, file=StringIO(), color_system=None)
    screen.print(narrow_table(["run", *["max drawdown"] * 7], [[name, *texts] for name in names], title="t"))
    shown = screen.file.getvalue()
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert sum(shown.count(f" {text}") for text in set(texts)) >= len(names) * len(set(texts))
