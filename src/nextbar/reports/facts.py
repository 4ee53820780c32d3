"""What a report tells, as numbers: computed here and nowhere else; figures draw them, the page lays them out."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nextbar.evaluation.daily import DailySeries, Majority, by_ticker, daily_series
from nextbar.evaluation.significance import (
    DRAWS,
    Evidence,
    Judgement,
    adjusted_pvalues,
    balanced_accuracy,
    judge,
    positive_mean_pvalues,
)
from nextbar.scoring.backtest import TRADING_DAYS
from nextbar.types import FloatArray, JsonDict

SUSPICIOUS = 0.56
"""Balanced accuracy on daily bars above which a leak is likelier than skill."""
PLATEAU = 0.1
"""Thresholds whose score is at most this much below the chosen one's are as good."""
SPLIT = 1.25
"""A quoted close this many times above or below what was tomorrow's close the day before was split."""
FOREVER_YEARS = 1000
NAMES_LISTED = 6
LISTED = 100
"""Most search candidates, and thresholds, on a page: a walk-forward has thousands."""
ROWS = {
    "model": "model",
    "one_bar_late": "model, one bar late",
    "next_open": "model, at the next open",
    "after_last_training_day": "model, after every training day",
    "always_long": "always long",
    "majority_class": "majority class of train",
    "yesterday_direction": "yesterday's direction",
    "constant_exposure": "constant, own exposure",
}
SURVIVORS = (
    "The list of tickers was made by somebody who knew which companies would last. Those that failed or were taken "
    "over are missing, which flatters always long, and whatever is long most of the time."
)
WEIGHTED = "Class weights distort a forest's or a booster's probabilities: read the diagram for order, not for level."


@dataclass(frozen=True, kw_only=True)
class OtherTrials:
    """Outer trials on the same days: net returns [days, trials], Sharpe ratios [trials], and a record of each."""

    net: FloatArray
    sharpes: FloatArray
    records: Sequence[JsonDict]


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """One run.

    Attributes:
        name: Stem of its files.
        model: Kind of model.
        about: Kind of run, tickers, days, costs, seed, search candidates and the like.
        judgement: The verdict.
        remarks: Sentences that belong beside it.
        daily: Returns per day of the model and the baselines.
        table: The model, its variants and the baselines: one record each, ``row`` and ``label`` with its figures.
        folds: Dates, figures and always long's Sharpe ratio per fold; empty for a training run.
        reliability: Bins, as `nextbar.scoring.metrics.reliability_table` makes them.
        thresholds: One record per fold and ticker: threshold, objective and score; with curve and plateau in a training
            run and for one ticker of a walk-forward's last fold.
        candidates: Search candidates, at most `LISTED`: fold, ticker, parameters, mean score, whether chosen.
        importance: Column → ``share`` of impurity or gain, and ``permutation``: mean over fits (of the last fold).
        learning: Loss per epoch or tree of the last fit.
        price: Errors of predicted closes beside persistence, and the last days.
        per_ticker: One record per ticker with figures and p-values.
        coverage: One record per ticker: bars, first, last, days scored, test windows of folds that left it out.
        skipped: Ticker, fold and reason of what was left out.
        trials: The other configurations tried on these days.
    """

    name: str
    model: str
    about: JsonDict
    judgement: Judgement
    remarks: list[str]
    daily: DailySeries
    table: list[JsonDict]
    folds: list[JsonDict]
    reliability: list[JsonDict]
    thresholds: list[JsonDict]
    candidates: list[JsonDict]
    importance: dict[str, JsonDict]
    learning: JsonDict | None
    price: JsonDict | None
    per_ticker: list[JsonDict]
    coverage: list[JsonDict]
    skipped: list[JsonDict]
    trials: list[JsonDict]

    def to_json(self) -> JsonDict:
        """Everything but the daily returns, which can be made from the run's rows."""
        plain = {name: value for name, value in vars(self).items() if name not in {"daily", "judgement"}}
        return {"verdict": self.judgement.to_json(), **plain}


def majority_classes(document: JsonDict) -> Majority | None:
    """(fold, ticker) → majority class of train; None for a file that does not say."""
    found = {}
    for task in _tasks(document):
        for ticker, split in task["splits"].items():
            if "up_share" not in split["train"]:
                return None
            found[task["fold"], ticker] = int(split["train"]["up_share"] > 0.5)
    return found


def run_daily(document: JsonDict, rows: pd.DataFrame) -> DailySeries:
    """Daily returns of a run's rows at its own costs."""
    return daily_series(rows, cost_bps=document["config"]["cost_bps"], majority=majority_classes(document))


