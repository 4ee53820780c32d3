"""The kind `lstm`: one network over the windows of all tickers, each ticker on its own scale."""

from __future__ import annotations

import io
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import joblib
import numpy as np
import pandas as pd

from nextbar.config import CommonConfig
from nextbar.datasets.assemble import SequenceSets, TickerData, make_sequences
from nextbar.datasets.scaling import TickerScaler, load_scalers
from nextbar.datasets.windows import window_ends
from nextbar.errors import ArtifactError
from nextbar.models.keras_file import check_keras_file
from nextbar.models.lstm import LstmSettings, TrainedLstm, load_lstm, train_lstm
from nextbar.models.protocol import FitRequest
from nextbar.models.reproducibility import digest_arrays, digest_text
from nextbar.types import FeatureTable, FloatArray, IntArray, JsonDict, Sequences
from nextbar.untrusted import refusing


@dataclass(frozen=True, kw_only=True)
class FittedLstm:
    """The trained network with each ticker's scalers; see `nextbar.models.protocol.Fitted`."""

    trained: TrainedLstm
    sets: SequenceSets
    settings: LstmSettings
    outside: dict[str, float]
    columns: tuple[str, ...]

    params = None
    """Nothing is searched: the network is given by the specification."""

    @property
    def facts(self) -> JsonDict:
        """Settings, learning curve, windows per split, and how far test leaves the scalers' range."""
        ranges = {name: float(scaler.target.data_range_[0]) for name, scaler in self.sets.scalers.items()}
        return {
            "network": asdict(self.settings),
            "history": [_finite(asdict(record)) for record in self.trained.history],
            "best_epoch": self.trained.best_epoch,
            "windows": {"train": len(self.sets.train.ends), "val": len(self.sets.val.ends)},
            "target_range": ranges,
            "test_share_outside_scaler": self.outside,
        }

    @property
    def digests(self) -> dict[str, str]:
        """sha256 of the scalers, the settings, the epochs and the weights."""
        scalers = [part for scaler in self.sets.scalers.values() for part in (scaler.features, scaler.target)]
        return {
            "scalers": digest_arrays(array for part in scalers for array in (part.data_min_, part.data_max_)),
            "params": digest_text(repr(self.settings)),
            "epochs": digest_text("".join(record.weights_sha256 for record in self.trained.history)),
            "weights": self.trained.weights_digest(),
        }

    @property
    def evidence(self) -> dict[str, pd.DataFrame]:
        """Scalers, the windows of train and validation, the weights after each epoch, the model and its history."""
        epochs = pd.DataFrame([asdict(record) for record in self.trained.history])
        return {
            "scalers": _ranges(self.sets, self.columns),
            "train windows": _windows(self.sets.train),
            "params": pd.DataFrame([asdict(self.settings)]),
            "training steps": epochs[["loss", "weights_sha256"]],
            "validation windows": _windows(self.sets.val),
            "model": pd.DataFrame([{"best epoch": self.trained.best_epoch, "weights": self.trained.weights_digest()}]),
            "history": epochs[["val_loss"]],
        }

    def predict(self, data: TickerData) -> FloatArray:
        """[decisions] predicted next close on the table's scale; NaN where no whole window ends."""
        ticker, rows = data.table.ticker, data.decisions
        windows = self.sets.test[ticker]
        predicted = np.full(len(rows), np.nan)
        at = np.searchsorted(rows, windows.ends)
        predicted[at] = self.sets.scalers[ticker].price(self.trained.predict(windows))
        return predicted

    def validate(self, data: TickerData) -> None:
        """A predicted close is compared with today's: there is no threshold to choose."""

    def files(self) -> dict[str, bytes]:
        """The keras model and every ticker's scalers."""
        scalers = {name: {"features": x.features, "target": x.target} for name, x in self.sets.scalers.items()}
        buffer = io.BytesIO()
        joblib.dump(scalers, buffer)
        return {".keras": self.trained.to_bytes(), "_scalers.joblib": buffer.getvalue()}


