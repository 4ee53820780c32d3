"""One suite, every database: what holds for SQLite holds for PostgreSQL."""

from __future__ import annotations

import datetime as dt
import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import Engine, create_engine, make_url, text

from nextbar.errors import BadBarsError, DatabaseError, ServerError, UnknownTickerError
from nextbar.market.bars import DataAccessLayer, stored_spans
from nextbar.market.ingest import Counts, ingest
from nextbar.market.sources.reader import SourceBars, source_bars
from nextbar.types import Silent

HOSTILE = ("'; DROP TABLE stock_prices; --", "../../x", "BRK.B", "^GSPC", "100%A", "Ünï", 'a"b', "a\\b", "NA")
DAYS = ("2024-01-02", "2024-01-03", "2024-01-04", "2024-01-05")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty place for a database; on PostgreSQL a schema of its own, dropped afterwards."""
    monkeypatch.chdir(tmp_path)
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'market.db'}"
        return
    server = os.environ.get("NEXTBAR_TEST_POSTGRES")
    if not server:
        pytest.skip("NEXTBAR_TEST_POSTGRES holds no PostgreSQL URL")
    place = f"nextbar_{uuid.uuid4().hex}"
    admin = create_engine(server)
    with admin.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA {place}"))
    address = make_url(server).update_query_dict({"options": f"-csearch_path={place}"})
    yield address.render_as_string(hide_password=False)
    with admin.begin() as connection:
        connection.execute(text(f"DROP SCHEMA {place} CASCADE"))
    admin.dispose()


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    """The same database, for looking inside and for preparing foreign tables."""
    engine = create_engine(url)
    yield engine
    engine.dispose()


def bars(ticker: str = "AAA", *, close: Any = 10.0, days: tuple[str, ...] = DAYS, **columns: Any) -> SourceBars:
    quote = np.broadcast_to(np.asarray(close, dtype=float), len(days))
    prices = {"open": quote, "high": quote, "low": quote, "close": quote, "adj_close": quote / 2, "volume": 7}
    return source_bars(pd.DataFrame({"ticker": ticker, "date": days} | prices | columns), "test")


def store(url: str, source: SourceBars) -> Counts:
    return ingest(source, url, progress=Silent()).total


def read(url: str, ticker: str = "AAA", **options: Any) -> pd.DataFrame:
    with DataAccessLayer(url, adjust=False) as access:
        return access.get_stock_prices(ticker, **options)


def run(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def foreign(engine: Engine, *, numbers: str, columns: str = "open high low close volume", key: str = "") -> None:
    """Tables as another program makes them: own key, own types, a creation time."""
    serial = "INTEGER PRIMARY KEY" if engine.dialect.name == "sqlite" else "SERIAL PRIMARY KEY"
    typed = ", ".join(f"{name} {numbers}" for name in columns.split())
    run(
        engine,
        "CREATE TABLE tickers (ticker VARCHAR(20) PRIMARY KEY, company TEXT)",
        f"CREATE TABLE stock_prices (id {serial}, ticker VARCHAR(20) NOT NULL, date DATE NOT NULL, {typed}, "
        f"created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP{key})",
    )


def test_round_trip(url: str) -> None:
    """What is stored is read back to the bit, as a market-format frame, with inclusive borders."""
    close = np.array([10.1, 0.1 + 0.2, 1e-7, 123456.789])
    source = bars(close=close, volume=[1, 2, 3, 4_000_000_000])
    assert store(url, source) == Counts(new=4)
    frame = read(url, quoted=True)
    assert list(frame.columns) == ["Open", "High", "Low", "Close", "Volume", "Quoted"]
    assert set(map(str, frame.dtypes)) == {"float64"}
    assert frame.index.name == "Date"
    assert frame["Close"].to_numpy().tobytes() == close.tobytes()
    assert frame["Volume"].iloc[-1] == 4e9
    cut = read(url, start_date="2024-01-03", end_date="2024-01-04")
    assert cut.index.strftime("%Y-%m-%d").tolist() == ["2024-01-03", "2024-01-04"]


def test_ingesting_twice_changes_nothing(url: str) -> None:
    """The second time every bar is unchanged and no row is added."""
    store(url, bars(adj_close=[1.0, np.nan, 3.0, 4.0]))
    before = read(url)
    assert store(url, bars(adj_close=[1.0, np.nan, 3.0, 4.0])) == Counts(unchanged=4)
    pd.testing.assert_frame_equal(read(url), before)


def test_a_stored_bar_keeps_its_values(url: str) -> None:
    """Other values for a stored day are counted as differing and not written; new days are."""
    store(url, bars(days=DAYS[:2]))
    assert store(url, bars(close=[10.0, 10.5, 10.0, 10.0])) == Counts(new=2, unchanged=1, differs=1)
    assert read(url)["Close"].tolist() == [10.0] * 4


def test_a_value_where_none_is_stored_differs(url: str) -> None:
    """An adjusted close for a bar that is stored without one is not stored; it counts as differing."""
    store(url, bars(adj_close=np.nan))
    assert store(url, bars()) == Counts(differs=4)
    with DataAccessLayer(url) as access:
        assert access.get_stock_prices("AAA").attrs["adjustment"] == "none"


def test_accepted_revisions_replace_stored_values(url: str, engine: Engine) -> None:
    """Changed facts are written over only when accepted; the old values are kept, the unchanged bars untouched."""
    store(url, bars())
    other = bars(close=[10.0, 10.5, 10.0, 10.0])
    summary = ingest(other, url, progress=Silent(), accept_revisions=True, origin="test")
    assert summary.total == Counts(unchanged=3, revised=1)
    assert read(url)["Close"].tolist() == [10.0, 10.5, 10.0, 10.0]
    with engine.connect() as connection:
        kept = connection.execute(text("SELECT ticker, date, close, adj_close, source FROM price_revisions")).all()
    assert [tuple(row) for row in kept] == [("AAA", DAYS[1], 10.0, 5.0, "test")]


def test_a_rescaled_source_continues_the_stored_scale(url: str) -> None:
    """New bars of a source that has rescaled its adjusted closes continue the stored ones; nothing stored changes."""
    store(url, bars(days=DAYS[:3]))
    summary = ingest(bars(adj_close=[1.0] * 4), url, progress=Silent())
    assert summary.total == Counts(new=1, unchanged=3)
    assert summary.rescaled == {"AAA": 5.0}
    with DataAccessLayer(url) as access:
        assert access.get_stock_prices("AAA")["Close"].tolist() == [10.0] * 4


def test_spans_of_stored_bars(url: str) -> None:
    """First and last day per ticker; nothing where there is no table yet, which is not made by asking."""
    assert stored_spans(url) == {}
    store(url, bars())
    store(url, bars("BBB", days=DAYS[1:2]))
    first, second, last = (dt.date.fromisoformat(day) for day in (DAYS[0], DAYS[1], DAYS[-1]))
    assert stored_spans(url) == {"AAA": (first, last), "BBB": (second, second)}


def test_spans_do_not_depend_on_the_date_style(url: str) -> None:
    """A server that writes 03/01/2024 for the third of January gives the same days."""
    address = make_url(url)
    if address.get_backend_name() == "postgresql":
        address = address.update_query_dict({"options": f"{address.query['options']} -cDateStyle=SQL,DMY"})
    style = address.render_as_string(hide_password=False)
    store(style, bars())
    assert stored_spans(style) == {"AAA": (dt.date(2024, 1, 2), dt.date(2024, 1, 5))}
    assert read(style).index.strftime("%Y-%m-%d").tolist() == list(DAYS)


def test_spans_of_dates_that_are_none(url: str, engine: Engine) -> None:
    """A stored date in another spelling is an error that names it."""
    if engine.dialect.name != "sqlite":
        pytest.skip("a DATE column holds days only")
    store(url, bars())
    run(engine, "UPDATE stock_prices SET date = '5 Jan' WHERE date = '2024-01-05'")
    with pytest.raises(BadBarsError, match=r"stored date is not a day written YYYY-MM-DD .*5 Jan"):
        stored_spans(url)


def test_accepting_in_a_foreign_table(url: str, engine: Engine) -> None:
    """A table with other number types and no adjusted close is revised in the columns it has."""
    foreign(engine, numbers="NUMERIC(12,4)")
    store(url, bars())
    other = bars(close=[10.0, 10.5, 10.0, 10.0])
    assert ingest(other, url, progress=Silent(), accept_revisions=True).total == Counts(unchanged=3, revised=1)
    assert read(url)["Close"].tolist() == [10.0, 10.5, 10.0, 10.0]
    assert ingest(other, url, progress=Silent(), accept_revisions=True).total == Counts(unchanged=4)


@pytest.mark.parametrize("numbers", ["NUMERIC(12,2)", "REAL"])
def test_what_a_type_rounds_is_unchanged(url: str, engine: Engine, numbers: str) -> None:
    """Values that a column stores rounded are the same the next time; the next larger step is another value."""
    foreign(engine, numbers=numbers, columns="open high low close adj_close volume")
    exact = bars(close=[10.123456, 10.125, 10.135, 11.0], volume=[7.5, 8.5, 1.25, np.nan])
    store(url, exact)
    summary = ingest(exact, url, progress=Silent())
    assert (summary.total, summary.rescaled) == (Counts(unchanged=4), {})
    assert store(url, bars(close=[10.133456, 10.125, 10.135, 11.0], volume=[7.5, 8.5, 1.25, np.nan])).differs == 1


def test_many_revisions_of_a_table_without_a_key(url: str, engine: Engine) -> None:
    """Thousands of revised bars are replaced in a table that has no index, and the old values are kept."""
    foreign(engine, numbers="DOUBLE PRECISION")
    days = tuple(pd.date_range("2000-01-01", periods=5000).strftime("%Y-%m-%d"))
    store(url, bars(days=days))
    summary = ingest(bars(days=days, close=11.0), url, progress=Silent(), accept_revisions=True)
    assert summary.total == Counts(revised=5000)
    assert set(read(url)["Close"]) == {11.0}
    with engine.connect() as connection:
        kept = connection.execute(text("SELECT count(*), min(close), max(close) FROM price_revisions")).one()
    assert tuple(kept) == (5000, 10.0, 10.0)


def test_refused_bars_go_into_a_file_with_their_reason(url: str, tmp_path: Path) -> None:
    """The file holds ticker, source, reason and line; good bars are stored all the same."""
    source = bars(close=[10.0, -1.0, 10.0, 10.0], note=["a", "b", "c", "d"])
    summary = ingest(source, url, progress=Silent())
    assert summary.tickers == {"AAA": Counts(new=3, rejected=1)}
    assert summary.rejects is not None
    refused = pd.read_csv(tmp_path / summary.rejects)
    assert list(refused) == ["ticker", "file", "reason", "line"]
    assert refused["reason"].tolist() == ["open <= 0"]
    assert "2024-01-03" in refused["line"][0]


def test_nothing_valid_is_an_error(url: str) -> None:
    """With no good bar at all the reasons are counted in the message and no table is made."""
    with pytest.raises(BadBarsError, match=r"none of 4 bars can be stored: open <= 0 \(4,"):
        store(url, bars(close=-1.0))
    with pytest.raises(DatabaseError):
        read(url)


def test_several_tickers_in_the_order_asked(url: str) -> None:
    """A list gives a dict in the order of the list."""
    for name in ("CCC", "AAA", "BBB"):
        store(url, bars(name))
    with DataAccessLayer(url) as access:
        assert access.get_tickers() == ["AAA", "BBB", "CCC"]
        assert list(access.get_stock_prices(["BBB", "CCC", "AAA"])) == ["BBB", "CCC", "AAA"]
        assert access.get_stock_prices([]) == {}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_names(url: str, name: str) -> None:
    """A ticker is data in every statement, whatever characters it holds."""
    store(url, bars(name))
    store(url, bars("ZZZ"))
    with DataAccessLayer(url) as access:
        assert access.get_tickers() == sorted([name, "ZZZ"])
        assert len(access.get_stock_prices(name)) == 4
        assert list(access.get_stock_prices([name, "ZZZ"])) == [name, "ZZZ"]


def test_unknown_tickers_are_all_named_with_what_is_near(url: str) -> None:
    """The error names every unknown ticker, the nearest known ones and the command that helps."""
    store(url, bars("GOOG"))
    with (
        DataAccessLayer(url) as access,
        pytest.raises(UnknownTickerError, match=r"GOGO \(nearest: GOOG\), XYZ \(nothing similar\).*nextbar ingest"),
    ):
        access.get_stock_prices(["XYZ", "GOOG", "GOGO"])


def test_levels_do_not_depend_on_the_range(url: str) -> None:
    """The adjustment begins at the first stored bar, so a later start gives the same prices."""
    store(url, bars(close=[10.0, 11.0, 12.0, 13.0], adj_close=[1.0, 2.0, 3.0, 4.0]))
    with DataAccessLayer(url) as access:
        whole, late = access.get_stock_prices("AAA"), access.get_stock_prices("AAA", "2024-01-04")
    assert whole["Close"].tolist() == [10.0, 20.0, 30.0, 40.0]
    pd.testing.assert_frame_equal(whole.iloc[2:], late)
    assert late.attrs["adjustment"] == "forward"


@pytest.mark.parametrize("numbers", ["NUMERIC(12,4)", "REAL", "DOUBLE PRECISION"])
def test_a_foreign_table_without_adjusted_closes(url: str, engine: Engine, numbers: str) -> None:
    """Own key, creation time, other number types: reading works, ingest stores the columns there are, twice is once."""
    foreign(engine, numbers=numbers)
    assert store(url, bars(close=[10.0, 10.5, 10.1, 11.0])) == Counts(new=4)
    assert store(url, bars(close=[10.0, 10.5, 10.1, 11.0])) == Counts(unchanged=4)
    with DataAccessLayer(url) as access:
        frame = access.get_stock_prices("AAA")
    assert frame.attrs["adjustment"] == "none"
    np.testing.assert_allclose(frame["Close"], [10.0, 10.5, 10.1, 11.0], rtol=1e-6)


def test_many_whole_numbers_before_the_first_fraction(url: str, engine: Engine) -> None:
    """A NUMERIC column whose first thousands of values are whole keeps the fractions that come later."""
    foreign(engine, numbers="NUMERIC(12,4)")
    days = tuple(pd.date_range("2000-01-01", periods=3000).strftime("%Y-%m-%d"))
    store(url, bars(close=[10.0] * 2999 + [10.5], days=days))
    assert read(url)["Close"].tolist() == [10.0] * 2999 + [10.5]


def test_null_becomes_nan(url: str, engine: Engine) -> None:
    """NULL prices are NaN, NULL adjusted closes make NaN prices, all NULL means quoted prices; no bar is dropped."""
    foreign(engine, numbers="DOUBLE PRECISION", columns="open high low close adj_close volume")
    rows = [("A", 10, 5), ("A", 11, "NULL"), ("A", "NULL", 6), ("B", 10, "NULL")]
    run(
        engine,
        *(
            f"INSERT INTO stock_prices (ticker, date, open, high, low, close, adj_close, volume) "
            f"VALUES ('{name}', '2024-01-0{i + 1}', {close}, {close}, {close}, {close}, {adjusted}, NULL)"
            for i, (name, close, adjusted) in enumerate(rows)
        ),
    )
    with DataAccessLayer(url) as access:
        frames = access.get_stock_prices(["A", "B"])
    np.testing.assert_array_equal(frames["A"]["Close"], [10.0, np.nan, np.nan])
    np.testing.assert_array_equal(frames["B"]["Open"], [10.0])
    assert [frames[name].attrs["adjustment"] for name in "AB"] == ["forward", "none"]
    assert frames["A"]["Volume"].isna().all()


def test_duplicate_days_are_passed_on(url: str, engine: Engine) -> None:
    """A table without a unique key may hold a day twice; reading drops nothing, the core decides."""
    foreign(engine, numbers="DOUBLE PRECISION")
    row = "INSERT INTO stock_prices (ticker, date, open, high, low, close) VALUES ('A', '2024-01-02', 1, 1, 1, 1)"
    run(engine, row, row)
    assert len(read(url, "A")) == 2


def test_a_listed_ticker_without_bars_is_empty(url: str, engine: Engine) -> None:
    """A row in tickers without bars gives an empty frame, so that ALL does not fail on it."""
    store(url, bars())
    run(engine, "INSERT INTO tickers (ticker) VALUES ('EMPTY')")
    frame = read(url, "EMPTY")
    assert frame.empty
    assert list(frame.columns) == ["Open", "High", "Low", "Close", "Volume"]


def test_a_missing_column_is_named(url: str, engine: Engine) -> None:
    """The message names the missing column and the table."""
    foreign(engine, numbers="REAL", columns="open high low volume")
    with pytest.raises(DatabaseError, match="table stock_prices has no column close"):
        read(url)


def test_a_missing_table_is_named(url: str, engine: Engine) -> None:
    """Another program's database is recognised: what it has is listed, and neither reading nor ingest adds to it."""
    run(engine, "CREATE TABLE tickers (ticker TEXT)")
    with pytest.raises(DatabaseError, match=r"has no table stock_prices, only tickers"):
        read(url)
    with pytest.raises(DatabaseError, match=r"has no table stock_prices, only tickers"):
        store(url, bars())


