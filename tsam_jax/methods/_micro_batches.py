"""Micro-batches: a batch cut into parts of equal size, and the mean of what is said of them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from tsam_jax import _axes, _tree
from tsam_jax._types import PyTree
from tsam_jax.estimator import Oracle
from tsam_jax.execution import choose_strategy

STRATEGIES = ("auto", "unrolled", "streamed")


def restricted(owner: str, oracle: Oracle) -> Callable[[PyTree], Oracle]:
    """The function from a part of the batch to its oracle, which knows it as its batch.

    Args:
      owner: the public function that splits the batch, for messages.
      oracle: the oracle of the whole batch.

    Returns:
      A function from a part to an `Oracle`.

    Raises:
      TypeError: if the batch is not known.
    """
    on = oracle.on
    if on is None:
        msg = (
            f"`{owner}` splits the batch, so the loss must get it as an argument: call"
            " `value_and_grad(loss, estimator)(params, state, batch)`, or"
            " `optimizer.update(grads, state, params, value_fn=loss, batch=batch)`, with a"
            " function `loss(params, batch)`."
        )
        raise TypeError(msg)
    return lambda part: on(part)._replace(batch=part, on=on)


def cut(owner: str, oracle: Oracle, m: int) -> tuple[Callable[[jax.Array], Oracle], int]:
    """Cuts the batch of an oracle into micro-batches of m examples, in order.

    Args:
      owner: the public function that does it, for messages.
      oracle: the oracle of the whole batch.
      m: examples in a micro-batch.

    Returns:
      A function from i to the oracle of micro-batch i, and the number of micro-batches.

    Raises:
      ValueError: if m does not divide the batch.
      TypeError: if the batch is not known.
    """
    on = restricted(owner, oracle)
    size = _size(owner, oracle.batch)
    if size == 0 or size % m:
        msg = f"`{owner}(m=...)` must divide the size of the batch, {size}, got {m!r}."
        raise ValueError(msg)
    return _parts(on, oracle.batch, size // m), size // m


def slices(owner: str, oracle: Oracle, s: int) -> Callable[[jax.Array], Oracle]:
    """Cuts the batch of an oracle into s slices of equal size, in order.

    Args:
      owner: the public function that does it, for messages.
      oracle: the oracle of the whole batch.
      s: number of slices.

    Returns:
      A function from j to the oracle of slice j.

    Raises:
      ValueError: if s does not divide the batch.
      TypeError: if the batch is not known.
    """
    on = restricted(owner, oracle)
    size = _size(owner, oracle.batch)
    if size == 0 or size % s:
        msg = (
            f"`{owner}(s=...)` must divide the size of the batch, {size}, with `split_batch=True`,"
            f" got {s!r}."
        )
        raise ValueError(msg)
    return _parts(on, oracle.batch, s)


def _parts(on: Callable[[PyTree], Oracle], batch: PyTree, n: int) -> Callable[[jax.Array], Oracle]:
    """The function from i to the oracle of part i of n."""
    parts = jax.tree.map(lambda x: jnp.reshape(x, (n, x.shape[0] // n, *x.shape[1:])), batch)
    return lambda i: on(jax.tree.map(lambda x: x[i], parts))


def _size(owner: str, batch: PyTree) -> int:
    """The number of examples."""
    sizes = {x.shape[:1] for x in map(jnp.asarray, jax.tree.leaves(batch))}
    if len(sizes) != 1 or sizes == {()}:
        msg = f"`{owner}` needs a batch whose leaves have one leading axis, got the axes {sizes}."
        raise ValueError(msg)
    ((size,),) = sizes
    return size


def mean_over(function: Callable[[jax.Array], PyTree], n: int, strategy: str) -> PyTree:
    """The mean of `function(i)` over i < n: of the leaves that have one; else the first."""
    indices = jnp.arange(n)
    shapes, structure = jax.tree.flatten(jax.eval_shape(function, indices[0]))
    has_mean = [jnp.issubdtype(x.dtype, jnp.inexact) for x in shapes]

    def fold(totals: list[jax.Array], i: jax.Array) -> tuple[list[jax.Array], list[jax.Array]]:
        leaves = list(zip(jax.tree.leaves(function(i)), has_mean, strict=True))
        added = [x for x, mean in leaves if mean]
        totals = [t + x.astype(t.dtype) for t, x in zip(totals, added, strict=True)]
        return totals, [x for x, mean in leaves if not mean]

    totals = [
        _axes.zeros_like(x, _tree.wide_dtype(x))
        for x, mean in zip(shapes, has_mean, strict=True)
        if mean
    ]
    chosen = choose_strategy(function, indices) if strategy == "auto" else strategy
    if chosen == "unrolled":
        totals, first = fold(totals, indices[0])
        for i in indices[1:]:
            totals, _ = fold(totals, i)
    else:
        totals, stacked = jax.lax.scan(fold, totals, indices)
        first = [x[0] for x in stacked]
    means, others = iter(totals), iter(first)
    leaves = [
        (next(means) / n).astype(x.dtype) if mean else next(others)
        for x, mean in zip(shapes, has_mean, strict=True)
    ]
    return jax.tree.unflatten(structure, leaves)
