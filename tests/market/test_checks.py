from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from nextbar.cli.main import app_of
from nextbar.datasets.prices import History
from nextbar.errors import ConfigError, UnknownTickerError
from nextbar.market.calendar import sessions
from nextbar.market.checks import RULES, Finding, Hits, Panel, check_bars, find_errors, rule, tally
from nextbar.market.ingest import ingest
from nextbar.market.sources.files import read_files
from nextbar.types import Silent
from nextbar.workflows.update import check_stored

read_parquet = partial(read_files, kind="parquet")

DAYS = sessions("XNYS", np.datetime64("2018-01-02"), np.datetime64("2018-12-31"))
FLAT = {"open": 0.0, "high": 1.0, "low": -1.0, "close": 0.0}


def history(
    close: Any, *, adj_close: Any = None, volume: Any = 100.0, days: Any = None, bars: Mapping[str, Any] | None = None
) -> History:
    """Bars one wide around the close; ``bars`` replaces single columns."""
    close = np.asarray(close, dtype=np.float64)
    columns = {name: close * (1 + spread / 200) for name, spread in FLAT.items()} | dict(bars or {})
    adjusted = np.full(len(close), np.nan) if adj_close is None else np.asarray(adj_close, dtype=np.float64)
    rows = [*columns.values(), np.broadcast_to(np.asarray(volume, dtype=np.float64), len(close)), adjusted]
    return History(days=DAYS[: len(close)] if days is None else days, numbers=np.stack(rows))


def walk(bars: int = 100, seed: int = 0) -> np.ndarray:
    return 100 * np.exp(np.cumsum(np.random.default_rng(seed).normal(0, 0.01, bars)))


def changed(row: int, factor: float, *, until: int | None = None, bars: int = 100) -> np.ndarray:
    """A walk that is multiplied by a factor from a row on, or for some rows."""
    close = walk(bars)
    close[row:until] *= factor
    return close


def found(*histories: History, **named: History) -> list[tuple[str, str, str, str]]:
    """(ticker, date, rule, severity) of each finding."""
    parts = {f"T{i}": part for i, part in enumerate(histories)} | named
    return [(item.ticker, item.date, item.rule, item.severity) for item in check_bars(parts, DAYS)]


def test_sound_bars_give_no_finding() -> None:
    """Ordinary walks with and without adjusted closes give none."""
    assert found(history(walk()), history(walk(seed=1), adj_close=walk(seed=1) / 2)) == []
    assert check_bars({}, DAYS) == []
    assert check_bars({"EMPTY": history([])}, DAYS) == []


@pytest.mark.parametrize(
    ("column", "value"), [("low", np.nan), ("open", -1.0), ("high", 1.0), ("close", 500.0), ("low", 0.0)]
)
def test_impossible_bars_are_errors(column: str, value: float) -> None:
    """A missing, negative, crossed or outlying price is an error on its day."""
    close = walk()
    bars = {name: close * (1 + spread / 200) for name, spread in FLAT.items()}
    bars[column] = np.where(np.arange(100) == 7, value, bars[column])
    assert ("T0", str(DAYS[7]), "impossible bar", "error") in found(history(close, bars=bars))


def test_a_day_twice_is_an_error() -> None:
    """The second bar of a day is named; the same day of two tickers is none."""
    days = np.insert(DAYS[:99], 10, DAYS[10])
    assert found(history(walk(), days=days), history(walk(seed=1))) == [("T0", str(DAYS[10]), "duplicate", "error")]


def test_a_price_in_another_unit_for_a_day_is_an_error() -> None:
    """÷100 for one day, and back the next: one finding, not two jumps; also where it is near a split ratio."""
    assert found(history(changed(50, 4.0, until=51))) == [("T0", str(DAYS[50]), "spike", "warning")]
    assert found(history(changed(50, 0.01, until=51))) == [("T0", str(DAYS[50]), "spike", "error")]
    assert found(history(changed(50, 8.0, until=51))) == [("T0", str(DAYS[50]), "spike", "warning")]


@pytest.mark.parametrize(
    ("factor", "severity"),
    [(1 / 2, "warning"), (1 / 3, "warning"), (1 / 7, "error"), (10.0, "error"), (2.0, "warning")],
)
def test_a_jump_to_a_split_ratio(factor: float, severity: str) -> None:
    """It is suspected; certain it is never where small, nor where an adjusted close says that the day was real."""
    close = changed(50, factor)
    assert found(history(close)) == [("T0", str(DAYS[50]), "unapplied split", severity)]
    [finding] = check_bars({"T0": history(close, adj_close=close * 0.8)}, DAYS)
    assert (finding.rule, finding.severity) == ("unapplied split", "warning")
    assert finding.detail.endswith(" in a day, in adj_close too")


