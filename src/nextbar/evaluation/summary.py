"""From out-of-sample rows to the figures that stand in the metadata, each beside its baseline."""

from __future__ import annotations

import numpy as np
import pandas as pd

from nextbar.config import CommonConfig
from nextbar.evaluation.baselines import compare, per_ticker
from nextbar.scoring.backtest import strategy_rows
from nextbar.scoring.metrics import price_errors, reliability_table
from nextbar.types import JsonDict

RECENT_TICKERS, RECENT_DAYS = 6, 250
"""How much of the predicted closes the figures repeat: a picture's worth, the rest is in the rows."""


def finish_rows(rows: pd.DataFrame, cost_bps: float) -> pd.DataFrame:
    """Rows of all folds with `strategy_return`: the position of each ticker carries over fold borders."""
    order = np.lexsort((rows["date"].to_numpy(), pd.factorize(rows["ticker"], sort=True)[0]))
    net = np.empty(len(rows))
    net[order] = strategy_rows(
        rows["ticker"].to_numpy()[order],
        rows["signal"].to_numpy()[order],
        rows["next_return"].to_numpy()[order],
        cost_bps,
    )
    return rows.assign(strategy_return=net)


def summarise(rows: pd.DataFrame, aux: pd.DataFrame, config: CommonConfig) -> JsonDict:
    """Pooled figures, baselines, execution variants and per-ticker figures; price errors where prices are predicted.

    Args:
        rows: Out-of-sample rows, finished.
        aux: Row by row beside them, as `nextbar.evaluation.walkforward.FoldResult` says.
        config: Costs and risk-free rate.
    """
    terms = {"cost_bps": config.cost_bps, "risk_free": config.risk_free}
    figures = compare(rows, aux, **terms)
    figures["per_ticker"] = per_ticker(rows, aux, **terms)
    if rows["probability"].notna().all():
        truth = (rows["next_return"] > 0).to_numpy()
        figures["reliability"] = reliability_table(truth, rows["probability"].to_numpy())
    else:
        figures["price"] = _prices(rows, aux)
    return figures


def _prices(rows: pd.DataFrame, aux: pd.DataFrame) -> JsonDict:
    """Errors in quoted prices per ticker and on average, and the mean squared error on the network's own scale."""
    parts = {str(ticker): index for ticker, index in rows.groupby("ticker", sort=True).indices.items()}
    predicted, actual, current = (
        frame[name].to_numpy() for frame, name in ((rows, "predicted_close"), (aux, "next_close"), (aux, "close"))
    )
    by_ticker = {name: price_errors(predicted[at], actual[at], current[at]) for name, at in parts.items()}
    keys = next(iter(by_ticker.values()))
    mean = {f"mean_{key}": _mean([figures[key] for figures in by_ticker.values()]) for key in keys}
    scaled = {"scaled_mse": float(np.mean(aux["scaled_error"].to_numpy() ** 2))}
    recent = {name: _recent(rows.iloc[at], aux.iloc[at]) for name, at in list(parts.items())[:RECENT_TICKERS]}
    return {**scaled, **mean, "per_ticker": by_ticker, "recent": recent}


def _recent(rows: pd.DataFrame, aux: pd.DataFrame) -> JsonDict:
    """The last days of one ticker: predicted and actual next close, and today's, which persistence predicts."""
    order = np.argsort(rows["date"].to_numpy(), kind="stable")[-RECENT_DAYS:]
    dates = [str(day.date()) for day in rows["date"].iloc[order]]
    columns = {"predicted": rows["predicted_close"], "actual": aux["next_close"], "persistence": aux["close"]}
    return {"date": dates, **{name: values.iloc[order].tolist() for name, values in columns.items()}}


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
