"""A Run: one document and its rows, the same in memory and on disk; on disk it is whole or not there at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import pandas as pd

from nextbar.config import CommonConfig, TrainConfig, WalkForwardConfig, record_of
from nextbar.errors import ArtifactError, ConfigError, NextbarError, OutputError, OwnModelError, in_python, remark
from nextbar.evaluation.series import Book
from nextbar.evaluation.trades import trades_of
from nextbar.features.spec import FeatureSpec
from nextbar.models.base import Model, Saved
from nextbar.models.registry import KINDS, label_of, model_of
from nextbar.models.reproducibility import digest_text
from nextbar.runs.document import Document, Task, parse_json, read_document
from nextbar.runs.files import (
    HOLDOUT,
    MOST_BYTES,
    MOST_FILE_BYTES,
    REFIT,
    SIGNALS,
    SUFFIX,
    WALK_FORWARD,
    as_path,
    digest_file,
    is_opening,
    mark_of,
    match_stem,
    parquet_bytes,
    read_limited,
    remove_files,
    reserve_timestamp,
    run_stem,
    stem_of,
    ticker_part,
    writable_folder,
    write_bytes,
)
from nextbar.runs.labels import Described, labels
from nextbar.runs.names import SUFFIX as NAME_SUFFIX
from nextbar.runs.names import is_given, named_place, names_in, read_pointer
from nextbar.runs.rows import read_rows
from nextbar.runs.trained import TickerModel, TrainedModel, check_features
from nextbar.types import JsonDict
from nextbar.untrusted import MOST_JSON_BYTES, refusing
from nextbar.words import listed, nearest

Config = TypeVar("Config", bound=CommonConfig)

IN_MEMORY = "in memory"
LARGEST_OPTION = 2**31 - 1
"""Largest recorded number; only a seed may be larger."""
LISTED = ("days", "balanced_accuracy", "roc_auc", "sharpe", "max_drawdown", "annual_return")
"""Figures of a run in a list of runs."""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a run in memory holds beside its document.

    Attributes:
        rows: Its out-of-sample rows.
        files: Name of a fit → suffix → content of the files that make its model; none for a walk-forward.
        parts: Of a training run of several models, the run of each.
        model: What was fitted; None for signals of the user's own.
        features: Its feature columns.
    """

    rows: pd.DataFrame
    model: Model | None
    features: FeatureSpec
    files: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)
    parts: Sequence[Run] = ()


class ReadsRecord(msgspec.Struct, frozen=True):
    """Whether it was looked for what a function reads without an event."""

    without_descriptors: bool = False


class CertificateRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is read of a certificate: its verdict, its files, and which reads of the user's functions were checked."""

    verdict: Literal["", "PASS", "FAIL", "INCOMPLETE"] = ""
    certifies: dict[str, str] = {}
    reads: list[ReadsRecord] = []
    allow_reads: list[str] = []


