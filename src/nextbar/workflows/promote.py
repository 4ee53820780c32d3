"""Use case: give trained runs a name that predictions are made and scored by."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from nextbar.errors import ConfigError
from nextbar.runs import names
from nextbar.runs.load import load_run
from nextbar.runs.run import REFUTED
from nextbar.types import JsonDict


@dataclass(frozen=True, kw_only=True)
class Promoted:
    """A name, the runs that it means now and those that it meant before, and its file."""

    name: str
    runs: list[str]
    before: list[str]
    path: Path

    def __str__(self) -> str:
        before = f"before: {', '.join(self.before)}" if self.before else "a new name"
        return "\n".join([f"{self.name} means {', '.join(self.runs)} ({before})", str(self.path)])

    def to_json(self) -> JsonDict:
        """Return the result for `--json`."""
        return asdict(self) | {"path": str(self.path)}


def promote(paths: Sequence[Path], name: str) -> Promoted:
    """Let a name mean these runs, each given by one of its files, from now on."""
    names.check_name(name)
    runs = [load_run(path) for path in paths]
    for run in runs:
        run.check_siblings()
        if run.document.kind != "train":
            raise ConfigError(f"{run.name} has no model to predict with; only a run of nextbar train can have a name")
        if run.refuted():
            raise ConfigError(f"{run.name}: {REFUTED}; no name is given to it, train again without the leak")
    folders = {path.parent.resolve(): path.parent for path in paths}
    if len(folders) > 1:
        told = " and ".join(map(str, folders.values()))
        raise ConfigError(f"a name means runs of one folder, these are in {told}; copy the files of one of them")
    folder, stems = next(iter(folders.values())), list(dict.fromkeys(run.stem for run in runs))
    if (folder / name).exists():
        raise ConfigError(
            f"{folder / name} is a file or a folder, which predict would use instead; choose another name"
        )
    before = names.promote(folder, stems, name, now=dt.datetime.now(dt.UTC))
    return Promoted(name=name, runs=stems, before=before, path=names.pointer_path(folder / name))
