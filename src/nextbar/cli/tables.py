"""Tables of figures, each beside its baseline."""

from __future__ import annotations

from collections.abc import Sequence
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
    table = Table(title="Test days: model / baseline (always long; 0.5 is a coin; persistence for price)")
    for column in ("model", "ticker", "test days", "from", "to"):
        table.add_column(column)
    for column in ("bal. accuracy", "ROC-AUC", "Sharpe", "max drawdown", "RMSE % / persistence"):
        table.add_column(column, justify="right")
    for run in runs:
        table.add_row(*training_row(run))
    return table


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
    table = Table(title="Out-of-sample days, net of costs")
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
            skill = f"RMSE {_price(price)} % of the close, skill {number(price['mean_skill'])}"
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
