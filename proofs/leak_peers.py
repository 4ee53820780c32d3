"""Run another detector of leaks over the zoo, in the Python that has it: ``leak_peers.py TOOL FOLDER``.

Each tool is called as its documentation shows it. It prints a JSON line for each feature: its name, ``flagged`` (null
where the tool gave no answer), what it said, and the seconds of the call.
"""

from __future__ import annotations

import inspect
import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd

import leak_zoo

Answer = tuple[bool | None, str]
CUTOFFS = 24
"""Cutoffs of the second run of leakprobe: as many as monte-neo's checkpoints."""


def leakprobe(specimen: leak_zoo.Specimen, cutoffs: list[pd.Timestamp]) -> Answer:
    """Declare that the feature reads the bars, and let rows after each cutoff be deleted."""
    import leakprobe as lp

    table = getattr(leak_zoo, specimen.name)
    for cutoff in cutoffs:
        report = lp.check(
            compute=lambda sources: table(sources["bars"].set_index("Date")),
            sources={"bars": leak_zoo.walk().reset_index()},
            timestamps={"bars": "Date"},
            declared={"x": ["bars"]},
            cutoff=cutoff,
        )
        try:
            report.raise_for_leaks()
        except AssertionError as error:
            return True, f"cutoff {cutoff.date()}: {str(error).splitlines()[0]}"
    return False, ""


def leakprobe_once(_: Path) -> Callable[[leak_zoo.Specimen], Answer]:
    """One cutoff, as in the documentation: the end of the first 80 %."""
    days = leak_zoo.walk().index
    return lambda specimen: leakprobe(specimen, [days[int(len(days) * 0.8)]])


def leakprobe_often(_: Path) -> Callable[[leak_zoo.Specimen], Answer]:
    """Many cutoffs, spread over the last 80 %."""
    days = leak_zoo.walk().index
    return lambda specimen: leakprobe(specimen, list(days[np.linspace(200, len(days) - 2, CUTOFFS).astype(int)]))


STRATEGY = '''"""A strategy file: one position a bar."""
import os
from pathlib import Path
import numpy as np
import pandas as pd
from leak_zoo import FILE, walk

{extra}

{source}

def signal(df):
    bars = df.rename(columns=str.title).set_index(pd.DatetimeIndex(df["timestamp"], name="Date"))
    x = np.asarray({name}(bars[["Open", "High", "Low", "Close", "Volume"]]), dtype=float)
    return x / (1 + np.abs(x))
'''
EXTRA = {
    "cache_by_span": "_by_span = {}",
    "longest_history": "_longest = []",
    "file_read": inspect.getsource(leak_zoo._tomorrow),
    "table_held": inspect.getsource(leak_zoo._tomorrow),
}


def monte_neo(folder: Path) -> Callable[[leak_zoo.Specimen], Answer]:
    """Write a strategy file whose weight is a monotone function of the feature, and take the checks of look-ahead."""
    from monte_neo.verify import verify_strategy

    leak_zoo.walk().to_csv(folder / "bars.csv")

    def run(specimen: leak_zoo.Specimen) -> Answer:
        source = "".join(line for line in inspect.getsourcelines(specimen.function)[0] if not line.startswith("@"))
        path = folder / f"{specimen.name}.py"
        path.write_text(STRATEGY.format(source=source, name=specimen.name, extra=EXTRA.get(specimen.name, "")))
        report = verify_strategy(folder / "bars.csv", strategy=path, n_trials=1)
        about = [one for one in report["checks"] if one["category"] == "lookahead" or one["id"] == "determinism"]
        said = {state: [one["id"] for one in about if one["status"] == state] for state in ("fail", "warn")}
        return bool(said["fail"]), "; ".join(f"{state}: {', '.join(ids)}" for state, ids in said.items() if ids)

    return run


