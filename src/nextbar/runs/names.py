"""Names of runs: a small file beside the runs that says which of them a name means, now and earlier."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from nextbar.config import TrainConfig
from nextbar.errors import ArtifactError, ConfigError
from nextbar.runs.files import alone_with, match_stem, read_limited, save_bytes
from nextbar.untrusted import refusing, strict_json
from nextbar.words import brief, listed, nearest

SUFFIX = ".name.json"
MOST_BYTES = 2**20
_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")


class Promotion(Struct, frozen=True, kw_only=True):
    """From when on a name means these runs: UTC, ISO 8601 to the second; the stems of their files."""

    since: str
    runs: list[str]


class Pointer(Struct, frozen=True, kw_only=True):
    """What a name means: the last promotion counts, earlier ones tell what it meant before."""

    schema_version: int
    promotions: list[Promotion]

    @property
    def runs(self) -> list[str]:
        """The runs that the name means now."""
        return self.promotions[-1].runs

    def meant(self, model: str, when: dt.datetime) -> bool:
        """Whether the name meant a run at some time."""
        since = [one for one in self.promotions if dt.datetime.fromisoformat(one.since) <= when]
        return bool(since) and model in since[-1].runs


def check_name(name: str) -> str:
    """Return a name; refuse what is none."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"a name of a run is at most 40 lower-case letters, digits and -, the first a letter, such as production; "
            f"got {brief(name)}"
        )
    return name


def pointer_path(place: Path) -> Path:
    """Return the file of a name, given as ``folder/name``."""
    return place.with_name(place.name + SUFFIX)


def is_name(place: Path) -> bool:
    """Whether a path is no file and no folder, but the name of runs in its folder, or could be one."""
    return not place.exists() and _NAME.fullmatch(place.name) is not None


def is_given(place: Path) -> bool:
    """Whether ``folder/name`` is the name of runs."""
    return _NAME.fullmatch(place.name) is not None and pointer_path(place).exists()


def named_place(name: Path) -> Path:
    """Return ``folder/name`` of a name: as it is given with a folder, else in `models`."""
    return name if name.parent != Path() else Path(TrainConfig.save_dir) / name


def promote(folder: Path, stems: Sequence[str], name: str, *, now: dt.datetime) -> list[str]:
    """Let a name mean these runs of a folder from now on; return the runs that it has meant so far."""
    path = pointer_path(folder / check_name(name))
    latest = Promotion(since=now.isoformat(timespec="seconds"), runs=list(stems))
    with alone_with(folder):  # else one of two promotions at the same time would be lost
        earlier = read_pointer(folder / name).promotions if path.exists() else []
        pointer = Pointer(schema_version=1, promotions=[*earlier, latest])
        save_bytes(path, json.dumps(msgspec.to_builtins(pointer), indent=1).encode(), "change its permissions")
    return earlier[-1].runs if earlier else []


def read_pointer(place: Path) -> Pointer:
    """Read what a name means, given as ``folder/name``."""
    path = pointer_path(place)
    if not path.exists():
        known = sorted(names_in(place.parent))
        raise ArtifactError(
            f"{place}: there is no such file, and no run in {place.parent} has that name (names there: "
            f"{listed(known) or 'none'}){nearest(place.name, known)}; give one: nextbar promote RUN --as {place.name}"
        )
    content = read_limited(path, MOST_BYTES)
    with refusing(str(path)):
        found = msgspec.convert(strict_json(content), Pointer)
        if found.schema_version != 1:
            raise ValueError(f"schema version {found.schema_version} was written by a newer nextbar")
        for one in found.promotions:
            if dt.datetime.fromisoformat(one.since).tzinfo is None:
                raise ValueError(f"{one.since} has no time zone")
            if not one.runs or not all(_is_stem(run) for run in one.runs):
                raise ValueError(f"it names {one.runs}, which are not runs")
        _ = found.runs
    return found


def names_in(folder: Path) -> Iterator[str]:
    """The names that are given in a folder."""
    return (path.name.removesuffix(SUFFIX) for path in sorted(folder.glob(f"*{SUFFIX}")))


def _is_stem(run: str) -> bool:
    match = match_stem(run)
    return match is not None and match.group() == run
