"""Facts of a report, as numbers: computed here and nowhere else; figures draw them, the page shows them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

import numpy as np
import pandas as pd
from msgspec import to_builtins

from nextbar.config import WORTH
from nextbar.evaluation.course import by_month, daily_correlations, rolling_sharpe, spread, worst_drawdowns
from nextbar.evaluation.figures import by_year
from nextbar.evaluation.series import Book
from nextbar.evaluation.significance import DRAWS, Tries, adjusted_pvalues, positive_mean_pvalues
from nextbar.evaluation.verdict import Judgement
from nextbar.models.registry import KINDS
from nextbar.reports.sentences import certificate_said, remarks_of, suspicion
from nextbar.runs.document import Document, Figures, Prices, RecentPrices
from nextbar.runs.fit import Curve, Task, ThresholdRecord
from nextbar.runs.run import Run
from nextbar.runs.trial import Trial
from nextbar.runs.verdict import judge_run
from nextbar.scoring.metrics import BASELINES
from nextbar.types import JsonDict

PLATEAU = 0.1
"""Thresholds whose score is at most this much below the chosen one's are as good."""
SPLIT = 1.25
"""A quoted close this many times above or below what was tomorrow's close the day before was split."""
FOREVER_YEARS = 1000
HIDDEN = {"run", "counted", "book", "baselines", "judgement", "called", "rolling", "rank_ic"}
"""Facts that stand elsewhere in a page's JSON, or can be made from the rows of the run."""
LEAST_BIN = 30
"""Rows that a bin of the reliability diagram needs."""
WITHIN = 1.96
"""Standard errors on either side of a 95 % interval."""
LISTED = 100
"""Most search candidates, and thresholds, on a page: a walk-forward has thousands."""
ROWS = {
    "model": "model",
    "one_bar_late": "model, one bar late",
    "next_open": "model, at the next open",
    "after_last_training_day": "model, after every training day",
    **BASELINES,
}
WEIGHTED = "Class weights distort a forest's or a booster's probabilities: read the diagram for order, not for level."


class RunFacts:
    """A run with its verdict and what a page shows of it.

    Args:
        run: The run.
        tries: How many tries there were on these days; None: not recorded.
        trials: The other tries.
        worth: Excess a year below which an edge is not worth trading.
        draws: Bootstrap draws per test.
        counted: Whether a ledger counts the run.
        called: What to call the run beside others; default: its model.
    """

    def __init__(
        self,
        run: Run,
        *,
        tries: Tries | None = None,
        trials: Sequence[Trial] = (),
        worth: float = WORTH,
        draws: int = DRAWS,
        counted: bool = True,
        called: str | None = None,
    ) -> None:
        document, book = run.document, run.book
        fits = document.fits
        self.run, self.counted = run, counted
        self.book, self.baselines = book, book.baselines(document.majority)
        self.judgement = judge_run(run, tries=tries, worth=worth, draws=draws)
        self.name, self.model, self.called = run.name, document.model, called or document.model
        self.label = run.config.name or document.model
        self.about = _about(document, book)
        self.certificate = certificate_said(run)
        self.title = f"{kind_name(document.model)}, {span_text([self.about])}"
        self.title += ", opened holdout" if document.kind == "holdout" else ""
        if run.config.name is not None:
            self.title = f"{self.label}: {self.title}"
        self.suspicious = suspicion(run, self.judgement)
        self.remarks = remarks_of(document, book)
        self.table = _table(document)
        self.folds = _folds(document)
        self.reliability = [_bin(one) for one in document.reliability or []]
        self.thresholds = [_threshold(number, *item) for number, task in fits for item in task.threshold.items()]
        self.candidates = list(islice(_candidates(fits), LISTED))
        self.importance = _importance([task for _, task in fits])
        self.learning = _learning(fits[-1][1]) if fits else None
        self.price = _price(document.price)
        self.by_year, self.by_month = by_year(book), by_month(book.dates, book.model.net)
        self.drawdowns = worst_drawdowns(book.dates, book.model.net)
        self.spread = spread(book.dates, book.model.net)
        self.rolling = _rolling(book)
        self.rank_ic = found if len((found := daily_correlations(book))[1]) else None
        self.per_ticker = _per_ticker(document.per_ticker, book, draws=draws)
        self.coverage = _coverage(document, run.rows)
        self.skipped: list[JsonDict] = to_builtins(document.skipped)
        self.trials = [trial.to_json() for trial in trials]

    def to_json(self) -> JsonDict:
        """Return everything but the daily series, which can be made from the run's rows."""
        plain = {name: value for name, value in vars(self).items() if name not in HIDDEN}
        return {"verdict": self.judgement.to_json(), **plain}