@pytest.mark.parametrize("factor", [0.01, 100.0, 0.01 * 0.93, 100 * 1.08, 0.001, 1000.0])
@pytest.mark.parametrize("adjusted", [True, False], ids=["adj_close", "no adj_close"])
def test_a_price_that_goes_on_in_another_unit_is_an_error(factor: float, adjusted: bool) -> None:
    """Pence that become pounds, or back, in close and adj_close alike; the day may have a return of its own."""
    close = changed(50, factor) * 10
    part = history(close, adj_close=close * 0.8 if adjusted else None)
    [finding] = check_bars({"T0": part}, DAYS)
    assert (finding.date, finding.rule, finding.severity) == (str(DAYS[50]), "unit change", "error")
    assert find_errors({"T0": part}) == [finding]


def test_another_unit_for_some_days_is_two_errors() -> None:
    """The day on which the unit changes, and the day on which it changes back."""
    close = changed(50, 100.0, until=55)
    assert found(history(close, adj_close=close)) == [
        ("T0", str(DAYS[50]), "unit change", "error"),
        ("T0", str(DAYS[55]), "unit change", "error"),
    ]


def test_a_split_of_a_hundred_that_is_applied_is_none() -> None:
    """The quoted price falls to a hundredth, the adjusted one goes on: nothing is wrong."""
    assert found(history(changed(50, 0.01) * 100, adj_close=walk())) == []


def test_errors_alone_are_those_of_the_whole_check() -> None:
    """`find_errors` leaves out what only warns, and nothing else."""
    days = np.insert(DAYS[:99], 10, DAYS[10])
    adj_close = walk()
    adj_close[90:] = np.nan
    parts = {
        "DUPLICATE": history(walk(), days=days),
        "ENDS": history(walk(), adj_close=adj_close),
        "GLUED": history(walk(), adj_close=changed(50, 2.0)),
        "SPIKE": history(changed(50, 0.01, until=51)),
        "SPLIT": history(changed(50, 7.0)),
        "WARNED": history(changed(50, 2.0), volume=0),
        "EMPTY": history([]),
    }
    errors = [finding for finding in check_bars(parts, DAYS) if finding.severity == "error"]
    assert {finding.ticker for finding in errors} == set(parts) - {"WARNED", "EMPTY"}
    assert find_errors(parts) == errors
    assert find_errors({}) == []


def test_a_jump_where_the_adjusted_close_begins_or_ends_is_judged_by_the_close() -> None:
    """An adjusted close that covers one of the two bars alone says nothing about the day."""
    close, rows = changed(50, 0.2), np.arange(100)
    for known in (rows < 50, rows >= 50):
        adj_close = np.where(known, close, np.nan)
        assert ("T0", str(DAYS[50]), "unapplied split", "error") in found(history(close, adj_close=adj_close))


def test_bars_without_adjusted_close_in_a_history_that_has_it() -> None:
    """They are left out of all prices: a warning per hole, an error at the end; a history without any is whole."""
    adj_close = walk()
    adj_close[[0, 1, 30]] = np.nan
    hole = [("T0", str(DAYS[0]), "no adj_close", "warning"), ("T0", str(DAYS[30]), "no adj_close", "warning")]
    assert found(history(walk(), adj_close=adj_close), history(walk(seed=1))) == hole
    adj_close[90:] = np.nan
    assert found(history(walk(), adj_close=adj_close))[-1] == ("T0", str(DAYS[90]), "no adj_close", "error")


def test_a_split_that_is_in_the_adjusted_close_is_none() -> None:
    """The quoted price halves, the adjusted one goes on: nothing is wrong."""
    assert found(history(changed(50, 0.5), adj_close=walk())) == []


@pytest.mark.parametrize("factor", [1.87, 0.39, 0.6])
def test_a_large_move_beside_the_ratios_is_an_info(factor: float) -> None:
    """Days like MS +87 % and AIG −61 % are reported and not suspected."""
    assert found(history(changed(50, factor))) == [("T0", str(DAYS[50]), "jump", "info")]


