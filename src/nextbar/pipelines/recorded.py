"""A run that lies on disk, made ready to be run again: its folds, its bars, and what it said about itself."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np

from nextbar.artifacts.load import check_siblings, read_config, read_metadata
from nextbar.artifacts.metadata import RULES, coverage, rules_of
from nextbar.config import DEFAULT_DB, CommonConfig, WalkForwardConfig, without_password
from nextbar.datasets.assemble import Bars
from nextbar.errors import ArtifactError, DatabaseError, NothingToTrainError, UnknownTickerError
from nextbar.evaluation.series import Terms
from nextbar.evaluation.walkforward import FoldTask
from nextbar.execution.engine import Engine
from nextbar.models.reproducibility import differing_days
from nextbar.pipelines.saved import check_features
from nextbar.pipelines.universe import load_universe
from nextbar.types import Border, DateArray, JsonDict
from nextbar.untrusted import refusing

DAYS_SHOWN = 6
CHANGED_RULES = {"bars": "volume is adjusted"}
"""Stage → what about its rule has changed since 0.1.0."""


class Place(TypedDict, total=False):
    """Where a recorded run is run again, none of which changes a bit.

    Attributes:
        db: Where the bars are; None: the default database. A database that a run records is never opened, because
            whoever wrote the file would choose the server that gets a password.
        features: The run's own feature function, named again: a file alone must not make us run code.
        engine: Where tasks run, here and not as recorded; this and what follows as in `nextbar.config.CommonConfig`.
        jobs: Processes.
        scheduler: Address of a Dask scheduler.
    """

    db: str | None
    features: str | None
    engine: str
    jobs: int | None
    scheduler: str | None


@dataclass(frozen=True, kw_only=True)
class RecordedFold:
    """One fold of a recorded run: its task, the parameters of its fit and the digests that it left."""

    task: FoldTask
    params: Mapping[str, Any] | None
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
        model: Kind of its model.
        threads: Threads of one task: part of the bits.
        config: Its configuration, with the `Place` where it is run again.
        bars: Ticker → bars of the recorded days, as the database holds them now.
        folds: Its folds, with the splits that were recorded; empty when bars have changed.
        changed: Tickers whose bars differ from those recorded.
    """

    path: Path
    document: JsonDict
    model: str
    threads: int
    config: CommonConfig
    bars: Mapping[str, Bars]
    folds: list[RecordedFold]
    changed: list[BarsChange]

    @property
    def quoted_volume(self) -> bool:
        """Whether it was made on the volume as quoted."""
        return rules_of(self.document) == 1

    @property
    def changed_rules(self) -> Mapping[str, str]:
        """Stage → what about its rule has changed since the run was made; its digest says nothing any more."""
        return CHANGED_RULES if rules_of(self.document) == 1 else {}

    @property
    def elsewhere(self) -> str:
        """What to know where the default database was read and the run names another one; empty elsewhere."""
        return _elsewhere(str(self.document["config"].get("db", DEFAULT_DB)), self.config.db)

    @property
    def engine(self) -> Engine:
        """Workers with the threads that were recorded."""
        return Engine(
            name=self.config.engine, jobs=self.config.jobs, threads=self.threads, scheduler=self.config.scheduler
        )

    @property
    def stem(self) -> str:
        """What the names of its files begin with."""
        return _stem(self.path)

    @cached_property
    def dates(self) -> dict[str, DateArray]:
        """Ticker → its days."""
        return {name: item.frame.index.to_numpy().astype("datetime64[D]") for name, item in self.bars.items()}


def _stem(path: Path) -> str:
    return path.name.removesuffix(".json").removesuffix("_metadata")


