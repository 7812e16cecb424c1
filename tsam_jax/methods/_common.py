"""What several methods share: schedules, keys, the ascent step, the sampled state."""

import numbers
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tsam_jax import _tree
from tsam_jax._checks import check_nonnegative, check_parameters, is_static_number
from tsam_jax._types import KeyLike, Mask, Params, PyTree, Scalar, ScalarOrSchedule

AUX_POLICIES = ("first", "mean", "clean")


class HalfPrecisionWarning(UserWarning):
    """Perturbations are added to parameters too coarse to hold them."""


class StepState(NamedTuple):
    """State of a method that follows schedules.

    Attributes:
      step: steps taken; shape (), int32.
    """

    step: jax.Array


def dtype_of_state(params: Params) -> jnp.dtype:
    """The dtype of the losses and weights in a state; refuses parameters without gradient."""
    check_parameters(params)
    return _tree.accumulator_dtype(params)


def zero_step() -> jax.Array:
    """A step counter at 0."""
    return jnp.zeros((), jnp.int32)


def at(value: ScalarOrSchedule, step: jax.Array) -> Scalar:
    """The value of a number or schedule at a step."""
    return value(step) if callable(value) else value


def as_key(key: KeyLike) -> Any:
    """A typed PRNG key of its own buffer, from a seed, a typed key or a legacy uint32 key."""
    if isinstance(key, numbers.Integral):
        return jax.random.key(int(key))
    key = jnp.asarray(key)
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return jnp.copy(key)  # states may be donated, and the user's key must survive that
    if key.ndim == 0 and jnp.issubdtype(key.dtype, jnp.integer):
        return jax.random.key(key)
    return jax.random.wrap_key_data(key.copy())


def displace(params: Params, direction: PyTree, factor: Scalar = 1.0) -> Params:
    """The point params + factor * direction; warns of parameters too coarse for that."""

    def coarse(d: Any, x: jax.Array) -> str | None:
        return None if d is None or jnp.finfo(x.dtype).bits >= 32 else str(x.dtype)

    dtypes = jax.tree.map(coarse, direction, params, is_leaf=lambda d: d is None)
    for dtype in sorted(set(jax.tree.leaves(dtypes))):
        msg = (
            f"A perturbation is added to {dtype} parameters, where steps below half a spacing"
            " vanish. Keep the parameters in float32 and cast them inside the loss (flax:"
            f" `dtype=jnp.{dtype}, param_dtype=jnp.float32`)."
        )
        # from this one line for all methods, so that Python shows it once a dtype
        warnings.warn(msg, HalfPrecisionWarning, stacklevel=1)
    return _tree.add(params, direction, factor)


def ascend(
    params: Params, grad: Params, rho: Scalar, mask: Mask | None, sizes: PyTree = None
) -> Params:
    """The point params + rho * T^2 grad / ||T grad|| over the masked leaves; `params` if that is 0.

    Args:
      params: where the ascent starts.
      grad: its direction: the gradient there, or what a method has in its place.
      rho: its length in the metric of T.
      mask: which leaves are perturbed.
      sizes: the diagonal operator T: see `sizes_of`. Default: 1.

    Returns:
      The point, in the dtypes of `params`.
    """
    direction = _tree.select(grad, mask)
    if sizes is None:
        return displace(params, _tree.unit(direction), rho)
    direction = _tree.unit(_tree.multiply(direction, sizes))
    return displace(params, _tree.multiply(direction, sizes), rho)


def sizes_of(params: Params, adapt: Mask, eta: Scalar) -> PyTree:
    """ASAM's T: |params| + eta, in float32 at least, on the leaves that `adapt` names; else 1."""

    def size(adapted: Any, x: jax.Array) -> jax.Array:
        dtype = _tree.accumulator_dtype(x)
        if not adapted:
            return jnp.ones((), dtype)
        return jnp.abs(x).astype(dtype) + jnp.asarray(eta, dtype)

    flags = jax.tree.broadcast(adapt(params) if callable(adapt) else adapt, params)
    return jax.tree.map(size, flags, params)


def widened(tree: PyTree) -> PyTree:
    """The tree in float32 at least."""
    return jax.tree.map(lambda x: x.astype(_tree.wide_dtype(x)), tree)


def check_share(owner: str, /, **arguments: Any) -> None:
    """Refuses numbers outside 0..1."""
    check_nonnegative(owner, **arguments)
    for name, x in arguments.items():
        if is_static_number(x) and x > 1:
            msg = f"`{owner}({name}=...)` must be a number between 0 and 1, got {x!r}."
            raise ValueError(msg)