def test_a_jump_with_the_whole_market_is_no_split() -> None:
    """Halving on a day when the median of the market fell, too, is an info; on a quiet day a warning."""
    others = [history(changed(50, 0.9) * np.exp(np.random.default_rng(i).normal(0, 0.01, 100))) for i in range(12)]
    assert found(history(changed(50, 0.5)), *others) == [("T0", str(DAYS[50]), "jump", "info")]
    calm = [history(walk(seed=i + 1)) for i in range(12)]
    assert found(history(changed(50, 0.5)), *calm) == [("T0", str(DAYS[50]), "unapplied split", "warning")]


def test_cents_give_no_error() -> None:
    """Below one unit of money a fourfold price may be four steps: a warning, not an error."""
    close = changed(50, 4.0)
    assert found(history(close / 2000)) == [("T0", str(DAYS[50]), "unapplied split", "warning")]


def test_an_adjusted_close_that_jumps_alone_is_an_error() -> None:
    """Two histories of different scales glued together show as a jump that no price made."""
    assert found(history(walk(), adj_close=changed(50, 2.0))) == [("T0", str(DAYS[50]), "broken adjustment", "error")]


def test_a_jump_over_a_long_hole_is_not_judged() -> None:
    """After months without bars any price is possible; only the hole is reported."""
    days = np.concatenate([DAYS[:50], DAYS[120:170]])
    assert found(history(changed(50, 4.0), days=days)) == [("T0", str(DAYS[120]), "missing sessions", "warning")]


@pytest.mark.parametrize("factor", [0.05, 17.0])
def test_another_price_level_after_a_hole_is_reported(factor: float) -> None:
    """A symbol that was given to another company shows as a hole with a price that cannot be the same stock's."""
    days = np.concatenate([DAYS[:50], DAYS[120:170]])
    [finding] = check_bars({"T0": history(changed(50, factor) * 10, days=days)}, DAYS)
    assert (finding.date, finding.rule) == (str(DAYS[120]), "missing sessions")
    assert finding.detail.startswith("70 sessions before this bar, price × ")
    assert finding.detail.endswith(" since: another company?")
    [same] = check_bars({"T0": history(walk(), days=days)}, DAYS)
    assert same.detail == "70 sessions before this bar"


def test_missing_sessions_against_the_exchange() -> None:
    """A few missing sessions are an info, many a warning; holidays and weekends are not missing."""
    few, many = np.delete(DAYS, range(20, 23))[:100], np.delete(DAYS, range(20, 40))[:100]
    assert found(history(walk(), days=few)) == [("T0", str(DAYS[23]), "missing sessions", "info")]
    assert found(history(walk(), days=many)) == [("T0", str(DAYS[40]), "missing sessions", "warning")]


def test_a_ticker_that_begins_later_has_no_hole_before_it() -> None:
    """The days between one ticker's last bar and the next ticker's first belong to no hole."""
    later = history(walk(seed=1), days=DAYS[120:220])
    assert found(history(walk()), later) == [("T0", str(DAYS[99]), "ends early", "info")]


def test_special_saturdays_are_an_info() -> None:
    """Bars on days that are no session are reported once per ticker, and hide no hole."""
    days = np.sort(np.concatenate([DAYS[:98], np.array(["2018-01-06", "2018-02-10"], dtype="datetime64[D]")]))
    assert found(history(walk(), days=days)) == [("T0", "2018-01-06", "not a session", "info")]


@pytest.mark.parametrize(
    ("bars", "odd"),
    [
        (["2024-01-05", "2024-01-06"], "2024-01-06"),
        (["2024-01-06", "2024-01-08"], "2024-01-06"),
        (["2024-01-06"], "2024-01-06"),
        (["2024-01-12", "2024-01-15"], "2024-01-15"),
    ],
    ids=["last", "first", "single", "holiday"],
)
def test_a_closed_day_at_the_border_of_a_history_is_found(tmp_path: Path, bars: list[str], odd: str) -> None:
    """A first, last or single bar on a day without trade is found like any other."""
    (tmp_path / "A.csv").write_text("Date,Open,High,Low,Close\n" + "".join(f"{day},1,2,1,1\n" for day in bars))
    ingest(read_files(tmp_path / "A.csv", Silent(), kind="csv"), tmp_path / "t.db", progress=Silent())
    assert [(item.rule, item.date) for item in check_stored(tmp_path / "t.db")] == [("not a session", odd)]


