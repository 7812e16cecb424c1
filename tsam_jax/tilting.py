"""Tilted losses, tilt weights, and tilts chosen by effective sample size.

For losses L_1..L_s and a tilt t >= 0, in units of 1/loss,

    L_t = (1/t) log((1/s) sum_j exp(t L_j)),        w_j = exp(t L_j) / sum_i exp(t L_i),

and w is the gradient of L_t with respect to L. t = 0 gives the mean, t = inf the maximum. Losses
are computed in float32 or wider. A non-finite loss gets weight 0 and the other weights are
renormalised; if every loss is non-finite, the result is NaN.

Source: Li, Zhou and Bilmes, "Tilted Sharpness-Aware Minimization", ICML 2025, Eq. 3,
Definition 3.1 and Lemma 3.2.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tsam_jax import _checks, _tree
from tsam_jax._checks import PyTree, Scalar, ScalarOrSchedule

__all__ = [
    "AutoTilt",
    "TiltedMean",
    "effective_sample_size",
    "merge",
    "tilt_for_ess",
    "tilt_weights",
    "tilted_loss",
    "tilted_mean",
    "weighted_mean",
]


def tilted_loss(losses: jax.Array, t: Scalar) -> jax.Array:
    r"""Tilted loss: a soft maximum between the mean and the maximum.

    $L_t = \frac1t \log \frac1s \sum_j e^{t L_j}$, computed in the centred form
    $m + \mathrm{log1p}(\frac1s \sum_j \mathrm{expm1}(t (L_j - m))) / t$ with
    $m = \max_j L_j$, which neither overflows for large t nor loses digits for small t
    (the plain formula in float32 is wrong by 2e-3 at t = 1e-4).

    Args:
      losses: shape (s,), any real dtype.
      t: tilt in 1/loss, >= 0, including 0 and infinity; shape (), may be traced.

    Returns:
      Shape (), float32 or the wider dtype of `losses`. Its gradient with respect to `losses` is
      `tilt_weights(losses, t)`.

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
    _check_tilt("tilted_loss", t)
    losses, t, finite = prepare(losses, t)
    # The result does not depend on m, so m needs no derivative.
    peak = jax.lax.stop_gradient(jnp.max(losses, where=finite, initial=-jnp.inf))
    gap = gap_to(peak, losses, finite)
    count = jnp.sum(finite.astype(t.dtype))
    mean_gap = jnp.sum(gap / count)
    # The limits need their own branches: the derivative computes t * (1/t), which is 0 * inf for
    # t = 0, and 0 where 1/t is subnormal and flushed to 0.
    flat, sharp = t < jnp.finfo(t.dtype).tiny, t > 1e-8 * jnp.finfo(t.dtype).max
    worst_gap = jnp.sum(jax.lax.stop_gradient(weights_of(gap, finite, t)) * gap)
    safe_t = jnp.where(flat | sharp, jnp.ones_like(t), t)
    tilted_gap = jnp.log1p(jnp.sum(jnp.expm1(safe_t * gap)) / count) / safe_t
    return peak + jnp.where(flat, mean_gap, jnp.where(sharp, worst_gap, tilted_gap))


def tilt_weights(losses: jax.Array, t: Scalar) -> jax.Array:
    r"""Tilt weights: the softmax of the losses at inverse temperature t.

    $w_j = e^{t L_j} / \sum_i e^{t L_i}$. At t = infinity, the samples with the largest loss share
    the weight equally.

    Args:
      losses: shape (s,), any real dtype. Non-finite entries get weight 0.
      t: tilt in 1/loss, >= 0, including 0 and infinity; shape (), may be traced.

    Returns:
      Shape (s,), float32 or the wider dtype of `losses`, summing to 1; NaN if every loss is
      non-finite.

    Raises:
      ValueError: if `t` is a Python number below 0, or NaN.

    Cost: none in gradient or loss evaluations.

    Example:
      >>> import jax.numpy as jnp
      >>> tilt_weights(jnp.array([0.0, jnp.log(3.0), jnp.nan]), 1.0).round(4).tolist()
      [0.25, 0.75, 0.0]

    Source: Li et al. 2025, Definition 3.1 and Algorithm 1, line 3.
    """
    _check_tilt("tilt_weights", t)
    losses, t, finite = prepare(losses, t)
    peak = jnp.max(losses, where=finite, initial=-jnp.inf)
    return weights_of(gap_to(peak, losses, finite), finite, t)


def effective_sample_size(weights: jax.Array) -> jax.Array:
    r"""Effective number of samples under unequal weights: $1 / \sum_j w_j^2$.

    Args:
      weights: shape (s,), non-negative, summing to 1.

    Returns:
      Shape (), between 1 (one sample has all the weight) and s (equal weights).

    Cost: none in gradient or loss evaluations.

    Example:
      >>> import jax.numpy as jnp
      >>> float(effective_sample_size(jnp.array([0.5, 0.5, 0.0])))
      2.0

    Source: Kish, "Survey Sampling", 1965.
    """
    return 1 / jnp.sum(jnp.square(weights))