@dataclass(frozen=True, kw_only=True, repr=False)
class Run:
    """The result of training or of a walk-forward: a document and its rows, the same in memory and on disk.

    Attributes:
        document: All that the run says about itself; options that a file lacks are there with their defaults.
        config: Its configuration.
        stem: What the names of its files begin with; empty until it is saved.
        folder: Where its files are; None until it is saved.
        contents: What it holds in memory; None for a run that was read from disk.
    """

    document: Document
    config: TrainConfig | WalkForwardConfig
    stem: str = ""
    folder: Path | None = None
    contents: Contents | None = None

    def __repr__(self) -> str:
        tickers = len(self.document.tickers)
        many = "ticker" if tickers == 1 else "tickers"
        return f"<nextbar.Run {self.name}: {tickers} {many}, {self.folder or IN_MEMORY}>"

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
            raise ArtifactError(
                f"{self.rows_path} is missing; a run is whole with all its files, fetch it or run again"
            )
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
            The paths of the files, that of a document after its siblings.

        Raises:
            OutputError: A file cannot be written.
            ArtifactError: The run lies on disk already.
        """
        if self.contents is None:
            raise ArtifactError(f"{self.name} was read from {self.folder}; copy its files")
        place = writable_folder(as_path(folder))
        with reserve_timestamp(place) as stamp:
            written = [part.write(place, stamp, everything=False) for part in self.contents.parts or [self]]
        return [path for run in written for path in run.files]

    def write(self, folder: Path, stamp: str, *, everything: bool) -> Run:
        """Write a run of one model, or a walk-forward, and give the run on disk, which holds nothing in memory.

        ``everything`` says that it was made on all tickers of a database.
        """
        assert self.contents is not None
        stem, files = self.stem_at(stamp, everything=everything), {self._rows_suffix: parquet_bytes(self.rows)}
        if self.document.kind == "train":
            (own,) = self.contents.files.values()
            files = {**self.own_model().to_save(own), **files}
        document = write_run(folder, stem, files, self.document)
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
        if ticker is None and len(known) == 1:
            ticker = known[0]
        if ticker not in known:
            shown = ", ".join(known[:5]) + (" …" if len(known) > 5 else "")
            near = nearest(str(ticker), known)
            raise ArtifactError(f"{self.name} knows {shown}, not {ticker}{near}; train a model of it")
        own = self.trained(
            ticker, features=features, panel_features=panel_features, model=model, trust=trust, refit=refit
        )
        return TickerModel(trained=own, ticker=ticker)

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
        if self.document.holdout is not None:
            raise ArtifactError(
                f"{self.name}: an opening keeps predictions; the model is of {self.document.holdout.run}"
            )
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
        if other := [f"{key} {recorded.get(key)!r}" for key in given if given[key] != recorded.get(key)]:
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
        files = {
            name: digest for name, digest in self.document.files.items() if name.startswith(self.stem + REFIT) == refit
        }
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
        found = {}
        for name in self._siblings():
            suffix = name.removeprefix(self.stem)
            wanted = suffixes is None or suffix in suffixes
            content = self._check(name, read=wanted)
            if wanted:
                found[suffix] = content
        return found

    def check_siblings(self) -> None:
        """Check those siblings that lie here; what was not brought along is not missed."""
        for name in self._siblings():
            if os.path.lexists(self.mark.parent / name):
                self._check(name)

    def certificate(self) -> CertificateRecord | None:
        """Return what its certificate says, where one lies beside it; without a verdict if it is about other files."""
        path = self.sibling("_certificate.json")
        if not path.exists():
            return None
        with refusing(str(path)):
            found = msgspec.convert(parse_json(read_limited(path, MOST_JSON_BYTES), str(path)), CertificateRecord)
        own = found.certifies == {self.mark.name: digest_file(self.mark, MOST_JSON_BYTES)}
        return found if own else CertificateRecord()

    def certified(self) -> bool | None:
        """Whether its certificate is a pass and is about these files; None if it has none."""
        found = self.certificate()
        return None if found is None else found.verdict == "PASS"

    def _siblings(self) -> Iterable[str]:
        """Names of the other files, which are in the same folder and begin with the stem."""
        if not self.document.files:
            raise ArtifactError(f"{self.mark} lists no files; train again")
        for name in self.document.files:
            if not name.startswith(self.stem) or not SUFFIX.fullmatch(name[len(self.stem) :]):
                raise ArtifactError(f"{self.mark} lists {name!r}, which is no file of this run; do not trust it")
        return self.document.files

    def _check(self, name: str, *, read: bool = False) -> bytes:
        """Refuse a file with another digest than the document says; give its content if it is to be read."""
        path, digest = self.mark.parent / name, self.document.files[name]
        content = read_limited(path, MOST_BYTES.get(path.suffix, MOST_FILE_BYTES)) if read else b""
        found = hashlib.sha256(content).hexdigest() if read else digest_file(path, MOST_FILE_BYTES)
        if found != digest:
            raise ArtifactError(
                f"{path} is damaged or was changed: its sha256 is {found[:12]}…, the metadata says {digest[:12]}…; "
                "fetch it again or train again"
            )
        return content


def check_runs(runs: Iterable[object]) -> None:
    """Refuse what is no run."""
    for run in runs:
        if not isinstance(run, Run):
            raise ConfigError(f"expected a run, as nextbar.train or nextbar.load_run gives, got {type(run).__name__}")


def load_run(path: str | Path) -> Run:
    """Read the run that a file belongs to: its document, a model or any other sibling."""
    target = Path(path)
    _refuse_several(target)
    stem = stem_of(target)
    mark = target.with_name(mark_of(stem))
    document = read_document(mark)
    kind, opened = document.recipe, document.holdout is not None
    if (kind == "walkforward") != stem.startswith(WALK_FORWARD) or opened != is_opening(stem):
        raise ArtifactError(f"{mark} is refused: it is of kind {document.kind}, its name says otherwise")
    if document.holdout is not None and document.holdout.run != run_stem(stem):
        raise ArtifactError(f"{mark} is refused: it is an opening of {document.holdout.run}, its name says otherwise")
    config = read_config(record_of(kind), document.config, str(mark))
    labels = {"train": label_of(document.model), "signals": SIGNALS}
    label = labels.get(kind, WALK_FORWARD + document.model)
    if config.model != document.model or not stem.startswith(f"{label}_"):
        raise ArtifactError(f"{mark} is refused: its model is {document.model}, its configuration or name says another")
    completed = msgspec.structs.replace(document, config=config.to_json())
    return Run(folder=target.parent, stem=stem, document=completed, config=config)


def _refuse_several(path: Path) -> None:
    """Refuse a folder and a name that stands for runs; say which they are."""
    name = path.name.removesuffix(NAME_SUFFIX)
    if match_stem(path.name):
        return
    place = named_place(path.with_name(name)) if name else path
    if path.is_dir():
        marks, told = list(find_marks([path])), "a folder"
    elif is_given(place):
        marks, told = [place.with_name(mark_of(stem)) for stem in read_pointer(place).runs], "a name of runs"
    else:
        return
    if not marks:
        raise ArtifactError(f"{path} is {told} without a run; give a file of a run, such as its *_metadata.json")
    raise ArtifactError(f"{path} is {told}; give a file of one run: {listed([*map(str, marks)], 3)}")


def load_runs(paths: Iterable[str | Path]) -> list[Run]:
    """Read the run of each file, each run once; a remark says which are of some tickers only of their training run."""
    runs = list({run.mark.resolve(): run for run in map(load_run, paths)}.values())
    for text in others_left_out(runs):
        remark(text)
    return runs


def others_left_out(runs: Iterable[Run]) -> list[str]:
    """Say which of these are of some tickers only of a training run that made a model of each of its tickers."""
    parts: dict[tuple[str, int], dict[str, str]] = {}
    for run in runs:
        group, tickers = run.document.run, run.tickers
        if group is not None and [fit.name for _, fit in run.document.fits] == tickers:
            parts.setdefault((group.id, group.tickers), {})[run.name] = tickers[0]
    return [
        f"{listed([*own])}: {len(own)} of the {count} tickers of one training run; others that were trained have files "
        "of their own"
        for (_, count), own in parts.items()
        if len(own) < count
    ]


def read_config(record: type[Config], recorded: Mapping[str, Any], name: str) -> Config:
    """Read the configuration of this class that a document, or a file of this name, records.

    An option that it lacks has its default. An unknown one is refused, and so is a value of another kind than its
    default or outside its limits.
    """
    defaults = record().to_json()
    if unknown := sorted(recorded.keys() - defaults.keys()):
        raise ArtifactError(
            f"{name}: this nextbar does not know the recorded options {', '.join(unknown[:5])}; a newer nextbar wrote "
            "them: upgrade nextbar to use this run"
        )
    with refusing(name):
        for option, value in recorded.items():
            kinds = {float: (int, float), type(None): (object,)}.get(type(defaults[option]), (type(defaults[option]),))
            if not isinstance(value, kinds):
                raise TypeError(f"{option} is {repr(value)[:60]}")
            if option != "seed" and isinstance(value, int | float) and abs(value) > LARGEST_OPTION:
                raise ValueError(f"{option} is {value:.6g}, expected at most {LARGEST_OPTION:.6g}")
        return record(**recorded)


@contextmanager
def expecting_parts(run: Run) -> Iterator[None]:
    """Refuse a run from disk whose rows or figures lack something: it is damaged, that is no fault of ours."""
    try:
        yield
    except NextbarError:
        raise
    except Exception as error:
        if run.contents is not None:
            raise
        fault = f"{type(error).__name__}: {str(error)[:200]}"
        raise ArtifactError(f"{run.source}: a part is missing or of another kind ({fault}); run it again") from error


def list_runs(folders: Iterable[str | Path]) -> tuple[list[JsonDict], list[str]]:
    """One record per run in these folders, the latest first; and what is wrong with the runs that cannot be told."""
    found, described, damaged = list[JsonDict](), list[Described](), list[str]()
    named = _named(folders)
    for mark in {path.resolve(): path for path in find_marks(folders)}.values():
        try:
            run = load_run(mark)
            found.append(_summary(run, named))
            described.append(run.described)
        except ArtifactError as error:
            damaged.append(str(error))
    found = [{"label": label, **one} for label, one in zip(labels(described), found, strict=True)]
    return sorted(found, key=lambda run: str(run["created"]), reverse=True), damaged


def _named(folders: Iterable[str | Path]) -> dict[Path, list[str]]:
    """Run → the names that mean it; a damaged name is refused where it is used."""
    found: dict[Path, list[str]] = {}
    for folder in map(Path, folders):
        for name in names_in(folder):
            with suppress(ArtifactError):
                for stem in read_pointer(folder / name).runs:
                    found.setdefault(folder.resolve() / stem, []).append(name)
    return found


def _summary(run: Run, named: Mapping[Path, list[str]]) -> JsonDict:
    document = run.document
    with expecting_parts(run):
        return {
            "name": run.stem,
            "names": named.get(run.mark.parent.resolve() / run.stem, []),
            "folder": str(run.folder),
            "created": document.created,
            "kind": document.kind,
            "model": document.model,
            "tickers": document.tickers,
            **{name: document.pooled[name] for name in LISTED},
            "certified": run.certified(),
            "missing": [path.name for path in run.files if not path.exists()],
        }


def find_marks(folders: Iterable[str | Path]) -> Iterator[Path]:
    """Commit marks in these folders."""
    for path in (path for folder in folders for path in sorted(Path(folder).glob("*.json"))):
        if (match := match_stem(path.name)) and path.name == mark_of(match.group()):
            yield path


def write_run(folder: Path, stem: str, files: Mapping[str, bytes], document: Document) -> Document:
    """Write `<stem><suffix>` for every file, then the document, with sha256 and path of each; return the document.

    Without the document there is no run: an interruption leaves at most siblings that nothing lists, an error nothing.
    """
    siblings = {stem + suffix: hashlib.sha256(content).hexdigest() for suffix, content in files.items()}
    whole = msgspec.structs.replace(document, files=siblings, paths={name: f"./{name}" for name in siblings})
    contents = {**{stem + suffix: content for suffix, content in files.items()}, mark_of(stem): whole.to_json_bytes()}
    written: list[Path] = []
    try:  # one after the other: a run whose document is there is whole
        for name, content in contents.items():
            written.append(folder / name)
            write_bytes(written[-1], content)
    except BaseException as error:
        remove_files(written)
        if isinstance(error, OSError):
            raise OutputError(
                f"{written[-1]}: cannot be written ({error.strerror}); nothing of this run was kept"
            ) from error
        raise
    return whole