def test_a_ticker_that_is_not_listed_is_answered_with_the_nearest(tmp_path: Path) -> None:
    """One that is near to none is named alone."""
    (tmp_path / "AAPL.csv").write_text("Date,Open,High,Low,Close\n2024-01-05,1,2,1,1\n")
    ingest(read_files(tmp_path / "AAPL.csv", Silent(), kind="csv"), tmp_path / "t.db", progress=Silent())
    with pytest.raises(UnknownTickerError, match=r"lists 1 ticker, but not AAPX \(nearest: AAPL\), Z$"):
        check_stored(tmp_path / "t.db", tickers={"AAPX", "Z"})


def test_an_impossible_day_ends_no_other_ticker_early() -> None:
    """The last of all bars is the last that a market can have had."""
    sound, days = history(walk()), DAYS[:100].copy()
    days[-1] = np.datetime64("2100-01-01")
    rules = found(sound, history(walk(seed=1), days=days))
    assert "ends early" not in [rule for _, _, rule, _ in rules]
    assert ("T1", "2100-01-01", "impossible day", "error") in rules


def test_the_closed_week_of_2001_is_not_missing(tmp_path: Path) -> None:
    """From 2001-09-10 to 2001-09-17 no session is expected."""
    days = np.array(["2001-09-07", "2001-09-10", "2001-09-17", "2001-09-18"], dtype="datetime64[D]")
    expected = sessions("XNYS", days[0], days[-1])
    assert expected.tolist() == days.tolist()
    assert check_bars({"A": history(walk(4), days=days)}, expected) == []


def test_repeated_bars_are_stale() -> None:
    """Five like bars are one finding at the first of them; four are none."""
    close = walk()
    close[30:34] = close[30]
    close[50:55] = close[50]
    assert found(history(close)) == [("T0", str(DAYS[50]), "stale", "warning")]


def test_days_without_volume() -> None:
    """A run without trade is a warning with its length, a ticker that never has volume (an index) an info."""
    volume = np.full(100, 5.0)
    volume[[10, 11, 12, 40]] = 0
    result = check_bars({"A": history(walk(), volume=volume), "B": history(walk(seed=1), volume=0)}, DAYS)
    assert [(item.ticker, item.date, item.severity, item.detail) for item in result] == [
        ("A", str(DAYS[10]), "warning", "3 bars"),
        ("A", str(DAYS[40]), "warning", "1 bar"),
        ("B", str(DAYS[0]), "info", "100 bars"),
    ]


def test_runs_end_with_their_ticker() -> None:
    """Zero volume at the end of one ticker and the beginning of the next are two runs."""
    ends, begins = np.full(100, 5.0), np.full(100, 5.0)
    ends[98:], begins[:2] = 0, 0
    result = check_bars({"A": history(walk(), volume=ends), "B": history(walk(seed=1), volume=begins)}, DAYS)
    assert [(item.ticker, item.detail) for item in result] == [("A", "2 bars"), ("B", "2 bars")]


def test_identical_series_under_two_names() -> None:
    """The same bars under another name, even over a part of the time, are reported at the second name."""
    part = History(days=DAYS[20:80], numbers=history(walk()).numbers[:, 20:80])
    result = check_bars({"NEW": history(walk()), "OLD": part, "X": history(walk(seed=1))}, DAYS)
    assert [(item.ticker, item.rule, item.detail) for item in result] == [
        ("OLD", "same series", "60 bars are those of NEW"),
        ("OLD", "ends early", "20 sessions before the last of all bars"),
    ]


def test_every_rule_has_advice() -> None:
    """No finding can be made whose advice is missing, and the tally counts all severities."""
    items = [Finding(ticker="A", date="2018-01-02", rule=name, severity="info", detail="") for name in RULES]
    assert all(item.advice for item in items)
    assert tally(items) == {"error": 0, "warning": 0, "info": len(RULES)}


