"""Command-line options made from the configuration records, so that an option is declared once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from nextbar.config import DB_VARIABLE, CommonConfig

Config = TypeVar("Config", bound=CommonConfig)
SPELLINGS = {"token_normalize_func": lambda name: name.replace("_", "-")}
"""Context settings of every group: a long option is accepted with `-` and with `_`."""
DatabaseOption = Annotated[
    str, typer.Option("--db", envvar=DB_VARIABLE, help="SQLite file or SQLAlchemy URL that holds the bars.")
]
LedgerOption = Annotated[
    str | None, typer.Option("--ledger", help="Trial ledger (default: NEXTBAR_LEDGER, else one file per user).")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def command_of(
    config_class: type[Config], run: Callable[[Config, bool], None], *, model: str | None = None
) -> Callable[..., None]:
    """A function that Typer turns into a command: one option per field of the configuration, and `--json`.

    Args:
        config_class: Record whose fields become options.
        run: Called with the configuration and whether JSON is wanted.
        model: Kind of model that the command is for; options that do not matter to it are left out. None: all options.
    """
    hints = get_type_hints(config_class)
    parameters = [_parameter(item, hints[item.name]) for item in fields(config_class) if _matters(item, model)]
    json_option = Annotated[bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel="Output")]
    parameters.append(_keyword("json", json_option, False))

    def command(**values: Any) -> None:
        as_json = values.pop("json")
        chosen = values if model is None else {**values, "model": model}
        run(config_class(**chosen), as_json)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {item.name: item.annotation for item in parameters}
    command.__doc__ = run.__doc__
    return command


def _matters(item: Field[Any], model: str | None) -> bool:
    return "text" in item.metadata and (model is None or model in item.metadata["kinds"])


def _parameter(item: Field[Any], hint: Any) -> inspect.Parameter:
    meta = item.metadata
    name = f"--{item.name.replace('_', '-')}"
    text = f"{meta['text']} ({', '.join(meta['choices'])})" if meta["choices"] else meta["text"]
    # One spelling: without it Typer would offer --no-raw, --no-no-tune and the like.
    shown = {"rich_help_panel": meta["group"], "show_default": item.default is not None, "envvar": meta["variable"]}
    option = typer.Option(name, help=text, **shown)
    return _keyword(item.name, Annotated[hint, option], None if item.default is MISSING else item.default)


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
