"""Figures of what a model is made of: thresholds, columns, prices, learning, coverage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from nextbar.reports.drawing import COLOURS, GREY, TEXT, Known, drawing, escaped, headed, rounded
from nextbar.reports.facts import RunFacts
from nextbar.scoring.threshold import DEFAULT_GRID
from nextbar.types import FloatArray, JsonDict
from nextbar.words import plural

TIMELINE_TICKERS = 60
WHOLE_STEPS = 10
"""Up to so many epochs, each has its tick; else Plotly chooses."""
MOST_COLUMNS = 20
MOST_THRESHOLDS = 400
"""More thresholds of a run are summed up by fold."""
MEASURES = ("share", "permutation")


@drawing("threshold", "Threshold on validation", of="thresholds")
def threshold_curves(known: Known) -> tuple[go.Figure, str] | None:
    """Draw the score of every threshold that has one, and the chosen one: of a walk-forward, in its last fit."""
    found = [(*item, choice) for item in known for choice in item[0].thresholds if "curve" in choice]
    curves = [one for one in found if any(score is not None for score in one[-1]["curve"]["score"])]
    if not curves:
        return None
    figure, texts = go.Figure(), []
    for run, colour, model, choice in curves:
        name = model + (f": {escaped(choice['ticker'])}, fold {choice['fold']}" if run.folds else "")
        curve = zip(choice["curve"]["threshold"], choice["curve"]["score"], strict=True)
        scored = {at: score for at, score in curve if score is not None}
        look = {"mode": "lines+markers", "line": {"color": colour}, "marker": {"size": 3}}
        figure.add_scatter(x=list(scored), y=list(scored.values()), name=name, **look)
        chosen = {"color": colour, "size": 12, "symbol": "star"}
        point = {"x": [choice["threshold"]], "y": [choice["score"]], "showlegend": False}
        figure.add_scatter(**point, name=f"{name}: chosen", mode="markers", marker=chosen)
        text = f"{name} chose {choice['threshold']:.4f}"
        text += f" among {len(scored)} that could be scored"
        low, high = choice["plateau"] or (0.0, 0.0)
        if low < high:
            figure.add_vrect(x0=low, x1=high, fillcolor=colour, opacity=0.12, line={"width": 0})
            text += f", as good from {low:.4f} to {high:.4f} (shaded)"
        texts.append(text)
    figure.update_xaxes(title="threshold", range=[DEFAULT_GRID[0], DEFAULT_GRID[-1]])
    headed(figure, ["score on validation"])
    return figure, "; ".join(texts) + "."


@drawing("thresholds", "Thresholds chosen on validation", of="thresholds")
def chosen_thresholds(known: Known) -> tuple[go.Figure, str] | None:
    """Draw the thresholds that a walk-forward chose, at the start of each fold's test window."""
    walked = [item for item in known if item[0].folds]
    if not walked:
        return None
    figure, many = go.Figure(), False
    for run, colour, name in walked:
        starts = {fold["number"]: fold["test_start"] for fold in run.folds}
        used = [choice for choice in run.thresholds if choice["fold"] in starts]
        look = {"name": name, "mode": "markers", "marker": {"color": colour, "size": 6, "opacity": 0.7}}
        if len(used) > MOST_THRESHOLDS:
            many = True
            figure.add_scatter(**_middles(used, starts), **look)
            continue
        figure.add_scatter(
            x=[starts[choice["fold"]] for choice in used],
            y=[choice["threshold"] for choice in used],
            text=[escaped(choice["ticker"]) for choice in used],
            **look,
        )
    figure.add_hline(y=0.5, line={"color": GREY, "dash": "dash"})
    figure.update_yaxes(tickformat="~g")
    figure.update_layout(showlegend=len(walked) > 1)
    headed(figure, ["chosen threshold"])
    values: FloatArray = np.array([choice["threshold"] for run, _, _ in walked for choice in run.thresholds])
    low, middle, high = np.quantile(values, [0.0, 0.5, 1.0])
    text = f"{len(values):,} thresholds, from {low:.4f} to {high:.4f}, half of them below {middle:.4f}."
    return figure, f"{text} Drawn: the median of each fold, with its lowest and highest." if many else text


def _middles(used: Sequence[JsonDict], starts: Mapping[int, str]) -> dict[str, Any]:
    """Return the median threshold of each fold, and how far the lowest and the highest are from it."""
    of_fold: dict[int, list[float]] = {}
    for choice in used:
        of_fold.setdefault(choice["fold"], []).append(choice["threshold"])
    low, middle, high = np.array([np.quantile(one, (0.0, 0.5, 1.0)) for one in of_fold.values()]).T
    reach = {"array": rounded(high - middle), "arrayminus": rounded(middle - low), "thickness": 1}
    return {"x": [starts[fold] for fold in of_fold], "y": rounded(middle), "error_y": reach}


