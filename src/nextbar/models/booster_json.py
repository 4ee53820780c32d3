"""Read an XGBoost model that may come from anyone, and write anew what of it is used.

XGBoost follows trees in native code and trusts every number in them (measured: crashes). What it gets to read are the
fields below, with the types and values that stand here, and nothing else that a file holds.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
import numpy as np
from msgspec import Meta, Struct

from nextbar.models.weights import tree_depths
from nextbar.untrusted import strict_json

DEEPEST = 1_000
"""Splits from a root to a leaf; XGBoost follows them by recursion, which 60,000 make crash (measured)."""
ROOT = 2**31 - 1
"""Parent of a root."""
Number: TypeAlias = Annotated[float, Meta(gt=-3.4e38, lt=3.4e38)]
Whole: TypeAlias = Annotated[int, Meta(ge=-1, le=ROOT)]
Count: TypeAlias = Annotated[str, Meta(pattern=r"^(0|[1-9]\d{0,8})\Z")]
Empty: TypeAlias = Annotated[list[Any], Meta(max_length=0)]
_PRIOR = re.compile(r"(\[)?(\d(?:\.\d+)?(?:E-?\d{1,2})?)(?(1)\])")
PER_NODE = (
    *("left_children", "right_children", "parents", "split_indices", "split_type", "default_left"),
    *("split_conditions", "base_weights", "loss_changes", "sum_hessian"),
)


class _Part(Struct, omit_defaults=True):
    """A part of the file. What it holds besides these fields is dropped."""


class _TreeParam(_Part):
    num_deleted: Literal["0"]
    num_feature: Count
    num_nodes: Count
    size_leaf_vector: Literal["1"]  # a leaf holds one number


class _Tree(_Part):
    base_weights: list[Number]
    categories: Empty
    categories_nodes: Empty
    categories_segments: Empty
    categories_sizes: Empty
    default_left: list[Annotated[int, Meta(ge=0, le=1)]]
    id: Whole
    left_children: list[Whole]
    loss_changes: list[Number]
    parents: list[Whole]
    right_children: list[Whole]
    split_conditions: list[Number]  # of a leaf, its value
    split_indices: list[Whole]
    split_type: list[Literal[0]]  # numerical
    sum_hessian: list[Number]
    tree_param: _TreeParam


class _Categories(_Part):
    enc: Empty
    feature_segments: Empty
    sorted_idx: Empty


class _ForestParam(_Part):
    num_parallel_tree: Literal["1"]
    num_trees: Count


class _Forest(_Part):
    gbtree_model_param: _ForestParam
    iteration_indptr: list[Whole]
    tree_info: list[Literal[0]]
    trees: Annotated[list[_Tree], Meta(min_length=1)]
    cats: _Categories | None = None


class _GradientBooster(_Part):
    model: _Forest
    name: Literal["gbtree"]


class _LearnerParam(_Part):
    base_score: str  # what the trees are added to
    boost_from_average: Literal["0", "1"]
    num_class: Literal["0"]
    num_feature: Count
    num_target: Literal["1"]


class _LossParam(_Part):
    scale_pos_weight: Annotated[str, Meta(pattern=r"^\d{1,9}(\.\d{1,20})?(E-?\d{1,2})?\Z")]


class _Objective(_Part):
    name: Literal["binary:logistic"]
    reg_loss_param: _LossParam


class _Learner(_Part):
    attributes: dict[str, str]  # nothing reads them
    feature_names: list[str]
    feature_types: list[Literal["float", "q"]]
    gradient_booster: _GradientBooster
    learner_model_param: _LearnerParam
    objective: _Objective


class _Booster(_Part):
    learner: _Learner
    version: Annotated[list[Annotated[int, Meta(ge=0, le=999)]], Meta(min_length=3, max_length=3)]


def clean_booster(content: bytes, columns: Sequence[str]) -> bytes:
    """Return the JSON of binary trees over these columns, written anew; call it inside `refusing`."""
    booster = msgspec.convert(strict_json(content), _Booster)
    learner = booster.learner
    model, shape = learner.gradient_booster.model, learner.learner_model_param
    typed = len(learner.feature_types) in (0, len(columns))
    if learner.feature_names != list(columns) or shape.num_feature != str(len(columns)) or not typed:
        raise ValueError(f"expected trees over the columns {', '.join(columns)}")
    prior = _PRIOR.fullmatch(shape.base_score)
    if prior is None or not 0 <= np.float32(prior[2]) <= 1:  # 0 where train never rose
        raise ValueError(f"base_score expects a probability, got {shape.base_score[:40]!r}")
    rounds = list(range(len(model.trees)))
    sizes = (model.gbtree_model_param.num_trees, model.iteration_indptr, len(model.tree_info))
    if sizes != (str(len(rounds)), [*rounds, len(rounds)], len(rounds)) or [tree.id for tree in model.trees] != rounds:
        raise ValueError("its trees are not one per round")
    for tree in model.trees:
        _check_tree(tree, len(columns))
    learner.attributes.clear()
    return msgspec.json.encode(booster)


def _check_tree(tree: _Tree, columns: int) -> None:
    """Refuse a tree whose parts have different lengths, that leads astray, or that splits on an unknown column."""
    nodes, sizes = len(tree.left_children), {len(getattr(tree, name)) for name in PER_NODE}
    if sizes != {nodes} or (tree.tree_param.num_nodes, tree.tree_param.num_feature) != (str(nodes), str(columns)):
        raise ValueError(f"tree {tree.id}: its parts are not of one length, over {columns} columns")
    left, right, parents = (np.array(part) for part in (tree.left_children, tree.right_children, tree.parents))
    try:
        depth = int(tree_depths(left, right, np.array([0, nodes])).max())
    except ValueError as error:
        raise ValueError(f"tree {tree.id}: {error}") from error
    if depth > DEEPEST:
        raise ValueError(f"tree {tree.id} is {depth} splits deep, more than {DEEPEST}")
    inner = np.flatnonzero(left != -1)
    expected = np.full(nodes, ROOT)
    expected[left[inner]] = expected[right[inner]] = inner
    if (parents != expected).any():
        raise ValueError(f"tree {tree.id}: parents are not those of its children")
    if not set(tree.split_indices) <= set(range(columns)):
        raise ValueError(f"tree {tree.id} splits on a column that does not exist")
