"""Bars, databases and engines that several tests share; everything random comes from a stated seed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import settings

from nextbar.config import TrainConfig
from nextbar.datasets.samples import usable_rows
from nextbar.errors import NextbarError
from nextbar.evaluation import probe
from nextbar.execution.engine import Engine, Outcome, engines_by
from nextbar.execution.fresh import Answer
from nextbar.runs.files import run_stem, stem_of
from nextbar.types import Border, FeatureTable, JsonDict, Silent
from nextbar.workflows.train import train

os.environ.pop("COLUMNS", None)  # pytest-xdist sets it, and tables would be as narrow as that
_COMPILED = None if "JAX_COMPILATION_CACHE_DIR" in os.environ else tempfile.mkdtemp(prefix="compiled-")
if _COMPILED is not None:  # all processes of a run of the tests compile a program once
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _COMPILED
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

MakeBars = Callable[..., pd.DataFrame]
MakeDatabase = Callable[..., Path]
INSERT = (
    "INSERT INTO stock_prices (ticker, date, open, high, low, close, adj_close, volume) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)


def synthetic_bars(
    count: int, *, seed: int = 0, start: str = "2010-01-04", split_at: int | None = None
) -> pd.DataFrame:
    """A random walk with a little momentum on business days, quoted, with ``Adj`` adjusted back for a 2:1 split.

    Args:
        count: Bars.
        seed: Of the walk.
        start: First day.
        split_at: Row from which on the quoted prices are halved; None: there is no split.
    """
    rng = np.random.default_rng(seed)
    noise = rng.normal(0.0003, 0.01, count + 1)
    price = 100 * np.exp(np.cumsum(noise[1:] + 0.2 * noise[:-1]))
    before_split = np.zeros(count, dtype=bool) if split_at is None else np.arange(count) < split_at
    close = np.where(before_split, price, price / (1 if split_at is None else 2))
    opened = close * np.exp(rng.normal(0, 0.003, count))
    spread = close * np.abs(rng.normal(0, 0.004, count))
    frame = pd.DataFrame(
        {
            "Open": opened,
            "High": np.maximum(opened, close) + spread,
            "Low": np.minimum(opened, close) - spread,
            "Close": close,
            "Volume": rng.integers(1_000, 9_000, count).astype(float),
            "Adj": np.where(before_split, close / 2, close) * 0.75,
        }
    )
    return frame.set_index(pd.bdate_range(start, periods=count, name="Date", unit="s"))


def write_database(path: Path, bars: Mapping[str, pd.DataFrame], *, tickers: Sequence[str] | None = None) -> Path:
    """A database with the two tables, made with plain sqlite3; ``tickers`` are listed (default: those with bars)."""
    path.unlink(missing_ok=True)
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE tickers (id INTEGER PRIMARY KEY, ticker TEXT, name TEXT, sector TEXT)")
        connection.execute(
            "CREATE TABLE stock_prices (id INTEGER PRIMARY KEY, ticker TEXT, date TEXT, open REAL, high REAL, low REAL,"
            " close REAL, adj_close REAL, volume INTEGER)"
        )
        names = list(bars) if tickers is None else tickers
        connection.executemany("INSERT INTO tickers (ticker) VALUES (?)", [(name,) for name in names])
        for name, frame in bars.items():
            days = frame.index.strftime("%Y-%m-%d")
            columns = [frame[column].tolist() for column in ("Open", "High", "Low", "Close", "Adj", "Volume")]
            connection.executemany(INSERT, zip([name] * len(frame), days, *columns, strict=True))
    connection.close()
    return path


class InlineEngine:
    """Runs tasks in this process, in order: for tests of what is done with outcomes, not of how they are made."""

    ran: list[Any]
    batches: list[int] = []  # noqa: RUF012 - shared by all

    def __init__(self, **_options: Any) -> None:
        self.options = _options

    def n_jobs(self, _tasks: int) -> int:
        """One core."""
        return 1

    def fresh(self, module: str, jobs: Sequence[bytes], *, seconds: float) -> Iterator[Answer]:
        """Answers of processes that agree, where two would fit the same; real processes for a user's functions."""
        if module == probe.__name__:
            return iter([Answer(job=job, content=b"same") for job, _ in enumerate(jobs)])
        return Engine(**self.options).fresh(module, jobs, seconds=seconds)

    def run(
        self,
        function: Any,
        tasks: Sequence[Any],
        shared: Any,
        on_note: Any = None,
        batch_size: int = 1,
    ) -> Iterator[Outcome[Any, Any]]:
        """One outcome per task."""
        InlineEngine.batches.append(batch_size)
        tell = on_note or (lambda _task, _note: None)
        for task in tasks:
            InlineEngine.ran.append(task)
            ended: dict[str, Any] = {"result": None, "reason": None, "trace": None, "seconds": 0.0, "stages": {}}
            try:
                ended["result"] = function(task, shared, lambda line, task=task: tell(task, line))
            except NextbarError as error:
                ended["reason"] = str(error)
            except Exception as error:
                ended |= {"reason": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
            yield Outcome(task=task, **ended)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Refuse bytes without an id of their own: an archive holds the time, and pytest-xdist's workers would disagree."""
    if isinstance(val, bytes):
        raise pytest.UsageError(f"the bytes {val[:20]!r} of {argname} would name a test; give ids=[…]")
    return None


def pytest_unconfigure() -> None:
    """Remove the compiled programs, in the process that made their folder."""
    if _COMPILED is not None:
        shutil.rmtree(_COMPILED, ignore_errors=True)


# No test asserts a time: a slow machine must not fail a property.
settings.register_profile("nextbar", deadline=None)
settings.load_profile("nextbar")


@pytest.fixture(autouse=True, scope="session")
def own_ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Runs of the tests are no trials of whoever runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEXTBAR_LEDGER", str(tmp_path_factory.mktemp("ledger") / "ledger.db"))
        yield


@pytest.fixture(scope="session")
def make_bars() -> MakeBars:
    """Function that makes synthetic quoted bars, see `synthetic_bars`."""
    return synthetic_bars


@pytest.fixture(scope="session")
def make_database() -> MakeDatabase:
    """Function that writes a database, see `write_database`."""
    return write_database


@contextmanager
def inline_engine() -> Iterator[type[InlineEngine]]:
    """Pipelines run their folds in this process, with small forests; `InlineEngine.ran` lists the tasks."""
    from nextbar.models import random_forest, xgboost

    InlineEngine.ran, InlineEngine.batches = [], []
    with pytest.MonkeyPatch.context() as patch, engines_by(InlineEngine):
        for model in (random_forest, xgboost):
            patch.setitem(model.SPACE, "n_estimators", [10, 20])
            patch.setitem(model.DEFAULT, "n_estimators", 20)
        yield InlineEngine


@pytest.fixture
def inline() -> Iterator[type[InlineEngine]]:
    """See `inline_engine`."""
    with inline_engine() as engine:
        yield engine


@pytest.fixture(scope="module")
def inline_module() -> Iterator[type[InlineEngine]]:
    """The same for all tests of a module."""
    with inline_engine() as engine:
        yield engine


@pytest.fixture(scope="session")
def make_table() -> Callable[..., FeatureTable]:
    """Function that makes a feature table whose features are simply the close and its row number."""

    def table(close: Sequence[float], *, dates: Any = None, warmup: int = 0, max_gap_days: int = 15) -> FeatureTable:
        prices = np.asarray(close, dtype=np.float64)
        rows = np.arange(len(prices))
        days = np.datetime64("2020-01-01") + rows if dates is None else np.asarray(dates, dtype="datetime64[D]")
        return FeatureTable(
            ticker="T",
            dates=days,
            features=np.column_stack([prices, rows.astype(np.float64)]),
            columns=("Close", "Row"),
            close=prices,
            open=prices,
            quote=np.ones_like(prices),
            usable=usable_rows(days, warmup=warmup, max_gap_days=max_gap_days),
            max_gap_days=max_gap_days,
        )

    return table


@pytest.fixture(scope="session")
def make_certificate() -> Callable[..., Path]:
    """Function that writes a certificate with a verdict beside a run, about its document as it is or of a digest."""

    def write(mark: Path, verdict: str, digest: str | None = None) -> Path:
        path = mark.with_name(run_stem(stem_of(mark)) + "_certificate.json")
        certifies = {mark.name: digest or hashlib.sha256(mark.read_bytes()).hexdigest()}
        path.write_text(json.dumps({"schema_version": 2, "verdict": verdict, "certifies": certifies}))
        return path

    return write


@pytest.fixture(scope="session")
def make_border() -> Callable[[int, int, int, int], Border]:
    """Border from four numbers."""
    return lambda train, val, test, end: Border(train=train, val=val, test=test, end=end)


@pytest.fixture(scope="session")
def market_bars() -> dict[str, pd.DataFrame]:
    """Quoted bars of four tickers: two whole ones (AAA splits 2:1), an index with a strange name, and a short one."""
    return {
        "AAA": synthetic_bars(640, seed=1, split_at=500),
        "BBB": synthetic_bars(640, seed=2),
        "^GSPC": synthetic_bars(560, seed=3, start="2010-05-03"),
        "TINY": synthetic_bars(90, seed=4),
    }


@pytest.fixture(scope="session")
def market_db(tmp_path_factory: pytest.TempPathFactory, market_bars: dict[str, pd.DataFrame]) -> Path:
    """Database of `market_bars`; EMPTY is listed and has no bars."""
    path = tmp_path_factory.mktemp("market") / "market.db"
    return write_database(path, market_bars, tickers=[*market_bars, "EMPTY"])


@pytest.fixture(scope="session")
def plain_document() -> Callable[..., JsonDict]:
    """Function that gives the JSON of a walk-forward without folds, with what is to be different in it."""
    head = {"schema_version": 2, "rules": 2, "kind": "walkforward", "created": "2026-01-02T03:04:05+00:00"}
    machine = {"python": "3.11", "platform": "Linux", "cpu": "", "cores": 2, "threads": 1, "keras_backend": "jax"}
    features = {"columns": ["Close"], "function": None, "warmup": 200, "warmup_error": {}}
    figures: JsonDict = {name: {} for name in ("pooled", "baselines", "one_bar_late", "next_open", "per_ticker")}
    lists: JsonDict = {name: [] for name in ("command", "tickers", "skipped", "remarks", "data_errors", "folds")}
    tables: JsonDict = {name: {} for name in ("config", "data", "holes", "ended", "seconds")}
    plain: JsonDict = {**head, **figures, **lists, **tables, "seed": 42, "model": "rf", "features": features}
    return lambda **changes: plain | {"environment": {**machine, "versions": {}}, "periods_per_year": 252.0} | changes


@pytest.fixture(scope="session")
def child_env() -> dict[str, str]:
    """Environment for subprocesses: warnings as they are, no colours, no terminal."""
    return {**os.environ, "NO_COLOR": "1", "COLUMNS": "160", "PYTHONWARNINGS": "default", "KERAS_BACKEND": "jax"}


@pytest.fixture(scope="session")
def trained_trees(tmp_path_factory: pytest.TempPathFactory, market_db: Path) -> Path:
    """Folder with a forest and an XGBoost of AAA, trained on `market_db`; copy it before you change anything."""
    return _train_into(tmp_path_factory.mktemp("trees"), market_db, {"rf": {"no_tune": True}, "xgb": {"no_tune": True}})


@pytest.fixture(scope="session")
def trained_lstm(tmp_path_factory: pytest.TempPathFactory, market_db: Path) -> Path:
    """Folder with an LSTM of AAA and BBB, trained on `market_db`; copy it before you change anything."""
    return _train_into(
        tmp_path_factory.mktemp("lstm"), market_db, {"lstm": {"ticker": "AAA,BBB", "epochs": 1, "sequence_length": 5}}
    )


def _train_into(folder: Path, db: Path, models: Mapping[str, Mapping[str, Any]]) -> Path:
    InlineEngine.ran = []
    with engines_by(InlineEngine):
        for model, options in models.items():
            config = TrainConfig(**{"model": model, "ticker": "AAA", "db": str(db), "save_dir": str(folder), **options})
            train(config, Silent())
    return folder
