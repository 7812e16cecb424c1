"""Surrogate-gap guided Sharpness-Aware Minimization, and its schedule of rho."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from tsam_jax import _tree
from tsam_jax._checks import check_nonnegative, is_static_number, is_static_zero
from tsam_jax._types import Mask, Params, PyTree, Scalar, ScalarOrSchedule
from tsam_jax.estimator import Cost, Evaluation, GradientEstimator, Oracle
from tsam_jax.methods._common import StepState, ascend, at, sizes_of, zero_step
from tsam_jax.methods._erm import erm


def gsam(
    rho: ScalarOrSchedule,
    alpha: ScalarOrSchedule,
    *,
    adapt: Mask = False,
    eta: ScalarOrSchedule = 0.01,
    mask: Mask | None = None,
) -> GradientEstimator:
    r"""GSAM: SAM that also closes the gap between the worst loss nearby and the loss itself.

    Minimises $L(\theta')$ and the gap $L(\theta') - L(\theta)$ together, by the part of the plain
    gradient that is orthogonal to SAM's, and so does not change $L(\theta')$ to first order:

    $\theta' = \theta + \rho \frac{g(\theta)}{\lVert g(\theta) \rVert}, \quad (1) \qquad
    g_\perp = g(\theta) - \frac{\langle g(\theta), g(\theta') \rangle}
    {\lVert g(\theta') \rVert^2} g(\theta'), \quad (2) \qquad
    \hat g = g(\theta') - \alpha g_\perp. \quad (3)$

    Args:
      rho: length of the ascent, >= 0, l2 over the masked leaves together; a number, a traced
        scalar, or a schedule on this method's step counter, such as the authors' own
        `rho_from_lr`.
      alpha: weight of the gap, >= 0; a number, a traced scalar, or a schedule. 0 is SAM; the
        authors use 0.4 and 0.6.
      adapt: leaves whose ascent is measured in units of their sizes, as for `asam`. Default: none.
      eta: added to the sizes of these leaves, as for `asam`.
      mask: booleans over the leaves (a prefix of the tree is enough), or a function of the
        parameters that returns them; only leaves marked True are perturbed. Default: all.

    Returns:
      A `GradientEstimator` with state `StepState`; `value` is $L(\theta')$ and `aux` is that of
      theta.

    Raises:
      ValueError: if `rho`, `alpha` or `eta` is a negative number or not finite.

    Cost: 2 gradient evaluations a step; 1 if `rho` is the number 0, which is ERM.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax import value_and_grad
      >>> estimator, x = gsam(rho=0.1, alpha=0.4), jnp.array([3.0, 4.0])
      >>> loss = lambda x: jnp.sum(x**2)
      >>> (value, grad), _ = value_and_grad(loss, estimator)(x, estimator.init(x))
      >>> [round(g, 4) for g in grad.tolist()]  # parallel gradients: SAM's
      [6.12, 8.16]

    Source: Zhuang et al., "Surrogate Gap Minimization Improves Sharpness-Aware Training", ICLR
    2022, Algorithm 1. Deviations: none of the mathematics; a zero gradient gives a zero one, and
    not NaN as in the authors' JAX code.
    """
    check_nonnegative("gsam", rho=rho, alpha=alpha, eta=eta)
    if is_static_zero(rho):
        return erm()

    def init(params: Params) -> StepState:
        del params
        return StepState(zero_step())

    def estimate(oracle: Oracle, params: Params, state: PyTree, /) -> tuple[Evaluation, PyTree]:
        step = state.step
        first = oracle.evaluate(params)
        sizes = None if adapt is False else sizes_of(params, adapt, at(eta, step))
        last = oracle.evaluate(ascend(params, first.grad, at(rho, step), mask, sizes))  # (1)
        orthogonal = _tree.reject(first.grad, last.grad)  # (2)
        grad = _tree.add(last.grad, orthogonal, -at(alpha, step))  # (3)
        return Evaluation(last.value, first.aux, grad), StepState(optax.safe_increment(step))

    return GradientEstimator(init, estimate, Cost(gradients=2))


def rho_from_lr(
    lr: ScalarOrSchedule, *, rho_min: Scalar, rho_max: Scalar, lr_min: Scalar, lr_max: Scalar
) -> Callable[[jax.Array], jax.Array]:
    r"""A schedule of rho that follows a learning rate, for any method.

    $\rho_k = \rho_{min} + (\rho_{max} - \rho_{min}) \frac{\eta_k - \eta_{min}}{\eta_{max} -
    \eta_{min}}.$

    Args:
      lr: the learning rate: the schedule that the base optimizer has, or a number.
      rho_min: rho at `lr_min`, >= 0.
      rho_max: rho at `lr_max`, >= 0; and at all times if `lr_max` is `lr_min`.
      lr_min: smallest learning rate, >= 0.
      lr_max: largest learning rate, >= `lr_min`.

    Returns:
      A schedule: step count -> rho. Learning rates beyond the two ends give the rho of that end.

    Raises:
      ValueError: if a number is negative or not finite, or `lr_min` is above `lr_max`.

    Example:
      >>> import optax
      >>> lr = optax.linear_schedule(0.1, 0.0, 10)
      >>> rho = rho_from_lr(lr, rho_min=0.1, rho_max=0.5, lr_min=0.0, lr_max=0.1)
      >>> [round(float(rho(step)), 4) for step in (0, 5, 10)]
      [0.5, 0.3, 0.1]

    Source: Zhuang et al. 2022, Algorithm 1. Deviation: the ends are kept, where a learning rate
    that warms up from below `lr_min` could make the authors' rho negative.
    """
    check_nonnegative("rho_from_lr", rho_min=rho_min, rho_max=rho_max)
    check_nonnegative("rho_from_lr", lr_min=lr_min, lr_max=lr_max)
    if is_static_number(lr_min) and is_static_number(lr_max) and lr_min > lr_max:
        msg = f"`rho_from_lr(lr_min=...)` must be at most lr_max = {lr_max!r}, got {lr_min!r}."
        raise ValueError(msg)

    def schedule(step: jax.Array) -> jax.Array:
        width = jnp.asarray(lr_max - lr_min)
        share = (at(lr, step) - lr_min) / jnp.where(width > 0, width, 1)
        share = jnp.where(width > 0, jnp.clip(share, 0, 1), 1)
        return rho_min + (rho_max - rho_min) * share

    return schedule
