"""What a run is asked to do: frozen records of plain values, checked at birth and stored verbatim in the metadata.

Each field carries its help text and its limits. The command line is generated from these records, so an option, its
default, its check and its explanation stand in one place.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from typing import Any

from nextbar.errors import ConfigError
from nextbar.types import JsonDict

MODEL_LABELS = {"lstm": "lstm", "rf": "random_forest", "xgb": "xgboost"}
THRESHOLD_OBJECTIVES = ("sharpe", "balanced_accuracy")
ENGINES = ("loky", "serial", "dask")
DEFAULT_DB = "data/market.db"
DB_VARIABLE = "NEXTBAR_DB"
"""Environment variable that names the database where ``--db`` does not."""


def option(
    default: Any,
    text: str,
    *,
    group: str = "Data",
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] = (),
    kinds: tuple[str, ...] = ("lstm", "rf", "xgb"),
    affects_result: bool = True,
    variable: str | None = None,
) -> Any:
    """Declare a configuration field: its help text, its limits, the models it matters to, its environment variable.

    ``affects_result=False`` says that the same result comes out whatever the value.
    """
    limits = {"low": low, "high": high, "above": above, "choices": choices}
    use = {"kinds": kinds, "affects_result": affects_result, "variable": variable}
    return field(default=default, metadata={"text": text, "group": group, **limits, **use})


_TREES, _LSTM = ("rf", "xgb"), ("lstm",)
SEARCH = ("no_tune", "tune", "n_iter", "cv_splits", "search", "fast")
"""Options of the search, which change nothing where nothing is searched."""
SCOPE = ("model", "ticker", "max_tickers")
"""Options that a trial states otherwise: it names its model and its tickers."""


@dataclass(frozen=True, kw_only=True)
class CommonConfig:
    """Options that train, walkforward and certify share.

    A default never changes: values at their default are left out of a trial's identity, and a recorded configuration
    that lacks an option was made with its default. A new option therefore changes neither. Nor does a limit become
    tighter: older configurations must stay readable.

    Raises:
        ConfigError: A value is outside its limits, or values contradict each other.
    """

    ticker: str = option("ALL", "A symbol, several separated by commas, or ALL for every ticker in the database.")
    db: str = option(
        DEFAULT_DB, "SQLite file or SQLAlchemy URL that holds the bars.", affects_result=False, variable=DB_VARIABLE
    )
    start: str | None = option(None, "First day to use, YYYY-MM-DD.")
    end: str | None = option(None, "Last day to use, YYYY-MM-DD.")
    raw: bool = option(False, "Use quoted prices as they are; default: adjusted forward for splits and dividends.")
    max_gap_days: int = option(15, "No label, return or window spans more calendar days without a bar.", low=1)
    purge: int = option(1, "Rows dropped at the end of each split.", low=1)
    features: str | None = option(None, "Your own feature columns, as module:function.", group="Features")
    features_only: bool = option(False, "Use only your feature columns, not the six built in.", group="Features")
    warmup: int = option(
        200,
        "Bars before the first sample; fewer than 200 make recursive indicators less exact.",
        group="Features",
        low=50,
    )
    seed: int = option(42, "Seed of everything random.", group="Training", low=0)
    no_tune: bool = option(False, "Trees: skip the search, use stated parameters.", group="Training")
    n_iter: int | None = option(
        None, "Trees: candidates drawn by the search (default: 20 for rf, 25 for xgb).", group="Training", low=1
    )
    cv_splits: int = option(5, "Trees: time-series folds inside the search.", group="Training", low=2)
    search: str | None = option(
        None,
        "Trees: draw candidates at random, or halve their number as their trees grow (default: random).",
        group="Training",
        choices=("random", "halving"),
        kinds=_TREES,
    )
    fast: bool = option(
        False,
        "Trees: a cheaper search, by halving, with fewer bins or an Intel forest; the final fit is as ever.",
        group="Training",
        kinds=_TREES,
    )
    epochs: int = option(50, "Most epochs; early stopping may end sooner.", group="Training", low=1, kinds=_LSTM)
    batch_size: int = option(32, "Windows per gradient step.", group="Training", low=1, kinds=_LSTM)
    patience: int = option(5, "Epochs without a better validation loss.", group="Training", low=1, kinds=_LSTM)
    sequence_length: int = option(60, "Days the LSTM looks back.", group="Training", low=2, kinds=_LSTM)
    max_tickers: int | None = option(None, "Use the first N tickers only.", low=1, kinds=_LSTM)
    scaler_fit: str = option(
        "train",
        "Rows the scalers are fitted on: train, or partition for train with its validation tail.",
        group="Training",
        choices=("train", "partition"),
        kinds=_LSTM,
    )
    threshold: str = option(
        "sharpe",
        "Trees: what the decision threshold maximises on validation, sharpe (net of costs) or balanced_accuracy; "
        "or the threshold itself, a number between 0 and 1.",
        group="Evaluation",
        kinds=_TREES,
    )
    cost_bps: float = option(5.0, "Cost per change of position, in basis points.", group="Evaluation", low=0)
    risk_free: float = option(0.0, "Risk-free rate per year, as a fraction.", group="Evaluation", above=-1)
    periods_per_year: float | None = option(
        None, "Bars per year (default: from the days of the bars).", group="Evaluation", above=0
    )
    engine: str = option(
        "loky",
        "Where tasks run: several child processes, one, or Dask's workers.",
        group="Running",
        choices=ENGINES,
        affects_result=False,
    )
    scheduler: str | None = option(
        None,
        "Address of a running Dask scheduler, tcp://…; default: Dask starts workers here.",
        group="Running",
        affects_result=False,
    )
    jobs: int | None = option(None, "Processes (default: one per core).", group="Running", low=1, affects_result=False)
    ledger: str | None = option(
        None, "Trial ledger (default: NEXTBAR_LEDGER, else one file per user).", group="Running", affects_result=False
    )
    mlflow: bool = option(
        False, "Log to the MLflow server that MLFLOW_TRACKING_URI names.", group="Output", affects_result=False
    )

    def __post_init__(self) -> None:
        for item in fields(self):
            _check(item, getattr(self, item.name))
        object.__setattr__(self, "threshold", _threshold(self.threshold))
        days = [_day(name, value) for name, value in (("start", self.start), ("end", self.end)) if value is not None]
        if len(days) == 2 and days[0] >= days[1]:
            raise ConfigError(
                f"--start {self.start} is not before --end {self.end}; give an earlier start or a later end"
            )
        if self.features_only and self.features is None:
            raise ConfigError("--features-only needs --features module:function")
        if self.scheduler is not None and (self.engine != "dask" or self.jobs is not None):
            raise ConfigError("--scheduler needs --engine dask and no --jobs: the workers there are used as they are")

    @property
    def search_method(self) -> str:
        """The search that is asked for, by name or by ``fast``."""
        return search_method(vars(self))

    def decisive(self) -> JsonDict:
        """Options that affect a result."""
        return {item.name: getattr(self, item.name) for item in fields(self) if _affects_result(item)}

    def to_json(self) -> JsonDict:
        """The configuration as stored in metadata: what is written down goes to others, a password does not."""
        return {**asdict(self), "db": without_password(self.db)}


@dataclass(frozen=True, kw_only=True)
class TrainConfig(CommonConfig):
    """One training run: each ticker (or all together, for the LSTM) split once."""

    model: str = field(default="rf", metadata={"choices": tuple(MODEL_LABELS)})
    save_dir: str = option("models", "Folder for the artifacts.", group="Output", affects_result=False)
    train_split: float = option(0.8, "Share of each ticker's samples before its test set.", above=0, high=0.99)
    val_split: float = option(0.1, "Share of the train region kept for validation, at its end.", above=0, high=0.9)
    split_by: str = option(
        "ticker",
        "Split each ticker at its own share, or all tickers at one date.",
        choices=("ticker", "date"),
    )


@dataclass(frozen=True, kw_only=True)
class WalkForwardConfig(CommonConfig):
    """A model retrained fold after fold over calendar windows."""

    model: str = option(
        "all", "Kind of model; all writes one result for each.", group="Training", choices=(*MODEL_LABELS, "all")
    )
    output_dir: str = option("results", "Folder for the results.", group="Output", affects_result=False)
    train_years: int = option(3, "Years of training in each fold.", group="Folds", low=1)
    val_months: int = option(12, "Months of validation after them.", group="Folds", low=1)
    test_months: int = option(3, "Months of test after those.", group="Folds", low=1)
    step_months: int = option(3, "Months from one fold to the next.", group="Folds", low=1)
    expanding: bool = option(False, "Train on everything before validation, not on the last years.", group="Folds")
    tune: str = option(
        "first",
        "Search in each fold, in the first alone, or in none.",
        group="Training",
        choices=("each", "first", "none"),
        kinds=_TREES,
    )
    resume: bool = option(
        False, "Go on with an interrupted run of the same configuration.", group="Running", affects_result=False
    )
    no_report: bool = option(False, "Write no report pages.", group="Output", affects_result=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step_months < self.test_months:
            raise ConfigError(
                f"--step-months {self.step_months} is shorter than --test-months {self.test_months}: "
                "days would be tested twice; make the step at least as long as the test window"
            )


@dataclass(frozen=True, kw_only=True)
class CertifyConfig(TrainConfig):
    """A training run, or a walk-forward, that is certified; or a run that lies on disk."""

    walkforward: bool = option(
        False,
        "Certify a walk-forward with its default windows, written to --save-dir.",
        group="Certificate",
        affects_result=False,
    )
    artifact: str | None = option(
        None,
        "Certify this *_metadata.json or walkforward_*.json; only --db, --features and the engine count beside it.",
        group="Certificate",
        affects_result=False,
    )
    certify_seconds: int = option(
        120,
        "Most seconds, a ticker, for trying the features on the bars up to a day.",
        group="Certificate",
        low=1,
        affects_result=False,
    )
    allow_reads: list[str] | None = option(  # noqa: RUF009 - the default is None
        None,
        "A file or folder that the feature function may read; several separated by commas, or the option again.",
        group="Certificate",
        affects_result=False,
    )

    @property
    def reads_allowed(self) -> list[str]:
        """Each file and folder that the user has named."""
        return [path.strip() for text in self.allow_reads or () for path in text.split(",") if path.strip()]

    def run_config(self) -> TrainConfig | WalkForwardConfig:
        """The configuration of the run alone."""
        if not self.walkforward:
            return TrainConfig(**{item.name: getattr(self, item.name) for item in fields(TrainConfig)})
        common = {item.name: getattr(self, item.name) for item in fields(CommonConfig)}
        return WalkForwardConfig(**common, model=self.model, output_dir=self.save_dir)


def identity_options(kind: type[CommonConfig], values: Mapping[str, Any], model: str) -> JsonDict:
    """Options that tell a configuration from others: those that change the model's result and are not at their default.

    Args:
        kind: Record that declares the options.
        values: Option → value, perhaps as an older version stored it. A missing option is at its default; an unknown
            one counts.
        model: Kind of model. Options that do not matter to it are left out, and those of a search that does not happen.
    """
    known = {item.name: item for item in fields(kind)}
    searched = model != "lstm" and not values.get("no_tune") and values.get("tune") != "none"
    left_out = (*SCOPE, "search") if searched else (*SCOPE, *SEARCH)
    found = {
        name: _as_declared(known.get(name), value)
        for name, value in values.items()
        if name not in left_out and _tells(known.get(name), value, model)
    }
    if model != "lstm" and not searched:
        found["no_tune"] = True
    elif searched and search_method(values) == "halving":
        found["search"] = "halving"
    return found


def search_method(values: Mapping[str, Any]) -> str:
    """Search that options ask for, by name or by ``fast``."""
    return str(values.get("search") or ("halving" if values.get("fast") else "random"))


def _tells(item: Field[Any] | None, value: Any, model: str) -> bool:
    """Whether an option's value makes another configuration of the model."""
    if item is None:
        return True
    return _affects_result(item) and model in item.metadata.get("kinds", (model,)) and value != item.default


