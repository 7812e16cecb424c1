"""The optax adapters: any estimator as a gradient transformation, or around any optimizer."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tsam_jax import _tree, methods
from tsam_jax._checks import check_parameters
from tsam_jax._types import (
    AxisName,
    KeyLike,
    Mask,
    NoiseLaw,
    Params,
    PyTree,
    ScalarOrSchedule,
    Strategy,
)
from tsam_jax.estimator import GradientEstimator, make_oracle
from tsam_jax.methods._tsam import DEFAULT_NOISE
from tsam_jax.tilting import AutoTilt

__all__ = ["EstimateGradientState", "estimate_gradient", "sharpness_aware", "tsam"]


class EstimateGradientState(NamedTuple):
    """State of `estimate_gradient`.

    Attributes:
      value: the estimator's value in the last step; shape (), float32 at least; 0 before it.
      inner: the estimator's own state, with its diagnostics.
    """

    value: jax.Array
    inner: PyTree


def estimate_gradient(
    estimator: GradientEstimator, *, axis_name: AxisName | None = None
) -> optax.GradientTransformationExtraArgs:
    """Makes an estimator the first link of an optax chain.

    `update(updates, state, params, *, value_fn, batch=None, **extra_args)` evaluates `value_fn`, a
    function params -> loss of this step's batch, where the estimator wants it, and returns the
    estimated gradient. With a `batch`, which methods that split it need (`methods.m_sam`),
    `value_fn` is a function (params, batch) -> loss. The incoming `updates` are discarded: put
    clipping, weight decay and the like *behind* this transformation, and pass anything of the
    right structure (under `jit`, an unused gradient costs nothing; `params` itself will do). Extra
    arguments it does not know are accepted, and `optax.chain` hands them on.

    Args:
      estimator: a method of `tsam_jax.methods`, or your own.
      axis_name: mesh axis, or axes, over which the batch is split inside `jax.shard_map`: see
        `tsam_jax.value_and_grad`.

    Returns:
      An `optax.GradientTransformationExtraArgs` with state `EstimateGradientState`. Its updates
      have the structure and dtypes of the parameters.

    Raises:
      ValueError: in `init`, inside `optax.masked` or `optax.partition`, which hide parameters that
        the loss needs; in `update`, if `params` is None.
      TypeError: if a leaf of the parameters is neither floating-point nor complex; in `update`,
        if `value_fn` is missing or not a function, or the loss is no real scalar.

    An exception in `value_fn` leaves `state` and `params` as they were, unless the step was given
    their buffers (`donate_argnums`): keep a copy.

    Cost: `estimator.cost` an update.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from tsam_jax import methods
      >>> optimizer = optax.chain(
      ...     estimate_gradient(methods.sam(rho=0.05)),
      ...     optax.clip_by_global_norm(1.0),
      ...     optax.adamw(1e-2),
      ... )
      >>> params = {"w": jnp.ones(3)}
      >>> state = optimizer.init(params)
      >>> @jax.jit
      ... def step(params, state, batch):
      ...     value_fn = lambda p: jnp.sum((p["w"] - batch) ** 2)
      ...     updates, state = optimizer.update(params, state, params, value_fn=value_fn)
      ...     return optax.apply_updates(params, updates), state
      >>> params, state = step(params, state, jnp.zeros(3))
      >>> round(float(state[0].value), 4)  # (sqrt(3) + 0.05)^2
      3.1757

    Source: the extra-args convention of `optax.GradientTransformationExtraArgs`.
    """

    def init(params: Params) -> EstimateGradientState:
        _refuse_masked(params)
        check_parameters(params)
        return EstimateGradientState(
            jnp.zeros((), _tree.accumulator_dtype(params)), estimator.init(params)
        )

    def update(
        updates: Params,
        state: PyTree,
        params: Params | None = None,
        *,
        value_fn: Callable[..., jax.Array] | None = None,
        batch: PyTree = None,
        **extra_args: Any,
    ) -> tuple[Params, PyTree]:
        del updates, extra_args
        if params is None:
            msg = (
                "`update(params=...)` is needed by `tsam_jax.estimate_gradient`, got None. Call"
                " `optimizer.update(grads, state, params, value_fn=value_fn)`."
            )
            raise ValueError(msg)
        if not callable(value_fn):
            msg = (
                "`update(value_fn=...)` must be a function from parameters to the loss of this"
                f" step's batch, got {value_fn!r}. Call `optimizer.update(grads, state, params,"
                " value_fn=lambda p: loss(p, batch))`."
            )
            raise TypeError(msg)
        check_parameters(params)
        params = jax.tree.map(jnp.asarray, params)
        oracle = make_oracle(value_fn, batch=batch, axis_name=axis_name)
        evaluation, inner = estimator.estimate(oracle, params, state.inner)
        return _tree.conjugate(evaluation.grad), EstimateGradientState(
            evaluation.value.astype(state.value.dtype), inner
        )

    return optax.GradientTransformationExtraArgs(init, update)


def sharpness_aware(
    base: optax.GradientTransformation,
    estimator: GradientEstimator,
    *,
    axis_name: AxisName | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Any optax optimizer on the gradient, and on the objective, of an estimator.

    The same as `optax.chain(estimate_gradient(estimator), base)`, with the same state, and `base`
    is also told the objective of this step, $F(\theta)$ = the estimator's value at $\theta$ from
    its state, so with the same batch and the same noise. Optimizers that ask for `value` and line
    searches (`optax.polyak_sgd`, `optax.contrib.reduce_on_plateau`, `optax.lbfgs`,
    `optax.scale_by_backtracking_linesearch`) then minimise what the gradient is the gradient of.
    The plain loss would stop a line search at its own minimum, where it rises along every step.

    Args:
      base: the optimizer that is given the estimated gradient. If it takes extra arguments, it
        gets `value` = $F(\theta)$, shape (), float32 at least; `grad`, the estimated gradient; and
        `value_fn`: params -> $F$. They replace those of the caller. `jax.grad(value_fn)` is the
        estimated gradient, as ever without the derivative of the ascent.
      estimator: a method of `tsam_jax.methods`, or your own.
      axis_name: mesh axis, or axes, over which the batch is split inside `jax.shard_map`: see
        `tsam_jax.value_and_grad`.

    Returns:
      An `optax.GradientTransformationExtraArgs` with state (`EstimateGradientState`, state of
      `base`). Its `update` is that of `estimate_gradient`: it needs `params` and `value_fn`, and
      takes a `batch`, which is bound in the `value_fn` that `base` gets. Other extra arguments are
      handed on.

    Raises:
      ValueError: in `init`, inside `optax.masked` or `optax.partition`; in `update`, if `params`
        is None.
      TypeError: in `update`, if `value_fn` is missing or not a function.

    Cost: `estimator.cost` an update, and once more for each point that a line search tries.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from tsam_jax import methods
      >>> base = optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(10))
      >>> optimizer = sharpness_aware(base, methods.sam(rho=0.5))
      >>> params = jnp.array([1.0, 0.0])
      >>> state = optimizer.init(params)
      >>> loss = lambda p: jnp.sum(2 * p**2)
      >>> updates, state = optimizer.update(params, state, params, value_fn=loss)
      >>> state[0].value.item()  # 2 (1 + 0.5)^2
      4.5
      >>> round(state[1][1].learning_rate.item(), 4)  # 0.8^5, the first that lowers it enough
      0.3277

    Source: the extra arguments of optax's line searches.
    """
    first = estimate_gradient(estimator, axis_name=axis_name)
    last = optax.with_extra_args_support(base)

    def init(params: Params) -> tuple[EstimateGradientState, PyTree]:
        return first.init(params), last.init(params)

    def update(
        updates: Params,
        state: PyTree,
        params: Params | None = None,
        *,
        value_fn: Callable[..., jax.Array] | None = None,
        batch: PyTree = None,
        **extra_args: Any,
    ) -> tuple[Params, PyTree]:
        before, base_state = state

        def estimate(params: Params | None) -> tuple[Params, EstimateGradientState]:
            result: tuple[Params, EstimateGradientState] = first.update(
                updates, before, params, value_fn=value_fn, batch=batch
            )
            return result

        # Line searches differentiate forwards and backwards: a linear rule serves both.
        @jax.custom_jvp
        def objective(params: Params) -> jax.Array:
            return estimate(params)[1].value

        @objective.defjvp
        def derivative(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
            grad, after = estimate(*primals)
            return after.value, _tree.inner(jax.tree.map(jnp.conj, grad), *tangents)

        grad, after = estimate(params)
        told = {**extra_args, "value": after.value, "grad": grad, "value_fn": objective}
        updates, base_state = last.update(grad, base_state, params, **told)
        return updates, (after, base_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _refuse_masked(params: Params) -> None:
    """Refuses a part of the parameters, as `optax.masked` passes it."""

    def hidden(x: Any) -> bool:
        return isinstance(x, optax.MaskedNode)

    if any(map(hidden, jax.tree.leaves(params, is_leaf=hidden))):
        msg = (
            "`params` must be all parameters, which the loss needs, got a tree with"
            " `optax.MaskedNode`: the estimator is inside `optax.masked`, `optax.partition` or"
            " `optax.multi_transform`. Put these into the base, as in"
            " `sharpness_aware(optax.partition(...), estimator)`; the argument `mask` of a method"
            " says which leaves are perturbed."
        )
        raise ValueError(msg)


def tsam(
    base: optax.GradientTransformation,
    t: ScalarOrSchedule | AutoTilt,
    rho: ScalarOrSchedule,
    s: int,
    *,
    noise: NoiseLaw = DEFAULT_NOISE,
    delta: ScalarOrSchedule | Literal["half"] = 0.0,
    mask: Mask | None = None,
    strategy: Strategy = "auto",
    axis_name: AxisName | None = None,
    sample_axis: str | None = None,
    split_batch: bool = False,
    key: KeyLike = 0,
) -> optax.GradientTransformationExtraArgs:
    """Tilted SAM around any optax optimizer.

    The same as `sharpness_aware(base, methods.tsam(t, rho, s, ...))`. Under
    `optax.inject_hyperparams` name `s`, and functions like `noise`, in `static_args`.

    Args:
      base: the optimizer that is given the tilted gradient.
      t: tilt, >= 0: see `tsam_jax.methods.tsam`, as for all that follows.
      rho: length of the ascent step, >= 0.
      s: number of samples, a positive integer.
      noise: law of the perturbations.
      delta: part of the tilt that the sampling is taken to account for.
      mask: which leaves are perturbed.
      strategy: how samples are evaluated.
      axis_name: mesh axis, or axes, over which the batch is split inside `jax.shard_map`: see
        `tsam_jax.value_and_grad`.
      sample_axis: mesh axis over which the samples are spread.
      split_batch: whether each sample sees a slice of the batch; `update` then needs a `batch`.
      key: seed or PRNG key of the noise.

    Returns:
      An `optax.GradientTransformationExtraArgs` whose `update` needs `params` and `value_fn`:
      see `sharpness_aware`.

    Raises:
      ValueError: if a number is out of its range, or a name is none of the choices.
      TypeError: if `s` is not an integer.

    Cost: 2s gradient evaluations an update; 2 with `split_batch`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> optimizer = tsam(optax.sgd(0.1, momentum=0.9), t=20.0, rho=0.05, s=3)
      >>> params = jnp.array([1.0, -2.0])
      >>> state = optimizer.init(params)
      >>> loss = lambda p: jnp.sum(p**2)
      >>> updates, state = optimizer.update(params, state, params, value_fn=loss)
      >>> params = optax.apply_updates(params, updates)
      >>> bool(loss(params) < 5.0)
      True

    Source: Li, Zhou and Bilmes, "Tilted Sharpness-Aware Minimization", ICML 2025, Algorithms 1
    and 3.
    """
    options: dict[str, Any] = {"noise": noise, "delta": delta, "mask": mask, "strategy": strategy}
    options |= {"sample_axis": sample_axis, "split_batch": split_batch, "key": key}
    estimator = methods.tsam(t, rho, s, **options)
    return sharpness_aware(base, estimator, axis_name=axis_name)
