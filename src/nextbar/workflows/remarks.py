"""Remarks about a run: sentences for the screen, the document and the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import pandas as pd

from nextbar.config import CommonConfig
from nextbar.datasets.splits import Fold
from nextbar.evaluation.walkforward import ALL, FoldResult, FoldTask
from nextbar.features.indicators import days_of, gaps
from nextbar.features.spec import LEVELS, RELATIVE, FeatureSpec
from nextbar.market.checks import Finding
from nextbar.models import registry
from nextbar.types import BoolArray, DateArray, JsonDict
from nextbar.words import listed, plural
from nextbar.workflows.universe import Universe

LISTED = 6
"""Most tickers that have a sentence each; more share one."""
ERRORS_KEPT = 100
CUT_DAYS = 7
"""Calendar days that a window may end after the last bar without being cut short: weekends and holidays."""
SHORT, FEW = 0.9, 5
"""A window is short with less than this share of the days that it spans, and at least so many fewer."""
KINDS = {
    "validation": "validation has one class",
    "trees": "boosting stopped after its first tree",
    "threshold": "the threshold is 0.5 because none could be chosen",
    "test": "all test days are predicted alike",
}
"""Kinds of `nextbar.evaluation.diagnostics`, in words for several fits together."""


@dataclass(kw_only=True)
class Facts:
    """Facts from which the remarks about a run are made.

    Attributes:
        fits: (ticker, what is degenerate) of each fit, of each ticker of a fit.
        pooled: (name, what is degenerate) of each pooled fit as a whole.
        test_errors: Errors in the bars of the days that are scored.
        train_errors: Errors in the bars of train and validation.
        missing: Ticker → bars that lack a feature beyond the warm-up, and all bars of the splits, where any does.
        outside: Sentences about test rows beyond what the scalers of a network were fitted on.
    """

    fits: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)
    pooled: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)
    test_errors: list[Finding] = field(default_factory=list)
    train_errors: list[Finding] = field(default_factory=list)
    missing: dict[str, tuple[int, int]] = field(default_factory=dict)
    outside: list[str] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        results: Sequence[FoldResult],
        rows: pd.DataFrame,
        universe: Universe,
        price: Mapping[str, float | None] | None = None,
    ) -> Facts:
        """Collect the facts of the fits of one run, its out-of-sample rows, and its price errors."""
        facts = cls(
            fits=[(ticker, one.facts["degenerate"].get(ticker, {})) for one in results for ticker in one.splits],
            pooled=[(ALL, one.facts["degenerate"].get(ALL, {})) for one in results if "pooled" in one.facts],
            missing=_missing(results),
            outside=_outside(results, price or {}),
        )
        for ticker in sorted(({ticker for ticker, _ in facts.fits} | set(rows["ticker"])) & set(universe.errors)):
            errors, days = universe.errors[ticker], days_of(universe.bars[ticker].frame)
            decided = np.isin(days, rows.loc[rows["ticker"] == ticker, "date"].to_numpy().astype(days.dtype))
            # The return of a day ends with the bar after it.
            facts.test_errors += errors_on(errors, days, decided | np.append(False, decided[:-1]))
            facts.train_errors += errors_on(errors, days, _fitted(days, [one.splits.get(ticker) for one in results]))
        return facts

    def add(self, other: Facts) -> None:
        """Add the facts of another run."""
        for item in fields(self):
            own, others = getattr(self, item.name), getattr(other, item.name)
            (own.update if isinstance(own, dict) else own.extend)(others)

    def to_json(self, remarks: Sequence[str]) -> JsonDict:
        """Return the facts as a run's document holds them, with its remarks."""
        keys = ("ticker", "date", "rule", "detail")
        return {
            "remarks": list(remarks),
            "data_errors": [{key: getattr(one, key) for key in keys} for one in self.test_errors[:ERRORS_KEPT]],
            "data_error_counts": {"test": len(self.test_errors), "train": len(self.train_errors)},
        }


