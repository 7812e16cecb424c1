"""How the s samples of a step are evaluated and combined.

The strategies give the same numbers to rounding and differ in speed and memory:

* "vectorized": one vmap over the samples. Memory grows with s. Poor for convolutions, whose
  kernels then differ by sample, which makes them grouped convolutions.
* "unrolled": a Python loop while tracing. Best for JAX's convolutions on XLA:CPU; compile time
  grows with s.
* "streamed": a `lax.scan` that folds one sample after the other into a partial result
  (`tsam_jax.tilting.merge`). Memory and compile time do not grow with s, and on one CPU the two
  evaluations of a sample are turns of a loop as well, and stand once in the program. On XLA:CPU the
  gradients of convolutions are 16 to 40 times slower inside a scan (JAX issue 12868), except
  those of `tsam_jax.convolution`.
* "auto": chosen from what `benchmarks/step.py` measured: see `choose_strategy`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr

from tsam_jax import _axes, _tree, tilting
from tsam_jax._types import AuxPolicy, PyTree, Scalar, Strategy
from tsam_jax.estimator import Evaluation
from tsam_jax.tilting import TiltedMean

STRATEGIES = ("auto", "vectorized", "unrolled", "streamed")

# Above this many samples the compile time of the unrolled form is taken to outweigh its speed, on
# accelerators and where samples cannot be streamed.
_UNROLLED_UP_TO = 8

_TiltOfLosses: TypeAlias = Callable[[jax.Array], Scalar]


class Combined(NamedTuple):
    """The samples of one step, combined.

    Attributes:
      evaluation: tilted loss, aux by policy, tilted gradient.
      losses: shape (s,), float32 at least; NaN for a sample that is not finite.
      weights: shape (s,), float32 at least, summing to 1; NaN if no sample is finite.
      tilt: the tilt of the weights; shape ().
      auxes: the aux of every sample; leaves of shape (s, ...).
    """

    evaluation: Evaluation
    losses: jax.Array
    weights: jax.Array
    tilt: Scalar
    auxes: PyTree


def choose_strategy(sample: Callable[[jax.Array], Evaluation], keys: jax.Array) -> Strategy:
    """What "auto" stands for: unrolled or streamed, by backend, model and number of samples.

    * Without `jit`, or for one sample: unrolled, since a scan would be compiled anew every step.
    * On a CPU: unrolled if the loss has convolutions of JAX's, at any s (streamed they are 16
      times slower); else, those of `tsam_jax.convolution` included, streamed, which is as fast as
      the others from s = 3 on and needs the memory of one sample
      (`benchmarks/results/step-cpu.json`, `convolution-cpu.json`).
    * Elsewhere, not measured yet: unrolled up to 8 samples, for the sake of compile time.

    Args:
      sample: key -> `Evaluation` of that sample; it is traced to look for convolutions.
      keys: shape (s,), PRNG keys, or what else tells the samples apart.

    Returns:
      "unrolled" or "streamed".

    Cost: none at run time.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> sample = lambda key: Evaluation(jnp.float32(2.0), None, jnp.ones(2))
      >>> choose_strategy(sample, jax.random.split(jax.random.key(0), 3))
      'unrolled'
    """
    s = keys.shape[0]
    if s == 1 or not isinstance(keys, jax.core.Tracer):
        return "unrolled"
    if jax.default_backend() == "cpu":
        return "unrolled" if _has_plain_convolution(jax.make_jaxpr(sample)(keys[0])) else "streamed"
    return "unrolled" if s <= _UNROLLED_UP_TO else "streamed"


def _has_plain_convolution(jaxpr: Any) -> bool:
    """Looks through a jaxpr and those inside its equations for convolutions of JAX's."""
    if isinstance(jaxpr, ClosedJaxpr):
        jaxpr = jaxpr.jaxpr
    if isinstance(jaxpr, Jaxpr):
        return any(
            equation.primitive.name == "conv_general_dilated"
            or any(_has_plain_convolution(value) for value in equation.params.values())
            for equation in jaxpr.eqns
        )
    return isinstance(jaxpr, (tuple, list)) and any(map(_has_plain_convolution, jaxpr))


