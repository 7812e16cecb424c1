"""Means over samples by their weights: of all at once, or folded one by one."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from tsam_jax import _tree
from tsam_jax._checks import check_nonnegative
from tsam_jax._types import PyTree, Scalar
from tsam_jax.tilting._weights import finite_tilt


def weighted_mean(trees: PyTree, weights: jax.Array) -> PyTree:
    r"""The weighted mean over the leading axis: $x_k + \sum_j w_j (x_j - x_k)$.

    k is the first sample with a positive weight. In this form equal samples give that very
    sample, bit for bit, which plain $\sum_j w_j x_j$ does not. Samples of weight 0 are
    ignored even where they are not finite.

    Args:
      trees: a pytree whose leaves have the shape (s, ...).
      weights: shape (s,), non-negative, summing to 1.

    Returns:
      A pytree of leaves (...), summed in float32 at least, in the dtypes of `trees`.

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
    """A tilted mean over some of the samples, ready to be merged with the rest.

    Attributes:
      peak: largest loss so far; shape (), minus infinity if there is no sample yet.
      weight: sum_j exp(t (L_j - peak)); shape (), 0 if there is no sample yet.
      mean: sum_j w_j x_j over these samples; a pytree, 0 if there is no sample yet.
    """

    peak: jax.Array
    weight: jax.Array
    mean: PyTree


def tilted_mean(loss: jax.Array, tree: PyTree) -> TiltedMean:
    """The partial result of one sample; an empty one if anything in it is not finite.

    Args:
      loss: shape (), the loss of the sample.
      tree: what is to be averaged, usually the gradient of the sample.

    Returns:
      A `TiltedMean` whose `mean` is in float32 at least.

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
    r"""Joins two partial results; associative, and exact for any tilt.

    With $M = \max(M_a, M_b)$ and $Z = Z_a e^{t(M_a - M)} + Z_b e^{t(M_b - M)}$ the mean is
    $\bar x_a + (Z_b e^{t(M_b - M)} / Z) (\bar x_b - \bar x_a)$: the online softmax. Samples
    can so be folded one by one, in memory that does not grow with their number.

    Args:
      a: partial result of some samples.
      b: partial result of other samples.
      t: tilt, >= 0, also 0 or infinity; shape (), may be traced; the same in every merge.

    Returns:
      The partial result of all of these samples.

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
    check_nonnegative("merge", finite=False, t=t)
    peak = jnp.maximum(a.peak, b.peak)
    tilt = finite_tilt(t, peak.dtype)

    def rescaled(part: TiltedMean) -> jax.Array:
        gap = jnp.where(part.weight > 0, part.peak - peak, jnp.zeros_like(peak))
        return part.weight * jnp.exp(tilt * gap)

    weight_b = rescaled(b)
    weight = rescaled(a) + weight_b
    share = jnp.where(weight > 0, weight_b / jnp.where(weight > 0, weight, 1), 0)
    mean = jax.tree.map(lambda x, y: x + share.astype(x.dtype) * (y - x), a.mean, b.mean)
    return TiltedMean(peak, weight, mean)
