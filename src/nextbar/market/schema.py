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
            raise DatabaseError(_no_table(name, table, inspector.get_table_names()))
        found = [column["name"] for column in inspector.get_columns(table)]
        missing = [column for column in required if column not in found]
        if missing:
            raise DatabaseError(
                f"{name}: table {table} has no column {', '.join(missing)}; "
                f"found {', '.join(found)}; expected at least {', '.join(required)}"
            )
    known = {column["name"]: column["type"] for column in inspector.get_columns("stock_prices")}
    return sa.Table(
        "stock_prices", sa.MetaData(), *(sa.Column(name, known[name]) for name in known if name in BAR_COLUMNS)
    )


def rounding(prices: sa.Table, dialect: sa.Dialect) -> dict[str, float]:
    """Return the most by which storing may round a number, by column; SQLite stores every number as it is."""
    if dialect.name == "sqlite":
        return {}
    digits = {c.name: 0 if isinstance(c.type, sa.Integer) else getattr(c.type, "scale", None) for c in prices.c}
    return {name: 0.50001 * 10.0**-scale for name, scale in digits.items() if scale is not None}


def _no_table(name: str, table: str, found: list[str]) -> str:
    if not found:
        return f"{name} is an empty database; fill it with: nextbar ingest sample --db {name}"
    return (
        f"{name} has no table {table}, only {', '.join(sorted(found))}; expected tickers and stock_prices. "
        "Create a database of bars in a file of its own: nextbar ingest sample --db data/market.db"
    )
