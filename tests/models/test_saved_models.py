"""Model files whose digests are right and whose content is not: refused before native code or keras touches them."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np
import pytest
import xgboost as xgb
from sklearn.ensemble import RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier

from nextbar.errors import ArtifactError
from nextbar.models import weights as weights_module
from nextbar.models.random_forest import FittedForest, load_forest
from nextbar.models.weights import load_weights
from nextbar.models.xgboost import load_booster

COLUMNS = ["a", "b", "c"]


@pytest.fixture(scope="module")
def sample() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3))
    return X, (X[:, 0] + rng.normal(size=200) > 0).astype(np.int64)


@pytest.fixture
def forest(sample: tuple[np.ndarray, np.ndarray]) -> RandomForestClassifier:
    return RandomForestClassifier(n_estimators=5, max_depth=3, random_state=0).fit(*sample)


@pytest.fixture(scope="module")
def booster(sample: tuple[np.ndarray, np.ndarray]) -> xgb.Booster:
    booster = xgb.XGBClassifier(n_estimators=5, max_depth=3, random_state=0).fit(*sample).get_booster()[:3]
    booster.feature_names = COLUMNS
    return booster


def up_probability(forest: RandomForestClassifier, features: np.ndarray) -> np.ndarray:
    return FittedForest(estimator=forest, columns=tuple(COLUMNS)).up_probability(features)


def dumped(value: Any) -> bytes:
    return pickle.dumps(value, protocol=5)


def test_a_saved_forest_gives_the_same_bits(forest: RandomForestClassifier, sample: Any) -> None:
    """A forest that was read back predicts exactly what it predicted before, on one thread."""
    expected = up_probability(forest, sample[0]).tobytes()
    loaded = load_forest(dumped(forest.set_params(n_jobs=4)), 3)
    assert loaded.n_jobs == 1
    assert up_probability(loaded, sample[0]).tobytes() == expected


def test_a_saved_booster_gives_the_same_bits(booster: xgb.Booster, sample: Any) -> None:
    """Trees that were read back, checked and written anew predict exactly what they predicted before."""
    loaded = load_booster(bytes(booster.save_raw("json")), COLUMNS)
    expected = booster.inplace_predict(sample[0], validate_features=False)
    assert loaded.inplace_predict(sample[0], validate_features=False).tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("field", "value"),
    [("left_child", 10**6), ("right_child", 10**6), ("left_child", 0), ("right_child", -5), ("feature", 10**8)],
)
def test_a_forest_that_leads_astray_is_refused(forest: RandomForestClassifier, field: str, value: int) -> None:
    """Scikit-learn would follow such a node out of its memory, or for ever."""
    tree = forest.estimators_[2].tree_
    state = tree.__getstate__()
    nodes = state["nodes"].copy()
    nodes[field][0] = value
    tree.__setstate__({**state, "nodes": nodes})
    with pytest.raises(ArtifactError, match="a tree leads outside itself"):
        load_forest(dumped(forest), 3)


def without_trees(forest: RandomForestClassifier) -> Any:
    forest.estimators_ = []
    return forest


def other_classes(forest: RandomForestClassifier) -> Any:
    forest.classes_ = np.array([1, 0])
    return forest


def bare_tree(forest: RandomForestClassifier) -> Any:
    forest.estimators_[1] = DecisionTreeClassifier()
    return forest


def altered(**attributes: Any) -> Callable[[RandomForestClassifier], RandomForestClassifier]:
    def change(forest: RandomForestClassifier) -> RandomForestClassifier:
        for estimator in (forest, *forest.estimators_):
            vars(estimator).update(attributes)
        return forest

    return change


@pytest.mark.parametrize(
    "change",
    [
        altered(n_classes_=3),
        altered(n_outputs_=2),
        altered(n_features_in_=4),
        altered(predict_proba=RandomForestClassifier),
        altered(_validate_X_predict=5),
        altered(feature_names_in_=np.array([1.0, 2.0, 3.0])),
    ],
)
def test_only_the_trees_of_a_forest_are_believed(
    forest: RandomForestClassifier, sample: Any, change: Callable[..., Any]
) -> None:
    """Whatever else the file says about the forest, it predicts what its trees say."""
    expected = up_probability(forest, sample[0]).tobytes()
    assert up_probability(load_forest(dumped(change(forest)), 3), sample[0]).tobytes() == expected


@pytest.mark.parametrize("change", [without_trees, other_classes, bare_tree, lambda _: 5, lambda f: f.estimators_[0]])
def test_what_is_no_whole_forest_is_refused(forest: RandomForestClassifier, change: Callable[..., Any]) -> None:
    """The right classes in the wrong places."""
    with pytest.raises(ArtifactError, match="is refused"):
        load_forest(dumped(change(forest)), 3)


def test_a_forest_over_other_columns_is_refused(forest: RandomForestClassifier) -> None:
    """A forest whose trees ask for another number of columns than the metadata names."""
    with pytest.raises(ArtifactError, match="not one of 2 columns"):
        load_forest(dumped(forest), 2)


def change_tree(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        document["learner"]["gradient_booster"]["model"]["trees"][1][key][0] = value

    return change


def change_learner(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        place = document["learner"]
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        change_tree("left_children", 10**7),
        change_tree("right_children", 10**7),
        change_tree("left_children", 0),
        change_tree("split_indices", 10**8),
        change_tree("split_indices", 3),
        change_tree("split_type", 1),
        lambda document: document["learner"]["gradient_booster"]["model"]["trees"][0]["split_conditions"].pop(),
        change_learner("gradient_booster", "model", "tree_info", value=[0, 0, 7]),
        change_learner("gradient_booster", "model", "iteration_indptr", value=[0, 900, 2, 3]),
        change_learner("gradient_booster", "name", value="dart"),
        change_learner("learner_model_param", "num_class", value="9"),
        change_learner("learner_model_param", "num_feature", value="4"),
        change_learner("feature_names", value=["a", "b", "z"]),
        change_learner("objective", "name", value="reg:squarederror"),
        change_learner("gradient_booster", value=None),
        lambda document: document.clear(),
    ],
)
def test_a_booster_that_leads_astray_is_refused(booster: xgb.Booster, change: Callable[..., Any]) -> None:
    """XGBoost would follow such numbers out of its memory, or the model is not the one that the metadata tells of."""
    document = json.loads(booster.save_raw("json"))
    change(document)
    with pytest.raises(ArtifactError, match="is refused"):
        load_booster(json.dumps(document).encode(), COLUMNS)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1]", b'{"learner": 5}', b"[" * 100_000, b"\xff\xfe", b"{L" + b"\0" * 50],
    ids=["empty", "cut", "list", "learner is a number", "nested", "no UTF-8", "binary form"],
)
def test_what_is_no_json_of_a_booster_is_refused(content: bytes) -> None:
    """Empty, cut, nested beyond reason, or in XGBoost's binary form."""
    with pytest.raises(ArtifactError, match="is refused"):
        load_booster(content, COLUMNS)


