"""Model files whose digests are right and whose content is not: refused before native code touches them."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xgboost as xgb
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestClassifier
from sklearn.preprocessing import MinMaxScaler

from nextbar.datasets.sequences import ScalerRange, TickerScaler, restore_scaler
from nextbar.errors import ArtifactError, OutdatedError
from nextbar.models.base import Fitted, Saved
from nextbar.models.booster_json import clean_booster
from nextbar.models.lstm_fitted import FittedLstm, weight_shapes
from nextbar.models.lstm_model import LSTM
from nextbar.models.random_forest import ARRAYS, MOST_TREES, RandomForest, pack_forest, unpack_forest
from nextbar.models.weights import WEIGHTS, pack_arrays, tree_depths, unpack_arrays
from nextbar.models.xgboost import XGBoost, load_booster
from nextbar.types import FeatureTable

COLUMNS = ["a", "b", "c"]
TREES = 5
Sample = tuple[np.ndarray, np.ndarray]
Change = Callable[[dict[str, Any]], object]


def draw() -> Sample:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3))
    return X, (X[:, 0] + rng.normal(size=200) > 0).astype(np.int64)


SAMPLE = draw()
FOREST = RandomForestClassifier(n_estimators=TREES, max_depth=3, random_state=0).fit(*SAMPLE)
PACKED = pack_forest(FOREST)


def forest_from(content: bytes, **params: Any) -> Any:
    files = {WEIGHTS: content, ".pkl": b"never read"}
    return RandomForest().restore(
        Saved(name="models/rf", files=files, columns=COLUMNS, params={"n_estimators": TREES, **params})
    )


def changed(change: Change) -> bytes:
    """The forest's file with other arrays."""
    arrays = {name: array.copy() for name, array in unpack_arrays(PACKED, ARRAYS).items()}
    change(arrays)
    return pack_arrays(arrays)


def put(name: str, at: int, value: float) -> Change:
    return lambda arrays: arrays[name].__setitem__(at, value)


def recast(name: str, kind: str) -> Change:
    return lambda arrays: arrays.update({name: arrays[name].astype(kind)})


def cut(name: str) -> Change:
    return lambda arrays: arrays.update({name: arrays[name][:-1]})


@pytest.mark.parametrize(
    "params",
    [{}, {"max_depth": None}, {"class_weight": "balanced_subsample"}, {"n_estimators": 1}, {"max_features": None}],
)
def test_a_saved_forest_is_the_forest(params: dict[str, Any]) -> None:
    """Probabilities, importances, nodes and depths come back to the bit; the same forest gives the same file."""
    forest = RandomForestClassifier(**{"n_estimators": TREES, "random_state": 1, **params}).fit(*SAMPLE)
    content = pack_forest(forest)
    assert content == pack_forest(pickle.loads(pickle.dumps(forest)))
    loaded = unpack_forest(content, 3, forest.n_estimators)
    assert loaded.n_jobs == 1
    assert loaded.predict_proba(SAMPLE[0]).tobytes() == forest.predict_proba(SAMPLE[0]).tobytes()
    assert loaded.feature_importances_.tobytes() == forest.feature_importances_.tobytes()
    for mine, own in zip(loaded.estimators_, forest.estimators_, strict=True):
        state, expected = mine.tree_.__getstate__(), own.tree_.__getstate__()
        assert (state["max_depth"], state["node_count"]) == (expected["max_depth"], expected["node_count"])
        assert (state["nodes"] == expected["nodes"]).all()
        assert state["values"].tobytes() == expected["values"].tobytes()


def test_a_forest_of_missing_features_is_the_forest() -> None:
    """A split that takes missing values alone to one side has an infinite threshold, and comes back, too."""
    X = np.where(np.random.default_rng(3).random(SAMPLE[0].shape) < 0.3, np.nan, SAMPLE[0])
    y = np.isnan(X[:, 1]).astype(np.int64)
    forest = RandomForestClassifier(n_estimators=TREES, random_state=0).fit(X, y)
    assert np.isinf(np.concatenate([member.tree_.threshold for member in forest.estimators_])).any()
    assert forest_from(pack_forest(forest)).up_probability(X).tobytes() == forest.predict_proba(X)[:, 1].tobytes()


