"""Use case: walk forward every configuration of a run file that has not been run yet."""

from __future__ import annotations

import datetime as dt
import math
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import Field, dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

from nextbar.config import TrainConfig, WalkForwardConfig
from nextbar.datasets.splits import Windows
from nextbar.errors import (
    ArtifactError,
    ConfigError,
    FeatureError,
    ModelError,
    NextbarError,
    NothingToTrainError,
    UnknownTickerError,
    option_words,
)
from nextbar.features.spec import FeatureSpec
from nextbar.market.bars import stored_spans
from nextbar.models.base import Model
from nextbar.models.registry import KINDS, check_kinds
from nextbar.runs.files import check_target, refuse_special
from nextbar.runs.labels import is_idle, labels, matters, tell_idle, tell_overruled
from nextbar.runs.load import find_marks, load_run
from nextbar.runs.run import Run
from nextbar.runs.trial import identify
from nextbar.types import JsonDict, Progress
from nextbar.words import excerpt, listed, nearest, occur_twice, plural
from nextbar.workflows.own_models import OPTIONS as OWN_OPTIONS
from nextbar.workflows.own_models import named_model
from nextbar.workflows.report import Report, report_each, write_trades
from nextbar.workflows.universe import check_tickers, used_span
from nextbar.workflows.walkforward import WalkForwardResult, walk_forward

MOST_RUNS = 1000
OPTIONS: Mapping[str, Field[Any]] = {item.name: item for item in fields(WalkForwardConfig) if "text" in item.metadata}
"""Keys of a run file."""
TABLES = ("defaults", "run")


@dataclass(kw_only=True)
class Experiment:
    """One configuration of a run file.

    Attributes:
        name: Its name, else its model and the options that differ in the file.
        model: The user's own model; None for a built-in kind.
        run: Its run on disk, once there is one.
        result: Its walk-forward, where it was run now.
        error: Why there is no run.
    """

    name: str
    config: WalkForwardConfig
    model: Model | None = None
    run: Run | None = None
    result: WalkForwardResult | None = None
    error: str | None = None

    @property
    def state(self) -> str:
        """Whether it was run now, was finished before, has failed, or is still to be run."""
        if self.error is not None:
            return "failed"
        if self.run is None:
            return "to run"
        return "finished before" if self.result is None else "finished"

    def to_json(self) -> JsonDict:
        """Return what it is and what became of it."""
        path = None if self.run is None else str(self.run.mark)
        about = {"run": self.name, "state": self.state, "file": path, "error": self.error}
        return {**about, "config": self.config.to_json()}


@dataclass(kw_only=True)
class Experiments:
    """What a run file asks for, each configuration once, and what to know about it."""

    items: list[Experiment]
    notes: list[str]

    @property
    def open(self) -> list[Experiment]:
        """Those that have no run yet."""
        return [item for item in self.items if item.run is None]


def read_experiments(path: Path, db: str | None = None) -> Experiments:
    """Read a run file and find the runs that are finished; nothing is written. ``db`` is for runs that name none."""
    defaults, runs = _parse(path)
    tables = [({} if db is None else {"db": db}) | defaults | table for table in runs]
    made = [list(_configs(table, number, path)) for number, table in enumerate(tables, start=1)]
    configs = [one for part in made for one in part]
    once = {_key(config): (config, own) for config, own in reversed(configs)}
    chosen = [once[key] for key in dict.fromkeys(_key(config) for config, _ in configs)]
    named = labels([(config.model, WalkForwardConfig, config.to_json()) for config, _ in chosen])
    several = len({_tickers(config) for config, _ in chosen}) > 1
    known, notes = _finished({config.output_dir for config, _ in chosen})
    notes += _idle("[defaults]", defaults, configs)
    for number, (table, part) in enumerate(zip(runs, made, strict=True), start=1):
        notes += _idle(f"[[run]] {number}", table, part)
    if repeated := len(configs) - len(chosen):
        notes.append(f"{occur_twice(repeated, 'configuration')} in {path}; each is run once")
    items = []
    for (config, own), label in zip(chosen, named, strict=True):
        name = ", ".join([label, *([excerpt(config.ticker, 40)] if several else [])])
        run = known.get((config.output_dir, *_key(config)))
        items.append(Experiment(name=name, config=config, model=own, run=run))
    return Experiments(items=items, notes=notes)


def check_experiments(found: Experiments, path: Path) -> None:
    """Refuse functions and tickers that do not exist before the first run: a typo in the last must cost nothing."""
    known: set[tuple[str, str]] = set()
    for item in found.open:
        with _of_file(f"{path}: {item.name}"):
            FeatureSpec.of(item.config).check_names()
            if (asked := (item.config.db, _tickers(item.config))) not in known:
                check_tickers(item.config.db, _names(item.config)[: _limit(item.config)])
            known.add(asked)


