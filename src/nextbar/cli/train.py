"""`nextbar train lstm|rf|xgb`."""

from __future__ import annotations

from collections.abc import Callable

import typer

from nextbar.cli.console import err, out, print_json, progress, say
from nextbar.cli.options import SPELLINGS, command_of
from nextbar.cli.report import mlflow_logger
from nextbar.cli.tables import plural, price_lines, remark_lines, training_table
from nextbar.config import TrainConfig
from nextbar.pipelines.report import report
from nextbar.pipelines.train import TrainSummary, train

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    context_settings=SPELLINGS,
    help="Train models on the bars of a database; each artifact lies beside metadata that says what it is worth.",
)

TEXTS = {
    "rf": "Train a Random Forest per ticker: searched on train, threshold from validation, test looked at once.",
    "xgb": "Train an XGBoost per ticker: searched on train, stopped early on validation, test looked at once.",
    "lstm": "Train one LSTM on the windows of all tickers; it predicts the next close.",
}
EXAMPLES = """\b
Examples:
  nextbar train {0} --ticker AAPL
  nextbar train {0} --ticker AAPL,MSFT --start 2005-01-01 --json
  nextbar train {0} --ticker ALL --db data/market.db --save_dir models"""


def show(summary: TrainSummary, as_json: bool) -> None:
    """The table and the files on standard output, what was skipped on standard error."""
    if as_json:
        print_json(to_json(summary))
        return
    out.print(training_table(summary.runs))
    say(price_lines([(f"{run.model}, {run.ticker}", run.metadata["metrics"]) for run in summary.runs]))
    say(remark_lines([(summary.runs[0].model, summary.remarks)]))
    for run in summary.runs:
        for path in run.files:
            out.print(str(path), markup=False, highlight=False)
    tell_losses(summary)


def tell_losses(summary: TrainSummary) -> None:
    """What was left out and why; how prices were adjusted where that is not the usual way."""
    for reason in summary.skipped.values():
        err.print(f"skipped {reason}", markup=False, highlight=False)
    for ticker, trace in summary.failed.items():
        err.print(f"failed {ticker}: please report this\n{trace}", markup=False, highlight=False)
    lost = len(summary.skipped) + len(summary.failed)
    err.print(f"{len(summary.runs)} trained, {lost} left out, {summary.seconds:.0f} s", highlight=False)
    if plain := summary.adjustments.get("none"):
        without = f"without an adjusted close: {plural(plain, 'ticker')}"
        err.print(f"{without}; splits and dividends look like price moves", highlight=False)


def to_json(summary: TrainSummary) -> dict[str, object]:
    """The summary as JSON values."""
    return {
        "runs": [
            {
                "model": run.model,
                "ticker": run.ticker,
                "files": [str(path) for path in run.files],
                "metrics": run.metadata["metrics"],
            }
            for run in summary.runs
        ],
        "skipped": summary.skipped,
        "failed": summary.failed,
        "adjustments": summary.adjustments,
        "remarks": summary.remarks,
        "seconds": summary.seconds,
    }


def _runner(kind: str) -> Callable[[TrainConfig, bool], None]:
    def run(config: TrainConfig, as_json: bool) -> None:
        log = mlflow_logger(config.mlflow)
        with progress() as shown:
            summary = train(config, shown)
            marks = [run.files[-1] for run in summary.runs] if config.mlflow else []
            reports = [report([mark], shown, ledger=config.ledger) for mark in marks]
        show(summary, as_json)
        log(reports)

    run.__doc__ = f"{TEXTS[kind]}\n\n{EXAMPLES.format(kind)}"
    return run


for _kind in TEXTS:
    app.command(_kind)(command_of(TrainConfig, _runner(_kind), model=_kind))
