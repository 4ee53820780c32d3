"""A database's password reaches the database and nothing that is written or said."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from nextbar.artifacts.metadata import common
from nextbar.config import TrainConfig, without_password
from nextbar.errors import BadBarsError, DatabaseError, UnknownTickerError
from nextbar.market.access import DataAccessLayer
from nextbar.market.session import locate
from nextbar.pipelines.check import check
from nextbar.pipelines.predict import PredictRequest, _fresh_day
from nextbar.pipelines.recorded import load_recorded
from nextbar.pipelines.universe import load_universe, nothing_left

URL = "postgresql+psycopg://me:s3cret@host:5432/market"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (URL, "postgresql+psycopg://me@host:5432/market"),
        (f"--db={URL}", "--db=postgresql+psycopg://me@host:5432/market"),
        ("postgresql://me:p@s/s3cret@host/m", "postgresql://me@host/m"),
        ("postgresql:///m?user=me&password=s3cret&sslmode=require", "postgresql:///m?user=me&sslmode=require"),
        ("postgresql:///m?password=s3cret", "postgresql:///m?"),
        ("postgresql://me@host:5432/m", "postgresql://me@host:5432/m"),
        ("postgresql://host:5432/m", "postgresql://host:5432/m"),
        ("data/market.db", "data/market.db"),
        ("tcp://127.0.0.1:8786", "tcp://127.0.0.1:8786"),
    ],
)
def test_passwords_are_taken_out_of_urls(text: str, expected: str) -> None:
    """User, host and the rest stay, so that the URL works where PGPASSWORD is set."""
    assert without_password(text) == expected


def test_no_artifact_records_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the command nor the configuration of a run's metadata holds it."""
    monkeypatch.setattr(sys, "argv", ["nextbar", "train", "rf", "--db", URL, f"--db={URL}"])
    told = json.dumps(common(TrainConfig(db=URL), threads=1))
    assert "s3cret" not in told
    assert told.count("me@host:5432/market") == 3


def test_no_message_tells_a_password(market_db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL that is none, an empty database, an unknown ticker and an old bar are named without it."""
    with pytest.raises(DatabaseError) as wrong:
        locate("postgresql://me:s3cret@host:port/market")
    messages = [str(wrong.value), nothing_left({}, URL)]
    monkeypatch.setattr("nextbar.pipelines.check.DataAccessLayer", lambda _db: DataAccessLayer(market_db))
    with pytest.raises(UnknownTickerError) as unknown:
        check(URL, tickers=["NONE"])
    bars = load_universe(TrainConfig(db=str(market_db), ticker="AAA")).bars["AAA"]
    now = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    with pytest.raises(BadBarsError) as stale:
        _fresh_day("AAA", bars, PredictRequest(models=[], db=URL, journal=Path("j"), now=now))
    for message in (*messages, str(unknown.value), str(stale.value)):
        assert "me@host" in message
        assert "s3cret" not in message


def test_a_run_without_its_password_says_what_to_do(
    trained_trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reproducing a run of a server's bars names --db and PGPASSWORD when the server refuses."""
    (path,) = Path(shutil.copytree(trained_trees, tmp_path / "m")).glob("xgboost_*_metadata.json")
    metadata = json.loads(path.read_text())
    path.write_text(json.dumps(metadata | {"config": metadata["config"] | {"db": without_password(URL)}}))

    def refuse(config: TrainConfig, **_options: Any) -> None:
        raise DatabaseError(f"{config.db}: fe_sendauth: no password supplied")

    monkeypatch.setattr("nextbar.pipelines.recorded.load_universe", refuse)
    with pytest.raises(DatabaseError, match=r"no password supplied; no run records a password: name --db .*PGPASSWORD"):
        load_recorded(path)
