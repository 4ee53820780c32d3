"""Against frames in the shapes that yfinance gives; the network is never asked."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nextbar.errors import BadBarsError, ConfigError, NetworkError
from nextbar.market.bars import DataAccessLayer, stored_spans
from nextbar.market.calendar import last_finished_day
from nextbar.market.ingest import Counts
from nextbar.market.sources.reader import SourceBars
from nextbar.market.sources.yahoo import Answer, fetch_yahoo
from nextbar.types import Silent
from nextbar.workflows.options import UpdateConfig
from nextbar.workflows.update import update

MONDAY = dt.date(2024, 1, 8)
LAST = dt.date(2024, 1, 12)
CLOSE = [10.0, 11.0, 12.0, 13.0, 14.0]
UTC = dt.UTC


def history(
    close: Sequence[float] = CLOSE,
    *,
    start: dt.date = MONDAY,
    adjusted: Sequence[float] | None = None,
    splits: Mapping[int, float] | None = None,
    tz: str | None = None,
    volume: Any = 1000,
) -> pd.DataFrame:
    """One ticker as Ticker.history gives it with auto_adjust=False and actions=True."""
    index = pd.DatetimeIndex(pd.bdate_range(start, periods=len(close), tz=tz), name="Date")
    prices = dict.fromkeys(("Open", "High", "Low", "Close"), np.array(close))
    frame = pd.DataFrame(
        {**prices, "Adj Close": close if adjusted is None else adjusted, "Volume": volume}, index=index
    )
    ratio = pd.Series(0.0, index=index)
    for row, shares in (splits or {}).items():
        ratio.iloc[row] = shares
    return frame.assign(**{"Dividends": 0.0, "Stock Splits": ratio})


def joined(parts: Mapping[str, pd.DataFrame], *, by: str = "column") -> pd.DataFrame:
    """Several tickers as yfinance.download joins them: columns (Price, Ticker), or (Ticker, Price) by ticker."""
    frame = pd.concat(parts, axis=1, sort=True, names=["Ticker", "Price"])
    return frame if by == "ticker" else frame.swaplevel(axis=1).sort_index(axis=1, level=0)


class Yahoo:
    """A download function that knows some tickers, remembers what it was asked and can be limited for a while."""

    def __init__(self, parts: Mapping[str, pd.DataFrame], *, limited: int = 0, by: str = "column") -> None:
        self.parts, self.limited, self.by = parts, limited, by
        self.asked: list[tuple[tuple[str, ...], dt.date]] = []

    def __call__(self, names: Sequence[str], start: dt.date, end: dt.date) -> Answer:
        self.asked.append((tuple(names), start))
        if self.limited:
            self.limited -= 1
            return Answer(frame=pd.DataFrame(), reasons=dict.fromkeys(names, "YFRateLimitError('Too Many Requests.')"))
        within = slice(pd.Timestamp(start), pd.Timestamp(end - dt.timedelta(days=1)))
        found = {name: self.parts[name].loc[within] for name in names if name in self.parts}
        nothing = history([]).astype("float64")
        return Answer(frame=joined({name: found.get(name, nothing) for name in names}, by=self.by), reasons={})


Fetched = tuple[SourceBars | None, Mapping[str, str]]


def fetch(parts: Mapping[str, pd.DataFrame] | Yahoo, *names: str, last: dt.date = LAST, **options: Any) -> Fetched:
    download = parts if isinstance(parts, Yahoo) else Yahoo(parts)
    starts = dict.fromkeys(names, MONDAY)
    return fetch_yahoo(starts, last, download, progress=Silent(), sleep=options.pop("sleep", lambda _: None))


def closes(fetched: Fetched, name: str, column: str = "close") -> dict[str, float]:
    assert fetched[0] is not None
    bars = fetched[0].bars
    rows = bars[bars["ticker"] == name]
    return dict(zip(rows["date"], rows[column], strict=True))


@pytest.mark.parametrize("by", ["column", "ticker"])
def test_both_orders_of_column_levels(by: str) -> None:
    """(Price, Ticker) and (Ticker, Price) give the same bars, ticker by ticker."""
    fetched = fetch(Yahoo({"AAA": history(), "BBB": history(adjusted=[1, 2, 3, 4, 5])}, by=by), "AAA", "BBB")
    assert list(closes(fetched, "AAA").values()) == CLOSE
    assert list(closes(fetched, "BBB", "adj_close").values()) == [1, 2, 3, 4, 5]
    assert fetched[1] == {}


def test_plain_columns_of_a_single_ticker() -> None:
    """A frame without levels, as old versions give for one ticker, is that ticker's."""
    fetched = fetch_yahoo(
        {"AAA": MONDAY}, LAST, lambda *_: Answer(frame=history(), reasons={}), progress=Silent(), sleep=lambda _: None
    )
    assert list(closes(fetched, "AAA").values()) == CLOSE