def remarks_of(facts: Facts, universe: Universe, config: CommonConfig) -> list[str]:
    """Return sentences about data errors, holes, degenerate fits and days without trade."""
    frames = {ticker: universe.bars[ticker].frame for ticker, _ in facts.fits}
    return [
        *tell_errors(facts.test_errors, "inside the test days", "no verdict is given on such days"),
        *tell_errors(facts.train_errors, "inside train and validation", "nextbar check says what to do"),
        *_holes(universe, frames),
        *_counted(facts.missing, _tell_missing),
        *_degenerate(facts.pooled),
        *_degenerate(facts.fits),
        *facts.outside,
        *_untraded({ticker: frame["Volume"] for ticker, frame in frames.items()}),
        *_about_relative({ticker: frame["Volume"] for ticker, frame in frames.items()}, config),
    ]


def errors_on(errors: Sequence[Finding], days: DateArray, chosen: BoolArray) -> list[Finding]:
    """Return errors of a ticker on chosen days [bars]; that of a bar that was left out counts for the next bar."""
    dates = np.array([error.date for error in errors], dtype="datetime64[D]")
    inside = np.append(chosen, False)[np.searchsorted(days, dates)] & (dates >= days[0])
    return [error for error, found in zip(errors, inside, strict=True) if found]


def tell_errors(errors: Sequence[Finding], where: str, consequence: str) -> list[str]:
    """Return a sentence per ticker, or one about many tickers."""
    found: dict[str, list[Finding]] = {}
    for error in errors:
        found.setdefault(error.ticker, []).append(error)
    if len(found) > LISTED:
        names = listed(list(found), LISTED, "tickers")
        return [f"{names} have {plural(len(errors), 'data error')} {where}; {consequence}"]
    return [
        f"{ticker} has {plural(len(own), 'data error')} {where} ({_example(own)}); {consequence}"
        for ticker, own in found.items()
    ]


def cut_windows(universe: Universe, folds: Sequence[Fold], tasks: Sequence[FoldTask]) -> list[str]:
    """Return sentences about windows of a walk-forward that hold fewer days than they span."""
    dates = universe.dates()
    last = max(days[-1] for days in dates.values())
    table = pd.DataFrame(_windows(universe, folds, tasks))
    # Windows of the tickers whose bars go on to the last day end with it, not with a hole.
    late = table["end"] > last + np.timedelta64(CUT_DAYS, "D")
    ended = late & table["ticker"].map({ticker: days[-1] == last for ticker, days in dates.items()})
    lines = _warmup(table[table["name"] == "train"], universe.warmup)
    for window in table[ended].head(1).itertuples():
        held = f"{window.days} of about {window.about} days"
        lines.insert(0, f"the last test window holds {held}: the history ends on {last}")
    missing = table["about"] - table["days"]
    short = table[~ended & (missing >= FEW) & (missing > (1 - SHORT) * table["about"])]
    sentences = {str(ticker): _worst(own) for ticker, own in short.groupby("ticker", sort=False)}
    return [*lines, *_each_or_all(sentences, _worst(short) if len(short) else "")]


def _windows(universe: Universe, folds: Sequence[Fold], tasks: Sequence[FoldTask]) -> Iterator[JsonDict]:
    """Give each window of a fit: its days, those that are no warm-up, about how many it spans, and its end."""
    by_number = {fold.number: fold for fold in folds}
    density = {ticker: _density(days, universe.max_gap_days) for ticker, days in universe.dates().items()}
    for task in tasks:
        days = by_number[task.fold].days
        for ticker, border in task.borders.items():
            rows = (border.train, border.val, border.test, border.end)
            for at, name in enumerate(("train", "validation", "test")):
                yield {
                    "ticker": ticker,
                    "fold": task.fold,
                    "name": name,
                    "days": rows[at + 1] - rows[at],
                    "usable": int(universe.usable[ticker][rows[at] : rows[at + 1]].sum()),
                    "about": round((days[at + 1] - days[at]).days * density[ticker]),
                    "end": np.datetime64(days[at + 1], "s"),
                }


