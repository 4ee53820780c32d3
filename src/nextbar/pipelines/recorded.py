"""A run that lies on disk, made ready to be run again: its folds, its bars, and what it said about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nextbar.artifacts.load import read_metadata
from nextbar.artifacts.metadata import coverage
from nextbar.config import CommonConfig, TrainConfig, WalkForwardConfig
from nextbar.datasets.assemble import Bars
from nextbar.errors import ArtifactError, DatabaseError
from nextbar.evaluation.walkforward import FoldTask
from nextbar.execution.engine import Engine
from nextbar.pipelines.saved import check_features
from nextbar.pipelines.universe import load_universe
from nextbar.types import Border, DateArray, JsonDict


@dataclass(frozen=True, kw_only=True)
class RecordedFold:
    """One fold of a recorded run and the digests that it left."""

    task: FoldTask
    digests: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class BarsChange:
    """How one ticker's bars differ from those recorded: both fingerprints, and what is known about the difference."""

    ticker: str
    recorded: str
    now: str | None
    how: str

    def __str__(self) -> str:
        return f"{self.ticker}: {self.how}"


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A recorded run.

    Attributes:
        path: Its metadata, or its walk-forward result.
        document: Content of that file.
        config: Its configuration, with the database where it is now.
        bars: Ticker → bars of the recorded days, as the database holds them now.
        folds: Its folds, with the splits that were recorded; empty when bars have changed.
        changed: Tickers whose bars differ from those recorded.
    """

    path: Path
    document: JsonDict
    config: CommonConfig
    bars: Mapping[str, Bars]
    folds: list[RecordedFold]
    changed: list[BarsChange]

    @property
    def model(self) -> str:
        """Kind of its model."""
        return str(self.document["model"])

    @property
    def threads(self) -> int:
        """Threads of one task: part of the bits."""
        return int(self.document["environment"]["threads"])

    @property
    def engine(self) -> Engine:
        """Workers with the threads that were recorded."""
        return Engine(
            name=self.config.engine, jobs=self.config.jobs, threads=self.threads, scheduler=self.config.scheduler
        )

    @property
    def stem(self) -> str:
        """What the names of its files begin with."""
        return self.path.name.removesuffix(".json").removesuffix("_metadata")

    def dates(self) -> dict[str, DateArray]:
        """Ticker → its days."""
        return {name: item.frame.index.to_numpy().astype("datetime64[D]") for name, item in self.bars.items()}


def load_recorded(path: Path, *, db: str | None = None, features: str | None = None) -> Recorded:
    """Read a run and the bars that it was made from.

    Args:
        path: `*_metadata.json` or a walk-forward's `.json`.
        db: Where the database is now; None: where the run found it.
        features: The user's own feature function, named again: a file alone must not make us run code.

    Raises:
        ArtifactError: The file is missing, damaged, or not the metadata of a run.
        FeatureError: The run has a feature function that was not named.
        NextbarError: The database cannot be read, or no longer holds a ticker.
    """
    document = read_metadata(path)
    try:
        config = _config(document, db)
        check_features(path.name, config.features, features)
        parts = _fold_parts(document)
        recorded = {name: document["data"][name] for _, part in parts for name in part["splits"]}
        bars = _bars(config, recorded)
        changed = _changes(bars, recorded)
        folds = [] if changed else [_fold(number, part, document["model"], config, bars) for number, part in parts]
    except KeyError as error:
        raise ArtifactError(f"{path} lacks {error}; name a *_metadata.json or walkforward_*.json, whole") from error
    return Recorded(path=path, document=document, config=config, bars=bars, folds=folds, changed=changed)


def _config(document: JsonDict, db: str | None) -> CommonConfig:
    kind = WalkForwardConfig if "folds" in document else TrainConfig
    try:
        config: CommonConfig = kind(**document["config"])
    except TypeError as error:
        raise ArtifactError(f"another version of nextbar wrote this configuration ({error}); train again") from error
    return config if db is None else replace(config, db=db)


def _fold_parts(document: JsonDict) -> list[tuple[int, JsonDict]]:
    """(number, facts) of every fold: a training run is a single one."""
    if "folds" not in document:
        return [(0, document)]
    return [(int(fold["number"]), task) for fold in document["folds"] for task in fold["tasks"]]


def _bars(config: CommonConfig, recorded: Mapping[str, JsonDict]) -> dict[str, Bars]:
    """Bars of the recorded days: what was stored later is left out."""
    try:
        universe = load_universe(config, names=list(recorded))
    except DatabaseError as error:
        if "://" not in config.db:
            raise
        raise DatabaseError(f"{error}; no run records a password: name --db with it, or set PGPASSWORD") from error
    return {
        name: replace(item, frame=item.frame.loc[recorded[name]["first"] : recorded[name]["last"]])
        for name, item in universe.bars.items()
    }


def _fold(number: int, part: JsonDict, model: str, config: CommonConfig, bars: Mapping[str, Bars]) -> RecordedFold:
    """A task as it was: its splits from their recorded days and sizes, its parameters unless it searched for them."""
    search = part.get("search", {})
    searched = bool(search.get("candidates"))
    task = FoldTask(
        name=part.get("task") or part["name"],
        config=config,
        model=model,
        fold=number,
        borders={name: _border(splits, bars[name]) for name, splits in part["splits"].items()},
        params=None if searched else search.get("params"),
        search=searched,
        out_of_sample=isinstance(config, WalkForwardConfig),
    )
    return RecordedFold(task=task, digests=part["digests"])


def _border(splits: JsonDict, bars: Bars) -> Border:
    first = np.datetime64(splits["train"]["first"], "D")
    start = int(np.searchsorted(bars.frame.index.to_numpy(), first))
    val, test, end = (
        start + int(rows) for rows in np.cumsum([splits[name]["rows"] for name in ("train", "val", "test")])
    )
    return Border(train=start, val=val, test=test, end=end)


def _changes(bars: Mapping[str, Bars], recorded: Mapping[str, JsonDict]) -> list[BarsChange]:
    """Tickers whose bars differ from those recorded."""
    now = coverage(bars, [name for name, item in bars.items() if len(item.frame)])
    return [
        BarsChange(
            ticker=name,
            recorded=then["fingerprint"],
            now=now.get(name, {}).get("fingerprint"),
            how=_how(now[name], then) if name in now else "no usable bar any more",
        )
        for name, then in recorded.items()
        if now.get(name, {}).get("fingerprint") != then["fingerprint"]
    ]


def _how(now: Mapping[str, Any], then: Mapping[str, Any]) -> str:
    """What about one ticker's bars has changed, and in which months."""
    ours, theirs = _months(now), _months(then)
    months = sorted(month for month in ours | theirs if ours.get(month) != theirs.get(month))
    facts = [f"{key} {then[key]}, now {now[key]}" for key in ("bars", "adjustment", "dropped") if then[key] != now[key]]
    more = f" and {len(months) - 6} later months" if len(months) > 6 else ""
    return "; ".join([*facts, f"bars differ in {', '.join(months[:6])}{more}" if months else "bars differ"])


def _months(facts: Mapping[str, Any]) -> dict[str, str]:
    """Month → checksum of its bars."""
    years = facts.get("months", {})
    return {f"{year}-{at:02}": sum_ for year, sums in years.items() for at, sum_ in enumerate(sums.split(), start=1)}
