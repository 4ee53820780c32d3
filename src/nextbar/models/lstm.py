"""Train the global LSTM: keras builds and saves it, `lstm_kernel` runs its epochs on JAX.

This is the only module that imports keras. Whatever keras's backend, epochs and predictions run on JAX, on the weights
alone; the saved file is an ordinary keras model.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nextbar.datasets.sequences import Sequences
from nextbar.errors import BadBarsError, NothingToTrainError
from nextbar.models.lstm_fitted import EpochRecord, LstmSettings, TrainedLstm
from nextbar.models.lstm_kernel import padded, predict_windows, run_epoch, start
from nextbar.models.reproducibility import digest_arrays
from nextbar.types import Float32Array, IntArray

os.environ.setdefault("KERAS_BACKEND", "jax")  # read when keras is imported; what the user has set stays

import jax
import keras

OnEpoch = Callable[[int, float, float], None]
"""Receives after each epoch its number from 0, the loss and the validation loss."""


def build_lstm(columns: int, length: int, settings: LstmSettings) -> Any:
    """Return a compiled keras model for windows [length, columns], its weights drawn from the seed."""
    window = keras.Input((length, columns), name="window")
    model = keras.Sequential([window, *_layers(settings)], name="nextbar_lstm")
    return _compiled(model, settings)


def first_weights(columns: int, length: int, settings: LstmSettings) -> list[Float32Array]:
    """Draw the weights that training starts from, those of `build_lstm`.

    They are drawn on the CPU: the many small programs cost an accelerator seconds, and its numbers are others.
    """
    try:
        place: AbstractContextManager[Any] = jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # JAX_PLATFORMS leaves it out
        place = nullcontext()
    with place:
        model = keras.Sequential([keras.Input((length, columns)), *_layers(settings)])
        weights: list[Float32Array] = model.get_weights()
        return weights


def _layers(settings: LstmSettings, suffix: str = "") -> list[Any]:
    seeds = iter(np.random.SeedSequence(settings.seed).generate_state(2 * len(settings.units) + 1).tolist())
    layers = [
        keras.layers.LSTM(
            units,
            return_sequences=number < len(settings.units),
            kernel_initializer=keras.initializers.GlorotUniform(next(seeds)),
            recurrent_initializer=keras.initializers.Orthogonal(seed=next(seeds)),
            name=f"lstm_{number}{suffix}",
        )
        for number, units in enumerate(settings.units, start=1)
    ]
    start = keras.initializers.GlorotUniform(next(seeds))
    return [*layers, keras.layers.Dense(1, kernel_initializer=start, name=f"next_close{suffix}")]


def _compiled(model: Any, settings: LstmSettings) -> Any:
    model.compile(optimizer=keras.optimizers.Adam(settings.learning_rate), loss="mse")
    model.optimizer.build(model.trainable_variables)  # else load_model warns that the file lacks the optimizer's state
    return model


def keras_bytes(networks: Sequence[Sequence[Float32Array]], length: int) -> bytes:
    """Return the content of a ``.keras`` file that plain ``keras.models.load_model`` opens.

    Several networks become one model, whose output is their mean.
    """
    first = networks[0]
    settings = LstmSettings(units=tuple(recurrent.shape[0] for recurrent in first[1:-2:3]))
    build = build_lstm if len(networks) == 1 else partial(_build_mean, len(networks))
    model = build(first[0].shape[0], length, settings)
    model.set_weights([array for weights in networks for array in weights])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        return path.read_bytes()


def _build_mean(count: int, columns: int, length: int, settings: LstmSettings) -> Any:
    """Return a keras model of so many networks side by side, whose output is their mean."""
    window = keras.Input((length, columns), name="window")
    stacks = {f"network_{number}": _layers(settings, f"_{number}") for number in range(1, count + 1)}
    outputs = [keras.Sequential(layers, name=name)(window) for name, layers in stacks.items()]
    mean = keras.layers.Average(name="mean")(outputs)
    return _compiled(keras.Model(window, mean, name="nextbar_lstm"), settings)


def epoch_orders(ends: IntArray, seed: int) -> Callable[[], IntArray]:
    """Return a function that gives the training windows in a new order at each call; the seed decides all of them."""
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    return lambda: generator.permutation(ends)


def train_lstm(
    train: Sequences,
    val: Sequences | None,
    settings: LstmSettings,
    *,
    on_epoch: OnEpoch = lambda _epoch, _loss, _val_loss: None,
) -> TrainedLstm:
    """Train on shuffled training windows, stop on the validation loss, keep the best weights.

    Without validation all epochs are trained and the last weights are kept.
    """
    check_windows(train, val)
    course, next_order = Course(None if val is None else settings.patience), epoch_orders(train.ends, settings.seed)
    fit = start(first_weights(train.features.shape[1], train.length, settings))
    rows = padded(train.features, train.target, train.view)
    size, rate = settings.batch_size, settings.learning_rate
    for epoch in range(settings.epochs):
        fit, loss = run_epoch(fit, rows, next_order(), batch_size=size, length=train.length, learning_rate=rate)
        weights = [np.array(array) for array in fit.weights]  # copies, because the next epoch reuses the buffers
        val_loss = math.nan if val is None else _loss(weights, val)
        course.add(weights, loss, val_loss)
        on_epoch(epoch, loss, val_loss)
        if course.stopped:
            break
    return course.trained()


class Course:
    """Epochs of one training: keeps the best weights, and says when to stop.

    Args:
        patience: Epochs without a better validation loss after which training stops; None: nothing stops it, and the
            last epoch counts as the best.
    """

    def __init__(self, patience: int | None) -> None:
        self._patience, self._history = None if patience is None else max(patience, 1), list[EpochRecord]()
        self._best: Sequence[Float32Array] = ()
        self._best_epoch, self._lowest = 0, np.float32(np.nan)

    def add(self, weights: Sequence[Float32Array], loss: float, val_loss: float) -> None:
        """Take the weights after an epoch and its losses."""
        now = np.float32(val_loss)  # the precision in which keras compares
        if self._patience is None or not self._history or now < self._lowest:
            self._best, self._best_epoch, self._lowest = weights, len(self._history), now
        self._history.append(EpochRecord(loss=loss, val_loss=val_loss, weights_sha256=digest_arrays(weights)))

    @property
    def stopped(self) -> bool:
        """Whether the last epochs have brought nothing."""
        return self._patience is not None and len(self._history) - 1 - self._best_epoch >= self._patience

    def trained(self) -> TrainedLstm:
        """Return the best weights and the history."""
        return TrainedLstm(weights=self._best, history=tuple(self._history), best_epoch=self._best_epoch)


def _loss(weights: Sequence[Float32Array], val: Sequences) -> float:
    """Mean squared error on the validation windows."""
    predicted = predict_windows(weights, val.features, val.ends, val.length, val.view)
    return float(np.mean((predicted.astype(np.float64) - val.target[val.ends]) ** 2))


def check_windows(train: Sequences, val: Sequences | None) -> None:
    """Refuse what the compiled program would accept silently: a gather beyond the rows is clamped, not an error."""
    given = {"training": train, "validation": val}
    for name, split in ((name, part) for name, part in given.items() if part is not None):
        if len(split.ends) == 0:
            raise NothingToTrainError(f"LSTM: no {name} window of {split.length} bars; ingest more bars or shorten it")
        if split.ends.min() < split.length - 1 or split.ends.max() >= len(split.features):
            raise BadBarsError(f"LSTM: a {name} window of {split.length} bars leaves the {len(split.features)} rows")
        if not np.isfinite(split.target[split.ends]).all():
            raise BadBarsError(f"LSTM: a {name} window has no finite target; leave out windows without a next close")
    shapes = [(split.length, split.features.shape[1]) for split in given.values() if split is not None]
    if shapes[0] != shapes[-1]:
        raise BadBarsError(f"LSTM: training windows are {shapes[0]}, validation windows {shapes[-1]}; make them alike")
