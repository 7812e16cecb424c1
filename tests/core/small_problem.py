"""A small loss of two leaves, and how the tests of single methods run and compare them on it."""

import jax
import jax.numpy as jnp
import numpy as np

from tsam_jax import Oracle, make_oracle, value_and_grad

X = np.array([[0.3, -1.1], [0.7, 0.2]])  # NumPy, so that it is float64 where JAX is
PARAMS = {"w": X, "b": np.array([0.1, -0.2])}


def loss(p, x=X):
    return jnp.sum(jnp.tanh(x @ p["w"] + p["b"]) ** 2) + 0.1 * jnp.sum(p["w"] ** 4)


def parameters():
    return jax.tree.map(jnp.asarray, PARAMS)


def evaluate(estimator, params=PARAMS, fun=loss, state=None):
    """One step: value, gradient, and the state after it."""
    params = jax.tree.map(jnp.asarray, params)
    state = estimator.init(params) if state is None else state
    (value, grad), state = jax.jit(value_and_grad(fun, estimator))(params, state)
    return value, grad, state


def run(estimator, steps=3, fun=loss, params=PARAMS, xs=None):
    """Some steps of gradient descent: losses, gradients, parameters, and the last state."""
    params = jax.tree.map(jnp.asarray, params)
    step, state, outputs = jax.jit(value_and_grad(fun, estimator)), estimator.init(params), []
    for k in range(steps):
        (value, grad), state = step(params, state, *([] if xs is None else [xs[k]]))
        outputs.append((value, grad, params))
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grad)
    return outputs, state


def points_of(estimator, params=PARAMS, fun=loss, steps=1):
    """The points where gradients are taken, eagerly."""
    params = jax.tree.map(jnp.asarray, params)
    points, oracle, state = [], make_oracle(fun), estimator.init(params)

    def evaluate_and_note(point):
        points.append(point)
        return oracle.evaluate(point)

    with jax.disable_jit():
        for _ in range(steps):
            _, state = estimator.estimate(Oracle(evaluate_and_note, oracle.value), params, state)
    return points


def one_perturbation(estimator, law, params, step=0):
    """The perturbation of the one sample of a step."""
    key = jax.random.fold_in(estimator.init(params).key, step)
    return law(jax.random.split(key, 1)[0], params)


def assert_close(a, b, rtol=1e-5, atol=1e-6):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


def key_data(x):
    """The bits of a key; other arrays as they are."""
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x


def assert_bitwise(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(key_data(x), key_data(y))


def assert_differ(a, b):
    gaps = jax.tree.map(lambda x, y: float(jnp.abs(x - y).max()), a, b)
    assert max(jax.tree.leaves(gaps)) > 1e-3


def flat(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])
