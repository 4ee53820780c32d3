"""The `nextbar` command: a group that imports a subcommand when it is called; errors become exit codes here."""

from __future__ import annotations

import os
import re
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from importlib import import_module
from inspect import cleandoc
from itertools import takewhile
from time import monotonic
from traceback import walk_tb
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from nextbar.cli.log import log
from nextbar.errors import ConfigError, NetworkError, NextbarError, Remark, ScreenError
from nextbar.words import brief, nearest, printable

COMMANDS = {
    "ingest": ("nextbar.cli.ingest:app", "Fill the database with bars."),
    "check": ("nextbar.cli.ingest:check", "Find errors and suspicious values in the stored bars."),
    "train": ("nextbar.cli.commands:train_app", "Train lstm, rf, xgb or your own model; write artifacts."),
    "walkforward": ("nextbar.cli.commands:walk_forward", "Train again for each test window; show what it earned."),
    "certify": ("nextbar.cli.commands:certify_app", "Prove that a model saw no future."),
    "reproduce": ("nextbar.cli.commands:reproduce", "Train again from metadata, and compare every bit."),
    "predict": ("nextbar.cli.signals:predict", "Give tomorrow's signal from a saved model."),
    "promote": ("nextbar.cli.signals:promote", "Give runs a name, such as production, for predict and score."),
    "score": ("nextbar.cli.signals:score", "Compare past predictions with what happened."),
    "journal": ("nextbar.cli.signals:journal", "List the predictions made, which of them counted, and why."),
    "judge": ("nextbar.cli.signals:judge", "Score signals of any model, made anywhere, from a file."),
    "report": ("nextbar.cli.commands:report", "Write one page on what runs are worth, with the verdict on top."),
    "run": ("nextbar.cli.experiments:run", "Walk forward all runs of a run file, then compare them."),
    "compare": ("nextbar.cli.experiments:compare", "Show runs side by side on their common days, with differences."),
    "holdout": ("nextbar.cli.ledger:holdout_app", "Score a run on held-out bars, and count how often."),
    "runs": ("nextbar.cli.commands:runs", "List finished runs with their main figures."),
    "ledger": ("nextbar.cli.ledger:ledger_app", "List the configurations that were tried, or remove some."),
    "demo": ("nextbar.cli.demo:demo", "Do all of this on real sample bars, in a folder of its own."),
}
"""Name of a command → function or group that carries it out, and its line of help."""


def _spelled(name: str) -> str:
    """Return the one spelling of an option, which is accepted with - and with _."""
    return name.replace("_", "-")


SPELLINGS = {"token_normalize_func": _spelled}
"""Context settings of every group: a long option is accepted with `-` and with `_`."""
EXIT_NOT_SHOWN, EXIT_BAD_INPUT, EXIT_NETWORK, EXIT_INTERRUPTED = 1, 2, 3, 130
NO_MEMORY = "failed to map segment"
"""Message of the loader where a library finds no address space."""


def app_of(name: str) -> typer.Typer:
    """Import a command; make an application of it where it is a function."""
    module, _, member = COMMANDS[name][0].partition(":")
    found = getattr(import_module(module), member)
    if isinstance(found, typer.Typer):
        return found
    application = typer.Typer(context_settings=SPELLINGS, add_completion=False)
    application.command()(found)
    return application


class LazyGroup(TyperGroup):
    """Lists commands by name and help line; imports the one that is called."""

    def __init__(self, **options: Any) -> None:
        stubs = {name: TyperCommand(name, help=text) for name, (_, text) in COMMANDS.items()}
        super().__init__(**{**options, "commands": stubs})
        _check_values(self)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Replace the stub of a command by the command."""
        name, command, rest = super().resolve_command(ctx, args)
        if name in COMMANDS:
            command = typer.main.get_command(app_of(name))
            for one in (command, *getattr(command, "commands", {}).values()):
                text = cleandoc(one.help or "")
                one.help = text if one.rich_markup_mode == "markdown" else _flowing(text)
                _check_values(one)
            _tidy_help(command, ctx)
            _refuse_repeats(ctx, command, rest)
        return name, command, rest

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the options before the command."""
        with _in_our_words():
            return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help of all commands as that of each is written."""
        _tidy_help(self, ctx)
        super().format_help(ctx, formatter)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; pass on to `main` what Typer would handle itself."""
        try:
            with _in_our_words():
                return super().invoke(ctx)
        except (KeyboardInterrupt, BrokenPipeError) as error:
            raise _PastTyper from error


_UsageError: Any = typer.BadParameter.__base__  # Click's, or that of the copy that newer versions of Typer bring


