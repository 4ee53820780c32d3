"""XGBoost of one ticker, or of all: searched on train, stopped early on validation, saved up to its best tree."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from nextbar.datasets.samples import Pool, Splits
from nextbar.errors import noun
from nextbar.models.base import FitRequest, Saved
from nextbar.models.booster_json import clean_booster
from nextbar.models.reproducibility import digest_text
from nextbar.models.tree_model import EARLY_STOPPING_ROUNDS, FittedSearched, SearchedModel, weights_of
from nextbar.types import FloatArray, JsonDict
from nextbar.untrusted import refusing

if TYPE_CHECKING:
    import xgboost as xgb

FAST_BINS = 64
"""Histogram bins of the search with ``--fast``; the final fit has XGBoost's 256."""
PARAMETERS: dict[str, tuple[Any, list[Any]]] = {
    "learning_rate": (0.05, [0.01, 0.03, 0.05, 0.1, 0.2]),
    "n_estimators": (300, [100, 200, 300, 500]),
    "max_depth": (3, [3, 5, 7, 10]),
    "min_child_weight": (5, [1, 3, 5, 7]),
    "gamma": (0.0, [0.0, 0.1, 0.3, 0.5]),
    "subsample": (0.8, [0.6, 0.8, 1.0]),
    "colsample_bytree": (0.8, [0.6, 0.8, 1.0]),
    "reg_alpha": (0.0, [0.0, 0.01, 0.1, 1.0]),
    "reg_lambda": (1.0, [1.0, 2.0, 5.0, 10.0]),
    "scale_pos_weight": (1.0, [1.0, 1.5, 2.0]),
}
"""Parameter → its value without a search, and the values that a search draws from."""
DEFAULT = {name: value for name, (value, _) in PARAMETERS.items()}
SPACE = {name: values for name, (_, values) in PARAMETERS.items()}


@dataclass(frozen=True, kw_only=True)
class FittedXGBoost(FittedSearched):
    """Boosted trees up to the best iteration, fitted or loaded.

    Attributes:
        booster: Trees up to and with the best iteration.
        history: Validation log loss after each tree, up to the early stop; empty for a model from a file.
        grown: All trees up to the early stop; None for a model from a file.
    """

    booster: xgb.Booster
    history: list[float] = field(default_factory=list)
    grown: xgb.Booster | None = None

    def up_probability(self, features: FloatArray) -> FloatArray:
        """[rows] probability of class 1."""
        return np.asarray(self.booster.inplace_predict(features, validate_features=False), dtype=np.float64)

    def contributions(self, features: FloatArray) -> FloatArray:
        """[rows, columns] SHAP values: what each column adds to the log odds of a rise (Lundberg & Lee 2017)."""
        import xgboost as xgb

        rows = xgb.DMatrix(features, feature_names=list(self.columns), nthread=1)
        found: FloatArray = self.booster.predict(rows, pred_contribs=True)[:, :-1]  # the last is the base
        return found

    @property
    def weights(self) -> str:
        """sha256 of the trees."""
        return digest_text("\n".join([_base_score(self.booster), *_trees(self.booster)]))

    @property
    def facts(self) -> JsonDict:
        """Search, parameters, gain importance, early stopping."""
        gain = self.booster.get_score(importance_type="total_gain")
        total = sum(gain.values()) or 1.0
        return {
            **super().facts,
            "importance": {name: float(gain.get(name, 0.0)) / total for name in self.columns},
            "best_iteration": self.booster.num_boosted_rounds() - 1,
            "validation_logloss": self.history,
        }

    @property
    def evidence(self) -> dict[str, pd.DataFrame]:
        """Search, parameters, each tree that was grown, the trees that are kept, and the evaluation history."""
        found = super().evidence
        return {
            **found,
            "params": found["params"].assign(base_score=_base_score(self.booster)),
            "training steps": pd.DataFrame({"tree": _trees(self.grown or self.booster)}),
            "model": pd.DataFrame({"tree": _trees(self.booster)}),
            "history": pd.DataFrame({"validation log loss": self.history}),
        }

    def files(self) -> dict[str, bytes]:
        """The booster in XGBoost's own JSON."""
        return {".json": bytes(self.booster.save_raw("json"))}


