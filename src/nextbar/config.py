"""Options of a run: frozen records of plain values, checked when made and stored in the metadata."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from itertools import pairwise
from typing import Any

from nextbar.errors import ConfigError
from nextbar.option import Options, affects_result, day, flag, one_day, option
from nextbar.types import JsonDict
from nextbar.words import brief, excerpt, nearest, without_password

THRESHOLD_OBJECTIVES = ("sharpe", "balanced_accuracy")
ENGINES = ("loky", "serial", "dask")
DEFAULT_DB = "data/market.db"
DEFAULT_CALENDAR = "XNYS"
FEATURE_SETS = ("levels", "relative")
"""Built-in sets of feature columns, in their order; the first is the default."""
LONGEST_NAME = 60
"""Characters of the name of a run."""
WORTH = 0.02
"""Excess a year below which an edge is not worth trading, unless the user says otherwise."""
DB_VARIABLE = "NEXTBAR_DB"
"""Environment variable that names the database where ``--db`` does not."""


def _threshold(name: str, value: Any) -> str:
    """Return an objective as it is, a number in one spelling: 0.5 and 0.50 are one configuration."""
    if isinstance(value, str) and value in THRESHOLD_OBJECTIVES:
        return str(value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < 1:
        names = ", ".join(THRESHOLD_OBJECTIVES)
        raise ConfigError(f"{name} expects {names} or a number between 0 and 1, got {brief(value)}")
    return repr(number)


def _shown_name(name: str, value: Any) -> str:
    """Refuse a name that a line of a table cannot show."""
    if isinstance(value, str) and value.isprintable() and 0 < len(value.strip()) <= len(value) <= LONGEST_NAME:
        return value
    raise ConfigError(f"{name} expects 1 to {LONGEST_NAME} characters that can be shown, got {excerpt(repr(value))}")


def feature_names(text: str | None) -> list[str]:
    """Split the names of an option that are separated by commas."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _features(name: str, text: Any) -> str | None:
    """Return names of sets and functions in one spelling: the default set alone, or beside functions, is not named."""
    expected = f"{name} expects {', '.join(FEATURE_SETS)}, module:function, or several separated by commas"
    if not isinstance(text, str) or not (names := feature_names(text)):
        raise ConfigError(f"{expected}; got {brief(text)}")
    if unknown := [one for one in names if one not in FEATURE_SETS and ":" not in one]:
        raise ConfigError(f"{expected}; got {brief(unknown[0])}{nearest(unknown[0], FEATURE_SETS)}")
    sets = [one for one in FEATURE_SETS if one in names]
    if not sets:
        return text  # as it was recorded before there were sets to name
    own = [one for one in names if one not in FEATURE_SETS]
    return ",".join([*(sets if sets != [*FEATURE_SETS[:1]] else []), *own]) or None


def _panel_features(name: str, text: Any) -> str:
    """Return names of functions over all tickers in one spelling."""
    names = feature_names(text) if isinstance(text, str) else []
    if not names or not all(":" in one for one in names):
        raise ConfigError(f"{name} expects module:function, or several separated by commas; got {brief(text)}")
    return ",".join(names)


_TREES, _LSTM = ("rf", "xgb"), ("lstm",)
BUILT_IN = (*_LSTM, *_TREES)
"""Kinds of model that the options are declared for."""
DRAWS = {"rf": 20, "xgb": 25}
"""Kind of model → candidates that its search draws unless the user says otherwise."""
STEP_MONTHS = 3
"""Months from one fold to the next unless the user says otherwise, or the test window is longer."""
SPLIT_ENDS = ("train_end", "val_end", "test_end")
"""Options that end the splits of a training run at days, in their order."""


_training = partial(option, group="Training")
_trees = partial(option, group="Training", kinds=_TREES)
_network = partial(option, group="Training", kinds=_LSTM)
_evaluation = partial(option, group="Evaluation")
_folds = partial(option, group="Folds")
_running = partial(option, group="Running", affects_result=False)
_output = partial(option, group="Output", affects_result=False)
_certificate = partial(option, group="Certificate", affects_result=False)
_columns = partial(option, group="Features")
_end = partial(option, None, read=one_day)


