"""The one abstraction: a gradient estimator, and its adapter to `jax.value_and_grad`.

What sharpness-aware methods share is this: given an oracle theta' -> (value, aux, grad),
produce one (value, aux, grad) at theta, updating a small state.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from tsam_jax import _axes, _tree
from tsam_jax._checks import check_parameters, loss_and_aux
from tsam_jax._types import AxisName, Params, PyTree

__all__ = ["Cost", "Evaluation", "GradientEstimator", "Oracle", "make_oracle", "value_and_grad"]


class Evaluation(NamedTuple):
    """What an oracle, or an estimator, says of the loss at a point.

    Attributes:
      value: the loss; shape (), float32 at least.
      aux: auxiliary output of the loss function; any pytree, None if it has none.
      grad: the gradient, which points uphill: that of a complex leaf is the conjugate of what
        `jax.grad` says; structure, shapes and dtypes of the parameters.
    """

    value: jax.Array
    aux: PyTree
    grad: Params


class Oracle(NamedTuple):
    """The loss of one step, as methods see it.

    Attributes:
      evaluate: params -> `Evaluation`: one gradient evaluation.
      value: params -> (value, aux): one loss evaluation, a forward pass only.
      batch: what the loss is the loss of, if the caller said so; else None.
      on: batch -> the oracle of that batch, which may be a part of `batch`; None without one.
    """

    evaluate: Callable[[Params], Evaluation]
    value: Callable[[Params], tuple[jax.Array, PyTree]]
    batch: PyTree = None
    on: Callable[[PyTree], "Oracle"] | None = None


class Cost(NamedTuple):
    """What one step of an estimator costs.

    Attributes:
      gradients: gradient evaluations a step.
      values: further loss evaluations (forward passes) a step.
    """

    gradients: float
    values: float = 0.0


class _Estimate(Protocol):
    def __call__(
        self, oracle: Oracle, params: Params, state: PyTree, /
    ) -> tuple[Evaluation, PyTree]: ...


class GradientEstimator(NamedTuple):
    """A sharpness-aware method: a pair of pure functions, as in optax, and their cost.

    Attributes:
      init: params -> state.
      estimate: (oracle, params, state) -> (`Evaluation`, state). It calls the oracle at points
        of its choice near `params` and combines what it says.
      cost: gradient and loss evaluations of one `estimate`.
    """

    init: Callable[[Params], PyTree]
    estimate: _Estimate
    cost: Cost


def make_oracle(
    fun: Callable[..., Any],
    *,
    batch: PyTree = None,
    has_aux: bool = False,
    axis_name: AxisName | None = None,
) -> Oracle:
    """Makes the oracle that estimators call.

    Args:
      fun: params -> loss of shape (), or (loss, aux) if `has_aux`; with a `batch`,
        (params, batch) -> the same.
      batch: the batch, for methods that split it (`tsam_jax.methods.m_sam`); None if `fun` knows
        its own.
      has_aux: whether `fun` returns a pair.
      axis_name: mesh axis, or axes, over which the batch is split, inside `jax.shard_map`: value,
        gradient and what is floating point in aux are means over its devices.

    Returns:
      An `Oracle`; its values are in float32 at least.

    Cost: one gradient, or one loss evaluation, a call; with an `axis_name`, one sum of the size of
    a gradient over the devices.

    Example:
      >>> import jax.numpy as jnp
      >>> make_oracle(lambda x: x**2).evaluate(jnp.float32(3.0)).grad.item()
      6.0
    """
    if batch is not None:

        def on(part: PyTree) -> Oracle:
            on_part = lambda params: fun(params, part)  # noqa: E731
            return make_oracle(on_part, has_aux=has_aux, axis_name=axis_name)

        return on(batch)._replace(batch=batch, on=on)

    def with_aux(params: Params) -> tuple[jax.Array, PyTree]:
        loss, aux = loss_and_aux(fun(params), has_aux=has_aux)
        return loss, jax.tree.map(jnp.asarray, aux)

    def wide(value: jax.Array) -> jax.Array:
        return jnp.asarray(value).astype(_tree.accumulator_dtype(value))

    def over_devices(tree: Any) -> Any:
        return tree if axis_name is None else _axes.mean(tree, axis_name)

    def evaluate(params: Params) -> Evaluation:
        if axis_name is not None:  # else the gradient would be the sum over the devices
            params = _axes.as_varying(params, axis_name)
        (value, aux), grad = jax.value_and_grad(with_aux, has_aux=True)(params)
        evaluation: Evaluation = over_devices(Evaluation(wide(value), aux, _tree.conjugate(grad)))
        return evaluation

    def value(params: Params) -> tuple[jax.Array, PyTree]:
        loss, aux = with_aux(params)
        result: tuple[jax.Array, PyTree] = over_devices((wide(loss), aux))
        return result

    return Oracle(evaluate, value)


def value_and_grad(
    fun: Callable[..., Any],
    estimator: GradientEstimator,
    *,
    has_aux: bool = False,
    axis_name: AxisName | None = None,
) -> Callable[..., tuple[Any, PyTree]]:
    """`jax.value_and_grad` with an estimator in place of the plain gradient.

    Args:
      fun: (params, *args, **kwargs) -> loss of shape (), or (loss, aux) if `has_aux`. It is
        differentiated in its first argument. All probes of a step get the same other arguments:
        the same batch, and the same key for dropout. The first of `args` is the batch, for
        methods that split it.
      estimator: a method of `tsam_jax.methods`, or your own.
      has_aux: whether `fun` returns a pair; which probe's aux comes back is the estimator's
        `aux` policy.
      axis_name: for use inside `jax.shard_map`: the mesh axis, or axes, over which the batch is
        split. Loss and gradient are averaged over its devices before any norm or softmax, so the
        result is that of the whole batch on one device; so is what is floating point in aux. `fun`
        must not average over the devices itself. (Under plain `jit` with sharded arrays nothing
        is needed; `tsam_jax.methods.per_device` is for ascents that differ by device.)

    Returns:
      A function `(params, state, *args, **kwargs) -> ((value, grads), state)`, or
      `(((value, aux), grads), state)` if `has_aux`. `state` starts as `estimator.init(params)`.
      `value` is what the estimator's gradient is the gradient of, in float32 at least. Gradients of
      complex leaves are conjugated as those of `jax.grad` are.

    Raises:
      TypeError: in a step, if a leaf of `params` is neither floating-point nor complex, or the
        loss is no real scalar.

    Cost: `estimator.cost` a call; with an `axis_name`, one sum over the devices for each gradient.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax import methods
      >>> loss = lambda w, x: jnp.sum((w * x) ** 2)
      >>> sam = methods.sam(rho=0.1)
      >>> w, x = jnp.array([3.0, 0.0]), jnp.array([1.0, 1.0])
      >>> (value, grads), state = value_and_grad(loss, sam)(w, sam.init(w), x)
      >>> [round(g, 4) for g in grads.tolist()]  # 2 (w + 0.1 w / |w|)
      [6.2, 0.0]
    """

    def estimate(params: Params, state: PyTree, *args: Any, **kwargs: Any) -> tuple[Any, PyTree]:
        check_parameters(params)
        params = jax.tree.map(jnp.asarray, params)
        batch, *others = args or (None,)
        if batch is None:
            on_nothing = lambda p: fun(p, *args, **kwargs)  # noqa: E731
            oracle = make_oracle(on_nothing, has_aux=has_aux, axis_name=axis_name)
        else:
            with_batch = lambda p, part: fun(p, part, *others, **kwargs)  # noqa: E731
            oracle = make_oracle(with_batch, batch=batch, has_aux=has_aux, axis_name=axis_name)
        (value, aux, grad), state = estimator.estimate(oracle, params, state)
        return (((value, aux) if has_aux else value), _tree.conjugate(grad)), state

    return estimate
