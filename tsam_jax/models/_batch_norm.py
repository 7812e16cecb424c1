"""BatchNorm with the running statistics of PyTorch."""

import math
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import nnx


class BatchNorm(nnx.BatchNorm):
    r"""BatchNorm over all axes but the last, whose buffers are those of `torch.nn.BatchNorm2d`.

    In training, with the mean $\mu$ and the variance $v$ of the n values of a channel,

    $y = \gamma (x - \mu) / \sqrt{v + 10^{-5}} + \beta, \qquad
    m \leftarrow 0.9 m + 0.1 \mu, \qquad r \leftarrow 0.9 r + 0.1 \tfrac{n}{n - 1} v;$

    in evaluation m and r take the places of $\mu$ and v. `nnx.BatchNorm` leaves the factor
    n / (n - 1) out and computes v as a difference of squares, which loses digits. Statistics and
    the normalisation are in float32 at least; the result is in `dtype`.

    Args:
      num_features: size of the last axis.
      dtype: dtype of the result; None for that of the input.
      rngs: not drawn from: scales are 1 and shifts 0 at first.
    """

    def __init__(self, num_features: int, *, dtype: Any = None, rngs: nnx.Rngs) -> None:
        super().__init__(num_features, momentum=0.9, epsilon=1e-5, dtype=dtype, rngs=rngs)

    def __call__(  # type: ignore[override]  # no masks
        self,
        x: jax.Array,
        use_running_average: bool | None = None,  # noqa: FBT001  # as nnx.BatchNorm has it
    ) -> jax.Array:
        """Normalises (..., num_features); in training, moves the running statistics on."""
        if use_running_average is None:
            use_running_average = self.use_running_average
        y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if use_running_average:
            mean, variance = self.mean[...], self.var[...]
        else:
            axes, n = tuple(range(x.ndim - 1)), math.prod(x.shape[:-1])
            mean = jnp.mean(y, axes)
            variance = jnp.mean(jnp.square(y - mean), axes)
            self._average(self.mean, mean)
            self._average(self.var, variance * (n / max(n - 1, 1)))
        scale, bias = (cast(nnx.Param, p)[...] for p in (self.scale, self.bias))
        y = (y - mean) * (jax.lax.rsqrt(variance + self.epsilon) * scale)
        return (y + bias).astype(self.dtype or x.dtype)

    def _average(self, running: nnx.Variable, value: jax.Array) -> None:
        value = jax.lax.stop_gradient(value).astype(running.dtype)
        running[...] = self.momentum * running[...] + (1 - self.momentum) * value