@pytest.mark.parametrize("only", [0, 1])
def test_a_forest_of_one_class_is_loaded(only: int) -> None:
    """Where train never rose, or always, the saved forest says so, too."""
    X = SAMPLE[0]
    forest = RandomForestClassifier(n_estimators=TREES, random_state=0).fit(X, np.full(len(X), only))
    assert (forest_from(pack_forest(forest)).up_probability(X) == only).all()


def test_anyone_reads_the_weights() -> None:
    """numpy opens the file, without pickles, and finds what the trees hold."""
    with np.load(io.BytesIO(PACKED), allow_pickle=False) as file:
        assert list(file) == list(ARRAYS)
        np.testing.assert_array_equal(
            file["threshold"], np.concatenate([x.tree_.threshold for x in FOREST.estimators_])
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("left_child", 0, 10**6), "leads outside itself or backwards"),
        (put("right_child", 0, 10**6), "leads outside itself or backwards"),
        (put("left_child", 0, 0), "leads outside itself or backwards"),
        (put("right_child", 0, -5), "leads outside itself or backwards"),
        (put("left_child", 0, -5), "leads outside itself or backwards"),
        (put("right_child", 0, 1), "no parent, or several"),
        (lambda arrays: [put(name, 0, -1)(arrays) for name in ("left_child", "right_child")], "no parent, or several"),
        (put("left_child", 0, -1), "leads outside itself or backwards"),
        (put("feature", 0, 3), "a column that does not exist"),
        (put("feature", 0, -2), "a column that does not exist"),
        (lambda arrays: put("feature", int(np.argmax(arrays["left_child"] == -1)), 0)(arrays), "that does not exist"),
        (put("threshold", 0, np.nan), "not finite"),
        (put("weighted_n_node_samples", 0, np.inf), "not finite"),
        (put("impurity", 3, np.nan), "not finite"),
        (put("missing_go_to_left", 0, 2), "outside 0 and 1"),
        (lambda arrays: arrays["values"].__setitem__((4, 1), 1.5), "outside 0 and 1"),
        (lambda arrays: arrays["values"].__setitem__((4, 1), np.nan), "outside 0 and 1"),
        (lambda arrays: arrays["values"].__setitem__((4, 1), -0.1), "outside 0 and 1"),
        (put("starts", 0, 1), "do not lie one after the other"),
        (put("starts", 1, 0), "do not lie one after the other"),
        (put("starts", 1, 10**9), "do not lie one after the other"),
        (put("starts", TREES, 10**9), "do not lie one after the other"),
        (put("starts", 1, 2), "leads outside itself|no parent, or several"),
        (cut("starts"), "expected 5 trees, found 4"),
        (cut("threshold"), "another number in threshold"),
        (cut("values"), "another number in"),
        (recast("threshold", "<f4"), "threshold: expected 1 dimensions of <f8"),
        (recast("left_child", ">i4"), "no header of a plain array"),
        (recast("values", "<c8"), "no header of a plain array|expected 2 dimensions"),
        (lambda arrays: arrays.update(values=arrays["values"][:, :1]), "2 values|1 values a node"),
        (lambda arrays: arrays.update(values=arrays["values"][:, None, :]), "no header of a plain array"),
        (lambda arrays: arrays.update(values=arrays["values"].ravel()), "expected 2 dimensions"),
        (put("classes", 0, 7), "expected the classes 0 and 1"),
        (lambda arrays: arrays.pop("values"), "ends before values|expected the member"),
        (lambda arrays: arrays.update(more=np.zeros(9)), "more than the arrays"),
        (lambda arrays: arrays.clear(), "ends before classes|expected the member"),
    ],
)
def test_a_forest_that_leads_astray_is_refused(change: Change, message: str) -> None:
    """Scikit-learn would follow such numbers out of its memory, or for ever; the message names file and fault."""
    with pytest.raises(ArtifactError, match=rf"^models/rf_weights\.npz is refused.*({message})"):
        forest_from(changed(change))


