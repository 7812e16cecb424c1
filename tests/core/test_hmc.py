"""TSAM by Hamiltonian Monte Carlo: paths, the law of the samples, and what is not exact."""

import functools

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from tsam_jax import _tree, methods, noise, tilting, value_and_grad
from tsam_jax.methods import _hmc

STRATEGIES = ("unrolled", "vectorized", "streamed")
G = jnp.array([2.0, -1.0, 0.5])
CURVATURE = jnp.array([[-3.0, 0.5, 0.0], [0.5, 1.0, 0.3], [0.0, 0.3, 2.0]])


def linear(e):
    return e @ G


def curved(e):
    return e @ G / 2 + e @ CURVATURE @ e / 2 + 1.5 * jnp.sin(4 * e[0])


def make_look(loss):
    def look(e):
        value, grad = jax.value_and_grad(loss)(e)
        return _hmc.Point(e, value, grad, grad)

    return look


def make_kernel(loss, integrator="leapfrog", accept="metropolis", **numbers):
    """(key, e) -> (e', accepted)"""
    look = make_look(loss)

    def kernel(key, e):
        options = {"integrate": _hmc.INTEGRATORS[integrator], "accept": accept, **numbers}
        there, accepted = _hmc.propose(key, look(e), look, **options)
        return there.e, accepted

    return kernel


# --- Paths.


def naive_path(gradient, e, p, *, beta, delta, sigma, steps, half):
    """Both integrators with loops; for "euler" the whole kick comes first."""
    for _ in range(steps):
        kick = beta * delta * (0.5 if half else 1.0)
        p = p + kick * gradient(e)
        e = e + beta / sigma**2 * p
        if half:
            p = p + kick * gradient(e)
    return e, p


NUMBERS = {"beta": 0.2, "delta": 1.5, "sigma": 0.7}
PATH = {"kick": 0.2 * 1.5, "drift": 0.2 / 0.7**2}


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("integrator", _hmc.INTEGRATORS)
def test_paths_are_the_naive_ones(integrator, steps, x64):
    e, p = jnp.array([0.3, -0.2, 0.1]), jnp.array([0.5, 0.4, -1.0])
    integrate, look = _hmc.INTEGRATORS[integrator], make_look(curved)
    there, momentum = integrate(look(e), p, look, **PATH, steps=steps)
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
    integrate, look = _hmc.INTEGRATORS[integrator], make_look(curved)
    there, momentum = integrate(look(e), p, look, **PATH, steps=3)
    back, momentum = integrate(there, -momentum, look, **PATH, steps=3)
    error = max(np.abs(back.e - e).max(), np.abs(momentum + p).max())
    assert (error < 1e-12) == returns
    assert returns or error > 0.01


def test_the_difference_of_large_kinetic_energies_keeps_its_digits():
    p0 = jax.random.normal(jax.random.key(0), (1_000_000,))
    p = p0 + 1e-3
    exact = np.sum(np.square(np.asarray(p, float)) - np.square(np.asarray(p0, float))) / 2
    np.testing.assert_allclose(_hmc._kinetic_gain(p0, p), exact, atol=2e-3)


# --- The law of the samples.


RULE = {"integrator": "leapfrog", "accept": "metropolis"}
LAW = {"radius": 1.0, "delta": 1.0, "beta": 0.25, "sigma": 0.9, "steps": 2}


def exact_samples(loss, seed, n=25_000):
    """Of exp(delta loss) on the ball, by rejection."""
    keys = jax.random.split(jax.random.key(seed), 200_000)
    e = jax.vmap(lambda k: noise.ball(radius=LAW["radius"])(k, jnp.zeros(3)))(keys)
    log_density = LAW["delta"] * jax.vmap(loss)(e)
    u = jax.random.uniform(jax.random.key(seed + 1), (len(e),))
    e = e[jnp.log(u) < log_density - log_density.max()]
    assert len(e) >= n
    return e[:n]


