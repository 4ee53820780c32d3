"""Use case: train a kind of model on the bars of a database and write artifacts that say what they are worth."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any
from uuid import uuid4

import numpy as np
import pandas as pd

from nextbar.artifacts.ledger import Ledger
from nextbar.artifacts.metadata import common, coverage
from nextbar.artifacts.names import reserve_timestamp, ticker_part, writable_folder
from nextbar.artifacts.store import parquet_bytes, write_run
from nextbar.config import MODEL_LABELS, TrainConfig
from nextbar.datasets.splits import bars_needed, context_rows, shortage, train_borders, usable_of
from nextbar.decisions.policy import CLASS_TO_SIGNAL
from nextbar.errors import NothingToTrainError
from nextbar.evaluation.series import Book, Terms
from nextbar.evaluation.summary import finish_rows, summarise
from nextbar.evaluation.walkforward import FoldResult, FoldTask, ended_tickers, run_fold, stitch
from nextbar.execution.engine import Engine, Outcome
from nextbar.features.indicators import warmup_error
from nextbar.leftovers import owner
from nextbar.models.reproducibility import cores
from nextbar.pipelines.remarks import Facts, remarks_of
from nextbar.pipelines.trials import record_trial
from nextbar.pipelines.universe import Universe, load_universe, nothing_left
from nextbar.types import Border, JsonDict, Progress


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """One artifact: what was trained, its figures on test and the files written, metadata last."""

    model: str
    ticker: str
    metadata: JsonDict
    files: list[Path]


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where the artifacts of one command go.

    Attributes:
        folder: Their folder.
        stamp: Their timestamp.
        run: What each says of the command: its ``id``, and how many ``tickers`` it trains.
        last_day: Last day that any ticker trains on.
        ledger: Ledger, if the command counts as a trial.
    """

    folder: Path
    stamp: str
    run: JsonDict
    last_day: np.datetime64
    ledger: Ledger | None


@dataclass(kw_only=True)
class TrainSummary:
    """What a training command did.

    Attributes:
        runs: Artifacts, sorted by name.
        skipped: Ticker → reason.
        failed: Ticker → traceback of an error that should not happen.
        adjustments: How many tickers are adjusted in which way.
        remarks: What to know besides about all of them together.
        seconds: Wall time.
    """

    runs: list[TrainedRun] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    adjustments: dict[str, int] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    seconds: float = 0.0


def train(config: TrainConfig, progress: Progress, *, counts: bool = True) -> TrainSummary:
    """Train and write one artifact per ticker, or one for all where the model is global.

    Args:
        config: What to train.
        progress: Told about each task.
        counts: Whether this is a trial, to be entered in the ledger.

    Raises:
        NextbarError: The database, a ticker, the folder or an option is not usable, or no ticker is left to train.
    """
    began = perf_counter()
    folder, ledger = writable_folder(config.save_dir), Ledger(config.ledger) if counts else None
    universe = load_universe(config, most=config.max_tickers if config.model == "lstm" else None)
    tasks, skipped = plan(config, universe)
    summary = TrainSummary(skipped={**universe.skipped, **skipped}, adjustments=universe.adjustments())
    if not tasks:
        raise NothingToTrainError(nothing_left(summary.skipped, config.db))
    engine = Engine(name=config.engine, jobs=config.jobs, threads=threads_of(config.model), scheduler=config.scheduler)
    together = Facts()
    with reserve_timestamp(folder) as stamp:
        last_day = _last_training_day(universe, tasks)
        command = {"id": f"{stamp}_{uuid4().hex[:8]}", "tickers": sum(len(task.borders) for task in tasks)}
        target = Target(folder=folder, stamp=stamp, run=command, last_day=last_day, ledger=ledger)
        lanes = engine.lanes(len(tasks))
        tasks = [replace(task, checkpoint=_checkpoint(task, target), lanes=lanes) for task in tasks]
        for outcome in run_with_progress(engine, tasks, universe, progress):
            if outcome.result is None:
                _record_loss(summary, outcome)
                continue
            summary.skipped.update(outcome.result.skipped)
            run, facts = _save(outcome, config, universe, target)
            summary.runs.append(run)
            together.add(facts)
    if not summary.runs:
        raise NothingToTrainError(nothing_left({**summary.skipped, **summary.failed}, config.db))
    summary.runs.sort(key=lambda run: run.ticker)
    summary.remarks = remarks_of(together, universe, config)
    summary.seconds = perf_counter() - began
    return summary


