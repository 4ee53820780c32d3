"""Use case: retrain a model fold after fold and say what it would have earned on days it had not seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd

from nextbar.artifacts.ledger import Ledger
from nextbar.artifacts.metadata import common, coverage
from nextbar.artifacts.names import reserve_timestamp, ticker_part, writable_folder
from nextbar.artifacts.partial import PartialRun
from nextbar.artifacts.store import parquet_bytes, write_run
from nextbar.config import WalkForwardConfig
from nextbar.datasets.splits import Fold, calendar_border, context_rows, shortage, usable_of, walk_forward_folds
from nextbar.errors import NotEnoughHistoryError, NothingToTrainError
from nextbar.evaluation.series import Book, Terms, run_book
from nextbar.evaluation.summary import figures_of, finish_rows, summarise
from nextbar.evaluation.walkforward import FoldResult, FoldTask, ended_tickers, run_fold, stitch
from nextbar.execution.engine import Engine
from nextbar.features.spec import source_digest
from nextbar.pipelines.remarks import Facts, cut_windows, remarks_of
from nextbar.pipelines.trials import record_trial
from nextbar.pipelines.universe import Universe, load_universe, nothing_left
from nextbar.types import Border, JsonDict, Progress

HANDFUL = 8
"""XGBoost fits without a search, of 10 to 50 ms, that a worker makes in one go. A forest takes a second."""


@dataclass(frozen=True, kw_only=True)
class Skip:
    """A ticker left out of a fold (or of all, without a fold), and why."""

    ticker: str
    fold: int | None
    reason: str

    def to_json(self) -> JsonDict:
        """For the result file."""
        return {"ticker": self.ticker, "fold": self.fold, "reason": self.reason}


@dataclass(frozen=True, kw_only=True)
class WalkForwardResult:
    """One model's walk-forward: its figures, the files written, and how much of it was resumed."""

    model: str
    tickers: list[str]
    document: JsonDict
    files: list[Path]
    resumed: int
    failed: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class _Done:
    task: FoldTask
    result: FoldResult
    seconds: float


def walk_forward(config: WalkForwardConfig, progress: Progress, *, counts: bool = True) -> WalkForwardResult:
    """Train every fold, stitch the out-of-sample days and write the result.

    Args:
        config: What to train, on which windows.
        progress: Told about each fold.
        counts: Whether this is a trial, to be entered in the ledger.

    Raises:
        NextbarError: The database, a ticker, the folder or an option is not usable, or no fold can be trained.
    """
    began = perf_counter()
    folder, ledger = writable_folder(config.output_dir), Ledger(config.ledger) if counts else None
    universe = load_universe(config, most=config.max_tickers if config.model == "lstm" else None)
    folds = _folds(config, universe)
    tasks, skips = plan(config, universe, folds)
    if not tasks:
        raise NothingToTrainError(nothing_left({str(i): skip.reason for i, skip in enumerate(skips)}, config.db))
    data = coverage(universe.bars, universe.bars)
    partial = PartialRun(folder, f"walkforward_{config.model}", _key(config, data))
    runner = _Runner(config, universe, partial, progress)
    with partial.opened(resume=config.resume):
        done = sorted(runner.run(tasks), key=lambda item: (item.task.fold, item.task.name))
    skips += sorted(runner.skips, key=lambda skip: (skip.fold or 0, skip.ticker))  # workers end in any order
    skips += [
        Skip(ticker=name, fold=item.task.fold, reason=reason)
        for item in done
        for name, reason in item.result.skipped.items()
    ]
    if not any(len(item.result.rows["date"]) for item in done):
        raise NothingToTrainError(nothing_left({str(i): skip.reason for i, skip in enumerate(skips)}, config.db))
    document, rows = _document(config, data, folds, done, skips)
    facts = Facts.of([item.result for item in done], rows, universe)
    remarks = [
        *cut_windows(config, folds, [item.task for item in done], universe.dates()),
        *remarks_of(facts, universe, config),
    ]
    document |= facts.to_json(remarks)
    document["seconds"] = {"wall": perf_counter() - began, "tasks": sum(item.seconds for item in done)}
    with reserve_timestamp(folder) as stamp:
        part = ticker_part(list(universe.bars), everything=universe.everything)
        stem = f"walkforward_{config.model}_{part}_{stamp}"
        files = write_run(folder, stem, {".parquet": parquet_bytes(rows)}, document, commit=".json")
    partial.remove()
    if ledger is not None:
        record_trial(ledger, run_book(document, rows), document)
    return WalkForwardResult(
        model=config.model,
        tickers=list(universe.bars),
        document=document,
        files=files,
        resumed=runner.resumed,
        failed=dict(sorted(runner.failed.items())),
    )