def kind_name(model: str) -> str:
    """Return the name of a kind of model in a heading; a model of the user's own has the name that it was given."""
    return KINDS[model].name if model in KINDS else model.replace("_", " ").capitalize()


def span_text(runs: Sequence[JsonDict]) -> str:
    """Say in a heading which stocks and years some runs, given by what is said ``about`` each, are of."""
    tickers = list(dict.fromkeys(name for about in runs for name in about["tickers"]))
    first, last = min(about["first"] for about in runs)[:4], max(about["last"] for about in runs)[:4]
    whose = tickers[0] if len(tickers) == 1 else f"{len(tickers)} stocks"
    return f"{whose}, {first}" if first == last else f"{whose}, {first}–{last}"


def years_to_tell(judgement: Judgement, periods: float) -> str:
    """Say how much longer the record must get."""
    if judgement.psr is None:
        return "cannot be said"
    if judgement.track_record_days is None:
        return "it would never be long enough, because the return is not above that of a constant position"
    missing = (judgement.track_record_days - judgement.days) / periods
    if missing <= 0:
        return "the record is long enough"
    if missing > FOREVER_YEARS:
        return f"more than {FOREVER_YEARS:,} years at this Sharpe ratio"
    return f"{missing:.{0 if missing >= 10 else 1}f} more years at this Sharpe ratio"


def _about(document: Document, book: Book) -> JsonDict:
    tasks = [task for _, task in document.fits]
    return {
        "kind": {"walkforward": "walk-forward", "train": "training", "holdout": "opened holdout"}.get(
            document.kind, document.kind
        ),
        "created": document.created,
        "tickers": list(book.tickers),
        "begins": min([str(book.dates[0]), *(str(one.train.first) for task in tasks for one in task.splits.values())]),
        "first": str(book.dates[0]),
        "last": str(book.dates[-1]),
        "days": len(book.dates),
        "rows": len(book.day),
        "cost_bps": book.terms.cost_bps,
        "risk_free": book.terms.risk_free,
        "periods_per_year": book.terms.periods,
        "seed": document.seed,
        "fits": len(tasks),
        "search_candidates": sum(len(task.search.candidates) for task in tasks if task.search),
        "threshold_choices": sum(len(task.threshold) for task in tasks),
    }


def _rolling(book: Book) -> JsonDict | None:
    """Return Sharpe ratios of the last year, of the model and of its constant position; None on shorter records."""
    window = round(book.terms.periods)
    if len(book.dates) <= window:
        return None
    tracks = {"model": book.model, "constant_exposure": book.constant}
    return {
        "window": window,
        "dates": book.dates[window - 1 :],
        **{
            name: rolling_sharpe(track.excess, book.terms.periods, window)[window - 1 :]
            for name, track in tracks.items()
        },
    }


def _bin(found: Figures) -> JsonDict:
    """Add to a bin of probabilities the 95 % interval of the share that rose (Wilson 1927), rows independent."""
    n, share = found["count"] or 0, found["positive_share"]
    if not n or share is None:
        return {**found, "low": None, "high": None}
    centre, scale = share + WITHIN**2 / (2 * n), 1 + WITHIN**2 / n
    half = WITHIN * (share * (1 - share) / n + WITHIN**2 / (4 * n**2)) ** 0.5
    return {**found, "low": (centre - half) / scale, "high": (centre + half) / scale}


def _table(document: Document) -> list[JsonDict]:
    later = document.after_last_training_day
    found: JsonDict = {
        "model": document.pooled,
        "one_bar_late": document.one_bar_late,
        "next_open": to_builtins(document.next_open),
        "after_last_training_day": later and later.model,
        **document.baselines,
    }
    return [{"row": row, "label": label, **found[row]} for row, label in ROWS.items() if found.get(row)]


def _folds(document: Document) -> list[JsonDict]:
    """Return dates and figures of each fold of a walk-forward that has rows."""
    found = []
    for fold in document.folds if document.recipe == "walkforward" else []:
        if fold.metrics is not None:
            model, long = fold.metrics.model, fold.metrics.baselines["always_long"]
            window = ("number", "train_start", "val_start", "test_start", "test_end", "rows")
            figures = {key: model[key] for key in ("balanced_accuracy", "sharpe", "max_drawdown", "total_return")}
            dates = {key: getattr(fold, key) for key in window}
            found.append({**dates, **figures, "always_long_sharpe": long["sharpe"]})
    return found


def _candidates(fits: Sequence[tuple[int, Task]]) -> Iterator[JsonDict]:
    for number, task in fits:
        if (search := task.search) is not None:
            for one in search.candidates:
                chosen = one.rank == 1 and one.params == search.params
                found = {"fold": number, "ticker": task.name, "params": one.params, "score": one.mean}
                yield {**found, "chosen": chosen}


