"""A recorded run, with the bars that it was made from, ready to be made again."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypedDict, Unpack

import numpy as np
import pandas as pd

from nextbar.config import DEFAULT_DB, CommonConfig, TrainConfig, WalkForwardConfig
from nextbar.datasets.prices import RawBars, history_of
from nextbar.datasets.samples import Bars
from nextbar.errors import ArtifactError, DatabaseError, NothingToTrainError, OwnModelError, UnknownTickerError
from nextbar.evaluation.refit import refit_task
from nextbar.evaluation.walkforward import FoldTask
from nextbar.execution.by_value import send_by_value
from nextbar.execution.engine import Engine, engine_of
from nextbar.features.indicators import days_of
from nextbar.market.sources.frames import market_bars
from nextbar.models.base import Model
from nextbar.models.registry import KINDS
from nextbar.models.reproducibility import differing_days
from nextbar.runs.document import RULES
from nextbar.runs.fit import Coverage, Splits, Task
from nextbar.runs.run import Run
from nextbar.types import Border, DateArray, JsonDict
from nextbar.untrusted import refusing
from nextbar.words import listed, plural, without_password
from nextbar.workflows.own_models import recorded_model
from nextbar.workflows.training import Experiment, with_panel
from nextbar.workflows.universe import Universe, cover, load_universe, universe_of

DAYS_SHOWN = 6
ALL = 0.99
"""Share of changed bars from which on all have changed: one in 4,096 keeps its checksum by chance."""
MOST_ROUNDS = 100_000
"""Most trees or epochs that a document can ask a refit for."""
CHANGED_RULES = {"bars": "volume is adjusted"}
"""Stage → what about its rule has changed since 0.1.0."""


class Place(TypedDict, total=False):
    """Where a recorded run is run again; nothing here changes a bit.

    Attributes:
        bars: The bars, in memory; without them they are read from a database.
        db: That database; None: the default one. A database that a run records is never opened, because the author of
            the file would choose the server that gets a password.
        features: The run's own feature function, given again: a file alone must not make us run code.
        panel_features: Its own function over all tickers, likewise.
        model: Its own model, likewise; parameters that are options of the run are as recorded.
        engine: Where tasks run, here and not as recorded; this and what follows as in `nextbar.config.CommonConfig`.
    """

    bars: pd.DataFrame | Mapping[str, pd.DataFrame]
    db: str | None
    features: Any
    panel_features: Any
    model: Model | None
    engine: str
    jobs: int | None
    scheduler: str | None


@dataclass(frozen=True, kw_only=True)
class Recorded(Experiment):
    """A recorded run as the experiment that makes it again.

    Its configuration has the `Place` where it is run again. Its universe holds the bars as they are now, and later ones
    where they were asked for.
    """

    run: Run

    @cached_property
    def bars(self) -> Mapping[str, Bars]:
        """Ticker → bars of the recorded days, with what they were made from."""
        return self.bars_within(self.coverage)

    @cached_property
    def changed(self) -> Mapping[str, str]:
        """Ticker → how its bars differ from those recorded; only those that do."""
        return _changes(self.bars, self.coverage)

    @property
    def _refit_coverage(self) -> Mapping[str, Coverage]:
        fits = [fit for _, fit in self.run.document.fits]
        return {name: facts for fit in fits if fit.refit for name, facts in fit.refit.data.items()}

    @cached_property
    def refit_bars(self) -> Mapping[str, Bars]:
        """Ticker → bars of its refits, which may end later; none where it has no refit."""
        return self.bars_within(self._refit_coverage)

    @cached_property
    def refit_changed(self) -> Mapping[str, str]:
        """As `changed`, for those bars."""
        return _changes(self.refit_bars, self._refit_coverage)

    def bars_within(self, spans: Mapping[str, Coverage]) -> dict[str, Bars]:
        """Ticker → its bars from the first to the last day of a span, with what they are made from."""
        found, quoted = {}, self.run.document.rules == 1
        for name in [name for name in self.universe.bars if name in spans]:
            stored, history = self.universe.bars[name], self.universe.histories[name]
            first, last = (np.datetime64(day, "D") for day in (spans[name].first, spans[name].last))
            raw = RawBars(history=history, first=first, last=last, adjust=not self.config.raw, quoted_volume=quoted)
            found[name] = replace(stored, frame=stored.frame.loc[spans[name].first : spans[name].last], raw=raw)
        return found

    @cached_property
    def tasks(self) -> list[FoldTask]:
        """The task of each of its fits, with the splits that were recorded; none where bars have changed."""
        return [] if self.changed else [self._task(number, fit) for number, fit in self.run.document.fits]

    def _task(self, number: int, fit: Task) -> FoldTask:
        document = self.run.document
        return FoldTask(
            name=fit.name,
            config=self.config,
            model=self.model,
            fold=number,
            borders={name: _border(splits, self.bars[name]) for name, splits in fit.splits.items()},
            params=None if fit.has_searched else fit.chosen,
            search=fit.has_searched,
            out_of_sample=self.walks,
            periods=document.terms.periods,
            ended=frozenset(document.ended),
            features=self.features,
        )

    @cached_property
    def refit_tasks(self) -> list[tuple[Task, FoldTask]]:
        """Each fit that has a refit, and the task of that; none where its bars have changed."""
        if self.refit_changed:
            return []
        return [
            (fit, self.refit_task(number, fit, self.refit_bars))
            for number, fit in self.run.document.fits
            if fit.refit is not None
        ]

    def refit_task(self, number: int, fit: Task, bars: Mapping[str, Bars]) -> FoldTask:
        """Make the task of a refit of a fit, on these bars up to their last one."""
        with refusing(self.run.source):
            firsts = {name: _border(splits, bars[name]).train for name, splits in fit.splits.items()}
            task = replace(self._task(number, fit), search=False)
            found = refit_task(task, firsts, bars, params=fit.chosen, facts=fit.details)
            if not all(isinstance(count, int) and 1 <= count <= MOST_ROUNDS for count in found.rounds or ()):
                raise ValueError(f"a fit of {found.rounds} trees or epochs is impossible")
            return found

    def with_panel(self, names: Collection[str], bars: Mapping[str, Bars]) -> Mapping[str, Bars]:
        """Return the bars of some tickers for workers, with columns over all tickers, and without what changes them."""
        needed = bars if self.features.panel else names
        plain = {name: replace(bars[name], raw=None) for name in needed}
        made = with_panel(self.features, plain, self.engine)
        return {name: made[name] for name in names}

    @property
    def coverage(self) -> Mapping[str, Coverage]:
        """Ticker → what is recorded about its bars, those of columns over all tickers included."""
        return self.run.document.coverage

    @property
    def changed_rules(self) -> Mapping[str, str]:
        """Stage → what about its rule has changed since the run was made, so that its digest says nothing."""
        return CHANGED_RULES if self.run.document.rules == 1 else {}

    @property
    def elsewhere(self) -> str:
        """What to know where the default database was read and the run names another one; empty elsewhere."""
        return _elsewhere(self.run.config.db, self.config.db)

    @property
    def engine(self) -> Engine:
        """Workers with the threads that were recorded, which are part of the bits; one where folds share a device."""
        grouped = any(fit.group is not None for _, fit in self.run.document.fits)
        threads = self.run.document.environment.threads
        return engine_of(self.config, jobs=1 if grouped else self.config.jobs, threads=threads)

    @cached_property
    def dates(self) -> dict[str, DateArray]:
        """Ticker → its days."""
        return {name: days_of(item.frame) for name, item in self.bars.items()}


def recall_file(run: Run, **place: Unpack[Place]) -> Recorded:
    """Make a run on disk ready to be made again; the user's own model gets the parameters that the run records."""
    return recall_all(run, {**place, "model": recorded_model(place.get("model"), run)})


