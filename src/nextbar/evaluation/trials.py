"""Does a decision depend on a bar after its day? Change those bars, run again, compare every bit.

A trial is one run of a fold, as it is or on bars that are changed from a day on, with the same splits. In a worker,
`begin` makes the first run and tries the features, and `run_trial` makes another run; `plan_trials` lists these.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from nextbar.datasets.prices import BASE
from nextbar.datasets.samples import Bars, add_panel
from nextbar.errors import FeatureError
from nextbar.evaluation.reads import Reads
from nextbar.evaluation.stages import (
    Evidence,
    Finding,
    as_frame,
    compare,
    compare_tables,
    digest_table,
    examine,
    first_difference,
)
from nextbar.evaluation.truncation import Source, Truncation, truncate
from nextbar.evaluation.walkforward import FoldTask, fit_fold
from nextbar.features.indicators import days_of
from nextbar.models.base import Report
from nextbar.models.reproducibility import StageCache, digest_text
from nextbar.types import BoolArray, Border, DateArray, FeatureTable, FloatArray

WAYS = ("garbage", "times 100", "times 0.01", "reversed", "drawn days")
RESCALED = "adj_close times 0.5"
HOLE = 2
"""Bars before a border that both runs lack when backward fills are looked for."""
STARTS = 8
"""Later starts of the history that warmed-up indicators are compared with."""
SLACK = 10.0
"""The stated share is of the disagreement at the start, which can be several times what an indicator moves later."""

Key = tuple[int, int]
"""A run among those that are certified together, and a fit of it."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run of a fold.

    Attributes:
        whole: Try every way at every border, and the features by themselves; else one of the ways, in turn, because a
            walk-forward has many folds.
        seconds: Most time for leaving bars out, a ticker.
        ways: How bars are changed.
        part: One of `nextbar.evaluation.stages.PARTS`, or ``artifact``: bars as they are.
        cut: First day that is changed (for a rescaled past: that is not).
        way: How it is changed.
    """

    task: FoldTask
    key: Key = (0, 0)
    whole: bool = True
    seconds: float = 120
    ways: Sequence[str] = WAYS
    part: str = "artifact"
    cut: np.datetime64 | None = None
    way: str = "as it is"

    def finding(self, **facts: Any) -> Finding:
        """Return a finding about the run as a whole."""
        border = "" if self.cut is None else str(self.cut)
        return Finding(part=self.part, border=border, way=self.way, stage="run", ticker=self.task.name, **facts)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was found out about a fold or a user's function, and what its trials need.

    Attributes:
        truncations: What leaving bars out showed; a worker tries only built-in features, a new process the user's.
        features: Ticker → digest of its features.
        digests: As in the document of the run.
        evidence: Tables of the stages.
        known: Outcomes of stages by their input, for trials that leave the input as it is.
    """

    findings: list[Finding] = field(default_factory=list)
    truncations: list[Truncation] = field(default_factory=list)
    reads: list[Reads] = field(default_factory=list)
    features: Mapping[str, str] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    evidence: Evidence = field(default_factory=dict)
    known: Mapping[str, bytes] = field(default_factory=dict)


def begin(trial: Trial, bars: Mapping[str, Bars], report: Report) -> Found:
    """Run a fold as it is, and try the features of its tickers."""
    cache, task = StageCache(), trial.task
    fold = fit_fold(task, bars, report, cache)
    findings, truncations = list[Finding](), list[Truncation]()
    own = replace(task.spec, panel=())  # the columns over all tickers are tried by themselves
    for data in fold.panel if trial.whole and (own.sets or own.functions) else ():
        ticker = data.table.ticker
        source = Source(ticker=ticker, frame=bars[ticker].frame, spec=own, max_gap_days=task.config.max_gap_days)
        findings += [*try_features(source, data.border, trial.ways), *try_warmup(source)]
        if not own.functions:
            truncations.append(truncate(source, seconds=trial.seconds))
    return Found(
        findings=findings,
        truncations=truncations,
        digests=fold.digests,
        features={data.table.ticker: _own_digest(data.table, bars[data.table.ticker]) for data in fold.panel},
        evidence=examine(fold, task.name),
        known=cache.new_entries(),
    )


