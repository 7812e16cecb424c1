"""Pytree operations that `optax.tree` does not have.

Norms and scales are computed in float32 or wider; results have the dtypes of the leaves. Every
function is differentiable at zero.
"""

from typing import Any

import jax
import jax.numpy as jnp

from tsam_jax._checks import Mask, Params, PyTree, Scalar


def accumulator_dtype(*trees: PyTree) -> jnp.dtype:
    """The dtype for norms, losses and weights: float32, or wider if a leaf is wider."""
    dtypes = [jnp.result_type(x) for x in jax.tree.leaves(trees)]
    real = [jnp.finfo(dtype).dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.inexact)]
    with jax.numpy_dtype_promotion("standard"):  # users may have set strict promotion
        return jnp.result_type(jnp.float32, *real)


def wide_dtype(*arrays: Any) -> jnp.dtype:
    """The dtype for arithmetic on entries: `accumulator_dtype` or its complex counterpart."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(accumulator_dtype(arrays), *arrays)


def widened(tree: PyTree) -> PyTree:
    """The tree in float32 or wider."""
    return jax.tree.map(lambda x: x.astype(wide_dtype(x)), tree)


def like(tree: PyTree, other: PyTree) -> PyTree:
    """The tree in the dtypes of `other`."""
    return jax.tree.map(lambda x, y: x.astype(y.dtype), tree, other)


def size(tree: PyTree) -> int:
    """The number of real coordinates of `tree`: a complex entry has two."""
    return sum(x.size * (1 + jnp.iscomplexobj(x)) for x in jax.tree.leaves(tree))


def conjugate(tree: PyTree) -> PyTree:
    """The complex conjugate; real leaves are returned unchanged."""
    return jax.tree.map(lambda x: jnp.conj(x) if jnp.iscomplexobj(x) else x, tree)


def root(squares: jax.Array) -> jax.Array:
    """The square root, with derivative 0 at 0, where that of `jnp.sqrt` is infinite."""
    zero = squares == 0
    positive: jax.Array = jnp.sqrt(jnp.where(zero, 1, squares))
    return jnp.where(zero, jnp.zeros_like(positive), positive)


def filter_norms(x: jax.Array, filter_axes: tuple[int, ...]) -> jax.Array:
    """Norms of the slices of an array along some axes, without the last if no other is left.

    Args:
      x: an array, a leaf of the parameters.
      filter_axes: the axes that index filters; those before the last index stacked layers.

    Returns:
      Real norms in float32 or wider; the summed axes have length 1.

    Raises:
      ValueError: if `x` has at least two axes but lacks one of `filter_axes`.
    """
    axes = filter_axes if x.ndim > len(filter_axes) else filter_axes[:-1]
    if x.ndim > 1 and not all(-x.ndim <= axis < x.ndim for axis in axes):
        msg = f"`filter_axis` must be axes of every leaf, got {filter_axes} for shape {x.shape}."
        raise ValueError(msg)
    counted = {axis % x.ndim for axis in axes if x.ndim}
    others = tuple(axis for axis in range(x.ndim) if axis not in counted)
    wide = x.astype(wide_dtype(x))
    return root(jnp.sum(jnp.real(jnp.conj(wide) * wide), axis=others, keepdims=True))


def norm(tree: PyTree) -> jax.Array:
    """The Euclidean norm over all leaves together, in float32 or wider."""
    factors: tuple[jax.Array, jax.Array] = _scale_and_ratio(tree)
    return factors[0] * factors[1]


@jax.jit  # compiles the branch once, even if the user does not use `jit`
def _scale_and_ratio(tree: PyTree) -> tuple[jax.Array, jax.Array]:
    """Two factors of the norm; the first is a constant, neither 0 nor infinite."""

    def careful() -> tuple[jax.Array, jax.Array]:
        return _largest_and_ratio(tree)

    # Ratios need a second pass over the tree. A CPU skips it where squares are safe; on a GPU the
    # branch costs more than the pass.
    if jax.default_backend() != "cpu":
        return careful()
    # In float32, squares overflow above 2e19 and underflow below 1e-19; squares of ratios do not.
    squares = inner(tree, tree)
    safe = (squares > jnp.sqrt(jnp.finfo(squares.dtype).tiny)) & (squares < jnp.inf)

    def quick() -> tuple[jax.Array, jax.Array]:
        return jnp.ones_like(squares), root(jnp.where(safe, squares, jnp.ones_like(squares)))

    factors: tuple[jax.Array, jax.Array] = jax.lax.cond(safe, quick, careful)
    return factors


def _largest_and_ratio(tree: PyTree) -> tuple[jax.Array, jax.Array]:
    """A scale near the largest magnitude (1 if that is 0 or not finite), and norm / scale."""
    largest = jax.lax.stop_gradient(_largest(tree))  # the norm does not depend on it
    usable = (largest > 0) & (largest < jnp.inf)
    largest = jnp.minimum(largest, 1 / jnp.finfo(largest.dtype).tiny)  # XLA takes the inverse of it
    largest = jnp.where(usable, largest, jnp.ones_like(largest))

    def ratio(x: jax.Array) -> jax.Array:
        wide = wide_dtype(x, largest)
        return x.astype(wide) / largest.astype(wide)

    ratios = jax.tree.map(ratio, tree)
    return largest, root(inner(ratios, ratios))


def _largest(tree: PyTree) -> jax.Array:
    """The largest magnitude of an entry, in float32 or wider; NaN if an entry is NaN."""
    largest = jnp.zeros((), accumulator_dtype(tree))
    for x in jax.tree.leaves(tree):
        largest = jnp.maximum(largest, jnp.max(jnp.abs(x), initial=0).astype(largest.dtype))
    return largest


def inner(a: PyTree, b: PyTree) -> jax.Array:
    """The real inner product over all leaves together, in float32 or wider."""
    dtype = accumulator_dtype(a, b)

    def product(x: jax.Array, y: jax.Array) -> jax.Array:
        wide = wide_dtype(x, y)
        return jnp.sum(jnp.real(jnp.conj(x).astype(wide) * y.astype(wide))).astype(dtype)

    return sum(jax.tree.leaves(jax.tree.map(product, a, b)), start=jnp.zeros((), dtype))


def _times(x: jax.Array, factor: Scalar) -> jax.Array:
    factor = jnp.asarray(factor, accumulator_dtype(x)).astype(wide_dtype(x))
    return (factor * x.astype(wide_dtype(x))).astype(x.dtype)


def scale(tree: PyTree, factor: Scalar) -> PyTree:
    """Multiplies in float32 or wider and returns the dtypes of `tree`."""
    return jax.tree.map(lambda x: _times(x, factor), tree)


def multiply(tree: PyTree, factors: PyTree) -> PyTree:
    """The entrywise product; None in `tree`, as `select` leaves it, stays None."""
    times = lambda x, factor: None if x is None else _times(x, factor)  # noqa: E731
    return jax.tree.map(times, tree, factors, is_leaf=lambda x: x is None)


def unit(tree: PyTree) -> PyTree:
    """The tree divided by its norm: zero for a zero tree, all NaN if an entry is not finite."""
    return unit_and_finite(tree)[0]


def unit_and_finite(tree: PyTree) -> tuple[PyTree, jax.Array]:
    """`unit` and `all_finite` of a tree, at the cost of `unit`."""
    factors: tuple[jax.Array, jax.Array] = _scale_and_ratio(tree)
    scale, ratio = factors
    finite = ratio < jnp.inf
    ratio = jnp.where(finite, ratio, jnp.nan)
    ratio = jnp.where(ratio == 0, jnp.ones_like(ratio), ratio)

    def divided(x: jax.Array) -> jax.Array:
        wide = wide_dtype(x, scale)
        return (x.astype(wide) / scale.astype(wide) / ratio.astype(wide)).astype(x.dtype)

    return jax.tree.map(divided, tree), finite


def select(tree: PyTree, mask: Mask | None) -> PyTree:
    """Keeps the leaves that `mask` marks and replaces the others by None, an empty subtree."""
    return tree if mask is None else split(tree, mask)[0]


def split(tree: PyTree, mask: Mask | None) -> tuple[PyTree, PyTree]:
    """The leaves that `mask` marks, and the others; each with None in the gaps."""
    flags = flags_of(True if mask is None else mask, tree)
    kept = jax.tree.map(lambda flag, x: x if flag else None, flags, tree)
    return kept, jax.tree.map(lambda flag, x: None if flag else x, flags, tree)


def flags_of(mask: Mask, tree: PyTree) -> PyTree:
    """Booleans over the leaves: `mask`, or `mask(tree)` if it is a function."""
    is_function = any(map(callable, jax.tree.leaves(mask)))  # a model may be a callable pytree
    return jax.tree.broadcast(mask(tree) if is_function else mask, tree)


def replace(tree: PyTree, by: PyTree) -> PyTree:
    """`by` in the dtypes of `tree`; None means the leaf of `tree`."""
    replaced = lambda y, x: x if y is None else y.astype(x.dtype)  # noqa: E731
    return jax.tree.map(replaced, by, tree, is_leaf=lambda y: y is None)


def add(tree: Params, direction: PyTree, factor: Scalar = 1.0) -> Params:
    """Returns tree + factor * direction; None in `direction` leaves `tree` unchanged."""

    def moved(d: Any, x: jax.Array) -> Any:
        if d is None:
            return x
        wide = wide_dtype(x)
        step = jnp.asarray(factor, accumulator_dtype(x)).astype(wide) * d.astype(wide)
        return (x.astype(wide) + step).astype(x.dtype)

    return jax.tree.map(moved, direction, tree, is_leaf=lambda d: d is None)


def lerp(a: PyTree, b: PyTree, weight: Scalar) -> PyTree:
    """Returns (1 - weight) * a + weight * b, in the dtypes of `a`; weights beyond 1 are allowed."""

    def mixed(x: jax.Array, y: jax.Array) -> jax.Array:
        wide = wide_dtype(x)
        w = jnp.asarray(weight, accumulator_dtype(x)).astype(wide)
        return ((1 - w) * x.astype(wide) + w * y.astype(wide)).astype(x.dtype)

    return jax.tree.map(mixed, a, b)


def reject(a: PyTree, b: PyTree) -> PyTree:
    """The part of `a` that is orthogonal to `b`: a - <a, b> b / ||b||^2; `a` if `b` is zero."""
    return reject_and_cosine(a, b)[0]


def reject_and_cosine(a: PyTree, b: PyTree) -> tuple[PyTree, jax.Array]:
    """The part of `a` that is orthogonal to `b`, and the cosine of the angle between them.

    Returns:
      a - <a, b> b / ||b||^2, and <a, b> / (||a|| ||b||); `a` and 0 if `b` is zero.
    """
    b = unit(widened(b))  # its squares do not overflow
    squares, product, length = inner(b, b), inner(a, b), norm(a)
    share = jnp.where(squares > 0, product / jnp.where(squares > 0, squares, 1), 0)
    cosine = jnp.where(length > 0, product / jnp.where(length > 0, length, 1), 0)
    return add(a, b, -share), cosine


def all_finite(*trees: PyTree) -> jax.Array:
    """Whether every entry of every leaf is finite; shape (), bool."""
    floats = [x for x in jax.tree.leaves(trees) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]
    # A sum is finite only if all entries are; scaled down, no sum of finite entries overflows.
    sums = [jnp.sum(x.astype(wide_dtype(x)) * 2.0**-64) for x in floats]
    return jnp.isfinite(sum(sums, start=jnp.zeros((), accumulator_dtype(floats))))
