"""Numbers as people write them: decimal comma, thousands separators, currencies, 1.2M; one decimal mark for a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from nextbar.types import FloatArray
from nextbar.words import excerpt, plural

MISSING: Final = ("", "-", "--", "–", "—", ".", "null", "none", "nan", "n/a", "na", "#n/a", "nil", "<na>", "nat")
NOISE: Final = r"[\s\u00a0\u202f\u2009'\u2019_$€£¥₹₩₽元원]|^(?:usd|eur|gbp|rs\.?|inr)|(?:usd|eur|gbp)$"
MOST_CELL: Final = 64
"""A longer text is no number; patterns whose time grows with the square of the length see none."""
SCALES: Final = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12, "万": 1e4, "亿": 1e8}
POINT: Final = r"^-?(?:\d+|\d{1,3}(?:,\d{2,3})*,\d{3})?(?:\.\d*)?(?:e[+-]?\d+)?$"
"""A number with a decimal point and groups of digits, in India of two."""
EVIDENCE: Final = (
    r"^-?(?:\d*{0}(?:\d{{1,2}}|\d{{4,}})|0*{0}\d{{3}}|.*{1}.*{0}\d+|\d+(?:{1}\d+){{2,}}(?:{0}\d+)?)(?:e[+-]?\d+)?$"
)
"""Texts that only one decimal mark (0) explains, the other (1) being a separator of thousands."""


def read_numbers(
    columns: Mapping[str, pd.Series[Any]], decimal: str | None, separator: str
) -> tuple[dict[str, FloatArray], list[str]]:
    """Read columns of numbers, NaN for what is missing or cannot be read; say what was lost, of no price.

    The decimal mark, where it is not given, is found from all columns together. Where nothing shows it, a comma is it
    beside ``;`` or a tab as the separator of a text file.
    """
    if decimal != ",":
        with suppress(pa.ArrowInvalid, pa.ArrowTypeError):
            return {name: _plain_numbers(column) for name, column in columns.items()}, []
    cleaned = {name: _cleaned(column) for name, column in columns.items() if not _is_number(column)}
    notes: list[str] = []
    if decimal is None:
        decimal = _decimal_mark(list(cleaned.values()), separator)
        notes += [f"decimal comma (--decimal {decimal})"] if decimal == "," else []
    read: dict[str, FloatArray] = {}
    for name, column in columns.items():
        if name not in cleaned:
            read[name] = _plain_numbers(column)
            continue
        read[name], lost = _parsed(cleaned[name], decimal)
        if name in ("volume", "adj_close"):  # a bar without a price is refused instead
            notes += _losses(name, column, np.isnan(read[name]), lost)
    return read, notes


def all_digits(value: float) -> str:
    """Write a number with all its digits, a whole one without a fraction, none as ""."""
    if not np.isfinite(value):
        return ""
    return str(int(value)) if value == int(value) else repr(float(value))


def _is_number(column: pd.Series[Any]) -> bool:
    return pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype)


def _plain_numbers(column: pd.Series[Any]) -> FloatArray:
    """Convert numbers, or texts that are all numbers with a decimal point, empty ones missing; refuse others."""
    if _is_number(column):
        return np.asarray(column.to_numpy(np.float64, na_value=np.nan))
    texts = pc.utf8_trim_whitespace(pa.array(column, pa.large_string(), from_pandas=True))
    return np.asarray(pc.cast(pc.if_else(pc.equal(texts, ""), None, texts), pa.float64()).to_numpy(False))


def _cleaned(column: pd.Series[Any]) -> pd.Series[str]:
    """Remove spaces, currencies and marks of thousands that are no decimal marks; brackets mean less than 0."""
    texts = column.astype("str").fillna("").str.strip().str.lower()
    texts = texts.mask(texts.isin(MISSING), "").str.replace(NOISE, "", regex=True)
    texts = texts.mask(texts.str.len() > MOST_CELL, "?")
    return texts.str.replace(r"^\((.*)\)$", r"-\1", regex=True).str.replace("−", "-").str.removeprefix("+")


def _decimal_mark(columns: Sequence[pd.Series[str]], separator: str) -> str:
    """Find the decimal mark that the columns show; a price with two decimals shows it, 1,234 does not."""
    bare = [column.str.replace(r"[kmbt万亿]$", "", regex=True).drop_duplicates() for column in columns]
    shown = {
        mark: sum(int(column.str.fullmatch(EVIDENCE.format(*marks)).sum()) for column in bare)
        for mark, marks in ((",", (",", r"\.")), (".", (r"\.", ",")))
    }
    if shown[","] == shown["."]:
        commas = any(column.str.contains(",").any() for column in bare)
        return "," if commas and separator in (";", "\t") else "."
    return max(shown, key=lambda mark: shown[mark])


def _parsed(texts: pd.Series[str], decimal: str) -> tuple[FloatArray, Any]:
    """Return numbers, and which texts are none."""
    scale = texts.str[-1:].map(SCALES)
    bare = texts.where(scale.isna(), texts.str[:-1])
    if decimal == ",":
        bare = bare.str.replace(".", "_", regex=False).str.replace(",", ".", regex=False).str.replace("_", ",")
    valid = bare.str.fullmatch(POINT) & bare.str.contains(r"\d")
    numbers = pd.to_numeric(bare.where(valid).str.replace(",", "", regex=False), errors="coerce").astype("float64")
    found: FloatArray = np.asarray(numbers * scale.fillna(1.0), dtype=np.float64)
    return found, (np.isnan(found) & (texts != "").to_numpy(bool))


def _losses(name: str, column: pd.Series[Any], missing: Any, lost: Any) -> list[str]:
    """Say how many cells that are not empty were no numbers."""
    empty = column.isna() | (column.astype("str").str.strip() == "")
    told = (("could not be read", lost), ("is missing", missing & ~empty.to_numpy(bool) & ~lost))
    return [
        f"{name} of {plural(int(rows.sum()), 'bar')} {what}, first {excerpt(column.iloc[int(rows.argmax())], 20)!r}"
        for what, rows in told
        if rows.any()
    ]
