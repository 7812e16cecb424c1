"""A network as the pure functions that the training loop uses."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from tsam_jax.train.metrics import Loss

Model = nnx.Module | Callable[[nnx.Rngs], nnx.Module]
"""A model, whose weights are where training starts, or a function that makes one."""


class Batch(NamedTuple):
    """Examples: inputs, any pytree with a leading axis (n, ...), and labels (n,)."""

    inputs: Any
    labels: Any


class Network(NamedTuple):
    """A network as pure functions.

    Attributes:
      init: key -> (params, rest); `rest` is the other state: BatchNorm statistics, dropout keys.
      augment: (key, inputs) -> inputs of a training step; the same for all probes of the step.
      loss: (params, batch of augmented inputs, rest) -> (mean loss, rest), in training mode.
      predict: (params, inputs, rest) -> outputs, shape (n, outputs), float32; in evaluation mode.
      criterion: (outputs, labels) -> the mean loss, shape ().
      merge: (params, rest) -> the flax model, in evaluation mode.
      recalibrate: (params, rest, batches of inputs with a leading axis) -> rest with the BatchNorm
        statistics averaged over these batches.
    """

    init: Callable[[jax.Array], tuple[Any, Any]]
    augment: Callable[[jax.Array, Any], Any]
    loss: Callable[[Any, Batch, Any], tuple[jax.Array, Any]]
    predict: Callable[[Any, Any, Any], jax.Array]
    criterion: Callable[[jax.Array, jax.Array], jax.Array]
    merge: Callable[[Any, Any], nnx.Module]
    recalibrate: Callable[[Any, Any, Any], Any]


def make_network(
    model: Model,
    loss: Loss,
    *,
    augment: Callable[[jax.Array, Any], Any] | None = None,
    prepare: Callable[[Any], Any] | None = None,
) -> Network:
    """Makes the pure functions of a model.

    Keys and counters of dropout are in `rest`: all probes of a step start from the same ones, and
    so use the same masks.

    Args:
      model: maps inputs to outputs (n, outputs); inputs that are a dict are passed by name.
      loss: (outputs, labels) -> the loss of each example.
      augment: (key, inputs) -> inputs of the model in training; default: as in evaluation.
      prepare: inputs -> inputs of the model in evaluation; default: unchanged.
    """
    ready = prepare or (lambda inputs: inputs)

    def init(key: jax.Array) -> Any:
        own = model if isinstance(model, nnx.Module) else model(nnx.Rngs(key))
        return jax.tree.map(jnp.copy, split_model(own)[1:])

    if isinstance(model, nnx.Module):
        start, shapes = init, nnx.clone(model)  # its mode is changed below
    else:
        start, shapes = jax.jit(init), nnx.eval_shape(lambda: model(nnx.Rngs(0)))
    shapes.eval()
    evaluation = split_model(shapes)[0]
    shapes.train()
    training = split_model(shapes)[0]
    is_variable = lambda x: isinstance(x, nnx.Variable)  # noqa: E731
    others = jax.tree.leaves(nnx.state(shapes, nnx.Not(nnx.Param)), is_leaf=is_variable)
    statistics = [isinstance(x, nnx.BatchStat) for x in others]

    def forward(graph: Any, params: Any, rest: Any, inputs: Any) -> tuple[jax.Array, Any]:
        merged = nnx.merge(graph, params, rest)
        outputs = merged(**inputs) if isinstance(inputs, dict) else merged(inputs)
        after = split_model(merged)[2]
        return outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32)), after

    def mean_loss(params: Any, batch: Batch, rest: Any) -> tuple[jax.Array, Any]:
        outputs, after = forward(training, params, rest, batch.inputs)
        return criterion(outputs, batch.labels), after

    def predict(params: Any, inputs: Any, rest: Any) -> jax.Array:
        return forward(evaluation, params, rest, ready(inputs))[0]

    def criterion(outputs: jax.Array, labels: jax.Array) -> jax.Array:
        return jnp.mean(loss(outputs, labels))

    def recalibrate(params: Any, rest: Any, batches: Any) -> Any:
        if not any(statistics):
            return rest
        chosen = jax.tree.unflatten(jax.tree.structure(rest), statistics)

        def after(start: float, inputs: Any) -> Any:
            """The rest after one batch, from running statistics that are all `start`."""
            filled = jax.tree.map(
                lambda own, x: jnp.full_like(x, start) if own else x, chosen, rest
            )
            return forward(training, params, filled, ready(inputs))[1]

        # The update is linear, new = kept * old + (1 - kept) * batch: two starts give `kept`.
        first = jax.tree.map(lambda x: x[0], batches)
        zero, one = after(0.0, first), after(1.0, first)
        each = jax.lax.map(lambda inputs: after(0.0, inputs), batches)
        new = lambda own, x, all_, a, b: all_.mean(0) / (1 - (b - a)) if own else x  # noqa: E731
        return jax.tree.map(new, chosen, rest, each, zero, one)

    augmented = augment or (lambda _, inputs: ready(inputs))
    merge = lambda *state: nnx.merge(evaluation, *state)  # noqa: E731
    return Network(start, augmented, mean_loss, predict, criterion, merge, recalibrate)


def in_chunks(function: Callable[[Any], jax.Array], inputs: Any, size: int) -> jax.Array:
    """Applies a function of a batch to `size` examples at a time, to bound its memory."""
    count = jax.tree.leaves(inputs)[0].shape[0]
    if count <= size:
        return function(inputs)
    chunks = -(-count // size)
    rows = jnp.minimum(jnp.arange(chunks * size), count - 1).reshape(chunks, size)
    some = lambda rows: jax.tree.map(lambda x: x[rows], inputs)  # noqa: E731
    outputs: jax.Array = jax.lax.map(lambda rows: function(some(rows)), rows)
    return outputs.reshape(chunks * size, *outputs.shape[2:])[:count]


def split_model(model: nnx.Module) -> Any:
    """The graph, the parameters and the rest of a model, the last two as plain pytrees."""
    graph, *states = nnx.split(model, nnx.Param, ...)
    return graph, *map(nnx.as_pure, states)
