"""Largest eigenvalues of the Hessian, and their eigenvectors.

Glossary: H, the Hessian of the loss at theta; d, the number of parameters; m, the number of
Hessian-vector products; Q, the orthonormal Lanczos basis (m, d); T = Q H Q^T, tridiagonal (m, m).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tsam_jax import _checks, _tree
from tsam_jax._checks import Params
from tsam_jax.analysis.products import flat_hessian_of

with _checks.extra("tsam_jax.analysis", "train"):
    from matfree import decomp

_DEFAULT_NUM_MATVECS = 40


class Eigenvalues(NamedTuple):
    """Approximate eigenvalues of the Hessian, with their errors.

    Attributes:
      values: (k,), float32 or wider: algebraically largest Ritz values, descending.
      residuals: (k,): |H v - value v| for the unit Ritz vectors v, in the unit of the eigenvalues.
        An exact eigenvalue lies within this distance of the value.
    """

    values: jax.Array
    residuals: jax.Array


class Eigenpairs(NamedTuple):
    """Approximate eigenvalues of the Hessian with their eigenvectors.

    Attributes:
      values: (k,), as in `Eigenvalues`.
      residuals: (k,), as in `Eigenvalues`.
      vectors: pytree like the parameters, with a leading axis over k: unit vectors over all leaves
        together, mutually orthogonal, with arbitrary sign; 0 where a value is missing.
    """

    values: jax.Array
    residuals: jax.Array
    vectors: Params


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
    sharpness in Section 5.2 of [1], where k = 5. They are the eigenvalues of T after Lanczos'
    iteration from a random vector, with full re-orthogonalisation as in matfree (without it, copies
    of converged eigenvalues appear).

    Check the residuals: if the residual of a value is not small relative to it, the value has not
    converged; increase `num_matvecs`. Ritz values approach the eigenvalues from below. Equal
    eigenvalues are found once. If the Krylov space is exhausted before k values are found, the
    missing values are nan.

    Args:
      loss_fn: `params -> scalar`, twice differentiable by reverse mode.
      params: theta, any pytree of floating-point arrays with d entries in total.
      key: random key for the first Lanczos vector.
      k: number of eigenvalues, 1 <= k <= `num_matvecs`, a static int.
      num_matvecs: number m of Lanczos steps, 1 <= m <= d, a static int. Default: the smaller of 40
        and d. Memory: m vectors like `params` in float32 or wider, and one Hessian-vector product.

    Returns:
      `Eigenvalues(values, residuals)`, each of shape (k,). Costs m + k Hessian-vector products of
      about two gradient evaluations each: the gradient is linearised once.

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
    values, residuals, _ = _eigenpairs("top_eigenvalues", loss_fn, params, key, k, num_matvecs)
    return Eigenvalues(values, residuals)


def top_eigenpairs(
    loss_fn: Callable[[Params], jax.Array],
    params: Params,
    key: jax.Array,
    /,
    *,
    k: int = 1,
    num_matvecs: int | None = None,
) -> Eigenpairs:
    """Largest eigenvalues of the Hessian of the loss, with their eigenvectors.

    Like `top_eigenvalues`, with the directions, for slices of the loss along them
    (`loss_on_line`, `loss_on_plane`).

    Args:
      loss_fn: `params -> scalar`, twice differentiable by reverse mode.
      params: theta, any pytree of floating-point arrays with d entries in total.
      key: random key for the first Lanczos vector.
      k: number of eigenpairs, 1 <= k <= `num_matvecs`, a static int.
      num_matvecs: as for `top_eigenvalues`.

    Returns:
      `Eigenpairs(values, residuals, vectors)`. Costs as much as `top_eigenvalues`, and the memory
      of k vectors.

    Raises:
      ValueError: if `num_matvecs` is not in 1..d, or `k` not in 1..num_matvecs.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from tsam_jax.analysis import top_eigenpairs
      >>> scales = jnp.array([1.0, 2.0, 5.0, -9.0])
      >>> loss = lambda p: 0.5 * jnp.sum(scales * p["x"] ** 2)
      >>> top = top_eigenpairs(loss, {"x": jnp.ones(4)}, jax.random.key(0))
      >>> [round(abs(float(x)), 3) for x in top.vectors["x"][0]]
      [0.0, 0.0, 1.0, 0.0]

    References:
      As for `top_eigenvalues`.
    """
    values, residuals, flat_vectors = _eigenpairs(
        "top_eigenpairs", loss_fn, params, key, k, num_matvecs
    )
    _, _, unravel = flat_hessian_of(loss_fn, params)
    return Eigenpairs(values, residuals, jax.vmap(unravel)(flat_vectors))


def _eigenpairs(
    owner: str,
    loss_fn: Callable[[Params], jax.Array],
    params: Params,
    key: jax.Array,
    k: int,
    num_matvecs: int | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Values (k,), residuals (k,) and flat vectors (k, d)."""
    depth = lanczos_depth(owner, num_matvecs, _tree.size(params))
    if not 1 <= k <= depth:
        msg = (
            f"`{owner}(k=...)` must lie between 1 and the number of Hessian-vector "
            f"products, num_matvecs={depth}, got {k}."
        )
        raise ValueError(msg)
    matvec, flat, _ = flat_hessian_of(loss_fn, params)
    start = jax.random.normal(key, flat.shape, flat.dtype)
    basis, tridiagonal, count = lanczos(matvec, start, depth)
    with jax.default_matmul_precision("highest"):
        eigenvalues, eigenvectors = jnp.linalg.eigh(tridiagonal)  # ascending
        ritz = (eigenvectors.T @ basis)[::-1][:k]
    found = jnp.arange(k) < count
    values = jnp.where(found, eigenvalues[::-1][:k], jnp.nan)
    with jax.default_matmul_precision("highest"):
        residuals = jax.lax.map(
            lambda pair: jnp.linalg.norm(matvec(pair[1]) - pair[0] * pair[1]), (values, ritz)
        )
    return values, residuals, ritz


