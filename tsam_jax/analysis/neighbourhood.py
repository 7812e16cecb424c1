"""Mean and variance of the loss in a random neighbourhood of the parameters.

Glossary: theta, the parameters; eps, a random perturbation of them; L, the loss; n, the number of
draws.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tsam_jax import _tree
from tsam_jax._types import NoiseLaw, Params


class NeighbourhoodLoss(NamedTuple):
    """Monte Carlo moments of L(theta + eps).

    Attributes:
      mean: scalar, float32 or wider: average of the draws, an estimate of E L(theta + eps).
      variance: scalar: population variance of the draws (divided by n, as in the paper's
        Figure 2).
      standard_error: scalar: standard error of `mean`, from the unbiased variance:
        sqrt(variance / (n - 1)); nan for a single draw.
    """

    mean: jax.Array
    variance: jax.Array
    standard_error: jax.Array


def neighbourhood_loss(
    loss_fn: Callable[[Params], jax.Array],
    params: Params,
    key: jax.Array,
    /,
    *,
    noise: NoiseLaw,
    num_samples: int,
    batch_size: int | None = None,
) -> NeighbourhoodLoss:
    """Mean and variance of the loss over random perturbations of the parameters.

    Estimates  E L(theta + eps)  and  Var L(theta + eps),  eps ~ noise  [1, Figure 2]. The variance
    is the paper's sharpness at tilt zero [1, Definition 3.5]. For a quadratic loss with
    Hessian H and gradient g, and a Gaussian eps of standard deviation sigma, they are
    L + sigma^2 tr(H) / 2  and  sigma^2 |g|^2 + sigma^4 tr(H^2) / 2.

    The draws are looped over, so that memory does not grow with `num_samples` (but for one scalar
    per draw). The draws depend on `key` alone: the same key at several noise sizes or several
    `params` gives common random numbers, which makes their differences far less noisy than their
    values.

    Args:
      loss_fn: `params -> scalar`, deterministic.
      params: theta, any pytree of floating-point arrays.
      key: random key.
      noise: `(key, params) -> eps`, a pytree like `params`; for example
        `tsam_jax.noise.gaussian(rms=0.01)`, whose size may be traced.
      num_samples: number of draws n, >= 1, a static int; the paper's code uses 500.
      batch_size: draws evaluated in parallel, >= 1, or None for one by one. Memory grows with it;
        results do not change.

    Returns:
      A `NeighbourhoodLoss`: mean, population variance (divided by n) and the standard error of the
      mean. Non-finite losses are not hidden: they make the result non-finite. Costs n evaluations
      of the loss, and no gradient.

    Raises:
      ValueError: if `num_samples` or `batch_size` is smaller than 1.

    Example:
      Ten sizes at once are a vmap over the size:

      >>> import jax, jax.numpy as jnp
      >>> from tsam_jax import noise
      >>> from tsam_jax.analysis import neighbourhood_loss
      >>> def at_size(rms):
      ...     return neighbourhood_loss(
      ...         lambda x: jnp.sum(x**2), jnp.zeros(3), jax.random.key(0),
      ...         noise=noise.gaussian(rms=rms), num_samples=100,
      ...     )
      >>> moments = jax.vmap(at_size)(jnp.linspace(0.1, 1.0, 10))
      >>> moments.mean.shape
      (10,)

    References:
      [1] Li, Zhou, Bilmes, "Tilted Sharpness-Aware Minimization", ICML 2025, arXiv:2410.22656.
    """
    for name, value in (("num_samples", num_samples), ("batch_size", batch_size)):
        if value is not None and value < 1:
            msg = f"`neighbourhood_loss({name}=...)` must be a positive integer, got {value}."
            raise ValueError(msg)

    def perturbed_loss(sample_key: jax.Array) -> jax.Array:
        loss = jnp.asarray(loss_fn(_tree.add(params, noise(sample_key, params))))
        return loss.astype(_tree.accumulator_dtype(loss))

    keys = jax.random.split(key, num_samples)
    losses = jax.lax.map(perturbed_loss, keys, batch_size=batch_size)
    variance = jnp.var(losses)
    return NeighbourhoodLoss(
        mean=jnp.mean(losses),
        variance=variance,
        standard_error=jnp.sqrt(variance / (num_samples - 1))
        if num_samples > 1
        else jnp.full_like(variance, jnp.nan),
    )
