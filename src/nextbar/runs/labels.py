"""Which options tell one run from another: those that make its identity, and those by which it is called beside others.

A run is called by the name that the user gave, else by its model and the options that differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, fields
from typing import TYPE_CHECKING, Any, TypeAlias

from nextbar.config import (
    BUILT_IN,
    DRAWS,
    STEP_MONTHS,
    CertifyConfig,
    CommonConfig,
    TrainConfig,
    WalkForwardConfig,
    search_method,
)
from nextbar.option import affects_result, flag
from nextbar.types import JsonDict
from nextbar.words import excerpt, listed

if TYPE_CHECKING:  # it imports pandas, which the help of a command does not need
    from nextbar.models.base import Model

Described: TypeAlias = tuple[str, type[CommonConfig], Mapping[str, Any]]
"""A kind of model, the record that declares its options, and their recorded values."""
SEARCH = ("no_tune", "tune", "n_iter", "cv_splits", "search", "fast", "space")
"""Options of the search, which change nothing where nothing is searched."""
SCOPE = ("model", "ticker", "max_tickers")
"""Options that a trial states otherwise: it names its model and its tickers."""
LONGEST_VALUE = 40
"""Characters of an option's value in a label."""
OF_ONE_SPLIT = ("train_split", "val_split", "split_by", "refit")
"""Options of a training run that a walk-forward does not have."""
OF_A_SAVED_RUN = (
    "db",
    "features",
    "panel_features",
    "engine",
    "jobs",
    "scheduler",
    "certify_seconds",
    "allow_reads",
    "artifact",
    "model",
)
"""Options that a certificate of a run on disk uses; the run has its own values of the others."""
OF_A_MODEL = {item.name for item in fields(CommonConfig) if item.metadata.get("kinds")} | {*SEARCH, "parameters"}
"""Options that are settings of some kinds of model alone."""


def labels(described: Sequence[Described]) -> list[str]:
    """Label each configuration; where several have one name, what differs between these stands behind it."""
    parts = [[one[0], *options] for one, options in zip(described, differing_options(described), strict=True)]
    names = [str(values.get("name") or "") for _, _, values in described]
    for name in {*names} - {""}:
        own = {at: one for at, one in enumerate(described) if names[at] == name}
        several = len({model for model, _, _ in own.values()}) > 1
        for at, options in zip(own, differing_options([*own.values()]), strict=True):
            parts[at] = [name, *([described[at][0]] if several else []), *options]
    return [", ".join(one) for one in parts]


def mentions(described: Sequence[Described]) -> list[str]:
    """Label each configuration as `labels` does, with its model where the label does not say it."""
    pairs = zip(labels(described), (model for model, _, _ in described), strict=True)
    return [label if model in label.split(", ") else f"{label}, {model}" for label, model in pairs]


def differing_options(described: Sequence[Described]) -> list[list[str]]:
    """Return for each configuration the options whose values are not the same in all."""
    own = [identity_options(record, values, model) for model, record, values in described]
    names = sorted({name for one in own for name in one})
    texts = [{name: _text(name, options, one) for name in names} for options, one in zip(own, described, strict=True)]
    models = [model for model, _, _ in described]
    found = {name: {(model, text[name]) for model, text in zip(models, texts, strict=True)} for name in names}
    return [
        [value for name, value in text.items() if value and len(_values(name, model, found[name])) > 1]
        for model, text in zip(models, texts, strict=True)
    ]


def _values(name: str, model: str, found: set[tuple[str, str | None]]) -> set[str]:
    """Return the values of an option that a run is told apart by.

    A setting of a model says nothing beside a kind that does not have it, or has another one of that name.
    """
    return {
        text or ""
        for kind, text in found
        if (text is not None or kind == model)
        and (kind == model or name not in OF_A_MODEL or {kind, model} <= {*BUILT_IN})
    }


def _text(name: str, options: Mapping[str, Any], described: Described) -> str | None:
    """Write the value of an option; empty where nothing is to be said; None where the model has no such option."""
    model, record, values = described
    if name not in options and not _has(model, name, record):
        return None
    value = options[name] if name in options else values.get(name, _declared(record)[name].default)
    if name == "features":
        return f"features {value or 'levels'}" if value or not values.get("features_only") else ""
    if value is True:
        return name
    return "" if value is None or value is False else f"{name} {excerpt(value, LONGEST_VALUE)}"


def _declared(record: type[CommonConfig]) -> Mapping[str, Field[Any]]:
    return {item.name: item for item in fields(record)}


def _has(model: str, name: str, record: type[CommonConfig]) -> bool:
    """Return whether an option at its default says anything about a kind of model."""
    declared = _declared(record)
    if name not in declared or name == "parameters" or model == "signals":
        return False
    if name in OF_A_MODEL:
        return model in BUILT_IN and matters(declared["search" if name in SEARCH else name], model)
    return True


