"""Training of forests and boosted trees with their search, against RandomizedSearchCV(n_jobs=-1) ticker by ticker.

Our side is the whole command: read, search, final fit, threshold, importance, artifacts. Theirs is the search alone, on
samples made beforehand. Both draw the same candidates, and the choices are compared.
"""

import os
import tempfile
from argparse import Namespace
from pathlib import Path

import sides
from nextbar.config import TrainConfig

KINDS = ("xgb", "rf")


def _config(options: Namespace, save_dir: str) -> TrainConfig:
    kind, database, draws = options.case.split(":")
    names = ",".join(f"T{number:04d}" for number in range(options.tickers))
    wanted = {} if draws == "all" else {"n_iter": int(draws)}
    ledger = str(Path(save_dir) / "ledger.db")
    return TrainConfig(model=kind, db=database, ticker=names, save_dir=save_dir, ledger=ledger, **wanted)


def nextbar(options: Namespace, **changes: object) -> sides.Measured:
    """`nextbar train`."""
    from dataclasses import replace

    from nextbar.types import Silent
    from nextbar.workflows.train import train

    with tempfile.TemporaryDirectory() as folder:
        config, summaries = replace(_config(options, folder), **changes), []
        taken = sides.timed(lambda: summaries.append(train(config, Silent())))
    runs = summaries[0].runs
    choices = [sorted(run.document.fits[0][1].search.params.items()) for run in runs]
    return taken | {"fits": sum(run.document.seconds["fit"] for run in runs), "choices": repr(choices)}


def fast(options: Namespace) -> sides.Measured:
    """`nextbar train --fast`."""
    return nextbar(options, fast=True)


def loop(options: Namespace) -> sides.Measured:
    """What a user writes."""
    import xgboost as xgb
    from joblib.externals.loky import get_reusable_executor
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import RandomizedSearchCV, TimeSeriesSplit

    from nextbar.datasets.processor import StockDataProcessor
    from nextbar.models import random_forest, xgboost
    from nextbar.models.reproducibility import task_seed
    from nextbar.workflows.training import Experiment, make_plan
    from nextbar.workflows.universe import load_universe

    config = _config(options, str(options.folder))
    universe = load_universe(config)
    processor = StockDataProcessor(config)
    home, estimator = {
        "rf": (random_forest.RandomForest, RandomForestClassifier),
        "xgb": (xgboost.XGBoost, xgb.XGBClassifier),
    }[config.model]
    tasks = make_plan(Experiment.of(config, universe)).tasks
    panel = [
        processor.prepare_for_classification_splits(
            universe.bars[task.name].frame, ticker=task.name, border=task.borders[task.name]
        )
        for task in tasks
    ]
    choices = []

    def work() -> None:
        for data in panel:
            seed = task_seed(config.seed, data.table.ticker, 0)
            search = RandomizedSearchCV(
                estimator(random_state=seed),
                home.built_in_space,
                n_iter=config.n_iter or home.draws,
                scoring="balanced_accuracy",
                cv=TimeSeriesSplit(config.cv_splits, gap=1),
                random_state=seed % 2**32,
                n_jobs=-1,
            )
            best = search.fit(data.train.X, data.train.y).best_params_
            choices.append(sorted(best.items()))
        get_reusable_executor().shutdown(wait=True)

    return sides.timed(work) | {"choices": repr(choices)}


def race(options: Namespace) -> None:
    options.tickers = options.tickers or (2 if options.quick else 8)
    draws, days = ("3", 700) if options.quick else ("all", 2650)
    real, options.rounds = os.environ.pop(sides.REAL, None), min(options.rounds, 1 if options.quick else 2)
    database = sides.database(options.folder, options.tickers, days)
    for kind in KINDS:
        case = f"{kind}:{database}:{draws}"
        taken = sides.turns(list(SIDES), options, case=case)
        same = {one["choices"] for side in ("nextbar", "loop, n_jobs=-1") for one in taken[side]}
        cores = len(os.sched_getaffinity(0))
        busy = [one["seconds"] * cores / one["fits"] for one in taken["nextbar"]]
        print(f"{kind}, {options.tickers} tickers of {days} bars, {draws} candidates", flush=True)
        print(f"  choices {'equal' if len(same) == 1 else 'DIFFER'}; wall x cores / sum of fits {min(busy):.2f}")
        sides.tell(taken)
    if real:
        os.environ[sides.REAL] = real


SIDES = {"nextbar": nextbar, "loop, n_jobs=-1": loop, "nextbar --fast": fast}

if __name__ == "__main__":
    sides.main(__doc__, SIDES, race)
