"""VaSSO: an ascent along a moving average of the gradients."""

import optax

from tsam_jax import _tree
from tsam_jax._checks import check_nonnegative, is_static_zero
from tsam_jax._types import Mask, Params, PyTree, ScalarOrSchedule
from tsam_jax.estimator import Cost, Evaluation, GradientEstimator, Oracle
from tsam_jax.methods._averages import AverageState, averaged, zero_average
from tsam_jax.methods._common import ascend, at, check_share, zero_step
from tsam_jax.methods._erm import erm


def vasso(
    rho: ScalarOrSchedule, theta: ScalarOrSchedule = 0.9, *, mask: Mask | None = None
) -> GradientEstimator:
    r"""VaSSO: SAM whose ascent follows a moving average of the gradients.

    One batch's gradient is a noisy direction to climb along; its average over steps is steadier.
    With the parameters $x_k$ of step k, $m_0 = g(x_0)$ and unit(0) = 0:

    $m_k = (1 - \theta) m_{k-1} + \theta g(x_k), \quad (1) \qquad
    \hat g = g\left(x_k + \rho \frac{m_k}{\lVert m_k \rVert}\right). \quad (2)$

    Args:
      rho: length of the ascent step, >= 0, l2 over the masked leaves together; a number, a
        traced scalar, or a schedule on this method's step counter.
      theta: share of the new gradient in the average, between 0 and 1; 1 is SAM. A number, a
        traced scalar, or a schedule.
      mask: which leaves are perturbed, as for `sam`. Default: all.

    Returns:
      A `GradientEstimator` with state `AverageState`; `value` is the loss at the perturbed point
      and `aux` is that of the parameters, the first evaluation.

    Raises:
      ValueError: if a number is out of its range.
      TypeError: if an argument is no number or schedule.

    Cost: 2 gradient evaluations a step, and the memory of one gradient; 1 if `rho` is the
    number 0, which is ERM.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax import value_and_grad
      >>> loss = lambda x, slope: jnp.sum(slope * x) + jnp.sum(x**2) / 2
      >>> estimator = vasso(rho=0.5, theta=0.5)
      >>> step, x = value_and_grad(loss, estimator), jnp.zeros(2)
      >>> _, state = step(x, estimator.init(x), jnp.array([4.0, 0.0]))
      >>> (value, grad), state = step(x, state, jnp.array([0.0, 4.0]))
      >>> state.average.tolist()
      [2.0, 2.0]
      >>> [round(g, 4) for g in grad.tolist()]  # (0, 4) + 0.5 (1, 1) / sqrt(2)
      [0.3536, 4.3536]

    Source: Li and Giannakis, "Enhancing Sharpness-Aware Optimization Through Variance
    Suppression", NeurIPS 2023; its code for the first step, the absence of a bias correction and
    the default theta. Deviations from the code: the norm is not enlarged by 1e-7; a gradient that
    is not finite is left out of the average, which the first finite one starts.
    """
    check_nonnegative("vasso", rho=rho)
    check_share("vasso", theta=theta)
    if is_static_zero(rho):
        return erm()

    def init(params: Params) -> AverageState:
        return AverageState(zero_step(), zero_average(params, mask))

    def estimate(oracle: Oracle, params: Params, state: PyTree, /) -> tuple[Evaluation, PyTree]:
        step = state.step
        first = oracle.evaluate(params)
        m = averaged(state, _tree.select(first.grad, mask), at(theta, step))  # (1)
        point = ascend(params, m, at(rho, step), None)
        here = oracle.evaluate(point)  # (2)
        return here._replace(aux=first.aux), AverageState(optax.safe_increment(step), m)

    return GradientEstimator(init, estimate, Cost(gradients=2))