def lanczos_depth(owner: str, num_matvecs: int | None, dimension: int) -> int:
    """Return the number of Lanczos steps: the checked `num_matvecs`, or its default."""
    depth = min(_DEFAULT_NUM_MATVECS, dimension) if num_matvecs is None else num_matvecs
    if not 1 <= depth <= dimension:
        msg = (
            f"`{owner}(num_matvecs=...)` must lie between 1 and the number of parameters, "
            f"{dimension}, got {depth}."
        )
        raise ValueError(msg)
    return depth


def lanczos(
    matvec: Callable[[jax.Array], jax.Array], start: jax.Array, depth: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Lanczos' iteration with full re-orthogonalisation, truncated when exhausted.

    If the Krylov space is exhausted (few distinct eigenvalues, a zero Hessian), the next residual
    is rounding error or exactly zero, and the iteration continues with noise or nan. These rows of
    the basis are set to 0, and their eigenvalues lie below all others.

    Args:
      matvec: v -> H v on vectors of shape (d,).
      start: first vector, shape (d,).
      depth: number of steps m, at most d.

    Returns:
      The basis Q (m, d), the tridiagonal T (m, m), and the number of valid rows, shape ().
    """
    # Reduced-precision products (the default for float32 on some accelerators) would destroy the
    # orthogonality of the basis. The loss was traced before, at the caller's precision.
    with jax.default_matmul_precision("highest"):
        # Lanczos with full re-orthogonalisation is Arnoldi. matfree's `tridiag_sym` does not return
        # the lengths that reveal an exhausted Krylov space.
        basis, upper, *_ = decomp.hessenberg(depth, reortho="full")(matvec, start)
    diagonal, lengths = upper.diagonal(), upper.diagonal(-1)
    scale = jnp.nanmax(jnp.abs(jnp.append(diagonal, lengths)), initial=0.0)
    goes_on = lengths > 10 * jnp.finfo(basis.dtype).eps * scale
    alive = jnp.cumprod(jnp.append(jnp.isfinite(diagonal[0]), goes_on)).astype(bool)
    # A row is valid only if all rows before it are.
    inner = jnp.where(alive, diagonal, 0.0)
    outer = jnp.where(alive[1:], lengths, 0.0)
    bound = jnp.max(jnp.abs(inner)) + 2 * jnp.max(outer, initial=0.0)  # Gershgorin
    below = jnp.where(bound > jnp.finfo(bound.dtype).tiny, -2.0 * bound, -1.0)
    tridiagonal = (
        jnp.diag(jnp.where(alive, inner, below)) + jnp.diag(outer, 1) + jnp.diag(outer, -1)
    )
    return jnp.where(alive[:, None], basis, 0.0), tridiagonal, jnp.sum(alive)
