"""SAM on every k-th step, and its direction in between."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from tsam_jax import _tree
from tsam_jax._checks import check_nonnegative, check_positive_int, is_static_zero
from tsam_jax._types import Mask, Params, PyTree, ScalarOrSchedule
from tsam_jax.estimator import Cost, Evaluation, GradientEstimator, Oracle
from tsam_jax.methods._averages import zero_average
from tsam_jax.methods._common import ascend, at, zero_step
from tsam_jax.methods._erm import erm


class LookState(NamedTuple):
    """State of `looksam`.

    Attributes:
      step: steps taken; shape (), int32.
      sharp: g_v, what the last SAM step added to the plain gradient, orthogonal to it; structure
        and shapes of the parameters; float32, or the widest dtype of the parameters if that is
        wider. 0 before the first step.
    """

    step: jax.Array
    sharp: Params


def looksam(
    rho: ScalarOrSchedule,
    *,
    every: int = 5,
    alpha: ScalarOrSchedule = 0.7,
    mask: Mask | None = None,
) -> GradientEstimator:
    r"""LookSAM: SAM on every k-th step; in between, the plain gradient and what SAM last added.

    Estimates SAM's gradient. Every k-th step, the first included, takes it, and stores its part
    that is orthogonal to the plain gradient, which changes slowly; the others add that part,
    rescaled, to the plain gradient:

    $\hat g = g_s = g \left( \theta + \rho \frac{g(\theta)}{\lVert g(\theta) \rVert} \right),
    \quad (1) \qquad g_v = g_s - \frac{\langle g_s, g(\theta) \rangle}
    {\lVert g(\theta) \rVert^2} g(\theta), \quad (2) \qquad \text{else} \quad
    \hat g = g(\theta) + \alpha \lVert g(\theta) \rVert \frac{g_v}{\lVert g_v \rVert}. \quad (3)$

    Args:
      rho: length of the ascent, >= 0, l2 over the masked leaves together; a number, a traced
        scalar, or a schedule on this method's step counter.
      every: k, steps from one SAM step to the next, a positive integer, known before tracing. 1
        is SAM.
      alpha: length of the added part, relative to the plain gradient, >= 0; a number, a traced
        scalar, or a schedule.
      mask: booleans over the leaves (a prefix of the tree is enough), or a function of the
        parameters that returns them; only leaves marked True are perturbed. Default: all.

    Returns:
      A `GradientEstimator` with state `LookState`; `value` is $L(\theta)$ in every step and `aux`
      is that of theta.

    Raises:
      ValueError: if `rho` or `alpha` is a negative number or not finite, or `every` < 1.
      TypeError: if `every` is not an integer.

    Cost: 1 + 1/every gradient evaluations a step: 2 in every k-th, else 1; under `vmap`, always 2.
    1 if `rho` is the number 0, which is ERM.

    Example:
      >>> looksam(rho=0.1, every=5).cost.gradients
      1.2

    Source: Liu et al., "Towards Efficient and Scalable Sharpness-Aware Minimization", CVPR 2022,
    Algorithm 1. Deviations: a g_v that is no more than rounding (parallel gradients, as of a
    single parameter) counts as 0 and is not blown up to full length; one that is not finite is
    not stored.
    """
    check_nonnegative("looksam", rho=rho, alpha=alpha)
    check_positive_int("looksam", every=every)
    if is_static_zero(rho):
        return erm()

    def init(params: Params) -> LookState:
        return LookState(zero_step(), zero_average(params, None))

    def estimate(oracle: Oracle, params: Params, state: PyTree, /) -> tuple[Evaluation, PyTree]:
        step, sharp = state
        first = oracle.evaluate(params)

        def look() -> tuple[Params, Params]:
            grad = oracle.evaluate(ascend(params, first.grad, at(rho, step), mask)).grad  # (1)
            wide = jax.tree.map(lambda x, like: x.astype(like.dtype), grad, sharp)
            return grad, _keep(_tree.reject(wide, first.grad), grad, sharp)  # (2)

        def reuse() -> tuple[Params, Params]:
            length = at(alpha, step) * _tree.norm(first.grad)
            return _tree.add(first.grad, _tree.unit(sharp), length), sharp  # (3)

        grad, sharp = jax.lax.cond(step % every == 0, look, reuse)
        return first._replace(grad=grad), LookState(optax.safe_increment(step), sharp)

    return GradientEstimator(init, estimate, Cost(gradients=1 + 1 / every))


def _keep(new: Params, grad: Params, old: Params) -> Params:
    """`new`, but 0 if it is no more than rounding of `grad`, and `old` if it is not finite."""
    rounding = max([float(jnp.finfo(x.dtype).eps) for x in jax.tree.leaves(grad)], default=0.0)
    new = _tree.scale(new, ~(_tree.norm(new) <= 4 * rounding * _tree.norm(grad)))
    finite = _tree.all_finite(new)
    return jax.tree.map(lambda x, y: jnp.where(finite, x, y), new, old)
