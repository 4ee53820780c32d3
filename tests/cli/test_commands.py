"""What the commands print, and where."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nextbar.cli.main import COMMANDS, main
from nextbar.cli.render import remark_lines

pytestmark = pytest.mark.usefixtures("inline_module")
SMALL = ("--no-tune", "--warmup", "60")
WALK = ("--train-years", "1", "--val-months", "3", "--test_months", "4", "--step_months", "4")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the command line in an empty folder; gives exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: Any) -> tuple[int, str, str]:
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def strict(text: str) -> Any:
    return json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} in JSON"))


def test_training_prints_table_files_and_losses(run, market_db):
    """A table with each ticker and its baselines and every file on standard output; who was left out on the other."""
    code, out, err = run("train", "xgb", "--db", market_db, *SMALL)
    assert code == 0
    for text in ("AAA", "BBB", "^GSPC", "/", "ROC-AUC"):
        assert text in out
    printed = {line for line in out.splitlines() if line.startswith("models/")}
    assert printed == {f"models/{path.name}" for path in Path("models").iterdir()}
    assert "skipped EMPTY: no bars" in err
    assert "skipped TINY: 90 bars, training needs" in err
    assert "3 trained, 2 left out" in err


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


def test_progress_goes_to_standard_error(run, market_db, monkeypatch):
    """Lines of progress, with rate and time left, never get between the JSON on standard output."""
    monkeypatch.setattr("nextbar.cli.console.PLAIN_INTERVAL_SECONDS", -1.0)
    code, out, err = run("train", "xgb", "--db", market_db, "--ticker", "AAA,BBB", *SMALL, "--json")
    assert code == 0
    assert len(strict(out)["runs"]) == 2
    assert "train xgb: 2/2 (" in err
    assert " s left) · BBB" in err


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
    assert f"left out: {mark} is no JSON" in err


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