def _density(days: DateArray, max_gap_days: int) -> float:
    """Return the bars per calendar day, holes left out."""
    steps = np.diff(days).astype(np.int64)[~gaps(days, max_gap_days)[1:]]
    return len(steps) / max(int(steps.sum()), 1)


def _warmup(trains: pd.DataFrame, warmup: int) -> list[str]:
    """Say what the warm-up takes from the tickers' first train windows, where it takes the most."""
    first = trains.drop_duplicates("ticker")
    cut = first[first["usable"] < first["days"]].sort_values("usable", kind="stable")
    if cut.empty:
        return []
    least = cut.iloc[0]
    whose = f" of {least['ticker']}, the fewest of {len(cut)} tickers" if len(cut) > 1 else ""
    left = f"{least['usable']} of {least['days']} train days in the first window"
    return [f"the warm-up of {warmup} bars leaves {left}{whose}"]


def _worst(short: pd.DataFrame) -> str:
    worst = short.iloc[int((short["days"] / short["about"]).argmin())]
    held = f"{worst['days']} of about {worst['about']} days"
    window = f"the {worst['name']} window of fold {worst['fold']} holds {held}"
    return window if len(short) == 1 else f"{len(short)} windows are cut short; the worst: {window}"


def _holes(universe: Universe, tickers: Iterable[str]) -> list[str]:
    """Say for which of these tickers indicators start again, and how many bars are lost to it."""
    counts = {}
    for ticker in tickers:
        if holes := int(gaps(days_of(universe.bars[ticker].frame), universe.max_gap_days).sum()):
            usable = universe.usable[ticker]
            counts[ticker] = (holes, int((~usable).sum()), len(usable))

    def tell(holes: int, lost: int, bars: int) -> str:
        again = f"indicators start again after {plural(holes, 'hole')} of more than {universe.max_gap_days} days"
        return f"{again}; {lost:,} of {bars:,} bars are warm-up"

    return _counted(counts, tell)


def _missing(results: Sequence[FoldResult]) -> dict[str, tuple[int, int]]:
    """Count the bars that lack a feature, ticker by ticker, in the fold in which most do."""
    found: dict[str, tuple[int, int]] = {}
    for ticker, split in (pair for one in results for pair in one.splits.items()):
        if missing := split.get("lost", {}).get("missing", 0):
            bars = sum(split[name]["rows"] for name in ("train", "val", "test"))
            found[ticker] = max(found.get(ticker, (0, 0)), (missing, bars))
    return found


def _tell_missing(missing: int, bars: int) -> str:
    lacking = f"{missing:,} of {bars:,} bars lack a feature after the warm-up and are not used as samples"
    return f"{lacking}; check the column, or raise --warmup"


def _degenerate(fits: Sequence[tuple[str, Mapping[str, str]]]) -> list[str]:
    """Say which fits are degenerate, ticker by ticker; count them where there are many tickers."""
    by_ticker: dict[str, list[Mapping[str, str]]] = {}
    for ticker, found in fits:
        by_ticker.setdefault(ticker, []).append(found)
    sentences = {ticker: _fits_of_one(found) for ticker, found in by_ticker.items() if any(found)}
    if len(sentences) <= LISTED:
        return _each_or_all(sentences, "")
    counted = {kind: Counter(ticker for ticker, found in fits if kind in found) for kind in KINDS}
    return [
        f"{text} in {counted[kind].total():,} of {len(fits):,} fits ({listed(list(counted[kind]), LISTED, 'tickers')})"
        for kind, text in KINDS.items()
        if counted[kind]
    ]


