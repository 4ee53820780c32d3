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

from nextbar.evaluation.series import Book, Majority, Track, run_book
from nextbar.evaluation.significance import (
    DRAWS,
    WORTH,
    Interval,
    Judgement,
    Tries,
    adjusted_pvalues,
    judge,
    positive_mean_pvalues,
)
from nextbar.types import JsonDict

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
WEIGHTED = "Class weights distort a forest's or a booster's probabilities: read the diagram for order, not for level."


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """One run.

    Attributes:
        name: Stem of its files.
        model: Kind of model.
        about: Kind of run, tickers, days, costs, seed, search candidates and the like.
        judgement: The verdict.
        suspicious: What to do about a balanced accuracy that is too high; empty where it is not.
        remarks: Sentences that belong beside the verdict.
        book: Series of the model.
        baselines: Series of each baseline.
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
    suspicious: str
    remarks: list[str]
    book: Book
    baselines: Mapping[str, Track]
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
        """Everything but the daily series, which can be made from the run's rows."""
        plain = {name: value for name, value in vars(self).items() if name not in {"book", "baselines", "judgement"}}
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


def run_facts(
    mark: Path,
    document: JsonDict,
    rows: pd.DataFrame,
    *,
    tries: Tries | None = None,
    trials: Sequence[JsonDict] = (),
    worth: float = WORTH,
    draws: int = DRAWS,
    seed: int = 0,
) -> RunFacts:
    """Collect the facts of one run.

    Args:
        mark: Its commit mark.
        document: Its walk-forward result or training metadata.
        rows: Its out-of-sample rows.
        tries: How many tries there were on these days; None: not recorded.
        trials: A record of each other try.
        worth: Excess a year below which an edge is not worth trading.
        draws: Bootstrap draws per test.
        seed: Of the bootstrap.
    """
    book, majority = run_book(document, rows), majority_classes(document)
    figures, skipped, tasks = document.get("metrics", document), _skipped(document), _tasks(document)
    opens = (figures["next_open"] or {}).get("edge")
    judgement = judge(
        book,
        opens=None if opens is None else Interval(**opens),
        tries=tries,
        worth=worth,
        data_errors=_data_errors(document, book),
        draws=draws,
        seed=seed,
    )
    return RunFacts(
        name=mark.name.removesuffix(".json").removesuffix("_metadata"),
        model=document["model"],
        about=_about(document, book),
        judgement=judgement,
        suspicious=_suspicious(mark, document, judgement),
        remarks=_remarks(document, book, majority),
        book=book,
        baselines=book.baselines(majority),
        table=_table(figures, document.get("pooled") or figures["model"]),
        folds=[_fold(fold) for fold in document.get("folds", []) if fold["metrics"]],
        reliability=figures.get("reliability", []),
        thresholds=[_threshold(task["fold"], *item) for task in tasks for item in task["threshold"].items()],
        candidates=list(islice(_candidates(tasks), LISTED)),
        importance=_importance(tasks),
        learning=_learning(tasks[-1]),
        price=_price(figures.get("price")),
        per_ticker=_per_ticker(figures["per_ticker"], book, draws=draws, seed=seed),
        coverage=_coverage(document, rows, skipped),
        skipped=skipped,
        trials=list(trials),
    )


def years_to_tell(judgement: Judgement, periods: float) -> str:
    """Say how much longer the record must get."""
    if judgement.psr is None:
        return "cannot be said"
    if judgement.track_record_days is None:
        return "never: the return is not above that of a constant position"
    missing = (judgement.track_record_days - judgement.days) / periods
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


def _about(document: JsonDict, book: Book) -> JsonDict:
    tasks = _tasks(document)
    return {
        "kind": "walk-forward" if "folds" in document else "training",
        "created": document["created"],
        "tickers": list(book.tickers),
        "first": str(book.dates[0]),
        "last": str(book.dates[-1]),
        "days": len(book.dates),
        "rows": len(book.day),
        "cost_bps": book.terms.cost_bps,
        "risk_free": book.terms.risk_free,
        "periods_per_year": book.terms.periods,
        "seed": document["seed"],
        "fits": len(tasks),
        "search_candidates": sum(len(task.get("search", {}).get("candidates", [])) for task in tasks),
        "threshold_choices": sum(len(task["threshold"]) for task in tasks),
    }


def _suspicious(mark: Path, document: JsonDict, judgement: Judgement) -> str:
    if not judgement.suspicious:
        return ""
    command = f"nextbar certify {document['model']} --artifact {shlex.quote(str(mark))}"
    return (
        f"a balanced accuracy of {judgement.balanced_accuracy:.3f} on daily bars is likelier a leak than skill; look "
        f"for it with: {command}"
    )


