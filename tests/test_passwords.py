"""A database's password reaches the database and nothing that is written or said."""

from __future__ import annotations

import datetime as dt
import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nextbar.cli.main import main
from nextbar.config import TrainConfig
from nextbar.errors import BadBarsError, DatabaseError, UnknownTickerError
from nextbar.market.bars import DataAccessLayer
from nextbar.market.database import locate
from nextbar.types import Silent
from nextbar.words import without_password
from nextbar.workflows.certify import certify_runs
from nextbar.workflows.documents import head
from nextbar.workflows.options import PredictConfig
from nextbar.workflows.predict import _fresh_day
from nextbar.workflows.reproduce import reproduce
from nextbar.workflows.universe import empty_database, load_universe
from nextbar.workflows.update import check_stored

URL = "postgresql+psycopg://me:s3cret@host:5432/market"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (URL, "postgresql+psycopg://me@host:5432/market"),
        (f"--db={URL}", "--db=postgresql+psycopg://me@host:5432/market"),
        ("postgresql://me:p@s/s3cret@host/m", "postgresql://me@host/m"),
        ("postgresql:///m?user=me&password=s3cret&sslmode=require", "postgresql:///m?user=me&sslmode=require"),
        ("postgresql:///m?password=s3cret", "postgresql:///m?"),
        ("postgresql://me@host/m?sslpassword=s3cret&sslmode=require", "postgresql://me@host/m?sslmode=require"),
        ("postgresql://me@host/m?options=-cmy.key%3Ds3cret&PASSWORD=s3cret", "postgresql://me@host/m?"),
        ("mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3Ds3cret&port=1", "mssql+pyodbc:///?port=1"),
        ("--db=postgresql://me@host/m?passfile=s3cret", "--db=postgresql://me@host/m?"),
        ("postgresql://me@firm:s3cret@host/m", "postgresql://me@firm@host/m"),
        ("postgresql://me:my s3cret@host/m", "postgresql://me@host/m"),
        ("postgresql://me:s3cret?x=1@host/m", "postgresql://me@host/m"),
        ("postgresql://:s3cret@host/m", "postgresql://@host/m"),
        ("postgresql://me@host:5432/m", "postgresql://me@host:5432/m"),
        ("postgresql://host:5432/m", "postgresql://host:5432/m"),
        ("data/market.db", "data/market.db"),
        ("tcp://127.0.0.1:8786", "tcp://127.0.0.1:8786"),
        ("--ticker=A?B=C", "--ticker=A?B=C"),
    ],
)
def test_passwords_are_taken_out_of_urls(text: str, expected: str) -> None:
    """User, host and the rest stay, so that the URL works where PGPASSWORD is set."""
    assert without_password(text) == expected


def test_no_artifact_records_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the command nor the configuration of a run's metadata holds it."""
    monkeypatch.setattr(sys, "argv", ["nextbar", "train", "rf", "--db", URL, f"--db={URL}"])
    told = json.dumps(head(TrainConfig(db=URL), threads=1))
    assert "s3cret" not in told
    assert told.count("me@host:5432/market") == 3


