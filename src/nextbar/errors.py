"""Every error that nextbar raises on purpose.

Each says what was expected, what arrived and what to do. The command line prints the message alone and exits with 2.
"""


class NextbarError(Exception):
    """Root of all errors raised on purpose."""


class ConfigError(NextbarError, ValueError):
    """An option or a combination of options makes no sense."""


class DatabaseError(NextbarError, OSError):
    """The database is missing, unreadable or has not the tables `tickers` and `stock_prices`."""


class UnknownTickerError(NextbarError, LookupError):
    """A ticker was asked for that the database does not hold."""


class BadBarsError(NextbarError, ValueError):
    """Bars of one ticker cannot be used as they are (duplicate dates, no valid close)."""


class NotEnoughHistoryError(NextbarError, ValueError):
    """A ticker has fewer bars than the work needs."""


class NothingToTrainError(NextbarError, ValueError):
    """Every ticker was skipped; the message lists the reasons."""


class FeatureError(NextbarError, ValueError):
    """A user's feature function cannot be found, raised, or returned something other than asked."""


class ArtifactError(NextbarError, ValueError):
    """An artifact is missing a part, is damaged or was not written by nextbar."""


class OutdatedError(ArtifactError):
    """A run of an older version lacks a file that this one reads; `nextbar reproduce --upgrade` makes it."""


class OutputError(NextbarError, OSError):
    """A file or folder cannot be written."""


class EngineError(NextbarError, RuntimeError):
    """The workers cannot be started, were refused or went away."""


class MissingExtraError(NextbarError, ImportError):
    """An optional dependency is not installed; the message names the extra."""
