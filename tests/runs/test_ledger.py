"""The trial ledger: nothing counted twice, nothing lost, whoever writes at the same time and with whichever version."""

from __future__ import annotations

import datetime as dt
import json
import os
import sqlite3
import subprocess
import sys
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nextbar.errors import ArtifactError, ConfigError, OutputError, Remark
from nextbar.runs import ledger as ledger_module
from nextbar.runs.ledger import Ledger
from nextbar.runs.trial import Trial, identify

OLD = Path(__file__).with_name("ledger_0_1_0.sql")
"""What version 0.1.0 wrote of made-up returns: day n of five earns n times a number."""


def returns(start: str, days: int, value: float = 0.25) -> pd.DataFrame:
    index = pd.bdate_range(start, periods=days, unit="s", name="date")
    return pd.DataFrame({"net": value, "excess": np.arange(days) / 8}, index=index)


def trial(frame: pd.DataFrame, *tickers: str, **options: Any) -> Trial:
    config = {"seed": 1, **options}
    return Trial(
        kind="train",
        model="rf",
        config=config,
        tickers=tickers or ("AAPL",),
        returns=frame,
        identity=identify("train", "rf", config),
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "state" / "ledger.db")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A ledger of 0.1.0."""
    path = tmp_path / "old.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(OLD.read_text(encoding="utf-8"))
    connection.close()
    return path


def tables(path: Path) -> list[str]:
    with sqlite3.connect(path) as connection:
        found = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    connection.close()
    return sorted(found)


def test_an_empty_path_is_no_default() -> None:
    """An empty text must not open the ledger of the user: nothing is recorded unless a path is given."""
    with pytest.raises(ConfigError, match="got an empty text"):
        Ledger("")


def test_a_trial_comes_back_as_it_was(ledger: Ledger) -> None:
    """Dates, returns, tickers and options survive the file."""
    given = ledger.record(trial(returns("2020", 5), "AAPL", "MSFT"))
    (found,) = ledger.trials()
    pd.testing.assert_frame_equal(found.returns, returns("2020", 5), check_index_type=False, check_freq=False)
    assert (found.kind, found.model, found.config) == ("train", "rf", {"seed": 1})
    assert (found.tickers, found.variant, found.options) == (("AAPL", "MSFT"), 1, {"seed": 1})
    assert found.id == given.id


def test_the_same_configuration_on_the_same_tickers_is_one_trial(ledger: Ledger) -> None:
    """A rerun does not count; new bars add days."""
    for frame in (returns("2020-01-01", 5), returns("2020-01-01", 5), returns("2020-01-06", 5)):
        ledger.record(trial(frame))
    (found,) = ledger.trials()
    assert found.returns["net"].tolist() == [0.25] * 8
    assert str(found.returns.index[-1].date()) == "2020-01-10"


def test_other_returns_on_common_days_are_another_trial(ledger: Ledger) -> None:
    """Fifty values of a constant in somebody's helper module are fifty tries, though all options are the same."""
    given = [ledger.record(trial(returns("2020", 5, value))) for value in np.arange(50) / 100]
    assert len(ledger.trials()) == len({one.id for one in given}) == 50
    assert len({one.identity for one in given}) == 1
    assert [one.variant for one in given] == list(range(1, 51))


def test_each_variant_goes_on_by_itself(ledger: Ledger) -> None:
    """New days come to the variant whose returns they continue."""
    for value in (0.1, 0.2):
        ledger.record(trial(returns("2020-01-01", 5, value)))
    ledger.record(trial(returns("2020-01-03", 5, 0.2)))
    found = {one.variant: one.returns["net"] for one in ledger.trials()}
    assert found[1].tolist() == pytest.approx([0.1] * 5)
    assert found[2].tolist() == pytest.approx([0.2] * 7)


def test_rounding_of_the_file_makes_no_trial(ledger: Ledger) -> None:
    """Returns are stored as float32; the same ones as float64 are the same trial, however large or small they are."""
    values = np.random.default_rng(0).standard_normal(400) * np.logspace(-9, 3, 400)
    frame = returns("2020", 400).assign(net=values, excess=values)
    assert not (values == values.astype(np.float32)).all()
    for _ in range(2):
        ledger.record(trial(frame))
    assert len(ledger.trials()) == 1


def test_another_excess_on_the_same_days_is_no_trial(ledger: Ledger) -> None:
    """The average exposure that it compares with changes when days are added, what was earned does not."""
    longer = returns("2020-01-01", 7)
    ledger.record(trial(returns("2020-01-01", 5).assign(excess=0.5)))
    ledger.record(trial(longer))
    (found,) = ledger.trials()
    assert found.returns["excess"].tolist() == longer["excess"].tolist()