def test_an_interruption_leaves_the_old_state(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle of storing leaves every bar as it was and no file of refused bars."""
    store(url, bars(days=DAYS[:1]))

    class Interrupt(Silent):
        def advance(self, steps: int = 1, note: str = "") -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest(bars(close=[10.0, 10.0, 10.0, -1.0]), url, progress=Interrupt())
    monkeypatch.setattr(pd.DataFrame, "to_csv", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        store(url, bars(close=[10.0, 10.0, 10.0, -1.0]))
    assert len(read(url)) == 1
    assert not list(Path().glob("*rejects*"))


def test_concurrent_ingests_neither_duplicate_nor_lose(url: str) -> None:
    """Four writers with overlapping days of one ticker, starting on an empty database, leave each day once."""
    days = tuple(pd.date_range("2020-01-01", periods=400).strftime("%Y-%m-%d"))
    totals: list[Counts] = []
    threads = [
        threading.Thread(target=lambda part: totals.append(store(url, part)), args=(bars(days=days[i : i + 250]),))
        for i in range(0, 200, 50)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(totals) == 4
    assert sum(counts.new for counts in totals) == 400
    assert read(url).index.is_unique
    assert len(read(url)) == 400


def test_reading_goes_on_while_an_ingest_writes(url: str) -> None:
    """In the middle of an ingest another reader gets the bars as they were, without waiting, and then the new ones."""
    store(url, bars(days=DAYS[:1]))
    seen: list[int] = []

    class Reader(Silent):
        def advance(self, steps: int = 1, note: str = "") -> None:
            seen.append(len(read(url)))

    ingest(bars(), url, progress=Reader())
    assert seen == [1]
    assert len(read(url)) == 4


@pytest.mark.postgres
@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_lost_connection_leaves_all_or_nothing(url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server ends the connection when bars are inserted but not committed: an error, and nothing is stored."""
    store(url, bars(days=DAYS[:1]))
    name = f"ingest {uuid.uuid4().hex}"
    lose = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{name}'"
    written = pd.DataFrame.to_csv

    def lose_at_the_file(frame: pd.DataFrame, file: Any = None, **options: Any) -> Any:
        return written(frame, **options) if file is None else run(engine, lose)

    monkeypatch.setattr(pd.DataFrame, "to_csv", lose_at_the_file)
    marked = make_url(url).update_query_dict({"application_name": name}).render_as_string(hide_password=False)
    with pytest.raises(ServerError):
        store(marked, bars(close=[10.0, 10.0, 10.0, -1.0]))
    assert len(read(url)) == 1
    assert not list(Path().glob("*rejects*"))