@dataclass(frozen=True, kw_only=True)
class DataOptions(Options):
    """Which bars are used, and how they become samples."""

    ticker: str = option(
        "ALL", 'A symbol, several separated by commas, or ALL for every ticker ("ALL," for a ticker named ALL).'
    )
    db: str = option(
        DEFAULT_DB, "SQLite file or SQLAlchemy URL that holds the bars.", affects_result=False, variable=DB_VARIABLE
    )
    start: str | None = option(None, "First day to use, YYYY-MM-DD.", read=day)
    end: str | None = option(None, "Last day to use, YYYY-MM-DD.", read=day)
    holdout_from: str | None = option(
        None,
        "Hold out the bars from this day on: the run does not use them. nextbar holdout open scores the run on them, "
        "and counts how often.",
        read=one_day,
    )
    raw: bool = option(False, "Use quoted prices as they are; default: adjusted forward for splits and dividends.")
    max_gap_days: int = option(15, "Most calendar days without a bar that a label, return or window may span.", low=1)
    purge: int = option(1, "Rows dropped at the end of each split.", low=1)
    features: str | None = _columns(
        None,
        "Feature columns: the built-in sets levels (default) and relative, and your own as module:function; several "
        "separated by commas. Your own are added to levels unless a set is named.",
        read=_features,
    )
    features_only: bool = _columns(False, "Use only your feature columns, no built-in set.")
    panel_features: str | None = _columns(
        None,
        "Your own columns over all tickers of the run, such as ranks: module:function, several separated by commas.",
        read=_panel_features,
    )
    warmup: int = _columns(
        200, "Bars before the first sample; fewer than 200 make recursive indicators less exact.", low=50
    )
    seed: int = _training(42, "Seed of all random numbers.", low=0)


@dataclass(frozen=True, kw_only=True)
class SearchOptions(Options):
    """How the parameters of a model of trees, or of the user's own, are searched for, and on which rows."""

    no_tune: bool = _training(False, "Trees: skip the search and use fixed parameters.")
    n_iter: int | None = _training(
        None,
        f"Trees: candidates drawn by the search (default: {' and '.join(f'{n} for {k}' for k, n in DRAWS.items())}).",
        low=1,
    )
    cv_splits: int = _training(5, "Trees: time-series folds inside the search.", low=2)
    search: str | None = _trees(
        None,
        "Trees: fit every random candidate in full, or fit all with few trees and drop the worst in each round "
        "(default: random).",
        choices=("random", "halving"),
    )
    fast: bool = _trees(
        False,
        "Trees: a faster search, by halving, with fewer bins or Intel's forest; the final fit is the ordinary one.",
    )
    tune: str = _trees(
        "first", "Search in each fold, in the first only, or in none.", choices=("each", "first", "none")
    )
    pooled: bool = _trees(
        False, "Trees: train one model over all tickers, split at one date, with equal weight for each date."
    )
    space: Mapping[str, Sequence[Any]] | None = None
    """Values to draw each parameter from; None: those of the kind of model. Python only."""

    @property
    def search_method(self) -> str:
        """The search that is asked for, by name or by ``fast``."""
        return search_method(vars(self))

    @property
    def searches(self) -> bool:
        """Whether anything is searched."""
        return not self.no_tune and self.tune != "none"


@dataclass(frozen=True, kw_only=True)
class NetworkOptions(Options):
    """How the LSTM is trained."""

    epochs: int = _network(50, "Maximum number of epochs; early stopping may end sooner.", low=1)
    batch_size: int = _network(32, "Windows per gradient step.", low=1)
    patience: int = _network(5, "Stop after this many epochs without a better validation loss.", low=1)
    sequence_length: int = _network(60, "Days in an input window of the LSTM.", low=2)
    scaler_fit: str = _network(
        "train",
        "Rows that the scalers are fitted on: train alone, or train and validation (partition).",
        choices=("train", "partition"),
    )
    target: str = _network(
        "close",
        "What the LSTM predicts: the next close on the scale of train, or the next return in units of the volatility.",
        choices=("close", "return"),
    )
    ensemble: int = _network(1, "Number of LSTMs with different seeds whose predictions are averaged.", low=1, high=100)


