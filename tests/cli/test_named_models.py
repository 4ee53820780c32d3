"""`--model module:factory`: the user's own model in every command, imported only where the user has named it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from nextbar.config import WalkForwardConfig
from nextbar.errors import ConfigError, ModelError
from nextbar.workflows.own_models import load_model, named_model
from nextbar.workflows.walkforward import _own_sources

pytestmark = pytest.mark.usefixtures("inline_module")
HALF = """
def half(X):
    return X / 2
"""
FACTORIES = """
import sys

import own_helpers
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import nextbar as nb


class Halves(StandardScaler):
    def transform(self, X):
        return own_helpers.half(super().transform(X))


def logit():
    steps = make_pipeline(Halves(), LogisticRegression())
    return nb.Estimator(steps, label="logit", space={"logisticregression__C": [0.1, 1.0]}, n_iter=2, cv_splits=2)


def bare():
    return make_pipeline(StandardScaler(), Ridge())


@dataclass(frozen=True, kw_only=True)
class FittedShare(nb.Fitted):
    share: float

    def predict(self, table, rows):
        return np.full(len(rows), self.share)

    def files(self):
        return {".txt": b""}


@dataclass(frozen=True, kw_only=True)
class Share(nb.Model):
    kind: ClassVar[str] = "share"

    def fit(self, panel, request):
        return FittedShare(share=float(panel[0].train.y.mean()))


def share():
    return Share()


@dataclass(frozen=True, kw_only=True)
class FittedNothing(FittedShare):
    def predict(self, table, rows):
        return np.full(len(rows), np.nan)


@dataclass(frozen=True, kw_only=True)
class Nothing(Share):
    kind: ClassVar[str] = "nothing"

    def fit(self, panel, request):
        return FittedNothing(share=0.0)


def nothing():
    return Nothing()


def fails():
    raise KeyError("lost")


def three():
    return 3


def misnamed():
    return nb.Estimator(Ridge(), label="xgb")


def everything():
    return nb.Estimator(Ridge(), label="all")


def exits():
    sys.exit(0)


class Raising(Ridge):
    def get_params(self, deep=True):
        raise KeyError("no parameters")


def raising():
    return Raising()


number = 4
"""
WINDOWS = ["--train-years", "1", "--val-months", "3", "--test-months", "8", "--step-months", "8", "--no-report"]


@pytest.fixture
def run(
    command_line: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    market_db: Path,
    inline_module: Any,
) -> Any:
    """Runs the command line in a folder with a module of factories; gives exit code, standard output and error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEXTBAR_DB", str(market_db))
    monkeypatch.setenv("NEXTBAR_LEDGER", str(tmp_path / "ledger.db"))
    monkeypatch.setenv("NEXTBAR_JOURNAL", str(tmp_path / "journal.jsonl"))
    (tmp_path / "own_factories.py").write_text(FACTORIES, encoding="utf-8")
    (tmp_path / "own_broken.py").write_text("raise SystemExit(0)", encoding="utf-8")
    (tmp_path / "own_helpers.py").write_text(HALF, encoding="utf-8")

    def call(*arguments: Any) -> tuple[int, str, str]:
        code, out, err = command_line(*arguments)
        return code, out, " ".join(err.split())

    yield call
    for name in ("own_factories", "own_helpers"):
        sys.modules.pop(name, None)


def walk(run: Any, model: str, *options: str) -> tuple[int, str, str]:
    return run("walkforward", "--model", model, "--ticker", "AAA", "--warmup", "60", *WINDOWS, *options)


def document(pattern: str) -> tuple[Path, dict[str, Any]]:
    """Return the one document that fits."""
    (path,) = Path().glob(pattern)
    return path, json.loads(path.read_text(encoding="utf-8"))


