"""The noise laws: size, distribution, dtypes, structures, masks, schedules."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from small_problem import parameters

from tsam_jax import methods, noise, value_and_grad

SIZED = {"sphere": noise.sphere, "ball": noise.ball, "gaussian": noise.gaussian}
LAWS = {
    "sphere": noise.sphere(rms=0.1),
    "ball": noise.ball(rms=0.1),
    "gaussian": noise.gaussian(rms=0.1),
    "gaussian-clipped": noise.gaussian(rms=0.1, clip=0.5),
    "filter_scaled": noise.filter_scaled(0.1),
    "none": noise.none,
}


def draws(law, key, params, n):
    """Returns n draws as an array (n, d)."""
    eps = jax.jit(jax.vmap(lambda k: law(k, params)))(jax.random.split(key, n))
    return np.concatenate([x.reshape(n, -1) for x in jax.tree.leaves(eps)], axis=1)


def tree(dtype=jnp.float32):
    return {"w": jnp.ones((3, 4), dtype), "b": [jnp.ones(5, dtype), None, jnp.ones((0, 2), dtype)]}


def test_the_norm_on_the_sphere_is_exact(key):
    lengths = np.linalg.norm(draws(noise.sphere(radius=2.5), key, tree(), 100), axis=1)
    np.testing.assert_allclose(lengths, 2.5, rtol=1e-6)
    lengths = np.linalg.norm(draws(noise.sphere(rms=0.1), key, tree(), 100), axis=1)
    np.testing.assert_allclose(lengths, 0.1 * np.sqrt(17), rtol=1e-6)


@pytest.mark.parametrize("d", [1, 3, 40])
def test_lengths_in_the_ball_have_the_law_of_a_ball(d, key):
    lengths = np.linalg.norm(draws(noise.ball(radius=2.0), key, jnp.zeros(d), 2000), axis=1)
    # P(length <= x) = (x / r)^d
    assert scipy.stats.kstest((lengths / 2.0) ** d, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("name", ["sphere", "ball"])
def test_directions_are_uniform(name, key):
    # On the sphere in 3 dimensions each coordinate is uniform on (-1, 1): Archimedes.
    eps = draws(SIZED[name](radius=1.0), key, {"a": jnp.zeros(1), "b": jnp.zeros(2)}, 2000)
    for coordinate in (eps / np.linalg.norm(eps, axis=1, keepdims=True)).T:
        assert scipy.stats.kstest(coordinate, scipy.stats.uniform(-1, 2).cdf).pvalue > 1e-3


def test_gaussian_coordinates_are_gaussian(key):
    eps = draws(noise.gaussian(rms=0.3), key, tree(), 200).ravel()
    assert scipy.stats.kstest(eps / 0.3, "norm").pvalue > 1e-3


def test_gaussian_is_projected_into_the_ball(key):
    free = draws(noise.gaussian(radius=1.0), key, jnp.zeros(4), 500)
    clipped = draws(noise.gaussian(radius=1.0, clip=0.8), key, jnp.zeros(4), 500)
    length = np.linalg.norm(free, axis=1, keepdims=True)
    np.testing.assert_allclose(clipped, free * np.minimum(1, 0.8 / length), rtol=1e-5, atol=1e-6)
    assert 0.1 < np.mean(length > 0.8) < 0.9


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", SIZED)
def test_rms_is_the_root_mean_square_of_a_coordinate(name, seed):
    squares = draws(SIZED[name](rms=0.2), jax.random.key(seed), jnp.zeros(6), 4000) ** 2
    by_draw = squares.mean(axis=1)
    error = by_draw.std() / np.sqrt(len(by_draw)) + 1e-7
    assert abs(by_draw.mean() - 0.2**2) < 4 * error


@pytest.mark.parametrize("name", ["sphere", "gaussian"])
def test_radius_and_rms_are_one_size_in_two_units(name, key):
    d = 17
    by_rms = SIZED[name](rms=0.1)(key, tree())
    by_radius = SIZED[name](radius=0.1 * np.sqrt(d))(key, tree())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), by_rms, by_radius)


@pytest.mark.parametrize("filter_axis", [-1, 0])
def test_filter_scaled_follows_the_norms_of_filters(filter_axis, key, monkeypatch):
    monkeypatch.setattr(noise, "normal", lambda key, params: jax.tree.map(jnp.ones_like, params))
    params = {"kernel": jax.random.uniform(key, (2, 3, 4)), "bias": jnp.array([3.0, 4.0])}
    eps = noise.filter_scaled(0.1, filter_axis=filter_axis)(key, params)
    np.testing.assert_allclose(eps["bias"], [0.5, 0.5], rtol=1e-6)  # one filter, norm 5
    kernel = np.moveaxis(np.asarray(params["kernel"]), filter_axis, 0)
    for w, e in zip(kernel, np.moveaxis(np.asarray(eps["kernel"]), filter_axis, 0), strict=True):
        np.testing.assert_allclose(e, 0.1 * np.linalg.norm(w), rtol=1e-6)


STACKED = {  # four layers of scales 1 to 1000, as `nnx.scan` and `linen.scan` stack them
    "kernel": jnp.array([1.0, 10, 100, 1000])[:, None, None]
    * jnp.cos(jnp.arange(40.0) + 0.5).reshape(4, 5, 2),
    "bias": jnp.array([1.0, 10, 100, 1000])[:, None] * jnp.sin(jnp.arange(8.0) + 0.5).reshape(4, 2),
    "scalar": jnp.array([1.0, 10, 100, 1000]),
}


def test_filters_of_stacked_layers_are_those_of_each_layer(key, monkeypatch):
    monkeypatch.setattr(noise, "normal", lambda key, params: jax.tree.map(jnp.ones_like, params))
    together = noise.filter_scaled(0.1, filter_axis=(0, -1))(key, STACKED)
    by_vmap = jax.vmap(noise.filter_scaled(0.1))(jax.random.split(key, 4), STACKED)
    for i in range(4):
        layer = jax.tree.map(lambda x, i=i: x[i], STACKED)
        alone = noise.filter_scaled(0.1)(key, layer)
        for found in (together, by_vmap):
            jax.tree.map(
                lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-6), found, alone
            )


def test_a_filter_axis_that_a_leaf_lacks_is_refused(key):
    for axis in (3, -3, (0, 3)):
        with pytest.raises(ValueError, match="`filter_axis` must be axes of every leaf, got"):
            noise.filter_scaled(0.1, filter_axis=axis)(
                key, {"w": jnp.ones((2, 3)), "k": jnp.ones((2, 2, 1))}
            )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", LAWS)
def test_structure_and_dtypes_are_those_of_the_parameters(name, dtype, key, x64):
    params = {**tree(dtype), "wide": jnp.ones(2, jnp.float32)}
    eps = LAWS[name](key, params)
    assert jax.tree.structure(eps) == jax.tree.structure(params)
    for e, p in zip(jax.tree.leaves(eps), jax.tree.leaves(params), strict=True):
        assert (e.shape, e.dtype) == (p.shape, p.dtype)
    assert all(jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(eps))
    assert name == "none" or jnp.any(eps["w"] != 0)
    assert LAWS[name](key, {"nothing": None}) == {"nothing": None}


def test_leaves_draw_different_normals(key):
    eps = noise.gaussian(rms=1.0)(key, {"a": jnp.zeros(8), "b": jnp.zeros(8)})
    assert not jnp.any(eps["a"] == eps["b"])


@pytest.mark.parametrize("name", LAWS)
def test_same_key_same_bits_and_other_keys_other_bits(name):
    first, again, other = (LAWS[name](jax.random.key(i), tree())["w"] for i in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert name == "none" or jnp.all(first != other)


@pytest.mark.parametrize("unit", ["radius", "rms"])
@pytest.mark.parametrize("name", SIZED)
def test_sizes_may_be_schedules_or_traced(name, unit, key):
    schedule = optax.linear_schedule(0.0, 1.0, 10)
    scheduled = SIZED[name](**{unit: schedule})
    for step in 0, 3:
        plain = SIZED[name](**{unit: step / 10})(key, tree())
        at_step = noise.law_at(scheduled, jnp.int32(step))(key, tree())
        traced = jax.jit(lambda x: SIZED[name](**{unit: x})(key, tree()))(step / 10)
        for actual in at_step, traced:
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), actual, plain)


def test_a_schedule_follows_the_step_counter_of_the_method():
    # at step k the noise has norm k and the loss is k^2
    law = noise.sphere(radius=lambda step: 1.0 * step)
    estimator = methods.tilted_sampling(t=1.0, s=2, noise=law)
    step, x = value_and_grad(lambda x: jnp.sum(x**2), estimator), jnp.zeros(5)
    state = step.init(x)
    for k in range(3):
        (value, _), state = step(x, state)
        np.testing.assert_allclose(value, k**2, rtol=1e-6)


@pytest.mark.parametrize(
    "law", [noise.sphere(0.0), noise.ball(rms=0), noise.gaussian(0.0), noise.filter_scaled(0.0)]
)
def test_size_zero_is_none(law):
    assert law is noise.none


def test_leaf_scaled_noise_has_the_length_of_its_leaf():
    params = {
        **parameters(),
        "zero": jnp.zeros(3),
        "empty": jnp.zeros((0, 2)),
        "scalar": jnp.float32(-2),
    }
    for dtype, rtol in (jnp.float32, 1e-5), (jnp.bfloat16, 2e-2):
        cast = jax.tree.map(lambda x: x.astype(dtype), params)  # noqa: B023 - used here
        eps = noise.leaf_scaled(0.1)(jax.random.key(0), cast)
        for name, w in cast.items():
            assert eps[name].dtype == dtype
            desired = 0.1 * jnp.linalg.norm(jnp.ravel(w.astype(jnp.float32)))
            length = jnp.linalg.norm(jnp.ravel(eps[name].astype(jnp.float32)))
            np.testing.assert_allclose(length, desired, rtol=rtol)
    assert noise.leaf_scaled(0.0) is noise.none
    scheduled = noise.leaf_scaled(lambda step: 0.1 * step)
    assert noise.law_at(scheduled, 1)(jax.random.key(0), parameters())["w"].any()
