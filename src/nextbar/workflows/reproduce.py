"""Use case: train a recorded run again from its document alone, and say whether every bit is as it was."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, Unpack

import msgspec
import numpy as np
import pandas as pd

from nextbar.config import DEFAULT_DB, CommonConfig, TrainConfig, WalkForwardConfig, without_password
from nextbar.datasets.prices import RawBars
from nextbar.datasets.samples import Bars
from nextbar.errors import ArtifactError, DatabaseError, NothingToTrainError, OutdatedError, UnknownTickerError
from nextbar.evaluation.figures import figures_of, finish_rows
from nextbar.evaluation.refit import refit_task, run_refit
from nextbar.evaluation.series import Book
from nextbar.evaluation.stages import first_stage
from nextbar.evaluation.walkforward import FoldResult, FoldTask, Refitted, run_fold, stitch
from nextbar.execution.engine import Engine
from nextbar.features.indicators import days_of
from nextbar.features.spec import FeatureSpec
from nextbar.models.base import Model
from nextbar.models.reproducibility import differing_days, digest_arrays, digest_bars
from nextbar.runs.document import (
    RULES,
    Comparison,
    Coverage,
    Document,
    Environment,
    Refit,
    SearchRecord,
    Splits,
    Task,
)
from nextbar.runs.files import MOST_FILE_BYTES, REFIT, digest_file
from nextbar.runs.run import Run, expecting_parts, load_run
from nextbar.types import Border, DateArray, JsonDict, Progress
from nextbar.untrusted import refusing
from nextbar.words import excerpt, listed, plural
from nextbar.workflows.documents import environment, summarise_rows
from nextbar.workflows.own_models import recorded_model
from nextbar.workflows.probe import refuse_unsteady
from nextbar.workflows.training import groups_of, run_groups, with_panel
from nextbar.workflows.universe import Universe, coverage, load_universe
from nextbar.workflows.upgrade import upgrade as write_missing

PREDICTIONS = ["probability", "predicted_close"]
DAYS_SHOWN = 6
RECENT_FIGURES = {"ic", "ic_t", "rank_ic", "rank_ic_t", "mcc", "log_loss", "sortino", "calmar"}
"""Figures that runs of today have and those of some months ago have not."""
MOST_ROUNDS = 100_000
"""Most trees or epochs that a document can ask a refit for."""
UNREPEATABLE = (".keras",)
"""Files that hold names or times of their making; their content is compared as weights."""
CHANGED_RULES = {"bars": "volume is adjusted"}
"""Stage → what about its rule has changed since 0.1.0."""


class Place(TypedDict, total=False):
    """Where a recorded run is run again; nothing here changes a bit.

    Attributes:
        db: Where the bars are; None: the default database. A database that a run records is never opened, because
            the author of the file would choose the server that gets a password.
        features: The run's own feature function, named again: a file alone must not make us run code.
        panel_features: Its own function over all tickers, likewise.
        model: Its own model, likewise; parameters that are options of the run are as recorded.
        engine: Where tasks run, here and not as recorded; this and what follows as in `nextbar.config.CommonConfig`.
    """

    db: str | None
    features: str | None
    panel_features: str | None
    model: Model | None
    engine: str
    jobs: int | None
    scheduler: str | None


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A recorded run.

    Attributes:
        config: Its configuration, with the `Place` where it is run again.
        bars: Ticker → bars of the recorded days, as they are now, with what they were made from.
        changed: Ticker → how its bars differ from those recorded; only those that do.
        model: What was fitted.
        features: Its feature columns.
        refit_bars: Ticker → bars of its refits, which may end later; none where it has no refit.
        refit_changed: As ``changed``, for those bars.
    """

    run: Run
    config: TrainConfig | WalkForwardConfig
    bars: Mapping[str, Bars]
    changed: Mapping[str, str]
    model: Model
    features: FeatureSpec
    refit_bars: Mapping[str, Bars] = field(default_factory=dict)
    refit_changed: Mapping[str, str] = field(default_factory=dict)

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
            out_of_sample=isinstance(self.config, WalkForwardConfig),
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
                raise ValueError(f"a fit of {found.rounds} trees or epochs cannot be")
            return found

    @property
    def coverage(self) -> Mapping[str, Coverage]:
        """Ticker → what is recorded about its bars, those of columns over all tickers included."""
        return recorded_coverage(self.run.document)

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
        config, threads = self.config, self.run.document.environment.threads
        jobs = 1 if any(fit.group is not None for _, fit in self.run.document.fits) else config.jobs
        return Engine(name=config.engine, jobs=jobs, threads=threads, scheduler=config.scheduler)

    @cached_property
    def dates(self) -> dict[str, DateArray]:
        """Ticker → its days."""
        return {name: days_of(item.frame) for name, item in self.bars.items()}


