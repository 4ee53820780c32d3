"""Bars from files: one file, an archive, or a folder, of text, Parquet or Feather; one bad file stops no other."""

from __future__ import annotations

import datetime as dt
import lzma
import os
import stat
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final, NamedTuple

import pandas as pd
import pyarrow as pa

from nextbar.errors import BadBarsError, ConfigError, NextbarError
from nextbar.market.quality import choose, differing
from nextbar.market.sources.columns import Hints
from nextbar.market.sources.reader import REFUSED, Origin, SourceBars, csv_lines, read_bars
from nextbar.market.sources.tables import limit_of, read_arrow
from nextbar.market.sources.text import read_text
from nextbar.types import Progress
from nextbar.words import excerpt, listed, nearest, plural, printable

TEXTS: Final = (".csv", ".txt", ".tsv")
TABLES: Final = (".parquet", ".pq", ".feather", ".arrow")
ENDINGS: Final = {"csv": TEXTS, "parquet": TABLES}
PACKED: Final = (".gz", ".bz2", ".xz", ".zst")
MOST_MEMBERS: Final = 100_000
STREAMS: Final = ((b"\x1f\x8b", "gzip"), (b"BZh", "bz2"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"\xfd7zXZ\0", "xz"))
ARROW: Final = (b"PAR1", b"ARROW1", b"FEA1")
WORKBOOK: Final = "an Excel workbook: save it as CSV"
FOREIGN: Final[tuple[tuple[bytes | tuple[bytes, ...], str], ...]] = (
    (b"\xd0\xcf\x11\xe0", WORKBOOK),
    (b"SQLite format 3\0", "an SQLite database: name it with --db, or export its table as CSV"),
    (b"%PDF", "a PDF document: nextbar reads tables of text, Parquet and Feather"),
    (b"\x89HDF", "an HDF5 file: write it as Parquet or CSV"),
    ((b"\x80\x04", b"\x80\x05"), "a pickle, which nextbar never opens: write it as Parquet or CSV"),
    (b"Rar!", "a RAR archive: unpack it"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it"),
    (b"\x93NUMPY", "an array of numpy: write it as Parquet or CSV"),
)
"""First bytes of what is no table → what it is."""
KINDS: Final = {"p": "a pipe", "c": "a device", "b": "a device", "s": "a socket"}


class Part(NamedTuple):
    """A file, or a member of an archive, unpacked, or ``why`` it cannot be read; of ``stem`` a ticker may be made."""

    name: str
    stem: str = ""
    data: bytes = b""
    why: str = ""


def find_files(path: Path, endings: tuple[str, ...]) -> tuple[list[Path], list[str]]:
    """Return the files of a folder and of the folders in it, sorted, and names of other files that are left alone.

    Files and folders whose names begin with a dot are skipped.
    """
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        beside = path.parent.glob("*") if isinstance(error, FileNotFoundError) else ()
        near = nearest(path.name, [file.name for file in beside], cutoff=0.7)
        raise BadBarsError(f"there is no file or folder {printable(str(path))} ({reason}){near}") from error
    if kind != stat.S_IFDIR:
        return [path], []
    wanted: list[Path] = []
    other: list[str] = []

    def refuse(error: OSError) -> None:
        raise BadBarsError(f"{printable(str(error.filename))} cannot be read: {error.strerror}") from error

    for folder, folders, names in os.walk(path, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        for name in sorted(name for name in names if not name.startswith(".")):
            file = Path(folder) / name
            if _unpacked_name(name).lower().endswith((*endings, ".zip")):
                wanted.append(file)
            else:
                other.append(excerpt(file.relative_to(path)))
    if not wanted:
        raise BadBarsError(f"{printable(str(path))} holds no file that ends in {', '.join(endings)}, packed or not")
    return wanted, other


def open_parts(path: Path, name: str) -> Iterator[Part]:
    """Read a file, or each member of an archive; what cannot be read is a part that says why."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = KINDS.get(stat.filemode(status.st_mode)[0], "something else")
            yield Part(name=name, why=f"{kind}, not a file")
            return
        with path.open("rb") as file:
            head = file.read(600)
            file.seek(0)
            if head.startswith((b"PK\3\4", b"PK\5\6")):
                yield from _members(file, status.st_size, name)
                return
            kind = next((kind for mark, kind in STREAMS if head.startswith(mark)), "")
            data = _unpacked(_stream(file, kind), status.st_size) if kind else file.read()
            yield Part(name=name, stem=_stem_of(path.name), data=data, why=_foreign(data[:600]))
    except Exception as error:  # one rule at the edge: a decompressor raises what it likes
        yield Part(name=name, why=_cause(error))


def _stem_of(name: str) -> str:
    """Return a file's name without folders and endings: AAPL of AAPL.csv.gz, BRK.B of BRK.B.csv."""
    bare = _unpacked_name(PurePosixPath(name).name)
    known = bare.lower().endswith((*TEXTS, *TABLES, ".zip"))
    return bare[: -len(PurePosixPath(bare).suffix)] if known else bare


def _unpacked_name(name: str) -> str:
    return name[: name.rindex(".")] if name.lower().endswith(PACKED) else name


def _cause(error: BaseException) -> str:
    if isinstance(error, BadBarsError):
        return str(error)
    told = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), type(error).__name__)
    return f"cannot be read: {excerpt(told, 200)}"


