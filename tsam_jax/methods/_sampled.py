"""The samples of one step: what `tsam` and `tilted_sampling` share, and their state."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tsam_jax import _tree
from tsam_jax import noise as noise_laws
from tsam_jax._checks import (
    check_axis,
    check_choice,
    check_flag,
    check_nonnegative,
    check_positive_int,
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
    at,
    displace,
    dtype_of_state,
    zero_step,
)
from tsam_jax.methods._micro_batches import slices
from tsam_jax.methods._two_turns import in_a_loop, one_after_the_other
from tsam_jax.tilting import AutoTilt, tilt_for_ess


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


def sampled(
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
    *,
    split_batch: bool,
) -> GradientEstimator:
    """The estimator of `tsam`, whose arguments these are; `owner` is named in messages."""
    check_nonnegative(owner, finite=False, t=t)
    check_positive_int(owner, s=s)
    check_choice(owner, AUX_POLICIES, aux=aux)
    check_choice(owner, STRATEGIES, strategy=strategy)
    check_axis(owner, sample_axis=sample_axis)
    check_flag(owner, split_batch=split_batch)
    if isinstance(t, AutoTilt):
        _check_auto_tilt(owner, delta, strategy)
    if not callable(noise):
        msg = f"`{owner}(noise=...)` must be a law of `tsam_jax.noise` or a function (key, params)"
        msg += f" -> perturbation, got {noise!r}."
        raise TypeError(msg)
    still = noise is noise_laws.none and not split_batch  # then all samples are the same
    distinct = 1 if still else s
    ascends = not is_static_zero(rho)
    is_erm = still and not ascends

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
        keys = jax.random.split(step_key, s)
        oracle_of = slices(owner, oracle, s) if split_batch else lambda _: oracle

        def climb(point: Params, grad: Params) -> tuple[Params, jax.Array]:  # Alg. 3, line 3
            ascended, others = _tree.split(grad, mask)
            direction, finite = _tree.unit_and_finite(ascended)
            return displace(point, direction, at(rho, step)), finite & _tree.all_finite(others)

        def sample(
            j: jax.Array, evaluate_twice: Callable[..., Evaluation] = one_after_the_other
        ) -> Evaluation:
            evaluate = on_each_device(oracle_of(j).evaluate, sample_axis)
            eps = _tree.select(params, mask)
            if isinstance(law, noise_laws.Design):
                eps = law.draw(step_key, j, s, eps)
            else:
                eps = law(keys[j], eps)
            point = params if noise is noise_laws.none else displace(params, eps)  # Alg. 3, l. 2
            return evaluate_twice(evaluate, climb, point) if ascends else evaluate(point)

        if is_erm:  # with nothing in between that would change how XLA rounds the base optimizer
            evaluation = oracle.evaluate(params)
            losses, weights = evaluation.value, jnp.ones_like(evaluation.value)
            tilt = tilt(losses[None]) if callable(tilt) else tilt
        else:
            evaluation, losses, weights, tilt, _ = combine_samples(  # Alg. 1, lines 3 and 4
                sample,
                jnp.arange(distinct),
                tilt,
                strategy=strategy,
                aux="mean" if aux == "mean" else "first",
                axis=sample_axis if distinct == s else None,
                in_a_loop=functools.partial(sample, evaluate_twice=in_a_loop),
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

    evaluations = 1 if split_batch else distinct  # of the whole batch, for each point of a sample
    cost = Cost(gradients=evaluations * (1 + ascends), values=float(aux == "clean" and not is_erm))
    return GradientEstimator(init, estimate, cost)
