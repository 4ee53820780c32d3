"""What an LSTM is once it is trained: its records, its predictions, and what a certificate compares."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import joblib
import numpy as np
import pandas as pd

from nextbar.datasets.samples import Splits
from nextbar.datasets.sequences import (
    LEAST_VOLATILITY,
    VOLATILITY_DAYS,
    ReturnScale,
    Scale,
    Sequences,
    SequenceSets,
    TickerScaler,
    window_ends,
)
from nextbar.errors import ArtifactError
from nextbar.features.indicators import PRICE_DIFFERENCES, PRICE_LEVELS
from nextbar.models.base import Fitted
from nextbar.models.reproducibility import digest_arrays, digest_text
from nextbar.models.weights import WEIGHTS, pack_arrays
from nextbar.scoring.backtest import finite
from nextbar.types import Columns, FeatureTable, Float32Array, FloatArray, IntArray, JsonDict


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
    """How networks were trained.

    Attributes:
        sets: Windows of train and validation.
        group: Device and number of networks that were trained at once; None: one after the other.
    """

    settings: Sequence[LstmSettings]
    sets: SequenceSets
    trained: Sequence[TrainedLstm]
    columns: tuple[str, ...]
    group: JsonDict | None = None

    @property
    def mean_target(self) -> float:
        """Mean of the target on train, which a network must beat."""
        return float(np.mean(self.sets.train.target[self.sets.train.ends], dtype=np.float64))


@dataclass(frozen=True, kw_only=True)
class FittedLstm(Fitted):
    """One network or several, whose outputs are averaged, with each ticker's scale; fitted or loaded.

    Attributes:
        weights: Weights of the networks, one after the other, each in keras's order.
        scalers: Ticker → its scale.
        training: How they were trained; None for a model from a file.
    """

    weights: Sequence[Float32Array]
    scalers: Mapping[str, Scale]
    length: int
    networks: int = 1
    training: Training | None = None

    @property
    def weight_sets(self) -> list[Sequence[Float32Array]]:
        """Weights of each network."""
        size = len(self.weights) // self.networks
        return [self.weights[at : at + size] for at in range(0, len(self.weights), size)]

    def predict(self, table: FeatureTable, rows: IntArray) -> FloatArray:
        """[rows] predicted next close on the table's scale; NaN where no whole window ends."""
        ends, outputs = self._outputs(table, rows)
        return self._prices(table, rows, ends, outputs.mean(axis=0))

    def _outputs(self, table: FeatureTable, rows: IntArray) -> tuple[IntArray, FloatArray]:
        """Rows that end a whole window, and [networks, windows] the networks' outputs."""
        from nextbar.models.lstm_kernel import predict_windows

        if table.ticker not in self.scalers:
            raise ArtifactError(f"{table.ticker}: the LSTM was not trained on it and has no scaler; train it again")
        ends = window_ends(table, rows, length=self.length)
        if not len(ends):
            return ends, np.empty((self.networks, 0))
        features, view = self.scalers[table.ticker].inputs(table)
        found = [predict_windows(weights, features, ends, self.length, view) for weights in self.weight_sets]
        outputs = np.stack(found).astype(np.float64)
        return ends, np.where(np.isfinite(outputs), outputs, np.nan)  # weights from anyone may give anything

    def _prices(self, table: FeatureTable, rows: IntArray, ends: IntArray, output: FloatArray) -> FloatArray:
        """[rows] next close that outputs [windows] mean; NaN where no window ends."""
        predicted = np.full(len(rows), np.nan)
        predicted[np.searchsorted(rows, ends)] = self.scalers[table.ticker].prices(table, ends, output)
        return predicted

    def beside(self, table: FeatureTable, rows: IntArray, predicted: FloatArray, returns: FloatArray) -> Columns:
        """Errors on the target's scale, what train's mean would be, and each network's own predicted close."""
        found = self.scalers[table.ticker].errors(table, rows, predicted, returns)
        if "scaled_return" in found and self.training is not None:
            found["mean_return"] = np.full(len(rows), self.training.mean_target)
        if self.networks > 1:
            ends, outputs = self._outputs(table, rows[np.isfinite(predicted)])
            for number, output in enumerate(outputs, start=1):
                found[f"network_{number}"] = self._prices(table, rows, ends, output) * table.quote[rows]
        return found

    @property
    def facts(self) -> JsonDict:
        """Settings, learning curve, windows per split, and how an output becomes a price."""
        scale: JsonDict = {"output": self._formula} if self._formula else {"target_range": self._ranges}
        if (training := self.training) is None:
            return scale
        first = training.trained[0]
        found = {
            "network": asdict(training.settings[0]),
            "history": _history(first),
            "best_epoch": first.best_epoch,
            "windows": {name: len(getattr(training.sets, name).ends) for name in ("train", "val")},
            **scale,
        }
        if training.group is not None:
            found["group"] = training.group
        if self.networks > 1:
            found["networks"] = [
                {"seed": settings.seed, "best_epoch": one.best_epoch, "history": _history(one)}
                for settings, one in zip(training.settings, training.trained, strict=True)
            ]
        return found

    @property
    def _ranges(self) -> dict[str, float]:
        """Ticker → range of the closes that the target was scaled by."""
        return {
            name: float(scale.target.data_range_[0])
            for name, scale in self.scalers.items()
            if isinstance(scale, TickerScaler)
        }

    @property
    def _formula(self) -> JsonDict:
        """How to make the network's input, and a price from its output; nothing where scikit-learn's scalers do it."""
        scales = {name: x for name, x in self.scalers.items() if isinstance(x, ReturnScale)}
        if not scales:
            return {}
        return {
            "target": "next return / volatility",
            "predicted_close": "close * (1 + output * volatility)",
            "volatility": f"standard deviation (ddof 1) of the last {VOLATILITY_DAYS} daily returns, at least "
            f"{LEAST_VOLATILITY}; close and volatility are those of the last day of the window",
            "input": {
                "(column - close) / (close * volatility)": list(PRICE_LEVELS),
                "column / (close * volatility)": list(PRICE_DIFFERENCES),
                "(column - mean) / deviation": "the others",
            },
            "scales": {
                name: {"mean": scale.mean.tolist(), "deviation": scale.deviation.tolist()}
                for name, scale in scales.items()
            },
        }

    @property
    def saved_facts(self) -> JsonDict:
        """Ticker → the range of its scalers; what a scale of returns needs stands in the facts on every fit."""
        ends = {name: scale.ends for name, scale in self.scalers.items() if isinstance(scale, TickerScaler)}
        return {"scalers": ends} if ends else {}

    def about_test(self, panel: Sequence[Splits]) -> JsonDict:
        """Ticker → share of test rows that leave the range of its scaler, where it has one."""
        scales = ((data, self.scalers[data.table.ticker]) for data in panel)
        shares = {
            data.table.ticker: scale.share_outside(data.test.X)
            for data, scale in scales
            if isinstance(scale, TickerScaler)
        }
        return {"test_share_outside_scaler": shares} if shares else {}

    @property
    def digests(self) -> dict[str, str]:
        """sha256 of the scales, the settings, the epochs and the weights."""
        settings, trained = (self.training.settings, self.training.trained) if self.training else ((None,), ())
        return {
            "scalers": digest_arrays(array for scale in self.scalers.values() for array in scale.arrays),
            "params": digest_text("".join(map(repr, settings))),
            "epochs": digest_text("".join(record.weights_sha256 for one in trained for record in one.history)),
            "weights": digest_arrays(self.weights),
        }

    @property
    def evidence(self) -> dict[str, pd.DataFrame]:
        """Scalers, the windows of train and validation, the weights after each epoch, the model and its history."""
        training = self.training
        assert training is not None, "only a fit has evidence"
        epochs = [pd.DataFrame([asdict(record) for record in one.history]) for one in training.trained]
        best = [
            {"best epoch": one.best_epoch, "weights": digest_arrays(weights)}
            for one, weights in zip(training.trained, self.weight_sets, strict=True)
        ]
        return {
            "scalers": _scales(training),
            "train windows": _windows(training.sets.train),
            "params": pd.DataFrame([asdict(settings) for settings in training.settings]),
            "training steps": _steps(epochs),
            "validation windows": _windows(training.sets.val),
            "model": pd.DataFrame(best),
            "history": pd.concat(epochs, ignore_index=True)[["val_loss"]],
        }

    def files(self) -> dict[str, bytes]:
        """Return the keras model and every ticker's scale, for people; and the weights, which nextbar reads."""
        from nextbar.models.lstm import keras_bytes

        buffer = io.BytesIO()
        joblib.dump({name: scale.plain for name, scale in self.scalers.items()}, buffer)
        first = self.weight_sets[0]
        shapes = weight_shapes(first[0].shape[0], [array.shape[0] for array in first[1:-2:3]], self.networks)
        return {
            ".keras": keras_bytes(self.weight_sets, self.length),
            "_scalers.joblib": buffer.getvalue(),
            WEIGHTS: pack_arrays(dict(zip(shapes, self.weights, strict=True))),
        }


