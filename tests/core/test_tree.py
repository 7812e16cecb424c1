"""Norms and steps in float32 at least, whatever the leaves are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tsam_jax import _tree


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_norms_are_summed_in_float32(dtype):
    # In float16 the squares overflow, in bfloat16 the sum has three digits.
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
