"""From the fits of a run to its document: the same for a training run and a walk-forward."""

from __future__ import annotations

import datetime as dt
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd

from nextbar.config import CommonConfig, TrainConfig, WalkForwardConfig
from nextbar.datasets.splits import Fold, split_window
from nextbar.evaluation.figures import figures_of, finish_rows, summarise
from nextbar.evaluation.series import Book, Holes, Terms
from nextbar.evaluation.walkforward import FoldResult, FoldTask, Refitted, stitch
from nextbar.features.spec import FeatureSpec, source_digest
from nextbar.models.base import Model
from nextbar.models.reproducibility import cores, digest_text, library_versions
from nextbar.runs.document import RULES, SCHEMA_VERSION, Document, HoldoutRecord, PanelRecord, Skip
from nextbar.runs.files import REFIT
from nextbar.runs.fit import Coverage, Environment, Refit, Task
from nextbar.runs.run import Run
from nextbar.runs.trained import Contents
from nextbar.types import JsonDict
from nextbar.words import without_password
from nextbar.workflows.remarks import Facts, cut_windows, remarks_of
from nextbar.workflows.universe import Universe


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A finished task, the seconds that it took, and those of its stages where they are known."""

    task: FoldTask
    result: FoldResult
    seconds: float
    stages: Mapping[str, float] = field(default_factory=dict)

    def skips(self, fold: int | None) -> list[Skip]:
        """Return the tickers that it had to leave out."""
        return [Skip(ticker=name, fold=fold, reason=reason) for name, reason in self.result.skipped.items()]


def make_run(
    config: TrainConfig | WalkForwardConfig,
    universe: Universe,
    fits: Sequence[Fit],
    *,
    folds: Sequence[Fold] = (),
    skips: Sequence[Skip],
    threads: int,
    seconds: Mapping[str, float],
    group: JsonDict | None = None,
    holdout: HoldoutRecord | None = None,
    last_training_day: np.datetime64 | None = None,
) -> tuple[Run, Facts]:
    """Make the run that its fits are, and the facts that its remarks are made of.

    Args:
        config: Its configuration.
        universe: The bars.
        fits: Its fits, by fold and name.
        folds: Folds of a walk-forward; none for a training run.
        skips: Who was left out.
        threads: Threads of a task.
        seconds: Time by stage.
        group: ``id`` and number of ``tickers`` of the command that a training run belongs to.
        holdout: What was opened, where the fits were made to open a holdout.
        last_training_day: Last day that any ticker of that command trains on.
    """
    rows, aux = stitch(fit.result for fit in fits)
    first, about = fits[0].task, _about(config, universe, fits, everyone=bool(folds))
    book = Book.of(rows, first.terms, holes=about["holes"])
    cut = cut_windows(universe, folds, [fit.task for fit in fits]) if folds else []
    summary = partial(summarise_rows, terms=book.terms, holes=about["holes"], ended=about["ended"])
    figures = summary(rows, aux)
    facts = Facts.of([fit.result for fit in fits], rows, universe, figures.get("price"))
    day = rows["date"].max() if last_training_day is None else last_training_day
    later = rows["date"].to_numpy() > np.datetime64(day)
    fields = {
        **head(config, threads=threads, libraries=first.model.libraries),
        **about,
        **({"run": group} if holdout is None else {"kind": "holdout", "holdout": holdout}),
        "pooled": figures.pop("model"),
        **figures,
        "after_last_training_day": summary(rows[later], aux[later], first=True) if later.any() else None,
        "skipped": list(skips),
        **facts.to_json([*cut, *remarks_of(facts, universe, config)]),
        "seconds": seconds,
        "folds": _folds(folds, fits, book, aux, universe),
    }
    document = msgspec.convert(fields, Document)
    pairs = zip(fits, document.fits, strict=True) if document.kind == "train" else ()
    files = {fit.task.name: _files(fit, document, task) for fit, (_, task) in pairs}
    contents = Contents(rows=finish_rows(rows, book), files=files, model=first.model, features=first.spec)
    return Run(document=document, config=config, contents=contents), facts


def _files(fit: Fit, document: Document, task: Task) -> dict[str, bytes]:
    """Return the files of a model, and of its refit."""
    files = files_of(fit.task.model, document, task, fit.result.files)
    if fit.result.refit is None:
        return files
    return files | refit_files_of(fit.task.model, document, task, fit.result.refit.files)


def head(config: CommonConfig, *, threads: int, libraries: Iterable[str] = ()) -> JsonDict:
    """Make the head of a document, which a certificate has, too."""
    return {
        "schema_version": SCHEMA_VERSION,
        "rules": RULES,
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "command": ["nextbar", *map(without_password, sys.argv[1:])],
        "config": config.to_json(),
        "seed": config.seed,
        "environment": msgspec.to_builtins(environment(threads, libraries)),
    }


def environment(threads: int, libraries: Iterable[str] = ()) -> Environment:
    """Describe what can change the bits of a result here: versions, processor and thread count."""
    return Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        cpu=_cpu(),
        cores=cores(),
        threads=threads,
        keras_backend=os.environ.get("KERAS_BACKEND", "jax"),
        versions=library_versions(libraries),
    )


def _about(config: CommonConfig, universe: Universe, fits: Sequence[Fit], *, everyone: bool) -> JsonDict:
    """Say what was trained on which bars; of everyone that has bars, or of the tickers of the fits."""
    first = fits[0]
    tickers = list(universe.bars) if everyone else sorted({name for fit in fits for name in fit.result.splits})
    holes: dict[str, dict[str, float]] = {}
    for fit in fits:
        for ticker, returns in fit.result.holes.items():
            holes.setdefault(ticker, {}).update(returns)
    return {
        "kind": "walkforward" if isinstance(config, WalkForwardConfig) else "train",
        "model": first.task.model.name,
        "tickers": tickers,
        "data": {ticker: universe.coverage[ticker] for ticker in tickers},
        "features": {
            "columns": first.result.facts["columns"],
            "function": first.task.spec.name,
            "warmup": config.warmup,
            "warmup_error": first.task.spec.warmup_error,
            "panel": _panel(first.task.spec, universe),
        },
        "periods_per_year": first.task.periods,
        "holes": holes,
        "ended": {name: day for name, day in universe.ended.items() if name in tickers},
    }


def _panel(spec: FeatureSpec, universe: Universe) -> PanelRecord | None:
    """Describe the functions over all tickers and the bars that they were given."""
    if spec.panel_name is None:
        return None
    data = {name: msgspec.structs.replace(facts, days={}) for name, facts in universe.coverage.items()}
    source = digest_text("".join(map(source_digest, spec.panel)))
    return PanelRecord(function=spec.panel_name, source=source, data=data)


def summarise_rows(
    rows: pd.DataFrame,
    aux: pd.DataFrame,
    *,
    terms: Terms,
    holes: Holes,
    ended: Mapping[str, str],
    first: bool = False,
) -> JsonDict:
    """Figures of some of the rows, with their first day if it must be said."""
    figures = summarise(rows, aux, Book.of(rows, terms, holes=holes), ended=ended)
    return ({"from": str(rows["date"].min().date())} if first else {}) | figures


def _folds(
    folds: Sequence[Fold], fits: Sequence[Fit], book: Book, aux: pd.DataFrame, universe: Universe
) -> list[JsonDict]:
    """Make a record per window, with figures where it has rows."""
    windows = [_window(fold) for fold in folds] or [
        {"number": 0, **split_window([part for fit in fits for part in fit.result.splits.values()])}
    ]
    found = []
    for window in windows:
        own = book.within(window["number"])
        tasks = [_task(fit, universe, curves=fit is fits[-1]) for fit in fits if fit.task.fold == window["number"]]
        metrics = figures_of(own, aux) if len(own.day) else None
        found.append({**window, "rows": len(own.day), "metrics": metrics, "tasks": tasks})
    return found


def _window(fold: Fold) -> JsonDict:
    names = ("train_start", "val_start", "test_start", "test_end")
    return {"number": fold.number, **dict(zip(names, map(str, fold.days), strict=True))}


def _task(fit: Fit, universe: Universe, *, curves: bool) -> JsonDict:
    """Make the record of a fit; the curves of thousands would make the file unwieldy, so only the last keeps them."""
    result = fit.result
    facts = {name: fact for name, fact in result.facts.items() if name != "columns"}
    if not curves:
        facts["threshold"] = {
            ticker: {name: value for name, value in choice.items() if name != "curve"}
            for ticker, choice in facts["threshold"].items()
        }
    if "search" not in facts and fit.task.model.searches:
        facts["searched"] = fit.task.search and fit.task.params is None
        facts["params"] = None if result.params is None else _plain(result.params)
    own = {name: facts.pop(name) for name in Task.__struct_fields__ if name in facts}
    return {
        "name": fit.task.name,
        "seed": result.seed,
        "splits": result.splits,
        "digests": result.digests,
        **own,
        "details": facts,
        "refit": None if result.refit is None else refit_record(result.refit, fit.task.spec, universe.coverage),
    }


def refit_record(refit: Refitted, spec: FeatureSpec, coverage: Mapping[str, Coverage]) -> Refit:
    """Make the record of a refit on bars of these tickers, of whom columns over all tickers see all."""
    created = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    names = coverage if spec.panel else refit.facts["splits"]
    data = {name: msgspec.structs.replace(coverage[name], days={}) for name in names}
    return msgspec.convert({"created": created, "data": data, **refit.facts}, Refit)


def files_of(model: Model, document: Document, task: Task, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files of a fit, suffix → content, with those for people."""
    return {**files, **model.notes(_notes(document, task))}


