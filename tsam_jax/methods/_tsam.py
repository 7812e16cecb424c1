"""Tilted SAM, and naive tilted sampling, which is its special case without ascent."""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tsam_jax import _tree
from tsam_jax import noise as noise_laws
from tsam_jax._checks import (
    check_axis,
    check_choice,
    check_nonnegative,
    check_positive_int,
    is_static_number,
    is_static_zero,
)
from tsam_jax._types import (
    AuxPolicy,
    KeyLike,
    Mask,
    NoiseLaw,
    Params,
    PyTree,
    ScalarOrSchedule,
    Strategy,
)
from tsam_jax.estimator import Cost, Evaluation, GradientEstimator, Oracle
from tsam_jax.execution import STRATEGIES, combine_samples, on_each_device
from tsam_jax.methods._common import (
    AUX_POLICIES,
    as_key,
    ascend,
    at,
    displace,
    dtype_of_state,
    zero_step,
)
from tsam_jax.tilting import AutoTilt, tilt_for_ess

DEFAULT_NOISE = noise_laws.sphere(rms=0.006)
"""The paper's radius of 20, per coordinate of its ResNet-18 with 11 million parameters."""


class SampledState(NamedTuple):
    """State of a method that samples perturbations, with the diagnostics of its last step.

    Attributes:
      step: steps taken; shape (), int32.
      key: PRNG key of the run; shape (), typed. Sample j of step k draws its noise with
        `jax.random.split(jax.random.fold_in(key, k), s)[j]`.
      losses: loss of each sample in the last step; shape (s,), float32 at least; NaN for a
        sample that was not finite.
      weights: tilt weight of each sample in the last step; shape (s,), float32 at least.
    """

    step: jax.Array
    key: jax.Array
    losses: jax.Array
    weights: jax.Array


class AutoTiltedState(NamedTuple):
    """State of a method that samples perturbations and chooses its tilt: `t=AutoTilt(...)`.

    Attributes:
      step: as in `SampledState`.
      key: as in `SampledState`.
      losses: as in `SampledState`.
      weights: as in `SampledState`.
      tilt: tilt of the weights in the last step; shape (), float32 at least; 0 before it;
        infinity if no tilt was enough; NaN if no sample was finite.
    """

    step: jax.Array
    key: jax.Array
    losses: jax.Array
    weights: jax.Array
    tilt: jax.Array