def weighted_mean(trees: PyTree, weights: jax.Array) -> PyTree:
    r"""Weighted mean over the leading axis: $x_k + \sum_j w_j (x_j - x_k)$.

    k is the first sample with a positive weight. In this form the mean of equal samples is that
    sample, bit for bit; in the form $\sum_j w_j x_j$ it is not. Samples of weight 0 are ignored,
    even if they are not finite.

    Args:
      trees: a pytree whose leaves have shape (s, ...).
      weights: shape (s,), non-negative, summing to 1.

    Returns:
      A pytree of leaves of shape (...), summed in float32 or wider, in the dtypes of `trees`.

    Cost: none in gradient or loss evaluations.

    Example:
      >>> import jax.numpy as jnp
      >>> weighted_mean({"w": jnp.array([1.0, 5.0])}, jnp.array([0.25, 0.75]))["w"].item()
      4.0
    """
    used = weights > 0
    k = jnp.argmax(used)

    def mean(x: jax.Array) -> jax.Array:
        wide = x.astype(_tree.wide_dtype(x))
        reference = wide[k][None]
        shape = (-1,) + (1,) * (x.ndim - 1)
        gaps = jnp.where(used.reshape(shape), wide - reference, jnp.zeros_like(wide))
        sum_of_gaps = jnp.tensordot(weights.astype(wide.dtype), gaps, axes=1)
        return (reference[0] + sum_of_gaps).astype(x.dtype)

    return jax.tree.map(mean, trees)


class TiltedMean(NamedTuple):
    """Tilted mean over some of the samples, a partial result that can be merged with others.

    Attributes:
      peak: largest loss; shape (), minus infinity without samples.
      weight: sum_j exp(t (L_j - peak)); shape (), 0 without samples.
      mean: sum_j w_j x_j over these samples; a pytree, 0 without samples.
    """

    peak: jax.Array
    weight: jax.Array
    mean: PyTree


def tilted_mean(loss: jax.Array, tree: PyTree) -> TiltedMean:
    """Partial result of one sample; it is empty if an entry is non-finite.

    Args:
      loss: loss of the sample, shape ().
      tree: the pytree to average, usually the gradient of the sample.

    Returns:
      A `TiltedMean` whose `mean` is in float32 or wider.

    Cost: none in gradient or loss evaluations.

    Example:
      >>> import jax.numpy as jnp
      >>> tilted_mean(jnp.float32(2.0), jnp.array([1.0, jnp.nan])).weight.item()
      0.0
    """
    present = _tree.all_finite(loss, tree)
    loss = loss.astype(_tree.accumulator_dtype(loss))

    def kept(x: jax.Array) -> jax.Array:
        wide = x.astype(_tree.wide_dtype(x))
        return jnp.where(present, wide, jnp.zeros_like(wide))

    peak = jnp.where(present, loss, jnp.full_like(loss, -jnp.inf))
    return TiltedMean(peak, present.astype(loss.dtype), jax.tree.map(kept, tree))


def merge(a: TiltedMean, b: TiltedMean, t: Scalar) -> TiltedMean:
    r"""Merge two partial results; associative, and exact for any tilt.

    With $M = \max(M_a, M_b)$ and $Z = Z_a e^{t(M_a - M)} + Z_b e^{t(M_b - M)}$, the mean is
    $\bar x_a + (Z_b e^{t(M_b - M)} / Z) (\bar x_b - \bar x_a)$: the online softmax. Merging samples
    one by one needs memory that does not grow with their number.

    Args:
      a: partial result of some samples.
      b: partial result of other samples.
      t: tilt, >= 0, including 0 and infinity; shape (), may be traced; the same in every merge.

    Returns:
      The partial result of all these samples.

    Raises:
      ValueError: if `t` is a Python number below 0, or NaN.

    Cost: none in gradient or loss evaluations.

    Example:
      >>> import jax.numpy as jnp
      >>> a = tilted_mean(jnp.float32(0.0), jnp.float32(1.0))
      >>> b = tilted_mean(jnp.log(jnp.float32(3.0)), jnp.float32(5.0))
      >>> round(merge(a, b, 1.0).mean.item(), 4)
      4.0

    Source: the softmax weights of Li et al. 2025, Algorithm 1; the recurrence is that of
    Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018.
    """
    _check_tilt("merge", t)
    peak = jnp.maximum(a.peak, b.peak)
    weight_b = weight_at(peak, b, t)
    weight = weight_at(peak, a, t) + weight_b
    share = share_of(weight_b, weight)
    mean = jax.tree.map(lambda x, y: x + share.astype(x.dtype) * (y - x), a.mean, b.mean)
    return TiltedMean(peak, weight, mean)


