"""Moments of the loss in a neighbourhood, against closed forms on quadratics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tsam_jax.analysis import neighbourhood_curve, neighbourhood_loss
from tsam_jax.noise import gaussian

KEYS = [jax.random.key(seed) for seed in (0, 1, 2)]


def quadratic():
    """L = x' A x / 2 at a fixed point, with A positive definite."""
    root = np.asarray(jax.random.normal(jax.random.key(42), (6, 6)))
    matrix = root @ root.T / 6
    theta = np.asarray(jax.random.normal(jax.random.key(43), (6,)))

    def loss(params):
        x = jnp.concatenate([params["a"], params["b"].reshape(-1)])
        return 0.5 * x @ jnp.asarray(matrix) @ x

    return (
        matrix,
        theta,
        loss,
        {"a": jnp.asarray(theta[:2]), "b": jnp.asarray(theta[2:]).reshape(2, 2)},
    )


@pytest.mark.parametrize("key", KEYS)
def test_mean_of_a_quadratic_adds_half_the_trace(key):
    matrix, theta, loss, params = quadratic()
    rms = 0.3
    exact = 0.5 * theta @ matrix @ theta + 0.5 * rms**2 * np.trace(matrix)
    result = neighbourhood_loss(loss, params, key, noise=gaussian(rms=rms), num_samples=4000)
    assert abs(result.mean - exact) < 4 * result.standard_error


@pytest.mark.parametrize("key", KEYS)
def test_variance_of_a_quadratic(key):
    matrix, theta, loss, params = quadratic()
    rms = 0.3
    gradient = matrix @ theta
    exact = rms**2 * gradient @ gradient + 0.5 * rms**4 * np.trace(matrix @ matrix)
    # The error of the variance itself is estimated from independent groups.
    groups, size = 64, 100
    variances = jax.vmap(
        lambda k: (
            neighbourhood_loss(loss, params, k, noise=gaussian(rms=rms), num_samples=size).variance
        )
    )(jax.random.split(key, groups))
    unbiased = np.asarray(variances) * size / (size - 1)
    assert abs(unbiased.mean() - exact) < 4 * unbiased.std(ddof=1) / np.sqrt(groups)


def test_the_standard_error_of_the_variance_is_its_spread():
    _, _, loss, params = quadratic()
    kwargs = {"noise": gaussian(rms=0.3), "num_samples": 200}
    run = lambda k: neighbourhood_loss(loss, params, k, **kwargs)  # noqa: E731
    results = jax.jit(jax.vmap(run))(jax.random.split(KEYS[1], 400))
    claimed = np.sqrt(np.mean(np.square(results.variance_standard_error)))
    np.testing.assert_allclose(claimed, np.std(results.variance, ddof=1), rtol=0.15)


def test_a_curve_is_the_loss_at_each_size():
    _, _, loss, params = quadratic()
    sizes = jnp.array([0.1, 0.4])
    curve = neighbourhood_curve(
        loss, params, KEYS[0], law=lambda rms: gaussian(rms=rms), sizes=sizes, num_samples=7
    )
    last = neighbourhood_loss(loss, params, KEYS[0], noise=gaussian(rms=0.4), num_samples=7)
    np.testing.assert_allclose([field[1] for field in curve], last, rtol=1e-5)


def test_standard_error_is_the_spread_of_the_mean():
    _, _, loss, params = quadratic()
    results = jax.vmap(
        lambda k: neighbourhood_loss(loss, params, k, noise=gaussian(rms=0.3), num_samples=50)
    )(jax.random.split(KEYS[0], 400))
    # 400 means: their standard deviation is known to 1/sqrt(800) = 3.5 %.
    np.testing.assert_allclose(
        np.std(results.mean), np.sqrt(np.mean(results.standard_error**2)), rtol=4 * 0.036
    )


def test_variance_divides_by_the_number_of_draws():
    # Two draws of +1 and -1: the population variance is 1, the unbiased one would be 2.
    def noise(key, params):
        first = jnp.all(
            jax.random.key_data(key) == jax.random.key_data(jax.random.split(KEYS[0], 2)[0])
        )
        return jnp.where(first, 1.0, -1.0) * jnp.ones_like(params)

    result = neighbourhood_loss(jnp.sum, jnp.zeros(1), KEYS[0], noise=noise, num_samples=2)
    np.testing.assert_allclose(result, (0.0, 1.0, 1.0, 0.0))


def test_a_constant_loss_has_no_variance_and_one_draw_has_no_error():
    result = neighbourhood_loss(
        lambda p: jnp.float32(3.0), jnp.zeros(2), KEYS[0], noise=gaussian(rms=1.0), num_samples=1
    )
    assert result.mean == 3.0
    assert result.variance == 0.0
    assert np.isnan(result.standard_error)


def test_batched_draws_change_nothing():
    _, _, loss, params = quadratic()
    kwargs = {"noise": gaussian(rms=0.3), "num_samples": 10}
    one_by_one = neighbourhood_loss(loss, params, KEYS[0], **kwargs)
    batched = neighbourhood_loss(loss, params, KEYS[0], batch_size=4, **kwargs)
    np.testing.assert_allclose(batched, one_by_one, rtol=1e-5)


def test_vmap_over_noise_sizes_and_over_seeds_equals_the_loop():
    _, _, loss, params = quadratic()
    stacked = jax.tree.map(lambda p: jnp.stack([p, 2 * p]), params)
    sizes = jnp.array([0.1, 0.2, 0.5])

    def measure(params, rms):
        return neighbourhood_loss(loss, params, KEYS[1], noise=gaussian(rms=rms), num_samples=20)

    both = jax.jit(jax.vmap(jax.vmap(measure, (None, 0)), (0, None)))(stacked, sizes)
    assert both.mean.shape == (2, 3)
    one = measure(jax.tree.map(lambda p: p[1], stacked), sizes[2])
    np.testing.assert_allclose([field[1, 2] for field in both], one, rtol=1e-4)


def test_the_loss_sees_the_dtype_of_the_parameters():
    def loss(p):
        assert p.dtype == jnp.bfloat16
        return jnp.sum(p)

    result = neighbourhood_loss(
        loss,
        jnp.zeros(3, jnp.bfloat16),
        KEYS[0],
        noise=lambda key, p: jax.random.normal(key, p.shape, jnp.float32),
        num_samples=5,
    )
    assert {field.dtype for field in result} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("argument", ["num_samples", "batch_size"])
def test_counts_below_one_are_errors(argument):
    kwargs = {"noise": gaussian(rms=1.0), "num_samples": 3, argument: 0}
    with pytest.raises(ValueError, match=rf"`neighbourhood_loss\({argument}=...\)`.*got 0"):
        neighbourhood_loss(jnp.sum, jnp.zeros(2), KEYS[0], **kwargs)