def recall_all(run: Run, place: Place) -> Recorded:
    """Make a run ready to be made again, with its refits, which may end later than the run."""
    if place.get("model") is not None and (kind := run.document.model) in KINDS:
        raise OwnModelError(f"{run.name} is of a built-in kind, {kind}; leave --model out")
    return recall(run, place, lift=("end",) if run.document.refitted else ())


def recall(run: Run, place: Place, *, names: Sequence[str] = (), lift: Sequence[str] = ()) -> Recorded:
    """Make a run ready to be run again.

    Args:
        run: The run.
        place: Where it is run again, and what only the user can give.
        names: Tickers whose bars are needed; none: those of its fits.
        lift: Options of the run that limit its bars, and do not limit these.
    """
    if run.folder is not None:
        run.check_siblings()
    names = names or recorded_tickers(run)
    config = _placed(run.config, place)
    features = run.features(place.get("features"), place.get("panel_features"))
    features.check_names()  # before the bars are read
    model = run.own_model(place.get("model"))
    send_by_value(*model.code, *features.functions, *features.panel)
    lifted: JsonDict = dict.fromkeys(lift)
    universe = _universe(run, replace(config, **lifted), names, place)
    if lost := [name for name in names if name not in universe.bars]:
        raise ArtifactError(f"{run.source}: it was made on bars of {listed(lost)}; {universe.skipped[lost[0]]}")
    found = Recorded(run=run, config=config, universe=universe, model=model, features=features)
    with refusing(run.source):
        _ = found.tasks, found.refit_tasks  # made here, where a damaged document is refused
    return found