def test_a_forest_of_another_size_is_refused() -> None:
    """The document says how many trees there are, over which columns."""
    with pytest.raises(ArtifactError, match="expected 6 trees, found 5"):
        forest_from(PACKED, n_estimators=6)
    with pytest.raises(ArtifactError, match="a column that does not exist"):
        RandomForest().restore(Saved(name="x", files={WEIGHTS: PACKED}, columns=["a"], params={"n_estimators": TREES}))
    leaf = {"left_child": -1, "right_child": -1, "feature": -2, "values": 1, "classes": 1}
    many = MOST_TREES + 1
    arrays = {name: np.full((many, 1)[:size], leaf.get(name, 0), kind) for name, (kind, size) in ARRAYS.items()}
    alone = pack_arrays(arrays | {"classes": np.array([1]), "starts": np.arange(many + 1)})
    with pytest.raises(ArtifactError, match=f"expected {MOST_TREES} trees, found {many}"):
        forest_from(alone, n_estimators=many)
    for odd in (None, "many", [5], float("nan"), -1, 10**30):
        with pytest.raises(ArtifactError, match="is refused"):
            forest_from(PACKED, n_estimators=odd)


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED, comment: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.comment = comment
    return buffer.getvalue()


def npy(header: bytes, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def head(shape: str, descr: str = "'<f8'", order: str = "False") -> bytes:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()


ONE = {"x": ("<f8", 1)}
GOOD = npy(head("(2,)"), bytes(16))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "ends before x.npy"),
        (b"\0" * 100, "expected the member x.npy at byte 0"),
        (zipped({"x.npy": GOOD}, zipfile.ZIP_DEFLATED), "is compressed"),
        (zipped({"x.npy": GOOD}, zipfile.ZIP_LZMA), "is compressed|expected the member"),
        (zipped({"y.npy": GOOD}), "expected the member x.npy"),
        (zipped({"../x.npy": GOOD}), "expected the member x.npy"),
        (zipped({"x.npy": GOOD, "y.npy": GOOD}), "more than the arrays"),
        (zipped({"x.npy": GOOD}, comment=b"c" * 60000), "more than the arrays"),
        (b"MZ" * 40 + zipped({"x.npy": GOOD}), "expected the member"),
        (zipped({"x.npy": GOOD}).replace(bytes(16), b"\1" + bytes(15), 1), "checksum"),
        (zipped({"x.npy": b""}), "no header"),
        (zipped({"x.npy": GOOD[:9]}), "no header"),
        (zipped({"x.npy": pickle.dumps([1])}), "no header"),
        (zipped({"x.npy": npy(head("(2,)", "'|O'"), bytes(16))}), "no header"),
        (zipped({"x.npy": npy(head("(2,)", "[('a', '<f8')]"), bytes(16))}), "no header"),
        (zipped({"x.npy": npy(head("(2,)", order="True"), bytes(16))}), "no header"),
        (zipped({"x.npy": npy(head("(2, 1)"), bytes(16))}), "expected 1 dimensions"),
        (zipped({"x.npy": npy(head("()"), bytes(8))}), "no header"),
        (zipped({"x.npy": npy(head("(-2,)"), bytes(16))}), "no header"),
        (zipped({"x.npy": npy(head("(99999999999,)"), bytes(16))}), "and holds 16 bytes"),
        (zipped({"x.npy": npy(head("(9999999999999999999999,)"), bytes(16))}), "no header"),
        (zipped({"x.npy": npy(b"(" * 60000, bytes(16))}), "no header"),
        (zipped({"x.npy": npy(b"{'descr': " + b"[" * 30000)}), "no header"),
        (zipped({"x.npy": npy(head("(3,)"), bytes(16))}), "and holds 16 bytes"),
    ],
    ids=[
        *("empty", "zeros", "deflated", "lzma", "other name", "path", "more", "comment", "prefix", "altered", "no npy"),
        *("cut npy", "pickle", "objects", "records", "columns first", "matrix", "scalar", "negative", "huge", "beyond"),
        *("brackets", "nested", "short"),
    ],
)
def test_another_archive_is_refused(content: bytes, message: str) -> None:
    """Compressed members, foreign names, more than is expected, objects, and sizes that are not there."""
    with pytest.raises(ValueError, match=message):
        unpack_arrays(content, ONE)


