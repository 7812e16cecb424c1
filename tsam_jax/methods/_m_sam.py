"""Sharpness of parts of a batch: any estimator on micro-batches, or on each device's share."""

from typing import Literal

import jax

from tsam_jax import _axes
from tsam_jax._checks import check_choice, check_positive_int
from tsam_jax._types import Params, PyTree
from tsam_jax.estimator import Evaluation, GradientEstimator, Oracle
from tsam_jax.methods._micro_batches import STRATEGIES, cut, mean_over


def m_sam(
    estimator: GradientEstimator,
    m: int,
    *,
    strategy: Literal["auto", "unrolled", "streamed"] = "auto",
) -> GradientEstimator:
    r"""m-SAM: an estimator on micro-batches of m examples, and the mean of what it says.

    The batch B is cut into $B_1 .. B_n$ of m examples each, in order. With `sam`, each climbs its
    own loss: $\hat g = \frac1n \sum_i g_{B_i}\left(\theta + \rho \frac{g_{B_i}(\theta)}{\lVert
    g_{B_i}(\theta) \rVert}\right)$. A smaller m generalises better, says its source.

    The method has to see the batch. With `value_and_grad` it is the first argument after the
    parameters and the state; with `estimate_gradient` give `update` a `value_fn` of (params,
    batch), and `batch`. Examples are counted by the leading axis of all of its leaves.

    All micro-batches start from the same state, and so draw the same noise; the states that they
    lead to are averaged where they are floating-point numbers, and otherwise taken from the first
    one. A schedule counts steps, not micro-batches; a moving average of gradients is that of
    the mean gradient.

    Args:
      estimator: any estimator: a method of this module, or your own.
      m: examples in a micro-batch, a positive integer that divides the size of the batch.
      strategy: "unrolled": a Python loop while tracing; "streamed": a `lax.scan`, in the memory
        of one micro-batch and two gradients; "auto": see `tsam_jax.execution`.

    Returns:
      A `GradientEstimator` with the state of `estimator`. Gradient, `value` and what is floating
      point in `aux` are means over the micro-batches; the rest of `aux` is that of the first. If
      m is the size of the batch, it is `estimator`, bit for bit.

    Raises:
      ValueError: if `m` < 1, or, in a step, m does not divide the batch.
      TypeError: if `m` is not an integer, or, in a step, the batch is not known.

    Cost: that of `estimator`: what a micro-batch costs counts as its share of the batch.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax import methods, value_and_grad
      >>> loss = lambda w, x: jnp.mean(w * x) + w**2
      >>> estimator, w = m_sam(methods.sam(rho=0.5), m=1), jnp.float32(0.0)
      >>> batch = jnp.array([1.0, -3.0])  # the ascents are 0.5 and -0.5
      >>> (value, grad), state = value_and_grad(loss, estimator)(w, estimator.init(w), batch)
      >>> value.item(), grad.item()  # the means of (0.75, 1.75) and (2, -4)
      (1.25, -1.0)

    Source: Foret et al., "Sharpness-Aware Minimization for Efficiently Improving Generalization",
    ICLR 2021, Section 4.1.
    """
    check_positive_int("m_sam", m=m)
    check_choice("m_sam", STRATEGIES, strategy=strategy)

    def estimate(oracle: Oracle, params: Params, state: PyTree, /) -> tuple[Evaluation, PyTree]:
        part, n = cut("m_sam", oracle, m)
        if n == 1:
            return estimator.estimate(oracle, params, state)

        def estimate_on(i: jax.Array) -> tuple[Evaluation, PyTree]:
            return estimator.estimate(part(i), params, state)

        averaged: tuple[Evaluation, PyTree] = mean_over(estimate_on, n, strategy)
        return averaged

    return GradientEstimator(estimator.init, estimate, estimator.cost)


def per_device(estimator: GradientEstimator, axis_name: str) -> GradientEstimator:
    r"""An estimator on each device's share of the batch, and the mean of what it says.

    For use inside `jax.shard_map` or `jax.pmap`, where the loss is that of the device's own
    examples: the ascent of each device follows its own gradient, which saves the communication
    of it, and only the result is averaged. On n devices it is `m_sam` with m = |B| / n, whose
    rules for states hold here too: parameters and states are the same on all devices.

    Do not average the loss over the devices yourself: that makes the ascent one of the whole
    batch, and the outcome plain data parallelism. (A plain `estimator` without `per_device` is no
    better: where `shard_map` checks replication, JAX sums the gradient of replicated parameters
    over the devices.)

    Args:
      estimator: any estimator, also an `m_sam`.
      axis_name: the mesh axis over which the batch is split.

    Returns:
      A `GradientEstimator` with the state of `estimator`. Gradient, `value` and what is floating
      point in `aux` and in the state are means over the devices; the rest is the device's own.

    Cost: that of `estimator`, for the device's share of the batch.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jax.sharding import PartitionSpec as P
      >>> from tsam_jax import methods, value_and_grad
      >>> loss = lambda w, x: jnp.mean(w * x) + w**2
      >>> estimator, w = per_device(methods.sam(rho=0.5), "data"), jnp.float32(0.0)
      >>> step = jax.shard_map(
      ...     value_and_grad(loss, estimator),
      ...     mesh=jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)),
      ...     in_specs=(P(), P(), P("data")),
      ...     out_specs=P(),
      ... )
      >>> (value, grad), state = step(w, estimator.init(w), jnp.array([1.0, -3.0]))
      >>> grad.item()
      -2.0

    Source: Foret et al. 2021, Section 4.1, and google-research/sam, whose default it is.
    """

    def estimate(oracle: Oracle, params: Params, state: PyTree, /) -> tuple[Evaluation, PyTree]:
        # Replicated parameters would get a gradient that is summed over the devices.
        local = _axes.as_varying(params, axis_name)
        result = estimator.estimate(oracle, local, state)
        averaged: tuple[Evaluation, PyTree] = _axes.mean(result, axis_name)
        return averaged

    return GradientEstimator(estimator.init, estimate, estimator.cost)