class Lstm:
    """The kind `lstm`; see `nextbar.models.protocol.Model`."""

    kind, per_ticker, predicts = "lstm", False, "close"

    def fit(self, panel: Sequence[TickerData], request: FitRequest) -> FittedLstm:
        """Train on the train windows of all tickers together; their validation windows stop it."""
        config = request.config
        sets = make_sequences(panel, length=config.sequence_length, scaler_fit=config.scaler_fit)
        settings = LstmSettings(
            epochs=config.epochs, batch_size=config.batch_size, patience=config.patience, seed=request.seed
        )
        trained = _train(sets.train, sets.val, settings, request)
        outside = {
            data.table.ticker: sets.scalers[data.table.ticker].share_outside(data.splits.test.X) for data in panel
        }
        return FittedLstm(
            trained=trained, sets=sets, settings=settings, outside=outside, columns=panel[0].table.columns
        )

    def load(self, files: Mapping[str, bytes], columns: Sequence[str], config: CommonConfig) -> SavedLstm:
        """The saved network and scalers; see `nextbar.models.protocol.Model`."""
        scalers = load_scalers(files["_scalers.joblib"], len(columns))
        with refusing("the .keras file"), tempfile.TemporaryDirectory() as folder:
            check_keras_file(files[".keras"])
            path = Path(folder) / "model.keras"
            path.write_bytes(files[".keras"])
            trained = load_lstm(path)
            if trained.model.input_shape != (None, config.sequence_length, len(columns)):
                raise ValueError(f"its windows are {trained.model.input_shape[1:]}, not as the metadata says")
        return SavedLstm(trained=trained, scalers=scalers, length=config.sequence_length)


@dataclass(frozen=True, kw_only=True)
class SavedLstm:
    """A network from files with each ticker's scalers; see `nextbar.models.protocol.Predictor`."""

    trained: TrainedLstm
    scalers: Mapping[str, TickerScaler]
    length: int

    def predict(self, table: FeatureTable, rows: IntArray) -> FloatArray:
        """[rows] predicted next close on the table's scale; NaN where no whole window ends."""
        if table.ticker not in self.scalers:
            raise ArtifactError(f"{table.ticker}: the LSTM was not trained on it and has no scaler; train it again")
        scaler, predicted = self.scalers[table.ticker], np.full(len(rows), np.nan)
        ends = window_ends(table, rows, length=self.length)
        if len(ends) == 0:
            return predicted
        features = scaler.scale_features(np.nan_to_num(table.features))
        nothing = np.full(len(features), np.nan, np.float32)
        windows = Sequences(features=features, target=nothing, ends=ends, length=self.length)
        predicted[np.searchsorted(rows, ends)] = scaler.price(self.trained.predict(windows))
        return predicted


def _train(train: Sequences, val: Sequences, settings: LstmSettings, request: FitRequest) -> TrainedLstm:
    """The network, known by the digest of the very arguments that it is trained with: what else would hide a leak."""

    def tell(epoch: int, loss: float, val_loss: float) -> None:
        request.report(f"epoch {epoch + 1}, loss {loss:.3g}, validation {val_loss:.3g}")

    return request.memo.recall(
        digest_text(f"{settings}{_digest(train)}{_digest(val)}"),
        lambda: train_lstm(train, val, settings, checkpoint=request.checkpoint, on_epoch=tell),
    )


def _digest(part: Sequences) -> str:
    return digest_arrays([part.features, part.target, part.ends, np.array([part.length])])


def _ranges(sets: SequenceSets, columns: tuple[str, ...]) -> pd.DataFrame:
    """Range that each ticker's scalers were fitted on."""
    ranges = {
        f"{name} {end}": np.append(getattr(x.features, f"data_{end}_"), getattr(x.target, f"data_{end}_"))
        for name, x in sets.scalers.items()
        for end in ("min", "max")
    }
    return pd.DataFrame(list(ranges.values()), index=list(ranges), columns=[*columns, "target"])


def _windows(part: Sequences) -> pd.DataFrame:
    """sha256 of each window and its target."""
    views = ((part.features[end - part.length + 1 : end + 1], part.target[end : end + 1]) for end in part.ends)
    return pd.DataFrame({"window": [digest_arrays(view)[:16] for view in views]}, index=part.ends)


def _finite(record: JsonDict) -> JsonDict:
    """A record without NaN or infinity, which a diverged network leaves and JSON does not know."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in record.items()
    }
