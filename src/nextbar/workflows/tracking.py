"""Use case: log runs to the user's MLflow. No other module imports mlflow, and none imports this one at the top."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from nextbar.errors import NetworkError, OutputError, missing_extra, unreachable
from nextbar.reports.facts import RunFacts
from nextbar.runs.document import Document
from nextbar.runs.load import load_run
from nextbar.workflows.report import Report

try:
    import mlflow
except ImportError as error:
    raise missing_extra("--mlflow needs an extra", "mlflow") from error

EXPERIMENT = "nextbar"
"""Unless the environment's MLFLOW_EXPERIMENT_NAME or MLFLOW_EXPERIMENT_ID names another."""


PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "4", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
"""How long a server is asked whether it is there: its own defaults take minutes. Later requests have those."""


def logger(*, required: bool, tell: Callable[[str], None]) -> Callable[[Sequence[Report]], object]:
    """Return what logs reports, after a look at the server; where it does not answer, that is told once.

    Args:
        required: Whether a server that does not answer is an error.
        tell: Is told why nothing is logged.
    """

    def answered(work: Callable[[], None]) -> bool:
        try:
            work()
        except NetworkError as error:
            if required:
                raise
            tell(f"nothing is logged: {error}; --mlflow-required makes this an error")
            return False
        return True

    if not answered(lambda: choose_experiment(os.environ)):
        return lambda _reports: None
    return lambda reports: answered(lambda: log_reports(reports))


def choose_experiment(environment: Mapping[str, str]) -> None:
    """Refuse before any work an MLFLOW_TRACKING_URI that cannot be logged to."""
    with _answering(), _impatient():
        if {"MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"} & environment.keys():
            mlflow.search_experiments(max_results=1)
        else:
            mlflow.set_experiment(EXPERIMENT)


def log_reports(reports: Sequence[Report]) -> None:
    """Log an MLflow run per reported run; leave out pages that compare several runs."""
    with _answering():
        for report in reports:
            if len(report.runs) == 1:
                _log(report)


@contextmanager
def _impatient() -> Iterator[None]:
    """Wait for seconds, unless the user has said how long to wait."""
    added = {name: value for name, value in PATIENCE.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise OutputError(
            f"MLflow lacks a library for this MLFLOW_TRACKING_URI ({error}); install it, or name a server's address"
        ) from error
    except (mlflow.exceptions.MlflowException, OSError) as error:
        kind = NetworkError if unreachable(str(error)) else OutputError
        raise kind(f"MLflow does not answer as expected ({error}); check MLFLOW_TRACKING_URI") from error


def _log(report: Report) -> None:
    (facts,) = report.runs
    run = load_run(report.files[0])
    with mlflow.start_run(run_name=facts.name):
        mlflow.set_tags(_tags(facts, run.document))
        mlflow.log_params({name: value for name, value in run.document.config.items() if value is not None})
        mlflow.log_metrics(_numbers(facts.judgement.to_json()) | _numbers(facts.table[0]))
        for path in [run.mark, *(run.mark.parent / name for name in run.document.files), *report.files]:
            mlflow.log_artifact(str(path))


def _numbers(figures: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures that are numbers; those of an inner record, such as an interval, get its name as a prefix."""
    found: dict[str, float] = {}
    for name, value in figures.items():
        if isinstance(value, Mapping):
            found |= {f"{name}_{inner}": number for inner, number in _numbers(value).items()}
        elif isinstance(value, int | float) and math.isfinite(value):
            found[name] = float(value)
    return found


def _tags(facts: RunFacts, document: Document) -> dict[str, str]:
    return {
        "model": facts.model,
        "kind": facts.about["kind"],
        "verdict": facts.judgement.verdict.value,
        "reason": facts.judgement.reason,
        "nextbar": document.environment.versions["nextbar"],
    }
