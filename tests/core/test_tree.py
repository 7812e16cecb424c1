"""Norms and steps in at least float32, for leaves of any dtype."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tsam_jax import _tree


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_norms_are_summed_in_float32(dtype):
    # In float16 the squares overflow; in bfloat16 the sum has three digits.
    tree = {"a": jnp.full(1000, 301.0, dtype), "b": [jnp.full((2, 3), 1.1, dtype), None]}
    leaves = [np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)]
    norm = _tree.norm(tree)
    assert norm.dtype == jnp.float32
    np.testing.assert_allclose(norm, np.linalg.norm(np.concatenate(leaves)), rtol=1e-6)


def test_a_step_is_taken_in_float32_and_rounded_once():
    x, d = jnp.asarray(1.0, jnp.bfloat16), jnp.asarray(3.0, jnp.bfloat16)
    moved = _tree.add(x, d, 1 / 3 + 1e-3)
    assert moved.dtype == jnp.bfloat16
    assert moved == jnp.asarray(1 + 3 * (1 / 3 + 1e-3), jnp.bfloat16)


def test_a_direction_of_none_leaves_the_very_array():
    tree = {"a": jnp.ones(2), "b": {"c": jnp.ones(3)}}
    moved = _tree.add(tree, {"a": jnp.ones(2), "b": {"c": None}}, 2.0)
    assert moved["b"]["c"] is tree["b"]["c"]
    np.testing.assert_array_equal(moved["a"], 3.0)


def test_masks_may_be_prefixes():
    tree = {"a": jnp.ones(2), "b": {"c": jnp.ones(3), "d": jnp.ones(1)}}
    kept = _tree.select(tree, {"a": False, "b": True})
    assert kept["a"] is None
    assert kept["b"]["c"] is tree["b"]["c"]
    assert _tree.size(kept) == 4
    assert _tree.size(_tree.select(tree, lambda p: False)) == 0
    assert _tree.select(tree, None) is tree


def test_empty_trees():
    assert _tree.norm({"a": None}) == 0
    assert _tree.all_finite(())
    assert _tree.accumulator_dtype(()) == jnp.float32


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64])
def test_finite_are_all_entries_or_none(dtype, x64):
    largest = jnp.full(10_000, jnp.finfo(dtype).max, dtype)
    tree = {"a": largest, "b": jnp.ones(2, jnp.float16), "c": jnp.arange(3), "d": None}
    assert _tree.all_finite(tree)
    assert _tree.unit_and_finite({"a": largest})[1]
    for bad in ([jnp.inf], [-jnp.inf], [jnp.nan], [jnp.inf, -jnp.inf]):
        broken = largest.at[jnp.arange(len(bad))].set(jnp.array(bad, dtype))
        assert not _tree.all_finite({**tree, "a": broken})
        unit, finite = _tree.unit_and_finite({"a": broken})
        assert not finite
        assert jnp.all(jnp.isnan(unit["a"]))
    assert _tree.all_finite(jnp.array([3e38 + 3e38j], jnp.complex64))
    assert not _tree.all_finite(jnp.array([complex(0, jnp.inf)], jnp.complex64))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_inner_products_are_summed_in_float32(dtype):
    a = {"a": jnp.full(1000, 301.0, dtype), "b": jnp.full((2, 3), -1.1, dtype)}
    b = {"a": jnp.full(1000, 299.0, dtype), "b": jnp.full((2, 3), 1.1, dtype)}
    inner = _tree.inner(a, b)
    assert inner.dtype == jnp.float32
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    desired = sum(np.vdot(np.asarray(x, np.float64), np.asarray(y, np.float64)) for x, y in pairs)
    np.testing.assert_allclose(inner, desired, rtol=1e-6)
    z = jnp.array([1 + 2j, 3j])
    assert _tree.inner(z, 1j * z) == 0
    assert _tree.inner(z, z) == 14


def test_rejection_is_orthogonal():
    a = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([[3.0]])}
    b = {"a": jnp.array([0.0, 4.0]), "b": jnp.array([[1.0]])}
    rest = _tree.reject(a, b)
    np.testing.assert_allclose(_tree.inner(rest, b), 0, atol=1e-6)
    np.testing.assert_allclose(rest["a"], [1.0, 2 - 4 * 11 / 17], rtol=1e-6)
    np.testing.assert_array_equal(_tree.reject(a, jax.tree.map(jnp.zeros_like, a))["a"], a["a"])


def test_mixtures_may_extrapolate_and_are_rounded_once():
    a, b = jnp.asarray(1.0, jnp.bfloat16), jnp.asarray(1.5, jnp.bfloat16)
    for weight in 0.0, 1 / 3, 1.0, 2.5, -1.0:
        mixed = _tree.lerp(a, b, weight)
        assert mixed.dtype == jnp.bfloat16
        assert mixed == jnp.asarray(1 + weight / 2, jnp.bfloat16)


def test_products_leave_out_what_is_masked():
    product = _tree.multiply({"a": jnp.ones(2), "b": None}, {"a": 3.0, "b": jnp.ones(5)})
    np.testing.assert_array_equal(product["a"], 3.0)
    assert product["b"] is None


@pytest.mark.parametrize("size", [1e-25, 1.0, 1e25])
def test_cosines_are_those_of_angles_whatever_the_sizes(size):
    a = {"a": jnp.array([3.0, 0.0]) * size, "b": jnp.array([[4.0]]) * size}
    b = {"a": jnp.array([0.0, 0.0]), "b": jnp.array([[-2.0]]) / size}
    zero = jax.tree.map(jnp.zeros_like, a)
    for other, desired in (b, -0.8), (a, 1.0), (zero, 0.0):
        rest, cosine = _tree.reject_and_cosine(a, other)
        np.testing.assert_allclose(cosine, desired, rtol=1e-6)
        jax.tree.map(np.testing.assert_array_equal, rest, _tree.reject(a, other))
    assert _tree.reject_and_cosine(zero, a)[1] == 0
    assert _tree.reject_and_cosine(*2 * [jnp.ones(3, jnp.bfloat16)])[1].dtype == jnp.float32


def test_replaced_are_the_leaves_that_are_given_in_the_dtypes_that_were():
    tree = {"a": jnp.ones(2, jnp.bfloat16), "b": {"c": jnp.ones(3)}}
    replaced = _tree.replace(tree, {"a": jnp.full(2, 1 / 3), "b": {"c": None}})
    assert replaced["b"]["c"] is tree["b"]["c"]
    np.testing.assert_array_equal(replaced["a"], jnp.full(2, 1 / 3, jnp.bfloat16))
