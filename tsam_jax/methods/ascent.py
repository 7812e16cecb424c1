"""Methods that climb once from the parameters: SAM and its relatives without memory."""

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
    """Perturbations are added to parameters too coarse to hold them."""


def at(value: ScalarOrSchedule, step: Array) -> Scalar:
    """The value of a number or schedule at a step."""
    return value(step) if callable(value) else value


def init_of(
    memory: Callable[[Params], PyTree], **metrics: tuple[int, ...]
) -> Callable[[Params], tuple[PyTree, dict[str, Array]]]:
    """The `init` of a method: its memory, and zeros for metrics of these shapes."""

    def init(params: Params) -> tuple[PyTree, dict[str, Array]]:
        dtype = _tree.accumulator_dtype(params)
        return memory(params), {name: jnp.zeros(shape, dtype) for name, shape in metrics.items()}

    return init


no_memory = functools.partial(init_of, lambda _: ())
"""The `init` of a method without memory."""


def displace(params: Params, direction: PyTree, factor: Scalar = 1.0) -> Params:
    """The point params + factor * direction; warns of parameters too coarse for that."""

    def coarse(d: Any, x: Array) -> str | None:
        return None if d is None or jnp.finfo(x.dtype).bits >= 32 else str(x.dtype)

    dtypes = jax.tree.map(coarse, direction, params, is_leaf=lambda d: d is None)
    for dtype in sorted(set(jax.tree.leaves(dtypes))):
        msg = (
            f"A perturbation is added to {dtype} parameters, where steps below half a spacing"
            " vanish. Keep the parameters in float32 and cast them inside the loss (flax:"
            f" `dtype=jnp.{dtype}, param_dtype=jnp.float32`)."
        )
        # from this one line for all methods, so that Python shows it once a dtype
        warnings.warn(msg, HalfPrecisionWarning, stacklevel=1)
    return _tree.add(params, direction, factor)


def ascend(
    params: Params, grad: Params, rho: Scalar, mask: Mask | None, sizes: PyTree = None
) -> Params:
    """The point params + rho * T^2 grad / ||T grad|| over the masked leaves; `params` if that is 0.

    Args:
      params: where the ascent starts.
      grad: its direction: the gradient there, or what a method uses instead.
      rho: its length in the metric of T.
      mask: which leaves are perturbed.
      sizes: the diagonal operator T: see `sizes_of`. Default: 1.

    Returns:
      The point, in the dtypes of `params`.
    """
    direction = _tree.select(grad, mask)
    if sizes is None:
        return displace(params, _tree.unit(direction), rho)
    direction = _tree.unit(_tree.multiply(direction, sizes))
    return displace(params, _tree.multiply(direction, sizes), rho)


def sizes_of(params: Params, adapt: Mask, eta: Scalar) -> PyTree:
    """ASAM's T: |params| + eta, in float32 at least, on the leaves that `adapt` names; else 1."""

    def size(adapted: Any, x: Array) -> Array:
        dtype = _tree.accumulator_dtype(x)
        if not adapted:
            return jnp.ones((), dtype)
        return jnp.abs(x).astype(dtype) + jnp.asarray(eta, dtype)

    return jax.tree.map(size, _tree.flags_of(adapt, params), params)


def _ending(first: Evaluation, last: Evaluation, **metrics: Array) -> Evaluation:
    """The evaluation at the end of an ascent, with the aux and the loss of its start."""
    return last._replace(aux=first.aux, metrics={"loss": first.value, **metrics})


