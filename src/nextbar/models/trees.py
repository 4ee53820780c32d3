"""Saved trees from strangers: scikit-learn and XGBoost follow a tree in native code and trust every number in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


def check_tree(left: npt.ArrayLike, right: npt.ArrayLike, feature: npt.ArrayLike, columns: int) -> None:
    """Refuse a tree that leads outside itself, backwards, or to a column that there is not (measured: a crash).

    Args:
        left: [nodes] number of the left child, -1 for a leaf.
        right: [nodes] likewise.
        feature: [nodes] column that an inner node asks for.
        columns: How many columns there are.

    Raises:
        ValueError: The tree is not sound.
    """
    lefts, rights, features = (np.asarray(array) for array in (left, right, feature))
    here = np.arange(len(lefts))
    same = lefts.shape == rights.shape == features.shape == here.shape and len(here) > 0
    if not same or not all(array.dtype.kind in "iu" for array in (lefts, rights, features)):
        raise ValueError("a tree's arrays are not whole numbers, one per node")
    inner = lefts != -1
    children = np.stack([lefts, rights])[:, inner]
    onwards = (children > here[inner]) & (children < len(here))
    known = (features[inner] >= 0) & (features[inner] < columns)
    if not (onwards.all() and known.all() and (rights[~inner] == -1).all()):
        raise ValueError("a tree leads outside itself or to an unknown column")


def check_booster(document: Mapping[str, Any], columns: Sequence[str]) -> None:
    """Refuse an XGBoost model that is not one group of sound, numerical, binary trees over these columns.

    That a tree's arrays are of one length XGBoost checks itself.

    Args:
        document: The model's JSON.
        columns: Names of the feature columns, in order.

    Raises:
        Exception: It is not, or lacks a part.
    """
    learner = document["learner"]
    model, shape = learner["gradient_booster"]["model"], learner["learner_model_param"]
    count, trees = len(columns), model["trees"]
    expected = {
        "name": "gbtree",
        "objective": "binary:logistic",
        "features": str(count),
        "classes": "0",
        "targets": "1",
    }
    found = {
        "name": learner["gradient_booster"]["name"],
        "objective": learner["objective"]["name"],
        "features": shape["num_feature"],
        "classes": shape["num_class"],
        "targets": shape["num_target"],
    }
    if found != expected or learner["feature_names"] != list(columns):
        raise ValueError(f"expected {expected} with the columns {', '.join(columns)}, found {found}")
    if model["tree_info"] != [0] * len(trees) or model["iteration_indptr"] != list(range(len(trees) + 1)):
        raise ValueError("its trees are not one group, one per round")
    for tree in trees:
        check_tree(tree["left_children"], tree["right_children"], tree["split_indices"], count)
        if any(tree["split_type"]) or tree["categories"]:
            raise ValueError("a tree splits on categories")
