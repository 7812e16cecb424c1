"""Moving averages of gradients, which VaSSO and F-SAM keep in their state."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from tsam_jax import _tree
from tsam_jax._types import Mask, Params, PyTree, Scalar
from tsam_jax.methods._common import dtype_of_state


class AverageState(NamedTuple):
    """State of a method that averages gradients over steps.

    Attributes:
      step: steps taken; shape (), int32.
      average: moving average of the gradients at the parameters; structure and shapes of the
        parameters, None where the mask is False; float32, or the widest dtype of the parameters
        if that is wider. 0 before the first step.
    """

    step: jax.Array
    average: PyTree


def zero_average(params: Params, mask: Mask | None) -> PyTree:
    """An average of nothing yet."""
    dtype = dtype_of_state(params)

    def zeros(x: jax.Array) -> jax.Array:
        return jnp.zeros_like(x, dtype=_tree.wide_dtype(x, dtype))

    return jax.tree.map(zeros, _tree.select(params, mask))


def averaged(state: AverageState, grad: PyTree, share: Scalar) -> PyTree:
    """(1 - share) average + share grad; grad if there was none yet that is finite and not 0."""
    entries = [jnp.any(x != 0) for x in jax.tree.leaves(state.average)]
    share = jnp.where(jnp.any(jnp.array(entries, bool)), share, 1.0)
    updated = _tree.lerp(state.average, grad, share)
    finite = _tree.all_finite(grad)  # else it is left out: the average would never recover
    return jax.tree.map(lambda new, old: jnp.where(finite, new, old), updated, state.average)
