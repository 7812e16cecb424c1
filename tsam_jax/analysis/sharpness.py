"""Average-case and worst-case sharpness: the rise of the loss within a radius.

Glossary: theta, the parameters; e, a perturbation of them; rho, a radius; T, the diagonal operator
that defines the metric of the radius, 1 unless adaptive.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tsam_jax import _checks, _tree, noise
from tsam_jax._checks import Mask, NoiseLaw, Params, PyTree, Scalar
from tsam_jax.analysis.neighbourhood import neighbourhood_loss
from tsam_jax.methods.ascent import sizes_of


class Estimate(NamedTuple):
    """Estimate from random draws, with its standard error.

    Attributes:
      value: scalar, float32 or wider.
      standard_error: scalar: estimated standard deviation of `value` over repetitions; nan for a
        single draw.
    """

    value: jax.Array
    standard_error: jax.Array


class WorstCase(NamedTuple):
    """Largest rise of the loss found within a radius.

    Attributes:
      sharpness: scalar, float32 or wider, >= 0: L(theta + e) - L(theta).
      perturbation: e, a pytree like the parameters, in float32 or wider; 0 if no rise was found.
    """

    sharpness: jax.Array
    perturbation: Params


def average_sharpness(
    loss_fn: Callable[[Params], jax.Array],
    params: Params,
    key: jax.Array,
    /,
    *,
    noise: NoiseLaw,
    num_samples: int,
    batch_size: int | None = None,
) -> Estimate:
    r"""Average-case sharpness: mean rise of the loss under noise.

    $E_\epsilon L(\theta + \epsilon) - L(\theta)$. To second order, it is
    $\frac12 \sigma^2 \mathrm{tr} H$ for noise of variance $\sigma^2$ per coordinate.

    Args:
      loss_fn: `params -> scalar`, deterministic.
      params: theta, any pytree of floating-point arrays.
      key: random key.
      noise: `(key, params) -> eps`.
      num_samples: number of draws n, a positive static int.
      batch_size: draws evaluated in parallel, or None for one by one.

    Returns:
      An `Estimate`; away from a minimum it may be negative. Costs n + 1 loss evaluations.

    Raises:
      ValueError: if `num_samples` or `batch_size` is less than 1.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from tsam_jax import noise
      >>> from tsam_jax.analysis import average_sharpness
      >>> rise = average_sharpness(
      ...     lambda x: 7.0 + jnp.sum(x**2), jnp.zeros(3), jax.random.key(0),
      ...     noise=noise.sphere(radius=2.0), num_samples=3,
      ... )
      >>> round(float(rise.value), 4)
      4.0

    Source: Andriushchenko et al., "A Modern Look at the Relationship between Sharpness and
    Generalization", ICML 2023, Eq. 1.
    """
    around = neighbourhood_loss(
        loss_fn, params, key, noise=noise, num_samples=num_samples, batch_size=batch_size
    )
    return Estimate(around.mean - loss_fn(params), around.standard_error)


def worst_case_sharpness(
    loss_fn: Callable[[Params], jax.Array],
    params: Params,
    key: jax.Array,
    /,
    *,
    rho: Scalar,
    steps: int = 20,
    step_size: Scalar = 0.5,
    restarts: int = 1,
    adapt: Mask | None = None,
    eta: Scalar = 0.01,
) -> WorstCase:
    r"""Worst-case sharpness: largest rise of the loss within a radius, by projected ascent.

    $\max_{\lVert T^{-1} e \rVert \le \rho} L(\theta + e) - L(\theta)$, by steps in $u = T^{-1} e$:

    $u \leftarrow \Pi_\rho (u + \alpha \rho \, T g / \lVert T g \rVert), \quad g = \nabla L(\theta
    + T u)$,

    from random u in the ball (at a minimum, the gradient at u = 0 is zero). It returns the best
    point visited: a lower bound of the maximum, which grows with `steps` and `restarts`.

    Args:
      loss_fn: `params -> scalar`, differentiable, deterministic.
      params: theta, any pytree of floating-point arrays.
      key: random key of the starting points.
      rho: radius, >= 0; l2 over all leaves together, in the metric of T; may be traced.
      steps: ascent steps, a positive static int.
      step_size: alpha, length of a step relative to `rho`, >= 0.
      restarts: number of starting points, a positive static int.
      adapt: leaves where T is |theta| + eta instead of 1: booleans over the leaves, or a function
        from parameters to these, such as `tsam_jax.methods.matrices`; True means all leaves.
        Default: no leaf, the plain ball.
      eta: constant added to the sizes, >= 0.

    Returns:
      A `WorstCase`. Costs restarts * steps gradients, and restarts + 1 losses.

    Raises:
      ValueError: if `rho`, `step_size` or `eta` is a negative number, or a count is below 1.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from tsam_jax.analysis import worst_case_sharpness
      >>> loss = lambda x: x[0] ** 2 + 5 * x[1] ** 2
      >>> worst = worst_case_sharpness(loss, jnp.zeros(2), jax.random.key(0), rho=0.5)
      >>> round(float(worst.sharpness), 3)
      1.25

    Source: Foret et al., "Sharpness-Aware Minimization for Efficiently Improving Generalization",
    ICLR 2021, Eq. 1; with T, Kwon et al., "ASAM", ICML 2021, Eq. 3. The number of steps is that of
    the code of Andriushchenko and Flammarion, "Towards Understanding Sharpness-Aware Minimization",
    2022. Deviations: steps of 0.5 rho instead of 0.1 rho (on a quadratic with condition number 5,
    they reach the maximum within 1e-3 instead of 5e-2); the best point visited instead of the last.
    """
    owner = "worst_case_sharpness"
    _checks.nonnegative(owner, rho=rho, step_size=step_size, eta=eta)
    _checks.positive_int(owner, steps=steps, restarts=restarts)
    sizes = sizes_of(params, False if adapt is None else adapt, eta)
    wide = _tree.widened(params)

    def at(u: Params) -> Params:
        return _tree.add(params, _tree.multiply(u, sizes))

    def value(loss: jax.Array) -> jax.Array:
        return jnp.asarray(loss).astype(_tree.accumulator_dtype(loss))

    def ascend(start_key: jax.Array) -> tuple[jax.Array, Params]:
        def step(carry: PyTree, _: None) -> tuple[PyTree, None]:
            u, best, best_u = carry
            loss, grad = jax.value_and_grad(loss_fn)(at(u))
            best, best_u = _better(value(loss), u, best, best_u)
            direction = _tree.unit(_tree.multiply(_tree.widened(grad), sizes))
            return (_into_ball(_tree.add(u, direction, step_size * rho), rho), best, best_u), None

        start = noise.ball(radius=1.0)(start_key, wide)
        start = _tree.scale(start, rho)
        zero = jax.tree.map(jnp.zeros_like, wide)
        (u, best, best_u), _ = jax.lax.scan(
            step, (start, value(loss_fn(params)), zero), length=steps
        )
        return _better(value(loss_fn(at(u))), u, best, best_u)

    losses, found = jax.lax.map(ascend, jax.random.split(key, restarts))
    best = jnp.argmax(losses)
    u = jax.tree.map(lambda x: x[best], found)
    return WorstCase(losses[best] - value(loss_fn(params)), _tree.multiply(u, sizes))


def m_sharpness(
    loss_fn: Callable[[Params, PyTree], jax.Array],
    params: Params,
    batches: PyTree,
    key: jax.Array,
    /,
    *,
    rho: Scalar,
    steps: int = 20,
    step_size: Scalar = 0.5,
    adapt: Mask | None = None,
    eta: Scalar = 0.01,
) -> Estimate:
    r"""m-sharpness: worst-case sharpness of micro-batches of m examples, averaged over them.

    $\frac1n \sum_b \max_{\lVert T^{-1} e \rVert \le \rho} L_b(\theta + e) - L_b(\theta)$. Each
    micro-batch has its own perturbation, so this is at least the worst-case sharpness of their mean
    loss, and grows as m falls.

    Args:
      loss_fn: (params, batch) -> mean loss over the batch, shape (); differentiable.
      params: theta, any pytree of floating-point arrays.
      batches: pytree of arrays (n, m, ...): n micro-batches of m examples. The literature mostly
        uses m = 128.
      key: random key of the starting points.
      rho: radius, as for `worst_case_sharpness`.
      steps: as for `worst_case_sharpness`.
      step_size: as for `worst_case_sharpness`.
      adapt: as for `worst_case_sharpness`.
      eta: as for `worst_case_sharpness`.

    Returns:
      An `Estimate`. Its standard error is over micro-batches, that is, over samples of the data.
      Costs n * steps gradients, and 2 n losses, of a micro-batch.

    Raises:
      ValueError: if a number is out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from tsam_jax.analysis import m_sharpness
      >>> loss = lambda w, x: jnp.mean(x) * w[0]
      >>> batches = jnp.array([[1.0, 1.0], [-3.0, -3.0]])
      >>> sharpness = m_sharpness(loss, jnp.zeros(1), batches, jax.random.key(0), rho=0.5)
      >>> round(float(sharpness.value), 3)  # the mean loss has a slope of only 1
      1.0

    Source: Foret et al. 2021, Section 4.1; Andriushchenko and Flammarion 2022, Eq. 3.
    """

    def of_batch(pair: tuple[PyTree, jax.Array]) -> jax.Array:
        batch, batch_key = pair
        found = worst_case_sharpness(
            lambda p: loss_fn(p, batch),
            params,
            batch_key,
            rho=rho,
            steps=steps,
            step_size=step_size,
            adapt=adapt,
            eta=eta,
        )
        return found.sharpness

    count = jax.tree.leaves(batches)[0].shape[0]
    values = jax.lax.map(of_batch, (batches, jax.random.split(key, count)))
    return mean_estimate(values)


def mean_estimate(values: jax.Array) -> Estimate:
    """The mean over the first axis and its standard error; nan for a single value."""
    spread = jnp.sum(jnp.square(values - jnp.mean(values, axis=0)), axis=0)
    count = values.shape[0]
    # 0 / 0 for a single value, whose error is unknown
    return Estimate(
        jnp.mean(values, axis=0), jnp.sqrt(spread / jnp.asarray(count * (count - 1), values.dtype))
    )


def _into_ball(u: Params, rho: Scalar) -> Params:
    norm = _tree.norm(u)
    inside = norm <= rho
    return _tree.scale(u, jnp.where(inside, 1.0, rho / jnp.where(inside, 1.0, norm)))


def _better(
    loss: jax.Array, u: Params, best: jax.Array, best_u: Params
) -> tuple[jax.Array, Params]:
    higher = loss > best  # False for NaN
    kept = jax.tree.map(lambda new, old: jnp.where(higher, new, old), u, best_u)
    return jnp.where(higher, loss, best), kept
