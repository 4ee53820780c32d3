"""One fold: fit on train, stop and decide on validation, look at test once. A training run is one such fold.

A fold is a pure function of its task and the bars: no database, no clock, no file. A worker on any machine runs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from nextbar.config import CommonConfig
from nextbar.datasets.assemble import Bars, TickerData
from nextbar.datasets.processor import StockDataProcessor
from nextbar.decisions.policy import classify, to_signal
from nextbar.decisions.threshold import ThresholdChoice, tune_threshold
from nextbar.errors import NextbarError, NothingToTrainError
from nextbar.models.catalog import get_model
from nextbar.models.protocol import FitRequest, Fitted, Report
from nextbar.models.reproducibility import digest_arrays, digest_bars, digest_text, set_global_seeds, task_seed
from nextbar.types import Border, FloatArray, JsonDict

ROW_COLUMNS = (
    "date",
    "ticker",
    "fold",
    "probability",
    "predicted_close",
    "threshold",
    "class",
    "signal",
    "next_return",
    "strategy_return",
)
"""Columns of out-of-sample rows, one per decision day; `strategy_return` is filled once folds are stitched."""


@dataclass(frozen=True, kw_only=True)
class FoldTask:
    """What a worker needs besides the bars.

    Attributes:
        name: Ticker, or ``all``: names the task for people.
        config: The run's configuration, with its model.
        model: Kind of model.
        fold: Number of the fold; 0 for a training run.
        borders: Ticker → rows of its splits.
        params: Parameters to use as they are; None: as the configuration says.
        search: Whether to search when ``params`` is None.
        out_of_sample: Test rows are days of a walk-forward and keep their last return when the next bar exists.
    """

    name: str
    config: CommonConfig
    model: str
    fold: int
    borders: Mapping[str, Border]
    params: Mapping[str, Any] | None = None
    search: bool = True
    out_of_sample: bool = False


@dataclass(frozen=True, kw_only=True)
class FoldResult:
    """What came out of a fold.

    Attributes:
        rows: Out-of-sample rows with `ROW_COLUMNS`, sorted by ticker and date.
        aux: Row by row beside them: ``majority`` class of train, ``yesterday`` 's direction, ``open_return``
            O(t+2)/O(t+1) - 1, ``close`` and ``next_close`` in quoted prices of day t, ``scaled_error`` of a predicted
            close on the network's own scale.
        facts: Parameters, search, threshold, history: for the metadata.
        digests: sha256 of bars, features, splits, search, params, weights, threshold, predictions.
        splits: Ticker → sizes and dates of its splits.
        skipped: Ticker → reason.
        files: Suffix → bytes of the artifact; none in a walk-forward, which keeps predictions, not models.
        params: Parameters that later folds may use as they are.
        seed: Seed of the fit.
    """

    rows: pd.DataFrame
    aux: pd.DataFrame
    facts: JsonDict
    digests: dict[str, str]
    splits: dict[str, JsonDict]
    skipped: dict[str, str]
    params: Mapping[str, Any] | None
    seed: int
    files: Mapping[str, bytes] = field(default_factory=dict)


def run_fold(task: FoldTask, bars: Mapping[str, Bars], report: Report) -> FoldResult:
    """Fit, decide and predict one fold.

    Raises:
        NothingToTrainError: No ticker of the task has samples; each reason is in the message.
    """
    seed = task_seed(task.config.seed, task.name, task.fold)
    set_global_seeds(seed)
    panel, skipped = _prepare(task, bars)
    model = get_model(task.model)
    request = FitRequest(config=task.config, seed=seed, params=task.params, search=task.search, report=report)
    fitted = model.fit(panel, request)
    choices = [_choose_threshold(fitted, data, task.config) for data in panel]
    tables = [_rows(task, fitted, data, choice) for data, choice in zip(panel, choices, strict=True)]
    rows, aux = (pd.concat(parts, ignore_index=True) for parts in zip(*tables, strict=True))
    thresholds = {data.table.ticker: choice.to_json() for data, choice in zip(panel, choices, strict=True) if choice}
    return FoldResult(
        rows=rows,
        aux=aux,
        facts={**fitted.facts, "columns": list(panel[0].table.columns), "threshold": thresholds},
        digests={
            **_data_digests(panel, bars),
            **fitted.digests,
            "threshold": digest_text(repr(thresholds)),
            "predictions": digest_arrays(
                [rows[name].to_numpy(np.float64) for name in ("probability", "predicted_close", "signal")]
            ),
        },
        splits={data.table.ticker: dict(data.splits.boundaries) for data in panel},
        skipped=skipped,
        params=fitted.params,
        seed=seed,
        files={} if task.out_of_sample else fitted.files(),
    )


def _prepare(task: FoldTask, bars: Mapping[str, Bars]) -> tuple[list[TickerData], dict[str, str]]:
    """Labelled splits of each ticker that has them, and why the others have not."""
    processor = StockDataProcessor(task.config)
    panel, skipped = [], {}
    for ticker, border in task.borders.items():
        try:
            panel.append(processor.prepare_ticker(ticker, bars[ticker].frame, border, out_of_sample=task.out_of_sample))
        except NextbarError as error:
            skipped[ticker] = str(error)
    if not panel:
        raise NothingToTrainError("; ".join(skipped.values()))
    return panel, skipped


def _choose_threshold(fitted: Fitted, data: TickerData, config: CommonConfig) -> ThresholdChoice | None:
    """Threshold tuned on validation; None for a model that predicts prices."""
    probability = fitted.validate(data)
    if probability is None:
        return None
    val = data.splits.val
    return tune_threshold(probability, val.next_returns, val.y, cost_bps=config.cost_bps, risk_free=config.risk_free)


def _rows(
    task: FoldTask, fitted: Fitted, data: TickerData, choice: ThresholdChoice | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Out-of-sample rows of one ticker and what stands beside them."""
    table, test = data.table, data.splits.test
    predicted = fitted.predict(data)
    kept = np.isfinite(predicted)
    at, predicted, returns = test.rows[kept], predicted[kept], test.next_returns[kept]
    nothing = np.full(len(at), np.nan)
    quote, close = table.quote[at], table.close[at]
    if choice is None:
        classes = (predicted > close).astype(np.int8)
        probability, price, threshold = nothing, predicted * quote, nothing
    else:
        classes = classify(predicted, choice.threshold)
        probability, price, threshold = predicted, nothing, np.full(len(at), choice.threshold)
    rows = pd.DataFrame(
        {
            "date": table.dates[at].astype("datetime64[ms]"),
            "ticker": table.ticker,
            "fold": np.int64(task.fold),
            "probability": probability,
            "predicted_close": price,
            "threshold": threshold,
            "class": classes,
            "signal": to_signal(classes),
            "next_return": returns,
            "strategy_return": nothing,
        },
    )
    aux = pd.DataFrame(
        {
            "majority": np.int8(2 * int(data.splits.train.y.sum()) > len(data.splits.train.y)),
            "yesterday": _yesterday(table.close)[at],
            "open_return": _open_return(table.open)[at],
            "close": close * quote,
            "next_close": close * (1.0 + returns) * quote,
            "scaled_error": _scaled_error(fitted, table.ticker, predicted, close * (1.0 + returns)),
        }
    )
    return rows, aux


