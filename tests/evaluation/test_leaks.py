"""A matrix of planted leaks: each is found by leaving bars out, or by what it reads, and honest features never are."""

from __future__ import annotations

import os
import pickle
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nextbar.config import CommonConfig
from nextbar.evaluation import reads
from nextbar.evaluation.reads import Reads, answer_of, is_import, is_inside, name_of
from nextbar.evaluation.stages import first_difference
from nextbar.evaluation.truncation import DRAWN, LEAST, Cut, Source, Truncation, choose_cuts, truncate
from nextbar.execution.fresh import Answer, run_fresh
from nextbar.features.spec import FeatureSpec
from nextbar.market.ingest import ingest
from nextbar.market.sources.files import read_files
from nextbar.types import Silent
from nextbar.workflows.universe import load_universe

Function = Callable[[pd.DataFrame], Any]
GAP = 15


def volatile_bars(seed: int, count: int = 600) -> pd.DataFrame:
    """A random walk of 1.5 % a day: its return is between -5 % and -2.5 % on 4.7 % of the days."""
    random = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(random.normal(0.0003, 0.015, count)))
    opened = close * np.exp(random.normal(0, 0.004, count))
    spread = close * np.abs(random.normal(0, 0.005, count))
    bars = {
        "Open": opened,
        "High": np.maximum(opened, close) + spread,
        "Low": np.minimum(opened, close) - spread,
        "Close": close,
        "Volume": random.integers(1_000, 9_000, count).astype(float),
    }
    return pd.DataFrame(bars, index=pd.bdate_range("2010-01-04", periods=count, name="Date", unit="s"))


def next_return(bars: pd.DataFrame) -> pd.Series:
    return bars["Close"].shift(-1) / bars["Close"] - 1


def cached(key: Callable[[pd.DataFrame], Any], function: Function) -> Function:
    """Keep what the function gave for each key."""
    store: dict[Any, pd.DataFrame] = {}

    def remembering(bars: pd.DataFrame) -> Any:
        if key(bars) not in store:
            store[key(bars)] = pd.DataFrame({"x": function(bars)})
        return store[key(bars)]["x"].reindex(bars.index)

    return remembering


def z_score(bars: pd.DataFrame) -> pd.Series:
    return (bars["Close"] - bars["Close"].mean()) / bars["Close"].std()


def future_drawdown(bars: pd.DataFrame) -> pd.Series:
    lowest_ahead = bars["Close"][::-1].cummin()[::-1]
    return (lowest_ahead / bars["Close"] - 1 < -0.05).astype(float)


def known_late(bars: pd.DataFrame) -> pd.Series:
    """Tomorrow's return in the last quarter of the history alone."""
    return next_return(bars).where(bars.index >= pd.Timestamp("2011-10-01"), 0.0)


def low_pass(bars: pd.DataFrame) -> np.ndarray:
    spectrum = np.fft.rfft(bars["Close"].to_numpy())
    spectrum[20:] = 0
    return np.fft.irfft(spectrum, len(bars))


def trend(bars: pd.DataFrame) -> np.ndarray:
    rows = np.arange(len(bars))
    return bars["Close"].to_numpy() - np.polyval(np.polyfit(rows, bars["Close"], 1), rows)


