"""XGBoost of one ticker: searched on train, stopped early on validation, saved up to its best tree."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xgboost as xgb

from nextbar.config import CommonConfig
from nextbar.datasets.assemble import TickerData
from nextbar.models.protocol import FitRequest
from nextbar.models.reproducibility import digest_text
from nextbar.models.search import Search, choose_params
from nextbar.models.trees import check_booster
from nextbar.types import FeatureTable, FloatArray, IntArray, JsonDict
from nextbar.untrusted import refusing

DRAWS = 25
EARLY_STOPPING_ROUNDS = 10
FAST_BINS = 64
"""Histogram bins of the search with ``--fast``; the final fit has XGBoost's 256."""
SPACE: dict[str, list[Any]] = {
    "learning_rate": [0.01, 0.03, 0.05, 0.1, 0.2],
    "n_estimators": [100, 200, 300, 500],
    "max_depth": [3, 5, 7, 10],
    "min_child_weight": [1, 3, 5, 7],
    "gamma": [0.0, 0.1, 0.3, 0.5],
    "subsample": [0.6, 0.8, 1.0],
    "colsample_bytree": [0.6, 0.8, 1.0],
    "reg_alpha": [0.0, 0.01, 0.1, 1.0],
    "reg_lambda": [1.0, 2.0, 5.0, 10.0],
    "scale_pos_weight": [1.0, 1.5, 2.0],
}
DEFAULT: JsonDict = {
    "learning_rate": 0.05,
    "n_estimators": 300,
    "max_depth": 3,
    "min_child_weight": 5,
    "gamma": 0.0,
    "subsample": 0.8,
    "colsample_bytree": 0.8,
    "reg_alpha": 0.0,
    "reg_lambda": 1.0,
    "scale_pos_weight": 1.0,
}


@dataclass(frozen=True, kw_only=True)
class FittedXGBoost:
    """Boosted trees up to the best iteration; see `nextbar.models.protocol.Fitted`.

    Attributes:
        booster: Trees up to and with the best iteration.
        search: The search that chose its parameters.
        columns: Feature names in order.
        best_iteration: Number of the best tree, from 0.
        history: Validation log loss after each tree, up to the early stop.
        grown: All trees up to the early stop.
    """

    booster: xgb.Booster
    search: Search
    columns: tuple[str, ...]
    best_iteration: int
    history: list[float]
    grown: xgb.Booster

    @property
    def params(self) -> Mapping[str, Any]:
        """Parameters of the final fit."""
        return self.search.params

    @property
    def facts(self) -> JsonDict:
        """Search, parameters, gain importance, early stopping."""
        gain = self.booster.get_score(importance_type="total_gain")
        total = sum(gain.values()) or 1.0
        return {
            "search": self.search.to_json(),
            "importance": {name: float(gain.get(name, 0.0)) / total for name in self.columns},
            "best_iteration": self.best_iteration,
            "validation_logloss": self.history,
        }

    @property
    def digests(self) -> dict[str, str]:
        """sha256 of the search, the parameters and the trees."""
        return {
            "search": digest_text(json.dumps(self.search.table)),
            "params": digest_text(json.dumps(self.search.params, sort_keys=True)),
            "weights": digest_text("\n".join([_base_score(self.booster), *_trees(self.booster)])),
        }

    @property
    def evidence(self) -> dict[str, pd.DataFrame]:
        """Search, parameters, each tree that was grown, the trees that are kept, and the evaluation history."""
        found = self.search.evidence
        return {
            **found,
            "params": found["params"].assign(base_score=_base_score(self.booster)),
            "training steps": pd.DataFrame({"tree": _trees(self.grown)}),
            "model": pd.DataFrame({"tree": _trees(self.booster)}),
            "history": pd.DataFrame({"validation log loss": self.history}),
        }

    def predict(self, data: TickerData) -> FloatArray:
        """[decisions] probability of UP."""
        return up_probability(self.booster, data.table.features[data.decisions])

    def validate(self, data: TickerData) -> FloatArray:
        """[validation samples] probability of UP."""
        return up_probability(self.booster, data.splits.val.X)

    def files(self) -> dict[str, bytes]:
        """The booster in XGBoost's own JSON."""
        return {".json": bytes(self.booster.save_raw("json"))}


class XGBoost:
    """The kind `xgb`; see `nextbar.models.protocol.Model`."""

    kind, per_ticker, predicts = "xgb", True, "probability"

    def fit(self, panel: Sequence[TickerData], request: FitRequest) -> FittedXGBoost:
        """Search on train without early stopping, then one fit on train that validation stops."""
        (data,) = panel
        train, val = data.splits.train, data.splits.val
        fixed = {"random_state": request.seed, "n_jobs": 1, "tree_method": "hist"}
        bins = {"max_bin": FAST_BINS} if request.config.fast else {}
        search = choose_params(
            xgb.XGBClassifier, fixed | bins, train, request, space=SPACE, default=DEFAULT, draws=DRAWS
        )
        final = xgb.XGBClassifier(
            **fixed, **search.params, early_stopping_rounds=EARLY_STOPPING_ROUNDS, eval_metric="logloss"
        ).fit(train.X, train.y, eval_set=[(val.X, val.y)], verbose=False)
        best = int(final.best_iteration)
        grown = final.get_booster()
        booster = grown[: best + 1]
        booster.feature_names = list(data.table.columns)
        history = [float(loss) for loss in final.evals_result()["validation_0"]["logloss"]]
        return FittedXGBoost(
            booster=booster,
            search=search,
            columns=data.table.columns,
            best_iteration=best,
            history=history,
            grown=grown,
        )

    def load(self, files: Mapping[str, bytes], columns: Sequence[str], config: CommonConfig) -> SavedBooster:
        """The saved trees; see `nextbar.models.protocol.Model`."""
        return SavedBooster(load_booster(files[".json"], columns))


@dataclass(frozen=True)
class SavedBooster:
    """Trees from a file; see `nextbar.models.protocol.Predictor`."""

    booster: xgb.Booster

    def predict(self, table: FeatureTable, rows: IntArray) -> FloatArray:
        """[rows] probability of UP."""
        return up_probability(self.booster, table.features[rows])


def load_booster(content: bytes, columns: Sequence[str]) -> xgb.Booster:
    """Binary trees over these columns, from JSON that may come from a stranger.

    XGBoost gets what was checked, written anew: another parser may read a doubled key differently.

    Raises:
        ArtifactError: It is damaged or holds something else.
    """
    with refusing("the XGBoost .json"):
        document = json.loads(content)
        check_booster(document, columns)
        return xgb.Booster(params={"nthread": 1}, model_file=bytearray(json.dumps(document), "ascii"))


def up_probability(booster: xgb.Booster, features: FloatArray) -> FloatArray:
    """[rows] probability of class 1."""
    found = np.asarray(booster.inplace_predict(features, validate_features=False), dtype=np.float64)
    return found.reshape(len(features))  # XGBoost 3.4 answers [0, 0] for no rows


def _trees(booster: xgb.Booster) -> list[str]:
    """Each tree with its statistics, as JSON text."""
    dump: list[str] = booster.get_dump(dump_format="json", with_stats=True)
    return dump


def _base_score(booster: xgb.Booster) -> str:
    """What the trees are added to, estimated from train."""
    return str(json.loads(booster.save_config())["learner"]["learner_model_param"]["base_score"])
