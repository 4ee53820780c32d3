"""Comparison of a source's bars with the stored ones: new bars, rescaled adjusted closes, and revisions.

A vendor multiplies the whole ``adj_close`` history by a factor after a dividend or a split, and one without
``adj_close`` its prices themselves. Returns do not change by that, so such a factor is no revision: new bars are
brought to the scale of the stored ones. Any other difference on that scale is a revision. Stored bars keep their values
until the user accepts it; the old values then go into the table ``price_revisions``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
import sqlalchemy as sa

from nextbar.errors import BadBarsError
from nextbar.market.schema import KEY, PRICES
from nextbar.words import plural

SAME: Final = 1e-6
"""Relative difference up to which two values are equal, because sources send single precision."""
SAME_ADJUSTED: Final = 1e-4
"""The same for ``adj_close``, which vendors round to a few decimals after each rescaling."""
CENT: Final = 0.0051
"""How far a price may be rounded, in its own unit; never taken for more than `ROUNDED` of it."""
ROUNDED: Final = 2e-3
ONE_SIDE: Final = 0.9
"""Share of common days on which a restated close lies on the same side of the stored one."""
FEWEST_DAYS: Final = 3
"""Common days that are needed to tell a restatement from revisions."""
UPDATE_ROWS: Final = 2_000
"""Rows of one UPDATE: SQLite takes 32,766 values."""

price_revisions = sa.Table(
    "price_revisions",
    sa.MetaData(),
    *(sa.Column(name, sa.Text) for name in KEY),
    *(sa.Column(name, sa.Double) for name in (*PRICES, "adj_close", "volume")),
    *(sa.Column(name, sa.Text) for name in ("revised_at", "source")),
)


@dataclass(frozen=True)
class Revision:
    """A stored day, YYYY-MM-DD, for which the source has other values in some columns."""

    ticker: str
    date: str
    columns: tuple[str, ...]


class Comparison(NamedTuple):
    """A source's bars beside the stored ones; ``adj_close`` is on the stored scale.

    Attributes:
        new: [rows] bars of days that are not stored.
        common: [rows] bars of stored days: ``x`` is the source's number, ``x_old`` the stored one.
        revised: The rows of ``common`` that differ; ``revisions`` are the same as messages name them.
        rescaled: Ticker → what the source's ``adj_close`` was multiplied by, where not 1; ``restated``: its prices.
        unclear: Ticker → why its new bars fit neither the stored scale nor another: they are not in ``new``.
    """

    new: pd.DataFrame
    common: pd.DataFrame
    revised: pd.DataFrame
    revisions: tuple[Revision, ...]
    rescaled: Mapping[str, float]
    restated: Mapping[str, float]
    unclear: Mapping[str, str]


def compare(
    bars: pd.DataFrame, stored: pd.DataFrame, rounding: Mapping[str, float], *, continue_stored: bool
) -> Comparison:
    """Divide a source's bars, by ticker and date, into new, equal and revised ones.

    Numbers of ``stored`` are called ``x_old``; ``rounding`` says how far the database's type may round a column. New
    bars continue the last stored bar as it is, or, without ``continue_stored``, as the source would revise it.
    """
    joined = bars.merge(stored, how="left", on=list(KEY), indicator="found")
    both = (joined.pop("found") == "both").to_numpy()
    restated, unclear = _restatements(joined[both])
    if not continue_stored:
        # What replaces all stored bars of a ticker leaves no seam, whatever its scale.
        whole = stored["ticker"].value_counts() == joined["ticker"][both].value_counts()
        restated, unclear = restated[~whole.reindex(restated.index, fill_value=False)], {}
    unclear = {ticker: why for ticker, why in unclear.items() if (joined["ticker"][~both] == ticker).any()}
    if len(restated):
        scale = joined[["ticker"]].join(restated, on="ticker").fillna({"price": 1.0, "volume": 1.0})
        prices = {name: joined[name] * scale["price"] for name in PRICES}
        joined = joined.assign(**prices, volume=joined["volume"] * scale["volume"])
    common, new = joined[both], joined.loc[~both, bars.columns]
    new = new[~new["ticker"].isin(unclear)] if unclear else new
    same = _compared(common, [name for name in bars.columns if name not in KEY], restated, rounding)
    rescaled: dict[str, float] = {}
    if "adj_close" in bars:
        scales = _scales(common, same)
        common = common.assign(adj_close=common["adj_close"] * common.join(scales, on="ticker")["anchor"])
        same["adj_close"] = _same(common, "adj_close", SAME_ADJUSTED, rounding)
        new = new.assign(adj_close=new["adj_close"] * _factors(new, scales, continue_stored=continue_stored))
        rescaled = {str(ticker): float(factor) for ticker, factor in scales["anchor"].items() if factor != 1}
    differs = ~same.all(axis=1)
    revised = common[differs]
    rows = zip(revised["ticker"], revised["date"], same[differs].to_numpy(), strict=True)
    revisions = tuple(Revision(ticker, date, tuple(same.columns[~alike])) for ticker, date, alike in rows)
    factors = {str(ticker): float(factor) for ticker, factor in restated["price"].items()}
    return Comparison(new, common, revised, revisions, rescaled, factors, unclear)


def replace_bars(connection: sa.Connection, prices: sa.Table, revised: pd.DataFrame, origin: str) -> None:
    """Put the old values into ``price_revisions``, with the name of the source, and the new ones in their place."""
    if revised.empty:
        return
    _refuse_stale_adjustment(revised)
    revised = revised.astype("object").where(revised.notna(), None)  # every driver stores None as NULL
    names = [name for name in revised.columns if f"{name}_old" in revised]
    old = revised[[*KEY, *(f"{name}_old" for name in names)]].set_axis([*KEY, *names], axis=1)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    price_revisions.create(connection, checkfirst=True)
    kept: Any = old.assign(revised_at=now, source=origin).to_dict("records")
    connection.execute(price_revisions.insert(), kept)
    columns = [sa.column(name, sa.Text if name in KEY else sa.Double) for name in (*KEY, *names)]
    for start in range(0, len(revised), UPDATE_ROWS):
        rows = revised[[*KEY, *names]].iloc[start : start + UPDATE_ROWS].itertuples(index=False, name=None)
        table = sa.values(*columns, name="revised").data(list(rows)).cte()
        server = connection.dialect.name == "postgresql"
        new = {c.name: sa.cast(c, prices.c[c.name].type) if server else c for c in table.c}
        same_day = sa.and_(*(prices.c[name] == new[name] for name in KEY))
        connection.execute(sa.update(prices).values({name: new[name] for name in names}).where(same_day))


def _refuse_stale_adjustment(revised: pd.DataFrame) -> None:
    if "adj_close_old" not in revised:
        return
    moves = ~_same(revised, "close", SAME, {})
    unknown = revised["adj_close"].isna() if "adj_close" in revised else True
    days = revised[moves & revised["adj_close_old"].notna() & unknown]
    if len(days):
        first = " ".join(days[list(KEY)].iloc[0])
        raise BadBarsError(
            f"the close of {plural(len(days), 'bar')} would change, the first {first}; the source has no adj_close "
            "for them, and the stored one belongs to the old close; nothing was stored, take a source with it"
        )


def _same(common: pd.DataFrame, name: str, tolerance: float, rounding: Mapping[str, float]) -> pd.Series[bool]:
    """Compare the source's numbers of a column with the stored ones; two missing numbers are equal."""
    new, old = common[name], common[f"{name}_old"]
    near = (new - old).abs() <= np.maximum(tolerance * old.abs(), rounding.get(name, 0.0))
    return near | (new == old) | (new.isna() & old.isna())