def test_sizes_in_an_archive_take_no_memory() -> None:
    """What a local header says of gigabytes is compared with the file."""
    content = bytearray(zipped({"x.npy": GOOD}))
    struct.pack_into("<2L", content, 18, 2**32 - 1, 2**32 - 1)
    with pytest.raises(ValueError, match="longer than the file"):
        unpack_arrays(bytes(content), ONE)


@pytest.mark.parametrize("size", range(0, len(PACKED) - 1, 499))
def test_a_truncated_forest_is_refused(size: int) -> None:
    """No prefix of a file is taken for a whole one while an array lacks a byte."""
    if size < PACKED.index(b"PK\1\2"):
        with pytest.raises(ArtifactError, match="is refused"):
            forest_from(PACKED[:size])


@given(at=st.integers(0, len(PACKED) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused_or_harmless(at: int, bit: int) -> None:
    """Either the file is refused, or the bit lies where nothing is read and the forest is the same."""
    content = bytearray(PACKED)
    content[at] ^= 1 << bit
    try:
        loaded = forest_from(bytes(content))
    except ArtifactError:
        return
    assert loaded.up_probability(SAMPLE[0]).tobytes() == FOREST.predict_proba(SAMPLE[0])[:, 1].tobytes()


@given(data=st.data())
def test_any_other_numbers_are_refused_or_a_forest(data: st.DataObject) -> None:
    """Whatever number replaces another, what is loaded predicts probabilities and comes to an end."""
    name = data.draw(st.sampled_from(list(ARRAYS)))

    def change(arrays: dict[str, Any]) -> None:
        flat = arrays[name].reshape(-1)
        limits = np.iinfo(flat.dtype) if flat.dtype.kind in "iu" else None
        values = st.floats() if limits is None else st.integers(int(limits.min), int(limits.max)) | st.integers(0, 9)
        flat[data.draw(st.integers(0, flat.size - 1))] = data.draw(values)

    try:
        loaded = forest_from(changed(change))
    except ArtifactError:
        return
    found = loaded.up_probability(SAMPLE[0])
    assert ((found >= 0) & (found <= 1 + 1e-9)).all()


@given(st.integers(1, 60), st.randoms(use_true_random=False))
def test_depths_are_those_of_a_walk(leaves: int, random: Any) -> None:
    """Trees of every shape, grown at random and numbered depth first: each depth is the longest way down."""
    left, right, longest = [-1], [-1], [0]

    def grow(node: int, wanted: int, depth: int) -> None:
        longest[0] = max(longest[0], depth)
        if wanted < 2:
            return
        for side, share in ((left, own := random.randint(1, wanted - 1)), (right, wanted - own)):
            side[node] = len(left)
            left.append(-1)
            right.append(-1)
            grow(side[node], share, depth + 1)

    grow(0, leaves, 0)
    size = len(left)
    # Twice, one behind the other.
    found = tree_depths(np.array(left * 2, np.int32), np.array(right * 2, np.int32), np.array([0, size, 2 * size]))
    assert found.tolist() == [longest[0]] * 2


def test_a_run_without_weights_says_what_to_do() -> None:
    """The message is one line with the command, for a forest and a network."""
    for model in (RandomForest(), LSTM()):
        with pytest.raises(OutdatedError) as raised:
            model.restore(Saved(name="my models/x", files={".pkl": b""}, columns=COLUMNS))
        assert str(raised.value).endswith("make it: nextbar reproduce 'my models/x_metadata.json' --upgrade")
        assert "my models/x has no _weights.npz" in str(raised.value)
        assert "\n" not in str(raised.value)


@pytest.fixture(scope="module")
def booster() -> xgb.Booster:
    booster = xgb.XGBClassifier(n_estimators=5, max_depth=3, random_state=0).fit(*SAMPLE).get_booster()[:3]
    booster.feature_names = COLUMNS
    return booster


def booster_from(content: bytes) -> xgb.Booster:
    return XGBoost().restore(Saved(name="models/xgb", files={".json": content}, columns=COLUMNS)).booster


@pytest.mark.parametrize(
    "params",
    [{}, {"gamma": 2.0, "max_depth": 8}, {"scale_pos_weight": 0.001}, {"base_score": 0.123}, {"reg_alpha": 9e3}],
)
def test_a_saved_booster_gives_the_same_bits(params: dict[str, Any]) -> None:
    """Trees that were read, checked and written anew are the same file and predict the same."""
    fitted = xgb.XGBClassifier(n_estimators=6, random_state=0, **params).fit(*SAMPLE).get_booster()
    fitted.feature_names = COLUMNS
    content = bytes(fitted.save_raw("json"))
    loaded = booster_from(content)
    assert bytes(loaded.save_raw("json")) == content
    expected = fitted.inplace_predict(SAMPLE[0], validate_features=False)
    assert loaded.inplace_predict(SAMPLE[0], validate_features=False).tobytes() == expected.tobytes()


def test_a_booster_of_falls_alone_is_loaded() -> None:
    """Its trees are added to a probability of 0."""
    X = SAMPLE[0]
    fitted = xgb.XGBClassifier(n_estimators=3).fit(X, np.zeros(len(X), np.int64)).get_booster()
    fitted.feature_names = COLUMNS
    content = bytes(fitted.save_raw("json"))
    assert b'"base_score":"[0E0]"' in content
    assert bytes(booster_from(content).save_raw("json")) == content


def model_of(document: dict[str, Any]) -> dict[str, Any]:
    return document["learner"]["gradient_booster"]["model"]


def tree(key: str, value: Any, at: int | None = 0) -> Change:
    """Change a number of a tree's array, or the whole."""

    def change(document: dict[str, Any]) -> None:
        own = model_of(document)["trees"][1]
        if at is None:
            own[key] = value
        else:
            own[key][at] = value

    return change


def learner(*path: str, value: Any) -> Change:
    def change(document: dict[str, Any]) -> None:
        place = document["learner"]
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = value

    return change


def param(name: str, value: Any) -> Change:
    return lambda document: model_of(document)["trees"][1]["tree_param"].update({name: value})


def score(value: Any) -> Change:
    return learner("learner_model_param", "base_score", value=value)


ASTRAY: list[Change] = [
    *(tree("left_children", value) for value in (10**7, 0, -5, 2.5, "1", None, [1], True, 10**30)),
    *(tree("right_children", value) for value in (10**7, 1)),
    *(tree("parents", value, at) for value, at in ((10**7, 1), (-1, 1), (2, 1), (0, 0), (2**40, 0))),
    *(tree("split_indices", value) for value in (10**8, 3, -1, 2.0)),
    *(tree("split_type", value) for value in (1, True, "0")),
    *(tree("default_left", value) for value in (2, -1, 0.5)),
    *(tree("split_conditions", value) for value in (1e300, "NaN", None, [0.0])),
    *(tree("base_weights", value) for value in (1e39, "x")),
    *(
        tree(name, value, None)
        for name in ("categories", "categories_nodes", "categories_segments", "categories_sizes")
        for value in (0, [0], "", {}, None)
    ),
    *(tree(name, value, None) for name in ("left_children", "split_conditions") for value in (0, [], {}, None)),
    *(tree("id", value, None) for value in (0, 7, -1, "1")),
    *(param("size_leaf_vector", value) for value in ("0", "2", "1000000", "", 1)),
    *(param("num_nodes", value) for value in ("1", "1000000000", "-1", "1e3", "")),
    *(param("num_deleted", value) for value in ("1", "-1")),
    *(param("num_feature", value) for value in ("4", "0")),
    *(score(value) for value in ("2", "5E1", "-5E-1", "1.0001", "-0", "inf", "nan", "[5E-1", "5E-1]", "[]")),
    *(score(value) for value in ("[5E-1,5E-1]", "", " 0.5", "0x1p-1", "0.5\n", 0.5, None, [0.5], "9" * 10**5)),
    *(learner("learner_model_param", "num_class", value=value) for value in ("1", "2", "9", 0)),
    *(learner("learner_model_param", "num_feature", value=value) for value in ("4", "", "3\n")),
    *(learner("learner_model_param", "num_target", value=value) for value in ("0", "2")),
    learner("learner_model_param", "boost_from_average", value="7"),
    *(learner("gradient_booster", "name", value=value) for value in ("dart", "gblinear", 5)),
    *(learner("objective", "name", value=value) for value in ("reg:squarederror", "multi:softprob", "binary:hinge")),
    learner("objective", "reg_loss_param", "scale_pos_weight", value="1e999999999"),
    learner("objective", value={"name": "binary:logistic"}),
    *(learner("feature_names", value=value) for value in (["a", "b", "z"], ["a", "b"], [], "abc", None)),
    *(learner("feature_types", value=value) for value in (["c", "c", "c"], ["float"], 5)),
    learner("attributes", value={"best_iteration": 5}),
    learner("gradient_booster", value=None),
    lambda document: model_of(document).update(tree_info=[0, 0, 7]),
    lambda document: model_of(document).update(tree_info=[0, 0]),
    lambda document: model_of(document).update(iteration_indptr=[0, 900, 2, 3]),
    lambda document: model_of(document).update(iteration_indptr=[0, 3]),
    lambda document: model_of(document).update(cats={"enc": [{}], "feature_segments": [], "sorted_idx": []}),
    lambda document: model_of(document).update(cats=5),
    lambda document: model_of(document)["gbtree_model_param"].update(num_trees="900000000"),
    lambda document: model_of(document)["gbtree_model_param"].update(num_parallel_tree="3"),
    lambda document: model_of(document)["trees"].clear(),
    lambda document: model_of(document)["trees"].append(model_of(document)["trees"][0]),
    lambda document: model_of(document)["trees"][0]["split_conditions"].pop(),
    lambda document: model_of(document)["trees"][0].pop("sum_hessian"),
    lambda document: document.update(version=[1]),
    lambda document: document.update(version=["3", 2, 0]),
    lambda document: document.clear(),
]


@pytest.mark.parametrize("change", ASTRAY, ids=map(str, range(len(ASTRAY))))
def test_a_booster_that_leads_astray_is_refused(booster: xgb.Booster, change: Change) -> None:
    """XGBoost would follow such numbers out of its memory, or the model is not the one that the metadata tells of."""
    document = json.loads(booster.save_raw("json"))
    change(document)
    with pytest.raises(ArtifactError, match=r"^models/xgb\.json is refused"):
        booster_from(json.dumps(document).encode())


def test_a_node_with_two_parents_is_refused(booster: xgb.Booster) -> None:
    """Both children of a node are one node, and so are the parents that the file tells of."""
    document = json.loads(booster.save_raw("json"))
    own = model_of(document)["trees"][0]
    own["right_children"][0] = own["left_children"][0]
    with pytest.raises(ArtifactError, match="tree 0: a node of a tree has no parent, or several"):
        booster_from(json.dumps(document).encode())


def test_what_is_unknown_does_not_reach_native_code(booster: xgb.Booster) -> None:
    """Fields that no reader here knows, and attributes, are left out of what XGBoost reads."""
    content = bytes(booster.save_raw("json"))
    document = json.loads(content)
    document["learner"]["attributes"] = {"best_iteration": "900000000"}
    document["learner"]["callbacks"] = document["extra"] = [{"leaf_weights": [1]}]
    model_of(document)["weight_drop"] = [5]
    model_of(document)["trees"][0]["leaf_weights"] = 5
    assert bytes(booster_from(json.dumps(document).encode()).save_raw("json")) == content


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1]", b'{"learner": 5}', b"[" * 100_000, b"\xff\xfe", b"{L" + b"\0" * 50],
    ids=["empty", "cut", "list", "learner is a number", "nested", "no UTF-8", "binary form"],
)
def test_what_is_no_json_of_a_booster_is_refused(content: bytes) -> None:
    """Empty, cut, nested beyond reason, or in XGBoost's binary form."""
    with pytest.raises(ArtifactError, match="is refused"):
        booster_from(content)


def test_a_doubled_key_is_refused(booster: xgb.Booster) -> None:
    """Which of two equal keys counts would be the parser's choice."""
    key = '"left_children":['
    text = bytes(booster.save_raw("json")).decode()
    assert key in text
    with pytest.raises(ArtifactError, match="the key 'left_children' twice"):
        booster_from(text.replace(key, f"{key}1,3],{key}", 1).encode())


UNITS = (4, 2)
SHAPES = weight_shapes(3, UNITS)
RANGE = ScalerRange(features=([0.0, 1.0, 2.0], [1.0, 2.0, 3.0]), target=(5.0, 6.0))


def network_from(arrays: dict[str, np.ndarray], *, units: Any = UNITS, scalers: Any = None) -> FittedLstm:
    saved = Saved(
        name="models/lstm",
        files={WEIGHTS: pack_arrays(arrays), ".keras": b"never read", "_scalers.joblib": b"never read"},
        columns=COLUMNS,
        details={"network": {"units": units}},
        scalers={"A": RANGE} if scalers is None else scalers,
    )
    return LSTM(sequence_length=4).restore(saved)


def network() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype("<f4") for name, shape in SHAPES.items()}


def test_a_saved_network_has_the_same_weights() -> None:
    """Names and order are keras's, and every bit comes back."""
    assert list(SHAPES) == [
        *("lstm_1_kernel", "lstm_1_recurrent_kernel", "lstm_1_bias"),
        *("lstm_2_kernel", "lstm_2_recurrent_kernel", "lstm_2_bias"),
        *("next_close_kernel", "next_close_bias"),
    ]
    loaded = network_from(network(), units=list(UNITS))
    assert [array.tobytes() for array in loaded.weights] == [array.tobytes() for array in network().values()]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.update(lstm_1_bias=np.zeros(17, "f4")), r"lstm_1_bias is \(17,\), expected \(16,\)"),
        (lambda arrays: arrays.update(lstm_1_bias=np.zeros(16)), "expected 1 dimensions of <f4"),
        (lambda arrays: arrays.update(next_close_kernel=np.zeros((2, 2), "f4")), "next_close_kernel is"),
        (lambda arrays: arrays.update(lstm_1_kernel=np.zeros((4, 16), "f4")), "lstm_1_kernel is"),
        (lambda arrays: arrays.pop("next_close_bias"), "next_close_bias"),
    ],
)
def test_a_network_of_other_shapes_is_refused(change: Change, message: str) -> None:
    """Weights that do not belong to the layers and columns that the document names."""
    arrays = network()
    change(arrays)
    with pytest.raises(ArtifactError, match=rf"^models/lstm_weights\.npz is refused.*{message}"):
        network_from(arrays)


