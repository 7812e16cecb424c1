"""Explicit SAM: a direction between the ascent and the gradient at its end, found by search."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tsam_jax import _tree
from tsam_jax._checks import check_nonnegative, check_positive_int, is_static_zero
from tsam_jax._types import Mask, Params, PyTree, Scalar, ScalarOrSchedule
from tsam_jax.estimator import Cost, Evaluation, GradientEstimator, Oracle
from tsam_jax.methods._common import ascend, at, displace, dtype_of_state, widened, zero_step
from tsam_jax.methods._erm import erm

DEFAULT_ALPHAS = tuple(i / 10 for i in range(21))
"""The authors' grid: 0, 0.1, .., 2."""


class InterpolationState(NamedTuple):
    """State of `xsam`, with the diagnostics of its last step.

    Attributes:
      step: steps taken; shape (), int32.
      alpha: interpolation that the last step used; shape (), float32 at least.
      losses: losses of the last search; shape (number of alphas,), or (0,) if there is no search;
        float32 at least; 0 before the first.
    """

    step: jax.Array
    alpha: jax.Array
    losses: jax.Array


def xsam(
    rho: ScalarOrSchedule,
    *,
    steps: int = 1,
    rho_max: ScalarOrSchedule | None = None,
    alpha: ScalarOrSchedule = 1.0,
    alpha_grid: Sequence[float] = DEFAULT_ALPHAS,
    search_every: int | None = 100,
    mask: Mask | None = None,
) -> GradientEstimator:
    r"""XSAM: SAM's gradient, turned towards where the loss at a distance is largest.

    After k ascent steps from $\theta_0 = \theta$ (1), two directions span where the maximum may
    lie: that of the ascent, and that of the gradient at its end (2). Between them, and beyond, it
    looks for the largest loss at the distance $\rho_m$ (4) along a great circle (3), now and
    then, and returns that direction with the length of the last gradient (5):

    $\theta_{i+1} = \theta_i + \tfrac{\rho}{k} \tfrac{g(\theta_i)}{\lVert g(\theta_i) \rVert},
    \quad (1) \qquad v_0 = \mathrm{unit}(\theta_k - \theta), \ v_1 = \mathrm{unit}(g(\theta_k)),
    \quad (2)$

    $v(\alpha) = \frac{\sin((1 - \alpha) \psi) v_0 + \sin(\alpha \psi) v_1}{\sin \psi}, \
    \psi = \arccos \langle v_0, v_1 \rangle, \quad (3)$

    $\alpha^* = \arg\max_\alpha L(\theta + \rho_m v(\alpha)), \quad (4) \qquad
    \hat g = \lVert g(\theta_k) \rVert v(\alpha^*). \quad (5)$

    alpha = 0 is the direction of the ascent, 1 is SAM, and more goes beyond it.

    Args:
      rho: length of the whole ascent, >= 0, l2 over the masked leaves together; a number, a
        traced scalar, or a schedule on this method's step counter.
      steps: number k of ascent steps, a positive integer.
      rho_max: the distance at which losses are compared, >= 0; a number, a traced scalar, or a
        schedule. Default: 2 rho, as in the authors' experiments.
      alpha: the interpolation where none is searched for: a number >= 0, a traced scalar, or a
        schedule. With a search, it stands in until one finds a finite loss.
      alpha_grid: the alphas that are compared, all >= 0. Of equal losses the first wins.
      search_every: steps from one search to the next, the first step having one; None for no
        search. The authors search once an epoch.
      mask: booleans over the leaves (a prefix of the tree is enough), or a function of the
        parameters that returns them; only leaves marked True are perturbed, and take part in the
        interpolation. Default: all.

    Returns:
      A `GradientEstimator` with state `InterpolationState`; `value` is $L(\theta_k)$ and `aux` is
      that of theta, the first evaluation.

    Raises:
      ValueError: if a number is out of its range, or the grid is empty.
      TypeError: if `steps` or `search_every` is not an integer, or the grid is no sequence.

    Cost: steps + 1 gradient evaluations a step, and one loss evaluation for each alpha every
    `search_every` steps; 1 gradient evaluation if `rho` is the number 0, which is ERM. Under
    `vmap` every step pays for a search.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax import value_and_grad
      >>> loss = lambda x: x[0] ** 2 + 4 * x[1] ** 2
      >>> estimator, x = xsam(rho=0.5, search_every=10), jnp.array([1.0, 0.5])
      >>> (value, grad), state = value_and_grad(loss, estimator)(x, estimator.init(x))
      >>> round(state.alpha.item(), 1), state.losses.shape
      (1.7, (21,))
      >>> estimator.cost.gradients, estimator.cost.values
      (2, 2.1)

    Source: Chen and Zhou, "Revisiting Sharpness-Aware Minimization: A More Faithful and Effective
    Implementation", ICLR 2026, arXiv 2603.10048, and its code. Deviations from the code, all of
    them repairs: the inner product is clipped to [-1, 1], beyond which rounding takes it and
    arccos is NaN; directions that nearly agree are mixed linearly, not averaged; the largest loss
    wins whatever its sign, where the code keeps alpha = 0 if all are negative; alpha is part of
    the state, so a restored run goes on as it was.
    """
    check_nonnegative("xsam", rho=rho, alpha=alpha)
    check_positive_int("xsam", steps=steps)
    if rho_max is not None:
        check_nonnegative("xsam", rho_max=rho_max)
    if search_every is not None:
        check_positive_int("xsam", search_every=search_every)
    if isinstance(alpha_grid, str) or not isinstance(alpha_grid, (Sequence, np.ndarray, jax.Array)):
        msg = f"`xsam(alpha_grid=...)` must be a sequence of numbers, got {alpha_grid!r}."
        raise TypeError(msg)
    if not len(alpha_grid):
        msg = "`xsam(alpha_grid=...)` must have at least one number, got none."
        raise ValueError(msg)
    for x in alpha_grid:
        check_nonnegative("xsam", alpha_grid=x)
    if is_static_zero(rho):
        return erm()
    searches = search_every is not None
    candidates = len(alpha_grid) if searches else 0

    def init(params: Params) -> InterpolationState:
        step, dtype = zero_step(), dtype_of_state(params)
        start = jnp.array(at(alpha, step), dtype)  # a copy, since states may be donated
        return InterpolationState(step, start, jnp.zeros(candidates, dtype))

    def estimate(oracle: Oracle, params: Params, state: PyTree, /) -> tuple[Evaluation, PyTree]:
        step, like = state.step, state.alpha
        length = at(rho, step)
        first = here = oracle.evaluate(params)
        point, path = params, _unit(here.grad, mask)
        for i in range(steps):
            point = ascend(point, here.grad, length / steps, mask)  # (1)
            here = oracle.evaluate(point)
            if i + 1 < steps:
                path = _tree.add(path, _unit(here.grad, mask))
        # (2): the steps are equally long, so that the sum of their directions has the direction
        # of the whole, and does not lose it to the rounding of the parameters.
        v0, v1 = _tree.unit(path), _unit(here.grad, mask)

        def search(alphas: jax.Array) -> tuple[jax.Array, jax.Array]:
            distance = 2 * length if rho_max is None else at(rho_max, step)

            def loss(alpha: jax.Array) -> jax.Array:
                return oracle.value(displace(params, _between(v0, v1, alpha), distance))[0]

            losses = jax.lax.map(loss, alphas).astype(like.dtype)  # forward passes only
            finite = jnp.isfinite(losses)
            best = alphas[jnp.argmax(jnp.where(finite, losses, -jnp.inf))]  # (4)
            return jnp.where(jnp.any(finite), best, state.alpha), losses

        def keep(alphas: jax.Array) -> tuple[jax.Array, jax.Array]:
            del alphas
            return state.alpha, state.losses

        if searches:
            alphas = jnp.asarray(alpha_grid, like.dtype)
            chosen, losses = jax.lax.cond(step % search_every == 0, search, keep, alphas)
        else:
            chosen, losses = jnp.asarray(at(alpha, step), like.dtype), state.losses
        direction = _between(v0, v1, chosen)
        size = _tree.norm(_tree.select(here.grad, mask))
        grad = _replaced(here.grad, _tree.scale(direction, size))  # (5)
        state = InterpolationState(optax.safe_increment(step), chosen, losses)
        return Evaluation(here.value, first.aux, grad), state

    values = candidates / search_every if search_every is not None else 0.0
    return GradientEstimator(init, estimate, Cost(gradients=steps + 1, values=values))


def _unit(grad: PyTree, mask: Mask | None) -> PyTree:
    """The direction over the masked leaves, in float32 at least."""
    return _tree.unit(widened(_tree.select(grad, mask)))


def _between(v0: PyTree, v1: PyTree, alpha: Scalar) -> PyTree:
    """Spherical interpolation; linear where the directions are too close to span a circle."""
    psi = jnp.arccos(jnp.clip(_tree.inner(v0, v1), -1.0, 1.0))
    alpha, sine = jnp.asarray(alpha, psi.dtype), jnp.sin(psi)
    linear = sine < 1e-8
    sine = jnp.where(linear, jnp.ones_like(sine), sine)
    a = jnp.where(linear, 1 - alpha, jnp.sin((1 - alpha) * psi) / sine)
    b = jnp.where(linear, alpha, jnp.sin(alpha * psi) / sine)
    return _tree.add(_tree.scale(v0, a), v1, b)  # (3)


def _replaced(grad: Params, by: PyTree) -> Params:
    """`by` in the dtypes of `grad`; where it has None, `grad`."""
    replaced = lambda y, x: x if y is None else y.astype(x.dtype)  # noqa: E731
    return jax.tree.map(replaced, by, grad, is_leaf=lambda y: y is None)
