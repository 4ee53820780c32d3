"""Command-line options made from the configuration records, so that an option is declared once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Container
from dataclasses import MISSING, Field, fields
from functools import partial
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from nextbar.cli.main import SPELLINGS
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


def command(
    record: type[Config], *, only: Container[str] | None = None, model: str | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command of a function: an option per field of a record (or ``only`` some), its own parameters, `--json`.

    The function takes the record, whether JSON is asked for, and parameters that are annotated as Typer reads them;
    those that a partial has set are none of the command's.
    """
    hints = get_type_hints(record)
    chosen = [item for item in fields(record) if _offered(item, model) and (only is None or item.name in only)]
    # an option of a search that the kind does not have is taken and not shown
    options = [_option(item, hints[item.name], hidden=is_idle(item.name, model or "")) for item in chosen]

    def made(run: Callable[..., None]) -> Callable[..., None]:
        own = _own_parameters(run)
        needed = [one for one in own if one.default is one.empty]
        others = [one for one in own if one.default is not one.empty]
        parameters = [*needed, *options, *others, _parameter("as_json", JsonOption, False)]

        def called(**values: Any) -> None:
            mine = {one.name: values.pop(one.name) for one in own}
            as_json = values.pop("as_json")
            run(record(**values, **({} if model is None else {"model": model})), as_json, **mine)

        called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        called.__annotations__ = {item.name: item.annotation for item in parameters}
        called.__doc__ = run.__doc__
        return called

    return made


def group_of(text: str, **options: Any) -> typer.Typer:
    """Make a group of commands from its help; without a command it shows that help."""
    return typer.Typer(
        **{"no_args_is_help": True, **options}, add_completion=False, context_settings=SPELLINGS, help=text
    )


def _own_parameters(run: Callable[..., None]) -> list[inspect.Parameter]:
    """Return the parameters of a function beside the record and JSON, but those that a partial has set."""
    function, known = (run.func, run.keywords) if isinstance(run, partial) else (run, {})
    hints = get_type_hints(function, include_extras=True)
    _record, _as_json, *own = inspect.signature(function).parameters.values()
    return [_parameter(one.name, hints[one.name], one.default) for one in own if one.name not in known]


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
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
    return _parameter(item.name, Annotated[hint, option], None if item.default is MISSING else item.default)