@pytest.mark.parametrize("value", [3e38, np.inf, np.nan])
def test_a_network_that_overflows_predicts_nothing(value: float) -> None:
    """Weights beyond reason give no price, and no error."""
    arrays = {name: np.full(shape, value, "<f4") for name, shape in SHAPES.items()}
    features, rows = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20)
    table = FeatureTable(
        ticker="A",
        dates=np.datetime64("2020-01-01") + rows,
        features=features,
        columns=tuple(COLUMNS),
        close=features[:, 0],
        open=features[:, 0],
        quote=np.ones(20),
        usable=np.ones(20, bool),
        max_gap_days=15,
    )
    assert np.isnan(network_from(arrays).predict(table, rows)).all()
    assert np.isfinite(network_from(network()).predict(table, rows)).sum() == 17


@pytest.mark.parametrize("units", [[], [0], [4.5], "many", None, [2**40], [1] * 1000, [8, 2], [4, 2, 2]])
def test_other_layers_in_the_document_are_refused(units: Any) -> None:
    """Sizes beyond reason, or other than those of the weights."""
    with pytest.raises(ArtifactError, match=r"^models/lstm_(metadata\.json|weights\.npz) is refused"):
        network_from(network(), units=units)


@pytest.mark.parametrize(
    "ends",
    [
        ScalerRange(features=([0.0, 1.0], [1.0, 2.0]), target=(5.0, 6.0)),
        ScalerRange(features=([0.0, 1.0, 2.0], [1.0, 2.0]), target=(5.0, 6.0)),
        ScalerRange(features=([0.0, 1.0, 9.0], [1.0, 2.0, 3.0]), target=(5.0, 6.0)),
        ScalerRange(features=([0.0, 1.0, 2.0], [1.0, 2.0, 3.0]), target=(7.0, 6.0)),
        ScalerRange(features=([0.0, 1.0, 2.0], [1.0, 2.0, float("nan")]), target=(5.0, 6.0)),
        ScalerRange(features=([0.0, 1.0, 2.0], [1.0, 2.0, float("inf")]), target=(5.0, 6.0)),
    ],
)
def test_other_ranges_of_scalers_are_refused(ends: ScalerRange) -> None:
    """A range has two ends a column, finite and in order."""
    with pytest.raises(ArtifactError, match=r"^models/lstm_metadata\.json is refused.*a scaler's range"):
        network_from(network(), scalers={"A": ends})


