"""`nextbar demo`: the whole way on real sample bars, in a folder of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from nextbar.artifacts.names import writable_folder
from nextbar.cli.console import err, out, progress, say
from nextbar.cli.report import tell
from nextbar.cli.tables import price_lines, remark_lines, training_table, walk_forward_table
from nextbar.cli.train import tell_losses
from nextbar.cli.walkforward import run_models, say_besides, write_reports
from nextbar.config import MODEL_LABELS, TrainConfig, WalkForwardConfig
from nextbar.market.ingest import ingest
from nextbar.market.sources.sample import read_sample
from nextbar.pipelines.train import TrainSummary, train

app = typer.Typer(add_completion=False)

# A full forest search takes minutes a ticker; the demo is to be over while somebody watches.
TRAINING: dict[str, dict[str, Any]] = {
    "rf": {"n_iter": 3, "cv_splits": 3},
    "xgb": {"n_iter": 5, "cv_splits": 3},
    "lstm": {"epochs": 3, "batch_size": 64},
}
WALK_FORWARD: dict[str, Any] = {
    "test_months": 12,
    "step_months": 12,
    "tune": "none",
    "epochs": 2,
    "batch_size": 64,
}


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Folder for the database, the models and the results.")] = Path("demo"),
) -> None:
    """Ingest real bars of five stocks, train the three kinds of model, walk them forward; minutes, no network.

    The searches draw few candidates and the LSTM runs few epochs, so that it is over soon: the figures show the form of
    an answer, not what the models can do.
    """
    writable_folder(folder)
    # A ledger of its own: what a demonstration tries does not deflate the user's verdicts.
    db, ledger = str(folder / "market.db"), str(folder / "ledger.db")
    with progress() as shown:
        stored = ingest(read_sample(), db, progress=shown).total
        out.print(f"1. {stored.new + stored.unchanged} daily bars of 5 stocks, 2000 to 2013, in {db}", highlight=False)
        summaries = [
            train(TrainConfig(db=db, save_dir=str(folder / "models"), model=kind, ledger=ledger, **sizes), shown)
            for kind, sizes in TRAINING.items()
        ]
    _show_training(summaries)
    config = WalkForwardConfig(db=db, output_dir=str(folder / "results"), ledger=ledger, **WALK_FORWARD)
    results = run_models(list(MODEL_LABELS), config)
    out.print("\n3. Walked forward: each year predicted by models trained on the years before it", highlight=False)
    out.print(walk_forward_table(results))
    say_besides(results)
    for path in (path for result in results for path in result.files):
        out.print(str(path), markup=False, highlight=False)
    out.print("\n4. What that is worth: open a page in a browser", highlight=False)
    tell(write_reports(results, config))


def _show_training(summaries: list[TrainSummary]) -> None:
    runs = [run for summary in summaries for run in summary.runs]
    drawn = (
        f"{TRAINING['rf']['n_iter']} forests, {TRAINING['xgb']['n_iter']} boosters, {TRAINING['lstm']['epochs']} epochs"
    )
    out.print(f"\n2. Trained, with small searches for a short demo ({drawn})", highlight=False)
    out.print(training_table(runs))
    say(price_lines([(f"{run.model}, {run.ticker}", run.metadata["metrics"]) for run in runs]))
    say(remark_lines([(summary.runs[0].model, summary.remarks) for summary in summaries]))
    for path in (path for run in runs for path in run.files):
        out.print(str(path), markup=False, highlight=False)
    for summary in summaries:
        tell_losses(summary)
    err.print()