def test_no_message_tells_a_password(market_db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL that is none, an empty database, an unknown ticker and an old bar are named without it."""
    with pytest.raises(DatabaseError) as wrong:
        locate("postgresql://me:s3cret@host:port/market")
    messages = [str(wrong.value), empty_database(URL)]
    monkeypatch.setattr("nextbar.workflows.update.DataAccessLayer", lambda _db: DataAccessLayer(market_db))
    with pytest.raises(UnknownTickerError) as unknown:
        check_stored(URL, tickers=["NONE"])
    bars = load_universe(TrainConfig(db=str(market_db), ticker="AAA")).bars["AAA"]
    now = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    with pytest.raises(BadBarsError) as stale:
        _fresh_day("AAA", bars, PredictConfig(db=URL), now)
    for message in (*messages, str(unknown.value), str(stale.value)):
        assert "me@host" in message
        assert "s3cret" not in message


@pytest.fixture
def run_of(trained_trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Function that gives the metadata of a run that records a database; the current folder is an empty one."""
    home = Path(shutil.copytree(trained_trees, tmp_path / "m"))
    monkeypatch.chdir(home)

    def record(db: str) -> Path:
        (path,) = home.glob("xgboost_*_metadata.json")
        metadata = json.loads(path.read_text())
        path.write_text(json.dumps(metadata | {"config": metadata["config"] | {"db": db}}))
        return path

    return record


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every database that is opened."""
    found: list[str] = []
    monkeypatch.setattr(
        "nextbar.workflows.universe.DataAccessLayer",
        lambda db, **options: found.append(db) or DataAccessLayer(db, **options),
    )
    return found


RECORDED = [
    URL,
    "postgresql://evil.example/m?sslmode=disable",
    "sqlite:////elsewhere/m.db?mode=rwc&uri=true",
    "/elsewhere/market.db",
    "../market.db",
    "demo/market.db",
    "//server/share/market.db",
    "file:market.db?vfs=other",
    "data/../data/market.db",
    "a b; rm -rf x\x1b[31m",
]


@pytest.mark.parametrize("recorded", RECORDED, ids=range(len(RECORDED)))
@pytest.mark.parametrize("use", ["reproduce", "certify"])
def test_a_database_that_a_file_names_is_not_opened(
    use: str, recorded: str, run_of: Any, opened: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever wrote the file would choose who gets PGPASSWORD: the default one is read, and the message says more."""
    command = {"reproduce": ["reproduce"], "certify": ["certify", "xgb", "--artifact"]}[use]
    with pytest.raises(SystemExit) as stopped:
        main([*command, str(run_of(recorded))])
    assert stopped.value.code == 2
    assert opened == ["data/market.db"]
    told = capsys.readouterr().err.splitlines()[-1]
    assert "there is no database data/market.db" in told
    shown = shlex.split(told.partition("add: ")[2].partition(" (no run")[0])
    assert shown == ["--db", without_password(recorded) if recorded.isprintable() else ascii(recorded)]
    assert ("PGPASSWORD" in told) == ("://" in recorded)
    assert "s3cret" not in told
    assert "\x1b" not in told


@pytest.mark.parametrize("recorded", RECORDED, ids=range(len(RECORDED)))
@pytest.mark.parametrize("place", [{}, {"db": None}], ids=["no db", "db None"])
def test_nor_is_it_opened_from_python(place: dict[str, None], recorded: str, run_of: Any, opened: list[str]) -> None:
    """Without a database the default one is read."""
    path = run_of(recorded)
    for use in (reproduce, lambda path, progress, **place: certify_runs([path], progress, **place)):
        with pytest.raises(DatabaseError, match=r"there is no database data/market\.db.*add: --db "):
            use(path, Silent(), **place)
    assert opened == ["data/market.db"] * 2


def test_the_default_database_is_named_where_it_lacks_the_ticker(
    run_of: Any, make_database: Any, make_bars: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message names the recorded one, which may hold it."""
    path = run_of("demo/market.db")
    Path("data").mkdir()
    make_database(Path("data/market.db"), {"ZZZ": make_bars(300)})
    with pytest.raises(SystemExit) as stopped:
        main(["reproduce", str(path)])
    assert stopped.value.code == 2
    assert re.search(
        r"no bars of AAA.* the run used the database demo/market\.db; .*add: --db demo/market\.db", err(capsys)
    )


def test_other_bars_in_the_default_database_are_told_apart(
    run_of: Any, make_database: Any, make_bars: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are another database's, not a revision; `certify` says so, too."""
    path = run_of("demo/market.db")
    Path("data").mkdir()
    make_database(Path("data/market.db"), {"AAA": make_bars(640, seed=99)})
    with pytest.raises(SystemExit) as stopped:
        main(["reproduce", str(path)])
    assert stopped.value.code == 1
    assert "add: --db demo/market.db" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        main(["certify", "xgb", "--artifact", str(path)])
    assert stopped.value.code == 2
    assert "add: --db demo/market.db" in err(capsys)


def test_the_default_database_counts_when_it_is_typed(
    run_of: Any, opened: list[str], market_db: Path, inline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--db data/market.db` reads that one, whatever the run names."""
    path = run_of(URL)
    Path("data").mkdir()
    shutil.copy(market_db, "data/market.db")
    for command in (["reproduce", str(path)], ["certify", "xgb", "--artifact", str(path)]):
        with pytest.raises(SystemExit) as stopped:
            main([*command, "--db", "data/market.db"])
        assert not stopped.value.code
    assert set(opened) == {"data/market.db"}


@pytest.mark.parametrize(
    "command",
    [
        ["train", "xgb"],
        ["walkforward", "--model", "xgb"],
        ["certify", "xgb"],
        ["reproduce", "RUN"],
        ["predict", "RUN"],
        ["check"],
    ],
    ids=" ".join,
)
def test_the_environment_names_the_database(
    command: list[str], run_of: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """NEXTBAR_DB where `--db` is not typed."""
    command = [word.replace("RUN", str(run_of("demo/market.db"))) for word in command]
    monkeypatch.setenv("NEXTBAR_DB", "from/environment.db")
    for options, named in (([], "from/environment.db"), (["--db", "typed.db"], "typed.db")):
        with pytest.raises(SystemExit) as stopped:
            main([*command, *options])
        assert stopped.value.code == 2
        assert f"there is no database {named}" in err(capsys)


def err(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err
