"""StockDataProcessor: from one ticker's bars to what a model trains on, under the names of the specification."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd

from nextbar.config import CommonConfig, TrainConfig
from nextbar.datasets.samples import Splits, add_indicators, build_table, clean_bars, make_splits
from nextbar.datasets.sequences import SequenceSets, make_sequences
from nextbar.datasets.splits import fraction_border, usable_of
from nextbar.errors import ConfigError, in_python, noun
from nextbar.features.indicators import PRICES, days_of, found_instead
from nextbar.features.spec import FeatureSpec
from nextbar.types import Border
from nextbar.words import brief


@noun
class StockDataProcessor:
    """Turns market-format bars of a ticker into what a model trains on. Training itself goes through its methods.

    Args:
        config: Split shares, warm-up, purge and windows; default: those of `nextbar train`.
        features: Feature columns; default: those of the configuration.

    Raises:
        ConfigError: ``config`` is something else than a configuration.
    """

    def __init__(self, config: CommonConfig | None = None, *, features: FeatureSpec | None = None) -> None:
        if not isinstance(config, CommonConfig | None):
            raise ConfigError(
                f"StockDataProcessor expects a configuration such as TrainConfig(warmup=200), got {brief(config)}; "
                "give bars and tickers to its methods"
            )
        self.config = config or TrainConfig()
        self.features = features or FeatureSpec.of(self.config)

    def add_technical_indicators(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return a copy of the frame with SMA_20, SMA_50, RSI, MACD and Signal_Line; NaN where not yet defined.

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
        """Return chronological train, validation and test of one ticker, labelled inside each split.

        Args:
            frame: Market-format bars. Indicator columns are taken as they are where all five are there, else computed.
            ticker: Name for messages and records.
            train_split: Share of the samples before test; default: the configuration's.
            val_split: Share of that region kept for validation, at its end; default: the configuration's.
            border: Where the splits begin, as rows of the bars with four positive prices; default: by the shares. Where
                train is all there is, as in a refit, validation and test are empty.
            out_of_sample: The test rows are days of a walk-forward and keep their last return when the next bar exists.

        Raises:
            BadBarsError: Dates repeat or no bar has four positive prices.
            ConfigError: An argument is not what it should be.
            FeatureError: The configuration's feature function fails.
            NotEnoughHistoryError: A split would be empty.
        """
        bars = clean_bars(ticker, _checked(frame)).frame
        if border is None:
            shares = self.config if isinstance(self.config, TrainConfig) else TrainConfig()
            given: dict[str, Any] = {"train_split": train_split, "val_split": val_split}
            with in_python():
                shares = replace(shares, **{name: share for name, share in given.items() if share is not None})
            usable = usable_of(days_of(bars), self.config)
            border = fraction_border(usable, train_split=shares.train_split, val_split=shares.val_split)
        elif (train_split, val_split) != (None, None):
            raise ConfigError("prepare_for_classification_splits expects a border or shares, got both; leave one out")
        table = build_table(ticker, bars, self.features, self.config.max_gap_days)
        return make_splits(table, border, purge=self.config.purge, out_of_sample=out_of_sample)

    def prepare_for_sequences(
        self, frame: pd.DataFrame, *, ticker: str = "", train_split: float | None = None, val_split: float | None = None
    ) -> SequenceSets:
        """Return scaled windows of one ticker for the LSTM; arguments and errors as above."""
        splits = self.prepare_for_classification_splits(
            frame, ticker=ticker, train_split=train_split, val_split=val_split
        )
        length, scaler_fit, target = self.config.sequence_length, self.config.scaler_fit, self.config.target
        return make_sequences([splits], length=length, scaler_fit=scaler_fit, target=target)


def _checked(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame if it holds market-format bars; else refuse it."""
    if found := found_instead(frame):
        raise ConfigError(
            f"expected the bars of one ticker, oldest first, as a DataFrame with the columns {', '.join(PRICES)} and a "
            f"DatetimeIndex, got {found}; DataAccessLayer.get_stock_prices returns such a frame"
        )
    return frame
