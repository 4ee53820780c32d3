"""One document for both kinds of runs: written and read as it was, upgraded from version 1, refused when damaged."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextbar.errors import ArtifactError
from nextbar.evaluation.series import Terms
from nextbar.evaluation.significance import Interval
from nextbar.runs.document import Document, parse_document, read_document
from nextbar.types import JsonDict

FIGURES = {"n": 5, "sharpe": None, "accuracy": 0.5}
EDGE = {"mean": 0.1, "low": -0.1, "high": 0.3, "error": 0.1}
PRICES = ("price_rmse", "price_rmse_percent", "price_mae", "persistence_rmse", "persistence_rmse_percent", "skill")
SPLITS = {
    "train": {"rows": 6, "first": "2020-01-02", "last": "2020-01-09", "up_share": 0.6},
    "val": {"rows": 2, "first": "2020-01-10", "last": "2020-01-13"},
    "test": {"rows": 5, "first": "2020-01-14", "last": "2020-01-20"},
}
CHOICE = {"threshold": 0.55, "objective": "sharpe", "score": 1.0, "reason": None}
CURVE = {"threshold": [0.5, 0.55], "score": [None, 1.0], "long_days": [2, 1]}
CANDIDATE = {"params": {"max_depth": 3}, "scores": [0.5], "mean": 0.5, "rank": 1}
FIT_1 = {
    "splits": {"AAA": SPLITS},
    "digests": {"features": "f"},
    "search": {"scoring": "balanced_accuracy", "params": {"max_depth": 3}, "candidates": [CANDIDATE]},
    "importance": {"Close": 1.0},
    "best_iteration": 3,
    "validation_logloss": [0.7, 0.6],
}
MONEY = {"baselines": {"always_long": FIGURES}, "one_bar_late": FIGURES, "next_open": FIGURES}
SPAN = {"bars": 13, "first": "2020-01-02", "last": "2020-01-20", "dropped": 0, "adjustment": "forward"}
HEAD_1 = {
    "schema_version": 1,
    "created": "2026-01-02T03:04:05+00:00",
    "command": ["nextbar"],
    "config": {"features": None, "warmup": 200, "cost_bps": 3.0, "risk_free": 0.01},
    "seed": 42,
    "environment": {
        "python": "3.11",
        "platform": "Linux",
        "cpu": "A",
        "cores": 2,
        "threads": 1,
        "keras_backend": "jax",
        "versions": {"numpy": "2.4"},
    },
    "model": "xgb",
    "tickers": ["AAA"],
    "data": {"AAA": {**SPAN, "fingerprint": "0", "days": {"2020": "--"}}},
    "trial": "0",
    "files": {"x.parquet": "0"},
}
TRAIN_1: JsonDict = {
    **HEAD_1,
    **FIT_1,
    "task": "AAA",
    "task_seed": 7,
    "threshold": {"AAA": {**CHOICE, "curve": CURVE}},
    "features": {"columns": ["Close"], "function": None, "warmup": 200, "warmup_error": {"RSI": 1e-6}},
    "skipped": {"BBB": "too short"},
    "seconds": {"task": 1.0},
    "metrics": {
        "model": FIGURES,
        **MONEY,
        "per_ticker": {"AAA": FIGURES},
        "reliability": [FIGURES],
        "after_last_training_day": {"from": "2020-01-15", "model": FIGURES, **MONEY},
    },
}
WALK_1: JsonDict = {
    **HEAD_1,
    "pooled": FIGURES,
    **MONEY,
    "per_ticker": {"AAA": FIGURES},
    "price": {**{f"mean_{name}": 1.0 for name in PRICES}, "scaled_mse": 0.1, "per_ticker": {}, "recent": {}},
    "folds": [
        {
            "number": 0,
            "rows": 5,
            "train_start": "2020-01-01",
            "val_start": "2020-01-10",
            "test_start": "2020-01-14",
            "test_end": "2020-02-01",
            "metrics": {"model": FIGURES, **MONEY},
            "tasks": [{**FIT_1, "name": "AAA", "seed": 7, "columns": ["Close"], "threshold": {"AAA": CHOICE}}],
        },
        {
            "number": 1,
            "rows": 0,
            "train_start": "2020-02-01",
            "val_start": "2020-02-10",
            "test_start": "2020-02-14",
            "test_end": "2020-03-01",
            "metrics": None,
            "tasks": [],
        },
    ],
    "skipped": [{"ticker": "AAA", "fold": 1, "reason": "no bar"}],
    "seconds": {"wall": 1.0},
}
VERSION_1 = {"train": TRAIN_1, "walkforward": WALK_1}


def parsed(document: JsonDict) -> Document:
    return parse_document(json.dumps(document).encode(), "run.json")


def full() -> JsonDict:
    """A document in which nothing is left out."""
    document = parsed(TRAIN_1).to_json() | {"periods_per_year": 261.0, "run": {"id": "x", "tickers": 2}}
    document |= {"price": parsed(WALK_1).to_json()["price"], "paths": {"x.parquet": "./x.parquet"}}
    document |= {"holes": {"AAA": {"2020-01-15": -0.1}}, "ended": {"AAA": "2020-01-20"}, "delisting": FIGURES}
    document |= {"next_open": FIGURES | {"edge": EDGE}, "remarks": ["r"], "data_error_counts": {"test": 1, "train": 0}}
    document["data_errors"] = [{"ticker": "AAA", "date": "2020-01-15", "rule": "jump", "detail": "× 2"}]
    document["price"]["recent"] = {"AAA": {"date": ["2020-01-20"], "predicted": [1], "actual": [1], "persistence": [1]}}
    return document


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places(value[key], (*path, key))


@pytest.mark.parametrize("made", [lambda: parsed(TRAIN_1), lambda: parsed(WALK_1), lambda: parsed(full())])
def test_a_document_is_read_as_it_was_written(made: Callable[[], Document], tmp_path: Path) -> None:
    """Equal, and with the same bytes when it is written again; fields that are not known are ignored."""
    document, path = made(), tmp_path / "run.json"
    path.write_bytes(document.to_json_bytes())
    assert read_document(path) == document
    assert read_document(path).to_json_bytes() == document.to_json_bytes()
    assert parsed({**document.to_json(), "weather": "fair"}) == document


@pytest.mark.parametrize("kind", VERSION_1)
def test_version_1_becomes_version_2(kind: str) -> None:
    """Both shapes give one: folds and pooled figures, skips as a list, what one kind of model has as details."""
    document = parsed(VERSION_1[kind])
    assert (document.schema_version, document.rules, document.kind) == (2, 1, kind)
    assert (document.pooled, document.baselines, document.one_bar_late) == (FIGURES, MONEY["baselines"], FIGURES)
    assert (document.holes, document.ended, document.remarks) == ({}, {}, [])
    assert (document.periods_per_year, document.data_errors, document.edge, document.run) == (None, None, None, None)
    fold, (_, task) = document.folds[0], document.fits[0]
    assert (fold.number, fold.rows, fold.metrics.model) == (0, 5, FIGURES)
    assert (task.name, task.seed, task.digests) == ("AAA", 7, {"features": "f"})
    assert task.details == {"best_iteration": 3, "validation_logloss": [0.7, 0.6]}
    assert task.search.candidates[0].mean == 0.5
    assert (document.features.columns, document.features.warmup) == (["Close"], 200)
    assert document.files == {"x.parquet": "0"}


def test_what_only_one_kind_of_version_1_says() -> None:
    """The days of a training run are its splits'; its skips and later figures are kept, as a walk-forward's curves."""
    document, walked = parsed(TRAIN_1), parsed(WALK_1)
    window = msgspec.structs.asdict(document.folds[0])
    days = {"train_start": "2020-01-02", "val_start": "2020-01-10", "test_start": "2020-01-14"}
    assert {name: window[name] for name in days} == days
    assert window["test_end"] == "2020-01-20"
    assert [(skip.ticker, skip.fold, skip.reason) for skip in document.skipped] == [("BBB", None, "too short")]
    assert document.after_last_training_day.first == "2020-01-15"
    assert document.fits[0][1].threshold["AAA"].curve.long_days == [2, 1]
    assert document.features.warmup_error == {"RSI": 1e-6}
    assert (len(document.reliability), document.price) == (1, None)
    assert [(skip.ticker, skip.fold) for skip in walked.skipped] == [("AAA", 1)]
    assert walked.fits[0][1].threshold["AAA"].curve is None
    assert walked.folds[1].metrics is None
    assert (walked.reliability, walked.price.mean_skill) == (None, 1.0)


def test_what_follows_from_a_document() -> None:
    """Terms, the majority classes of train and the interval at the next open; without periods a year has 252."""
    document = parsed(full())
    assert document.terms == Terms(cost_bps=3, risk_free=0.01, periods=261)
    assert parsed(TRAIN_1).terms.periods == 252
    assert document.majority == {(0, "AAA"): 1}
    assert document.edge == Interval(**EDGE)
    assert document.figures.model == document.pooled
    assert document.figures.price == document.price


@pytest.mark.parametrize("periods", [0, -1, math.nan, math.inf, "252"])
def test_periods_that_are_no_number_of_bars_are_refused(periods: Any) -> None:
    """They must be positive and finite."""
    with pytest.raises(ArtifactError):
        parsed(full() | {"periods_per_year": periods})


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_document_never_holds_nan(bad: float) -> None:
    """Neither written nor read."""
    document = parsed(full())
    with pytest.raises(ValueError, match="not JSON compliant"):
        msgspec.structs.replace(document, pooled={"sharpe": bad}).to_json_bytes()
    with pytest.raises(ArtifactError, match="is not usable JSON"):
        parsed(full() | {"pooled": {"sharpe": bad}})


def test_a_share_of_rising_days_is_needed() -> None:
    """No majority class is guessed."""
    document = full()
    del document["folds"][0]["tasks"][0]["splits"]["AAA"]["train"]["up_share"]
    with pytest.raises(ArtifactError, match="missing required field `up_share`"):
        parsed(document)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"tickers": ["ZZZ"]}, "it has fits of AAA, which are not among its tickers"),
        ({"tickers": ["AAA", "ZZZ"]}, "it has no fit of ZZZ"),
        ({"folds": []}, "it has no fit of AAA"),
        ({"data": {}}, "it does not describe the bars of AAA"),
    ],
    ids=["another ticker", "one more ticker", "no fold", "no bars"],
)
def test_tickers_are_those_of_the_fits(change: JsonDict, told: str) -> None:
    """A training run has a fit of each ticker and no other, and describes the bars of each."""
    with pytest.raises(ArtifactError, match=told):
        parsed(full() | change)


def test_another_version_is_refused() -> None:
    """With the version that is read here."""
    with pytest.raises(ArtifactError, match=r"run\.json: schema version is 3, this nextbar reads 2 and 1"):
        parsed(full() | {"schema_version": 3})
    with pytest.raises(ArtifactError, match="does not say what run it is of"):
        parsed({"kind": "train"})


@pytest.mark.parametrize("document", [TRAIN_1, WALK_1, full()], ids=["train 1", "walk-forward 1", "version 2"])
@given(data=st.data())
def test_a_damaged_document_is_refused_or_whole(document: JsonDict, data: st.DataObject) -> None:
    """Whatever field is dropped or retyped, there is an ArtifactError that names the file, or a valid document."""
    damaged = copy.deepcopy(document)
    *path, last = data.draw(st.sampled_from(list(places(document))))
    home = damaged
    for key in path:
        home = home[key]
    if data.draw(st.booleans()):
        del home[last]
    else:
        home[last] = data.draw(st.sampled_from([None, True, 3, -1, 0.5, math.inf, "x", [], {}, [None], {"x": None}]))
    found, told = None, ""
    try:
        found = parsed(damaged)
    except ArtifactError as error:
        told = str(error)
    assert found is not None or "run.json" in told
    assert found is None or ((found.majority is None) == (not found.fits) and parsed(found.to_json()) == found)