def _own_digest(table: FeatureTable, bars: Bars) -> str:
    """Digest of a ticker's features without the columns over all tickers, which are the last."""
    features = as_frame(table)
    return digest_table(features if bars.panel is None else features.iloc[:, : -bars.panel.shape[1]])


def run_trial(trial: Trial, shared: tuple[Mapping[str, Bars], Mapping[Key, Found]], report: Report) -> list[Finding]:
    """Run a fold on changed bars and compare all that must not have moved.

    Of a fold that is not tried as a whole one finding says that all stages passed.
    """
    bars, baselines = shared
    base, task, cut = baselines[trial.key], trial.task, trial.cut
    assert cut is not None, "bars are changed from some day on"
    change = partial(rescale_past, cut=cut) if trial.way == RESCALED else partial(change_future, cut=cut, way=trial.way)
    names = bars if task.spec.panel else task.borders  # the others' bars decide, too
    changed = add_panel(task.spec, {name: bars[name].changed(name, change) for name in names})
    fold = fit_fold(task, changed, report, StageCache(base.known))
    found = compare(base.evidence, examine(fold, task.name), part=trial.part, cut=cut, way=trial.way)
    if trial.whole or not all(finding.passed for finding in found):
        return found
    digests = tuple(digest_text("".join(finding.digests[side] for finding in found)) for side in (0, 1))
    rows, note = sum(finding.rows for finding in found), f"{len(found)} stages of fold {task.fold}"
    return [trial.finding(rows=rows, digests=digests, note=note)]


def plan_trials(first: Trial, bars: Mapping[str, Bars]) -> list[Trial]:
    """Plan every (border, way) of a fold; the rescaled past where all its prices are adjusted from stored bars."""
    ways = first.ways if first.whole else (first.ways[first.task.fold % len(first.ways)],)
    own = {name: bars[name] for name in first.task.borders}
    cuts = model_cuts(first.task.borders, {name: days_of(item.frame) for name, item in own.items()})
    adjusted = all(item.adjustment == "forward" and item.raw is not None for item in own.values())
    found = [replace(first, part=part, cut=cut, way=way) for part, cut in cuts.items() for way in ways]
    if adjusted and "inside test" in cuts:
        found.append(replace(first, part="rescaled past", cut=cuts["inside test"], way=RESCALED))
    return found