def test_adjusted_closes_alone_are_refused() -> None:
    """With auto_adjust on, Close is adjusted and the quoted price is unknown: the ticker fails and says why."""
    fetched = fetch({"AAA": history().drop(columns="Adj Close")}, "AAA")
    assert fetched[0] is None
    assert "auto_adjust" in fetched[1]["AAA"]


def test_a_wrong_symbol_does_not_stop_the_others() -> None:
    """An empty column set is a recorded failure with a reason; the other ticker's bars come."""
    fetched = fetch({"AAA": history()}, "AAA", "WRONG")
    assert len(closes(fetched, "AAA")) == 5
    assert "wrong symbol" in fetched[1]["WRONG"]


def test_days_that_another_market_has_and_this_one_not_are_no_bars() -> None:
    """Joining tickers fills missing days with NaN rows; they are neither bars nor rejects."""
    fetched = fetch({"AAA": history(), "BBB": history(CLOSE[:2], start=dt.date(2024, 1, 10))}, "AAA", "BBB")
    assert list(closes(fetched, "BBB")) == ["2024-01-10", "2024-01-11"]


@pytest.mark.parametrize("tz", ["America/New_York", "Asia/Tokyo", "Europe/London", "Pacific/Auckland"])
@pytest.mark.parametrize("as_utc", [False, True])
def test_days_are_those_of_the_exchange(tz: str, *, as_utc: bool) -> None:
    """Midnights in the exchange's zone, also when they come as UTC, give the exchange's dates."""
    frame = history(tz=tz)
    frame = frame.tz_convert("UTC") if as_utc else frame
    fetched = fetch_yahoo(
        {"AAA": MONDAY}, LAST, lambda *_: Answer(frame=frame, reasons={}), progress=Silent(), sleep=lambda _: None
    )
    assert list(closes(fetched, "AAA")) == [f"2024-01-{day:02d}" for day in range(8, 13)]


def test_the_row_of_a_day_that_is_not_over_is_left_out() -> None:
    """A row after the last finished day is no bar, and a ticker that has nothing else fails with that reason."""
    fetched = fetch({"AAA": history(), "NEW": history([5.0], start=LAST)}, "AAA", "NEW", last=dt.date(2024, 1, 11))
    assert list(closes(fetched, "AAA"))[-1] == "2024-01-11"
    assert fetched[1] == {"NEW": "Yahoo has no complete bar of it up to 2024-01-11"}


@pytest.mark.parametrize(
    ("now", "day"),
    [
        (dt.datetime(2024, 1, 12, 20, 0, tzinfo=UTC), 11),
        (dt.datetime(2024, 1, 12, 21, 20, tzinfo=UTC), 11),
        (dt.datetime(2024, 1, 12, 21, 40, tzinfo=UTC), 12),
        (dt.datetime(2024, 1, 13, 3, 0, tzinfo=UTC), 12),
        (dt.datetime(2024, 1, 14, 12, 0, tzinfo=UTC), 13),
        (dt.datetime(2024, 1, 15, 22, 0, tzinfo=UTC), 14),
    ],
)
def test_when_a_day_is_over(now: dt.datetime, day: int) -> None:
    """Half an hour after New York's close, in New York's days; a holiday (2024-01-15) never ends its own day."""
    assert last_finished_day("XNYS", now) == dt.date(2024, 1, day)


def test_splits_are_taken_out_of_quoted_prices_and_volumes() -> None:
    """Yahoo carries a split back into Close and Volume; stored is what was quoted, adj_close stays as it came."""
    fetched = fetch({"AAA": history([5.0, 5.5, 6.0, 6.1, 6.2], splits={2: 2.0})}, "AAA")
    assert list(closes(fetched, "AAA").values()) == [10.0, 11.0, 6.0, 6.1, 6.2]
    assert list(closes(fetched, "AAA", "volume").values()) == [500, 500, 1000, 1000, 1000]
    assert list(closes(fetched, "AAA", "adj_close").values()) == [5.0, 5.5, 6.0, 6.1, 6.2]


