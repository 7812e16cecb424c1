"""Adapters to optax: an estimator as a gradient transformation, or around any optimizer."""

import inspect
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from tsam_jax import _checks, _tree, methods
from tsam_jax._checks import (
    AxisName,
    BatchArgument,
    KeyLike,
    Mask,
    NoiseLaw,
    Params,
    PyTree,
    ScalarOrSchedule,
    Strategy,
)
from tsam_jax.estimator import (
    EstimatorState,
    GradientEstimator,
    Loss,
    check_estimator,
    check_state,
    init_state,
    run_step,
)
from tsam_jax.methods.tilted import DEFAULT_NOISE
from tsam_jax.tilting import AutoTilt

__all__ = ["estimate_gradient", "sharpness_aware", "tsam"]

_LINE_SEARCHES = (optax.ScaleByBacktrackingLinesearchState, optax.ScaleByZoomLinesearchState)


def estimate_gradient(
    estimator: GradientEstimator, *, key: KeyLike = 0, axis_name: AxisName | None = None
) -> optax.GradientTransformationExtraArgs:
    """Turn an estimator into the first transformation of an optax chain.

    `update(None, state, params, *, value_fn, **extra_args)` evaluates `value_fn`, a function params
    -> loss of this step's batch, at the points that the estimator chooses, and returns the
    estimated gradient.

    As with optax's line searches, extra arguments named in the signature of `value_fn` are passed
    to it (all of them if it has `**kwargs`): `update(None, state, params, value_fn=loss,
    batch=batch)` calls `loss(params, batch=batch)`. An argument of the loss with the name of one of
    `update`'s own (`updates`, `state`, `params`, `value_fn`) needs a closure.

    Incoming `updates` are discarded, so pass None, and place clipping, weight decay and the like
    *after* this transformation. `optax.chain` passes extra arguments to all its members.

    Gradients of complex leaves follow `jax.grad`; to descend, conjugate them in the next
    transformation.

    Args:
      estimator: a method of `tsam_jax.methods`, or your own.
      key: seed or PRNG key of the method's noise.
      axis_name: mesh axis or axes over which the batch is split inside `jax.shard_map`: see
        `tsam_jax.value_and_grad`.

    Returns:
      An `optax.GradientTransformationExtraArgs` with state `EstimatorState`. Its updates have the
      structure and dtypes of the parameters. `state.last` holds the value and the metrics of the
      last step; in a chain, `optax.tree.get(state, "weights")` finds a metric.

    Raises:
      ValueError: in `init`, inside `optax.masked` or `optax.partition`, which hide parameters that
        the loss needs; in `update`, if `params` is None.
      TypeError: if `estimator` is not a `GradientEstimator`, `key` is not one key, or a leaf of the
        parameters is neither floating-point nor complex; in `update`, if `value_fn` is missing, is
        not a function or lacks an argument, or the loss is not a real scalar.

    An exception in `value_fn` leaves `state` and `params` unchanged. If their buffers are donated
    (`donate_argnums`), keep a copy.

    Cost: `estimator.cost` per update.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from tsam_jax import methods
      >>> optimizer = optax.chain(
      ...     estimate_gradient(methods.sam(rho=0.05)),
      ...     optax.clip_by_global_norm(1.0),
      ...     optax.adamw(1e-2),
      ... )
      >>> loss = lambda p, batch: jnp.sum((p["w"] - batch) ** 2)
      >>> params = {"w": jnp.ones(3)}
      >>> state = optimizer.init(params)
      >>> @jax.jit
      ... def step(params, state, batch):
      ...     updates, state = optimizer.update(None, state, params, value_fn=loss, batch=batch)
      ...     return optax.apply_updates(params, updates), state
      >>> params, state = step(params, state, jnp.zeros(3))
      >>> round(float(state[0].last.value), 4)  # (sqrt(3) + 0.05)^2
      3.1757
      >>> float(optax.tree.get(state, "loss"))
      3.0

    Source: the extra-args convention of `optax.GradientTransformationExtraArgs`.
    """
    check_estimator("estimate_gradient", estimator)
    _checks.key(key)

    def init(params: Params) -> EstimatorState:
        _refuse_masked(params)
        return init_state(estimator, key, params)

    def update(
        updates: Params,
        state: PyTree,
        params: Params | None = None,
        *,
        value_fn: Callable[..., jax.Array] | None = None,
        **extra_args: Any,
    ) -> tuple[Params, PyTree]:
        del updates
        check_state(state)
        params, loss = _loss_of(params, value_fn, extra_args, axis_name)
        evaluation, state = run_step(estimator, key, loss, params, state)
        return _tree.conjugate(evaluation.grad), state

    return optax.GradientTransformationExtraArgs(init, update)


