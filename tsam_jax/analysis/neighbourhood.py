"""Loss in a random neighbourhood of the parameters: draws, mean and variance.

Glossary: theta, the parameters; eps, a random perturbation of them; L, the loss; n, the number of
draws.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tsam_jax import _checks, _tree
from tsam_jax._checks import NoiseLaw, Params


class NeighbourhoodLoss(NamedTuple):
    """Monte Carlo moments of L(theta + eps).

    Attributes:
      mean: scalar, float32 or wider: average of the draws, an estimate of E L(theta + eps).
      variance: scalar: population variance of the draws (divided by n, as in the paper's
        Figure 2).
      standard_error: scalar: standard error of `mean`, from the unbiased variance:
        sqrt(variance / (n - 1)); nan for a single draw.
      variance_standard_error: scalar: standard error of `variance`, from the fourth moment m4 of
        the draws: sqrt((m4 - variance^2) / (n - 1)); nan for a single draw.
    """

    mean: jax.Array
    variance: jax.Array
    standard_error: jax.Array
    variance_standard_error: jax.Array


def perturbed_losses(
    loss_fn: Callable[[Params], jax.Array],
    params: Params,
    key: jax.Array,
    /,
    *,
    noise: NoiseLaw,
    num_samples: int,
    batch_size: int | None = None,
) -> jax.Array:
    """Losses at random perturbations of the parameters: draws of  L(theta + eps),  eps ~ noise.

    All statistics of the loss around a solution are functions of these draws: `tilted_statistics`
    at any number of tilts, `generalisation_bound`, quantiles. The draws are evaluated in a loop, so
    memory grows with `num_samples` by only one scalar per draw.

    Args:
      loss_fn: `params -> scalar`, deterministic.
      params: theta, any pytree of floating-point arrays.
      key: random key, which determines the draws: the same key at several noise sizes or several
        `params` gives common random numbers.
      noise: `(key, params) -> eps`, a pytree like `params`.
      num_samples: number of draws n, a positive static int.
      batch_size: draws evaluated in parallel, >= 1, or None for one by one. Memory grows with it;
        results do not change.

    Returns:
      The losses, shape (n,), float32 or wider. Costs n evaluations of the loss.

    Raises:
      ValueError: if `num_samples` or `batch_size` is less than 1.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from tsam_jax import noise
      >>> from tsam_jax.analysis import perturbed_losses
      >>> draws = perturbed_losses(
      ...     lambda x: jnp.sum(x**2), jnp.zeros(3), jax.random.key(0),
      ...     noise=noise.sphere(radius=2.0), num_samples=5,
      ... )
      >>> [round(float(loss), 4) for loss in draws]
      [4.0, 4.0, 4.0, 4.0, 4.0]
    """
    _check_counts("perturbed_losses", num_samples, batch_size)

    def perturbed_loss(sample_key: jax.Array) -> jax.Array:
        loss = jnp.asarray(loss_fn(_tree.add(params, noise(sample_key, params))))
        return loss.astype(_tree.accumulator_dtype(loss))

    keys = jax.random.split(key, num_samples)
    losses: jax.Array = jax.lax.map(perturbed_loss, keys, batch_size=batch_size)
    return losses


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

    The same key at several noise sizes or several `params` gives common random numbers. Differences
    then have much less noise than the values.

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
      A `NeighbourhoodLoss`: mean and population variance (divided by n), each with its standard
      error. A non-finite loss makes the result non-finite. Costs n evaluations of the loss, and no
      gradient.

    Raises:
      ValueError: if `num_samples` or `batch_size` is less than 1.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from tsam_jax import noise
      >>> from tsam_jax.analysis import neighbourhood_loss
      >>> moments = neighbourhood_loss(
      ...     lambda x: jnp.sum(x**2), jnp.zeros(3), jax.random.key(0),
      ...     noise=noise.sphere(radius=2.0), num_samples=100,
      ... )
      >>> round(float(moments.mean), 4)
      4.0

    References:
      [1] Li, Zhou, Bilmes, "Tilted Sharpness-Aware Minimization", ICML 2025, arXiv:2410.22656.
    """
    _check_counts("neighbourhood_loss", num_samples, batch_size)
    losses = perturbed_losses(
        loss_fn, params, key, noise=noise, num_samples=num_samples, batch_size=batch_size
    )
    variance = jnp.var(losses)
    fourth = jnp.mean(jnp.square(jnp.square(losses - jnp.mean(losses))))
    # 0 / 0 for a single draw, whose error is unknown
    degrees = jnp.asarray(num_samples - 1, losses.dtype)
    return NeighbourhoodLoss(
        mean=jnp.mean(losses),
        variance=variance,
        standard_error=jnp.sqrt(variance / degrees),
        variance_standard_error=jnp.sqrt(jnp.maximum(fourth - jnp.square(variance), 0.0) / degrees),
    )


def neighbourhood_curve(
    loss_fn: Callable[[Params], jax.Array],
    params: Params,
    key: jax.Array,
    /,
    *,
    law: Callable[[jax.Array], NoiseLaw],
    sizes: jax.Array,
    num_samples: int,
    batch_size: int | None = None,
) -> NeighbourhoodLoss:
    """Mean and variance of the loss as functions of the noise size: the paper's Figure 2.

    Evaluates `neighbourhood_loss` at each size in turn, with the same draws at all sizes.

    Args:
      loss_fn: `params -> scalar`, deterministic.
      params: theta, any pytree of floating-point arrays.
      key: random key.
      law: size -> noise law; for Figure 2 `lambda rms: tsam_jax.noise.gaussian(rms=rms)`.
      sizes: noise sizes, shape (k,); 0.01 to 0.05 in Figure 2.
      num_samples: number of draws n per size, >= 1, a static int.
      batch_size: as for `neighbourhood_loss`.

    Returns:
      A `NeighbourhoodLoss` whose fields have shape (k,). Costs k n evaluations of the loss.

    Raises:
      ValueError: if `num_samples` or `batch_size` is less than 1.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from tsam_jax import noise
      >>> from tsam_jax.analysis import neighbourhood_curve
      >>> curve = neighbourhood_curve(
      ...     lambda x: jnp.sum(x**2), jnp.zeros(3), jax.random.key(0), sizes=jnp.array([1.0, 2.0]),
      ...     law=lambda radius: noise.sphere(radius=radius), num_samples=10,
      ... )
      >>> [round(float(mean), 4) for mean in curve.mean]
      [1.0, 4.0]

    References:
      Li, Zhou, Bilmes, "Tilted Sharpness-Aware Minimization", ICML 2025, Figure 2.
    """
    _check_counts("neighbourhood_curve", num_samples, batch_size)

    def at(size: jax.Array) -> NeighbourhoodLoss:
        return neighbourhood_loss(
            loss_fn,
            params,
            key,
            noise=law(size),
            num_samples=num_samples,
            batch_size=batch_size,
        )

    curve: NeighbourhoodLoss = jax.lax.map(at, jnp.asarray(sizes))
    return curve


def _check_counts(owner: str, num_samples: int, batch_size: int | None) -> None:
    _checks.positive_int(owner, num_samples=num_samples)
    if batch_size is not None:
        _checks.positive_int(owner, batch_size=batch_size)
