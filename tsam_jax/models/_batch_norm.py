"""BatchNorm with PyTorch's running statistics."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import nnx

from tsam_jax import _mesh


class BatchNorm(nnx.BatchNorm):
    r"""BatchNorm over all axes but the last, with the running statistics of `torch.nn.BatchNorm2d`.

    In training, with the mean $\mu$ and the variance $v$ of the n values of a channel,

    $y = \gamma (x - \mu) / \sqrt{v + 10^{-5}} + \beta, \qquad
    m \leftarrow 0.9 m + 0.1 \mu, \qquad r \leftarrow 0.9 r + 0.1 \tfrac{n}{n - 1} v.$

    In evaluation, m and r replace $\mu$ and v. `nnx.BatchNorm` differs: it omits the factor
    n / (n - 1), and computes v as a difference of squares, which loses digits. Statistics and
    normalisation use at least float32; the result has dtype `dtype`.

    Args:
      num_features: size of the last axis.
      dtype: dtype of the result; None for that of the input.
      rngs: unused, as scales start at 1 and shifts at 0.
    """

    def __init__(self, num_features: int, *, dtype: Any = None, rngs: nnx.Rngs) -> None:
        super().__init__(num_features, momentum=0.9, epsilon=1e-5, dtype=dtype, rngs=rngs)

    def __call__(  # type: ignore[override]  # no masks
        self,
        x: jax.Array,
        use_running_average: bool | None = None,  # noqa: FBT001  # the signature of nnx.BatchNorm
    ) -> jax.Array:
        """Normalises (..., num_features); in training, also updates the running statistics."""
        if use_running_average is None:
            use_running_average = self.use_running_average
        y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        scale, bias = (cast(nnx.Param, p)[...] for p in (self.scale, self.bias))
        if use_running_average:
            y = (y - self.mean[...]) * (jax.lax.rsqrt(self.var[...] + self.epsilon) * scale) + bias
        else:
            n = math.prod(x.shape[:-1])
            y, mean, variance = _normalise(y, scale, bias, self.epsilon)
            self._average(self.mean, mean)
            self._average(self.var, variance * (n / max(n - 1, 1)))
        return y.astype(self.dtype or x.dtype)

    def _average(self, running: nnx.Variable, value: jax.Array) -> None:
        value = jax.lax.stop_gradient(value).astype(running.dtype)
        running[...] = self.momentum * running[...] + (1 - self.momentum) * value


def _normalise(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the normalised (..., features), and the mean and variance of each feature."""
    n = math.prod(x.shape[:-1])
    blocks = math.gcd(n, 64)
    if _mesh.on_one_cpu() and blocks >= 8:
        rows = x.reshape(blocks, n // blocks, x.shape[-1])
        y, mean, variance = _normalise_blocks(epsilon, rows, scale, bias)
        return y.reshape(x.shape), mean, variance
    axes = tuple(range(x.ndim - 1))
    return _formula(epsilon, x, scale, bias, lambda x: jnp.mean(x, axes))


def _formula(
    epsilon: float,
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    average: Callable[[jax.Array], jax.Array],
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalises by the mean and the variance that `average` computes."""
    mean = average(x)
    variance = average(jnp.square(x - mean))
    return (x - mean) * (jax.lax.rsqrt(variance + epsilon) * scale) + bias, mean, variance


# On XLA:CPU, automatic differentiation of this function takes 1.5 times as long: it sums over the
# batch four times instead of twice, and over all rows at once, which XLA does not vectorise.
@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _normalise_blocks(
    epsilon: float, x: jax.Array, scale: jax.Array, bias: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Computes `_normalise` for shape (blocks, rows, features)."""
    return _formula(epsilon, x, scale, bias, _mean)


@_normalise_blocks.defjvp
def _normalise_jvp(
    epsilon: float, primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[Any, Any]:
    (x, scale, bias), (dx, dscale, dbias) = primals, tangents
    y, mean, variance = _normalise_blocks(epsilon, x, scale, bias)
    centred, inverse = x - mean, jax.lax.rsqrt(variance + epsilon)
    dmean, dvariance = _mean(dx), 2 * _mean(centred * dx)
    slope = inverse * dscale - 0.5 * scale * inverse**3 * dvariance
    dy = (
        inverse * scale * dx
        + centred * _spread(slope, x)
        + _spread(dbias - inverse * scale * dmean, x)
    )
    return (y, mean, variance), (dy, dmean, dvariance)


def _mean(x: jax.Array) -> jax.Array:
    """Averages (blocks, rows, features) over blocks and rows, in two sums."""
    return jnp.sum(jnp.sum(x, 1), 0) / (x.shape[0] * x.shape[1])


def _spread(x: jax.Array, like: jax.Array) -> jax.Array:
    """Broadcasts (features,) to each block, so that the transpose sums within blocks first."""
    return jnp.broadcast_to(x, (like.shape[0], 1, *x.shape))