def _threshold(fold: int, ticker: str, choice: ThresholdRecord) -> JsonDict:
    found = {key: getattr(choice, key) for key in ("threshold", "objective", "score")}
    if choice.curve is not None:
        found |= {"curve": to_builtins(choice.curve), "plateau": _plateau(choice, choice.curve)}
    return {"fold": fold, "ticker": ticker, **found}


def _plateau(choice: ThresholdRecord, curve: Curve) -> list[float] | None:
    """Return the lowest and highest neighbouring thresholds that score about as well as the chosen one."""
    if choice.score is None:
        return None
    grid = np.array(curve.threshold)
    good = np.array(curve.score, dtype=np.float64) >= choice.score - PLATEAU
    at = int(np.argmin(np.abs(grid - choice.threshold)))
    bad = np.flatnonzero(~good)
    low = bad[bad < at].max(initial=-1) + 1
    high = bad[bad > at].min(initial=len(grid)) - 1
    return [float(grid[low]), float(grid[high])]


def _importance(tasks: Sequence[Task]) -> dict[str, JsonDict]:
    """Return the mean over fits of each column's share, permutation importance and absolute contribution (SHAP)."""
    shares, shuffled, added = (
        pd.DataFrame([found for task in tasks if (found := getattr(task, name))]).mean()
        for name in ("importance", "permutation_importance", "contributions")
    )
    return {
        str(name): {"share": share, "permutation": shuffled.get(name), "contribution": added.get(name)}
        for name, share in shares.items()
    }


def _learning(task: Task) -> JsonDict | None:
    details = task.details
    if epochs := details.get("history"):
        curves = {key: [epoch[key] for epoch in epochs] for key in ("loss", "val_loss")}
        return {"step": "epoch", "measure": "mean squared error", "best": details["best_epoch"], **curves}
    if losses := details.get("validation_logloss"):
        best = details["best_iteration"]
        return {"step": "tree", "measure": "log loss", "best": best, "loss": None, "val_loss": losses}
    return None


def _price(figures: Prices | None) -> JsonDict | None:
    if figures is None:
        return None
    return {
        **to_builtins(figures),
        "skill": figures.skill,
        "recent": {name: _in_last_terms(days) for name, days in figures.recent.items()},
    }


def _in_last_terms(days: RecentPrices) -> JsonDict:
    """Return quoted closes of consecutive days, before a split in the prices after it; ``splits`` counts splits."""
    step = np.array(days.actual[:-1]) / np.array(days.persistence[1:])
    step[(step < SPLIT) & (step > 1 / SPLIT)] = 1.0
    factor = np.append(np.cumprod(step[::-1])[::-1], 1.0)
    prices = {key: (np.array(getattr(days, key)) / factor).tolist() for key in ("predicted", "actual", "persistence")}
    return {"date": days.date, "splits": int((step != 1.0).sum()), **prices}


def _per_ticker(figures: Mapping[str, Figures], book: Book, *, draws: int) -> list[JsonDict]:
    """Return figures with the p-value that a ticker's excess is luck, plain and adjusted for the number of tickers."""
    books = {name: book.only(name) for name in book.tickers}
    excess = pd.DataFrame({name: pd.Series(one.edge, index=one.dates) for name, one in books.items()})
    pvalues = positive_mean_pvalues(excess.to_numpy(), draws=draws)
    together = zip(excess.columns, pvalues.tolist(), adjusted_pvalues(pvalues).tolist(), strict=True)
    return [{"ticker": name, **figures[name], "p": p, "p_adjusted": adjusted} for name, p, adjusted in together]


def _coverage(document: Document, rows: pd.DataFrame) -> list[JsonDict]:
    scored = {str(ticker): days for ticker, days in rows.groupby("ticker")["date"]}
    windows = {fold.number: [fold.test_start, fold.test_end] for fold in document.folds}
    missed: dict[str, list[list[str]]] = {}
    for skip in document.skipped:
        if skip.fold in windows:
            missed.setdefault(skip.ticker, []).append(windows[skip.fold])
    return [
        {
            "ticker": ticker,
            **{key: getattr(data, key) for key in ("bars", "first", "last", "adjustment")},
            "scored": len(scored.get(ticker, ())),
            "scored_first": str(scored[ticker].min().date()) if ticker in scored else None,
            "scored_last": str(scored[ticker].max().date()) if ticker in scored else None,
            "left_out": missed.get(ticker, []),
        }
        for ticker, data in document.data.items()
    ]
