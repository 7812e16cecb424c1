"""Loss of a whole data set, batch by batch, as a function of the parameters.

Every measure of this package takes a `loss_fn(params)`. These functions make one from a
`loss_fn(params, batch)` and a data set. It needs the memory of one batch, also for gradients and
Hessian-vector products.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tsam_jax import _tree
from tsam_jax._checks import Params, PyTree


def mean_over_batches(
    loss_fn: Callable[[Params, PyTree], jax.Array], batches: PyTree, /
) -> Callable[[Params], jax.Array]:
    r"""Mean loss over batches stacked on the device.

    $L(\theta) = \frac1n \sum_b L_b(\theta)$, one batch after the other. The backward pass
    recomputes the activations of each batch, so memory does not grow with n.

    Put a network with BatchNorm or dropout in evaluation mode in `loss_fn`: batch statistics make
    the loss, and so every measure, depend on the batch size. On a CPU, the gradient of JAX's
    convolution is slow inside this loop; that of `tsam_jax.convolution` is fast.

    Args:
      loss_fn: (params, batch) -> mean loss over the batch, shape (); deterministic.
      batches: pytree of arrays with a leading axis over n batches of equal size.

    Returns:
      params -> mean loss, shape (), float32 or wider. You can jit it, vmap it, and differentiate it
      in reverse mode, repeatedly.

    Raises:
      ValueError: if leaves of `batches` have no first axis, or their first axes differ in length.

    Cost: n loss evaluations of a batch per call; a gradient costs n gradients of `loss_fn` and n
    more loss evaluations.

    Example:
      >>> import jax.numpy as jnp
      >>> loss = mean_over_batches(lambda w, x: jnp.mean((w - x) ** 2), jnp.array([[0.0], [4.0]]))
      >>> float(loss(jnp.float32(0.0)))
      8.0
    """
    lengths = {jnp.shape(x)[:1] for x in jax.tree.leaves(batches)}
    if len(lengths) != 1 or lengths in ({()}, {(0,)}):
        msg = (
            "`mean_over_batches(batches)` must have one leading axis over batches, of the same"
            f" length in every leaf, got the lengths {sorted(lengths)}."
        )
        raise ValueError(msg)
    loss_of = _rematerialised(loss_fn)

    def mean(params: Params) -> jax.Array:
        def add(total: jax.Array, batch: PyTree) -> tuple[jax.Array, None]:
            return total + loss_of(params, batch), None

        total, _ = jax.lax.scan(add, _zero(loss_of, params, _first(batches)), batches)
        return total / lengths.copy().pop()[0]

    return mean


def mean_over_sequence(
    loss_fn: Callable[[Params, PyTree], jax.Array], batches: Sequence[PyTree], /
) -> Callable[[Params], jax.Array]:
    r"""Mean loss over batches kept on the host and fetched on demand.

    $L(\theta) = \sum_b \frac{n_b}{n} L_b(\theta)$ with $n_b$ the number of examples of a batch, so
    a smaller last batch counts less. Like `mean_over_batches`, for data that do not fit on the
    device or are generated on the fly.

    Args:
      loss_fn: (params, batch) -> mean loss over the batch, shape (); deterministic.
      batches: sequence whose `batches[i]` is a pytree of NumPy arrays with a first axis over
        examples. It must be the same at each access, because a gradient reads it more than once.
        All batches but the last must have the same size.

    Returns:
      params -> mean loss over examples, shape (), float32 or wider; for the same uses as that of
      `mean_over_batches`.

    Raises:
      ValueError: if `batches` is empty.

    Cost: that of `mean_over_batches`, and one transfer of the data from the host per evaluation.

    Example:
      >>> import jax.numpy as jnp, numpy as np
      >>> batches = [np.float32([0.0, 4.0]), np.float32([8.0])]
      >>> loss = mean_over_sequence(lambda w, x: jnp.mean(w - x), batches)
      >>> float(loss(jnp.float32(0.0)))
      -4.0
    """
    count = len(batches)
    if count == 0:
        msg = "`mean_over_sequence(batches)` must have at least one batch, got none."
        raise ValueError(msg)
    first, last = batches[0], jax.tree.map(jnp.asarray, batches[count - 1])
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            np.shape(x), jax.dtypes.canonicalize_dtype(np.asarray(x).dtype)
        ),
        first,
    )
    size, last_size = _examples(first), _examples(last)

    def fetch(i: Any) -> PyTree:
        batch = batches[int(i)]
        return jax.tree.map(lambda x, like: np.asarray(x, like.dtype), batch, shapes)

    def loss_of_batch(params: Params, i: jax.Array) -> jax.Array:
        batch = jax.pure_callback(fetch, shapes, i, vmap_method="sequential")
        return loss_fn(params, batch)

    loss_of = _rematerialised(loss_of_batch)

    def mean(params: Params) -> jax.Array:
        def add(total: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
            return total + loss_of(params, i), None

        start = _zero(loss_of, params, jnp.int32(0))
        total, _ = jax.lax.scan(add, start, jnp.arange(count - 1, dtype=jnp.int32))
        total = total * size + _rematerialised(loss_fn)(params, last) * last_size
        return total / (size * (count - 1) + last_size)

    return mean


def _rematerialised(
    loss_fn: Callable[[Params, PyTree], jax.Array],
) -> Callable[[Params, PyTree], jax.Array]:
    def wide(params: Params, batch: PyTree) -> jax.Array:
        loss = jnp.asarray(loss_fn(params, batch))
        return loss.astype(_tree.accumulator_dtype(loss))

    remade: Callable[[Params, PyTree], jax.Array] = jax.checkpoint(wide)
    return remade


def _zero(
    loss_of: Callable[[Params, PyTree], jax.Array], params: Params, batch: PyTree
) -> jax.Array:
    return jnp.zeros((), jax.eval_shape(loss_of, params, batch).dtype)


def _first(batches: PyTree) -> PyTree:
    return jax.tree.map(lambda x: x[0], batches)


def _examples(batch: PyTree) -> int:
    return int(np.shape(jax.tree.leaves(batch)[0])[0])