LEAKS: dict[str, Callable[[], Function]] = {
    "dip": lambda: lambda bars: (next_return(bars) < -0.02).astype(float),
    "dip2": lambda: lambda bars: next_return(bars).between(-0.05, -0.025).astype(float),
    "quiet_day": lambda: lambda bars: (next_return(bars).abs() < 0.0008).astype(float),
    "month_end": lambda: lambda bars: np.append(bars.index.month[1:] != bars.index.month[:-1], [False]).astype(float),
    "days_to_next_bar": lambda: lambda bars: np.append(np.diff(bars.index.to_numpy()).astype(float), [0.0]),
    "rows_left": lambda: lambda bars: np.arange(len(bars))[::-1].astype(float),
    "span_cache": lambda: cached(lambda bars: (bars.index[0], bars.index[-1], len(bars)), z_score),
    "centred_mean": lambda: lambda bars: bars["Close"].rolling(5, center=True).mean(),
    "backward_fill": lambda: lambda bars: bars["Close"].where(bars.index.day_of_week == 4).bfill(),
    "interpolation": lambda: lambda bars: bars["Close"].where(bars.index.day_of_week == 4).interpolate(),
    "week_close": lambda: lambda bars: bars["Close"].groupby(bars.index.to_period("W")).transform("last"),
    "full_z_score": lambda: z_score,
    "full_quantile": lambda: lambda bars: (bars["Volume"] > bars["Volume"].quantile(0.9)).astype(float),
    "full_rank": lambda: lambda bars: bars["Close"].rank(pct=True),
    "relative_to_the_last": lambda: lambda bars: bars["Close"] / bars["Close"].iloc[-1],
    "next_open": lambda: lambda bars: bars["Open"].shift(-1),
    "next_volume_sign": lambda: lambda bars: np.sign(bars["Volume"].shift(-1) - bars["Volume"]),
    "future_drawdown": lambda: future_drawdown,
    "last_quarter": lambda: known_late,
    "low_pass": lambda: low_pass,
    "trend": lambda: trend,
}
CLEAN: dict[str, Function] = {
    "rolling": lambda bars: bars["Close"].rolling(20).std(),
    "ewm": lambda bars: bars["Close"].ewm(span=30, adjust=False).mean(),
    "expanding": lambda bars: bars["Close"].expanding().quantile(0.9),
    "shift": lambda bars: bars["Close"] / bars["Close"].shift(5) - 1,
    "month_so_far": lambda bars: (
        bars["Close"].groupby(bars.index.month).transform(lambda part: part.expanding().mean())
    ),
    "weekday": lambda bars: bars.index.day_of_week.astype(float),
    "business_month_end": lambda bars: ((bars.index + pd.offsets.BDay()).month != bars.index.month).astype(float),
    "days_since_last_bar": lambda bars: np.insert(np.diff(bars.index.to_numpy()).astype(float), 0, 0.0),
    "drawdown_so_far": lambda bars: bars["Close"] / bars["Close"].cummax() - 1,
    "rolling_rank": lambda bars: bars["Volume"].rolling(60).rank(pct=True),
    "rolling_correlation": lambda bars: bars["Close"].pct_change().rolling(30).corr(bars["Volume"].pct_change()),
    "logarithm": lambda bars: np.log(bars["High"] / bars["Low"]),
    "forward_fill": lambda bars: bars["Close"].where(bars.index.day_of_week == 4).ffill(),
    "needs_a_year": lambda bars: bars["Close"].shift(252) if len(bars) > 252 else 1 / 0,
}


