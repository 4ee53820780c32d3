"""All that there is to measure on an accelerator, in one command of under ten minutes.

    python benchmarks/gpu.py --db market.db [--out gpu.json]     # on the card: four tables
    python benchmarks/gpu.py --only bits                         # run it twice: two processes should be equal
    python benchmarks/gpu.py --db market.db --only walk          # about five minutes
    python benchmarks/gpu.py --tiny                              # anywhere, the CPU too: the same steps, small

1. One network at a time: windows per second by batch size, beside PyTorch's `nn.LSTM` where it is installed and keras.
2. Networks side by side: windows per second of 1 to 128 networks in one program, and the memory that it takes.
3. Bits: whether two trainings of the same networks are equal, and a digest to compare with that of another process.
4. A walk-forward in one program beside one fold at a time: a few folds are timed at fixed epochs and scaled up.
5. XGBoost on 600,000 rows: `device="cuda"` beside the CPU, where the ordinary wheel is installed.

Every line is printed as soon as it is measured, so that a run that is cut short has told what it knows.
"""

import argparse
import hashlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # child processes share the device with this one

import numpy as np

from nextbar.types import Silent
from sides import database

LENGTH, COLUMNS, UNITS = 60, 6, (128, 64)
ALONE = {32: 8192, 256: 32768, 1024: 65536, 4096: 131072}  # windows of an epoch by batch size
GOALS = {"windows_per_second_at_32": 150_000, "share_of_fold_by_fold": 0.1}


def sequences(windows: int, seed: int) -> Any:
    """Random rows, each with a window; windows of validation are a tenth of them."""
    from nextbar.datasets.sequences import Sequences

    random = np.random.default_rng(seed)
    rows = random.standard_normal((windows + LENGTH, COLUMNS)).astype(np.float32)
    target = random.standard_normal(len(rows)).astype(np.float32)
    return Sequences(features=rows, target=target, ends=np.arange(LENGTH - 1, LENGTH - 1 + windows), length=LENGTH)


