"""The paper's theory as functions: small tilts, Hessian of the objective, generalisation bound.

Glossary: X, the random variable L(theta + eps), with n draws `losses`; t, the tilt; L_t, the tilted
loss of X; m_t and v_t, its t-weighted mean and variance.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tsam_jax import _checks, _tree
from tsam_jax._checks import Params, Scalar
from tsam_jax.analysis.products import hvp
from tsam_jax.tilting import tilt_weights, tilted_loss


class GeneralisationBound(NamedTuple):
    """Terms of Theorem 3.7: scalars, float32 or wider, in the unit of the loss.

    Attributes:
      bound: bound on the generalisation error, the risk minus the tilted training loss:
        `hoeffding` - `variance` + `gap`.
      risk: bound on the risk: the tilted loss plus `bound`.
      hoeffding: M sqrt(log(2 / delta) / 2 n), the uniform term.
      variance: Var exp(t X) / (2 t exp(2 t M)); may underflow to 0.
      log_variance: logarithm of `variance`, which does not underflow.
      gap: c = L(theta) - E L(theta + eps).
    """

    bound: jax.Array
    risk: jax.Array
    hoeffding: jax.Array
    variance: jax.Array
    log_variance: jax.Array
    gap: jax.Array


def small_tilt_expansion(losses: jax.Array, t: Scalar, /) -> jax.Array:
    r"""Tilted loss to first order in the tilt: mean plus t / 2 times the variance.

    $E X + \frac t2 \mathrm{Var} X$. The error is $\frac{t^2}{6} E(X - E X)^3 + O(t^3)$, with the
    sign of the skewness.

    Args:
      losses: shape (n,), draws of X.
      t: tilt, >= 0; the expansion is accurate if t times the standard deviation is small.

    Returns:
      Shape (), float32 or wider.

    Raises:
      ValueError: if `t` is negative or not finite.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax.analysis import small_tilt_expansion
      >>> float(small_tilt_expansion(jnp.array([1.0, 3.0]), 0.5))
      2.25

    Source: Li, Zhou, Bilmes, "Tilted Sharpness-Aware Minimization", ICML 2025, Section 3.2 and
    Eq. 56.
    """
    _checks.nonnegative("small_tilt_expansion", t=t)
    losses = losses.astype(_tree.accumulator_dtype(losses))
    return jnp.mean(losses) + t / 2 * jnp.var(losses)


def tilt_derivative(losses: jax.Array, t: Scalar, /) -> jax.Array:
    r"""Derivative of the tilted loss with respect to the tilt.

    $\frac{d}{dt} L_t = \frac{m_t - L_t}{t} = \frac1{t^2} \int_0^t \tau v_\tau d\tau \ge 0.$

    The integral gives Theorem 3.6 and its condition: if $\theta_1$ is tau-sharper than $\theta_2$
    *for every tau up to t*, then $\frac{d}{dt} (L_t(\theta_1) - L_t(\theta_2)) \ge 0$, for any
    loss, generalised linear or not. The printed theorem assumes it at t only, which is not enough:
    for two values at distance D, $v_t = (D / 2)^2 \mathrm{sech}^2 (t D / 2)$ vanishes for large D.

    Args:
      losses: shape (n,), draws of X.
      t: tilt, >= 0, finite; may be traced.

    Returns:
      Shape (), float32 or wider; at t = 0 half of the variance.

    Raises:
      ValueError: if `t` is negative or not finite.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax.analysis import tilt_derivative
      >>> float(tilt_derivative(jnp.array([1.0, 3.0]), 0.0))
      0.5

    Source: Li et al. 2025, Theorem 3.6 and Appendix B.4, whose step from t to the whole range of
    tilts is invalid; the integral is ours.
    """
    _checks.nonnegative("tilt_derivative", t=t)
    losses = losses.astype(_tree.accumulator_dtype(losses))
    losses = losses - jnp.mean(losses)  # the result does not depend on the mean
    t = jnp.asarray(t, losses.dtype)
    small = t * jnp.std(losses) < jnp.cbrt(jnp.finfo(t.dtype).eps)  # where the two errors are equal
    series = jnp.var(losses) / 2 + t / 3 * jnp.mean(losses**3)
    mean = jnp.sum(tilt_weights(losses, t) * losses)
    return jnp.where(small, series, (mean - tilted_loss(losses, t)) / jnp.where(small, 1.0, t))


def tilted_hessian_product(
    loss_fn: Callable[[Params], jax.Array],
    params: Params,
    perturbations: Params,
    vector: Params,
    /,
    *,
    t: Scalar,
) -> Params:
    r"""Hessian-vector product of the TSAM objective at given perturbations.

    Lemma 3.2, with w the tilt weights of the losses at $\theta + \epsilon_j$ and $g_j, H_j$ the
    gradient and the Hessian there:

    $\nabla^2 L_t = t \left( \sum_j w_j g_j g_j^\top - \bar g \bar g^\top \right) + \sum_j w_j H_j,
    \quad \bar g = \sum_j w_j g_j.$

    Tilting adds the first term, the covariance of the gradients times t. It is positive
    semi-definite and grows with t, so large tilts need small learning rates (Lemma 3.3).

    Args:
      loss_fn: `params -> scalar`, twice differentiable by reverse mode.
      params: theta, any pytree of floating-point arrays.
      perturbations: eps, a pytree like `params` with a leading axis over the s samples.
      vector: v, like `params`.
      t: tilt, >= 0, finite; may be traced.

    Returns:
      The product, like `params`, in float32 or wider. Costs s losses, s gradients and s
      Hessian-vector products, in the memory of one.

    Raises:
      ValueError: if `t` is negative or not finite.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax.analysis import tilted_hessian_product
      >>> eps, v = jnp.array([[-1.0], [1.0]]), jnp.array([1.0])
      >>> tilted_hessian_product(lambda x: 0.5 * jnp.sum(x**2), jnp.zeros(1), eps, v, t=3.0).item()
      4.0

    Source: Li et al. 2025, Lemma 3.2, Eq. 4.
    """
    _checks.nonnegative("tilted_hessian_product", t=t)
    dtype = _tree.accumulator_dtype(params)
    losses = jax.lax.map(lambda e: loss_fn(_tree.add(params, e)).astype(dtype), perturbations)
    weights = tilt_weights(losses, t)
    zero = jax.tree.map(lambda p: jnp.zeros(p.shape, _tree.wide_dtype(p)), params)

    def fold(
        sums: tuple[Params, Params], sample: tuple[jax.Array, Params]
    ) -> tuple[tuple[Params, Params], None]:
        mean, total = sums
        weight, eps = sample
        point = _tree.add(params, eps)
        grad = jax.grad(loss_fn)(point)
        total = _tree.add(total, grad, weight * t * _tree.inner(grad, vector))
        total = _tree.add(total, hvp(loss_fn, point, vector), weight)
        return (_tree.add(mean, grad, weight), total), None

    (mean, total), _ = jax.lax.scan(fold, (zero, zero), (weights, perturbations))
    return _tree.add(total, mean, -t * _tree.inner(mean, vector))


def generalisation_bound(
    losses: jax.Array,
    loss: jax.Array,
    /,
    *,
    t: Scalar,
    upper: Scalar,
    num_examples: int,
    delta: float = 0.05,
) -> GeneralisationBound:
    r"""Generalisation bound of TSAM, term by term.

    For losses in [0, M], with probability $1 - \delta$ over the n training examples,

    $E_Z \ell(\theta, Z) - L_t(\theta) \le M \sqrt{\frac{\log(2 / \delta)}{2 n}} -
    \frac{\mathrm{Var}_\epsilon e^{t L(\theta + \epsilon)}}{2 t e^{2 t M}} + c, \quad c = L(\theta)
    - E_\epsilon L(\theta + \epsilon).$

    The paper's argument rests on the middle term. It is computed in log space, because $e^{2 t M}$
    overflows at t M = 44 in float32; `log_variance` shows how small it is. As in the theorem, the
    bound holds for a fixed $\theta$, not for one fitted to the examples.

    Args:
      losses: shape (k,), draws of the mean training loss around $\theta$, from `perturbed_losses`.
      loss: shape (), the mean training loss at $\theta$.
      t: tilt, >= 0, finite; may be traced.
      upper: M, an upper bound on the loss of any example and perturbation.
      num_examples: n, a positive int.
      delta: probability of failure, between 0 and 1.

    Returns:
      A `GeneralisationBound`; all NaN if a loss lies outside [0, M], where the theorem does not
      apply.

    Raises:
      ValueError: if a number is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax.analysis import generalisation_bound
      >>> terms = generalisation_bound(
      ...     jnp.array([0.5, 0.7]), jnp.float32(0.6), t=20.0, upper=10.0, num_examples=50_000
      ... )
      >>> round(float(terms.hoeffding), 4), round(float(terms.log_variance))
      (0.0607, -377)

    Source: Li et al. 2025, Theorem 3.7 and its proof, Eqs. 62 to 67. The constant log(2 / delta) is
    that of the two-sided Hoeffding inequality, which the proof cites.
    """
    owner = "generalisation_bound"
    _checks.nonnegative(owner, t=t, upper=upper)
    _checks.positive_int(owner, num_examples=num_examples)
    if not 0 < delta < 1:
        msg = f"`{owner}(delta=...)` must be a number between 0 and 1, got {delta!r}."
        raise ValueError(msg)
    losses = losses.astype(_tree.accumulator_dtype(losses))
    loss, t, upper = (jnp.asarray(x, losses.dtype) for x in (loss, t, upper))
    hoeffding = upper * jnp.sqrt(jnp.log(2 / delta) / (2 * num_examples))
    peak = jnp.max(losses)
    positive = t > 0
    safe_t = jnp.where(positive, t, 1.0)
    spread = jnp.var(jnp.expm1(safe_t * (losses - peak)))  # of exp(t (X - peak)): a shift of 1
    log_variance = jnp.log(spread) + 2 * safe_t * (peak - upper) - jnp.log(2 * safe_t)
    log_variance = jnp.where(positive, log_variance, -jnp.inf)
    variance = jnp.exp(log_variance)
    gap = loss - jnp.mean(losses)
    bound = hoeffding - variance + gap
    holds = (jnp.min(losses) >= 0) & (peak <= upper) & (loss >= 0) & (loss <= upper)
    terms = bound, tilted_loss(losses, t) + bound, hoeffding, variance, log_variance, gap
    return GeneralisationBound(*(jnp.where(holds, term, jnp.nan) for term in terms))
