"""Build the test set of a published table again, row by row, and score on it what needs no model and what does.

    python proofs/kdd17.py BARS

Feng et al. 2019 (IJCAI, "Enhancing Stock Movement Prediction with Adversarial Training") predict of 50 US stocks
whether the next day rises, trained on 2007 to 2014, validated on 2015, tested on 2016. BARS is a Parquet file of the
bars that were published with it, columns `ticker date open high low close adj_close volume`; its sha256 is checked.

A day of 2016 is kept if its own move lies outside (-0.5 %, +0.55 %]. The decision falls at the close before, when that
move is the future: nobody could have traded on the kept days alone. All days are therefore scored as well. The models
are tries of one another: a ledger counts them, and each verdict is adjusted for all of them.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import time
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import pandas as pd

import nextbar as nb

SHA256 = "5a610739081b3d2cd18998b6242d94a43e0ee6e4ee5878a6335e134ecf0bc2ef"
TEST_YEAR, DAYS, KEPT, UP = 2016, 12_600, 7_398, 3_910
LOWER, UPPER = -0.005, 0.0055
PUBLISHED = {"LSTM": 51.62, "ALSTM": 51.94, "Adv-ALSTM": 53.05}
"""Model → accuracy in percent on the kept days."""
SPLIT = nb.Split(train_end="2014-12-31", val_end="2015-12-30", test_end="2016-12-30")
"""The paper's years. A label lies inside its own split, so the first test decision falls on 2015-12-31, about the first
day of 2016."""
MODELS: dict[str, tuple[nb.Model, str]] = {
    "XGBoost, one a stock, levels": (nb.XGBoost(no_tune=True), "levels"),
    "XGBoost, one a stock, relative": (nb.XGBoost(no_tune=True), "relative"),
    "XGBoost, pooled, levels": (nb.XGBoost(no_tune=True, pooled=True), "levels"),
    "XGBoost, pooled, relative": (nb.XGBoost(no_tune=True, pooled=True), "relative"),
    "Random Forest, pooled, relative": (nb.RandomForest(no_tune=True, pooled=True), "relative"),
    "LSTM, next close": (nb.LSTM(), "levels"),
    "LSTM, next return": (nb.LSTM(target="return"), "levels"),
}
"""Label → our model and its features; parameters are the defaults, nothing is searched for."""


def read(path: Path) -> pd.DataFrame:
    """Read the bars, or refuse a file that is not the published one."""
    if (found := hashlib.sha256(path.read_bytes()).hexdigest()) != SHA256:
        sys.exit(f"{path} has the sha256 {found}, expected {SHA256}; use the bars that were published with the paper")
    bars = pd.read_parquet(path)
    return bars.assign(date=pd.to_datetime(bars["date"])).sort_values(["ticker", "date"], ignore_index=True)


def decisions(bars: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each stock and test day: the day of the decision, the move of the day after it, and `kept`."""
    close = bars.groupby("ticker")["adj_close"]
    rows = bars[["ticker"]].assign(
        date=bars.groupby("ticker")["date"].shift(1),
        predicted=bars["date"],
        move=bars["adj_close"] / close.shift(1) - 1,
    )
    rows = rows[rows["predicted"].dt.year == TEST_YEAR].reset_index(drop=True)
    return rows.assign(kept=~rows["move"].between(LOWER, UPPER, inclusive="right"), rose=rows["move"] > 0)


def check(rows: pd.DataFrame) -> None:
    """Refuse a subset that is not the published one."""
    found = (len(rows), int(rows["kept"].sum()), int((rows["kept"] & rows["rose"]).sum()))
    if found != (DAYS, KEPT, UP):
        sys.exit(f"{found[0]} test days, {found[1]} kept, {found[2]} of them up; expected {DAYS}, {KEPT}, {UP}")


def standard_error(values: pd.Series, dates: pd.Series) -> float:
    """Return the standard error of a mean whose errors are alike within a date and independent between dates."""
    sums = (values - values.mean()).groupby(dates.to_numpy()).sum()
    return float(np.sqrt((sums**2).sum() * len(sums) / (len(sums) - 1)) / len(values))


