"""Figures drawn from facts. Each takes the runs of a page, one or several, and leaves out what they do not hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import cycle

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from nextbar.reports.facts import ROWS, WEIGHTED, RunFacts
from nextbar.scoring.backtest import wealth_path
from nextbar.scoring.threshold import DEFAULT_GRID
from nextbar.types import FloatArray
from nextbar.words import printable

COLOURS = ("#0f7fc4", "#d55e00", "#009e73", "#b565c9", "#b8860b", "#d6457a", "#5b8c2a", "#7f7f7f")
"""Readable on white and on near-black; after Okabe and Ito, distinct for colour-blind readers."""
GREY = "#8c8c8c"
TIMELINE_TICKERS = 60
WHOLE_STEPS = 10
"""Up to so many epochs, each has its tick; else Plotly chooses."""
IMPORTANCES = {"share": "share of impurity or gain", "permutation": "ROC-AUC lost when shuffled"}
WEALTH_TICKS = [step * 10.0**power for power in range(-3, 6) for step in (1, 1.5, 2, 3, 5, 7)]


Known = Sequence[tuple[RunFacts, str, str]]
"""Runs that hold what a picture shows, each with its colour and its name, which are the same in every picture."""
Draw = Callable[[Known], tuple[go.Figure, str] | None]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure with its heading and its description in words."""

    key: str
    title: str
    alternative: str
    figure: go.Figure


DRAWINGS: list[Callable[[Sequence[RunFacts]], Picture | None]] = []


def pictures(runs: Sequence[RunFacts]) -> list[Picture]:
    """Draw all figures that the facts of these runs give."""
    return [found for draw in DRAWINGS if (found := draw(runs)) is not None]


def drawing(key: str, title: str, *, of: str) -> Callable[[Draw], Callable[[Sequence[RunFacts]], Picture | None]]:
    """Register what draws a part of the facts; it returns the figure and its description, if there are any."""

    def register(draw: Draw) -> Callable[[Sequence[RunFacts]], Picture | None]:
        def picture(runs: Sequence[RunFacts]) -> Picture | None:
            known = [(run, colour, label(run, runs)) for run, colour in zip(runs, cycle(COLOURS)) if getattr(run, of)]
            if not known or (drawn := draw(known)) is None:
                return None
            return Picture(key=key, title=title, alternative=drawn[1], figure=_styled(drawn[0]))

        DRAWINGS.append(picture)
        return picture

    return register


@drawing("equity", "Wealth and drawdown", of="book")
def equity(known: Known) -> tuple[go.Figure, str] | None:
    """Draw the wealth of each model and of the first run's baselines, drawdown under it."""
    figure = make_subplots(rows=2, shared_xaxes=True, row_heights=[0.7, 0.3], vertical_spacing=0.04)
    lines = [(name, run.book.dates, run.book.model.net, "solid", 2.0) for run, _, name in known]
    first = known[0][0]
    lines += [(ROWS[key], first.book.dates, track.net, "dot", 1.2) for key, track in first.baselines.items()]
    # Drawn last first, so that models lie above baselines.
    for (name, dates, returns, dash, width), colour in [*zip(lines, cycle(COLOURS))][::-1]:
        wealth, fall = wealth_path(returns)
        line = {"color": colour, "dash": dash, "width": width}
        days = dates.astype(str)
        figure.add_scatter(x=days, y=wealth, name=name, legendgroup=name, line=line, row=1, col=1)
        figure.add_scatter(x=days, y=fall, name=name, legendgroup=name, showlegend=False, line=line, row=2, col=1)
    figure.update_yaxes(title="wealth, start = 1", type="log", tickvals=WEALTH_TICKS, tickformat="~g", row=1, col=1)
    figure.update_yaxes(title="drawdown", tickformat=".0%", row=2, col=1)
    figure.update_layout(height=560, hovermode="x unified", legend_traceorder="reversed")
    with np.errstate(over="ignore", invalid="ignore"):
        ends = "; ".join(f"{name} {np.prod(1.0 + returns):.2f}" for name, _, returns, _, _ in lines)
    return figure, f"Wealth at the end, from 1 at the start, net of costs: {ends}."