def model_cuts(borders: Mapping[str, Border], dates: Mapping[str, DateArray]) -> dict[str, np.datetime64]:
    """Return the first changed day of each part, one for all tickers of a fold; none where no ticker has a bar left."""
    rows = {
        "end of train": {name: border.val for name, border in borders.items()},
        "end of validation": {name: border.test for name, border in borders.items()},
        "inside test": {name: (border.test + border.end + 1) // 2 for name, border in borders.items()},
    }
    days = {part: [dates[name][row] for name, row in at.items() if row < len(dates[name])] for part, at in rows.items()}
    return {part: min(some) for part, some in days.items() if some}


def calendar_conflict(borders: Mapping[str, Border], dates: Mapping[str, DateArray]) -> str | None:
    """Say why no single day separates what a fold has used from its future; None if one does."""
    for split in ("val", "test"):
        rows = {name: int(getattr(border, split)) for name, border in borders.items()}
        begins = {name: dates[name][row] for name, row in rows.items() if row < len(dates[name])}
        if not begins:  # the bars end before the split does
            continue
        ends = {name: dates[name][row - 1] for name, row in rows.items()}
        first, last = min(begins, key=lambda name: begins[name]), max(ends, key=lambda name: ends[name])
        if ends[last] >= begins[first]:
            return (
                f"one model for all tickers, each split at its own share: the {split} split of {first} begins on "
                f"{begins[first]}, and {last} is fitted on days until {ends[last]}, so that the model has seen the "
                "market of those days; use --split-by date, or walk-forward"
            )
    return None


def change_future(frame: pd.DataFrame, cut: np.datetime64, way: str) -> pd.DataFrame:
    """Return bars changed from day ``cut`` on in one of `WAYS`; days stay, prices stay positive.

    A column without any value stays so: an adjusted close that begins at the cut would adjust the bars before it.
    """
    later = frame.index.to_numpy() >= cut
    values = frame.to_numpy(dtype=np.float64, copy=True)
    known = np.isfinite(values).any(axis=0)
    if later.any():
        changed_days = _drawn_days(frame, later) if way == "drawn days" else _changed(values[later], way)
        values[later] = np.where(known, changed_days, np.nan)
    changed = pd.DataFrame(values, index=frame.index, columns=frame.columns)
    changed.attrs = dict(frame.attrs)
    return changed


def rescale_past(frame: pd.DataFrame, cut: np.datetime64) -> pd.DataFrame:
    """Halve ``Adj Close`` before day ``cut``, as a vendor does after a split; forward adjustment takes that out."""
    adjusted, base = frame["Adj Close"], frame.attrs.get(BASE)
    past = frame.assign(**{"Adj Close": adjusted.where(frame.index >= pd.Timestamp(cut), 0.5 * adjusted)})
    past.attrs[BASE] = base and (base[0], 0.5 * base[1])  # that bar lies before all of these
    return past


def _changed(future: FloatArray, way: str) -> FloatArray:
    """Return [bars, columns] Open High Low Close and more, changed row by row or reversed."""
    if way == "reversed":
        return future[::-1]
    if way != "garbage":
        return future * {"times 100": 100.0, "times 0.01": 0.01}[way]
    garbage = np.random.default_rng(zlib.crc32(future.tobytes())).lognormal(3.0, 2.0, future.shape)
    garbage[:, :4] = np.sort(garbage[:, :4], axis=1)[:, [1, 3, 0, 2]]  # a bar's high is its highest price
    return garbage


def _drawn_days(frame: pd.DataFrame, later: BoolArray) -> FloatArray:
    """Return [bars, columns] days of the ticker's own history, drawn with replacement.

    A day is its four prices as ratios to the close before it, and its volume; the first follows the last close that
    stays. A close moves by at most a factor of e^99, because errors in the bars must not lead to zero or infinity.
    """
    values = frame.to_numpy(dtype=np.float64)
    whole = np.isfinite(values[:, :4]).all(axis=1)
    days, staying = values[whole], values[whole & ~later]
    ratios = days[:, :4] / np.concatenate([days[:1, 3], days[:-1, 3]])[:, None]
    drawn = np.random.default_rng(zlib.crc32(values.tobytes())).integers(len(days), size=later.sum())
    kept = staying if len(staying) else days[:1]
    last = kept[-1]
    closes = last[3] * np.exp(np.clip(np.cumsum(np.log(ratios[drawn, 3])), -99, 99))
    made = days[drawn]
    made[:, :4] = ratios[drawn] * np.concatenate([last[3:4], closes[:-1]])[:, None]
    made[:, 3] = closes
    made[:, 1], made[:, 2] = made[:, :4].max(axis=1), made[:, :4].min(axis=1)
    for name in ("Quoted", "Adj Close"):
        if name in frame:
            column = list(frame.columns).index(name)
            both = kept[np.isfinite(kept[:, column])][-1:]  # the last bar that stays may lack an adjusted close
            made[:, column] = closes * both[0, column] / both[0, 3] if len(both) else np.nan
    return np.asarray(made)


def feature_cuts(dates: DateArray, border: Border, warmup: int) -> list[np.datetime64]:
    """Return five consecutive sessions (a week dated by its first day), a mid-month, a mid-quarter, a warm-up day."""
    middle = (border.train + border.val) // 2
    later = pd.DatetimeIndex(dates[middle + 5 :])
    third_week, middle_month = (later.day >= 15) & (later.day <= 21), later.month.isin([2, 5, 8, 11])
    mid_month, mid_quarter = later[third_week & ~middle_month][:1], later[third_week & middle_month][:1]
    chosen = [dates[middle : middle + 5], mid_month.to_numpy(), mid_quarter.to_numpy(), dates[[warmup // 5]]]
    return list(np.unique(np.concatenate([days.astype("datetime64[D]") for days in chosen])))


def try_features(source: Source, border: Border, ways: Sequence[str]) -> Iterable[Finding]:
    """Compare feature rows before each border with the future changed; again with a hole before the border.

    Features that differ on unchanged bars are told as such: no change of the future would say anything about them.
    """
    whole = as_frame(source.table())
    if moved := first_difference(whole, as_frame(source.table())):
        note = (
            f"{moved[0]} has another value in row {moved[1]} when it is computed again from the same bars; "
            "it is random (give it a seed) or keeps something from call to call"
        )
        yield Finding(
            part="features",
            stage="features",
            ticker=source.ticker,
            rows=len(whole),
            column=moved[0],
            row="",
            note=note,
        )
        return
    for cut in feature_cuts(days_of(source.frame), border, source.spec.warmup):
        yield from _try_ways(source, whole, source.frame, cut, ways)
        holed = punch_hole(source.frame, cut)
        try:
            yield from _try_ways(source, as_frame(source.table(holed)), holed, cut, ways, hole=", hole before")
        except FeatureError as error:
            yield _untried(source, "features", cut, "hole before", error)


def _try_ways(
    source: Source, base: pd.DataFrame, bars: pd.DataFrame, cut: np.datetime64, ways: Sequence[str], *, hole: str = ""
) -> Iterable[Finding]:
    for way in ways:
        changed = as_frame(source.table(change_future(bars, cut, way)))
        yield compare_tables(
            base, changed, stage="features", ticker=source.ticker, part="features", cut=cut, way=way + hole
        )


def punch_hole(frame: pd.DataFrame, cut: np.datetime64) -> pd.DataFrame:
    """Return bars without values on the last `HOLE` days before ``cut``; what fills them comes from elsewhere."""
    holed = frame.copy()
    at = int(np.searchsorted(frame.index.to_numpy(), cut))
    holed.iloc[max(at - HOLE, 0) : at] = np.nan
    return holed


def try_warmup(source: Source) -> Iterable[Finding]:
    """Say how much each column at the first usable row depends on where the history starts.

    A user's column has no stated error and cannot fail.
    """
    stated, way = source.spec.warmup_error, f"{STARTS} later starts"
    first = days_of(source.frame)[source.spec.warmup]
    try:
        shares = start_dependence(source)
    except FeatureError as error:
        yield _untried(source, "warm-up", first, way, error)
        return
    for column, share in shares.items():
        failed = share > SLACK * stated.get(column, np.inf)
        known = f", stated {stated[column]:.1e}" if column in stated else ""
        yield Finding(
            part="warm-up",
            border=str(first),
            way=way,
            stage="features",
            ticker=source.ticker,
            rows=STARTS,
            column=column if failed else None,
            row=str(first) if failed else None,
            note=f"{column}: {share:.1e} of its range depends on where the history starts{known}",
        )


def start_dependence(source: Source) -> dict[str, float]:
    """Return, by column, how far the first usable row moves at most with a later start, as a share of its range."""
    whole, warmup = source.table(), source.spec.warmup
    worst = np.zeros(len(whole.columns))
    # Rows whose warm-up holds no hole, and that are not the first with it.
    ends = np.flatnonzero(whole.usable & np.append(False, whole.usable[:-1]))
    for start in ends[np.linspace(0, len(ends) - 1, STARTS, dtype=np.int64)] - warmup if len(ends) else ():
        part = source.table(source.frame.iloc[start : start + warmup + 1]).features
        known = part[np.isfinite(part).all(axis=1)]
        spread = np.ptp(known, axis=0) if len(known) else np.ones(len(worst))
        off = np.abs(part[-1] - whole.features[start + warmup]) / np.where(spread > 0, spread, 1.0)
        worst = np.fmax(worst, off)
    return dict(zip(whole.columns, map(float, worst), strict=True))


def _untried(source: Source, part: str, cut: np.datetime64, way: str, error: FeatureError) -> Finding:
    """Say that nothing was tried: a user's function may refuse what bars never hold."""
    note = f"not tried: {error}"
    return Finding(part=part, stage="features", ticker=source.ticker, border=str(cut), way=way, note=note)
