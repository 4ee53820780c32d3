"""The same walk-forward on each engine, with one worker and with two.

Run ``python benchmarks/engines.py [tickers] [rounds]``. The tickers are made up, 20 years each, and no fold searches.
Engines run in turn; of each the median round counts. An engine "begins" when its first fold ends, and folds per second
are counted from there to the end of the last one. All results must be byte-equal.
"""

import os
import sys
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import numpy as np
import pandas as pd

from nextbar.config import WalkForwardConfig
from nextbar.datasets.samples import Bars
from nextbar.evaluation.walkforward import FoldTask, run_fold
from nextbar.execution.engine import Engine
from nextbar.models.registry import model_of
from nextbar.types import Border

CASES = (("serial", 1), ("loky", 1), ("loky", 2), ("dask", 1), ("dask", 2))
YEAR, FOLDS = 252, 60


@dataclass(frozen=True, kw_only=True)
class Round:
    """Seconds to the first fold's end, folds per second afterwards, and what came out."""

    begin: float
    rate: float
    digests: dict[tuple[str, int], dict[str, str]]


def made_up(seed: int) -> Bars:
    close = 100 * np.exp(np.cumsum(np.random.default_rng(seed).normal(0.0003, 0.012, 20 * YEAR)))
    columns = dict.fromkeys(("Open", "High", "Low", "Close", "Quoted"), close) | {"Volume": np.full(len(close), 1e6)}
    index = pd.bdate_range("2004-01-01", periods=len(close), name="Date")
    return Bars(frame=pd.DataFrame(columns, index=index), dropped=0, adjustment="forward")


def tasks(tickers: list[str]) -> list[FoldTask]:
    config = WalkForwardConfig(model="rf", tune="none")
    starts = [200 + fold * YEAR // 4 for fold in range(FOLDS)]
    borders = [Border(train=at, val=at + 3 * YEAR, test=at + 4 * YEAR, end=at + 4 * YEAR + 63) for at in starts]
    return [
        FoldTask(
            name=name,
            config=config,
            model=model_of("rf", config),
            fold=fold,
            borders={name: border},
            search=False,
            out_of_sample=True,
        )
        for name in tickers
        for fold, border in enumerate(borders)
    ]


def timed(engine: Engine, work: list[FoldTask], bars: dict[str, Bars]) -> Round:
    start, ends, digests = perf_counter(), [], {}
    for outcome in engine.run(run_fold, work, bars):
        ends.append(perf_counter())
        digests[outcome.task.name, outcome.task.fold] = outcome.result.digests
    return Round(begin=ends[0] - start, rate=(len(ends) - 1) / (ends[-1] - ends[0]), digests=digests)


def main(tickers: int, rounds: int) -> None:
    bars = {f"T{number}": made_up(number) for number in range(tickers)}
    work = tasks(list(bars))
    print(f"{len(work)} folds of {tickers} tickers, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    engines = {case: Engine(name=case[0], jobs=case[1], threads=1) for case in CASES}
    runs = {case: [] for case in CASES}
    for _ in range(rounds):
        for case, engine in engines.items():
            runs[case].append(timed(engine, work, bars))
            assert runs[case][-1].digests == runs[CASES[0]][0].digests
    for (name, jobs), done in runs.items():
        begin, rate = median(item.begin for item in done), median(item.rate for item in done)
        print(f"{name:7s} {jobs} workers: begins in {begin:5.1f} s, {rate:6.2f} folds per second")


if __name__ == "__main__":
    main(*(int(text) for text in [*sys.argv[1:], "2", "3"][:2]))
