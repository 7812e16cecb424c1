"""The task as pure functions: what the training loop sees of data and network."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from tsam_jax import data
from tsam_jax.data import digits
from tsam_jax.models import mlp
from tsam_jax.train import config


class Batch(NamedTuple):
    """Inputs (n, ...) and integer labels (n,)."""

    inputs: Any
    labels: Any


class Data(NamedTuple):
    """The parts of a data set, on the device; only `train.labels` differ by seed."""

    train: Batch
    validation: Batch
    test: Batch


class Network(NamedTuple):
    """A network as pure functions.

    Attributes:
      init: key -> (params, rest); `rest` is the other state, BatchNorm statistics say.
      loss: (params, batch, rest) -> (loss, (rest, accuracy)), in training mode.
      measure: (params, batch, rest) -> (loss, accuracy), in evaluation mode.
    """

    init: Callable[[jax.Array], tuple[Any, Any]]
    loss: Callable[[Any, Batch, Any], tuple[jax.Array, tuple[Any, jax.Array]]]
    measure: Callable[[Any, Batch, Any], tuple[jax.Array, jax.Array]]


def load_data(task: config.Task, seeds: Sequence[int]) -> Data:
    """Loads the data set and corrupts its training labels, anew for each seed.

    Args:
      task: the task.
      seeds: one for each run; the same seed gives the same wrong labels to every method.

    Returns:
      `Data`, with `train.labels` of shape (seeds, n).
    """
    splits = digits.load(train_size=task.train_size)
    noisy = [
        data.corrupt_labels(
            splits.train.labels,
            fraction=task.label_noise,
            num_classes=splits.num_classes,
            seed=seed,
        )
        for seed in seeds
    ]
    train = Batch(splits.train.inputs, np.stack(noisy))
    parts = (train, Batch(*splits.validation), Batch(*splits.test))
    return Data(*jax.tree.map(jnp.asarray, parts))


def make_network(task: config.Task, example: Batch, num_classes: int = 10) -> Network:
    """Makes the network of a task.

    Args:
      task: the task.
      example: any batch, for the size of the inputs.
      num_classes: number of classes.

    Returns:
      A `Network`; its loss is the mean softmax cross-entropy.
    """
    num_inputs = int(np.prod(example.inputs.shape[1:]))

    def build(key: jax.Array) -> nnx.Module:
        return mlp.build(
            num_inputs, num_classes, width=task.width, depth=task.depth, rngs=nnx.Rngs(key)
        )

    def init(key: jax.Array) -> tuple[Any, Any]:
        params, rest = _split(build(key))[1:]
        return params, rest

    shapes = nnx.eval_shape(lambda: build(jax.random.key(0)))
    shapes.train()
    training = _split(shapes)[0]
    shapes.eval()
    evaluation = _split(shapes)[0]

    def forward(graph: Any, params: Any, rest: Any, batch: Batch) -> tuple[Any, Any, Any]:
        model = nnx.merge(graph, params, rest)
        logits = model(batch.inputs)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
        hits = jnp.argmax(logits, axis=-1) == batch.labels
        return jnp.mean(losses), jnp.mean(hits.astype(jnp.float32)), model

    def loss(params: Any, batch: Batch, rest: Any) -> tuple[jax.Array, tuple[Any, jax.Array]]:
        value, accuracy, model = forward(training, params, rest, batch)
        return value, (_split(model)[2], accuracy)

    def measure(params: Any, batch: Batch, rest: Any) -> tuple[jax.Array, jax.Array]:
        return forward(evaluation, params, rest, batch)[:2]

    return Network(init, loss, measure)


def _split(model: nnx.Module) -> tuple[Any, Any, Any]:
    """The graph, the parameters and the rest of a model, as plain pytrees of arrays."""
    graph, params, *rest = nnx.split(model, nnx.Param, ...)
    return graph, nnx.as_pure(params), nnx.as_pure(rest[0])
