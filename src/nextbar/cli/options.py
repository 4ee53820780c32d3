"""Command-line options made from the configuration records, so that an option is declared once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Container, Sequence
from dataclasses import MISSING, Field, fields
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from nextbar.config import DB_VARIABLE
from nextbar.option import Options, flag
from nextbar.runs.labels import is_idle, matters

Config = TypeVar("Config", bound=Options)
DatabaseOption = Annotated[
    str, typer.Option("--db", envvar=DB_VARIABLE, help="SQLite file or SQLAlchemy URL that holds the bars.")
]
LedgerOption = Annotated[
    str | None, typer.Option("--ledger", help="Trial ledger (default: NEXTBAR_LEDGER, else one file per user).")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel="Output")]


def command_of(
    record: type[Config],
    run: Callable[..., None],
    *,
    more: Sequence[inspect.Parameter] = (),
    only: Container[str] | None = None,
    model: str | None = None,
) -> Callable[..., None]:
    """Make a command from a record: an option per field (or ``only`` some), ``more`` parameters, and `--json`."""
    hints = get_type_hints(record)
    chosen = [item for item in fields(record) if _offered(item, model) and (only is None or item.name in only)]
    # an option of a search that the kind does not have is taken and not shown
    options = [_option(item, hints[item.name], hidden=is_idle(item.name, model or "")) for item in chosen]
    needed = [one for one in more if one.default is one.empty]
    others = [one for one in more if one.default is not one.empty]
    parameters = [*needed, *options, *others, parameter("as_json", JsonOption, False)]

    def command(**values: Any) -> None:
        own = {argument.name: values.pop(argument.name) for argument in more}
        as_json = values.pop("as_json")
        run(record(**values, **({} if model is None else {"model": model})), as_json, **own)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {item.name: item.annotation for item in parameters}
    command.__doc__ = run.__doc__
    return command


def parameter(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    """Make a parameter of a command from its Typer annotation."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _offered(item: Field[Any], model: str | None) -> bool:
    return "text" in item.metadata and (model is None or matters(item, model))


def _option(item: Field[Any], hint: Any, *, hidden: bool) -> inspect.Parameter:
    meta = item.metadata
    text = f"{meta['text']} ({', '.join(meta['choices'])})" if meta["choices"] else meta["text"]
    # One spelling: without it Typer would offer --no-raw, --no-no-tune and the like.
    name = flag(item.name)
    shown = {"rich_help_panel": meta["group"], "show_default": item.default is not None, "envvar": meta["variable"]}
    option = typer.Option(name, help=text, hidden=hidden, **shown)
    return parameter(item.name, Annotated[hint, option], None if item.default is MISSING else item.default)
