"""Methods with memory: moving averages of gradients, or results of earlier steps."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from tsam_jax import _checks, _fold, _tree
from tsam_jax._checks import Array, Mask, Params, PyTree, Scalar, ScalarOrSchedule
from tsam_jax.estimator import Cost, Evaluation, GradientEstimator, Loss, Result
from tsam_jax.methods.ascent import ascend, at, displace, init_of, sizes_of


def _zero_average(mask: Mask | None) -> Callable[[Params], PyTree]:
    """Makes the initial average: zeros in float32 or wider, None where the mask is False."""

    def zeros(params: Params) -> PyTree:
        dtype = _tree.accumulator_dtype(params)
        like = lambda x: jnp.zeros_like(x, dtype=_tree.wide_dtype(x, dtype))  # noqa: E731
        return jax.tree.map(like, _tree.select(params, mask))

    return zeros


def _averaged(average: PyTree, grad: PyTree, share: Scalar) -> PyTree:
    """(1 - share) average + share grad; grad while the average is still zero."""
    entries = [jnp.any(x != 0) for x in jax.tree.leaves(average)]
    share = jnp.where(jnp.any(jnp.array(entries, bool)), share, 1.0)
    updated = _tree.lerp(average, grad, share)
    finite = _tree.all_finite(grad)  # skip others: the average would never recover
    return jax.tree.map(lambda new, old: jnp.where(finite, new, old), updated, average)


def vasso(
    rho: ScalarOrSchedule, theta: ScalarOrSchedule = 0.9, *, mask: Mask | None = None
) -> GradientEstimator:
    r"""VaSSO: SAM that ascends along a moving average of the gradients.

    The gradient of one batch is a noisy ascent direction; its average over steps is less noisy.
    With the parameters $x_k$ of step k, $m_0 = g(x_0)$ and unit(0) = 0:

    $m_k = (1 - \theta) m_{k-1} + \theta g(x_k), \quad (1) \qquad
    \hat g = g\left(x_k + \rho \frac{m_k}{\lVert m_k \rVert}\right). \quad (2)$

    Args:
      rho: length of the ascent step, >= 0, l2 over the masked leaves together; a number, a
        traced scalar, or a schedule on the step counter.
      theta: weight of the new gradient in the average, between 0 and 1; 1 is SAM. A number, a
        traced scalar, or a schedule.
      mask: leaves to perturb, as for `sam`. Default: all.

    Returns:
      A `GradientEstimator` whose memory is the average m, like the masked parameters in float32 at
      least; `value` is the loss at the perturbed point and `aux` is that of the parameters, the
      first evaluation. Metrics: `loss`, that of the parameters.

    Raises:
      ValueError: if a number is out of range.
      TypeError: if an argument is neither a number nor a schedule.

    Cost: 2 gradient evaluations per step, and the memory of one gradient; 1 if `rho` is the
    number 0, which is ERM.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax import value_and_grad
      >>> loss = lambda x, slope: jnp.sum(slope * x) + jnp.sum(x**2) / 2
      >>> estimator = vasso(rho=0.5, theta=0.5)
      >>> step, x = value_and_grad(loss, estimator), jnp.zeros(2)
      >>> _, state = step(x, step.init(x), jnp.array([4.0, 0.0]))
      >>> (value, grad), state = step(x, state, jnp.array([0.0, 4.0]))
      >>> state.memory.tolist()
      [2.0, 2.0]
      >>> [round(g, 4) for g in grad.tolist()]  # (0, 4) + 0.5 (1, 1) / sqrt(2)
      [0.3536, 4.3536]

    Source: Li and Giannakis, "Enhancing Sharpness-Aware Optimization Through Variance
    Suppression", NeurIPS 2023. The first step, the lack of a bias correction and the default theta
    follow its code. Deviations from the code: no 1e-7 is added to the norm; non-finite gradients do
    not enter the average, which starts with the first finite gradient.
    """
    _checks.nonnegative("vasso", rho=rho)
    _checks.fraction("vasso", theta=theta)
    climbs = not _checks.is_static_zero(rho)

    def estimate(loss: Loss, params: Params, memory: PyTree, *, step: Array, key: Array) -> Result:
        first = last = loss(params)
        m = _averaged(memory, _tree.select(first.grad, mask), at(theta, step))  # (1)
        if climbs:
            last = loss(ascend(params, m, at(rho, step), None))  # (2)
        return last._replace(aux=first.aux, metrics={"loss": first.value}), m

    return GradientEstimator(init_of(_zero_average(mask), loss=()), estimate, Cost(1 + climbs))


def fsam(
    rho: ScalarOrSchedule,
    sigma: ScalarOrSchedule = 1.0,
    lmbda: ScalarOrSchedule = 0.9,
    *,
    adapt: Mask = False,
    eta: ScalarOrSchedule = 0.01,
    mask: Mask | None = None,
) -> GradientEstimator:
    r"""F-SAM: SAM that removes the moving average of the gradients from its ascent direction.

    The average approximates the gradient over all data. The ascent follows the remainder, which is
    specific to the batch. With the parameters $\theta_k$ of step k and unit(0) = 0:

    $d_k = g(\theta_k) - \sigma m_{k-1}, \quad (1) \qquad
    m_k = \lambda m_{k-1} + (1 - \lambda) g(\theta_k), \quad (2) \qquad
    \hat g = g\left(\theta_k + \rho \frac{d_k}{\lVert d_k \rVert}\right), \quad (3)$

    and in the first step $d_0 = m_0 = g(\theta_0)$, which is SAM. If the gradients of two steps are
    equal and sigma is 1, d is a difference of equal numbers and its direction is rounding error.

    Args:
      rho: length of the ascent step, >= 0, l2 over the masked leaves together; a number, a
        traced scalar, or a schedule on the step counter.
      sigma: multiple of the average to subtract, >= 0; 0 is SAM. A number, a traced scalar, or a
        schedule.
      lmbda: weight of the past in the average, between 0 and 1; a number, a traced scalar, or a
        schedule.
      adapt: leaves whose ascent is scaled by their sizes, as for `asam`. Default: none.
      eta: constant added to the sizes of these leaves, as for `asam`.
      mask: leaves to perturb, as for `sam`. Default: all.

    Returns:
      A `GradientEstimator` whose memory is the average m, like the masked parameters in float32 at
      least; `value` is the loss at the perturbed point and `aux` is that of the parameters, the
      first evaluation. Metrics: `loss`, that of the parameters.

    Raises:
      ValueError: if a number is out of range.
      TypeError: if an argument is neither a number nor a schedule.

    Cost: 2 gradient evaluations per step, and the memory of one gradient; 1 if `rho` is the
    number 0, which is ERM.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax import value_and_grad
      >>> loss = lambda x, slope: jnp.sum(slope * x) + jnp.sum(x**2) / 2
      >>> estimator = fsam(rho=0.5, sigma=1.0, lmbda=0.5)
      >>> step, x = value_and_grad(loss, estimator), jnp.zeros(2)
      >>> _, state = step(x, step.init(x), jnp.array([4.0, 0.0]))
      >>> (value, grad), state = step(x, state, jnp.array([4.0, 3.0]))
      >>> [round(g, 4) for g in grad.tolist()]  # (4, 3) + 0.5 ((4, 3) - (4, 0)) / 3
      [4.0, 3.5]
      >>> state.memory.tolist()
      [4.0, 1.5]

    Source: Li et al., "Friendly Sharpness-Aware Minimization", CVPR 2024. The first step and the
    defaults follow its code, as does (1), which uses the average before this step's gradient enters
    it. The code's adaptive form is `adapt=True, eta=0`. pytorch_optimizer's FriendlySAM differs: it
    averages d instead of g. Deviation from the code: non-finite gradients do not enter the average,
    which starts with the first finite gradient.
    """
    _checks.nonnegative("fsam", rho=rho, sigma=sigma, eta=eta)
    _checks.fraction("fsam", lmbda=lmbda)
    climbs = not _checks.is_static_zero(rho)

    def estimate(loss: Loss, params: Params, memory: PyTree, *, step: Array, key: Array) -> Result:
        first = last = loss(params)
        g = _tree.like(_tree.select(first.grad, mask), memory)
        d = _tree.add(g, memory, -at(sigma, step))  # (1); the average starts at 0
        m = _averaged(memory, g, 1 - at(lmbda, step))  # (2)
        if climbs:
            sizes = None if adapt is False else sizes_of(params, adapt, at(eta, step))
            last = loss(ascend(params, d, at(rho, step), None, sizes))  # (3)
        return last._replace(aux=first.aux, metrics={"loss": first.value}), m

    return GradientEstimator(init_of(_zero_average(mask), loss=()), estimate, Cost(1 + climbs))


def looksam(
    rho: ScalarOrSchedule,
    *,
    every: int = 5,
    alpha: ScalarOrSchedule = 0.7,
    mask: Mask | None = None,
) -> GradientEstimator:
    r"""LookSAM: SAM every k-th step, with its correction reused in between.

    Estimates SAM's gradient. Every k-th step, including the first, computes it and stores its
    component orthogonal to the plain gradient, which changes slowly. The other steps add that
    component, rescaled, to the plain gradient:

    $\hat g = g_s = g \left( \theta + \rho \frac{g(\theta)}{\lVert g(\theta) \rVert} \right),
    \quad (1) \qquad g_v = g_s - \frac{\langle g_s, g(\theta) \rangle}
    {\lVert g(\theta) \rVert^2} g(\theta), \quad (2) \qquad \text{else} \quad
    \hat g = g(\theta) + \alpha \lVert g(\theta) \rVert \frac{g_v}{\lVert g_v \rVert}. \quad (3)$

    Args:
      rho: length of the ascent, >= 0, l2 over the masked leaves together; a number, a traced
        scalar, or a schedule on the step counter.
      every: interval k between SAM steps, a positive integer known before tracing. 1 is SAM.
      alpha: length of the added component relative to the plain gradient, >= 0; a number, a traced
        scalar, or a schedule.
      mask: pytree of booleans over the parameters (a prefix is enough), or a function from
        parameters to one. Only leaves marked True are perturbed. Default: all leaves.

    Returns:
      A `GradientEstimator` whose memory is $g_v$ of the last SAM step, like the parameters in
      float32 or wider, 0 before the first; `value` is $L(\theta)$ in every step and `aux` is that
      of theta. Metrics: `loss` $= L(\theta)$.

    Raises:
      ValueError: if `rho` or `alpha` is negative or not finite, or `every` < 1.
      TypeError: if `every` is not an integer.

    Cost: 1 + 1/every gradient evaluations per step: 2 in every k-th step, 1 in the others; always 2
    under `vmap`. 1 if `rho` is the number 0, which is ERM.

    Example:
      >>> looksam(rho=0.1, every=5).cost.gradients
      1.2

    Source: Liu et al., "Towards Efficient and Scalable Sharpness-Aware Minimization", CVPR 2022,
    Algorithm 1. Deviations: a g_v at the level of rounding error (from parallel gradients, as with
    a single parameter) counts as 0 instead of being rescaled to full length; a non-finite g_v is
    not stored.
    """
    _checks.nonnegative("looksam", rho=rho, alpha=alpha)
    _checks.positive_int("looksam", every=every)
    climbs = not _checks.is_static_zero(rho)

    def estimate(loss: Loss, params: Params, memory: PyTree, *, step: Array, key: Array) -> Result:
        first = loss(params)
        first = first._replace(metrics={"loss": first.value})

        def look() -> tuple[Params, Params]:
            grad = loss(ascend(params, first.grad, at(rho, step), mask)).grad  # (1)
            sharp = _tree.reject(_tree.like(grad, memory), first.grad)
            return grad, _kept(sharp, grad, memory)  # (2)

        def reuse() -> tuple[Params, Params]:
            norm = _tree.norm(first.grad)
            length = jnp.asarray(at(alpha, step), norm.dtype) * norm
            return _tree.add(first.grad, _tree.unit(memory), length), memory  # (3)

        if not climbs:
            return first, memory
        grad, memory = _fold.branch(step % every == 0, look, reuse)
        return first._replace(grad=grad), memory

    cost = Cost(gradients=1 + climbs / every)
    return GradientEstimator(init_of(_zero_average(None), loss=()), estimate, cost)


def _kept(new: Params, grad: Params, old: Params) -> Params:
    """`new`; 0 if it is rounding error of `grad`, `old` if it is not finite."""
    rounding = max([float(jnp.finfo(x.dtype).eps) for x in jax.tree.leaves(grad)], default=0.0)
    new = _tree.scale(new, ~(_tree.norm(new) <= 4 * rounding * _tree.norm(grad)))
    finite = _tree.all_finite(new)
    return jax.tree.map(lambda x, y: jnp.where(finite, x, y), new, old)


DEFAULT_ALPHAS = tuple(i / 10 for i in range(21))
"""Grid of the authors: 0, 0.1, .., 2."""


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
    r"""XSAM: SAM's gradient, rotated towards the largest loss at a given distance.

    After k ascent steps from $\theta_0 = \theta$ (1), the direction of the ascent and that of the
    gradient at its end (2) span a great circle (3). At intervals, a search along that circle finds
    the direction with the largest loss at distance $\rho_m$ (4). The estimate has this direction
    and the length of the last gradient (5):

    $\theta_{i+1} = \theta_i + \tfrac{\rho}{k} \tfrac{g(\theta_i)}{\lVert g(\theta_i) \rVert},
    \quad (1) \qquad v_0 = \mathrm{unit}(\theta_k - \theta), \ v_1 = \mathrm{unit}(g(\theta_k)),
    \quad (2)$

    $v(\alpha) = \frac{\sin((1 - \alpha) \psi) v_0 + \sin(\alpha \psi) v_1}{\sin \psi}, \
    \psi = \arccos \langle v_0, v_1 \rangle, \quad (3)$

    $\alpha^* = \arg\max_\alpha L(\theta + \rho_m v(\alpha)), \quad (4) \qquad
    \hat g = \lVert g(\theta_k) \rVert v(\alpha^*). \quad (5)$

    alpha = 0 is the direction of the ascent, alpha = 1 is SAM, and alpha > 1 extrapolates.

    Args:
      rho: total length of the ascent, >= 0, l2 over the masked leaves together; a number, a
        traced scalar, or a schedule on the step counter.
      steps: number k of ascent steps, a positive integer.
      rho_max: distance at which losses are compared, >= 0; a number, a traced scalar, or a
        schedule. Default: 2 rho, as in the authors' experiments.
      alpha: interpolation coefficient without a search, >= 0: a number, a traced scalar, or a
        schedule. With searches, it applies until one finds a finite loss.
      alpha_grid: values of alpha to compare, all >= 0. Ties go to the first.
      search_every: interval between searches in steps, starting with the first step; None for no
        search. The authors search once per epoch.
      mask: pytree of booleans over the parameters (a prefix is enough), or a function from
        parameters to one. Only leaves marked True are perturbed and interpolated. Default: all
        leaves.

    Returns:
      A `GradientEstimator` whose memory is the alpha in use, shape (); `value` is $L(\theta_k)$ and
      `aux` is that of theta, the first evaluation. Metrics: `loss` $= L(\theta)$; `alpha`; with
      searches, `losses` of the `alpha_grid`, NaN in steps without a search.

    Raises:
      ValueError: if a number is out of range, or the grid is empty.
      TypeError: if `steps` or `search_every` is not an integer, or the grid is not a sequence.

    Cost: steps + 1 gradient evaluations per step, and one loss evaluation for each alpha every
    `search_every` steps; 1 gradient evaluation if `rho` is the number 0, which is ERM. Under
    `vmap`, every step has the cost of a search.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax import value_and_grad
      >>> loss = lambda x: x[0] ** 2 + 4 * x[1] ** 2
      >>> estimator, x = xsam(rho=0.5, search_every=10), jnp.array([1.0, 0.5])
      >>> step = value_and_grad(loss, estimator)
      >>> (value, grad), state = step(x, step.init(x))
      >>> round(state.last.metrics["alpha"].item(), 1), state.last.metrics["losses"].shape
      (1.7, (21,))
      >>> estimator.cost.gradients, estimator.cost.values
      (2, 2.1)

    Source: Chen and Zhou, "Revisiting Sharpness-Aware Minimization: A More Faithful and Effective
    Implementation", ICLR 2026, arXiv 2603.10048, and its code. Deviations from the code, all of
    them fixes: the inner product is clipped to [-1, 1], because rounding can exceed that range and
    make arccos NaN; nearly parallel directions are interpolated linearly, not averaged; the largest
    loss wins whatever its sign, where the code keeps alpha = 0 if all losses are negative; alpha is
    part of the state, so that a restored run continues unchanged.
    """
    _checks.nonnegative("xsam", rho=rho, alpha=alpha)
    _checks.positive_int("xsam", steps=steps)
    if rho_max is not None:
        _checks.nonnegative("xsam", rho_max=rho_max)
    if search_every is not None:
        _checks.positive_int("xsam", search_every=search_every)
    _checks.sequence("xsam", alpha_grid=alpha_grid)
    climbs = not _checks.is_static_zero(rho)
    shapes: dict[str, tuple[int, ...]] = {"loss": (), "alpha": ()}
    if search_every is not None:
        shapes["losses"] = (len(alpha_grid),)

    def start(params: Params) -> Array:
        return jnp.asarray(at(alpha, jnp.int32(0)), _tree.accumulator_dtype(params))

    def estimate(loss: Loss, params: Params, memory: PyTree, *, step: Array, key: Array) -> Result:
        length = at(rho, step)
        first = here = loss(params)
        metrics = {"loss": first.value, "alpha": memory}
        none = jnp.full(len(alpha_grid), jnp.nan, memory.dtype)
        if not climbs:
            metrics |= {"losses": none} if search_every is not None else {}
            return first._replace(metrics=metrics), memory
        point, path = params, _unit(here.grad, mask)
        for i in range(steps):
            point = ascend(point, here.grad, length / steps, mask)  # (1)
            here = loss(point)
            if i + 1 < steps:
                path = _tree.add(path, _unit(here.grad, mask))
        # (2): the steps have equal lengths, so the sum of their directions is parallel to
        # theta_k - theta, without the rounding of the parameters.
        v0, v1 = _tree.unit(path), _unit(here.grad, mask)

        def search() -> tuple[Array, Array]:
            distance = 2 * length if rho_max is None else at(rho_max, step)
            alphas = jnp.asarray(alpha_grid, memory.dtype)

            def loss_at(alpha: Array) -> Array:
                return loss.value(displace(params, _between(v0, v1, alpha), distance))[0]

            losses = _fold.each(loss_at, alphas).astype(memory.dtype)  # forward passes only
            finite = jnp.isfinite(losses)
            best = alphas[jnp.argmax(jnp.where(finite, losses, -jnp.inf))]  # (4)
            return jnp.where(jnp.any(finite), best, memory), losses

        if search_every is None:
            chosen = jnp.asarray(at(alpha, step), memory.dtype)
        else:
            is_due = step % search_every == 0
            chosen, metrics["losses"] = _fold.branch(is_due, search, lambda: (memory, none))
        metrics["alpha"] = chosen
        size = _tree.norm(_tree.select(here.grad, mask))
        direction = _tree.scale(_between(v0, v1, chosen), size)
        grad = _tree.replace(here.grad, direction)  # (5)
        return Evaluation(here.value, grad, first.aux, metrics), chosen

    values = len(alpha_grid) / search_every if search_every is not None and climbs else 0.0
    return GradientEstimator(init_of(start, **shapes), estimate, Cost(1 + steps * climbs, values))


def _unit(grad: PyTree, mask: Mask | None) -> PyTree:
    """The unit direction over the masked leaves, in float32 or wider."""
    return _tree.unit(_tree.widened(_tree.select(grad, mask)))


def _between(v0: PyTree, v1: PyTree, alpha: Scalar) -> PyTree:
    """Spherical interpolation; linear if the directions are nearly parallel."""
    cosine = jnp.clip(_tree.inner(v0, v1), -1.0, 1.0)
    linear = jnp.sin(jnp.arccos(jax.lax.stop_gradient(cosine))) < 1e-8
    psi = jnp.arccos(jnp.where(linear, 0.0, cosine))  # whose derivative is infinite at the ends
    alpha, sine = jnp.asarray(alpha, psi.dtype), jnp.sin(psi)
    a = jnp.where(linear, 1 - alpha, jnp.sin((1 - alpha) * psi) / sine)
    b = jnp.where(linear, alpha, jnp.sin(alpha * psi) / sine)
    return _tree.add(_tree.scale(v0, a), v1, b)  # (3)
