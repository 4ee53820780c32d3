"""Does cost grow linearly? `nextbar walkforward --model all --fast`, one command, on more and more tickers.

    python benchmarks/linear.py [--case 50,200,505] [--quick]

Five years of bars make one fold. The LSTM has one epoch here, so its rows say seconds per epoch: early stopping
decides how many a run takes. A model's seconds are those of its tasks, all processes together, without the start.
`--quick` runs XGBoost alone.
"""

import json
import os
import subprocess
import sys
import tempfile
from argparse import Namespace
from pathlib import Path

import sides

WORDS = ["--fast", "--epochs", "1", "--no-report"]


def walk(options: Namespace) -> sides.Measured:
    """The three models on all tickers of a database; what each took."""
    database, _, which = options.case.partition("|")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-P", "-m", "nextbar", "walkforward", *WORDS, *which.split(), "--db", database]
        command += ["--output-dir", folder, "--ledger", f"{folder}/ledger.db"]
        took = sides.timed(lambda: subprocess.run(command, check=True, capture_output=True))
        models = [json.loads(path.read_text()) for path in sorted(Path(folder).glob("walkforward_*.json"))]
    return took | {"models": {one["model"]: one["seconds"] for one in models}}


def race(options: Namespace) -> None:
    sizes = [int(size) for size in (options.case or ("4,8" if options.quick else "50,200,505")).split(",")]
    print("tickers  model   wall s   in tasks  per ticker")
    for size in sizes:
        database = sides.database(options.folder, size, 800 if options.quick else 1259)
        which = "--model xgb --train-years 1 --val-months 3" if options.quick else "--model all"
        one = sides.child("walk", options, case=f"{database}|{which}")
        for kind, took in one["models"].items():
            print(f"{size:7d}  {kind:5s} {took['wall']:8.1f} {took['tasks']:10.1f}  {took['tasks'] / size:10.2f}")
        print(
            f"{size:7d}  all   {one['seconds']:8.1f}  peak {one['mib']:.0f} MiB, load {os.getloadavg()[0]:.1f}",
            flush=True,
        )


if __name__ == "__main__":
    sides.main(__doc__, {"walk": walk}, race)