def refuse_changed(
    recorded: Recorded,
    changed: Mapping[str, str],
    told: str = "bars have changed since",
    advice: str = "restore them or train again",
) -> None:
    """Refuse a run whose bars have changed."""
    if not changed:
        return
    (ticker, how), *others = changed.items()
    more = f", and {plural(len(others), 'more ticker')}" if others else ""
    elsewhere = f"; {recorded.elsewhere}" if recorded.elsewhere else ""
    raise ArtifactError(f"{recorded.run.source}: {told} ({ticker}: {how}{more}); {advice}{elsewhere}")


def _placed(config: TrainConfig | WalkForwardConfig, place: Place) -> TrainConfig | WalkForwardConfig:
    """Return a recorded configuration with the place where it is run again."""
    db = config.db if "bars" in place else place.get("db") or DEFAULT_DB
    engine, jobs, scheduler = place.get("engine", CommonConfig.engine), place.get("jobs"), place.get("scheduler")
    return replace(config, db=db, engine=engine, jobs=jobs, scheduler=scheduler)


def _universe(run: Run, config: CommonConfig, names: Sequence[str], place: Place) -> Universe:
    """Read the bars of a run; an error says where the run had them from."""
    quoted = run.document.rules == 1
    if "bars" in place:
        frames = market_bars(place["bars"])
        if missing := sorted(set(names) - set(frames)):
            raise UnknownTickerError(f"the bars lack {', '.join(missing)}, of which {run.name} was made; add them")
        return universe_of({name: history_of(frames[name]) for name in names}, config, quoted_volume=quoted)
    try:
        return load_universe(config, names=names, quoted_volume=quoted)
    except (DatabaseError, UnknownTickerError, NothingToTrainError) as error:
        raise type(error)("; ".join(filter(None, [str(error), _elsewhere(run.config.db, config.db)]))) from error


def recorded_tickers(run: Run) -> list[str]:
    """Return the tickers of all fits of a run; refuse one that has none, or that a newer nextbar made."""
    document = run.document
    if document.kind == "signals":
        raise ArtifactError(f"{run.name}: signals have no model that could be trained again")
    if document.holdout is not None:
        raise ArtifactError(
            f"{run.name}: an opening has no fit of its own; name its run, {document.holdout.run}, instead"
        )
    if document.rules > RULES:
        raise ArtifactError(
            f"{run.name}: a newer nextbar made this run, with rules {document.rules}; this one knows {RULES}; "
            "upgrade nextbar"
        )
    with refusing(run.source):
        recorded = {name: document.data[name] for _, task in document.fits for name in task.splits}
        if not recorded:
            raise ValueError("it has no fold")
    panel = document.features.panel
    return list(recorded) if panel is None else list(recorded | panel.data)


