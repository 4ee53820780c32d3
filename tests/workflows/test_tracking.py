"""What MLflow is told, with a stand-in for MLflow that remembers it."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nextbar.cli.main import main
from nextbar.errors import MissingExtraError


class FakeMlflow(SimpleNamespace):
    """The functions that are called, each call remembered under its name."""

    def __init__(self) -> None:
        super().__init__(told={}, files=[], exceptions=SimpleNamespace(MlflowException=KeyError))

    def set_experiment(self, name: str) -> None:
        self.told["experiment"] = name

    def start_run(self, run_name: str) -> Any:
        self.told["run"] = run_name
        return nullcontext()

    def set_tags(self, tags: dict[str, str]) -> None:
        self.told["tags"] = tags

    def log_params(self, params: dict[str, Any]) -> None:
        self.told["params"] = params

    def log_metrics(self, metrics: dict[str, float]) -> None:
        self.told["metrics"] = metrics

    def log_artifact(self, path: str) -> None:
        self.files.append(Path(path))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeMlflow:
    found = FakeMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", found)
    monkeypatch.delitem(sys.modules, "nextbar.workflows.tracking", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)
    return found


def test_a_training_run_is_logged_whole(fake, inline, make_bars, make_database, tmp_path) -> None:
    """Parameters, figures, every file of the run and its page; nothing that is not a number among the metrics."""
    db = make_database(tmp_path / "market.db", {"AAA": make_bars(700, seed=1)})
    with pytest.raises(SystemExit) as stopped:
        main(["train", "xgb", "--no-tune", "--db", str(db), "--save_dir", str(tmp_path / "m"), "--mlflow"])
    assert not stopped.value.code
    assert fake.told["experiment"] == "nextbar"
    assert fake.told["params"]["seed"] == 42
    assert {"sharpe", "balanced_accuracy", "dsr", "excess_low"} <= fake.told["metrics"].keys()
    assert all(isinstance(value, float) for value in fake.told["metrics"].values())
    assert fake.told["tags"]["verdict"] in {"EDGE", "INCONCLUSIVE", "NO EDGE"}
    assert sorted(path.name for path in fake.files) == sorted(path.name for path in (tmp_path / "m").iterdir())
    assert any(path.name.endswith("_report.html") for path in fake.files)


def test_without_mlflow_nothing_is_trained(monkeypatch, inline, tmp_path, capsys) -> None:
    """The missing extra is told before the database is even looked for."""
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.delitem(sys.modules, "nextbar.workflows.tracking", raising=False)
    with pytest.raises(SystemExit) as stopped:
        main(["train", "xgb", "--db", str(tmp_path / "no.db"), "--mlflow"])
    assert stopped.value.code == 2
    assert ".[mlflow]" in capsys.readouterr().err
    assert issubclass(MissingExtraError, ImportError)


@pytest.mark.parametrize(("name", "asked"), [(None, "set_experiment"), ("mine", "search_experiments")])
def test_a_tracking_place_that_lacks_a_library_is_told_first(monkeypatch, fake, tmp_path, capsys, name, asked) -> None:
    """The small client has no database driver: said before the database of bars is even looked for."""

    def refuse(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'alembic'")

    monkeypatch.setattr(fake, asked, refuse, raising=False)
    if name:
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", name)
    with pytest.raises(SystemExit) as stopped:
        main(["train", "xgb", "--db", str(tmp_path / "no.db"), "--mlflow"])
    assert stopped.value.code == 2
    assert "alembic" in (told := capsys.readouterr().err)
    assert "MLFLOW_TRACKING_URI" in told


@pytest.mark.parametrize("required", [False, True], ids=["asked for", "required"])
@pytest.mark.parametrize("when", ["set_experiment", "start_run"], ids=["before", "after"])
def test_a_server_that_is_down(monkeypatch, fake, inline, make_bars, make_database, tmp_path, capsys, when, required):
    """The run is made and a note says that nothing was logged; required, it is a failure of the network, exit 3."""

    def refuse(*_: object, **__: object) -> None:
        raise KeyError("API request failed: Connection refused")

    monkeypatch.setattr(fake, when, refuse, raising=False)
    db = make_database(tmp_path / "market.db", {"AAA": make_bars(700, seed=1)})
    option = "--mlflow-required" if required else "--mlflow"
    with pytest.raises(SystemExit) as stopped:
        main(["train", "xgb", "--no-tune", "--db", str(db), "--save_dir", str(tmp_path / "m"), option])
    assert stopped.value.code == (3 if required else 0)
    assert "Connection refused" in capsys.readouterr().err
    made = list((tmp_path / "m").glob("*_metadata.json"))
    assert len(made) == (0 if required and when == "set_experiment" else 1)