def _folds(config: WalkForwardConfig, universe: Universe) -> list[Fold]:
    """Calendar windows from the first to the last day that any ticker has a bar."""
    days = universe.dates().values()
    last = max(day[-1] for day in days).astype(object)
    folds = walk_forward_folds(min(day[0] for day in days).astype(object), last, config)
    if not folds:
        longest = max(len(day) for day in days)
        raise NotEnoughHistoryError(
            f"the longest history has {longest} bars up to {last}; a fold needs {config.train_years} years of train, "
            f"{config.val_months} months of validation and a test day; "
            "ingest an earlier start or lower --train-years or --val-months"
        )
    return folds


def plan(config: WalkForwardConfig, universe: Universe, folds: list[Fold]) -> tuple[list[FoldTask], list[Skip]]:
    """Tasks in order of fold and ticker, and who is left out of which fold.

    Who takes part is decided from the bars before the test window; a ticker without a bar in it is trained in a
    global model all the same, and has nothing to predict in one of its own.
    """
    dates, context = universe.dates(), context_rows(config, config.model)
    periods = Terms.of(config, dates.values()).periods
    ended = ended_tickers({ticker: days[-1] for ticker, days in dates.items()}, config.max_gap_days).keys()
    usable = {ticker: usable_of(days, config) for ticker, days in dates.items()}
    skips = [Skip(ticker=name, fold=None, reason=reason) for name, reason in universe.skipped.items()]
    tasks: list[FoldTask] = []
    for fold in folds:
        borders: dict[str, Border] = {}
        for ticker, days in dates.items():
            border = calendar_border(days, fold)
            problem = shortage(border, usable[ticker], context=context, tested=0)
            if problem is None and config.model != "lstm" and not usable[ticker][border.test : border.end].any():
                problem = "no bar in the test window" + (" after the warm-up" if border.test < border.end else "")
            if problem is None:
                borders[ticker] = border
            else:
                skips.append(Skip(ticker=ticker, fold=fold.number, reason=f"{ticker}: {problem}"))
        tasks += [
            replace(task, periods=periods, ended=frozenset(task.borders.keys() & ended))
            for task in _fold_tasks(config, fold, borders, closing=fold is folds[-1])
        ]
    return tasks, skips


def _fold_tasks(config: WalkForwardConfig, fold: Fold, borders: dict[str, Border], *, closing: bool) -> list[FoldTask]:
    shared: dict[str, Any] = {
        "config": config,
        "model": config.model,
        "fold": fold.number,
        "search": config.tune != "none" and not config.no_tune,
        "out_of_sample": True,
        "closing": closing,
    }
    if config.model == "lstm":
        return [FoldTask(name="all", borders=borders, **shared)] if borders else []
    return [FoldTask(name=ticker, borders={ticker: border}, **shared) for ticker, border in borders.items()]


