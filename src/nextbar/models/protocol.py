"""What a kind of model must do to be trained, walked forward, certified and saved like the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from nextbar.config import CommonConfig
from nextbar.datasets.assemble import TickerData
from nextbar.models.reproducibility import Memo
from nextbar.types import FeatureTable, FloatArray, IntArray, JsonDict

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
        lanes: Fits of a search that may run side by side, each in one thread; changes no bit.
        report: Told how far the fit is.
        checkpoint: File that a network keeps its best weights in while it trains; None: none.
        memo: Outcomes of stages that an earlier fit went through with the same input.
    """

    config: CommonConfig
    seed: int
    params: Mapping[str, Any] | None
    search: bool
    report: Report
    checkpoint: Path | None = None
    memo: Memo = field(default_factory=Memo)
    lanes: int = 1


class Fitted(Protocol):
    """A trained model with what there is to tell about it."""

    @property
    def facts(self) -> JsonDict:
        """For the metadata: parameters, search, importance, history."""

    @property
    def digests(self) -> Mapping[str, str]:
        """sha256 per stage: search, params, weights (and scalers, where there are any)."""

    @property
    def evidence(self) -> Mapping[str, pd.DataFrame]:
        """What a certificate compares, row by row, under the names of `nextbar.evaluation.certificate.FIXED_FROM`."""

    @property
    def params(self) -> Mapping[str, Any] | None:
        """Parameters that another fold may use as they are."""

    def predict(self, data: TickerData) -> FloatArray:
        """[decisions] probability of UP, or predicted close on the table's scale; NaN where there is none."""

    def validate(self, data: TickerData) -> FloatArray | None:
        """[validation samples] probability of UP, or None for a model that predicts prices."""

    def files(self) -> Mapping[str, bytes]:
        """Suffix → content of the files that make the artifact."""


class Predictor(Protocol):
    """A saved model, ready for days it has not seen."""

    def predict(self, table: FeatureTable, rows: IntArray) -> FloatArray:
        """[rows] probability of UP, or predicted close on the table's scale; NaN where there is none.

        Raises:
            ArtifactError: The model does not know the table's ticker.
        """


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

    def load(self, files: Mapping[str, bytes], columns: Sequence[str], config: CommonConfig) -> Predictor:
        """The saved model, from files that may come from a stranger: nothing in them is run.

        Args:
            files: Suffix → content, as `Fitted.files` gave them.
            columns: Names of the feature columns it was trained on, in order.
            config: The configuration it was trained with.

        Raises:
            ArtifactError: A file is damaged or holds something else than such a model.
        """
