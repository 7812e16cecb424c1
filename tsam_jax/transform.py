"""The optax adapter: any estimator as a gradient transformation, and TSAM in one call."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tsam_jax import _tree, methods
from tsam_jax._checks import check_parameters
from tsam_jax._types import AxisName, Params, PyTree, ScalarOrSchedule
from tsam_jax.estimator import GradientEstimator, make_oracle

__all__ = ["EstimateGradientState", "estimate_gradient", "tsam"]


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
      ValueError: in `update`, if `params` is None.
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


def tsam(
    base: optax.GradientTransformation,
    t: ScalarOrSchedule,
    rho: ScalarOrSchedule,
    s: int,
    *,
    axis_name: AxisName | None = None,
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    """Tilted SAM around any optax optimizer.

    The same as `optax.chain(estimate_gradient(methods.tsam(t, rho, s, **options)), base)`.

    Args:
      base: the optimizer that is given the tilted gradient.
      t: tilt, >= 0: see `tsam_jax.methods.tsam`.
      rho: length of the ascent step, >= 0.
      s: number of samples, a positive integer.
      axis_name: mesh axis, or axes, over which the batch is split inside `jax.shard_map`: see
        `tsam_jax.value_and_grad`.
      **options: `noise`, `delta`, `mask`, `aux`, `strategy`, `sample_axis`, `key`.

    Returns:
      An `optax.GradientTransformationExtraArgs` whose `update` needs `params` and `value_fn`:
      see `estimate_gradient`.

    Raises:
      ValueError: if a number is out of its range, or a name is none of the choices.
      TypeError: if `s` is not an integer.

    Cost: 2s gradient evaluations an update.

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
    estimator = methods.tsam(t, rho, s, **options)
    return optax.chain(estimate_gradient(estimator, axis_name=axis_name), base)
