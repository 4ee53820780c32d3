"""What the commands print, and where."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from collections import Counter
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from nextbar.cli import console
from nextbar.cli.commands import _tell_size
from nextbar.cli.console import Results, width_of
from nextbar.cli.demo import _next
from nextbar.cli.experiments import _compared
from nextbar.cli.main import COMMANDS
from nextbar.cli.render import certificates, files_lines, remark_lines, walk_forward_losses, walk_forward_table
from nextbar.cli.tables import prose, right, table_of
from nextbar.config import WalkForwardConfig
from nextbar.datasets.splits import Windows
from nextbar.errors import Remark, hear
from nextbar.evaluation.certificate import Certificate
from nextbar.evaluation.stages import Finding
from nextbar.evaluation.truncation import Truncation
from nextbar.runs.document import Comparison
from nextbar.runs.load import load_run
from nextbar.scoring.metrics import METRICS

pytestmark = pytest.mark.usefixtures("inline_module")
SMALL = ("--no-tune", "--warmup", "60")
WALK = ("--train-years", "1", "--val-months", "3", "--test_months", "4", "--step_months", "4")


@pytest.fixture
def run(command_line: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the command line in an empty folder; gives exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    return command_line


def strict(text: str) -> Any:
    return json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} in JSON"))


def test_training_prints_table_files_and_losses(run, market_db):
    """A table with each ticker and its baselines and its files on standard output; who was left out on the other."""
    code, out, err = run("train", "xgb", "--db", market_db, *SMALL, "--verbose")
    assert code == 0
    for text in ("AAA", "BBB", "^GSPC", "/", "ROC-AUC"):
        assert text in out
    printed = {line for line in out.splitlines() if line.startswith("models/")}
    assert printed == {f"models/{path.name}" for path in Path("models").iterdir()}
    assert "skipped EMPTY: no bars" in err
    assert "skipped TINY: 90 bars, training needs" in err
    assert "xgb: 3 trained, 2 left out" in err


def test_files_are_summarised(run, market_db):
    """The file of each run that other commands take, and how many lie beside it; of many runs how many, and where."""
    out = run("train", "xgb", "--db", market_db, "--ticker", "AAA,BBB", *SMALL)[1]
    printed = [line for line in out.splitlines() if line.startswith("models/")]
    assert printed == [f"{path}, 3 files beside it" for path in sorted(Path("models").glob("*_metadata.json"))]
    run_of_many = [SimpleNamespace(mark=Path("demo/models/x.json"), files=[Path("demo/models/x.json")])] * 8
    assert files_lines(run_of_many, "model", verbose=False) == ["8 models in demo/models (--verbose lists the files)"]
    assert len(files_lines(run_of_many, "model", verbose=True)) == 8


@pytest.mark.parametrize(
    "command", [["train", "lstm"], ["train", "xgb"], ["walkforward"], ["report"], ["ingest", "csv"]], ids=" ".join
)
def test_help_has_no_type_at_flags_and_no_orphan(run, command, monkeypatch):
    """At 80 columns no flag shows a type, no line holds a default alone, and nothing is wider."""
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run(*command, "--help")
    assert code == 0
    assert "<bool>" not in out
    assert not re.search(r"^│\s*\[(default|env var)", out, re.MULTILINE)
    assert all(len(line) <= 80 for line in out.splitlines())


def test_an_lstm_shows_no_option_of_a_search_and_takes_it(run, market_db):
    """Commands for all kinds may name --no-tune; the help of the LSTM does not, because it searches nothing."""
    out = run("train", "lstm", "--help")[1]
    assert not {"--no-tune", "--n-iter", "--cv-splits"} & set(out.split())
    assert "--no-tune" in run("train", "xgb", "--help")[1]
    code, _, err = run("train", "lstm", "--db", market_db, "--ticker", "NONE", "--no-tune")
    assert code == 2
    assert "--no-tune" not in err
    err = run("train", "lstm", "--db", market_db, "--ticker", "NONE", "--n-iter", "3")[2]
    assert err.startswith("--n-iter changes nothing for lstm: it is an option of rf and xgb\n")


def test_an_option_that_no_model_has_is_told(run, market_db):
    """A walk-forward takes the options of every kind; one that changes nothing for the model is said in a line."""
    command = ("walkforward", "--db", market_db, "--ticker", "NONE", "--epochs", "50", "--n-iter", "2", "--model")
    told = "--epochs changes nothing for rf: it is an option of lstm\n"
    assert run(*command, "rf")[2].startswith(told)
    assert "changes nothing" not in run(*command, "all")[2]


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("train xgb --no-tune --n-iter 3 --fast", ["--n-iter --no-tune leaves", "--fast --no-tune leaves"]),
        ("train xgb --tune each", ["--tune a training run has one fold"]),
        ("train rf --tune none --cv-splits 3", ["--cv-splits --tune none leaves"]),
        ("train lstm --no-tune --n-iter 3", []),
        ("train rf --engine serial --jobs 2", ["--jobs --engine serial is one process"]),
        ("certify rf --walkforward --refit --tune each", ["--refit --walkforward uses windows"]),
        ("certify rf --mlflow --allow-reads a.csv", ["--mlflow certify logs", "--allow-reads the built-in features"]),
        ("certify rf --artifact gone --seed 1 --jobs 2", ["--seed the run of --artifact", "--ticker the run of"]),
        ("walkforward --model rf --max-tickers 2", ["--max-tickers there is a model per ticker"]),
        ("walkforward --model rf --pooled --max-tickers 2", []),
        ("walkforward --model all --tune none --n-iter 2", ["--n-iter --tune none leaves"]),
    ],
)
def test_an_option_that_another_one_overrules_is_told(run, market_db, command, told):
    """One line for each option that changes nothing, with the reason."""
    err = run(*command.split(), "--db", market_db, "--ticker", "NONE")[2]
    lines = [line.replace("changes nothing: ", "") for line in err.splitlines() if "changes nothing: " in line]
    assert len(lines) == len(told)
    assert all(line.startswith(start) for line, start in zip(lines, told, strict=True))


def test_a_walk_forward_of_several_models_says_how_many(market_db, market_bars, capsys):
    """Before the work; nothing for one model, or where the walk-forward itself says what is wrong."""
    config = WalkForwardConfig(db=str(market_db), ticker="AAA", train_years=1, val_months=3, test_months=2)
    _tell_size(["lstm", "rf", "xgb"], config)
    days = market_bars["AAA"].index
    folds = len(Windows.of(config).windows(days[0].date(), days[-1].date()))
    assert capsys.readouterr().err == f"3 models × {folds} folds: lstm, rf, xgb; for one of them: --model xgb\n"
    _tell_size(["xgb"], config)
    _tell_size(["rf", "xgb"], dataclasses.replace(config, ticker="NONE"))
    assert capsys.readouterr().err == ""


def test_baselines_that_all_models_share_stand_once():
    """Those with other figures stand under their model."""
    row = dict.fromkeys(METRICS, 0.5) | {"days": 300, "n": 300}

    def result(own: float) -> Comparison:
        baselines = {"always_long": row, "constant_exposure": row | {"sharpe": own}}
        later = {"one_bar_late": row, "next_open": row}
        return Comparison(model=row, baselines=baselines, per_ticker={"A": {}}, **later)

    table = walk_forward_table([("rf", 252.0, result(1.0)), ("xgb", 252.0, result(2.0))])
    names = [cells[0].strip() for cells, _ in table.rows]
    assert names.count("always long") == 1
    assert names.count("constant, own exposure") == 2
    assert names[-1] == "always long"
    assert len(walk_forward_table([("rf", 252.0, result(1.0))]).rows) == 5


def test_the_demo_ends_with_what_to_open_and_to_try(tmp_path):
    """The page as an address, and commands of nextbar with the files that were made."""
    page, model = tmp_path / "page.html", Path("demo/models/xgboost_AAPL_20260102_030405_metadata.json")
    lines = _next(Path("demo"), "demo/market.db", page=page, model=model)
    assert lines[1] == f"5. Open {page.as_uri()}"
    tried = [line.split() for line in lines if line.strip().startswith("nextbar ")]
    assert [words[1] for words in tried] == ["predict", "certify", "compare"]
    assert all(words[1] in COMMANDS for words in tried)
    assert str(model) in tried[0]


def test_progress_ends_with_what_tasks_warned_of():
    """One line for each warning, with how often it came."""
    with pytest.warns(Remark) as told, console.progress():
        hear(Counter({"ConvergenceWarning: no end": 37}))
    assert [str(one.message) for one in told] == ["ConvergenceWarning: no end (37 times)"]


def test_a_long_line_breaks_with_a_margin(monkeypatch):
    """On a screen of 80 columns every line but the first is indented, and nothing is lost."""
    screen = Results(width=80, file=StringIO(), color_system=None, soft_wrap=False)
    monkeypatch.setattr(console, "out", screen)
    text = "  " + "the excess over a constant position is not shown " * 5
    console.say(text, "short")
    first, *others, last = screen.file.getvalue().splitlines()
    assert first.startswith("  the")
    assert all(line.startswith("    ") and line[4] != " " and len(line) <= 80 for line in others)
    assert (" ".join([first, *others]).split(), last) == (text.split(), "short")


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_no_cell_is_cut_at_any_width(width):
    """A frame, a compact table or a block per row: every figure is whole and no line is too long."""
    table = table_of(
        ["ticker", prose("model"), *right("close", "probability", "predicted close", "model's age")],
        [["AAPL", "xgboost_AAPL_20260102_030405", "133.11", "0.5012", "–", "1,234 d"]] * 2,
        title="The bar after the last one",
    )
    screen = Console(width=width, file=StringIO(), color_system=None)
    screen.print(table)
    shown = screen.file.getvalue()
    assert "…" not in shown
    assert all(len(line) <= width for line in shown.splitlines())
    for figure in ("133.11", "0.5012", "1,234 d", "AAPL"):
        assert shown.count(figure) >= 2


def test_json_is_all_there_is_on_standard_output(run, market_db):
    """--json prints one JSON document and nothing else, with files, figures, who was skipped and why."""
    code, out, _ = run("train", "xgb", "--db", market_db, *SMALL, "--json")
    assert code == 0
    told = strict(out)
    assert [item["ticker"] for item in told["runs"]] == ["AAA", "BBB", "^GSPC"]
    assert set(told["skipped"]) == {"EMPTY", "TINY"}
    assert all(Path(path).exists() for item in told["runs"] for path in item["files"])
    metrics = told["runs"][0]["metrics"]
    assert metrics["baselines"]["always_long"]["sharpe"] is not None
    shown = "model baselines one_bar_late next_open per_ticker delisting reliability after_last_training_day"
    assert set(metrics) == set(shown.split())


def test_progress_goes_to_standard_error(capsys):
    """Lines of progress, with rate and time left, never get between the JSON on standard output."""
    shown = console.PlainProgress(interval=-1.0)
    shown.start("train xgb", 2)
    for ticker in ("AAA", "BBB"):
        shown.advance(1, ticker)
    shown.finish()
    told = capsys.readouterr()
    assert told.out == ""
    assert "train xgb: 1/2 · AAA\n" in told.err
    assert "train xgb: 2/2 (" in told.err
    assert " s left) · BBB\n" in told.err


def test_walk_forward_prints_and_is_json(run, market_db):
    """The walk-forward's table holds baselines and both delays; its JSON has the pooled figures of the file."""
    code, out, err = run("walkforward", "--model", "xgb", "--db", market_db, "--ticker", "AAA,TINY", *SMALL, *WALK)
    assert code == 0
    for text in ("one bar late", "at the next open", "always long", "majority class", "yesterday", "own exposure"):
        assert text in out
    assert "skipped fold 0: TINY: " in err
    code, out, _ = run("walkforward", "--model", "xgb", "--db", market_db, "--ticker", "AAA", *SMALL, *WALK, "--json")
    (told,) = strict(out)
    file = next(Path(path) for path in told["files"] if path.endswith(".json"))
    assert told["pooled"] == strict(file.read_text())["pooled"]
    assert "folds" not in told