def moments(e):
    """Columns: what the tests look at of each sample."""
    columns = [e @ G, (e @ G) ** 2, jnp.sum(e**2, axis=-1), e[..., 0] ** 2, e[..., 1] * e[..., 2]]
    return np.stack(columns, axis=-1)


@functools.cache
def one_proposal(loss, **options):
    return jax.jit(jax.vmap(make_kernel(loss, **options)))


def drift_of_the_law(loss, seed, **options):
    """By how many standard errors one proposal moves the moments of exact samples."""
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


def exact_mean(delta=LAW["delta"]):
    """E[u . e] / radius for a linear loss of slope u ||g|| in 3 dimensions."""
    kappa = delta * LAW["radius"] * float(jnp.linalg.norm(G))
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
        return LAW["delta"] * linear(to_ball(z)) - z @ z / 2

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
    assert max(error, their_error) < 0.005  # and a uniform law would give 0


@pytest.mark.parametrize("steps", [1, 2])
def test_euler_with_small_steps_samples_more_than_delta(steps):
    mean, error = our_chains(integrator="euler", beta=0.1, steps=steps)
    assert abs(mean - exact_mean((1 + 1 / steps) * LAW["delta"])) < 4 * error
    assert abs(mean - exact_mean()) > 10 * error


def disc_gradient(loss, theta, t, radius):
    """The gradient of L_t under the uniform law on a disc, by quadrature."""
    r, weights = np.polynomial.legendre.leggauss(60)
    r, weights = (r + 1) / 2 * radius, weights / 2 * radius
    angle = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    e = np.stack([np.outer(r, np.cos(angle)), np.outer(r, np.sin(angle))], axis=-1)
    points = theta + jnp.asarray(e.reshape(-1, 2))
    values, grads = jax.vmap(jax.value_and_grad(loss))(points)
    density = np.repeat(weights * r, angle.size) * np.exp(t * (values - values.max()))
    return density @ np.asarray(grads) / density.sum()


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
            state = estimator.init(theta)._replace(key=key)
            return value_and_grad(loss, estimator)(theta, state)[0][1]

        draws = np.asarray(run(jax.random.split(jax.random.key(1), 25)))
        return draws.mean(axis=0), draws.std(axis=0, ddof=1) / 5

    mean, error = gradients(20)
    assert np.all(np.abs(mean - exact) < 4 * error)
    assert np.abs(untilted - exact)[0] > 20 * error[0]
    part = (gradients(1)[0][0] - untilted[0]) / (exact[0] - untilted[0])
    assert 0.1 < part < 0.5


# --- The estimator.


def quartic(p):
    return jnp.sum(p["w"] ** 4) + jnp.sum(jnp.sin(p["b"]))


PARAMS = {"w": jnp.array([[0.5, -1.0], [0.7, 1.5]]), "b": jnp.array([0.2, 0.9])}


def estimate(estimator, fun=quartic, params=PARAMS):
    return jax.jit(value_and_grad(fun, estimator))(params, estimator.init(params))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_without_steps_it_is_tilted_sampling_in_the_ball(strategy, fast_compile):
    hmc = methods.tsam_hmc(4.0, 3, radius=0.5, beta=0.0, delta=1.5, strategy=strategy, key=2)
    (value, grad), state = estimate(hmc)
    law = lambda key, p: noise.ball(radius=0.5)(jax.random.split(key)[0], p)  # noqa: E731
    plain = methods.tilted_sampling(2.5, 3, noise=law, strategy=strategy, key=2)
    (desired_value, desired), plain_state = estimate(plain)
    np.testing.assert_allclose(value, desired_value, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), grad, desired)
    np.testing.assert_allclose(state.weights, plain_state.weights, rtol=1e-5)
    np.testing.assert_array_equal(state.acceptance, 1.0)


