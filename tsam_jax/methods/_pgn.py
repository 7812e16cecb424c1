"""Penalising the gradient norm, and the weighted SAM that is the same up to a change of letters."""

import jax
import optax

from tsam_jax import _tree
from tsam_jax._checks import check_nonnegative, is_static_number, is_static_zero
from tsam_jax._types import Mask, Params, PyTree, Scalar, ScalarOrSchedule
from tsam_jax.estimator import Cost, Evaluation, GradientEstimator, Oracle
from tsam_jax.methods._common import StepState, ascend, at, zero_step
from tsam_jax.methods._erm import erm


def pgn(
    rho: ScalarOrSchedule, alpha: ScalarOrSchedule, *, mask: Mask | None = None
) -> GradientEstimator:
    r"""PGN, also known as GNP: a mixture of the plain gradient and SAM's.

    Estimates the gradient of $L(\theta) + \lambda \lVert \nabla L(\theta) \rVert$ by a finite
    difference of length $\rho$, with $\alpha = \lambda / \rho$:

    $\theta' = \theta + \rho \frac{g(\theta)}{\lVert g(\theta) \rVert}, \quad (1) \qquad
    \hat g = (1 - \alpha) g(\theta) + \alpha g(\theta'). \quad (2)$

    alpha = 0 is ERM, alpha = 1 is SAM, alpha > 1 extrapolates.

    Args:
      rho: length of the ascent, >= 0, l2 over the masked leaves together; a number, a traced
        scalar, or a schedule on this method's step counter.
      alpha: share of the gradient at the end of the ascent, >= 0, also above 1; a number, a
        traced scalar, or a schedule. The authors use 0.8; the TSAM paper searches 0.3 to 0.9.
      mask: booleans over the leaves (a prefix of the tree is enough), or a function of the
        parameters that returns them; only leaves marked True are perturbed. Default: all.

    Returns:
      A `GradientEstimator` with state `StepState`; `value` is $(1 - \alpha) L(\theta) +
      \alpha L(\theta')$ and `aux` is that of theta.

    Raises:
      ValueError: if `rho` or `alpha` is a negative number or not finite.

    Cost: 2 gradient evaluations a step; 1 if `rho` or `alpha` is the number 0, which is ERM.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax import value_and_grad
      >>> estimator, x = pgn(rho=0.1, alpha=0.5), jnp.float32(3.0)
      >>> (value, grad), _ = value_and_grad(lambda x: x**2, estimator)(x, estimator.init(x))
      >>> round(grad.item(), 4)  # the mean of 6 and 6.2
      6.1

    Source: Zhao, Zhang and Hu, "Penalizing Gradient Norm for Efficiently Improving
    Generalization in Deep Learning", ICML 2022, Algorithm 1. Deviation from the authors' code:
    its default configuration mixes in the *normalised* gradient g / ||g|| at theta; (2) is the
    paper's formula.
    """
    check_nonnegative("pgn", rho=rho, alpha=alpha)
    if is_static_zero(rho) or is_static_zero(alpha):
        return erm()

    def init(params: Params) -> StepState:
        del params
        return StepState(zero_step())

    def estimate(oracle: Oracle, params: Params, state: PyTree, /) -> tuple[Evaluation, PyTree]:
        share = at(alpha, state.step)
        first = oracle.evaluate(params)
        last = oracle.evaluate(ascend(params, first.grad, at(rho, state.step), mask))  # (1)
        value = _tree.lerp(first.value, last.value, share)
        grad = _tree.lerp(first.grad, last.grad, share)  # (2)
        state = StepState(optax.safe_increment(state.step))
        return Evaluation(value, first.aux, grad), state

    return GradientEstimator(init, estimate, Cost(gradients=2))


def wsam(
    rho: ScalarOrSchedule, gamma: ScalarOrSchedule, *, mask: Mask | None = None
) -> GradientEstimator:
    r"""WSAM, coupled: SAM's sharpness with a weight of its own.

    Estimates the gradient of $L(\theta) + \frac{\gamma}{1 - \gamma} \left( L(\theta') - L(\theta)
    \right)$ with $\theta'$ of SAM, which is `pgn` with $\alpha = \gamma / (1 - \gamma)$. gamma = 0
    is ERM, gamma = 1/2 is SAM, and the authors' 0.9 is alpha = 9.

    Args:
      rho: length of the ascent, >= 0, as for `pgn`.
      gamma: weight of the sharpness, between 0 and 1, and not 1; a number, a traced scalar, or a
        schedule.
      mask: which leaves are perturbed, as for `pgn`.

    Returns:
      A `GradientEstimator`: that of `pgn`.

    Raises:
      ValueError: if `rho` is a negative number or not finite, or `gamma` a number out of its range.

    Cost: 2 gradient evaluations a step; 1 if `rho` or `gamma` is the number 0, which is ERM.

    Example:
      >>> wsam(rho=0.05, gamma=0.9).cost.gradients
      2

    Source: Yue et al., "Sharpness-Aware Minimization Revisited: Weighted Sharpness as a
    Regularization Term", KDD 2023. Deviation: the authors' default is a decoupled form, which
    adds the sharpness behind the base optimizer; for plain SGD the two are the same.
    """
    check_nonnegative("wsam", rho=rho, gamma=gamma)
    if is_static_number(gamma) and gamma >= 1:
        msg = f"`wsam(gamma=...)` must be a number of at least 0 and below 1, got {gamma!r}."
        raise ValueError(msg)

    def alpha(step: jax.Array) -> Scalar:
        weight = at(gamma, step)
        return weight / (1 - weight)

    return pgn(rho, alpha if callable(gamma) else gamma / (1 - gamma), mask=mask)
