"""What ``--fast`` saves and what it costs: the same tickers with it and without, group by group in turn.

Run it where scikit-learn-intelex is installed to see the forest at its fastest. ``--case "DB|START"`` names a database
and a first day; the scores are those of each ticker's test days.
"""

import tempfile
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

import sides

GROUP = 10
"""Tickers to a group: a worker imports Intel's library once for them, which takes it some seconds."""
SCORES = ("balanced_accuracy", "roc_auc", "brier", "sharpe")


def fit(options: Namespace) -> sides.Measured:
    """One group, both ways: a record per way and ticker."""
    from nextbar.config import TrainConfig
    from nextbar.pipelines.train import train
    from nextbar.types import Silent

    kind, database, start, names = options.case.split("|")
    records = []
    with tempfile.TemporaryDirectory() as folder:
        ledger = str(Path(folder) / "ledger.db")
        plain = TrainConfig(model=kind, db=database, ticker=names, start=start or None, save_dir=folder, ledger=ledger)
        for way, config in (("plain", plain), ("fast", replace(plain, fast=True))):
            for run in train(config, Silent()).runs:
                figures = {name: run.metadata["metrics"]["model"][name] for name in SCORES}
                seconds = run.metadata["seconds"]["fit"]
                estimator = run.metadata["search"]["estimator"]
                records.append(
                    {"way": way, "ticker": run.ticker, "seconds": seconds, "estimator": estimator, **figures}
                )
    return {"records": records}


def race(options: Namespace) -> None:
    from nextbar.market.access import DataAccessLayer

    tickers = options.tickers or (2 if options.quick else 40)
    database, _, start = options.case.partition("|")
    database = database or str(sides.database(options.folder, tickers, 700 if options.quick else 1259))
    with DataAccessLayer(database) as market:
        names = market.get_tickers()[:tickers]
    for kind in ("xgb", "rf"):
        groups = [names[at : at + GROUP] for at in range(0, len(names), GROUP)]
        cases = [f"{kind}|{database}|{start}|{','.join(group)}" for group in groups]
        records = [record for case in cases for record in sides.child("fit", options, case=case)["records"]]
        report(kind, pd.DataFrame(records))


def report(kind: str, table: pd.DataFrame) -> None:
    """Ratio of the seconds of a fit, and each score's mean both ways with the paired difference and its error."""
    wide = table.set_index(["ticker", "way"]).unstack("way")  # noqa: PD010 - nothing is aggregated
    ratio = wide["seconds"]["plain"] / wide["seconds"]["fast"]
    total = wide["seconds"]["plain"].sum() / wide["seconds"]["fast"].sum()
    searched = table[table["way"] == "fast"]["estimator"].iloc[0]
    print(f"{kind}: {len(wide)} tickers, search by {searched}; median ratio {ratio.median():.1f}, of sums {total:.1f}")
    for name in SCORES:
        both = wide[name].astype(float)
        change = (both["fast"] - both["plain"]).dropna()
        error = change.std() / np.sqrt(len(change))
        means = f"plain {both['plain'].mean():7.4f}  fast {both['fast'].mean():7.4f}"
        print(f"  {name:18s} {means}  difference {change.mean():+.4f} (standard error {error:.4f})")


if __name__ == "__main__":
    sides.main(__doc__, {"fit": fit}, race)
