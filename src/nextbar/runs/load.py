"""Runs on disk: load the run that a file belongs to, and list those in folders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from nextbar.config import CommonConfig
from nextbar.errors import ArtifactError, ConfigError, NextbarError, remark
from nextbar.models.registry import label_of
from nextbar.runs.document import read_document
from nextbar.runs.files import SIGNALS, WALK_FORWARD, is_opening, mark_of, match_stem, run_stem, stem_of
from nextbar.runs.labels import Described, labels
from nextbar.runs.names import SUFFIX as NAME_SUFFIX
from nextbar.runs.names import is_given, named_place, names_in, read_pointer
from nextbar.runs.run import Run
from nextbar.runs.trial import record_of
from nextbar.types import JsonDict
from nextbar.untrusted import refusing
from nextbar.words import listed

Config = TypeVar("Config", bound=CommonConfig)

LARGEST_OPTION = 2**31 - 1
"""Largest recorded number; only a seed may be larger."""
LISTED = ("days", "balanced_accuracy", "roc_auc", "sharpe", "max_drawdown", "annual_return")
"""Figures of a run in a list of runs."""


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
            "certified": None if (found := run.certificate()) is None else found.verdict == "PASS",
            "refuted": run.refuted(),
            "missing": [path.name for path in run.files if not path.exists()],
        }


def find_marks(folders: Iterable[str | Path]) -> Iterator[Path]:
    """Commit marks in these folders."""
    for path in (path for folder in folders for path in sorted(Path(folder).glob("*.json"))):
        if (match := match_stem(path.name)) and path.name == mark_of(match.group()):
            yield path
