"""The kind `lstm`: one network over the windows of all tickers, each ticker on its own scale."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, ClassVar, TypeAlias

import joblib
import msgspec
import numpy as np
import pandas as pd

from nextbar.config import NetworkOptions
from nextbar.datasets.samples import Splits
from nextbar.datasets.sequences import (
    Sequences,
    SequenceSets,
    TickerScaler,
    make_sequences,
    restore_scaler,
    window_ends,
)
from nextbar.errors import ArtifactError
from nextbar.models.base import FitRequest, Fitted, Model, Saved
from nextbar.models.reproducibility import digest_arrays, digest_text
from nextbar.models.weights import WEIGHTS, pack_arrays, unpack_arrays
from nextbar.scoring.backtest import finite
from nextbar.types import FeatureTable, Float32Array, FloatArray, IntArray, JsonDict
from nextbar.untrusted import refusing

Units: TypeAlias = Annotated[
    list[Annotated[int, msgspec.Meta(ge=1, le=2**20)]], msgspec.Meta(min_length=1, max_length=16)
]


@dataclass(frozen=True, kw_only=True)
class LstmSettings:
    """How the network looks and is trained.

    Attributes:
        units: Width of each LSTM layer, the first next to the input.
        patience: Epochs without a better validation loss after which training stops.
        seed: Of the first weights and of the order of the training windows.
    """

    units: tuple[int, ...] = (128, 64)
    epochs: int = 50
    batch_size: int = 32
    patience: int = 5
    learning_rate: float = 1e-3
    seed: int = 42


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """Mean squared errors of one epoch (scaled units, squared) and the sha256 of the weights after it."""

    loss: float
    val_loss: float
    weights_sha256: str


@dataclass(frozen=True, kw_only=True)
class TrainedLstm:
    """Best weights of a training, the record of each epoch, and the number of the best one, from 0."""

    weights: Sequence[Float32Array]
    history: tuple[EpochRecord, ...]
    best_epoch: int


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a network was trained.

    Attributes:
        sets: Windows of train and validation.
    """

    settings: LstmSettings
    sets: SequenceSets
    trained: TrainedLstm
    columns: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class FittedLstm(Fitted):
    """A network with each ticker's scalers, fitted or loaded.

    Attributes:
        weights: Weights of the network, in keras's order.
        scalers: Ticker → its scalers.
        training: How it was trained; None for a model from a file.
    """

    weights: Sequence[Float32Array]
    scalers: Mapping[str, TickerScaler]
    length: int
    training: Training | None = None

    def predict(self, table: FeatureTable, rows: IntArray) -> FloatArray:
        """[rows] predicted next close on the table's scale; NaN where no whole window ends."""
        from nextbar.models.lstm_kernel import predict_windows

        if table.ticker not in self.scalers:
            raise ArtifactError(f"{table.ticker}: the LSTM was not trained on it and has no scaler; train it again")
        scaler, predicted = self.scalers[table.ticker], np.full(len(rows), np.nan)
        ends = window_ends(table, rows, length=self.length)
        if len(ends):
            scaled = predict_windows(self.weights, scaler.scale_features(table.features), ends, self.length)
            predicted[np.searchsorted(rows, ends)] = scaler.price(scaled)
        return predicted

    @property
    def facts(self) -> JsonDict:
        """Settings, learning curve, windows per split, and how far test leaves the scalers' range."""
        ranges = {name: float(scaler.target.data_range_[0]) for name, scaler in self.scalers.items()}
        if (training := self.training) is None:
            return {"target_range": ranges}
        return {
            "network": asdict(training.settings),
            "history": finite([asdict(record) for record in training.trained.history]),
            "best_epoch": training.trained.best_epoch,
            "windows": {name: len(getattr(training.sets, name).ends) for name in ("train", "val")},
            "target_range": ranges,
        }

    @property
    def saved_facts(self) -> JsonDict:
        """Ticker → the range of its scalers."""
        return {"scalers": {name: scaler.ends for name, scaler in self.scalers.items()}}

    def about_test(self, panel: Sequence[Splits]) -> JsonDict:
        """Ticker → share of test rows that leave the range of its scaler."""
        shares = {data.table.ticker: self.scalers[data.table.ticker].share_outside(data.test.X) for data in panel}
        return {"test_share_outside_scaler": shares}

    @property
    def digests(self) -> dict[str, str]:
        """sha256 of the scalers, the settings, the epochs and the weights."""
        scalers = [part for scaler in self.scalers.values() for part in (scaler.features, scaler.target)]
        settings, history = (self.training.settings, self.training.trained.history) if self.training else (None, ())
        return {
            "scalers": digest_arrays(array for part in scalers for array in (part.data_min_, part.data_max_)),
            "params": digest_text(repr(settings)),
            "epochs": digest_text("".join(record.weights_sha256 for record in history)),
            "weights": digest_arrays(self.weights),
        }

    @property
    def evidence(self) -> dict[str, pd.DataFrame]:
        """Scalers, the windows of train and validation, the weights after each epoch, the model and its history."""
        training = self.training
        assert training is not None, "only a fit has evidence"
        epochs = pd.DataFrame([asdict(record) for record in training.trained.history])
        best = {"best epoch": training.trained.best_epoch, "weights": digest_arrays(self.weights)}
        return {
            "scalers": _ranges(training),
            "train windows": _windows(training.sets.train),
            "params": pd.DataFrame([asdict(training.settings)]),
            "training steps": epochs[["loss", "weights_sha256"]],
            "validation windows": _windows(training.sets.val),
            "model": pd.DataFrame([best]),
            "history": epochs[["val_loss"]],
        }

    def files(self) -> dict[str, bytes]:
        """Return the keras model and every ticker's scalers, for people; and the weights, which nextbar reads."""
        from nextbar.models.lstm import keras_bytes

        scalers = {name: {"features": x.features, "target": x.target} for name, x in self.scalers.items()}
        buffer = io.BytesIO()
        joblib.dump(scalers, buffer)
        units = [array.shape[0] for array in self.weights[1:-2:3]]
        arrays = dict(zip(weight_shapes(self.weights[0].shape[0], units), self.weights, strict=True))
        return {
            ".keras": keras_bytes(self.weights, self.length),
            "_scalers.joblib": buffer.getvalue(),
            WEIGHTS: pack_arrays(arrays),
        }