def test_a_split_of_today_is_taken_out_though_its_row_is_not_over() -> None:
    """The past is already on the new scale in the morning of the split, when the day's own row is left out."""
    fetched = fetch({"AAA": history([5.0, 5.5, 6.0, 6.1, 6.2], splits={4: 2.0})}, "AAA", last=dt.date(2024, 1, 11))
    assert list(closes(fetched, "AAA").values()) == [10.0, 11.0, 12.0, 12.2]


def test_a_split_that_yahoo_has_not_carried_back_is_refused() -> None:
    """A split event with a jump of its size would be taken out twice: the ticker fails and is asked for another day."""
    fetched = fetch({"AAA": history([10.0, 11.0, 6.0, 6.1, 6.2], splits={2: 2.0}), "BBB": history()}, "AAA", "BBB")
    assert "2 for 1) on 2024-01-10" in fetched[1]["AAA"]
    assert len(closes(fetched, "BBB")) == 5


def test_rate_limits_are_waited_for() -> None:
    """After two refusals, waited for 15 and 60 seconds, the third answer counts; the wait is reported."""
    waits: list[float] = []
    notes: list[str] = []

    class Told(Silent):
        def advance(self, steps: int = 1, note: str = "") -> None:
            notes.append(note)

    yahoo = Yahoo({"AAA": history()}, limited=2)
    fetched = fetch_yahoo({"AAA": MONDAY}, LAST, yahoo, progress=Told(), sleep=waits.append)
    assert len(closes(fetched, "AAA")) == 5
    assert len(yahoo.asked) == 3
    assert waits == [5] * 15
    assert [note for note in notes if note.endswith(("15 s", "60 s"))] == [
        f"Yahoo limits the rate, asking again in {seconds} s" for seconds in (15, 60, 15)
    ]


def test_only_what_was_limited_is_asked_again() -> None:
    """Of a batch that was cut off half-way, the part that came is not asked for again."""

    class HalfLimited(Yahoo):
        def __call__(self, names: Sequence[str], start: dt.date, end: dt.date) -> Answer:
            answer = super().__call__(names, start, end)
            if len(self.asked) > 1:
                return answer
            return Answer(frame=answer.frame.drop(columns="BBB", level=1), reasons={"BBB": "Rate limited."})

    yahoo = HalfLimited({"AAA": history(), "BBB": history()})
    fetched = fetch(yahoo, "AAA", "BBB")
    assert [names for names, _ in yahoo.asked] == [("AAA", "BBB"), ("BBB",)]
    assert len(closes(fetched, "AAA")) == len(closes(fetched, "BBB")) == 5


def test_a_lasting_limit_ends_the_asking() -> None:
    """When waiting does not help, later batches are not asked for, and each ticker says what happened."""
    names = [f"T{i:03d}" for i in range(120)]
    yahoo = Yahoo({}, limited=99)
    fetched = fetch(yahoo, *names)
    assert len(yahoo.asked) == 4
    assert {len(asked) for asked, _ in yahoo.asked} == {50}
    assert "Too Many Requests" in fetched[1]["T000"]
    assert "not asked for" in fetched[1]["T119"]


def ask(yahoo: Yahoo, db: Path, *names: str, now: dt.datetime, **options: Any) -> Any:
    return update(names, UpdateConfig(db=str(db), since="2023-01-02", **options), yahoo, Silent(), now=now)


def test_only_what_is_missing_is_asked_for(tmp_path: Path) -> None:
    """A stored ticker is asked for from ten days before its last bar, a new one from --since; refresh asks for all."""
    db = tmp_path / "m.db"
    walk = 100 + np.arange(300.0)
    yahoo = Yahoo({"AAA": history(walk, start=dt.date(2023, 1, 2)), "BBB": history(walk, start=dt.date(2023, 1, 2))})
    then, now = (dt.datetime(2023, month, 1, 12, tzinfo=UTC) for month in (6, 7))
    first, _ = ask(yahoo, db, "AAA", now=then)
    assert stored_spans(db) == {"AAA": (dt.date(2023, 1, 2), dt.date(2023, 5, 31))}
    second, failed = ask(yahoo, db, "AAA", "BBB", "NONE", now=now)
    assert sorted(yahoo.asked[1:]) == [(("AAA",), dt.date(2023, 5, 21)), (("BBB", "NONE"), dt.date(2023, 1, 2))]
    assert second.tickers == {"AAA": Counts(new=22, unchanged=8), "BBB": Counts(new=130)}
    assert list(failed) == ["NONE"]
    third, _ = ask(yahoo, db, "AAA", now=now, refresh=True)
    assert third.total == Counts(unchanged=first.total.new + 22)


