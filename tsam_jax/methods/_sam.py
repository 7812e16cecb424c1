"""Sharpness-Aware Minimization."""

import optax

from tsam_jax._checks import check_nonnegative, check_positive_int, is_static_zero
from tsam_jax._types import Mask, Params, PyTree, ScalarOrSchedule
from tsam_jax.estimator import Cost, Evaluation, GradientEstimator, Oracle
from tsam_jax.methods._common import StepState, ascend, at, zero_step
from tsam_jax.methods._erm import erm


def sam(rho: ScalarOrSchedule, *, steps: int = 1, mask: Mask | None = None) -> GradientEstimator:
    r"""SAM: the gradient at the end of an ascent of length rho.

    Estimates the gradient of $\max_{\lVert e \rVert \le \rho} L(\theta + e)$ by

    $\theta_0 = \theta, \quad \theta_{i+1} = \theta_i + \frac{\rho}{k}
    \frac{g(\theta_i)}{\lVert g(\theta_i) \rVert}, \quad \hat g = g(\theta_k),$

    with one norm over all leaves, and unit(0) = 0: where the gradient vanishes, so does the
    ascent.

    Args:
      rho: length of the whole ascent, >= 0, l2 over the masked leaves together; a number, a
        traced scalar, or a schedule on this method's step counter.
      steps: number k of ascent steps, a positive integer.
      mask: booleans over the leaves (a prefix of the tree is enough), or a function of the
        parameters that returns them; only leaves marked True are perturbed. Default: all.

    Returns:
      A `GradientEstimator` with state `StepState`; `value` is $L(\theta_k)$ and `aux` is that of
      theta, the first evaluation.

    Raises:
      ValueError: if `rho` is a negative number or not finite, or `steps` < 1.
      TypeError: if `steps` is not an integer.

    Cost: steps + 1 gradient evaluations a step; 1 if `rho` is the number 0, which is ERM.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from tsam_jax import estimate_gradient
      >>> optimizer = optax.chain(estimate_gradient(sam(rho=0.05)), optax.sgd(0.1))
      >>> params = jnp.array([1.0, 2.0])
      >>> state = optimizer.init(params)
      >>> loss = lambda p: jnp.sum(p**2)
      >>> updates, state = optimizer.update(params, state, params, value_fn=loss)
      >>> [round(u, 4) for u in updates.tolist()]  # -0.1 * 2 (p + 0.05 p / |p|)
      [-0.2045, -0.4089]

    Source: Foret et al., "Sharpness-Aware Minimization for Efficiently Improving
    Generalization", ICLR 2021, Eq. 2 and 3 (k = 1). Weight decay belongs to the base optimizer
    and takes no part in the ascent, as in davda54/sam and unlike google-research/sam.
    """
    check_nonnegative("sam", rho=rho)
    check_positive_int("sam", steps=steps)
    if is_static_zero(rho):
        return erm()

    def init(params: Params) -> StepState:
        del params
        return StepState(zero_step())

    def estimate(oracle: Oracle, params: Params, state: PyTree, /) -> tuple[Evaluation, PyTree]:
        length = at(rho, state.step)
        first = here = oracle.evaluate(params)
        point = params
        for _ in range(steps):
            point = ascend(point, here.grad, length / steps, mask)  # Eq. 2
            here = oracle.evaluate(point)  # Eq. 3
        state = StepState(optax.safe_increment(state.step))
        return here._replace(aux=first.aux), state

    return GradientEstimator(init, estimate, Cost(gradients=steps + 1))
