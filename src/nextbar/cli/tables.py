"""Tables of figures, each beside its baseline."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:  # they bring all that training needs, which a prediction does without
    from nextbar.pipelines.score import Scored
    from nextbar.pipelines.train import TrainedRun
    from nextbar.pipelines.walkforward import WalkForwardResult


def number(value: float | None, digits: int = 3) -> str:
    """A figure, or a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """A share in percent."""
    return "–" if value is None else f"{100 * value:.1f} %"


def plural(count: int, noun: str) -> str:
    """A count and its noun: 1 ticker, 3 tickers."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def pair(own: str, baseline: str) -> str:
    """A figure and, after the stroke, its baseline."""
    return f"{own} / {baseline}"


def training_table(runs: Sequence[TrainedRun]) -> Table:
    """Model × ticker on the test days."""
    title = f"Test days, {_periods(run.metadata for run in runs)}: model / baseline"
    table = Table(title=f"{title} (always long; 0.5 is a coin; persistence for price)")
    for column in ("model", "ticker", "test days", "from", "to"):
        table.add_column(column)
    for column in ("bal. accuracy", "ROC-AUC", "Sharpe", "max drawdown", "RMSE % / persistence"):
        table.add_column(column, justify="right")
    for run in runs:
        table.add_row(*training_row(run))
    return table


def _periods(documents: Iterable[dict[str, Any]]) -> str:
    """How many bars the rates take a year to have."""
    return " and ".join(f"{count:g}" for count in sorted({one["periods_per_year"] for one in documents})) + " a year"


def training_row(run: TrainedRun) -> list[str]:
    """One artifact as cells."""
    metrics = run.metadata["metrics"]
    model, long = metrics["model"], metrics["baselines"]["always_long"]
    tests = [split["test"] for split in run.metadata["splits"].values()]
    return [
        run.model,
        run.ticker,
        str(model["n"]),
        min(test["first"] for test in tests),
        max(test["last"] for test in tests),
        pair(number(model["balanced_accuracy"]), number(long["balanced_accuracy"])),
        pair(number(model["roc_auc"]), number(long["roc_auc"])),
        pair(number(model["sharpe"], 2), number(long["sharpe"], 2)),
        pair(percent(model["max_drawdown"]), percent(long["max_drawdown"])),
        _price(metrics.get("price")),
    ]


def _price(price: dict[str, Any] | None) -> str:
    if price is None:
        return ""
    return pair(number(price["mean_price_rmse_percent"], 2), number(price["mean_persistence_rmse_percent"], 2))


def price_lines(named: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
    """Of each model that predicts prices, its errors in price units beside persistence, and on the network's scale.

    Args:
        named: Name and figures of each run.
    """
    return [
        f"{name}: average RMSE in price units {number(price['mean_price_rmse'])}, "
        f"persistence {number(price['mean_persistence_rmse'])}; scaled test MSE {_short(price['scaled_mse'])}"
        for name, figures in named
        if (price := figures.get("price")) is not None
    ]


def _short(value: float | None) -> str:
    """A figure with three digits, whatever its size; a dash where there is none."""
    return "–" if value is None else f"{value:.3g}"


def remark_lines(by_model: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    """Remarks about runs, each once; with the name of the model where it is not one about all of them."""
    common = set.intersection(*(set(remarks) for _, remarks in by_model))
    shared = [f"note: {remark}" for remark in by_model[0][1] if remark in common]
    own = [f"note: {model}: {remark}" for model, remarks in by_model for remark in remarks if remark not in common]
    return [*shared, *own]


BASELINES = {
    "always_long": "always long",
    "majority_class": "majority class of train",
    "yesterday_direction": "yesterday's direction",
    "constant_exposure": "constant, own exposure",
}


QUARTER_DAYS = 63
"""Fewer days make no rate per year."""


def walk_forward_table(results: Sequence[WalkForwardResult | Scored]) -> Table:
    """Each model, the same signals executed later, and its baselines, on the same days and costs."""
    table = Table(title=f"Out-of-sample days, net of costs, {_periods(result.document for result in results)}")
    for column in ("model", "row", "days"):
        table.add_column(column)
    for column in ("bal. accuracy", "ROC-AUC", "Sharpe", "max drawdown", "annual return", "exposure", "turnover"):
        table.add_column(column, justify="right")
    for result in results:
        document = result.document
        count = len(document["per_ticker"])
        table.add_row(result.model, plural(count, "ticker"), *_figures(document["pooled"]), style="bold")
        table.add_row("", "  one bar late", *_figures(document["one_bar_late"]))
        table.add_row("", "  at the next open", *_figures(document["next_open"]))
        for name, text in BASELINES.items():
            table.add_row("", f"  {text}", *_figures(document["baselines"][name]))
        if (price := document.get("price")) is not None:
            skill = f"RMSE {_price(price)} % of the close, mean skill of the tickers {number(price['mean_skill'])}"
            table.add_row("", f"  price / persistence: {skill}")
        table.add_section()
    return table


def _figures(row: dict[str, Any]) -> list[str]:
    return [
        str(row["days"]),
        number(row.get("balanced_accuracy")),
        number(row.get("roc_auc")),
        number(row["sharpe"], 2),
        percent(row["max_drawdown"]),
        percent(row["annual_return"] if row["days"] >= QUARTER_DAYS else None),
        percent(row["exposure"]),
        number(row["turnover"], 1),
    ]