def test_a_named_model_is_walked_forward_and_reproduced(run: Any) -> None:
    """The run has the model's name and parameters; only who names the factory again has it run again."""
    code, _, told = walk(run, "own_factories:logit")
    assert (code, "without a label" in told) == (0, False)
    path, found = document("results/walkforward_logit_AAA_*.json")
    assert found["config"]["model"] == found["model"] == "logit"
    assert (found["config"]["n_iter"], found["config"]["cv_splits"]) == (2, 2)
    assert "own_factories.Halves" in json.dumps(found["config"]["parameters"]) or "Halves" in str(found["config"])
    assert str(Path.cwd()) not in sys.path
    code, _, told = run("reproduce", path)
    assert (code, "run of your own model logit" in told) == (2, True)
    assert run("reproduce", path, "--model", "own_factories:bare")[0] == 2
    code, out, _ = run("reproduce", path, "--model", "own_factories:logit")
    assert (code, "bit-identical" in out) == (0, True)


def test_options_take_the_place_of_the_models_own(run: Any) -> None:
    """Those that are given, and not at their default; a run is reproduced by what it records, not by the factory."""
    assert (
        run("walkforward", "--model", "own_factories:logit", "--pooled", "--no-tune", "--warmup", "60", *WINDOWS)[0]
        == 0
    )
    path, found = document("results/walkforward_logit_*.json")
    assert (found["config"]["pooled"], found["config"]["no_tune"], found["config"]["n_iter"]) == (True, True, 2)
    assert {task["name"] for fold in found["folds"] for task in fold["tasks"]} == {"all"}
    code, out, _ = run("reproduce", path, "--model", "own_factories:logit")
    assert (code, "bit-identical" in out) == (0, True)


def test_a_named_model_is_trained_predicted_and_certified(run: Any) -> None:
    """A bare estimator becomes a model; its files are loaded with --trust and --model alone."""
    bare = ("train", "estimator", "--model", "own_factories:bare", "--ticker", "AAA,BBB", "--warmup", "60")
    code, out, told = run(*bare)
    assert (code, "pipeline" in out) == (0, True)
    assert "a pipeline without a label is called pipeline; to name it: nextbar.Estimator(" in told
    path, _ = document("models/estimator_pipeline_AAA_*_metadata.json")
    ask = ["predict", path, "--max-age-days", "20000"]
    assert "run of your own model pipeline" in run(*ask)[2]
    code, _, told = run(*ask, "--model", "own_factories:bare")
    assert (code, "if you trust its files, pass trust=True (in a command: --trust)" in told) == (2, True)
    code, _, told = run(*ask, "--trust")
    assert (code, "--trust is for a model of your own; name it, too" in told) == (2, True)
    assert not Path("journal.jsonl").exists()
    code, out, _ = run(*ask, "--model", "own_factories:bare", "--trust", "--json")
    (entry,) = json.loads(out)["predictions"]
    assert (code, entry["probability"], entry["predicted_close"] > 0) == (0, None, True)
    code, out, _ = run("certify", "estimator", "--model", "own_factories:bare", "--artifact", path)
    assert (code, "PASS" in out) == (0, True)
    code, _, told = run("certify", "estimator", "--model", "own_factories:share", "--artifact", path)
    assert (code, "is a run of pipeline, not of share" in told) == (2, True)


def test_of_several_models_those_of_ones_own_need_the_option(run: Any) -> None:
    """The others are predicted all the same, and the reason stands beside what was left out."""
    train = ["--ticker", "AAA", "--warmup", "60"]
    assert run("train", "estimator", "--model", "own_factories:bare", *train)[0] == 0
    assert run("train", "xgb", "--no-tune", *train)[0] == 0
    files = sorted(Path("models").glob("*_metadata.json"))
    code, out, _ = run("predict", *files, "--max-age-days", "20000", "--json")
    told = json.loads(out)
    assert (code, [item["kind"] for item in told["predictions"]]) == (0, ["xgb"])
    assert "run of your own model pipeline" in str(told["skipped"])
    own = ["--model", "own_factories:bare"]
    _, out, _ = run("predict", *files, "--max-age-days", "20000", "--json", *own, "--trust")
    assert [item["kind"] for item in json.loads(out)["predictions"]] == ["pipeline", "xgb"]
    code, _, told = run("predict", files[1], "--max-age-days", "20000", *own)
    assert (code, "is of a built-in kind, xgb; leave --model out" in told) == (2, True)


