"""What several methods share: schedules, keys, the ascent step, the sampled state."""

import numbers
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tsam_jax import _tree
from tsam_jax._types import KeyLike, Mask, Params, Scalar, ScalarOrSchedule

AUX_POLICIES = ("first", "mean", "clean")


class StepState(NamedTuple):
    """State of a method that follows schedules.

    Attributes:
      step: steps taken; shape (), int32.
    """

    step: jax.Array


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


def ascend(params: Params, grad: Params, rho: Scalar, mask: Mask | None) -> Params:
    """The point params + rho * grad / ||grad|| over the masked leaves; `params` if grad is 0."""
    return _tree.add(params, _tree.unit(_tree.select(grad, mask)), rho)