def load_recorded(path: Path, **place: Unpack[Place]) -> Recorded:
    """Read a run from any of its files, and the bars that it was made from."""
    run = load_run(path)
    run.check_siblings()
    names = recorded_tickers(run)
    spec = run.features(place.get("features"), place.get("panel_features"))
    config = placed(run.config, place)
    refits = any(fit.refit for _, fit in run.document.fits)
    reach = replace(config, end=None) if refits else config  # a refit may end later than its run
    model = recorded_model(place.get("model"), run)
    return recall(run, recorded_universe(run, reach, names), config, features=spec, model=model)


def placed(config: TrainConfig | WalkForwardConfig, place: Place) -> TrainConfig | WalkForwardConfig:
    """Return a recorded configuration with the place where it is run again."""
    return replace(
        config,
        db=place.get("db") or DEFAULT_DB,
        engine=place.get("engine", CommonConfig.engine),
        jobs=place.get("jobs"),
        scheduler=place.get("scheduler"),
    )


def recorded_universe(run: Run, config: CommonConfig, names: Sequence[str]) -> Universe:
    """Read the bars of a run; an error says where the run had them from."""
    try:
        return load_universe(config, names=names, quoted_volume=run.document.rules == 1)
    except (DatabaseError, UnknownTickerError, NothingToTrainError) as error:
        raise type(error)("; ".join(filter(None, [str(error), _elsewhere(run.config.db, config.db)]))) from error


def recorded_tickers(run: Run) -> list[str]:
    """Return the tickers of all fits of a run; refuse one that has none, or that a newer nextbar made."""
    document = run.document
    if document.kind == "signals":
        raise ArtifactError(f"{run.name}: signals have no model that could be trained again")
    if document.holdout is not None:
        raise ArtifactError(
            f"{run.name}: an opening fits nothing that its run does not; name the run, {document.holdout.run}, instead"
        )
    if document.rules > RULES:
        raise ArtifactError(
            f"{run.name}: a newer nextbar made this run, by rules {document.rules}, this one knows {RULES}; "
            "upgrade nextbar"
        )
    with refusing(run.source):
        recorded = {name: document.data[name] for _, task in document.fits for name in task.splits}
        if not recorded:
            raise ValueError("it has no fold")
    panel = document.features.panel
    return list(recorded) if panel is None else list(recorded | panel.data)


def recorded_coverage(document: Document) -> Mapping[str, Coverage]:
    """Ticker → what is recorded about its bars, those of columns over all tickers included."""
    panel = document.features.panel
    return document.data if panel is None else {**panel.data, **document.data}


