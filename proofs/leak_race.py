"""Let `nextbar certify` and other detectors of leaks judge the features of `leak_zoo.py`.

    python proofs/leak_race.py --peer leakprobe=PYTHON --peer monte-neo=PYTHON --peer freqtrade=PYTHON

PYTHON is the interpreter of a virtual environment that has the package of that name; a tool without one is left out.
The tools run one after the other. The table says of each feature what each tool said, then counts and seconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import leak_zoo
from leak_zoo import OUTSIDE, WRITTEN, ZOO

HERE = Path(__file__).parent
PEERS = {
    "leakprobe": ("leakprobe", "leakprobe-24"),
    "monte-neo": ("monte-neo",),
    "freqtrade": ("freqtrade",),
}
"""Package → ways in which `leak_peers.py` calls it."""
NOT_FOR = {
    "leakprobe": {OUTSIDE, WRITTEN},
    "leakprobe-24": {OUTSIDE, WRITTEN},
    "monte-neo": {WRITTEN},
    "freqtrade": {OUTSIDE, WRITTEN},
}
"""Tool → ways of seeing the future that it does not take, because it looks at the bars that it is given alone."""
Answers = dict[str, dict[str, Any]]


def nextbar(*, by_name: bool) -> Iterator[dict[str, Any]]:
    """Train on each feature and certify the run, with the function itself or, as on the command line, its name."""
    import nextbar as nb

    frame = leak_zoo.walk()
    bars = {"ZOO": frame.assign(**{"Adj Close": frame["Close"]})}
    for specimen in ZOO:
        feature = f"leak_zoo:{specimen.name}" if by_name else getattr(leak_zoo, specimen.name)
        begin = perf_counter()
        run = nb.train(bars, nb.XGBoost(no_tune=True), features=feature)
        trained = perf_counter()
        certificate = nb.certify(run, bars)
        yield {
            "name": specimen.name,
            "flagged": {"PASS": False, "FAIL": True}.get(certificate.verdict),
            "said": "; ".join(map(str, certificate.failures)) or certificate.verdict,
            "seconds": perf_counter() - trained,
            "training": trained - begin,
        }


def ask(python: str, script: str, *words: str) -> Answers:
    """Run a tool in a process of its own and read its answers."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "bars_of_the_zoo.csv"
        leak_zoo.walk().to_csv(file)
        command = [python, "-W", "ignore", str(HERE / script), *words, folder]
        environment = os.environ | {leak_zoo.FILE: str(file)}
        answers: Answers = {}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=HERE) as process:
            for line in process.stdout:
                if line.startswith("ANSWER "):
                    answer = json.loads(line.removeprefix("ANSWER "))
                    answers[answer["name"]] = answer
                    print(f"{' '.join(words)}: {line}", end="", file=sys.stderr, flush=True)
    if len(answers) != len(ZOO):
        sys.exit(f"{' '.join(command)}: {len(answers)} of {len(ZOO)} answers")
    return answers


def verdict(tool: str, specimen: leak_zoo.Specimen, answer: Mapping[str, Any]) -> str:
    """Say whether an answer is right."""
    if specimen.way is None:
        return {True: "FALSE ALARM", False: "–", None: "no answer"}[answer["flagged"]]
    if not answer["flagged"] and specimen.way in NOT_FOR.get(tool, set()):
        return "not applicable"
    return {True: "caught", False: "MISSED", None: "no answer"}[answer["flagged"]]


def table(found: Mapping[str, Answers]) -> str:
    """Return a row a feature, a column a tool; counts and seconds in the last rows."""
    rows = [["feature", "how it sees the future", *found], ["---"] * (len(found) + 2)]
    for one in ZOO:
        said = [verdict(tool, one, answers[one.name]) for tool, answers in found.items()]
        rows.append([one.name, one.way or "not at all", *said])
    columns = [[row[place + 2] for row in rows[2:]] for place in range(len(found))]
    words = ("caught", "MISSED", "not applicable", "FALSE ALARM", "no answer")
    rows += [[f"**{word.lower()}**", "", *(str(column.count(word)) for column in columns)] for word in words]
    seconds = [[answer["seconds"] for answer in answers.values()] for answers in found.values()]
    rows.append(["**seconds a feature, median**", "", *(f"{median(one):.2f}" for one in seconds)])
    rows.append(["**seconds, all**", "", *(f"{sum(one):.0f}" for one in seconds)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    """Run the race, or one of our own sides of it."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--peer", action="append", default=[], help="PACKAGE=PYTHON")
    parser.add_argument("--answers", type=Path, help="file to write all answers to")
    parser.add_argument("--by-name", action="store_true", help="name the features to nextbar, as on the command line")
    parser.add_argument("--side", help="used by the script itself")
    options = parser.parse_args()
    if options.side:
        for answer in nextbar(by_name=options.by_name):
            print("ANSWER", json.dumps(answer), flush=True)
        return
    pythons = dict(peer.split("=", 1) for peer in options.peer)
    if unknown := sorted(set(pythons) - set(PEERS)):
        parser.error(f"--peer expects one of {', '.join(PEERS)}, got {', '.join(unknown)}")
    how = ["--by-name"] if options.by_name else []
    found = {"nextbar": ask(sys.executable, "leak_race.py", *how, "--side")}
    for package, python in pythons.items():
        found |= {tool: ask(python, "leak_peers.py", tool) for tool in PEERS[package]}
    if options.answers:
        options.answers.write_text(json.dumps(found, indent=1))
    print(table(found))


if __name__ == "__main__":
    main()
