"""The normals of the noise laws: those of `jax.random`, at lower cost."""

import itertools
from pathlib import Path

import device_programs
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

from tsam_jax import _threefry, noise


@pytest.fixture
def patch(monkeypatch):
    """Replaces a part of `_threefry` and clears the programs compiled with the old one."""

    def replace(name, value):
        monkeypatch.setattr(_threefry, name, value)
        _threefry._normals.clear_cache()

    yield replace
    _threefry._normals.clear_cache()


PARAMS = {"w": jnp.zeros((5, 3, 7)), "b": [jnp.zeros(300), jnp.zeros((0, 2)), jnp.zeros(())]}


@pytest.mark.parametrize("shape", [(), (7,), (3, 4, 5), (2, 0), (1, 70_000)])
def test_bits_are_those_of_jax(shape, key):
    actual = jax.jit(_threefry._bits, static_argnums=1)(key, shape)
    np.testing.assert_array_equal(actual, jax.random.bits(key, shape))


@pytest.mark.parametrize("half", [None, jnp.bfloat16])
def test_normals_are_those_of_jax(half, key):
    params = jax.tree.map(lambda x: x.astype(half or x.dtype), PARAMS)
    desired = optax.tree.random_like(key, PARAMS, sampler=jax.random.normal)
    actual = _threefry.normal(key, params)
    jax.tree.map(lambda a, d: np.testing.assert_allclose(a, d, atol=3e-5), actual, desired)


def test_what_is_not_drawn_here_is_drawn_by_jax(key, x64):
    other = jax.random.key(3, impl="rbg")
    for k, dtype in (key, jnp.float64), (key, jnp.complex64), (other, jnp.float32):
        actual = _threefry._draw(k, (50,), jnp.dtype(dtype))
        unit = np.sqrt(2) if dtype == jnp.complex64 else 1  # jax.random: variance 1/2 per part
        np.testing.assert_allclose(actual, unit * jax.random.normal(k, (50,), dtype), rtol=1e-6)


def test_short_leaves_are_drawn_in_a_loop_on_a_cpu_and_are_the_same_normals(key, patch):
    params = [jnp.zeros((2, 3)), jnp.zeros(5000), jnp.zeros(7), jnp.zeros(())]
    together = _threefry.normal(key, params)
    assert "scan" in str(jax.make_jaxpr(lambda k: _threefry.normal(k, params))(key))
    patch("_SHORT", -1)
    assert "scan" not in str(jax.make_jaxpr(lambda k: _threefry.normal(k, params))(key))
    for actual, desired in zip(together, _threefry.normal(key, params), strict=True):
        np.testing.assert_allclose(actual, desired, atol=1e-6)


def test_all_possible_normals_are_normal():
    """There are 2^23 values, all equally probable, so nothing here is random."""
    bits = np.arange(2**23, dtype=np.uint32) << 9
    u = np.asarray(jax.jit(_threefry._uniform)(bits), np.float64)
    z = np.asarray(jax.jit(lambda b: _threefry._quantile(_threefry._uniform(b)))(bits), np.float64)
    np.testing.assert_allclose(z, scipy.special.ndtri((1 + u) / 2), atol=2e-5)
    assert np.all(np.diff(z) > -1e-6)
    for power, desired in (1, 0), (2, 1), (4, 3), (6, 15):
        assert abs(np.mean(z**power) - desired) < 3e-5 * max(desired, 1), power


def test_leaves_samples_and_steps_are_independent(key):
    n = 4096
    law = noise.gaussian(rms=1.0)
    params = [jnp.zeros(n), jnp.zeros((64, 64))]
    # as methods do: split the key for the step, then for its samples
    keys = jax.vmap(lambda k: jax.random.split(k, 3))(jax.random.split(key, 3)).reshape(-1)
    a, b = jax.jit(jax.vmap(lambda k: law(k, params)))(keys)
    z = np.concatenate([a, b.reshape(-1, n)])
    standard = np.concatenate([z, (z**2 - 1) / np.sqrt(2)])  # and the squares
    correlations = standard @ standard.T / n
    others = np.tile(1 - np.eye(len(z)), (2, 2))  # excludes a draw with itself
    assert np.all(np.abs(correlations * others) < 5.5 / np.sqrt(n))
    # within a leaf: neighbours, and rows of a matrix
    for lag, x in itertools.product((1, 2, 64), standard):
        assert abs(np.mean(x[lag:] * x[:-lag])) < 5.5 / np.sqrt(n)


def test_the_length_of_normals_is_their_norm(key):
    z, norm = _threefry.normal_and_norm(key, PARAMS)
    desired = np.linalg.norm(np.concatenate([np.ravel(x) for x in jax.tree.leaves(z)]))
    np.testing.assert_allclose(norm, desired, rtol=1e-6)
    assert _threefry.normal_and_norm(key, {"w": jnp.zeros(0)})[1] == 0
    assert _threefry.normal_and_norm(key, {})[1] == 0


def test_many_long_leaves_are_drawn_in_pieces_with_the_same_bits(key, patch):
    sizes = [5000, 4096, 9001, 8192, 7, 4097, 1]
    params = [jnp.zeros(n) for n in sizes] + [jnp.zeros((90, 50)), jnp.zeros(0)]
    alone = _threefry.normal_and_norm(key, params)
    patch("_FEW", 2)
    patch("_PIECE", 4096)
    pieces = _threefry.normal_and_norm(key, params)
    for x, y in zip(alone[0], pieces[0], strict=True):
        np.testing.assert_array_equal(x, y)
    np.testing.assert_allclose(alone[1], pieces[1], rtol=1e-6)
    patch("_draw", None)  # not called
    _threefry.normal(key, params[:-1])


def test_the_layout_on_devices_changes_no_bit_and_needs_no_communication():
    program = Path(__file__).parent / "noise_layout_program.py"
    assert len(device_programs.run(program)) == 3
