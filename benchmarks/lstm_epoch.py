"""An epoch of the LSTM side by side: keras.fit on JAX, ours, and whatever peers an interpreter holds.

    python benchmarks/lstm_epoch.py [--windows 2048] [--rounds 5] [--peer-python PATH]...

Contestants take turns, round by round, in one run on one machine; the median of each round's ratio is what counts. A
turn is two epochs, of which the second counts, as in a training that lasts. An interpreter that imports TensorFlow or
PyTorch adds keras.fit on TensorFlow or a plain ``nn.LSTM`` loop, in a process of its own that answers one line per
epoch asked for. Last, as the folds of a walk-forward run: one process a core, each of one thread, all at once.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, median

LENGTH, COLUMNS, UNITS = 60, 6, (128, 64)


def flops_per_window() -> float:
    """Products of a forward pass, times three for a training step (the gradients at inputs and at weights)."""
    widths = (COLUMNS, *UNITS)
    return 3 * LENGTH * sum(2 * 4 * out * (into + out) for into, out in zip(widths, UNITS, strict=False))


TENSORFLOW = """
import os, sys, time
os.environ["KERAS_BACKEND"] = "tensorflow"; os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np, keras, tensorflow
windows, batch = map(int, sys.argv[1:3])
X, y = np.random.rand(windows, 60, 6).astype("float32"), np.random.rand(windows, 1).astype("float32")
L = keras.layers
model = keras.Sequential([keras.Input((60, 6)), L.LSTM(128, return_sequences=True), L.LSTM(64), L.Dense(1)])
model.compile(optimizer="adam", loss="mse")
def epoch():
    model.fit(X, y, batch_size=batch, verbose=0)
"""

TORCH = """
import sys, time, torch
windows, batch = map(int, sys.argv[1:3])
X, y = torch.rand(windows, 60, 6), torch.rand(windows, 1)
one, two = torch.nn.LSTM(6, 128, batch_first=True), torch.nn.LSTM(128, 64, batch_first=True)
dense = torch.nn.Linear(64, 1)
optimizer = torch.optim.Adam([p for part in (one, two, dense) for p in part.parameters()], 1e-3)
def epoch():
    for ids in torch.randperm(windows).split(batch):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(dense(two(one(X[ids])[0])[0][:, -1]), y[ids]).backward()
        optimizer.step()
"""

FOLD = """
import sys, time
sys.path.insert(0, {folder!r})
from lstm_epoch import keras_and_ours
epoch = keras_and_ours(*map(int, sys.argv[1:3]))[0].epoch
"""

ANSWER = """
epoch(); print("ready", flush=True)
for _ in sys.stdin:
    begin = time.perf_counter(); epoch(); print(time.perf_counter() - begin, flush=True)
