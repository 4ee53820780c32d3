"""A Run: one document and its rows, the same in memory and on disk; on disk it is whole or not there at all."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

from nextbar.config import TrainConfig, WalkForwardConfig
from nextbar.errors import ArtifactError, OwnModelError, in_python, remark
from nextbar.evaluation.series import Book
from nextbar.evaluation.trades import trades_of
from nextbar.features.spec import FeatureSpec
from nextbar.models.base import Model, Saved
from nextbar.models.registry import KINDS, label_of, model_of
from nextbar.models.reproducibility import digest_text
from nextbar.runs.document import Document
from nextbar.runs.files import (
    CERTIFICATE,
    HOLDOUT,
    REFIT,
    SIGNALS,
    WALK_FORWARD,
    as_path,
    mark_of,
    parquet_bytes,
    refuse_alike,
    reserve_timestamp,
    run_stem,
    ticker_part,
    writable_folder,
)
from nextbar.runs.fit import Task
from nextbar.runs.labels import Described
from nextbar.runs.rows import read_rows
from nextbar.runs.siblings import (
    CertificateRecord,
    check_siblings,
    read_certificate,
    read_siblings,
    write_run,
)
from nextbar.runs.trained import Contents, TickerModel, TrainedModel, check_features
from nextbar.types import JsonDict
from nextbar.untrusted import refusing
from nextbar.words import brief, excerpt, listed, nearest, plural

IN_MEMORY = "in memory"
REFUTED = "its certificate is FAIL: it may have used the future"


@dataclass(frozen=True, kw_only=True, repr=False)
class Run:
    """The result of training or of a walk-forward: a document and its rows, the same in memory and on disk.

    Attributes:
        document: All that the run says about itself; options that a file lacks are there with their defaults.
        config: Its configuration.
        stem: What the names of its files begin with; empty until it is saved.
        folder: Where its files are; None until it is saved.
        contents: What it holds in memory; None for a run that was read from disk.
        certificates: What `nextbar.certify` has found about it, the newest last; none for a run just loaded.
    """

    document: Document
    config: TrainConfig | WalkForwardConfig
    stem: str = ""
    folder: Path | None = None
    contents: Contents | None = None
    certificates: list[JsonDict] = field(default_factory=list, compare=False)

    def __repr__(self) -> str:
        return f"<nextbar.Run {self.name}: {plural(len(self.document.tickers), 'ticker')}, {self.folder or IN_MEMORY}>"

    @cached_property
    def rows(self) -> pd.DataFrame:
        """One row per out-of-sample day and ticker.

        Columns: date ticker fold probability predicted_close threshold class signal next_return strategy_return.

        Raises:
            ArtifactError: They are missing or cannot be read, or a file of the run was changed.
        """
        if self.contents is not None:
            return self.contents.rows
        self.check_siblings()
        if not self.rows_path.exists():
            raise ArtifactError(f"{self.rows_path} is missing; fetch it, or run again")
        with refusing(str(self.rows_path)):
            return read_rows(self.rows_path, self.tickers)

    @cached_property
    def book(self) -> Book:
        """The rows as daily series."""
        return self.document.book(self.rows)

    @property
    def trades(self) -> pd.DataFrame:
        """A row per trade: ticker, entry, exit, days, position, return before costs, cost; see `trades_of`."""
        return trades_of(self.book)

    @property
    def figures(self) -> pd.DataFrame:
        """A row for the model and for each baseline, a column a figure; net of costs, on the same days.

        ``one_bar_late`` and ``next_open`` are the model's own signals executed later.
        """
        document = self.document
        found = {
            "model": document.pooled,
            "one_bar_late": document.one_bar_late,
            "next_open": {name: value for name, value in document.next_open.items() if name != "edge"},
            **document.baselines,
        }
        return pd.DataFrame.from_dict(found, orient="index").rename_axis("row")

    @property
    def tickers(self) -> list[str]:
        """Its tickers."""
        return list(self.document.tickers)

    @property
    def described(self) -> Described:
        """What it is labelled by beside other runs."""
        return self.document.model, type(self.config), self.config.to_json()

    @property
    def label(self) -> str:
        """How tables call its tickers."""
        return self.tickers[0] if len(self.tickers) == 1 else f"{len(self.tickers)} tickers"

    @property
    def name(self) -> str:
        """How messages call it."""
        return self.stem or f"{self.title}, {', '.join(self.tickers[:3])}"

    @property
    def title(self) -> str:
        """What it is: its kind, the name that the user gave, and its model."""
        about = "" if self.document.kind == "signals" else f" of {self.document.model}"
        kind = self.document.kind.replace("walkforward", "walk-forward").replace("holdout", "opened holdout")
        return f'{kind} "{self.config.name}"{about}' if self.config.name else kind + about

    @property
    def source(self) -> str:
        """Name it in messages about damage: the file of its document, or `name` for a run in memory."""
        return self.name if self.folder is None else str(self.mark)

    @property
    def mark(self) -> Path:
        """Its commit mark: the file of its document; only a saved run has one."""
        if self.folder is None:
            raise ArtifactError(f"the {self.name} was not saved; save it first: run.save(folder)")
        return self.folder / mark_of(self.stem)

    @property
    def files(self) -> list[Path]:
        """Files of the run, that of the document last."""
        return [self.mark.parent / name for name in (*self.document.files, self.mark.name)]

    def save(self, folder: str | Path) -> list[Path]:
        """Write the run into a folder, which is made if need be.

        A training run of several models writes a document for each, and so can be loaded one by one.

        A model of the user's own kind is saved without its class: `nextbar.load_run` needs the model again.

        Returns:
            The paths of the files, that of a document after its siblings and its certificate, if there is one.

        Raises:
            OutputError: A file cannot be written.
            ArtifactError: The run lies on disk already.
        """
        if self.contents is None:
            raise ArtifactError(f"{self.name} was read from {self.folder}; copy its files")
        place = writable_folder(as_path(folder))
        with reserve_timestamp(place) as stamp:
            parts = [replace(part, certificates=self.certificates) for part in self.contents.parts or [self]]
            refuse_alike(part.label for part in parts)
            written = [part.write(place, stamp, everything=False) for part in parts]
        files = (path for run in written for path in (*run.files[:-1], run.sibling(CERTIFICATE), run.mark))
        return [path for path in files if path.exists()]

    def write(self, folder: Path, stamp: str, *, everything: bool) -> Run:
        """Write a run of one model, or a walk-forward, and give the run on disk, which holds nothing in memory.

        ``everything`` says that it was made on all tickers of a database.
        """
        assert self.contents is not None
        stem, files = self.stem_at(stamp, everything=everything), {self._rows_suffix: parquet_bytes(self.rows)}
        if self.document.kind == "train":
            (own,) = self.contents.files.values()
            files = {**self.own_model().to_save(own), **files}
        certificates = [] if self.document.holdout else self.certificates[-1:]  # an opening has that beside its run
        document = write_run(folder, stem, files, self.document, certificates)
        return replace(self, document=document, stem=stem, folder=folder, contents=None)

    def stem_at(self, stamp: str, *, everything: bool = False) -> str:
        """Return what the names of its files begin with when it is saved at a time; arguments as in `write`."""
        document, part = self.document, ticker_part(self.tickers, everything=everything)
        if document.holdout is not None:
            return f"{document.holdout.run}{HOLDOUT}{stamp}"
        labels = {"train": label_of(document.model), "signals": SIGNALS}
        return f"{labels.get(document.kind, WALK_FORWARD + document.model)}_{part}_{stamp}"

    @property
    def _rows_suffix(self) -> str:
        return ".parquet" if self.document.kind in {"walkforward", "holdout"} else "_predictions.parquet"

    @in_python()
    def model(
        self,
        ticker: str | None = None,
        *,
        features: Any = None,
        panel_features: Any = None,
        model: Model | None = None,
        trust: bool = False,
        refit: bool = False,
    ) -> TickerModel:
        """Give the trained model of a ticker, the one that the run's figures are of, or its refit.

        Args:
            ticker: The ticker; None where the run has a single one.
            features: The user's own feature function that a run on disk was trained with.
            panel_features: The user's own function over all tickers, likewise.
            model: The user's own model that a run on disk is of.
            trust: Load a model of the user's own from its pickle, which may run code.
            refit: Give the model that was fitted once more on all bars, as `nextbar predict` does.

        Raises:
            ArtifactError: The run has no such model, or a file is damaged.
            FeatureError: The run has a feature function that was not given.
        """
        known = self.tickers
        ticker = known[0] if ticker is None and len(known) == 1 else ticker
        if not isinstance(ticker, str) or ticker not in known:
            asked = excerpt(ticker, 60) if isinstance(ticker, str) else brief(ticker)
            advice = f", not {asked}{nearest(asked, known)}; train a model of it"
            advice = f"; give the ticker: run.model({known[0]!r})" if ticker is None else advice
            raise ArtifactError(f"{self.name} knows {listed(known, 5)}{advice}")
        own = self.trained(
            ticker, features=features, panel_features=panel_features, model=model, trust=trust, refit=refit
        )
        if self.refuted():
            remark(f"{self.name}: {REFUTED}")
        return TickerModel(trained=own, ticker=ticker, run=self)

    def trained(
        self,
        ticker: str | None = None,
        *,
        features: Any = None,
        panel_features: Any = None,
        model: Model | None = None,
        trust: bool = False,
        unless_plain: bool = False,
        refit: bool = False,
    ) -> TrainedModel:
        """Load the model that a ticker belongs to, as `model` does; without a ticker, the only model of the run.

        ``unless_plain`` accepts a function for a model that was trained with none.
        """
        if self.document.kind == "signals":
            raise ArtifactError(f"{self.name}: signals have no model")
        if (opened := self.document.holdout) is not None:
            raise ArtifactError(f"{self.name}: an opening keeps predictions only; its model belongs to {opened.run}")
        if not isinstance(self.config, TrainConfig):
            raise ArtifactError(f"{self.name}: a walk-forward keeps predictions, not models; train one to predict with")
        task = next(task for _, task in self.document.fits if ticker is None or ticker in task.splits)
        spec, own = self.features(features, panel_features, unless_plain=unless_plain), self.own_model(model)
        self.check_trust(own, trust=trust)
        if refit and task.refit is None:
            raise ArtifactError(
                f"{self.name} has no refit; make one with nextbar.refit(run, bars), or train: nextbar train … --refit"
            )
        found = TrainedModel(
            name=(self.stem or self.name) + (REFIT if refit else ""),
            config=self.config,
            spec=spec,
            document=self.document,
            task=task,
            fitted=own.restore(self.saved_model(task, own, refit=refit)),
            refit=refit,
        )
        found.check(own.predicts)
        return found

    def check_trust(self, model: Model, *, trust: bool) -> None:
        """Refuse to load files that may run code, unless the user trusts them."""
        if self.contents is None and not model.trusted and not trust:
            raise OwnModelError(
                f"{self.name} is a model of your own, and loading it may run code; if you trust its files, pass "
                "trust=True (in a command: --trust)"
            )

    def saved_model(self, task: Task, model: Model, *, refit: bool = False) -> Saved:
        """Read the files that a fit, or its refit, is loaded from, and what the document says about it."""
        prefix, own = (REFIT, task.refitted or task) if refit else ("", task)
        if self.contents is not None:
            name, files = self.name, self.contents.files[task.name]
        else:
            reads = None if model.reads is None else [prefix + suffix for suffix in model.reads]
            name, files = str(self.mark.parent / self.stem), self.read_files(reads)
        mine = {suffix: content for suffix, content in files.items() if suffix.startswith(REFIT) == refit}
        return Saved(
            name=name + prefix,
            files={suffix.removeprefix(prefix): content for suffix, content in mine.items()},
            columns=self.document.features.columns,
            params=task.chosen or {},
            details=own.details,
            scalers=own.scalers or {},
        )

    def features(self, features: Any = None, panel: Any = None, *, unless_plain: bool = False) -> FeatureSpec:
        """Give its feature columns, where the user has named the functions that it records."""
        if self.contents is not None:
            return self.contents.features
        recorded = FeatureSpec.of(self.config)
        parse = partial(FeatureSpec.parse, warmup=self.config.warmup)
        asked = FeatureSpec(sets=()) if features is None else parse(features)
        asked = asked if panel is None else replace(asked, panel=parse([], panel).panel)
        if recorded.name is not None or recorded.panel or not unless_plain:
            check_features(self.name, recorded, asked)
        functions = asked.functions if recorded.functions else ()
        return replace(recorded, functions=functions, panel=asked.panel if recorded.panel else ())

    def own_model(self, model: Model | None = None) -> Model:
        """Give its model: one of a built-in kind is made from the configuration, another must be given."""
        if self.contents is not None and self.contents.model is not None:
            return self.contents.model
        name = self.document.model
        if name in KINDS:
            return model_of(name, self.config)
        if model is None or model.name != name:
            raise OwnModelError(
                f"{self.name} is a run of your own model {name}; pass it: model=… in Python, module:factory in a "
                "command"
            )
        model, recorded = model.as_recorded(self.config.to_json())
        given = json.loads(json.dumps(model.options()))
        if other := [f"{key} {brief(recorded.get(key))}" for key in given if given[key] != recorded.get(key)]:
            raise OwnModelError(f"{self.name} was made with {', '.join(other)}; pass a model with the same parameters")
        return model

    @property
    def rows_path(self) -> Path:
        """File of its out-of-sample rows, there or not."""
        return self.sibling(self._rows_suffix)

    @property
    def sha256(self) -> str:
        """Digest of the list of siblings with their digests: says which bytes this run is made of, without a refit."""
        return self._digest(refit=False)

    @property
    def refit_sha256(self) -> str:
        """The same of the files of its refit."""
        return self._digest(refit=True)

    def _digest(self, *, refit: bool) -> str:
        own, start = self.document.files, self.stem + REFIT
        files = {name: own[name] for name in own if name.startswith(start) == refit}
        return digest_text(json.dumps(files, sort_keys=True))

    @property
    def digest(self) -> str:
        """Name and digest: which run this is, whoever has copied it."""
        return f"{self.stem} {self.sha256}"

    def sibling(self, suffix: str) -> Path:
        """A file of the run, there or not."""
        return self.mark.parent / (self.stem + suffix)

    def read_files(self, suffixes: Collection[str] | None = None) -> dict[str, bytes]:
        """Check the digest of every sibling, and read some, or all: suffix → content."""
        return read_siblings(self.mark, self.stem, self.document.files, suffixes)

    def check_siblings(self) -> None:
        """Check those siblings that lie here; what was not brought along is not missed."""
        check_siblings(self.mark, self.stem, self.document.files)

    def certificate(self) -> CertificateRecord | None:
        """Return what its certificate says, where one lies beside it; without a verdict if it is about other files."""
        if self.certificates:
            return msgspec.convert(self.certificates[-1], CertificateRecord)
        return None if self.folder is None else read_certificate(self.mark, self.stem)

    def refuted(self) -> bool:
        """Whether a failed certificate of it lies beside it; of an opening, one of the run that was opened."""
        found = replace(self, stem=run_stem(self.stem)).certificate()
        return found is not None and found.verdict == "FAIL"
