"""Distribution of TSAM's samples by Hamiltonian Monte Carlo, and where it is not exact."""

import functools

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hmc_kernel import G, curved, linear, make_kernel

from tsam_jax import methods, noise, value_and_grad

RULE = {"integrator": "leapfrog", "accept": "metropolis"}


LAW = {"radius": 1.0, "tilt": 1.0, "beta": 0.25, "sigma": 0.9, "steps": 2}


def exact_samples(loss, seed, n=25_000):
    """Samples exp(tilt loss) on the ball by rejection."""
    keys = jax.random.split(jax.random.key(seed), 200_000)
    e = jax.vmap(lambda k: noise.ball(radius=LAW["radius"])(k, jnp.zeros(3)))(keys)
    log_density = LAW["tilt"] * jax.vmap(loss)(e)
    u = jax.random.uniform(jax.random.key(seed + 1), (len(e),))
    e = e[jnp.log(u) < log_density - log_density.max()]
    assert len(e) >= n
    return e[:n]


def moments(e):
    """Statistics of each sample that the tests compare, as columns."""
    columns = [e @ G, (e @ G) ** 2, jnp.sum(e**2, axis=-1), e[..., 0] ** 2, e[..., 1] * e[..., 2]]
    return np.stack(columns, axis=-1)


@functools.cache
def one_proposal(loss, **options):
    return jax.jit(jax.vmap(make_kernel(loss, **options)))


def drift_of_the_law(loss, seed, **options):
    """Shift of exact samples' moments under one proposal, in standard errors."""
    exact = exact_samples(loss, seed)
    keys = jax.random.split(jax.random.key(seed + 2), len(exact))
    after, accepted = one_proposal(loss, **{**RULE, **LAW, **options})(keys, exact)
    assert 0.2 < accepted.mean() < 0.95
    change = moments(after) - moments(exact)
    return np.abs(change.mean(axis=0)) / (change.std(axis=0) / np.sqrt(len(change)))


@pytest.mark.parametrize("seed", [0, 10, 20])
@pytest.mark.parametrize("loss", [linear, curved])
def test_a_proposal_leaves_the_target_as_it_is(loss, seed):
    assert drift_of_the_law(loss, seed).max() < 4


@pytest.mark.parametrize(
    ("loss", "change"),
    [
        (linear, {"integrator": "euler"}),
        (linear, {"integrator": "euler", "steps": 1}),
        (curved, {"integrator": "euler", "steps": 1}),
        (curved, {"accept": "inside"}),
    ],
)
def test_what_is_not_exact_is_seen(loss, change):
    assert drift_of_the_law(loss, 0, **change).max() > 5


def exact_mean(tilt=LAW["tilt"]):
    """E[u . e] / radius for a linear loss of slope u ||g|| in 3 dimensions."""
    kappa = tilt * LAW["radius"] * float(jnp.linalg.norm(G))
    return scipy.special.ive(2.5, kappa) / scipy.special.ive(1.5, kappa)


def by_chain(kernel, start, *, chains=256, warmup=100, length=400):
    """Mean of u . e in each chain."""
    keys = jax.random.split(jax.random.key(3), chains)

    @jax.jit
    @jax.vmap
    def run(key):
        def step(e, key):
            e = kernel(key, e)
            return e, position(e) @ G / jnp.linalg.norm(G)

        key_start, key_chain = jax.random.split(key)
        _, trace = jax.lax.scan(
            step, start(key_start), jax.random.split(key_chain, warmup + length)
        )
        return trace[warmup:].mean()

    position = getattr(kernel, "position", lambda e: e)
    means = np.asarray(run(keys))
    return means.mean(), means.std(ddof=1) / np.sqrt(chains)


def our_chains(**options):
    kernel = make_kernel(linear, **{**RULE, **LAW, **options})
    return by_chain(
        lambda key, e: kernel(key, e)[0], lambda key: noise.ball(radius=1.0)(key, jnp.zeros(3))
    )


def blackjax_chains():
    """blackjax on the Gaussianised ball: e(z) is uniform in the ball where z is normal."""

    def to_ball(z):
        length = jnp.linalg.norm(z)
        return z / length * jax.scipy.special.gammainc(1.5, length**2 / 2) ** (1 / 3)

    def log_density(z):
        return LAW["tilt"] * linear(to_ball(z)) - z @ z / 2

    hmc = blackjax.hmc(log_density, 0.35, jnp.ones(3), num_integration_steps=5)

    def kernel(key, state):
        return hmc.step(key, state)[0]

    kernel.position = lambda state: to_ball(state.position)
    return by_chain(kernel, lambda key: hmc.init(jax.random.normal(key, (3,))))


def test_the_law_is_that_of_blackjax_and_of_the_closed_form():
    ours, error = our_chains()
    assert abs(ours - exact_mean()) < 4 * error
    theirs, their_error = blackjax_chains()
    assert abs(theirs - exact_mean()) < 4 * their_error
    assert abs(ours - theirs) < 4 * np.hypot(error, their_error)
    assert max(error, their_error) < 0.005  # a uniform distribution would give 0


@pytest.mark.parametrize("steps", [1, 2])
def test_euler_with_small_steps_samples_more_than_the_tilt(steps):
    mean, error = our_chains(integrator="euler", beta=0.1, steps=steps)
    assert abs(mean - exact_mean((1 + 1 / steps) * LAW["tilt"])) < 4 * error
    assert abs(mean - exact_mean()) > 10 * error


def disc_gradient(loss, theta, t, radius):
    """Gradient of L_t under the uniform distribution on a disc, by quadrature."""
    r, weights = np.polynomial.legendre.leggauss(60)
    r, weights = (r + 1) / 2 * radius, weights / 2 * radius
    angle = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    e = np.stack([np.outer(r, np.cos(angle)), np.outer(r, np.sin(angle))], axis=-1)
    points = theta + jnp.asarray(e.reshape(-1, 2))
    values, grads = jax.vmap(jax.value_and_grad(loss))(points)
    density = np.repeat(weights * r, angle.size) * np.exp(t * (values - values.max()))
    return density @ np.asarray(grads) / density.sum()


@pytest.mark.slow
def test_many_proposals_estimate_the_tilted_gradient_and_one_goes_part_of_the_way(x64):
    def loss(x):
        return x[0] ** 2 + jnp.sin(2 * x[1]) + x[0] * x[1]

    theta, t, radius = jnp.array([0.5, 0.2]), 1.0, 0.8
    exact, untilted = (disc_gradient(loss, theta, x, radius) for x in (t, t / 2))

    def gradients(proposals):
        estimator = methods.tsam_hmc(
            t, 1000, radius=radius, beta=0.4, proposals=proposals, strategy="vectorized"
        )

        @jax.jit
        @jax.vmap
        def run(key):
            step = value_and_grad(loss, estimator, key=key)
            return step(theta, step.init(theta))[0][1]

        draws = np.asarray(run(jax.random.split(jax.random.key(1), 25)))
        return draws.mean(axis=0), draws.std(axis=0, ddof=1) / 5

    mean, error = gradients(20)
    assert np.all(np.abs(mean - exact) < 4 * error)
    assert np.abs(untilted - exact)[0] > 20 * error[0]
    part = (gradients(1)[0][0] - untilted[0]) / (exact[0] - untilted[0])
    assert 0.1 < part < 0.5
