"""How a Run shows itself in a notebook: the verdict, figures beside baselines, and a picture of the wealth.

The picture is plain SVG, so that a saved notebook shows it without scripts.
"""

from __future__ import annotations

from html import escape

import numpy as np
import pandas as pd

from nextbar.errors import python_words
from nextbar.evaluation.verdict import SUSPICIOUS_SAID, Judgement
from nextbar.reports.facts import ROWS
from nextbar.runs.labels import mentions
from nextbar.runs.load import expecting_parts
from nextbar.runs.run import Run
from nextbar.runs.verdict import judge_run
from nextbar.scoring.backtest import wealth_path
from nextbar.types import FloatArray
from nextbar.words import listed, printable, said_once

SHOWN = ("days", "balanced_accuracy", "roc_auc", "sharpe", "max_drawdown", "annual_return", "exposure", "turnover")
REMARKS = 4
"""Most remarks that are shown."""
WIDTH, HEIGHT, MOST_POINTS = 720, 220, 400
COLOURS = ("#0f7fc4", "#d55e00", "#009e73", "#b565c9", "#8c8c8c")
COLOUR_OF = {"EDGE": "#00704f", "INCONCLUSIVE": "#8a5a00", "NO EDGE": "#5b6472"}


def run_html(run: Run) -> str:
    """Show a run as HTML; the verdict holds for the only try."""
    with expecting_parts(run):
        judgement = judge_run(run)
        remarks = "".join(f"<p style='margin:.2em 0'>{escape(line)}</p>" for line in _remarks(run))
        return f"<div>{_verdict(run, judgement)}{_figures(run)}{remarks}{_wealth(run)}</div>"


def run_text(run: Run) -> str:
    """Show a run as text: what it is and on which terms, its figures beside its baselines, and its remarks."""
    with expecting_parts(run):
        days = f"{run.book.dates[0]} to {run.book.dates[-1]}, {len(run.book.dates):,} days"
        table = _table(run).to_string(float_format="{:.3f}".format, na_rep="–")
    terms = ", ".join(run.document.terms.words().values())
    return "\n".join([f"{run.title}, {listed(run.tickers)}, {days}", terms, table, *_remarks(run)])


def _remarks(run: Run) -> list[str]:
    """Return the first remarks of a run as lines, then who was left out and why, and where the others are."""
    document = run.document
    left_out = said_once((skip.ticker, skip.reason) for skip in document.skipped)
    told = [f"note: {one}" for one in document.remarks] + [f"left out: {one}" for one in left_out]
    lines = [python_words(printable(one), {}) for one in told[:REMARKS]]
    more = len(told) - REMARKS
    return [*lines, f"and {more} more: run.document.remarks, run.document.skipped"] if more > 0 else lines


def _table(run: Run) -> pd.DataFrame:
    return run.figures.reindex(columns=list(SHOWN)).rename(index=ROWS)


def _verdict(run: Run, judgement: Judgement) -> str:
    word = judgement.verdict.value
    said = "".join(f"<p style='margin:.2em 0'>{escape(printable(text))}</p>" for text in judgement.statements)
    if judgement.suspicious:
        said = f"<p><strong>SUSPICIOUS: {SUSPICIOUS_SAID}</strong></p>" + said
    head = escape(printable(f"{mentions([run.described])[0]}, {listed(run.tickers)}"))
    return f"<p><strong style='color:{COLOUR_OF[word]};font-size:1.3em'>{word}</strong> · {head}</p>{said}"


def _figures(run: Run) -> str:
    made: str = _table(run).to_html(float_format="{:.3f}".format, na_rep="–", border=0)
    return made


def _wealth(run: Run) -> str:
    """Draw the wealth of the model and its baselines, 1 at the start, on a logarithmic scale."""
    tracks = {"model": run.book.model, **run.book.baselines(run.document.majority or None)}
    lines = {ROWS[name]: np.log(np.maximum(wealth_path(track.net)[0], 1e-6)) for name, track in tracks.items()}
    low = min(float(line.min()) for line in lines.values())
    high = max(float(line.max()) for line in lines.values())
    drawn, legend = "", ""
    for (name, line), colour in zip(lines.items(), COLOURS, strict=False):
        width = 2 if name == "model" else 1
        points = _points(line, low, high)
        drawn = f"<polyline fill='none' stroke='{colour}' stroke-width='{width}' points='{points}'/>" + drawn
        legend += f"<span style='color:{colour};margin-right:1em'>━ {escape(name)} {np.exp(line[-1]):.2f}</span>"
    first, last = run.book.dates[[0, -1]]
    return (
        f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}' role='img' aria-label='Wealth'>{drawn}</svg>"
        f"<p>{legend}</p><p>Wealth from 1 at the start, {first} to {last}, net of costs, logarithmic scale.</p>"
    )


def _points(line: FloatArray, low: float, high: float) -> str:
    at = np.unique(np.linspace(0, len(line) - 1, min(len(line), MOST_POINTS)).astype(np.int64))
    x = at / max(len(line) - 1, 1) * WIDTH
    y = HEIGHT - (line[at] - low) / max(high - low, 1e-9) * (HEIGHT - 4) - 2
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