@contextmanager
def _in_our_words() -> Iterator[None]:
    """Name the nearest option or command where one is unknown, as other messages do."""
    try:
        yield
    except _UsageError as error:
        told, command = str(error.message), error.ctx and error.ctx.command
        if (unknown := getattr(error, "option_name", "")).startswith("--"):
            name = unknown.removeprefix("--")
            error.message, error.possibilities = f"No such option: --{name}{_other(name, command)}", None
        elif missing := re.match("No such command '([^']*)'", told):
            error.message = f"No such command {brief(missing[1])}{nearest(missing[1], command.commands)}"
        raise


def _other(name: str, command: Any) -> str:
    """Say of which kind of model an option is that this command does not have, or which option of its own is near."""
    config = import_module("nextbar.config")  # whose libraries help does without
    declared = {_spelled(item.name): item.metadata.get("kinds") for item in fields(config.CommonConfig)}
    if command.name in (*config.BUILT_IN, "estimator") and (kinds := declared.get(_spelled(name))):
        return f"; it is an option of {' and '.join(kinds)}"
    names = [option.opts[0].removeprefix("--") for option in command.params if not getattr(option, "hidden", False)]
    folder = {"save-dir": "output-dir", "output-dir": "save-dir"}.get(_spelled(name))
    if folder in [_spelled(one) for one in names]:
        return f"; this command writes into --{folder}"
    for verb, kind in (("train", config.TrainConfig), ("walkforward", config.WalkForwardConfig)):
        if _spelled(name) in {_spelled(item.name) for item in fields(kind)} - declared.keys():
            return f"; it is an option of {verb}"
    return nearest(name, names).replace("nearest: ", "nearest: --")


def _check_values(command: Any) -> None:
    """Let each option say of a wrong value what the checks of a configuration say."""
    for option in command.params:
        if option.param_type_name == "option":
            option.process_value = partial(_cast, option.process_value, option)


def _cast(process: Callable[..., Any], option: Any, ctx: Any, value: Any) -> Any:
    """Read the value of an option: a number, or a flag that an environment variable sets."""
    try:
        return process(ctx, value)
    except typer.BadParameter as error:
        if not isinstance(value, str):
            raise
        expected = "a whole number" if "integer" in error.message else "a number"
        name, expected = (option.envvar, "1 or 0") if option.is_flag else (option.opts[0], expected)
        raise ConfigError(f"{name} expects {expected}, got {brief(value)}") from error


def _tidy_help(command: Any, ctx: Any) -> None:
    """Show no type beside a flag, and put defaults and variables into the sentence, not on a line of their own."""
    for sub in getattr(command, "commands", {}).values():
        _tidy_help(sub, ctx)
    for option in [*command.params, command.get_help_option(ctx)]:
        if option is None or option.param_type_name != "option":
            continue
        if option.is_bool_flag:
            option.metavar = ""
        elif option.show_default and option.default not in (None, ""):
            option.help, option.show_default = f"{option.help} (default: {option.default})", False
        if option.envvar and option.show_envvar:
            option.help, option.show_envvar = f"{option.help} Environment: {option.envvar}.", False


def _refuse_repeats(ctx: Any, command: Any, args: list[str]) -> None:
    """Refuse an option that takes one value and is given twice: all but the last would be dropped in silence."""
    commands = getattr(command, "commands", {})
    command = next((commands[word] for word in args if word in commands), command)
    given = Counter(_spelled(word.partition("=")[0]) for word in takewhile("--".__ne__, args))
    for option in command.params:
        names = [*option.opts, *option.secondary_opts]
        once = option.param_type_name == "option" and not option.multiple and not option.is_flag
        if once and sum(given[name] for name in names) > 1:
            several = f"; several in one: {names[0]} AAPL,MSFT" if names[0] == "--ticker" else ""
            ctx.fail(f"{names[0]} is given more than once and takes one value{several}")


def _flowing(text: str) -> str:
    r"""Join the lines of each paragraph, but for those after ``\b``, which stay apart, and keep brackets from Rich.

    Typer keeps lines apart after a backspace character, which a raw docstring cannot hold.
    """
    parts = [part if part.startswith(r"\b") else part.replace("\n", " ") for part in text.split("\n\n")]
    return "\n\n".join(parts).replace(r"\b", "\b").replace("[", r"\[")


class _PastTyper(BaseException):
    """Carry an exception past Typer, as its cause."""


app = typer.Typer(
    cls=LazyGroup,
    help="Train models of a stock's next daily bar without seeing the future, and learn what they are worth.",
    epilog="Start with: nextbar demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={**SPELLINGS, "help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _root(
    version: bool = typer.Option(False, "--version", help="Print the version and stop."),
    log_json: bool = typer.Option(
        False, "--log-json", envvar="NEXTBAR_LOG_JSON", help="Write messages and progress as JSON lines."
    ),
) -> None:
    log.as_json = log_json
    if version:
        import_module("nextbar.cli.console").say(f"nextbar {import_module('nextbar').__version__}")
        raise typer.Exit


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    interrupt = _Interrupt()
    for number in (signal.SIGINT, signal.SIGTERM):  # timeout, Slurm and docker stop: as by Ctrl-C
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, interrupt)
    _open_streams()
    code = _run(arguments)
    if interrupt.last > 0:  # Python's own end would take the handlers away, and one more signal would kill
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    sys.exit(_close_streams(code))


