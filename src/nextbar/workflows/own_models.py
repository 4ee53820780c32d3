"""Models of the user's own by name: ``--model module:factory``, imported only because the user has typed it."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from nextbar.config import CommonConfig, NetworkOptions, SearchOptions
from nextbar.errors import ConfigError, ModelError, NextbarError
from nextbar.execution.by_value import send_by_value, send_imported_by_value
from nextbar.features.spec import load_function, working_folder
from nextbar.models.base import Model
from nextbar.models.estimator import Estimator
from nextbar.models.registry import check_model
from nextbar.option import flag
from nextbar.runs.run import Run
from nextbar.words import brief

Config = TypeVar("Config", bound=CommonConfig)
FACTORY = "a function without arguments that returns a scikit-learn estimator, a nextbar.Estimator or another model"
OPTIONS = {item.name: item for kind in (SearchOptions, NetworkOptions) for item in fields(kind)}
"""Options of a configuration that are parameters of a model."""


def load_model(name: str) -> Model:
    """Import a factory, ``module:factory``, and return the model that it makes; its code travels to workers."""
    before = set(sys.modules)
    factory = load_function(name, "--model", expected=FACTORY, error=ModelError)
    try:
        with working_folder():  # for what it imports when it is called
            made = factory()
    except NextbarError as error:
        raise ModelError(f"--model {name}: {error}") from error
    except (Exception, SystemExit) as error:  # nothing is trained where it exits, whatever code it exits with
        raise ModelError(f"--model {name} raised {type(error).__name__}: {error}; expected {FACTORY}") from error
    if not isinstance(made, Model) and (isinstance(made, type) or not hasattr(made, "get_params")):
        raise ModelError(f"--model {name} returned {brief(made)}; expected {FACTORY}")
    try:
        model = made if isinstance(made, Model) else Estimator(made)
        check_model(model)
        code = model.code
    except NextbarError as error:
        raise ModelError(f"--model {name}: {error}") from error
    except Exception as error:  # such as a get_params of the user's own
        raise ModelError(f"--model {name} returned a model that raises {type(error).__name__}: {error}") from error
    send_by_value(factory, *code)
    send_imported_by_value(before)
    return model


def named_model(config: Config, typed: Collection[str] = (), *, strict: bool = False) -> tuple[Config, Model]:
    """Make the model that a configuration names as ``module:factory``, and the configuration of its run.

    An option that is given takes the place of the model's own parameter: those that are ``typed``, and those that are
    not at their default. One that the model does not have says nothing, unless the reading is ``strict``.
    """
    name, model = config.model, load_model(config.model)  # type: ignore[attr-defined]
    values = {option: getattr(config, option) for option in OPTIONS}
    given = {option: value for option, value in values.items() if option in typed or value != OPTIONS[option].default}
    own = {item.name for item in fields(model)}
    if lost := [
        option for option in given if option not in own and (option == "pooled" or (strict and option in typed))
    ]:
        option = flag(lost[0])
        raise ConfigError(f"{option}: {name} makes a model that has no such parameter; leave {option} out")
    model = with_options(model, given)
    others = {option: item.default for option, item in OPTIONS.items() if option not in own}
    known = {item.name for item in fields(config)}
    chosen = {option: value for option, value in model.options().items() if option in known}
    return replace(config, **{**others, **chosen, "model": model.name}), model


def recorded_model(model: Model | None, run: Run) -> Model | None:
    """Return the user's own model with the parameters that its run records where a command could have given them."""
    if model is None or model.name != run.document.model:
        return model
    return with_options(model, run.config.to_json())


def with_options(model: Model, values: Mapping[str, Any]) -> Model:
    """Return a model with those of its parameters that are options of a configuration and stand in ``values``."""
    own = {item.name for item in fields(model)} & OPTIONS.keys()
    return replace(model, **{name: value for name, value in values.items() if name in own})