def test_a_doubled_key_cannot_hide_a_tree(booster: xgb.Booster, sample: Any) -> None:
    """What XGBoost reads is what was checked, whichever of two equal keys its own parser would take."""
    key = '"left_children":['
    text = bytes(booster.save_raw("json")).decode()
    assert key in text
    doubled = text.replace(key, f"{key}1,3],{key}", 1)
    loaded = load_booster(doubled.encode(), COLUMNS)
    expected = booster.inplace_predict(sample[0], validate_features=False)
    assert loaded.inplace_predict(sample[0], validate_features=False).tobytes() == expected.tobytes()


UNITS = (4, 2)
Fill = Callable[[h5py.File], object]


def network(columns: int = 3, *, units: tuple[int, ...] = UNITS, kind: str = "f4") -> dict[str, np.ndarray]:
    """Weights of LSTM layers and a dense one, by their places in keras's file."""
    found: dict[str, np.ndarray] = {}
    for number, (inputs, width) in enumerate(zip((columns, *units), units, strict=False)):
        shapes = ((inputs, 4 * width), (width, 4 * width), (4 * width,))
        layer = f"lstm_{number}" if number else "lstm"
        found |= {f"layers/{layer}/cell/vars/{i}": np.full(shape, i, kind) for i, shape in enumerate(shapes)}
    dense = np.ones(((columns, *units)[-1], 1), kind)
    return found | {"layers/dense/vars/0": dense, "layers/dense/vars/1": np.zeros(1, kind)}


