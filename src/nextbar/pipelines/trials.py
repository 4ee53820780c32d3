"""Use case: count a run as a trial, and find the trials that were scored on the same days."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import date

import numpy as np
import pandas as pd

from nextbar.artifacts.ledger import Ledger, Trial
from nextbar.config import CommonConfig, WalkForwardConfig
from nextbar.evaluation.daily import DailySeries, by_ticker
from nextbar.evaluation.significance import daily_sharpe
from nextbar.features.spec import source_of
from nextbar.models.reproducibility import digest_text
from nextbar.pipelines.universe import symbols
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
SEARCH = ("no_tune", "tune", "n_iter", "cv_splits", "search", "fast")
"""Nor do these, where nothing is searched."""


def trial_id(config: CommonConfig, model: str, *, anchor: date | None = None) -> str:
    """Digest of what makes a configuration: its kind, the options that matter to the model, the user's features.

    New bars, another folder or another number of processes do not make one; another seed does. Nor do the tickers make
    one, where a model is trained on one of them alone, unless all are split at one date.

    Args:
        config: What was asked for.
        model: Kind of model.
        anchor: First day of a walk-forward's first window, which the earliest of its tickers sets for all.
    """
    identity: JsonDict = {
        item.name: getattr(config, item.name)
        for item in fields(config)
        if item.name not in NOT_IDENTITY and model in item.metadata.get("kinds", (model,))
    }
    if model == "lstm" or config.no_tune or identity.get("tune") == "none":
        identity = {name: value for name, value in identity.items() if name not in SEARCH}
    else:
        identity |= {"search": config.search_method, "no_tune": False}
    if model == "lstm" or identity.get("split_by") == "date":
        identity["ticker"] = sorted(symbols(config.ticker)[: identity.get("max_tickers")])
    else:
        del identity["ticker"]
    kind = "walkforward" if isinstance(config, WalkForwardConfig) else "train"
    identity |= {"model": model, "kind": kind, "anchor": anchor, "source": _feature_source(config)}
    return digest_text(json.dumps(identity, sort_keys=True, default=str))[:16]


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
    """Net returns [days, trials] of other trials, and Sharpe ratios [trials] of their excess.

    On a day that a trial lacks it is given this result's return, which neither helps nor harms it in a comparison. The
    ratio is of its own n_i of the n days, times √(n_i / n), because the noise of a ratio has the variance 1 / n_i.
    """
    index = pd.DatetimeIndex(daily.dates)
    net, sharpes = np.empty((len(index), len(trials))), np.empty(len(trials))
    for number, trial in enumerate(trials):
        own = pd.concat(trial.returns.values()).groupby(level=0).mean()
        net[:, number] = own["net"].reindex(index).fillna(pd.Series(daily.net, index))
        sharpes[number] = (daily_sharpe(own["excess"].to_numpy()) or 0.0) * math.sqrt(len(own) / len(index))
    return net, sharpes


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