def refit_files_of(model: Model, document: Document, task: Task, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files of a fit's refit, suffix → content, with those for people."""
    assert task.refitted is not None
    return {REFIT + suffix: content for suffix, content in files_of(model, document, task.refitted, files).items()}


def _notes(document: Document, task: Task) -> JsonDict:
    """Say what a model's own notes are made of."""
    tickers = [ticker for ticker in document.tickers if ticker in task.splits]
    first, several = tickers[0], len(tickers) > 1
    prices = {ticker: document.data[ticker].adjustment for ticker in tickers}
    return {
        **task.details,
        "feature_columns": document.features.columns,
        "threshold": task.threshold[first].threshold if first in task.threshold else None,
        "ticker": tickers if several else first,
        "prices": prices if several else prices[first],
        "warmup": document.features.warmup,
    }


def _plain(params: Mapping[str, object]) -> JsonDict:
    """Give parameters with Python's numbers in place of numpy's."""
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in params.items()}


def _cpu() -> str:
    """Name the processor with its family and model, because its instruction set decides which kernels run.

    A virtual machine often gives one name to several generations, such as AMD EPYC.
    """
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or platform.machine()
    lines = (line.partition(":") for line in info.read_text(encoding="utf-8", errors="replace").splitlines())
    facts = {name.strip(): value.strip() for name, _, value in reversed([*lines])}
    name = facts.get("model name") or platform.processor() or platform.machine()
    parts = [f"{part} {facts[key]}" for key, part in (("cpu family", "family"), ("model", "model")) if key in facts]
    return " ".join([name, *parts])
