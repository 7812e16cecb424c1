"""Evaluates and combines the samples of a step, or the micro-batches of a batch.

One fold serves both. A `TiltedMean` over some of the samples can be merged with another (the online
softmax), so the strategies differ only in when they merge:

* "vectorized": one vmap over the samples, then one weighted mean. Memory grows with s, and kernels
  that differ by sample turn convolutions into grouped convolutions, which are slow.
* "unrolled": a Python loop while tracing. Best for JAX's convolutions on XLA:CPU; compile time
  grows with s.
* "streamed": a `lax.scan` that merges the samples one by one. Neither memory nor compile time
  grows with s.

They agree to rounding.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr

from tsam_jax import _mesh, _tree, tilting
from tsam_jax._checks import AuxPolicy, Params, PyTree, Scalar, Strategy
from tsam_jax.estimator import Evaluation
from tsam_jax.tilting import TiltedMean

# Largest s that "auto" unrolls on accelerators, or where samples cannot be streamed: beyond it,
# compile time is assumed to outweigh speed.
_UNROLLED_UP_TO = 8

_Evaluate: TypeAlias = Callable[[Any], Evaluation]
_Climb: TypeAlias = Callable[[Params, Params], tuple[Params, jax.Array]]
_Tilt: TypeAlias = Scalar | Callable[[jax.Array], Scalar]


def tilted(
    start: Callable[[Any], tuple[_Evaluate, Any]],
    s: int,
    tilt: _Tilt,
    *,
    climb: _Climb | None = None,
    strategy: Strategy,
    aux: AuxPolicy,
    axis: str | None = None,
) -> Evaluation:
    r"""Evaluates s samples and combines them by tilt weights.

    $\hat g = \sum_j w_j g_j, \ w = \mathrm{softmax}(t L)$, and the value is the tilted loss. A
    sample with a non-finite loss or gradient gets weight 0 and its aux is not used. If every sample
    is non-finite, so is the result.

    Args:
      start: index of a sample -> (its loss, the point of its first evaluation).
      s: number of samples.
      tilt: tilt of the weights, >= 0, including infinity; shape (), may be traced; or a function of
        the losses, shape (s,), with NaN for a non-finite sample.
      climb: (point, gradient there) -> (point of the second evaluation, whether the gradient was
        finite). The sample's aux is that of the first evaluation. None: one evaluation.
      strategy: see the module's docstring.
      aux: "first" or "mean" over the finite samples (the caller implements "clean").
      axis: mesh axis of `jax.shard_map` over which the samples are spread.

    Returns:
      The combined `Evaluation`, the same on all devices. Its metrics are the losses, weights, tilt
      and effective sample size, and the stacked metrics of the samples.
    """

    def sample(j: Any, *, in_loop: bool = False) -> Evaluation:
        loss, point = start(j)
        if axis is not None:  # or `shard_map` sums the gradient over the axis
            point = _mesh.as_varying(point, axis)
        if climb is None:
            return loss(point)
        if in_loop and _mesh.on_one_cpu():
            return _evaluate_in_two_turns(loss, climb, point)
        first = loss(point)
        above, finite = climb(point, first.grad)
        last = loss(above)
        return _joined(first.value, first.aux, finite, last.value, last.grad)

    grad, samples, tilt = _fold(sample, s, tilt, strategy, axis, skip_non_finite=True)
    losses = samples.value
    value = tilting.tilted_loss(losses, tilt)
    kept = _combine_aux(samples.aux, jnp.isfinite(losses), aux)
    return Evaluation(value, grad, kept, {**samples.metrics, **weigh(losses, tilt)})


def weigh_one(only: Evaluation, tilt: _Tilt) -> dict[str, jax.Array]:
    """Metrics of a single sample, the plain gradient."""
    finite = _tree.all_finite(only.value, only.grad)
    return weigh(jnp.where(finite, only.value, jnp.nan)[None], tilt)


def weigh(losses: jax.Array, tilt: _Tilt) -> dict[str, jax.Array]:
    """Metrics of samples, from their losses."""
    tilt = tilt(losses) if callable(tilt) else tilt
    weights = tilting.tilt_weights(losses, tilt)
    return {
        "losses": losses,
        "weights": weights,
        "tilt": jnp.asarray(tilt, losses.dtype),
        "effective_sample_size": tilting.effective_sample_size(weights),
    }


def mean(function: Callable[[Any], PyTree], n: int, strategy: Strategy) -> PyTree:
    """Mean of `function(i)` over i < n; if streamed, in the memory of two results.

    Non-finite entries propagate: unlike a sample, a micro-batch holds data that must count.

    Args:
      function: index -> a pytree of arrays.
      n: number of terms.
      strategy: see the module's docstring.

    Returns:
      Means of the floating-point and complex leaves; other leaves are those of the first term.
    """

    def term(i: Any, *, in_loop: bool = False) -> Evaluation:
        del in_loop
        tree = jax.tree.map(jnp.asarray, function(i))
        inexact = jax.tree.map(lambda x: jnp.issubdtype(x.dtype, jnp.inexact), tree)
        averaged, others = _tree.split(tree, inexact)
        return Evaluation(jnp.zeros((), _tree.accumulator_dtype(averaged)), averaged, others)

    averaged, terms, _ = _fold(term, n, 0.0, strategy, None, skip_non_finite=False)
    first = jax.tree.map(lambda x: x[0], terms.aux)
    is_none = lambda x: x is None  # noqa: E731
    return jax.tree.map(lambda a, b: b if a is None else a, averaged, first, is_leaf=is_none)


def each(function: Callable[[jax.Array], jax.Array], xs: jax.Array) -> jax.Array:
    """Stacks the function of each entry; uses a loop under tracing."""
    if _mesh.is_staged(xs):
        stacked: jax.Array = jax.lax.map(function, xs)
        return stacked
    return jnp.stack([function(x) for x in xs])


def branch(predicate: jax.Array, yes: Callable[[], PyTree], no: Callable[[], PyTree]) -> PyTree:
    """`jax.lax.cond`, or a direct call of one branch if the predicate is concrete."""
    if _mesh.is_staged(predicate):
        return jax.lax.cond(predicate, yes, no)
    return yes() if predicate else no()


def _fold(
    sample: Callable[..., Evaluation],
    s: int,
    tilt: _Tilt,
    strategy: Strategy,
    axis: str | None,
    *,
    skip_non_finite: bool,
) -> tuple[PyTree, Evaluation, Scalar]:
    """Evaluates all samples and takes the tilted mean of their gradients.

    Returns:
      The mean; the stacked value, aux and metrics of all samples; the tilt. With `skip_non_finite`,
      a non-finite sample has value NaN and weight 0.
    """
    first, count = (0, s) if axis is None else _mesh.share_of(axis, s)
    indices = first + jnp.arange(count)
    chosen = _choose(strategy, sample, indices, tilt)

    def part_of(this: Evaluation) -> tuple[TiltedMean, Evaluation]:
        if not skip_non_finite:
            one = jnp.ones_like(this.value)
            return TiltedMean(this.value, one, _tree.widened(this.grad)), this._replace(grad=None)
        part = tilting.tilted_mean(this.value, this.grad)
        value = jnp.where(part.weight > 0, this.value, jnp.nan)
        return part, this._replace(value=value, grad=None)

    if chosen == "streamed":
        shapes = jax.eval_shape(sample, indices[0])
        grads, value = shapes.grad, shapes.value
        zeros = jax.tree.map(lambda x: _mesh.zeros_like(x, _tree.wide_dtype(x)), grads)
        zero = _mesh.zeros_like(value, value.dtype)

        def body(part: TiltedMean, j: jax.Array) -> tuple[TiltedMean, Evaluation]:
            this, rest = part_of(sample(j, in_loop=True))
            return tilting.merge(part, this, tilt), rest  # type: ignore[arg-type]

        part, samples = jax.lax.scan(body, TiltedMean(zero - jnp.inf, zero, zeros), indices)
        parts: Any = None
    elif chosen == "vectorized":
        each = jax.vmap(sample)(indices)
        grads = each.grad
        parts, samples = jax.vmap(part_of)(each)
    else:
        pairs = []
        for j in range(count):
            this = sample(first + j)
            grads = this.grad
            pairs.append(part_of(this))
        parts = [part for part, _ in pairs]
        samples = jax.tree.map(lambda *x: jnp.stack(x), *[rest for _, rest in pairs])
    if axis is not None:
        samples = _mesh.gather(samples, axis)
    known = tilt(samples.value) if callable(tilt) else tilt
    if isinstance(parts, list):
        part = parts[0]
        for this_part in parts[1:]:
            part = tilting.merge(part, this_part, known)
    elif parts is not None:
        part = _merge_stacked(parts, known)
    if axis is not None:
        part = _merge_over(part, known, axis)
    settled = jax.tree.map(
        lambda mean, like: jnp.where(part.weight > 0, mean, jnp.nan).astype(like.dtype),
        part.mean,
        grads,
    )
    return settled, samples, known


def _choose(
    strategy: Strategy, sample: Callable[..., Evaluation], indices: jax.Array, tilt: _Tilt
) -> Strategy:
    """Chooses one of the three strategies.

    "auto" follows measurements, which `benchmarks/` repeats:

    * On a CPU: unrolled, at any s, if the loss has convolutions of JAX, because XLA:CPU runs their
      gradients 16 to 24 times slower inside a loop (JAX issue 12868). Otherwise streamed, which is
      as fast as the other two from s = 3 on and needs the memory of one sample; this includes
      convolutions of `tsam_jax.convolution`, whose gradients are fast in loops.
    * On other backends, not yet measured: unrolled up to 8 samples, to bound the compile time.

    Without `jit`, samples are never streamed: `lax.scan` would recompile its body at every step. A
    tilt that depends on the losses is known only after all samples, so gradients cannot be merged
    one by one.

    Returns:
      "vectorized", "unrolled" or "streamed".

    Raises:
      ValueError: if `strategy` is "streamed" and the tilt depends on the losses.
    """
    s = indices.shape[0]
    late = callable(tilt)
    if late and strategy == "streamed":
        msg = (
            "`strategy` cannot be 'streamed' if the tilt depends on the losses, since it merges"
            " gradients before all losses are known. Use 'auto', 'vectorized' or 'unrolled'."
        )
        raise ValueError(msg)
    if strategy == "vectorized":
        return "vectorized"
    if strategy == "unrolled" or not _mesh.is_staged(indices):
        return "unrolled"
    if strategy == "streamed":
        return "streamed"
    if s == 1:
        return "unrolled"
    if jax.default_backend() == "cpu":
        if _has_plain_convolution(jax.make_jaxpr(sample)(indices[0])):
            return "unrolled"
    elif s <= _UNROLLED_UP_TO:
        return "unrolled"
    if late:
        return "unrolled" if s <= _UNROLLED_UP_TO else "vectorized"
    return "streamed"


def _has_plain_convolution(jaxpr: Any) -> bool:
    """Whether a jaxpr, or one nested in its equations, has a convolution of JAX."""
    if isinstance(jaxpr, ClosedJaxpr):
        jaxpr = jaxpr.jaxpr
    if isinstance(jaxpr, Jaxpr):
        return any(
            equation.primitive.name == "conv_general_dilated"
            or any(_has_plain_convolution(value) for value in equation.params.values())
            for equation in jaxpr.eqns
        )
    return isinstance(jaxpr, (tuple, list)) and any(map(_has_plain_convolution, jaxpr))


def _evaluate_in_two_turns(loss: _Evaluate, climb: _Climb, point: Params) -> Evaluation:
    """Evaluates a point and the end of its ascent in a loop of two iterations.

    The program contains the gradient once instead of twice, which halves compile time. The loop
    carries the point, then the end of the ascent, then the gradient, so memory and run time do not
    change. It is for streamed samples on one CPU, which are already in a loop; on a GPU, the branch
    would wait for the host.

    Returns:
      The same as two separate evaluations, to rounding.
    """

    def end(above: Params, grad: Params) -> tuple[Params, jax.Array]:
        del above
        return grad, jnp.ones((), bool)

    def turn(x: Params, is_last: jax.Array) -> tuple[Params, tuple[jax.Array, Params, jax.Array]]:
        here = loss(x)
        x, finite = jax.lax.cond(is_last, end, climb, x, here.grad)
        return x, (here.value, here.aux, finite)

    grad, (values, auxes, finite) = jax.lax.scan(turn, point, jnp.arange(2) == 1)
    aux = jax.tree.map(lambda x: x[0], auxes)
    return _joined(values[0], aux, finite[0], values[1], grad)


def _joined(
    first: jax.Array, aux: PyTree, finite: jax.Array, last: jax.Array, grad: Params
) -> Evaluation:
    """The end of an ascent, with the aux of its start; NaN if the start is not finite."""
    return Evaluation(jnp.where(finite & jnp.isfinite(first), last, jnp.nan), grad, aux)


def _merge_stacked(parts: TiltedMean, t: Scalar) -> TiltedMean:
    """Merges partial results that are stacked along the leading axis."""
    peak = jnp.max(parts.peak)
    weights = jax.vmap(lambda part: tilting.weight_at(peak, part, t))(parts)
    weight = jnp.sum(weights)
    return TiltedMean(
        peak, weight, tilting.weighted_mean(parts.mean, tilting.share_of(weights, weight))
    )


def _merge_over(part: TiltedMean, t: Scalar, axis: str) -> TiltedMean:
    """Merges the partial results of an axis of devices, with one sum of a gradient."""
    peak = jax.lax.pmax(part.peak, axis)
    own = tilting.weight_at(peak, part, t)
    weight = jax.lax.psum(own, axis)
    share = tilting.share_of(own, weight)

    def shared(x: jax.Array) -> jax.Array:
        return jnp.where(share > 0, share.astype(x.dtype) * x, jnp.zeros_like(x))

    return TiltedMean(peak, weight, jax.lax.psum(jax.tree.map(shared, part.mean), axis))


def _combine_aux(auxes: PyTree, present: jax.Array, policy: AuxPolicy) -> PyTree:
    """The aux of the first finite sample, or the mean over finite samples (all if none is)."""
    counted = jnp.where(jnp.any(present), present, jnp.ones_like(present))

    def combined(x: jax.Array) -> Any:
        if policy == "mean" and jnp.issubdtype(x.dtype, jnp.inexact):
            ones = counted.astype(_tree.accumulator_dtype(x))
            return tilting.weighted_mean(x, ones / jnp.sum(ones))
        return x[jnp.argmax(present)]  # integers, booleans and PRNG keys have no mean

    return jax.tree.map(combined, auxes)
