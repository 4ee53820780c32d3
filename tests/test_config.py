"""Options are declared once: their checks, what they default to, and whether they make another trial."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any

import pytest

from nextbar.config import CertifyConfig, CommonConfig, TrainConfig, WalkForwardConfig
from nextbar.errors import ArtifactError, ConfigError
from nextbar.models.registry import model_of
from nextbar.option import option
from nextbar.runs.labels import identity_options
from nextbar.runs.load import read_config
from nextbar.runs.trial import identify, record_of

PLACES = [
    "db",
    "engine",
    "jobs",
    "ledger",
    "mlflow",
    "mlflow_required",
    "name",
    "no_report",
    "trades",
    "output_dir",
    "resume",
    "save_dir",
    "scheduler",
    "refit",
]


@dataclass(frozen=True, kw_only=True)
class TailConfig(TrainConfig):
    """A training run as a later version may declare it."""

    tail: float = option(0.0, "A new option.")


def name_of(config: TrainConfig | WalkForwardConfig) -> str:
    kind = "walkforward" if isinstance(config, WalkForwardConfig) else "train"
    return identify(kind, config.model, json.loads(json.dumps(config.to_json())))


def test_what_changes_no_result_is_declared() -> None:
    """Places, processes, pages and the name, and nothing else."""
    declared = {item.name for item in (*fields(TrainConfig), *fields(WalkForwardConfig))}
    decisive = {*TrainConfig().decisive(), *WalkForwardConfig().decisive()}
    assert declared - decisive == set(PLACES)
    assert {item.name for item in fields(CertifyConfig)} - declared == {
        "walkforward",
        "artifact",
        "certify_seconds",
        "allow_reads",
    }


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({"seed": 7}, False),
        ({"cost_bps": 1.0}, False),
        ({"start": "2012-01-01"}, False),
        ({"features": "mine:f"}, False),
        (
            {"db": "other.db", "engine": "dask", "scheduler": "tcp://there:1", "ledger": "x.db", "save_dir": "there"},
            True,
        ),
        ({"jobs": 3, "mlflow": True, "name": "Baseline"}, True),
        ({"ticker": "AAPL"}, True),
        ({"epochs": 7}, True),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else str(value),
)
def test_what_makes_another_configuration(changed: dict[str, Any], same: bool) -> None:
    """What changes a tree's result does; places, processes, an LSTM's options do not; tickers are named apart."""
    assert (name_of(TrainConfig(model="rf", **changed)) == name_of(TrainConfig(model="rf"))) is same


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "\x1b[2J", "\u202eabc", "x" * 61, 3], ids=repr)
def test_a_name_that_no_table_can_show_is_refused(name: Any) -> None:
    """Control characters, bidirectional overrides, nothing, and more than 60 characters."""
    with pytest.raises(ConfigError, match="--name expects 1 to 60 characters"):
        TrainConfig(name=name)
    assert TrainConfig(name="ä" * 60).name == "ä" * 60


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"model": "rf"}, {"model": "rf", "search": "random"}, True),
        ({"model": "rf", "fast": True}, {"model": "rf", "fast": True, "search": "halving"}, True),
        ({"model": "rf", "fast": True}, {"model": "rf", "search": "halving"}, False),
        ({"model": "rf", "search": "halving"}, {"model": "rf"}, False),
        ({"model": "rf"}, {"model": "rf", "n_iter": 3}, False),
        ({"model": "rf"}, {"model": "rf", "no_tune": True}, False),
        ({"model": "rf"}, {"model": "rf", "tune": "each"}, True),
        ({"model": "rf", "no_tune": True}, {"model": "rf", "tune": "none"}, True),
        ({"model": "rf"}, {"model": "xgb"}, False),
        ({"model": "rf", "no_tune": True}, {"model": "rf", "no_tune": True, "n_iter": 3, "fast": True}, True),
        ({"model": "rf", "cost_bps": 1}, {"model": "rf", "cost_bps": 1.0}, True),
        ({"model": "lstm"}, {"model": "lstm", "no_tune": True, "cv_splits": 3}, True),
        ({"model": "lstm"}, {"model": "lstm", "epochs": 3}, False),
        ({"model": "rf"}, {"model": "rf", "split_by": "date"}, False),
    ],
    ids=str,
)
def test_one_configuration_has_one_name(one: dict[str, Any], other: dict[str, Any], same: bool) -> None:
    """However it is asked for."""
    assert (name_of(TrainConfig(**one)) == name_of(TrainConfig(**other))) is same


def test_a_walk_forward_without_search_has_one_name() -> None:
    """`--tune none` is `--no-tune`, and neither is a training run."""
    none, no = WalkForwardConfig(model="rf", tune="none"), WalkForwardConfig(model="rf", no_tune=True, n_iter=3)
    assert name_of(none) == name_of(no) != name_of(WalkForwardConfig(model="rf"))
    assert name_of(no) != name_of(TrainConfig(model="rf", no_tune=True))
    assert name_of(WalkForwardConfig(model="rf", tune="each")) != name_of(WalkForwardConfig(model="rf"))


def test_values_at_their_default_tell_nothing() -> None:
    """So a recorded configuration that lacks an option is the one that states its default."""
    recorded = TrainConfig(model="rf", seed=7).to_json()
    assert identity_options(TrainConfig, recorded, "rf") == {"seed": 7}
    assert identify("train", "rf", {"seed": 7}) == identify("train", "rf", recorded)


@pytest.mark.parametrize("seed", [7, 42])
def test_a_new_option_recounts_nothing(seed: int) -> None:
    """A version with one more option names each older configuration by the same options; another value is one more."""
    older, newer = (kind(model="rf", seed=seed).to_json() for kind in (TrainConfig, TailConfig))
    before = identity_options(TrainConfig, older, "rf")
    assert identity_options(TailConfig, newer, "rf") == identity_options(TailConfig, older, "rf") == before
    assert identity_options(TailConfig, newer | {"tail": 0.5}, "rf") == before | {"tail": 0.5}


def test_a_new_option_breaks_no_older_run() -> None:
    """A recorded configuration that lacks it was made with its default."""
    recorded = TrainConfig(model="xgb", seed=7).to_json()
    assert read_config(TailConfig, recorded, "run.json") == TailConfig(model="xgb", seed=7, tail=0.0)


@pytest.mark.parametrize(("kind", "config"), [("train", TrainConfig()), ("walkforward", WalkForwardConfig())])
def test_a_configuration_of_nothing_is_that_of_the_defaults(kind: str, config: CommonConfig) -> None:
    """Every option has one."""
    assert read_config(record_of(kind), {}, "run.json") == config


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"tail": 0.0}, r"run\.json: this nextbar does not know the recorded options tail; a newer nextbar wrote"),
        ({"train_years": 3}, "does not know the recorded options train_years"),
        ({"warmup": "many"}, r"run\.json .*warmup is 'many'"),
        ({"seed": None}, "seed is None"),
        ({"cv_splits": 0}, "--cv-splits expects at least 2, got 0"),
        ({"start": 5}, r"run\.json .*refused"),
    ],
    ids=str,
)
def test_a_configuration_that_cannot_be_read_is_refused(config: Any, told: str) -> None:
    """With the file, the option, and what to do."""
    with pytest.raises(ArtifactError, match=told):
        read_config(TrainConfig, config, "run.json")


def test_identity_reads_what_another_version_stored() -> None:
    """An option that this version does not know counts: it may have changed the result."""
    assert identity_options(CommonConfig, {"seed": 42, "weather": "fair"}, "rf") == {"weather": "fair"}


@pytest.mark.parametrize(
    ("given", "kept"),
    [("sharpe", "sharpe"), ("balanced_accuracy", "balanced_accuracy"), ("0.50", "0.5"), (0.5, "0.5"), ("3e-1", "0.3")],
    ids=["sharpe", "balanced accuracy", "text", "number", "exponent"],
)
def test_threshold_is_an_objective_or_a_number(given: Any, kept: str) -> None:
    """Every spelling of a number is one configuration; the default is the Sharpe ratio."""
    assert TrainConfig(threshold=given).threshold == kept
    assert TrainConfig(threshold=given).to_json()["threshold"] == kept
    assert CommonConfig().threshold == "sharpe"


@pytest.mark.parametrize("wrong", ["", "Sharpe", "0", "1", "1.5", "inf", True], ids=str)
def test_other_thresholds_are_refused(wrong: Any) -> None:
    """The message says what was expected and what came."""
    with pytest.raises(ConfigError, match=r"--threshold expects sharpe, balanced_accuracy or a number between 0 and 1"):
        CommonConfig(threshold=wrong)


@pytest.mark.parametrize("name", ["threshold", "cost_bps", "seed", "ticker"])
def test_none_is_refused_where_a_value_is_needed(name: str) -> None:
    """Leaving an option out is not the same as giving None."""
    with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')} expects a value, got None"):
        CommonConfig(**{name: None})


@pytest.mark.parametrize(("model", "draws"), [("rf", 20), ("xgb", 25)])
def test_the_number_of_draws_that_is_the_default_tells_nothing(model: str, draws: int) -> None:
    """Typing the number of candidates that the search draws anyway is no other configuration."""
    plain = identify("train", model, {})
    assert identify("train", model, {"n_iter": draws}) == plain
    assert identify("train", model, {"n_iter": None}) == plain
    assert identify("train", model, {"n_iter": 45 - draws}) != plain
    assert model_of(model, TrainConfig(model=model)).draws == draws  # type: ignore[attr-defined]


@pytest.mark.parametrize("option", ["max_gap_days", "purge", "cost_bps", "epochs"])
def test_absurd_recorded_numbers_are_refused(option: str) -> None:
    """A number that no calendar and no processor knows is refused with its option; a seed may be of any size."""
    for value in (2**63, 10**30):
        with pytest.raises(ArtifactError, match=f"x.json is refused.*{option} is"):
            read_config(TrainConfig, {option: value}, "x.json")
    assert read_config(TrainConfig, {"seed": 10**30}, "x.json").seed == 10**30
