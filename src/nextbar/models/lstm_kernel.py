"""The stacked LSTM's epoch as one compiled JAX program. It takes and returns arrays and does not use keras.

Same mathematics as ``keras.layers.LSTM`` and ``keras.optimizers.Adam``, arranged for speed:

- Windows are gathered by index inside the program, a batch at a time, steps first: [steps, batch, columns].
- The input projection of all steps is one product; so are a layer's weight gradients, after the reversed scan.
- A sigmoid is ``(1 + tanh(z / 2)) / 2``: one tanh over the contiguous block of all four gates is vectorised, four
  activations over slices are not, and XLA would evaluate them twice, for the cell and for the output.
- Batches run in slices, which stay in a CPU's cache; gradients of the slices add up to the gradient of the batch.
- Counts are arguments and arrays come padded to `padded_size`: folds of different size share a compiled program.
- With several JAX devices each takes an equal part of every batch; gradients are summed over devices.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache, partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from nextbar.datasets.sequences import View
from nextbar.models.reproducibility import cores
from nextbar.types import Float32Array, IntArray

# Read when JAX is imported; what the user or the engine has set stays. XLA runs products as small as an LSTM step's on
# one thread: a CPU device per core is what puts all cores to work on a batch.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", os.environ.get("NPROC") or str(cores()))

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Array: TypeAlias = jax.Array
Weights: TypeAlias = tuple[Array, ...]
"""Kernel, recurrent kernel and bias of each LSTM layer, then kernel and bias of the dense one: keras's own order."""

SLICE = 8  # windows of one CPU device that run at once: their activations (2 MB) stay near its core
ACCELERATED = 1024  # the same of an accelerator, which large products keep busy
UNROLLED = 10  # steps of a scan that an accelerator runs in one turn of the loop
MIN_SHARE = 16  # windows of a batch that are worth a device of their own
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7  # keras's defaults of Adam


class Rows(NamedTuple):
    """What batches are gathered from, padded by `pad_rows`: features [rows, columns], target [rows], and the view."""

    features: Array | Float32Array
    target: Array | Float32Array
    view: View | None = None


class Fit(NamedTuple):
    """Weights in training with Adam's state.

    Attributes:
        momentum: Running mean of gradients, like ``weights``.
        velocity: Running mean of squared gradients, like ``weights``.
    """

    weights: Weights
    momentum: Weights
    velocity: Weights
    step: Array


def padded_size(size: int, least: int = 1024) -> int:
    """The least power of four not below ``size`` and ``least``: padding costs little, another compilation 3 s."""
    bits = (max(size, least) - 1).bit_length()
    return 1 << (bits + bits % 2)


def pad_rows(rows: Float32Array, size: int | None = None) -> Float32Array:
    """Rows with zeros behind them up to a size, by default the padded one. No window ends there."""
    extra = (size or padded_size(len(rows))) - len(rows)
    return np.pad(rows, [(0, extra)] + [(0, 0)] * (rows.ndim - 1))


def padded(features: Float32Array, target: Float32Array, view: View | None) -> Rows:
    """Rows with all their arrays padded."""
    return Rows(pad_rows(features), pad_rows(target), None if view is None else View(*map(pad_rows, view)))


