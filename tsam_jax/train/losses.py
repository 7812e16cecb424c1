"""Losses and metrics: of outputs and labels, one number an example, by name."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

Loss = Callable[[jax.Array, jax.Array], jax.Array]
"""(outputs, labels) -> the loss of each example; shapes (n, outputs), (n,) and (n,), float32."""


def cross_entropy(outputs: jax.Array, labels: jax.Array, *, smoothing: float = 0.0) -> jax.Array:
    """Softmax cross-entropy; with `smoothing`, of labels mixed with the uniform law.

    Args:
      outputs: logits, shape (n, K).
      labels: shape (n,), integers in 0..K - 1.
      smoothing: e, in 0..1: the target is 1 - e + e/K for the label and e/K for each other class.

    Returns:
      Shape (n,).

    Example:
      >>> round(cross_entropy(jnp.zeros((1, 4)), jnp.array([2])).item(), 2)
      1.39

    Source: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016,
    Section 7; `optax.smooth_labels`.
    """
    losses: jax.Array
    if smoothing:
        targets = optax.smooth_labels(jax.nn.one_hot(labels, outputs.shape[-1]), smoothing)
        losses = optax.softmax_cross_entropy(outputs, targets)
    else:
        losses = optax.softmax_cross_entropy_with_integer_labels(outputs, labels)
    return losses


def official(outputs: jax.Array, labels: jax.Array, *, smoothing: float = 0.0) -> jax.Array:
    """The Kullback-Leibler divergence from smoothed labels, as the paper's code has it.

    KL(p || softmax(outputs)),  p = 1 - e for the label and e / (K - 1) for each other class:
    unlike the smoothed cross-entropy it can reach 0, which matters to nothing but its value:
    a constant in the loss changes no tilt weight.

    Args:
      outputs: logits, shape (n, K), K >= 2.
      labels: shape (n,), integers in 0..K - 1.
      smoothing: e, in 0..1.

    Returns:
      Shape (n,).

    Example:
      >>> outputs = jnp.log(jnp.array([[0.9, 0.05, 0.05]]))
      >>> abs(official(outputs, jnp.array([0]), smoothing=0.1)).max() < 1e-6
      Array(True, dtype=bool)

    Source: the loss of the official code of Li et al., "Tilted Sharpness-Aware Minimization", ICML
    2025, where e = 0.1.
    """
    classes = outputs.shape[-1]
    truth = jax.nn.one_hot(labels, classes)
    targets = (1 - smoothing) * truth + smoothing / (classes - 1) * (1 - truth)
    losses: jax.Array = optax.losses.kl_divergence(jax.nn.log_softmax(outputs), targets)
    return losses


def squared_error(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """The squared error of the only output: regression.

    Args:
      outputs: shape (n, 1).
      labels: shape (n,), real numbers.

    Returns:
      Shape (n,).

    Example:
      >>> squared_error(jnp.array([[1.0], [3.0]]), jnp.array([1.0, 1.0])).tolist()
      [0.0, 4.0]
    """
    return (outputs[:, 0] - labels) ** 2


LOSSES: Mapping[str, Callable[..., jax.Array]] = {
    "cross-entropy": cross_entropy,
    "official": official,
    "mse": squared_error,
}
"""Name -> loss."""


def accuracy(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """The share of examples whose largest output is that of the label; shape ()."""
    return jnp.mean((jnp.argmax(outputs, axis=-1) == labels).astype(jnp.float32))


METRICS: Mapping[str, Callable[[jax.Array, jax.Array], jax.Array]] = {"accuracy": accuracy}
"""Name -> (outputs, labels) -> a number, the larger the better; computed where the data are."""