def networks(count: int, windows: int, batch: int, epochs: int) -> list[Any]:
    from nextbar.models.lstm_fitted import LstmSettings
    from nextbar.models.lstm_group import Network

    found = []
    for seed in range(count):
        part = sequences(windows, seed)
        settings = LstmSettings(units=UNITS, batch_size=batch, epochs=epochs, patience=epochs, seed=seed)
        found.append(Network(part, replace(part, ends=part.ends[: max(windows // 10, 1)]), settings))
    return found


def side_by_side(count: int, windows: int, batch: int) -> dict[str, float]:
    """The second epoch of networks in one program; validation, weights and digests of each epoch are part of it."""
    from nextbar.models.lstm_group import program_bytes, train_together

    parts, moments = networks(count, windows, batch, 3), list[float]()
    train_together(parts, width=count, on_epoch=lambda *_: moments.append(time.perf_counter()))
    seconds = min(np.diff(moments))
    return {"windows_per_second": float(count * windows / seconds), "mib": program_bytes(parts, count) / 2**20}


def epoch_alone(windows: int, batch: int) -> float:
    """Windows per second of the training steps of one network."""
    from nextbar.models import lstm, lstm_kernel
    from nextbar.models.lstm_fitted import LstmSettings

    part = sequences(windows, 0)
    fit = lstm_kernel.start(lstm.build_lstm(COLUMNS, LENGTH, LstmSettings(units=UNITS)).get_weights())
    rows, seconds = lstm_kernel.padded(part.features, part.target, None), []
    for _ in range(3):
        begin = time.perf_counter()
        fit, _ = lstm_kernel.run_epoch(fit, rows, part.ends, batch_size=batch, length=LENGTH, learning_rate=1e-3)
        seconds.append(time.perf_counter() - begin)
    return windows / min(seconds[1:])


def epoch_torch(windows: int, batch: int) -> float | None:
    """The same of PyTorch's own layers in a plain loop; None where it is not installed."""
    try:
        import torch
    except ModuleNotFoundError:
        return None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    X, y = torch.rand(windows, LENGTH, COLUMNS, device=device), torch.rand(windows, 1, device=device)
    layers = [torch.nn.LSTM(COLUMNS, 128, batch_first=True), torch.nn.LSTM(128, 64, batch_first=True)]
    one, two, dense = (part.to(device) for part in (*layers, torch.nn.Linear(64, 1)))
    optimizer = torch.optim.Adam([p for part in (one, two, dense) for p in part.parameters()], 1e-3)
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        for ids in torch.randperm(windows, device=device).split(batch):
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(dense(two(one(X[ids])[0])[0][:, -1]), y[ids]).backward()
            optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return windows / min(seconds[1:])


def epoch_keras(windows: int, batch: int) -> float:
    """The same of `keras.fit` on JAX, with the windows copied out before."""
    import keras

    from nextbar.models import lstm
    from nextbar.models.lstm_fitted import LstmSettings

    random = np.random.default_rng(0)
    X = random.standard_normal((windows, LENGTH, COLUMNS)).astype(np.float32)
    y = random.standard_normal(windows).astype(np.float32)
    model = lstm.build_lstm(COLUMNS, LENGTH, LstmSettings(units=UNITS))
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss="mse")
    return windows / min(timed(lambda: model.fit(X, y, batch_size=batch, epochs=1, verbose=0)) for _ in range(3))


def same_bits(count: int, windows: int) -> dict[str, Any]:
    """Whether two trainings give the same weights, and their digest, by which processes are compared."""
    from nextbar.models.lstm_group import train_together

    twice = [train_together(networks(count, windows, 32, 1)).trained for _ in range(2)]
    first, second = ([one.history[-1].weights_sha256 for one in trained] for trained in twice)
    return {"same": first == second, "sha256": hashlib.sha256("".join(first).encode()).hexdigest()[:16]}


class Told(Silent):
    """A progress that prints what a walk-forward says, with the time: where it goes is part of the measurement."""

    def __init__(self) -> None:
        self.began = time.perf_counter()

    def advance(self, _steps: int, note: str = "") -> None:
        """Print what is told, and when."""
        print(f"         {time.perf_counter() - self.began:6.1f} s  {note}", flush=True)


def walk_forwards(db: str, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a whole walk-forward in one program, and of a few folds one at a time, scaled up to all."""
    from nextbar.config import WalkForwardConfig
    from nextbar.workflows.training import Experiment, make_plan
    from nextbar.workflows.universe import load_universe
    from nextbar.workflows.walkforward import walk

    tiny = {"epochs": 1, "sequence_length": 5, "train_years": 1, "val_months": 3, "warmup": 60}
    sizes = tiny if options.tiny else {"epochs": options.epochs}
    config = WalkForwardConfig(model="lstm", db=db, engine="serial", patience=100, **sizes)
    experiment = Experiment.of(config, load_universe(config))
    folds = make_plan(experiment).folds
    grouped = timed(lambda: walk(replace(experiment, accelerated=True), Told()))
    print(f"         all {len(folds)} folds together: {grouped:.1f} s", flush=True)
    some = folds[:: max(len(folds) // options.folds, 1)][: options.folds]
    first, *others = some_folds(replace(experiment, accelerated=False), [fold.number for fold in some])
    whole = first + median(others) * (len(folds) - 1)  # the first one compiles
    return {"folds": len(folds), "timed": len(some), "alone": whole, "grouped": grouped, "share": grouped / whole}


def some_folds(experiment: Any, numbers: list[int]) -> list[float]:
    """Train some folds one at a time in one child, as a worker does; the seconds of each."""
    from nextbar.evaluation.walkforward import run_fold
    from nextbar.workflows.training import make_plan

    tasks, seconds = [task for task in make_plan(experiment).tasks if task.fold in numbers], []
    for outcome in experiment.engine.run(run_fold, tasks, experiment.universe.bars):
        if outcome.result is None:
            sys.exit(f"fold {outcome.task.fold}: {outcome.reason}")
        seconds.append(outcome.seconds)
    return seconds


def boosted(rows: int, trees: int) -> dict[str, float | None]:
    """Seconds of trees on so many rows by device; None where XGBoost was built for the CPU alone."""
    import xgboost as xgb

    random = np.random.default_rng(0)
    X = random.standard_normal((rows, 23)).astype(np.float32)
    y = (X[:, 0] + random.standard_normal(rows) > 0).astype(int)
    found: dict[str, float | None] = {}
    for device in ("cpu", "cuda"):
        if device == "cuda" and not xgb.build_info().get("USE_CUDA"):
            found[device] = None
            continue
        model = xgb.XGBClassifier(n_estimators=trees, max_depth=4, device=device)
        found[device] = timed(lambda model=model: model.fit(X, y))
    return found


def timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--db", help="database for the walk-forward; without it that step is left out")
    parser.add_argument("--only", choices=("walk", "bits"), help="measure this step alone")
    parser.add_argument("--tiny", action="store_true", help="small sizes and bars of its own, to try the command")
    parser.add_argument("--epochs", type=int, default=10, help="of each fold of the walk-forward, fixed")
    parser.add_argument("--folds", type=int, default=6, help="timed one at a time")
    parser.add_argument("--out", type=Path, help="JSON file for what was measured")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/nextbar-bench"))
    options = parser.parse_args()
    if options.only == "walk" and options.db is None:
        parser.error("--only walk needs --db")
    measured = measure(options)
    if options.out is not None:
        options.out.write_text(json.dumps(measured, indent=1))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All steps, each told at once; one that fails is told, and the others go on."""
    from nextbar.models.lstm_group import device_name

    began, found = time.perf_counter(), dict[str, Any]()

    def tell(name: str, work: Callable[[], Any]) -> None:
        try:
            found[name] = work()
        except Exception as error:
            traceback.print_exc()
            found[name] = f"failed: {error}"
        print(f"{time.perf_counter() - began:6.0f} s  {name}: {found[name]}", flush=True)

    tell("device", device_name)
    windows = 64 if options.tiny else 8192
    if options.only:
        bits = partial(same_bits, 2 if options.tiny else 32, windows)
        tell(options.only, bits if options.only == "bits" else partial(walk_forwards, options.db, options))
        return found
    for batch, windows in ({32: 64} if options.tiny else ALONE).items():
        for name, epoch in {"ours": epoch_alone, "torch": epoch_torch, "keras": epoch_keras}.items():
            tell(f"one network, batch {batch}, {name}", partial(epoch, windows, batch))
    for batch, counts in {32: (1, 2)}.items() if options.tiny else {32: (1, 8, 32, 128), 256: (1, 8, 32)}.items():
        for count in counts:
            tell(f"{count} networks together, batch {batch}", partial(side_by_side, count, windows, batch))
    tell("bits", partial(same_bits, 2 if options.tiny else 32, windows))
    if options.tiny:
        options.folder.mkdir(parents=True, exist_ok=True)
        options.db, options.folds = str(database(options.folder, 2, 700)), 2
    if options.db:
        tell("walk-forward, seconds", partial(walk_forwards, options.db, options))
    tell("xgboost, seconds", partial(boosted, *(2_000, 5) if options.tiny else (600_000, 200)))
    print("goals:", GOALS)
    return found


if __name__ == "__main__":
    main()
