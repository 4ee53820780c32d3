"""Train many networks in one program: an accelerator is idle with the small batches of one.

Each network has its own rows, weights, order of windows and learning rate. `jax.vmap` runs them side by side, padded to
a common size. One whose validation loss no longer gets better is frozen: from then on its epochs hold no window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np
import numpy.typing as npt

from nextbar.datasets.sequences import Sequences, View
from nextbar.models.lstm import Course, check_windows, epoch_orders, first_weights
from nextbar.models.lstm_fitted import LstmSettings, TrainedLstm, weight_shapes
from nextbar.models.lstm_kernel import (
    Fit,
    Plan,
    Rows,
    compiled,
    pad_batches,
    pad_rows,
    padded_size,
    predict_batches,
    program_of,
    start,
)
from nextbar.types import Float32Array, IntArray

USABLE = 0.9
"""Share of a device's memory that a program may take; the rest is for what the allocator cannot use."""


class Network(NamedTuple):
    """A network to train: its windows and settings."""

    train: Sequences
    val: Sequences
    settings: LstmSettings


Losses = Callable[[Sequence[Network], Any], list[float]]
"""Gives the validation loss of each network from the stacked weights."""
OnEpoch = Callable[[int, int, int], None]
"""Receives after each epoch its number from 0, how many networks still train, and how many there are."""


@dataclass(frozen=True, kw_only=True)
class Grouped:
    """Trained networks, and how many were trained at once: another number gives other bits."""

    trained: list[TrainedLstm]
    width: int


def train_together(
    networks: Sequence[Network],
    *,
    width: int | None = None,
    memory: int | None = None,
    losses: Losses | None = None,
    on_epoch: OnEpoch = lambda _epoch, _going, _all: None,
) -> Grouped:
    """Train networks side by side, each with early stopping of its own, as `train_lstm` trains one.

    Args:
        networks: The networks; length of window, columns, batch size and number of epochs are those of all.
        width: How many at once; None: as many as fit the memory.
        memory: Bytes that a program may take; None: what the device says, or no limit where it does not say.
        losses: Gives validation losses; None: the mean squared errors on validation.
        on_epoch: Told about each epoch.
    """
    for one in networks:
        check_windows(one.train, one.val)
    width = width or _width(networks, usable_memory() if memory is None else memory)
    parts = [networks[at : at + width] for at in range(0, len(networks), width)]
    trained = [one for part in parts for one in _train_part(part, width, losses, on_epoch)]
    return Grouped(trained=trained, width=width)


def device_name() -> str:
    """Name of the device that JAX runs on."""
    return str(jax.devices()[0].device_kind)