FREQTRADE = """
import leak_zoo
from freqtrade.strategy import IStrategy

class {name}(IStrategy):
    INTERFACE_VERSION = 3
    timeframe = "1d"
    minimal_roi = {{"0": 1000}}
    stoploss = -0.99
    startup_candle_count = 200
    process_only_new_candles = False

    def populate_indicators(self, dataframe, metadata):
        bars = dataframe.rename(columns=str.title).set_index("Date").tz_localize(None)
        dataframe["x"] = leak_zoo.{function}(bars[["Open", "High", "Low", "Close", "Volume"]])["x"].to_numpy()
        return dataframe

    def populate_entry_trend(self, dataframe, metadata):
        dataframe.loc[{entry}, "enter_long"] = 1
        return dataframe

    def populate_exit_trend(self, dataframe, metadata):
        dataframe.loc[{leave}, "exit_long"] = 1
        return dataframe
"""
RULES = {
    "feature": ('dataframe["x"] > dataframe["x"].shift(1)', 'dataframe["x"] < dataframe["x"].shift(1)'),
    "calendar": ('dataframe["date"].dt.day_of_week == 0', 'dataframe["date"].dt.day_of_week == 3'),
}
"""Trade on the feature; where that makes too few trades to analyse, on weekdays."""
MARKET = {
    "id": "ZOOUSDT",
    "symbol": "ZOO/USDT",
    "base": "ZOO",
    "quote": "USDT",
    "baseId": "ZOO",
    "quoteId": "USDT",
    "type": "spot",
    "spot": True,
    "active": True,
    "maker": 0.001,
    "taker": 0.001,
    "percentage": True,
    "precision": {"amount": 8, "price": 8},
    "limits": {"amount": {"min": 1e-8}, "price": {"min": 1e-8}, "cost": {"min": 1e-8}},
    "info": {},
}


def freqtrade(folder: Path) -> Callable[[leak_zoo.Specimen], Answer]:
    """Run the command; the list of the exchange's markets, which it would download, is a dictionary with one pair."""
    from freqtrade.exchange import Exchange
    from freqtrade.main import main

    async def load(self, reload: bool = False) -> None:
        for api in (self._api, self._api_async):
            api.set_markets([MARKET])
        self._api_async.options["currencies"] = {}

    Exchange._api_reload_markets = load
    data, strategies = folder / "data" / "binance", folder / "strategies"
    for each in (data, strategies):
        each.mkdir(parents=True)
    bars = leak_zoo.walk().rename(columns=str.lower).reset_index(names="date")
    bars["date"] = bars["date"].dt.tz_localize("UTC")
    bars.to_feather(data / "ZOO_USDT-1d.feather")
    config = folder / "config.json"
    config.write_text(json.dumps(CONFIG | {"user_data_dir": str(folder)}))
    logging.disable(logging.CRITICAL)

    def once(specimen: leak_zoo.Specimen, rule: str) -> Answer:
        name, table = f"{specimen.name}_{rule}", folder / f"{specimen.name}_{rule}.csv"
        entry, leave = RULES[rule]
        text = FREQTRADE.format(name=name, function=specimen.name, entry=entry, leave=leave)
        (strategies / f"{name}.py").write_text(text)
        words = ["lookahead-analysis", "--config", config, "--userdir", folder, "--datadir", data, "--strategy", name]
        words += ["--timerange", "20180720-20200926", "--pairs", "ZOO/USDT"]
        words += ["--lookahead-analysis-exportfilename", table]
        try:
            main([str(word) for word in words])
        except SystemExit as stop:
            if stop.code:
                return None, f"exit code {stop.code}"
        rows = pd.read_csv(table) if table.exists() else pd.DataFrame()
        if rows.empty:
            return None, "too few trades"
        row = rows.iloc[0]
        said = (
            f"{rule}: {row.total_signals} trades, {row.biased_entry_signals} entries, {row.biased_exit_signals} exits"
        )
        return bool(row.has_bias), f"{said}, indicators {row.biased_indicators}"

    def run(specimen: leak_zoo.Specimen) -> Answer:
        answer = once(specimen, "feature")
        return once(specimen, "calendar") if answer[0] is None else answer

    return run


CONFIG = {
    "stake_currency": "USDT",
    "stake_amount": 100,
    "dry_run": True,
    "dry_run_wallet": 1_000_000_000,
    "trading_mode": "spot",
    "timeframe": "1d",
    "entry_pricing": {"price_side": "same", "use_order_book": False},
    "exit_pricing": {"price_side": "same", "use_order_book": False},
    "exchange": {"name": "binance", "pair_whitelist": ["ZOO/USDT"], "pair_blacklist": []},
    "pairlists": [{"method": "StaticPairList"}],
    "fee": 0.001,
}
TOOLS = {
    "leakprobe": leakprobe_once,
    "leakprobe-24": leakprobe_often,
    "monte-neo": monte_neo,
    "freqtrade": freqtrade,
}


def answers(tool: str, folder: Path) -> Iterator[dict[str, object]]:
    """Ask a tool about each feature; an error in it is no answer."""
    run = TOOLS[tool](folder)
    for specimen in leak_zoo.ZOO:
        begin = perf_counter()
        try:
            flagged, said = run(specimen)
        except Exception as error:
            flagged, said = None, f"{type(error).__name__}: {error}"
        yield {"name": specimen.name, "flagged": flagged, "said": said, "seconds": perf_counter() - begin}


if __name__ == "__main__":
    for answer in answers(sys.argv[1], Path(sys.argv[2])):
        print("ANSWER", json.dumps(answer), flush=True)
