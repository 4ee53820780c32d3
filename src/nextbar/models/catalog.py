"""The kinds of model there are. A heavy library is imported when its kind is asked for."""

from __future__ import annotations

from importlib import import_module

from nextbar.models.protocol import Model

_HOMES = {
    "lstm": ("nextbar.models.lstm_panel", "Lstm"),
    "rf": ("nextbar.models.random_forest", "RandomForest"),
    "xgb": ("nextbar.models.xgboost", "XGBoost"),
}


def get_model(kind: str) -> Model:
    """The model of a kind named in `nextbar.config.MODEL_LABELS`."""
    module, name = _HOMES[kind]
    model: Model = getattr(import_module(module), name)()
    return model
