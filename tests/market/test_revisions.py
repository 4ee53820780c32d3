from __future__ import annotations

import json
import random
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nextbar.errors import BadBarsError
from nextbar.market.bars import DataAccessLayer
from nextbar.market.ingest import Counts, IngestSummary, ingest
from nextbar.market.revisions import Revision
from nextbar.market.sources.reader import SourceBars, source_bars
from nextbar.types import Silent
from nextbar.workflows.update import runs_in_question

CLOSE = [100.0, 102.0, 101.0, 104.0, 105.0, 103.0]


def bars(
    close: Sequence[float], adj_close: Any = None, *, first: int = 0, ticker: str = "A", volume: Any = 7
) -> SourceBars:
    """Bars of days in a row; ``first`` is the number of the first day."""
    days = [f"2024-01-{day:02d}" for day in range(first + 1, first + 1 + len(close))]
    prices = dict.fromkeys(("open", "high", "low", "close"), close)
    adjusted = close if adj_close is None else adj_close
    frame = {"ticker": ticker, "date": days, **prices, "adj_close": adjusted, "volume": volume}
    return source_bars(pd.DataFrame(frame), "test")


def store(db: Path, source: SourceBars, *, accept: bool = False) -> IngestSummary:
    return ingest(source, db, progress=Silent(), accept_revisions=accept, origin="test")


def forward(db: Path, ticker: str = "A") -> np.ndarray:
    with DataAccessLayer(db) as access:
        return access.get_stock_prices(ticker)["Close"].to_numpy()


