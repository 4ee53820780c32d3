"""Records of a fit in the document of a run: its splits, its threshold, its search, and the bars that it has seen."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta, Struct

from nextbar.datasets.sequences import ScalerRange
from nextbar.types import JsonDict

Day: TypeAlias = Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\d$")]


class Environment(Struct, frozen=True, kw_only=True):
    """Versions, processor and thread count: what can change the bits of a result."""

    python: str
    platform: str
    cpu: str
    cores: int
    threads: Annotated[int, Meta(ge=1)]
    keras_backend: str
    versions: dict[str, str]


class Coverage(Struct, frozen=True, kw_only=True):
    """Bars used of a ticker: how many, from when to when, how adjusted, their sha256 and a checksum per day."""

    bars: int
    first: Day
    last: Day
    dropped: int
    adjustment: str
    fingerprint: str
    days: dict[str, str]


class Part(Struct, frozen=True, kw_only=True):
    """Rows of a split with the first and the last day; no day where there is no row."""

    rows: Annotated[int, Meta(ge=0)]
    first: Day | None
    last: Day | None


class TrainPart(Part, frozen=True, kw_only=True):
    """The train split, never empty, with the share of its days that rise."""

    first: Day
    last: Day
    up_share: float


class Splits(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Train, validation and test of a ticker, and how many rows are no samples, by reason."""

    train: TrainPart
    val: Part
    test: Part
    lost: dict[str, int] | None = None


class Curve(Struct, frozen=True, kw_only=True):
    """Candidates of a threshold with their scores and the validation days on which they are long."""

    threshold: list[float]
    score: list[float | None]
    long_days: list[int]


class ThresholdRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Decision threshold of a ticker: what was maximised, the score, why the default was taken, all candidates."""

    threshold: Annotated[float, Meta(ge=0, le=1)]
    objective: str
    score: float | None
    reason: str | None
    curve: Curve | None = None


class Candidate(Struct, frozen=True, kw_only=True):
    """Parameters that a search tried, the score of each fold, their mean and its rank."""

    params: JsonDict
    scores: list[float]
    mean: float
    rank: int


class SearchRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Parameters of the fit, and the search that found them; no candidates without a search."""

    scoring: str
    method: str | None = None
    estimator: str | None = None
    fixed: JsonDict | None = None
    space: dict[str, list[Any]] | None = None
    params: JsonDict
    candidates: list[Candidate]


class Group(Struct, frozen=True, kw_only=True):
    """Folds that were trained in one program: the device, how many networks at once, and the folds in their order."""

    device: str
    networks: Annotated[int, Meta(ge=1)]
    folds: list[int]


class Refit(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The model of a fit, fitted once more on all bars: for predictions, and no figure is made with it.

    Parameters, threshold and the number of trees or epochs are those of the fit; nothing was chosen again.

    Attributes:
        splits: Ticker → its window: all rows are train, up to the last bar, whose close is the last label.
        data: Bars that it was fitted on, and those that columns over all tickers were made from; no checksum per day.
        scalers: As in `Task`.
        details: As in `Task`.
        environment: Where it was made, if that was not where the run was made.
    """

    created: str
    seed: int
    splits: dict[str, Splits]
    digests: dict[str, str]
    data: dict[str, Coverage]
    scalers: dict[str, ScalerRange] | None = None
    details: JsonDict = {}
    environment: Environment | None = None

    @property
    def last(self) -> str:
        """The last day that it has seen of any ticker."""
        return max(splits.train.last for splits in self.splits.values())


class Task(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One fit: by ticker its splits, its threshold and what is degenerate; by stage its digests.

    A model that predicts prices has no threshold; ``search`` is None for a model that does not describe its search, and
    ``details`` is what only one kind of model has. ``params`` and ``searched`` stand where a model of the user's own
    searches without describing it: what it found, and whether it searched in this fit. ``contributions`` are the mean
    absolute SHAP values of the columns on days after train, where the model gives them: of a forest in probability, of
    XGBoost in log odds. ``group`` stands where an accelerator trained several folds together; ``scalers`` has the
    ranges of a saved network's scalers; ``refit`` is the same model fitted on all bars.
    """

    name: str
    seed: int
    splits: dict[str, Splits]
    digests: dict[str, str]
    threshold: dict[str, ThresholdRecord]
    search: SearchRecord | None = None
    params: JsonDict | None = None
    searched: bool = False
    importance: dict[str, float] | None = None
    permutation_importance: dict[str, float] | None = None
    contributions: dict[str, float] | None = None
    degenerate: dict[str, dict[str, str]] = {}
    group: Group | None = None
    scalers: dict[str, ScalerRange] | None = None
    details: JsonDict = {}
    refit: Refit | None = None

    @property
    def refitted(self) -> Task | None:
        """Its refit as a fit with the same parameters and threshold; None where there is none."""
        if self.refit is None:
            return None
        own = ("seed", "splits", "digests", "scalers", "details")
        return msgspec.structs.replace(self, refit=None, **{name: getattr(self.refit, name) for name in own})

    @property
    def chosen(self) -> JsonDict | None:
        """Parameters of the fit, where there was a search for them."""
        return self.params if self.search is None else self.search.params

    @property
    def has_searched(self) -> bool:
        """Whether this fit searched for its parameters."""
        return self.searched if self.search is None else bool(self.search.candidates)
