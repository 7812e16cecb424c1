"""A network as pure functions: what the training loop sees of it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tsam_jax.train.losses import Loss

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
      score: (outputs, labels) -> the mean loss and the metrics by name, shape () each.
      merge: (params, rest) -> the flax model, in evaluation mode.
      host_metrics: metrics by name that are computed on the host, (outputs, labels) -> a number;
        if there are some, `score` also returns the "outputs".
    """

    init: Callable[[jax.Array], tuple[Any, Any]]
    augment: Callable[[jax.Array, Any], Any]
    loss: Callable[[Any, Batch, Any], tuple[jax.Array, Any]]
    predict: Callable[[Any, Any, Any], jax.Array]
    score: Callable[[jax.Array, jax.Array], dict[str, jax.Array]]
    merge: Callable[[Any, Any], nnx.Module]
    host_metrics: Mapping[str, Callable[[np.ndarray, np.ndarray], float]] = {}


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
        Inputs that are a dict are given to it by name.
      loss: (outputs, labels) -> the loss of each example.
      metrics: name -> (outputs, labels) -> a number.
      augment: (key, inputs) -> what the model gets in training; default: what `prepare` gives.
      prepare: inputs -> what the model gets in evaluation; default: the inputs.

    Returns:
      A `Network`. A model with random numbers of its own (dropout) carries their keys and counters
      in `rest`: all probes of a step start from the same, and so see the same masks.
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

    augmented = augment if augment is not None else lambda _, inputs: ready(inputs)
    return Network(
        init, augmented, mean_loss, predict, score, lambda *state: nnx.merge(evaluation, *state)
    )


def in_chunks(function: Callable[[Any], jax.Array], inputs: Any, size: int) -> jax.Array:
    """Applies a function of a batch to `size` examples at a time, to bound its memory.

    Args:
      function: batch -> array with the same leading axis.
      inputs: pytree with a leading axis.
      size: examples at a time.

    Returns:
      What `function(inputs)` would give.
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
    """The graph, the parameters and the rest of a model.

    Args:
      model: the model.

    Returns:
      The graph, and two plain pytrees of arrays.
    """
    graph, params, *rest = nnx.split(model, nnx.Param, ...)
    return graph, nnx.as_pure(params), nnx.as_pure(rest[0])
