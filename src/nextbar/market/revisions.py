"""The revision guard: what to do when a source says something else about a stored day than it said before.

A vendor multiplies the whole ``adj_close`` history by a factor when a dividend or a split comes. Prices adjusted
forward do not move by that, so such a factor is no revision: new bars are brought to the scale of the stored ones.
Whatever still differs on that scale is a changed fact. Stored bars keep their values until somebody accepts the change;
the old values then go into the table ``price_revisions``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import pandas as pd
from sqlalchemy import (
    Column,
    Connection,
    Double,
    MetaData,
    Table,
    Text,
    cast,
    literal,
    null,
    select,
    type_coerce,
    update,
)

from nextbar.errors import BadBarsError
from nextbar.market.schema import PRICES
from nextbar.market.staging import Staged, stage
from nextbar.types import BoolArray, FloatArray

SAME: Final = 1e-6
"""Relative difference up to which two values are one: sources send single precision."""
SAME_ADJUSTED: Final = 1e-4
"""The same for ``adj_close``, which vendors round to a few decimals after each rescaling."""

price_revisions = Table(
    "price_revisions",
    MetaData(),
    *(Column(name, Text) for name in ("ticker", "date")),
    *(Column(name, Double) for name in (*PRICES, "adj_close", "volume")),
    *(Column(name, Text) for name in ("revised_at", "source")),
)


@dataclass(frozen=True, kw_only=True)
class Revision:
    """A stored day about which the source has changed its mind.

    Attributes:
        ticker: The symbol.
        date: YYYY-MM-DD.
        columns: What is different.
    """

    ticker: str
    date: str
    columns: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the common days of a source and the database say.

    Attributes:
        scales: Index ticker; what the source's ``adj_close`` is multiplied by to be on the stored scale: ``anchor`` as
            the first common day says, ``seam`` as the last (``until``) does. They differ when facts changed between.
        changed: [rows] ticker, date and the source's numbers on the ``anchor`` scale, where they are another fact.
        revisions: The same rows as messages name them.
    """

    scales: pd.DataFrame
    changed: pd.DataFrame
    revisions: tuple[Revision, ...] = ()

    def rescaled(self) -> dict[str, float]:
        """Ticker → factor, where the source's scale is another one."""
        anchor = self.scales["anchor"]
        return {str(ticker): float(factor) for ticker, factor in anchor[anchor != 1].items()}


NOTHING_DIFFERS: Final = Verdict(
    scales=pd.DataFrame({"anchor": [], "seam": [], "until": []}), changed=pd.DataFrame({"ticker": [], "date": []})
)


def common_bars(connection: Connection, staged: Staged, prices: Table) -> pd.DataFrame:
    """The bars both staged and stored, by ticker and date: numbers ``x`` are the source's, ``x_old`` the stored."""
    number: Any = type_coerce if connection.dialect.name == "sqlite" else cast
    names = [name for name in staged.values if name not in ("ticker", "date")]
    rows = connection.execute(
        select(
            staged.table.c.ticker,
            staged.table.c.date,
            *(number(staged.values[name], Double).label(name) for name in names),
            *(number(prices.c[name], Double).label(f"{name}_old") for name in names),
        )
        .join(prices, staged.same_day)
        .order_by(staged.table.c.ticker, staged.table.c.date)
    )
    frame = pd.DataFrame(rows.all(), columns=list(rows.keys()))
    numbers = frame.columns[2:]
    return frame.astype({"ticker": "str", "date": "str", **dict.fromkeys(numbers, "float64")})


def judge(common: pd.DataFrame) -> Verdict:
    """Tell a pure rescaling of ``adj_close`` from changed facts.

    Args:
        common: As `common_bars` gives it.
    """
    names = [name for name in common.columns[2:] if not name.endswith("_old")]
    new = common[names].to_numpy(np.float64, copy=True)
    old = common[[f"{name}_old" for name in names]].to_numpy(np.float64)
    same = _same(new, old, SAME)
    quoted = np.asarray(same[:, [names.index(name) for name in PRICES]].all(axis=1))
    scales = _scales(common, quoted)
    if "adj_close" in names:
        column = names.index("adj_close")
        new[:, column] *= scales["anchor"].reindex(common["ticker"]).to_numpy()
        same[:, column] = _same(new[:, column], old[:, column], SAME_ADJUSTED)
    rows = np.flatnonzero(~same.all(axis=1))
    changed = pd.concat(
        [common[["ticker", "date"]].iloc[rows], pd.DataFrame(new[rows], index=common.index[rows], columns=names)],
        axis=1,
    )
    columns = [tuple(name for name, alike in zip(names, row, strict=True) if not alike) for row in same[rows]]
    revisions = tuple(
        Revision(ticker=ticker, date=date, columns=differing)
        for ticker, date, differing in zip(changed["ticker"], changed["date"], columns, strict=True)
    )
    return Verdict(scales=scales, changed=changed, revisions=revisions)


