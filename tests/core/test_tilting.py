"""The tilted loss, its weights, and the mergeable mean, against float64 NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tsam_jax.tilting import (
    effective_sample_size,
    merge,
    tilt_weights,
    tilted_loss,
    tilted_mean,
    weighted_mean,
)

LOSSES = np.array([0.3, 2.1, 1.7, 2.05, -0.4], np.float32)
TILTS = (0.0, 1e-30, 1e-12, 1e-4, 0.3, 5.0, 100.0, 1e12, np.inf)


def exact_loss(losses, t):
    """In float64; mean plus t/2 times variance where the plain formula loses digits."""
    losses = np.asarray(losses, np.float64)
    if t < 1e-9:
        return losses.mean() + t / 2 * losses.var()
    if np.isinf(t):
        return losses.max()
    peak = losses.max()
    return peak + np.log(np.mean(np.exp(t * (losses - peak)))) / t


def exact_weights(losses, t):
    losses = np.asarray(losses, np.float64)
    if np.isinf(t):
        worst = losses == losses.max()
        return worst / worst.sum()
    unnormalised = np.exp(t * (losses - losses.max()))
    return unnormalised / unnormalised.sum()


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("t", TILTS)
def test_any_tilt(t, traced):
    wrap = jax.jit if traced else (lambda f: f)
    np.testing.assert_allclose(wrap(tilted_loss)(LOSSES, t), exact_loss(LOSSES, t), rtol=3e-7)
    weights = wrap(tilt_weights)(LOSSES, t)
    np.testing.assert_allclose(weights, exact_weights(LOSSES, t), rtol=2e-5, atol=1e-12)
    np.testing.assert_allclose(weights.sum(), 1, rtol=3e-7)


@pytest.mark.parametrize("t", [1e-6, 1e-4, 1e-2])
def test_small_tilts_keep_the_digits_in_float32(t):
    losses = np.float32(1000.0) + LOSSES  # the plain formula is wrong by 2e-3 here
    np.testing.assert_allclose(tilted_loss(losses, t), exact_loss(losses, t), rtol=2e-7)


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("t", TILTS)
def test_the_gradient_of_the_tilted_loss_is_the_weights(t, traced):
    gradient = jax.jit(jax.grad(tilted_loss)) if traced else jax.grad(tilted_loss)
    np.testing.assert_allclose(gradient(LOSSES, t), exact_weights(LOSSES, t), rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("t", TILTS)
def test_ties_share_the_weight(t):
    ties = jnp.array([2.0, 2.0, 1.0, 2.0])
    desired = exact_weights(ties, t)
    np.testing.assert_allclose(tilt_weights(ties, t), desired, rtol=1e-6, atol=1e-30)
    np.testing.assert_allclose(jax.grad(tilted_loss)(ties, t), desired, rtol=1e-6, atol=1e-30)


def test_second_derivatives_are_the_tilted_covariance():
    # d w_i / d L_j = t (w_i 1[i = j] - w_i w_j): Eq. 4 without the Hessian of the loss
    t, w = 1.7, exact_weights(LOSSES, 1.7)
    desired = t * (np.diag(w) - np.outer(w, w))
    np.testing.assert_allclose(jax.hessian(tilted_loss)(LOSSES, t), desired, atol=1e-6)
    for extreme in (0.0, 1e-12, 1e12, jnp.inf):
        assert jnp.all(jnp.isfinite(jax.hessian(tilted_loss)(LOSSES, extreme)))


def test_the_derivative_in_the_tilt_is_finite_and_not_negative():
    for t in (0.0, 1e-4, 1.0, 100.0):
        slope = jax.grad(tilted_loss, argnums=1)(jnp.asarray(LOSSES), jnp.float32(t))
        assert jnp.isfinite(slope)
        assert slope >= -1e-3


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("t", [0.0, 0.3, 100.0, np.inf])
def test_losses_that_are_not_finite_are_absent(t, bad):
    losses = np.insert(LOSSES, 2, np.float32(bad))
    present = np.isfinite(losses)
    np.testing.assert_array_equal(tilted_loss(losses, t), tilted_loss(LOSSES, t))
    np.testing.assert_array_equal(tilt_weights(losses, t)[present], tilt_weights(LOSSES, t))
    assert tilt_weights(losses, t)[2] == 0
    gradient = jax.grad(tilted_loss)(losses, t)
    np.testing.assert_allclose(gradient, tilt_weights(losses, t), atol=1e-6)
    nothing = jnp.full(3, bad)
    assert jnp.isnan(tilted_loss(nothing, t))
    assert jnp.all(jnp.isnan(tilt_weights(nothing, t)))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_float32_at_least(dtype):
    losses = jnp.asarray(LOSSES, dtype)
    assert tilted_loss(losses, 1.0).dtype == jnp.float32
    assert tilt_weights(losses, 1.0).dtype == jnp.float32
    np.testing.assert_allclose(tilted_loss(losses, 1.0), exact_loss(losses, 1.0), rtol=1e-6)


def test_float64(x64):
    losses = jnp.asarray(LOSSES, jnp.float64)
    assert tilt_weights(losses, 3.0).dtype == jnp.float64
    np.testing.assert_allclose(tilted_loss(losses, 3.0), exact_loss(losses, 3.0), rtol=1e-15)
    np.testing.assert_allclose(tilt_weights(losses, 3.0), exact_weights(losses, 3.0), rtol=1e-14)


def test_effective_sample_size():
    assert effective_sample_size(jnp.full(4, 0.25)) == 4
    assert effective_sample_size(jnp.array([0.0, 1.0])) == 1
    np.testing.assert_allclose(effective_sample_size(jnp.array([0.75, 0.25])), 1.6)


def test_weighted_mean():
    trees = {"a": jnp.arange(6.0).reshape(3, 2), "b": jnp.array([1.0, 10.0, jnp.nan], jnp.bfloat16)}
    mean = weighted_mean(trees, jnp.array([0.25, 0.75, 0.0]))
    np.testing.assert_allclose(mean["a"], [1.5, 2.5])
    assert mean["b"].dtype == jnp.bfloat16
    assert mean["b"] == 7.75


def test_weighted_mean_of_equal_samples_is_that_sample(key):
    weights = jax.nn.softmax(jax.random.normal(key, (7,)))
    sample = jax.random.normal(key, (100,))
    np.testing.assert_array_equal(weighted_mean(jnp.tile(sample, (7, 1)), weights), sample)


def parts(key, s=5):
    trees = jax.random.normal(key, (s, 3))
    return [tilted_mean(loss, x) for loss, x in zip(LOSSES, trees, strict=True)], trees


def fields(part):
    return [np.asarray(x) for x in jax.tree.leaves(part)]


def assert_same(a, b):
    for x, y in zip(fields(a), fields(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("t", [0.0, 1.3, 100.0, np.inf])
def test_merging_one_by_one_is_the_weighted_mean(t, key):
    partial, trees = parts(key)
    folded = functools.reduce(lambda a, b: merge(a, b, t), partial)
    desired = exact_weights(LOSSES, t) @ np.asarray(trees, np.float64)
    np.testing.assert_allclose(folded.mean, desired, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(folded.weight * exact_weights(LOSSES, t).max(), 1, rtol=1e-5)
    assert folded.peak == LOSSES.max()


@pytest.mark.parametrize("t", [0.0, 1.3, 100.0, np.inf])
def test_merge_is_associative_and_commutative_with_a_neutral_element(t, key):
    (a, b, c, *_), trees = parts(key)
    assert_same(merge(merge(a, b, t), c, t), merge(a, merge(b, c, t), t))
    assert_same(merge(a, b, t), merge(b, a, t))
    empty = tilted_mean(jnp.float32(jnp.nan), trees[0])
    for joined in (merge(a, empty, t), merge(empty, a, t)):
        jax.tree.map(np.testing.assert_array_equal, joined, a)
    both_empty = merge(empty, empty, t)
    assert both_empty.weight == 0
    assert both_empty.peak == -jnp.inf
    np.testing.assert_array_equal(both_empty.mean, 0)


def test_a_sample_with_a_bad_entry_anywhere_is_empty():
    for loss, entry in (jnp.nan, 1.0), (jnp.inf, 1.0), (1.0, jnp.nan), (1.0, -jnp.inf):
        part = tilted_mean(jnp.float32(loss), {"a": jnp.array([0.0, entry]), "b": jnp.ones(2)})
        assert part.weight == 0
        assert jnp.all(part.mean["a"] == 0)
        assert jnp.all(part.mean["b"] == 0)