def _data_errors(document: JsonDict, book: Book) -> list[str]:
    """Name the data errors between each ticker's first row and the bar that its last return ends on."""
    longest = np.timedelta64(document["config"]["max_gap_days"], "D")
    inside: dict[str, list[str]] = {}
    for error in document.get("data_errors", []):
        rows = book.who == (book.tickers.index(error["ticker"]) if error["ticker"] in book.tickers else -1)
        days = book.dates[book.day[rows]]
        if days.size and days[0] <= np.datetime64(error["date"], "D") <= days[-1] + longest:
            inside.setdefault(error["ticker"], []).append(f"{error['date']} {error['detail']}")
    told = [
        f"{ticker} has {len(found)} data error{'' if len(found) == 1 else 's'} inside the test days ({listed(found)})"
        for ticker, found in inside.items()
    ]
    # A document lists the first hundred alone, and counts all.
    kept = len(document.get("data_errors", []))
    more = document.get("data_error_counts", {}).get("test", kept) - kept
    return [*told, f"{more:,} more data errors there are counted, not listed"] if more > 0 else told


def _remarks(document: JsonDict, book: Book, majority: Majority | None) -> list[str]:
    figures = document.get("metrics", document)
    remarks = [_trading(document.get("pooled") or figures["model"], book), *document.get("remarks", [])]
    if held := _over_holes(book):
        remarks.append(held)
    if (ends := figures.get("delisting") or {}).get("tickers"):
        remarks.append(
            f"Tickers that ended inside the days: {ends['tickers']}, {ends['open']} of them with an open position. "
            f"A return of -30 % there, instead of the last close, would change the portfolio by "
            f"{100 * ends['effect']:+.1f} %."
        )
    if "periods_per_year" not in document:
        remarks.append(
            "An earlier version made this file: its tables hold the figures of that version, while the verdict and the "
            "pictures follow today's rules."
        )
    if "data_errors" not in document:
        remarks.append("The file does not say whether its bars have data errors; nextbar check does.")
    if majority is None:
        remarks.append("The file does not say the majority class of train, so that baseline is left out.")
    if plain := [ticker for ticker, data in document["data"].items() if data["adjustment"] == "none"]:
        remarks.append(f"{len(plain)} tickers have no adjusted close: splits and dividends look like price moves.")
    return remarks


def _trading(figures: JsonDict, book: Book) -> str:
    """Say how often the model trades, what trading may cost, and how it moves with always long."""
    trips, cost = book.model.round_trips, break_even_bps(book)
    said = f"{trips:,} round trip{'' if trips == 1 else 's'}"
    if cost is not None:
        said += (
            f"; break-even cost of the excess {cost:.1f} basis points" if cost > 0 else "; no excess even without costs"
        )
    if figures.get("alpha") is None:
        return f"{said}."
    error = "" if figures.get("alpha_t") is None else f" (t = {figures['alpha_t']:.2f}, Newey-West)"
    alpha, beta = f"{100 * figures['alpha']:+.1f} % a year{error}", f"{figures['beta']:.2f}"
    return f"{said}. Against always long: alpha {alpha}, beta {beta}."


def break_even_bps(book: Book) -> float | None:
    """Basis points per change of position by 1 at which the excess is 0; None where no position changes."""
    more = float((book.model.traded - book.constant.traded).sum())
    return book.terms.cost_bps + 1e4 * float(book.edge.sum()) / more if more > 0 else None


def _over_holes(book: Book) -> str:
    """Say what positions held into holes earned there; empty where there were none."""
    position = book.carried(book.signal)
    before = np.vstack([np.zeros((1, position.shape[1])), position[:-1]])
    earned = (before * book.scattered(book.gap))[(before != 0) & (book.scattered(book.gap) != 0)]
    return (
        f"Positions held into holes in the bars: {earned.size}; together they earned "
        f"{100 * earned.sum() / len(book.tickers):+.1f} % of the portfolio on the first bar after the hole."
        if earned.size
        else ""
    )


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


def _per_ticker(figures: Mapping[str, JsonDict], book: Book, *, draws: int, seed: int) -> list[JsonDict]:
    """Figures with the p-value that the excess of that ticker is luck, plain and adjusted for their number."""
    books = {name: book.only(name) for name in book.tickers}
    excess = pd.DataFrame({name: pd.Series(one.edge, index=one.dates) for name, one in books.items()})
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
