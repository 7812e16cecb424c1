"""Trace of the Hessian, and density of its eigenvalues.

Glossary: H, the Hessian of the loss at theta, with eigenvalues lambda_1..lambda_d; z, a random
vector with independent entries of mean 0 and variance 1; m, the number of Lanczos steps.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tsam_jax import _checks, _tree
from tsam_jax._checks import Params, Scalar
from tsam_jax.analysis.curvature import lanczos, lanczos_depth
from tsam_jax.analysis.products import flat_hessian_of
from tsam_jax.analysis.sharpness import Estimate, mean_estimate


class HessianTrace(NamedTuple):
    """Traces of the Hessian and of its square.

    Attributes:
      trace: `Estimate` of tr H, the sum of the eigenvalues.
      squared: `Estimate` of tr H^2, the sum of their squares.
    """

    trace: Estimate
    squared: Estimate


class Spectrum(NamedTuple):
    """Quadratures of the spectral measure of the Hessian, one per probe.

    For a function f, the sum of weights * f(nodes) over the second axis is an unbiased estimate of
    the mean of f over the eigenvalues, up to the quadrature error (0 for polynomials of degree
    2 m - 1).

    Attributes:
      nodes: (probes, m), float32 or wider, in the unit of the eigenvalues.
      weights: (probes, m), non-negative, summing to 1 over the second axis.
    """

    nodes: jax.Array
    weights: jax.Array


def hessian_trace(
    loss_fn: Callable[[Params], jax.Array],
    params: Params,
    key: jax.Array,
    /,
    *,
    num_probes: int = 64,
) -> HessianTrace:
    r"""Trace of the Hessian and of its square, by random probes.

    $\mathrm{tr} H = E[z^\top H z], \quad \mathrm{tr} H^2 = E \lVert H z \rVert^2$, with random
    signs z. Under Gaussian noise of small standard deviation $\sigma$ per coordinate, the loss at a
    minimum rises by $\sigma^2 \mathrm{tr} H / 2$ on average and has variance $\sigma^4
    \mathrm{tr} H^2 / 2$. `neighbourhood_loss` measures both for noise of any size.

    Args:
      loss_fn: `params -> scalar`, twice differentiable by reverse mode.
      params: theta, any pytree of floating-point arrays.
      key: random key of the probes.
      num_probes: number of probes, a positive static int; at least 2 for a standard error.

    Returns:
      A `HessianTrace`. Costs `num_probes` Hessian-vector products, one after the other, in the
      memory of one.

    Raises:
      ValueError: if `num_probes` is less than 1.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from tsam_jax.analysis import hessian_trace
      >>> scales = jnp.array([1.0, 2.0, -4.0])
      >>> loss = lambda x: 0.5 * jnp.sum(scales * x**2)
      >>> traces = hessian_trace(loss, jnp.ones(3), jax.random.key(0), num_probes=2)
      >>> float(traces.trace.value), float(traces.squared.value)
      (-1.0, 21.0)

    References:
      Hutchinson, "A stochastic estimator of the trace of the influence matrix for Laplacian
      smoothing splines", Communications in Statistics 18(3), 1989.
    """
    _checks.positive_int("hessian_trace", num_probes=num_probes)
    matvec, flat, _ = flat_hessian_of(loss_fn, params)

    # a loop in the memory of one product; matfree's estimator is a vmap over all probes
    def probe(probe_key: jax.Array) -> tuple[jax.Array, jax.Array]:
        z = jax.random.rademacher(probe_key, flat.shape, flat.dtype)
        product = matvec(z)
        return _tree.inner(z, product), _tree.inner(product, product)

    first, second = jax.lax.map(probe, jax.random.split(key, num_probes))
    return HessianTrace(mean_estimate(first), mean_estimate(second))


def spectral_density(
    loss_fn: Callable[[Params], jax.Array],
    params: Params,
    key: jax.Array,
    /,
    *,
    num_probes: int = 8,
    num_matvecs: int | None = None,
) -> Spectrum:
    r"""Eigenvalue distribution of the Hessian, by stochastic Lanczos quadrature.

    The spectral measure $\frac1d \sum_i \delta(\lambda - \lambda_i)$ is the mean over random unit
    vectors v of $\sum_i \langle v, q_i \rangle^2 \delta(\lambda - \lambda_i)$. For each v, m steps
    of Lanczos' iteration give a Gauss quadrature: the nodes are the eigenvalues of the tridiagonal
    matrix, the weights are the squared first entries of its eigenvectors.

    Args:
      loss_fn: `params -> scalar`, twice differentiable by reverse mode.
      params: theta, any pytree of floating-point arrays with d entries in total.
      key: random key of the probes.
      num_probes: number of probes, a positive static int.
      num_matvecs: Lanczos steps m per probe, 1 <= m <= d, a static int. Default: the smaller of 40
        and d. Memory: m vectors of d numbers.

    Returns:
      A `Spectrum`; for a curve, use `smoothed_density`. Costs num_probes * m Hessian-vector
      products.

    Raises:
      ValueError: if `num_probes` is less than 1, or `num_matvecs` is not in 1..d.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from tsam_jax.analysis import spectral_density
      >>> loss = lambda x: 0.5 * (3 * x[0] ** 2 - x[1] ** 2)
      >>> spectrum = spectral_density(loss, jnp.ones(2), jax.random.key(0), num_probes=1)
      >>> [round(float(node), 3) for node in spectrum.nodes[0]]
      [-1.0, 3.0]

    References:
      Ghorbani, Krishnan, Xiao, "An Investigation into Neural Net Optimization via Hessian
      Eigenvalue Density", ICML 2019, Algorithm 1. Lin, Saad, Yang, "Approximating spectral
      densities of large matrices", SIAM Review 58(1), 2016.
    """
    _checks.positive_int("spectral_density", num_probes=num_probes)
    depth = lanczos_depth("spectral_density", num_matvecs, _tree.size(params))
    matvec, flat, _ = flat_hessian_of(loss_fn, params)

    def probe(probe_key: jax.Array) -> Spectrum:
        start = jax.random.normal(probe_key, flat.shape, flat.dtype)
        _, tridiagonal, count = lanczos(matvec, start, depth)
        values, vectors = jnp.linalg.eigh(tridiagonal)
        # truncated rows have the lowest values: set their weights to 0 and move their nodes
        used = jnp.arange(depth) >= depth - count
        weights = jnp.where(used, jnp.square(vectors[0]), 0.0)
        weights = jnp.where(count > 0, weights / jnp.sum(weights), jnp.nan)
        nodes = jnp.where(used, values, values[-1])
        return Spectrum(jnp.where(count > 0, nodes, jnp.nan), weights)

    spectrum: Spectrum = jax.lax.map(probe, jax.random.split(key, num_probes))
    return spectrum


def smoothed_density(spectrum: Spectrum, points: jax.Array, width: Scalar, /) -> Estimate:
    r"""Density of the eigenvalues at given points, smoothed by a Gaussian.

    $\phi(x) = \sum_i w_i N(x; \lambda_i, \sigma^2)$, averaged over the probes.

    Args:
      spectrum: from `spectral_density`.
      points: shape (k,), in the unit of the eigenvalues.
      width: standard deviation sigma of the Gaussian, > 0, in the same unit. It should exceed the
        distance between nodes: try a hundredth of their range, or more if all nodes are equal, as
        for a zero Hessian.

    Returns:
      An `Estimate` of two arrays (k,), with the standard error over probes. It integrates to 1.

    Raises:
      ValueError: if `width` is not positive and finite, unless it is traced.

    Example:
      >>> import jax.numpy as jnp
      >>> from tsam_jax.analysis import Spectrum, smoothed_density
      >>> spectrum = Spectrum(jnp.array([[0.0, 9.0]]), jnp.array([[0.5, 0.5]]))
      >>> round(float(smoothed_density(spectrum, jnp.array([0.0]), 1.0).value[0]), 4)
      0.1995

    Source: Ghorbani et al. 2019, Eq. 5.
    """
    known = _checks.known(width)
    if known is not None and not 0 < known < jnp.inf:
        msg = f"`smoothed_density(width)` must be a finite number > 0, got {known}."
        raise ValueError(msg)
    bumps = jax.scipy.stats.norm.pdf(points[:, None, None], spectrum.nodes, width)
    return mean_estimate(jnp.sum(spectrum.weights * bumps, axis=-1).T)