@drawing("importance", "Feature importance", of="importance", main=True)
def importance(known: Known) -> tuple[go.Figure, str] | None:
    """Draw shares of SHAP values, impurity or gain, and permutation importance on validation, largest first."""
    measures = [
        measure
        for measure in MEASURES
        if any(facts[measure] is not None for run, _, _ in known for facts in run.importance.values())
    ]
    explained = [_explained(run) for run, _, _ in known]
    shared = "SHAP values, after train" if all(explained) else "SHAP values, impurity or gain"
    headings = [f"share of {shared if any(explained) else 'impurity or gain'}", "ROC-AUC lost when shuffled"]
    columns, hidden = _columns(known)
    figure = make_subplots(rows=len(measures), vertical_spacing=0.12)
    for run, colour, name in known:
        values: dict[str, list[float | None]] = {"share": [*map(_shares(run), columns)]}
        values["permutation"] = [run.importance.get(one, {}).get("permutation") for one in columns]
        for row, measure in enumerate(measures, start=1):
            figure.add_bar(
                y=[escaped(column) for column in columns],
                x=rounded(np.array(values[measure], dtype=np.float64)),
                orientation="h",
                name=name,
                legendgroup=run.name,
                showlegend=row == 1,
                marker={"color": colour},
                row=row,
                col=1,
            )
    figure.update_yaxes(autorange="reversed", type="category", dtick=1)
    bars = len(columns) * max(22, 7 * len(known))
    figure.update_layout(height=min(110 + (50 + bars) * len(measures), 900), showlegend=len(known) > 1)
    headed(figure, headings[: len(measures)])
    tops = "; ".join(f"{name} {escaped(max(run.importance, key=_shares(run)))}" for run, _, name in known)
    more = f" The {hidden} least used are not drawn." if hidden else ""
    last = "A walk-forward's columns are shuffled, and its SHAP values computed, in its last fold alone."
    return figure, f"Most used column: {tops}. {last}{more}"


def _columns(known: Known) -> tuple[list[str], int]:
    """Return the most used columns of all runs, the largest mean share first, and how many others there are."""
    names = dict.fromkeys(column for run, _, _ in known for column in run.importance)
    most = sorted(names, key=lambda column: -sum(_shares(run)(column) for run, _, _ in known))
    return most[:MOST_COLUMNS], max(len(most) - MOST_COLUMNS, 0)


def _explained(run: RunFacts) -> bool:
    """Return whether the SHAP values of a run are known."""
    return any(facts["contribution"] is not None for facts in run.importance.values())


def _shares(run: RunFacts) -> Callable[[str], float]:
    """Return the share of a column: of the mean absolute SHAP values where they are known, else of impurity or gain."""
    measure = "contribution" if _explained(run) else "share"
    total = sum(facts[measure] or 0.0 for facts in run.importance.values()) or 1.0
    return lambda column: ((run.importance.get(column) or {}).get(measure) or 0.0) / total


@drawing("prices", "Predicted and actual close", of="price")
def prices(known: Known) -> tuple[go.Figure, str] | None:
    """Draw predicted and actual close of the last days, and the line of persistence."""
    found = [(run.price, *item) for run, _, _ in known if run.price for item in run.price["recent"].items()]
    if not found:
        return None
    price, ticker, days = found[0]
    figure = go.Figure()
    styles = {"actual": ("solid", TEXT), "persistence": ("dot", GREY), "predicted": ("solid", COLOURS[0])}
    labels = {"actual": "actual next close", "persistence": "persistence: today's close", "predicted": "predicted"}
    for key, (dash, colour) in styles.items():
        line = {"dash": dash, "color": colour, "width": 1.5}
        figure.add_scatter(x=days["date"], y=days[key], name=labels[key], mode="lines", line=line)
    figure.update_yaxes(tickformat=",~r")
    headed(figure, ["quoted price"])
    errors = price["per_ticker"][ticker]
    terms = " Days before a split are drawn in the prices after it." if days["splits"] else ""
    text = (
        f"{escaped(ticker)}, the last {len(days['date'])} days. Over all days the prediction is off by "
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
    figure = make_subplots(rows=len(curved), vertical_spacing=0.3 / len(curved))
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
    figure.update_layout(height=80 + (300 if len(curved) == 1 else 180) * len(curved))
    headed(figure, titles)
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
        rows = [escaped(one["ticker"]) for one, _, _ in spans for _ in range(3)]
        figure.add_scatter(x=days, y=rows, name=name, mode="lines", line={"color": colour, "width": width})
    # Plotly drops every second name where it thinks that they are dense.
    figure.update_yaxes(type="category", dtick=1, range=[-1, len(tickers)])
    figure.update_xaxes(type="date", range=[widest.about["begins"], widest.about["last"]])
    figure.update_layout(height=160 + 22 * len(tickers))
    drawn = f", the first {len(tickers)} of them drawn" if len(tickers) < len(widest.coverage) else ""
    without = len({skip["ticker"] for skip in widest.skipped} - {one["ticker"] for one in widest.coverage})
    text = (
        f"Tickers with bars: {len(widest.coverage)}{drawn}. Left out of a fold: "
        f"{plural(sum(len(one['left_out']) for one in widest.coverage), 'time')}; of the whole run: "
        f"{plural(without, 'ticker')}. "
        f"{'Each reason stands below.' if widest.skipped else ''}"
    )
    return figure, text


def _percent(value: float | None) -> str:
    """Return a figure in percent, or a dash where it overflows."""
    return "–" if value is None else f"{value:.2f} %"