def combine_samples(
    sample: Callable[[jax.Array], Evaluation],
    keys: jax.Array,
    tilt: Scalar | _TiltOfLosses,
    *,
    strategy: Strategy,
    aux: AuxPolicy,
    axis: str | None = None,
    in_a_loop: Callable[[jax.Array], Evaluation] | None = None,
) -> Combined:
    """Evaluates one sample for each key and combines them by tilt weights.

    A sample with a non-finite loss or gradient gets weight 0, and its aux is not used; if all
    are non-finite, so is the result.

    Args:
      sample: key -> `Evaluation` of that sample.
      keys: shape (s,), PRNG keys, or whatever else tells `sample` which one it is.
      tilt: tilt of the weights, >= 0, also infinity; shape (), may be traced; or a function of
        the losses, shape (s,), with NaN for a sample that is not finite.
      strategy: see the module's docstring. If the tilt is a function, "auto" is "unrolled" (up to 8
        samples) or "vectorized" where it would be "streamed".
      aux: "first" or "mean" over the finite samples ("clean" is up to the caller).
      axis: mesh axis of `jax.shard_map` over whose devices the samples are spread; None: all of
        them are evaluated here.
      in_a_loop: another form of `sample`, for "streamed", where it stands in a loop. Default:
        `sample` itself.

    Returns:
      A `Combined`, the same on all devices.

    Raises:
      ValueError: if the tilt is a function and the strategy is "streamed"; if there is no
        `shard_map` over the axis, or its devices do not divide the samples.

    Cost: s times that of `sample`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> sample = lambda key: Evaluation(jnp.float32(2.0), None, jnp.ones(2))
      >>> keys = jax.random.split(jax.random.key(0), 3)
      >>> combined = combine_samples(sample, keys, 1.0, strategy="streamed", aux="first")
      >>> combined.evaluation.grad.tolist(), combined.evaluation.value.item()
      ([1.0, 1.0], 2.0)
    """
    grad, losses, auxes, known = _run(sample, in_a_loop or sample, keys, tilt, strategy, axis)
    value = tilting.tilted_loss(losses, known)
    kept = _combine_aux(auxes, jnp.isfinite(losses), aux)
    weights = tilting.tilt_weights(losses, known)
    return Combined(Evaluation(value, kept, grad), losses, weights, known, auxes)


_Sample: TypeAlias = Callable[[jax.Array], Evaluation]
_Tilt: TypeAlias = Scalar | _TiltOfLosses


def on_each_device(
    evaluate: Callable[[Any], Evaluation], axis: str | None
) -> Callable[[Any], Evaluation]:
    """Gradients of the device's own samples, for use in a `sample` of `combine_samples`.

    Args:
      evaluate: params -> `Evaluation`, as an oracle has it.
      axis: the axis that `combine_samples` is given.

    Returns:
      The same function, whose gradient `shard_map` does not sum over the axis.

    Cost: that of `evaluate`.

    Example:
      >>> import jax.numpy as jnp
      >>> evaluate = lambda x: Evaluation(x**2, None, 2 * x)
      >>> on_each_device(evaluate, None)(jnp.float32(3.0)).grad.item()
      6.0
    """
    return evaluate if axis is None else lambda params: evaluate(_axes.as_varying(params, axis))


class _Result(NamedTuple):
    """What a strategy says of its samples.

    `losses` (s,) have NaN for a sample that is not finite, `auxes` are stacked, `like` has the
    dtypes of a gradient, and `fold` makes the tilted mean of them, once the tilt is known.
    """

    losses: jax.Array
    auxes: PyTree
    like: PyTree
    fold: Callable[[Scalar], TiltedMean]


def _run(
    sample: _Sample,
    in_a_loop: _Sample,
    keys: jax.Array,
    tilt: _Tilt,
    strategy: Strategy,
    axis: str | None,
) -> tuple[PyTree, jax.Array, PyTree, Scalar]:
    """The tilted gradient, and the losses, auxes and tilt: of all samples, on every device."""
    if axis is not None:
        keys = _own_share(keys, axis)
    chosen = choose_strategy(sample, keys) if strategy == "auto" else strategy
    if chosen == "streamed" and callable(tilt):
        if strategy != "auto":
            msg = (
                "`combine_samples(strategy=...)` cannot be 'streamed' where the tilt depends on the"
                " losses: gradients are folded before all losses are known."
            )
            raise ValueError(msg)
        chosen = "unrolled" if keys.shape[0] <= _UNROLLED_UP_TO else "vectorized"
    strategies = {"vectorized": _vectorized, "unrolled": _unrolled, "streamed": _streamed}
    form = in_a_loop if chosen == "streamed" else sample
    losses, auxes, like, fold = strategies[chosen](form, keys, tilt)
    if axis is not None:
        losses, auxes = _axes.gather((losses, auxes), axis)
    known = tilt(losses) if callable(tilt) else tilt
    part = fold(known)
    if axis is not None:
        part = tilting.merge_over(part, known, axis)
    return _settle(part, like), losses, auxes, known