DEAF_SECONDS = 15.0
"""How long after an interrupt further ones are ignored."""


class _Interrupt:
    """Raises KeyboardInterrupt, and ignores what comes soon after it, which would break off the cleaning up."""

    last = -DEAF_SECONDS

    def __call__(self, _number: int, _frame: object) -> None:
        """Handle a signal."""
        if monotonic() - self.last > DEAF_SECONDS:
            self.last = monotonic()
            raise KeyboardInterrupt


def _run(arguments: list[str] | None) -> int | str | None:
    """Run the command line, with remarks as notes; return its exit code."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", Remark)
        warnings.showwarning = partial(_show, warnings.showwarning)
        return _invoke(arguments)


def _show(otherwise: Callable[..., None], message: Warning | str, *facts: Any, **options: Any) -> None:
    """Print a remark as a note; show another warning as Python does."""
    if isinstance(message, Remark):
        import_module("nextbar.cli.console").note(message)
    else:
        otherwise(message, *facts, **options)


def _invoke(arguments: list[str] | None) -> int | str | None:
    """Run the command line; return its exit code."""
    try:
        app(args=arguments, prog_name="nextbar")
    except SystemExit as ended:
        return ended.code
    except (NextbarError, MemoryError, ImportError, OSError) as error:
        if isinstance(error, ImportError) and not isinstance(error, NextbarError) and NO_MEMORY not in str(error):
            raise
        return _complain(*_told(error))
    except (_PastTyper, KeyboardInterrupt) as error:
        if not isinstance(error.__cause__, BrokenPipeError):
            return _complain("interrupted; what was finished is kept, nothing is half-written", EXIT_INTERRUPTED)
        _give_up(sys.stdout)  # the reader has closed our output: `nextbar … | head`
    return 0


def _told(error: Exception) -> tuple[str, int]:
    """Return the message about an error, and its exit code."""
    if isinstance(error, NextbarError):
        codes = {ScreenError: EXIT_NOT_SHOWN, NetworkError: EXIT_NETWORK}
        return str(error), next((code for kind, code in codes.items() if isinstance(error, kind)), EXIT_BAD_INPUT)
    if isinstance(error, MemoryError | ImportError):
        reason = str(error) or "an allocation failed"
        advice = "take fewer tickers at once or raise the limit (ulimit -v)"
        return f"not enough memory ({reason}); {advice}", EXIT_BAD_INPUT
    assert isinstance(error, OSError)
    if error.filename is None and _while_printing(error):
        return f"standard output cannot be written ({error.strerror or error})", EXIT_NOT_SHOWN
    if error.filename is None:
        advice = "free some space, or raise the limit (ulimit -f)"
        return f"a file cannot be written ({error.strerror or error}); {advice}", EXIT_BAD_INPUT
    return f"{error.filename}: {error.strerror}; look at its permissions, its disk and ulimit -f", EXIT_BAD_INPUT


def _open_streams() -> None:
    """Open the streams that the caller has closed, and never fail on a character that an encoding lacks.

    Otherwise the next file that is opened would be the stream, and what libraries print would go into it.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            # A closed standard output stays unwritable, so that a result which nobody sees is told.
            number = os.open(os.devnull, os.O_WRONLY if name == "stderr" else os.O_RDONLY)
            setattr(sys, name, os.fdopen(number, "r" if name == "stdin" else "w", encoding="utf-8"))
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")


def _close_streams(code: int | str | None) -> int | str | None:
    """Write what is left in the streams; return the exit code."""
    try:
        sys.stdout.flush()
    except OSError as error:
        _give_up(sys.stdout)
        if not code and not isinstance(error, BrokenPipeError):
            code = _complain(f"standard output cannot be written ({error.strerror})", EXIT_NOT_SHOWN)
    try:
        sys.stderr.flush()
    except OSError:
        _give_up(sys.stderr)
    return code


def _while_printing(error: Exception) -> bool:
    """Return whether an error is of the help text, which Typer prints by itself."""
    return any(frame.f_globals.get("__name__", "").startswith("rich.") for frame, _ in walk_tb(error.__traceback__))


def _give_up(stream: Any) -> None:
    """Let a stream that cannot be written lead nowhere; Python would complain again when it closes it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _complain(message: str, code: int = EXIT_BAD_INPUT) -> int:
    """Say on standard error what went wrong; return the exit code."""
    told = printable(message)
    log.write("error", told if log.as_json else f"nextbar: {told}", code=code)
    return code
