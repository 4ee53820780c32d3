"""Train the same runs by other Pythons and engines, and say which stages have the same bits.

    python proofs/same_bits.py --python "3.13=PYTHON" --libraries "3.13, xgboost 3.2.0=PYTHON"

PYTHON is the interpreter of another virtual environment with nextbar; the one that runs this script is the first. By it
and by each after --python the runs are trained serially, by loky and by Dask; by each after --libraries serially, which
shows what a library changes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

ENGINES = ("serial", "loky", "dask")
Digests = dict[str, dict[str, str]]
"""Run → stage → digest of that stage in all fits."""


def walk(seed: int, count: int = 1000) -> pd.DataFrame:
    """Return bars of a random walk made of whole cents, so that no library has a say in them."""
    steps = np.random.default_rng(seed).integers(-250, 252, count)
    close = np.maximum(20_000 + np.cumsum(steps), 1_000) / 100.0
    opened = np.concatenate([close[:1], close[:-1]])
    high, low = np.maximum(opened, close) + 0.25, np.minimum(opened, close) - 0.25
    columns = {"Open": opened, "High": high, "Low": low, "Close": close, "Adj Close": close, "Volume": 1000.0 + steps}
    return pd.DataFrame(columns, index=pd.bdate_range("2015-01-01", periods=count, name="Date", unit="s"))


def digests(engine: str) -> dict[str, Any]:
    """Train the runs, and give the digests of their stages with the versions of libraries."""
    import nextbar as nb

    bars = {f"T{seed}": walk(seed) for seed in range(2)}
    one = {"T0": bars["T0"]}
    runs = {
        "XGBoost with a search": nb.train(one, nb.XGBoost(n_iter=3), engine=engine),
        "Random Forest": nb.train(bars, nb.RandomForest(no_tune=True), engine=engine),
        "LSTM, two epochs": nb.train(bars, nb.LSTM(epochs=2), engine=engine),
        "XGBoost walk-forward": nb.walk_forward(
            bars,
            nb.XGBoost(no_tune=True),
            windows=nb.Windows(train_years=2, val_months=6, test_months=6),
            engine=engine,
        ),
    }
    found: Digests = {}
    for name, run in runs.items():
        fits = [fit for _, fit in run.document.fits]
        found[name] = {stage: " ".join(fit.digests[stage] for fit in fits) for stage in fits[0].digests}
    environment = run.document.environment
    return {"digests": found, "python": environment.python, "versions": environment.versions}


def ask(python: str, engine: str) -> dict[str, Any]:
    """Train the runs in another process."""
    command = [python, "-W", "ignore", __file__, "--side", engine]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def table(sides: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a row a stage of a run, a column a side: whether it has the bits of the first side."""
    first, *others = sides
    rows = [["run", "stage", *others], ["---"] * (len(others) + 2)]
    for run, stages in sides[first]["digests"].items():
        for stage, digest in stages.items():
            same = [sides[name]["digests"][run].get(stage) == digest for name in others]
            rows.append([run, stage, *("same" if one else "**differs**" for one in same)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    """Compare, or train one side."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--python", action="append", default=[], help="LABEL=PYTHON")
    parser.add_argument("--libraries", action="append", default=[], help="LABEL=PYTHON")
    parser.add_argument("--side", help="used by the script itself")
    options = parser.parse_args()
    if options.side:
        print(json.dumps(digests(options.side)))
        return
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    sides = {f"{own}, {engine}": ask(sys.executable, engine) for engine in ENGINES}
    for label, python in (one.rsplit("=", 1) for one in options.python):
        sides |= {f"{label}, {engine}": ask(python, engine) for engine in ENGINES}
    sides |= {label: ask(python, ENGINES[0]) for label, python in (one.rsplit("=", 1) for one in options.libraries)}
    print(f"compared with {own}, {ENGINES[0]}:\n\n{table(sides)}\n\nversions:")
    base = next(iter(sides.values()))["versions"]
    for name, side in sides.items():
        other = {key: value for key, value in side["versions"].items() if value != base.get(key)}
        print(
            f"- {name}: Python {side['python']}; " + (", ".join(f"{k} {v}" for k, v in other.items()) or "as the first")
        )
    print("- first: " + ", ".join(f"{key} {value}" for key, value in base.items()))


if __name__ == "__main__":
    main()