def recall(
    run: Run,
    universe: Universe,
    config: TrainConfig | WalkForwardConfig,
    *,
    features: FeatureSpec,
    model: Model | None = None,
) -> Recorded:
    """Make a run ready to be run again on these bars; the configuration says where, the features are its own."""
    document, own = run.document, run.own_model(model)
    panel = document.features.panel
    if lost := [] if panel is None else [name for name in panel.data if name not in universe.bars]:
        raise ArtifactError(
            f"{run.name}: columns over all tickers need bars of {listed(lost)}; there are none any more"
        )
    with refusing(run.source):
        spans = recorded_coverage(document)
        bars = bars_within(spans, universe, config, rules=document.rules)
        again = {name: facts for _, fit in document.fits if fit.refit for name, facts in fit.refit.data.items()}
        later = bars_within(again, universe, config, rules=document.rules)
        found = Recorded(
            run=run,
            config=config,
            bars=bars,
            changed=_changes(bars, spans),
            model=own,
            features=features,
            refit_bars=later,
            refit_changed=_changes(later, again),
        )
        _ = found.tasks, found.refit_tasks  # made here, where a damaged document is refused
    return found


def bars_within(
    spans: Mapping[str, Coverage], universe: Universe, config: TrainConfig | WalkForwardConfig, *, rules: int
) -> dict[str, Bars]:
    """Ticker → its bars from the first to the last of the recorded days, with what they are made from."""
    found = {}
    for name, stored in universe.bars.items():
        if name not in spans:
            continue
        first, last = (np.datetime64(day, "D") for day in (spans[name].first, spans[name].last))
        raw = RawBars(
            history=universe.histories[name], first=first, last=last, adjust=not config.raw, quoted_volume=rules == 1
        )
        found[name] = replace(stored, frame=stored.frame.loc[spans[name].first : spans[name].last], raw=raw)
    return found


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
        f"the run used the database {shown}; {opened} was read, because no database is opened that a file names; "
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
        return "no usable bar any more"
    now = coverage({"": bars})[""]
    if now.fingerprint == then.fingerprint:
        return ""
    sides = ((name, getattr(then, name), getattr(now, name)) for name in ("bars", "adjustment", "dropped"))
    facts = [f"{name} {old}, now {new}" for name, old, new in sides if old != new]
    for how, days in differing_days(then.days, now.days if then.days else {}).items():
        more = f" and {len(days) - DAYS_SHOWN} more up to {days[-1]}" if len(days) > DAYS_SHOWN else ""
        facts += [f"bars {how}: {', '.join(days[:DAYS_SHOWN])}{more}"] if days else []
    return "; ".join(facts) or "bars differ"


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """What training again showed.

    Attributes:
        identical: Whether every digest is as recorded.
        folds: Fits that were trained again and compared.
        refits: Refits that were made again and compared.
        where: First fit that differs.
        stage: First stage of it that differs.
        recorded: Digest that was recorded, or the first row, figure or fact that differs.
        now: The same as it comes out.
        differences: What has changed since, by the record: bars, versions, processor, threads.
        changed_rules: Stages that are not compared because their rule has changed since, each with the change.
        upgrade: What an upgrade has done; None where none was asked for.
    """

    identical: bool
    folds: int = 0
    refits: int = 0
    where: str | None = None
    stage: str | None = None
    recorded: str | None = None
    now: str | None = None
    differences: list[str] = field(default_factory=list)
    changed_rules: dict[str, str] = field(default_factory=dict)
    upgrade: str | None = None

    def __str__(self) -> str:
        changed = [f"stage {stage}: rule changed since 0.1.0 ({how})" for stage, how in self.changed_rules.items()]
        if self.identical:
            counts = [(self.folds, "fit"), (self.refits, "refit")]
            fits = ", ".join(plural(count, name) for count, name in counts if count or name == "fit")
            lines, title = [f"bit-identical ({fits})", *changed], "what has changed since:"
        else:
            head = f"different: {self.where}, first at stage {self.stage}"
            sides = [f"  recorded {self.recorded or 'none'}", f"  now      {self.now or 'none'}"]
            sides = sides if self.recorded or self.now else []
            lines, title = [head, *sides, *changed], "what has changed since, and may explain it:"
        if self.differences:
            lines.append("\n  ".join([title, *self.differences]))
        elif not self.identical and self.stage != "bars":
            lines.append("versions, processor and threads are as recorded")
        if self.upgrade is not None:
            lines.append(self.upgrade)
        return "\n".join(lines)

    def to_json(self) -> JsonDict:
        """Return the result for `--json`."""
        return asdict(self)