def test_lines_about_a_run_have_its_name(run, market_db):
    """The name that the user gave stands in the table, in the line of the verdict and in the last line."""
    data = ("--db", market_db, "--ticker", "AAA", *SMALL, "--name", "My try")
    walk = ("walkforward", "--model", "xgb", "--seed", "9", *data, *WALK)
    _, out, err = run(*walk)
    assert "│ My try, xgb, 1 ticker " in out
    assert re.search(r"^(NO EDGE|INCONCLUSIVE|EDGE): My try, xgb, AAA$", out, re.MULTILINE)
    assert re.search(r"^My try, xgb: \d+ folds, ", err, re.MULTILINE)
    (trial,) = [one["id"] for one in strict(run("ledger", "--json")[1]) if one["label"] == "My try"]
    assert f"removed {trial}: walkforward My try of AAA, " in run("ledger", "remove", trial)[1]
    _, out, err = run("train", "xgb", *data)
    assert "│ My try, xgb │ AAA " in out
    assert "My try, xgb: 1 trained" in err
    assert re.search(r"My try, seed 9.*│ \d{4}-\d\d-\d\d \d\d:\d\d UTC │", run("runs")[1])


def test_errors_of_predicted_prices_are_printed_beside_persistence(run, market_db):
    """The LSTM's average RMSE in price units, that of persistence and the scaled MSE are those of the document."""
    lstm = ("--ticker", "AAA,BBB", "--epochs", "1", "--sequence-length", "5", "--warmup", "60", "--batch-size", "128")
    code, out, _ = run("train", "lstm", "--db", market_db, *lstm)
    assert code == 0
    (metadata,) = Path("models").glob("*_metadata.json")
    price = strict(metadata.read_text())["price"]
    errors = f"{price['mean_price_rmse']:.3f}, persistence {price['mean_persistence_rmse']:.3f}"
    assert f"lstm, 2 tickers: average RMSE in price units {errors}; scaled test MSE {price['scaled_mse']:.3g}" in out
    code, out, _ = run("walkforward", "--model", "lstm", "--db", market_db, *lstm, *WALK, "--no-report")
    assert code == 0
    (result,) = Path("results").glob("*.json")
    price = strict(result.read_text())["price"]
    errors = f"{price['mean_price_rmse']:.3f}, persistence {price['mean_persistence_rmse']:.3f}"
    assert f"lstm: average RMSE in price units {errors}; scaled test MSE {price['scaled_mse']:.3g}" in out


