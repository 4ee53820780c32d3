"""Peak memory of the LSTM's data: windows gathered by index, against windows copied out; and over many folds."""

import os
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np

import sides

LENGTH = 60


def _sets(options: Namespace):
    from nextbar.config import TrainConfig
    from nextbar.datasets.processor import StockDataProcessor
    from nextbar.datasets.sequences import make_sequences
    from nextbar.datasets.splits import fraction_border

    tickers, days = map(int, options.case.split("x"))
    processor = StockDataProcessor(TrainConfig(model="lstm"))
    border = fraction_border(np.arange(days) >= 200, train_split=0.8, val_split=0.1)
    frames = ((f"T{seed:04d}", sides.walk(days, seed)) for seed in range(tickers))
    panel = [processor.prepare_for_classification_splits(frame, ticker=name, border=border) for name, frame in frames]
    return make_sequences(panel, length=LENGTH, scaler_fit="train")


def gathered(options: Namespace) -> sides.Measured:
    """All rows on the device, a few batches of training, and predictions of some windows."""
    from nextbar.models.lstm import LstmSettings, train_lstm

    def work() -> None:
        sets = _sets(options)
        train, val = (replace(part, ends=part.ends[:1024]) for part in (sets.train, sets.val))
        train_lstm(train, val, LstmSettings(epochs=1, batch_size=256))

    return sides.timed(work)


def copied(options: Namespace) -> sides.Measured:
    """The same training windows as one float32 array; nothing is trained on them."""

    def work() -> None:
        train = _sets(options).train
        windows = np.stack([train.features[end - LENGTH + 1 : end + 1] for end in train.ends])
        windows.sum()

    return sides.timed(work)


def folds(options: Namespace) -> sides.Measured:
    """Twenty LSTM folds in one process; its resident memory after the fourth and after the last."""
    from nextbar.config import TrainConfig
    from nextbar.datasets.samples import Bars
    from nextbar.evaluation.walkforward import FoldTask, run_fold
    from nextbar.models.registry import model_of
    from nextbar.types import Border

    bars = {f"T{seed}": Bars(frame=sides.walk(3000, seed), dropped=0, adjustment="raw") for seed in range(4)}
    config = TrainConfig(model="lstm", epochs=1)
    resident = []
    for fold in range(20):
        border = Border(train=200 + 60 * fold, val=900 + 61 * fold, test=1100 + 61 * fold, end=1160 + 61 * fold)
        task = FoldTask(
            name="all", config=config, model=model_of("lstm", config), fold=fold, borders=dict.fromkeys(bars, border)
        )
        run_fold(task, bars, lambda _line: None)
        resident.append(_resident())
    return {"seconds": 0.0, "fourth": resident[3], "last": resident[-1]}


def _resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def race(options: Namespace) -> None:
    cases = ("50x1259", "100x2400") if options.quick else ("505x1259", "1000x2400")
    for case in cases:
        for side in ("gathered", "copied"):
            one = sides.child(side, options, case=case)
            print(f"  LSTM data, tickers x bars {case}, {side}: peak {one['mib']:.0f} MiB", flush=True)
    if not options.quick:
        one = sides.child("folds", options)
        print(f"  20 folds in one process: {one['fourth']:.0f} MiB after the fourth, {one['last']:.0f} after the last")


SIDES = {"gathered": gathered, "copied": copied, "folds": folds}

if __name__ == "__main__":
    sides.main(__doc__, SIDES, race)
