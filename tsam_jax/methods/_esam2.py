"""SAM with a search for the step size along the gradient."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tsam_jax import _tree
from tsam_jax._checks import check_nonnegative, is_static_zero
from tsam_jax._types import Mask, Params, PyTree, ScalarOrSchedule
from tsam_jax.estimator import Cost, Evaluation, GradientEstimator, Oracle
from tsam_jax.methods._common import at, displace, dtype_of_state, zero_step
from tsam_jax.methods._erm import erm


class RayState(NamedTuple):
    """State of `esam2`, with the diagnostics of its last step.

    Attributes:
      step: steps taken; shape (), int32.
      rho: the step size that was chosen; shape (), float32 at least.
      losses: loss at each step size, from the smallest to the largest; shape (K,), float32 at
        least.
    """

    step: jax.Array
    rho: jax.Array
    losses: jax.Array


def esam2(
    rhos: Sequence[ScalarOrSchedule] | np.ndarray | jax.Array, *, mask: Mask | None = None
) -> GradientEstimator:
    r"""ESAM2: the gradient at the worst of several step sizes along the gradient.

    A budget of TSAM's kind spent on the ascent of SAM: estimates the gradient of
    $\max_k L(\theta + \rho_k u)$ by

    $u = \frac{g(\theta)}{\lVert g(\theta) \rVert}, \quad (1) \qquad
    k^* = \arg\max_k L(\theta + \rho_k u), \quad (2) \qquad
    \hat g = g(\theta + \rho_{k^*} u). \quad (3)$

    Of step sizes that tie, the smallest is chosen; of those whose loss is not finite, none.

    Args:
      rhos: the K step sizes, in any order, each >= 0, l2 over the masked leaves together: a
        sequence of numbers, traced scalars or schedules on this method's step counter, or an
        array of shape (K,). A geometric grid is `numpy.geomspace(0.05, 0.8, 5)`.
      mask: booleans over the leaves (a prefix of the tree is enough), or a function of the
        parameters that returns them; only leaves marked True are perturbed. Default: all.

    Returns:
      A `GradientEstimator` with state `RayState`; `value` is $L(\theta + \rho_{k^*} u)$ and `aux`
      is that of theta.

    Raises:
      ValueError: if `rhos` is empty, or a number in it is negative or not finite.
      TypeError: if `rhos` is not a sequence.

    Cost: 2 gradient evaluations and K loss evaluations a step; 1 gradient evaluation if all
    `rhos` are the number 0, which is ERM. With a forward pass at a third of a gradient, K = 12
    or 24 costs what TSAM does with s = 3 or 5.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax import value_and_grad
      >>> estimator, x = esam2(rhos=(0.5, 1.0, 2.0)), jnp.float32(0.5)
      >>> loss = lambda x: jnp.sin(x)
      >>> (value, grad), state = value_and_grad(loss, estimator)(x, estimator.init(x))
      >>> state.rho.item()  # pi / 2 is 1.07 away
      1.0

    Source: the baseline "ESAM2" of Li et al., "Tilted Sharpness-Aware Minimization", ICML 2025,
    which describes it in one sentence, without K, the grid or code. It is not the "Efficient SAM"
    of Du et al. 2022. ESAM1, the paper's other one, is `sam` for more steps.
    """
    if isinstance(rhos, str) or not isinstance(rhos, (Sequence, np.ndarray, jax.Array)):
        msg = f"`esam2(rhos=...)` must be a sequence of step sizes, got {rhos!r}."
        raise TypeError(msg)
    sizes = tuple(rhos)
    if not sizes:
        msg = "`esam2(rhos=...)` must have at least one step size, got none."
        raise ValueError(msg)
    for rho in sizes:
        check_nonnegative("esam2", rhos=rho)
    if all(map(is_static_zero, sizes)):
        return erm()

    def init(params: Params) -> RayState:
        dtype = dtype_of_state(params)
        return RayState(zero_step(), jnp.zeros((), dtype), jnp.zeros(len(sizes), dtype))

    def estimate(oracle: Oracle, params: Params, state: PyTree, /) -> tuple[Evaluation, PyTree]:
        like = state.losses
        lengths = jnp.stack([jnp.asarray(at(rho, state.step), like.dtype) for rho in sizes])
        lengths = jnp.sort(lengths)  # so that argmax, which takes the first, takes the smallest
        first = oracle.evaluate(params)
        direction = _tree.unit(_tree.select(first.grad, mask))  # (1)

        def point_at(rho: jax.Array) -> Params:
            return displace(params, direction, rho)

        # in a loop, where forward passes are as fast as one by one, also of convolutions
        losses = jax.lax.map(lambda rho: oracle.value(point_at(rho))[0], lengths)
        worst = jnp.argmax(jnp.where(jnp.isfinite(losses), losses, -jnp.inf))  # (2)
        chosen = lengths[worst]
        last = oracle.evaluate(point_at(chosen))  # (3)
        step = optax.safe_increment(state.step)
        return last._replace(aux=first.aux), RayState(step, chosen, losses.astype(like.dtype))

    return GradientEstimator(init, estimate, Cost(gradients=2, values=len(sizes)))
