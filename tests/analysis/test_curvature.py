"""Hessian-vector products and eigenvalues, against the dense Hessian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from tsam_jax.analysis import hvp, top_eigenvalues


def network():
    """A small tanh network with a softmax loss: 63 parameters, indefinite Hessian."""
    keys = jax.random.split(jax.random.key(3), 4)
    inputs = jax.random.normal(keys[0], (30, 4))
    labels = jax.random.randint(keys[1], (30,), 0, 3)
    params = {
        "w": jax.random.normal(keys[2], (4, 8)),
        "b": jnp.zeros((1, 8)),
        "v": jax.random.normal(keys[3], (8, 3)),
    }

    def loss(p):
        logits = jnp.tanh(inputs @ p["w"] + p["b"]) @ p["v"]
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1))

    return loss, params


def dense_hessian(loss, params):
    flat, unravel = ravel_pytree(params)
    return np.asarray(jax.jit(jax.hessian(lambda x: loss(unravel(x))))(flat), np.float64)


def diagonal_loss(scales):
    return lambda x: 0.5 * jnp.sum(jnp.asarray(scales, x.dtype) * x**2)


def test_hvp_is_the_dense_product():
    loss, params = network()
    vector = jax.tree.map(
        lambda p: jnp.cos(jnp.arange(p.size, dtype=p.dtype)).reshape(p.shape), params
    )
    product = ravel_pytree(hvp(loss, params, vector))[0]
    np.testing.assert_allclose(
        product, dense_hessian(loss, params) @ ravel_pytree(vector)[0], atol=1e-5
    )


def test_hvp_goes_through_a_custom_vjp():
    # Forward mode over such an operation is an error in jax.
    @jax.custom_vjp
    def square(x):
        return x**2

    square.defvjp(lambda x: (x**2, x), lambda x, g: (2 * x * g,))
    product = hvp(lambda x: jnp.sum(square(x)), jnp.ones(3), jnp.arange(3.0))
    np.testing.assert_allclose(product, [0.0, 2.0, 4.0])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_top_eigenvalues_match_the_dense_hessian(seed):
    loss, params = network()
    exact = np.linalg.eigvalsh(dense_hessian(loss, params))[::-1][:5]
    result = top_eigenvalues(loss, params, jax.random.key(seed), k=5, num_matvecs=40)
    np.testing.assert_allclose(result.values, exact, rtol=1e-4)
    assert np.all(np.asarray(result.residuals) < 1e-3)


def test_largest_means_algebraically_largest():
    result = top_eigenvalues(diagonal_loss([-9.0, 1.0, 3.0]), jnp.ones(3), jax.random.key(0), k=2)
    np.testing.assert_allclose(result.values, [3.0, 1.0], rtol=1e-5)


def test_an_unconverged_value_lies_within_its_residual_of_an_eigenvalue():
    loss, params = network()
    exact = np.linalg.eigvalsh(dense_hessian(loss, params))
    result = top_eigenvalues(loss, params, jax.random.key(0), k=4, num_matvecs=8)
    distances = np.min(np.abs(exact[:, None] - np.asarray(result.values)), axis=0)
    assert np.all(distances <= np.asarray(result.residuals) + 1e-5)
    assert np.max(result.residuals) > 1e-2  # four of eight steps have not converged


def test_vmap_over_seeds_equals_the_loop():
    loss, params = network()
    stacked = jax.tree.map(lambda p: jnp.stack([p, 0.5 * p]), params)
    keys = jax.random.split(jax.random.key(0), 2)
    measure = jax.jit(lambda p, key: top_eigenvalues(loss, p, key, k=2, num_matvecs=20))
    together = jax.vmap(measure)(stacked, keys)
    alone = measure(jax.tree.map(lambda p: p[1], stacked), keys[1])
    np.testing.assert_allclose(together.values[1], alone.values, rtol=1e-4)
    assert together.residuals.shape == (2, 2)


@pytest.mark.parametrize(
    ("scales", "distinct"),
    [([0.0] * 4, [0.0]), ([2.0] * 4, [2.0]), ([0.0, 0.0, 0.0, -3.0], [0.0, -3.0]), ([5.0], [5.0])],
)
def test_equal_eigenvalues_are_found_once_and_missing_ones_are_nan(scales, distinct):
    dimension = len(scales)
    result = top_eigenvalues(
        diagonal_loss(scales), jnp.ones(dimension), jax.random.key(0), k=dimension
    )
    expected = distinct + [np.nan] * (dimension - len(distinct))
    np.testing.assert_allclose(result.values, expected, atol=1e-5)
    np.testing.assert_allclose(np.isnan(result.residuals), np.isnan(expected))


def test_a_non_finite_hessian_gives_nan():
    result = top_eigenvalues(diagonal_loss([jnp.nan, 1.0]), jnp.ones(2), jax.random.key(0))
    assert np.isnan(result.values[0])


def test_bfloat16_parameters_give_float32_eigenvalues():
    result = top_eigenvalues(
        diagonal_loss([1.0, 2.0, 8.0]), jnp.ones(3, jnp.bfloat16), jax.random.key(0)
    )
    assert result.values.dtype == jnp.float32
    np.testing.assert_allclose(result.values, [8.0], rtol=2e-2)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_matvecs": 5}, r"num_matvecs=...\)` must lie between 1 and .*, 4, got 5"),
        ({"num_matvecs": 0}, r"num_matvecs=...\)`.*got 0"),
        ({"num_matvecs": 2, "k": 3}, r"k=...\)`.*num_matvecs=2, got 3"),
        ({"k": 0}, r"k=...\)`.*got 0"),
    ],
)
def test_impossible_counts_are_errors(kwargs, message):
    with pytest.raises(ValueError, match=message):
        top_eigenvalues(diagonal_loss([1.0] * 4), jnp.ones(4), jax.random.key(0), **kwargs)
