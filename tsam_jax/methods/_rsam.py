"""Random SAM: an ascent whose direction is found at a randomly perturbed point."""

from typing import Literal, NamedTuple

import jax
import optax

from tsam_jax import _tree
from tsam_jax import noise as noise_laws
from tsam_jax._checks import check_choice, check_nonnegative, is_static_zero
from tsam_jax._types import KeyLike, Mask, Params, PyTree, ScalarOrSchedule
from tsam_jax.estimator import Cost, Evaluation, GradientEstimator, Oracle
from tsam_jax.methods._common import as_key, ascend, at, displace, widened, zero_step
from tsam_jax.methods._erm import erm
from tsam_jax.methods._sam import sam

_LAWS = {
    "filter": noise_laws.filter_scaled,
    "leaf": noise_laws.leaf_scaled,
    "none": lambda gamma: noise_laws.gaussian(rms=gamma),
}


class RandomState(NamedTuple):
    """State of a method that draws one perturbation a step.

    Attributes:
      step: steps taken; shape (), int32.
      key: PRNG key of the run; shape (), typed. Step k draws its noise with
        `jax.random.split(jax.random.fold_in(key, k), 1)[0]`, as `tsam` does for s = 1.
    """

    step: jax.Array
    key: jax.Array


def rsam(
    rho: ScalarOrSchedule,
    *,
    gamma: ScalarOrSchedule,
    scaling: Literal["filter", "leaf", "none"] = "filter",
    lam: ScalarOrSchedule | None = None,
    mask: Mask | None = None,
    key: KeyLike = 0,
) -> GradientEstimator:
    r"""R-SAM: SAM on randomly smoothed weights.

    With noise D and g the gradient at $\theta + D$,

    $\hat g = g\left(\theta + D + \rho \frac{g}{\lVert g \rVert}\right) \ (1) \quad$ or, with
    `lam`, $\quad \hat g = g\left(\theta + \rho \frac{\lambda D + g}{\lVert \lambda D + g \rVert}
    \right). \ (2)$

    The authors published neither code nor the values of gamma and lambda. (1) is one of the two
    readings found in public code, and is `tsam` with s = 1 and this noise; (2) is the one that
    the abstract suggests, in which the noise gives the gradient a direction and leaves the point.

    Args:
      rho: length of the ascent step, >= 0, l2 over the masked leaves together; a number, a
        traced scalar, or a schedule on this method's step counter.
      gamma: size of the noise, >= 0, relative to what `scaling` says; a number, a traced scalar,
        or a schedule.
      scaling: "filter": a standard deviation of gamma times the norm of the filter
        (`noise.filter_scaled`); "leaf": a length of gamma times the norm of the leaf
        (`noise.leaf_scaled`); "none": a standard deviation of gamma (`noise.gaussian`).
      lam: weight of the noise in the direction of (2), >= 0; a number, a traced scalar, or a
        schedule. None, the default, for (1).
      mask: booleans over the leaves (a prefix of the tree is enough), or a function of the
        parameters that returns them; only leaves marked True are perturbed. Default: all.
      key: seed or PRNG key of the noise.

    Returns:
      A `GradientEstimator` with state `RandomState`; `value` is the loss at the last point and
      `aux` is that of $\theta + D$, the first evaluation.

    Raises:
      ValueError: if a number is out of its range, or `scaling` is none of the choices.
      TypeError: if an argument is no number or schedule.

    Cost: 2 gradient evaluations a step; 1 if `rho` is the number 0. Without noise it is `sam`.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax import value_and_grad
      >>> estimator = rsam(rho=0.1, gamma=0.05)
      >>> loss, x = lambda x: jnp.sum(x**2), jnp.array([3.0, 4.0])
      >>> (value, grad), state = value_and_grad(loss, estimator)(x, estimator.init(x))
      >>> bool(value > 0), state.step.item()
      (True, 1)

    Source: Liu et al., "Random Sharpness-Aware Minimization", NeurIPS 2022. The other reading in
    public code is not offered: it takes the ascent from theta and divides by the root of the sum
    of squares of (lambda ||g_p|| + ||D_p||) over the leaves, which is the norm of nothing, and
    does not restore the weights.
    """
    check_nonnegative("rsam", rho=rho, gamma=gamma)
    check_choice("rsam", _LAWS, scaling=scaling)
    if lam is not None:
        check_nonnegative("rsam", lam=lam)
    law = _LAWS[scaling](gamma)
    ascends = not is_static_zero(rho)
    if law is noise_laws.none:
        return sam(rho, mask=mask)
    if not ascends and lam is not None:
        return erm()

    def init(params: Params) -> RandomState:
        del params
        return RandomState(zero_step(), as_key(key))

    def estimate(oracle: Oracle, params: Params, state: PyTree, /) -> tuple[Evaluation, PyTree]:
        step = state.step
        (step_key,) = jax.random.split(jax.random.fold_in(state.key, step), 1)
        d = noise_laws.law_at(law, step)(step_key, _tree.select(params, mask))
        smoothed = displace(params, d)
        last = first = oracle.evaluate(smoothed)
        if lam is not None:
            direction = _tree.add(widened(_tree.select(first.grad, mask)), d, at(lam, step))
            point = ascend(params, direction, at(rho, step), None)
            last = oracle.evaluate(point)  # (2)
        elif ascends:
            point = ascend(smoothed, first.grad, at(rho, step), mask)
            last = oracle.evaluate(point)  # (1)
        state = RandomState(optax.safe_increment(step), state.key)
        return last._replace(aux=first.aux), state

    return GradientEstimator(init, estimate, Cost(gradients=1 + ascends))
