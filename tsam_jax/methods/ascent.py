"""Ascent methods without memory: SAM and its relatives."""

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from tsam_jax import _checks, _fold, _tree
from tsam_jax import noise as noise_laws
from tsam_jax._checks import Array, Mask, Params, PyTree, Scalar, ScalarOrSchedule
from tsam_jax.estimator import Cost, Evaluation, GradientEstimator, Loss, Result


class HalfPrecisionWarning(UserWarning):
    """Warns that parameters in half precision round perturbations away."""


def at(value: ScalarOrSchedule, step: Array) -> Scalar:
    """Returns the value of a number or schedule at a step."""
    return value(step) if callable(value) else value


def init_of(
    memory: Callable[[Params], PyTree], **metrics: tuple[int, ...]
) -> Callable[[Params], tuple[PyTree, dict[str, Array]]]:
    """Makes the `init` of a method from its memory and the shapes of its metrics."""

    def init(params: Params) -> tuple[PyTree, dict[str, Array]]:
        dtype = _tree.accumulator_dtype(params)
        return memory(params), {name: jnp.zeros(shape, dtype) for name, shape in metrics.items()}

    return init


no_memory = functools.partial(init_of, lambda _: ())
"""Makes the `init` of a method without memory."""


def displace(params: Params, direction: PyTree, factor: Scalar = 1.0) -> Params:
    """Returns params + factor * direction; warns if the parameters are in half precision."""

    def coarse(d: Any, x: Array) -> str | None:
        return None if d is None or jnp.finfo(x.dtype).bits >= 32 else str(x.dtype)

    dtypes = jax.tree.map(coarse, direction, params, is_leaf=lambda d: d is None)
    for dtype in sorted(set(jax.tree.leaves(dtypes))):
        msg = (
            f"{dtype} parameters round small perturbations to zero. Keep the parameters in float32"
            " and cast them inside the loss (flax:"
            f" `dtype=jnp.{dtype}, param_dtype=jnp.float32`)."
        )
        # at one line for all methods, so that Python shows it once per dtype
        warnings.warn(msg, HalfPrecisionWarning, stacklevel=1)
    return _tree.add(params, direction, factor)


def ascend(
    params: Params, grad: Params, rho: Scalar, mask: Mask | None, sizes: PyTree = None
) -> Params:
    """Returns params + rho * T^2 grad / ||T grad|| over the masked leaves; `params` for grad = 0.

    Args:
      params: start of the ascent.
      grad: direction of the ascent: the gradient there, or a method's substitute for it.
      rho: length of the ascent in the metric of T.
      mask: leaves to perturb.
      sizes: diagonal of the operator T: see `sizes_of`. Default: 1.

    Returns:
      The end of the ascent, in the dtypes of `params`.
    """
    direction = _tree.select(grad, mask)
    if sizes is None:
        return displace(params, _tree.unit(direction), rho)
    direction = _tree.unit(_tree.multiply(direction, sizes))
    return displace(params, _tree.multiply(direction, sizes), rho)


def sizes_of(params: Params, adapt: Mask, eta: Scalar) -> PyTree:
    """ASAM's T: |params| + eta on the leaves that `adapt` marks, else 1; in float32 or wider."""

    def size(adapted: Any, x: Array) -> Array:
        dtype = _tree.accumulator_dtype(x)
        if not adapted:
            return jnp.ones((), dtype)
        return jnp.abs(x).astype(dtype) + jnp.asarray(eta, dtype)

    return jax.tree.map(size, _tree.flags_of(adapt, params), params)


def _ending(first: Evaluation, last: Evaluation, **metrics: Array) -> Evaluation:
    """The evaluation at the end of an ascent, with the aux and loss of its start."""
    return last._replace(aux=first.aux, metrics={"loss": first.value, **metrics})


def erm() -> GradientEstimator:
    r"""Plain gradient (empirical risk minimization): the baseline of every comparison.

    Estimates $\nabla L(\theta)$.

    Returns:
      A `GradientEstimator` without memory; `value` is $L(\theta)$ and `aux` is that of theta.
      Metrics: `loss` $= L(\theta)$.

    Cost: 1 gradient evaluation per step.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax import value_and_grad
      >>> step, x = value_and_grad(lambda x: x**2, erm()), jnp.float32(3.0)
      >>> (value, grad), _ = step(x, step.init(x))
      >>> value.item(), grad.item()
      (9.0, 6.0)

    Source: the row "ERM" of Li et al., "Tilted Sharpness-Aware Minimization", ICML 2025.
    """

    def estimate(loss: Loss, params: Params, memory: PyTree, *, step: Array, key: Array) -> Result:
        here = loss(params)
        return _ending(here, here), memory

    return GradientEstimator(no_memory(loss=()), estimate, Cost(gradients=1))