def sharpness_aware(
    base: optax.GradientTransformation,
    estimator: GradientEstimator,
    *,
    key: KeyLike = 0,
    axis_name: AxisName | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Run any optax optimizer on the gradient and the objective of an estimator.

    Equivalent to `optax.chain(estimate_gradient(estimator), base)`, with the same state, except
    that `base` also receives the objective of this step, $F(\theta)$: the estimator's value at
    $\theta$ with this step's batch, key, step counter and memory. Line searches and optimizers that
    take `value` (`optax.polyak_sgd`, `optax.contrib.reduce_on_plateau`, `optax.lbfgs`,
    `optax.scale_by_backtracking_linesearch`) then minimise the function whose gradient they
    receive. With the plain loss, a line search would stop at the minimum of the loss, where the
    loss rises along every step.

    Args:
      base: the optimizer that receives the estimated gradient. (Gradients of complex leaves follow
        `jax.grad`: to descend, conjugate them first in `base`.) If it takes extra arguments, it
        receives all those of `update`, and `value_fn`: params -> $F$, with the signature of the
        caller's. Unless the caller passes them, it also receives `value` = $F(\theta)$, shape (),
        float32 or wider, and `grad`, the estimated gradient. `jax.grad(value_fn)` is the estimated
        gradient, without the derivative of the ascent.
      estimator: a method of `tsam_jax.methods`, or your own.
      key: seed or PRNG key of the method's noise.
      axis_name: mesh axis or axes over which the batch is split inside `jax.shard_map`: see
        `tsam_jax.value_and_grad`.

    Returns:
      An `optax.GradientTransformationExtraArgs` with state (`EstimatorState`, state of `base`),
      whose `update` is that of `estimate_gradient`: it needs `params` and `value_fn`.

    Raises:
      ValueError: in `init`, inside `optax.masked` or `optax.partition`; in `update`, if `params`
        is None, or if `value` or `grad` is passed and `base` has a line search, which compares
        them with `value_fn`.
      TypeError: if `base` is not an optax optimizer, `estimator` is not a `GradientEstimator` or
        `key` is not one key; in `update`, if `value_fn` is missing, is not a function or lacks an
        argument.

    Cost: `estimator.cost` per update, and once more for each point that a line search tries.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from tsam_jax import methods
      >>> base = optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(10))
      >>> optimizer = sharpness_aware(base, methods.sam(rho=0.5))
      >>> params = jnp.array([1.0, 0.0])
      >>> state = optimizer.init(params)
      >>> loss = lambda p: jnp.sum(2 * p**2)
      >>> updates, state = optimizer.update(None, state, params, value_fn=loss)
      >>> state[0].last.value.item()  # 2 (1 + 0.5)^2
      4.5
      >>> round(state[1][1].learning_rate.item(), 4)  # 0.8^5, the first to decrease F enough
      0.3277

    Source: the extra arguments of optax's line searches.
    """
    if not (hasattr(base, "init") and hasattr(base, "update")):  # `optax.MultiSteps` included
        given = f"a {type(base).__name__}" if isinstance(base, tuple) else repr(base)
        msg = f"`base` must be an optax optimizer, such as `optax.sgd(0.1)`, got {given}."
        if isinstance(base, GradientEstimator):
            msg += " Call `sharpness_aware(base, estimator)`, in this order."
        raise TypeError(msg)
    check_estimator("sharpness_aware", estimator)
    _checks.key(key)
    last = optax.with_extra_args_support(base)
    if isinstance(base, optax.MultiSteps):
        last = optax.GradientTransformationExtraArgs(base.init, base.update)

    def init(params: Params) -> tuple[EstimatorState, PyTree]:
        _refuse_masked(params)
        return init_state(estimator, key, params), last.init(params)

    def update(
        updates: Params,
        state: PyTree,
        params: Params | None = None,
        *,
        value_fn: Callable[..., jax.Array] | None = None,
        **extra_args: Any,
    ) -> tuple[Params, PyTree]:
        del updates
        before, base_state = state if type(state) is tuple and len(state) == 2 else (state, None)
        check_state(before)
        _refuse_beside_line_search(extra_args, base_state)
        params, loss = _loss_of(params, value_fn, extra_args, axis_name)

        # Line searches use forward and reverse mode; a linear rule supports both.
        @jax.custom_jvp
        def objective(params: Params) -> jax.Array:
            return run_step(estimator, key, loss, params, before)[0].value

        @objective.defjvp
        def derivative(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
            (params,) = primals
            there = run_step(estimator, key, loss, params, before)[0]
            return there.value, _tree.inner(there.grad, *tangents)

        evaluation, after = run_step(estimator, key, loss, params, before)
        grad = _tree.conjugate(evaluation.grad)
        given = {"value": evaluation.value, "grad": grad, **extra_args}
        given["value_fn"] = _naming(extra_args, objective)
        updates, base_state = last.update(grad, base_state, params, **given)
        return updates, (after, base_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _loss_of(
    params: Params | None, value_fn: Any, extra_args: dict[str, Any], axis_name: AxisName | None
) -> tuple[Params, Loss]:
    """Returns the parameters as arrays, and the loss of this step with its arguments."""
    if params is None:
        msg = (
            "`update(params=...)` must be the parameters, got None. Call"
            " `optimizer.update(None, state, params, value_fn=value_fn)`."
        )
        raise ValueError(msg)
    if not callable(value_fn):
        msg = (
            "`update(value_fn=...)` must be a function from parameters to the loss of this"
            f" step's batch, got {value_fn!r}. Call `optimizer.update(None, state, params,"
            " value_fn=lambda p: loss(p, batch))`."
        )
        raise TypeError(msg)
    _checks.parameters(params)
    loss = Loss(value_fn, *_named_in(value_fn, extra_args), axis_name=axis_name)
    return jax.tree.map(jnp.asarray, params), loss


def _named_in(
    value_fn: Callable[..., Any], extra_args: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Selects the extra arguments that the signature of `value_fn` names after its first."""
    try:
        parameters = list(inspect.signature(value_fn).parameters.values())
    except (TypeError, ValueError):  # a builtin
        return (), {}
    rest, args, missing = dict(extra_args), [], []
    kwargs: dict[str, Any] = {}
    for p in parameters[1:]:
        if p.kind is p.VAR_KEYWORD:
            kwargs |= rest
        elif p.kind is p.VAR_POSITIONAL:
            continue
        elif p.kind is p.POSITIONAL_ONLY and (p.name in rest or p.default is not p.empty):
            args.append(rest.pop(p.name, p.default))
        elif p.name in rest:
            kwargs[p.name] = rest.pop(p.name)
        elif p.default is p.empty:
            missing.append(p.name)
    if missing:
        msg = (
            f"`value_fn` needs `{missing[0]}`, but `update` was called without it. Pass it by name:"
            f" `optimizer.update(None, state, params, value_fn=loss, {missing[0]}=...)`."
        )
        raise TypeError(msg)
    return tuple(args), kwargs


