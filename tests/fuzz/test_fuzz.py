"""Damaged artifacts and inputs: each is refused with a message or accepted harmlessly, within 20 s and 1 GiB.

A short round runs with the thorough tests; `-m slow` runs 5,000 damaged artifacts and 2,000 damaged inputs. The seed is
fixed. The folder that `NEXTBAR_FUZZ_FOLDER` names keeps whatever failed.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import nextbar as nb

from .mutations import mutate

SEED = 20261126
PROCESSES = 2
ROUNDS = [
    pytest.param(0.02, id="short"),
    pytest.param(1.0, id="long", marks=pytest.mark.slow),
]
DAMAGED_RUNS, DAMAGED_BARS = 5_000, 2_000


class ForkServer:
    """A process that runs commands in children with limits; see `fork_server.py`."""

    def __init__(self, env: dict[str, str]) -> None:
        server = Path(__file__).with_name("fork_server.py")
        self.process = subprocess.Popen(
            [sys.executable, str(server)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )
        assert self._line() == "ready"

    def _line(self) -> str:
        return self.process.stdout.readline().strip()  # type: ignore[union-attr]

    def run(self, arguments: list[str], folder: Path) -> dict[str, Any]:
        """Run one command in a folder; return exit code, limit that was passed, time, memory and output."""
        self.process.stdin.write(json.dumps({"arguments": arguments, "folder": str(folder)}) + "\n")  # type: ignore[union-attr]
        self.process.stdin.flush()  # type: ignore[union-attr]
        return json.loads(self._line())

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


@pytest.fixture(scope="module")
def servers(child_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ForkServer]]:
    """As many servers as run side by side, with a ledger and a journal of their own."""
    state = tmp_path_factory.mktemp("state")
    env = {
        **child_env,
        "NEXTBAR_LEDGER": str(state / "ledger.db"),
        "NEXTBAR_JOURNAL": str(state / "journal.db"),
        "PYTHONWARNINGS": "ignore",
    }
    found = [ForkServer(env) for _ in range(PROCESSES)]
    yield found
    for server in found:
        server.close()


@dataclass(frozen=True)
class Damaged:
    """One damaged file, the command that reads it, and what to expect."""

    number: int
    way: str
    arguments: list[str]
    folder: Path


def fault_of(answer: dict[str, Any]) -> str | None:
    """What is wrong with how a command ended, if anything is."""
    if answer["fate"]:
        return f"beyond the limit of {answer['fate']}"
    if answer["code"] < 0:
        return f"crashed with signal {-answer['code']}"
    if "Traceback" in answer["output"] or answer["code"] not in {0, 1, 2, 3}:
        return "a traceback"
    if answer["code"] == 2 and "nextbar: " not in answer["output"] and "Error" not in answer["output"]:
        return "refused without a message"
    return None


def faults(servers: list[ForkServer], cases: Iterator[Damaged]) -> list[str]:
    """Run all cases, shared among the servers; print a tally and return what went wrong, a line for each."""
    found: list[str] = []
    answers: list[dict[str, Any]] = []
    kept = os.environ.get("NEXTBAR_FUZZ_FOLDER")

    def work(server: ForkServer, mine: list[Damaged]) -> None:
        for case in mine:
            answer = server.run(case.arguments, case.folder)
            answers.append(answer)
            if fault := fault_of(answer):
                found.append(f"{fault}: case {case.number}, {case.way}, {case.arguments}: {answer['output'][-1500:]}")
                if kept:
                    shutil.copytree(case.folder, Path(kept) / str(case.number), dirs_exist_ok=True)
            shutil.rmtree(case.folder)

    with ThreadPoolExecutor(len(servers)) as pool:
        while batch := list(islice(cases, 64)):
            list(pool.map(lambda turn: work(servers[turn], batch[turn :: len(servers)]), range(len(servers))))
    refused = sum(answer["code"] == 2 for answer in answers)
    longest, most = (max(answer[what] for answer in answers) for what in ("seconds", "bytes"))
    tally = f"{len(answers)} files, {refused} refused, {len(found)} faults"
    print(f"{tally}; at most {longest:.1f} s, {most / 2**20:.0f} MiB")  # noqa: T201 - shown by -rP
    return found


@pytest.fixture(scope="module")
def saved_runs(
    tmp_path_factory: pytest.TempPathFactory, market_bars: dict[str, Any]
) -> tuple[Path, list[tuple[str, Path]]]:
    """Database and small saved runs: a forest, two XGBoost, one refitted, an LSTM, a walk-forward; how to read each."""
    folder = tmp_path_factory.mktemp("fuzz")
    frames = {name: market_bars[name].rename(columns={"Adj": "Adj Close"}) for name in ("AAA", "BBB")}
    small = {"n_estimators": [5], "max_depth": [3]}
    kinds = [
        nb.RandomForest(n_iter=1, cv_splits=2, space={**small, "min_samples_leaf": [5]}),
        nb.XGBoost(n_iter=1, cv_splits=2, space=small),
        nb.LSTM(epochs=1, sequence_length=5),
    ]
    for kind in kinds:
        nb.train(frames, kind, engine="serial").save(folder / kind.kind)
    nb.refit(nb.train(frames, nb.XGBoost(no_tune=True), engine="serial"), frames).save(folder / "refit")
    nb.walk_forward(
        frames,
        nb.XGBoost(no_tune=True),
        windows=nb.Windows(train_years=1, val_months=3, test_months=3),
        engine="serial",
    ).save(folder / "walk")
    documents = [
        ("walk" if path.parent.name == "walk" else "model", path)
        for path in sorted([*folder.glob("*/*_metadata.json"), *(folder / "walk").glob("*.json")])
    ]
    return folder, documents


def damaged_runs(
    documents: list[tuple[str, Path]], db: Path, folder: Path, count: int, rng: random.Random
) -> Iterator[Damaged]:
    """Copies of runs with one damaged file; in half of them the document's sha256 of it is the right one."""
    for number in range(count):
        sort, document = documents[number % len(documents)]
        place = folder / str(number)
        stem = document.name.removesuffix("_metadata.json").removesuffix(".json")
        siblings = [path for path in document.parent.iterdir() if path.name.startswith(stem)]
        place.mkdir()
        for path in siblings:
            shutil.copyfile(path, place / path.name)
        victim = rng.choice([*siblings, document])
        way, content = mutate(victim.read_bytes(), victim.suffix, rng)
        (place / victim.name).write_bytes(content)
        if victim != document and rng.random() < 0.7:
            _sign(place / document.name, victim.name, content)
        readers = ["report", "runs", "predict", "predict"] if sort == "model" else ["report", "report", "runs"]
        reader = rng.choice(readers)
        rest = {"predict": ["--db", str(db), "--max-age-days", "100000"], "report": [], "runs": []}[reader]
        named = "." if reader == "runs" else document.name
        yield Damaged(number, f"{way} of {victim.name}", [reader, named, *rest], place)