@dataclasses.dataclass(frozen=True)
class AutoTilt:
    """Tilt chosen in every step to reach a given effective sample size.

    Pass it as `t` to `tsam_jax.methods.tsam` or `tilted_sampling`: each step uses the tilt
    `tilt_for_ess(losses, fraction)` and returns it as the metric `tilt`. Unlike t, the fraction has
    no unit: you need not search it again when the loss, the model or the noise changes. But the
    tilt grows without bound as the losses of the samples approach each other: the weights depend on
    the order and the proportions of the losses, not on the size of their differences.

    The tilt depends on all losses, so gradients cannot be merged one by one: strategy "streamed"
    raises an error, and "auto" does not stream. The estimate is the gradient of the tilted loss at
    the chosen tilt, treated as a constant.

    Attributes:
      fraction: effective sample size divided by the number of samples, above 0 and at most 1; a
        number, a traced scalar, or a schedule on the step counter.

    Raises:
      ValueError: if `fraction` is a number outside of its range.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax import methods, value_and_grad
      >>> estimator = methods.tilted_sampling(AutoTilt(0.5), s=4)
      >>> loss = lambda x: 1e-3 * jnp.sum(x**2)
      >>> x = jnp.ones(3)
      >>> step = value_and_grad(loss, estimator)
      >>> _, state = step(x, step.init(x))
      >>> round(float(state.last.metrics["effective_sample_size"]), 3)
      2.0

    Source: ours; not in the paper, which searches t on a grid.
    """

    fraction: ScalarOrSchedule

    def __post_init__(self) -> None:
        """Checks the fraction."""
        _check_fraction("AutoTilt", self.fraction)


def tilt_for_ess(losses: jax.Array, fraction: Scalar) -> jax.Array:
    r"""Smallest tilt at which the effective sample size falls to a given fraction.

    The effective sample size of the weights, $1 / \sum_j w_j^2$, falls as t grows, from the
    number n of finite losses at t = 0 to the number of ties for the largest loss at t = infinity.
    Bisection on log t finds where it reaches `fraction` times n. Adding a constant to the losses
    does not change the tilt; multiplying them by a factor divides it by that factor.

    Args:
      losses: shape (s,), any real dtype. Non-finite entries are ignored.
      fraction: above 0 and at most 1; shape (), may be traced.

    Returns:
      Shape (), float32 or the wider dtype of `losses`. 0 if `fraction` is 1. Infinity if no tilt
      reaches the fraction: all losses are equal, too many tie for the largest, there is a single
      loss, or `fraction` is at most 1 / n. NaN if every loss is non-finite.

    Raises:
      ValueError: if `fraction` is a number outside of its range.

    Cost: none in gradient or loss evaluations; about 30 passes over s numbers (60 in float64).

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
    losses, fraction, finite = prepare(jax.lax.stop_gradient(losses), fraction)
    tilt: jax.Array = _bisect(losses, jax.lax.stop_gradient(fraction), finite)
    return tilt


@jax.jit  # compiles the loop once, even if the user does not use `jit`
def _bisect(losses: jax.Array, fraction: jax.Array, finite: jax.Array) -> jax.Array:
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


def _check_tilt(owner: str, t: Scalar) -> None:
    """Raises on negative numbers, not on arrays: a method's tilt is NaN if no loss is finite."""
    _checks.scalar(owner, t=t)
    if _checks.is_static_number(t):
        _checks.nonnegative(owner, finite=False, t=t)


def _check_fraction(owner: str, fraction: ScalarOrSchedule) -> None:
    _checks.scalar(owner, fraction=fraction)
    number = _checks.known(fraction)
    if number is not None and not 0 < number <= 1:
        msg = f"`{owner}(fraction=...)` must be a number above 0 and at most 1, got {fraction!r}."
        raise ValueError(msg)


def finite_tilt(t: Scalar, dtype: jnp.dtype) -> jax.Array:
    """Replaces infinity by the largest finite number, so that t times a gap of 0 is not NaN."""
    return jnp.minimum(jnp.asarray(t, dtype), jnp.finfo(dtype).max)


def gap_to(peak: jax.Array, losses: jax.Array, present: jax.Array) -> jax.Array:
    """Losses minus the peak, clipped to finite numbers; 0 where a loss is absent."""
    gap = jnp.maximum(losses - peak, -jnp.finfo(losses.dtype).max)  # 0 times it is 0, not NaN
    return jnp.where(present, gap, jnp.zeros_like(losses))


def weights_of(gap: jax.Array, finite: jax.Array, t: jax.Array) -> jax.Array:
    """The tilt weights, from the gaps between the losses and the largest."""
    unnormalised = jnp.where(finite, jnp.exp(t * gap), jnp.zeros_like(gap))
    return unnormalised / jnp.sum(unnormalised)


def prepare(losses: jax.Array, t: Scalar) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the losses and the tilt in one dtype, and which losses are finite."""
    losses = jnp.asarray(losses)
    losses = losses.astype(_tree.accumulator_dtype(losses))
    return losses, finite_tilt(t, losses.dtype), jnp.isfinite(losses)


def weight_at(peak: jax.Array, part: TiltedMean, t: Scalar) -> jax.Array:
    """The weight of a partial result, relative to the largest loss `peak`."""
    gap = gap_to(peak, part.peak, part.weight > 0)
    return part.weight * jnp.exp(finite_tilt(t, peak.dtype) * gap)


def share_of(weight: jax.Array, total: jax.Array) -> jax.Array:
    """The fraction of the total weight; 0 if the total is 0."""
    return jnp.where(total > 0, weight / jnp.where(total > 0, total, 1), 0)
