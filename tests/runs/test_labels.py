"""What compared runs are called."""

from __future__ import annotations

import pytest

from nextbar.config import TrainConfig, WalkForwardConfig
from nextbar.runs.labels import Described, differing_options, labels, mentions


def walk(model: str, **options: object) -> Described:
    return model, WalkForwardConfig, WalkForwardConfig(model=model, **options).to_json()


@pytest.mark.parametrize(
    ("configs", "told"),
    [
        ([walk("xgb"), walk("rf")], [[], []]),
        ([walk("xgb"), walk("xgb", seed=7)], [["seed 42"], ["seed 7"]]),
        ([walk("xgb"), walk("xgb", features="relative")], [["features levels"], ["features relative"]]),
        ([walk("xgb"), walk("xgb", raw=True)], [[], ["raw"]]),
        ([walk("xgb", no_tune=True), walk("rf", no_tune=True)], [[], []]),
        ([walk("xgb", no_tune=True), walk("rf")], [["no_tune"], []]),
        ([walk("xgb", no_tune=True), walk("lstm")], [[], []]),
        ([walk("lstm", epochs=3), walk("xgb")], [[], []]),
        ([walk("lstm", epochs=3), walk("lstm")], [["epochs 3"], ["epochs 50"]]),
        ([walk("own", parameters={"days": 3}), walk("xgb", no_tune=True)], [[], []]),
        (
            [walk("own", parameters={"days": 3}), walk("own", parameters={"days": 4})],
            [["parameters {'days': 3}"], ["parameters {'days': 4}"]],
        ),
        ([walk("xgb", jobs=1, db="a.db"), walk("xgb", jobs=2, db="b.db")], [[], []]),
        (
            [("signals", TrainConfig, TrainConfig(model="signals").to_json()), walk("xgb", features="relative")],
            [[], []],
        ),
        ([walk("xgb", cost_bps=5), walk("xgb", cost_bps=5.0)], [[], []]),
    ],
    ids=lambda _value: "",
)
def test_a_run_is_named_by_the_options_that_differ(configs, told) -> None:
    """Options that all have alike, that change no result, or that a kind of model does not have, are not named."""
    assert differing_options(configs) == told


def test_a_name_takes_the_place_of_what_differs() -> None:
    """A run with a name is labelled by it alone, and its name is nothing that differs."""
    assert labels([walk("xgb", seed=7, name="Baseline"), walk("xgb"), walk("rf")]) == [
        "Baseline",
        "xgb, seed 42",
        "rf, seed 42",
    ]


def test_what_differs_stands_behind_a_name_that_several_have() -> None:
    """As with `--model all --name`: each is still told apart."""
    assert labels([walk("xgb", name="Mine"), walk("rf", name="Mine"), walk("xgb")]) == ["Mine, xgb", "Mine, rf", "xgb"]
    same = [walk("xgb", name="Mine"), walk("xgb", name="Mine"), walk("xgb", seed=7)]
    assert labels(same) == ["Mine", "Mine", "xgb, seed 7"]


def test_one_line_mentions_name_and_model() -> None:
    """A line has the name that the user gave, if any, then the model, once."""
    assert mentions([walk("xgb", name="Mine")]) == ["Mine, xgb"]
    assert mentions([walk("xgb")]) == ["xgb"]
    assert mentions([walk("xgb", name="Mine"), walk("rf", name="Mine")]) == ["Mine, xgb", "Mine, rf"]


def test_options_of_another_version_are_labels_too() -> None:
    """Of a configuration as it was recorded, an option that is not known counts, and one that lacks does not."""
    old: Described = ("xgb", WalkForwardConfig, {"model": "xgb", "seed": 42, "gone": 3})
    assert labels([old, walk("xgb")]) == ["xgb, gone 3", "xgb"]
