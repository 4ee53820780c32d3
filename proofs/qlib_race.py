"""Do the same work by nextbar and by Qlib on the same bars, in turn: seconds, memory, and whether two runs agree.

    python proofs/qlib_race.py BARS --peer PYTHON

BARS is a Parquet file with `ticker date open high low close adj_close volume`. PYTHON is the interpreter of a virtual
environment with pyqlib, xgboost-cpu and torch. Each stage of each side is a process of its own, run twice, in turn:

- ``data``: the stored bars of all tickers become six features, labels and three splits;
- ``xgb``: the same, then 300 rounds of XGBoost of the same parameters on all tickers, and predictions of test;
- ``folds``: folds of a rolling training, each 300 rounds and the predictions of its test days, seconds a fold;
- ``xgb_each`` and ``folds_each``: nextbar fits a model a ticker, Qlib one on all tickers as before;
- ``lstm``: an epoch of batches of 256 windows of 60 days, and predictions of test.

nextbar also makes thresholds, figures and baselines.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd

HERE = Path(__file__).parent
STAGES = ("data", "xgb", "folds", "xgb_each", "folds_each", "lstm")
PARAMS = {"learning_rate": 0.05, "max_depth": 3, "min_child_weight": 5, "subsample": 0.8, "colsample_bytree": 0.8}
COLUMNS = ("seconds", "processor", "peak", "rows", "two runs")
"""Of each side: seconds, processor seconds of all its processes, peak memory of the largest, rows, agreement."""
ROLLING = slice("2013-01-01", "2019-12-31")
"""Days that the folds are laid in."""
Measured = dict[str, Any]


def windows() -> Any:
    """Windows of the rolling training."""
    import nextbar as nb

    return nb.Windows(train_years=3, val_months=12, test_months=3)


def rolling_bars(bars: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Return the bars that the folds are laid in."""
    return {name: frame.loc[ROLLING] for name, frame in bars.items() if len(frame.loc[ROLLING])}


def boosted(*, pooled: bool) -> Any:
    """Return 300 rounds of XGBoost, none left out by an early stop."""
    import xgboost

    import nextbar as nb

    trees = xgboost.XGBClassifier(n_estimators=300, n_jobs=1, random_state=0, **PARAMS)
    return nb.Estimator(trees, no_tune=True, pooled=pooled)


def rows_of(run: Any) -> tuple[bytes, int]:
    """Return what a run predicted as bytes, and on how many days."""
    return pd.util.hash_pandas_object(run.rows, index=False).to_numpy().tobytes(), len(run.rows)


def ours(stage: str, folder: Path) -> tuple[bytes, int, int]:
    """Do a stage: what it gives, how many rows, and by how much its seconds are divided."""
    import nextbar as nb

    bars = nb.read_bars(str(folder / "market.db"))
    if stage == "data":
        processor = nb.StockDataProcessor()
        made = [processor.prepare_for_classification_splits(frame, ticker=name) for name, frame in bars.items()]
        parts = [part for one in made for part in (one.train, one.val, one.test)]
        return b"".join(part.X.tobytes() + part.y.tobytes() for part in parts), sum(len(part.y) for part in parts), 1
    model = boosted(pooled=not stage.endswith("_each"))
    if stage.startswith("xgb"):
        return *rows_of(nb.train(bars, model, split=nb.Split(by="date"))), 1
    if stage.startswith("folds"):
        run = nb.walk_forward(rolling_bars(bars), model, windows=windows())
        return *rows_of(run), len(run.document.folds)
    run = nb.train(bars, nb.LSTM(epochs=1, batch_size=256), split=nb.Split(by="date"))
    return *rows_of(run), 1


def segments(first: str, val: str, test: str, last: str) -> dict[str, list[str]]:
    """Return the days of train, validation and test as Qlib takes them: first and last, both inside."""
    before = [str((pd.Timestamp(day) - pd.Timedelta(days=1)).date()) for day in (val, test)]
    return {"train": [first, before[0]], "valid": [val, before[1]], "test": [test, last]}


