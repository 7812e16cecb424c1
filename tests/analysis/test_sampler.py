"""Samples of the tilted methods against known tilted laws: the argument of the paper's Figure 5."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tsam_jax import methods, noise, value_and_grad
from tsam_jax.analysis import gradient_quality, reference_gradient, sample_diagnostics

SCALES = jnp.array([0.5, 1.0, 2.0])
THETA = jnp.array([1.0, -1.0, 0.5])


def quadratic(x):
    return 0.5 * jnp.sum(SCALES * x**2)


def test_brute_force_finds_the_tilted_gradient_of_a_quadratic_under_gaussian_noise():
    # the tilted law is normal, of precision 1 / sigma^2 - t A and mean t A theta over it
    sigma, t = 0.4, 1.0
    exact = SCALES * (THETA + t * SCALES * THETA / (1 / sigma**2 - t * SCALES))
    reference = jax.jit(
        lambda key: reference_gradient(
            quadratic, THETA, key, t=t, noise=noise.gaussian(rms=sigma), num_samples=2000
        )
    )(jax.random.key(0))
    assert jnp.linalg.norm(reference.grad - exact) < 3 * reference.standard_error
    assert reference.standard_error < 0.05
    assert jnp.linalg.norm(SCALES * THETA - exact) > 0.5  # the untilted gradient

    def moment(t):
        shrunk = 1 - t * sigma**2 * SCALES
        return jnp.prod(shrunk**-0.5) * jnp.exp(jnp.sum(t * SCALES * THETA**2 / 2 / shrunk))

    expected = 16_000 * moment(t) ** 2 / moment(2 * t)
    np.testing.assert_allclose(reference.effective_sample_size, expected, rtol=0.2)


def test_at_tilt_zero_all_draws_of_the_reference_count():
    reference = reference_gradient(
        quadratic, THETA, jax.random.key(0),
        t=0.0, noise=noise.sphere(radius=1.0), num_samples=10, num_groups=3,
    )  # fmt: skip
    np.testing.assert_allclose(reference.effective_sample_size, 30.0, rtol=1e-5)


def test_bias_and_variance_of_a_single_sample_are_known():
    # g = A (theta + eps): one sample has no tilt
    sigma, target = 0.4, jnp.array([1.0, 0.0, 2.0])
    estimator = methods.tilted_sampling(5.0, 1, noise=noise.gaussian(rms=sigma))
    quality = jax.jit(
        lambda key: gradient_quality(
            estimator, quadratic, THETA, key, reference=target, num_repeats=4000
        )._replace(gradients=0)
    )(jax.random.key(1))
    squares = target @ target
    bias = jnp.sum((SCALES * THETA - target) ** 2) / squares
    variance = sigma**2 * jnp.sum(SCALES**2) / squares
    np.testing.assert_allclose(quality.variance, variance, rtol=0.06)
    assert abs(quality.squared_bias.value - bias) < 4 * quality.squared_bias.standard_error
    # the error of ||mean - target||^2, to first order in the noise of the mean
    error = 2 * sigma * jnp.linalg.norm(SCALES * (SCALES * THETA - target)) / squares / 4000**0.5
    np.testing.assert_allclose(quality.squared_bias.standard_error, error, rtol=0.05)
    total = quality.squared_bias.value + quality.variance
    np.testing.assert_allclose(quality.squared_error.value, total, rtol=1e-4)
    np.testing.assert_allclose(quality.diagnostics.effective_sample_size, 1.0)


def test_the_squared_bias_of_an_unbiased_method_is_zero_within_its_error():
    estimator = methods.tilted_sampling(0.0, 1, noise=noise.gaussian(rms=0.4))

    def bias(key):
        return gradient_quality(
            estimator, quadratic, THETA, key, reference=SCALES * THETA, num_repeats=20
        ).squared_bias

    found = jax.jit(jax.vmap(bias))(jax.random.split(jax.random.key(2), 400))
    spread = np.std(found.value)
    assert abs(np.mean(found.value)) < 4 * spread / 20
    assert 0.8 * spread < np.sqrt(np.mean(found.standard_error**2)) < 3 * spread


DIMENSION, RADIUS, TILT = 10, 1.0, 4.0


def along_one_axis(x):
    """A loss of one coordinate, so that any law of it is an integral in one dimension."""
    u = x[0] + 0.3
    return 2 * jnp.sin(2 * u) + u**2


@functools.cache
def exact_gradient():
    """Uniform in a ball: the density of a coordinate is (1 - u^2)^((d - 1) / 2)."""
    nodes, weights = np.polynomial.legendre.leggauss(200)
    points = jnp.zeros((200, DIMENSION)).at[:, 0].set(RADIUS * nodes)
    losses, grads = jax.vmap(jax.value_and_grad(along_one_axis))(points)
    density = weights * (1 - nodes**2) ** ((DIMENSION - 1) / 2) * np.exp(TILT * (losses - 3))
    return jnp.asarray(density @ np.asarray(grads) / density.sum(), jnp.float32)


def quality_of(estimator, repeats=500):
    exact = exact_gradient()
    found = jax.jit(
        lambda key: gradient_quality(
            estimator,
            along_one_axis,
            jnp.zeros(DIMENSION),
            key,
            reference=exact,
            num_repeats=repeats,
        )._replace(gradients=0)
    )(jax.random.key(1))
    return found._replace(gradients=estimator.cost.gradients)


def naive(s):
    law = noise.ball(radius=RADIUS)
    return methods.tilted_sampling(TILT, s, noise=law, strategy="vectorized")


def tsam(s):
    # noise and ascent add up to the radius of the ball
    law = noise.ball(radius=RADIUS / 2)
    return methods.tsam(TILT, RADIUS / 2, s, noise=law, strategy="vectorized")


def hmc(s, **options):
    return methods.tsam_hmc(TILT, s, radius=RADIUS, beta=0.15, strategy="vectorized", **options)


def test_with_few_samples_the_ascent_finds_what_naive_sampling_misses():
    few, ascended = quality_of(naive(6)), quality_of(tsam(3))
    assert few.gradients == ascended.gradients == 6
    assert ascended.squared_error.value < 0.5 * few.squared_error.value
    # of six naive draws fewer than two count
    assert few.diagnostics.effective_sample_size.mean() < 2


@pytest.mark.slow
def test_with_many_samples_only_naive_sampling_is_without_bias():
    many, ascended = quality_of(naive(72)), quality_of(tsam(36))
    assert many.gradients == ascended.gradients == 72
    assert many.squared_bias.value < 0.005
    assert ascended.squared_bias.value > 0.1 > 10 * ascended.squared_bias.standard_error
    assert many.squared_error.value < ascended.squared_error.value


@pytest.mark.slow
def test_one_proposal_of_hamiltonian_monte_carlo_costs_more_than_it_gains():
    few, chains = quality_of(naive(6)), quality_of(hmc(3))
    assert few.gradients == chains.gradients == 6
    assert chains.squared_error.value > few.squared_error.value
    assert 0.2 < chains.diagnostics.acceptance.mean() < 0.8


@pytest.mark.slow
def test_many_proposals_take_the_bias_of_few_samples_away():
    one, many = quality_of(hmc(3, delta=1.0)), quality_of(hmc(3, delta=1.0, proposals=20))
    assert many.squared_bias.value < 0.2 * one.squared_bias.value
    np.testing.assert_allclose(many.diagnostics.effective_sample_size, 3.0, rtol=1e-5)


def test_diagnostics_of_a_run_have_its_steps():
    function = value_and_grad(quadratic, methods.tsam_hmc(3.0, 4, radius=0.5, beta=0.1))

    @jax.jit
    def run(x):
        def step(carry, _):
            x, state = carry
            (_, grad), state = function(x, state)
            return (x - 0.1 * grad, state), state.last.metrics

        return jax.lax.scan(step, (x, function.init(x)), length=5)[1]

    metrics = run(THETA)
    seen = sample_diagnostics(metrics)
    assert {field.shape for field in seen} == {(5,)}
    w = np.asarray(metrics["weights"])
    np.testing.assert_allclose(seen.effective_sample_size, 1 / np.sum(w**2, axis=1), rtol=1e-5)
    np.testing.assert_allclose(seen.largest_weight, w.max(axis=1))
    np.testing.assert_allclose(seen.loss_spread, np.ptp(metrics["losses"], axis=1), rtol=1e-5)
    mean = np.mean(metrics["acceptance"], axis=1)  # in float32, and in another order: some 2^-24
    np.testing.assert_allclose(seen.acceptance, mean, rtol=1e-6)
    np.testing.assert_allclose(seen.effective_sample_size, metrics["effective_sample_size"], 1e-5)


def test_a_sample_without_a_finite_loss_does_not_widen_the_spread():
    _, metrics = methods.tilted_sampling(1.0, 3).init(jnp.ones(2))
    metrics |= {"losses": jnp.array([1.0, jnp.nan, 3.5])}
    assert sample_diagnostics(metrics).loss_spread == 2.5
    assert np.isnan(sample_diagnostics(metrics).acceptance)


def test_metrics_without_samples_are_an_error():
    function = value_and_grad(quadratic, methods.sam(0.1))
    state = function.init(THETA)
    with pytest.raises(TypeError, match=r"`sample_diagnostics\(metrics\)`.*those of \['loss'\]"):
        sample_diagnostics(state.last.metrics)
    with pytest.raises(
        TypeError, match=r"(?s)`sample_diagnostics\(metrics\)`.*Estimator.*last.metrics"
    ):
        sample_diagnostics(state)


def test_a_method_without_samples_and_of_unknown_cost_has_no_numbers_of_them():
    estimator = methods.sam(0.1)._replace(cost=None)
    quality = gradient_quality(
        estimator, quadratic, THETA, jax.random.key(0), reference=SCALES * THETA, num_repeats=2
    )
    assert quality.diagnostics is None
    assert np.isnan(quality.gradients)