def _checkpoint(task: FoldTask, target: Target) -> Path | None:
    """Where the LSTM keeps its best weights while it trains: a kill in epoch 40 does not lose epoch 35.

    The next run in that folder sweeps it. Another machine has no such folder.
    """
    if task.model != "lstm" or task.config.scheduler is not None:
        return None
    return target.folder / f".{task.model}_{target.stamp}.{owner()}.checkpoint.keras"


def threads_of(model: str) -> int:
    """Threads of one task of a training run: the one global LSTM has all cores, a tree task one."""
    return cores() if model == "lstm" else 1


def plan(config: TrainConfig, universe: Universe) -> tuple[list[FoldTask], dict[str, str]]:
    """Tasks of a training run, and why a ticker has none."""
    context = context_rows(config, config.model)
    borders: dict[str, Border] = {}
    skipped: dict[str, str] = {}
    dates = universe.dates()
    for ticker, border in train_borders(dates, config).items():
        usable = usable_of(dates[ticker], config)
        if (problem := shortage(border, usable, context=context)) is None:
            borders[ticker] = border
            continue
        again = int((~usable[config.warmup :]).sum())
        holes = f", {again} of them in the warm-up after a hole" if again else ""
        skipped[ticker] = f"{ticker}: {len(usable)} bars{holes}, {_advice(config, problem, context)}"
    shared: dict[str, Any] = {
        "config": config,
        "model": config.model,
        "fold": 0,
        "search": not config.no_tune,
        "periods": Terms.of(config, dates.values()).periods,
    }
    ended = ended_tickers({ticker: days[-1] for ticker, days in dates.items()}, config.max_gap_days).keys()
    parts = {"all": borders} if config.model == "lstm" else {ticker: {ticker: borders[ticker]} for ticker in borders}
    tasks = [
        FoldTask(name=name, borders=part, ended=frozenset(part.keys() & ended), **shared)
        for name, part in parts.items()
        if part
    ]
    return tasks, skipped


def _advice(config: TrainConfig, problem: str, context: int) -> str:
    lower = "--sequence-length or --warmup" if config.model == "lstm" else "--warmup"
    if config.split_by == "date":
        return f"{problem} when all tickers are split at one date; ingest more bars, lower {lower} or split by ticker"
    need = bars_needed(config, context=context)
    return f"training needs {need} ({problem}); ingest an earlier start or lower {lower}"


def run_with_progress(engine: Engine, tasks: list[FoldTask], universe: Universe, progress: Progress) -> Any:
    """Outcomes of the folds, with a bar over tasks, or over epochs where there is a single task that reports them."""
    by_epoch = len(tasks) == 1 and tasks[0].model == "lstm"
    label = f"train {tasks[0].model}"
    progress.start(label, tasks[0].config.epochs if by_epoch else len(tasks))

    def on_note(task: FoldTask, note: str) -> None:
        progress.advance(1 if by_epoch else 0, note if by_epoch else f"{task.name} {note}")

    for outcome in engine.run(run_fold, tasks, universe.bars, on_note):
        progress.advance(0 if by_epoch else 1, outcome.task.name)
        yield outcome
    progress.finish()


def _record_loss(summary: TrainSummary, outcome: Outcome[FoldTask, FoldResult]) -> None:
    if outcome.trace is None:
        summary.skipped[outcome.task.name] = str(outcome.reason)
    else:
        summary.failed[outcome.task.name] = outcome.trace


def _last_training_day(universe: Universe, tasks: list[FoldTask]) -> np.datetime64:
    """Last day that any ticker trains or validates on: after it, no model has seen the market of the day."""
    dates = universe.dates()
    borders = [(ticker, border) for task in tasks for ticker, border in task.borders.items()]
    last: np.datetime64 = max(dates[ticker][border.test - 1] for ticker, border in borders)
    return last