def sam(rho: ScalarOrSchedule, *, steps: int = 1, mask: Mask | None = None) -> GradientEstimator:
    r"""SAM: gradient at the end of an ascent of length rho.

    Estimates the gradient of $\max_{\lVert e \rVert \le \rho} L(\theta + e)$ by

    $\theta_0 = \theta, \quad \theta_{i+1} = \theta_i + \frac{\rho}{k}
    \frac{g(\theta_i)}{\lVert g(\theta_i) \rVert}, \quad \hat g = g(\theta_k),$

    with one norm over all leaves. A zero gradient gives no ascent.

    Args:
      rho: total length of the ascent, >= 0, l2 over the masked leaves together; a number, a
        traced scalar, or a schedule on the step counter.
      steps: number k of ascent steps, a positive integer.
      mask: pytree of booleans over the parameters (a prefix is enough), or a function from
        parameters to one. Only leaves marked True are perturbed. Default: all leaves.

    Returns:
      A `GradientEstimator` without memory; `value` is $L(\theta_k)$ and `aux` is that of theta, the
      first evaluation. Metrics: `loss` $= L(\theta)$, so that `value` - `loss` is the sharpness.

    Raises:
      ValueError: if `rho` is negative or not finite, or `steps` < 1.
      TypeError: if `steps` is not an integer.

    Cost: steps + 1 gradient evaluations per step; 1 if `rho` is the number 0, which is ERM.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from tsam_jax import estimate_gradient
      >>> optimizer = optax.chain(estimate_gradient(sam(rho=0.05)), optax.sgd(0.1))
      >>> params = jnp.array([1.0, 2.0])
      >>> state = optimizer.init(params)
      >>> loss = lambda p: jnp.sum(p**2)
      >>> updates, state = optimizer.update(None, state, params, value_fn=loss)
      >>> [round(u, 4) for u in updates.tolist()]  # -0.1 * 2 (p + 0.05 p / |p|)
      [-0.2045, -0.4089]

    Source: Foret et al., "Sharpness-Aware Minimization for Efficiently Improving
    Generalization", ICLR 2021, Eq. 2 and 3 (k = 1). Weight decay belongs to the base optimizer
    and does not affect the ascent, as in davda54/sam and unlike google-research/sam.
    """
    _checks.nonnegative("sam", rho=rho)
    _checks.positive_int("sam", steps=steps)
    steps = 0 if _checks.is_static_zero(rho) else steps

    def estimate(loss: Loss, params: Params, memory: PyTree, *, step: Array, key: Array) -> Result:
        first = here = loss(params)
        point = params
        for _ in range(steps):
            point = ascend(point, here.grad, at(rho, step) / steps, mask)  # Eq. 2
            here = loss(point)  # Eq. 3
        return _ending(first, here), memory

    return GradientEstimator(no_memory(loss=()), estimate, Cost(gradients=steps + 1))


