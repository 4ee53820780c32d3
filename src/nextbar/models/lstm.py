"""The one global LSTM: keras builds, stops, checkpoints and saves it; `lstm_training` runs its epochs on JAX.

This is the only module that imports keras. Whatever keras's backend, epochs and predictions run on JAX, on the
weights alone; what comes out is an ordinary keras model.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nextbar.errors import ArtifactError, BadBarsError, ConfigError, NothingToTrainError, OutputError
from nextbar.models.lstm_training import Fit, Rows, pad_rows, predict_windows, run_epoch, start
from nextbar.models.reproducibility import digest_arrays
from nextbar.types import Float32Array, IntArray, Sequences

os.environ.setdefault("KERAS_BACKEND", "jax")  # read when keras is imported; what the user has set stays

import keras

OnEpoch = Callable[[int, float, float], None]
"""Told after each epoch: its number from 0, the loss, the validation loss."""


@dataclass(frozen=True, kw_only=True)
class LstmSettings:
    """How the network looks and is trained.

    Attributes:
        units: Width of each LSTM layer, the first next to the input.
        epochs: Most passes over the training windows.
        batch_size: Windows per update.
        patience: Epochs without a better validation loss after which training stops.
        learning_rate: Adam's.
        seed: Of the first weights and of the order of the training windows.
    """

    units: tuple[int, ...] = (128, 64)
    epochs: int = 50
    batch_size: int = 32
    patience: int = 5
    learning_rate: float = 1e-3
    seed: int = 42

    def __post_init__(self) -> None:
        smallest = min(self.epochs, self.batch_size, len(self.units), *self.units)
        if smallest < 1 or self.patience < 0 or not self.learning_rate > 0:
            raise ConfigError(
                "LSTM: expected a layer or more, units, epochs and batch size from 1, patience from 0 and a learning "
                f"rate above 0; got {self}; raise what is too small"
            )


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """What one epoch came to: mean squared errors (scaled units, squared) and the sha256 of the weights after it."""

    loss: float
    val_loss: float
    weights_sha256: str


@dataclass(frozen=True, kw_only=True)
class TrainedLstm:
    """A trained network.

    Attributes:
        model: The ``keras.Model``, holding its best weights.
        history: One record per epoch; empty for a model that was loaded.
        best_epoch: Number, from 0, of the epoch that ``model`` has its weights from; None for a model that was loaded.
    """

    model: Any
    history: tuple[EpochRecord, ...] = ()
    best_epoch: int | None = None

    def predict(self, sequences: Sequences) -> Float32Array:
        """[windows] predicted target, in its scaled units. Who else is asked for does not change a row's bits."""
        if len(sequences.ends) == 0:
            return np.empty(0, np.float32)
        return predict_windows(self.model.get_weights(), sequences.features, sequences.ends, sequences.length)

    def weights_digest(self) -> str:
        """sha256 of the weights."""
        return digest_arrays(self.model.get_weights())

    def to_bytes(self) -> bytes:
        """Content of a ``.keras`` file that plain ``keras.models.load_model`` opens."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.keras"
            self.model.save(path)
            return path.read_bytes()


def build_lstm(columns: int, length: int, settings: LstmSettings) -> Any:
    """A compiled keras model for windows [length, columns], its weights drawn from the seed."""
    seeds = iter(np.random.SeedSequence(settings.seed).generate_state(2 * len(settings.units) + 1).tolist())
    layers = [
        keras.layers.LSTM(
            units,
            return_sequences=number < len(settings.units),
            kernel_initializer=keras.initializers.GlorotUniform(next(seeds)),
            recurrent_initializer=keras.initializers.Orthogonal(seed=next(seeds)),
            name=f"lstm_{number}",
        )
        for number, units in enumerate(settings.units, start=1)
    ]
    dense = keras.layers.Dense(1, kernel_initializer=keras.initializers.GlorotUniform(next(seeds)), name="next_close")
    model = keras.Sequential([keras.Input((length, columns), name="window"), *layers, dense], name="nextbar_lstm")
    model.compile(optimizer=keras.optimizers.Adam(settings.learning_rate), loss="mse")
    model.optimizer.build(model.trainable_variables)  # else load_model warns that the file lacks the optimizer's state
    return model


def epoch_orders(ends: IntArray, seed: int) -> Callable[[], IntArray]:
    """A function that gives the training windows in a new order at each call; the seed decides all of them."""
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    return lambda: generator.permutation(ends)


def train_lstm(
    train: Sequences,
    val: Sequences,
    settings: LstmSettings,
    *,
    checkpoint: Path | None = None,
    on_epoch: OnEpoch | None = None,
) -> TrainedLstm:
    """Train on shuffled training windows, stop on the validation loss, keep the best weights.

    Args:
        train: Training windows.
        val: Validation windows, of the same length and columns.
        settings: Network and training.
        checkpoint: A ``.keras`` path that gets the model, in one move, whenever the validation loss is the best so far.
        on_epoch: Told after each epoch.

    Raises:
        NothingToTrainError: A split has no window.
        BadBarsError: A window leaves the rows or has no finite target, or the splits have different windows.
        ConfigError: ``checkpoint`` does not end in ``.keras``.
    """
    _check(train, val)
    model = build_lstm(train.features.shape[1], train.length, settings)
    early = keras.callbacks.EarlyStopping("val_loss", patience=settings.patience, mode="min", restore_best_weights=True)
    callbacks = keras.callbacks.CallbackList([early, *_checkpoints(checkpoint)], model=model)
    tell = on_epoch or (lambda _epoch, _loss, _val_loss: None)
    history: list[EpochRecord] = []
    callbacks.on_train_begin()
    for record in _epochs(model, train, val, settings):
        callbacks.on_epoch_end(len(history), {"loss": record.loss, "val_loss": record.val_loss})
        tell(len(history), record.loss, record.val_loss)
        history.append(record)
        if model.stop_training:
            break
    callbacks.on_train_end()
    return TrainedLstm(model=model, history=tuple(history), best_epoch=early.best_epoch)


def load_lstm(path: Path) -> TrainedLstm:
    """A network from a ``.keras`` file, for prediction; code in the file is refused.

    Raises:
        ArtifactError: The file is missing, damaged, or holds another network than `build_lstm` makes.
    """
    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ArtifactError(f"{path}: expected a .keras file, which cannot be read ({error}); train again") from error
    kinds = [type(layer).__name__ for layer in model.layers]
    if kinds != ["LSTM"] * (len(kinds) - 1) + ["Dense"]:
        raise ArtifactError(f"{path}: expected LSTM layers and a Dense one, got {', '.join(kinds)}; not ours")
    return TrainedLstm(model=model)


def _epochs(model: Any, train: Sequences, val: Sequences, settings: LstmSettings) -> Iterator[EpochRecord]:
    """Train the model an epoch at a time, as long as the caller goes on asking."""
    next_order = epoch_orders(train.ends, settings.seed)
    fit = start(model.get_weights())
    rows = Rows(pad_rows(train.features), pad_rows(train.target))
    for _ in range(settings.epochs):
        fit, loss = run_epoch(
            fit,
            rows,
            next_order(),
            batch_size=settings.batch_size,
            length=train.length,
            learning_rate=settings.learning_rate,
        )
        yield _close_epoch(model, fit, loss, val)


def _close_epoch(model: Any, fit: Fit, loss: float, val: Sequences) -> EpochRecord:
    """Hand the weights to the model and measure them on validation."""
    weights = [np.asarray(array) for array in fit.weights]
    model.set_weights(weights)
    errors = predict_windows(weights, val.features, val.ends, val.length).astype(np.float64) - val.target[val.ends]
    return EpochRecord(loss=loss, val_loss=float(np.mean(errors**2)), weights_sha256=digest_arrays(weights))


class _AtomicCheckpoint(keras.callbacks.ModelCheckpoint):  # type: ignore[misc]
    """Keras's checkpoint of the best model, written beside its path and moved into place."""

    def __init__(self, path: Path) -> None:
        self._path, self._part = path, path.with_name(f".{path.stem}.part.keras")
        self._part.unlink(missing_ok=True)  # what an interrupted run left behind is not this run's best
        super().__init__(str(self._part), monitor="val_loss", mode="min", save_best_only=True)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Let keras decide and write; move what it wrote."""
        try:
            super().on_epoch_end(epoch, logs)
            if self._part.exists():
                self._part.replace(self._path)
        except OSError as error:
            raise OutputError(
                f"{self._path}: the checkpoint cannot be written ({error.strerror or error}); "
                "make room or name another folder"
            ) from error


def _checkpoints(path: Path | None) -> list[_AtomicCheckpoint]:
    if path is None:
        return []
    if path.suffix != ".keras":
        raise ConfigError(f"{path}: expected a checkpoint that ends in .keras, got {path.suffix!r}; rename it")
    return [_AtomicCheckpoint(path)]


def _check(train: Sequences, val: Sequences) -> None:
    """Refuse what the compiled program would take silently: a gather beyond the rows is clamped, not an error."""
    for name, split in (("training", train), ("validation", val)):
        if len(split.ends) == 0:
            raise NothingToTrainError(f"LSTM: no {name} window of {split.length} bars; ingest more bars or shorten it")
        if split.ends.min() < split.length - 1 or split.ends.max() >= len(split.features):
            raise BadBarsError(f"LSTM: a {name} window of {split.length} bars leaves the {len(split.features)} rows")
        if not np.isfinite(split.target[split.ends]).all():
            raise BadBarsError(f"LSTM: a {name} window has no finite target; leave out windows without a next close")
    shapes = [(split.length, split.features.shape[1]) for split in (train, val)]
    if shapes[0] != shapes[1]:
        raise BadBarsError(f"LSTM: training windows are {shapes[0]}, validation windows {shapes[1]}; make them alike")
