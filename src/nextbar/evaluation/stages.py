"""List the stages of a fold, give each as a table, and find where two runs first differ. Nothing is rounded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import pandas as pd

from nextbar.datasets.samples import Samples
from nextbar.evaluation.walkforward import FittedFold
from nextbar.models.reproducibility import digest_arrays, digest_text
from nextbar.types import FeatureTable, JsonDict

Evidence: TypeAlias = dict[tuple[str, str], pd.DataFrame]
"""(stage, ticker) → table of the stage; stages of a model have the name of the task."""

PARTS = ("features", "end of train", "end of validation", "inside test", "rescaled past")
"""Parts of a certificate in which bars are changed; a later part changes less of what a fold has used."""
STAGES: Mapping[str, str | None] = MappingProxyType(
    {
        "bars": None,
        "features": "features",
        "splits": None,
        "train samples": "end of train",
        "scalers": "end of train",
        "train windows": "end of train",
        "search": "end of train",
        "params": "end of train",
        "training steps": "end of train",
        "validation samples": "end of validation",
        "validation windows": "end of validation",
        "epochs": None,
        "history": "end of validation",
        "model": "end of validation",
        "weights": None,
        "threshold": "end of validation",
        "predictions": "inside test",
    }
)
"""Stage, in the order in which they run → first part whose change must not move it; None: a run has only its digest."""
PREDICTED = ["probability", "predicted_close", "threshold", "class", "signal"]
FIXED_FROM = {stage: PARTS.index(part) for stage, part in STAGES.items() if part is not None}

PARTLY_FIXED = ("features", "predictions")
"""Stages with rows on both sides of a border: those before it are compared."""
STEPS = "training steps"
"""Trees or epochs in their order. An earlier stop leaves fewer of them; those that both runs have are compared."""
PRESENCE = "presence"
"""Stands for a column where only one of two runs has the row."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One stage of two runs, compared.

    Attributes:
        part: One of `PARTS`, or ``warm-up``, ``artifact``, ``truncation``, ``reads`` or ``refit``.
        border: First day whose bar was changed (the last one rescaled is before it) or left out; empty: none was.
        way: How it was changed.
        rows: How many rows were compared.
        column: First column that moved; None: all is equal to the bit.
        row: First row that moved.
        digests: sha256 of both sides.
        incomplete: Too little was compared to say that nothing moved.
    """

    part: str
    stage: str
    ticker: str
    border: str = ""
    way: str = "as it is"
    rows: int = 0
    column: str | None = None
    row: str | None = None
    digests: tuple[str, str] = ("", "")
    note: str = ""
    incomplete: bool = False

    @property
    def verdict(self) -> str:
        """PASS, FAIL or INCOMPLETE."""
        return "FAIL" if self.column is not None else "INCOMPLETE" if self.incomplete else "PASS"

    @property
    def passed(self) -> bool:
        """Whether nothing moved, and enough was compared."""
        return self.verdict == "PASS"

    def __str__(self) -> str:
        where = f"{self.verdict} {self.ticker}, {self.stage}"
        if self.note:
            return f"{where} ({self.part}): {self.note}"
        if self.column is None:
            return where
        bars = f"before {self.border}" if self.part == "rescaled past" else f"from {self.border} on"
        return f"{where}: {self.column} moved in row {self.row} when bars {bars} were changed ({self.way})"

    def to_json(self) -> JsonDict:
        """Return the finding for the certificate."""
        return {"verdict": self.verdict, **asdict(self)}


def examine(fold: FittedFold, name: str) -> Evidence:
    """Return every stage of a fold as a table; ``name`` is that of its task. A refit decides and predicts nothing."""
    found: Evidence = {}
    rows = pd.DataFrame(fold.rows).set_index("date") if fold.rows else None
    for data in fold.panel:
        ticker = data.table.ticker
        found["features", ticker] = as_frame(data.table)
        found["train samples", ticker] = _samples(data.train, data.table.columns)
        if rows is not None:
            found["validation samples", ticker] = _samples(data.val, data.table.columns)
            found["predictions", ticker] = rows.loc[rows["ticker"] == ticker, PREDICTED]
    for ticker, choice in fold.choices.items():
        curve = asdict(choice.curve)
        found["threshold", ticker] = pd.DataFrame(curve).assign(chosen=choice.threshold).set_index("threshold")
    found |= {(stage, name): table for stage, table in fold.fitted.evidence.items()}
    order = list(STAGES)
    return dict(sorted(found.items(), key=lambda item: order.index(item[0][0])))


def as_frame(table: FeatureTable) -> pd.DataFrame:
    """Return features by day and column."""
    days = pd.DatetimeIndex(table.dates.astype("datetime64[s]"))
    return pd.DataFrame(table.features, index=days, columns=list(table.columns))


def _samples(part: Samples, columns: tuple[str, ...]) -> pd.DataFrame:
    days = pd.DatetimeIndex(part.dates.astype("datetime64[s]"))
    table = pd.DataFrame(part.X, index=days, columns=list(columns))
    labels = pd.DataFrame({"label": part.y, "next return": part.next_returns, "price": part.prices}, index=days)
    return pd.concat([table, labels], axis=1)


def compare(base: Evidence, other: Evidence, *, part: str, cut: np.datetime64, way: str) -> list[Finding]:
    """Compare, in their order, the stages that a change from day ``cut`` on must not have moved: of a refit all."""
    return [
        compare_tables(ours, other.get(key, ours.head(0)), stage=key[0], ticker=key[1], part=part, cut=cut, way=way)
        for key, ours in base.items()
        if part not in PARTS or FIXED_FROM[key[0]] <= PARTS.index(part)
    ]


def compare_tables(
    ours: pd.DataFrame, theirs: pd.DataFrame, *, stage: str, ticker: str, part: str, cut: np.datetime64, way: str
) -> Finding:
    """Compare one stage of two runs, as far as the change must not have moved it."""
    if stage in PARTLY_FIXED:
        ours, theirs = (table[table.index.to_numpy() < cut] for table in (ours, theirs))
    if stage == STEPS:
        common = min(len(ours), len(theirs))
        ours, theirs = ours.head(common), theirs.head(common)
    digests = digest_table(ours), digest_table(theirs)
    same = digests[0] == digests[1]
    column, row = (None, None) if same else first_difference(ours, theirs) or ("digest", "")
    return Finding(
        part=part,
        border=str(cut),
        way=way,
        stage=stage,
        ticker=ticker,
        rows=len(ours),
        column=column,
        row=row,
        digests=digests,
    )


def first_difference(ours: pd.DataFrame, theirs: pd.DataFrame) -> tuple[str, str] | None:
    """Return column and row of the first value that differs in a bit: the first row, in it the first column."""
    if list(ours.columns) != list(theirs.columns):
        return next(iter(set(ours.columns) ^ set(theirs.columns)), "order of columns"), "every row"
    common = min(len(ours), len(theirs))
    moved = np.asarray(_bits(ours.head(common)) != _bits(theirs.head(common)))
    if moved.any():
        row = int(moved.any(axis=1).argmax())
        return [PRESENCE, *map(str, ours.columns)][int(moved[row].argmax())], _label(ours.index[row])
    longer = max(ours, theirs, key=len)
    return None if len(longer) == common else (PRESENCE, _label(longer.index[common]))


def digest_table(table: pd.DataFrame) -> str:
    """Return the sha256 of a table's labels and bits."""
    bits = _bits(table)
    content = digest_text("\n".join(bits.ravel())) if bits.dtype == object else digest_arrays([bits])
    return digest_text("\n".join([*map(str, table.columns), content]))


def first_stage(recorded: Mapping[str, str], now: Mapping[str, str], skip: Mapping[str, str]) -> str | None:
    """Return the first stage whose digests differ, or None; those of ``skip`` are not compared."""
    others = sorted((set(recorded) | set(now)) - set(STAGES))
    stages = (stage for stage in (*STAGES, *others) if stage not in skip)
    return next((stage for stage in stages if recorded.get(stage) != now.get(stage)), None)


def _bits(table: pd.DataFrame) -> np.ndarray:
    """Return [rows, 1 + columns] labels and values; equal means equal bits, but all NaN are alike."""
    labels, values = table.index.to_numpy(), table.to_numpy()
    if labels.dtype.kind == "M":
        labels = labels.astype("datetime64[D]").astype(np.int64)
    if labels.dtype.kind in "iuf" and values.dtype.kind in "iuf":
        numbers = np.column_stack([labels, values]).astype(np.float64)
        return np.where(np.isnan(numbers), np.nan, numbers).view(np.int64)
    return np.array([[repr(label), *map(repr, row)] for label, row in zip(labels, values, strict=True)], dtype=object)


def _label(row: object) -> str:
    return str(row.date()) if isinstance(row, pd.Timestamp) else f"{row}"
