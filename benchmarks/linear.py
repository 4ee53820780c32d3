"""Does cost grow linearly? The three models, with ``--fast``, on more and more tickers: clock and processor seconds.

    python benchmarks/linear.py [--case 50,200,505] [--quick]

The LSTM's epochs are few here (two); its rows say seconds per epoch, early stopping decides how many a run takes.
"""

import json
import os
import subprocess
import sys
import tempfile
from argparse import Namespace
from pathlib import Path

import sides

EPOCHS = 2
KINDS = {"xgb": ["--fast"], "rf": ["--fast"], "lstm": ["--epochs", str(EPOCHS), "--patience", str(EPOCHS)]}


def train(options: Namespace) -> sides.Measured:
    """`nextbar train` of one kind on all tickers of a database."""
    kind, database = options.case.split("|")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "nextbar", "train", kind, *KINDS[kind], "--db", database, "--json"]
        command += ["--save_dir", folder, "--ledger", f"{folder}/ledger.db"]
        done: list[subprocess.CompletedProcess[str]] = []
        took = sides.timed(lambda: done.append(subprocess.run(command, check=True, capture_output=True, text=True)))
        artifacts = sum(path.stat().st_size for path in Path(folder).iterdir())
    return took | {"runs": len(json.loads(done[0].stdout)["runs"]), "bytes": artifacts}


def race(options: Namespace) -> None:
    sizes = [int(size) for size in (options.case or ("4,8" if options.quick else "50,200,505")).split(",")]
    print("tickers  model  seconds  of processors  per ticker  artifacts  load")
    for size in sizes:
        database = sides.database(options.folder, size, 500 if options.quick else 1259)
        for kind in KINDS:
            one = sides.child("train", options, case=f"{kind}|{database}")
            each = one["busy"] / size / (EPOCHS if kind == "lstm" else 1)
            print(
                f"{size:7d}  {kind:5s} {one['seconds']:8.1f} {one['busy']:14.1f}  {each:10.2f}  "
                f"{one['bytes'] / 2**20:5.0f} MiB  {os.getloadavg()[0]:4.1f}",
                flush=True,
            )


if __name__ == "__main__":
    sides.main(__doc__, {"train": train}, race)