def weights(arrays: dict[str, np.ndarray], fill: Fill = lambda _file: None) -> bytes:
    """An HDF5 file."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for place, array in arrays.items():
            file[place] = array
        fill(file)
    return buffer.getvalue()


def keras_bytes(content: bytes, *, config: object = None, members: tuple[str, ...] = ("model.weights.h5",)) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", json.dumps(config))
        for name in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def layer(class_name: str, module: str = "keras.layers", **config: object) -> dict[str, Any]:
    return {"module": module, "class_name": class_name, "config": config}


@pytest.mark.parametrize(
    "config",
    [
        layer("Lambda"),
        layer("LSTM", module="os"),
        layer("LSTM", x=[{"class_name": "function", "module": "builtins"}]),
        layer("LSTM", units=10**9),
        layer("InputLayer", batch_shape=[None, 10**9, 6]),
        {"class_name": "Sequential", "module": "keras", "config": {"layers": [layer("Lambda")]}},
        None,
    ],
    ids=["lambda layer", "foreign module", "nested function", "many units", "long sequence", "sequential", "nothing"],
)
def test_the_configuration_of_a_keras_file_is_not_read(config: object) -> None:
    """Lambda layers, foreign classes and sizes beyond reason change nothing: only the weights are read."""
    content = keras_bytes(weights(network()), config=config, members=("model.weights.h5", "assets/x", "../y"))
    loaded = load_weights(content, 3)
    assert [array.tobytes() for array in loaded] == [array.tobytes() for array in network().values()]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (keras_bytes(b"\0" * 9), "signature"),
        (
            keras_bytes(weights({}, lambda file: file.create_dataset("a/0", (2**28,), "f4", chunks=(2**20,)))),
            "its weights unpack to 1073741824 bytes",
        ),
        (keras_bytes(weights(network(), lambda file: file.update({"a": h5py.SoftLink("/b")}))), "outside the file"),
        (
            keras_bytes(weights(network(), lambda file: file.update({"a/b": h5py.ExternalLink("x.h5", "/")}))),
            "outside the file",
        ),
        (
            keras_bytes(
                weights(network(), lambda file: file.create_dataset("a", (4,), "f4", external=[("/etc/passwd", 0, 16)]))
            ),
            "outside the file",
        ),
        (keras_bytes(weights({})), "layers"),
        (
            keras_bytes(weights({"layers/dense/vars/0": np.ones((3, 1)), "layers/dense/vars/1": np.ones(1)})),
            "not those",
        ),
        (keras_bytes(weights(network(4))), "not those of LSTM layers over 3 columns"),
        (keras_bytes(weights(network() | {"layers/lstm/cell/vars/1": np.zeros((5, 16), "f4")})), "not those"),
        (keras_bytes(weights(network() | {"layers/dense/vars/0": np.zeros((2, 2), "f4")})), "not those"),
        (keras_bytes(weights(network() | {"layers/lstm_1/cell/vars/2": np.zeros((), "f4")})), "not those"),
        (keras_bytes(weights(network(kind="i4"))), "not 32-bit numbers"),
        (keras_bytes(weights(network()), members=()), "no item named"),
        (keras_bytes(weights(network()), members=("../model.weights.h5",)), "no item named"),
        (keras_bytes(weights(network()))[:-30], "not a zip"),
        (b"", "not a zip"),
    ],
    ids=[
        "weights are no HDF5",
        "weights unpack",
        "soft link",
        "external link",
        "external data",
        "no layers",
        "no LSTM layer",
        "other columns",
        "layers do not fit",
        "two outputs",
        "no vector",
        "whole numbers",
        "no weights",
        "member outside",
        "cut archive",
        "empty",
    ],
)
def test_another_keras_file_is_refused(content: bytes, message: str) -> None:
    """Weights of another network, larger than the file says or outside it, and cut archives are refused."""
    with pytest.raises((ValueError, KeyError, OSError, zipfile.BadZipFile), match=message):
        load_weights(content, 3)


def test_a_zip_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The size that a member says it unpacks to is checked before it is unpacked."""
    monkeypatch.setattr(weights_module, "MOST_BYTES", 10**5)
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("a member was unpacked"))
    content = keras_bytes(b"\0" * 10**6)
    assert len(content) < 10_000
    with pytest.raises(ValueError, match="it unpacks to 1000000 bytes, more than 100000"):
        load_weights(content, 3)