def reproduce(path: Path, progress: Progress, *, upgrade: bool = False, **place: Unpack[Place]) -> Reproduction:
    """Train a recorded run again and compare it stage by stage; nothing is written without ``upgrade``.

    A run of an older version is made again on its recorded borders. Where the rule of a stage has changed since, its
    digest cannot be compared, and the bytes of the predictions are compared with the recorded rows instead.
    """
    return reproduce_recorded(load_recorded(path, **place), progress, upgrade=upgrade)


def reproduce_recorded(recorded: Recorded, progress: Progress, *, upgrade: bool = False) -> Reproduction:
    """Train a run again that is ready for it, and compare; see `reproduce`."""
    found, results = _compared(recorded, progress)
    if not upgrade:
        return found
    if not found.identical:
        return replace(found, upgrade="not upgraded: only a run that comes out with the same bits is")
    return replace(found, upgrade=write_missing(recorded.run, recorded.model, results[0]))


def _compared(recorded: Recorded, progress: Progress) -> tuple[Reproduction, Sequence[FoldResult]]:
    """Train a run again and compare; give the fits, too."""
    document = recorded.run.document
    changes = environment_changes(
        document.environment, environment(document.environment.threads, recorded.model.libraries)
    )
    result = partial(Reproduction, differences=changes, changed_rules=dict(recorded.changed_rules))
    if recorded.changed:
        first, how = next(iter(recorded.changed)), [f"{ticker}: {how}" for ticker, how in recorded.changed.items()]
        frame, differences = recorded.bars[first].frame, [*how, *filter(None, [recorded.elsewhere]), *changes]
        facts: JsonDict = {
            "recorded": recorded.coverage[first].fingerprint,
            "now": digest_bars(frame) if len(frame) else None,
        }
        return result(identical=False, where=first, stage="bars", differences=differences, **facts), []
    refuse_unsteady(recorded, progress)
    rows = _recorded_rows(recorded)
    found, results = _train_again(recorded, progress, rows_decide=rows is not None)
    for (number, fit), now in zip(document.fits, found, strict=True):
        then = fit.digests
        if rows is not None:
            then = _with_rows(then, rows[(rows["fold"] == number) & rows["ticker"].isin(list(fit.splits))])
        if (stage := first_stage(then, now, recorded.changed_rules)) is not None:
            where, sides = f"{fit.name} fold {number}", (then.get(stage), now.get(stage))
            facts = {"where": where, "stage": stage, "recorded": sides[0], "now": sides[1]}
            return result(identical=False, folds=len(found), **facts), results
    if not recorded.changed_rules and (differing := _differing_part(recorded, results)) is not None:
        return result(identical=False, folds=len(found), where=recorded.run.name, **differing._asdict()), results
    result = partial(result, folds=len(found), refits=sum(fit.refit is not None for _, fit in document.fits))
    return result(**_refits_compared(recorded, changes, progress)), results


def _refits_compared(recorded: Recorded, changes: Sequence[str], progress: Progress) -> JsonDict:
    """Make the refits again and compare them; say as fields of `Reproduction` what differs first."""
    for ticker, how in recorded.refit_changed.items():
        found = [f"{ticker}: {how}", *filter(None, [recorded.elsewhere]), *changes]
        return {"identical": False, "where": f"refit of {ticker}", "stage": "bars", "differences": found}
    for fit, now in refit_again(recorded, recorded.refit_tasks, recorded.refit_bars, progress):
        assert fit.refit is not None
        if (difference := _refit_differs(recorded, fit, fit.refit, now)) is None:
            continue
        then = fit.refit.environment
        where = {"identical": False, "where": f"refit of {fit.name}", **difference}
        return where if then is None else where | {"differences": environment_changes(then, environment(then.threads))}
    return {"identical": True}


