"""A network as the pure functions that the training loop uses."""

from collections.abc import Callable, Mapping
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
      score: (outputs, labels) -> the mean loss and the compiled metrics by name, shape () each.
      merge: (params, rest) -> the flax model, in evaluation mode.
      recalibrate: (params, rest, batches of inputs with a leading axis) -> rest with the BatchNorm
        statistics averaged over these batches.
    """

    init: Callable[[jax.Array], tuple[Any, Any]]
    augment: Callable[[jax.Array, Any], Any]
    loss: Callable[[Any, Batch, Any], tuple[jax.Array, Any]]
    predict: Callable[[Any, Any, Any], jax.Array]
    score: Callable[[jax.Array, jax.Array], dict[str, jax.Array]]
    merge: Callable[[Any, Any], nnx.Module]
    recalibrate: Callable[[Any, Any, Any], Any]


def make_network(
    model: Model,
    loss: Loss,
    metrics: Mapping[str, Loss] | None = None,
    *,
    augment: Callable[[jax.Array, Any], Any] | None = None,
    prepare: Callable[[Any], Any] | None = None,
) -> Network:
    """Makes the pure functions of a model.

    Args:
      model: a flax model that maps inputs to outputs (n, outputs), or a function `rngs -> model`.
        Inputs that are a dict are passed by name.
      loss: (outputs, labels) -> the loss of each example.
      metrics: name -> (outputs, labels) -> a number.
      augment: (key, inputs) -> inputs of the model in training; default: what `prepare` returns.
      prepare: inputs -> inputs of the model in evaluation; default: the inputs.

    Returns:
      A `Network`. Keys and counters of dropout are in `rest`: all probes of a step start from the
      same ones, and so use the same masks.
    """
    ready = prepare if prepare is not None else lambda inputs: inputs

    if isinstance(model, nnx.Module):
        shapes = nnx.clone(model)  # its mode is changed below

        def init(key: jax.Array) -> tuple[Any, Any]:
            del key
            params, rest = jax.tree.map(jnp.copy, split_model(model)[1:])
            return params, rest

    else:
        shapes = nnx.eval_shape(lambda: model(nnx.Rngs(0)))

        @jax.jit
        def init(key: jax.Array) -> tuple[Any, Any]:
            params, rest = split_model(model(nnx.Rngs(key)))[1:]
            return params, rest

    chosen = _statistics(shapes)
    shapes.train()
    training = split_model(shapes)[0]
    shapes.eval()
    evaluation = split_model(shapes)[0]

    def forward(graph: Any, params: Any, rest: Any, inputs: Any) -> tuple[jax.Array, Any]:
        merged = nnx.merge(graph, params, rest)
        outputs = merged(**inputs) if isinstance(inputs, dict) else merged(inputs)
        return outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32)), merged

    def mean_loss(params: Any, batch: Batch, rest: Any) -> tuple[jax.Array, Any]:
        outputs, merged = forward(training, params, rest, batch.inputs)
        return jnp.mean(loss(outputs, batch.labels)), split_model(merged)[2]

    def predict(params: Any, inputs: Any, rest: Any) -> jax.Array:
        return forward(evaluation, params, rest, ready(inputs))[0]

    def score(outputs: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
        values = {name: metric(outputs, labels) for name, metric in (metrics or {}).items()}
        return {"loss": jnp.mean(loss(outputs, labels)), **values}

    def recalibrate(params: Any, rest: Any, batches: Any) -> Any:
        leaves, tree = jax.tree.flatten(rest)
        structure: Any = tree
        if not any(chosen):
            return rest

        def after(start: float, inputs: Any) -> list[jax.Array]:
            """Statistics after one batch, of running ones that are all `start`."""
            filled = [
                jnp.full_like(x, start) if own else x for x, own in zip(leaves, chosen, strict=True)
            ]
            merged = forward(training, params, structure.unflatten(filled), ready(inputs))[1]
            return jax.tree.leaves(split_model(merged)[2])

        # The update is linear, new = kept * old + (1 - kept) * batch: two starts give `kept`.
        first = jax.tree.map(lambda x: x[0], batches)
        zero, one = after(0.0, first), after(1.0, first)
        total, _ = jax.lax.scan(
            lambda total, some: (jax.tree.map(jnp.add, total, statistics(after(0.0, some))), None),
            jax.tree.map(jnp.zeros_like, statistics(leaves)),
            batches,
        )
        count, sums = jax.tree.leaves(batches)[0].shape[0], iter(total)
        return structure.unflatten([
            next(sums) / (count * (1 - (b - a))) if own else x
            for x, own, a, b in zip(leaves, chosen, zero, one, strict=True)
        ])

    def statistics(leaves: list[jax.Array]) -> list[jax.Array]:
        return [x for x, own in zip(leaves, chosen, strict=True) if own]

    augmented = augment if augment is not None else lambda _, inputs: ready(inputs)
    return Network(
        init,
        augmented,
        mean_loss,
        predict,
        score,
        lambda *state: nnx.merge(evaluation, *state),
        recalibrate,
    )


def in_chunks(function: Callable[[Any], jax.Array], inputs: Any, size: int) -> jax.Array:
    """Applies a function of a batch to `size` examples at a time, to bound its memory.

    Args:
      function: batch -> array with the same leading axis.
      inputs: pytree with a leading axis.
      size: examples at a time.

    Returns:
      The value of `function(inputs)`.
    """
    count = jax.tree.leaves(inputs)[0].shape[0]
    if count <= size:
        return function(inputs)
    chunks = -(-count // size)
    rows = jnp.minimum(jnp.arange(chunks * size), count - 1).reshape(chunks, size)
    some = lambda rows: jax.tree.map(lambda x: x[rows], inputs)  # noqa: E731
    outputs: jax.Array = jax.lax.map(lambda rows: function(some(rows)), rows)
    outputs = outputs.reshape(chunks * size, *outputs.shape[2:])
    return outputs[:count]


def split_model(model: nnx.Module) -> tuple[Any, Any, Any]:
    """The graph, the parameters and the rest of a model, the last two as plain pytrees."""
    graph, params, *rest = nnx.split(model, nnx.Param, ...)
    return graph, nnx.as_pure(params), nnx.as_pure(rest[0])


def _statistics(model: nnx.Module) -> list[bool]:
    """Which leaves of the rest of a model are BatchNorm statistics."""
    _, _, *rest = nnx.split(model, nnx.Param, ...)
    variables = jax.tree.leaves(rest, is_leaf=lambda x: isinstance(x, nnx.Variable))
    return [isinstance(variable, nnx.BatchStat) for variable in variables]
