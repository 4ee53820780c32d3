"""Qlib's side of `qlib_race.py`, run by a Python that has pyqlib: ``qlib_side.py STAGE FOLDER``.

FOLDER holds the bars in Qlib's own binary format and `days.json`, the days of the splits and folds. It prints a JSON
line with ``seconds``, ``rows`` and a digest of the ``result``. Importing Qlib is counted, as importing nextbar is.
"""

from time import perf_counter

BEGIN = perf_counter()

import hashlib  # noqa: E402
import json  # noqa: E402
import logging  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import qlib  # noqa: E402
from qlib.data.dataset import DatasetH, TSDatasetH  # noqa: E402
from qlib.data.dataset.handler import DataHandlerLP  # noqa: E402

MACD = "(EMA($close,12)-EMA($close,26))"
GAIN, LOSS = "Greater($close-Ref($close,1),0)", "Greater(Ref($close,1)-$close,0)"
FEATURES = {
    "Close": "$close",
    "SMA_20": "Mean($close,20)",
    "SMA_50": "Mean($close,50)",
    "RSI": f"100-100/(1+EMA({GAIN},1/14)/EMA({LOSS},1/14))",
    "MACD": MACD,
    "Signal_Line": f"EMA({MACD},9)",
}
RISES, MOVE = "If(Gt(Ref($close,-1),$close),1,0)", "Ref($close,-1)/$close-1"
Days = dict[str, list[str]]


def handler(label: str, scaled: Days | None = None) -> DataHandlerLP:
    """Compute the six features and a label by Qlib's expressions."""
    loader = {
        "class": "QlibDataLoader",
        "kwargs": {"config": {"feature": (list(FEATURES.values()), list(FEATURES)), "label": ([label], ["LABEL"])}},
    }
    dropped = [{"class": "DropnaLabel"}]
    if scaled is None:
        return DataHandlerLP(instruments="all", data_loader=loader, learn_processors=dropped)
    first, last = scaled["train"]
    scaling = {"fields_group": "feature", "fit_start_time": first, "fit_end_time": last}
    steps = [{"class": "ZScoreNorm", "kwargs": scaling}, {"class": "Fillna", "kwargs": {"fields_group": "feature"}}]
    return DataHandlerLP(instruments="all", data_loader=loader, infer_processors=steps, learn_processors=dropped)


def boosted(made: DataHandlerLP, days: Days, params: dict[str, object]) -> np.ndarray:
    """Fit 300 rounds on train and predict test."""
    from qlib.contrib.model.xgboost import XGBModel

    data = DatasetH(made, segments={name: tuple(part) for name, part in days.items()})
    model = XGBModel(**params)
    model.fit(data, num_boost_round=300, early_stopping_rounds=None, verbose_eval=False)
    return model.predict(data).to_numpy()


def one_epoch(days: Days) -> tuple[np.ndarray, int]:
    """Train a network of two layers for an epoch and predict test."""
    from qlib.contrib.model.pytorch_lstm_ts import LSTM

    segments = {name: tuple(part) for name, part in days.items()}
    data = TSDatasetH(step_len=60, handler=handler(MOVE, days), segments=segments)
    model = LSTM(d_feat=6, hidden_size=96, num_layers=2, batch_size=256, n_epochs=1, n_jobs=2, GPU=-1, seed=42)
    model.fit(data)
    return model.predict(data).to_numpy(), len(data.prepare("train"))


def stage(name: str, days: dict[str, object]) -> tuple[np.ndarray, int, int]:
    """Do one stage: what it gives, how many rows it used, and by how much its seconds are divided."""
    if name == "data":
        data = DatasetH(handler(RISES), segments={name: tuple(part) for name, part in days["split"].items()})
        parts = data.prepare(["train", "valid", "test"], col_set=["feature", "label"], data_key=DataHandlerLP.DK_L)
        return np.concatenate([part.to_numpy().ravel() for part in parts]), sum(map(len, parts)), 1
    if name == "xgb":
        found = boosted(handler(RISES), days["split"], days["params"])
        return found, len(found), 1
    if name == "folds":
        made, folds = handler(RISES), days["folds"]
        found = np.concatenate([boosted(made, fold, days["params"]) for fold in folds])
        return found, len(found), len(folds)
    found, rows = one_epoch(days["split"])
    return found, rows, 1


def main() -> None:
    """Do the stage that is asked for."""
    folder = Path(sys.argv[2])
    qlib.init(provider_uri=str(folder / "qlib"), region="us", logging_level=logging.ERROR)
    found, rows, parts = stage(sys.argv[1], json.loads((folder / "days.json").read_text()))
    digest = hashlib.sha256(np.ascontiguousarray(found).tobytes()).hexdigest()
    print(json.dumps({"seconds": (perf_counter() - BEGIN) / parts, "rows": rows, "result": digest}))


if __name__ == "__main__":  # Qlib starts processes
    main()