def _compared(
    common: pd.DataFrame, names: Sequence[str], restated: pd.DataFrame, rounding: Mapping[str, float]
) -> pd.DataFrame:
    """Compare the columns of stored days; a restated number may differ by the rounding of two sources."""
    same = pd.DataFrame({name: _same(common, name, SAME, rounding) for name in names})
    if len(restated):
        own = common["ticker"].isin(restated.index)
        for name in PRICES:
            old = common[f"{name}_old"]
            same[name] |= own & ((common[name] - old).abs() <= _slack(old, 1.0))
        same["volume"] |= own & ((common["volume"] / common["volume_old"] - 1).abs() <= ROUNDED)
    return same


def _restatements(common: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, str]]:
    """Find tickers whose quoted prices the source multiplies by one factor on all common days.

    Returned are the factors ``price`` and ``volume`` to the stored scale, and why other tickers' scale is not known.
    """
    none = pd.DataFrame({"price": [], "volume": []}, dtype="float64")
    close = common["close_old"] / common["close"]
    if common.empty or ((close - 1).abs() <= SAME).all():
        return none, {}
    factor = close.groupby(common["ticker"]).median()
    own = common["ticker"].map(factor)
    fits, alike, moved = (pd.Series(truth, index=common.index) for truth in (True, True, False))
    for name in PRICES:
        old, new = common[f"{name}_old"], common[name]
        slack = _slack(old, own)
        fits &= (new * own - old).abs() <= slack
        moved |= (new - old).abs() > slack
        alike &= (new * close - old).abs() <= slack
    sides = {"above": close > 1 + SAME, "below": close < 1 - SAME}
    shares = pd.DataFrame({"fits": fits, "scaled": alike & moved, **sides}).groupby(common["ticker"]).mean()
    days = common["ticker"].value_counts().reindex(shares.index)
    shifted = (np.maximum(shares["above"], shares["below"]) > ONE_SIDE) & ((factor - 1).abs() > SAME_ADJUSTED)
    # New bars follow the last common day: a split shortly before it divides the history into two scales.
    latest = common.groupby("ticker").tail(1)
    seam = pd.Series(fits[latest.index].to_numpy(), index=latest["ticker"]).reindex(shares.index)
    one = (days >= FEWEST_DAYS) & shifted & (shares["fits"] >= 0.95) & seam
    several = ~one & (shares["scaled"] > np.where(days >= FEWEST_DAYS, 0.5, 0.99))
    why = "stored days differ by a factor, but not all {} by the same one: was its history restated? take a source"
    why += f" with at least {FEWEST_DAYS} of the stored days, compare them, or --accept-revisions"
    volume = (common["volume_old"] / common["volume"]).where(lambda x: np.isfinite(x) & (x > 0))
    traded = volume.groupby(common["ticker"]).agg(["median", "min", "max"])
    steady = (traded["max"] - traded["min"]) <= ROUNDED * traded["median"]
    found = pd.DataFrame({"price": factor, "volume": traded["median"].where(steady, 1.0).fillna(1.0)})[one]
    return found, {str(ticker): why.format(days[ticker]) for ticker in several.index[several]}