def rows(db: Path, sql: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(db) as connection:
        found = connection.execute(sql).fetchall()
    connection.close()
    return found


def test_a_rescaling_is_no_revision_and_moves_no_stored_price(tmp_path: Path) -> None:
    """After a split the vendor halves the past: nothing is revised, no bit of an old price moves, returns go on."""
    db = tmp_path / "m.db"
    store(db, bars(CLOSE[:5]))
    before = forward(db)
    after_split = bars([104.0, 105.0, 51.5, 52.5], [52.0, 52.5, 51.5, 52.5], first=3)
    summary = store(db, after_split)
    assert summary.tickers == {"A": Counts(new=2, unchanged=2)}
    assert summary.rescaled == {"A": 2.0}
    assert summary.revisions == ()
    now = forward(db)
    assert now[:5].tobytes() == before.tobytes()
    np.testing.assert_allclose(now[5:], [103.0, 105.0], rtol=1e-12)


def test_the_next_update_continues_on_the_same_scale(tmp_path: Path) -> None:
    """Bars that were brought to the stored scale are compared on it the next time, whatever the vendor does."""
    db = tmp_path / "m.db"
    store(db, bars(CLOSE[:3]))
    store(db, bars(CLOSE[1:5], np.array(CLOSE[1:5]) * 0.9, first=1))
    summary = store(db, bars(CLOSE[3:], np.array(CLOSE[3:]) * 0.7, first=3))
    assert summary.total == Counts(new=1, unchanged=2)
    np.testing.assert_allclose(forward(db), CLOSE, rtol=1e-12)


def test_a_changed_fact_is_named_and_kept_out(tmp_path: Path) -> None:
    """One corrected close keeps its stored value, is named with its columns, and does not pass for a rescaling."""
    db = tmp_path / "m.db"
    store(db, bars(CLOSE))
    wrong = [*CLOSE[:2], 111.0, *CLOSE[3:]]
    summary = store(db, bars(wrong))
    columns = ("open", "high", "low", "close", "adj_close")
    assert summary.revisions == (Revision(ticker="A", date="2024-01-03", columns=columns),)
    assert summary.total == Counts(unchanged=5, differs=1)
    assert summary.rescaled == {}
    assert forward(db).tolist() == CLOSE
    assert rows(db, "SELECT name FROM sqlite_master WHERE name = 'price_revisions'") == []


def test_a_change_on_the_first_common_day_does_not_set_the_scale(tmp_path: Path) -> None:
    """The scale is read where quoted prices agree: one wrong bar at the border does not make all others differ."""
    db = tmp_path / "m.db"
    store(db, bars(CLOSE[:5]))
    summary = store(db, bars([90.0, *CLOSE[3:]], first=2))
    assert [revision.date for revision in summary.revisions] == ["2024-01-03"]
    assert summary.total == Counts(new=1, unchanged=2, differs=1)
    np.testing.assert_allclose(forward(db), CLOSE, rtol=1e-12)


@pytest.mark.parametrize("factor", [1.0, 0.5], ids=["same scale", "rescaled"])
@pytest.mark.parametrize("paid", [1.0, 0.98], ids=["plain", "dividends later"])
def test_a_corrected_close_on_the_only_common_day_does_not_set_the_scale(
    tmp_path: Path, paid: float, factor: float
) -> None:
    """A vendor corrects the last close and its adjusted close: the move is in the history once it is accepted."""
    db = tmp_path / "m.db"
    store(db, bars(CLOSE[:5], [paid * close for close in CLOSE[:5]]))
    later = [105 * 1.02, 108.0]
    source = bars(later, [factor * paid * close for close in later], first=4)
    summary = store(db, source)
    assert summary.rescaled == ({} if factor == 1 else {"A": pytest.approx(1 / factor)})
    assert [revision.date for revision in summary.revisions] == ["2024-01-05"]
    store(db, source, accept=True)
    adjusted = rows(db, "SELECT adj_close FROM stock_prices ORDER BY date")
    assert [value for (value,) in adjusted] == pytest.approx([paid * close for close in (*CLOSE[:4], *later)])


def test_accepted_revisions_replace_and_the_old_values_are_kept(tmp_path: Path) -> None:
    """The new values are stored, the old ones stand in price_revisions with time and source, once."""
    db = tmp_path / "m.db"
    store(db, bars(CLOSE))
    right = [*CLOSE[:2], 111.0, *CLOSE[3:]]
    assert store(db, bars(right), accept=True).total == Counts(unchanged=5, revised=1)
    assert store(db, bars(right), accept=True).total == Counts(unchanged=6)
    np.testing.assert_allclose(forward(db), right, rtol=1e-15)
    kept = rows(db, "SELECT ticker, date, close, adj_close, volume, source FROM price_revisions")
    assert kept == [("A", "2024-01-03", 101.0, 101.0, 7.0, "test")]
    assert rows(db, "SELECT revised_at FROM price_revisions")[0][0].endswith("+00:00")


@pytest.mark.parametrize("lacking", ["column", "value"])
def test_a_close_is_not_accepted_without_its_adjusted_close(tmp_path: Path, lacking: str) -> None:
    """The stored adj_close would belong to another close: the error names the bar, and nothing is stored."""
    db = tmp_path / "m.db"
    store(db, bars(CLOSE))
    source = bars([*CLOSE[:2], 111.0, *CLOSE[3:], 110.0], np.nan)
    if lacking == "column":
        source = SourceBars(bars=source.bars.drop(columns="adj_close"))
    with pytest.raises(BadBarsError, match=r"close of 1 bar .* first A 2024-01-03; .* no adj_close"):
        store(db, source, accept=True)
    assert forward(db).tolist() == CLOSE


def test_a_volume_is_accepted_without_adjusted_closes(tmp_path: Path) -> None:
    """What does not touch the close needs no adj_close, and a history that never had one takes any close."""
    db = tmp_path / "m.db"
    store(db, bars(CLOSE))
    plain = bars(CLOSE, volume=8).bars.drop(columns="adj_close")
    assert store(db, SourceBars(bars=plain), accept=True).total == Counts(revised=6)
    assert forward(db).tolist() == CLOSE
    raw = tmp_path / "raw.db"
    store(raw, bars(CLOSE, np.nan))
    assert store(raw, bars([99.0, *CLOSE[1:]], np.nan), accept=True).total == Counts(unchanged=5, revised=1)


def test_a_late_split_is_a_changed_fact_and_accepting_it_corrects_the_returns(tmp_path: Path) -> None:
    """The vendor forgot a 2:1 split for two days: these are named, and once accepted they continue the history."""
    db = tmp_path / "m.db"
    store(db, bars([100.0, 102.0, 101.0, 52.0, 52.5]))
    corrected = bars([102.0, 101.0, 52.0, 52.5, 53.0], [51.0, 50.5, 52.0, 52.5, 53.0], first=1)
    assert [revision.date for revision in store(db, corrected).revisions] == ["2024-01-04", "2024-01-05"]
    store(db, corrected, accept=True)
    np.testing.assert_allclose(forward(db), [100, 102, 101, 104, 105, 106], rtol=1e-12)
    assert store(db, corrected).total.differs == 0
    at_once = tmp_path / "once.db"
    store(at_once, bars([100.0, 102.0, 101.0, 52.0, 52.5]))
    store(at_once, corrected, accept=True)
    np.testing.assert_allclose(forward(at_once), forward(db), rtol=1e-12)


def test_without_acceptance_new_bars_continue_the_stored_ones(tmp_path: Path) -> None:
    """The kept bars and the new ones make one series: the return over the seam is the vendor's."""
    db = tmp_path / "m.db"
    store(db, bars([100.0, 102.0, 101.0, 52.0, 52.5]))
    store(db, bars([102.0, 101.0, 52.0, 52.5, 53.0], [51.0, 50.5, 52.0, 52.5, 53.0], first=1))
    now = forward(db)
    assert now[5 - 1] == 52.5
    np.testing.assert_allclose(now[5] / now[4], 53.0 / 52.5, rtol=1e-12)


def test_noise_of_single_precision_is_no_revision(tmp_path: Path) -> None:
    """The same bars in single precision are unchanged, and their scale is 1."""
    db = tmp_path / "m.db"
    close = [0.1, 12.34, 1234.56]
    store(db, bars(close))
    summary = store(db, bars([float(np.float32(x)) for x in close]))
    assert summary.total == Counts(unchanged=3)
    assert summary.rescaled == {}


def test_a_changed_volume_alone_is_named_as_such(tmp_path: Path) -> None:
    """The column is named, so that a late volume is distinguished from a changed price."""
    db = tmp_path / "m.db"
    store(db, bars(CLOSE[:2], volume=[100, 200]))
    assert store(db, bars(CLOSE[:2], volume=[100, 201])).revisions == (
        Revision(ticker="A", date="2024-01-02", columns=("volume",)),
    )


def test_a_full_rescaled_history_of_many_tickers(tmp_path: Path) -> None:
    """Each ticker has a scale of its own; one with a changed fact among them is the only one named."""
    db = tmp_path / "m.db"
    for i, name in enumerate("ABC"):
        store(db, bars(np.array(CLOSE) + i, ticker=name))
    parts = [bars(np.array(CLOSE) + i, (np.array(CLOSE) + i) / (i + 1), ticker=n).bars for i, n in enumerate("ABC")]
    parts[2].loc[2, "adj_close"] *= 1.01
    source = pd.concat(parts, ignore_index=True)
    summary = store(db, SourceBars(bars=source))
    assert summary.rescaled == pytest.approx({"B": 2.0, "C": 3.0})
    assert summary.revisions == (Revision(ticker="C", date="2024-01-03", columns=("adj_close",)),)


def changed_on(day: str, ticker: str = "AAA") -> list[Revision]:
    return [Revision(ticker=ticker, date=day, columns=("close",))]


def test_models_trained_on_a_changed_bar_are_named(trained_trees: Path) -> None:
    """A run is in question when a day up to its last bar has changed; later days and other tickers do not touch it."""
    runs, damaged = runs_in_question([trained_trees, trained_trees / "nowhere"], changed_on("2011-01-03"))
    assert sorted(stem.rsplit("_", 3)[0] for stem in runs) == ["random_forest", "xgboost"]
    assert damaged == []
    later, other = changed_on("2030-01-03"), changed_on("2011-01-03", "BBB")
    assert runs_in_question([trained_trees], [*later, *other]) == ([], [])


@pytest.fixture
def run_document(plain_document: Callable[..., dict[str, Any]]) -> Callable[..., str]:
    """Function that gives the document of a run on bars of AAA."""
    span = {"first": "2010-01-04", "last": "2011-12-30", "adjustment": "forward"}
    rest = {"bars": 1, "dropped": 0, "fingerprint": "", "days": {}}

    def document(model: str = "rf", **facts: Any) -> str:
        data = {"AAA": span | rest | facts}
        return json.dumps(plain_document(data=data, model=model, config={"model": model}))

    return document


def test_a_day_before_the_first_bar_moves_adjusted_prices_alone(
    tmp_path: Path, run_document: Callable[..., str]
) -> None:
    """The forward adjustment begins at the first stored bar, so an older day is part of a run's prices; quoted not."""
    (tmp_path / "walkforward_rf_AAA_20260102_030405.json").write_text(run_document())
    (tmp_path / "walkforward_xgb_AAA_20260102_030405.json").write_text(run_document("xgb", adjustment="raw"))
    runs, _ = runs_in_question([tmp_path], changed_on("2009-01-05"))
    assert runs == ["walkforward_rf_AAA_20260102_030405"]


def test_damaged_runs_hide_no_others(tmp_path: Path, run_document: Callable[..., str]) -> None:
    """A run that cannot be read, or lacks its days, is told beside the ones that can."""
    for stem, text in (("1", "{"), ("2", '{"schema_version": 1}'), ("3", run_document())):
        (tmp_path / f"walkforward_rf_AAA_20260102_03040{stem}.json").write_text(text)
    runs, damaged = runs_in_question([tmp_path], changed_on("2011-01-03"))
    assert runs == ["walkforward_rf_AAA_20260102_030403"]
    assert [Path(text.split()[0].rstrip(":")).name[-7:] for text in damaged] == ["01.json", "02.json"]


CHILD = """
import sys
import pandas as pd
from nextbar.market.ingest import ingest
from nextbar.market.sources.reader import source_bars
from nextbar.types import Silent
days = pd.date_range("2000-01-01", periods=1000).strftime("%Y-%m-%d")
price = dict.fromkeys(("open", "high", "low", "close", "adj_close"), 10.0 + int(sys.argv[2]))
parts = [pd.DataFrame({"ticker": f"T{i}", "date": days, **price, "volume": 1}) for i in range(10)]
source = source_bars(pd.concat(parts), "child")
print("go", flush=True)
ingest(source, sys.argv[1], progress=Silent(), accept_revisions=True)
print("done", flush=True)
"""


def ingest_in_child(db: Path, value: int, kill_after: float) -> float | None:
    """Seconds that the ingest took in a process of its own; None if it was killed before it ended."""
    command = [sys.executable, "-c", CHILD, str(db), str(value)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "go\n"
        began = time.monotonic()
        killer = threading.Timer(kill_after, child.kill)
        killer.start()
        ended = child.stdout.readline() == "done\n"
        killer.cancel()
    return time.monotonic() - began if ended else None


@pytest.mark.thorough
def test_killed_at_any_moment_the_database_is_old_or_new(tmp_path: Path) -> None:
    """kill -9 while 10,000 bars are revised leaves an intact file with all old or all new values; a rerun completes."""
    db = tmp_path / "m.db"
    moments = random.Random(8)
    assert ingest_in_child(db, 0, 120)
    usual = ingest_in_child(db, 1, 120)
    assert usual
    value, killed = 1, 0
    for share in (0.2, 0.4, 0.6, 0.8):
        ended = ingest_in_child(db, value + 1, usual * moments.uniform(share - 0.2, share))
        killed += ended is None
        assert rows(db, "PRAGMA integrity_check") == [("ok",)]
        [(lowest, highest, count)] = rows(db, "SELECT min(close), max(close), count(*) FROM stock_prices")
        assert lowest == highest
        assert count == 10_000
        assert lowest in (10.0 + value, 11.0 + value)
        value = int(lowest - 10)
        assert rows(db, "SELECT count(*) FROM price_revisions") == [(10_000 * value,)]
    assert killed, "the kills came too late to prove anything"
    assert ingest_in_child(db, value + 1, 120)
    assert rows(db, "SELECT DISTINCT close FROM stock_prices") == [(11.0 + value,)]


FULL_DISK = """
import resource, sys
import pandas as pd
from nextbar.errors import DatabaseError
from nextbar.market.ingest import ingest
from nextbar.market.sources.reader import source_bars
from nextbar.types import Silent
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
days = pd.date_range("2000-01-01", periods=8000).strftime("%Y-%m-%d")
prices = dict.fromkeys(("open", "high", "low", "close"), 10.5)
try:
    source = source_bars(pd.DataFrame({"ticker": "B", "date": days, **prices, "volume": 1}), "x")
    ingest(source, sys.argv[1], progress=Silent())
except DatabaseError as error:
    print(error)
"""


def test_a_full_disk_is_an_error_and_leaves_the_old_state(tmp_path: Path) -> None:
    """When the operating system lets a file grow no further, the error says so and every stored bar is as it was."""
    db = tmp_path / "m.db"
    store(db, bars(CLOSE))
    ended = subprocess.run([sys.executable, "-c", FULL_DISK, str(db)], capture_output=True, text=True, check=True)
    assert re.search(rf"^{re.escape(str(db))}: (disk I/O error|database or disk is full)", ended.stdout), ended.stdout
    assert rows(db, "PRAGMA integrity_check") == [("ok",)]
    assert rows(db, "SELECT DISTINCT ticker FROM stock_prices") == [("A",)]
    assert forward(db).tolist() == CLOSE


def test_a_split_shortly_before_the_last_common_day_is_no_restatement(tmp_path: Path) -> None:
    """A source that divides the past by two has the days after the split on the stored scale: new bars stay on it."""
    days = pd.bdate_range("2020-01-01", periods=1_001).strftime("%Y-%m-%d")
    close = 60 * np.exp(np.cumsum(np.random.default_rng(1).normal(0, 0.01, 1_001)))
    close[960:] /= 2
    frame = pd.DataFrame({"ticker": "A", "date": days, **dict.fromkeys(("open", "high", "low", "close"), close)})
    store(tmp_path / "m.db", source_bars(frame.iloc[:1_000].assign(volume=7), "quoted"))
    adjusted = frame.assign(volume=7)
    early = adjusted.index < 960
    adjusted.loc[early, ["open", "high", "low", "close"]] /= 2
    summary = store(tmp_path / "m.db", source_bars(adjusted, "adjusted for the split"))
    assert summary.restated == {}
    found = rows(tmp_path / "m.db", "SELECT close FROM stock_prices ORDER BY date DESC LIMIT 2")
    assert all(abs(value / close[-1] - 1) < 0.1 for (value,) in found)
