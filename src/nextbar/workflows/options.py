"""Options of the workflows that do not train: the command line is generated from these records, too."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

from nextbar.config import DB_VARIABLE, DEFAULT_CALENDAR, DEFAULT_DB
from nextbar.datasets.splits import Split, Windows
from nextbar.errors import ArgumentError, ConfigError
from nextbar.market.sources.columns import Hints, parse_columns
from nextbar.option import Options, day, flag, option
from nextbar.words import nearest

_here = partial(option, group="Options")


@dataclass(frozen=True, kw_only=True)
class StoreConfig(Options):
    """How bars are stored, and what is looked at afterwards."""

    db: str = option(DEFAULT_DB, "SQLite file (created if missing) or SQLAlchemy URL.", variable=DB_VARIABLE)
    accept_revisions: bool = option(False, "Replace stored values that differ; the old ones are kept in another table.")
    models: list[Path] | None = option(  # noqa: RUF009 - the default is None
        None, "Folder of runs to look through for bars that differ; may be repeated (default: models, results)."
    )
    calendar: str = option(DEFAULT_CALENDAR, "Exchange whose sessions are expected (exchange_calendars).")


@dataclass(frozen=True, kw_only=True)
class FilesConfig(StoreConfig):
    """How files of bars are read; what is not said is found from their content and told."""

    columns: str | None = option(
        None, "Which column is what, by name or position: close=Price,volume=6.", group="Reading"
    )
    ticker: str | None = option(None, "Symbol of the bars of one file.", group="Reading")
    ticker_column: str | None = option(None, "Column that holds the symbol.", group="Reading")
    date_column: str | None = option(None, "Column that holds the day.", group="Reading")
    date_format: str | None = option(None, "How days are written: %d.%m.%Y.", group="Reading")
    decimal: str | None = option(None, "Decimal mark", group="Reading", choices=(".", ","))
    separator: str | None = option(
        None,
        "Mark between columns",
        group="Reading",
        choices=(",", ";", "|", "comma", "semicolon", "tab", "pipe", "space"),
    )
    resample: bool = option(False, "Make daily bars of intraday ones.", group="Reading")
    dry_run: bool = option(False, "Show how the files are understood; store nothing.", group="Reading")

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.hints

    @property
    def hints(self) -> Hints:
        """The same as the reader takes it."""
        columns = parse_columns(self.columns)
        for option_name, ours in (("ticker_column", "ticker"), ("date_column", "date")):
            named = getattr(self, option_name)
            if named is not None and columns.setdefault(ours, named) != named:
                raise ConfigError(f"{flag(option_name)} and --columns name two columns for {ours}; name one")
        names = ("date_format", "ticker", "decimal", "separator", "resample", "calendar")
        return Hints(columns=columns, **{name: getattr(self, name) for name in names})


@dataclass(frozen=True, kw_only=True)
class UpdateConfig(StoreConfig):
    """Which bars Yahoo is asked for."""

    universe: Path | None = option(None, "File with a symbol per line; # begins a comment.")  # noqa: RUF009
    since: str = option("1990-01-01", "First day to fetch for tickers that are not stored yet.", read=day)
    refresh: bool = option(False, "Fetch all stored days again, not only the last ones.")


@dataclass(frozen=True, kw_only=True)
class PlaceConfig(Options):
    """Where a recorded run is run again, and what only the user can give: the fields of `Place`."""

    db: str = _here(DEFAULT_DB, "SQLite file or SQLAlchemy URL that holds the bars.", variable=DB_VARIABLE)
    features: str | None = _here(None, "Your feature function, if the run used one: module:function.")
    panel_features: str | None = _here(None, "Your function over all tickers, if the run used one: module:function.")
    model: str | None = _here(None, "Your own model, if the run used one: module:factory, a function that returns it.")
    engine: str = _here("loky", "Where fits run: loky, serial or dask; each gives the same bits.")
    scheduler: str | None = _here(None, "Address of a running Dask scheduler, tcp://….")
    jobs: int | None = _here(None, "Number of processes (default: one per core).")


@dataclass(frozen=True, kw_only=True)
class PredictConfig(Options):
    """What is predicted, and where the predictions are written."""

    ticker: str = option("ALL", 'Symbols, separated by commas, or ALL of the model ("ALL," for a ticker named ALL).')
    db: str = option(DEFAULT_DB, "SQLite file or SQLAlchemy URL that holds the bars.", variable=DB_VARIABLE)
    no_refit: bool = option(False, "Use the run's own model even if there is a refit.")
    all_runs: bool = option(False, "Predict with every run given, not only with the newest of each model and ticker.")
    max_age_days: int = option(7, "Maximum age of the last bar, in calendar days.", low=0)
    calendar: str = option(DEFAULT_CALENDAR, "Exchange on which the last bar's day must be over.")
    features: str | None = option(
        None, "Your feature function, if the model was trained with one: module:function.", group="Features"
    )
    panel_features: str | None = option(
        None, "Your function over all tickers, if the model was trained with one: module:function.", group="Features"
    )
    model: str | None = option(
        None,
        "Your own model, if the run used one: module:factory, a function that returns it.",
        group="Your own model",
    )
    trust: bool = option(
        False, "Load the files of your own model, which may run code: only if you trust them.", group="Your own model"
    )
    out: Path | None = option(None, "Write the signals to this CSV file, too.", group="Output")  # noqa: RUF009
    journal: Path | None = option(  # noqa: RUF009
        None,
        "Journal of predictions (default: NEXTBAR_JOURNAL, else a file in your state folder).",
        group="Output",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trust and self.model is None:
            raise ConfigError("--trust is for a model of your own; name it, too: --model module:factory")


def check_options(options: Iterable[str], known: Sequence[str], named: Iterable[str], more: str = "") -> None:
    """Refuse further arguments of a function of the library that it does not take; say where they belong.

    ``named`` are the arguments that it does take by name; ``more`` is added to the message.
    """
    if unknown := sorted(set(options) - set(known)):
        near = _belongs(unknown[0]) or nearest(unknown[0], [*known, *named])
        raise ArgumentError(f"unknown option {', '.join(unknown)}; expected {', '.join(known)}{more}{near}")


def _belongs(name: str) -> str:
    """Say which other function or class of the library takes an argument; empty where there is none."""
    homes = dict.fromkeys(("train_split", "val_split", "split_by"), "nextbar.Split")
    homes |= {item.name: f"nextbar.{kind.__name__}" for kind in (Split, Windows) for item in fields(kind)}
    homes |= {"split": "nextbar.train", "windows": "nextbar.walk_forward", "refit": "nextbar.refit"}
    homes |= dict.fromkeys(("save_dir", "output_dir"), "Run.save")
    return f"; {name} belongs to {homes[name]}" if name in homes else ""
