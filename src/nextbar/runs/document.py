"""The document of a run: typed records, the same for a training run and a walk-forward, read from JSON and written.

A document may come from anyone: what is read has the types that stand here, or is refused. Fields that are not known
are ignored. Version 1, which 0.1.0 wrote, is brought into this shape by `upgrade`; nothing else knows it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import msgspec
import pandas as pd
from msgspec import Meta, Struct

from nextbar.datasets.samples import majority_class
from nextbar.errors import ArtifactError
from nextbar.evaluation.series import Book, Majority, Terms
from nextbar.evaluation.significance import Interval
from nextbar.runs.files import read_limited
from nextbar.runs.fit import Coverage, Day, Environment, Task
from nextbar.runs.version_1 import upgrade
from nextbar.scoring.backtest import TRADING_DAYS
from nextbar.scoring.metrics import figure_text
from nextbar.types import JsonDict
from nextbar.untrusted import MOST_JSON_BYTES, refusing, strict_json
from nextbar.words import brief

SCHEMA_VERSION = 2
RULES = 2
"""Version of the rules that a run is made by, from bars to rows. 1, which 0.1.0 did not write: volume as quoted."""
Figures: TypeAlias = dict[str, float | int | None]
"""Metric → value; None where it is not defined."""


class PanelRecord(Struct, frozen=True, kw_only=True):
    """The user's functions over all tickers, the sha256 of their sources, and the bars that they were given.

    Of the bars there is no checksum per day.
    """

    function: str
    source: str
    data: dict[str, Coverage]


class FeaturesRecord(Struct, frozen=True, kw_only=True):
    """Feature columns in order, the user's functions if there were any, and the warm-up with its error per column."""

    columns: list[str]
    function: str | None
    warmup: int
    warmup_error: dict[str, float] = {}
    panel: PanelRecord | None = None


class RunGroup(Struct, frozen=True, kw_only=True):
    """The command that a training run belongs to, and how many tickers it trained."""

    id: str
    tickers: Annotated[int, Meta(ge=1, le=1_000_000)]


class HoldoutRecord(Struct, frozen=True, kw_only=True):
    """An opening: its id, the first held-out day, and the run that was scored, with its kind and sha256 of its files.

    A run that was never saved has no files; its name is that under which it would have been saved when it was made.
    """

    id: Annotated[str, Meta(min_length=1, max_length=64)]
    start: Day
    run: str
    kind: Literal["train", "walkforward"]
    sha256: str | None


NextOpen: TypeAlias = dict[str, float | int | Interval | None]
"""Figures at the next open; of all days together with ``edge``, because the rows hold no opens."""


class RecentPrices(Struct, frozen=True, kw_only=True):
    """Last days of a ticker in quoted prices; persistence is the close of the day."""

    date: list[Day]
    predicted: list[float | None]
    actual: list[float | None]
    persistence: list[float | None]


