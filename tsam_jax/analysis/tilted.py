"""Tilted statistics of the loss around a solution.

Glossary: L, the loss; X, the random variable L(theta + eps); t, the tilt; w, the tilt weights of
the n draws of X.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tsam_jax._checks import NoiseLaw, Params, Scalar
from tsam_jax.analysis.neighbourhood import perturbed_losses
from tsam_jax.tilting import effective_sample_size, tilt_weights, tilted_loss


class TiltedStatistics(NamedTuple):
    """Moments of the loss under the tilted law, from n draws of the untilted law.

    Standard errors are those of ratio estimators, to first order in 1/n. If `effective_sample_size`
    is small, neither values nor errors are reliable, because the draws miss the largest losses.

    Attributes:
      loss: scalar, float32 or wider: the TSAM objective (1/t) log E exp(t X).
      mean: scalar: the t-weighted mean.
      variance: scalar: the t-weighted variance, which is the t-sharpness.
      loss_standard_error: scalar; nan at infinite tilt, as are the next two.
      mean_standard_error: scalar.
      variance_standard_error: scalar.
      effective_sample_size: scalar, 1 to n: effective number of draws.
    """

    loss: jax.Array
    mean: jax.Array
    variance: jax.Array
    loss_standard_error: jax.Array
    mean_standard_error: jax.Array
    variance_standard_error: jax.Array
    effective_sample_size: jax.Array


def tilted_statistics(losses: jax.Array, t: Scalar, /) -> TiltedStatistics:
    r"""Tilted loss, t-weighted mean and t-weighted variance of losses.

    $L_t = \frac1t \log E e^{tX}, \quad m_t = \frac{E[e^{tX} X]}{E[e^{tX}]}, \quad v_t =
    \frac{E[e^{tX} X^2]}{E[e^{tX}]} - m_t^2,$

    with E the mean over the draws. As functions of t, $m_t = \frac{d}{dt} (t L_t)$ and $v_t =
    \frac{d}{dt} m_t$. At t = 0, they are the mean, the mean and the variance (divided by n); at
    t = infinity, the maximum, the maximum and 0.

    Args:
      losses: shape (n,), draws of X, such as those of `perturbed_losses`; non-finite entries are
        ignored.
      t: tilt, >= 0, including 0 and infinity; may be traced, and vmapped for a curve over t.

    Returns:
      A `TiltedStatistics`. No further loss evaluations.

    Raises:
      ValueError: if `t` is a number below 0, or NaN.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax.analysis import tilted_statistics
      >>> stats = tilted_statistics(jnp.array([0.0, jnp.log(3.0)]), 1.0)
      >>> [round(float(x), 4) for x in (stats.loss, stats.mean, stats.variance)]
      [0.6931, 0.824, 0.2263]

    Source: Li, Zhou, Bilmes, "Tilted Sharpness-Aware Minimization", ICML 2025, Eq. 3 and
    Definitions 3.4 and 3.5.
    """
    weights = tilt_weights(losses, t)
    present = jnp.isfinite(losses)
    losses = losses.astype(weights.dtype)
    count = jnp.sum(present.astype(weights.dtype))
    mean = jnp.sum(jnp.where(present, weights * losses, 0.0))
    deviations = jnp.where(present, losses - mean, 0.0)
    variance = jnp.sum(weights * jnp.square(deviations))

    def error(influences: jax.Array) -> jax.Array:
        bessel = count / (count - 1)  # n / (n - 1), infinite and then nan for a single draw
        return jnp.sqrt(bessel * jnp.sum(jnp.square(influences)))

    t = jnp.asarray(t, weights.dtype)
    # (n w - 1) / (n t): influence of a draw on (1/t) log E exp(tX); deviation / n in the limit.
    tiny = t * jnp.sqrt(jnp.maximum(variance, jnp.finfo(t.dtype).tiny)) < 1e-4
    tilted = (weights - 1 / count) / jnp.where(tiny, 1.0, t)
    of_loss = error(jnp.where(present, jnp.where(tiny, deviations / count, tilted), 0.0))
    finite_tilt = jnp.where(jnp.isinf(t), jnp.nan, 1.0)
    return TiltedStatistics(
        loss=tilted_loss(losses, t),
        mean=mean,
        variance=variance,
        loss_standard_error=finite_tilt * of_loss,
        mean_standard_error=finite_tilt * error(weights * deviations),
        variance_standard_error=finite_tilt * error(weights * (jnp.square(deviations) - variance)),
        effective_sample_size=effective_sample_size(weights),
    )


def t_sharpness(
    loss_fn: Callable[[Params], jax.Array],
    params: Params,
    key: jax.Array,
    /,
    *,
    t: Scalar,
    noise: NoiseLaw,
    num_samples: int,
    batch_size: int | None = None,
) -> TiltedStatistics:
    """TSAM objective and t-sharpness of a solution.

    Computes `tilted_statistics` of `perturbed_losses`: its `variance` is the paper's t-sharpness,
    its `loss` the objective of Eq. 3. For several tilts, call `tilted_statistics` several times on
    the same draws.

    Args:
      loss_fn: `params -> scalar`, deterministic.
      params: theta, any pytree of floating-point arrays.
      key: random key.
      t: tilt, >= 0, including 0 and infinity; may be traced.
      noise: `(key, params) -> eps`.
      num_samples: number of draws n, a positive static int.
      batch_size: draws evaluated in parallel, or None for one by one.

    Returns:
      A `TiltedStatistics`. Costs n loss evaluations.

    Raises:
      ValueError: if `t` is a number below 0, or a count is less than 1.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from tsam_jax import noise
      >>> from tsam_jax.analysis import t_sharpness
      >>> around = t_sharpness(
      ...     lambda x: jnp.sum(x**2), jnp.zeros(3), jax.random.key(0),
      ...     t=5.0, noise=noise.sphere(radius=2.0), num_samples=10,
      ... )
      >>> round(float(around.loss), 4)
      4.0

    Source: Li et al. 2025, Definition 3.5.
    """
    losses = perturbed_losses(
        loss_fn, params, key, noise=noise, num_samples=num_samples, batch_size=batch_size
    )
    return tilted_statistics(losses, t)
