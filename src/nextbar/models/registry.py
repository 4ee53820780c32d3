"""Kinds of model. A new kind is its module and one line here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from typing import Any

from nextbar.config import NetworkOptions, SearchOptions, TrainConfig, WalkForwardConfig
from nextbar.errors import ConfigError
from nextbar.models.base import Model
from nextbar.option import Options
from nextbar.words import brief, nearest


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Facts on a kind that do not need its module.

    Attributes:
        label: What the names of its files begin with.
        home: Its class, as module:class.
        title: Its name in a sentence about several.
    """

    label: str
    home: str
    title: str
    about: str

    @property
    def name(self) -> str:
        """Its name in a heading: that of its class, as words."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", self.home.rpartition(":")[2])

    def load(self) -> type[Model]:
        """Import its class."""
        module, _, name = self.home.partition(":")
        found: type[Model] = getattr(import_module(module), name)
        return found


KINDS: dict[str, Kind] = {
    "lstm": Kind(
        label="lstm",
        home="nextbar.models.lstm_model:LSTM",
        title="the LSTM",
        about="Train one LSTM on the windows of all tickers; it predicts the next close.",
    ),
    "rf": Kind(
        label="random_forest",
        home="nextbar.models.random_forest:RandomForest",
        title="Random Forests",
        about="Train a Random Forest per ticker: searched on train, threshold from validation, scored once on test.",
    ),
    "xgb": Kind(
        label="xgboost",
        home="nextbar.models.xgboost:XGBoost",
        title="XGBoost models",
        about="Train an XGBoost per ticker: searched on train, stopped early on validation, scored once on test.",
    ),
}


def model_of(kind: str, options: Options | Mapping[str, Any]) -> Model:
    """Make a model of a kind from options and from their ``parameters``; those that are not its own are left alone."""
    if kind not in KINDS:
        raise ConfigError(f"--model expects one of {', '.join(KINDS)}, got {brief(kind)}{nearest(str(kind), KINDS)}")
    values = options if isinstance(options, Mapping) else vars(options)
    values = {**(values.get("parameters") or {}), **values}
    own = KINDS[kind].load()
    return own(**{item.name: values[item.name] for item in fields(own) if item.name in values})


def check_model(model: object) -> None:
    """Refuse what is no model, or a model of the user's own that would be taken for another.

    Raises:
        ConfigError: It is no model; its name is that of a built-in kind, or cannot stand in a file name; or a parameter
            is named like an option of the run, or is no JSON value.
    """
    if not isinstance(model, Model):
        raise ConfigError(f"expected a model, such as nextbar.XGBoost() or nextbar.Estimator(…), got {brief(model)}")
    kind, name = type(model).__name__, model.name
    if name in KINDS and type(model) is not KINDS[name].load():
        raise ConfigError(f"{kind} has the name {brief(name)} of a built-in kind; give it another, as kind or label")
    if name == "all":
        raise ConfigError(
            f"{kind} has the name 'all', which means every built-in kind; give it another, as kind or label"
        )
    if not re.fullmatch(r"[a-z][a-z0-9]*", name):
        raise ConfigError(
            f"{kind}: a name of lower-case letters and digits is expected, got {brief(name)}; it names files"
        )
    if taken := sorted({item.name for item in fields(model)} & OPTIONS_OF_RUN):
        raise ConfigError(f"{kind}: {', '.join(taken)} is an option of the run; rename the parameter")
    try:
        json.dumps(model.options(), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{kind}: a parameter is not plain numbers, texts and lists of them ({error})") from error


OPTIONS_OF_RUN = {item.name for kind in (TrainConfig, WalkForwardConfig) for item in fields(kind)} - {
    item.name for kind in (SearchOptions, NetworkOptions) for item in fields(kind)
}
"""Names that a model's own parameter cannot have."""


def label_of(model: str) -> str:
    """Give what the names of a trained model's files begin with."""
    return KINDS[model].label if model in KINDS else f"estimator_{model}"


def check_kinds(kinds: Iterable[str]) -> None:
    """Refuse a name that is no kind of model."""
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(
                f"--model expects one of {', '.join([*KINDS, 'all'])}, or a function of yours as module:factory; "
                f"got {brief(kind)}{nearest(kind, [*KINDS, 'all'])}"
            )
