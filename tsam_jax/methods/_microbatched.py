"""Gradient accumulation: any estimator in the memory of one micro-batch."""

from typing import Literal

import jax

from tsam_jax._checks import check_choice, check_positive_int
from tsam_jax._types import Params, PyTree
from tsam_jax.estimator import Evaluation, GradientEstimator, Oracle
from tsam_jax.methods._micro_batches import STRATEGIES, cut, mean_over, restricted


def microbatched(
    estimator: GradientEstimator,
    m: int,
    *,
    strategy: Literal["auto", "unrolled", "streamed"] = "auto",
) -> GradientEstimator:
    r"""Gradient accumulation: an estimator of the whole batch, in the memory of m examples.

    The batch B is cut into $B_1 .. B_n$ of m examples each, in order, and wherever the estimator
    asks for the loss or its gradient it gets

    $L_B(\theta) = \frac1n \sum_i L_{B_i}(\theta), \quad
    g_B(\theta) = \frac1n \sum_i g_{B_i}(\theta),$

    summed up one by one. For a loss that is a mean over examples that is the estimate of the whole
    batch, to rounding, ascent included. `m_sam` is its dual: there each micro-batch climbs its own
    loss. A loss whose examples see each other (BatchNorm) is that of micro-batches in both.

    The method has to see the batch, as for `m_sam`. The two may be nested, in either order, if m
    divides the m of `m_sam`: a micro-batch of `m_sam` is then evaluated in parts.

    Args:
      estimator: any estimator: a method of this module, or your own.
      m: examples in a micro-batch, a positive integer that divides the size of the batch.
      strategy: "unrolled": a Python loop while tracing; "streamed": a `lax.scan`, in the memory
        of one micro-batch and two gradients; "auto": see `tsam_jax.execution`.

    Returns:
      A `GradientEstimator` with the state of `estimator`. What is floating point in `aux` is the
      mean over the micro-batches; the rest is that of the first. If m is the size of the batch, it
      is `estimator`, bit for bit.

    Raises:
      ValueError: if `m` < 1, or, in a step, m does not divide the batch.
      TypeError: if `m` is not an integer, or, in a step, the batch is not known.

    Cost: that of `estimator`: what a micro-batch costs counts as its share of the batch.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax import methods, value_and_grad
      >>> loss = lambda w, x: jnp.mean(w * x) + w**2
      >>> estimator, w = microbatched(methods.sam(rho=0.5), m=1), jnp.float32(0.0)
      >>> batch = jnp.array([1.0, -3.0])  # the gradient is -1, and so the ascent -0.5
      >>> (value, grad), state = value_and_grad(loss, estimator)(w, estimator.init(w), batch)
      >>> value.item(), grad.item()
      (0.75, -2.0)

    Source: usual practice; the paper's methods do not depend on it.
    """
    check_positive_int("microbatched", m=m)
    check_choice("microbatched", STRATEGIES, strategy=strategy)

    def in_parts(oracle: Oracle) -> Oracle:
        part, n = cut("microbatched", oracle, m)
        if n == 1:
            return oracle

        def evaluate(params: Params) -> Evaluation:
            mean: Evaluation = mean_over(lambda i: part(i).evaluate(params), n, strategy)
            return mean

        def value(params: Params) -> tuple[jax.Array, PyTree]:
            mean: tuple[jax.Array, PyTree] = mean_over(lambda i: part(i).value(params), n, strategy)
            return mean

        def on(batch: PyTree) -> Oracle:
            return in_parts(restricted("microbatched", oracle)(batch))

        return Oracle(evaluate, value, oracle.batch, on)

    def estimate(oracle: Oracle, params: Params, state: PyTree, /) -> tuple[Evaluation, PyTree]:
        return estimator.estimate(in_parts(oracle), params, state)

    return GradientEstimator(estimator.init, estimate, estimator.cost)