@dataclass(frozen=True, kw_only=True)
class LSTM(NetworkOptions, Model):
    """One LSTM network on the windows of all tickers, each ticker on its own scale; it predicts the next close.

    Args:
        epochs: Most epochs; early stopping may end sooner.
        batch_size: Windows per gradient step.
        patience: Epochs without a better validation loss after which training stops.
        sequence_length: Days that the network looks back.
        scaler_fit: Rows that the scalers are fitted on: ``train``, or ``partition`` for train with validation.

    Raises:
        ConfigError: A value is outside its limits.
    """

    kind: ClassVar[str] = "lstm"
    trusted: ClassVar[bool] = True
    reads: ClassVar[Sequence[str]] = (WEIGHTS,)
    per_ticker: ClassVar[bool] = False
    predicts: ClassVar[str] = "close"
    threads: ClassVar[bool] = True

    @property
    def context(self) -> int:
        """Rows that must precede its first sample: a window less one."""
        return self.sequence_length - 1

    @property
    def steps(self) -> int:
        """Epochs."""
        return self.epochs

    def fit(self, panel: Sequence[Splits], request: FitRequest) -> FittedLstm:
        """Train on the train windows of all tickers together; their validation windows stop it."""
        sets = make_sequences(panel, length=self.sequence_length, scaler_fit=self.scaler_fit)
        settings = LstmSettings(
            epochs=self.epochs, batch_size=self.batch_size, patience=self.patience, seed=request.seed
        )
        trained = _train(sets.train, sets.val, settings, request)
        training = Training(settings=settings, sets=sets, trained=trained, columns=panel[0].table.columns)
        return FittedLstm(weights=trained.weights, scalers=sets.scalers, length=self.sequence_length, training=training)

    def restore(self, saved: Saved) -> FittedLstm:
        """Load a saved network; its scalers come from the document; see `Model.restore`."""
        columns, content = len(saved.columns), saved.content(WEIGHTS)
        with refusing(f"{saved.name}_metadata.json"):
            units = msgspec.convert(saved.details["network"]["units"], Units)
            scalers = {name: restore_scaler(ends, columns) for name, ends in saved.scalers.items()}
        with refusing(saved.name + WEIGHTS):
            shapes = weight_shapes(columns, units)
            arrays = unpack_arrays(content, {name: ("<f4", len(shape)) for name, shape in shapes.items()})
            if other := [name for name, shape in shapes.items() if arrays[name].shape != shape]:
                raise ValueError(f"{other[0]} is {arrays[other[0]].shape}, expected {shapes[other[0]]}")
        return FittedLstm(weights=list(arrays.values()), scalers=scalers, length=self.sequence_length)


def weight_shapes(columns: int, units: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the weights of LSTM layers and a dense one, by name, in keras's order."""
    shapes: dict[str, tuple[int, ...]] = {}
    for number, (inputs, width) in enumerate(zip([columns, *units], units, strict=False), start=1):
        parts = {"kernel": (inputs, 4 * width), "recurrent_kernel": (width, 4 * width), "bias": (4 * width,)}
        shapes |= {f"lstm_{number}_{name}": shape for name, shape in parts.items()}
    return shapes | {"next_close_kernel": (units[-1], 1), "next_close_bias": (1,)}


def _train(train: Sequences, val: Sequences, settings: LstmSettings, request: FitRequest) -> TrainedLstm:
    """Train the network; the cache key is the digest of the arguments themselves, so that no leak can hide in it."""
    from nextbar.models.lstm import train_lstm

    return request.cache.get_or_compute(
        digest_text(f"{settings}{_digest(train)}{_digest(val)}"),
        lambda: train_lstm(
            train,
            val,
            settings,
            checkpoint=request.checkpoint,
            on_epoch=lambda epoch, loss, val_loss: request.report(
                f"epoch {epoch + 1}, loss {loss:.3g}, validation {val_loss:.3g}"
            ),
        ),
    )


def _digest(part: Sequences) -> str:
    return digest_arrays([part.features, part.target, part.ends, np.array([part.length])])


def _ranges(training: Training) -> pd.DataFrame:
    """Return the range that each ticker's scalers were fitted on."""
    ranges = {
        f"{name} {end}": np.append(getattr(x.features, f"data_{end}_"), getattr(x.target, f"data_{end}_"))
        for name, x in training.sets.scalers.items()
        for end in ("min", "max")
    }
    return pd.DataFrame(list(ranges.values()), index=list(ranges), columns=[*training.columns, "target"])


def _windows(part: Sequences) -> pd.DataFrame:
    """Return the sha256 of each window with its target."""
    views = ((part.features[end - part.length + 1 : end + 1], part.target[end : end + 1]) for end in part.ends)
    return pd.DataFrame({"window": [digest_arrays(view)[:16] for view in views]}, index=part.ends)