def test_scalers_come_back_with_the_same_bits() -> None:
    """From their range, by way of JSON, they scale new numbers exactly as before, a constant column too."""
    rows = np.random.default_rng(0).normal(size=(50, 6)) * 1e3
    rows[:, 3] = 7.0
    scaler = TickerScaler(features=MinMaxScaler().fit(rows), target=MinMaxScaler().fit(rows[:, :1]))
    features, target = json.loads(json.dumps([scaler.ends.features, scaler.ends.target]))
    loaded = restore_scaler(ScalerRange(features=tuple(features), target=tuple(target)), 6)
    new = np.random.default_rng(1).normal(size=(9, 6)) * 2e3
    assert loaded.scale_features(new).tobytes() == scaler.scale_features(new).tobytes()
    assert loaded.price(new[:, 0].astype("f4")).tobytes() == scaler.price(new[:, 0].astype("f4")).tobytes()


def test_every_fitted_model_is_used_alike() -> None:
    """What is loaded is what fitting gives."""
    assert isinstance(forest_from(PACKED), Fitted)
    assert isinstance(network_from(network()), Fitted)


@pytest.mark.parametrize(("splits", "accepted"), [(1_000, True), (1_001, False), (60_000, False)])
def test_a_booster_is_not_deeper_than_native_code_can_follow(splits: int, accepted: bool) -> None:
    """XGBoost follows a tree by recursion: a chain of 60,000 splits makes it crash."""
    nodes = 2 * splits + 1
    left, right, parents = ([-1] * nodes, [-1] * nodes, [2**31 - 1] * nodes)
    for node in range(0, nodes - 1, 2):
        left[node], right[node] = node + 1, node + 2
        parents[node + 1] = parents[node + 2] = node
    zeros = [0] * nodes
    names = "base_weights default_left loss_changes split_conditions split_indices split_type sum_hessian"
    tree = {
        **dict.fromkeys(names.split(), zeros),
        **{f"categories{part}": [] for part in ("", "_nodes", "_segments", "_sizes")},
        "id": 0,
        "left_children": left,
        "right_children": right,
        "parents": parents,
        "tree_param": {"num_deleted": "0", "num_feature": "1", "num_nodes": str(nodes), "size_leaf_vector": "1"},
    }
    model = {
        "gbtree_model_param": {"num_parallel_tree": "1", "num_trees": "1"},
        "iteration_indptr": [0, 1],
        "tree_info": [0],
        "trees": [tree],
    }
    shape = {"base_score": "5E-1", "boost_from_average": "1", "num_class": "0", "num_feature": "1", "num_target": "1"}
    learner = {
        "attributes": {},
        "feature_names": ["a"],
        "feature_types": ["float"],
        "gradient_booster": {"model": model, "name": "gbtree"},
        "learner_model_param": shape,
        "objective": {"name": "binary:logistic", "reg_loss_param": {"scale_pos_weight": "1"}},
    }
    content = json.dumps({"learner": learner, "version": [3, 0, 0]}).encode()
    if accepted:
        assert load_booster(content, ["a"]).inplace_predict(np.zeros((1, 1))).shape == (1,)
    else:
        with pytest.raises(ValueError, match="splits deep, more than 1000"):
            clean_booster(content, ["a"])
