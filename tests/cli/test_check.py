from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from nextbar.cli import ingest as ingest_module
from nextbar.cli.ingest import app as ingest_app
from nextbar.cli.main import app_of
from nextbar.errors import BadBarsError, ConfigError, MissingExtraError, UnknownTickerError
from nextbar.market.sources.yahoo import Answer
from nextbar.workflows.update import check_stored

RUNNER = CliRunner()
CHECK = app_of("check")
ROWS = [("AAA", f"2024-01-{day:02d}", 10.0 + day) for day in (2, 3, 4, 5, 8, 9)]


def write(path: Path, *rows: tuple[str, str, float]) -> Path:
    lines = [f"{ticker},{day},{price},{price},{price},{price},7\n" for ticker, day, price in rows or ROWS]
    path.write_text("ticker,date,open,high,low,close,volume\n" + "".join(lines))
    return path


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """Six sound bars of one ticker."""
    path = tmp_path / "m.db"
    run_ingest("csv", write(tmp_path / "x.csv"), db=path)
    return path


def run_ingest(*arguments: Any, db: Path) -> Any:
    result = RUNNER.invoke(ingest_app, [*map(str, arguments), "--db", str(db)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def spoil(db: Path) -> None:
    with sqlite3.connect(db) as connection:
        connection.execute("UPDATE stock_prices SET low = -1 WHERE date = '2024-01-04'")
    connection.close()


def test_sound_bars_exit_with_0(db: Path) -> None:
    """Nothing found is one line and exit code 0."""
    result = RUNNER.invoke(CHECK, ["--db", str(db)])
    assert (result.exit_code, result.stdout.strip()) == (0, "check: 0 errors, 0 warnings, 0 infos")


def test_an_error_exits_with_1_and_says_what_to_do(db: Path) -> None:
    """Ticker, day, rule and advice are shown, and the exit code says no."""
    spoil(db)
    result = RUNNER.invoke(CHECK, ["--db", str(db)])
    assert result.exit_code == 1
    for word in ("AAA", "2024-01-04", "impossible bar", "correct or delete the bar", "check: 1 error,"):
        assert word in result.stdout


def test_json_holds_every_finding(db: Path) -> None:
    """One document with counts and findings, each with advice; the exit code is the same."""
    spoil(db)
    result = RUNNER.invoke(CHECK, ["--db", str(db), "--json"])
    report = json.loads(result.stdout)
    assert result.exit_code == 1
    assert report["counts"]["error"] == 1
    assert report["findings"][0]["date"] == "2024-01-04"
    assert set(report["findings"][0]) == {"ticker", "date", "rule", "severity", "detail", "advice"}


def test_no_kind_of_finding_hides_the_others(tmp_path: Path) -> None:
    """Three tickers of a kind are shown, those with the most findings first, each with its count; and every kind."""
    rows = [(f"T{i}", day, price) for i in range(9) for _, day, price in ROWS]
    db = tmp_path / "m.db"
    run_ingest("csv", write(tmp_path / "x.csv", *rows, *(("Z", day, 1.0) for _, day, _ in ROWS)), db=db)
    with sqlite3.connect(db) as connection:
        connection.execute(
            "UPDATE stock_prices SET low = -1 WHERE ticker = 'T8' OR (date = '2024-01-04' AND ticker <> 'Z')"
        )
    connection.close()
    lines = RUNNER.invoke(CHECK, ["--db", str(db)]).stdout.splitlines()
    shown = [line for line in lines if "2024-01-" in line and "impossible bar" in line]
    assert [line.split()[1] for line in shown] == ["T8", "T0", "T1"]
    assert "low <= 0; 5 more to 2024-01-09" in shown[0]
    assert any("stale" in line and "Z" in line for line in lines)


def test_a_database_without_bars_is_refused(db: Path) -> None:
    """It has no error, and nothing was checked."""
    with sqlite3.connect(db) as connection:
        connection.execute("DELETE FROM stock_prices")
    connection.close()
    with pytest.raises(BadBarsError, match="holds no bar to check; fill it with"):
        check_stored(db)


def test_tickers_can_be_chosen(db: Path, tmp_path: Path) -> None:
    """Findings of other tickers neither show nor decide; an unknown one is refused."""
    spoil(db)
    run_ingest("csv", write(tmp_path / "y.csv", *(("BBB", day, price) for _, day, price in ROWS)), db=db)
    assert RUNNER.invoke(CHECK, ["--db", str(db), "--ticker", "BBB"]).exit_code == 0
    assert RUNNER.invoke(CHECK, ["--db", str(db), "--ticker", "BBB,AAA"]).exit_code == 1
    assert isinstance(RUNNER.invoke(CHECK, ["--db", str(db), "--ticker", "NONE"]).exception, UnknownTickerError)


def test_tickers_that_differ_only_in_case_are_told(db: Path, tmp_path: Path) -> None:
    """Ingest names both, although it has stored one of them, and so does the check; a sound pair is none."""
    other = write(tmp_path / "y.csv", *(("aaa", day, price + 1) for _, day, price in ROWS))
    assert "note: AAA and aaa differ only in case; rename one" in run_ingest("csv", other, db=db).stdout
    result = RUNNER.invoke(CHECK, ["--db", str(db), "--json"])
    assert [(one["ticker"], one["rule"]) for one in json.loads(result.stdout)["findings"]] == [
        ("AAA", "letter case"),
        ("aaa", "letter case"),
    ]
    assert result.exit_code == 0


def test_ingest_ends_with_the_check(db: Path, tmp_path: Path) -> None:
    """Each ingest says in a line what its tickers look like, without failing for it."""
    spoil(db)
    result = run_ingest("csv", write(tmp_path / "y.csv"), db=db)
    assert result.exit_code == 0
    assert f"check: 1 error, 0 warnings, 0 infos (see: nextbar check --db {db})" in result.stdout


def test_differing_bars_are_named_and_accepted_only_when_asked(db: Path, tmp_path: Path) -> None:
    """The first run names ticker, dates and columns and keeps the bar; --accept-revisions replaces it."""
    other = write(tmp_path / "y.csv", *ROWS[:2], ("AAA", "2024-01-04", 99.0))
    kept = run_ingest("csv", other, db=db)
    assert "stored with other values: 1 bar; the stored values were kept" in kept.stdout
    assert "AAA: 2024-01-04 (open, high, low, close)" in kept.stdout
    assert "note: 1 of the 3 bars that were stored already differ from the source (33 %), and were" in kept.stdout
    assert "kept, and nothing was stored; to replace them: --accept-revisions" in kept.stdout
    assert kept.exit_code == 0
    accepted = run_ingest("csv", other, "--accept-revisions", db=db)
    assert "differ from the source" not in accepted.stdout
    assert "revised: 1 bar; the old values are in the table price_revisions" in accepted.stdout
    with sqlite3.connect(db) as connection:
        assert connection.execute("SELECT close, source FROM price_revisions").fetchall() == [(14.0, "CSV y.csv")]
        assert connection.execute("SELECT max(close) FROM stock_prices").fetchall() == [(99.0,)]
    connection.close()


def test_models_that_stand_on_differing_bars_are_named(market_db: Path, trained_trees: Path, tmp_path: Path) -> None:
    """The summary names the runs whose bars hold a differing day."""
    other = write(tmp_path / "y.csv", ("AAA", "2011-01-03", 99.0))
    result = run_ingest("csv", other, "--models", trained_trees, "--json", db=market_db)
    report = json.loads(result.stdout)
    assert report["total"]["differs"] == 1
    assert sorted(stem.partition("_AAA")[0] for stem in report["runs"]) == ["random_forest", "xgboost"]


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Yahoo that knows AAA only."""

    def download(names: list[str], *_: Any) -> Answer:
        days = pd.DatetimeIndex(["2024-01-02", "2024-01-03"])
        columns = dict.fromkeys(("Open", "High", "Low", "Close", "Adj Close"), 10.0)
        known = {name: pd.DataFrame({**columns, "Volume": 7}, index=days) for name in names if name == "AAA"}
        frame = pd.concat(known, axis=1) if known else pd.DataFrame()
        return Answer(frame=frame, reasons={"WRONG": "possibly delisted"})

    monkeypatch.setattr(ingest_module, "import_module", lambda _: type("Client", (), {"download": download}))


@pytest.mark.usefixtures("client")
def test_yahoo_tells_what_failed(tmp_path: Path) -> None:
    """Symbols come from arguments and a file, in upper case; the one that failed stands there with its reason."""
    (tmp_path / "universe.txt").write_text("wrong  # gone\n\n# a comment\nAAA\n")
    result = run_ingest("yahoo", "aaa", "--universe", tmp_path / "universe.txt", db=tmp_path / "m.db")
    assert result.exit_code == 1
    assert "failed: WRONG: possibly delisted" in result.stdout
    assert "1 ticker " in result.stdout


@pytest.mark.usefixtures("client")
def test_yahoo_needs_symbols_and_a_day(tmp_path: Path) -> None:
    """No symbol, an unreadable file and a date that is none are refused with what was expected."""
    for arguments in ([], ["--universe", str(tmp_path / "none.txt")], ["AAA", "--since", "soon"]):
        with pytest.raises(ConfigError, match=r"expects symbols|--universe .*none.txt|--since expects a day .*'soon'"):
            run_ingest("yahoo", *arguments, db=tmp_path / "m.db")


def test_without_the_extra_yahoo_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command names the extra, and the other ingest commands do not need it."""
    monkeypatch.setitem(__import__("sys").modules, "yfinance", None)
    monkeypatch.delitem(__import__("sys").modules, "nextbar.market.sources.yahoo_client", raising=False)
    with pytest.raises(MissingExtraError, match=r"pip install '\.\[yahoo\]'"):
        run_ingest("yahoo", "AAA", db=tmp_path / "m.db")
    assert run_ingest("csv", write(tmp_path / "x.csv"), db=tmp_path / "m.db").exit_code == 0
