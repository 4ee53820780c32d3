"""Every comparison, one after the other: `make bench`, or `make bench QUICK=1` for a first impression."""

import subprocess
import sys
from pathlib import Path
from time import perf_counter

HERE = Path(__file__).parent
PEERS = HERE.parent / ".venv-peers" / "bin" / "python"
SCRIPTS = (
    "startup",
    "threshold",
    "lstm_epoch",
    "memory",
    "universe",
    "walkforward",
    "tree_search",
    "fast_parity",
    "linear",
)


def words(script: str, quick: bool) -> list[str]:
    """Arguments of a script."""
    if script == "threshold":
        return ["20" if quick else "505"]
    if script == "lstm_epoch":
        size = ["--windows", "512", "--rounds", "2"] if quick else []
        return size + (["--peer-python", str(PEERS)] if PEERS.exists() else [])
    return ["--quick"] if quick else []


def main() -> None:
    quick = "--quick" in sys.argv
    for script in SCRIPTS:
        begin = perf_counter()
        print(f"\n== {script}", flush=True)
        subprocess.run([sys.executable, "-W", "ignore", str(HERE / f"{script}.py"), *words(script, quick)], check=True)
        print(f"  ({perf_counter() - begin:.0f} s)", flush=True)
    if not PEERS.exists():
        print("\nTensorFlow and PyTorch were left out; `make bench-peers` installs them into .venv-peers")


if __name__ == "__main__":
    main()