def test_another_ticker_set_is_another_trial(ledger: Ledger) -> None:
    """Looking through many tickers is a search, too: forty commands on one ticker each are forty trials."""
    for number in range(40):
        ledger.record(trial(returns("2020", 5), f"T{number}"))
    ledger.record(trial(returns("2020", 5), "T0", "T1"))
    assert len(ledger.overlapping(dt.date(2020, 1, 2), dt.date(2020, 1, 3))) == 41


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300, -1e7], ids=["nan", "inf", "-inf", "1e300", "-1e7"])
@pytest.mark.parametrize("column", ["net", "excess"])
def test_returns_that_cannot_be_are_refused(ledger: Ledger, column: str, value: float) -> None:
    """One such value would spoil every correlation for good."""
    frame = returns("2020", 5).astype(float)
    frame.iloc[2, frame.columns.get_loc(column)] = value
    with pytest.raises(ArtifactError, match="expected at least one day and finite returns of at most 1e"):
        ledger.record(trial(frame))
    with pytest.raises(ArtifactError, match="expected at least one day"):
        ledger.record(trial(frame.iloc[:0]))
    assert ledger.trials() == []


def test_only_new_days_are_recorded_anew(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking at an old run again leaves the time of its trial alone."""
    clock = iter(f"2026-01-0{day}" for day in range(1, 4))
    now = SimpleNamespace(now=lambda zone: SimpleNamespace(isoformat=lambda timespec: next(clock)))
    monkeypatch.setattr("nextbar.runs.ledger.dt", SimpleNamespace(datetime=now, UTC=None))
    for days, recorded in ((5, "2026-01-01"), (4, "2026-01-01"), (6, "2026-01-03")):
        ledger.record(trial(returns("2020", days)))
        assert [one.recorded for one in ledger.trials()] == [recorded]


def test_overlap_is_by_scored_days(ledger: Ledger) -> None:
    """Trials of any tickers count, cut to the days asked for; earlier ones, and those with a hole there, do not."""
    ledger.record(trial(returns("2020-01-01", 5), seed=1))
    ledger.record(trial(returns("2020-01-01", 5), "MSFT", seed=2))
    ledger.record(trial(returns("2019-01-01", 5), seed=3))
    ledger.record(trial(returns("2019-12-31", 20).iloc[[0, -1]], seed=4))
    found = ledger.overlapping(dt.date(2020, 1, 2), dt.date(2020, 1, 6))
    assert sorted(one.config["seed"] for one in found) == [1, 2]
    assert [len(one.returns) for one in found] == [3, 3]


def test_two_processes_at_once_lose_no_entry(tmp_path: Path) -> None:
    """Each of two processes records 25 trials of its own and 25 days of a common one."""
    path = tmp_path / "ledger.db"
    code = """
import sys, pandas as pd
from nextbar.runs.ledger import Ledger
from nextbar.runs.trial import Trial
who = int(sys.argv[2])
for n in range(25):
    index = pd.DatetimeIndex([pd.Timestamp("2020-01-01") + pd.Timedelta(days=2 * n + who)])
    frame = pd.DataFrame({"net": [0.1], "excess": [0.2]}, index=index)
    for key in (f"{who}-{n}", "common"):
        trial = Trial(kind="train", model="rf", config={}, tickers=("A",), returns=frame, identity=key)
        Ledger(sys.argv[1]).record(trial)
"""
    processes = [subprocess.Popen([sys.executable, "-c", code, str(path), str(who)]) for who in range(2)]
    assert [process.wait(120) for process in processes] == [0, 0]
    found = {one.identity: one for one in Ledger(path).trials()}
    assert len(found) == 51
    assert len(found["common"].returns) == 50


def test_the_environment_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NEXTBAR_LEDGER, and --ledger before it."""
    monkeypatch.setenv("NEXTBAR_LEDGER", str(tmp_path / "one.db"))
    assert Ledger().path == tmp_path / "one.db"
    assert Ledger(tmp_path / "two.db").path == tmp_path / "two.db"


def test_without_a_name_it_lies_in_the_state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One per user."""
    monkeypatch.delenv("NEXTBAR_LEDGER")
    monkeypatch.setattr("nextbar.runs.ledger.user_state_path", lambda name, appauthor: tmp_path / name)
    assert Ledger().path == tmp_path / "nextbar" / "ledger.db"


def test_another_file_is_refused(tmp_path: Path, market_db: Path) -> None:
    """A text file, another database, a folder and a place that cannot be made say so, with what to do."""
    (tmp_path / "text.db").write_text("no database at all, long enough to have a header", encoding="utf-8")
    with pytest.raises(ArtifactError, match="not a trial ledger"):
        Ledger(tmp_path / "text.db")
    before = market_db.read_bytes()
    with pytest.raises(ArtifactError, match="not a trial ledger; name another with --ledger"):
        Ledger(market_db)
    assert market_db.read_bytes() == before
    with pytest.raises(OutputError, match="--ledger"):
        Ledger(tmp_path)
    with pytest.raises(OutputError, match="--ledger"):
        Ledger(tmp_path / "text.db" / "ledger.db")


def test_damaged_content_is_refused(ledger: Ledger) -> None:
    """Bytes that are no series are told as a damaged ledger, not as a traceback."""
    ledger.record(trial(returns("2020", 5)))
    with sqlite3.connect(ledger.path) as connection:
        connection.execute("UPDATE trials SET content = x'00'")
    connection.close()
    with pytest.raises(ArtifactError, match=r"ledger\.db: is not a trial ledger, or is damaged"):
        ledger.trials()


def test_a_failed_entry_leaves_nothing(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial whose returns cannot be stored is not there at all."""
    monkeypatch.setattr(ledger_module, "encode", lambda frame: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ledger.record(trial(returns("2020", 5)))
    assert ledger.trials() == []


def test_a_newer_ledger_is_refused(ledger: Ledger) -> None:
    """Its rules are not known here, and nothing in it is touched."""
    ledger.expect("run")
    with sqlite3.connect(ledger.path) as connection:
        connection.execute("PRAGMA user_version = 4")
    connection.close()
    before = ledger.path.read_bytes()
    with pytest.raises(ArtifactError, match=r"a newer nextbar wrote this ledger \(version 4, this nextbar reads 3\)"):
        Ledger(ledger.path)
    assert ledger.path.read_bytes() == before


def test_processes_bring_a_ledger_up_to_date_at_once(old: Path) -> None:
    """All end well, and the trials are converted once."""
    code = "import sys; from nextbar.runs.ledger import Ledger; print(len(Ledger(sys.argv[1]).trials()))"
    command = [sys.executable, "-c", code, str(old)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    counts = [process.communicate(timeout=120)[0] for process in processes]
    assert counts == [f"{len(Ledger(old).trials())}\n"] * 3
    assert tables(old) == ["holdouts", "openings", "trials"]


@pytest.mark.parametrize("column", ["tickers", "start"])
def test_a_damaged_holdout_is_refused(ledger: Ledger, column: str) -> None:
    """What a foreign program has written there is told as damage, without a traceback."""
    ledger.expect("run")  # which makes the file
    with sqlite3.connect(ledger.path) as connection:
        connection.execute("INSERT INTO holdouts VALUES ('2020-01-02', '[\"A\"]', '2020-01-01')")
        connection.execute(f"UPDATE holdouts SET {column} = x'00'")
    connection.close()
    with pytest.raises(ArtifactError, match="not a trial ledger, or is damaged"):
        ledger.holdouts()


def test_a_ledger_of_0_1_0_is_brought_up_to_date(old: Path) -> None:
    """A tree is a trial per ticker, a network and a walk-forward are portfolios of what was asked for, the rest stands
    alone; identities are those of today's rule, so code that made other returns is a variant and a comment is none.
    """
    found = {(one.kind, one.model, one.tickers, one.variant): one for one in Ledger(old).trials()}
    assert set(found) == {
        ("walkforward", "xgb", ("AAA", "BBB", "CCC"), 1),
        ("walkforward", "rf", ("AAA",), 1),
        ("walkforward", "rf", ("BBB",), 1),
        ("train", "xgb", ("AAA",), 1),
        ("train", "xgb", ("BBB",), 1),
        ("train", "lstm", ("AAA", "BBB"), 1),
        ("train", "rf", ("AAA",), 1),
        ("train", "rf", ("AAA",), 2),
    }
    portfolio = found["walkforward", "xgb", ("AAA", "BBB", "CCC"), 1]
    first, second = np.array([0, 0, 0.125, 0.25, 0]), 0.75 * np.arange(1, 6)
    assert portfolio.returns["net"].tolist() == pytest.approx(((first + second) / 3).tolist())
    assert portfolio.returns["excess"].tolist() == pytest.approx(((first + second) / 6).tolist())
    assert portfolio.options == {"no_tune": True}
    assert portfolio.recorded == "2026-01-01T00:00:00+00:00"
    assert found["train", "rf", ("AAA",), 1].options == {"features": "own_features:f", "seed": 7}
    assert found["train", "rf", ("AAA",), 1].recorded == "2026-01-06T00:00:00+00:00"
    assert found["train", "lstm", ("AAA", "BBB"), 1].returns["net"].tolist() == [0.5, 1.0, 1.5, 2.0, 2.5]


def test_a_rerun_after_the_change_of_tables_does_not_count(old: Path) -> None:
    """The same configuration and ticker with the same returns is the trial that 0.1.0 recorded."""
    before = Ledger(old).trials()
    known = next(one for one in before if one.model == "xgb" and one.tickers == ("BBB",))
    options = {name: value for name, value in known.config.items() if name not in ("mlflow", "scaler_fit")}
    again = replace(known, config=options, identity=identify("train", "xgb", options))
    assert Ledger(old).record(again).id == known.id
    assert len(Ledger(old).trials()) == len(before)


def test_a_crash_while_tables_change_leaves_the_old_ones(old: Path) -> None:
    """A process that is killed in the middle has changed nothing; the next one brings all up to date."""
    code = """
import os, sys
from nextbar.runs import ledger
enter, calls = ledger._enter, []
ledger._enter = lambda *given: os._exit(9) if len(calls) == 3 else (calls.append(1), enter(*given))
ledger.Ledger(sys.argv[1])
"""
    assert subprocess.run([sys.executable, "-c", code, str(old)], check=False).returncode == 9
    assert tables(old) == ["returns", "trials"]
    assert len(Ledger(old).trials()) == 8
    assert tables(old) == ["holdouts", "openings", "trials"]


def test_secrets_that_0_1_0_stored_are_taken_out(old: Path) -> None:
    """It hid `password=` alone."""
    with sqlite3.connect(old) as connection:
        connection.execute("UPDATE trials SET config = replace(config, 'host/m', 'host/m?sslpassword=hidden')")
    connection.close()
    stored = [one.config["db"] for one in Ledger(old).trials()]
    assert "postgresql://me@host/m?" in stored
    assert "hidden" not in str(stored)


def test_values_of_0_1_0_that_cannot_be_are_made_harmless(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It checked none; the trial counts all the same, and spoils no correlation."""
    decode = ledger_module.decode
    monkeypatch.setattr(ledger_module, "decode", lambda content: decode(content) * np.array([np.inf, 1e300]))
    Ledger(old)
    monkeypatch.undo()
    for one in Ledger(old).trials():
        assert np.abs(one.returns.to_numpy()).max() <= 1e6


def with_market(frame: pd.DataFrame, seed: int) -> pd.DataFrame:
    return frame.assign(market=np.random.default_rng(seed).normal(0, 0.01, len(frame)))


@pytest.mark.parametrize("value", [0.0, 0.25], ids=["flat", "long"])
def test_another_series_of_the_same_symbol_is_another_trial(ledger: Ledger, value: float) -> None:
    """The same options and earnings on bars of another company are another try; single bars are corrected."""
    first = with_market(returns("2020", 50, value), 1)
    assert ledger.record(trial(first)).variant == 1
    corrected = first.copy()
    corrected.iloc[7, 2] += 0.5
    assert ledger.record(trial(corrected)).variant == 1
    assert ledger.record(trial(with_market(returns("2020", 50, value), 2))).variant == 2
    assert ledger.record(trial(with_market(returns("2022", 50, value), 3))).variant == 3  # no day shows that it is one
    assert [len(one.returns) for one in ledger.trials()] == [50, 50, 50]


def test_a_trial_without_the_series_goes_on(ledger: Ledger) -> None:
    """What was recorded before the series was kept stays one trial, and gets it with its new days."""
    ledger.record(trial(returns("2020-01-01", 5)))
    ledger.record(trial(with_market(returns("2020-01-03", 5), 1)))
    (found,) = ledger.trials()
    assert found.returns["market"].notna().tolist() == [False] * 2 + [True] * 5
    assert ledger.record(trial(with_market(returns("2020-01-03", 5), 2))).variant == 2


def test_looking_for_a_trial_records_nothing(tmp_path: Path) -> None:
    """A ledger that is only read is not made, which a remark says, and a trial that it lacks is not entered."""
    with pytest.warns(Remark, match=r"^there is no trial ledger .*no\.db; it counts as empty$"):
        assert Ledger(tmp_path / "no.db", make=False).find(trial(returns("2020", 5))) is None
    assert list(tmp_path.iterdir()) == []
    ledger = Ledger(tmp_path / "ledger.db")
    kept = ledger.record(trial(returns("2020", 5)))
    assert ledger.find(trial(returns("2020", 4))).id == kept.id  # type: ignore[union-attr]
    assert ledger.find(trial(returns("2020", 9))).id == kept.id  # type: ignore[union-attr]
    assert ledger.find(trial(returns("2020", 5, 0.5))) is None
    assert ledger.find(trial(returns("2020", 5, np.inf))) is None
    assert [len(one.returns) for one in ledger.trials()] == [5]


def test_only_writing_makes_a_ledger(tmp_path: Path) -> None:
    """Reading leaves no file and no folder; a file of nearly the same name is told."""
    place = tmp_path / "state"
    ledger = Ledger(place / "ledgr.db")
    assert (ledger.trials(), ledger.holdouts().openings, ledger.expects("run")) == ([], [], False)
    assert ledger.find(trial(returns("2020", 5))) is None
    with pytest.raises(ArtifactError, match="it holds 0 trials"):
        ledger.remove(["abcd"])
    assert not place.exists()
    Ledger(place / "ledger.db").record(trial(returns("2020", 5)))
    with pytest.warns(Remark, match=r"^there is no trial ledger .*ledgr\.db; it counts as empty; nearest: ledger\.db$"):
        assert Ledger(place / "ledgr.db", make=False).trials() == []
    with pytest.warns(Remark, match=r"^a new trial ledger begins: .*ledgr\.db; nearest: ledger\.db$"):
        ledger.record(trial(returns("2020", 5)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ledger.record(trial(returns("2020", 6)))


def test_trials_are_removed_all_or_none(ledger: Ledger) -> None:
    """By the id or how it begins; the number of a removed variant hides no other one."""
    first, second, third = [ledger.record(trial(returns("2020", 5, value))) for value in (0.1, 0.2, 0.3)]
    with pytest.raises(ArtifactError, match=r"no trial has the id 'zzzz' .*; nothing was removed; see: nextbar ledger"):
        ledger.remove([first.id, "zzzz"])
    assert len(ledger.trials()) == 3
    assert [one.id for one in ledger.remove([first.id[:8], first.id])] == [first.id]
    assert ledger.record(trial(returns("2020", 5, 0.4))).variant == 4
    assert {one.id for one in ledger.trials()} >= {second.id, third.id}


def test_an_unknown_id_names_those_near_it(ledger: Ledger) -> None:
    """One letter off, an identity in place of an id, and too few letters: each says what there is."""
    kept = ledger.record(trial(returns("2020", 5)))
    with pytest.raises(ArtifactError, match=f"nearest: {kept.id}"):
        ledger.remove(["0" + kept.id[1:] if kept.id[0] != "0" else "1" + kept.id[1:]])
    with pytest.raises(ArtifactError, match=f"that identity has the trials: {kept.id}"):
        ledger.remove([kept.identity])
    with pytest.raises(ArtifactError, match="no trial has the id"):
        ledger.remove([kept.id[:3]])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_no_ledger(tmp_path: Path) -> None:
    """It is refused at once, in place of waiting for somebody who writes."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ArtifactError, match="expected a file, got a named pipe; name another with --ledger"):
        Ledger(tmp_path / "pipe")
    with pytest.raises(ArtifactError, match="expected a file, got a device"):
        Ledger("/dev/null")


@pytest.mark.parametrize("value", [None, "", -1, 1e308, b"\x00", "[]", "{}", "null", "NaN", "[" * 3000], ids=ascii)
@pytest.mark.parametrize("column", ["identity", "tickers", "variant", "kind", "model", "config", "recorded", "content"])
def test_whatever_a_damaged_trial_holds_is_refused_or_harmless(ledger: Ledger, column: str, value: object) -> None:
    """A value of another type, or of absurd size, raises no other error than a refusal."""
    ledger.record(trial(returns("2020", 5)))
    with sqlite3.connect(ledger.path) as connection, suppress(sqlite3.IntegrityError):
        connection.execute(f"UPDATE trials SET {column} = ?", (value,))
    connection.close()
    with suppress(ArtifactError):
        for one in Ledger(ledger.path).trials():
            json.dumps(one.to_json(), allow_nan=False)