def _own_share(keys: jax.Array, axis: str) -> jax.Array:
    """The keys of this device of the axis."""
    if not _axes.is_manual(axis):
        msg = (
            f"`sample_axis={axis!r}` must be an axis of a `jax.shard_map` around the step, which"
            f" has {list(_axes.manual()) or 'none'}: call `jax.shard_map(step, mesh=mesh,"
            f" in_specs=P(), out_specs=P(), axis_names={{{axis!r}}})`."
        )
        raise ValueError(msg)
    s, devices = keys.shape[0], jax.lax.axis_size(axis)
    if s % devices:
        msg = (
            f"`sample_axis={axis!r}` has {devices} devices, which must divide the number of"
            f" samples, s = {s}."
        )
        raise ValueError(msg)
    share = s // devices
    return jax.lax.dynamic_slice_in_dim(keys, jax.lax.axis_index(axis) * share, share)


def _vectorized(sample: _Sample, keys: jax.Array, tilt: _Tilt) -> _Result:
    del tilt
    samples = jax.vmap(sample)(keys)
    losses = jax.vmap(_masked_loss)(samples)

    def fold(known: Scalar) -> TiltedMean:
        return tilting.stacked_mean(losses, samples.grad, known)

    return _Result(losses, samples.aux, samples.grad, fold)


def _unrolled(sample: _Sample, keys: jax.Array, tilt: _Tilt) -> _Result:
    del tilt
    samples = [sample(key) for key in keys]
    losses = jnp.stack([_masked_loss(this) for this in samples])
    auxes = jax.tree.map(lambda *x: jnp.stack(x), *(this.aux for this in samples))

    def fold(known: Scalar) -> TiltedMean:
        part = tilting.tilted_mean(samples[0].value, samples[0].grad)
        for this in samples[1:]:
            part = _fold(part, this, known)
        return part

    return _Result(losses, auxes, samples[0].grad, fold)


def _streamed(sample: _Sample, keys: jax.Array, tilt: Any) -> _Result:
    shapes = jax.eval_shape(sample, keys[0])
    zeros = jax.tree.map(lambda x: _axes.zeros_like(x, x.dtype), (shapes.value, shapes.grad))
    no_sample = tilting.tilted_mean(zeros[0] + jnp.nan, zeros[1])

    def body(part: TiltedMean, key: jax.Array) -> tuple[TiltedMean, tuple[jax.Array, PyTree]]:
        this = sample(key)
        return _fold(part, this, tilt), (_masked_loss(this), this.aux)

    part, (losses, auxes) = jax.lax.scan(body, no_sample, keys)
    return _Result(losses, auxes, shapes.grad, lambda _: part)


def _fold(part: TiltedMean, this: Evaluation, tilt: Scalar) -> TiltedMean:
    return tilting.merge(part, tilting.tilted_mean(this.value, this.grad), tilt)


def _settle(part: TiltedMean, like: PyTree) -> PyTree:
    """The mean in the dtypes of `like`; NaN if nothing was finite."""

    def settled(mean: jax.Array, x: Any) -> jax.Array:
        return jnp.where(part.weight > 0, mean, jnp.nan).astype(x.dtype)

    return jax.tree.map(settled, part.mean, like)


def _masked_loss(this: Evaluation) -> jax.Array:
    return jnp.where(_tree.all_finite(this.value, this.grad), this.value, jnp.nan)


def _combine_aux(auxes: PyTree, present: jax.Array, policy: AuxPolicy) -> PyTree:
    """The aux of the first finite sample, or the mean over the finite ones."""
    shares = present.astype(jnp.float32)
    count = jnp.sum(shares)
    shares = jnp.where(count > 0, shares / jnp.maximum(count, 1), 1 / present.size)

    def combined(x: jax.Array) -> Any:
        if policy == "mean" and jnp.issubdtype(x.dtype, jnp.inexact):
            return tilting.weighted_mean(x, shares)
        return x[jnp.argmax(present)]  # integers, booleans and PRNG keys have no mean

    return jax.tree.map(combined, auxes)
