"""Quality of the samples of a tilted method: weights over a run, bias and variance.

Glossary: s, the number of samples of a step; w, their tilt weights; g_t, the gradient of the TSAM
objective; g, an estimate of it.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tsam_jax import _checks, _tree
from tsam_jax._checks import NoiseLaw, Params, Scalar
from tsam_jax.analysis.sharpness import Estimate, mean_estimate
from tsam_jax.estimator import GradientEstimator, value_and_grad
from tsam_jax.tilting import TiltedMean, effective_sample_size, merge, tilted_mean


class SampleDiagnostics(NamedTuple):
    """Diagnostics of the samples of a step, with the leading axes of the metrics.

    Attributes:
      effective_sample_size: 1 / sum w^2, from 1 (the worst sample has all the weight) to s.
      largest_weight: from 1 / s to 1.
      loss_spread: largest minus smallest finite loss of the samples, in the unit of the loss. If it
        is far below 1 / t, all weights are nearly equal and the tilt has no effect.
      acceptance: fraction of accepted proposals, averaged over chains; NaN for methods without
        proposals.
    """

    effective_sample_size: jax.Array
    largest_weight: jax.Array
    loss_spread: jax.Array
    acceptance: jax.Array


class ReferenceGradient(NamedTuple):
    """Brute-force estimate of the gradient of the TSAM objective.

    Attributes:
      grad: pytree like the parameters, in float32 or wider.
      standard_error: scalar: l2 norm of the standard errors of all entries of `grad`.
      effective_sample_size: scalar: effective number of draws, summed over the groups.
    """

    grad: Params
    standard_error: jax.Array
    effective_sample_size: jax.Array


class GradientQuality(NamedTuple):
    """Errors of the gradients of an estimator relative to a reference g_t.

    Squares are squared l2 norms over all leaves together, divided by ||g_t||^2: a zero gradient has
    error 1. `squared_error` is `squared_bias` plus `variance`.

    Attributes:
      squared_error: `Estimate` of E ||g - g_t||^2 / ||g_t||^2.
      squared_bias: `Estimate` of ||E g - g_t||^2 / ||g_t||^2. It is unbiased, so may be negative if
        the bias is small relative to its standard error.
      variance: E ||g - E g||^2 / ||g_t||^2; scalar.
      cosine: `Estimate` of the mean cosine of the angle between g and g_t, which ignores lengths.
      diagnostics: `SampleDiagnostics` with a leading axis over the repetitions; None for methods
        without samples.
      gradients: gradient evaluations per g, a Python number.
    """

    squared_error: Estimate
    squared_bias: Estimate
    variance: jax.Array
    cosine: Estimate
    diagnostics: SampleDiagnostics | None
    gradients: float


def sample_diagnostics(metrics: Mapping[str, Any], /) -> SampleDiagnostics:
    """Compute effective sample size, largest weight, spread of the losses, and acceptance.

    Args:
      metrics: `state.last.metrics` of `tsam_jax.methods.tsam`, `tilted_sampling` or `tsam_hmc`
        after a step; or the stacked metrics of many steps, as returned by `jax.lax.scan`.

    Returns:
      A `SampleDiagnostics` whose fields have the leading axes of the metrics.

    Raises:
      TypeError: if `metrics` has no `losses` and `weights`.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax import methods, value_and_grad
      >>> from tsam_jax.analysis import sample_diagnostics
      >>> step = value_and_grad(jnp.sum, methods.tilted_sampling(t=0.0, s=4))
      >>> _, state = step(jnp.ones(2), step.init(jnp.ones(2)))
      >>> float(sample_diagnostics(state.last.metrics).effective_sample_size)
      4.0
    """
    if not (isinstance(metrics, Mapping) and {"losses", "weights"} <= metrics.keys()):
        given = f"those of {sorted(metrics)}" if isinstance(metrics, Mapping) else repr(metrics)
        msg = (
            "`sample_diagnostics(metrics)` must be the metrics of a sampled method, with `losses`"
            f" and `weights`, got {given}. Pass `state.last.metrics`."
        )
        raise TypeError(msg)
    weights, losses = jnp.asarray(metrics["weights"]), jnp.asarray(metrics["losses"])
    finite = jnp.isfinite(losses)
    high = jnp.max(losses, axis=-1, where=finite, initial=-jnp.inf)
    low = jnp.min(losses, axis=-1, where=finite, initial=jnp.inf)
    unknown = jnp.full(weights.shape[:-1], jnp.nan, weights.dtype)
    acceptance = metrics.get("acceptance")
    return SampleDiagnostics(
        effective_sample_size=jnp.vectorize(effective_sample_size, signature="(s)->()")(weights),
        largest_weight=jnp.max(weights, axis=-1),
        loss_spread=high - low,
        acceptance=unknown if acceptance is None else jnp.mean(acceptance, axis=-1),
    )


def reference_gradient(
    loss_fn: Callable[[Params], jax.Array],
    params: Params,
    key: jax.Array,
    /,
    *,
    t: Scalar,
    noise: NoiseLaw,
    num_samples: int,
    num_groups: int = 8,
) -> ReferenceGradient:
    r"""Estimate the gradient of the TSAM objective by brute force, from very many naive samples.

    $\nabla L_t = E[w_t(\epsilon) \nabla L(\theta + \epsilon)]$ (Lemma 3.2), by `num_groups`
    independent self-normalised means over `num_samples` draws each, accumulated one by one. Each
    group has a bias of order 1 / num_samples, which the standard error over groups does not
    include. Check the effective sample size: it should be in the hundreds per group.

    Args:
      loss_fn: `params -> scalar`, differentiable, deterministic.
      params: theta, any pytree of floating-point arrays.
      key: random key.
      t: tilt, >= 0, including infinity.
      noise: law of eps, that of the objective.
      num_samples: draws per group, a positive static int.
      num_groups: number of groups, a positive static int.

    Returns:
      A `ReferenceGradient`. Costs num_groups * num_samples gradients, in the memory of one gradient
      and `num_groups` vectors like `params`.

    Raises:
      ValueError: if a number is out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from tsam_jax import noise
      >>> from tsam_jax.analysis import reference_gradient
      >>> reference = reference_gradient(
      ...     lambda x: 2.0 * jnp.sum(x), jnp.zeros(2), jax.random.key(0),
      ...     t=1.0, noise=noise.sphere(radius=1.0), num_samples=5,
      ... )
      >>> reference.grad.tolist()
      [2.0, 2.0]

    Source: Li, Zhou, Bilmes, "Tilted Sharpness-Aware Minimization", ICML 2025, Lemma 3.2 and
    Eq. 70 (with the t that its denominator lacks).
    """
    _checks.nonnegative("reference_gradient", finite=False, t=t)
    _checks.positive_int("reference_gradient", num_samples=num_samples, num_groups=num_groups)
    evaluate = jax.value_and_grad(loss_fn)

    def one(sample_key: jax.Array) -> TiltedMean:
        loss, grad = evaluate(_tree.add(params, noise(sample_key, params)))
        return tilted_mean(loss, grad)

    def group(group_key: jax.Array) -> tuple[Params, jax.Array]:
        def fold(
            parts: tuple[TiltedMean, TiltedMean], sample_key: jax.Array
        ) -> tuple[tuple[TiltedMean, TiltedMean], None]:
            part = one(sample_key)
            total, squares = parts
            bare = part._replace(mean=())
            return (merge(total, part, t), merge(squares, bare, 2 * t)), None

        keys = jax.random.split(group_key, num_samples)
        first = one(keys[0])
        (total, squares), _ = jax.lax.scan(fold, (first, first._replace(mean=())), keys[1:])
        return total.mean, jnp.square(total.weight) / squares.weight

    grads, sizes = jax.lax.map(group, jax.random.split(key, num_groups))
    estimates = jax.tree.map(mean_estimate, grads)
    is_estimate = lambda x: isinstance(x, Estimate)  # noqa: E731
    return ReferenceGradient(
        grad=jax.tree.map(lambda e: e.value, estimates, is_leaf=is_estimate),
        standard_error=_tree.norm(
            jax.tree.map(lambda e: e.standard_error, estimates, is_leaf=is_estimate)
        ),
        effective_sample_size=jnp.sum(sizes),
    )


def gradient_quality(
    estimator: GradientEstimator,
    loss_fn: Callable[[Params], jax.Array],
    params: Params,
    key: jax.Array,
    /,
    *,
    reference: Params,
    num_repeats: int,
) -> GradientQuality:
    r"""Bias and variance of a method's gradient relative to that of the TSAM objective.

    The paper's Figure 5 compares samplers by accuracy; this compares their gradients. A method that
    finds the large losses needs fewer samples for the same error. But the ascent step of `tsam`
    departs from the law of the objective, so its error does not fall to 0 as s grows. Compare
    methods at equal `gradients`, not at equal s.

    Args:
      estimator: a method of `tsam_jax.methods`.
      loss_fn: `params -> scalar`, differentiable, deterministic.
      params: theta, any pytree of floating-point arrays.
      key: random key of the repetitions.
      reference: g_t, a pytree like `params`: the `grad` of `reference_gradient`, or the exact
        gradient. Its squared error adds to the errors here.
      num_repeats: number of gradients g, at least 2, a static int.

    Returns:
      A `GradientQuality`. Costs `num_repeats` times as much as the estimator, one after the other.

    Raises:
      ValueError: if `num_repeats` is less than 2.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from tsam_jax import methods
      >>> from tsam_jax.analysis import gradient_quality
      >>> quality = gradient_quality(
      ...     methods.erm(), lambda x: jnp.sum(x**2), jnp.ones(2), jax.random.key(0),
      ...     reference=jnp.array([4.0, 4.0]), num_repeats=2,
      ... )
      >>> float(quality.squared_error.value), float(quality.variance)
      (0.25, 0.0)

    Source: ours; the paper's argument is in Section 4 and Appendix C.2.
    """
    if num_repeats < 2:
        msg = f"`gradient_quality(num_repeats=...)` must be at least 2, got {num_repeats}."
        raise ValueError(msg)
    step = value_and_grad(loss_fn, estimator)
    start = step.init(params)
    sampled = "weights" in start.last.metrics

    def one(repeat_key: jax.Array) -> tuple[Params, SampleDiagnostics | None]:
        state = start._replace(key=jax.random.key_data(repeat_key))
        (_, grad), state = step(params, state)
        return grad, sample_diagnostics(state.last.metrics) if sampled else None

    grads, diagnostics = jax.lax.map(one, jax.random.split(key, num_repeats))
    squares = _tree.inner(reference, reference)
    errors = jax.tree.map(lambda g, r: g - r, grads, reference)
    bias = jax.tree.map(lambda e: jnp.mean(e, axis=0), errors)
    centred = jax.tree.map(lambda e, b: e - b, errors, bias)
    variances = jax.vmap(lambda x: _tree.inner(x, x))(centred) / squares
    variance = jnp.sum(variances) / (num_repeats - 1)
    squared_error = mean_estimate(jax.vmap(lambda e: _tree.inner(e, e))(errors) / squares)
    # the error of ||mean error||^2: a term linear in the noise of the mean, and one without bias
    linear = mean_estimate(2 * jax.vmap(lambda x: _tree.inner(x, bias))(centred) / squares)
    error = jnp.hypot(linear.standard_error, jnp.sqrt(2.0) * variance / num_repeats)

    def cosine(grad: Params) -> jax.Array:
        return _tree.inner(_tree.unit(grad), _tree.unit(reference))

    return GradientQuality(
        squared_error=squared_error,
        squared_bias=Estimate(squared_error.value - variance, error),
        variance=variance,
        cosine=mean_estimate(jax.vmap(cosine)(grads)),
        diagnostics=diagnostics,
        gradients=estimator.cost.gradients if estimator.cost else math.nan,
    )
