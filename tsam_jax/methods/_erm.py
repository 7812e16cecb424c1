"""Empirical risk minimisation: the plain gradient, as an estimator."""

from tsam_jax._types import Params, PyTree
from tsam_jax.estimator import Cost, Evaluation, GradientEstimator, Oracle


def erm() -> GradientEstimator:
    r"""The plain gradient: the baseline of every comparison.

    Estimates $\nabla L(\theta)$.

    Returns:
      A `GradientEstimator` without state; `value` is $L(\theta)$ and `aux` is that of theta.

    Cost: 1 gradient evaluation a step.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax import value_and_grad
      >>> (value, grad), _ = value_and_grad(lambda x: x**2, erm())(jnp.float32(3.0), ())
      >>> value.item(), grad.item()
      (9.0, 6.0)

    Source: the row "ERM" of Li et al., "Tilted Sharpness-Aware Minimization", ICML 2025.
    """

    def init(params: Params) -> PyTree:
        del params
        return ()

    def estimate(oracle: Oracle, params: Params, state: PyTree, /) -> tuple[Evaluation, PyTree]:
        return oracle.evaluate(params), state

    return GradientEstimator(init, estimate, Cost(gradients=1))