def test_a_new_rule_is_one_function(
    make_database: Any, make_bars: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function under `@rule` is applied by the check, by the command and, if it finds errors, before training."""
    monkeypatch.setitem(RULES, "odd lot", RULES["jump"])  # the test ends without it

    @rule("error", "sell the odd lot")
    def odd_lot(panel: Panel) -> Hits:
        rows = np.flatnonzero(panel.volume == 13)
        return Hits(rows, [f"{panel.prices[3][row]:.0f} each" for row in rows])

    volume = np.where(np.arange(100) == 7, 13.0, 100.0)
    [finding] = check_bars({"A": history(walk(), volume=volume)}, DAYS)
    assert (finding.ticker, finding.date, finding.rule) == ("A", str(DAYS[7]), "odd lot")
    assert (finding.severity, finding.advice) == ("error", "sell the odd lot")
    assert find_errors({"A": history(walk(), volume=volume)}) == [finding]
    bars = make_bars(300).assign(Volume=13)
    result = CliRunner().invoke(app_of("check"), ["--db", str(make_database(tmp_path / "m.db", {"A": bars}))])
    assert result.exit_code == 1
    assert "sell the odd lot" in result.stdout


def test_bars_outside_the_calendar_are_not_compared_with_it() -> None:
    """Where the calendar has no session in the time of the bars, the other rules still apply."""
    assert check_bars({"A": history(walk())}, DAYS[:0]) == []
    [finding] = check_bars({"A": history(walk(), volume=0)}, DAYS[:0])
    assert finding.rule == "zero volume"
    assert check_bars({"A": history(walk())}, DAYS[200:]) == []


def test_an_unknown_calendar_is_refused() -> None:
    """The message names the option and some that exist."""
    with pytest.raises(ConfigError, match=r"--calendar NOWHERE: .* XNYS"):
        sessions("NOWHERE", DAYS[0], DAYS[-1])


def test_a_calendar_reaches_only_so_far() -> None:
    """Bars from before a calendar's beginning are accepted, and simply not compared."""
    assert str(sessions("XTKS", np.datetime64("1990-01-01"), np.datetime64("1998-01-31"))[0]) >= "1997"


EXTREMES = [("MS", "2008-10-13"), ("AIG", "2008-09-15"), ("AAPL", "2000-09-29")]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sequence[Finding]]:
    """Findings about the three sets of real bars, and how long each took."""
    folder = os.environ.get("NEXTBAR_REAL_DATA")
    if not folder:
        pytest.skip("NEXTBAR_REAL_DATA names no folder")
    results = {}
    for name in ("us40_raw_adj_1999_2021", "sp500_5yr_2013_2018", "us_stooq_messy_subset"):
        db = tmp_path_factory.mktemp("real") / f"{name}.db"
        ingest(read_parquet(Path(folder) / f"{name}.parquet", Silent()), db, progress=Silent())
        began = time.process_time()
        results[name] = check_stored(db)
        assert time.process_time() - began < 20
    return results


@pytest.mark.realdata
def test_true_extremes_raise_no_error(real: dict[str, Sequence[Finding]]) -> None:
    """Forty large stocks over two decades of crises and splits: not one error; the extremes are at most suspected."""
    findings = real["us40_raw_adj_1999_2021"]
    assert tally(findings)["error"] == 0
    about = {(item.ticker, item.date): item.severity for item in findings}
    assert [about.get(key, "info") for key in EXTREMES] == ["info", "info", "warning"]
    assert not [item for item in findings if item.rule == "missing sessions"]


@pytest.mark.realdata
def test_a_universe_of_survivors(real: dict[str, Sequence[Finding]]) -> None:
    """619,017 bars of the S&P 500 hold no error; Discovery's split of 2014-08-07, never applied, is suspected."""
    findings = real["sp500_5yr_2013_2018"]
    assert tally(findings)["error"] == 0
    suspects = {(item.ticker, item.date) for item in findings if item.rule == "unapplied split"}
    assert suspects == {("DISCA", "2014-08-07"), ("DISCK", "2014-08-07")}


@pytest.mark.realdata
def test_messy_bars(real: dict[str, Sequence[Finding]]) -> None:
    """Wrong units and unapplied splits are errors, early ends are reported, Saturday sessions are infos only."""
    findings = real["us_stooq_messy_subset"]
    errors = {(item.ticker, item.date, item.rule) for item in findings if item.severity == "error"}
    assert ("DWDP", "1991-08-12", "spike") in errors
    assert ("NVCN", "2016-05-20", "unapplied split") in errors
    assert {item.severity for item in findings if item.rule == "not a session"} == {"info"}
    assert sum(item.rule == "ends early" for item in findings) == 39


@pytest.mark.parametrize("name", ["XXXX", "ASEX", "BVB"])
def test_a_calendar_that_cannot_be_made_is_a_configuration_error(name: str) -> None:
    """An exchange that is unknown, and one that exchange_calendars lists but cannot make."""
    with pytest.raises(ConfigError, match=f"--calendar {name}: "):
        sessions(name, np.datetime64("2026-11-02"), np.datetime64("2026-11-06"))
