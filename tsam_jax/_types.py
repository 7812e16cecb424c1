"""Type aliases and protocols that the modules share."""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import jax

Params: TypeAlias = Any
"""A pytree of arrays."""

PyTree: TypeAlias = Any

Scalar: TypeAlias = float | jax.Array
"""A Python number, or an array of shape () which may be traced."""

ScalarOrSchedule: TypeAlias = Scalar | Callable[[jax.Array], Scalar]
"""A scalar, or an optax schedule: step count -> scalar."""

NoiseLaw: TypeAlias = Callable[[jax.Array, Params], Params]
"""`(key, params) -> perturbation`, with the structure, shapes and dtypes of `params`."""

Mask: TypeAlias = PyTree | Callable[[Params], PyTree]
"""Booleans over the leaves of the parameters (a prefix is enough), or a function of them."""

KeyLike: TypeAlias = int | jax.Array
"""An integer seed or a PRNG key."""

AxisName: TypeAlias = str | tuple[str, ...]
"""The name of a mesh axis, or of several."""

AuxPolicy: TypeAlias = Literal["first", "mean", "clean"]
"""Whose auxiliary output a sampled method returns: see `tsam_jax.methods.tsam`."""

Strategy: TypeAlias = Literal["auto", "vectorized", "unrolled", "streamed"]
"""How the samples of a step are evaluated: see `tsam_jax.execution`."""