def _refit_differs(recorded: Recorded, fit: Task, refit: Refit, now: Refitted | str) -> JsonDict | None:
    """Say which part of a refit comes out otherwise; None where every bit is as recorded."""
    if isinstance(now, str):
        return {"stage": "bars", "now": now}
    then, digests = refit.digests, now.facts["digests"]
    if (stage := first_stage(then, digests, {})) is not None:
        return {"stage": stage, "recorded": then.get(stage), "now": digests.get(stage)}
    made = msgspec.convert({"created": "", "data": {}, **now.facts}, Refit)
    if (made.seed, made.splits, made.scalers) != (refit.seed, refit.splits, refit.scalers):
        return {"stage": "fits"}
    part = _differing_refit(recorded, fit, now)
    return None if part is None else {"stage": part}


def refit_again(
    recorded: Recorded, tasks: Sequence[tuple[Task, FoldTask]], bars: Mapping[str, Bars], progress: Progress
) -> Iterator[tuple[Task, Refitted | str]]:
    """Run the tasks of refits; give each fit with its refit, or with the reason why there is none."""
    if not tasks:
        return
    fits = {task.name: fit for fit, task in tasks}
    plain = with_panel(
        recorded.features, {name: replace(item, raw=None) for name, item in bars.items()}, recorded.engine
    )
    progress.start("refit", len(tasks))
    for outcome in recorded.engine.run(
        run_refit, [task for _, task in tasks], plain, lambda task, note: progress.advance(0, f"{task.name} {note}")
    ):
        progress.advance(1, outcome.task.name)
        yield fits[outcome.task.name], str(outcome.reason) if outcome.result is None else outcome.result
    progress.finish()


def _differing_refit(recorded: Recorded, fit: Task, now: Refitted) -> str | None:
    """Name what the saved files of a refit hold otherwise than the fit gives now."""
    run = recorded.run
    if run.contents is not None or not recorded.model.trusted:
        return None
    if not all(run.mark.with_name(name).exists() for name in run.document.files):
        return None
    saved = recorded.model.restore(run.saved_model(fit, recorded.model, refit=True)).digests
    if any(saved.get(stage) != now.facts["digests"].get(stage) for stage in ("scalers", "weights")):
        return "model"
    return _differing_file(recorded, {REFIT + suffix: content for suffix, content in now.files.items()})


ABSENT = "not there"


class _Differing(NamedTuple):
    """A stage that differs, and what of it first: as recorded, and as it comes out now."""

    stage: str
    recorded: str | None = None
    now: str | None = None


def _differing_part(recorded: Recorded, results: Sequence[FoldResult]) -> _Differing | None:
    """Compare what the digests do not cover with what the fits give now: rows, figures, facts on the fits, model.

    Files that were not brought along are not missed.
    """
    run, document = recorded.run, recorded.run.document
    rows, aux = stitch(results)
    book = document.book(rows)
    with expecting_parts(run):
        if run.contents is not None or run.rows_path.exists():
            made, then = finish_rows(rows, book), run.rows
            if len(made) != len(then):
                return _Differing("rows", f"{len(then)} rows", f"{len(made)} rows")
            if (column := next((str(name) for name in made if not _same(made[name], then[name])), None)) is not None:
                return _Differing("rows", *_first_change(then, made, column))
        for (_, fit), now in zip(document.fits, results, strict=True):
            if differing := _differing_fact(fit, now):
                return differing
        if differing := _differing_figure(document, rows, aux, book):
            return differing
        stage = "model" if _model_differs(recorded) else _differing_file(recorded, results[0].files)
        return None if stage is None else _Differing(stage)


