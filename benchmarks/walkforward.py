"""What a walk-forward of many small fits costs beside the fits: wall x cores / sum of task seconds."""

import json
import os
import subprocess
import sys
import tempfile
from argparse import Namespace
from pathlib import Path

import sides


def run(options: Namespace) -> sides.Measured:
    """`nextbar walkforward --model xgb --tune none`."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-P",
            "-m",
            "nextbar",
            "walkforward",
            "--model",
            "xgb",
            "--tune",
            "none",
            "--no-report",
        ]
        command += ["--db", options.case, "--output-dir", folder, "--ledger", f"{folder}/ledger.db"]
        subprocess.run(command, check=True, capture_output=True)
        (result,) = Path(folder).glob("walkforward_*.json")
        document = json.loads(result.read_text())
    tasks = sum(len(fold["tasks"]) for fold in document["folds"])
    return {"seconds": document["seconds"]["wall"], "tasks": document["seconds"]["tasks"], "fits": tasks}


def race(options: Namespace) -> None:
    os.environ.pop(sides.REAL, None)
    tickers, years = (options.tickers or 4, 7) if options.quick else (options.tickers or 40, 21)
    database = options.case or sides.database(options.folder, tickers, 252 * years)
    cores = len(os.sched_getaffinity(0))
    for _ in range(1 if options.quick else options.rounds):
        one = child(options, database)
        print(
            f"walk-forward xgb, {tickers} tickers, {years} years: {one['fits']:.0f} fits in {one['seconds']:.1f} s; "
            f"wall x cores / sum of tasks {one['seconds'] * cores / one['tasks']:.2f}; peak {one['mib']:.0f} MiB; "
            f"load {os.getloadavg()[0]:.1f}"
        )


def child(options: Namespace, database: object) -> sides.Measured:
    return sides.child("run", options, case=database)


if __name__ == "__main__":
    sides.main(__doc__, {"run": run}, race)
