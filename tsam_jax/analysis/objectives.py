"""Objectives of ERM, SAM and TSAM, evaluated at a model: the paper's Table 3."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax

from tsam_jax import _checks, _tree
from tsam_jax._checks import NoiseLaw, Params, PyTree, Scalar
from tsam_jax.analysis.batches import mean_over_batches
from tsam_jax.analysis.sharpness import Estimate, mean_estimate
from tsam_jax.methods.ascent import ascend
from tsam_jax.tilting import tilted_loss


class Objectives(NamedTuple):
    """Values of the three objectives at a model.

    Attributes:
      erm: `Estimate` of the mean loss L(theta). Its standard error, like those of the next two, is
        over batches.
      sam: `Estimate` of the mean over batches of L_b(theta + e_b), e_b the ascent step of SAM.
      tsam: `Estimate` of the mean over batches of the tilted loss of L_b at the samples of b.
      sam_of_one_batch: scalar: L(theta + e), e from the first batch and L over all of them.
      tsam_of_one_batch: scalar: the tilted loss of L over all batches, at the samples of the first.
    """

    erm: Estimate
    sam: Estimate
    tsam: Estimate
    sam_of_one_batch: jax.Array
    tsam_of_one_batch: jax.Array


def objectives(
    loss_fn: Callable[[Params, PyTree], jax.Array],
    params: Params,
    batches: PyTree,
    key: jax.Array,
    /,
    *,
    sam_rho: Scalar,
    t: Scalar,
    noise: NoiseLaw,
    tsam_rho: Scalar = 0.0,
    num_samples: int = 3,
) -> Objectives:
    r"""Evaluate the objectives of ERM, SAM and TSAM at one model.

    With $e_b = \rho g_b(\theta) / \lVert g_b(\theta) \rVert$ for SAM, and for TSAM $\epsilon_{bj} =
    d_{bj} + \rho' g_b(\theta + d_{bj}) / \lVert \cdot \rVert$, $d_{bj} \sim$ noise,

    $L(\theta), \quad \frac1n \sum_b L_b(\theta + e_b), \quad \frac1n \sum_b \frac1t \log \frac1s
    \sum_j e^{t L_b(\theta + \epsilon_{bj})}.$

    The methods minimise these: each perturbation is computed on the batch it is applied to.
    The official code computes perturbations on one batch and applies them to all data, where they
    raise the loss less; the last two fields of the result do the same.

    Args:
      loss_fn: (params, batch) -> mean loss over the batch, shape (); in evaluation mode.
      params: theta, any pytree of floating-point arrays.
      batches: pytree of arrays (n, m, ...): n batches of the size used in training.
      key: random key of the noise.
      sam_rho: length of SAM's ascent step, >= 0.
      t: tilt, >= 0, including infinity.
      noise: law of TSAM's noise d.
      tsam_rho: length of TSAM's ascent step after the noise, >= 0. With 0, the samples follow the
        objective, Eq. 3; the paper's algorithm ascends by 0.1.
      num_samples: number of samples s per batch, a positive static int. With few samples, the mean
        of the tilted loss is below the objective.

    Returns:
      An `Objectives`. Costs n (s + 1) gradients and n (2 s + 3) losses of a batch.

    Raises:
      ValueError: if a number is out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from tsam_jax import noise
      >>> from tsam_jax.analysis import objectives
      >>> loss = lambda w, x: jnp.mean(w * x)
      >>> row = objectives(
      ...     loss, jnp.float32(0.0), jnp.array([[1.0], [-1.0]]), jax.random.key(0),
      ...     sam_rho=0.5, t=1.0, noise=noise.none, num_samples=1,
      ... )
      >>> float(row.sam.value), float(row.sam_of_one_batch)
      (0.5, 0.0)

    Source: Li et al. 2025, Table 3; the official code's `eval.py` for the batches.
    """
    owner = "objectives"
    _checks.nonnegative(owner, sam_rho=sam_rho, tsam_rho=tsam_rho)
    _checks.nonnegative(owner, finite=False, t=t)
    _checks.positive_int(owner, num_samples=num_samples)

    def point_of_sam(batch: PyTree) -> Params:
        return ascend(params, jax.grad(loss_fn)(params, batch), sam_rho, None)

    def point_of_tsam(batch: PyTree, sample_key: jax.Array) -> Params:
        noisy = _tree.add(params, noise(sample_key, params))
        return ascend(noisy, jax.grad(loss_fn)(noisy, batch), tsam_rho, None)

    def tilted_over(
        loss: Callable[[Params], jax.Array], batch: PyTree, batch_key: jax.Array
    ) -> jax.Array:
        keys = jax.random.split(batch_key, num_samples)
        return tilted_loss(jax.lax.map(lambda k: loss(point_of_tsam(batch, k)), keys), t)

    def of_batch(pair: tuple[PyTree, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        batch, batch_key = pair
        loss = lambda p: loss_fn(p, batch)  # noqa: E731
        return loss(params), loss(point_of_sam(batch)), tilted_over(loss, batch, batch_key)

    keys = jax.random.split(key, jax.tree.leaves(batches)[0].shape[0])
    rows = jax.lax.map(of_batch, (batches, keys))
    first, loss_of_all = jax.tree.map(lambda x: x[0], batches), mean_over_batches(loss_fn, batches)
    erm, sam, tsam = (mean_estimate(row.astype(_tree.accumulator_dtype(row))) for row in rows)
    return Objectives(
        erm,
        sam,
        tsam,
        sam_of_one_batch=loss_of_all(point_of_sam(first)),
        tsam_of_one_batch=tilted_over(loss_of_all, first, keys[0]),
    )


def cross_objective_table(
    loss_fn: Callable[[Params, PyTree], jax.Array],
    models: Mapping[str, Params],
    batches: PyTree,
    key: jax.Array,
    /,
    *,
    sam_rho: Scalar,
    t: Scalar,
    noise: NoiseLaw,
    tsam_rho: Scalar = 0.0,
    num_samples: int = 3,
) -> dict[str, Objectives]:
    """Evaluate each objective at each of several models: the paper's Table 3.

    Evaluates `objectives` at every model, with the same noise, so that rows are comparable. In the
    paper, on training data each model is best under the objective it was trained with; on test data
    TSAM is best under all of them.

    Args:
      loss_fn: (params, batch) -> mean loss over the batch, shape (); in evaluation mode.
      models: name -> parameters of the model; all models have the same structure.
      batches: pytree of arrays (n, m, ...) of training or test data.
      key: random key of the noise.
      sam_rho: as for `objectives`.
      t: as for `objectives`.
      noise: as for `objectives`.
      tsam_rho: as for `objectives`.
      num_samples: as for `objectives`.

    Returns:
      Name -> `Objectives`, compiled once. Costs as much as `objectives` for each model.

    Raises:
      ValueError: if a number is out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from tsam_jax import noise
      >>> from tsam_jax.analysis import cross_objective_table
      >>> loss = lambda w, x: jnp.mean(x) * w**2
      >>> models = {"flat": jnp.float32(0.0), "off": jnp.float32(1.0)}
      >>> table = cross_objective_table(
      ...     loss, models, jnp.ones((2, 1)), jax.random.key(0),
      ...     sam_rho=0.5, t=1.0, noise=noise.none,
      ... )
      >>> {name: float(row.sam.value) for name, row in table.items()}
      {'flat': 0.0, 'off': 2.25}

    Source: Li et al. 2025, Table 3.
    """

    @jax.jit
    def row(params: Params) -> Objectives:
        return objectives(
            loss_fn,
            params,
            batches,
            key,
            sam_rho=sam_rho,
            t=t,
            noise=noise,
            tsam_rho=tsam_rho,
            num_samples=num_samples,
        )

    return {name: row(params) for name, params in models.items()}