def replay(state, j, s, *, proposals, mask=None, **options):
    """Sample j of the step that starts at `state`, by the kernel and one by one."""
    oracle = jax.value_and_grad(quartic)

    def look(e):
        value, grad = oracle(_tree.add(PARAMS, e))
        return _hmc.Point(e, value, grad, _tree.select(grad, mask))

    key = jax.random.split(jax.random.fold_in(state.key, state.step), s)[j]
    key, *keys = jax.random.split(key, proposals + 1)
    here = look(noise.ball(radius=options["radius"])(key, _tree.select(PARAMS, mask)))
    accepted = 0.0
    for k in keys:
        here, moved = _hmc.propose(k, here, look, integrate=_hmc.leapfrog, **options)
        accepted += moved
    return here, accepted / proposals


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("mask", [None, {"w": True, "b": False}])
def test_samples_are_chains_of_the_kernel(strategy, mask, fast_compile):
    s, proposals = 3, 3
    numbers = {"radius": 0.8, "delta": 1.0, "beta": 0.05, "sigma": 0.8, "steps": 2}
    estimator = methods.tsam_hmc(
        3.0, s, **numbers, proposals=proposals, mask=mask, strategy=strategy, key=7
    )
    (_, grad), state = estimate(estimator)
    options = {**numbers, "accept": "metropolis", "proposals": proposals, "mask": mask}
    run = jax.jit(lambda state, j: replay(state, j, s, **options))
    points, shares = zip(*(run(estimator.init(PARAMS), j) for j in range(s)), strict=True)
    losses = jnp.stack([point.value for point in points])
    np.testing.assert_allclose(state.losses, losses, rtol=1e-5)
    np.testing.assert_allclose(state.acceptance, jnp.stack(shares), rtol=1e-6)
    assert 0 < state.acceptance.mean() < 1
    weights = tilting.tilt_weights(losses, 3.0 - 1.0)
    np.testing.assert_allclose(state.weights, weights, rtol=1e-4)
    for name in PARAMS:
        desired = sum(w * point.grad[name] for w, point in zip(weights, points, strict=True))
        np.testing.assert_allclose(grad[name], desired, rtol=1e-4)


def test_no_proposal_outside_of_the_ball_is_accepted(fast_compile):
    kernel = make_kernel(
        linear, accept="inside", radius=0.5, delta=5.0, beta=0.3, sigma=1.0, steps=1
    )
    keys = jax.random.split(jax.random.key(0), 500)
    start = jax.vmap(lambda key: noise.ball(radius=0.5)(key, jnp.zeros(3)))(keys)
    end, accepted = jax.jit(jax.vmap(kernel))(keys, start)
    assert 0 < accepted.sum() < 500
    assert np.linalg.norm(end, axis=1).max() <= 0.5
    np.testing.assert_array_equal(end[~accepted], start[~accepted])
    assert np.all(np.any(end[accepted] != start[accepted], axis=1))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("accept", _hmc.ACCEPTANCES)
def test_proposals_that_are_not_finite_are_rejected(accept, bad, fast_compile):
    def loss(e):
        return linear(e) + jnp.where(e[0] > 0, bad, 0.0)

    kernel = make_kernel(loss, accept=accept, radius=1.0, delta=1.0, beta=0.5, sigma=1.0, steps=1)
    keys = jax.random.split(jax.random.key(0), 200)
    start = -jnp.abs(jax.vmap(lambda key: noise.ball(radius=0.9)(key, jnp.zeros(3)))(keys))
    end, accepted = jax.jit(jax.vmap(kernel))(keys, start)
    assert 0 < accepted.sum() < 200
    assert np.all(end[:, 0] <= 0)


