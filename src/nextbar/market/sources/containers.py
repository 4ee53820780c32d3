"""Files that bars come in: folders, archives and compressed files, read within limits, and what is no table."""

from __future__ import annotations

import lzma
import os
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

import pyarrow as pa

from nextbar.errors import BadBarsError
from nextbar.market.sources.tables import limit_of
from nextbar.words import excerpt, printable

TEXTS: Final = (".csv", ".txt", ".tsv")
TABLES: Final = (".parquet", ".pq", ".feather", ".arrow")
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


@dataclass(frozen=True, kw_only=True)
class Part:
    """A file, or a member of an archive.

    Attributes:
        name: As messages call it.
        stem: Its name without endings, of which a ticker may be made.
        data: Its content, unpacked.
        why: Why it cannot be read; "" where it can.
    """

    name: str
    stem: str = ""
    data: bytes = b""
    why: str = ""

    @property
    def arrow(self) -> bool:
        """Whether it is Parquet or Feather."""
        return self.data.startswith(ARROW)


def find_files(path: Path, endings: tuple[str, ...]) -> tuple[list[Path], list[str]]:
    """Return the files of a folder and of the folders in it, sorted, and names of other files that are left alone.

    Files and folders whose names begin with a dot are skipped.
    """
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadBarsError(f"there is no file or folder {printable(str(path))} ({reason})") from error
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
            yield from _parts(file, status.st_size, name, path.name)
    except Exception as error:  # one rule at the edge: a decompressor raises what it likes
        yield Part(name=name, why=_cause(error))


def stem_of(name: str) -> str:
    """Return a file's name without folders and endings: AAPL of AAPL.csv.gz, BRK.B of BRK.B.csv."""
    bare = _unpacked_name(PurePosixPath(name).name)
    known = bare.lower().endswith((*TEXTS, *TABLES, ".zip"))
    return bare[: -len(PurePosixPath(bare).suffix)] if known else bare


def _unpacked_name(name: str) -> str:
    return name[: name.rindex(".")] if name.lower().endswith(PACKED) else name


def _cause(error: BaseException) -> str:
    if isinstance(error, BadBarsError):
        return str(error)
    return f"cannot be read: {excerpt(getattr(error, 'strerror', None) or error or type(error).__name__, 160)}"


def _parts(file: IO[bytes], size: int, name: str, own: str) -> Iterator[Part]:
    head = file.read(600)
    file.seek(0)
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        yield from _members(file, size, name)
        return
    stream = next((kind for mark, kind in STREAMS if head.startswith(mark)), None)
    data = file.read() if stream is None else _unpacked(_stream(file, stream), size)
    yield Part(name=name, stem=stem_of(own), data=data, why=_foreign(data[:600]))


def _stream(file: IO[bytes], kind: str) -> Any:
    return lzma.open(file) if kind == "xz" else pa.CompressedInputStream(pa.PythonFile(file, "r"), kind)


def _unpacked(stream: Any, size: int) -> bytes:
    """Read a stream as far as is allowed for a file of that size."""
    pieces, left = [], limit_of(size)
    while piece := stream.read(1 << 20):
        left -= len(piece)
        if left < 0:
            most = limit_of(size) >> 20
            raise BadBarsError(
                f"it unpacks to more than {most:,} MiB, the most for a file of that size: unpack it yourself"
            )
        pieces.append(piece)
    return b"".join(pieces)


def _members(file: IO[bytes], size: int, name: str) -> Iterator[Part]:
    """Read each member of a zip archive; all together may not unpack to more than is allowed."""
    with zipfile.ZipFile(file) as archive:
        infos = [info for info in archive.infolist() if not info.is_dir()]
        if any(info.filename == "[Content_Types].xml" for info in infos):
            yield Part(name=name, why=WORKBOOK)
            return
        kept = [info for info in infos if not PurePosixPath(info.filename).name.startswith(".")]
        total = sum(info.file_size for info in kept)
        if total > limit_of(size) or len(kept) > MOST_MEMBERS or not kept:
            yield Part(
                name=name, why=f"an archive of {len(kept):,} files, {total >> 20:,} MiB unpacked: unpack it yourself"
            )
            return
        for info in kept:
            label = name if len(kept) == 1 else f"{name}/{excerpt(info.filename)}"
            try:
                data = _unpacked(archive.open(info), size)
                why = "an archive in an archive: unpack it" if data.startswith(b"PK\3\4") else _foreign(data[:600])
            except Exception as error:
                data, why = b"", _cause(error)
            yield Part(name=label, stem=stem_of(info.filename), data=data, why=why)


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
