"""Properties over shapes, dtypes, numbers of samples and tilts, by hypothesis.

There are few shapes, as each is compiled, and many numbers.
"""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tsam_jax import _tree, noise, tilting

tilts = st.one_of(
    st.sampled_from([0.0, 1e-30, 1e-12, 1e12, np.inf]), st.floats(2**-20, 2**14, width=32)
)
finite = st.floats(-100, 100, width=32, allow_subnormal=False)
samples = st.sampled_from([1, 2, 5]).flatmap(lambda s: st.lists(finite, min_size=s, max_size=s))
dtypes = st.sampled_from([jnp.float32, jnp.bfloat16])

tilted_loss = jax.jit(tilting.tilted_loss)
tilt_weights = jax.jit(tilting.tilt_weights)


@given(samples, tilts, dtypes)
def test_the_tilted_loss_lies_between_mean_and_maximum(losses, t, dtype):
    losses = jnp.asarray(losses, dtype)
    exact = np.asarray(losses, np.float64)
    rounding = 1e-6 * max(1.0, np.abs(exact).max())
    assert exact.mean() - rounding <= tilted_loss(losses, t) <= exact.max() + rounding


@given(samples, tilts, tilts)
def test_the_tilted_loss_does_not_decrease_in_the_tilt(losses, t, u):
    losses = jnp.asarray(losses, jnp.float32)
    low, high = (float(tilted_loss(losses, x)) for x in sorted((t, u)))
    assert low <= high + 2e-6 * max(1.0, float(jnp.abs(losses).max()))


@given(samples, tilts, dtypes)
def test_weights_are_a_distribution_that_prefers_larger_losses(losses, t, dtype):
    losses = jnp.asarray(losses, dtype)
    weights = np.asarray(tilt_weights(losses, t))
    assert weights.dtype == np.float32
    assert np.all(weights >= 0)
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-6)
    assert np.all(np.diff(weights[np.argsort(np.asarray(losses, np.float32))]) >= 0)
    assert 1 - 1e-5 <= tilting.effective_sample_size(weights) <= len(weights) * (1 + 1e-5)


@given(samples, tilts, st.integers(-64, 64))
def test_shift_invariance(losses, t, shift):
    losses = np.round(np.asarray(losses, np.float32) * 64) / 64  # so that shifts are exact
    shifted = losses + np.float32(shift)
    np.testing.assert_array_equal(tilt_weights(shifted, t), tilt_weights(losses, t))
    desired = tilted_loss(losses, t) + shift
    np.testing.assert_allclose(tilted_loss(shifted, t), desired, atol=2e-5)


@given(st.permutations(range(5)), st.lists(finite, min_size=5, max_size=5), tilts)
def test_permutation(order, losses, t):
    losses, order = np.asarray(losses, np.float32), np.asarray(order)
    permuted = tilt_weights(losses[order], t)
    np.testing.assert_allclose(permuted, tilt_weights(losses, t)[order], rtol=1e-6)
    np.testing.assert_allclose(
        tilted_loss(losses[order], t), tilted_loss(losses, t), rtol=1e-5, atol=1e-5
    )


@jax.jit
def merged_in_a_tree_or_a_chain(losses, t):
    parts = [tilting.tilted_mean(l, jnp.stack([l, l**2])) for l in losses]
    a, b, c, d, e = parts

    def join(x, y):
        return tilting.merge(x, y, t)

    chain = join(join(join(join(a, b), c), d), e)
    tree = join(join(e, d), join(c, join(a, b)))
    return chain.mean, tree.mean


@given(st.lists(finite, min_size=5, max_size=5), tilts, st.sampled_from([0.0, np.nan, np.inf]))
def test_any_order_of_merging_is_the_weighted_mean(losses, t, bad):
    losses = np.asarray(losses, np.float32) + np.array([0, bad, 0, 0, 0], np.float32)
    assume(np.isfinite(losses).any())
    chain, tree = merged_in_a_tree_or_a_chain(losses, t)
    weights = np.asarray(tilt_weights(losses, t), np.float64)
    kept = np.where(weights > 0, losses, 0.0)
    for power, x, y in zip((1, 2), chain, tree, strict=True):
        scale = max(1.0, np.abs(kept).max() ** power)
        np.testing.assert_allclose(x, weights @ kept**power, atol=2e-4 * scale)
        np.testing.assert_allclose(x, y, atol=2e-4 * scale)


trees = st.sampled_from([
    {"a": (3,)},
    {"a": (2, 3), "b": ()},
    {"a": (1,), "b": (0, 4), "c": (2, 1, 2)},
])


@settings(max_examples=8)
@given(trees, dtypes, st.integers(0, 2**31 - 1), st.floats(2**-10, 2**10, width=32))
def test_sphere_and_ball_keep_to_their_radius(shapes, dtype, seed, radius):
    params = {name: jnp.zeros(shape, dtype) for name, shape in shapes.items()}
    key = jax.random.key(seed)
    rounding = 1e-5 if dtype == jnp.float32 else 1e-2
    length = float(_tree.norm(noise.sphere(radius=radius)(key, params)))
    np.testing.assert_allclose(length, radius, rtol=rounding)
    assert _tree.norm(noise.ball(radius=radius)(key, params)) <= radius * (1 + rounding)


@settings(max_examples=30)
@given(trees, dtypes, st.integers(0, 1000), st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 1e15]))
def test_unit_has_norm_one_or_zero(shapes, dtype, seed, size):
    rng = np.random.default_rng(seed)
    tree = {k: jnp.asarray(size * rng.normal(size=s), dtype) for k, s in shapes.items()}
    unit = _tree.unit(tree)
    length = float(_tree.norm(unit))
    assert np.isfinite(length)
    if size >= 1e-3:
        np.testing.assert_allclose(length, 1, rtol=1e-5 if dtype == jnp.float32 else 1e-2)
    assert length <= 1.01
    assert all(x.dtype == dtype for x in jax.tree.leaves(unit))