def try_out(function: Function, bars: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> Truncation:
    """What leaving bars out shows about a function."""
    planted = SimpleNamespace(function=lambda frame: pd.DataFrame({"x": np.asarray(function(frame))}, frame.index))
    monkeypatch.setitem(sys.modules, "planted", planted)
    spec = FeatureSpec(functions=("planted:function",), sets=())
    return truncate(source_of(bars, spec), seconds=600)


def source_of(bars: pd.DataFrame, spec: FeatureSpec, ticker: str = "AAA") -> Source:
    return Source(ticker=ticker, frame=bars, spec=spec, max_gap_days=GAP)


@pytest.mark.parametrize("leak", LEAKS)
def test_leak_is_found_and_named(leak: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features on the bars up to a day differ from those on all bars: the column, a day, and both values are named."""
    found = try_out(LEAKS[leak](), volatile_bars(1), monkeypatch)
    finding = found.finding()
    assert (finding.verdict, finding.part, finding.column) == ("FAIL", "truncation", "x")
    assert str(finding.row) < finding.border
    assert " instead of " in finding.note


def shows(function: Function, seed: int) -> bool:
    """Whether a function moves on one of the days that would be tried, up to the first."""
    bars = volatile_bars(seed)
    table = lambda part: pd.DataFrame({"x": np.asarray(function(part))})  # noqa: E731
    whole = table(bars)
    rows = [cut.row + 1 for cut in choose_cuts(bars, 200)]
    return any(first_difference(table(bars.iloc[:count]), whole.head(count)) for count in rows)


@pytest.mark.slow
@pytest.mark.parametrize("leak", LEAKS)
def test_leak_is_found_on_nearly_every_history(leak: str) -> None:
    """Of 200 histories at least 198 show the leak."""
    assert sum(shows(LEAKS[leak](), seed) for seed in range(200)) >= 198


@pytest.mark.slow
@pytest.mark.parametrize("feature", [name for name in CLEAN if name != "needs_a_year"])
def test_honest_feature_is_blamed_on_no_history(feature: str) -> None:
    """Of 20 histories none shows a difference."""
    assert sum(shows(CLEAN[feature], seed) for seed in range(20)) == 0


@pytest.mark.parametrize("feature", CLEAN)
def test_honest_feature_is_not_blamed(feature: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What looks back alone, or knows the calendar in advance, moves on no day; every planned day is accounted for."""
    found = try_out(CLEAN[feature], volatile_bars(1), monkeypatch)
    assert found.finding().verdict == "PASS", found.finding().note
    assert (found.moved, found.tried + found.refused) == (0, found.planned)


def test_function_that_remembers_its_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache without a length hides a leak from comparisons inside one process, not from the run's features."""
    bars = volatile_bars(1)
    in_the_run = try_out(z_score, bars, monkeypatch)
    found = try_out(cached(lambda bars: bars.index[0], z_score), bars, monkeypatch)
    assert found.finding().verdict == "PASS"
    assert found.finding(found.features).verdict == "PASS"
    assert found.finding(in_the_run.features).verdict == "FAIL"
    assert "remembers" in found.finding(in_the_run.features).note


@pytest.mark.realdata
def test_built_in_features_of_forty_tickers(tmp_path: Path) -> None:
    """No false alarm on any of the forty tickers of `us40`, each tried on about 300 days."""
    path = Path(os.environ.get("NEXTBAR_REAL_DATA", ""), "us40_raw_adj_1999_2021.parquet")
    if not path.exists():
        pytest.skip(f"NEXTBAR_REAL_DATA names no folder with {path.name}")
    ingest(read_files(path, Silent(), kind="parquet"), tmp_path / "us40.db", progress=Silent())
    found = [
        truncate(source_of(item.frame, FeatureSpec(), name), seconds=600)
        for name, item in load_universe(CommonConfig(db=str(tmp_path / "us40.db"))).bars.items()
    ]
    assert len(found) == 40
    assert [result.ticker for result in found if result.moved or result.tried < DRAWN] == []


def test_days_that_are_tried() -> None:
    """200 days at random, the largest moves up and down, ends of months and the last days; the same every time."""
    bars = volatile_bars(3, 1500)
    cuts = choose_cuts(bars, 200)
    rows = {cut.row for cut in cuts}
    move = next_return(bars)[200:-1]
    largest = [move.nsmallest(25), move.nlargest(25), move[move.abs().nlargest(50).index]]
    assert cuts == choose_cuts(bars, 200)
    assert len(rows) == len(cuts)
    assert sum(cut.drawn for cut in cuts) == DRAWN
    assert min(rows) >= 200
    assert max(rows) == len(bars) - 2
    assert rows >= set(range(len(bars) - 11, len(bars) - 1))
    assert all(rows >= set(bars.index.get_indexer(some.index)) for some in largest)
    assert sum(bars.index[row].month != bars.index[row + 1].month for row in rows) >= 50
    assert abs(sum(cut.drawn for cut in cuts[:100]) - 50) <= 1


def test_short_history_is_tried_whole() -> None:
    """With fewer days than are needed every day is tried, which is complete."""
    bars = volatile_bars(4, 260)
    cuts = choose_cuts(bars, 200)
    result = truncate(source_of(bars, FeatureSpec()), seconds=600)
    assert sorted(cut.row for cut in cuts) == list(range(200, 259))
    assert (result.tried, result.finding().verdict) == (59, "PASS")


def test_time_that_runs_out_is_incomplete(monkeypatch: pytest.MonkeyPatch) -> None:
    """With fewer than 100 days tried nothing is certified, and the line says how many there were and what to do."""
    monkeypatch.setitem(sys.modules, "planted", SimpleNamespace(function=lambda bars: bars[["Volume"]]))
    source = source_of(volatile_bars(5), FeatureSpec(functions=("planted:function",)))
    cuts = choose_cuts(source.frame, 200)
    none = truncate(source, seconds=0)
    few = truncate(source, cuts=cuts[: LEAST - 1], seconds=600)
    enough = truncate(source, cuts=cuts[:LEAST], seconds=600)
    assert [result.finding().verdict for result in (none, few, enough)] == ["INCOMPLETE", "INCOMPLETE", "PASS"]
    assert "100 days are needed" in few.finding().note
    assert "raise --certify-seconds" in none.finding().note


def test_stated_share_is_that_of_the_days_drawn_at_random() -> None:
    """1 - 0.01^(1/n): 4.5 % for 100 days, 2.3 % for 200; None where none was drawn."""
    shares = [Truncation(ticker="AAA", drawn=drawn).share for drawn in (0, 100, 200)]
    assert shares == [None, pytest.approx(1 - 0.01 ** (1 / 100)), pytest.approx(0.0228, abs=1e-4)]
    note = Truncation(ticker="AAA", days=3069, tried=312, drawn=200).finding().note
    assert note == (
        "312 of 3,069 days tried without the bars after them, 200 of them at random: a leak that touches 2.3 % of the "
        "days or more is found in 99 of 100 cases, a rarer one may be missed"
    )


def test_calls_that_refuse_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that raises on short histories is not blamed; its error is told, and too few days are not enough."""

    def refusing(bars: pd.DataFrame) -> pd.Series:
        assert len(bars) > 590, "too short"
        return bars["Close"]

    found = try_out(refusing, volatile_bars(6), monkeypatch)
    assert found.tried < LEAST
    assert found.refused == found.planned - found.tried
    assert found.finding().verdict == "INCOMPLETE"
    assert "AssertionError: too short" in found.finding().note


def test_columns_that_depend_on_the_history(monkeypatch: pytest.MonkeyPatch) -> None:
    """A column that a shorter history does not have is a difference."""
    function = lambda bars: pd.DataFrame({f"year{len(bars) // 500}": bars["Close"]})  # noqa: E731
    monkeypatch.setitem(sys.modules, "planted", SimpleNamespace(function=function))
    spec, bars = FeatureSpec(functions=("planted:function",)), volatile_bars(7)
    result = truncate(source_of(bars, spec), cuts=[Cut(row=450, drawn=True)], seconds=600)
    assert result.moved == 1
    assert result.finding().verdict == "FAIL"


MODULES = {
    "all_kinds": """
import glob, os, socket, sqlite3, subprocess, urllib.request
from contextlib import suppress
from multiprocessing import shared_memory
import numpy as np, pandas as pd, pyarrow.csv, pyarrow.dataset, pyarrow.parquet
from nextbar.market.bars import DataAccessLayer

pd.read_csv("imported.csv")

def function(bars):
    sqlite3.connect("file:plain.db?mode=ro", uri=True).close()
    DataAccessLayer("market.db").close()
    with suppress(Exception):
        DataAccessLayer("postgresql://me:secret@127.0.0.1:9/prices")
    pd.read_parquet("pandas.parquet")
    pyarrow.parquet.read_table("table.parquet")
    pyarrow.dataset.dataset("dataset.parquet")
    pyarrow.csv.read_csv("arrow.csv")
    np.memmap("mapped.npy", mode="r")
    os.close(os.open("low.bin", os.O_RDONLY))
    os.listdir("listed")
    glob.glob("globbed/*.csv")
    open("both.txt", "r+").close()
    block = shared_memory.SharedMemory(create=True, size=8)
    block.close(), block.unlink()
    subprocess.run(["/bin/true"], check=True)
    with suppress(OSError):
        socket.create_connection(("127.0.0.1", 9), timeout=1)
    with suppress(OSError):
        urllib.request.urlopen("http://127.0.0.1:9/prices", timeout=1)
    return bars[["Volume"]]
""",
    "mapped_at_import": """
import pyarrow
TABLE = pyarrow.memory_map("hidden.bin").read()
def function(bars):
    return bars[["Volume"]] * len(TABLE)
""",
    "hidden_helper": """
import hidden_store
def function(bars):
    return bars[["Volume"]] * hidden_store.factor()
""",
    "swallows": """
import pyarrow
def function(bars):
    try:
        factor = len(pyarrow.OSFile("hidden.bin").read())
    except OSError:
        factor = 1
    return bars[["Volume"]] * factor
""",
    "innocent": """
import importlib.metadata, logging, tempfile, warnings, zoneinfo
from concurrent.futures import ThreadPoolExecutor
import numpy as np, pandas as pd, scipy.signal, sklearn.preprocessing
import innocent_helper
VERSION = importlib.metadata.version("numpy")
logging.basicConfig(filename="written.log")
def function(bars):
    warnings.warn("a line of this file is shown")
    logging.error("written, not read")
    zone = zoneinfo.ZoneInfo("Europe/Berlin")
    bars.index.tz_localize("UTC").tz_convert("America/New_York")
    tempfile.TemporaryFile().close()
    open("written.txt", "w").close()
    np.random.default_rng(), open("/dev/null").close()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(abs, [1, 2]))
    try:
        import no_such_module
    except ImportError:
        pass
    return innocent_helper.mean(bars)
""",
    "thread_pool": """
from multiprocessing.pool import ThreadPool
def function(bars):
    with ThreadPool(2) as pool:
        pool.map(abs, [1, 2])
    return bars[["Volume"]]
""",
    "process": """
import multiprocessing
def function(bars):
    process = multiprocessing.get_context("spawn").Process(target=print)
    process.start(), process.join()
    return bars[["Volume"]]
""",
    "disk_cache": """
import pathlib, pandas as pd
def function(bars):
    path = pathlib.Path(f"cache_{bars.index[0]:%Y%m%d}_{bars.index[-1]:%Y%m%d}_{len(bars)}.pkl")
    if not path.exists():
        pd.DataFrame({"x": bars["Close"] / bars["Close"].mean()}).to_pickle(path)
    return pd.read_pickle(path)
""",
    "leaves": "import sys\ndef function(bars):\n    sys.exit('enough')\n",
    "cannot_run_twice": """
import sys
assert not hasattr(sys, "was_here")
sys.was_here = True
def function(bars):
    return bars[["Volume"]]
""",
}
HELPERS = {
    "innocent_helper": "def mean(bars):\n    return bars[['Close']].rolling(5).mean().add_prefix('mean_')\n",
    "hidden_store": """
import functools, pyarrow
@functools.cache
def factor():
    return len(pyarrow.OSFile("hidden.bin").read())
""",
}
FILES = ("imported.csv", "arrow.csv", "plain.db", "low.bin", "both.txt", "mapped.npy", "hidden.bin")
PARQUETS = ("pandas", "table", "dataset")


def job_of(module: str) -> bytes:
    """A job as the pipeline sends it."""
    source = source_of(volatile_bars(8, 330), FeatureSpec(functions=(f"{module}:function",)), module)
    seconds = 2 if module in ("all_kinds", "process") else 60  # its calls are slow, and one of them is enough
    return pickle.dumps((source, seconds, False, [place for place in sys.path if place]))


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory, market_db: Path) -> dict[str, Answer]:
    """Each module of `MODULES`, tried in its own process in a folder that holds what it reads."""
    folder = tmp_path_factory.mktemp("user")
    for name, source in (MODULES | HELPERS).items():
        (folder / f"{name}.py").write_text(source)
    for name in FILES:
        (folder / name).write_text("a,b\n1,2\n")
    for name in PARQUETS:
        pd.DataFrame({"a": [1.0]}).to_parquet(folder / f"{name}.parquet")
    for name in ("listed", "globbed"):
        (folder / name).mkdir()
    (folder / "market.db").write_bytes(market_db.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        runpy.run_path("disk_cache.py")["function"](volatile_bars(8, 330))  # what the training run leaves behind
        patch.setattr(sys, "path", [place for place in sys.path if place not in ("", str(folder))])
        jobs = [job_of(module) for module in MODULES]
        answers = list(run_fresh(reads.__name__, jobs, at_once=2, seconds=300, threads=1))
    return {list(MODULES)[answer.job]: answer for answer in answers}


def result_of(answer: Answer) -> tuple[Truncation, Reads]:
    assert answer.content is not None, answer.reason
    return answer_of(answer.content)


@pytest.mark.parametrize(
    "name",
    [
        "imported.csv",
        "plain.db",
        "market.db",
        "postgresql+psycopg://me@127.0.0.1:9/prices",
        "pandas.parquet",
        "table.parquet",
        "dataset.parquet",
        "arrow.csv",
        "mapped.npy",
        "low.bin",
        "listed",
        "globbed",
        "both.txt",
        "/dev/shm/psm_",
        "subprocess.Popen /bin/true",
        "socket.connect ('127.0.0.1', 9)",
        "urllib.Request http://127.0.0.1:9/prices",
    ],
)
def test_every_read_is_named(name: str, tried: dict[str, Answer]) -> None:
    """Whichever library opens it, at import or in the function: the path, program or address is named, and fails."""
    _, read = result_of(tried["all_kinds"])
    assert any(Path(found).name == name or found.startswith(name) for found in read.names), read.names
    assert read.finding([]).verdict == "FAIL"


@pytest.mark.parametrize("module", ["mapped_at_import", "hidden_helper", "swallows"])
def test_read_without_an_event_is_found(module: str, tried: dict[str, Answer]) -> None:
    """What C++ opens without an event is missed when nothing can be opened, at import, behind a cache or a try."""
    _, read = result_of(tried[module])
    assert read.names == []
    assert read.without_descriptors
    assert read.finding([]).verdict == "FAIL"
    assert "hidden.bin" in read.finding([]).note or "returns other values" in read.finding([]).note


def test_innocent_code_is_not_blamed(tried: dict[str, Answer]) -> None:
    """Imports, time zones, warnings, logs, temporary files, threads and a helper module are no reads."""
    truncation, read = result_of(tried["innocent"])
    assert (read.names, read.hidden, read.without_descriptors) == ([], None, True)
    assert read.finding([]).verdict == "PASS"
    assert truncation.finding().verdict == "PASS"


@pytest.mark.parametrize("module", ["cannot_run_twice", "thread_pool"])
def test_run_without_descriptors_that_tells_nothing(module: str, tried: dict[str, Answer]) -> None:
    """Where a second import fails by itself, or threads need a pipe, nothing is concluded, and that is said."""
    _, read = result_of(tried[module])
    assert (read.without_descriptors, read.finding([]).verdict) == (False, "PASS")
    assert "was not looked for" in read.finding([]).note


def test_process_that_multiprocessing_starts_is_heard(tried: dict[str, Answer]) -> None:
    """Another process can read without an event here, and Python starts it without an event of its own."""
    _, read = result_of(tried["process"])
    assert f"nextbar.process {sys.executable}" in read.names


def test_cache_on_disk_hides_no_leak(tried: dict[str, Answer]) -> None:
    """A cache of the whole history, left by the training run, does not answer for its parts; and it is a read."""
    truncation, read = result_of(tried["disk_cache"])
    assert (truncation.moved, truncation.finding().verdict) == (truncation.tried, "FAIL")
    assert any("cache_20100104_" in name for name in read.names)


def test_exit_in_a_function_is_an_answer(tried: dict[str, Answer]) -> None:
    """A function that ends the program leaves the answer open, and its reason is told."""
    truncation, _ = result_of(tried["leaves"])
    assert truncation.reason == "SystemExit: enough"
    assert truncation.finding().verdict == "INCOMPLETE"


def test_reads_that_are_allowed(tmp_path: Path) -> None:
    """A named file, and all in a named folder, may be read; others are named; an address is typed as it is shown."""
    inside, beside = str(tmp_path / "data" / "a.csv"), str(tmp_path / "database.csv")
    read = Reads(ticker="AAA", names=[inside, beside, "socket.connect ('h', 1)"])
    assert read.finding([]).note.partition(";")[0].count("a.csv") == 1
    assert inside not in read.finding([str(tmp_path / "data")]).note
    assert read.finding([str(tmp_path / "data"), beside]).verdict == "FAIL"
    assert read.finding([str(tmp_path), "socket.connect ('h', 1)"]).verdict == "PASS"
    assert read.finding([str(tmp_path)]).verdict == "FAIL"


def test_allowed_folder_may_be_relative_or_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--allow-reads data` means the folder here, whichever way it is reached."""
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    read = Reads(ticker="AAA", names=[str(tmp_path / "data" / "a.csv")])
    assert read.finding(["data"]).verdict == "PASS"
    assert read.finding(["link"]).verdict == "PASS"
    assert read.finding(["dat"]).verdict == "FAIL"


@pytest.mark.parametrize(
    ("event", "arguments", "name"),
    [
        ("open", ("/a/b.csv", "r", os.O_RDONLY), "/a/b.csv"),
        ("open", (b"/a/b.csv", None, os.O_RDWR), "/a/b.csv"),
        ("open", ("/a/../c.csv", "r", os.O_RDONLY), "/c.csv"),
        ("open", ("/a/b.csv", "w", os.O_WRONLY | os.O_TRUNC), None),
        ("open", ("/a/b.csv", "a", os.O_WRONLY | os.O_APPEND), None),
        ("open", ("/a/b.csv", "w+", os.O_RDWR | os.O_TRUNC), None),
        ("open", ("/a/b.csv", "x+", os.O_RDWR | os.O_EXCL), None),
        ("open", (3, "r", os.O_RDONLY), None),
        ("open", ("/dev/null", "r", os.O_RDONLY), None),
        ("sqlite3.connect", (":memory:",), None),
        ("sqlite3.connect", ("file:/a/b.db?mode=ro",), "/a/b.db"),
        ("sqlite3.connect", ("file::memory:?cache=shared",), None),
        ("mmap.__new__", (-1, 10, 0, 0), None),
        ("ctypes.dlopen", (None,), None),
        ("ctypes.dlopen", ("libc.so.6",), None),
        ("ctypes.dlopen", ("/home/me/feed.so",), "/home/me/feed.so"),
        ("nextbar.read", ("postgresql://me@host/db",), "postgresql://me@host/db"),
        ("os.listdir", (None,), str(Path.cwd())),
    ],
    ids=str,
)
def test_what_an_event_says(event: str, arguments: tuple[Any, ...], name: str | None) -> None:
    """Only what was there before counts as read: not what is written, made or emptied, nor memory."""
    assert name_of(event, arguments) == name


def test_imports_are_no_reads() -> None:
    """Code that is imported is not a read; data that lie beside it are, also through the import system."""
    importer = "importlib._bootstrap_external"
    assert is_import("open", "/home/me/features.py", importer)
    assert is_import("os.listdir", "/home/me", importer)
    assert not is_import("open", "/home/me/prices.csv", importer)
    assert not is_import("open", "/home/me/features.py", "features")
    assert not is_import("os.listdir", "/home/me", "features")


def test_data_below_the_prefix_are_outside_the_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python in /usr does not make /usr/src/app a part of it; its library folders are."""
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    assert not is_inside("/usr/src/app/prices.csv", reads.installation())
    assert is_inside("/usr/lib/python3/x.txt", reads.installation())
    assert is_inside(np.__file__, reads.installation())
    assert not is_inside("usr/lib/x", reads.installation())