def tsam(
    t: ScalarOrSchedule | AutoTilt,
    rho: ScalarOrSchedule,
    s: int,
    *,
    noise: NoiseLaw = DEFAULT_NOISE,
    delta: ScalarOrSchedule | Literal["half"] = 0.0,
    mask: Mask | None = None,
    aux: AuxPolicy = "first",
    strategy: Strategy = "auto",
    sample_axis: str | None = None,
    key: KeyLike = 0,
) -> GradientEstimator:
    r"""Tilted SAM: the gradient of a log-mean-exp of the losses around the parameters.

    Estimates the gradient of $L_t(\theta) = \frac1t \log E_\epsilon e^{t L(\theta + \epsilon)}$
    (Eq. 3), which runs from the mean loss of the neighbourhood (t = 0) to its maximum. For
    j = 1..s (Algorithms 1 and 3):

    $\theta_j = \theta + \epsilon_j, \ \epsilon_j \sim$ noise; $\quad \hat\theta_j = \theta_j +
    \rho \frac{g(\theta_j)}{\lVert g(\theta_j) \rVert}; \quad w = \mathrm{softmax}((t - \delta)
    L(\hat\theta)); \quad \hat g = \sum_j w_j g(\hat\theta_j).$

    Args:
      t: tilt, >= 0, also 0 and infinity; unit: one over that of the loss, so that a rescaled
        loss needs a rescaled t. A number, a traced scalar, or a schedule on the step counter; or
        `tilting.AutoTilt(fraction)`, which chooses it in every step.
      rho: length of the ascent step, >= 0, l2 over the masked leaves together; a number, a
        traced scalar, or a schedule. (The official code's `--rho`, not the paper's "rho = 20",
        which is the size of the noise: see `from_paper`.)
      s: number of samples, a positive integer, known before tracing.
      noise: law of the perturbations, `(key, params) -> perturbation`, or a design such as
        `antithetic(law)`, under which samples depend on each other: see `tsam_jax.noise`. It sees
        only the masked leaves (None elsewhere). With strategy "unrolled" a law is called once for
        each sample, in the order 0..s-1.
      delta: part of the tilt that the sampling is taken to account for: the weights use
        t - delta. A number between 0 and t, a schedule, or "half" for t / 2. 0 for an `AutoTilt`,
        which chooses the tilt of the weights itself.
      mask: booleans over the leaves (a prefix of the tree is enough), or a function of the
        parameters that returns them; only leaves marked True are perturbed. Default: all.
      aux: whose auxiliary output is returned (BatchNorm statistics, say). "first": that of the
        first finite sample, at its noise point; "mean": the mean over the finite samples, at
        their noise points; "clean": that of theta, for one more loss evaluation.
      strategy: "auto", "vectorized", "unrolled" or "streamed": see `tsam_jax.execution`. With an
        `AutoTilt` not "streamed".
      sample_axis: mesh axis over whose devices the samples are spread, s / devices on each, with
        one sum of a gradient at the end; the step must run in a `jax.shard_map` over this axis
        (`axis_names={sample_axis}` leaves the others to `jit`). Default: all samples here.
      key: seed or PRNG key of the noise.

    Returns:
      A `GradientEstimator` with state `SampledState`, or `AutoTiltedState` for an `AutoTilt`.
      `value` is the tilted loss of the samples at tilt t - delta, whose gradient at fixed
      perturbations is the returned one.

    Raises:
      ValueError: if a number is out of its range, or a name is none of the choices.
      TypeError: if `s` is not an integer.

    Cost: 2s gradient evaluations a step; s if `rho` is the number 0. If the noise is `none`, all
    samples are one and the same, and it costs as much as s = 1. With neither noise nor ascent it
    is `erm`.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax import noise, value_and_grad
      >>> loss = lambda x: jnp.sum(x**4)
      >>> estimator = tsam(t=20.0, rho=0.05, s=3, noise=noise.sphere(radius=0.1))
      >>> x = jnp.array([1.0, -1.0])
      >>> (value, grad), state = value_and_grad(loss, estimator)(x, estimator.init(x))
      >>> state.weights.shape, bool(value > loss(x))
      ((3,), True)

    Source: Li, Zhou and Bilmes, "Tilted Sharpness-Aware Minimization", ICML 2025, Algorithms 1
    and 3. Deviations from the official code: none of the mathematics at delta = 0 (it has no
    delta); losses and weights keep the precision of a float64 model, where the official code
    rounds them to float32; leaves without gradient are not left perturbed. Deviation from the
    paper: delta = 0 by default, as in the official code; "half" is the paper's.
    """
    check_nonnegative("tsam", rho=rho)
    check_nonnegative("tsam", finite=False, t=t)
    if delta != "half":
        check_nonnegative("tsam", delta=delta)
        if is_static_number(t) and is_static_number(delta) and delta > t:
            msg = f"`tsam(delta=...)` must be a number between 0 and t = {t!r}, got {delta!r}."
            raise ValueError(msg)
    return _sampled("tsam", t, rho, s, noise, delta, mask, aux, strategy, sample_axis, key)


def tilted_sampling(
    t: ScalarOrSchedule | AutoTilt,
    s: int,
    *,
    noise: NoiseLaw = DEFAULT_NOISE,
    mask: Mask | None = None,
    aux: AuxPolicy = "first",
    strategy: Strategy = "auto",
    sample_axis: str | None = None,
    key: KeyLike = 0,
) -> GradientEstimator:
    r"""Naive tilted sampling: tilted weights on plain noise, without ascent.

    Estimates the gradient of $L_t(\theta) = \frac1t \log E_\epsilon e^{t L(\theta + \epsilon)}$ by
    $\epsilon_j \sim$ noise, $w = \mathrm{softmax}(t L(\theta + \epsilon))$,
    $\hat g = \sum_j w_j g(\theta + \epsilon_j)$.

    Args:
      t: tilt, as for `tsam`.
      s: number of samples, a positive integer, known before tracing.
      noise: law of the perturbations, as for `tsam`.
      mask: which leaves are perturbed, as for `tsam`.
      aux: whose auxiliary output is returned, as for `tsam`.
      strategy: how samples are evaluated, as for `tsam`.
      sample_axis: mesh axis over which samples are spread, as for `tsam`.
      key: seed or PRNG key of the noise.

    Returns:
      A `GradientEstimator` with state `SampledState`, or `AutoTiltedState` for an `AutoTilt`;
      `value` is the tilted loss of the samples.

    Raises:
      ValueError: if a number is out of its range, or a name is none of the choices.
      TypeError: if `s` is not an integer.

    Cost: s gradient evaluations a step; 1 if the noise is `none`.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax import noise, value_and_grad
      >>> estimator = tilted_sampling(t=1.0, s=2, noise=noise.gaussian(rms=0.1))
      >>> x = jnp.ones(3)
      >>> (value, grad), state = value_and_grad(jnp.sum, estimator)(x, estimator.init(x))
      >>> [round(g, 4) for g in grad.tolist()]
      [1.0, 1.0, 1.0]

    Source: Li et al. 2025, Eq. 70; the t that is missing from its printed denominator is
    restored.
    """
    return _sampled("tilted_sampling", t, 0.0, s, noise, 0.0, mask, aux, strategy, sample_axis, key)


