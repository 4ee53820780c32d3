"""The two tables of the market database, and what is expected of a database that somebody else made."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, Connection, Date, Double, MetaData, Table, Text, inspect

from nextbar.errors import DatabaseError

PRICES: Final = ("open", "high", "low", "close")
REQUIRED: Final = ("ticker", "date", *PRICES, "volume")
BAR_COLUMNS: Final = ("ticker", "date", *PRICES, "adj_close", "volume")

metadata = MetaData()

tickers = Table(
    "tickers",
    metadata,
    Column("ticker", Text, primary_key=True),
    Column("name", Text),
    Column("sector", Text),
    sqlite_with_rowid=False,
)

# Without a rowid the bars lie on disk in the order of the key: one ticker is one stretch of pages.
stock_prices = Table(
    "stock_prices",
    metadata,
    Column("ticker", Text, primary_key=True),
    Column("date", Text().with_variant(Date, "postgresql"), primary_key=True),
    *(Column(name, Double) for name in (*PRICES, "adj_close")),
    Column("volume", BigInteger),
    sqlite_with_rowid=False,
)


def create_missing(connection: Connection) -> None:
    """Create both tables where neither exists; a database that has one of them is somebody's and stays as it is."""
    inspector = inspect(connection)
    if not any(inspector.has_table(table.name) for table in (tickers, stock_prices)):
        metadata.create_all(connection)


def reflect_prices(connection: Connection, name: str) -> Table:
    """The table ``stock_prices`` as this database has it, checked.

    Args:
        connection: An open connection.
        name: The database as error messages call it.

    Returns:
        The known columns that exist, with their types in this database.

    Raises:
        DatabaseError: A table or a required column is missing.
    """
    inspector = inspect(connection)
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
    known = [column for column in inspector.get_columns("stock_prices") if column["name"] in BAR_COLUMNS]
    return Table("stock_prices", MetaData(), *(Column(column["name"], column["type"]) for column in known))


def _no_table(name: str, table: str, found: list[str]) -> str:
    """Say what is there instead, and how to get the table."""
    if not found:
        return f"{name} is an empty database; fill it with: nextbar ingest sample --db {name}"
    return (
        f"{name} has no table {table}, only {', '.join(sorted(found))}; expected tickers and stock_prices. "
        "Create a database of bars in a file of its own: nextbar ingest sample --db data/market.db"
    )