@dataclass(frozen=True, kw_only=True)
class CommonConfig(NetworkOptions, SearchOptions, DataOptions):
    """Options that train, walkforward and certify share.

    A default never changes: values at their default are left out of a trial's identity, and a recorded configuration
    that lacks an option was made with its default. A new option therefore changes neither. Nor does a limit become
    tighter: older configurations must stay readable.
    """

    max_tickers: int | None = option(None, "Use the first N tickers only.", low=1, kinds=_LSTM)
    threshold: str = _evaluation(
        "sharpe",
        "Trees: what the decision threshold maximises on validation, sharpe (net of costs) or balanced_accuracy; "
        "or the threshold itself, a number between 0 and 1.",
        kinds=_TREES,
        read=_threshold,
    )
    cost_bps: float = _evaluation(5.0, "Cost of a change of position by 1, in basis points.", low=0)
    risk_free: float = _evaluation(0.0, "Risk-free rate per year, as a fraction.", above=-1)
    periods_per_year: float | None = _evaluation(None, "Bars per year (default: counted from the bars).", above=0)
    engine: str = _running(
        "loky", "Where tasks run: in several child processes, in one, or on Dask workers.", choices=ENGINES
    )
    scheduler: str | None = _running(
        None, "Address of a running Dask scheduler, tcp://…; default: Dask starts workers here."
    )
    jobs: int | None = _running(None, "Number of processes (default: one per core).", low=1)
    ledger: str | None = _running(None, "Trial ledger (default: NEXTBAR_LEDGER, else one file per user).")
    name: str | None = _output(
        None,
        f"A name for the run, of at most {LONGEST_NAME} characters, which tables and pages show.",
        read=_shown_name,
    )
    mlflow: bool = _output(False, "Log to the MLflow server that MLFLOW_TRACKING_URI names.")
    mlflow_required: bool = _output(False, "Stop if the MLflow server does not answer (default: say so and go on).")
    parameters: JsonDict | None = None
    """What a model that is not of a built-in kind says of itself. Python only."""

    @property
    def logged(self) -> bool:
        """Whether the run goes to MLflow."""
        return self.mlflow or self.mlflow_required

    def __post_init__(self) -> None:
        super().__post_init__()
        days = self.days("start", "end")
        if len(days) == 2 and days["start"] >= days["end"]:
            raise ConfigError(
                f"--start {self.start} is not before --end {self.end}; give an earlier start or a later end"
            )
        self._check_holdout()
        if self.features_only and self.features is None and self.panel_features is None:
            raise ConfigError("--features-only needs --features module:function, or --panel-features")
        if self.features_only and (sets := [name for name in FEATURE_SETS if name in feature_names(self.features)]):
            raise ConfigError(
                f"--features-only leaves every built-in set out, and --features names {', '.join(sets)}; drop one"
            )
        if self.scheduler is not None and (self.engine != "dask" or self.jobs is not None):
            raise ConfigError("--scheduler needs --engine dask and no --jobs: the workers there are used as they are")

    def _check_holdout(self) -> None:
        """Refuse a holdout that leaves no bar before it, or none in it."""
        days = self.days("holdout_from", "start", "end", *SPLIT_ENDS)
        if (first := days.pop("holdout_from", None)) is None:
            return
        if first <= days.pop("start", dt.date.min):
            raise ConfigError(f"--holdout-from {first} leaves no bar: the run starts on {self.start}; give a later day")
        if days.pop("end", dt.date.max) < first:
            raise ConfigError(f"--holdout-from {first} holds nothing out: --end is {self.end}; give an earlier day")
        for name, last in days.items():
            if last >= first:
                raise ConfigError(f"{flag(name)} {last} lies in the holdout from {first} on; give an earlier day")

    def decisive(self) -> JsonDict:
        """Return the options that affect a result."""
        return {item.name: getattr(self, item.name) for item in fields(self) if affects_result(item)}

    def to_json(self) -> JsonDict:
        """Return the configuration as metadata stores it, without a password."""
        return {**asdict(self), "db": without_password(self.db)}


