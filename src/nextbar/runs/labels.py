"""What a run is called beside others: by the name that the user gave, else by its model and the options that differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import Field, fields
from typing import Any, TypeAlias

from nextbar.config import BUILT_IN, SEARCH, CommonConfig, identity_options, matters
from nextbar.words import excerpt

Described: TypeAlias = tuple[str, type[CommonConfig], Mapping[str, Any]]
"""A kind of model, the record that declares its options, and their recorded values."""
LONGEST_VALUE = 40
"""Characters of an option's value in a label."""
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
