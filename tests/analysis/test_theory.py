"""The paper's theory: the Hessian of the objective, small tilts, Theorems 3.6 and 3.7."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsam_jax import tilting
from tsam_jax.analysis import (
    generalisation_bound,
    small_tilt_expansion,
    tilt_derivative,
    tilted_hessian_product,
    tilted_statistics,
)

LOSSES = np.array([0.3, 1.0, 1.4, 0.2, 2.5])


def test_the_expansion_misses_a_sixth_of_the_third_moment(x64):
    third = np.mean((LOSSES - LOSSES.mean()) ** 3)
    for t in (1e-2, 1e-3):
        missed = tilting.tilted_loss(jnp.asarray(LOSSES), t) - small_tilt_expansion(
            jnp.asarray(LOSSES), t
        )
        np.testing.assert_allclose(missed, t**2 / 6 * third, rtol=10 * t)


@pytest.mark.parametrize("t", [0.0, 1e-6, 1e-3, 5e-3, 0.1, 1.0, 5.0, 50.0])
def test_the_derivative_is_that_of_the_tilted_loss(t):
    with jax.enable_x64(True):
        exact = float(
            jax.grad(lambda t: tilting.tilted_loss(jnp.asarray(LOSSES), t))(t)
            if t > 1e-4
            else LOSSES.var() / 2 + t / 3 * np.mean((LOSSES - LOSSES.mean()) ** 3)
        )
    ours = jax.jit(tilt_derivative)(jnp.asarray(100.0 + LOSSES, jnp.float32), jnp.float32(t))
    np.testing.assert_allclose(ours, exact, rtol=3e-4)


def test_the_derivative_is_an_integral_of_the_t_sharpness(x64):
    t, losses = 3.0, jnp.asarray(LOSSES)
    nodes, weights = np.polynomial.legendre.leggauss(40)
    taus = t * (nodes + 1) / 2
    variances = jax.vmap(lambda tau: tilted_statistics(losses, tau).variance)(jnp.asarray(taus))
    integral = np.sum(t / 2 * weights * taus * variances) / t**2
    np.testing.assert_allclose(tilt_derivative(losses, t), integral, rtol=1e-8)


# a generalised linear model: log-partition of a Bernoulli variable for each example, and T(x)
FEATURES = np.random.default_rng(0).normal(size=(12, 2))
STATISTIC = FEATURES.T @ np.random.default_rng(1).integers(0, 2, 12) / 12
AROUND = 1.5 * np.random.default_rng(2).normal(size=(40, 2))


@jax.jit
def glm_losses(theta):
    points = theta + AROUND
    return jnp.mean(jax.nn.softplus(points @ FEATURES.T), axis=1) - points @ STATISTIC


TAUS = jnp.linspace(0.0, 1.0, 41)


@jax.jit
def sharpnesses(losses, t):
    return jax.vmap(lambda tau: tilted_statistics(losses, t * tau).variance)(TAUS)


points = st.tuples(st.floats(-3, 3), st.floats(-3, 3))


@given(points, points, st.floats(0.05, 8.0))
def test_theorem_3_6_on_a_generalised_linear_model(first, second, t):
    a, b = (glm_losses(jnp.asarray(p, jnp.float32)) for p in (first, second))
    gap = sharpnesses(a, t) - sharpnesses(b, t)
    difference = jax.jit(tilt_derivative)(a, t) - jax.jit(tilt_derivative)(b, t)
    tolerance = 1e-4
    if jnp.all(gap >= 0):
        assert difference >= -tolerance
    if jnp.all(gap <= 0):
        assert difference <= tolerance


def test_theorem_3_6_needs_the_sharpness_at_smaller_tilts_too():
    # L(theta) = theta^2 / 2, the model of a normal mean, and eps = -1 or 1
    def at(theta):
        return (theta + jnp.array([-1.0, 1.0])) ** 2 / 2

    flat, steep, t = at(0.05), at(5.0), 10.0
    assert tilted_statistics(flat, t).variance > tilted_statistics(steep, t).variance
    assert tilt_derivative(flat, t) < tilt_derivative(steep, t)


def loss_fn(x):
    return jnp.sum(jnp.sin(x) * jnp.array([1.0, 2.0, -1.0])) + x[0] * x[1] ** 2


def test_lemma_3_2_is_the_hessian_of_the_tilted_loss_of_fixed_samples():
    x, v = jnp.array([0.3, -0.5, 1.0]), jnp.array([1.0, -2.0, 0.5])
    eps = 0.5 * jax.random.normal(jax.random.key(0), (5, 3))

    def objective(x, t):
        return tilting.tilted_loss(jax.vmap(loss_fn)(x + eps), t)

    @jax.jit
    def both(t):
        ours = tilted_hessian_product(loss_fn, x, eps, v, t=t)
        return ours, jax.hessian(objective)(x, t) @ v

    for t in (1e-3, 2.0):
        np.testing.assert_allclose(*both(jnp.float32(t)), rtol=1e-4, atol=1e-5)


def bound(losses, loss, **changes):
    kwargs = {"t": 0.5, "upper": 3.0, "num_examples": 100, "delta": 0.1} | changes
    return generalisation_bound(jnp.asarray(losses), jnp.float32(loss), **kwargs)


def test_the_terms_are_those_of_theorem_3_7():
    terms = bound(LOSSES, 1.1)
    hoeffding = 3 * np.sqrt(np.log(20) / 200)
    variance = np.var(np.exp(0.5 * LOSSES)) / (2 * 0.5 * np.exp(2 * 0.5 * 3))
    gap = 1.1 - LOSSES.mean()
    np.testing.assert_allclose(
        terms[2:], [hoeffding, variance, np.log(variance), gap], rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(terms.bound, hoeffding - variance + gap, rtol=1e-5)
    tilted = np.log(np.mean(np.exp(0.5 * LOSSES))) / 0.5
    np.testing.assert_allclose(terms.risk, tilted + terms.bound, rtol=1e-5)


def test_nothing_overflows_at_a_large_tilt():
    terms = bound(LOSSES, 1.1, t=400.0)
    # only the largest loss counts: Var = (1/5)(4/5) exp(2 t peak)
    exact = np.log(4 / 25) + 2 * 400 * (2.5 - 3.0) - np.log(800)
    np.testing.assert_allclose(terms.log_variance, exact, rtol=1e-5)
    assert terms.variance == 0.0
    assert np.isfinite(terms.bound)


@given(st.lists(st.floats(0, 3, width=32), min_size=5, max_size=5), st.floats(0.01, 3.0))
def test_the_bound_on_the_risk_is_no_better_than_that_of_the_mean_loss(losses, t):
    # Lemma B.1: what tilting subtracts is at most what the tilted loss adds to the mean
    terms = bound(np.float32(losses), 1.0, t=t)
    assert terms.risk >= 1.0 + terms.hoeffding - 1e-4


def test_lemma_b_1_is_tight_for_losses_near_the_upper_bound(x64):
    losses = 3.0 - 1e-2 * np.array([0.0, 0.5, 1.0])
    terms = bound(losses, 1.0)
    np.testing.assert_allclose(terms.risk - 1.0 - terms.hoeffding, 0.0, atol=1e-6)
    assert terms.variance > 3e-6


def test_at_tilt_zero_the_variance_plays_no_part():
    assert bound(LOSSES, 1.1, t=0.0).variance == 0.0


@pytest.mark.parametrize("outside", [-0.1, 3.1])
def test_losses_out_of_the_range_of_the_theorem_give_nan(outside):
    assert np.isnan(bound([*LOSSES, outside], 1.1)).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"delta": 1.0}, r"`generalisation_bound\(delta=...\)`.*got 1.0"),
        ({"t": -1.0}, r"`generalisation_bound\(t=...\)`.*got -1.0"),
        ({"num_examples": 0}, r"`generalisation_bound\(num_examples=...\)`.*got 0"),
    ],
)
def test_what_is_out_of_range_is_an_error(changes, message):
    with pytest.raises(ValueError, match=message):
        bound(LOSSES, 1.1, **changes)