def test_a_run_file_names_models(run: Any) -> None:
    """They multiply with the other options, are told apart by name, and what is finished is not run again."""
    Path("own.toml").write_text(
        '[defaults]\nticker = "AAA"\nwarmup = 60\ntrain_years = 1\nval_months = 3\ntest_months = 8\n'
        'step_months = 8\nno_report = true\nno_tune = true\n[[run]]\nmodel = ["xgb", "own_factories:logit"]\n'
        "pooled = [false, true]\n",
        encoding="utf-8",
    )
    names = ["xgb", "xgb, pooled", "logit", "logit, pooled"]
    code, out, _ = run("run", "own.toml", "--dry-run")
    assert (code, out.splitlines()) == (0, [f"to run: {name}" for name in names])
    code, out, told = run("run", "own.toml")
    assert code == 0, told
    assert [line for line in out.splitlines() if line.startswith("finished")] == [f"finished: {name}" for name in names]
    _, out, _ = run("run", "own.toml")
    assert [line for line in out.splitlines() if line.startswith("fin")] == [
        f"finished before: {name}" for name in names
    ]
    Path("own.toml").write_text('[[run]]\nmodel = "own_factories:fails"\n', encoding="utf-8")
    code, _, told = run("run", "own.toml")
    assert (code, "[[run]] 1: model own_factories:fails raised KeyError" in told) == (2, True)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("own_factories:fails", "--model own_factories:fails raised KeyError: 'lost'; expected a function without"),
        ("own_factories:three", "--model own_factories:three returned 3; expected a function without arguments"),
        ("own_factories:number", "--model own_factories:number is int, expected a function without arguments"),
        ("own_factories:absent", "has no attribute 'absent'"),
        ("own_factories:misnamed", "has the name 'xgb' of a built-in kind"),
        ("own_factories:everything", "has the name 'all'"),
        ("own_factories:exits", "--model own_factories:exits raised SystemExit: 0; expected a function without"),
        ("own_factories:raising", "--model own_factories:raising returned a model that raises KeyError: 'no param"),
        ("../x:make", "--model expects module:function"),
        (".x:make", "--model expects module:function"),
        ("own_broken:make", "--model own_broken:make: importing it raised SystemExit: 0"),
        ("no_such_module:make", "No module named 'no_such_module'; it is looked for in"),
        (":make", "--model expects module:function"),
        ("nope", "--model expects one of lstm, rf, xgb, all, or a function of yours as module:factory; got 'nope'"),
    ],
    ids=[
        "raises",
        "number-made",
        "number",
        "absent",
        "misnamed",
        "all",
        "exits",
        "raises-later",
        "path",
        "relative",
        "exits-imported",
        "no-module",
        "no-name",
        "no-kind",
    ],
)
def test_a_model_that_cannot_be_made_is_refused(run: Any, model: str, told: str) -> None:
    """One message says what was expected; nothing is written."""
    code, _, error = walk(run, model)
    assert (code, told in error) == (2, True), error
    assert not Path("results").exists()


def test_a_model_that_predicts_nothing_writes_nothing(run: Any) -> None:
    """Where every prediction is NaN there is no run, and the reason is told."""
    code, _, told = run("train", "estimator", "--model", "own_factories:nothing", "--ticker", "AAA", "--warmup", "60")
    assert (code, "AAA: no test day has a prediction" in told) == (2, True), told
    assert not Path("models").exists()
    code, _, told = walk(run, "own_factories:nothing")
    assert (code, "no test day has a prediction" in told) == (2, True), told
    assert not list(Path().glob("results/*.json"))


