"""The kind `lstm`: one network over the windows of all tickers, each ticker on its own scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, TypeAlias

import msgspec
import numpy as np

from nextbar.config import NetworkOptions
from nextbar.datasets.samples import Splits
from nextbar.datasets.sequences import (
    Scale,
    Sequences,
    SequenceSets,
    make_sequences,
    restore_return_scale,
    restore_scaler,
)
from nextbar.errors import noun
from nextbar.models.base import FitRequest, Model, Saved
from nextbar.models.lstm_fitted import FittedLstm, LstmSettings, TrainedLstm, Training, weight_shapes
from nextbar.models.reproducibility import digest_arrays, digest_text
from nextbar.models.weights import WEIGHTS, unpack_arrays
from nextbar.types import JsonDict
from nextbar.untrusted import refusing

Units: TypeAlias = Annotated[
    list[Annotated[int, msgspec.Meta(ge=1, le=2**20)]], msgspec.Meta(min_length=1, max_length=16)
]


@noun
@dataclass(frozen=True, kw_only=True)
class LSTM(NetworkOptions, Model):
    """One LSTM network on the windows of all tickers, each ticker on its own scale; it predicts the next close.

    Args:
        epochs: Most epochs; early stopping may end sooner.
        batch_size: Windows per gradient step.
        patience: Epochs without a better validation loss after which training stops.
        sequence_length: Days that the network looks back.
        scaler_fit: Rows that the scalers are fitted on: ``train``, or ``partition`` for train with validation.
        target: What the network predicts: the next ``close``, scaled by the range of train; or the next ``return`` in
            units of the volatility, from windows that are measured from their own last close.
        ensemble: Networks, each from a seed of its own, whose predictions are averaged.

    Raises:
        ConfigError: A value is outside its limits.
    """

    kind: ClassVar[str] = "lstm"
    trusted: ClassVar[bool] = True
    deterministic: ClassVar[bool] = True
    reads: ClassVar[Sequence[str]] = (WEIGHTS,)
    per_ticker: ClassVar[bool] = False
    predicts: ClassVar[str] = "close"
    threads: ClassVar[bool] = True
    together: ClassVar[bool] = True
    refits: ClassVar[bool] = True

    @property
    def context(self) -> int:
        """Rows that must precede its first sample: a window less one."""
        return self.sequence_length - 1

    @property
    def steps(self) -> int:
        """Epochs of all networks."""
        return self.epochs * self.ensemble

    def fit(self, panel: Sequence[Splits], request: FitRequest) -> FittedLstm:
        """Train on the train windows of all tickers together; their validation windows stop it, or so many epochs."""
        sets, settings = self._sequences(panel), self._settings(request)
        val = sets.val if request.rounds is None else None
        trained = [_train(sets.train, val, one, request) for one in settings]
        return self._fitted(panel, sets, settings, trained)

    def fit_together(
        self, panels: Sequence[Sequence[Splits]], requests: Sequence[FitRequest], *, width: int | None
    ) -> list[FittedLstm]:
        """Train the networks of all panels in one program."""
        from nextbar.models.lstm_group import Network, device_name, train_together

        sets, settings = [self._sequences(panel) for panel in panels], [self._settings(one) for one in requests]
        networks = [
            Network(part.train, part.val, one) for part, several in zip(sets, settings, strict=True) for one in several
        ]

        def tell(epoch: int, going: int, count: int) -> None:
            requests[0].report(f"epoch {epoch + 1}, {going} of {count} networks go on")

        grouped = train_together(networks, width=width, on_epoch=tell)
        group, size = {"device": device_name(), "networks": grouped.width}, self.ensemble
        parts = [grouped.trained[at : at + size] for at in range(0, len(networks), size)]
        return [self._fitted(*one, group) for one in zip(panels, sets, settings, parts, strict=True)]

    def rounds(self, facts: JsonDict) -> list[int]:
        """Epochs up to and with the best one of each network."""
        return [one["best_epoch"] + 1 for one in facts.get("networks", [facts])]

    def _sequences(self, panel: Sequence[Splits]) -> SequenceSets:
        return make_sequences(panel, length=self.sequence_length, scaler_fit=self.scaler_fit, target=self.target)

    def _settings(self, request: FitRequest) -> list[LstmSettings]:
        """Settings of each network; the first has the seed that a network alone has."""
        epochs = [self.epochs] * self.ensemble if request.rounds is None else request.rounds
        others = np.random.SeedSequence(request.seed, spawn_key=(1,)).generate_state(self.ensemble - 1) >> 1
        return [
            LstmSettings(epochs=most, batch_size=self.batch_size, patience=self.patience, seed=seed)
            for seed, most in zip((request.seed, *others.tolist()), epochs, strict=True)
        ]

    def _fitted(
        self,
        panel: Sequence[Splits],
        sets: SequenceSets,
        settings: Sequence[LstmSettings],
        trained: Sequence[TrainedLstm],
        group: JsonDict | None = None,
    ) -> FittedLstm:
        columns = panel[0].table.columns
        training = Training(settings=settings, sets=sets, trained=trained, columns=columns, group=group)
        return FittedLstm(
            weights=[array for one in trained for array in one.weights],
            networks=self.ensemble,
            scalers=sets.scalers,
            length=self.sequence_length,
            training=training,
        )

    def restore(self, saved: Saved) -> FittedLstm:
        """Load a saved network; its scales come from the document; see `Model.restore`."""
        columns, content = len(saved.columns), saved.content(WEIGHTS)
        with refusing(f"{saved.name}_metadata.json"):
            units = msgspec.convert(saved.details["network"]["units"], Units)
            scalers = self._scales(saved, columns)
        with refusing(saved.name + WEIGHTS):
            shapes = weight_shapes(columns, units, self.ensemble)
            arrays = unpack_arrays(content, {name: ("<f4", len(shape)) for name, shape in shapes.items()})
            if other := [name for name, shape in shapes.items() if arrays[name].shape != shape]:
                raise ValueError(f"{other[0]} is {arrays[other[0]].shape}, expected {shapes[other[0]]}")
        weights = list(arrays.values())
        return FittedLstm(weights=weights, scalers=scalers, length=self.sequence_length, networks=self.ensemble)

    def _scales(self, saved: Saved, columns: int) -> dict[str, Scale]:
        """Make every ticker's scale from the document."""
        if self.target == "close":
            return {name: restore_scaler(ends, columns) for name, ends in saved.scalers.items()}
        kind = dict[str, dict[Literal["mean", "deviation"], list[float]]]
        recorded = msgspec.convert(saved.details["output"]["scales"], kind)
        return {name: restore_return_scale(one["mean"], one["deviation"], columns) for name, one in recorded.items()}


def _train(train: Sequences, val: Sequences | None, settings: LstmSettings, request: FitRequest) -> TrainedLstm:
    """Train the network; the cache key is the digest of the arguments themselves, so that no leak can hide in it."""
    from nextbar.models.lstm import train_lstm

    return request.cache.get_or_compute(
        digest_text(f"{settings}{_digest(train)}{val and _digest(val)}"),
        lambda: train_lstm(
            train,
            val,
            settings,
            on_epoch=lambda epoch, loss, val_loss: request.report(
                f"epoch {epoch + 1}, loss {loss:.3g}, validation {val_loss:.3g}"
                if val
                else f"epoch {epoch + 1}, loss {loss:.3g}, on all bars"
            ),
        ),
    )


def _digest(part: Sequences) -> str:
    return digest_arrays([part.features, part.target, part.ends, np.array([part.length]), *(part.view or ())])
