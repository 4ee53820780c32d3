"""What a kind of model must do to be trained, walked forward, certified and saved like the others.

A model is a frozen record of parameters. Fitting it gives a `Fitted`, and so does loading one from its files: a model
from a file is used like one that was fitted a moment ago.
"""

from __future__ import annotations

import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import pandas as pd

from nextbar.config import CommonConfig
from nextbar.datasets.samples import Splits
from nextbar.datasets.sequences import ScalerRange
from nextbar.errors import ArtifactError, OutdatedError, in_python, noun
from nextbar.models.reproducibility import StageCache
from nextbar.option import Options
from nextbar.types import Columns, FeatureTable, FloatArray, IntArray, JsonDict

Report = Callable[[str], None]
"""Called now and then with a short line on how far a fit is."""


@noun
@dataclass(frozen=True, kw_only=True)
class FitRequest:
    """What a fit is given besides the data.

    Attributes:
        seed: Seed of this fit.
        params: Parameters to use as they are; None: search, or the stated defaults where nothing is searched.
        search: Whether to search when ``params`` is None.
        n_jobs: Parallel fits of a search, each in one thread; the result does not depend on it.
        report: Receives how far the fit is.
        cache: Outcomes of stages that an earlier fit went through with the same input.
        rounds: Of a refit, trees or epochs of each network, as `Model.rounds` gave them: the panel has no validation,
            and nothing stops the fit. None: no refit.
    """

    seed: int
    params: Mapping[str, Any] | None = None
    search: bool = True
    report: Report = lambda _line: None
    cache: StageCache = field(default_factory=StageCache)
    n_jobs: int = 1
    rounds: Sequence[int] | None = None


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A saved model, which may come from anyone.

    Attributes:
        name: What its files are called in messages, without their suffix.
        files: Suffix → content of the files that its kind reads.
        columns: Names of the feature columns it was trained on, in order.
        params: Parameters of the fit, where the document names them.
        details: What only its kind records.
        scalers: Ticker → range of its scalers, of a network.
    """

    name: str
    files: Mapping[str, bytes]
    columns: Sequence[str]
    params: Mapping[str, Any] = field(default_factory=dict)
    details: JsonDict = field(default_factory=dict)
    scalers: Mapping[str, ScalerRange] = field(default_factory=dict)

    def content(self, suffix: str) -> bytes:
        """Return the content of a file; an error where an older version has not written it."""
        if suffix not in self.files:
            raise OutdatedError(
                f"{self.name} has no {suffix}, and nextbar reads no pickle and no HDF5; make it: nextbar reproduce "
                f"{shlex.quote(self.name + '_metadata.json')} --upgrade"
            )
        return self.files[suffix]


class Fitted(ABC):
    """A model that was fitted, or loaded from its files."""

    params: Mapping[str, Any] | None = None
    """Parameters that another fold may use as they are."""

    @abstractmethod
    def predict(self, table: FeatureTable, rows: IntArray) -> FloatArray:
        """Predict from some rows of a ticker's table.

        Returns:
            [rows] probability of a rise, or the next close on the table's scale; NaN where there is none.

        Raises:
            ArtifactError: The model does not know the table's ticker.
        """

    @abstractmethod
    def files(self) -> Mapping[str, bytes]:
        """Suffix → content of the files that make the artifact."""

    @property
    def facts(self) -> JsonDict:
        """For the document: parameters, search, importance, history."""
        return {}

    @property
    def saved_facts(self) -> JsonDict:
        """For the document of a run that saves the model: what reading it needs beside its files."""
        return {}

    def about_test(self, panel: Sequence[Splits]) -> JsonDict:
        """For the document: what the features of test are like, seen from the model. Nothing depends on it."""
        return {}

    @property
    def explained(self) -> int:
        """Most rows whose `contributions` are averaged: deep trees take milliseconds a row."""
        return 250

    def contributions(self, features: FloatArray) -> FloatArray | None:
        """[rows, columns] what each column adds to a prediction, exactly; None where the model does not say.

        The unit is that in which a prediction is a sum: probability for a forest, log odds for boosted trees.
        """
        return None

    def beside(self, table: FeatureTable, rows: IntArray, predicted: FloatArray, returns: FloatArray) -> Columns:
        """For the figures of predicted prices [rows]: columns beside them, such as errors on the model's own scale.

        Predictions and returns to the next close, both [rows], are NaN where there is none.
        """
        return {}

    @property
    def digests(self) -> Mapping[str, str]:
        """sha256 per stage: search, params, weights (and scalers, where there are any)."""
        return {}

    @property
    def evidence(self) -> Mapping[str, pd.DataFrame]:
        """What a certificate compares, row by row, under the names of `nextbar.evaluation.stages.STAGES`."""
        return {}


@dataclass(frozen=True, kw_only=True)
class Model(Options, ABC):
    """Parameters of a kind of model, and nothing else.

    Attributes:
        kind: Its short name.
        per_ticker: Whether one model is trained per ticker, or one for all.
        predicts: ``probability`` of a rise, or the next ``close``.
        trusted: Whether nextbar loads its files without asking; else the user must say that they are safe.
        reads: Suffixes of the files that it is loaded from; None: all. The others are for people.
        deterministic: Whether the same rows and seed are known to give the same bits; else two processes are compared
            before anything is certified or reproduced.
        threads: Whether one fit of a training run has all cores and reports its steps.
        batch: Fits without a search that a worker makes in one go: more than one where a fit takes milliseconds.
        together: Whether an accelerator trains the folds of a walk-forward in one program, by `fit_together`.
        refits: Whether `fit` takes a panel without validation and test, and `FitRequest.rounds`.
    """

    kind: ClassVar[str]
    per_ticker: ClassVar[bool] = True
    predicts: ClassVar[str] = "probability"
    trusted: ClassVar[bool] = False
    deterministic: ClassVar[bool] = False
    reads: ClassVar[Sequence[str] | None] = None
    threads: ClassVar[bool] = False
    batch: ClassVar[int] = 1
    together: ClassVar[bool] = False
    refits: ClassVar[bool] = False

    def __post_init__(self) -> None:
        with in_python():
            super().__post_init__()

    @property
    def context(self) -> int:
        """Rows that must precede its first sample."""
        return 0

    @property
    def steps(self) -> int:
        """Steps that a fit reports at most."""
        return 1

    @property
    def searches(self) -> bool:
        """Whether fitting searches for parameters."""
        return False

    @property
    def searches_once(self) -> bool:
        """Whether a walk-forward searches in the first fold of a ticker alone."""
        return False

    @property
    def name(self) -> str:
        """How tables and file names call it."""
        return self.kind

    @property
    def code(self) -> Sequence[object]:
        """Objects whose classes must be known where it is fitted: itself, and what it is made of."""
        return [self]

    @property
    def libraries(self) -> tuple[str, ...]:
        """Packages besides those that every run records whose versions decide about the bits."""
        return ()

    def options(self) -> JsonDict:
        """Its parameters as options of a configuration; those that no configuration has stand under ``parameters``."""
        known = {item.name for item in fields(CommonConfig)} - {"name"}  # the run's name is no parameter
        own = {item.name: getattr(self, item.name) for item in fields(self)}
        found = {name: value for name, value in own.items() if name in known}
        others = {name: value for name, value in own.items() if name not in known}
        return found | ({"parameters": others} if others else {})

    def as_recorded(self, options: JsonDict) -> tuple[Model, JsonDict]:
        """Return the model and the recorded options of its run, where an older version recorded one otherwise."""
        return self, options

    @abstractmethod
    def fit(self, panel: Sequence[Splits], request: FitRequest) -> Fitted:
        """Train on train, stop early on validation; the panel ends before test."""

    def rounds(self, facts: JsonDict) -> Sequence[int]:
        """Return how many trees, or epochs of each network, a fit kept, from its facts; a refit takes as many.

        Returns:
            Nothing where the parameters say it.
        """
        return ()

    def fit_together(
        self, panels: Sequence[Sequence[Splits]], requests: Sequence[FitRequest], *, width: int | None
    ) -> Sequence[Fitted]:
        """Fit on several panels as `fit` does on one; only the last digits may differ.

        There is a request for each panel. ``width`` networks are trained at once; None: as many as fit the memory.
        """
        return [self.fit(panel, request) for panel, request in zip(panels, requests, strict=True)]

    def notes(self, facts: JsonDict) -> Mapping[str, bytes]:
        """Make files for people who use the model with the plain library: suffix → content.

        The facts are ``feature_columns``, ``threshold``, ``ticker``, ``prices``, ``warmup`` and the details of the fit.
        """
        return {}

    def to_save(self, files: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """Return the files of fits (suffix → content) as they are written to disk, where that is another format."""
        return files

    def restore(self, saved: Saved) -> Fitted:
        """Load a saved model, with what its document says about it; `load` is enough where the files say all."""
        return self.load(saved.files, saved.columns)

    def load(self, files: Mapping[str, bytes], columns: Sequence[str]) -> Fitted:
        """Load a saved model from its files.

        Args:
            files: Suffix → content, as `Fitted.files` gave them.
            columns: Names of the feature columns it was trained on, in order.

        Raises:
            ArtifactError: A file is damaged or holds something else than such a model.
        """
        raise ArtifactError(f"{self.name}: a model of this kind cannot be loaded; give its class a method load")