def run_facts(
    mark: Path, document: JsonDict, rows: pd.DataFrame, others: OtherTrials, *, draws: int = DRAWS, seed: int = 0
) -> RunFacts:
    """Facts of one run.

    Args:
        mark: Its commit mark.
        document: Its walk-forward result or training metadata.
        rows: Its out-of-sample rows.
        others: What else was tried on these days.
        draws: Bootstrap draws per test.
        seed: Of the bootstrap.
    """
    daily, figures = run_daily(document, rows), document.get("metrics", document)
    evidence = Evidence(
        net=daily.net,
        excess=daily.excess,
        counts=daily.counts,
        baselines=daily.baselines,
        others=others.net,
        other_sharpes=others.sharpes,
    )
    judgement = judge(evidence, draws=draws, seed=seed)
    skipped = _skipped(document)
    tasks = _tasks(document)
    return RunFacts(
        name=mark.name.removesuffix(".json").removesuffix("_metadata"),
        model=document["model"],
        about=_about(document, rows, daily),
        judgement=judgement,
        remarks=_remarks(mark, document, daily),
        daily=daily,
        table=_table(figures, document.get("pooled") or figures["model"]),
        folds=[_fold(fold) for fold in document.get("folds", []) if fold["metrics"]],
        reliability=figures.get("reliability", []),
        thresholds=[_threshold(task["fold"], *item) for task in tasks for item in task["threshold"].items()],
        candidates=list(islice(_candidates(tasks), LISTED)),
        importance=_importance(tasks),
        learning=_learning(tasks[-1]),
        price=_price(figures.get("price")),
        per_ticker=_per_ticker(figures["per_ticker"], rows, document["config"]["cost_bps"], draws=draws, seed=seed),
        coverage=_coverage(document, rows, skipped),
        skipped=skipped,
        trials=list(others.records),
    )


def years_to_tell(judgement: Judgement) -> str:
    """How much longer the record must get, in words."""
    if judgement.psr is None:
        return "cannot be said"
    if judgement.track_record_days is None:
        return "never: the return is not above that of a constant position"
    missing = (judgement.track_record_days - judgement.days) / TRADING_DAYS
    if missing <= 0:
        return "the record is long enough"
    if missing > FOREVER_YEARS:
        return f"more than {FOREVER_YEARS:,} years at this Sharpe ratio"
    return f"{missing:.{0 if missing >= 10 else 1}f} more years at this Sharpe ratio"


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - NAMES_LISTED} more" if len(names) > NAMES_LISTED else ""
    return ", ".join(names[:NAMES_LISTED]) + more


def _tasks(document: JsonDict) -> list[JsonDict]:
    """Fits of a run, each with its fold's number."""
    if "folds" not in document:
        return [{**document, "fold": 0}]
    return [{**task, "fold": fold["number"]} for fold in document["folds"] for task in fold["tasks"]]


def _about(document: JsonDict, rows: pd.DataFrame, daily: DailySeries) -> JsonDict:
    tasks = _tasks(document)
    return {
        "kind": "walk-forward" if "folds" in document else "training",
        "created": document["created"],
        "tickers": sorted({str(ticker) for ticker in rows["ticker"].unique()}),
        "first": str(daily.dates[0]),
        "last": str(daily.dates[-1]),
        "days": len(daily.dates),
        "rows": len(rows),
        "cost_bps": document["config"]["cost_bps"],
        "seed": document["seed"],
        "fits": len(tasks),
        "search_candidates": sum(len(task.get("search", {}).get("candidates", [])) for task in tasks),
        "threshold_choices": sum(len(task["threshold"]) for task in tasks),
        "trial": document.get("trial"),
    }


def _remarks(mark: Path, document: JsonDict, daily: DailySeries) -> list[str]:
    remarks = [SURVIVORS]
    accuracy = float(balanced_accuracy(daily.counts.sum(axis=0)))
    if accuracy > SUSPICIOUS:
        command = f"nextbar certify {document['model']} --artifact {shlex.quote(str(mark))}"
        remarks.insert(
            0, f"A balanced accuracy of {accuracy:.3f} on daily bars is suspicious; look for a leak with: {command}"
        )
    if "majority_class" not in daily.baselines:
        remarks.append("The file does not say the majority class of train, so the verdict leaves that baseline out.")
    if plain := [ticker for ticker, data in document["data"].items() if data["adjustment"] == "none"]:
        remarks.append(f"{len(plain)} tickers have no adjusted close: splits and dividends look like price moves.")
    return remarks


def _table(figures: JsonDict, model: JsonDict) -> list[JsonDict]:
    found = {
        "model": model,
        "one_bar_late": figures["one_bar_late"],
        "next_open": figures["next_open"],
        "after_last_training_day": (figures.get("after_last_training_day") or {}).get("model"),
        **figures["baselines"],
    }
    return [{"row": row, "label": label, **found[row]} for row, label in ROWS.items() if found.get(row)]


def _fold(fold: JsonDict) -> JsonDict:
    model, long = fold["metrics"]["model"], fold["metrics"]["baselines"]["always_long"]
    window = {key: fold[key] for key in ("number", "train_start", "val_start", "test_start", "test_end", "rows")}
    figures = {key: model[key] for key in ("balanced_accuracy", "sharpe", "max_drawdown", "total_return")}
    return {**window, **figures, "always_long_sharpe": long["sharpe"]}


def _candidates(tasks: Sequence[JsonDict]) -> Iterator[JsonDict]:
    for task in tasks:
        search, name = task.get("search", {}), task.get("task") or task["name"]
        for one in search.get("candidates", []):
            chosen = one["rank"] == 1 and one["params"] == search["params"]
            yield {
                "fold": task["fold"],
                "ticker": name,
                "params": one["params"],
                "score": one["mean"],
                "chosen": chosen,
            }