def tuned() -> str:
    """Return the name of a factory whose search is in each fold."""
    Path("own_factories.py").write_text(
        FACTORIES + "\n\ndef tuned():\n    return dataclasses.replace(logit(), tune='each')\n\nimport dataclasses\n",
        encoding="utf-8",
    )
    return "own_factories:tuned"


def test_what_is_typed_wins_at_its_default_too(run: Any) -> None:
    """On the command line and in a run file; what is left out stays the model's own."""
    name = tuned()
    assert named_model(WalkForwardConfig(model=name))[0].tune == "each"
    assert named_model(WalkForwardConfig(model=name), ["tune"])[0].tune == "first"
    assert walk(run, name, "--tune", "first")[0] == 0
    assert document("results/walkforward_logit_AAA_*.json")[1]["config"]["tune"] == "first"
    Path("own.toml").write_text(f'[[run]]\nmodel = "{name}"\ntune = ["each", "first"]\nepochs = 3\n', encoding="utf-8")
    _, out, _ = run("run", "own.toml", "--dry-run")
    assert len(set(out.splitlines())) == 2


def test_a_typed_option_that_the_model_does_not_have_is_refused(run: Any) -> None:
    """Nothing that stands on the command line is dropped in silence."""
    code, _, told = walk(run, "own_factories:logit", "--epochs", "50")
    assert (code, "--epochs: own_factories:logit makes a model that has no such parameter; leave --e" in told) == (
        2,
        True,
    )
    assert not Path("results").exists()


@pytest.mark.parametrize("changed", ["own_factories.py", "own_helpers.py"])
def test_folds_of_other_code_are_not_resumed(run: Any, changed: str) -> None:
    """The code of a factory counts even where the model is of library classes alone, with what it imports."""
    model = load_model("own_factories:bare")
    before = _own_sources(model)
    assert _own_sources(model) == before
    Path(changed).write_text(Path(changed).read_text(encoding="utf-8") + "\nmore = 1\n", encoding="utf-8")
    assert _own_sources(model) != before


def test_wrong_options_of_a_named_model_are_refused(run: Any) -> None:
    """An option that the model cannot follow, a name without a module, and no name at all."""
    for options, told in (
        (
            ["--model", "own_factories:share", "--pooled"],
            "makes a model that has no such parameter; leave --pooled out",
        ),
        (["--model", "xgb"], "for a built-in kind: nextbar train xgb"),
        (["--model", "logit"], "--model expects module:factory, a function that returns a model; got 'logit'"),
        ([], "Missing option '--model'"),
        (["--model", "own_factories:bare", "--fast"], "--fast"),
    ):
        code, _, error = run("train", "estimator", *options)
        assert (code, told in error) == (2, True), error
    assert not Path("models").exists()


def test_options_that_a_model_does_not_have_make_no_other_run(run: Any) -> None:
    """An option of the LSTM says nothing about it, so that the configuration stays the same."""
    plain, model = named_model(WalkForwardConfig(model="own_factories:share"))
    other, _ = named_model(WalkForwardConfig(model="own_factories:share", epochs=3, no_tune=True))
    assert plain == other
    assert model.name == plain.model == "share"
    with pytest.raises(ModelError, match="raised"):
        load_model("own_factories:fails")
    with pytest.raises(ConfigError, match="searches at random only"):
        named_model(WalkForwardConfig(model="own_factories:logit", fast=True))


def test_the_code_of_a_named_model_travels_to_workers(run: Any, tmp_path: Path) -> None:
    """A process without the folder on its path can use the model, and the modules that its module imports."""
    model = load_model("own_factories:logit")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "model").write_bytes(cloudpickle.dumps(model))
    load = "import pickle; steps = pickle.load(open('model', 'rb')).estimator; "
    use = f"{load}print(steps[0].fit([[0.0], [2.0]]).transform([[2.0]]))"
    ended = subprocess.run(
        [sys.executable, "-P", "-c", use], cwd=tmp_path / "elsewhere", capture_output=True, text=True, check=False
    )
    assert ended.stdout.strip() == "[[0.5]]", ended.stderr
