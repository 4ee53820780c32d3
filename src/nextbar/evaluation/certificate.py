"""Does anything that was decided by a day depend on a bar after it? Change those bars, run again, compare every bit.

A trial is one run on bars that are changed from a day on, with the splits of the first run. `begin` makes the first run
and tries the features, `run_trial` makes one of the others. Both run in a worker; `plan_trials` says which there are.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from nextbar.datasets import assemble
from nextbar.datasets.assemble import Bars
from nextbar.errors import FeatureError
from nextbar.evaluation.evidence import Evidence, Finding, compare, compare_tables, examine
from nextbar.evaluation.truncation import Truncation, choose_cuts, truncate
from nextbar.evaluation.walkforward import FoldTask, fit_fold
from nextbar.features.indicators import warmup_error
from nextbar.features.spec import FeatureSpec
from nextbar.models.protocol import Report
from nextbar.models.reproducibility import Memo, digest_text
from nextbar.types import BoolArray, Border, DateArray, FloatArray

WAYS = ("garbage", "times 100", "times 0.01", "reversed", "drawn days")
RESCALED = "adj_close times 0.5"
HOLE = 2
"""Bars before a border that both runs lack when backward fills are looked for."""
STARTS = 8
"""Later starts of the history that warmed-up indicators are compared with."""
SLACK = 10.0
"""The stated share is of the disagreement at the start, which can be several times what an indicator moves later."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One fold to certify.

    Attributes:
        number: Tells it from the others.
        task: The fold.
        whole: Try every way at every border, and the features by themselves. Else one of the ways, in turn: of the many
            folds of a walk-forward a few are tried as a whole, and all are tried.
        seconds: Most time for leaving bars out, a ticker.
    """

    number: int
    task: FoldTask
    whole: bool = True
    seconds: float = 120


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """The first run of a case.

    Attributes:
        evidence: What its stages made.
        digests: As in the metadata.
        known: Outcomes of stages by their input, for trials that leave the input as it is.
        findings: What was found out about features and warm-up.
        truncations: What leaving bars out showed about the built-in features; a user's function wants a new process.
    """

    evidence: Evidence
    digests: dict[str, str]
    known: dict[str, bytes]
    findings: list[Finding]
    truncations: list[Truncation]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run on changed bars.

    Attributes:
        case: The fold.
        part: One of `nextbar.evaluation.evidence.PARTS`.
        cut: First day that is changed (for a rescaled past: that is not).
        way: How.
        bars: Bars that are changed already; None: change them here.
    """

    case: Case
    part: str
    cut: np.datetime64
    way: str
    bars: Mapping[str, Bars] | None = None


def begin(case: Case, bars: Mapping[str, Bars], report: Report) -> Baseline:
    """Run a case as it is, and look into the features of its tickers."""
    memo = Memo()
    fold = fit_fold(case.task, bars, report, memo)
    spec, gap = FeatureSpec.of(case.task.config), case.task.config.max_gap_days
    findings: list[Finding] = []
    truncations: list[Truncation] = []
    for data in fold.panel if case.whole else ():
        ticker, frame = data.table.ticker, bars[data.table.ticker].frame
        findings += try_features(ticker, frame, data.border, spec, gap)
        findings += try_warmup(ticker, frame, spec, gap)
        if spec.function is None:
            cuts = choose_cuts(frame, spec.warmup)
            truncations.append(truncate(ticker, frame, spec, gap, cuts=cuts, seconds=case.seconds)[0])
    return Baseline(
        evidence=examine(fold, case.task.name),
        digests=fold.digests,
        known=memo.seal(),
        findings=findings,
        truncations=truncations,
    )


def run_trial(trial: Trial, shared: tuple[Mapping[str, Bars], Mapping[int, Baseline]], report: Report) -> list[Finding]:
    """Run a case on changed bars and compare all that must not have moved.

    Of a case that is not tried as a whole one finding says that all stages passed.
    """
    bars, baselines = shared
    base, task = baselines[trial.case.number], trial.case.task
    changed = trial.bars or {
        name: replace(bars[name], frame=change_future(bars[name].frame, trial.cut, trial.way)) for name in task.borders
    }
    fold = fit_fold(task, changed, report, Memo(base.known))
    found = compare(base.evidence, examine(fold, task.name), part=trial.part, cut=trial.cut, way=trial.way)
    if trial.case.whole or not all(finding.passed for finding in found):
        return found
    mine, theirs = (digest_text("".join(finding.digests[side] for finding in found)) for side in (0, 1))
    rows, note = sum(finding.rows for finding in found), f"{len(found)} stages of fold {task.fold}"
    return [replace(found[0], stage="run", ticker=task.name, rows=rows, digests=(mine, theirs), note=note)]