@drawing("folds", "Fold by fold", of="folds")
def folds(known: Known) -> tuple[go.Figure, str] | None:
    """Draw balanced accuracy and Sharpe ratio of each fold at the start of its test window, beside always long's."""
    figure = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.06)
    for run, colour, name in known:
        starts = [fold["test_start"] for fold in run.folds]
        windows = [f"{fold['test_start']} to {fold['test_end']}" for fold in run.folds]
        for row, key in enumerate(("balanced_accuracy", "sharpe"), start=1):
            figure.add_scatter(
                x=starts,
                y=[fold[key] for fold in run.folds],
                name=name,
                legendgroup=run.name,
                showlegend=row == 1,
                mode="markers+lines",
                line={"width": 1, "color": colour},
                marker={"size": 6},
                text=windows,
                hovertemplate="%{text}: %{y:.3f}",
                row=row,
                col=1,
            )
    first = known[0][0]
    long = {"x": [fold["test_start"] for fold in first.folds], "y": [f["always_long_sharpe"] for f in first.folds]}
    figure.add_scatter(
        **long, name=ROWS["always_long"], mode="lines", line={"color": GREY, "dash": "dot"}, row=2, col=1
    )
    figure.add_hline(y=0.5, line={"color": GREY, "dash": "dash"}, row=1, col=1)
    figure.add_hline(y=0.0, line={"color": GREY, "dash": "dash"}, row=2, col=1)
    figure.update_yaxes(title="bal. accuracy", tickformat=".2f", row=1, col=1)
    figure.update_yaxes(title="Sharpe", row=2, col=1)
    figure.update_layout(height=460)
    better = "; ".join(f"{name} {_share_above(run)}" for run, _, name in known)
    return figure, f"Folds with a balanced accuracy above 0.5: {better}."


@drawing("reliability", "Reliability of the probabilities", of="reliability")
def reliability(known: Known) -> tuple[go.Figure, str] | None:
    """Draw how often the close rose where a probability was predicted; the size shows how many days."""
    figure = go.Figure()
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", name="as predicted", line={"color": GREY, "dash": "dash"})
    for run, colour, name in known:
        bins = [one for one in run.reliability if one["count"]]
        counts = np.array([one["count"] for one in bins], dtype=np.float64)
        figure.add_scatter(
            x=[one["mean_probability"] for one in bins],
            y=[one["positive_share"] for one in bins],
            text=[f"{one['count']:,} rows" for one in bins],
            hovertemplate="predicted %{x:.3f}, rose %{y:.3f}, %{text}",
            name=name,
            mode="markers+lines",
            line={"width": 1, "color": colour},
            marker={"size": 6 + 18 * np.sqrt(counts / counts.max())},
        )
    figure.update_xaxes(title="predicted probability of a rise", range=[0, 1])
    figure.update_yaxes(title="share that rose", range=[0, 1])
    text = " ".join([*(_fullest_bin(run, name) for run, _, name in known), WEIGHTED])
    return figure, text


@drawing("threshold", "Threshold on validation", of="thresholds")
def threshold_curves(known: Known) -> tuple[go.Figure, str] | None:
    """Draw every threshold's score on validation, with the one that was chosen: of a walk-forward, in its last fit."""
    curves = [(*item, choice) for item in known for choice in item[0].thresholds if "curve" in choice]
    if not curves:
        return None
    figure, texts = go.Figure(), []
    for run, colour, model, choice in curves:
        name = model + (f": {_escaped(choice['ticker'])}, fold {choice['fold']}" if run.folds else "")
        curve = zip(choice["curve"]["threshold"], choice["curve"]["score"], strict=True)
        scored = {at: score for at, score in curve if score is not None}
        look = {"mode": "lines+markers", "line": {"color": colour}, "marker": {"size": 3}}
        figure.add_scatter(x=list(scored), y=list(scored.values()), name=name, **look)
        chosen = {"color": colour, "size": 12, "symbol": "star"}
        point = {"x": [choice["threshold"]], "y": [choice["score"]], "showlegend": False}
        figure.add_scatter(**point, name=f"{name}: chosen", mode="markers", marker=chosen)
        text = f"{name} chose {choice['threshold']:.4f}"
        text += f" among {len(scored)} that could be scored" if scored else ""
        low, high = choice["plateau"] or (0.0, 0.0)
        if low < high:
            figure.add_vrect(x0=low, x1=high, fillcolor=colour, opacity=0.12, line={"width": 0})
            text += f", as good from {low:.4f} to {high:.4f} (shaded)"
        texts.append(text)
    figure.update_xaxes(title="threshold", range=[DEFAULT_GRID[0], DEFAULT_GRID[-1]])
    figure.update_yaxes(title="score on validation")
    return figure, "; ".join(texts) + "."