def on_stored_scale(bars: pd.DataFrame, verdict: Verdict, *, accept: bool) -> pd.DataFrame:
    """The source's bars with ``adj_close`` as it continues the stored one.

    Later bars continue the last common day as it stays stored; where changes are accepted, it is on the anchor's scale.
    """
    if "adj_close" not in bars:
        return bars
    scales = verdict.scales.reindex(bars["ticker"])
    anchor = scales["anchor"].fillna(1.0).to_numpy()
    later = (bars["date"].to_numpy() > scales["until"].fillna("9999").to_numpy()) & (not accept)
    factor = np.where(later, scales["seam"].to_numpy(), anchor)
    return bars.assign(adj_close=bars["adj_close"] * factor)


def apply_revisions(connection: Connection, verdict: Verdict, prices: Table, origin: str) -> None:
    """Put the old values into ``price_revisions`` and the new ones in their place.

    Raises:
        BadBarsError: A close would change whose ``adj_close`` the source does not know.
    """
    if not verdict.revisions:
        return
    price_revisions.create(connection, checkfirst=True)
    revised = stage(connection, verdict.changed, prices, "nextbar_revised", None)
    _refuse_stale_adjustment(connection, revised, prices)
    numbers = [name for name in revised.values if name not in ("ticker", "date")]
    now = datetime.now(UTC).isoformat(timespec="seconds")
    kept = select(
        revised.table.c.ticker,
        revised.table.c.date,
        *(prices.c[name] for name in numbers),
        literal(now, Text),
        literal(origin, Text),
    ).join(prices, revised.same_day)
    columns = ["ticker", "date", *numbers, "revised_at", "source"]
    connection.execute(price_revisions.insert().from_select(columns, kept))
    connection.execute(update(prices).values({name: revised.values[name] for name in numbers}).where(revised.same_day))


def _refuse_stale_adjustment(connection: Connection, revised: Staged, prices: Table) -> None:
    if "adj_close" not in prices.c:
        return
    known = revised.values.get("adj_close", null())
    moves = revised.values["close"].is_distinct_from(prices.c.close)
    days = (
        select(revised.table.c.ticker, revised.table.c.date)
        .join(prices, revised.same_day)
        .where(moves, prices.c.adj_close.is_not(None), known.is_(None))
        .order_by(revised.table.c.ticker, revised.table.c.date)
    )
    if rows := connection.execute(days).all():
        raise BadBarsError(
            f"the close of {len(rows)} bars would change, the first {rows[0].ticker} {rows[0].date}; the source has no "
            "adj_close for them, and the stored one belongs to the old close; nothing was stored, take a source with it"
        )


def _same(new: FloatArray, old: FloatArray, tolerance: float) -> BoolArray:
    """Alike but for rounding; nothing known is like nothing known."""
    near: BoolArray = np.abs(new - old) <= tolerance * np.abs(old)
    return near | (np.isnan(new) & np.isnan(old))


def _scales(common: pd.DataFrame, quoted: BoolArray) -> pd.DataFrame:
    """Stored over new ``adj_close`` on the first and the last common day whose quoted prices agree (or on any)."""
    by = common["ticker"]
    ratio = pd.Series(1.0, index=common.index)
    if "adj_close" in common:
        ratio = (common["adj_close_old"] / common["adj_close"]).where(lambda x: np.isfinite(x) & (x > 0))
        ratio = ratio.mask((ratio - 1).abs() <= SAME, 1.0)
    agreeing, any_day = ratio.where(quoted).groupby(by), ratio.groupby(by)
    return pd.DataFrame(
        {
            "anchor": agreeing.first().fillna(any_day.first()).fillna(1.0),
            "seam": agreeing.last().fillna(any_day.last()).fillna(1.0),
            "until": common["date"].groupby(by).last(),
        }
    )
