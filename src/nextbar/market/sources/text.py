"""Text files of bars: their encoding, their separator, the lines of their header, and lines that are no rows."""

from __future__ import annotations

import codecs
import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv

from nextbar.errors import BadBarsError
from nextbar.market.schema import PRICES
from nextbar.market.sources.columns import Hints, Table, have_prices, meaning_of, plain
from nextbar.market.sources.days import MOST_CELL
from nextbar.words import excerpt, plural

SAMPLE_BYTES: Final = 1 << 16
SAMPLE_LINES: Final = 60
SEPARATORS: Final = (",", ";", "\t", "|", " ")
NAMES: Final = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|", "space": " "}
BOMS: Final = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
ENCODINGS: Final = ("cp1252", "gb18030", "cp949", "shift_jis")
"""Tried where a text is not UTF-8: the one whose header is understood; the first where none is."""
DAY: Final = re.compile(r"\d{1,4}([-/.])\d{1,2}\1\d{1,4}.*|\d{8}(\.0)?|\d{10,19}|.*[A-Za-z]{3}.*\d.*")
"""What a day looks like, at first sight."""
KLINE: Final = ("open_time", *PRICES, "volume", "close_time", "quote_volume", "count", "taker_base", "taker_quote", "x")
METATRADER: Final = ("date", "time", *PRICES, "volume")
BARE: Final = ("date", *PRICES, "volume")
MOST_REFUSED: Final = 10_000
"""Lines that may have another number of cells; a file with more is no table."""


def read_text(data: bytes, hints: Hints) -> Table:
    """Read the table in a text."""
    data, encoded = _utf8(data)
    if not data.strip(b"\0 \t\r\n"):
        raise BadBarsError("empty")
    text, (data, odd) = data, _without_odd_quotes(data)
    lines = _sample(data)
    separator = NAMES.get(hints.separator or "", hints.separator) or _separator(lines, hints)
    rows = [split_line(line, separator) for line in lines]
    head, names, owners, notes = _header(rows, hints)
    names, owners = _with_unnamed(names, owners or [""] * len(names), [row for row in rows[head:] if any(row)])
    body = b"".join(data.split(b"\n", head)[head:]).replace(f'{separator} "'.encode(), f'{separator}"'.encode())
    frame, ragged = _parse(body, separator, len(names))
    table = Table(frame=frame, names=names, owners=owners, separator=separator, text=text, refused=(*odd, *ragged))
    return _without_headers(replace(table, notes=(*encoded, *_tell_separator(separator), *notes)))


def sniff(data: bytes) -> tuple[bytes, str, list[str]]:
    """Return a text in UTF-8, the mark between its columns, and what was guessed."""
    data, encoded = _utf8(data)
    separator = _separator(_sample(data), Hints())
    return data, separator, [*encoded, *_tell_separator(separator)]


def _sample(data: bytes) -> list[str]:
    """Return the first lines of a text."""
    return [line.strip("\r") for line in data[:SAMPLE_BYTES].decode("utf-8", "replace").split("\n")[:SAMPLE_LINES]]


def _tell_separator(separator: str) -> list[str]:
    """Say what is between columns, where it is no comma."""
    word = next((name for name, mark in NAMES.items() if mark == separator), separator)
    return [] if separator == "," else [f"columns between {word}s"]


def _utf8(data: bytes) -> tuple[bytes, list[str]]:
    """Convert to UTF-8, with a line feed after each line."""
    bom = next((name for mark, name in BOMS if data.startswith(mark)), None) or _unmarked(data[:SAMPLE_BYTES])
    notes = [f"encoding {bom.upper()}"] if bom else []
    data = data.decode(bom, "replace").encode() if bom else data.removeprefix(codecs.BOM_UTF8)
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        encoding = _encoding(data)
        data = data.decode(encoding, "replace").encode()
        notes = [f"not UTF-8: read as {'Latin-1' if encoding == 'cp1252' else encoding}"]
    return (data.replace(b"\r", b"\n") if b"\n" not in data else data), notes


def _unmarked(sample: bytes) -> str | None:
    """Recognise UTF-16 without a mark by its zeros, and refuse what is no text."""
    if sample.startswith(codecs.BOM_UTF8):
        return None
    for high, low, name in ((sample[1::2], sample[::2], "utf-16-le"), (sample[::2], sample[1::2], "utf-16-be")):
        if len(sample) > 3 and high.count(0) * 2 > len(high) and not low.count(0):
            return name
    odd = sum(sample.count(code) for code in range(32) if code not in b"\0\t\n\r\f")
    if odd > 20 and odd * 50 > len(sample):
        raise BadBarsError("neither a text nor Parquet nor Feather")
    return None