def usable_memory() -> int | None:
    """Bytes of the device that a program may take; None where the device does not say, as a CPU does not."""
    limit = (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
    return None if limit is None else int(USABLE * limit)


def _width(networks: Sequence[Network], memory: int | None) -> int:
    """Return how many networks fit the memory: measured on the compiled program, not guessed."""
    width = len(networks)
    while memory is not None and width > 1 and (needed := program_bytes(networks, width)) > memory:
        width = max(1, min(width - 1, int(width * memory / needed)))
    parts = -(-len(networks) // width)
    return -(-len(networks) // parts)  # parts of about the same size


def program_bytes(networks: Sequence[Network], width: int) -> int:
    """Return the bytes that training so many networks at once takes, by XLA's own account of the compiled program."""
    facts = _compiled(_shape(networks, width)).memory_analysis()
    taken = facts.argument_size_in_bytes + facts.output_size_in_bytes + facts.temp_size_in_bytes
    return int(taken - facts.alias_size_in_bytes)


class _Shape(NamedTuple):
    """All that a compiled program depends on."""

    width: int
    rows: int
    columns: int
    batches: int
    batch_size: int
    length: int
    units: tuple[int, ...]
    view: bool


def _shape(networks: Sequence[Network], width: int) -> _Shape:
    first = networks[0]
    size = first.settings.batch_size
    return _Shape(
        width=width,
        rows=max(len(one.train.features) for one in networks),
        columns=first.train.features.shape[1],
        batches=max(padded_size(-(-len(one.train.ends) // size)) for one in networks),
        batch_size=size,
        length=first.train.length,
        units=first.settings.units,
        view=first.train.view is not None,
    )


@cache
def _compiled(shape: _Shape) -> Any:
    """Compile an epoch of networks side by side, once per shape."""
    program = program_of(1, shape.length, networks=True)

    def array(*sizes: int, dtype: Any = np.float32, place: Any = program.whole) -> Any:
        return jax.ShapeDtypeStruct((shape.width, *sizes), dtype, sharding=place)

    weights = tuple(array(*sizes) for sizes in weight_shapes(shape.columns, shape.units).values())
    table = array(shape.rows, shape.columns)
    rows = Rows(table, array(shape.rows), View(table, table) if shape.view else None)
    batches = array(shape.batches, shape.batch_size, dtype=np.int32, place=program.plan.batches)
    plan = Plan(batches, array(dtype=np.int32), array())
    return program.run.lower(Fit(weights, weights, weights, array(dtype=np.int32)), rows, plan).compile()


def _train_part(networks: Sequence[Network], width: int, losses: Losses | None, on_epoch: OnEpoch) -> list[TrainedLstm]:
    """Train as many networks as one program holds; places that are left over hold the first one and no window."""
    shape, filled = _shape(networks, width), [*networks, *[networks[0]] * (width - len(networks))]
    program, run = program_of(1, shape.length, networks=True), _compiled(shape)
    courses = [Course(one.settings.patience) for one in networks]
    begin = _start(networks, width), _stack([one.train for one in filled], shape.rows)
    fit, rows = jax.device_put(begin, program.whole)
    judge = partial(losses, networks) if losses else _Validation(networks, filled, shape, rows)
    orders = [epoch_orders(one.train.ends, one.settings.seed) for one in networks]
    for epoch in range(networks[0].settings.epochs):
        going = [at for at, course in enumerate(courses) if not course.stopped]
        if not going:
            break
        plan = _plan(filled, shape, {at: orders[at]() for at in going})
        fit, totals = run(fit, rows, jax.device_put(plan, program.plan))
        training, validation = np.asarray(totals, np.float64), judge(fit.weights)
        weights = [np.array(array) for array in fit.weights]
        for at in going:
            loss = float(training[at]) / len(networks[at].train.ends)
            courses[at].add([array[at].copy() for array in weights], loss, validation[at])
        on_epoch(epoch, sum(not course.stopped for course in courses), len(courses))
    return [course.trained() for course in courses]


def _start(networks: Sequence[Network], width: int) -> Fit:
    """First weights of all networks, stacked."""
    drawn = [first_weights(one.train.features.shape[1], one.train.length, one.settings) for one in networks]
    drawn += [drawn[0]] * (width - len(networks))
    fit = start([np.stack(parts) for parts in zip(*drawn, strict=True)])
    return fit._replace(step=jax.numpy.zeros(width, jax.numpy.int32))


def _stack(parts: Sequence[Sequences], size: int) -> Rows:
    """Rows of all networks, padded and stacked."""

    def stack(arrays: Iterable[Float32Array]) -> Float32Array:
        return np.stack([pad_rows(array, size) for array in arrays])

    views = [part.view for part in parts if part.view is not None]
    view = View(*(stack(arrays) for arrays in zip(*views, strict=True))) if views else None
    return Rows(stack(part.features for part in parts), stack(part.target for part in parts), view)


def _plan(filled: Sequence[Network], shape: _Shape, orders: Mapping[int, IntArray]) -> Plan:
    """What an epoch does: a network that has stopped, or is none, has no window."""
    batches: npt.NDArray[np.int32] = np.zeros((shape.width, shape.batches, shape.batch_size), np.int32)
    for at, ends in orders.items():
        batches[at] = pad_batches(ends, shape.batch_size, shape.batches)
    windows = np.array([len(orders.get(at, ())) for at in range(shape.width)], np.int32)
    return Plan(batches, windows, np.array([one.settings.learning_rate for one in filled], np.float32))


@cache
def _predict_each(length: int) -> Any:
    """Return a program that gives [networks, padded batches, batch] predictions of each network for its own windows."""
    return compiled(jax.vmap(partial(predict_batches, length=length)))


class _Validation:
    """Validation of networks side by side, in slices of the batch size: their memory is below that of a step.

    Args:
        rows: Rows of train on the device, which hold those of validation, too, where the networks' splits share them.
    """

    def __init__(self, networks: Sequence[Network], filled: Sequence[Network], shape: _Shape, rows: Rows) -> None:
        self._networks, self._length, self._rows = networks, shape.length, rows
        if any(one.val.features is not one.train.features for one in networks):
            parts = [one.val for one in filled]
            self._rows = _stack(parts, max(len(part.features) for part in parts))
        counts = [-(-len(one.val.ends) // shape.batch_size) for one in networks]
        padded = padded_size(max(counts))
        self._batches = np.zeros((shape.width, padded, shape.batch_size), np.int32)
        for at, one in enumerate(networks):
            self._batches[at] = pad_batches(one.val.ends, shape.batch_size, padded)
        self._counts = np.array(counts + [0] * (shape.width - len(counts)), np.int32)

    def __call__(self, weights: Any) -> list[float]:
        """Mean squared error of each network."""
        predicted = np.asarray(_predict_each(self._length)(weights, self._rows, self._batches, self._counts))
        return [
            float(np.mean((predicted[at].reshape(-1)[: len(ends)].astype(np.float64) - target[ends]) ** 2))
            for at, (ends, target) in enumerate((one.val.ends, one.val.target) for one in self._networks)
        ]