def _first_change(then: pd.DataFrame, now: pd.DataFrame, column: str) -> Iterator[str]:
    """Give the first row in which a column differs, as recorded and as it comes out now."""
    at = next(at for at in range(len(now)) if not _same(now[column].iloc[[at]], then[column].iloc[[at]]))
    for rows in (then, now):
        row = rows.iloc[at]
        yield f"{row['ticker']} {pd.Timestamp(row['date']).date()}: {column} {row[column]}"


def _differing_fact(fit: Task, now: FoldResult) -> _Differing | None:
    """Name seed, splits, thresholds or search where they come out otherwise; curves are left out."""
    pairs: dict[str, tuple[Any, Any]] = {
        "seed": (fit.seed, now.seed),
        "splits": (fit.splits, msgspec.convert(now.splits, dict[str, Splits])),
        "threshold": (
            {name: choice.threshold for name, choice in fit.threshold.items()},
            {name: choice["threshold"] for name, choice in now.facts["threshold"].items()},
        ),
    }
    if fit.search is not None:
        pairs["search"] = (fit.search, msgspec.convert(now.facts["search"], SearchRecord))
    for name, (then, found) in pairs.items():
        if change := _first_difference(msgspec.to_builtins(then), msgspec.to_builtins(found), name):
            return _Differing("fits", *change)
    return None


def _differing_figure(document: Document, rows: pd.DataFrame, aux: pd.DataFrame, book: Book) -> _Differing | None:
    """Name a figure of all days, of a fold, or of the days after the last training day that comes out otherwise."""
    summary = partial(summarise_rows, terms=book.terms, holes=document.holes, ended=document.ended)
    pairs: list[tuple[str, Any, Any]] = [("", document.figures, summary(rows, aux))]
    pairs += [
        (f"fold {fold.number}", fold.metrics, figures_of(book.within(fold.number), aux))
        for fold in document.folds
        if fold.metrics
    ]
    if (late := document.after_last_training_day) is not None:
        later = rows["date"].to_numpy() >= np.datetime64(str(late.first))
        pairs.append(("after the last training day", late, summary(rows[later], aux[later], first=True)))
    for place, then, now in pairs:
        built = msgspec.to_builtins(msgspec.convert(now, Comparison))
        if (change := _first_difference(msgspec.to_builtins(then), built, place)) is not None:
            return _Differing("figures", *change)
    return None


def _first_difference(then: Any, now: Any, place: str = "") -> tuple[str, str] | None:
    """Name the first value that does not come out as recorded; only figures that are younger may not be recorded."""
    if isinstance(then, dict) and isinstance(now, dict):
        missing = sorted((now.keys() - then.keys()) - RECENT_FIGURES)
        names = [*then, *missing]
        inner = ((then.get(name, ABSENT), now.get(name, ABSENT), f"{place} {name}".strip()) for name in names)
        return next((change for one in inner if (change := _first_difference(*one))), None)
    if isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        numbered = ((*pair, f"{place} {number}") for number, pair in enumerate(zip(then, now, strict=True), start=1))
        return next((change for one in numbered if (change := _first_difference(*one))), None)
    return None if then == now else (f"{place}: {excerpt(then)}", f"{place}: {excerpt(now)}")


def _differing_file(recorded: Recorded, files: Mapping[str, bytes]) -> str | None:
    """Name a saved file that the fit writes otherwise now; other versions of the libraries write other files."""
    run, document = recorded.run, recorded.run.document
    if run.contents is not None or document.kind != "train" or not recorded.model.trusted:
        return None
    if document.environment.versions != environment(document.environment.threads).versions:
        return None
    for suffix, content in files.items():
        path = run.sibling(suffix)
        if suffix.endswith(UNREPEATABLE) or not path.exists():
            continue
        if digest_file(path, MOST_FILE_BYTES) != hashlib.sha256(content).hexdigest():
            return path.name
    return None