def matrices(params: Params) -> PyTree:
    """Mask of the leaves with at least two axes: weights, but not biases or BatchNorm scales.

    Args:
      params: pytree of arrays.

    Returns:
      Pytree of booleans with the structure of `params`.

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
    r"""ASAM: SAM with an ascent scaled by the size of each parameter.

    Estimates the gradient of $\max_{\lVert T^{-1} e \rVert \le \rho} L(\theta + e)$, with the
    diagonal $T = \lvert \theta \rvert + \eta$ on the adapted leaves and 1 elsewhere, by

    $e = \rho \frac{T^2 g(\theta)}{\lVert T g(\theta) \rVert}, \quad (1) \qquad
    \hat g = g(\theta + e). \quad (2)$

    Rescaling two layers in a way that leaves the network's output unchanged does not change this
    sharpness.

    Args:
      rho: length of the ascent in the metric of T, >= 0, over the masked leaves together; a
        number, a traced scalar, or a schedule on the step counter. Use about ten times
        that of `sam`: the authors use 0.5 to 1.
      eta: constant added to the sizes, >= 0, so that zero parameters move; a number, a traced
        scalar, or a schedule.
      adapt: leaves where T is not 1: pytree of booleans over the parameters (a prefix is enough),
        or a function from parameters to one. Default: leaves with at least two axes. True selects
        all leaves; the best rho is then about four times as large.
      mask: leaves to perturb, in the same form. Default: all leaves.

    Returns:
      A `GradientEstimator` without memory; `value` is $L(\theta + e)$ and `aux` is that of theta.
      Metrics: `loss` $= L(\theta)$.

    Raises:
      ValueError: if `rho` or `eta` is negative or not finite.

    Cost: 2 gradient evaluations per step; 1 if `rho` is the number 0, which is ERM.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax import value_and_grad
      >>> estimator, x = asam(rho=0.1, eta=0.0, adapt=True), jnp.array([1.0, 0.0])
      >>> loss = lambda x: jnp.sum((x + 1) ** 2)
      >>> step = value_and_grad(loss, estimator)
      >>> (value, grad), _ = step(x, step.init(x))
      >>> [round(g, 4) for g in grad.tolist()]  # e = (0.1, 0): zero entries do not move
      [4.2, 2.0]

    Source: Kwon et al., "ASAM: Adaptive Sharpness-Aware Minimization for Scale-Invariant
    Learning of Deep Neural Networks", ICML 2021, Algorithm 1. The authors' code adapts
    parameters with "weight" in their names, including BatchNorm scales; the default of `adapt`
    does not depend on names. davda54/sam and its copies are `adapt=True, eta=0`.
    """
    _checks.nonnegative("asam", rho=rho, eta=eta)
    climbs = not _checks.is_static_zero(rho)

    def estimate(loss: Loss, params: Params, memory: PyTree, *, step: Array, key: Array) -> Result:
        first = last = loss(params)
        if climbs:
            sizes = sizes_of(params, adapt, at(eta, step))  # T
            last = loss(ascend(params, first.grad, at(rho, step), mask, sizes))  # (1), (2)
        return _ending(first, last), memory

    return GradientEstimator(no_memory(loss=()), estimate, Cost(gradients=1 + climbs))


def gsam(
    rho: ScalarOrSchedule,
    alpha: ScalarOrSchedule,
    *,
    adapt: Mask = False,
    eta: ScalarOrSchedule = 0.01,
    mask: Mask | None = None,
) -> GradientEstimator:
    r"""GSAM: SAM that also reduces the gap between the perturbed loss and the loss.

    Minimises $L(\theta')$ and the gap $L(\theta') - L(\theta)$ together. For the gap it uses the
    component of the plain gradient orthogonal to SAM's, which does not change $L(\theta')$ to first
    order:

    $\theta' = \theta + \rho \frac{g(\theta)}{\lVert g(\theta) \rVert}, \quad (1) \qquad
    g_\perp = g(\theta) - \frac{\langle g(\theta), g(\theta') \rangle}
    {\lVert g(\theta') \rVert^2} g(\theta'), \quad (2) \qquad
    \hat g = g(\theta') - \alpha g_\perp. \quad (3)$

    Args:
      rho: length of the ascent, >= 0, l2 over the masked leaves together; a number, a traced
        scalar, or a schedule on the step counter. The authors use the schedule `rho_from_lr`.
      alpha: weight of the gap, >= 0; a number, a traced scalar, or a schedule. 0 is SAM; the
        authors use 0.4 and 0.6.
      adapt: leaves whose ascent is scaled by their sizes, as for `asam`. Default: none.
      eta: constant added to the sizes of these leaves, as for `asam`.
      mask: pytree of booleans over the parameters (a prefix is enough), or a function from
        parameters to one. Only leaves marked True are perturbed. Default: all leaves.

    Returns:
      A `GradientEstimator` without memory; `value` is $L(\theta')$ and `aux` is that of theta.
      Metrics: `loss` $= L(\theta)$, and `cosine` of the angle between $g(\theta)$ and $g(\theta')$.

    Raises:
      ValueError: if `rho`, `alpha` or `eta` is negative or not finite.

    Cost: 2 gradient evaluations per step; 1 if `rho` is the number 0, which is ERM.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax import value_and_grad
      >>> estimator, x = gsam(rho=0.1, alpha=0.4), jnp.array([3.0, 4.0])
      >>> loss = lambda x: jnp.sum(x**2)
      >>> step = value_and_grad(loss, estimator)
      >>> (value, grad), _ = step(x, step.init(x))
      >>> [round(g, 4) for g in grad.tolist()]  # parallel gradients: SAM's
      [6.12, 8.16]

    Source: Zhuang et al., "Surrogate Gap Minimization Improves Sharpness-Aware Training", ICLR
    2022, Algorithm 1. Deviation from the authors' JAX code: a zero gradient gives a zero estimate
    instead of NaN. The mathematics is the same.
    """
    _checks.nonnegative("gsam", rho=rho, alpha=alpha, eta=eta)
    climbs = not _checks.is_static_zero(rho)

    def estimate(loss: Loss, params: Params, memory: PyTree, *, step: Array, key: Array) -> Result:
        first = loss(params)
        if not climbs:
            return _ending(first, first, cosine=jnp.ones_like(first.value)), memory
        sizes = None if adapt is False else sizes_of(params, adapt, at(eta, step))
        last = loss(ascend(params, first.grad, at(rho, step), mask, sizes))  # (1)
        orthogonal, cosine = _tree.reject_and_cosine(first.grad, last.grad)  # (2)
        grad = _tree.add(last.grad, orthogonal, -at(alpha, step))  # (3)
        return _ending(first, last._replace(grad=grad), cosine=cosine), memory

    return GradientEstimator(no_memory(loss=(), cosine=()), estimate, Cost(1 + climbs))


def rho_from_lr(
    lr: ScalarOrSchedule, *, rho_min: Scalar, rho_max: Scalar, lr_min: Scalar, lr_max: Scalar
) -> Callable[[Array], Array]:
    r"""Schedule of rho that follows the learning rate, for any method.

    $\rho_k = \rho_{min} + (\rho_{max} - \rho_{min}) \frac{\eta_k - \eta_{min}}{\eta_{max} -
    \eta_{min}}.$

    Args:
      lr: learning rate: the schedule of the base optimizer, or a number.
      rho_min: rho at `lr_min`, >= 0.
      rho_max: rho at `lr_max`, >= 0; rho at every step if `lr_max` equals `lr_min`.
      lr_min: smallest learning rate, >= 0.
      lr_max: largest learning rate, >= `lr_min`.

    Returns:
      A schedule: step count -> rho. Learning rates outside [`lr_min`, `lr_max`] are clipped to it.

    Raises:
      ValueError: if a number is negative or not finite, or `lr_min` is above `lr_max`.

    Example:
      >>> import optax
      >>> lr = optax.linear_schedule(0.1, 0.0, 10)
      >>> rho = rho_from_lr(lr, rho_min=0.1, rho_max=0.5, lr_min=0.0, lr_max=0.1)
      >>> [round(float(rho(step)), 4) for step in (0, 5, 10)]
      [0.5, 0.3, 0.1]

    Source: Zhuang et al. 2022, Algorithm 1. Deviation: learning rates are clipped. A warm-up from
    below `lr_min` can make the authors' rho negative.
    """
    _checks.nonnegative("rho_from_lr", rho_min=rho_min, rho_max=rho_max)
    _checks.nonnegative("rho_from_lr", lr_min=lr_min, lr_max=lr_max)
    low, high = _checks.known(lr_min), _checks.known(lr_max)
    if low is not None and high is not None and low > high:
        msg = f"`rho_from_lr(lr_min=...)` must be at most lr_max = {lr_max!r}, got {lr_min!r}."
        raise ValueError(msg)

    def schedule(step: Array) -> Array:
        width = jnp.asarray(lr_max - lr_min)
        share = (at(lr, step) - lr_min) / jnp.where(width > 0, width, 1)
        share = jnp.where(width > 0, jnp.clip(share, 0, 1), 1)
        return rho_min + (rho_max - rho_min) * share

    return schedule


def pgn(
    rho: ScalarOrSchedule, alpha: ScalarOrSchedule, *, mask: Mask | None = None
) -> GradientEstimator:
    r"""PGN (also called GNP): a mixture of the plain gradient and SAM's.

    Estimates the gradient of $L(\theta) + \lambda \lVert \nabla L(\theta) \rVert$ by a finite
    difference of length $\rho$, with $\alpha = \lambda / \rho$:

    $\theta' = \theta + \rho \frac{g(\theta)}{\lVert g(\theta) \rVert}, \quad (1) \qquad
    \hat g = (1 - \alpha) g(\theta) + \alpha g(\theta'). \quad (2)$

    alpha = 0 is ERM, alpha = 1 is SAM, alpha > 1 extrapolates.

    Args:
      rho: length of the ascent, >= 0, l2 over the masked leaves together; a number, a traced
        scalar, or a schedule on the step counter.
      alpha: weight of the gradient at the end of the ascent, >= 0; may exceed 1. A number, a
        traced scalar, or a schedule. The authors use 0.8; the TSAM paper searches 0.3 to 0.9.
      mask: pytree of booleans over the parameters (a prefix is enough), or a function from
        parameters to one. Only leaves marked True are perturbed. Default: all leaves.

    Returns:
      A `GradientEstimator` without memory; `value` is $(1 - \alpha) L(\theta) +
      \alpha L(\theta')$ and `aux` is that of theta. Metrics: `loss` $= L(\theta)$.

    Raises:
      ValueError: if `rho` or `alpha` is negative or not finite.

    Cost: 2 gradient evaluations per step; 1 if `rho` or `alpha` is the number 0, which is ERM.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax import value_and_grad
      >>> estimator, x = pgn(rho=0.1, alpha=0.5), jnp.float32(3.0)
      >>> step = value_and_grad(lambda x: x**2, estimator)
      >>> (value, grad), _ = step(x, step.init(x))
      >>> round(grad.item(), 4)  # the mean of 6 and 6.2
      6.1

    Source: Zhao, Zhang and Hu, "Penalizing Gradient Norm for Efficiently Improving
    Generalization in Deep Learning", ICML 2022, Algorithm 1. Deviation from the authors' code:
    (2) is the paper's formula; the code's default configuration uses the *normalised* gradient
    g / ||g|| at theta.
    """
    _checks.nonnegative("pgn", rho=rho, alpha=alpha)
    climbs = not (_checks.is_static_zero(rho) or _checks.is_static_zero(alpha))

    def estimate(loss: Loss, params: Params, memory: PyTree, *, step: Array, key: Array) -> Result:
        first = loss(params)
        if not climbs:
            return _ending(first, first), memory
        last = loss(ascend(params, first.grad, at(rho, step), mask))  # (1)
        share = at(alpha, step)
        value = _tree.lerp(first.value, last.value, share)
        grad = _tree.lerp(first.grad, last.grad, share)  # (2)
        return _ending(first, Evaluation(value, grad)), memory

    return GradientEstimator(no_memory(loss=()), estimate, Cost(gradients=1 + climbs))


def wsam(
    rho: ScalarOrSchedule, gamma: ScalarOrSchedule, *, mask: Mask | None = None
) -> GradientEstimator:
    r"""WSAM in its coupled form: SAM with a weighted sharpness term.

    Estimates the gradient of $L(\theta) + \frac{\gamma}{1 - \gamma} \left( L(\theta') - L(\theta)
    \right)$ with $\theta'$ of SAM, which is `pgn` with $\alpha = \gamma / (1 - \gamma)$. gamma = 0
    is ERM, gamma = 1/2 is SAM, and the authors' 0.9 is alpha = 9.

    Args:
      rho: length of the ascent, >= 0, as for `pgn`.
      gamma: weight of the sharpness, >= 0 and < 1; a number, a traced scalar, or a schedule.
      mask: leaves to perturb, as for `pgn`.

    Returns:
      A `GradientEstimator`: that of `pgn`.

    Raises:
      ValueError: if `rho` is negative or not finite, or `gamma` out of range.

    Cost: 2 gradient evaluations per step; 1 if `rho` or `gamma` is the number 0, which is ERM.

    Example:
      >>> wsam(rho=0.05, gamma=0.9).cost.gradients
      2

    Source: Yue et al., "Sharpness-Aware Minimization Revisited: Weighted Sharpness as a
    Regularization Term", KDD 2023. Deviation: the authors' default is a decoupled form, which
    adds the sharpness term after the base optimizer. For plain SGD the two forms are the same.
    """
    _checks.nonnegative("wsam", rho=rho, gamma=gamma)
    number = _checks.known(gamma)
    if number is not None and number >= 1:
        msg = f"`wsam(gamma=...)` must be a number of at least 0 and below 1, got {gamma!r}."
        raise ValueError(msg)

    def alpha(step: Array) -> Scalar:
        weight = jnp.asarray(at(gamma, step))  # 1 gives infinity, not an error of Python
        return weight / (1 - weight)

    return pgn(rho, alpha if callable(gamma) else gamma / (1 - gamma), mask=mask)


def esam2(
    rhos: Sequence[ScalarOrSchedule] | np.ndarray | Array, *, mask: Mask | None = None
) -> GradientEstimator:
    r"""ESAM2: gradient at the worst of several step sizes along the gradient.

    It spends the budget of TSAM on the ascent of SAM. Estimates the gradient of
    $\max_k L(\theta + \rho_k u)$ by

    $u = \frac{g(\theta)}{\lVert g(\theta) \rVert}, \quad (1) \qquad
    k^* = \arg\max_k L(\theta + \rho_k u), \quad (2) \qquad
    \hat g = g(\theta + \rho_{k^*} u). \quad (3)$

    Ties go to the smallest step size. Step sizes with a non-finite loss are never chosen.

    Args:
      rhos: the K step sizes, in any order, each >= 0, l2 over the masked leaves together: a
        sequence of numbers, traced scalars or schedules on the step counter, or an
        array of shape (K,). A geometric grid is `numpy.geomspace(0.05, 0.8, 5)`.
      mask: pytree of booleans over the parameters (a prefix is enough), or a function from
        parameters to one. Only leaves marked True are perturbed. Default: all leaves.

    Returns:
      A `GradientEstimator` without memory; `value` is $L(\theta + \rho_{k^*} u)$ and `aux` is
      that of theta. Metrics: `loss` $= L(\theta)$; `rho`, the chosen step size;
      `losses`, shape (K,), the loss at each step size, from the smallest to the largest.

    Raises:
      ValueError: if `rhos` is empty, or a number in it is negative or not finite.
      TypeError: if `rhos` is not a sequence.

    Cost: 2 gradient evaluations and K loss evaluations per step; 1 gradient evaluation if all
    `rhos` are the number 0, which is ERM. If a forward pass costs a third of a gradient, K = 12
    or 24 costs as much as TSAM with s = 3 or 5.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax import value_and_grad
      >>> estimator, x = esam2(rhos=(0.5, 1.0, 2.0)), jnp.float32(0.5)
      >>> loss = lambda x: jnp.sin(x)
      >>> step = value_and_grad(loss, estimator)
      >>> (value, grad), state = step(x, step.init(x))
      >>> state.last.metrics["rho"].item()  # pi / 2 is 1.07 away
      1.0

    Source: the baseline "ESAM2" of Li et al., "Tilted Sharpness-Aware Minimization", ICML 2025,
    which describes it in one sentence, without K, the grid or code. It is not the "Efficient SAM"
    of Du et al. 2022. The paper's ESAM1 is `sam` for more steps.
    """
    _checks.sequence("esam2", rhos=rhos)
    sizes = tuple(rhos)
    climbs = not all(map(_checks.is_static_zero, sizes))

    def estimate(loss: Loss, params: Params, memory: PyTree, *, step: Array, key: Array) -> Result:
        first = loss(params)
        dtype = first.value.dtype
        if not climbs:
            losses = jnp.full(len(sizes), first.value)
            return _ending(first, first, rho=jnp.zeros((), dtype), losses=losses), memory
        lengths = jnp.stack([jnp.asarray(at(rho, step), dtype) for rho in sizes])
        lengths = jnp.sort(lengths)  # argmax returns the first, hence the smallest
        direction = _tree.unit(_tree.select(first.grad, mask))  # (1)
        # forward passes, convolutions included, are as fast in a loop as one by one
        losses = _fold.each(lambda rho: loss.value(displace(params, direction, rho))[0], lengths)
        worst = jnp.argmax(jnp.where(jnp.isfinite(losses), losses, -jnp.inf))  # (2)
        chosen = lengths[worst]
        last = loss(displace(params, direction, chosen))  # (3)
        return _ending(first, last, rho=chosen, losses=losses), memory

    cost = Cost(gradients=2, values=len(sizes)) if climbs else Cost(gradients=1)
    init = no_memory(loss=(), rho=(), losses=(len(sizes),))
    return GradientEstimator(init, estimate, cost)


_LAWS = {
    "filter": noise_laws.filter_scaled,
    "leaf": noise_laws.leaf_scaled,
    "none": lambda gamma: noise_laws.gaussian(rms=gamma),
}


def rsam(
    rho: ScalarOrSchedule,
    *,
    gamma: ScalarOrSchedule,
    scaling: Literal["filter", "leaf", "none"] = "filter",
    lam: ScalarOrSchedule | None = None,
    mask: Mask | None = None,
) -> GradientEstimator:
    r"""R-SAM: SAM on randomly perturbed weights.

    With noise D and g the gradient at $\theta + D$,

    $\hat g = g\left(\theta + D + \rho \frac{g}{\lVert g \rVert}\right) \ (1) \quad$ or, with
    `lam`, $\quad \hat g = g\left(\theta + \rho \frac{\lambda D + g}{\lVert \lambda D + g \rVert}
    \right). \ (2)$

    The authors published neither code nor the values of gamma and lambda. (1) is one of the two
    readings found in public code; it is `tsam` with s = 1 and this noise. (2) is what the abstract
    suggests: the noise changes the direction of the ascent but not its start.

    Args:
      rho: length of the ascent step, >= 0, l2 over the masked leaves together; a number, a
        traced scalar, or a schedule on the step counter.
      gamma: size of the noise, >= 0, in the unit of `scaling`; a number, a traced scalar, or a
        schedule.
      scaling: "filter": standard deviation gamma times the norm of the filter
        (`noise.filter_scaled`); "leaf": length gamma times the norm of the leaf
        (`noise.leaf_scaled`); "none": standard deviation gamma (`noise.gaussian`).
      lam: weight of the noise in (2), >= 0; a number, a traced scalar, or a schedule. Default:
        None, which selects (1).
      mask: pytree of booleans over the parameters (a prefix is enough), or a function from
        parameters to one. Only leaves marked True are perturbed. Default: all leaves.

    Returns:
      A `GradientEstimator` without memory; `value` is the loss at the last point and `aux` is that
      of $\theta + D$, the first evaluation. Metrics: `loss` $= L(\theta + D)$.

    Raises:
      ValueError: if a number is out of range, or `scaling` is not one of the choices.
      TypeError: if an argument is neither a number nor a schedule.

    Cost: 2 gradient evaluations per step; 1 if `rho` is the number 0. Without noise it is `sam`.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax import value_and_grad
      >>> estimator = rsam(rho=0.1, gamma=0.05)
      >>> loss, x = lambda x: jnp.sum(x**2), jnp.array([3.0, 4.0])
      >>> step = value_and_grad(loss, estimator)
      >>> (value, grad), state = step(x, step.init(x))
      >>> bool(value > 0), state.step.item()
      (True, 1)

    Source: Liu et al., "Random Sharpness-Aware Minimization", NeurIPS 2022. The other reading in
    public code is not implemented: it ascends from theta, divides by the root of the sum of squares
    of (lambda ||g_p|| + ||D_p||) over the leaves, which is not a norm of the direction, and does
    not restore the weights.
    """
    _checks.nonnegative("rsam", rho=rho, gamma=gamma)
    _checks.choice("rsam", _LAWS, scaling=scaling)
    if lam is not None:
        _checks.nonnegative("rsam", lam=lam)
    law = _LAWS[scaling](gamma)
    climbs = not _checks.is_static_zero(rho)
    is_random = law is not noise_laws.none and (climbs or lam is None)

    def estimate(loss: Loss, params: Params, memory: PyTree, *, step: Array, key: Array) -> Result:
        smoothed = params
        if is_random:
            d = noise_laws.drawer(law, step, key, 1)(0, _tree.select(params, mask))
            smoothed = displace(params, d)
        last = first = loss(smoothed)
        if climbs and is_random and lam is not None:
            direction = _tree.add(_tree.widened(_tree.select(first.grad, mask)), d, at(lam, step))
            last = loss(ascend(params, direction, at(rho, step), None))  # (2)
        elif climbs:
            last = loss(ascend(smoothed, first.grad, at(rho, step), mask))  # (1)
        return _ending(first, last), memory

    return GradientEstimator(no_memory(loss=()), estimate, Cost(gradients=1 + climbs))
