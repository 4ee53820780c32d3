"""The trial ledger: every configuration that was ever scored on some days, with what it earned on them.

The best of many tries looks good by luck, so the tries are counted where the user cannot forget them: one SQLite file
per user. A trial is a configuration; it holds daily returns per ticker. Scoring the same configuration again adds days
to its trial, not a trial.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import sqlite3
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from platformdirs import user_state_path

from nextbar.errors import ArtifactError, OutputError
from nextbar.types import DateArray, JsonDict

VARIABLE = "NEXTBAR_LEDGER"
WAIT_SECONDS = 60.0
"""For another process that writes."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS trials (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, model TEXT NOT NULL, config TEXT NOT NULL, recorded TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS returns (
    trial TEXT NOT NULL REFERENCES trials, ticker TEXT NOT NULL, first TEXT NOT NULL, last TEXT NOT NULL,
    content BLOB NOT NULL, PRIMARY KEY (trial, ticker));
"""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One configuration and what it earned.

    Attributes:
        id: Digest of everything that makes it another configuration.
        kind: ``train`` or ``walkforward``.
        model: Kind of model.
        config: Its options.
        returns: Ticker → daily returns after costs: columns ``net`` and ``excess`` (over a constant position of equal
            exposure), index the scored days.
        recorded: When days were added to it last, UTC.
    """

    id: str
    kind: str
    model: str
    config: JsonDict
    returns: Mapping[str, pd.DataFrame]
    recorded: str = ""


class Ledger:
    """The file, made when it is opened for the first time.

    Args:
        path: Where it is; None: the environment's ``NEXTBAR_LEDGER``, else the user's state folder.

    Raises:
        OutputError: It cannot be made or opened.
        ArtifactError: It is another kind of file.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        chosen = path or os.environ.get(VARIABLE)
        self.path = Path(chosen) if chosen else user_state_path("nextbar", appauthor=False) / "ledger.db"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.path.parent}: cannot be made ({error.strerror}); see --ledger") from error
        with self._transaction() as connection:
            for statement in _SCHEMA.strip().split(";\n"):
                connection.execute(statement)

    def record(self, trial: Trial) -> None:
        """Add a trial, or its days that are not there yet: whoever looks at an old run again changes nothing."""
        now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        head = (trial.id, trial.kind, trial.model, json.dumps(trial.config), now)
        with self._transaction() as connection:
            query = "SELECT ticker, content FROM returns WHERE trial = ?"
            kept = {ticker: _decode(content) for ticker, content in connection.execute(query, (trial.id,))}
            for ticker, scored in trial.returns.items():
                days = kept[ticker].combine_first(scored) if ticker in kept else scored
                if ticker not in kept or len(days) > len(kept[ticker]):
                    connection.execute("INSERT OR REPLACE INTO trials VALUES (?, ?, ?, ?, ?)", head)
                    row = (trial.id, ticker, *_span(days), _encode(days))
                    connection.execute("INSERT OR REPLACE INTO returns VALUES (?, ?, ?, ?, ?)", row)

    def trials(self) -> list[Trial]:
        """All of them, the latest first."""
        with self._transaction() as connection:
            heads = connection.execute("SELECT id, kind, model, config, recorded FROM trials").fetchall()
            rows = connection.execute("SELECT trial, ticker, content FROM returns ORDER BY ticker").fetchall()
        found = _assemble(heads, rows)
        return sorted(found, key=lambda trial: trial.recorded, reverse=True)

    def overlapping(self, days: Mapping[str, DateArray]) -> list[Trial]:
        """Trials scored on any of these days of the same ticker, with those days alone, ordered by id."""
        rows = []
        with self._transaction() as connection:
            for ticker, wanted in days.items():
                query = "SELECT trial, ticker, content FROM returns WHERE ticker = ? AND first <= ? AND last >= ?"
                rows += connection.execute(query, (ticker, str(wanted.max()), str(wanted.min()))).fetchall()
            heads = connection.execute("SELECT id, kind, model, config, recorded FROM trials ORDER BY id").fetchall()
        found = _assemble(heads, rows)
        cut = [_restricted(trial, days) for trial in found]
        return [trial for trial in cut if trial.returns]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """One transaction that starts by taking the write lock, so that nothing read in it goes stale."""
        try:
            connection = sqlite3.connect(self.path, timeout=WAIT_SECONDS, isolation_level=None)
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            finally:
                connection.close()
        except sqlite3.OperationalError as error:
            raise OutputError(f"{self.path}: the trial ledger cannot be used ({error}); see --ledger") from error
        except sqlite3.DatabaseError as error:
            raise ArtifactError(f"{self.path}: is not a trial ledger ({error}); name another with --ledger") from error


def _assemble(heads: list[tuple[str, ...]], rows: list[tuple[str, str, bytes]]) -> list[Trial]:
    by_trial: dict[str, dict[str, pd.DataFrame]] = {}
    for trial, ticker, content in rows:
        by_trial.setdefault(trial, {})[ticker] = _decode(content)
    return [
        Trial(id=key, kind=kind, model=model, config=json.loads(config), returns=by_trial[key], recorded=recorded)
        for key, kind, model, config, recorded in heads
        if key in by_trial
    ]


def _restricted(trial: Trial, days: Mapping[str, DateArray]) -> Trial:
    cut = {name: frame[frame.index.isin(pd.DatetimeIndex(days[name]))] for name, frame in trial.returns.items()}
    kept = {name: frame for name, frame in cut.items() if len(frame)}
    return Trial(**{**trial.__dict__, "returns": kept})


def _span(frame: pd.DataFrame) -> tuple[str, str]:
    return str(frame.index[0].date()), str(frame.index[-1].date())


def _encode(frame: pd.DataFrame) -> bytes:
    """Days since 1970 as int32, then both columns as float32."""
    days = frame.index.to_numpy().astype("datetime64[D]").astype(np.int32)
    return zlib.compress(days.tobytes() + frame[["net", "excess"]].to_numpy(np.float32).T.tobytes())


def _decode(content: bytes) -> pd.DataFrame:
    days, net, excess = np.frombuffer(zlib.decompress(content), dtype=np.int32).reshape(3, -1)
    index = pd.DatetimeIndex(days.astype("datetime64[D]").astype("datetime64[s]"), name="date")
    columns = {"net": net.view(np.float32), "excess": excess.view(np.float32)}
    return pd.DataFrame(columns, index=index).astype(np.float64)
