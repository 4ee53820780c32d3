"""Options of the workflows that do not train: the command line is generated from these records, too."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

from nextbar.config import DB_VARIABLE, DEFAULT_CALENDAR, DEFAULT_DB, Options, option
from nextbar.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class StoreConfig(Options):
    """How bars are stored, and what is looked at afterwards."""

    db: str = option(DEFAULT_DB, "SQLite file (created if missing) or SQLAlchemy URL.", variable=DB_VARIABLE)
    accept_revisions: bool = option(False, "Replace stored values that differ; keep the old ones.")
    models: list[Path] | None = option(  # noqa: RUF009 - the default is None
        None, "Folder of runs, may be repeated: which used bars that differ?  [models, results]"
    )
    calendar: str = option(DEFAULT_CALENDAR, "Exchange whose sessions are expected (exchange_calendars).")


@dataclass(frozen=True, kw_only=True)
class UpdateConfig(StoreConfig):
    """Which bars Yahoo is asked for.

    Raises:
        ConfigError: ``since`` is not a day.
    """

    universe: Path | None = option(None, "File with a symbol per line; # begins a comment.")  # noqa: RUF009
    since: str = option("1990-01-01", "First day of tickers that are not stored yet.")
    refresh: bool = option(False, "Ask for all stored days again, not only the last.")

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            dt.date.fromisoformat(self.since)
        except ValueError as error:
            raise ConfigError(f"--since: {self.since!r} is not a day; expected YYYY-MM-DD") from error


@dataclass(frozen=True, kw_only=True)
class PredictConfig(Options):
    """What is predicted, and where the predictions are written."""

    ticker: str = option("ALL", "Symbols, separated by commas, or ALL that the model was trained on.")
    db: str = option(DEFAULT_DB, "SQLite file or SQLAlchemy URL that holds the bars.", variable=DB_VARIABLE)
    max_age_days: int = option(7, "Most calendar days that the last bar may be old.", low=0)
    features: str | None = option(
        None, "Your feature function, if the model was trained with one: module:function.", group="Features"
    )
    panel_features: str | None = option(
        None, "Your function over all tickers, if the model was trained with one: module:function.", group="Features"
    )
    out: Path | None = option(None, "Write the signals to this CSV file, too.", group="Output")  # noqa: RUF009
    journal: Path | None = option(  # noqa: RUF009
        None,
        "Journal of predictions (default: as NEXTBAR_JOURNAL says, else in your state folder).",
        group="Output",
    )