def _check_auto_tilt(owner: str, delta: Any, strategy: Strategy) -> None:
    """Refuses what cannot go with a tilt that is known only after all samples."""
    if not is_static_zero(delta):
        msg = f"`{owner}(delta=...)` must be 0 for an `AutoTilt`, got {delta!r}."
        raise ValueError(msg)
    if strategy == "streamed":
        msg = (
            f"`{owner}(strategy=...)` cannot be 'streamed' for an `AutoTilt`: gradients are folded"
            " before all losses are known. It must be 'auto', 'vectorized' or 'unrolled'."
        )
        raise ValueError(msg)


def _sampled(
    owner: str,
    t: ScalarOrSchedule | AutoTilt,
    rho: ScalarOrSchedule,
    s: int,
    noise: NoiseLaw,
    delta: ScalarOrSchedule | Literal["half"],
    mask: Mask | None,
    aux: AuxPolicy,
    strategy: Strategy,
    sample_axis: str | None,
    key: KeyLike,
) -> GradientEstimator:
    check_nonnegative(owner, finite=False, t=t)
    check_positive_int(owner, s=s)
    check_choice(owner, AUX_POLICIES, aux=aux)
    check_choice(owner, STRATEGIES, strategy=strategy)
    check_axis(owner, sample_axis=sample_axis)
    if isinstance(t, AutoTilt):
        _check_auto_tilt(owner, delta, strategy)
    if not callable(noise):
        msg = f"`{owner}(noise=...)` must be a law of `tsam_jax.noise` or a function (key, params)"
        msg += f" -> perturbation, got {noise!r}."
        raise TypeError(msg)
    distinct = 1 if noise is noise_laws.none else s  # without noise all samples are the same
    ascends = not is_static_zero(rho)
    is_erm = noise is noise_laws.none and not ascends

    def init(params: Params) -> SampledState | AutoTiltedState:
        dtype = dtype_of_state(params)
        losses, weights = jnp.zeros(s, dtype), jnp.full(s, 1 / s, dtype)
        state = SampledState(zero_step(), as_key(key), losses, weights)
        return AutoTiltedState(*state, jnp.zeros((), dtype)) if isinstance(t, AutoTilt) else state

    def tilt_at(step: jax.Array) -> Any:
        if isinstance(t, AutoTilt):
            return functools.partial(tilt_for_ess, fraction=at(t.fraction, step))
        return at(t, step) / 2 if delta == "half" else at(t, step) - at(delta, step)

    def estimate(oracle: Oracle, params: Params, state: PyTree, /) -> tuple[Evaluation, PyTree]:
        step = state.step
        tilt = tilt_at(step)
        law = noise_laws.law_at(noise, step)
        step_key = jax.random.fold_in(state.key, step)
        evaluate = on_each_device(oracle.evaluate, sample_axis)

        def sample(key_or_index: jax.Array) -> Evaluation:
            eps = _tree.select(params, mask)
            if isinstance(law, noise_laws.Design):
                eps = law.draw(step_key, key_or_index, s, eps)
            else:
                eps = law(key_or_index, eps)
            point = params if noise is noise_laws.none else displace(params, eps)  # Alg. 3, l. 2
            first = evaluate(point)
            if not ascends:
                return first
            point = ascend(point, first.grad, at(rho, step), mask)  # Alg. 3, line 3
            last = evaluate(point)
            value = jnp.where(_tree.all_finite(first.value, first.grad), last.value, jnp.nan)
            return Evaluation(value, first.aux, last.grad)

        if is_erm:  # with nothing in between that would change how XLA rounds the base optimizer
            evaluation = oracle.evaluate(params)
            losses, weights = evaluation.value, jnp.ones_like(evaluation.value)
            tilt = tilt(losses[None]) if callable(tilt) else tilt
        else:
            designed = isinstance(law, noise_laws.Design)
            keys = jnp.arange(s) if designed else jax.random.split(step_key, s)[:distinct]
            evaluation, losses, weights, tilt, _ = combine_samples(  # Alg. 1, lines 3 and 4
                sample,
                keys,
                tilt,
                strategy=strategy,
                aux="mean" if aux == "mean" else "first",
                axis=sample_axis if distinct == s else None,
            )
            if aux == "clean":
                evaluation = evaluation._replace(aux=oracle.value(params)[1])
        dtype = state.losses.dtype
        state = state._replace(
            step=optax.safe_increment(step),
            losses=jnp.broadcast_to(losses, (s,)).astype(dtype),
            weights=jnp.broadcast_to(weights * (distinct / s), (s,)).astype(dtype),
        )
        if isinstance(t, AutoTilt):
            state = state._replace(tilt=tilt.astype(dtype))
        return evaluation, state

    cost = Cost(gradients=distinct * (1 + ascends), values=float(aux == "clean" and not is_erm))
    return GradientEstimator(init, estimate, cost)
