"""Two or more sides of a comparison, each a child process, in turn; and the bars that they work on.

A script calls `turns` with its own path; each child is that script with ``--side NAME`` and prints one JSON line with
``seconds`` and whatever else it measured. Peak memory is the operating system's figure. Beside a
busy neighbour the clock says little: processor time is what to look at then.
"""

import json
import os
import sqlite3
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import pandas as pd

REAL = "NEXTBAR_REAL_DATA"
REAL_FILE = "sp500_5yr_2013_2018.parquet"
Measured = dict[str, float]


def main(description: str, sides: Mapping[str, Callable[[Namespace], Measured]], race: Callable[[Namespace], None]):
    """Run one side where ``--side`` says so, else the comparison."""
    parser = ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="smaller, for a first impression")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=sides)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/nextbar-bench"), help="for databases and results")
    parser.add_argument("--tickers", type=int)
    parser.add_argument("--case", default="", help="what a comparison hands to its sides")
    options = parser.parse_args()
    if options.side:
        print(json.dumps(sides[options.side](options)))
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.quick:
        options.rounds = min(options.rounds, 2)
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    race(options)


def timed(work: Callable[[], object]) -> Measured:
    """``seconds`` on the clock, and ``busy`` ones of processors, with those of children that have ended."""
    begin, used = perf_counter(), sum(os.times()[:4])
    work()
    return {"seconds": perf_counter() - begin, "busy": sum(os.times()[:4]) - used}


def child(side: str, options: Namespace, **changes: object) -> Measured:
    """One side, once: what it printed, with ``mib``, the peak memory of the child or of one of its children."""
    values = {"folder": options.folder, "tickers": options.tickers, "case": options.case, **changes}
    words = [word for name, value in values.items() if value not in (None, "") for word in (f"--{name}", str(value))]
    command = [sys.executable, sys.argv[0], "--side", side, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        answer = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed")
    return {"mib": usage.ru_maxrss / 1024} | json.loads(answer.splitlines()[-1])


def turns(sides: list[str], options: Namespace, **changes: object) -> dict[str, list[Measured]]:
    """Each side's measurements, one per round; within a round the sides take turns."""
    taken: dict[str, list[Measured]] = {side: [] for side in sides}
    for _ in range(options.rounds):
        for side in sides:
            taken[side].append(child(side, options, **changes))
    return taken


def tell(taken: Mapping[str, list[Measured]]) -> None:
    """Medians of each side, and the median over rounds of its ratio to the first."""
    first = next(iter(taken))
    for side, rounds in taken.items():
        seconds, busy, mib = (median(one[name] for one in rounds) for name in ("seconds", "busy", "mib"))
        line = f"  {side:18s} {seconds:7.2f} s, processors {busy:7.2f} s, peak {mib:5.0f} MiB"
        if side != first:
            both = list(zip(rounds, taken[first], strict=True))
            clock, work = (median(one[name] / base[name] for one, base in both) for name in ("seconds", "busy"))
            line += f"  {clock:5.2f} times {first}'s, by processors {work:5.2f}"
        print(line)


def walk(days: int, seed: int) -> pd.DataFrame:
    """Bars of a random walk in market format, on business days."""
    random = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(random.normal(0.0003, 0.015, days)))
    opened = close * np.exp(random.normal(0, 0.003, days))
    spread = close * np.abs(random.normal(0, 0.004, days))
    low, high = np.minimum(opened, close) - spread, np.maximum(opened, close) + spread
    columns = {"Open": opened, "High": high, "Low": low, "Close": close, "Volume": random.integers(1e5, 1e7, days)}
    return pd.DataFrame(columns, index=pd.bdate_range("2013-02-08", periods=days, name="Date", unit="s"))


def database(folder: Path, tickers: int, days: int = 1259) -> Path:
    """A database as `nextbar ingest` makes it, of real bars where ``NEXTBAR_REAL_DATA`` names their folder."""
    real = os.environ.get(REAL)
    path = folder / f"{'real' if real else 'made'}_{tickers}x{days}.db"
    if path.exists():
        return path
    if real:
        bars = pd.read_parquet(Path(real) / REAL_FILE)
        bars = bars[bars["ticker"].isin(sorted(bars["ticker"].unique())[:tickers])]
    else:
        frames = [walk(days, seed).assign(ticker=f"T{seed:04d}") for seed in range(tickers)]
        bars = pd.concat(frames).reset_index().rename(columns=str.lower)
    source = path.with_suffix(".parquet")
    bars.to_parquet(source)
    command = [sys.executable, "-P", "-m", "nextbar", "ingest", "parquet", str(source), "--db", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return path


def foreign(path: Path) -> Path:
    """The same bars in a rowid table as another program would make it, with an index on ticker and date."""
    target = path.with_name(f"foreign_{path.name}")
    if not target.exists():
        # Closed, or its WAL would keep our side from the fast way of reading.
        with closing(sqlite3.connect(target)) as connection, connection:
            connection.execute("ATTACH ? AS source", (str(path),))
            connection.execute("CREATE TABLE tickers AS SELECT * FROM source.tickers")
            connection.execute(
                "CREATE TABLE stock_prices (id INTEGER PRIMARY KEY, ticker TEXT, date TEXT, open REAL, high REAL,"
                " low REAL, close REAL, adj_close REAL, volume INTEGER, UNIQUE (ticker, date))"
            )
            names = "ticker, date, open, high, low, close, adj_close, volume"
            # By date: the order in which a daily job adds them.
            connection.execute(
                f"INSERT INTO stock_prices ({names}) SELECT {names} FROM source.stock_prices ORDER BY date, ticker"
            )
    return target
