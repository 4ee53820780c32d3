"""Bars from files: one file, an archive, or a folder, of text, Parquet or Feather; one bad file stops no other."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import pandas as pd

from nextbar.errors import BadBarsError, ConfigError, NextbarError
from nextbar.market.sources.columns import Hints
from nextbar.market.sources.containers import TABLES, TEXTS, Part, find_files, open_parts
from nextbar.market.sources.reader import REFUSED, Origin, SourceBars, csv_lines, read_bars
from nextbar.market.sources.resolve import choose, differing
from nextbar.market.sources.tables import read_arrow
from nextbar.market.sources.text import read_text
from nextbar.types import Progress
from nextbar.words import excerpt, listed, plural, printable

ENDINGS: Final = {"csv": TEXTS, "parquet": TABLES}


def read_files(
    path: Path, progress: Progress, hints: Hints | None = None, now: dt.datetime | None = None, *, kind: str
) -> SourceBars:
    """Read bars; what a file is, is seen from its content.

    Args:
        path: A file, or a folder and the folders in it.
        progress: Told how many files are read.
        hints: What the user says about them.
        now: The time, as in `Origin`.
        kind: Which files of a folder are read: ``csv`` or ``parquet``.

    Raises:
        BadBarsError: No file can be read; of several, others than those are left out with their reasons.
    """
    hints = hints or Hints()
    files, other = find_files(path, ENDINGS[kind])
    progress.start("reading files", len(files))
    read: dict[str, SourceBars] = {}
    left_out: dict[str, str] = {}
    for file in files:
        name = excerpt(file.relative_to(path) if file != path else file.name, 120)
        for part in open_parts(file, name):
            try:
                read[part.name] = _read_part(part, hints, now)
            except (BadBarsError, ConfigError) as error:
                if isinstance(error, ConfigError) and len(files) == 1:
                    raise
                left_out[part.name] = str(error)
        progress.advance(note=name)
    progress.finish()
    if not read:
        why = [f"{name}: {reason.removeprefix(f'{name}: ')}" for name, reason in left_out.items()]
        raise BadBarsError(
            listed(why, 3) if len(why) == 1 else f"no file can be used: {'; '.join(why[:3])}{' …' * (len(why) > 3)}"
        )
    if hints.ticker and len(read) > 1:
        raise ConfigError(f"--ticker {hints.ticker} is for one file; {printable(str(path))} holds {len(read)}")
    notes = [f"{plural(len(other), 'other file')} skipped: {listed(other, 3)}"] if other else []
    return _joined(read, left_out, notes)


def _read_part(part: Part, hints: Hints, now: dt.datetime | None) -> SourceBars:
    """Read one file; whatever a reader raises becomes a BadBarsError."""
    if part.why:
        raise BadBarsError(part.why)
    try:
        table = read_arrow(part.data) if part.arrow else read_text(part.data, hints)
        return read_bars(table, Origin(name=part.name, hints=hints, stem=part.stem, now=now))
    except NextbarError:
        raise
    except Exception as error:
        what = excerpt((str(error).splitlines() or [type(error).__name__])[0], 200)
        raise BadBarsError(f"cannot be read: {what}") from error


def _joined(read: Mapping[str, SourceBars], left_out: Mapping[str, str], notes: list[str]) -> SourceBars:
    """Put the bars of several files together; a ticker whose files differ on many days is left out."""
    if len(read) == 1:
        (source,) = read.values()
        return replace(source, notes=(*source.notes, *notes), left_out={**left_out})
    bars = pd.concat([source.bars for source in read.values()], ignore_index=True)
    files = pd.Series([name for name, source in read.items() for _ in range(len(source.bars))], dtype="str")
    found = choose(bars)
    lost = dict(left_out)
    lost |= {name: f"none of {plural(len(s.refused), 'row')} is a bar" for name, s in read.items() if s.bars.empty}
    rivals = differing(bars, found, common=True)
    for ticker, days in rivals.items():
        own = sorted(files[bars["ticker"] == ticker].unique())
        lost[excerpt(ticker)] = f"{plural(days, 'day')} have other prices in another file ({listed(own, 3)}): keep one"
    out = bars["ticker"].isin(rivals.index)
    kept = found.bars[~out[found.bars.index]]
    rows = [row for row in found.dropped if not out[row]]
    dropped = bars.iloc[rows]
    reasons = [found.dropped[row] for row in rows]
    lines = zip(dropped["ticker"], files.iloc[rows], reasons, csv_lines(dropped), strict=True)
    refused = pd.DataFrame(list(lines), columns=list(REFUSED), dtype="str")
    every = pd.concat([*(source.refused for source in read.values()), refused], ignore_index=True)
    return SourceBars(
        bars=kept.reset_index(drop=True),
        refused=every.astype("str"),
        notes=(*_merged({name: s.notes for name, s in read.items()}), *(found.notes if rows else ()), *notes),
        understood=_merged({name: s.understood for name, s in read.items()}),
        left_out=lost,
    )


def _merged(notes: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Return each note of several files once, with the file that it is about, or with their number."""
    files: dict[str, list[str]] = {}
    for name, told in notes.items():
        for note in told:
            files.setdefault(note, []).append(name)
    return tuple(
        f"{note} ({plural(len(names), 'file')})" if len(names) > 1 else f"{names[0]}: {note}"
        for note, names in files.items()
    )
