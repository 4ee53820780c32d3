"""Use case: count a run as a trial, and find the trials that were scored on the same days."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields

import numpy as np
import pandas as pd

from nextbar.artifacts.ledger import Ledger, Trial
from nextbar.config import CommonConfig, WalkForwardConfig
from nextbar.evaluation.daily import DailySeries, by_ticker
from nextbar.features.spec import source_of
from nextbar.models.reproducibility import digest_text
from nextbar.types import FloatArray, JsonDict

NOT_IDENTITY = (
    "db",
    "engine",
    "jobs",
    "ledger",
    "mlflow",
    "no_report",
    "output_dir",
    "resume",
    "save_dir",
    "scheduler",
)
"""Options that do not make another configuration."""
UNIVERSE = ("ticker", "max_tickers")
"""Nor do these, for a model that is trained on one ticker alone."""


def trial_id(config: CommonConfig, model: str) -> str:
    """Digest of what makes a configuration: its kind, the options that matter to the model, the user's features.

    New bars, another folder or another number of processes do not make one; another seed does.
    """
    ignored = NOT_IDENTITY + (() if model == "lstm" else UNIVERSE)
    kind = "walkforward" if isinstance(config, WalkForwardConfig) else "train"
    options = {
        item.name: getattr(config, item.name)
        for item in fields(config)
        if item.name not in ignored and model in item.metadata.get("kinds", (model,))
    }
    identity = {**options, "model": model, "kind": kind, "source": _feature_source(config)}
    return digest_text(json.dumps(identity, sort_keys=True))[:16]


def record_trial(ledger: Ledger, rows: pd.DataFrame, document: JsonDict) -> None:
    """Enter the out-of-sample rows of a finished run, and what its document says of it, into the ledger."""
    series = by_ticker(rows, cost_bps=document["config"]["cost_bps"])
    trial = Trial(
        id=document["trial"],
        kind="walkforward" if "folds" in document else "train",
        model=document["model"],
        config=document["config"],
        returns={ticker: _returns(daily) for ticker, daily in series.items()},
    )
    ledger.record(trial)


def other_trials(ledger: Ledger, rows: pd.DataFrame, own: str | None) -> list[Trial]:
    """Trials other than this one, on the scored days of the same tickers."""
    groups = rows.groupby("ticker")["date"]
    days = {str(ticker): dates.to_numpy().astype("datetime64[D]") for ticker, dates in groups}
    return [trial for trial in ledger.overlapping(days) if trial.id != own]


def on_days_of(daily: DailySeries, trials: Sequence[Trial]) -> tuple[FloatArray, FloatArray]:
    """Net and excess returns [days, trials] of other trials; on a day that one has not, those of this result."""
    index = pd.DatetimeIndex(daily.dates)
    net, excess = np.empty((2, len(index), len(trials)))
    for number, trial in enumerate(trials):
        together = pd.concat(trial.returns.values()).groupby(level=0).mean().reindex(index)
        net[:, number] = np.where(together["net"].isna(), daily.net, together["net"])
        excess[:, number] = np.where(together["excess"].isna(), daily.excess, together["excess"])
    return net, excess


def describe_trials(trials: Sequence[Trial]) -> list[JsonDict]:
    """One record per trial: what it was, on which tickers and days."""
    return [
        {
            "id": trial.id,
            "kind": trial.kind,
            "model": trial.model,
            "tickers": sorted(trial.returns),
            "first": str(min(frame.index[0] for frame in trial.returns.values()).date()),
            "last": str(max(frame.index[-1] for frame in trial.returns.values()).date()),
            "recorded": trial.recorded,
            "config": trial.config,
        }
        for trial in trials
    ]


def _returns(daily: DailySeries) -> pd.DataFrame:
    columns: Mapping[str, FloatArray] = {"net": daily.net, "excess": daily.excess}
    return pd.DataFrame(columns, index=pd.DatetimeIndex(daily.dates.astype("datetime64[s]"), name="date"))


def _feature_source(config: CommonConfig) -> str | None:
    """Digest of the module that the user's features come from: other code is another configuration."""
    if config.features is None:
        return None
    path = source_of(config.features)
    return None if path is None else digest_text(path.read_text(encoding="utf-8"))