def weight_shapes(columns: int, units: Sequence[int], networks: int = 1) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the weights of LSTM layers and a dense one, by name, in keras's order.

    The names of a second network, and of those after it, begin with its number.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for number, (inputs, width) in enumerate(zip([columns, *units], units, strict=False), start=1):
        parts = {"kernel": (inputs, 4 * width), "recurrent_kernel": (width, 4 * width), "bias": (4 * width,)}
        shapes |= {f"lstm_{number}_{name}": shape for name, shape in parts.items()}
    shapes |= {"next_close_kernel": (units[-1], 1), "next_close_bias": (1,)}
    prefixes = ["", *(f"network_{number}_" for number in range(2, networks + 1))]
    return {prefix + name: shape for prefix in prefixes for name, shape in shapes.items()}


def _history(trained: TrainedLstm) -> list[JsonDict]:
    found: list[JsonDict] = finite([asdict(record) for record in trained.history])
    return found


def _steps(epochs: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return loss and weights after each epoch that all networks have trained; an earlier stop leaves fewer of them."""
    if len(epochs) == 1:
        return epochs[0][["loss", "weights_sha256"]]
    tables = [one[["loss", "weights_sha256"]].add_suffix(f"_{number}") for number, one in enumerate(epochs, start=1)]
    return pd.concat(tables, axis=1, join="inner")


def _scales(training: Training) -> pd.DataFrame:
    """Return what each ticker's scale was fitted to."""
    found = {
        f"{name} {key}": values for name, scale in training.sets.scalers.items() for key, values in scale.fitted.items()
    }
    return pd.DataFrame(list(found.values()), index=list(found), columns=[*training.columns, "target"])


def _windows(part: Sequences) -> pd.DataFrame:
    """Return the sha256 of each window with its target, and with how it is seen."""
    view = part.view or ()
    windows = (
        (part.features[end - part.length + 1 : end + 1], *(own[end : end + 1] for own in (part.target, *view)))
        for end in part.ends
    )
    return pd.DataFrame({"window": [digest_arrays(window)[:16] for window in windows]}, index=part.ends)