def load_recorded(path: Path, **place: Unpack[Place]) -> Recorded:
    """Read a run and the bars that it was made from.

    Args:
        path: `*_metadata.json` or a walk-forward's `.json`.
        **place: See `Place`.

    Raises:
        ArtifactError: The file is missing, damaged, or not the metadata of a run; or a file beside it was changed.
        ConfigError: The place is none.
        DatabaseError: The database cannot be read; another one may be recorded.
        FeatureError: The run has a feature function that was not named.
        UnknownTickerError: The database does not hold a ticker; the one that is recorded may.
    """
    if path.suffix != ".json":
        raise ArtifactError(f"{path}: expected a run's *_metadata.json, or the .json of a walk-forward")
    document = read_metadata(path)
    check_siblings(path, _stem(path), document)
    own = read_config(document, str(path))
    with refusing(str(path)):
        model, threads = str(document["model"]), int(document["environment"]["threads"])
        rules = rules_of(document)
        if not (parts := _fold_parts(document)):
            raise ValueError("it has no fold")
        recorded = {name: document["data"][name] for _, part in parts for name in part["splits"]}
    if rules > RULES:
        raise ArtifactError(
            f"{path}: a newer nextbar made this run, by rules {rules}, this one knows {RULES}; upgrade nextbar"
        )
    check_features(path.name, own.features, place.get("features"))
    config = replace(own, db=place.get("db") or DEFAULT_DB, **_workers(place))
    stored = _stored_bars(config, list(recorded), own.db, quoted_volume=rules == 1)
    with refusing(str(path)):
        bars = {name: _cut(item, recorded[name]) for name, item in stored.items()}
        changed = _changes(bars, recorded)
        folds = [] if changed else [_fold(number, part, document, config, bars) for number, part in parts]
    return Recorded(
        path=path,
        document=document,
        model=model,
        threads=threads,
        config=config,
        bars=bars,
        folds=folds,
        changed=changed,
    )


def _workers(place: Place) -> dict[str, Any]:
    """Options that say where tasks run, at their defaults where the place does not name them."""
    own = CommonConfig()
    return {name: place.get(name, getattr(own, name)) for name in ("engine", "jobs", "scheduler")}


def _fold_parts(document: JsonDict) -> list[tuple[int, JsonDict]]:
    """(number, facts) of every fold: a training run is a single one."""
    if "folds" not in document:
        return [(0, document)]
    return [(int(fold["number"]), task) for fold in document["folds"] for task in fold["tasks"]]


def _stored_bars(
    config: CommonConfig, names: Sequence[str], recorded_db: str, *, quoted_volume: bool
) -> Mapping[str, Bars]:
    """All bars of some tickers; an error says where the run had its bars from."""
    try:
        return load_universe(config, names=names, quoted_volume=quoted_volume).bars
    except (DatabaseError, UnknownTickerError, NothingToTrainError) as error:
        raise type(error)("; ".join(filter(None, [str(error), _elsewhere(recorded_db, config.db)]))) from error


def _elsewhere(recorded: str, opened: str) -> str:
    """How to read the recorded database, where it is another than the default one and no other was named."""
    if opened != DEFAULT_DB or recorded == DEFAULT_DB:
        return ""
    recorded = without_password(recorded)
    shown = recorded if recorded.isprintable() else ascii(recorded)
    password = " (no run records a password: write it into the URL, or set PGPASSWORD)" if "://" in recorded else ""
    return (
        f"the run used the database {shown}; {opened} was read, because no database is opened that a file names; "
        f"to use the recorded one, add: --db {shlex.quote(shown)}{password}"
    )


def _cut(bars: Bars, recorded: JsonDict) -> Bars:
    """Bars of the recorded days: what was stored later is left out."""
    return replace(bars, frame=bars.frame.loc[recorded["first"] : recorded["last"]])


def _fold(
    number: int, part: JsonDict, document: JsonDict, config: CommonConfig, bars: Mapping[str, Bars]
) -> RecordedFold:
    """A task as it was: its splits from their recorded days and sizes, its parameters unless it searched for them."""
    search = part.get("search", {})
    searched = bool(search.get("candidates"))
    task = FoldTask(
        name=part.get("task") or part["name"],
        config=config,
        model=str(document["model"]),
        fold=number,
        borders={name: _border(splits, bars[name]) for name, splits in part["splits"].items()},
        params=None if searched else search.get("params"),
        search=searched,
        out_of_sample=isinstance(config, WalkForwardConfig),
        periods=Terms.recorded(document).periods,
        ended=frozenset(document.get("ended", ())),
    )
    return RecordedFold(task=task, params=search.get("params"), digests=part["digests"])


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
    """What about one ticker's bars has changed, and on which days."""
    facts = [f"{key} {then[key]}, now {now[key]}" for key in ("bars", "adjustment", "dropped") if then[key] != now[key]]
    for how, days in differing_days(then["days"], now["days"]).items():
        more = f" and {len(days) - DAYS_SHOWN} more up to {days[-1]}" if len(days) > DAYS_SHOWN else ""
        facts += [f"bars {how}: {', '.join(days[:DAYS_SHOWN])}{more}"] if days else []
    return "; ".join(facts) or "bars differ"
