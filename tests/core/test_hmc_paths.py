"""Proposals of TSAM by Hamiltonian Monte Carlo: trajectories and rejections."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hmc_kernel import curved, linear, make_kernel, make_look

from tsam_jax import noise
from tsam_jax.methods import hmc


def naive_path(gradient, e, p, *, beta, tilt, sigma, steps, half):
    """Both integrators as loops; "euler" starts with the full kick."""
    for _ in range(steps):
        kick = beta * tilt * (0.5 if half else 1.0)
        p = p + kick * gradient(e)
        e = e + beta / sigma**2 * p
        if half:
            p = p + kick * gradient(e)
    return e, p


NUMBERS = {"beta": 0.2, "tilt": 1.5, "sigma": 0.7}
PATH = {"kick": 0.2 * 1.5, "drift": 0.2 / 0.7**2}


def path(integrator, here, p, steps):
    """End point after a number of steps."""
    for _ in range(steps):
        here, p = hmc._INTEGRATORS[integrator](here, p, make_look(curved), **PATH)
    return here, p


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("integrator", hmc._INTEGRATORS)
def test_paths_are_the_naive_ones(integrator, steps, x64):
    e, p = jnp.array([0.3, -0.2, 0.1]), jnp.array([0.5, 0.4, -1.0])
    there, momentum = path(integrator, make_look(curved)(e), p, steps)
    desired = naive_path(
        jax.grad(curved), e, p, **NUMBERS, steps=steps, half=integrator == "leapfrog"
    )
    np.testing.assert_allclose(there.e, desired[0], rtol=1e-12)
    np.testing.assert_allclose(momentum, desired[1], rtol=1e-12)
    np.testing.assert_allclose(there.value, curved(there.e), rtol=1e-12)
    np.testing.assert_allclose(there.grad, jax.grad(curved)(there.e), rtol=1e-12)


@pytest.mark.parametrize(("integrator", "returns"), [("leapfrog", True), ("euler", False)])
def test_only_leapfrog_runs_back(integrator, returns, x64):
    e, p = jnp.array([0.3, -0.2, 0.1]), jnp.array([0.5, 0.4, -1.0])
    there, momentum = path(integrator, make_look(curved)(e), p, 3)
    back, momentum = path(integrator, there, -momentum, 3)
    error = max(np.abs(back.e - e).max(), np.abs(momentum + p).max())
    assert (error < 1e-12) == returns
    assert returns or error > 0.01


def test_the_difference_of_large_kinetic_energies_keeps_its_digits():
    p0 = jax.random.normal(jax.random.key(0), (1_000_000,))
    p = p0 + 1e-3
    exact = np.sum(np.square(np.asarray(p, float)) - np.square(np.asarray(p0, float))) / 2
    np.testing.assert_allclose(hmc._kinetic_gain(p0, p), exact, atol=2e-3)


def test_no_proposal_outside_of_the_ball_is_accepted():
    kernel = make_kernel(
        linear, accept="inside", radius=0.5, tilt=5.0, beta=0.3, sigma=1.0, steps=1
    )
    keys = jax.random.split(jax.random.key(0), 500)
    start = jax.vmap(lambda key: noise.ball(radius=0.5)(key, jnp.zeros(3)))(keys)
    end, accepted = jax.jit(jax.vmap(kernel))(keys, start)
    assert 0 < accepted.sum() < 500
    assert np.linalg.norm(end, axis=1).max() <= 0.5
    np.testing.assert_array_equal(end[~accepted], start[~accepted])
    assert np.all(np.any(end[accepted] != start[accepted], axis=1))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("accept", hmc._ACCEPTANCES)
def test_proposals_that_are_not_finite_are_rejected(accept, bad):
    def loss(e):
        return linear(e) + jnp.where(e[0] > 0, bad, 0.0)

    kernel = make_kernel(loss, accept=accept, radius=1.0, tilt=1.0, beta=0.5, sigma=1.0, steps=1)
    keys = jax.random.split(jax.random.key(0), 200)
    start = -jnp.abs(jax.vmap(lambda key: noise.ball(radius=0.9)(key, jnp.zeros(3)))(keys))
    end, accepted = jax.jit(jax.vmap(kernel))(keys, start)
    assert 0 < accepted.sum() < 200
    assert np.all(end[:, 0] <= 0)