def _save(
    outcome: Outcome[FoldTask, FoldResult], config: TrainConfig, universe: Universe, target: Target
) -> tuple[TrainedRun, Facts]:
    """Write one artifact; its metadata goes last. With it, what remarks about several are made of."""
    result = outcome.result
    assert result is not None
    tickers = sorted(result.splits)
    everything = config.model == "lstm" and universe.everything
    stem = f"{MODEL_LABELS[config.model]}_{ticker_part(tickers, everything=everything)}_{target.stamp}"
    rows, aux = stitch([result])
    book = Book.of(rows, outcome.task.terms, holes=result.holes)
    rows, metadata = finish_rows(rows, book), describe_run(outcome, config, universe)
    later = _later_metrics(rows, aux, metadata, target.last_day)
    facts = Facts.of([result], rows, universe)
    metadata |= facts.to_json(remarks_of(facts, universe, config)) | {
        "run": target.run,
        "metrics": summarise(rows, aux, book, ended=metadata["ended"]) | {"after_last_training_day": later},
    }
    files = {**result.files, "_predictions.parquet": parquet_bytes(rows)}
    if config.model == "xgb":
        files[".meta.json"] = _meta(metadata)
    written = write_run(target.folder, stem, files, metadata, commit="_metadata.json")
    if target.ledger is not None:
        record_trial(target.ledger, book, metadata)
    name = tickers[0] if len(tickers) == 1 else f"{len(tickers)} tickers"
    return TrainedRun(model=config.model, ticker=name, metadata=metadata, files=written), facts


def describe_run(outcome: Outcome[FoldTask, FoldResult], config: TrainConfig, universe: Universe) -> JsonDict:
    """Everything but the figures that the metadata says."""
    result = outcome.result
    assert result is not None
    tickers = sorted(result.splits)
    data = coverage(universe.bars, tickers)
    return common(config, threads=threads_of(config.model)) | {
        "model": config.model,
        "tickers": tickers,
        "task": outcome.task.name,
        "task_seed": result.seed,
        "data": data,
        "periods_per_year": outcome.task.periods,
        "holes": result.holes,
        "ended": {ticker: data[ticker]["last"] for ticker in tickers if ticker in outcome.task.ended},
        "features": {
            "columns": result.facts["columns"],
            "function": config.features,
            "warmup": config.warmup,
            "warmup_error": warmup_error(config.warmup),
        },
        "splits": result.splits,
        **{name: fact for name, fact in result.facts.items() if name != "columns"},
        "digests": result.digests,
        "seconds": {"task": outcome.seconds, **outcome.stages},
        "skipped": result.skipped,
    }


def _later_metrics(
    rows: pd.DataFrame, aux: pd.DataFrame, metadata: JsonDict, last_day: np.datetime64
) -> JsonDict | None:
    """The same figures on the days that no ticker of this run trained on."""
    later = rows["date"].to_numpy() > last_day
    if not later.any():
        return None
    rows, aux = rows[later], aux[later]
    book = Book.of(rows, Terms.recorded(metadata), holes=metadata["holes"])
    figures = summarise(rows, aux, book, ended=metadata["ended"])
    return {"from": str(rows["date"].min().date()), **figures}


def _meta(metadata: Mapping[str, Any]) -> bytes:
    """What a stranger needs to use the booster with plain xgboost."""
    (threshold,) = metadata["threshold"].values()
    facts = {
        "feature_columns": metadata["features"]["columns"],
        "threshold": threshold["threshold"],
        "class_to_signal": {str(key): {0: "flat", 1: "long"}[value] for key, value in CLASS_TO_SIGNAL.items()},
        "best_iteration": metadata["best_iteration"],
        "ticker": metadata["tickers"][0],
        "prices": metadata["data"][metadata["tickers"][0]]["adjustment"],
        "warmup": metadata["features"]["warmup"],
    }
    return json.dumps(facts, indent=1).encode()