def _naming(extra_args: dict[str, Any], objective: Callable[[Params], jax.Array]) -> Any:
    """Adds the extra arguments to the signature of the objective, which ignores them.

    optax's line searches raise on extra arguments that `value_fn` does not name. The loss already
    has them.

    Returns:
      A function (params, **ignored) -> objective.
    """

    def value_fn(params: Params, **ignored: Any) -> jax.Array:
        del ignored
        return objective(params)

    first = inspect.Parameter("params", inspect.Parameter.POSITIONAL_ONLY)
    kind = inspect.Parameter.KEYWORD_ONLY
    names = [inspect.Parameter(x, kind) for x in extra_args if x not in ("value", "grad")]
    value_fn.__signature__ = inspect.Signature([first, *names])  # type: ignore[attr-defined]
    return value_fn


def _refuse_beside_line_search(extra_args: dict[str, Any], base_state: PyTree) -> None:
    """Raises if the caller passes `value` or `grad` to a line search, which would trust them."""
    theirs = sorted({"value", "grad"} & extra_args.keys())
    if theirs and _has(_LINE_SEARCHES, base_state):
        msg = (
            f"`update({theirs[0]}=...)` cannot be passed if `base` has a line search, which"
            " compares it with the estimator's objective. Remove it: `sharpness_aware` passes the"
            " right one."
        )
        raise ValueError(msg)


