"""StockDataProcessor: from one ticker's bars to what a model trains on, under the names of the specification."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from nextbar.config import CommonConfig, TrainConfig
from nextbar.datasets.assemble import (
    PRICES,
    SequenceSets,
    TickerData,
    add_indicators,
    clean_bars,
    days_of,
    make_sequences,
    prepare_splits,
)
from nextbar.datasets.splits import fraction_border, usable_of
from nextbar.errors import ConfigError
from nextbar.types import Border, Splits


class StockDataProcessor:
    """Turns market-format bars of a ticker into what a model trains on. Training itself goes through its methods.

    Args:
        config: Split shares, warm-up, purge and windows; default: those of `nextbar train`.

    Raises:
        ConfigError: ``config`` is something else than a configuration.
    """

    def __init__(self, config: CommonConfig | None = None) -> None:
        if not isinstance(config, CommonConfig | None):
            raise ConfigError(
                f"StockDataProcessor expects a configuration such as TrainConfig(warmup=200), got {config!r}; "
                "give bars and tickers to its methods"
            )
        self.config = config or TrainConfig()

    def add_technical_indicators(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Copy of one ticker's frame with SMA_20, SMA_50, RSI, MACD and Signal_Line; NaN where not yet defined.

        They start again after a hole of more than ``max_gap_days``. A bar without four positive prices has none.

        Raises:
            ConfigError: ``frame`` does not hold bars in the market format.
        """
        return add_indicators(_checked(frame), self.config.max_gap_days)

    def prepare_for_classification_splits(
        self,
        frame: pd.DataFrame,
        *,
        ticker: str = "",
        train_split: float | None = None,
        val_split: float | None = None,
        border: Border | None = None,
        out_of_sample: bool = False,
    ) -> Splits:
        """Chronological train, validation and test of one ticker, labelled inside each split.

        Args:
            frame: Market-format bars. Indicator columns are taken as they are where all five are there, else computed.
            ticker: Name for messages and records.
            train_split: Share of the samples before test; default: the configuration's.
            val_split: Share of that region kept for validation, at its end; default: the configuration's.
            border: Where the splits begin, as rows of the bars with four positive prices; default: by the shares.
            out_of_sample: The test rows are days of a walk-forward and keep their last return when the next bar exists.

        Raises:
            BadBarsError: Dates repeat or no bar has four positive prices.
            ConfigError: An argument is not what it should be.
            FeatureError: The configuration's feature function fails.
            NotEnoughHistoryError: A split would be empty.
        """
        bars = clean_bars(ticker, _checked(frame)).frame
        if border is None:
            border = self._border(bars, train_split, val_split)
        elif (train_split, val_split) != (None, None):
            raise ConfigError("prepare_for_classification_splits expects a border or shares, got both; leave one out")
        return prepare_splits(ticker, bars, border, self.config, out_of_sample=out_of_sample)

    def prepare_ticker(
        self, ticker: str, frame: pd.DataFrame, border: Border, *, out_of_sample: bool = False
    ) -> TickerData:
        """What a fold trains on: the two steps above for a ticker whose border is known."""
        splits = self.prepare_for_classification_splits(
            self.add_technical_indicators(frame), ticker=ticker, border=border, out_of_sample=out_of_sample
        )
        return TickerData(table=splits.table, border=border, splits=splits)

    def prepare_for_sequences(
        self, frame: pd.DataFrame, *, ticker: str = "", train_split: float | None = None, val_split: float | None = None
    ) -> SequenceSets:
        """Scaled windows of one ticker for the LSTM; arguments and errors as above."""
        bars = clean_bars(ticker, _checked(frame)).frame
        return self.aggregate_sequences([self.prepare_ticker(ticker, bars, self._border(bars, train_split, val_split))])

    def aggregate_sequences(self, panel: Sequence[TickerData]) -> SequenceSets:
        """Scaled windows of several tickers as one dataset."""
        return make_sequences(panel, length=self.config.sequence_length, scaler_fit=self.config.scaler_fit)

    def _border(self, bars: pd.DataFrame, train_split: float | None, val_split: float | None) -> Border:
        """By shares of the usable rows."""
        own = self.config if isinstance(self.config, TrainConfig) else TrainConfig()
        own = replace(
            own,
            train_split=own.train_split if train_split is None else train_split,
            val_split=own.val_split if val_split is None else val_split,
        )
        usable = usable_of(days_of(bars), self.config)
        return fraction_border(usable, train_split=own.train_split, val_split=own.val_split)


def _checked(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame, if it holds market-format bars."""
    if not isinstance(frame, pd.DataFrame) or not isinstance(frame.index, pd.DatetimeIndex):
        found = f"a {type(frame).__name__}"
        found += f" with a {type(frame.index).__name__}" if isinstance(frame, pd.DataFrame) else ""
    elif missing := [name for name in PRICES if name not in frame]:
        found = f"a frame without {', '.join(missing)}"
    elif not frame.index.is_monotonic_increasing:
        found = "days that are not in order"
    else:
        return frame
    raise ConfigError(
        f"expected the bars of one ticker, oldest first, as a DataFrame with the columns {', '.join(PRICES)} and a "
        f"DatetimeIndex, got {found}; DataAccessLayer.get_stock_prices returns such a frame"
    )
