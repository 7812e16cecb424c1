"""Adaptive Sharpness-Aware Minimization."""

import jax
import jax.numpy as jnp
import optax

from tsam_jax._checks import check_nonnegative, is_static_zero
from tsam_jax._types import Mask, Params, PyTree, ScalarOrSchedule
from tsam_jax.estimator import Cost, Evaluation, GradientEstimator, Oracle
from tsam_jax.methods._common import StepState, ascend, at, sizes_of, zero_step
from tsam_jax.methods._erm import erm


def matrices(params: Params) -> PyTree:
    """Marks the leaves of at least two axes: weights, and neither biases nor BatchNorm's scales.

    Args:
      params: pytree of arrays.

    Returns:
      Booleans over the leaves: a mask.

    Example:
      >>> import jax.numpy as jnp
      >>> matrices({"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)})
      {'bias': False, 'kernel': True}
    """
    return jax.tree.map(lambda x: jnp.ndim(x) > 1, params)


def asam(
    rho: ScalarOrSchedule,
    *,
    eta: ScalarOrSchedule = 0.01,
    adapt: Mask = matrices,
    mask: Mask | None = None,
) -> GradientEstimator:
    r"""ASAM: SAM whose ascent is measured in units of the parameters' own sizes.

    Estimates the gradient of $\max_{\lVert T^{-1} e \rVert \le \rho} L(\theta + e)$, with the
    diagonal $T = \lvert \theta \rvert + \eta$ on the adapted leaves and 1 elsewhere, by

    $e = \rho \frac{T^2 g(\theta)}{\lVert T g(\theta) \rVert}, \quad (1) \qquad
    \hat g = g(\theta + e). \quad (2)$

    Rescaling two layers so that the network stays the same does not change how sharp it is.

    Args:
      rho: length of the ascent in the metric of T, >= 0, over the masked leaves together; a
        number, a traced scalar, or a schedule on this method's step counter. About ten times
        that of `sam`: the authors use 0.5 to 1.
      eta: added to the sizes, >= 0, so that parameters that are 0 move too; a number, a traced
        scalar, or a schedule.
      adapt: booleans over the leaves (a prefix of the tree is enough), or a function of the
        parameters that returns them: where T is not 1. Default: leaves of at least two axes.
        True is all leaves, for which the best rho is another one, some four times as large.
      mask: in the same form, which leaves are perturbed. Default: all.

    Returns:
      A `GradientEstimator` with state `StepState`; `value` is $L(\theta + e)$ and `aux` is that
      of theta.

    Raises:
      ValueError: if `rho` or `eta` is a negative number or not finite.

    Cost: 2 gradient evaluations a step; 1 if `rho` is the number 0, which is ERM.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax import value_and_grad
      >>> estimator, x = asam(rho=0.1, eta=0.0, adapt=True), jnp.array([1.0, 0.0])
      >>> loss = lambda x: jnp.sum((x + 1) ** 2)
      >>> (value, grad), _ = value_and_grad(loss, estimator)(x, estimator.init(x))
      >>> [round(g, 4) for g in grad.tolist()]  # e = (0.1, 0): what is 0 stays there
      [4.2, 2.0]

    Source: Kwon et al., "ASAM: Adaptive Sharpness-Aware Minimization for Scale-Invariant
    Learning of Deep Neural Networks", ICML 2021, Algorithm 1. The authors' code adapts the
    parameters with "weight" in their names, BatchNorm's scales included; `adapt` says it without
    names. davda54/sam and its many copies are `adapt=True, eta=0`.
    """
    check_nonnegative("asam", rho=rho, eta=eta)
    if is_static_zero(rho):
        return erm()

    def init(params: Params) -> StepState:
        del params
        return StepState(zero_step())

    def estimate(oracle: Oracle, params: Params, state: PyTree, /) -> tuple[Evaluation, PyTree]:
        first = oracle.evaluate(params)
        sizes = sizes_of(params, adapt, at(eta, state.step))  # T
        point = ascend(params, first.grad, at(rho, state.step), mask, sizes)  # (1)
        last = oracle.evaluate(point)  # (2)
        state = StepState(optax.safe_increment(state.step))
        return last._replace(aux=first.aux), state

    return GradientEstimator(init, estimate, Cost(gradients=2))