def try_days(found: Experiments) -> None:
    """Find the runs whose days or windows leave nothing to train on; only the first and last stored bars are read."""
    spans = {db: stored_spans(db) for db in {item.config.db for item in found.open}}
    for item in found.open:
        stored = spans[item.config.db]
        names = (_names(item.config) or sorted(stored))[: _limit(item.config)]
        try:
            if not (own := {name: stored[name] for name in names if name in stored}):
                raise NothingToTrainError(f"there are no bars of {listed(names)}")
            Windows.of(item.config).windows(*used_span(item.config, own))
        except NextbarError as error:
            item.error = option_words(str(error))


@contextmanager
def _of_file(place: str) -> Iterator[None]:
    """Let errors of the user say where in the file they are, and name options as the file does."""
    try:
        yield
    except (ConfigError, FeatureError, ModelError, UnknownTickerError) as error:
        raise ConfigError(f"{place}: {option_words(str(error))}") from error


def run_experiments(found: Experiments, progress: Progress, tell: Callable[[str], None]) -> None:
    """Run what is not finished, one after the other; what cannot be run is left out with its reason.

    ``tell`` is told which run begins.
    """
    for path in {item.config.trades for item in found.items} - {None}:
        check_target(Path(str(path)), "--trades")
    for number, item in enumerate(started := found.open, start=1):
        tell(f"{number} of {len(started)}: {item.name}")
        try:
            item.result = walk_forward(item.config, progress, model=item.model)
            item.run = item.result.run
        except NextbarError as error:
            item.error = option_words(str(error))


def write_pages(found: Experiments, progress: Progress) -> list[Report]:
    """Write trades, and the page of each run that was made now; give the pages that MLflow gets.

    Pages are written last, so that each verdict is deflated for all runs of the file.
    """
    for path in dict.fromkeys(item.config.trades for item in found.items):
        runs = [item.run for item in found.items if item.config.trades == path and item.run is not None]
        write_trades(None if path is None else Path(path), runs)
    logged = []
    for item in found.items:
        if item.result is not None and (item.config.mlflow or not item.config.no_report):
            pages = report_each([item.result.run.mark], progress, ledger=item.config.ledger)
            logged += pages if item.config.mlflow else []
    return logged


def newer_bars(found: Experiments) -> list[str]:
    """Say which finished runs end before the stored bars do: they are not run again for that."""
    told = []
    for item in found.items:
        ends = item.config.end or item.config.holdout_from  # later bars are none of its business
        if item.run is None or item.result is not None or ends is not None:
            continue
        spans = stored_spans(item.config.db)
        data = item.run.document.data
        later = [name for name, facts in data.items() if name in spans and str(spans[name][1]) > facts.last]
        if later:
            told.append(
                f"{item.name}: there are newer bars of {plural(len(later), 'ticker')} than when it was run; to run it "
                f"again, move {item.run.mark} away or name another output_dir"
            )
    return told


def _idle(place: str, table: Mapping[str, Any], configs: Sequence[tuple[WalkForwardConfig, Model | None]]) -> list[str]:
    """Say which options of a table change nothing for any model that it is about."""

    def idle(name: str, label: str) -> bool:  # own models of different parameters may have the same label
        return all(
            is_idle(name, label) if own is None else name in OWN_OPTIONS and not hasattr(own, name)
            for config, own in configs
            if config.model == label
        )

    labels = list(dict.fromkeys(config.model for config, _ in configs))
    lost = [*tell_idle(table, labels, idle), *tell_overruled(table, configs)]
    return [f"{place}: {option_words(told)}" for told in lost]


def _parse(path: Path) -> tuple[JsonDict, list[JsonDict]]:
    """Return the defaults, and the table of each run."""
    refuse_special(path, "name a run file")
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: expected a run file (TOML); it cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: expected a run file (TOML); {error}") from error
    _refuse_unknown(document, TABLES, f"{path}: the tables of a run file are [defaults] and [[run]]; unknown")
    defaults, runs = document.get("defaults", {}), document.get("run", [])
    if not isinstance(defaults, dict):
        raise ConfigError(f"{path}: expected one table [defaults] with options")
    if not isinstance(runs, list) or not runs or not all(isinstance(run, dict) for run in runs):
        raise ConfigError(f"{path}: expected at least one table [[run]], in double brackets")
    own = [_options(run, f"[[run]] {number}", path) for number, run in enumerate(runs, 1)]
    return _options(defaults, "[defaults]", path), own