@drawing("thresholds", "Thresholds chosen on validation", of="thresholds")
def chosen_thresholds(known: Known) -> tuple[go.Figure, str] | None:
    """Draw the thresholds that a walk-forward chose, at the start of each fold's test window."""
    walked = [item for item in known if item[0].folds]
    if not walked:
        return None
    figure = go.Figure()
    for run, colour, name in walked:
        starts = {fold["number"]: fold["test_start"] for fold in run.folds}
        used = [choice for choice in run.thresholds if choice["fold"] in starts]
        figure.add_scatter(
            x=[starts[choice["fold"]] for choice in used],
            y=[choice["threshold"] for choice in used],
            text=[_escaped(choice["ticker"]) for choice in used],
            name=name,
            mode="markers",
            marker={"color": colour, "size": 6, "opacity": 0.7},
        )
    figure.add_hline(y=0.5, line={"color": GREY, "dash": "dash"})
    figure.update_yaxes(title="chosen threshold", tickformat=".2f")
    values: FloatArray = np.array([choice["threshold"] for run, _, _ in walked for choice in run.thresholds])
    low, middle, high = np.quantile(values, [0.0, 0.5, 1.0])
    text = f"{len(values):,} thresholds, from {low:.4f} to {high:.4f}, half of them below {middle:.4f}."
    return figure, text


@drawing("importance", "Feature importance", of="importance")
def importance(known: Known) -> tuple[go.Figure, str] | None:
    """Draw the share of impurity or gain, and permutation importance on validation, model beside model."""
    measures = {
        measure: heading
        for measure, heading in IMPORTANCES.items()
        if any(facts[measure] is not None for run, _, _ in known for facts in run.importance.values())
    }
    figure = make_subplots(rows=len(measures), vertical_spacing=0.2, subplot_titles=list(measures.values()))
    for run, colour, name in known:
        columns = list(run.importance)
        for row, measure in enumerate(measures, start=1):
            figure.add_bar(
                y=list(map(escape, columns)),
                x=[run.importance[column][measure] for column in columns],
                orientation="h",
                name=name,
                legendgroup=run.name,
                showlegend=row == 1,
                marker={"color": colour},
                row=row,
                col=1,
            )
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(height=120 + 240 * len(measures), legend={"y": 1.08})
    tops = "; ".join(
        f"{name} {_escaped(max(run.importance.items(), key=lambda item: item[1]['share'] or 0)[0])}"
        for run, _, name in known
    )
    text = f"Most used column: {tops}. A walk-forward's columns are shuffled in its last fold alone."
    return figure, text


@drawing("prices", "Predicted and actual close", of="price")
def prices(known: Known) -> tuple[go.Figure, str] | None:
    """Draw predicted and actual close of the last days, and the line of persistence."""
    found = [(run.price, *item) for run, _, _ in known if run.price for item in run.price["recent"].items()]
    if not found:
        return None
    price, ticker, days = found[0]
    figure = go.Figure()
    styles = {"actual": ("solid", GREY), "persistence": ("dot", COLOURS[1]), "predicted": ("solid", COLOURS[0])}
    labels = {"actual": "actual next close", "persistence": "persistence: today's close", "predicted": "predicted"}
    for key, (dash, colour) in styles.items():
        line = {"dash": dash, "color": colour, "width": 1.5}
        figure.add_scatter(x=days["date"], y=days[key], name=labels[key], mode="lines", line=line)
    figure.update_yaxes(title="quoted price", tickformat=",~r")
    errors = price["per_ticker"][ticker]
    terms = " Days before a split are drawn in the prices after it." if days["splits"] else ""
    text = (
        f"{_escaped(ticker)}, the last {len(days['date'])} days. Over all days the prediction is off by "
        f"{_percent(errors['price_rmse_percent'])} of the close, persistence by "
        f"{_percent(errors['persistence_rmse_percent'])}; {price['skill']}."
        f"{terms}"
    )
    return figure, text