def test_models_without_prices_have_no_price_errors(run, market_db):
    """A tree predicts no price, and nothing is said about one."""
    out = run("train", "xgb", "--db", market_db, "--ticker", "AAA", *SMALL)[1]
    assert "RMSE in price units" not in out


def test_remarks_are_printed_and_in_the_json(run, make_bars, make_database, tmp_path):
    """What is in the document's remarks is a note on standard output of train, walkforward and predict."""
    frame = make_bars(640)
    frame.iloc[580:, [0, 1, 2, 3, 5]] *= 0.01
    db = make_database(tmp_path / "m.db", {"AAA": frame})
    code, out, _ = run("train", "xgb", "--db", db, *SMALL)
    assert code == 0
    (metadata,) = Path("models").glob("*_metadata.json")
    remarks = strict(metadata.read_text())["remarks"]
    assert [line for line in out.splitlines() if line.startswith("note: ")] == [f"note: {text}" for text in remarks]
    said = f"AAA has 1 data error inside the test days ({frame.index[580].date()} × 0.0"
    assert remarks[0].startswith(said)
    assert strict(run("train", "xgb", "--db", db, *SMALL, "--json")[1])["remarks"] == remarks
    err = run("predict", metadata, "--db", db, "--max-age-days", "99999", "--journal", tmp_path / "j.db")[2]
    assert f"note: {said}" in err
    code, out, _ = run("walkforward", "--model", "xgb", "--db", db, *SMALL, *WALK, "--no-report")
    assert code == 0
    (result,) = Path("results").glob("*.json")
    remarks = strict(result.read_text())["remarks"]
    assert [line for line in out.splitlines() if line.startswith("note: ")] == [f"note: {text}" for text in remarks]
    assert any(remark.startswith("the last test window holds ") for remark in remarks)
    assert any(remark.startswith(said) for remark in remarks)


