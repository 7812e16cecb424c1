"""Tilts chosen by how many of the samples are to count."""

import dataclasses

import jax
import jax.numpy as jnp

from tsam_jax._checks import check_scalar, is_static_number
from tsam_jax._types import Scalar, ScalarOrSchedule
from tsam_jax.tilting._weights import effective_sample_size, gap_to, prepare, weights_of


@dataclasses.dataclass(frozen=True)
class AutoTilt:
    """A tilt chosen in every step, so that a given share of the samples counts.

    Takes the place of `t` in `tsam_jax.methods.tsam` and `tilted_sampling`: each step tilts by
    `tilt_for_ess(losses, fraction)`, and its state is an `AutoTiltedState`, which says by how
    much. The share has no unit, where a `t` has to be searched anew when the loss, the model or
    the noise changes. In return the tilt grows without bound as the losses of the samples come
    closer to each other: the weights see their order and proportions, not their size.

    The tilt is known only when all losses are, so gradients cannot be folded one by one: with
    strategy "streamed" methods refuse it, and "auto" does not stream.
    Derivatives of the tilt take no part in the gradient: it is that of the tilted loss at the
    chosen tilt.

    Attributes:
      fraction: effective sample size over the number of samples, above 0 and at most 1; a
        number, a traced scalar, or a schedule on the step counter of the method.

    Raises:
      ValueError: if `fraction` is a number outside of its range.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax import methods, value_and_grad
      >>> from tsam_jax.tilting import effective_sample_size
      >>> estimator = methods.tilted_sampling(AutoTilt(0.5), s=4)
      >>> loss = lambda x: 1e-3 * jnp.sum(x**2)
      >>> x = jnp.ones(3)
      >>> _, state = value_and_grad(loss, estimator)(x, estimator.init(x))
      >>> round(float(effective_sample_size(state.weights)), 3)
      2.0

    Source: ours; not in the paper, which searches t on a grid.
    """

    fraction: ScalarOrSchedule

    def __post_init__(self) -> None:
        """Checks the fraction."""
        _check_fraction("AutoTilt", self.fraction)


def tilt_for_ess(losses: jax.Array, fraction: Scalar) -> jax.Array:
    r"""The smallest tilt at which only a given fraction of the samples counts.

    The effective sample size of the weights, $1 / \sum_j w_j^2$, falls as t grows, from the
    number n of finite losses at t = 0 to the number of ties for the largest loss at t = infinity.
    Bisection on log t finds where it reaches `fraction` times n. It does not change when a
    constant is added to the losses, and a factor on them divides it.

    Args:
      losses: shape (s,), any real dtype. Entries that are not finite do not count.
      fraction: above 0 and at most 1; shape (), may be traced.

    Returns:
      Shape (), float32 or the wider dtype of `losses`. 0 if `fraction` is 1; infinity if no
      tilt is enough (all losses equal, more ties than that, a single loss, `fraction` at most
      1 / n); NaN if no loss is finite.

    Raises:
      ValueError: if `fraction` is a number outside of its range.

    Cost: none in gradient or loss evaluations; some 30 passes over s numbers (60 in float64).

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax.tilting import effective_sample_size, tilt_weights
      >>> losses = jnp.array([1.0, 2.0, 3.0, 4.0])
      >>> t = tilt_for_ess(losses, 0.5)
      >>> round(float(t), 3), round(float(effective_sample_size(tilt_weights(losses, t))), 3)
      (1.061, 2.0)

    Source: ours; not in the paper. The same rule sets temperatures in adaptive sequential Monte
    Carlo: Jasra et al., "Inference for Levy-driven stochastic volatility models via adaptive
    sequential Monte Carlo", 2011.
    """
    _check_fraction("tilt_for_ess", fraction)
    losses, fraction, finite = prepare(losses, fraction)
    dtype, limits = losses.dtype, jnp.finfo(losses.dtype)
    peak = jnp.max(losses, where=finite, initial=-jnp.inf)
    spread = -jnp.min(gap_to(peak, losses, finite), initial=0)
    differ = spread > 0
    unit = jnp.where(differ, spread, jnp.ones_like(spread))
    gap = gap_to(peak, losses, finite) / unit  # -1 to 0
    count = jnp.sum(finite.astype(dtype))
    ties = jnp.sum((finite & (losses == peak)).astype(dtype))
    target = fraction * count

    def halve(_: jax.Array, bracket: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bracket
        middle = (low + high) / 2
        enough = effective_sample_size(weights_of(gap, finite, jnp.exp2(middle))) <= target
        return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

    # log2 of the tilt, for losses of spread 1; below the low end all weights round to equal
    ends = jnp.asarray(-limits.nmant, dtype), jnp.asarray(limits.maxexp - 2, dtype)
    _, exponent = jax.lax.fori_loop(0, limits.nmant + 10, halve, ends)
    tilt = jnp.exp2(exponent) / unit
    tilt = jnp.where(target <= ties * (1 + 4 * limits.eps), jnp.inf, tilt)
    tilt = jnp.where(fraction >= 1, jnp.zeros_like(tilt), tilt)
    return jnp.where(count > 0, tilt, jnp.nan)


def _check_fraction(owner: str, fraction: ScalarOrSchedule) -> None:
    check_scalar(owner, fraction=fraction)
    if is_static_number(fraction) and not 0 < fraction <= 1:
        msg = f"`{owner}(fraction=...)` must be a number above 0 and at most 1, got {fraction!r}."
        raise ValueError(msg)
