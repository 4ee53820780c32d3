"""Figures of money and of predictions, drawn from facts. Each takes the runs of a page, one or several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from nextbar.reports import model_figures  # noqa: F401 - registers its drawings
from nextbar.reports.drawing import (
    ASKED,
    DRAWINGS,
    GREY,
    TEXT,
    Known,
    Picture,
    drawing,
    drawn_days,
    every,
    headed,
    rounded,
)
from nextbar.reports.facts import LEAST_BIN, ROWS, WEIGHTED, RunFacts
from nextbar.scoring.backtest import wealth_path
from nextbar.scoring.metrics import Days

POINTS = 1_200
"""Most points of all lines of one kind together: a page must stay small."""
WEALTH_TICKS = [step * 10.0**power for power in range(-3, 6) for step in (1, 1.5, 2, 3, 5, 7)]
FEWEST_TICKS = 3
SHORT = 0.75
"""A fold with less than this share of the usual rows is marked."""
COUNTED = 24
"""Up to so many folds, the number of rows stands at each bar."""
QUARTER = 63
"""Days that a moving mean of daily correlations takes."""
ORDER = ("equity", "rolling", "spread", "rank_ic", "folds", "reliability")
"""Pictures of this module, in the order of a page; the others follow."""


def pictures(runs: Sequence[RunFacts]) -> list[Picture]:
    """Draw all figures that the facts of these runs give."""
    found = [drawn for draw in DRAWINGS if (drawn := draw(runs)) is not None]
    return sorted(found, key=lambda one: ORDER.index(one.key) if one.key in ORDER else len(ORDER))


@drawing("equity", "Wealth and drawdown", of="book", main=True)
def equity(known: Known) -> tuple[go.Figure, str] | None:
    """Draw the wealth of each model, of its own constant position and of always long, drawdown under it."""
    figure = make_subplots(rows=2, shared_xaxes=True, row_heights=[0.7, 0.3], vertical_spacing=0.1)
    lines = _lines(known)
    # Drawn last first, so that models lie above baselines.
    for run, track, look in lines[::-1]:
        wealth, fall = wealth_path(track.net)
        # The deepest day is drawn whatever is left out.
        here = np.union1d(drawn_days(len(wealth), POINTS // len(known)), fall.argmin())
        days = run.book.dates[here].astype(str).tolist()
        shared = {"x": days, "mode": "lines", **look}
        figure.add_scatter(y=rounded(wealth[here]), **shared, row=1, col=1)
        figure.add_scatter(y=rounded(fall[here]), **{**shared, "showlegend": False}, row=2, col=1)
    figure.update_yaxes(type="log", tickvals=_wealth_ticks(lines), tickformat="~g", row=1, col=1)
    figure.update_yaxes(tickformat=".0%", row=2, col=1)
    figure.update_layout(height=560, hovermode="x unified", legend_traceorder="reversed")
    dotted = f"; dotted: {ROWS['constant_exposure']}" if len(known) > 1 else ""
    headed(figure, [f"wealth, start = 1{dotted}", "drawdown"])
    with np.errstate(over="ignore", invalid="ignore"):
        ends = "; ".join(f"{look['name']} {np.prod(1.0 + track.net):.2f}" for _, track, look in lines)
    return figure, f"Wealth at the end, from 1 at the start, net of costs: {ends}.{_thinned(known)}"


def _wealth_ticks(lines: Sequence[tuple[RunFacts, Days, dict[str, Any]]]) -> list[float] | None:
    """Return the ticks of the axis of wealth; None where it is too short for ours, and Plotly's are closer."""
    paths = [wealth_path(track.net)[0] for _, track, _ in lines]
    low, high = min(path.min() for path in paths), max(path.max() for path in paths)
    return WEALTH_TICKS if sum(low <= tick <= high for tick in WEALTH_TICKS) >= FEWEST_TICKS else None