def plan_trials(case: Case, dates: Mapping[str, DateArray]) -> list[Trial]:
    """Every (border, way) of a case but the rescaled past, whose bars come from outside."""
    ways = WAYS if case.whole else (WAYS[case.task.fold % len(WAYS)],)
    cuts = model_cuts(case.task.borders, dates)
    return [Trial(case=case, part=part, cut=cut, way=way) for part, cut in cuts.items() for way in ways]


def model_cuts(borders: Mapping[str, Border], dates: Mapping[str, DateArray]) -> dict[str, np.datetime64]:
    """First changed day of each part, the same for all tickers of a fold; none where no ticker has a bar left."""
    rows = {
        "end of train": {name: border.val for name, border in borders.items()},
        "end of validation": {name: border.test for name, border in borders.items()},
        "inside test": {name: (border.test + border.end + 1) // 2 for name, border in borders.items()},
    }
    days = {part: [dates[name][row] for name, row in at.items() if row < len(dates[name])] for part, at in rows.items()}
    return {part: min(some) for part, some in days.items() if some}


def calendar_conflict(borders: Mapping[str, Border], dates: Mapping[str, DateArray]) -> str | None:
    """Why no single day separates what a fold has seen from its future: one ticker's train is another's later split."""
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
    """Bars with everything from day ``cut`` on changed in one of `WAYS`; days stay, prices stay positive."""
    later = frame.index.to_numpy() >= cut
    values = frame.to_numpy(dtype=np.float64, copy=True)
    if later.any():
        values[later] = _drawn_days(frame, later) if way == "drawn days" else _changed(values[later], way)
    return pd.DataFrame(values, index=frame.index, columns=frame.columns)


def _changed(future: FloatArray, way: str) -> FloatArray:
    """[bars, columns] Open High Low Close and more, in another guise."""
    if way == "reversed":
        return future[::-1]
    if way != "garbage":
        return future * {"times 100": 100.0, "times 0.01": 0.01}[way]
    garbage = np.random.default_rng(zlib.crc32(future.tobytes())).lognormal(3.0, 2.0, future.shape)
    garbage[:, :4] = np.sort(garbage[:, :4], axis=1)[:, [1, 3, 0, 2]]  # a bar's high is its highest price
    return garbage


def _drawn_days(frame: pd.DataFrame, later: BoolArray) -> FloatArray:
    """[bars, columns] Bars like those that the ticker had: days of its own history, drawn with replacement.

    A day is its four prices as ratios to the close before it, and its volume; the first follows the last close that
    stays. A close moves by at most a factor of e^99, because errors in the bars must not lead to zero or infinity.
    """
    values = frame.to_numpy(dtype=np.float64)
    whole = np.isfinite(values[:, :4]).all(axis=1)
    days, staying = values[whole], values[whole & ~later]
    ratios = days[:, :4] / np.concatenate([days[:1, 3], days[:-1, 3]])[:, None]
    drawn = np.random.default_rng(zlib.crc32(values.tobytes())).integers(len(days), size=later.sum())
    last = staying[-1] if len(staying) else days[0]
    closes = last[3] * np.exp(np.clip(np.cumsum(np.log(ratios[drawn, 3])), -99, 99))
    made = days[drawn]
    made[:, :4] = ratios[drawn] * np.concatenate([last[3:4], closes[:-1]])[:, None]
    made[:, 3] = closes
    made[:, 1], made[:, 2] = made[:, :4].max(axis=1), made[:, :4].min(axis=1)
    if "Quoted" in frame:
        quoted = list(frame.columns).index("Quoted")
        made[:, quoted] = closes * last[quoted] / last[3]
    return np.asarray(made)


def feature_cuts(dates: DateArray, border: Border, warmup: int) -> list[np.datetime64]:
    """Days from which on bars are changed under the features.

    Five consecutive sessions (a week stamped with its first day), a mid-month, a mid-quarter, one inside the warm-up.
    """
    middle = (border.train + border.val) // 2
    later = pd.DatetimeIndex(dates[middle + 5 :])
    third_week, middle_month = (later.day >= 15) & (later.day <= 21), later.month.isin([2, 5, 8, 11])
    mid_month, mid_quarter = later[third_week & ~middle_month][:1], later[third_week & middle_month][:1]
    chosen = [dates[middle : middle + 5], mid_month.to_numpy(), mid_quarter.to_numpy(), dates[[warmup // 5]]]
    return list(np.unique(np.concatenate([days.astype("datetime64[D]") for days in chosen])))


def try_features(ticker: str, frame: pd.DataFrame, border: Border, spec: FeatureSpec, gap: int) -> Iterable[Finding]:
    """Feature rows before each border, none dropped, with the future changed; again with a hole before the border."""

    def features(bars: pd.DataFrame) -> pd.DataFrame:
        table = assemble.build_table(ticker, bars, spec, gap)
        return pd.DataFrame(table.features, index=bars.index, columns=list(table.columns))

    def trials(base: pd.DataFrame, bars: pd.DataFrame, cut: np.datetime64, hole: str) -> Iterable[Finding]:
        common: Any = {"stage": "features", "ticker": ticker, "part": "features", "cut": cut}
        for way in WAYS:
            yield compare_tables(base, features(change_future(bars, cut, way)), **common, way=way + hole)

    whole = features(frame)
    for cut in feature_cuts(frame.index.to_numpy().astype("datetime64[D]"), border, spec.warmup):
        yield from trials(whole, frame, cut, "")
        holed = punch_hole(frame, cut)
        try:
            yield from trials(features(holed), holed, cut, ", hole before")
        except FeatureError as error:
            yield _untried("features", ticker, cut, "hole before", error)


def punch_hole(frame: pd.DataFrame, cut: np.datetime64) -> pd.DataFrame:
    """Bars without the values of the last `HOLE` days before ``cut``: what fills them can only come from elsewhere."""
    holed = frame.copy()
    at = int(np.searchsorted(frame.index.to_numpy(), cut))
    holed.iloc[max(at - HOLE, 0) : at] = np.nan
    return holed


def try_warmup(ticker: str, frame: pd.DataFrame, spec: FeatureSpec, gap: int) -> Iterable[Finding]:
    """How much each column at the first usable row depends on where the history starts.

    A user's column has no stated error and cannot fail.
    """
    stated = warmup_error(spec.warmup)
    first = frame.index.to_numpy()[spec.warmup].astype("datetime64[D]")
    way = f"{STARTS} later starts"
    try:
        shares = start_dependence(ticker, frame, spec, gap)
    except FeatureError as error:
        yield _untried("warm-up", ticker, first, way, error)
        return
    for column, share in shares.items():
        failed = share > SLACK * stated.get(column, np.inf)
        known = f", stated {stated[column]:.1e}" if column in stated else ""
        yield Finding(
            part="warm-up",
            border=str(first),
            way=way,
            stage="features",
            ticker=ticker,
            rows=STARTS,
            column=column if failed else None,
            row=str(first) if failed else None,
            note=f"{column}: {share:.1e} of its range depends on where the history starts{known}",
        )


def start_dependence(ticker: str, frame: pd.DataFrame, spec: FeatureSpec, gap: int) -> dict[str, float]:
    """Column → difference that a later start of the history makes at its first usable row, the worst of several starts.

    As a share of the range of the column since the later start.
    """
    whole = assemble.build_table(ticker, frame, spec, gap)
    worst = np.zeros(len(whole.columns))
    # Rows whose warm-up holds no hole, and that are not the first with it.
    ends = np.flatnonzero(whole.usable & np.append(False, whole.usable[:-1]))
    for start in ends[np.linspace(0, len(ends) - 1, STARTS, dtype=np.int64)] - spec.warmup if len(ends) else ():
        part = assemble.build_table(ticker, frame.iloc[start : start + spec.warmup + 1], spec, gap).features
        known = part[np.isfinite(part).all(axis=1)]
        spread = np.ptp(known, axis=0) if len(known) else np.ones(len(worst))
        off = np.abs(part[-1] - whole.features[start + spec.warmup]) / np.where(spread > 0, spread, 1.0)
        worst = np.fmax(worst, off)
    return dict(zip(whole.columns, map(float, worst), strict=True))


def _untried(part: str, ticker: str, cut: np.datetime64, way: str, error: FeatureError) -> Finding:
    """A user's function need not bear what bars never hold; that it was not tried is said."""
    return Finding(part=part, stage="features", ticker=ticker, border=str(cut), way=way, note=f"not tried: {error}")