def pad_batches(ends: IntArray, batch_size: int, batches: int | None = None) -> npt.NDArray[np.int32]:
    """[padded batches, batch_size] window ends in the order given; the first fills the places left over."""
    batches = batches or padded_size(-(-len(ends) // batch_size))
    padded = np.full(batches * batch_size, ends[0], np.int32)
    padded[: len(ends)] = ends
    return padded.reshape(batches, batch_size)


def devices_for(batch_size: int) -> int:
    """How many of JAX's devices share a batch: the most that divide it and get `MIN_SHARE` windows each, or one."""
    most = max(1, min(len(jax.devices()), batch_size // MIN_SHARE))
    return next(count for count in range(most, 0, -1) if batch_size % count == 0)


def compiler_options(backend: str, flags: str) -> dict[str, bool | int]:
    """Options of XLA for a GPU, except those that the user's XLA_FLAGS name.

    Without the first, XLA times kernels and takes the fastest, so that two processes get different bits. Without the
    second it compiles on one thread, because a worker's own threads are limited: 46 s for 70 networks, and not 6.
    """
    options = {"xla_gpu_deterministic_ops": True, "xla_gpu_force_compilation_parallelism": cores()}
    return {name: value for name, value in options.items() if backend == "gpu" and name not in flags}


def compiled(function: Any, **kinds: Any) -> Any:
    """`jax.jit` with the options of the device that JAX runs on."""
    options = compiler_options(jax.default_backend(), os.environ.get("XLA_FLAGS", ""))
    return jax.jit(function, compiler_options=options, **kinds)


def slice_size() -> int:
    """Windows that one device runs at once, if a batch can be cut so."""
    return SLICE if jax.default_backend() == "cpu" else ACCELERATED


def _scan(step: Any, carry: Any, steps: Any, *, reverse: bool = False) -> tuple[Any, Any]:
    """`lax.scan` over the steps of a window, with several steps in one turn where each turn costs launches."""
    turns = 1 if jax.default_backend() == "cpu" else UNROLLED
    done: tuple[Any, Any] = lax.scan(step, carry, steps, reverse=reverse, unroll=turns)
    return done


def start(weights: Sequence[Float32Array]) -> Fit:
    """A fit that has made no update yet. The arrays are copied, because a fit's buffers are given away."""
    copies, momentum, velocity = (tuple(jnp.array(array * keep) for array in weights) for keep in (1, 0, 0))
    return Fit(copies, momentum, velocity, jnp.zeros((), jnp.int32))


def _gate_block(units: int) -> tuple[Float32Array, Float32Array]:
    """Slope and lower bound, each [4 * units], of the gates i, f, g, o: three sigmoids, one tanh."""
    slope = np.array([0.5, 0.5, 1.0, 0.5], np.float32)
    lowest = np.array([0.0, 0.0, -1.0, 0.0], np.float32)
    return np.repeat(slope, units), np.repeat(lowest, units)


class _Trace(NamedTuple):
    """What the way back needs of each step: gates [steps, batch, 4 * units], the others [steps, batch, units]."""

    gates: Array
    cell_before: Array
    tanh_cell: Array
    hidden: Array


def _forward(inputs: Array, kernel: Array, recurrent: Array, bias: Array) -> _Trace:
    """Hochreiter & Schmidhuber (1997) with forget gates (Gers et al. 2000), over [steps, batch, columns]."""
    units = recurrent.shape[0]
    slope, _ = _gate_block(units)

    def step(carry: tuple[Array, Array], projected: Array) -> tuple[tuple[Array, Array], _Trace]:
        hidden, cell_before = carry
        gates = jnp.tanh((projected + hidden @ recurrent) * slope) * slope + (1 - slope)
        i, f, g, o = jnp.split(gates, 4, axis=1)
        cell = f * cell_before + i * g
        tanh_cell = jnp.tanh(cell)
        hidden = o * tanh_cell
        return (hidden, cell), _Trace(gates, cell_before, tanh_cell, hidden)

    zeros = jnp.zeros((inputs.shape[1], units), inputs.dtype)
    trace: _Trace = _scan(step, (zeros, zeros), _product(inputs, kernel) + bias)[1]
    return trace


def _product(steps: Array, matrix: Array) -> Array:
    """[steps, batch, n] times [n, m] as one product of two matrices."""
    return (steps.reshape(-1, steps.shape[2]) @ matrix).reshape(*steps.shape[:2], -1)


def _backward(trace: _Trace, recurrent: Array, hidden_grad: Array) -> Array:
    """Gradient at the gates' inputs, [steps, batch, 4 * units], from the gradient at the hidden states."""
    slope_back = lax.optimization_barrier(recurrent.T)  # transposed once, not in every step
    _, lowest = _gate_block(recurrent.shape[0])

    def step(carry: tuple[Array, Array], now: tuple[_Trace, Array]) -> tuple[tuple[Array, Array], Array]:
        (later_hidden, later_cell), (at, given) = carry, now
        i, f, g, o = jnp.split(at.gates, 4, axis=1)
        hidden = given + later_hidden
        cell = lax.optimization_barrier(later_cell + hidden * o * (1 - at.tanh_cell**2))
        # Behind the barriers a concatenation is a plain copy, and the product of the blocks one vectorised loop.
        partner = lax.optimization_barrier(jnp.concatenate([g, at.cell_before, i, at.tanh_cell], axis=1))
        outer = lax.optimization_barrier(jnp.concatenate([cell, cell, cell, hidden], axis=1))
        gate_grad = outer * partner * (at.gates - lowest) * (1 - at.gates)
        return (gate_grad @ slope_back, cell * f), gate_grad

    zeros = jnp.zeros_like(hidden_grad[0])
    gate_grads: Array = _scan(step, (zeros, zeros), (trace, hidden_grad), reverse=True)[1]
    return gate_grads


@jax.custom_vjp  # type: ignore[untyped-decorator]
def lstm_layer(inputs: Array, kernel: Array, recurrent: Array, bias: Array) -> Array:
    """Hidden states [steps, batch, units] of one layer over inputs [steps, batch, columns]."""
    return _forward(inputs, kernel, recurrent, bias).hidden


def _layer_forward(
    inputs: Array, kernel: Array, recurrent: Array, bias: Array
) -> tuple[Array, tuple[Array, Array, Array, _Trace]]:
    trace = _forward(inputs, kernel, recurrent, bias)
    return trace.hidden, (inputs, kernel, recurrent, trace)


def _layer_backward(saved: tuple[Array, Array, Array, _Trace], hidden_grad: Array) -> tuple[Array, Array, Array, Array]:
    inputs, kernel, recurrent, trace = saved
    gate_grads = _backward(trace, recurrent, hidden_grad)
    flat = gate_grads.reshape(-1, gate_grads.shape[2])
    hidden_before = jnp.concatenate([jnp.zeros_like(trace.hidden[:1]), trace.hidden[:-1]])
    return (
        _product(gate_grads, kernel.T),
        inputs.reshape(-1, inputs.shape[2]).T @ flat,
        hidden_before.reshape(-1, recurrent.shape[0]).T @ flat,
        flat.sum(axis=0),
    )


lstm_layer.defvjp(_layer_forward, _layer_backward)


def network(weights: Weights, inputs: Array) -> Array:
    """Predictions [batch] for inputs [steps, batch, columns]."""
    *layers, dense, offset = weights
    hidden = inputs
    for at in range(0, len(layers), 3):
        hidden = lstm_layer(hidden, *layers[at : at + 3])
    return (hidden[-1] @ dense + offset)[:, 0]


def _gather(rows: Rows, ends: Array, length: int) -> Array:
    """[length, batch, columns]: the windows that end at ``ends``."""
    steps = jnp.arange(1 - length, 1)
    windows = rows.features[ends[None, :] + steps[:, None]]
    return windows if rows.view is None else (windows - rows.view.shift[ends]) * rows.view.factor[ends]


def _squared_error(weights: Weights, rows: Rows, ends: Array, share: Array, length: int) -> Array:
    """Sum over windows of squared error times ``share`` [batch]."""
    return jnp.sum((network(weights, _gather(rows, ends, length)) - rows.target[ends]) ** 2 * share)


def _loss_and_gradient(weights: Weights, rows: Rows, ends: Array, share: Array, length: int) -> tuple[Array, Weights]:
    """Value and gradient of `_squared_error`, slice by slice."""
    width = len(ends) if len(ends) % slice_size() else slice_size()
    evaluate = jax.value_and_grad(_squared_error)

    def add(total: tuple[Array, Weights], part: tuple[Array, Array]) -> tuple[tuple[Array, Weights], None]:
        return jax.tree.map(jnp.add, total, evaluate(weights, rows, *part, length)), None

    if width == len(ends):
        whole: tuple[Array, Weights] = evaluate(weights, rows, ends, share, length)
        return whole
    nothing = jax.tree.map(jnp.zeros_like, (jnp.float32(0), weights))
    total: tuple[Array, Weights] = lax.scan(add, nothing, (ends.reshape(-1, width), share.reshape(-1, width)))[0]
    return total


def _adam(fit: Fit, gradient: Weights, learning_rate: Array) -> Fit:
    """One update of Kingma & Ba (2015), algorithm 1, in the order of operations of ``keras.optimizers.Adam``."""
    step = fit.step + 1
    count = step.astype(jnp.float32)
    rate = learning_rate * jnp.sqrt(1 - BETA_2**count) / (1 - BETA_1**count)
    momentum = jax.tree.map(lambda m, g: m + (g - m) * (1 - BETA_1), fit.momentum, gradient)
    velocity = jax.tree.map(lambda v, g: v + (g * g - v) * (1 - BETA_2), fit.velocity, gradient)
    weights = jax.tree.map(lambda w, m, v: w - rate * m / (jnp.sqrt(v) + EPSILON), fit.weights, momentum, velocity)
    return Fit(weights, momentum, velocity, step)


class Plan(NamedTuple):
    """What an epoch does: window ends from `pad_batches`, how many windows of them count, and Adam's learning rate."""

    batches: Array
    windows: Array
    learning_rate: Array


def _epoch(devices: int, length: int, fit: Fit, rows: Rows, plan: Plan) -> tuple[Fit, Array]:
    """All updates of one epoch, on this device's columns of the batches; the sum of squared errors on the way."""
    width = plan.batches.shape[1]
    size = width * devices
    first = lax.axis_index("batch") * width

    def update(at: Array, state: tuple[Fit, Array]) -> tuple[Fit, Array]:
        fit, total = state
        used = jnp.minimum(plan.windows - at * size, size).astype(jnp.float32)
        share = (first + jnp.arange(width) < used) / used
        result = _loss_and_gradient(fit.weights, rows, plan.batches[at], share, length)
        if devices > 1:
            flat, restore = ravel_pytree(result)  # one exchange per update, not one per weight
            result = restore(lax.psum(flat, "batch"))
        loss, gradient = result
        return _adam(fit, gradient, plan.learning_rate), total + loss * used

    done: tuple[Fit, Array] = lax.fori_loop(0, -(-plan.windows // size), update, (fit, jnp.float32(0)))
    return done


class Program(NamedTuple):
    """A jitted epoch (fit, rows, plan) → (fit, total), and where its plan and its other arguments belong.

    Arguments that lie elsewhere would compile it again.
    """

    run: Any
    whole: NamedSharding
    plan: Plan


@cache
def program_of(devices: int, length: int, *, networks: bool = False) -> Program:
    """`_epoch` on so many devices, made once per process: every training in it shares the compiled program.

    With ``networks`` every argument has one more axis in front, and networks are trained side by side.
    """
    mesh = Mesh(np.array(jax.devices()[:devices]), ("batch",))
    whole, columns = PartitionSpec(), PartitionSpec(*[None] * networks, None, "batch")
    plan = Plan(columns, whole, whole)
    epoch = partial(_epoch, devices, length)
    if networks:
        epoch = jax.vmap(epoch)
    sharded = jax.shard_map(epoch, mesh=mesh, in_specs=(whole, whole, plan), out_specs=whole, check_vma=False)
    placed = Plan(*(NamedSharding(mesh, spec) for spec in plan))
    return Program(compiled(sharded, donate_argnums=0), placed.windows, placed)


def run_epoch(
    fit: Fit, rows: Rows, ends: IntArray, *, batch_size: int, length: int, learning_rate: float
) -> tuple[Fit, float]:
    """Train one pass over the windows in the order of ``ends``; return the state after it and the mean squared error.

    The buffers of ``fit`` are reused. A short last batch counts with its own mean, as in ``keras.fit``; each window's
    error is that at the weights its batch met.
    """
    program = program_of(devices_for(batch_size), length)
    plan = Plan(pad_batches(ends, batch_size), np.int32(len(ends)), np.float32(learning_rate))
    fit, rows = jax.device_put((fit, rows), program.whole)
    fit, total = program.run(fit, rows, jax.device_put(plan, program.plan))
    return fit, float(total) / len(ends)


def predict_batches(weights: Weights, rows: Rows, batches: Array, count: Array, length: int) -> Array:
    """[padded batches, batch] predictions of the first ``count`` batches, zero behind them."""

    def fill(at: Array, out: Array) -> Array:
        return out.at[at].set(network(weights, _gather(rows, batches[at], length)))

    filled: Array = lax.fori_loop(0, count, fill, jnp.zeros(batches.shape, jnp.float32))
    return filled


@cache
def _predict() -> Any:
    return compiled(predict_batches, static_argnames="length")


def predict_windows(
    weights: Sequence[Float32Array], features: Float32Array, ends: IntArray, length: int, view: View | None = None
) -> Float32Array:
    """[windows] predictions, in slices of one size: the other windows do not change the bits of one."""
    width = slice_size()
    count = -(-len(ends) // width)
    batches = pad_batches(ends, width, padded_size(count, 1024 * SLICE // width))
    rows = padded(features, np.empty(0, np.float32), view)
    predictions = _predict()(tuple(weights), rows, batches, np.int32(count), length=length)
    return np.asarray(predictions).reshape(-1)[: len(ends)]
