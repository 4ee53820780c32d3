"""Files that are no bars, or claim to be more than they are: each is refused by name, and little is read of it."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import random
import resource
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather as pa_feather
import pyarrow.parquet as pa_parquet
import pytest

from nextbar.errors import NextbarError
from nextbar.market.sources.files import read_files
from nextbar.market.sources.tables import limit_of
from nextbar.types import Silent

read_csv = partial(read_files, kind="csv")

DAYS = pd.bdate_range("2024-01-02", periods=30)
BARS = pd.DataFrame({"Date": DAYS, "Open": 1.5, "High": 2.0, "Low": 1.0, "Close": 1.25, "Volume": 7})
TEXT = BARS.to_csv(index=False)
BOMB = b"0" * (80 << 20)


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "."), content)
    return buffer.getvalue()


def table(write: Callable[[io.BytesIO], object]) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def long_column() -> bytes:
    rows = pa.table({"Date": pa.array(np.zeros(20_000_000, np.int8)), "Close": pa.array(np.zeros(20_000_000, np.int8))})
    return table(lambda buffer: pa_parquet.write_table(rows, buffer, compression="zstd"))


def twice() -> bytes:
    rows = pa.table([pa.array([1.0]), pa.array([2.0])], names=["Close", "Close"])
    return table(lambda buffer: pa_parquet.write_table(rows, buffer))


def feather(rows: pa.Table, compression: str = "zstd") -> bytes:
    return table(lambda buffer: pa_feather.write_feather(rows, buffer, compression=compression, chunksize=1 << 30))


def long_batch() -> bytes:
    """One batch of 15 million rows in a few KiB."""
    column = pa.array(np.ones(15_000_000))
    return feather(pa.table({"Date": column, "Close": column}))


def repeated_text() -> pa.Table:
    """A text of 20,000 characters on each of 60,000 days, which a file holds once."""
    days = pd.Series(pd.date_range("1850-01-01", periods=60_000)).dt.date
    note = pa.DictionaryArray.from_arrays(pa.array(np.zeros(60_000, np.int32)), pa.array(["x" * 20_000]))
    prices = dict.fromkeys(["Open", "High", "Low", "Close"], pa.array(np.ones(60_000)))
    return pa.table({"Date": pa.array(days), **prices, "note": note})


def lying_zip() -> bytes:
    """A member that says that it is small."""
    content = bytearray(zipped(AAA__csv=BOMB))
    place = content.rindex(b"PK\1\2") + 24
    content[place : place + 4] = (1000).to_bytes(4, "little")
    return bytes(content)


REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "blank": (b"\n\n  \n", "empty"),
    "noise": (random.Random(1).randbytes(4000), "neither a text nor Parquet nor Feather"),
    "html": (b"<!DOCTYPE html><html></html>", "a web page"),
    "json": (b'{"error": "limit"}', "JSON"),
    "excel": (zipped(**{"[Content_Types]__xml": b"x"}), "an Excel workbook: save it as CSV"),
    "old excel": (b"\xd0\xcf\x11\xe0" + b"x" * 600, "an Excel workbook: save it as CSV"),
    "sqlite": (b"SQLite format 3\0" + b"x" * 600, "an SQLite database"),
    "pickle": (pickle.dumps(BARS), "a pickle, which nextbar never opens"),
    "tar": (b"x" * 257 + b"ustar" + b"x" * 300, "a tar archive"),
    "zip bomb": (zipped(AAA__csv=BOMB), "80 MiB unpacked"),
    "lying zip": (lying_zip(), "more than 64 MiB|cannot be read"),
    "zip in zip": (zipped(inner__zip=zipped(AAA__csv=TEXT.encode())), "an archive in an archive"),
    "damaged zip": (zipped(AAA__csv=TEXT.encode())[:-30], "cannot be read"),
    "gz bomb": (gzip.compress(BOMB), "more than 64 MiB"),
    "bz2 bomb": (bz2.compress(BOMB), "more than 64 MiB"),
    "xz bomb": (lzma.compress(BOMB), "more than 64 MiB"),
    "damaged gz": (gzip.compress(TEXT.encode())[:60], "cannot be read"),
    "long column": (long_column(), r"MiB in a file of \d+ KiB"),
    "long batch": (long_batch(), r"MiB in a file of \d+ KiB"),
    "column twice": (twice(), "several columns named Close"),
    "damaged parquet": (table(BARS.to_parquet)[:-200], "cannot be read"),
    "damaged feather": (table(BARS.to_feather)[:-200], "cannot be read"),
    "one column": (b"Date\n2024-01-02\n", "no column for open, high, low, close"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_table_is_named(tmp_path: Path, kind: str) -> None:
    """The message begins with the file and says what it is; no bomb is unpacked further than is allowed."""
    content, told = REFUSED[kind]
    path = tmp_path / "AAA.csv"
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(NextbarError, match=told) as refused:
        read_csv(path, Silent())
    assert str(refused.value).startswith("AAA.csv: ")
    assert str(refused.value).isprintable()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000


def test_the_metadata_of_pandas_is_not_believed(tmp_path: Path) -> None:
    """Columns are those of the file, whatever pandas' metadata say about an index."""
    whole = pa.Table.from_pandas(BARS.set_index("Date"))
    damaged = whole.replace_schema_metadata({b"pandas": b'{"index_columns": ["nowhere"], "columns": [7]}'})
    pa_parquet.write_table(damaged, tmp_path / "AAA.parquet")
    assert len(read_csv(tmp_path / "AAA.parquet", Silent()).bars) == 30