def _refuse_masked(params: Params) -> None:
    """Raises if the parameters are incomplete, as inside `optax.masked`."""
    if _has(optax.MaskedNode, params):
        msg = (
            "`params` must be all parameters, since the loss needs them, got a tree with"
            " `optax.MaskedNode`: the estimator is inside `optax.masked`, `optax.partition` or"
            " `optax.multi_transform`. Put these into the base, as in"
            " `sharpness_aware(optax.partition(...), estimator)`. To perturb some leaves only, use"
            " the argument `mask` of the method."
        )
        raise ValueError(msg)


def _has(kinds: Any, tree: PyTree) -> bool:
    """Whether a tree has a node of these types."""
    found = jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, kinds))
    return any(isinstance(x, kinds) for x in found)


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
    split_batch: bool | BatchArgument = False,
    key: KeyLike = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""Tilted SAM around any optax optimizer.

    Minimises $L_t(\theta) = \frac1t \log E_\epsilon e^{t L(\theta + \epsilon)}$. Equivalent to
    `sharpness_aware(base, methods.tsam(t, rho, s, ...), key=key)`. Under
    `optax.inject_hyperparams`, list `s` and functions such as `noise` in `static_args`.

    Args:
      base: the optimizer that receives the tilted gradient.
      t: tilt in units of 1/loss, >= 0. `tsam_jax.methods.tsam` has the details of this and the
        following arguments.
      rho: length of the ascent step, >= 0.
      s: number of samples, a positive integer.
      noise: law of the perturbations.
      delta: fraction of the tilt attributed to the sampling, 0 to 1; the weights use the rest.
      mask: leaves to perturb.
      strategy: how samples are evaluated.
      axis_name: mesh axis or axes over which the batch is split inside `jax.shard_map`: see
        `tsam_jax.value_and_grad`.
      sample_axis: mesh axis over which the samples are spread.
      split_batch: argument of `value_fn` to split into one slice per sample; True for "batch".
      key: seed or PRNG key of the noise.

    Returns:
      An `optax.GradientTransformationExtraArgs` whose `update` needs `params` and `value_fn`:
      see `sharpness_aware`. `state[0].last.metrics` has the metrics of `tsam_jax.methods.tsam`.

    Raises:
      ValueError: if a number is out of range, or a name is not one of the choices.
      TypeError: if `base` is not an optax optimizer, `s` is not an integer or `key` is not one key.

    Cost: 2s gradient evaluations per update; 2 with `split_batch`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> optimizer = tsam(optax.sgd(0.1, momentum=0.9), t=20.0, rho=0.05, s=3)
      >>> params = jnp.array([1.0, -2.0])
      >>> state = optimizer.init(params)
      >>> loss = lambda p: jnp.sum(p**2)
      >>> updates, state = optimizer.update(None, state, params, value_fn=loss)
      >>> params = optax.apply_updates(params, updates)
      >>> bool(loss(params) < 5.0)
      True

    Source: Li, Zhou and Bilmes, "Tilted Sharpness-Aware Minimization", ICML 2025, Algorithms 1
    and 3.
    """
    options: dict[str, Any] = {"noise": noise, "delta": delta, "mask": mask, "strategy": strategy}
    options |= {"sample_axis": sample_axis, "split_batch": split_batch}
    return sharpness_aware(base, methods.tsam(t, rho, s, **options), key=key, axis_name=axis_name)
