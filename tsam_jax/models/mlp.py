"""A multilayer perceptron."""

import itertools

import jax
from flax import nnx


class MLP(nnx.Module):
    """Dense layers with ReLU between them, and a linear output."""

    def __init__(self, sizes: tuple[int, ...], *, rngs: nnx.Rngs) -> None:
        self.layers = nnx.List([
            nnx.Linear(m, n, kernel_init=nnx.initializers.he_normal(), rngs=rngs)
            for m, n in itertools.pairwise(sizes)
        ])

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps inputs of shape (batch, ...) to logits of shape (batch, num_outputs)."""
        x = x.reshape(x.shape[0], -1)
        *hidden, last = self.layers
        for layer in hidden:
            x = nnx.relu(layer(x))
        return last(x)


def build(
    num_inputs: int, num_outputs: int, *, width: int = 256, depth: int = 2, rngs: nnx.Rngs
) -> MLP:
    """Makes an MLP with equally wide hidden layers.

    Args:
      num_inputs: size of an input, flattened.
      num_outputs: number of logits.
      width: units of a hidden layer, >= 1.
      depth: number of hidden layers, >= 0.
      rngs: where the initial weights come from (He normal kernels, zero biases).

    Returns:
      An `MLP`.

    Cost: a gradient costs about 6 x parameters x batch flops.

    Example:
      >>> import jax.numpy as jnp
      >>> model = build(64, 10, rngs=nnx.Rngs(0))
      >>> model(jnp.zeros((2, 64))).shape
      (2, 10)
    """
    return MLP((num_inputs, *[width] * depth, num_outputs), rngs=rngs)