@pytest.mark.filterwarnings("ignore::tsam_jax.HalfPrecisionWarning")
def test_chains_of_bfloat16_parameters_are_in_float32(monkeypatch):
    """Or steps below the spacing of the parameters would be lost."""
    seen, propose = [], _hmc.propose

    def listening(key, here, look, **options):
        there, accepted = propose(key, here, look, **options)
        seen.extend([here.e, there.e])
        return there, accepted

    monkeypatch.setattr(_hmc, "propose", listening)
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
    estimator = methods.tsam_hmc(0.0, 1, radius=8.0, beta=0.05)
    (_, grad), _ = jax.eval_shape(
        lambda p: value_and_grad(quartic, estimator)(p, estimator.init(p)), params
    )
    assert {x.dtype for x in jax.tree.leaves(seen)} == {jnp.dtype("float32")}
    assert {x.dtype for x in jax.tree.leaves(grad)} == {jnp.dtype("bfloat16")}


def test_sigma_is_a_unit_of_momentum(fast_compile):
    """Only beta / sigma counts."""
    a = methods.tsam_hmc(2.0, 3, radius=0.6, beta=0.04, sigma=1.0, steps=2)
    b = methods.tsam_hmc(2.0, 3, radius=0.6, beta=0.16, sigma=4.0, steps=2)
    (_, grad), state = estimate(a)
    (_, same), same_state = estimate(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4), grad, same)
    assert state.acceptance.sum() > 0
    np.testing.assert_array_equal(state.acceptance, same_state.acceptance)


@pytest.mark.parametrize("aux", ["first", "mean", "clean"])
@pytest.mark.parametrize(("steps", "proposals"), [(1, 1), (3, 2)])
def test_cost(steps, proposals, aux):
    cost = methods.tsam_hmc(
        1.0, 5, radius=0.1, beta=0.1, steps=steps, proposals=proposals, aux=aux
    ).cost
    assert cost == (5 * (steps * proposals + 1), aux == "clean")


hmc = functools.partial(methods.tsam_hmc, 1.0, 3, radius=0.5, beta=0.1)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"radius": -1.0}, ValueError, r"`tsam_hmc\(radius=...\)` must be a finite .*got -1.0"),
        ({"beta": np.inf}, ValueError, r"`tsam_hmc\(beta=...\)` must be a finite .*got inf"),
        ({"sigma": 0}, ValueError, r"`tsam_hmc\(sigma=...\)` must be a finite number > 0, got 0"),
        ({"delta": 1.5}, ValueError, r"`tsam_hmc\(delta=...\)` .* between 0 and t = 1.0, got 1.5"),
        ({"delta": "full"}, TypeError, r"`tsam_hmc\(delta=...\)` must be a number.*got 'full'"),
        ({"steps": 0}, ValueError, r"`tsam_hmc\(steps=...\)` must be a positive integer, got 0"),
        ({"proposals": 1.0}, TypeError, r"`tsam_hmc\(proposals=...\)` must be an integer.*got 1.0"),
        ({"integrator": "rk4"}, ValueError, r"must be one of 'leapfrog', 'euler', got 'rk4'"),
        ({"accept": True}, ValueError, r"must be one of 'metropolis', 'inside', got True"),
        ({"strategy": "vmap"}, ValueError, r"`tsam_hmc\(strategy=...\)` must be one of"),
        ({"aux": "last"}, ValueError, r"`tsam_hmc\(aux=...\)` must be one of"),
    ],
)
def test_messages(change, error, message):
    with pytest.raises(error, match=message):
        hmc(**change)


def test_messages_on_the_tilt():
    with pytest.raises(
        ValueError, match=r"`tsam_hmc\(t=...\)` must be a finite number >= 0, got inf"
    ):
        methods.tsam_hmc(np.inf, 3, radius=0.5, beta=0.1)
    assert methods.tsam_hmc(np.inf, 3, radius=0.5, beta=0.1, delta=1.0).cost.gradients == 6
    with pytest.raises(TypeError, match=r"`tsam_hmc\(t=...\)` must be a number or a schedule"):
        methods.tsam_hmc(tilting.AutoTilt(0.5), 3, radius=0.5, beta=0.1)