def test_a_split_between_two_updates_changes_nothing_stored(tmp_path: Path) -> None:
    """Yahoo halves the whole past after a 2:1 split: no revision, quoted prices stay quoted, the return is Yahoo's."""
    db = tmp_path / "m.db"
    before, after = [10.0, 11.0, 12.0, 13.0], [5.0, 5.5, 6.0, 6.5, 6.6]
    now = dt.datetime(2024, 1, 12, tzinfo=UTC)
    ask(Yahoo({"AAA": history(before)}), db, "AAA", now=now)
    later = Yahoo({"AAA": history(after, splits={4: 2.0}, volume=[2000] * 4 + [3000])})
    summary, _ = ask(later, db, "AAA", now=now + dt.timedelta(days=2))
    assert summary.total == Counts(new=1, unchanged=4)
    assert summary.rescaled == {"AAA": 2.0}
    with DataAccessLayer(db) as access:
        frame = access.get_stock_prices("AAA", quoted=True)
    assert frame["Quoted"].tolist() == [*before, 6.6]
    np.testing.assert_allclose(frame["Close"], [*before, 13.2], rtol=1e-12)


def test_no_bars_at_all_is_an_error_with_reasons(tmp_path: Path) -> None:
    """When nothing came the error holds the reasons, and no database is made."""
    with pytest.raises(BadBarsError, match=r"no bars of 1 ticker: WRONG: .*wrong symbol"):
        ask(Yahoo({}), tmp_path / "m.db", "WRONG", now=dt.datetime(2024, 1, 12, tzinfo=UTC))
    assert not (tmp_path / "m.db").exists()


def test_a_first_day_that_is_not_over_is_an_error(tmp_path: Path) -> None:
    """A first day in the future is refused before a request is sent."""
    now = dt.datetime(2022, 12, 31, tzinfo=UTC)
    yahoo = Yahoo({})
    with pytest.raises(ConfigError, match="--since 2023-01-02 is after the last day that is over, 2022-12-30"):
        ask(yahoo, tmp_path / "m.db", "AAA", now=now)
    assert not yahoo.asked


@pytest.mark.parametrize(
    ("reason", "error"),
    [
        ("DNSError('Failed to perform, curl: (6) Could not resolve host: query2.finance.yahoo.com.')", NetworkError),
        ("ConnectionError('Connection refused')", NetworkError),
        ("possibly delisted; no price data found", BadBarsError),
    ],
    ids=["name", "refused", "delisted"],
)
def test_a_network_that_fails_is_an_error_of_its_own(tmp_path: Path, reason: str, error: type[Exception]) -> None:
    """That Yahoo cannot be reached is told from a symbol that it does not know, so that a job tries again.

    Eighty wrong symbols are one line, not eighty.
    """
    config = UpdateConfig(db=str(tmp_path / "m.db"), since="2023-01-02")
    down = lambda names, *_days: Answer(frame=pd.DataFrame(), reasons=dict.fromkeys(names, reason))  # noqa: E731
    with pytest.raises(error, match=r"of 80 tickers: T0, T1, T2, T3, T4, T5 and 74 more tickers: (?!.*T7)"):
        update(
            [f"T{number}" for number in range(80)], config, down, Silent(), now=dt.datetime(2023, 6, 1, tzinfo=dt.UTC)
        )


def test_the_client_asks_for_quoted_prices_and_reads_reasons_from_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """yfinance is asked for quoted prices with splits, and what it only logs about a ticker becomes its reason."""
    client = pytest.importorskip("nextbar.market.sources.yahoo_client", exc_type=ImportError)
    import logging

    asked: dict[str, Any] = {}
    quote = "'; DROP"

    def download(tickers: list[str], **options: Any) -> pd.DataFrame:
        asked.update(options, tickers=tickers)
        logging.getLogger("yfinance").error("\n1 Failed download:")
        logging.getLogger("yfinance").error(f"{['WRONG', quote]}: possibly delisted; no timezone found")
        return joined({"AAA": history()})

    monkeypatch.setattr(client.yfinance, "download", download)
    answer = client.download(["AAA", "WRONG", quote], MONDAY, LAST)
    assert asked["auto_adjust"] is False
    assert asked["actions"] is True
    assert (asked["start"], asked["end"]) == ("2024-01-08", "2024-01-12")
    assert answer.reasons == dict.fromkeys(["WRONG", "'; DROP"], "possibly delisted; no timezone found")
    assert logging.getLogger("yfinance").propagate
