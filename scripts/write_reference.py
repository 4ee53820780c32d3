"""Write `docs/reference.md`: every command and option, from the commands themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from nextbar.cli.main import COMMANDS, app_of

PAGE = Path(__file__).parents[1] / "docs" / "reference.md"
PARAGRAPH = "\n\n"
KINDS = {int: "INTEGER", float: "NUMBER", Path: "PATH"}
HEAD = """# Commands and options

Every long option is accepted with `-` and with `_`. `nextbar COMMAND --help` says the same.
`scripts/write_reference.py` writes this page.
"""


def reference() -> str:
    """Return the page."""
    parts = [HEAD]
    for name in COMMANDS:
        parts += _command(f"nextbar {name}", typer.main.get_command(app_of(name)))
    return "\n".join(parts)


def _command(name: str, command: Any) -> Iterator[str]:
    """Give the section of a command, or those of the commands in a group."""
    inner = getattr(command, "commands", {})
    for part in inner:
        yield from _command(f"{name} {part}", inner[part])
    if inner and not command.invoke_without_command:
        return
    shown = [item for item in command.params if item.name != "help" and not getattr(item, "hidden", False)]
    arguments = [item.name.upper() for item in shown if _is_argument(item)]
    yield f"## {' '.join([name, *arguments])}\n"
    yield f"{_plain((command.help or '').split(PARAGRAPH)[0])}\n"
    rows = [_row(item) for item in shown if not _is_argument(item)]
    if rows:
        yield "\n".join(["| option | default | what it does |", "|---|---|---|", *rows, ""])


def _is_argument(item: Any) -> bool:
    return bool(item.param_type_name == "argument")


def _row(item: Any) -> str:
    kind = "" if item.is_flag else f" {KINDS.get(item.type_descriptor.annotation, 'TEXT')}"
    known = item.default is None or item.is_flag or callable(item.default)
    default = "" if known else f"`{item.default}`"
    names = ", ".join(f"`{name}{kind}`" for name in item.opts)
    return f"| {names} | {default} | {_plain(item.help or '').replace('|', chr(92) + '|')} |"


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text.replace("\b", "")).strip()


if __name__ == "__main__":
    PAGE.write_text(reference())
    print(PAGE)  # noqa: T201 - where it was written