@dataclass(frozen=True, kw_only=True)
class TrainConfig(CommonConfig):
    """One training run: each ticker (or all together, for the LSTM) split once."""

    model: str = "rf"
    save_dir: str = _output("models", "Folder for the artifacts.")
    train_split: float = option(0.8, "Share of each ticker's samples before its test set.", above=0, high=0.99)
    val_split: float = option(0.1, "Share of the train region kept for validation, at its end.", above=0, high=0.9)
    split_by: str = option(
        "ticker",
        "Split each ticker at its own share, or all tickers at one date (always with --pooled).",
        choices=("ticker", "date"),
    )
    train_end: str | None = _end("Last day of train for all tickers, YYYY-MM-DD, instead of shares.")
    val_end: str | None = _end("Last day of validation; needs --train-end.")
    test_end: str | None = _end("Last day of test (default: the last bar); needs --train-end.")
    refit: bool = option(
        False,
        "After the figures are made, fit the same model on all bars; predict then uses that fit.",
        group="Training",
        affects_result=False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        days = self.days(*SPLIT_ENDS)
        if not days:
            if self.pooled:  # else the model would have seen the market of the days that it is tested on
                object.__setattr__(self, "split_by", "date")
            return
        if missing := [name for name in SPLIT_ENDS[:2] if name not in days]:
            raise ConfigError(f"--train-end and --val-end go together; add {flag(missing[0])}")
        for (before, first), (after, second) in pairwise(days.items()):
            if first >= second:
                raise ConfigError(f"{flag(before)} {first} is not before {flag(after)} {second}")
        shares = ("train_split", "val_split", "split_by")
        if other := [flag(name) for name in shares if getattr(self, name) != getattr(TrainConfig, name)]:
            raise ConfigError(f"--train-end splits at days, and shares are given, too: {', '.join(other)}; drop one")


@dataclass(frozen=True, kw_only=True)
class WalkForwardConfig(CommonConfig):
    """A model retrained fold after fold over calendar windows."""

    model: str = _training(
        "all",
        "Kind of model: lstm, rf, xgb, or all of them; or your own as module:factory, a function that returns it.",
    )
    output_dir: str = _output("results", "Folder for the results.")
    train_years: int = _folds(3, "Years of training in each fold.", low=1, high=9_000)
    val_months: int = _folds(12, "Months of validation in each fold, after training.", low=1, high=108_000)
    test_months: int = _folds(3, "Months of test in each fold, after validation.", low=1, high=108_000)
    step_months: int | None = _folds(
        None, "Months from one fold to the next (default: 3, or as long as a longer test window).", low=1, high=108_000
    )
    expanding: bool = _folds(False, "Train on all bars before validation, not only on the last --train-years.")
    resume: bool = _running(False, "Continue an interrupted run of the same configuration.")
    no_report: bool = _output(False, "Write no report pages.")
    trades: str | None = _output(None, "Write every trade to this CSV file: entry, exit, days, return, cost.")

    def __post_init__(self) -> None:
        super().__post_init__()
        step = step_between(self.step_months, self.test_months)
        object.__setattr__(self, "step_months", step)
        if step < self.test_months:
            raise ConfigError(
                f"--step-months {step} is shorter than --test-months {self.test_months}: "
                "days would be tested twice; make the step at least as long as the test window"
            )


def step_between(step: int | None, test: int) -> int:
    """Return the months from one fold to the next, which nobody may have said, for so many months of test."""
    return max(STEP_MONTHS, test) if step is None else step


@dataclass(frozen=True, kw_only=True)
class CertifyConfig(TrainConfig):
    """A training run, or a walk-forward, that is certified; or a run on disk."""

    walkforward: bool = _certificate(False, "Certify a walk-forward with its default windows, written to --save-dir.")
    artifact: str | None = _certificate(
        None,
        "Certify this saved run, a *_metadata.json or walkforward_*.json. Of the other options only --db, the "
        "feature and the engine options are used.",
    )
    certify_seconds: int = _certificate(
        120, "Most seconds per ticker for computing the features on bars that end earlier.", low=1
    )
    allow_reads: list[str] | None = _certificate(  # noqa: RUF009 - the default is None
        None, "A file or folder that the feature function may read; separate several by commas, or repeat the option."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.walkforward and self.train_end is not None:
            raise ConfigError("--train-end belongs to a training run, but --walkforward uses windows; drop one of them")

    @property
    def reads_allowed(self) -> list[str]:
        """Each file and folder that the user has named."""
        return [path.strip() for text in self.allow_reads or () for path in text.split(",") if path.strip()]

    def run_config(self) -> TrainConfig | WalkForwardConfig:
        """Return the configuration of the run alone."""
        if not self.walkforward:
            return TrainConfig(**{item.name: getattr(self, item.name) for item in fields(TrainConfig)})
        common = {item.name: getattr(self, item.name) for item in fields(CommonConfig)}
        return WalkForwardConfig(**common, model=self.model, output_dir=self.save_dir)


def search_method(values: Mapping[str, Any]) -> str:
    """Return the search that options ask for, by name or by ``fast``."""
    return str(values.get("search") or ("halving" if values.get("fast") else "random"))
