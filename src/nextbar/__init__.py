"""Train models of a stock's next daily bar without seeing the future, and learn what they are worth.

Three nouns: **bars** (ticker → DataFrame), a **model** (an object that holds parameters) and a **Run** (the result).

    import nextbar as nb

    bars = nb.read_bars("data/market.db", ["AAPL", "MSFT"])
    wf = nb.walk_forward(bars, nb.XGBoost(n_iter=10), windows=nb.Windows(test_months=12))
    wf.figures                       # the model beside its baselines, net of costs
    nb.verdict(wf)                   # what it is worth, and why
    nb.certify(wf, bars).passed      # it saw no future
    wf.save("results")

Nothing is written and no ledger is opened unless a path is given. Only `refit` of a run that was loaded from a file
writes the refit beside it, and so does ``reproduce(…, upgrade=True)`` with what an older version lacks.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nextbar.version import __version__

if TYPE_CHECKING:
    from nextbar import errors, features
    from nextbar.datasets.processor import StockDataProcessor
    from nextbar.datasets.splits import Split, Windows
    from nextbar.market.bars import DataAccessLayer, read_bars
    from nextbar.market.sources.frames import bars
    from nextbar.market.sources.sample import sample_bars
    from nextbar.models.base import FitRequest, Fitted, Model
    from nextbar.models.estimator import Estimator
    from nextbar.models.lstm_model import LSTM
    from nextbar.models.random_forest import RandomForest
    from nextbar.models.xgboost import XGBoost
    from nextbar.runs.run import Run
    from nextbar.workflows.compare import compare
    from nextbar.workflows.holdout import open_holdout
    from nextbar.workflows.library import certify, judge, load_run, refit, report, reproduce, train, walk_forward
    from nextbar.workflows.verdict import verdict

_HOMES = {
    "DataAccessLayer": "nextbar.market.bars",
    "Estimator": "nextbar.models.estimator",
    "FitRequest": "nextbar.models.base",
    "Fitted": "nextbar.models.base",
    "LSTM": "nextbar.models.lstm_model",
    "Model": "nextbar.models.base",
    "RandomForest": "nextbar.models.random_forest",
    "Run": "nextbar.runs.run",
    "Split": "nextbar.datasets.splits",
    "StockDataProcessor": "nextbar.datasets.processor",
    "Windows": "nextbar.datasets.splits",
    "XGBoost": "nextbar.models.xgboost",
    "bars": "nextbar.market.sources.frames",
    "certify": "nextbar.workflows.library",
    "compare": "nextbar.workflows.compare",
    "errors": "nextbar.errors",
    "features": "nextbar.features",
    "judge": "nextbar.workflows.library",
    "load_run": "nextbar.workflows.library",
    "open_holdout": "nextbar.workflows.holdout",
    "read_bars": "nextbar.market.bars",
    "refit": "nextbar.workflows.library",
    "report": "nextbar.workflows.library",
    "reproduce": "nextbar.workflows.library",
    "sample_bars": "nextbar.market.sources.sample",
    "train": "nextbar.workflows.library",
    "verdict": "nextbar.workflows.verdict",
    "walk_forward": "nextbar.workflows.library",
}
"""Public name → module that is imported when the name is used."""

__all__ = [
    "LSTM",
    "DataAccessLayer",
    "Estimator",
    "FitRequest",
    "Fitted",
    "Model",
    "RandomForest",
    "Run",
    "Split",
    "StockDataProcessor",
    "Windows",
    "XGBoost",
    "__version__",
    "bars",
    "certify",
    "compare",
    "errors",
    "features",
    "judge",
    "load_run",
    "open_holdout",
    "read_bars",
    "refit",
    "report",
    "reproduce",
    "sample_bars",
    "train",
    "verdict",
    "walk_forward",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        from nextbar.words import nearest  # noqa: PLC0415 - only where a name is wrong

        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{nearest(name, __all__)}")
    home = import_module(_HOMES[name])
    found = home if home.__name__ == f"{__name__}.{name}" else getattr(home, name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