def _stream(file: IO[bytes], kind: str) -> Any:
    return lzma.open(file) if kind == "xz" else pa.CompressedInputStream(pa.PythonFile(file, "r"), kind)


def _unpacked(stream: Any, size: int) -> bytes:
    """Read a stream as far as is allowed for a file of that size."""
    pieces, left = [], limit_of(size)
    while piece := stream.read(1 << 20):
        left -= len(piece)
        if left < 0:
            most = f"{limit_of(size) >> 20:,} MiB, the most for a file of that size"
            raise BadBarsError(f"it unpacks to more than {most}: unpack it yourself")
        pieces.append(piece)
    return b"".join(pieces)


def _members(file: IO[bytes], size: int, name: str) -> Iterator[Part]:
    """Read each member of a zip archive; all together may not unpack to more than is allowed."""
    with zipfile.ZipFile(file) as archive:
        infos = [info for info in archive.infolist() if not info.is_dir()]
        if any(info.filename == "[Content_Types].xml" for info in infos):
            raise BadBarsError(WORKBOOK)
        kept = [info for info in infos if not PurePosixPath(info.filename).name.startswith(".")]
        total = sum(info.file_size for info in kept)
        if total > limit_of(size) or len(kept) > MOST_MEMBERS or not kept:
            held = f"{len(kept):,} files, {total >> 20:,} MiB unpacked"
            raise BadBarsError(f"an archive of {held}: unpack it yourself")
        for info in kept:
            label = name if len(kept) == 1 else f"{name}/{excerpt(info.filename)}"
            try:
                data = _unpacked(archive.open(info), size)
                why = "an archive in an archive: unpack it" if data.startswith(b"PK\3\4") else _foreign(data[:600])
            except Exception as error:
                data, why = b"", _cause(error)
            yield Part(name=label, stem=_stem_of(info.filename), data=data, why=why)


def _foreign(head: bytes) -> str:
    """Say what content is that is no table; "" for what may be one."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:15].lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page, not a table: was the download refused?"
    if start.startswith((b"{", b"[{", b"[[")):
        return "JSON, not a table: write it as CSV"
    if head[257:262] == b"ustar":
        return "a tar archive: unpack it"
    return next((what for mark, what in FOREIGN if head.startswith(mark)), "")


def read_files(
    path: Path, progress: Progress, hints: Hints | None = None, now: dt.datetime | None = None, *, kind: str
) -> SourceBars:
    """Read bars of a file, or of a folder and the folders in it; what a file is, is seen from its content.

    ``kind``, csv or parquet, says which files of a folder are read. Files that cannot be used are left out with their
    reasons; if none can, that is a BadBarsError.
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
        first = f"{'; '.join(why[:3])}{' …' * (len(why) > 3)}"
        raise BadBarsError(first if len(why) == 1 else f"no file can be used: {first}")
    if hints.ticker and len(read) > 1:
        raise ConfigError(f"--ticker {hints.ticker} is for one file; {printable(str(path))} holds {len(read)}")
    notes = [f"{plural(len(other), 'other file')} skipped: {listed(other, 3)}"] if other else []
    return _joined(read, left_out, notes)


def _read_part(part: Part, hints: Hints, now: dt.datetime | None) -> SourceBars:
    """Read one file; whatever a reader raises becomes a BadBarsError."""
    if part.why:
        raise BadBarsError(part.why)
    try:
        table = read_arrow(part.data) if part.data.startswith(ARROW) else read_text(part.data, hints)
        return read_bars(table, Origin(name=part.name, hints=hints, stem=part.stem, now=now))
    except NextbarError:
        raise
    except Exception as error:
        raise BadBarsError(_cause(error)) from error


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
    rows = [row for row in found.dropped if not out[row]]
    lines = (bars["ticker"][rows], files[rows], [found.dropped[row] for row in rows], csv_lines(bars.iloc[rows]))
    refused = pd.DataFrame(list(zip(*lines, strict=True)), columns=list(REFUSED), dtype="str")
    every = pd.concat([*(source.refused for source in read.values()), refused], ignore_index=True)
    return SourceBars(
        bars=found.bars[~out[found.bars.index]].reset_index(drop=True),
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
    each = {note: f"{note} ({plural(len(names), 'file')})" for note, names in files.items() if len(names) > 1}
    return tuple(each.get(note, f"{names[0]}: {note}") for note, names in files.items())
