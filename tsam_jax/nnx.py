"""Estimators and BatchNorm recalibration for `flax.nnx` models.

Requires flax, so it is not imported by default: `import tsam_jax.nnx`, and use
`tsam_jax.nnx.Estimator` with `nnx.Optimizer`.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tsam_jax import _checks
from tsam_jax._checks import KeyLike, Params, PyTree
from tsam_jax.estimator import GradientEstimator, check_estimator, init_state
from tsam_jax.estimator import value_and_grad as pure_value_and_grad

with _checks.extra("tsam_jax.nnx", "train"):
    from flax import errors, nnx

__all__ = ["Estimator", "EstimatorVariable", "recalibrate_batch_norm"]


class EstimatorVariable(nnx.Variable):
    """Type of the Variables that hold the state of an `Estimator`."""


class Estimator(nnx.Pytree):
    """Gradient estimator with its state, as an nnx object for use with `nnx.Optimizer`.

    Each evaluation of a step calls the loss function with a fresh copy of the model. So all
    evaluations use the same dropout mask, and changes that the loss makes to the model (BatchNorm
    statistics, counters of random numbers) are applied once, by the estimator's `aux` policy.

    It works inside `nnx.jit`, or inside `jax.jit` with `nnx.split` and `nnx.merge`. Save and
    restore its state with `nnx.state` and `nnx.update`.

    Args:
      model: model to differentiate; only its shapes are used.
      estimator: a method of `tsam_jax.methods`, or your own.
      wrt: filter of the parameters, the same as that of the `nnx.Optimizer`.
      key: seed or PRNG key of the method's noise.

    Attributes:
      state: the `tsam_jax.EstimatorState`, with the metrics of the last step in
        `state.last.metrics`; its leaves are `EstimatorVariable`s.
      estimator: the method.
      wrt: the filter.

    Raises:
      TypeError: if `estimator` is not a `GradientEstimator`, or `key` is not one key.

    Cost: none to construct; `estimator.estimator.cost` per step.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from flax import nnx
      >>> from tsam_jax import methods
      >>> model = nnx.Sequential(
      ...     nnx.BatchNorm(2, rngs=nnx.Rngs(0)), nnx.Dropout(0.1, rngs=nnx.Rngs(1))
      ... )
      >>> optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)
      >>> estimator = Estimator(model, methods.sam(rho=0.05))
      >>> def loss_fn(model, batch):
      ...     return jnp.mean((model(batch) - 1.0) ** 2)
      >>> @nnx.jit
      ... def train_step(model, optimizer, estimator, batch):
      ...     loss, grads = estimator.value_and_grad(loss_fn)(model, batch)
      ...     optimizer.update(model, grads)
      ...     return loss
      >>> loss = train_step(model, optimizer, estimator, jnp.eye(2))
      >>> int(estimator.state.step[...]), int(model.layers[1].rngs.count[...])
      (1, 1)

    Source: the conventions of `nnx.Optimizer` and `nnx.value_and_grad`.
    """

    def __init__(
        self,
        model: Any,
        estimator: GradientEstimator,
        *,
        wrt: Any = nnx.Param,
        key: KeyLike = 0,
    ) -> None:
        check_estimator("Estimator", estimator)
        _checks.key(key)
        params = nnx.as_pure(nnx.state(model, wrt))
        self.estimator = estimator
        self.wrt = wrt
        self._impl = (
            str(jax.random.key_impl(key))
            if hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
            else None
        )
        self._made_for = _described(params)
        self.state = nnx.data(jax.tree.map(EstimatorVariable, init_state(estimator, key, params)))

    def value_and_grad(
        self, loss_fn: Callable[..., Any], *, has_aux: bool = False
    ) -> Callable[..., tuple[Any, nnx.State]]:
        """`nnx.value_and_grad` with the estimator in place of the plain gradient.

        Args:
          loss_fn: (model, *args, **kwargs) -> loss of shape (), or (loss, aux) if `has_aux`. All
            evaluations of a step receive the same arguments; methods that split the batch find it
            there by name or position. It may change Variables of the model and of other nnx
            objects among its arguments, such as the discriminator of a GAN. Variables that it adds
            (`sow`) must be removed with `nnx.pop` or `nnx.capture`.
          has_aux: whether `loss_fn` returns a pair. The estimator's `aux` policy chooses which
            evaluation's aux is returned.

        Returns:
          A function `(model, *args, **kwargs) -> (value, grads)`, or `((value, aux), grads)` if
          `has_aux`, which advances the estimator's state by one step. `value` is the objective
          whose gradient is estimated, in float32 or wider; `grads` is an `nnx.State`, for
          `optimizer.update(model, grads)`.

        Raises:
          ValueError: when called, if the estimator was made for other parameters than the model's,
            or `loss_fn` adds or removes Variables, or changes one that is not in its arguments.

        Cost: that of the estimator, per call.

        Example:
          >>> import jax.numpy as jnp
          >>> from flax import nnx
          >>> from tsam_jax import methods
          >>> model = nnx.Linear(1, 1, use_bias=False, rngs=nnx.Rngs(0))
          >>> model.kernel[...] = jnp.array([[3.0]])
          >>> estimator = Estimator(model, methods.sam(rho=0.5))
          >>> value_and_grad = estimator.value_and_grad(lambda model: jnp.sum(model.kernel**2))
          >>> value, grads = value_and_grad(model)  # at 3 + 0.5
          >>> value.item(), grads["kernel"][...].item()
          (12.25, 7.0)
        """
        of_wrt = nnx.filterlib.to_predicate(self.wrt)

        def is_wrt(path: tuple[Any, ...], x: Any) -> bool:
            return path[0] == "model" and of_wrt(path[1:], x)

        def estimate(model: Any, *args: Any, **kwargs: Any) -> tuple[Any, nnx.State]:
            leaves, tree = jax.tree.flatten((args, kwargs), is_leaf=_is_node)
            nodes = {i: x for i, x in enumerate(leaves) if _is_node(x)}
            kept = [_Place(i) if i in nodes else x for i, x in enumerate(leaves)]
            args, kwargs = jax.tree.unflatten(tree, kept)
            everything = {"model": model, "others": nodes}  # they may share Variables
            graphdef, *states = nnx.split(everything, is_wrt, ...)
            variables, before = states[0].get("model", nnx.State({})), nnx.as_pure(states[1])
            params = nnx.as_pure(variables)
            _check_model(self._made_for, _described(params))

            @functools.wraps(loss_fn)  # methods find the batch by its name
            def loss_of(params: Params, *args: Any, **kwargs: Any) -> tuple[Any, PyTree]:
                probe = nnx.merge(graphdef, nnx.State({"model": params}), before)
                args, kwargs = jax.tree.map(
                    lambda x: probe["others"][x.index] if isinstance(x, _Place) else x,
                    (args, kwargs),
                    is_leaf=lambda x: isinstance(x, _Place),
                )
                out = loss_fn(probe["model"], *args, **kwargs)
                loss, aux = out if has_aux else (out, None)
                after = nnx.as_pure(nnx.state(probe, is_wrt, ...)[1])
                return loss, (_changes(before, after), aux)

            # The state holds the key's data, so only the implementation of the key matters here.
            key = 0 if self._impl is None else jax.random.key(0, impl=self._impl)
            function = pure_value_and_grad(loss_of, self.estimator, has_aux=True, key=key)
            state = nnx.as_pure(self.state)
            try:
                ((value, (changes, aux)), grads), state = function(params, state, *args, **kwargs)
            except errors.TraceContextError as error:
                msg = (
                    "`Estimator.value_and_grad(loss_fn)` may only change Variables of its"
                    f" arguments: pass the object that it changes as an argument. {error}"
                )
                raise ValueError(msg) from error
            nnx.update(everything, changes)
            nnx.update(self.state, nnx.state(state))
            grads = jax.tree.unflatten(jax.tree.structure(variables), jax.tree.leaves(grads))
            return ((value, aux) if has_aux else value), grads

        return estimate


def recalibrate_batch_norm(
    model: nnx.Module,
    batches: Iterable[PyTree],
    apply: Callable[[Any, PyTree], Any] | None = None,
) -> None:
    r"""Recompute the statistics of BatchNorm for the model's current weights.

    After training, the running averages still contain statistics of older or perturbed weights.
    With the mean $\mu_i$ and variance $v_i$ of batch i, a layer gets

    $\mu = \frac1n \sum_i \mu_i, \qquad v = \frac1n \sum_i (v_i + \mu_i^2) - \mu^2,$

    the statistics of all batches together if they have equal sizes. Earlier layers normalize by the
    batch, as in training; everything else runs as in evaluation, without dropout.

    Args:
      model: the model. Only `mean` and `var` of its `nnx.BatchNorm` layers change; the mode, the
        momentum and the counters of random numbers do not.
      batches: batches of training data, each a pytree of arrays passed to `apply`. 10 to 100
        batches usually suffice.
      apply: (model, batch) -> anything; runs the model on a batch, without
        `use_running_average`. Default: `model(batch)`. A layer that it does not run, or runs with
        `use_running_average=True`, keeps its statistics. If it runs a layer several times, the last
        run counts.

    Raises:
      ValueError: if `model` has no BatchNorm, `batches` is empty, or `apply` runs no BatchNorm in
        training mode.

    Cost: one forward pass per batch.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> model = nnx.BatchNorm(1, rngs=nnx.Rngs(0))
      >>> recalibrate_batch_norm(model, jnp.array([[[0.0], [2.0]], [[4.0], [6.0]]]))
      >>> model.mean[...].item(), model.var[...].item()
      (3.0, 5.0)

    Source: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization",
    UAI 2018, Section 3.2; Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021, for the pooled
    variance.
    """
    layers = _batch_norms(model)
    if not layers:
        msg = (
            "`recalibrate_batch_norm(model=...)` must have an `nnx.BatchNorm`, got a"
            f" `{type(model).__name__}` without one. Remove the call."
        )
        raise ValueError(msg)
    copy = nnx.clone(model)
    copy.eval()
    for layer in _batch_norms(copy).values():
        layer.use_running_average, layer.momentum = False, 0.0  # statistics of this batch only
    graphdef, state = nnx.split(copy)
    run = apply if apply is not None else (lambda model, batch: model(batch))

    @jax.jit
    def statistics(state: PyTree, batch: PyTree) -> dict[Any, tuple[jax.Array, jax.Array]]:
        probe = nnx.merge(graphdef, state)
        norms = _batch_norms(probe)
        before = {path: norm.mean.get_value() for path, norm in norms.items()}
        run(probe, batch)
        ran = {
            path: norm for path, norm in norms.items() if norm.mean.get_value() is not before[path]
        }
        return {path: (norm.mean.get_value(), norm.var.get_value()) for path, norm in ran.items()}

    pure = nnx.as_pure(state)
    found = [jax.device_get(statistics(pure, batch)) for batch in batches]
    if not found:
        msg = "`recalibrate_batch_norm(batches=...)` must have at least one batch, got none."
        raise ValueError(msg)
    if not found[0]:
        msg = (
            "`recalibrate_batch_norm(apply=...)` must run a BatchNorm in training mode, but ran"
            " none. Call the model in it, without `use_running_average=True`."
        )
        raise ValueError(msg)
    for path in found[0]:
        means, variances = (
            np.stack(x).astype(np.float64) for x in zip(*(f[path] for f in found), strict=True)
        )
        layer = layers[path]
        layer.mean[...] = jnp.asarray(means.mean(0), layer.mean.dtype)
        layer.var[...] = jnp.asarray(variances.mean(0) + means.var(0), layer.var.dtype)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Place:
    """Placeholder for an nnx object among the arguments."""

    index: int


def _is_node(x: Any) -> bool:
    """Whether an argument is an nnx object whose Variables the loss may change."""
    if not isinstance(x, nnx.Pytree):
        return isinstance(x, nnx.Variable)
    return any(isinstance(leaf, nnx.Variable) for _, leaf in nnx.to_flat_state(nnx.state(x)))


def _described(params: PyTree) -> tuple[tuple[str, str], ...]:
    """The name of each parameter, with its dtype and shape."""
    leaves, _ = jax.tree.flatten_with_path(params)
    return tuple(
        (jax.tree_util.keystr(path, simple=True, separator="/"), f"{x.dtype}{list(x.shape)}")
        for path, x in leaves
    )


def _check_model(made_for: tuple[tuple[str, str], ...], given: tuple[tuple[str, str], ...]) -> None:
    """Raises ValueError if the estimator was made for other parameters."""
    if given == made_for:
        return
    old, new = dict(made_for), dict(given)
    name = next(name for name in (*old, *new) if old.get(name) != new.get(name))
    msg = (
        "`Estimator.value_and_grad` must be called with the model that the estimator was made for:"
        f" parameter `{name}` was {old.get(name, 'absent')}, got {new.get(name, 'none')}. Make an"
        " `Estimator` of this model."
    )
    raise ValueError(msg)


def _changes(before: nnx.State, after: nnx.State) -> nnx.State:
    """Leaves of `after` that are other arrays than in `before`; only these need copying."""
    old, new = dict(nnx.to_flat_state(before)), dict(nnx.to_flat_state(after))
    if old.keys() != new.keys():
        path = "/".join(map(str, next(iter(old.keys() ^ new.keys()))))
        msg = (
            "`Estimator.value_and_grad(loss_fn)` must not add or remove Variables of its arguments,"
            f" got `{path}` added or removed. Return it as aux, or `nnx.pop` it."
        )
        raise ValueError(msg)
    return nnx.from_flat_state([(path, x) for path, x in new.items() if x is not old[path]])


def _batch_norms(model: Any) -> dict[Any, nnx.BatchNorm]:
    """The BatchNorm layers, by path."""
    return {path: node for path, node in nnx.iter_graph(model) if isinstance(node, nnx.BatchNorm)}
