"""Communication of estimators over mesh axes inside `jax.shard_map`."""

from typing import Any

import jax
import jax.numpy as jnp

from tsam_jax import _tree
from tsam_jax._checks import AxisName, PyTree


def names(axis: AxisName) -> tuple[str, ...]:
    """The names of one axis or several, as a tuple."""
    return (axis,) if isinstance(axis, str) else tuple(axis)


def manual() -> tuple[str, ...]:
    """Axes of the surrounding `shard_map`: traced code runs per device along them."""
    return tuple(jax.sharding.get_abstract_mesh().manual_axes)


def on_one_cpu() -> bool:
    """Whether all arrays are unsharded on one CPU, so that loops may slice and combine them."""
    return jax.default_backend() == "cpu" and jax.device_count() == 1 and not manual()


def is_staged(*arrays: Any) -> bool:
    """Whether an array is traced.

    On concrete arrays `lax.scan`, `map` and `cond` recompile their body at every call.

    Returns:
      A Python boolean.
    """
    return any(isinstance(x, jax.core.Tracer) for x in arrays)


def varying_over(x: Any) -> frozenset[str]:
    """The mesh axes over which `shard_map` tracks an array, or its type, as varying."""
    # JAX 0.10 renamed the attribute from `vma`, which is None outside of `shard_map` in older
    # releases. Typed keys have neither.
    kind = getattr(x, "manual_axis_type", None)
    return kind.varying if kind is not None else getattr(x, "vma", None) or frozenset()


def as_varying(tree: PyTree, axis: AxisName) -> PyTree:
    """Casts a tree to the type of one that may vary over the axes.

    `shard_map` sums the gradient with respect to an array over the axes where it does not vary.

    Returns:
      The same numbers; the same arrays where `shard_map` does not check replication.
    """

    def cast(x: Any) -> Any:
        missing = tuple(name for name in names(axis) if name not in varying_over(jax.typeof(x)))
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(cast, tree)


def zeros_like(x: Any, dtype: jnp.dtype) -> jax.Array:
    """Zeros with the shape, sharding and varying axes of `x`, to start a `lax.scan`."""
    zeros = jnp.zeros(x.shape, dtype, device=x.sharding)
    varying: jax.Array = as_varying(zeros, tuple(sorted(varying_over(x))))
    return varying


def mean(tree: PyTree, axis: AxisName) -> PyTree:
    """The mean over the axes, in float32 or wider; integers, booleans and keys are unchanged."""

    def averaged(x: Any) -> Any:
        x = jnp.asarray(x)
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            return x
        return jax.lax.pmean(x.astype(_tree.wide_dtype(x)), names(axis)).astype(x.dtype)

    return jax.tree.map(averaged, tree)


def gather(tree: PyTree, axis: str) -> PyTree:
    """Concatenates the leading axes over the devices, in order; the result is replicated."""
    devices, own = jax.lax.axis_size(axis), jax.lax.axis_index(axis)

    def joined(x: Any) -> Any:
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            data = joined(jax.random.key_data(x))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
        numbers = x.astype(jnp.int32) if x.dtype == jnp.bool_ else x
        # a sum, because the result of `all_gather` is typed as varying
        placed = jnp.zeros((devices, *x.shape), numbers.dtype).at[own].set(numbers)
        total = jax.lax.psum(placed, axis)
        return total.reshape(devices * x.shape[0], *x.shape[1:]).astype(x.dtype)

    return jax.tree.map(joined, tree)


def share_of(axis: str, s: int) -> tuple[jax.Array, int]:
    """The samples that this device evaluates, of s spread over an axis.

    Returns:
      The index of its first sample, and the number of its samples.

    Raises:
      ValueError: if no `shard_map` has the axis, or its size does not divide s.
    """
    if axis not in manual():
        msg = (
            f"`sample_axis={axis!r}` must be an axis of a `jax.shard_map` around the step, which"
            f" has {list(manual()) or 'none'}: call `jax.shard_map(step, mesh=mesh, in_specs=P(),"
            f" out_specs=P(), axis_names={{{axis!r}}})`."
        )
        raise ValueError(msg)
    devices = jax.lax.axis_size(axis)
    if s % devices:
        msg = f"`sample_axis={axis!r}` must have a size that divides s = {s}, got {devices}."
        raise ValueError(msg)
    return jax.lax.axis_index(axis) * (s // devices), s // devices