@drawing("learning", "Learning curves of the last fit", of="learning")
def learning(known: Known) -> tuple[go.Figure, str] | None:
    """Draw the loss on train and validation after each epoch or tree of the last fit."""
    curved = [(name, run.learning, colour) for run, colour, name in known if run.learning]
    titles = [f"{name}, {curves['measure']} per {curves['step']}" for name, curves, _ in curved]
    figure = make_subplots(rows=len(curved), vertical_spacing=0.3 / len(curved), subplot_titles=titles)
    for number, (_, curves, colour) in enumerate(curved, start=1):
        for key, part, dash in (("loss", "train", "dot"), ("val_loss", "validation", "solid")):
            if curves[key] is not None:
                steps = list(range(1, len(curves[key]) + 1))
                line = {"color": colour, "dash": dash}
                look = {"mode": "lines", "line": line, "showlegend": False}
                figure.add_scatter(x=steps, y=curves[key], name=part, **look, row=number, col=1)
        if curves["best"] is not None:
            figure.add_vline(x=curves["best"] + 1, line={"color": GREY, "dash": "dash"}, row=number, col=1)
        figure.update_xaxes(dtick=1 if len(curves["val_loss"]) <= WHOLE_STEPS else None, row=number, col=1)
    figure.update_layout(height=80 + 300 * len(curved))
    best = "; ".join(f"{name} at {c['step']} {(c['best'] or 0) + 1} of {len(c['val_loss'])}" for name, c, _ in curved)
    text = f"Solid: validation, dotted: train, dashed: the best. Validation was best for {best}."
    return figure, text


@drawing("coverage", "Coverage and skips", of="coverage")
def coverage(known: Known) -> tuple[go.Figure, str] | None:
    """Draw from when to when each ticker of the widest run has bars and scored days, and the folds that left it out."""
    widest = max((run for run, _, _ in known), key=lambda run: len(run.coverage))
    tickers = widest.coverage[:TIMELINE_TICKERS][::-1]
    figure = go.Figure()
    scored = [one for one in tickers if one["scored"]]
    for name, colour, width, spans in (
        ("bars", GREY, 7, [(one, one["first"], one["last"]) for one in tickers]),
        ("scored days", COLOURS[0], 9, [(one, one["scored_first"], one["scored_last"]) for one in scored]),
        ("left out of a fold", COLOURS[1], 3, [(one, *window) for one in tickers for window in one["left_out"]]),
    ):
        days = [day for _, first, last in spans for day in (first, last, None)]
        rows = [_escaped(one["ticker"]) for one, _, _ in spans for _ in range(3)]
        figure.add_scatter(x=days, y=rows, name=name, mode="lines", line={"color": colour, "width": width})
    # Plotly drops every second name where it thinks that they are dense.
    figure.update_yaxes(type="category", dtick=1)
    figure.update_layout(height=160 + 22 * len(tickers))
    drawn = f", the first {len(tickers)} of them drawn" if len(tickers) < len(widest.coverage) else ""
    without = len({skip["ticker"] for skip in widest.skipped} - {one["ticker"] for one in widest.coverage})
    text = (
        f"Tickers with bars: {len(widest.coverage)}{drawn}. Left out of a fold: "
        f"{sum(len(one['left_out']) for one in widest.coverage)} times; of the whole run: {without} tickers. "
        f"{'Each reason stands below.' if widest.skipped else ''}"
    )
    return figure, text


def label(run: RunFacts, runs: Sequence[RunFacts]) -> str:
    """Return the name of a run in a legend: its model, with its tickers or its file where others share it."""
    if sum(other.model == run.model for other in runs) == 1:
        return _escaped(run.model)
    parts = {other.name: f"{other.model} {', '.join(other.about['tickers'][:3])}" for other in runs}
    return _escaped(parts[run.name] if list(parts.values()).count(parts[run.name]) == 1 else run.name)


def _escaped(text: str) -> str:
    """Return a foreign string as Plotly and a page show it."""
    return escape(printable(text))


def _fullest_bin(run: RunFacts, name: str) -> str:
    fullest = max(run.reliability, key=lambda one: one["count"])
    return (
        f"{name} predicts around {fullest['mean_probability']:.2f} on most rows ({fullest['count']:,}); "
        f"of these {100 * fullest['positive_share']:.0f} % rose."
    )


def _share_above(run: RunFacts) -> str:
    above = sum((fold["balanced_accuracy"] or 0) > 0.5 for fold in run.folds)
    return f"{above} of {len(run.folds)}"


def _styled(figure: go.Figure) -> go.Figure:
    return figure.update_layout(
        template="none",
        margin={"l": 56, "r": 12, "t": 28, "b": 40},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        legend={"orientation": "h", "yanchor": "bottom", "y": figure.layout.legend.y or 1.02, "x": 0},
        font={"family": "system-ui, sans-serif", "size": 13},
    )


def _percent(value: float | None) -> str:
    """Return a figure in percent, or a dash where it overflows."""
    return "–" if value is None else f"{value:.2f} %"
