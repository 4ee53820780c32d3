"""The `nextbar` command: a group that imports a subcommand when it is asked for, and the one place errors end."""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from nextbar.errors import NextbarError

COMMANDS = {
    "ingest": ("nextbar.cli.ingest", "Fill the database with bars."),
    "check": ("nextbar.cli.check", "Are the stored bars fit for training?"),
    "train": ("nextbar.cli.train", "Train lstm, rf or xgb and write artifacts."),
    "walkforward": ("nextbar.cli.walkforward", "Retrain fold after fold; what would it have earned?"),
    "certify": ("nextbar.cli.certify", "Prove that a model saw no future."),
    "reproduce": ("nextbar.cli.reproduce", "Train again from metadata; are the bits the same?"),
    "predict": ("nextbar.cli.predict", "Tomorrow's signal from a saved model."),
    "score": ("nextbar.cli.score", "What became of the predictions made so far?"),
    "report": ("nextbar.cli.report", "One page on what runs are worth, with the verdict on top."),
    "runs": ("nextbar.cli.runs", "List finished runs with their main figures."),
    "ledger": ("nextbar.cli.ledger", "List the configurations that were tried."),
    "demo": ("nextbar.cli.demo", "The whole way on real sample bars, in a folder of its own."),
}
EXIT_BAD_INPUT, EXIT_INTERRUPTED = 2, 130
NO_ROOM = "failed to map segment"
"""What the loader says of a library that finds no address space."""


class LazyGroup(TyperGroup):
    """Lists commands by name and help line; imports the one that is called."""

    def __init__(self, **options: Any) -> None:
        stubs = {name: TyperCommand(name, help=text) for name, (_, text) in COMMANDS.items()}
        super().__init__(**{**options, "commands": stubs})

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The real command in place of its stub."""
        name, command, rest = super().resolve_command(ctx, args)
        if name in COMMANDS:
            command = typer.main.get_command(import_module(COMMANDS[name][0]).app)
            # Typer keeps lines apart after a backspace character, which a raw docstring cannot hold.
            command.help = (command.help or "").replace(r"\b", "\b")
        return name, command, rest

    def invoke(self, ctx: Any) -> Any:
        """Run the command; what Typer would answer in its own way goes past it, to `main`."""
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, BrokenPipeError) as error:
            raise _PastTyper from error


class _PastTyper(BaseException):
    """Carries its cause."""


app = typer.Typer(
    cls=LazyGroup,
    help="Train models of a stock's next daily bar without seeing the future, and learn what they are worth.",
    epilog="Start with: nextbar demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={
        "token_normalize_func": lambda name: name.replace("_", "-"),
        "help_option_names": ["-h", "--help"],
    },
)


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version and stop.")) -> None:
    if version:
        sys.stdout.write(f"nextbar {import_module('nextbar').__version__}\n")
        raise typer.Exit


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # timeout, Slurm and docker stop: as by Ctrl-C
    try:
        app(args=arguments, prog_name="nextbar")
    except NextbarError as error:
        _say(f"nextbar: {error}")
        sys.exit(EXIT_BAD_INPUT)
    except (MemoryError, ImportError) as error:
        if isinstance(error, ImportError) and NO_ROOM not in str(error):
            raise
        reason = str(error) or "an allocation failed"
        _say(f"nextbar: not enough memory ({reason}); take fewer tickers at once or raise the limit (ulimit -v)")
        sys.exit(EXIT_BAD_INPUT)
    except (_PastTyper, KeyboardInterrupt) as error:
        if isinstance(error.__cause__, BrokenPipeError):
            # The reader of our output went away (`nextbar … | head`); Python would complain again while closing it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        _say("nextbar: interrupted; what was finished is kept, nothing is half-written")
        sys.exit(EXIT_INTERRUPTED)


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
