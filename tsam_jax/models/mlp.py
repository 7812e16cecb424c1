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
        dtypes = [dtype] * (len(pairs) - 1) + [None]  # logits are float32 at least
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
    """Makes an MLP with equally wide hidden layers.

    Args:
      num_inputs: size of an input, flattened.
      num_outputs: number of logits.
      width: units of a hidden layer, >= 1.
      depth: number of hidden layers, >= 0.
      dropout: rate after each hidden layer, in [0, 1).
      dtype: what the hidden layers compute in, `jnp.bfloat16` say; None for the type of parameters
        and inputs. Parameters are float32, logits float32 at least.
      remat: whether the backward pass computes the hidden layers again instead of keeping them.
      rngs: where the initial weights come from (He normal kernels, zero biases).

    Returns:
      An `MLP`.

    Raises:
      ValueError: for a rate outside [0, 1).

    Cost: a gradient costs about 6 x parameters x batch flops.

    Example:
      >>> import jax.numpy as jnp
      >>> model = build(64, 10, rngs=nnx.Rngs(0))
      >>> model(jnp.zeros((2, 64))).shape
      (2, 10)
    """
    sizes = (num_inputs, *[width] * depth, num_outputs)
    return MLP(sizes, dropout=dropout, dtype=dtype, remat=remat, rngs=rngs)
