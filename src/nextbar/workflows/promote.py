"""Use case: give trained runs a name that predictions are made and scored by."""

from __future__ import annotations

import datetime as dt
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from nextbar.errors import ConfigError
from nextbar.evaluation.verdict import SUSPICIOUS_WHY, is_suspicious
from nextbar.models.registry import KINDS
from nextbar.reports.sentences import certify_command, function_options
from nextbar.runs import names
from nextbar.runs.load import expecting_parts, load_run
from nextbar.runs.run import REFUTED, Run
from nextbar.types import JsonDict
from nextbar.words import by_reason, listed

UNCERTIFIED = {
    None: "never certified",
    "": "its certificate is about other files",
    "INCOMPLETE": "its certificate is INCOMPLETE",
}
"""What is said of a run by the verdict of its certificate; nothing of one that is PASS."""


@dataclass(frozen=True, kw_only=True)
class Promoted:
    """A name, the runs that it means now and those that it meant before, and its file.

    Attributes:
        command: What predicts with the name.
        notes: What speaks against the runs: figures too good for skill, and no certificate that is PASS.
    """

    name: str
    runs: list[str]
    before: list[str]
    path: Path
    command: str
    notes: list[str]

    def __str__(self) -> str:
        before = f"before: {', '.join(self.before)}" if self.before else "a new name"
        means = f"{self.name} means {', '.join(self.runs)} ({before})"
        return "\n".join([means, str(self.path), f"predict with: {self.command}"])

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
    return Promoted(
        name=name,
        runs=stems,
        before=before,
        path=names.pointer_path(folder / name),
        command=_predict_command(folder / name, runs),
        notes=_doubts(runs),
    )


def _predict_command(place: Path, runs: Sequence[Run]) -> str:
    """Return the command that predicts with a name, given as ``folder/name``."""
    default = names.named_place(Path(place.name)).parent.resolve() == place.parent.resolve()
    # a name without a folder means the default folder, also in the folder of the runs
    shown = place.name if default else str(place if place.parent != Path() else place.resolve())
    own = " --trust --model module:factory" if any(run.document.model not in KINDS for run in runs) else ""
    functions = "".join(dict.fromkeys(map(function_options, runs)))
    return f"nextbar predict {shlex.quote(shown)}{own}{functions}"


def _doubts(runs: Sequence[Run]) -> list[str]:
    """Say which runs are suspicious and which have no certificate that is PASS, each reason once with its runs."""
    found = []
    for run in runs:
        certificate = run.certificate()
        verdict = None if certificate is None else certificate.verdict
        told = [UNCERTIFIED[verdict]] if verdict in UNCERTIFIED else []
        with expecting_parts(run):
            told += [f"SUSPICIOUS: {SUSPICIOUS_WHY}"] if is_suspicious(run.book) else []
        if told:
            found.append((run.name, ", and ".join(told)))
    by_name = {run.name: run for run in runs}
    return [
        f"{listed(own, noun='runs')}: {text}; look for a leak with: {certify_command(by_name[own[0]])}"
        for text, own in by_reason(found).items()
    ]