def erm() -> GradientEstimator:
    r"""The plain gradient: the baseline of every comparison.

    Estimates $\nabla L(\theta)$.

    Returns:
      A `GradientEstimator` without memory; `value` is $L(\theta)$ and `aux` is that of theta.
      Metrics: `loss` $= L(\theta)$.

    Cost: 1 gradient evaluation a step.

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
    r"""SAM: the gradient at the end of an ascent of length rho.

    Estimates the gradient of $\max_{\lVert e \rVert \le \rho} L(\theta + e)$ by

    $\theta_0 = \theta, \quad \theta_{i+1} = \theta_i + \frac{\rho}{k}
    \frac{g(\theta_i)}{\lVert g(\theta_i) \rVert}, \quad \hat g = g(\theta_k),$

    with one norm over all leaves, and unit(0) = 0: where the gradient vanishes, so does the
    ascent.

    Args:
      rho: length of the whole ascent, >= 0, l2 over the masked leaves together; a number, a
        traced scalar, or a schedule on the step counter.
      steps: number k of ascent steps, a positive integer.
      mask: booleans over the leaves (a prefix of the tree is enough), or a function of the
        parameters that returns them; only leaves marked True are perturbed. Default: all.

    Returns:
      A `GradientEstimator` without memory; `value` is $L(\theta_k)$ and `aux` is that of theta, the
      first evaluation. Metrics: `loss` $= L(\theta)$, so that `value` - `loss` is the sharpness.

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
      >>> updates, state = optimizer.update(None, state, params, value_fn=loss)
      >>> [round(u, 4) for u in updates.tolist()]  # -0.1 * 2 (p + 0.05 p / |p|)
      [-0.2045, -0.4089]

    Source: Foret et al., "Sharpness-Aware Minimization for Efficiently Improving
    Generalization", ICLR 2021, Eq. 2 and 3 (k = 1). Weight decay belongs to the base optimizer
    and takes no part in the ascent, as in davda54/sam and unlike google-research/sam.
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
        number, a traced scalar, or a schedule on the step counter. About ten times
        that of `sam`: the authors use 0.5 to 1.
      eta: added to the sizes, >= 0, so that parameters that are 0 move too; a number, a traced
        scalar, or a schedule.
      adapt: booleans over the leaves (a prefix of the tree is enough), or a function of the
        parameters that returns them: where T is not 1. Default: leaves of at least two axes.
        True is all leaves, for which the best rho is another one, some four times as large.
      mask: in the same form, which leaves are perturbed. Default: all.

    Returns:
      A `GradientEstimator` without memory; `value` is $L(\theta + e)$ and `aux` is that of theta.
      Metrics: `loss` $= L(\theta)$.

    Raises:
      ValueError: if `rho` or `eta` is a negative number or not finite.

    Cost: 2 gradient evaluations a step; 1 if `rho` is the number 0, which is ERM.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax import value_and_grad
      >>> estimator, x = asam(rho=0.1, eta=0.0, adapt=True), jnp.array([1.0, 0.0])
      >>> loss = lambda x: jnp.sum((x + 1) ** 2)
      >>> step = value_and_grad(loss, estimator)
      >>> (value, grad), _ = step(x, step.init(x))
      >>> [round(g, 4) for g in grad.tolist()]  # e = (0.1, 0): what is 0 stays there
      [4.2, 2.0]

    Source: Kwon et al., "ASAM: Adaptive Sharpness-Aware Minimization for Scale-Invariant
    Learning of Deep Neural Networks", ICML 2021, Algorithm 1. The authors' code adapts the
    parameters with "weight" in their names, BatchNorm's scales included; `adapt` selects leaves
    without names. davda54/sam and its many copies are `adapt=True, eta=0`.
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
    r"""GSAM: SAM that also closes the gap between the worst loss nearby and the loss itself.

    Minimises $L(\theta')$ and the gap $L(\theta') - L(\theta)$ together, by the part of the plain
    gradient that is orthogonal to SAM's, and so does not change $L(\theta')$ to first order:

    $\theta' = \theta + \rho \frac{g(\theta)}{\lVert g(\theta) \rVert}, \quad (1) \qquad
    g_\perp = g(\theta) - \frac{\langle g(\theta), g(\theta') \rangle}
    {\lVert g(\theta') \rVert^2} g(\theta'), \quad (2) \qquad
    \hat g = g(\theta') - \alpha g_\perp. \quad (3)$

    Args:
      rho: length of the ascent, >= 0, l2 over the masked leaves together; a number, a traced
        scalar, or a schedule on the step counter, such as the authors' own
        `rho_from_lr`.
      alpha: weight of the gap, >= 0; a number, a traced scalar, or a schedule. 0 is SAM; the
        authors use 0.4 and 0.6.
      adapt: leaves whose ascent is measured in units of their sizes, as for `asam`. Default: none.
      eta: added to the sizes of these leaves, as for `asam`.
      mask: booleans over the leaves (a prefix of the tree is enough), or a function of the
        parameters that returns them; only leaves marked True are perturbed. Default: all.

    Returns:
      A `GradientEstimator` without memory; `value` is $L(\theta')$ and `aux` is that of theta.
      Metrics: `loss` $= L(\theta)$, and `cosine` of the angle between $g(\theta)$ and $g(\theta')$.

    Raises:
      ValueError: if `rho`, `alpha` or `eta` is a negative number or not finite.

    Cost: 2 gradient evaluations a step; 1 if `rho` is the number 0, which is ERM.

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
    2022, Algorithm 1. Deviations: none of the mathematics; a zero gradient gives a zero one, and
    not NaN as in the authors' JAX code.
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
    r"""PGN, also known as GNP: a mixture of the plain gradient and SAM's.

    Estimates the gradient of $L(\theta) + \lambda \lVert \nabla L(\theta) \rVert$ by a finite
    difference of length $\rho$, with $\alpha = \lambda / \rho$:

    $\theta' = \theta + \rho \frac{g(\theta)}{\lVert g(\theta) \rVert}, \quad (1) \qquad
    \hat g = (1 - \alpha) g(\theta) + \alpha g(\theta'). \quad (2)$

    alpha = 0 is ERM, alpha = 1 is SAM, alpha > 1 extrapolates.

    Args:
      rho: length of the ascent, >= 0, l2 over the masked leaves together; a number, a traced
        scalar, or a schedule on the step counter.
      alpha: share of the gradient at the end of the ascent, >= 0, also above 1; a number, a
        traced scalar, or a schedule. The authors use 0.8; the TSAM paper searches 0.3 to 0.9.
      mask: booleans over the leaves (a prefix of the tree is enough), or a function of the
        parameters that returns them; only leaves marked True are perturbed. Default: all.

    Returns:
      A `GradientEstimator` without memory; `value` is $(1 - \alpha) L(\theta) +
      \alpha L(\theta')$ and `aux` is that of theta. Metrics: `loss` $= L(\theta)$.

    Raises:
      ValueError: if `rho` or `alpha` is a negative number or not finite.

    Cost: 2 gradient evaluations a step; 1 if `rho` or `alpha` is the number 0, which is ERM.

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
    its default configuration mixes in the *normalised* gradient g / ||g|| at theta; (2) is the
    paper's formula.
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
    _checks.nonnegative("wsam", rho=rho, gamma=gamma)
    number = _checks.known(gamma)
    if number is not None and number >= 1:
        msg = f"`wsam(gamma=...)` must be a number of at least 0 and below 1, got {gamma!r}."
        raise ValueError(msg)

    def alpha(step: Array) -> Scalar:
        weight = at(gamma, step)
        return weight / (1 - weight)

    return pgn(rho, alpha if callable(gamma) else gamma / (1 - gamma), mask=mask)


def esam2(
    rhos: Sequence[ScalarOrSchedule] | np.ndarray | Array, *, mask: Mask | None = None
) -> GradientEstimator:
    r"""ESAM2: the gradient at the worst of several step sizes along the gradient.

    A budget of TSAM's kind spent on the ascent of SAM: estimates the gradient of
    $\max_k L(\theta + \rho_k u)$ by

    $u = \frac{g(\theta)}{\lVert g(\theta) \rVert}, \quad (1) \qquad
    k^* = \arg\max_k L(\theta + \rho_k u), \quad (2) \qquad
    \hat g = g(\theta + \rho_{k^*} u). \quad (3)$

    Of step sizes that tie, the smallest is chosen; those with a non-finite loss are never chosen.

    Args:
      rhos: the K step sizes, in any order, each >= 0, l2 over the masked leaves together: a
        sequence of numbers, traced scalars or schedules on the step counter, or an
        array of shape (K,). A geometric grid is `numpy.geomspace(0.05, 0.8, 5)`.
      mask: booleans over the leaves (a prefix of the tree is enough), or a function of the
        parameters that returns them; only leaves marked True are perturbed. Default: all.

    Returns:
      A `GradientEstimator` without memory; `value` is $L(\theta + \rho_{k^*} u)$ and `aux` is
      that of theta. Metrics: `loss` $= L(\theta)$; `rho`, the step size that was chosen;
      `losses`, shape (K,), the loss at each step size, from the smallest to the largest.

    Raises:
      ValueError: if `rhos` is empty, or a number in it is negative or not finite.
      TypeError: if `rhos` is not a sequence.

    Cost: 2 gradient evaluations and K loss evaluations a step; 1 gradient evaluation if all
    `rhos` are the number 0, which is ERM. With a forward pass at a third of a gradient, K = 12
    or 24 costs what TSAM does with s = 3 or 5.

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
    of Du et al. 2022. ESAM1, the paper's other one, is `sam` for more steps.
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
        lengths = jnp.sort(lengths)  # so that argmax, which takes the first, takes the smallest
        direction = _tree.unit(_tree.select(first.grad, mask))  # (1)
        # in a loop, where forward passes are as fast as one by one, also of convolutions
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
        traced scalar, or a schedule on the step counter.
      gamma: size of the noise, >= 0, in the unit that `scaling` selects; a number, a traced scalar,
        or a schedule.
      scaling: "filter": a standard deviation of gamma times the norm of the filter
        (`noise.filter_scaled`); "leaf": a length of gamma times the norm of the leaf
        (`noise.leaf_scaled`); "none": a standard deviation of gamma (`noise.gaussian`).
      lam: weight of the noise in the direction of (2), >= 0; a number, a traced scalar, or a
        schedule. None, the default, for (1).
      mask: booleans over the leaves (a prefix of the tree is enough), or a function of the
        parameters that returns them; only leaves marked True are perturbed. Default: all.

    Returns:
      A `GradientEstimator` without memory; `value` is the loss at the last point and `aux` is that
      of $\theta + D$, the first evaluation. Metrics: `loss` $= L(\theta + D)$.

    Raises:
      ValueError: if a number is out of its range, or `scaling` is none of the choices.
      TypeError: if an argument is no number or schedule.

    Cost: 2 gradient evaluations a step; 1 if `rho` is the number 0. Without noise it is `sam`.

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
    public code is not offered: it takes the ascent from theta and divides by the root of the sum
    of squares of (lambda ||g_p|| + ||D_p||) over the leaves, which is the norm of nothing, and
    does not restore the weights.
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