def _options(table: Mapping[str, Any], place: str, path: Path) -> JsonDict:
    """Return options by the names of the configuration; a key may be spelled with - and with _."""
    _refuse_unknown(table, OPTIONS, f"{path}: {place} has the unknown option")
    found = {name.replace("-", "_"): value for name, value in table.items()}
    if len(found) < len(table):
        raise ConfigError(f"{path}: {place} names an option twice, once with - and once with _; keep one")
    return found


def _refuse_unknown(names: Mapping[str, Any], known: Sequence[str] | Mapping[str, Any], message: str) -> None:
    """Refuse a name that is not known; the nearest one is told."""
    for name in names:
        plain = name.replace("-", "_")
        if plain in known:
            continue
        if known is OPTIONS and any(plain == item.name and "text" in item.metadata for item in fields(TrainConfig)):
            raise ConfigError(
                f"{message} {excerpt(name)}: it is an option of nextbar train, but a run file walks forward"
            )
        told = nearest(plain, known, lead="") or "see: nextbar walkforward --help"
        if known is TABLES and plain in OPTIONS:
            told = "options stand below one of these headings"
        raise ConfigError(f"{message} {excerpt(name)}; {told}")


def _configs(table: Mapping[str, Any], number: int, path: Path) -> Iterator[tuple[WalkForwardConfig, Model | None]]:
    """Give every combination of the values in lists, the last list changing fastest, with the user's own model."""
    values = {name: value if isinstance(value, list) else [value] for name, value in table.items()}
    place = f"{path}: [[run]] {number}"
    if empty := [name for name, choices in values.items() if not choices]:
        raise ConfigError(f"{place}: the list of {empty[0]} is empty; name a value, or leave the option out")
    if (count := math.prod(map(len, values.values()))) > MOST_RUNS:
        raise ConfigError(f"{place}: its lists make {count:,} runs; expected at most {MOST_RUNS:,}")
    for choice in product(*values.values()):
        chosen = {name: _plain(name, value, place) for name, value in zip(values, choice, strict=True)}
        with _of_file(place):
            config = WalkForwardConfig(**{"resume": True, **chosen})
            if ":" in config.model:
                yield named_model(config, chosen)
                continue
            models = [*KINDS] if config.model == "all" else [config.model]
            check_kinds(models)
        yield from ((replace(config, model=model), None) for model in models)


def _plain(name: str, value: Any, place: str) -> Any:
    """Return a value as the option has it; a day needs no quotes, and 1 is the 1.0 that it is on the command line."""
    kind = str(OPTIONS[name].type).removesuffix(" | None")
    if type(value) is dt.date:
        value = value.isoformat()
    if kind == "float" and type(value) is int:
        return float(value)
    numbers = name == "threshold" and type(value) in {int, float}
    if (kind == "str" and not isinstance(value, str) and not numbers) or isinstance(value, list | dict):
        expected = "a text in quotes" if kind == "str" else "one value, or a list of values"
        raise ConfigError(f"{place}: {name} expects {expected}, got {excerpt(value)}")
    return value


def _key(config: WalkForwardConfig) -> tuple[str, ...]:
    """Return what says that two configurations are the same run: identity, tickers and database."""
    recorded = config.to_json()
    return identify("walkforward", config.model, recorded), _tickers(config), recorded["db"]


def _tickers(config: WalkForwardConfig) -> str:
    """Return the tickers that are asked for, however they are written."""
    names, limit = _names(config), _limit(config)
    text = ",".join(names if limit is not None else sorted(names)) or "ALL"
    return text if limit is None else f"{text} {limit}"


def _names(config: WalkForwardConfig) -> list[str]:
    """Return the symbols that are asked for, in their order; none where all are."""
    text = config.ticker.strip()
    return [] if text.upper() == "ALL" else list(dict.fromkeys(filter(None, map(str.strip, text.split(",")))))


def _limit(config: WalkForwardConfig) -> int | None:
    """Return how many tickers are used at most, where that matters to the model."""
    return config.max_tickers if matters(OPTIONS["max_tickers"], config.model) else None


def _finished(folders: set[str]) -> tuple[dict[tuple[str, ...], Run], list[str]]:
    """Find the whole walk-forwards in some folders, by folder and configuration, the latest of several.

    Also say which runs cannot be read.
    """
    found: dict[tuple[str, ...], Run] = {}
    unread = []
    for folder in sorted(folders):
        for mark in find_marks([folder]):
            try:
                run = load_run(mark)
            except ArtifactError as error:
                unread.append(f"left out: {error}")
                continue
            if (
                run.document.kind == "walkforward"
                and isinstance(run.config, WalkForwardConfig)
                and all(path.exists() for path in run.files)
            ):
                found[folder, *_key(run.config)] = run
    return found, unread
