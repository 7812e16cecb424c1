"""A multilayer perceptron."""

import itertools
from typing import Any

import jax
from flax import nnx

from tsam_jax.models import _layers


class MLP(nnx.Module):
    """Dense layers with ReLU between them, and a linear output."""

    def __init__(
        self,
        sizes: tuple[int, ...],
        *,
        dropout: float = 0.0,
        dtype: Any = None,
        remat: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        pairs = list(itertools.pairwise(sizes))
        dtypes = [dtype] * (len(pairs) - 1) + [None]  # logits are at least float32
        self.layers = nnx.List([
            nnx.Linear(m, n, kernel_init=nnx.initializers.he_normal(), dtype=d, rngs=rngs)
            for (m, n), d in zip(pairs, dtypes, strict=True)
        ])
        self.dropout = _layers.dropout(dropout, rngs)
        self.remat = remat

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps inputs of shape (batch, ...) to logits of shape (batch, num_outputs)."""
        x = x.reshape(x.shape[0], -1)
        *hidden, last = self.layers
        for layer in hidden:
            x = self.dropout(nnx.relu(_layers.run(layer, x, remat=self.remat)))
        return _layers.logits_of(last, x)


def build(
    num_inputs: int,
    num_outputs: int,
    *,
    width: int = 256,
    depth: int = 2,
    dropout: float = 0.0,
    dtype: Any = None,
    remat: bool = False,
    rngs: nnx.Rngs,
) -> MLP:
    """Make an MLP whose hidden layers have equal width.

    Args:
      num_inputs: size of a flattened input.
      num_outputs: number of logits.
      width: units of each hidden layer, >= 1.
      depth: number of hidden layers, >= 0.
      dropout: dropout rate after each hidden layer, in [0, 1).
      dtype: dtype of the hidden layers, such as `jnp.bfloat16`; None for that of parameters and
        inputs. Parameters are float32, and logits at least float32.
      remat: whether the backward pass recomputes the hidden layers instead of storing their
        activations.
      rngs: keys for the initial weights (He normal kernels, zero biases).

    Returns:
      An `MLP`.

    Raises:
      ValueError: if the rate is outside [0, 1).

    Cost: about 6 x parameters x batch size flops for a gradient.

    Example:
      >>> import jax.numpy as jnp
      >>> model = build(64, 10, rngs=nnx.Rngs(0))
      >>> model(jnp.zeros((2, 64))).shape
      (2, 10)
    """
    sizes = (num_inputs, *[width] * depth, num_outputs)
    return MLP(sizes, dropout=dropout, dtype=dtype, remat=remat, rngs=rngs)
