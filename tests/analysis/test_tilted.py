"""Tilted statistics, by enumeration and by derivatives in the tilt; the table of objectives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tsam_jax import noise
from tsam_jax.analysis import (
    cross_objective_table,
    neighbourhood_loss,
    objectives,
    t_sharpness,
    tilted_statistics,
)

LOSSES = np.array([0.3, 1.0, 1.4, 0.2, 2.5])


def enumerated(losses, t):
    e = np.exp(t * losses)
    mean = np.mean(e * losses) / np.mean(e)
    return np.log(np.mean(e)) / t, mean, np.mean(e * losses**2) / np.mean(e) - mean**2


@pytest.mark.parametrize("t", [0.1, 1.0, 5.0])
def test_statistics_are_those_of_the_definitions(t):
    stats = tilted_statistics(jnp.asarray(LOSSES), t)
    np.testing.assert_allclose(stats[:3], enumerated(LOSSES, t), rtol=1e-5)


def test_at_tilt_zero_they_are_mean_and_variance_with_the_errors_of_a_mean():
    stats = tilted_statistics(jnp.asarray(LOSSES), 0.0)
    np.testing.assert_allclose(stats[:3], [LOSSES.mean(), LOSSES.mean(), LOSSES.var()], rtol=1e-6)
    of_the_mean = LOSSES.std(ddof=1) / np.sqrt(5)
    np.testing.assert_allclose(stats.loss_standard_error, of_the_mean, rtol=1e-5)
    np.testing.assert_allclose(stats.mean_standard_error, of_the_mean, rtol=1e-5)
    assert round(float(stats.effective_sample_size), 4) == 5.0


def test_at_infinite_tilt_they_are_of_the_worst_and_errors_are_unknown():
    stats = tilted_statistics(jnp.asarray(LOSSES), jnp.inf)
    np.testing.assert_allclose(stats[:3], [2.5, 2.5, 0.0])
    assert np.isnan(stats[3:6]).all()


@pytest.mark.parametrize("t", [1e-3, 0.5, 3.0])
def test_mean_and_variance_are_derivatives_in_the_tilt(t, x64):
    log_moment = lambda t: t * tilted_statistics(jnp.asarray(LOSSES), t).loss  # noqa: E731
    stats, h = tilted_statistics(jnp.asarray(LOSSES), t), 1e-4
    below, here, above = (log_moment(t + shift) for shift in (-h, 0, h))
    np.testing.assert_allclose(stats.mean, (above - below) / (2 * h), rtol=1e-6)
    np.testing.assert_allclose(stats.variance, (above - 2 * here + below) / h**2, rtol=1e-5)


@pytest.mark.parametrize("t", [0.0, 1e-4, 1.0])
def test_standard_errors_are_the_spread_over_repetitions(t):
    draws = jnp.minimum(jax.random.normal(jax.random.key(0), (2000, 400)) ** 2 / 4, 2.0)
    stats = jax.jit(jax.vmap(tilted_statistics, (0, None)))(draws, t)
    for value, claimed in zip(stats[:3], stats[3:6], strict=True):
        error = np.sqrt(np.mean(np.square(claimed)))
        np.testing.assert_allclose(error, np.std(value), rtol=0.08)


def test_losses_that_are_not_finite_do_not_count():
    with_nan = jnp.asarray([*LOSSES, np.nan, np.inf])
    np.testing.assert_allclose(
        tilted_statistics(with_nan, 1.5), tilted_statistics(jnp.asarray(LOSSES), 1.5), rtol=1e-6
    )


def test_t_sharpness_of_a_gaussian_around_a_slope():
    # X = g z is normal: tilting moves its mean by t var, and leaves its variance.
    law, slope, t = noise.gaussian(rms=0.5), jnp.array([1.0, -2.0]), 0.6
    stats = t_sharpness(
        lambda x: x @ slope, jnp.zeros(2), jax.random.key(1), t=t, noise=law, num_samples=4000
    )
    variance = 0.25 * 5
    expected = (t / 2 * variance, t * variance, variance)
    for value, exact, error in zip(stats[:3], expected, stats[3:6], strict=True):
        assert abs(value - exact) < 4 * error
    assert stats.mean_standard_error < 0.05


def test_at_tilt_zero_t_sharpness_is_the_variance_of_the_neighbourhood():
    kwargs = {"noise": noise.sphere(radius=1.0), "num_samples": 20}
    arguments = (lambda x: jnp.sum(x**3), jnp.ones(3), jax.random.key(0))
    stats, around = (
        t_sharpness(*arguments, t=0.0, **kwargs),
        neighbourhood_loss(*arguments, **kwargs),
    )
    np.testing.assert_allclose(stats.variance, around.variance, rtol=1e-5)
    np.testing.assert_allclose(
        stats.variance_standard_error, around.variance_standard_error, rtol=1e-4
    )


BATCHES = jax.random.normal(jax.random.key(3), (5, 2, 3))


def linear(w, x):
    return jnp.mean(x @ w) + 2.0


def test_objectives_on_a_linear_loss():
    slopes = np.mean(BATCHES, axis=1)
    lengths = np.linalg.norm(slopes, axis=1)
    row = objectives(
        linear, jnp.zeros(3), BATCHES, jax.random.key(0),
        sam_rho=0.5, t=3.0, noise=noise.none, tsam_rho=0.2, num_samples=2,
    )  # fmt: skip
    assert row.erm.value == 2.0
    np.testing.assert_allclose(row.sam.value, 2 + 0.5 * lengths.mean(), rtol=1e-5)
    np.testing.assert_allclose(row.tsam.value, 2 + 0.2 * lengths.mean(), rtol=1e-5)
    error = 0.5 * lengths.std(ddof=1) / np.sqrt(5)
    np.testing.assert_allclose(row.sam.standard_error, error, rtol=1e-4)
    along_first = slopes.mean(axis=0) @ slopes[0] / lengths[0]
    np.testing.assert_allclose(row.sam_of_one_batch, 2 + 0.5 * along_first, rtol=1e-5)
    np.testing.assert_allclose(row.tsam_of_one_batch, 2 + 0.2 * along_first, rtol=1e-5)


def test_the_tilted_objective_tends_to_eq_3():
    # one batch, many samples, no ascent: (t / 2) sigma^2 |g|^2 above the mean, for Gaussian noise
    row = objectives(
        linear, jnp.zeros(3), BATCHES[:1], jax.random.key(1),
        sam_rho=0.0, t=1.5, noise=noise.gaussian(rms=0.4), num_samples=1000,
    )  # fmt: skip
    slope = np.mean(BATCHES[0], axis=0)
    rise = 0.5 * 1.5 * 0.4**2 * slope @ slope
    assert rise > 0.04
    np.testing.assert_allclose(row.tsam.value - 2, rise, atol=0.03)
    np.testing.assert_allclose(row.tsam_of_one_batch, row.tsam.value, rtol=1e-5)
    assert row.sam.value == row.erm.value


def test_the_tilted_objective_ascends_from_the_noise_along_the_gradient_there():
    row = objectives(
        lambda p, x: jnp.mean(x) * p @ p / 2, jnp.array([1.0, 0.0]), jnp.ones((1, 1)),
        jax.random.key(0), sam_rho=0.0, t=1.0, noise=lambda key, p: jnp.array([0.0, 1.0]),
        tsam_rho=0.5, num_samples=2,
    )  # fmt: skip
    np.testing.assert_allclose(row.tsam.value, (np.sqrt(2) + 0.5) ** 2 / 2, rtol=1e-5)


def test_rows_of_the_table_share_their_noise():
    models = {"a": jnp.zeros(3), "b": jnp.ones(3)}
    table = cross_objective_table(
        linear, models, BATCHES, jax.random.key(0), sam_rho=0.1, t=1.0, noise=noise.sphere(1.0)
    )
    gap = float(table["b"].erm.value - table["a"].erm.value)
    np.testing.assert_allclose(table["b"].tsam.value - table["a"].tsam.value, gap, rtol=1e-4)


def test_a_negative_tilt_is_an_error():
    with pytest.raises(ValueError, match=r"`objectives\(t=...\)`.*got -1"):
        objectives(
            linear, jnp.zeros(3), BATCHES, jax.random.key(0), sam_rho=0.1, t=-1, noise=noise.none
        )
