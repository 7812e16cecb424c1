"""Gradient estimators, and their adapter to `jax.value_and_grad`.

A sharpness-aware method evaluates the loss of a step at points near theta and returns one (value,
grad, aux, metrics) for theta. The adapters own the step counter and the PRNG key. A method owns at
most its memory and returns intermediate results as metrics.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import optax

from tsam_jax import _checks, _mesh, _tree
from tsam_jax._checks import AxisName, BatchArgument, KeyLike, Params, PyTree

__all__ = [
    "Cost",
    "EstimatorState",
    "Evaluation",
    "GradientEstimator",
    "LastStep",
    "Loss",
    "ValueAndGrad",
    "value_and_grad",
]

_NO_METRICS: Mapping[str, jax.Array] = {}


class Evaluation(NamedTuple):
    """A loss, or an estimate of one, at a point.

    Attributes:
      value: the loss; shape (), float32 or wider.
      grad: the gradient, with the structure, shapes and dtypes of the parameters. It points uphill:
        for a complex leaf it is the conjugate of what `jax.grad` returns.
      aux: auxiliary output of the loss function, any pytree; None if it has none.
      metrics: intermediate results of a method, a dict of arrays whose keys, shapes and dtypes are
        the same at every step.
    """

    value: jax.Array
    grad: Params
    aux: PyTree = None
    metrics: Mapping[str, Any] = _NO_METRICS


class Cost(NamedTuple):
    """Cost of one step of an estimator.

    Attributes:
      gradients: gradient evaluations per step.
      values: additional loss evaluations (forward passes) per step.
    """

    gradients: float
    values: float = 0.0


class Loss:
    r"""Loss function of one step, with its arguments.

    Evaluates $L_B(\theta) = $ `fun(theta, *args, **kwargs)` and its gradient; the batch B is among
    the arguments.

    Args:
      fun: (params, *args, **kwargs) -> loss of shape (), or (loss, aux) if `has_aux`.
      args: positional arguments after the parameters.
      kwargs: keyword arguments.
      has_aux: whether `fun` returns a pair.
      axis_name: mesh axis or axes over which the batch is split inside `jax.shard_map`. Value,
        gradient and floating-point aux are averaged over its devices.

    Cost: one gradient evaluation per call; one loss evaluation for `value`. With `axis_name`, also
    one sum of a gradient over the devices.

    Example:
      >>> import jax.numpy as jnp
      >>> loss = Loss(lambda w, batch: jnp.mean((w - batch) ** 2), (jnp.array([1.0, 3.0]),))
      >>> loss(jnp.float32(0.0)).grad.item()
      -4.0
      >>> loss.on(1, 2)(jnp.float32(0.0)).grad.item()  # the second half of the batch
      -6.0
    """

    def __init__(
        self,
        fun: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        has_aux: bool = False,
        axis_name: AxisName | None = None,
    ) -> None:
        self.fun, self.args, self.kwargs = fun, args, dict(kwargs or {})
        self.has_aux, self.axis_name = has_aux, axis_name

    def __call__(self, params: Params) -> Evaluation:
        """Evaluates value, gradient and aux at a point."""
        if self.axis_name is not None:  # or the gradient is a sum over devices
            params = _mesh.as_varying(params, self.axis_name)
        (value, aux), grad = jax.value_and_grad(self._output, has_aux=True)(params)
        evaluation = Evaluation(_wide(value), _tree.conjugate(grad), aux, {})
        result: Evaluation = self._over_devices(evaluation)
        return result

    def value(self, params: Params) -> tuple[jax.Array, PyTree]:
        """Evaluate value and aux at a point, in a forward pass only."""
        value, aux = self._output(params)
        result: tuple[jax.Array, PyTree] = self._over_devices((_wide(value), aux))
        return result

    def on(self, i: Any, n: int, batch: BatchArgument = "batch") -> "Loss":
        """Return the loss on slice i of n equal, consecutive slices of the batch.

        Args:
          i: index of the slice, 0 to n - 1; may be traced.
          n: number of slices; must divide the number of examples.
          batch: arguments of `fun` that hold the batch: a name, a position (1 is the first after
            the parameters, as in `jax.grad`'s `argnums`), or a tuple of these.

        Returns:
          A `Loss`.

        Raises:
          TypeError: if `fun` has no such argument or was called without it.
          ValueError: if a leaf has no axis of examples, or n does not divide their number.
        """
        size = self.examples(batch)
        if size == 0 or size % n:
            msg = (
                f"`n` must divide the number of examples of the batch, {size}, got {n!r}. With"
                " `split_batch`, n is the number of samples `s`."
            )
            raise ValueError(msg)
        cut = lambda x: jnp.reshape(x, (n, size // n, *jnp.shape(x)[1:]))[i]  # noqa: E731
        args, kwargs = list(self.args), dict(self.kwargs)
        for holder, place in self._places(batch, args, kwargs):
            holder[place] = jax.tree.map(cut, holder[place])
        return Loss(self.fun, tuple(args), kwargs, has_aux=self.has_aux, axis_name=self.axis_name)

    def examples(self, batch: BatchArgument = "batch") -> int:
        """Return the number of examples in the batch: the leading axis of its leaves.

        Args:
          batch: as for `on`.

        Returns:
          The number of examples.

        Raises:
          TypeError: if `fun` has no such argument or was called without it.
          ValueError: if a leaf has no leading axis, or leading axes differ in length.
        """
        sizes = set()
        for holder, place in self._places(batch, list(self.args), self.kwargs):
            for path, x in jax.tree_util.tree_leaves_with_path(holder[place]):
                if jnp.ndim(x) == 0 or _checks.is_typed_key(x):
                    msg = (
                        f"`batch={batch!r}` must name arrays whose leading axis counts examples,"
                        f" got {jnp.result_type(x)} of shape {jnp.shape(x)}"
                        f"{' at ' if path else ''}{jax.tree_util.keystr(path)}."
                    )
                    raise ValueError(msg)
                sizes.add(jnp.shape(x)[0])
        if len(sizes) != 1:
            msg = (
                f"`batch={batch!r}` must name arrays with the same number of examples, got leading"
                f" axes of {sorted(sizes) or 'no array'}."
            )
            raise ValueError(msg)
        return int(sizes.pop())

    def _output(self, params: Params) -> tuple[jax.Array, PyTree]:
        output = self.fun(params, *self.args, **self.kwargs)
        loss, aux = _checks.loss_and_aux(output, has_aux=self.has_aux)
        return loss, jax.tree.map(jnp.asarray, aux)

    def _over_devices(self, tree: Any) -> Any:
        return tree if self.axis_name is None else _mesh.mean(tree, self.axis_name)

    def _places(
        self, batch: BatchArgument, args: list[Any], kwargs: dict[str, Any]
    ) -> list[tuple[Any, Any]]:
        """Locates the batch: pairs of `args` or `kwargs` and an index or key of it."""
        try:
            parameters = inspect.signature(self.fun).parameters.values()
        except (TypeError, ValueError):  # a builtin
            parameters = {}.values()
        names = [
            p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        places: list[tuple[Any, Any]] = []
        for wanted in batch if isinstance(batch, tuple) else (batch,):
            position = names.index(wanted) if wanted in names else wanted
            name = (
                names[position] if isinstance(position, int) and position < len(names) else wanted
            )
            if isinstance(position, int) and 1 <= position <= len(args):
                places.append((args, position - 1))
            elif name in kwargs:
                places.append((kwargs, name))
            else:
                given = ", ".join(f"`{x}`" for x in [*names[1 : len(args) + 1], *kwargs])
                msg = (
                    f"`batch={batch!r}` (of `m_sam` and `microbatched`; `split_batch` of `tsam`)"
                    " must name an argument of the loss that holds examples, and the loss was"
                    f" called with {given or 'the parameters only'}. Pass the batch to the loss, as"
                    " in `value_and_grad(loss, estimator)(params, state, batch)` or"
                    " `optimizer.update(None, state, params, value_fn=loss, batch=batch)`, and give"
                    " its name or position as `batch`."
                )
                raise TypeError(msg)
        return places


def _wide(value: jax.Array) -> jax.Array:
    return jnp.asarray(value).astype(_tree.accumulator_dtype(value))


Result: TypeAlias = tuple[Evaluation, PyTree]
"""Return value of `estimate`: the evaluation and the memory for the next step."""


class _Estimate(Protocol):
    def __call__(
        self, loss: Loss, params: Params, memory: PyTree, /, *, step: jax.Array, key: jax.Array
    ) -> Result: ...


class GradientEstimator(NamedTuple):
    """A sharpness-aware method: a pair of pure functions, as in optax, and their cost.

    Attributes:
      init: params -> (memory, metrics). `memory` is the state between steps, () for most methods;
        `metrics` are zeros with the shapes and dtypes of the metrics that `estimate` returns.
      estimate: (loss, params, memory, *, step, key) -> (`Evaluation`, memory). It evaluates the
        `Loss` at points near `params` and combines the results. `step`, shape (), int32, counts
        from 0, for schedules; `key` is a fresh typed PRNG key at every step.
      cost: gradient and loss evaluations of one `estimate`; None if unknown. Only a budget of
        gradient evaluations needs it.
    """

    init: Callable[[Params], tuple[PyTree, Mapping[str, Any]]]
    estimate: _Estimate
    cost: Cost | None = None


class LastStep(NamedTuple):
    """Results of the last step; zeros before the first.

    Attributes:
      value: the estimator's value; shape (), float32 or wider.
      metrics: the metrics of the method, by name.
    """

    value: jax.Array
    metrics: dict[str, jax.Array]


class EstimatorState(NamedTuple):
    """State of an estimator in any adapter: a pytree of plain arrays.

    Attributes:
      step: number of steps taken; shape (), int32.
      key: data of the run's PRNG key; uint32. Step k uses `jax.random.fold_in(key, k)`.
      last: value and metrics of the last step.
      memory: state of the method between steps; () for most.
    """

    step: jax.Array
    key: jax.Array
    last: LastStep
    memory: PyTree


def check_estimator(owner: str, estimator: Any) -> None:
    """Raises unless the argument is a `GradientEstimator`."""
    if isinstance(estimator, GradientEstimator):
        return
    given = repr(estimator) if not isinstance(estimator, tuple) else f"a {type(estimator).__name__}"
    msg = (
        f"`{owner}(estimator=...)` must be a `GradientEstimator`, such as"
        f" `tsam_jax.methods.sam(rho=0.05)`, got {given}."
    )
    raise TypeError(msg)


def known_cost(cost: Cost | None) -> Cost:
    """Returns the cost, which a budget of gradient evaluations needs.

    Args:
      cost: `GradientEstimator.cost`.

    Returns:
      `cost`.

    Raises:
      ValueError: if it is None.
    """
    if cost is None:
        msg = (
            "`cost` of an estimator must be set for a budget of gradient evaluations, got None."
            " Pass it: `GradientEstimator(init, estimate, Cost(gradients=2))`."
        )
        raise ValueError(msg)
    return cost


def check_state(state: Any) -> None:
    """Raises unless the argument is an `EstimatorState`."""
    if not isinstance(state, EstimatorState):
        msg = (
            "`state` must be the return value of `init(params)` or of the last step, got"
            f" {type(state).__name__}. Call `step(params, state, ...)` with `value_and_grad`, and"
            " `update(None, state, params, ...)` with an optimizer."
        )
        raise TypeError(msg)


def init_state(estimator: GradientEstimator, key: KeyLike, params: Params) -> EstimatorState:
    """Returns the state before the first step, in new buffers: users may donate states."""
    _checks.parameters(params)
    made = estimator.init(params)
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[1], Mapping)):
        msg = f"`init` of an estimator must return (memory, metrics), got {made!r}."
        raise TypeError(msg)
    memory, metrics = jax.tree.map(_own, made)
    typed = key
    if not _checks.is_typed_key(key):
        shape = jnp.shape(key)
        typed = jax.random.wrap_key_data(jnp.asarray(key)) if shape else jax.random.key(key)
    last = LastStep(jnp.zeros((), _tree.accumulator_dtype(params)), dict(metrics))
    return EstimatorState(jnp.zeros((), jnp.int32), _own(jax.random.key_data(typed)), last, memory)


def run_step(
    estimator: GradientEstimator, key: KeyLike, loss: Loss, params: Params, state: EstimatorState
) -> tuple[Evaluation, EstimatorState]:
    """Runs one step: returns its evaluation and the next state."""
    check_state(state)
    if state.key.dtype != jnp.uint32 or state.step.dtype != jnp.int32:
        msg = (
            "The `step` and `key` of an `EstimatorState` must be int32 and uint32, got"
            f" {state.step.dtype} and {state.key.dtype}: a cast has changed the key. Cast the"
            " parameters or the base optimizer's state instead of the whole state."
        )
        raise TypeError(msg)
    impl = jax.random.key_impl(key) if _checks.is_typed_key(key) else None
    try:
        run_key = jax.random.wrap_key_data(state.key, impl=impl)
    except TypeError as error:
        msg = (
            "`key` of the state must have the shape of the adapter's `key`, got"
            f" {state.key.shape}. Make the state with `init` of the same adapter. ({error})"
        )
        raise TypeError(msg) from error
    step_key = jax.random.fold_in(run_key, state.step)
    result = estimator.estimate(loss, params, state.memory, step=state.step, key=step_key)
    if not (isinstance(result, tuple) and isinstance(result[0], Evaluation) and len(result) == 2):
        msg = f"`estimate` must return (`Evaluation`, memory), got a {type(result).__name__}."
        raise TypeError(msg)
    evaluation, memory = result
    grad = _same_type("a `grad` like `params`", evaluation.grad, params)
    value = _same_type("a `value`", evaluation.value, state.last.value)
    metrics = _same_type("the `metrics` of `init`", dict(evaluation.metrics), state.last.metrics)
    memory = _same_type("the memory of `init`", memory, state.memory)
    step = optax.safe_increment(state.step)
    state = EstimatorState(step, state.key, LastStep(value, metrics), memory)
    return evaluation._replace(grad=grad, value=value), state


def _own(x: Any) -> jax.Array:
    """A copy without weak type: losing one after the first step would cause a recompilation."""
    return jnp.array(x, jnp.asarray(x).dtype)


def _same_type(what: str, new: PyTree, old: PyTree) -> PyTree:
    """Casts `new` to the dtypes of `old`; raises if structures, shapes or number kinds differ."""
    declared: Any = jax.tree.structure(old)
    returned: Any = jax.tree.structure(new)
    if declared != returned:
        msg = f"`estimate` must return {what}: {declared}, got {returned}."
        raise ValueError(msg)

    def cast(path: Any, x: Any, y: jax.Array) -> jax.Array:
        dtype = jnp.result_type(x)
        if jnp.shape(x) != y.shape or _rank(dtype) > _rank(y.dtype):
            where = jax.tree_util.keystr(path, simple=True, separator="/")
            msg = (
                f"`estimate` must return {what}: {where + ' is ' * bool(where)}{y.dtype} of shape"
                f" {y.shape}, got {dtype} of shape {jnp.shape(x)}."
            )
            raise ValueError(msg)
        return jnp.asarray(x, y.dtype)

    return jax.tree.map_with_path(cast, new, old)


def _rank(dtype: Any) -> int:
    """Rank of a kind of number; a cast to a lower rank loses information."""
    kinds = (jnp.bool_, jnp.integer, jnp.floating, jnp.complexfloating)
    return next((i for i, kind in enumerate(kinds) if jnp.issubdtype(dtype, kind)), len(kinds))


@dataclasses.dataclass(frozen=True, eq=False)  # hashable for `jit`, whatever `key` is
class ValueAndGrad:
    """Function returned by `value_and_grad`.

    Attributes:
      fun: the loss function.
      estimator: the method.
      key: seed or PRNG key of the run.
      has_aux: whether `fun` returns a pair.
      axis_name: mesh axis or axes over which the batch is split.
    """

    fun: Callable[..., Any]
    estimator: GradientEstimator
    key: KeyLike
    has_aux: bool
    axis_name: AxisName | None

    def init(self, params: Params) -> EstimatorState:
        """Return the state before the first step.

        Args:
          params: the parameters; only their shapes and dtypes are used.

        Returns:
          An `EstimatorState`.

        Raises:
          TypeError: if a leaf is neither floating-point nor complex.
        """
        return init_state(self.estimator, self.key, params)

    def __call__(
        self, params: Params, state: EstimatorState, /, *args: Any, **kwargs: Any
    ) -> tuple[Any, EstimatorState]:
        """Runs one step: returns value and gradient, and the next state."""
        check_state(state)
        _checks.parameters(params)
        params = jax.tree.map(jnp.asarray, params)
        loss = Loss(self.fun, args, kwargs, has_aux=self.has_aux, axis_name=self.axis_name)
        evaluation, state = run_step(self.estimator, self.key, loss, params, state)
        value = (evaluation.value, evaluation.aux) if self.has_aux else evaluation.value
        return (value, _tree.conjugate(evaluation.grad)), state


def value_and_grad(
    fun: Callable[..., Any],
    estimator: GradientEstimator,
    *,
    has_aux: bool = False,
    key: KeyLike = 0,
    axis_name: AxisName | None = None,
) -> ValueAndGrad:
    """`jax.value_and_grad` with an estimator in place of the plain gradient.

    Args:
      fun: (params, *args, **kwargs) -> loss of shape (), or (loss, aux) if `has_aux`. It is
        differentiated with respect to its first argument. All evaluations of a step receive the
        same other arguments, such as the batch and the key for dropout.
      estimator: a method of `tsam_jax.methods`, or your own.
      has_aux: whether `fun` returns a pair. The method chooses which evaluation's aux it returns.
      key: seed or PRNG key of the method's noise.
      axis_name: mesh axis or axes over which the batch is split inside `jax.shard_map`. Loss,
        gradient and floating-point aux of every evaluation are averaged over the devices before any
        norm or weight is computed; `fun` must not average over them. Sharded arrays under plain
        `jit` need no `axis_name`. For ascents that differ by device, use
        `tsam_jax.methods.per_device`.

    Returns:
      A function `(params, state, *args, **kwargs) -> ((value, grads), state)`, or
      `(((value, aux), grads), state)` if `has_aux`. Its method `init(params)` returns the first
      state, an `EstimatorState`. `value` is the objective whose gradient is estimated, in float32
      or wider. Gradients of complex leaves are conjugated as in `jax.grad`.

    Raises:
      TypeError: if `estimator` is not a `GradientEstimator` or `key` is not one key; in a step, if
        a leaf of `params` is neither floating-point nor complex, or the loss is not a real scalar.

    Cost: `estimator.cost` per call; with `axis_name`, also one sum over the devices per gradient.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax import methods
      >>> loss = lambda w, x: jnp.sum((w * x) ** 2)
      >>> step = value_and_grad(loss, methods.sam(rho=0.1))
      >>> w, x = jnp.array([3.0, 0.0]), jnp.array([1.0, 1.0])
      >>> (value, grads), state = step(w, step.init(w), x)
      >>> [round(g, 4) for g in grads.tolist()]  # 2 (w + 0.1 w / |w|)
      [6.2, 0.0]
      >>> state.last.metrics["loss"].item()  # at w itself
      9.0
    """
    if not callable(fun):
        msg = f"`value_and_grad(fun=...)` must be a function, got {fun!r}."
        raise TypeError(msg)
    check_estimator("value_and_grad", estimator)
    _checks.key(key)
    return ValueAndGrad(fun, estimator, key, has_aux, axis_name)