def _slack(old: pd.Series[float], factor: Any) -> pd.Series[float]:
    """Return how far two roundings may move a price."""
    slack: pd.Series[float] = np.minimum(CENT * (1 + factor), ROUNDED * old.abs()) + 1e-5 * old.abs()
    return slack


def _scales(common: pd.DataFrame, same: pd.DataFrame) -> pd.DataFrame:
    """Find each ticker's factors from the source's ``adj_close`` to the stored one, and the last common day.

    ``anchor`` is that of the first common day whose quoted prices are equal (or of any day), ``seam`` that of the last.
    They differ when facts changed in between. A corrected close moves ``adj_close`` by its own factor, which is no
    change of scale: on a day with another close, shares of the close are compared.
    """
    quoted = same[list(PRICES)].all(axis=1)
    corrected = (common["close"] / common["close_old"]).mask(quoted, 1.0)
    ratio = (common["adj_close_old"] / common["adj_close"] * corrected).where(lambda x: np.isfinite(x) & (x > 0))
    near = (ratio - 1).abs() <= SAME_ADJUSTED
    ratio = ratio.mask((same["adj_close"] | near) & ratio.notna(), 1.0)
    agreeing, any_day = (part.groupby(common["ticker"]) for part in (ratio.where(quoted), ratio))
    ends = {"anchor": agreeing.first().fillna(any_day.first()), "seam": agreeing.last().fillna(any_day.last())}
    return pd.DataFrame(ends).fillna(1.0).assign(until=common.groupby("ticker")["date"].last())


def _factors(new: pd.DataFrame, scales: pd.DataFrame, *, continue_stored: bool) -> pd.Series[float]:
    """Choose the scale of each new bar: the seam's after the last common day, else the anchor's."""
    found = new[list(KEY)].join(scales, on="ticker")
    later = (found["date"] > found["until"].fillna("9999")) & continue_stored
    return found["anchor"].mask(later, found["seam"]).fillna(1.0)