def matthews(rose: pd.Series, up: pd.Series) -> float | None:
    """Return Matthews' correlation; None where all forecasts are alike."""
    return None if up.nunique() < 2 else float(np.corrcoef(rose, up)[0, 1])


def balanced(rows: pd.DataFrame) -> tuple[float, float]:
    """Return the mean of both recalls over all days that moved, and its standard error by date."""
    moved = rows[rows["move"] != 0]
    share = moved["rose"].map(moved["rose"].value_counts(normalize=True)).astype(float)
    weighted = (moved["rose"] == moved["up"]) / (2 * share)
    return float(weighted.mean()), standard_error(weighted, moved["date"])


def line(label: str, rows: pd.DataFrame) -> str:
    """Return a line of the table for forecasts `up` of all test days."""
    kept = rows[rows["kept"]]
    right = (kept["rose"] == kept["up"]).astype(float)
    correlation, (mean, error) = matthews(kept["rose"], kept["up"]), balanced(rows)
    cells = [
        f"{right.mean():.2%} ({int(right.sum()):,} of {len(right):,})",
        f"{100 * standard_error(right, kept['date']):.2f}",
        "–" if correlation is None else f"{correlation:.4f}",
        f"{mean:.2%}",
        f"{100 * error:.2f}",
    ]
    return f"| {label} | " + " | ".join(cells) + " |"


def forecast(rows: pd.DataFrame, found: pd.DataFrame, label: str) -> pd.DataFrame:
    """Put forecasts beside the test days; refuse a model that leaves days out."""
    found = found.assign(date=pd.to_datetime(found["date"]))
    joined = rows.merge(found[["ticker", "date", "up"]], on=["ticker", "date"], how="left", validate="one_to_one")
    if missing := int(joined["up"].isna().sum()):
        sys.exit(f"{label} has no forecast for {missing} of {len(rows)} test days; the table is about all of them")
    return joined.assign(up=joined["up"].astype(bool))


def main() -> None:
    """Print the table."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bars", type=Path, help="Parquet file of the published bars")
    parser.add_argument("--only", default="", metavar="TEXT", help="train only models whose label holds this text")
    given = parser.parse_args()
    bars = read(given.bars)
    rows = decisions(bars)
    check(rows)
    kept = rows["kept"]
    print(f"{len(rows):,} test days, {kept.sum():,} kept, {(kept & rows['rose']).sum():,} of them up\n")
    print("| | accuracy, kept days | s.e. | MCC, kept days | balanced accuracy, all days | s.e. |\n" + "|---" * 6 + "|")
    for label, accuracy in PUBLISHED.items():
        print(f"| {label}, published | {accuracy}% | | | | |")
    print(line("always up", rows.assign(up=True)))
    before = bars.assign(day=bars.groupby("ticker")["adj_close"].pct_change())[["ticker", "date", "day"]]
    yesterday = forecast(rows, before.assign(up=before["day"] > 0), "yesterday's direction")
    print(line("yesterday's direction", yesterday))
    own = nb.bars(bars)
    with tempfile.TemporaryDirectory() as folder:
        ledger, runs = Path(folder, "ledger.db"), {}
        for label, (model, features) in MODELS.items():
            if given.only in label:
                begun = time.monotonic()
                run = runs[label] = nb.train(own, model, split=SPLIT, features=features, ledger=ledger)
                print(line(label, forecast(rows, run.rows.assign(up=run.rows["class"] == 1), label)), flush=True)
                print(f"{label}: {time.monotonic() - begun:.0f} s", file=sys.stderr)
        verdicts = {label: nb.verdict(run, ledger=ledger) for label, run in runs.items()}
    print("\nStandard errors are in points and clustered by the day of the decision.")
    for label, found in verdicts.items():
        print(f"\n{label}: {found}")


if __name__ == "__main__":
    main()
