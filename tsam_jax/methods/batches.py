"""Parts of a batch: any estimator on micro-batches, or on each device's share."""

from typing import Any

from tsam_jax import _checks, _fold, _mesh
from tsam_jax._checks import Array, BatchArgument, Params, PyTree, Strategy
from tsam_jax.estimator import Evaluation, GradientEstimator, Loss, Result, check_estimator


def m_sam(
    estimator: GradientEstimator,
    m: int,
    *,
    batch: BatchArgument = "batch",
    strategy: Strategy = "auto",
) -> GradientEstimator:
    r"""m-SAM: the mean of an estimator over micro-batches of m examples.

    The batch B is cut into $B_1 .. B_n$ of m examples each, in order. With `sam`, each climbs its
    own loss: $\hat g = \frac1n \sum_i g_{B_i}\left(\theta + \rho \frac{g_{B_i}(\theta)}{\lVert
    g_{B_i}(\theta) \rVert}\right)$. Its source finds that smaller m generalise better.

    The loss must get the batch as an argument. With `value_and_grad`, call `step(params, state,
    batch)`; with an optax adapter, `update(None, state, params, value_fn=loss, batch=batch)` for a
    `loss(params, batch)`.

    All micro-batches start from the same memory and draw the same noise. Their memories and metrics
    are averaged where they are floating-point numbers, and otherwise taken from the first one.
    Schedules count steps, not micro-batches; a moving average of gradients is that of the mean
    gradient.

    Args:
      estimator: any estimator: a method of this module, or your own.
      m: examples in a micro-batch, a positive integer that divides the size of the batch.
      batch: which arguments of the loss are the batch: a name, a position (1 is the first after the
        parameters), or a tuple of these. Examples are counted by the leading axis of their leaves.
      strategy: how the micro-batches are evaluated: "unrolled", "streamed" (in the memory of one
        micro-batch and two gradients), "vectorized" or "auto", as for `tsam`.

    Returns:
      A `GradientEstimator` with the memory and metrics of `estimator`. Gradient, `value` and
      floating-point `aux` are means over the micro-batches; other `aux` is that of the first. If m
      is the size of the batch, it is `estimator`, bit for bit.

    Raises:
      ValueError: if `m` < 1, or, in a step, m does not divide the batch.
      TypeError: if `m` is not an integer, or, in a step, the loss has no such argument.

    Cost: that of `estimator`, since an evaluation of a micro-batch counts as its fraction of the
    batch.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax import methods, value_and_grad
      >>> loss = lambda w, x: jnp.mean(w * x) + w**2
      >>> estimator, w = m_sam(methods.sam(rho=0.5), m=1, batch="x"), jnp.float32(0.0)
      >>> batch = jnp.array([1.0, -3.0])  # the ascents are 0.5 and -0.5
      >>> step = value_and_grad(loss, estimator)
      >>> (value, grad), state = step(w, step.init(w), batch)
      >>> value.item(), grad.item()  # the means of (0.75, 1.75) and (2, -4)
      (1.25, -1.0)

    Source: Foret et al., "Sharpness-Aware Minimization for Efficiently Improving Generalization",
    ICLR 2021, Section 4.1.
    """
    check_estimator("m_sam", estimator)
    _checks.batch("m_sam(batch=...)", batch)
    _checks.positive_int("m_sam", m=m)
    _checks.choice("m_sam", _checks.STRATEGIES, strategy=strategy)

    def estimate(loss: Loss, params: Params, memory: PyTree, *, step: Array, key: Array) -> Result:
        n = _count("m_sam", loss, batch, m)
        if n == 1:
            return estimator.estimate(loss, params, memory, step=step, key=key)

        def on_part(i: Any) -> tuple[Evaluation, PyTree]:
            part = loss.on(i, n, batch)
            return estimator.estimate(part, params, memory, step=step, key=key)

        averaged: tuple[Evaluation, PyTree] = _fold.mean(on_part, n, strategy)
        return averaged

    return GradientEstimator(estimator.init, estimate, estimator.cost)


