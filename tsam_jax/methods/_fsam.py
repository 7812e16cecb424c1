"""Friendly SAM: an ascent along what is new in the gradient."""

import jax
import optax

from tsam_jax import _tree
from tsam_jax._checks import check_nonnegative, is_static_zero
from tsam_jax._types import Mask, Params, PyTree, ScalarOrSchedule
from tsam_jax.estimator import Cost, Evaluation, GradientEstimator, Oracle
from tsam_jax.methods._averages import AverageState, averaged, zero_average
from tsam_jax.methods._common import ascend, at, check_share, sizes_of, zero_step
from tsam_jax.methods._erm import erm


def fsam(
    rho: ScalarOrSchedule,
    sigma: ScalarOrSchedule = 1.0,
    lmbda: ScalarOrSchedule = 0.9,
    *,
    adapt: Mask = False,
    eta: ScalarOrSchedule = 0.01,
    mask: Mask | None = None,
) -> GradientEstimator:
    r"""F-SAM: SAM whose ascent leaves out the moving average of the gradients.

    The average stands for the gradient over all data; what this batch adds to it is the direction
    to climb along. With the parameters $\theta_k$ of step k and unit(0) = 0:

    $d_k = g(\theta_k) - \sigma m_{k-1}, \quad (1) \qquad
    m_k = \lambda m_{k-1} + (1 - \lambda) g(\theta_k), \quad (2) \qquad
    \hat g = g\left(\theta_k + \rho \frac{d_k}{\lVert d_k \rVert}\right), \quad (3)$

    and in the first step $d_0 = m_0 = g(\theta_0)$, which is SAM. Where gradients do not change
    from step to step and sigma is 1, d is the difference of equal numbers, so its direction is
    that of rounding.

    Args:
      rho: length of the ascent step, >= 0, l2 over the masked leaves together; a number, a
        traced scalar, or a schedule on this method's step counter.
      sigma: how much of the average is left out, >= 0; 0 is SAM. A number, a traced scalar, or a
        schedule.
      lmbda: share of the past in the average, between 0 and 1; a number, a traced scalar, or a
        schedule.
      adapt: leaves whose ascent is measured in units of their sizes, as for `asam`. Default: none.
      eta: added to the sizes of these leaves, as for `asam`.
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
      >>> estimator = fsam(rho=0.5, sigma=1.0, lmbda=0.5)
      >>> step, x = value_and_grad(loss, estimator), jnp.zeros(2)
      >>> _, state = step(x, estimator.init(x), jnp.array([4.0, 0.0]))
      >>> (value, grad), state = step(x, state, jnp.array([4.0, 3.0]))
      >>> [round(g, 4) for g in grad.tolist()]  # (4, 3) + 0.5 ((4, 3) - (4, 0)) / 3
      [4.0, 3.5]
      >>> state.average.tolist()
      [4.0, 1.5]

    Source: Li et al., "Friendly Sharpness-Aware Minimization", CVPR 2024; its code for the first
    step and the defaults. (1) takes the average before this step's gradient enters it, as the
    code does. pytorch_optimizer's FriendlySAM differs: it feeds d to the average in place of g.
    Deviation from the code, whose adaptive form is `adapt=True, eta=0`: a gradient that is not
    finite is left out of the average, which the first finite one starts.
    """
    check_nonnegative("fsam", rho=rho, sigma=sigma, eta=eta)
    check_share("fsam", lmbda=lmbda)
    if is_static_zero(rho):
        return erm()

    def init(params: Params) -> AverageState:
        return AverageState(zero_step(), zero_average(params, mask))

    def estimate(oracle: Oracle, params: Params, state: PyTree, /) -> tuple[Evaluation, PyTree]:
        step = state.step
        first = oracle.evaluate(params)
        g = _tree.select(first.grad, mask)
        g = jax.tree.map(lambda x, m: x.astype(m.dtype), g, state.average)
        d = _tree.add(g, state.average, -at(sigma, step))  # (1); the average starts at 0
        m = averaged(state, g, 1 - at(lmbda, step))  # (2)
        sizes = None if adapt is False else sizes_of(params, adapt, at(eta, step))
        point = ascend(params, d, at(rho, step), None, sizes)
        here = oracle.evaluate(point)  # (3)
        return here._replace(aux=first.aux), AverageState(optax.safe_increment(step), m)

    return GradientEstimator(init, estimate, Cost(gradients=2))