def _encoding(data: bytes) -> str:
    """Choose the encoding in which most names of a header are known."""
    first = data[:SAMPLE_BYTES].split(b"\n", 1)[0]

    def known(encoding: str) -> int:
        return sum(meaning_of(name) is not None for name in re.split("[,;\t|]", first.decode(encoding, "replace")))

    return max(ENCODINGS, key=known)


def _without_odd_quotes(data: bytes) -> tuple[bytes, list[tuple[str, str]]]:
    """Take lines with an unpaired quotation mark out: a reader would take all up to the next one for one cell."""
    if b'"' not in data:
        return data, []
    marks = np.frombuffer(data, np.uint8)
    ends = np.append(np.flatnonzero(marks == ord("\n")) + 1, len(marks))
    quotes = np.searchsorted(np.flatnonzero(marks == ord('"')), ends)
    odd = np.flatnonzero(np.diff(quotes, prepend=0) % 2)
    if not len(odd):
        return data, []
    if len(odd) > MOST_REFUSED:
        raise BadBarsError(f"{len(odd):,} lines have an unpaired quotation mark")
    starts = np.append(0, ends[:-1])
    lines = [data[starts[i] : ends[i]].decode("utf-8", "replace").strip("\r\n") for i in odd]
    refused = [("an unpaired quotation mark", line) for line in lines]
    keep = np.ones(len(marks), dtype=bool)
    for i in odd:
        keep[starts[i] : ends[i]] = False
    return marks[keep].tobytes(), refused


def split_line(line: str, separator: str) -> list[str]:
    """Return the cells of a line."""
    try:
        return [cell.strip() for row in csv.reader([line], delimiter=separator, skipinitialspace=True) for cell in row]
    except csv.Error:
        return [line]


def _meanings(row: Sequence[str], hints: Hints) -> int:
    """Count the columns of a bar that a line names."""
    named = {theirs for theirs in hints.columns.values() if not theirs.isdigit()} & set(row)
    return len({meaning for cell in row if (meaning := meaning_of(cell))} | named)


def _separator(lines: Sequence[str], hints: Hints) -> str:
    """Choose the separator with which a line names most columns of a bar, else the one that gives most equal lines."""

    def worth(separator: str) -> tuple[int, int]:
        rows = [split_line(line, separator) for line in lines]
        widths = Counter(len(row) for row in rows if len(row) > 1)
        common = max(widths, key=lambda width: (widths[width] > len(rows) / 2, widths[width] * width), default=1)
        named = max((_meanings(row, hints) for row in rows[:30]), default=0)
        return named if named > 1 else 0, widths[common] * (common if common > 3 else 0)

    return max(SEPARATORS, key=worth)


def _header(rows: Sequence[Sequence[str]], hints: Hints) -> tuple[int, list[str], list[str], list[str]]:
    """Find the lines before the first row.

    Returns:
        Their number, the names of the columns, their tickers where each has columns of its own, and notes.
    """
    counts = [_meanings(row, hints) for row in rows[:30]]
    best = max(counts, default=0)
    if best < 2 and (bare := _bare(rows)):
        first, names = bare
        return first, names, [], [f"no header line: columns taken as {', '.join(names[:7])}"]
    at = counts.index(best) if best > 1 else next((i for i, row in enumerate(rows) if len(row) > 1), 0)
    names = list(rows[at]) if rows else []
    skipped = at and f"{plural(at, 'line')} before the header skipped, the first {excerpt(' '.join(rows[0]), 40)!r}"
    before, after = (rows[i] if 0 <= i < len(rows) else [] for i in (at - 1, at + 1))
    notes = [skipped] if skipped else []
    if owners := _tickers(before, names, first=True):
        notes = []
    elif owners := _tickers(after, names, first=False):
        at += 1
    following = rows[at + 1] if at + 1 < len(rows) else []
    if owners and following and following[0] and not any(following[1:]):
        names, at = [following[0], *names[1:]], at + 1
    elif owners and meaning_of(names[0]) != "date":
        names = ["", *names[1:]]
    return at + 1, names, owners, notes


def _tickers(row: Sequence[str], names: Sequence[str], *, first: bool) -> list[str]:
    """Return the ticker of each column from a line beside the names, nothing where it holds none.

    A merged cell of a spreadsheet stands for those after it.
    """
    labels = ("ticker", "tickers", "symbol", "symbols", *([""] if first else []))
    if len(row) != len(names) or len(row) < 5 or plain(row[0]) not in labels:
        return []
    owners = [""]
    for cell, name in zip(row[1:], names[1:], strict=True):
        owners.append(cell or (owners[-1] if name else ""))
    return owners if have_prices(names, owners) else []