def _changes(bars: Mapping[str, Bars], spans: Mapping[str, Coverage]) -> dict[str, str]:
    """Ticker → how its bars differ from those recorded; only those that do."""
    return {name: how for name, item in bars.items() if (how := _how(item, spans[name]))}


def _elsewhere(recorded: str, opened: str) -> str:
    """Say how to read the recorded database, where it is not the default one and no other was named."""
    if opened != DEFAULT_DB or recorded == DEFAULT_DB:
        return ""
    recorded = without_password(recorded)
    shown = recorded if recorded.isprintable() else ascii(recorded)
    password = " (no run records a password: write it into the URL, or set PGPASSWORD)" if "://" in recorded else ""
    return (
        f"the run used the database {shown}; {opened} was read, because nextbar opens no database that a file names; "
        f"to use the recorded one, add: --db {shlex.quote(shown)}{password}"
    )


def _border(splits: Splits, bars: Bars) -> Border:
    first = np.datetime64(splits.train.first, "D")
    start = int(np.searchsorted(bars.frame.index.to_numpy(), first))
    val, test, end = (start + int(rows) for rows in np.cumsum([splits.train.rows, splits.val.rows, splits.test.rows]))
    return Border(train=start, val=val, test=test, end=end)


def _how(bars: Bars, then: Coverage) -> str:
    """Say what about one ticker's bars has changed, and on which days; nothing where they are as recorded."""
    if not len(bars.frame):
        return "no usable bar is left"
    now = cover(bars)
    if now.fingerprint == then.fingerprint:
        return ""
    sides = ((name, getattr(then, name), getattr(now, name)) for name in ("bars", "adjustment", "dropped"))
    facts = [f"{name} {_shown(old)}, now {_shown(new)}" for name, old, new in sides if old != new]
    days = differing_days(then.days, now.days if then.days else {})
    changed, gone = days.pop("changed"), days["gone"]
    for end, old, new, lost in (
        ("begin", then.first, now.first, [day for day in gone if day < now.first]),
        ("end", then.last, now.last, [day for day in gone if day > now.last]),
    ):
        missing = f": {plural(len(lost), 'bar')} missing there" if lost else ""
        facts += [f"bars {end} on {new}, not on {old}{missing}"] if old != new else []
    days["gone"] = [day for day in gone if now.first < day < now.last]
    facts += [f"bars {how}: {_listed_days(found)}" for how, found in days.items() if found]
    common = now.bars - len(days["new"])
    first, based = (str(bars.raw.history.days[0]), bars.raw.history.base) if bars.raw else (now.first, None)
    rescaled = based is None and (first > then.first or (first < then.first and len(changed) > ALL * common))
    if changed and then.adjustment == now.adjustment == "forward" and rescaled:
        facts.append(
            f"the {plural(common, 'common bar')} cannot be compared, because prices are adjusted from the first stored "
            f"bar, which is that of {first} now"
        )
    elif changed and len(changed) == common:
        facts.append(f"all {plural(common, 'common bar')} changed")
    elif changed:
        facts.append(f"bars changed: {_listed_days(changed)}")
    elif gone:
        facts.append(f"the other {common:,} are as recorded")
    return "; ".join(facts) or "bars differ"


def _shown(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _listed_days(days: Sequence[str]) -> str:
    more = f" and {len(days) - DAYS_SHOWN} more up to {days[-1]}" if len(days) > DAYS_SHOWN else ""
    return ", ".join(days[:DAYS_SHOWN]) + more
