"""What a kind of model must do to be trained, walked forward, certified and saved like the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from nextbar.config import CommonConfig
from nextbar.datasets.assemble import TickerData
from nextbar.types import FloatArray, JsonDict

Report = Callable[[str], None]
"""Called now and then with a short line on how far a fit is."""


@dataclass(frozen=True, kw_only=True)
class FitRequest:
    """What a fit is given besides the data.

    Attributes:
        config: The run's configuration.
        seed: Seed of this fit.
        params: Parameters to use as they are; None: search, or the stated defaults with ``--no-tune``.
        search: Whether to search when ``params`` is None.
        report: Told how far the fit is.
    """

    config: CommonConfig
    seed: int
    params: Mapping[str, Any] | None
    search: bool
    report: Report


class Fitted(Protocol):
    """A trained model with what there is to tell about it."""

    @property
    def facts(self) -> JsonDict:
        """For the metadata: parameters, search, importance, history."""

    @property
    def digests(self) -> Mapping[str, str]:
        """sha256 per stage: search, params, weights (and scalers, where there are any)."""

    @property
    def params(self) -> Mapping[str, Any] | None:
        """Parameters that another fold may use as they are."""

    def predict(self, data: TickerData) -> FloatArray:
        """[test samples] probability of UP, or predicted close on the table's scale; NaN where there is none."""

    def validate(self, data: TickerData) -> FloatArray | None:
        """[validation samples] probability of UP, or None for a model that predicts prices."""

    def files(self) -> Mapping[str, bytes]:
        """Suffix → content of the files that make the artifact."""


class Model(Protocol):
    """A kind of model.

    Attributes:
        kind: Its short name on the command line.
        per_ticker: Whether one model is trained per ticker, or one for all.
        predicts: ``probability`` of UP, or the next ``close``.
    """

    kind: str
    per_ticker: bool
    predicts: str

    def fit(self, panel: Sequence[TickerData], request: FitRequest) -> Fitted:
        """Train on train, stop early on validation; test is not touched."""