def prepare(source: Path, folder: Path) -> None:
    """Store the bars for both, and write down on which days nextbar splits them."""
    import nextbar as nb

    command = [
        sys.executable,
        "-P",
        "-m",
        "nextbar",
        "ingest",
        "parquet",
        str(source),
        "--db",
        str(folder / "market.db"),
    ]
    subprocess.run(command, check=True, capture_output=True)
    bars, model = nb.read_bars(str(folder / "market.db")), nb.XGBoost(no_tune=True)
    fit = nb.train(bars, model, split=nb.Split(by="date")).document.fits[0][1].splits
    one = next(iter(fit.values()))
    folds = nb.walk_forward(rolling_bars(bars), model, windows=windows()).document.folds
    days = {
        "split": segments(one.train.first, one.val.first, one.test.first, one.test.last),
        "folds": [segments(fold.train_start, fold.val_start, fold.test_start, fold.test_end) for fold in folds],
        "params": {**PARAMS, "objective": "binary:logistic", "seed": 0},
    }
    (folder / "days.json").write_text(json.dumps(days))
    for_qlib(pd.read_parquet(source), folder / "qlib")


def for_qlib(bars: pd.DataFrame, folder: Path) -> None:
    """Write adjusted closes in Qlib's format: a calendar, the instruments, and a file of float32 for each of them."""
    bars = bars.assign(date=pd.to_datetime(bars["date"])).sort_values(["ticker", "date"])
    days = pd.DatetimeIndex(sorted(bars["date"].unique()))
    for name in ("calendars", "instruments"):
        (folder / name).mkdir(parents=True)
    (folder / "calendars" / "day.txt").write_text("\n".join(days.strftime("%Y-%m-%d")) + "\n")
    lines = []
    for ticker, own in bars.groupby("ticker"):
        close = own.set_index("date")["adj_close"]
        start, stop = days.get_indexer([close.index[0], close.index[-1]])
        values = np.concatenate([[start], close.reindex(days[start : stop + 1]).to_numpy()])
        home = folder / "features" / str(ticker).lower()
        home.mkdir(parents=True)
        (home / "close.day.bin").write_bytes(values.astype("<f4").tobytes())
        lines.append(f"{ticker}\t{close.index[0].date()}\t{close.index[-1].date()}")
    (folder / "instruments" / "all.txt").write_text("\n".join(lines) + "\n")


def child(command: list[str]) -> Measured:
    """Run a side once: what it printed, processor seconds of the whole, and the peak memory of its largest process."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=HERE) as process:
        answer, errors = process.stdout.read(), process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed\n{errors[-3000:]}")
    busy = usage.ru_utime + usage.ru_stime
    return json.loads(answer.splitlines()[-1]) | {"mib": usage.ru_maxrss / 1024, "busy": busy}


def line(stage: str, sides: dict[str, list[Measured]]) -> str:
    """Return a row of the table."""
    cells = []
    for runs in sides.values():
        same = "same bits" if len({run["result"] for run in runs}) == 1 else "**other bits**"
        seconds, busy, mib = (median(run[name] for run in runs) for name in ("seconds", "busy", "mib"))
        cells += [f"{seconds:.2f} s", f"{busy:.1f} s", f"{mib:.0f} MiB", f"{runs[0]['rows']:,}", same]
    both = list(zip(*sides.values(), strict=True))
    ratios = [median(other[name] / own[name] for own, other in both) for name in ("seconds", "busy")]
    return f"| {stage} | " + " | ".join([*cells, *(f"{ratio:.1f} ×" for ratio in ratios)]) + " |"


def main() -> None:
    """Run the race, or a stage of our side."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bars", type=Path)
    parser.add_argument("--peer", help="Python that has pyqlib")
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--side", help="used by the script itself")
    options = parser.parse_args()
    if options.side:
        begin = perf_counter()
        content, rows, parts = ours(options.side, options.bars)
        digest = hashlib.sha256(content).hexdigest()
        print(json.dumps({"seconds": (perf_counter() - begin) / parts, "rows": rows, "result": digest}))
        return
    with TemporaryDirectory() as name:
        folder = Path(name)
        prepare(options.bars.resolve(), folder)
        heads = [f"{side}, {name}" for side in ("nextbar", "Qlib") for name in COLUMNS]
        heads += [f"Qlib / nextbar, {name}" for name in COLUMNS[:2]]
        print(f"| | {' | '.join(heads)} |\n" + "|---" * (len(heads) + 1) + "|", flush=True)
        for stage in options.stages.split(","):
            sides: dict[str, list[Measured]] = {"nextbar": [], "qlib": []}
            for _ in range(options.rounds):
                own = [sys.executable, "-W", "ignore", str(HERE / "qlib_race.py"), str(folder), "--side", stage]
                sides["nextbar"].append(child(own))
                peer = [
                    options.peer,
                    "-W",
                    "ignore",
                    str(HERE / "qlib_side.py"),
                    stage.removesuffix("_each"),
                    str(folder),
                ]
                sides["qlib"].append(child(peer))
            print(line(stage, sides), flush=True)


if __name__ == "__main__":
    main()
