"""How soon the command line answers, beside Python that does nothing; and what a prediction by trees imports."""

import subprocess
import sys
from argparse import Namespace
from statistics import median

import sides

COMMANDS = {"python -c pass": ["-c", "pass"], "nextbar --help": ["-m", "nextbar", "--help"]}
CHECK = """
import sys, nextbar.cli.commands, nextbar.workflows.predict
import xgboost, sklearn.ensemble, nextbar.models.xgboost, nextbar.models.random_forest
print(sorted({"keras", "jax", "tensorflow"} & set(sys.modules)))
"""


def race(options: Namespace) -> None:
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(5 if options.quick else 15):
        for name, words in COMMANDS.items():
            call = [sys.executable, "-P", *words]
            taken[name].append(
                sides.timed(lambda call=call: subprocess.run(call, check=True, capture_output=True))["seconds"]
            )
    for name, seconds in taken.items():
        print(f"  {name:16s} {median(seconds):.3f} s, best {min(seconds):.3f} s")
    found = subprocess.run(
        [sys.executable, "-P", "-c", CHECK], check=True, capture_output=True, text=True
    ).stdout.strip()
    print(f"  heavy libraries that a prediction by trees imports: {found}")


if __name__ == "__main__":
    sides.main(__doc__, {}, race)
