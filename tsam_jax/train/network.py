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
    given = isinstance(model, nnx.Module)
    build: Any = (lambda _: nnx.clone(model)) if given else model
    init = lambda key: jax.tree.map(jnp.copy, split_model(build(nnx.Rngs(key)))[1:])  # noqa: E731
    shapes = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
    shapes.eval()
    evaluation = split_model(shapes)[0]
    shapes.train()
    training = split_model(shapes)[0]

    def forward(graph: Any, inputs: Any, *state: Any) -> tuple[jax.Array, nnx.Module]:
        merged = nnx.merge(graph, *state)
        outputs = merged(**inputs) if isinstance(inputs, dict) else merged(inputs)
        return outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32)), merged

    def mean_loss(params: Any, batch: Batch, rest: Any) -> tuple[jax.Array, Any]:
        outputs, after = forward(training, batch.inputs, params, rest)
        return criterion(outputs, batch.labels), split_model(after)[2]

    def predict(params: Any, inputs: Any, rest: Any) -> jax.Array:
        return forward(evaluation, ready(inputs), params, rest)[0]

    def criterion(outputs: jax.Array, labels: jax.Array) -> jax.Array:
        return jnp.mean(loss(outputs, labels))

    def recalibrate(params: Any, rest: Any, batches: Any) -> Any:
        _, _, old, others = split_model(nnx.merge(training, params, rest), nnx.BatchStat)
        if not jax.tree.leaves(old):
            return rest
        first = jax.tree.map(lambda x: x[0], batches)

        def after(start: int, fixed: Any, inputs: Any = first) -> Any:
            """The statistics after one batch, from ones that are `start` unless they are fixed."""
            own = jax.tree.map(lambda fixed, x: jnp.where(fixed, x, start), fixed, old)
            merged = forward(training, ready(inputs), params, own, others)[1]
            return split_model(merged, nnx.BatchStat)[2]

        def new(fixed: Any, x: jax.Array, each: jax.Array, kept: jax.Array) -> jax.Array:
            return jnp.where(fixed, x, (each.mean(0) / (1 - kept)).astype(x.dtype))

        # The update is linear, new = kept * old + (1 - kept) * batch: two starts give `kept`.
        kept = lambda fixed: jax.tree.map(jnp.subtract, after(1, fixed), after(0, fixed))  # noqa: E731
        # What no batch changes stays as it is, also while the statistics behind it are computed.
        fixed = jax.tree.map(lambda x: x == 1, kept(jax.tree.map(jnp.zeros_like, old)))
        each = jax.lax.map(lambda inputs: after(0, fixed, inputs), batches)
        statistics = jax.tree.map(new, fixed, old, each, kept(fixed))
        return split_model(nnx.merge(training, params, statistics, others))[2]

    augmented = augment or (lambda _, inputs: ready(inputs))
    merge = lambda *state: nnx.merge(evaluation, *state)  # noqa: E731
    start = init if given else jax.jit(init)
    return Network(start, augmented, mean_loss, predict, criterion, merge, recalibrate)


def in_chunks(function: Callable[[Any], jax.Array], inputs: Any, size: int) -> jax.Array:
    """Applies a function of a batch to `size` examples at a time, to bound its memory."""
    count = len(jax.tree.leaves(inputs)[0])
    if count <= size:
        return function(inputs)
    rows = jnp.minimum(jnp.arange(-(-count // size) * size), count - 1).reshape(-1, size)
    some = lambda rows: jax.tree.map(lambda x: x[rows], inputs)  # noqa: E731
    outputs: jax.Array = jax.lax.map(lambda rows: function(some(rows)), rows)
    return outputs.reshape(-1, *outputs.shape[2:])[:count]


def split_model(model: nnx.Module, *kinds: Any) -> Any:
    """The graph, the parameters, variables of other kinds and the rest of a model, as pytrees."""
    graph, *states = nnx.split(model, nnx.Param, *kinds, ...)
    return graph, *map(nnx.as_pure, states)
