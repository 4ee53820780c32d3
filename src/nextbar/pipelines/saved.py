"""A model from its artifact, with what its metadata says about its use."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nextbar.artifacts.load import Artifact, open_artifact, read_config
from nextbar.artifacts.metadata import rules_of
from nextbar.config import MODEL_LABELS, TrainConfig
from nextbar.datasets.assemble import Bars, build_table, make_samples
from nextbar.errors import ArtifactError, FeatureError
from nextbar.features.spec import FeatureSpec
from nextbar.models.catalog import get_model
from nextbar.models.protocol import Predictor
from nextbar.models.reproducibility import digest_arrays, digest_bars
from nextbar.types import FeatureTable, JsonDict
from nextbar.untrusted import refusing


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a model saw of one ticker.

    Attributes:
        threshold: Probability from which the class is 1; None for a model that predicts a price.
        train: First and last day of train.
        test: Likewise.
        bars: Bars there were.
        last: Day of the last of them.
        fingerprint: Their sha256.
    """

    threshold: float | None
    train: tuple[np.datetime64, np.datetime64]
    test: tuple[np.datetime64, np.datetime64]
    bars: int
    last: str
    fingerprint: str

    @classmethod
    def of(cls, metadata: JsonDict, ticker: str) -> Trained:
        """From the metadata; raises whatever is wrong with it."""
        data, splits = metadata["data"][ticker], metadata["splits"][ticker]
        train, test = (
            (np.datetime64(splits[name]["first"], "D"), np.datetime64(splits[name]["last"], "D"))
            for name in ("train", "test")
        )
        choice = metadata["threshold"].get(ticker)
        threshold = None if choice is None else float(choice["threshold"])
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"a threshold is {threshold}")
        return cls(
            threshold=threshold,
            train=train,
            test=test,
            bars=int(data["bars"]),
            last=str(np.datetime64(data["last"], "D")),
            fingerprint=data["fingerprint"],
        )


@dataclass(frozen=True, kw_only=True)
class SavedModel:
    """A model from its artifact.

    Attributes:
        artifact: The run's files, checked.
        config: The configuration it was trained with.
        columns: Feature columns, in order.
        tickers: What it saw of each ticker that it was trained on.
        features_sha256: Of the features of all its bars.
        made: When it was trained.
        quoted_volume: Whether that was on the volume as quoted, as version 0.1.0 did.
        predictor: The model.
    """

    artifact: Artifact
    config: TrainConfig
    columns: tuple[str, ...]
    tickers: Mapping[str, Trained]
    features_sha256: str
    made: dt.datetime
    quoted_volume: bool
    predictor: Predictor


def load_model(path: Path, *, features: str | None = None, unless_plain: bool = False) -> SavedModel:
    """A model with everything that its metadata says about its use.

    Args:
        path: Any file of the run.
        features: The user's own feature function, which must be the recorded one.
        unless_plain: A model that was trained with none may have it named all the same, for another's sake.

    Raises:
        ArtifactError: The artifact is not whole, not ours or not safe.
        FeatureError: The model needs a feature function that was not named.
    """
    artifact = open_artifact(path)
    metadata, name = artifact.metadata, f"{artifact.stem}_metadata.json"
    config = read_config(metadata, name)
    with refusing(name):
        if not isinstance(config, TrainConfig):
            raise TypeError("it has folds")
        columns = tuple(map(str, metadata["features"]["columns"]))
        tickers = {str(ticker): Trained.of(metadata, ticker) for ticker in metadata["tickers"]}
        features_sha256 = str(metadata["digests"]["features"])
        quoted_volume = rules_of(metadata) == 1
        made = dt.datetime.fromisoformat(metadata["created"]).astimezone(dt.UTC)
        if not artifact.stem.startswith(MODEL_LABELS[config.model] + "_"):
            raise ValueError(f"its model is {config.model}, the name says otherwise")
    if config.features is not None or not unless_plain:
        check_features(artifact.stem, config.features, features)
    model = get_model(config.model)
    if any((trained.threshold is None) == (model.predicts == "probability") for trained in tickers.values()):
        raise ArtifactError(f"{name}: a threshold is missing or out of place; train again")
    predictor = model.load(artifact.files, columns, config)
    return SavedModel(
        artifact=artifact,
        config=config,
        columns=columns,
        tickers=tickers,
        features_sha256=features_sha256,
        made=made,
        quoted_volume=quoted_volume,
        predictor=predictor,
    )


def check_features(stem: str, recorded: str | None, named: str | None) -> None:
    """A file that names code does not get it run: the user must name it too."""
    if recorded != named:
        advice = "leave --features out" if recorded is None else f"if you trust that code, add: --features {recorded}"
        raise FeatureError(f"{stem} was trained with {_of(recorded)}, asked for was {named or 'none'}; {advice}")


def _of(function: str | None) -> str:
    return "no feature function of its own" if function is None else f"the feature function {function}"


def feature_table(saved: SavedModel, ticker: str, bars: Bars) -> FeatureTable:
    """The recorded features of one ticker.

    Raises:
        FeatureError: They have other columns than at training, or the user's function gives other values.
    """
    table = build_table(ticker, bars.frame, FeatureSpec.of(saved.config), saved.config.max_gap_days)
    if table.columns != saved.columns:
        change = f"the columns {', '.join(saved.columns)}; now they are {', '.join(table.columns)}"
    elif saved.config.features is not None and _values_changed(saved, table, bars):
        change = f"other values of {saved.config.features} on the same bars"
    else:
        return table
    raise FeatureError(f"{saved.artifact.stem} was trained on {change}; bring the old features back or train again")


def changes(saved: SavedModel, table: FeatureTable, bars: Bars) -> list[str]:
    """What a user should know who believes a prediction: bars, or built-in features, are not those of training."""
    stem, then = saved.artifact.stem, saved.tickers[table.ticker].last
    if revised(saved, table.ticker, bars):
        return [f"{table.ticker}: bars up to {then} were revised since {stem} saw them"]
    if _values_changed(saved, table, bars):
        told = f"{table.ticker}: features have other values than when {stem} was trained, on the same bars"
        return [f"{told}; nextbar reproduce tells which versions have changed: restore them, or train again"]
    return []


def _values_changed(saved: SavedModel, table: FeatureTable, bars: Bars) -> bool:
    """Whether the features have other values than at training on the same bars; known for a model of one ticker."""
    if len(saved.tickers) > 1 or revised(saved, table.ticker, bars):
        return False
    then = table.features[: saved.tickers[table.ticker].bars]
    return bool(digest_arrays([then]) != saved.features_sha256)


def revised(saved: SavedModel, ticker: str, bars: Bars) -> bool:
    """Whether the bars that the model was trained on are not the same any more."""
    trained = saved.tickers[ticker]
    return digest_bars(bars.frame[: trained.last]) != trained.fingerprint


def majority(saved: SavedModel, table: FeatureTable) -> int:
    """Class that was the more frequent in train, as in `nextbar.evaluation.walkforward`."""
    first, last = np.searchsorted(table.dates, saved.tickers[table.ticker].train)
    y = make_samples(table, int(first), int(last) + 1, purge=saved.config.purge).y
    return int(2 * int(y.sum()) > len(y))