class Prices(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Errors of predicted closes: means over tickers, per ticker, and the last days of some.

    Attributes:
        scaled_mse: Mean squared error of a close that is scaled by the range of train.
        return_mse: The same of a return in volatilities, where that is the target: not to be compared with the former.
        r2_zero: Share of the variance of such returns that is explained, against a prediction of 0.
        r2_mean: The same against the mean of train.
        network_skills: Mean skill of each network of an ensemble by itself.
    """

    scaled_mse: float | None = None
    return_mse: float | None = None
    r2_zero: float | None = None
    r2_mean: float | None = None
    mean_price_rmse: float | None
    mean_price_rmse_percent: float | None
    mean_price_mae: float | None
    mean_persistence_rmse: float | None
    mean_persistence_rmse_percent: float | None
    mean_skill: float | None
    network_skills: list[float | None] | None = None
    per_ticker: dict[str, Figures]
    recent: dict[str, RecentPrices]

    @property
    def skill(self) -> str:
        """The skill in words, with what stands beside it: the networks of an ensemble, and R² of returns."""
        found = f"mean skill of the tickers {figure_text(self.mean_skill, 3)}"
        if known := [skill for skill in self.network_skills or () if skill is not None]:
            found += f" ({len(known)} networks by themselves {min(known):.3f} to {max(known):.3f})"
        if self.return_mse is not None:
            zero, train = (figure_text(value, 3) for value in (self.r2_zero, self.r2_mean))
            found += f", R² {zero} against zero, {train} against the mean of train"
        return found


class Comparison(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The model beside its baselines on some days, as `nextbar.evaluation.figures` makes it; of a fold its first half.

    ``from`` is the first of the days, where that must be said.
    """

    first: Day | None = msgspec.field(name="from", default=None)
    model: Figures
    baselines: dict[str, Figures]
    one_bar_late: Figures
    next_open: NextOpen
    per_ticker: dict[str, Figures] | None = None
    delisting: Figures | None = None
    reliability: list[Figures] | None = None
    price: Prices | None = None


class Fold(Struct, frozen=True, kw_only=True):
    """One window: its days, the number of out-of-sample rows, its figures where there are any, and its fits."""

    number: int
    train_start: Day
    val_start: Day
    test_start: Day
    test_end: Day
    rows: int
    metrics: Comparison | None
    tasks: list[Task]


class Skip(Struct, frozen=True, kw_only=True):
    """A ticker left out of a fold (of all of them where there is none), and why."""

    ticker: str
    fold: int | None
    reason: str


class DataError(Struct, frozen=True, kw_only=True):
    """What `nextbar check` calls an error in the bars of a scored day."""

    ticker: str
    date: Day
    rule: str
    detail: str


class Document(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All that a run says about itself; its rows lie beside it. A training run has one fold, number 0.

    Attributes:
        run: The command that a training run belongs to.
        holdout: What was opened, where the run is an opening.
        periods_per_year: None in a file that does not say.
        holes: Ticker → first day after a hole → return over the hole.
        pauses: Of judged signals, ticker → day of a bar without one, next to a bar that has one → its next return.
        ended: Ticker → last day, for tickers that end before the others.
        pooled: Figures of the model on all days; up to ``price``, as in `Comparison`.
        after_last_training_day: Figures of the days that no ticker of the command trained on.
        data_errors: Errors in the bars of scored days, the first hundred; None in a file that does not say.
        data_error_counts: How many there are, in test and in train.
        files: Sibling → sha256.
    """

    schema_version: int
    rules: int
    kind: Literal["train", "walkforward", "signals", "holdout"]
    created: str
    command: list[str]
    config: JsonDict
    seed: int
    environment: Environment
    model: str
    tickers: list[str]
    data: dict[str, Coverage]
    features: FeaturesRecord
    periods_per_year: Annotated[float, Meta(gt=0, lt=1e12)] | None = None
    holes: dict[str, dict[Day, float | None]]
    pauses: dict[str, dict[Day, float | None]] = {}
    ended: dict[str, str]
    run: RunGroup | None = None
    holdout: HoldoutRecord | None = None
    pooled: Figures
    baselines: dict[str, Figures]
    one_bar_late: Figures
    next_open: NextOpen
    per_ticker: dict[str, Figures]
    delisting: Figures | None = None
    reliability: list[Figures] | None = None
    price: Prices | None = None
    after_last_training_day: Comparison | None = None
    skipped: list[Skip]
    remarks: list[str]
    data_errors: list[DataError] | None = None
    data_error_counts: dict[str, int] | None = None
    seconds: dict[str, float]
    folds: list[Fold]
    files: dict[str, str] = {}
    paths: dict[str, str] = {}

    @property
    def recipe(self) -> str:
        """Kind of the run that it was made as: of an opening, that of the run which was opened."""
        return self.kind if self.holdout is None else self.holdout.kind

    @property
    def coverage(self) -> dict[str, Coverage]:
        """Ticker → what is recorded about its bars, those of columns over all tickers included."""
        panel = self.features.panel
        return self.data if panel is None else {**panel.data, **self.data}

    @property
    def fits(self) -> list[tuple[int, Task]]:
        """Number of the fold and task of every fit."""
        return [(fold.number, task) for fold in self.folds for task in fold.tasks]

    @property
    def refitted(self) -> bool:
        """Whether any of its fits has a refit."""
        return any(task.refit for _, task in self.fits)

    @property
    def figures(self) -> Comparison:
        """Figures of all days together."""
        names = set(Comparison.__struct_fields__) - {"first", "model"}
        return Comparison(model=self.pooled, **{name: getattr(self, name) for name in names})

    @property
    def edge(self) -> Interval | None:
        """Yearly excess when executed at the next open; None where the file does not say."""
        edge = self.next_open.get("edge")
        return edge if isinstance(edge, Interval) else None

    @property
    def majority(self) -> Majority | None:
        """Give the majority class of train in each fold and ticker; None where nothing was trained."""
        if not self.fits:
            return None
        return {
            (number, ticker): majority_class(splits.train.up_share)
            for number, task in self.fits
            for ticker, splits in task.splits.items()
        }

    @property
    def terms(self) -> Terms:
        """Terms that the run was scored on; a file that does not state the periods per year means 252."""
        return Terms(
            cost_bps=float(self.config["cost_bps"]),
            risk_free=float(self.config["risk_free"]),
            periods=float(self.periods_per_year or TRADING_DAYS),
        )

    def book(self, rows: pd.DataFrame) -> Book:
        """Make the series of the run's rows, on its own terms."""
        return Book.of(rows, self.terms, holes=self.holes, pauses=self.pauses)

    def to_json(self) -> JsonDict:
        """Give the document as JSON values."""
        plain: JsonDict = msgspec.to_builtins(self)
        return plain

    def to_json_bytes(self) -> bytes:
        """Write the document as JSON; a number that is NaN or infinite raises a ValueError."""
        return json.dumps(self.to_json(), indent=1, allow_nan=False).encode()


def read_document(path: Path) -> Document:
    """Read a document from its file; a file that is missing or too large raises an ArtifactError, too."""
    return parse_document(read_limited(path, MOST_JSON_BYTES), str(path))


def parse_document(content: bytes, name: str) -> Document:
    """Read a document, of whatever version it is, from the bytes of the file of this name."""
    document = parse_json(content, name)
    with refusing(name):
        found = msgspec.convert(upgrade(document) if document["schema_version"] == 1 else document, Document)
        _check_tickers(found)
        return found


def _check_tickers(document: Document) -> None:
    """Refuse a document whose tickers are not those of its fits."""
    fitted = {ticker: None for _, task in document.fits for ticker in task.splits}
    known = set(document.tickers)
    if unknown := [ticker for ticker in fitted if ticker not in known]:
        raise ValueError(f"it has fits of {', '.join(unknown)}, which are not among its tickers")
    if document.kind == "train" and (unfitted := [ticker for ticker in document.tickers if ticker not in fitted]):
        raise ValueError(f"it has no fit of {', '.join(unfitted)}")
    if (document.kind == "holdout") != (document.holdout is not None):
        raise ValueError("it is an opening that does not name its run, or it names one and is not an opening")
    if missing := [ticker for ticker in fitted if ticker not in document.data]:
        raise ValueError(f"it does not describe the bars of {', '.join(missing)}")
    for _, task in document.fits:
        if task.refit and (set(task.refit.splits) != set(task.splits) or set(task.splits) - set(task.refit.data)):
            raise ValueError(f"the refit of {task.name} is not of the tickers of its fit")


def parse_json(content: bytes, name: str) -> JsonDict:
    """Read a JSON object that says its version; arguments and errors as in `parse_document`."""
    try:
        document = strict_json(content)
    except Exception as error:
        raise ArtifactError(f"{name} is not usable JSON ({error}); fetch it again or train again") from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if not isinstance(document, dict) or version is None:
        raise ArtifactError(f"{name} does not say what run it is of; expected its *_metadata.json, unchanged")
    if version not in (1, SCHEMA_VERSION):
        raise ArtifactError(
            f"{name}: schema version is {brief(version)}, this nextbar reads {SCHEMA_VERSION} and 1; train again or "
            "use its nextbar"
        )
    return document