def _thinned(known: Known) -> str:
    step = max(every(len(run.book.dates), POINTS // len(known)) for run, _, _ in known)
    return f" Drawn: one day of {step}." if step > 1 else ""


def _lines(known: Known) -> list[tuple[RunFacts, Days, dict[str, Any]]]:
    """Return each model, then the baselines, with the look of its line; baselines are grey, always long is black."""
    found = [(run, run.book.model, _look(name, colour, width=2.0)) for run, colour, name in known]
    several = len(known) > 1
    for run, colour, name in known:
        text = f"{name}, {ROWS['constant_exposure']}" if several else ROWS["constant_exposure"]
        look = _look(text, colour if several else GREY, dash="dot", width=1.2)
        found.append((run, run.book.constant, look | ({"showlegend": False, "legendgroup": name} if several else {})))
    longest = max((run for run, _, _ in known), key=lambda run: len(run.book.dates))
    for key, track in longest.baselines.items():
        if key == "always_long":
            found.append((longest, track, _look(ROWS[key], TEXT, width=1.2)))
        elif key != "constant_exposure" and not several:
            found.append((longest, track, _look(ROWS[key], GREY, dash="dash", width=1.2) | {"visible": ASKED}))
    return found


def _look(name: str, colour: str, *, width: float, dash: str = "solid") -> dict[str, Any]:
    return {"name": name, "legendgroup": name, "line": {"color": colour, "width": width, "dash": dash}}


@drawing("rolling", "Sharpe ratio of the last year", of="rolling", main=True)
def rolling(known: Known) -> tuple[go.Figure, str] | None:
    """Draw the Sharpe ratio of the last year, day by day, and that of a constant position."""
    figure, said = go.Figure(), []
    for run, colour, name in known:
        moving = run.rolling or {}
        here = drawn_days(len(moving["dates"]), POINTS // len(known))
        days = moving["dates"][here].astype(str).tolist()
        if len(known) == 1:
            look = _look(ROWS["constant_exposure"], GREY, width=1.2, dash="dot")
            figure.add_scatter(x=days, y=rounded(moving["constant_exposure"][here], 3), mode="lines", **look)
        values = moving["model"]
        figure.add_scatter(x=days, y=rounded(values[here], 3), mode="lines", **_look(name, colour, width=2.0))
        if np.isfinite(values).any():
            low, high = (round(float(one), 2) + 0.0 for one in (np.nanmin(values), np.nanmax(values)))  # not -0.0
            above = 100 * np.mean(values[np.isfinite(values)] > 0)
            said.append(f"{name} from {low:.2f} to {high:.2f}, {above:.0f} % of the days above 0")
    figure.add_hline(y=0.0, line={"color": GREY, "dash": "dash", "width": 1})
    order = "reversed" if len(known) == 1 else "normal"
    figure.update_layout(height=340, hovermode="x unified", legend_traceorder=order)
    headed(figure, ["Sharpe ratio of the year before"])
    window = (known[0][0].rolling or {})["window"]
    return (figure, f"Windows of {window} days: {'; '.join(said)}.") if said else None


@drawing("spread", "Distribution of daily returns", of="spread")
def spread(known: Known) -> tuple[go.Figure, str] | None:
    """Draw how many days earned how much; the outermost bars include what lies beyond."""
    figure, said = go.Figure(), []
    for run, colour, name in known:
        found = run.spread or {}
        edges = np.array(found["edges"])
        middle, width = (edges[:-1] + edges[1:]) / 2, float(edges[1] - edges[0])
        if len(known) == 1:
            figure.add_bar(x=rounded(middle), y=found["counts"], width=width, name=name, marker={"color": colour})
        else:  # bars of several runs would hide each other
            share = np.array(found["counts"]) / found["days"] / width / 1000
            look = _look(name, colour, width=1.6)
            figure.add_scatter(x=rounded(middle), y=rounded(share), mode="lines", **look)
        (worst, low), (best, high) = found["worst"], found["best"]
        still = f", {found['still']:,} days without a return left out" if found["still"] else ""
        said.append(f"{name} worst {100 * low:+.1f} % ({worst}), best {100 * high:+.1f} % ({best}){still}")
    figure.update_xaxes(title="daily return, net of costs", tickformat=".1%")
    figure.update_yaxes(tickformat="," if len(known) == 1 else ".0%")
    figure.update_layout(height=340, showlegend=len(known) > 1, bargap=0.04)
    headed(figure, ["days" if len(known) == 1 else "share of days per 0.1 %"])
    return (
        figure,
        f"{'; '.join(said)}. The outermost {'bars' if len(known) == 1 else 'points'} include what lies beyond.",
    )


@drawing("rank_ic", "Daily rank correlation over tickers", of="rank_ic")
def rank_ic(known: Known) -> tuple[go.Figure, str] | None:
    """Draw the moving mean of the daily rank correlation of probability and next return over tickers."""
    figure, said = go.Figure(), []
    for run, colour, name in known:
        days, values = run.rank_ic or (np.empty(0), np.empty(0))
        if len(values) < QUARTER:
            continue
        means = np.convolve(values, np.ones(QUARTER) / QUARTER, mode="valid")
        here = drawn_days(len(means), POINTS // len(known))
        when = days[QUARTER - 1 :][here].astype(str).tolist()
        figure.add_scatter(x=when, y=rounded(means[here], 3), mode="lines", **_look(name, colour, width=1.6))
        said.append(f"{name} {values.mean():.4f} on average over {len(values):,} days")
    if not said:
        return None
    figure.add_hline(y=0.0, line={"color": GREY, "dash": "dash", "width": 1})
    figure.update_layout(height=320, showlegend=len(said) > 1, hovermode="x unified")
    headed(figure, [f"rank IC, mean of {QUARTER} days"])
    return figure, f"Daily rank correlation of probability and next return: {'; '.join(said)}."


@drawing("folds", "Fold by fold", of="folds", main=True)
def folds(known: Known) -> tuple[go.Figure, str] | None:
    """Draw balanced accuracy and Sharpe ratio of each fold as bars, short test windows hatched."""
    figure = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.12)
    shorts = 0
    for run, colour, name in known:
        short = _short(run)
        shorts += sum(short)
        texts = [f"{one['test_start']} to {one['test_end']}, n = {one['rows']:,}" for one in run.folds]
        pattern = {"shape": ["/" if one else "" for one in short], "fgcolor": "white", "fillmode": "overlay", "size": 5}
        shared: dict[str, Any] = {"x": _windows(run), "name": name, "legendgroup": run.name, "customdata": texts}
        shared |= {"marker": {"color": colour, "pattern": pattern}}
        scores = [(one["balanced_accuracy"] if one["balanced_accuracy"] is not None else np.nan) for one in run.folds]
        above = rounded(np.array(scores, dtype=np.float64) - 0.5)
        counts = [f"{one['rows']:,}" for one in run.folds] if len(known) == 1 and len(run.folds) <= COUNTED else None
        hover = {"hovertemplate": "%{customdata}: %{y:.3f}"}
        count = {"text": counts, "textposition": "outside", "textfont": {"size": 10}, "cliponaxis": False}
        figure.add_bar(y=above, base=0.5, **shared, **hover, **count, row=1, col=1)
        figure.add_bar(y=[one["sharpe"] for one in run.folds], **shared, **hover, showlegend=False, row=2, col=1)
    first = max((run for run, _, _ in known), key=lambda run: len(run.folds))
    long = [one["always_long_sharpe"] for one in first.folds]
    mark = {"color": TEXT, "symbol": "line-ew-open", "size": 9, "line": {"width": 2}}
    figure.add_scatter(x=_windows(first), y=long, name=ROWS["always_long"], mode="markers", marker=mark, row=2, col=1)
    figure.update_xaxes(type="category", categoryorder="category ascending")
    figure.update_yaxes(tickformat="~g", row=1, col=1)
    figure.update_layout(height=460, bargap=0.25)
    numbered = len(known) == 1 and len(first.folds) <= COUNTED
    headed(figure, ["balanced accuracy" + (", with the number of rows" if numbered else ""), "Sharpe ratio"])
    better = "; ".join(f"{name} {_share_above(run)}" for run, _, name in known)
    marked = f" Hatched: {shorts} with less than three quarters of the usual rows." if shorts else ""
    sizes = [one["rows"] for run, _, _ in known for one in run.folds]
    size = f"{min(sizes):,}" if min(sizes) == max(sizes) else f"{min(sizes):,} to {max(sizes):,}"
    return figure, f"Folds with a balanced accuracy above 0.5: {better}. Rows a fold: {size}.{marked}"


def _windows(run: RunFacts) -> list[str]:
    """Name the folds by the month in which their test window starts, by the day where months repeat."""
    starts = [one["test_start"] for one in run.folds]
    months = Counter(start[:7] for start in starts)
    return [start if max(months.values()) > 1 else start[:7] for start in starts]


def _short(run: RunFacts) -> list[bool]:
    usual = float(np.median([one["rows"] for one in run.folds]))
    return [one["rows"] < SHORT * usual for one in run.folds]


@drawing("reliability", "Reliability of the probabilities", of="reliability")
def reliability(known: Known) -> tuple[go.Figure, str] | None:
    """Draw how often the close rose where a probability was predicted, with intervals; small bins are left out."""
    figure, dropped = go.Figure(), 0
    line = {"color": GREY, "dash": "dash"}
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", name="as predicted", line=line)
    for run, colour, name in known:
        bins = [one for one in run.reliability if one["count"] >= LEAST_BIN]
        dropped += sum(0 < one["count"] < LEAST_BIN for one in run.reliability)
        shares = np.array([one["positive_share"] for one in bins], dtype=np.float64)
        high, low = (np.array([one[key] for one in bins], dtype=np.float64) for key in ("high", "low"))
        figure.add_scatter(
            x=[one["mean_probability"] for one in bins],
            y=shares.tolist(),
            error_y={"array": (high - shares).tolist(), "arrayminus": (shares - low).tolist(), "thickness": 1.5},
            text=[f"{one['count']:,} rows" for one in bins],
            hovertemplate="predicted %{x:.3f}, rose %{y:.3f}, %{text}",
            name=name,
            mode="markers+lines",
            line={"width": 1, "color": colour},
            marker={"size": 8},
        )
    figure.update_xaxes(title="predicted probability of a rise", range=[0, 1])
    figure.update_yaxes(range=[0, 1])
    headed(figure, ["share that rose"])
    left = f"Left out: {dropped} with fewer than {LEAST_BIN} rows." if dropped else ""
    interval = "Bars: 95 % intervals, as if rows were independent."
    parts = [*(_fullest_bin(run, name) for run, _, name in known), interval, left, WEIGHTED]
    return figure, " ".join(filter(None, parts))


def _fullest_bin(run: RunFacts, name: str) -> str:
    fullest = max(run.reliability, key=lambda one: one["count"])
    if not fullest["count"]:
        return f"{name} predicts nothing."
    return (
        f"{name} predicts around {fullest['mean_probability']:.2f} on most rows ({fullest['count']:,}); "
        f"of these {100 * fullest['positive_share']:.0f} % rose."
    )


def _share_above(run: RunFacts) -> str:
    above = sum((fold["balanced_accuracy"] or 0) > 0.5 for fold in run.folds)
    return f"{above} of {len(run.folds)}"
