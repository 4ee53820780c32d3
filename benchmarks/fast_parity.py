"""What ``--fast`` saves and what it costs: the same tickers with it and without, ticker by ticker in turn.

Run it where scikit-learn-intelex is installed to see the forest at its fastest. ``--case "DB|START"`` names a database
and a first day; the scores are those of each ticker's test days.
"""

import json
import os
from argparse import Namespace
from dataclasses import replace
from time import process_time

import numpy as np
import pandas as pd

import sides

SCORES = ("balanced_accuracy", "roc_auc", "brier", "sharpe")


def fit(options: Namespace) -> sides.Measured:
    """Both ways in turn, ticker by ticker: a record per way and ticker, the seconds those of the processor."""
    from nextbar.config import TrainConfig
    from nextbar.evaluation.figures import summarise
    from nextbar.evaluation.series import Book
    from nextbar.evaluation.walkforward import run_fold, stitch
    from nextbar.models.random_forest import _fast_forest
    from nextbar.models.registry import model_of
    from nextbar.workflows.training import Experiment, make_plan
    from nextbar.workflows.universe import load_universe

    kind, database, start, names, draws = options.case.split("|")
    plain = TrainConfig(
        model=kind, db=database, ticker=names, start=start or None, n_iter=int(draws) if draws else None
    )
    universe = load_universe(plain)
    _fast_forest()  # its import is not part of a fit
    log = (options.folder / f"parity_{kind}.jsonl").open("w", buffering=1)
    records = []
    for task in make_plan(Experiment.of(plain, universe)).tasks:
        for way, config in (("plain", plain), ("fast", replace(plain, fast=True))):
            begin = process_time()
            result = run_fold(
                replace(task, config=config, model=model_of(kind, config)), universe.bars, lambda _line: None
            )
            seconds = process_time() - begin
            rows, aux = stitch([result])
            figures = summarise(rows, aux, Book.of(rows, task.terms, holes=result.holes))["model"]
            estimator = result.facts["search"]["estimator"]
            facts = {"way": way, "ticker": task.name, "seconds": seconds, "estimator": estimator}
            records.append(facts | {name: figures[name] for name in SCORES})
            print(json.dumps(records[-1]), file=log)
    return {"records": records}


def race(options: Namespace) -> None:
    from nextbar.execution.engine import thread_env
    from nextbar.market.bars import DataAccessLayer

    os.environ.update(thread_env(1))
    tickers = options.tickers or (2 if options.quick else 40)
    database, _, start = options.case.partition("|")
    database = database or str(sides.database(options.folder, tickers, 400 if options.quick else 1259))
    with DataAccessLayer(database) as market:
        names = market.get_tickers()[:tickers]
    for kind in ("xgb", "rf"):
        draws = "4" if options.quick else ""
        one = sides.child("fit", options, case=f"{kind}|{database}|{start}|{','.join(names)}|{draws}")
        report(kind, pd.DataFrame(one["records"]))


def report(kind: str, table: pd.DataFrame) -> None:
    """Ratio of the seconds of a fit, and each score's mean both ways with the paired difference and its error."""
    wide = table.set_index(["ticker", "way"]).unstack("way")  # noqa: PD010 - nothing is aggregated
    ratio = wide["seconds"]["plain"] / wide["seconds"]["fast"]
    total = wide["seconds"]["plain"].sum() / wide["seconds"]["fast"].sum()
    searched = table[table["way"] == "fast"]["estimator"].iloc[0]
    print(f"{kind}: {len(wide)} tickers, search by {searched}; {total:.1f} times as fast, median {ratio.median():.1f}")
    for name in SCORES:
        both = wide[name].astype(float).dropna()  # a model that never buys has no Sharpe ratio
        change = both["fast"] - both["plain"]
        error = change.std() / np.sqrt(len(change))
        means = f"plain {both['plain'].mean():7.4f}  fast {both['fast'].mean():7.4f}"
        print(f"  {name:18s} {means}  difference {change.mean():+.4f} (standard error {error:.4f}, {len(both)})")


if __name__ == "__main__":
    sides.main(__doc__, {"fit": fit}, race)
