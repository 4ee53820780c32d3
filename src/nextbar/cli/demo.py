"""`nextbar demo`: every step on real sample bars, in one folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from nextbar.cli import render
from nextbar.cli.commands import walk_models, write_reports
from nextbar.cli.console import note, progress, say, whole
from nextbar.config import TrainConfig, WalkForwardConfig
from nextbar.market.ingest import ingest
from nextbar.market.sources.sample import read_sample
from nextbar.models.registry import KINDS
from nextbar.runs.files import writable_folder
from nextbar.workflows.train import train

# A full forest search takes minutes a ticker; the demo must be short.
FORESTS, BOOSTERS, EPOCHS = 3, 5, 3
TRAINING: tuple[tuple[str, dict[str, Any]], ...] = (
    ("rf", {"n_iter": FORESTS, "cv_splits": 3}),
    ("xgb", {"n_iter": BOOSTERS, "cv_splits": 3}),
    ("lstm", {"epochs": EPOCHS, "batch_size": 64}),
    ("lstm", {"epochs": EPOCHS, "batch_size": 64, "target": "return"}),
)
WALK_FORWARD: dict[str, Any] = {"test_months": 12, "step_months": 12, "tune": "none", "epochs": 2, "batch_size": 64}


def demo(
    folder: Annotated[Path, typer.Option(help="Folder for the database, the models and the results.")] = Path("demo"),
) -> None:
    """Ingest real bars of five stocks, train the three kinds of model, and walk them forward, without network.

    The LSTM is trained twice: on the next close, as specified, and on the next return. To take only a few minutes, the
    searches try few candidates and the LSTM trains for few epochs. The figures therefore show what a result looks like,
    not what the models can do.
    """
    writable_folder(folder)
    say(f"This takes a few minutes on two free cores. Files go to {folder}; nothing is fetched from the network.", "")
    # A ledger of its own: what a demonstration tries does not deflate the user's verdicts.
    db, ledger = str(folder / "market.db"), str(folder / "ledger.db")
    with progress() as shown:
        stored = ingest(read_sample(), db, progress=shown).total
    say(f"1. {stored.new + stored.unchanged} daily bars of 5 stocks, 2000 to 2013, in {db}")
    with progress() as shown:
        summaries = [
            train(TrainConfig(db=db, save_dir=str(folder / "models"), model=kind, ledger=ledger, **sizes), shown)
            for kind, sizes in TRAINING
        ]
    say(
        "",
        f"2. Trained, with small searches for a short demo ({FORESTS} forests, {BOOSTERS} boosters, {EPOCHS} epochs)",
    )
    render.training(summaries)
    note("")
    config = WalkForwardConfig(db=db, output_dir=str(folder / "results"), ledger=ledger, **WALK_FORWARD)
    results = walk_models(list(KINDS), config)
    say("", "3. Walked forward: each year predicted by models trained on the years before it")
    render.walk_forwards([result.run for result in results])
    say("", "4. What that is worth: open a page in a browser")
    pages = write_reports(results, config)
    render.reports(pages, verbose=False)
    whole(*_next(folder, db, page=pages[-1].files[-1], model=summaries[1].runs[0].mark))


def _next(folder: Path, db: str, *, page: Path, model: Path) -> list[str]:
    """Say what to open and what to try next."""
    return [
        "",
        f"5. Open {page.resolve().as_uri()}",
        "   and try:",
        f"   nextbar predict {model} --db {db} --journal {folder / 'journal.db'} --max-age-days 99999",
        f"   nextbar certify xgb --artifact {model} --db {db}",
        f"   nextbar compare {folder / 'results'}/walkforward_*.json",
        "   docs/tutorial.md shows the same steps in Python; nextbar ingest --help, how to read your own bars.",
    ]