class _Runner:
    """Runs tasks, keeps each finished one on disk, and hands parameters from a ticker's first fold to its others."""

    def __init__(self, config: WalkForwardConfig, universe: Universe, partial: PartialRun, progress: Progress) -> None:
        self._config, self._universe, self._partial, self._progress = config, universe, partial, progress
        # One thread a task: folds are what runs in parallel, and the bits do not depend on the number of cores.
        self._engine = Engine(name=config.engine, jobs=config.jobs, threads=1, scheduler=config.scheduler)
        self.skips: list[Skip] = []
        self.failed: dict[str, str] = {}
        self.resumed = 0

    def run(self, tasks: list[FoldTask]) -> list[_Done]:
        """All outcomes; with `--tune first` the earliest fold of each ticker goes before its others."""
        fresh = sum(not self._partial.knows(task) for task in tasks)
        self._progress.start(f"walk-forward {self._config.model}", fresh)
        done: list[_Done] = []
        waiting = list(tasks)
        while waiting:
            wave, waiting = self._wave(waiting, {item.task.name: item.result.params for item in done})
            done += self._run_wave(wave)
        self._progress.finish()
        return done

    def _wave(self, waiting: list[FoldTask], known: dict[str, Any]) -> tuple[list[FoldTask], list[FoldTask]]:
        """Tasks that can run now, and those that wait for their ticker's parameters."""
        if self._config.tune != "first" or self._config.no_tune or self._config.model == "lstm":
            return waiting, []
        wave, later = [], []
        searching: set[str] = set()
        for task in waiting:
            if task.name in known:
                wave.append(replace(task, params=known[task.name], search=False))
            elif task.name in searching:
                later.append(task)
            else:
                searching.add(task.name)
                wave.append(task)
        return wave, later

    def _run_wave(self, wave: list[FoldTask]) -> Iterator[_Done]:
        fresh = []
        for task in wave:
            if (kept := self._partial.load(task)) is None:
                fresh.append(task)
            else:
                self.resumed += 1
                yield _Done(task=task, result=kept[0], seconds=kept[1])
        if not fresh:
            return
        lanes = self._engine.lanes(len(fresh))
        fresh = [replace(task, lanes=lanes) for task in fresh]
        together = HANDFUL if self._config.model == "xgb" and not any(task.search for task in fresh) else 1
        for outcome in self._engine.run(run_fold, fresh, self._universe.bars, together=together):
            task = outcome.task
            self._progress.advance(1, f"{task.name} fold {task.fold}")
            if outcome.result is not None:
                self._partial.save(task, outcome.result, outcome.seconds)
                yield _Done(task=task, result=outcome.result, seconds=outcome.seconds)
                continue
            self.skips.append(Skip(ticker=task.name, fold=task.fold, reason=str(outcome.reason)))
            if outcome.trace is not None:
                self.failed[f"{task.name} fold {task.fold}"] = outcome.trace


def _key(config: WalkForwardConfig, data: JsonDict) -> JsonDict:
    """Everything that the folds depend on."""
    head = common(config, threads=1)
    return {
        "options": config.decisive(),
        "source": None if config.features is None else source_digest(config.features),
        "versions": head["environment"]["versions"],
        "bars": data,
    }


def _document(
    config: WalkForwardConfig, data: JsonDict, folds: list[Fold], done: list[_Done], skips: list[Skip]
) -> tuple[JsonDict, pd.DataFrame]:
    """The result file and the out-of-sample rows, sorted by fold, ticker and date."""
    rows, aux = stitch(item.result for item in done)
    holes: dict[str, dict[str, float]] = {}
    for item in done:
        for ticker, returns in item.result.holes.items():
            holes.setdefault(ticker, {}).update(returns)
    book = Book.of(rows, done[0].task.terms, holes=holes)
    rows = finish_rows(rows, book)
    last = {ticker: np.datetime64(facts["last"], "D") for ticker, facts in data.items()}
    ended = ended_tickers(last, config.max_gap_days)
    figures = summarise(rows, aux, book, ended=ended)
    document = common(config, threads=1) | {
        "model": config.model,
        "tickers": list(data),
        "data": data,
        "periods_per_year": book.terms.periods,
        "holes": holes,
        "ended": ended,
        "pooled": figures.pop("model"),
        **figures,
        "folds": [_fold_document(fold, book.within(fold.number), aux, done) for fold in folds],
        "skipped": [skip.to_json() for skip in skips],
    }
    return document, rows


def _fold_document(fold: Fold, book: Book, aux: pd.DataFrame, done: list[_Done]) -> JsonDict:
    """Dates, figures and per-task facts of one fold, whose rows are in the book."""
    window = {name: str(getattr(fold, name)) for name in ("train_start", "val_start", "test_start", "test_end")}
    return {
        "number": fold.number,
        **window,
        "rows": len(book.day),
        "metrics": figures_of(book, aux) if len(book.day) else None,
        "tasks": [
            {
                "name": item.task.name,
                "seed": item.result.seed,
                "splits": item.result.splits,
                "digests": item.result.digests,
                **(item.result.facts if item is done[-1] else _without_curves(item.result.facts)),
            }
            for item in done
            if item.task.fold == fold.number
        ],
    }


def _without_curves(facts: JsonDict) -> JsonDict:
    """Facts without what would make the file of thousands of fits unwieldy; the last fit keeps it, to be drawn."""
    threshold = {
        ticker: {name: value for name, value in choice.items() if name != "curve"}
        for ticker, choice in facts["threshold"].items()
    }
    return {**facts, "threshold": threshold}