def _scaled_error(fitted: Fitted, ticker: str, predicted: FloatArray, actual: FloatArray) -> FloatArray:
    """Error in units of the target's fitted range; NaN for a model that predicts no price."""
    ranges = fitted.facts.get("target_range")
    return np.full(len(actual), np.nan) if ranges is None else (predicted - actual) / ranges[ticker]


def _yesterday(close: FloatArray) -> np.ndarray:
    """[bars] 1 where the close rose on that day."""
    rose = np.zeros(len(close), dtype=np.int8)
    rose[1:] = close[1:] > close[:-1]
    return rose


def _open_return(opens: FloatArray) -> FloatArray:
    """[bars] O(t+2) / O(t+1) - 1: what a decision at close t earns from the next open to the one after it."""
    earned = np.full(len(opens), np.nan)
    earned[:-2] = opens[2:] / opens[1:-1] - 1.0
    return earned


def _data_digests(panel: Sequence[TickerData], bars: Mapping[str, Bars]) -> dict[str, str]:
    """Fingerprints of bars, features and labelled splits."""
    parts = [part for data in panel for part in (data.splits.train, data.splits.val, data.splits.test)]
    return {
        "bars": digest_text("".join(digest_bars(bars[data.table.ticker].frame) for data in panel)),
        "features": digest_arrays([data.table.features for data in panel]),
        "splits": digest_arrays([array for part in parts for array in (part.rows, part.y)]),
    }
