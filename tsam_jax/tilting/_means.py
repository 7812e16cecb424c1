"""Means over samples by their weights: of all at once, or folded one by one."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from tsam_jax import _tree
from tsam_jax._checks import check_nonnegative
from tsam_jax._types import PyTree, Scalar
from tsam_jax.tilting._weights import finite_tilt, gap_to, prepare


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


def stacked_mean(losses: jax.Array, trees: PyTree, t: Scalar) -> TiltedMean:
    """The partial result of several samples at once.

    Args:
      losses: shape (s,); a sample whose loss is not finite does not count.
      trees: what is to be averaged, usually the gradients; a pytree of leaves (s, ...).
      t: tilt, >= 0, also 0 or infinity; shape (), may be traced.

    Returns:
      A `TiltedMean` whose `mean` is in float32 at least.

    Cost: none in gradient or loss evaluations.

    Example:
      >>> import jax.numpy as jnp
      >>> part = stacked_mean(jnp.array([0.0, jnp.log(3.0)]), jnp.array([1.0, 5.0]), 1.0)
      >>> round(part.mean.item(), 4), round(part.weight.item(), 4)
      (4.0, 1.3333)
    """
    losses, t, finite = prepare(losses, t)
    peak = jnp.max(losses, where=finite, initial=-jnp.inf)
    gap = gap_to(peak, losses, finite)
    weights = jnp.where(finite, jnp.exp(t * gap), jnp.zeros_like(gap))
    total = jnp.sum(weights)
    shares = _share(weights, total)
    wide = jax.tree.map(lambda x: x.astype(_tree.wide_dtype(x)), trees)
    return TiltedMean(peak, total, weighted_mean(wide, shares))


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
    weight_b = _weight_at(peak, b, t)
    weight = _weight_at(peak, a, t) + weight_b
    share = _share(weight_b, weight)
    mean = jax.tree.map(lambda x, y: x + share.astype(x.dtype) * (y - x), a.mean, b.mean)
    return TiltedMean(peak, weight, mean)


def merge_over(part: TiltedMean, t: Scalar, axis: str) -> TiltedMean:
    """Joins the partial results of the devices of a mesh axis, inside `jax.shard_map`.

    Args:
      part: partial result of the samples of this device.
      t: tilt, >= 0, also 0 or infinity; shape (), may be traced; the same in every merge.
      axis: name of the mesh axis.

    Returns:
      The partial result of all samples, the same on all devices.

    Cost: none in gradient or loss evaluations; one sum over the axis of the size of `part`, and
    one maximum of a number.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jax.sharding import PartitionSpec as P
      >>> mesh = jax.make_mesh((1,), ("sample",), axis_types=(jax.sharding.AxisType.Auto,))
      >>> part = tilted_mean(jnp.float32(2.0), jnp.float32(5.0))
      >>> over = jax.shard_map(
      ...     lambda part: merge_over(part, 1.0, "sample"), mesh=mesh, in_specs=P(), out_specs=P()
      ... )
      >>> over(part).mean.item()
      5.0
    """
    peak = jax.lax.pmax(part.peak, axis)
    own = _weight_at(peak, part, t)
    weight = jax.lax.psum(own, axis)
    share = _share(own, weight)

    def shared(x: jax.Array) -> jax.Array:
        return jnp.where(share > 0, share.astype(x.dtype) * x, jnp.zeros_like(x))

    return TiltedMean(peak, weight, jax.lax.psum(jax.tree.map(shared, part.mean), axis))


def _weight_at(peak: jax.Array, part: TiltedMean, t: Scalar) -> jax.Array:
    """The weight of a partial result where the largest loss is `peak`."""
    gap = gap_to(peak, part.peak, part.weight > 0)
    return part.weight * jnp.exp(finite_tilt(t, peak.dtype) * gap)


def _share(weight: jax.Array, total: jax.Array) -> jax.Array:
    return jnp.where(total > 0, weight / jnp.where(total > 0, total, 1), 0)
