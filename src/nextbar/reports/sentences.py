"""Sentences of a page about one run: how it trades, what its certificate says, and what to know besides."""

from __future__ import annotations

import shlex
from math import isclose

import numpy as np

from nextbar.evaluation.figures import compare
from nextbar.evaluation.series import Book
from nextbar.evaluation.verdict import Judgement
from nextbar.models.registry import KINDS
from nextbar.runs.document import Document, Figures
from nextbar.runs.files import mark_of, run_stem
from nextbar.runs.run import Run
from nextbar.words import excerpt, listed, plural


def suspicion(run: Run, judgement: Judgement) -> str:
    """Say why figures are too good, and how to look for a leak; empty where they are not."""
    if not judgement.suspicious:
        return ""
    said = f"a balanced accuracy of {judgement.balanced_accuracy:.3f} on daily bars is more likely a leak than skill"
    if run.document.kind == "signals":
        return f"{said}; signals from elsewhere cannot be checked here, so look at how they were made"
    return f"{said}; look for it with: {certify_command(run)}"


def certify_command(run: Run) -> str:
    """Return what certifies a run, or the run that was opened; a command where it is on disk."""
    if run.folder is None:
        return "nextbar.certify(run, bars)"
    file, name = run.mark.with_name(mark_of(run_stem(run.stem))), run.document.model
    kind = name if name in KINDS else "estimator --model module:factory"
    return f"nextbar certify {kind} --artifact {shlex.quote(str(file))}{function_options(run)}"


def function_options(run: Run) -> str:
    """Return the options by which a command gets the functions of the user's own that a run needs."""
    own = {"features": run.config.features, "panel-features": run.config.panel_features}
    return "".join(f" --{name} {shlex.quote(given)}" for name, given in own.items() if given and ":" in given)


def certificate_said(run: Run) -> str:
    """Say what the certificate beside a run shows; empty where there is none."""
    found = run.certificate()
    if found is None:
        return ""
    features = run.document.features
    if not found.verdict:
        return "The certificate beside it is about other files."
    if features.function is None and features.panel is None:
        return f"Certificate: {found.verdict}."
    if not found.reads:
        return f"Certificate: {found.verdict}; reads of the feature functions not checked."
    but = [f"allowed: {listed([excerpt(name) for name in found.allow_reads])}"] if found.allow_reads else []
    but += [] if all(one.without_descriptors for one in found.reads) else ["reads without an event not looked for"]
    more = f" ({'; '.join(but)})" if but else ""
    return f"Certificate: {found.verdict}; reads of the feature functions checked{more}."


def remarks_of(document: Document, book: Book) -> list[str]:
    """Return the remarks of a run, and what today's rules say of it."""
    told = [_trading(document.pooled, book), *document.remarks, *_over_holes(book)]
    remarks = [*filter(None, [_differing_figure(document, book)]), *told]
    if (ends := document.delisting) and ends["tickers"]:
        remarks.append(
            f"Tickers that ended inside the days: {ends['tickers']}, {ends['open']} of them with an open position. "
            f"A return of -30 % there, instead of the last close, would change the portfolio by "
            f"{100 * (ends['effect'] or 0):+.1f} %."
        )
    if document.periods_per_year is None:
        remarks.append(
            "An earlier version made this file: its tables hold the figures of that version, while the verdict and the "
            "pictures follow today's rules."
        )
    if document.data_errors is None:
        remarks.append("The file does not say whether its bars have data errors; nextbar check does.")
    if plain := [ticker for ticker, data in document.data.items() if data.adjustment == "none"]:
        remarks.append(
            f"Without an adjusted close: {plural(len(plain), 'ticker')}; splits and dividends look like moves."
        )
    return remarks


def _differing_figure(document: Document, book: Book) -> str:
    """Name a recorded figure that the rows do not give; empty where there is none, or an earlier version made them."""
    if document.periods_per_year is None:
        return ""
    found = compare(book)
    pairs = {"of the model": (document.pooled, found["model"])}
    pairs |= {
        f"of {name.replace('_', ' ')}": (document.baselines.get(name, {}), one)
        for name, one in found["baselines"].items()
    }
    for whose, (recorded, now) in pairs.items():
        for name, value in now.items():
            then = recorded.get(name)
            if value is not None and then is not None and not isclose(value, then, rel_tol=1e-6, abs_tol=1e-9):
                return (
                    f"The file records other figures than its rows give: {name} {whose} is {then:.6g} there and "
                    f"{value:.6g} from the rows. The tables show what the file says, the verdict follows the rows; "
                    "nextbar reproduce tells which are right."
                )
    return ""


def _trading(figures: Figures, book: Book) -> str:
    """Say how often the model trades, what trading may cost, and how it moves with always long."""
    trips, cost = book.model.round_trips, break_even_bps(book)
    said = plural(trips, "round trip")
    if cost is not None:
        said += (
            f"; break-even cost of the excess {cost:.1f} basis points" if cost > 0 else "; no excess even without costs"
        )
    if (alpha := figures.get("alpha")) is None:
        return f"{said}."
    error = "" if figures.get("alpha_t") is None else f" (t = {figures['alpha_t']:.2f}, Newey-West)"
    return f"{said}. Against always long: alpha {100 * alpha:+.1f} % a year{error}, beta {figures['beta']:.2f}."


def break_even_bps(book: Book) -> float | None:
    """Return the basis points per change of position by 1 at which the excess is 0; None where no position changes."""
    more = float((book.model.traded - book.constant.traded).sum())
    return book.terms.cost_bps + 1e4 * float(book.edge.sum()) / more if more > 0 else None


def _over_holes(book: Book) -> list[str]:
    """Say what positions held into holes earned there, if there were any."""
    position = book.carried(book.signal)
    before = np.vstack([np.zeros((1, position.shape[1])), position[:-1]])
    earned = (before * book.scattered(book.gap))[(before != 0) & (book.scattered(book.gap) != 0)]
    said = (
        f"Positions held into holes in the bars: {earned.size}; together they earned "
        f"{100 * earned.sum() / len(book.tickers):+.1f} % of the portfolio on the first bar after the hole."
    )
    return [said] if earned.size else []
