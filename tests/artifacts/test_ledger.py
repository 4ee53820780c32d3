"""The ledger counts configurations, keeps their returns and loses nothing."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from nextbar.artifacts.ledger import Ledger, Trial
from nextbar.errors import ArtifactError, OutputError


def returns(start: str, days: int, value: float = 0.25) -> pd.DataFrame:
    index = pd.bdate_range(start, periods=days, unit="s", name="date")
    return pd.DataFrame({"net": value, "excess": np.arange(days) / 8}, index=index)


def trial(key: str = "a", **tickers: pd.DataFrame) -> Trial:
    return Trial(id=key, kind="train", model="rf", config={"seed": 1}, returns=tickers or {"AAPL": returns("2020", 5)})


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "state" / "ledger.db")


def test_a_trial_comes_back_as_it_was(ledger: Ledger) -> None:
    """Dates and returns survive the file."""
    ledger.record(trial())
    (found,) = ledger.trials()
    pd.testing.assert_frame_equal(found.returns["AAPL"], returns("2020", 5), check_index_type=False, check_freq=False)
    assert (found.id, found.kind, found.model, found.config) == ("a", "train", "rf", {"seed": 1})


def test_the_same_configuration_is_one_trial(ledger: Ledger) -> None:
    """A rerun does not count; new bars add days, and a day that is there stays as it was first scored."""
    ledger.record(trial(AAPL=returns("2020-01-01", 5)))
    ledger.record(trial(AAPL=returns("2020-01-06", 5, value=0.5)))
    ledger.record(trial(MSFT=returns("2020-01-06", 5)))
    (found,) = ledger.trials()
    assert sorted(found.returns) == ["AAPL", "MSFT"]
    assert found.returns["AAPL"]["net"].tolist() == [0.25] * 5 + [0.5] * 3


def test_only_new_days_are_recorded_anew(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking at an old run again leaves its time alone; another ticker of it is new."""
    clock = iter(f"2026-01-0{day}" for day in range(1, 4))
    now = SimpleNamespace(now=lambda zone: SimpleNamespace(isoformat=lambda timespec: next(clock)))
    monkeypatch.setattr("nextbar.artifacts.ledger.dt", SimpleNamespace(datetime=now, UTC=None))
    for tickers, recorded in ((["A"], "2026-01-01"), (["A"], "2026-01-01"), (["A", "B"], "2026-01-03")):
        ledger.record(trial(**{ticker: returns("2020", 5) for ticker in tickers}))
        assert [one.recorded for one in ledger.trials()] == [recorded]


def test_overlap_is_by_ticker_and_scored_days(ledger: Ledger) -> None:
    """Another ticker, and other days of the same one, are not tries at these days."""
    ledger.record(trial("same", AAPL=returns("2020-01-01", 5), MSFT=returns("2020-01-01", 5)))
    ledger.record(trial("other ticker", MSFT=returns("2020-01-01", 5)))
    ledger.record(trial("earlier", AAPL=returns("2019-01-01", 5)))
    hole = returns("2019-12-31", 20).iloc[[0, -1]]
    ledger.record(trial("around", AAPL=hole))
    days = returns("2020-01-02", 3).index.to_numpy().astype("datetime64[D]")
    (found,) = ledger.overlapping({"AAPL": days})
    assert found.id == "same"
    assert list(found.returns) == ["AAPL"]
    assert len(found.returns["AAPL"]) == 3


def test_two_processes_at_once_lose_no_entry(tmp_path: Path) -> None:
    """Each of two processes records 25 trials of its own and 25 days of a common one."""
    path = tmp_path / "ledger.db"
    code = """
import sys, pandas as pd
from nextbar.artifacts.ledger import Ledger, Trial
who = int(sys.argv[2])
for n in range(25):
    index = pd.DatetimeIndex([pd.Timestamp("2020-01-01") + pd.Timedelta(days=2 * n + who)])
    frame = pd.DataFrame({"net": [0.1], "excess": [0.2]}, index=index)
    for key in (f"{who}-{n}", "common"):
        Ledger(sys.argv[1]).record(Trial(id=key, kind="train", model="rf", config={}, returns={"AAPL": frame}))
"""
    processes = [subprocess.Popen([sys.executable, "-c", code, str(path), str(who)]) for who in range(2)]
    assert [process.wait(120) for process in processes] == [0, 0]
    found = {one.id: one for one in Ledger(path).trials()}
    assert len(found) == 51
    assert len(found["common"].returns["AAPL"]) == 50


def test_the_environment_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NEXTBAR_LEDGER, and --ledger before it."""
    monkeypatch.setenv("NEXTBAR_LEDGER", str(tmp_path / "one.db"))
    assert Ledger().path == tmp_path / "one.db"
    assert Ledger(tmp_path / "two.db").path == tmp_path / "two.db"


def test_without_a_name_it_lies_in_the_state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One per user."""
    monkeypatch.delenv("NEXTBAR_LEDGER")
    monkeypatch.setattr("nextbar.artifacts.ledger.user_state_path", lambda name, appauthor: tmp_path / name)
    assert Ledger().path == tmp_path / "nextbar" / "ledger.db"


def test_another_file_is_refused(tmp_path: Path) -> None:
    """A text file, a folder and a place that cannot be made say so, with what to do."""
    (tmp_path / "text.db").write_text("no database at all, long enough to have a header", encoding="utf-8")
    with pytest.raises(ArtifactError, match="not a trial ledger"):
        Ledger(tmp_path / "text.db")
    with pytest.raises(OutputError, match="--ledger"):
        Ledger(tmp_path)
    with pytest.raises(OutputError, match="--ledger"):
        Ledger(tmp_path / "text.db" / "ledger.db")


def test_a_failed_entry_leaves_nothing(ledger: Ledger) -> None:
    """A trial whose second ticker cannot be stored is not there at all."""
    with pytest.raises(AttributeError):
        ledger.record(trial(AAPL=returns("2020", 5), MSFT=None))  # type: ignore[arg-type]
    with sqlite3.connect(ledger.path) as connection:
        assert connection.execute("SELECT count(*) FROM trials").fetchone() == (0,)
    connection.close()