def _bare(rows: Sequence[Sequence[str]]) -> tuple[int, list[str]] | None:
    """Recognise a table without a header: klines, MetaTrader's, or a day and prices of which the high is highest."""
    width = _usual_width(rows, 0)
    for names in (KLINE, KLINE[:11], KLINE[:6], METATRADER, METATRADER[:6], BARE, BARE[:5]):
        if len(names) != width:
            continue
        first = next(i for i, row in enumerate(rows) if len(row) == width)
        body = [row for row in rows[first:] if len(row) == width]
        at = names.index("open")
        numbers = pd.DataFrame([row[at : at + 4] for row in body]).apply(pd.to_numeric, errors="coerce").dropna()
        right = (numbers.max(axis=1) == numbers[1]) & (numbers.min(axis=1) == numbers[2])
        timed = names[1] != "time" or all(re.fullmatch(r"\d{1,2}:?\d{2}(:?\d{2})?|0", row[1]) for row in body)
        dated = all(re.match(r"\d", row[0]) for row in body[:5])
        if timed and dated and right.sum() * 10 >= len(body) * 9:
            return first, list(names)
    return None


def _usual_width(rows: Sequence[Sequence[str]], default: int) -> int:
    return next((width for width, _ in Counter(map(len, rows)).most_common(1)), default)


def _with_unnamed(names: list[str], owners: list[str], body: Sequence[Sequence[str]]) -> tuple[list[str], list[str]]:
    """Give columns that the header does not name an empty name: an index before the others, or blanks after them."""
    width = _usual_width(body, len(names))
    common = [row for row in body if len(row) == width]
    extra = width - len(names)
    if extra < 0:
        while len(names) > width and not names[-1]:
            names, owners = names[:-1], owners[:-1]
        return names, owners
    blanks = [""] * extra
    if all(not any(row[len(names) :]) for row in common) or (extra == 1 and _dated_as_named(names, common)):
        return names + blanks, owners + blanks
    return (blanks + names, blanks + owners) if extra == 1 else (names, owners)


def _dated_as_named(names: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Tell whether days stand under their name, not one column further on: the header lacks its last name."""
    place = next((i for i, name in enumerate(names) if meaning_of(name) == "date"), None)
    if place is None:
        return False
    under, after = (sum(bool(DAY.fullmatch(row[i][:MOST_CELL])) for row in rows) for i in (place, place + 1))
    return under > after


def _parse(data: bytes, separator: str, width: int) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """Read the rows as texts; lines with another number of cells are returned beside them."""
    refused: list[tuple[str, str]] = []

    def refuse(row: pa_csv.InvalidRow) -> str:
        if row.text.strip(' \t\r"\0'):
            refused.append((f"{plural(row.actual_columns, 'cell')}, not {row.expected_columns}", row.text))
        return "skip" if len(refused) <= MOST_REFUSED else "error"

    if not data.strip():
        return pd.DataFrame(columns=range(width), dtype="str"), refused
    texts = dict.fromkeys(map(str, range(width)), pa.string())
    table = pa_csv.read_csv(
        pa.BufferReader(data),
        read_options=pa_csv.ReadOptions(column_names=list(texts), block_size=1 << 22),
        parse_options=pa_csv.ParseOptions(delimiter=separator, invalid_row_handler=refuse),
        convert_options=pa_csv.ConvertOptions(column_types=texts, strings_can_be_null=False),
    )
    return table.to_pandas().set_axis(range(width), axis=1), refused


def _without_headers(table: Table) -> Table:
    """Leave out empty rows, and header lines that stand again among the rows of files that were put together."""
    frame = table.frame
    if len(frame) and (blank := frame[0].str.strip() == "").any():
        blank[blank] = (frame[blank].map(str.strip) == "").all(axis=1)
        table = replace(table, frame=frame[~blank].reset_index(drop=True))
    places = [i for i, name in enumerate(table.names) if meaning_of(name) in PRICES]
    if not places:
        return table
    again = pd.concat([table.frame[i].str.strip() == table.names[i] for i in places], axis=1).all(axis=1)
    if not again.any():
        return table
    note = f"{plural(int(again.sum()), 'header line')} among the rows skipped"
    return replace(table, frame=table.frame[~again].reset_index(drop=True), notes=(*table.notes, note))
