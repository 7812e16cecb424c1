"""Traces, spectral densities and Gauss-Newton products, against dense matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.stats import norm

from tsam_jax.analysis import (
    Spectrum,
    gauss_newton_loss,
    gauss_newton_product,
    hessian_trace,
    hvp,
    neighbourhood_loss,
    smoothed_density,
    spectral_density,
    top_eigenpairs,
    top_eigenvalues,
)
from tsam_jax.noise import gaussian

KEY = jax.random.key(0)
INPUTS = jax.random.normal(jax.random.key(1), (20, 3))
LABELS = jax.random.randint(jax.random.key(2), (20,), 0, 3)
PARAMS = {
    "w": jax.random.normal(jax.random.key(3), (3, 4)),
    "v": jax.random.normal(jax.random.key(4), (4, 3)),
}


def logits(params):
    return jnp.tanh(INPUTS @ params["w"]) @ params["v"]


def cross_entropy(outputs):
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(outputs), LABELS[:, None], axis=1))


def loss(params):
    return cross_entropy(logits(params))


FLAT, UNRAVEL = ravel_pytree(PARAMS)
HESSIAN = np.asarray(jax.jit(jax.hessian(lambda x: loss(UNRAVEL(x))))(FLAT), np.float64)
EIGENVALUES = np.linalg.eigvalsh(HESSIAN)


def gauss_newton():
    jacobian = jax.jit(jax.jacobian(lambda x: logits(UNRAVEL(x)).ravel()))(FLAT)
    outputs = logits(PARAMS)
    of_outputs = lambda y: cross_entropy(y.reshape(outputs.shape))  # noqa: E731
    inner = jax.jit(jax.hessian(of_outputs))(outputs.ravel())
    jacobian, inner = (np.asarray(x, np.float64) for x in (jacobian, inner))
    return jacobian.T @ inner @ jacobian


def test_gauss_newton_product_is_the_dense_product():
    vector = UNRAVEL(jnp.cos(jnp.arange(24.0)))
    product = gauss_newton_product(logits, cross_entropy, PARAMS, vector)
    expected = gauss_newton() @ ravel_pytree(vector)[0]
    np.testing.assert_allclose(ravel_pytree(product)[0], expected, atol=1e-5)
    assert np.abs(expected - HESSIAN @ ravel_pytree(vector)[0]).max() > 0.1  # another matrix


def test_the_linearised_loss_has_the_value_and_the_gradient_of_the_loss():
    linearised = gauss_newton_loss(logits, cross_entropy, PARAMS)
    np.testing.assert_allclose(linearised(PARAMS), loss(PARAMS), rtol=1e-6)
    ours, theirs = (ravel_pytree(jax.grad(f)(PARAMS))[0] for f in (linearised, loss))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_every_measure_of_the_hessian_is_one_of_the_gauss_newton_matrix():
    linearised = gauss_newton_loss(logits, cross_entropy, PARAMS)
    top = top_eigenvalues(linearised, PARAMS, KEY, k=2)
    exact = np.linalg.eigvalsh(gauss_newton())[::-1]
    np.testing.assert_allclose(top.values, exact[:2], rtol=1e-4)


def test_gauss_newton_goes_through_a_custom_vjp():
    @jax.custom_vjp
    def square(x):
        return x**2

    square.defvjp(lambda x: (x**2, x), lambda x, g: (2 * x * g,))
    half_squares = lambda y: 0.5 * jnp.sum(y**2)  # noqa: E731
    product = gauss_newton_product(square, half_squares, jnp.array([3.0]), jnp.array([1.0]))
    np.testing.assert_allclose(product, [36.0])


def test_eigenvectors_are_those_of_the_dense_hessian():
    values, vectors = np.linalg.eigh(HESSIAN)
    top = top_eigenpairs(loss, PARAMS, KEY, k=3)
    np.testing.assert_allclose(top.values, values[::-1][:3], rtol=1e-4)
    found = np.stack([
        ravel_pytree(jax.tree.map(lambda x, i=i: x[i], top.vectors))[0] for i in range(3)
    ])
    np.testing.assert_allclose(np.abs(found @ vectors[:, ::-1][:, :3]), np.eye(3), atol=1e-3)
    product = ravel_pytree(hvp(loss, PARAMS, UNRAVEL(jnp.asarray(found[0]))))[0]
    np.testing.assert_allclose(product, values[-1] * found[0], atol=1e-3)


@pytest.mark.parametrize("seed", [0, 1])
def test_traces_are_within_their_errors_of_the_dense_ones(seed):
    traces = hessian_trace(loss, PARAMS, jax.random.key(seed), num_probes=500)
    for estimate, exact in (
        (traces.trace, EIGENVALUES.sum()),
        (traces.squared, EIGENVALUES @ EIGENVALUES),
    ):
        assert abs(estimate.value - exact) < 4 * estimate.standard_error
        assert 0 < estimate.standard_error < 0.1 * exact
    # the variance of Hutchinson's estimator with signs: twice the squares off the diagonal
    off_diagonal = HESSIAN - np.diag(np.diag(HESSIAN))
    expected = np.sqrt(2 * np.sum(off_diagonal**2) / 500)
    np.testing.assert_allclose(traces.trace.standard_error, expected, rtol=0.2)


def test_traces_say_what_small_noise_does_at_a_minimum():
    scales = jnp.array([1.0, 3.0, 6.0])
    bowl = lambda x: 0.5 * jnp.sum(scales * x**2)  # noqa: E731
    traces = hessian_trace(bowl, jnp.zeros(3), KEY, num_probes=2)
    around = neighbourhood_loss(bowl, jnp.zeros(3), KEY, noise=gaussian(rms=0.1), num_samples=4000)
    rise, variance = 0.1**2 * traces.trace.value / 2, 0.1**4 * traces.squared.value / 2
    assert abs(around.mean - rise) < 4 * around.standard_error
    assert abs(around.variance - variance) < 4 * around.variance_standard_error


def test_quadrature_has_the_moments_of_the_spectrum():
    spectrum = spectral_density(loss, PARAMS, KEY, num_probes=200, num_matvecs=10)
    np.testing.assert_allclose(np.sum(spectrum.weights, axis=1), 1.0, rtol=1e-5)
    for power in (1, 2, 3):
        draws = np.sum(spectrum.weights * spectrum.nodes**power, axis=1)
        error = draws.std(ddof=1) / np.sqrt(200)
        assert abs(draws.mean() - np.mean(EIGENVALUES**power)) < 4 * error


def test_the_density_is_that_of_the_eigenvalues():
    width = 0.3
    points = np.linspace(EIGENVALUES[0] - 1, EIGENVALUES[-1] + 1, 200)
    exact = norm.pdf(points[:, None], EIGENVALUES, width).mean(axis=1)
    spectrum = spectral_density(loss, PARAMS, KEY, num_probes=100, num_matvecs=24)
    density = smoothed_density(spectrum, jnp.asarray(points), width)
    step = points[1] - points[0]
    np.testing.assert_allclose(np.sum(density.value) * step, 1.0, atol=0.01)
    assert np.sum(np.abs(density.value - exact)) * step < 0.15
    assert np.mean(np.abs(density.value - exact) < 3 * density.standard_error + 1e-3) > 0.9


def test_probes_that_are_exhausted_early_have_the_whole_weight():
    scales = jnp.array([2.0, 2.0, 2.0, 5.0])
    bowl = lambda x: 0.5 * jnp.sum(scales * x**2)  # noqa: E731
    spectrum = spectral_density(bowl, jnp.zeros(4), KEY, num_probes=50)
    np.testing.assert_allclose(np.sum(spectrum.weights, axis=1), 1.0, rtol=1e-5)
    of_five = np.sum(np.where(np.abs(spectrum.nodes - 5) < 1e-3, spectrum.weights, 0), axis=1)
    of_two = np.sum(np.where(np.abs(spectrum.nodes - 2) < 1e-3, spectrum.weights, 0), axis=1)
    np.testing.assert_allclose(of_five + of_two, 1.0, rtol=1e-4)
    assert abs(of_five.mean() - 0.25) < 4 * of_five.std(ddof=1) / np.sqrt(50)


@pytest.mark.parametrize("power", [0, 1, 4])
def test_a_zero_hessian_has_all_eigenvalues_at_zero(power):
    flat = lambda x: jnp.sum(x**power)  # noqa: E731
    spectrum = spectral_density(flat, jnp.zeros(5), KEY, num_probes=3)
    np.testing.assert_array_equal(spectrum.nodes, 0.0)
    np.testing.assert_array_equal(np.sum(spectrum.weights, axis=1), 1.0)
    density = smoothed_density(spectrum, jnp.array([0.0, 1.0]), 0.1)
    np.testing.assert_allclose(density.value, norm.pdf([0.0, 1.0], 0.0, 0.1), rtol=1e-5)
    np.testing.assert_array_equal(density.standard_error, 0.0)
    [vector] = top_eigenpairs(flat, jnp.zeros(5), KEY, k=1).vectors
    np.testing.assert_allclose(np.linalg.norm(vector), 1.0, rtol=1e-5)


def test_a_hessian_that_is_not_finite_has_no_spectrum():
    spectrum = spectral_density(lambda x: jnp.nan * jnp.sum(x**2), jnp.ones(4), KEY)
    assert all(np.isnan(x).all() for x in (*spectrum, *smoothed_density(spectrum, jnp.ones(1), 1)))


def test_out_of_range_arguments_are_errors():
    with pytest.raises(ValueError, match=r"`hessian_trace\(num_probes=...\)`.*got 0"):
        hessian_trace(loss, PARAMS, KEY, num_probes=0)
    with pytest.raises(ValueError, match=r"`spectral_density\(num_matvecs=...\)`.*24, got 25"):
        spectral_density(loss, PARAMS, KEY, num_matvecs=25)
    for width in (0.0, jnp.zeros(()), jnp.inf, jnp.nan):
        with pytest.raises(ValueError, match=r"`smoothed_density\(width\)`.*got (0|inf|nan)"):
            smoothed_density(Spectrum(jnp.zeros((1, 1)), jnp.ones((1, 1))), jnp.zeros(1), width)