def _as_declared(item: Field[Any] | None, value: Any) -> Any:
    """A whole number as a float where the option is one: 1 and 1.0 are the same costs."""
    number = item is not None and "float" in str(item.type) and isinstance(value, int) and not isinstance(value, bool)
    return float(value) if number else value


def _affects_result(item: Field[Any]) -> bool:
    return bool(item.metadata.get("affects_result", True))


PLAIN_PARAMETERS = ("sslmode", "host", "port", "user", "dbname", "application_name", "connect_timeout", "charset")
"""Parameters of a database URL that hold no secret; every other one is hidden."""


def without_password(text: str) -> str:
    """Take the secrets out of a database URL, or out of a command-line argument that holds one."""
    start, mark, rest = text.partition("://")
    place, question, query = re.sub(r"^([^:/]*):.*@", r"\1@", rest, flags=re.DOTALL).partition("?")
    kept = [part for part in query.split("&") if part.partition("=")[0] in PLAIN_PARAMETERS]
    return start + mark + place + (question if mark else "") + "&".join(kept)


def _check(item: Field[Any], value: Any) -> None:
    """One field against its limits."""
    meta, name = item.metadata, "--" + item.name.replace("_", "-")
    if value is None:
        return
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{name} expects a finite number, got {value}")
    if meta.get("choices") and value not in meta["choices"]:
        raise ConfigError(f"{name} expects one of {', '.join(meta['choices'])}, got {value!r}")
    low, high, above = (meta.get(key) for key in ("low", "high", "above"))
    if low is not None and value < low:
        raise ConfigError(f"{name} expects at least {low:g}, got {value}")
    if above is not None and value <= above:
        raise ConfigError(f"{name} expects more than {above:g}, got {value}")
    if high is not None and value > high:
        raise ConfigError(f"{name} expects at most {high:g}, got {value}")


def _threshold(value: Any) -> str:
    """An objective as it is, a number in one spelling: 0.5 and 0.50 are one configuration."""
    if value in THRESHOLD_OBJECTIVES:
        return str(value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < 1:
        names = ", ".join(THRESHOLD_OBJECTIVES)
        raise ConfigError(f"--threshold expects {names} or a number between 0 and 1, got {value!r}")
    return repr(number)


def _day(name: str, value: str) -> dt.date:
    """A date option as a date."""
    try:
        return dt.date.fromisoformat(value)
    except ValueError:
        raise ConfigError(f"--{name} expects a day as YYYY-MM-DD, got {value!r}") from None