def _sign(document: Path, name: str, content: bytes) -> None:
    """Write the sha256 of a damaged sibling into the document, as an attacker would."""
    digest = hashlib.sha256(content).hexdigest()
    text = json.loads(document.read_text())
    text["files"] = {key: digest if key == name else value for key, value in text["files"].items()}
    document.write_text(json.dumps(text))


@pytest.mark.thorough
@pytest.mark.parametrize("share", ROUNDS)
def test_damaged_runs_do_no_harm(
    share: float, servers: list[ForkServer], saved_runs: Any, market_db: Path, tmp_path: Path
) -> None:
    """Whatever becomes of a file of a run, predict, report and runs refuse it or read it, and nothing else happens."""
    cases = damaged_runs(saved_runs[1], market_db, tmp_path, int(share * DAMAGED_RUNS), random.Random(SEED))
    assert faults(servers, cases) == []


@pytest.fixture(scope="module")
def input_files(tmp_path_factory: pytest.TempPathFactory, market_bars: dict[str, Any]) -> list[Path]:
    """The same bars as CSV and as Parquet, one ticker and two."""
    folder = tmp_path_factory.mktemp("inputs")
    plain = market_bars["AAA"].rename(columns={"Adj": "Adj Close"}).head(120)
    both = {
        name: market_bars[name].rename(columns={"Adj": "Adj Close"}).head(60).reset_index() for name in ("AAA", "BBB")
    }
    long = pd.concat([frame.assign(Ticker=name) for name, frame in both.items()])
    plain.to_csv(folder / "AAA.csv")
    plain.to_parquet(folder / "AAA.parquet")
    long.to_csv(folder / "long.csv", index=False)
    long.to_parquet(folder / "long.parquet", index=False)
    return sorted(folder.iterdir())


def damaged_inputs(files: list[Path], folder: Path, count: int, rng: random.Random) -> Iterator[Damaged]:
    """Damaged CSV and Parquet files, each for a database of its own."""
    for number in range(count):
        victim = files[number % len(files)]
        place = folder / str(number)
        place.mkdir()
        way, content = mutate(victim.read_bytes(), victim.suffix, rng)
        (place / victim.name).write_bytes(content)
        arguments = ["ingest", victim.suffix.removeprefix("."), victim.name, "--db", "market.db"]
        yield Damaged(number, f"{way} of {victim.name}", arguments, place)


@pytest.mark.thorough
@pytest.mark.parametrize("share", ROUNDS)
def test_damaged_inputs_do_no_harm(
    share: float, servers: list[ForkServer], input_files: list[Path], tmp_path: Path
) -> None:
    """Whatever becomes of a CSV or Parquet file, ingest refuses it or stores what is good in it."""
    cases = damaged_inputs(input_files, tmp_path, int(share * DAMAGED_BARS), random.Random(SEED + 1))
    assert faults(servers, cases) == []