def test_remark_about_all_models_is_printed_once():
    """A remark that every model has stands once, another with the name of its model."""
    lines = remark_lines([("rf", ["holes", "forest"]), ("xgb", ["holes", "trees"])])
    assert lines == ["note: holes", "note: rf: forest", "note: xgb: trees"]
    assert remark_lines([("rf", ["one", "two"])]) == ["note: one", "note: two"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_keeps_its_examples_apart(run, command):
    """No help page shows the mark that keeps lines apart, and examples stand on lines of their own."""
    out = run(command, "--help")[1]
    assert "\\b" not in out
    examples = [line.strip() for line in out.splitlines() if line.strip().startswith("nextbar ")]
    assert all(line.count(f"nextbar {command}") == 1 for line in examples), examples


@pytest.mark.parametrize("command", ["holdout open", "holdout list", "ledger remove"])
def test_help_of_a_subcommand_keeps_its_examples_apart(run, command):
    """The same for a command below another."""
    out = run(*command.split(), "--help")[1]
    assert "\\b" not in out
    assert any(line.strip().startswith(f"nextbar {command}") for line in out.splitlines())


@pytest.mark.parametrize("spelling", ["--{}-{}", "--{}_{}"])
def test_long_options_with_dash_and_underscore(run, market_db, spelling):
    """`--batch_size` is `--batch-size`, in groups and in single commands, with a value and with `=`."""
    words = [("batch", "size"), ("sequence", "length"), ("max", "tickers"), ("save", "dir"), ("val", "split")]
    options = [spelling.format(*pair) for pair in words]
    values = ["7", "0", "1", "out", "0.2"]
    arguments = [part for pair in zip(options, values, strict=True) for part in pair]
    # The one bad value is reached, so every spelling before and after it was understood.
    code, _, err = run("train", "lstm", "--db", market_db, *arguments)
    assert code == 2
    assert "--sequence-length expects at least 2, got 0" in err
    code, _, err = run("walkforward", f"{spelling.format('step', 'months')}=1", "--db", market_db)
    assert "--step-months 1 is shorter" in err


def test_options_of_other_models_are_not_offered(run, market_db):
    """`train rf` has no --epochs; `train lstm` has."""
    assert run("train", "rf", "--epochs", "3", "--db", market_db)[0] == 2
    assert "--epochs" in run("train", "lstm", "--help")[1]
    assert "--epochs" not in run("train", "rf", "--help")[1]


def test_paragraphs_of_help_flow_and_brackets_stay(run, monkeypatch):
    """No line of a paragraph breaks where the source does, and the headings of a run file are shown."""
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run("run", "--help")
    lines = [line.strip() for line in out.splitlines()]
    assert (code, "[defaults]" in lines, "[[run]]" in lines) == (0, True, True)
    start = next(at for at, line in enumerate(lines) if line.startswith("The keys of a run file"))
    paragraph = lines[start : lines.index("", start)]
    assert all(len(line) > 60 for line in paragraph[:-1]), paragraph


@pytest.mark.parametrize("command", [("train", "rf"), ("train", "lstm"), ("walkforward",)])
def test_help_names_every_option_and_an_example(run, command):
    """--help shows the options with their defaults, and a command to copy."""
    code, out, _ = run(*command, "--help")
    assert code == 0
    for text in ("--ticker", "--db", "data/market.db", "--seed", "42", "--cost-bps", "--json", f"nextbar {command[0]}"):
        assert text in out


def test_help_is_quick():
    """`nextbar --help` lists every command and imports neither numpy nor pandas nor anything as heavy."""
    code = (
        "import sys\n"
        "from nextbar.cli.main import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit as stop:\n    assert not stop.code\n"
        "heavy = {'numpy', 'pandas', 'sklearn', 'xgboost', 'keras', 'jax', 'sqlalchemy', 'talib', 'pyarrow', 'scipy'}\n"
        "sys.stderr.write(','.join(sorted(heavy & set(sys.modules))))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for name, (_, text) in COMMANDS.items():
        assert name in done.stdout
        assert text.split(",")[0][:30] in done.stdout


def test_version_and_no_arguments(run):
    """--version prints the version; no command at all prints the help."""
    import nextbar

    assert run("--version")[1] == f"nextbar {nextbar.__version__}\n"
    assert "walkforward" in "".join(run()[1:])


def test_the_last_day_is_the_same_everywhere(run, market_db):
    """The table of training ends on the last scored day, as rows, ledger and comparison do, a bar before the label."""
    for seed in ("1", "2"):
        out = run("train", "xgb", "--db", market_db, "--ticker", "AAA", *SMALL, "--ledger", "l.db", "--seed", seed)[1]
    marks = [str(path) for path in Path("models").glob("*_metadata.json")]
    first, last = (str(day.date()) for day in load_run(marks[0]).rows["date"].agg(["min", "max"]))
    assert load_run(marks[0]).document.folds[0].test_end > last
    assert re.search(rf"│ {first} +│ {last} +│", out)
    (one, _) = strict(run("ledger", "--ledger", "l.db", "--json")[1])
    compared = strict(run("compare", *marks, "--ledger", "l.db", "--json")[1])
    assert all((told["first"], told["last"]) == (first, last) for told in (one, compared))


def test_trials_are_removed_by_id(run, market_db):
    """What was removed is said; an unknown id ends with 2 and names those near it; the file is never made."""
    assert run("ledger", "remove", "abcd1234", "--ledger", "no.db")[0] == 2
    assert not Path("no.db").exists()
    run("train", "xgb", "--db", market_db, "--ticker", "AAA,BBB", *SMALL, "--ledger", "l.db")
    first, second = strict(run("ledger", "--ledger", "l.db", "--json")[1])
    code, out, err = run("ledger", "--ledger", "l.db", "remove", first["id"][:8])
    assert code == 0
    assert out.startswith(f"removed {first['id']}: train xgb of {first['tickers'][0]}, {first['first']} to")
    assert "1 trial removed from l.db" in err
    code, out, err = run("ledger", "remove", first["id"], "--ledger", "l.db")
    assert (code, out) == (2, "")
    assert "no trial has the id" in err
    assert [one["id"] for one in strict(run("ledger", "--ledger", "l.db", "--json")[1])] == [second["id"]]
    assert strict(run("ledger", "remove", second["id"], "--ledger", "l.db", "--json")[1])[0]["id"] == second["id"]


def test_runs_that_are_not_whole_are_told(run, market_db):
    """A missing file is named; where no run can be read the exit code is 2 and the reason is told."""
    run("train", "xgb", "--db", market_db, "--ticker", "AAA", *SMALL)
    (rows,) = Path("models").glob("*_predictions.parquet")
    rows.unlink()
    code, _, err = run("runs", "models")
    assert code == 0
    assert f"is not whole: {rows.name} is missing" in err
    (mark,) = Path("models").glob("*_metadata.json")
    mark.write_text("{")
    code, out, err = run("runs", "models")
    assert (code, out) == (2, "")
    assert f"left out: {mark} is not usable JSON" in err


def test_a_report_of_a_foreign_run_says_that_it_does_not_count(run, market_db):
    """It names the run, the ledger and what to add; nothing is recorded."""
    run("train", "xgb", "--db", market_db, "--ticker", "AAA", *SMALL, "--ledger", "mine.db")
    (mark,) = Path("models").glob("*_metadata.json")
    assert "in the trial ledger" not in run("report", mark, "--ledger", "mine.db")[2]
    err = run("report", mark, "--ledger", "other.db")[2]
    assert "is not in the trial ledger other.db, so it counts on this page alone; add: --count" in err
    assert not Path("other.db").exists()
    assert "--count" not in run("report", mark, "--ledger", "other.db", "--count")[2]
    assert len(strict(run("ledger", "--ledger", "other.db", "--json")[1])) == 1


def test_a_wrong_name_of_a_ledger_is_told(run, market_db, monkeypatch):
    """A list refuses it; a verdict and a comparison say that there is none, what writes that it begins one."""
    train = ("train", "xgb", "--db", market_db, "--ticker", "AAA,BBB", *SMALL)
    assert run(*train, "--ledger", "mine.db")[2].count("a new trial ledger begins: mine.db\n") == 1
    assert "ledger begins" not in run(*train, "--ledger", "mine.db")[2]
    first, second, *_ = sorted(Path("models").glob("*_metadata.json"))
    for listing in (("holdout", "list"), ("ledger",), ("ledger", "remove", "abcd")):
        code, out, err = run(*listing, "--ledger", "wrong.db")
        assert (code, out) == (2, ""), listing
        assert "wrong.db: there is no such trial ledger; check the name" in err
    assert "mina.db: there is no such trial ledger; nearest: mine.db; check" in run("ledger", "--ledger", "mina.db")[2]
    for reading in (("report", first), ("compare", first, second)):
        code, _, err = run(*reading, "--ledger", "wrong.db")
        assert (code, err.count("there is no trial ledger wrong.db; it counts as empty\n")) == (0, 1), reading
    monkeypatch.setenv("NEXTBAR_LEDGER", "wrong.db")
    for listing in (("holdout", "list"), ("ledger",)):
        code, _, err = run(*listing)
        assert (code, err.count("there is no trial ledger wrong.db; it counts as empty\n")) == (0, 1), listing
    assert not Path("wrong.db").exists()
    assert "a new trial ledger begins: wrong.db\n" in run("report", first, "--count")[2]


def test_a_run_of_one_of_several_tickers_is_told(run, market_db):
    """Each command that takes one file of a training run of two tickers says so, once."""
    run("train", "xgb", "--db", market_db, "--ticker", "AAA,BBB", *SMALL)
    first, second = sorted(Path("models").glob("*_metadata.json"))
    certify = ("certify", "xgb", "--artifact", first, "--db", market_db, "--certify-seconds", "1")
    for command in (("report", first), ("reproduce", first, "--db", market_db), certify):
        assert run(*command)[2].count("1 of the 2 tickers of one training run; others") == 1, command
    assert "one training run" not in run("report", first, second)[2]


def test_a_failed_command_leaves_no_empty_folder(run, market_db):
    """Folders that were made for results that never came are removed."""
    assert run("train", "rf", "--db", market_db, "--ticker", "NOPE")[0] == 2
    assert run("walkforward", "--model", "xgb", "--db", market_db, "--ticker", "NOPE", "--output-dir", "a/b")[0] == 2
    assert list(Path().iterdir()) == []


def test_what_a_terminal_obeys_is_spelled_out(run, make_bars, make_database, tmp_path):
    """A ticker with an escape sequence is shown as text in tables, in errors and in lists."""
    db = make_database(tmp_path / "m.db", {"A\x1b[31m\u202eB": make_bars(400), "\x1b]0;x\x07": make_bars(5)})
    printed = run("train", "xgb", "--db", db, *SMALL, "--save_dir", tmp_path / "m", "--ledger", tmp_path / "l.db")
    printed += run("runs", tmp_path / "m") + run("ledger", "--ledger", tmp_path / "l.db") + run("check", "--db", db)
    printed += run("report", *(tmp_path / "m").glob("*_metadata.json"), "--ledger", tmp_path / "l.db")
    shown = "".join(map(str, printed))
    assert not set("\x1b\x07\u202e") & set(shown)
    assert "\\x1b[31m\\u202eB" in shown


@pytest.mark.parametrize(
    ("columns", "terminal", "width"), [("70", False, 70), (None, False, 10_000), ("x", False, 10_000)]
)
def test_a_pipe_is_as_wide_as_columns_says(columns, terminal, width, monkeypatch) -> None:
    """Where COLUMNS is not set nothing wraps in a pipe."""
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    assert Console(file=StringIO(), width=width_of(columns, terminal=terminal)).width == width


def test_a_count_of_nothing_is_not_printed(capsys) -> None:
    """Tickers that were left out are counted in words where there are any."""
    document = SimpleNamespace(
        skipped=[], folds=[SimpleNamespace(rows=3)], model="xgb", config={}, seconds={"wall": 2.0}
    )
    result = SimpleNamespace(run=SimpleNamespace(document=document), failed={}, resumed=0)
    walk_forward_losses(result)
    assert capsys.readouterr().err == "xgb: 1 fold, 2 s\n"
    document.skipped = [SimpleNamespace(fold=0, ticker="AAA", reason="AAA: too short")]
    walk_forward_losses(result)
    assert capsys.readouterr().err == "skipped fold 0: AAA: too short\nxgb: 1 fold, a ticker left out 1 time, 2 s\n"


def test_a_reason_of_several_folds_and_tickers_is_said_once(capsys) -> None:
    """A reason, and a traceback, that many fits share stands once, with its tickers and folds."""
    pairs = [(fold, ticker) for fold in (3, 4, 5) for ticker in ("BBB", "AAA")]
    skipped = [SimpleNamespace(fold=fold, ticker=ticker, reason=f"{ticker}: too short") for fold, ticker in pairs]
    document = SimpleNamespace(skipped=skipped, folds=[], model="xgb", config={}, seconds={"wall": 2.0})
    failed = {"AAA fold 3": "Traceback\nValueError: x", "BBB fold 3": "Traceback\nValueError: x"}
    walk_forward_losses(SimpleNamespace(run=SimpleNamespace(document=document), failed=failed, resumed=0))
    assert capsys.readouterr().err.splitlines()[:-1] == [
        "skipped in 3 folds, the first 3: AAA, BBB: too short",
        "failed AAA fold 3, BBB fold 3: please report this",
        "Traceback",
        "ValueError: x",
    ]


def test_a_certificate_shows_stages_that_there_were(capsys) -> None:
    """A search that was not made has no line, and days tried are told as those of all tickers."""
    found = [
        Finding(part="inside test", stage="search", ticker="AAA"),
        Finding(part="inside test", stage="model", ticker="AAA", rows=1),
    ]
    tried = [Truncation(ticker=name, days=300, tried=count) for name, count in (("AAA", 200), ("BBB", 120))]
    certificates([Certificate(name="run", findings=found, truncations=tried)])
    told = capsys.readouterr().out
    assert "model" in told
    assert "search" not in told
    assert "\n2 tickers, the fewest days of BBB: 120 of 300 days tried" in told


def test_one_run_alone_is_not_compared(capsys) -> None:
    """Nothing is printed about a comparison that nobody has asked for."""
    item = SimpleNamespace(run=object(), config=SimpleNamespace(ledger=None))
    assert _compared(SimpleNamespace(items=[item])) is None
    assert capsys.readouterr() == ("", "")