def identity_options(kind: type[CommonConfig], values: Mapping[str, Any], model: str) -> JsonDict:
    """Return the options that identify a configuration: those that change the result and are not at their default.

    A missing option is at its default; an unknown one counts.
    """
    known = _declared(kind)
    searching = matters(known["search"], model)
    searched = searching and not values.get("no_tune") and values.get("tune") != "none"
    left_out = {*SCOPE, "search"} if searched else {*SCOPE, *SEARCH}
    if not issubclass(kind, WalkForwardConfig):  # a single fit cannot take over the parameters of another
        left_out.add("tune")
    found = {
        name: _as_declared(known.get(name), value)
        for name, value in values.items()
        if name not in left_out and _tells(known.get(name), value, model)
    }
    if searching and not searched:
        found["no_tune"] = True
    elif searched and search_method(values) == "halving":
        found["search"] = "halving"
    return found


def _tells(item: Field[Any] | None, value: Any, model: str) -> bool:
    """Whether an option's value makes another configuration of the model."""
    if item is None:
        return True
    stated = {"n_iter": DRAWS.get(model), "step_months": STEP_MONTHS}
    default = item.default if value is None else stated.get(item.name, item.default)
    return affects_result(item) and matters(item, model) and value != default


def _as_declared(item: Field[Any] | None, value: Any) -> Any:
    """Return a whole number as a float where the option is one: 1 and 1.0 are the same costs."""
    number = item is not None and "float" in str(item.type) and isinstance(value, int) and not isinstance(value, bool)
    return float(value) if number else value


def matters(item: Field[Any], model: str) -> bool:
    """Whether an option matters to a kind of model; any may matter to a kind that is not built in."""
    kinds = item.metadata.get("kinds") or (model,)
    return model in kinds or model not in BUILT_IN


def is_idle(name: str, model: str) -> bool:
    """Whether an option changes nothing for a kind of model: another kind has it, or the kind has no search."""
    item = _declared(CommonConfig).get(name)
    searchless = name in SEARCH and not matters(_declared(CommonConfig)["search"], model)
    return item is not None and (searchless or not matters(item, model))


def tell_idle(names: Iterable[str], models: Sequence[str], idle: Callable[[str, str], bool] = is_idle) -> list[str]:
    """Say which of some options change nothing for any of these models, as ``idle`` decides.

    ``no_tune`` is left out, because a model without a search does what it asks for, and so is ``max_tickers``, which
    limits pooled models of every kind.
    """
    lost = [
        name for name in names if name not in ("no_tune", "max_tickers") and all(idle(name, model) for model in models)
    ]
    owners = {name: " and ".join(kind for kind in BUILT_IN if not is_idle(name, kind)) for name in lost}
    told = f"changes nothing for {listed(models)}: it is an option of"
    return [f"{flag(name)} {told} {owner}" for name, owner in owners.items()]


def tell_unused(names: Sequence[str], configs: Sequence[tuple[CommonConfig, Model | None]]) -> list[str]:
    """Say which of some options change nothing, as `tell_idle` and `tell_overruled` find them."""
    return [*tell_idle(names, [vars(config)["model"] for config, _ in configs]), *tell_overruled(names, configs)]


def tell_overruled(names: Iterable[str], configs: Sequence[tuple[CommonConfig, Model | None]]) -> list[str]:
    """Say which of some options change nothing in any of these configurations, because of another option.

    Each configuration comes with its model, which may be None for a built-in kind. What `tell_idle` says of a kind of
    model is not said again.
    """
    told = []
    for name in names:
        reasons = [
            _overruled(name, config, model)
            for config, model in configs
            if name == "max_tickers" or not is_idle(name, vars(config)["model"])
        ]
        if reasons and all(reasons):
            told.append(f"{flag(name)} changes nothing: {'; '.join(dict.fromkeys(reasons))}")
    return told


def _overruled(name: str, config: CommonConfig, model: Model | None) -> str:
    """Return why an option changes nothing; empty where it may change something."""
    if isinstance(config, CertifyConfig) and (why := _not_certified(name, config)):
        return why
    if name in SEARCH:
        return _not_searched(name, config, model)
    global_model = config.pooled or vars(config)["model"] == "lstm" if model is None else not model.per_ticker
    if name == "max_tickers" and not global_model:
        return "there is a model per ticker, and all tickers are used"
    if name == "jobs" and config.engine == "serial":
        return "--engine serial is one process"
    return "--mlflow logs the pages" if name == "no_report" and config.mlflow else ""


def _not_searched(name: str, config: CommonConfig, model: Model | None) -> str:
    """Return why an option of the search changes nothing; empty where it may change something."""
    if (name, value := vars(config)[name]) in (("no_tune", True), ("tune", "none")) or value is False:
        return ""
    if config.no_tune or config.tune == "none":
        return f"{'--no-tune' if config.no_tune else '--tune none'} leaves the search out"
    if model is not None and not model.searches:
        return "the model has no space to search"
    one_fold = isinstance(config, TrainConfig) and not vars(config).get("walkforward")
    return "a training run has one fold" if one_fold and value == "each" else ""


def _not_certified(name: str, config: CertifyConfig) -> str:
    """Return why an option changes nothing for a certificate; empty where it may change something."""
    if config.artifact is not None and name in vars(config) and name not in OF_A_SAVED_RUN:
        return "the run of --artifact has its own options"
    if config.walkforward and name in OF_ONE_SPLIT:
        return "--walkforward uses windows"
    if name in ("mlflow", "mlflow_required"):
        return "certify logs nothing to MLflow"
    own = ":" in f"{config.features}{config.panel_features}"
    return "" if own or name != "allow_reads" else "the built-in features read no files"
