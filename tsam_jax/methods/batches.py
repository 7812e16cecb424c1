"""Wrappers that apply an estimator to micro-batches, or on each device separately."""

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
    r"""m-SAM: mean of an estimator over micro-batches of m examples.

    The batch B is split, in order, into $B_1 .. B_n$ of m examples each. With `sam`, each ascends
    its own loss: $\hat g = \frac1n \sum_i g_{B_i}\left(\theta + \rho \frac{g_{B_i}(\theta)}{\lVert
    g_{B_i}(\theta) \rVert}\right)$. In its source, smaller m generalise better.

    The batch must be an argument of the loss. With `value_and_grad`, call `step(params, state,
    batch)`; with an optax adapter and `loss(params, batch)`, call `update(None, state, params,
    value_fn=loss, batch=batch)`.

    All micro-batches start from the same memory and draw the same noise. Floating-point memories
    and metrics are averaged; others are those of the first micro-batch. Schedules count steps, not
    micro-batches. A moving average of gradients averages the mean gradient.

    Args:
      estimator: any estimator: a method of this module, or your own.
      m: examples per micro-batch, a positive integer that divides the size of the batch.
      batch: arguments of the loss that hold the batch: a name, a position (1 is the first after the
        parameters), or a tuple of these. The leading axis of their leaves counts examples.
      strategy: how the micro-batches are evaluated: "unrolled", "streamed" (in the memory of one
        micro-batch and two gradients), "vectorized" or "auto", as for `tsam`.

    Returns:
      A `GradientEstimator` with the memory and metrics of `estimator`. Gradient, `value` and
      floating-point `aux` are means over the micro-batches; other `aux` is that of the first. If m
      is the size of the batch, the result is that of `estimator`, bit for bit.

    Raises:
      ValueError: if `m` < 1; in a step, if m does not divide the batch.
      TypeError: if `m` is not an integer; in a step, if the loss has no argument `batch`.

    Cost: that of `estimator`, because an evaluation of a micro-batch counts as its fraction of the
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

    The batch B is split, in order, into $B_1 .. B_n$ of m examples each, and the estimator receives
    the loss and gradient

    $L_B(\theta) = \frac1n \sum_i L_{B_i}(\theta), \quad
    g_B(\theta) = \frac1n \sum_i g_{B_i}(\theta),$

    summed one by one. If the loss is a mean over examples, the result is the estimate on the whole
    batch, ascent included, to rounding. In contrast, each micro-batch of `m_sam` ascends its own
    loss. With interactions between examples (BatchNorm), both use those within a micro-batch.

    The batch must be an argument of the loss, as for `m_sam`. The two may be nested, in either
    order, if m divides the m of `m_sam`, whose micro-batches are then evaluated in parts.

    Args:
      estimator: any estimator: a method of this module, or your own.
      m: examples per micro-batch, a positive integer that divides the size of the batch.
      batch: arguments of the loss that hold the batch: a name, a position (1 is the first after the
        parameters), or a tuple of these. The leading axis of their leaves counts examples.
      strategy: how the micro-batches are evaluated: "unrolled", "streamed" (in the memory of one
        micro-batch and two gradients), "vectorized" or "auto", as for `tsam`.

    Returns:
      A `GradientEstimator` with the memory and metrics of `estimator`. Floating-point `aux` is the
      mean over the micro-batches; other `aux` is that of the first. If m is the size of the batch,
      the result is that of `estimator`, bit for bit.

    Raises:
      ValueError: if `m` < 1; in a step, if m does not divide the batch.
      TypeError: if `m` is not an integer; in a step, if the loss has no argument `batch`.

    Cost: that of `estimator`, because an evaluation of a micro-batch counts as its fraction of the
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

    Source: common practice; the paper's methods do not depend on it.
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
    r"""Mean of an estimator over devices, each with its part of the batch.

    Use it inside `jax.shard_map` or `jax.pmap`, where the loss covers the examples of the device.
    Each device ascends along its own gradient, without communication, and only the results are
    averaged. On n devices this is `m_sam` with m = |B| / n, with the same rules for memory and
    metrics. Parameters and states are the same on all devices.

    Do not average the loss over the devices yourself: each ascent would follow the whole batch,
    which is plain data parallelism. Do not use an estimator without `per_device` either: where
    `shard_map` checks replication, JAX sums the gradient of replicated parameters over the devices.

    Args:
      estimator: any estimator, including `m_sam`.
      axis_name: mesh axis over which the batch is split.

    Returns:
      A `GradientEstimator` with the memory and metrics of `estimator`. Gradient, `value` and
      floating-point `aux`, memory and metrics are means over the devices; everything else is
      local to the device.

    Cost: that of `estimator`, on the device's part of the batch.

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

    Source: Foret et al. 2021, Section 4.1; it is the default of google-research/sam.
    """
    check_estimator("per_device", estimator)

    def estimate(loss: Loss, params: Params, memory: PyTree, *, step: Array, key: Array) -> Result:
        # The gradient of replicated parameters would be summed over the devices.
        local = _mesh.as_varying(params, axis_name)
        result = estimator.estimate(loss, local, memory, step=step, key=key)
        averaged: tuple[Evaluation, PyTree] = _mesh.mean(result, axis_name)
        return averaged

    return GradientEstimator(estimator.init, estimate, estimator.cost)