"""

PEERS = {"keras.fit TensorFlow": ("tensorflow", TENSORFLOW), "PyTorch nn.LSTM": ("torch", TORCH)}


@dataclass(frozen=True)
class Contestant:
    """Somebody whose epoch can be timed: ``epoch`` returns the seconds of one."""

    name: str
    epoch: Callable[[], float]


def timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def peers(python: str, windows: int, batch: int) -> list[Contestant]:
    """The peers that the interpreter can import, each in a running process."""
    found = []
    for name, (module, program) in PEERS.items():
        if subprocess.run([python, "-P", "-c", f"import {module}"], capture_output=True, check=False).returncode == 0:
            process = start(python, program, windows, batch)
            found.append(Contestant(name, partial(ask, process)))
            process.stdout.readline()
    return found


def start(python: str, program: str, windows: int, batch: int, **env: str) -> subprocess.Popen[str]:
    command = [python, "-P", "-c", program + ANSWER, str(windows), str(batch)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **env}
    )


def ask(*processes: subprocess.Popen[str]) -> float:
    """Have all of them run an epoch at once; the mean of their seconds."""
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    return mean(float(process.stdout.readline()) for process in processes)


def keras_and_ours(windows: int, batch: int) -> list[Contestant]:
    """Both train the same network on the same random windows; keras gets them copied out before the clock starts."""
    import numpy as np

    from nextbar.models import lstm, lstm_kernel

    generator = np.random.default_rng(0)
    rows = generator.standard_normal((windows + LENGTH, COLUMNS)).astype(np.float32)
    target = generator.standard_normal(len(rows)).astype(np.float32)
    ends = np.arange(LENGTH - 1, LENGTH - 1 + windows)
    copied = np.stack([rows[end - LENGTH + 1 : end + 1] for end in ends])
    settings = lstm.LstmSettings(units=UNITS, batch_size=batch)
    model = lstm.build_lstm(COLUMNS, LENGTH, settings)
    fit = lstm_kernel.start(model.get_weights())
    where = lstm_kernel.Rows(lstm_kernel.pad_rows(rows), lstm_kernel.pad_rows(target))

    def ours() -> None:
        nonlocal fit
        order = generator.permutation(ends)
        fit, _ = lstm_kernel.run_epoch(
            fit, where, order, batch_size=batch, length=LENGTH, learning_rate=settings.learning_rate
        )

    theirs = partial(model.fit, copied, target[ends], batch_size=batch, verbose=0)
    return [Contestant("nextbar", partial(timed, ours)), Contestant("keras.fit JAX", partial(timed, theirs))]


def matmul_peak() -> Callable[[], float]:
    """A function that measures GFLOP/s of one large float32 product with numpy's BLAS, on all cores."""
    import numpy as np

    size = 2048
    matrix = np.ones((size, size), np.float32)
    return lambda: 2 * size**3 / min(timed(lambda: matrix @ matrix) for _ in range(3)) / 1e9


def race(windows: int, batch: int, rounds: int, pythons: list[str]) -> None:
    contestants = keras_and_ours(windows, batch)
    for python in pythons:
        contestants += peers(python, windows, batch)
    first = {one.name: one.epoch() for one in contestants}
    measure_peak = matmul_peak()
    seconds: dict[str, list[float]] = {one.name: [] for one in contestants}
    peaks = []
    for _ in range(rounds):
        for one in contestants:
            one.epoch()  # while threads and caches still belong to whoever was last
            seconds[one.name].append(one.epoch())
        peaks.append(measure_peak())
    print(f"batch {batch}, {windows} windows, {rounds} rounds, product of large matrices {median(peaks):.0f} GFLOP/s")
    for name, taken in seconds.items():
        rate = windows * flops_per_window() / median(taken) / 1e9
        ratio = median(one / ours for one, ours in zip(taken, seconds["nextbar"], strict=True))
        share = rate / median(peaks)
        print(f"  {name:22s} {rate:6.1f} GFLOP/s  {share:4.0%} of peak  nextbar is {ratio:4.2f} times as fast", end="")
        print(f"  (first epoch {first[name]:.1f} s)")


def race_folds(windows: int, batch: int, rounds: int) -> None:
    """A process a core, pinned as a worker is."""
    from nextbar.execution.worker import thread_env

    count = len(os.sched_getaffinity(0))
    program = FOLD.format(folder=str(Path(__file__).parent))
    processes = [start(sys.executable, program, windows, batch, **thread_env(1)) for _ in range(count)]
    for process in processes:
        process.stdout.readline()
    measure_peak = matmul_peak()
    seconds, peaks = zip(*((ask(*processes), measure_peak()) for _ in range(rounds)), strict=True)
    rate, peak = count * windows * flops_per_window() / median(seconds) / 1e9, median(peaks)
    print(f"batch {batch}, {count} folds at once, one a core: {rate:.1f} GFLOP/s, {rate / peak:.0%} of {peak:.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, action="append", help="default: 32 and 256")
    parser.add_argument("--peer-python", action="append", default=[], help="interpreter with TensorFlow or PyTorch")
    options = parser.parse_args()
    for batch in options.batch or [32, 256]:
        race(options.windows, batch, options.rounds, options.peer_python)
    race_folds(options.windows, 32, options.rounds)


if __name__ == "__main__":
    os.environ.setdefault("KERAS_BACKEND", "jax")
    sys.exit(main())
