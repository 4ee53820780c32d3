"""StockDataProcessor: the doors to the pure functions behind it, under the names that users' scripts know."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from nextbar.config import CommonConfig, TrainConfig
from nextbar.datasets.assemble import SequenceSets, TickerData, clean_bars, make_sequences, prepare_ticker
from nextbar.datasets.splits import fraction_border
from nextbar.features import indicators
from nextbar.types import Border, Splits


class StockDataProcessor:
    """Turns market-format bars of a ticker into what a model trains on.

    Args:
        config: Split shares, warm-up, purge and windows; default: those of `nextbar train`.
    """

    def __init__(self, config: CommonConfig | None = None) -> None:
        self.config = config or TrainConfig()

    def add_technical_indicators(self, frame: pd.DataFrame) -> pd.DataFrame:
        """One ticker's frame with SMA_20, SMA_50, RSI, MACD and Signal_Line added; NaN where not yet defined."""
        return indicators.add_technical_indicators(frame)

    def prepare_for_classification_splits(
        self, frame: pd.DataFrame, *, ticker: str = "", train_split: float | None = None, val_split: float | None = None
    ) -> Splits:
        """Chronological train, validation and test of one ticker, labelled inside each split.

        Args:
            frame: Market-format bars, with or without the indicator columns (they are computed anew).
            ticker: Name for messages and records.
            train_split: Share of the samples before test; default: the configuration's.
            val_split: Share of that region kept for validation, at its end; default: the configuration's.

        Raises:
            BadBarsError: Dates repeat or no bar has four positive prices.
            NotEnoughHistoryError: A split would be empty.
        """
        return self._data(frame, ticker, train_split, val_split).splits

    def prepare_ticker(
        self, ticker: str, frame: pd.DataFrame, border: Border, *, out_of_sample: bool = False
    ) -> TickerData:
        """Features and labelled splits of one ticker whose border is known."""
        return prepare_ticker(ticker, frame, border, self.config, out_of_sample=out_of_sample)

    def prepare_for_sequences(
        self, frame: pd.DataFrame, *, ticker: str = "", train_split: float | None = None, val_split: float | None = None
    ) -> SequenceSets:
        """Scaled windows of one ticker for the LSTM; arguments and errors as above."""
        return self.aggregate_sequences([self._data(frame, ticker, train_split, val_split)])

    def aggregate_sequences(self, panel: Sequence[TickerData]) -> SequenceSets:
        """Scaled windows of several tickers as one dataset."""
        return make_sequences(panel, length=self.config.sequence_length, scaler_fit=self.config.scaler_fit)

    def _data(self, frame: pd.DataFrame, ticker: str, train_split: float | None, val_split: float | None) -> TickerData:
        own = self.config if isinstance(self.config, TrainConfig) else TrainConfig()
        bars = clean_bars(ticker, frame).frame
        border = fraction_border(
            len(bars),
            warmup=self.config.warmup,
            train_split=own.train_split if train_split is None else train_split,
            val_split=own.val_split if val_split is None else val_split,
        )
        return self.prepare_ticker(ticker, bars, border)
