"""Signals from files, and the list of the journal."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import nextbar as nb
from nextbar.runs.journal import Entry, append

CLOSES = [100.0, 110.0, 99.0, 99.0, 120.0]
DAYS = ["2024-01-02", "2024-01-03", "2024-01-04", "2024-01-05", "2024-01-08"]
ENTRY = Entry(
    made="2024-01-02T22:00:00+00:00",
    ticker="A",
    date=DAYS[0],
    kind="xgb",
    model="xgboost_A_20240101_000000",
    model_sha256="",
    model_made="2024-01-01T00:00:00+00:00",
    close=1.0,
    probability=0.9,
    predicted_close=None,
    threshold=0.5,
    predicted_class=1,
    signal=1,
    majority=1,
    raw=False,
)


@pytest.fixture
def run(command_line: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, market_db: Path) -> Any:
    """Runs the command line in an empty folder on `market_db`; gives exit code, standard output and standard error."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    monkeypatch.setenv("NEXTBAR_DB", str(market_db))
    monkeypatch.setenv("NEXTBAR_LEDGER", str(tmp_path / "ledger.db"))
    monkeypatch.setenv("NEXTBAR_JOURNAL", str(tmp_path / "journal.db"))

    return command_line


@pytest.fixture
def signals(market_bars: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """A row per day and ticker of AAA and BBB, some of them short."""
    rng = np.random.default_rng(7)
    parts = [
        pd.DataFrame(
            {"date": frame.index.strftime("%Y-%m-%d"), "ticker": name, "signal": rng.uniform(-1, 1, len(frame))}
        )
        for name, frame in market_bars.items()
        if name in ("AAA", "BBB")
    ]
    return pd.concat(parts, ignore_index=True).round(3)


def test_signals_of_a_file_are_judged_counted_and_saved(run, signals, market_db):
    """CSV and Parquet give the figures of `nb.judge`, the verdict counts the tries, and a saved run is read again."""
    signals.to_csv("s.csv", index=False)
    signals.assign(date=pd.to_datetime(signals["date"])).to_parquet("s.parquet")
    code, out, err = run("judge", "s.csv", "--output-dir", "results", "--name", "My rule")
    assert code == 0, err
    assert "cannot be checked" in out
    assert "INCONCLUSIVE" in out or "NO EDGE" in out
    told = json.loads(run("judge", "s.parquet", "--json")[1])
    bars = nb.read_bars(market_db, ["AAA", "BBB"])
    own = nb.judge(
        signals.pivot_table(index="date", columns="ticker", values="signal").set_axis(bars["AAA"].index), bars
    )
    assert told["pooled"] == json.loads(json.dumps(own.document.pooled))
    assert nb.judge(signals, bars).document.pooled == own.document.pooled
    assert told["verdict"]["tries"]["count"] == 1
    (mark,) = Path("results").glob("*_metadata.json")
    saved = nb.load_run(mark)
    pd.testing.assert_frame_equal(saved.rows, own.rows, check_dtype=False)
    (-signals[["signal"]]).assign(date=signals["date"], ticker=signals["ticker"]).to_csv("other.csv", index=False)
    assert (
        json.loads(run("judge", "other.csv", "--output-dir", "results", "--json")[1])["verdict"]["tries"]["count"] == 2
    )
    marks = sorted(Path("results").glob("*_metadata.json"))
    assert run("report", *marks)[0] == 0
    assert json.loads(run("compare", *marks, "--json")[1])["tried"] == 2
    assert saved.config.name == "My rule"
    assert {one["label"] for one in json.loads(run("runs", "results", "--json")[1])} == {"signals", "My rule"}
    assert sorted(one["label"] for one in json.loads(run("ledger", "--json")[1])) == ["My rule", "signals"]
    assert all("My rule" in run(*command)[1] for command in (("runs", "results"), ("ledger",), ("compare", *marks)))
    for command in (("predict", marks[0]), ("reproduce", marks[0]), ("certify", "xgb", "--artifact", marks[0])):
        code, _, err = run(*command)
        assert code == 2, command
        assert "signals have no model" in err


def test_probabilities_are_long_from_the_threshold_on(run, signals):
    """A position is 1 where the probability is at least the threshold, else 0, and the ranking is scored, too."""
    table = signals.assign(probability=((signals["signal"] + 1) / 2).round(2)).drop(columns="signal")
    table.to_csv("p.csv", index=False)
    table.drop(columns="probability").assign(signal=(table["probability"] >= 0.6).astype(int)).to_csv(
        "s.csv", index=False
    )
    first = json.loads(run("judge", "p.csv", "--threshold", "0.6", "--json")[1])["pooled"]
    second = json.loads(run("judge", "s.csv", "--json")[1])["pooled"]
    for name in ("sharpe", "total_return", "exposure", "balanced_accuracy", "days"):
        assert first[name] == second[name]
    assert first["roc_auc"] is not None
    assert second["roc_auc"] is None
    assert json.loads(run("judge", "p.csv", "--json")[1])["pooled"]["exposure"] > first["exposure"]
    assert "threshold 0.6 changes nothing: the signals are positions" in run("judge", "s.csv", "--threshold", "0.6")[2]


@pytest.mark.parametrize(
    ("separator", "decimal", "encoding", "told"),
    [
        (";", ",", "utf-8", "s.csv: columns between semicolons, decimal comma"),
        ("\t", ".", "utf-8-sig", "s.csv: columns between tabs"),
        (", ", ".", "utf-8", ""),
        ("|", ".", "utf-16", "s.csv: encoding UTF-16, columns between pipes"),
    ],
)
def test_the_format_of_a_file_of_signals_is_found_and_told(run, signals, separator, decimal, encoding, told):
    """A file is read as its content says; each guess is told, and the figures are those of a plain file."""
    few = signals[signals["ticker"] == "AAA"].head(20)
    few.to_csv("plain.csv", index=False)
    rows = [[day, name, str(value).replace(".", decimal)] for day, name, value in few.itertuples(index=False)]
    lines = [separator.join(row) for row in [[*few.columns], *rows]]
    Path("s.csv").write_text("\n".join(lines), encoding=encoding)
    code, out, err = run("judge", "s.csv", "--json")
    assert code == 0, err
    assert "\n".join(line for line in err.splitlines() if line.startswith("s.csv")) == told
    assert json.loads(out)["pooled"] == json.loads(run("judge", "plain.csv", "--json")[1])["pooled"]


def test_rows_that_cannot_be_judged_are_counted(run, signals):
    """Empty values, and days without a bar, are left out and counted."""
    signals.loc[[3, 5], "signal"] = np.nan
    holidays = pd.DataFrame({"date": ["2012-01-01", "2011-12-25"], "ticker": "AAA", "signal": 1.0})
    pd.concat([signals, holidays]).to_csv("s.csv", index=False)
    code, out, _ = run("judge", "s.csv")
    assert code == 0
    assert "2 rows of s.csv without a value" in out
    assert "AAA: 2 of its signals are on days without a bar" in out


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param(lambda t: t.drop(columns="ticker"), "has no column ticker; expected date, ticker", id="no-ticker"),
        pytest.param(
            lambda t: t.rename(columns={"signal": "position", "date": "day"}),
            "no column date and no column signal or probability; expected date, ticker and either signal or "
            "probability, each once; got day, ticker, position",
            id="no-signal",
        ),
        pytest.param(lambda t: t.assign(probability=0.5), "got both, and nothing says which of them counts", id="both"),
        pytest.param(lambda t: t.assign(Signal=0), "has the column signal twice; expected", id="column-twice"),
        pytest.param(
            lambda t: t.assign(signal=t["signal"].where(t.index != 4, 1.5)), "row 5 has the signal 1.5;", id="high"
        ),
        pytest.param(lambda t: t.assign(signal="inf"), "expected a number from -1 to 1", id="infinite"),
        pytest.param(lambda t: t.assign(signal="long"), "row 1 has the signal long, and 1,279 more rows", id="text"),
        pytest.param(lambda t: t.assign(date="01/02/2012"), "a day as YYYY-MM-DD", id="date"),
        pytest.param(
            lambda t: t.assign(date="2012-02-30"), "2012-02-30, a day that the calendar does not have", id="no-such-day"
        ),
        pytest.param(lambda t: t.assign(date=""), "a day as YYYY-MM-DD", id="no-date"),
        pytest.param(lambda t: t.assign(ticker=""), "expected a ticker", id="empty-ticker"),
        pytest.param(lambda t: t.assign(ticker="XXX"), "XXX", id="unknown"),
        pytest.param(lambda t: t.replace("BBB", "EMPTY"), "EMPTY", id="without-bars"),
        pytest.param(lambda t: t.replace("BBB", "AAA"), "occur twice", id="day-twice"),
        pytest.param(lambda t: t.assign(date="1999-01-04").iloc[:1], "is on a day with a bar", id="outside"),
        pytest.param(lambda t: t.iloc[:0], "empty", id="empty"),
        pytest.param(
            lambda t: t.rename(columns={"signal": "probability"}), "expected a number from 0 to 1", id="negative"
        ),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_faults_of_a_file_of_signals_are_refused(run, signals, change, told, kind, tmp_path):
    """Each fault ends with exit code 2 and names what was expected; nothing is written and nothing is counted."""
    path, table = tmp_path / f"s.{kind}", change(signals)
    if kind == "csv":
        table.to_csv(path, index=False)
    else:
        table.astype(str).to_parquet(path) if told == "empty" else table.to_parquet(path)
    code, out, err = run("judge", path, "--output-dir", "results")
    assert (code, out) == (2, "")
    assert told in " ".join(err.split())
    assert list(Path().glob("results/*")) == []
    assert json.loads(run("ledger", "--json")[1]) == []


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe\x00\x00", b"PAR1", b'a,b\n"', b"date,ticker,signal\n1,2,3,4\n"],
    ids=["empty", "bytes", "cut", "quote", "ragged"],
)
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_what_is_no_table_is_refused(run, tmp_path, suffix, content):
    """Damaged and empty files, a folder and a missing file end with exit code 2, not with a traceback."""
    path = tmp_path / f"s{suffix}"
    assert run("judge", path)[0] == 2
    path.write_bytes(content)
    assert run("judge", path)[0] == 2
    path.unlink()
    path.mkdir()
    assert run("judge", path)[0] == 2
    assert run("judge", path, "--threshold", "1.5")[0] == 2