def _threshold(fold: int, ticker: str, choice: JsonDict) -> JsonDict:
    found = {"fold": fold, "ticker": ticker, **{key: choice[key] for key in ("threshold", "objective", "score")}}
    if "curve" in choice:
        found |= {"curve": choice["curve"], "plateau": _plateau(choice)}
    return found


def _plateau(choice: JsonDict) -> list[float] | None:
    """Lowest and highest of the neighbouring thresholds that score about as well as the chosen one."""
    if choice["score"] is None:
        return None
    grid = np.array(choice["curve"]["threshold"])
    scores = np.array(choice["curve"]["score"], dtype=np.float64)
    good = scores >= choice["score"] - PLATEAU
    at = int(np.argmin(np.abs(grid - choice["threshold"])))
    bad = np.flatnonzero(~good)
    low = bad[bad < at].max(initial=-1) + 1
    high = bad[bad > at].min(initial=len(grid)) - 1
    return [float(grid[low]), float(grid[high])]


def _importance(tasks: Sequence[JsonDict]) -> dict[str, JsonDict]:
    shares = [task["importance"] for task in tasks if task.get("importance")]
    shuffled = [task["permutation_importance"] for task in tasks if task.get("permutation_importance")]
    columns = list(dict.fromkeys(column for task in shares for column in task))
    return {name: {"share": _mean(shares, name), "permutation": _mean(shuffled, name)} for name in columns}


def _mean(records: Sequence[Mapping[str, float]], name: str) -> float | None:
    known = [record[name] for record in records if name in record]
    return float(np.mean(known)) if known else None


def _learning(task: JsonDict) -> JsonDict | None:
    if task.get("history"):
        curves: JsonDict = {key: [epoch[key] for epoch in task["history"]] for key in ("loss", "val_loss")}
        return {"step": "epoch", "measure": "mean squared error", "best": task["best_epoch"], **curves}
    if task.get("validation_logloss"):
        curves = {"loss": None, "val_loss": task["validation_logloss"]}
        return {"step": "tree", "measure": "log loss", "best": task["best_iteration"], **curves}
    return None


def _price(figures: JsonDict | None) -> JsonDict | None:
    if figures is None:
        return None
    return {**figures, "recent": {ticker: _in_last_terms(days) for ticker, days in figures["recent"].items()}}


def _in_last_terms(days: JsonDict) -> JsonDict:
    """Quoted closes of consecutive days, those before a split in the terms after it; ``splits`` counts them."""
    step = np.array(days["actual"][:-1]) / np.array(days["persistence"][1:])
    step[(step < SPLIT) & (step > 1 / SPLIT)] = 1.0
    factor = np.append(np.cumprod(step[::-1])[::-1], 1.0)
    prices = {key: (np.array(days[key]) / factor).tolist() for key in ("predicted", "actual", "persistence")}
    return {"date": days["date"], "splits": int((step != 1.0).sum()), **prices}


def _per_ticker(
    figures: Mapping[str, JsonDict], rows: pd.DataFrame, cost_bps: float, *, draws: int, seed: int
) -> list[JsonDict]:
    """Figures with the p-value that the excess of that ticker is luck, plain and adjusted for their number."""
    series = {name: pd.Series(one.excess, index=one.dates) for name, one in by_ticker(rows, cost_bps=cost_bps).items()}
    excess = pd.DataFrame(series)
    pvalues = positive_mean_pvalues(excess.to_numpy(), draws=draws, seed=seed)
    together = zip(excess.columns, pvalues.tolist(), adjusted_pvalues(pvalues).tolist(), strict=True)
    return [{"ticker": name, **figures[name], "p": p, "p_adjusted": adjusted} for name, p, adjusted in together]


def _skipped(document: JsonDict) -> list[JsonDict]:
    found: Any = document["skipped"]
    if isinstance(found, list):
        return found
    return [{"ticker": ticker, "fold": None, "reason": reason} for ticker, reason in found.items()]


def _coverage(document: JsonDict, rows: pd.DataFrame, skipped: Sequence[JsonDict]) -> list[JsonDict]:
    scored = rows.groupby("ticker")["date"].agg(["count", "min", "max"])
    windows = {fold["number"]: [fold["test_start"], fold["test_end"]] for fold in document.get("folds", [])}
    missed: dict[str, list[list[str]]] = {}
    for skip in skipped:
        if skip["fold"] in windows:
            missed.setdefault(skip["ticker"], []).append(windows[skip["fold"]])
    return [
        {
            "ticker": ticker,
            **{key: data[key] for key in ("bars", "first", "last", "adjustment")},
            "scored": int(scored.loc[ticker, "count"]) if ticker in scored.index else 0,
            "scored_first": str(scored.loc[ticker, "min"].date()) if ticker in scored.index else None,
            "scored_last": str(scored.loc[ticker, "max"].date()) if ticker in scored.index else None,
            "left_out": missed.get(ticker, []),
        }
        for ticker, data in document["data"].items()
    ]
