"""Hessian-vector products and the largest eigenvalues of the Hessian.

Glossary: H, the Hessian of the loss at theta; d, the number of parameters; m, the number of
Hessian-vector products; Q, the orthonormal Lanczos basis (m, d); T = Q H Q^T, tridiagonal (m, m).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from matfree import decomp

from tsam_jax import _tree
from tsam_jax._types import Params

_DEFAULT_NUM_MATVECS = 40


class Eigenvalues(NamedTuple):
    """Approximate eigenvalues of the Hessian, with their errors.

    Attributes:
      values: (k,), float32 or wider: algebraically largest Ritz values, descending.
      residuals: (k,): |H v - value v| for the unit Ritz vectors v, in the unit of the eigenvalues.
        Within this distance of the value there is an exact eigenvalue.
    """

    values: jax.Array
    residuals: jax.Array


def hvp(
    loss_fn: Callable[[Params], jax.Array],
    params: Params,
    vector: Params,
    /,
) -> Params:
    """Hessian-vector product, without the Hessian.

    Computes  H v  with  H = d^2 L / d theta^2  as the pullback of v through the gradient (H is
    symmetric). This is reverse mode over reverse mode. Forward over reverse needs somewhat less
    memory, but operations with a custom derivative (`jax.custom_vjp`) have no forward mode and
    would fail.

    Args:
      loss_fn: `params -> scalar`, twice differentiable by reverse mode.
      params: theta, any pytree of floating-point arrays.
      vector: v, structure, shapes and dtypes like `params`.

    Returns:
      H v, like `params`. Costs two to three gradient evaluations.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax.analysis import hvp
      >>> hvp(lambda x: jnp.sum(x**3), jnp.array([1.0, 2.0]), jnp.array([1.0, 1.0])).tolist()
      [6.0, 12.0]

    References:
      Pearlmutter, "Fast exact multiplication by the Hessian", Neural Computation 6(1), 1994.
    """
    return _hessian(loss_fn, params)(vector)


def top_eigenvalues(
    loss_fn: Callable[[Params], jax.Array],
    params: Params,
    key: jax.Array,
    /,
    *,
    k: int = 1,
    num_matvecs: int | None = None,
) -> Eigenvalues:
    """Largest eigenvalues of the Hessian of the loss, with their residuals.

    Computes the k algebraically largest eigenvalues of  H = d^2 L / d theta^2,  the measure of
    sharpness in Section 5.2 of [1], where k = 5. Lanczos' iteration from a random vector, with full
    re-orthogonalisation (without it, copies of converged eigenvalues appear), as in matfree; then
    the eigenvalues of T.

    Read the residuals: a value whose residual is not small against it has not converged, and
    `num_matvecs` should grow. Ritz values approach the eigenvalues from below. Equal eigenvalues
    are found once; if the Krylov space is exhausted before k values are found, the missing
    ones are nan.

    Args:
      loss_fn: `params -> scalar`, twice differentiable by reverse mode.
      params: theta, any pytree of floating-point arrays, d numbers in all.
      key: random key for the first Lanczos vector.
      k: number of eigenvalues, 1 <= k <= `num_matvecs`, a static int.
      num_matvecs: number m of Lanczos steps, 1 <= m <= d, a static int. None stands for 40, or for
        d where that is smaller. Memory: m vectors like `params` in float32 or wider, beside
        one Hessian-vector product.

    Returns:
      `Eigenvalues(values, residuals)`, each of shape (k,). Costs m + k Hessian-vector products,
      about two gradient evaluations each, since the gradient is linearised once.

    Raises:
      ValueError: if `num_matvecs` is not in 1..d, or `k` not in 1..num_matvecs.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from tsam_jax.analysis import top_eigenvalues
      >>> scales = jnp.array([1.0, 2.0, 5.0, -9.0])
      >>> loss = lambda p: 0.5 * jnp.sum(scales * p["x"] ** 2)
      >>> top = top_eigenvalues(loss, {"x": jnp.ones(4)}, jax.random.key(0), k=2)
      >>> [round(float(value), 3) for value in top.values]
      [5.0, 2.0]

    References:
      [1] Li, Zhou, Bilmes, "Tilted Sharpness-Aware Minimization", ICML 2025, arXiv:2410.22656.
      [2] Lanczos, "An iteration method for the solution of the eigenvalue problem of linear
      differential and integral operators", J. Res. Nat. Bur. Standards 45(4), 1950.
    """
    dimension = _tree.size(params)
    depth = min(_DEFAULT_NUM_MATVECS, dimension) if num_matvecs is None else num_matvecs
    if not 1 <= depth <= dimension:
        msg = (
            "`top_eigenvalues(num_matvecs=...)` must lie between 1 and the number of parameters, "
            f"{dimension}: got {depth}."
        )
        raise ValueError(msg)
    if not 1 <= k <= depth:
        msg = (
            "`top_eigenvalues(k=...)` must lie between 1 and the number of Hessian-vector "
            f"products, num_matvecs={depth}: got {k}."
        )
        raise ValueError(msg)
    hessian = _hessian(loss_fn, params)
    # bfloat16 parameters get bfloat16 products, but never a bfloat16 basis.
    template, unravel = ravel_pytree(
        jax.tree.map(lambda p: p.astype(_tree.accumulator_dtype(params)), params)
    )
    start = jax.random.normal(key, template.shape, template.dtype)

    def matvec(flat: jax.Array) -> jax.Array:
        vector = jax.tree.map(lambda v, p: v.astype(p.dtype), unravel(flat), params)
        return ravel_pytree(hessian(vector))[0].astype(flat.dtype)

    # Reduced-precision products (the default for float32 on some accelerators) would cost the
    # basis its orthogonality. The loss was traced above, at the caller's precision.
    with jax.default_matmul_precision("highest"):
        # Lanczos with full re-orthogonalisation is Arnoldi; matfree's `tridiag_sym` would hide the
        # lengths that tell an exhausted Krylov space.
        basis, upper, *_ = decomp.hessenberg(depth, reortho="full")(matvec, start)
        values, vectors = _ritz_pairs(basis, upper.diagonal(), upper.diagonal(-1), k=k)
    residuals = jax.lax.map(
        lambda pair: jnp.linalg.norm(matvec(pair[1]) - pair[0] * pair[1]), (values, vectors)
    )
    return Eigenvalues(values, residuals)


def _hessian(loss_fn: Callable[[Params], jax.Array], params: Params) -> Callable[[Params], Params]:
    # Linearised once, however often it is applied.
    _, pullback = jax.vjp(jax.grad(loss_fn), params)
    return lambda vector: pullback(vector)[0]


def _ritz_pairs(
    basis: jax.Array, diagonal: jax.Array, lengths: jax.Array, *, k: int
) -> tuple[jax.Array, jax.Array]:
    """The k largest eigenvalues of T and their Ritz vectors.

    When the Krylov space is exhausted (few distinct eigenvalues, a zero Hessian), the next
    residual is rounding or exactly zero, and the iteration goes on with noise or nan. T is cut off
    there: the dead rows get eigenvalues below all others, and what is missing is nan.

    Args:
      basis: (m, d), the Lanczos vectors Q.
      diagonal: (m,), the diagonal of T.
      lengths: (m - 1,), its side diagonals: the lengths of the residuals.
      k: number of eigenvalues, at most m.

    Returns:
      The values (k,), descending, and the vectors (k, d).
    """
    scale = jnp.nanmax(jnp.abs(jnp.append(diagonal, lengths)), initial=0.0)
    goes_on = lengths > 10 * jnp.finfo(basis.dtype).eps * scale
    alive = jnp.cumprod(jnp.append(jnp.isfinite(diagonal[0]), goes_on)).astype(bool)
    # Where alive holds, so does everything before it.
    inner = jnp.where(alive, diagonal, 0.0)
    outer = jnp.where(alive[1:], lengths, 0.0)
    below = -2.0 * (jnp.max(jnp.abs(inner)) + 2 * jnp.max(outer, initial=0.0))  # Gershgorin
    tridiagonal = (
        jnp.diag(jnp.where(alive, inner, below)) + jnp.diag(outer, 1) + jnp.diag(outer, -1)
    )
    values, vectors = jnp.linalg.eigh(tridiagonal)  # ascending
    ritz = vectors.T @ jnp.where(alive[:, None], basis, 0.0)
    found = jnp.arange(k) < jnp.sum(alive)
    return jnp.where(found, values[::-1][:k], jnp.nan), ritz[::-1][:k]