def _fits_of_one(found: Sequence[Mapping[str, str]]) -> str:
    if len(found) == 1:
        words = [found[0][kind] for kind in KINDS if kind in found[0]]
        return "; ".join([words[0], ", ".join(words[1:])]) if words[1:] else words[0]
    counted = Counter(kind for one in found for kind in one)
    return ", ".join(f"{KINDS[kind]} in {counted[kind]} of {len(found)} folds" for kind in KINDS if counted[kind])


def _untraded(volumes: Mapping[str, pd.Series[float]]) -> list[str]:
    """Say which tickers have days without trade; an index, which never has a volume, is left out."""
    counts = {ticker: (int((volume == 0).sum()), len(volume)) for ticker, volume in volumes.items()}
    counts = {ticker: count for ticker, count in counts.items() if 0 < count[0] < count[1]}

    def tell(none: int, days: int) -> str:
        return f"no trade on {none:,} of {days:,} days (volume 0); a close that does not move counts as DOWN"

    return _counted(counts, tell)


def _about_relative(volumes: Mapping[str, pd.Series[float]], config: CommonConfig) -> list[str]:
    """Say where the set ``relative`` lacks what it is made from, and where a model cannot learn its target from it."""
    sets, said = FeatureSpec.of(config).sets, list[str]()
    if RELATIVE not in sets:
        return said
    if lacking := [ticker for ticker, volume in volumes.items() if not volume.notna().any()]:
        said.append(f"no bar of {listed(lacking, LISTED, 'tickers')} has a volume: the column volume_z_20 is 0 there")
    kind = registry.KINDS.get(str(vars(config).get("model")))
    if LEVELS not in sets and kind is not None and kind.load().predicts == "close":
        said.append("columns without a unit do not tell how high a close is, which is the target: add the set levels")
    return said


def _outside(results: Sequence[FoldResult], price: Mapping[str, float | None]) -> list[str]:
    """Say how many test rows are beyond the range that a network's scalers were fitted on, and how far it is off."""
    found = [
        (share, one.splits[ticker]["test"]["rows"])
        for one in results
        for ticker, share in one.facts.get("test_share_outside_scaler", {}).items()
    ]
    errors = [price.get(f"mean_{name}_rmse_percent") for name in ("price", "persistence")]
    if not sum(rows for _, rows in found) or None in errors:
        return []
    share = sum(share * rows for share, rows in found) / sum(rows for _, rows in found)
    told = f"{100 * share:.1f} % of the test rows lie outside the fitted range"
    return [f"{told}; error {errors[0]:.1f} %, persistence {errors[1]:.1f} %; see --target return"]


def _fitted(days: DateArray, splits: Iterable[JsonDict | None]) -> BoolArray:
    """Return [bars] whether a bar is in train or validation of any fit."""
    inside: BoolArray = np.zeros(len(days), dtype=np.bool_)
    for part in (split[name] for split in splits if split is not None for name in ("train", "val")):
        if part["rows"]:
            first, last = (np.datetime64(part[end], "D") for end in ("first", "last"))
            inside |= (days >= first) & (days <= last)
    return inside


def _counted(counts: Mapping[str, Sequence[int]], tell: Callable[..., str]) -> list[str]:
    """Return a sentence per ticker, or one sentence with the sums where there are many tickers."""
    total = [sum(column) for column in zip(*counts.values(), strict=True)]
    return _each_or_all({ticker: tell(*count) for ticker, count in counts.items()}, tell(*total) if total else "")


def _each_or_all(sentences: Mapping[str, str], together: str) -> list[str]:
    """Return a sentence per ticker, or one sentence where there are many tickers."""
    if len(sentences) > LISTED:
        return [f"{listed(list(sentences), LISTED, 'tickers')}: {together}"]
    return [f"{ticker}: {text}" for ticker, text in sentences.items()]


def _example(errors: Sequence[Finding]) -> str:
    more = f", and {len(errors) - 1} more" if len(errors) > 1 else ""
    return f"{errors[0].date} {errors[0].detail.partition(' in a day')[0]}{more}"