@pytest.fixture
def journal(run: Any, make_database: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One prediction of each state, on five days of ticker A."""
    prices = dict.fromkeys(("Open", "High", "Low", "Close", "Adj"), CLOSES)
    frame = pd.DataFrame({**prices, "Volume": 1.0}, index=pd.to_datetime(DAYS))
    monkeypatch.setenv("NEXTBAR_DB", str(make_database(tmp_path / "m.db", {"A": frame})))
    change = dataclasses.replace
    entries = [
        ENTRY,
        change(ENTRY, made="2024-01-02T23:00:00+00:00", model="xgboost_A_20240102_000000"),
        change(ENTRY, date=DAYS[1], made="2024-01-04T15:00:00+00:00"),
        change(ENTRY, date=DAYS[4], made="2024-01-08T17:00:00.25-05:00", model_made="2024-01-01T01:00:00.5+01:00"),
        change(ENTRY, date="2024-01-06", made="2024-01-08T22:00:00+00:00"),
        change(ENTRY, ticker="=B", made="2024-01-08T22:00:00+00:00"),
    ]
    append(tmp_path / "journal.db", entries)


STATES = ["counted", "repeated", "late", "overdue", "lost", "lost"]


@pytest.mark.usefixtures("journal")
def test_the_journal_says_which_prediction_counted_and_why(run):
    """Every line has its state and a reason, as many of each as `score` counts; CSV and JSON hold the same."""
    code, out, err = run("journal", "--csv", "j.csv")
    assert code == 0
    lines = out.splitlines()
    assert len(lines) == 12
    for state, why, line in zip(
        STATES,
        (
            "before the market opened at 2024-01-03 13:30 UTC; the next close was +10.00 %",
            "one made 2024-01-02 22:00 UTC is the first",
            "the market opened at 2024-01-04 13:30 UTC",
            "no bar came since 2024-01-08, though the next one follows within 3 days: ingest newer bars",
            "no bar of 2024-01-06",
            "no bars of this ticker",
        ),
        lines[1::2],
        strict=True,
    ):
        assert re.match(rf"  {state}, made \d{{4}}-\d\d-\d\d \d\d:\d\d UTC: ", line)
        assert why in line
    assert "probability of a rise 0.9000, threshold 0.5000" in lines[0]
    assert "6 predictions in" in err
    told = json.loads(run("journal", "--json")[1])
    assert [line["state"] for line in told] == STATES
    assert told[0]["next_return"] == pytest.approx(0.1)
    with Path("j.csv").open(encoding="utf-8") as file:
        rows = [*csv.DictReader(file)]
    assert [row["state"] for row in rows] == STATES
    assert rows[-1]["ticker"] == "'=B"
    for one in [*told, *rows]:
        assert all(re.fullmatch(r"[\d-]{10}T\d\d:\d\d:\d\d\+00:00", one[name]) for name in ("made", "model_made"))
        assert not re.search(r"\dT\d", one["why"])
    scored = json.loads(run("score", "--json")[1])
    counts = {name: STATES.count(name) for name in ("pending", "overdue", "late", "repeated", "lost")}
    assert {name: scored[name] for name in counts} == counts
    assert scored["models"]["xgb"]["pooled"]["n"] == STATES.count("counted")


def test_a_list_of_nothing_is_a_sentence(run, tmp_path):
    """No empty table is printed; JSON stays a list."""
    Path("models").mkdir()
    append(tmp_path / "journal.db", [])
    assert run("runs", "models")[:2] == (0, "no finished run in models; make one: nextbar train xgb\n")
    assert run("journal")[1].startswith(f"no prediction in {tmp_path / 'journal.db'}; make one")
    assert all(json.loads(run(command, "--json")[1]) == [] for command in ("runs", "journal", "ledger"))


@pytest.mark.usefixtures("journal")
def test_the_journal_follows_the_options_of_score(run):
    """Another opening hour or model decides otherwise; what cannot be listed ends with exit code 2."""
    assert json.loads(run("journal", "--opens", "23:00", "--json")[1])[2]["state"] == "counted"
    assert len(json.loads(run("journal", "--model", "20240102", "--json")[1])) == 1
    for options in (("--model", "none"), ("--opens", "noon"), ("--journal", "no.db"), ("--csv", "no/j.csv")):
        assert run("journal", *options)[0] == 2
    assert not Path("no.db").exists()