@pytest.mark.parametrize("kind", ["string", "large_string", "feather"])
def test_long_texts_that_repeat_are_cut(tmp_path: Path, kind: str) -> None:
    """A column that nobody reads takes no gigabyte, and the bars are read."""
    rows = repeated_text()
    if kind == "large_string":
        rows = rows.slice(0, 5000)
        rows = rows.set_column(5, "note", rows["note"].cast(pa.large_string()))
    path = tmp_path / "AAA.parquet"
    path.write_bytes(feather(rows) if kind == "feather" else table(lambda b: pa_parquet.write_table(rows, b)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert len(read_csv(path, Silent()).bars) == rows.num_rows
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000


def test_nothing_unpacks_to_more_than_an_absolute_limit() -> None:
    """A large file may not unpack to a hundred times its size."""
    assert limit_of(1) == 64 << 20
    assert limit_of(2 << 20) == 200 << 20
    assert limit_of(1 << 40) == 512 << 20


def refusal(path: Path) -> str:
    """Return why a file is refused, "" where it is read; any other error is one of the test."""
    try:
        read_csv(path, Silent())
    except NextbarError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("seed", range(4))
def test_mutated_files_are_refused_or_read(tmp_path: Path, seed: int) -> None:
    """Flipped bits, cuts, swaps and extremes: never another error than a refusal that can be printed."""
    draw = random.Random(seed)
    packed = table(lambda buffer: pa_feather.write_feather(BARS, buffer, compression="lz4"))
    seeds = [TEXT.encode(), TEXT.encode("utf-16"), table(BARS.to_parquet), packed, zipped(AAA__csv=TEXT.encode())]
    extremes = [b"", b"1e308", b"-1", b"9" * 400, b"NaN", b"\x1b[31m", b"\0", b'"', b"9999-12-31", b"\xff\xfe", b"\n\n"]
    path = tmp_path / "AAA.csv"
    for _ in range(60):
        content = bytearray(draw.choice(seeds))
        for _ in range(draw.choice([1, 2, 8])):
            at = draw.randrange(len(content) or 1)
            how = draw.randrange(4)
            if how == 0 and content:
                content[at] ^= 1 << draw.randrange(8)
            elif how == 1:
                content[at : at + draw.randrange(1, 12)] = draw.choice(extremes)
            elif how == 2:
                content[at:at] = content[at : at + 200]
            else:
                del content[at + draw.randrange(1 + len(content) // 2) :]
        path.write_bytes(bytes(content))
        told = refusal(path)
        assert told.isprintable()