def microbatched(
    estimator: GradientEstimator,
    m: int,
    *,
    batch: BatchArgument = "batch",
    strategy: Strategy = "auto",
) -> GradientEstimator:
    r"""Gradient accumulation: an estimator of the whole batch, in the memory of m examples.

    The batch B is cut into $B_1 .. B_n$ of m examples each, in order, and the estimator gets the
    loss and gradient

    $L_B(\theta) = \frac1n \sum_i L_{B_i}(\theta), \quad
    g_B(\theta) = \frac1n \sum_i g_{B_i}(\theta),$

    summed up one by one. For a loss that is a mean over examples that is the estimate of the whole
    batch, to rounding, ascent included. `m_sam` is its dual: there each micro-batch climbs its own
    loss. A loss whose examples see each other (BatchNorm) is that of micro-batches in both.

    The loss must get the batch as an argument, as for `m_sam`. The two may be nested, in either
    order, if m divides the m of `m_sam`: a micro-batch of `m_sam` is then evaluated in parts.

    Args:
      estimator: any estimator: a method of this module, or your own.
      m: examples in a micro-batch, a positive integer that divides the size of the batch.
      batch: which arguments of the loss are the batch: a name, a position (1 is the first after the
        parameters), or a tuple of these. Examples are counted by the leading axis of their leaves.
      strategy: how the micro-batches are evaluated: "unrolled", "streamed" (in the memory of one
        micro-batch and two gradients), "vectorized" or "auto", as for `tsam`.

    Returns:
      A `GradientEstimator` with the memory and metrics of `estimator`. Floating-point `aux` is the
      mean over the micro-batches; other `aux` is that of the first. If m is the size of the batch,
      it is `estimator`, bit for bit.

    Raises:
      ValueError: if `m` < 1, or, in a step, m does not divide the batch.
      TypeError: if `m` is not an integer, or, in a step, the loss has no such argument.

    Cost: that of `estimator`, since an evaluation of a micro-batch counts as its fraction of the
    batch.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax import methods, value_and_grad
      >>> loss = lambda w, x: jnp.mean(w * x) + w**2
      >>> estimator = microbatched(methods.sam(rho=0.5), m=1, batch="x")
      >>> w = jnp.float32(0.0)
      >>> batch = jnp.array([1.0, -3.0])  # the gradient is -1, so the ascent is -0.5
      >>> step = value_and_grad(loss, estimator)
      >>> (value, grad), state = step(w, step.init(w), batch)
      >>> value.item(), grad.item()
      (0.75, -2.0)

    Source: usual practice; the paper's methods do not depend on it.
    """
    check_estimator("microbatched", estimator)
    _checks.batch("microbatched(batch=...)", batch)
    _checks.positive_int("microbatched", m=m)
    _checks.choice("microbatched", _checks.STRATEGIES, strategy=strategy)

    def estimate(loss: Loss, params: Params, memory: PyTree, *, step: Array, key: Array) -> Result:
        in_parts = _MicroBatched(loss, m, batch, strategy)
        return estimator.estimate(in_parts, params, memory, step=step, key=key)

    return GradientEstimator(estimator.init, estimate, estimator.cost)


class _MicroBatched(Loss):
    """The loss of the whole batch as a mean over micro-batches of m examples."""

    def __init__(self, loss: Loss, m: int, cut: BatchArgument, strategy: Strategy) -> None:
        self.loss, self.m, self.cut, self.strategy = loss, m, cut, strategy
        self.n = _count("microbatched", loss, cut, m)

    def __call__(self, params: Params) -> Evaluation:
        if self.n == 1:
            return self.loss(params)
        on_part = lambda i: self.loss.on(i, self.n, self.cut)(params)  # noqa: E731
        mean: Evaluation = _fold.mean(on_part, self.n, self.strategy)
        return mean

    def value(self, params: Params) -> tuple[Array, PyTree]:
        if self.n == 1:
            return self.loss.value(params)
        on_part = lambda i: self.loss.on(i, self.n, self.cut).value(params)  # noqa: E731
        mean: tuple[Array, PyTree] = _fold.mean(on_part, self.n, self.strategy)
        return mean

    def on(self, i: Any, n: int, batch: BatchArgument = "batch") -> Loss:
        return _MicroBatched(self.loss.on(i, n, batch), self.m, self.cut, self.strategy)

    def examples(self, batch: BatchArgument = "batch") -> int:
        return self.loss.examples(batch)


def _count(owner: str, loss: Loss, batch: BatchArgument, m: int) -> int:
    """The number of micro-batches of m examples."""
    size = loss.examples(batch)
    if size == 0 or size % m:
        msg = f"`{owner}(m=...)` must divide the size of the batch, {size}, got {m!r}."
        raise ValueError(msg)
    return size // m


def per_device(estimator: GradientEstimator, axis_name: str) -> GradientEstimator:
    r"""The mean of an estimator over the devices, each with its share of the batch.

    For use inside `jax.shard_map` or `jax.pmap`, where the loss is that of the device's own
    examples: the ascent of each device follows its own gradient, which saves the communication
    of it, and only the result is averaged. On n devices it is `m_sam` with m = |B| / n, whose
    rules for memory and metrics apply: parameters and states are the same on all devices.

    Do not average the loss over the devices yourself: that makes the ascent one of the whole
    batch, and the outcome plain data parallelism. (A plain `estimator` without `per_device` is no
    better: where `shard_map` checks replication, JAX sums the gradient of replicated parameters
    over the devices.)

    Args:
      estimator: any estimator, also an `m_sam`.
      axis_name: the mesh axis over which the batch is split.

    Returns:
      A `GradientEstimator` with the memory and metrics of `estimator`. Gradient, `value` and
      floating-point `aux`, memory and metrics are means over the devices; the rest is the
      device's own.

    Cost: that of `estimator`, for the device's share of the batch.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jax.sharding import PartitionSpec as P
      >>> from tsam_jax import methods, value_and_grad
      >>> loss = lambda w, x: jnp.mean(w * x) + w**2
      >>> estimator, w = per_device(methods.sam(rho=0.5), "data"), jnp.float32(0.0)
      >>> step = value_and_grad(loss, estimator)
      >>> over_devices = jax.shard_map(
      ...     step,
      ...     mesh=jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)),
      ...     in_specs=(P(), P(), P("data")),
      ...     out_specs=P(),
      ... )
      >>> (value, grad), state = over_devices(w, step.init(w), jnp.array([1.0, -3.0]))
      >>> grad.item()
      -2.0

    Source: Foret et al. 2021, Section 4.1, and google-research/sam, whose default it is.
    """
    check_estimator("per_device", estimator)

    def estimate(loss: Loss, params: Params, memory: PyTree, *, step: Array, key: Array) -> Result:
        # Replicated parameters would get a gradient that is summed over the devices.
        local = _mesh.as_varying(params, axis_name)
        result = estimator.estimate(loss, local, memory, step=step, key=key)
        averaged: tuple[Evaluation, PyTree] = _mesh.mean(result, axis_name)
        return averaged

    return GradientEstimator(estimator.init, estimate, estimator.cost)
