"""The tilted loss of some losses, and its gradient in them: the tilt weights."""

import jax
import jax.numpy as jnp

from tsam_jax import _tree
from tsam_jax._checks import check_nonnegative
from tsam_jax._types import Scalar


def tilted_loss(losses: jax.Array, t: Scalar) -> jax.Array:
    r"""The tilted loss: a soft maximum that runs from the mean to the maximum.

    $L_t = \frac1t \log \frac1s \sum_j e^{t L_j}$, computed in the centred form
    $m + \mathrm{log1p}(\frac1s \sum_j \mathrm{expm1}(t (L_j - m))) / t$ with
    $m = \max_j L_j$, which neither overflows for large t nor loses digits for small t
    (the plain formula in float32 is wrong by 2e-3 at t = 1e-4).

    Args:
      losses: shape (s,), any real dtype.
      t: tilt, >= 0, also 0 or infinity; shape (), may be traced.

    Returns:
      Shape (), float32 or the wider dtype of `losses`. It is differentiable in `losses`,
      and its gradient is `tilt_weights(losses, t)`.

    Raises:
      ValueError: if `t` is a Python number below 0, or NaN.

    Cost: none in gradient or loss evaluations.

    Example:
      >>> import jax.numpy as jnp
      >>> losses = jnp.array([1.0, 2.0, 3.0])
      >>> [round(float(tilted_loss(losses, t)), 4) for t in (0.0, 1.0, jnp.inf)]
      [2.0, 2.309, 3.0]

    Source: Li et al. 2025, Eq. 3 and Section 4.
    """
    check_nonnegative("tilted_loss", finite=False, t=t)
    losses, t, finite = prepare(losses, t)
    # The formula does not depend on m, so m needs no derivative.
    peak = jax.lax.stop_gradient(jnp.max(losses, where=finite, initial=-jnp.inf))
    gap = gap_to(peak, losses, finite)
    count = jnp.sum(finite.astype(t.dtype))
    mean_gap = jnp.sum(gap / count)
    # The limits have branches of their own, since the derivative takes t * (1/t) there, which
    # is 0 * inf, or 0 where 1/t is subnormal and flushed to 0.
    flat, sharp = t < jnp.finfo(t.dtype).tiny, t > 1e-8 * jnp.finfo(t.dtype).max
    worst_gap = jnp.sum(jax.lax.stop_gradient(weights_of(gap, finite, t)) * gap)
    safe_t = jnp.where(flat | sharp, jnp.ones_like(t), t)
    tilted_gap = jnp.log1p(jnp.sum(jnp.expm1(safe_t * gap)) / count) / safe_t
    return peak + jnp.where(flat, mean_gap, jnp.where(sharp, worst_gap, tilted_gap))


def tilt_weights(losses: jax.Array, t: Scalar) -> jax.Array:
    r"""The tilt weights: softmax of the losses at inverse temperature t.

    $w_j = e^{t L_j} / \sum_i e^{t L_i}$. At t = infinity the worst samples share the
    weight equally.

    Args:
      losses: shape (s,), any real dtype. Entries that are not finite get weight 0.
      t: tilt, >= 0, also 0 or infinity; shape (), may be traced.

    Returns:
      Shape (s,), float32 or the wider dtype of `losses`, summing to 1; NaN if no loss is
      finite.

    Raises:
      ValueError: if `t` is a Python number below 0, or NaN.

    Cost: none in gradient or loss evaluations.

    Example:
      >>> import jax.numpy as jnp
      >>> tilt_weights(jnp.array([0.0, jnp.log(3.0), jnp.nan]), 1.0).round(4).tolist()
      [0.25, 0.75, 0.0]

    Source: Li et al. 2025, Definition 3.1 and Algorithm 1, line 3.
    """
    check_nonnegative("tilt_weights", finite=False, t=t)
    losses, t, finite = prepare(losses, t)
    peak = jnp.max(losses, where=finite, initial=-jnp.inf)
    return weights_of(gap_to(peak, losses, finite), finite, t)


def effective_sample_size(weights: jax.Array) -> jax.Array:
    r"""How many equally weighted samples carry as much as these: $1 / \sum_j w_j^2$.

    Args:
      weights: shape (s,), non-negative, summing to 1.

    Returns:
      Shape (), between 1 (one sample has all the weight) and s (all are equal).

    Cost: none in gradient or loss evaluations.

    Example:
      >>> import jax.numpy as jnp
      >>> float(effective_sample_size(jnp.array([0.5, 0.5, 0.0])))
      2.0

    Source: Kish, "Survey Sampling", 1965.
    """
    return 1 / jnp.sum(jnp.square(weights))


def finite_tilt(t: Scalar, dtype: jnp.dtype) -> jax.Array:
    """Infinity becomes the largest number, so that t times a gap of 0 is 0, not NaN."""
    return jnp.minimum(jnp.asarray(t, dtype), jnp.finfo(dtype).max)


def gap_to(peak: jax.Array, losses: jax.Array, present: jax.Array) -> jax.Array:
    """How far losses lie below the peak, <= 0, and 0 where absent; at most the largest number."""
    gap = jnp.maximum(losses - peak, -jnp.finfo(losses.dtype).max)  # 0 times it is 0, not NaN
    return jnp.where(present, gap, jnp.zeros_like(losses))


def weights_of(gap: jax.Array, finite: jax.Array, t: jax.Array) -> jax.Array:
    """The tilt weights of losses by their distance from the largest."""
    unnormalised = jnp.where(finite, jnp.exp(t * gap), jnp.zeros_like(gap))
    return unnormalised / jnp.sum(unnormalised)


def prepare(losses: jax.Array, t: Scalar) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The losses and the tilt in one dtype, and which losses are finite."""
    losses = jnp.asarray(losses)
    losses = losses.astype(_tree.accumulator_dtype(losses))
    return losses, finite_tilt(t, losses.dtype), jnp.isfinite(losses)
