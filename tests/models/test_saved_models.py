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
from nextbar.models import keras_file
from nextbar.models.keras_file import check_keras_file
from nextbar.models.random_forest import load_forest, up_probability
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


LAYER = {"module": "keras.layers", "class_name": "LSTM", "config": {"units": 4}}


def weights(fill: Callable[[h5py.File], object] = lambda file: file.create_dataset("0", data=[1.0])) -> bytes:
    """An HDF5 file."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        fill(file)
    return buffer.getvalue()


def keras_bytes(
    config: object, *, members: tuple[str, ...] = ("metadata.json", "model.weights.h5"), content: bytes | None = None
) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", json.dumps(config))
        for name in members:
            archive.writestr(name, weights() if content is None else content)
    return buffer.getvalue()


def model(*layers: object) -> dict[str, Any]:
    return {"module": "keras", "class_name": "Sequential", "config": {"layers": list(layers)}}


def test_a_plain_keras_file_passes() -> None:
    """The members and classes of our network are let through; the same file cut short is not."""
    content = keras_bytes(model(LAYER))
    check_keras_file(content)
    with pytest.raises(zipfile.BadZipFile):
        check_keras_file(content[:-30])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (keras_bytes(model({"module": "keras.layers", "class_name": "Lambda", "config": {}})), "keras.layers.Lambda"),
        (keras_bytes(model({"module": "os", "class_name": "LSTM", "config": {}})), "names the class os.LSTM"),
        (
            keras_bytes(model({**LAYER, "config": {"x": [{"class_name": "function", "module": "builtins"}]}})),
            "function",
        ),
        (keras_bytes(model({**LAYER, "config": {"units": 10**9}})), "more than 2048"),
        (keras_bytes(model(*[{**LAYER, "config": {"units": 1000}}] * 3)), "have 3000 units, more than 2048"),
        (keras_bytes(model(LAYER), content=b"\0" * 9), "signature"),
        (
            keras_bytes(
                model(LAYER),
                content=weights(lambda file: file.create_dataset("a/0", (2**28,), "f4", chunks=(2**20,))),
            ),
            "its weights unpack to 1073741824 bytes",
        ),
        (keras_bytes(model(LAYER), content=weights(lambda file: file.update({"a": h5py.SoftLink("/b")}))), "elsewhere"),
        (
            keras_bytes(
                model(LAYER), content=weights(lambda file: file.update({"a/b": h5py.ExternalLink("x.h5", "/")}))
            ),
            "elsewhere",
        ),
        (
            keras_bytes(
                model(LAYER),
                content=weights(lambda file: file.create_dataset("a", (4,), "f4", external=[("/etc/passwd", 0, 16)])),
            ),
            "elsewhere",
        ),
        (keras_bytes(model({**LAYER, "config": {"batch_shape": [None, 10**9, 6]}})), "more than 4096"),
        (keras_bytes(model(LAYER), members=("metadata.json",)), "expected the members"),
        (keras_bytes(model(LAYER), members=("metadata.json", "model.weights.h5", "assets/x")), "expected the members"),
        (keras_bytes(model(LAYER), members=("metadata.json", "../model.weights.h5")), "expected the members"),
        (keras_bytes(model(LAYER))[:-10], "not a zip"),
        (b"", "not a zip"),
    ],
    ids=[
        "lambda layer",
        "foreign module",
        "nested function",
        "many units",
        "many units together",
        "weights are no HDF5",
        "weights unpack",
        "soft link",
        "external link",
        "external data",
        "long sequence",
        "no weights",
        "another member",
        "member outside",
        "cut archive",
        "empty",
    ],
)
def test_another_keras_file_is_refused(content: bytes, message: str) -> None:
    """Lambda layers, foreign classes, sizes beyond reason, other members and cut archives do not reach keras."""
    with pytest.raises((ValueError, OSError, zipfile.BadZipFile), match=message):
        check_keras_file(content)


def test_a_zip_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The size that members say they unpack to is looked at before one is unpacked."""
    monkeypatch.setattr(keras_file, "MOST_BYTES", 10**6)
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("a member was unpacked"))
    content = keras_bytes(model(LAYER), content=b"\0" * 10**6)
    assert len(content) < 10_000
    with pytest.raises(ValueError, match="it unpacks to 2000145 bytes, more than 1000000"):
        check_keras_file(content)