@noun
@dataclass(frozen=True, kw_only=True)
class XGBoost(SearchedModel):
    """Boosted trees per ticker or of all tickers, by XGBoost, stopped early on validation.

    Args:
        no_tune: Use stated parameters instead of a search.
        n_iter: Candidates drawn by the search (default: 25).
        cv_splits: Time-series folds inside the search.
        search: ``random`` draws candidates, ``halving`` halves their number as their trees grow.
        fast: A cheaper search, by halving and with fewer bins; the final fit is the same.
        tune: In a walk-forward, search in ``each`` fold, in the ``first`` alone, or in ``none``.
        pooled: One model over all tickers, split at one date; ``min_child_weight`` grows with the rows of a date.
        space: Parameter → values to draw from, instead of the built-in space.

    Raises:
        ConfigError: A value is outside its limits.
    """

    kind: ClassVar[str] = "xgb"
    trusted: ClassVar[bool] = True
    deterministic: ClassVar[bool] = True
    reads: ClassVar[Sequence[str]] = (".json",)
    batch: ClassVar[int] = 8
    refits: ClassVar[bool] = True
    defaults: ClassVar[JsonDict] = DEFAULT
    built_in_space: ClassVar[Mapping[str, Sequence[Any]]] = SPACE
    draws: ClassVar[int] = 25

    def fit(self, panel: Sequence[Splits], request: FitRequest) -> FittedXGBoost:
        """Search on train without early stopping, then one fit on train that validation stops, or so many trees."""
        from xgboost import XGBClassifier

        from nextbar.models.search import choose_params

        train, val = self.parts(panel)
        columns, validated = panel[0].table.columns, weights_of(val)
        fixed = {"random_state": request.seed, "n_jobs": 1, "tree_method": "hist"}
        bins = {"max_bin": FAST_BINS} if self.fast else {}
        search = choose_params(XGBClassifier(**fixed, **bins), fixed | bins, train, request, model=self)
        if request.rounds is not None:
            stop: JsonDict = {"n_estimators": request.rounds[0]}
            watched: JsonDict = {}
        else:
            stop = {"early_stopping_rounds": EARLY_STOPPING_ROUNDS, "eval_metric": "logloss"}
            weights = None if validated is None else [validated]
            watched = {"eval_set": [(val.X, val.y)], "sample_weight_eval_set": weights}
        final = XGBClassifier(**{**fixed, **search.params, **stop}).fit(
            train.X, train.y, sample_weight=weights_of(train), verbose=False, **watched
        )
        grown = final.get_booster()
        booster = grown[: int(final.best_iteration) + 1] if watched else grown
        booster.feature_names = list(columns)
        losses = final.evals_result()["validation_0"]["logloss"] if watched else []
        history = [float(loss) for loss in losses]
        return FittedXGBoost(booster=booster, search=search, columns=columns, history=history, grown=grown)

    def rounds(self, facts: JsonDict) -> list[int]:
        """Trees up to and with the best iteration."""
        return [facts["best_iteration"] + 1]

    def sized(self, name: str, value: Any, train: Pool) -> tuple[str, Any]:
        """Let a leaf need as many dates as in a model of one ticker: its weight is a sum over rows."""
        return name, value * train.rows_a_day if name == "min_child_weight" else value

    def notes(self, facts: JsonDict) -> dict[str, bytes]:
        """Say in ``.meta.json`` what is needed to use the booster with plain xgboost."""
        names = ("feature_columns", "threshold", "class_to_signal", "best_iteration", "ticker", "prices", "warmup")
        found = {"class_to_signal": {"0": "flat", "1": "long"}, **facts}
        return {".meta.json": json.dumps({name: found[name] for name in names}, indent=1).encode()}

    def restore(self, saved: Saved) -> FittedXGBoost:
        """Load saved trees; see `Model.restore`."""
        with refusing(f"{saved.name}.json"):
            booster = load_booster(saved.content(".json"), saved.columns)
        return FittedXGBoost(booster=booster, columns=tuple(saved.columns))


def load_booster(content: bytes, columns: Sequence[str]) -> xgb.Booster:
    """Load binary trees over these columns from untrusted JSON; call it inside `refusing`."""
    import xgboost as xgb

    return xgb.Booster(params={"nthread": 1}, model_file=bytearray(clean_booster(content, columns)))


def _trees(booster: xgb.Booster) -> list[str]:
    """Each tree with its statistics, as JSON text."""
    dump: list[str] = booster.get_dump(dump_format="json", with_stats=True)
    return dump


def _base_score(booster: xgb.Booster) -> str:
    """What the trees are added to, estimated from train."""
    return str(json.loads(booster.save_config())["learner"]["learner_model_param"]["base_score"])
