"""The two tables of the market database, and checks of a database that another program made."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from nextbar.errors import DatabaseError

KEY: Final = ("ticker", "date")
PRICES: Final = ("open", "high", "low", "close")
REQUIRED: Final = (*KEY, *PRICES, "volume")
BAR_COLUMNS: Final = (*KEY, *PRICES, "adj_close", "volume")

metadata = sa.MetaData()

tickers = sa.Table(
    "tickers",
    metadata,
    sa.Column("ticker", sa.Text, primary_key=True),
    sa.Column("name", sa.Text),
    sa.Column("sector", sa.Text),
    sqlite_with_rowid=False,
)

# Without a rowid the bars are stored in the order of the key: one ticker is one run of pages.
stock_prices = sa.Table(
    "stock_prices",
    metadata,
    sa.Column("ticker", sa.Text, primary_key=True),
    sa.Column("date", sa.Text().with_variant(sa.Date, "postgresql"), primary_key=True),
    *(sa.Column(name, sa.Double) for name in (*PRICES, "adj_close")),
    sa.Column("volume", sa.BigInteger),
    sqlite_with_rowid=False,
)


def create_missing(connection: sa.Connection) -> bool:
    """Create both tables where neither exists, and say so; a database with one of them is another program's."""
    inspector = sa.inspect(connection)
    missing = not any(inspector.has_table(table.name) for table in (tickers, stock_prices))
    if missing:
        metadata.create_all(connection)
    return missing


def reflect_prices(connection: sa.Connection, name: str) -> sa.Table:
    """Check both tables and describe ``stock_prices`` as this database has it, by the known columns that exist."""
    inspector = sa.inspect(connection)
    for table, required in (("tickers", ("ticker",)), ("stock_prices", REQUIRED)):
        if not inspector.has_table(table):
            others = ", ".join(sorted(inspector.get_table_names()))
            if not others:
                raise DatabaseError(f"{name} is an empty database; fill it with: nextbar ingest sample --db {name}")
            told = f"{name} has no table {table}, only {others}; expected tickers and stock_prices. Create a database"
            raise DatabaseError(f"{told} of bars in a new file: nextbar ingest sample --db data/market.db")
        found = [column["name"] for column in inspector.get_columns(table)]
        missing = [column for column in required if column not in found]
        if missing:
            told = f"{name}: table {table} has no column {', '.join(missing)}; found {', '.join(found)}"
            raise DatabaseError(f"{told}; expected at least {', '.join(required)}")
    known = {column["name"]: column["type"] for column in inspector.get_columns("stock_prices")}
    columns = [sa.Column(name, kind) for name, kind in known.items() if name in BAR_COLUMNS]
    return sa.Table("stock_prices", sa.MetaData(), *columns)


def rounding(prices: sa.Table, dialect: sa.Dialect) -> dict[str, float]:
    """Return the most by which storing may round a number, by column; SQLite stores every number as it is."""
    if dialect.name == "sqlite":
        return {}
    digits = {c.name: 0 if isinstance(c.type, sa.Integer) else getattr(c.type, "scale", None) for c in prices.c}
    return {name: 0.50001 * 10.0**-scale for name, scale in digits.items() if scale is not None}