def _model_differs(recorded: Recorded) -> bool:
    """Whether the saved model has other weights or scalers than were recorded; one that may run code is not read."""
    run, document = recorded.run, recorded.run.document
    if run.contents is not None or document.kind != "train" or not recorded.model.trusted:
        return False
    if not all(run.mark.with_name(name).exists() for name in document.files):
        return False
    ((_, fit),) = document.fits
    try:
        saved = recorded.model.restore(run.saved_model(fit, recorded.model)).digests
    except OutdatedError:
        return False
    return any(saved.get(stage) != fit.digests.get(stage) for stage in ("scalers", "weights"))


def _same(now: pd.Series, then: pd.Series) -> bool:
    """Whether two columns hold the same values, whatever their types are."""
    if now.dtype.kind != "f":
        return bool((now.to_numpy() == then.to_numpy()).all())
    return np.array_equal(now.to_numpy(np.float64), then.to_numpy(np.float64, na_value=np.nan), equal_nan=True)


def _train_again(
    recorded: Recorded, progress: Progress, *, rows_decide: bool
) -> tuple[list[Mapping[str, str]], list[FoldResult]]:
    """Return the digests of each fit now, an error in place of each digest; and the fits that there are."""
    n_jobs = recorded.engine.n_jobs(len(recorded.tasks))
    tasks = [replace(task, n_jobs=n_jobs) for task in recorded.tasks]
    numbers = {(task.fold, task.name): number for number, task in enumerate(tasks)}
    found: list[Mapping[str, str]] = [dict.fromkeys(fit.digests, "") for _, fit in recorded.run.document.fits]
    plain = {name: replace(item, raw=None) for name, item in recorded.bars.items()}
    bars = with_panel(recorded.features, plain, recorded.engine)
    results: dict[int, FoldResult] = {}
    progress.start("reproduce", len(tasks))
    groups = groups_of(recorded.run.document, recorded.model, tasks)
    together = {numbers[task.fold, task.name] for group in groups for task in group.tasks}
    alone = [task for number, task in enumerate(tasks) if number not in together]
    for outcome in chain(
        recorded.engine.run(run_fold, alone, bars, lambda task, note: progress.advance(0, note)) if alone else (),
        run_groups(recorded.engine, groups, bars, progress) if groups else (),
    ):
        at, result = numbers[outcome.task.fold, outcome.task.name], outcome.result
        if result is None:
            found[at] = dict.fromkeys(found[at], str(outcome.reason))
        else:
            results[at] = result
            found[at] = _with_rows(result.digests, pd.DataFrame(result.rows)) if rows_decide else result.digests
        progress.advance(1, outcome.task.name)
    progress.finish()
    return found, [results[at] for at in sorted(results)]


def _recorded_rows(recorded: Recorded) -> pd.DataFrame | None:
    """Return rows of a run of older rules; None where digests are compared: of the present rules, or without rows."""
    run = recorded.run
    if not recorded.changed_rules or (run.contents is None and not run.rows_path.exists()):
        return None
    with expecting_parts(run):
        return run.rows[["date", "ticker", "fold", *PREDICTIONS]]


def _with_rows(digests: Mapping[str, str], rows: pd.DataFrame) -> dict[str, str]:
    """Return digests with that of the predictions alone, without the signals, in place of the stage's own."""
    rows = rows.sort_values(["ticker", "date"])
    numbers = [rows[name].to_numpy(np.float64, na_value=np.nan) for name in PREDICTIONS]
    return {**digests, "predictions": digest_arrays([rows["date"].to_numpy(), *numbers])}


def environment_changes(recorded: Environment, now: Environment) -> list[str]:
    """Name what differs between the recorded environment and this one, as `name recorded → now`."""
    then, here = _flat(recorded), _flat(now)
    names = [name for name in {**then, **here} if then.get(name) != here.get(name)]
    return [f"{name} {then.get(name, 'absent')} → {here.get(name, 'absent')}" for name in names]


def _flat(facts: Environment) -> dict[str, object]:
    names = [name for name in Environment.__struct_fields__ if name != "versions"]
    return {**{name: getattr(facts, name) for name in names}, **facts.versions}
