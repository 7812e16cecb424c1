"""Antithetic and orthogonal designs: exact, with unchanged marginals, and of lower variance."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from tsam_jax import methods, noise, value_and_grad

STRATEGIES = ("unrolled", "vectorized", "streamed")
SHAPES = {"w": (2, 3), "b": (1,), "none": None}  # 7 coordinates
PARAMS = {"w": jnp.zeros((2, 3)), "b": jnp.zeros(1), "none": None}
LAWS = {
    "sphere": noise.sphere(radius=2.0),
    "ball": noise.ball(radius=2.0),
    "gaussian": noise.gaussian(rms=0.3),
    "clipped": noise.gaussian(rms=0.3, clip=0.8),
}
every_law = pytest.mark.parametrize("name", LAWS)


def drawn(design, key, s, params=PARAMS):
    """Returns the s perturbations of a step as an array (s, d)."""
    eps = jax.vmap(lambda j: design.draw(key, j, s, params))(jnp.arange(s))
    return np.concatenate([np.asarray(x).reshape(s, -1) for x in jax.tree.leaves(eps)], axis=1)


def plainly(law, key, s, params=PARAMS):
    eps = jax.vmap(lambda k: law(k, params))(jax.random.split(key, s))
    return np.concatenate([np.asarray(x).reshape(s, -1) for x in jax.tree.leaves(eps)], axis=1)


@every_law
@pytest.mark.parametrize("s", [1, 2, 5])
def test_pairs_are_opposite_to_the_bit(name, s, key):
    eps = drawn(noise.antithetic(LAWS[name]), key, s)
    np.testing.assert_array_equal(eps[1::2], -eps[: 2 * (s // 2) : 2])
    np.testing.assert_array_equal(eps[::2], plainly(LAWS[name], key, (s + 1) // 2))


@every_law
@pytest.mark.parametrize(
    "s", [1, pytest.param(4, marks=pytest.mark.slow), 7, pytest.param(10, marks=pytest.mark.slow)]
)
def test_sets_are_orthogonal_and_keep_lengths(name, s, key):
    eps = drawn(noise.orthogonal(LAWS[name]), key, s)
    plain = plainly(LAWS[name], key, s)
    lengths = np.linalg.norm(eps, axis=1)
    np.testing.assert_allclose(lengths, np.linalg.norm(plain, axis=1), rtol=1e-5)
    np.testing.assert_allclose(eps[::7], plain[::7], atol=1e-5)  # each set starts with its own draw
    for start in 0, 7:
        directions = (eps / lengths[:, None])[start : start + 7]
        cosines = directions @ directions.T
        np.testing.assert_allclose(cosines, np.eye(len(directions)), atol=1e-5)


def test_pairs_of_orthogonal_directions(key):
    eps = drawn(noise.antithetic(noise.orthogonal(noise.sphere(radius=1.0))), key, 8)
    np.testing.assert_array_equal(eps[1::2], -eps[::2])
    np.testing.assert_allclose(eps[::2] @ eps[::2].T, np.eye(4), atol=1e-5)


@pytest.mark.parametrize("design", [noise.antithetic, noise.orthogonal])
@pytest.mark.parametrize("j", [0, 1, 2, 3])
def test_every_sample_keeps_its_law(design, j):
    """On the sphere in 3 dimensions each coordinate is uniform on (-1, 1): Archimedes."""
    law = design(noise.sphere(radius=1.0))
    draw = jax.jit(jax.vmap(lambda key: law.draw(key, j, 4, jnp.zeros(3))))
    for coordinate in np.asarray(draw(jax.random.split(jax.random.key(j), 2000))).T:
        assert scipy.stats.kstest(coordinate, scipy.stats.uniform(-1, 2).cdf).pvalue > 1e-3


@pytest.mark.parametrize("j", [0, 2])
def test_lengths_and_directions_stay_independent(j):
    law = noise.orthogonal(noise.ball(radius=1.0))
    draw = jax.jit(jax.vmap(lambda key: law.draw(key, j, 3, jnp.zeros(3))))
    eps = np.asarray(draw(jax.random.split(jax.random.key(j), 2000)))
    length = np.linalg.norm(eps, axis=1)
    assert scipy.stats.kstest(length**3, "uniform").pvalue > 1e-3
    assert abs(scipy.stats.spearmanr(length, eps[:, 0] / length).statistic) < 4 / np.sqrt(2000)


def loss(p):
    return jnp.sum(jnp.tanh(p["w"] + p["b"]) ** 2) + jnp.sum(p["w"] ** 4)


START = {"w": jnp.linspace(-1.0, 1.0, 6).reshape(2, 3), "b": jnp.array([0.3])}
DESIGNS = {
    "antithetic": noise.antithetic(noise.sphere(radius=0.5)),
    "orthogonal": noise.orthogonal(noise.sphere(radius=0.5)),
    "both": noise.antithetic(noise.orthogonal(noise.sphere(radius=0.5))),
}


@pytest.mark.parametrize(
    "strategy",
    [pytest.param(x, marks=[] if x == "streamed" else [pytest.mark.slow]) for x in STRATEGIES],
)
@pytest.mark.parametrize("design", DESIGNS)
def test_methods_draw_by_the_design(design, strategy):
    estimator = methods.tilted_sampling(2.0, 5, noise=DESIGNS[design], strategy=strategy)
    step = value_and_grad(loss, estimator, key=4)
    _, state = jax.jit(step)(START, step.init(START))
    step_key = jax.random.fold_in(jax.random.key(4), 0)
    for j in range(5):
        eps = DESIGNS[design].draw(step_key, j, 5, START)
        desired = loss(jax.tree.map(jnp.add, START, eps))
        np.testing.assert_allclose(state.last.metrics["losses"][j], desired, rtol=1e-5)


def test_designs_see_the_masked_leaves_only():
    mask = {"w": False, "b": True}
    estimator = methods.tsam(1.0, 0.0, 2, noise=DESIGNS["antithetic"], mask=mask)
    step = value_and_grad(loss, estimator)
    _, state = step(START, step.init(START))
    for sign, actual in zip((1, -1), sorted(state.last.metrics["losses"]), strict=True):
        options = [loss({**START, "b": START["b"] + 0.5 * x}) for x in (-1, 1)]
        np.testing.assert_allclose(actual, sorted(options)[sign < 0], rtol=1e-5)


@pytest.mark.parametrize("design", [noise.antithetic, noise.orthogonal])
def test_schedules_none_and_mistakes(design, key):
    scheduled = design(noise.sphere(radius=lambda step: 1.0 + step))
    at_two = noise.law_at(scheduled, jnp.int32(2))
    np.testing.assert_allclose(np.linalg.norm(drawn(at_two, key, 2), axis=1), 3.0, rtol=1e-5)
    assert design(noise.none) is noise.none
    with pytest.raises(TypeError, match=r"`(antithetic|orthogonal)\(law=...\)` must be a law"):
        design("sphere")
    with pytest.raises(TypeError, match=r"`design.draw\(key, j, s, params\)`"):
        design(noise.sphere(radius=1.0))(key, PARAMS)
    with pytest.raises(TypeError, match=r"`orthogonal\(law=...\)` must be a law.*antithetic"):
        noise.orthogonal(noise.antithetic(noise.sphere(radius=1.0)))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
@pytest.mark.parametrize("design", DESIGNS)
def test_dtypes_and_structures(design, dtype, x64, key):
    params = {"w": jnp.zeros((2, 3), dtype), "none": None, "empty": jnp.zeros((0, 2), dtype)}
    eps = DESIGNS[design].draw(key, 1, 3, params)
    assert jax.tree.structure(eps) == jax.tree.structure(params)
    assert eps["w"].dtype == dtype
    assert eps["w"].shape == (2, 3)
    assert jnp.all(jnp.isfinite(eps["w"]))
    assert DESIGNS[design].draw(key, 1, 3, {"none": None}) == {"none": None}


def test_noise_that_happens_to_be_zero_is_finite(key):
    for design in noise.antithetic, noise.orthogonal:
        law = noise.law_at(design(noise.sphere(radius=lambda step: 0.0 * step)), jnp.int32(0))
        np.testing.assert_array_equal(drawn(law, key, 3), 0.0)


# --- Variance.

CURVATURE = jnp.array([[3.0, 0.5, 0.0], [0.5, 1.0, 0.3], [0.0, 0.3, 2.0]])


def quadratic(x):
    return x @ jnp.array([1.0, -2.0, 0.5]) + x @ CURVATURE @ x / 2


@functools.cache
def variance_of(law, s, fun):
    """tilt -> variance of the gradient, compiled once."""

    @jax.jit
    def variance(t):
        estimator = methods.tilted_sampling(t, s, noise=law, strategy="vectorized")

        @jax.vmap
        def gradients(key):
            step = value_and_grad(fun, estimator, key=key)
            return step(jnp.ones(3), step.init(jnp.ones(3)))[0][1]

        return gradients(jax.random.split(jax.random.key(0), 2000)).var(axis=0).sum()

    return variance


def variance(law, t, s=4, fun=quadratic):
    return float(variance_of(law, s, fun)(t))


def test_antithetic_pairs_cancel_what_is_odd():
    """On a quadratic loss, it removes all noise at t = 0; a tilt brings some of it back."""
    law = noise.sphere(radius=0.3)
    pairs, plain = noise.antithetic(law), variance(law, 0.0)
    np.testing.assert_allclose(plain, 0.03 * float(jnp.sum(CURVATURE**2)) / 4, rtol=0.1)
    assert variance(pairs, 0.0) < 1e-10 * plain
    small, larger = (variance(pairs, t) / variance(law, t) for t in (0.03, 0.1))
    assert small < larger < 0.1


def cubic(x):
    return x[0] ** 3 - 2 * x[0] * x[1] ** 2 + x[0] * x[1] * x[2]


def test_pairs_of_a_whole_frame_average_a_quadratic_gradient_exactly():
    law = noise.antithetic(noise.sphere(radius=0.3))
    frame = noise.antithetic(noise.orthogonal(noise.sphere(radius=0.3)))
    pairs = variance(law, 0.0, s=6, fun=cubic)
    assert pairs > 1e-4
    assert variance(frame, 0.0, s=6, fun=cubic) < 1e-6 * pairs
    assert variance(frame, 0.1, s=6, fun=cubic) < 0.1 * variance(law, 0.1, s=6, fun=cubic)
